/* libattn against a small service: answers, pipelining, back-pressure, timeouts, deaths. */
#include "test_ipc_service.h"

#include <math.h>
#include <pthread.h>

#include "handshake.h"

static struct service service;
static struct att_client *client;

static int set_up(void **unused)
{
    (void)unused;
    service_start(&service);
    client = service_connect(&service, 5000);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    att_close(client);
    service_stop(&service);
    return 0;
}

static void synchronous_calls(void **unused)
{
    (void)unused;
    double value = -1, bound = -1, row[D_V];
    static double pairs[2 * N_Q];
    const float key[D] = {1, 2, 3}, vector[D_V] = {1, 1, 1, 1, 1};
    uint64_t ns = 0;
    uint32_t token = 0;
    struct att_stat stat;
    struct att_info info;
    att_get_info(client, &info);
    assert_int_equal(info.n_q, N_Q);
    assert_int_equal(info.d_v, D_V);
    assert_int_equal(info.daemon_pid != 0, 1);
    assert_int_equal(att_ping(client, &ns), ATT_OK);
    assert_true(ns > 0);
    assert_works(client);
    assert_int_equal(att_row(client, 5, row, &bound), ATT_OK);
    for (int k = 0; k < D_V; k++)
        assert_true(row[k] == 5 + k);
    assert_int_equal(att_column(client, 2, pairs), ATT_OK);
    for (int i = 0; i < N_Q; i++)
        assert_true(pairs[2 * i] == i + 0.5 && pairs[2 * i + 1] == 0.25);
    assert_int_equal(att_append(client, key, vector, &token), ATT_OK);
    assert_int_equal(token, 99);
    assert_int_equal(att_set_q(client, 1, key), ATT_OK);
    assert_int_equal(att_set_b(client, 1, -INFINITY), ATT_OK);
    assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    assert_int_equal(stat.clients, 1);
    const float bias = 0.5;
    const struct att_request request = {.type = ATT_REQ_SET_TOKEN, .key = key, .value = vector, .bias = &bias};
    struct att_completion completion;
    assert_int_equal(att_call(client, &request, &completion), ATT_OK);
    assert_true(completion.value == 6 + 5 + 0.5);
    assert_int_equal(completion.lsn, 42);
    assert_int_equal(completion.incarnation, 3);
    assert_int_equal(att_query(client, 1, 1, &value, &bound), ATT_OK);
    assert_int_equal(att_in_flight(client), 0);
}

static void errors_say_what_is_wrong(void **unused)
{
    (void)unused;
    double value = 3, bound, row[D_V];
    const float key[D] = {0};
    assert_string_equal(att_last_error(client), "");
    assert_int_equal(att_query(client, 99999, 0, &value, &bound), ATT_ERANGE);
    assert_string_equal(att_last_error(client), "row 99999 is out of range: n_q is 40000");
    assert_true(value == 3);
    assert_int_equal(att_row(client, 0, row, &bound), ATT_EMPTY);
    assert_non_null(strstr(att_last_error(client), "row 0"));
    assert_int_equal(att_append(client, key, NULL, NULL), ATT_EINVAL);
    assert_string_equal(att_last_error(client), "append: the value is missing");
    const struct att_request small = {.type = ATT_REQ_ROW, .index = 1, .buffer = row, .buffer_bytes = 39};
    assert_int_equal(att_submit(client, &small), ATT_EINVAL);
    const struct att_request none = {.type = ATT_REQ_SET_TOKEN};
    assert_int_equal(att_submit(client, &none), ATT_EINVAL);
    const struct att_request extra = {.type = ATT_REQ_DELETE, .key = key};
    assert_int_equal(att_submit(client, &extra), ATT_EINVAL);
    const struct att_request unknown = {.type = (enum att_request_type)99};
    assert_int_equal(att_submit(client, &unknown), ATT_EINVAL);
    const struct att_request far = {.type = ATT_REQ_QUERY, .head = 1u << 16}; /* more than a message can say */
    assert_int_equal(att_submit(client, &far), ATT_ERANGE);
    assert_works(client);
}

