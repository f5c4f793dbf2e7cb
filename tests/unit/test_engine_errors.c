/* What the engine refuses, with which status, and that nothing has changed afterwards. */
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

enum { N_Q = 5, D = 3, D_V = 4, CAPACITY = 8, TOKENS = 6, DEAD = 2 };

struct fixture {
    struct model model;
    struct att_engine *engine;
    uint64_t lsn;
};

static struct fixture fixture;

static int setup(void **state)
{
    (void)state;
    struct test_random random;
    random_init(&random, 7);
    model_init(&fixture.model, N_Q, D, D_V, CAPACITY, 1);
    model_fill(&fixture.model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&fixture.model);
    fixture.engine = harness_start(&fixture.model, &options);
    fixture.lsn = 0;
    struct att_op delete = {.kind = ATT_OP_DELETE, .index = DEAD};
    harness_update(fixture.engine, &fixture.model, &delete, &fixture.lsn);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    att_engine_free(fixture.engine);
    model_release(&fixture.model);
    return 0;
}

/* The update must be refused with this status and a message, and leave everything as it was. */
static void refused(struct att_op op, enum att_status expected)
{
    struct att_error error = {0};
    struct att_engine_stats before, after;
    struct att_op asked = op;
    att_engine_stats(fixture.engine, &before);
    enum att_status status = att_engine_apply(fixture.engine, &op, fixture.lsn + 1, &error);
    if (status != expected)
        fail_msg("kind %d index %u column %u number %g: %s, not %s", (int)op.kind, op.index, op.column, op.number,
                 att_status_name(status), att_status_name(expected));
    assert_int_equal(error.status, expected);
    assert_true(strlen(error.text) > 5);
    assert_memory_equal(&op, &asked, sizeof op);
    att_engine_stats(fixture.engine, &after);
    assert_int_equal(after.lsn, before.lsn);
    assert_int_equal(after.updates, before.updates);
    assert_int_equal(after.tokens, before.tokens);
    harness_check_state(fixture.engine, &fixture.model);
    for (uint32_t i = 0; i < N_Q; i++)
        harness_check_row(fixture.engine, &fixture.model, i, harness_tolerance(ATT_MIXED));
}

static const float key[D] = {1, 2, 3};
static const float value[D_V] = {1, 2, 3, 4};

static void indices_out_of_range_are_refused(void **state)
{
    (void)state;
    static const uint32_t bad_tokens[] = {DEAD, TOKENS, CAPACITY, CAPACITY + 1, UINT32_MAX - 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad_tokens / sizeof bad_tokens[0]; i++) {
        uint32_t index = bad_tokens[i];
        refused((struct att_op){.kind = ATT_OP_SET_TOKEN, .index = index, .key = key}, ATT_ERANGE);
        refused((struct att_op){.kind = ATT_OP_DELETE, .index = index}, ATT_ERANGE);
        refused((struct att_op){.kind = ATT_OP_ADD_K, .index = index, .number = 1}, ATT_ERANGE);
        refused((struct att_op){.kind = ATT_OP_ADD_V, .index = index, .number = 1}, ATT_ERANGE);
        refused((struct att_op){.kind = ATT_OP_SET_K_ENTRY, .index = index, .number = 1}, ATT_ERANGE);
        refused((struct att_op){.kind = ATT_OP_SET_V_ENTRY, .index = index, .number = 1}, ATT_ERANGE);
    }
    refused((struct att_op){.kind = ATT_OP_ADD_K, .index = 0, .column = D, .number = 1}, ATT_ERANGE);
    refused((struct att_op){.kind = ATT_OP_ADD_V, .index = 0, .column = D_V, .number = 1}, ATT_ERANGE);
    refused((struct att_op){.kind = ATT_OP_ADD_V, .index = 0, .column = UINT32_MAX, .number = 1}, ATT_ERANGE);
    refused((struct att_op){.kind = ATT_OP_SET_Q, .index = N_Q, .key = key}, ATT_ERANGE);
    refused((struct att_op){.kind = ATT_OP_SET_Q, .index = UINT32_MAX, .key = key}, ATT_ERANGE);
    refused((struct att_op){.kind = ATT_OP_APPEND, .index = CAPACITY, .key = key, .value = value}, ATT_ECAPACITY);
}

