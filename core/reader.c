/* The reader.
 *
 * An answer is a base plus the entries from its position to `count`. The merge thread replaces bases while it is read:
 * it computes a tile's new bases in a spare physical tile and flips the tile's word (physical index and version) in
 * one store; only then may the old physical tile be written again. When all tiles stand at P it stores settled = P,
 * then tail = P, and the service may overwrite entries before P. Nobody waits for anybody.
 *
 *   reader                                   merge                                     service
 *   1 word   = words[t]        (acquire) <-> flip words[t]               (release)
 *   2 count  = count           (acquire) <-----------------------------------------  count (release)
 *   3 copies the base, folds entries
 *   4 acquire fence                      <-> release fence after each flip      <-> release fence after reading tail,
 *                                            before the old tile is written         before slots are overwritten
 *   5 words[t] == word, tail <= position,
 *     row and Q version as asked: else start again
 *
 * Why it is safe: if any byte read in 3 was of a later use of the tile, 4 makes the flip before that use visible to
 * 5, and the version has changed. If any entry read in 3 was overwritten, the service had read a tail beyond it, and
 * 5 sees that tail. `count` is read after the word, so it is never behind the tile's
 * position (and if it were, the distance between them would show it). A row that was dropped
 * from its tile or whose Q changed is noticed by the ids that lie beside its base.
 *
 * The memory of the bases may be replaced by another (give_back.c), and a reader in another process still have the old one:
 * there stays what was there then. A word says where a tile is in the new one; at that place in the old one are bases too,
 * and if they are of this row, of this version of Q, and tail is not past their position, they are as good.
 *
 * An entry is written as a row; when a tile of 16 is full, the service turns its rows into lanes, before it publishes the
 * last of them. So a reader finds the tiles that are full at its `count` in lanes, and the rest of its entries as rows,
 * which stay as they are until `tail` is past them.
 *
 * A torn copy can hold any mixture of stored floats: finite, so nothing traps; a position out of reach is caught. */
#include "reader.h"

#include <math.h>

#include "shared.h"

enum {
    ATT_READ_ATTEMPTS = 4, /* a reader starts again about once a merge; more often means it is being outrun */
#ifdef ATTND_TSAN
    CHUNK_TILES = 1, /* copied lane by lane: see load_chunk */
    COPIED = 1,      /* so are a row of Q and biases */
#else
    CHUNK_TILES = 64,
    COPIED = 0,
#endif
    CHUNK = CHUNK_TILES * ATT_TILE_LANES
};

/* Scores up to this, in octaves 1.44 times as many, leave masks below ATT_NO_SHIFT. */
#define MASKABLE 1e14

/* Into the reads of an entry and of a row, one by one; `columns`, which is reading->count, is a constant in that of an entry: so
 * its copies are of constant size, and no calls. */
#define READER_INLINE static inline __attribute__((always_inline))

/* A row being read: a private copy of its base and the columns that are asked for. */
struct reading {
    const struct att_region *region;
    double *sums; /* 4 + count: the head columns, then value columns first .. first + count - 1 */
    uint32_t first, count;
    struct att_row *row;
    double largest[4]; /* for folding, as the next */
    float value_scale;
    bool back;
};

/* Entries [position, position + entries): of whole tiles in a row, or of a part of one: a tile that is not full yet, or one that
 * begins before `position`, where there may be keys that left before the row became as large as it is. */
struct chunk {
    const float *keys, *heads, *values; /* of whole tiles */
    const float *rows;                  /* of a part: its tile's, each lane's key and value */
    const float *bias;                  /* -inf where no entry of the stretch is */
    float masked[CHUNK];                /* the same, where the log's is not as it should be */
    const void *scaled_q;
    uint32_t tiles, entries;
    uint32_t first; /* lane, of the stretch */
    bool is_part;
    bool maskable; /* the row may meet any key that ever was, masked */
};

