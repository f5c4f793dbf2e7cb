/* query: what an entry costs with nothing and with p entries pending, whether it depends on the number of tokens, and
 * how it compares with recomputing the row.
 *
 * The floor of p64, p256, p1024 is a plain read of as many bytes as the pending keys have (p d floats): a sum with
 * eight vector chains over one buffer, again and again, so that it lies in the same level of cache as the log's keys do
 * when query follows query. A query reads, beside the keys, a column of values (1/d of them), four head columns and the
 * bias, all uncounted. Rows: 64 of them in turn. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "lanes.h"
#include "rig.h"
#include "rival.h"

enum { D = 64, TOKENS = 16384, ROWS = 1024, HOT_ROWS = 64, MOST_PENDING = 1024 };

struct reads {
    struct rig *rig;
    uint32_t count, rows;
    bool whole; /* rows instead of entries */
    const float *buffer;
    size_t floats;
    const struct bench_lanes *lanes;
};

/* ns for each query */
static double run_queries(void *context)
{
    const struct reads *reads = context;
    struct att_engine *engine = reads->rig->engine;
    double values[D], bound, sum = 0.0;
    const double start = bench_now();

    for (uint32_t i = 0; i < reads->count; i++) {
        const uint32_t row = i % reads->rows;
        const enum att_status status = reads->whole ? att_engine_row(engine, row, values, &bound, NULL)
                                                    : att_engine_query(engine, row, i * 7 % D, values, &bound, NULL);
        if (status != ATT_OK)
            bench_die("row %u has no answer: %s", row, att_status_name(status));
        sum += values[0];
    }
    bench_sink = sum;
    return (bench_now() - start) / reads->count;
}

/* ns for each read of the buffer */
static double run_floor(void *context)
{
    const struct reads *reads = context;
    float sum = 0.0f;
    const double start = bench_now();

    for (uint32_t i = 0; i < reads->count; i++)
        sum += reads->lanes->sum(reads->buffer, reads->floats);
    bench_sink = (double)sum;
    return (bench_now() - start) / reads->count;
}

/* ---- Pending entries ---- */

static void measure_pending(const struct bench *bench, struct rig *rig, uint32_t pending, const char *suffix)
{
    const double bytes = 4.0 * pending * D;
    float *buffer = bench_floats((size_t)pending * D);
    struct reads reads = {.rig = rig,
                          .count = 4096 / (1 + pending / 16),
                          .rows = HOT_ROWS,
                          .buffer = buffer,
                          .floats = (size_t)pending * D,
                          .lanes = bench_lanes_choose()};
    struct reads rows = reads;
    const struct bench_run runs[] = {{run_queries, &reads}, {run_floor, &reads}, {run_queries, &rows}};
    double ns[3];
    char name[40];

    rows.whole = true;
    rig_merge(rig);
    rig_replace_some(rig, pending / 2);
    bench_interleave(runs, 3, bench->quick ? 0.3 : 2.0, ns);
    if (rig_stats(rig).log_pending != pending)
        bench_die("%u entries should be pending", pending);
    snprintf(name, sizeof name, "p%u%s", pending, suffix);
    bench_figure(bench, name, bytes / ns[0], "GB/s", bytes / ns[1], ns[1] / ns[0]);
    snprintf(name, sizeof name, "p%u%s-ns", pending, suffix);
    bench_figure(bench, name, ns[0], "ns", ns[1], ns[0] / ns[1]);
    snprintf(name, sizeof name, "p%u%s-row", pending, suffix);
    bench_figure(bench, name, ns[2], "ns", NAN, NAN);
    free(buffer);
}

static void measure_idle(const struct bench *bench, struct rig *rig)
{
    struct reads hot = {.rig = rig, .count = 8192, .rows = HOT_ROWS};
    struct reads all = {.rig = rig, .count = 8192, .rows = ROWS};
    struct reads rows = {.rig = rig, .count = 8192, .rows = HOT_ROWS, .whole = true};
    const struct bench_run runs[] = {{run_queries, &hot}, {run_queries, &all}, {run_queries, &rows}};
    double ns[3];

    bench_interleave(runs, 3, bench->quick ? 0.3 : 1.0, ns);
    bench_figure(bench, "p0", ns[0], "ns", NAN, NAN);
    bench_figure(bench, "p0-1024-rows", ns[1], "ns", NAN, NAN);
    bench_figure(bench, "p0-row", ns[2], "ns", NAN, NAN);
}

/* ---- A row from scratch ---- */

enum { FEW = 8 }; /* updates between two merges: 2 to 16 entries are pending */

struct after_update {
    struct rig *rig;
    struct rival *rival;
    bool whole, with_update;
    uint32_t row;
};

/* ns for an update and the query that follows it, or the query alone: the median; merges are not timed */
static double run_after_update(void *context)
{
    struct after_update *work = context;
    double values[D], bound, ns[16 * FEW];

    for (uint32_t i = 0; i < sizeof ns / sizeof *ns; i++) {
        const uint32_t row = work->row++ % HOT_ROWS;
        double start;
        if (i % FEW == 0)
            rig_merge(work->rig);
        start = bench_now();
        rig_replace_some(work->rig, 1);
        if (!work->with_update)
            start = bench_now();
        if (work->whole)
            att_engine_row(work->rig->engine, row, values, &bound, NULL);
        else
            att_engine_query(work->rig->engine, row, row % D, values, &bound, NULL);
        ns[i] = bench_now() - start;
        bench_sink = values[0];
    }
    return bench_median(ns, sizeof ns / sizeof *ns);
}

