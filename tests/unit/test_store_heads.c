/* Snapshots of several heads: a cut for each. */
#include "test_store_plant.h"

/* The largest must be durable, and LSNs go on behind it; the log is needed behind the smallest, if there is one. */
static void a_snapshot_of_several_heads_has_a_cut_for_each(void **state)
{
    (void)state;
    static const uint64_t cuts[2][3] = {{12, 7, 9}, {26, 22, 24}};
    make_state(0);
    for (int off = 0; off < 2; off++) {
        struct att_store *store = open_started(false, off ? ATT_DURABLE_OFF : ATT_DURABLE_ALWAYS);
        struct att_state_shape shape = make_shape();
        shape.heads = 3;
        if (!off)
            append_all(store, 1, 20, 1);
        assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
        for (uint32_t head = 0; head < 3; head++)
            att_store_snapshot_cut(store, head, cuts[off][head], 100 + head);
        att_store_snapshot_end(store);
        wait_until(!state_of(store).snapshot_running);
        assert_int_equal(state_of(store).snapshot_lsn, cuts[off][1]);
        assert_int_equal(state_of(store).durable_lsn, off ? cuts[off][1] : 20);
        att_store_close(store);
        store = open_to_read();
        struct att_snapshot_info info;
        assert_status(att_store_snapshot(store, &info, NULL, &test_error), ATT_OK);
        assert_int_equal(info.lsn, cuts[off][0]);
        assert_int_equal(info.replay_lsn, off ? 26 : 7);
        assert_int_equal(info.tokens_used, 102);
        for (uint32_t head = 0; head < 3; head++) {
            assert_int_equal(att_store_cuts(store)[head].lsn, cuts[off][head]);
            assert_int_equal(att_store_cuts(store)[head].tokens_used, 100 + head);
        }
        assert_log(store, info.replay_lsn, off ? 26 : 20);
        att_store_close(store);
    }
    /* Kept again, the log goes on behind the largest: that nothing lies between the cuts is no gap. */
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 27, 30, 1);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 26, 30);
    att_store_close(store);
}

static void as_many_heads_as_the_format_allows(void **state)
{
    (void)state;
    struct att_state_shape shape = make_shape();
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    shape.heads = 0;
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_EINVAL);
    shape.heads = ATT_MAX_HEADS + 1;
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_EINVAL);
    shape.heads = ATT_MAX_HEADS;
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    for (uint32_t head = 0; head < ATT_MAX_HEADS; head++)
        att_store_snapshot_cut(store, head, 0, head);
    att_store_snapshot_end(store);
    wait_until(!state_of(store).snapshot_running);
    assert_false(state_of(store).snapshot_failed);
    att_store_close(store);
    store = open_to_read();
    for (uint32_t head = 0; head < ATT_MAX_HEADS; head++)
        assert_int_equal(att_store_cuts(store)[head].tokens_used, head);
    att_store_close(store);
}

static void begin_with_cuts(struct att_store *store, const uint64_t cuts[3])
{
    struct att_state_shape shape = make_shape();
    shape.heads = 3;
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    for (uint32_t head = 0; head < 3; head++)
        att_store_snapshot_cut(store, head, cuts[head], 100 + head);
    att_store_snapshot_end(store);
}

static void a_snapshot_waits_until_all_its_cuts_are_durable(void **state)
{
    (void)state;
    static const uint64_t cuts[] = {12, 7, 9};
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 1, 11, 1);
    wait_until(state_of(store).durable_lsn == 11);
    assert_int_equal(append(store, 12, 1), ATT_OK); /* and not pushed yet */
    begin_with_cuts(store, cuts);
    usleep(50000);
    assert_true(state_of(store).snapshot_running);
    att_store_push(store);
    wait_until(!state_of(store).snapshot_running);
    assert_int_equal(state_of(store).snapshot_lsn, 7);
    att_store_close(store);
}

/* The snapshot holds that record of one head and not of another. */
static void a_gap_between_the_cuts_is_one(void **state)
{
    (void)state;
    static const uint64_t cuts[] = {12, 7, 9};
    char text[2000];
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    for (uint64_t lsn = 1; lsn <= 20; lsn++) {
        append_all(store, lsn, lsn, 1);
        wait_until(state_of(store).durable_lsn == lsn);
    }
    begin_with_cuts(store, cuts);
    wait_until(!state_of(store).snapshot_running);
    att_store_close(store);
    plant_value("log", "batch", 8, PLANT_DELETE, 0); /* LSN 9 */
    assert_int_equal(verify_severity(text, sizeof text), 2);
    store = open_to_read();
    struct seen seen = {0};
    assert_status(att_store_read_log(store, 7, see_record, &seen, &test_error), ATT_ECORRUPT);
    assert_int_equal(seen.last, 8);
    att_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_snapshot_of_several_heads_has_a_cut_for_each, setup_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(as_many_heads_as_the_format_allows, setup_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_snapshot_waits_until_all_its_cuts_are_durable, setup_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(a_gap_between_the_cuts_is_one, setup_directory, remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
