/* Scores and their weights, in sixteen lanes: what every shape of the work is made of. */
#ifndef ATT_KERNEL_SCORES_H
#define ATT_KERNEL_SCORES_H

#include <stdbool.h>

#include "kernel.h"
#include "lanes.h"

/* 2^x = 2^(r + f), r the nearest eighth: 2^r from a table, times 1 + f p(f). The coefficients make the largest relative
 * error least for |f| <= 1/16: 1.9e-8 with three of them, 2.4e-18 with seven. Their constant term is in the table; see
 * f64_power for its form. */
static const double table_short[8] = {0x1.ffffff6286a0fp-1, 0x1.f72b8371f8123p-1, 0x1.f06fe04578f80p-1,
                                      0x1.ebfdaced46a5cp-1, 0x1.ea09e5f899e12p-1, 0x1.eace53a93c31ep-1,
                                      0x1.ee89f91141dc5p-1, 0x1.f5818d3f52c23p-1};
static const double series_short[] = {0x1.62e4314d3e2a2p-1, 0x1.ec0f9295958edp-3, 0x1.c6a59f20e3a6dp-5};
static const double table_long[8] = {0x1.0000000000000p+0, 0x1.f72b83c7d517bp-1, 0x1.f06fe0a31b715p-1,
                                     0x1.ebfdad5362a27p-1, 0x1.ea09e667f3bcdp-1, 0x1.eace5422aa0dbp-1,
                                     0x1.ee89f995ad3adp-1, 0x1.f5818dcfba487p-1};
static const double series_long[] = {0x1.62e42fefa39efp-1, 0x1.ebfbdff82c854p-3,  0x1.c6b08d704959dp-5,
                                     0x1.3b2ab6edca437p-7, 0x1.5d87fea019c59p-10, 0x1.430e9dd8d5b6dp-13,
                                     0x1.ffc519bc67328p-17};

/* In single the powers are the nearest floats, and the constant term is 1: 2.7e-8 from the series alone. */
static const float table_single[8] = {0x1.000000p+0f, 0x1.f72b84p-1f, 0x1.f06fe0p-1f, 0x1.ebfdaep-1f,
                                      0x1.ea09e6p-1f, 0x1.eace54p-1f, 0x1.ee89fap-1f, 0x1.f5818ep-1f};
static const float series_single[3] = {0x1.62e432p-1f, 0x1.ec0c32p-3f, 0x1.c6a004p-5f};

/* Where the last place of float64, and of float32, is an eighth. */
#define EIGHTHS        0x1.8p49
#define EIGHTHS_SINGLE 0x1.8p20

/* What turns a row's scores into weights, and the largest t so far; both in its precision. Made once for many tiles: its
 * conversions would cost as much as a fifth of exp. */
struct weighing {
    double anchor;      /* EIGHTHS - M */
    float anchor_float; /* EIGHTHS_SINGLE - M, exact as the door keeps scores below 2^18 octaves */
    f64x8 largest;
    f32x16 largest_float;
};

LANES_INLINE struct weighing start_weighing(double shift)
{
    return (struct weighing){EIGHTHS - shift, (float)(EIGHTHS_SINGLE - shift), f64x8_set(ATT_MASKED),
                             f32_set((float)ATT_MASKED)};
}

LANES_INLINE double finish_weighing(enum att_precision precision, const struct weighing *row)
{
    return rint(precision == ATT_SINGLE ? (double)f32_largest(row->largest_float) : f64x8_largest(row->largest));
}

/* From the score t in octaves to the weight. */
LANES_INLINE f64x16 weigh(enum att_precision precision, f64x16 t, struct weighing *row)
{
    const bool is_long = precision == ATT_DOUBLE;
    const double *series = is_long ? series_long : series_short;
    const f64x16 anchor = f64_set(row->anchor), z = f64_add(t, anchor), f = f64_sub(t, f64_sub(z, anchor));
    const f64x16 power = f64_power(z, is_long ? table_long : table_short);
    const int degree = is_long ? 7 : 3;
    f64x16 sum = f64_set(series[degree - 1]);

    row->largest = f64x8_max(row->largest, t);
#pragma GCC unroll 8
    for (int i = degree - 2; i >= 0; i--)
        sum = f64_fma(sum, f, f64_set(series[i]));
    return f64_fma_from(z, EIGHTHS + ATT_SHIFT_LEAST, f64_mul(power, f), sum, power);
}

