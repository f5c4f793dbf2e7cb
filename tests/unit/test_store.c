/* The store when nothing is damaged: opening, log, snapshots, trimming. */
#include "store_impl.h"
#include "test_store_support.h"

static void a_new_state_is_empty_and_counts_its_first_start(void **state)
{
    (void)state;
    struct att_store *store = open_started(true, ATT_DURABLE_ALWAYS);
    struct att_log_info info;
    assert_int_equal(att_store_incarnation(store), 1);
    assert_int_equal(att_store_last_lsn(store), 0);
    att_store_log_info(store, &info);
    assert_int_equal(info.batches, 0);
    assert_int_equal(state_of(store).generation, 0);
    att_store_close(store);
    att_store_close(NULL);
}

static void what_was_appended_is_read_back_after_a_reopen(void **state)
{
    (void)state;
    make_state(1000);
    struct att_store *store = NULL;
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_OK);
    assert_int_equal(att_store_last_lsn(store), 1000);
    assert_int_equal(att_store_incarnation(store), 2);
    assert_int_equal(state_of(store).durable_lsn, 1000);
    assert_snapshot(store, 0, 1);
    assert_log(store, 0, 1000);
    assert_log(store, 997, 1000);
    assert_log(store, 1000, 1000);
    assert_status(att_store_start(store, &test_error), ATT_OK);
    append_all(store, 1001, 1500, 3);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 0, 1500);
    att_store_close(store);
}

static void appends_must_be_consecutive_and_well_formed(void **state)
{
    (void)state;
    struct att_store *store = open_started(true, ATT_DURABLE_ALWAYS);
    assert_int_equal(append(store, 2, 1), ATT_EINVAL);
    assert_int_equal(append(store, 0, 1), ATT_EINVAL);
    struct att_record record = make_record(1, 0);
    record.length = 44;
    assert_int_equal(att_store_append(store, &record, NULL), ATT_EINVAL);
    record.length = 56;
    assert_int_equal(att_store_append(store, &record, NULL), ATT_EINVAL);
    record.length = 52;
    assert_int_equal(att_store_append(store, &record, "payload"), ATT_EINVAL);
    assert_int_equal(append(store, 1, WORDS_MAX), ATT_OK);
    assert_int_equal(append(store, 1, 1), ATT_EINVAL);
    assert_int_equal(append(store, 2, 0), ATT_OK);
    att_store_push(store);
    wait_until(state_of(store).durable_lsn == 2);
    att_store_close(store);
}

static void a_hundred_thousand_records_share_a_few_commits(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    double start = seconds();
    append_all(store, 1, 100000, 2);
    wait_until(state_of(store).durable_lsn == 100000);
    print_message("100000 records durable in %.3f s\n", seconds() - start);
    struct att_log_info info;
    att_store_log_info(store, &info);
    assert_int_equal(info.first_lsn, 1);
    assert_int_equal(info.last_lsn, 100000);
    assert_true(info.batches < 10000);
    assert_log(store, 0, 100000);
    att_store_close(store);
}

static void a_full_buffer_says_again_and_takes_nothing(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_INTERVAL);
    uint64_t lsn = 1, refused = 0;
    for (; lsn <= 3000; lsn++) {
        while (append(store, lsn, WORDS_MAX) == ATT_AGAIN) { /* 96 MiB through 16 */
            refused++;
            att_store_push(store);
            usleep(200);
        }
        att_store_push(store);
    }
    assert_true(refused > 0);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 0, 3000);
    att_store_close(store);
}

static void without_a_log_the_snapshot_is_what_is_durable(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_OFF);
    for (uint64_t lsn = 1; lsn <= 50; lsn++)
        assert_int_equal(append(store, lsn, 1), ATT_OK);
    att_store_push(store);
    assert_int_equal(state_of(store).durable_lsn, 0);
    snapshot(store, 40, 2);
    assert_int_equal(state_of(store).durable_lsn, 40);
    att_store_close(store);
    store = open_started(false, ATT_DURABLE_ALWAYS);
    assert_int_equal(att_store_last_lsn(store), 40);
    assert_snapshot(store, 40, 2);
    append_all(store, 41, 60, 1);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 40, 60);
    att_store_close(store);
}

