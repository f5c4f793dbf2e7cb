/* The directory itself: what is in it, whose it is, and the lock.
 *
 *     DIR/lock            flock held by the writer; "attnd PID" for people; never removed
 *     DIR/log/data.mdb    and lock.mdb: the log
 *     DIR/snap/data.mdb   and lock.mdb: the snapshots
 *
 * The lock file is made first, so a DIR with a lock file and nothing that is not ours is the
 * remains of a creation. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "store_impl.h"

static enum att_status fail_errno(struct att_error *error, int code, const char *path, const char *what,
                                  const char *advice)
{
    char buffer[128];
    return att_fail(error, persist_lmdb_status(code), "%s: %s: %s%s", path, what,
                    persist_strerror(code, buffer, sizeof buffer), advice);
}

static enum att_status sync_path(const char *path, struct att_error *error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(error, errno, path, "cannot open", "");
    int code = fsync(fd) ? errno : 0;
    close(fd);
    return code ? fail_errno(error, code, path, "cannot sync the directory", "") : ATT_OK;
}

static enum att_status sync_parent(const char *path, struct att_error *error)
{
    char copy[PERSIST_PATH];
    snprintf(copy, sizeof copy, "%s", path);
    return sync_path(dirname(copy), error);
}

/* What `path` holds: are there entries that `ours` does not name, and is it empty? A missing one is
 * empty. */
static enum att_status look(const char *path, const char *const *ours, bool *ret_foreign, bool *ret_empty,
                            struct att_error *error)
{
    *ret_foreign = false;
    *ret_empty = true;
    DIR *directory = opendir(path);
    if (!directory) {
        if (errno == ENOENT)
            return ATT_OK;
        return fail_errno(error, errno, path, "cannot open the directory", "");
    }
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        *ret_empty = false;
        bool known = false;
        for (size_t i = 0; ours[i]; i++)
            known = known || !strcmp(entry->d_name, ours[i]);
        *ret_foreign = *ret_foreign || !known;
    }
    closedir(directory);
    return ATT_OK;
}

/* A file that LMDB does not take for one of its own: can it be what a power cut left of a creation, before its first
 * commit? Then it is small, its first sector is LMDB's or was never written, and nothing that could be lost is in it. */
static bool is_unborn(const char *path)
{
    static const uint32_t lmdb = 0xBEEFC0DEu;
    enum { MOST = 16 * 4096, SECTOR = 512, MAGIC_AT = 16 };
    static const unsigned char zeros[SECTOR];
    unsigned char *bytes = malloc(MOST + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = bytes && fd >= 0 ? pread(fd, bytes, MOST + 1, 0) : -1;
    bool unborn = size >= SECTOR && size <= MOST &&
                  (!memcmp(bytes, zeros, SECTOR) || !memcmp(bytes + MAGIC_AT, &lmdb, sizeof lmdb));
    for (ssize_t at = 0; unborn && at + 4 <= size; at++) {
        uint32_t word;
        memcpy(&word, bytes + at, sizeof word);
        unborn = word != ATT_MAGIC_MANIFEST && word != ATT_MAGIC_BATCH && word != ATT_MAGIC_PIECE;
    }
    if (fd >= 0)
        close(fd);
    free(bytes);
    return unborn;
}

/* Whether DIR/NAME, if it is there at all, can be what an interrupted creation left: data.mdb and
 * lock.mdb, and in data.mdb nothing, or databases of ours without a manifest or a batch. */
static bool is_remains(const char *directory, const char *name, bool *ret_foreign)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", NULL};
    char path[PERSIST_PATH + 32];
    struct stat stat_data;
    bool foreign, empty;
    *ret_foreign = true;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (look(path, files, &foreign, &empty, NULL) || foreign)
        return false;
    snprintf(path, sizeof path, "%s/%s/data.mdb", directory, name);
    *ret_foreign = false;
    if (stat(path, &stat_data) || stat_data.st_size == 0)
        return true;
    MDB_env *env;
    if (mdb_env_create(&env))
        return false;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    bool remains = false;
    MDB_txn *txn;
    mdb_env_set_maxdbs(env, 4);
    int code = mdb_env_open(env, path, MDB_RDONLY | MDB_NOLOCK, 0600);
    if (code == MDB_INVALID || code == MDB_VERSION_MISMATCH) {
        snprintf(path, sizeof path, "%s/%s/data.mdb", directory, name);
        remains = code == MDB_INVALID && is_unborn(path);
        *ret_foreign = !remains;
    }
    if (!code && !mdb_txn_begin(env, NULL, MDB_RDONLY, &txn)) {
        MDB_dbi dbi;
        MDB_stat stat_dbi;
        bool log = !strcmp(name, "log");
        code = mdb_dbi_open(txn, log ? "batch" : "manifest", MDB_INTEGERKEY, &dbi);
        if (code == MDB_NOTFOUND)
            remains = !mdb_stat(txn, 1, &stat_dbi) && stat_dbi.ms_entries == 0; /* 1: the main database */
        else if (!code)
            remains = !mdb_stat(txn, dbi, &stat_dbi) && stat_dbi.ms_entries == 0;
        *ret_foreign = code == MDB_NOTFOUND && !remains;
        mdb_txn_abort(txn);
    }
    mdb_env_close(env);
    return remains;
}

