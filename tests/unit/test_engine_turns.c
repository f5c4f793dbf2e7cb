/* What the merge thread does next: nothing that waits is passed over for ever, and reads that a merge would make cheap make
 * one due. */
#include <stdatomic.h>
#include <stdlib.h>

#include "harness.h"

enum { N_Q = 3000, D = 8, D_V = 4, TOKENS = 300, CHAIN = 100000 };

struct fixture {
    struct model model;
    struct test_random random;
    struct att_engine *engine;
    uint64_t lsn;
};

static struct fixture fixture;

static void start(struct att_engine_options options)
{
    struct att_error error = {0};
    if (att_engine_start(fixture.engine = harness_create(&fixture.model, &options), &error) != ATT_OK)
        fail_msg("%s", error.text);
}

static int setup(void **state)
{
    (void)state;
    fixture.lsn = 0;
    random_init(&fixture.random, 21);
    model_init(&fixture.model, N_Q, D, D_V, TOKENS, 0.25);
    model_fill(&fixture.model, &fixture.random, TOKENS, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    att_engine_free(fixture.engine);
    model_release(&fixture.model);
    return 0;
}

static void change(enum att_op_kind kind, uint32_t index)
{
    float key[D], value[D_V];
    random_normals(&fixture.random, key, D, 1);
    random_normals(&fixture.random, value, D_V, 1);
    struct att_op op = {.kind = kind, .index = index, .key = key, .value = kind == ATT_OP_SET_Q ? NULL : value};
    harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
    att_engine_kick(fixture.engine);
}

static uint64_t merges(void)
{
    struct att_engine_stats stats;
    att_engine_stats(fixture.engine, &stats);
    return stats.merges;
}

/* Reads the row until something has merged: how often. */
static uint32_t reads_until_a_merge(uint32_t row, uint32_t most)
{
    const uint64_t before = merges();
    for (uint32_t n = 0; n < most; n++) {
        if (merges() != before)
            return n;
        harness_check_row(fixture.engine, &fixture.model, row, harness_tolerance(ATT_MIXED));
    }
    fail_msg("no merge in %u reads", most);
    return most;
}

/* Its base is of the row of Q before, so each read computes it: a few of them pay for the merge. */
static void reads_of_a_row_whose_q_changed_make_a_merge_due(void **state)
{
    (void)state;
    start(harness_options(&fixture.model));
    harness_settle(fixture.engine);
    change(ATT_OP_SET_Q, 7);
    reads_until_a_merge(7, 1000);
    harness_settle(fixture.engine);
    const uint64_t jobs = harness_counts().jobs;
    for (int n = 0; n < 10; n++)
        harness_check_row(fixture.engine, &fixture.model, 7, harness_tolerance(ATT_MIXED));
    assert_int_equal(harness_counts().jobs, jobs);
}

static void await_merges(uint64_t count)
{
    for (int tries = 0; merges() < count; tries++) {
        if (tries == 10000)
            fail_msg("%llu merges after ten seconds, not %llu", (unsigned long long)merges(),
                     (unsigned long long)count);
        harness_sleep_us(1000);
    }
}

/* Once each update has had so many reads, the next is merged before there is one. It takes 1342 an update, by the policy's model: half
 * of these, which are entries, or rows, are not enough. */
static void an_update_whose_reads_are_foreseen_is_merged_at_once(void **state)
{
    (void)state;
    double values[D_V], bound;
    start(harness_options(&fixture.model));
    harness_settle(fixture.engine);
    for (uint32_t n = 0; n < 10; n++) {
        change(ATT_OP_SET_TOKEN, n);
        for (uint32_t i = 0; i < 2500; i++)
            if ((i % 2 ? att_engine_query(fixture.engine, i, i % D_V, values, &bound, NULL)
                       : att_engine_row(fixture.engine, i, values, &bound, NULL)) != ATT_OK)
                harness_settle(fixture.engine);
        harness_settle(fixture.engine);
    }
    const uint64_t before = merges();
    change(ATT_OP_SET_TOKEN, 10);
    await_merges(before + 1);
    harness_check_row(fixture.engine, &fixture.model, 3, harness_tolerance(ATT_MIXED));
}

/* Also when other processes read, and find nothing pending; but not while it is held. */
static void an_update_whose_direct_reads_are_foreseen_is_merged_at_once(void **state)
{
    (void)state;
    start(harness_options(&fixture.model));
    harness_settle(fixture.engine);
    for (uint32_t n = 0; n < 10; n++) {
        struct att_job job = {.kind = ATT_JOB_MERGE};
        change(ATT_OP_SET_TOKEN, n);
        assert_int_equal(harness_job(fixture.engine, &job), ATT_OK);
        att_engine_note_reads(fixture.engine, n, 1, 20000);
    }
    const uint64_t before = merges();
    att_engine_hold(fixture.engine, true);
    change(ATT_OP_SET_TOKEN, 10);
    harness_sleep_us(20000);
    assert_int_equal(merges(), before);
    att_engine_hold(fixture.engine, false);
    await_merges(before + 1);
}

/* Each of them packs the entries that are pending. */
static void reads_of_cold_rows_make_a_merge_due(void **state)
{
    (void)state;
    struct att_engine_options options = harness_options(&fixture.model);
    options.never_keep = true;
    start(options);
    for (uint32_t n = 0; n < 100; n++)
        change(ATT_OP_SET_TOKEN, n);
    reads_until_a_merge(9, 1000);
}

static uint64_t rows_hot(void)
{
    struct att_engine_stats stats;
    att_engine_stats(fixture.engine, &stats);
    return stats.rows_hot;
}

/* A column, some of it checked. */
static void read_column(uint32_t column)
{
    const struct oracle_input view = model_view(&fixture.model);
    static double values[N_Q], bounds[N_Q];
    struct att_job job = {.kind = ATT_JOB_COLUMN, .index = column, .values = values, .bounds = bounds};
    assert_int_equal(harness_job(fixture.engine, &job), ATT_OK);
    for (uint32_t row = 0; row < N_Q; row += 499) {
        long double expected;
        assert_true(oracle_entry(&view, row, column, &expected));
        harness_check(values[row], bounds[row], expected, fixture.model.max_value, harness_tolerance(ATT_MIXED),
                      "column", row, column);
    }
}

/* A column reads every row: those that nobody reads otherwise stay hot, and cold ones become hot again. */
static void rows_that_are_read_by_columns_are_read(void **state)
{
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    uint32_t token = 0;
    (void)state;
    start(harness_options(&fixture.model));
    harness_settle(fixture.engine);
    for (int round = 0; round < 200; round++) {
        change(ATT_OP_SET_TOKEN, token++ % TOKENS);
        read_column((uint32_t)round % D_V);
    }
    assert_int_equal(rows_hot(), N_Q);
    while (rows_hot() > 0) {
        change(ATT_OP_SET_TOKEN, token++ % TOKENS);
        assert_int_equal(harness_job(fixture.engine, &merge), ATT_OK);
        assert_true(token < 100000);
    }
    read_column(0); /* keeping them would have cost more */
    assert_int_equal(rows_hot(), 0);
    read_column(1);
    assert_int_equal(rows_hot(), N_Q);
}

static void set_bias(uint32_t token, float bias)
{
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = token, .bias = &bias};
    harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
}

