/* What npy.c (reading), npy_header.c (its parser) and npy_write.c share. */
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

struct npy_header {
    unsigned has; /* which keys came */
    char descr[32];
    bool fortran_order;
    uint32_t dims;
    uint64_t shape[ATT_NPY_MAX_DIMS];
};

/* Parses the dict literal strictly into a zeroed header. Returns NULL or what is wrong. */
const char *npy_parse_header(const char *text, size_t length, struct npy_header *header);

#endif
