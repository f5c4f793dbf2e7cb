/* Columns, everything, merges and snapshots agree with queries and with the oracle. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { N_Q = 45, D = 16, D_V = 9, CAPACITY = 130, TOKENS = 120 };

struct fixture {
    struct model model;
    struct test_random random;
    struct att_engine_options options;
    struct att_engine *engine;
    uint64_t lsn;
    uint32_t reach; /* tokens below this are updated */
};

static struct fixture fixture;

static int setup(void **state)
{
    (void)state;
    random_init(&fixture.random, 11);
    model_init(&fixture.model, N_Q, D, D_V, CAPACITY, 0.25);
    model_fill(&fixture.model, &fixture.random, TOKENS, 1);
    fixture.options = harness_options(&fixture.model);
    fixture.engine = harness_start(&fixture.model, &fixture.options);
    fixture.lsn = 0;
    fixture.reach = CAPACITY;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    att_engine_free(fixture.engine);
    model_release(&fixture.model);
    return 0;
}

struct draft {
    float key[D], value[D_V], bias;
};

static struct att_op draw(struct draft *draft)
{
    struct test_random *random = &fixture.random;
    random_normals(random, draft->key, D, 1);
    random_normals(random, draft->value, D_V, 1);
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .key = draft->key, .value = draft->value};
    do
        op.index = random_below(random, fixture.reach);
    while (!fixture.model.live[op.index]);
    switch (random_below(random, 8)) {
    case 0:
        op.kind = ATT_OP_ADD_V;
        op.column = random_below(random, D_V);
        op.number = random_normal(random);
        break;
    case 1:
        op.kind = ATT_OP_SET_Q;
        op.index = random_below(random, N_Q);
        break;
    case 2:
        if (fixture.model.tokens < fixture.model.capacity) {
            op.kind = ATT_OP_APPEND;
            op.index = ATT_ANY_INDEX;
        }
        break;
    case 3:
        if (fixture.model.tokens > TOKENS / 2)
            op.kind = ATT_OP_DELETE;
        break;
    default:
        break;
    }
    return op;
}

static void update(uint32_t times)
{
    struct draft draft;
    for (uint32_t n = 0; n < times; n++) {
        struct att_op op = draw(&draft);
        harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
    }
    att_engine_kick(fixture.engine);
}

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

