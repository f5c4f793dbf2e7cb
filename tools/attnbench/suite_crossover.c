/* crossover: the engine left to its policy, against the better of itself forced to recompute at each read (never_keep)
 * and itself forced to merge whenever there is anything (eager), over mixes of reads and updates.
 *
 * A mix is a stream of cycles: one update and R reads, or 1/R updates and one read, R from 0.001 to 1000. One thread
 * drives it and waits for whatever it must: room in the log, a row's job. Times are wall-clock times: merging goes on beside
 * it on another core, if there is one.
 *
 * Where the clock starts: each contestant's rows are all refreshed first (Init is excluded), then it runs its own stream of
 * the mix untimed, until all tokens have been replaced twice or `settle` is over, so that what is timed is the mix and not the
 * way there. Then the three run in turns, five segments each. A segment is timed together with a merge of what is pending at
 * its end, so it starts with nothing pending and leaves no work behind. A figure is the median time of a cycle; its ratio the median
 * over the turns of that turn's times, ours and that of the better of the two: a machine that is three times as slow for a
 * tenth of a second, as shared ones are now and then, is so for both. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "rig.h"

enum { D = 64, CONTESTANTS = 3, TURNS = 5, RATES = 7, AUTO = 0, RECOMPUTE = 1, EAGER = 2 };

enum rows { UNIFORM, ZIPF, ONE, ROW_KINDS };

struct mix {
    enum rows rows;
    bool whole; /* rows are read, not entries */
    double reads_per_update;
};

struct contestant {
    struct rig rig;
    struct bench_random random; /* which rows are read */
    double most_reads;          /* in a cycle: a longer one is cut short, its time scaled up */
    uint64_t updates, reads, jobs;
    double times[TURNS];
};

static const char *const row_names[] = {"uniform", "zipf", "one"};
static const double rates[RATES] = {0.001, 0.01, 0.1, 1, 10, 100, 1000};

/* Cumulative probabilities of rows, p(r) ~ 1/(r + 1). */
static double *zipf;

static void make_zipf(uint32_t n)
{
    double sum = 0.0;

    zipf = bench_memory(sizeof *zipf * n);
    for (uint32_t r = 0; r < n; r++)
        zipf[r] = sum += 1.0 / (r + 1.0);
    for (uint32_t r = 0; r < n; r++)
        zipf[r] /= sum;
}

