/* lanes.h for AVX-512, in 512-bit registers. */
#ifndef ATT_LANES_AVX512_H
#define ATT_LANES_AVX512_H

#include <immintrin.h>

typedef __m512 f32x16;
typedef struct {
    __m512d lo, hi;
} f64x16;

LANES_INLINE f32x16 f32_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
LANES_INLINE void f32_store(float *p, f32x16 a)
{
    _mm512_storeu_ps(p, a);
}
LANES_INLINE f32x16 f32_set(float x)
{
    return _mm512_set1_ps(x);
}
/* Four floats, four times over; and in all lanes number k of the four: a load less for each. */
LANES_INLINE f32x16 f32_load_four(const float *p)
{
    return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
}
LANES_INLINE f32x16 f32_spread(f32x16 four, size_t k)
{
    return k == 0   ? _mm512_permute_ps(four, 0x00)
           : k == 1 ? _mm512_permute_ps(four, 0x55)
           : k == 2 ? _mm512_permute_ps(four, 0xaa)
                    : _mm512_permute_ps(four, 0xff);
}
LANES_INLINE f32x16 f32_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
LANES_INLINE f32x16 f32_add(f32x16 a, f32x16 b)
{
    return _mm512_add_ps(a, b);
}
LANES_INLINE f32x16 f32_sub(f32x16 a, f32x16 b)
{
    return _mm512_sub_ps(a, b);
}
LANES_INLINE f32x16 f32_mul(f32x16 a, f32x16 b)
{
    return _mm512_mul_ps(a, b);
}
LANES_INLINE f32x16 f32_max(f32x16 a, f32x16 b)
{
    return _mm512_max_ps(a, b);
}
/* The larger of a and |b|, compared as bits. */
LANES_INLINE f32x16 f32_larger_bits(f32x16 a, f32x16 b)
{
    const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32(0x7fffffff));
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), magnitude));
}
LANES_INLINE f64x16 f64_widen(f32x16 a)
{
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
    return (f64x16){_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(high)};
}
LANES_INLINE f64x16 f64_load_f32(const float *p)
{
    return (f64x16){_mm512_cvtps_pd(_mm256_loadu_ps(p)), _mm512_cvtps_pd(_mm256_loadu_ps(p + 8))};
}
LANES_INLINE f64x16 f64_load(const double *p)
{
    return (f64x16){_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)};
}
LANES_INLINE void f64_store(double *p, f64x16 a)
{
    _mm512_storeu_pd(p, a.lo);
    _mm512_storeu_pd(p + 8, a.hi);
}
LANES_INLINE f64x16 f64_set(double x)
{
    return (f64x16){_mm512_set1_pd(x), _mm512_set1_pd(x)};
}
LANES_INLINE f64x16 f64_fma(f64x16 a, f64x16 b, f64x16 c)
{
    return (f64x16){_mm512_fmadd_pd(a.lo, b.lo, c.lo), _mm512_fmadd_pd(a.hi, b.hi, c.hi)};
}
LANES_INLINE f64x16 f64_add(f64x16 a, f64x16 b)
{
    return (f64x16){_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)};
}
LANES_INLINE f64x16 f64_sub(f64x16 a, f64x16 b)
{
    return (f64x16){_mm512_sub_pd(a.lo, b.lo), _mm512_sub_pd(a.hi, b.hi)};
}
LANES_INLINE f64x16 f64_mul(f64x16 a, f64x16 b)
{
    return (f64x16){_mm512_mul_pd(a.lo, b.lo), _mm512_mul_pd(a.hi, b.hi)};
}
LANES_INLINE f64x16 f64_max(f64x16 a, f64x16 b)
{
    return (f64x16){_mm512_max_pd(a.lo, b.lo), _mm512_max_pd(a.hi, b.hi)};
}
/* For z = 1.5 2^49 + e/8, e an integer: table[e mod 8] 2^(e div 8), where the bits of table[j] are short of j 2^49. So one
 * addition of integers carries the rest of e into the exponent. */
