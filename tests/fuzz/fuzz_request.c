/* libFuzzer target: a client that does to its channel what the input says, against the real server. Steps:
 *   0  a message: the header's bytes (generation put right if the next byte is even), then a payload length
 *   1  one word anywhere in the channel        2  bytes on the socket
 *   3  the daemon serves                       4  the reply cursor moves on by some slots
 *   5  a batch of the requests whose types and fields the input says, with one byte changed
 * The server must never touch memory that is not its own, never give a request that is not well formed, and the other
 * client must go on being answered exactly. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"
#include "handshake.h"
#include "server.h"

enum { D = 3, D_V = 5, MOST_STEPS = 64 };

static struct att_server *server;
static char path[100];
static uint64_t honest_session;

struct raw {
    int fd;
    struct att_welcome welcome;
    struct att_channel channel;
    struct att_producer requests;
    struct att_consumer replies;
};
static struct raw honest;

struct input {
    const unsigned char *at;
    size_t left;
};

static void must(bool right)
{
    if (!right)
        abort();
}

static uint64_t take(struct input *input, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && input->left > 0; i++, input->at++, input->left--)
        value |= (uint64_t)*input->at << 8 * i;
    return value;
}

static void raw_open(struct raw *raw)
{
    struct sockaddr_un address;
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
    int fds[2];
    size_t count = 0;
    must(att_socket_address(path, &address, NULL) == ATT_OK);
    raw->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    must(connect(raw->fd, (const struct sockaddr *)&address, sizeof address) == 0);
    must(att_packet_send(raw->fd, &hello, sizeof hello, NULL, 0));
    while (att_packet_receive(raw->fd, &raw->welcome, sizeof raw->welcome, fds, 2, &count) < 0)
        att_server_wait(server, 10);
    must(raw->welcome.status == ATT_OK && count == 2);
    const struct att_geometry geometry = {raw->welcome.request_slots, raw->welcome.reply_slots,
                                          raw->welcome.chunk_bytes};
    must(att_channel_attach(fds[0], &geometry, raw->welcome.generation, &raw->channel, NULL) == ATT_OK);
    close(fds[0]);
    close(fds[1]);
    att_producer_init(&raw->requests, raw->channel.request_slots, geometry.request_slots,
                      &raw->channel.control->request_tail, 0);
    att_consumer_init(&raw->replies, raw->channel.reply_slots, geometry.reply_slots, &raw->channel.control->reply_tail,
                      0);
}

static void raw_close(struct raw *raw)
{
    att_channel_release(&raw->channel);
    close(raw->fd);
}

/* A request that the server gives is well formed, whatever is in the ring. */
static void check(const struct att_server_request *request)
{
    const struct att_wire_request *header = &request->header;
    const struct att_request_rule *rule = att_request_rule(header->type);
    float sum = 0;
    must(rule != NULL && header->type != ATT_REQ_BATCH && (header->fields & ~(unsigned)rule->allowed) == 0);
    must(!(header->fields & ATT_WIRE_KEY) == !request->key && !(header->fields & ATT_WIRE_VALUE) == !request->value);
    for (int i = 0; request->key && i < D; i++)
        sum += request->key[i] > 0;
    for (int i = 0; request->value && i < D_V; i++)
        sum += request->value[i] > 0;
    must(sum >= 0);
}

/* Answers that are computed elsewhere: given at the next turn. */
enum { MOST_LATE = 64 };
static struct att_server_request late[MOST_LATE];
static uint32_t late_count, parks;

static void answer(const struct att_server_request *request)
{
    static const double zeros[1024];
    struct att_wire_reply reply = {.type = request->header.type, .tag = request->header.tag};
    size_t payload = 0;
    if (request->header.type == ATT_REQ_ROW)
        payload = sizeof(double) * D_V;
    if (request->header.type == ATT_REQ_STAT)
        payload = sizeof(struct att_stat);
    if (request->header.type == ATT_REQ_COLUMN || request->header.type == ATT_REQ_ALL)
        payload = att_server_has_room(server, request->session) ? 64 : 0;
    reply.value = request->header.index;
    att_server_reply(server, request->session, &reply, zeros, payload);
}

static void serve(void)
{
    struct att_server_request request;
    for (; late_count > 0; late_count--) {
        att_server_computed(server, late[late_count - 1].session);
        answer(&late[late_count - 1]);
    }
    att_server_unpark(server);
    for (int i = 0; i < 200 && att_server_next(server, &request); i++) {
        struct att_wire_request hint;
        att_server_ahead(server, &hint);
        check(&request);
        if (request.header.type == ATT_REQ_DELETE && ++parks % 2) {
            att_server_park(server);
            continue;
        }
        if (request.header.type == ATT_REQ_ROW && request.header.column % 2 && late_count < MOST_LATE) {
            att_server_compute(server);
            late[late_count++] = request;
        } else {
            answer(&request);
        }
        att_server_take(server);
    }
    att_server_wait(server, 0);
}

