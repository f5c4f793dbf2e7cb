/* The door keeps what is there within what the precision can hold, and forgets what has gone. */
#include <sys/mman.h>

#include "engine_impl.h"
#include "harness.h"

enum { N_Q = 6, D = 3, D_V = 2, CAPACITY = 60, TOKENS = 50 };

struct fixture {
    struct model model;
    struct test_random random;
    struct att_engine *engine;
    uint64_t lsn;
};

static struct fixture fixture;

/* Small keys, so that a row of Q may be large. */
static int setup(void **state)
{
    (void)state;
    random_init(&fixture.random, 41);
    model_init(&fixture.model, N_Q, D, D_V, CAPACITY, 1);
    model_fill(&fixture.model, &fixture.random, TOKENS, 1e-8);
    fixture.lsn = 0;
    struct att_engine_options options = harness_options(&fixture.model);
    options.log_capacity = 64;
    fixture.engine = harness_start(&fixture.model, &options);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    att_engine_free(fixture.engine);
    model_release(&fixture.model);
    return 0;
}

static void update(struct att_op op)
{
    harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
}

static void refused(struct att_op op)
{
    struct att_error error = {0};
    assert_int_equal(harness_apply(fixture.engine, &op, fixture.lsn + 1, &error), ATT_EMAGNITUDE);
    harness_check_state(fixture.engine, &fixture.model);
}

static void merge(void)
{
    struct att_job job = {.kind = ATT_JOB_MERGE};
    assert_int_equal(harness_job(fixture.engine, &job), ATT_OK);
}

static void check_rows(void)
{
    for (uint32_t row = 0; row < N_Q; row++)
        harness_check_row(fixture.engine, &fixture.model, row, harness_tolerance(ATT_MIXED));
}

static const float large_key[D] = {1e12f, 0, 0}, small_key[D] = {1e-8f, -1e-8f, 0};
static const float large_q[D] = {1e8f, 1e8f, 0}, small_q[D] = {1, 0, 0};
static const struct att_op large_token = {.kind = ATT_OP_SET_TOKEN, .index = 7, .key = large_key};
static const struct att_op small_token = {.kind = ATT_OP_SET_TOKEN, .index = 7, .key = small_key};
static const struct att_op no_token = {.kind = ATT_OP_DELETE, .index = 7};
static const struct att_op large_row = {.kind = ATT_OP_SET_Q, .index = 2, .key = large_q};
static const struct att_op small_row = {.kind = ATT_OP_SET_Q, .index = 2, .key = small_q};

static void a_large_token_is_in_the_way_of_large_rows_until_it_is_replaced(void **state)
{
    (void)state;
    update(large_token);
    refused(large_row);
    update(small_token);
    update(large_row);
    refused(large_token);
    check_rows();
}

static void a_large_token_is_in_the_way_of_large_rows_until_it_is_deleted(void **state)
{
    (void)state;
    update(large_token);
    merge();
    refused(large_row);
    update(no_token);
    update(large_row);
    check_rows();
    merge();
    check_rows();
}

static void a_large_row_is_in_the_way_of_large_tokens_until_it_is_replaced(void **state)
{
    (void)state;
    update(large_row);
    refused(large_token);
    update(small_row);
    update(large_token);
    refused(large_row);
    merge();
    refused(large_row);
}

static void what_a_full_log_kept_out_is_not_in_the_way(void **state)
{
    (void)state;
    struct att_error error = {0};
    struct att_op op = large_token;
    update(large_token);
    refused(large_row);
    update(small_token);
    update(large_row);
    update(small_row);
    merge();
    att_engine_hold(fixture.engine, true);
    for (int n = 0; n < 32; n++)
        update(small_token);
    assert_int_equal(att_engine_apply(fixture.engine, &op, fixture.lsn + 1, &error), ATT_AGAIN);
    update(large_row);
    check_rows();
}

/* Replay puts entries in the place of earlier ones. */
static void replay_lets_in_what_came_after_the_large_had_gone(void **state)
{
    (void)state;
    struct att_error error = {0};
    att_engine_free(fixture.engine);
    struct att_engine_options options = harness_options(&fixture.model);
    fixture.engine = harness_create(&fixture.model, &options);
    assert_int_equal(att_engine_prepare(fixture.engine, &error), ATT_OK);
    update(large_token);
    refused(large_row);
    update(small_token);
    update(large_row);
    update(small_row);
    update(large_token);
    update(no_token);
    update(large_row);
    assert_int_equal(att_engine_start(fixture.engine, &error), ATT_OK);
    check_rows();
}

