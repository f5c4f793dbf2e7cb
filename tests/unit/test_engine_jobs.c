/* Columns, everything and merges agree with queries and with the oracle. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "test_engine_fixture.h"

static void a_column_agrees_with_queries(void **state)
{
    (void)state;
    struct oracle_input view = model_view(&fixture.model);
    double values[N_Q], bounds[N_Q];
    for (uint32_t round = 0; round < 20; round++) {
        update(30);
        uint32_t column = random_below(&fixture.random, D_V);
        struct att_job job = {.kind = ATT_JOB_COLUMN, .index = column, .values = values, .bounds = bounds};
        assert_int_equal(harness_job(fixture.engine, &job), ATT_OK);
        assert_int_equal(job.lsn, fixture.lsn);
        for (uint32_t i = 0; i < N_Q; i++) {
            long double expected = 0;
            double value = NAN, bound = NAN;
            assert_true(oracle_entry(&view, i, column, &expected));
            harness_check(values[i], bounds[i], expected, fixture.model.max_value, harness_tolerance(ATT_MIXED),
                          "column", i, column);
            assert_int_equal(harness_entry(fixture.engine, i, column, &value, &bound), ATT_OK);
            assert_true(fabs(value - values[i]) <= bound + bounds[i]);
        }
    }
}

static void everything_agrees_with_the_oracle(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        update(30);
        harness_check_all(fixture.engine, &fixture.model, harness_tolerance(ATT_MIXED));
    }
}

static void rows_without_tokens_are_nan_in_columns_and_empty_alone(void **state)
{
    (void)state;
    float mask = -INFINITY;
    for (uint32_t i = 0; i < CAPACITY; i++) {
        struct att_op op = {.kind = i % 2 ? ATT_OP_DELETE : ATT_OP_SET_TOKEN, .index = i, .bias = i % 2 ? NULL : &mask};
        if (fixture.model.live[i])
            harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
    }
    double values[N_Q * D_V], bounds[N_Q];
    struct att_job column = {.kind = ATT_JOB_COLUMN, .index = 1, .values = values, .bounds = bounds};
    assert_int_equal(harness_job(fixture.engine, &column), ATT_OK);
    for (uint32_t i = 0; i < N_Q; i++)
        assert_true(isnan(values[i]));
    harness_check_all(fixture.engine, &fixture.model, harness_tolerance(ATT_MIXED));
    struct att_job row = {.kind = ATT_JOB_ROW, .index = 3, .values = values, .bounds = bounds};
    assert_int_equal(harness_job(fixture.engine, &row), ATT_EMPTY);
    float none = 0;
    struct att_op back = {.kind = ATT_OP_SET_TOKEN, .index = 0, .bias = &none};
    harness_update(fixture.engine, &fixture.model, &back, &fixture.lsn);
    harness_check_all(fixture.engine, &fixture.model, harness_tolerance(ATT_MIXED));
}

/* All rows by jobs of their own that are there at the first turn, so that they are computed together. */
static void start_with_every_row(double *values, double *bounds)
{
    static struct att_job jobs[N_Q];
    struct att_error error = {0};
    for (uint32_t i = 0; i < N_Q; i++) {
        jobs[i] =
            (struct att_job){.kind = ATT_JOB_ROW, .index = i, .values = values + (size_t)i * D_V, .bounds = bounds + i};
        att_engine_submit(fixture.engine, &jobs[i]);
    }
    assert_int_equal(att_engine_start(fixture.engine, &error), ATT_OK);
    harness_await(fixture.engine, N_Q);
}

/* Few rows meet the tokens where they lie, many meet them packed, and of an entry's row only one column is summed: the sums are
 * the same, bit for bit. First with entries pending, then of what is settled. */
static void a_row_alone_has_the_bits_it_has_among_many(void **state)
{
    static double all[N_Q * D_V], bounds[N_Q], alone[D_V], bound;
    struct att_job everything = {.kind = ATT_JOB_ALL, .values = all, .bounds = bounds};
    struct att_engine_stats stats;
    struct att_error error = {0};
    (void)state;
    att_engine_free(fixture.engine);
    fixture.options.never_keep = true;
    fixture.engine = harness_create(&fixture.model, &fixture.options);
    assert_int_equal(att_engine_prepare(fixture.engine, &error), ATT_OK);
    att_engine_hold(fixture.engine, true);
    update(50);
    for (int merged = 0; merged < 2; merged++) {
        if (merged)
            assert_int_equal(harness_job(fixture.engine, &everything), ATT_OK); /* begins with a merge */
        else
            start_with_every_row(all, bounds);
        for (uint32_t i = 0; i < N_Q; i++) {
            struct att_job one = {.kind = ATT_JOB_ROW, .index = i, .values = alone, .bounds = &bound};
            assert_int_equal(harness_job(fixture.engine, &one), ATT_OK);
            assert_memory_equal(alone, all + (size_t)i * D_V, sizeof alone);
            assert_memory_equal(&bound, &bounds[i], sizeof bound);
            for (uint32_t j = 0; j < D_V; j++) {
                double value, least;
                struct att_job entry = {
                    .kind = ATT_JOB_ENTRY, .index = i, .column = j, .values = &value, .bounds = &least};
                assert_int_equal(harness_job(fixture.engine, &entry), ATT_OK);
                assert_memory_equal(&value, &alone[j], sizeof value);
                assert_true(least <= bound);
            }
        }
        att_engine_stats(fixture.engine, &stats);
        assert_true(merged ? stats.log_pending == 0 : stats.log_pending > 50);
    }
}

