/* Merging: the stretch of the log up to a cut goes into the bases and the settled tokens. See reader.c for the
 * protocol; the merge thread is the only writer of everything here. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "engine_impl.h"
#include "shared.h"

enum { DROPPED = 1, OVER_BUDGET = 2 }; /* in review[] */
enum { SEEN = 1u << 31 };              /* in newest[], while packing: an entry of the token has been passed */

static uint64_t settled(const struct att_engine *engine)
{
    return atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);
}

static const struct att_entry *entry_at(const struct att_engine *engine, uint64_t position)
{
    return &engine->region.log_entries[att_log_slot(&engine->region, position)];
}

uint64_t att_merge_count(const struct att_engine *engine)
{
    /* Acquire: partner is the release in entries.c; the entries before it are written. */
    return atomic_load_explicit(&engine->offered, memory_order_acquire);
}

/* Notes each token's newest entry in [settled, cut), each changed row of Q, and the LSN of the cut: the largest there is,
 * for replay rewrites entries where they are. */
void att_merge_scan(struct att_engine *engine, uint64_t cut)
{
    struct att_merger *merger = &engine->merger;
    const uint64_t start = settled(engine);

    merger->cut_lsn = merger->settled_lsn;
    merger->changed = 0;
    for (uint64_t position = start; position < cut; position++) {
        const struct att_entry *entry = entry_at(engine, position);
        merger->cut_lsn = entry->lsn > merger->cut_lsn ? entry->lsn : merger->cut_lsn;
        if (entry->is_q) {
            merger->changed_q[entry->index] = position + 1;
            continue;
        }
        merger->changed += merger->newest[entry->index] == 0;
        merger->newest[entry->index] = (uint32_t)(position - start) + 1;
    }
}

void att_merge_unscan(struct att_engine *engine, uint64_t cut)
{
    for (uint64_t position = settled(engine); position < cut; position++) {
        const struct att_entry *entry = entry_at(engine, position);
        if (entry->is_q)
            engine->merger.changed_q[entry->index] = 0;
        else
            engine->merger.newest[entry->index] = 0;
    }
}

/* Opens the next stretch of the packing; the one before is finished. */
static struct att_stretch *next_stretch(struct att_engine *engine, uint32_t *blocks, int sign)
{
    struct att_stretch *stretch = &engine->merger.entries[*blocks];

    if (*blocks > 0)
        att_stretch_finish(stretch - 1, &engine->region);
    att_stretch_clear(stretch, sign);
    ++*blocks;
    return stretch;
}

/* The values that the bases hold and the stretch takes away: of each token its first entry, if that is a `-`. */
static void pack_removed(struct att_engine *engine, uint64_t cut, uint32_t *blocks)
{
    struct att_stretch *stretch = NULL;

    for (uint64_t position = settled(engine); position < cut; position++) {
        const struct att_entry *entry = entry_at(engine, position);
        uint32_t *newest = &engine->merger.newest[entry->index];
        if (entry->is_q || *newest & SEEN)
            continue;
        *newest |= SEEN;
        if (entry->sign >= 0)
            continue;
        if (!stretch || stretch->entries == ATT_BLOCK)
            stretch = next_stretch(engine, blocks, -1);
        att_stretch_add_entry(stretch, &engine->region, position);
    }
    for (uint64_t position = settled(engine); position < cut; position++)
        if (!entry_at(engine, position)->is_q)
            engine->merger.newest[entry_at(engine, position)->index] &= ~(uint32_t)SEEN;
}

/* The current values: of each token its newest entry, if that is a `+`. */
static void pack_current(struct att_engine *engine, uint64_t cut, uint32_t *blocks)
{
    const uint64_t start = settled(engine);
    struct att_stretch *stretch = NULL;

    for (uint64_t position = start; position < cut; position++) {
        const struct att_entry *entry = entry_at(engine, position);
        if (entry->is_q || entry->sign <= 0 || engine->merger.newest[entry->index] != (uint32_t)(position - start) + 1)
            continue;
        if (!stretch || stretch->entries == ATT_BLOCK)
            stretch = next_stretch(engine, blocks, 1);
        att_stretch_add_entry(stretch, &engine->region, position);
    }
}

