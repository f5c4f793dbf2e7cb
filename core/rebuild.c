/* Rebuilding bases from nothing: folding all live tokens at a cut of the log into a group of work tiles. A refresh is
 * a rebuild at `settled`; a read that its base can't answer is one at `count`. */
#include <omp.h>

#include "engine_impl.h"

/* Fewer rows than this meet the tokens where they lie, for packing would cost more than it saves: measured. */
enum { PACK_FOR_ROWS = 16 };

/* Takes the live settled tokens of [first, first + ATT_BLOCK) that have no entry before the cut; `packed`, or with these
 * columns of their values. */
static void take_tokens(struct att_engine *engine, struct att_stretch *stretch, uint32_t first, bool packed,
                        uint32_t column, uint32_t columns)
{
    const struct att_merger *merger = &engine->merger;
    const uint32_t start = first < merger->used ? first : merger->used, left = merger->used - start;

    att_stretch_take_tokens(stretch, &engine->region, (const float(*)[ATT_HEAD_KEPT])merger->heads, merger->newest,
                            start, start + (left < ATT_BLOCK ? left : ATT_BLOCK), packed);
    stretch->column = column;
    stretch->columns = columns;
}

/* What is fetched ahead at a time, at most: a group of few rows leaves no time for more. */
enum { MOST_LINES = 16 };

/* The keys of the tokens from `first` on that the thread packs next: packing goes across their rows, which no processor
 * foresees. (It does foresee values.) */
static void foresee_keys(const struct att_engine *engine, struct att_scratch *scratch, uint32_t first, uint32_t tiles)
{
    const struct att_region *region = &engine->region;
    const uint32_t team = (uint32_t)omp_get_num_threads(), thread = (uint32_t)omp_get_thread_num();
    const uint32_t share = (ATT_PACK_BLOCKS + team - 1) / team * ATT_BLOCK, used = engine->merger.used;
    const uint32_t start = first + thread * share < used ? first + thread * share : used;
    const uint32_t end = used - start < share ? used : start + share;
    const uint32_t lines = share * region->d / 16 * team / (ATT_FETCHES * ATT_PACK_BLOCKS * tiles) + 1;

    scratch->ahead = (const char *)(region->k + (size_t)start * region->d);
    scratch->ahead_end = (const char *)(region->k + (size_t)end * region->d);
    scratch->ahead_lines = lines < MOST_LINES ? lines : MOST_LINES;
}

/* Folds the live tokens into merger.group[0..tiles). The caller has scanned and packed (live_only) the log up to
 * the cut into `blocks`, or the cut is `settled`: then there are none. With `columns` the sums of others may be left out;
 * 0: all are wanted. */
void att_rebuild(struct att_engine *engine, uint32_t tiles, uint32_t blocks, uint32_t column, uint32_t columns)
{
    struct att_merger *merger = &engine->merger;
    const struct att_region *region = &engine->region;
    const uint32_t stride = ATT_PACK_BLOCKS * ATT_BLOCK;
    double rows = 0.0;

    for (uint32_t t = 0; t < tiles; t++)
        rows += merger->group[t].rows;
#pragma omp parallel num_threads(att_team(engine, rows * merger->used * (region->d + region->columns)))
    {
        struct att_scratch *scratch = &merger->scratch[omp_get_thread_num()];
        for (uint32_t first = 0; first < merger->used; first += stride) {
#pragma omp for schedule(static)
            for (uint32_t b = 0; b < ATT_PACK_BLOCKS; b++)
                take_tokens(engine, &merger->tokens[b], first + b * ATT_BLOCK, rows >= PACK_FOR_ROWS, column, columns);
            foresee_keys(engine, scratch, first + stride, tiles);
#pragma omp for schedule(dynamic)
            for (uint32_t t = 0; t < tiles; t++)
                for (uint32_t b = 0; b < ATT_PACK_BLOCKS; b++)
                    att_fold(engine, scratch, &merger->group[t], &merger->tokens[b], 1);
        }
#pragma omp for schedule(dynamic)
        for (uint32_t t = 0; t < tiles; t++)
            for (uint32_t b = 0; b < blocks; b++)
                att_fold(engine, scratch, &merger->group[t], &merger->entries[b], 1);
    }
}

/* Jobs and merges wait for a group of rows to end that is refreshed, or computed, so it is kept to some 35 ms of one thread:
 * this many multiply-adds, or one tile. Smaller ones would pack the tokens more often. */
#define GROUP_WORK        1e9
#define GROUP_WORK_SINGLE 2.3e9

uint32_t att_rebuild_rows(const struct att_engine *engine)
{
    const double row = (double)(engine->merger.used + 1) * (engine->region.d + engine->region.columns);
    const double work = engine->region.precision == ATT_SINGLE ? GROUP_WORK_SINGLE : GROUP_WORK;
    const double tiles = work / (row * ATT_TILE_ROWS); /* whole ones: rows that fill no band cost more each */

    return ATT_TILE_ROWS * (tiles < 1.0 ? 1 : tiles < ATT_GROUP_TILES ? (uint32_t)tiles : ATT_GROUP_TILES);
}

/* Collects up to a group of rows that need a refresh, from the cursor on. */
static uint32_t collect(struct att_engine *engine, uint32_t *rows)
{
    struct att_merger *merger = &engine->merger;
    const uint32_t n_q = engine->region.n_q, most = att_rebuild_rows(engine);
    uint32_t count = 0;

    for (uint32_t seen = 0; seen < n_q && count < most && count < merger->needed; seen++) {
        uint32_t row = merger->cursor;
        merger->cursor = merger->cursor + 1 < n_q ? merger->cursor + 1 : 0;
        if (merger->needs_refresh[row])
            rows[count++] = row;
    }
    return count;
}

/* Refreshes up to a group of rows, each once. All tiles stand at `settled`, and so will the new bases: nothing has to be
 * folded into them. */
void att_refresh(struct att_engine *engine, const uint32_t *rows, uint32_t count)
{
    struct att_merger *merger = &engine->merger;
    uint32_t tiles = 0;

    if (count == 0)
        return;
    for (uint32_t i = 0; i < count; i++) {
        if (i % ATT_TILE_ROWS == 0)
            merger->group[tiles++].rows = 0;
        att_work_tile_add(engine, &merger->group[tiles - 1], rows[i], merger->settled_q_version[rows[i]],
                          engine->region.q + (size_t)rows[i] * engine->region.d);
    }
    att_rebuild(engine, tiles, 0, 0, 0);
    att_saving_before_bases(engine);
    att_tiles_publish(engine, rows, count);
    for (uint32_t i = 0; i < count; i++) {
        merger->needed -= merger->needs_refresh[rows[i]];
        merger->needs_refresh[rows[i]] = 0;
    }
    atomic_fetch_add_explicit(&engine->refreshes, count, memory_order_relaxed);
}

/* Refreshes one group of the rows that need it; returns how many rows. */
uint32_t att_refresh_some(struct att_engine *engine)
{
    uint32_t rows[ATT_GROUP_ROWS], count = engine->options.never_keep ? 0 : collect(engine, rows);

    att_refresh(engine, rows, count);
    return count;
}
