#include "stretch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "row.h"

static void *aligned(size_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

bool att_stretch_init(struct att_stretch *stretch, uint32_t d, uint32_t d_v)
{
    memset(stretch, 0, sizeof *stretch);
    stretch->index = aligned(sizeof(uint32_t) * ATT_BLOCK);
    stretch->rows = aligned(sizeof(const float *) * ATT_BLOCK);
    stretch->keys = aligned(sizeof(float) * ATT_BLOCK * d);
    stretch->bias = aligned(sizeof(float) * ATT_BLOCK);
    stretch->packed_heads = aligned(sizeof(float) * (ATT_BLOCK + 1) * ATT_HEAD_COLUMNS);
    stretch->packed = aligned(sizeof(float) * ATT_BLOCK * att_padded(d_v));
    if (stretch->packed) /* what pads a row stays 0 */
        memset(stretch->packed, 0, sizeof(float) * ATT_BLOCK * att_padded(d_v));
    return stretch->index && stretch->rows && stretch->keys && stretch->bias && stretch->packed_heads &&
           stretch->packed;
}

void att_stretch_release(struct att_stretch *stretch)
{
    free(stretch->index);
    free(stretch->rows);
    free(stretch->keys);
    free(stretch->bias);
    free(stretch->packed_heads);
    free(stretch->packed);
    memset(stretch, 0, sizeof *stretch);
}

void att_stretch_clear(struct att_stretch *stretch, int sign)
{
    stretch->entries = 0;
    stretch->sign = sign;
    stretch->tokens = 0;
    stretch->first = UINT32_MAX;
    stretch->last = 0;
}

/* Notes the next lane's token, key and bias. */
static void note(struct att_stretch *stretch, uint32_t token, const float *key, float bias)
{
    const uint32_t lane = stretch->entries++;

    stretch->bias[lane] = bias;
    stretch->index[lane] = token;
    stretch->rows[lane] = key;
    stretch->first = token < stretch->first ? token : stretch->first;
    stretch->last = token > stretch->last ? token : stretch->last;
    stretch->tokens += bias > -INFINITY ? stretch->sign : 0;
}

/* Transposes whole tiles of keys; the lanes after the last one repeat it, masked. */
static void transpose_keys(struct att_stretch *stretch, const struct att_region *region)
{
    for (uint32_t lane = stretch->entries; lane < att_stretch_tiles(stretch) * ATT_TILE_LANES; lane++) {
        stretch->rows[lane] = stretch->rows[stretch->entries - 1];
        stretch->bias[lane] = -INFINITY;
    }
    for (uint32_t tile = 0; tile < att_stretch_tiles(stretch); tile++)
        region->kernel->transpose(stretch->rows + (size_t)tile * ATT_TILE_LANES, region->d,
                                  stretch->keys + (size_t)tile * region->d * ATT_TILE_LANES);
}

void att_stretch_add_entry(struct att_stretch *stretch, const struct att_region *region, uint64_t position)
{
    const size_t slot = att_log_slot(region, position), tile = slot / ATT_TILE_LANES, from = slot % ATT_TILE_LANES;
    const uint32_t lane = stretch->entries, padded = att_padded(region->d_v);
    const float *row = att_log_row(region, position);
    const float *head = region->log_heads + tile * ATT_HEAD_COLUMNS * ATT_TILE_LANES + from;
    float *to_head = stretch->packed_heads + (size_t)lane * ATT_HEAD_COLUMNS;

    note(stretch, region->log_entries[slot].index, row, region->log_bias[slot]);
    for (uint32_t c = 0; c < ATT_HEAD_COLUMNS; c++)
        to_head[c] = (float)stretch->sign * head[(size_t)c * ATT_TILE_LANES];
    memcpy(stretch->packed + (size_t)lane * padded, row + region->d, sizeof(float) * region->d_v);
}

void att_stretch_finish(struct att_stretch *stretch, const struct att_region *region)
{
    stretch->heads = stretch->packed_heads;
    stretch->values = stretch->packed;
    stretch->value_stride = att_padded(region->d_v);
    transpose_keys(stretch, region);
}

void att_stretch_pack_tokens(struct att_stretch *stretch, const struct att_region *region,
                             const float (*heads)[ATT_HEAD_COLUMNS], const uint32_t *skip, uint32_t first, uint32_t end)
{
    att_stretch_clear(stretch, 1);
    for (uint32_t token = first; token < end; token++) {
        const bool counts = region->live[token] && skip[token] == 0;
        note(stretch, token, region->k + (size_t)token * region->d, counts ? region->bias[token] : -INFINITY);
    }
    if (stretch->tokens == 0)
        stretch->entries = 0; /* nothing here counts */
    transpose_keys(stretch, region);
    stretch->heads = heads[first];
    stretch->values = region->v + (size_t)first * region->d_v;
    stretch->value_stride = region->d_v;
}
