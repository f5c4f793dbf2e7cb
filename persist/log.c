/* The log: from the service thread's appends to the disk.
 *
 * The ring has one producer, the service thread, and one consumer, the log thread. `end` counts
 * the bytes ever appended, `tail` those that were pushed, `head` those that are on disk; all run
 * freely, head <= tail <= end <= head + ATT_LOG_BUFFER_BYTES.
 *
 *     [head, tail)            records that are not yet durable; the log thread reads them
 *     [tail, end)             records that the service thread will push with those that follow
 *     [end, head + BUFFER)    room; the service thread writes there
 *
 * Only the service thread moves tail, with release, when the records' bytes are in place; the log
 * thread's acquire makes them readable. Only the log thread moves head, with release, when the
 * records are durable and it will not look at their bytes again; the service thread's acquire
 * allows it to overwrite them. So records stay in the ring until they are on disk, and a commit
 * that found no room on the disk loses nothing: head does not move, and the next attempt takes the
 * same records and what has come since.
 *
 * Group commit is what falls out of it: the thread takes all that has been published, commits once,
 * and by then more waits. A lone record is committed at once. With ATT_DURABLE_INTERVAL the thread
 * first waits out the interval since its last commit, unless the ring gets half full or somebody hurries it. The thread
 * sleeps on the doorbell (doorbell.h): ASLEEP when there is nothing to do, PACING while it waits
 * for time to pass.
 *
 * Trimming is this thread's work too, for LMDB has one writer: a bounded number of old batches goes
 * with each commit, or in transactions of their own while no records wait. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "checksum.h"
#include "store_impl.h"

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* ---- The service thread's side -------------------------------------------------------------- */

/* Lets the log thread take what has been appended. Release: the records' bytes come first; partner: the acquire in
 * waiting. */
static void publish(struct persist_log *log)
{
    atomic_store_explicit(&log->tail, log->end, memory_order_release);
}

static inline void ring_write(struct persist_log *log, uint64_t position, const void *data, size_t bytes)
{
    size_t at = (size_t)(position % ATT_LOG_BUFFER_BYTES);
    if (at + bytes <= ATT_LOG_BUFFER_BYTES) { /* all but once a round */
        memcpy(log->ring + at, data, bytes);
        return;
    }
    size_t first = ATT_LOG_BUFFER_BYTES - at < bytes ? (size_t)(ATT_LOG_BUFFER_BYTES - at) : bytes;
    memcpy(log->ring + at, data, first);
    memcpy(log->ring, (const char *)data + first, bytes - first);
}

/* Asks for the lines that the next record will take, to own them: the log thread has them, or nobody. */
#if defined(__x86_64__)
__attribute__((target("prfchw")))
#endif
static void
own_next(const struct persist_log *log, uint32_t length)
{
    for (uint32_t i = 0; i < length && i < 1024; i += 64)
        __builtin_prefetch(log->ring + (log->end + length + i) % ATT_LOG_BUFFER_BYTES, 1);
}

enum att_status att_store_append(struct att_store *store, const struct att_record *record, const void *payload)
{
    struct persist_log *log = &store->log;
    if (!log->ring)
        return ATT_EINVAL;
    if (store->options.durability == ATT_DURABLE_OFF)
        return ATT_OK;
    uint32_t length = record->length;
    if (length < sizeof *record || length > PERSIST_RECORD_MAX || length % 8 || record->lsn != log->next_lsn ||
        (length > sizeof *record && !payload))
        return ATT_EINVAL;
    if (log->end + length - log->head_seen > ATT_LOG_BUFFER_BYTES) {
        /* Acquire: the log thread is done with the bytes before head; partner: its release in
         * take_off. */
        log->head_seen = atomic_load_explicit(&log->head, memory_order_acquire);
        if (log->end + length - log->head_seen > ATT_LOG_BUFFER_BYTES)
            return ATT_AGAIN;
    }
    ring_write(log, log->end, record, sizeof *record);
    if (length > sizeof *record)
        ring_write(log, log->end + sizeof *record, payload, length - sizeof *record);
    log->next_lsn++;
    log->end += length;
    own_next(log, length);
    return ATT_OK;
}

