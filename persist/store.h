/* The store: a directory with two LMDB environments, DIR/log (updates) and DIR/snap (snapshots by
 * generation). The only public header of persist beside format.h. It knows nothing of attention:
 * records and pieces are bytes.
 *
 * Thread rule: one thread, the service thread, calls every function unless its comment says
 * otherwise. The store runs a log thread (group commit) and, while a snapshot is written, a
 * snapshot thread. */
#ifndef ATT_STORE_H
#define ATT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn_status.h"
#include "format.h"

struct att_store;

enum att_durability {
    ATT_DURABLE_ALWAYS = 0,   /* group commit: every batch is synced as soon as the one before is */
    ATT_DURABLE_INTERVAL = 1, /* a sync every interval_ms at the latest */
    ATT_DURABLE_OFF = 2       /* no log, snapshots only: the durable LSN is the newest snapshot's */
};

struct att_store_options {
    bool read_only; /* the inspector: no lock, no incarnation, nothing changes on disk */
    bool create;    /* make a new state in an empty (or missing) directory */
    enum att_durability durability;
    uint32_t interval_ms;
    void (*on_event)(void *context); /* called on the store's threads: durable LSN, snapshot or
                                        failure state moved */
    void *context;
    bool exclusive; /* with read_only: takes the lock all the same, so that no daemon serves it meanwhile */
    bool limited;   /* choose the newest whole generation whose largest cut is at most limit_lsn */
    uint64_t limit_lsn;
    uint64_t map_bytes; /* of each environment; 0: PERSIST_MAP_BYTES. For tests */
};

/* Opens DIR. Writers take an exclusive lock on it (ATT_ELOCKED: another daemon serves it). With
 * create: DIR must be missing, empty, or the remains of a creation that was interrupted before its
 * first snapshot (ATT_EEXIST otherwise, nothing changed). Without: ATT_ENOENT when there is no
 * state. Other errors: ATT_EVERSION, ATT_ECORRUPT (names what), ATT_EIO, ATT_EPERM, ATT_ENOSPC.
 * Opening for writing counts a new incarnation, durably. */
enum att_status att_store_open(const char *directory, const struct att_store_options *options,
                               struct att_store **ret_store, struct att_error *error);

/* Stops the threads (what was appended is committed first unless a write has failed; a snapshot
 * that is not complete is given up) and closes. Nobody may still call the snapshot functions. No
 * callback after it returns. NULL is allowed. */
void att_store_close(struct att_store *store);

/* 1 for the first start, and so on; 0 when read-only and never served. */
uint64_t att_store_incarnation(const struct att_store *store);

/* ---- Recovery ------------------------------------------------------------------------------- */

/* One stored snapshot generation. */
struct att_snapshot_info {
    uint64_t generation;
    uint64_t lsn;         /* of its largest cut */
    uint64_t replay_lsn;  /* the log behind it is to be replayed, for each head behind its own cut */
    uint64_t incarnation; /* that wrote it */
    uint64_t bytes;       /* of its pieces */
    uint64_t pieces;
    uint32_t tokens_used;
    struct att_state_shape shape;
};

/* The newest generation whose manifest and pieces all check out: what open chose to recover from.
 * When a newer one was damaged, open says so on stderr... through `warning` (a static-lifetime
 * string of the store, or NULL). */
enum att_status att_store_snapshot(const struct att_store *store, struct att_snapshot_info *ret_info,
                                   const char **ret_warning, struct att_error *error);

/* Its heads' cuts, shape.heads of them. The store's; NULL: no snapshot yet. */
const struct att_head_cut *att_store_cuts(const struct att_store *store);

/* Reads its pieces in order (array, then offset), each with its checksum verified. The callback's
 * error stops it; its data lives during the call and is aligned to 16 bytes. ATT_AGAIN (read-only):
 * the daemon has replaced the generation. */
enum att_status att_store_read_snapshot(struct att_store *store,
                                        enum att_status (*piece)(void *context, uint32_t array, uint64_t offset,
                                                                 const void *data, uint64_t bytes,
                                                                 struct att_error *error),
                                        void *context, struct att_error *error);

/* Reads every record with LSN > after, in order, checksums and continuity verified. ATT_ECORRUPT
 * names the LSN where the log is damaged or has a gap, and what is whole before it; what was never
 * logged and the chosen snapshot holds is no gap. ATT_AGAIN (read-only): the daemon has trimmed it. */
enum att_status att_store_read_log(struct att_store *store, uint64_t after,
                                   enum att_status (*record)(void *context, const struct att_record *record,
                                                             const void *payload, struct att_error *error),
                                   void *context, struct att_error *error);

/* The newest LSN in the log or in the chosen snapshot, whichever is larger. */
uint64_t att_store_last_lsn(const struct att_store *store);

/* ---- The log -------------------------------------------------------------------------------- */

/* Starts the store's threads. ATT_ECORRUPT when the newest batch of the log is damaged. After this
 * the functions below may be used. */
enum att_status att_store_start(struct att_store *store, struct att_error *error);

/* Records that wait for the disk; a power of two. */
#define ATT_LOG_BUFFER_BYTES ((uint64_t)16 << 20)

/* Adds one record (its length bytes, payload included) to the batch in hand; no system call, no
 * lock, no sync. LSNs must be consecutive, from att_store_last_lsn + 1 on (ATT_EINVAL otherwise, or
 * when it is malformed). ATT_AGAIN: ATT_LOG_BUFFER_BYTES wait already, the log thread is behind:
 * nothing was taken; push, and try again later. In ATT_DURABLE_OFF the record is dropped: ATT_OK.
 */
