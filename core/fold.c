/* Folding a stretch into a tile of bases: weights, a product, and the account of its rounding. The merge, the refresh
 * and every read over whole columns are this function over different stretches.
 *
 * The product is our own kernel, not OpenBLAS's dgemm: it gives the same bits everywhere (docs/numerics.md). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine_impl.h"

static void *aligned(size_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

static bool work_tile_init(struct att_engine *engine, struct att_work_tile *work)
{
    work->tile = work->own = aligned(engine->region.tile_bytes);
    work->scaled_q = aligned(sizeof(double) * ATT_TILE_ROWS * engine->region.d);
    return work->own && work->scaled_q;
}

static void work_tile_release(struct att_work_tile *work)
{
    free(work->own);
    free(work->scaled_q);
}

enum att_status att_fold_init(struct att_engine *engine, struct att_error *error)
{
    struct att_merger *merger = &engine->merger;
    const struct att_region *region = &engine->region;
    bool complete = true;

    merger->entry_blocks = (region->log_capacity + ATT_BLOCK - 1) / ATT_BLOCK + 1; /* each sign may end in a part */
    merger->entries = calloc(merger->entry_blocks, sizeof *merger->entries);
    merger->tokens = calloc(ATT_PACK_BLOCKS, sizeof *merger->tokens);
    merger->scratch = aligned(engine->options.threads * sizeof *merger->scratch);
    if (merger->scratch)
        memset(merger->scratch, 0, engine->options.threads * sizeof *merger->scratch);
    merger->group = calloc(ATT_GROUP_TILES, sizeof *merger->group);
    if (!merger->entries || !merger->tokens || !merger->scratch || !merger->group)
        goto no_memory;
    for (uint32_t i = 0; i < merger->entry_blocks; i++)
        complete = complete && att_stretch_init(&merger->entries[i], region->d, region->d_v);
    for (uint32_t i = 0; i < ATT_PACK_BLOCKS; i++)
        complete = complete && att_stretch_init(&merger->tokens[i], region->d, region->d_v);
    for (uint32_t i = 0; i < ATT_GROUP_TILES; i++)
        complete = complete && work_tile_init(engine, &merger->group[i]);
    for (uint32_t i = 0; i < engine->options.threads; i++) {
        struct att_scratch *scratch = &merger->scratch[i];
        scratch->weights = aligned(sizeof(double) * ATT_BAND_ROWS * ATT_BLOCK);
        scratch->keys = aligned(sizeof(float) * ATT_BLOCK * region->d);
        complete = complete && scratch->weights && scratch->keys && work_tile_init(engine, &scratch->work);
    }
    if (complete)
        return ATT_OK;
no_memory:
    return att_fail(error, ATT_ENOMEM,
                    "not enough memory for the merge team's scratch: use fewer --threads or a "
                    "smaller --log-capacity");
}

void att_fold_free(struct att_engine *engine)
{
    struct att_merger *merger = &engine->merger;

    for (uint32_t i = 0; merger->entries && i < merger->entry_blocks; i++)
        att_stretch_release(&merger->entries[i]);
    for (uint32_t i = 0; merger->tokens && i < ATT_PACK_BLOCKS; i++)
        att_stretch_release(&merger->tokens[i]);
    for (uint32_t i = 0; merger->group && i < ATT_GROUP_TILES; i++)
        work_tile_release(&merger->group[i]);
    for (uint32_t i = 0; merger->scratch && i < engine->options.threads; i++) {
        free(merger->scratch[i].weights);
        free(merger->scratch[i].keys);
        work_tile_release(&merger->scratch[i].work);
    }
    free(merger->entries);
    free(merger->tokens);
    free(merger->group);
    free(merger->scratch);
}

/* Puts the scaled row of Q of work row i in place. */
static void scale_row(struct att_engine *engine, struct att_work_tile *work, uint32_t i, const float *q)
{
    const struct att_region *region = &engine->region;
    const size_t width = att_width(region->precision);
    void *to = (char *)work->scaled_q + width * region->d * i;

    region->kernel->scale(region->precision, region->scale, region->d, q, to);
}

/* Adds an empty base for the row. */
void att_work_tile_add(struct att_engine *engine, struct att_work_tile *work, uint32_t row, uint32_t q_version,
                       const float *q)
{
    const uint32_t i = work->rows++;

    work->tile->rows[i] = (struct att_row){.inverted = ~row,
                                           .q_version = q_version,
                                           .shift = ATT_NO_SHIFT,
                                           .q_norm = att_q_norm(engine->region.scale, engine->region.d, q)};
    memset(att_tile_sums(work->tile, i, engine->region.columns), 0, sizeof(double) * engine->region.columns);
    scale_row(engine, work, i, q);
}