/* Few rows meet the tokens where they lie, many meet them packed: the sums are the same, bit for bit. */
static void a_row_alone_has_the_bits_it_has_among_many(void **state)
{
    static double all[N_Q * D_V], bounds[N_Q], alone[D_V], bound;
    struct att_job everything = {.kind = ATT_JOB_ALL, .values = all, .bounds = bounds};
    (void)state;
    att_engine_free(fixture.engine);
    fixture.options.never_keep = true;
    fixture.engine = harness_start(&fixture.model, &fixture.options);
    att_engine_hold(fixture.engine, true);
    update(50);
    for (int merged = 0; merged < 2; merged++) {
        struct att_job merge = {.kind = ATT_JOB_MERGE};
        if (merged)
            assert_int_equal(harness_job(fixture.engine, &merge), ATT_OK);
        assert_int_equal(harness_job(fixture.engine, &everything), ATT_OK);
        for (uint32_t i = 0; i < N_Q; i++) {
            struct att_job one = {.kind = ATT_JOB_ROW, .index = i, .values = alone, .bounds = &bound};
            assert_int_equal(harness_job(fixture.engine, &one), ATT_OK);
            assert_memory_equal(alone, all + (size_t)i * D_V, sizeof alone);
            assert_memory_equal(&bound, &bounds[i], sizeof bound);
        }
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

/* ---- Snapshots ----------------------------------------------------------------------------------------- */

enum { MOST_PIECES = 4096 };

struct snapshot {
    uint64_t lsn;
    uint32_t tokens_used;
    struct att_piece pieces[MOST_PIECES];
    atomic_uint count;
    uint32_t asked;    /* for room */
    uint32_t patience; /* room only every so often: the cut must hold while merges go on */
    atomic_bool held;  /* no room at all: only what is about to be overwritten comes */
    atomic_bool begun, ended;
};

static void snapshot_begin(void *context, uint64_t lsn, uint32_t tokens_used)
{
    struct snapshot *snapshot = context;
    snapshot->lsn = lsn;
    snapshot->tokens_used = tokens_used;
    snapshot->begun = true;
}

static bool snapshot_room(void *context)
{
    struct snapshot *snapshot = context;
    return !snapshot->held && ++snapshot->asked % snapshot->patience == 0;
}

static void snapshot_piece(void *context, const struct att_piece *piece)
{
    struct snapshot *snapshot = context;
    if (!snapshot->begun || snapshot->ended || snapshot->count == MOST_PIECES || piece->bytes > ATT_PIECE_BYTES)
        abort();
    struct att_piece *copy = &snapshot->pieces[snapshot->count];
    *copy = *piece;
    void *data = malloc(piece->bytes ? piece->bytes : 1);
    if (!data)
        abort();
    memcpy(data, piece->data, piece->bytes);
    copy->data = data;
    snapshot->count++;
}

static void snapshot_end(void *context)
{
    ((struct snapshot *)context)->ended = true;
}

static void snapshot_release(struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < snapshot->count; i++)
        free((void *)(size_t)snapshot->pieces[i].data);
}

static struct att_sink sink_of(struct snapshot *snapshot)
{
    return (struct att_sink){.context = snapshot,
                             .begin = snapshot_begin,
                             .room = snapshot_room,
                             .piece = snapshot_piece,
                             .end = snapshot_end};
}

static void wait_until_begun(struct snapshot *snapshot)
{
    double begin = harness_seconds();
    while (!snapshot->begun) {
        assert_true(harness_seconds() - begin < 60);
        harness_sleep_us(50);
    }
}

static void check_pieces_are_disjoint(const struct snapshot *snapshot)
{
    for (uint32_t a = 0; a < snapshot->count; a++)
        for (uint32_t b = 0; b < a; b++) {
            const struct att_piece *x = &snapshot->pieces[a], *y = &snapshot->pieces[b];
            if (x->array == y->array && x->offset < y->offset + y->bytes && y->offset < x->offset + x->bytes)
                fail_msg("two pieces of array %d overlap at %lu", (int)x->array, (unsigned long)x->offset);
        }
}

/* A new engine that holds the snapshot; not started. `bases`: with its bases, or cold. */
static struct att_engine *restore(const struct snapshot *snapshot, bool bases)
{
    struct att_error error = {0};
    struct att_engine *engine = NULL;
    assert_int_equal(att_engine_create(&fixture.options, &engine, &error), ATT_OK);
    assert_string_equal(att_engine_base_tag(engine), att_engine_base_tag(fixture.engine));
    assert_true(strlen(att_engine_base_tag(engine)) <= 63);
    att_engine_set_lsn(engine, snapshot->lsn);
    for (uint32_t i = 0; i < snapshot->count; i++) {
        if (snapshot->pieces[i].array == ATT_ARRAY_BASES && !bases)
            continue;
        if (att_engine_restore(engine, &snapshot->pieces[i], &error) != ATT_OK)
            fail_msg("piece %u: %s", i, error.text);
    }
    assert_int_equal(att_engine_prepare(engine, &error), ATT_OK);
    return engine;
}

static void a_quiet_snapshot_gives_the_same_answers_bit_for_bit(void **state)
{
    (void)state;
    struct snapshot snapshot = {.patience = 1};
    struct att_sink sink = sink_of(&snapshot);
    att_engine_free(fixture.engine);
    fixture.options.eager = true; /* every row is kept */
    fixture.engine = harness_start(&fixture.model, &fixture.options);
    update(500);
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    assert_int_equal(harness_job(fixture.engine, &merge), ATT_OK);
    harness_settle(fixture.engine);
    struct att_job job = {.kind = ATT_JOB_SNAPSHOT, .sink = &sink};
    assert_int_equal(harness_job(fixture.engine, &job), ATT_OK);
    assert_true(snapshot.ended);
    assert_int_equal(snapshot.lsn, fixture.lsn);
    check_pieces_are_disjoint(&snapshot);

    struct att_engine *second = restore(&snapshot, true);
    struct att_error error = {0};
    assert_int_equal(att_engine_start(second, &error), ATT_OK);
    harness_check_state(second, &fixture.model);
    uint32_t compared = 0;
    for (uint32_t i = 0; i < N_Q; i++) {
        double a, a_bound, b, b_bound;
        enum att_status ours = att_engine_query(fixture.engine, i, 4, &a, &a_bound, &error);
        enum att_status theirs = att_engine_query(second, i, 4, &b, &b_bound, &error);
        if (ours == ATT_OK && theirs == ATT_OK && (memcmp(&a, &b, sizeof a) != 0 || a_bound != b_bound))
            fail_msg("row %u: %.17g (%g) and, restored, %.17g (%g)", i, a, a_bound, b, b_bound);
        if (ours == ATT_OK && theirs != ATT_OK)
            fail_msg("row %u is hot, and restored it answers %s", i, att_status_name(theirs));
        compared += ours == ATT_OK;
    }
    assert_true(compared > N_Q / 2);
    struct att_engine_stats stats;
    att_engine_stats(second, &stats);
    assert_int_equal(stats.lsn, fixture.lsn);
    assert_int_equal(stats.tokens, fixture.model.tokens);
    assert_int_equal(stats.tokens_used, snapshot.tokens_used);
    att_engine_free(second);
    snapshot_release(&snapshot);
}

struct recorded {
    struct att_op op;
    struct draft draft;
    uint64_t lsn;
};

/* Updates, keeping what was applied. No checks of answers: they might submit jobs, and a snapshot may be in flight. */
static void update_and_record(struct recorded *records, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++) {
        struct recorded *record = &records[n];
        record->op = draw(&record->draft);
        harness_update(fixture.engine, &fixture.model, &record->op, &fixture.lsn);
        record->lsn = fixture.lsn;
        if (n % 8 == 0)
            att_engine_kick(fixture.engine);
    }
}

