/* The data that ruins maintained sums: cancellation, huge scores, everything replaced many times. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

/* The token that holds nearly all of a row's mass leaves, again and again. */
static void leave(enum att_precision precision, uint32_t log_capacity, int how, bool read_before)
{
    enum { N_Q = 40, D = 8, D_V = 5, TOKENS = 200 };
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    double least_share = 1, largest_fall = 0;
    random_init(&random, 31);
    model_init(&model, N_Q, D, D_V, TOKENS, 1);
    model_fill(&model, &random, TOKENS, 0.3);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    options.log_capacity = log_capacity;
    struct att_engine *engine = harness_start(&model, &options);
    struct tolerance tolerance = harness_tolerance(precision);
    uint32_t rounds = test_times(300);
    for (uint32_t n = 0; n < rounds; n++) {
        uint32_t row = random_below(&random, N_Q), token = random_below(&random, TOKENS), top;
        float key[D], old[D];
        double score, share, norm = 0;
        for (uint32_t p = 0; p < D; p++)
            norm += pow((double)model.q[row * D + p], 2);
        memcpy(old, model.k + token * D, sizeof old);
        for (uint32_t p = 0; p < D; p++) /* its score becomes 26: e^26 is 2e11, over some 200 for the others */
            key[p] = (float)(26 / norm * (double)model.q[row * D + p]);
        struct att_op enter = {.kind = ATT_OP_SET_TOKEN, .index = token, .key = key};
        harness_update(engine, &model, &enter, &lsn);
        if (read_before)
            harness_check_row(engine, &model, row, tolerance);
        struct oracle_input view = model_view(&model);
        assert_true(oracle_top(&view, row, &top, &score, &share));
        least_share = fmin(least_share, share);
        largest_fall = fmax(largest_fall, 1 / (1 - share));
        if (random_one_in(&random, 3)) {
            struct att_job job = {.kind = ATT_JOB_MERGE};
            assert_int_equal(harness_job(engine, &job), ATT_OK);
        }
        if (how == 0) {
            struct att_op back = {.kind = ATT_OP_SET_TOKEN, .index = token, .key = old};
            harness_update(engine, &model, &back, &lsn);
        } else if (how == 1) { /* by UpdateK, one entry after the other */
            for (uint32_t p = 0; p < D; p++) {
                struct att_op add = {.kind = ATT_OP_ADD_K,
                                     .index = token,
                                     .column = p,
                                     .number = (double)old[p] - (double)key[p]};
                harness_update(engine, &model, &add, &lsn);
                harness_check_entry(engine, &model, row, 1, tolerance);
            }
        } else {
            float value[D_V], mask = -INFINITY, none = 0;
            memcpy(value, model.v + token * D_V, sizeof value);
            if (how == 2) {
                struct att_op delete = {.kind = ATT_OP_DELETE, .index = token};
                harness_update(engine, &model, &delete, &lsn);
            } else {
                struct att_op hide = {.kind = ATT_OP_SET_TOKEN, .index = token, .bias = &mask};
                harness_update(engine, &model, &hide, &lsn);
            }
            harness_check_entry(engine, &model, row, 0, tolerance);
            struct att_op back = {.kind = how == 2 ? ATT_OP_APPEND : ATT_OP_SET_TOKEN,
                                  .index = token,
                                  .key = old,
                                  .value = value,
                                  .bias = &none};
            harness_update(engine, &model, &back, &lsn);
        }
        harness_check_entry(engine, &model, row, 1, tolerance);
        harness_check_row(engine, &model, random_below(&random, N_Q), tolerance);
        if (n % 32 == 0) {
            att_engine_kick(engine);
            harness_check_all(engine, &model, tolerance);
        }
    }
    printf("shares of the mass from %.9f, falls of the denominator to %.1e\n", least_share, largest_fall);
    assert_true(least_share > 0.9999999);
    assert_true(largest_fall > 5e8);
    for (uint32_t i = 0; i < N_Q; i++)
        harness_check_row(engine, &model, i, tolerance);
    att_engine_free(engine);
    model_release(&model);
}

static void a_key_that_held_the_mass_leaves_by_replacement(void **state)
{
    (void)state;
    leave(ATT_MIXED, 64, 0, true);
    leave(ATT_MIXED, 1024, 0, false);
    leave(ATT_DOUBLE, 64, 0, true);
}

static void a_key_that_held_the_mass_leaves_by_added_entries(void **state)
{
    (void)state;
    leave(ATT_MIXED, 128, 1, true);
}

static void a_key_that_held_the_mass_leaves_by_deletion(void **state)
{
    (void)state;
    leave(ATT_MIXED, 64, 2, true);
    leave(ATT_MIXED, 512, 2, false);
}

static void a_key_that_held_the_mass_is_masked(void **state)
{
    (void)state;
    leave(ATT_MIXED, 64, 3, true);
}

