/* Readers in other processes, on a read-only mapping of the published region, while one process updates and merges all
 * the time. All keys are zero, so every weight is 1 and O is the mean of V; update number u sets one token's values to
 * functions of u. So each state has its own outputs, and an answer tells which state it saw: all columns must tell the
 * same one, it must not be older than what was acknowledged before the read, nor newer than what was after it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "random.h"
#include "reader.h"

enum { N_K = 128, D = 4, MOST_D_V = 256, MOST_READERS = 3 };

/* What is read and how. */
struct shape {
    uint32_t n_q, d_v, log_capacity, readers, threads;
    uint32_t q_changes_one_in; /* so many updates of tokens */
};

struct shared {
    _Atomic uint64_t applied; /* updates that have been acknowledged */
    _Atomic bool stop;
    _Atomic uint64_t answers, busy;
};

static double value_of(double u, uint32_t column)
{
    return column % 3 == 0 ? u : column % 3 == 1 ? 3.0 * u + 1.0 : -u;
}

/* Update u >= 1 goes to token u % N_K; before its first one a token holds value_of(0). value_of is linear, so the mean is
 * its value at the mean of the last N_K numbers. */
static double mean_after(uint64_t u, uint32_t column)
{
    const double n = (double)u;
    return value_of(u < N_K ? n * (n + 1.0) / 2.0 / N_K : n - (N_K - 1) / 2.0, column);
}

/* Which state a mean of column 0 belongs to: the means rise with u. */
static uint64_t state_of(double mean, uint64_t low, uint64_t high)
{
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (mean_after(middle, 0) < mean - 1e-3)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int check(const double *values, uint32_t d_v, double bound, uint64_t before, uint64_t after)
{
    /* One more than acknowledged may be visible. */
    const uint64_t state = state_of(values[0], before, after + 1);
    for (uint32_t column = 0; column < d_v; column++)
        if (!(fabs(values[column] - mean_after(state, column)) <= bound)) {
            fprintf(stderr, "column %u: %.17g is no state in [%llu, %llu]: expected %.17g within %g\n", column,
                    values[column], (unsigned long long)before, (unsigned long long)after + 1,
                    mean_after(state, column), bound);
            return 1;
        }
    return 0;
}

static int read_all_the_time(const int *fds, struct shared *shared, uint64_t seed)
{
    struct att_region region;
    struct att_error error;
    struct test_random random;

    random_init(&random, seed);
    if (att_region_map(fds, &region, &error) != ATT_OK)
        return 2;
    for (int i = 0; i < ATT_REGION_FDS; i++)
        if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0) != MAP_FAILED)
            return 3; /* nobody but the daemon may ever write it */
    while (!atomic_load(&shared->stop)) {
        double values[MOST_D_V], bound, entry, entry_bound;
        const uint32_t row = random_below(&random, region.n_q), column = random_below(&random, region.d_v);
        uint64_t before = atomic_load(&shared->applied);
        if (att_read_row(&region, row, values, &bound) != ATT_OK) {
            atomic_fetch_add(&shared->busy, 1);
            continue;
        }
        if (check(values, region.d_v, bound, before, atomic_load(&shared->applied)))
            return 1;
        before = atomic_load(&shared->applied);
        if (att_read_entry(&region, row, column, &entry, &entry_bound) == ATT_OK) {
            uint64_t after = atomic_load(&shared->applied), state = before;
            while (state <= after + 1 && !(fabs(entry - mean_after(state, column)) <= entry_bound))
                state++;
            if (state > after + 1)
                return 1;
        }
        atomic_fetch_add(&shared->answers, 1);
    }
    return 0;
}

static struct att_engine *start(const struct shape *shape)
{
    const struct att_engine_options options = {.n_q = shape->n_q,
                                               .d = D,
                                               .d_v = shape->d_v,
                                               .capacity = N_K,
                                               .scale = 1.0,
                                               .precision = ATT_MIXED,
                                               .log_capacity = shape->log_capacity,
                                               .threads = test_threads(shape->threads),
                                               .eager = true};
    struct att_engine *engine;
    struct att_error error;
    size_t bytes;
    float *v;

