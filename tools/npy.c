#include "npy_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_HEADER_BYTES = 1024 * 1024,
    CHUNK_BYTES = 64 * 1024 /* a multiple of every item size */
};

const struct npy_type npy_types[] = {
    [ATT_NPY_F2] = {"<f2", "float16", 2, true}, [ATT_NPY_F4] = {"<f4", "float32", 4, true},
    [ATT_NPY_F8] = {"<f8", "float64", 8, true}, [ATT_NPY_I1] = {"|i1", "int8", 1, false},
    [ATT_NPY_U1] = {"|u1", "uint8", 1, false},  [ATT_NPY_I2] = {"<i2", "int16", 2, false},
    [ATT_NPY_U2] = {"<u2", "uint16", 2, false}, [ATT_NPY_I4] = {"<i4", "int32", 4, false},
    [ATT_NPY_U4] = {"<u4", "uint32", 4, false}, [ATT_NPY_I8] = {"<i8", "int64", 8, false},
    [ATT_NPY_U8] = {"<u8", "uint64", 8, false},
};
enum { TYPE_COUNT = sizeof npy_types / sizeof npy_types[0] };

enum att_status npy_fail_errno(struct att_error *error, const char *path, const char *doing, int number)
{
    enum att_status status = ATT_EIO;
    if (number == ENOENT || number == ENOTDIR)
        status = ATT_ENOENT;
    else if (number == EACCES || number == EPERM || number == EROFS)
        status = ATT_EPERM;
    else if (number == ENOSPC || number == EDQUOT)
        status = ATT_ENOSPC;
    return att_fail(error, status, "%s: %s: %s", path, doing, strerror(number));
}

/* ---- Opening ------------------------------------------------------------------------------------------- */

static enum att_status read_at(const struct att_npy *npy, void *out, size_t bytes, uint64_t offset,
                               struct att_error *error)
{
    char *to = out;
    while (bytes > 0) {
        ssize_t got = pread(npy->fd, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return npy_fail_errno(error, npy->path, "cannot read", errno);
        if (got == 0)
            return att_fail(error, ATT_EINVAL, "%s: truncated: it ends at byte %" PRIu64, npy->path, offset);
        to += got;
        bytes -= (size_t)got;
        offset += (uint64_t)got;
    }
    return ATT_OK;
}

static uint32_t little_endian(const unsigned char *bytes, unsigned count)
{
    uint32_t number = 0;
    for (unsigned i = 0; i < count; i++)
        number |= (uint32_t)bytes[i] << (8 * i);
    return number;
}

/* Magic, version, and where the header text is. Sets data_offset. */
static enum att_status read_preamble(struct att_npy *npy, uint64_t size, size_t *ret_start, struct att_error *error)
{
    unsigned char head[12];
    if (size < 10)
        return att_fail(error, ATT_EINVAL, "%s: not a .npy file: only %" PRIu64 " bytes", npy->path, size);
    enum att_status status = read_at(npy, head, 10, 0, error);
    if (status != ATT_OK)
        return status;
    if (memcmp(head, "\x93NUMPY", 6) != 0)
        return att_fail(error, ATT_EINVAL, "%s: not a .npy file: it does not begin with \\x93NUMPY", npy->path);
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return att_fail(error, ATT_EINVAL, "%s: .npy format version %u.%u (1.0, 2.0 and 3.0 are accepted)", npy->path,
                        head[6], head[7]);
    unsigned width = head[6] == 1 ? 2 : 4;
    size_t start = 8 + width;
    if (size < start)
        return att_fail(error, ATT_EINVAL, "%s: truncated in its header", npy->path);
    status = read_at(npy, head + 8, width, 8, error);
    if (status != ATT_OK)
        return status;
    uint32_t length = little_endian(head + 8, width);
    if (length > MAX_HEADER_BYTES)
        return att_fail(error, ATT_EINVAL, "%s: a header of %" PRIu32 " bytes is no plain array's", npy->path, length);
    if (size < start + length)
        return att_fail(error, ATT_EINVAL, "%s: truncated in its header: %" PRIu32 " bytes expected, %" PRIu64 " found",
                        npy->path, length, size - start);
    npy->data_offset = start + length;
    *ret_start = start;
    return ATT_OK;
}

static enum att_status find_type(struct att_npy *npy, const char *descr, struct att_error *error)
{
    for (unsigned i = 0; i < TYPE_COUNT; i++) {
        bool same = strcmp(descr, npy_types[i].descr) == 0;
        bool same_byte = npy_types[i].bytes == 1 && descr[0] == '<' && strcmp(descr + 1, npy_types[i].descr + 1) == 0;
        if (same || same_byte) {
            npy->type = (enum att_npy_type)i;
            return ATT_OK;
        }
    }
    return att_fail(error, ATT_EINVAL,
                    "%s: dtype %s%s (accepted: float32 <f4, float64 <f8, float16 <f2, little-endian"
                    " integers)",
                    npy->path, descr, descr[0] == '>' ? " is big-endian" : " is not accepted");
}

static void describe(const struct att_npy *npy, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < npy->dims && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRIu64, i ? " x " : "", npy->shape[i]);
    if (npy->dims == 0)
        snprintf(text, size, "a single");
}

