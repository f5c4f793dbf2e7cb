/* The kernel over sixteen lanes. Compiled once for each instruction set, with its own flags; KERNEL_TABLE and
 * KERNEL_NAME say which of kernel.h's tables this is. */
#include "kernel.h"
#include "lanes.h"

/* Shapes whose sums stay in registers, of which AVX-512 has 32 and AVX2 16. Measured: docs/numerics.md. */
#if defined(__AVX512F__)
enum { F64_ROWS = 8, F64_TILES = 1, F32_ROWS = 8, F32_TILES = 2 };
enum { READ_TILES_F64 = 4, READ_TOGETHER_F64 = 2, READ_TILES_F32 = 2, READ_TOGETHER_F32 = 4 };
enum { PRODUCT_ROWS = 8, PRODUCT_VECTORS = 2, LONE_VECTORS = 8 };
#elif defined(__AVX2__)
enum { F64_ROWS = 2, F64_TILES = 1, F32_ROWS = 4, F32_TILES = 1 };
enum { READ_TILES_F64 = 1, READ_TOGETHER_F64 = 2, READ_TILES_F32 = 1, READ_TOGETHER_F32 = 4 };
enum { PRODUCT_ROWS = 6, PRODUCT_VECTORS = 1, LONE_VECTORS = 4 };
#else
enum { F64_ROWS = 1, F64_TILES = 1, F32_ROWS = 1, F32_TILES = 1 };
enum { READ_TILES_F64 = 1, READ_TOGETHER_F64 = 1, READ_TILES_F32 = 1, READ_TOGETHER_F32 = 1 };
enum { PRODUCT_ROWS = 1, PRODUCT_VECTORS = 1, LONE_VECTORS = 1 };
#endif

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

/* Where float64's last place is an eighth. */
#define EIGHTHS 0x1.8p49

/* From the score t in octaves to the weight; anchor: EIGHTHS - M. The score goes into the row's running maximum. */
LANES_INLINE f64x16 weigh(enum att_precision precision, double anchor, f64x16 t, f64x16 *largest)
{
    const bool is_long = precision == ATT_DOUBLE;
    const double *series = is_long ? series_long : series_short;
    const f64x16 z = f64_add(t, f64_set(anchor)), f = f64_sub(t, f64_sub(z, f64_set(anchor)));
    const f64x16 power = f64_power(z, is_long ? table_long : table_short);
    const int degree = is_long ? 7 : 3;
    f64x16 sum = f64_set(series[degree - 1]);

    *largest = f64_max(*largest, t);
#pragma GCC unroll 8
    for (int i = degree - 2; i >= 0; i--)
        sum = f64_fma(sum, f, f64_set(series[i]));
    return f64_fma_from(z, EIGHTHS - 1000.0, f64_mul(power, f), sum, power);
}

/* A score is the sum of a few chains: chain j of n, over p = j, j + n, ..; added in their order. Chain 0 starts at the
 * bias. So a lone row need not wait for one chain, and meets the key's columns in the order in which they lie. */
enum { CHAINS_F64 = 2, CHAINS_F32 = 4 };

LANES_INLINE f64x16 start_f64(const float *bias)
{
    return f64_max(f64_mul(f64_load_f32(bias), f64_set(0x1.71547652b82fep+0)), f64_set(ATT_MASKED));
}

LANES_INLINE f32x16 start_f32(const float *bias)
{
    return f32_max(f32_mul(f32_load(bias), f32_set(0x1.715476p+0f)), f32_set((float)ATT_MASKED));
}

enum { MOST_TILES = 4, MOST_SUMS = 16 };

/* sum[i][c] += q[i][p] k[c][p] */
LANES_INLINE void step_f64(f64x16 *sum, const double *q, const float *keys, size_t d, size_t p, uint32_t rows,
                           uint32_t tiles)
{
    f64x16 k[MOST_TILES];

#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++)
        k[c] = f64_load_f32(keys + (c * d + p) * ATT_LANES);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++) {
        const f64x16 x = f64_set(q[i * d + p]);
#pragma GCC unroll 4
        for (uint32_t c = 0; c < tiles; c++)
            sum[i * tiles + c] = f64_fma(x, k[c], sum[i * tiles + c]);
    }
}

/* The scores t[i][c] of `rows` rows against `tiles` tiles, `together` chains of each side by side. These three are constants
 * after inlining. */
