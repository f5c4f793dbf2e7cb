/* A client with a session: what its updates end with when the daemon crashes, when another client takes the session over,
 * when the session is not known; and that its window is bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attn.h"
#include "daemon.h"
#include "npyload.h"

enum { N_Q = 2, N_K = 6, D = 2, D_V = 2 };

static struct daemon attnd;
static const char *mode;

static void start_new(const char *durability)
{
    char q[DAEMON_PATH + 16], k[DAEMON_PATH + 16], v[DAEMON_PATH + 16];
    static const float zeros[N_K * (D + D_V)];
    mode = durability;
    daemon_init(&attnd);
    snprintf(q, sizeof q, "%s/Q.npy", attnd.root);
    snprintf(k, sizeof k, "%s/K.npy", attnd.root);
    snprintf(v, sizeof v, "%s/V.npy", attnd.root);
    npy_save(q, zeros, N_Q, D);
    npy_save(k, zeros, N_K, D);
    npy_save(v, zeros, N_K, D_V);
    const char *const arguments[] = {"--q", q, "--k", k, "--v", v, "--capacity", "100", "--durability", mode, NULL};
    assert_true(daemon_start(&attnd, arguments));
}

static void restart(void)
{
    const char *const arguments[] = {"--durability", mode, NULL};
    daemon_stop(&attnd, SIGKILL);
    assert_true(daemon_start(&attnd, arguments));
}

static enum att_status try_connect(uint64_t session, bool resume, struct att_client **ret_client)
{
    struct att_error error;
    const struct att_connect_options options = {.socket = attnd.socket, .session = session, .resume = resume};
    return att_connect(&options, ret_client, &error);
}

static struct att_client *connect_session(uint64_t session, bool resume)
{
    struct att_client *client;
    struct att_error error = {0};
    const struct att_connect_options options = {.socket = attnd.socket, .session = session, .resume = resume};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("%s", error.text);
    return client;
}

/* Q and K are zeros, so each output is the mean of a column of V: the sum of all that was added to it, over N_K. */
static double added(struct att_client *client)
{
    double value, bound;
    if (att_query(client, 0, 1, &value, &bound) != ATT_OK)
        fail_msg("%s", att_last_error(client));
    return value * N_K;
}

static void submit_some(struct att_client *client, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        const struct att_request request = {
            .type = ATT_REQ_UPDATE_V, .index = i % N_K, .column = 1, .number = 1, .tag = i};
        assert_int_equal(att_submit(client, &request), ATT_OK);
    }
}

static void in_flight_at_a_crash_takes_effect_once(void **unused)
{
    (void)unused;
    enum { FIRST = 500, ALL = 1000 };
    struct att_completion done[64];
    struct att_session_info info;
    start_new("always");
    struct att_client *client = connect_session(ATT_SESSION_ANY, false);
    att_get_session(client, &info);
    assert_true(info.id != 0 && info.id != ATT_SESSION_ANY);
    assert_int_equal(info.begin, 0);
    submit_some(client, 0, FIRST);
    att_push(client);
    usleep(10000); /* these have taken effect; their replies have not been looked at */
    kill(attnd.pid, SIGSTOP);
    submit_some(client, FIRST, ALL);
    const struct att_request query = {.type = ATT_REQ_QUERY, .index = 0, .column = 1, .tag = ALL};
    assert_int_equal(att_submit(client, &query), ATT_OK);
    att_push(client);
    restart();
    uint32_t next = 0, closed = 0;
    while (next < ALL || closed == 0) {
        int count = att_complete(client, done, 64, 20000);
        assert_true(count > 0);
        for (int i = 0; i < count; i++)
            if (done[i].type == ATT_REQ_QUERY) { /* no update */
                assert_int_equal(done[i].status, ATT_ECLOSED);
                closed++;
            } else {
                assert_int_equal(done[i].status, ATT_OK);
                assert_int_equal(done[i].tag, next++);
            }
    }
    assert_int_equal(att_in_flight(client), 0);
    assert_true(added(client) > ALL - 0.01 && added(client) < ALL + 0.01);
    att_get_session(client, &info);
    assert_int_equal(info.last, ALL);
    /* A synchronous call across a crash. */
    kill(attnd.pid, SIGKILL);
    waitpid(attnd.pid, NULL, 0);
    pid_t child = fork();
    if (child == 0) {
        usleep(100000);
        char program[4096];
        daemon_program("attnd", program, sizeof program);
        freopen("/dev/null", "w", stdout);
        freopen(attnd.log, "a", stderr);
        execl(program, program, "--dir", attnd.dir, "--socket", attnd.socket, (char *)NULL);
        _exit(127);
    }
    attnd.pid = child;
    assert_int_equal(att_update_v(client, 1, 1, 1.0), ATT_OK);
    assert_true(added(client) > ALL + 0.99 && added(client) < ALL + 1.01);
    att_close(client);
    daemon_release(&attnd);
}

