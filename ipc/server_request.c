/* Requests: taking them out of clients' rings, and giving them to the service one at a time.
 *
 * A message is copied once and then validated in private memory. A batch is a message of several requests: it is
 * validated whole before any of them is given, and then they are given one after another, with no other client's in
 * between, but in two cases, in which the session has to wait and others go on:
 *   - the service parks a request (the entry log is full);
 *   - an update is next, and answers to reads before it are still computed (by the merge thread): it would be in them.
 * The batch then stays in the ring, and session->done says how many of its requests are dealt with. When its turn comes
 * again it is copied and validated anew, and goes on from there: what a client has changed in it meanwhile are its own
 * requests, and the reply room of those that are left is reserved anew, from what is there now. */
#include <string.h>

#include "server_internal.h"

static_assert(sizeof(struct att_wire_request) + 2 * sizeof(float) >= ATT_SLOT_DATA,
              "the least of the largest requests");

static const char slot_wrong[] = "a slot of its request ring has a wrong number";

/* ---- Validating ---------------------------------------------------------------------------------------- */

/* Checks all of a request but its meaning and that so many bytes are there. Returns what is wrong, or NULL. */
static const char *check_request(const struct att_server *server, const struct att_session *session,
                                 const struct att_wire_request *header)
{
    const struct att_request_rule *rule = att_request_rule(header->type);
    if (header->generation != session->generation)
        return "a request has another channel's generation";
    if (!rule)
        return "a request has an unknown type";
    if ((header->fields & ~(unsigned)rule->allowed) != 0 || (header->fields & rule->required) != rule->required ||
        (rule->any && header->fields == 0))
        return "a request has fields that do not belong to its type";
    if ((header->flags & ~(unsigned)(rule->durable ? ATT_WIRE_DURABLE : 0)) != 0)
        return "a request has unknown flags";
    if (header->session_seq != 0 && (session->place == ATT_NO_PLACE || !rule->update))
        return "a request has a session's number and is no session's update";
    uint64_t expected = sizeof *header;
    if (header->fields & ATT_WIRE_KEY)
        expected += sizeof(float) * (uint64_t)server->info.d;
    if (header->fields & ATT_WIRE_VALUE)
        expected += sizeof(float) * (uint64_t)server->info.d_v;
    if (header->type != ATT_REQ_BATCH && header->length != expected)
        return "a request's length does not fit its fields";
    return NULL;
}

/* Walks through the requests of a batch of which all bytes are there; makes the first that is not done the one given. */
static const char *check_batch(struct att_server *server, const struct att_session *session,
                               const struct att_wire_request *batch)
{
    const unsigned char *at = server->request + sizeof *batch, *end = server->request + batch->length;
    uint64_t slots = 0, all = 0;
    if (batch->index == 0 || batch->index > ATT_BATCH_REQUESTS)
        return "a batch has no requests, or too many";
    for (uint32_t i = 0; i < batch->index; i++) {
        struct att_wire_request header;
        if ((size_t)(end - at) < sizeof header)
            return "a batch is shorter than its requests";
        memcpy(&header, at, sizeof header);
        const char *wrong = check_request(server, session, &header);
        if (wrong)
            return wrong;
        if (!att_request_rule(header.type)->batch)
            return "a batch holds a request that may not stand in one";
        if (header.length > (size_t)(end - at))
            return "a batch is shorter than its requests";
        if (i == session->done)
            server->current_at = at;
        all += att_slots_wanted(server, header.type);
        slots += i < session->done ? 0 : att_slots_wanted(server, header.type);
        at += header.length;
    }
    if (at != end)
        return "a batch is longer than its requests";
    if (all > server->largest_batch_reply_slots)
        return "a batch wants more replies than its ring may hold";
    if (session->done >= batch->index)
        return "a batch was changed while it waited";
    server->current_reserved = slots;
    server->current_left = batch->index - session->done;
    return NULL;
}