LANES_INLINE void scores_f64(f64x16 *t, const double *q, const float *keys, const float *bias, size_t d, uint32_t rows,
                             uint32_t tiles, uint32_t together)
{
    const uint32_t count = rows * tiles;

#pragma GCC unroll 16
    for (uint32_t k = 0; k < count; k++)
        t[k] = f64_set(0);
    for (uint32_t chain = 0; chain < CHAINS_F64; chain += together) {
        f64x16 sum[MOST_SUMS];
        size_t p = chain;
#pragma GCC unroll 16
        for (uint32_t k = 0; k < count * together; k++)
            sum[k] = chain == 0 && k < count ? start_f64(bias + (size_t)(k % tiles) * ATT_LANES) : f64_set(0);
        for (; p + together <= d; p += CHAINS_F64)
#pragma GCC unroll 4
            for (uint32_t j = 0; j < together; j++)
                step_f64(sum + j * count, q, keys, d, p + j, rows, tiles);
#pragma GCC unroll 4
        for (uint32_t j = 0; j + 1 < together; j++)
            if (p + j < d)
                step_f64(sum + j * count, q, keys, d, p + j, rows, tiles);
#pragma GCC unroll 16
        for (uint32_t k = 0; k < count * together; k++)
            t[k % count] = f64_add(t[k % count], sum[k]);
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

/* The scores t[i][c] of `rows` rows against `tiles` tiles, `together` chains of each side by side. These three are constants
 * after inlining. */
LANES_INLINE void scores_f32(f32x16 *t, const float *q, const float *keys, const float *bias, size_t d, uint32_t rows,
                             uint32_t tiles, uint32_t together)
{
    const uint32_t count = rows * tiles;

#pragma GCC unroll 16
    for (uint32_t k = 0; k < count; k++)
        t[k] = f32_set(0);
    for (uint32_t chain = 0; chain < CHAINS_F32; chain += together) {
        f32x16 sum[MOST_SUMS];
        size_t p = chain;
#pragma GCC unroll 16
        for (uint32_t k = 0; k < count * together; k++)
            sum[k] = chain == 0 && k < count ? start_f32(bias + (size_t)(k % tiles) * ATT_LANES) : f32_set(0);
        for (; p + together <= d; p += CHAINS_F32)
#pragma GCC unroll 4
            for (uint32_t j = 0; j < together; j++)
                step_f32(sum + j * count, q, keys, d, p + j, rows, tiles);
#pragma GCC unroll 4
        for (uint32_t j = 0; j + 1 < together; j++)
            if (p + j < d)
                step_f32(sum + j * count, q, keys, d, p + j, rows, tiles);
#pragma GCC unroll 16
        for (uint32_t k = 0; k < count * together; k++)
            t[k % count] = f32_add(t[k % count], sum[k]);
    }
}

/* `rows` x `tiles` weights from (row, tile) on; both are constants after inlining. */
LANES_INLINE void block(const struct att_weights *work, uint32_t row, uint32_t tile, uint32_t rows, uint32_t tiles,
                        bool single, f64x16 *largest)
{
    const float *keys = work->keys + (size_t)tile * work->d * ATT_LANES, *bias = work->bias + (size_t)tile * ATT_LANES;
    f64x16 t[MOST_SUMS];
    f32x16 t32[MOST_SUMS];

    if (single)
        scores_f32(t32, (const float *)work->q + (size_t)row * work->d, keys, bias, work->d, rows, tiles, 1);
    else
        scores_f64(t, (const double *)work->q + (size_t)row * work->d, keys, bias, work->d, rows, tiles, 1);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (uint32_t c = 0; c < tiles; c++)
            f64_store(work->weights + (row + i) * work->stride + (size_t)(tile + c) * ATT_LANES,
                      weigh(work->precision, EIGHTHS - work->shift[row + i],
                            single ? f64_widen(t32[i * tiles + c]) : t[i * tiles + c], &largest[i]));
}

LANES_INLINE void band(const struct att_weights *work, uint32_t row, uint32_t rows, uint32_t wide, bool single)
{
    f64x16 largest[MOST_SUMS];
    uint32_t tile = 0;

    for (uint32_t i = 0; i < rows; i++)
        largest[i] = f64_set(ATT_MASKED);
    for (; tile + wide <= work->tiles; tile += wide)
        block(work, row, tile, rows, wide, single, largest);
    for (; tile < work->tiles; tile++)
        block(work, row, tile, rows, 1, single, largest);
    for (uint32_t i = 0; i < rows; i++)
        work->largest[row + i] = rint(f64_largest(largest[i]));
}

static void weights(const struct att_weights *work)
{
    uint32_t row = 0;

    if (work->precision == ATT_SINGLE) {
        for (; row + F32_ROWS <= work->rows; row += F32_ROWS)
            band(work, row, F32_ROWS, F32_TILES, true);
        for (; row < work->rows; row++)
            band(work, row, 1, 1, true);
    } else {
        for (; row + F64_ROWS <= work->rows; row += F64_ROWS)
            band(work, row, F64_ROWS, F64_TILES, false);
        for (; row < work->rows; row++)
            band(work, row, 1, 1, false);
    }
}

/* What the weights of a query add up to so far. */
struct reading {
    f64x16 largest, value, sum[4], magnitude[4];
};

/* `tiles` tiles from `tile` on: their scores, then their weights side by side, for one would wait for itself; then
 * what they add up to. */
LANES_INLINE void read_tiles(const struct att_weights *work, const float *heads, const float *values, size_t columns,
                             uint32_t tile, uint32_t tiles, bool single, struct reading *reading)
{
    const float *keys = work->keys + (size_t)tile * work->d * ATT_LANES, *bias = work->bias + (size_t)tile * ATT_LANES;
    f64x16 w[MOST_TILES];
    f32x16 t32[MOST_TILES];

    /* The values of a column lie far apart: the processor does not foresee them. */
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++)
        __builtin_prefetch(values + (size_t)(tile + c) * columns * ATT_LANES);
    if (single)
        scores_f32(t32, work->q, keys, bias, work->d, 1, tiles, READ_TOGETHER_F32);
    else
        scores_f64(w, work->q, keys, bias, work->d, 1, tiles, READ_TOGETHER_F64);
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++) {
        w[c] = weigh(work->precision, EIGHTHS - work->shift[0], single ? f64_widen(t32[c]) : w[c], &reading->largest);
        f64_store(work->weights + (size_t)(tile + c) * ATT_LANES, w[c]);
    }
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++) {
        const float *head = heads + (size_t)(tile + c) * 4 * ATT_LANES;
        const f64x16 signed_w = f64_mul(w[c], f64_load_f32(head));
        reading->value = f64_fma(w[c], f64_load_f32(values + (size_t)(tile + c) * columns * ATT_LANES), reading->value);
        reading->sum[0] = f64_add(reading->sum[0], signed_w);
        reading->magnitude[0] = f64_add(reading->magnitude[0], w[c]);
#pragma GCC unroll 3
        for (int x = 1; x < 4; x++) {
            f64x16 column = f64_load_f32(head + x * ATT_LANES);
            reading->sum[x] = f64_fma(w[c], column, reading->sum[x]);
            reading->magnitude[x] = f64_fma(signed_w, column, reading->magnitude[x]);
        }
    }
}

