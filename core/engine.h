/* The engine: one attention head kept current. The only public header of core.
 *
 * Thread rule: one thread, the service thread, calls every function here unless its comment says otherwise.
 * Behind them the engine runs one merge thread with an OpenMP team. No function blocks on it, but for start and
 * free. Matrices are row-major float32. Words and formulas: docs/architecture.md, docs/numerics.md. */
#ifndef ATT_ENGINE_H
#define ATT_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn_status.h"

struct att_engine;

enum att_precision { ATT_SINGLE = 0, ATT_MIXED = 1, ATT_DOUBLE = 2 };

#define ATT_LARGEST_SCALE 1e300 /* larger ones, times log2(e), could overflow float64 */

struct att_engine_options {
    uint32_t n_q;      /* rows of Q, >= 1 */
    uint32_t d;        /* columns of Q and K, 1..ATT_MAX_COLUMNS */
    uint32_t d_v;      /* columns of V, 1..ATT_MAX_COLUMNS */
    uint32_t capacity; /* room for tokens, >= 1 */
    double scale;      /* s in exp(s q.k + b), at most ATT_LARGEST_SCALE in size */
    enum att_precision precision;
    uint32_t log_capacity; /* entries in the log; 0: chosen; rounded up to a multiple of 64 */
    uint32_t threads;      /* of the merge team; 0: one for each processor */
    bool causal;           /* row i sees tokens 0..i only */
    bool never_keep;       /* no row keeps a base, each read recomputes: to measure against */
    bool eager;            /* merge whenever there is something to merge */
    uint32_t heads;        /* engines of this shape that will be there: the check of memory counts them all; 0: 1 */
    double error_budget;   /* drift, relative to the row's mean |v|_inf, that triggers a refresh; 0: by precision */
    void (*on_completion)(void *context); /* called on the merge thread when a job completes, or when a merge made
                                             room that an apply found missing; may be NULL */
    void *context;
};

enum { ATT_MAX_COLUMNS = 8192 };

/* Allocates the state, empty: no token is live, Q is zero. Checks the vector kernel against plain C first.
 * Errors: ATT_EINVAL, ATT_ENOMEM (says how much is needed), ATT_EKERNEL. */
enum att_status att_engine_create(const struct att_engine_options *options, struct att_engine **ret_engine,
                                  struct att_error *error);

/* Stops the merge thread (it finishes the piece in hand) and frees everything. NULL is allowed. Jobs that
 * have not completed are dropped without a callback. */
void att_engine_free(struct att_engine *engine);

/* ---- Filling and starting ------------------------------------------------------------------------------ */

/* The arrays of the settled state; a snapshot is made of pieces of them. */
enum att_array {
    ATT_ARRAY_Q = 0,     /* n_q x d float */
    ATT_ARRAY_K = 1,     /* capacity x d float */
    ATT_ARRAY_V = 2,     /* capacity x d_v float */
    ATT_ARRAY_BIAS = 3,  /* capacity float */
    ATT_ARRAY_LIVE = 4,  /* capacity bytes: 1 for a live token */
    ATT_ARRAY_BASES = 5, /* opaque: the bases, tile by tile; only meaningful under the same att_engine_base_tag */
    ATT_ARRAY_COUNT
};

/* A piece: `bytes` bytes of `array` from byte `offset` on. Pieces never overlap and are at most ATT_PIECE_BYTES. */
struct att_piece {
    enum att_array array;
    uint64_t offset;
    uint64_t bytes;
    const void *data;
};

enum { ATT_PIECE_BYTES = 256 * 1024 };

/* The settled array itself, to be filled before att_engine_start (never after); bytes in *ret_bytes. The pointer
 * lives as long as the engine. Not for ATT_ARRAY_BASES. */
void *att_engine_array(struct att_engine *engine, enum att_array array, size_t *ret_bytes);

/* Before att_engine_start: puts back one piece of a snapshot, any array, BASES included.
 * Errors: ATT_ECORRUPT when it does not fit the shape. */
enum att_status att_engine_restore(struct att_engine *engine, const struct att_piece *piece, struct att_error *error);

/* Names the numerics that made the bases: precision, weight function and tile layout. Bases of another tag must not
 * be restored (rows then start cold). A static or engine-owned string, at most 63 characters. */
const char *att_engine_base_tag(const struct att_engine *engine);

/* Checks the filled arrays (finite; bias may be -inf), builds the token index and starts the merge thread, which
 * refreshes cold rows in the background. `lsn`: the LSN of the settled state (0 for a new one). Operations applied
 * before start (recovery's replay) were compacted into the log, and merged whenever it was full.
 * Errors: ATT_ENOTFINITE, ATT_EMAGNITUDE (the message names array, row and column), ATT_ENOMEM. */
