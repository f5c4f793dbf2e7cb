/* Copies of a state: to another place, also beside a live daemon, and without its end (repair).
 *
 * A copy is made under another name, TO.unfinished, by this thread alone: pieces, then the log,
 * then the manifest, each with the store's own functions, so each value is checked when it is read
 * and sealed anew when it is written. Only when all of it is synced does it get its name, in one
 * rename. So whatever interrupts it, TO is missing (or empty) as before, or whole. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "store_impl.h"

#define COPY_COMMIT ((uint64_t)4 << 20) /* bytes of pieces in one transaction: nobody waits for it */

struct copying {
    struct att_store *to;
    uint64_t to_lsn; /* the last record that is wanted */
    uint64_t lsn;    /* reached */
    uint64_t records;
    bool done;
    /* pieces that wait to be written */
    struct persist_piece *first, **last;
    uint64_t queued;
    /* the batch in hand */
    unsigned char *buffer; /* PERSIST_BATCH_BYTES */
    struct att_batch batch;
};

static enum att_status fail_errno(struct att_error *error, int code, const char *path, const char *what)
{
    char buffer[128];
    return att_fail(error, persist_lmdb_status(code), "%s: %s: %s", path, what,
                    persist_strerror(code, buffer, sizeof buffer));
}

static enum att_status check(const struct att_store *to, const struct persist_env *env,
                             const struct persist_failure *failure, struct att_error *error)
{
    if (!failure->outcome)
        return ATT_OK;
    return persist_lmdb_fail(error, to, env, failure->what, failure->code);
}

/* ---- The snapshot --------------------------------------------------------------------------- */

static void drop_pieces(struct copying *self)
{
    while (self->first) {
        struct persist_piece *next = self->first->next;
        free(self->first);
        self->first = next;
    }
    self->last = &self->first;
    self->queued = 0;
}

static enum att_status write_pieces(struct copying *self, struct att_error *error)
{
    if (!self->first)
        return ATT_OK;
    struct persist_failure failure = persist_snapshot_write(self->to, self->first);
    drop_pieces(self);
    return check(self->to, &self->to->snap_env, &failure, error);
}

static enum att_status copy_piece(void *context, uint32_t array, uint64_t offset, const void *data, uint64_t bytes,
                                  struct att_error *error)
{
    struct copying *self = context;
    struct persist_piece *piece = malloc(sizeof *piece + bytes);
    if (!piece)
        return att_fail(error, ATT_ENOMEM, "%s: no memory for a piece of %llu bytes", self->to->directory,
                        (unsigned long long)bytes);
    *piece = (struct persist_piece){.array = array, .offset = offset, .bytes = bytes};
    memcpy(piece->data, data, bytes);
    *self->last = piece;
    self->last = &piece->next;
    self->queued += bytes;
    return self->queued >= COPY_COMMIT ? write_pieces(self, error) : ATT_OK;
}

static enum att_status copy_snapshot(struct att_store *from, struct copying *self, struct att_error *error)
{
    struct att_store *to = self->to;
    size_t bytes = from->chosen.shape.heads * sizeof *to->snapshot.cuts;
    to->snapshot.cuts = malloc(bytes);
    if (!to->snapshot.cuts)
        return att_fail(error, ATT_ENOMEM, "%s: no memory for a snapshot", to->directory);
    memcpy(to->snapshot.cuts, from->chosen_cuts, bytes);
    to->snapshot.shape = from->chosen.shape;
    to->snapshot.generation = 1;
    enum att_status status = att_store_read_snapshot(from, copy_piece, self, error);
    return status ? status : write_pieces(self, error);
}

/* ---- The log -------------------------------------------------------------------------------- */

static enum att_status write_batch(struct copying *self, struct att_error *error)
{
    struct persist_env *env = &self->to->log_env;
    struct att_batch *batch = &self->batch;
    MDB_txn *txn;
    bool full;
    if (batch->count == 0)
        return ATT_OK;
    struct persist_failure failure = persist_begin(env, sizeof *batch + batch->bytes, &txn, &full);
    if (!failure.outcome) {
        MDB_val key = {sizeof batch->first_lsn, &batch->first_lsn};
        MDB_val value = {sizeof *batch + batch->bytes, self->buffer};
        memcpy(self->buffer, batch, sizeof *batch);
        persist_seal(self->buffer, value.mv_size, ATT_MAGIC_BATCH);
        int code = mdb_put(txn, env->values, &key, &value, MDB_APPEND);
        failure =
            code ? persist_abort(env, txn, full, code, "cannot write to the log") : persist_commit(env, txn, full);
    }
    *batch = (struct att_batch){.incarnation = self->to->incarnation};
    return check(self->to, env, &failure, error);
}

