/* Creating and freeing the server. */
#include "server_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

static enum att_status allocate(struct att_server *server, struct att_error *error)
{
    uint32_t clients = server->max_clients;
    server->table = calloc(clients, sizeof *server->table);
    server->ids = calloc(clients, sizeof *server->ids);
    server->open = calloc(clients, sizeof *server->open);
    server->dirty = calloc(clients, sizeof *server->dirty);
    server->free_slots = calloc(clients, sizeof *server->free_slots);
    server->request = calloc(1, (size_t)server->largest_batch);
    server->allowed = calloc(server->allowed_count + 1, sizeof *server->allowed);
    if (!server->table || !server->ids || !server->open || !server->dirty || !server->free_slots || !server->request ||
        !server->allowed)
        return att_fail(error, ATT_ENOMEM, "no memory for %u clients", clients);
    for (uint32_t i = 0; i < clients; i++)
        server->free_slots[i] = (uint16_t)i;
    server->free_count = clients;
    return ATT_OK;
}

static enum att_status open_descriptors(struct att_server *server, struct att_error *error)
{
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (server->epoll_fd < 0)
        return att_fail(error, ATT_EIO, "cannot watch clients: epoll_create1: %s", strerror(errno));
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (server->wake_fd < 0 || !att_epoll_add(server, server->wake_fd, EVENT_WAKE))
        return att_fail(error, ATT_EIO, "cannot watch clients: eventfd: %s", strerror(errno));
    return att_status_page_create(server->info.incarnation, &server->page, &server->page_fd, error);
}

static uint64_t memory_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

enum att_status att_server_create(const struct att_server_options *options, struct att_server **ret_server,
                                  struct att_error *error)
{
    if (options->max_clients > MOST_CLIENTS)
        return att_fail(error, ATT_EINVAL, "%u clients are more than the %d possible", options->max_clients,
                        MOST_CLIENTS);
    struct att_server *server = calloc(1, sizeof *server);
    if (!server)
        return att_fail(error, ATT_ENOMEM, "no memory for the server");
    server->lock_fd = server->listen_fd = server->epoll_fd = server->wake_fd = server->page_fd = -1;
    for (int i = 0; i < PENDING_MOST; i++)
        server->pending[i].fd = -1;
    server->max_clients = options->max_clients ? options->max_clients : DEFAULT_CLIENTS;
    server->held_most = options->held_most ? options->held_most : memory_bytes() / 8;
    server->allowed_count = options->allowed_count;
    server->on_end = options->on_end;
    server->on_ask = options->on_ask;
    server->context = options->context;
    server->info = options->info;
    server->regions = options->regions;
    server->region_count = options->region_count;
    server->info.daemon_pid = (uint32_t)getpid();
    server->info.protocol = ATT_PROTOCOL_VERSION;
    att_spin_init(&server->spin, options->wait, ATT_SPIN_SERVICE_NS);
    enum att_status status = att_socket_address(options->socket, &server->address, error);
    if (status == ATT_OK)
        status = att_geometry_choose(options->info.d, options->info.d_v, &server->geometry, error);
    if (status != ATT_OK)
        goto free_server;
    server->largest_request = att_largest_request(options->info.d, options->info.d_v);
    server->largest_batch = att_largest_batch(server->geometry.request_slots);
    server->largest_reply_slots = att_slots_for(att_largest_reply(&server->geometry));
    server->largest_batch_reply_slots = att_largest_batch_reply_slots(server->geometry.reply_slots);
    att_session_measure(server);
    if (getrandom(&server->generation_base, sizeof server->generation_base, 0) != sizeof server->generation_base) {
        status = att_fail(error, ATT_EIO, "cannot get random numbers: getrandom: %s", strerror(errno));
        goto free_server;
    }
    status = allocate(server, error);
    if (status == ATT_OK && options->allowed_count > 0)
        memcpy(server->allowed, options->allowed, options->allowed_count * sizeof *server->allowed);
    if (status == ATT_OK)
        status = open_descriptors(server, error);
    if (status == ATT_OK)
        status = att_accept_open(server, options->allowed_count > 0, error);
    if (status != ATT_OK)
        goto free_server;
    server->polled_ns = att_now_ns();
    *ret_server = server;
    return ATT_OK;
free_server:
    att_server_free(server);
    return status;
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

void att_server_free(struct att_server *server)
{
    if (!server)
        return;
    att_server_flush(server);
    att_accept_close(server); /* the path goes first: whoever connects from here on finds no daemon */
    for (uint32_t i = 0; i < server->open_count; i++)
        att_session_release(server->open[i]);
    close_if_open(server->epoll_fd);
    close_if_open(server->wake_fd);
    close_if_open(server->page_fd);
    att_status_page_release(server->page);
    close_if_open(server->lock_fd); /* last: the lock covers the path */
    free(server->table);
    free(server->ids);
    free(server->open);
    free(server->dirty);
    free(server->free_slots);
    free(server->request);
    free(server->allowed);
    free(server);
}

size_t att_server_chunk(const struct att_server *server)
{
    return server->geometry.chunk_bytes;
}

uint32_t att_server_clients(const struct att_server *server)
{
    return server->open_count;
}
