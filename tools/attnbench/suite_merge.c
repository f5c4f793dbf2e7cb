/* merge: p entries into all rows, against the machine's limit (sgemm 2048 cubed, one thread); two threads against one;
 * Init, against the best float32 rival that recomputes everything.
 *
 * A merge is timed from its submission to its completion on the merge thread: waking it, scanning and packing the log,
 * folding, settling the tokens. Its flops are counted as 4 n p d, as if the four head columns, exp and all bookkeeping
 * were free. Rows are read before each merge, or they would go cold.
 *
 * Figures that end in -cpu are the same in CPU time of the process instead of wall time: where other programs want the
 * processors too, they are what a quiet machine would show, but for caches and memory. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "rig.h"
#include "rival.h"

enum { D = 64, N = 16384, SGEMM = 2048, PENDING = 256 };

struct merging {
    struct rig *rig;
    uint32_t pending;
    float *a, *b, *c; /* the floor's */
    struct bench_log *log;
};

static struct bench_log logs[5]; /* sgemm or the rival; mixed; single; the others, two for those at once */

/* ns */
static double run_merge(void *context)
{
    const struct merging *merging = context;
    double cpu, took;

    rig_touch_rows(merging->rig, N);
    rig_replace_some(merging->rig, merging->pending / 2);
    cpu = bench_cpu();
    took = rig_merge(merging->rig);
    bench_log_add(merging->log, bench_cpu() - cpu);
    return took;
}

/* ns that two merges by one thread each take at once: what two threads can give at most, here and now. The processors of a
 * virtual machine may differ in speed, as their neighbours do. */
static double run_both(void *context)
{
    struct merging *merging = context;
    double ns[2];

#pragma omp parallel for schedule(static, 1) num_threads(2)
    for (int i = 0; i < 2; i++)
        ns[i] = run_merge(&merging[i]);
    return fmax(ns[0], ns[1]);
}

/* ns */
static double run_sgemm(void *context)
{
    const struct merging *merging = context;
    const double cpu = bench_cpu(), took = 1e9 * rival_sgemm_seconds(SGEMM, merging->a, merging->b, merging->c);

    bench_log_add(&logs[0], bench_cpu() - cpu);
    return took;
}

static void create(struct rig *rig, enum att_precision precision, uint32_t threads)
{
    struct att_engine_options options = rig_options(N, N, D);

    options.precision = precision;
    options.threads = threads;
    options.log_capacity = 4096;
    rig_create_held(rig, &options, 20);
}

static void figure(const struct bench *bench, const char *name, uint32_t pending, double merge_ns, double sgemm_ns)
{
    const double ours = 4.0 * N * pending * D / merge_ns, limit = 2.0 * SGEMM * SGEMM * (double)SGEMM / sgemm_ns;

    bench_figure(bench, name, ours, "GF/s", limit, ours / limit);
}

static void reset_logs(void)
{
    for (int i = 0; i < 5; i++)
        logs[i].count = 0;
}

static void check_hot(const struct rig *rig)
{
    const struct att_engine_stats stats = rig_stats(rig);

    if (stats.rows_hot != N || stats.log_pending != 0)
        bench_die("merged into %llu of %d rows", (unsigned long long)stats.rows_hot, N);
}

static void measure_merges(const struct bench *bench)
{
    struct rig mixed, single, full, team, other;
    struct merging on_mixed = {.rig = &mixed, .pending = PENDING, .log = &logs[3]}, on_single, on_double, on_team,
                   small, large, both[2];
    double ns[8];

    on_mixed.a = bench_floats((size_t)SGEMM * SGEMM);
    on_mixed.b = bench_floats((size_t)SGEMM * SGEMM);
    on_mixed.c = bench_floats((size_t)SGEMM * SGEMM);
    create(&mixed, ATT_MIXED, 1);
    create(&single, ATT_SINGLE, 1);
    create(&full, ATT_DOUBLE, 1);
    create(&team, ATT_MIXED, 2);
    create(&other, ATT_MIXED, 1);
    bench_random_fill(&mixed.random, on_mixed.a, (size_t)SGEMM * SGEMM, 1.0);
    bench_random_fill(&mixed.random, on_mixed.b, (size_t)SGEMM * SGEMM, 1.0);
    on_single = on_double = on_team = small = large = on_mixed;
    on_mixed.log = &logs[1];
    on_single.rig = &single;
    on_single.log = &logs[2];
    on_double.rig = &full;
    on_team.rig = &team;
    small.pending = 64;
    large.pending = 1024;
    both[0] = both[1] = on_double;
    both[0].rig = &mixed;
    both[1].rig = &other;
    both[1].log = &logs[4];
    const struct bench_run runs[] = {{run_sgemm, &on_mixed},  {run_merge, &on_mixed}, {run_merge, &on_single},
                                     {run_merge, &on_double}, {run_merge, &on_team},  {run_merge, &small},
                                     {run_merge, &large},     {run_both, both}};
    reset_logs();
    bench_interleave(runs, 8, bench->quick ? 3.0 : 20.0, ns);
    check_hot(&mixed);
    check_hot(&single);
    check_hot(&full);
    check_hot(&team);
    figure(bench, "p256-t1", PENDING, ns[1], ns[0]);
    figure(bench, "p256-t1-single", PENDING, ns[2], ns[0]);
    figure(bench, "p256-t1-cpu", PENDING, bench_log_median(&logs[1]), bench_log_median(&logs[0]));
    figure(bench, "p256-t1-single-cpu", PENDING, bench_log_median(&logs[2]), bench_log_median(&logs[0]));
    figure(bench, "p256-t1-double", PENDING, ns[3], ns[0]);
    figure(bench, "p64-t1", 64, ns[5], ns[0]);
    figure(bench, "p1024-t1", 1024, ns[6], ns[0]);
    bench_figure(bench, "threads", ns[4] * 1e-6, "ms", ns[1] * 1e-6, ns[1] / ns[4]);
    bench_figure(bench, "threads-limit", ns[7] * 1e-6, "ms", ns[1] * 1e-6, 2.0 * ns[1] / ns[7]);
    rig_release(&mixed);
    rig_release(&single);
    rig_release(&full);
    rig_release(&team);
    rig_release(&other);
    free(on_mixed.a);
    free(on_mixed.b);
    free(on_mixed.c);
}

