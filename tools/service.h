/* The service: one thread, one loop, and the way of everything: ring -> service -> engine -> log -> reply. */
#ifndef ATT_SERVICE_H
#define ATT_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "heads.h"
#include "server.h"
#include "sessions.h"
#include "store.h"

struct att_service;

struct att_service_options {
    const char *name, *directory;
    uint32_t capacity, n_q, d, d_v; /* of each head */
    double scale;
    enum att_precision precision;
    bool causal;
    enum att_durability durability;
    uint32_t interval_ms;
    uint64_t snapshot_bytes;   /* of log after which a snapshot is taken */
    uint32_t snapshot_seconds; /* after which one is taken if anything has changed */
};

/* First of all: engines, store and server want it as the context of their callbacks. ATT_ENOMEM. */
enum att_status att_service_create(struct att_service **ret_service, struct att_error *error);
void att_service_free(struct att_service *service);

/* The callback of engines (on_completion) and store (on_event). Any thread. */
void att_service_event(void *service);

/* The server's callbacks, with the service as their context. */
void service_on_end(void *service, uint64_t connection);
enum att_status service_on_ask(void *service, uint64_t connection, const struct att_session_ask *ask,
                               struct att_session_grant *ret_grant, struct att_error *error);

/* Joins the heads' engines, the store, the server and the sessions. All stay the caller's; after this nobody else may call their
 * service-thread functions. ATT_ENOMEM. */
enum att_status att_service_join(struct att_service *service, const struct att_service_options *options,
                                 const struct att_heads *heads, struct att_store *store, struct att_server *server,
                                 struct att_sessions *sessions, struct att_error *error);

/* Takes a snapshot now and returns when it is on disk: for a new state, before it is served. */
enum att_status att_service_first_snapshot(struct att_service *service, struct att_error *error);

/* Serves until att_service_stop; then finishes what was taken, makes it durable, takes a snapshot and returns. ATT_OK,
 * or why not everything is on disk. */
enum att_status att_service_run(struct att_service *service, struct att_error *error);

/* Asks the loop to end. Any thread, and signal handlers. */
void att_service_stop(struct att_service *service);

#endif
