/* paper: the paper's bounds as curves. Exponents are fitted by least squares on logarithms; a floor is the predicted
 * exponent, `-ci` half the width of its 95 % confidence interval, and each measured point is printed too (`-at-X`).
 *
 *   update-fixed-d   ns an update, its share of a merge included, against n_q; d = 64; predicted 1
 *   update-d-n       the same with n_q = d_v = d = n; predicted 2; fitted from n = 512 on, for what is paid once for each
 *                    row or entry still shows below (-all: fitted over all points)
 *   query-n          ns a query with 1024 entries pending, against n_q; predicted 0
 *   query-p          the same against the entries pending, n = 1024; predicted 1
 *   tau-update       ns an update, its share of the merge of n^tau entries included, against n^tau; n_q = n_k = d = 1024,
 *                    tau from 0.25 to 1; with the classical exponent of T_mat it does not depend on tau: predicted 0, fitted
 *                    from tau 0.5 on (below, copying the bases shows; -all: fitted over all points)
 *   tau-query        ns a query with a full log, 2 n^tau entries, against n^tau; predicted 1; fitted from tau 0.5 on, -all too
 *   tau-worst, worst-update, vs-...: suite_paper_worst.c, suite_paper_rivals.c
 *
 * In the sweeps over n there are 1024 tokens (or n, if that is less): a merge does not depend on their number, and Init
 * of a million rows over a million tokens would take hours. Costs are in CPU time of the process, all threads: what
 * an update costs wherever it is paid, and other programs on the machine hardly show. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fit.h"
#include "paper.h"

enum { D = 64, TOKENS = 1024, UPDATES = 64, QUERIES = 32, PENDING = 1024, MOST = BENCH_RUNS };

bool paper_update(struct rig *rig, uint32_t token)
{
    const bool key = rig->lsn % 2 == 0;
    struct att_op op = {.kind = key ? ATT_OP_ADD_K : ATT_OP_ADD_V,
                        .index = token,
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
        if (!paper_update(rig, (uint32_t)(rig->lsn % rig->n_k)))
            bench_die("the log is full, and nothing merges");
}

double paper_run_updates(void *context)
{
    struct paper_subject *subject = context;
    const double start = bench_cpu();

    update_some(&subject->rig, subject->updates);
    rig_merge(&subject->rig);
    return (bench_cpu() - start) / subject->updates;
}

/* ns a query, of random rows and columns. */
static double run_queries(void *context)
{
    struct rig *rig = &((struct paper_subject *)context)->rig;
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
static void create(struct paper_subject *subject, uint32_t n_q, uint32_t d, uint32_t log_capacity, uint32_t updates)
{
    struct att_engine_options options = rig_options(n_q, n_q < TOKENS ? n_q : TOKENS, d);

    options.eager = true;
    options.log_capacity = log_capacity;
    subject->updates = updates;
    rig_create_held(&subject->rig, &options, 60);
}

/* What is drawn and fitted: `count` points, the fit from the point `from` on. */
struct sweep {
    const char *name;
    double predicted;
    uint32_t count, from;
    const double *x;
};

static void fit(const struct bench *bench, const char *name, double predicted, const double *x, const double *ns,
                uint32_t count)
{
    const struct fit fit = bench_fit(x, ns, count);
    char text[64];

    bench_figure(bench, name, fit.exponent, "exponent", predicted, NAN);
    snprintf(text, sizeof text, "%s-ci", name);
    bench_figure(bench, text, fit.half_width, "exponent", NAN, NAN);
}

/* Measures all subjects in turn, prints each point, and fits. */
static void measure(const struct bench *bench, const struct sweep *sweep, struct paper_subject *subjects,
                    double seconds, double (*run)(void *context))
{
    struct bench_run runs[MOST];
    double ns[MOST];
    char text[64];

    for (uint32_t i = 0; i < sweep->count; i++)
        runs[i] = (struct bench_run){run, &subjects[i]};
    bench_interleave(runs, sweep->count, seconds, ns);
    for (uint32_t i = 0; i < sweep->count; i++) {
        snprintf(text, sizeof text, "%s-at-%.0f", sweep->name, sweep->x[i]);
        bench_figure(bench, text, ns[i], "ns", NAN, NAN);
    }
    if (sweep->from > 0) {
        snprintf(text, sizeof text, "%s-all", sweep->name);
        fit(bench, text, sweep->predicted, sweep->x, ns, sweep->count);
    }
    fit(bench, sweep->name, sweep->predicted, sweep->x + sweep->from, ns + sweep->from, sweep->count - sweep->from);
}

static void release(struct paper_subject *subjects, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        rig_release(&subjects[i].rig);
}

static void measure_fixed_d(const struct bench *bench)
{
    static const double quick[] = {4096, 8192, 16384, 32768, 65536};
    static const double full[] = {1000, 4000, 16000, 64000, 250000, 1000000};
    const double *n = bench->quick ? quick : full;
    const uint32_t count = bench->quick ? 5 : 6;
    const double seconds = bench->quick ? 1.0 : 4.0;
    struct paper_subject subjects[MOST];

    for (uint32_t i = 0; i < count; i++)
        create(&subjects[i], (uint32_t)n[i], D, 2 * PENDING, UPDATES);
    measure(bench, &(struct sweep){"update-fixed-d", 1.0, count, 0, n}, subjects, seconds, paper_run_updates);
    for (uint32_t i = 0; i < count; i++)
        update_some(&subjects[i].rig, PENDING / 2);
    measure(bench, &(struct sweep){"query-n", 0.0, count, 0, n}, subjects, seconds, run_queries);
    release(subjects, count);
}

static void measure_d_n(const struct bench *bench)
{
    static const double quick[] = {256, 512, 768, 1024, 1536, 2048, 3072, 4096};
    static const double full[] = {256, 512, 1024, 1536, 2048, 3072, 4096, 8192};
    const double *n = bench->quick ? quick : full;
    struct paper_subject subjects[MOST];

    for (uint32_t i = 0; i < MOST; i++)
        create(&subjects[i], (uint32_t)n[i], (uint32_t)n[i], 4 * UPDATES, UPDATES);
    measure(bench, &(struct sweep){"update-d-n", 2.0, MOST, 1, n}, subjects, bench->quick ? 2.5 : 8.0,
            paper_run_updates);
    release(subjects, MOST);
}

static void measure_pending(const struct bench *bench)
{
    static const double pending[] = {512, 1024, 2048, 4096, 8192, 16384};
    struct paper_subject subjects[6];

    for (uint32_t i = 0; i < 6; i++) {
        create(&subjects[i], TOKENS, D, 2 * (uint32_t)pending[i], UPDATES);
        update_some(&subjects[i].rig, (uint32_t)pending[i] / 2);
    }
    measure(bench, &(struct sweep){"query-p", 1.0, 6, 0, pending}, subjects, bench->quick ? 1.0 : 4.0, run_queries);
    release(subjects, 6);
}

static void measure_tau(const struct bench *bench)
{
    enum { N = 1024, TAUS = 7 };
    const double seconds = bench->quick ? 1.5 : 4.0;
    struct paper_subject subjects[TAUS];
    double x[TAUS];

    for (uint32_t i = 0; i < TAUS; i++) {
        x[i] = 2.0 * round(0.5 * pow(N, 0.25 + 0.125 * i));                      /* two entries an update */
        create(&subjects[i], N, N, 2 * (uint32_t)x[i] + 64, (uint32_t)x[i] / 2); /* never full: a merge would come */
    }
    measure(bench, &(struct sweep){"tau-update", 0.0, TAUS, 2, x}, subjects, seconds, paper_run_updates);
    for (uint32_t i = 0; i < TAUS; i++)
        update_some(&subjects[i].rig, (uint32_t)x[i]);
    measure(bench, &(struct sweep){"tau-query", 1.0, TAUS, 2, x}, subjects, seconds, run_queries);
    release(subjects, TAUS);
}

void suite_paper(const struct bench *bench)
{
    measure_fixed_d(bench);
    measure_d_n(bench);
    measure_pending(bench);
    measure_tau(bench);
    paper_measure_worst(bench);
    paper_measure_rivals(bench);
}
