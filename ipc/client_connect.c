/* The client's side of the handshake. The daemon's answer is checked before it is used: sizes
 * against the memfd and its seals, geometry against the limits, so that a wrong daemon can't make
 * the client read or write outside of the mapping. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client_internal.h"

enum { WELCOME_FDS = 2 };

static enum att_status no_daemon(const struct att_client *client, int failed, struct att_error *error)
{
    const char *path = client->socket;
    if (failed == ENOENT || failed == ECONNREFUSED || failed == ENOTDIR)
        return att_fail(error, ATT_ENOENT, "no daemon at %s: start attnd --dir DIR, or give --socket", path);
    if (failed == EACCES || failed == EPERM)
        return att_fail(error, ATT_EPERM,
                        "you may not use the daemon at %s: its user can allow you with --allow-uid %lu", path,
                        (unsigned long)geteuid());
    if (failed == EPROTOTYPE)
        return att_fail(error, ATT_EPROTOCOL, "who listens at %s is not attnd", path);
    return att_fail(error, ATT_EIO, "cannot connect to %s: %s", path, strerror(failed));
}

static enum att_status timed_out(const struct att_client *client, struct att_error *error)
{
    return att_fail(error, ATT_ETIMEOUT, "the daemon at %s has not answered within %u ms", client->socket,
                    client->timeout_ms);
}

static enum att_status open_socket(struct att_client *client, uint64_t deadline, struct att_error *error)
{
    struct sockaddr_un address;
    enum att_status status = att_socket_address(client->socket, &address, error);
    if (status != ATT_OK)
        return status;
    client->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        return att_fail(error, ATT_EIO, "cannot make a socket: %s", strerror(errno));
    while (connect(client->fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        if (errno != EAGAIN && errno != EINTR)
            return no_daemon(client, errno, error);
        /* The daemon's backlog is full, and a Unix socket has no event for when it is not. */
        if (att_now_ns() >= deadline)
            return timed_out(client, error);
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    return ATT_OK;
}

