/* How a client waits, and how it wakes the service.
 *
 * Sleeping: read the bell, make the own ticket odd (a new number for each sleep), full fence, look
 * at the reply ring, and only if it is empty sleep on the bell while it is unchanged. The service
 * publishes, makes a full fence, reads the ticket, and if it is odd and new changes the bell and
 * wakes. Of the two orders of the fences, either we see the reply or the service sees the ticket;
 * a change of the bell after we read it ends the sleep or keeps it from beginning. A service that
 * was killed rings no bell: each sleep is a slice of SLICE_NS at most, with a look at the socket
 * after it.
 *
 * Waking the service: see server_wait.c. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "client_internal.h"

void att_client_hang_up(struct att_client *client)
{
    if (client->closed)
        return;
    client->closed = true;
    att_fail(
        &client->gone, ATT_ECLOSED,
        "the daemon at %s has gone or ended the session (its log says why); what was in flight may or may not have "
        "taken effect",
        client->socket);
}

/* One doorbell, if the service sleeps. The caller has made a full fence after what the service should see. */
static void client_ring(struct att_client *client)
{
    /* relaxed: after the caller's full fence; partner: the fence in sleep_until (server_wait.c) */
    uint32_t ticket = atomic_load_explicit(&client->page->service_ticket, memory_order_relaxed);
    if (ticket % 2 == 0 || ticket == client->rung_ticket)
        return;
    client->rung_ticket = ticket;
    const unsigned char bell = (unsigned char)sched_getcpu(); /* see server_place.c */
    ssize_t sent;
    do
        sent = send(client->fd, &bell, sizeof bell, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        att_client_hang_up(client);
}

void att_client_bell(struct att_client *client)
{
    /* full fence: the requests are published before the service's ticket is read */
    atomic_thread_fence(memory_order_seq_cst);
    client_ring(client);
}

void att_push(struct att_client *client)
{
    if (client->resend && att_session_sends_again(client))
        att_session_pump(client);
    if (client->attached && att_producer_publish(&client->requests))
        att_client_bell(client);
}

void att_client_take(struct att_client *client, uint64_t slots)
{
    _Atomic uint32_t *wants_room = &client->channel.control->wants_room;
    /* relaxed: a hint; the load after the fence is the one that counts */
    bool eager = atomic_load_explicit(wants_room, memory_order_relaxed) != 0;
    if (!att_consumer_take(&client->replies, slots, eager))
        return;
    /* full fence: our cursor is told before wants_room and the ticket are read; partner: the fence in sleep_until */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(wants_room, memory_order_relaxed) != 0)
        client_ring(client);
}

void att_client_look(struct att_client *client, uint64_t now)
{
    if (client->closed || now - client->looked_ns < LOOK_NS)
        return;
    client->looked_ns = now;
    char byte;
    ssize_t bytes;
    int taken = 0;
    do /* until there is nothing more: a hang-up comes behind the regions of a daemon that has gone */
        bytes = recv(client->fd, &byte, sizeof byte, MSG_DONTWAIT | MSG_PEEK);
    while (bytes > 0 && taken++ < PACKETS_A_LOOK && att_direct_receive(client));
    if (bytes == 0 || (bytes < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        att_client_hang_up(client);
    else if (bytes > 0)
        att_client_broken(client, "it sent something after the handshake");
}

static bool reply_waits(const struct att_client *client)
{
    return client->attached && att_consumer_peek(&client->replies) != ATT_RING_EMPTY;
}

/* A look takes the slot's line from the service, which has fetched it to write there (server_request.c): too early, it costs
 * the service the way of the line again. So before the first look comes a pause, as long as four replies of five take: a
 * little longer after each that was not there yet, a little shorter after each that was. What comes much later says nothing
 * about that. */
static void learn_hold(struct att_client *client, int looks)
{
    if (looks == 0 && client->hold > 0)
        client->hold--;
    else if (looks > 0 && looks < HOLD_LOOKS && client->hold < HOLD_MOST * HOLD_PARTS)
        client->hold += 4;
}

bool att_client_quick(struct att_client *client)
{
    att_push(client);
    const int looks = client->spin.mode == ATT_WAIT_BLOCK ? 1 : ATT_QUICK_LOOKS;
    for (uint32_t i = 0; i < client->hold / HOLD_PARTS; i++)
        att_pause();
    for (int i = 0; i < looks; i++) {
        if (reply_waits(client)) {
            att_spin_quick(&client->spin);
            learn_hold(client, i);
            return true;
        }
        att_pause();
    }
    return false;
}

/* Whether the service woke up on the processor that we run on: then it answers only if we let it. Asleep we would be woken
 * where it runs, and so follow it when it moves away (server_place.c). */
static bool shares_processor(const struct att_client *client)
{
    /* relaxed: a hint */
    return client->attached &&
           atomic_load_explicit(&client->page->service_processor, memory_order_relaxed) == (uint32_t)sched_getcpu();
}

/* True: a reply, the deadline, or a hang-up. */
static bool client_spin(struct att_client *client, uint64_t start, uint64_t deadline)
{
    uint64_t budget = att_spin_budget(&client->spin);
    for (uint64_t now = start; now - start < budget;) {
        for (int i = 0; i < ATT_SPIN_LOOKS; i++) {
            if (reply_waits(client))
                return true;
            att_pause();
        }
        now = att_now_ns();
        att_client_look(client, now);
        if (now >= deadline || client->closed)
            return true;
        if (now - start >= ATT_YIELD_NS || shares_processor(client))
            sched_yield();
    }
    return false;
}

static void client_sleep(struct att_client *client, uint64_t timeout_ns)
{
    struct att_control *control = client->channel.control;
    /* acquire: partner: the release in session_wake; read before the ticket is odd, so that any
     * wake for this sleep changes it */
    uint32_t bell = atomic_load_explicit(&control->bell, memory_order_acquire);
    client->ticket += 1;
    atomic_store_explicit(&control->client_ticket, client->ticket, memory_order_relaxed);
    /* full fence: the ticket is odd before the ring is looked at; partner: the fence in att_server_flush */
    atomic_thread_fence(memory_order_seq_cst);
    if (!reply_waits(client))
        att_futex_wait(&control->bell, bell, timeout_ns);
    client->ticket += 1;
    atomic_store_explicit(&control->client_ticket, client->ticket, memory_order_relaxed);
}

void att_client_await(struct att_client *client, uint64_t start, uint64_t deadline)
{
    att_push(client);
    bool caught = client->closed || client_spin(client, start, deadline);
    if (!caught) {
        for (uint64_t now = att_now_ns(); now < deadline && !client->closed && !reply_waits(client);) {
            uint64_t left = deadline - now;
            client_sleep(client, left < SLICE_NS ? left : SLICE_NS);
            now = att_now_ns();
            if (!reply_waits(client))
                att_client_look(client, now);
        }
    }
    if (client->spin.mode == ATT_WAIT_ADAPTIVE)
        att_spin_learn(&client->spin, caught, att_now_ns() - start);
}
