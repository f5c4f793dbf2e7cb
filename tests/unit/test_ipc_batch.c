/* Batches against a small service: what is refused, back-pressure, timeouts, others beside them. */
#include "test_ipc_service.h"

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

static void batches_that_make_no_sense_are_refused(void **unused)
{
    (void)unused;
    static struct att_request requests[ATT_BATCH_REQUESTS + 1];
    static struct att_completion done[ATT_BATCH_REQUESTS + 1];
    for (int i = 0; i <= ATT_BATCH_REQUESTS; i++)
        requests[i] = (struct att_request){.type = ATT_REQ_QUERY};
    assert_int_equal(att_submit_batch(client, requests, 0), ATT_EINVAL);
    assert_int_equal(att_call_batch(client, requests, ATT_BATCH_REQUESTS + 1, done), ATT_EINVAL);
    assert_non_null(strstr(att_last_error(client), "1 to 64"));
    static const enum att_request_type wrong[] = {ATT_REQ_COLUMN, ATT_REQ_ALL,   ATT_REQ_STAT,
                                                  ATT_REQ_FLUSH,  ATT_REQ_MERGE, ATT_REQ_BATCH,
                                                  ATT_REQ_READS,  ATT_REQ_SET_Q, ATT_REQ_SHUTDOWN};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        requests[3].type = wrong[i];
        assert_int_equal(att_submit_batch(client, requests, 5), ATT_EINVAL);
        assert_non_null(strstr(att_last_error(client), "request 3 of a batch"));
    }
    requests[3].type = ATT_REQ_BATCH;
    assert_int_equal(att_submit(client, &requests[3]), ATT_EINVAL);
    assert_int_equal(att_in_flight(client), 0);
    assert_works(client);
}

/* Nobody reads for a while; then all answers are there, in order. */
static void batches_without_reading_become_busy(void **unused)
{
    (void)unused;
    static struct att_request requests[ATT_BATCH_REQUESTS];
    static double rows[ATT_BATCH_REQUESTS][D_V];
    struct att_completion done[32];
    uint64_t submitted = 0, taken = 0;
    enum att_status status = ATT_OK;
    for (uint32_t i = 0; i < ATT_BATCH_REQUESTS; i++)
        requests[i] = (struct att_request){.type = i % 2 ? ATT_REQ_ROW : ATT_REQ_QUERY,
                                           .index = i,
                                           .buffer = rows[i],
                                           .buffer_bytes = sizeof rows[i]};
    for (int round = 0; round < 20; round++) {
        while ((status = att_submit_batch(client, requests, ATT_BATCH_REQUESTS)) == ATT_OK)
            submitted += ATT_BATCH_REQUESTS;
        assert_int_equal(status, ATT_EBUSY);
        assert_int_equal(att_in_flight(client), submitted - taken);
        for (uint32_t some = 0; some < 2000 && taken < submitted;) {
            int count = att_complete(client, done, 32, 5000);
            assert_true(count > 0);
            for (int k = 0; k < count; k++) {
                assert_int_equal(done[k].status, ATT_OK);
                assert_true(done[k].type == ATT_REQ_ROW || done[k].value == (double)((taken + (uint64_t)k) % 64));
            }
            taken += (uint64_t)count;
            some += (uint32_t)count;
        }
    }
    assert_true(submitted > 4000);
    while (taken < submitted) {
        int count = att_complete(client, done, 32, 5000);
        assert_true(count > 0);
        taken += (uint64_t)count;
    }
    assert_int_equal(att_in_flight(client), 0);
}

/* Its answers and others come in any mixture; what is not answered in time is dropped when it comes. */
static void a_batch_beside_others(void **unused)
{
    (void)unused;
    struct att_request requests[3] = {{.type = ATT_REQ_QUERY, .index = 4, .tag = 1},
                                      {.type = ATT_REQ_QUERY, .index = 99999, .tag = 2},
                                      {.type = ATT_REQ_DELETE, .number = 7, .tag = 3}};
    const struct att_request alone = {.type = ATT_REQ_QUERY, .index = 9, .tag = 77};
    struct att_completion done[3], other;
    for (int i = 0; i < 200; i++)
        assert_int_equal(att_submit(client, &alone), ATT_OK);
    assert_int_equal(att_call_batch(client, requests, 3, done), ATT_OK);
    assert_true(done[0].tag == 1 && done[0].status == ATT_OK && done[0].value == 4);
    assert_true(done[1].tag == 2 && done[1].status == ATT_ERANGE);
    assert_true(done[2].tag == 3 && done[2].status == ATT_OK && done[2].value == 7);
    assert_non_null(strstr(att_last_error(client), "99999"));
    for (int i = 0; i < 200; i++)
        assert_true(att_complete(client, &other, 1, 5000) == 1 && other.tag == 77 && other.value == 9);
    struct att_client *hasty = service_connect(&service, 100);
    requests[1] = (struct att_request){.type = ATT_REQ_QUERY, .index = LATE, .tag = 2};
    assert_int_equal(att_call_batch(hasty, requests, 3, done), ATT_ETIMEOUT);
    assert_true(done[0].status == ATT_OK && done[1].status == ATT_ETIMEOUT && done[2].status == ATT_ETIMEOUT);
    assert_true(done[2].tag == 3);
    assert_works(client); /* the late one is answered, and the update behind it done */
    usleep(20000);
    assert_works(hasty);
    assert_int_equal(att_in_flight(hasty), 0);
    att_close(hasty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batches_that_make_no_sense_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(batches_without_reading_become_busy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_batch_beside_others, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
