#include "row.h"

#include "kernel.h"
#include "stretch.h"

#define LEAST_POWER -2200.0 /* 2^this times any float64 is 0 */

/* So far up that |v| g, rounded to float32 as single has it, is not below the true one either. */
void att_head(const float norm_largest[2], float bias, float ret_head[ATT_HEAD_KEPT])
{
    const double g = (double)norm_largest[0] + (isfinite(bias) ? fabs((double)bias) : 0.0);

    ret_head[0] = norm_largest[1];
    ret_head[1] = (float)(g * (1.0 + 0x1p-22)) + 0x1p-148f;
}

/* Exact, but for what underflows. What is in the sums and counts as 0 from now on stays when its entry is taken away: the
 * account of that covers it. */
void att_row_raise(struct att_row *row, double *sums, uint32_t columns, double shift)
{
    if (row->shift > 0.9 * ATT_NO_SHIFT) {
        const int by = (int)fmax(row->shift - shift, LEAST_POWER);
        for (uint32_t c = 0; c < columns; c++)
            sums[c] = ldexp(sums[c], by);
        for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
            row->error[c] = ldexp(row->error[c], by) + ATT_UNDERFLOW;
    }
    row->shift = shift;
}

/* The drift of a row just computed over so many tokens, at its worst: their first block holds all the weight. */
static double fresh_drift(const struct att_numerics *numerics, uint32_t tokens)
{
    return 2.0 * ATT_UNIT * (ATT_BLOCK + 2.0 + (double)tokens / ATT_BLOCK) +
           numerics->chain_unit * (att_chain_roundings(ATT_BLOCK) + att_head_roundings(ATT_BLOCK_TILES));
}

struct att_numerics att_numerics(enum att_precision precision, uint32_t d, uint32_t tokens, double budget)
{
    static const double epsilons[] = {ATT_EPSILON_SINGLE, ATT_EPSILON_SHORT, ATT_EPSILON_LONG};
    static const double budgets[] = {5e-5, 5e-7, 1e-11};
    const bool single = precision == ATT_SINGLE;
    struct att_numerics numerics = {
        .epsilon = epsilons[precision],
        .kappa = 1.1 * (d + 10.0) * (single ? 0x1p-24 : 0x1p-53),
        .headroom = single ? ATT_SHIFT_HEADROOM_SINGLE : ATT_SHIFT_HEADROOM,
        .flushed = ldexp(1.0, 1 + (int)(single ? ATT_SHIFT_LEAST_SINGLE : ATT_SHIFT_LEAST)),
        .chain_unit = single ? 0x1p-24 * 1.0001 : 0.0,
    };

    /* Not less than a refresh can mend. */
    numerics.budget = fmax(budget > 0.0 ? budget : budgets[precision], 2.0 * fresh_drift(&numerics, tokens));
    return numerics;
}

/* Eight at a time, for one comparison after the other would take longer than all else in a row. */
double att_largest_size(const double *x, uint32_t count)
{
    double sizes[8] = {0};

    for (; count >= 8; count -= 8, x += 8)
#pragma GCC unroll 8
        for (size_t k = 0; k < 8; k++)
            sizes[k] = att_larger(fabs(x[k]), sizes[k]);
    for (size_t k = 0; k < count; k++)
        sizes[k] = att_larger(fabs(x[k]), sizes[k]);
    for (size_t k = 1; k < 8; k++)
        sizes[0] = att_larger(sizes[k], sizes[0]);
    return sizes[0];
}
