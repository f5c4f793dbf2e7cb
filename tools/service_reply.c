/* Replies, and those that wait until what they reflect is on disk. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service_impl.h"

struct att_wire_reply service_reply_to(const struct att_service *service, const struct att_wire_request *request)
{
    return (struct att_wire_reply){
        .type = request->type,
        .status = ATT_OK,
        .tag = request->tag,
        .lsn = service->lsn,
        .incarnation = att_store_incarnation(service->store),
    };
}

void service_refuse_late(struct att_service *service, uint64_t session, const struct att_wire_request *request,
                         enum att_status status, const char *text)
{
    struct att_wire_reply reply = service_reply_to(service, request);
    char cut[ATT_WIRE_TEXT_BYTES + 1];
    size_t length = strlen(text);

    reply.status = (uint8_t)status;
    if (length > ATT_WIRE_TEXT_BYTES) { /* it begins with a long path; what happened stands at its end */
        const char *end = text + length - (ATT_WIRE_TEXT_BYTES - strlen("..."));
        while ((*end & 0xc0) == 0x80) /* not within a letter of UTF-8 */
            end++;
        length = (size_t)snprintf(cut, sizeof cut, "...%s", end);
        text = cut;
    }
    att_server_reply(service->server, session, &reply, text, length);
}

bool service_refuse(struct att_service *service, const struct att_server_request *request, enum att_status status,
                    const char *text)
{
    service_refuse_late(service, request->session, &request->header, status, text);
    return true;
}

/* The i-th of those that wait; the one after the last is the next that will. */
static struct deferred *deferred_at(const struct att_service *service, size_t i)
{
    return &service->deferred[(service->deferred_first + i) & (service->deferred_capacity - 1)];
}

/* What waits for sessions that have ended is dropped: else clients that come and go could leave any number. */
static void drop_gone(struct att_service *service)
{
    size_t kept = 0;

    for (size_t i = 0; i < service->deferred_count; i++) {
        struct deferred *entry = deferred_at(service, i);
        if (att_server_is_open(service->server, entry->session))
            *deferred_at(service, kept++) = *entry;
        else
            free(entry->payload);
    }
    service->deferred_count = kept;
}

/* Room for more, so much that it is not asked for again soon. */
static bool grow(struct att_service *service)
{
    size_t capacity = service->deferred_capacity ? 2 * service->deferred_capacity : 1024; /* a power of two */
    struct deferred *larger;

    drop_gone(service);
    if (service->deferred_count < service->deferred_capacity / 2)
        return true;
    larger = malloc(capacity * sizeof *larger);
    if (!larger)
        return false;
    for (size_t i = 0; i < service->deferred_count; i++)
        larger[i] = *deferred_at(service, i);
    free(service->deferred);
    service->deferred = larger;
    service->deferred_first = 0;
    service->deferred_capacity = capacity;
    return true;
}

static void fail_durable(struct att_service *service, uint64_t session, const struct att_wire_reply *reply)
{
    char text[400];
    const struct att_wire_request request = {.type = reply->type, .tag = reply->tag};

    if (service->options.durability == ATT_DURABLE_OFF) /* what makes it durable is a snapshot */
        att_store_snapshot_message(service->store, text, sizeof text);
    else
        att_store_message(service->store, text, sizeof text);
    service_refuse_late(service, session, &request, ATT_EIO, text);
}

/* Keeps the reply until `lsn` is durable; sends it at once when it is. Called with LSNs that never fall. */
void service_reply_durable(struct att_service *service, uint64_t session, struct att_wire_reply *reply,
                           const double *payload, size_t payload_bytes, uint64_t lsn)
{
    struct att_store_state state;
    struct deferred *entry;

    if (service->deferred_count == 0) {
        att_store_state(service->store, &state);
        if (state.durable_lsn >= lsn) {
            att_server_reply(service->server, session, reply, payload, payload_bytes);
            return;
        }
        if (state.refusing == ATT_EIO) {
            fail_durable(service, session, reply); /* it will never be, and no event comes any more to say so */
            return;
        }
    }
    /* Memory for a reply that was promised: without it the promise is broken, so this is the end. */
    if (service->deferred_count == service->deferred_capacity && !grow(service))
        abort();
    entry = deferred_at(service, service->deferred_count);
    *entry = (struct deferred){.lsn = lsn, .session = session, .reply = *reply, .payload_bytes = payload_bytes};
    if (payload_bytes > 0) {
        entry->payload = malloc(payload_bytes);
        if (!entry->payload)
            abort();
        memcpy(entry->payload, payload, payload_bytes);
    }
    service->deferred_count++;
    /* The one after the next: in a ring as long as all that waits for a disk no line is near any more. */
    char *ahead = (char *)deferred_at(service, service->deferred_count + 1);
    __builtin_prefetch(ahead, 1);
    __builtin_prefetch(ahead + 64, 1);
}

static void drop_first(struct att_service *service)
{
    free(deferred_at(service, 0)->payload);
    service->deferred_first++;
    service->deferred_count--;
}

/* Whether replies wait that only a snapshot will make durable: there is no log. */
bool service_awaits_snapshot(const struct att_service *service)
{
    struct att_store_state state;

    if (service->options.durability != ATT_DURABLE_OFF || service->deferred_count == 0)
        return false;
    att_store_state(service->store, &state);
    return deferred_at(service, service->deferred_count - 1)->lsn > state.durable_lsn;
}

/* Such a snapshot has failed: those who wait are told. */
void service_fail_awaiting(struct att_service *service)
{
    while (service->options.durability == ATT_DURABLE_OFF && service->deferred_count > 0) {
        fail_durable(service, deferred_at(service, 0)->session, &deferred_at(service, 0)->reply);
        drop_first(service);
    }
}

/* Sends what has become durable. After a failed sync, or at an end without room, nothing will: then the clients are told. */
void service_release_durable(struct att_service *service)
{
    struct att_store_state state;

    att_store_state(service->store, &state);
    att_server_set_durable(service->server, state.durable_lsn);
    while (service->deferred_count > 0) {
        struct deferred *entry = deferred_at(service, 0);
        if (entry->lsn <= state.durable_lsn)
            att_server_reply(service->server, entry->session, &entry->reply, entry->payload, entry->payload_bytes);
        else if (state.refusing == ATT_EIO || service->gave_up)
            fail_durable(service, entry->session, &entry->reply);
        else
            return;
        drop_first(service);
    }
}

void service_drop_deferred(struct att_service *service)
{
    for (size_t i = 0; i < service->deferred_count; i++)
        free(deferred_at(service, i)->payload);
    free(service->deferred);
    service->deferred = NULL;
    service->deferred_count = 0;
}