/* Packs what is left of the scanned stretch after compaction: of each token `-base` and `+current`; the pairs in between
 * have the same weights and cancel. live_only: only `+current`. Returns how many blocks of merger.entries are packed. */
uint32_t att_merge_pack(struct att_engine *engine, uint64_t cut, bool live_only)
{
    uint32_t blocks = 0;

    if (!live_only)
        pack_removed(engine, cut, &blocks);
    pack_current(engine, cut, &blocks);
    if (blocks > 0)
        att_stretch_finish(&engine->merger.entries[blocks - 1], &engine->region);
    return blocks;
}

/* The row of Q as of the scanned cut, and its version. */
const float *att_row_q(const struct att_engine *engine, uint32_t row, uint32_t *ret_version)
{
    const struct att_merger *merger = &engine->merger;

    if (merger->changed_q[row] == 0) {
        *ret_version = merger->settled_q_version[row];
        return engine->region.q + (size_t)row * engine->region.d;
    }
    *ret_version = entry_at(engine, merger->changed_q[row] - 1)->q_version;
    return att_log_row(&engine->region, merger->changed_q[row] - 1);
}

void att_mark_for_refresh(struct att_engine *engine, uint32_t row)
{
    engine->merger.needed += !engine->merger.needs_refresh[row];
    engine->merger.needs_refresh[row] = 1;
}

/* The slots of a tile whose rows go on; rows whose Q changed, and rows that nobody reads, lose their base. The team only
 * marks rows: act_on_review is for one thread. */
static uint64_t choose_rows(struct att_engine *engine, uint32_t tile, uint64_t entries)
{
    struct att_merger *merger = &engine->merger;
    const uint64_t word = atomic_load_explicit(&engine->region.words[tile], memory_order_relaxed);
    const struct att_tile *from = att_region_tile(&engine->region, ATT_WORD_PHYSICAL(word));
    uint64_t chosen = merger->occupied[tile];

    for (uint64_t left = chosen; left != 0; left &= left - 1) {
        const uint32_t row = att_row_id(&from->rows[__builtin_ctzll(left)]);
        if (merger->changed_q[row] == 0 && !att_policy_goes_cold(engine, row, entries))
            continue;
        merger->review[row] = DROPPED;
        chosen &= ~(left & -left);
    }
    return chosen;
}

/* Rows over the error budget are to be refreshed. */
static void review_rows(struct att_engine *engine, struct att_work_tile *work)
{
    for (uint32_t i = 0; i < work->rows; i++) {
        const struct att_row *row = &work->tile->rows[i];
        const double *sums = att_tile_sums(work->tile, i, engine->region.columns);
        if (att_row_check(row, sums, engine->region.numerics.budget) == ATT_AGAIN)
            engine->merger.review[att_row_id(row)] = OVER_BUDGET;
    }
}

static uint64_t packed_entries(const struct att_merger *merger, uint32_t blocks)
{
    uint64_t entries = 0;

    for (uint32_t b = 0; b < blocks; b++)
        entries += merger->entries[b].entries;
    return entries;
}

/* Frees the slots of dropped rows; marks what is to be refreshed: rows over budget, and rows with a new Q that are
 * being read. */
static void act_on_review(struct att_engine *engine)
{
    struct att_merger *merger = &engine->merger;

    for (uint32_t row = 0; row < engine->region.n_q; row++) {
        const uint8_t review = merger->review[row];
        if (review == 0)
            continue;
        merger->review[row] = 0;
        if (review == DROPPED) {
            att_slot_free(engine,
                          atomic_exchange_explicit(&engine->region.slots[row], ATT_NO_SLOT, memory_order_relaxed));
            atomic_fetch_sub_explicit(&engine->rows_hot, 1, memory_order_relaxed);
        }
        if (review == OVER_BUDGET || (merger->changed_q[row] != 0 && !att_policy_goes_cold(engine, row, 0)))
            att_mark_for_refresh(engine, row);
    }
}