/* A token that outweighed all others leaves bases that are not certain; what takes it away is pending. */
static void start_with_uncertain_bases(void)
{
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    start(harness_options(&fixture.model));
    harness_settle(fixture.engine);
    att_engine_hold(fixture.engine, true);
    set_bias(3, 60);
    assert_int_equal(harness_job(fixture.engine, &merge), ATT_OK);
    set_bias(3, 0);
}

/* Found by a column nothing is pending, so that to refresh them is enough: what is updated later is no part of it. */
static void what_a_refresh_has_mended_needs_no_merge_later(void **state)
{
    static double values[D_V], bound;
    struct att_job row = {.kind = ATT_JOB_ROW, .values = values, .bounds = &bound};
    (void)state;
    start_with_uncertain_bases();
    read_column(0);
    const uint64_t before = merges();
    change(ATT_OP_SET_TOKEN, 5);
    assert_int_equal(harness_job(fixture.engine, &row), ATT_OK); /* and a turn has passed */
    assert_int_equal(merges(), before);
}

/* Found by a row, while the entry is pending: that has to be merged first, though nothing else is due. And once is enough. */
static void what_a_read_finds_uncertain_is_mended_by_one_merge(void **state)
{
    static double values[D_V], bound;
    struct att_job row = {.kind = ATT_JOB_ROW, .values = values, .bounds = &bound};
    const double begin = harness_seconds();
    (void)state;
    start_with_uncertain_bases();
    const uint64_t before = merges();
    assert_int_equal(att_engine_row(fixture.engine, 0, values, &bound, NULL), ATT_AGAIN);
    assert_int_equal(harness_job(fixture.engine, &row), ATT_OK);
    while (att_engine_row(fixture.engine, 0, values, &bound, NULL) == ATT_AGAIN) {
        assert_true(harness_seconds() - begin < 20);
        harness_sleep_us(100);
    }
    assert_int_equal(merges(), before + 1);
    change(ATT_OP_SET_TOKEN, 5);
    assert_int_equal(harness_job(fixture.engine, &row), ATT_OK); /* and a turn has passed */
    assert_int_equal(merges(), before + 1);
}

