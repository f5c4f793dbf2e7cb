#include "row.h"

#include "kernel.h"
#include "stretch.h"

#define LEAST_POWER -2200.0 /* 2^this times any float64 is 0 */

static float up(double x)
{
    return (float)(x * (1.0 + 0x1p-22)) + 0x1p-148f;
}

void att_head(const float norm_largest[2], float bias, float ret_head[ATT_HEAD_COLUMNS])
{
    ret_head[0] = 1.0f;
    ret_head[1] = norm_largest[1];
    ret_head[2] = up((double)norm_largest[0] + (isfinite(bias) ? fabs((double)bias) : 0.0));
    ret_head[3] = up((double)ret_head[2] * (double)norm_largest[1]);
}

void att_row_raise(struct att_row *row, double *sums, uint32_t columns, double shift, const double largest[4])
{
    if (row->shift > 0.9 * ATT_NO_SHIFT) {
        const int by = (int)fmax(row->shift - shift, LEAST_POWER);
        for (uint32_t c = 0; c < columns; c++)
            sums[c] = ldexp(sums[c], by);
        for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
            row->error[c] = ldexp(row->error[c], by) + ((double)row->tokens + 2.0) * ATT_FLUSHED * (largest[c] + 1.0);
    }
    row->shift = shift;
}

/* The drift of a row just computed over so many tokens, at its worst: their first block holds all the weight. */
static double fresh_drift(uint32_t tokens)
{
    return 2.0 * ATT_UNIT * (ATT_BLOCK + 2.0 + (double)tokens / ATT_BLOCK);
}

struct att_numerics att_numerics(enum att_precision precision, uint32_t d, uint32_t tokens, double budget)
{
    struct att_numerics numerics;

    numerics.epsilon = precision == ATT_DOUBLE ? ATT_EPSILON_LONG : ATT_EPSILON_SHORT;
    numerics.kappa = 1.1 * (d + 10.0) * (precision == ATT_SINGLE ? 0x1p-24 : 0x1p-53);
    numerics.budget = budget > 0.0 ? budget : precision == ATT_DOUBLE ? 1e-11 : 5e-7;
    numerics.budget = fmax(numerics.budget, 2.0 * fresh_drift(tokens)); /* else a refresh could not mend a row */
    return numerics;
}

enum att_status att_row_check(const struct att_row *row, const double sums[4], double budget)
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

/* The bound grows with |O_ij|, so the largest value has the largest. */
void att_row_answer(const struct att_row *row, const double sums[4], const double *numerators, uint32_t count,
                    const struct att_numerics *numerics, double *ret_values, double *ret_bound)
{
    const double *e = row->error;
    const double per_weight = 1.0 / sums[0];
    double size = 0.0, drift, weights, scores;

    for (uint32_t j = 0; j < count; j++) {
        ret_values[j] = numerators[j] * per_weight;
        size = att_larger(fabs(ret_values[j]), size);
    }
    drift = e[1] + size * e[0];
    weights = numerics->epsilon * (fabs(sums[1]) + e[1] + size * (sums[0] + e[0]));
    scores = numerics->kappa * att_larger(1.0, row->q_norm) * (fabs(sums[3]) + e[3] + size * (fabs(sums[2]) + e[2]));
    *ret_bound =
        (1.0 + 0x1p-20) * (drift + 1.15 * (weights + scores)) / (sums[0] - e[0]) + 4.0 * ATT_UNIT * size + 0x1p-1060;
}