static void a_log_that_stopped_below_a_snapshot_goes_on_above_it(void **state)
{
    (void)state;
    make_state(30);
    struct att_store *store = open_started(false, ATT_DURABLE_OFF);
    snapshot(store, 45, 2);
    att_store_close(store);
    store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 46, 50, 1);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 45, 50);
    struct findings findings = {0, 0, ""};
    assert_status(att_store_verify(store, see_finding, &findings, &test_error), ATT_OK);
    att_store_close(store);
}

static void two_generations_are_kept_and_the_log_is_trimmed_to_the_older(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_snapshot_info infos[8];
    struct att_log_info info;
    for (uint64_t round = 1; round <= 5; round++) {
        append_all(store, round * 100 - 99, round * 100, 4);
        wait_until(state_of(store).durable_lsn == round * 100);
        snapshot(store, round * 100, round + 1);
        assert_int_equal(att_store_generations(store, infos, 8), 2);
        assert_int_equal(infos[0].lsn, round * 100 - 100);
        assert_int_equal(infos[1].lsn, round * 100);
        wait_until((att_store_log_info(store, &info), info.first_lsn == round * 100 - 99));
        assert_int_equal(info.last_lsn, round * 100);
    }
    att_store_close(store);
    store = open_to_read();
    assert_snapshot(store, 500, 6);
    assert_log(store, 500, 500);
    assert_log(store, 400, 500);
    struct findings findings = {0, 0, ""};
    assert_status(att_store_verify(store, see_finding, &findings, &test_error), ATT_OK);
    assert_true(findings.count >= 3);
    att_store_close(store);
}

static void a_manifest_waits_until_its_cut_is_durable(void **state)
{
    (void)state;
    make_state(0);
    struct att_store_options options = {.durability = ATT_DURABLE_INTERVAL, .interval_ms = 1000};
    struct att_store *store = NULL;
    assert_status(att_store_open(test_dir, &options, &store, &test_error), ATT_OK);
    assert_status(att_store_start(store, &test_error), ATT_OK);
    append_all(store, 1, 10, 1);
    struct att_state_shape shape = make_shape();
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_EBUSY);
    feed_pieces(store, 10, 2);
    struct att_store_state now;
    do {
        now = state_of(store);
        if (now.snapshot_lsn == 10)
            now = state_of(store);
        assert_true(now.snapshot_lsn != 10 || now.durable_lsn >= 10);
        usleep(200);
    } while (now.snapshot_running);
    assert_int_equal(now.snapshot_lsn, 10);
    att_store_close(store);
}

static void a_piece_that_comes_twice_fails_the_snapshot_only(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    char text[600];
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    att_store_snapshot_cut(store, 0, 0, 1);
    att_store_snapshot_piece(store, 0, 0, "x", 1);
    att_store_snapshot_piece(store, 0, 0, "x", 1);
    att_store_snapshot_end(store);
    wait_until(!state_of(store).snapshot_running);
    assert_true(state_of(store).snapshot_failed);
    assert_int_equal(state_of(store).refusing, ATT_OK);
    att_store_snapshot_message(store, text, sizeof text);
    assert_non_null(strstr(text, "twice"));
    snapshot(store, 0, 3);
    att_store_close(store);
    store = open_to_read();
    assert_snapshot(store, 0, 3);
    att_store_close(store);
}

static void a_piece_that_is_too_large_fails_the_snapshot_only(void **state)
{
    (void)state;
    make_state(10);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    att_store_snapshot_piece(store, ARRAYS, 0, "", PERSIST_PIECE_MAX + 1);
    feed_pieces(store, 10, 2);
    wait_until(!state_of(store).snapshot_running);
    assert_true(state_of(store).snapshot_failed);
    snapshot(store, 10, 3);
    att_store_close(store);
}

