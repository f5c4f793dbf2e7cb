/* The kernel over sixteen lanes. Compiled once for each instruction set, with its own flags; KERNEL_ISA says which of
 * kernel.h's tables this is. */
#include <assert.h>

#include "kernel_scores.h"

/* Shapes whose sums stay in registers, of which AVX-512 has 32 and AVX2 16. A band of rows meets a tile of keys while that is
 * in the L1 cache. BOTH: the two chains of each score side by side. Measured: docs/numerics.md. */
#if defined(__AVX512F__) && defined(HALVES)
enum { WEIGHT_ROWS = 12, LESS_ROWS = 4, F64_ROWS = 3, F64_TILES = 2, F32_ROWS = 3, F32_TILES = 4, BOTH = 1 };
enum { PRODUCT_ROWS = 6, PRODUCT_VECTORS = 4, LONE_VECTORS = 8, HEADS_ROWS = 6, LESS_HEADS = 4 };
enum { SINGLE_ROWS = 12, SINGLE_VECTORS = 1, LESS_VECTORS = 4 };
#elif defined(__AVX512F__)
enum { WEIGHT_ROWS = 12, LESS_ROWS = 4, F64_ROWS = 6, F64_TILES = 2, F32_ROWS = 6, F32_TILES = 4, BOTH = 0 };
enum { PRODUCT_ROWS = 6, PRODUCT_VECTORS = 4, LONE_VECTORS = 8, HEADS_ROWS = 6, LESS_HEADS = 4 };
enum { SINGLE_ROWS = 6, SINGLE_VECTORS = 4, LESS_VECTORS = 4 };
#elif defined(__AVX2__)
enum { WEIGHT_ROWS = 12, LESS_ROWS = 4, F64_ROWS = 2, F64_TILES = 1, F32_ROWS = 6, F32_TILES = 1, BOTH = 0 };
enum { PRODUCT_ROWS = 6, PRODUCT_VECTORS = 1, LONE_VECTORS = 4, HEADS_ROWS = 1, LESS_HEADS = 1 };
enum { SINGLE_ROWS = 6, SINGLE_VECTORS = 1, LESS_VECTORS = 1 };
#else
enum { WEIGHT_ROWS = 1, LESS_ROWS = 1, F64_ROWS = 1, F64_TILES = 1, F32_ROWS = 1, F32_TILES = 1, BOTH = 0 };
enum { PRODUCT_ROWS = 1, PRODUCT_VECTORS = 1, LONE_VECTORS = 1, HEADS_ROWS = 1, LESS_HEADS = 1 };
enum { SINGLE_ROWS = 1, SINGLE_VECTORS = 1, LESS_VECTORS = 1 };
#endif

/* Of what was done side by side and no longer fits, a part does: 1 at least. */
#define PART(wide, of) ((wide) > (of) ? (wide) / (of) : 1)
/* Of LESS_ROWS, where `together` of a band are side by side: a whole part. */
#define LESS_TOGETHER(together) ((together) > LESS_ROWS ? LESS_ROWS : LESS_ROWS % (together) == 0 ? (together) : 2)

static_assert(WEIGHT_ROWS % F64_ROWS == 0 && WEIGHT_ROWS % F32_ROWS == 0, "a band is of whole blocks");
static_assert(LESS_ROWS % LESS_TOGETHER(F64_ROWS) == 0 && LESS_ROWS % LESS_TOGETHER(F32_ROWS) == 0 &&
                  (int)LESS_ROWS <= WEIGHT_ROWS,
              "of less rows too");
static_assert(F64_ROWS * F64_TILES * (BOTH ? CHAINS : 1) <= MOST_SUMS &&
                  F32_ROWS * F32_TILES * (BOTH ? CHAINS : 1) <= MOST_SUMS && F32_ROWS * CHAINS <= MOST_SUMS,
              "scores that are made side by side have room");
