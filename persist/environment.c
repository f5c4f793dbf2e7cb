/* Opening an LMDB environment of the state, its "state" record, and what LMDB's errors mean to us.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "store_impl.h"

static const char state_key[] = "state";
enum { LOCK_FILE_BYTES = 8192 }; /* of lock.mdb, with LMDB's usual number of readers */

enum att_status persist_lmdb_status(int code)
{
    switch (code) {
    case 0:
        return ATT_OK;
    case ENOSPC:
    case EDQUOT:
    case MDB_MAP_FULL:
        return ATT_ENOSPC;
    case EACCES:
    case EPERM:
    case EROFS:
        return ATT_EPERM;
    case ENOMEM:
        return ATT_ENOMEM;
    case ENOENT:
        return ATT_ENOENT;
    case MDB_READERS_FULL:
        return ATT_EBUSY;
    case MDB_VERSION_MISMATCH:
        return ATT_EVERSION;
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_VALSIZE:
    case MDB_NOTFOUND:
        return ATT_ECORRUPT;
    default:
        return ATT_EIO;
    }
}

enum att_status persist_lmdb_fail(struct att_error *error, const struct att_store *store, const struct persist_env *env,
                                  const char *what, int code)
{
    char buffer[128];
    enum att_status status = persist_lmdb_status(code);
    const char *advice = "";
    if (status == ATT_ECORRUPT)
        advice = "; see what is whole with attninspect verify";
    else if (status == ATT_ENOSPC)
        advice = "; make room on the disk and start again";
    else if (status == ATT_EPERM)
        advice = "; the directory must belong to the user who starts attnd";
    else if (status == ATT_EVERSION)
        advice = "; it was written by another version of LMDB";
    else if (status == ATT_EBUSY)
        advice = "; too many inspectors are reading it";
    return att_fail(error, status, "%s/%s: %s: %s%s", store->directory, env->name, what,
                    persist_strerror(code, buffer, sizeof buffer), advice);
}

/* A read-only environment must not make a lock file, and cannot use one it may not write. */
static unsigned lock_flags(const char *path)
{
    char lock[PERSIST_PATH + 32];
    snprintf(lock, sizeof lock, "%s/lock.mdb", path);
    int fd = open(lock, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == EACCES || errno == EPERM ? MDB_NOLOCK : 0;
    close(fd);
    return 0;
}

/* LMDB makes its lock file as long as it needs, maps it and writes into it, which on a full disk is a SIGBUS. So a new
 * one gets its blocks first; those of an old one are there. */
static int reserve_lock_file(const char *path)
{
    char lock[PERSIST_PATH + 32];
    struct stat stat_data;
    snprintf(lock, sizeof lock, "%s/lock.mdb", path);
    int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno; /* as LMDB would find */
    int code = fstat(fd, &stat_data) ? errno : 0;
    if (!code && stat_data.st_size == 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, LOCK_FILE_BYTES) != 0 &&
        (errno == ENOSPC || errno == EDQUOT))
        code = errno;
    close(fd);
    return code;
}

static int open_databases(struct persist_env *env, MDB_txn *txn, unsigned create)
{
    int code = mdb_dbi_open(txn, "meta", create, &env->meta);
    if (code)
        return code;
    if (env->kind == ATT_ENVIRONMENT_LOG)
        return mdb_dbi_open(txn, "batch", create | MDB_INTEGERKEY, &env->values);
    code = mdb_dbi_open(txn, "piece", create, &env->values);
    return code ? code : mdb_dbi_open(txn, "manifest", create | MDB_INTEGERKEY, &env->manifests);
}

static enum att_status open_tree(struct att_store *store, struct persist_env *env, bool fresh, struct att_error *error)
{
    MDB_txn *txn;
    int code = mdb_txn_begin(env->env, NULL, fresh ? 0 : MDB_RDONLY, &txn);
    if (code)
        return persist_lmdb_fail(error, store, env, "cannot begin", code);
    code = open_databases(env, txn, fresh ? MDB_CREATE : 0);
    if (code) {
        mdb_txn_abort(txn);
        if (code == MDB_NOTFOUND)
            return att_fail(error, ATT_ENOENT,
                            "%s: holds no state: its creation was interrupted; start again "
                            "with --q --k --v",
                            store->directory);
        return persist_lmdb_fail(error, store, env, "cannot open its databases", code);
    }
    code = mdb_txn_commit(txn);
    return code ? persist_lmdb_fail(error, store, env, "cannot open its databases", code) : ATT_OK;
}

enum att_status persist_env_open(struct att_store *store, struct persist_env *env, int kind, bool fresh,
                                 struct att_error *error)
{
    env->kind = kind;
    env->name = kind == ATT_ENVIRONMENT_LOG ? "log" : "snap";
    char path[PERSIST_PATH + 8];
    snprintf(path, sizeof path, "%s/%s", store->directory, env->name);
    unsigned flags = MDB_NOTLS | MDB_NORDAHEAD;
    if (store->options.read_only)
        flags |= MDB_RDONLY | lock_flags(path);
    if (!fresh) {
        enum att_status status = persist_metas_check(store, env, error);
        if (status)
            return status;
    }
    int code = mdb_env_create(&env->env);
    if (code)
        return persist_lmdb_fail(error, store, env, "cannot open", code);
    code = mdb_env_set_maxdbs(env->env, 4);
    if (!code)
        code = mdb_env_set_mapsize(env->env, store->options.map_bytes ? store->options.map_bytes : PERSIST_MAP_BYTES);
    if (!code && !store->options.read_only)
        code = reserve_lock_file(path);
    if (!code)
        code = mdb_env_open(env->env, path, flags, 0600);
    if (code == ENOENT)
        return att_fail(error, ATT_ENOENT,
                        "%s: holds no state: its creation was interrupted; start again with "
                        "--q --k --v",
                        store->directory);
    if (code == ENOMEM)
        return att_fail(error, ATT_ENOMEM,
                        "%s: cannot map data.mdb, which takes a terabyte of addresses: ulimit -v must be unlimited",
                        path);
    if (code)
        return persist_lmdb_fail(error, store, env, "cannot open data.mdb", code);
    if (!fresh) {
        enum att_status status = persist_pages_check(store, env, error);
        if (status)
            return status;
    }
    return open_tree(store, env, fresh, error);
}

