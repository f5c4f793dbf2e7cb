/* The inspector's look at everything. Beside a live daemon each look is a short transaction; a
 * generation or a batch that the daemon deletes meanwhile is not a finding. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "store_impl.h"

struct verify {
    struct att_store *store;
    void (*finding)(void *context, int severity, const char *text);
    void *context;
    int worst;
    uint64_t newest;     /* of the whole generations */
    uint64_t newest_lsn; /* the log behind it is needed */
    size_t whole;
};

__attribute__((format(printf, 3, 4))) static void report(struct verify *verify, int severity, const char *format, ...)
{
    char text[700];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (severity > verify->worst)
        verify->worst = severity;
    if (verify->finding)
        verify->finding(verify->context, severity, text);
}

static bool is_fatal(enum att_status status)
{
    return status && status != ATT_ECORRUPT && status != ATT_EVERSION && status != ATT_ENOENT;
}

static enum att_status verify_pages(struct verify *verify, struct persist_env *env, struct att_error *error)
{
    struct att_error why;
    struct att_environment state;
    enum att_status status = persist_pages_check(verify->store, env, &why);
    if (!status)
        status = persist_env_state(verify->store, env, &state, &why);
    if (status) {
        report(verify, 2, "%s", why.text);
        if (error)
            *error = why;
    }
    return status;
}

/* ---- Snapshots ------------------------------------------------------------------------------ */

static enum att_status verify_generation(struct verify *verify, uint64_t generation, enum att_status manifest_status,
                                         const struct att_manifest *manifest, struct att_error *why)
{
    struct att_store *store = verify->store;
    struct persist_walk walk;
    enum att_status status = manifest_status;
    if (!status)
        status = persist_generation_walk(store, generation, true, NULL, NULL, &walk, why);
    if (!status)
        status = persist_generation_agrees(store, manifest, &walk, why);
    if (is_fatal(status))
        return status;
    if (status && !persist_manifest_exists(store, generation))
        return ATT_OK; /* deleted meanwhile */
    if (status) {
        report(verify, 1, "%s", why->text);
        return ATT_OK;
    }
    verify->whole++;
    verify->newest = generation;
    verify->newest_lsn = manifest->replay_lsn;
    report(verify, 0, "%s/snap: generation %llu is whole: LSN %llu, %llu pieces, %llu bytes", store->directory,
           (unsigned long long)generation, (unsigned long long)manifest->lsn, (unsigned long long)manifest->pieces,
           (unsigned long long)manifest->bytes);
    return ATT_OK;
}

/* Pieces without a manifest: a snapshot being written, or what a crash left. */
static enum att_status verify_unfinished(struct verify *verify, struct att_error *why)
{
    struct att_store *store = verify->store;
    uint64_t from = 0;
    for (;;) {
        MDB_txn *txn;
        MDB_cursor *cursor;
        uint64_t generation = 0;
        enum att_status status = persist_env_read(store, &store->snap_env, &txn, why);
        if (status)
            return status;
        struct att_piece_key name = persist_piece_key(from, 0, 0);
        MDB_val key = {sizeof name, &name}, value;
        int code = mdb_cursor_open(txn, store->snap_env.values, &cursor);
        if (!code) {
            code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
            if (!code && key.mv_size != sizeof name)
                code = MDB_CORRUPTED;
            for (int i = 0; !code && i < 8; i++)
                generation = generation << 8 | ((const unsigned char *)key.mv_data)[i];
            mdb_cursor_close(cursor);
        }
        mdb_txn_abort(txn);
        if (code == MDB_NOTFOUND)
            return ATT_OK;
        if (code)
            return persist_lmdb_fail(why, store, &store->snap_env, "cannot read pieces", code);
        struct persist_walk walk;
        if (!persist_manifest_exists(store, generation)) {
            status = persist_generation_walk(store, generation, true, NULL, NULL, &walk, why);
            if (is_fatal(status))
                return status;
            if (status)
                report(verify, 1, "%s (of a snapshot that was never finished)", why->text);
            else if (walk.pieces)
                report(verify, 0,
                       "%s/snap: generation %llu is unfinished: %llu pieces, %llu bytes; it is being "
                       "written, or the next start deletes it",
                       store->directory, (unsigned long long)generation, (unsigned long long)walk.pieces,
                       (unsigned long long)walk.bytes);
        }
        if (generation == UINT64_MAX)
            return ATT_OK;
        from = generation + 1;
    }
}

static enum att_status verify_snapshots(struct verify *verify, struct att_error *error)
{
    struct att_store *store = verify->store;
    struct att_error why = {ATT_OK, ""};
    uint64_t generation = 0;
    enum att_status status = ATT_OK;
    while (!status) {
        struct att_manifest manifest;
        uint64_t before = generation;
        status = persist_manifest_next(store, before, &generation, &manifest, &why);
        if (status == ATT_ENOENT || generation == before)
            break;
        status = verify_generation(verify, generation, status, &manifest, &why);
    }
    if (status == ATT_ENOENT)
        status = verify_unfinished(verify, &why);
    if (status) {
        if (error)
            *error = why;
        return status;
    }
    if (verify->whole == 0)
        report(verify, 2, "%s/snap: no generation is whole; restore DIR from a copy", store->directory);
    return ATT_OK;
}

/* ---- The log -------------------------------------------------------------------------------- */

struct log_walk {
    uint64_t batches, whole, first, last, expected;
    bool any, broken;     /* the last batch is damaged, */
    struct att_error why; /* so */
};

