/* Many clients: a thousand connected, and 64 active get their turns evenly; connecting and being killed again and again leaks
 * nothing; and answers that are not taken hold a bounded memory in all. */
#include "test_ipc_service.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#if defined(ATTND_ASAN) || defined(ATTND_TSAN)
enum { IDLE = 200, CYCLES = 300 }; /* shadow memory for a thousand mappings takes its time */
#else
enum { IDLE = 936, CYCLES = 10000 };
#endif
enum { ACTIVE = 64, TRIPS = 400 };

static void allow_descriptors(void)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double median_us(struct att_client *client)
{
    static uint64_t took[TRIPS];
    for (int i = 0; i < TRIPS; i++) {
        const uint64_t start = test_now_ns();
        assert_works(client);
        took[i] = test_now_ns() - start;
    }
    qsort(took, TRIPS, sizeof took[0], by_size);
    return (double)took[TRIPS / 2] / 1e3;
}

static void a_thousand_clients(void **unused)
{
    (void)unused;
    static struct att_client *idle[IDLE];
    struct service service;
    allow_descriptors();
    service_start(&service);
    struct att_client *lone = service_connect(&service, 10000);
    assert_works(lone);
    const double alone = median_us(lone);
    for (int i = 0; i < IDLE; i++) {
        idle[i] = service_connect(&service, 10000);
        if (i % 2 == 0)
            assert_works(idle[i]);
    }
    for (int i = 0; i < 2000; i++)
        assert_works(lone);
    const double among = median_us(lone);
    print_message("a round trip: %.2f us alone, %.2f us among %d idle clients\n", alone, among, IDLE);
    assert_true(among < alone * 4 + 500);
    for (int i = 0; i < IDLE; i++) { /* the quiet ones are heard when they speak */
        assert_works(idle[i]);
        att_close(idle[i]);
    }
    service_await_clients(lone, 1);
    att_close(lone);
    service_stop(&service);
}

/* ---- Turns: the server and its clients in one process, so that no scheduler has a say ---- */

struct crowd {
    char socket[100];
    struct att_client *clients[IDLE + ACTIVE];
    _Atomic bool connected;
};

static void *connect_all(void *context)
{
    struct crowd *crowd = context;
    const struct att_connect_options options = {.socket = crowd->socket, .timeout_ms = 20000};
    for (int i = 0; i < IDLE + ACTIVE; i++)
        if (att_connect(&options, &crowd->clients[i], NULL) != ATT_OK)
            break;
    atomic_store(&crowd->connected, true);
    return NULL;
}

/* As much as its rings hold; a greedy client again and again. In batches or one by one. */
static void ask(struct att_client *client, bool in_batches)
{
    static struct att_request requests[ATT_BATCH_REQUESTS];
    for (int i = 0; i < ATT_BATCH_REQUESTS; i++)
        requests[i] = (struct att_request){.type = ATT_REQ_QUERY, .index = 1};
    while ((in_batches ? att_submit_batch(client, requests, ATT_BATCH_REQUESTS) : att_submit(client, requests)) ==
           ATT_OK)
        ;
    att_push(client);
}

/* Serves so many requests; returns what the session with least of those that asked got, as a part of the mean. */
static double share_of_the_least(struct att_server *server, struct crowd *crowd, int greedy, bool batches,
                                 uint32_t requests)
{
    static uint32_t given[65536];
    struct att_server_request request;
    struct att_completion done[64];
    uint32_t sessions = 0, least = UINT32_MAX;
    memset(given, 0, sizeof given);
    for (uint32_t i = 0; i < requests; i++) {
        assert_true(att_server_next(server, &request));
        struct att_wire_reply reply = {.type = request.header.type, .tag = request.header.tag};
        given[request.session % 65536]++;
        att_server_reply(server, request.session, &reply, NULL, 0);
        att_server_take(server);
        if (i % 1024 != 0)
            continue;
        att_server_flush(server);
        for (int g = 0; g < greedy; g++) {
            while (att_complete(crowd->clients[g], done, 64, 0) > 0)
                ;
            ask(crowd->clients[g], batches);
        }
    }
    for (uint32_t slot = 0; slot < 65536; slot++) {
        sessions += given[slot] > 0;
        least = given[slot] > 0 && given[slot] < least ? given[slot] : least;
    }
    assert_int_equal(sessions, ACTIVE);
    return (double)least * ACTIVE / requests;
}

static void turns_are_even(void **unused)
{
    (void)unused;
    enum { GREEDY = 8 };
    static struct crowd crowd;
    char directory[] = "/tmp/attnd-test-XXXXXX";
    struct att_server *server;
    pthread_t thread;
    allow_descriptors();
    assert_non_null(mkdtemp(directory));
    for (int batches = 0; batches < 2; batches++) {
        snprintf(crowd.socket, sizeof crowd.socket, "%s/s", directory);
        const struct att_server_options options = {
            .socket = crowd.socket,
            .info = {.heads = 1, .n_q = N_Q, .d = D, .d_v = D_V, .capacity = 100, .scale = 0.5}};
        assert_int_equal(att_server_create(&options, &server, NULL), ATT_OK);
        atomic_store(&crowd.connected, false);
        pthread_create(&thread, NULL, connect_all, &crowd);
        while (!atomic_load(&crowd.connected))
            att_server_wait(server, 10);
        pthread_join(thread, NULL);
        assert_int_equal(att_server_clients(server), IDLE + ACTIVE);
        for (int i = 0; i < ACTIVE; i++)
            ask(crowd.clients[i], batches);
        const double least = share_of_the_least(server, &crowd, GREEDY, batches, ACTIVE * 1024);
        print_message("%d active, %d of them with twice as much: the least got %.3f of the mean\n", ACTIVE, GREEDY,
                      least);
        assert_true(least >= 0.9);
        for (int i = 0; i < IDLE + ACTIVE; i++)
            att_close(crowd.clients[i]);
        att_server_free(server);
    }
    char path[120];
    snprintf(path, sizeof path, "%s.lock", crowd.socket);
    unlink(path);
    rmdir(directory);
}

