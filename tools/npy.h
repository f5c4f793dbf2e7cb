/* NumPy's .npy files, format versions 1.0, 2.0 and 3.0: little-endian numbers in C order, up to three dimensions.
 *
 * Thread rule: a file belongs to one thread. Calls block on the disk. Every message names the file. */
#ifndef ATT_NPY_H
#define ATT_NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attn_status.h"

enum { ATT_NPY_MAX_DIMS = 3 };

enum att_npy_type {
    ATT_NPY_F2,
    ATT_NPY_F4,
    ATT_NPY_F8,
    ATT_NPY_I1,
    ATT_NPY_U1,
    ATT_NPY_I2,
    ATT_NPY_U2,
    ATT_NPY_I4,
    ATT_NPY_U4,
    ATT_NPY_I8,
    ATT_NPY_U8
};

/* An open file. Read its fields; only the functions here change them. A zeroed one may be closed. */
struct att_npy {
    char *path;
    int fd;
    enum att_npy_type type;
    uint32_t dims;                    /* 0..3 */
    uint64_t shape[ATT_NPY_MAX_DIMS]; /* 1 beyond dims */
    uint64_t rows;                    /* the product of all dimensions but the last; of a vector its length */
    uint64_t cols;                    /* the last dimension; of a vector 1 */
    uint64_t data_offset;
};

/* Opens, parses the header strictly and checks the file's size against it. Errors: ATT_ENOENT, ATT_EIO, ATT_EPERM,
 * ATT_ENOMEM; ATT_EINVAL for whatever is wrong with the file. */
enum att_status att_npy_open(const char *path, struct att_npy *ret_npy, struct att_error *error);

/* NULL and zeroed are allowed. */
void att_npy_close(struct att_npy *npy);

/* ATT_EINVAL unless the file holds floats of this shape (rows and cols as above); `matrix` names it in the message. */
enum att_status att_npy_expect(const struct att_npy *npy, const char *matrix, uint64_t rows, uint64_t cols,
                               struct att_error *error);

/* Reads rows [first_row, first_row + rows) as float32 straight into `out` (rows x cols). float64 is rounded (a finite
 * number too large for float32 is ATT_ERANGE, row and column named), float16 widened; NaN and infinity pass.
 * Errors: ATT_EINVAL (an integer file, rows that are not there), ATT_EIO. */
enum att_status att_npy_read_float(const struct att_npy *npy, float *out, uint64_t first_row, uint64_t rows,
                                   struct att_error *error);

/* Reads elements [first, first + count) of an integer file. Errors: ATT_EINVAL, ATT_ERANGE, ATT_EIO. */
enum att_status att_npy_read_int(const struct att_npy *npy, int64_t *out, uint64_t first, uint64_t count,
                                 struct att_error *error);

/* ATT_ENOTFINITE naming `name`, row and column of the first NaN or infinity (-inf may be allowed: a masked bias). */
enum att_status att_npy_check_finite(const char *name, const float *data, uint64_t rows, uint64_t cols,
                                     bool allow_minus_inf, struct att_error *error);

/* Writers: version 1.0, C order; a matrix rows x cols, or a vector of `rows` when cols is 0. Atomic: a temporary file
 * beside `path`, synced, renamed over it; on failure `path` is as it was. Errors: ATT_EIO, ATT_ENOSPC, ATT_EPERM,
 * ATT_ENOENT; ATT_EINVAL when `path` is something other than a regular file. */
enum att_status att_npy_write_float32(const char *path, const float *data, uint64_t rows, uint64_t cols,
                                      struct att_error *error);
enum att_status att_npy_write_float64(const char *path, const double *data, uint64_t rows, uint64_t cols,
                                      struct att_error *error);
enum att_status att_npy_write_u8(const char *path, const uint8_t *data, uint64_t rows, uint64_t cols,
                                 struct att_error *error);
/* The same of any type, heads x rows x cols (heads x rows when cols is 0); with one head, without that dimension. */
enum att_status att_npy_write_heads(const char *path, enum att_npy_type type, const void *data, uint64_t heads,
                                    uint64_t rows, uint64_t cols, struct att_error *error);

#endif
