/* Sessions: their beginning and end, reply room, and replies. Requests are in server_request.c.
 *
 * Reply room. Let `reserved` be the slots promised to requests given or taken. Two rules hold at
 * all times:
 *   (1) reserved <= free slots of the reply ring (by the daemon's own copy of the client's
 *     cursor), and
 *   (2) reserved + one largest reply <= 7/8 of the ring.
 * By (1) a final reply always fits, so the daemon never waits for a client. By (2) a client that
 * reads all its replies always makes room for one more chunk, however many chunked requests were
 * taken (it may keep at most 1/8 of the ring untold): no deadlock between chunks. A request is
 * presented only if both still hold after reserving the largest reply; a batch, whose replies may need more, but never
 * more than largest_batch_reply_slots (which is within both rules when nothing is reserved), only if both hold after
 * reserving all of them. When (1) is what fails, the client has unread replies: it is `starved`, it is asked to tell its
 * cursor at once (wants_room), and evicted if the cursor stands still for STARVED_NS. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server_internal.h"

/* A mistake of the service, not of a client: going on would corrupt a ring. */
static _Noreturn void server_bug(const char *what)
{
    fprintf(stderr, "attnd: bug: %s\n", what);
    abort();
}

static uint64_t slots_wanted(const struct att_server *server, uint32_t type)
{
    switch (type) {
    case ATT_REQ_ROW:
        return att_slots_for(sizeof(struct att_wire_reply) + sizeof(double) * (uint64_t)server->info.d_v);
    case ATT_REQ_STAT:
        return att_slots_for(sizeof(struct att_wire_reply) + sizeof(struct att_stat));
    case ATT_REQ_COLUMN:
    case ATT_REQ_ALL:
        return server->largest_reply_slots;
    case ATT_REQ_READS:
    case ATT_REQ_REGIONS:
        return 0;
    default:
        return att_slots_for(sizeof(struct att_wire_reply));
    }
}

void att_session_measure(struct att_server *server)
{
    for (uint32_t type = 0; type < ATT_REQUEST_TYPES; type++)
        server->slots_wanted[type] = (uint32_t)slots_wanted(server, type);
}

/* ---- Opening and ending -------------------------------------------------------------------------------- */

static void session_place(struct att_server *server, struct att_session *session, uint32_t index)
{
    server->open[index] = session;
    session->open_index = index;
}

/* Changes places with the first of the quiet ones, which becomes the last of the active. */
static void session_activate(struct att_server *server, struct att_session *session)
{
    session->looks = 0;
    if (session->open_index < server->active_count)
        return;
    session_place(server, server->open[server->active_count], session->open_index);
    session_place(server, session, server->active_count++);
}

/* Changes places with the last of the active ones; the turn comes to that one then. */
void att_session_quiet(struct att_server *server, struct att_session *session)
{
    uint32_t last = --server->active_count;
    session_place(server, server->open[last], session->open_index);
    session_place(server, session, last);
}

bool att_session_probe(struct att_server *server, uint32_t most)
{
    bool found = false;
    uint32_t quiet = server->open_count - server->active_count;
    for (uint32_t i = 0; i < most && i < quiet; i++) {
        if (server->probe >= server->open_count - server->active_count)
            server->probe = 0;
        struct att_session *session = server->open[server->active_count + server->probe++];
        if (att_session_ready(server, session)) {
            session_activate(server, session);
            found = true;
        }
        if (server->open_count == server->active_count)
            break;
    }
    return found;
}

enum att_status att_session_open(struct att_server *server, int fd, pid_t pid, uid_t uid,
                                 struct att_session **ret_session, int *ret_channel_fd, struct att_error *error)
{
    struct att_session *session = calloc(1, sizeof *session);
    if (!session)
        return att_fail(error, ATT_ENOMEM, "no memory for a session");
    uint64_t serial = ++server->serial;
    /* an odd factor: different for each of 2^32 sessions, and never 0, which is what fresh memory holds */
    session->generation = (server->generation_base + (uint32_t)serial) * UINT32_C(0x9e3779b1);
    if (session->generation == 0)
        session->generation = (server->generation_base + (uint32_t)++server->serial) * UINT32_C(0x9e3779b1);
    enum att_status status =
        att_channel_create(&server->geometry, session->generation, &session->channel, ret_channel_fd, error);
    if (status != ATT_OK) {
        free(session);
        return status;
    }
    struct att_control *control = session->channel.control;
    att_consumer_init(&session->requests, session->channel.request_slots, server->geometry.request_slots,
                      &control->request_tail, 0);
    att_producer_init(&session->replies, session->channel.reply_slots, server->geometry.reply_slots,
                      &control->reply_tail, 0);
    uint16_t slot = server->free_slots[server->free_first];
    server->free_first = (server->free_first + 1) % server->max_clients;
    server->free_count--;
    session->id = serial << SESSION_SLOT_BITS | slot;
    session->fd = fd;
    session->pid = pid;
    session->uid = uid;
    session->owner = att_user_owns(uid);
    session->place = ATT_NO_PLACE;
    session->open_index = server->open_count;
    session->wanted = server->largest_reply_slots;
    server->table[slot] = session;
    atomic_store_explicit(&server->ids[slot], session->id, memory_order_relaxed);
    server->open[server->open_count++] = session;
    session_activate(server, session);
    *ret_session = session;
    return ATT_OK;
}

