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
    stretch->values = aligned(sizeof(float) * ATT_BLOCK * att_padded_columns(d_v));
    return stretch->index && stretch->keys && stretch->bias && stretch->values;
}

void att_stretch_release(struct att_stretch *stretch)
{
    free(stretch->index);
    free(stretch->keys);
    free(stretch->bias);
    free(stretch->values);
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

/* Begins the next entry; returns its row of values, the padding cleared. */
static float *begin(struct att_stretch *stretch, const struct att_region *region, uint32_t token, float bias)
{
    const uint32_t lane = stretch->entries++, padded = att_padded_columns(region->d_v);
    float *row = stretch->values + (size_t)lane * padded;

    stretch->bias[lane] = bias;
    stretch->index[lane] = token;
    stretch->first = token < stretch->first ? token : stretch->first;
    stretch->last = token > stretch->last ? token : stretch->last;
    if (bias > -INFINITY)
        stretch->tokens += stretch->sign;
    for (uint32_t c = region->columns; c < padded; c++)
        row[c] = 0.0f;
    return row;
}

void att_stretch_add_entry(struct att_stretch *stretch, const struct att_region *region, uint64_t position)
{
    const size_t tile = att_log_tile(region, position), from = position % ATT_TILE_LANES;
    const size_t slot = att_log_slot(region, position);
    const float *key = region->log_keys + tile * region->d * ATT_TILE_LANES + from;
    const float *head = region->log_heads + tile * ATT_HEAD_COLUMNS * ATT_TILE_LANES + from;
    const float *value = region->log_values + tile * region->d_v * ATT_TILE_LANES + from;
    float *to = key_lane(stretch, stretch->entries, region->d);
    float *row = begin(stretch, region, region->log_entries[slot].index, region->log_bias[slot]);

    for (uint32_t p = 0; p < region->d; p++)
        to[(size_t)p * ATT_TILE_LANES] = key[(size_t)p * ATT_TILE_LANES];
    for (uint32_t c = 0; c < ATT_HEAD_COLUMNS; c++)
        row[c] = (float)stretch->sign * head[(size_t)c * ATT_TILE_LANES];
    for (uint32_t j = 0; j < region->d_v; j++)
        row[ATT_HEAD_COLUMNS + j] = (float)stretch->sign * value[(size_t)j * ATT_TILE_LANES];
}

void att_stretch_finish(struct att_stretch *stretch, const struct att_region *region)
{
    const uint32_t end = att_stretch_tiles(stretch) * ATT_TILE_LANES, padded = att_padded_columns(region->d_v);

    for (uint32_t lane = stretch->entries; lane < end; lane++) {
        float *key = key_lane(stretch, lane, region->d);
        for (uint32_t p = 0; p < region->d; p++)
            key[(size_t)p * ATT_TILE_LANES] = 0.0f;
        stretch->bias[lane] = -INFINITY;
        memset(stretch->values + (size_t)lane * padded, 0, sizeof(float) * padded);
    }
}

/* Transposes whole tiles of keys; lanes without a token repeat the first, masked. */
static void pack_keys(struct att_stretch *stretch, const struct att_region *region, const uint32_t *tokens)
{
    for (uint32_t tile = 0; tile < att_stretch_tiles(stretch); tile++) {
        const float *rows[ATT_TILE_LANES];
        for (uint32_t lane = 0; lane < ATT_TILE_LANES; lane++) {
            const uint32_t at = tile * ATT_TILE_LANES + lane;
            rows[lane] = region->k + (size_t)tokens[at < stretch->entries ? at : 0] * region->d;
        }
        region->kernel->transpose(rows, region->d, stretch->keys + (size_t)tile * region->d * ATT_TILE_LANES);
    }
}

void att_stretch_pack_tokens(struct att_stretch *stretch, const struct att_region *region, const float (*norms)[2],
                             const uint32_t *skip, uint32_t first, uint32_t end)
{
    uint32_t tokens[ATT_BLOCK];

    att_stretch_clear(stretch, 1);
    for (uint32_t token = first; token < end; token++) {
        float *row;
        if (!region->live[token] || skip[token] != 0)
            continue;
        tokens[stretch->entries] = token;
        row = begin(stretch, region, token, region->bias[token]);
        att_head(norms[token], region->bias[token], row);
        memcpy(row + ATT_HEAD_COLUMNS, region->v + (size_t)token * region->d_v, sizeof(float) * region->d_v);
    }
    att_stretch_finish(stretch, region);
    pack_keys(stretch, region, tokens);
}