static void numbers_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        float bad_key[D] = {0, 0, bad[i]}, bad_value[D_V] = {bad[i]}, bias = bad[i];
        refused((struct att_op){.kind = ATT_OP_SET_TOKEN, .key = bad_key}, ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_SET_TOKEN, .key = key, .value = bad_value}, ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_SET_Q, .key = bad_key}, ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_APPEND, .index = ATT_ANY_INDEX, .key = bad_key, .value = value},
                ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_APPEND, .index = ATT_ANY_INDEX, .key = key, .value = bad_value},
                ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_ADD_K, .number = (double)bad[i]}, ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_ADD_V, .number = (double)bad[i]}, ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_SET_K_ENTRY, .number = (double)bad[i]}, ATT_ENOTFINITE);
        refused((struct att_op){.kind = ATT_OP_SET_V_ENTRY, .number = (double)bad[i]}, ATT_ENOTFINITE);
        if (bias != -INFINITY)
            refused((struct att_op){.kind = ATT_OP_SET_TOKEN, .bias = &bias}, ATT_ENOTFINITE);
    }
    /* finite in float64, not in float32 */
    refused((struct att_op){.kind = ATT_OP_SET_V_ENTRY, .number = 1e39}, ATT_ENOTFINITE);
    refused((struct att_op){.kind = ATT_OP_ADD_V, .number = -1e300}, ATT_ENOTFINITE);
}

static void an_append_beyond_the_capacity_is_refused(void **state)
{
    (void)state;
    struct att_op op = {.kind = ATT_OP_APPEND, .index = ATT_ANY_INDEX, .key = key, .value = value};
    while (fixture.model.tokens < CAPACITY) {
        op.index = ATT_ANY_INDEX;
        harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
    }
    op.index = ATT_ANY_INDEX;
    refused(op, ATT_ECAPACITY);
    struct att_op delete = {.kind = ATT_OP_DELETE, .index = 3};
    harness_update(fixture.engine, &fixture.model, &delete, &fixture.lsn);
    op.index = ATT_ANY_INDEX;
    harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
    assert_int_equal(op.index, 3); /* the only one that was free */
}

static void unknown_kinds_are_refused(void **state)
{
    (void)state;
    refused((struct att_op){.kind = (enum att_op_kind)0}, ATT_EINVAL);
    refused((struct att_op){.kind = (enum att_op_kind)99}, ATT_EINVAL);
}

static void reads_out_of_range_are_refused(void **state)
{
    (void)state;
    struct att_error error = {0};
    double values[D_V] = {9, 9, 9, 9}, bound = 9;
    float numbers[D_V];
    assert_int_equal(att_engine_query(fixture.engine, N_Q, 0, values, &bound, &error), ATT_ERANGE);
    assert_true(strlen(error.text) > 5);
    assert_int_equal(att_engine_query(fixture.engine, 0, D_V, values, &bound, &error), ATT_ERANGE);
    assert_int_equal(att_engine_query(fixture.engine, UINT32_MAX, UINT32_MAX, values, &bound, &error), ATT_ERANGE);
    assert_int_equal(att_engine_row(fixture.engine, N_Q, values, &bound, &error), ATT_ERANGE);
    assert_int_equal(att_engine_q(fixture.engine, N_Q, numbers, &error), ATT_ERANGE);
    assert_int_equal(att_engine_token(fixture.engine, DEAD, numbers, NULL, NULL, &error), ATT_ERANGE);
    assert_int_equal(att_engine_token(fixture.engine, CAPACITY, numbers, NULL, NULL, &error), ATT_ERANGE);
    assert_true(values[0] == 9 && bound == 9);
}

static void options_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    struct att_engine_options good = harness_options(&fixture.model), bad[11];
    for (int i = 0; i < 11; i++)
        bad[i] = good;
    bad[0].n_q = 0;
    bad[1].d = 0;
    bad[2].d_v = 0;
    bad[3].capacity = 0;
    bad[4].d = ATT_MAX_COLUMNS + 1;
    bad[5].d_v = ATT_MAX_COLUMNS + 1;
    bad[6].scale = (double)NAN;
    bad[7].scale = (double)INFINITY;
    bad[8].scale = -1.5e308; /* finite, but log2(e) times it is not */
    bad[9].n_q = (uint32_t)INT32_MAX + 1;
    bad[10].capacity = (uint32_t)INT32_MAX + 1;
    for (int i = 0; i < 11; i++) {
        struct att_error error = {0};
        struct att_engine *engine = (struct att_engine *)&error;
        if (att_engine_create(&bad[i], &engine, &error) != ATT_EINVAL)
            fail_msg("options %d were not refused with ATT_EINVAL", i);
        assert_ptr_equal(engine, &error);
        assert_true(strlen(error.text) > 0);
    }
    att_engine_free(NULL);
}

