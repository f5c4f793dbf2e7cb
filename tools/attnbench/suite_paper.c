/* paper: the paper's bounds as curves. Exponents are fitted by least squares on logarithms; a floor is the predicted
 * exponent, `-ci` half the width of its 95 % confidence interval, and each measured point is printed too.
 *
 *   update-fixed-d   ns an update, its share of a merge included, against n_q; d = 64, 1024 tokens (a merge does not
 *                    depend on their number); predicted 1
 *   update-d-n       the same with n_q = n_k = d = n; predicted 2
 *   query-n          ns a query with 1024 entries pending, against n; predicted 0
 *   query-p          the same against the entries pending, n = 1024; predicted 1
 *   worst-update     the slowest of many updates over their median, d = n = 1024, while merges run behind them
 *
 * Costs are in CPU time of the process, both threads: what an update costs wherever it is paid, and other programs on
 * the machine hardly show. In worst-update, tau is 1 and updates come at a quarter of the rate that merging can sustain
 * (no structure can take more than it can pay for); one that finds the log full tries again until it has room, on the
 * clock, and is counted in -waits. It is timed by the updating thread's CPU clock; -wall by a clock on the wall, with
 * whatever else the machine does; -control is copying as much memory, by the CPU clock, right after each update: what
 * the machine alone does to such a figure (a CPU clock counts interrupts, and what a hypervisor takes).
 *
 * vs-*-nX: ns an update and a query, d = 64, n_q = n_k = X, merging included; the floor is the rival's for the same:
 *   vs-recompute-nX  a row from scratch at each query (rival.h); the update is free
 *   vs-rebuild-nX    everything from scratch at each update; the query is free
 *   vs-paper-nX      the paper's structure, tests/support/reference.c, in plain C, tau 0.5; n = 4096; not if quick */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "fit.h"
#include "reference.h"
#include "rig.h"
#include "rival.h"

enum { D = 64, TOKENS = 1024, UPDATES = 64, QUERIES = 32, PENDING = 1024, MOST_UPDATES = 40000 };

/* UpdateK and UpdateV in turn, at random places. False: the log is full. */
static bool update(struct rig *rig)
{
    const bool key = rig->lsn % 2 == 0;
    struct att_op op = {.kind = key ? ATT_OP_ADD_K : ATT_OP_ADD_V,
                        .index = bench_random_below(&rig->queue, rig->n_k),
                        .column = bench_random_below(&rig->queue, rig->d),
                        .number = 0.02 * (bench_random_unit(&rig->queue) - 0.5)};
    struct att_error error;
    const enum att_status status = att_engine_apply(rig->engine, &op, rig->lsn + 1, &error);

    if (status == ATT_AGAIN)
        return false;
    if (status != ATT_OK)
        bench_die("%s", error.text);
    rig->lsn++;
    return true;
}

static void update_some(struct rig *rig, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!update(rig))
            bench_die("the log is full, and nothing merges");
}

/* ns an update: UPDATES of them, and the merge that they make necessary. */
static double run_updates(void *context)
{
    struct rig *rig = context;
    const double start = bench_cpu();

    update_some(rig, UPDATES);
    rig_merge(rig);
    return (bench_cpu() - start) / UPDATES;
}

/* ns a query, of random rows and columns. */
static double run_queries(void *context)
{
    struct rig *rig = context;
    const double start = bench_cpu();

    for (uint32_t i = 0; i < QUERIES; i++) {
        const uint32_t row = bench_random_below(&rig->queue, rig->n_q),
                       column = bench_random_below(&rig->queue, rig->d);
        double value, bound;
        if (att_engine_query(rig->engine, row, column, &value, &bound, NULL) != ATT_OK)
            bench_die("row %u has no base", row);
        bench_sink = value;
    }
    return (bench_cpu() - start) / QUERIES;
}

/* Every row hot for good, no merges but those asked for. */
static void create(struct rig *rig, uint32_t n_q, uint32_t n_k, uint32_t d, uint32_t log_capacity)
{
    struct att_engine_options options = rig_options(n_q, n_k, d);

    options.eager = true;
    options.log_capacity = log_capacity;
    rig_create_held(rig, &options, 60);
}

/* Measures all rigs in turn, prints each point, and fits. */
static void sweep(const struct bench *bench, const char *name, double predicted, struct rig *rigs, const double *x,
                  uint32_t count, double seconds, double (*run)(void *context))
{
    struct bench_run runs[BENCH_RUNS];
    double ns[BENCH_RUNS];
    struct fit fit;
    char text[64];

    for (uint32_t i = 0; i < count; i++)
        runs[i] = (struct bench_run){run, &rigs[i]};
    bench_interleave(runs, count, seconds, ns);
    for (uint32_t i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%s-at-%.0f", name, x[i]);
        bench_figure(bench, text, ns[i], "ns", NAN, NAN);
    }
    fit = bench_fit(x, ns, count);
    bench_figure(bench, name, fit.exponent, "exponent", predicted, NAN);
    snprintf(text, sizeof text, "%s-ci", name);
    bench_figure(bench, text, fit.half_width, "exponent", NAN, NAN);
}

