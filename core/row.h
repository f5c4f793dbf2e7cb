/* One row's base as numbers: the shift, the error sums, and the answer with its bound. Pure functions.
 * Formulas: docs/numerics.md. */
#ifndef ATT_ROW_H
#define ATT_ROW_H

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"

/* The four head columns in front of every value row, 1, |v|_inf, g = |k|_2 + |b| and g |v|_inf: their sums are the denominator
 * and what the error bound needs. |v|_inf and g are kept, as floats. */
enum { ATT_HEAD_COLUMNS = 4, ATT_HEAD_KEPT = 2 };

struct att_row {
    uint32_t inverted;              /* ~row, so that memory nobody has touched holds no row */
    uint32_t q_version;             /* of the row of Q that made it */
    double shift;                   /* M; ATT_NO_SHIFT while it has seen no token */
    int64_t tokens;                 /* unmasked tokens in it */
    double q_norm;                  /* |s||q|_2 */
    double error[ATT_HEAD_COLUMNS]; /* bounds on the rounding error of the four sums; [1] holds for every C_j too */
};
static_assert(sizeof(struct att_row) == 64, "att_row");
static_assert(offsetof(struct att_row, error) == 32, "att_row.error");

#define ATT_NO_ROW UINT32_MAX

static inline uint32_t att_row_id(const struct att_row *row)
{
    return ~row->inverted;
}

static inline void att_row_set_id(struct att_row *row, uint32_t id)
{
    row->inverted = ~id;
}

/* fmax of numbers that are no NaN, without a call. */
static inline double att_larger(double a, double b)
{
    return a > b ? a : b;
}

/* What is kept of a token's head columns: |v|_inf, and g rounded up. From what the kernel's `head` gives. */
void att_head(const float norm_largest[2], float bias, float ret_head[ATT_HEAD_KEPT]);

#define ATT_UNIT      0x1p-53  /* unit roundoff of float64 */
#define ATT_UNDERFLOW 0x1p-999 /* products that underflow in float64 are far below it */
#define ATT_DOOR      0x1p-4   /* the most that kappa max(1, |s||q|) g may be of a row and a token that meet */

/* What turns sums into answers, by precision. */
struct att_numerics {
    double epsilon;    /* relative error of a weight's exp */
    double kappa;      /* per unit of max(1, |s||q|) g: of its score */
    double budget;     /* drift that is too much, relative to the row's mean |v|_inf */
    double headroom;   /* a score this far above M raises it */
    double flushed;    /* a weight that counts as 0 is below */
    double chain_unit; /* unit roundoff of sums in float32; 0 where there are none */
};
/* tokens: the most there can be. budget: 0: by precision; never less than twice what a row just computed may have. */
struct att_numerics att_numerics(enum att_precision precision, uint32_t d, uint32_t tokens, double budget);

/* Moves the row to a larger shift: its sums (`columns` of them) and errors are multiplied by a power of two. */
void att_row_raise(struct att_row *row, double *sums, uint32_t columns, double shift);

/* Accounts for adding `entries` entries with sum w|x_c| = magnitudes[c] to sums that stood at `before`; largest: no less than
 * any of their |x_c|. In single heads and values come from float32 chains of so many roundings, and what has a factor |v| was
 * multiplied with 1 / value_unit; there g, g |v| and a small |v| before g multiplies it, and products with weights, may be
 * denormal floats, or 0: `lost`. (Of the sum of |v| it is less than what small weights may lose, for it makes the largest
 * large.) Inline: a merge asks for each row and stretch. */
static inline void att_row_account(struct att_row *row, const double before[4], const double magnitudes[4],
                                   uint32_t entries, const double largest[4], const struct att_numerics *numerics,
                                   uint32_t head_chain, uint32_t value_chain, double value_unit)
{
    const double unit = ATT_UNIT * 1.0001, heads = unit * (entries + 2.0) + numerics->chain_unit * head_chain;
    const double values = unit * (entries + 2.0) + numerics->chain_unit * value_chain;
    const double lost = numerics->chain_unit * 0x1p-125 * (magnitudes[0] + entries);
    double error[ATT_HEAD_COLUMNS];

#pragma GCC unroll 4
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        error[c] = (c == 1 ? att_larger(heads, values) : heads) * magnitudes[c] + unit * fabs(before[c]) +
                   entries * (numerics->flushed * largest[c] + ATT_UNDERFLOW);
    error[2] += lost;
    error[3] += lost * value_unit * (1.0 + largest[2]);
#pragma GCC unroll 4
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        row->error[c] += error[c];
}

/* ATT_EMPTY, ATT_AGAIN (the drift is over the budget, or the denominator is not certain), or ATT_OK. Inline, as the next: a
 * query with nothing pending is little else. */
static inline enum att_status att_row_check(const struct att_row *row, const double sums[4], double budget)
{
    double per_weight, mean, drift;

    if (row->tokens == 0)
        return ATT_EMPTY;
    if (!(sums[0] > 2.0 * row->error[0]))
        return ATT_AGAIN;
    per_weight = 1.0 / (sums[0] - row->error[0]);
    mean = (fabs(sums[1]) + row->error[1]) * per_weight;
    drift = (row->error[1] + mean * row->error[0]) * per_weight;
    return drift > budget * mean + 1e-200 ? ATT_AGAIN : ATT_OK;
}

/* The largest |x| of `count`. */
double att_largest_size(const double *x, uint32_t count);

/* O_ij of `count` columns from their C_ij, and the largest of their bounds: it grows with |O_ij|, so the largest value has it.
 * Only after att_row_check said ATT_OK. */
static inline void att_row_answer(const struct att_row *row, const double sums[4], const double *numerators,
                                  uint32_t count, const struct att_numerics *numerics, double *ret_values,
                                  double *ret_bound)
{
    const double *e = row->error;
    const double per_weight = 1.0 / sums[0], at_most = 1.0 / (sums[0] - e[0]);
    double size, drift, weights, scores;

    for (uint32_t j = 0; j < count; j++)
        ret_values[j] = numerators[j] * per_weight;
    size = count == 1 ? fabs(ret_values[0]) : att_largest_size(ret_values, count); /* one: no call in a query */
    drift = e[1] + size * e[0];
    weights = numerics->epsilon * (fabs(sums[1]) + e[1] + size * (sums[0] + e[0]));
    scores = numerics->kappa * att_larger(1.0, row->q_norm) * (fabs(sums[3]) + e[3] + size * (fabs(sums[2]) + e[2]));
    *ret_bound = (1.0 + 0x1p-20) * (drift + 1.15 * (weights + scores)) * at_most + 4.0 * ATT_UNIT * size + 0x1p-1060;
}

#endif
