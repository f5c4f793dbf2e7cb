/* A client that reads no replies for 10 s while more wait is evicted; parking; waking from other
 * threads and signals. Slow: the time limit is the subject. */
#include "test_ipc_service.h"

#include <pthread.h>
#include <stdatomic.h>

/* Submits until nothing is taken any more for a tenth of a second: its replies fill their ring. For less the service may just
 * have had no processor. */
static void fill_up(struct att_client *client, const struct att_request *request)
{
    for (int busy = 0; busy < 100;)
        busy = att_submit(client, request) == ATT_OK ? 0 : busy + (usleep(1000) == 0);
}

static void client_that_never_reads_is_evicted(void **unused)
{
    (void)unused;
    struct service service;
    service_start(&service);
    struct att_client *client = service_connect(&service, 5000), *lazy = service_connect(&service, 5000);
    struct att_completion completion;
    const struct att_request request = {.type = ATT_REQ_QUERY, .index = 3};
    fill_up(lazy, &request);
    uint64_t start = test_now_ns();
    sleep(8);
    assert_works(client);
    service_await_clients(client, 2);
    while (test_now_ns() - start < UINT64_C(12000000000))
        usleep(10000);
    service_await_clients(client, 1);
    service_await_log(&service, "it has read no reply for 10 s");
    int count = 0;
    while (att_complete(lazy, &completion, 1, 1000) == 1) {
        assert_true(completion.status == ATT_OK || completion.status == ATT_ECLOSED);
        count += completion.status == ATT_OK;
    }
    assert_in_range(count, 12000, 16384); /* what it had been answered */
    assert_int_equal(att_complete(lazy, &completion, 1, 1000), -1);
    att_close(lazy);
    att_close(client);
    service_stop(&service);
}

/* One that reads slowly is not. */
static void slow_reader_is_kept(void **unused)
{
    (void)unused;
    struct service service;
    service_start(&service);
    struct att_client *slow = service_connect(&service, 5000);
    struct att_completion completion;
    const struct att_request request = {.type = ATT_REQ_QUERY, .index = 3};
    fill_up(slow, &request);
    for (int i = 0; i < 13; i++) {
        sleep(1);
        assert_int_equal(att_complete(slow, &completion, 1, 1000), 1);
    }
    while (att_in_flight(slow) > 0)
        assert_int_equal(att_complete(slow, &completion, 1, 1000), 1);
    assert_works(slow);
    att_close(slow);
    service_stop(&service);
}

/* ---- The server in this process ------------------------------------------------------------------------ */

struct local {
    struct att_server *server;
    char directory[64], socket[100];
    uint64_t ended[8];
    int ended_count;
};

static void on_end(void *context, uint64_t session)
{
    struct local *local = context;
    local->ended[local->ended_count++] = session;
}

static void local_start(struct local *local, enum att_wait wait)
{
    struct att_error error;
    *local = (struct local){0};
    strcpy(local->directory, "/tmp/attnd-test-XXXXXX");
    assert_non_null(mkdtemp(local->directory));
    snprintf(local->socket, sizeof local->socket, "%s/s.sock", local->directory);
    const struct att_server_options options = {.socket = local->socket,
                                               .wait = wait,
                                               .info = {.heads = 1, .n_q = N_Q, .d = D, .d_v = D_V},
                                               .on_end = on_end,
                                               .context = local};
    if (att_server_create(&options, &local->server, &error) != ATT_OK)
        fail_msg("%s", error.text);
}

static void local_stop(struct local *local)
{
    char path[120];
    att_server_free(local->server);
    snprintf(path, sizeof path, "%s.lock", local->socket);
    unlink(path);
    assert_int_equal(rmdir(local->directory), 0);
}

struct peer {
    pthread_t thread;
    const char *socket;
    uint64_t first; /* queries first.. first + count */
    uint32_t count;
    bool failed;
};

static void *run_peer(void *context)
{
    struct peer *peer = context;
    struct att_client *client;
    const struct att_connect_options options = {.socket = peer->socket};
    struct att_completion completion;
    if (att_connect(&options, &client, NULL) != ATT_OK) {
        peer->failed = true;
        return NULL;
    }
    for (uint32_t i = 0; i < peer->count; i++) {
        const struct att_request request = {.type = ATT_REQ_QUERY, .index = (uint32_t)peer->first + i, .tag = i};
        peer->failed |= att_submit(client, &request) != ATT_OK;
    }
    for (uint32_t i = 0; i < peer->count; i++)
        peer->failed |= att_complete(client, &completion, 1, 5000) != 1 || completion.tag != i ||
                        completion.value != (double)(peer->first + i);
    att_close(client);
    return NULL;
}

static void answer(struct att_server *server, const struct att_server_request *request)
{
    struct att_wire_reply reply = {.type = request->header.type,
                                   .tag = request->header.tag,
                                   .value = request->header.index};
    att_server_reply(server, request->session, &reply, NULL, 0);
}

