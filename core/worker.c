/* The merge thread: what it does next, and how it sleeps.
 *
 * Sleeping is store, full fence, check again, on both sides. The merge thread stores `sleeping`, fences, and looks again
 * whether it is wanted before it waits on the futex; the service publishes, fences, and looks at `sleeping`, and wakes it
 * if it is wanted. One of the two sees the other.
 */
#include <errno.h>
#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine_impl.h"

#define SAVING_PAUSE_NS 2000000ull /* before asking a full snapshot sink again */

enum {
    MERGE_NICENESS = 5,
    MOST_ENTRIES = 2,  /* of one update */
    REFRESH_TURNS = 32 /* turns with jobs between two groups of refreshes */
};

double att_thread_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static uint64_t pending(const struct att_engine *engine)
{
    return att_merge_count(engine) - atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);
}

/* A merge is due whatever the reads say when the log is half full, and when an appender found no room. */
static bool due(const struct att_engine *engine, uint64_t entries)
{
    if (entries == 0)
        return false;
    if (atomic_load_explicit(&engine->hungry, memory_order_relaxed))
        return true;
    if (atomic_load_explicit(&engine->held, memory_order_relaxed))
        return false;
    return entries >= engine->region.log_capacity / 2 || engine->options.eager || att_policy_merge_due(engine, entries);
}

/* Takes out of a list what nobody wants any more; returns where the list ends. */
static struct att_job **leave_unwanted(struct att_engine *engine, struct att_job **list)
{
    while (*list) {
        struct att_job *job = *list;
        if (att_job_is_wanted(job)) {
            list = &job->next;
        } else {
            *list = job->next;
            att_job_leave(engine, job);
        }
    }
    return list;
}

/* Moves what was submitted to the end of the waiting list, oldest first. */
static void take_jobs(struct att_engine *engine)
{
    /* Acquire: partner is the release in att_engine_submit. */
    struct att_job *job = atomic_exchange_explicit(&engine->submitted, NULL, memory_order_acquire);
    struct att_job *oldest = NULL, **end;

    while (job) {
        struct att_job *next = job->next;
        job->next = oldest;
        oldest = job;
        job = next;
    }
    end = leave_unwanted(engine, &engine->merger.waiting);
    *end = oldest;
    leave_unwanted(engine, end);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    const struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                                     .tv_nsec = (long)(timeout_ns % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout_ns ? &timeout : NULL, NULL, 0);
}

static bool wanted(const struct att_engine *engine)
{
    return atomic_load(&engine->stop) || atomic_load(&engine->submitted) || atomic_load(&engine->hungry) ||
           due(engine, pending(engine));
}

static void sleep_until_wanted(struct att_engine *engine)
{
    /* Sequentially consistent store and fence: partner is the fence in att_engine_kick. */
    atomic_store_explicit(&engine->sleeping, 1, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    if (!wanted(engine))
        futex_wait(&engine->sleeping, 1, engine->merger.saving.job ? SAVING_PAUSE_NS : 0);
    atomic_store_explicit(&engine->sleeping, 0, memory_order_relaxed);
}

/* Merges if that is due, and no column is under way. */
static bool merge_due(struct att_engine *engine)
{
    const uint64_t cut = att_merge_count(engine);
    const uint64_t entries = cut - atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);

    if (engine->merger.wide.job || (!due(engine, entries) && !(engine->merger.merge_now && entries > 0)))
        return false;
    att_merge_to(engine, cut);
    return true;
}

/* Lets an appender know that found the log full, when it no longer is: by this merge, or by one that ended just before
 * the appender said so. Any room will do: others may take some at every merge. */
static void feed(struct att_engine *engine)
{
    if (atomic_load_explicit(&engine->hungry, memory_order_seq_cst) &&
        pending(engine) + MOST_ENTRIES <= engine->region.log_capacity) {
        atomic_store_explicit(&engine->hungry, false, memory_order_seq_cst);
        if (engine->options.on_completion)
            engine->options.on_completion(engine->options.context);
    }
}

/* Refreshes when nothing else is to do, and after some turns in any case: rows over their budget cost a job each time. */
static bool refresh(struct att_engine *engine, bool busy)
{
    if (busy && ++engine->merger.passed_over < REFRESH_TURNS)
        return false;
    engine->merger.passed_over = 0;
    return att_refresh_some(engine) > 0;
}

/* One turn: a merge if it is due, then jobs, then a piece of a snapshot, else one group of refreshes, else tidying up.
 * False when there was nothing to do. Nothing of that waits for ever, however many of the others come. While a snapshot is
 * handed out nothing is refreshed: its sink empties in milliseconds. */
static bool turn(struct att_engine *engine)
{
    bool busy = merge_due(engine);

    feed(engine);
    take_jobs(engine);
    busy = att_jobs_run(engine) || busy;
    if (engine->merger.saving.job)
        return att_saving_step(engine) || busy;
    return refresh(engine, busy) || att_tiles_compact(engine) || att_give_back(engine) || busy;
}

static void *run(void *argument)
{
    struct att_engine *engine = argument;

    /* Below the request path, and never taking a processor from it at once when woken: a woken SCHED_BATCH thread waits
     * for its turn. The team's threads are created by this one and inherit both. Failing is harmless. */
    sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), MERGE_NICENESS);
    while (!atomic_load_explicit(&engine->stop, memory_order_acquire))
        if (!turn(engine))
            sleep_until_wanted(engine);
    return NULL;
}

static void wake(struct att_engine *engine)
{
    atomic_store_explicit(&engine->sleeping, 0, memory_order_relaxed);
    syscall(SYS_futex, &engine->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void att_engine_kick(struct att_engine *engine)
{
    att_entries_offer(engine);
    att_policy_note_updates(engine);
    /* Nothing that the caller has done can be wanted: it is not to wait for its stores. An appender that found no room can
     * have said so just after the merge that made it, and has to be told. */
    if (pending(engine) == 0 && !atomic_load_explicit(&engine->submitted, memory_order_relaxed) &&
        !atomic_load_explicit(&engine->hungry, memory_order_relaxed))
        return;
    /* After the release of what is offered, or of a job. Partner: the fence in sleep_until_wanted. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&engine->sleeping, memory_order_relaxed) && wanted(engine))
        wake(engine);
}

void att_engine_hold(struct att_engine *engine, bool held)
{
    atomic_store_explicit(&engine->held, held, memory_order_relaxed);
    att_engine_kick(engine);
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
