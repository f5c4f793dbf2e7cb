/* Status codes and error messages: the one enum for everything, in the daemon, the library and on the wire. */
#ifndef ATTN_STATUS_H
#define ATTN_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Values are part of the wire protocol: append new ones, never renumber. */
enum att_status {
    ATT_OK = 0,
    ATT_EMPTY = 1,      /* the row sees no token, or only masked ones: it has no output */
    ATT_AGAIN = 2,      /* not now: the entry log is full, or the answer needs the merge thread */
    ATT_EINVAL = 3,     /* an argument makes no sense */
    ATT_ERANGE = 4,     /* an index is outside the matrix, or names a deleted token */
    ATT_ENOTFINITE = 5, /* NaN or infinity where a finite number is needed */
    ATT_ECAPACITY = 6,  /* no room for another token: start with a larger --capacity */
    ATT_EMAGNITUDE = 7, /* scores would be too large for the precision */
    ATT_EBUSY = 8,      /* too much in flight: read replies first */
    ATT_ETIMEOUT = 9,   /* no reply in time; the operation may still take effect */
    ATT_ECLOSED = 10,   /* the other side has gone */
    ATT_EPROTOCOL = 11, /* the other side broke the protocol */
    ATT_EVERSION = 12,  /* another protocol or format version */
    ATT_EPERM = 13,     /* this user is not allowed */
    ATT_EIO = 14,       /* a system call failed */
    ATT_ENOSPC = 15,    /* the disk is full */
    ATT_ENOMEM = 16,    /* not enough memory */
    ATT_ECORRUPT = 17,  /* stored data does not check out */
    ATT_EEXIST = 18,    /* the directory holds something already */
    ATT_ENOENT = 19,    /* no such file, directory or state */
    ATT_ELOCKED = 20,   /* another daemon serves this directory */
    ATT_EREADONLY = 21, /* updates are refused, reads are served; the message says why */
    ATT_LOST = 22,      /* that LSN was taken back by a crash before it was durable */
    ATT_EKERNEL = 23,   /* the vector kernel computes wrong results on this processor */
    ATT_EEXPIRED = 24,  /* the daemon does not know this session (any more) */
    ATT_EFENCED = 25,   /* another client has taken over this session */
    ATT_ESHAPE = 26,    /* the daemon that came back serves a state of another shape */
    ATT_STATUS_COUNT
};

/* The constant's name ("ATT_ERANGE"), or "ATT_UNKNOWN"; a static string. Any thread. */
const char *att_status_name(enum att_status status);

/* What went wrong, for people: what happened, to which object, what to do. Caller-owned. */
struct att_error {
    enum att_status status;
    char text[500];
};

/* Fills *error (may be NULL) with a printf-style message and returns status, so that
 * `return att_fail(error, ATT_EINVAL, ...)` reads well. Any thread. */
enum att_status att_fail(struct att_error *error, enum att_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