/* Receives the welcome. *ret_count descriptors in fds are the caller's, also on failure. */
static enum att_status receive_welcome(const struct att_client *client, uint64_t deadline, struct att_welcome *welcome,
                                       int fds[WELCOME_FDS], size_t *ret_count, struct att_error *error)
{
    for (;;) {
        long bytes = att_packet_receive(client->fd, welcome, sizeof *welcome, fds, WELCOME_FDS, ret_count);
        if (bytes == (long)sizeof *welcome)
            break;
        if (bytes >= (long)offsetof(struct att_welcome, generation) && welcome->protocol != ATT_PROTOCOL_VERSION)
            break; /* another version's: the common part is there */
        if (bytes > 0)
            return att_fail(error, ATT_EPROTOCOL, "who listens at %s is not attnd", client->socket);
        if (bytes == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
            return att_fail(error, ATT_ECLOSED, "the daemon at %s closed the connection before it answered",
                            client->socket);
        uint64_t now = att_now_ns();
        if (now >= deadline)
            return timed_out(client, error);
        struct pollfd wait = {.fd = client->fd, .events = POLLIN};
        poll(&wait, 1, (int)((deadline - now + 999999) / 1000000));
    }
    welcome->text[sizeof welcome->text - 1] = '\0';
    if (welcome->magic != ATT_WELCOME_MAGIC)
        return att_fail(error, ATT_EPROTOCOL, "who listens at %s is not attnd", client->socket);
    if (welcome->protocol != ATT_PROTOCOL_VERSION)
        return att_fail(error, ATT_EVERSION,
                        "the daemon at %s speaks protocol version %u, this program version %u: "
                        "use programs of the same release",
                        client->socket, welcome->protocol, ATT_PROTOCOL_VERSION);
    if (welcome->status >= ATT_STATUS_COUNT)
        return att_fail(error, ATT_EPROTOCOL, "the daemon at %s answered with an unknown status", client->socket);
    if (welcome->status != ATT_OK)
        return att_fail(error, (enum att_status)welcome->status, "the daemon at %s refused: %s", client->socket,
                        welcome->text);
    return ATT_OK;
}

/* One packet, of the regions of `heads` heads; *ret_count descriptors are the caller's, also on failure. */
static enum att_status receive_regions(const struct att_client *client, uint64_t deadline, int *fds, uint32_t from,
                                       uint32_t heads, size_t *ret_count, struct att_error *error)
{
    const size_t most = (size_t)heads * ATT_HEAD_FDS;
    struct att_regions packet = {0};
    long bytes;
    *ret_count = 0;
    while ((bytes = att_packet_receive(client->fd, &packet, sizeof packet, fds, most, ret_count)) < 0 &&
           (errno == EAGAIN || errno == EWOULDBLOCK)) {
        uint64_t now = att_now_ns();
        if (now >= deadline)
            return timed_out(client, error);
        struct pollfd wait = {.fd = client->fd, .events = POLLIN};
        poll(&wait, 1, (int)((deadline - now + 999999) / 1000000));
    }
    if (bytes <= 0)
        return att_fail(error, ATT_ECLOSED, "the daemon at %s closed the connection before it answered",
                        client->socket);
    if (bytes != (long)sizeof packet || packet.magic != ATT_REGIONS_MAGIC || packet.first != from ||
        packet.count != heads)
        return att_fail(error, ATT_EPROTOCOL, "the daemon at %s sent other regions than it told", client->socket);
    if (*ret_count != most)
        return att_fail(error, ATT_EPROTOCOL,
                        "the daemon at %s sent %zu descriptors instead of %zu (is the limit of open files reached?)",
                        client->socket, *ret_count, most);
    return ATT_OK;
}

/* The published regions, for direct reads. */
static enum att_status attach_regions(struct att_client *client, uint32_t regions, uint64_t deadline,
                                      struct att_error *error)
{
    if (regions == 0)
        return att_fail(error, ATT_EPERM,
                        "the daemon at %s has switched direct reads off (it runs with --direct-reads off)",
                        client->socket);
    if (regions != client->info.heads)
        return att_fail(error, ATT_EPROTOCOL, "the daemon at %s publishes %u regions for %u heads", client->socket,
                        regions, client->info.heads);
    enum att_status status = att_direct_create(regions, &client->direct, error);
    for (uint32_t first = 0; first < regions && status == ATT_OK; first += ATT_REGIONS_A_PACKET) {
        uint32_t heads = regions - first < ATT_REGIONS_A_PACKET ? regions - first : ATT_REGIONS_A_PACKET;
        int fds[ATT_REGIONS_A_PACKET * ATT_HEAD_FDS];
        size_t count;
        status = receive_regions(client, deadline, fds, first, heads, &count, error);
        for (uint32_t i = 0; i < heads && status == ATT_OK; i++)
            status = att_direct_map(client, first + i, fds + (size_t)i * ATT_HEAD_FDS, error);
        for (size_t i = 0; i < count; i++)
            close(fds[i]);
    }
    return status;
}

/* As this program sees it. In a container the daemon has a number of its own, which may be another process's here. */
static uint32_t daemon_pid(int fd)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0 ? (uint32_t)peer.pid : 0;
}

static enum att_status attach(struct att_client *client, const struct att_welcome *welcome, const int fds[WELCOME_FDS],
                              size_t count, struct att_error *error)
{
    const struct att_geometry geometry = {
        .request_slots = welcome->request_slots,
        .reply_slots = welcome->reply_slots,
        .chunk_bytes = welcome->chunk_bytes,
    };
    if (count != WELCOME_FDS)
        return att_fail(error, ATT_EPROTOCOL,
                        "the daemon at %s sent %zu descriptors instead of %d (is the limit of open files reached?)",
                        client->socket, count, WELCOME_FDS);
    if (!att_geometry_valid(&geometry, welcome->d, welcome->d_v) ||
        welcome->channel_bytes != att_geometry_bytes(&geometry))
        return att_fail(error, ATT_EPROTOCOL, "the daemon at %s told a channel that is impossible", client->socket);
    enum att_status status = att_channel_attach(fds[0], &geometry, welcome->generation, &client->channel, error);
    if (status == ATT_OK)
        status = att_status_page_attach(fds[1], &client->page, error);
    if (status != ATT_OK)
        return status;
    struct att_control *control = client->channel.control;
    att_producer_init(&client->requests, client->channel.request_slots, geometry.request_slots, &control->request_tail,
                      0);
    att_consumer_init(&client->replies, client->channel.reply_slots, geometry.reply_slots, &control->reply_tail, 0);
    client->chunk_bytes = geometry.chunk_bytes;
    client->largest_reply = att_largest_reply(&geometry);
    client->generation = welcome->generation;
    client->info = (struct att_info){
        .heads = welcome->heads,
        .n_q = welcome->n_q,
        .d = welcome->d,
        .d_v = welcome->d_v,
        .capacity = welcome->capacity,
        .precision = welcome->precision,
        .scale = welcome->scale,
        .incarnation = welcome->incarnation,
        .daemon_pid = daemon_pid(client->fd),
        .protocol = welcome->protocol,
    };
    att_client_measure(client);
    return ATT_OK;
}

