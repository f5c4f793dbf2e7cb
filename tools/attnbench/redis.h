/* Redis with a sync for every reply, beside attnd. */
#ifndef ATT_BENCH_REDIS_H
#define ATT_BENCH_REDIS_H

#include <stdbool.h>

struct redis {
    int pid;
    char root[96], socket[112];
};

/* Starts redis-server on a directory of its own below `root`. False: it is not installed. */
bool redis_start(struct redis *redis, const char *root);
void redis_stop(struct redis *redis);
/* SETs of 4 bytes a second, by redis-benchmark, with so many clients and so many commands in flight in each. */
double redis_sets(const struct redis *redis, int clients, int pipeline, int count);

#endif
