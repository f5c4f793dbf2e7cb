/* direct: reads of the published region by other processes, nothing pending; and beside a writer.
 *
 * The floor of `entry` is the same query in the engine's own process; `procs` compares two processes that read with one. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "rig.h"
#include "served.h"

enum { N_Q = 1024, N_K = 4096, D = 64, LOG = 8192, WRITER_LOG = 512, READS = 100000, SAMPLES = 200000, ROUNDS = 5 };
/* Beside the writer few rows are read, so often that keeping them is worth it. */
enum { HOT_ROWS = 64 };

struct reading {
    struct served served;
    struct att_client *client;
    struct rig rig;
    struct bench_random random;
    double samples[SAMPLES];
};

/* ns for each */
static double run_direct(void *context)
{
    struct reading *r = context;
    double value, bound;
    const double start = bench_now();

    for (uint32_t i = 0; i < READS; i++) {
        if (att_query(r->client, bench_random_below(&r->random, N_Q), 5, &value, &bound) != ATT_OK)
            bench_die("%s", att_last_error(r->client));
        bench_sink = value;
    }
    return (bench_now() - start) / READS;
}

static double run_own(void *context)
{
    struct reading *r = context;
    double value, bound;
    const double start = bench_now();

    for (uint32_t i = 0; i < READS; i++)
        if (att_engine_query(r->rig.engine, bench_random_below(&r->random, N_Q), 5, &value, &bound, NULL) == ATT_OK)
            bench_sink = value;
    return (bench_now() - start) / READS;
}

/* ---- Processes ---- */

struct gang {
    _Atomic bool go;
    _Atomic uint64_t reads[2];
};

/* What one of them is told: in its own memory from the fork on. */
struct member {
    struct gang *gang;
    int number;
};

static void read_on(const struct served *served, void *context)
{
    const struct member *me = context;
    const int member = me->number;
    struct bench_random random = {9 + (uint64_t)member};
    struct att_client *client = served_connect(served, true);
    double value, bound;

    served_pin(0, member);
    for (uint64_t reads = 0;; reads += 1000) {
        for (uint32_t i = 0; i < 1000; i++)
            if (att_query(client, bench_random_below(&random, N_Q), 5, &value, &bound) != ATT_OK)
                bench_die("%s", att_last_error(client));
        atomic_store_explicit(&me->gang->reads[member], reads, memory_order_relaxed);
    }
}

/* Reads a second by so many processes. */
static double rate_of(const struct served *served, struct gang *gang, int processes)
{
    const struct timespec start = {.tv_nsec = 50000000}, period = {.tv_nsec = 200000000};
    pid_t pids[2];
    double before = 0, after = 0;

    for (int i = 0; i < processes; i++) {
        struct member member = {gang, i};
        atomic_store(&gang->reads[i], 0);
        pids[i] = served_child(served, read_on, &member);
    }
    nanosleep(&start, NULL);
    const double begin = bench_now();
    for (int i = 0; i < processes; i++)
        before += (double)atomic_load(&gang->reads[i]);
    nanosleep(&period, NULL);
    for (int i = 0; i < processes; i++)
        after += (double)atomic_load(&gang->reads[i]);
    const double rate = (after - before) / (bench_now() - begin) * 1e9;
    for (int i = 0; i < processes; i++)
        served_end_child(pids[i]);
    return rate;
}

