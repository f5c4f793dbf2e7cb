/* Turning 16 rows into lanes, for AVX2 and AVX-512, in 256-bit registers for both: measured as fast as in wider ones. */
#ifndef ATT_LANES_TURN_H
#define ATT_LANES_TURN_H

#include <stddef.h>

LANES_INLINE __m256 lanes_two(const float *low, const float *high)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}

/* Four columns of eight rows: rows i and i + 4 side by side, then two rounds of exchanging blocks of 1 and 2. */
LANES_INLINE void lanes_turn4(const float *const rows[8], size_t offset, float *to)
{
    __m256 a[4], b[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        a[i] = lanes_two(rows[i] + offset, rows[i + 4] + offset);
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        const __m256d low = _mm256_castps_pd(b[j]), high = _mm256_castps_pd(b[j + 2]);
        _mm256_storeu_ps(to + (size_t)(2 * j) * ATT_LANES, _mm256_castpd_ps(_mm256_unpacklo_pd(low, high)));
        _mm256_storeu_ps(to + (size_t)(2 * j + 1) * ATT_LANES, _mm256_castpd_ps(_mm256_unpackhi_pd(low, high)));
    }
}

/* to[p][lane] = rows[lane][offset + p] for 16 columns p. */
LANES_INLINE void lanes_transpose(const float *const rows[ATT_LANES], size_t offset, float *to)
{
#pragma GCC unroll 2
    for (int half = 0; half < ATT_LANES; half += 8)
#pragma GCC unroll 4
        for (size_t p = 0; p < ATT_LANES; p += 4)
            lanes_turn4(rows + half, offset + p, to + p * ATT_LANES + half);
}

#endif