static enum att_status lock(struct att_store *store, bool create, struct att_error *error)
{
    char path[PERSIST_PATH + 8];
    snprintf(path, sizeof path, "%s/lock", store->directory);
    store->lock_fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
    if (store->lock_fd < 0)
        return fail_errno(error, errno, path, "cannot open for writing",
                          "; the directory must be writable for the user who starts attnd");
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK)
            return fail_errno(error, errno, path, "cannot lock", "");
        char text[64] = "";
        ssize_t got = pread(store->lock_fd, text, sizeof text - 1, 0);
        long pid = got > 6 && !memcmp(text, "attnd ", 6) ? atol(text + 6) : 0;
        if (pid > 0)
            return att_fail(error, ATT_ELOCKED,
                            "%s: another daemon serves it (process %ld); stop that one first, or "
                            "use another directory",
                            store->directory, pid);
        return att_fail(error, ATT_ELOCKED,
                        "%s: another daemon serves it; stop that one first, or use another "
                        "directory",
                        store->directory);
    }
    return ATT_OK;
}

/* For people, and for the message above: no sync, no error. */
static void sign_lock(const struct att_store *store)
{
    char text[64];
    int length = snprintf(text, sizeof text, "attnd %ld\n", (long)getpid());
    if (ftruncate(store->lock_fd, 0) == 0 && pwrite(store->lock_fd, text, (size_t)length, 0) < 0)
        return;
}

static enum att_status make_directory(const char *path, struct att_error *error)
{
    if (mkdir(path, 0700) && errno != EEXIST)
        return fail_errno(error, errno, path, "cannot make the directory", "");
    return ATT_OK;
}

static enum att_status remove_file(const char *directory, const char *name, struct att_error *error)
{
    char path[PERSIST_PATH + 32];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (unlink(path) && errno != ENOENT)
        return fail_errno(error, errno, path, "cannot remove what an interrupted creation left", "");
    return ATT_OK;
}

static enum att_status refuse_to_create(const struct att_store *store, bool foreign, struct att_error *error)
{
    if (foreign)
        return att_fail(error, ATT_EEXIST,
                        "%s: is not empty and holds no state of attnd; nothing was changed; give "
                        "an empty directory",
                        store->directory);
    return att_fail(error, ATT_EEXIST,
                    "%s: holds a state already; nothing was changed; start without --q --k --v to "
                    "serve it, or give an empty directory",
                    store->directory);
}