/* On a slow machine a row may go cold between two reads: then it is read until it has a base. */
static void make_all_hot(void)
{
    struct att_engine_stats stats;
    for (int n = 0; n < 1000; n++) {
        harness_settle(fixture.engine);
        att_engine_stats(fixture.engine, &stats);
        if (stats.rows_cold == 0)
            return;
        check_rows();
    }
    fail_msg("%d rows stay cold", (int)stats.rows_cold);
}

/* A token that has gone leaves its key where it was: in the settled tokens, and in the log around the base's position. With a row
 * that came later it would have a score beyond every mask. */
static void what_has_gone_does_not_meet_what_came_later(void **state)
{
    (void)state;
    for (uint32_t n = 0; n < 24; n++) {
        update(large_token);
        if (n % 3 == 0)
            merge();
        update(n % 2 == 0 ? small_token : no_token);
        if (n % 3 == 1)
            merge();
        update(large_row);
        check_rows(); /* by a job: the row's base is that of its former row of Q */
        merge();
        make_all_hot();
        att_engine_hold(fixture.engine, true);
        const uint64_t jobs = harness_counts().jobs;
        for (uint32_t k = 0; k < 20; k++) { /* from its base, across the tile in which the token came and left */
            update((struct att_op){.kind = ATT_OP_SET_TOKEN, .index = 10 + k, .key = small_key});
            if (k % 4 == 0)
                check_rows();
        }
        assert_int_equal(harness_counts().jobs, jobs);
        att_engine_hold(fixture.engine, false);
        update(small_row);
        if (n % 2 != 0)
            update((struct att_op){
                .kind = ATT_OP_APPEND, .index = large_token.index, .key = small_key, .value = fixture.model.v});
    }
}

/* It lies in the log as a masked entry, with the row as its key, and |s||q||q'| of two rows of Q knows no limit: as a row of a tile that
 * is not full, and then in lanes, it is no key. */
static void a_row_of_q_in_the_log_does_not_meet_other_rows(void **state)
{
    (void)state;
    update(large_row);
    check_rows();
    merge();
    make_all_hot();
    att_engine_hold(fixture.engine, true);
    const uint64_t jobs = harness_counts().jobs;
    for (uint32_t k = 0; k < 20; k++) {
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 10 + k, .key = small_key};
        if (k % 6 == 1)
            op = (struct att_op){.kind = ATT_OP_SET_Q, .index = 3, .key = large_q};
        update(op);
        harness_check_row(fixture.engine, &fixture.model, 2, harness_tolerance(ATT_MIXED));
        harness_check_entry(fixture.engine, &fixture.model, 2, 1, harness_tolerance(ATT_MIXED));
    }
    assert_int_equal(harness_counts().jobs, jobs);
    att_engine_hold(fixture.engine, false);
}

/* All of Q may be a gigabyte, and clients wait while the door looks: it takes the rows' sizes from a list. */
static void the_door_does_not_read_q(void **state)
{
    struct att_op refused_op = large_token;
    struct att_error error = {0};
    (void)state;
    merge();
    harness_settle(fixture.engine);
    att_engine_hold(fixture.engine, true);
    assert_int_equal(mprotect(fixture.engine->region.q, 4096, PROT_NONE), 0);
    for (int n = 0; n < 3; n++) { /* from the second time on what was the largest has gone: it is looked for */
        update(large_row);
        assert_int_equal(att_engine_apply(fixture.engine, &refused_op, fixture.lsn + 1, &error), ATT_EMAGNITUDE);
    }
    update(small_row);
    update(large_token);
    assert_int_equal(mprotect(fixture.engine->region.q, 4096, PROT_READ | PROT_WRITE), 0);
    harness_check_state(fixture.engine, &fixture.model);
}

/* ---- Many rows and tokens ---- */

enum { MANY_ROWS = 2 * ATT_PEAK_BLOCK + 9, MANY_TOKENS = 2 * ATT_PEAK_BLOCK + 100 };

/* Which rows and tokens are large; no large row and no large token at once is all that the door asks for here. */
struct shadow {
    bool row[MANY_ROWS], live[MANY_TOKENS], token[MANY_TOKENS];
    uint32_t rows, tokens; /* that are large */
};

static void note(bool *is, bool now, uint32_t *count)
{
    *count = *count - *is + now;
    *is = now;
}

