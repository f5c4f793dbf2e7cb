/* Reading the log: at recovery, and beside a live daemon.
 *
 * A reading transaction pins the pages it can see, and in a log that is trimmed and appended to all
 * the time pinned pages make the file grow. So each batch is copied out in a transaction of its
 * own, and checked and handed on without one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "store_impl.h"

static enum att_status check_records(const struct att_store *store, const struct att_batch *batch,
                                     const unsigned char *records, struct att_error *error)
{
    uint64_t lsn = batch->first_lsn;
    uint32_t at = 0;
    for (uint32_t i = 0; i < batch->count; i++, lsn++) {
        struct att_record record;
        if (batch->bytes - at < sizeof record)
            break;
        memcpy(&record, records + at, sizeof record);
        if (record.lsn != lsn || record.length < sizeof record || record.length % 8 ||
            record.length > batch->bytes - at)
            break;
        at += record.length;
    }
    if (lsn != batch->last_lsn + 1 || at != batch->bytes)
        return att_fail(error, ATT_ECORRUPT,
                        "%s/log: the batch at LSN %llu is damaged: its record of LSN %llu does not "
                        "fit",
                        store->directory, (unsigned long long)batch->first_lsn, (unsigned long long)lsn);
    return ATT_OK;
}

enum att_status persist_batch_check(const struct att_store *store, uint64_t key, const MDB_val *value,
                                    struct att_batch *ret_batch, struct att_error *error)
{
    char what[64];
    struct att_batch batch;
    snprintf(what, sizeof what, "the batch at LSN %llu", (unsigned long long)key);
    enum att_status status =
        persist_check_value(store, &store->log_env, value, sizeof batch, ATT_MAGIC_BATCH, what, error);
    if (status)
        return status;
    memcpy(&batch, value->mv_data, sizeof batch);
    if (batch.first_lsn != key || batch.count == 0 || batch.last_lsn - batch.first_lsn + 1 != batch.count ||
        batch.bytes != value->mv_size - sizeof batch)
        return att_fail(error, ATT_ECORRUPT, "%s/log: %s is damaged: its header does not fit", store->directory, what);
    status = check_records(store, &batch, (const unsigned char *)value->mv_data + sizeof batch, error);
    if (!status)
        *ret_batch = batch;
    return status;
}

/* The batch in hand, and what reading on needs. Starts as zeros; free value.mv_data. */
struct reader {
    uint64_t key;
    MDB_val value; /* a copy */
    size_t capacity;
    struct persist_ahead ahead;
};