static void wait_for_job(struct att_job *job)
{
    double begin = harness_seconds();
    struct att_job *done;
    while (!(done = att_engine_completed(fixture.engine))) {
        assert_true(harness_seconds() - begin < 60);
        harness_sleep_us(100);
    }
    assert_ptr_equal(done, job);
}

/* The model as it is now. */
static void copy_model(struct model *copy)
{
    const struct model *model = &fixture.model;
    model_init(copy, model->n_q, model->d, model->d_v, model->capacity, model->scale);
    memcpy(copy->q, model->q, (size_t)model->n_q * model->d * sizeof *copy->q);
    memcpy(copy->k, model->k, (size_t)model->capacity * model->d * sizeof *copy->k);
    memcpy(copy->v, model->v, (size_t)model->capacity * model->d_v * sizeof *copy->v);
    memcpy(copy->bias, model->bias, model->capacity * sizeof *copy->bias);
    memcpy(copy->live, model->live, model->capacity);
    copy->tokens = model->tokens;
}

/* The pieces are what `start` and the records up to the snapshot's LSN make, bit for bit. Replaying the others would cover
 * up a piece that is too new. Moves `start` on. */
static void check_cut(const struct snapshot *snapshot, struct model *start, const struct recorded *records,
                      uint32_t count)
{
    struct att_engine *second = restore(snapshot, true);
    for (uint32_t n = 0; n < count && records[n].lsn <= snapshot->lsn; n++)
        model_apply(start, &records[n].op);
    harness_check_state(second, start);
    att_engine_free(second);
}

static void check_replayed(struct snapshot *snapshot, struct recorded *records, uint32_t count, bool bases)
{
    struct att_engine *second = restore(snapshot, bases);
    struct att_error error = {0};
    bool started = false;
    for (uint32_t n = 0; n < count; n++) {
        if (records[n].lsn <= snapshot->lsn)
            continue;
        struct att_op op = records[n].op;
        enum att_status status = att_engine_apply(second, &op, records[n].lsn, &error);
        if (status == ATT_AGAIN && !started) {
            started = true;
            assert_int_equal(att_engine_start(second, &error), ATT_OK);
        }
        if (status == ATT_AGAIN)
            status = harness_apply(second, &op, records[n].lsn, &error);
        if (status != ATT_OK)
            fail_msg("replay of LSN %lu: %s", (unsigned long)records[n].lsn, error.text);
    }
    if (!started)
        assert_int_equal(att_engine_start(second, &error), ATT_OK);
    harness_check_state(second, &fixture.model);
    for (uint32_t i = 0; i < N_Q; i++) {
        double a, a_bound, b, b_bound;
        harness_check_row(second, &fixture.model, i, harness_tolerance(ATT_MIXED));
        assert_int_equal(harness_entry(fixture.engine, i, 1, &a, &a_bound), ATT_OK);
        assert_int_equal(harness_entry(second, i, 1, &b, &b_bound), ATT_OK);
        assert_true(fabs(a - b) <= a_bound + b_bound);
    }
    att_engine_free(second);
}

static void start_with_many_tokens(uint32_t tokens, uint32_t log_capacity)
{
    att_engine_free(fixture.engine);
    model_release(&fixture.model);
    model_init(&fixture.model, N_Q, D, D_V, tokens + 50, 0.25);
    model_fill(&fixture.model, &fixture.random, tokens, 1);
    fixture.options = harness_options(&fixture.model);
    fixture.options.log_capacity = log_capacity;
    fixture.engine = harness_start(&fixture.model, &fixture.options);
}

