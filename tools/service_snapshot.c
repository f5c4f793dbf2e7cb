/* Snapshots, from the service's side: when one is due, who waits for it. The engines' merge threads hand the pieces to
 * the store, whose snapshot thread writes them.
 *
 * The heads take turns, so that one thread at a time talks to the store: for each head a merge, when that is done its
 * snapshot job, when that is done the next head; after the last the store is told that this was all. So each head has
 * a cut of its own. An engine knows only the LSNs of its own updates: when its newest was 5 and other heads have come
 * to 90 since, its state is that of 90, and it is cut there; else a head that nobody changes would hold the log back
 * for ever. `covered` is the common LSN when the merge was asked for: the merge takes in everything of this head up to
 * there. */
#include <stdio.h>
#include <stdlib.h>

#include "service_impl.h"

static_assert((int)ATT_ARRAY_COUNT <= (int)ATT_HEAD_ARRAYS, "the arrays of a head have numbers of their own");

static void sink_begin(void *context, uint64_t lsn, uint32_t tokens_used)
{
    struct cutter *cutter = context;
    cutter->cut = lsn > cutter->covered ? lsn : cutter->covered;
    att_store_snapshot_cut(cutter->service->store, cutter->head, cutter->cut, tokens_used);
}

static bool sink_room(void *context)
{
    const struct cutter *cutter = context;
    return att_store_snapshot_room(cutter->service->store);
}

static void sink_piece(void *context, const struct att_piece *piece)
{
    const struct cutter *cutter = context;
    att_store_snapshot_piece(cutter->service->store, cutter->head * ATT_HEAD_ARRAYS + (uint32_t)piece->array,
                             piece->offset, piece->data, piece->bytes);
}

/* Of one head: the store is told by the service thread, after the last. */
static void sink_end(void *context)
{
    (void)context;
}

static struct att_state_shape shape_of(const struct att_service *service)
{
    const struct att_service_options *o = &service->options;
    struct att_state_shape shape = {
        .heads = service->heads.count,
        .n_q = o->n_q,
        .d = o->d,
        .d_v = o->d_v,
        .capacity = o->capacity,
        .precision = o->precision,
        .causal = o->causal,
        .scale = o->scale,
    };
    snprintf(shape.base_tag, sizeof shape.base_tag, "%s", att_engine_base_tag(service->heads.engines[0]));
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

static void drop_waiters_of(struct waiter **list, uint64_t session)
{
    while (*list) {
        struct waiter *waiter = *list;
        if (waiter->session == session) {
            *list = waiter->next;
            free(waiter);
        } else {
            list = &waiter->next;
        }
    }
}

void service_snapshot_forget(struct att_service *service, uint64_t session)
{
    drop_waiters_of(&service->waiting, session);
    drop_waiters_of(&service->waiting_next, session);
}

/* The next head's turn: a merge first, so that the cut holds all that was acknowledged, then the pieces. */
static void begin_head(struct att_service *service, uint32_t head)
{
    service->snapshot_head = head;
    service->cutter = (struct cutter){.service = service, .head = head, .covered = service->lsn};
    service->cutter.sink = (struct att_sink){&service->cutter, sink_begin, sink_room, sink_piece, sink_end};
    service->merge_job = (struct att_job){.kind = ATT_JOB_MERGE};
    att_engine_submit(service->heads.engines[head], &service->merge_job);
}

/* What the log says of one that failed; not of the first, without which attnd does not start: it ends with the reason. */
static void say_failed(const struct att_service *service, bool final, const char *text)
{
    const char *then = service->options.durability == ATT_DURABLE_OFF
                           ? "; what came since the last one is in memory only"
                           : "; the log keeps everything";

    if (service->serving && !final)
        fprintf(stderr, "attnd: no snapshot: %s%s, and the next one tries again\n", text, then);
    else if (service->serving || service->stopped_ns != 0)
        fprintf(stderr, "attnd: no snapshot: %s\n", text);
}

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
    service->log_bytes = 0;
    service->snapshot_ns = att_clock_ns();
    status = att_store_snapshot_begin(service->store, &shape, &error);
    if (status != ATT_OK) {
        say_failed(service, true, error.text);
        answer_waiters(service, status, error.text);
        service_fail_awaiting(service);
        return;
    }
    service->snapshot_running = true;
    service->engines_handed = service->snapshot_handed = false;
    service_session_snapshot(service);
    begin_head(service, 0);
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

/* After the last piece of the engines and of the sessions. */
void service_snapshot_end(struct att_service *service)
{
    if (service->saving || !service->engines_handed)
        return;
    att_store_snapshot_end(service->store);
    att_store_hurry(service->store, service->lsn); /* its manifest waits until its cuts are durable */
    service->snapshot_handed = true;
}

/* A head's merge is done, or it has handed out all its pieces. */
void service_snapshot_job_done(struct att_service *service, const struct att_job *job)
{
    const uint32_t head = service->snapshot_head;

    if (job == &service->merge_job) {
        service->snapshot_job = (struct att_job){.kind = ATT_JOB_SNAPSHOT, .sink = &service->cutter.sink};
        att_engine_submit(service->heads.engines[head], &service->snapshot_job);
        return;
    }
    if (head == 0)
        service_session_cut(service, service->cutter.cut); /* cuts follow each other: the first is the smallest */
    if (head + 1 < service->heads.count) {
        begin_head(service, head + 1);
    } else {
        service->engines_handed = true;
        service_snapshot_end(service);
    }
}

/* The store's part is done when it says that no snapshot is running, and over when its cuts will not be durable. */
void service_snapshot_check(struct att_service *service)
{
    struct att_store_state state;
    char text[400] = "the snapshot failed";

    att_store_state(service->store, &state);
    if (!service->snapshot_running || !service->snapshot_handed || (state.snapshot_running && !service->gave_up))
        return;
    service->snapshot_running = false;
    if (state.snapshot_failed || state.snapshot_running) {
        if (state.snapshot_running) /* it waits for the log, which waits for room */
            att_store_message(service->store, text, sizeof text);
        else
            att_store_snapshot_message(service->store, text, sizeof text);
        say_failed(service, state.refusing == ATT_EIO, text);
        answer_waiters(service, state.refusing != ATT_OK ? state.refusing : ATT_EIO, text);
        service_fail_awaiting(service);
    } else {
        service->snapshot_lsn = state.snapshot_lsn;
        answer_waiters(service, ATT_OK, "");
    }
    if (service->waiting_next)
        service_snapshot_begin(service);
}

/* When a read waits for one, by log size, or by time when anything is in no snapshot. The last two count from the last
 * attempt, so that one that fails is tried again, and not all the time. *ret_timeout_ms: when to ask again; -1: when
 * something changes. */
bool service_snapshot_due(const struct att_service *service, int *ret_timeout_ms)
{
    const uint64_t period = service->options.snapshot_seconds * UINT64_C(1000000000);
    uint64_t age;

    if (service->snapshot_running || service->lsn == service->snapshot_lsn)
        return false;
    if (service->log_bytes >= service->options.snapshot_bytes || service_awaits_snapshot(service))
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
        while (service_session_step(service))
            ;
        service_collect(service);
        service_snapshot_check(service);
        if (service->snapshot_running)
            att_server_wait(service->server, 10);
    }
    att_store_state(service->store, &state);
    if (!state.snapshot_failed && state.generation > service->snapshot_generation)
        return ATT_OK;
    att_store_snapshot_message(service->store, text, sizeof text);
    return att_fail(error, state.refusing != ATT_OK ? state.refusing : ATT_EIO, "%s", text);
}