static void a_merge_empties_the_log_and_changes_no_answer(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 10; round++) {
        double before[N_Q], before_bounds[N_Q];
        struct att_engine_stats stats;
        update(40);
        for (uint32_t i = 0; i < N_Q; i++)
            assert_int_equal(harness_entry(fixture.engine, i, 2, &before[i], &before_bounds[i]), ATT_OK);
        struct att_job job = {.kind = ATT_JOB_MERGE};
        assert_int_equal(harness_job(fixture.engine, &job), ATT_OK);
        assert_int_equal(job.lsn, fixture.lsn);
        att_engine_stats(fixture.engine, &stats);
        assert_int_equal(stats.log_pending, 0);
        assert_int_equal(stats.settled_lsn, fixture.lsn);
        harness_check_state(fixture.engine, &fixture.model);
        for (uint32_t i = 0; i < N_Q; i++) {
            double value, bound;
            assert_int_equal(harness_entry(fixture.engine, i, 2, &value, &bound), ATT_OK);
            assert_true(fabs(value - before[i]) <= bound + before_bounds[i]);
        }
    }
}

static void jobs_in_flight_complete_in_any_order_each_once(void **state)
{
    (void)state;
    enum { JOBS = 40 };
    static double values[JOBS][N_Q * D_V], bounds[JOBS][N_Q];
    struct att_job jobs[JOBS] = {0};
    uint64_t submitted_at[JOBS];
    bool seen[JOBS] = {0};
    for (uint32_t n = 0; n < JOBS; n++) {
        static const enum att_job_kind kinds[] = {ATT_JOB_ROW, ATT_JOB_COLUMN, ATT_JOB_ALL, ATT_JOB_MERGE};
        update(5);
        jobs[n] = (struct att_job){
            .kind = kinds[n % 4], .index = n % D_V, .values = values[n], .bounds = bounds[n], .user = &seen[n]};
        submitted_at[n] = fixture.lsn;
        att_engine_submit(fixture.engine, &jobs[n]);
    }
    double begin = harness_seconds();
    for (uint32_t done = 0; done < JOBS;) {
        struct att_job *job = att_engine_completed(fixture.engine);
        if (!job) {
            assert_true(harness_seconds() - begin < 60);
            harness_sleep_us(50);
            continue;
        }
        size_t n = (size_t)(job - jobs);
        assert_true(n < JOBS && !seen[n] && job->user == &seen[n]);
        seen[n] = true;
        done++;
        assert_int_equal(job->status, ATT_OK);
        assert_true(job->lsn >= submitted_at[n]);
        assert_true(job->lsn <= fixture.lsn);
    }
    assert_null(att_engine_completed(fixture.engine));
}

static void counted(void *context)
{
    atomic_fetch_add((atomic_uint *)context, 1);
}

static void completions_are_announced(void **state)
{
    (void)state;
    static atomic_uint announced;
    atomic_store(&announced, 0);
    struct att_engine_options options = fixture.options;
    options.on_completion = counted;
    options.context = &announced;
    struct att_engine *engine = harness_start(&fixture.model, &options);
    for (unsigned n = 1; n <= 5; n++) {
        double values[D_V], bound;
        struct att_job job = {.kind = ATT_JOB_ROW, .index = n, .values = values, .bounds = &bound};
        assert_int_equal(harness_job(engine, &job), ATT_OK);
        /* the announcement may follow the completion by a moment */
        for (int wait = 0; atomic_load(&announced) < n && wait < 10000; wait++)
            harness_sleep_us(100);
        assert_true(atomic_load(&announced) >= n);
    }
    att_engine_free(engine);
}

/* Who asked, and when that one leaves: after so many completions. */
struct leaving {
    _Atomic uint64_t asker;
    atomic_uint completed;
    unsigned last;
};

static void leave(void *context)
{
    struct leaving *leaving = context;
    if (atomic_fetch_add(&leaving->completed, 1) + 1 == leaving->last)
        atomic_store(&leaving->asker, 0);
}