LANES_INLINE void read_all(const struct att_weights *work, const float *heads, const float *values, size_t columns,
                           bool single, struct att_read_sums *ret)
{
    const uint32_t wide = single ? READ_TILES_F32 : READ_TILES_F64;
    struct reading reading = {.largest = f64_set(ATT_MASKED), .value = f64_set(0.0)};
    uint32_t tile = 0;

#pragma GCC unroll 4
    for (int c = 0; c < 4; c++)
        reading.sum[c] = reading.magnitude[c] = f64_set(0.0);
    for (; tile + wide <= work->tiles; tile += wide)
        read_tiles(work, heads, values, columns, tile, wide, single, &reading);
    for (; tile < work->tiles; tile++)
        read_tiles(work, heads, values, columns, tile, 1, single, &reading);
    work->largest[0] = rint(f64_largest(reading.largest));
    ret->value = f64_sum(reading.value);
    f64_sum4(reading.sum, ret->head);
    f64_sum4(reading.magnitude, ret->magnitude);
}

static void read_row(const struct att_weights *work, const float *heads, const float *values, uint32_t columns,
                     struct att_read_sums *ret)
{
    if (work->precision == ATT_SINGLE)
        read_all(work, heads, values, columns, true, ret);
    else
        read_all(work, heads, values, columns, false, ret);
}

static void scale_q(enum att_precision precision, double scale, uint32_t d, const float *q, void *ret_scaled)
{
    const double factor = scale * 0x1.71547652b82fep+0;

    if (precision == ATT_SINGLE)
        for (uint32_t p = 0; p < d; p++)
            ((float *)ret_scaled)[p] = (float)(factor * (double)q[p]);
    else
        for (uint32_t p = 0; p < d; p++)
            ((double *)ret_scaled)[p] = factor * (double)q[p];
}

static void sums(const double *weight, uint32_t tiles, const float *values, uint32_t columns, uint32_t first,
                 uint32_t count, double *ret_sums)
{
    for (uint32_t column = first; column < first + count; column++) {
        const float *x = values + (size_t)column * ATT_LANES;
        f64x16 sum = f64_set(0.0);
        for (uint32_t tile = 0; tile < tiles; tile++)
            sum = f64_fma(f64_load(weight + (size_t)tile * ATT_LANES),
                          f64_load_f32(x + (size_t)tile * columns * ATT_LANES), sum);
        ret_sums[column - first] = f64_sum(sum);
    }
}