/* One update of a few places, in different blocks; it is let in or not, as it should be, or there is no room. */
static void let_in_or_not(struct att_engine *engine, struct test_random *random, struct shadow *shadow, uint64_t *lsn)
{
    static const float value[D_V] = {1.0f, 2.0f};
    const uint32_t place = random_below(random, 24) * (MANY_TOKENS / 24);
    const bool large = random_one_in(random, 2), of_row = place < MANY_ROWS && random_one_in(random, 3);
    const bool removed = !of_row && shadow->live[place] && random_one_in(random, 3);
    struct att_op op = {.index = place};
    struct att_error error = {0};
    enum att_status status, expected = ATT_OK;

    if (of_row) {
        op.kind = ATT_OP_SET_Q;
        op.key = large ? large_q : small_q;
        expected = large && shadow->tokens > 0 ? ATT_EMAGNITUDE : ATT_OK;
    } else if (removed) {
        op.kind = ATT_OP_DELETE;
    } else {
        op.kind = shadow->live[place] ? ATT_OP_SET_TOKEN : ATT_OP_APPEND;
        op.key = large ? large_key : small_key;
        op.value = value;
        expected = large && shadow->rows > 0 ? ATT_EMAGNITUDE : ATT_OK;
    }
    status = att_engine_apply(engine, &op, *lsn + 1, &error);
    if (status == ATT_AGAIN && expected == ATT_OK) {
        struct att_job merge_job = {.kind = ATT_JOB_MERGE};
        assert_int_equal(harness_job(engine, &merge_job), ATT_OK);
        return;
    }
    assert_int_equal(status, expected);
    if (status != ATT_OK)
        return;
    ++*lsn;
    if (of_row) {
        note(&shadow->row[place], large, &shadow->rows);
    } else {
        note(&shadow->token[place], large && !removed, &shadow->tokens);
        shadow->live[place] = !removed;
    }
}

/* Beginning with large tokens, or with large rows. */
static void only_what_is_there_is_in_the_way(uint64_t seed, bool rows)
{
    static struct shadow shadow;
    struct model model;
    struct test_random random;
    struct att_error error = {0};
    uint64_t lsn = 0;

    random_seed(&random, seed, "large rows and tokens");
    memset(&shadow, 0, sizeof shadow);
    model_init(&model, MANY_ROWS, D, D_V, MANY_TOKENS, 1);
    model_fill(&model, &random, MANY_TOKENS, 1e-8);
    for (uint32_t place = 0; place < MANY_ROWS; place += 5 * (MANY_TOKENS / 24)) {
        memcpy((rows ? model.q : model.k) + (size_t)place * D, rows ? large_q : large_key, sizeof large_q);
        note(rows ? &shadow.row[place] : &shadow.token[place], true, rows ? &shadow.rows : &shadow.tokens);
    }
    struct att_engine_options options = harness_options(&model);
    options.log_capacity = 256;
    struct att_engine *engine = harness_create(&model, &options);
    for (uint32_t token = 0; token < MANY_TOKENS; token++)
        shadow.live[token] = true;
    struct att_op other = rows ? large_token : large_row;
    assert_int_equal(att_engine_prepare(engine, &error), ATT_OK);
    assert_int_equal(att_engine_apply(engine, &other, 1, &error), ATT_EMAGNITUDE);
    for (int n = 0; n < 1000; n++) /* where they are, as long as nobody reads */
        let_in_or_not(engine, &random, &shadow, &lsn);
    assert_int_equal(att_engine_start(engine, &error), ATT_OK);
    att_engine_hold(engine, true);
    for (int n = 0; n < 3000; n++)
        let_in_or_not(engine, &random, &shadow, &lsn);
    att_engine_free(engine);
    model_release(&model);
}

static void of_many_only_what_is_there_is_in_the_way(void **state)
{
    (void)state;
    only_what_is_there_is_in_the_way(20261130, false);
    only_what_is_there_is_in_the_way(20261131, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_large_token_is_in_the_way_of_large_rows_until_it_is_replaced, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_large_token_is_in_the_way_of_large_rows_until_it_is_deleted, setup, teardown),
        cmocka_unit_test_setup_teardown(a_large_row_is_in_the_way_of_large_tokens_until_it_is_replaced, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_a_full_log_kept_out_is_not_in_the_way, setup, teardown),
        cmocka_unit_test_setup_teardown(replay_lets_in_what_came_after_the_large_had_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(what_has_gone_does_not_meet_what_came_later, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_of_q_in_the_log_does_not_meet_other_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(the_door_does_not_read_q, setup, teardown),
        cmocka_unit_test(of_many_only_what_is_there_is_in_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