static bool has_unfinished(void)
{
    struct att_store *store = open_to_read();
    struct findings findings = {0, 0, ""};
    assert_status(att_store_verify(store, see_finding, &findings, &test_error), ATT_OK);
    att_store_close(store);
    return strstr(findings.text, "unfinished");
}

static void a_close_in_the_middle_of_a_snapshot_leaves_the_one_before(void **state)
{
    (void)state;
    make_state(20);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    static unsigned char data[PIECE_BYTES];
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    att_store_snapshot_cut(store, 0, 20, 1);
    for (uint64_t i = 0; i < 30; i++)
        att_store_snapshot_piece(store, 0, i * PIECE_BYTES, data, sizeof data);
    usleep(20000);
    att_store_close(store);
    store = open_started(false, ATT_DURABLE_ALWAYS);
    assert_snapshot(store, 0, 1);
    assert_log(store, 0, 20);
    wait_until(!has_unfinished()); /* a start deletes what was left, */
    snapshot(store, 20, 9);        /* and its number is not used again */
    assert_int_equal(state_of(store).generation, 3);
    att_store_close(store);
    assert_false(has_unfinished());
    store = open_to_read();
    assert_snapshot(store, 20, 9);
    att_store_close(store);
}

static enum att_status count_record(void *context, const struct att_record *record, const void *payload,
                                    struct att_error *error)
{
    (void)payload, (void)error;
    uint64_t *counts = context;
    counts[record->lsn]++;
    return ATT_OK;
}

/* A time with --durability off leaves a hole in the log, below the snapshot that holds what was done: no damage. */
static void what_was_not_logged_and_is_in_the_snapshot_is_no_gap(void **state)
{
    (void)state;
    uint64_t counts[16] = {0};
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_OFF);
    snapshot(store, 10, 2);
    att_store_close(store);
    store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 11, 15, 1);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 10, 15);
    assert_status(att_store_read_log(store, 0, count_record, counts, &test_error), ATT_OK);
    for (uint64_t lsn = 0; lsn < 16; lsn++)
        assert_int_equal(counts[lsn], lsn > 0 && (lsn <= 5 || lsn > 10));
    att_store_close(store);
}

static void an_interrupted_creation_can_be_started_again(void **state)
{
    (void)state;
    struct att_store *store = open_started(true, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    att_store_snapshot_piece(store, 0, 0, "left behind", 11);
    usleep(20000);
    att_store_close(store); /* before the manifest */
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_ENOENT);
    assert_non_null(strstr(test_error.text, "creation was interrupted; start again with --q --k --v"));
    assert_status(try_open(false, true, ATT_DURABLE_ALWAYS, &store), ATT_ENOENT);
    store = open_started(true, ATT_DURABLE_ALWAYS);
    snapshot(store, 0, 4);
    att_store_close(store);
    assert_status(try_open(true, false, ATT_DURABLE_ALWAYS, &store), ATT_EEXIST);
    store = open_to_read();
    assert_snapshot(store, 0, 4);
    att_store_close(store);
}

static void a_creation_can_be_interrupted_at_any_file(void **state)
{
    (void)state;
    for (int step = 0; step < 7; step++) {
        char path[160];
        struct att_store *store = NULL;
        static const char *const made[] = {
            "", "/lock", "/log", "/snap", "/log/lock.mdb", "/log/data.mdb", "/snap/data.mdb"};
        for (int i = 0; i <= step; i++) {
            snprintf(path, sizeof path, "%s%s", test_dir, made[i]);
            if (i == 0 || i == 2 || i == 3)
                assert_int_equal(mkdir(path, 0700), 0);
            else
                close(open(path, O_CREAT | O_WRONLY, 0600));
        }
        assert_status(try_open(false, true, ATT_DURABLE_ALWAYS, &store), ATT_ENOENT);
        assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_ENOENT);
        make_state(3);
        store = open_to_read();
        assert_log(store, 0, 3);
        att_store_close(store);
        assert_int_equal(nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    }
}