/* The next tile with rows, for one of the team; tiles_used: none is left. */
static uint32_t claim(const struct att_merger *merger, _Atomic uint32_t *next)
{
    uint32_t tile;

    do
        tile = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
    while (tile < merger->tiles_used && merger->occupied[tile] == 0);
    return tile < merger->tiles_used ? tile : merger->tiles_used;
}

/* The tile that the thread merges next. */
static void foresee(const struct att_engine *engine, struct att_scratch *scratch, uint32_t tile, uint32_t blocks)
{
    const struct att_region *region = &engine->region;

    scratch->ahead = scratch->ahead_end = NULL;
    if (tile >= engine->merger.tiles_used)
        return;
    /* Relaxed: only this merge flips words. */
    scratch->ahead =
        (const char *)att_region_tile(region, ATT_WORD_PHYSICAL(
                                                  atomic_load_explicit(&region->words[tile], memory_order_relaxed)));
    scratch->ahead_end = scratch->ahead + region->tile_bytes;
    scratch->ahead_lines = 1 + (uint32_t)(region->tile_bytes / 64 / ATT_FETCHES / (blocks ? blocks : 1));
}

/* How many blocks from the first on are folded into a band before its next: as many as one alone may hold entries, so that
 * they stay in the L2 cache. */
static uint32_t together(const struct att_stretch *blocks, uint32_t count)
{
    uint32_t some = 1, entries = blocks[0].entries;

    while (some < count && entries + blocks[some].entries <= ATT_BLOCK)
        entries += blocks[some++].entries;
    return some;
}

/* What a merge is made of, for its team. */
struct merging {
    struct att_engine *engine;
    uint64_t cut, packed;  /* entries */
    uint32_t blocks;       /* of merger.entries */
    _Atomic uint32_t next; /* tile that nobody has claimed */
};

static void merge_tile(const struct merging *merging, struct att_scratch *scratch, uint32_t tile, uint32_t next,
                       uint32_t *spare)
{
    struct att_engine *engine = merging->engine;
    const struct att_merger *merger = &engine->merger;

    att_tile_load(engine, &scratch->work, tile, choose_rows(engine, tile, merging->packed));
    att_tile_build_at(engine, &scratch->work, *spare);
    foresee(engine, scratch, next, merging->blocks);
    for (uint32_t b = 0, some; b < merging->blocks; b += some) {
        some = together(merger->entries + b, merging->blocks - b);
        att_fold(engine, scratch, &scratch->work, merger->entries + b, some);
    }
    att_tile_take(engine, &scratch->work, scratch->work.rows);
    review_rows(engine, &scratch->work);
    att_flip(engine, tile, &scratch->work, merging->cut, spare);
}

/* One of the team: each claims a tile ahead, so that it can be fetched, but for the last ones, which go to who is free. */
static void merge_some(struct merging *merging, uint32_t thread, uint32_t team)
{
    struct att_merger *merger = &merging->engine->merger;
    const uint32_t none = merger->tiles_used;
    uint32_t tile = claim(merger, &merging->next), spare = merger->spare[thread];

    while (tile < none) {
        const bool ahead = team == 1 || tile + 3 * team < none;
        const uint32_t next = ahead ? claim(merger, &merging->next) : none;
        merge_tile(merging, &merger->scratch[thread], tile, next, &spare);
        tile = ahead ? next : claim(merger, &merging->next);
    }
    merger->spare[thread] = spare;
}

