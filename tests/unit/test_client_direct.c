/* Direct reads against attnd: the same answers as through the ring, nothing to wait for, nothing to write to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "attn.h"
#include "client_internal.h"
#include "daemon.h"
#include "handshake.h"
#include "region.h"

enum { N_Q = 200, N_K = 300, D = 8, D_V = 6 };

static struct daemon attnd;

static void start(const char *more, const char *value)
{
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, N_Q, N_K, D, D_V, 7);
    const char *const arguments[] = {"--durability", "off", "--threads", "1", "--log-capacity",
                                     "64",           more,  value,       NULL};
    assert_true(daemon_start_new(&attnd, arguments));
}

static struct att_client *connect_to(bool direct)
{
    struct att_client *client;
    struct att_error error;
    const struct att_connect_options options = {.socket = attnd.socket,
                                                .direct = direct,
                                                .timeout_ms = 20000,
                                                .stay_closed = true};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("%s", error.text);
    return client;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void await_hot(struct att_client *client)
{
    struct att_stat stat;
    do {
        usleep(2000);
        assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    } while (stat.rows_cold > 0);
}

static void assert_same(struct att_client *ring, struct att_client *direct, uint32_t row)
{
    double a[D_V], b[D_V], bound_a, bound_b, value, bound;
    const uint32_t column = row % D_V;
    assert_int_equal(att_row(ring, row, a, &bound_a), ATT_OK);
    assert_int_equal(att_row(direct, row, b, &bound_b), ATT_OK);
    assert_int_equal(att_query(direct, row, column, &value, &bound), ATT_OK);
    for (uint32_t j = 0; j < D_V; j++)
        assert_true(fabs(a[j] - b[j]) <= bound_a + bound_b);
    assert_true(fabs(value - a[column]) <= bound + bound_a);
}

static void answers_are_those_of_the_ring(void **unused)
{
    (void)unused;
    static double a[2 * N_Q], b[2 * N_Q];
    double value, bound;
    start(NULL, NULL);
    struct att_client *ring = connect_to(false), *direct = connect_to(true);
    await_hot(ring);
    for (uint32_t row = 0; row < N_Q; row++)
        assert_same(ring, direct, row);
    assert_int_equal(att_column(ring, 3, a), ATT_OK);
    assert_int_equal(att_column(direct, 3, b), ATT_OK);
    for (uint32_t i = 0; i < N_Q; i++)
        assert_true(fabs(a[2 * i] - b[2 * i]) <= a[2 * i + 1] + b[2 * i + 1]);
    assert_int_equal(att_query(direct, N_Q, 0, &value, &bound), ATT_ERANGE);
    assert_non_null(strstr(att_last_error(direct), "out of range"));
    assert_int_equal(att_query(direct, 0, D_V, &value, &bound), ATT_ERANGE);
    /* A daemon that is stopped answers nobody: these need none. */
    kill(attnd.pid, SIGSTOP);
    for (uint32_t i = 0; i < 20000; i++)
        assert_int_equal(att_query(direct, i % N_Q, i % D_V, &value, &bound), ATT_OK);
    kill(attnd.pid, SIGCONT);
    att_close(direct);
    att_close(ring);
    daemon_release(&attnd);
}

/* What has been acknowledged to one client is read by another, whatever merges do meanwhile. */
static void acknowledged_updates_are_visible(void **unused)
{
    (void)unused;
    start("--merge", "eager");
    struct att_client *ring = connect_to(false), *direct = connect_to(true);
    struct att_stat stat;
    struct att_completion done;
    float key[D], value[D_V];
    await_hot(ring);
    for (uint32_t i = 1; i <= 1500; i++) {
        for (uint32_t p = 0; p < D; p++)
            key[p] = (float)((i * 7 + p * 3) % 11) / 11.0f - 0.5f;
        for (uint32_t j = 0; j < D_V; j++)
            value[j] = (float)i + (float)j;
        const struct att_request request = {.type = ATT_REQ_SET_TOKEN, .index = i % N_K, .key = key, .value = value};
        const struct att_request read = {.type = ATT_REQ_QUERY, .index = i % N_Q};
        assert_int_equal(att_call(ring, &request, NULL), ATT_OK);
        assert_same(ring, direct, i * 13 % N_Q);
        assert_int_equal(att_call_direct(direct, &read, &done), ATT_OK);
        assert_int_equal(done.lsn, i);
    }
    assert_int_equal(att_get_stat(ring, &stat), ATT_OK);
    assert_true(stat.merges > 10);
    att_close(direct);
    att_close(ring);
    daemon_release(&attnd);
}

