/* The service's inside. All of it belongs to the service thread, but for `events` and `stop`. */
#ifndef ATT_SERVICE_IMPL_H
#define ATT_SERVICE_IMPL_H

#include <stdatomic.h>

#include "progress.h"
#include "record.h"
#include "service.h"

enum { SERVICE_ENTRIES_A_PIECE = 2048 }; /* of the table of sessions: 64 KiB */

/* A finished reply that waits for its LSN to be on disk. In the order of the LSNs. */
struct deferred {
    uint64_t lsn;
    uint64_t session;
    struct att_wire_reply reply;
    double *payload; /* owned, or NULL */
    size_t payload_bytes;
};

/* A request that an engine's merge thread works on, and then, for columns and all, its reply going out in chunks. */
struct work {
    struct att_job job;
    struct att_job *merges; /* owned: a merge is a job for every head instead */
    uint32_t left;          /* of them */
    uint64_t lsn;           /* the newest when it was handed over: the answer reflects all up to there */
    uint64_t session;
    struct att_wire_request request;
    size_t held;        /* bytes, for att_server_release */
    size_t bytes, sent; /* of `values` */
    double worst;       /* the largest bound */
    struct work *next;  /* in `outgoing` */
    double *values;     /* owned: job.values; bounds follow */
};

/* Who waits for a snapshot. */
struct waiter {
    uint64_t session;
    struct att_wire_request request;
    struct waiter *next;
};

/* What a head's merge thread needs to know when it cuts its state for a snapshot. Written before the job is submitted,
 * and not while it runs. */
struct cutter {
    struct att_service *service;
    uint32_t head;
    uint64_t
        covered;  /* the LSN when the merge before the cut was asked for: the head's updates up to there are in it */
    uint64_t cut; /* by the merge thread: where it was cut; the service's when the job is done */
    struct att_sink sink;
};

struct att_service {
    struct att_service_options options;
    struct att_heads heads; /* the caller's engines */
    struct att_store *store;
    struct att_server *server;
    _Atomic bool events; /* set by other threads, then att_server_wake: look at engine and store */
    _Atomic bool stop;
    _Atomic(struct att_server *) wakeable; /* `server`, once it is there */
    struct att_progress init;              /* the background refresh of all rows, shown on a terminal */
    bool serving;                          /* from its first request to its end */
    bool initialising;
    uint64_t init_ns;    /* when it was last looked at */
    uint64_t init_rows;  /* refreshes that make it complete */
    uint64_t stopped_ns; /* when the end began */
    bool *touched;       /* [heads]: had a request in this turn, so its merge thread may have to be woken */

    /* updates */
    uint64_t lsn;     /* of the newest update */
    bool owed;        /* `record` is applied but the store had no room for it: nothing else is applied before it */
    bool parked;      /* some session is */
    uint64_t full_ns; /* after stop: since when the disk has been full; 0: it is not */
    bool gave_up;     /* that was too long: what is not on disk now will not be */
    struct att_record record;
    void *record_payload; /* owned: of what is owed, or not as a record has it */

    /* sessions */
    struct att_sessions *sessions; /* the caller's */
    bool saving;                   /* a snapshot has not got all of the table yet */
    bool journaling;               /* it waits for its first cut */
    struct att_session_entry *journal;
    size_t journal_count, journal_capacity;
    uint64_t sessions_bytes; /* of the array of sessions, handed to the store so far */
    struct att_session_entry filling[SERVICE_ENTRIES_A_PIECE]; /* its next piece */
    size_t filled;

    /* replies */
    struct deferred *deferred; /* ring of deferred_capacity, from deferred_first */
    size_t deferred_first, deferred_count, deferred_capacity;
    struct work *outgoing;
    uint32_t jobs; /* the engine has */
    double *row;   /* d_v doubles of scratch */

    /* snapshots */
    struct waiter *waiting, *waiting_next; /* for the one that runs; for the one after it */
    bool snapshot_running;
    bool engines_handed;          /* the engines have given all their pieces */
    bool snapshot_handed;         /* the store has everything */
    uint32_t snapshot_head;       /* whose turn it is: one head at a time hands out its pieces */
    uint64_t snapshot_generation; /* before it */
    uint64_t log_bytes;           /* appended since the last one began */
    uint64_t snapshot_lsn;        /* the newest complete one holds all up to here */
    uint64_t snapshot_ns;         /* when the last one began */
    struct att_job merge_job, snapshot_job;
    struct cutter cutter;
};

/* The request's engine; `handle` has checked the head. */
static inline struct att_engine *service_engine(const struct att_service *service,
                                                const struct att_server_request *request)
{
    return service->heads.engines[request->header.head];
}

/* The handlers of requests return true when the request is taken. */

/* service_update.c */
bool service_update(struct att_service *service, const struct att_server_request *request);
bool service_pay_owed(struct att_service *service);
void service_owe(struct att_service *service, const void *payload);
bool service_refuses_updates(struct att_service *service, enum att_status *ret_status, char *ret_text, size_t size);

/* service_session.c */
bool service_session_knows(struct att_service *service, const struct att_server_request *request);
void service_session_done(struct att_service *service, const struct att_server_request *request,
                          const struct att_op *op);
void service_session_snapshot(struct att_service *service);
bool service_session_step(struct att_service *service);
void service_session_cut(struct att_service *service, uint64_t lsn);

/* service_read.c */
bool service_query(struct att_service *service, const struct att_server_request *request);
bool service_row(struct att_service *service, const struct att_server_request *request);
bool service_note_reads(struct att_service *service, const struct att_server_request *request);
bool service_wide(struct att_service *service, const struct att_server_request *request);
bool service_merge(struct att_service *service, const struct att_server_request *request);
void service_collect(struct att_service *service);
bool service_send_chunks(struct att_service *service);
void service_end_readers(struct att_service *service);
void service_drop_outgoing(struct att_service *service);

/* service_reply.c */
struct att_wire_reply service_reply_to(const struct att_service *service, const struct att_wire_request *request);
bool service_refuse(struct att_service *service, const struct att_server_request *request, enum att_status status,
                    const char *text);
void service_refuse_late(struct att_service *service, uint64_t session, const struct att_wire_request *request,
                         enum att_status status, const char *text);
void service_reply_durable(struct att_service *service, uint64_t session, struct att_wire_reply *reply,
                           const double *payload, size_t payload_bytes, uint64_t lsn);
void service_release_durable(struct att_service *service);
bool service_awaits_snapshot(const struct att_service *service);
void service_fail_awaiting(struct att_service *service);
void service_drop_deferred(struct att_service *service);

/* service_snapshot.c */
bool service_snapshot_wanted(struct att_service *service, const struct att_server_request *request);
void service_snapshot_begin(struct att_service *service);
void service_snapshot_job_done(struct att_service *service, const struct att_job *job);
void service_snapshot_check(struct att_service *service);
void service_snapshot_end(struct att_service *service);
void service_snapshot_forget(struct att_service *service, uint64_t session); /* it has ended */
bool service_snapshot_due(const struct att_service *service, int *ret_timeout_ms);

/* service_stat.c */
bool service_stat(struct att_service *service, const struct att_server_request *request);

#endif
