/* When to merge, and which rows to keep: ski rental, twice. The argument and the constants: docs/policy.md.
 *
 * Costs are estimates in nanoseconds. Only their ratio matters; they were measured with attnbench on one machine. */
#include "engine_impl.h"

#define QUERY_NS       60.0  /* a query with anything pending, beside its entries */
#define QUERY_NS_TERM  0.055 /* for each pending entry and column */
#define MERGE_NS_TERM  0.018 /* for each row, entry and column */
#define MERGE_NS_ROW   100.0 /* for each row: copying its base */
#define MERGE_NS_ENTRY 150.0 /* settling it */
#define MERGE_NS       3000.0
#define MERGE_FRACTION 0.15 /* of a merge's cost, spent by queries on the log, makes it due; best in simulation */

/* What queries have spent on pending entries. Owner: service; read by the merge thread. */
void att_policy_spend_many(struct att_engine *engine, uint64_t pending, uint32_t columns, uint32_t queries)
{
    const double ns = QUERY_NS + QUERY_NS_TERM * (double)pending * (engine->region.d + columns);

    engine->index.spent += (uint64_t)(ns * queries);
    atomic_store_explicit(&engine->spent, engine->index.spent, memory_order_relaxed);
}

void att_policy_spend(struct att_engine *engine, uint64_t pending, uint32_t columns)
{
    att_policy_spend_many(engine, pending, columns, 1);
}

/* Whether they have spent enough since the last merge. Any of the two threads. */
bool att_policy_merge_due(const struct att_engine *engine, uint64_t entries)
{
    const struct att_region *region = &engine->region;
    const double rows = (double)atomic_load_explicit(&engine->rows_hot, memory_order_relaxed);
    const double terms = (double)entries * (region->d + region->columns);
    const double cost = MERGE_NS + MERGE_NS_ENTRY * (double)entries + rows * (MERGE_NS_ROW + MERGE_NS_TERM * terms);
    const uint64_t spent = atomic_load_explicit(&engine->spent, memory_order_relaxed) -
                           atomic_load_explicit(&engine->spent_merged, memory_order_relaxed);

    return (double)spent >= MERGE_FRACTION * cost;
}

/* The log that a row has not paid for: entries merged, into rows that were hot, since its last read. A refresh costs
 * what merging as many entries as there are tokens does, so the two compare as numbers of entries. */
static uint64_t unread(const struct att_engine *engine, uint32_t row)
{
    return atomic_load_explicit(&engine->merged, memory_order_relaxed) -
           atomic_load_explicit(&engine->last_read[row], memory_order_relaxed);
}

static uint64_t refresh_cost(uint64_t tokens)
{
    return tokens > ATT_TILE_LANES ? tokens : ATT_TILE_LANES;
}

/* A read by the service, or reported to it. */
void att_policy_note_read(struct att_engine *engine, uint32_t row)
{
    const uint64_t merged = atomic_load_explicit(&engine->merged, memory_order_relaxed);

    if (atomic_load_explicit(&engine->last_read[row], memory_order_relaxed) != merged)
        atomic_store_explicit(&engine->last_read[row], merged, memory_order_relaxed);
}

/* Whether a cold row that is read now becomes hot: not if keeping it since its last read would have cost more than a
 * refresh does. By the service, before att_policy_note_read. */
bool att_policy_keep(const struct att_engine *engine, uint32_t row)
{
    if (engine->options.never_keep)
        return false;
    return engine->options.eager || unread(engine, row) <= refresh_cost(engine->index.used);
}

/* Whether a hot row goes cold instead of having `entries` more merged into it. By the merge team. */
bool att_policy_goes_cold(const struct att_engine *engine, uint32_t row, uint64_t entries)
{
    return !engine->options.eager && unread(engine, row) + entries > refresh_cost(engine->merger.used);
}
