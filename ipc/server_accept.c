/* The daemon's side of the handshake.
 *
 * States of a connection: accepted -> pending (no hello yet; at most HELLO_NS, at most
 * PENDING_MOST of them, the oldest gives way) -> session, or refused with a welcome that says why,
 * or dropped. A hello that has come with the connection, the usual case, is answered at once, so
 * that idlers can't keep anybody out. Nothing here blocks. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server_internal.h"

/* ---- The listening socket ------------------------------------------------------------------------------ */

/* Holds PATH.lock while the daemon lives: two daemons that start at once must not both find the socket stale. */
static enum att_status take_lock(struct att_server *server, struct att_error *error)
{
    const char *path = server->address.sun_path;
    char lock[sizeof server->address.sun_path + 8];
    snprintf(lock, sizeof lock, "%s.lock", path);
    server->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (server->lock_fd < 0)
        return att_fail(error, ATT_EIO, "cannot open %s: %s", lock, strerror(errno));
    if (flock(server->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return att_fail(error, ATT_ELOCKED, "another daemon serves the socket %s: give another --name or --socket",
                        path);
    return ATT_OK;
}

/* Nothing may be at the path but a socket that nobody listens on. */
static enum att_status find_stale(const struct sockaddr_un *address, bool *ret_stale, struct att_error *error)
{
    const char *path = address->sun_path;
    struct stat file;
    *ret_stale = false;
    if (lstat(path, &file) != 0) {
        if (errno == ENOENT)
            return ATT_OK;
        return att_fail(error, ATT_EIO, "cannot look at the socket %s: %s", path, strerror(errno));
    }
    if (!S_ISSOCK(file.st_mode))
        return att_fail(error, ATT_EEXIST, "%s exists and is not a socket: give another path with --socket", path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return att_fail(error, ATT_EIO, "cannot make a socket: %s", strerror(errno));
    int failed = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 ? 0 : errno;
    close(fd);
    if (failed != ECONNREFUSED) /* also EAGAIN: a full backlog, and EPROTOTYPE: a socket of another program */
        return att_fail(error, ATT_ELOCKED, "somebody listens on the socket %s: give another --name or --socket", path);
    *ret_stale = true;
    return ATT_OK;
}

enum att_status att_server_check_socket(const char *path, struct att_error *error)
{
    struct sockaddr_un address;
    bool stale;
    enum att_status status = att_socket_address(path, &address, error);
    if (status == ATT_OK)
        status = att_socket_check_place(path, error);
    return status == ATT_OK ? find_stale(&address, &stale, error) : status;
}

enum att_status att_accept_open(struct att_server *server, bool shared, struct att_error *error)
{
    const char *path = server->address.sun_path;
    bool stale = false;
    enum att_status status = att_socket_check_place(path, error);
    if (status == ATT_OK)
        status = take_lock(server, error);
    if (status == ATT_OK)
        status = find_stale(&server->address, &stale, error);
    if (status != ATT_OK)
        return status;
    if (stale && unlink(path) != 0)
        return att_fail(error, ATT_EIO, "cannot remove the stale socket %s: %s", path, strerror(errno));
    server->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listen_fd < 0)
        return att_fail(error, ATT_EIO, "cannot make a socket: %s", strerror(errno));
    struct stat file;
    /* Nobody can connect before listen, so the mode is in force from the start. */
    if (bind(server->listen_fd, (const struct sockaddr *)&server->address, sizeof server->address) != 0)
        return att_fail(error, errno == EACCES ? ATT_EPERM : ATT_EIO, "cannot bind the socket %s: %s", path,
                        strerror(errno));
    if (lstat(path, &file) != 0 || chmod(path, shared ? 0666 : 0600) != 0 ||
        listen(server->listen_fd, LISTEN_BACKLOG) != 0 || !att_epoll_add(server, server->listen_fd, EVENT_LISTENER)) {
        status = att_fail(error, ATT_EIO, "cannot listen on the socket %s: %s", path, strerror(errno));
        unlink(path);
        return status;
    }
    server->socket_device = file.st_dev;
    server->socket_inode = file.st_ino;
    return ATT_OK;
}

void att_accept_close(struct att_server *server)
{
    struct stat file;
    for (int i = 0; i < PENDING_MOST; i++) {
        if (server->pending[i].fd >= 0)
            close(server->pending[i].fd);
        server->pending[i].fd = -1;
    }
    server->pending_count = 0;
    server->accept_paused_until = 0;
    if (server->socket_inode != 0 && lstat(server->address.sun_path, &file) == 0 &&
        file.st_dev == server->socket_device && file.st_ino == server->socket_inode)
        unlink(server->address.sun_path);
    server->socket_inode = 0;
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    server->listen_fd = -1;
}

/* ---- Hello and welcome --------------------------------------------------------------------------------- */

static void send_refusal(int fd, enum att_status status, const char *text)
{
    struct att_welcome welcome = {
        .magic = ATT_WELCOME_MAGIC,
        .protocol = ATT_PROTOCOL_VERSION,
        .status = status,
    };
    snprintf(welcome.text, sizeof welcome.text, "%.239s", text);
    att_packet_send(fd, &welcome, sizeof welcome, NULL, 0);
}

static void refuse(int fd, enum att_status status, const char *text)
{
    send_refusal(fd, status, text);
    close(fd);
}

bool att_user_owns(uid_t uid)
{
    return uid == 0 || uid == geteuid();
}

static bool user_allowed(const struct att_server *server, uid_t uid)
{
    if (att_user_owns(uid))
        return true;
    for (size_t i = 0; i < server->allowed_count; i++)
        if (server->allowed[i] == uid)
            return true;
    return false;
}

static bool send_regions(const struct att_server *server, int fd)
{
    for (uint32_t first = 0; first < server->region_count; first += ATT_REGIONS_A_PACKET) {
        uint32_t count = server->region_count - first;
        if (count > ATT_REGIONS_A_PACKET)
            count = ATT_REGIONS_A_PACKET;
        const struct att_regions packet = {.magic = ATT_REGIONS_MAGIC, .first = first, .count = count};
        if (!att_packet_send(fd, &packet, sizeof packet, server->regions + (size_t)first * ATT_HEAD_FDS,
                             (size_t)count * ATT_HEAD_FDS))
            return false;
    }
    return true;
}

/* What a client has not taken off its socket is on its way, and the kernel allows a user only so many descriptors on their
 * way: so a client that asks and does not take gets no more. One that is sent only a part asks again. */
void att_server_send_regions(struct att_server *server, uint64_t id)
{
    const struct att_session *session = att_session_find(server, id);
    int on_its_way;
    if (session && ioctl(session->fd, SIOCOUTQ, &on_its_way) == 0 && on_its_way == 0)
        send_regions(server, session->fd);
}

/* The lasting session that the client asks for, if it does. */
static enum att_status ask_for_session(struct att_server *server, struct att_session *session,
                                       const struct att_hello *hello, struct att_session_grant *grant,
                                       struct att_error *error)
{
    const struct att_session_ask ask = {.id = hello->session,
                                        .fence = hello->fence,
                                        .must_exist = hello->wants & ATT_HELLO_RESUME,
                                        .uid = session->uid};
    if (!(hello->wants & ATT_HELLO_SESSION))
        return ATT_OK;
    if (!server->on_ask)
        return att_fail(error, ATT_EINVAL, "this daemon has no sessions");
    enum att_status status = server->on_ask(server->context, session->id, &ask, grant, error);
    if (status == ATT_OK)
        session->place = grant->place;
    return status;
}

/* It could not be given what it needs. ETOOMANYREFS: too many descriptors are on their way to clients that have not
 * received them. */
static void turn_away(struct att_server *server, struct att_session *session, bool welcomed, int failed)
{
    char text[200];
    const bool gone = failed == EPIPE || failed == ECONNRESET;
    snprintf(text, sizeof text, "it could not be given its descriptors: %s", strerror(failed));
    if (!welcomed && !gone)
        send_refusal(session->fd, ATT_EBUSY, "the daemon cannot pass descriptors now: its log says why");
    att_session_end(server, session, gone ? NULL : text);
}

/* Opens a session for a client that has passed all checks, and tells it. Owns fd. */
static void welcome_client(struct att_server *server, int fd, const struct ucred *peer, const struct att_hello *hello)
{
    const bool regions = hello->wants & ATT_HELLO_REGIONS;
    struct att_session_grant grant = {0};
    struct att_session *session;
    struct att_error error;
    int channel_fd;
    enum att_status status = att_session_open(server, fd, peer->pid, peer->uid, &session, &channel_fd, &error);
    if (status != ATT_OK) {
        refuse(fd, status, error.text);
        return;
    }
    status = ask_for_session(server, session, hello, &grant, &error);
    if (status != ATT_OK) {
        send_refusal(fd, status, error.text);
        close(channel_fd);
        att_session_end(server, session, NULL);
        return;
    }
    const struct att_info *info = &server->info;
    struct att_welcome welcome = {
        .magic = ATT_WELCOME_MAGIC,
        .protocol = ATT_PROTOCOL_VERSION,
        .status = ATT_OK,
        .generation = session->generation,
        .request_slots = server->geometry.request_slots,
        .reply_slots = server->geometry.reply_slots,
        .chunk_bytes = server->geometry.chunk_bytes,
        .channel_bytes = att_geometry_bytes(&server->geometry),
        .heads = info->heads,
        .n_q = info->n_q,
        .d = info->d,
        .d_v = info->d_v,
        .capacity = info->capacity,
        .precision = info->precision,
        .scale = info->scale,
        .incarnation = info->incarnation,
        .daemon_pid = info->daemon_pid,
        .regions = regions ? server->region_count : 0,
        .session_seq = grant.seq,
        .fence = grant.fence,
    };
    const int fds[] = {channel_fd, server->page_fd};
    const bool welcomed = att_packet_send(fd, &welcome, sizeof welcome, fds, 2);
    if (!welcomed || (regions && !send_regions(server, fd)) || !att_epoll_add(server, fd, session->id))
        turn_away(server, session, welcomed, errno);
    close(channel_fd);
}

/* Reads a hello and answers. False: there is none yet, and fd stays the caller's. */
static bool answer_hello(struct att_server *server, int fd)
{
    struct att_hello hello = {0};
    long bytes = att_packet_receive(fd, &hello, sizeof hello, NULL, 0, NULL);
    if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return false;
    struct ucred peer;
    socklen_t size = sizeof peer;
    char text[sizeof((struct att_welcome *)0)->text];
    if (bytes <= 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        close(fd);
    } else if (!user_allowed(server, peer.uid)) {
        snprintf(text, sizeof text, "user %lu may not use this daemon: its user %lu can allow it with --allow-uid %lu",
                 (unsigned long)peer.uid, (unsigned long)geteuid(), (unsigned long)peer.uid);
        refuse(fd, ATT_EPERM, text);
    } else if (bytes < 16 || hello.magic != ATT_HELLO_MAGIC) {
        refuse(fd, ATT_EPROTOCOL, "that was not a hello of attnd's protocol");
    } else if (hello.protocol != ATT_PROTOCOL_VERSION) {
        snprintf(text, sizeof text, "the daemon speaks protocol version %u, the client %u", ATT_PROTOCOL_VERSION,
                 hello.protocol);
        refuse(fd, ATT_EVERSION, text);
    } else if (bytes != (long)sizeof hello) {
        refuse(fd, ATT_EPROTOCOL, "the hello has a wrong length");
    } else if (server->open_count + (att_user_owns(peer.uid) ? 0 : server->max_clients / GUESTS_LEAVE) >=
               server->max_clients) {
        snprintf(text, sizeof text, "the daemon has all the %u clients it takes: close one first", server->max_clients);
        refuse(fd, ATT_EBUSY, text);
    } else {
        welcome_client(server, fd, &peer, &hello);
    }
    return true;
}

/* ---- Pending connections ------------------------------------------------------------------------------- */

static void pending_clear(struct att_server *server, struct att_pending *pending)
{
    pending->fd = -1;
    server->pending_count--;
}

static void pending_add(struct att_server *server, int fd, uint64_t now)
{
    struct att_pending *place = NULL;
    for (struct att_pending *each = server->pending; each < server->pending + PENDING_MOST; each++) {
        if (each->fd < 0) {
            place = each;
            break;
        }
        if (!place || each->since < place->since)
            place = each;
    }
    if (place->fd >= 0) {
        close(place->fd);
        pending_clear(server, place);
    }
    uint32_t serial = ++server->pending_serial;
    uint64_t slot = (uint64_t)(place - server->pending);
    *place = (struct att_pending){.fd = fd, .serial = serial, .since = now};
    server->pending_count++;
    if (!att_epoll_add(server, fd, EVENT_PENDING | (uint64_t)serial << 8 | slot)) {
        close(fd);
        pending_clear(server, place);
    }
}

void att_accept_hello(struct att_server *server, uint64_t event)
{
    uint64_t slot = event & 0xff;
    uint32_t serial = (uint32_t)((event & ~EVENT_PENDING) >> 8);
    struct att_pending *pending = &server->pending[slot % PENDING_MOST];
    if (pending->fd < 0 || pending->serial != serial)
        return;
    int fd = pending->fd;
    epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* a session's events carry its id */
    uint64_t since = pending->since;
    pending_clear(server, pending);
    if (!answer_hello(server, fd))
        pending_add(server, fd, since);
}

void att_accept_expire(struct att_server *server, uint64_t now)
{
    for (struct att_pending *each = server->pending; each < server->pending + PENDING_MOST; each++) {
        if (each->fd >= 0 && now - each->since > HELLO_NS) {
            close(each->fd);
            pending_clear(server, each);
        }
    }
    if (server->accept_paused_until != 0 && now >= server->accept_paused_until &&
        att_epoll_add(server, server->listen_fd, EVENT_LISTENER))
        server->accept_paused_until = 0;
}

void att_accept_clients(struct att_server *server, uint64_t now)
{
    if (server->accept_paused_until != 0)
        return;
    for (int i = 0; i < ACCEPT_MOST; i++) {
        int fd = accept4(server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            /* Level-triggered epoll would report the waiting connection again and again. */
            fprintf(stderr, "attnd: cannot accept a client now: %s; trying again in half a second\n", strerror(errno));
            epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, server->listen_fd, NULL);
            server->accept_paused_until = now + ACCEPT_PAUSE_NS;
            return;
        }
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return;
        if (!answer_hello(server, fd))
            pending_add(server, fd, now);
    }
}
