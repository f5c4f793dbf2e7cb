/* The asynchronous heart of the client: requests into the ring, completions out of it. */
#include "client_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- Flights ------------------------------------------------------------------------------------------- */

static uint32_t flight_new(struct att_client *client)
{
    uint32_t place = client->free_first;
    if (place != NO_FLIGHT)
        client->free_first = client->flights[place].next;
    else if (client->fresh < MOST_IN_FLIGHT)
        place = client->fresh++;
    return place;
}

void att_client_free_flight(struct att_client *client, uint32_t place)
{
    struct att_flight *flight = &client->flights[place];
    switch ((enum flight_state)flight->state) {
    case FLIGHT_OUT:
        client->out--;
        break;
    case FLIGHT_KEPT:
        client->kept--;
        break;
    case FLIGHT_ABANDONED:
        client->abandoned--;
        break;
    case FLIGHT_FREE:
        break;
    }
    if (flight->text)
        free(flight->text);
    flight->text = NULL;
    flight->state = FLIGHT_FREE;
    flight->next = client->free_first;
    client->free_first = place;
}

void att_client_keep(struct att_client *client, uint32_t place)
{
    struct att_flight *flight = &client->flights[place];
    flight->state = FLIGHT_KEPT;
    flight->next = NO_FLIGHT;
    if (client->text[0] != '\0')
        flight->text = strdup(client->text); /* without memory, a plainer message */
    if (client->kept == 0)
        client->kept_first = place;
    else
        client->flights[client->kept_last].next = place;
    client->kept_last = place;
    client->out--;
    client->kept++;
}

void att_client_drop(struct att_client *client, uint32_t place)
{
    client->flights[place].state = FLIGHT_ABANDONED;
    client->flights[place].buffer = NULL;
    client->flights[place].batch = NULL;
    client->out--;
    client->abandoned++;
}

uint32_t att_client_ghost(struct att_client *client, uint32_t type, uint64_t seq)
{
    uint32_t place = flight_new(client);
    if (place == NO_FLIGHT)
        return place;
    struct att_flight *flight = &client->flights[place];
    *flight = (struct att_flight){
        .state = FLIGHT_ABANDONED, .round = flight->round + 1, .next = NO_FLIGHT, .type = type, .seq = seq};
    client->abandoned++;
    return place;
}

uint32_t att_in_flight(const struct att_client *client)
{
    return client->out + client->kept;
}

void att_client_give_up(struct att_client *client)
{
    for (uint32_t place = 0; place < client->fresh && client->out + client->abandoned > 0; place++) {
        struct att_flight *flight = &client->flights[place];
        if (att_session_holds(client, flight))
            continue;
        if (flight->state == FLIGHT_ABANDONED) {
            att_client_free_flight(client, place);
        } else if (flight->state == FLIGHT_OUT) {
            flight->done.status = client->gone.status;
            client->text[0] = '\0';
            att_client_keep(client, place);
        }
    }
}

/* ---- Submitting ---------------------------------------------------------------------------------------- */

/* Bytes of a successful reply's payload. */
static uint64_t payload_of(const struct att_info *info, uint32_t type)
{
    switch (type) {
    case ATT_REQ_ROW:
        return sizeof(double) * (uint64_t)info->d_v;
    case ATT_REQ_COLUMN:
        return 2 * sizeof(double) * (uint64_t)info->n_q;
    case ATT_REQ_ALL:
        return sizeof(double) * (uint64_t)info->n_q * info->d_v;
    case ATT_REQ_STAT:
        return sizeof(struct att_stat);
    default:
        return 0;
    }
}

void att_client_measure(struct att_client *client)
{
    for (uint32_t type = 0; type < ATT_REQUEST_TYPES; type++)
        client->payload[type] = payload_of(&client->info, type);
}

static uint16_t fields_of(const struct att_request *request)
{
    return (uint16_t)((request->key ? ATT_WIRE_KEY : 0) | (request->value ? ATT_WIRE_VALUE : 0) |
                      (request->bias ? ATT_WIRE_BIAS : 0));
}