void att_store_push(struct att_store *store)
{
    struct persist_log *log = &store->log;
    bool urgent = false;
    if (log->end - log->head_seen > ATT_LOG_BUFFER_BYTES / 2) {
        log->head_seen = atomic_load_explicit(&log->head, memory_order_acquire); /* as in append */
        urgent = log->end - log->head_seen > ATT_LOG_BUFFER_BYTES / 2;
    }
    if (log->end == atomic_load_explicit(&log->tail, memory_order_relaxed) && !urgent)
        return; /* it has been told: waking it for nothing takes the processor from whoever spins */
    publish(log);
    persist_ring(&log->bell, urgent);
}

void att_store_hurry(struct att_store *store, uint64_t lsn)
{
    publish(&store->log);
    /* Release: what was appended comes before; partner: the acquire in pace. */
    atomic_store_explicit(&store->log.hurry, lsn, memory_order_release);
    persist_ring(&store->log.bell, true);
}

void persist_log_trim(struct att_store *store, uint64_t lsn)
{
    /* Relaxed: the number is all there is to it, and the doorbell's fence orders it before the look
     * at the bell. */
    atomic_store_explicit(&store->log.trim_to, lsn, memory_order_relaxed);
    persist_ring(&store->log.bell, true);
}

/* ---- The log thread's side ------------------------------------------------------------------ */

/* A transaction takes at least this much (if it waits), however little room there is: a record must
 * fit. */
#define LEAST ((uint64_t)128 << 10)
static_assert(sizeof(struct att_batch) + PERSIST_RECORD_MAX <= LEAST, "a record fits");

struct work {
    uint64_t head, tail;  /* records to write */
    uint64_t last_lsn;    /* of them */
    bool trim, more_trim; /* delete old batches; some are left */
    uint64_t trim_to;
};

static uint64_t waiting(struct persist_log *log)
{
    /* Acquire: the bytes before tail may be read; partner: the release in publish. */
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    return tail - atomic_load_explicit(&log->head, memory_order_relaxed); /* head is our own */
}

static bool wants_trim(struct persist_log *log)
{
    return atomic_load_explicit(&log->trim_to, memory_order_relaxed) > log->trimmed;
}

static bool stopping(struct att_store *store)
{
    /* Acquire; partner: the release in att_store_close, which follows the last append. */
    return atomic_load_explicit(&store->stop, memory_order_acquire);
}

static void ring_read(const struct persist_log *log, uint64_t position, void *to, size_t bytes)
{
    size_t at = (size_t)(position % ATT_LOG_BUFFER_BYTES);
    size_t first = ATT_LOG_BUFFER_BYTES - at < bytes ? (size_t)(ATT_LOG_BUFFER_BYTES - at) : bytes;
    memcpy(to, log->ring + at, first);
    memcpy((char *)to + first, log->ring, bytes - first);
}

/* A field of a record: fields are aligned, as records are, so none wraps. */
static const void *ring_field(const struct persist_log *log, uint64_t position)
{
    return log->ring + position % ATT_LOG_BUFFER_BYTES;
}

/* How much of [from, tail) makes the next batch. Of each record two fields are read, where they lie. */
static uint32_t measure(const struct persist_log *log, uint64_t from, uint64_t tail, struct att_batch *ret_batch)
{
    const uint64_t most = log->most < PERSIST_BATCH_BYTES ? log->most : PERSIST_BATCH_BYTES;
    const uint64_t *lsn = NULL;
    uint32_t bytes = 0, count = 0;
    while (from + bytes < tail) {
        const uint32_t *length = ring_field(log, from + bytes + offsetof(struct att_record, length));
        if (sizeof *ret_batch + bytes + *length > most)
            break;
        lsn = ring_field(log, from + bytes + offsetof(struct att_record, lsn));
        if (count == 0)
            ret_batch->first_lsn = *lsn;
        /* The service thread's cache has it; the records that follow are likely to be as long as this one. */
        __builtin_prefetch(ring_field(log, from + bytes + UINT64_C(8) * *length));
        bytes += *length;
        count++;
    }
    ret_batch->last_lsn = lsn ? *lsn : 0;
    ret_batch->count = count;
    ret_batch->bytes = bytes;
    return bytes;
}

