/* Readers in other processes while the rows that are hot change all the time: their bases move between tiles, their
 * slots go to other rows, and the memory that they are in is replaced. Updates write a token's own value back, so a row
 * has one right answer, and no two rows have the same; each answer is checked against the oracle. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "reader.h"

enum { N_Q = 1024, TOKENS = 60, D = 8, D_V = 5, READERS = 2, MERGES = 60 /* rows that are not read go cold in them */ };

struct shared {
    _Atomic bool stop;
    _Atomic uint64_t answers, busy, mapped_again;
};

static long double expected[N_Q][D_V];

static struct model make_model(struct test_random *random)
{
    struct model model;
    struct oracle_input view;

    model_init(&model, N_Q, D, D_V, TOKENS, 1.0);
    model_fill(&model, random, TOKENS, 1.0);
    view = model_view(&model);
    for (uint32_t row = 0; row < N_Q; row++)
        assert_true(oracle_row(&view, row, expected[row]));
    return model;
}

/* What is behind the engine's descriptors now: ours are those of the fork. */
static bool map_now(const int *fds, struct att_region *ret_region)
{
    int now[ATT_REGION_FDS];
    char path[64];
    struct att_error error;

    for (int i = 0; i < ATT_REGION_FDS; i++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getppid(), fds[i]);
        now[i] = open(path, O_RDONLY | O_CLOEXEC);
    }
    const enum att_status status = att_region_map(now, ret_region, &error);
    for (int i = 0; i < ATT_REGION_FDS; i++)
        close(now[i]);
    return status == ATT_OK;
}

static int read_all_the_time(const int *fds, struct shared *shared, uint64_t seed)
{
    struct att_region region;
    struct test_random random;

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves none of them behind */
    random_init(&random, seed);
    if (!map_now(fds, &region))
        return 2;
    while (!atomic_load(&shared->stop)) {
        const uint32_t row = random_below(&random, N_Q);
        double values[D_V], bound;
        if (att_read_row(&region, row, values, &bound) != ATT_OK) {
            atomic_fetch_add(&shared->busy, 1);
            if (att_region_stale(&region)) {
                att_region_release(&region);
                if (!map_now(fds, &region))
                    return 2;
                atomic_fetch_add(&shared->mapped_again, 1);
            }
            continue;
        }
        for (uint32_t j = 0; j < D_V; j++)
            if (!(fabsl(values[j] - expected[row][j]) <= bound && bound < 1e-4)) {
                fprintf(stderr, "row %u, column %u: %.17g within %g is not %.17Lg\n", row, j, values[j], bound,
                        expected[row][j]);
                return 1;
            }
        atomic_fetch_add(&shared->answers, 1);
    }
    return 0;
}

/* One update, that changes nothing, and a merge. Returns how many rows have moved. */
static uint32_t merge(struct att_engine *engine, struct model *model, const struct att_region *region, uint32_t token,
                      uint64_t *lsn)
{
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = token, .value = model->v + (size_t)token * D_V};
    struct att_job job = {.kind = ATT_JOB_MERGE};
    uint32_t before[N_Q], moved = 0;

    for (uint32_t row = 0; row < N_Q; row++)
        before[row] = atomic_load(&region->slots[row]);
    harness_update(engine, model, &op, lsn);
    assert_int_equal(harness_job(engine, &job), ATT_OK);
    for (uint32_t row = 0; row < N_Q; row++) {
        const uint32_t now = atomic_load(&region->slots[row]);
        moved += before[row] != ATT_NO_SLOT && now != ATT_NO_SLOT && now != before[row];
    }
    return moved;
}

/* Reads some rows so that they are hot, and merges until the others are not. */
static uint32_t change_what_is_hot(struct att_engine *engine, struct model *model, const struct att_region *region,
                                   struct test_random *random, uint64_t *lsn)
{
    const uint32_t one_in = 1 + random_below(random, 8), which = random_below(random, one_in);
    double values[D_V], bound;
    uint32_t moved = 0;

    for (uint32_t merges = 0; merges < MERGES; merges++) {
        for (uint32_t row = which; row < N_Q; row += one_in)
            if (merges < 2)
                harness_row(engine, row, values, &bound); /* the second time it is kept */
            else
                att_engine_note_reads(engine, row, 1, 1);
        moved += merge(engine, model, region, random_below(random, TOKENS), lsn);
    }
    return moved;
}

static void rows_answer_for_themselves_wherever_they_are(void **state)
{
    (void)state;
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct test_random random;
    struct att_region region;
    struct att_error error;
    uint64_t lsn = 0, moved = 0;
    pid_t readers[READERS];

    random_seed(&random, 91, "moves");
    struct model model = make_model(&random);
    struct att_engine_options options = harness_options(&model);
    struct att_engine *engine = harness_start(&model, &options);
    for (uint32_t i = 0; i < READERS; i++) {
        readers[i] = fork();
        if (readers[i] == 0)
            _exit(read_all_the_time(att_engine_region_fds(engine), shared, i));
    }
    assert_int_equal(att_region_map(att_engine_region_fds(engine), &region, &error), ATT_OK);
    for (uint32_t times = test_times(30); times > 0; times--)
        moved += change_what_is_hot(engine, &model, &region, &random, &lsn);
    atomic_store(&shared->stop, true);
    for (uint32_t i = 0; i < READERS; i++) {
        int status;
        assert_int_equal(waitpid(readers[i], &status, 0), readers[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    printf("%llu rows moved in %llu merges; %llu answers checked, %llu times no answer; memory replaced %llu times, "
           "mapped "
           "again %llu times\n",
           (unsigned long long)moved, (unsigned long long)lsn, (unsigned long long)shared->answers,
           (unsigned long long)shared->busy, (unsigned long long)region.header->epoch,
           (unsigned long long)shared->mapped_again);
    assert_true(moved > 0 && shared->answers > 0 && shared->mapped_again > 0);
    att_region_release(&region);
    munmap(shared, sizeof *shared);
    att_engine_free(engine);
    model_release(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_answer_for_themselves_wherever_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