/* The same in single. */
LANES_INLINE f32x16 weigh_single(f32x16 t, struct weighing *row)
{
    const f32x16 anchor = f32_set(row->anchor_float), z = f32_add(t, anchor), f = f32_sub(t, f32_sub(z, anchor));
    const f32x16 power = f32_power(z, table_single);
    f32x16 sum = f32_set(series_single[2]);

    row->largest_float = f32_max(row->largest_float, t);
    sum = f32_fma(sum, f, f32_set(series_single[1]));
    sum = f32_fma(sum, f, f32_set(series_single[0]));
    return f32_fma_from(z, (float)(EIGHTHS_SINGLE + ATT_SHIFT_LEAST_SINGLE), f32_mul(power, f), sum, power);
}

/* A score is the sum of a few chains: chain j of n, over p = j, j + n, ..; added in their order. Chain 0 starts at the
 * bias. So a lone row need not wait for one chain, and meets the key's columns in the order in which they lie. */
enum { CHAINS = 2 };

LANES_INLINE f64x16 start_f64(const float *bias)
{
    return f64_max(f64_mul(f64_load_f32(bias), f64_set(0x1.71547652b82fep+0)), f64_set(ATT_MASKED));
}

LANES_INLINE f32x16 start_f32(const float *bias)
{
    return f32_max(f32_mul(f32_load(bias), f32_set(0x1.715476p+0f)), f32_set((float)ATT_MASKED));
}

enum { MOST_TILES = 4, MOST_SUMS = 24 };

/* sum[i][c] += q[i][p] k[c][p]; wide: the keys are doubles. */
LANES_INLINE void step_f64(f64x16 *sum, const double *q, const void *keys, bool wide, size_t d, size_t p, uint32_t rows,
                           uint32_t tiles)
{
    f64x16 k[MOST_TILES];

#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++)
        k[c] = wide ? f64_load((const double *)keys + (c * d + p) * ATT_LANES)
                    : f64_load_f32((const float *)keys + (c * d + p) * ATT_LANES);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++) {
        const f64x16 x = f64_set(q[i * d + p]);
#pragma GCC unroll 4
        for (uint32_t c = 0; c < tiles; c++)
            sum[i * tiles + c] = f64_fma(x, k[c], sum[i * tiles + c]);
    }
}

/* `together` chains of each sum from `chain` on, side by side. */
LANES_INLINE void chains_f64(f64x16 *sum, const double *q, const void *keys, bool wide, size_t d, size_t chain,
                             uint32_t rows, uint32_t tiles, uint32_t together)
{
    size_t p = chain;

#pragma GCC unroll 4
    for (; p + together <= d; p += CHAINS)
#pragma GCC unroll 4
        for (uint32_t j = 0; j < together; j++)
            step_f64(sum + j * rows * tiles, q, keys, wide, d, p + j, rows, tiles);
#pragma GCC unroll 4
    for (uint32_t j = 0; j + 1 < together; j++)
        if (p + j < d)
            step_f64(sum + j * rows * tiles, q, keys, wide, d, p + j, rows, tiles);
}

/* The scores t[i][c] of `rows` rows against `tiles` tiles, `together` chains of each side by side. These three are constants
 * after inlining. */
LANES_INLINE void scores_f64(f64x16 *t, const double *q, const void *keys, bool wide, const float *bias, size_t d,
                             uint32_t rows, uint32_t tiles, uint32_t together)
{
    const uint32_t count = rows * tiles;

#pragma GCC unroll 24
    for (uint32_t k = 0; k < count; k++)
        t[k] = f64_set(0); /* no instruction: the first chains replace it, which not every build sees */
    for (uint32_t chain = 0; chain < CHAINS; chain += together) {
        f64x16 sum[MOST_SUMS];
#pragma GCC unroll 24
        for (uint32_t k = 0; k < count * together; k++)
            sum[k] = chain == 0 && k < count ? start_f64(bias + (size_t)(k % tiles) * ATT_LANES) : f64_set(0);
        chains_f64(sum, q, keys, wide, d, chain, rows, tiles, together);
#pragma GCC unroll 24
        for (uint32_t k = 0; k < count * together; k++)
            t[k % count] = chain == 0 && k < count ? sum[k] : f64_add(t[k % count], sum[k]);
    }
}

/* sum[i][c] += q[i][p] k[c][p] */
LANES_INLINE void step_f32(f32x16 *sum, const float *q, const float *keys, size_t d, size_t p, uint32_t rows,
                           uint32_t tiles)
{
    f32x16 k[MOST_TILES];

#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++)
        k[c] = f32_load(keys + (c * d + p) * ATT_LANES);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++) {
        const f32x16 x = f32_set(q[i * d + p]);
#pragma GCC unroll 4
        for (uint32_t c = 0; c < tiles; c++)
            sum[i * tiles + c] = f32_fma(x, k[c], sum[i * tiles + c]);
    }
}