static void pipelined_64_deep(void **unused)
{
    (void)unused;
    enum { REQUESTS = 50000, DEPTH = 64 };
    struct att_completion completions[DEPTH];
    static double rows[DEPTH][D_V];
    int submitted = 0, completed = 0;
    while (completed < REQUESTS) {
        while (submitted < REQUESTS && submitted - completed < DEPTH) {
            const struct att_request request = {
                .type = submitted % 3 ? ATT_REQ_QUERY : ATT_REQ_ROW,
                .index = 1 + (uint32_t)submitted % 1000,
                .tag = (uint64_t)submitted,
                .buffer = rows[submitted % DEPTH],
                .buffer_bytes = sizeof rows[0],
            };
            assert_int_equal(att_submit(client, &request), ATT_OK);
            submitted++;
        }
        int count = att_complete(client, completions, DEPTH, 5000);
        assert_true(count > 0);
        for (int i = 0; i < count; i++, completed++) {
            assert_int_equal(completions[i].tag, completed);
            assert_int_equal(completions[i].status, ATT_OK);
            double expected = 1 + completed % 1000;
            double got = completed % 3 ? completions[i].value : rows[completed % DEPTH][0];
            assert_true(got == expected);
        }
    }
    assert_int_equal(att_in_flight(client), 0);
}

static void calls_keep_the_completions_of_others(void **unused)
{
    (void)unused;
    struct att_completion completion;
    for (uint32_t i = 0; i < 40; i++) {
        const struct att_request request = {.type = ATT_REQ_QUERY,
                                            .index = i % 2 ? 50000 : i,
                                            .tag = i / 4}; /* tags may repeat */
        assert_int_equal(att_submit(client, &request), ATT_OK);
    }
    assert_works(client);
    assert_int_equal(att_in_flight(client), 40);
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(att_complete(client, &completion, 1, 1000), 1);
        assert_int_equal(completion.tag, i / 4);
        assert_int_equal(completion.status, i % 2 ? ATT_ERANGE : ATT_OK);
        if (i % 2)
            assert_string_equal(att_last_error(client), "row 50000 is out of range: n_q is 40000");
    }
    assert_int_equal(att_complete(client, &completion, 1, 10), 0);
    assert_int_equal(att_in_flight(client), 0);
}

static void everything_comes_in_chunks(void **unused)
{
    (void)unused;
    enum { TIMES = 20 };
    size_t count = (size_t)N_Q * D_V;
    double *values[TIMES];
    struct att_completion completion;
    /* 16 MB through a ring of 512 KiB, all of them at once */
    for (int i = 0; i < TIMES; i++) {
        values[i] = calloc(count, sizeof(double));
        const struct att_request request = {.type = ATT_REQ_ALL,
                                            .tag = (uint64_t)i,
                                            .buffer = values[i],
                                            .buffer_bytes = count * sizeof(double)};
        assert_int_equal(att_submit(client, &request), ATT_OK);
    }
    for (int i = 0; i < TIMES; i++) {
        assert_int_equal(att_complete(client, &completion, 1, 5000), 1);
        assert_int_equal(completion.status, ATT_OK);
        for (size_t k = 0; k < count; k++)
            assert_true(values[completion.tag][k] == (double)k);
    }
    for (int i = 0; i < TIMES; i++)
        free(values[i]);
}

static void late_replies_touch_nothing(void **unused)
{
    (void)unused;
    struct att_client *impatient = service_connect(&service, 50);
    double value = 5, bound = 6;
    uint64_t start = test_now_ns();
    assert_int_equal(att_query(impatient, LATE, 0, &value, &bound), ATT_ETIMEOUT);
    assert_in_range((test_now_ns() - start) / 1000000, 49, 1000);
    assert_non_null(strstr(att_last_error(impatient), "50 ms"));
    assert_true(value == 5 && bound == 6);
    assert_int_equal(att_in_flight(impatient), 0);
    assert_works(impatient); /* brings the late reply, too */
    assert_works(impatient);
    struct att_completion completion;
    assert_int_equal(att_complete(impatient, &completion, 1, 10), 0);
    start = test_now_ns();
    assert_int_equal(att_complete(impatient, &completion, 1, 100), 0);
    assert_in_range((test_now_ns() - start) / 1000000, 99, 1000);
    att_close(impatient);
}

