/* Random updates of every kind against the model, random answers against the oracle: many shapes, small logs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"

struct shape {
    const char *name;
    uint32_t n_q, d, d_v, capacity, tokens;
    double scale;
    double deviation; /* of Q and K */
    enum att_precision precision;
    uint32_t log_capacity;
    bool eager;
    bool masks;
    bool drains; /* now and then deletes every token */
    bool loose;  /* scores so large that the precision promises only its bound */
    uint32_t operations;
};

static const struct shape shapes[] = {
    {.name = "square, log of 64",
     .n_q = 16,
     .d = 8,
     .d_v = 8,
     .capacity = 16,
     .tokens = 16,
     .scale = 0.35,
     .deviation = 1,
     .precision = ATT_MIXED,
     .log_capacity = 64,
     .operations = 100000},
    {.name = "eager",
     .n_q = 7,
     .d = 5,
     .d_v = 9,
     .capacity = 21,
     .tokens = 11,
     .scale = 1,
     .deviation = 1,
     .precision = ATT_MIXED,
     .log_capacity = 64,
     .eager = true,
     .masks = true,
     .operations = 100000},
    {.name = "odd",
     .n_q = 33,
     .d = 17,
     .d_v = 3,
     .capacity = 70,
     .tokens = 65,
     .scale = 0.5,
     .deviation = 1,
     .precision = ATT_MIXED,
     .log_capacity = 128,
     .masks = true,
     .operations = 50000},
    {.name = "one column",
     .n_q = 5,
     .d = 1,
     .d_v = 1,
     .capacity = 9,
     .tokens = 4,
     .scale = -2,
     .deviation = 2,
     .precision = ATT_MIXED,
     .log_capacity = 64,
     .masks = true,
     .drains = true,
     .operations = 100000},
    {.name = "three columns",
     .n_q = 3,
     .d = 3,
     .d_v = 31,
     .capacity = 12,
     .tokens = 1,
     .scale = 1,
     .deviation = 1,
     .precision = ATT_DOUBLE,
     .log_capacity = 64,
     .masks = true,
     .drains = true,
     .operations = 50000},
    {.name = "one token",
     .n_q = 4,
     .d = 17,
     .d_v = 2,
     .capacity = 1,
     .tokens = 1,
     .scale = 1,
     .deviation = 1,
     .precision = ATT_MIXED,
     .log_capacity = 64,
     .masks = true,
     .drains = true,
     .operations = 30000},
    {.name = "nothing at first",
     .n_q = 1,
     .d = 2,
     .d_v = 2,
     .capacity = 6,
     .tokens = 0,
     .scale = 1,
     .deviation = 1,
     .precision = ATT_MIXED,
     .log_capacity = 64,
     .drains = true,
     .operations = 30000},
    {.name = "scores of some 500",
     .n_q = 9,
     .d = 6,
     .d_v = 4,
     .capacity = 24,
     .tokens = 24,
     .scale = 20,
     .deviation = 2.2,
     .precision = ATT_MIXED,
     .log_capacity = 64,
     .masks = true,
     .operations = 100000},
    {.name = "scores of some 500, double",
     .n_q = 9,
     .d = 6,
     .d_v = 4,
     .capacity = 24,
     .tokens = 24,
     .scale = 20,
     .deviation = 2.2,
     .precision = ATT_DOUBLE,
     .log_capacity = 64,
     .eager = true,
     .operations = 50000},
    {.name = "scores of some 500, single",
     .n_q = 9,
     .d = 6,
     .d_v = 4,
     .capacity = 24,
     .tokens = 24,
     .scale = 20,
     .deviation = 2.2,
     .precision = ATT_SINGLE,
     .log_capacity = 64,
     .loose = true,
     .operations = 50000},
    {.name = "single",
     .n_q = 20,
     .d = 16,
     .d_v = 16,
     .capacity = 40,
     .tokens = 30,
     .scale = 0.25,
     .deviation = 1,
     .precision = ATT_SINGLE,
     .log_capacity = 64,
     .masks = true,
     .operations = 50000},
    {.name = "chosen log",
     .n_q = 70,
     .d = 12,
     .d_v = 6,
     .capacity = 300,
     .tokens = 257,
     .scale = 0.3,
     .deviation = 1,
     .precision = ATT_MIXED,
     .log_capacity = 0,
     .masks = true,
     .operations = 20000},
    {.name = "values in three pieces", /* a row is read 64 columns at a time */
     .n_q = 9,
     .d = 6,
     .d_v = 150,
     .capacity = 40,
     .tokens = 30,
     .scale = 0.4,
     .deviation = 1,
     .precision = ATT_MIXED,
     .log_capacity = 0,
     .operations = 5000},
    {.name = "values in three pieces, single",
     .n_q = 9,
     .d = 6,
     .d_v = 141,
     .capacity = 40,
     .tokens = 30,
     .scale = 0.4,
     .deviation = 1,
     .precision = ATT_SINGLE,
     .log_capacity = 0,
     .operations = 5000},
};