/* The daemon counts direct reads as queries, so it knows which rows are hot and what pending entries cost. */
static void reads_are_reported(void **unused)
{
    (void)unused;
    enum { READS = 200000 };
    struct att_stat before, after;
    double value, bound;
    const float vector[D_V] = {1, 2, 3, 4, 5, 6};
    start(NULL, NULL);
    struct att_client *ring = connect_to(false), *direct = connect_to(true);
    await_hot(ring);
    assert_int_equal(att_merge(ring), ATT_OK);
    assert_int_equal(att_set_v(ring, 1, vector), ATT_OK);
    assert_int_equal(att_get_stat(ring, &before), ATT_OK);
    for (uint32_t i = 0; i < READS; i++)
        assert_int_equal(att_query(direct, i % 5, 1, &value, &bound), ATT_OK);
    usleep(2000);
    assert_int_equal(att_query(direct, 1, 1, &value, &bound), ATT_OK);
    for (int i = 0; i < 1000; i++, usleep(1000)) {
        assert_int_equal(att_get_stat(ring, &after), ATT_OK);
        if (after.queries >= before.queries + READS && after.merges > before.merges)
            break;
    }
    assert_in_range(after.queries - before.queries, READS, READS + 10);
    assert_true(after.merges > before.merges); /* they paid for it */
    att_close(direct);
    att_close(ring);
    daemon_release(&attnd);
}

/* Reports go out with what was submitted before them, and then not quietly. */
static void reports_do_not_swallow_doorbells(void **unused)
{
    (void)unused;
    struct att_completion done;
    double value, bound;
    start(NULL, NULL);
    struct att_client *ring = connect_to(false), *direct = connect_to(true);
    await_hot(ring);
    for (int round = 0; round < 20; round++) {
        const struct att_request request = {.type = ATT_REQ_PING, .tag = 5};
        usleep(10000); /* the daemon sleeps */
        assert_int_equal(att_submit(direct, &request), ATT_OK);
        for (const uint64_t end = now_ns() + 2000000; now_ns() < end;)
            assert_int_equal(att_query(direct, 3, 0, &value, &bound), ATT_OK);
        assert_int_equal(att_complete(direct, &done, 1, 5000), 1);
        assert_int_equal(done.tag, 5);
    }
    att_close(direct);
    att_close(ring);
    daemon_release(&attnd);
}

static void death_is_noticed_by_direct_readers(void **unused)
{
    (void)unused;
    double value, bound;
    start(NULL, NULL);
    struct att_client *ring = connect_to(false), *direct = connect_to(true);
    await_hot(ring);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(att_query(direct, i % N_Q, 0, &value, &bound), ATT_OK);
    kill(attnd.pid, SIGKILL);
    const uint64_t killed = now_ns();
    uint64_t reads = 0;
    while (att_query(direct, (uint32_t)(reads++ % N_Q), 0, &value, &bound) == ATT_OK)
        assert_true(now_ns() - killed < UINT64_C(5000000000));
    print_message("noticed after %.1f ms, %llu reads\n", (double)(now_ns() - killed) / 1e6, (unsigned long long)reads);
    assert_true(now_ns() - killed < UINT64_C(500000000)); /* a killed process takes its time to close */
    assert_int_equal(att_query(direct, 0, 0, &value, &bound), ATT_ECLOSED);
    att_close(direct);
    att_close(ring);
    daemon_release(&attnd);
}

static void switched_off_is_said_by_name(void **unused)
{
    (void)unused;
    struct att_client *client;
    struct att_error error;
    double value, bound;
    start("--direct-reads", "off");
    const struct att_connect_options options = {.socket = attnd.socket, .direct = true};
    assert_int_equal(att_connect(&options, &client, &error), ATT_EPERM);
    assert_non_null(strstr(error.text, "--direct-reads off"));
    client = connect_to(false);
    assert_int_equal(att_query(client, 0, 0, &value, &bound), ATT_OK);
    att_close(client);
    daemon_release(&attnd);
}

static void receive_region(int *ret_socket, int region[ATT_HEAD_FDS])
{
    struct sockaddr_un address;
    struct att_welcome welcome;
    struct att_regions regions;
    int fds[2];
    size_t count;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC,
                                    .protocol = ATT_PROTOCOL_VERSION,
                                    .wants = ATT_HELLO_REGIONS};
    assert_int_equal(att_socket_address(attnd.socket, &address, NULL), ATT_OK);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    assert_true(att_packet_send(fd, &hello, sizeof hello, NULL, 0));
    assert_int_equal(poll(&wait, 1, 5000), 1);
    assert_int_equal(att_packet_receive(fd, &welcome, sizeof welcome, fds, 2, &count), sizeof welcome);
    assert_int_equal(count, 2);
    assert_int_equal(welcome.regions, 1);
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(poll(&wait, 1, 5000), 1);
    assert_int_equal(att_packet_receive(fd, &regions, sizeof regions, region, ATT_HEAD_FDS, &count), sizeof regions);
    assert_int_equal(count, ATT_HEAD_FDS);
    *ret_socket = fd;
}

