/* Answers that a client asks for and does not take: they hold little of the daemon's memory, nobody else waits, and all of
 * them come when it takes them. */
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

enum { N_Q = 8192, N_K = 16, D = 2, D_V = 64, ALL = 40 };
#define MIB (1 << 20)

static struct daemon attnd;

static struct att_client *connect_here(void)
{
    struct att_client *client;
    struct att_error error;
    const struct att_connect_options options = {.socket = attnd.socket, .timeout_ms = 60000};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("%s", error.text);
    return client;
}

/* 0 with a sanitizer, which keeps what is freed and more. */
static uint64_t rss_of(struct att_client *client)
{
    struct att_stat stat;
    assert_int_equal(att_get_stat(client, &stat), ATT_OK);
#if defined(ATTND_ASAN) || defined(ATTND_TSAN)
    stat.rss_bytes = 0;
#endif
    return stat.rss_bytes;
}

static void what_a_client_does_not_take_holds_little(void **unused)
{
    (void)unused;
    static double values[N_Q * D_V];
    double(*answers)[N_Q * D_V] = calloc(ALL, sizeof *answers);
    struct att_completion done;
    assert_non_null(answers);
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, N_Q, N_K, D, D_V, 3);
    const char *const arguments[] = {"--threads", "1", NULL};
    assert_true(daemon_start_new(&attnd, arguments));
    struct att_client *client = connect_here(), *other = connect_here();
    assert_int_equal(att_all(other, values, NULL), ATT_OK);
    const uint64_t before = rss_of(other);
    for (uint64_t i = 0; i < ALL; i++) { /* 4 MiB each */
        const struct att_request all = {.type = ATT_REQ_ALL,
                                        .tag = i,
                                        .buffer = answers[i],
                                        .buffer_bytes = sizeof *answers};
        assert_int_equal(att_submit(client, &all), ATT_OK);
    }
    const struct att_request ping = {.type = ATT_REQ_PING, .tag = ALL};
    assert_int_equal(att_submit(client, &ping), ATT_OK);
    att_push(client);
    for (int i = 0; i < 20; i++) { /* the others go on */
        usleep(20000);
        assert_int_equal(att_all(other, values, NULL), ATT_OK);
    }
    if (rss_of(other) > before + 32 * MIB)
        fail_msg("%llu MiB instead of %llu", (unsigned long long)(rss_of(other) / MIB),
                 (unsigned long long)(before / MIB));
    for (int i = 0; i <= ALL; i++) {
        assert_int_equal(att_complete(client, &done, 1, 60000), 1);
        assert_int_equal(done.status, ATT_OK);
        if (done.type == ATT_REQ_ALL)
            assert_memory_equal(values, answers[done.tag], sizeof values);
    }
    assert_int_equal(att_in_flight(client), 0);
    assert_true(rss_of(other) < before + 32 * MIB);
    free(answers);
    att_close(client);
    att_close(other);
    daemon_release(&attnd);
}

/* Each leaves work of a second and more behind: some ten seconds of it, of which nobody wants anything. */
static void what_clients_leave_behind_keeps_nobody_waiting(void **unused)
{
    enum { LEAVERS = 200, COLUMNS = 100 }; /* so many may be held for one at a time */
    static double pairs[2 * N_Q];
    struct att_completion done;
    (void)unused;
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, N_Q / 2, N_K, D, D_V, 3);
    assert_true(daemon_start_new(&attnd, (const char *const[]){"--threads", "1", NULL}));
    struct att_client *client = connect_here();
    for (int n = 0; n < LEAVERS; n++) {
        struct att_client *leaver = connect_here();
        const struct att_request column = {.type = ATT_REQ_COLUMN};
        const struct att_request ping = {.type = ATT_REQ_PING, .tag = 1};
        for (int i = 0; i < COLUMNS; i++)
            assert_int_equal(att_submit(leaver, &column), ATT_OK);
        assert_int_equal(att_call(leaver, &ping, &done), ATT_OK); /* they have been taken */
        att_close(leaver);
    }
    struct att_client *late;
    struct att_error error;
    const struct att_connect_options options = {.socket = attnd.socket, .timeout_ms = 3000};
    assert_int_equal(att_connect(&options, &late, &error), ATT_OK);
    assert_int_equal(att_column(late, 0, pairs), ATT_OK);
    assert_int_equal(att_merge(late), ATT_OK);
    att_close(late);
    att_close(client);
    daemon_release(&attnd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_a_client_does_not_take_holds_little),
                                       cmocka_unit_test(what_clients_leave_behind_keeps_nobody_waiting)};
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
