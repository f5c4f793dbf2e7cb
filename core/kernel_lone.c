/* Weights of few rows against keys that lie as rows: a read of a cold row. Turning the keys and scoring them in one pass
 * costs less than turning them first, as long as hardly any rows share that; and the next keys are fetched meanwhile.
 *
 * Columns 2u and 2u + 1 of a key are a unit: they belong to its two chains. Units are turned, so that a register holds the
 * same unit of eight keys, and both chains advance side by side. Only in 512-bit registers, where it was measured. */
#include "kernel_scores.h"

#include <math.h>
#include <string.h>

#if defined(KERNEL_LONE)

enum { UNITS = ATT_LANES / CHAINS, KEYS = 8, AHEAD_TILES = 3 };

/* ret[u]: the unit of eight keys that begins at column first + 2 u; of the keys 0 1 4 5 2 3 6 7. */
LANES_INLINE void turn_units(const float *const *rows, size_t first, __m512d ret[UNITS])
{
    __m512d half[2][4], pair[2][4];

#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++)
            half[h][i] =
                _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_castps_pd(_mm256_loadu_ps(rows[i] + first + 8 * h))),
                                   _mm256_castps_pd(_mm256_loadu_ps(rows[i + 4] + first + 8 * h)), 1);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
#pragma GCC unroll 2
        for (int i = 0; i < 4; i += 2) {
            pair[h][i] = _mm512_unpacklo_pd(half[h][i], half[h][i + 1]);
            pair[h][i + 1] = _mm512_unpackhi_pd(half[h][i], half[h][i + 1]);
        }
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
            ret[4 * h + odd] = _mm512_shuffle_f64x2(pair[h][odd], pair[h][2 + odd], 0x88);
            ret[4 * h + 2 + odd] = _mm512_shuffle_f64x2(pair[h][odd], pair[h][2 + odd], 0xdd);
        }
    }
}

/* sum[g][h] += q k over sixteen columns: h is which half of the units of keys 8 g .. 8 g + 7. Widened by way of memory: a
 * register's upper half would take a shuffle more. */
LANES_INLINE void step_units_f64(__m512d sum[2][2], const double *q, const float *const *rows, size_t first)
{
    __m512d units[2][UNITS];

#pragma GCC unroll 2
    for (int g = 0; g < 2; g++)
        turn_units(rows + g * KEYS, first, units[g]);
    __asm__("" : "+m"(units)); /* it is in memory now */
#pragma GCC unroll 8
    for (int u = 0; u < UNITS; u++) {
        const __m512d x = _mm512_castps_pd(_mm512_broadcast_f32x4(_mm_castpd_ps(_mm_loadu_pd(q + 2 * u))));
#pragma GCC unroll 2
        for (int g = 0; g < 2; g++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
                sum[g][h] = _mm512_fmadd_pd(x, f64x8_widen((const float *)&units[g][u] + 8 * h), sum[g][h]);
    }
}

LANES_INLINE void step_units_f32(__m512 sum[2], const float *q, const float *const *rows, size_t first)
{
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
        __m512d units[UNITS];
        turn_units(rows + g * KEYS, first, units);
#pragma GCC unroll 8
        for (int u = 0; u < UNITS; u++) {
            double unit;
            memcpy(&unit, q + 2 * u, sizeof unit);
            sum[g] = _mm512_fmadd_ps(_mm512_castpd_ps(_mm512_set1_pd(unit)), _mm512_castpd_ps(units[u]), sum[g]);
        }
    }
}

/* Chain 0 of a tile begins at the bias, chain 1 at 0; the scores are their sums. */
LANES_INLINE void begin_f64(__m512d sum[2][2], const float *bias)
{
    const __m512i low = _mm512_setr_epi64(0, 0, 1, 1, 4, 4, 5, 5), high = _mm512_setr_epi64(2, 2, 3, 3, 6, 6, 7, 7);
    const f64x16 start = start_f64(bias);

    sum[0][0] = _mm512_maskz_permutexvar_pd(0x55, low, start.lo);
    sum[0][1] = _mm512_maskz_permutexvar_pd(0x55, high, start.lo);
    sum[1][0] = _mm512_maskz_permutexvar_pd(0x55, low, start.hi);
    sum[1][1] = _mm512_maskz_permutexvar_pd(0x55, high, start.hi);
}

LANES_INLINE __m512d end_f64(const __m512d sum[2])
{
    const __m512i chain = _mm512_setr_epi64(0, 2, 8, 10, 4, 6, 12, 14);

    return _mm512_add_pd(_mm512_permutex2var_pd(sum[0], chain, sum[1]),
                         _mm512_permutex2var_pd(sum[0], _mm512_add_epi64(chain, _mm512_set1_epi64(1)), sum[1]));
}

