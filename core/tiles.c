/* Where the bases of hot rows lie: slots, tiles and their words. All on the merge thread; its team loads and flips tiles,
 * each its own.
 *
 * A row that becomes hot gets the lowest free slot, so that hot rows share few tiles: a tile costs a copy of it at each merge,
 * and rows that are folded together cost less than as many alone. When one in sixteen of the tiles could be spared, the rows
 * of the last tiles move to the front; a row moves into a slot that another has left, so that too is at most one copy for
 * each row that went cold. Between two merges all bases stand at `settled`, so a base is moved by publishing it where
 * it goes before its old tile is flipped: a reader finds it in one of the two, or is told by the row's id to look again. */
#include <string.h>

#include "engine_impl.h"
#include "shared.h"

enum { SLACK = 16 };

/* ---- Slots ---- */

void att_slot_occupy(struct att_engine *engine, uint32_t slot)
{
    struct att_merger *merger = &engine->merger;
    const uint32_t tile = slot / ATT_TILE_ROWS;

    merger->occupied[tile] |= 1ull << slot % ATT_TILE_ROWS;
    merger->tiles_used = tile + 1 > merger->tiles_used ? tile + 1 : merger->tiles_used;
}

void att_slot_free(struct att_engine *engine, uint32_t slot)
{
    struct att_merger *merger = &engine->merger;
    const uint32_t tile = slot / ATT_TILE_ROWS;

    merger->occupied[tile] &= ~(1ull << slot % ATT_TILE_ROWS);
    merger->room = tile < merger->room ? tile : merger->room;
    while (merger->tiles_used > 0 && merger->occupied[merger->tiles_used - 1] == 0)
        merger->tiles_used--;
}

/* The lowest free slot: it is below n_q, for there are never more hot rows than rows. */
static uint32_t take_slot(struct att_engine *engine)
{
    struct att_merger *merger = &engine->merger;
    uint32_t slot;

    while (merger->occupied[merger->room] == UINT64_MAX)
        merger->room++;
    slot = merger->room * ATT_TILE_ROWS + (uint32_t)__builtin_ctzll(~merger->occupied[merger->room]);
    att_slot_occupy(engine, slot);
    return slot;
}

/* ---- Tiles ---- */

/* Takes up rows of a published tile, those in `slots` (a bit for each), to go on from their bases: the places. The bases come
 * with att_tile_take. */
void att_tile_load(struct att_engine *engine, struct att_work_tile *work, uint32_t tile, uint64_t slots)
{
    const struct att_region *region = &engine->region;
    /* Relaxed: this thread, or one it has joined since, made the last flip. */
    const uint64_t word = atomic_load_explicit(&region->words[tile], memory_order_relaxed);

    work->from = att_region_tile(region, ATT_WORD_PHYSICAL(word));
    work->rows = 0;
    for (uint64_t left = slots; left != 0; left &= left - 1) {
        const uint32_t slot = (uint32_t)__builtin_ctzll(left);
        if (att_row_id(&work->from->rows[slot]) != ATT_NO_ROW) /* else its base is about to come */
            work->slot[work->rows++] = (uint8_t)slot;
    }
    work->waiting = work->rows;
}

/* After att_tile_load: a full tile is to be built in the spare, where att_flip will publish it. Readers that still have the
 * spare's old word see it change, as they would when it is copied there: they start again. */
void att_tile_build_at(const struct att_engine *engine, struct att_work_tile *work, uint32_t spare)
{
    if (att_shared_build() && work->rows == ATT_TILE_ROWS)
        work->tile = att_region_tile(&engine->region, spare);
}

/* So many rows later in a tile are what att_tile_take asks for: their rows of Q come from memory. */
enum { ROWS_AHEAD = ATT_BAND_ROWS };

/* Copies the bases that are still waiting, of the rows before `end`. */
void att_tile_take(struct att_engine *engine, struct att_work_tile *work, uint32_t end)
{
    const struct att_region *region = &engine->region;
    const uint32_t rows = work->rows;

    if (work->waiting == 0)
        return;
    for (work->rows -= work->waiting; work->rows < end;) {
        const uint32_t slot = work->slot[work->rows];
        const struct att_row *row = &work->from->rows[slot];
        if (work->rows + ROWS_AHEAD < rows)
            att_fetch_q(region, att_row_id(&work->from->rows[work->slot[work->rows + ROWS_AHEAD]]));
        att_work_tile_take(engine, work, row, att_tile_sums(work->from, slot, region->columns),
                           region->q + (size_t)att_row_id(row) * region->d);
    }
    work->waiting = rows - work->rows;
    work->rows = rows;
}

/* The work rows into a spare tile, where they are not built there. */
static void write_rows(const struct att_region *region, const struct att_work_tile *work, struct att_tile *to)
{
    struct att_row rows[ATT_TILE_ROWS] = {{0}}; /* zeros: no row */

    for (uint32_t i = 0; i < work->rows; i++) {
        rows[work->slot[i]] = work->tile->rows[i];
        att_shared_store(att_tile_sums(to, work->slot[i], region->columns),
                         att_tile_sums(work->tile, i, region->columns), sizeof(double) * region->columns);
    }
    att_shared_store(to->rows, rows, sizeof rows);
}

/* Publishes new contents of a tile, its work rows: written into the spare, then one store of the word. */
void att_flip(struct att_engine *engine, uint32_t tile, struct att_work_tile *work, uint64_t position, uint32_t *spare)
{
    const struct att_region *region = &engine->region;
    const uint64_t word = atomic_load_explicit(&region->words[tile], memory_order_relaxed);
    struct att_tile *to = att_region_tile(region, *spare);

    if (work->tile != to)
        write_rows(region, work, to);
    work->tile = work->own;
    att_shared_store(&to->position, &position, sizeof position);
    /* Release: the contents. Partner: the reader's acquire of the word. */
    atomic_store_explicit(&region->words[tile], ATT_WORD((word >> 32) + 1, *spare), memory_order_release);
    /* Before the old tile is written again. Partner: the reader's acquire fence. */
    atomic_thread_fence(memory_order_release);
    *spare = ATT_WORD_PHYSICAL(word);
}

