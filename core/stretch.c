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
    stretch->keys = aligned(sizeof(float) * ATT_BLOCK * d);
    stretch->bias = aligned(sizeof(float) * ATT_BLOCK);
    stretch->columns = aligned(sizeof(double) * ATT_BLOCK * (2 * ATT_HEAD_COLUMNS + d_v));
    return stretch->keys && stretch->bias && stretch->columns;
}

void att_stretch_release(struct att_stretch *stretch)
{
    free(stretch->keys);
    free(stretch->bias);
    free(stretch->columns);
    memset(stretch, 0, sizeof *stretch);
}

void att_stretch_clear(struct att_stretch *stretch)
{
    stretch->entries = 0;
    stretch->tokens = 0;
}

static float *key_lane(struct att_stretch *stretch, uint32_t lane, uint32_t d)
{
    return stretch->keys + (size_t)(lane / ATT_TILE_LANES) * d * ATT_TILE_LANES + lane % ATT_TILE_LANES;
}

static void add_head(struct att_stretch *stretch, uint32_t lane, const float head[ATT_HEAD_COLUMNS])
{
    for (uint32_t c = 0; c < ATT_HEAD_COLUMNS; c++) {
        stretch->columns[c * ATT_BLOCK + lane] = fabs((double)head[c]);
        stretch->columns[(ATT_HEAD_COLUMNS + c) * ATT_BLOCK + lane] = head[c];
    }
    if (stretch->bias[lane] > -INFINITY)
        stretch->tokens += (int64_t)head[0];
}

void att_stretch_add_entry(struct att_stretch *stretch, const struct att_region *region, uint64_t position)
{
    const uint32_t lane = stretch->entries++, d = region->d;
    const size_t tile = att_log_tile(region, position), from = position % ATT_TILE_LANES;
    const float *key = region->log_keys + tile * d * ATT_TILE_LANES + from;
    const float *value = region->log_values + tile * region->columns * ATT_TILE_LANES + from;
    float *to = key_lane(stretch, lane, d), head[ATT_HEAD_COLUMNS];

    for (uint32_t p = 0; p < d; p++)
        to[(size_t)p * ATT_TILE_LANES] = key[(size_t)p * ATT_TILE_LANES];
    stretch->bias[lane] = region->log_bias[att_log_slot(region, position)];
    for (uint32_t c = 0; c < ATT_HEAD_COLUMNS; c++)
        head[c] = value[(size_t)c * ATT_TILE_LANES];
    add_head(stretch, lane, head);
    for (uint32_t c = ATT_HEAD_COLUMNS; c < region->columns; c++)
        stretch->columns[(size_t)(ATT_HEAD_COLUMNS + c) * ATT_BLOCK + lane] = value[(size_t)c * ATT_TILE_LANES];
}

void att_stretch_add_token(struct att_stretch *stretch, const struct att_region *region, uint32_t token)
{
    const uint32_t lane = stretch->entries++, d = region->d, d_v = region->d_v;
    const float *key = region->k + (size_t)token * d, *value = region->v + (size_t)token * d_v;
    double *column = stretch->columns + 2 * ATT_HEAD_COLUMNS * ATT_BLOCK + lane;
    float *to = key_lane(stretch, lane, d), head[ATT_HEAD_COLUMNS];

    for (uint32_t p = 0; p < d; p++)
        to[(size_t)p * ATT_TILE_LANES] = key[p];
    stretch->bias[lane] = region->bias[token];
    att_head(key, d, value, d_v, region->bias[token], head);
    add_head(stretch, lane, head);
    for (uint32_t j = 0; j < d_v; j++)
        column[(size_t)j * ATT_BLOCK] = value[j];
}

void att_stretch_finish(struct att_stretch *stretch, const struct att_region *region)
{
    const uint32_t end = att_stretch_tiles(stretch) * ATT_TILE_LANES;

    for (uint32_t lane = stretch->entries; lane < end; lane++) {
        float *key = key_lane(stretch, lane, region->d);
        for (uint32_t p = 0; p < region->d; p++)
            key[(size_t)p * ATT_TILE_LANES] = 0.0f;
        stretch->bias[lane] = -INFINITY;
        for (uint32_t c = 0; c < ATT_HEAD_COLUMNS + region->columns; c++)
            stretch->columns[(size_t)c * ATT_BLOCK + lane] = 0.0;
    }
}
