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
    stretch->keys = aligned(sizeof(float) * ATT_BLOCK * d);
    stretch->bias = aligned(sizeof(float) * ATT_BLOCK);
    stretch->packed_heads = aligned(sizeof(float) * (ATT_BLOCK + 1) * ATT_HEAD_COLUMNS);
    stretch->packed = aligned(sizeof(float) * ATT_BLOCK * att_padded(d_v));
    return stretch->index && stretch->keys && stretch->bias && stretch->packed_heads && stretch->packed;
}

void att_stretch_release(struct att_stretch *stretch)
{
    free(stretch->index);
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

static float *key_lane(struct att_stretch *stretch, uint32_t lane, uint32_t d)
{
    return stretch->keys + (size_t)(lane / ATT_TILE_LANES) * d * ATT_TILE_LANES + lane % ATT_TILE_LANES;
}

/* Notes the next lane's token and bias. */
static void note(struct att_stretch *stretch, uint32_t token, float bias)
{
    const uint32_t lane = stretch->entries++;

    stretch->bias[lane] = bias;
    stretch->index[lane] = token;
    stretch->first = token < stretch->first ? token : stretch->first;
    stretch->last = token > stretch->last ? token : stretch->last;
    stretch->tokens += bias > -INFINITY ? stretch->sign : 0;
}

void att_stretch_add_entry(struct att_stretch *stretch, const struct att_region *region, uint64_t position)
{
    const size_t slot = att_log_slot(region, position), tile = slot / ATT_TILE_LANES, from = slot % ATT_TILE_LANES;
    const uint32_t lane = stretch->entries, padded = att_padded(region->d_v);
    const float *key = region->log_keys + tile * region->d * ATT_TILE_LANES + from;
    const float *head = region->log_heads + tile * ATT_HEAD_COLUMNS * ATT_TILE_LANES + from;
    const float *value = region->log_values + tile * region->d_v * ATT_TILE_LANES + from;
    float *to_key = key_lane(stretch, lane, region->d), *to_value = stretch->packed + (size_t)lane * padded;
    float *to_head = stretch->packed_heads + (size_t)lane * ATT_HEAD_COLUMNS;

    note(stretch, region->log_entries[slot].index, region->log_bias[slot]);
    for (uint32_t p = 0; p < region->d; p++)
        to_key[(size_t)p * ATT_TILE_LANES] = key[(size_t)p * ATT_TILE_LANES];
    for (uint32_t c = 0; c < ATT_HEAD_COLUMNS; c++)
        to_head[c] = (float)stretch->sign * head[(size_t)c * ATT_TILE_LANES];
    for (uint32_t j = 0; j < region->d_v; j++)
        to_value[j] = (float)stretch->sign * value[(size_t)j * ATT_TILE_LANES];
    for (uint32_t j = region->d_v; j < padded; j++)
        to_value[j] = 0.0f;
}

void att_stretch_finish(struct att_stretch *stretch, const struct att_region *region)
{
    const uint32_t end = att_stretch_tiles(stretch) * ATT_TILE_LANES;

    stretch->heads = stretch->packed_heads;
    stretch->values = stretch->packed;
    stretch->value_stride = att_padded(region->d_v);
    for (uint32_t lane = stretch->entries; lane < end; lane++) {
        float *key = key_lane(stretch, lane, region->d);
        for (uint32_t p = 0; p < region->d; p++)
            key[(size_t)p * ATT_TILE_LANES] = 0.0f;
        stretch->bias[lane] = -INFINITY;
    }
}

/* Transposes whole tiles of keys; the lanes after the last token repeat it, masked. */
static void pack_keys(struct att_stretch *stretch, const struct att_region *region, uint32_t first)
{
    for (uint32_t tile = 0; tile < att_stretch_tiles(stretch); tile++) {
        const float *rows[ATT_TILE_LANES];
        for (uint32_t lane = 0; lane < ATT_TILE_LANES; lane++) {
            const uint32_t at = tile * ATT_TILE_LANES + lane;
            rows[lane] = region->k + (size_t)(first + (at < stretch->entries ? at : 0)) * region->d;
            if (at >= stretch->entries)
                stretch->bias[at] = -INFINITY;
        }
        region->kernel->transpose(rows, region->d, stretch->keys + (size_t)tile * region->d * ATT_TILE_LANES);
    }
}

void att_stretch_pack_tokens(struct att_stretch *stretch, const struct att_region *region,
                             const float (*heads)[ATT_HEAD_COLUMNS], const uint32_t *skip, uint32_t first, uint32_t end)
{
    att_stretch_clear(stretch, 1);
    for (uint32_t token = first; token < end; token++) {
        const bool counts = region->live[token] && skip[token] == 0;
        note(stretch, token, counts ? region->bias[token] : -INFINITY);
    }
    if (stretch->tokens == 0)
        stretch->entries = 0; /* nothing here counts */
    pack_keys(stretch, region, first);
    stretch->heads = heads[first];
    stretch->values = region->v + (size_t)first * region->d_v;
    stretch->value_stride = region->d_v;
}
