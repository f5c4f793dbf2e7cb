/* The kernel over sixteen lanes. Compiled once for each instruction set, with its own flags; KERNEL_TABLE and
 * KERNEL_NAME say which of kernel.h's tables this is. */
#include "kernel.h"
#include "lanes.h"

/* Shapes whose sums stay in registers, of which AVX-512 has 32 and AVX2 16. Measured: docs/numerics.md. */
#if defined(__AVX512F__)
enum { F64_ROWS = 8, F64_TILES = 1, F32_ROWS = 8, F32_TILES = 2 };
enum { F64_SIDE_BY_SIDE = 1, F32_SIDE_BY_SIDE = 1, READ_TILES = 4 };
enum { PRODUCT_ROWS = 8, PRODUCT_VECTORS = 2, LONE_VECTORS = 8 };
#elif defined(__AVX2__)
enum { F64_ROWS = 2, F64_TILES = 1, F32_ROWS = 4, F32_TILES = 1 };
enum { F64_SIDE_BY_SIDE = 0, F32_SIDE_BY_SIDE = 1, READ_TILES = 1 };
enum { PRODUCT_ROWS = 6, PRODUCT_VECTORS = 1, LONE_VECTORS = 4 };
#else
enum { F64_ROWS = 1, F64_TILES = 1, F32_ROWS = 1, F32_TILES = 1 };
enum { F64_SIDE_BY_SIDE = 0, F32_SIDE_BY_SIDE = 0, READ_TILES = 1 };
enum { PRODUCT_ROWS = 1, PRODUCT_VECTORS = 1, LONE_VECTORS = 1 };
#endif

/* 2^f for f in [-1/2, 1/2]: the Taylor series of exp(f ln 2). Terms up to 7 leave 5e-9, up to 13 leave 5e-18. */
static const float power_f32[] = {1.0f,           0x1.62e430p-1f,  0x1.ebfbe0p-3f,  0x1.c6b08ep-5f,
                                  0x1.3b2ab6p-7f, 0x1.5d87fep-10f, 0x1.430912p-13f, 0x1.ffcbfcp-17f};
static const double power_f64[] = {1.0,
                                   0x1.62e42fefa39efp-1,
                                   0x1.ebfbdff82c58fp-3,
                                   0x1.c6b08d704a0c0p-5,
                                   0x1.3b2ab6fba4e77p-7,
                                   0x1.5d87fe78a6731p-10,
                                   0x1.430912f86c787p-13,
                                   0x1.ffcbfc588b0c7p-17,
                                   0x1.62c0223a5c824p-20,
                                   0x1.b5253d395e7c4p-24,
                                   0x1.e4cf5158b8ecap-28,
                                   0x1.e8cac7351bb25p-32,
                                   0x1.c3bd650fc2986p-36,
                                   0x1.816193166d0f9p-40};

LANES_INLINE f32x16 exp2_f32(f32x16 f)
{
    f32x16 sum = f32_set(power_f32[7]);
#pragma GCC unroll 8
    for (int i = 6; i >= 0; i--)
        sum = f32_fma(sum, f, f32_set(power_f32[i]));
    return sum;
}

LANES_INLINE f64x16 exp2_f64(f64x16 f)
{
    f64x16 sum = f64_set(power_f64[13]);
#pragma GCC unroll 16
    for (int i = 12; i >= 0; i--)
        sum = f64_fma(sum, f, f64_set(power_f64[i]));
    return sum;
}

/* From the score t in octaves to the weight, and its r into the row's running maximum. */
LANES_INLINE f64x16 weigh_f64(enum att_precision precision, double shift, f64x16 t, f64x16 *largest)
{
    f64x16 r = f64_round(t), m;

    *largest = f64_max(*largest, r);
    if (precision == ATT_DOUBLE)
        m = exp2_f64(f64_sub(t, r));
    else
        m = f64_widen(exp2_f32(f64_narrow(f64_sub(t, r))));
    return f64_scale(m, f64_sub(r, f64_set(shift)));
}

LANES_INLINE f64x16 weigh_f32(double shift, f32x16 t, f64x16 *largest)
{
    f32x16 r = f32_round(t);
    f64x16 wide = f64_widen(r);

    *largest = f64_max(*largest, wide);
    return f64_scale(f64_widen(exp2_f32(f32_sub(t, r))), f64_sub(wide, f64_set(shift)));
}

