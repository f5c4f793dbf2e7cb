/* Scores of eight keys that lie as rows. A row's two chains lie side by side, as its columns do, so nothing is turned.
 *
 * t[i] begins chain 0 of row i, and is its score in the end. Not inlined: then the eight pointers stay in registers. */
#ifndef ATT_LANES_ROWS_H
#define ATT_LANES_ROWS_H

#include "lanes.h"

#if defined(__AVX2__)
#include <immintrin.h>

/* Four columns of rows 0 and 2, or 1 and 3, of `rows`. */
LANES_INLINE __m256d rows_step_f64(const float *const rows[3], size_t p, const double *q, __m256d sum)
{
    const __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(rows[0] + p)), b = _mm256_cvtps_pd(_mm_loadu_ps(rows[2] + p));
    const void *two = q, *next_two = q + 2; /* they need no alignment */
    const __m256d first = _mm256_broadcast_pd(two), second = _mm256_broadcast_pd(next_two);

    sum = _mm256_fmadd_pd(first, _mm256_permute2f128_pd(a, b, 0x20), sum);
    return _mm256_fmadd_pd(second, _mm256_permute2f128_pd(a, b, 0x31), sum);
}

/* Four columns of rows 0, 1, 4 and 5, or 2, 3, 6 and 7. */
LANES_INLINE __m256 rows_step_f32(const float *const rows[6], size_t p, const float *q, __m256 sum)
{
    const __m256d a = _mm256_castps_pd(lanes_two(rows[0] + p, rows[4] + p));
    const __m256d b = _mm256_castps_pd(lanes_two(rows[1] + p, rows[5] + p));
    const __m256d four = _mm256_castps_pd(lanes_two(q, q));

    sum = _mm256_fmadd_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(four, four)), _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                          sum);
    return _mm256_fmadd_ps(_mm256_castpd_ps(_mm256_unpackhi_pd(four, four)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)),
                           sum);
}

/* The last columns, filled up with zeros to four. */
LANES_INLINE void rows_rest(const float *const rows[8], size_t p, size_t d, float ret_rest[8][4],
                            const float *ret_rows[8])
{
    for (size_t i = 0; i < 8; i++) {
        memset(ret_rest[i], 0, sizeof ret_rest[i]);
        memcpy(ret_rest[i], rows[i] + p, sizeof(float) * (d - p));
        ret_rows[i] = ret_rest[i];
    }
}

static __attribute__((noinline)) void score_rows_f64(const float *const rows[8], const double *q, size_t d, double t[8])
{
    __m256d sum[4];
    size_t p = 0;

#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i += 2) {
        const __m256d start = _mm256_loadu_pd(t + 2 * i);
        sum[i] = _mm256_unpacklo_pd(start, _mm256_setzero_pd());
        sum[i + 1] = _mm256_unpackhi_pd(start, _mm256_setzero_pd());
    }
    for (; p + 4 <= d; p += 4)
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            sum[i] = rows_step_f64(rows + 4 * (i / 2) + i % 2, p, q + p, sum[i]);
    if (p < d) {
        const float *rest_rows[8];
        float rest[8][4];
        double rest_q[4] = {0};
        rows_rest(rows, p, d, rest, rest_rows);
        memcpy(rest_q, q + p, sizeof *q * (d - p));
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            sum[i] = rows_step_f64(rest_rows + 4 * (i / 2) + i % 2, 0, rest_q, sum[i]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i += 2)
        _mm256_storeu_pd(t + 2 * i, _mm256_hadd_pd(sum[i], sum[i + 1]));
}

static __attribute__((noinline)) void score_rows_f32(const float *const rows[8], const float *q, size_t d, float t[8])
{
    const __m256 start = _mm256_loadu_ps(t);
    __m256 low = _mm256_unpacklo_ps(start, _mm256_setzero_ps()), high = _mm256_unpackhi_ps(start, _mm256_setzero_ps());
    size_t p = 0;

    for (; p + 4 <= d; p += 4) {
        low = rows_step_f32(rows, p, q + p, low);
        high = rows_step_f32(rows + 2, p, q + p, high);
    }
    if (p < d) {
        const float *rest_rows[8];
        float rest[8][4], rest_q[4] = {0};
        rows_rest(rows, p, d, rest, rest_rows);
        memcpy(rest_q, q + p, sizeof *q * (d - p));
        low = rows_step_f32(rest_rows, 0, rest_q, low);
        high = rows_step_f32(rest_rows + 2, 0, rest_q, high);
    }
    _mm256_storeu_ps(t, _mm256_hadd_ps(low, high));
}
#else
static void score_rows_f64(const float *const rows[8], const double *q, size_t d, double t[8])
{
    for (size_t i = 0; i < 8; i++) {
        double sum[2] = {t[i], 0.0};
        for (size_t p = 0; p < d; p++)
            sum[p % 2] = fma(q[p], (double)rows[i][p], sum[p % 2]);
        t[i] = sum[0] + sum[1];
    }
}

static void score_rows_f32(const float *const rows[8], const float *q, size_t d, float t[8])
{
    for (size_t i = 0; i < 8; i++) {
        float sum[2] = {t[i], 0.0f};
        for (size_t p = 0; p < d; p++)
            sum[p % 2] = fmaf(q[p], rows[i][p], sum[p % 2]);
        t[i] = sum[0] + sum[1];
    }
}
#endif

#endif
