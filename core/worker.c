/* The merge thread: what it does next, and how it sleeps.
 *
 * Sleeping is store, full fence, check again, on both sides. `sleeping` is 0 (awake), 1 (with a deadline: wake it only
 * for a job or when a merge is due by size) or 2 (without one: wake it for anything). The merge thread stores 1 or 2,
 * fences, and looks at the log and the jobs again before it waits on the futex; the service publishes, fences, and
 * looks at `sleeping`. One of the two sees the other. */
#include <errno.h>
#include <linux/futex.h>
#include <omp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine_impl.h"

#define MERGE_AGE_NS    10000000ull /* pending entries are merged when the oldest is this old */
#define SAVING_PAUSE_NS 2000000ull  /* before asking a full snapshot sink again */

enum { AWAKE = 0, DOZING = 1, ASLEEP = 2, MERGE_NICENESS = 5 };

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t pending(const struct att_engine *engine)
{
    return att_merge_count(engine) - atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);
}

/* A quarter full: a merge is due whatever its age. Appenders that found no room do not wait for the age either. */
static bool due_by_size(const struct att_engine *engine, uint64_t entries)
{
    return entries > 0 && (entries >= engine->region.log_capacity / 4 || engine->options.eager ||
                           atomic_load_explicit(&engine->hungry, memory_order_relaxed));
}

static bool due(struct att_engine *engine)
{
    struct att_merger *merger = &engine->merger;
    const uint64_t entries = pending(engine);

    if (entries == 0) {
        merger->oldest_ns = 0;
        merger->merge_now = false;
        return false;
    }
    if (merger->oldest_ns == 0)
        merger->oldest_ns = now_ns();
    return merger->merge_now || due_by_size(engine, entries) || now_ns() - merger->oldest_ns >= MERGE_AGE_NS;
}

/* Moves what was submitted to the end of the waiting list, oldest first. */
static void take_jobs(struct att_engine *engine)
{
    /* Acquire: partner is the release in att_engine_submit. */
    struct att_job *job = atomic_exchange_explicit(&engine->submitted, NULL, memory_order_acquire);
    struct att_job *oldest = NULL, **end = &engine->merger.waiting;

    while (job) {
        struct att_job *next = job->next;
        job->next = oldest;
        oldest = job;
        job = next;
    }
    while (*end)
        end = &(*end)->next;
    *end = oldest;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    const struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                                     .tv_nsec = (long)(timeout_ns % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout_ns ? &timeout : NULL, NULL, 0);
}

static void sleep_until_wanted(struct att_engine *engine)
{
    const struct att_merger *merger = &engine->merger;
    const uint32_t how = pending(engine) > 0 || merger->saving.job ? DOZING : ASLEEP;
    uint64_t timeout = 0, age;

    if (how == DOZING) {
        age = merger->oldest_ns ? now_ns() - merger->oldest_ns : 0;
        timeout = age < MERGE_AGE_NS ? MERGE_AGE_NS - age + 1 : 1;
        if (merger->saving.job && timeout > SAVING_PAUSE_NS)
            timeout = SAVING_PAUSE_NS;
    }
    /* Sequentially consistent store and fence: partner is the fence in att_engine_kick. */
    atomic_store_explicit(&engine->sleeping, how, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load(&engine->stop) && !atomic_load(&engine->submitted) && !atomic_load(&engine->hungry) &&
        !(how == ASLEEP && pending(engine) > 0) && !due_by_size(engine, pending(engine)))
        futex_wait(&engine->sleeping, how, timeout);
    atomic_store_explicit(&engine->sleeping, AWAKE, memory_order_relaxed);
}

/* Merges what is due. */
static bool merge_due(struct att_engine *engine)
{
    if (!due(engine))
        return false;
    att_merge(engine, att_merge_count(engine));
    engine->merger.oldest_ns = 0;
    engine->merger.merge_now = false;
    return true;
}

/* Lets an appender know that found the log full, when it no longer is: by this merge, or by one that ended just before
 * the appender said so. */
static void feed(struct att_engine *engine)
{
    if (atomic_load_explicit(&engine->hungry, memory_order_seq_cst) &&
        pending(engine) < engine->region.log_capacity / 4) {
        atomic_store_explicit(&engine->hungry, false, memory_order_seq_cst);
        if (engine->options.on_completion)
            engine->options.on_completion(engine->options.context);
    }
}

/* One turn: a merge if it is due, then a job, then some pieces of a snapshot, else one group of refreshes. False when
 * there was nothing to do. While a snapshot is handed out nothing is refreshed: its sink empties in milliseconds. */
static bool turn(struct att_engine *engine)
{
    bool busy = merge_due(engine);

    feed(engine);
    take_jobs(engine);
    if (engine->merger.waiting) {
        att_jobs_run(engine);
        return true;
    }
    if (engine->merger.saving.job)
        return att_saving_step(engine) || busy;
    return att_refresh_some(engine) > 0 || busy;
}

static void *run(void *argument)
{
    struct att_engine *engine = argument;

    /* Below the request path; the team's threads are created by this one and inherit it. Failing is harmless. */
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), MERGE_NICENESS);
    while (!atomic_load_explicit(&engine->stop, memory_order_acquire))
        if (!turn(engine))
            sleep_until_wanted(engine);
    return NULL;
}

static void wake(struct att_engine *engine)
{
    atomic_store_explicit(&engine->sleeping, AWAKE, memory_order_relaxed);
    syscall(SYS_futex, &engine->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void att_engine_kick(struct att_engine *engine)
{
    uint32_t how;

    /* After the release of count or of a job. Partner: the fence in sleep_until_wanted. */
    atomic_thread_fence(memory_order_seq_cst);
    how = atomic_load_explicit(&engine->sleeping, memory_order_relaxed);
    if (how == AWAKE)
        return;
    if (how == ASLEEP || atomic_load_explicit(&engine->submitted, memory_order_relaxed) ||
        due_by_size(engine, pending(engine)))
        wake(engine);
}

enum att_status att_worker_start(struct att_engine *engine, struct att_error *error)
{
    int failure = pthread_create(&engine->merger.thread, NULL, run, engine);

    if (failure != 0)
        return att_fail(error, ATT_ENOMEM, "cannot start the merge thread: %s", strerror(failure));
    engine->merger.running = true;
    return ATT_OK;
}

void att_worker_stop(struct att_engine *engine)
{
    if (!engine->merger.running)
        return;
    atomic_store(&engine->stop, true);
    wake(engine);
    pthread_join(engine->merger.thread, NULL);
    engine->merger.running = false;
}