static void let_go(struct att_client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    client->attached = false;
    att_direct_free(client->direct);
    client->direct = NULL;
    att_channel_release(&client->channel);
    att_status_page_release(client->page);
    client->page = NULL;
    client->requests = (struct att_producer){0};
    client->replies = (struct att_consumer){0};
}

/* What buffers and requests of the program depend on. */
static bool same_shape(const struct att_info *a, const struct att_info *b)
{
    return a->heads == b->heads && a->n_q == b->n_q && a->d == b->d && a->d_v == b->d_v &&
           a->precision == b->precision && a->scale == b->scale;
}

static enum att_status other_shape(const struct att_client *client, const struct att_info *before,
                                   struct att_error *error)
{
    const struct att_info *now = &client->info;
    return att_fail(
        error, ATT_ESHAPE,
        "the daemon at %s now serves another state (heads %u, n_q %u, d %u, d_v %u, scale %g; it was %u, %u, "
        "%u, %u, %g): close this client and connect anew, or start the old state again",
        client->socket, now->heads, now->n_q, now->d, now->d_v, now->scale, before->heads, before->n_q, before->d,
        before->d_v, before->scale);
}

/* From nothing to a connection; on a failure let_go is the caller's, and client->info may be another daemon's. `before`:
 * of the last connection, or zeros. */
static enum att_status shake_hands(struct att_client *client, const struct att_info *before, uint64_t deadline,
                                   struct att_error *error)
{
    enum att_status status = open_socket(client, deadline, error);
    if (status != ATT_OK)
        return status;
    struct att_hello hello = {
        .magic = ATT_HELLO_MAGIC,
        .protocol = ATT_PROTOCOL_VERSION,
        .wait = client->wait,
        .wants = client->wants_direct ? ATT_HELLO_REGIONS : 0,
    };
    att_session_hello(client, &hello);
    /* A failure is no news: if the daemon has closed already, what it said before says more. */
    att_packet_send(client->fd, &hello, sizeof hello, NULL, 0);
    struct att_welcome welcome = {0};
    int fds[WELCOME_FDS];
    size_t count = 0;
    status = receive_welcome(client, deadline, &welcome, fds, &count, error);
    if (status == ATT_OK)
        status = attach(client, &welcome, fds, count, error);
    for (size_t i = 0; i < count; i++)
        close(fds[i]); /* the mappings stay */
    if (status == ATT_OK && client->wants_direct)
        status = attach_regions(client, welcome.regions, deadline, error);
    if (status == ATT_OK && before->heads > 0 && !same_shape(before, &client->info))
        status = other_shape(client, before, error);
    if (status == ATT_OK)
        status = att_session_welcomed(client, &welcome, welcome.incarnation != before->incarnation, error);
    if (status != ATT_OK)
        return status;
    client->rung_ticket = client->ticket = 0;
    client->looked_ns = att_now_ns();
    client->attached = true;
    return ATT_OK;
}

static bool may_come_back(enum att_status status)
{
    return status == ATT_ENOENT || status == ATT_ECLOSED || status == ATT_EIO;
}