/* Adds a row that has a base, to go on from it. */
void att_work_tile_take(struct att_engine *engine, struct att_work_tile *work, const struct att_row *row,
                        const double *sums, const float *q)
{
    const uint32_t i = work->rows++;

    work->tile->rows[i] = *row;
    memcpy(att_tile_sums(work->tile, i, engine->region.columns), sums, sizeof(double) * engine->region.columns);
    scale_row(engine, work, i, q);
}

/* Some rows of a work tile while a stretch is folded into them: few enough that their weights stay in the L1 cache. */
struct band {
    struct att_engine *engine;
    struct att_scratch *scratch; /* weights, largest and shift of the band's rows, from 0 on */
    struct att_work_tile *work;
    const struct att_stretch *stretch;
    uint32_t first, rows;
};

static struct att_row *row_of(const struct band *band, uint32_t i)
{
    return &band->work->tile->rows[band->first + i];
}

static double *sums_of(const struct band *band, uint32_t i)
{
    return att_tile_sums(band->work->tile, band->first + i, band->engine->region.columns);
}

/* Weights of `rows` rows from row i of the band on, against the first tiles of the stretch; bias: its own, or a copy with more
 * lanes masked. */
static void weigh(const struct band *band, const float *bias, uint32_t i, uint32_t rows, uint32_t tiles)
{
    const struct att_region *region = &band->engine->region;
    const size_t width = att_width(region->precision);
    const struct att_weights call = {
        .precision = region->precision,
        .rows = rows,
        .tiles = tiles,
        .d = region->d,
        .q = (const char *)band->work->scaled_q + width * region->d * (band->first + i),
        .keys = band->stretch->packed ? band->stretch->keys : band->scratch->keys,
        .bias = bias,
        .shift = band->scratch->shift + i,
        .weights = (char *)band->scratch->weights + width * ATT_BLOCK * i,
        .largest = band->scratch->largest + i,
    };
    (band->stretch->packed ? region->kernel->weights : region->kernel->few_weights)(&call);
}

/* Gives the row a shift that its weights fit under, when the one that it has does not; true: weigh it again. */
static bool raise_row(const struct band *band, uint32_t i)
{
    const struct att_region *region = &band->engine->region;
    struct att_scratch *scratch = band->scratch;
    struct att_row *row = row_of(band, i);

    if (!(scratch->largest[i] > ATT_NO_SHIFT && scratch->largest[i] - row->shift > region->numerics.headroom))
        return false;
    att_row_raise(row, sums_of(band, i), region->columns, scratch->largest[i]);
    scratch->shift[i] = row->shift;
    return true;
}

/* All rows of the band; and again if any is raised, for rows by themselves take longer. */
static void weigh_tiles(const struct band *band, uint32_t tiles)
{
    bool raised = false;

    weigh(band, band->stretch->bias, 0, band->rows, tiles);
    for (uint32_t i = 0; i < band->rows; i++)
        raised = raise_row(band, i) || raised;
    if (raised)
        weigh(band, band->stretch->bias, 0, band->rows, tiles);
}

static void weigh_band(const struct band *band)
{
    if (row_of(band, 0)->shift == ATT_NO_SHIFT) /* rows that have just begun: a tile is enough to raise them */
        weigh_tiles(band, 1);
    weigh_tiles(band, att_stretch_tiles(band->stretch));
    for (uint32_t i = 0; i < band->rows; i++)
        row_of(band, i)->tokens += band->stretch->tokens;
}

/* The causal mask: lanes of later tokens are masked for each row of its own. */
static void weigh_causal(const struct band *band)
{
    const struct att_stretch *stretch = band->stretch;
    const uint32_t tiles = att_stretch_tiles(stretch), lanes = tiles * ATT_TILE_LANES;
    float bias[ATT_BLOCK];

    for (uint32_t i = 0; i < band->rows; i++) {
        struct att_row *row = row_of(band, i);
        for (uint32_t lane = 0; lane < lanes; lane++) {
            const bool seen = lane < stretch->entries && stretch->index[lane] <= att_row_id(row);
            bias[lane] = seen ? stretch->bias[lane] : -INFINITY;
            row->tokens += bias[lane] > -INFINITY ? stretch->sign : 0;
        }
        weigh(band, bias, i, 1, tiles);
        if (raise_row(band, i))
            weigh(band, bias, i, 1, tiles);
    }
}

/* How many of the band's rows, as a whole, see the stretch: none, all, or some of it each. */
enum sight { SEES_NOTHING, SEES_ALL, SEES_SOME };

static enum sight sight(const struct band *band)
{
    const struct att_stretch *stretch = band->stretch;
    uint32_t first = ATT_NO_ROW, last = 0;

