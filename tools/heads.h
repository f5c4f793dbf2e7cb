/* The heads of a state: one engine each, all of one shape. Only the LSNs, the log and the snapshots are common.
 *
 * Thread rule: as for the engines, the service thread; the inspector's one thread. */
#ifndef ATT_HEADS_H
#define ATT_HEADS_H

#include <stdint.h>

#include "engine.h"

/* Owned by whoever initialised it. A zeroed one may be released. */
struct att_heads {
    uint32_t count;
    struct att_engine **engines; /* [count]; NULL: not created yet */
};

/* Room for so many engines, none of them created. ATT_ENOMEM. */
enum att_status att_heads_init(struct att_heads *heads, uint32_t count, struct att_error *error);

/* Frees the engines too. */
void att_heads_release(struct att_heads *heads);

/* Starts them. On a failure some may run; releasing them stops them. As att_engine_start. */
enum att_status att_heads_start(struct att_heads *heads, struct att_error *error);

/* What all heads have together: sums; but of tokens_used and lsn the largest, of settled_lsn the smallest, and threads
 * and kernel of one. O(heads). */
void att_heads_stats(const struct att_heads *heads, struct att_engine_stats *ret_stats);

/* The team of each head's merge thread when none is asked for: the processors, shared out among the heads. */
uint32_t att_heads_threads(uint32_t count);

/* Puts "head H: " before the message when there are several. Returns the status. */
enum att_status att_heads_fail(uint32_t count, uint32_t head, struct att_error *error);

#endif
