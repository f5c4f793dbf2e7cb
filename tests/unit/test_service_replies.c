/* What replies say, and when they come: of attnd as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "attn.h"
#include "daemon.h"
#include "npy.h"

enum { N_Q = 40, N_K = 30, D = 4, D_V = 3 };

static struct daemon attnd;
static struct att_client *client;

static void start(const char *const *arguments)
{
    const struct att_connect_options options = {.socket = attnd.socket, .timeout_ms = 20000};
    assert_true(daemon_start_new(&attnd, arguments));
    assert_int_equal(att_connect(&options, &client, NULL), ATT_OK);
}

static int set_up(void **state)
{
    (void)state;
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, N_Q, N_K, D, D_V, 3);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    att_close(client);
    client = NULL;
    daemon_release(&attnd);
    return 0;
}

/* So many updates at once; their replies wait for the disk. */
static void update(uint64_t *lsn, uint32_t count)
{
    static struct att_completion completions[64];
    uint32_t submitted = 0, completed = 0;
    while (completed < count) {
        struct att_request request = {.type = ATT_REQ_UPDATE_V,
                                      .index = submitted % N_K,
                                      .number = 1,
                                      .tag = submitted};
        while (submitted < count && att_submit(client, &request) == ATT_OK) {
            request.index = ++submitted % N_K;
            request.tag = submitted;
        }
        const int some = att_complete(client, completions, 64, 20000);
        assert_true(some > 0);
        for (int i = 0; i < some; i++, completed++) {
            assert_int_equal(completions[i].status, ATT_OK);
            assert_int_equal(completions[i].tag, completed);
            assert_int_equal(completions[i].lsn, ++*lsn);
        }
    }
}

static void any_number_of_replies_that_wait_for_the_disk_come_in_order(void **state)
{
    (void)state;
    uint64_t lsn = 0;
    start(NULL);
    for (uint32_t count = 300; count < 60000; count *= 3)
        update(&lsn, count);
}

/* A merge thread knows only its own head's updates. */
static void the_answer_of_one_head_has_the_lsn_of_all(void **state)
{
    (void)state;
    static const char *const names[] = {"Q.npy", "K.npy", "V.npy"};
    const uint32_t rows[] = {N_Q, N_K, N_K}, columns[] = {D, D, D_V};
    static float numbers[2 * N_Q * D];
    static double values[N_Q * D_V];
    struct att_completion done;
    char path[2 * DAEMON_PATH];
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        numbers[i] = (float)(i % 7) - 3;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", attnd.root, names[i]);
        assert_int_equal(att_npy_write_heads(path, ATT_NPY_F4, numbers, 2, rows[i], columns[i], NULL), ATT_OK);
    }
    start(NULL);
    for (uint64_t lsn = 1; lsn <= 5; lsn++) {
        const struct att_request update = {.type = ATT_REQ_UPDATE_V, .head = 1, .number = 1};
        const struct att_request all = {.type = ATT_REQ_ALL,
                                        .head = 0,
                                        .buffer = values,
                                        .buffer_bytes = sizeof values};
        assert_int_equal(att_call(client, &update, &done), ATT_OK);
        assert_int_equal(done.lsn, lsn);
        assert_int_equal(att_call(client, &all, &done), ATT_OK);
        assert_int_equal(done.lsn, lsn);
    }
}

static void the_bound_of_everything_is_the_largest_of_its_rows(void **state)
{
    (void)state;
    static double values[N_Q * D_V];
    double row[D_V], bound, largest = 0, all;
    start(NULL);
    assert_int_equal(att_all(client, values, &all), ATT_OK);
    for (uint32_t i = 0; i < N_Q; i++) {
        assert_int_equal(att_row(client, i, row, &bound), ATT_OK);
        largest = bound > largest ? bound : largest;
    }
    assert_true(all >= largest && all <= 1.5 * largest);
}

static void who_waits_for_the_disk_does_not_wait_out_the_interval(void **state)
{
    (void)state;
    const char *const arguments[] = {"--durability", "interval:60000", NULL};
    const struct att_request query = {.type = ATT_REQ_QUERY, .durable = true};
    struct att_completion done;
    start(arguments);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(att_update_v(client, 0, 0, 1), ATT_OK);
        assert_int_equal(att_call(client, &query, &done), ATT_OK);
    }
}

/* Also who reads from the daemon's memory, which knows nothing of the disk. */
static void a_durable_read_is_no_direct_one(void **state)
{
    (void)state;
    const char *const arguments[] = {"--durability", "interval:60000", NULL};
    const struct att_connect_options options = {.socket = attnd.socket, .timeout_ms = 20000, .direct = true};
    const struct att_request query = {.type = ATT_REQ_QUERY, .durable = true};
    static double values[N_Q * D_V];
    struct att_client *direct;
    struct att_completion done;
    struct att_stat stat;
    start(arguments);
    assert_int_equal(att_connect(&options, &direct, NULL), ATT_OK);
    assert_int_equal(att_all(client, values, NULL), ATT_OK); /* all rows have a base */
    assert_int_equal(att_update_v(client, 0, 0, 1), ATT_OK);
    assert_int_equal(att_call_direct(direct, &query, &done), ATT_OK);
    assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    assert_int_equal(stat.durable_lsn, 1);
    att_close(direct);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(any_number_of_replies_that_wait_for_the_disk_come_in_order),
        TEST(the_answer_of_one_head_has_the_lsn_of_all),
        TEST(the_bound_of_everything_is_the_largest_of_its_rows),
        TEST(who_waits_for_the_disk_does_not_wait_out_the_interval),
        TEST(a_durable_read_is_no_direct_one),
    };
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
