/* accuracy: every answer's bound against its true error, over histories that are meant to break it; and drift.
 *
 * A trial is a small engine of some shape, precision and log capacity, and a history: what is done to it, step after
 * step. After each step a row and an entry of it are checked, sometimes everything. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "accuracy.h"

static uint32_t below(struct trial *trial, uint32_t bound)
{
    return bench_random_below(&trial->random, bound);
}

static uint32_t any_live(struct trial *trial)
{
    uint32_t token = below(trial, trial->model.capacity);

    while (!trial->model.live[token])
        token = (token + 1) % trial->model.capacity;
    return token;
}

static void random_values(struct trial *trial, float *ret_value)
{
    bench_random_fill(&trial->random, ret_value, trial->model.d_v, 1.0);
}

static void set_token(struct trial *trial, uint32_t token, const float *key, const float *value, const float *bias)
{
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = token, .key = key, .value = value, .bias = bias};

    trial_apply(trial, &op);
}

/* ---- Histories ---- */

/* Whole rows, parts of them, single entries. */
static uint32_t step_random(struct trial *trial)
{
    const uint32_t token = any_live(trial), what = below(trial, 6);
    float key[MOST_COLUMNS], value[MOST_COLUMNS];
    struct att_op op = {.index = token, .number = (double)bench_random_normal(&trial->random)};

    bench_random_fill(&trial->random, key, trial->model.d, 1.0);
    random_values(trial, value);
    if (what < 4) {
        set_token(trial, token, what == 1 ? NULL : key, what == 2 ? NULL : value, NULL);
    } else {
        op.kind = what == 4 ? ATT_OP_ADD_K : ATT_OP_ADD_V;
        op.column = below(trial, what == 4 ? trial->model.d : trial->model.d_v);
        trial_apply(trial, &op);
    }
    return below(trial, trial->model.n_q);
}

/* The key whose score with this row is `score`. */
static void key_for(const struct trial *trial, uint32_t row, double score, float *ret_key)
{
    const float *q = trial->model.q + (size_t)row * trial->model.d;
    double norm = 0.0;

    for (uint32_t p = 0; p < trial->model.d; p++)
        norm += (double)q[p] * (double)q[p];
    for (uint32_t p = 0; p < trial->model.d; p++)
        ret_key[p] = (float)(score / (norm * trial->model.scale) * (double)q[p]);
}

static void remove_token(struct trial *trial, uint32_t token, const float *old, uint32_t how)
{
    const float masked = -INFINITY, none = 0.0f;
    float value[MOST_COLUMNS];
    struct att_op remove = {.kind = ATT_OP_DELETE, .index = token};
    struct att_op back = {.kind = ATT_OP_APPEND, .index = token, .key = old, .value = value, .bias = &none};

    random_values(trial, value);
    if (how == 0) {
        set_token(trial, token, old, NULL, NULL);
    } else if (how == 1) {
        trial_apply(trial, &remove);
        trial_check_row(trial, below(trial, trial->model.n_q));
        trial_apply(trial, &back);
    } else {
        set_token(trial, token, NULL, NULL, &masked);
        trial_check_row(trial, below(trial, trial->model.n_q));
        set_token(trial, token, old, NULL, &none);
    }
}

/* A key that holds all but 1e-9 of a row's mass, or less, comes and leaves: scores of others are some 1. */
static uint32_t step_cancel(struct trial *trial)
{
    const uint32_t row = below(trial, trial->model.n_q), token = any_live(trial);
    const double score = 15.0 + 20.0 * bench_random_unit(&trial->random);
    float key[MOST_COLUMNS], old[MOST_COLUMNS];

    memcpy(old, trial->model.k + (size_t)token * trial->model.d, sizeof(float) * trial->model.d);
    key_for(trial, row, score, key);
    set_token(trial, token, key, NULL, NULL);
    if (below(trial, 2))
        trial_check_row(trial, row);
    if (below(trial, 3) == 0)
        rig_merge(&trial->rig);
    remove_token(trial, token, old, below(trial, 3));
    return row;
}

/* All rows of Q point the same way, so a key's score is nearly the same with each. */
enum { STEEP = 16 };

static void steep_key(struct trial *trial, double score, float *ret_key)
{
    bench_random_fill(&trial->random, ret_key, trial->model.d, 0.1);
    ret_key[0] = (float)(score / (STEEP * trial->model.scale));
}

/* Scores anywhere from -1400 to 460; half of the time it is the largest that leaves. */
static uint32_t step_extreme(struct trial *trial)
{
    const uint32_t row = below(trial, trial->model.n_q);
    const uint32_t token = below(trial, 2) ? model_top(&trial->model, row) : any_live(trial);
    float key[MOST_COLUMNS], value[MOST_COLUMNS];

    steep_key(trial, -1400.0 + 1860.0 * bench_random_unit(&trial->random), key);
    random_values(trial, value);
    set_token(trial, token, key, value, NULL);
    return row;
}

