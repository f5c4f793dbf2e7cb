/* Recovery: joins a store and the heads' engines. The daemon serves the result, the inspector looks at it.
 *
 * Thread rule: the thread that owns both, before either is started. Blocks for as long as reading takes. */
#ifndef ATT_RECOVER_H
#define ATT_RECOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "heads.h"
#include "sessions.h"
#include "store.h"

/* Which fields of the wanted options stand against what the snapshot says. n_q, d and d_v never do. */
enum {
    ATT_OVERRIDE_SCALE = 1,
    ATT_OVERRIDE_PRECISION = 2,
    ATT_OVERRIDE_CAPACITY = 4,
    ATT_WITHOUT_LOG = 8 /* for verify: the state at the snapshot's cut, nothing replayed */
};

struct att_recovery {
    struct att_snapshot_info snapshot;
    const char *warning; /* the store's: a newer generation was damaged; NULL: none was */
    uint64_t records;    /* replayed from the log */
    uint64_t last_lsn;   /* of the recovered state */
    uint32_t precision;  /* enum att_precision, in force */
    double scale;        /* in force */
    uint32_t capacity;   /* in force */
    bool bases_restored; /* false: there are none, or not of this kernel, precision and scale; all rows start cold */
    bool bases_in_snapshot;
};

/* Creates an engine for each head from the store's chosen snapshot and the log after the head's cut, prepared but not
 * started: the caller starts them, or looks at them, and releases *ret_heads. From `wanted` come log_capacity, threads,
 * eager, error_budget, on_completion, context and what `overrides` names; the rest from the snapshot's shape (capacity
 * and precision: from a newer snapshot's that is damaged, for the log goes on under those). The sessions, still empty,
 * are filled too, unless NULL.
 * Errors: the store's and the engine's; ATT_EINVAL when the capacity wanted is too small for the tokens there are;
 * ATT_ECORRUPT when a record makes no sense (names its LSN). */
enum att_status att_recover(struct att_store *store, const struct att_engine_options *wanted, unsigned overrides,
                            struct att_heads *ret_heads, struct att_sessions *sessions, struct att_recovery *ret_what,
                            struct att_error *error);

#endif
