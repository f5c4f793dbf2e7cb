/* The library's half of exactly once: what a client with a session keeps, and sends again.
 *
 * Each update gets the next number of its session, and a copy of its message is kept until it is known to be on disk (the
 * status page's durable LSN covers its reply's LSN) or known to be refused. After the end of a connection the library
 * connects again with the same session, is told the newest number that the daemon knows, and sends again, in order and
 * before anything else:
 *
 *   numbers above that one, but those that were refused: the daemon has not applied them, or a crash took that back;
 *   numbers up to that one whose reply has not come: the daemon answers them from its memory.
 *
 * So what the caller was told to be done is sent again too when a crash took it back (--durability interval and off); its
 * second reply completes nothing, but has to say the same as the first. When that is not so, or the daemon knows less than
 * what it once said to be on disk, the session is at its end: ATT_LOST.
 *
 * The kept ones are the numbers [first, seq]; number n lies in entry n % ATT_SESSION_WINDOW, its message in a ring of
 * bytes, whole (what would not fit before the end begins at 0 again). `next` is the number to be sent again next; seq + 1
 * when nothing is. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "client_internal.h"

#define KEPT_BYTES     ((uint64_t)16 << 20)
#define FLUSH_AGAIN_NS UINT64_C(1000000000) /* a flush that was refused is asked for again */

struct kept {
    uint64_t at; /* in bytes, counting on */
    uint32_t bytes;
    uint32_t flight; /* that waits for its reply; NO_FLIGHT: none does */
    uint64_t lsn;    /* of its reply; 0: on disk, or refused */
    uint32_t index;
    bool done, refused;
};

struct att_resend {
    uint64_t id, fence;
    uint64_t begin; /* the newest number that the daemon knew when the client connected */
    uint64_t seq, first, next;
    uint64_t durable; /* the newest number that is known to be on disk */
    uint64_t flushed; /* the newest number when the library last asked for a flush of its own */
    uint64_t flushed_ns;
    uint64_t ghosts; /* sent again, though completed before, and not answered yet */
    uint64_t told;   /* the newest number that the daemon knew at the last welcome */
    bool settled;    /* its beginning is on disk, and att_connect has returned */
    bool must_exist;
    bool over; /* for good: client->gone says why */
    struct kept *kept;
    unsigned char *bytes;
    uint64_t head, tail; /* of the ring of bytes */
};

/* ---- Beginning and end --------------------------------------------------------------------------------- */

enum att_status att_session_create(struct att_client *client, uint64_t id, bool resume, struct att_error *error)
{
    struct att_resend *self = calloc(1, sizeof *self);
    client->resend = self;
    if (self) {
        self->kept = calloc(ATT_SESSION_WINDOW, sizeof *self->kept);
        self->bytes = malloc(KEPT_BYTES);
    }
    if (!self || !self->kept || !self->bytes)
        return att_fail(error, ATT_ENOMEM, "no memory for a session");
    self->must_exist = resume;
    self->first = self->next = 1;
    self->id = id;
    while (self->id == 0 || self->id == ATT_SESSION_ANY)
        if (getrandom(&self->id, sizeof self->id, 0) != sizeof self->id)
            return att_fail(error, ATT_EIO, "getrandom: no random numbers for a session");
    return ATT_OK;
}

void att_session_free(struct att_client *client)
{
    if (!client->resend)
        return;
    free(client->resend->kept);
    free(client->resend->bytes);
    free(client->resend);
    client->resend = NULL;
}

void att_session_hello(struct att_client *client, struct att_hello *hello)
{
    struct att_resend *self = client->resend;
    if (!self)
        return;
    hello->wants |= ATT_HELLO_SESSION | (self->must_exist || self->durable > 0 ? ATT_HELLO_RESUME : 0);
    hello->session = self->id;
    hello->fence = self->fence == 0 ? 0 : ++self->fence; /* an attempt that failed may have been heard */
}

static struct kept *kept_at(const struct att_resend *self, uint64_t seq)
{
    return &self->kept[seq % ATT_SESSION_WINDOW];
}

enum att_status att_session_welcomed(struct att_client *client, const struct att_welcome *welcome, bool restarted,
                                     struct att_error *error)
{
    struct att_resend *self = client->resend;
    if (!self)
        return ATT_OK;
    bool fits = welcome->fence != 0 && (self->fence == 0 || welcome->fence == self->fence);
    if (!self->settled) {
        self->begin = self->seq = welcome->session_seq;
        self->first = self->next = self->seq + 1;
    }
    if (!fits || welcome->session_seq > self->seq)
        return att_fail(error, ATT_EPROTOCOL, "the daemon at %s told an impossible session", client->socket);
    if (welcome->session_seq < self->durable)
        return att_fail(error, ATT_LOST,
                        "the daemon at %s has lost updates %llu to %llu of the session, which were on disk: was an "
                        "older state put in its place?",
                        client->socket, (unsigned long long)welcome->session_seq + 1,
                        (unsigned long long)self->durable);
    self->fence = welcome->fence;
    self->told = welcome->session_seq;
    self->flushed = 0;
    self->ghosts = 0;
    self->next = self->first;
    for (uint64_t seq = self->first; restarted && seq <= self->seq; seq++)
        if (kept_at(self, seq)->done &&
            !kept_at(self, seq)->refused) /* recovered, so on disk; or its LSN was taken back */
            kept_at(self, seq)->lsn = seq <= self->told ? 0 : UINT64_MAX;
    return ATT_OK;
}

