/* Opening, starting, stopping; the state that the store's threads publish.
 *
 * Threads: the service thread (the caller), the log thread (log.c), the snapshot thread
 * (snapshot.c). What passes between them: records through the ring (log.c), pieces through the
 * queue (snapshot.c), requests to trim through log.trim_to, and the numbers in struct att_store
 * that say how far each has come. Those numbers only inform; each is an atomic of its own, written
 * by one thread (refusing excepted, below), and no memory hangs on them. The releases of
 * durable_lsn, snapshot_lsn, generation and snapshot.state are paired with the acquires in
 * att_store_state, so that whoever reads a number also sees those that were written before it.
 *
 * refusing: OK <-> ENOSPC by the log thread, OK or ENOSPC -> EIO by either thread
 * (compare-and-exchange, so that EIO is never overwritten). EIO is final.
 *
 * LMDB allows one writer for each environment: the log thread alone writes DIR/log, the snapshot
 * thread alone DIR/snap; the service thread writes in both only before it starts them. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store_impl.h"

const char *persist_strerror(int code, char *buffer, size_t size)
{
    if (code < 0)
        return mdb_strerror(code); /* static strings for LMDB's own codes */
    return strerror_r(code, buffer, size);
}

__attribute__((format(printf, 3, 0))) static void say(struct att_store *store, char *to, const char *format,
                                                      va_list arguments)
{
    char text[sizeof store->message];
    vsnprintf(text, sizeof text, format, arguments);
    pthread_mutex_lock(&store->message_lock);
    memcpy(to, text, sizeof text);
    pthread_mutex_unlock(&store->message_lock);
}

void persist_say(struct att_store *store, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(store, store->message, format, arguments);
    va_end(arguments);
}

void persist_say_snapshot(struct att_store *store, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(store, store->snapshot_message, format, arguments);
    va_end(arguments);
}

void persist_event(struct att_store *store)
{
    if (store->options.on_event)
        store->options.on_event(store->options.context);
}

void persist_final(struct att_store *store, const struct persist_env *env, const struct persist_failure *failure)
{
    char buffer[128];
    if (failure->code == ENOENT)
        persist_say(store, "%s/%s: %s; the state is in memory only: it can be read, and is gone when the daemon stops",
                    store->directory, env->name, failure->what);
    else
        persist_say(store,
                    "%s/%s: %s: %s; what was acknowledged is safe, nothing more will be: stop the "
                    "daemon, check the "
                    "disk, and start it again",
                    store->directory, env->name, failure->what, persist_strerror(failure->code, buffer, sizeof buffer));
    /* Release: whoever sees EIO sees the message; partner: the acquire in att_store_state. */
    atomic_store_explicit(&store->refusing, ATT_EIO, memory_order_release);
    persist_event(store);
    persist_ring(&store->snapshot.bell, true);
    persist_ring(&store->log.bell, true);
}

static enum att_status make_fresh(struct att_store *store, struct att_error *error)
{
    enum att_status status = persist_env_write_state(store, &store->snap_env, 0, error);
    if (!status)
        status = persist_env_write_state(store, &store->log_env, 0, error);
    return status ? status : persist_directory_sync(store, error);
}

/* Everything a reader needs to know; changes nothing. */
static enum att_status load(struct att_store *store, bool fresh, struct att_error *error)
{
    struct att_environment state;
    enum att_status status = persist_env_state(store, &store->snap_env, &state, error);
    if (!status && !store->without_log)
        status = persist_env_state(store, &store->log_env, &state, error);
    if (status)
        return status;
    store->incarnation = state.incarnation;
    status = persist_snapshot_load(store, error);
    if (status == ATT_ENOENT && fresh)
        status = ATT_OK;
    if (!status && store->without_log)
        store->incarnation = store->chosen.incarnation + PERSIST_INCARNATION_JUMP;
    else if (!status)
        status = persist_log_load(store, error);
    if (status)
        return status;
    store->last_lsn = store->log_last_lsn > store->chosen.lsn ? store->log_last_lsn : store->chosen.lsn;
    return ATT_OK;
}

