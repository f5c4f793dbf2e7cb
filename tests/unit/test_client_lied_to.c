/* A daemon that lies: the client believes no length, number, tag or geometry, and says what was
 * wrong. The daemon is a thread here that speaks the protocol by hand. */
#include "test_ipc_service.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "channel.h"
#include "handshake.h"
#include "region.h"

enum lie {
    TRUTH,
    WELCOME_SHORT,
    WELCOME_MAGIC,
    WELCOME_VERSION,
    WELCOME_STATUS,
    WELCOME_NO_FDS,
    WELCOME_GEOMETRY,
    WELCOME_CHUNK,
    WELCOME_BYTES,
    WELCOME_UNSEALED,
    WELCOME_SMALL,
    WELCOME_OTHER,
    WELCOME_HANG_UP,
    WELCOME_NEVER,
    REPLY_LONG,
    REPLY_SHORT,
    REPLY_LENGTH,
    REPLY_GENERATION,
    REPLY_TAG,
    REPLY_ROUND,
    REPLY_TYPE,
    REPLY_STATUS,
    REPLY_MORE,
    REPLY_NOTHING,
    REPLY_TEXT,
    REPLY_NUMBER,
    REPLY_TWICE,
    REPLY_CURSOR,
    REGION_TRUTH, /* from here on: about what it publishes, to a client that wants direct reads */
    REGION_OTHER_HEAD,
    REGION_NO_FD,
    REGION_ROWS,
    REGION_KEYS,
    REGION_VALUES,
    REGION_PRECISION,
};

struct liar {
    pthread_t thread;
    enum lie lie;
    int listener;
    char path[80];
};

static void send_welcome(int fd, enum lie lie, const struct att_geometry *geometry, int channel_fd, int page_fd)
{
    struct att_welcome welcome = {
        .magic = ATT_WELCOME_MAGIC,
        .protocol = ATT_PROTOCOL_VERSION,
        .generation = 5,
        .request_slots = geometry->request_slots,
        .reply_slots = geometry->reply_slots,
        .chunk_bytes = geometry->chunk_bytes,
        .channel_bytes = att_geometry_bytes(geometry),
        .heads = 1,
        .n_q = N_Q,
        .d = D,
        .d_v = D_V,
    };
    int unsealed = memfd_create("unsealed", MFD_CLOEXEC);
    assert_int_equal(ftruncate(unsealed, (off_t)att_geometry_bytes(geometry)), 0);
    int fds[2] = {channel_fd, page_fd};
    size_t bytes = sizeof welcome, count = 2;
    switch (lie) {
    case WELCOME_SHORT:
        bytes = 100;
        break;
    case WELCOME_MAGIC:
        welcome.magic++;
        break;
    case WELCOME_VERSION:
        welcome.protocol = 7;
        bytes = 256; /* another version: only the common part */
        count = 0;
        break;
    case WELCOME_STATUS:
        welcome.status = 200;
        break;
    case WELCOME_NO_FDS:
        count = 0;
        break;
    case WELCOME_GEOMETRY:
        welcome.request_slots *= 2;
        break;
    case WELCOME_CHUNK:
        welcome.chunk_bytes = 1u << 30;
        break;
    case WELCOME_BYTES:
        welcome.d = UINT32_MAX;
        break;
    case WELCOME_UNSEALED:
        fds[0] = unsealed;
        break;
    case WELCOME_SMALL: /* to read behind its end would be the end of the client */
        assert_int_equal(ftruncate(unsealed, 4096), 0);
        fds[0] = unsealed;
        break;
    case WELCOME_OTHER:
        welcome.generation++;
        break;
    default:
        welcome.regions = lie >= REGION_TRUTH;
        break;
    }
    if (lie != WELCOME_HANG_UP)
        att_packet_send(fd, &welcome, bytes, fds, count);
    close(unsealed);
}

/* The region of the one head; what is wrong in its shape would make the client write behind its caller's memory. */
static void send_region(int fd, enum lie lie)
{
    const struct att_engine_options options = {.n_q = lie == REGION_ROWS ? N_Q / 2 : N_Q,
                                               .d = lie == REGION_KEYS ? D + 1 : D,
                                               .d_v = lie == REGION_VALUES ? D_V + 1 : D_V,
                                               .capacity = 64,
                                               .scale = 1,
                                               .precision = lie == REGION_PRECISION ? ATT_MIXED : ATT_SINGLE,
                                               .log_capacity = 64,
                                               .threads = 1};
    const struct att_regions packet = {.magic = ATT_REGIONS_MAGIC, .first = lie == REGION_OTHER_HEAD, .count = 1};
    struct att_region region = {0};
    int fds[ATT_REGION_FDS];
    assert_int_equal(att_region_create(&options, &region, fds, NULL), ATT_OK);
    att_packet_send(fd, &packet, sizeof packet, fds, lie == REGION_NO_FD ? 1 : ATT_REGION_FDS);
    for (int i = 0; i < ATT_REGION_FDS; i++)
        close(fds[i]);
    att_region_release(&region);
}

