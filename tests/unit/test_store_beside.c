/* The store beside others: who writes keeps other writers out, and readers work meanwhile. */
#include "test_store_support.h"

static void a_second_writer_is_told_who_holds_the_directory(void **state)
{
    (void)state;
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS), *second = NULL;
    char pid[32];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &second), ATT_ELOCKED);
    assert_non_null(strstr(test_error.text, test_dir));
    assert_non_null(strstr(test_error.text, pid));
    assert_status(try_open(true, false, ATT_DURABLE_ALWAYS, &second), ATT_ELOCKED);
    append_all(store, 6, 9, 1);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 0, 9);
    att_store_close(store);
}

static void a_reader_works_beside_a_live_writer(void **state)
{
    (void)state;
    make_state(10);
    int ready[2], done[2];
    char byte = 0;
    assert_int_equal(pipe(ready) | pipe(done), 0);
    pid_t child = fork();
    if (child == 0) {
        struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
        for (uint64_t lsn = 11;; lsn++) {
            append_all(store, lsn, lsn, 1);
            if (lsn == 200 && write(ready[1], "r", 1) != 1)
                _exit(1);
            if (lsn % 100 == 0) {
                wait_until(state_of(store).durable_lsn == lsn);
                snapshot(store, lsn, lsn);
            }
            fcntl(done[0], F_SETFL, O_NONBLOCK);
            if (read(done[0], &byte, 1) == 1)
                _exit(0);
        }
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    for (int i = 0; i < 20; i++) {
        struct att_store *store = NULL;
        enum att_status status = try_open(false, true, ATT_DURABLE_ALWAYS, &store);
        if (status == ATT_AGAIN)
            continue;
        assert_status(status, ATT_OK);
        struct att_snapshot_info info;
        struct seen seen = {0};
        struct findings findings = {0, 0, ""};
        assert_status(att_store_snapshot(store, &info, NULL, &test_error), ATT_OK);
        status = att_store_read_log(store, info.lsn, see_record, &seen, &test_error);
        assert_true(status == ATT_OK || status == ATT_AGAIN);
        assert_false(seen.wrong);
        status = att_store_verify(store, see_finding, &findings, &test_error);
        if (status)
            print_message("%s", findings.text);
        assert_status(status, ATT_OK);
        att_store_close(store);
    }
    assert_int_equal(write(done[1], "d", 1), 1);
    int how;
    waitpid(child, &how, 0);
    assert_int_equal(how, 0);
    close(ready[0]);
    close(ready[1]);
    close(done[0]);
    close(done[1]);
}

static int ask[2], answer[2]; /* pipes to the writer */

/* Of the one that is being written, the last that is looked at: now the writer replaces them all, and trims the log. */
static void see_finding_late(void *context, int severity, const char *text)
{
    char byte = 0;
    see_finding(context, severity, text);
    if (!strstr(text, "is unfinished"))
        return;
    assert_int_equal(write(ask[1], "a", 1), 1);
    assert_int_equal(read(answer[0], &byte, 1), 1);
}

static void write_and_trim(void)
{
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    struct att_log_info log = {0};
    char byte;
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    att_store_snapshot_piece(store, ARRAYS, 0, "piece", 5);
    if (read(ask[0], &byte, 1) != 1)
        _exit(1);
    feed_pieces(store, 10, 2);
    wait_until(!state_of(store).snapshot_running);
    for (uint64_t lsn = 11; lsn < 30; lsn += 10) {
        append_all(store, lsn, lsn + 9, 1);
        wait_until(state_of(store).durable_lsn == lsn + 9);
        snapshot(store, lsn + 9, 2);
    }
    wait_until((att_store_log_info(store, &log), log.first_lsn == 21));
    _exit(write(answer[1], "a", 1) != 1);
}

static void what_a_writer_trims_meanwhile_is_not_missing(void **state)
{
    (void)state;
    struct findings findings;
    int how;
    make_state(10);
    assert_int_equal(pipe(ask) | pipe(answer), 0);
    pid_t child = fork();
    if (child == 0)
        write_and_trim();
    do {
        struct att_store *store = open_to_read();
        findings = (struct findings){0, 0, ""};
        enum att_status status = att_store_verify(store, see_finding_late, &findings, &test_error);
        if (status)
            print_message("%s", findings.text);
        assert_status(status, ATT_OK);
        att_store_close(store);
    } while (!strstr(findings.text, "is unfinished"));
    waitpid(child, &how, 0);
    assert_int_equal(how, 0);
    for (int i = 0; i < 2; i++) {
        close(ask[i]);
        close(answer[i]);
    }
}

static void a_snapshot_that_a_writer_replaces_meanwhile_is_not_damaged(void **state)
{
    (void)state;
    struct seen_pieces seen = {.seed = 1};
    make_state(10);
    struct att_store *store = open_to_read();
    pid_t child = fork();
    if (child == 0) {
        struct att_store *writer = open_started(false, ATT_DURABLE_ALWAYS);
        snapshot(writer, 10, 2);
        snapshot(writer, 10, 3);
        att_store_close(writer);
        _exit(0);
    }
    int how;
    waitpid(child, &how, 0);
    assert_int_equal(how, 0);
    assert_status(att_store_read_snapshot(store, see_piece, &seen, &test_error), ATT_AGAIN);
    att_store_close(store);
}

static void reading_makes_and_needs_no_file(void **state)
{
    (void)state;
    char path[160];
    struct stat before, after;
    make_state(10);
    snprintf(path, sizeof path, "%s/log/lock.mdb", test_dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/lock", test_dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/log/data.mdb", test_dir);
    assert_int_equal(stat(path, &before), 0);
    struct att_store *store = open_to_read();
    assert_int_equal(att_store_incarnation(store), 1);
    assert_log(store, 0, 10);
    assert_status(att_store_start(store, &test_error), ATT_EREADONLY);
    att_store_close(store);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    snprintf(path, sizeof path, "%s/log/lock.mdb", test_dir);
    assert_int_equal(access(path, F_OK), -1);
    snprintf(path, sizeof path, "%s/lock", test_dir);
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(a_second_writer_is_told_who_holds_the_directory),
        TEST(a_reader_works_beside_a_live_writer),
        TEST(what_a_writer_trims_meanwhile_is_not_missing),
        TEST(a_snapshot_that_a_writer_replaces_meanwhile_is_not_damaged),
        TEST(reading_makes_and_needs_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