#ifdef ATTND_TSAN
/* What the kernel reads is copied with relaxed loads, so that its vector loads race with nobody. */
static void load_chunk(const struct att_region *region, size_t tile, struct chunk *chunk)
{
    static _Thread_local float keys[ATT_MAX_COLUMNS * ATT_TILE_LANES];
    static _Thread_local float heads[ATT_HEAD_KEPT * ATT_TILE_LANES];
    static _Thread_local float values[ATT_MAX_COLUMNS * ATT_TILE_LANES];
    static _Thread_local float rows[2 * (ATT_MAX_COLUMNS + 16) * ATT_TILE_LANES];
    const size_t key_floats = (size_t)region->d * ATT_TILE_LANES;
    const size_t value_floats = (size_t)region->d_v * ATT_TILE_LANES;

    att_shared_load(keys, region->log_keys + tile * key_floats, 4 * key_floats);
    att_shared_load(values, region->log_values + tile * value_floats, 4 * value_floats);
    att_shared_load(heads, region->log_heads + tile * ATT_HEAD_KEPT * ATT_TILE_LANES, sizeof heads);
    att_shared_load(rows, region->log_rows + tile * ATT_TILE_LANES * region->row_floats,
                    4 * ATT_TILE_LANES * region->row_floats);
    chunk->keys = keys;
    chunk->heads = heads;
    chunk->values = values;
    chunk->rows = rows;
}
#else
static void load_chunk(const struct att_region *region, size_t tile, struct chunk *chunk)
{
    chunk->keys = region->log_keys + tile * region->d * ATT_TILE_LANES;
    chunk->heads = region->log_heads + tile * ATT_HEAD_KEPT * ATT_TILE_LANES;
    chunk->values = region->log_values + tile * region->d_v * ATT_TILE_LANES;
    chunk->rows = region->log_rows + tile * ATT_TILE_LANES * region->row_floats;
}
#endif

/* Masks what is not of the stretch. */
static void mask_others(struct chunk *chunk)
{
    const uint32_t lanes = chunk->tiles * ATT_TILE_LANES;
    const float *bias = chunk->bias;

    chunk->bias = chunk->masked;
    if (chunk->is_part) { /* of constant length: no call, and in vectors */
        att_shared_load(chunk->masked, bias, sizeof(float) * ATT_TILE_LANES);
        for (uint32_t lane = 0; lane < ATT_TILE_LANES; lane++)
            if (lane - chunk->first >= chunk->entries)
                chunk->masked[lane] = -INFINITY;
        return;
    }
    att_shared_load(chunk->masked, bias, sizeof(float) * lanes);
    for (uint32_t lane = 0; lane < chunk->first; lane++)
        chunk->masked[lane] = -INFINITY;
    for (uint32_t lane = chunk->first + chunk->entries; lane < lanes; lane++)
        chunk->masked[lane] = -INFINITY;
}

/* The tiles from `position` on, up to a chunk, the ring's end, or the last that is full at `end`; or, when that is reached,
 * the part of a tile up to `end`. A tile's lanes are written when it is full: until then its entries are rows only. */
static void take_chunk(const struct att_region *region, uint64_t position, uint64_t end, struct chunk *chunk)
{
    const size_t tile = att_log_tile(region, position);
    const uint64_t first = position / ATT_TILE_LANES * ATT_TILE_LANES;
    const uint64_t full = (end - first) / ATT_TILE_LANES;
    uint64_t tiles;

    chunk->is_part = full == 0 || (position != first && !chunk->maskable);
    tiles = chunk->is_part ? 1 : full > CHUNK_TILES ? CHUNK_TILES : full;
    tiles = tiles > region->log_tiles - tile ? region->log_tiles - tile : tiles;
    chunk->tiles = (uint32_t)tiles;
    chunk->entries =
        (uint32_t)((first + tiles * ATT_TILE_LANES < end ? first + tiles * ATT_TILE_LANES : end) - position);
    chunk->first = (uint32_t)(position - first);
    load_chunk(region, tile, chunk);
    chunk->bias = region->log_bias + tile * ATT_TILE_LANES;
    if (COPIED || region->causal || chunk->entries < tiles * ATT_TILE_LANES)
        mask_others(chunk);
}