enum att_status att_store_append(struct att_store *store, const struct att_record *record, const void *payload);

/* After a run of appends: lets the log thread take them, when it is free. Wakes it only if it sleeps. */
void att_store_push(struct att_store *store);

/* Pushes, and somebody waits for the LSNs up to this one, appended or to come: with ATT_DURABLE_INTERVAL they are committed
 * as they come, not when the interval is over; what comes behind them is not. Calls with LSNs that never fall. */
void att_store_hurry(struct att_store *store, uint64_t lsn);

/* What the store's threads have reached. Any thread; wait-free. */
struct att_store_state {
    uint64_t durable_lsn;
    uint64_t snapshot_lsn; /* the newest snapshot holds all updates up to here: its smallest cut */
    uint64_t generation;
    bool snapshot_running;
    bool snapshot_failed;     /* the last one; text says why */
    enum att_status refusing; /* ATT_OK: updates are welcome. ATT_ENOSPC: until there is room.
                                 ATT_EIO: a sync failed, final */
};
void att_store_state(const struct att_store *store, struct att_store_state *ret_state);

/* Why it refuses; why the last snapshot failed: copies of the newest messages. Any thread. */
void att_store_message(const struct att_store *store, char *ret_text, size_t size);
void att_store_snapshot_message(const struct att_store *store, char *ret_text, size_t size);

/* ---- Snapshots ------------------------------------------------------------------------------ */

/* Begins a new generation; from ATT_OK on, _end must be called sooner or later. ATT_EBUSY: one is
 * being written. ATT_EREADONLY after a sync error. ATT_EINVAL: impossible number of heads. ATT_ENOMEM. */
enum att_status att_store_snapshot_begin(struct att_store *store, const struct att_state_shape *shape,
                                         struct att_error *error);

/* What the heads' att_sinks call. One thread at a time, not necessarily the service thread. They
 * copy and return; the snapshot thread writes behind them in transactions of 1 MiB with pauses of
 * 3 ms. _cut: once for each head, before _end; _piece: any head's, in any order, numbered as
 * ATT_HEAD_ARRAYS says; _end: after the last of all heads. Then, when the durable LSN has reached
 * the largest cut, it writes the manifest, deletes generations but the newest two and trims the
 * log to the older one's replay LSN; then on_event. */
void att_store_snapshot_cut(struct att_store *store, uint32_t head, uint64_t lsn, uint32_t tokens_used);
bool att_store_snapshot_room(struct att_store *store);
void att_store_snapshot_piece(struct att_store *store, uint32_t array, uint64_t offset, const void *data,
                              uint64_t bytes);
void att_store_snapshot_end(struct att_store *store);

/* ---- Inspection ----------------------------------------------------------------------------- */

/* Checks every value of both environments; one call of `finding` for each thing wrong or notable
 * (severity 0: fine, 1: damaged but recoverable, 2: lost). ATT_OK only if nothing above 0 was
 * found. */
enum att_status att_store_verify(struct att_store *store,
                                 void (*finding)(void *context, int severity, const char *text), void *context,
                                 struct att_error *error);

/* The stored generations, oldest first; returns how many (at most `most` are filled in). */
size_t att_store_generations(struct att_store *store, struct att_snapshot_info *ret_infos, size_t most);

/* First and last LSN in the log, number of batches and bytes; zeros for an empty log. */
struct att_log_info {
    uint64_t first_lsn, last_lsn, batches, bytes;
};
void att_store_log_info(struct att_store *store, struct att_log_info *ret_info);

/* ---- Copies --------------------------------------------------------------------------------- */

struct att_copy_info {
    uint64_t snapshot_lsn; /* of the snapshot that was copied */
    uint64_t lsn;          /* where the copy ends */
    uint64_t records;      /* copied from the log */
};

/* Copies the chosen snapshot and the log behind it, up to and with to_lsn (UINT64_MAX: all there is
 * now), to a directory that is missing or empty: each value is checked, and TO appears whole or not
 * at all. The store may be read-only and beside a live daemon. The copy goes on with the LSNs and
 * counts on from the incarnation. Blocks as long as it takes.
 * ATT_AGAIN: the daemon replaced the snapshot or trimmed the log meanwhile: open again. ATT_EEXIST:
 * TO holds something. ATT_EINVAL: there are not so many LSNs, the snapshot goes beyond to_lsn, or
 * TO lies inside the state's own directory.
 * ATT_ECORRUPT: as att_store_read_log, when that comes before to_lsn. */
enum att_status att_store_copy(struct att_store *store, const char *to, uint64_t to_lsn, struct att_copy_info *ret_info,
                               struct att_error *error);

struct att_repair_info {
    struct att_copy_info copy;
    uint64_t lost_from; /* what is lost begins here (of the heads that need it, when the whole log is lost) */
    uint64_t known_lsn; /* the newest LSN that the original still shows */
    bool open_end;      /* its newest batch or the whole log is damaged, so there may have been more */
    char kept[4096];    /* where the original is now */
};

/* Puts in the place of DIR what a start would recover if its log ended at to_lsn; the original is
 * kept as it was, under DIR.before-repair. A log that cannot be read at all (LMDB's pages) is left
 * out: then to_lsn can only be a snapshot's. Nobody may serve DIR (ATT_ELOCKED). Errors: as
 * att_store_open and att_store_copy; nothing was changed then, unless the message says so. */
enum att_status att_store_repair(const char *directory, uint64_t to_lsn, struct att_repair_info *ret_info,
                                 struct att_error *error);

#endif
