/* What the preloaded libraries share: which of a process's descriptors are the data files of a state, and libc's own
 * functions. A library is of one process, and takes its settings from the environment.
 *
 * Files are numbered 0 (DIR/log/data.mdb) and 1 (DIR/snap/data.mdb); DIR is ATT_FAULT_DIR. */
#ifndef ATT_TEST_PRELOAD_H
#define ATT_TEST_PRELOAD_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define FIND(name)                                  \
    do {                                            \
        void *found = dlsym(RTLD_NEXT, #name);      \
        if (!found)                                 \
            abort();                                \
        memcpy(&real_##name, &found, sizeof found); \
    } while (0)

enum { MOST_FDS = 4096, MOST_PARTS = 1024 };

static struct file {
    bool known, dsync;
    int number;
} files[MOST_FDS]; /* guarded by lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);

static void find_all(void)
{
    FIND(open);
    FIND(close);
    FIND(write);
    FIND(writev);
    FIND(pwrite);
    FIND(pwritev);
    FIND(fsync);
    FIND(fdatasync);
    FIND(ftruncate);
    FIND(fallocate);
}

/* Under lock. */
static struct file *known_file(int fd)
{
    return fd >= 0 && fd < MOST_FDS && files[fd].known ? &files[fd] : NULL;
}

static void note_open(int fd, const char *path, int flags)
{
    static const char *const names[] = {"/log/data.mdb", "/snap/data.mdb"};
    const char *directory = getenv("ATT_FAULT_DIR");
    size_t length = directory ? strlen(directory) : 0;
    if (fd < 0 || fd >= MOST_FDS || !directory || strncmp(path, directory, length) != 0)
        return;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 2; i++)
        if (strcmp(path + length, names[i]) == 0)
            files[fd] = (struct file){true, (flags & O_DSYNC) != 0, i};
    pthread_mutex_unlock(&lock);
}

static int open_and_note(const char *path, int flags, va_list arguments)
{
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, int) : 0;
    int fd = real_open(path, flags, mode);
    note_open(fd, path, flags);
    return fd;
}

EXPORT int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int fd = open_and_note(path, flags, arguments);
    va_end(arguments);
    return fd;
}

EXPORT int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int fd = open_and_note(path, flags, arguments);
    va_end(arguments);
    return fd;
}

EXPORT int close(int fd)
{
    pthread_mutex_lock(&lock);
    if (fd >= 0 && fd < MOST_FDS)
        files[fd].known = false;
    pthread_mutex_unlock(&lock);
    return real_close(fd);
}

/* What the library does about a write of `size` bytes in `count` parts at `offset`, and about a sync. Under lock. */
static ssize_t do_write(int fd, const struct file *file, const struct iovec *parts, int count, off_t offset,
                        bool positioned);
static int do_sync(int fd, const struct file *file, bool data_only);

static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t offset, bool positioned)
{
    pthread_mutex_lock(&lock);
    const struct file *file = known_file(fd);
    ssize_t result;
    if (file && !positioned)
        offset = lseek(fd, 0, SEEK_CUR);
    if (file)
        result = do_write(fd, file, parts, count, offset, positioned);
    pthread_mutex_unlock(&lock);
    if (file)
        return result;
    return positioned ? real_pwritev(fd, parts, count, offset) : real_writev(fd, parts, count);
}

static ssize_t write_one(int fd, const void *data, size_t size, off_t offset, bool positioned)
{
    struct iovec part = {(void *)(uintptr_t)data, size};
    return write_parts(fd, &part, 1, offset, positioned);
}

EXPORT ssize_t write(int fd, const void *data, size_t size)
{
    return write_one(fd, data, size, 0, false);
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return write_parts(fd, parts, count, 0, false);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return write_one(fd, data, size, offset, true);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    return write_one(fd, data, size, offset, true);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return write_parts(fd, parts, count, offset, true);
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset)
{
    return write_parts(fd, parts, count, offset, true);
}

static int sync_file(int fd, bool data_only)
{
    pthread_mutex_lock(&lock);
    const struct file *file = known_file(fd);
    int result = file ? do_sync(fd, file, data_only) : 0;
    pthread_mutex_unlock(&lock);
    if (file)
        return result;
    return data_only ? real_fdatasync(fd) : real_fsync(fd);
}

EXPORT int fsync(int fd)
{
    return sync_file(fd, false);
}

EXPORT int fdatasync(int fd)
{
    return sync_file(fd, true);
}

#endif
