/* What the weights that a query has come to add up to over columns of values. Compiled once for each kernel. */
#include "kernel_row.h"

/* Columns of values that share a weight. */
enum { SUMS_TOGETHER = 4 };

/* `together` columns side by side, for one would wait for itself; together is a constant after inlining. */
LANES_INLINE void sum_columns(const double *weight, uint32_t tiles, const float *values, size_t columns,
                              uint32_t together, double *ret_sums)
{
    f64x8 sum[SUMS_TOGETHER];

#pragma GCC unroll 4
    for (uint32_t c = 0; c < together; c++)
        sum[c] = f64x8_set(0.0);
    for (uint32_t tile = 0; tile < tiles; tile++)
#pragma GCC unroll 2
        for (size_t lane = 0; lane < ATT_LANES; lane += 8) {
            const f64x8 w = f64x8_load(weight + (size_t)tile * ATT_LANES + lane);
            const float *x = values + (size_t)tile * columns * ATT_LANES + lane;
#pragma GCC unroll 4
            for (uint32_t c = 0; c < together; c++)
                sum[c] = f64x8_fma(w, f64x8_widen(x + (size_t)c * ATT_LANES), sum[c]);
        }
#pragma GCC unroll 4
    for (uint32_t c = 0; c < together; c++)
        ret_sums[c] = f64x8_sum(sum[c]);
}

LANES_INLINE void sum_single(const struct att_weights *work, const float *values, size_t columns, uint32_t together,
                             double *ret_sums)
{
    const f32x16 scale = f32_set(work->value_scale);
    const double factor = 1.0 / (double)work->value_scale;
    f32x16 sum[SUMS_TOGETHER];

#pragma GCC unroll 4
    for (uint32_t c = 0; c < together; c++)
        ret_sums[c] = 0.0;
    for (uint32_t tile = 0; tile < work->tiles;) {
        const uint32_t left = work->tiles - tile, end = tile + (left < ATT_READ_CHAIN ? left : ATT_READ_CHAIN);
#pragma GCC unroll 4
        for (uint32_t c = 0; c < together; c++)
            sum[c] = f32_set(0.0f);
        for (; tile < end; tile++) {
            const f32x16 w = f32_load((const float *)work->weights + (size_t)tile * ATT_LANES);
            const float *x = values + (size_t)tile * columns * ATT_LANES;
#pragma GCC unroll 4
            for (uint32_t c = 0; c < together; c++)
                sum[c] = f32_fma(w, f32_mul(f32_load(x + (size_t)c * ATT_LANES), scale), sum[c]);
        }
#pragma GCC unroll 4
        for (uint32_t c = 0; c < together; c++)
            ret_sums[c] += f32_sum(sum[c]) * factor;
    }
}

LANES_INLINE void sums_of(const struct att_weights *work, bool single, const float *values, uint32_t columns,
                          uint32_t together, double *ret_sums)
{
    if (single)
        sum_single(work, values, columns, together, ret_sums);
    else
        sum_columns(work->weights, work->tiles, values, columns, together, ret_sums);
}

void KERNEL_JOIN(sums_, KERNEL_ISA)(const struct att_weights *work, const float *values, uint32_t columns,
                                    uint32_t first, uint32_t count, double *ret_sums)
{
    const bool single = work->precision == ATT_SINGLE;
    uint32_t done = 0;

    values += (size_t)first * ATT_LANES;
    for (; done + SUMS_TOGETHER <= count; done += SUMS_TOGETHER)
        sums_of(work, single, values + (size_t)done * ATT_LANES, columns, SUMS_TOGETHER, ret_sums + done);
    for (; done < count; done++)
        sums_of(work, single, values + (size_t)done * ATT_LANES, columns, 1, ret_sums + done);
}

/* The same of one tile that comes as rows: columns side by side instead of lanes, with the same additions in the same order. Rows
 * without a weight, which would add 0, are not read. */
LANES_INLINE void rows_f64(const double *weight, const float *const rows[ATT_LANES], size_t column, double *ret_sums)
{
    f64x8 sum[8];

#pragma GCC unroll 8
    for (size_t k = 0; k < 8; k++)
        sum[k] = f64x8_set(0.0);
#pragma GCC unroll 16
    for (size_t lane = 0; lane < ATT_LANES; lane++)
        if (weight[lane] != 0.0)
            sum[lane % 8] = f64x8_fma(f64x8_set(weight[lane]), f64x8_widen(rows[lane] + column), sum[lane % 8]);
#pragma GCC unroll 3
    for (size_t half = 4; half > 0; half /= 2)
#pragma GCC unroll 4
        for (size_t k = 0; k < half; k++)
            sum[k] = f64x8_add(sum[k], sum[k + half]);
    f64x8_store(ret_sums, sum[0]);
}

LANES_INLINE void rows_f32(const float *weight, float value_scale, const float *const rows[ATT_LANES], size_t column,
                           double *ret_sums)
{
    f32x16 sum[ATT_LANES];
    f64x16 wide[4];

#pragma GCC unroll 16
    for (size_t lane = 0; lane < ATT_LANES; lane++) {
        sum[lane] = f32_set(0.0f);
        if (weight[lane] != 0.0f)
            sum[lane] =
                f32_fma(f32_set(weight[lane]), f32_mul(f32_load(rows[lane] + column), f32_set(value_scale)), sum[lane]);
    }
#pragma GCC unroll 2
    for (size_t half = 8; half > 2; half /= 2)
#pragma GCC unroll 8
        for (size_t k = 0; k < half; k++)
            sum[k] = f32_add(sum[k], sum[k + half]);
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; k++)
        wide[k] = f64_widen(sum[k]);
    wide[0] = f64_add(f64_add(wide[0], wide[2]), f64_add(wide[1], wide[3]));
    f64_store(ret_sums, f64_fma(wide[0], f64_set(1.0 / (double)value_scale), f64_set(0.0)));
}

enum { ROW_COLUMNS = 16 };

LANES_INLINE void rows_block(const struct att_weights *work, const float *const rows[ATT_LANES], size_t column,
                             double ret_sums[ROW_COLUMNS])
{
    if (work->precision == ATT_SINGLE) {
        rows_f32(work->weights, work->value_scale, rows, column, ret_sums);
        return;
    }
    rows_f64(work->weights, rows, column, ret_sums);
    rows_f64(work->weights, rows, column + 8, ret_sums + 8);
}

void KERNEL_JOIN(row_sums_, KERNEL_ISA)(const struct att_weights *work, const float *const rows[ATT_LANES],
                                        uint32_t count, double *ret_sums)
{
    float rest[ATT_LANES][ROW_COLUMNS] = {{0}};
    const float *rest_rows[ATT_LANES];
    double sums[ROW_COLUMNS];
    uint32_t done = 0;

    for (; done + ROW_COLUMNS <= count; done += ROW_COLUMNS)
        rows_block(work, rows, done, ret_sums + done);
    if (done == count)
        return;
    for (size_t lane = 0; lane < ATT_LANES; lane++)
        rest_rows[lane] = memcpy(rest[lane], rows[lane] + done, sizeof(float) * (count - done));
    rows_block(work, rest_rows, 0, sums);
    memcpy(ret_sums + done, sums, sizeof *sums * (count - done));
}