static int put_batches(struct att_store *store, MDB_txn *txn, struct work *work)
{
    uint64_t at = work->head;
    while (at < work->tail) {
        struct att_batch batch = {.incarnation = store->incarnation};
        uint32_t bytes = measure(&store->log, at, work->tail, &batch);
        if (at > work->head && at - work->head + bytes > store->log.most)
            break;
        MDB_val key = {sizeof batch.first_lsn, &batch.first_lsn};
        MDB_val value = {sizeof batch + bytes, NULL};
        int code = mdb_put(txn, store->log_env.values, &key, &value, MDB_APPEND | MDB_RESERVE);
        if (code)
            return code;
        memcpy(value.mv_data, &batch, sizeof batch);
        ring_read(&store->log, at, (char *)value.mv_data + sizeof batch, bytes);
        persist_seal(value.mv_data, value.mv_size, ATT_MAGIC_BATCH);
        work->last_lsn = batch.last_lsn;
        at += bytes;
    }
    work->tail = at;
    return 0;
}

/* Deletes batches from the front whose records are all <= trim_to, a bounded number of them. */
static int delete_batches(struct att_store *store, MDB_txn *txn, struct work *work)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int code = mdb_cursor_open(txn, store->log_env.values, &cursor);
    if (code)
        return code;
    work->more_trim = true;
    for (int i = 0; i < PERSIST_TRIM_BATCHES; i++) {
        uint64_t first, next;
        code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        if (code)
            break;
        memcpy(&first, key.mv_data, sizeof first);
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
        if (code == 0) {
            memcpy(&next, key.mv_data, sizeof next);
        } else if (code == MDB_NOTFOUND) {
            /* The last batch: only its own header says where it ends; a damaged one is kept. */
            struct att_batch batch;
            code = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
            if (!code && persist_batch_check(store, first, &value, &batch, NULL))
                code = MDB_NOTFOUND;
            if (code)
                break;
            next = batch.last_lsn + 1;
        } else {
            break;
        }
        if (next - 1 > work->trim_to) {
            code = MDB_NOTFOUND;
            break;
        }
        code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        if (code == 0)
            code = mdb_cursor_del(cursor, 0);
        if (code)
            break;
    }
    mdb_cursor_close(cursor);
    if (code == MDB_NOTFOUND || code == 0)
        work->more_trim = code == 0;
    return code == MDB_NOTFOUND ? 0 : code;
}

static struct persist_failure commit_work(struct att_store *store, struct work *work)
{
    struct persist_env *env = &store->log_env;
    MDB_txn *txn;
    bool full;
    uint64_t bytes = work->tail - work->head;
    if (bytes > store->log.most)
        bytes = store->log.most;
    struct persist_failure failure = persist_begin(env, bytes, &txn, &full);
    if (failure.outcome)
        return failure;
    int code = put_batches(store, txn, work);
    if (!code && work->trim)
        code = delete_batches(store, txn, work);
    if (code)
        return persist_abort(env, txn, full, code, "cannot write to the log");
    return persist_commit(env, txn, full);
}

/* The work is on disk. */
static void take_off(struct att_store *store, const struct work *work)
{
    struct persist_log *log = &store->log;
    if (work->trim && !work->more_trim)
        log->trimmed = work->trim_to;
    if (log->most < ATT_LOG_BUFFER_BYTES)
        log->most *= 2;
    /* Release: we are done with these bytes; partner: the acquires of head in att_store_append and
     * _push. */
    atomic_store_explicit(&log->head, work->tail, memory_order_release);
    bool event = false;
    if (work->tail != work->head) {
        /* Release; partner: the acquire in att_store_state. mdb_txn_commit has returned: the
         * records are synced. */
        atomic_store_explicit(&store->durable_lsn, work->last_lsn, memory_order_release);
        event = true;
        persist_ring(&store->snapshot.bell, false); /* a manifest may have waited for it */
    }
    uint32_t no_room = ATT_ENOSPC;
    if (atomic_compare_exchange_strong(&store->refusing, &no_room, ATT_OK)) {
        persist_say(store, "%s/log: there is room on the disk again", store->directory);
        event = true;
    }
    if (event)
        persist_event(store);
}

/* Waits for the next attempt. `refuse`: records wait, so updates are refused meanwhile; trimming alone can be late. */
static void wait_for_room(struct att_store *store, const struct persist_failure *failure, bool refuse)
{
    char buffer[128];
    uint32_t welcome = ATT_OK;
    if (refuse && atomic_load_explicit(&store->refusing, memory_order_relaxed) == ATT_OK) {
        persist_say(store,
                    "%s/log: cannot write: %s; updates are refused until there is room, nothing acknowledged is lost",
                    store->directory, persist_strerror(failure->code, buffer, sizeof buffer));
        if (atomic_compare_exchange_strong(&store->refusing, &welcome, ATT_ENOSPC))
            persist_event(store);
    }
    struct persist_doorbell *bell = &store->log.bell;
    persist_sleep_announce(bell, PERSIST_PACING);
    if (stopping(store))
        persist_sleep_cancel(bell);
    else
        persist_sleep(bell, PERSIST_PACING, PERSIST_RETRY_NS);
}

