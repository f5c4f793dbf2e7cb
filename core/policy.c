/* When to merge, and which rows to keep: ski rental, twice. The argument and the constants: docs/policy.md.
 *
 * Costs are in nanoseconds, from a model whose constants were measured on one machine. What matters is what merging costs
 * against computing a row, and that differs between processors and sizes: so both are measured as they happen, and the
 * model's two rates follow. */
#include <math.h>

#include "engine_impl.h"

#define QUERY_NS        30.0  /* a query with anything pending, */
#define QUERY_ENTRIES   24.0  /* as if there were so many more: the row of Q is scaled, and 16 lanes taken at a time */
#define QUERY_NS_KEY    0.05  /* for each pending entry and column of its key */
#define QUERY_NS_VALUE  0.13  /* and of its value */
#define MERGE_NS_TERM   0.04  /* for each row, entry and column; at first */
#define MERGE_NS_ROW    250.0 /* for each row: taking up its base and writing it back */
#define MERGE_NS_ENTRY  100.0 /* packing and settling it */
#define MERGE_NS        3000.0
#define MERGE_FRACTION  0.1     /* of a merge's cost, spent by queries on the log, makes it due */
#define FORESIGHT       0.125   /* of the last updates' reads in the mean of late */
#define REFRESH_NS      20000.0 /* a read that its base can't answer goes to the merge thread and back */
#define REFRESH_NS_TERM 0.15    /* for each token and column, of one row alone; at first */
#define WINDOW          0.25    /* of what computing a row costs, spent by merging */
#define CREDIT          0.125   /* reads for each row that are taken for granted: see mean_gap */
#define SAMPLE_WEIGHT   0.0625  /* of one measurement in a rate */
#define SAMPLE_NS       5000.0  /* shorter ones are no measurements */
#define REPLAY_NS       2.5e8   /* of merging into bases before the start: somebody waits for the first answer */

void att_policy_init(struct att_engine *engine)
{
    atomic_store_explicit(&engine->merge_ns_term, MERGE_NS_TERM, memory_order_relaxed);
    atomic_store_explicit(&engine->refresh_ns_term, REFRESH_NS_TERM, memory_order_relaxed);
}

/* Multiply-adds of a row and an entry. */
static double terms(const struct att_engine *engine)
{
    return engine->region.d + engine->region.columns;
}

/* Merging `entries` entries into one row. */
double att_policy_row_cost(const struct att_engine *engine, uint64_t entries)
{
    const double rate = atomic_load_explicit(&engine->merge_ns_term, memory_order_relaxed);

    return MERGE_NS_ROW + rate * (double)entries * terms(engine);
}

/* Computing one row over `tokens` tokens. */
double att_policy_refresh_cost(const struct att_engine *engine, uint32_t tokens)
{
    const double rate = atomic_load_explicit(&engine->refresh_ns_term, memory_order_relaxed);

    return REFRESH_NS + rate * (double)tokens * terms(engine);
}

/* One outlier moves a rate little, many of them move it all the way. */
static void sample(_Atomic double *rate, double ns, double work)
{
    const double now = atomic_load_explicit(rate, memory_order_relaxed);

    if (ns >= SAMPLE_NS && work > 0.0)
        atomic_store_explicit(rate, now + SAMPLE_WEIGHT * (fmin(ns / work, 4.0 * now) - now), memory_order_relaxed);
}

/* `rows` rows were folded over `entries` entries in so much processor time. Over few entries most of it is the rows' own, which
 * a machine may need more of than MERGE_NS_ROW. By the merge thread, as the next. */
void att_policy_sample_merge(struct att_engine *engine, double ns, uint64_t rows, uint64_t entries)
{
    const double work = (double)entries * terms(engine);

    if (work * MERGE_NS_TERM >= MERGE_NS_ROW)
        sample(&engine->merge_ns_term, ns - (double)rows * MERGE_NS_ROW, (double)rows * work);
}

/* One row was computed alone over all tokens, by this thread or, where that tells nothing, with the team. */
void att_policy_sample_row(struct att_engine *engine, double ns)
{
    const double work = engine->merger.used * terms(engine);

    if (att_team(engine, work) == 1)
        sample(&engine->refresh_ns_term, ns, work);
}

/* A query of so many columns, heads among them. */
static double query_cost(const struct att_engine *engine, uint64_t pending, uint32_t columns)
{
    return QUERY_NS + ((double)pending + QUERY_ENTRIES) * (QUERY_NS_KEY * engine->region.d + QUERY_NS_VALUE * columns);
}