/* Partial sums and maxima, so that the loops have no chain. |v| is compared as bits, so that NaN is larger than infinity
 * and infinity than all numbers: what is not finite comes through both ways. */
static void head(const float *key, uint32_t d, const float *value, uint32_t d_v, float ret_norm_largest[2])
{
    double square[16] = {0.0};
    uint32_t largest[16] = {0}, bits;
    uint32_t p = 0, j = 0;

    for (; p + 16 <= d; p += 16)
        for (int k = 0; k < 16; k++)
            square[k] += (double)key[p + k] * (double)key[p + k];
    for (; p < d; p++)
        square[0] += (double)key[p] * (double)key[p];
    for (; j + 16 <= d_v; j += 16)
        for (int k = 0; k < 16; k++) {
            memcpy(&bits, value + j + k, sizeof bits);
            bits &= 0x7fffffffu;
            largest[k] = bits > largest[k] ? bits : largest[k];
        }
    for (; j < d_v; j++) {
        memcpy(&bits, value + j, sizeof bits);
        bits &= 0x7fffffffu;
        largest[0] = bits > largest[0] ? bits : largest[0];
    }
    for (int k = 1; k < 16; k++) {
        square[0] += square[k];
        largest[0] = largest[k] > largest[0] ? largest[k] : largest[0];
    }
    ret_norm_largest[0] = (float)(sqrt(square[0]) * (1.0 + 0x1p-22));
    memcpy(&ret_norm_largest[1], &largest[0], sizeof largest[0]);
}

static void transpose(const float *const rows[ATT_LANES], uint32_t d, float *ret_tile)
{
    uint32_t p = 0;

    for (; p + ATT_LANES <= d; p += ATT_LANES)
        lanes_transpose(rows, p, ret_tile + (size_t)p * ATT_LANES);
    for (; p < d; p++)
        for (int lane = 0; lane < ATT_LANES; lane++)
            ret_tile[(size_t)p * ATT_LANES + lane] = rows[lane][p];
}

LANES_INLINE void add_vector(double *sums, double sign, f64x8 x, uint32_t count)
{
    double some[8];

    if (count >= 8) {
        f64x8_store(sums, f64x8_fma(sign, x, f64x8_load(sums)));
        return;
    }
    f64x8_store(some, x);
    for (uint32_t j = 0; j < count; j++)
        sums[j] += sign * some[j];
}

/* `rows` x 8 `vectors` sums in registers; both are constants after inlining. */
LANES_INLINE void product_block(const struct att_product *work, uint32_t row, uint32_t column, uint32_t rows,
                                uint32_t vectors)
{
    const double *weight = work->weights + row * work->stride;
    const float *values = work->values + column;
    double *sums = work->sums + (size_t)row * work->sum_stride + column;
    const size_t stride = work->stride, value_stride = work->value_stride;
    const uint32_t depth = work->depth;
    f64x8 sum[PRODUCT_ROWS * PRODUCT_VECTORS > LONE_VECTORS ? PRODUCT_ROWS * PRODUCT_VECTORS : LONE_VECTORS];

#pragma GCC unroll 24
    for (uint32_t k = 0; k < rows * vectors; k++)
        sum[k] = f64x8_zero();
    for (uint32_t l = 0; l < depth; l++) {
        f64x8 x[PRODUCT_VECTORS > LONE_VECTORS ? PRODUCT_VECTORS : LONE_VECTORS];
#pragma GCC unroll 8
        for (uint32_t c = 0; c < vectors; c++)
            x[c] = f64x8_widen(values + l * value_stride + 8 * c);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 8
            for (uint32_t c = 0; c < vectors; c++)
                sum[i * vectors + c] = f64x8_fma(weight[i * stride + l], x[c], sum[i * vectors + c]);
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (uint32_t c = 0; c < vectors; c++)
            add_vector(sums + i * work->sum_stride + 8 * c, work->sign, sum[i * vectors + c],
                       work->columns - column - 8 * c);
}

LANES_INLINE void product_band(const struct att_product *work, uint32_t row, uint32_t rows, uint32_t vectors)
{
    uint32_t column = 0;

    for (; column + 8 * vectors <= work->columns; column += 8 * vectors)
        product_block(work, row, column, rows, vectors);
    for (; column < work->columns; column += 8)
        product_block(work, row, column, rows, 1);
}

static void product(const struct att_product *work)
{
    uint32_t row = 0;

    for (; row + PRODUCT_ROWS <= work->rows; row += PRODUCT_ROWS)
        product_band(work, row, PRODUCT_ROWS, PRODUCT_VECTORS);
    for (; row < work->rows; row++)
        product_band(work, row, 1, LONE_VECTORS);
}

const struct att_kernel KERNEL_TABLE = {KERNEL_NAME, head, transpose, scale_q, weights, read_row, sums, product};