static void honest_asks(uint32_t index)
{
    const struct att_wire_request request = {.length = sizeof request,
                                             .generation = honest.welcome.generation,
                                             .type = ATT_REQ_QUERY,
                                             .index = index,
                                             .tag = index};
    const struct att_part part = {&request, sizeof request};
    struct att_wire_reply reply;
    if (att_producer_room(&honest.requests) < 1)
        must(att_producer_refresh(&honest.requests));
    att_producer_put(&honest.requests, &part, 1);
    att_producer_publish(&honest.requests);
    for (int i = 0; i < 100 && att_consumer_peek(&honest.replies) == ATT_RING_EMPTY; i++)
        serve();
    must(att_consumer_peek(&honest.replies) == ATT_RING_READY);
    must(att_consumer_read(&honest.replies, 0, &reply, sizeof reply));
    must(reply.tag == index && reply.value == index);
    att_consumer_take(&honest.replies, 1, false);
}

static void put(struct raw *raw, const struct att_part *parts, size_t count)
{
    const uint64_t room = 64;
    if (att_producer_room(&raw->requests) < room && !att_producer_refresh(&raw->requests))
        return;
    if (att_producer_room(&raw->requests) < room)
        return;
    att_producer_put(&raw->requests, parts, count);
    att_producer_publish(&raw->requests);
}

static void put_batch(struct raw *raw, struct input *input)
{
    static unsigned char bytes[3200];
    struct att_wire_request request = {.generation = raw->welcome.generation, .type = ATT_REQ_BATCH};
    const uint32_t count = (uint32_t)take(input, 1) % 34;
    size_t length = sizeof request;
    for (uint32_t i = 0; i < count; i++) {
        struct att_wire_request item = {.length = sizeof item,
                                        .generation = raw->welcome.generation,
                                        .type = (uint16_t)(take(input, 1) % 20),
                                        .fields = (uint16_t)(take(input, 1) % 8),
                                        .column = i};
        item.length += (item.fields & ATT_WIRE_KEY ? 4 * D : 0) + (item.fields & ATT_WIRE_VALUE ? 4 * D_V : 0);
        memcpy(bytes + length, &item, sizeof item);
        length += item.length;
    }
    request.index = count;
    request.length = (uint32_t)length;
    memcpy(bytes, &request, sizeof request);
    bytes[take(input, 2) % length] ^= (unsigned char)take(input, 1);
    put(raw, &(const struct att_part){bytes, length}, 1);
}

static void step(struct raw *raw, struct input *input)
{
    switch (take(input, 1) % 6) {
    case 0: {
        unsigned char payload[256] = {0};
        struct att_wire_request request;
        bool right = take(input, 1) % 2 == 0;
        for (size_t i = 0; i < sizeof request; i++)
            ((unsigned char *)&request)[i] = (unsigned char)take(input, 1);
        if (right)
            request.generation = raw->welcome.generation;
        const struct att_part parts[] = {{&request, sizeof request}, {payload, take(input, 1)}};
        put(raw, parts, 2);
        return;
    }
    case 1: {
        size_t word = take(input, 4) % (raw->channel.bytes / 8);
        ((uint64_t *)raw->channel.base)[word] = take(input, 8);
        return;
    }
    case 2: {
        char bells[16] = {1};
        send(raw->fd, bells, take(input, 1) % sizeof bells, MSG_DONTWAIT | MSG_NOSIGNAL);
        return;
    }
    case 3:
        serve();
        return;
    case 5:
        put_batch(raw, input);
        return;
    default:
        atomic_fetch_add(&raw->channel.control->reply_tail, take(input, 2));
        return;
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    char directory[] = "/tmp/attnd-fuzz-XXXXXX";
    must(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/s", directory);
    const struct att_server_options options = {
        .socket = path,
        .info = {.heads = 1, .n_q = 9, .d = D, .d_v = D_V, .capacity = 9, .precision = 1, .scale = 1},
    };
    must(att_server_create(&options, &server, NULL) == ATT_OK);
    raw_open(&honest);
    (void)honest_session;
    return 0;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    static uint32_t asked;
    struct input input = {data, bytes};
    struct raw raw;
    raw_open(&raw);
    for (int i = 0; i < MOST_STEPS && input.left > 0; i++)
        step(&raw, &input);
    serve();
    honest_asks(++asked);
    raw_close(&raw);
    while (att_server_clients(server) > 1) {
        serve();
        att_server_wait(server, 10);
    }
    return 0;
}