/* The causal mask: row i sees tokens 0..i. Counts what it does see, where the service's count is of no use. */
static void mask_later_tokens(struct reading *reading, struct chunk *chunk, uint64_t position)
{
    const struct att_region *region = reading->region;
    const uint64_t first = position / ATT_TILE_LANES * ATT_TILE_LANES;

    for (uint32_t lane = 0; lane < chunk->tiles * ATT_TILE_LANES; lane++) {
        uint32_t index;
        att_shared_load(&index, &region->log_entries[att_log_slot(region, first + lane)].index, sizeof index);
        if (index > att_row_id(reading->row))
            chunk->masked[lane] = -INFINITY;
        if (chunk->masked[lane] > -INFINITY)
            reading->row->tokens +=
                signbit(chunk->heads[(size_t)(lane / ATT_TILE_LANES) * ATT_HEAD_KEPT * ATT_TILE_LANES +
                                     lane % ATT_TILE_LANES])
                    ? -1
                    : 1;
    }
}

/* Where the rows of a part are from column `first` of theirs on; zeros where nothing of the stretch is. */
static void find_rows(const struct att_region *region, const struct chunk *chunk, uint32_t first,
                      const float *ret_rows[ATT_TILE_LANES])
{
    const uint32_t end = chunk->first + chunk->entries;

    for (uint32_t lane = 0; lane < ATT_TILE_LANES; lane++)
        ret_rows[lane] = att_no_key;
    for (uint32_t lane = chunk->first; lane < end; lane++)
        if (chunk->bias[lane] > -INFINITY)
            ret_rows[lane] = chunk->rows + lane * region->row_floats + first;
}

/* The weights, with the sums of the head columns and of the first value column that is asked for. Masked values of a part
 * are read as zeros: the service may be writing the next entry there, and its value may be too large for value_scale. */
static void weigh_chunk(const struct reading *reading, const struct chunk *chunk, struct att_weights *work,
                        struct att_read_sums *ret)
{
    const struct att_region *region = reading->region;
    const float *keys[ATT_TILE_LANES];
    float column[ATT_TILE_LANES] = {0};

    if (!chunk->is_part) {
        region->kernel->read(work, chunk->heads, chunk->values + (size_t)reading->first * ATT_TILE_LANES, region->d_v,
                             ret);
        return;
    }
    find_rows(region, chunk, 0, keys);
    for (uint32_t lane = chunk->first; lane < chunk->first + chunk->entries; lane++)
        if (keys[lane] != att_no_key)
            column[lane] = keys[lane][region->d + reading->first];
    work->key_rows = keys;
    region->kernel->read(work, chunk->heads, column, region->d_v, ret);
}

/* The sums of `count` value columns from `first` on, at most 64. */
static void sum_columns(const struct att_region *region, const struct chunk *chunk, const struct att_weights *work,
                        uint32_t first, uint32_t count, double *ret_sums)
{
    const float *rows[ATT_TILE_LANES];

    if (!chunk->is_part) {
        region->kernel->sums(work, chunk->values, region->d_v, first, count, ret_sums);
        return;
    }
    find_rows(region, chunk, region->d + first, rows);
    region->kernel->row_sums(work, rows, count, ret_sums);
}

