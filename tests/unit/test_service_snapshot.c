/* When the service takes a snapshot: after one that failed too, without an update that reminds it. What it takes in, and what
 * waits for it or for the log. */
#include "test_store_support.h"

#include "harness.h"
#include "service_impl.h"

static struct att_service *service;
static struct att_heads heads;
static struct att_store *store;
static struct att_server *server;
static struct att_sessions *sessions;

/* A service of one head with a store that is not started, so that it takes no snapshot yet. */
static int setup_service(void **state)
{
    struct att_service_options options = {
        .n_q = 3, .d = 4, .d_v = 4, .capacity = 10, .precision = ATT_MIXED, .durability = ATT_DURABLE_OFF};
    struct att_server_options served = {.info = {.heads = 1, .n_q = 3, .d = 4, .d_v = 4, .capacity = 10}};
    struct att_error error;
    struct model model;
    char path[120];
    if (setup_directory(state))
        return -1;
    snprintf(path, sizeof path, "%s/socket", test_root);
    served.socket = path;
    model_init(&model, 3, 4, 4, 10, 1.0);
    const struct att_engine_options engine = harness_options(&model);
    assert_int_equal(att_heads_init(&heads, 1, &error), ATT_OK);
    heads.engines[0] = harness_start(&model, &engine);
    model_release(&model);
    assert_status(try_open(true, false, ATT_DURABLE_OFF, &store), ATT_OK);
    assert_int_equal(att_server_create(&served, &server, &error), ATT_OK);
    sessions = att_sessions_create();
    assert_int_equal(att_service_create(&service, &error), ATT_OK);
    assert_int_equal(att_service_join(service, &options, &heads, store, server, sessions, &error), ATT_OK);
    return 0;
}

static int release_service(void **state)
{
    att_heads_release(&heads);
    att_store_close(store);
    att_server_free(server);
    att_service_free(service);
    att_sessions_free(sessions);
    return remove_directory(state);
}

static bool is_due(int *ret_timeout_ms)
{
    *ret_timeout_ms = -1;
    return service_snapshot_due(service, ret_timeout_ms);
}

static void take(bool spoil)
{
    service_snapshot_begin(service);
    for (int i = 0; i < (spoil ? 2 : 0); i++)
        att_store_snapshot_piece(store, 0, 0, "x", 1); /* one that comes twice fails it */
    wait_until((service_collect(service), service_snapshot_check(service), !service->snapshot_running));
    assert_int_equal(state_of(store).snapshot_failed, spoil);
}

static void a_failed_snapshot_is_tried_again_without_an_update(void **state)
{
    (void)state;
    int timeout;
    assert_false(is_due(&timeout));
    service->lsn = 1; /* an update */
    assert_true(is_due(&timeout));
    service_snapshot_begin(service); /* the store is not started */
    assert_false(service->snapshot_running);
    assert_true(is_due(&timeout));
    assert_status(att_store_start(store, &test_error), ATT_OK);
    take(true);
    assert_true(is_due(&timeout));
    take(false);
    assert_int_equal(state_of(store).durable_lsn, 1);
    assert_false(is_due(&timeout));
    assert_int_equal(timeout, -1);
}

static void a_failed_snapshot_is_not_tried_again_at_once(void **state)
{
    (void)state;
    int timeout;
    assert_status(att_store_start(store, &test_error), ATT_OK);
    service->options.snapshot_seconds = 1000;
    service->options.snapshot_bytes = 100;
    service->lsn = 1;
    assert_false(is_due(&timeout));
    service->log_bytes = 100;
    assert_true(is_due(&timeout));
    take(true);
    assert_false(is_due(&timeout));
    assert_in_range(timeout, 1, 1000001); /* but after the time, or as much log again */
    service->log_bytes = 100;
    assert_true(is_due(&timeout));
}

/* Without a log only a snapshot puts on disk what a durable read waits for. */
static void a_durable_read_has_one_taken(void **state)
{
    (void)state;
    struct att_wire_reply reply = {.type = ATT_REQ_QUERY};
    int timeout;
    assert_status(att_store_start(store, &test_error), ATT_OK);
    service->options.snapshot_seconds = 1000;
    service->options.snapshot_bytes = 100;
    service->lsn = 1;
    service_reply_durable(service, 77, &reply, NULL, 0, 1);
    assert_true(is_due(&timeout));
    take(true);
    assert_int_equal(service->deferred_count, 0); /* it was told */
    service_reply_durable(service, 77, &reply, NULL, 0, 1);
    assert_true(is_due(&timeout));
    take(false);
    assert_false(is_due(&timeout));
    service_release_durable(service);
    assert_int_equal(service->deferred_count, 0);
}