void att_session_settled(struct att_client *client)
{
    client->resend->settled = true;
    client->resend->durable = client->resend->begin;
}

bool att_session_ends(struct att_client *client, enum att_status status)
{
    if (!client->resend)
        return false;
    client->resend->over =
        status == ATT_EEXPIRED || status == ATT_EFENCED || status == ATT_LOST || status == ATT_ESHAPE;
    return client->resend->over;
}

bool att_session_goes_on(const struct att_client *client)
{
    return client->resend && !client->resend->over && !client->broken && !client->stay_closed;
}

bool att_session_holds(const struct att_client *client, const struct att_flight *flight)
{
    return flight->seq != 0 && att_session_goes_on(client);
}

/* ---- Sending again ------------------------------------------------------------------------------------- */

bool att_session_sends_again(const struct att_client *client)
{
    return client->resend && client->resend->next <= client->resend->seq;
}

bool att_session_unsettled(const struct att_client *client)
{
    return att_session_sends_again(client) || (client->resend && client->resend->ghosts > 0);
}

/* Whether this one has to go again. */
static bool is_due(const struct att_resend *self, uint64_t seq)
{
    const struct kept *kept = kept_at(self, seq);
    return seq <= self->told ? !kept->done : !kept->refused;
}

/* False: there is no room now. */
static bool send_again(struct att_client *client, uint64_t seq)
{
    struct att_resend *self = client->resend;
    struct kept *kept = kept_at(self, seq);
    unsigned char *message = self->bytes + kept->at % KEPT_BYTES;
    struct att_wire_request header;
    if (att_producer_room(&client->requests) < att_slots_for(kept->bytes) &&
        (!att_producer_refresh(&client->requests) || att_producer_room(&client->requests) < att_slots_for(kept->bytes)))
        return false;
    memcpy(&header, message, sizeof header);
    if (kept->flight == NO_FLIGHT)
        kept->flight = att_client_ghost(client, header.type, seq);
    if (kept->flight == NO_FLIGHT)
        return false;
    header.generation = client->generation;
    header.tag = (uint64_t)client->flights[kept->flight].round << 32 | kept->flight;
    memcpy(message, &header, sizeof header);
    const struct att_part part = {message, kept->bytes};
    att_producer_put(&client->requests, &part, 1);
    self->ghosts += kept->done;
    return true;
}

void att_session_pump(struct att_client *client)
{
    struct att_resend *self = client->resend;
    uint32_t sent = 0;
    while (client->attached && !client->closed && self->next <= self->seq) {
        if (is_due(self, self->next) && !send_again(client, self->next))
            break;
        self->next++;
        if (++sent % ATT_BATCH == 0 && att_producer_publish(&client->requests))
            att_client_bell(client);
    }
}

/* ---- Keeping ------------------------------------------------------------------------------------------- */

/* Lets go of what is on disk. */
static void release(struct att_client *client)
{
    struct att_resend *self = client->resend;
    if (!client->attached)
        return;
    /* acquire: only the number counts; partner: the release in att_server_set_durable */
    uint64_t durable = atomic_load_explicit(&client->page->durable_lsn, memory_order_acquire);
    while (self->first < self->next && kept_at(self, self->first)->done && kept_at(self, self->first)->lsn <= durable) {
        const struct kept *kept = kept_at(self, self->first);
        if (!kept->refused)
            self->durable = self->first;
        self->head = kept->at + kept->bytes;
        self->first++;
    }
}

/* Where messages of so many bytes together would lie; false: there is no room for them. */
static bool find_room(const struct att_resend *self, uint64_t count, uint64_t bytes, uint64_t *ret_at)
{
    uint64_t at = self->tail, left = KEPT_BYTES - at % KEPT_BYTES;
    if (left < bytes)
        at += left;
    *ret_at = at;
    return self->seq - self->first + 1 + count <= ATT_SESSION_WINDOW && at + bytes - self->head <= KEPT_BYTES;
}

