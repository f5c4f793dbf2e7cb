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

enum { N_Q = 300, N_K = 128, D = 4, D_V = 3, READERS = 2 };

struct shared {
    _Atomic uint64_t applied; /* updates that have been acknowledged */
    _Atomic bool stop;
    _Atomic uint64_t answers, busy;
};

static float value_of(uint64_t update, uint32_t column)
{
    const float u = (float)update;
    return column == 0 ? u : column == 1 ? 3.0f * u + 1.0f : -u;
}

/* Update u >= 1 goes to token u % N_K; before its first one a token holds value_of(0). */
static double mean_after(uint64_t u, uint32_t column)
{
    double sum = 0.0;
    for (uint64_t k = 0; k < N_K; k++)
        sum += u >= k ? value_of(u - k, column) : value_of(0, column);
    return sum / N_K;
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

static int check(const double *values, double bound, uint64_t before, uint64_t after)
{
    /* One more than acknowledged may be visible. */
    const uint64_t state = state_of(values[0], before, after + 1);
    for (uint32_t column = 0; column < D_V; column++)
        if (!(fabs(values[column] - mean_after(state, column)) <= bound)) {
            fprintf(stderr, "column %u: %.17g is no state in [%llu, %llu]: expected %.17g within %g\n", column,
                    values[column], (unsigned long long)before, (unsigned long long)after + 1,
                    mean_after(state, column), bound);
            return 1;
        }
    return 0;
}

static int read_all_the_time(int fd, size_t bytes, struct shared *shared, uint64_t seed)
{
    struct att_region region;
    struct att_error error;
    struct test_random random;
    void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);

    random_init(&random, seed);
    if (memory == MAP_FAILED || att_region_attach(memory, bytes, &region, &error) != ATT_OK)
        return 2;
    if (mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
        return 3; /* nobody but the daemon may ever write it */
    while (!atomic_load(&shared->stop)) {
        double values[D_V], bound, entry, entry_bound;
        const uint32_t row = random_below(&random, N_Q), column = random_below(&random, D_V);
        uint64_t before = atomic_load(&shared->applied);
        if (att_read_row(&region, row, values, &bound) != ATT_OK) {
            atomic_fetch_add(&shared->busy, 1);
            continue;
        }
        if (check(values, bound, before, atomic_load(&shared->applied)))
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

static struct att_engine *start(uint32_t log_capacity)
{
    const struct att_engine_options options = {.n_q = N_Q,
                                               .d = D,
                                               .d_v = D_V,
                                               .capacity = N_K,
                                               .scale = 1.0,
                                               .precision = ATT_MIXED,
                                               .log_capacity = log_capacity,
                                               .threads = test_threads(2),
                                               .eager = true};
    struct att_engine *engine;
    struct att_error error;
    size_t bytes;
    float *v;

    assert_int_equal(att_engine_create(&options, &engine, &error), ATT_OK);
    v = att_engine_array(engine, ATT_ARRAY_V, &bytes);
    for (uint32_t token = 0; token < N_K; token++)
        for (uint32_t column = 0; column < D_V; column++)
            v[token * D_V + column] = value_of(0, column);
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
static void update_all_the_time(struct att_engine *engine, struct shared *shared, uint64_t updates)
{
    struct test_random random;
    uint64_t lsn = 0;

    random_init(&random, 7);
    for (uint64_t u = 1; u <= updates; u++) {
        float value[D_V], q[D];
        struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = (uint32_t)(u % N_K), .value = value};
        for (uint32_t column = 0; column < D_V; column++)
            value[column] = value_of(u, column);
        apply(engine, &op, ++lsn);
        atomic_store(&shared->applied, u);
        if (random_one_in(&random, 50)) {
            struct att_op change = {.kind = ATT_OP_SET_Q, .index = random_below(&random, N_Q), .key = q};
            random_normals(&random, q, D, 1.0);
            apply(engine, &change, ++lsn);
        }
    }
}

static void run(uint32_t log_capacity, uint64_t updates)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct att_engine *engine = start(log_capacity);
    struct att_engine_stats stats;
    pid_t readers[READERS];

    att_engine_stats(engine, &stats);
    for (int i = 0; i < READERS; i++) {
        readers[i] = fork();
        if (readers[i] == 0)
            _exit(read_all_the_time(att_engine_region_fd(engine), stats.region_bytes, shared, (uint64_t)i));
    }
    update_all_the_time(engine, shared, updates);
    atomic_store(&shared->stop, true);
    for (int i = 0; i < READERS; i++) {
        int status;
        assert_int_equal(waitpid(readers[i], &status, 0), readers[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    att_engine_stats(engine, &stats);
    printf("log of %u: %llu updates, %llu merges, %llu refreshes; %llu answers checked, %llu times no answer\n",
           log_capacity, (unsigned long long)updates, (unsigned long long)stats.merges,
           (unsigned long long)stats.refreshes, (unsigned long long)atomic_load(&shared->answers),
           (unsigned long long)atomic_load(&shared->busy));
    assert_true(atomic_load(&shared->answers) > 0);
    att_engine_free(engine);
    munmap(shared, sizeof *shared);
}

static void readers_in_other_processes_see_only_states_that_were(void **state)
{
    (void)state;
    run(64, test_times(40000));
}

static void the_same_with_a_long_log(void **state)
{
    (void)state;
    run(1024, test_times(100000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_in_other_processes_see_only_states_that_were),
        cmocka_unit_test(the_same_with_a_long_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