static void merge_tiles(struct att_engine *engine, uint64_t cut, uint32_t blocks)
{
    struct merging merging = {.engine = engine,
                              .cut = cut,
                              .packed = packed_entries(&engine->merger, blocks),
                              .blocks = blocks};
    const double rows = (double)atomic_load_explicit(&engine->rows_hot, memory_order_relaxed);
    const int team = att_team(engine, rows * blocks * ATT_BLOCK * (engine->region.d + engine->region.columns));
    const double start = att_thread_ns();

#pragma omp parallel num_threads(team)
    merge_some(&merging, (uint32_t)omp_get_thread_num(), (uint32_t)omp_get_num_threads());
    act_on_review(engine);
    att_policy_sample_merge(engine, team * (att_thread_ns() - start),
                            atomic_load_explicit(&engine->rows_hot, memory_order_relaxed), merging.packed);
}

/* Writes what the scanned entries leave into the settled token. */
static void settle_token(struct att_engine *engine, uint32_t token, uint64_t position)
{
    const struct att_region *region = &engine->region;
    const bool lives = entry_at(engine, position)->sign > 0;
    const float *row = att_log_row(region, position);

    att_saving_before_token(engine, token);
    region->live[token] = lives;
    if (!lives)
        return;
    memcpy(region->k + (size_t)token * region->d, row, sizeof(float) * region->d);
    memcpy(region->v + (size_t)token * region->d_v, row + region->d, sizeof(float) * region->d_v);
    region->bias[token] = region->log_bias[att_log_slot(region, position)];
    att_entries_head(region, position, engine->merger.heads[token]);
    engine->merger.used = token + 1 > engine->merger.used ? token + 1 : engine->merger.used;
}

static void settle(struct att_engine *engine, uint64_t cut)
{
    struct att_merger *merger = &engine->merger;
    const struct att_region *region = &engine->region;
    const uint64_t start = settled(engine);

    for (uint64_t position = start; position < cut; position++) {
        const struct att_entry *entry = entry_at(engine, position);
        const uint32_t index = entry->index;
        if (!entry->is_q && merger->newest[index] == (uint32_t)(position - start) + 1)
            settle_token(engine, index, position);
        if (entry->is_q && merger->changed_q[index] == position + 1) {
            /* Its base was dropped and the tile flipped before: no reader takes an answer from a torn row of Q. */
            att_saving_before_q(engine, index);
            att_shared_store(region->q + (size_t)index * region->d, att_log_row(region, position),
                             sizeof(float) * region->d);
            merger->settled_q_version[index] = entry->q_version;
        }
    }
}

/* Merges [settled, cut). */
void att_merge_to(struct att_engine *engine, uint64_t cut)
{
    struct att_merger *merger = &engine->merger;
    struct att_region_header *header = engine->region.header;
    uint32_t blocks;

    att_merge_scan(engine, cut);
    if (atomic_load_explicit(&engine->rows_hot, memory_order_relaxed) > 0) {
        blocks = att_merge_pack(engine, cut, false);
        att_saving_before_bases(engine);
        merge_tiles(engine, cut, blocks);
    }
    att_policy_note_merge(engine, 2ull * merger->changed); /* the most that compaction leaves */
    /* The team's flips, before settled rows of Q are written: partner is the reader's acquire fence. */
    atomic_thread_fence(memory_order_release);
    settle(engine, cut);
    att_merge_unscan(engine, cut);
    merger->settled_lsn = merger->cut_lsn;
    merger->merge_now = false;
    atomic_store_explicit(&engine->settled_lsn, merger->cut_lsn, memory_order_relaxed);
    atomic_fetch_add_explicit(&engine->merges, 1, memory_order_relaxed);
    att_policy_settle(engine);
    /* Release: settled tokens and rows. Partner: the acquire in update.c. */
    atomic_store_explicit(&header->settled, cut, memory_order_release);
    /* Release: this thread has done with the entries. Partner: the acquire in entries.c. */
    atomic_store_explicit(&header->tail, cut, memory_order_release);
    att_tiles_compact(engine);
}
