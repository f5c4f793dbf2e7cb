/* lanes.h for AVX2 with FMA, in 256-bit registers; with AVX-512VL there are 32 of them. */
#ifndef ATT_LANES_AVX2_H
#define ATT_LANES_AVX2_H

#include <immintrin.h>

typedef struct {
    __m256 v[2];
} f32x16;
typedef struct {
    __m256d v[4];
} f64x16;

#define EACH2(expression)          \
    ((f32x16){{({                  \
                   enum { k = 0 }; \
                   expression;     \
               }),                 \
               ({                  \
                   enum { k = 1 }; \
                   expression;     \
               })}})
#define EACH4(expression)          \
    ((f64x16){{({                  \
                   enum { k = 0 }; \
                   expression;     \
               }),                 \
               ({                  \
                   enum { k = 1 }; \
                   expression;     \
               }),                 \
               ({                  \
                   enum { k = 2 }; \
                   expression;     \
               }),                 \
               ({                  \
                   enum { k = 3 }; \
                   expression;     \
               })}})

LANES_INLINE f32x16 f32_load(const float *p)
{
    return EACH2(_mm256_loadu_ps(p + 8 * k));
}
LANES_INLINE void f32_store(float *p, f32x16 a)
{
    _mm256_storeu_ps(p, a.v[0]);
    _mm256_storeu_ps(p + 8, a.v[1]);
}
LANES_INLINE f32x16 f32_set(float x)
{
    return EACH2(_mm256_set1_ps(x));
}
LANES_INLINE f32x16 f32_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return EACH2(_mm256_fmadd_ps(a.v[k], b.v[k], c.v[k]));
}
LANES_INLINE f32x16 f32_add(f32x16 a, f32x16 b)
{
    return EACH2(_mm256_add_ps(a.v[k], b.v[k]));
}
LANES_INLINE f32x16 f32_sub(f32x16 a, f32x16 b)
{
    return EACH2(_mm256_sub_ps(a.v[k], b.v[k]));
}
LANES_INLINE f32x16 f32_mul(f32x16 a, f32x16 b)
{
    return EACH2(_mm256_mul_ps(a.v[k], b.v[k]));
}
LANES_INLINE f32x16 f32_max(f32x16 a, f32x16 b)
{
    return EACH2(_mm256_max_ps(a.v[k], b.v[k]));
}
LANES_INLINE f32x16 f32_larger_bits(f32x16 a, f32x16 b)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    return EACH2(_mm256_castsi256_ps(
        _mm256_max_epu32(_mm256_castps_si256(a.v[k]), _mm256_and_si256(_mm256_castps_si256(b.v[k]), magnitude))));
}
LANES_INLINE f64x16 f64_widen(f32x16 a)
{
    return (f64x16){{_mm256_cvtps_pd(_mm256_castps256_ps128(a.v[0])), _mm256_cvtps_pd(_mm256_extractf128_ps(a.v[0], 1)),
                     _mm256_cvtps_pd(_mm256_castps256_ps128(a.v[1])),
                     _mm256_cvtps_pd(_mm256_extractf128_ps(a.v[1], 1))}};
}
LANES_INLINE f64x16 f64_load_f32(const float *p)
{
    return EACH4(_mm256_cvtps_pd(_mm_loadu_ps(p + 4 * k)));
}
LANES_INLINE f64x16 f64_load(const double *p)
{
    return EACH4(_mm256_loadu_pd(p + 4 * k));
}
LANES_INLINE void f64_store(double *p, f64x16 a)
{
    _mm256_storeu_pd(p, a.v[0]);
    _mm256_storeu_pd(p + 4, a.v[1]);
    _mm256_storeu_pd(p + 8, a.v[2]);
    _mm256_storeu_pd(p + 12, a.v[3]);
}
LANES_INLINE f64x16 f64_set(double x)
{
    return EACH4(_mm256_set1_pd(x));
}
LANES_INLINE f64x16 f64_fma(f64x16 a, f64x16 b, f64x16 c)
{
    return EACH4(_mm256_fmadd_pd(a.v[k], b.v[k], c.v[k]));
}
LANES_INLINE f64x16 f64_add(f64x16 a, f64x16 b)
{
    return EACH4(_mm256_add_pd(a.v[k], b.v[k]));
}
LANES_INLINE f64x16 f64_sub(f64x16 a, f64x16 b)
{
    return EACH4(_mm256_sub_pd(a.v[k], b.v[k]));
}
LANES_INLINE f64x16 f64_mul(f64x16 a, f64x16 b)
{
    return EACH4(_mm256_mul_pd(a.v[k], b.v[k]));
}
LANES_INLINE f64x16 f64_max(f64x16 a, f64x16 b)
{
    return EACH4(_mm256_max_pd(a.v[k], b.v[k]));
}
#if defined(__AVX512VL__)
LANES_INLINE __m256d lanes_power(__m256d z, const double table[8])
{
    const __m256i low = _mm256_castpd_si256(_mm256_loadu_pd(table)), bits = _mm256_castpd_si256(z);
    const __m256i high = _mm256_castpd_si256(_mm256_loadu_pd(table + 4));
    const __m256i entry = _mm256_permutex2var_epi64(low, bits, high);
    return _mm256_castsi256_pd(_mm256_add_epi64(entry, _mm256_slli_epi64(bits, 49)));
}
LANES_INLINE __m256d lanes_fma_from(__m256d z, double least, __m256d a, __m256d b, __m256d c)
{
    return _mm256_maskz_fmadd_pd(_mm256_cmp_pd_mask(z, _mm256_set1_pd(least), _CMP_GE_OQ), a, b, c);
}
LANES_INLINE __m256 lanes_fma_from_single(__m256 z, float least, __m256 a, __m256 b, __m256 c)
{
    return _mm256_maskz_fmadd_ps(_mm256_cmp_ps_mask(z, _mm256_set1_ps(least), _CMP_GE_OQ), a, b, c);
}
#else
/* A gather takes longer: its words are looked up by themselves. */
LANES_INLINE __m256d lanes_power(__m256d z, const double table[8])
{
    const __m256 first = _mm256_castpd_ps(_mm256_loadu_pd(table)), last = _mm256_castpd_ps(_mm256_loadu_pd(table + 4));
    const __m256 low = __builtin_shufflevector(first, last, 0, 2, 4, 6, 8, 10, 12, 14);
    const __m256 high = __builtin_shufflevector(first, last, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i bits = _mm256_castpd_si256(z);
    const __m256i low_word = _mm256_castps_si256(_mm256_permutevar8x32_ps(low, bits));
    const __m256i high_word = _mm256_castps_si256(_mm256_permutevar8x32_ps(high, bits));
    const __m256i power = _mm256_add_epi32(high_word, _mm256_slli_epi32(bits, 17));
    return _mm256_castsi256_pd(_mm256_blend_epi32(low_word, _mm256_slli_epi64(power, 32), 0xaa));
}
LANES_INLINE __m256d lanes_fma_from(__m256d z, double least, __m256d a, __m256d b, __m256d c)
{
    return _mm256_and_pd(_mm256_cmp_pd(z, _mm256_set1_pd(least), _CMP_GE_OQ), _mm256_fmadd_pd(a, b, c));
}
LANES_INLINE __m256 lanes_fma_from_single(__m256 z, float least, __m256 a, __m256 b, __m256 c)
{
    return _mm256_and_ps(_mm256_cmp_ps(z, _mm256_set1_ps(least), _CMP_GE_OQ), _mm256_fmadd_ps(a, b, c));
}
#endif
LANES_INLINE __m256 lanes_power_single(__m256 z, const float table[8])
{
    const __m256i bits = _mm256_castps_si256(z);
    const __m256i entry = _mm256_castps_si256(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), bits));
    return _mm256_castsi256_ps(_mm256_add_epi32(entry, _mm256_slli_epi32(bits, 20)));
}
LANES_INLINE f32x16 f32_power(f32x16 z, const float table[8])
{
    return EACH2(lanes_power_single(z.v[k], table));
}
LANES_INLINE f32x16 f32_fma_from(f32x16 z, float least, f32x16 a, f32x16 b, f32x16 c)
{
    return EACH2(lanes_fma_from_single(z.v[k], least, a.v[k], b.v[k], c.v[k]));
}
/* a, which is not negative, with the sign of b. */
LANES_INLINE f32x16 f32_signed(f32x16 a, f32x16 b)
{
    return EACH2(_mm256_or_ps(a.v[k], _mm256_and_ps(b.v[k], _mm256_set1_ps(-0.0f))));
}
LANES_INLINE float f32_largest(f32x16 a)
{
    const __m256 eight = _mm256_max_ps(a.v[0], a.v[1]);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
LANES_INLINE f64x16 f64_power(f64x16 z, const double table[8])
{
    return EACH4(lanes_power(z.v[k], table));
}
LANES_INLINE f64x16 f64_fma_from(f64x16 z, double least, f64x16 a, f64x16 b, f64x16 c)
{
    return EACH4(lanes_fma_from(z.v[k], least, a.v[k], b.v[k], c.v[k]));
}

typedef struct {
    __m256d v[2];
} f64x8;
LANES_INLINE f64x8 f64x8_set(double x)
{
    return (f64x8){{_mm256_set1_pd(x), _mm256_set1_pd(x)}};
}
LANES_INLINE f64x8 f64x8_widen(const float *p)
{
    return (f64x8){{_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))}};
}
LANES_INLINE f64x8 f64x8_load(const double *p)
{
    return (f64x8){{_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}};
}
LANES_INLINE f64x8 f64x8_add(f64x8 a, f64x8 b)
{
    return (f64x8){{_mm256_add_pd(a.v[0], b.v[0]), _mm256_add_pd(a.v[1], b.v[1])}};
}
LANES_INLINE f64x8 f64x8_mul(f64x8 a, f64x8 b)
{
    return (f64x8){{_mm256_mul_pd(a.v[0], b.v[0]), _mm256_mul_pd(a.v[1], b.v[1])}};
}
LANES_INLINE f64x8 f64x8_fma(f64x8 a, f64x8 b, f64x8 c)
{
    return (f64x8){{_mm256_fmadd_pd(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_pd(a.v[1], b.v[1], c.v[1])}};
}
LANES_INLINE f64x8 f64x8_signed(f64x8 a, f64x8 b)
{
    const __m256d sign = _mm256_set1_pd(-0.0);
    return (f64x8){
        {_mm256_or_pd(a.v[0], _mm256_and_pd(b.v[0], sign)), _mm256_or_pd(a.v[1], _mm256_and_pd(b.v[1], sign))}};
}
LANES_INLINE f64x8 f64x8_max(f64x8 a, f64x16 b)
{
    return (f64x8){
        {_mm256_max_pd(a.v[0], _mm256_max_pd(b.v[0], b.v[2])), _mm256_max_pd(a.v[1], _mm256_max_pd(b.v[1], b.v[3]))}};
}
LANES_INLINE double f64x8_largest(f64x8 a)
{
    const __m256d four = _mm256_max_pd(a.v[0], a.v[1]);
    const __m128d two = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}
LANES_INLINE __m256d lanes_fold(f64x8 a)
{
    return _mm256_add_pd(a.v[0], a.v[1]);
}
LANES_INLINE __m256 lanes_fold_single(f32x16 a)
{
    return _mm256_add_ps(a.v[0], a.v[1]);
}
LANES_INLINE void f64x8_store(double *p, f64x8 a)
{
    _mm256_storeu_pd(p, a.v[0]);
    _mm256_storeu_pd(p + 4, a.v[1]);
}

#include "lanes_sum.h"
#include "lanes_turn.h"

#endif