enum att_status att_client_check(struct att_client *client, const struct att_request *request)
{
    const struct att_request_rule *rule = att_request_rule(request->type);
    if (!rule || rule->silent)
        return att_fail(&client->error, ATT_EINVAL, "%d is not a type of request", (int)request->type);
    unsigned fields = fields_of(request);
    if ((fields & rule->required) != rule->required || (rule->any && fields == 0))
        return att_fail(&client->error, ATT_EINVAL, "%s: the %s is missing", rule->name,
                        rule->any                                   ? "key, value or bias"
                        : (rule->required & ~fields & ATT_WIRE_KEY) ? "key"
                                                                    : "value");
    if (fields & ~(unsigned)rule->allowed)
        return att_fail(&client->error, ATT_EINVAL, "%s takes no such array (key, value or bias)", rule->name);
    if (request->head > UINT16_MAX)
        return att_fail(&client->error, ATT_ERANGE, "%s: head %u is out of range: there %s %u", rule->name,
                        request->head, client->info.heads == 1 ? "is" : "are", client->info.heads);
    uint64_t expected = client->payload[request->type];
    if (expected > 0 && request->buffer && request->buffer_bytes < expected)
        return att_fail(&client->error, ATT_EINVAL, "%s: the buffer has %zu bytes and needs %llu", rule->name,
                        request->buffer_bytes, (unsigned long long)expected);
    return ATT_OK;
}

uint64_t att_client_bytes(const struct att_client *client, const struct att_request *request)
{
    return sizeof(struct att_wire_request) + (request->key ? sizeof(float) * (uint64_t)client->info.d : 0) +
           (request->value ? sizeof(float) * (uint64_t)client->info.d_v : 0);
}

enum att_status att_client_make_room(struct att_client *client, uint64_t slots)
{
    if (att_producer_room(&client->requests) >= slots)
        return ATT_OK;
    if (!att_producer_refresh(&client->requests))
        return att_client_broken(client, "its request cursor is impossible");
    if (att_producer_room(&client->requests) >= slots)
        return ATT_OK;
    att_push(client); /* so that it can become free */
    return att_fail(&client->error, ATT_EBUSY, "the request ring is full: complete some requests first");
}

uint32_t att_client_launch(struct att_client *client, const struct att_request *request)
{
    uint32_t place = flight_new(client);
    if (place == NO_FLIGHT)
        return place;
    struct att_flight *flight = &client->flights[place];
    flight->state = FLIGHT_OUT;
    flight->round++;
    flight->next = NO_FLIGHT;
    flight->column = request->column;
    flight->index = request->index;
    flight->type = request->type;
    flight->seq = 0;
    flight->filled = 0;
    flight->expected = client->payload[request->type];
    flight->buffer = request->buffer;
    flight->batch = NULL;
    flight->text = NULL;
    flight->done = (struct att_completion){.tag = request->tag, .type = request->type};
    client->out++;
    return place;
}

static inline struct att_wire_request header_of(const struct att_client *client, const struct att_request *request,
                                                uint32_t place)
{
    return (struct att_wire_request){
        .length = (uint32_t)att_client_bytes(client, request),
        .generation = client->generation,
        .type = (uint16_t)request->type,
        .head = (uint16_t)request->head,
        .fields = fields_of(request),
        .flags = request->durable && att_request_rule(request->type)->durable ? ATT_WIRE_DURABLE : 0,
        .index = request->index,
        .column = request->column,
        .tag = (uint64_t)client->flights[place].round << 32 | place,
        .number = request->bias ? (double)*request->bias : request->number,
    };
}

size_t att_client_parts(struct att_client *client, const struct att_request *request, uint32_t place,
                        struct att_wire_request *ret_header, struct att_part ret_parts[3])
{
    const bool keeps = att_session_keeps(client, request->type);
    size_t count = 0;
    *ret_header = header_of(client, request, place);
    ret_header->session_seq = keeps ? att_session_next(client) : 0;
    ret_parts[count++] = (struct att_part){ret_header, sizeof *ret_header};
    if (request->key)
        ret_parts[count++] = (struct att_part){request->key, sizeof(float) * (size_t)client->info.d};
    if (request->value)
        ret_parts[count++] = (struct att_part){request->value, sizeof(float) * (size_t)client->info.d_v};
    if (keeps) {
        ret_parts[0] = att_session_keep(client, ret_parts, count, place);
        count = 1;
    }
    return count;
}

static void push_full_batch(struct att_client *client)
{
    if (client->requests.held >= ATT_BATCH)
        att_push(client);
}

void att_client_put(struct att_client *client, const struct att_part *parts, size_t count)
{
    att_producer_put(&client->requests, parts, count);
    push_full_batch(client);
}

