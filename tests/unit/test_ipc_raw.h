/* A client that speaks the protocol by hand, for the tests of what the service must withstand. */
#ifndef TEST_IPC_RAW_H
#define TEST_IPC_RAW_H

#include "test_ipc_service.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "channel.h"
#include "handshake.h"

struct raw {
    int fd;
    struct att_welcome welcome;
    struct att_channel channel;
    struct att_producer requests;
    struct att_consumer replies;
};

static inline int raw_socket(const struct service *service)
{
    struct sockaddr_un address;
    assert_int_equal(att_socket_address(service->socket, &address, NULL), ATT_OK);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static inline long raw_receive(int fd, void *data, size_t bytes, int fds[2], size_t *ret_count)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    *ret_count = 0;
    if (poll(&wait, 1, 5000) != 1)
        return -2;
    return att_packet_receive(fd, data, bytes, fds, 2, ret_count);
}

static inline void raw_open(const struct service *service, struct raw *raw)
{
    int fds[2];
    size_t count;
    raw->fd = raw_socket(service);
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
    assert_true(att_packet_send(raw->fd, &hello, sizeof hello, NULL, 0));
    assert_int_equal(raw_receive(raw->fd, &raw->welcome, sizeof raw->welcome, fds, &count), sizeof raw->welcome);
    assert_int_equal(raw->welcome.status, ATT_OK);
    assert_int_equal(count, 2);
    const struct att_geometry geometry = {raw->welcome.request_slots, raw->welcome.reply_slots,
                                          raw->welcome.chunk_bytes};
    assert_int_equal(att_channel_attach(fds[0], &geometry, raw->welcome.generation, &raw->channel, NULL), ATT_OK);
    /* What a client gets of the status page can't be written, and neither memfd truncated. */
    assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0) == MAP_FAILED);
    assert_int_equal(ftruncate(fds[0], 0), -1);
    assert_int_equal(ftruncate(fds[1], 0), -1);
    close(fds[0]);
    close(fds[1]);
    att_producer_init(&raw->requests, raw->channel.request_slots, geometry.request_slots,
                      &raw->channel.control->request_tail, 0);
    att_consumer_init(&raw->replies, raw->channel.reply_slots, geometry.reply_slots, &raw->channel.control->reply_tail,
                      0);
}

static inline void raw_close(struct raw *raw)
{
    att_channel_release(&raw->channel);
    close(raw->fd);
}

static inline void raw_ring(struct raw *raw)
{
    const char bell = 1;
    send(raw->fd, &bell, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static inline struct att_wire_request ping(const struct raw *raw)
{
    return (struct att_wire_request){.length = sizeof(struct att_wire_request),
                                     .generation = raw->welcome.generation,
                                     .type = ATT_REQ_PING};
}

static inline void raw_send(struct raw *raw, const struct att_wire_request *request, size_t payload_bytes)
{
    static const unsigned char payload[4096];
    const struct att_part parts[] = {{request, sizeof *request}, {payload, payload_bytes}};
    att_producer_put(&raw->requests, parts, 2);
    att_producer_publish(&raw->requests);
    raw_ring(raw);
}

/* The daemon hangs up within 2 s. */
static inline void assert_ended(struct raw *raw)
{
    struct pollfd wait = {.fd = raw->fd, .events = POLLIN};
    char byte;
    assert_int_equal(poll(&wait, 1, 2000), 1);
    ssize_t bytes = recv(raw->fd, &byte, 1, MSG_DONTWAIT);
    /* ECONNRESET: a doorbell was not read any more */
    assert_true(bytes == 0 || (bytes < 0 && errno == ECONNRESET));
}

static inline void assert_open(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    raw_send(raw, &request, 0);
    for (int i = 0; i < 2000 && att_consumer_peek(&raw->replies) == ATT_RING_EMPTY; i++)
        usleep(1000);
    assert_int_equal(att_consumer_peek(&raw->replies), ATT_RING_READY);
    att_consumer_take(&raw->replies, 1, false);
}

#endif