/* What is lost when the log does not hold LSN `lsn`? Nothing today if a snapshot covers it, but
 * then falling back behind that snapshot has become impossible. */
static int severity_at(const struct verify *verify, uint64_t lsn)
{
    return verify->whole == 0 || lsn > verify->newest_lsn ? 2 : 1;
}

/* Whether a live daemon has replaced all the generations that we saw, and trimmed the log up to the batch at `lsn`. */
static bool was_trimmed(const struct verify *verify, uint64_t lsn)
{
    struct att_snapshot_info oldest;
    return att_store_generations(verify->store, &oldest, 1) > 0 && oldest.generation > verify->newest &&
           lsn <= oldest.replay_lsn + 1;
}

/* A damaged batch may have reached up to the next one, at `next`; of the last nobody knows how far. */
static void report_broken(struct verify *verify, struct log_walk *walk, uint64_t next)
{
    if (walk->broken)
        report(verify, severity_at(verify, next - 1), "%s", walk->why.text);
    walk->broken = false;
}

static void verify_batch(struct verify *verify, struct log_walk *walk, uint64_t key, const MDB_val *value)
{
    struct att_store *store = verify->store;
    struct att_batch batch;
    if (walk->any && key != walk->expected && !walk->broken && !was_trimmed(verify, key)) {
        /* With --durability off the log stops and snapshots go on: a gap below a snapshot costs
         * nothing today. */
        bool covered = verify->whole && key <= verify->newest_lsn + 1;
        report(verify, covered ? 0 : 2, "%s/log: LSN %llu to %llu are missing%s", store->directory,
               (unsigned long long)walk->expected, (unsigned long long)key - 1,
               covered ? "; the newest snapshot holds them" : "");
    }
    report_broken(verify, walk, key);
    if (persist_batch_check(store, key, value, &batch, &walk->why)) {
        walk->broken = true; /* where the next one begins is unknown */
        walk->expected = key + 1;
    } else {
        walk->expected = batch.last_lsn + 1;
        walk->last = batch.last_lsn;
        walk->whole++;
    }
    if (!walk->any)
        walk->first = key;
    walk->any = true;
    walk->batches++;
}

static enum att_status verify_log(struct verify *verify, struct att_error *error)
{
    struct att_store *store = verify->store;
    struct log_walk walk = {0};
    unsigned char *copy = NULL;
    size_t capacity = 0;
    enum att_status status = ATT_OK;
    for (uint64_t from = 0;;) {
        MDB_txn *txn;
        MDB_cursor *cursor;
        status = persist_env_read(store, &store->log_env, &txn, error);
        if (status)
            break;
        uint64_t found = 0;
        MDB_val key = {sizeof from, &from}, value = {0, NULL}, kept = {0, NULL};
        int code = mdb_cursor_open(txn, store->log_env.values, &cursor);
        if (!code) {
            code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
            if (!code && value.mv_size > capacity) {
                free(copy);
                copy = malloc(value.mv_size);
                capacity = copy ? value.mv_size : 0;
                code = copy ? 0 : ENOMEM;
            }
            if (!code) {
                memcpy(&found, key.mv_data, sizeof found);
                memcpy(copy, value.mv_data, value.mv_size);
                kept = (MDB_val){value.mv_size, copy};
            }
            mdb_cursor_close(cursor);
        }
        mdb_txn_abort(txn);
        if (code && code != MDB_NOTFOUND)
            status = persist_lmdb_fail(error, store, &store->log_env, "cannot read a batch", code);
        if (code)
            break;
        verify_batch(verify, &walk, found, &kept);
        if (found == UINT64_MAX)
            break;
        from = found + 1;
    }
    free(copy);
    if (status)
        return status;
    report_broken(verify, &walk, 0);
    if (walk.any && verify->whole && walk.first > verify->newest_lsn + 1 && !was_trimmed(verify, walk.first))
        report(verify, 2, "%s/log: begins at LSN %llu, but the newest snapshot ends at LSN %llu", store->directory,
               (unsigned long long)walk.first, (unsigned long long)verify->newest_lsn);
    if (walk.any && walk.whole == walk.batches)
        report(verify, 0, "%s/log: %llu batch%s, LSN %llu to %llu", store->directory, (unsigned long long)walk.batches,
               walk.batches == 1 ? "" : "es", (unsigned long long)walk.first, (unsigned long long)walk.last);
    else if (walk.any)
        report(verify, 0, "%s/log: %llu of %llu batches are whole, LSN %llu to %llu", store->directory,
               (unsigned long long)walk.whole, (unsigned long long)walk.batches, (unsigned long long)walk.first,
               (unsigned long long)walk.last);
    else
        report(verify, 0, "%s/log: empty", store->directory);
    return ATT_OK;
}

enum att_status att_store_verify(struct att_store *store,
                                 void (*finding)(void *context, int severity, const char *text), void *context,
                                 struct att_error *error)
{
    struct verify verify = {.store = store, .finding = finding, .context = context};
    /* The log's last look comes after the snapshots': the daemon trims only what a snapshot it has
     * finished covers. */
    enum att_status status = verify_pages(&verify, &store->snap_env, error);
    if (!status)
        status = verify_pages(&verify, &store->log_env, error);
    if (!status)
        status = verify_snapshots(&verify, error);
    if (!status)
        status = verify_log(&verify, error);
    if (status)
        return status;
    if (verify.worst == 0)
        return ATT_OK;
    return att_fail(error, ATT_ECORRUPT, "%s: %s", store->directory,
                    verify.worst == 2 ? "data is lost, see the findings" : "damaged, but nothing is lost");
}
