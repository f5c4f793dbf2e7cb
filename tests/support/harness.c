#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PATIENCE_S = 60 };

static struct harness_counts counts;

struct harness_counts harness_counts(void)
{
    return counts;
}

double harness_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void harness_sleep_us(unsigned us)
{
    struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&pause, NULL);
}

struct att_engine_options harness_options(const struct model *model)
{
    return (struct att_engine_options){
        .n_q = model->n_q,
        .d = model->d,
        .d_v = model->d_v,
        .capacity = model->capacity,
        .scale = model->scale,
        .precision = ATT_MIXED,
        .threads = test_threads(2),
    };
}

struct att_engine *harness_create(const struct model *model, const struct att_engine_options *options)
{
    struct att_error error = {0};
    struct att_engine *engine = NULL;
    if (att_engine_create(options, &engine, &error) != ATT_OK)
        fail_msg("att_engine_create: %s: %s", att_status_name(error.status), error.text);
    model_load(model, engine);
    return engine;
}

struct att_engine *harness_start(const struct model *model, const struct att_engine_options *options)
{
    struct att_error error = {0};
    struct att_engine *engine = harness_create(model, options);
    if (att_engine_start(engine, &error) != ATT_OK)
        fail_msg("att_engine_start: %s: %s", att_status_name(error.status), error.text);
    return engine;
}

enum att_status harness_apply(struct att_engine *engine, struct att_op *op, uint64_t lsn, struct att_error *error)
{
    double begin = 0;
    for (;;) {
        enum att_status status = att_engine_apply(engine, op, lsn, error);
        if (status != ATT_AGAIN)
            return status;
        att_engine_kick(engine);
        if (begin == 0)
            begin = harness_seconds();
        if (harness_seconds() - begin > PATIENCE_S)
            fail_msg("the log stayed full for %d s", PATIENCE_S);
        harness_sleep_us(50);
    }
}

void harness_update(struct att_engine *engine, struct model *model, struct att_op *op, uint64_t *lsn)
{
    struct att_error error = {0};
    struct att_op asked = *op;
    enum att_status status = harness_apply(engine, op, ++*lsn, &error);
    if (status != ATT_OK)
        fail_msg("update of kind %d, index %u: %s: %s", (int)asked.kind, asked.index, att_status_name(status),
                 error.text);
    if (asked.kind == ATT_OP_APPEND && asked.index == ATT_ANY_INDEX) {
        asked.index = model_lowest_free(model);
        if (op->index != asked.index)
            fail_msg("append took token %u, not the lowest that is free, %u", op->index, asked.index);
    }
    model_apply(model, &asked);
    if (asked.kind == ATT_OP_ADD_K || asked.kind == ATT_OP_ADD_V) {
        bool key = asked.kind == ATT_OP_ADD_K;
        float expected = key ? model->k[(size_t)asked.index * model->d + asked.column]
                             : model->v[(size_t)asked.index * model->d_v + asked.column];
        assert_int_equal(op->kind, key ? ATT_OP_SET_K_ENTRY : ATT_OP_SET_V_ENTRY);
        if (op->number != (double)expected)
            fail_msg("an added entry became %.17g, not %.17g", op->number, (double)expected);
    }
}

enum att_status harness_job(struct att_engine *engine, struct att_job *job)
{
    double begin = harness_seconds();
    att_engine_submit(engine, job);
    for (;;) {
        struct att_job *done = att_engine_completed(engine);
        if (done) {
            assert_ptr_equal(done, job);
            return job->status;
        }
        if (harness_seconds() - begin > PATIENCE_S)
            fail_msg("a job of kind %d took longer than %d s", (int)job->kind, PATIENCE_S);
        harness_sleep_us(20);
    }
}

void harness_await(struct att_engine *engine, uint32_t jobs)
{
    double begin = harness_seconds();
    while (jobs > 0) {
        const struct att_job *done = att_engine_completed(engine);
        if (harness_seconds() - begin > PATIENCE_S)
            fail_msg("%u jobs took longer than %d s", jobs, PATIENCE_S);
        if (!done) {
            harness_sleep_us(20);
            continue;
        }
        assert_int_equal(done->status, ATT_OK);
        jobs--;
    }
}

enum att_status harness_row(struct att_engine *engine, uint32_t row, double *ret_values, double *ret_bound)
{
    struct att_error error = {0};
    enum att_status status = att_engine_row(engine, row, ret_values, ret_bound, &error);
    if (status == ATT_AGAIN) {
        struct att_job job = {.kind = ATT_JOB_ROW, .index = row, .values = ret_values, .bounds = ret_bound};
        status = harness_job(engine, &job);
        counts.jobs++;
    } else {
        counts.direct++;
    }
    if (status != ATT_OK && status != ATT_EMPTY)
        fail_msg("row %u: %s: %s", row, att_status_name(status), error.text);
    return status;
}

enum att_status harness_entry(struct att_engine *engine, uint32_t row, uint32_t column, double *ret_value,
                              double *ret_bound)
{
    struct att_error error = {0};
    enum att_status status = att_engine_query(engine, row, column, ret_value, ret_bound, &error);
    if (status == ATT_AGAIN) {
        double *values = calloc(ATT_MAX_COLUMNS, sizeof *values), bound;
        assert_non_null(values);
        struct att_job job = {.kind = ATT_JOB_ROW, .index = row, .values = values, .bounds = &bound};
        status = harness_job(engine, &job);
        if (status == ATT_OK) {
            *ret_value = values[column];
            *ret_bound = bound;
        }
        free(values);
        counts.jobs++;
    } else {
        counts.direct++;
    }
    if (status != ATT_OK && status != ATT_EMPTY)
        fail_msg("entry %u %u: %s: %s", row, column, att_status_name(status), error.text);
    return status;
}