static void release(struct rig *rigs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        rig_release(&rigs[i]);
}

static void measure_fixed_d(const struct bench *bench)
{
    static const double quick[] = {4096, 8192, 16384, 32768, 65536};
    static const double full[] = {1024, 4096, 16384, 65536, 262144, 1000000};
    const double *n = bench->quick ? quick : full;
    const uint32_t count = bench->quick ? 5 : 6;
    struct rig rigs[BENCH_RUNS];

    for (uint32_t i = 0; i < count; i++)
        create(&rigs[i], (uint32_t)n[i], TOKENS, D, 2 * PENDING);
    sweep(bench, "update-fixed-d", 1.0, rigs, n, count, bench->quick ? 1.5 : 15.0, run_updates);
    for (uint32_t i = 0; i < count; i++)
        update_some(&rigs[i], PENDING / 2);
    sweep(bench, "query-n", 0.0, rigs, n, count, bench->quick ? 1.5 : 15.0, run_queries);
    release(rigs, count);
}

static void measure_d_n(const struct bench *bench)
{
    static const double n[] = {256, 384, 512, 768, 1024, 1536, 2048, 4096};
    const uint32_t count = bench->quick ? 7 : 8;
    struct rig rigs[BENCH_RUNS];

    for (uint32_t i = 0; i < count; i++)
        create(&rigs[i], (uint32_t)n[i], (uint32_t)n[i], (uint32_t)n[i], 4 * UPDATES);
    sweep(bench, "update-d-n", 2.0, rigs, n, count, bench->quick ? 7.0 : 30.0, run_updates);
    release(rigs, count);
}

static void measure_pending(const struct bench *bench)
{
    static const double pending[] = {512, 1024, 2048, 4096, 8192, 16384};
    struct rig rigs[6];

    for (uint32_t i = 0; i < 6; i++) {
        create(&rigs[i], TOKENS, TOKENS, D, 2 * (uint32_t)pending[i]);
        update_some(&rigs[i], (uint32_t)pending[i] / 2);
    }
    sweep(bench, "query-p", 1.0, rigs, pending, 6, bench->quick ? 1.5 : 15.0, run_queries);
    release(rigs, 6);
}

