/* Few rows over all tokens, which are read where they lie: packing them would cost more than it saves. Compiled once for each
 * kernel. */
#include "kernel_row.h"

/* Vectors of sums that share a weight. */
enum { FEW_VECTORS = 8, FEW_VECTORS_SINGLE = 4 };

LANES_INLINE void weigh_few(const struct att_weights *work, enum att_precision precision)
{
    const size_t width = att_width(precision);
    struct att_weights one = *work;

    for (uint32_t row = 0; row < work->rows; row++) {
        struct weighing weighing = start_weighing(work->shift[row]);
        one.q = (const char *)work->q + width * work->d * row;
        one.weights = (char *)work->weights + width * ATT_BLOCK * row;
        one.largest = work->largest + row;
        weigh_from(&one, 0, precision, false, &weighing);
    }
}

void KERNEL_JOIN(few_weights_, KERNEL_ISA)(const struct att_weights *work)
{
    if (work->precision == ATT_SINGLE)
        weigh_few(work, ATT_SINGLE);
    else if (work->precision == ATT_MIXED)
        weigh_few(work, ATT_MIXED);
    else
        weigh_few(work, ATT_DOUBLE);
}

/* 8 `vectors` sums of one row in registers; vectors is a constant after inlining. */
LANES_INLINE void product_row(const struct att_product *work, uint32_t row, uint32_t column, uint32_t vectors)
{
    const double *weight = (const double *)work->weights + (size_t)row * ATT_BLOCK;
    double *sums = work->sums + row * work->sum_stride + column;
    f64x8 sum[FEW_VECTORS];

#pragma GCC unroll 8
    for (uint32_t c = 0; c < vectors; c++)
        sum[c] = f64x8_set(0.0);
    for (uint32_t l = 0; l < work->depth; l++)
#pragma GCC unroll 8
        for (uint32_t c = 0; c < vectors; c++)
            sum[c] =
                f64x8_fma(f64x8_set(weight[l]),
                          f64x8_widen((const float *)work->values + l * work->value_stride + column + 8 * c), sum[c]);
#pragma GCC unroll 8
    for (uint32_t c = 0; c < vectors; c++)
        add_vector(sums + 8 * c, work->sign, sum[c], work->columns - column - 8 * c);
}

/* The same in single: 16 `vectors` sums. An entry of no weight is left out: its value may be too large for value_scale. */
LANES_INLINE void single_row(const struct att_product *work, uint32_t row, uint32_t column, uint32_t vectors)
{
    const float *weight = (const float *)work->weights + (size_t)row * ATT_BLOCK;
    const double factor = work->sign / (double)work->value_scale;
    double *sums = work->sums + row * work->sum_stride + column;
    f32x16 total[FEW_VECTORS_SINGLE];

#pragma GCC unroll 4
    for (uint32_t c = 0; c < vectors; c++)
        total[c] = f32_set(0.0f);
    for (uint32_t first = 0; first < work->depth; first += ATT_CHAIN) {
        const uint32_t end = work->depth - first < ATT_CHAIN ? work->depth : first + ATT_CHAIN;
        f32x16 sum[FEW_VECTORS_SINGLE];
#pragma GCC unroll 4
        for (uint32_t c = 0; c < vectors; c++)
            sum[c] = f32_set(0.0f);
        for (uint32_t l = first; l < end; l++) {
            const float *value = (const float *)work->values + l * work->value_stride + column;
            if (weight[l] == 0.0f)
                continue;
#pragma GCC unroll 4
            for (uint32_t c = 0; c < vectors; c++)
                sum[c] = f32_fma(f32_set(weight[l]),
                                 f32_mul(f32_load(value + (size_t)ATT_LANES * c), f32_set(work->value_scale)), sum[c]);
        }
#pragma GCC unroll 4
        for (uint32_t c = 0; c < vectors; c++)
            total[c] = f32_add(total[c], sum[c]);
    }
#pragma GCC unroll 4
    for (uint32_t c = 0; c < vectors; c++)
        add_single(sums + (size_t)ATT_LANES * c, factor, total[c], work->columns - column - ATT_LANES * c);
}

void KERNEL_JOIN(few_product_, KERNEL_ISA)(const struct att_product *work)
{
    const bool single = work->precision == ATT_SINGLE;
    const uint32_t wide = single ? ATT_LANES * FEW_VECTORS_SINGLE : 8 * FEW_VECTORS;

    for (uint32_t row = 0; row < work->rows; row++) {
        uint32_t column = 0;
        for (; column + wide <= work->columns; column += wide)
            if (single)
                single_row(work, row, column, FEW_VECTORS_SINGLE);
            else
                product_row(work, row, column, FEW_VECTORS);
        for (; column < work->columns; column += single ? ATT_LANES : 8)
            if (single)
                single_row(work, row, column, 1);
            else
                product_row(work, row, column, 1);
    }
}
