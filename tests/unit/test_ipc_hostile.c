/* Hostile clients: raw handshakes, forged rings. Each ends its own session with a reason, and nothing else. */
#include "test_ipc_service.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "channel.h"
#include "handshake.h"

/* A client that speaks the protocol by hand. */
struct raw {
    int fd;
    struct att_welcome welcome;
    struct att_channel channel;
    struct att_producer requests;
    struct att_consumer replies;
};

static int raw_socket(const struct service *service)
{
    struct sockaddr_un address;
    assert_int_equal(att_socket_address(service->socket, &address, NULL), ATT_OK);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static long raw_receive(int fd, void *data, size_t bytes, int fds[2], size_t *ret_count)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    *ret_count = 0;
    if (poll(&wait, 1, 5000) != 1)
        return -2;
    return att_packet_receive(fd, data, bytes, fds, 2, ret_count);
}

static void raw_open(const struct service *service, struct raw *raw)
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

static void raw_close(struct raw *raw)
{
    att_channel_release(&raw->channel);
    close(raw->fd);
}

static void raw_ring(struct raw *raw)
{
    const char bell = 1;
    send(raw->fd, &bell, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static struct att_wire_request ping(const struct raw *raw)
{
    return (struct att_wire_request){.length = sizeof(struct att_wire_request),
                                     .generation = raw->welcome.generation,
                                     .type = ATT_REQ_PING};
}

static void raw_send(struct raw *raw, const struct att_wire_request *request, size_t payload_bytes)
{
    static const unsigned char payload[4096];
    const struct att_part parts[] = {{request, sizeof *request}, {payload, payload_bytes}};
    att_producer_put(&raw->requests, parts, 2);
    att_producer_publish(&raw->requests);
    raw_ring(raw);
}

/* The daemon hangs up within 2 s. */
static void assert_ended(struct raw *raw)
{
    struct pollfd wait = {.fd = raw->fd, .events = POLLIN};
    char byte;
    assert_int_equal(poll(&wait, 1, 2000), 1);
    ssize_t bytes = recv(raw->fd, &byte, 1, MSG_DONTWAIT);
    /* ECONNRESET: a doorbell was not read any more */
    assert_true(bytes == 0 || (bytes < 0 && errno == ECONNRESET));
}

static void assert_open(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    raw_send(raw, &request, 0);
    for (int i = 0; i < 2000 && att_consumer_peek(&raw->replies) == ATT_RING_EMPTY; i++)
        usleep(1000);
    assert_int_equal(att_consumer_peek(&raw->replies), ATT_RING_READY);
    att_consumer_take(&raw->replies, 1, false);
}

/* ---- Forgeries: each changes something, and tells what the log must say -------------------------------- */

static const char *forge_length_short(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.length = 47;
    raw_send(raw, &request, 0);
    return "impossible length";
}

static const char *forge_length_huge(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.length = UINT32_MAX;
    raw_send(raw, &request, 0);
    return "impossible length";
}

static const char *forge_length_of_fields(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.length += 4;
    raw_send(raw, &request, 4);
    return "length does not fit its fields";
}

static const char *forge_generation(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.generation ^= 1;
    raw_send(raw, &request, 0);
    return "another channel's generation";
}

static const char *forge_type(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_BATCH + 1;
    raw_send(raw, &request, 0);
    return "unknown type";
}

static const char *forge_type_zero(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = 0;
    raw_send(raw, &request, 0);
    return "unknown type";
}

static const char *forge_missing_key(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_SET_Q;
    raw_send(raw, &request, 0);
    return "fields that do not belong";
}

static const char *forge_extra_field(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.fields = ATT_WIRE_KEY;
    request.length += 4 * D;
    raw_send(raw, &request, 4 * D);
    return "fields that do not belong";
}

static const char *forge_no_field(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_SET_TOKEN;
    raw_send(raw, &request, 0);
    return "fields that do not belong";
}

static const char *forge_flags(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.flags = 0x80;
    raw_send(raw, &request, 0);
    return "unknown flags";
}

static const char *forge_first_number(struct raw *raw)
{
    atomic_store(&raw->channel.request_slots[0].seq, 12345);
    raw_ring(raw);
    return "wrong number";
}

/* The second slot of a message says that it belongs to another round. */
static const char *forge_later_number(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    request.type = ATT_REQ_SET_TOKEN;
    request.fields = ATT_WIRE_KEY | ATT_WIRE_VALUE;
    request.length += 4 * (D + D_V);
    static const unsigned char payload[4 * (D + D_V)];
    const struct att_part parts[] = {{&request, sizeof request}, {payload, sizeof payload}};
    att_producer_put(&raw->requests, parts, 2);
    atomic_store(&raw->channel.request_slots[1].seq, 2 + raw->welcome.request_slots);
    att_producer_publish(&raw->requests);
    raw_ring(raw);
    return "wrong number";
}

/* The daemon reads the cursor of the reply ring only when that seems full. */
static const char *forge_cursor(struct raw *raw)
{
    struct att_wire_request request = ping(raw);
    atomic_store(&raw->channel.control->reply_tail, UINT64_MAX / 3);
    for (uint32_t i = 0; i < raw->welcome.reply_slots; i++) {
        for (int tries = 0; att_producer_room(&raw->requests) < 1 && tries < 2000; tries++) {
            raw_ring(raw);
            att_producer_refresh(&raw->requests);
            if (att_producer_room(&raw->requests) < 1)
                usleep(1000);
        }
        if (att_producer_room(&raw->requests) < 1)
            break; /* the session has ended already */
        raw_send(raw, &request, 0);
    }
    return "reply cursor is impossible";
}

static const char *forge_socket(struct raw *raw)
{
    assert_int_equal(send(raw->fd, "more than a doorbell", 20, MSG_NOSIGNAL), 20);
    return "more than a doorbell";
}

static void forgeries_end_their_session_only(void **unused)
{
    (void)unused;
    static const char *(*const forgeries[])(struct raw *) = {
        forge_length_short, forge_length_huge,  forge_length_of_fields, forge_generation, forge_type,
        forge_type_zero,    forge_missing_key,  forge_extra_field,      forge_no_field,   forge_flags,
        forge_first_number, forge_later_number, forge_cursor,           forge_socket,
    };
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++) {
        struct service service;
        struct raw raw;
        service_start(&service);
        struct att_client *bystander = service_connect(&service, 5000);
        raw_open(&service, &raw);
        assert_open(&raw);
        raw_close(&raw);
        raw_open(&service, &raw);
        const char *reason = forgeries[i](&raw);
        assert_ended(&raw);
        service_await_log(&service, reason);
        assert_works(bystander);
        service_await_clients(bystander, 1);
        raw_close(&raw);
        att_close(bystander);
        service_stop(&service);
    }
}

/* Scribbles all over the channel, lengths and numbers made plausible by being small. */
static void scribbling_hurts_nobody_else(void **unused)
{
    (void)unused;
    const char *given = getenv("ATT_TEST_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);
    print_message("ATT_TEST_SEED=%u\n", seed);
    srandom(seed);
    struct service service;
    service_start(&service);
    struct att_client *bystander = service_connect(&service, 5000);
    for (int round = 0; round < 150; round++) {
        struct raw raw;
        raw_open(&service, &raw);
        for (int i = 0; i < 300; i++) {
            struct att_wire_request request = ping(&raw);
            size_t where = (size_t)random() % (sizeof request / 2);
            uint16_t what = (uint16_t)random();
            if (random() % 4 == 0)
                memcpy((unsigned char *)&request + 2 * where, &what, sizeof what);
            if (random() % 8 == 0)
                raw.requests.head = raw.requests.published = raw.requests.head + (uint64_t)random() % 3;
            if (att_producer_room(&raw.requests) > 64)
                raw_send(&raw, &request, (size_t)random() % 300);
            size_t word = (size_t)random() % (raw.channel.bytes / 8);
            if (random() % 2)
                word %= 1024;
            ((_Atomic uint64_t *)raw.channel.base)[word] = (uint64_t)random() % 5000;
        }
        assert_works(bystander);
        raw_close(&raw);
    }
    service_await_clients(bystander, 1);
    att_close(bystander);
    service_stop(&service);
}

/* ---- Memory -------------------------------------------------------------------------------------------- */

/* Sends hello, takes the welcome and keeps its descriptors: channel and status page. */
static int raw_descriptors(const struct service *service, int fds[2])
{
    struct att_welcome welcome;
    size_t count;
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
    int fd = raw_socket(service);
    assert_true(att_packet_send(fd, &hello, sizeof hello, NULL, 0));
    assert_int_equal(raw_receive(fd, &welcome, sizeof welcome, fds, &count), sizeof welcome);
    assert_int_equal(count, 2);
    return fd;
}

static int reopen(int fd, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

/* A hole in the channel reads as zeros: an empty ring, or a violation. The status page has no holes, and no writers. */
static void holes_and_writers_through_proc(void **unused)
{
    (void)unused;
    struct service service;
    struct stat file;
    int fds[2];
    service_start(&service);
    struct att_client *bystander = service_connect(&service, 5000);
    int fd = raw_descriptors(&service, fds);
    assert_int_equal(fstat(fds[0], &file), 0);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(fallocate(fds[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, file.st_size), 0);
        send(fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        assert_works(bystander);
    }
    assert_int_equal(fallocate(fds[0], 0, 0, file.st_size + 4096), -1);
    assert_int_equal(fallocate(fds[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    for (int k = 0; k < 2; k++) {
        int again = reopen(fds[k], O_RDWR);
        if (again < 0)
            continue;
        assert_int_equal(ftruncate(again, 0), -1);
        assert_int_equal(ftruncate(again, file.st_size * 2), -1);
        if (k == 1) {
            assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
            assert_int_equal(pwrite(again, "x", 1, 64), -1);
        }
        close(again);
        assert_int_equal(reopen(fds[k], O_RDWR | O_TRUNC), -1);
    }
    assert_works(bystander);
    close(fds[0]);
    close(fds[1]);
    close(fd);
    service_await_clients(bystander, 1);
    att_close(bystander);
    service_stop(&service);
}

struct changer {
    struct raw *raw;
    _Atomic bool stop;
    uint64_t good[ATT_SLOT_WORDS], bad[ATT_SLOT_WORDS];
};

/* Changes the words of a message all the time: before it is read, while it is, after it has been validated. */
static void *change_words(void *context)
{
    struct changer *changer = context;
    for (uint64_t i = 0; !atomic_load(&changer->stop); i++)
        for (int w = 0; w < ATT_SLOT_WORDS; w++)
            atomic_store_explicit(&changer->raw->channel.request_slots[0].words[w],
                                  i % 2 ? changer->bad[w] : changer->good[w], memory_order_relaxed);
    return NULL;
}

static void messages_changed_while_they_are_read(void **unused)
{
    (void)unused;
    struct service service;
    service_start(&service);
    struct att_client *bystander = service_connect(&service, 5000);
    for (int round = 0; round < 120; round++) {
        struct raw raw;
        struct changer changer = {.raw = &raw};
        pthread_t thread;
        raw_open(&service, &raw);
        struct att_wire_request good = ping(&raw), bad = good;
        good.type = ATT_REQ_SET_TOKEN;
        good.fields = ATT_WIRE_KEY;
        good.length += 4 * D;
        bad.type = (uint16_t)(round % 3 == 0 ? ATT_REQ_ALL : ATT_REQ_APPEND);
        bad.fields = round % 2 ? ATT_WIRE_KEY | ATT_WIRE_VALUE : 0xffff;
        bad.length = round % 5 ? 48 + 4 * (D + D_V) : UINT32_MAX;
        memcpy(changer.good, &good, sizeof good);
        memcpy(changer.bad, &bad, sizeof bad);
        pthread_create(&thread, NULL, change_words, &changer);
        raw_send(&raw, &good, 4 * D);
        assert_works(bystander);
        atomic_store(&changer.stop, true);
        pthread_join(thread, NULL);
        raw_close(&raw);
    }
    service_await_clients(bystander, 1);
    att_close(bystander);
    service_stop(&service);
}

/* bell, client_ticket, wants_room and both cursors' neighbours: whatever they say, it is the scribbler who waits. */
static void scribbled_futex_words(void **unused)
{
    (void)unused;
    struct service service;
    struct raw raw;
    service_start(&service);
    struct att_client *bystander = service_connect(&service, 5000);
    raw_open(&service, &raw);
    struct att_wire_request request = ping(&raw);
    const uint64_t end = test_now_ns() + 500000000;
    for (uint32_t i = 0; test_now_ns() < end; i++) {
        atomic_store(&raw.channel.control->client_ticket, i * 2654435761u);
        atomic_store(&raw.channel.control->bell, i * 40503u);
        atomic_store(&raw.channel.control->wants_room, i % 3);
        if (i % 4 == 0 && att_producer_room(&raw.requests) > 8) {
            raw_send(&raw, &request, 0);
            att_producer_refresh(&raw.requests);
        }
        while (att_consumer_peek(&raw.replies) == ATT_RING_READY)
            att_consumer_take(&raw.replies, 1, true);
        if (i % 64 == 0)
            assert_works(bystander);
    }
    atomic_store(&raw.channel.control->client_ticket, 0);
    assert_works(bystander);
    raw_close(&raw);
    service_await_clients(bystander, 1);
    att_close(bystander);
    service_stop(&service);
}

static int count_descriptors(pid_t pid)
{
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

/* Descriptors sent along are not taken in; those that a client never takes out keep nobody else out. */
static void descriptors_sent_and_not_received(void **unused)
{
    (void)unused;
    enum { DEAF = 100 };
    struct service service;
    int deaf[DEAF], fds[2];
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
    service_start(&service);
    struct att_client *bystander = service_connect(&service, 5000);
    assert_works(bystander);
    const int before = count_descriptors(service.pid);
    for (int i = 0; i < DEAF; i++) {
        const int along[] = {0, 0, 0};
        deaf[i] = raw_socket(&service);
        assert_true(att_packet_send(deaf[i], &hello, sizeof hello, along, 3));
    }
    service_await_clients(bystander, DEAF + 1);
    assert_int_equal(count_descriptors(service.pid), before + DEAF);
    struct att_client *another = service_connect(&service, 5000);
    assert_works(another);
    att_close(another);
    for (int i = 0; i < DEAF; i++)
        close(deaf[i]);
    int fd = raw_descriptors(&service, fds);
    for (int i = 0; i < 20; i++) /* doorbells with something in their hands */
        att_packet_send(fd, "", 1, fds, 2);
    assert_works(bystander);
    usleep(20000);
    assert_true(count_descriptors(service.pid) <= before + 1);
    close(fds[0]);
    close(fds[1]);
    close(fd);
    service_await_clients(bystander, 1);
    att_close(bystander);
    service_stop(&service);
}

/* Connections without end, half with a hello, all dropped at once: others are answered, and new ones get in. */
static void flood_of_connections(void **unused)
{
    (void)unused;
    struct service service;
    int count = 0;
    service_start(&service);
    struct att_client *bystander = service_connect(&service, 5000);
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
        struct sockaddr_un address;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        att_socket_address(service.socket, &address, NULL);
        for (unsigned i = 0;; i++) {
            int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 && i % 2)
                att_packet_send(fd, &hello, sizeof hello, NULL, 0);
            close(fd);
        }
    }
    for (const uint64_t end = test_now_ns() + 1000000000; test_now_ns() < end; count++) {
        assert_works(bystander);
        if (count % 500 == 0) {
            struct att_client *another = service_connect(&service, 5000);
            assert_works(another);
            att_close(another);
        }
    }
    print_message("%d answers in a second of the flood\n", count);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(count > 100);
    service_await_clients(bystander, 1);
    att_close(bystander);
    service_stop(&service);
}

/* ---- Handshakes ---------------------------------------------------------------------------------------- */

static void wrong_version_is_told_both(void **unused)
{
    (void)unused;
    struct service service;
    struct att_welcome welcome;
    int fds[2];
    size_t count;
    service_start(&service);
    int fd = raw_socket(&service);
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = 99};
    assert_true(att_packet_send(fd, &hello, 16, NULL, 0)); /* another version's may have another length */
    assert_int_equal(raw_receive(fd, &welcome, sizeof welcome, fds, &count), sizeof welcome);
    assert_int_equal(welcome.status, ATT_EVERSION);
    assert_int_equal(welcome.protocol, ATT_PROTOCOL_VERSION);
    assert_non_null(strstr(welcome.text, "version 1"));
    assert_non_null(strstr(welcome.text, "99"));
    assert_int_equal(count, 0);
    close(fd);
    service_stop(&service);
}

static void garbage_hello_is_refused(void **unused)
{
    (void)unused;
    struct service service;
    struct att_welcome welcome;
    int fds[2];
    size_t count;
    char garbage[3000];
    memset(garbage, 'x', sizeof garbage);
    service_start(&service);
    static const size_t lengths[] = {1, 15, 63, 64, 65, 3000};
    for (size_t i = 0; i < 6; i++) {
        int fd = raw_socket(&service);
        int extra[2] = {0, 1}; /* descriptors that nobody asked for */
        assert_true(att_packet_send(fd, garbage, lengths[i], extra, 2));
        assert_int_equal(raw_receive(fd, &welcome, sizeof welcome, fds, &count), sizeof welcome);
        assert_int_equal(welcome.status, ATT_EPROTOCOL);
        close(fd);
    }
    struct att_client *client = service_connect(&service, 5000);
    assert_works(client);
    att_close(client);
    service_stop(&service);
}

static void silent_connections_are_dropped(void **unused)
{
    (void)unused;
    struct service service;
    enum { IDLERS = 100 };
    int idlers[IDLERS];
    service_start(&service);
    for (int i = 0; i < IDLERS; i++)
        idlers[i] = raw_socket(&service);
    /* they keep nobody out */
    uint64_t start = test_now_ns();
    struct att_client *client = service_connect(&service, 1000);
    assert_works(client);
    for (int i = 0; i < IDLERS; i++) {
        struct pollfd wait = {.fd = idlers[i], .events = POLLIN};
        char byte;
        assert_int_equal(poll(&wait, 1, 5000), 1);
        assert_int_equal(recv(idlers[i], &byte, 1, MSG_DONTWAIT), 0);
        close(idlers[i]);
    }
    assert_in_range(test_now_ns() - start, UINT64_C(1900000000), UINT64_C(4000000000));
    att_close(client);
    service_stop(&service);
}

static void client_limit(void **unused)
{
    (void)unused;
    struct service service;
    struct att_client *clients[3], *more;
    struct att_error error;
    service_start_with(&service, (struct att_server_options){.max_clients = 3});
    for (int i = 0; i < 3; i++)
        clients[i] = service_connect(&service, 5000);
    const struct att_connect_options options = {.socket = service.socket};
    assert_int_equal(att_connect(&options, &more, &error), ATT_EBUSY);
    assert_non_null(strstr(error.text, "all the 3 clients"));
    att_close(clients[1]);
    service_await_clients(clients[0], 2);
    for (int i = 0; i < 10; i++) { /* places are used again */
        clients[1] = service_connect(&service, 5000);
        assert_works(clients[1]);
        att_close(clients[1]);
        service_await_clients(clients[0], 2);
    }
    att_close(clients[0]);
    att_close(clients[2]);
    service_stop(&service);
}

static void other_users_are_refused(void **unused)
{
    (void)unused;
    if (geteuid() != 0) {
        skip();
        return;
    }
    for (int allowed = 0; allowed < 2; allowed++) {
        struct service service;
        int status;
        const uid_t uids[] = {allowed ? 12345 : 12346};
        service_start_with(&service, (struct att_server_options){.allowed = uids, .allowed_count = 1});
        assert_int_equal(chmod(service.directory, 0711), 0);
        pid_t child = fork();
        if (child == 0) {
            struct att_client *client;
            struct att_error error = {0};
            const struct att_connect_options options = {.socket = service.socket};
            if (setuid(12345) != 0)
                _exit(100);
            enum att_status got = att_connect(&options, &client, &error);
            _exit(got == ATT_EPERM && !strstr(error.text, "--allow-uid 12345") ? 101 : (int)got);
        }
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), allowed ? ATT_OK : ATT_EPERM);
        service_stop(&service);
    }
}

/* A socket that somebody listens on who holds no lock of ours: another program, or a daemon whose lock file was removed. */
static void check_a_listener_is_left_alone(const char *path, int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct att_server_options options = {.socket = path, .info = {.d = D, .d_v = D_V}};
    struct att_server *server = NULL;
    struct att_error error;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(att_server_create(&options, &server, &error), ATT_ELOCKED);
    assert_null(server);
    assert_int_equal(access(path, F_OK), 0);
    close(fd);
    assert_int_equal(unlink(path), 0);
}

static void stale_sockets_are_replaced_live_ones_are_not(void **unused)
{
    (void)unused;
    struct service service;
    struct att_server *server = NULL;
    struct att_error error;
    service_start(&service);
    struct att_server_options options = {.socket = service.socket, .info = {.d = D, .d_v = D_V}};
    assert_int_equal(att_server_create(&options, &server, &error), ATT_ELOCKED);
    struct att_client *client = service_connect(&service, 5000);
    assert_works(client); /* its socket is still there */
    att_close(client);
    kill(service.pid, SIGKILL);
    while (att_server_create(&options, &server, &error) == ATT_ELOCKED) /* until the killed one is gone */
        usleep(1000);
    assert_non_null(server);
    att_server_free(server);
    assert_int_equal(access(service.socket, F_OK), -1);
    check_a_listener_is_left_alone(service.socket, SOCK_SEQPACKET);
    check_a_listener_is_left_alone(service.socket, SOCK_STREAM);
    FILE *file = fopen(service.socket, "w"); /* somebody's file is never removed */
    fclose(file);
    assert_int_equal(att_server_create(&options, &server, &error), ATT_EEXIST);
    assert_int_equal(access(service.socket, F_OK), 0);
    waitpid(service.pid, NULL, 0);
    unlink(service.socket);
    char path[120];
    snprintf(path, sizeof path, "%s.lock", service.socket);
    unlink(path);
    unlink(service.log);
    rmdir(service.directory);
}

static void open_directories_are_refused(void **unused)
{
    (void)unused;
    char directory[] = "/tmp/attnd-test-XXXXXX", path[100];
    struct att_server *server;
    struct att_error error;
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chmod(directory, 0777), 0);
    snprintf(path, sizeof path, "%s/s.sock", directory);
    const struct att_server_options options = {.socket = path, .info = {.d = D, .d_v = D_V}};
    assert_int_equal(att_server_create(&options, &server, &error), ATT_EPERM);
    assert_non_null(strstr(error.text, directory));
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forgeries_end_their_session_only),
        cmocka_unit_test(scribbling_hurts_nobody_else),
        cmocka_unit_test(holes_and_writers_through_proc),
        cmocka_unit_test(messages_changed_while_they_are_read),
        cmocka_unit_test(scribbled_futex_words),
        cmocka_unit_test(descriptors_sent_and_not_received),
        cmocka_unit_test(flood_of_connections),
        cmocka_unit_test(wrong_version_is_told_both),
        cmocka_unit_test(garbage_hello_is_refused),
        cmocka_unit_test(silent_connections_are_dropped),
        cmocka_unit_test(client_limit),
        cmocka_unit_test(other_users_are_refused),
        cmocka_unit_test(stale_sockets_are_replaced_live_ones_are_not),
        cmocka_unit_test(open_directories_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
