/* What a reader makes of a region that holds no answer for the row, and what it books for the entries that it folds. */
#include <math.h>

#include "engine_impl.h"
#include "harness.h"
#include "reader.h"

enum { N_Q = 130, D = 4, D_V = 3, TOKENS = 20, ROW = 70, OTHER = 71 };

/* A store that no thread makes meanwhile: the merge thread has nothing to do, and is held. */
static void disturb(struct att_engine *engine, int how, bool undo)
{
    const struct att_region *region = &engine->region;
    static uint64_t was;
    const uint32_t slot = atomic_load(&region->slots[ROW]), tile = slot / ATT_TILE_ROWS;
    const uint64_t count = atomic_load(&region->header->count);
    struct att_tile *base = NULL;
    if (tile < region->tiles && ATT_WORD_PHYSICAL(atomic_load(&region->words[tile])) < region->physical_tiles)
        base = att_region_tile(region, ATT_WORD_PHYSICAL(atomic_load(&region->words[tile])));
    switch (how) {
    case 0: /* entries that it needs may have been overwritten */
        was = undo ? was : atomic_load(&region->header->tail);
        atomic_store(&region->header->tail, undo ? was : was + 1);
        break;
    case 1: /* another version of the row of Q */
        atomic_store(&region->row_version[ROW], atomic_load(&region->row_version[ROW]) + (undo ? -1u : 1u));
        break;
    case 2: /* another row's base, a cold row, a slot that there is not */
    case 3:
    case 4:
        was = undo ? was : slot;
        atomic_store(&region->slots[ROW], undo       ? (uint32_t)was
                                          : how == 2 ? atomic_load(&region->slots[OTHER])
                                          : how == 3 ? ATT_NO_SLOT
                                                     : region->tiles * ATT_TILE_ROWS);
        break;
    case 5: /* a tile that there is not */
        was = undo ? was : atomic_load(&region->words[tile]);
        atomic_store(&region->words[tile], undo ? was : ATT_WORD(was >> 32, UINT32_MAX));
        break;
    default: /* a base of later than `count`, or of more entries ago than there are */
        was = undo ? was : base->position;
        base->position = undo ? was : how == 6 ? count + 1 : count - region->log_capacity - 1;
        break;
    }
}

static void a_reader_takes_no_base_that_is_not_the_rows_or_out_of_reach(void **state)
{
    (void)state;
    struct model model;
    struct test_random random;
    uint64_t lsn = 0;
    random_init(&random, 41);
    model_init(&model, N_Q, D, D_V, TOKENS, 1);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    att_engine_hold(engine, true);
    for (int pending = 0; pending < 2; pending++) {
        for (int how = 0; how < 8; how++) {
            double values[D_V], bound;
            disturb(engine, how, false);
            assert_int_equal(att_read_entry(&engine->region, ROW, 1, values, &bound), ATT_AGAIN);
            assert_int_equal(att_read_row(&engine->region, ROW, values, &bound), ATT_AGAIN);
            disturb(engine, how, true);
            assert_int_equal(att_read_entry(&engine->region, ROW, 1, values, &bound), ATT_OK);
            assert_int_equal(att_read_row(&engine->region, ROW, values, &bound), ATT_OK);
        }
        float value[D_V] = {1, 2, 3};
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 3, .value = value};
        harness_update(engine, &model, &op, &lsn);
    }
    att_engine_free(engine);
    model_release(&model);
}

/* Weights and values of 1, so that the sums have no error: but a bound has to count each addition. In units of the precision
 * in which values are summed, for C and D together. */
static void check_additions(enum att_precision precision, double read, double merged)
{
    enum { MOST = 256 };
    const double unit = precision == ATT_SINGLE ? 0x1p-24 : 0x1p-53;
    struct model model;
    struct att_job merge = {.kind = ATT_JOB_MERGE};
    uint64_t lsn = 0;
    double value, bound;
    const float key = 0, one = 1;
    model_init(&model, 1, 1, 1, MOST, 1);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    options.log_capacity = 4 * MOST;
    struct att_engine *engine = harness_create(&model, &options);
    struct att_op op = {.kind = ATT_OP_APPEND, .key = &key, .value = &one};
    assert_int_equal(att_engine_start(engine, NULL), ATT_OK);
    harness_update(engine, &model, &op, &lsn);
    assert_int_equal(harness_job(engine, &merge), ATT_OK);
    harness_settle(engine);
    assert_int_equal(harness_entry(engine, 0, 0, &value, &bound), ATT_OK);
    att_engine_hold(engine, true);
    for (op.index = 1; op.index < MOST; op.index++)
        harness_update(engine, &model, &op, &lsn);
    assert_int_equal(att_read_entry(&engine->region, 0, 0, &value, &bound), ATT_OK);
    assert_true(value == 1 && bound >= read * unit && bound < 2 * read * unit);
    assert_int_equal(harness_job(engine, &merge), ATT_OK);
    assert_int_equal(att_read_entry(&engine->region, 0, 0, &value, &bound), ATT_OK);
    assert_true(value == 1 && bound >= merged * unit && bound < 2 * merged * unit);
    att_engine_free(engine);
    model_release(&model);
}

static void a_bound_counts_the_additions_of_a_query_and_of_a_merge(void **state)
{
    (void)state;
#ifdef ATTND_TSAN
    const double read = 2 * 28; /* a tile at a time: 18, and half of the 16 times that it is added */
    const int tiles = 1;
#else
    const double read = 2 * 220;
    const int tiles = 16;
#endif
    check_additions(ATT_DOUBLE, read, 2 * 255);
    /* A query: its tiles, and two for lanes, twice. A merge: C a chain and seven more, D 16 tiles and two. And exp, for both. */
    check_additions(ATT_SINGLE, 2 * (tiles + 2) + 4, 32 + 7 + 16 + 2 + 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reader_takes_no_base_that_is_not_the_rows_or_out_of_reach),
        cmocka_unit_test(a_bound_counts_the_additions_of_a_query_and_of_a_merge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
