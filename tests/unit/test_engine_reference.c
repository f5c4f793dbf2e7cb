/* The paper's four operations, Init, UpdateK, UpdateV and Query, at random: the engine against the paper's own data
 * structure (support/reference.h). n_q = n_k = n, d_v = d, s = 1, no bias, as in the paper. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "random.h"
#include "reference.h"

struct shape {
    const char *name;
    uint32_t n, d;
    double tau;
    enum att_precision precision;
    bool eager;
    double allowed; /* difference, relative to the largest |V| */
    uint32_t operations;
};

static const struct shape shapes[] = {
    {"d = n, tau 0.5", 64, 64, 0.5, ATT_MIXED, false, 2e-6, 12000},
    {"d = n, tau 1", 48, 48, 1.0, ATT_MIXED, false, 2e-6, 12000},
    {"fixed d, tau 0.25", 200, 8, 0.25, ATT_MIXED, false, 2e-6, 12000},
    {"fixed d, tau 0.75, double", 150, 8, 0.75, ATT_DOUBLE, false, 1e-10, 12000},
    {"eager", 97, 5, 0.5, ATT_MIXED, true, 2e-6, 12000},
    {"single", 65, 9, 0.5, ATT_SINGLE, false, 1e-5, 12000},
    {"the widest rows", 2, ATT_MAX_COLUMNS, 1.0, ATT_MIXED, false, 2e-6, 2000},
    {"one token", 1, 1, 1.0, ATT_MIXED, false, 2e-6, 2000},
};

struct run {
    const struct shape *shape;
    struct test_random random;
    struct att_engine *engine;
    struct reference *reference;
    uint64_t lsn;
    double largest_value, worst;
    uint32_t queries;
};

static void fill(struct att_engine *engine, enum att_array array, const float *from, size_t count)
{
    size_t bytes;
    void *to = att_engine_array(engine, array, &bytes);

    assert_int_equal(bytes, sizeof *from * count);
    memcpy(to, from, bytes);
}

/* Init(Q, K, V), both. K and V are multiples of 2^-10, so that adding to them is exact in float32. */
static void start(struct run *run)
{
    const struct shape *shape = run->shape;
    const size_t count = (size_t)shape->n * shape->d;
    const struct att_engine_options options = {.n_q = shape->n,
                                               .d = shape->d,
                                               .d_v = shape->d,
                                               .capacity = shape->n,
                                               .scale = 1.0,
                                               .precision = shape->precision,
                                               .log_capacity = 2 * (uint32_t)ceil(pow(shape->n, shape->tau)),
                                               .threads = test_threads(2),
                                               .eager = shape->eager};
    float *q = malloc(sizeof *q * count), *k = malloc(sizeof *k * count), *v = malloc(sizeof *v * count);
    struct att_error error;
    size_t bytes;
    void *live;

    assert_true(q && k && v);
    random_normals(&run->random, q, count, pow(shape->d, -0.5));
    random_normals(&run->random, k, count, 1.0);
    random_normals(&run->random, v, count, 1.0);
    for (size_t p = 0; p < count; p++) {
        k[p] = rintf(k[p] * 1024.0f) / 1024.0f;
        v[p] = rintf(v[p] * 1024.0f) / 1024.0f;
        run->largest_value = fmax(run->largest_value, fabs(v[p]));
    }
    run->reference = reference_create(shape->n, shape->d, shape->tau, q, k, v);
    assert_non_null(run->reference);
    assert_int_equal(att_engine_create(&options, &run->engine, &error), ATT_OK);
    fill(run->engine, ATT_ARRAY_Q, q, count);
    fill(run->engine, ATT_ARRAY_K, k, count);
    fill(run->engine, ATT_ARRAY_V, v, count);
    live = att_engine_array(run->engine, ATT_ARRAY_LIVE, &bytes);
    memset(live, 1, bytes);
    assert_int_equal(att_engine_start(run->engine, &error), ATT_OK);
    free(q);
    free(k);
    free(v);
}