/* A parked session waits, in order and unchanged; others go on. */
static void parked_sessions_wait_others_go_on(void **unused)
{
    (void)unused;
    struct local local;
    struct att_server_request request, again;
    struct peer peers[2];
    int answered = 0;
    local_start(&local, ATT_WAIT_ADAPTIVE);
    for (int i = 0; i < 2; i++) {
        peers[i] = (struct peer){.socket = local.socket, .first = (uint64_t)i * 1000, .count = 50};
        pthread_create(&peers[i].thread, NULL, run_peer, &peers[i]);
    }
    uint64_t parked = 0;
    while (answered < 50) {
        while (att_server_next(local.server, &request)) {
            assert_true(att_server_next(local.server, &again)); /* the same one until taken or parked */
            assert_int_equal(again.session, request.session);
            assert_int_equal(again.header.tag, request.header.tag);
            if (request.header.index == 10) { /* of the first peer */
                assert_int_equal(parked, 0);
                parked = request.session;
                att_server_park(local.server);
                continue;
            }
            assert_int_not_equal(request.session, parked);
            answer(local.server, &request); /* before take is allowed, too */
            att_server_take(local.server);
            answered += request.header.index >= 1000;
        }
        att_server_wait(local.server, 100);
    }
    while (!parked) { /* the first peer may be late */
        while (!parked && att_server_next(local.server, &request)) {
            if (request.header.index == 10) {
                parked = request.session;
                att_server_park(local.server);
            } else {
                att_server_take(local.server);
                answer(local.server, &request);
            }
        }
        att_server_wait(local.server, 10);
    }
    while (local.ended_count < 1) /* the second peer leaves */
        att_server_wait(local.server, 1000);
    /* What is parked does not keep it awake. The first peer may still submit, and ring for each of its requests. */
    uint64_t slept_ms = 0;
    for (uint32_t i = 0; i <= peers[0].count && slept_ms < 15; i++) {
        uint64_t start = test_now_ns();
        att_server_wait(local.server, 20);
        slept_ms = (test_now_ns() - start) / 1000000;
    }
    assert_in_range(slept_ms, 15, 1000);
    assert_false(att_server_next(local.server, &request));
    att_server_unpark(local.server);
    for (uint32_t expected = 10; expected < 50;) {
        while (att_server_next(local.server, &request)) {
            assert_int_equal(request.session, parked);
            assert_int_equal(request.header.index, expected++);
            att_server_take(local.server);
            answer(local.server, &request);
        }
        att_server_wait(local.server, 100);
    }
    while (local.ended_count < 2) /* hang-ups come through on_end, once for each */
        att_server_wait(local.server, 1000);
    assert_int_not_equal(local.ended[0], local.ended[1]);
    assert_false(att_server_is_open(local.server, parked));
    assert_false(att_server_has_room(local.server, parked));
    for (int i = 0; i < 2; i++) {
        pthread_join(peers[i].thread, NULL);
        assert_false(peers[i].failed);
    }
    local_stop(&local);
}

static struct att_server *alarm_server;

static void on_alarm(int signal_number)
{
    (void)signal_number;
    att_server_wake(alarm_server);
}

struct waker {
    struct att_server *server;
    _Atomic int rounds;
};

static void *wake_often(void *context)
{
    struct waker *waker = context;
    for (int i = 0; i < 300; i++) {
        usleep((useconds_t)(i * 37) % 500);
        att_server_wake(waker->server);
        /* each wake ends a wait: the next comes only after that */
        for (int tries = 0; atomic_load(&waker->rounds) <= i && tries < 5000; tries++)
            usleep(1000);
    }
    return NULL;
}

static void wakes_are_never_lost(void **unused)
{
    (void)unused;
    static const enum att_wait waits[] = {ATT_WAIT_ADAPTIVE, ATT_WAIT_BLOCK, ATT_WAIT_SPIN};
    for (int mode = 0; mode < 3; mode++) {
        struct local local;
        pthread_t thread;
        local_start(&local, waits[mode]);
        struct waker waker = {.server = local.server};
        pthread_create(&thread, NULL, wake_often, &waker);
        uint64_t start = test_now_ns();
        for (int i = 0; i < 300; i++) {
            att_server_wait(local.server, -1);
            atomic_fetch_add(&waker.rounds, 1);
            if (waits[mode] != ATT_WAIT_BLOCK && i % 2)
                usleep(10);
        }
        assert_true(test_now_ns() - start < UINT64_C(20000000000));
        pthread_join(thread, NULL);
        alarm_server = local.server;
        signal(SIGALRM, on_alarm);
        att_server_wait(local.server, 0); /* a wake that was left over */
        start = test_now_ns();
        alarm(1);
        att_server_wait(local.server, 5000);
        assert_in_range((test_now_ns() - start) / 1000000, 0, 3000);
        local_stop(&local);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parked_sessions_wait_others_go_on),
        cmocka_unit_test(wakes_are_never_lost),
        cmocka_unit_test(client_that_never_reads_is_evicted),
        cmocka_unit_test(slow_reader_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