static enum att_status set_shape(struct att_npy *npy, const struct npy_header *header, uint64_t size,
                                 struct att_error *error)
{
    uint64_t bytes = npy_types[npy->type].bytes;
    npy->dims = header->dims;
    npy->rows = 1;
    for (uint32_t i = 0; i < ATT_NPY_MAX_DIMS; i++) {
        npy->shape[i] = i < header->dims ? header->shape[i] : 1;
        if (i + 1 < header->dims || header->dims == 1)
            if (__builtin_mul_overflow(npy->rows, npy->shape[i], &npy->rows))
                return att_fail(error, ATT_EINVAL, "%s: its shape overflows", npy->path);
    }
    npy->cols = npy->dims >= 2 ? npy->shape[npy->dims - 1] : 1;
    if (__builtin_mul_overflow(npy->rows, npy->cols, &bytes) ||
        __builtin_mul_overflow(bytes, npy_types[npy->type].bytes, &bytes) || bytes > INT64_MAX / 2)
        return att_fail(error, ATT_EINVAL, "%s: its shape overflows", npy->path);
    uint64_t found = size - npy->data_offset;
    if (found == bytes)
        return ATT_OK;
    char shape[80];
    describe(npy, shape, sizeof shape);
    return att_fail(error, ATT_EINVAL, "%s: %s: %" PRIu64 " bytes of data expected for %s %s, %" PRIu64 " found",
                    npy->path, found < bytes ? "truncated" : "too long", bytes, shape, npy_types[npy->type].name,
                    found);
}

static enum att_status read_header(struct att_npy *npy, uint64_t size, struct att_error *error)
{
    size_t start = 0;
    enum att_status status = read_preamble(npy, size, &start, error);
    if (status != ATT_OK)
        return status;
    size_t length = (size_t)npy->data_offset - start;
    char *text = malloc(length + 1);
    if (!text)
        return att_fail(error, ATT_ENOMEM, "%s: no memory for its header", npy->path);
    struct npy_header header = {0};
    status = read_at(npy, text, length, start, error);
    const char *wrong = status == ATT_OK ? npy_parse_header(text, length, &header) : NULL;
    free(text);
    if (status != ATT_OK)
        return status;
    if (wrong)
        return att_fail(error, ATT_EINVAL, "%s: %s", npy->path, wrong);
    status = find_type(npy, header.descr, error);
    if (status != ATT_OK)
        return status;
    if (header.fortran_order && header.dims > 1)
        return att_fail(error, ATT_EINVAL, "%s: Fortran order; C order is needed (numpy.ascontiguousarray)", npy->path);
    return set_shape(npy, &header, size, error);
}

