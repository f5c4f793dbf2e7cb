/* Snapshots, from the service's side: when one is due, who waits for it. The engine's merge thread hands the pieces to
 * the store, whose snapshot thread writes them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service_impl.h"

static void sink_begin(void *context, uint64_t lsn, uint32_t tokens_used)
{
    struct att_service *service = context;
    att_store_snapshot_cut(service->store, lsn, tokens_used);
}

static bool sink_room(void *context)
{
    struct att_service *service = context;
    return att_store_snapshot_room(service->store);
}

static void sink_piece(void *context, const struct att_piece *piece)
{
    struct att_service *service = context;
    att_store_snapshot_piece(service->store, piece->array, piece->offset, piece->data, piece->bytes);
}

static void sink_end(void *context)
{
    struct att_service *service = context;
    att_store_snapshot_end(service->store);
}

void service_snapshot_init(struct att_service *service)
{
    service->sink = (struct att_sink){service, sink_begin, sink_room, sink_piece, sink_end};
}

static struct att_state_shape shape_of(const struct att_service *service)
{
    const struct att_service_options *o = &service->options;
    struct att_state_shape shape = {
        .heads = 1,
        .n_q = o->n_q,
        .d = o->d,
        .d_v = o->d_v,
        .capacity = o->capacity,
        .precision = o->precision,
        .scale = o->scale,
    };
    snprintf(shape.base_tag, sizeof shape.base_tag, "%s", att_engine_base_tag(service->engine));
    return shape;
}

/* Tells those who waited for the snapshot that has ended. */
static void answer_waiters(struct att_service *service, enum att_status status, const char *text)
{
    struct waiter *list = service->waiting;

    service->waiting = NULL;
    while (list) {
        struct waiter *waiter = list;
        struct att_wire_reply reply = service_reply_to(service, &waiter->request);
        list = waiter->next;
        if (status == ATT_OK)
            att_server_reply(service->server, waiter->session, &reply, NULL, 0);
        else
            service_refuse_late(service, waiter->session, &waiter->request, status, text);
        free(waiter);
    }
}

/* Begins one: a merge first, so that the cut holds all that was acknowledged, then the pieces. */
void service_snapshot_begin(struct att_service *service)
{
    struct att_state_shape shape = shape_of(service);
    struct att_store_state state;
    struct att_error error;
    enum att_status status;

    att_store_state(service->store, &state);
    service->waiting = service->waiting_next;
    service->waiting_next = NULL;
    service->snapshot_generation = state.generation;
    service->changed_lsn = service->lsn;
    service->log_bytes = 0;
    service->snapshot_ns = att_clock_ns();
    status = att_store_snapshot_begin(service->store, &shape, &error);
    if (status != ATT_OK) {
        fprintf(stderr, "attnd: no snapshot: %s\n", error.text);
        answer_waiters(service, status, error.text);
        return;
    }
    service->snapshot_running = true;
    service->snapshot_handed = false;
    service->merge_job = (struct att_job){.kind = ATT_JOB_MERGE};
    service->snapshot_job = (struct att_job){.kind = ATT_JOB_SNAPSHOT, .sink = &service->sink};
    att_engine_submit(service->engine, &service->merge_job);
    att_engine_submit(service->engine, &service->snapshot_job);
}

bool service_snapshot_wanted(struct att_service *service, const struct att_server_request *request)
{
    struct waiter *waiter = malloc(sizeof *waiter);

    if (!waiter)
        return service_refuse(service, request, ATT_ENOMEM, "not enough memory");
    *waiter = (struct waiter){.session = request->session, .request = request->header, .next = service->waiting_next};
    service->waiting_next = waiter;
    if (!service->snapshot_running)
        service_snapshot_begin(service);
    return true;
}

/* The engine has handed out all pieces. */
void service_snapshot_job_done(struct att_service *service, const struct att_job *job)
{
    if (job == &service->snapshot_job)
        service->snapshot_handed = true;
}

/* The store's part is done when it says that no snapshot is running. */
void service_snapshot_check(struct att_service *service)
{
    struct att_store_state state;
    char text[400] = "the snapshot failed";

    att_store_state(service->store, &state);
    if (!service->snapshot_running || !service->snapshot_handed || state.snapshot_running)
        return;
    service->snapshot_running = false;
    if (state.snapshot_failed) {
        att_store_message(service->store, text, sizeof text);
        fprintf(stderr, "attnd: no snapshot: %s\n", text);
        answer_waiters(service, state.refusing != ATT_OK ? state.refusing : ATT_EIO, text);
    } else {
        answer_waiters(service, ATT_OK, "");
    }
    if (service->waiting_next)
        service_snapshot_begin(service);
}

/* By log size, or by time when anything has changed. *ret_timeout_ms: when to ask again; -1: when something changes. */
bool service_snapshot_due(const struct att_service *service, int *ret_timeout_ms)
{
    const uint64_t period = service->options.snapshot_seconds * UINT64_C(1000000000);
    uint64_t age;

    if (service->snapshot_running || service->lsn == service->changed_lsn)
        return false;
    if (service->log_bytes >= service->options.snapshot_bytes)
        return true;
    age = att_clock_ns() - service->snapshot_ns;
    if (age < period)
        *ret_timeout_ms = (int)((period - age) / 1000000u) + 1;
    return age >= period;
}

enum att_status att_service_first_snapshot(struct att_service *service, struct att_error *error)
{
    struct att_store_state state;
    char text[400];

    service_snapshot_begin(service);
    while (service->snapshot_running) {
        service_collect(service);
        service_snapshot_check(service);
        if (service->snapshot_running)
            att_server_wait(service->server, 10);
    }
    att_store_state(service->store, &state);
    if (!state.snapshot_failed && state.generation > service->snapshot_generation)
        return ATT_OK;
    att_store_message(service->store, text, sizeof text);
    return att_fail(error, state.refusing != ATT_OK ? state.refusing : ATT_EIO, "%s", text);
}