/* Room for what a random update points at. */
struct draft {
    float key[32], value[160], bias;
};

static uint32_t random_live(const struct model *model, struct test_random *random)
{
    uint32_t i = random_below(random, model->capacity);
    while (!model->live[i])
        i = (i + 1) % model->capacity;
    return i;
}

static void draw_token(const struct shape *shape, struct test_random *random, struct draft *draft, struct att_op *op)
{
    random_normals(random, draft->key, shape->d, shape->deviation);
    random_normals(random, draft->value, shape->d_v, 1);
    draft->bias = random_one_in(random, 3) ? -INFINITY : (float)random_normal(random);
    op->key = draft->key;
    op->value = draft->value;
    if (shape->masks && random_one_in(random, 4))
        op->bias = &draft->bias;
}

static struct att_op draw_op(const struct shape *shape, const struct model *model, struct test_random *random,
                             struct draft *draft)
{
    uint32_t kind = random_below(random, 16);
    struct att_op op = {.index = ATT_ANY_INDEX};
    if (model->tokens == 0 || (kind == 0 && model->tokens < model->capacity)) {
        op.kind = ATT_OP_APPEND;
        draw_token(shape, random, draft, &op);
        return op;
    }
    op.index = random_live(model, random);
    if (kind == 0 || (kind == 1 && model->tokens > 1)) {
        op.kind = ATT_OP_DELETE;
    } else if (kind < 6) {
        op.kind = kind < 4 ? ATT_OP_ADD_K : ATT_OP_SET_K_ENTRY;
        op.column = random_below(random, shape->d);
        /* keeps entries near where they were: the walk must not leave the scores that the shape is about */
        float old = model->k[(size_t)op.index * shape->d + op.column];
        float new = (float)(shape->deviation * random_normal(random));
        op.number = kind < 4 ? (double)new - old : (double)new;
    } else if (kind < 9) {
        op.kind = kind < 8 ? ATT_OP_ADD_V : ATT_OP_SET_V_ENTRY;
        op.column = random_below(random, shape->d_v);
        float old = model->v[(size_t)op.index * shape->d_v + op.column];
        op.number = random_normal(random) - (kind < 8 ? (double)old : 0);
        if (kind >= 8)
            op.number = (double)(float)op.number;
    } else if (kind < 10) {
        op.kind = ATT_OP_SET_Q;
        op.index = random_below(random, shape->n_q);
        random_normals(random, draft->key, shape->d, shape->deviation);
        op.key = draft->key;
    } else {
        op.kind = ATT_OP_SET_TOKEN;
        draw_token(shape, random, draft, &op);
        if (kind == 10)
            op.key = NULL;
        if (kind == 11)
            op.value = NULL;
    }
    return op;
}