static void unread_replies_make_busy_and_others_go_on(void **unused)
{
    (void)unused;
    struct att_client *other = service_connect(&service, 5000);
    struct att_completion completions[64];
    uint64_t submitted = 0, completed = 0;
    int busy = 0; /* since a request was taken: for less the service may just have had no processor */
    while (busy < 100) {
        const struct att_request request = {.type = ATT_REQ_QUERY, .index = 3, .tag = submitted};
        enum att_status status = att_submit(client, &request);
        if (status == ATT_OK) {
            submitted++;
            busy = 0;
        } else {
            assert_int_equal(status, ATT_EBUSY);
            busy++;
            usleep(1000);
        }
        if (submitted % 64 == 0)
            assert_works(other);
    }
    /* both rings are full: about 15,000 replies and 8,192 requests */
    assert_in_range(submitted, 22000, 24576);
    assert_works(other);
    usleep(100000); /* the service is asleep now, and must be told of the room */
    while (completed < submitted) {
        int count = att_complete(client, completions, 64, 3000);
        assert_true(count > 0);
        for (int i = 0; i < count; i++)
            assert_int_equal(completions[i].tag, completed++);
    }
    att_close(other);
}

/* A call waits for room by itself. */
static void calls_wait_for_room(void **unused)
{
    (void)unused;
    struct att_completion completion;
    uint64_t submitted = 0;
    const struct att_request request = {.type = ATT_REQ_QUERY, .index = 3};
    for (int busy = 0; busy < 20;) {
        if (att_submit(client, &request) == ATT_OK)
            submitted++;
        else
            busy += usleep(1000) == 0;
    }
    assert_works(client);
    assert_int_equal(att_in_flight(client), submitted);
    for (uint64_t i = 0; i < submitted; i++)
        assert_int_equal(att_complete(client, &completion, 1, 1000), 1);
}

/* ---- Deaths -------------------------------------------------------------------------------------------- */

static pid_t fork_busy_client(void)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct att_client *mine = service_connect(&service, 5000);
    struct att_completion completions[64];
    const float key[D] = {1, 2, 3}, value[D_V] = {0};
    for (;;) {
        const struct att_request request = {.type = ATT_REQ_SET_TOKEN, .key = key, .value = value};
        if (att_submit(mine, &request) != ATT_OK)
            att_complete(mine, completions, 64, 0);
    }
}

