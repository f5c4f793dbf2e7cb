/* Sixteen lanes: the few vector operations that the kernel is written in, for AVX-512, AVX2 with FMA, and plain C.
 *
 * Every operation gives the same bits in all three: additions and products are single IEEE operations or fused
 * multiply-adds, in a fixed order. So a weight does not depend on the machine or on the shape of the work. */
#ifndef ATT_LANES_H
#define ATT_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { ATT_LANES = 16 };

#define LANES_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>

typedef __m512 f32x16;
typedef struct {
    __m512d lo, hi;
} f64x16;

LANES_INLINE f32x16 f32_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
LANES_INLINE f32x16 f32_set(float x)
{
    return _mm512_set1_ps(x);
}
LANES_INLINE f32x16 f32_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
LANES_INLINE f32x16 f32_add(f32x16 a, f32x16 b)
{
    return _mm512_add_ps(a, b);
}
LANES_INLINE f32x16 f32_mul(f32x16 a, f32x16 b)
{
    return _mm512_mul_ps(a, b);
}
LANES_INLINE f32x16 f32_max(f32x16 a, f32x16 b)
{
    return _mm512_max_ps(a, b);
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
/* Lane i + 8 is added to lane i, then i + 4 to i, then i + 2, then 1 to 0: this order, everywhere. */
LANES_INLINE double f64_sum(f64x16 a)
{
    __m512d eight = _mm512_add_pd(a.lo, a.hi);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}
/* f64_sum of four, together. */
LANES_INLINE void f64_sum4(const f64x16 a[4], double ret[4])
{
    __m512d eight[4], four[2], two;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        eight[i] = _mm512_add_pd(a[i].lo, a[i].hi);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        four[i] = _mm512_add_pd(_mm512_shuffle_f64x2(eight[2 * i], eight[2 * i + 1], 0x44),
                                _mm512_shuffle_f64x2(eight[2 * i], eight[2 * i + 1], 0xee));
    two = _mm512_add_pd(_mm512_shuffle_f64x2(four[0], four[1], 0x88), _mm512_shuffle_f64x2(four[0], four[1], 0xdd));
    two = _mm512_add_pd(two, _mm512_permute_pd(two, 0x55));
    _mm256_storeu_pd(ret, _mm512_castpd512_pd256(_mm512_maskz_compress_pd(0x55, two)));
}
LANES_INLINE double f64_largest(f64x16 a)
{
    return _mm512_reduce_max_pd(_mm512_max_pd(a.lo, a.hi));
}

typedef __m512d f64x8;
LANES_INLINE f64x8 f64x8_zero(void)
{
    return _mm512_setzero_pd();
}
LANES_INLINE f64x8 f64x8_widen(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}
LANES_INLINE f64x8 f64x8_load(const double *p)
{
    return _mm512_loadu_pd(p);
}
LANES_INLINE f64x8 f64x8_fma(double a, f64x8 b, f64x8 c)
{
    return _mm512_fmadd_pd(_mm512_set1_pd(a), b, c);
}
LANES_INLINE void f64x8_store(double *p, f64x8 a)
{
    _mm512_storeu_pd(p, a);
}

/* to[p][lane] = rows[lane][p] for 16 columns p: four rounds of exchanging blocks of 1, 2, 4 and 8. */
LANES_INLINE void lanes_transpose(const float *const rows[ATT_LANES], size_t offset, float *to)
{
    __m512 a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_loadu_ps(rows[i] + offset);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
#pragma GCC unroll 2
    for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            b[i + j] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0xdd);
        }
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        _mm512_storeu_ps(to + (size_t)j * ATT_LANES, _mm512_shuffle_f32x4(b[j], b[j + 8], 0x88));
        _mm512_storeu_ps(to + (size_t)(j + 8) * ATT_LANES, _mm512_shuffle_f32x4(b[j], b[j + 8], 0xdd));
    }
}

