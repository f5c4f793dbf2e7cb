/* The weights of one row against keys in float, as they lie in the log: of a query, and of few rows over all tokens.
 * HALVES: in 256-bit registers though there are wider ones, for there widening four floats from memory is one operation, eight
 * are four, and a query widens every key once for each use (docs/numerics.md). */
#ifndef ATT_KERNEL_ROW_H
#define ATT_KERNEL_ROW_H

#if defined(HALVES)
#define LANES_256
#endif

#include "kernel_scores.h"

#if defined(__AVX512VL__) && !defined(LANES_256)
#define WIDE
#endif

/* Some tiles share a broadcast of q, as many as there are registers for their sums. */
#if defined(WIDE)
enum { READ_TILES_F64 = 4, READ_TILES_F32 = 4, TOGETHER = CHAINS };
#elif defined(__AVX512VL__)
enum { READ_TILES_F64 = 2, READ_TILES_F32 = 2, TOGETHER = CHAINS };
#elif defined(__AVX2__)
enum { READ_TILES_F64 = 1, READ_TILES_F32 = 2, TOGETHER = CHAINS };
#else
enum { READ_TILES_F64 = 1, READ_TILES_F32 = 1, TOGETHER = 1 };
#endif

/* The weights of `tiles` tiles from `tile` on, side by side, for one would wait for itself. tiles and precision are
 * constants after inlining. */
LANES_INLINE void weigh_tiles(const struct att_weights *work, uint32_t tile, uint32_t tiles,
                              enum att_precision precision, struct weighing *weighing)
{
    const float *keys = (const float *)work->keys + (size_t)tile * work->d * ATT_LANES;
    const float *bias = work->bias + (size_t)tile * ATT_LANES;
    const bool single = precision == ATT_SINGLE;
    f64x16 t[MOST_TILES];
    f32x16 t32[MOST_TILES];

    if (single)
        scores_f32(t32, work->q, keys, bias, work->d, 1, tiles, TOGETHER);
    else
        scores_f64(t, work->q, keys, false, bias, work->d, 1, tiles, TOGETHER);
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++)
        if (single)
            f32_store((float *)work->weights + (size_t)(tile + c) * ATT_LANES, weigh_single(t32[c], weighing));
        else
            f64_store((double *)work->weights + (size_t)(tile + c) * ATT_LANES, weigh(precision, t[c], weighing));
}

/* From `tile` to the last, or back from that; weighing: as the tiles before left it. */
LANES_INLINE void weigh_from(const struct att_weights *work, uint32_t tile, enum att_precision precision, bool back,
                             struct weighing *weighing)
{
    const uint32_t wide = precision == ATT_SINGLE ? READ_TILES_F32 : READ_TILES_F64;

    for (uint32_t left = work->tiles - tile, some; left > 0; left -= some) {
        some = (back ? left % wide == 0 : left >= wide) ? wide : 1;
        const uint32_t first = back ? tile + left - some : work->tiles - left;
        if (some == wide)
            weigh_tiles(work, first, wide, precision, weighing);
        else
            weigh_tiles(work, first, 1, precision, weighing);
    }
    work->largest[0] = finish_weighing(precision, weighing);
}

#endif