static void update(struct run *run, enum att_op_kind kind)
{
    const uint32_t i = random_below(&run->random, run->shape->n), j = random_below(&run->random, run->shape->d);
    const double step = ((double)random_below(&run->random, 2049) - 1024.0) / 1024.0;
    const double old = kind == ATT_OP_ADD_K ? reference_k(run->reference, i, j) : reference_v(run->reference, i, j);
    /* Back towards zero from far away: K stays moderate however long this runs. */
    const double delta = fabs(old) > 2.0 ? -copysign(fabs(step), old) : step;
    struct att_op op = {.kind = kind, .index = i, .column = j, .number = delta};
    struct att_error error;

    assert_int_equal(harness_apply(run->engine, &op, ++run->lsn, &error), ATT_OK);
    if (kind == ATT_OP_ADD_K)
        reference_update_k(run->reference, i, j, delta);
    else
        reference_update_v(run->reference, i, j, delta);
    assert_true(op.number == old + delta);
    if (kind == ATT_OP_ADD_V)
        run->largest_value = fmax(run->largest_value, fabs(op.number));
    if (random_one_in(&run->random, 8))
        att_engine_kick(run->engine);
}

static void query(struct run *run, uint32_t i, uint32_t j)
{
    const double expected = reference_query(run->reference, i, j);
    double value, bound, difference;

    assert_int_equal(harness_entry(run->engine, i, j, &value, &bound), ATT_OK);
    difference = fabs(value - expected);
    run->worst = fmax(run->worst, difference / run->largest_value);
    run->queries++;
    if (difference <= run->shape->allowed * run->largest_value)
        return;
    fail_msg("%s: Query(%u, %u) after %llu updates: engine %.17g, paper %.17g", run->shape->name, i, j,
             (unsigned long long)run->lsn, value, expected);
}

static void test_the_four_operations_agree_with_the_paper(void **state)
{
    const struct shape *shape = *state;
    struct run run = {.shape = shape};
    const uint32_t operations = test_times(shape->operations);
    double drift = 0.0;

    random_seed(&run.random, 23040207, shape->name);
    start(&run);
    for (uint32_t o = 0; o < operations; o++) {
        const uint32_t which = random_below(&run.random, 4);
        if (which < 2)
            update(&run, which == 0 ? ATT_OP_ADD_K : ATT_OP_ADD_V);
        else
            query(&run, random_below(&run.random, shape->n), random_below(&run.random, shape->d));
    }
    for (uint32_t i = 0; i < shape->n; i++)
        for (uint32_t j = 0; j < shape->d; j++)
            query(&run, i, j);
    for (uint32_t i = 0; i < shape->n; i++)
        for (uint32_t j = 0; j < shape->d; j++) {
            float key[ATT_MAX_COLUMNS];
            assert_int_equal(att_engine_token(run.engine, i, key, NULL, NULL, NULL), ATT_OK);
            drift = fmax(drift, fabs(key[j] - reference_k(run.reference, i, j)));
        }
    assert_true(drift == 0.0);
    assert_true(operations < 2 * reference_limit(run.reference) || reference_rebuilds(run.reference) > 0);
    printf("# %s: %llu updates, %llu rebuilds, %u queries, worst difference %.2g of max |V|\n", shape->name,
           (unsigned long long)run.lsn, (unsigned long long)reference_rebuilds(run.reference), run.queries, run.worst);
    att_engine_free(run.engine);
    reference_free(run.reference);
}

int main(void)
{
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    struct CMUnitTest tests[SHAPES];

    for (size_t i = 0; i < SHAPES; i++)
        tests[i] = (struct CMUnitTest){.name = shapes[i].name,
                                       .test_func = test_the_four_operations_agree_with_the_paper,
                                       .initial_state = (void *)&shapes[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
