/* The one kernel: weights of rows against entries, and sums of their value columns.
 *
 * w(row, entry) = exp(s q.k + b) is computed as 2^(r - M) (1 + f p(f)), t = (s q.k + b) log2(e), r = t rounded to eighths,
 * f = t - r, by two chains of fused multiply-adds over every second p, for each lane. It is the same, bit for bit, for every
 * shape of the work, instruction set and thread: what is subtracted later is exactly what was added. In single all of it is
 * float32, weights too; otherwise weights are float64. docs/numerics.md derives the bounds. */
#ifndef ATT_KERNEL_H
#define ATT_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine.h"

/* Keys, heads and values come in tiles of 16 entries, one lane each: [tile][d][16], [tile][2][16], [tile][d_v][16]. Of the
 * four head columns 1, x_1, x_2 and x_1 x_2 an entry keeps two. */
enum { ATT_TILE_LANES = 16 };

/* Lanes from a row's weights to the next row's; of one row alone there may be more. A constant, for then a loop over rows needs one
 * pointer, and registers are what it is short of. */
enum { ATT_BLOCK = 256 };

/* t of a masked entry, and M of a row that has seen no entry: t - M is far below -1000 whatever meets. The door keeps
 * true ones within 6.8e13 of 0 (d = 1), so the two are told from them, and from each other, by size. */
#define ATT_MASKED   (-1e15)
#define ATT_NO_SHIFT (-1e14)
/* M changes when some t - M is above the headroom; below the least the weight counts as 0. Above the headroom it may be
 * anything. In single both keep float32 from overflowing and from losing digits (docs/numerics.md). */
#define ATT_SHIFT_HEADROOM        500.0
#define ATT_SHIFT_LEAST           -1000.0
#define ATT_SHIFT_HEADROOM_SINGLE 32.0
#define ATT_SHIFT_LEAST_SINGLE    -120.0
/* In single a sum of values is made of float32 chains of so many entries, added up in float32 and then to what is there in
 * float64 (of heads, and in `read` and `sums`, of so many tiles in each lane, added up in float64); and what is
 * multiplied with weights in float32 is brought below 2^50 before (att_value_scale). */
#define ATT_CHAIN             32
#define ATT_READ_CHAIN        16
#define ATT_VALUE_BITS_SINGLE 50

/* Bytes of a number of a scaled row of Q, a packed key or value, and a weight. */
static inline size_t att_width(enum att_precision precision)
{
    return precision == ATT_SINGLE ? sizeof(float) : sizeof(double);
}

struct att_weights {
    enum att_precision precision;
    uint32_t rows;  /* any number */
    uint32_t tiles; /* of one row any number, else those of ATT_BLOCK at most */
    uint32_t d;
    const void *q;    /* rows x d, as `scale` made them */
    const void *keys; /* as `pack_keys` made them: double in mixed and double, but for `few_weights` and `read` */
    const float *const *key_rows; /* for `read` of one tile: its keys as rows instead, one for each lane; or NULL */
    const float *bias;            /* tiles x 16; -inf for a masked lane */
    const double *shift;          /* rows: M */
    void *weights;                /* rows x ATT_BLOCK: out, float in single, else double */
    bool signs;        /* for `read`: weights are wanted, with signs, for `sums`; else they may be anything */
    bool back;         /* for `read`: keys are met in another order, with the same results; see kernel_read.c */
    float value_scale; /* for `read` in single: see att_value_scale */
    double *largest;   /* rows: out, the largest t, rounded; below ATT_NO_SHIFT when all are masked */
};

/* Packed values are [columns / ATT_PANEL][ATT_BLOCK][ATT_PANEL]: what is read together lies together, however many columns there
 * are. This is where a column's first is. */
enum { ATT_PANEL = 16 };

static inline size_t att_packed_at(uint32_t column)
{
    return (size_t)(column / ATT_PANEL) * ATT_BLOCK * ATT_PANEL + column % ATT_PANEL;
}

/* sums[i][c] += sign times the sum over l < depth of weights[i][l] values[l][c], each one chain of fused multiply-adds in
 * the order of l; in single, one for each ATT_CHAIN of them, added up in their order. */
struct att_product {
    enum att_precision precision;
    uint32_t rows, depth; /* depth: ATT_BLOCK at most */
    uint32_t columns;     /* the values of a row may be read up to the next multiple of ATT_PANEL */
    double sign;          /* +1 or -1 */
    const void *weights;  /* rows x ATT_BLOCK */
    const void *values;   /* as `pack_value` made them; for `few_product` floats as they lie, depth x value_stride */
    size_t value_stride;  /* for `few_product` */
    float value_scale;    /* in single */
    double *sums;         /* rows x sum_stride */
    size_t sum_stride;
};