#elif defined(__AVX2__) && defined(__FMA__)
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
LANES_INLINE f32x16 f32_mul(f32x16 a, f32x16 b)
{
    return EACH2(_mm256_mul_ps(a.v[k], b.v[k]));
}
LANES_INLINE f32x16 f32_max(f32x16 a, f32x16 b)
{
    return EACH2(_mm256_max_ps(a.v[k], b.v[k]));
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
LANES_INLINE __m256d lanes_power(__m256d z, const double table[8])
{
    const __m256i bits = _mm256_castpd_si256(z), j = _mm256_and_si256(bits, _mm256_set1_epi64x(7));
    const __m256i entry = _mm256_castpd_si256(_mm256_i64gather_pd(table, j, 8));
    return _mm256_castsi256_pd(_mm256_add_epi64(entry, _mm256_slli_epi64(bits, 49)));
}
LANES_INLINE f64x16 f64_power(f64x16 z, const double table[8])
{
    return EACH4(lanes_power(z.v[k], table));
}
LANES_INLINE f64x16 f64_fma_from(f64x16 z, double least, f64x16 a, f64x16 b, f64x16 c)
{
    return EACH4(_mm256_and_pd(_mm256_cmp_pd(z.v[k], _mm256_set1_pd(least), _CMP_GE_OQ),
                               _mm256_fmadd_pd(a.v[k], b.v[k], c.v[k])));
}
LANES_INLINE double f64_sum(f64x16 a)
{
    __m256d four = _mm256_add_pd(_mm256_add_pd(a.v[0], a.v[2]), _mm256_add_pd(a.v[1], a.v[3]));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}
LANES_INLINE void f64_sum4(const f64x16 a[4], double ret[4])
{
    for (int i = 0; i < 4; i++)
        ret[i] = f64_sum(a[i]);
}
LANES_INLINE double f64_largest(f64x16 a)
{
    double lanes[ATT_LANES], largest;
    f64_store(lanes, a);
    largest = lanes[0];
    for (int i = 1; i < ATT_LANES; i++)
        largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

typedef struct {
    __m256d v[2];
} f64x8;
LANES_INLINE f64x8 f64x8_zero(void)
{
    return (f64x8){{_mm256_setzero_pd(), _mm256_setzero_pd()}};
}
LANES_INLINE f64x8 f64x8_widen(const float *p)
{
    return (f64x8){{_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))}};
}
LANES_INLINE f64x8 f64x8_load(const double *p)
{
    return (f64x8){{_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}};
}
LANES_INLINE f64x8 f64x8_fma(double a, f64x8 b, f64x8 c)
{
    __m256d x = _mm256_set1_pd(a);
    return (f64x8){{_mm256_fmadd_pd(x, b.v[0], c.v[0]), _mm256_fmadd_pd(x, b.v[1], c.v[1])}};
}
LANES_INLINE void f64x8_store(double *p, f64x8 a)
{
    _mm256_storeu_pd(p, a.v[0]);
    _mm256_storeu_pd(p + 4, a.v[1]);
}

/* Eight rows by eight columns; see lanes_transpose. */
LANES_INLINE void lanes_transpose8(const float *const rows[8], size_t offset, float *to)
{
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        a[i] = _mm256_loadu_ps(rows[i] + offset);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            __m256d low = _mm256_castps_pd(b[i + j]), high = _mm256_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
            a[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
        }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        _mm256_storeu_ps(to + (size_t)j * ATT_LANES, _mm256_permute2f128_ps(a[j], a[j + 4], 0x20));
        _mm256_storeu_ps(to + (size_t)(j + 4) * ATT_LANES, _mm256_permute2f128_ps(a[j], a[j + 4], 0x31));
    }
}
LANES_INLINE void lanes_transpose(const float *const rows[ATT_LANES], size_t offset, float *to)
{
    for (int half = 0; half < 2; half++)
        for (int quarter = 0; quarter < 2; quarter++)
            lanes_transpose8(rows + 8 * half, offset + 8 * (size_t)quarter,
                             to + (size_t)quarter * 8 * ATT_LANES + 8 * half);
}

#else

typedef struct {
    float v[ATT_LANES];
} f32x16;
typedef struct {
    double v[ATT_LANES];
} f64x16;

#define EACH(type, expression)              \
    ({                                      \
        type result;                        \
        for (int k = 0; k < ATT_LANES; k++) \
            result.v[k] = (expression);     \
        result;                             \
    })