/* What queries have spent on pending entries. Owner: service; read by the merge thread. */
void att_policy_spend_many(struct att_engine *engine, uint64_t pending, uint32_t columns, uint32_t queries)
{
    engine->index.spent += (uint64_t)(query_cost(engine, pending, columns) * queries);
    atomic_store_explicit(&engine->spent, engine->index.spent, memory_order_relaxed);
}

void att_policy_spend(struct att_engine *engine, uint64_t pending, uint32_t columns)
{
    att_policy_spend_many(engine, pending, columns, 1);
}

/* After some updates, if any: the reads since those before tell how many to expect for each. None at once after no reads: that is
 * a run of updates, whose reads are still to come. By the service. */
void att_policy_note_updates(struct att_engine *engine)
{
    struct att_index *index = &engine->index;
    const uint64_t updates = index->updates - index->updates_noted, reads = index->queries - index->queries_noted;

    if (updates == 0)
        return;
    index->mean_reads += FORESIGHT * ((double)reads / (double)updates - index->mean_reads);
    atomic_store_explicit(&engine->reads_expected, reads > 0 ? index->mean_reads : 0.0, memory_order_relaxed);
    index->updates_noted = index->updates;
    index->queries_noted = index->queries;
}

/* What a group of computed answers spends on the entries before its cut: packing them, folding them into `rows` rows, and
 * computing the `changed` ones whose row of Q is among them, which a merge would give a base. By the merge thread. */
void att_policy_spend_jobs(struct att_engine *engine, uint64_t cut, uint32_t rows, uint32_t changed)
{
    const uint64_t entries = cut - atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);
    const double ns = MERGE_NS_ENTRY * (double)entries + rows * att_policy_row_cost(engine, entries) +
                      changed * att_policy_refresh_cost(engine, engine->merger.used);

    if (entries > 0)
        atomic_store_explicit(&engine->spent_jobs,
                              atomic_load_explicit(&engine->spent_jobs, memory_order_relaxed) + (uint64_t)ns,
                              memory_order_relaxed);
}

static uint64_t spent(const struct att_engine *engine)
{
    return atomic_load_explicit(&engine->spent, memory_order_relaxed) +
           atomic_load_explicit(&engine->spent_jobs, memory_order_relaxed);
}

/* A merge has been made: what was spent so far is paid. By the merge thread. */
void att_policy_settle(struct att_engine *engine)
{
    atomic_store_explicit(&engine->spent_merged, spent(engine), memory_order_relaxed);
}

/* Whether they have spent enough since the last merge, or are about to: with many reads for each update, waiting for them to
 * spend it is no more than a loss. Any of the two threads. */