static void killed_clients_disappear(void **unused)
{
    (void)unused;
    for (int i = 0; i < 30; i++) {
        pid_t child = fork_busy_client();
        service_await_clients(client, 2);
        usleep((useconds_t)(i * 137) % 3000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        service_await_clients(client, 1);
        assert_works(client);
    }
}

static void stopped_clients_stop_nobody(void **unused)
{
    (void)unused;
    pid_t children[3];
    for (int i = 0; i < 3; i++)
        children[i] = fork_busy_client();
    service_await_clients(client, 4);
    for (int i = 0; i < 3; i++)
        kill(children[i], SIGSTOP);
    for (int i = 0; i < 20000; i++)
        assert_works(client);
    for (int i = 0; i < 3; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    service_await_clients(client, 1);
}

static uint64_t killed_at;

static void *kill_service_soon(void *unused)
{
    (void)unused;
    usleep(100000);
    killed_at = test_now_ns();
    kill(service.pid, SIGKILL);
    return NULL;
}

static void death_of_the_daemon_is_noticed_quickly(void **unused)
{
    (void)unused;
    static const enum att_wait waits[] = {ATT_WAIT_ADAPTIVE, ATT_WAIT_SPIN, ATT_WAIT_BLOCK};
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        struct att_completion completion;
        struct att_client *mine;
        double value, bound;
        service_start(&service);
        const struct att_connect_options options = {.socket = service.socket, .wait = waits[i], .timeout_ms = 300};
        assert_int_equal(att_connect(&options, &mine, NULL), ATT_OK);
        pthread_create(&thread, NULL, kill_service_soon, NULL);
        assert_int_equal(att_query(mine, SILENT, 0, &value, &bound), ATT_ECLOSED);
        uint64_t noticed = test_now_ns();
        pthread_join(thread, NULL);
        print_message("noticed after %.1f ms\n", (double)(noticed - killed_at) / 1e6);
        assert_in_range((noticed - killed_at) / 1000000, 0, 200);
        assert_non_null(strstr(att_last_error(mine), service.socket));
        assert_int_equal(att_complete(mine, &completion, 1, 1000), -1);
        uint64_t again = test_now_ns();
        assert_int_equal(att_query(mine, 1, 0, &value, &bound), ATT_ECLOSED);
        assert_in_range((test_now_ns() - again) / 1000000, 299, 1500); /* it has tried to connect again */
        assert_non_null(strstr(att_last_error(mine), "connecting again failed"));
        att_close(mine);
        waitpid(service.pid, NULL, 0);
        service_clean(&service);
    }
}

/* What the daemon had answered before it went still arrives, then -1. */
static void answers_outlive_the_daemon(void **unused)
{
    (void)unused;
    struct att_completion completion;
    service_start(&service);
    struct att_client *mine = service_connect(&service, 5000);
    for (uint32_t i = 0; i < 100; i++) {
        const struct att_request request = {.type = ATT_REQ_QUERY, .index = i, .tag = i};
        assert_int_equal(att_submit(mine, &request), ATT_OK);
    }
    const struct att_request end = {.type = ATT_REQ_SHUTDOWN, .tag = 100};
    assert_int_equal(att_submit(mine, &end), ATT_OK);
    att_push(mine);
    waitpid(service.pid, NULL, 0);
    for (uint32_t i = 0; i <= 100; i++) {
        assert_int_equal(att_complete(mine, &completion, 1, 1000), 1);
        assert_int_equal(completion.tag, i);
    }
    assert_int_equal(att_complete(mine, &completion, 1, 1000), -1);
    assert_int_equal(access(service.socket, F_OK), -1);
    att_close(mine);
    service_clean(&service);
}

static void idle_daemon_uses_no_processor(void **unused)
{
    (void)unused;
    clockid_t clock;
    struct timespec before, after;
    struct att_client *more[20];
    for (int i = 0; i < 20; i++) {
        more[i] = service_connect(&service, 5000);
        assert_works(more[i]);
    }
    usleep(100000);
    assert_int_equal(clock_getcpuclockid(service.pid, &clock), 0);
    clock_gettime(clock, &before);
    sleep(1);
    clock_gettime(clock, &after);
    long used = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    print_message("an idle daemon used %ld ns in 1 s\n", used);
#ifdef ATTND_TSAN
    assert_true(used < 20000000); /* the sanitizer has a thread of its own that looks around */
#else
    assert_true(used < 100000);
#endif
    for (int i = 0; i < 20; i++)
        att_close(more[i]);
}

/* ---- Paths --------------------------------------------------------------------------------------------- */

static void paths(void **unused)
{
    (void)unused;
    char path[200], directory[150];
    struct att_error error;
    struct att_client *mine;
    assert_int_equal(setenv("XDG_RUNTIME_DIR", "/run/user/5", 1), 0);
    assert_int_equal(att_socket_path("a.b_c-1", path, sizeof path, &error), ATT_OK);
    assert_string_equal(path, "/run/user/5/attnd/a.b_c-1.sock");
    assert_int_equal(att_socket_path(NULL, path, sizeof path, &error), ATT_OK);
    assert_string_equal(path, "/run/user/5/attnd/default.sock");
    assert_int_equal(att_socket_path(NULL, path, 10, &error), ATT_EINVAL);
    assert_int_equal(att_socket_path("a/b", path, sizeof path, &error), ATT_EINVAL);
    assert_int_equal(att_socket_path("", path, sizeof path, &error), ATT_EINVAL);
    memset(directory, 'd', sizeof directory);
    directory[0] = '/';
    directory[sizeof directory - 1] = '\0';
    assert_int_equal(setenv("XDG_RUNTIME_DIR", directory, 1), 0);
    assert_int_equal(att_socket_path(NULL, path, sizeof path, &error), ATT_EINVAL);
    assert_non_null(strstr(error.text, directory));
    assert_non_null(strstr(error.text, "107"));
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(att_socket_path("x", path, sizeof path, &error), ATT_OK);
    if (geteuid() == 0)
        assert_string_equal(path, "/run/attnd/x.sock");
    struct att_connect_options options = {.socket = directory};
    assert_int_equal(att_connect(&options, &mine, &error), ATT_EINVAL);
    options.socket = "/tmp/attnd-nobody-here.sock";
    assert_int_equal(att_connect(&options, &mine, &error), ATT_ENOENT);
    assert_string_equal(error.text,
                        "no daemon at /tmp/attnd-nobody-here.sock: start attnd --dir DIR, or give --socket");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(synchronous_calls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(errors_say_what_is_wrong, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pipelined_64_deep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(calls_keep_the_completions_of_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(everything_comes_in_chunks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(late_replies_touch_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(unread_replies_make_busy_and_others_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(calls_wait_for_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(killed_clients_disappear, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stopped_clients_stop_nobody, set_up, tear_down),
        cmocka_unit_test(death_of_the_daemon_is_noticed_quickly),
        cmocka_unit_test(answers_outlive_the_daemon),
        cmocka_unit_test_setup_teardown(idle_daemon_uses_no_processor, set_up, tear_down),
        cmocka_unit_test(paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