/* Answers one row request, with a lie. */
static void send_reply(enum lie lie, const struct att_wire_request *request, struct att_channel *channel,
                       struct att_producer *replies)
{
    static const unsigned char payload[4000];
    size_t bytes = 8 * D_V;
    struct att_wire_reply reply = {.generation = 5, .type = request->type, .tag = request->tag};
    switch (lie) {
    case REPLY_LONG:
        bytes += 8;
        break;
    case REPLY_SHORT:
        bytes -= 8;
        break;
    case REPLY_GENERATION:
        reply.generation++;
        break;
    case REPLY_TAG:
        reply.tag += 3;
        break;
    case REPLY_ROUND:
        reply.tag += UINT64_C(1) << 32;
        break;
    case REPLY_TYPE:
        reply.type = ATT_REQ_PING;
        break;
    case REPLY_STATUS:
        reply.status = 99;
        break;
    case REPLY_MORE:
        reply.flags = ATT_WIRE_MORE;
        break;
    case REPLY_NOTHING:
        reply.flags = ATT_WIRE_MORE;
        bytes = 0;
        break;
    case REPLY_TEXT:
        reply.status = ATT_ERANGE;
        bytes = 300;
        break;
    default:
        break;
    }
    reply.length = (uint32_t)(sizeof reply + bytes);
    if (lie == REPLY_LENGTH)
        reply.length = UINT32_MAX;
    const struct att_part parts[] = {{&reply, sizeof reply}, {payload, bytes}};
    att_producer_put(replies, parts, 2);
    if (lie == REPLY_TWICE)
        att_producer_put(replies, parts, 2);
    if (lie == REPLY_NUMBER)
        atomic_store(&channel->reply_slots[1].seq, 99);
    att_producer_publish(replies);
}

static void *lie_once(void *context)
{
    struct liar *liar = context;
    struct att_hello hello;
    struct att_geometry geometry;
    struct att_channel channel = {0};
    struct att_status_page *page = NULL;
    int channel_fd = -1, page_fd = -1;
    int fd = accept4(liar->listener, NULL, NULL, SOCK_CLOEXEC);
    recv(fd, &hello, sizeof hello, 0);
    att_geometry_choose(D, D_V, &geometry, NULL);
    att_channel_create(&geometry, 5, &channel, &channel_fd, NULL);
    att_status_page_create(1, &page, &page_fd, NULL);
    if (liar->lie != WELCOME_NEVER)
        send_welcome(fd, liar->lie, &geometry, channel_fd, page_fd);
    if (liar->lie >= REGION_TRUTH)
        send_region(fd, liar->lie);
    close(channel_fd);
    close(page_fd);
    if (liar->lie == REPLY_CURSOR)
        atomic_store(&channel.control->request_tail, UINT64_C(1) << 40);
    if (liar->lie == TRUTH || (liar->lie >= REPLY_LONG && liar->lie <= REGION_TRUTH)) {
        struct att_consumer requests;
        struct att_producer replies;
        struct att_wire_request request;
        att_consumer_init(&requests, channel.request_slots, geometry.request_slots, &channel.control->request_tail, 0);
        att_producer_init(&replies, channel.reply_slots, geometry.reply_slots, &channel.control->reply_tail, 0);
        for (int i = 0; i < 5000 && att_consumer_peek(&requests) != ATT_RING_READY; i++)
            usleep(1000);
        if (liar->lie != REPLY_CURSOR && att_consumer_read(&requests, 0, &request, sizeof request))
            send_reply(liar->lie, &request, &channel, &replies);
    }
    char byte;
    if (liar->lie != WELCOME_HANG_UP)
        recv(fd, &byte, 1, 0); /* until the client closes */
    close(fd);
    att_channel_release(&channel);
    att_status_page_release(page);
    return NULL;
}

