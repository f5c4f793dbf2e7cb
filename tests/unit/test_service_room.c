/* Capacity and precision that a state was given later, when the first snapshot with them is damaged: it recovers from the
 * one before and the log, whose updates need them. */
#include "test_store_plant.h"

#include "attn.h"
#include "daemon.h"

enum { N_K = 6, ROOM = 8, D = 2 };

static struct daemon attnd;

static void start(const char *const *arguments)
{
    assert_true(daemon_start(&attnd, arguments));
}

static void start_new(void)
{
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, 2, N_K, D, D, 3);
    assert_true(daemon_start_new(&attnd, (const char *const[]){"--precision", "single", NULL}));
}

static struct att_client *connect_to(void)
{
    struct att_client *client;
    const struct att_connect_options options = {.socket = attnd.socket};
    assert_status(att_connect(&options, &client, &test_error), ATT_OK);
    return client;
}

static void new_room_survives_a_damaged_snapshot(void **unused)
{
    (void)unused;
    static const float small[D], large[D] = {1e5F, -1e5F}; /* single takes no such key */
    struct att_stat stat;
    double value, bound, again;
    uint32_t token;
    start_new();
    struct att_client *client = connect_to();
    assert_int_equal(att_set_k(client, 0, large), ATT_EMAGNITUDE);
    assert_int_equal(att_append(client, small, small, &token), ATT_ECAPACITY);
    att_close(client);
    assert_int_equal(daemon_stop(&attnd, SIGTERM), 0);
    start((const char *const[]){"--capacity", "8", "--precision", "mixed", NULL});
    client = connect_to();
    assert_int_equal(att_set_k(client, 0, large), ATT_OK);
    assert_int_equal(att_append(client, small, small, &token), ATT_OK);
    assert_int_equal(att_append(client, small, small, &token), ATT_OK);
    assert_int_equal(token, ROOM - 1);
    assert_int_equal(att_query(client, 1, 1, &value, &bound), ATT_OK);
    att_close(client);
    daemon_stop(&attnd, SIGKILL);

    snprintf(test_dir, sizeof test_dir, "%.95s", attnd.dir);
    plant_value("snap", "piece", -1, PLANT_FLIP, -1);
    for (int times = 0; times < 2; times++) { /* the second time from a snapshot that is whole again */
        start(NULL);
        client = connect_to();
        assert_int_equal(att_get_stat(client, &stat), ATT_OK);
        assert_int_equal(stat.capacity, ROOM);
        assert_int_equal(stat.precision, 1);
        assert_int_equal(stat.tokens, ROOM);
        assert_int_equal(att_query(client, 1, 1, &again, &bound), ATT_OK);
        assert_true(again - value <= bound && value - again <= bound);
        att_close(client);
        daemon_stop(&attnd, SIGKILL);
    }
    daemon_release(&attnd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(new_room_survives_a_damaged_snapshot)};
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