/* Its message into the ring. */
static void put_request(struct att_client *client, const struct att_request *request, uint32_t place)
{
    if (request->key || request->value || att_session_keeps(client, request->type)) {
        struct att_wire_request header;
        struct att_part parts[3];
        att_client_put(client, parts, att_client_parts(client, request, place, &header, parts));
    } else { /* a header alone: most messages */
        const struct att_wire_request header = header_of(client, request, place);
        uint64_t words[ATT_SLOT_WORDS];
        att_wire_request_words(&header, words);
        att_producer_put_slot(&client->requests, words);
        push_full_batch(client);
    }
}

enum att_status att_client_submit(struct att_client *client, const struct att_request *request, uint32_t *ret_flight)
{
    enum att_status status = ATT_OK;
    if (client->closed)
        status = att_client_reconnect(client, att_client_deadline(client, att_now_ns()));
    if (status == ATT_OK)
        att_producer_own(&client->requests); /* it comes while the rest is done */
    if (status == ATT_OK)
        status = att_client_check(client, request);
    if (status == ATT_OK && client->resend)
        status = att_session_admit(client, request, 1);
    if (status == ATT_OK)
        status = att_client_make_room(client, att_slots_for(att_client_bytes(client, request)));
    if (status != ATT_OK)
        return status;
    uint32_t place = att_client_launch(client, request);
    if (place == NO_FLIGHT)
        return att_fail(&client->error, ATT_EBUSY, "%d requests are in flight: complete some first", MOST_IN_FLIGHT);
    put_request(client, request, place);
    *ret_flight = place;
    return ATT_OK;
}

enum att_status att_submit(struct att_client *client, const struct att_request *request)
{
    uint32_t flight;
    client->deadline = 0;
    return att_client_submit(client, request, &flight);
}

/* ---- Completing ---------------------------------------------------------------------------------------- */

/* The flight that a reply belongs to, or NULL. Everything in *reply came from the daemon and is not trusted. */
static struct att_flight *flight_of(struct att_client *client, const struct att_wire_reply *reply)
{
    uint32_t place = (uint32_t)reply->tag;
    if (place >= client->fresh)
        return NULL;
    struct att_flight *flight = &client->flights[place];
    bool waits = flight->state == FLIGHT_OUT || flight->state == FLIGHT_ABANDONED;
    if (!waits || flight->round != (uint32_t)(reply->tag >> 32) || flight->type != reply->type)
        return NULL;
    return flight;
}

/* Takes a reply's payload: into the flight's buffer, or into client->text. Returns what is wrong, or NULL. */
static const char *take_payload(struct att_client *client, struct att_flight *flight,
                                const struct att_wire_reply *reply)
{
    uint64_t bytes = reply->length - sizeof *reply;
    bool more = reply->flags & ATT_WIRE_MORE;
    client->text[0] = '\0';
    if (reply->status != ATT_OK && reply->status != ATT_EMPTY) {
        if (more || bytes > ATT_WIRE_TEXT_BYTES)
            return "an error reply is too long";
        if (!att_consumer_read(&client->replies, 1, client->text, (size_t)bytes))
            return "a slot of its reply ring has a wrong number";
        client->text[bytes] = '\0';
        return NULL;
    }
    if (more && !att_request_rule(flight->type)->chunks)
        return "a reply in chunks that should be one";
    if (more && bytes == 0)
        return "a chunk with nothing in it"; /* they could go on for ever */
    if (bytes > flight->expected - flight->filled)
        return "a reply is longer than what was asked for";
    if (!more && reply->status == ATT_OK && bytes != flight->expected - flight->filled)
        return "a reply is shorter than what was asked for";
    if (reply->status == ATT_OK && flight->buffer &&
        !att_consumer_read(&client->replies, 1, flight->buffer + flight->filled, (size_t)bytes))
        return "a slot of its reply ring has a wrong number";
    flight->filled += bytes;
    return NULL;
}