/* ---- The worst update ---- */

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

    for (uint32_t u = 0; u < updates; u++) {
        const double cpu = thread_cpu(), wall = bench_now();
        bool waited = false;
        while (!update(rig)) {
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

static void measure_worst(const struct bench *bench)
{
    const uint32_t n = 1024, updates = bench->quick ? 5000 : MOST_UPDATES;
    struct att_engine_options options = rig_options(n, n, n);
    struct worst *worst = bench_memory(sizeof *worst);
    struct rig rig;
    uint64_t merges;
    double merge_ns[5];

    options.log_capacity = 2 * n;
    rig_create_held(&rig, &options, 61);
    for (int i = 0; i < 5; i++) {
        rig_touch_rows(&rig, n);
        merge_ns[i] = run_updates(&rig);
    }
    att_engine_hold(rig.engine, false);
    /* The first lap of the log touches its memory for the first time. */
    run_paced(&rig, n + 64, 4.0 * bench_median(merge_ns, 5), 0.0, worst);
    worst->waits = 0;
    merges = rig_stats(&rig).merges;
    run_paced(&rig, updates, 4.0 * bench_median(merge_ns, 5), clock_overhead(), worst);
    bench_figure(bench, "worst-update-merges", (double)(rig_stats(&rig).merges - merges), "merges", NAN, NAN);
    bench_figure(bench, "worst-update-waits", worst->waits, "updates", NAN, NAN);
    bench_figure(bench, "worst-update-merge", bench_median(merge_ns, 5) * UPDATES, "ns", NAN, NAN);
    worst_figure(bench, "worst-update-control", worst->control, updates);
    worst_figure(bench, "worst-update-wall", worst->wall, updates);
    worst_figure(bench, "worst-update", worst->cpu, updates);
    rig_release(&rig);
    free(worst);
}

/* ---- Rivals ---- */

enum { PAIRS = 128 };

struct pairs {
    struct rig *rig;
    double *values;       /* D */
    double cpu;           /* ns, of all of them: a median would leave the merges out */
    uint64_t count, jobs; /* pairs; reads of rows without a base */
};

/* ours, as it comes; merging goes on behind, on the same clock */
static double run_ours(void *context)
{
    struct pairs *pairs = context;
    struct rig *rig = pairs->rig;
    const double start = bench_cpu();
    double bound;

    for (uint32_t i = 0; i < PAIRS; i++) {
        const uint32_t row = bench_random_below(&rig->queue, rig->n_q);
        while (!update(rig)) {
            att_engine_kick(rig->engine);
            while (sem_wait(&rig->completion) != 0 && errno == EINTR)
                ;
        }
        att_engine_kick(rig->engine);
        if (att_engine_query(rig->engine, row, 0, pairs->values, &bound, NULL) != ATT_OK) {
            struct att_job job = {.kind = ATT_JOB_ROW, .index = row, .values = pairs->values, .bounds = &bound};
            rig_job(rig, &job);
            pairs->jobs++;
        }
        bench_sink = pairs->values[0];
    }
    pairs->cpu += bench_cpu() - start;
    pairs->count += PAIRS;
    return (bench_cpu() - start) / PAIRS;
}

static double run_recompute(void *context)
{
    static struct bench_random random = {62};
    struct rival *rival = context;
    const double start = bench_cpu();

    rival_row(rival, bench_random_below(&random, rival->n_q));
    return bench_cpu() - start;
}

static double run_rebuild(void *context)
{
    const double start = bench_cpu();

    rival_all(context);
    return bench_cpu() - start;
}

static double run_reference(void *context)
{
    static struct bench_random random = {63};
    struct reference *reference = context;
    const double start = bench_cpu();
    const uint32_t n = reference_limit(reference) * reference_limit(reference); /* tau 0.5, n a square */

    for (uint32_t i = 0; i < PAIRS; i++) {
        const uint32_t token = bench_random_below(&random, n), column = bench_random_below(&random, D);
        const double delta = 0.02 * (bench_random_unit(&random) - 0.5);
        if (i % 2)
            reference_update_k(reference, token, column, delta);
        else
            reference_update_v(reference, token, column, delta);
        bench_sink = reference_query(reference, bench_random_below(&random, n), 0);
    }
    return (bench_cpu() - start) / PAIRS;
}

static void versus(const struct bench *bench, const char *rival, uint32_t n, double ours, double theirs)
{
    char name[64];

    snprintf(name, sizeof name, "vs-%s-n%u", rival, n);
    bench_figure(bench, name, ours, "ns", theirs, theirs / ours);
}

/* n: a square */
static void measure_rivals(const struct bench *bench, uint32_t n)
{
    struct att_engine_options options = rig_options(n, n, D);
    float *q = bench_floats((size_t)n * D), *k = bench_floats((size_t)n * D), *v = bench_floats((size_t)n * D);
    struct rival rival = {.n_q = n, .n_k = n, .d = D, .d_v = D, .scale = 0.125f, .q = q, .k = k, .v = v};
    struct reference *reference = NULL;
    struct bench_random random = {64};
    struct rig rig;
    struct pairs pairs = {.rig = &rig, .values = bench_memory(sizeof(double) * D)};
    double ns[4], start;

    bench_random_fill(&random, q, (size_t)n * D, 0.35);
    bench_random_fill(&random, k, (size_t)n * D, 0.35);
    bench_random_fill(&random, v, (size_t)n * D, 1.0);
    rival.out = bench_floats((size_t)n * D);
    rival_create(&rival);
    rig_create_from(&rig, &options, q, k, v);
    rig_start(&rig);
    rig_wait_hot(&rig);
    if (!bench->quick && n <= 4096 && !(reference = reference_create(n, D, 0.5, q, k, v)))
        bench_die("not enough memory for the paper's structure at n = %u", n);
    const struct bench_run runs[] = {{run_ours, &pairs},
                                     {run_recompute, &rival},
                                     {run_rebuild, &rival},
                                     {run_reference, reference}};
    bench_interleave(runs, reference ? 4 : 3, bench->quick ? 1.0 : 5.0, ns);
    for (start = bench_now(); bench_now() < start + (bench->quick ? 3e9 : 20e9);)
        run_ours(&pairs);
    ns[0] = pairs.cpu / (double)pairs.count;
    bench_note(bench, "n = %u: %llu pairs, %llu merges, %llu reads of cold rows", n, (unsigned long long)pairs.count,
               (unsigned long long)rig_stats(&rig).merges, (unsigned long long)pairs.jobs);
    versus(bench, "recompute", n, ns[0], ns[1]);
    versus(bench, "rebuild", n, ns[0], ns[2]);
    if (reference)
        versus(bench, "paper", n, ns[0], ns[3]);
    reference_free(reference);
    rig_release(&rig);
    rival_release(&rival);
    free(rival.out);
    free(pairs.values);
    free(q);
    free(k);
    free(v);
}

void suite_paper(const struct bench *bench)
{
    measure_fixed_d(bench);
    measure_d_n(bench);
    measure_pending(bench);
    measure_worst(bench);
    measure_rivals(bench, 4096);
    if (!bench->quick)
        measure_rivals(bench, 16384);
}