/* Scores from below -1393 to above 462, all tokens replaced one by one, the top ones first. */
static void huge(enum att_precision precision)
{
    enum { N_Q = 48, D = 32, D_V = 8, TOKENS = 256 };
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    double lowest = 0, highest = 0;
    random_init(&random, 33);
    model_init(&model, N_Q, D, D_V, TOKENS, 1);
    model_fill(&model, &random, TOKENS, 1);
    for (uint32_t i = 0; i < N_Q * D; i++)
        model.q[i] *= 6;
    for (uint32_t i = 0; i < TOKENS * D; i++)
        model.k[i] = 6 * model.k[i] - 0.05f * model.q[i % (N_Q * D)] * (float)(i % 2);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    options.log_capacity = 64;
    struct att_engine *engine = harness_start(&model, &options);
    struct tolerance tolerance = harness_tolerance(precision);
    uint32_t rounds = test_times(1500);
    for (uint32_t n = 0; n < rounds; n++) {
        struct oracle_input view = model_view(&model);
        uint32_t row = random_below(&random, N_Q), top = 0;
        float key[D];
        double score, share;
        assert_true(oracle_top(&view, row, &top, &score, &share));
        random_normals(&random, key, D, 6);
        if (random_one_in(&random, 8)) /* far away: about -1400 for this row */
            for (uint32_t p = 0; p < D; p++)
                key[p] = -1.25f * model.q[row * D + p];
        struct att_op op = {.kind = ATT_OP_SET_TOKEN,
                            .index = random_one_in(&random, 3) ? random_below(&random, TOKENS) : top,
                            .key = key};
        harness_update(engine, &model, &op, &lsn);
        double moved = 0;
        for (uint32_t p = 0; p < D; p++)
            moved += (double)key[p] * (double)model.q[row * D + p];
        lowest = fmin(lowest, moved);
        highest = fmax(highest, score);
        harness_check_entry(engine, &model, row, random_below(&random, D_V), tolerance);
        if (n % 16 == 0)
            harness_check_row(engine, &model, random_below(&random, N_Q), tolerance);
        if (n % 8 == 0)
            att_engine_kick(engine);
    }
    printf("scores from %.0f to %.0f\n", lowest, highest);
    assert_true(lowest < -1393 && highest > 462);
    harness_check_all(engine, &model, tolerance);
    for (uint32_t i = 0; i < N_Q; i++)
        harness_check_row(engine, &model, i, tolerance);
    att_engine_free(engine);
    model_release(&model);
}

static void huge_scores_stay_right_in_mixed(void **state)
{
    (void)state;
    huge(ATT_MIXED);
}

static void huge_scores_stay_right_in_double(void **state)
{
    (void)state;
    huge(ATT_DOUBLE);
}

/* The largest true error and the largest bound of all rows, relative to max |V|. */
static double largest_error(struct att_engine *engine, const struct model *model, double *ret_bound)
{
    struct oracle_input view = model_view(model);
    long double *expected = malloc(model->d_v * sizeof *expected);
    double *values = malloc(model->d_v * sizeof *values), bound = 0, largest = 0, max_value = 0;
    assert_true(expected && values);
    *ret_bound = 0;
    for (size_t i = 0; i < (size_t)model->capacity * model->d_v; i++)
        max_value = fmax(max_value, fabs((double)model->v[i]));
    for (uint32_t i = 0; i < model->n_q; i++) {
        assert_int_equal(harness_row(engine, i, values, &bound), ATT_OK);
        assert_true(oracle_row(&view, i, expected));
        *ret_bound = fmax(*ret_bound, bound / max_value);
        for (uint32_t j = 0; j < model->d_v; j++) {
            double error = (double)fabsl(values[j] - expected[j]);
            largest = fmax(largest, error / max_value);
            if (error > bound)
                fail_msg("row %u column %u: error %g above the bound %g", i, j, error, bound);
        }
    }
    free(values);
    free(expected);
    return largest;
}

/* How far drift may take an error above twice a fresh one's, and how large bounds may be. In double the budget of
 * the maintained sums is 1e-11 of the mean |V|, which is more than a fresh error; in the others fresh errors are what
 * counts, and in single the scores' rounding is in the bound. */
static void limits(enum att_precision precision, double *ret_slack, double *ret_bound)
{
    *ret_slack = precision == ATT_DOUBLE ? 2e-11 : precision == ATT_MIXED ? 1e-9 : 1e-7;
    *ret_bound = precision == ATT_DOUBLE ? 1e-10 : precision == ATT_MIXED ? 1e-6 : 1e-4;
}

