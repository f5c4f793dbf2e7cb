/* hmv: the paper's lower bound as a program. Hinted matrix-vector multiplication, solved by the engine's operations.
 *
 * Phase 1: Boolean M and V, n x n. Phase 2: the hint P, with n^tau nonzeros. Phase 3: a column j; asked: (M P V)_ij for
 * all i. With Q = M/n and K = 0, each nonzero (a, b) of P is UpdateK(b, a, 1); then Q K^T = (M P)/n, and
 *
 *   (exp(Q K^T) V)_ij - sum_b V_bj  =  sum_b (exp((M P)_ib / n) - 1) V_bj
 *
 * is 0 when (M P V)_ij is false, and at least exp(1/n) - 1 > 1/n when it is true. attnd answers with D^-1: so n more
 * tokens with zero keys (the shape stays one of the paper's, twice as tall), and one more value column, whose only 1 is
 * at the first of them. That column is 1/D_i, and the others don't see these tokens. Precision double: the gap 1/n
 * stands beside a sum of up to n.
 *
 * `wrong` counts entries that differ from the plain Boolean product; `uncertain`, those that the error bounds alone
 * would not settle. A floor of column-* is phase 3 of the plain product: n |P| steps on bytes. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "rig.h"

enum kind { RANDOM, GAP, DENSE, NEVER, KINDS };

static const char *const kind_names[KINDS] = {"random", "gap", "dense", "never"};

struct instance {
    enum kind kind;
    uint32_t n, count;   /* of the hint's nonzeros */
    uint8_t *m, *v;      /* n x n, by columns */
    uint32_t (*hint)[2]; /* (a, b) */
    uint8_t *picked;     /* n x n */
    struct bench_random random;
};

struct outcome {
    uint64_t wrong, uncertain, asked, trues;
    double init_ms, update_us, column_us, plain_us; /* of the last instance */
};

/* ---- Instances ---- */

static void fill(struct instance *in, uint8_t *matrix, double density)
{
    for (size_t p = 0; p < (size_t)in->n * in->n; p++)
        matrix[p] = bench_random_unit(&in->random) < density;
}

/* `count` different pairs with a < rows. */
static void pick(struct instance *in, uint32_t rows)
{
    for (uint32_t t = 0; t < in->count;) {
        const uint32_t a = bench_random_below(&in->random, rows), b = bench_random_below(&in->random, in->n);
        if (in->picked[(size_t)a * in->n + b]++)
            continue;
        in->hint[t][0] = a;
        in->hint[t++][1] = b;
    }
}

/* random: half of the answers are true. gap: each true answer hangs on one product, of size exp(1/n) - 1, beside a sum
 * of n. dense: all ones, the whole hint on one token: the largest score. never: the hint never meets M. */
static void make(struct instance *in)
{
    const uint32_t n = in->n;

    if (in->kind == RANDOM) {
        const double density = sqrt(log(2.0) / in->count);
        fill(in, in->m, fmin(0.9, density));
        fill(in, in->v, fmin(0.9, density));
        pick(in, n);
    } else if (in->kind == NEVER) {
        const uint32_t rows = (n + 1) / 2;
        fill(in, in->m, 0.5);
        memset(in->m, 0, (size_t)n * rows);
        memset(in->v, 1, (size_t)n * n);
        pick(in, rows);
    } else {
        const uint32_t turn = bench_random_below(&in->random, n);
        memset(in->m, in->kind == DENSE, (size_t)n * n);
        memset(in->v, 1, (size_t)n * n);
        for (uint32_t a = 0; a < n && in->kind == GAP; a++)
            in->m[(size_t)a * n + (a + turn) % n] = 1;
        for (uint32_t t = 0; t < in->count; t++) {
            in->hint[t][0] = t;
            in->hint[t][1] = in->kind == DENSE ? turn : bench_random_below(&in->random, n);
        }
    }
}

/* (M P V)_j, by its definition. Returns ns. */
static double plain(const struct instance *in, uint32_t j, uint8_t *out)
{
    const double start = bench_now();

    memset(out, 0, in->n);
    for (uint32_t t = 0; t < in->count; t++) {
        const uint8_t *column = in->m + (size_t)in->hint[t][0] * in->n;
        if (in->v[(size_t)j * in->n + in->hint[t][1]])
            for (uint32_t i = 0; i < in->n; i++)
                out[i] |= column[i];
    }
    return bench_now() - start;
}

/* ---- The engine's part ---- */

/* Phase 1: Init. */
static void init(struct rig *rig, const struct instance *in, uint32_t log_capacity)
{
    const uint32_t n = in->n, columns = n + 1;
    struct att_engine_options options = rig_options(n, 2 * n, n);
    float *q = bench_floats((size_t)n * n), *k = bench_floats((size_t)2 * n * n);
    float *v = bench_floats((size_t)2 * n * columns);

    options.d_v = columns;
    options.scale = 1.0;
    options.precision = ATT_DOUBLE;
    options.log_capacity = log_capacity;
    for (size_t i = 0; i < n; i++)
        for (size_t p = 0; p < n; p++) {
            q[i * n + p] = (float)in->m[p * n + i] / (float)n;
            v[i * columns + p] = in->v[p * n + i];
        }
    v[(size_t)n * columns + n] = 1.0f;
    rig_create_from(rig, &options, q, k, v);
    rig_start(rig);
    rig_wait_hot(rig);
    free(q);
    free(k);
    free(v);
}

/* UpdateK(i, j, delta). A full log is waited for. */
static void update_k(struct rig *rig, uint32_t i, uint32_t j, double delta)
{
    struct att_op op = {.kind = ATT_OP_ADD_K, .index = i, .column = j, .number = delta};
    struct att_error error;
    enum att_status status;

    while ((status = att_engine_apply(rig->engine, &op, rig->lsn + 1, &error)) == ATT_AGAIN) {
        att_engine_kick(rig->engine);
        while (sem_wait(&rig->completion) != 0 && errno == EINTR)
            ;
    }
    if (status != ATT_OK)
        bench_die("%s", error.text);
    rig->lsn++;
}