/* A copy of the batch found by `op` from LSN `at`. ATT_ENOENT: none (no message). */
static enum att_status copy_batch(struct att_store *store, MDB_cursor_op op, uint64_t at, struct reader *reader,
                                  struct att_error *error)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    enum att_status status = persist_env_read(store, &store->log_env, &txn, error);
    if (status)
        return status;
    MDB_val key = {sizeof at, &at}, value;
    int code = mdb_cursor_open(txn, store->log_env.values, &cursor);
    if (!code) {
        code = mdb_cursor_get(cursor, &key, &value, op == MDB_PREV ? MDB_SET_RANGE : op);
        if (op == MDB_PREV) /* the last one before `at` */
            code = mdb_cursor_get(cursor, &key, &value, code == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
        if (!code && value.mv_size > reader->capacity) {
            void *larger = realloc(reader->value.mv_data, value.mv_size);
            code = larger ? 0 : ENOMEM;
            if (larger) {
                reader->value.mv_data = larger;
                reader->capacity = value.mv_size;
            }
        }
        if (!code) {
            persist_read_ahead(&reader->ahead, &value);
            memcpy(&reader->key, key.mv_data, sizeof reader->key);
            memcpy(reader->value.mv_data, value.mv_data, value.mv_size);
            reader->value.mv_size = value.mv_size;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    if (code == MDB_NOTFOUND)
        return ATT_ENOENT;
    return code ? persist_lmdb_fail(error, store, &store->log_env, "cannot read a batch", code) : ATT_OK;
}

enum att_status persist_log_load(struct att_store *store, struct att_error *error)
{
    struct reader last = {0};
    struct att_batch batch;
    enum att_status status = copy_batch(store, MDB_LAST, 0, &last, error);
    if (status == ATT_OK) {
        store->log_status = persist_batch_check(store, last.key, &last.value, &batch, &store->log_error);
        /* Nobody appends behind a damaged batch, but what is whole can still be read, and the
         * snapshot. */
        store->log_last_lsn = store->log_status ? last.key : batch.last_lsn;
        if (store->log_status == ATT_EVERSION) {
            status = store->log_status;
            if (error)
                *error = store->log_error;
        }
    } else if (status == ATT_ENOENT) {
        status = ATT_OK;
    }
    free(last.value.mv_data);
    return status;
}

/* The end of the first gap or damage: what is whole, and how to go on. Not by a repair where the snapshot reaches further. */
static enum att_status log_fail(const struct att_store *store, const char *what, uint64_t lsn, uint64_t after,
                                struct att_error *error)
{
    char whole[96];
    if (lsn > after + 1)
        snprintf(whole, sizeof whole, "LSN %llu to %llu before it are whole", (unsigned long long)after + 1,
                 (unsigned long long)lsn - 1);
    else
        snprintf(whole, sizeof whole, "nothing behind LSN %llu is whole", (unsigned long long)after);
    if (lsn <= store->chosen.replay_lsn)
        return att_fail(error, ATT_ECORRUPT,
                        "%s/log: %s at LSN %llu; %s; the snapshot at LSN %llu holds what is missing", store->directory,
                        what, (unsigned long long)lsn, whole, (unsigned long long)store->chosen.lsn);
    return att_fail(error, ATT_ECORRUPT,
                    "%s/log: %s at LSN %llu; %s; to go on without the rest: attninspect DIR repair "
                    "--to-lsn %llu",
                    store->directory, what, (unsigned long long)lsn, whole, (unsigned long long)lsn - 1);
}

/* A reader beside a live daemon may find that the log was trimmed meanwhile: then it is not
 * damaged. */
static bool was_trimmed(struct att_store *store, uint64_t after)
{
    if (!store->options.read_only)
        return false;
    struct att_snapshot_info infos[8];
    size_t count = att_store_generations(store, infos, 8);
    return count > 0 && infos[0].replay_lsn > after;
}

static enum att_status hand_on(const struct att_batch *batch, const unsigned char *records, uint64_t after,
                               enum att_status (*record)(void *context, const struct att_record *record,
                                                         const void *payload, struct att_error *error),
                               void *context, struct att_error *error)
{
    for (uint32_t at = 0; at < batch->bytes;) {
        struct att_record header;
        memcpy(&header, records + at, sizeof header);
        if (header.lsn > after) {
            enum att_status status = record(context, &header, records + at + sizeof header, error);
            if (status)
                return status;
        }
        at += header.length;
    }
    return ATT_OK;
}

/* The batch that holds `expected`, or else the next one behind it. It may begin before `expected`.
 */
static enum att_status first_batch(struct att_store *store, uint64_t expected, struct reader *reader,
                                   struct att_error *error)
{
    struct att_batch batch;
    struct att_error reason;
    enum att_status status = copy_batch(store, MDB_PREV, expected + 1, reader, error);
    if (status == ATT_OK && reader->key < expected) {
        status = persist_batch_check(store, reader->key, &reader->value, &batch, &reason);
        if (status == ATT_EVERSION)
            return att_fail(error, status, "%s", reason.text);
        if (status) /* whether it reached further is unknown */
            return log_fail(store, "the batch that may hold the next updates is damaged, they begin", expected,
                            expected - 1, error);
        if (batch.last_lsn >= expected)
            return ATT_OK;
        return copy_batch(store, MDB_SET_RANGE, expected, reader, error);
    }
    if (status == ATT_ENOENT)
        return copy_batch(store, MDB_SET_RANGE, expected, reader, error);
    return status;
}

enum att_status att_store_read_log(struct att_store *store, uint64_t after,
                                   enum att_status (*record)(void *context, const struct att_record *record,
                                                             const void *payload, struct att_error *error),
                                   void *context, struct att_error *error)
{
    struct reader reader = {0};
    uint64_t expected = after + 1;
    enum att_status status = first_batch(store, expected, &reader, error);
    while (!status) {
        struct att_error reason;
        struct att_batch batch;
        if (reader.key > expected && reader.key <= store->chosen.replay_lsn + 1)
            expected = reader.key; /* what was done with --durability off, and the snapshot holds, is no gap */
        if (reader.key > expected) {
            if (was_trimmed(store, after))
                status = att_fail(error, ATT_AGAIN,
                                  "%s: the daemon took snapshots and trimmed the log meanwhile; run "
                                  "this again",
                                  store->directory);
            else
                status = log_fail(store, "the log has a gap", expected, after, error);
            goto done;
        }
        status = persist_batch_check(store, reader.key, &reader.value, &batch, &reason);
        if (status) {
            status = status == ATT_ECORRUPT ? log_fail(store, "a batch is damaged", expected, after, error)
                                            : att_fail(error, status, "%s", reason.text);
            goto done;
        }
        status =
            hand_on(&batch, (const unsigned char *)reader.value.mv_data + sizeof batch, after, record, context, error);
        if (status)
            goto done;
        expected = batch.last_lsn + 1;
        status = copy_batch(store, MDB_SET_RANGE, expected, &reader, error);
    }
    if (status == ATT_ENOENT)
        status = ATT_OK; /* the end of the log */
done:
    free(reader.value.mv_data);
    return status;
}

void att_store_log_info(struct att_store *store, struct att_log_info *ret_info)
{
    struct att_log_info info = {0, 0, 0, 0};
    MDB_txn *txn;
    MDB_cursor *cursor;
    *ret_info = info;
    if (store->without_log || persist_env_read(store, &store->log_env, &txn, NULL))
        return;
    if (!mdb_cursor_open(txn, store->log_env.values, &cursor)) {
        MDB_val key, value;
        struct att_batch batch;
        /* Values are not read but for the last: their headers would cost a page each. */
        MDB_stat stat;
        if (!mdb_cursor_get(cursor, &key, &value, MDB_FIRST) && !mdb_stat(txn, store->log_env.values, &stat)) {
            memcpy(&info.first_lsn, key.mv_data, sizeof info.first_lsn);
            info.batches = stat.ms_entries;
            info.bytes = (stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages) * (uint64_t)stat.ms_psize;
            if (!mdb_cursor_get(cursor, &key, &value, MDB_LAST)) {
                memcpy(&info.last_lsn, key.mv_data, sizeof info.last_lsn);
                if (!persist_batch_check(store, info.last_lsn, &value, &batch, NULL))
                    info.last_lsn = batch.last_lsn;
            }
            *ret_info = info;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
}