/* ns for a row */
static double run_rival_row(void *context)
{
    const struct after_update *work = context;
    double ns[5];

    for (uint32_t i = 0; i < 5; i++) {
        const double start = bench_now();
        rival_row(work->rival, i);
        ns[i] = bench_now() - start;
    }
    return bench_median(ns, 5);
}

static void make_rival(const struct bench *bench, const struct rig *rig, struct rival *rival)
{
    size_t bytes;
    char text[200];

    *rival = (struct rival){.n_q = HOT_ROWS, .n_k = TOKENS, .d = D, .d_v = D, .scale = 0.125f};
    rival->q = att_engine_array(rig->engine, ATT_ARRAY_Q, &bytes);
    rival->k = att_engine_array(rig->engine, ATT_ARRAY_K, &bytes);
    rival->v = att_engine_array(rig->engine, ATT_ARRAY_V, &bytes);
    rival->out = bench_floats((size_t)HOT_ROWS * D);
    rival_create(rival);
    rival_describe(rival, text, sizeof text);
    bench_note(bench, "rival: %s", text);
}

/* While the log is held and empty, K and V of the engine are the live tokens: the rival's answer must be ours. */
static void check_rival(struct rig *rig, struct rival *rival)
{
    double values[D], bound;

    rival_row(rival, 3);
    rig_merge(rig);
    if (att_engine_row(rig->engine, 3, values, &bound, NULL) != ATT_OK)
        bench_die("row 3 has no answer");
    for (uint32_t j = 0; j < D; j++)
        if (!(fabs(values[j] - (double)rival->out[3 * D + j]) < 1e-4))
            bench_die("the rival's answer is wrong: %g is not %g", (double)rival->out[3 * D + j], values[j]);
}

static void measure_vs_row(const struct bench *bench, struct rig *rig)
{
    struct rival rival;
    struct after_update both = {.rig = rig, .rival = &rival, .with_update = true}, alone = both, whole = both;
    const struct bench_run runs[] = {{run_after_update, &both},
                                     {run_rival_row, &both},
                                     {run_after_update, &alone},
                                     {run_after_update, &whole}};
    double ns[4];

    alone.with_update = false;
    whole.whole = true;
    rig_merge(rig);
    make_rival(bench, rig, &rival);
    check_rival(rig, &rival);
    bench_interleave(runs, 4, bench->quick ? 1.0 : 4.0, ns);
    bench_figure(bench, "vs-row", ns[2], "ns", ns[1], ns[1] / ns[2]);
    bench_figure(bench, "vs-row-with-update", ns[0], "ns", ns[1], ns[1] / ns[0]);
    bench_figure(bench, "vs-row-whole", ns[3], "ns", ns[1], ns[1] / ns[3]);
    rival_release(&rival);
    free(rival.out);
}

/* ---- Many tokens ---- */

static void measure_flat(const struct bench *bench)
{
    enum { FEW_TOKENS = 1000, MANY_TOKENS = 1000000, PENDING = 256 };
    struct att_engine_options few = rig_options(HOT_ROWS, FEW_TOKENS, D), many = rig_options(HOT_ROWS, MANY_TOKENS, D);
    struct rig small, large;
    struct reads at_few = {.rig = &small, .count = 256, .rows = HOT_ROWS}, at_many = at_few;
    const struct bench_run runs[] = {{run_queries, &at_many}, {run_queries, &at_few}};
    double ns[2];

    few.log_capacity = many.log_capacity = 1024;
    at_many.rig = &large;
    rig_create_held(&small, &few, 11);
    rig_create_held(&large, &many, 12);
    rig_replace_some(&small, PENDING / 2);
    rig_replace_some(&large, PENDING / 2);
    bench_interleave(runs, 2, bench->quick ? 0.3 : 1.0, ns);
    bench_figure(bench, "flat", ns[0], "ns", ns[1], ns[0] / ns[1]);
    rig_release(&small);
    rig_release(&large);
}

void suite_query(const struct bench *bench)
{
    static const enum att_precision precisions[] = {ATT_MIXED, ATT_SINGLE, ATT_DOUBLE};
    static const char *const suffixes[] = {"", "-single", "-double"};
    static const uint32_t pending[] = {64, 256, 1024};

    for (int i = 0; i < 3; i++) {
        struct att_engine_options options = rig_options(ROWS, TOKENS, D);
        struct rig rig;
        options.precision = precisions[i];
        options.log_capacity = 2 * MOST_PENDING;
        rig_create_held(&rig, &options, 10);
        if (i == 0)
            measure_idle(bench, &rig);
        for (int p = 0; p < 3; p++)
            measure_pending(bench, &rig, pending[p], suffixes[i]);
        if (i == 0)
            measure_vs_row(bench, &rig);
        rig_release(&rig);
    }
    measure_flat(bench);
}