void persist_env_close(struct persist_env *env)
{
    if (env->env)
        mdb_env_close(env->env);
    env->env = NULL;
}

enum att_status persist_env_read(struct att_store *store, struct persist_env *env, MDB_txn **ret_txn,
                                 struct att_error *error)
{
    int code = mdb_txn_begin(env->env, NULL, MDB_RDONLY, ret_txn);
    return code ? persist_lmdb_fail(error, store, env, "cannot begin to read", code) : ATT_OK;
}

void persist_read_ahead(struct persist_ahead *ahead, const MDB_val *value)
{
    const uintptr_t start = (uintptr_t)value->mv_data & ~(uintptr_t)4095;
    const uintptr_t end = (uintptr_t)value->mv_data + value->mv_size;
    if (start < ahead->from || start > ahead->to)
        ahead->from = ahead->to = start;
    for (; ahead->to < end + PERSIST_AHEAD_STEPS * PERSIST_AHEAD_STEP; ahead->to += PERSIST_AHEAD_STEP)
        madvise((void *)ahead->to, PERSIST_AHEAD_STEP, MADV_WILLNEED); /* a hint */
}

enum att_status persist_check_value(const struct att_store *store, const struct persist_env *env, const MDB_val *value,
                                    size_t least, uint32_t magic, const char *what, struct att_error *error)
{
    struct att_prefix prefix;
    if (value->mv_size < sizeof prefix)
        return att_fail(error, ATT_ECORRUPT, "%s/%s: %s is damaged: only %zu bytes", store->directory, env->name, what,
                        value->mv_size);
    memcpy(&prefix, value->mv_data, sizeof prefix);
    if (prefix.magic != magic)
        return att_fail(error, ATT_ECORRUPT, "%s/%s: %s is damaged: it does not begin like one", store->directory,
                        env->name, what);
    if (prefix.version != ATT_FORMAT_VERSION)
        return att_fail(error, ATT_EVERSION,
                        "%s/%s: %s has format version %u, this program reads version %u; use the "
                        "program that wrote it",
                        store->directory, env->name, what, prefix.version, ATT_FORMAT_VERSION);
    if (value->mv_size < least)
        return att_fail(error, ATT_ECORRUPT, "%s/%s: %s is damaged: only %zu bytes", store->directory, env->name, what,
                        value->mv_size);
    if (prefix.checksum != persist_checksum(value->mv_data, value->mv_size))
        return att_fail(error, ATT_ECORRUPT, "%s/%s: %s is damaged: its checksum is wrong", store->directory, env->name,
                        what);
    return ATT_OK;
}

enum att_status persist_env_state(struct att_store *store, struct persist_env *env, struct att_environment *ret_state,
                                  struct att_error *error)
{
    MDB_txn *txn;
    enum att_status status = persist_env_read(store, env, &txn, error);
    if (status)
        return status;
    MDB_val key = {sizeof state_key - 1, (void *)(uintptr_t)state_key}, value;
    int code = mdb_get(txn, env->meta, &key, &value);
    if (code == MDB_NOTFOUND) {
        status = att_fail(error, ATT_ENOENT,
                          "%s: holds no state: its creation was interrupted; start again with "
                          "--q --k --v",
                          store->directory);
    } else if (code) {
        status = persist_lmdb_fail(error, store, env, "cannot read the state record", code);
    } else {
        struct att_environment state;
        status =
            persist_check_value(store, env, &value, sizeof state, ATT_MAGIC_ENVIRONMENT, "the state record", error);
        if (!status) {
            memcpy(&state, value.mv_data, sizeof state);
            if (value.mv_size != sizeof state || state.kind != (uint32_t)env->kind)
                status = att_fail(error, ATT_ECORRUPT,
                                  "%s/%s: the state record belongs to another environment; were "
                                  "files moved?",
                                  store->directory, env->name);
            else
                *ret_state = state;
        }
    }
    mdb_txn_abort(txn);
    return status;
}

enum att_status persist_env_write_state(struct att_store *store, struct persist_env *env, uint64_t incarnation,
                                        struct att_error *error)
{
    struct att_environment state = {.kind = (uint32_t)env->kind, .incarnation = incarnation};
    persist_seal(&state, sizeof state, ATT_MAGIC_ENVIRONMENT);
    MDB_txn *txn;
    bool full;
    struct persist_failure failure = persist_begin(env, sizeof state, &txn, &full);
    if (!failure.outcome) {
        MDB_val key = {sizeof state_key - 1, (void *)(uintptr_t)state_key}, value = {sizeof state, &state};
        int code = mdb_put(txn, env->meta, &key, &value, 0);
        failure = code ? persist_abort(env, txn, full, code, "cannot write the state record")
                       : persist_commit(env, txn, full);
    }
    if (!failure.outcome)
        return ATT_OK;
    if (failure.outcome == PERSIST_WAIT && failure.code != ENOMEM)
        failure.code = ENOSPC;
    return persist_lmdb_fail(error, store, env, failure.what, failure.code);
}
