/* What npy.c (reading) and npy_write.c share. */
#ifndef ATT_NPY_IMPL_H
#define ATT_NPY_IMPL_H

#include "npy.h"

struct npy_type {
    const char *descr; /* as in the header's dict */
    const char *name;
    unsigned bytes;
    bool is_float;
};
extern const struct npy_type npy_types[]; /* by enum att_npy_type */

/* ATT_ENOENT, ATT_EPERM, ATT_ENOSPC or ATT_EIO by errno's number: "PATH: cannot DOING: ...". */
enum att_status npy_fail_errno(struct att_error *error, const char *path, const char *doing, int number);

#endif