static uint32_t draw_row(const struct mix *mix, struct contestant *who)
{
    const uint32_t n = who->rig.n_q;
    uint32_t low = 0, high = n - 1;
    double at;

    if (mix->rows == ONE)
        return n / 2;
    if (mix->rows == UNIFORM)
        return bench_random_below(&who->random, n);
    at = bench_random_unit(&who->random);
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (zipf[middle] < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void read_one(const struct mix *mix, struct contestant *who)
{
    struct att_engine *engine = who->rig.engine;
    const uint32_t row = draw_row(mix, who);
    double values[D], bound;
    struct att_job job = {.kind = ATT_JOB_ROW, .index = row, .values = values, .bounds = &bound};
    const enum att_status status = mix->whole ? att_engine_row(engine, row, values, &bound, NULL)
                                              : att_engine_query(engine, row, row % D, values, &bound, NULL);

    who->reads++;
    if (status == ATT_AGAIN) {
        who->jobs++;
        att_engine_submit(engine, &job);
        while (!att_engine_completed(engine))
            sched_yield();
    } else if (status != ATT_OK) {
        bench_die("row %u has no answer: %s", row, att_status_name(status));
    }
    bench_sink = values[0];
}

static void update(struct contestant *who)
{
    const uint32_t token = bench_random_below(&who->rig.queue, who->rig.n_k);

    who->updates++;
    while (!rig_replace(&who->rig, token)) {
        att_engine_kick(who->rig.engine);
        sched_yield();
    }
}

/* As the service does after each turn of requests, reads or updates. */
static void kick_sometimes(struct contestant *who, uint32_t done)
{
    if (done % 64 == 63)
        att_engine_kick(who->rig.engine);
}

static void run_cycle(const struct mix *mix, struct contestant *who)
{
    const double r = fmin(mix->reads_per_update, who->most_reads);
    const uint32_t updates = r < 1 ? (uint32_t)lround(1 / r) : 1, reads = r < 1 ? 1 : (uint32_t)lround(r);

    for (uint32_t i = 0; i < updates; i++) {
        update(who);
        kick_sometimes(who, i);
    }
    att_engine_kick(who->rig.engine);
    for (uint32_t i = 0; i < reads; i++) {
        read_one(mix, who);
        kick_sometimes(who, i);
    }
}

/* Whole cycles until the time is over, or so many updates are done, at least one; then a merge, which belongs to their
 * cost. ns for each cycle. */
static double run_for(const struct mix *mix, struct contestant *who, double seconds, uint64_t updates)
{
    const uint64_t last = who->updates + updates;
    const double start = bench_now(), end = start + seconds * 1e9;
    uint64_t cycles = 0;

    do {
        for (int i = 0; i < (mix->reads_per_update > 5 || mix->reads_per_update < 0.2 ? 1 : 16); i++, cycles++)
            run_cycle(mix, who);
    } while (bench_now() < end && who->updates < last);
    rig_merge(&who->rig);
    return (bench_now() - start) / (double)cycles * fmax(1.0, mix->reads_per_update / who->most_reads);
}

struct sweep {
    uint32_t n;
    double settle, segment; /* seconds: once at most; a segment */
    double budget;          /* for all mixes: settling is cut short to keep it */
};

static void create(struct contestant *all, const struct sweep *sweep)
{
    for (int c = 0; c < CONTESTANTS; c++) {
        struct att_engine_options options = rig_options(sweep->n, sweep->n, D);
        options.never_keep = c == RECOMPUTE;
        options.eager = c == EAGER;
        rig_create(&all[c].rig, &options, 50);
        all[c].random = (struct bench_random){51};
        all[c].updates = all[c].reads = all[c].jobs = 0;
        /* Recomputing has no memory: its 20th read costs what its 1000th does. */
        all[c].most_reads = c == RECOMPUTE ? 20.0 : INFINITY;
        rig_start(&all[c].rig);
        if (c != RECOMPUTE)
            rig_wait_hot(&all[c].rig);
    }
}

static void run_turns(const struct sweep *sweep, const struct mix *mix, struct contestant *all)
{
    for (int turn = -1; turn < TURNS; turn++) {
        for (int c = 0; c < CONTESTANTS; c++) {
            if (turn >= 0)
                all[c].times[turn] = run_for(mix, &all[c], sweep->segment, UINT32_MAX);
            else if (c != RECOMPUTE)
                run_for(mix, &all[c], sweep->settle, 2 * sweep->n);
        }
    }
}

static void describe(const struct bench *bench, const char *name, double settle, const struct contestant *all)
{
    const struct att_engine_stats ours = rig_stats(&all[AUTO].rig), eager = rig_stats(&all[EAGER].rig);

    bench_note(bench,
               "%s, settled for %.2f s at most: auto %llu rows hot, %llu refreshes, %llu merges, %llu updates, %llu of "
               "%llu reads by jobs; eager %llu "
               "hot, %llu merges, %llu of %llu reads by jobs",
               name, settle, (unsigned long long)ours.rows_hot, (unsigned long long)ours.refreshes,
               (unsigned long long)ours.merges, (unsigned long long)ours.updates, (unsigned long long)all[AUTO].jobs,
               (unsigned long long)all[AUTO].reads, (unsigned long long)eager.rows_hot,
               (unsigned long long)eager.merges, (unsigned long long)all[EAGER].jobs,
               (unsigned long long)all[EAGER].reads);
}

/* Of our time over the rival's, turn by turn. */
static double median_ratio(const struct contestant *us, const struct contestant *rival)
{
    double ratios[TURNS];

    for (int turn = 0; turn < TURNS; turn++)
        ratios[turn] = us->times[turn] / rival->times[turn];
    return bench_median(ratios, TURNS);
}

static double median_time(const struct contestant *who)
{
    double times[TURNS];

    memcpy(times, who->times, sizeof times);
    return bench_median(times, TURNS);
}

/* The ratio. */
static double run_mix(const struct bench *bench, const struct sweep *sweep, const struct mix *mix)
{
    static struct contestant all[CONTESTANTS];
    double ns[CONTESTANTS], ratio;
    int better;
    char name[64], more[96];

    create(all, sweep);
    run_turns(sweep, mix, all);
    for (int c = 0; c < CONTESTANTS; c++)
        ns[c] = median_time(&all[c]);
    better = ns[RECOMPUTE] < ns[EAGER] ? RECOMPUTE : EAGER;
    ratio = median_ratio(&all[AUTO], &all[better]);
    snprintf(name, sizeof name, "%s-%s-%g", row_names[mix->rows], mix->whole ? "row" : "entry", mix->reads_per_update);
    bench_figure(bench, name, ns[AUTO], "ns", ns[better], ratio);
    snprintf(more, sizeof more, "%s-recompute", name);
    bench_figure(bench, more, ns[RECOMPUTE], "ns", NAN, NAN);
    snprintf(more, sizeof more, "%s-eager", name);
    bench_figure(bench, more, ns[EAGER], "ns", NAN, NAN);
    describe(bench, name, sweep->settle, all);
    for (int c = 0; c < CONTESTANTS; c++)
        rig_release(&all[c].rig);
    return ratio;
}

enum { MIXES = ROW_KINDS * 2 * RATES };

void suite_crossover(const struct bench *bench)
{
    const struct sweep quick = {2048, 0.25, 0.025, 38.0}, full = {4096, 2.0, 0.15, 900.0};
    const struct sweep *plan = bench->quick ? &quick : &full;
    const double end = bench_now() + plan->budget * 1e9;
    struct sweep sweep = *plan;
    double worst = 0.0, reads = 0.0, updates = 0.0;
    int done = 0;

    make_zipf(sweep.n);
    for (int rows = 0; rows < ROW_KINDS; rows++)
        for (int whole = 0; whole < 2; whole++)
            for (int rate = 0; rate < RATES; rate++) {
                const struct mix mix = {(enum rows)rows, whole, rates[rate]};
                const double share = (end - bench_now()) * 1e-9 / (MIXES - done++);
                double ratio;
                sweep.settle = fmax(0.01, fmin(plan->settle, 0.25 * share));
                ratio = run_mix(bench, &sweep, &mix);
                worst = fmax(worst, ratio);
                reads = rate == RATES - 1 ? fmax(reads, ratio) : reads;
                updates = rate == 0 ? fmax(updates, ratio) : updates;
            }
    bench_figure(bench, "worst", worst, "ratio", NAN, worst);
    bench_figure(bench, "reads", reads, "ratio", NAN, reads);
    bench_figure(bench, "updates", updates, "ratio", NAN, updates);
    free(zipf);
}