static void a_foreign_directory_is_left_alone(void **state)
{
    (void)state;
    char path[160];
    struct att_store *store = NULL;
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_ENOENT);
    assert_int_equal(mkdir(test_dir, 0700), 0);
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_ENOENT);
    snprintf(path, sizeof path, "%s/letter.txt", test_dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_status(try_open(true, false, ATT_DURABLE_ALWAYS, &store), ATT_EEXIST);
    assert_non_null(strstr(test_error.text, test_dir));
    assert_int_equal(access(path, F_OK), 0);
    snprintf(path, sizeof path, "%s/lock", test_dir);
    assert_int_equal(access(path, F_OK), -1);
    /* A directory "log" of somebody else's, beside nothing of ours. */
    snprintf(path, sizeof path, "%s/letter.txt", test_dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/log", test_dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_status(try_open(true, false, ATT_DURABLE_ALWAYS, &store), ATT_EEXIST);
    snprintf(path, sizeof path, "%s/lock", test_dir);
    assert_int_equal(access(path, F_OK), -1);
}

static void a_directory_that_may_not_be_written_says_so(void **state)
{
    (void)state;
    make_state(10);
    pid_t child = fork();
    if (child == 0) {
        struct att_store *store = NULL;
        char path[160];
        int bad = 0;
        if (geteuid() == 0) { /* somebody else's, for us to read only */
            chmod(test_root, 0755);
            const char *const open_up[] = {
                "", "/log", "/snap", "/lock", "/log/data.mdb", "/snap/data.mdb", "/log/lock.mdb", "/snap/lock.mdb"};
            for (int i = 0; i < 8; i++) {
                snprintf(path, sizeof path, "%s%s", test_dir, open_up[i]);
                chmod(path, i < 3 ? 0755 : 0644);
            }
            if (setgid(65534) || setuid(65534))
                _exit(9);
        } else {
            snprintf(path, sizeof path, "%s/lock", test_dir);
            chmod(path, 0444);
            chmod(test_dir, 0555);
        }
        bad |= try_open(false, false, ATT_DURABLE_ALWAYS, &store) != ATT_EPERM;
        bad |= !strstr(test_error.text, test_dir);
        bad |= try_open(false, true, ATT_DURABLE_ALWAYS, &store) != ATT_OK;
        if (store) {
            struct seen seen = {0};
            bad |= att_store_read_log(store, 0, see_record, &seen, &test_error) != ATT_OK || seen.count != 10;
            att_store_close(store);
        }
        _exit(bad);
    }
    int how;
    waitpid(child, &how, 0);
    chmod(test_dir, 0755);
    assert_int_equal(how, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(a_new_state_is_empty_and_counts_its_first_start),
        TEST(what_was_appended_is_read_back_after_a_reopen),
        TEST(appends_must_be_consecutive_and_well_formed),
        TEST(a_hundred_thousand_records_share_a_few_commits),
        TEST(a_full_buffer_says_again_and_takes_nothing),
        TEST(without_a_log_the_snapshot_is_what_is_durable),
        TEST(a_log_that_stopped_below_a_snapshot_goes_on_above_it),
        TEST(two_generations_are_kept_and_the_log_is_trimmed_to_the_older),
        TEST(a_manifest_waits_until_its_cut_is_durable),
        TEST(a_piece_that_comes_twice_fails_the_snapshot_only),
        TEST(a_piece_that_is_too_large_fails_the_snapshot_only),
        TEST(a_close_in_the_middle_of_a_snapshot_leaves_the_one_before),
        TEST(what_was_not_logged_and_is_in_the_snapshot_is_no_gap),
        TEST(an_interrupted_creation_can_be_started_again),
        TEST(a_creation_can_be_interrupted_at_any_file),
        TEST(a_foreign_directory_is_left_alone),
        TEST(a_directory_that_may_not_be_written_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
