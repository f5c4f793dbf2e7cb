/* A stretch: up to ATT_BLOCK entries or tokens of one sign, packed for the kernel. Of one sign, so that the sums of
 * |w x| which the error account needs are those of w x. */
#ifndef ATT_STRETCH_H
#define ATT_STRETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "region.h"

enum { ATT_BLOCK_TILES = ATT_BLOCK / ATT_TILE_LANES };

struct att_stretch {
    uint32_t entries;     /* in use; the lanes after them in the last tile are masked and 0 */
    int sign;             /* +1 or -1, of all of them */
    int64_t tokens;       /* how many are not masked, times the sign */
    uint32_t first, last; /* smallest and largest token index */
    uint32_t *index;      /* [ATT_BLOCK]: the token of each lane */
    const float **rows;   /* [ATT_BLOCK]: its key, where it lies */
    bool packed;          /* else keys and values are read where they lie: cheaper while few rows meet the stretch */
    void *keys;           /* packed: [tiles][d][16], as the kernel packs them */
    float *bias;          /* [ATT_BLOCK] */
    float *heads;         /* [tiles][2][16]: as the kernel takes them, without the sign; masked ones 0 */
    double largest[4];    /* of each head column, of those that are not masked */
    const float **value_rows; /* [ATT_BLOCK]: the value of each lane, where it lies; of tokens: one after the other */
    float value_scale;        /* see att_value_scale */
    void *values;             /* packed, as the kernel packs them: whole panels */
    uint32_t column, columns; /* else: which of them are wanted; columns 0: all */
};

bool att_stretch_init(struct att_stretch *stretch, uint32_t d, uint32_t d_v);
void att_stretch_release(struct att_stretch *stretch);

static inline uint32_t att_stretch_tiles(const struct att_stretch *stretch)
{
    return (stretch->entries + ATT_TILE_LANES - 1) / ATT_TILE_LANES;
}

/* d_v rounded up to whole panels. */
static inline uint32_t att_padded(uint32_t d_v)
{
    return (d_v + ATT_PANEL - 1) / ATT_PANEL * ATT_PANEL;
}

/* Empties it. */
void att_stretch_clear(struct att_stretch *stretch, int sign);
/* Adds one entry of the log. There must be room. */
void att_stretch_add_entry(struct att_stretch *stretch, const struct att_region *region, uint64_t position);
/* Packs keys and values, and masks the rest of the last tile. After the last add. */
void att_stretch_finish(struct att_stretch *stretch, const struct att_region *region);
/* Its keys, as tiles for the kernel in this precision. */
void att_stretch_pack_keys(const struct att_stretch *stretch, const struct att_region *region,
                           enum att_precision precision, void *ret_keys);

/* Fills it, from empty to finished, with the settled tokens [first, end), at most ATT_BLOCK, packed or not. Those that are
 * not live, or touched (skip[token] is not 0), are masked. heads: of all settled tokens. */
void att_stretch_take_tokens(struct att_stretch *stretch, const struct att_region *region,
                             const float (*heads)[ATT_HEAD_KEPT], const uint32_t *skip, uint32_t first, uint32_t end,
                             bool packed);
#endif
