/* The memory of bases: rows that have gone cold take none, however the hot ones are spread, and answers stay what they were. */
#include <sys/stat.h>

#include "harness.h"

#include "engine_impl.h"
#include "random.h"

enum { N_Q = 16384, TOKENS = 48, D = 4, D_V = 64, THREADS = 1 };

static uint64_t held(const struct att_engine *engine)
{
    struct stat file;

    assert_int_equal(fstat(att_engine_region_fds(engine)[1], &file), 0);
    return 512 * (uint64_t)file.st_blocks;
}

/* What that many hot rows may take: full tiles, a sixteenth of them spared twice, the spares, and pages begun. */
static uint64_t allowed(const struct att_engine *engine, uint64_t hot)
{
    const uint64_t tiles = (hot + ATT_TILE_ROWS - 1) / ATT_TILE_ROWS, bytes = engine->region.tile_bytes + 4096;

    return (tiles + tiles / 16 + THREADS) * bytes * 17 / 16 + 4096;
}

static uint64_t rows_hot(const struct att_engine *engine)
{
    struct att_engine_stats stats;

    att_engine_stats(engine, &stats);
    return stats.rows_hot;
}

/* Merges until only every `one_in`th row is hot. */
static void cool(struct att_engine *engine, struct model *model, uint32_t one_in, uint64_t *lsn)
{
    double values[D_V], bound;

    do {
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = *lsn % TOKENS, .value = model->v};
        struct att_job job = {.kind = ATT_JOB_MERGE};
        for (uint32_t row = 0; row < N_Q; row += one_in)
            harness_row(engine, row, values, &bound);
        harness_update(engine, model, &op, lsn);
        assert_int_equal(harness_job(engine, &job), ATT_OK);
        assert_true(*lsn < 10000);
    } while (rows_hot(engine) > (N_Q + one_in - 1) / one_in);
}

/* Reads meanwhile, for the memory is replaced under the reader's feet. */
static void await_memory(struct att_engine *engine, const struct model *model, uint32_t one_in, uint64_t most)
{
    const double start = harness_seconds();

    for (uint32_t row = 0; held(engine) > most && harness_seconds() - start < 10.0;
         row = row + one_in < N_Q ? row + one_in : 0)
        harness_check_entry(engine, model, row, row % D_V, harness_tolerance(ATT_MIXED));
    assert_in_range(held(engine), 0, most);
}

static void rows_that_have_gone_cold_take_no_memory(void **state)
{
    (void)state;
    static const uint32_t spread[] = {2, 64, 3, 500}; /* of some rows become hot again */
    struct test_random random;
    struct model model;
    uint64_t lsn = 0;

    random_seed(&random, 17, "memory");
    model_init(&model, N_Q, D, D_V, TOKENS, 1.0);
    model_fill(&model, &random, TOKENS, 1.0);
    struct att_engine_options options = harness_options(&model);
    options.threads = THREADS;
    struct att_engine *engine = harness_start(&model, &options);
    harness_settle(engine);
    assert_int_equal(rows_hot(engine), N_Q);
    const uint64_t all = held(engine);
    for (uint32_t i = 0; i < sizeof spread / sizeof *spread; i++) {
        cool(engine, &model, spread[i], &lsn);
        await_memory(engine, &model, spread[i], allowed(engine, N_Q / spread[i] + 1));
        for (uint32_t row = 0; row < N_Q; row += 241)
            harness_check_row(engine, &model, row, harness_tolerance(ATT_MIXED));
    }
    assert_true(atomic_load(&engine->region.header->epoch) >= 3);
    assert_true(all > 10 * held(engine));
    att_engine_free(engine);
    model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_that_have_gone_cold_take_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