/* Of two who asked, one has left before the first turn, the other leaves while everything is computed for it. */
static void what_nobody_wants_any_more_is_left(void **state)
{
    enum { ROWS = 1025, GONE = 4, HERE = 7, LEFT_AT_ONCE = 3 }; /* one row more than a turn takes */
    static struct att_job rows[ROWS];
    static double values[D_V], bound, all[N_Q * D_V], bounds[N_Q], column[N_Q], column_bounds[N_Q];
    static struct leaving leaving;
    struct att_error error = {0};
    struct att_job none[LEFT_AT_ONCE] = {{.kind = ATT_JOB_ROW, .values = values, .bounds = &bound},
                                         {.kind = ATT_JOB_COLUMN, .values = column, .bounds = column_bounds},
                                         {.kind = ATT_JOB_MERGE}};
    struct att_job everything = {
        .kind = ATT_JOB_ALL, .values = all, .bounds = bounds, .asker = &leaving.asker, .asked_by = HERE};
    struct att_job wanted = {.kind = ATT_JOB_COLUMN, .values = column, .bounds = column_bounds};
    (void)state;
    leaving.last = LEFT_AT_ONCE + ROWS;
    atomic_store(&leaving.asker, HERE);
    att_engine_free(fixture.engine);
    fixture.options.never_keep = true; /* so that everything takes two turns */
    fixture.options.on_completion = leave;
    fixture.options.context = &leaving;
    fixture.engine = harness_create(&fixture.model, &fixture.options);
    for (int i = 0; i < LEFT_AT_ONCE; i++) {
        none[i].asker = &leaving.asker;
        none[i].asked_by = GONE;
        att_engine_submit(fixture.engine, &none[i]);
    }
    att_engine_submit(fixture.engine, &everything);
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = (struct att_job){.kind = ATT_JOB_ROW, .index = i % N_Q, .values = values, .bounds = &bound};
        att_engine_submit(fixture.engine, &rows[i]);
    }
    assert_int_equal(att_engine_start(fixture.engine, &error), ATT_OK);
    double begin = harness_seconds();
    for (uint32_t done = 0; done < LEFT_AT_ONCE + ROWS + 1;) {
        const struct att_job *job = att_engine_completed(fixture.engine);
        assert_true(harness_seconds() - begin < 60);
        if (job)
            assert_int_equal(job->status, job->asker ? ATT_ECLOSED : ATT_OK);
        else
            harness_sleep_us(50);
        done += job != NULL;
    }
    assert_int_equal(harness_job(fixture.engine, &wanted), ATT_OK);
}

/* By two jobs of a group: and it keeps that base when it is merged. */
static void a_cold_row_that_is_asked_for_twice_gets_one_base(void **state)
{
    (void)state;
    static double values[2 * N_Q][D_V], bounds[2 * N_Q];
    struct att_job jobs[2 * N_Q], merge = {.kind = ATT_JOB_MERGE};
    struct att_engine_stats stats;
    struct att_error error;
    fixture.options.eager = true;
    struct att_engine *engine = harness_create(&fixture.model, &fixture.options);
    for (uint32_t i = 0; i < 2 * N_Q; i++) {
        jobs[i] = (struct att_job){.kind = ATT_JOB_ROW, .index = i / 2, .values = values[i], .bounds = &bounds[i]};
        att_engine_submit(engine, &jobs[i]);
    }
    assert_int_equal(att_engine_start(engine, &error), ATT_OK);
    harness_await(engine, 2 * N_Q);
    for (uint32_t round = 0; round < 3; round++) {
        struct draft draft;
        att_engine_stats(engine, &stats);
        assert_int_equal(stats.rows_hot, N_Q);
        for (uint32_t row = 0; row < N_Q; row++)
            assert_int_equal(att_engine_row(engine, row, values[0], bounds, &error), ATT_OK);
        struct att_op op = draw(&draft);
        if (op.kind != ATT_OP_SET_Q)
            harness_update(engine, &fixture.model, &op, &fixture.lsn);
        assert_int_equal(harness_job(engine, &merge), ATT_OK);
    }
    att_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_column_agrees_with_queries, setup, teardown),
        cmocka_unit_test_setup_teardown(everything_agrees_with_the_oracle, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_without_tokens_are_nan_in_columns_and_empty_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_alone_has_the_bits_it_has_among_many, setup, teardown),
        cmocka_unit_test_setup_teardown(a_merge_empties_the_log_and_changes_no_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(jobs_in_flight_complete_in_any_order_each_once, setup, teardown),
        cmocka_unit_test_setup_teardown(completions_are_announced, setup, teardown),
        cmocka_unit_test_setup_teardown(what_nobody_wants_any_more_is_left, setup, teardown),
        cmocka_unit_test_setup_teardown(a_cold_row_that_is_asked_for_twice_gets_one_base, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
