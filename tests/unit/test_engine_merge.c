/* Merges that race with queries: every answer must be the one of the moment, whatever the merge thread is doing. */
#include <math.h>
#include <stdio.h>

#include "engine_impl.h"
#include "harness.h"

enum { N_Q = 90, D = 24, D_V = 7, TOKENS = 150 };

struct case_of_merging {
    const char *name;
    enum att_precision precision;
    uint32_t log_capacity;
    bool eager;
    bool spin; /* queries go on even while updates wait */
};

static void race(const struct case_of_merging *c, uint64_t seed)
{
    struct model model;
    struct test_random random;
    struct harness_counts before = harness_counts();
    uint64_t lsn = 0;
    random_seed(&random, seed, c->name);
    model_init(&model, N_Q, D, D_V, TOKENS, 0.3);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.precision = c->precision;
    options.eager = c->eager;
    options.log_capacity = c->log_capacity;
    struct att_engine *engine = harness_start(&model, &options);
    struct att_engine_stats stats;
    uint32_t rounds = test_times(4000);
    for (uint32_t n = 0; n < rounds; n++) {
        float key[D], value[D_V];
        uint32_t burst = 1 + random_below(&random, 4);
        for (uint32_t u = 0; u < burst; u++) {
            random_normals(&random, key, D, 1);
            random_normals(&random, value, D_V, 1);
            struct att_op op = {.kind = ATT_OP_SET_TOKEN,
                                .index = random_below(&random, TOKENS),
                                .key = key,
                                .value = random_one_in(&random, 2) ? value : NULL};
            harness_update(engine, &model, &op, &lsn);
        }
        att_engine_kick(engine);
        uint32_t row = random_below(&random, N_Q);
        /* the same few rows more often, so that some are always hot */
        if (random_one_in(&random, 2))
            row %= 5;
        for (int again = 0; again < (c->spin ? 6 : 2); again++)
            harness_check_entry(engine, &model, row, random_below(&random, D_V), harness_tolerance(c->precision));
        if (random_one_in(&random, 8))
            harness_check_row(engine, &model, row, harness_tolerance(c->precision));
    }
    struct harness_counts counts = harness_counts();
    att_engine_stats(engine, &stats);
    printf("%lu answers at once, %lu by jobs; %lu merges, %lu refreshes\n",
           (unsigned long)(counts.direct - before.direct), (unsigned long)(counts.jobs - before.jobs),
           (unsigned long)stats.merges, (unsigned long)stats.refreshes);
    assert_true(stats.merges > 3);
    harness_check_state(engine, &model);
    harness_check_all(engine, &model, harness_tolerance(c->precision));
    att_engine_free(engine);
    model_release(&model);
}

static void queries_race_with_eager_merges(void **state)
{
    (void)state;
    race(&(struct case_of_merging){"eager", ATT_MIXED, 128, true, true}, 21);
    race(&(struct case_of_merging){"eager, double", ATT_DOUBLE, 64, true, false}, 22);
    race(&(struct case_of_merging){"eager, single", ATT_SINGLE, 256, true, false}, 23);
}

static void queries_race_with_merges_of_a_small_log(void **state)
{
    (void)state;
    race(&(struct case_of_merging){"small log", ATT_MIXED, 64, false, true}, 24);
    race(&(struct case_of_merging){"small log, single", ATT_SINGLE, 64, false, false}, 25);
}

static void merges_happen_by_themselves_when_the_log_is_half_full(void **state)
{
    (void)state;
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    random_init(&random, 26);
    model_init(&model, N_Q, D, D_V, TOKENS, 0.3);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.log_capacity = 256;
    struct att_engine *engine = harness_start(&model, &options);
    struct att_engine_stats stats = {0};
    for (uint32_t n = 0; n < 100; n++) { /* 200 entries of 256, and not one query */
        struct att_op op = {.kind = ATT_OP_ADD_V, .index = n % TOKENS, .column = n % D_V, .number = 1};
        harness_update(engine, &model, &op, &lsn);
    }
    att_engine_kick(engine);
    double begin = harness_seconds();
    do {
        harness_sleep_us(500);
        att_engine_stats(engine, &stats);
    } while (stats.log_pending > 128 && harness_seconds() - begin < 30);
    assert_true(stats.log_pending <= 128);
    att_engine_free(engine);
    model_release(&model);
}

