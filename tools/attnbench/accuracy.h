/* The accuracy suite's parts: a plain model of the tokens with an oracle in long double, and trials that hold an engine
 * against it. */
#ifndef ATT_BENCH_ACCURACY_H
#define ATT_BENCH_ACCURACY_H

#include "bench.h"
#include "rig.h"

/* ---- The model: accuracy_model.c ---- */

struct model {
    uint32_t n_q, capacity, d, d_v;
    double scale;
    float *q, *k, *v, *bias;
    uint8_t *live;
    long double *scores; /* scratch */
};

/* All tokens live, all zero. */
void model_init(struct model *model, uint32_t n_q, uint32_t capacity, uint32_t d, uint32_t d_v, double scale);
void model_release(struct model *model);

/* An update that the engine has made absolute. */
void model_apply(struct model *model, const struct att_op *op);

/* The row's d_v outputs in long double: products of float32 are exact there, and its unit roundoff is 2^-64, 2048 times
 * finer than that of the engine's sums. False: the row sees no token. */
bool model_row(const struct model *model, uint32_t row, long double *ret_values);

/* The token with the largest score; capacity when there is none. */
uint32_t model_top(const struct model *model, uint32_t row);

/* Of the live tokens. */
double model_largest_value(const struct model *model);

/* ---- Trials: accuracy_trial.c ---- */

enum { PRECISIONS = 3, MOST_COLUMNS = 64 };

/* What all trials together have found. */
struct tally {
    uint64_t answers, violations, direct, jobs;
    double largest_bound[PRECISIONS]; /* over max |V| */
    double largest_error[PRECISIONS];
    double largest_share[PRECISIONS]; /* error over bound: 1 would be a violation */
};

struct trial {
    const char *history; /* for messages */
    struct rig rig;
    struct model model;
    struct tally *tally;
    struct bench_random random;
    enum att_precision precision;
    double error_square; /* of all that was checked since it was last set to 0 */
    uint64_t errors;
};

/* Starts an engine that holds trial->model, which is filled in already. */
void trial_start(struct trial *trial, uint32_t log_capacity);
void trial_release(struct trial *trial);

/* To engine and model; waits while the log is full. The update must be one that the engine takes. */
void trial_apply(struct trial *trial, struct att_op *op);

/* Reads the row, from its base or by a job, and one entry of it; all against the oracle. */
void trial_check_row(struct trial *trial, uint32_t row);

/* Everything, by ATT_JOB_ALL. */
void trial_check_all(struct trial *trial);

#endif