static void what_was_acknowledged_and_lost_is_repeated(void **unused)
{
    (void)unused;
    struct att_stat stat;
    start_new("interval:60000");
    struct att_client *client = connect_session(7, false);
    for (int i = 0; i < 20; i++)
        assert_int_equal(att_update_v(client, 3, 1, 1.0), ATT_OK);
    assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    assert_int_equal(stat.lsn, 21); /* with the session's beginning, which alone is on disk: nobody asks for more */
    assert_int_equal(stat.durable_lsn, 1);
    restart();
    assert_int_equal(att_flush(client) == ATT_ECLOSED ? att_flush(client) : ATT_OK, ATT_OK); /* the first finds out */
    assert_true(added(client) > 19.99 && added(client) < 20.01);
    att_close(client);
    daemon_release(&attnd);
}

/* Its window is empty, not full: what somebody else has written is left to the interval. */
static void a_session_that_keeps_nothing_asks_for_no_flush(void **unused)
{
    (void)unused;
    struct att_stat stat;
    start_new("interval:60000");
    struct att_client *client = connect_session(8, false), *other = connect_session(0, false);
    assert_int_equal(att_update_v(other, 0, 1, 1.0), ATT_OK);
    assert_int_equal(att_update_v(client, 0, 1, 1.0), ATT_OK);
    usleep(50000); /* far longer than a commit takes */
    assert_int_equal(att_get_stat(other, &stat), ATT_OK);
    assert_int_equal(stat.lsn, 3);
    assert_int_equal(stat.durable_lsn, 1);
    att_close(other);
    att_close(client);
    daemon_release(&attnd);
}