static_assert((int)F64_TILES <= MOST_TILES && (int)F32_TILES <= MOST_TILES, "and their keys");
static_assert(SINGLE_ROWS * SINGLE_VECTORS <= MOST_SUMS && LESS_ROWS * LESS_VECTORS <= MOST_SUMS &&
                  (int)SINGLE_VECTORS <= LESS_VECTORS,
              "and the sums in single");
static_assert((int)LESS_ROWS <= PRODUCT_ROWS && LESS_HEADS <= HEADS_ROWS, "and the others");

/* `rows` x `tiles` weights from (row, tile) on; rows, tiles and precision are constants after inlining. */
LANES_INLINE void block(const struct att_weights *work, uint32_t row, uint32_t tile, uint32_t rows, uint32_t tiles,
                        enum att_precision precision, struct weighing *weighing)
{
    const float *bias = work->bias + (size_t)tile * ATT_LANES;
    const double *keys = (const double *)work->keys + (size_t)tile * work->d * ATT_LANES;
    double *to = (double *)work->weights + (size_t)row * ATT_BLOCK + (size_t)tile * ATT_LANES;
    f64x16 t[MOST_SUMS];

    scores_f64(t, (const double *)work->q + (size_t)row * work->d, keys, true, bias, work->d, rows, tiles,
               BOTH ? CHAINS : 1);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (uint32_t c = 0; c < tiles; c++)
            f64_store(to + (size_t)i * ATT_BLOCK + (size_t)c * ATT_LANES,
                      weigh(precision, t[i * tiles + c], &weighing[i]));
}

LANES_INLINE void block_single(const struct att_weights *work, uint32_t row, uint32_t tile, uint32_t rows,
                               uint32_t tiles, struct weighing *weighing)
{
    const float *bias = work->bias + (size_t)tile * ATT_LANES;
    const float *keys = (const float *)work->keys + (size_t)tile * work->d * ATT_LANES;
    float *to = (float *)work->weights + (size_t)row * ATT_BLOCK + (size_t)tile * ATT_LANES;
    f32x16 t[MOST_SUMS];

    /* One tile is too little to fill the units with one chain of each score. */
    scores_f32(t, (const float *)work->q + (size_t)row * work->d, keys, bias, work->d, rows, tiles,
               BOTH || (tiles == 1 && F32_TILES > 1) ? CHAINS : 1);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (uint32_t c = 0; c < tiles; c++)
            f32_store(to + (size_t)i * ATT_BLOCK + (size_t)c * ATT_LANES, weigh_single(t[i * tiles + c], &weighing[i]));
}

/* A tile, or `tiles` side by side, for `rows` rows, `together` of them side by side; these are constants after inlining. */
LANES_INLINE void blocks(const struct att_weights *work, uint32_t row, uint32_t tile, uint32_t rows, uint32_t together,
                         uint32_t tiles, enum att_precision precision, struct weighing *weighing)
{
    for (uint32_t i = 0; i < rows; i += together)
        if (precision == ATT_SINGLE)
            block_single(work, row + i, tile, together, tiles, weighing + i);
        else
            block(work, row + i, tile, together, tiles, precision, weighing + i);
}

/* The tiles from `tile` on, `wide` side by side as long as so many are left; returns the first that is left over. */
LANES_INLINE uint32_t walk(const struct att_weights *work, uint32_t row, uint32_t tile, uint32_t rows,
                           uint32_t together, uint32_t wide, enum att_precision precision, struct weighing *weighing)
{
    for (; tile + wide <= work->tiles; tile += wide)
        blocks(work, row, tile, rows, together, wide, precision, weighing);
    return tile;
}

LANES_INLINE void band(const struct att_weights *work, uint32_t row, uint32_t rows, uint32_t together, uint32_t wide,
                       enum att_precision precision)
{
    struct weighing weighing[WEIGHT_ROWS];
    uint32_t tile = 0;

