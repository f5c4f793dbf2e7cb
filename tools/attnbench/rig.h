/* A rig: an engine filled with random numbers, and patient versions of its calls. Whatever fails ends the program. */
#ifndef ATT_BENCH_RIG_H
#define ATT_BENCH_RIG_H

#include <semaphore.h>
#include <stdatomic.h>

#include "bench.h"
#include "engine.h"

struct rig {
    struct att_engine *engine;
    uint32_t n_q, n_k, d, d_v;
    uint64_t lsn;
    struct bench_random random;
    struct bench_random queue; /* the random tokens that rig_replace replaces */
    float *keys, *values;      /* a small pool of new rows: RIG_POOL of each */
    uint32_t next;             /* of the pool */
    sem_t completion;          /* posted by the merge thread for each completion */
    _Atomic uint64_t finished; /* ns, when the last one was. Owner: merge thread */
};

enum { RIG_POOL = 64 };

/* n_q x d, one thread, mixed, room for exactly n_k tokens, chosen log, scale 1/sqrt(d). */
struct att_engine_options rig_options(uint32_t n_q, uint32_t n_k, uint32_t d);

/* Created and filled: scores have deviation 1. Not started. The rig must not move. */
void rig_create(struct rig *rig, const struct att_engine_options *options, uint64_t seed);

/* As above, from given arrays. */
void rig_create_from(struct rig *rig, const struct att_engine_options *options, const float *q, const float *k,
                     const float *v);
void rig_start(struct rig *rig);

/* Waits until no row is cold. */
void rig_wait_hot(const struct rig *rig);

/* The three in a row, then held: no merges but those asked for. */
void rig_create_held(struct rig *rig, const struct att_engine_options *options, uint64_t seed);
void rig_release(struct rig *rig);

/* Replaces key and value of a token by the next of the pool. False: the log is full. */
bool rig_replace(struct rig *rig, uint32_t token);

/* Replaces `count` random tokens (the log has room for them). */
void rig_replace_some(struct rig *rig, uint32_t count);

/* Runs a job to its end; returns ns from its submission to its completion on the merge thread. */
double rig_job(struct rig *rig, struct att_job *job);
double rig_merge(struct rig *rig);

/* Reads one entry of each of the first `rows` rows, so that they stay hot. */
void rig_touch_rows(struct rig *rig, uint32_t rows);

struct att_engine_stats rig_stats(const struct rig *rig);

#endif
