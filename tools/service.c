#include "service.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "service_impl.h"

/* Requests between two looks at everything else. */
enum { REQUESTS_A_TURN = 128, INIT_LOOK_MS = 100 };
#define READING_NS UINT64_C(10000000000) /* after stop, for clients to read the answers that are going out */
#define ROOM_NS    UINT64_C(1000000000)  /* after stop, for room on a full disk: the log thread tries a few times */

enum att_status att_service_create(struct att_service **ret_service, struct att_error *error)
{
    *ret_service = calloc(1, sizeof **ret_service);
    return *ret_service ? ATT_OK : att_fail(error, ATT_ENOMEM, "not enough memory");
}

void att_service_free(struct att_service *service)
{
    if (!service)
        return;
    service_drop_deferred(service);
    service_drop_outgoing(service);
    free(service->record_payload);
    free(service->row);
    free(service->touched);
    free(service->journal);
    free(service);
}

enum att_status att_service_join(struct att_service *service, const struct att_service_options *options,
                                 const struct att_heads *heads, struct att_store *store, struct att_server *server,
                                 struct att_sessions *sessions, struct att_error *error)
{
    struct att_engine_stats stats;
    struct att_store_state state;

    service->options = *options;
    service->record_payload = malloc(att_record_payload_max(options->d, options->d_v));
    service->row = malloc(sizeof(double) * options->d_v);
    service->touched = calloc(heads->count, sizeof *service->touched);
    if (!service->record_payload || !service->row || !service->touched)
        return att_fail(error, ATT_ENOMEM, "not enough memory");
    att_heads_stats(heads, &stats);
    service->heads = *heads;
    service->store = store;
    service->server = server;
    service->sessions = sessions;
    att_store_state(store, &state);
    /* Of a recovered state the newest record may be no engine's: a session's. */
    service->lsn = stats.lsn > att_store_last_lsn(store) ? stats.lsn : att_store_last_lsn(store);
    att_server_set_lsn(server, service->lsn);
    att_server_set_durable(server, state.durable_lsn);
    service->snapshot_lsn = state.snapshot_lsn;
    service->snapshot_ns = att_clock_ns();
    /* Release: partner is the acquire in att_service_event. */
    atomic_store_explicit(&service->wakeable, server, memory_order_release);
    return ATT_OK;
}

void att_service_event(void *context)
{
    struct att_service *service = context;
    struct att_server *server;

    /* Release: what the other thread has done. Partner: the acquire exchange in look_around. */
    atomic_store_explicit(&service->events, true, memory_order_release);
    server = atomic_load_explicit(&service->wakeable, memory_order_acquire);
    if (server)
        att_server_wake(server);
}

void att_service_stop(struct att_service *service)
{
    atomic_store(&service->stop, true);
    att_service_event(service);
}

static bool ping(struct att_service *service, const struct att_server_request *request)
{
    struct att_wire_reply reply = service_reply_to(service, &request->header);

    att_server_reply(service->server, request->session, &reply, NULL, 0);
    return true;
}

/* All acknowledged so far: everything up to the newest LSN. Without a log that takes a snapshot. */
static bool flush(struct att_service *service, const struct att_server_request *request)
{
    struct att_wire_reply reply = service_reply_to(service, &request->header);

    if (service->options.durability == ATT_DURABLE_OFF)
        return service_snapshot_wanted(service, request);
    service_reply_durable(service, request->session, &reply, NULL, 0, service->lsn);
    att_store_hurry(service->store, service->lsn);
    return true;
}

static bool send_regions(struct att_service *service, const struct att_server_request *request)
{
    att_server_send_regions(service->server, request->session);
    return true;
}

/* Not for those who are only let in: it is everybody's daemon. What else they may ask for takes nothing from others but
 * time, as reads and updates do. */
static bool shut_down(struct att_service *service, const struct att_server_request *request)
{
    char text[ATT_WIRE_TEXT_BYTES];

    if (!request->owner) {
        snprintf(text, sizeof text, "only user %lu, who runs the daemon, and root may end it",
                 (unsigned long)geteuid());
        return service_refuse(service, request, ATT_EPERM, text);
    }
    ping(service, request);
    fprintf(stderr, "attnd: shutdown asked for by a client\n");
    atomic_store(&service->stop, true);
    return true;
}

/* One request. True: it is taken, and replied to now or later. False: it can't be done now: an update that the log has
 * no room for, or a read whose client has to take other answers first. */