/* Each step 15 above the largest before; back to the bottom from 460 on. */
static uint32_t step_rise(struct trial *trial)
{
    const uint32_t row = below(trial, trial->model.n_q), top = model_top(&trial->model, row);
    const double highest = (double)trial->model.k[(size_t)top * trial->model.d] * STEEP * trial->model.scale;
    float key[MOST_COLUMNS];

    steep_key(trial, highest + 15.0, key);
    set_token(trial, highest > 440.0 ? top : any_live(trial), key, NULL, NULL);
    if (highest > 440.0) {
        for (uint32_t token = 0; token < trial->model.capacity; token++) {
            steep_key(trial, -1400.0 * bench_random_unit(&trial->random), key);
            set_token(trial, token, key, NULL, NULL);
        }
    }
    return row;
}

/* Down to a few tokens, to none at times, and up again. */
static uint32_t step_count(struct trial *trial)
{
    float key[MOST_COLUMNS], value[MOST_COLUMNS];
    const uint32_t token = below(trial, trial->model.capacity);
    struct att_op op = {.kind = ATT_OP_DELETE, .index = token};
    struct att_op append = {.kind = ATT_OP_APPEND, .index = ATT_ANY_INDEX, .key = key, .value = value};
    const bool shrinking = trial->rig.lsn / (2 * trial->model.capacity) % 2 == 0;

    bench_random_fill(&trial->random, key, trial->model.d, 1.0);
    random_values(trial, value);
    if (trial->model.live[token] && below(trial, 4) < (shrinking ? 4 : 1))
        trial_apply(trial, &op);
    else if (!trial->model.live[token] && below(trial, 4) < (shrinking ? 1 : 4))
        trial_apply(trial, &append);
    return below(trial, trial->model.n_q);
}

static uint32_t step_bias(struct trial *trial)
{
    const float bias = below(trial, 3) == 0 ? -INFINITY : 8.0f * bench_random_normal(&trial->random);

    set_token(trial, any_live(trial), NULL, NULL, &bias);
    return below(trial, trial->model.n_q);
}

static uint32_t step_q(struct trial *trial)
{
    const uint32_t row = below(trial, trial->model.n_q);
    float q[MOST_COLUMNS];
    struct att_op op = {.kind = ATT_OP_SET_Q, .index = row, .key = q};

    bench_random_fill(&trial->random, q, trial->model.d, below(trial, 4) ? 1.0 : 4.0);
    trial_apply(trial, &op);
    step_random(trial);
    return below(trial, 2) ? row : below(trial, trial->model.n_q);
}

static uint32_t step_mixture(struct trial *trial)
{
    switch (below(trial, 6)) {
    case 0:
        return step_cancel(trial);
    case 1:
        return step_count(trial);
    case 2:
        return step_bias(trial);
    case 3:
        return step_q(trial);
    default:
        return step_random(trial);
    }
}

struct history {
    const char *name;
    uint32_t (*step)(struct trial *trial); /* a row that is worth a look */
    bool steep;
};

static const struct history histories[] = {
    {"random", step_random, false}, {"cancel", step_cancel, false},  {"extreme", step_extreme, true},
    {"rise", step_rise, true},      {"count", step_count, false},    {"bias", step_bias, false},
    {"q", step_q, false},           {"mixture", step_mixture, false}};

enum { HISTORIES = sizeof histories / sizeof *histories };

/* ---- Trials ---- */

static void fill(struct trial *trial, bool steep)
{
    struct model *model = &trial->model;

    bench_random_fill(&trial->random, model->q, (size_t)model->n_q * model->d, steep ? 0.1 : 1.0);
    bench_random_fill(&trial->random, model->v, (size_t)model->capacity * model->d_v, 1.0);
    bench_random_fill(&trial->random, model->k, (size_t)model->capacity * model->d, 1.0);
    for (uint32_t row = 0; steep && row < model->n_q; row++)
        model->q[(size_t)row * model->d] = STEEP;
    for (uint32_t token = 0; steep && token < model->capacity; token++)
        steep_key(trial, -1400.0 + 1860.0 * bench_random_unit(&trial->random), model->k + (size_t)token * model->d);
}

static void run_trial(const struct history *history, uint64_t seed, struct tally *tally)
{
    static const uint32_t sizes[] = {8, 16, 64}, logs[] = {64, 256, 1024};
    struct trial trial = {.history = history->name, .tally = tally, .random = {seed}, .precision = seed % PRECISIONS};
    const uint32_t d = sizes[below(&trial, 3)], d_v = sizes[below(&trial, 2)] - below(&trial, 4);
    const uint32_t steps = 100 + below(&trial, 200);

    model_init(&trial.model, 8 + below(&trial, 90), 24 + below(&trial, 160), d, d_v,
               below(&trial, 2) ? 1 : 1 / sqrt(d));
    fill(&trial, history->steep);
    trial_start(&trial, logs[below(&trial, 3)]);
    att_engine_hold(trial.rig.engine, below(&trial, 2));
    if (below(&trial, 2))
        rig_wait_hot(&trial.rig);
    for (uint32_t step = 0; step < steps; step++) {
        trial_check_row(&trial, history->step(&trial));
        if (below(&trial, 16) == 0)
            att_engine_kick(trial.rig.engine);
        if (below(&trial, 64) == 0)
            rig_merge(&trial.rig);
    }
    trial_check_all(&trial);
    trial_release(&trial);
}

