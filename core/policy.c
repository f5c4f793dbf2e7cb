/* When to merge, and which rows to keep: ski rental, twice. The argument and the constants: docs/policy.md.
 *
 * Costs are estimates in nanoseconds. Only their ratio matters; they are estimates from timings of one machine, not yet tuned. */
#include "engine_impl.h"

#define QUERY_NS        60.0  /* a query with anything pending, beside its entries */
#define QUERY_NS_TERM   0.055 /* for each pending entry and column */
#define MERGE_NS_TERM   0.018 /* for each row, entry and column */
#define MERGE_NS_ROW    100.0 /* for each row: copying its base */
#define MERGE_NS_ENTRY  150.0 /* settling it */
#define MERGE_NS        3000.0
#define MERGE_FRACTION  0.15    /* of a merge's cost, spent by queries on the log, makes it due; best in simulation */
#define REFRESH_NS      30000.0 /* a read that its base can't answer goes to the merge thread and back */
#define REFRESH_NS_TERM 0.12    /* for each token and column */
#define UNREAD_FRACTION 0.125   /* of a refresh, for a row that nobody has ever read */

/* Merging `entries` entries into one row. */
static double row_cost(const struct att_engine *engine, uint64_t entries)
{
    return MERGE_NS_ROW + MERGE_NS_TERM * (double)entries * (engine->region.d + engine->region.columns);
}

/* Computing one row over `tokens` tokens. */
static double refresh_cost(const struct att_engine *engine, uint32_t tokens)
{
    return REFRESH_NS + REFRESH_NS_TERM * (double)tokens * (engine->region.d + engine->region.columns);
}

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
    const double rows = (double)atomic_load_explicit(&engine->rows_hot, memory_order_relaxed);
    const double cost = MERGE_NS + MERGE_NS_ENTRY * (double)entries + rows * row_cost(engine, entries);
    const uint64_t spent = atomic_load_explicit(&engine->spent, memory_order_relaxed) -
                           atomic_load_explicit(&engine->spent_merged, memory_order_relaxed);

    return (double)spent >= MERGE_FRACTION * cost;
}

/* last_read[] is 1 + `merged` at the row's last read; 0: never. */
static uint64_t last_read(const struct att_engine *engine, uint32_t row)
{
    return atomic_load_explicit(&engine->last_read[row], memory_order_relaxed);
}

/* What merging into the row has cost since its last read, or would have, had it been hot. */
static double unread(const struct att_engine *engine, uint32_t row)
{
    const uint64_t last = last_read(engine, row);

    return (double)(atomic_load_explicit(&engine->merged, memory_order_relaxed) - (last > 0 ? last - 1 : 0));
}

/* A merge of `entries` entries has been made. By the merge thread. */
void att_policy_note_merge(struct att_engine *engine, uint64_t entries)
{
    atomic_fetch_add_explicit(&engine->merged, (uint64_t)row_cost(engine, entries), memory_order_relaxed);
}

/* A read by the service, or reported to it. */
void att_policy_note_read(struct att_engine *engine, uint32_t row)
{
    const uint64_t now = atomic_load_explicit(&engine->merged, memory_order_relaxed) + 1;

    if (last_read(engine, row) != now)
        atomic_store_explicit(&engine->last_read[row], now, memory_order_relaxed);
}

/* Whether a cold row that is read now becomes hot: not if keeping it since its last read would have cost more than a
 * refresh does. By the service, before att_policy_note_read. */
bool att_policy_keep(const struct att_engine *engine, uint32_t row)
{
    if (engine->options.never_keep)
        return false;
    return engine->options.eager || unread(engine, row) <= refresh_cost(engine, engine->index.used);
}

/* Whether a hot row goes cold instead of having `entries` more merged into it. By the merge team. */
bool att_policy_goes_cold(const struct att_engine *engine, uint32_t row, uint64_t entries)
{
    const double share = last_read(engine, row) > 0 ? 1.0 : UNREAD_FRACTION;

    return !engine->options.eager &&
           unread(engine, row) + row_cost(engine, entries) > share * refresh_cost(engine, engine->merger.used);
}
