/* Many clients: a thousand connected and 64 active, fair; connecting and being killed again and again leaks nothing. */
#include "test_ipc_service.h"

#include <dirent.h>
#include <sys/resource.h>

#if defined(ATTND_ASAN) || defined(ATTND_TSAN)
enum { IDLE = 200 }; /* shadow memory for a thousand mappings takes its time */
#else
enum { IDLE = 936 };
#endif
enum { ACTIVE = 64, GREEDY = 8, DEPTH = 16, GREEDY_DEPTH = 256, CYCLES = 300, LONG_CYCLES = 10000, TRIPS = 400 };

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

/* Completions of each of the active clients in half a second; the first `greedy` ask for more than the others. Returns
 * what the one with least got, as a part of the mean. */
static double run_active(struct att_client **active, int greedy)
{
    uint64_t completed[ACTIVE] = {0}, sum = 0, least = UINT64_MAX;
    struct att_completion done[64];
    const struct att_request request = {.type = ATT_REQ_QUERY, .index = 5};
    for (const uint64_t end = test_now_ns() + 500000000; test_now_ns() < end;)
        for (int i = 0; i < ACTIVE; i++) {
            const uint32_t depth = i < greedy ? GREEDY_DEPTH : DEPTH;
            while (att_in_flight(active[i]) < depth && att_submit(active[i], &request) == ATT_OK)
                ;
            int count = att_complete(active[i], done, 64, 0);
            assert_true(count >= 0);
            for (int k = 0; k < count; k++)
                assert_true(done[k].status == ATT_OK && done[k].value == 5.0);
            completed[i] += (uint64_t)count;
        }
    for (int i = 0; i < ACTIVE; i++)
        while (att_in_flight(active[i]) > 0)
            assert_true(att_complete(active[i], done, 64, 5000) > 0);
    for (int i = 0; i < ACTIVE; i++) {
        sum += completed[i];
        least = completed[i] < least ? completed[i] : least;
    }
    print_message("%d active, %d of them greedy: %.0f each in the mean, the least got %llu\n", ACTIVE, greedy,
                  (double)sum / ACTIVE, (unsigned long long)least);
    return (double)least * ACTIVE / (double)sum;
}

static void a_thousand_clients(void **unused)
{
    (void)unused;
    static struct att_client *idle[IDLE], *active[ACTIVE];
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
    for (int i = 0; i < ACTIVE; i++)
        active[i] = service_connect(&service, 10000);
    for (int i = 0; i < 2000; i++)
        assert_works(lone);
    const double among = median_us(lone);
    print_message("a round trip: %.2f us alone, %.2f us among %d idle clients\n", alone, among, IDLE + ACTIVE);
    assert_true(among < alone * 4 + 500);
    assert_true(run_active(active, 0) >= 0.5);
    assert_true(run_active(active, GREEDY) >= 0.2); /* they have 16 times as much in flight */
    for (int i = 0; i < IDLE; i++) {                /* the quiet ones are heard when they speak */
        assert_works(idle[i]);
        att_close(idle[i]);
    }
    for (int i = 0; i < ACTIVE; i++)
        att_close(active[i]);
    service_await_clients(lone, 1);
    att_close(lone);
    service_stop(&service);
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
    const char *how = getenv("ATT_LONG");
    const int cycles = how && strcmp(how, "1") == 0 ? LONG_CYCLES : CYCLES;
    struct service service;
    service_start(&service);
    struct att_client *witness = service_connect(&service, 10000);
    for (int i = 0; i < 50; i++)
        one_cycle(&service, i);
    service_await_clients(witness, 1);
    const int fds = count_entries(service.pid, "fd"), mappings = count_mappings(service.pid);
    const long pages = resident_pages(service.pid);
    for (int i = 0; i < cycles; i++) {
        one_cycle(&service, i);
        if (i % 16 == 0)
            assert_works(witness);
    }
    service_await_clients(witness, 1);
    assert_int_equal(count_entries(service.pid, "fd"), fds);
    assert_int_equal(count_mappings(service.pid), mappings);
    print_message("%d cycles: resident pages %ld, before %ld\n", cycles, resident_pages(service.pid), pages);
#if !defined(ATTND_ASAN) && !defined(ATTND_TSAN) /* theirs keep what is freed */
    assert_true(resident_pages(service.pid) < pages + 256);
#endif
    att_close(witness);
    service_stop(&service);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thousand_clients),
        cmocka_unit_test(connecting_and_being_killed_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
