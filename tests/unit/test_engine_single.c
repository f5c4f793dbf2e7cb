/* What float32 sums in single could lose: values of any size, beside others that are being written, and underflow. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_impl.h"
#include "harness.h"
#include "reader.h"

/* Single sums values in float32. Of any size: they are brought to where it has digits, also beside a much larger one that
 * was there once, and rows go on to be answered from their bases. */
static void values_of(uint32_t d_v, double size, double once)
{
    enum { N_Q = 64, D = 16, MOST = 5, TOKENS = 600, TIMES = 2000 };
    const struct tolerance tolerance = {.error = 1e-5, .bound = 1e-3};
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    random_init(&random, 37);
    model_init(&model, N_Q, D, d_v, TOKENS, 1 / sqrt(D));
    model_fill(&model, &random, TOKENS, 1);
    for (uint32_t i = 0; i < TOKENS * d_v; i++)
        model.v[i] *= (float)size;
    struct att_engine_options options = harness_options(&model);
    options.precision = ATT_SINGLE;
    options.log_capacity = 256;
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    for (uint32_t n = 0; n < TIMES; n++) {
        float key[D], value[MOST];
        random_normals(&random, key, D, n % 100 == 50 ? 20 : 1); /* some raise the shift, and leave */
        random_normals(&random, value, d_v, n == 500 ? once : size);
        struct att_op op = {.kind = ATT_OP_SET_TOKEN,
                            .index = n < 600 ? n / 2 : n % TOKENS,
                            .key = key,
                            .value = value};
        harness_update(engine, &model, &op, &lsn);
        if (n % 10 == 0)
            harness_check_row(engine, &model, n / 10 % N_Q, tolerance);
        if (n % 64 == 0)
            att_engine_kick(engine);
    }
    harness_settle(engine);
    const struct harness_counts before = harness_counts();
    for (uint32_t row = 0; row < N_Q; row++)
        harness_check_row(engine, &model, row, tolerance);
    assert_int_equal(harness_counts().jobs, before.jobs);
    att_engine_free(engine);
    model_release(&model);
}

static void values_of_any_size_are_summed_in_single(void **state)
{
    (void)state;
    for (uint32_t d_v = 1; d_v <= 2; d_v++)
        values_of(d_v, 1, 1e20);
    values_of(5, 1e-35, 1e-15);
    values_of(5, 1e33, 1e34);
}

/* In single a reader scales values by the largest that it knows of. The service may be writing the next entry, not yet
 * counted, into the tile that is read, and its value may be any number of times larger. */
static void an_entry_that_is_being_written_is_no_part_of_an_answer(void **state)
{
    (void)state;
    enum { N_Q = 3, D = 4, D_V = 3, TOKENS = 10 };
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    random_init(&random, 38);
    model_init(&model, N_Q, D, D_V, TOKENS, 1);
    model_fill(&model, &random, TOKENS, 1);
    for (uint32_t i = 0; i < TOKENS * D_V; i++)
        model.v[i] *= 1e-30f;
    struct att_engine_options options = harness_options(&model);
    options.precision = ATT_SINGLE;
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    att_engine_hold(engine, true);
    float key[D], value[D_V];
    random_normals(&random, key, D, 1);
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 3, .key = key};
    harness_update(engine, &model, &op, &lsn);
    struct att_token next = {.key = key, .value = value};
    const float norm_largest[2] = {4, 1e8f};
    random_normals(&random, value, D_V, 1e8);
    att_head(norm_largest, 0, next.head);
    att_entries_put_token(engine, engine->index.count, 4, -1, lsn + 1, &next);
    const struct harness_counts before = harness_counts();
    for (uint32_t row = 0; row < N_Q; row++) {
        harness_check_row(engine, &model, row, (struct tolerance){.error = INFINITY, .bound = INFINITY});
        harness_check_entry(engine, &model, row, 1, (struct tolerance){.error = INFINITY, .bound = INFINITY});
    }
    assert_int_equal(harness_counts().jobs, before.jobs);
    att_engine_free(engine);
    model_release(&model);
}

/* With |q| of 1e37 and |k| of 1e-33, beside a value of 1e27 that was there once, g |v| times a weight is below all floats that
 * a reader in single adds up. But scores have parts in the thousands, of whose rounding g |v| tells the bound; and values add
 * up to nearly 0, so nothing else does. Then the same in a merge, beside such a value of hardly any weight. */