/* ---- A chain of row jobs: one is submitted as soon as one ends, so that one always waits ---- */

static struct chain {
    struct att_job *jobs;
    double (*values)[D_V + 1];
    _Atomic uint32_t next;
    uint32_t at_everything; /* how many had been submitted when everything was ready */
    struct att_job everything;
    uint32_t pieces;
} chain;

static void submit_next(void)
{
    const uint32_t n = atomic_load(&chain.next);
    if (n == CHAIN)
        return;
    chain.jobs[n] = (struct att_job){.kind = ATT_JOB_ROW,
                                     .index = n % fixture.model.n_q,
                                     .values = chain.values[n % N_Q],
                                     .bounds = &chain.values[n % N_Q][D_V]};
    atomic_store(&chain.next, n + 1);
    att_engine_submit(fixture.engine, &chain.jobs[n]);
}

/* On the merge thread, while the service, which is this test, only waits: so the submission is nobody's in between. */
static void on_completion(void *context)
{
    (void)context;
    if (chain.everything.lsn != UINT64_MAX && chain.at_everything == 0)
        chain.at_everything = atomic_load(&chain.next);
    submit_next();
}

static void sink_begin(void *context, uint64_t lsn, uint32_t used)
{
    (void)context, (void)lsn, (void)used;
}

static bool sink_room(void *context)
{
    (void)context;
    return true;
}

static void sink_piece(void *context, const struct att_piece *piece)
{
    (void)context, (void)piece;
    chain.pieces++;
}

static void sink_end(void *context)
{
    (void)context;
}

static void wait_for(uint32_t others)
{
    const double begin = harness_seconds();
    while (others > 0) {
        struct att_job *job = att_engine_completed(fixture.engine);
        if (job)
            others -= job->kind != ATT_JOB_ROW;
        else
            harness_sleep_us(100);
        if (harness_seconds() - begin > 60)
            fail_msg("%u jobs still wait behind rows", others);
    }
    if (atomic_load(&chain.next) == CHAIN)
        fail_msg("the others came only when no more rows were asked for");
}

static void rows_that_keep_coming_hold_nothing_else_up(void **state)
{
    (void)state;
    const struct att_sink sink = {.begin = sink_begin, .room = sink_room, .piece = sink_piece, .end = sink_end};
    struct att_engine_options options = harness_options(&fixture.model);
    double *values = calloc((size_t)N_Q * (D_V + 1), sizeof *values);

    chain = (struct chain){.jobs = calloc(CHAIN, sizeof *chain.jobs), .values = calloc(N_Q, sizeof *chain.values)};
    chain.everything = (struct att_job){.kind = ATT_JOB_ALL,
                                        .values = values,
                                        .bounds = values + (size_t)N_Q * D_V,
                                        .lsn = UINT64_MAX};
    struct att_job merge = {.kind = ATT_JOB_MERGE}, snapshot = {.kind = ATT_JOB_SNAPSHOT, .sink = &sink};
    options.never_keep = true; /* every row is computed */
    options.on_completion = on_completion;
    fixture.engine = harness_create(&fixture.model, &options);
    /* Before the start, so that all of them are there at the first turn. */
    att_engine_submit(fixture.engine, &chain.everything);
    att_engine_submit(fixture.engine, &merge);
    att_engine_submit(fixture.engine, &snapshot);
    submit_next();
    struct att_error error = {0};
    assert_int_equal(att_engine_start(fixture.engine, &error), ATT_OK);
    wait_for(3);
    assert_int_equal(chain.everything.status, ATT_OK);
    assert_int_equal(snapshot.status, ATT_OK);
    assert_true(chain.pieces > 0);
    /* Everything is computed a group of rows at a time, and rows that are asked for meanwhile come in between. */
    assert_in_range(chain.at_everything, 4, 20);
    att_engine_free(fixture.engine);
    fixture.engine = NULL;
    free(values);
    free(chain.jobs);
    free(chain.values);
}

/* Rows over very many tokens are computed 64 at a time. */
enum { ROWS = 256, MANY = 500000 };

static void make_many_tokens(void)
{
    model_release(&fixture.model);
    model_init(&fixture.model, ROWS, D, D_V, MANY, 0.25);
    model_fill(&fixture.model, &fixture.random, MANY, 1);
}