static bool handle(struct att_service *service, const struct att_server_request *request)
{
    static bool (*const handlers[])(struct att_service *, const struct att_server_request *) = {
        [ATT_REQ_PING] = ping,
        [ATT_REQ_QUERY] = service_query,
        [ATT_REQ_ROW] = service_row,
        [ATT_REQ_COLUMN] = service_wide,
        [ATT_REQ_ALL] = service_wide,
        [ATT_REQ_SET_TOKEN] = service_update,
        [ATT_REQ_UPDATE_K] = service_update,
        [ATT_REQ_UPDATE_V] = service_update,
        [ATT_REQ_APPEND] = service_update,
        [ATT_REQ_DELETE] = service_update,
        [ATT_REQ_SET_Q] = service_update,
        [ATT_REQ_FLUSH] = flush,
        [ATT_REQ_MERGE] = service_merge,
        [ATT_REQ_SNAPSHOT] = service_snapshot_wanted,
        [ATT_REQ_SHUTDOWN] = shut_down,
        [ATT_REQ_STAT] = service_stat,
    };
    const uint16_t type = request->header.type, head = request->header.head;
    char text[100];

    if (type == ATT_REQ_READS)
        return service_note_reads(service, request);
    if (type == ATT_REQ_REGIONS)
        return send_regions(service, request);
    if (head >= service->heads.count) {
        snprintf(text, sizeof text, "head %u is out of range: there %s %u", head,
                 service->heads.count == 1 ? "is" : "are", service->heads.count);
        return service_refuse(service, request, ATT_ERANGE, text);
    }
    service->touched[head] = true;
    if (type < sizeof handlers / sizeof *handlers && handlers[type])
        return handlers[type](service, request);
    return service_refuse(service, request, ATT_EINVAL, "unknown type of request");
}

/* Lets the merge threads of the heads that had requests know. */
static void kick(struct att_service *service)
{
    for (uint32_t head = 0; head < service->heads.count; head++) {
        if (service->touched[head])
            att_engine_kick(service->heads.engines[head]);
        service->touched[head] = false;
    }
}

/* Begins to bring the base, or the token, that the next request will want: of many few are near. */
static void fetch_ahead(const struct att_service *service)
{
    struct att_wire_request next;

    if (!att_server_ahead(service->server, &next) || next.head >= service->heads.count)
        return;
    if (next.type == ATT_REQ_QUERY || next.type == ATT_REQ_ROW)
        att_engine_ahead(service->heads.engines[next.head], next.index, next.column);
    else if (next.type == ATT_REQ_SET_TOKEN || next.type == ATT_REQ_UPDATE_K || next.type == ATT_REQ_UPDATE_V)
        att_engine_ahead_update(service->heads.engines[next.head], next.index);
}

static bool serve_requests(struct att_service *service)
{
    struct att_server_request request = {.more = false};
    int served = 0;

    /* Not between the requests of a batch: what the merge thread computes is to see all of them or none. */
    while ((served < REQUESTS_A_TURN || request.more) && att_server_next(service->server, &request)) {
        fetch_ahead(service);
        if (handle(service, &request)) {
            att_server_take(service->server);
        } else {
            att_server_park(service->server);
            service->parked = true;
        }
        served++;
    }
    att_server_flush(service->server); /* before all else: somebody waits for these */
    att_store_push(service->store);
    if (served > 0)
        kick(service);
    return served > 0;
}

/* What other threads have done meanwhile: finished jobs, freed log space, made LSNs durable, written a snapshot. */
static void look_around(struct att_service *service)
{
    enum att_status status;
    char text[400];
    bool paid;

    if (!atomic_load_explicit(&service->events, memory_order_relaxed) ||
        !atomic_exchange_explicit(&service->events, false, memory_order_acquire))
        return;
    service_collect(service);
    service_release_durable(service);
    service_snapshot_check(service);
    paid = service_pay_owed(service);
    if (paid)
        att_store_push(service->store); /* what was owed: nobody else may come and do it */
    /* Who waits for the log is told when the disk is full, or no more: that may last, and its reads go on. */
    if (service->parked && (paid || service_refuses_updates(service, &status, text, sizeof text))) {
        att_server_unpark(service->server);
        service->parked = false;
    }
}