void att_session_release(struct att_session *session)
{
    att_channel_release(&session->channel);
    close(session->fd); /* leaves the epoll set with it */
    free(session);
}

void att_session_set_starved(struct att_server *server, struct att_session *session, uint64_t slots)
{
    const bool starved = slots > 0;
    if (starved && (!session->starved || slots < session->starved_for))
        session->starved_for = slots;
    if (session->starved == starved)
        return;
    session->starved = starved;
    if (starved) {
        server->starved_count++;
        session->starved_since = att_now_ns();
        session->starved_tail = session->replies.tail;
    } else {
        server->starved_count--;
    }
    /* relaxed: before it sleeps the service thread makes a full fence and looks again
     * (server_wait.c); partner: client_told in client_wait.c */
    atomic_store_explicit(&session->channel.control->wants_room, starved, memory_order_relaxed);
}

/* Clients must not be able to fill the log, nor to make the service wait for whoever reads it: so many lines a second. */
enum { SAID_MOST = 100 };

static void say_why(struct att_server *server, const struct att_session *session, const char *reason)
{
    const uint64_t now = att_now_ns();
    if (now - server->said_ns > UINT64_C(1000000000)) {
        if (server->unsaid > 0)
            fprintf(stderr, "attnd: %u more sessions ended meanwhile\n", server->unsaid);
        server->said_ns = now;
        server->said = server->unsaid = 0;
    }
    if (server->said == SAID_MOST) {
        server->unsaid++;
        return;
    }
    server->said++;
    fprintf(stderr, "attnd: client with pid %ld, uid %lu: session ended: %s\n", (long)session->pid,
            (unsigned long)session->uid, reason);
}

void att_session_end(struct att_server *server, struct att_session *session, const char *reason)
{
    uint64_t id = session->id;
    uint16_t slot = (uint16_t)(id & ((1u << SESSION_SLOT_BITS) - 1));
    if (reason)
        say_why(server, session, reason);
    att_session_set_starved(server, session, 0);
    if (server->current == session)
        server->current = NULL;
    if (session->dirty) {
        uint32_t i = 0;
        while (server->dirty[i] != session)
            i++;
        server->dirty[i] = server->dirty[--server->dirty_count];
    }
    if (session->open_index < server->active_count)
        att_session_quiet(server, session);
    session_place(server, server->open[--server->open_count], session->open_index);
    server->table[slot] = NULL;
    atomic_store_explicit(&server->ids[slot], 0, memory_order_relaxed);
    server->free_slots[(server->free_first + server->free_count++) % server->max_clients] = slot;
    att_session_release(session);
    if (server->on_end)
        server->on_end(server->context, id);
}

/* ---- Reply room ---------------------------------------------------------------------------------------- */

bool att_session_fits_now(struct att_session *session, uint64_t slots)
{
    if (!att_producer_refresh(&session->replies)) {
        session->broken = "its reply cursor is impossible";
        return false;
    }
    return att_producer_room(&session->replies) >= session->reserved + slots;
}

bool att_session_ready(struct att_server *server, struct att_session *session)
{
    if (session->broken)
        return true;
    if (session->starved && att_session_fits(session, session->starved_for)) {
        att_session_set_starved(server, session, 0);
        return true; /* a chunk may have waited for it */
    }
    if (session->broken)
        return true;
    return !server->retired && !session->parked && !session->waits && !session->starved &&
           att_consumer_peek(&session->requests) != ATT_RING_EMPTY && att_session_admits(server, session);
}

void att_session_check_starved(struct att_server *server, struct att_session *session, uint64_t now)
{
    if (!session->starved)
        return;
    if (!att_producer_refresh(&session->replies)) {
        att_session_end(server, session, "its reply cursor is impossible");
    } else if (session->replies.tail != session->starved_tail) {
        session->starved_tail = session->replies.tail;
        session->starved_since = now;
    } else if (now - session->starved_since > STARVED_NS) {
        att_session_end(server, session, "it has read no reply for 10 s while more were waiting");
    }
}

/* ---- Replies ------------------------------------------------------------------------------------------- */