/* Copies the message that peek has found and checks it. Returns what is wrong, or NULL. */
static const char *session_copy(struct att_server *server, struct att_session *session)
{
    const struct att_wire_request *header = (const void *)server->request; /* malloc has aligned it */
    att_consumer_read_first(&session->requests, server->request);          /* the buffer is never smaller */
    uint64_t largest = header->type == ATT_REQ_BATCH ? server->largest_batch : server->largest_request;
    if (header->length < sizeof *header || header->length > largest)
        return "a request has an impossible length";
    /* the length is private now; the copy never reads it again from the ring */
    if (header->length > ATT_SLOT_DATA &&
        !att_consumer_read(&session->requests, 1, server->request + ATT_SLOT_DATA, header->length - ATT_SLOT_DATA))
        return slot_wrong;
    const char *wrong = check_request(server, session, header);
    if (wrong)
        return wrong;
    server->current_slots = att_slots_for(header->length);
    if (header->type == ATT_REQ_BATCH)
        return check_batch(server, session, header);
    if (session->done > 0)
        return "a batch was changed while it waited";
    server->current_at = server->request;
    server->current_left = 1;
    server->current_reserved = att_slots_wanted(server, header->type);
    return NULL;
}

/* ---- Giving -------------------------------------------------------------------------------------------- */

static uint16_t type_at(const unsigned char *request)
{
    uint16_t type;
    memcpy(&type, request + offsetof(struct att_wire_request, type), sizeof type);
    return type;
}

/* Whether there is room for the replies to the message in front; if only the client can make it, it is starved. */
static bool room_for_replies(struct att_server *server, struct att_session *session)
{
    if (!att_session_admits(server, session))
        return false;
    if (att_session_fits(session, session->wanted))
        return true;
    if (!session->broken)
        att_session_set_starved(server, session, session->wanted);
    return false;
}

/* Whether this session has a request to present; it's copied then. May end the session, but not
 * silently: then *ret_ended. */
static bool session_fetch(struct att_server *server, struct att_session *session, bool *ret_ended)
{
    const char *reason = session->broken;
    bool ready = false;
    *ret_ended = false;
    if (!reason && !session->parked && !session->waits) {
        enum att_ring_state state = att_consumer_peek(&session->requests);
        if (state == ATT_RING_EMPTY)
            return false;
        if (state == ATT_RING_BROKEN)
            reason = slot_wrong;
        else if ((ready = room_for_replies(server, session)))
            reason = session_copy(server, session);
        if (ready && !reason && server->current_reserved > session->wanted) {
            session->wanted = server->current_reserved; /* a batch, that wants more than any one request */
            ready = room_for_replies(server, session);
        }
        if (!reason)
            reason = session->broken;
    }
    if (reason) {
        att_session_end(server, session, reason);
        *ret_ended = true;
        return false;
    }
    if (ready)
        att_session_set_starved(server, session, 0);
    return ready;
}

static void current_request(const struct att_server *server, struct att_server_request *ret_request)
{
    const float *payload = (const void *)(server->current_at + sizeof ret_request->header);
    ret_request->session = server->current->id;
    memcpy(&ret_request->header, server->current_at, sizeof ret_request->header);
    ret_request->key = ret_request->value = NULL;
    ret_request->more = server->current_left > 1;
    ret_request->place = server->current->place;
    ret_request->owner = server->current->owner;
    if (ret_request->header.fields & ATT_WIRE_KEY) {
        ret_request->key = payload;
        payload += server->info.d;
    }
    if (ret_request->header.fields & ATT_WIRE_VALUE)
        ret_request->value = payload;
}

bool att_server_next(struct att_server *server, struct att_server_request *ret_request)
{
    for (uint32_t tried = 0; !server->current;) {
        bool ended = false;
        if (tried >= server->active_count) {
            if (!att_session_probe(server, QUIET_PROBES))
                break;
            tried = 0;
        }
        if (server->turn >= server->active_count) {
            server->turn = 0;
            att_session_probe(server, QUIET_PROBES); /* also while the active ones have something all the time */
        }
        struct att_session *session = server->open[server->turn];
        if (server->burst < BURST_MOST && session_fetch(server, session, &ended)) {
            session->looks = 0;
            server->burst++;
            server->current = session;
            session->reserved += server->current_reserved;
        } else if (server->burst >= BURST_MOST || !ended) {
            /* a full burst has not been looked at: it's the last one tried, not the first */
            bool full = server->burst >= BURST_MOST;
            tried += !full;
            server->burst = 0;
            if (!full && ++session->looks > QUIET_LOOKS && server->active_count > ACTIVE_LEAST)
                att_session_quiet(server, session); /* another one has come into its place */
            else
                server->turn++;
        } else {
            server->burst = 0; /* the last session has moved into the ended one's place: look there again */
        }
    }
    if (!server->current)
        return false;
    current_request(server, ret_request);
    return true;
}