static void measure_bounds(const struct bench *bench)
{
    const uint64_t enough = bench->quick ? 2000000 : 10000000;
    const double start = bench_now(), end = start + (bench->quick ? 20e9 : 600e9);
    struct tally tally = {0};
    uint64_t trials = 0;

    for (; tally.answers < enough && bench_now() < end; trials++)
        run_trial(&histories[trials / PRECISIONS % HISTORIES], trials, &tally);
    bench_note(bench, "%llu trials, %llu rows read from their bases, %llu by jobs", (unsigned long long)trials,
               (unsigned long long)tally.direct, (unsigned long long)tally.jobs);
    bench_figure(bench, "violations", (double)tally.violations, "answers", 0.0, NAN);
    bench_figure(bench, "answers", (double)tally.answers, "answers", NAN, NAN);
    bench_figure(bench, "bound-single", tally.largest_bound[ATT_SINGLE], "max|V|", NAN, NAN);
    bench_figure(bench, "bound-mixed", tally.largest_bound[ATT_MIXED], "max|V|", NAN, NAN);
    bench_figure(bench, "bound-double", tally.largest_bound[ATT_DOUBLE], "max|V|", NAN, NAN);
    bench_figure(bench, "error-single", tally.largest_error[ATT_SINGLE], "max|V|", NAN, tally.largest_share[0]);
    bench_figure(bench, "error-mixed", tally.largest_error[ATT_MIXED], "max|V|", NAN, tally.largest_share[1]);
    bench_figure(bench, "error-double", tally.largest_error[ATT_DOUBLE], "max|V|", NAN, tally.largest_share[2]);
}

/* ---- Drift ---- */

/* Root mean square over all outputs, read from the bases. */
static double error_of(struct trial *trial)
{
    trial->error_square = 0.0;
    trial->errors = 0;
    rig_merge(&trial->rig);
    for (uint32_t row = 0; row < trial->model.n_q; row++)
        trial_check_row(trial, row);
    return sqrt(trial->error_square / (double)trial->errors);
}

/* Replaces all tokens; the rows are read four times meanwhile, so that they stay hot. */
static void pass(struct trial *trial, double deviation)
{
    float key[MOST_COLUMNS], value[MOST_COLUMNS];
    const uint32_t n = trial->model.capacity;

    for (uint32_t token = 0; token < n; token++) {
        bench_random_fill(&trial->random, key, trial->model.d, deviation);
        random_values(trial, value);
        set_token(trial, token, key, value, NULL);
        if (token % (n / 4) == 0) {
            rig_merge(&trial->rig);
            rig_touch_rows(&trial->rig, trial->model.n_q);
        }
    }
}

/* Scores of this deviation. The error after the passes over that of an engine started on the same tokens. */
static double drift(const struct bench *bench, double deviation, uint32_t passes)
{
    const uint32_t n = bench->quick ? 256 : 1024, n_q = 64, d = 64;
    struct tally tally = {0};
    struct trial old = {.history = "drift", .tally = &tally, .random = {77}, .precision = ATT_MIXED}, fresh;
    struct model *model = &old.model;
    double after, at_first;
    char name[64];

    model_init(model, n_q, n, d, d, 1.0 / 8.0);
    bench_random_fill(&old.random, model->q, (size_t)n_q * d, 1.0);
    bench_random_fill(&old.random, model->k, (size_t)n * d, deviation);
    bench_random_fill(&old.random, model->v, (size_t)n * d, 1.0);
    trial_start(&old, 512);
    rig_wait_hot(&old.rig);
    for (uint32_t i = 0; i < passes; i++)
        pass(&old, deviation);
    after = error_of(&old);
    fresh = (struct trial){.history = "drift", .tally = &tally, .random = {78}, .precision = ATT_MIXED};
    fresh.model = old.model;
    trial_start(&fresh, 512);
    rig_wait_hot(&fresh.rig);
    at_first = error_of(&fresh);
    snprintf(name, sizeof name, "drift-deviation-%g", deviation);
    bench_figure(bench, name, after, "rms", at_first, after / at_first);
    bench_note(bench, "%s: %llu refreshes in %u passes over %u tokens, %llu rows needed a job, %llu violations", name,
               (unsigned long long)rig_stats(&old.rig).refreshes - n_q, passes, n, (unsigned long long)tally.jobs,
               (unsigned long long)tally.violations);
    rig_release(&fresh.rig);
    trial_release(&old);
    return after / at_first;
}

void suite_accuracy(const struct bench *bench)
{
    double worst = 0.0;

    measure_bounds(bench);
    worst = fmax(worst, drift(bench, 1.0, 100));
    worst = fmax(worst, drift(bench, 10.0, 100));
    bench_figure(bench, "drift", worst, "ratio", NAN, worst);
}