static void publish_loaded(struct att_store *store)
{
    bool off = store->options.durability == ATT_DURABLE_OFF;
    /* With OFF too: what the log of an earlier start holds is on disk. */
    atomic_store_explicit(&store->durable_lsn, store->last_lsn, memory_order_relaxed);
    atomic_store_explicit(&store->snapshot_lsn, store->chosen.replay_lsn, memory_order_relaxed);
    atomic_store_explicit(&store->generation, store->chosen.generation, memory_order_relaxed);
    store->snapshot.current = store->chosen.generation;
    store->snapshot.current_replay_lsn = store->chosen.replay_lsn;
    store->log.next_lsn = off ? 0 : store->last_lsn + 1;
}

/* LMDB's own pages of the log are damaged. With options.exclusive (repair) the snapshot is opened without it; else the
 * message says how. */
static enum att_status open_without_log(struct att_store *store, struct att_error *error)
{
    struct att_error reason = error ? *error : (struct att_error){ATT_ECORRUPT, ""}, other;
    persist_env_close(&store->log_env);
    store->without_log = true;
    store->log_error = reason;
    if (store->options.exclusive)
        return ATT_OK;
    if (persist_snapshot_load(store, &other))
        return ATT_ECORRUPT;
    return att_fail(error, ATT_ECORRUPT,
                    "%.300s; to go on with what the snapshot holds, without the log: attninspect DIR repair --to-lsn "
                    "%llu",
                    reason.text, (unsigned long long)store->chosen.lsn);
}

enum att_status att_store_open(const char *directory, const struct att_store_options *options,
                               struct att_store **ret_store, struct att_error *error)
{
    if (!directory || !*directory || !options || !ret_store || options->durability > ATT_DURABLE_OFF)
        return att_fail(error, ATT_EINVAL, "att_store_open: needs a directory, options and a place for the store");
    if (strlen(directory) >= PERSIST_PATH)
        return att_fail(error, ATT_EINVAL, "%.60s...: the name of the directory is longer than %d", directory,
                        PERSIST_PATH - 1);
    struct att_store *store = aligned_alloc(64, (sizeof *store + 63) & ~(size_t)63);
    if (!store)
        return att_fail(error, ATT_ENOMEM, "%s: no memory for the store", directory);
    memset(store, 0, sizeof *store);
    memcpy(store->directory, directory, strlen(directory) + 1);
    store->options = *options;
    store->lock_fd = -1;
    pthread_mutex_init(&store->message_lock, NULL);

    bool fresh = false;
    enum att_status status = persist_directory_open(store, &fresh, error);
    if (!status)
        status = persist_env_open(store, &store->snap_env, ATT_ENVIRONMENT_SNAP, fresh, error);
    if (!status)
        status = persist_env_open(store, &store->log_env, ATT_ENVIRONMENT_LOG, fresh, error);
    if (status == ATT_ECORRUPT && store->snap_env.manifests && store->log_env.kind)
        status = open_without_log(store, error);
    if (!status && fresh)
        status = make_fresh(store, error);
    if (!status)
        status = load(store, fresh, error);
    if (!status && !options->read_only) {
        store->incarnation++;
        status = persist_env_write_state(store, &store->log_env, store->incarnation, error);
    }
    if (status) {
        att_store_close(store);
        return status;
    }
    publish_loaded(store);
    *ret_store = store;
    return ATT_OK;
}

