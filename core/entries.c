/* The entry log, from the service's side: it alone appends and publishes.
 *
 * A slot belongs to readers from the store of `count` that publishes it until `tail` is past it. The service reuses a
 * slot only after reading such a tail, with a release fence in between; the fence's partner is the acquire fence in
 * reader.c, so a reader that saw new contents in a slot also sees that tail, and starts again. */
#include <math.h>

#include "engine_impl.h"
#include "shared.h"

enum att_status att_entries_room(struct att_engine *engine, uint32_t entries)
{
    struct att_index *index = &engine->index;

    if (index->count + entries - index->tail <= engine->region.log_capacity)
        return ATT_OK;
    /* Acquire: partner is the release of tail in merge.c; the settled rows before it are visible. */
    index->tail = atomic_load_explicit(&engine->region.header->tail, memory_order_acquire);
    atomic_thread_fence(memory_order_release);
    return index->count + entries - index->tail <= engine->region.log_capacity ? ATT_OK : ATT_AGAIN;
}

/* Turns `columns` columns of 16 rows into lanes. */
static void turn(const struct att_region *region, const float *const rows[ATT_TILE_LANES], uint32_t columns,
                 float *lanes)
{
#ifdef ATTND_TSAN /* see shared.h */
    static _Thread_local float copy[ATT_MAX_COLUMNS * ATT_TILE_LANES];
    region->kernel->pack_keys(ATT_SINGLE, rows, columns, copy);
    att_shared_store(lanes, copy, sizeof(float) * columns * ATT_TILE_LANES);
#else
    region->kernel->pack_keys(ATT_SINGLE, rows, columns, lanes);
#endif
}

/* Turns the rows of a full tile into lanes. None of its lanes can be read before: either the tile is not published whole,
 * or nobody reads yet. */
static void turn_tile(const struct att_region *region, uint64_t position)
{
    const size_t tile = att_log_tile(region, position);
    const float *keys[ATT_TILE_LANES], *values[ATT_TILE_LANES];

    for (uint32_t lane = 0; lane < ATT_TILE_LANES; lane++) {
        const float *row = region->log_rows + (tile * ATT_TILE_LANES + lane) * region->row_floats;
        keys[lane] = att_lane_key(region->log_bias[tile * ATT_TILE_LANES + lane], row);
        values[lane] = row + region->d;
    }
    turn(region, keys, region->d, region->log_keys + tile * region->d * ATT_TILE_LANES);
    turn(region, values, region->d_v, region->log_values + tile * region->d_v * ATT_TILE_LANES);
}

/* Field by field, in relaxed stores as in shared.h: copied in wider pieces it would wait for the stores of its fields, which
 * have just been made. */
static void store_entry(struct att_entry *to, const struct att_entry *entry)
{
    __atomic_store_n(&to->lsn, entry->lsn, __ATOMIC_RELAXED);
    __atomic_store_n(&to->index, entry->index, __ATOMIC_RELAXED);
    __atomic_store_n(&to->sign, entry->sign, __ATOMIC_RELAXED);
    __atomic_store_n(&to->q_version, entry->q_version, __ATOMIC_RELAXED);
    __atomic_store_n(&to->is_q, entry->is_q, __ATOMIC_RELAXED);
}

static void put(struct att_engine *engine, uint64_t position, const float *key, const float *value, float sign,
                const float head[ATT_HEAD_KEPT], float bias, const struct att_entry *entry)
{
    const struct att_region *region = &engine->region;
    const size_t slot = att_log_slot(region, position), lane = position % ATT_TILE_LANES;
    float *row = att_log_row(region, position);
    float *lanes = region->log_heads + (slot - lane) * ATT_HEAD_KEPT + lane;

    if (key && key != row) /* replay may put a row back where it is */
        att_shared_store(row, key, sizeof(float) * region->d);
    if (value && value != row + region->d)
        att_shared_store(row + region->d, value, sizeof(float) * region->d_v);
    for (uint32_t c = 0; c < ATT_HEAD_KEPT; c++)
        att_lane_store(lanes + (size_t)c * ATT_TILE_LANES, sign * head[c]);
    att_lane_store(region->log_bias + slot, bias);
    store_entry(&region->log_entries[slot], entry);
    if (lane == ATT_TILE_LANES - 1 || position < engine->index.count / ATT_TILE_LANES * ATT_TILE_LANES)
        turn_tile(region, position);
}

void att_entries_put_token(struct att_engine *engine, uint64_t position, uint32_t token, int32_t sign, uint64_t lsn,
                           const struct att_token *value)
{
    const struct att_entry entry = {.lsn = lsn, .index = token, .sign = sign};

    put(engine, position, value->key, value->value, (float)sign, value->head, value->bias, &entry);
}

/* A row of Q travels in the log as a masked entry of weight 0, so the kernel needs no case for it. Only its row holds it: in
 * lanes its key is 0. */
void att_entries_put_q(struct att_engine *engine, uint64_t position, uint32_t row, uint32_t q_version, uint64_t lsn,
                       const float *q)
{
    static const float head[ATT_HEAD_KEPT];
    const struct att_entry entry = {.lsn = lsn, .index = row, .q_version = q_version, .is_q = 1};

    put(engine, position, q, NULL, 1.0f, head, -INFINITY, &entry);
}

/* Before the engine has started: turns a pending + entry into one that counts nothing. */
void att_entries_cancel(struct att_engine *engine, uint64_t position, uint64_t lsn)
{
    static const float head[ATT_HEAD_KEPT];
    struct att_entry entry = engine->region.log_entries[att_log_slot(&engine->region, position)];
    entry.sign = 0;
    entry.lsn = lsn;
    put(engine, position, NULL, NULL, 1.0f, head, -INFINITY, &entry);
}

void att_entries_head(const struct att_region *region, uint64_t position, float ret_head[ATT_HEAD_KEPT])
{
    const size_t tile = att_log_tile(region, position), lane = position % ATT_TILE_LANES;
    const float *head = region->log_heads + tile * ATT_HEAD_KEPT * ATT_TILE_LANES + lane;

    for (uint32_t c = 0; c < ATT_HEAD_KEPT; c++)
        ret_head[c] = head[(size_t)c * ATT_TILE_LANES];
}

void att_entries_publish(struct att_engine *engine, uint64_t count)
{
    engine->index.count = count;
    if (count > 0)
        __atomic_store_n(&engine->region.log_visible[att_log_slot(&engine->region, count - 1)], engine->index.visible,
                         __ATOMIC_RELAXED);
    /* Release: the entries before it, and row versions. Partner: the acquire in reader.c. */
    atomic_store_explicit(&engine->region.header->count, count, memory_order_release);
    if (!engine->index.started)
        att_entries_offer(engine);
}

void att_entries_offer(struct att_engine *engine)
{
    /* Release: the entries before it. Partner: the acquire in merge.c. */
    atomic_store_explicit(&engine->offered, engine->index.count, memory_order_release);
}
