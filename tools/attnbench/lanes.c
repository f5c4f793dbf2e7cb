/* Compiled with -O3 and fused multiply-adds allowed. Each loop is written once and inlined into a function for each
 * instruction set. */
#include "lanes.h"

#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

typedef float wide __attribute__((vector_size(4 * LANES)));
typedef float narrow __attribute__((vector_size(32)));
typedef int32_t wide_int __attribute__((vector_size(4 * LANES)));
typedef uint32_t wide_bits __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* Eight independent chains of additions hide their latency: the loads are what is left. */
INLINE float sum_body(const float *x, size_t count)
{
    enum { CHAINS = 8 };
    wide sums[CHAINS] = {{0}};

    for (size_t i = 0; i + CHAINS * LANES <= count; i += CHAINS * LANES)
#pragma GCC unroll 8
        for (int c = 0; c < CHAINS; c++) {
            wide next;
            memcpy(&next, x + i + c * LANES, sizeof next);
            sums[c] += next;
        }
    /* Halves onto halves: one after the other the 128 lanes would take longer than a short read. */
    for (int step = CHAINS / 2; step > 0; step /= 2)
        for (int c = 0; c < step; c++)
            sums[c] += sums[c + step];
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int lane = 0; lane < step; lane++)
            sums[0][lane] += sums[0][lane + step];
    return sums[0][0];
}

INLINE float max_body(const float *x, size_t count)
{
    float most[4 * LANES], all;
    size_t i = 0;

    for (int l = 0; l < 4 * LANES; l++)
        most[l] = x[0];
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int l = 0; l < 4 * LANES; l++)
            most[l] = x[i + (size_t)l] > most[l] ? x[i + (size_t)l] : most[l];
    all = most[0];
    for (int l = 1; l < 4 * LANES; l++)
        all = most[l] > all ? most[l] : all;
    for (; i < count; i++)
        all = x[i] > all ? x[i] : all;
    return all;
}

/* 2^(x log2(e)): rounded to an integer by adding 1.5 2^23, a polynomial for the rest, the integer added to the
 * exponent. Below 2^-126 it is some 1e-38 instead of 0. */
INLINE void exp_wide(wide *x)
{
    const wide t = *x * 1.44269504f, magic = (wide){0} + 12582912.0f;
    const wide_int low = (t < -125.0f);
    const wide clamped = (wide)((low & (wide_int)((wide){0} - 125.0f)) | (~low & (wide_int)t));
    const wide shifted = clamped + magic, f = clamped - (shifted - magic);
    wide p = f * 1.33335581e-3f + 9.61812911e-3f;

    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    *x = (wide)((wide_bits)p + ((wide_bits)shifted << 23));
}

INLINE float exp_body(float *x, size_t count, float max)
{
    wide sums[2] = {{0}};
    float total = 0.0f;
    size_t i = 0;

    for (; i + 2 * LANES <= count; i += 2 * LANES)
        for (int c = 0; c < 2; c++) {
            wide next;
            memcpy(&next, x + i + c * LANES, sizeof next);
            next -= max;
            exp_wide(&next);
            sums[c] += next;
            memcpy(x + i + c * LANES, &next, sizeof next);
        }
    for (; i < count; i++) {
        wide one = {x[i] - max};
        exp_wide(&one);
        x[i] = one[0];
        total += x[i];
    }
    for (int c = 0; c < 2; c++)
        for (int lane = 0; lane < LANES; lane++)
            total += sums[c][lane];
    return total;
}

INLINE void scale_body(float *x, size_t count, float by)
{
    for (size_t i = 0; i < count; i++)
        x[i] *= by;
}

/* The same in vectors of 32 bytes: eight of 64 do not fit into sixteen registers of 32 beside what is loaded. */
INLINE float sum_narrow(const float *x, size_t count)
{
    enum { CHAINS = 8, NARROW = 8 };
    narrow sums[CHAINS] = {{0}};

    for (size_t i = 0; i + CHAINS * NARROW <= count; i += CHAINS * NARROW)
#pragma GCC unroll 8
        for (int c = 0; c < CHAINS; c++) {
            narrow next;
            memcpy(&next, x + i + c * NARROW, sizeof next);
            sums[c] += next;
        }
    for (int step = CHAINS / 2; step > 0; step /= 2)
        for (int c = 0; c < step; c++)
            sums[c] += sums[c + step];
    for (int step = NARROW / 2; step > 0; step /= 2)
        for (int lane = 0; lane < step; lane++)
            sums[0][lane] += sums[0][lane + step];
    return sums[0][0];
}

#define LANES_FOR(name, attribute, sum)                                  \
    attribute static float sum_##name(const float *x, size_t count)      \
    {                                                                    \
        return sum(x, count);                                            \
    }                                                                    \
    attribute static float max_##name(const float *x, size_t count)      \
    {                                                                    \
        return max_body(x, count);                                       \
    }                                                                    \
    attribute static float exp_##name(float *x, size_t count, float max) \
    {                                                                    \
        return exp_body(x, count, max);                                  \
    }                                                                    \
    attribute static void scale_##name(float *x, size_t count, float by) \
    {                                                                    \
        scale_body(x, count, by);                                        \
    }                                                                    \
    static const struct bench_lanes lanes_##name = {#name, sum_##name, max_##name, exp_##name, scale_##name};

LANES_FOR(plain, , sum_body)
#ifdef __x86_64__
LANES_FOR(avx2, __attribute__((target("avx2,fma"))), sum_narrow)
LANES_FOR(avx512, __attribute__((target("avx512f,avx2,fma"))), sum_body)
#endif

const struct bench_lanes *bench_lanes_choose(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        return &lanes_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &lanes_avx2;
#endif
    return &lanes_plain;
}
