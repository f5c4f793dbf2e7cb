/* Updates: into the engine, then into the log, then the reply: at once, or when the log has them on disk. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "service_impl.h"

static const enum att_op_kind kinds[] = {
    [ATT_REQ_SET_TOKEN] = ATT_OP_SET_TOKEN, [ATT_REQ_UPDATE_K] = ATT_OP_ADD_K, [ATT_REQ_UPDATE_V] = ATT_OP_ADD_V,
    [ATT_REQ_APPEND] = ATT_OP_APPEND,       [ATT_REQ_DELETE] = ATT_OP_DELETE,  [ATT_REQ_SET_Q] = ATT_OP_SET_Q,
};

/* Whether the store has taken the record of the last update; as long as it has not, no other is applied. */
bool service_pay_owed(struct att_service *service)
{
    if (service->owed && att_store_append(service->store, &service->record, service->record_payload) == ATT_OK)
        service->owed = false;
    return !service->owed;
}

/* Hands `record`, of the newest LSN, to the store; what the store has no room for is kept. */
void service_owe(struct att_service *service, const void *payload)
{
    const size_t bytes = service->record.length - sizeof service->record;

    service->log_bytes += service->record.length;
    service->owed = att_store_append(service->store, &service->record, payload) != ATT_OK;
    if (service->owed && bytes > 0 && payload != service->record_payload)
        memcpy(service->record_payload, payload, bytes);
}

/* Whether the store takes nothing now, and why. */
bool service_refuses_updates(struct att_service *service, enum att_status *ret_status, char *ret_text, size_t size)
{
    struct att_store_state state;

    att_store_state(service->store, &state);
    if (state.refusing == ATT_OK)
        return false;
    att_store_message(service->store, ret_text, size);
    *ret_status = state.refusing == ATT_ENOSPC ? ATT_ENOSPC : ATT_EREADONLY;
    return true;
}

static struct att_op op_of(const struct att_server_request *request, const float *bias)
{
    const struct att_wire_request *header = &request->header;

    return (struct att_op){
        .kind = kinds[header->type],
        .index = header->type == ATT_REQ_APPEND ? ATT_ANY_INDEX : header->index,
        .column = header->column,
        .number = header->number,
        .key = request->key,
        .value = request->value,
        .bias = header->fields & ATT_WIRE_BIAS ? bias : NULL,
    };
}

static void log_and_reply(struct att_service *service, const struct att_server_request *request,
                          const struct att_op *op)
{
    struct att_wire_reply reply = service_reply_to(service, &request->header);

    const void *payload =
        att_record_from_op(op, request->header.head, service->lsn,
                           request->place == ATT_NO_PLACE ? 0 : att_sessions_at(service->sessions, request->place)->id,
                           request->header.session_seq, service->options.d, service->options.d_v, &service->record,
                           service->record_payload);
    service_owe(service, payload);
    service_session_done(service, request, op);
    reply.index = op->kind == ATT_OP_APPEND ? op->index : 0;
    if (service->options.durability == ATT_DURABLE_ALWAYS)
        service_reply_durable(service, request->session, &reply, NULL, 0, service->lsn);
    else
        att_server_reply(service->server, request->session, &reply, NULL, 0);
}

bool service_update(struct att_service *service, const struct att_server_request *request)
{
    const float bias = (float)request->header.number;
    struct att_op op = op_of(request, &bias);
    struct att_error error;
    char text[400];
    enum att_status status;

    if (request->header.session_seq != 0 && service_session_knows(service, request))
        return true;
    if (request->header.fields & ATT_WIRE_BIAS && isfinite(request->header.number) && isinf(bias)) {
        snprintf(text, sizeof text, "bias: %g is too large for float32", request->header.number);
        return service_refuse(service, request, ATT_ENOTFINITE, text); /* as -inf it would mask the token */
    }
    if (service_refuses_updates(service, &status, text, sizeof text))
        return service_refuse(service, request, status, text);
    status = service_pay_owed(service)
                 ? att_engine_apply(service_engine(service, request), &op, service->lsn + 1, &error)
                 : ATT_AGAIN;
    if (status == ATT_AGAIN)
        return false;
    if (status != ATT_OK)
        return service_refuse(service, request, status, error.text);
    service->lsn++;
    att_server_set_lsn(service->server, service->lsn);
    log_and_reply(service, request, &op);
    return true;
}
