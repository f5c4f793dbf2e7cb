/* The lanes of a sum added up, for AVX2 and AVX-512: lanes_fold (lanes i and i + 4), and lanes_fold_single (lanes i and i + 8)
 * are theirs. */
#ifndef ATT_LANES_SUM_H
#define ATT_LANES_SUM_H

/* Lane i + 4 is added to lane i, then i + 2 to i, then 1 to 0: this order, everywhere. */
LANES_INLINE double lanes_sum(__m256d four)
{
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

/* lanes_sum of four, together. */
LANES_INLINE void lanes_sum4(const __m256d four[4], double ret[4])
{
    __m256d two[2];
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2)
        two[i / 2] = _mm256_add_pd(_mm256_permute2f128_pd(four[i], four[i + 1], 0x20),
                                   _mm256_permute2f128_pd(four[i], four[i + 1], 0x31));
    _mm256_storeu_pd(ret, _mm256_permute4x64_pd(_mm256_hadd_pd(two[0], two[1]), 0xd8));
}

LANES_INLINE double f64x8_sum(f64x8 a)
{
    return lanes_sum(lanes_fold(a));
}
LANES_INLINE void f64x8_sum4(const f64x8 a[4], double ret[4])
{
    const __m256d four[4] = {lanes_fold(a[0]), lanes_fold(a[1]), lanes_fold(a[2]), lanes_fold(a[3])};
    lanes_sum4(four, ret);
}

/* Of floats: lanes i + 8 and i, then i + 4 and i, in float32; the rest in float64. */
LANES_INLINE __m256d lanes_four(f32x16 a)
{
    const __m256 eight = lanes_fold_single(a);
    return _mm256_cvtps_pd(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}
LANES_INLINE double f32_sum(f32x16 a)
{
    return lanes_sum(lanes_four(a));
}
LANES_INLINE void f32_sum4(const f32x16 a[4], double ret[4])
{
    const __m256d four[4] = {lanes_four(a[0]), lanes_four(a[1]), lanes_four(a[2]), lanes_four(a[3])};
    lanes_sum4(four, ret);
}

#endif