static enum att_status meet(enum lie lie, struct att_error *error)
{
    struct liar liar = {.lie = lie};
    struct sockaddr_un address;
    struct att_client *client;
    snprintf(liar.path, sizeof liar.path, "/tmp/attnd-liar-%d.sock", (int)getpid());
    unlink(liar.path);
    assert_int_equal(att_socket_address(liar.path, &address, NULL), ATT_OK);
    liar.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(liar.listener, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(liar.listener, 4), 0);
    pthread_create(&liar.thread, NULL, lie_once, &liar);
    const struct att_connect_options options = {.socket = liar.path, .timeout_ms = 500, .direct = lie >= REGION_TRUTH};
    enum att_status status = att_connect(&options, &client, error);
    if (status == ATT_OK) {
        double *row = malloc(8 * D_V); /* exactly: the address sanitizer sees a byte too many */
        static double pairs[2 * N_Q];
        status = lie == REPLY_NOTHING ? att_column(client, 1, pairs) : att_row(client, 1, row, NULL);
        const struct att_request more = {.type = ATT_REQ_PING};
        struct att_completion none;
        if (lie == REPLY_TWICE && status == ATT_OK && att_complete(client, &none, 1, 0) < 0)
            status = ATT_EPROTOCOL;
        for (int i = 0; lie == REPLY_CURSOR && i < 10000 && status != ATT_EPROTOCOL; i++) /* until the ring is full */
            status = att_submit(client, &more);
        snprintf(error->text, sizeof error->text, "%s", att_last_error(client));
        free(row);
        att_close(client);
    }
    pthread_join(liar.thread, NULL);
    close(liar.listener);
    unlink(liar.path);
    return status;
}

static void lies_are_seen(void **unused)
{
    (void)unused;
    static const struct {
        enum lie lie;
        enum att_status status;
        const char *text;
    } cases[] = {
        {TRUTH, ATT_OK, ""},
        {WELCOME_SHORT, ATT_EPROTOCOL, "not attnd"},
        {WELCOME_MAGIC, ATT_EPROTOCOL, "not attnd"},
        {WELCOME_VERSION, ATT_EVERSION, "version 7, this program version 1"},
        {WELCOME_STATUS, ATT_EPROTOCOL, "unknown status"},
        {WELCOME_NO_FDS, ATT_EPROTOCOL, "0 descriptors"},
        {WELCOME_GEOMETRY, ATT_EPROTOCOL, "impossible"},
        {WELCOME_CHUNK, ATT_EPROTOCOL, "impossible"},
        {WELCOME_BYTES, ATT_EPROTOCOL, "impossible"},
        {WELCOME_UNSEALED, ATT_EPROTOCOL, "not sealed"},
        {WELCOME_SMALL, ATT_EPROTOCOL, "does not have the"},
        {WELCOME_OTHER, ATT_EPROTOCOL, "not the one it told"},
        {WELCOME_HANG_UP, ATT_ECLOSED, "closed the connection"},
        {WELCOME_NEVER, ATT_ETIMEOUT, "500 ms"},
        {REPLY_LONG, ATT_EPROTOCOL, "longer"},
        {REPLY_SHORT, ATT_EPROTOCOL, "shorter"},
        {REPLY_LENGTH, ATT_EPROTOCOL, "impossible length"},
        {REPLY_GENERATION, ATT_EPROTOCOL, "generation"},
        {REPLY_TAG, ATT_EPROTOCOL, "not made"},
        {REPLY_ROUND, ATT_EPROTOCOL, "not made"},
        {REPLY_TYPE, ATT_EPROTOCOL, "not made"},
        {REPLY_STATUS, ATT_EPROTOCOL, "unknown status"},
        {REPLY_MORE, ATT_EPROTOCOL, "chunks"},
        {REPLY_NOTHING, ATT_EPROTOCOL, "nothing in it"},
        {REPLY_TEXT, ATT_EPROTOCOL, "too long"},
        {REPLY_NUMBER, ATT_EPROTOCOL, "wrong number"},
        {REPLY_TWICE, ATT_EPROTOCOL, "not made"},
        {REPLY_CURSOR, ATT_EPROTOCOL, "cursor"},
        {REGION_TRUTH, ATT_OK, ""},
        {REGION_OTHER_HEAD, ATT_EPROTOCOL, "other regions"},
        {REGION_NO_FD, ATT_EPROTOCOL, "1 descriptors"},
        {REGION_ROWS, ATT_EPROTOCOL, "another shape"},
        {REGION_KEYS, ATT_EPROTOCOL, "another shape"},
        {REGION_VALUES, ATT_EPROTOCOL, "another shape"},
        {REGION_PRECISION, ATT_EPROTOCOL, "another shape"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct att_error error = {0};
        enum att_status status = meet(cases[i].lie, &error);
        if (status != cases[i].status || (cases[i].text[0] && !strstr(error.text, cases[i].text)))
            fail_msg("lie %d: %s \"%s\", expected %s \"%s\"", (int)cases[i].lie, att_status_name(status), error.text,
                     att_status_name(cases[i].status), cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lies_are_seen)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