static void assert_not_writable(int fd, size_t bytes)
{
    assert_true(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(ftruncate(fd, (off_t)bytes * 2), -1);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    assert_int_equal(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
}

static void assert_sealed(int region)
{
    char path[64];
    struct stat file;
    assert_int_equal(fstat(region, &file), 0);
    const size_t bytes = (size_t)file.st_size;
    assert_not_writable(region, bytes);
    void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, region, 0);
    assert_true(memory != MAP_FAILED);
    assert_int_equal(mprotect(memory, bytes, PROT_READ | PROT_WRITE), -1);
    munmap(memory, bytes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", region);
    for (int flags = O_WRONLY; flags <= O_RDWR; flags++) {
        const int reopened = open(path, flags | O_CLOEXEC);
        if (reopened < 0)
            continue; /* refused already */
        assert_not_writable(reopened, bytes);
        close(reopened);
    }
    assert_int_equal(open(path, O_RDWR | O_TRUNC | O_CLOEXEC), -1);
}

static void region_cannot_be_written(void **unused)
{
    (void)unused;
    int region[ATT_HEAD_FDS], sock;
    start(NULL, NULL);
    struct att_client *ring = connect_to(false), *direct = connect_to(true);
    await_hot(ring);
    receive_region(&sock, region);
    for (int i = 0; i < ATT_HEAD_FDS; i++) {
        assert_sealed(region[i]);
        close(region[i]);
    }
    for (uint32_t row = 0; row < N_Q; row++)
        assert_same(ring, direct, row);
    close(sock);
    att_close(direct);
    att_close(ring);
    daemon_release(&attnd);
}

static bool same_file(int a, int b)
{
    struct stat of_a, of_b;
    assert_int_equal(fstat(a, &of_a), 0);
    assert_int_equal(fstat(b, &of_b), 0);
    return of_a.st_ino == of_b.st_ino;
}

static uint64_t epoch_of(int region)
{
    uint64_t epoch;
    assert_int_equal(pread(region, &epoch, sizeof epoch, offsetof(struct att_region_header, epoch)), sizeof epoch);
    return epoch;
}

static void change_and_merge(struct att_client *ring, uint32_t i)
{
    const float vector[D_V] = {(float)i, 2, 3, 4, 5, 6};
    assert_int_equal(att_set_v(ring, i % N_K, vector), ATT_OK);
    assert_int_equal(att_merge(ring), ATT_OK);
}

/* As if the daemon had ended behind regions that it had sent and the client, which had asked for them, has not taken. */
static void leave_regions_behind(struct att_client *client, const int region[ATT_HEAD_FDS])
{
    const struct att_regions packet = {.magic = ATT_REGIONS_MAGIC, .count = 1};
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_true(dup3(pair[0], client->fd, O_CLOEXEC) == client->fd);
    assert_true(att_packet_send(pair[1], &packet, sizeof packet, region, ATT_HEAD_FDS));
    close(pair[0]);
    close(pair[1]);
    usleep(2000); /* a look is due */
}

/* When most rows have gone cold the daemon replaces the memory of the bases. A client goes on reading directly, until the
 * daemon has gone. */
static void memory_that_is_replaced_is_mapped_again(void **unused)
{
    (void)unused;
    enum { HOT = 4 };
    int old[ATT_HEAD_FDS], now[ATT_HEAD_FDS], sock, another;
    double value, bound;
    start(NULL, NULL);
    struct att_client *ring = connect_to(false), *direct = connect_to(true);
    await_hot(ring);
    receive_region(&sock, old);
    for (uint32_t i = 1; epoch_of(old[0]) == 0; i++) {
        assert_true(i < 20000);
        change_and_merge(ring, i);
        for (uint32_t row = 0; row < HOT; row++)
            assert_same(ring, direct, row);
    }
    change_and_merge(ring, 0); /* from now on the old memory answers nothing */
    for (const uint64_t end = now_ns() + 300000000; now_ns() < end;)
        assert_same(ring, direct, (uint32_t)(now_ns() % HOT));
    kill(attnd.pid, SIGSTOP);
    for (uint32_t i = 0; i < 20000; i++)
        assert_int_equal(att_query(direct, i % HOT, i % D_V, &value, &bound), ATT_OK);
    kill(attnd.pid, SIGCONT);
    receive_region(&another, now);
    assert_true(same_file(old[0], now[0]) && !same_file(old[1], now[1]));
    assert_sealed(now[1]);
    close(another);
    close(sock);
    leave_regions_behind(direct, now);
    assert_int_equal(att_query(direct, 0, 0, &value, &bound), ATT_ECLOSED);
    for (int i = 0; i < ATT_HEAD_FDS; i++) {
        close(old[i]);
        close(now[i]);
    }
    att_close(direct);
    att_close(ring);
    daemon_release(&attnd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_the_ring),
        cmocka_unit_test(acknowledged_updates_are_visible),
        cmocka_unit_test(reads_are_reported),
        cmocka_unit_test(reports_do_not_swallow_doorbells),
        cmocka_unit_test(death_is_noticed_by_direct_readers),
        cmocka_unit_test(switched_off_is_said_by_name),
        cmocka_unit_test(region_cannot_be_written),
        cmocka_unit_test(memory_that_is_replaced_is_mapped_again),
    };
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
