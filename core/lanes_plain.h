/* lanes.h for plain C: what the others must equal, bit for bit. */
#ifndef ATT_LANES_PLAIN_H
#define ATT_LANES_PLAIN_H

typedef struct {
    float v[ATT_LANES];
} f32x16;
typedef struct {
    double v[ATT_LANES];
} f64x16;

#define EACH(type, expression)                                          \
    ({                                                                  \
        type result;                                                    \
        for (size_t k = 0; k < sizeof result.v / sizeof *result.v; k++) \
            result.v[k] = (expression);                                 \
        result;                                                         \
    })

LANES_INLINE f32x16 f32_load(const float *p)
{
    return EACH(f32x16, p[k]);
}
LANES_INLINE void f32_store(float *p, f32x16 a)
{
    memcpy(p, a.v, sizeof a.v);
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
LANES_INLINE f32x16 f32_sub(f32x16 a, f32x16 b)
{
    return EACH(f32x16, a.v[k] - b.v[k]);
}
LANES_INLINE f32x16 f32_mul(f32x16 a, f32x16 b)
{
    return EACH(f32x16, a.v[k] * b.v[k]);
}
LANES_INLINE f32x16 f32_max(f32x16 a, f32x16 b)
{
    return EACH(f32x16, a.v[k] > b.v[k] ? a.v[k] : b.v[k]);
}
LANES_INLINE f32x16 f32_larger_bits(f32x16 a, f32x16 b)
{
    uint32_t bits[2][ATT_LANES];
    memcpy(bits[0], a.v, sizeof a.v);
    memcpy(bits[1], b.v, sizeof b.v);
    for (int k = 0; k < ATT_LANES; k++)
        if ((bits[1][k] & 0x7fffffffu) > bits[0][k])
            bits[0][k] = bits[1][k] & 0x7fffffffu;
    memcpy(a.v, bits[0], sizeof a.v);
    return a;
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

LANES_INLINE float lanes_power_single(float z, const float table[8])
{
    uint32_t bits, entry;
    memcpy(&bits, &z, sizeof bits);
    memcpy(&entry, &table[bits & 7], sizeof entry);
    entry += bits << 20;
    memcpy(&z, &entry, sizeof z);
    return z;
}
LANES_INLINE f32x16 f32_power(f32x16 z, const float table[8])
{
    return EACH(f32x16, lanes_power_single(z.v[k], table));
}
LANES_INLINE f32x16 f32_fma_from(f32x16 z, float least, f32x16 a, f32x16 b, f32x16 c)
{
    return EACH(f32x16, z.v[k] >= least ? fmaf(a.v[k], b.v[k], c.v[k]) : 0.0f);
}
/* a, which is not negative, with the sign of b. */
LANES_INLINE f32x16 f32_signed(f32x16 a, f32x16 b)
{
    return EACH(f32x16, copysignf(a.v[k], b.v[k]));
}
LANES_INLINE float f32_largest(f32x16 a)
{
    float largest = a.v[0];
    for (int k = 1; k < ATT_LANES; k++)
        largest = a.v[k] > largest ? a.v[k] : largest;
    return largest;
}
LANES_INLINE double f32_sum(f32x16 a)
{
    double sum[4];
    for (int half = 8; half > 2; half /= 2)
        for (int k = 0; k < half; k++)
            a.v[k] += a.v[k + half];
    for (int k = 0; k < 4; k++)
        sum[k] = (double)a.v[k];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
LANES_INLINE void f32_sum4(const f32x16 a[4], double ret[4])
{
    for (int i = 0; i < 4; i++)
        ret[i] = f32_sum(a[i]);
}

typedef struct {
    double v[8];
} f64x8;
LANES_INLINE f64x8 f64x8_set(double x)
{
    return EACH(f64x8, x);
}
LANES_INLINE f64x8 f64x8_widen(const float *p)
{
    return EACH(f64x8, (double)p[k]);
}
LANES_INLINE f64x8 f64x8_load(const double *p)
{
    return EACH(f64x8, p[k]);
}
LANES_INLINE f64x8 f64x8_add(f64x8 a, f64x8 b)
{
    return EACH(f64x8, a.v[k] + b.v[k]);
}
LANES_INLINE f64x8 f64x8_mul(f64x8 a, f64x8 b)
{
    return EACH(f64x8, a.v[k] * b.v[k]);
}
LANES_INLINE f64x8 f64x8_fma(f64x8 a, f64x8 b, f64x8 c)
{
    return EACH(f64x8, fma(a.v[k], b.v[k], c.v[k]));
}
LANES_INLINE f64x8 f64x8_signed(f64x8 a, f64x8 b)
{
    return EACH(f64x8, copysign(a.v[k], b.v[k]));
}
LANES_INLINE f64x8 f64x8_max(f64x8 a, f64x16 b)
{
    return EACH(f64x8, fmax(a.v[k], fmax(b.v[k], b.v[k + 8])));
}
LANES_INLINE double f64x8_largest(f64x8 a)
{
    double largest = a.v[0];
    for (int k = 1; k < 8; k++)
        largest = a.v[k] > largest ? a.v[k] : largest;
    return largest;
}
LANES_INLINE double f64x8_sum(f64x8 a)
{
    for (int half = 4; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            a.v[k] += a.v[k + half];
    return a.v[0];
}
LANES_INLINE void f64x8_sum4(const f64x8 a[4], double ret[4])
{
    for (int i = 0; i < 4; i++)
        ret[i] = f64x8_sum(a[i]);
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