enum att_status att_npy_open(const char *path, struct att_npy *ret_npy, struct att_error *error)
{
    struct att_npy npy = {.fd = -1};
    struct stat info;
    enum att_status status;
    npy.path = strdup(path);
    if (!npy.path)
        return att_fail(error, ATT_ENOMEM, "%s: no memory", path);
    npy.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* no waiting for a pipe's writer */
    if (npy.fd < 0) {
        status = npy_fail_errno(error, path, "cannot open", errno);
        goto free_path;
    }
    if (fstat(npy.fd, &info) != 0) {
        status = npy_fail_errno(error, path, "cannot stat", errno);
        goto close_file;
    }
    if (!S_ISREG(info.st_mode)) {
        status = att_fail(error, ATT_EINVAL, "%s: not a regular file", path);
        goto close_file;
    }
    status = read_header(&npy, (uint64_t)info.st_size, error);
    if (status != ATT_OK)
        goto close_file;
    *ret_npy = npy;
    return ATT_OK;
close_file:
    close(npy.fd);
free_path:
    free(npy.path);
    return status;
}

void att_npy_close(struct att_npy *npy)
{
    if (!npy || !npy->path) /* a zeroed one has no file: its fd of 0 is not ours */
        return;
    close(npy->fd);
    free(npy->path);
    *npy = (struct att_npy){.fd = -1};
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

static enum att_status expect_float(const struct att_npy *npy, struct att_error *error)
{
    if (npy_types[npy->type].is_float)
        return ATT_OK;
    return att_fail(error, ATT_EINVAL, "%s: dtype %s: float32, float64 or float16 is needed", npy->path,
                    npy_types[npy->type].name);
}

enum att_status att_npy_expect(const struct att_npy *npy, const char *matrix, uint64_t rows, uint64_t cols,
                               struct att_error *error)
{
    enum att_status status = expect_float(npy, error);
    if (status != ATT_OK || (npy->rows == rows && npy->cols == cols))
        return status;
    char shape[80];
    describe(npy, shape, sizeof shape);
    return att_fail(error, ATT_EINVAL, "%s: %s must be %" PRIu64 " x %" PRIu64 ", the file has %s numbers", npy->path,
                    matrix, rows, cols, shape);
}

static float half_to_float(uint16_t half)
{
    int exponent = half >> 10 & 31;
    float fraction = (float)(half & 1023);
    float size;
    if (exponent == 31)
        size = half & 1023 ? NAN : INFINITY;
    else if (exponent == 0)
        size = ldexpf(fraction, -24);
    else
        size = ldexpf(fraction + 1024.0f, exponent - 25);
    return half & 0x8000 ? -size : size;
}

static enum att_status convert_doubles(const struct att_npy *npy, const void *from, float *to, uint64_t first,
                                       size_t count, struct att_error *error)
{
    for (size_t i = 0; i < count; i++) {
        double number;
        memcpy(&number, (const char *)from + 8 * i, sizeof number);
        to[i] = (float)number;
        if (isinf(to[i]) && !isinf(number))
            return att_fail(error, ATT_ERANGE, "%s: row %" PRIu64 ", column %" PRIu64 ": %.9g is too large for float32",
                            npy->path, (first + i) / npy->cols, (first + i) % npy->cols, number);
    }
    return ATT_OK;
}

static enum att_status check_extent(const struct att_npy *npy, uint64_t first, uint64_t count, uint64_t all,
                                    const char *what, struct att_error *error)
{
    if (first <= all && count <= all - first)
        return ATT_OK;
    return att_fail(error, ATT_EINVAL, "%s: %s %" PRIu64 "..%" PRIu64 " of %" PRIu64 " are not there", npy->path, what,
                    first, first + count, all);
}

enum att_status att_npy_read_float(const struct att_npy *npy, float *out, uint64_t first_row, uint64_t rows,
                                   struct att_error *error)
{
    enum att_status status = expect_float(npy, error);
    if (status == ATT_OK)
        status = check_extent(npy, first_row, rows, npy->rows, "rows", error);
    if (status != ATT_OK)
        return status;
    unsigned bytes = npy_types[npy->type].bytes;
    uint64_t first = first_row * npy->cols;
    uint64_t count = rows * npy->cols;
    if (npy->type == ATT_NPY_F4)
        return read_at(npy, out, (size_t)(count * bytes), npy->data_offset + first * bytes, error);
    unsigned char *chunk = malloc(CHUNK_BYTES);
    if (!chunk)
        return att_fail(error, ATT_ENOMEM, "%s: no memory to convert it", npy->path);
    while (count > 0 && status == ATT_OK) {
        size_t n = count < CHUNK_BYTES / bytes ? (size_t)count : CHUNK_BYTES / bytes;
        status = read_at(npy, chunk, n * bytes, npy->data_offset + first * bytes, error);
        if (status != ATT_OK)
            break;
        if (npy->type == ATT_NPY_F8) {
            status = convert_doubles(npy, chunk, out, first, n, error);
        } else {
            for (size_t i = 0; i < n; i++)
                out[i] = half_to_float((uint16_t)little_endian(chunk + 2 * i, 2));
        }
        out += n;
        first += n;
        count -= n;
    }
    free(chunk);
    return status;
}

/* One integer of any width; false when it does not fit int64. */
static bool widen(enum att_npy_type type, const unsigned char *from, int64_t *to)
{
    unsigned bytes = npy_types[type].bytes;
    uint64_t number = 0;
    for (unsigned i = 0; i < bytes; i++)
        number |= (uint64_t)from[i] << (8 * i);
    bool is_signed = npy_types[type].descr[1] == 'i';
    unsigned shift = 64 - 8 * bytes;
    if (!is_signed && number > INT64_MAX)
        return false;
    *to = is_signed ? (int64_t)(number << shift) >> shift : (int64_t)number;
    return true;
}

enum att_status att_npy_read_int(const struct att_npy *npy, int64_t *out, uint64_t first, uint64_t count,
                                 struct att_error *error)
{
    if (npy_types[npy->type].is_float)
        return att_fail(error, ATT_EINVAL, "%s: dtype %s: integers are needed (int8 to int64, uint8 to uint64)",
                        npy->path, npy_types[npy->type].name);
    enum att_status status = check_extent(npy, first, count, npy->rows * npy->cols, "elements", error);
    if (status != ATT_OK)
        return status;
    unsigned bytes = npy_types[npy->type].bytes;
    unsigned char *chunk = malloc(CHUNK_BYTES);
    if (!chunk)
        return att_fail(error, ATT_ENOMEM, "%s: no memory to convert it", npy->path);
    while (count > 0 && status == ATT_OK) {
        size_t n = count < CHUNK_BYTES / bytes ? (size_t)count : CHUNK_BYTES / bytes;
        status = read_at(npy, chunk, n * bytes, npy->data_offset + first * bytes, error);
        for (size_t i = 0; i < n && status == ATT_OK; i++)
            if (!widen(npy->type, chunk + i * bytes, &out[i]))
                status =
                    att_fail(error, ATT_ERANGE, "%s: element %" PRIu64 " is too large for int64", npy->path, first + i);
        out += n;
        first += n;
        count -= n;
    }
    free(chunk);
    return status;
}

enum att_status att_npy_check_finite(const char *name, const float *data, uint64_t rows, uint64_t cols,
                                     bool allow_minus_inf, struct att_error *error)
{
    for (uint64_t i = 0; i < rows * cols; i++) {
        if (isfinite(data[i]) || (allow_minus_inf && data[i] == -INFINITY))
            continue;
        const char *what = isnan(data[i]) ? "NaN" : data[i] < 0 ? "-inf" : "inf";
        return att_fail(error, ATT_ENOTFINITE, "%s: %s at row %" PRIu64 ", column %" PRIu64, name, what, i / cols,
                        i % cols);
    }
    return ATT_OK;
}
