/* The suite paper's rivals: ns of CPU time an update and a query, of random places, d = 64, n_q = n_k = n, merging
 * included. value: ours, over at least n pairs after n others, so that rows have had the time to go cold; floor: the
 * rival's; ratio: how many times as long it takes.
 *
 *   vs-recompute-nX  a row from scratch at each query (rival.h: OpenBLAS, or oneDNN where it is faster); the update is free
 *   vs-rebuild-nX    everything from scratch at each update; the query is free. Timed over 4096 of the rows, times n / 4096:
 *                    each row is done by itself
 *   vs-paper-nX      the paper's structure, tests/support/reference.c, plain C, tau 0.5; up to n = 8192, for it needs n^2 doubles
 *   worst-factor     the least ratio of them all */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "paper.h"
#include "reference.h"
#include "rival.h"

enum { D = 64, PAIRS = 128, SLICE = 4096, MOST_FOR_REFERENCE = 8192 };

/* One n: the arrays, and who takes part. */
struct contest {
    uint32_t n;
    float *q, *k, *v, *out;
    struct rival row, slice; /* a row of n; all of SLICE rows */
    struct reference *reference;
    struct rig rig;
    double values[D];
    struct bench_random random;
    double cpu;           /* ns, of all of our pairs: a median would leave the merges out */
    uint64_t count, jobs; /* pairs; reads of rows without a base */
};

/* ours, as it comes; merging goes on behind, on the same clock */
static double run_ours(void *context)
{
    struct contest *contest = context;
    struct rig *rig = &contest->rig;
    const double start = bench_cpu();
    double bound;

    for (uint32_t i = 0; i < PAIRS; i++) {
        const uint32_t token = bench_random_below(&rig->queue, contest->n);
        const uint32_t row = bench_random_below(&rig->queue, contest->n);
        while (!paper_update(rig, token)) {
            att_engine_kick(rig->engine);
            while (sem_wait(&rig->completion) != 0 && errno == EINTR)
                ;
        }
        att_engine_kick(rig->engine);
        if (att_engine_query(rig->engine, row, 0, contest->values, &bound, NULL) != ATT_OK) {
            struct att_job job = {.kind = ATT_JOB_ROW, .index = row, .values = contest->values, .bounds = &bound};
            rig_job(rig, &job);
            contest->jobs++;
        }
        bench_sink = contest->values[0];
    }
    contest->cpu += bench_cpu() - start;
    contest->count += PAIRS;
    return (bench_cpu() - start) / PAIRS;
}

static double run_recompute(void *context)
{
    struct contest *contest = context;
    const double start = bench_cpu();

    rival_row(&contest->row, bench_random_below(&contest->random, contest->n));
    return bench_cpu() - start;
}

static double run_rebuild(void *context)
{
    struct contest *contest = context;
    const double start = bench_cpu();

    rival_all(&contest->slice);
    return (bench_cpu() - start) * contest->n / SLICE;
}

static double run_reference(void *context)
{
    struct contest *contest = context;
    struct bench_random *random = &contest->random;
    const double start = bench_cpu();

    for (uint32_t i = 0; i < PAIRS; i++) {
        const uint32_t token = bench_random_below(random, contest->n), column = bench_random_below(random, D);
        const double delta = 0.02 * (bench_random_unit(random) - 0.5);
        if (i % 2)
            reference_update_k(contest->reference, token, column, delta);
        else
            reference_update_v(contest->reference, token, column, delta);
        bench_sink = reference_query(contest->reference, bench_random_below(random, contest->n), 0);
    }
    return (bench_cpu() - start) / PAIRS;
}

static void create(const struct bench *bench, struct contest *c)
{
    struct att_engine_options options = rig_options(c->n, c->n, D);
    const size_t floats = (size_t)c->n * D;
    char text[300];

    c->q = bench_floats(floats);
    c->k = bench_floats(floats);
    c->v = bench_floats(floats);
    c->out = bench_floats(floats);
    c->random.state = 64;
    bench_random_fill(&c->random, c->q, floats, 0.35);
    bench_random_fill(&c->random, c->k, floats, 0.35);
    bench_random_fill(&c->random, c->v, floats, 1.0);
    c->row = (struct rival){
        .n_q = c->n, .n_k = c->n, .d = D, .d_v = D, .scale = 0.125f, .q = c->q, .k = c->k, .v = c->v, .out = c->out};
    c->slice = c->row;
    c->slice.n_q = SLICE;
    rival_create(&c->row);
    rival_create(&c->slice);
    rival_describe(&c->row, text, sizeof text);
    bench_note(bench, "n = %u: the rivals: %s", c->n, text);
    rig_create_from(&c->rig, &options, c->q, c->k, c->v);
    rig_start(&c->rig);
    rig_wait_hot(&c->rig);
    if (c->n <= MOST_FOR_REFERENCE && !(c->reference = reference_create(c->n, D, 0.5, c->q, c->k, c->v)))
        bench_die("not enough memory for the paper's structure at n = %u", c->n);
}

static void release(struct contest *c)
{
    reference_free(c->reference);
    rig_release(&c->rig);
    rival_release(&c->row);
    rival_release(&c->slice);
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->out);
}

/* Returns how many times as long the rival takes. */
static double versus(const struct bench *bench, const char *rival, uint32_t n, double ours, double theirs)
{
    char name[64];

    snprintf(name, sizeof name, "vs-%s-n%u", rival, n);
    bench_figure(bench, name, ours, "ns", theirs, theirs / ours);
    return theirs / ours;
}

/* Returns the least ratio. */
static double measure(const struct bench *bench, uint32_t n)
{
    struct contest *contest = bench_memory(sizeof *contest);
    const struct bench_run runs[] = {{run_ours, contest},
                                     {run_recompute, contest},
                                     {run_rebuild, contest},
                                     {run_reference, contest}};
    double ns[4], end, least;

    contest->n = n;
    create(bench, contest);
    while (contest->count < n)
        run_ours(contest);
    bench_interleave(runs, contest->reference ? 4 : 3, bench->quick ? 1.0 : 2.0, ns);
    contest->cpu = 0.0;
    contest->count = contest->jobs = 0;
    end = bench_now() + (bench->quick ? 2e9 : 4e9);
    while (contest->count < n || bench_now() < end)
        run_ours(contest);
    ns[0] = contest->cpu / (double)contest->count;
    bench_note(bench, "n = %u: %llu pairs, %llu merges, %llu reads of cold rows", n, (unsigned long long)contest->count,
               (unsigned long long)rig_stats(&contest->rig).merges, (unsigned long long)contest->jobs);
    least = fmin(versus(bench, "recompute", n, ns[0], ns[1]), versus(bench, "rebuild", n, ns[0], ns[2]));
    if (contest->reference)
        least = fmin(least, versus(bench, "paper", n, ns[0], ns[3]));
    release(contest);
    free(contest);
    return least;
}

void paper_measure_rivals(const struct bench *bench)
{
    static const uint32_t n[] = {4096, 8192, 16384};
    double least = INFINITY;

    for (int i = 0; i < (bench->quick ? 1 : 3); i++)
        least = fmin(least, measure(bench, n[i]));
    bench_figure(bench, "worst-factor", least, "times", NAN, NAN);
}
