/* Long races of updates, queries, jobs and merges on one engine, for a while; each answer checked. */
#include <math.h>
#include <stdio.h>

#include "harness.h"

enum { N_Q = 600, D = 32, D_V = 16, CAPACITY = 700, TOKENS = 640 };

static void race(double seconds, uint64_t seed, enum att_precision precision, uint32_t log_capacity, bool eager)
{
    struct model model;
    struct test_random random;
    struct att_engine_stats stats;
    uint64_t lsn = 0, checks = 0;
    static double values[(size_t)N_Q * D_V], bounds[N_Q];
    random_seed(&random, seed, "race");
    model_init(&model, N_Q, D, D_V, CAPACITY, 0.25);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    options.log_capacity = log_capacity;
    options.eager = eager;
    struct att_engine *engine = harness_start(&model, &options);
    struct tolerance tolerance = harness_tolerance(precision);
    double end = harness_seconds() + seconds;
    while (harness_seconds() < end) {
        float key[D], value[D_V];
        for (uint32_t burst = random_below(&random, 20); burst > 0; burst--) {
            random_normals(&random, key, D, 1);
            random_normals(&random, value, D_V, 1);
            struct att_op op = {.kind = ATT_OP_SET_TOKEN,
                                .index = random_below(&random, CAPACITY),
                                .key = key,
                                .value = value};
            if (!model.live[op.index])
                op.kind = ATT_OP_APPEND;
            else if (random_one_in(&random, 10) && model.tokens > TOKENS / 2)
                op.kind = ATT_OP_DELETE;
            else if (random_one_in(&random, 10))
                op = (struct att_op){.kind = ATT_OP_SET_Q, .index = random_below(&random, N_Q), .key = key};
            harness_update(engine, &model, &op, &lsn);
        }
        att_engine_kick(engine);
        for (uint32_t reads = random_below(&random, 8); reads > 0; reads--, checks++) {
            uint32_t row = random_below(&random, random_one_in(&random, 2) ? 10 : N_Q);
            harness_check_entry(engine, &model, row, random_below(&random, D_V), tolerance);
        }
        if (random_one_in(&random, 20))
            harness_check_row(engine, &model, random_below(&random, N_Q), tolerance);
        if (random_one_in(&random, 100)) {
            static const enum att_job_kind kinds[] = {ATT_JOB_COLUMN, ATT_JOB_ALL, ATT_JOB_MERGE};
            struct att_job job = {.kind = kinds[random_below(&random, 3)],
                                  .index = 3,
                                  .values = values,
                                  .bounds = bounds};
            assert_int_equal(harness_job(engine, &job), ATT_OK);
        }
    }
    harness_check_state(engine, &model);
    harness_check_all(engine, &model, tolerance);
    att_engine_stats(engine, &stats);
    printf("%lu updates, %lu checks, %lu merges, %lu refreshes\n", (unsigned long)lsn, (unsigned long)checks,
           (unsigned long)stats.merges, (unsigned long)stats.refreshes);
    att_engine_free(engine);
    model_release(&model);
}

static void answers_stay_right_while_everything_happens(void **state)
{
    (void)state;
    double seconds = test_is_long() ? 60 : 4;
    race(seconds, 51, ATT_MIXED, 64, false);
    race(seconds, 52, ATT_MIXED, 512, true);
    race(seconds, 53, ATT_SINGLE, 256, false);
    race(seconds, 54, ATT_DOUBLE, 0, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_stay_right_while_everything_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
