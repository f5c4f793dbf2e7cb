#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "accuracy.h"

static const char *const precision_names[] = {"single", "mixed", "double"};

void trial_start(struct trial *trial, uint32_t log_capacity)
{
    const struct model *model = &trial->model;
    const struct att_engine_options options = {.n_q = model->n_q,
                                               .d = model->d,
                                               .d_v = model->d_v,
                                               .capacity = model->capacity,
                                               .scale = model->scale,
                                               .precision = trial->precision,
                                               .log_capacity = log_capacity,
                                               .threads = 1};

    rig_create_from(&trial->rig, &options, model->q, model->k, model->v);
    rig_start(&trial->rig);
}

void trial_release(struct trial *trial)
{
    rig_release(&trial->rig);
    model_release(&trial->model);
}

void trial_apply(struct trial *trial, struct att_op *op)
{
    struct att_error error;
    enum att_status status;

    while ((status = att_engine_apply(trial->rig.engine, op, trial->rig.lsn + 1, &error)) == ATT_AGAIN) {
        att_engine_kick(trial->rig.engine);
        sched_yield();
    }
    if (status != ATT_OK)
        bench_die("history %s, %s: %s", trial->history, precision_names[trial->precision], error.text);
    trial->rig.lsn++;
    model_apply(&trial->model, op);
}

/* One number; a bound that is not a number is a violation too. */
static void judge(struct trial *trial, double value, double bound, long double expected, double largest)
{
    struct tally *tally = trial->tally;
    const long double difference = (long double)value - expected;
    const double error = (double)(difference < 0.0L ? -difference : difference);
    const enum att_precision p = trial->precision;

    tally->answers++;
    trial->error_square += error * error;
    trial->errors++;
    if (!(error <= bound)) {
        if (tally->violations++ < 5)
            fprintf(stderr, "# accuracy: VIOLATION: history %s, %s: %.17g is off by %g, bound %g\n", trial->history,
                    precision_names[p], value, error, bound);
        return;
    }
    tally->largest_bound[p] = fmax(tally->largest_bound[p], bound / largest);
    tally->largest_error[p] = fmax(tally->largest_error[p], error / largest);
    if (bound > 0.0)
        tally->largest_share[p] = fmax(tally->largest_share[p], error / bound);
}

static enum att_status read_row(struct trial *trial, uint32_t row, double *ret_values, double *ret_bound)
{
    struct att_job job = {.kind = ATT_JOB_ROW, .index = row, .values = ret_values, .bounds = ret_bound};
    enum att_status status = att_engine_row(trial->rig.engine, row, ret_values, ret_bound, NULL);

    trial->tally->direct += status != ATT_AGAIN;
    if (status != ATT_AGAIN)
        return status;
    trial->tally->jobs++;
    rig_job(&trial->rig, &job);
    return job.status;
}

void trial_check_row(struct trial *trial, uint32_t row)
{
    const struct model *model = &trial->model;
    const double largest = model_largest_value(model);
    const uint32_t column = bench_random_below(&trial->random, model->d_v);
    long double expected[MOST_COLUMNS];
    double values[MOST_COLUMNS], value, bound, entry_bound;
    const bool any = model_row(model, row, expected);
    const enum att_status entry = att_engine_query(trial->rig.engine, row, column, &value, &entry_bound, NULL);
    const enum att_status status = read_row(trial, row, values, &bound);

    if (any != (status == ATT_OK) || (entry != ATT_AGAIN && any != (entry == ATT_OK)))
        trial->tally->violations++;
    if (!any)
        return;
    if (entry == ATT_OK)
        judge(trial, value, entry_bound, expected[column], largest);
    for (uint32_t j = 0; status == ATT_OK && j < model->d_v; j++)
        judge(trial, values[j], bound, expected[j], largest);
}

void trial_check_all(struct trial *trial)
{
    const struct model *model = &trial->model;
    const double largest = model_largest_value(model);
    double *values = bench_memory(sizeof(double) * model->n_q * model->d_v);
    double *bounds = bench_memory(sizeof(double) * model->n_q);
    struct att_job job = {.kind = ATT_JOB_ALL, .values = values, .bounds = bounds};
    long double expected[MOST_COLUMNS];

    rig_job(&trial->rig, &job);
    for (uint32_t row = 0; row < model->n_q; row++) {
        const double *found = values + (size_t)row * model->d_v;
        const bool any = model_row(model, row, expected);
        if (any == isnan(found[0]))
            trial->tally->violations++;
        for (uint32_t j = 0; any && j < model->d_v; j++)
            judge(trial, found[j], bounds[row], expected[j], largest);
    }
    free(values);
    free(bounds);
}