static void what_underflows_in_single_is_in_the_bound(void **state)
{
    (void)state;
    enum { D = 64, TOKENS = 8, TIMES = 20 };
    const struct tolerance tolerance = {.error = INFINITY, .bound = INFINITY};
    struct model model;
    struct test_random random;
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    uint64_t lsn = 0;
    float key[D] = {0}, value = 1e27f;
    double norm = 0;
    random_init(&random, 39);
    model_init(&model, 1, D, 1, TOKENS + 1, 1);
    random_normals(&random, model.q, D, 1e36);
    for (uint32_t p = 0; p < D; p++)
        norm += (double)model.q[p] * (double)model.q[p];
    struct att_engine_options options = harness_options(&model);
    options.precision = ATT_SINGLE;
    struct att_engine *engine = harness_start(&model, &options);
    const struct harness_counts before = harness_counts();
    for (uint32_t n = 0; n < TIMES; n++) {
        struct att_op op = {.kind = n == 0 ? ATT_OP_APPEND : ATT_OP_SET_TOKEN, .key = key, .value = &value};
        memset(key, 0, sizeof key);
        value = 1e27f;
        harness_update(engine, &model, &op, &lsn);
        op.kind = ATT_OP_SET_TOKEN;
        value = 0;
        harness_update(engine, &model, &op, &lsn);
        assert_int_equal(harness_job(engine, &merge), ATT_OK);
        harness_check_row(engine, &model, 0, tolerance);
        harness_settle(engine);
        att_engine_hold(engine, true);
        for (uint32_t token = 1; token < TOKENS; token++) {
            const bool last = token + 1 == TOKENS;
            struct oracle_input view = model_view(&model);
            long double mean = 0;
            double along = 0;
            random_normals(&random, key, D, last ? 0 : 1e-34);
            for (uint32_t p = 0; p < D; p++)
                along += (double)key[p] * (double)model.q[p];
            for (uint32_t p = 0; p < D; p++) /* scores near 0 */
                key[p] -= (float)(along / norm * (double)model.q[p]);
            assert_true(oracle_row(&view, 0, &mean));
            value = last ? (float)(-mean * model.tokens) : (float)random_normal(&random);
            op = (struct att_op){.kind = ATT_OP_APPEND, .index = token, .key = key, .value = &value};
            harness_update(engine, &model, &op, &lsn);
        }
        harness_check_row(engine, &model, 0, tolerance);
        for (uint32_t p = 0; p < D; p++)
            key[p] = (float)(-90 / norm * (double)model.q[p]);
        value = 1e27f;
        op = (struct att_op){.kind = ATT_OP_APPEND, .index = TOKENS, .key = key, .value = &value};
        harness_update(engine, &model, &op, &lsn);
        assert_int_equal(harness_job(engine, &merge), ATT_OK);
        harness_check_row(engine, &model, 0, tolerance);
        att_engine_hold(engine, false);
        for (uint32_t token = 1; token <= TOKENS; token++) {
            op = (struct att_op){.kind = ATT_OP_DELETE, .index = token};
            harness_update(engine, &model, &op, &lsn);
        }
    }
    printf("%lu answers at once\n", (unsigned long)(harness_counts().direct - before.direct));
    att_engine_free(engine);
    model_release(&model);
}

/* Values are scaled by the largest that counts: one that does not may be any number of times larger. Few rows meet tokens
 * where they lie, many meet them packed. */
static void a_masked_token_may_have_any_value(void **state)
{
    (void)state;
    enum { D = 4, D_V = 19, TOKENS = 20 };
    const struct tolerance tolerance = {.error = INFINITY, .bound = INFINITY};
    for (uint32_t n_q = 3; n_q <= 30; n_q *= 10) {
        struct model model;
        struct test_random random;
        struct att_job merge = {.kind = ATT_JOB_MERGE};
        uint64_t lsn = 0;
        float value[D_V], mask = -INFINITY;
        random_init(&random, 40);
        model_init(&model, n_q, D, D_V, TOKENS, 1);
        model_fill(&model, &random, TOKENS, 1);
        for (uint32_t i = 0; i < TOKENS * D_V; i++)
            model.v[i] *= i / D_V == 7 ? 1e30f : 1e-30f;
        model.bias[7] = -INFINITY;
        struct att_engine_options options = harness_options(&model);
        options.precision = ATT_SINGLE;
        struct att_engine *engine = harness_start(&model, &options);
        harness_settle(engine);
        for (uint32_t row = 0; row < n_q; row++) {
            double values[D_V], bound;
            harness_check_row(engine, &model, row, tolerance);
            assert_int_equal(harness_row(engine, row, values, &bound), ATT_OK);
            assert_true(bound < 1e-33);
        }
        random_normals(&random, value, D_V, 1e25);
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 3, .value = value, .bias = &mask};
        harness_update(engine, &model, &op, &lsn);
        for (int merged = 0; merged < 2; merged++) {
            for (uint32_t row = 0; row < n_q; row++)
                harness_check_row(engine, &model, row, tolerance);
            harness_check_all(engine, &model, tolerance);
            assert_int_equal(harness_job(engine, &merge), ATT_OK);
        }
        att_engine_free(engine);
        model_release(&model);
    }
}

/* A query bounds g of what it folds by the largest that ever was; but not by a key that left before the row of Q became so large
 * that they could not have met. */