static void replace_everything(enum att_precision precision, double deviation)
{
    enum { N_Q = 128, D = 32, D_V = 16, TOKENS = 256, PASSES = 10 };
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    random_init(&random, 35);
    model_init(&model, N_Q, D, D_V, TOKENS, deviation / sqrt(D));
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    options.eager = true; /* every row is maintained */
    options.log_capacity = 128;
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    for (uint32_t n = 0; n < PASSES * TOKENS; n++) {
        float key[D], value[D_V];
        random_normals(&random, key, D, 1);
        random_normals(&random, value, D_V, 1);
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = n % TOKENS, .key = key, .value = value};
        harness_update(engine, &model, &op, &lsn);
        if (n % 16 == 0)
            att_engine_kick(engine);
    }
    double slack, most, bound, init_bound, after = largest_error(engine, &model, &bound);
    struct att_engine *fresh = harness_start(&model, &options);
    double init = largest_error(fresh, &model, &init_bound);
    limits(precision, &slack, &most);
    struct att_engine_stats stats;
    att_engine_stats(engine, &stats);
    printf("deviation %g: error %.3g, bound %.3g after %d passes (%lu merges, %lu refreshes), %.3g and %.3g fresh\n",
           deviation, after, bound, PASSES, (unsigned long)stats.merges, (unsigned long)stats.refreshes, init,
           init_bound);
    assert_true(after <= 2 * init + slack);
    assert_true(bound <= most && init_bound <= most);
    att_engine_free(fresh);
    att_engine_free(engine);
    model_release(&model);
}

static void replacing_everything_ten_times_leaves_no_more_error_than_a_fresh_start(void **state)
{
    (void)state;
    replace_everything(ATT_MIXED, 1);
    replace_everything(ATT_MIXED, 4);
    replace_everything(ATT_MIXED, 10);
    replace_everything(ATT_DOUBLE, 4);
    replace_everything(ATT_SINGLE, 1);
}

/* A row of Q lies in the log until it is merged. With |q| of 1e8 and |k| of 1e-8, as a key it would have scores of 1e16. */
static void rows_are_read_from_their_bases_while_rows_of_q_of_any_size_are_pending(void **state)
{
    (void)state;
    enum { N_Q = 8, D = 4, D_V = 3, TOKENS = 40, TIMES = 40 };
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    random_init(&random, 36);
    model_init(&model, N_Q, D, D_V, TOKENS, 1);
    model_fill(&model, &random, TOKENS, 1e-8);
    random_normals(&random, model.q, N_Q * D, 1e8);
    struct att_engine_options options = harness_options(&model);
    options.log_capacity = 64;
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    att_engine_hold(engine, true);
    struct harness_counts before = harness_counts();
    for (uint32_t n = 0; n < TIMES; n++) {
        float q[D];
        random_normals(&random, q, D, 1e8);
        struct att_op op = {.kind = ATT_OP_SET_Q, .index = 0, .key = q};
        harness_update(engine, &model, &op, &lsn);
        for (uint32_t row = 1; row < N_Q; row++)
            harness_check_row(engine, &model, row, harness_tolerance(ATT_MIXED));
    }
    assert_int_equal(harness_counts().jobs, before.jobs);
    att_engine_free(engine);
    model_release(&model);
}

/* With d = 1 the door lets in scores of -4.6e13, -6.7e13 octaves: a shift like any other. All tokens but one have such a
 * score, then one comes that outweighs them all. */
static void the_lowest_scores_that_there_can_be_are_shifts_like_others(void **state)
{
    (void)state;
    enum { N_Q = 2, TOKENS = 20 };
    const struct tolerance tolerance = {.error = 0.2, .bound = 0.2}; /* kappa times the score is 1/16 */
    struct model model;
    uint64_t lsn = 0;
    model_init(&model, N_Q, 1, 1, TOKENS, 1);
    for (uint32_t token = 0; token < TOKENS; token++) {
        model.k[token] = -4.6e6f;
        model.v[token] = 1;
        model.live[token] = 1;
    }
    model.tokens = TOKENS;
    model.max_value = 1;
    model.q[0] = 1e7f;
    struct att_engine_options options = harness_options(&model);
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    const float key = 0, value = -1;
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 3, .key = &key, .value = &value};
    harness_update(engine, &model, &op, &lsn);
    for (uint32_t row = 0; row < N_Q; row++)
        harness_check_row(engine, &model, row, tolerance);
    att_engine_free(engine);
    model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_that_held_the_mass_leaves_by_replacement),
        cmocka_unit_test(a_key_that_held_the_mass_leaves_by_added_entries),
        cmocka_unit_test(a_key_that_held_the_mass_leaves_by_deletion),
        cmocka_unit_test(a_key_that_held_the_mass_is_masked),
        cmocka_unit_test(huge_scores_stay_right_in_mixed),
        cmocka_unit_test(huge_scores_stay_right_in_double),
        cmocka_unit_test(rows_are_read_from_their_bases_while_rows_of_q_of_any_size_are_pending),
        cmocka_unit_test(the_lowest_scores_that_there_can_be_are_shifts_like_others),
        cmocka_unit_test(replacing_everything_ten_times_leaves_no_more_error_than_a_fresh_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
