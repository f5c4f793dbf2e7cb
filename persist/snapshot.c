/* The snapshot thread: from the engine's pieces to a complete generation, one at a time.
 *
 *     IDLE --(service thread: begin)--> ACTIVE --(snapshot thread: manifest written, or given
 * up)--> IDLE
 *
 * While ACTIVE, the sink's thread (the merge thread) pushes pieces on `queue`, a stack, and the
 * snapshot thread takes it whole and turns it round: with one exchange that takes everything no
 * node can be freed under a pusher, so the stack has no ABA. A push releases the node's bytes; the
 * exchange acquires them. `ended` is stored after the last piece and the last cut, with release:
 * who acquires `ended` and then takes the queue has everything. The sink's threads are the heads'
 * merge threads, one after the other (the service hands the turn on). generation and shape are
 * plain fields: the service thread writes them while IDLE and publishes them with the store of
 * ACTIVE; the snapshot thread's store of IDLE gives them back.
 *
 * When a write fails or a piece found no memory, the thread keeps taking pieces and drops them
 * until the sink says that it has ended: the sink never learns of it and never blocks.
 *
 * The order that makes a crash harmless at any point: all pieces are committed; every LSN of every
 * cut is durable; the manifest, in its own transaction; then old generations are deleted, each
 * one's manifest first; then the log is trimmed to the older kept generation. docs/format.md goes
 * through it step by step. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "checksum.h"
#include "store_impl.h"

/* ---- The service thread and the sink -------------------------------------------------------- */

enum att_status att_store_snapshot_begin(struct att_store *store, const struct att_state_shape *shape,
                                         struct att_error *error)
{
    struct persist_snapshot *snapshot = &store->snapshot;
    if (!store->snapshot_started)
        return att_fail(error, ATT_EINVAL, "%s: the store is not started", store->directory);
    if (atomic_load_explicit(&store->refusing, memory_order_acquire) == ATT_EIO) {
        struct att_error reason = {ATT_EREADONLY, ""};
        att_store_message(store, reason.text, sizeof reason.text);
        return att_fail(error, ATT_EREADONLY, "%s", reason.text);
    }
    /* Acquire: generation and shape are ours again; partner: the release of IDLE in run_one. */
    if (atomic_load_explicit(&snapshot->state, memory_order_acquire) != PERSIST_IDLE)
        return att_fail(error, ATT_EBUSY, "%s: a snapshot is being written already", store->directory);
    if (shape->heads == 0 || shape->heads > ATT_MAX_HEADS)
        return att_fail(error, ATT_EINVAL, "%s: a snapshot of %u heads", store->directory, (unsigned)shape->heads);
    struct att_head_cut *cuts = calloc(shape->heads, sizeof *cuts);
    if (!cuts)
        return att_fail(error, ATT_ENOMEM, "%s: no memory for a snapshot", store->directory);
    free(snapshot->cuts);
    snapshot->cuts = cuts;
    snapshot->shape = *shape;
    snapshot->generation = ++snapshot->last_generation;
    atomic_store_explicit(&snapshot->ended, false, memory_order_relaxed);
    atomic_store_explicit(&snapshot->no_memory, false, memory_order_relaxed);
    atomic_store_explicit(&store->snapshot_failed, false, memory_order_relaxed);
    /* Release: all of the above; partner: the acquire in persist_snapshot_main. */
    atomic_store_explicit(&snapshot->state, PERSIST_ACTIVE, memory_order_release);
    persist_ring(&snapshot->bell, true);
    return ATT_OK;
}

void att_store_snapshot_cut(struct att_store *store, uint32_t head, uint64_t lsn, uint32_t tokens_used)
{
    if (head < store->snapshot.shape.heads)
        store->snapshot.cuts[head] = (struct att_head_cut){.lsn = lsn, .tokens_used = tokens_used};
}

bool att_store_snapshot_room(struct att_store *store)
{
    return atomic_load_explicit(&store->snapshot.queued, memory_order_relaxed) < PERSIST_SNAPSHOT_QUEUE;
}

void att_store_snapshot_piece(struct att_store *store, uint32_t array, uint64_t offset, const void *data,
                              uint64_t bytes)
{
    struct persist_snapshot *snapshot = &store->snapshot;
    struct persist_piece *piece = bytes <= PERSIST_PIECE_MAX ? malloc(sizeof *piece + bytes) : NULL;
    if (!piece) {
        atomic_store_explicit(&snapshot->no_memory, true, memory_order_relaxed);
        return;
    }
    piece->array = array;
    piece->offset = offset;
    piece->bytes = bytes;
    if (bytes)
        memcpy(piece->data, data, bytes);
    atomic_fetch_add_explicit(&snapshot->queued, bytes, memory_order_relaxed);
    piece->next = atomic_load_explicit(&snapshot->queue, memory_order_relaxed);
    /* Release: the piece's bytes; partner: the acquire in take_queue. */
    while (!atomic_compare_exchange_weak_explicit(&snapshot->queue, &piece->next, piece, memory_order_release,
                                                  memory_order_relaxed))
        ;
    persist_ring(&snapshot->bell, true);
}