    for (uint32_t i = 0; i < rows; i++)
        weighing[i] = start_weighing(work->shift[row + i]);
    tile = walk(work, row, tile, rows, together, wide, precision, weighing);
    if (wide > 1)
        tile = walk(work, row, tile, rows, together, PART(wide, 2), precision, weighing);
    if (wide > 2)
        walk(work, row, tile, rows, together, PART(wide, 4), precision, weighing);
    for (uint32_t i = 0; i < rows; i++)
        work->largest[row + i] = finish_weighing(precision, &weighing[i]);
}

LANES_INLINE void bands(const struct att_weights *work, uint32_t together, uint32_t wide, enum att_precision precision)
{
    uint32_t row = 0;

    for (; row + WEIGHT_ROWS <= work->rows; row += WEIGHT_ROWS)
        band(work, row, WEIGHT_ROWS, together, wide, precision);
    for (; row + LESS_ROWS <= work->rows; row += LESS_ROWS)
        band(work, row, LESS_ROWS, LESS_TOGETHER(together), wide, precision);
    for (; row < work->rows; row++)
        band(work, row, 1, 1, 1, precision);
}

static void weights(const struct att_weights *work)
{
    if (work->precision == ATT_SINGLE)
        bands(work, F32_ROWS, F32_TILES, ATT_SINGLE);
    else if (work->precision == ATT_MIXED)
        bands(work, F64_ROWS, F64_TILES, ATT_MIXED);
    else
        bands(work, F64_ROWS, F64_TILES, ATT_DOUBLE);
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

/* Partial sums and maxima, so that the loops have no chain. |v| is compared as bits, so that NaN is larger than infinity
 * and infinity than all numbers: what is not finite comes through both ways. */
static void head(const float *key, uint32_t d, const float *value, uint32_t d_v, float ret_norm_largest[2])
{
    double square[ATT_LANES];
    float values[ATT_LANES];
    uint32_t largest[ATT_LANES], bits;
    uint32_t p = 0, j = 0;
    f64x16 squares = f64_set(0.0);
    f32x16 magnitudes = f32_set(0.0f);

    for (; p + ATT_LANES <= d; p += ATT_LANES) {
        const f64x16 x = f64_load_f32(key + p);
        squares = f64_add(squares, f64_mul(x, x));
    }
    for (; j + ATT_LANES <= d_v; j += ATT_LANES)
        magnitudes = f32_larger_bits(magnitudes, f32_load(value + j));
    f64_store(square, squares);
    f32_store(values, magnitudes);
    memcpy(largest, values, sizeof largest);
    for (; p < d; p++)
        square[0] += (double)key[p] * (double)key[p];
    for (; j < d_v; j++) {
        memcpy(&bits, value + j, sizeof bits);
        bits &= 0x7fffffffu;
        largest[0] = bits > largest[0] ? bits : largest[0];
    }
#pragma GCC unroll 4
    for (int half = 8; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int k = 0; k < half; k++) {
            square[k] += square[k + half];
            largest[k] = largest[k + half] > largest[k] ? largest[k + half] : largest[k];
        }
    ret_norm_largest[0] = (float)(sqrt(square[0]) * (1.0 + 0x1p-22));
    memcpy(&ret_norm_largest[1], &largest[0], sizeof largest[0]);
}

static void widen(const float *x, size_t count, double *ret_wide)
{
    size_t i = 0;

    for (; i + ATT_LANES <= count; i += ATT_LANES)
        f64_store(ret_wide + i, f64_load_f32(x + i));
    for (; i < count; i++)
        ret_wide[i] = (double)x[i];
}

static void multiply(const float *x, size_t count, float factor, float *ret_products)
{
    size_t i = 0;

    for (; i + ATT_LANES <= count; i += ATT_LANES)
        f32_store(ret_products + i, f32_mul(f32_load(x + i), f32_set(factor)));
    for (; i < count; i++)
        ret_products[i] = x[i] * factor;
}

static void pack_value(enum att_precision precision, float value_scale, const float *x, uint32_t count,
                       void *ret_packed)
{
    for (uint32_t column = 0; column < count; column += ATT_PANEL) {
        const uint32_t some = count - column < ATT_PANEL ? count - column : ATT_PANEL;
        if (precision == ATT_SINGLE)
            multiply(x + column, some, value_scale, (float *)ret_packed + att_packed_at(column));
        else
            widen(x + column, some, (double *)ret_packed + att_packed_at(column));
    }
}

static void pack_keys(enum att_precision precision, const float *const rows[ATT_LANES], uint32_t d, void *ret_tile)
{
    float some[ATT_LANES * ATT_LANES];

    for (uint32_t p = 0; p < d; p += ATT_LANES) {
        const uint32_t columns = d - p < ATT_LANES ? d - p : ATT_LANES;
        const size_t at = (size_t)p * ATT_LANES;
        turn(rows, p, columns, precision == ATT_SINGLE ? (float *)ret_tile + at : some);
        if (precision != ATT_SINGLE)
            widen(some, (size_t)columns * ATT_LANES, (double *)ret_tile + at);
    }
}

/* `rows` x 8 `vectors` sums in registers; both are constants after inlining. More than one vector begin with a panel. */
LANES_INLINE void product_block(const struct att_product *work, uint32_t row, uint32_t column, uint32_t rows,
                                uint32_t vectors)
{
    const double *weight = (const double *)work->weights + (size_t)row * ATT_BLOCK;
    const double *values = (const double *)work->values + att_packed_at(column);
    double *sums = work->sums + (size_t)row * work->sum_stride + column;
    const uint32_t depth = work->depth;
    f64x8 sum[PRODUCT_ROWS * PRODUCT_VECTORS > LONE_VECTORS ? PRODUCT_ROWS * PRODUCT_VECTORS : LONE_VECTORS];

#pragma GCC unroll 24
    for (uint32_t k = 0; k < rows * vectors; k++)
        sum[k] = f64x8_set(0.0);
#pragma GCC unroll 4
    for (uint32_t l = 0; l < depth; l++) {
        f64x8 x[PRODUCT_VECTORS > LONE_VECTORS ? PRODUCT_VECTORS : LONE_VECTORS];
#pragma GCC unroll 8
        for (uint32_t c = 0; c < vectors; c++)
            x[c] = f64x8_load(values + (size_t)l * ATT_PANEL + att_packed_at(8 * c));
#pragma GCC unroll 8
        for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 8
            for (uint32_t c = 0; c < vectors; c++)
                sum[i * vectors + c] =
                    f64x8_fma(f64x8_set(weight[(size_t)i * ATT_BLOCK + l]), x[c], sum[i * vectors + c]);
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (uint32_t c = 0; c < vectors; c++)
            add_vector(sums + i * work->sum_stride + 8 * c, work->sign, sum[i * vectors + c],
                       vectors > 1 ? 8 : work->columns - column);
}

/* The same in single: `rows` x 16 `vectors` sums. */
LANES_INLINE void single_block(const struct att_product *work, uint32_t row, uint32_t column, uint32_t rows,
                               uint32_t vectors)
{
    const float *weight = (const float *)work->weights + (size_t)row * ATT_BLOCK;
    const float *values = (const float *)work->values + att_packed_at(column);
    double *sums = work->sums + (size_t)row * work->sum_stride + column;
    const double factor = work->sign / (double)work->value_scale;
    f32x16 total[MOST_SUMS];

#pragma GCC unroll 24
    for (uint32_t k = 0; k < rows * vectors; k++)
        total[k] = f32_set(0.0f);
    for (uint32_t first = 0; first < work->depth; first += ATT_CHAIN) {
        const uint32_t end = work->depth - first < ATT_CHAIN ? work->depth : first + ATT_CHAIN;
        f32x16 sum[MOST_SUMS];
#pragma GCC unroll 24
        for (uint32_t k = 0; k < rows * vectors; k++)
            sum[k] = f32_set(0.0f);
#pragma GCC unroll 4
        for (uint32_t l = first; l < end; l++) {
            f32x16 x[LESS_VECTORS];
#pragma GCC unroll 4
            for (uint32_t c = 0; c < vectors; c++)
                x[c] = f32_load(values + (size_t)l * ATT_PANEL + att_packed_at(ATT_LANES * c));
#pragma GCC unroll 12
            for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 4
                for (uint32_t c = 0; c < vectors; c++)
                    sum[i * vectors + c] =
                        f32_fma(f32_set(weight[(size_t)i * ATT_BLOCK + l]), x[c], sum[i * vectors + c]);
        }
#pragma GCC unroll 24
        for (uint32_t k = 0; k < rows * vectors; k++)
            total[k] = f32_add(total[k], sum[k]);
    }
#pragma GCC unroll 12
    for (uint32_t i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (uint32_t c = 0; c < vectors; c++)
            add_single(sums + i * work->sum_stride + (size_t)ATT_LANES * c, factor, total[i * vectors + c],
                       vectors > 1 ? ATT_LANES : work->columns - column);
}

/* Rows [row, end), `rows` at a time, and the columns from `column` on, `vectors` side by side as long as they are all there, one even if
 * it is not; returns the first that is left over. All rows meet some columns before the next, so that these stay in a cache. */
LANES_INLINE uint32_t product_walk(const struct att_product *work, uint32_t row, uint32_t end, uint32_t column,
                                   uint32_t rows, uint32_t vectors, bool single)
{
    const uint32_t wide = vectors * (single ? ATT_LANES : 8);

    for (; column + (vectors > 1 ? wide : 1) <= work->columns; column += wide)
        for (uint32_t first = row; first < end; first += rows)
            if (single)
                single_block(work, first, column, rows, vectors);
            else
                product_block(work, first, column, rows, vectors);
    return column;
}

/* As many whole groups of `rows` rows as there are from `row` on; returns the first row that is left over. */
LANES_INLINE uint32_t product_rows(const struct att_product *work, uint32_t row, uint32_t rows, uint32_t vectors,
                                   bool single)
{
    const uint32_t end = row + (work->rows - row) / rows * rows;
    uint32_t column = product_walk(work, row, end, 0, rows, vectors, single);

    if (vectors > 1)
        column = product_walk(work, row, end, column, rows, PART(vectors, 2), single);
    if (vectors > 2)
        column = product_walk(work, row, end, column, rows, PART(vectors, 4), single);
    if (vectors > 4)
        product_walk(work, row, end, column, rows, PART(vectors, 8), single);
    return end;
}

static void product(const struct att_product *work)
{
    uint32_t row;

    if (work->precision == ATT_SINGLE) {
        row = product_rows(work, 0, SINGLE_ROWS, SINGLE_VECTORS, true);
        row = product_rows(work, row, LESS_ROWS, LESS_VECTORS, true);
        product_rows(work, row, 1, LESS_VECTORS, true);
    } else {
        row = product_rows(work, 0, PRODUCT_ROWS, PRODUCT_VECTORS, false);
        row = product_rows(work, row, LESS_ROWS, PRODUCT_VECTORS, false);
        product_rows(work, row, 1, LONE_VECTORS, false);
    }
}

/* `rows` rows side by side, a constant after inlining. */
LANES_INLINE void heads_block(const double *weights, uint32_t rows, uint32_t tiles, const float *heads,
                              double *ret_sums)
{
    f64x8 sum[HEADS_ROWS * 4];

#pragma GCC unroll 24
    for (uint32_t k = 0; k < rows * 4; k++)
        sum[k] = f64x8_set(0.0);
    for (uint32_t tile = 0; tile < tiles; tile++)
#pragma GCC unroll 2
        for (size_t half = 0; half < ATT_LANES; half += 8) {
            const float *head = heads + (size_t)tile * 2 * ATT_LANES + half;
            const f64x8 v = f64x8_widen(head), g = f64x8_widen(head + ATT_LANES);
            const f64x8 column[] = {v, g, f64x8_mul(v, g)};
#pragma GCC unroll 6
            for (uint32_t i = 0; i < rows; i++) {
                const f64x8 w = f64x8_load(weights + (size_t)i * ATT_BLOCK + (size_t)tile * ATT_LANES + half);
                sum[i * 4] = f64x8_add(sum[i * 4], w);
#pragma GCC unroll 3
                for (uint32_t c = 1; c < 4; c++)
                    sum[i * 4 + c] = f64x8_fma(w, column[c - 1], sum[i * 4 + c]);
            }
        }
#pragma GCC unroll 6
    for (uint32_t i = 0; i < rows; i++)
        f64x8_sum4(sum + (size_t)i * 4, ret_sums + (size_t)i * 4);
}

/* The same in single: one chain in each lane. */
LANES_INLINE void heads_single(const float *weights, uint32_t rows, uint32_t tiles, const float *heads,
                               float value_scale, double *ret_sums)
{
    const double factor = 1.0 / (double)value_scale;
    f32x16 sum[HEADS_ROWS * 4];

#pragma GCC unroll 24
    for (uint32_t k = 0; k < rows * 4; k++)
        sum[k] = f32_set(0.0f);
    for (uint32_t tile = 0; tile < tiles; tile++) {
        const f32x16 v = f32_load(heads + (size_t)tile * 2 * ATT_LANES);
        const f32x16 g = f32_load(heads + (size_t)tile * 2 * ATT_LANES + ATT_LANES);
        const f32x16 column[] = {v, g, f32_mul(v, g)};
#pragma GCC unroll 6
        for (uint32_t i = 0; i < rows; i++) {
            const f32x16 w = f32_load(weights + (size_t)i * ATT_BLOCK + (size_t)tile * ATT_LANES);
            sum[i * 4] = f32_add(sum[i * 4], w);
#pragma GCC unroll 3
            for (uint32_t c = 1; c < 4; c++)
                sum[i * 4 + c] = f32_fma(w, column[c - 1], sum[i * 4 + c]);
        }
    }
#pragma GCC unroll 6
    for (uint32_t i = 0; i < rows; i++) {
        f32_sum4(sum + (size_t)i * 4, ret_sums + (size_t)i * 4);
        ret_sums[i * 4 + 1] *= factor;
        ret_sums[i * 4 + 3] *= factor;
    }
}

LANES_INLINE void heads_of(const struct att_head_sums *work, uint32_t row, uint32_t rows)
{
    const size_t at = (size_t)row * ATT_BLOCK;
    double *sums = work->sums + (size_t)row * 4;

    if (work->precision == ATT_SINGLE)
        heads_single((const float *)work->weights + at, rows, work->tiles, work->heads, work->value_scale, sums);
    else
        heads_block((const double *)work->weights + at, rows, work->tiles, work->heads, sums);
}

static void head_sums(const struct att_head_sums *work)
{
    uint32_t row = 0;

    for (; row + HEADS_ROWS <= work->rows; row += HEADS_ROWS)
        heads_of(work, row, HEADS_ROWS);
    for (; row + LESS_HEADS <= work->rows; row += LESS_HEADS)
        heads_of(work, row, LESS_HEADS);
    for (; row < work->rows; row++)
        heads_of(work, row, 1);
}

const struct att_kernel KERNEL_JOIN(, KERNEL_ISA) = {KERNEL_QUOTE(KERNEL_ISA),
                                                     head,
                                                     pack_keys,
                                                     pack_value,
                                                     scale_q,
                                                     weights,
                                                     KERNEL_JOIN(few_weights_, KERNEL_ISA),
                                                     KERNEL_JOIN(read_, KERNEL_ISA),
                                                     KERNEL_JOIN(sums_, KERNEL_ISA),
                                                     KERNEL_JOIN(row_sums_, KERNEL_ISA),
                                                     product,
                                                     KERNEL_JOIN(few_product_, KERNEL_ISA),
                                                     head_sums};