static void fold_chunk(struct reading *reading, const struct chunk *chunk)
{
    const struct att_region *region = reading->region;
    const struct att_numerics *numerics = &region->numerics;
    struct att_read_sums read;
    _Alignas(64) double weights[CHUNK]; /* a vector across two cache lines is slow to read back */
    double added[64], largest, *values = reading->sums + ATT_HEAD_COLUMNS;
    struct att_weights work = {
        /* every field: the rest would be zeroed in a way that costs a tenth of a short fold */
        .precision = region->precision,
        .rows = 1,
        .tiles = chunk->tiles,
        .d = region->d,
        .q = chunk->scaled_q,
        .keys = chunk->keys,
        .key_rows = NULL,
        .bias = chunk->bias,
        .shift = &reading->row->shift,
        .weights = weights,
        .signs = reading->count > 1,
        .back = reading->back,
        .value_scale = reading->value_scale,
        .largest = &largest,
    };

    weigh_chunk(reading, chunk, &work, &read);
    if (largest > ATT_NO_SHIFT && largest - reading->row->shift > numerics->headroom) {
        att_row_raise(reading->row, reading->sums, ATT_HEAD_COLUMNS + reading->count, largest);
        weigh_chunk(reading, chunk, &work, &read);
    }
    /* Of what has a factor g, no less than it is: to a bound these errors add a sixteenth of those of D and C at most, for the
     * door keeps kappa max(1, |s||q|) g below that. */
    const double magnitudes[ATT_HEAD_COLUMNS] = {read.magnitude[0], read.magnitude[1],
                                                 read.magnitude[0] * reading->largest[2],
                                                 read.magnitude[1] * reading->largest[2]};
    att_row_account(reading->row, reading->sums, magnitudes, chunk->entries, reading->largest, numerics,
                    att_head_roundings(chunk->tiles), att_head_roundings(chunk->tiles),
                    1.0 / (double)reading->value_scale);
#pragma GCC unroll 4
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        reading->sums[c] += read.head[c];
    /* A row of a part is summed in whole vectors: so its first column is not left out. */
    uint32_t done = chunk->is_part && reading->count > 1 ? 0 : 1;
    values[0] += done == 1 ? read.value : 0.0;
    for (; done < reading->count; done += 64) {
        uint32_t some = reading->count - done < 64 ? reading->count - done : 64;
        sum_columns(region, chunk, &work, reading->first + done, some, added);
        for (uint32_t c = 0; c < some; c++)
            values[done + c] += added[c];
    }
}

/* A key that left before the row became as large as it is may have been any number of times larger than those that are folded:
 * the door let these meet the row. */
static void bound_largest_g(struct reading *reading)
{
    double *largest = reading->largest;
    const double met = 1.0001 * ATT_DOOR / (reading->region->numerics.kappa * att_larger(1.0, reading->row->q_norm));

    if (met >= largest[2])
        return;
    largest[2] = met;
    largest[3] = largest[1] * met < largest[3] ? largest[1] * met : largest[3];
}

/* Folds the entries [position, count) into the base that was copied. */
static __attribute__((noinline)) void fold_pending(struct reading *reading, uint32_t row, uint64_t position,
                                                   uint64_t count)
{
    const struct att_region *region = reading->region;
    const float *q = region->q + (size_t)row * region->d;
    float copied[COPIED * ATT_MAX_COLUMNS + 1];
    _Alignas(64) double scaled_q[ATT_MAX_COLUMNS];
    static _Thread_local bool back;
    struct chunk chunk;
    uint32_t visible;

    if (COPIED) {
        att_shared_load(copied, q, sizeof(float) * region->d);
        q = copied;
    }
    region->kernel->scale(region->precision, region->scale, region->d, q, scaled_q);
    chunk.scaled_q = scaled_q;
    for (int c = 0; c < 4; c++)
        reading->largest[c] = atomic_load_explicit(&region->header->largest[c], memory_order_relaxed);
    reading->value_scale = att_value_scale((float)reading->largest[1]);
    chunk.maskable = reading->row->q_norm * reading->largest[2] <= MASKABLE;
    bound_largest_g(reading);
    reading->back = back = !back; /* every second one: see kernel_read.c */
    while (position < count) {
        take_chunk(region, position, count, &chunk);
        if (region->causal)
            mask_later_tokens(reading, &chunk, position);
        fold_chunk(reading, &chunk);
        position += chunk.entries;
    }
    if (!region->causal) {
        att_shared_load(&visible, &region->log_visible[att_log_slot(region, count - 1)], sizeof visible);
        reading->row->tokens = visible;
    }
}