LANES_INLINE f32x16 f32_load(const float *p)
{
    return EACH(f32x16, p[k]);
}
LANES_INLINE f32x16 f32_set(float x)
{
    return EACH(f32x16, x);
}
LANES_INLINE f32x16 f32_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return EACH(f32x16, fmaf(a.v[k], b.v[k], c.v[k]));
}
LANES_INLINE f32x16 f32_add(f32x16 a, f32x16 b)
{
    return EACH(f32x16, a.v[k] + b.v[k]);
}
LANES_INLINE f32x16 f32_mul(f32x16 a, f32x16 b)
{
    return EACH(f32x16, a.v[k] * b.v[k]);
}
LANES_INLINE f32x16 f32_max(f32x16 a, f32x16 b)
{
    return EACH(f32x16, a.v[k] > b.v[k] ? a.v[k] : b.v[k]);
}
LANES_INLINE f64x16 f64_widen(f32x16 a)
{
    return EACH(f64x16, (double)a.v[k]);
}
LANES_INLINE f64x16 f64_load_f32(const float *p)
{
    return EACH(f64x16, (double)p[k]);
}
LANES_INLINE f64x16 f64_load(const double *p)
{
    return EACH(f64x16, p[k]);
}
LANES_INLINE void f64_store(double *p, f64x16 a)
{
    memcpy(p, a.v, sizeof a.v);
}
LANES_INLINE f64x16 f64_set(double x)
{
    return EACH(f64x16, x);
}
LANES_INLINE f64x16 f64_fma(f64x16 a, f64x16 b, f64x16 c)
{
    return EACH(f64x16, fma(a.v[k], b.v[k], c.v[k]));
}
LANES_INLINE f64x16 f64_add(f64x16 a, f64x16 b)
{
    return EACH(f64x16, a.v[k] + b.v[k]);
}
LANES_INLINE f64x16 f64_sub(f64x16 a, f64x16 b)
{
    return EACH(f64x16, a.v[k] - b.v[k]);
}
LANES_INLINE f64x16 f64_mul(f64x16 a, f64x16 b)
{
    return EACH(f64x16, a.v[k] * b.v[k]);
}
LANES_INLINE f64x16 f64_max(f64x16 a, f64x16 b)
{
    return EACH(f64x16, a.v[k] > b.v[k] ? a.v[k] : b.v[k]);
}
LANES_INLINE double lanes_power(double z, const double table[8])
{
    uint64_t bits, entry;
    memcpy(&bits, &z, sizeof bits);
    memcpy(&entry, &table[bits & 7], sizeof entry);
    entry += bits << 49;
    memcpy(&z, &entry, sizeof z);
    return z;
}
LANES_INLINE f64x16 f64_power(f64x16 z, const double table[8])
{
    return EACH(f64x16, lanes_power(z.v[k], table));
}
LANES_INLINE f64x16 f64_fma_from(f64x16 z, double least, f64x16 a, f64x16 b, f64x16 c)
{
    return EACH(f64x16, z.v[k] >= least ? fma(a.v[k], b.v[k], c.v[k]) : 0.0);
}
LANES_INLINE double f64_sum(f64x16 a)
{
    for (int half = ATT_LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            a.v[k] += a.v[k + half];
    return a.v[0];
}
LANES_INLINE void f64_sum4(const f64x16 a[4], double ret[4])
{
    for (int i = 0; i < 4; i++)
        ret[i] = f64_sum(a[i]);
}
LANES_INLINE double f64_largest(f64x16 a)
{
    double largest = a.v[0];
    for (int k = 1; k < ATT_LANES; k++)
        largest = a.v[k] > largest ? a.v[k] : largest;
    return largest;
}

typedef struct {
    double v[8];
} f64x8;
LANES_INLINE f64x8 f64x8_zero(void)
{
    return (f64x8){{0.0}};
}
LANES_INLINE f64x8 f64x8_widen(const float *p)
{
    f64x8 a;
    for (int k = 0; k < 8; k++)
        a.v[k] = (double)p[k];
    return a;
}
LANES_INLINE f64x8 f64x8_load(const double *p)
{
    f64x8 a;
    memcpy(a.v, p, sizeof a.v);
    return a;
}
LANES_INLINE f64x8 f64x8_fma(double a, f64x8 b, f64x8 c)
{
    for (int k = 0; k < 8; k++)
        c.v[k] = fma(a, b.v[k], c.v[k]);
    return c;
}
LANES_INLINE void f64x8_store(double *p, f64x8 a)
{
    memcpy(p, a.v, sizeof a.v);
}

LANES_INLINE void lanes_transpose(const float *const rows[ATT_LANES], size_t offset, float *to)
{
    for (int p = 0; p < ATT_LANES; p++)
        for (int lane = 0; lane < ATT_LANES; lane++)
            to[(size_t)p * ATT_LANES + lane] = rows[lane][offset + p];
}
#endif

#endif