static enum att_status copy_record(void *context, const struct att_record *record, const void *payload,
                                   struct att_error *error)
{
    struct copying *self = context;
    struct att_batch *batch = &self->batch;
    enum att_status status = ATT_OK;
    if (sizeof *batch + batch->bytes + record->length > PERSIST_BATCH_BYTES)
        status = write_batch(self, error);
    if (status)
        return status;
    unsigned char *at = self->buffer + sizeof *batch + batch->bytes;
    memcpy(at, record, sizeof *record);
    if (record->length > sizeof *record)
        memcpy(at + sizeof *record, payload, record->length - sizeof *record);
    if (batch->count++ == 0)
        batch->first_lsn = record->lsn;
    batch->last_lsn = record->lsn;
    batch->bytes += record->length;
    self->records++;
    if (record->lsn > self->lsn)
        self->lsn = record->lsn;
    self->done = record->lsn >= self->to_lsn;
    return self->done ? ATT_AGAIN : ATT_OK; /* stops the reading */
}

static uint64_t newest_lsn(struct att_store *store)
{
    struct att_log_info log;
    att_store_log_info(store, &log);
    return log.last_lsn > store->chosen.lsn ? log.last_lsn : store->chosen.lsn;
}

/* What the original says that it had, in whatever generation or batch. */
static uint64_t known_lsn(struct att_store *store)
{
    struct att_snapshot_info infos[16];
    size_t count = att_store_generations(store, infos, 16);
    uint64_t lsn = newest_lsn(store);
    for (size_t i = 0; i < count && i < 16; i++)
        lsn = infos[i].lsn > lsn ? infos[i].lsn : lsn;
    return lsn;
}

static enum att_status copy_log(struct att_store *from, struct copying *self, struct att_error *error)
{
    enum att_status status = ATT_OK;
    self->lsn = from->chosen.lsn;
    self->batch = (struct att_batch){.incarnation = self->to->incarnation};
    if (from->without_log && self->to_lsn > from->chosen.lsn)
        return att_fail(error, ATT_ECORRUPT, "%.300s; without the log there is nothing behind LSN %llu",
                        from->log_error.text, (unsigned long long)from->chosen.lsn);
    if (self->to_lsn > from->chosen.replay_lsn && !from->without_log)
        status = att_store_read_log(from, from->chosen.replay_lsn, copy_record, self, error);
    if (self->done)
        status = ATT_OK;
    if (!status)
        status = write_batch(self, error);
    if (!status && self->lsn < self->to_lsn) {
        const uint64_t known = known_lsn(from);
        status = self->lsn < known
                     ? att_fail(error, ATT_EINVAL, "%s: there is nothing between LSN %llu and the snapshot at LSN %llu",
                                from->directory, (unsigned long long)self->lsn, (unsigned long long)known)
                     : att_fail(error, ATT_EINVAL, "%s: there is nothing behind LSN %llu", from->directory,
                                (unsigned long long)self->lsn);
    }
    return status;
}

/* ---- The directory -------------------------------------------------------------------------- */