/* `together` chains of each sum from `chain` on, side by side. */
LANES_INLINE void chains_f32(f32x16 *sum, const float *q, const float *keys, size_t d, size_t chain, uint32_t rows,
                             uint32_t tiles, uint32_t together)
{
    size_t p = chain;

#pragma GCC unroll 4
    for (; p + together <= d; p += CHAINS)
#pragma GCC unroll 4
        for (uint32_t j = 0; j < together; j++)
            step_f32(sum + j * rows * tiles, q, keys, d, p + j, rows, tiles);
#pragma GCC unroll 4
    for (uint32_t j = 0; j + 1 < together; j++)
        if (p + j < d)
            step_f32(sum + j * rows * tiles, q, keys, d, p + j, rows, tiles);
}

/* The scores t[i][c] of `rows` rows against `tiles` tiles, `together` chains of each side by side. These three are constants
 * after inlining. */
LANES_INLINE void scores_f32(f32x16 *t, const float *q, const float *keys, const float *bias, size_t d, uint32_t rows,
                             uint32_t tiles, uint32_t together)
{
    const uint32_t count = rows * tiles;

#pragma GCC unroll 24
    for (uint32_t k = 0; k < count; k++)
        t[k] = f32_set(0); /* no instruction: the first chains replace it, which not every build sees */
    for (uint32_t chain = 0; chain < CHAINS; chain += together) {
        f32x16 sum[MOST_SUMS];
#pragma GCC unroll 24
        for (uint32_t k = 0; k < count * together; k++)
            sum[k] = chain == 0 && k < count ? start_f32(bias + (size_t)(k % tiles) * ATT_LANES) : f32_set(0);
        chains_f32(sum, q, keys, d, chain, rows, tiles, together);
#pragma GCC unroll 24
        for (uint32_t k = 0; k < count * together; k++)
            t[k % count] = chain == 0 && k < count ? sum[k] : f32_add(t[k % count], sum[k]);
    }
}

/* to[p][lane] = rows[lane][first + p] for `columns` columns, at most 16. */
LANES_INLINE void turn(const float *const rows[ATT_LANES], size_t first, size_t columns, float *to)
{
    if (columns == ATT_LANES) {
        lanes_transpose(rows, first, to);
        return;
    }
    for (size_t lane = 0; lane < ATT_LANES; lane++)
        for (size_t p = 0; p < columns; p++)
            to[p * ATT_LANES + lane] = rows[lane][first + p];
}

/* sums[j] += sign x[j] for the first `count` of 8. */
LANES_INLINE void add_vector(double *sums, double sign, f64x8 x, uint32_t count)
{
    double some[8];

    if (count >= 8) {
        f64x8_store(sums, f64x8_fma(f64x8_set(sign), x, f64x8_load(sums)));
        return;
    }
    f64x8_store(some, x);
    for (uint32_t j = 0; j < count; j++)
        sums[j] += sign * some[j];
}

/* sums[j] += factor x[j] for the first `count` of 16. */
LANES_INLINE void add_single(double *sums, double factor, f32x16 x, uint32_t count)
{
    float some[ATT_LANES];

    if (count >= ATT_LANES) {
        f64_store(sums, f64_fma(f64_set(factor), f64_widen(x), f64_load(sums)));
        return;
    }
    f32_store(some, x);
    for (uint32_t j = 0; j < count; j++)
        sums[j] = fma(factor, (double)some[j], sums[j]);
}

/* The build says which instruction set this is, as KERNEL_ISA: plain, avx2, avx512, or avx512_256; names end in it. HALVES: for a
 * processor that executes 512 bits in halves. */
#define KERNEL_JOIN_(what, isa) att_kernel_##what##isa
#define KERNEL_JOIN(what, isa)  KERNEL_JOIN_(what, isa)
#define KERNEL_QUOTE_(isa)      #isa
#define KERNEL_QUOTE(isa)       KERNEL_QUOTE_(isa)

/* struct att_kernel's `read` in kernel_read.c, `sums` and `row_sums` in kernel_sums.c, `few_weights` and `few_product` in
 * kernel_few.c. */
#define KERNEL_FUNCTIONS(isa)                                                                                     \
    void KERNEL_JOIN(few_weights_, isa)(const struct att_weights *work);                                          \
    void KERNEL_JOIN(few_product_, isa)(const struct att_product *work);                                          \
    void KERNEL_JOIN(read_, isa)(const struct att_weights *work, const float *heads, const float *values,         \
                                 uint32_t columns, struct att_read_sums *ret);                                    \
    void KERNEL_JOIN(sums_, isa)(const struct att_weights *work, const float *values, uint32_t columns,           \
                                 uint32_t first, uint32_t count, double *ret_sums);                               \
    void KERNEL_JOIN(row_sums_, isa)(const struct att_weights *work, const float *const rows[16], uint32_t count, \
                                     double *ret_sums);
KERNEL_FUNCTIONS(KERNEL_ISA)

#endif