bool att_policy_merge_due(const struct att_engine *engine, uint64_t entries)
{
    const double rows = (double)atomic_load_explicit(&engine->rows_hot, memory_order_relaxed);
    const double cost = MERGE_NS + MERGE_NS_ENTRY * (double)entries + rows * att_policy_row_cost(engine, entries);
    const uint64_t since = spent(engine) - atomic_load_explicit(&engine->spent_merged, memory_order_relaxed);
    const double reads = atomic_load_explicit(&engine->reads_expected, memory_order_relaxed);

    return (double)since + reads * query_cost(engine, 1, ATT_HEAD_COLUMNS + 1) >= MERGE_FRACTION * cost;
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

/* What merging costs, or would cost, a row between two reads of it, if all rows were read alike: from the reads and merges
 * of late, with CREDIT reads for each row before there were any. A row's reads within a WINDOW count once: a row that is read
 * all the time says little about the others. */
static void note_mean_gap(struct att_engine *engine, double cost)
{
    struct att_merger *merger = &engine->merger;
    const uint64_t reads = atomic_load_explicit(&engine->row_reads, memory_order_relaxed);
    const double rows = engine->region.n_q, least = CREDIT * rows;

    merger->recent_merged += cost;
    merger->recent_reads += (double)(reads - merger->row_reads);
    merger->row_reads = reads;
    atomic_store_explicit(&engine->mean_gap, rows * merger->recent_merged / (merger->recent_reads + least),
                          memory_order_relaxed);
    if (merger->recent_merged > 2.0 * att_policy_refresh_cost(engine, merger->used)) {
        merger->recent_merged /= 2.0;
        merger->recent_reads /= 2.0;
    }
}

/* A merge of `entries` entries has been made, into the hot rows, if any. By the merge thread. (Before the start it tells
 * nothing about readers: there are none.) */
void att_policy_note_merge(struct att_engine *engine, uint64_t entries)
{
    const double cost = att_policy_row_cost(engine, entries);
    const uint64_t merged = atomic_load_explicit(&engine->merged, memory_order_relaxed) + (uint64_t)cost;

    if (!engine->index.started)
        return;
    atomic_store_explicit(&engine->merged, merged, memory_order_relaxed);
    note_mean_gap(engine, cost);
    if ((double)(merged - atomic_load_explicit(&engine->window, memory_order_relaxed)) >
        WINDOW * att_policy_refresh_cost(engine, engine->merger.used))
        atomic_store_explicit(&engine->window, merged, memory_order_relaxed);
}

/* Books a read of the row now; whether it is the first in the window. */
static bool read_now(struct att_engine *engine, uint32_t row)
{
    const uint64_t now = atomic_load_explicit(&engine->merged, memory_order_relaxed) + 1;
    const uint64_t last = last_read(engine, row);

    if (last == now)
        return false;
    atomic_store_explicit(&engine->last_read[row], now, memory_order_relaxed);
    return last <= atomic_load_explicit(&engine->window, memory_order_relaxed);
}

/* A read by the service, or reported to it. */
void att_policy_note_read(struct att_engine *engine, uint32_t row)
{
    if (read_now(engine, row))
        atomic_store_explicit(&engine->row_reads, atomic_load_explicit(&engine->row_reads, memory_order_relaxed) + 1,
                              memory_order_relaxed);
}

/* The same of a row of a column, by the merge thread. */
void att_policy_note_wide_read(struct att_engine *engine, uint32_t row)
{
    engine->merger.recent_reads += read_now(engine, row);
}

/* The same for a row that nobody has ever read: nothing is known of it, so it is taken for an average one. */
static bool average_is_worth_it(const struct att_engine *engine, double refresh)
{
    return atomic_load_explicit(&engine->mean_gap, memory_order_relaxed) <= refresh;
}

/* Whether a cold row that is read now becomes hot: not if keeping it since its last read would have cost more than
 * computing it does. */
static bool keep(const struct att_engine *engine, uint32_t row, double computing)
{
    if (engine->options.never_keep)
        return false;
    if (engine->options.eager)
        return true;
    return last_read(engine, row) > 0 ? unread(engine, row) <= computing : average_is_worth_it(engine, computing);
}

/* By the service, before att_policy_note_read. */
bool att_policy_keep(const struct att_engine *engine, uint32_t row)
{
    return keep(engine, row, att_policy_refresh_cost(engine, engine->index.used));
}

/* By the merge thread, before att_policy_note_wide_read. A row among many costs no more than merging so many entries. */
bool att_policy_keep_wide(const struct att_engine *engine, uint32_t row)
{
    const uint32_t tokens = engine->merger.used;

    return keep(engine, row, fmin(att_policy_row_cost(engine, tokens), att_policy_refresh_cost(engine, tokens)));
}

/* Whether the merges before the start, of `entries` entries each, would take too long: as many more for as many more updates.
 * Then all bases are dropped, and made again in the background once the engine serves. */
static bool holds_up_the_start(const struct att_engine *engine, uint64_t entries)
{
    const double updates = (double)engine->index.updates;
    const double merges = 1.0 + (double)atomic_load_explicit(&engine->merges, memory_order_relaxed);
    const double all = floor(merges * fmax((double)engine->expected, updates) / updates);
    const double rows = (double)atomic_load_explicit(&engine->rows_hot, memory_order_relaxed);

    return all * rows * att_policy_row_cost(engine, entries) > REPLAY_NS * engine->options.threads;
}

/* Whether a hot row goes cold instead of having `entries` more merged into it. By the merge team. */
bool att_policy_goes_cold(const struct att_engine *engine, uint32_t row, uint64_t entries)
{
    const double refresh = att_policy_refresh_cost(engine, engine->merger.used);

    if (!engine->index.started)
        return holds_up_the_start(engine, entries);
    if (engine->options.eager)
        return false;
    return unread(engine, row) + att_policy_row_cost(engine, entries) > refresh ||
           (last_read(engine, row) == 0 && !average_is_worth_it(engine, refresh));
}