static void drain(struct att_engine *engine, struct model *model, uint64_t *lsn)
{
    for (uint32_t i = 0; i < model->capacity; i++) {
        struct att_op op = {.kind = ATT_OP_DELETE, .index = i};
        if (model->live[i])
            harness_update(engine, model, &op, lsn);
    }
    double value = 1, bound = 1;
    assert_int_equal(model->tokens, 0);
    assert_int_equal(harness_entry(engine, 0, 0, &value, &bound), ATT_EMPTY);
    assert_true(value == 1 && bound == 1); /* untouched */
}

static void check_something(struct att_engine *engine, const struct model *model, struct test_random *random,
                            struct tolerance tolerance)
{
    uint32_t row = random_below(random, model->n_q);
    if (random_one_in(random, 2))
        harness_check_row(engine, model, row, tolerance);
    else
        harness_check_entry(engine, model, row, random_below(random, model->d_v), tolerance);
}

static void check_counters(struct att_engine *engine, const struct model *model, uint64_t lsn)
{
    struct att_engine_stats stats;
    att_engine_stats(engine, &stats);
    assert_int_equal(stats.tokens, model->tokens);
    assert_int_equal(stats.lsn, lsn);
    assert_true(stats.log_pending <= stats.log_capacity);
    assert_true(stats.settled_lsn <= stats.lsn);
    assert_int_equal(stats.rows_hot + stats.rows_cold, model->n_q);
}

static void run_shape(const struct shape *shape, uint64_t seed)
{
    struct model model;
    struct test_random random;
    struct draft draft;
    struct att_engine_stats stats;
    struct harness_counts before = harness_counts();
    uint64_t lsn = 0;
    random_seed(&random, seed, shape->name);
    model_init(&model, shape->n_q, shape->d, shape->d_v, shape->capacity, shape->scale);
    model_fill(&model, &random, shape->tokens, shape->deviation);
    struct att_engine_options options = harness_options(&model);
    options.precision = shape->precision;
    options.log_capacity = shape->log_capacity;
    options.eager = shape->eager;
    struct att_engine *engine = harness_start(&model, &options);
    struct tolerance tolerance = harness_tolerance(shape->precision);
    if (model.max_value < 1)
        model.max_value = 1;
    if (shape->loose)
        tolerance = (struct tolerance){.error = INFINITY, .bound = INFINITY};
    uint32_t operations = test_times(shape->operations);
    for (uint32_t n = 0; n < operations; n++) {
        struct att_op op = draw_op(shape, &model, &random, &draft);
        harness_update(engine, &model, &op, &lsn);
        if (random_one_in(&random, 16))
            att_engine_kick(engine);
        if (random_one_in(&random, 20))
            check_something(engine, &model, &random, tolerance);
        if (shape->drains && random_one_in(&random, 2000))
            drain(engine, &model, &lsn);
        if (random_one_in(&random, 5000)) {
            harness_check_all(engine, &model, tolerance);
            harness_check_state(engine, &model);
            check_counters(engine, &model, lsn);
        }
    }
    struct harness_counts counts = harness_counts();
    att_engine_stats(engine, &stats);
    printf("%lu answers at once, %lu by jobs; %lu merges, %lu refreshes\n",
           (unsigned long)(counts.direct - before.direct), (unsigned long)(counts.jobs - before.jobs),
           (unsigned long)stats.merges, (unsigned long)stats.refreshes);
    harness_check_state(engine, &model);
    harness_check_all(engine, &model, tolerance);
    for (uint32_t i = 0; i < model.n_q; i++)
        harness_check_row(engine, &model, i, tolerance);
    att_engine_free(engine);
    model_release(&model);
}

static void random_operations_match_the_model(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        run_shape(&shapes[i], 1000 + i);
}

static void random_operations_match_the_model_for_other_seeds(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= (test_is_long() ? 10 : 2); seed++)
        run_shape(&shapes[seed % 2], seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_the_model),
        cmocka_unit_test(random_operations_match_the_model_for_other_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