static void measure_processes(const struct bench *bench, const struct served *served)
{
    struct gang *gang = mmap(NULL, sizeof *gang, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double one[ROUNDS], two[ROUNDS];

    if (gang == MAP_FAILED)
        bench_die("mmap failed");
    for (uint32_t i = 0; i < ROUNDS; i++) {
        /* alone, but on a machine as warm as with two: the first of each pair has no advantage over the second */
        one[i] = rate_of(served, gang, 1);
        two[i] = rate_of(served, gang, 2);
    }
    munmap(gang, sizeof *gang);
    const double single = bench_median(one, ROUNDS), both = bench_median(two, ROUNDS);
    bench_figure(bench, "procs", both, "1/s", single, both / single);
}

/* ---- Beside a writer ---- */

/* 100,000 updates a second, ten each 100 us. */
static void write_on(const struct served *served, void *context)
{
    struct bench_random random = {3};
    struct att_client *client = served_connect(served, false);

    (void)context;
    prctl(PR_SET_TIMERSLACK, 1);
    served_pin(0, 1);
    for (double next = bench_now();; next += 1e5) {
        served_update(client, served, &random, 10, 16);
        const double now = bench_now();
        if (now > next + 1e7)
            next = now; /* it was taken away: no catching up in a burst */
        const struct timespec rest = {.tv_nsec = (long)(next + 1e5 - now)};
        if (now < next + 1e5)
            nanosleep(&rest, NULL); /* it sleeps: spinning would take the service's processor, or the reader's */
    }
}

static void measure_writer(const struct bench *bench, struct reading *r)
{
    double p50[ROUNDS], p99[ROUNDS], rates[ROUNDS], value, bound;
    struct served served;
    struct att_stat before, after;

    served_start(&served, N_Q, N_K, D, WRITER_LOG);
    struct att_client *client = served_connect(&served, true), *ring = served_connect(&served, false);
    /* As in suite_ipc: who reads has a processor, the service and who writes the other one. */
    served_pin(0, 0);
    served_pin(served.pid, 1);
    const pid_t pid = served_child(&served, write_on, NULL);
    usleep(100000);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (att_get_stat(ring, &before) != ATT_OK)
            bench_die("%s", att_last_error(ring));
        const double start = bench_now();
        for (uint32_t i = 0; i < SAMPLES; i++) {
            const uint32_t row = bench_random_below(&r->random, HOT_ROWS);
            const double begin = bench_now();
            if (att_query(client, row, 5, &value, &bound) != ATT_OK)
                bench_die("%s", att_last_error(client));
            r->samples[i] = bench_now() - begin;
        }
        const double took = bench_now() - start;
        if (att_get_stat(ring, &after) != ATT_OK)
            bench_die("%s", att_last_error(ring));
        rates[round] = (double)(after.updates - before.updates) / took * 1e9;
        p50[round] = served_quantile(r->samples, SAMPLES, 0.5);
        p99[round] = served_quantile(r->samples, SAMPLES, 0.99);
    }
    served_end_child(pid);
    served_pin(0, -1);
    att_close(client);
    att_close(ring);
    served_stop(&served);
    bench_note(bench, "the writer made %.0f updates a second", bench_median(rates, ROUNDS));
    bench_figure(bench, "writer-p50", bench_median(p50, ROUNDS) * 1e-3, "us", NAN, NAN);
    bench_figure(bench, "writer-p99", bench_median(p99, ROUNDS) * 1e-3, "us", NAN, NAN);
}

void suite_direct(const struct bench *bench)
{
    static struct reading reading;
    const struct bench_run entries[] = {{run_direct, &reading}, {run_own, &reading}};
    struct att_engine_options options = rig_options(N_Q, N_K, D);
    const int niceness = getpriority(PRIO_PROCESS, 0);
    double medians[2];

    setpriority(PRIO_PROCESS, 0, 0);
    options.log_capacity = LOG;
    served_start(&reading.served, N_Q, N_K, D, LOG);
    reading.client = served_connect(&reading.served, true);
    reading.random.state = 5;
    rig_create_held(&reading.rig, &options, 1);
    bench_interleave(entries, 2, bench->quick ? 2.0 : 10.0, medians);
    bench_figure(bench, "entry", medians[0], "ns", medians[1], medians[0] / medians[1]);
    measure_processes(bench, &reading.served);
    rig_release(&reading.rig);
    att_close(reading.client);
    served_stop(&reading.served);
    measure_writer(bench, &reading);
    setpriority(PRIO_PROCESS, 0, niceness);
}