/* A score is the sum of four chains: chain j, over p = j, j + 4, ..; added in their order. Chain 0 starts at the bias. So
 * a lone row need not wait for one chain, and meets the key's columns in the order in which they lie. */
enum { CHAINS = 4 };

LANES_INLINE f64x16 start_f64(const float *bias)
{
    const f64x16 start = f64_fma(f64_load_f32(bias), f64_set(0x1.71547652b82fep+0), f64_set(0.0));
    return f64_max(start, f64_set(ATT_MASKED));
}

LANES_INLINE f32x16 start_f32(const float *bias)
{
    return f32_max(f32_mul(f32_load(bias), f32_set(0x1.715476p+0f)), f32_set((float)ATT_MASKED));
}

/* sum[i][c] += q[i][p] k[c][p] for p = chain, chain + 4, .. */
LANES_INLINE void chain_f64(f64x16 *sum, const double *q, const float *keys, size_t d, size_t chain, uint32_t rows,
                            uint32_t tiles)
{
    for (size_t p = chain; p < d; p += CHAINS) {
        f64x16 k[F64_TILES];
#pragma GCC unroll 8
        for (uint32_t c = 0; c < tiles; c++)
            k[c] = f64_load_f32(keys + (c * d + p) * ATT_LANES);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < rows; i++) {
            f64x16 x = f64_set(q[i * d + p]);
#pragma GCC unroll 8
            for (uint32_t c = 0; c < tiles; c++)
                sum[i * tiles + c] = f64_fma(x, k[c], sum[i * tiles + c]);
        }
    }
}

/* The scores of one row against one tile, its chains side by side: a lone chain would wait for itself. */
LANES_INLINE f64x16 score_f64(const double *q, const float *keys, const float *bias, size_t d)
{
    f64x16 sum[CHAINS] = {start_f64(bias), f64_set(0.0), f64_set(0.0), f64_set(0.0)};
    size_t p = 0;

    if (!F64_SIDE_BY_SIDE) {
        for (uint32_t j = 0; j < CHAINS; j++)
            chain_f64(&sum[j], q, keys, d, j, 1, 1);
        p = d;
    }
    for (; p + CHAINS <= d; p += CHAINS)
#pragma GCC unroll 4
        for (uint32_t j = 0; j < CHAINS; j++)
            sum[j] = f64_fma(f64_set(q[p + j]), f64_load_f32(keys + (p + j) * ATT_LANES), sum[j]);
#pragma GCC unroll 4
    for (uint32_t j = 0; j < CHAINS; j++)
        if (p + j < d)
            sum[j] = f64_fma(f64_set(q[p + j]), f64_load_f32(keys + (p + j) * ATT_LANES), sum[j]);
#pragma GCC unroll 4
    for (uint32_t j = 1; j < CHAINS; j++)
        sum[0] = f64_fma(sum[j], f64_set(1.0), sum[0]);
    return sum[0];
}