bool att_server_ahead(const struct att_server *server, struct att_wire_request *ret_hint)
{
    const struct att_session *session = server->current;
    if (!session)
        return false;
    uint64_t words[ATT_SLOT_WORDS];
    const size_t bytes = offsetof(struct att_wire_request, tag);
    if (server->current_left > 1) {
        uint32_t length;
        memcpy(&length, server->current_at, sizeof length);
        memcpy(ret_hint, server->current_at + length, bytes);
        return true;
    }
    const struct att_consumer *requests = &session->requests;
    const uint64_t position = requests->tail + server->current_slots;
    const struct att_slot *slot = &requests->slots[position & requests->mask];
    /* relaxed: it may be torn or a lie; nobody believes it */
    if (atomic_load_explicit(&slot->seq, memory_order_relaxed) != position + 1)
        return false;
    for (size_t w = 0; w < bytes / sizeof words[0]; w++)
        words[w] = atomic_load_explicit(&slot->words[w], memory_order_relaxed);
    memcpy(ret_hint, words, bytes);
    return true;
}

/* The session's turn is over in the middle of its message, which stays in the ring. */
static void leave(struct att_server *server)
{
    server->current->reserved -= server->current_reserved;
    server->current = NULL;
}

/* One request of a batch is dealt with, and it was not the last. */
static void take_one(struct att_server *server, struct att_session *session)
{
    uint32_t length;
    memcpy(&length, server->current_at, sizeof length);
    server->current_reserved -= att_slots_wanted(server, type_at(server->current_at));
    server->current_at += length;
    server->current_left--;
    session->done++;
    if (session->computing > 0 && !att_request_reads(type_at(server->current_at))) {
        session->waits = true;
        leave(server);
    }
}

static void take_message(struct att_server *server, struct att_session *session)
{
    session->done = 0;
    session->wanted = server->largest_reply_slots;
    att_consumer_take(&session->requests, server->current_slots, false);
    if (att_consumer_peek(&session->requests) != ATT_RING_EMPTY) {
        att_consumer_ahead(&session->requests, !session->streaming);
        session->streaming = true;
    } else {
        session->streaming = false;
        /* A lone request's reply does not wait for a look at the other sessions. att_server_flush does the rest. */
        if (session->dirty)
            att_producer_publish(&session->replies);
        att_producer_own(&session->replies); /* what the next one would wait for is its line, most of all */
    }
    server->current = NULL;
}

void att_server_take(struct att_server *server)
{
    struct att_session *session = server->current;
    if (!session)
        return; /* it has ended meanwhile */
    if (server->current_left > 1)
        take_one(server, session);
    else
        take_message(server, session);
}

void att_server_compute(struct att_server *server)
{
    if (server->current)
        server->current->computing++;
}

void att_server_computed(struct att_server *server, uint64_t id)
{
    struct att_session *session = att_session_find(server, id);
    if (session && --session->computing == 0)
        session->waits = false;
}

/* Small answers are bounded by the reply room that is reserved for them. */
static bool is_too_much(struct att_server *server, const struct att_session *session, size_t bytes)
{
    if (session->held > 0 && session->held + bytes > HELD_MOST)
        return true;
    if (bytes <= HELD_SMALL || server->held == 0 || server->held + bytes <= server->held_most)
        return false;
    server->held_back = true;
    return true;
}

bool att_server_hold(struct att_server *server, size_t bytes)
{
    struct att_session *session = server->current; /* NULL: it has ended meanwhile */
    if (session && session->done == 0 && is_too_much(server, session, bytes))
        return false;
    server->held += bytes > HELD_SMALL ? bytes : 0;
    if (session)
        session->held += bytes;
    return true;
}

void att_server_release(struct att_server *server, uint64_t id, size_t bytes)
{
    struct att_session *session = att_session_find(server, id);
    server->held -= bytes > HELD_SMALL ? bytes : 0;
    if (server->held_back)
        att_server_unpark(server);
    server->held_back = false;
    if (!session)
        return;
    session->held -= bytes;
    session->parked = false;
}

void att_server_park(struct att_server *server)
{
    if (!server->current)
        return;
    server->current->parked = true;
    leave(server);
}

void att_server_unpark(struct att_server *server)
{
    for (uint32_t i = 0; i < server->open_count; i++)
        server->open[i]->parked = false;
}