enum att_status att_store_start(struct att_store *store, struct att_error *error)
{
    if (store->options.read_only)
        return att_fail(error, ATT_EREADONLY, "%s: was opened for reading only", store->directory);
    if (store->log_started)
        return att_fail(error, ATT_EINVAL, "%s: the store is started already", store->directory);
    if (store->log_status) {
        if (error)
            *error = store->log_error;
        return store->log_status;
    }
    store->log.ring = malloc(ATT_LOG_BUFFER_BYTES);
    if (!store->log.ring)
        return att_fail(error, ATT_ENOMEM, "%s: no memory for the log's buffer of %llu bytes", store->directory,
                        (unsigned long long)ATT_LOG_BUFFER_BYTES);
    /* A trim that a crash interrupted is finished; the log thread finds nothing to do otherwise. */
    if (store->older_generation)
        atomic_store_explicit(&store->log.trim_to, store->older_replay_lsn, memory_order_relaxed);
    int code = pthread_create(&store->log_thread, NULL, persist_log_main, store);
    if (code)
        goto fail_log;
    store->log_started = true;
    code = pthread_create(&store->snapshot_thread, NULL, persist_snapshot_main, store);
    if (code)
        goto fail_log; /* close joins the log thread */
    store->snapshot_started = true;
    return ATT_OK;

fail_log:;
    char buffer[128];
    return att_fail(error, ATT_ENOMEM, "%s: cannot start a thread: %s", store->directory,
                    persist_strerror(code, buffer, sizeof buffer));
}

void att_store_close(struct att_store *store)
{
    if (!store)
        return;
    if (store->log_started)
        att_store_push(store);
    /* Release: the threads' last look at the ring and the queue comes after they see it; partner:
     * their acquires. */
    atomic_store_explicit(&store->stop, true, memory_order_release);
    /* The log first: a snapshot that waits for its LSN to be durable gets that last chance. */
    if (store->log_started) {
        persist_ring(&store->log.bell, true);
        pthread_join(store->log_thread, NULL);
    }
    if (store->snapshot_started) {
        persist_ring(&store->snapshot.bell, true);
        pthread_join(store->snapshot_thread, NULL);
    }
    struct persist_piece *piece = atomic_load_explicit(&store->snapshot.queue, memory_order_acquire);
    while (piece) {
        struct persist_piece *next = piece->next;
        free(piece);
        piece = next;
    }
    persist_env_close(&store->snap_env);
    persist_env_close(&store->log_env);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    pthread_mutex_destroy(&store->message_lock);
    free(store->snapshot.cuts);
    free(store->chosen_cuts);
    free(store->log.ring);
    free(store);
}

uint64_t att_store_incarnation(const struct att_store *store)
{
    return store->incarnation;
}

uint64_t att_store_last_lsn(const struct att_store *store)
{
    return store->last_lsn;
}

void att_store_state(const struct att_store *store, struct att_store_state *ret_state)
{
    /* Acquires; partners: the releases of the threads that write them. Running first: once a
     * snapshot is seen to have ended, its LSN and whether it failed are seen too. */
    ret_state->snapshot_running = atomic_load_explicit(&store->snapshot.state, memory_order_acquire) != PERSIST_IDLE;
    ret_state->refusing = (enum att_status)atomic_load_explicit(&store->refusing, memory_order_acquire);
    ret_state->generation = atomic_load_explicit(&store->generation, memory_order_acquire);
    ret_state->snapshot_lsn = atomic_load_explicit(&store->snapshot_lsn, memory_order_acquire);
    ret_state->durable_lsn = atomic_load_explicit(&store->durable_lsn, memory_order_acquire);
    ret_state->snapshot_failed = atomic_load_explicit(&store->snapshot_failed, memory_order_acquire);
}

static void copy_message(const struct att_store *store, const char *message, char *ret_text, size_t size)
{
    if (size == 0)
        return;
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&store->message_lock;
    pthread_mutex_lock(lock);
    snprintf(ret_text, size, "%s", message);
    pthread_mutex_unlock(lock);
}

void att_store_message(const struct att_store *store, char *ret_text, size_t size)
{
    copy_message(store, store->message, ret_text, size);
}

void att_store_snapshot_message(const struct att_store *store, char *ret_text, size_t size)
{
    /* Acquire, as in att_store_state. What is final ends snapshots too. */
    const bool final = atomic_load_explicit(&store->refusing, memory_order_acquire) == ATT_EIO;
    copy_message(store, final ? store->message : store->snapshot_message, ret_text, size);
}