/* Ten heads of a quarter of the machine's memory each are refused; the message says what they need. */
static void heads_that_memory_cannot_hold_together_are_refused(void **state)
{
    (void)state;
    struct att_engine_options options = harness_options(&fixture.model);
    struct att_error error = {0};
    struct att_engine *engine = NULL;
    const double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    options.capacity = (uint32_t)fmin(machine / 4 / (4 * (D + D_V + 1) + 31), 2e9);
    options.heads = 10;
    assert_int_equal(att_engine_create(&options, &engine, &error), ATT_ENOMEM);
    assert_null(engine);
    const char *needed = strstr(error.text, "needs ");
    assert_non_null(needed);
    const double gib = strtod(needed + strlen("needs "), NULL);
    if (!(gib > 2.4 * machine / 0x1p30 && gib < 2.7 * machine / 0x1p30))
        fail_msg("two and a half machines are not %.1f GiB: %s", gib, error.text);
    assert_non_null(strstr(error.text, "more while a snapshot is taken"));
    options.heads = 1;
    options.capacity /= 1000;
    assert_int_equal(att_engine_create(&options, &engine, &error), ATT_OK);
    att_engine_free(engine);
}

/* A log whose entries the machine could hold but once is refused: a merge packs them beside it. */
static void a_log_that_memory_cannot_hold_packed_is_refused(void **state)
{
    (void)state;
    struct att_engine_options options = harness_options(&fixture.model);
    struct att_error error = {0};
    struct att_engine *engine = NULL;
    const double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    options.log_capacity = (uint32_t)fmin(0.07 * machine / (8 * (D + D_V) + 100), INT32_MAX / 2);
    options.heads = 10; /* so that little is touched when it is not refused */
    assert_int_equal(att_engine_create(&options, &engine, &error), ATT_ENOMEM);
    assert_null(engine);
    assert_non_null(strstr(error.text, "this machine has"));
}

/* The start must be refused, and name where the bad number is. */
static void start_refused(enum att_array array, size_t element, float number, enum att_status expected,
                          const char *name, const char *row, const char *column)
{
    struct att_engine_options options = harness_options(&fixture.model);
    struct att_engine *engine = harness_create(&fixture.model, &options);
    struct att_error error = {0};
    size_t bytes;
    ((float *)att_engine_array(engine, array, &bytes))[element] = number;
    assert_int_equal(att_engine_start(engine, &error), expected);
    if (!strstr(error.text, name) || !strstr(error.text, row) || !strstr(error.text, column))
        fail_msg("the message should name %s, %s and %s: %s", name, row, column, error.text);
    att_engine_free(engine);
}

static void arrays_that_are_not_finite_do_not_start(void **state)
{
    (void)state;
    start_refused(ATT_ARRAY_Q, 1 * D + 2, NAN, ATT_ENOTFINITE, "Q", "1", "2");
    start_refused(ATT_ARRAY_K, 3 * D + 1, INFINITY, ATT_ENOTFINITE, "K", "3", "1");
    start_refused(ATT_ARRAY_V, 5 * D_V + 2, -INFINITY, ATT_ENOTFINITE, "V", "5", "2");
    start_refused(ATT_ARRAY_BIAS, 4, NAN, ATT_ENOTFINITE, "", "4", "");
    start_refused(ATT_ARRAY_BIAS, 4, INFINITY, ATT_ENOTFINITE, "", "4", "");
}

static void scores_that_overflow_float32_are_refused_in_single(void **state)
{
    (void)state;
    struct att_engine_options options = harness_options(&fixture.model);
    options.precision = ATT_SINGLE;
    struct att_engine *engine = harness_start(&fixture.model, &options);
    struct att_error error = {0};
    const float huge[D] = {FLT_MAX, FLT_MAX, FLT_MAX};
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 0, .key = huge};
    assert_int_equal(att_engine_apply(engine, &op, 1, &error), ATT_EMAGNITUDE);
    harness_check_state(engine, &fixture.model);
    struct att_op q = {.kind = ATT_OP_SET_Q, .index = 0, .key = huge};
    assert_int_equal(att_engine_apply(engine, &q, 1, &error), ATT_EMAGNITUDE);
    harness_check_state(engine, &fixture.model);
    att_engine_free(engine);
}