/* ---- Init ---- */

struct init {
    struct att_engine_options options;
    struct rival *rival;
    struct bench_log *log;
};

/* ns from the start until no row is cold */
static double run_init(void *context)
{
    const struct init *init = context;
    struct rig rig;
    double start, took, cpu;

    rig_create_from(&rig, &init->options, init->rival->q, init->rival->k, init->rival->v);
    cpu = bench_cpu();
    start = bench_now();
    rig_start(&rig);
    rig_wait_hot(&rig);
    took = bench_now() - start;
    bench_log_add(init->log, bench_cpu() - cpu);
    rig_release(&rig);
    return took;
}

/* ns */
static double run_rival(void *context)
{
    const struct init *init = context;
    const double start = bench_now(), cpu = bench_cpu();

    rival_all(init->rival);
    bench_log_add(&logs[0], bench_cpu() - cpu);
    return bench_now() - start;
}

static void cpu_figure(const struct bench *bench, const char *name, int log)
{
    const double ours = bench_log_median(&logs[log]), rival = bench_log_median(&logs[0]);

    bench_figure(bench, name, ours * 1e-6, "ms", rival * 1e-6, ours / rival);
}

static void measure_init(const struct bench *bench)
{
    const uint32_t rows = bench->quick ? 2048 : N;
    float *q = bench_floats((size_t)rows * D), *k = bench_floats((size_t)N * D), *v = bench_floats((size_t)N * D);
    struct rival rival = {.n_q = rows, .n_k = N, .d = D, .d_v = D, .scale = 0.125f, .q = q, .k = k, .v = v};
    struct init mixed = {.options = rig_options(rows, N, D), .rival = &rival, .log = &logs[1]};
    struct init single = mixed, full = mixed;
    const struct bench_run runs[] = {{run_rival, &mixed}, {run_init, &mixed}, {run_init, &single}, {run_init, &full}};
    struct bench_random random = {21};
    char text[200];
    double ns[4];

    bench_random_fill(&random, q, (size_t)rows * D, 1.0);
    bench_random_fill(&random, k, (size_t)N * D, 1.0);
    bench_random_fill(&random, v, (size_t)N * D, 1.0);
    rival.out = bench_floats((size_t)rows * D);
    rival_create(&rival);
    rival_describe(&rival, text, sizeof text);
    bench_note(bench, "Init of %u rows; rival: %s", rows, text);
    single.options.precision = ATT_SINGLE;
    full.options.precision = ATT_DOUBLE;
    single.log = &logs[2];
    full.log = &logs[3];
    reset_logs();
    bench_interleave(runs, 4, bench->quick ? 1.0 : 20.0, ns);
    bench_figure(bench, "init", ns[1] * 1e-6, "ms", ns[0] * 1e-6, ns[1] / ns[0]);
    bench_figure(bench, "init-single", ns[2] * 1e-6, "ms", ns[0] * 1e-6, ns[2] / ns[0]);
    cpu_figure(bench, "init-cpu", 1);
    cpu_figure(bench, "init-single-cpu", 2);
    bench_figure(bench, "init-double", ns[3] * 1e-6, "ms", ns[0] * 1e-6, ns[3] / ns[0]);
    rival_release(&rival);
    free(rival.out);
    free(q);
    free(k);
    free(v);
}

void suite_merge(const struct bench *bench)
{
    measure_merges(bench);
    measure_init(bench);
}