/* Until every row has had its first refresh (some may have gone cold again): a bar on a terminal. */
static void show_init(struct att_service *service, int *timeout_ms)
{
    struct att_engine_stats stats;

    if (!service->initialising)
        return;
    *timeout_ms = INIT_LOOK_MS;
    if (att_clock_ns() - service->init_ns < INIT_LOOK_MS * UINT64_C(1000000))
        return;
    service->init_ns = att_clock_ns();
    att_heads_stats(&service->heads, &stats);
    if (stats.rows_cold == 0 || stats.refreshes >= service->init_rows) {
        service->initialising = false;
        fprintf(stderr, "attnd: all %llu rows are up to date after %.2f s\n", (unsigned long long)stats.rows_hot,
                att_progress_end(&service->init));
        return;
    }
    att_progress_update(&service->init, stats.rows_hot);
}

static void maybe_snapshot(struct att_service *service, int *ret_timeout_ms)
{
    *ret_timeout_ms = -1;
    if (service_snapshot_due(service, ret_timeout_ms))
        service_snapshot_begin(service);
}

static bool finished(struct att_service *service)
{
    struct att_store_state state;

    att_store_state(service->store, &state);
    return service->deferred_count == 0 && service->jobs == 0 && !service->outgoing && !service->snapshot_running &&
           (state.durable_lsn >= service->lsn || state.refusing == ATT_EIO || service->gave_up ||
            service->options.durability == ATT_DURABLE_OFF);
}

/* After stop a full disk is waited for, but not for ever. */
static void wait_for_room(struct att_service *service)
{
    struct att_store_state state;

    att_store_state(service->store, &state);
    if (state.refusing != ATT_ENOSPC)
        service->full_ns = 0;
    else if (service->full_ns == 0)
        service->full_ns = att_clock_ns();
    service->gave_up = service->full_ns != 0 && att_clock_ns() - service->full_ns > ROOM_NS;
}

/* After stop: nothing new is taken; what was taken is finished, then a snapshot, then the end. */
static void wind_up(struct att_service *service)
{
    struct att_store_state state;
    bool wanted = true;

    service->serving = false;
    att_server_retire(service->server);
    att_store_hurry(service->store, service->lsn); /* with what is still owed */
    service->stopped_ns = att_clock_ns();
    while (!finished(service) || wanted) {
        if (wanted && finished(service)) {
            att_store_state(service->store, &state);
            wanted = false;
            if (state.snapshot_lsn < service->lsn && state.refusing == ATT_OK)
                service_snapshot_begin(service);
        }
        if (!service->snapshot_running && service_awaits_snapshot(service))
            service_snapshot_begin(service);
        service_pay_owed(service);
        att_store_push(service->store);
        wait_for_room(service);
        while (service_session_step(service))
            ;
        look_around(service);
        service_send_chunks(service);
        if (att_clock_ns() - service->stopped_ns > READING_NS)
            service_end_readers(service);
        att_server_wait(service->server, 10);
        atomic_store(&service->events, true);
    }
}

/* Whether all is on disk; else why not. */
static enum att_status outcome(const struct att_service *service, struct att_error *error)
{
    const enum att_durability durability = service->options.durability;
    struct att_store_state state;
    char text[400];

    att_store_state(service->store, &state);
    if (state.refusing != ATT_EIO &&
        (state.durable_lsn >= service->lsn || (durability == ATT_DURABLE_OFF && !state.snapshot_failed)))
        return ATT_OK;
    if (service->gave_up)
        return att_fail(error, ATT_ENOSPC,
                        "%s: the disk is full: updates %llu to %llu, which were%s acknowledged, are not on it",
                        service->options.directory, (unsigned long long)state.durable_lsn + 1,
                        (unsigned long long)service->lsn, durability == ATT_DURABLE_ALWAYS ? " not" : "");
    if (durability == ATT_DURABLE_OFF)
        att_store_snapshot_message(service->store, text, sizeof text);
    else
        att_store_message(service->store, text, sizeof text);
    return att_fail(error, state.refusing != ATT_OK ? state.refusing : ATT_EIO, "%s", text);
}

enum att_status att_service_run(struct att_service *service, struct att_error *error)
{
    struct att_engine_stats stats;
    int timeout_ms;

    service->serving = service->initialising = true;
    att_heads_stats(&service->heads, &stats);
    service->init_rows = stats.refreshes + stats.rows_cold;
    att_progress_start(&service->init, "init", (uint64_t)service->options.n_q * service->heads.count);
    while (!atomic_load_explicit(&service->stop, memory_order_acquire)) {
        bool busy = serve_requests(service);
        look_around(service);
        busy |= service_send_chunks(service);
        maybe_snapshot(service, &timeout_ms);
        busy |= service_session_step(service);
        show_init(service, &timeout_ms);
        att_server_flush(service->server);
        att_server_wait(service->server, busy ? 0 : timeout_ms);
    }
    wind_up(service);
    return outcome(service, error);
}