/* The keys do not matter: s q in float32 would be infinite, and times 0 it is no number. */
static void rows_of_q_that_overflow_float32_are_refused_in_single(void **state)
{
    (void)state;
    struct model zero;
    model_init(&zero, N_Q, D, D_V, CAPACITY, 2);
    zero.live[0] = 1;
    zero.tokens = 1;
    zero.v[0] = 1;
    zero.max_value = 1;
    struct att_engine_options options = harness_options(&zero);
    options.precision = ATT_SINGLE;
    struct att_engine *engine = harness_start(&zero, &options);
    struct att_error error = {0};
    const float huge[D] = {0, 3e38f, 0}, large[D] = {0, 4e36f, 0};
    struct att_op op = {.kind = ATT_OP_SET_Q, .index = 1, .key = huge};
    assert_int_equal(att_engine_apply(engine, &op, 1, &error), ATT_EMAGNITUDE);
    assert_non_null(strstr(error.text, "Q[1]"));
    harness_check_state(engine, &zero);
    op.key = large;
    uint64_t lsn = 0;
    harness_update(engine, &zero, &op, &lsn);
    harness_check_row(engine, &zero, 1, harness_tolerance(ATT_SINGLE));
    att_engine_free(engine);
    memcpy(zero.q + 2 * D, huge, sizeof huge);
    engine = harness_create(&zero, &options);
    assert_int_equal(att_engine_start(engine, &error), ATT_EMAGNITUDE);
    assert_non_null(strstr(error.text, "Q[2]"));
    att_engine_free(engine);
    model_release(&zero);
}

/* What no door lets in is put in behind its back. */
static void a_denominator_that_is_no_number_gives_an_error_instead_of_an_answer(void **state)
{
    (void)state;
    struct att_engine_options options = harness_options(&fixture.model);
    options.precision = ATT_SINGLE;
    struct att_engine *engine = harness_create(&fixture.model, &options);
    struct att_error error = {0};
    double values[N_Q * D_V], bounds[N_Q];
    size_t bytes;
    float *q = att_engine_array(engine, ATT_ARRAY_Q, &bytes);
    assert_int_equal(att_engine_prepare(engine, &error), ATT_OK);
    q[1 * D] = INFINITY;
    assert_int_equal(att_engine_start(engine, &error), ATT_OK);
    struct att_job row = {.kind = ATT_JOB_ROW, .index = 1, .values = values, .bounds = bounds};
    assert_int_equal(harness_job(engine, &row), ATT_EMAGNITUDE);
    struct att_job column = {.kind = ATT_JOB_COLUMN, .index = 1, .values = values, .bounds = bounds};
    assert_int_equal(harness_job(engine, &column), ATT_EMAGNITUDE);
    struct att_job all = {.kind = ATT_JOB_ALL, .values = values, .bounds = bounds};
    assert_int_equal(harness_job(engine, &all), ATT_EMAGNITUDE);
    for (uint32_t j = 0; j < D_V; j++)
        assert_true(isnan(values[1 * D_V + j]) && isfinite(values[2 * D_V + j]));
    row.index = 2;
    assert_int_equal(harness_job(engine, &row), ATT_OK);
    att_engine_free(engine);
}

static void a_piece_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct att_engine_options options = harness_options(&fixture.model);
    struct att_engine *engine = harness_create(&fixture.model, &options);
    struct att_error error = {0};
    static const char bytes[4096];
    const struct att_piece bad[] = {
        {.array = ATT_ARRAY_K, .offset = 0, .bytes = CAPACITY * D * sizeof(float) + 4, .data = bytes},
        {.array = ATT_ARRAY_K, .offset = CAPACITY * D * sizeof(float), .bytes = 4, .data = bytes},
        {.array = ATT_ARRAY_LIVE, .offset = UINT64_MAX, .bytes = 2, .data = bytes},
        {.array = ATT_ARRAY_LIVE, .offset = 1, .bytes = UINT64_MAX, .data = bytes},
        {.array = ATT_ARRAY_COUNT, .offset = 0, .bytes = 1, .data = bytes},
        {.array = ATT_ARRAY_BASES, .offset = (uint64_t)1 << 40, .bytes = 8, .data = bytes},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (att_engine_restore(engine, &bad[i], &error) != ATT_ECORRUPT)
            fail_msg("piece %zu was not refused with ATT_ECORRUPT", i);
    att_engine_free(engine);
}

