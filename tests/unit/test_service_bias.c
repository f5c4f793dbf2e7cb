/* A bias is a double in a request and a float in the state: what is finite in one only is refused, and masks no token. */
#include "test_ipc_raw.h"

#include <math.h>

#include "daemon.h"

static struct daemon attnd;

static uint32_t set_bias(struct raw *raw, double bias)
{
    struct att_wire_request request = ping(raw);
    struct att_wire_reply reply;
    request.type = ATT_REQ_SET_TOKEN;
    request.fields = ATT_WIRE_BIAS;
    request.number = bias;
    raw_send(raw, &request, 0);
    for (int i = 0; i < 5000 && att_consumer_peek(&raw->replies) == ATT_RING_EMPTY; i++)
        usleep(1000);
    assert_int_equal(att_consumer_peek(&raw->replies), ATT_RING_READY);
    att_consumer_read_first(&raw->replies, &reply);
    att_consumer_take(&raw->replies, att_slots_for(reply.length), true);
    return reply.status;
}

static void one_that_float32_cannot_hold_is_refused(void **unused)
{
    (void)unused;
    struct service service = {0};
    struct raw raw;
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, 2, 6, 2, 2, 3);
    assert_true(daemon_start_new(&attnd, NULL));
    snprintf(service.socket, sizeof service.socket, "%.99s", attnd.socket);
    raw_open(&service, &raw);
    assert_int_equal(set_bias(&raw, -1e39), ATT_ENOTFINITE);
    assert_int_equal(set_bias(&raw, 1e39), ATT_ENOTFINITE);
    assert_int_equal(set_bias(&raw, INFINITY), ATT_ENOTFINITE);
    assert_int_equal(set_bias(&raw, -1e-60), ATT_OK);
    assert_int_equal(set_bias(&raw, -INFINITY), ATT_OK);
    raw_close(&raw);
    daemon_release(&attnd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_that_float32_cannot_hold_is_refused)};
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