/* Begins to fetch the row of Q, which folding will need at once, if there is anything to fold: it would be one more miss after
 * those of the base. */
READER_INLINE void fetch_pending_q(const struct att_region *region, uint32_t row)
{
    const struct att_region_header *header = region->header;

    if (atomic_load_explicit(&header->count, memory_order_relaxed) !=
        atomic_load_explicit(&header->settled, memory_order_relaxed))
        att_fetch_q(region, row);
}

/* Where a row's base was found. */
struct place {
    struct att_tile *tile;
    uint32_t slot;
    uint64_t word, count, position;
};

/* ATT_AGAIN: it is being written. ATT_ENOENT: there is no base. */
READER_INLINE enum att_status find_base(const struct att_region *region, uint32_t row, struct place *place)
{
    place->slot = atomic_load_explicit(&region->slots[row], memory_order_acquire);
    fetch_pending_q(region, row);
    if (place->slot / ATT_TILE_ROWS >= region->tiles)
        return ATT_ENOENT;
    place->word = atomic_load_explicit(&region->words[place->slot / ATT_TILE_ROWS], memory_order_acquire);
    place->count = atomic_load_explicit(&region->header->count, memory_order_acquire);
    if (ATT_WORD_PHYSICAL(place->word) >= region->physical_tiles)
        return ATT_AGAIN;
    place->tile = att_region_tile(region, ATT_WORD_PHYSICAL(place->word));
    att_shared_load(&place->position, &place->tile->position, sizeof place->position);
    return place->count - place->position > region->log_capacity ? ATT_AGAIN : ATT_OK;
}

READER_INLINE void copy_base(const struct att_region *region, const struct place *place, uint32_t first, uint32_t count,
                             struct att_row *ret_row, double *ret_sums)
{
    const uint32_t i = place->slot % ATT_TILE_ROWS;
    const double *sums = att_tile_sums(place->tile, i, region->columns);

    att_shared_load(ret_row, &place->tile->rows[i], sizeof *ret_row);
    att_shared_load(ret_sums, sums, sizeof(double) * ATT_HEAD_COLUMNS);
    att_shared_load(ret_sums + ATT_HEAD_COLUMNS, sums + ATT_HEAD_COLUMNS + first, sizeof(double) * count);
}

/* Whether all that was read since find_base is what was there then, of the row as asked. ATT_AGAIN: it was disturbed. */
READER_INLINE enum att_status verify(const struct att_region *region, uint32_t row, const struct place *place,
                                     const struct att_row *base)
{
    /* Partners: the release fences in tiles.c (after flips) and entries.c (after reading tail). */
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&region->words[place->slot / ATT_TILE_ROWS], memory_order_relaxed) != place->word ||
        atomic_load_explicit(&region->header->tail, memory_order_relaxed) > place->position)
        return ATT_AGAIN;
    if (att_row_id(base) != row && atomic_load_explicit(&region->slots[row], memory_order_relaxed) != place->slot)
        return ATT_AGAIN; /* it has moved to another tile */
    if (att_row_id(base) != row ||
        base->q_version != atomic_load_explicit(&region->row_version[row], memory_order_relaxed))
        return ATT_ENOENT;
    return ATT_OK;
}

/* One attempt. ATT_OK: reading holds a consistent state. */
READER_INLINE enum att_status read_once(struct reading *reading, uint32_t row, uint32_t columns)
{
    struct place place;
    const enum att_status status = find_base(reading->region, row, &place);

    if (status != ATT_OK)
        return status;
    copy_base(reading->region, &place, reading->first, columns, reading->row, reading->sums);
    if (place.position != place.count)
        fold_pending(reading, row, place.position, place.count);
    return verify(reading->region, row, &place, reading->row);
}

