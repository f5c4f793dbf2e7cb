/* Operations applied before the start, as recovery does: compacted in place, merged when the log is full, and the state is
 * the same. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"

enum { N_Q = 20, D = 6, D_V = 5, CAPACITY = 40, MOST_RECORDS = 300 };

static struct att_op random_op(struct test_random *random, const struct model *model, float *key, float *value)
{
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = random_below(random, CAPACITY), .key = key, .value = value};

    random_normals(random, key, D, 1.0);
    random_normals(random, value, D_V, 1.0);
    if (!model->live[op.index])
        op.kind = ATT_OP_APPEND;
    else if (random_one_in(random, 4))
        op = (struct att_op){.kind = ATT_OP_DELETE, .index = op.index};
    else if (random_one_in(random, 4))
        op = (struct att_op){.kind = ATT_OP_SET_Q, .index = random_below(random, N_Q), .key = key};
    return op;
}

/* Far more operations than the log could hold uncompacted; in every other round, compacted. */
static void replayed_operations_are_compacted_and_served(void **state)
{
    struct test_random random;
    struct att_error error;
    (void)state;
    random_seed(&random, 314, "replay");
    for (int round = 0; round < 20; round++) {
        struct model model;
        struct att_engine_stats stats;
        uint64_t lsn = 100;
        model_init(&model, N_Q, D, D_V, CAPACITY, 0.5);
        model_fill(&model, &random, CAPACITY / 2, 1.0);
        struct att_engine_options options = harness_options(&model);
        options.log_capacity = round % 2 ? 64 : 128;
        struct att_engine *engine = harness_create(&model, &options);
        att_engine_set_lsn(engine, lsn);
        assert_int_equal(att_engine_prepare(engine, &error), ATT_OK);
        for (uint32_t i = random_below(&random, 600); i > 0; i--) {
            float key[D], value[D_V];
            struct att_op op = random_op(&random, &model, key, value);
            assert_int_equal(att_engine_apply(engine, &op, ++lsn, &error), ATT_OK);
            model_apply(&model, &op);
        }
        assert_int_equal(att_engine_start(engine, &error), ATT_OK);
        harness_check_state(engine, &model);
        harness_check_all(engine, &model, harness_tolerance(ATT_MIXED));
        struct att_job merge = {.kind = ATT_JOB_MERGE};
        assert_int_equal(harness_job(engine, &merge), ATT_OK);
        att_engine_stats(engine, &stats);
        assert_true(merge.lsn == lsn && stats.settled_lsn == lsn && stats.lsn == lsn);
        assert_true(stats.log_pending == 0 && stats.tokens == model.tokens);
        harness_check_all(engine, &model, harness_tolerance(ATT_MIXED));
        att_engine_free(engine);
        model_release(&model);
    }
}

/* Replay rewrites the entry of token 0 behind that of token 1: the newest LSN is not in the last entry. */
static void the_lsn_of_a_merge_is_the_largest_of_its_entries(void **state)
{
    struct model model;
    struct test_random random;
    struct att_error error;
    float key[D] = {1.0f};
    const uint32_t tokens[] = {0, 1, 0};
    uint64_t lsn = 0;
    (void)state;
    random_init(&random, 1);
    model_init(&model, N_Q, D, D_V, CAPACITY, 0.5);
    model_fill(&model, &random, CAPACITY, 1.0);
    struct att_engine_options options = harness_options(&model);
    struct att_engine *engine = harness_create(&model, &options);
    assert_int_equal(att_engine_prepare(engine, &error), ATT_OK);
    for (int i = 0; i < 3; i++) {
        struct att_op set = {.kind = ATT_OP_SET_TOKEN, .index = tokens[i], .key = key};
        assert_int_equal(att_engine_apply(engine, &set, ++lsn, &error), ATT_OK);
    }
    struct att_op delete = {.kind = ATT_OP_DELETE, .index = 0};
    assert_int_equal(att_engine_apply(engine, &delete, ++lsn, &error), ATT_OK);
    assert_int_equal(att_engine_start(engine, &error), ATT_OK);
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    assert_int_equal(harness_job(engine, &merge), ATT_OK);
    assert_int_equal(merge.lsn, lsn);
    att_engine_free(engine);
    model_release(&model);
}

