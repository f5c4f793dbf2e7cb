/* Hostile clients: memory that is scribbled over, punched and changed while it is read; descriptors; floods. */
#include "test_ipc_raw.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { FEW = 60 }; /* descriptors that a daemon may have on their way */

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

/* Regions that a client asks for and does not take off its socket are sent once: no more descriptors are on their way. */
static void regions_asked_for_and_not_taken(void **unused)
{
    (void)unused;
    struct service service;
    struct raw raw;
    struct att_regions packet;
    int fds[2];
    size_t count;
    const int regions[ATT_HEAD_FDS] = {0, 0};
    service_start_with(&service, (struct att_server_options){.regions = regions, .region_count = 1});
    raw_open(&service, &raw);
    struct att_wire_request ask = ping(&raw);
    ask.type = ATT_REQ_REGIONS;
    for (int taken = 0; taken < 3; taken++) {
        for (int i = 0; i < 1000; i++)
            raw_send(&raw, &ask, 0);
        assert_open(&raw); /* so all have been dealt with */
        assert_int_equal(raw_receive(raw.fd, &packet, sizeof packet, fds, &count), sizeof packet);
        assert_int_equal(count, ATT_HEAD_FDS);
        assert_int_equal(packet.count, 1);
        close(fds[0]);
        close(fds[1]);
        assert_int_equal(att_packet_receive(raw.fd, &packet, sizeof packet, fds, 2, &count), -1);
    }
    raw_close(&raw);
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

/* A daemon that may have few descriptors on their way, without the rights of root. */
static void start_with_few_descriptors(struct service *service)
{
    static const uid_t allowed[] = {0};
    const struct att_server_options options = {.socket = service->socket,
                                               .allowed = allowed,
                                               .allowed_count = 1,
                                               .info = {.heads = 1, .n_q = N_Q, .d = D, .d_v = D_V}};
    struct att_server *server;
    strcpy(service->directory, "/tmp/attnd-test-XXXXXX");
    assert_non_null(mkdtemp(service->directory));
    snprintf(service->socket, sizeof service->socket, "%s/s.sock", service->directory);
    snprintf(service->log, sizeof service->log, "%s/log", service->directory);
    if (geteuid() == 0)
        assert_int_equal(chown(service->directory, 65534, 65534), 0);
    fflush(NULL);
    service->pid = fork();
    if (service->pid == 0) {
        dup2(open(service->log, O_CREAT | O_WRONLY | O_APPEND, 0600), 2);
        if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){FEW, FEW}) != 0 || (geteuid() == 0 && setuid(65534) != 0) ||
            att_server_create(&options, &server, NULL) != ATT_OK)
            _exit(1);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        service_loop(server);
    }
    const struct att_connect_options first = {.socket = service->socket};
    struct att_client *client = NULL;
    for (int i = 0; i < 2000 && att_connect(&first, &client, NULL) != ATT_OK; i++)
        usleep(1000);
    att_close(client);
}

/* Clients that never receive what they are sent keep new ones out; those are told, and the log says so. */
static void descriptors_that_nobody_receives(void **unused)
{
    (void)unused;
    struct service service;
    struct att_client *client = NULL;
    struct att_error error;
    int fds[FEW], count = 0;
    start_with_few_descriptors(&service);
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
    const struct att_connect_options options = {.socket = service.socket, .timeout_ms = 5000};
    for (; count < FEW / 2 + 2; count++) {
        fds[count] = raw_socket(&service);
        assert_true(att_packet_send(fds[count], &hello, sizeof hello, NULL, 0));
    }
    assert_int_equal(att_connect(&options, &client, &error), ATT_EBUSY);
    service_await_log(&service, "could not be given its descriptors");
    while (count > 0)
        close(fds[--count]);
    for (int i = 0; i < 1000 && att_connect(&options, &client, &error) != ATT_OK; i++)
        usleep(1000);
    assert_works(client);
    att_close(client);
    service_stop(&service);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scribbling_hurts_nobody_else),         cmocka_unit_test(holes_and_writers_through_proc),
        cmocka_unit_test(messages_changed_while_they_are_read), cmocka_unit_test(scribbled_futex_words),
        cmocka_unit_test(descriptors_sent_and_not_received),    cmocka_unit_test(flood_of_connections),
        cmocka_unit_test(descriptors_that_nobody_receives),     cmocka_unit_test(regions_asked_for_and_not_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
