/* attnd's own parts: its options, and how a state comes to be. */
#ifndef ATT_ATTND_H
#define ATT_ATTND_H

#include <sys/types.h>

#include "recover.h"
#include "service.h"

#define ATTND_PROGRAM "attnd"

enum { ATTND_MOST_UIDS = 64 };

struct attnd_options {
    const char *directory, *name, *socket;
    const char *q, *k, *v, *bias; /* paths; NULL: not given */
    bool scale_given, scale_auto, precision_given;
    double scale, tau; /* tau 0: not given */
    double error_budget;
    enum att_precision precision;
    enum att_durability durability;
    enum att_wait wait;
    uint32_t log_capacity, capacity, threads, interval_ms; /* 0: not given */
    bool eager, causal, direct_off;
    uid_t uids[ATTND_MOST_UIDS];
    size_t uid_count;
};

/* Parses the command line. ATT_OK; otherwise *ret_exit is what to exit with: after --help and --version 0, after a
 * complaint 2. */
enum att_status attnd_parse(int count, char **arguments, struct attnd_options *ret_options, int *ret_exit);

/* What is served, whether new or recovered. */
struct attnd_state {
    struct att_heads heads;
    struct att_store *store;
    struct att_sessions *sessions;      /* empty in a new state; the service's once it has joined */
    bool unsaved;                       /* no snapshot has its shape yet: one is taken before it is served */
    struct att_service_options service; /* shape and run options */
};

/* Builds the state from the arrays, into an empty directory. Nothing is written before the arrays have checked out. */
enum att_status attnd_create(const struct attnd_options *options, struct att_service *service,
                             struct attnd_state *ret_state, struct att_error *error);

/* Recovers it from the directory. */
enum att_status attnd_recover(const struct attnd_options *options, struct att_service *service,
                              struct attnd_state *ret_state, struct att_error *error);

#endif