static int count_entries(pid_t pid, const char *what)
{
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static int count_mappings(pid_t pid)
{
    char path[64], line[512];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        count += strstr(line, "attnd-channel") != NULL;
    fclose(file);
    return count;
}

static long resident_pages(pid_t pid)
{
    char path[64];
    long size, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &size, &resident), 2);
    fclose(file);
    return resident;
}

static void one_cycle(const struct service *service, int number)
{
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct att_connect_options options = {.socket = service->socket, .timeout_ms = 10000};
        struct att_client *client;
        double value, bound;
        if (att_connect(&options, &client, NULL) != ATT_OK)
            _exit(1);
        if (number % 3 != 0 && att_query(client, 12, 7, &value, &bound) != ATT_OK)
            _exit(2);
        const struct att_request request = {.type = ATT_REQ_QUERY, .index = number % 5 == 0 ? SILENT : 3};
        for (int i = 0; i < number % 40; i++)
            att_submit(client, &request);
        att_push(client);
        kill(getpid(), SIGKILL);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
}

static void connecting_and_being_killed_leaks_nothing(void **unused)
{
    (void)unused;
    struct service service;
    service_start(&service);
    struct att_client *witness = service_connect(&service, 10000);
    for (int i = 0; i < 50; i++)
        one_cycle(&service, i);
    service_await_clients(witness, 1);
    const int fds = count_entries(service.pid, "fd"), mappings = count_mappings(service.pid);
    const long pages = resident_pages(service.pid);
    for (int i = 0; i < CYCLES; i++) {
        one_cycle(&service, i);
        if (i % 16 == 0)
            assert_works(witness);
    }
    service_await_clients(witness, 1);
    assert_int_equal(count_entries(service.pid, "fd"), fds);
    assert_int_equal(count_mappings(service.pid), mappings);
    print_message("%d cycles: resident pages %ld, before %ld\n", CYCLES, resident_pages(service.pid), pages);
#if !defined(ATTND_ASAN) && !defined(ATTND_TSAN) /* theirs keep what is freed */
    assert_true(resident_pages(service.pid) < pages + 256);
#endif
    att_close(witness);
    service_stop(&service);
}

/* So many answers are under way. By the time of the last look all that was submitted before has had its turn. */
static void await_answers(struct att_client *witness, uint64_t answers)
{
    struct att_stat stat;
    for (int looks = 0; looks < 100; looks++) {
        assert_int_equal(att_get_stat(witness, &stat), ATT_OK);
        assert_in_range(stat.updates, 0, answers);
        if (stat.updates < answers)
            looks = 0;
    }
}

static struct att_client *ask_for_all(const struct service *service, double *values)
{
    struct att_client *client = service_connect(service, 20000);
    const struct att_request all = {.type = ATT_REQ_ALL,
                                    .buffer = values,
                                    .buffer_bytes = (size_t)N_Q * D_V * sizeof *values};
    assert_int_equal(att_submit(client, &all), ATT_OK);
    att_push(client);
    return client;
}

static void take_all(struct att_client *client, const double *values)
{
    struct att_completion done;
    assert_int_equal(att_complete(client, &done, 1, 20000), 1);
    assert_int_equal(done.status, ATT_OK);
    for (uint64_t i = 0; i < (uint64_t)N_Q * D_V; i++)
        assert_true(values[i] == (double)i);
    att_close(client);
}

static void answers_of_all_clients_together_are_bounded(void **unused)
{
    (void)unused;
    static double values[4][N_Q * D_V], row[D_V];
    const uint64_t one = sizeof values[0];
    struct service service;
    service_start_with(&service, (struct att_server_options){.held_most = 2 * one + one / 2});
    struct att_client *witness = service_connect(&service, 20000), *clients[4];
    for (int i = 0; i < 4; i++) {
        clients[i] = ask_for_all(&service, values[i]);
        await_answers(witness, i < 2 ? i + 1 : 2);
    }
    assert_int_equal(att_row(witness, 7, row, NULL), ATT_OK); /* others go on */
    take_all(clients[0], values[0]);                          /* makes room for one more */
    await_answers(witness, 2);
    att_close(clients[1]); /* an end does too */
    await_answers(witness, 2);
    take_all(clients[3], values[3]);
    take_all(clients[2], values[2]);
    await_answers(witness, 0);
    att_close(witness);
    service_stop(&service);
    /* One is always taken, however little is allowed. */
    service_start_with(&service, (struct att_server_options){.held_most = 1});
    take_all(ask_for_all(&service, values[0]), values[0]);
    service_stop(&service);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thousand_clients),
        cmocka_unit_test(turns_are_even),
        cmocka_unit_test(connecting_and_being_killed_leaks_nothing),
        cmocka_unit_test(answers_of_all_clients_together_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