static void an_update_that_came_back_absolute_changes_nothing_when_repeated(void **state)
{
    (void)state;
    struct att_op ops[] = {
        {.kind = ATT_OP_ADD_K, .index = 1, .column = 2, .number = 0.1},
        {.kind = ATT_OP_ADD_V, .index = 1, .column = 3, .number = -7.3},
        {.kind = ATT_OP_APPEND, .index = ATT_ANY_INDEX, .key = key, .value = value},
        {.kind = ATT_OP_SET_TOKEN, .index = 4, .value = value},
        {.kind = ATT_OP_SET_Q, .index = 2, .key = key},
    };
    struct att_error error = {0};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        harness_update(fixture.engine, &fixture.model, &ops[i], &fixture.lsn);
        struct att_op again = ops[i];
        assert_int_equal(harness_apply(fixture.engine, &again, ++fixture.lsn, &error), ATT_OK);
        assert_memory_equal(&again, &ops[i], sizeof again);
        harness_check_state(fixture.engine, &fixture.model);
    }
    for (uint32_t i = 0; i < N_Q; i++)
        harness_check_row(fixture.engine, &fixture.model, i, harness_tolerance(ATT_MIXED));
}

/* A snapshot's sink that keeps the merge thread, which then empties no log, until it is let go. */
static atomic_bool kept, keeping;

static void keep_merge_thread(void *context, uint64_t lsn, uint32_t tokens_used)
{
    (void)context, (void)lsn, (void)tokens_used;
    kept = true;
    while (keeping)
        harness_sleep_us(100);
}

static bool sink_room(void *context)
{
    (void)context;
    return true;
}

static void sink_piece(void *context, const struct att_piece *piece)
{
    (void)context, (void)piece;
}

static void sink_end(void *context)
{
    (void)context;
}

static void a_full_log_refuses_and_loses_nothing(void **state)
{
    (void)state;
    enum { MANY = 50 };
    struct model many, *model = &many;
    struct test_random random;
    random_init(&random, 8);
    model_init(model, N_Q, D, D_V, MANY, 1);
    model_fill(model, &random, MANY, 1);
    struct att_engine_options options = harness_options(model);
    options.log_capacity = 64;
    struct att_engine *engine = harness_create(model, &options);
    struct att_error error = {0};
    const struct att_sink sink = {.begin = keep_merge_thread, .room = sink_room, .piece = sink_piece, .end = sink_end};
    struct att_job snapshot = {.kind = ATT_JOB_SNAPSHOT, .sink = &sink};
    assert_int_equal(att_engine_start(engine, &error), ATT_OK);
    keeping = true;
    att_engine_submit(engine, &snapshot);
    while (!kept)
        harness_sleep_us(100);
    uint32_t taken = 0;
    enum att_status status = ATT_OK;
    for (; taken < MANY; taken++) {
        struct att_op op = {.kind = ATT_OP_ADD_V, .index = taken, .column = 1, .number = 0.25};
        struct att_op asked = op;
        status = att_engine_apply(engine, &op, taken + 1, &error);
        if (status != ATT_OK)
            break;
        model_apply(model, &asked);
    }
    assert_int_equal(status, ATT_AGAIN);
    assert_int_equal(taken, 64 / 2); /* -old and +new each */
    harness_check_state(engine, model);
    keeping = false;
    while (!att_engine_completed(engine))
        harness_sleep_us(100);
    harness_check_row(engine, model, 0, harness_tolerance(ATT_MIXED));
    uint64_t lsn = taken + 1;
    struct att_op op = {.kind = ATT_OP_ADD_V, .index = 0, .column = 1, .number = 0.25};
    harness_update(engine, model, &op, &lsn);
    harness_check_row(engine, model, 0, harness_tolerance(ATT_MIXED));
    att_engine_free(engine);
    model_release(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(indices_out_of_range_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_that_are_not_finite_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(heads_that_memory_cannot_hold_together_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_log_that_memory_cannot_hold_packed_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(an_append_beyond_the_capacity_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(unknown_kinds_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_out_of_range_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(options_that_make_no_sense_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(arrays_that_are_not_finite_do_not_start, setup, teardown),
        cmocka_unit_test_setup_teardown(scores_that_overflow_float32_are_refused_in_single, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_of_q_that_overflow_float32_are_refused_in_single, setup, teardown),
        cmocka_unit_test_setup_teardown(a_denominator_that_is_no_number_gives_an_error_instead_of_an_answer, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_piece_that_does_not_fit_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(an_update_that_came_back_absolute_changes_nothing_when_repeated, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_full_log_refuses_and_loses_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