    if (stretch->entries == 0)
        return SEES_NOTHING;
    if (!band->engine->region.causal)
        return SEES_ALL;
    for (uint32_t i = 0; i < band->rows; i++) {
        const uint32_t row = att_row_id(row_of(band, i));
        first = row < first ? row : first;
        last = row > last ? row : last;
    }
    return stretch->first > last ? SEES_NOTHING : stretch->last <= first ? SEES_ALL : SEES_SOME;
}

static_assert(ATT_BLOCK_TILES <= ATT_READ_CHAIN, "the head columns of a stretch are one chain in each lane");

/* The head columns, whose magnitudes the account needs: the stretch is of one sign. */
static void add_heads(const struct band *band)
{
    const struct att_stretch *stretch = band->stretch;
    const struct att_region *region = &band->engine->region;
    const uint32_t tiles = att_stretch_tiles(stretch), chain = att_chain_roundings(stretch->entries);
    const double value_unit = 1.0 / (double)stretch->value_scale;
    double heads[ATT_BAND_ROWS * ATT_HEAD_COLUMNS];
    const struct att_head_sums work = {
        .precision = region->precision,
        .rows = band->rows,
        .tiles = tiles,
        .weights = band->scratch->weights,
        .heads = stretch->heads,
        .value_scale = stretch->value_scale,
        .sums = heads,
    };

    region->kernel->heads(&work);
    for (uint32_t i = 0; i < band->rows; i++) {
        const double *head = heads + (size_t)i * ATT_HEAD_COLUMNS;
        double *sums = sums_of(band, i);
        att_row_account(row_of(band, i), sums, head, stretch->entries, stretch->largest, &region->numerics,
                        att_head_roundings(tiles), chain, value_unit);
        for (uint32_t c = 0; c < ATT_HEAD_COLUMNS; c++)
            sums[c] += stretch->sign * head[c];
    }
}

static void add_values(const struct band *band)
{
    const struct att_region *region = &band->engine->region;
    const bool packed = band->stretch->packed, some = !packed && band->stretch->columns > 0;
    const uint32_t first = some ? band->stretch->column : 0;
    const struct att_product work = {
        .precision = region->precision,
        .rows = band->rows,
        .depth = band->stretch->entries,
        .columns = some ? band->stretch->columns : region->d_v,
        .sign = band->stretch->sign,
        .weights = band->scratch->weights,
        .values = packed ? band->stretch->values : band->stretch->value_rows[0] + first,
        .value_stride = region->d_v, /* as they lie */
        .value_scale = band->stretch->value_scale,
        .sums = sums_of(band, 0) + ATT_HEAD_COLUMNS + first,
        .sum_stride = region->columns,
    };

    (packed ? region->kernel->product : region->kernel->few_product)(&work);
}

/* The bases of the next tile, or the next keys, come from memory: a part of them for each band, in what the band leaves of
 * the bandwidth. */
#if defined(__x86_64__)
__attribute__((target("prfchw")))
#endif
static void
fetch_ahead(struct att_scratch *scratch)
{
    for (uint32_t lines = 0; lines < scratch->ahead_lines && scratch->ahead < scratch->ahead_end;
         lines++, scratch->ahead += 64)
        __builtin_prefetch(scratch->ahead, 1, 2);
}

/* The band and the stretch are chosen. */
static void fold_band(struct band *band)
{
    struct att_scratch *scratch = band->scratch;
    const enum sight seen = sight(band);

    if (seen == SEES_NOTHING)
        return;
    fetch_ahead(scratch);
    for (uint32_t i = 0; i < band->rows; i++)
        scratch->shift[i] = row_of(band, i)->shift;
    if (seen == SEES_ALL)
        weigh_band(band);
    else
        weigh_causal(band);
    fetch_ahead(scratch);
    add_heads(band);
    fetch_ahead(scratch);
    add_values(band);
}

/* Folds stretches into a work tile, all of them into one band of rows after the other. Of those that are not packed there is
 * one. */
void att_fold(struct att_engine *engine, struct att_scratch *scratch, struct att_work_tile *work,
              const struct att_stretch *stretches, uint32_t count)
{
    struct band band = {.engine = engine, .scratch = scratch, .work = work};

    if (count == 1 && !stretches[0].packed)
        att_stretch_pack_keys(stretches, &engine->region, ATT_SINGLE, scratch->keys);
    for (; band.first < work->rows; band.first += ATT_BAND_ROWS) {
        const uint32_t left = work->rows - band.first;
        band.rows = left < ATT_BAND_ROWS ? left : ATT_BAND_ROWS;
        att_tile_take(engine, work, band.first + band.rows);
        for (band.stretch = stretches; band.stretch < stretches + count; band.stretch++)
            fold_band(&band);
    }
}