void att_store_snapshot_end(struct att_store *store)
{
    /* Release: the cut and every push; partner: the acquire in collect. */
    atomic_store_explicit(&store->snapshot.ended, true, memory_order_release);
    persist_ring(&store->snapshot.bell, true);
}

/* ---- The snapshot thread -------------------------------------------------------------------- */

static bool stopping(struct att_store *store)
{
    return atomic_load_explicit(&store->stop, memory_order_acquire); /* partner: att_store_close */
}

static bool broken(struct att_store *store)
{
    return atomic_load_explicit(&store->refusing, memory_order_acquire) == ATT_EIO;
}

static void pause_between(struct att_store *store)
{
    struct timespec time = {0, PERSIST_SNAPSHOT_PAUSE_NS};
    if (!stopping(store))
        nanosleep(&time, NULL);
}

/* Takes all that is queued, oldest first. */
static struct persist_piece *take_queue(struct persist_snapshot *snapshot)
{
    /* Acquire: the bytes of every piece taken; partner: the release in att_store_snapshot_piece. */
    struct persist_piece *newest = atomic_exchange_explicit(&snapshot->queue, NULL, memory_order_acquire);
    struct persist_piece *oldest = NULL;
    while (newest) {
        struct persist_piece *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

static void free_pieces(struct persist_snapshot *snapshot, struct persist_piece *piece)
{
    while (piece) {
        struct persist_piece *next = piece->next;
        atomic_fetch_sub_explicit(&snapshot->queued, piece->bytes, memory_order_relaxed);
        free(piece);
        piece = next;
    }
}

/* Cuts off the front of *pieces what goes into one transaction. */
static struct persist_piece *front(struct persist_piece **pieces)
{
    struct persist_piece *first = *pieces, *last = first;
    uint64_t bytes = first->bytes;
    while (last->next && bytes + last->next->bytes <= PERSIST_SNAPSHOT_COMMIT) {
        last = last->next;
        bytes += last->bytes;
    }
    *pieces = last->next;
    last->next = NULL;
    return first;
}

static void give_up(struct att_store *store, const struct persist_failure *failure)
{
    char buffer[128];
    if (failure->outcome == PERSIST_FINAL) {
        persist_final(store, &store->snap_env, failure);
        return;
    }
    persist_say_snapshot(store, "%s/snap: snapshot generation %llu failed: %s: %s", store->directory,
                         (unsigned long long)store->snapshot.generation, failure->what,
                         persist_strerror(failure->code, buffer, sizeof buffer));
}

/* Writes pieces until the sink has ended and the queue is empty. False: given up, or stopping. */
static bool collect(struct att_store *store)
{
    struct persist_snapshot *snapshot = &store->snapshot;
    bool good = true;
    for (;;) {
        /* Acquire, before the queue is taken; partner: the release in att_store_snapshot_end. */
        bool ended = atomic_load_explicit(&snapshot->ended, memory_order_acquire);
        struct persist_piece *pieces = take_queue(snapshot);
        while (pieces) {
            struct persist_piece *some = front(&pieces);
            if (good && !broken(store) && !stopping(store)) {
                struct persist_failure failure = persist_snapshot_write(store, some);
                if (failure.outcome) {
                    give_up(store, &failure);
                    good = false;
                }
                pause_between(store);
            }
            free_pieces(snapshot, some);
        }
        if (stopping(store) && !ended)
            return false;
        if (ended)
            break;
        persist_sleep_announce(&snapshot->bell, PERSIST_PACING);
        if (atomic_load_explicit(&snapshot->queue, memory_order_relaxed) || stopping(store) ||
            atomic_load_explicit(&snapshot->ended, memory_order_relaxed))
            persist_sleep_cancel(&snapshot->bell);
        else
            persist_sleep(&snapshot->bell, PERSIST_PACING, -1);
    }
    if (good && atomic_load_explicit(&snapshot->no_memory, memory_order_relaxed)) {
        struct persist_failure failure = {PERSIST_WAIT, ENOMEM, "no memory for its pieces"};
        give_up(store, &failure);
        good = false;
    }
    return good && !broken(store) && !stopping(store);
}

static bool is_durable(struct att_store *store, uint64_t lsn)
{
    return store->options.durability == ATT_DURABLE_OFF ||
           atomic_load_explicit(&store->durable_lsn, memory_order_acquire) >= lsn;
}

/* A manifest must not promise updates that a crash could take back: replay would then start behind
 * a gap. */
static bool await_durable(struct att_store *store, uint64_t lsn)
{
    struct persist_snapshot *snapshot = &store->snapshot;
    while (!is_durable(store, lsn)) {
        if (broken(store) || stopping(store))
            return false;
        persist_sleep_announce(&snapshot->bell, PERSIST_ASLEEP);
        if (is_durable(store, lsn) || broken(store) || stopping(store))
            persist_sleep_cancel(&snapshot->bell);
        else
            persist_sleep(&snapshot->bell, PERSIST_ASLEEP, -1);
    }
    return !broken(store);
}

static void report_prune(struct att_store *store, const struct persist_failure *failure)
{
    char buffer[128];
    if (failure->outcome == PERSIST_FINAL)
        persist_final(store, &store->snap_env, failure);
    else if (failure->outcome == PERSIST_WAIT)
        persist_say_snapshot(store,
                             "%s/snap: old snapshots could not be deleted: %s: %s; the next snapshot tries again",
                             store->directory, failure->what, persist_strerror(failure->code, buffer, sizeof buffer));
}

/* What the heads' cuts say together; *ret_least: the smallest. */
static struct att_snapshot_info join_cuts(const struct att_store *store, uint64_t *ret_least)
{
    const struct persist_snapshot *snapshot = &store->snapshot;
    struct att_snapshot_info all = {0};
    *ret_least = UINT64_MAX;
    for (uint32_t head = 0; head < snapshot->shape.heads; head++) {
        const struct att_head_cut *cut = &snapshot->cuts[head];
        all.lsn = cut->lsn > all.lsn ? cut->lsn : all.lsn;
        all.tokens_used = cut->tokens_used > all.tokens_used ? cut->tokens_used : all.tokens_used;
        *ret_least = cut->lsn < *ret_least ? cut->lsn : *ret_least;
    }
    /* Without a log, what came between the cuts cannot be replayed, and its LSNs are no gap. */
    all.replay_lsn = store->options.durability == ATT_DURABLE_OFF ? all.lsn : *ret_least;
    return all;
}

/* The pieces are in. True: the generation is complete. */
static bool complete(struct att_store *store)
{
    struct persist_snapshot *snapshot = &store->snapshot;
    uint64_t least;
    struct att_snapshot_info cut = join_cuts(store, &least);
    if (!await_durable(store, cut.lsn))
        return false;
    struct att_error error = {ATT_OK, ""};
    struct persist_failure failure = persist_manifest_write(store, &cut, &error);
    if (failure.outcome) {
        if (error.status)
            persist_say_snapshot(store, "%s", error.text);
        else
            give_up(store, &failure);
        return false;
    }
    uint64_t keep[2] = {snapshot->generation, snapshot->current};
    uint64_t older_replay_lsn = snapshot->current_replay_lsn;
    snapshot->current = snapshot->generation;
    snapshot->current_replay_lsn = cut.replay_lsn;
    /* Releases; partners: the acquires in att_store_state. */
    if (store->options.durability == ATT_DURABLE_OFF)
        atomic_store_explicit(&store->durable_lsn, least, memory_order_release);
    atomic_store_explicit(&store->snapshot_lsn, least, memory_order_release);
    atomic_store_explicit(&store->generation, snapshot->generation, memory_order_release);
    persist_event(store);
    failure = persist_snapshot_prune(store, keep, false);
    report_prune(store, &failure);
    if (keep[1] && failure.outcome != PERSIST_FINAL)
        persist_log_trim(store, older_replay_lsn);
    return true;
}

static void run_one(struct att_store *store)
{
    struct persist_snapshot *snapshot = &store->snapshot;
    bool good = collect(store) && complete(store);
    if (!good && !broken(store) && !stopping(store)) {
        /* What was written of it goes at once: it is what keeps a full disk full. */
        uint64_t keep[2] = {snapshot->current, 0};
        struct persist_failure failure = persist_snapshot_prune(store, keep, true);
        if (failure.outcome == PERSIST_FINAL)
            report_prune(store, &failure);
    }
    atomic_store_explicit(&store->snapshot_failed, !good, memory_order_relaxed);
    /* Release: the outcome above, and generation and shape are the service thread's again;
     * partners: the acquires in att_store_snapshot_begin and att_store_state. */
    atomic_store_explicit(&snapshot->state, PERSIST_IDLE, memory_order_release);
    if (!stopping(store))
        persist_event(store);
}

void *persist_snapshot_main(void *argument)
{
    struct att_store *store = argument;
    struct persist_snapshot *snapshot = &store->snapshot;
    uint64_t keep[2] = {snapshot->current, store->older_generation};
    struct persist_failure failure = persist_snapshot_prune(store, keep, true); /* what a crash left */
    report_prune(store, &failure);
    while (!stopping(store)) {
        /* Acquire: what begin has stored; partner: its release of ACTIVE. */
        if (atomic_load_explicit(&snapshot->state, memory_order_acquire) == PERSIST_ACTIVE) {
            run_one(store);
            continue;
        }
        persist_sleep_announce(&snapshot->bell, PERSIST_PACING);
        if (stopping(store) || atomic_load_explicit(&snapshot->state, memory_order_relaxed) == PERSIST_ACTIVE)
            persist_sleep_cancel(&snapshot->bell);
        else
            persist_sleep(&snapshot->bell, PERSIST_PACING, -1);
    }
    return NULL;
}
