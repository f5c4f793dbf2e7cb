/* Driving an engine from a test: patient versions of its calls, and the checks that every answer must pass.
 * All of them fail the running cmocka test when something is wrong, or takes longer than a minute. */
#ifndef ATT_TEST_HARNESS_H
#define ATT_TEST_HARNESS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "engine.h"
#include "model.h"

/* The options that most tests start from: mixed, chosen log, 2 threads (1 under the thread sanitizer). */
struct att_engine_options harness_options(const struct model *model);

/* Creates an engine that holds the model; started or not. */
struct att_engine *harness_create(const struct model *model, const struct att_engine_options *options);
struct att_engine *harness_start(const struct model *model, const struct att_engine_options *options);

/* Applies; while the log is full, waits for a merge. Returns any other status. */
enum att_status harness_apply(struct att_engine *engine, struct att_op *op, uint64_t lsn, struct att_error *error);

/* Applies an update that must succeed, to the engine and to the model, under the next LSN (*lsn is increased). */
void harness_update(struct att_engine *engine, struct model *model, struct att_op *op, uint64_t *lsn);

/* Submits one job and waits for it. No other job may be in flight. */
enum att_status harness_job(struct att_engine *engine, struct att_job *job);

/* Waits until so many jobs that were submitted have ended, all with ATT_OK. */
void harness_await(struct att_engine *engine, uint32_t jobs);

/* A row, an entry: from the base, or by a job when the engine says ATT_AGAIN. ATT_OK or ATT_EMPTY. */
enum att_status harness_row(struct att_engine *engine, uint32_t row, double *ret_values, double *ret_bound);
enum att_status harness_entry(struct att_engine *engine, uint32_t row, uint32_t column, double *ret_value,
                              double *ret_bound);

/* How many answers so far came at once, and how many took a job: a test that never sees a base proves little. */
struct harness_counts {
    uint64_t direct, jobs;
};
struct harness_counts harness_counts(void);

/* How large errors and bounds may be, relative to the largest |V|. */
struct tolerance {
    double error;
    double bound;
};

/* What the project promises for moderate scores. */
struct tolerance harness_tolerance(enum att_precision precision);

/* One number against the oracle's: |value - expected| <= bound, <= error * max_value; bound <= bound * max_value. */
void harness_check(double value, double bound, long double expected, double max_value, struct tolerance tolerance,
                   const char *what, uint32_t row, uint32_t column);

/* A row, an entry, everything (ATT_JOB_ALL) against the oracle. */
void harness_check_row(struct att_engine *engine, const struct model *model, uint32_t row, struct tolerance tolerance);
void harness_check_entry(struct att_engine *engine, const struct model *model, uint32_t row, uint32_t column,
                         struct tolerance tolerance);
void harness_check_all(struct att_engine *engine, const struct model *model, struct tolerance tolerance);

/* Every token and row of Q that the engine holds against the model, bit for bit. */
void harness_check_state(struct att_engine *engine, const struct model *model);

/* Waits until no row is cold, or until the background stands still. */
void harness_settle(struct att_engine *engine);

double harness_seconds(void); /* monotonic */
void harness_sleep_us(unsigned us);

#endif