/* K has three pieces, V two. The log holds 64 entries, so that BEFORE and DURING updates are merged several times each.
 * Until the DURING updates, to tokens of the first piece of K, have passed, only those pieces are handed out that are about
 * to be overwritten; the others then, beside LATE updates of any token. */
static void a_snapshot_under_updates_and_merges_is_one_cut(void **state)
{
    (void)state;
    enum { BEFORE = 300, DURING = 300, LATE = 600, UPDATES = BEFORE + DURING + LATE };
    const uint32_t a_piece = ATT_PIECE_BYTES / (D * sizeof(float));
    struct recorded *records = calloc(UPDATES, sizeof *records);
    assert_non_null(records);
    start_with_many_tokens(3 * a_piece - 200, 64);
    for (uint32_t round = 0; round < 4; round++) {
        struct snapshot snapshot = {.patience = round % 2 ? 50 : 3, .held = true};
        fixture.reach = a_piece;
        struct att_sink sink = sink_of(&snapshot);
        struct att_job merge = {.kind = ATT_JOB_MERGE};
        assert_int_equal(harness_job(fixture.engine, &merge), ATT_OK);
        uint64_t before = fixture.lsn;
        struct model start;
        copy_model(&start);
        update_and_record(records, BEFORE);
        struct att_job job = {.kind = ATT_JOB_SNAPSHOT, .sink = &sink};
        att_engine_submit(fixture.engine, &job);
        wait_until_begun(&snapshot);
        uint64_t begun = fixture.lsn;
        update_and_record(records + BEFORE, DURING);
        assert_null(att_engine_completed(fixture.engine)); /* the second piece of K is still to come */
        assert_true(snapshot.count > 0 && !snapshot.ended);
        snapshot.held = false;
        fixture.reach = 3 * a_piece - 200;
        update_and_record(records + BEFORE + DURING, LATE);
        wait_for_job(&job);
        assert_int_equal(job.status, ATT_OK);
        assert_true(snapshot.ended);
        assert_true(snapshot.lsn > before && snapshot.lsn <= begun);
        assert_true(job.lsn == snapshot.lsn);
        check_pieces_are_disjoint(&snapshot);
        check_cut(&snapshot, &start, records, UPDATES);
        check_replayed(&snapshot, records, UPDATES, round < 2);
        model_release(&start);
        snapshot_release(&snapshot);
    }
    free(records);
}

static void a_second_snapshot_at_once_is_busy(void **state)
{
    (void)state;
    struct snapshot first = {.patience = 1, .held = true}, second = {.patience = 1};
    struct att_sink sinks[2] = {sink_of(&first), sink_of(&second)};
    struct att_job jobs[2] = {{.kind = ATT_JOB_SNAPSHOT, .sink = &sinks[0]},
                              {.kind = ATT_JOB_SNAPSHOT, .sink = &sinks[1]}};
    att_engine_submit(fixture.engine, &jobs[0]);
    wait_until_begun(&first);
    att_engine_submit(fixture.engine, &jobs[1]);
    wait_for_job(&jobs[1]); /* the first can't end yet */
    assert_int_equal(jobs[1].status, ATT_EBUSY);
    assert_true(!second.begun && !first.ended);
    first.held = false;
    wait_for_job(&jobs[0]);
    assert_int_equal(jobs[0].status, ATT_OK);
    assert_true(first.ended);
    snapshot_release(&first);
    snapshot_release(&second);
}

static void an_engine_that_is_freed_drops_its_jobs(void **state)
{
    (void)state;
    static double values[N_Q * D_V], bounds[N_Q];
    struct snapshot snapshot = {.patience = 1000000};
    struct att_sink sink = sink_of(&snapshot);
    struct att_job all = {.kind = ATT_JOB_ALL, .values = values, .bounds = bounds};
    struct att_job taken = {.kind = ATT_JOB_SNAPSHOT, .sink = &sink};
    struct att_engine *engine = harness_start(&fixture.model, &fixture.options);
    att_engine_submit(engine, &all);
    att_engine_submit(engine, &taken);
    att_engine_free(engine);
    snapshot_release(&snapshot);
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
        cmocka_unit_test_setup_teardown(a_quiet_snapshot_gives_the_same_answers_bit_for_bit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_under_updates_and_merges_is_one_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_snapshot_at_once_is_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(an_engine_that_is_freed_drops_its_jobs, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