/* The values of sums that were read. */
READER_INLINE enum att_status answer(const struct att_region *region, const struct att_row *row, const double *sums,
                                     uint32_t columns, double *ret_values, double *ret_error_bound)
{
    const enum att_status status = att_row_check(row, sums, region->numerics.budget);

    if (status == ATT_OK)
        att_row_answer(row, sums, sums + ATT_HEAD_COLUMNS, columns, &region->numerics, ret_values, ret_error_bound);
    return status;
}

/* The answer of the columns that `reading` names, into its sums; then as values. */
READER_INLINE enum att_status read_row(struct reading *reading, uint32_t row, uint32_t columns, double *ret_values,
                                       double *ret_error_bound)
{
    enum att_status status = ATT_AGAIN;

    for (int attempt = 0; attempt < ATT_READ_ATTEMPTS && status == ATT_AGAIN; attempt++)
        status = read_once(reading, row, columns);
    if (status != ATT_OK)
        return ATT_AGAIN;
    return answer(reading->region, reading->row, reading->sums, columns, ret_values, ret_error_bound);
}

void att_read_ahead(const struct att_region *region, uint32_t row, uint32_t column)
{
    const uint32_t slot = atomic_load_explicit(&region->slots[row], memory_order_relaxed);

    fetch_pending_q(region, row);
    if (slot / ATT_TILE_ROWS >= region->tiles)
        return;
    const uint64_t word = atomic_load_explicit(&region->words[slot / ATT_TILE_ROWS], memory_order_relaxed);
    if (ATT_WORD_PHYSICAL(word) >= region->physical_tiles)
        return;
    struct att_tile *tile = att_region_tile(region, ATT_WORD_PHYSICAL(word));
    const double *sums = att_tile_sums(tile, slot % ATT_TILE_ROWS, region->columns);
    __builtin_prefetch(&tile->position);
    __builtin_prefetch(&tile->rows[slot % ATT_TILE_ROWS]);
    __builtin_prefetch(sums);
    __builtin_prefetch(sums + ATT_HEAD_COLUMNS + column);
}

/* With entries to fold, or again. */
static __attribute__((noinline)) enum att_status read_entry(const struct att_region *region, uint32_t row,
                                                            uint32_t column, double *ret_value, double *ret_error_bound)
{
    double sums[ATT_HEAD_COLUMNS + 1];
    struct att_row base;
    struct reading reading = {.region = region, .row = &base, .sums = sums, .first = column, .count = 1};

    return read_row(&reading, row, 1, ret_value, ret_error_bound);
}

enum att_status att_read_entry(const struct att_region *region, uint32_t row, uint32_t column, double *ret_value,
                               double *ret_error_bound)
{
    double sums[ATT_HEAD_COLUMNS + 1];
    struct att_row base; /* no address of it is ever taken: in registers */
    struct place place;

    if (find_base(region, row, &place) != ATT_OK || place.position != place.count)
        return read_entry(region, row, column, ret_value, ret_error_bound);
    copy_base(region, &place, column, 1, &base, sums);
    if (verify(region, row, &place, &base) != ATT_OK)
        return read_entry(region, row, column, ret_value, ret_error_bound);
    return answer(region, &base, sums, 1, ret_value, ret_error_bound);
}

enum att_status att_read_row(const struct att_region *region, uint32_t row, double *ret_values, double *ret_error_bound)
{
    double sums[ATT_HEAD_COLUMNS + ATT_MAX_COLUMNS];
    struct att_row base;
    struct reading reading = {.region = region, .row = &base, .sums = sums, .count = region->d_v};

    return read_row(&reading, row, region->d_v, ret_values, ret_error_bound);
}