static enum att_status open_to_create(struct att_store *store, struct att_error *error)
{
    static const char *const ours[] = {"lock", "log", "snap", NULL};
    static const char *const files[] = {"log/data.mdb", "log/lock.mdb", "snap/data.mdb", "snap/lock.mdb"};
    const char *directory = store->directory;
    char path[PERSIST_PATH + 8];
    bool foreign, empty, foreign_log, foreign_snap;
    struct stat stat_data;
    if (stat(directory, &stat_data)) {
        if (errno != ENOENT)
            return fail_errno(error, errno, directory, "cannot look at it", "");
        if (mkdir(directory, 0700))
            return fail_errno(error, errno, directory, "cannot make the directory", "");
        enum att_status status = sync_parent(directory, error);
        if (status)
            return status;
    } else if (!S_ISDIR(stat_data.st_mode)) {
        return att_fail(error, ATT_EEXIST, "%s: is not a directory; nothing was changed", directory);
    }
    enum att_status status = look(directory, ours, &foreign, &empty, error);
    snprintf(path, sizeof path, "%s/lock", directory);
    if (!status && (foreign || (!empty && stat(path, &stat_data))))
        status = refuse_to_create(store, true, error);
    if (!status)
        status = lock(store, true, error);
    if (status)
        return status;
    /* Only now, with the lock, can nobody else be creating it. */
    bool remains = is_remains(directory, "log", &foreign_log);
    remains = is_remains(directory, "snap", &foreign_snap) && remains;
    if (!remains)
        return refuse_to_create(store, foreign_log || foreign_snap, error);
    sign_lock(store);
    for (size_t i = 0; !status && i < sizeof files / sizeof *files; i++)
        status = remove_file(directory, files[i], error);
    for (size_t i = 1; !status && ours[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, ours[i]);
        status = make_directory(path, error);
    }
    return status;
}

static enum att_status open_existing(struct att_store *store, struct att_error *error)
{
    char path[PERSIST_PATH + 32];
    struct stat stat_data;
    if (stat(store->directory, &stat_data)) {
        if (errno == ENOENT)
            return att_fail(error, ATT_ENOENT, "%s: no such directory; create a state with attnd --q --k --v",
                            store->directory);
        return fail_errno(error, errno, store->directory, "cannot look at it", "");
    }
    bool any = false, all = true;
    for (int i = 0; i < 3; i++) {
        static const char *const files[] = {"lock", "log/data.mdb", "snap/data.mdb"};
        snprintf(path, sizeof path, "%s/%s", store->directory, files[i]);
        bool there = stat(path, &stat_data) == 0;
        if (there && i > 0 && stat_data.st_size == 0)
            all = false; /* a creation that was interrupted before LMDB wrote a byte */
        if (!there && errno != ENOENT && errno != ENOTDIR)
            return fail_errno(error, errno, path, "cannot look at it", "");
        any = any || there;
        all = all && (there || i == 0); /* a copy of a state may lack the lock */
    }
    if (!any)
        return att_fail(error, ATT_ENOENT, "%s: holds no state; create one with attnd --q --k --v", store->directory);
    if (!all)
        return att_fail(error, ATT_ENOENT,
                        "%s: holds no state: its creation was interrupted; start again with "
                        "--q --k --v",
                        store->directory);
    if (store->options.read_only && !store->options.exclusive)
        return ATT_OK;
    enum att_status status = lock(store, true, error);
    if (!status && !store->options.read_only)
        sign_lock(store);
    return status;
}

enum att_status persist_directory_open(struct att_store *store, bool *ret_fresh, struct att_error *error)
{
    *ret_fresh = store->options.create && !store->options.read_only;
    return *ret_fresh ? open_to_create(store, error) : open_existing(store, error);
}

enum att_status persist_directory_sync(const struct att_store *store, struct att_error *error)
{
    static const char *const below[] = {"/log", "/snap", ""};
    enum att_status status = ATT_OK;
    for (size_t i = 0; !status && i < 3; i++) {
        char path[PERSIST_PATH + 8];
        snprintf(path, sizeof path, "%s%s", store->directory, below[i]);
        status = sync_path(path, error);
    }
    return status;
}