/* With --durability off nothing is on disk before a snapshot, and the library must not wait for the next one. */
static void ask_for_flush(struct att_client *client, bool now)
{
    struct att_resend *self = client->resend;
    const struct att_request flush = {.type = ATT_REQ_FLUSH};
    bool half = self->seq + 1 - self->first > ATT_SESSION_WINDOW / 2 || self->tail - self->head > KEPT_BYTES / 2;
    uint32_t place;
    /* Not when the connection has ended: connecting again is for who submits, who counts on this one and its ring. */
    if ((!half && !now) || client->closed)
        return;
    uint64_t time = att_now_ns();
    if (self->flushed >= self->first && time - self->flushed_ns < FLUSH_AGAIN_NS)
        return;
    if (att_client_submit(client, &flush, &place) != ATT_OK)
        return;
    self->flushed = self->seq;
    self->flushed_ns = time;
    att_client_drop(client, place);
}

/* Waits for the disk, or for a reply that makes the oldest known; the latter only helps who takes completions. */
static enum att_status make_room(struct att_client *client, uint64_t count, uint64_t bytes)
{
    struct att_resend *self = client->resend;
    uint64_t at;
    release(client);
    ask_for_flush(client, false);
    while (!find_room(self, count, bytes, &at)) {
        uint64_t now = att_now_ns();
        uint32_t other;
        uint64_t deadline = att_client_deadline(client, now);
        while ((other = att_client_collect(client)) != NO_FLIGHT)
            att_client_keep(client, other);
        release(client);
        if (find_room(self, count, bytes, &at))
            break;
        if (!kept_at(self, self->first)->done || now >= deadline || client->closed)
            return att_fail(&client->error, ATT_EBUSY,
                            "the session has %llu updates that are not on disk yet: complete some requests first",
                            (unsigned long long)(self->seq - self->first + 1));
        ask_for_flush(client, true);
        att_client_await(client, now, now + LOOK_NS < deadline ? now + LOOK_NS : deadline);
    }
    return ATT_OK;
}

enum att_status att_session_admit(struct att_client *client, const struct att_request *requests, uint32_t count)
{
    uint64_t updates = 0, bytes = 0;
    if (att_session_sends_again(client)) {
        att_push(client); /* pumps */
        if (att_session_sends_again(client))
            return att_fail(&client->error, ATT_EBUSY,
                            "the session's updates are being sent again: complete some requests first");
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!att_session_keeps(client, requests[i].type))
            continue;
        updates++;
        bytes += att_client_bytes(client, &requests[i]);
    }
    return updates > 0 ? make_room(client, updates, bytes) : ATT_OK;
}

uint64_t att_session_next(const struct att_client *client)
{
    return client->resend->seq + 1;
}

struct att_part att_session_keep(struct att_client *client, const struct att_part *parts, size_t count, uint32_t flight)
{
    struct att_resend *self = client->resend;
    uint64_t at, bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += parts[i].bytes;
    find_room(self, 1, bytes, &at);
    unsigned char *message = self->bytes + at % KEPT_BYTES;
    for (size_t i = 0, filled = 0; i < count; filled += parts[i].bytes, i++)
        memcpy(message + filled, parts[i].data, parts[i].bytes);
    self->tail = at + bytes;
    *kept_at(self, ++self->seq) = (struct kept){.at = at, .bytes = (uint32_t)bytes, .flight = flight};
    self->next = self->seq + 1;
    client->flights[flight].seq = self->seq;
    return (struct att_part){message, bytes};
}

/* ---- Replies ------------------------------------------------------------------------------------------- */

/* An update that was acknowledged could not be repeated: the end. */
static void end_lost(struct att_client *client, const struct att_flight *flight)
{
    const enum att_status status = flight->done.status;
    const char *why = status == ATT_OK ? " for the same token: other clients' updates came in between"
                      : status == ATT_ENOSPC || status == ATT_EREADONLY || status == ATT_ENOMEM
                          ? ": the daemon takes no updates now"
                          : ": other clients' updates came in between";
    client->resend->over = true;
    client->broken = client->closed = true;
    att_fail(&client->gone, ATT_LOST,
             "update %llu of the session was acknowledged, lost in a crash before it was on disk, and could not be "
             "repeated%s",
             (unsigned long long)flight->seq, why);
}

void att_session_replied(struct att_client *client, const struct att_flight *flight)
{
    struct att_resend *self = client->resend;
    struct kept *kept = kept_at(self, flight->seq);
    const struct att_completion *reply = &flight->done;
    bool refused = reply->status != ATT_OK;
    kept->flight = NO_FLIGHT;
    self->ghosts -= kept->done;
    if (reply->status == ATT_EIO)
        return; /* applied, and not on disk: after a restart it is sent again */
    if (kept->done && !kept->refused && (refused || reply->index != kept->index)) {
        end_lost(client, flight);
        return;
    }
    kept->done = true;
    kept->refused = refused;
    kept->lsn = refused ? 0 : reply->lsn;
    kept->index = reply->index;
}

void att_get_session(const struct att_client *client, struct att_session_info *ret_info)
{
    const struct att_resend *self = client->resend;
    *ret_info = (struct att_session_info){0};
    if (self)
        *ret_info = (struct att_session_info){.id = self->id, .begin = self->begin, .last = self->seq};
}
