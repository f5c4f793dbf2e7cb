/* update: replacing a key and a value row, d = 64, of random tokens among a million, and of a few.
 *
 * Floors: `row` against the touches: a load from each of the same places that an update of a random token must reach,
 * in arrays of the same size (its key row, value row, bias, and the index: newest entry, live, norms), nothing else.
 * The next token is announced while one is updated, as the service does with requests that wait; `row-lone` without.
 * `row-memcpy` copies the two rows only. What is between the floors and the figure is the work: two entries written
 * into tiles of 16 lanes, checks and norms. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "rig.h"

enum { D = 64, TOKENS = 1000000, FEW_TOKENS = 16, BATCH = 2048 };

struct updating {
    struct rig *rig;
    uint32_t tokens; /* 0 .. tokens - 1 are updated */
    bool ahead;      /* the next one is announced */
    struct bench_random random;
    uint32_t order[BATCH];
    const float *k, *v, *bias; /* the engine's own arrays */
    uint64_t *newest;          /* stand for what the engine keeps for each token */
    uint8_t *live;
    float (*norms)[2];
};

/* So that drawing them is not timed. */
static void draw(struct updating *work)
{
    for (uint32_t i = 0; i < BATCH; i++)
        work->order[i] = bench_random_below(&work->random, work->tokens);
}

/* ns for each update; the merge that follows is not timed */
static double run_updates(void *context)
{
    struct updating *work = context;
    double start, took;

    draw(work);
    start = bench_now();
    for (uint32_t i = 0; i < BATCH; i++) {
        if (work->ahead) /* as the service does while requests wait */
            att_engine_ahead_update(work->rig->engine, work->order[(i + 1) % BATCH]);
        if (!rig_replace(work->rig, work->order[i]))
            bench_die("the log is full, and nothing merges");
    }
    att_engine_kick(work->rig->engine);
    took = bench_now() - start;
    rig_merge(work->rig);
    return took / BATCH;
}

/* ns for copying a key and a value row */
static double run_memcpy(void *context)
{
    struct updating *work = context;
    float rows[32][2 * D];
    double start, took;

    draw(work);
    start = bench_now();
    for (uint32_t i = 0; i < BATCH; i++) {
        memcpy(rows[i % 32], work->k + (size_t)work->order[i] * D, sizeof(float) * D);
        memcpy(rows[i % 32] + D, work->v + (size_t)work->order[i] * D, sizeof(float) * D);
        __asm__ volatile("" : : "r"(rows) : "memory"); /* the copies are needed */
    }
    took = bench_now() - start;
    return took / BATCH;
}

/* ns for touching all that an update of the token must touch; the processor may overlap as many as it can */
static double run_touches(void *context)
{
    struct updating *work = context;
    float sum = 0.0f;
    uint64_t index = 0;
    double start, took;

    draw(work);
    start = bench_now();
    for (uint32_t i = 0; i < BATCH; i++) {
        const size_t token = work->order[i];
        for (uint32_t p = 0; p < D; p += 16) /* a cache line each */
            sum += work->k[token * D + p] + work->v[token * D + p];
        sum += work->bias[token] + work->norms[token][0];
        index += work->newest[token] + work->live[token];
        work->newest[token] = index;
    }
    took = bench_now() - start;
    bench_sink = (double)sum + (double)index;
    return took / BATCH;
}

void suite_update(const struct bench *bench)
{
    struct att_engine_options options = rig_options(1, TOKENS, D);
    static struct updating random, hot, lone;
    struct rig rig;
    size_t bytes;
    const struct bench_run runs[] = {{run_updates, &random}, {run_memcpy, &random}, {run_touches, &random},
                                     {run_updates, &hot},    {run_memcpy, &hot},    {run_touches, &hot},
                                     {run_updates, &lone}};
    double ns[7];

    rig_create_held(&rig, &options, 30);
    random = (struct updating){.rig = &rig, .tokens = TOKENS, .random = {31}};
    random.k = att_engine_array(rig.engine, ATT_ARRAY_K, &bytes);
    random.v = att_engine_array(rig.engine, ATT_ARRAY_V, &bytes);
    random.bias = att_engine_array(rig.engine, ATT_ARRAY_BIAS, &bytes);
    random.newest = bench_memory(sizeof *random.newest * TOKENS);
    random.live = bench_memory(TOKENS);
    random.norms = bench_memory(sizeof *random.norms * TOKENS);
    hot = lone = random;
    hot.tokens = FEW_TOKENS;
    random.ahead = hot.ahead = true;
    bench_interleave(runs, 7, bench->quick ? 3.0 : 8.0, ns);
    bench_figure(bench, "row", ns[0], "ns", ns[2], ns[0] / ns[2]);
    bench_figure(bench, "row-lone", ns[6], "ns", ns[2], ns[6] / ns[2]);
    bench_figure(bench, "row-touches", ns[2], "ns", NAN, NAN);
    bench_figure(bench, "row-memcpy", ns[1], "ns", NAN, NAN);
    bench_figure(bench, "row-hot", ns[3], "ns", ns[5], ns[3] / ns[5]);
    bench_figure(bench, "row-hot-touches", ns[5], "ns", NAN, NAN);
    bench_figure(bench, "row-hot-memcpy", ns[4], "ns", NAN, NAN);
    bench_figure(bench, "misses", ns[0] - ns[3], "ns", ns[2] - ns[5], (ns[0] - ns[3]) / (ns[2] - ns[5]));
    free(random.newest);
    free(random.live);
    free(random.norms);
    rig_release(&rig);
}
