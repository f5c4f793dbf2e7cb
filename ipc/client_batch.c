/* Batches: several requests as one message, and their replies. */
#include <stdio.h>
#include <string.h>

#include "client_internal.h"

/* Whether they may be one message; which one is wrong is said. */
static enum att_status check_batch(struct att_client *client, const struct att_request *requests, uint32_t count)
{
    const uint64_t most = att_largest_batch(client->requests.capacity);
    const uint64_t most_slots = att_largest_batch_reply_slots(client->replies.capacity);
    uint64_t bytes = sizeof(struct att_wire_request), slots = 0;
    if (count == 0 || count > ATT_BATCH_REQUESTS)
        return att_fail(&client->error, ATT_EINVAL, "a batch of %u requests: it holds 1 to %d", count,
                        ATT_BATCH_REQUESTS);
    for (uint32_t i = 0; i < count; i++) {
        const struct att_request_rule *rule = att_request_rule(requests[i].type);
        if (att_client_check(client, &requests[i]) != ATT_OK) {
            char text[sizeof client->error.text];
            memcpy(text, client->error.text, sizeof text);
            return att_fail(&client->error, ATT_EINVAL, "request %u of a batch: %.400s", i, text);
        }
        if (!rule->batch)
            return att_fail(&client->error, ATT_EINVAL, "request %u of a batch: %s can't be part of one", i,
                            rule->name);
        bytes += att_client_bytes(client, &requests[i]);
        slots += att_slots_for(sizeof(struct att_wire_reply) +
                               (requests[i].type == ATT_REQ_ROW ? sizeof(double) * (uint64_t)client->info.d_v : 0));
    }
    if (bytes > most || slots > most_slots)
        return att_fail(
            &client->error, ATT_EINVAL,
            "a batch of %llu bytes whose replies take %llu slots: at most %llu bytes and %llu slots; make two "
            "of it",
            (unsigned long long)bytes, (unsigned long long)slots, (unsigned long long)most,
            (unsigned long long)most_slots);
    return ATT_OK;
}

/* All of it is queued, or nothing. */
static enum att_status submit(struct att_client *client, const struct att_request *requests, uint32_t count,
                              uint32_t places[ATT_BATCH_REQUESTS])
{
    struct att_wire_request headers[ATT_BATCH_REQUESTS + 1];
    struct att_part parts[3 * ATT_BATCH_REQUESTS + 1];
    size_t used = 1;
    enum att_status status = ATT_OK;
    if (client->closed)
        status = att_client_reconnect(client, att_client_deadline(client, att_now_ns()));
    if (status == ATT_OK)
        status = check_batch(client, requests, count);
    if (status != ATT_OK)
        return status;
    uint64_t bytes = sizeof headers[0];
    for (uint32_t i = 0; i < count; i++)
        bytes += att_client_bytes(client, &requests[i]);
    if (client->resend)
        status = att_session_admit(client, requests, count);
    if (status == ATT_OK)
        status = att_client_make_room(client, att_slots_for(bytes));
    if (status != ATT_OK)
        return status;
    if (MOST_IN_FLIGHT - client->out - client->kept - client->abandoned < count)
        return att_fail(&client->error, ATT_EBUSY, "%d requests may be in flight: complete some first", MOST_IN_FLIGHT);
    headers[0] = (struct att_wire_request){.length = (uint32_t)bytes,
                                           .generation = client->generation,
                                           .type = ATT_REQ_BATCH,
                                           .index = count};
    parts[0] = (struct att_part){&headers[0], sizeof headers[0]};
    for (uint32_t i = 0; i < count; i++) {
        places[i] = att_client_launch(client, &requests[i]);
        used += att_client_parts(client, &requests[i], places[i], &headers[i + 1], &parts[used]);
    }
    att_client_put(client, parts, used);
    return ATT_OK;
}

enum att_status att_submit_batch(struct att_client *client, const struct att_request *requests, uint32_t count)
{
    uint32_t places[ATT_BATCH_REQUESTS];
    client->deadline = 0;
    return submit(client, requests, count, places);
}

/* Takes what has come; returns how many of the batch. Others are kept. */
static uint32_t collect(struct att_client *client)
{
    uint32_t place, mine = 0;
    while ((place = att_client_collect(client)) != NO_FLIGHT) {
        struct att_flight *flight = &client->flights[place];
        if (!flight->batch) {
            att_client_keep(client, place);
            continue;
        }
        *flight->batch = flight->done;
        if (flight->done.status != ATT_OK)
            att_client_describe(client, flight, client->text);
        att_client_free_flight(client, place);
        mine++;
    }
    return mine;
}

/* Whether a session goes on with its updates when the daemon comes back; the reads among them end. */
static bool goes_on(struct att_client *client, const uint32_t *places, const struct att_completion *completions,
                    uint32_t count, uint64_t deadline, uint32_t *left)
{
    if (!att_session_goes_on(client))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        struct att_flight *flight = &client->flights[places[i]];
        if (flight->state != FLIGHT_OUT || flight->batch != &completions[i] || att_session_holds(client, flight))
            continue;
        *flight->batch = flight->done;
        flight->batch->status = client->gone.status;
        att_client_free_flight(client, places[i]);
        (*left)--;
    }
    return *left > 0 && att_client_reconnect(client, deadline) == ATT_OK;
}

/* Nothing more will come: those that were not answered have the status that is given. */
static void give_up(struct att_client *client, const uint32_t *places, const struct att_completion *completions,
                    uint32_t count, enum att_status status)
{
    for (uint32_t i = 0; i < count; i++) {
        struct att_flight *flight = &client->flights[places[i]];
        if (flight->state != FLIGHT_OUT || flight->batch != &completions[i])
            continue;
        *flight->batch = flight->done;
        flight->batch->status = status;
        flight->batch = NULL;
        if (status == ATT_ETIMEOUT)
            att_client_abandon(client, places[i]);
        else
            att_client_free_flight(client, places[i]);
    }
}

enum att_status att_call_batch(struct att_client *client, const struct att_request *requests, uint32_t count,
                               struct att_completion *ret_completions)
{
    uint32_t places[ATT_BATCH_REQUESTS];
    client->deadline = 0;
    const uint64_t deadline = att_client_deadline(client, att_now_ns());
    enum att_status status;
    do
        status = submit(client, requests, count, places);
    while (status == ATT_EBUSY && att_client_wait_for_room(client, deadline));
    if (status != ATT_OK)
        return client->closed ? att_client_gone(client) : status;
    for (uint32_t i = 0; i < count; i++)
        client->flights[places[i]].batch = &ret_completions[i];
    att_client_quick(client);
    for (uint32_t left = count;;) {
        bool was_closed = client->closed;
        left -= collect(client);
        if (left == 0)
            return ATT_OK;
        if (was_closed && goes_on(client, places, ret_completions, count, deadline, &left))
            continue;
        uint64_t now = att_now_ns();
        att_client_look(client, now);
        if (was_closed || (!client->closed && now >= deadline)) {
            bool gone = was_closed && !(left > 0 && att_session_goes_on(client));
            status = gone ? client->gone.status : ATT_ETIMEOUT;
            give_up(client, places, ret_completions, count, status);
            return gone ? att_client_gone(client) : status;
        }
        if (!client->closed) /* else once more: what it had published before it went */
            att_client_await(client, now, deadline);
    }
}