/* Removes a state that this program made. */
static void remove_state(const char *directory)
{
    static const char *const files[] = {"log/data.mdb", "log/lock.mdb", "snap/data.mdb", "snap/lock.mdb", "lock", NULL};
    static const char *const directories[] = {"/log", "/snap", "", NULL};
    char path[PERSIST_PATH + 32];
    for (size_t i = 0; files[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        unlink(path);
    }
    for (size_t i = 0; directories[i]; i++) {
        snprintf(path, sizeof path, "%s%s", directory, directories[i]);
        rmdir(path);
    }
}

static enum att_status sync_parent(const char *path, struct att_error *error)
{
    char copy[PERSIST_PATH + 32];
    snprintf(copy, sizeof copy, "%s", path);
    const char *parent = dirname(copy);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int code = fd < 0 || fsync(fd) ? errno : 0;
    if (fd >= 0)
        close(fd);
    return code ? fail_errno(error, code, parent, "cannot sync the directory") : ATT_OK;
}

/* TO must be missing or an empty directory. */
static enum att_status check_target(const char *to, struct att_error *error)
{
    DIR *directory = opendir(to);
    if (!directory && errno == ENOENT)
        return ATT_OK;
    if (!directory)
        return fail_errno(error, errno, to, "cannot look at it");
    bool empty = true;
    for (struct dirent *entry; (entry = readdir(directory));)
        empty = empty && (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."));
    closedir(directory);
    if (empty)
        return ATT_OK;
    return att_fail(error, ATT_EEXIST, "%s: is not empty; nothing was changed; name a directory that does not exist",
                    to);
}

/* Nothing is made in the directory that is copied. */
static enum att_status check_outside(const struct att_store *store, const char *to, struct att_error *error)
{
    char copy[PERSIST_PATH];
    snprintf(copy, sizeof copy, "%s", to);
    char *parent = realpath(dirname(copy), NULL), *directory = realpath(store->directory, NULL);
    const size_t length = directory ? strlen(directory) : 0;
    const bool inside = parent && directory && strncmp(parent, directory, length) == 0 &&
                        (parent[length] == '/' || parent[length] == '\0');
    free(directory);
    free(parent);
    if (!inside)
        return ATT_OK;
    return att_fail(error, ATT_EINVAL, "%s: lies inside the state that is copied; name a directory outside of it", to);
}

/* The copy itself, into `directory`; *ret_made: there is now something to be removed. */
static enum att_status copy_into(struct att_store *from, const char *directory, struct copying *self, bool *ret_made,
                                 struct att_error *error)
{
    struct att_store_options options = {.create = true, .durability = ATT_DURABLE_ALWAYS};
    enum att_status status = att_store_open(directory, &options, &self->to, error);
    *ret_made = status != ATT_ELOCKED && status != ATT_EEXIST; /* else it is somebody else's */
    if (status)
        return status;
    struct att_snapshot_info cut = from->chosen;
    if (from->without_log)
        cut.replay_lsn = cut.lsn; /* what the heads lack up to the largest cut is lost, and no gap that stops a start */
    self->to->incarnation = from->incarnation;
    status = copy_snapshot(from, self, error);
    if (!status)
        status = copy_log(from, self, error);
    if (!status)
        status = persist_env_write_state(self->to, &self->to->log_env, self->to->incarnation, error);
    if (!status) {
        struct att_error why = {ATT_OK, ""};
        struct persist_failure failure = persist_manifest_write(self->to, &cut, &why);
        status = why.status ? att_fail(error, why.status, "%s", why.text)
                            : check(self->to, &self->to->snap_env, &failure, error);
    }
    return status;
}

enum att_status att_store_copy(struct att_store *store, const char *to, uint64_t to_lsn, struct att_copy_info *ret_info,
                               struct att_error *error)
{
    char unfinished[PERSIST_PATH + 16], target[PERSIST_PATH];
    struct copying self = {.to_lsn = to_lsn == UINT64_MAX ? newest_lsn(store) : to_lsn};
    size_t length = strlen(to);
    bool made = false;
    self.last = &self.first;
    while (length > 1 && to[length - 1] == '/')
        length--;
    if (length == 0 || length + 16 >= PERSIST_PATH)
        return att_fail(error, ATT_EINVAL, "%.60s: not a name for a directory", to);
    snprintf(target, sizeof target, "%.*s", (int)length, to);
    snprintf(unfinished, sizeof unfinished, "%s.unfinished", target);
    if (!store->chosen.generation)
        return att_fail(error, ATT_ENOENT, "%s: holds no snapshot yet: its creation is under way or was interrupted",
                        store->directory);
    if (self.to_lsn < store->chosen.lsn)
        return att_fail(error, ATT_EINVAL, "%s: the snapshot reaches to LSN %llu already", store->directory,
                        (unsigned long long)store->chosen.lsn);
    enum att_status status = check_outside(store, target, error);
    struct stat stat_data;
    if (!status)
        status = check_target(target, error);
    if (!status && !lstat(unfinished, &stat_data))
        status = att_fail(error, ATT_EEXIST, "%s: is what an interrupted copy left, or one is being made; remove it",
                          unfinished);
    if (status)
        return status;
    self.buffer = malloc(PERSIST_BATCH_BYTES);
    if (!self.buffer)
        return att_fail(error, ATT_ENOMEM, "%s: no memory for a copy", target);
    status = copy_into(store, unfinished, &self, &made, error);
    drop_pieces(&self);
    free(self.buffer);
    att_store_close(self.to);
    if (!status && rename(unfinished, target))
        status = fail_errno(error, errno, target, "the copy cannot be given its name");
    if (status) {
        if (made)
            remove_state(unfinished);
        return status;
    }
    *ret_info = (struct att_copy_info){.snapshot_lsn = store->chosen.lsn, .lsn = self.lsn, .records = self.records};
    return sync_parent(target, error);
}

/* ---- Repair --------------------------------------------------------------------------------- */

/* The first name of "DIR.before-repair", "DIR.before-repair.2" and so on that is free. */
static enum att_status free_name(const char *directory, char *ret_name, size_t size, struct att_error *error)
{
    struct stat stat_data;
    for (unsigned i = 1; i < 1000; i++) {
        snprintf(ret_name, size, i == 1 ? "%s.before-repair" : "%s.before-repair.%u", directory, i);
        if (lstat(ret_name, &stat_data) && errno == ENOENT)
            return ATT_OK;
    }
    return att_fail(error, ATT_EEXIST, "%s.before-repair and 998 more exist: remove some", directory);
}

/* The repaired state gets the name, in one step where the file system can. Before that step it takes the name that the
 * original is kept under, so that no crash leaves the original under a name that says it may be removed. */
static enum att_status exchange(const char *directory, const char *repaired, const char *kept, struct att_error *error)
{
    if (rename(repaired, kept))
        return fail_errno(error, errno, repaired, "cannot be given another name");
    if (renameat2(AT_FDCWD, kept, AT_FDCWD, directory, RENAME_EXCHANGE) == 0)
        return sync_parent(directory, error);
    int code = errno;
    if (rename(kept, repaired))
        return fail_errno(error, errno, kept, "is the repaired state, but cannot be given its name");
    if (code == EINVAL || code == ENOSYS)
        code = rename(directory, kept) ? errno : 0;
    if (code)
        return fail_errno(error, code, directory, "cannot be given another name");
    if (rename(repaired, directory))
        return fail_errno(error, errno, kept, "is the state as it was; the repaired one cannot be given its name");
    return sync_parent(directory, error);
}

enum att_status att_store_repair(const char *directory, uint64_t to_lsn, struct att_repair_info *ret_info,
                                 struct att_error *error)
{
    struct att_store_options options = {.read_only = true, .exclusive = true, .limit_lsn = to_lsn, .limited = true};
    struct att_store *store = NULL;
    struct att_repair_info info = {0};
    struct stat stat_data;
    char path[PATH_MAX], repaired[PERSIST_PATH];
    if (!realpath(directory, path))
        return fail_errno(error, errno, directory, "cannot look at it");
    if (strlen(path) + 64 >= sizeof info.kept)
        return att_fail(error, ATT_EINVAL, "%.60s...: the name is too long", path);
    enum att_status status = att_store_open(path, &options, &store, error);
    if (status)
        return status;
    status = free_name(path, info.kept, sizeof info.kept, error);
    snprintf(repaired, sizeof repaired, "%s.repaired", path);
    if (!status && !lstat(repaired, &stat_data))
        status = att_fail(error, ATT_EEXIST,
                          "%s: is what an interrupted repair left, or somebody else's: remove it, or give it another "
                          "name",
                          repaired);
    if (!status) {
        info.known_lsn = known_lsn(store);
        info.open_end = store->log_status != ATT_OK || store->without_log;
        info.lost_from = store->without_log ? store->chosen.replay_lsn + 1 : to_lsn + 1;
        status = att_store_copy(store, repaired, to_lsn, &info.copy, error);
    }
    if (!status)
        status = exchange(path, repaired, info.kept, error);
    att_store_close(store); /* only now is the lock given back */
    if (!status)
        *ret_info = info;
    return status;
}
