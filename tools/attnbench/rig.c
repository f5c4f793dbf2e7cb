#include "rig.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void note_completion(void *context)
{
    struct rig *rig = context;

    atomic_store_explicit(&rig->finished, (uint64_t)bench_now(), memory_order_relaxed);
    sem_post(&rig->completion);
}

struct att_engine_options rig_options(uint32_t n_q, uint32_t n_k, uint32_t d)
{
    return (struct att_engine_options){
        .n_q = n_q, .d = d, .d_v = d, .capacity = n_k, .scale = 1.0 / sqrt(d), .precision = ATT_MIXED, .threads = 1};
}

static float *array(const struct rig *rig, enum att_array which)
{
    size_t bytes;

    return att_engine_array(rig->engine, which, &bytes);
}

static void prepare(struct rig *rig, const struct att_engine_options *options, uint64_t seed)
{
    struct att_engine_options with = *options;
    struct att_error error;
    size_t bytes;
    void *live;

    *rig = (struct rig){.n_q = options->n_q,
                        .n_k = options->capacity,
                        .d = options->d,
                        .d_v = options->d_v,
                        .random = {seed},
                        .queue = {seed + 1}};
    sem_init(&rig->completion, 0, 0);
    with.on_completion = note_completion;
    with.context = rig;
    if (att_engine_create(&with, &rig->engine, &error) != ATT_OK)
        bench_die("%s", error.text);
    live = att_engine_array(rig->engine, ATT_ARRAY_LIVE, &bytes);
    memset(live, 1, bytes);
    rig->keys = bench_floats((size_t)RIG_POOL * rig->d);
    rig->values = bench_floats((size_t)RIG_POOL * rig->d_v);
    bench_random_fill(&rig->random, rig->keys, (size_t)RIG_POOL * rig->d, 1.0);
    bench_random_fill(&rig->random, rig->values, (size_t)RIG_POOL * rig->d_v, 1.0);
}

void rig_create(struct rig *rig, const struct att_engine_options *options, uint64_t seed)
{
    prepare(rig, options, seed);
    bench_random_fill(&rig->random, array(rig, ATT_ARRAY_Q), (size_t)rig->n_q * rig->d, 1.0);
    bench_random_fill(&rig->random, array(rig, ATT_ARRAY_K), (size_t)rig->n_k * rig->d, 1.0);
    bench_random_fill(&rig->random, array(rig, ATT_ARRAY_V), (size_t)rig->n_k * rig->d_v, 1.0);
}

void rig_create_from(struct rig *rig, const struct att_engine_options *options, const float *q, const float *k,
                     const float *v)
{
    prepare(rig, options, 1);
    memcpy(array(rig, ATT_ARRAY_Q), q, sizeof(float) * rig->n_q * rig->d);
    memcpy(array(rig, ATT_ARRAY_K), k, sizeof(float) * rig->n_k * rig->d);
    memcpy(array(rig, ATT_ARRAY_V), v, sizeof(float) * rig->n_k * rig->d_v);
}

void rig_start(struct rig *rig)
{
    struct att_error error;

    if (att_engine_start(rig->engine, &error) != ATT_OK)
        bench_die("%s", error.text);
}

void rig_wait_hot(const struct rig *rig)
{
    const struct timespec pause = {.tv_nsec = 1000000}; /* shorter ones were measured to disturb the merge thread */
    const double end = bench_now() + 120e9;

    while (rig_stats(rig).rows_cold > 0) {
        if (bench_now() > end)
            bench_die("rows are still cold after two minutes");
        nanosleep(&pause, NULL);
    }
}

void rig_create_held(struct rig *rig, const struct att_engine_options *options, uint64_t seed)
{
    rig_create(rig, options, seed);
    rig_start(rig);
    rig_wait_hot(rig);
    att_engine_hold(rig->engine, true);
}

void rig_release(struct rig *rig)
{
    att_engine_free(rig->engine);
    free(rig->keys);
    free(rig->values);
    sem_destroy(&rig->completion);
}

bool rig_replace(struct rig *rig, uint32_t token)
{
    struct att_op op = {.kind = ATT_OP_SET_TOKEN,
                        .index = token,
                        .key = rig->keys + (size_t)(rig->next % RIG_POOL) * rig->d,
                        .value = rig->values + (size_t)(rig->next % RIG_POOL) * rig->d_v};
    struct att_error error;
    const enum att_status status = att_engine_apply(rig->engine, &op, rig->lsn + 1, &error);

    if (status == ATT_AGAIN)
        return false;
    if (status != ATT_OK)
        bench_die("%s", error.text);
    rig->lsn++;
    rig->next++;
    return true;
}

void rig_replace_some(struct rig *rig, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!rig_replace(rig, bench_random_below(&rig->queue, rig->n_k)))
            bench_die("the log is full, and nothing merges");
    att_engine_kick(rig->engine);
}

double rig_job(struct rig *rig, struct att_job *job)
{
    const double start = bench_now();
    struct att_job *done;

    att_engine_submit(rig->engine, job);
    while (!(done = att_engine_completed(rig->engine)))
        while (sem_wait(&rig->completion) != 0 && errno == EINTR)
            ;
    if (done != job || (job->status != ATT_OK && job->status != ATT_EMPTY))
        bench_die("a job of the merge thread failed: %s", att_status_name(job->status));
    return (double)atomic_load_explicit(&rig->finished, memory_order_relaxed) - start;
}

double rig_merge(struct rig *rig)
{
    struct att_job job = {.kind = ATT_JOB_MERGE};

    return rig_job(rig, &job);
}

void rig_touch_rows(struct rig *rig, uint32_t rows)
{
    double value, bound;

    for (uint32_t row = 0; row < rows; row++)
        if (att_engine_query(rig->engine, row, 0, &value, &bound, NULL) == ATT_OK)
            bench_sink = value;
}

struct att_engine_stats rig_stats(const struct rig *rig)
{
    struct att_engine_stats stats;

    att_engine_stats(rig->engine, &stats);
    return stats;
}