/* Query(i, j) */
static double query(struct rig *rig, uint32_t i, uint32_t j, double *values, double *ret_bound)
{
    struct att_error error;
    double value;
    const enum att_status status = att_engine_query(rig->engine, i, j, &value, ret_bound, &error);
    struct att_job job = {.kind = ATT_JOB_ROW, .index = i, .values = values, .bounds = ret_bound};

    if (status == ATT_OK)
        return value;
    if (status != ATT_AGAIN)
        bench_die("query (%u, %u): %s", i, j, att_status_name(status));
    rig_job(rig, &job);
    return values[j];
}

/* Phase 3: every entry of the column, decided. out: 0 or 1, plus 2 where the bounds alone would not settle it. */
static void ask_column(struct rig *rig, const struct instance *in, uint32_t j, double *values, uint8_t *out)
{
    const double least = 1.0 / in->n;
    double sum = 0.0;

    for (uint32_t b = 0; b < in->n; b++)
        sum += in->v[(size_t)j * in->n + b];
    for (uint32_t i = 0; i < in->n; i++) {
        double bound, unit_bound;
        const double value = query(rig, i, j, values, &bound), unit = query(rig, i, in->n, values, &unit_bound);
        const double low = (value - bound) / (unit + unit_bound) - sum;
        const double high = (value + bound) / (unit - unit_bound) - sum;
        out[i] = value / unit - sum > 0.5 * least;
        if (!(out[i] ? low > 0.0 : high < 0.99 * least))
            out[i] |= 2;
    }
}

static void solve(const struct instance *in, uint32_t log_capacity, struct outcome *outcome)
{
    const uint32_t n = in->n, j = n / 3;
    uint8_t *ours = bench_memory(n), *right = bench_memory(n);
    double *values = bench_memory(sizeof *values * (n + 1)), times[5], start;
    struct rig rig;

    start = bench_now();
    init(&rig, in, log_capacity);
    outcome->init_ms = (bench_now() - start) * 1e-6;
    start = bench_now();
    for (uint32_t t = 0; t < in->count; t++)
        update_k(&rig, in->hint[t][1], in->hint[t][0], 1.0);
    outcome->update_us = (bench_now() - start) * 1e-3 / in->count;
    start = bench_now();
    ask_column(&rig, in, j, values, ours);
    outcome->column_us = (bench_now() - start) * 1e-3;
    for (int i = 0; i < 5; i++)
        times[i] = plain(in, j, right);
    outcome->plain_us = bench_median(times, 5) * 1e-3;
    for (uint32_t i = 0; i < n; i++) {
        outcome->wrong += (ours[i] & 1) != right[i];
        outcome->uncertain += ours[i] >> 1;
        outcome->trues += right[i];
    }
    outcome->asked += n;
    rig_release(&rig);
    free(ours);
    free(right);
    free(values);
}

static void try_instance(enum kind kind, uint32_t n, double tau, bool small_log, struct outcome *outcome)
{
    struct instance in = {.kind = kind, .n = n, .count = (uint32_t)ceil(pow(n, tau)), .random = {n + 7u * kind}};

    in.m = bench_memory((size_t)n * n);
    in.v = bench_memory((size_t)n * n);
    in.picked = bench_memory((size_t)n * n);
    in.hint = bench_memory(sizeof *in.hint * in.count);
    make(&in);
    solve(&in, small_log ? 64 : 4 * in.count + 64, outcome);
    free(in.m);
    free(in.v);
    free(in.picked);
    free(in.hint);
}

static void times(const struct bench *bench, uint32_t n, int percent, const struct outcome *outcome)
{
    char name[64];

    snprintf(name, sizeof name, "init-n%u-tau%d", n, percent);
    bench_figure(bench, name, outcome->init_ms, "ms", NAN, NAN);
    snprintf(name, sizeof name, "update-n%u-tau%d", n, percent);
    bench_figure(bench, name, outcome->update_us, "us", NAN, NAN);
    snprintf(name, sizeof name, "column-n%u-tau%d", n, percent);
    bench_figure(bench, name, outcome->column_us, "us", outcome->plain_us, outcome->column_us / outcome->plain_us);
}

void suite_hmv(const struct bench *bench)
{
    static const uint32_t sizes[] = {2, 17, 64, 256, 512, 1024};
    static const int percents[] = {25, 50, 75, 100};
    struct outcome outcome = {0};

    for (size_t s = 0; s < (bench->quick ? 4 : 6); s++)
        for (size_t t = 0; t < 4; t++) {
            for (int kind = KINDS - 1; kind >= 0; kind--) {
                const uint64_t wrong = outcome.wrong;
                try_instance((enum kind)kind, sizes[s], percents[t] * 0.01, true, &outcome);
                try_instance((enum kind)kind, sizes[s], percents[t] * 0.01, false, &outcome);
                if (outcome.wrong > wrong)
                    bench_note(bench, "n %u, tau 0.%02d, %s: wrong answers", sizes[s], percents[t], kind_names[kind]);
            }
            if (sizes[s] >= 256)
                times(bench, sizes[s], percents[t], &outcome);
        }
    bench_note(bench, "%llu entries asked, %llu of them true", (unsigned long long)outcome.asked,
               (unsigned long long)outcome.trues);
    bench_figure(bench, "uncertain", (double)outcome.uncertain, "entries", NAN, NAN);
    bench_figure(bench, "wrong", (double)outcome.wrong, "entries", NAN, NAN);
}