enum att_status att_client_reconnect(struct att_client *client, uint64_t deadline)
{
    const struct att_info before = client->info;
    struct att_error error = {0};
    enum att_status status;
    if (client->broken || client->stay_closed || (client->resend && !att_session_goes_on(client)))
        return att_client_gone(client);
    uint32_t place;
    while ((place = att_client_collect(client)) != NO_FLIGHT) /* what it had published before it went */
        att_client_keep(client, place);
    if (client->broken)
        return att_client_gone(client);
    att_client_give_up(client);
    for (;;) {
        let_go(client);
        status = shake_hands(client, &before, deadline, &error);
        uint64_t now = att_now_ns(), pause = may_come_back(status) ? COMEBACK_NS : SESSION_RETRY_NS;
        if (status == ATT_OK || att_session_ends(client, status) || now >= deadline)
            break;
        if (!may_come_back(status) && !client->resend)
            break; /* a session waits for its daemon to take it again */
        nanosleep(&(struct timespec){.tv_nsec = (long)(pause < deadline - now ? pause : deadline - now)}, NULL);
    }
    if (status == ATT_OK) {
        client->closed = false;
        return ATT_OK;
    }
    let_go(client);
    client->info = before;
    if (att_session_ends(client, status) || status == ATT_ESHAPE) {
        client->gone = error;
        return att_client_gone(client);
    }
    att_fail(&client->gone, ATT_ECLOSED, "the daemon has gone, and connecting again failed: %.400s", error.text);
    return att_client_gone(client);
}

/* The path to connect to: given, or the default one of the name, in a directory that is ours. */
static enum att_status choose_path(struct att_client *client, const struct att_connect_options *options,
                                   struct att_error *error)
{
    struct sockaddr_un address;
    if (options->socket) {
        enum att_status status = att_socket_address(options->socket, &address, error);
        if (status == ATT_OK)
            memcpy(client->socket, address.sun_path, strlen(address.sun_path) + 1);
        return status;
    }
    enum att_status status = att_socket_path(options->name, client->socket, sizeof client->socket, error);
    return status == ATT_OK ? att_socket_check_directory(client->socket, error) : status;
}

/* The session's fence and all that it did before are on disk: nobody who had it can come back, and what att_get_session
 * tells is final. */
static enum att_status make_durable(struct att_client *client, struct att_error *error)
{
    enum att_status status = att_client_call(client, &(struct att_request){.type = ATT_REQ_FLUSH}, NULL);
    if (status != ATT_OK)
        return att_fail(error, status, "%.450s", client->error.text);
    att_session_settled(client);
    return ATT_OK;
}

enum att_status att_connect(const struct att_connect_options *options, struct att_client **ret_client,
                            struct att_error *error)
{
    static const struct att_connect_options defaults = {0};
    if (!options)
        options = &defaults;
    if ((unsigned)options->wait > ATT_WAIT_BLOCK)
        return att_fail(error, ATT_EINVAL, "%d is not a way to wait", (int)options->wait);
    struct att_client *client = calloc(1, sizeof *client);
    if (!client)
        return att_fail(error, ATT_ENOMEM, "no memory for a client");
    client->fd = -1;
    client->free_first = NO_FLIGHT;
    client->timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    client->wait = options->wait;
    client->wants_direct = options->direct;
    client->stay_closed = options->stay_closed;
    att_spin_init(&client->spin, options->wait, ATT_SPIN_CLIENT_NS);
    enum att_status status = choose_path(client, options, error);
    if (status != ATT_OK)
        goto close_client;
    /* Large and mostly never touched: zeroed pages on demand. */
    client->flights = calloc(MOST_IN_FLIGHT, sizeof *client->flights);
    if (!client->flights) {
        status = att_fail(error, ATT_ENOMEM, "no memory for a client");
        goto close_client;
    }
    if (options->session != 0)
        status = att_session_create(client, options->session, options->resume, error);
    if (status != ATT_OK)
        goto close_client;
    status = shake_hands(client, &(struct att_info){0}, att_client_deadline(client, att_now_ns()), error);
    if (status == ATT_OK && client->resend)
        status = make_durable(client, error);
    if (status != ATT_OK)
        goto close_client;
    *ret_client = client;
    return ATT_OK;
close_client:
    att_close(client);
    return status;
}

void att_close(struct att_client *client)
{
    if (!client)
        return;
    let_go(client);
    att_session_free(client);
    for (uint32_t i = 0; i < client->fresh; i++)
        free(client->flights[i].text);
    free(client->flights);
    free(client);
}

void att_get_info(const struct att_client *client, struct att_info *ret_info)
{
    *ret_info = client->info;
}

const char *att_last_error(const struct att_client *client)
{
    return client->error.text;
}