enum att_status att_engine_start(struct att_engine *engine, struct att_error *error);

/* Sets the LSN of the settled state before start and before any apply; 0 unless called. */
void att_engine_set_lsn(struct att_engine *engine, uint64_t lsn);

/* Before the first apply: that about so many updates will be applied before start, to all heads together. When the log is
 * full they are merged, into the restored bases too, unless all of that would take too long: then the bases are dropped. */
void att_engine_expect(struct att_engine *engine, uint64_t updates);

/* Checks and indexes what was filled or restored, without starting the merge thread: for the inspector, and
 * before replaying operations. att_engine_start calls it when it was not called. Same errors. */
enum att_status att_engine_prepare(struct att_engine *engine, struct att_error *error);

/* ---- Updates ------------------------------------------------------------------------------------------- */

enum att_op_kind {
    ATT_OP_SET_TOKEN = 1,   /* replace what is given of key, value, bias of token `index` */
    ATT_OP_SET_K_ENTRY = 2, /* K[index][column] = number */
    ATT_OP_SET_V_ENTRY = 3, /* V[index][column] = number */
    ATT_OP_ADD_K = 4,       /* UpdateK(i, j, delta): becomes SET_K_ENTRY */
    ATT_OP_ADD_V = 5,       /* UpdateV(i, j, delta): becomes SET_V_ENTRY */
    ATT_OP_APPEND = 6,      /* a new token; index ATT_ANY_INDEX: the lowest that is not live, filled in */
    ATT_OP_DELETE = 7,      /* delete token `index` */
    ATT_OP_SET_Q = 8        /* replace row `index` of Q by `key` */
};

#define ATT_ANY_INDEX UINT32_MAX

/* One update. After a successful apply it is absolute: applying it again changes nothing. */
struct att_op {
    enum att_op_kind kind;
    uint32_t index;
    uint32_t column;
    double number;      /* entry kinds: the new value, or the delta (then replaced by the value, a float32) */
    const float *key;   /* d floats or NULL; caller's, only read during the call */
    const float *value; /* d_v floats or NULL */
    const float *bias;  /* one float or NULL (append: NULL means 0); -inf masks the token */
};

/* Applies one update; visible to queries when it returns. Makes *op absolute. `lsn` must be larger than any before.
 * An APPEND with a given index replaces or creates that token (replay).
 * Errors, nothing changed: ATT_AGAIN (the log is full; try again after a merge), ATT_ERANGE, ATT_ENOTFINITE,
 * ATT_EMAGNITUDE, ATT_ECAPACITY, ATT_EINVAL. Cost O(d + d_v). Before start a full log is merged here: never ATT_AGAIN. */
enum att_status att_engine_apply(struct att_engine *engine, struct att_op *op, uint64_t lsn, struct att_error *error);

/* After a run of updates, or of reads: lets the merge thread take them, and merge if the reads have made that due (one fence; a
 * system call only when it sleeps). Until then no job sees a part of the updates, unless a job is submitted or the log is full;
 * queries see each at once. */
void att_engine_kick(struct att_engine *engine);

/* While held, the merge thread merges only when the log is full, or for a job that begins with a merge: for benchmarks and tests of
 * what is pending. */
void att_engine_hold(struct att_engine *engine, bool held);

/* Copies the live token: key (d floats), value (d_v), bias; any may be NULL. ATT_ERANGE when there is none. */
enum att_status att_engine_token(const struct att_engine *engine, uint32_t index, float *ret_key, float *ret_value,
                                 float *ret_bias, struct att_error *error);

/* Copies the live row of Q (d floats). ATT_ERANGE. */
enum att_status att_engine_q(const struct att_engine *engine, uint32_t row, float *ret_q, struct att_error *error);

/* ---- Reads --------------------------------------------------------------------------------------------- */

/* Query(i, j): O[i][j] and a bound on its error against exact arithmetic. O(p d), p entries pending.
 * ATT_EMPTY: no token. ATT_AGAIN: the base cannot give it now (cold or over budget): submit an ATT_JOB_ENTRY.
 * Errors: ATT_ERANGE. Outputs are untouched unless ATT_OK. */
enum att_status att_engine_query(struct att_engine *engine, uint32_t row, uint32_t column, double *ret_value,
                                 double *ret_error_bound, struct att_error *error);

/* The whole row: d_v values, and the largest of their bounds. Otherwise as att_engine_query, with ATT_JOB_ROW. */
enum att_status att_engine_row(struct att_engine *engine, uint32_t row, double *ret_values, double *ret_error_bound,
                               struct att_error *error);