LANES_INLINE f64x16 f64_power(f64x16 z, const double table[8])
{
    const __m512i entries = _mm512_castpd_si512(_mm512_loadu_pd(table));
    const __m512i lo = _mm512_castpd_si512(z.lo), hi = _mm512_castpd_si512(z.hi);
    return (f64x16){
        _mm512_castsi512_pd(_mm512_add_epi64(_mm512_permutexvar_epi64(lo, entries), _mm512_slli_epi64(lo, 49))),
        _mm512_castsi512_pd(_mm512_add_epi64(_mm512_permutexvar_epi64(hi, entries), _mm512_slli_epi64(hi, 49)))};
}
/* a b + c where z >= least, else 0 */
LANES_INLINE f64x16 f64_fma_from(f64x16 z, double least, f64x16 a, f64x16 b, f64x16 c)
{
    const __m512d bound = _mm512_set1_pd(least);
    return (f64x16){_mm512_maskz_fmadd_pd(_mm512_cmp_pd_mask(z.lo, bound, _CMP_GE_OQ), a.lo, b.lo, c.lo),
                    _mm512_maskz_fmadd_pd(_mm512_cmp_pd_mask(z.hi, bound, _CMP_GE_OQ), a.hi, b.hi, c.hi)};
}

/* The same for z = 1.5 2^20 + e/8 and bits short of j 2^20. */
LANES_INLINE f32x16 f32_power(f32x16 z, const float table[8])
{
    const __m512i entries = _mm512_castpd_si512(_mm512_broadcast_f64x4(_mm256_castps_pd(_mm256_loadu_ps(table))));
    const __m512i bits = _mm512_castps_si512(z);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_permutexvar_epi32(bits, entries), _mm512_slli_epi32(bits, 20)));
}
LANES_INLINE f32x16 f32_fma_from(f32x16 z, float least, f32x16 a, f32x16 b, f32x16 c)
{
    return _mm512_maskz_fmadd_ps(_mm512_cmp_ps_mask(z, _mm512_set1_ps(least), _CMP_GE_OQ), a, b, c);
}
/* a, which is not negative, with the sign of b. */
LANES_INLINE f32x16 f32_signed(f32x16 a, f32x16 b)
{
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b), sign, 0xf8)); /* a | (b & sign) */
}
LANES_INLINE float f32_largest(f32x16 a)
{
    return _mm512_reduce_max_ps(a);
}

typedef __m512d f64x8;
LANES_INLINE f64x8 f64x8_widen(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}
LANES_INLINE f64x8 f64x8_set(double x)
{
    return _mm512_set1_pd(x);
}
LANES_INLINE f64x8 f64x8_load(const double *p)
{
    return _mm512_loadu_pd(p);
}
LANES_INLINE f64x8 f64x8_add(f64x8 a, f64x8 b)
{
    return _mm512_add_pd(a, b);
}
LANES_INLINE f64x8 f64x8_mul(f64x8 a, f64x8 b)
{
    return _mm512_mul_pd(a, b);
}
LANES_INLINE f64x8 f64x8_fma(f64x8 a, f64x8 b, f64x8 c)
{
    return _mm512_fmadd_pd(a, b, c);
}
LANES_INLINE f64x8 f64x8_signed(f64x8 a, f64x8 b)
{
    const __m512i sign = _mm512_set1_epi64(INT64_MIN);
    return _mm512_castsi512_pd(_mm512_ternarylogic_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(b), sign, 0xf8));
}
/* The larger of a and both halves of b. */
LANES_INLINE f64x8 f64x8_max(f64x8 a, f64x16 b)
{
    return _mm512_max_pd(a, _mm512_max_pd(b.lo, b.hi));
}
LANES_INLINE double f64x8_largest(f64x8 a)
{
    return _mm512_reduce_max_pd(a);
}
LANES_INLINE __m256d lanes_fold(f64x8 a)
{
    return _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
}
LANES_INLINE __m256 lanes_fold_single(f32x16 a)
{
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
    return _mm256_add_ps(_mm512_castps512_ps256(a), high);
}
LANES_INLINE void f64x8_store(double *p, f64x8 a)
{
    _mm512_storeu_pd(p, a);
}

#include "lanes_sum.h"
#include "lanes_turn.h"

#endif
