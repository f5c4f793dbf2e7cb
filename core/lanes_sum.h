/* The eight lanes of a sum added up, for AVX2 and AVX-512: lanes_fold (lanes i and i + 4) is theirs. */
#ifndef ATT_LANES_SUM_H
#define ATT_LANES_SUM_H

/* Lane i + 4 is added to lane i, then i + 2 to i, then 1 to 0: this order, everywhere. */
LANES_INLINE double f64x8_sum(f64x8 a)
{
    const __m256d four = lanes_fold(a);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

/* f64x8_sum of four, together. */
LANES_INLINE void f64x8_sum4(const f64x8 a[4], double ret[4])
{
    __m256d two[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m256d x = lanes_fold(a[2 * i]), y = lanes_fold(a[2 * i + 1]);
        two[i] = _mm256_add_pd(_mm256_permute2f128_pd(x, y, 0x20), _mm256_permute2f128_pd(x, y, 0x31));
    }
    _mm256_storeu_pd(ret, _mm256_permute4x64_pd(_mm256_hadd_pd(two[0], two[1]), 0xd8));
}

#endif
