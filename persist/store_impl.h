/* What the files of persist share; nobody else includes it. */
#ifndef ATT_STORE_IMPL_H
#define ATT_STORE_IMPL_H

#include <lmdb.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>

#include "doorbell.h"
#include "store.h"

/* ---- Limits, by name ------------------------------------------------------------------------ */

static_assert(sizeof(size_t) == 8, "two large maps need a 64-bit address space");

/* Address space, not disk or memory: LMDB never maps more than this, and running into it is handled
 * like a full disk. Far more than a machine has disk for, far less than the 128 TiB a process can
 * map. The thread sanitizer leaves a process too little address space for two such maps. */
#ifdef ATTND_TSAN
#define PERSIST_MAP_BYTES ((size_t)64 << 30)
#else
#define PERSIST_MAP_BYTES ((size_t)1 << 40)
#endif

static_assert((ATT_LOG_BUFFER_BYTES & (ATT_LOG_BUFFER_BYTES - 1)) == 0, "a power of two");

/* A record: a header, a key and a value of at most 8192 floats each. */
#define PERSIST_RECORD_MAX (sizeof(struct att_record) + 4 * (8192 + 8192))
static_assert(PERSIST_RECORD_MAX % 8 == 0, "records are multiples of 8");

/* A batch's value, header included: with LMDB's page header it fills 64 pages, so that the page
 * runs that trimming frees are as long as those that the next batches ask for. */
#define PERSIST_BATCH_BYTES ((size_t)64 * 4096 - 16)
static_assert(sizeof(struct att_batch) + PERSIST_RECORD_MAX <= PERSIST_BATCH_BYTES, "a record fits");

#define PERSIST_TRIM_BATCHES 64 /* deleted in one transaction */
#define PERSIST_PRUNE_PIECES 64 /* deleted in one transaction */
/* Bytes of pieces that wait: more is not welcome, though taken. */
#define PERSIST_SNAPSHOT_QUEUE    ((uint64_t)8 << 20)
#define PERSIST_SNAPSHOT_COMMIT   ((uint64_t)1 << 20)
#define PERSIST_SNAPSHOT_PAUSE_NS 3000000L
#define PERSIST_PIECE_MAX         ((uint64_t)1 << 30) /* of one piece; LMDB's own limit is 4 GiB */
#define PERSIST_AHEAD_STEP        ((size_t)256 << 10) /* asked for at once: the kernel caps what one call may ask for */
#define PERSIST_AHEAD_STEPS       32                  /* enough to keep a disk busy while a value is worked on */
#define PERSIST_RETRY_NS          200000000L          /* between attempts on a full disk */
#define PERSIST_RESERVE_STEP      ((uint64_t)1 << 20)
/* A repair without the log does not know how many starts it counted: it goes on far behind what the snapshot knows. */
#define PERSIST_INCARNATION_JUMP 1000000u
#define PERSIST_PATH             3584 /* longest directory name: paths below it stay under PATH_MAX */

/* ---- One LMDB environment ------------------------------------------------------------------- */

struct persist_env {
    MDB_env *env;
    MDB_dbi meta;
    MDB_dbi values;    /* log: "batch"; snap: "piece" */
    MDB_dbi manifests; /* snap only */
    int kind;          /* ATT_ENVIRONMENT_... */
    const char *name;  /* "log" or "snap" */
    uint64_t reserved; /* bytes of data.mdb known to have disk blocks; owned by the environment's
                          writing thread */
};

/* How a commit ended. */
enum persist_outcome {
    PERSIST_DONE,
    PERSIST_WAIT, /* nothing was synced: the same work may be tried again when there is room */
    PERSIST_FINAL /* a sync may have failed: never try again */
};

struct persist_failure {
    enum persist_outcome outcome;
    int code; /* LMDB's or errno */
    const char *what;
};

/* ---- Snapshots ------------------------------------------------------------------------------ */

struct persist_piece {
    struct persist_piece *next;
    uint64_t offset;
    uint64_t bytes;
    uint32_t array;
    alignas(8) unsigned char data[];
};

enum persist_snapshot_state { PERSIST_IDLE = 0, PERSIST_ACTIVE = 1 };

struct persist_snapshot {
    struct persist_doorbell bell;
    /* IDLE -> ACTIVE by the service thread (begin), ACTIVE -> IDLE by the snapshot thread. */
    _Atomic uint32_t state;
    _Atomic(struct persist_piece *) queue; /* newest first; pushed by the sink's thread, taken whole by ours */
    _Atomic uint64_t queued;               /* bytes in it */
    _Atomic bool ended;                    /* the sink has seen the last piece; written after the last push */
    _Atomic bool no_memory;                /* a piece was lost; written by the sink's thread */
    struct att_head_cut *cuts;             /* [shape.heads]; by the sink's thread, published by `ended` */
    /* Written by the service thread while IDLE, read by the snapshot thread while ACTIVE. */
    uint64_t generation;
    struct att_state_shape shape;
    uint64_t last_generation; /* the service thread's: the largest number in use, also by leftovers */
    /* The snapshot thread's. */
    uint64_t current; /* the newest good generation, 0: none */
    uint64_t current_replay_lsn;
};