static void rows_come_in_between_the_rows_of_a_column(void **state)
{
    static double values[ROWS], bounds[ROWS];
    struct att_error error = {0};

    (void)state;
    make_many_tokens();
    chain = (struct chain){.jobs = calloc(CHAIN, sizeof *chain.jobs), .values = calloc(N_Q, sizeof *chain.values)};
    chain.everything = (struct att_job){.kind = ATT_JOB_COLUMN, .values = values, .bounds = bounds, .lsn = UINT64_MAX};
    struct att_engine_options options = harness_options(&fixture.model);
    options.never_keep = true;
    options.on_completion = on_completion;
    fixture.engine = harness_create(&fixture.model, &options);
    att_engine_submit(fixture.engine, &chain.everything);
    submit_next();
    assert_int_equal(att_engine_start(fixture.engine, &error), ATT_OK);
    wait_for(1);
    att_engine_free(fixture.engine); /* its thread has ended, and told what it had to tell */
    fixture.engine = NULL;
    assert_in_range(chain.at_everything, 5, 8);
    free(chain.jobs);
    free(chain.values);
}

static struct {
    struct att_job merge;
    uint32_t rows, rows_at_merge;
} between;

static void count_rows(void *context)
{
    (void)context;
    if (between.merge.lsn == UINT64_MAX)
        between.rows++;
    else if (between.rows_at_merge == 0)
        between.rows_at_merge = between.rows;
}

static void other_jobs_come_in_between_many_rows(void **state)
{
    static struct att_job jobs[ROWS];
    static double values[ROWS][D_V + 1];
    struct att_error error = {0};

    (void)state;
    make_many_tokens();
    struct att_engine_options options = harness_options(&fixture.model);
    options.never_keep = true;
    options.on_completion = count_rows;
    fixture.engine = harness_create(&fixture.model, &options);
    for (uint32_t n = 0; n < ROWS; n++) {
        jobs[n] = (struct att_job){.kind = ATT_JOB_ROW, .index = n, .values = values[n], .bounds = &values[n][D_V]};
        att_engine_submit(fixture.engine, &jobs[n]);
    }
    between.merge = (struct att_job){.kind = ATT_JOB_MERGE, .lsn = UINT64_MAX};
    att_engine_submit(fixture.engine, &between.merge);
    assert_int_equal(att_engine_start(fixture.engine, &error), ATT_OK);
    wait_for(1);
    att_engine_free(fixture.engine); /* its thread has ended, and told what it had to tell */
    fixture.engine = NULL;
    assert_int_equal(between.rows_at_merge, 64);
}

/* More rows than one turn takes: those that are left are not taken for jobs of another kind. */
static void more_rows_than_a_turn_takes_are_each_answered(void **state)
{
    struct att_job *jobs = calloc(N_Q, sizeof *jobs);
    double(*values)[D_V + 1] = calloc(N_Q, sizeof *values);
    const struct oracle_input view = model_view(&fixture.model);
    struct att_error error = {0};

    (void)state;
    struct att_engine_options options = harness_options(&fixture.model);
    options.never_keep = true; /* every row is computed */
    fixture.engine = harness_create(&fixture.model, &options);
    for (uint32_t n = 0; n < N_Q; n++) { /* before the start, so that all of them are there at the first turn */
        jobs[n] = (struct att_job){.kind = ATT_JOB_ROW, .index = n, .values = values[n], .bounds = &values[n][D_V]};
        att_engine_submit(fixture.engine, &jobs[n]);
    }
    assert_int_equal(att_engine_start(fixture.engine, &error), ATT_OK);
    harness_await(fixture.engine, N_Q);
    for (uint32_t n = 0; n < N_Q; n++) {
        long double expected;
        assert_true(oracle_entry(&view, n, 1, &expected));
        harness_check(values[n][1], values[n][D_V], expected, fixture.model.max_value, harness_tolerance(ATT_MIXED),
                      "row", n, 1);
    }
    free(values);
    free(jobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(more_rows_than_a_turn_takes_are_each_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_of_a_row_whose_q_changed_make_a_merge_due, setup, teardown),
        cmocka_unit_test_setup_teardown(an_update_whose_reads_are_foreseen_is_merged_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(an_update_whose_direct_reads_are_foreseen_is_merged_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_of_cold_rows_make_a_merge_due, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_that_are_read_by_columns_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_refresh_has_mended_needs_no_merge_later, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_read_finds_uncertain_is_mended_by_one_merge, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_that_keep_coming_hold_nothing_else_up, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_come_in_between_the_rows_of_a_column, setup, teardown),
        cmocka_unit_test_setup_teardown(other_jobs_come_in_between_many_rows, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