LANES_INLINE void begin_f32(__m512 sum[2], const float *bias)
{
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 4, 4, 5, 5, 2, 2, 3, 3, 6, 6, 7, 7);
    const f32x16 start = start_f32(bias);

    sum[0] = _mm512_maskz_permutexvar_ps(0x5555, low, start);
    sum[1] = _mm512_maskz_permutexvar_ps(0x5555, _mm512_add_epi32(low, _mm512_set1_epi32(KEYS)), start);
}

LANES_INLINE f32x16 end_f32(const __m512 sum[2])
{
    const __m512i chain = _mm512_setr_epi32(0, 2, 8, 10, 4, 6, 12, 14, 16, 18, 24, 26, 20, 22, 28, 30);

    return _mm512_add_ps(_mm512_permutex2var_ps(sum[0], chain, sum[1]),
                         _mm512_permutex2var_ps(sum[0], _mm512_add_epi32(chain, _mm512_set1_epi32(1)), sum[1]));
}

/* The last columns of a tile, filled up with zeros, which add nothing to a chain. */
struct rest {
    float keys[ATT_LANES][ATT_LANES];
    const float *rows[ATT_LANES];
    double q[ATT_LANES]; /* or floats */
};

static void take_rest(const struct att_weights *work, const float *const *rows, const char *q, size_t width,
                      struct rest *ret)
{
    const size_t first = work->d / ATT_LANES * ATT_LANES, columns = work->d - first;

    memset(ret, 0, sizeof *ret);
    for (size_t lane = 0; lane < ATT_LANES; lane++) {
        memcpy(ret->keys[lane], rows[lane] + first, columns * sizeof(float));
        ret->rows[lane] = ret->keys[lane];
    }
    memcpy(ret->q, q + width * first, width * columns);
}

/* The keys some tiles further on, if they lie one behind the other; else something is fetched for nothing. */
LANES_INLINE void fetch_keys(const float *const *rows, size_t at, size_t d)
{
#pragma GCC unroll 16
    for (size_t lane = 0; lane < ATT_LANES; lane++)
        __builtin_prefetch(rows[lane] + at + AHEAD_TILES * ATT_LANES * d);
}

/* The scores of a tile, as doubles. */
LANES_INLINE f64x16 score_rows(const struct att_weights *work, const char *q, uint32_t tile, bool single)
{
    const float *const *rows = work->key_rows + (size_t)tile * ATT_LANES, *bias = work->bias + (size_t)tile * ATT_LANES;
    const size_t width = single ? sizeof(float) : sizeof(double), whole = work->d / ATT_LANES * ATT_LANES;
    struct rest rest;
    __m512d sum[2][2];
    __m512 sum32[2];

    if (single)
        begin_f32(sum32, bias);
    else
        begin_f64(sum, bias);
    for (size_t p = 0; p < whole; p += ATT_LANES) {
        fetch_keys(rows, p, work->d);
        if (single)
            step_units_f32(sum32, (const float *)q + p, rows, p);
        else
            step_units_f64(sum, (const double *)q + p, rows, p);
    }
    if (whole < work->d) {
        take_rest(work, rows, q, width, &rest);
        if (single)
            step_units_f32(sum32, (const float *)rest.q, rest.rows, 0);
        else
            step_units_f64(sum, rest.q, rest.rows, 0);
    }
    return single ? f64_widen(end_f32(sum32)) : (f64x16){end_f64(sum[0]), end_f64(sum[1])};
}

LANES_INLINE void weigh_lone(const struct att_weights *work, enum att_precision precision)
{
    const size_t width = precision == ATT_SINGLE ? sizeof(float) : sizeof(double);

    for (uint32_t row = 0; row < work->rows; row++) {
        const char *q = (const char *)work->q + width * work->d * row;
        f64x8 largest = f64x8_set(ATT_MASKED);
        for (uint32_t tile = 0; tile < work->tiles; tile++)
            f64_store(work->weights + work->stride * row + (size_t)tile * ATT_LANES,
                      weigh(precision, EIGHTHS - work->shift[row], score_rows(work, q, tile, precision == ATT_SINGLE),
                            &largest));
        work->largest[row] = rint(f64x8_largest(largest));
    }
}

void KERNEL_LONE_WEIGHTS(const struct att_weights *work)
{
    if (work->precision == ATT_SINGLE)
        weigh_lone(work, ATT_SINGLE);
    else if (work->precision == ATT_MIXED)
        weigh_lone(work, ATT_MIXED);
    else
        weigh_lone(work, ATT_DOUBLE);
}

#endif