/* Appends and deletes of a state, and what a recovery has of it: the live tokens of the snapshot, the operations since. */
struct history {
    struct model model, snapshot;
    struct att_op since[MOST_RECORDS];
    uint32_t records;
    uint64_t lsn;
};

static void take_snapshot(struct history *history)
{
    memcpy(history->snapshot.live, history->model.live, history->model.capacity);
    history->snapshot.tokens = history->model.tokens;
    history->records = 0;
}

static struct att_engine *recover(struct history *history, const struct att_engine_options *options)
{
    struct att_engine *engine = harness_create(&history->snapshot, options);
    struct att_error error;
    assert_int_equal(att_engine_prepare(engine, &error), ATT_OK);
    for (uint32_t i = 0; i < history->records; i++) {
        struct att_op op = history->since[i];
        assert_int_equal(att_engine_apply(engine, &op, ++history->lsn, &error), ATT_OK);
    }
    assert_int_equal(att_engine_start(engine, &error), ATT_OK);
    return engine;
}

/* Deletes a token, or appends one. The engine chooses its index: none but the lowest that is free. */
static void append_or_delete(struct history *history, struct att_engine *engine, struct test_random *random)
{
    static const float key[D], value[D_V];
    struct att_op op = {.kind = ATT_OP_DELETE, .index = random_below(random, history->model.capacity)};
    struct att_error error;
    if (!history->model.live[op.index] || random_one_in(random, 2))
        op = (struct att_op){.kind = ATT_OP_APPEND, .index = ATT_ANY_INDEX, .key = key, .value = value};
    if (op.kind == ATT_OP_APPEND && history->model.tokens == history->model.capacity) {
        assert_int_equal(att_engine_apply(engine, &op, history->lsn + 1, &error), ATT_ECAPACITY);
        return;
    }
    harness_update(engine, &history->model, &op, &history->lsn);
    history->since[history->records++] = op;
}

/* Whatever led to the state: updates sent again after a crash then find the same tokens, and none is ever lost. */
static void an_append_takes_the_lowest_free_token_also_after_a_recovery(void **state)
{
    const uint32_t capacities[] = {1, 2, 63, 64, 65, 500, 4096, 5000};
    struct test_random random;
    (void)state;
    random_seed(&random, 2718, "lowest free");
    for (size_t c = 0; c < sizeof capacities / sizeof *capacities; c++) {
        struct history history = {.records = 0};
        model_init(&history.model, N_Q, D, D_V, capacities[c], 0.5);
        model_init(&history.snapshot, N_Q, D, D_V, capacities[c], 0.5);
        memset(history.model.live, 1, capacities[c] - capacities[c] / 256); /* nearly full */
        history.model.tokens = capacities[c] - capacities[c] / 256;
        take_snapshot(&history);
        struct att_engine_options options = harness_options(&history.model);
        struct att_engine *engine = recover(&history, &options);
        for (uint32_t n = test_times(1500); n > 0; n--) {
            append_or_delete(&history, engine, &random);
            if (history.records == MOST_RECORDS || random_one_in(&random, 100))
                take_snapshot(&history);
            if (random_one_in(&random, 50)) {
                att_engine_free(engine);
                engine = recover(&history, &options);
            }
        }
        harness_check_state(engine, &history.model);
        att_engine_free(engine);
        model_release(&history.model);
        model_release(&history.snapshot);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replayed_operations_are_compacted_and_served),
        cmocka_unit_test(the_lsn_of_a_merge_is_the_largest_of_its_entries),
        cmocka_unit_test(an_append_takes_the_lowest_free_token_also_after_a_recovery),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
