/* A snapshot is one cut, whatever is updated and merged meanwhile; it gives the same answers, with bases and without. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "test_engine_fixture.h"

enum { MOST_PIECES = 4096 };

struct snapshot {
    uint64_t lsn;
    uint32_t tokens_used;
    struct att_piece pieces[MOST_PIECES];
    atomic_uint count;
    uint32_t asked;    /* for room */
    uint32_t patience; /* room only every so often: the cut must hold while merges go on */
    atomic_bool held;  /* no room at all: only bases that are about to be overwritten come */
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
    for (uint32_t n = 0; n < count; n++) {
        struct att_op op = records[n].op;
        if (records[n].lsn > snapshot->lsn && att_engine_apply(second, &op, records[n].lsn, &error) != ATT_OK)
            fail_msg("replay of LSN %lu: %s", (unsigned long)records[n].lsn, error.text);
    }
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
    model_init(&fixture.model, N_Q, D, D_V, tokens + 300, 0.25);
    model_fill(&fixture.model, &fixture.random, tokens, 1);
    fixture.options = harness_options(&fixture.model);
    fixture.options.log_capacity = log_capacity;
    fixture.engine = harness_start(&fixture.model, &fixture.options);
}

/* Without room, merges are not held up by copies of all the tokens that they touch. */
static void check_bases_only(const struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < snapshot->count; i++)
        assert_int_equal(snapshot->pieces[i].array, ATT_ARRAY_BASES);
}

/* Tokens beyond all that there are: the first that are kept of them are not of the cut, nor of the next one. */
static void append_beyond(struct recorded *records, uint32_t first, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++) {
        struct recorded *record = &records[n];
        record->op = draw(&record->draft);
        record->op = (struct att_op){.kind = ATT_OP_APPEND,
                                     .index = first + n,
                                     .key = record->draft.key,
                                     .value = record->draft.value};
        harness_update(fixture.engine, &fixture.model, &record->op, &fixture.lsn);
        record->lsn = fixture.lsn;
    }
    att_engine_kick(fixture.engine);
}

/* K has three pieces, V two. The log holds 64 entries, so that BEFORE and DURING updates are merged several times each.
 * Until the DURING updates, to tokens of the first piece of K, have passed, nothing is handed out but bases that are about
 * to be overwritten; the others then, beside LATE updates of any token. */
static void a_snapshot_under_updates_and_merges_is_one_cut(void **state)
{
    (void)state;
    enum { BEFORE = 300, DURING = 300, LATE = 600, UPDATES = BEFORE + DURING + LATE, BEYOND = 40 };
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
        append_beyond(records + BEFORE, 3 * a_piece - 100 + round * BEYOND, BEYOND);
        update_and_record(records + BEFORE + BEYOND, DURING - BEYOND);
        assert_null(att_engine_completed(fixture.engine)); /* all of K is still to come */
        assert_true(snapshot.count > 0 && !snapshot.ended);
        check_bases_only(&snapshot);
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

/* An engine of many hot rows, and a second one that was restored from its snapshot, bases included. */
static struct att_engine *start_and_restore(uint32_t n_q)
{
    struct snapshot snapshot = {.patience = 1};
    struct att_sink sink = sink_of(&snapshot);
    struct att_job job = {.kind = ATT_JOB_SNAPSHOT, .sink = &sink};
    att_engine_free(fixture.engine);
    model_release(&fixture.model);
    model_init(&fixture.model, n_q, D, D_V, CAPACITY, 0.25);
    model_fill(&fixture.model, &fixture.random, TOKENS, 1);
    fixture.options = harness_options(&fixture.model);
    fixture.options.log_capacity = 64;
    fixture.engine = harness_start(&fixture.model, &fixture.options);
    harness_settle(fixture.engine);
    assert_int_equal(harness_job(fixture.engine, &job), ATT_OK);
    struct att_engine *second = restore(&snapshot, true);
    snapshot_release(&snapshot);
    return second;
}

/* The log keeps its size, whatever is replayed: when it is full it is merged, into the bases too; rows are hot at the start,
 * and nobody holds against them that they were not read before. But where that would hold up the start for long all start
 * cold, and become hot in the background. */
static void replay_more_than_the_log_holds(uint32_t n_q, uint32_t updates, uint32_t expected, bool keeps_bases)
{
    struct att_engine *second = start_and_restore(n_q);
    struct att_engine_stats ours, stats;
    struct att_error error = {0};
    struct draft draft;
    att_engine_stats(second, &stats);
    assert_int_equal(stats.rows_hot, n_q);
    att_engine_expect(second, expected);
    for (uint32_t n = 0; n < updates; n++) {
        struct att_op op = draw(&draft);
        if (op.kind != ATT_OP_SET_Q)
            harness_update(second, &fixture.model, &op, &fixture.lsn);
    }
    att_engine_stats(fixture.engine, &ours);
    att_engine_stats(second, &stats);
    assert_true(stats.log_capacity == 64 && stats.log_pending <= 64 && stats.region_bytes == ours.region_bytes);
    assert_true(stats.log_pending > 0); /* for the one merge to come */
    assert_true(stats.merges >= updates / 64);
    assert_int_equal(stats.rows_hot, keeps_bases ? n_q : 0);
    assert_int_equal(att_engine_start(second, &error), ATT_OK);
    harness_check_state(second, &fixture.model);
    harness_settle(second);
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    assert_int_equal(harness_job(second, &merge), ATT_OK);
    att_engine_stats(second, &stats);
    assert_int_equal(stats.rows_hot, n_q);
    for (uint32_t row = 0; row < n_q; row += (n_q + 99) / 100)
        harness_check_row(second, &fixture.model, row, harness_tolerance(ATT_MIXED));
    att_engine_free(second);
}

static void a_long_replay_keeps_the_log_and_the_bases(void **state)
{
    (void)state;
    replay_more_than_the_log_holds(N_Q, 4000, 4000, true);
}

static void a_replay_that_would_take_long_drops_the_bases(void **state)
{
    (void)state;
    replay_more_than_the_log_holds(500, 100, 1000000, false);
    replay_more_than_the_log_holds(20000, 6000, 0, false); /* nor much longer when nothing was said */
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
        cmocka_unit_test_setup_teardown(a_quiet_snapshot_gives_the_same_answers_bit_for_bit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_under_updates_and_merges_is_one_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_replay_keeps_the_log_and_the_bases, setup, teardown),
        cmocka_unit_test_setup_teardown(a_replay_that_would_take_long_drops_the_bases, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_snapshot_at_once_is_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(an_engine_that_is_freed_drops_its_jobs, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