/* `rows` x `tiles` weights from (row, tile) on; both are constants after inlining. Scores in float64. */
LANES_INLINE void block_f64(const struct att_weights *work, uint32_t row, uint32_t tile, uint32_t rows, uint32_t tiles,
                            f64x16 *largest)
{
    const double *q = (const double *)work->q + (size_t)row * work->d;
    const float *keys = work->keys + (size_t)tile * work->d * ATT_LANES;
    f64x16 t[F64_ROWS * F64_TILES], sum[F64_ROWS * F64_TILES];

#pragma GCC unroll 8
    for (uint32_t c = 0; c < tiles; c++) {
        f64x16 start = start_f64(work->bias + (size_t)(tile + c) * ATT_LANES);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < rows; i++)
            t[i * tiles + c] = start;
    }
    if (rows == 1 && tiles == 1) {
        t[0] = score_f64(q, keys, work->bias + (size_t)tile * ATT_LANES, work->d);
    } else {
        chain_f64(t, q, keys, work->d, 0, rows, tiles);
        for (uint32_t j = 1; j < CHAINS; j++) {
#pragma GCC unroll 24
            for (uint32_t k = 0; k < rows * tiles; k++)
                sum[k] = f64_set(0);
            chain_f64(sum, q, keys, work->d, j, rows, tiles);
#pragma GCC unroll 24
            for (uint32_t k = 0; k < rows * tiles; k++)
                t[k] = f64_fma(sum[k], f64_set(1.0), t[k]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (uint32_t c = 0; c < tiles; c++)
            f64_store(work->weights + (row + i) * work->stride + (size_t)(tile + c) * ATT_LANES,
                      weigh_f64(work->precision, work->shift[row + i], t[i * tiles + c], &largest[i]));
}

/* sum[i][c] += q[i][p] k[c][p] for p = chain, chain + 4, .. */
LANES_INLINE void chain_f32(f32x16 *sum, const float *q, const float *keys, size_t d, size_t chain, uint32_t rows,
                            uint32_t tiles)
{
    for (size_t p = chain; p < d; p += CHAINS) {
        f32x16 k[F32_TILES];
#pragma GCC unroll 8
        for (uint32_t c = 0; c < tiles; c++)
            k[c] = f32_load(keys + (c * d + p) * ATT_LANES);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < rows; i++) {
            f32x16 x = f32_set(q[i * d + p]);
#pragma GCC unroll 8
            for (uint32_t c = 0; c < tiles; c++)
                sum[i * tiles + c] = f32_fma(x, k[c], sum[i * tiles + c]);
        }
    }
}

/* The scores of one row against one tile, its chains side by side: a lone chain would wait for itself. */
LANES_INLINE f32x16 score_f32(const float *q, const float *keys, const float *bias, size_t d)
{
    f32x16 sum[CHAINS] = {start_f32(bias), f32_set(0.0f), f32_set(0.0f), f32_set(0.0f)};
    size_t p = 0;

    if (!F32_SIDE_BY_SIDE) {
        for (uint32_t j = 0; j < CHAINS; j++)
            chain_f32(&sum[j], q, keys, d, j, 1, 1);
        p = d;
    }
    for (; p + CHAINS <= d; p += CHAINS)
#pragma GCC unroll 4
        for (uint32_t j = 0; j < CHAINS; j++)
            sum[j] = f32_fma(f32_set(q[p + j]), f32_load(keys + (p + j) * ATT_LANES), sum[j]);
#pragma GCC unroll 4
    for (uint32_t j = 0; j < CHAINS; j++)
        if (p + j < d)
            sum[j] = f32_fma(f32_set(q[p + j]), f32_load(keys + (p + j) * ATT_LANES), sum[j]);
#pragma GCC unroll 4
    for (uint32_t j = 1; j < CHAINS; j++)
        sum[0] = f32_fma(sum[j], f32_set(1.0f), sum[0]);
    return sum[0];
}

/* `rows` x `tiles` weights from (row, tile) on; both are constants after inlining. Scores in float32. */
LANES_INLINE void block_f32(const struct att_weights *work, uint32_t row, uint32_t tile, uint32_t rows, uint32_t tiles,
                            f64x16 *largest)
{
    const float *q = (const float *)work->q + (size_t)row * work->d;
    const float *keys = work->keys + (size_t)tile * work->d * ATT_LANES;
    f32x16 t[F32_ROWS * F32_TILES], sum[F32_ROWS * F32_TILES];

#pragma GCC unroll 8
    for (uint32_t c = 0; c < tiles; c++) {
        f32x16 start = start_f32(work->bias + (size_t)(tile + c) * ATT_LANES);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < rows; i++)
            t[i * tiles + c] = start;
    }
    if (rows == 1 && tiles == 1) {
        t[0] = score_f32(q, keys, work->bias + (size_t)tile * ATT_LANES, work->d);
    } else {
        chain_f32(t, q, keys, work->d, 0, rows, tiles);
        for (uint32_t j = 1; j < CHAINS; j++) {
#pragma GCC unroll 24
            for (uint32_t k = 0; k < rows * tiles; k++)
                sum[k] = f32_set(0.0f);
            chain_f32(sum, q, keys, work->d, j, rows, tiles);
#pragma GCC unroll 24
            for (uint32_t k = 0; k < rows * tiles; k++)
                t[k] = f32_fma(sum[k], f32_set(1.0f), t[k]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (uint32_t c = 0; c < tiles; c++)
            f64_store(work->weights + (row + i) * work->stride + (size_t)(tile + c) * ATT_LANES,
                      weigh_f32(work->shift[row + i], t[i * tiles + c], &largest[i]));
}

LANES_INLINE void band(const struct att_weights *work, uint32_t row, uint32_t rows, uint32_t wide,
                       void (*block)(const struct att_weights *, uint32_t, uint32_t, uint32_t, uint32_t, f64x16 *))
{
    f64x16 largest[F64_ROWS > F32_ROWS ? F64_ROWS : F32_ROWS];
    uint32_t tile = 0;

    for (uint32_t i = 0; i < rows; i++)
        largest[i] = f64_set(ATT_MASKED);
    for (; tile + wide <= work->tiles; tile += wide)
        block(work, row, tile, rows, wide, largest);
    for (; tile < work->tiles; tile++)
        block(work, row, tile, rows, 1, largest);
    for (uint32_t i = 0; i < rows; i++)
        work->largest[row + i] = f64_largest(largest[i]);
}

static void weights(const struct att_weights *work)
{
    uint32_t row = 0;

    if (work->precision == ATT_SINGLE) {
        for (; row + F32_ROWS <= work->rows; row += F32_ROWS)
            band(work, row, F32_ROWS, F32_TILES, block_f32);
        for (; row < work->rows; row++)
            band(work, row, 1, 1, block_f32);
    } else {
        for (; row + F64_ROWS <= work->rows; row += F64_ROWS)
            band(work, row, F64_ROWS, F64_TILES, block_f64);
        for (; row < work->rows; row++)
            band(work, row, 1, 1, block_f64);
    }
}

/* What the weights of a query add up to so far. */
struct reading {
    f64x16 largest, value, sum[4], magnitude[4];
};

/* `tiles` tiles from `tile` on: their scores, then their weights side by side, for one would wait for itself; then
 * what they add up to. (In float32 scores are so quick that one tile at a time is faster: measured.) */
LANES_INLINE void read_tiles(const struct att_weights *work, const float *heads, const float *values, size_t columns,
                             uint32_t tile, uint32_t tiles, bool single, struct reading *reading)
{
    f64x16 w[READ_TILES];
    f32x16 t32[READ_TILES];

#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++) {
        const float *keys = work->keys + (size_t)(tile + c) * work->d * ATT_LANES;
        const float *bias = work->bias + (size_t)(tile + c) * ATT_LANES;
        /* The values of a column lie far apart: the processor does not foresee them. */
        __builtin_prefetch(values + (size_t)(tile + c) * columns * ATT_LANES);
        if (single)
            t32[c] = score_f32(work->q, keys, bias, work->d);
        else
            w[c] = score_f64(work->q, keys, bias, work->d);
    }
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++) {
        if (single)
            w[c] = weigh_f32(work->shift[0], t32[c], &reading->largest);
        else
            w[c] = weigh_f64(work->precision, work->shift[0], w[c], &reading->largest);
        f64_store(work->weights + (size_t)(tile + c) * ATT_LANES, w[c]);
    }
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++) {
        const float *head = heads + (size_t)(tile + c) * 4 * ATT_LANES;
        const f64x16 signed_w = f64_mul(w[c], f64_load_f32(head));
        reading->value = f64_fma(w[c], f64_load_f32(values + (size_t)(tile + c) * columns * ATT_LANES), reading->value);
        reading->sum[0] = f64_fma(signed_w, f64_set(1.0), reading->sum[0]);
        reading->magnitude[0] = f64_fma(w[c], f64_set(1.0), reading->magnitude[0]);
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
    struct reading reading = {.largest = f64_set(ATT_MASKED), .value = f64_set(0.0)};
    uint32_t tile = 0;

#pragma GCC unroll 4
    for (int c = 0; c < 4; c++)
        reading.sum[c] = reading.magnitude[c] = f64_set(0.0);
    for (; !single && tile + READ_TILES <= work->tiles; tile += READ_TILES)
        read_tiles(work, heads, values, columns, tile, READ_TILES, single, &reading);
    for (; tile < work->tiles; tile++)
        read_tiles(work, heads, values, columns, tile, 1, single, &reading);
    work->largest[0] = f64_largest(reading.largest);
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