/* ---- Bases that come, and bases that move ---- */

/* Copies finished base i of the group to where `slot` is in a loaded tile. */
static void place(struct att_engine *engine, struct att_work_tile *work, uint8_t slot, uint32_t i)
{
    const struct att_work_tile *from = &engine->merger.group[i / ATT_TILE_ROWS];
    const uint32_t columns = engine->region.columns;
    uint32_t at = 0;

    while (at < work->rows && work->slot[at] != slot)
        at++;
    work->rows = at < work->rows ? work->rows : at + 1;
    work->slot[at] = slot;
    work->tile->rows[at] = from->tile->rows[i % ATT_TILE_ROWS];
    memcpy(att_tile_sums(work->tile, at, columns), att_tile_sums(from->tile, i % ATT_TILE_ROWS, columns),
           sizeof(double) * columns);
}

/* Puts the group's finished bases into their slots, each tile copied, changed and flipped once for a run of rows. */
static void publish(struct att_engine *engine, const uint32_t *rows, const uint32_t *slots, uint32_t count)
{
    struct att_merger *merger = &engine->merger;
    const struct att_region *region = &engine->region;
    const uint64_t settled = atomic_load_explicit(&region->header->settled, memory_order_relaxed);
    struct att_work_tile *work = &merger->scratch[0].work;

    for (uint32_t i = 0, next; i < count; i = next) {
        const uint32_t tile = slots[i] / ATT_TILE_ROWS;
        att_tile_load(engine, work, tile, merger->occupied[tile]);
        att_tile_take(engine, work, work->rows);
        for (next = i; next < count && slots[next] / ATT_TILE_ROWS == tile; next++)
            place(engine, work, (uint8_t)(slots[next] % ATT_TILE_ROWS), next);
        att_flip(engine, tile, work, settled, &merger->spare[0]);
    }
    for (uint32_t i = 0; i < count; i++)
        /* Release: the flip that put the base there. Partner: the acquire in reader.c. */
        atomic_store_explicit(&region->slots[rows[i]], slots[i], memory_order_release);
}

/* The group's finished bases are those of `rows`, at `settled`: publishes them. A cold row gets a slot. */
void att_tiles_publish(struct att_engine *engine, const uint32_t *rows, uint32_t count)
{
    uint32_t slots[ATT_GROUP_ROWS], became_hot = 0;

    for (uint32_t i = 0; i < count; i++) {
        slots[i] = atomic_load_explicit(&engine->region.slots[rows[i]], memory_order_relaxed);
        if (slots[i] != ATT_NO_SLOT)
            continue;
        slots[i] = take_slot(engine);
        became_hot++;
    }
    publish(engine, rows, slots, count);
    /* Release: who sees them counted finds them. Partner: the acquire in att_engine_stats. */
    atomic_fetch_add_explicit(&engine->rows_hot, became_hot, memory_order_release);
}

/* Copies the rows of tile `tile` into the group, from row `count` of it on. */
static uint32_t gather(struct att_engine *engine, uint32_t tile, uint32_t *rows, uint32_t count)
{
    const struct att_region *region = &engine->region;
    struct att_merger *merger = &engine->merger;
    const uint64_t word = atomic_load_explicit(&region->words[tile], memory_order_relaxed);
    struct att_tile *from = att_region_tile(region, ATT_WORD_PHYSICAL(word));

    for (uint64_t left = merger->occupied[tile]; left != 0; left &= left - 1, count++) {
        const uint32_t slot = (uint32_t)__builtin_ctzll(left);
        struct att_work_tile *work = &merger->group[count / ATT_TILE_ROWS];
        rows[count] = att_row_id(&from->rows[slot]);
        work->rows = count % ATT_TILE_ROWS;
        att_work_tile_take(engine, work, &from->rows[slot], att_tile_sums(from, slot, region->columns),
                           region->q + (size_t)rows[count] * region->d);
    }
    return count;
}

/* Moves rows of the last tiles to free slots at the front, where enough tiles can be spared: as many as a group holds.
 * False: nothing moved. All tiles stand at `settled`, and no snapshot has yet to hand them out. */
bool att_tiles_compact(struct att_engine *engine)
{
    struct att_merger *merger = &engine->merger;
    const uint64_t settled = atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);
    const uint32_t hot = (uint32_t)atomic_load_explicit(&engine->rows_hot, memory_order_relaxed);
    const uint32_t least = (hot + ATT_TILE_ROWS - 1) / ATT_TILE_ROWS, used = merger->tiles_used;
    uint32_t rows[ATT_GROUP_ROWS], slots[ATT_GROUP_ROWS], count = 0, first = used;

    if (used <= least + least / SLACK)
        return false;
    while (first > least && count + ATT_TILE_ROWS <= ATT_GROUP_ROWS)
        count = gather(engine, --first, rows, count);
    for (uint32_t i = 0; i < count; i++)
        att_slot_free(engine, atomic_load_explicit(&engine->region.slots[rows[i]], memory_order_relaxed));
    for (uint32_t i = 0; i < count; i++)
        slots[i] = take_slot(engine); /* below `least`: the hot rows fill no more tiles */
    publish(engine, rows, slots, count);
    merger->scratch[0].work.rows = 0;
    for (uint32_t tile = first; tile < used; tile++)
        att_flip(engine, tile, &merger->scratch[0].work, settled, &merger->spare[0]);
    return true;
}