    assert_int_equal(att_engine_create(&options, &engine, &error), ATT_OK);
    v = att_engine_array(engine, ATT_ARRAY_V, &bytes);
    for (uint32_t token = 0; token < N_K; token++)
        for (uint32_t column = 0; column < shape->d_v; column++)
            v[token * shape->d_v + column] = (float)value_of(0, column);
    memset(att_engine_array(engine, ATT_ARRAY_LIVE, &bytes), 1, N_K);
    assert_int_equal(att_engine_start(engine, &error), ATT_OK);
    return engine;
}

static void apply(struct att_engine *engine, struct att_op *op, uint64_t lsn)
{
    struct att_error error;
    enum att_status status;
    while ((status = att_engine_apply(engine, op, lsn, &error)) == ATT_AGAIN) {
        att_engine_kick(engine);
        usleep(20);
    }
    assert_int_equal(status, ATT_OK);
    att_engine_kick(engine);
}

/* Now and then a row of Q changes too: the outputs stay the same, but its base is dropped and made again. */
static void update_all_the_time(struct att_engine *engine, const struct shape *shape, struct shared *shared,
                                uint64_t updates)
{
    struct test_random random;
    uint64_t lsn = 0;

    random_init(&random, 7);
    for (uint64_t u = 1; u <= updates; u++) {
        float value[MOST_D_V], q[D];
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = (uint32_t)(u % N_K), .value = value};
        for (uint32_t column = 0; column < shape->d_v; column++)
            value[column] = (float)value_of((double)u, column);
        apply(engine, &op, ++lsn);
        atomic_store(&shared->applied, u);
        if (random_one_in(&random, shape->q_changes_one_in)) {
            struct att_op change = {.kind = ATT_OP_SET_Q, .index = random_below(&random, shape->n_q), .key = q};
            random_normals(&random, q, D, 1.0);
            apply(engine, &change, ++lsn);
        }
    }
}

static void run(const struct shape *shape, uint64_t updates)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct att_engine *engine = start(shape);
    struct att_engine_stats stats;
    pid_t readers[MOST_READERS];

    do {
        usleep(1000);
        att_engine_stats(engine, &stats);
    } while (stats.rows_cold > 0);
    for (uint32_t i = 0; i < shape->readers; i++) {
        readers[i] = fork();
        if (readers[i] == 0)
            _exit(read_all_the_time(att_engine_region_fds(engine), shared, i));
    }
    update_all_the_time(engine, shape, shared, updates);
    atomic_store(&shared->stop, true);
    for (uint32_t i = 0; i < shape->readers; i++) {
        int status;
        assert_int_equal(waitpid(readers[i], &status, 0), readers[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    att_engine_stats(engine, &stats);
    printf("log of %u: %llu updates, %llu merges, %llu refreshes; %llu answers checked, %llu times no answer\n",
           shape->log_capacity, (unsigned long long)updates, (unsigned long long)stats.merges,
           (unsigned long long)stats.refreshes, (unsigned long long)atomic_load(&shared->answers),
           (unsigned long long)atomic_load(&shared->busy));
    assert_true(atomic_load(&shared->answers) > 0);
    att_engine_free(engine);
    munmap(shared, sizeof *shared);
}

static void readers_in_other_processes_see_only_states_that_were(void **state)
{
    (void)state;
    run(&(struct shape){.n_q = 300, .d_v = 3, .log_capacity = 64, .readers = 2, .threads = 2, .q_changes_one_in = 50},
        test_times(40000));
}

static void the_same_with_a_long_log(void **state)
{
    (void)state;
    run(&(struct shape){.n_q = 300, .d_v = 3, .log_capacity = 1024, .readers = 2, .threads = 2, .q_changes_one_in = 50},
        test_times(100000));
}

/* A reader that is interrupted while it copies a long base finds, when it goes on, the memory in use for the next tile;
 * and the merge of many tiles is not over yet, so that only the tile's word tells. */
static void the_same_with_many_tiles_of_long_rows(void **state)
{
    (void)state;
#ifdef ATTND_TSAN
    const uint32_t n_q = 512, updates = 1000; /* that sanitizer makes merges a hundred times as long */
#else
    const uint32_t n_q = 2048, updates = test_times(20000);
#endif
    run(&(struct shape){.n_q = n_q,
                        .d_v = MOST_D_V,
                        .log_capacity = 64,
                        .readers = MOST_READERS,
                        .threads = 1,
                        .q_changes_one_in = 5000},
        updates);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_in_other_processes_see_only_states_that_were),
        cmocka_unit_test(the_same_with_a_long_log),
        cmocka_unit_test(the_same_with_many_tiles_of_long_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
