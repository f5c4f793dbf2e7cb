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
    stretch->keys = aligned(sizeof(double) * ATT_BLOCK * d);
    stretch->bias = aligned(sizeof(float) * ATT_BLOCK);
    stretch->heads = aligned(sizeof(float) * ATT_BLOCK * ATT_HEAD_KEPT);
    stretch->value_rows = aligned(sizeof(const float *) * ATT_BLOCK);
    stretch->values = aligned(sizeof(double) * ATT_BLOCK * att_padded(d_v));
    if (stretch->values) /* what pads a row stays 0 */
        memset(stretch->values, 0, sizeof(double) * ATT_BLOCK * att_padded(d_v));
    return stretch->index && stretch->rows && stretch->keys && stretch->bias && stretch->heads && stretch->value_rows &&
           stretch->values;
}

void att_stretch_release(struct att_stretch *stretch)
{
    free(stretch->index);
    free(stretch->rows);
    free(stretch->keys);
    free(stretch->bias);
    free(stretch->heads);
    free(stretch->value_rows);
    free(stretch->values);
    memset(stretch, 0, sizeof *stretch);
}

void att_stretch_clear(struct att_stretch *stretch, int sign)
{
    stretch->entries = 0;
    stretch->packed = true;
    stretch->sign = sign;
    stretch->tokens = 0;
    stretch->first = UINT32_MAX;
    stretch->last = 0;
}

/* Notes the next lane's token, key, value and bias. */
static void note(struct att_stretch *stretch, uint32_t token, const float *key, const float *value, float bias)
{
    const uint32_t lane = stretch->entries++;

    stretch->bias[lane] = bias;
    stretch->index[lane] = token;
    stretch->rows[lane] = key;
    stretch->value_rows[lane] = value;
    stretch->first = token < stretch->first ? token : stretch->first;
    stretch->last = token > stretch->last ? token : stretch->last;
    stretch->tokens += bias > -INFINITY ? stretch->sign : 0;
}

void att_stretch_pack_keys(const struct att_stretch *stretch, const struct att_region *region,
                           enum att_precision precision, void *ret_keys)
{
    const size_t width = att_width(precision);

    for (uint32_t tile = 0; tile < att_stretch_tiles(stretch); tile++)
        region->kernel->pack_keys(precision, stretch->rows + (size_t)tile * ATT_TILE_LANES, region->d,
                                  (char *)ret_keys + width * tile * region->d * ATT_TILE_LANES);
}

/* Where the heads of a lane are, one tile's lanes apart. */
static float *head_lane(const struct att_stretch *stretch, uint32_t lane)
{
    const size_t tile = lane / ATT_TILE_LANES;

    return stretch->heads + tile * ATT_HEAD_KEPT * ATT_TILE_LANES + lane % ATT_TILE_LANES;
}

static void note_largest(struct att_stretch *stretch)
{
    double *largest = stretch->largest;

    memset(largest, 0, sizeof stretch->largest);
    for (uint32_t lane = 0; lane < stretch->entries; lane++) {
        float *v = head_lane(stretch, lane), *g = v + ATT_TILE_LANES;
        if (stretch->bias[lane] == -INFINITY)
            *v = *g = 0.0f;
        largest[1] = att_larger((double)*v, largest[1]);
        largest[2] = att_larger((double)*g, largest[2]);
        largest[3] = att_larger((double)*v * (double)*g, largest[3]);
    }
    largest[0] = 1.0;
    stretch->value_scale = att_value_scale((float)largest[1]);
}

/* In single |v| is brought to where float32 has room. */
static void scale_heads(struct att_stretch *stretch)
{
    for (uint32_t tile = 0; tile < att_stretch_tiles(stretch); tile++)
        for (uint32_t lane = 0; lane < ATT_TILE_LANES; lane++)
            stretch->heads[tile * ATT_HEAD_KEPT * ATT_TILE_LANES + lane] *= stretch->value_scale;
}

/* Zeros for masked ones: they may be too large for value_scale. */
static void pack_values(struct att_stretch *stretch, const struct att_region *region)
{
    const size_t next = att_width(region->precision) * ATT_PANEL;

    for (uint32_t lane = 0; lane < stretch->entries; lane++)
        region->kernel->pack_value(region->precision, stretch->value_scale,
                                   att_lane_key(stretch->bias[lane], stretch->value_rows[lane]), region->d_v,
                                   (char *)stretch->values + lane * next);
}

/* Whole tiles; the lanes after the last one repeat it, masked. */
void att_stretch_finish(struct att_stretch *stretch, const struct att_region *region)
{
    for (uint32_t lane = stretch->entries; lane < att_stretch_tiles(stretch) * ATT_TILE_LANES; lane++) {
        stretch->rows[lane] = stretch->rows[stretch->entries - 1];
        stretch->bias[lane] = -INFINITY;
        for (uint32_t c = 0; c < ATT_HEAD_KEPT; c++)
            head_lane(stretch, lane)[c * ATT_TILE_LANES] = 0.0f;
    }
    note_largest(stretch);
    if (region->precision == ATT_SINGLE)
        scale_heads(stretch);
    if (!stretch->packed)
        return;
    att_stretch_pack_keys(stretch, region, region->precision, stretch->keys);
    pack_values(stretch, region);
}

void att_stretch_add_entry(struct att_stretch *stretch, const struct att_region *region, uint64_t position)
{
    const size_t slot = att_log_slot(region, position), tile = slot / ATT_TILE_LANES, from = slot % ATT_TILE_LANES;
    const uint32_t lane = stretch->entries;
    const float *row = att_log_row(region, position);
    const float *head = region->log_heads + tile * ATT_HEAD_KEPT * ATT_TILE_LANES + from;
    float *to_head = head_lane(stretch, lane);

    note(stretch, region->log_entries[slot].index, row, row + region->d, region->log_bias[slot]);
    for (uint32_t c = 0; c < ATT_HEAD_KEPT; c++)
        to_head[c * ATT_TILE_LANES] = (float)stretch->sign * head[(size_t)c * ATT_TILE_LANES];
}

void att_stretch_take_tokens(struct att_stretch *stretch, const struct att_region *region,
                             const float (*heads)[ATT_HEAD_KEPT], const uint32_t *skip, uint32_t first, uint32_t end,
                             bool packed)
{
    const uint32_t count = end - first;
    const float *keys = region->k + (size_t)first * region->d, **rows = stretch->rows;
    float *bias = stretch->bias;
    uint32_t *index = stretch->index, tokens = 0;

    for (uint32_t lane = 0; lane < count; lane++) {
        const bool counts = region->live[first + lane] && skip[first + lane] == 0;
        bias[lane] = counts ? region->bias[first + lane] : -INFINITY;
        tokens += bias[lane] > -INFINITY;
        index[lane] = first + lane;
        rows[lane] = att_lane_key(bias[lane], keys + (size_t)lane * region->d);
        stretch->value_rows[lane] = region->v + (size_t)(first + lane) * region->d_v;
    }
    stretch->entries = tokens > 0 ? count : 0; /* 0: nothing here counts */
    stretch->sign = 1;
    stretch->tokens = tokens;
    stretch->first = first;
    stretch->last = first + count - 1;
    stretch->packed = packed;
    for (uint32_t lane = 0; lane < stretch->entries; lane++)
        for (uint32_t c = 0; c < ATT_HEAD_KEPT; c++)
            head_lane(stretch, lane)[c * ATT_TILE_LANES] = heads[first + lane][c];
    att_stretch_finish(stretch, region);
}
