/* The causal mask: row i sees tokens 0..i. The oracle is asked about that many tokens. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"

enum { CAPACITY = 300, D = 24, D_V = 9 };

static void check_row(const struct model *model, uint32_t row, const double *values, double bound, bool empty)
{
    struct oracle_input seen = model_view(model);
    long double expected[D_V];

    seen.n_k = row + 1 < model->capacity ? row + 1 : model->capacity;
    assert_true(oracle_row(&seen, row, expected) == !empty);
    for (uint32_t j = 0; !empty && j < D_V; j++)
        assert_true(fabsl(values[j] - expected[j]) <= bound);
    if (!empty)
        assert_true(bound <= 2e-6 * model->max_value);
}

static void check_everything(struct att_engine *engine, const struct model *model)
{
    double *values = malloc(sizeof *values * model->n_q * D_V), *bounds = malloc(sizeof *bounds * model->n_q);
    struct att_job job = {.kind = ATT_JOB_ALL, .values = values, .bounds = bounds};

    assert_int_equal(harness_job(engine, &job), ATT_OK);
    for (uint32_t row = 0; row < model->n_q; row++)
        check_row(model, row, values + (size_t)row * D_V, bounds[row], isnan(bounds[row]));
    free(values);
    free(bounds);
}

static struct att_op random_op(struct test_random *random, const struct model *model, float *key, float *value,
                               float *bias)
{
    struct att_op op = {
        .kind = ATT_OP_SET_TOKEN, .index = random_below(random, CAPACITY), .key = key, .value = value, .bias = bias};

    random_normals(random, key, D, 1.0);
    random_normals(random, value, D_V, 1.0);
    *bias = random_one_in(random, 8) ? -INFINITY : (float)random_normal(random);
    if (!model->live[op.index])
        op.kind = ATT_OP_APPEND;
    else if (random_one_in(random, 6))
        op = (struct att_op){.kind = ATT_OP_DELETE, .index = op.index};
    else if (random_one_in(random, 10))
        op = (struct att_op){.kind = ATT_OP_SET_Q, .index = random_below(random, model->n_q), .key = key};
    return op;
}

static void race_with_the_model(enum att_precision precision, uint32_t log_capacity, bool eager)
{
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;

    random_seed(&random, 71 + (uint64_t)precision, "causal");
    model_init(&model, CAPACITY, D, D_V, CAPACITY, 0.4);
    model_fill(&model, &random, CAPACITY - 20, 1.0);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    options.causal = true;
    options.log_capacity = log_capacity;
    options.eager = eager;
    struct att_engine *engine = harness_start(&model, &options);
    for (uint32_t round = test_times(6000); round > 0; round--) {
        float key[D], value[D_V], bias;
        double values[D_V], bound = 0.0;
        struct att_op op = random_op(&random, &model, key, value, &bias);
        uint32_t row = random_below(&random, CAPACITY);
        harness_update(engine, &model, &op, &lsn);
        if (random_one_in(&random, 3))
            continue;
        enum att_status status = harness_row(engine, row, values, &bound);
        check_row(&model, row, values, bound, status == ATT_EMPTY);
    }
    check_everything(engine, &model);
    printf("%llu answers from bases, %llu by jobs\n", (unsigned long long)harness_counts().direct,
           (unsigned long long)harness_counts().jobs);
    att_engine_free(engine);
    model_release(&model);
}

static void a_row_sees_tokens_up_to_its_own(void **state)
{
    (void)state;
    race_with_the_model(ATT_MIXED, 64, false);
    race_with_the_model(ATT_DOUBLE, 1024, false);
}

static void the_same_when_merging_all_the_time(void **state)
{
    (void)state;
    race_with_the_model(ATT_MIXED, 256, true);
}

/* From its base, before and after a merge: what a row has seen is counted for each row of its own. */
static void a_row_whose_tokens_have_all_gone_is_empty_at_once(void **state)
{
    (void)state;
    struct model model;
    struct test_random random;
    struct att_engine_stats before, after;
    uint64_t lsn = 0;

    random_init(&random, 73);
    model_init(&model, 4, D, D_V, 4, 0.4);
    model_fill(&model, &random, 4, 1.0);
    struct att_engine_options options = harness_options(&model);
    options.causal = options.eager = true;
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    att_engine_hold(engine, true);
    att_engine_stats(engine, &before);
    for (uint32_t token = 0; token < 2; token++) {
        struct att_op op = {.kind = ATT_OP_DELETE, .index = token};
        harness_update(engine, &model, &op, &lsn);
    }
    for (int merged = 0; merged < 2; merged++) {
        struct att_job merge = {.kind = ATT_JOB_MERGE};
        double values[D_V], bound;
        for (uint32_t row = 0; row < 4; row++)
            assert_int_equal(att_engine_row(engine, row, values, &bound, NULL), row < 2 ? ATT_EMPTY : ATT_OK);
        assert_int_equal(harness_job(engine, &merge), ATT_OK);
    }
    harness_settle(engine);
    att_engine_stats(engine, &after);
    assert_int_equal(after.refreshes, before.refreshes); /* nothing had to be mended */
    att_engine_free(engine);
    model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_sees_tokens_up_to_its_own),
        cmocka_unit_test(the_same_when_merging_all_the_time),
        cmocka_unit_test(a_row_whose_tokens_have_all_gone_is_empty_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