struct tolerance harness_tolerance(enum att_precision precision)
{
    switch (precision) {
    case ATT_SINGLE:
        return (struct tolerance){.error = 1e-5, .bound = 1e-2};
    case ATT_MIXED:
    case ATT_DOUBLE:
    default:
        return (struct tolerance){.error = 1e-6, .bound = 2e-6};
    }
}

void harness_check(double value, double bound, long double expected, double max_value, struct tolerance tolerance,
                   const char *what, uint32_t row, uint32_t column)
{
    double error = (double)fabsl((long double)value - expected);
    if (!isfinite(value) || !(bound >= 0) || !isfinite(bound))
        fail_msg("%s, row %u column %u: value %g, bound %g", what, row, column, value, bound);
    if (error > bound)
        fail_msg("%s, row %u column %u: error %g is above the bound %g (value %.17g, max |V| %g)", what, row, column,
                 error, bound, value, max_value);
    if (error > tolerance.error * max_value)
        fail_msg("%s, row %u column %u: error %g of max |V| %g is more than %g", what, row, column, error, max_value,
                 tolerance.error);
    if (bound > tolerance.bound * max_value)
        fail_msg("%s, row %u column %u: the bound %g of max |V| %g is more than %g (true error %g)", what, row, column,
                 bound, max_value, tolerance.bound, error);
}

void harness_check_row(struct att_engine *engine, const struct model *model, uint32_t row, struct tolerance tolerance)
{
    struct oracle_input view = model_view(model);
    long double *expected = malloc(model->d_v * sizeof *expected);
    double *values = malloc(model->d_v * sizeof *values);
    double bound = NAN;
    assert_true(expected && values);
    enum att_status status = harness_row(engine, row, values, &bound);
    if (!oracle_row(&view, row, expected)) {
        assert_int_equal(status, ATT_EMPTY);
    } else {
        assert_int_equal(status, ATT_OK);
        for (uint32_t j = 0; j < model->d_v; j++)
            harness_check(values[j], bound, expected[j], model->max_value, tolerance, "row", row, j);
    }
    free(values);
    free(expected);
}

void harness_check_entry(struct att_engine *engine, const struct model *model, uint32_t row, uint32_t column,
                         struct tolerance tolerance)
{
    struct oracle_input view = model_view(model);
    long double expected = 0;
    double value = NAN, bound = NAN;
    enum att_status status = harness_entry(engine, row, column, &value, &bound);
    if (!oracle_entry(&view, row, column, &expected)) {
        assert_int_equal(status, ATT_EMPTY);
        return;
    }
    assert_int_equal(status, ATT_OK);
    harness_check(value, bound, expected, model->max_value, tolerance, "entry", row, column);
}

void harness_check_all(struct att_engine *engine, const struct model *model, struct tolerance tolerance)
{
    struct oracle_input view = model_view(model);
    size_t count = (size_t)model->n_q * model->d_v;
    double *values = malloc(count * sizeof *values);
    double *bounds = malloc(model->n_q * sizeof *bounds);
    long double *expected = malloc(model->d_v * sizeof *expected);
    assert_true(values && bounds && expected);
    struct att_job job = {.kind = ATT_JOB_ALL, .values = values, .bounds = bounds};
    assert_int_equal(harness_job(engine, &job), ATT_OK);
    for (uint32_t i = 0; i < model->n_q; i++) {
        bool any = oracle_row(&view, i, expected);
        for (uint32_t j = 0; j < model->d_v; j++) {
            double value = values[(size_t)i * model->d_v + j];
            if (any)
                harness_check(value, bounds[i], expected[j], model->max_value, tolerance, "all", i, j);
            else if (!isnan(value))
                fail_msg("all, row %u has no tokens but the value %g", i, value);
        }
    }
    free(expected);
    free(bounds);
    free(values);
}

void harness_check_state(struct att_engine *engine, const struct model *model)
{
    float *key = malloc(model->d * sizeof *key);
    float *value = malloc(model->d_v * sizeof *value);
    float bias = NAN;
    assert_true(key && value);
    for (uint32_t i = 0; i < model->capacity; i++) {
        enum att_status status = att_engine_token(engine, i, key, value, &bias, NULL);
        assert_int_equal(status, model->live[i] ? ATT_OK : ATT_ERANGE);
        if (status != ATT_OK)
            continue;
        assert_memory_equal(key, model->k + (size_t)i * model->d, model->d * sizeof *key);
        assert_memory_equal(value, model->v + (size_t)i * model->d_v, model->d_v * sizeof *value);
        assert_memory_equal(&bias, model->bias + i, sizeof bias);
    }
    for (uint32_t i = 0; i < model->n_q; i++) {
        assert_int_equal(att_engine_q(engine, i, key, NULL), ATT_OK);
        assert_memory_equal(key, model->q + (size_t)i * model->d, model->d * sizeof *key);
    }
    free(value);
    free(key);
}

void harness_settle(struct att_engine *engine)
{
    struct att_engine_stats now, before;
    att_engine_stats(engine, &before);
    for (int still = 0; still < 50;) {
        harness_sleep_us(2000);
        att_engine_stats(engine, &now);
        if (now.rows_cold == 0 && now.log_pending == 0)
            return;
        bool moved =
            now.rows_cold != before.rows_cold || now.merges != before.merges || now.refreshes != before.refreshes;
        still = moved ? 0 : still + 1;
        before = now;
    }
}