/* Clients that come and go could leave any number of them. */
static void what_waits_for_clients_that_have_gone_is_dropped(void **state)
{
    enum { GONE = 77, OTHER = 78, MANY = 10000 };
    struct att_wire_reply reply = {.type = ATT_REQ_QUERY};
    struct att_server_request request = {.session = GONE, .header = {.type = ATT_REQ_SNAPSHOT}};
    const double payload[1] = {0};
    (void)state;
    service->lsn = 1; /* not on disk */
    for (int i = 0; i < MANY; i++)
        service_reply_durable(service, GONE, &reply, payload, sizeof payload, 1);
    assert_true(service->deferred_count <= service->deferred_capacity);
    assert_true(service->deferred_capacity < MANY / 4);

    service->snapshot_running = true; /* who comes now waits for the next */
    for (int i = 0; i < 6; i++) {
        request.session = i % 3 == 1 ? OTHER : GONE;
        assert_true(service_snapshot_wanted(service, &request));
    }
    service_on_end(service, GONE);
    assert_int_equal(service->waiting_next->session, OTHER);
    assert_int_equal(service->waiting_next->next->session, OTHER);
    assert_null(service->waiting_next->next->next);
    service_on_end(service, OTHER);
    assert_null(service->waiting_next);
    service->snapshot_running = false;
}

/* Three updates of a session: LSN 2 to 4. */
static struct att_session_grant update_in_a_session(void)
{
    const struct att_session_ask ask = {.id = 5};
    struct att_session_grant grant;
    struct att_error error;
    const struct att_op op = {.kind = ATT_OP_SET_TOKEN};
    assert_int_equal(service_on_ask(service, 77, &ask, &grant, &error), ATT_OK); /* LSN 1 */
    for (uint64_t seq = 1; seq <= 3; seq++) {
        const struct att_server_request request = {.place = grant.place, .header = {.session_seq = seq}};
        assert_false(service_session_knows(service, &request));
        service->lsn++;
        service_session_done(service, &request, &op);
    }
    return grant;
}

/* It was not acknowledged when it came first, for it is not on disk yet: nor is it now. */
static void an_update_that_comes_again_waits_for_the_disk_as_well(void **state)
{
    (void)state;
    assert_status(att_store_start(store, &test_error), ATT_OK);
    const struct att_session_grant grant = update_in_a_session();
    const struct att_server_request again = {.place = grant.place, .header = {.session_seq = 2}};
    assert_true(service_session_knows(service, &again));
    assert_int_equal(service->deferred_count, 0);
    service->options.durability = ATT_DURABLE_ALWAYS;
    assert_true(service_session_knows(service, &again));
    assert_int_equal(service->deferred_count, 1);
    assert_int_equal(service->deferred[0].lsn, 4);
}

/* What comes after the table was handed out goes behind it, up to the first head's cut and no further. */
static void the_sessions_of_a_snapshot_are_those_of_its_first_cut(void **state)
{
    (void)state;
    assert_status(att_store_start(store, &test_error), ATT_OK);
    service_session_snapshot(service);
    update_in_a_session();
    assert_int_equal(service->journal_count, 4);
    service_session_cut(service, 3);
    assert_int_equal(service->journal_count, 3);
    for (uint64_t lsn = 1; lsn <= 3; lsn++)
        assert_int_equal(service->journal[lsn - 1].lsn, lsn);
}

/* The client's memory, or the ring's, may hold something else when the store takes it. */
static void what_the_store_had_no_room_for_is_kept_as_it_was(void **state)
{
    (void)state;
    enum { WORDS = 4 };
    uint64_t payload[WORDS];
    att_store_close(store);
    assert_status(try_open(true, false, ATT_DURABLE_ALWAYS, &store), ATT_OK);
    service->store = store;
    service->record = make_record(1, WORDS);
    for (uint64_t i = 0; i < WORDS; i++)
        payload[i] = mix(4096 + i);
    service_owe(service, payload); /* it is not started */
    assert_true(service->owed && !service_pay_owed(service));
    memset(payload, 0, sizeof payload);
    assert_status(att_store_start(store, &test_error), ATT_OK);
    assert_true(service_pay_owed(service));
    att_store_push(store);
    wait_until(state_of(store).durable_lsn == 1);
    assert_log(store, 0, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_service, release_service)
    const struct CMUnitTest tests[] = {
        TEST(a_failed_snapshot_is_tried_again_without_an_update),
        TEST(a_failed_snapshot_is_not_tried_again_at_once),
        TEST(a_durable_read_has_one_taken),
        TEST(what_waits_for_clients_that_have_gone_is_dropped),
        TEST(the_sessions_of_a_snapshot_are_those_of_its_first_cut),
        TEST(an_update_that_comes_again_waits_for_the_disk_as_well),
        TEST(what_the_store_had_no_room_for_is_kept_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
