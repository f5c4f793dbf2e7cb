#include "heads.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

enum att_status att_heads_init(struct att_heads *heads, uint32_t count, struct att_error *error)
{
    struct att_engine **engines = calloc(count, sizeof *engines);

    if (!engines)
        return att_fail(error, ATT_ENOMEM, "not enough memory for %" PRIu32 " heads", count);
    *heads = (struct att_heads){.count = count, .engines = engines};
    return ATT_OK;
}

void att_heads_release(struct att_heads *heads)
{
    for (uint32_t head = 0; head < heads->count; head++)
        att_engine_free(heads->engines[head]);
    free(heads->engines);
    *heads = (struct att_heads){0};
}

enum att_status att_heads_fail(uint32_t count, uint32_t head, struct att_error *error)
{
    if (count > 1) {
        const struct att_error inner = *error;
        att_fail(error, inner.status, "head %" PRIu32 ": %.480s", head, inner.text);
    }
    return error->status;
}

enum att_status att_heads_start(struct att_heads *heads, struct att_error *error)
{
    for (uint32_t head = 0; head < heads->count; head++)
        if (att_engine_start(heads->engines[head], error) != ATT_OK)
            return att_heads_fail(heads->count, head, error);
    return ATT_OK;
}

void att_heads_stats(const struct att_heads *heads, struct att_engine_stats *ret_stats)
{
    struct att_engine_stats all, one;

    att_engine_stats(heads->engines[0], &all);
    for (uint32_t head = 1; head < heads->count; head++) {
        att_engine_stats(heads->engines[head], &one);
        all.log_pending += one.log_pending;
        all.log_capacity += one.log_capacity;
        all.merges += one.merges;
        all.refreshes += one.refreshes;
        all.updates += one.updates;
        all.queries += one.queries;
        all.rows_hot += one.rows_hot;
        all.rows_cold += one.rows_cold;
        all.tokens += one.tokens;
        all.region_bytes += one.region_bytes;
        all.token_bytes += one.token_bytes;
        all.tokens_used = one.tokens_used > all.tokens_used ? one.tokens_used : all.tokens_used;
        all.lsn = one.lsn > all.lsn ? one.lsn : all.lsn;
        all.settled_lsn = one.settled_lsn < all.settled_lsn ? one.settled_lsn : all.settled_lsn;
    }
    *ret_stats = all;
}

uint32_t att_heads_threads(uint32_t count)
{
    cpu_set_t set;
    uint32_t processors = sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;

    return processors > count ? processors / count : 1;
}
