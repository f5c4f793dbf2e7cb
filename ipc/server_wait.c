/* How the service waits.
 *
 * The service sleeps in one epoll over the listener, the sessions' sockets, pending connections
 * and a private eventfd. Before it does, it makes its ticket odd (a new odd number for each
 * sleep), makes a full fence, and looks at all rings and at wake_pending once more. A client
 * publishes, makes a full fence, and reads the ticket; when it is odd, and it has not rung for
 * that ticket, it sends one byte on its socket. Of the two orders of the fences, either the
 * service sees the request, or the client sees the ticket: so no request is left alone with a
 * sleeping service. One ring for each ticket is enough: the byte stays in the socket until the
 * service reads it, which it does only after that sleep; a byte that can't be sent because the
 * socket is full means that others are there already.
 *
 * The same with room: a client that is starved (wants_room) tells its cursor, makes a full fence,
 * reads the ticket, rings. The same with att_server_wake: it sets wake_pending, makes a full
 * fence, and reads the ticket.
 *
 * While nothing is pending or starved the sleep has no limit: an idle daemon uses no processor
 * time. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server_internal.h"

bool att_epoll_add(const struct att_server *server, int fd, uint64_t event)
{
    struct epoll_event events = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = event};
    return epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &events) == 0;
}

/* Reads doorbells; notices a hang-up. */
static void session_event(struct att_server *server, struct att_session *session, uint32_t events)
{
    if (events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) {
        att_session_end(server, session, NULL);
        return;
    }
    for (int i = 0; i < DOORBELLS_MOST; i++) {
        unsigned char bell;
        /* no control buffer: the kernel closes descriptors that come along */
        ssize_t bytes = recv(session->fd, &bell, sizeof bell, MSG_DONTWAIT | MSG_TRUNC);
        if (bytes < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (bytes != 1) {
            att_session_end(server, session, bytes > 1 ? "it sent more than a doorbell on its socket" : NULL);
            return;
        }
        att_place_doorbell(&server->place, bell, server->polled_ns);
    }
}

static void wake_event(const struct att_server *server)
{
    uint64_t count;
    ssize_t bytes = read(server->wake_fd, &count, sizeof count);
    (void)bytes; /* nonblocking; wake_pending says what matters */
}

/* One look at all sockets. Returns how many had something to say, -1 at a signal. */
static int poll_sockets(struct att_server *server, int timeout_ms)
{
    struct epoll_event events[EVENTS_MOST];
    int count = epoll_wait(server->epoll_fd, events, EVENTS_MOST, timeout_ms);
    bool interrupted = count < 0 && errno == EINTR;
    uint64_t now = att_now_ns();
    server->polled_ns = now;
    att_place_return(&server->place, now);
    for (int i = 0; i < count; i++) {
        uint64_t event = events[i].data.u64;
        struct att_session *session;
        if (event == EVENT_LISTENER)
            att_accept_clients(server, now);
        else if (event == EVENT_WAKE)
            wake_event(server);
        else if (event & EVENT_PENDING)
            att_accept_hello(server, event);
        else if ((session = att_session_find(server, event)))
            session_event(server, session, events[i].events);
    }
    if (server->pending_count > 0 || server->accept_paused_until != 0)
        att_accept_expire(server, now);
    if (server->starved_count > 0)
        for (uint32_t i = server->open_count; i-- > 0;) /* backwards: an end moves the last one here */
            att_session_check_starved(server, server->open[i], now);
    return interrupted ? -1 : count;
}

static bool has_deadlines(const struct att_server *server)
{
    return server->pending_count > 0 || server->starved_count > 0 || server->accept_paused_until != 0;
}

/* Whether there is something to return for; of the quiet sessions `quiet` are looked at. */
static bool look(struct att_server *server, uint32_t quiet)
{
    /* relaxed first, so that spinning does not take the line away from those who wake */
    if (atomic_load_explicit(&server->wake_pending, memory_order_relaxed) != 0) {
        /* acquire: what the waker did before is visible; partner: its release in att_server_wake */
        atomic_exchange_explicit(&server->wake_pending, 0, memory_order_acquire);
        return true;
    }
    if (server->current)
        return true;
    for (uint32_t i = 0; i < server->active_count; i++)
        if (att_session_ready(server, server->open[i]))
            return true;
    return att_session_probe(server, quiet);
}

static uint64_t deadline_of(uint64_t now, int timeout_ms)
{
    return timeout_ms < 0 ? UINT64_MAX : now + (uint64_t)timeout_ms * 1000000;
}

/* Looks until there is something, the budget is used up or the deadline is over; polls the sockets
 * each millisecond. True: att_server_wait is done. */
static bool spin(struct att_server *server, uint64_t start, uint64_t deadline)
{
    uint64_t budget = att_spin_budget(&server->spin);
    for (uint64_t now = start; now - start < budget;) {
        for (int i = 0; i < ATT_SPIN_LOOKS; i++) {
            if (look(server, QUIET_PROBES))
                return true;
            att_pause();
        }
        now = att_now_ns();
        if (now >= deadline)
            return true;
        if (now - server->polled_ns >= POLL_NS && poll_sockets(server, 0) != 0)
            return true;
        if (now - start >= ATT_YIELD_NS)
            sched_yield();
    }
    return false;
}

static int sleep_ms(const struct att_server *server, uint64_t now, uint64_t deadline)
{
    uint64_t limit = has_deadlines(server) ? DEADLINE_CHECK_MS : INT_MAX;
    if (deadline == UINT64_MAX)
        return has_deadlines(server) ? DEADLINE_CHECK_MS : -1;
    uint64_t left = (deadline - now + 999999) / 1000000;
    return (int)(left < limit ? left : limit);
}

static void sleep_until(struct att_server *server, uint64_t deadline)
{
    _Atomic uint32_t *cell = &server->page->service_ticket;
    for (uint64_t now = att_now_ns(); now < deadline; now = att_now_ns()) {
        /* relaxed: this thread alone writes it */
        uint32_t ticket = atomic_load_explicit(cell, memory_order_relaxed) + 1;
        atomic_store_explicit(cell, ticket, memory_order_relaxed);
        /* full fence: the ticket is odd before the rings are read; partners: client_ring
         * (client_wait.c) and att_server_wake */
        atomic_thread_fence(memory_order_seq_cst);
        bool found = look(server, UINT32_MAX);
        int count = 0;
        if (!found)
            count = epoll_wait(server->epoll_fd, &(struct epoll_event){0}, 1, sleep_ms(server, now, deadline));
        int failed = errno;
        /* relaxed: a hint */
        atomic_store_explicit(&server->page->service_processor, (uint32_t)sched_getcpu(), memory_order_relaxed);
        atomic_store_explicit(cell, ticket + 1, memory_order_relaxed);
        if (found)
            return;
        if (count < 0 && failed == EINTR)
            return;
        if (poll_sockets(server, 0) != 0 || look(server, UINT32_MAX))
            return;
    }
}

void att_server_retire(struct att_server *server)
{
    server->retired = true;
    server->current = NULL;
    att_accept_close(server);
}

/* What att_server_next does otherwise. */
static void end_broken(struct att_server *server)
{
    for (uint32_t i = server->open_count; i-- > 0;) /* backwards: an end moves the last one here */
        if (server->open[i]->broken)
            att_session_end(server, server->open[i], server->open[i]->broken);
}

void att_server_wait(struct att_server *server, int timeout_ms)
{
    att_server_flush(server);
    if (server->retired)
        end_broken(server);
    if (++server->waits % POLL_WAITS == 0 && att_now_ns() - server->polled_ns >= POLL_NS)
        poll_sockets(server, 0);
    int looks = server->spin.mode == ATT_WAIT_BLOCK ? 1 : ATT_QUICK_LOOKS;
    for (int i = 0; i < looks; i++) {
        if (look(server, QUIET_PROBES)) {
            att_spin_quick(&server->spin);
            return;
        }
        if (timeout_ms == 0)
            return; /* the sockets had their look above, if it was due */
        att_pause();
    }
    uint64_t start = att_now_ns();
    if (start - server->polled_ns >= POLL_NS && poll_sockets(server, 0) != 0)
        return;
    uint64_t deadline = deadline_of(start, timeout_ms);
    /* On the processor of a client that waits for it, it would spin in the client's way. */
    const bool shared = server->place.together > 0 && server->spin.mode == ATT_WAIT_ADAPTIVE;
    bool done = !shared && spin(server, start, deadline);
    if (!done)
        sleep_until(server, deadline);
    if (server->spin.mode == ATT_WAIT_ADAPTIVE && !shared)
        att_spin_learn(&server->spin, done, att_now_ns() - start);
}

/* Async-signal-safe. */
void att_server_wake(struct att_server *server)
{
    int saved = errno;
    /* release: what the caller did is visible to the service thread; partner: the acquire in look */
    atomic_store_explicit(&server->wake_pending, 1, memory_order_release);
    /* full fence: wake_pending is set before the ticket is read; partner: the fence in sleep_until */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&server->page->service_ticket, memory_order_relaxed) % 2 != 0) {
        uint64_t one = 1;
        ssize_t bytes = write(server->wake_fd, &one, sizeof one);
        (void)bytes; /* a full counter wakes as well */
    }
    errno = saved;
}