/* One reply. *ret_place: the flight it completes, or NO_FLIGHT. Returns what is wrong with it, or NULL. */
static const char *take_reply(struct att_client *client, uint32_t *ret_place)
{
    struct att_wire_reply reply;
    *ret_place = NO_FLIGHT;
    att_consumer_read_first(&client->replies, &reply);
    if (reply.length < sizeof reply || reply.length > client->largest_reply)
        return "a reply has an impossible length";
    if (reply.generation != client->generation)
        return "a reply has another channel's generation";
    if (reply.status >= ATT_STATUS_COUNT || (reply.flags & ~(unsigned)ATT_WIRE_MORE) != 0)
        return "a reply has an unknown status or unknown flags";
    struct att_flight *flight = flight_of(client, &reply);
    if (!flight)
        return "a reply to a request that was not made";
    const char *wrong = take_payload(client, flight, &reply);
    if (wrong)
        return wrong;
    att_client_take(client, att_slots_for(reply.length));
    if (reply.flags & ATT_WIRE_MORE)
        return NULL;
    flight->done.status = (enum att_status)reply.status;
    flight->done.index = reply.index;
    flight->done.lsn = reply.lsn;
    flight->done.incarnation = reply.incarnation;
    flight->done.value = reply.value;
    flight->done.error_bound = reply.error_bound;
    if (flight->seq != 0)
        att_session_replied(client, flight);
    uint32_t place = (uint32_t)reply.tag;
    if (flight->state == FLIGHT_ABANDONED)
        att_client_free_flight(client, place);
    else
        *ret_place = place;
    return NULL;
}

uint32_t att_client_collect(struct att_client *client)
{
    uint32_t place = NO_FLIGHT;
    /* Of a chunked answer a stretch at a time, so that the caller sees the clock on the way; but all of what a connection
     * that has ended left behind. */
    for (int i = 0; place == NO_FLIGHT && client->attached && !client->broken; i++) {
        if (i >= CHUNKS_A_LOOK && !client->closed)
            break;
        enum att_ring_state state = att_consumer_peek(&client->replies);
        if (state == ATT_RING_EMPTY)
            break;
        const char *wrong =
            state == ATT_RING_BROKEN ? "a slot of its reply ring has a wrong number" : take_reply(client, &place);
        if (wrong)
            att_client_broken(client, wrong);
    }
    return place;
}

/* Hands out a completion and frees its flight. */
static void deliver(struct att_client *client, uint32_t place, const char *text, struct att_completion *ret_completion)
{
    struct att_flight *flight = &client->flights[place];
    *ret_completion = flight->done;
    if (flight->done.status != ATT_OK)
        att_client_describe(client, flight, text);
    att_client_free_flight(client, place);
}

static int deliver_kept(struct att_client *client, struct att_completion *ret_completions, int most)
{
    int count = 0;
    while (count < most && client->kept > 0) {
        uint32_t place = client->kept_first;
        struct att_flight *flight = &client->flights[place];
        client->kept_first = flight->next;
        deliver(client, place, flight->text ? flight->text : "", &ret_completions[count++]);
    }
    return count;
}

int att_complete(struct att_client *client, struct att_completion *ret_completions, int most, uint32_t timeout_ms)
{
    if (most <= 0)
        return 0;
    att_push(client);
    int count = deliver_kept(client, ret_completions, most);
    uint64_t deadline = 0;
    for (;;) {
        bool was_closed = client->closed;
        uint32_t place;
        while (count < most && (place = att_client_collect(client)) != NO_FLIGHT) {
            if (count > 0)
                att_consumer_ahead(&client->replies, count == 1);
            deliver(client, place, client->text, &ret_completions[count++]);
        }
        if (count > 0)
            return count;
        if (was_closed && att_session_goes_on(client)) {
            uint64_t least = att_now_ns() + SESSION_RETRY_NS;
            if (deadline == 0)
                deadline = att_now_ns() + timeout_ms * UINT64_C(1000000);
            enum att_status status = att_client_reconnect(client, deadline > least ? deadline : least);
            count = deliver_kept(client, ret_completions, most);
            if (count > 0 || (status != ATT_OK && att_session_goes_on(client)))
                return count;
            continue;
        }
        if (was_closed) {
            att_client_give_up(client); /* each with a status of its own; -1 when all have been taken */
            count = deliver_kept(client, ret_completions, most);
            att_client_gone(client);
            return count > 0 ? count : -1;
        }
        uint64_t now = att_now_ns();
        if (deadline == 0)
            deadline = now + timeout_ms * UINT64_C(1000000);
        att_client_look(client, now);
        if (client->closed)
            continue; /* once more: what it had published before it went */
        if (now >= deadline)
            return 0;
        att_client_await(client, now, deadline);
    }
}
