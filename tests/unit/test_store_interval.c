/* The log with ATT_DURABLE_INTERVAL: what waits for the interval, and who need not. */
#include "test_store_support.h"

static _Atomic int events;

static void count_event(void *context)
{
    (void)context;
    events++;
}

static struct att_store *open_with_interval(uint32_t ms)
{
    struct att_store_options options = {.durability = ATT_DURABLE_INTERVAL, .interval_ms = ms, .on_event = count_event};
    struct att_store *store = NULL;
    assert_status(att_store_open(test_dir, &options, &store, &test_error), ATT_OK);
    assert_status(att_store_start(store, &test_error), ATT_OK);
    return store;
}

static void an_interval_groups_commits_and_is_kept(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_with_interval(200);
    events = 0;
    double start = seconds();
    for (uint64_t lsn = 1; lsn <= 100; lsn++) {
        append_all(store, lsn, lsn, 1);
        usleep(1000);
    }
    wait_until(state_of(store).durable_lsn == 100);
    double took = seconds() - start;
    assert_true(took > 0.15);
    assert_true(took < 20);
    assert_true(events <= 10 + (int)(took / 0.2));
    append_all(store, 101, 101, 1);
    att_store_close(store); /* does not wait for the interval, loses nothing */
    store = open_to_read();
    assert_log(store, 0, 101);
    att_store_close(store);
}

/* Not within a moment that is far longer than a commit takes. */
static void assert_waits(const struct att_store *store, uint64_t durable)
{
    usleep(50000);
    assert_int_equal(state_of(store).durable_lsn, durable);
}

static void only_what_somebody_waits_for_is_hurried(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_with_interval(3600000);
    att_store_hurry(store, 0); /* nothing is there to be hurried, and the next is not meant */
    append_all(store, 1, 1, 1);
    assert_waits(store, 0);
    att_store_hurry(store, 1);
    wait_until(state_of(store).durable_lsn == 1);
    append_all(store, 2, 2, 1);
    assert_waits(store, 1);
    att_store_hurry(store, 3); /* 3 is still to come */
    wait_until(state_of(store).durable_lsn == 2);
    append_all(store, 3, 3, 1);
    wait_until(state_of(store).durable_lsn == 3);
    append_all(store, 4, 4, 1);
    assert_waits(store, 3);
    att_store_close(store);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(an_interval_groups_commits_and_is_kept),
        TEST(only_what_somebody_waits_for_is_hurried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