/* Begins to bring what a query of that entry will read into the cache. Any index. */
void att_engine_ahead(const struct att_engine *engine, uint32_t row, uint32_t column);
/* The same for an update of `token`, which may be any number. */
void att_engine_ahead_update(const struct att_engine *engine, uint32_t token);

/* `count` reads of the row, of `columns` value columns each, that other processes took from the published region:
 * counted as if they had been asked here, so that merging knows which rows are hot. Nothing for a row out of range. */
void att_engine_note_reads(struct att_engine *engine, uint32_t row, uint32_t columns, uint32_t count);

/* Work for the merge thread's team, done at one cut of the log: what was applied before the submission is in it. */
enum att_job_kind {
    ATT_JOB_ROW = 1,      /* one row over the live tokens: values d_v, bounds 1 (the largest) */
    ATT_JOB_COLUMN = 2,   /* column `index`: values n_q, bounds n_q; a row without tokens has NaN. Merges first */
    ATT_JOB_ALL = 3,      /* everything: values n_q x d_v, bounds n_q. Merges first */
    ATT_JOB_MERGE = 4,    /* merge what is pending now */
    ATT_JOB_SNAPSHOT = 5, /* hand the settled state, piece by piece, to the sink */
    ATT_JOB_ENTRY = 6     /* ATT_JOB_ROW for one value column, `column`: values 1, bounds 1 */
};

/* Where a snapshot goes. All called on the merge thread; must not block. */
struct att_sink {
    void *context;
    /* the state's cut: LSN, tokens used (highest live index + 1); before any piece */
    void (*begin)(void *context, uint64_t lsn, uint32_t tokens_used);
    /* whether more is welcome now; when false the engine goes on with other work and asks again */
    bool (*room)(void *context);
    /* one piece, to be copied; called even without room when bases are about to be overwritten */
    void (*piece)(void *context, const struct att_piece *piece);
    void (*end)(void *context);
};

/* Owned by the caller, who keeps it and the buffers alive until the engine gives it back. */
struct att_job {
    enum att_job_kind kind;
    uint32_t index;
    uint32_t column; /* entry only */
    double *values;
    double *bounds;
    const struct att_sink *sink; /* snapshot only */
    void *user;                  /* the caller's */
    /* NULL, or: once this is not `asked_by` any more nobody wants the answer. It lives as long as the engine. Not of a
     * snapshot, whose sink counts on an end. */
    const _Atomic uint64_t *asker;
    uint64_t asked_by;
    /* out: ATT_OK, ATT_EMPTY (row, entry), ATT_EBUSY (a snapshot is running already), ATT_ENOMEM, ATT_EMAGNITUDE (scores
     * that the precision can't hold), ATT_ECLOSED (nobody wants it, and it was left) */
    enum att_status status;
    uint64_t lsn;         /* out: the LSN the result reflects */
    bool keep;            /* the engine's: a cold row is to become hot */
    struct att_job *next; /* the engine's */
};

/* Hands a job to the merge thread; completed jobs come back through att_engine_completed, in any order. */
void att_engine_submit(struct att_engine *engine, struct att_job *job);

/* A completed job, or NULL. */
struct att_job *att_engine_completed(struct att_engine *engine);

/* ---- State --------------------------------------------------------------------------------------------- */

struct att_engine_stats {
    uint64_t log_pending; /* entries not yet merged */
    uint64_t log_capacity;
    uint64_t merges, refreshes, updates, queries;
    uint64_t rows_hot, rows_cold;
    uint64_t tokens;      /* live */
    uint64_t tokens_used; /* highest index ever live + 1 */
    uint64_t lsn;         /* of the newest update */
    uint64_t settled_lsn;
    uint64_t region_bytes; /* of the published region, mapped */
    uint64_t token_bytes;  /* of the settled tokens, mapped */
    uint32_t threads;
    const char *kernel; /* "avx512", "avx2" or "plain" */
};

void att_engine_stats(const struct att_engine *engine, struct att_engine_stats *ret_stats);

/* The published region is these sealed memfds: what is always there, and the bases. The descriptors stay the engine's and
 * never change, but the merge thread may put another memory behind the second: see give_back.c. */
enum { ATT_REGION_FDS = 2 };
const int *att_engine_region_fds(const struct att_engine *engine);

/* For tests and the inspector: the row recomputed over the live tokens by the calling thread, not from its base.
 * Before start, or after the caller has stopped submitting work and the merge thread is idle. */
enum att_status att_engine_recompute(struct att_engine *engine, uint32_t row, double *ret_values,
                                     double *ret_error_bound, struct att_error *error);

#endif