/* Ends the client's sleep if it said that it sleeps. The caller has published and made a full fence. */
static void session_wake(struct att_session *session)
{
    struct att_control *control = session->channel.control;
    /* relaxed: after the caller's full fence; partner: the fence in client_sleep (client_wait.c) */
    uint32_t ticket = atomic_load_explicit(&control->client_ticket, memory_order_relaxed);
    if (ticket % 2 == 0 || ticket == session->woken_ticket)
        return;
    session->woken_ticket = ticket; /* one wake for each sleep */
    /* release: a client that finds the bell changed sees the replies; partner: its acquire load in client_sleep */
    atomic_fetch_add_explicit(&control->bell, 1, memory_order_release);
    att_futex_wake(&control->bell);
}

void att_server_flush(struct att_server *server)
{
    uint32_t count = server->dirty_count;
    if (count == 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        att_producer_publish(&server->dirty[i]->replies);
    /* full fence: the replies are published before the tickets are read; partner: the fence in client_sleep */
    atomic_thread_fence(memory_order_seq_cst);
    for (uint32_t i = 0; i < count; i++) {
        server->dirty[i]->dirty = false;
        session_wake(server->dirty[i]);
    }
    server->dirty_count = 0;
}

const _Atomic uint64_t *att_server_id_of(const struct att_server *server, uint64_t session)
{
    return &server->ids[session & ((1u << SESSION_SLOT_BITS) - 1)];
}

bool att_server_is_open(const struct att_server *server, uint64_t session)
{
    return att_session_find(server, session) != NULL;
}

bool att_server_has_room(struct att_server *server, uint64_t id)
{
    struct att_session *session = att_session_find(server, id);
    if (!session || session->broken)
        return false;
    if (att_session_fits(session, server->largest_reply_slots))
        return true;
    if (!session->broken)
        att_session_set_starved(server, session, server->largest_reply_slots);
    return false;
}

/* The payload bytes that go out with a reply: an error's text is cut to the limit, and left out
 * when only the reservation is there. Also how much of the reservation ends, in *ret_release. */
static size_t reply_payload(const struct att_server *server, const struct att_session *session,
                            const struct att_wire_reply *reply, size_t bytes, uint64_t *ret_release)
{
    if (reply->type >= ATT_REQUEST_TYPES)
        server_bug("a reply of no type");
    uint64_t promised = att_slots_wanted(server, reply->type);
    uint64_t room = att_producer_room(&session->replies);
    bool more = reply->flags & ATT_WIRE_MORE;
    if (session->reserved < promised)
        server_bug("a reply without a taken request, or of another type");
    *ret_release = more ? 0 : promised;
    if (reply->status != ATT_OK && reply->status != ATT_EMPTY) {
        if (bytes > ATT_WIRE_TEXT_BYTES)
            bytes = ATT_WIRE_TEXT_BYTES;
        if (att_slots_for(sizeof *reply + bytes) > promised + (room - session->reserved))
            bytes = 0;
        return bytes;
    }
    if (att_slots_for(sizeof *reply + bytes) > promised)
        server_bug("a reply's payload is larger than its type allows");
    if (more && room < session->reserved + att_slots_for(sizeof *reply + bytes))
        server_bug("a chunk without room: att_server_has_room comes first");
    return bytes;
}

void att_server_reply(struct att_server *server, uint64_t id, struct att_wire_reply *reply, const void *payload,
                      size_t payload_bytes)
{
    struct att_session *session = att_session_find(server, id);
    if (!session || reply->type == ATT_REQ_READS || reply->type == ATT_REQ_REGIONS)
        return;
    uint64_t release;
    size_t bytes = reply_payload(server, session, reply, payload_bytes, &release);
    reply->length = (uint32_t)(sizeof *reply + bytes);
    reply->generation = session->generation;
    if (bytes > 0) {
        const struct att_part parts[] = {{reply, sizeof *reply}, {payload, bytes}};
        att_producer_put(&session->replies, parts, 2);
    } else {
        uint64_t words[ATT_SLOT_WORDS];
        att_wire_reply_words(reply, words);
        att_producer_put_slot(&session->replies, words);
    }
    session->reserved -= release;
    if (!session->dirty) {
        session->dirty = true;
        server->dirty[server->dirty_count++] = session;
    }
    if (session->replies.held >= ATT_BATCH) {
        att_producer_publish(&session->replies);
        /* full fence: as in att_server_flush */
        atomic_thread_fence(memory_order_seq_cst);
        session_wake(session);
    }
}

void att_server_set_lsn(struct att_server *server, uint64_t lsn)
{
    /* release: the update is in the region before its LSN is told; partner: the acquire load in client_direct.c */
    atomic_store_explicit(&server->page->lsn, lsn, memory_order_release);
}

void att_server_set_durable(struct att_server *server, uint64_t lsn)
{
    /* release, so that a client that sees it sees what was written before; partner: the acquire in client_session.c */
    atomic_store_explicit(&server->page->durable_lsn, lsn, memory_order_release);
}

void att_server_end(struct att_server *server, uint64_t id, const char *reason)
{
    struct att_session *session = att_session_find(server, id);
    if (!session)
        return;
    session->broken = reason;
    session_activate(server, session); /* so that it is looked at soon */
}