/* sums[i][c]: what weights[i] add up to over head column c. Every lane of a tile is read; in lanes, as `read` does it: in single
 * in one chain for each. */
struct att_head_sums {
    enum att_precision precision;
    uint32_t rows;
    uint32_t tiles;      /* in single at most ATT_READ_CHAIN */
    const void *weights; /* rows x ATT_BLOCK */
    const float *heads;  /* [tiles][2][16]; in single x_1 times value_scale */
    float value_scale;
    double *sums; /* rows x 4: out */
};

struct att_read_sums {
    double head[4];      /* sum_l w_l x_l */
    double magnitude[2]; /* sum_l w_l |x_l|, of the first two */
    double value;
};

struct att_kernel {
    const char *name;
    /* |k|_2 rounded up, and |v|_inf; not finite when the key or the value is not */
    void (*head)(const float *key, uint32_t d, const float *value, uint32_t d_v, float ret_norm_largest[2]);
    /* A tile of keys, [d][16], from 16 rows, for `weights`: once widened, they are used for many rows. */
    void (*pack_keys)(enum att_precision precision, const float *const rows[ATT_TILE_LANES], uint32_t d,
                      void *ret_tile);
    /* A row of values for `product`, to where its first is: widened, or in single times value_scale. */
    void (*pack_value)(enum att_precision precision, float value_scale, const float *x, uint32_t count,
                       void *ret_packed);
    /* s log2(e) q into float (single) or double */
    void (*scale)(enum att_precision precision, double scale, uint32_t d, const float *q, void *ret_scaled);
    void (*weights)(const struct att_weights *work);
    /* The same for keys in float and few rows, one after the other */
    void (*few_weights)(const struct att_weights *work);
    /* The same for one row and keys in float, and what its weights, with the signs that the heads have, add up to over them and
     * over one column of values [tile][columns][16]: `values` is its place in the first tile. */
    void (*read)(const struct att_weights *work, const float *heads, const float *values, uint32_t columns,
                 struct att_read_sums *ret);
    /* sum_l w_l x_l for columns first .. first + count - 1 of values [tile][columns][16], from what `read` made of the work */
    void (*sums)(const struct att_weights *work, const float *values, uint32_t columns, uint32_t first, uint32_t count,
                 double *ret_sums);
    /* The same of one tile whose values are rows, one for each lane, for columns 0 .. count - 1 of theirs */
    void (*row_sums)(const struct att_weights *work, const float *const rows[ATT_TILE_LANES], uint32_t count,
                     double *ret_sums);
    void (*product)(const struct att_product *work);
    void (*few_product)(const struct att_product *work);
    void (*heads)(const struct att_head_sums *work);
};

/* Roundings in float32, in single, of head columns: one for each tile, and two when lanes are added. */
static inline uint32_t att_head_roundings(uint32_t tiles)
{
    return (tiles < ATT_READ_CHAIN ? tiles : ATT_READ_CHAIN) + 2;
}

/* Of a product over so many entries. */
static inline uint32_t att_chain_roundings(uint32_t entries)
{
    return entries <= ATT_CHAIN ? entries : ATT_CHAIN + (entries - 1) / ATT_CHAIN;
}

/* The power of two that brings values of up to `largest`, and so products with weights and sums of them, to where float32 has
 * digits and room: just below 2^50, or as near as a float can. */
static inline float att_value_scale(float largest)
{
    uint32_t bits, exponent;
    float scale;

    memcpy(&bits, &largest, sizeof bits);
    exponent = bits >> 23; /* largest is below 2^(exponent - 126) */
    exponent = exponent < ATT_VALUE_BITS_SINGLE ? 126 : 126 + ATT_VALUE_BITS_SINGLE - exponent;
    bits = (exponent + 127) << 23;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* Compares the chosen kernel with plain C on small work, bit for bit, the first time that it is chosen: a compiler or a processor
 * can be wrong. ATT_EKERNEL. */
enum att_status att_kernel_check(struct att_error *error);

/* The best for this processor, or what the environment variable ATTND_ISA asks for (plain, avx2, avx512, or
 * avx512_256: avx512 for processors that execute 512 bits in halves) if the processor has it. Never NULL. */
const struct att_kernel *att_kernel_choose(void);

extern const struct att_kernel att_kernel_plain, att_kernel_avx2, att_kernel_avx512, att_kernel_avx512_256;

/* Relative error of a weight, in single, with the short series or the long, against exact exp of the t that was computed
 * (tests/unit/test_kernel.c sweeps it). */
#define ATT_EPSILON_SINGLE 0x1p-23
#define ATT_EPSILON_SHORT  0x1p-25
#define ATT_EPSILON_LONG   0x1p-51

#endif