/* ---- The log -------------------------------------------------------------------------------- */

struct persist_log {
    struct persist_doorbell bell;
    unsigned char *ring;

    /* Owned by the service thread. Cursors run freely; a position is cursor % ATT_LOG_BUFFER_BYTES.
     */
    alignas(64) _Atomic uint64_t tail; /* bytes that the log thread may take */
    uint64_t end;                      /* bytes appended */
    uint64_t head_seen;
    uint64_t next_lsn;

    /* Owned by the log thread. */
    alignas(64) _Atomic uint64_t head; /* bytes that are durable and may be overwritten */
    uint64_t most; /* bytes of records in one transaction: all, or less after one that found no room */
    uint64_t trimmed;
    _Atomic uint64_t hurry;   /* somebody waits for the LSNs up to here; written by the service thread */
    _Atomic uint64_t trim_to; /* written by the snapshot thread (and by start) */
};

struct att_store {
    char directory[PERSIST_PATH];
    struct att_store_options options;
    int lock_fd; /* -1 when read-only */
    struct persist_env log_env;
    struct persist_env snap_env;
    uint64_t incarnation;
    uint64_t last_lsn;                           /* as of open */
    uint64_t log_last_lsn;                       /* as of open */
    struct att_snapshot_info chosen;             /* as of open; generation 0: none */
    struct att_head_cut *chosen_cuts;            /* [chosen.shape.heads]; NULL: none */
    uint64_t older_generation, older_replay_lsn; /* the complete one before it, 0: none */
    bool without_log;           /* the log cannot be read at all, and the caller wants what there is without it */
    enum att_status log_status; /* not ATT_OK: the newest batch is damaged, appending behind it is refused */
    struct att_error log_error;
    char warning[600];

    bool log_started, snapshot_started;
    pthread_t log_thread, snapshot_thread;
    _Atomic bool stop;

    /* Written by the store's threads, read by any. */
    _Atomic uint64_t durable_lsn;  /* log thread; snapshot thread with ATT_DURABLE_OFF */
    _Atomic uint64_t snapshot_lsn; /* snapshot thread */
    _Atomic uint64_t generation;   /* snapshot thread */
    _Atomic bool snapshot_failed;  /* snapshot thread */
    _Atomic uint32_t refusing;     /* both; ATT_EIO is never left again */
    pthread_mutex_t message_lock;  /* guards the messages; never taken by the service thread's append or push */
    char message[600];             /* why it refuses */
    char snapshot_message[600];    /* why the last snapshot failed */

    struct persist_log log;
    struct persist_snapshot snapshot;
};

/* ---- directory.c ---------------------------------------------------------------------------- */

/* Looks at DIR, makes what is missing, takes the lock. Leaves store->lock_fd set (writers). */
enum att_status persist_directory_open(struct att_store *store, bool *ret_fresh, struct att_error *error);
/* fsync of DIR/log, DIR/snap and DIR after their files were made. */
enum att_status persist_directory_sync(const struct att_store *store, struct att_error *error);

/* ---- environment.c -------------------------------------------------------------------------- */

enum att_status persist_env_open(struct att_store *store, struct persist_env *env, int kind, bool fresh,
                                 struct att_error *error);
void persist_env_close(struct persist_env *env);
/* The "state" record: checked; ATT_ENOENT when there is none. */
enum att_status persist_env_state(struct att_store *store, struct persist_env *env, struct att_environment *ret_state,
                                  struct att_error *error);
enum att_status persist_env_write_state(struct att_store *store, struct persist_env *env, uint64_t incarnation,
                                        struct att_error *error);
enum att_status persist_env_read(struct att_store *store, struct persist_env *env, MDB_txn **ret_txn,
                                 struct att_error *error);
enum att_status persist_lmdb_status(int code);
/* "DIR/log: what: reason", with the status that fits. */
enum att_status persist_lmdb_fail(struct att_error *error, const struct att_store *store, const struct persist_env *env,
                                  const char *what, int code);
/* How far a reader of one value after the other has asked for the file. Starts as zeros. */
struct persist_ahead {
    uintptr_t from, to;
};
/* Without read-ahead (MDB_NORDAHEAD) a cold file is read page by page, each waited for. This asks for `value` and for
 * what lies behind it in the file: mostly the values that will be wanted next. */