static void a_key_that_left_before_a_large_row_came_is_in_no_bound(void **state)
{
    (void)state;
    enum { TOKENS = 20 };
    struct model model;
    struct test_random random;
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    uint64_t lsn = 0;
    double values, settled, pending;
    const float keys[2] = {5e4f, 1e-6f}, q = 1e6f, value = 1;
    random_init(&random, 44);
    model_init(&model, 1, 1, 1, TOKENS, 1);
    model_fill(&model, &random, TOKENS, 1);
    for (uint32_t i = 0; i < TOKENS; i++)
        model.k[i] *= keys[1];
    struct att_engine_options options = harness_options(&model);
    options.precision = ATT_SINGLE;
    struct att_engine *engine = harness_start(&model, &options);
    for (int n = 0; n < 2; n++) {
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 3, .key = &keys[n]};
        harness_update(engine, &model, &op, &lsn);
    }
    struct att_op op = {.kind = ATT_OP_SET_Q, .key = &q};
    harness_update(engine, &model, &op, &lsn);
    assert_int_equal(harness_job(engine, &merge), ATT_OK);
    assert_int_equal(harness_entry(engine, 0, 0, &values, &settled), ATT_OK);
    harness_settle(engine);
    att_engine_hold(engine, true);
    op = (struct att_op){.kind = ATT_OP_SET_TOKEN, .index = 4, .value = &value};
    harness_update(engine, &model, &op, &lsn);
    assert_int_equal(att_read_entry(&engine->region, 0, 0, &values, &pending), ATT_OK);
    assert_true(pending < 2 * settled);
    harness_check_row(engine, &model, 0, (struct tolerance){.error = 1e-6, .bound = 1e-5});
    att_engine_free(engine);
    model_release(&model);
}

/* A merge's and a refresh's stretch: |v| scaled in single, zeros for masked lanes and after the last, whatever was there, and the
 * largest of what counts. And the region's, of all that ever came, masked or not. */
static void a_stretch_holds_the_heads_of_what_counts(enum att_precision precision)
{
    enum { D = 2, D_V = 3, TOKENS = 21, MASKED = 5, LANES = 32 };
    static const uint32_t skip[TOKENS];
    struct model model;
    struct test_random random;
    struct att_stretch stretch;
    uint64_t lsn = 0;
    double largest[ATT_HEAD_COLUMNS] = {1}, ever[ATT_HEAD_COLUMNS];
    float key[D] = {3, 4}, value[D_V] = {-7, 0, 0}, bias = -INFINITY;
    random_init(&random, 43);
    model_init(&model, 1, D, D_V, TOKENS, 1);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    struct att_engine *engine = harness_start(&model, &options);
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = MASKED, .key = key, .value = value, .bias = &bias};
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    harness_update(engine, &model, &op, &lsn);
    assert_int_equal(harness_job(engine, &merge), ATT_OK);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        ever[c] = atomic_load(&engine->region.header->largest[c]);
    assert_true(ever[0] == 1 && ever[1] == 7 && ever[2] >= 5 && ever[2] < 5.01);
    assert_true(ever[3] >= 35 && ever[3] < 35.1);
    assert_true(att_stretch_init(&stretch, D, D_V));
    for (int i = 0; i < LANES * ATT_HEAD_KEPT; i++)
        stretch.heads[i] = NAN;
    att_stretch_take_tokens(&stretch, &engine->region, (const float(*)[ATT_HEAD_KEPT])engine->merger.heads, skip, 0,
                            TOKENS, true);
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const float *head = stretch.heads + lane / 16 * 32 + lane % 16;
        const bool counts = lane < TOKENS && lane != MASKED;
        const double v = counts ? engine->merger.heads[lane][0] : 0, g = counts ? engine->merger.heads[lane][1] : 0;
        assert_true(head[0] == (float)v * (precision == ATT_SINGLE ? stretch.value_scale : 1) && head[16] == (float)g);
        largest[1] = fmax(largest[1], v);
        largest[2] = fmax(largest[2], g);
        largest[3] = fmax(largest[3], v * g);
    }
    assert_memory_equal(stretch.largest, largest, sizeof largest);
    assert_true(stretch.value_scale == att_value_scale((float)largest[1]));
    att_stretch_release(&stretch);
    att_engine_free(engine);
    model_release(&model);
}

static void a_stretch_holds_the_heads_of_what_counts_in_each_precision(void **state)
{
    (void)state;
    for (int precision = ATT_SINGLE; precision <= ATT_DOUBLE; precision++)
        a_stretch_holds_the_heads_of_what_counts((enum att_precision)precision);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_any_size_are_summed_in_single),
        cmocka_unit_test(an_entry_that_is_being_written_is_no_part_of_an_answer),
        cmocka_unit_test(what_underflows_in_single_is_in_the_bound),
        cmocka_unit_test(a_masked_token_may_have_any_value),
        cmocka_unit_test(a_key_that_left_before_a_large_row_came_is_in_no_bound),
        cmocka_unit_test(a_stretch_holds_the_heads_of_what_counts_in_each_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