/* One cycle: writes what waits, trims. False: it failed and the thread must not go on (or must
 * stop). */
static bool cycle(struct att_store *store)
{
    struct persist_log *log = &store->log;
    struct work work = {.head = atomic_load_explicit(&log->head, memory_order_relaxed)};
    work.tail = work.head + waiting(log);
    work.trim_to = atomic_load_explicit(&log->trim_to, memory_order_relaxed);
    work.trim = work.trim_to > log->trimmed;
    if (work.trim) {
        int dead;
        mdb_reader_check(store->log_env.env, &dead); /* an inspector that was killed must not pin pages */
    }
    struct persist_failure failure = commit_work(store, &work);
    if (failure.outcome == PERSIST_WAIT && work.trim && work.tail != work.head) {
        /* No room for the records: what trimming alone sets free inside the file may be enough. */
        struct work trim = {.head = work.head, .tail = work.head, .trim = true, .trim_to = work.trim_to};
        struct persist_failure trimming = commit_work(store, &trim);
        if (trimming.outcome == PERSIST_DONE && !trim.more_trim)
            log->trimmed = trim.trim_to;
        if (trimming.outcome == PERSIST_FINAL)
            failure = trimming;
    }
    if (failure.outcome == PERSIST_DONE) {
        take_off(store, &work);
        return true;
    }
    /* What is too much at once may fit in parts, and each part that fits is one more that is safe.
     */
    while (log->most > LEAST && log->most > (work.tail - work.head) / 2)
        log->most /= 2;
    if (failure.outcome == PERSIST_FINAL) {
        persist_final(store, &store->log_env, &failure);
        return false;
    }
    if (stopping(store))
        return false; /* a trim that is not finished is the next start's; whoever stops us knows what is not durable */
    wait_for_room(store, &failure, work.tail != work.head);
    return true;
}

/* Waits until the interval since the last commit is over, or the ring is half full, or somebody waits for what is not
 * durable yet, or we are to stop. */
static void pace(struct att_store *store, int64_t last_commit)
{
    struct persist_log *log = &store->log;
    int64_t until = last_commit + (int64_t)store->options.interval_ms * 1000000;
    for (;;) {
        int64_t left = until - now_ns();
        if (left <= 0)
            return;
        persist_sleep_announce(&log->bell, PERSIST_PACING);
        /* Acquire: the next look at tail sees what was pushed for it; partner: the release in att_store_hurry. The
         * durable LSN is our own. */
        if (waiting(log) > ATT_LOG_BUFFER_BYTES / 2 || stopping(store) ||
            atomic_load_explicit(&log->hurry, memory_order_acquire) >
                atomic_load_explicit(&store->durable_lsn, memory_order_relaxed)) {
            persist_sleep_cancel(&log->bell);
            return;
        }
        persist_sleep(&log->bell, PERSIST_PACING, left);
    }
}

static bool broken(struct att_store *store)
{
    return atomic_load_explicit(&store->refusing, memory_order_acquire) == ATT_EIO;
}

void *persist_log_main(void *argument)
{
    struct att_store *store = argument;
    struct persist_log *log = &store->log;
    log->most = ATT_LOG_BUFFER_BYTES;
    /* With the interval counted from the first record that waits after idleness, a burst is one
     * commit, and no record waits longer than the interval. */
    int64_t first_seen = now_ns();
    for (;;) {
        bool stop = stopping(store); /* before the last look at the ring */
        bool work = waiting(log) > 0 || wants_trim(log);
        if (broken(store) || !work) {
            if (stop)
                return NULL;
            persist_sleep_announce(&log->bell, PERSIST_ASLEEP);
            if (stopping(store) || (!broken(store) && (waiting(log) > 0 || wants_trim(log))))
                persist_sleep_cancel(&log->bell);
            else
                persist_sleep(&log->bell, PERSIST_ASLEEP, -1);
            first_seen = now_ns();
            continue;
        }
        if (store->options.durability == ATT_DURABLE_INTERVAL && !stop && waiting(log) > 0)
            pace(store, first_seen);
        first_seen = now_ns();
        if (!cycle(store) && stop)
            return NULL;
    }
}
