/* A daemon that is killed and started again under its clients: every handle connects again by itself, what was pending
 * ends with a definite status, nothing hangs. */
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
#include <unistd.h>

#include "attn.h"
#include "daemon.h"

enum { N_Q = 50, N_K = 60, D = 4, D_V = 3 };

static struct daemon attnd;

static void start_new(void)
{
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, N_Q, N_K, D, D_V, 3);
    const char *const arguments[] = {"--threads", "1", NULL};
    assert_true(daemon_start_new(&attnd, arguments));
}

static struct att_client *connect_with(uint32_t timeout_ms, bool direct)
{
    struct att_client *client;
    struct att_error error;
    const struct att_connect_options options = {.socket = attnd.socket, .timeout_ms = timeout_ms, .direct = direct};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("%s", error.text);
    return client;
}

static void restart(void)
{
    daemon_stop(&attnd, SIGKILL);
    assert_true(daemon_start(&attnd, NULL));
}

static double query(struct att_client *client)
{
    double value, bound;
    if (att_query(client, 3, 1, &value, &bound) != ATT_OK)
        fail_msg("%s", att_last_error(client));
    return value;
}

static void handles_connect_again_by_themselves(void **unused)
{
    (void)unused;
    struct att_info before, after;
    struct att_client *clients[4];
    double value, bound;
    start_new();
    for (int i = 0; i < 4; i++)
        clients[i] = connect_with(20000, i % 2);
    assert_int_equal(att_update_v(clients[0], 5, 1, 1000.0), ATT_OK);
    const double expected = query(clients[0]);
    for (int times = 0; times < 2; times++) {
        att_get_info(clients[1], &before);
        restart();
        for (int i = 0; i < 4; i++) {
            /* The first call may be the one that finds out. */
            enum att_status status = att_query(clients[i], 3, 1, &value, &bound);
            assert_true(status == ATT_OK || status == ATT_ECLOSED);
            for (int reads = 0; reads < 100000 && !(i % 2 == 0 && reads > 3); reads++) /* direct reads go on a little */
                status = att_query(clients[i], 3, 1, &value, &bound);
            usleep(5000);
            assert_true(query(clients[i]) - expected < 1e-3 && expected - query(clients[i]) < 1e-3);
            att_get_info(clients[i], &after);
            assert_int_equal(after.incarnation, before.incarnation + 1);
        }
    }
    for (int i = 0; i < 4; i++)
        att_close(clients[i]);
    daemon_release(&attnd);
}

static void what_is_in_flight_ends_with_a_status(void **unused)
{
    (void)unused;
    enum { REQUESTS = 1000 };
    static bool seen[REQUESTS];
    struct att_completion done[64];
    int ends = 0, closed = 0, count;
    start_new();
    struct att_client *client = connect_with(20000, false);
    query(client);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct att_request request = {
            .type = ATT_REQ_UPDATE_V, .index = i % N_K, .column = i % D_V, .number = 1.0, .tag = i};
        assert_int_equal(att_submit(client, &request), ATT_OK);
        if (i == REQUESTS / 2) {
            att_push(client);
            usleep(20000);
            kill(attnd.pid, SIGSTOP);
        }
    }
    att_push(client);
    restart();
    while ((count = att_complete(client, done, 64, 5000)) > 0)
        for (int i = 0; i < count; i++, ends++) {
            assert_true(done[i].status == ATT_OK || done[i].status == ATT_ECLOSED);
            assert_false(seen[done[i].tag]);
            seen[done[i].tag] = true;
            closed += done[i].status == ATT_ECLOSED;
        }
    assert_int_equal(count, -1);
    assert_int_equal(ends, REQUESTS);
    assert_true(closed > 0);
    assert_int_equal(att_in_flight(client), 0);
    query(client);
    assert_int_equal(att_complete(client, done, 64, 0), 0);
    att_close(client);
    daemon_release(&attnd);
}

/* The state is full but for two tokens, and has seen the one that the second append takes; the snapshot has neither. */
static void no_token_is_lost_to_appends(void **unused)
{
    (void)unused;
    static const float key[D], value[D_V];
    uint32_t first, second;
    uint64_t round_trip;
    start_new();
    struct att_client *client = connect_with(20000, false);
    assert_int_equal(att_delete(client, N_K - 2), ATT_OK);
    assert_int_equal(att_delete(client, N_K - 1), ATT_OK);
    assert_int_equal(att_snapshot(client), ATT_OK);
    assert_int_equal(att_append(client, key, value, &first), ATT_OK);
    restart();
    while (att_ping(client, &round_trip) == ATT_ECLOSED)
        ;
    assert_int_equal(att_append(client, key, value, &second), ATT_OK);
    assert_int_equal(first, N_K - 2);
    assert_int_equal(second, N_K - 1);
    assert_int_equal(att_append(client, key, value, &second), ATT_ECAPACITY);
    att_close(client);
    daemon_release(&attnd);
}

/* Submitting connects again too; what was in flight before is still to be had. */
static void submitting_after_the_end(void **unused)
{
    (void)unused;
    struct att_completion done[4];
    const struct att_request request = {.type = ATT_REQ_QUERY, .index = 1, .tag = 7};
    start_new();
    struct att_client *client = connect_with(20000, false);
    query(client);
    kill(attnd.pid, SIGSTOP);
    assert_int_equal(att_submit(client, &request), ATT_OK);
    att_push(client);
    restart();
    const struct att_request again = {.type = ATT_REQ_QUERY, .index = 1, .tag = 8};
    assert_int_equal(att_complete(client, done, 1, 5000), 1);
    assert_int_equal(done[0].status, ATT_ECLOSED);
    assert_int_equal(done[0].tag, 7);
    assert_int_equal(att_submit(client, &again), ATT_OK);
    assert_int_equal(att_complete(client, done, 4, 20000), 1);
    assert_int_equal(done[0].status, ATT_OK);
    assert_int_equal(done[0].tag, 8);
    att_close(client);
    daemon_release(&attnd);
}

static void giving_up_and_other_states(void **unused)
{
    (void)unused;
    double value, bound;
    char command[300];
    start_new();
    struct att_client *client = connect_with(300, false);
    query(client);
    daemon_stop(&attnd, SIGKILL);
    assert_int_equal(att_query(client, 3, 1, &value, &bound), ATT_ECLOSED);
    assert_int_equal(att_query(client, 3, 1, &value, &bound), ATT_ECLOSED);
    assert_non_null(strstr(att_last_error(client), "connecting again failed"));
    /* Another state at the same socket. */
    snprintf(command, sizeof command, "rm -rf %s", attnd.dir);
    assert_int_equal(system(command), 0);
    daemon_write_arrays(&attnd, N_Q + 1, N_K, D, D_V, 3);
    const char *const arguments[] = {"--threads", "1", NULL};
    assert_true(daemon_start_new(&attnd, arguments));
    assert_int_equal(att_query(client, 3, 1, &value, &bound), ATT_ESHAPE);
    assert_non_null(strstr(att_last_error(client), "another state (heads 1, n_q 51,"));
    att_close(client);
    daemon_release(&attnd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handles_connect_again_by_themselves), cmocka_unit_test(what_is_in_flight_ends_with_a_status),
        cmocka_unit_test(no_token_is_lost_to_appends),         cmocka_unit_test(submitting_after_the_end),
        cmocka_unit_test(giving_up_and_other_states),
    };
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
