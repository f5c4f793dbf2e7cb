/* Writing transactions, and what a failed one means.
 *
 * mdb_txn_commit of LMDB 0.9 works in three stages: it writes the dirty pages (pwrite, writev) to
 * places that no committed tree refers to; it calls fdatasync; it writes the meta page through an
 * O_DSYNC descriptor. A failure of the first stage has changed nothing, so the same records may be
 * written again when there is room. A failure of the second or third means that the kernel may have
 * dropped pages it now calls clean: a retry could succeed without them, so it is final.
 * mdb_txn_commit returns the same error code for all three, and a short write, the usual face of a
 * full disk, comes back as EIO.
 *
 * So this file looks at fdatasync itself: the definition below takes the place of libc's for LMDB
 * in this process (the program is searched before any library) and passes the call on to the next
 * definition, so that a preloaded recorder or fault injector still sees it. A thread that commits
 * compares how often it has called fdatasync before and after: no call, no sync, no meta page.
 * Where the definition does not take effect (att_persist linked into a shared object that is loaded
 * later), that is noticed, and every failure but one foreseen is final.
 *
 * A full disk is foreseen: room for the transaction is reserved with fallocate before it begins.
 * The reservation is a hint: LMDB may find the pages it needs inside the file, so the commit is
 * tried all the same. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "store_impl.h"

static _Thread_local uint64_t syncs; /* calls of fdatasync by this thread */
static _Atomic bool syncs_seen;      /* whether LMDB's calls come here at all */

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    static _Atomic(void *) found;
    void *next = atomic_load_explicit(&found, memory_order_relaxed);
    if (!next) {
        next = dlsym(RTLD_NEXT, "fdatasync");
        atomic_store_explicit(&found, next, memory_order_relaxed);
    }
    syncs++;
    atomic_store_explicit(&syncs_seen, true, memory_order_relaxed);
    if (!next)
        return fsync(fd);
    int (*call)(int);
    memcpy(&call, &next, sizeof call);
    return call(fd);
}

/* Gives the file of the environment disk blocks for `bytes` more than it uses. 0, or an errno. */
static int reserve(struct persist_env *env, uint64_t bytes)
{
    MDB_envinfo info;
    MDB_stat stat;
    int fd;
    if (mdb_env_info(env->env, &info) || mdb_env_stat(env->env, &stat) || mdb_env_get_fd(env->env, &fd))
        return 0;
    uint64_t end = ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize + bytes;
    if (end <= env->reserved)
        return 0;
    uint64_t target = (end + PERSIST_RESERVE_STEP - 1) & ~(PERSIST_RESERVE_STEP - 1);
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)target) == 0) {
        env->reserved = target;
        return 0;
    }
    if (errno != ENOSPC && errno != EDQUOT) {
        env->reserved = UINT64_MAX; /* this file system cannot; the writes will tell */
        return 0;
    }
    return errno;
}

/* Whether the file system has less room than one write of LMDB may need (it writes at most 64 pages
 * at once). */
static bool disk_is_full(const struct persist_env *env)
{
    int fd;
    struct statvfs stat;
    if (mdb_env_get_fd(env->env, &fd) || fstatvfs(fd, &stat))
        return false;
    return (uint64_t)stat.f_bavail * stat.f_frsize < ((uint64_t)1 << 20);
}

/* Nothing was synced (or `synced`): which errors may be tried again? */
static enum persist_outcome judge(const struct persist_env *env, int code, bool full, bool synced)
{
    if (synced)
        return PERSIST_FINAL;
    if (code == MDB_MAP_FULL || code == MDB_TXN_FULL || code == ENOSPC || code == EDQUOT || code == EFBIG ||
        code == ENOMEM)
        return PERSIST_WAIT;
    if (code == EIO && (full || disk_is_full(env)))
        return PERSIST_WAIT; /* a short write */
    return PERSIST_FINAL;
}

struct persist_failure persist_begin(struct persist_env *env, uint64_t bytes, MDB_txn **ret_txn, bool *ret_full)
{
    /* The tree's own pages come on top: a path in each of four trees, and the list of freed pages.
     */
    int code = reserve(env, bytes + bytes / 8 + 128 * 4096);
    *ret_full = code != 0;
    if (code && !atomic_load_explicit(&syncs_seen, memory_order_relaxed))
        return (struct persist_failure){PERSIST_WAIT, code, "no room"};
    code = mdb_txn_begin(env->env, NULL, 0, ret_txn);
    if (code)
        return (struct persist_failure){judge(env, code, *ret_full, false), code, "cannot begin to write"};
    return (struct persist_failure){PERSIST_DONE, 0, NULL};
}

/* Whether somebody has deleted the file: what is written to it is nowhere. */
static bool is_deleted(const struct persist_env *env)
{
    int fd;
    struct stat stat_data;
    return !mdb_env_get_fd(env->env, &fd) && !fstat(fd, &stat_data) && stat_data.st_nlink == 0;
}

struct persist_failure persist_commit(struct persist_env *env, MDB_txn *txn, bool full)
{
    uint64_t before = syncs;
    int code = mdb_txn_commit(txn);
    if (!code && is_deleted(env))
        return (struct persist_failure){PERSIST_FINAL, ENOENT, "its data.mdb has been deleted"};
    if (!code)
        return (struct persist_failure){PERSIST_DONE, 0, NULL};
    bool blind = !atomic_load_explicit(&syncs_seen, memory_order_relaxed);
    bool synced = syncs != before || (blind && code != MDB_MAP_FULL);
    enum persist_outcome outcome = judge(env, code, full, synced);
    if (outcome == PERSIST_WAIT && code == EIO)
        code = ENOSPC; /* a short write: say what it is */
    return (struct persist_failure){outcome, code, synced ? "the sync of a commit failed" : "cannot write"};
}

struct persist_failure persist_abort(struct persist_env *env, MDB_txn *txn, bool full, int code, const char *what)
{
    mdb_txn_abort(txn);
    return (struct persist_failure){judge(env, code, full, false), code, what};
}