void persist_read_ahead(struct persist_ahead *ahead, const MDB_val *value);
/* Looks at prefix and checksum of a value. `what` names it in the message. */
enum att_status persist_check_value(const struct att_store *store, const struct persist_env *env, const MDB_val *value,
                                    size_t least, uint32_t magic, const char *what, struct att_error *error);

/* ---- commit.c ------------------------------------------------------------------------------- */

/* Reserves room for about `bytes` more in the file, then begins a writing transaction. */
struct persist_failure persist_begin(struct persist_env *env, uint64_t bytes, MDB_txn **ret_txn, bool *ret_full);
/* Commits and judges a failure. `full`: what persist_begin said. */
struct persist_failure persist_commit(struct persist_env *env, MDB_txn *txn, bool full);
/* Aborts and judges a failed put or delete. */
struct persist_failure persist_abort(struct persist_env *env, MDB_txn *txn, bool full, int code, const char *what);

/* ---- store.c -------------------------------------------------------------------------------- */

void persist_say(struct att_store *store, const char *format, ...) __attribute__((format(printf, 2, 3)));
void persist_say_snapshot(struct att_store *store, const char *format, ...) __attribute__((format(printf, 2, 3)));
void persist_event(struct att_store *store);
/* A sync failed: refuse for good, and say so. */
void persist_final(struct att_store *store, const struct persist_env *env, const struct persist_failure *failure);
const char *persist_strerror(int code, char *buffer, size_t size);

/* ---- log.c, log_read.c ---------------------------------------------------------------------- */

void *persist_log_main(void *store);
/* Asks the log thread to delete batches whose records are all <= lsn. Any thread. */
void persist_log_trim(struct att_store *store, uint64_t lsn);
/* Fills log_last_lsn, log_status, log_error. */
enum att_status persist_log_load(struct att_store *store, struct att_error *error);
/* A batch's value, header and records checked against key and each other. */
enum att_status persist_batch_check(const struct att_store *store, uint64_t key, const MDB_val *value,
                                    struct att_batch *ret_batch, struct att_error *error);

/* ---- snapshot.c, snapshot_write.c, snapshot_read.c ------------------------------------------ */

void *persist_snapshot_main(void *store);
struct persist_failure persist_snapshot_write(struct att_store *store, struct persist_piece *pieces);
/* Writes it for the generation in hand, whose pieces are in. */
struct persist_failure persist_manifest_write(struct att_store *store, const struct att_snapshot_info *cut,
                                              struct att_error *error);
/* Deletes generations, keep[0] and keep[1] excepted; when `unfinished_only`, just those without a
 * manifest. */
struct persist_failure persist_snapshot_prune(struct att_store *store, const uint64_t keep[2], bool unfinished_only);

/* Chooses the generation to recover from; fills chosen, older_*, warning, snapshot.last_generation.
 */
enum att_status persist_snapshot_load(struct att_store *store, struct att_error *error);
struct att_piece_key persist_piece_key(uint64_t generation, uint32_t array, uint64_t offset);

/* What a walk over the pieces of one generation found. */
struct persist_walk {
    uint64_t pieces, bytes, checksum;
};
/* Walks one generation in key order. With `whole`, each piece's checksum is verified, else only its
 * header is looked at. `piece` may be NULL. ATT_ECORRUPT names the piece. */
enum att_status persist_generation_walk(struct att_store *store, uint64_t generation, bool whole,
                                        enum att_status (*piece)(void *context, const struct att_stored_piece *header,
                                                                 const void *data, struct att_error *error),
                                        void *context, struct persist_walk *ret_walk, struct att_error *error);
/* Whether a walk agrees with its manifest. */
enum att_status persist_generation_agrees(const struct att_store *store, const struct att_manifest *manifest,
                                          const struct persist_walk *walk, struct att_error *error);
/* The manifest after number `after` (0: the first). The number is filled in even when the manifest
 * is damaged or of another version; it is left alone when nothing could be read. ATT_ENOENT: no
 * more. */
enum att_status persist_manifest_next(struct att_store *store, uint64_t after, uint64_t *ret_generation,
                                      struct att_manifest *ret_manifest, struct att_error *error);
bool persist_manifest_exists(struct att_store *store, uint64_t generation);

/* ---- pages.c -------------------------------------------------------------------------------- */

/* LMDB trusts the pages it reads; these look at them first. ATT_ECORRUPT names the page. The first
 * reads the two meta pages of the file, before LMDB opens it (a missing or empty file is left to
 * LMDB); the second every page of the trees and the list of free pages, as of one transaction. */
enum att_status persist_metas_check(const struct att_store *store, const struct persist_env *env,
                                    struct att_error *error);
enum att_status persist_pages_check(struct att_store *store, struct persist_env *env, struct att_error *error);

#endif
