#include "npy_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_ALIGN = 64 };

static bool write_all(int fd, const void *data, uint64_t bytes)
{
    const char *from = data;
    while (bytes > 0) {
        size_t most = bytes < (1u << 30) ? (size_t)bytes : (1u << 30);
        ssize_t put = write(fd, from, most);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return false;
        from += put;
        bytes -= (uint64_t)put;
    }
    return true;
}

/* Magic, length and dict, padded so that the data begins at a multiple of 64. Returns its size. */
static size_t make_header(char *to, size_t size, enum att_npy_type type, uint64_t heads, uint64_t rows, uint64_t cols)
{
    char first[32] = "";
    char columns[32] = "";
    if (heads > 1)
        snprintf(first, sizeof first, "%" PRIu64 ", ", heads);
    if (cols > 0)
        snprintf(columns, sizeof columns, " %" PRIu64, cols);
    int length = snprintf(to + 10, size - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%s%" PRIu64 ",%s), }",
                          npy_types[type].descr, first, rows, columns);
    size_t whole = (10 + (size_t)length + 1 + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
    memset(to + 10 + length, ' ', whole - 11 - (size_t)length);
    to[whole - 1] = '\n';
    memcpy(to, "\x93NUMPY\x01\x00", 8);
    to[8] = (char)((whole - 10) & 255);
    to[9] = (char)((whole - 10) >> 8);
    return whole;
}

/* A new file beside `path`, with the permissions that a plain open would give it. */
static int create_beside(const char *path, char *temporary, size_t size)
{
    int length = snprintf(temporary, size, "%s.XXXXXX", path);
    if (length < 0 || (size_t)length >= size) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -1;
    mode_t mask = umask(0);
    umask(mask);
    if (fchmod(fd, 0666 & ~mask) != 0) {
        int saved = errno;
        close(fd);
        unlink(temporary);
        errno = saved;
        return -1;
    }
    return fd;
}

enum att_status att_npy_write_heads(const char *path, enum att_npy_type type, const void *data, uint64_t heads,
                                    uint64_t rows, uint64_t cols, struct att_error *error)
{
    char temporary[4096];
    char header[256];
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return att_fail(error, ATT_EINVAL, "%s: not a regular file: not replaced", path);
    int fd = create_beside(path, temporary, sizeof temporary);
    if (fd < 0)
        return npy_fail_errno(error, path, "cannot create", errno);
    size_t header_bytes = make_header(header, sizeof header, type, heads, rows, cols);
    uint64_t bytes = heads * rows * (cols ? cols : 1) * npy_types[type].bytes;
    bool written = write_all(fd, header, header_bytes) && write_all(fd, data, bytes) && fsync(fd) == 0;
    int number = errno;
    if (close(fd) != 0 && written) {
        written = false;
        number = errno;
    }
    if (written && rename(temporary, path) == 0)
        return ATT_OK;
    if (written)
        number = errno;
    unlink(temporary);
    return npy_fail_errno(error, path, "cannot write", number);
}

enum att_status att_npy_write_float32(const char *path, const float *data, uint64_t rows, uint64_t cols,
                                      struct att_error *error)
{
    return att_npy_write_heads(path, ATT_NPY_F4, data, 1, rows, cols, error);
}

enum att_status att_npy_write_float64(const char *path, const double *data, uint64_t rows, uint64_t cols,
                                      struct att_error *error)
{
    return att_npy_write_heads(path, ATT_NPY_F8, data, 1, rows, cols, error);
}

enum att_status att_npy_write_u8(const char *path, const uint8_t *data, uint64_t rows, uint64_t cols,
                                 struct att_error *error)
{
    return att_npy_write_heads(path, ATT_NPY_U1, data, 1, rows, cols, error);
}