/* Two tokens are free at the snapshot, and the append that was lost took one of them. */
static void a_repeated_append_gets_the_same_token(void **unused)
{
    (void)unused;
    const float row[2] = {0};
    uint32_t token;
    start_new("interval:60000");
    struct att_client *client = connect_session(17, false);
    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(att_append(client, row, row, &token), ATT_OK);
    assert_int_equal(att_delete(client, 3), ATT_OK);
    assert_int_equal(att_delete(client, 7), ATT_OK);
    assert_int_equal(att_flush(client), ATT_OK);
    assert_int_equal(att_snapshot(client), ATT_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(att_update_v(client, 5, 1, 1.0), ATT_OK);
    assert_int_equal(att_append(client, row, row, &token), ATT_OK);
    assert_int_equal(token, 3);
    restart();
    assert_int_equal(att_flush(client) == ATT_ECLOSED ? att_flush(client) : ATT_OK, ATT_OK);
    assert_int_equal(att_append(client, row, row, &token), ATT_OK);
    assert_int_equal(token, 7);
    att_close(client);
    daemon_release(&attnd);
}

/* The table of sessions goes into a snapshot in pieces; here only that has it. */
static void a_session_of_many_appends_is_recovered(void **unused)
{
    (void)unused;
    enum { APPENDS = 5000 };
    const float row[2] = {0};
    struct att_session_info info;
    uint32_t token;
    start_new("off");
    struct att_client *client = connect_session(18, false);
    for (uint32_t i = 0; i < APPENDS; i++) {
        assert_int_equal(att_append(client, row, row, &token), ATT_OK);
        assert_int_equal(att_delete(client, token), ATT_OK);
    }
    assert_int_equal(att_snapshot(client), ATT_OK);
    att_close(client);
    restart();
    client = connect_session(18, true);
    att_get_session(client, &info);
    assert_int_equal(info.begin, 2 * APPENDS);
    att_close(client);
    daemon_release(&attnd);
}

static void a_new_client_takes_the_session_over(void **unused)
{
    (void)unused;
    struct att_session_info info;
    struct att_completion done[8];
    start_new("always");
    struct att_client *old = connect_session(9, false);
    assert_int_equal(att_update_v(old, 0, 1, 1.0), ATT_OK);
    assert_int_equal(att_update_v(old, 0, 1, 1.0), ATT_OK);
    struct att_client *new = connect_session(9, true);
    att_get_session(new, &info);
    assert_int_equal(info.begin, 2);
    assert_int_equal(att_update_v(new, 0, 1, 1.0), ATT_OK);
    for (int times = 0; times < 2; times++) { /* the old one notices, and stays out */
        const struct att_request request = {.type = ATT_REQ_UPDATE_V, .index = 0, .column = 1, .number = 1};
        enum att_status status = att_submit(old, &request);
        if (status == ATT_OK) {
            assert_int_equal(att_complete(old, done, 8, 5000), 1);
            status = done[0].status;
        }
        assert_int_equal(status, ATT_EFENCED);
    }
    assert_int_equal(att_complete(old, done, 8, 5000), -1);
    assert_non_null(strstr(att_last_error(old), "taken over"));
    restart(); /* the fence is on disk */
    assert_int_equal(att_update_v(old, 0, 1, 1.0), ATT_EFENCED);
    while (att_update_v(new, 0, 1, 1.0) == ATT_ECLOSED)
        ;
    assert_true(added(new) > 3.99 && added(new) < 4.01);
    att_close(old);
    att_close(new);
    daemon_release(&attnd);
}

static void the_log_says_who_has_it(void **unused)
{
    (void)unused;
    const char *const log[] = {attnd.dir, "log", NULL};
    char text[2000], expected[200];
    start_new("always");
    att_close(connect_session(77, false));
    att_close(connect_session(77, false));
    assert_int_equal(daemon_run("attninspect", log, text, sizeof text), 0);
    snprintf(expected, sizeof expected,
             "1 session - - session=77 user=%u new since=1 connection=1\n"
             "2 session - - session=77 user=%u known since=2 connection=1\n",
             (unsigned)getuid(), (unsigned)getuid());
    assert_string_equal(text, expected);
    daemon_release(&attnd);
}

static void an_unknown_session_is_not_resumed(void **unused)
{
    (void)unused;
    struct att_client *client = NULL;
    start_new("always");
    assert_int_equal(try_connect(11, true, &client), ATT_EEXPIRED);
    client = connect_session(11, false);
    assert_int_equal(att_update_v(client, 0, 1, 1.0), ATT_OK);
    att_close(client);
    client = connect_session(11, true);
    /* So many others that the daemon lets go of it: it says so. */
    att_close(client);
    for (uint64_t i = 0; i < 1024; i++)
        att_close(connect_session(1000 + i, false));
    assert_int_equal(try_connect(11, true, &client), ATT_EEXPIRED);
    assert_int_equal(try_connect(2023, true, &client), ATT_OK);
    att_close(client);
    restart();
    assert_int_equal(try_connect(2023, true, &client), ATT_OK);
    att_close(client);
    /* A crash brings some back that had expired, but not all that the log knows. */
    for (uint64_t i = 1024; i < 2100; i++)
        att_close(connect_session(1000 + i, false));
    restart();
    assert_int_equal(try_connect(11, true, &client), ATT_EEXPIRED);
    assert_int_equal(try_connect(3099, true, &client), ATT_OK);
    att_close(client);
    daemon_release(&attnd);
}

/* An old state of the daemon's: kept, or put in the place of the one it has. */
static void old_state(bool put_back)
{
    char command[8 * DAEMON_PATH];
    const char *dir = attnd.dir;
    if (put_back)
        snprintf(command, sizeof command, "rm -r %s && mv %s.old %s", dir, dir, dir);
    else
        snprintf(command, sizeof command, "cp -r %s %s.old", dir, dir);
    assert_int_equal(system(command), 0);
}

/* It lacks what the session knows to be on disk, so that nothing sends it again. */
static void an_older_state_in_the_place_of_its_own_is_noticed(void **unused)
{
    (void)unused;
    const char *const arguments[] = {"--durability", "always", NULL};
    start_new("always");
    struct att_client *client = connect_session(11, false);
    assert_int_equal(att_update_v(client, 0, 1, 1.0), ATT_OK);
    daemon_stop(&attnd, SIGTERM);
    old_state(false);
    assert_true(daemon_start(&attnd, arguments));
    for (int i = 0; i < 5; i++)
        assert_int_equal(att_update_v(client, 0, 1, 1.0), ATT_OK);
    daemon_stop(&attnd, SIGTERM);
    old_state(true);
    assert_true(daemon_start(&attnd, arguments));
    assert_int_equal(att_update_v(client, 0, 1, 1.0), ATT_LOST);
    assert_non_null(strstr(att_last_error(client), "an older state"));
    att_close(client);
    daemon_release(&attnd);
}

static void refused_updates_stay_refused(void **unused)
{
    (void)unused;
    struct att_completion done[64];
    start_new("interval:60000");
    struct att_client *client = connect_session(13, false);
    /* token 50 does not exist until something is appended 44 times */
    for (uint32_t i = 0; i < 10; i++) {
        const struct att_request request = {
            .type = ATT_REQ_UPDATE_V, .index = i % 2 ? 50 : 0, .column = 1, .number = 1, .tag = i};
        assert_int_equal(att_submit(client, &request), ATT_OK);
    }
    for (int taken = 0, count; taken < 10; taken += count) {
        count = att_complete(client, done, 64, 5000);
        assert_true(count > 0);
        for (int i = 0; i < count; i++)
            assert_int_equal(done[i].status, done[i].tag % 2 ? ATT_ERANGE : ATT_OK);
    }
    restart();
    assert_int_equal(att_flush(client) == ATT_ECLOSED ? att_flush(client) : ATT_OK, ATT_OK);
    assert_true(added(client) > 4.99 && added(client) < 5.01);
    att_close(client);
    daemon_release(&attnd);
}

/* Updates in batches, some stopped on their way, some acknowledged and lost. */
static void batches_take_effect_once(void **unused)
{
    (void)unused;
    enum { BATCH = 20, BATCHES = 200 };
    struct att_completion done[BATCH];
    start_new("interval:60000");
    struct att_client *client = connect_session(ATT_SESSION_ANY, false);
    for (uint32_t b = 0; b < BATCHES; b++) {
        struct att_request requests[BATCH];
        for (uint32_t i = 0; i < BATCH; i++)
            requests[i] = (struct att_request){.type = i % 5 == 4 ? ATT_REQ_QUERY : ATT_REQ_UPDATE_V,
                                               .index = i % 2,
                                               .column = 1,
                                               .number = 1};
        if (b % 50 == 25)
            restart();
        assert_int_equal(att_call_batch(client, requests, BATCH, done), ATT_OK);
        for (uint32_t i = 0; i < BATCH; i++)
            if (done[i].status != ATT_OK && !(done[i].status == ATT_ECLOSED && i % 5 == 4))
                fail_msg("batch %u, request %u: %s", b, i, att_status_name(done[i].status));
    }
    const double all = BATCHES * BATCH * 4.0 / 5;
    assert_true(added(client) > all - 0.1 && added(client) < all + 0.1);
    att_close(client);
    daemon_release(&attnd);
}

/* 40,000 updates without anything getting on disk by itself: the library waits for the disk, and asks for it. */
static void the_window_is_bounded(void **unused)
{
    (void)unused;
    enum { ALL = 40000 };
    struct att_completion done[64];
    const char *const modes[] = {"interval:300", "off"};
    for (int m = 0; m < 2; m++) {
        start_new(modes[m]);
        struct att_client *client = connect_session(15, false);
        uint32_t completed = 0;
        for (uint32_t i = 0; i < ALL;) {
            const struct att_request request = {
                .type = ATT_REQ_UPDATE_V, .index = i % N_K, .column = 1, .number = 1, .tag = i};
            enum att_status status = att_submit(client, &request);
            assert_true(status == ATT_OK || status == ATT_EBUSY);
            i += status == ATT_OK;
            if (status == ATT_EBUSY || i % 32 == 0) {
                int count = att_complete(client, done, 64, status == ATT_EBUSY ? 1000 : 0);
                for (int c = 0; c < count; c++, completed++)
                    assert_int_equal(done[c].status, ATT_OK);
            }
        }
        while (completed < ALL) {
            int count = att_complete(client, done, 64, 5000);
            assert_true(count > 0);
            completed += (uint32_t)count;
        }
        restart();
        assert_int_equal(att_flush(client) == ATT_ECLOSED ? att_flush(client) : ATT_OK, ATT_OK);
        assert_true(added(client) > ALL - 0.1 && added(client) < ALL + 0.1);
        att_close(client);
        daemon_release(&attnd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_flight_at_a_crash_takes_effect_once),
        cmocka_unit_test(what_was_acknowledged_and_lost_is_repeated),
        cmocka_unit_test(a_session_that_keeps_nothing_asks_for_no_flush),
        cmocka_unit_test(a_repeated_append_gets_the_same_token),
        cmocka_unit_test(a_session_of_many_appends_is_recovered),
        cmocka_unit_test(a_new_client_takes_the_session_over),
        cmocka_unit_test(the_log_says_who_has_it),
        cmocka_unit_test(an_unknown_session_is_not_resumed),
        cmocka_unit_test(an_older_state_in_the_place_of_its_own_is_noticed),
        cmocka_unit_test(refused_updates_stay_refused),
        cmocka_unit_test(batches_take_effect_once),
        cmocka_unit_test(the_window_is_bounded),
    };
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