static void an_eager_engine_merges_whatever_there_is(void **state)
{
    (void)state;
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    random_init(&random, 27);
    model_init(&model, N_Q, D, D_V, TOKENS, 0.3);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.eager = true;
    struct att_engine *engine = harness_start(&model, &options);
    struct att_engine_stats stats = {0};
    struct att_op op = {.kind = ATT_OP_ADD_V, .index = 3, .column = 0, .number = 1};
    harness_update(engine, &model, &op, &lsn);
    att_engine_kick(engine);
    double begin = harness_seconds();
    do {
        harness_sleep_us(500);
        att_engine_stats(engine, &stats);
    } while (stats.log_pending > 0 && harness_seconds() - begin < 30);
    assert_int_equal(stats.log_pending, 0);
    assert_int_equal(stats.settled_lsn, 1);
    att_engine_free(engine);
    model_release(&model);
}

static void told(void *context)
{
    atomic_store((atomic_bool *)context, true);
}

/* An appender finds the log full while a merge settles all of it, and says so when the merge thread has gone to sleep:
 * then nothing is pending, and still it waits to be told. */
static void who_finds_the_log_full_is_told_of_room_that_is_there_already(void **state)
{
    (void)state;
    static atomic_bool room;
    struct model model;
    struct test_random random;
    random_init(&random, 28);
    model_init(&model, N_Q, D, D_V, TOKENS, 0.3);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.on_completion = told;
    options.context = &room;
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    double begin = harness_seconds();
    while (!atomic_load(&engine->sleeping) && harness_seconds() - begin < 30)
        harness_sleep_us(500);
    atomic_store(&room, false);
    atomic_store(&engine->hungry, true); /* as att_engine_apply does */
    att_engine_kick(engine);
    for (begin = harness_seconds(); !atomic_load(&room) && harness_seconds() - begin < 30;)
        harness_sleep_us(500);
    assert_true(atomic_load(&room));
    assert_false(atomic_load(&engine->hungry));
    att_engine_free(engine);
    model_release(&model);
}

/* Updates until so much is pending, or there is no room. */
static void append_up_to(struct att_engine *engine, uint64_t pending, uint64_t *lsn)
{
    struct att_engine_stats stats;
    struct att_error error = {0};
    enum att_status status = ATT_OK;
    for (att_engine_stats(engine, &stats); status == ATT_OK && stats.log_pending < pending;
         att_engine_stats(engine, &stats)) {
        struct att_op op = {.kind = ATT_OP_ADD_V, .index = (uint32_t)(*lsn % TOKENS), .number = 1e-3};
        status = att_engine_apply(engine, &op, *lsn + 1, &error);
        *lsn += status == ATT_OK;
    }
    att_engine_kick(engine);
}

/* False: none has been made in a minute. */
static bool wait_for_merge(struct att_engine *engine, uint64_t *merges)
{
    struct att_engine_stats stats;
    const uint64_t before = *merges;
    const double begin = harness_seconds();
    do {
        harness_sleep_us(100);
        att_engine_stats(engine, &stats);
        *merges = stats.merges;
    } while (*merges == before && harness_seconds() - begin < 60);
    return *merges != before;
}

/* Others append so much while it is merged that the log is never a quarter empty. There is room all the same, and who found none
 * is told. */
static void who_finds_the_log_full_is_told_of_room_though_others_take_some_of_it(void **state)
{
    (void)state;
    enum { MANY = 20000, LOG = 1024, MERGES = 20 };
    static atomic_bool room;
    struct model model;
    struct test_random random;
    uint64_t lsn = 0, merges = 0;
    random_init(&random, 29);
    model_init(&model, MANY, D, D_V, TOKENS, 0.3);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.on_completion = told;
    options.context = &room;
    options.log_capacity = LOG;
    options.eager = true; /* all rows stay hot, and a merge takes its time */
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    append_up_to(engine, LOG / 2, &lsn);
    harness_sleep_us(2000); /* it is being merged */
    append_up_to(engine, UINT64_MAX, &lsn);
    atomic_store(&room, false);
    while (!atomic_load(&room) && merges < MERGES) {
        assert_true(wait_for_merge(engine, &merges));
        append_up_to(engine, 7 * LOG / 8, &lsn);
    }
    assert_true(atomic_load(&room));
    att_engine_free(engine);
    model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries_race_with_eager_merges),
        cmocka_unit_test(queries_race_with_merges_of_a_small_log),
        cmocka_unit_test(merges_happen_by_themselves_when_the_log_is_half_full),
        cmocka_unit_test(an_eager_engine_merges_whatever_there_is),
        cmocka_unit_test(who_finds_the_log_full_is_told_of_room_that_is_there_already),
        cmocka_unit_test(who_finds_the_log_full_is_told_of_room_though_others_take_some_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
