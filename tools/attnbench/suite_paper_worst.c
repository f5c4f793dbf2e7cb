/* The suite paper's slowest update: d = n = 1024, merges behind it, a log of 2 n^tau entries (64 at least), for tau 0.25, 0.5,
 * 0.75 and 1. Updates come at a quarter of the rate that merging can sustain (no structure can take more than it can pay
 * for); one that finds the log full tries again until it has room, on the clock, and is counted in -waits.
 *
 *   tau-worst-at-X   ns of the slowest update, X = n^tau; floor: the median; tau-worst: the exponent; predicted 0
 *   worst-update     the same at tau = 1; -p999: of a thousand, the slowest but one
 *
 * Timed by the updating thread's CPU clock; -wall by a clock on the wall, with whatever else the machine does; -control is
 * copying as much memory, by the CPU clock, right after each update: what the machine alone does to such a figure (a
 * CPU clock counts interrupts, and what a hypervisor takes). */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fit.h"
#include "paper.h"

enum { N = 1024, MOST_UPDATES = 4000, TAUS = 4 };

static double thread_cpu(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void sleep_until(double ns)
{
    const struct timespec time = {.tv_sec = (time_t)(ns * 1e-9), .tv_nsec = (long)fmod(ns, 1e9)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
}

struct worst {
    double cpu[MOST_UPDATES], wall[MOST_UPDATES];
    double control[MOST_UPDATES]; /* CPU ns: copying as much memory, right after each */
    uint32_t waits;               /* updates that found the log full */
};

/* CPU ns of copying two keys and two values: an update without the update. */
static double copy_rows(const struct rig *rig, double clock_ns)
{
    const double start = thread_cpu();

    memcpy(rig->keys, rig->keys + 2 * rig->d, sizeof(float) * 2 * rig->d);
    memcpy(rig->values, rig->values + 2 * rig->d_v, sizeof(float) * 2 * rig->d_v);
    return fmax(1.0, thread_cpu() - start - clock_ns);
}

/* One update at a time, each `pause` ns after the one before, a query after each. */
static void run_paced(struct rig *rig, uint32_t updates, double pause, double clock_ns, struct worst *worst)
{
    double next = bench_now(), value, bound;

    worst->waits = 0;
    for (uint32_t u = 0; u < updates; u++) {
        const uint32_t token = bench_random_below(&rig->queue, rig->n_k);
        const double cpu = thread_cpu(), wall = bench_now();
        bool waited = false;
        while (!paper_update(rig, token)) {
            waited = true;
            att_engine_kick(rig->engine);
        }
        att_engine_kick(rig->engine);
        worst->wall[u] = bench_now() - wall;
        worst->cpu[u] = fmax(1.0, thread_cpu() - cpu - clock_ns);
        worst->waits += waited;
        worst->control[u] = copy_rows(rig, clock_ns);
        if (att_engine_query(rig->engine, u % rig->n_q, 0, &value, &bound, NULL) == ATT_OK)
            bench_sink = value;
        next = fmax(next + pause, bench_now()); /* no bursts after a pause that the machine made */
        sleep_until(next);
    }
}

static double clock_overhead(void)
{
    double times[BENCH_ROUNDS];

    for (int i = 0; i < BENCH_ROUNDS; i++) {
        const double start = thread_cpu();
        times[i] = thread_cpu() - start;
    }
    return bench_median(times, BENCH_ROUNDS);
}

/* value: the slowest; floor: the median. bench_median leaves the values in order. */
static void worst_figure(const struct bench *bench, const char *name, double *ns, uint32_t count)
{
    const double median = bench_median(ns, count);
    char text[64];

    bench_figure(bench, name, ns[count - 1], "ns", median, ns[count - 1] / median);
    snprintf(text, sizeof text, "%s-p999", name);
    bench_figure(bench, text, ns[count - count / 1000], "ns", median, ns[count - count / 1000] / median);
}

static void print_last(const struct bench *bench, struct worst *worst, uint32_t updates, uint64_t merges,
                       double merge_ns)
{
    bench_figure(bench, "worst-update-merges", (double)merges, "merges", NAN, NAN);
    bench_figure(bench, "worst-update-waits", worst->waits, "updates", NAN, NAN);
    bench_figure(bench, "worst-update-merge", merge_ns, "ns", NAN, NAN);
    worst_figure(bench, "worst-update-control", worst->control, updates);
    worst_figure(bench, "worst-update-wall", worst->wall, updates);
    worst_figure(bench, "worst-update", worst->cpu, updates);
}

/* Returns the slowest, in ns. */
static double measure(const struct bench *bench, double entries, bool last, struct worst *worst)
{
    const uint32_t updates = bench->quick ? 2000 : MOST_UPDATES;
    struct att_engine_options options = rig_options(N, N, N);
    struct paper_subject subject;
    struct rig *rig = &subject.rig;
    double merge_ns[5], slowest;
    uint64_t merges;
    char name[64];

    options.log_capacity = (uint32_t)fmax(64.0, 2.0 * entries);
    subject.updates = options.log_capacity / 4; /* a merge starts at half full, and an update makes two entries */
    rig_create_held(rig, &options, 61);
    for (int i = 0; i < 5; i++) {
        rig_touch_rows(rig, N);
        merge_ns[i] = paper_run_updates(&subject);
    }
    att_engine_hold(rig->engine, false);
    /* The first lap of the log touches its memory for the first time. */
    run_paced(rig, options.log_capacity / 2 + 64, 4.0 * bench_median(merge_ns, 5), 0.0, worst);
    merges = rig_stats(rig).merges;
    run_paced(rig, updates, 4.0 * bench_median(merge_ns, 5), clock_overhead(), worst);
    merges = rig_stats(rig).merges - merges;
    snprintf(name, sizeof name, "tau-worst-at-%.0f", entries);
    worst_figure(bench, name, worst->cpu, updates);
    slowest = worst->cpu[updates - 1];
    if (last)
        print_last(bench, worst, updates, merges, bench_median(merge_ns, 5) * subject.updates);
    rig_release(rig);
    return slowest;
}

void paper_measure_worst(const struct bench *bench)
{
    struct worst *worst = bench_memory(sizeof *worst);
    double entries[TAUS], slowest[TAUS];
    struct fit fit;

    for (int i = 0; i < TAUS; i++) {
        entries[i] = round(pow(N, 0.25 * (i + 1)));
        slowest[i] = measure(bench, entries[i], i == TAUS - 1, worst);
    }
    fit = bench_fit(entries, slowest, TAUS);
    bench_figure(bench, "tau-worst", fit.exponent, "exponent", 0.0, NAN);
    bench_figure(bench, "tau-worst-ci", fit.half_width, "exponent", NAN, NAN);
    free(worst);
}
