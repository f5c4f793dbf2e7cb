/* Limits: a map that is full, a reader that died, writers at once, how much disk a hundred snapshots take, and what the
 * log thread leaves alone until it is pushed. */
#include <lmdb.h>

#include "store_impl.h"
#include "test_store_support.h"

static uint64_t file_bytes(const char *name)
{
    char path[160];
    struct stat stat_file;
    snprintf(path, sizeof path, "%s/%s/data.mdb", test_dir, name);
    assert_int_equal(stat(path, &stat_file), 0);
    return (uint64_t)stat_file.st_size;
}

static struct att_store *open_with_map(uint64_t map_bytes)
{
    struct att_store_options options = {.durability = ATT_DURABLE_ALWAYS, .map_bytes = map_bytes};
    struct att_store *store = NULL;
    assert_status(att_store_open(test_dir, &options, &store, &test_error), ATT_OK);
    assert_status(att_store_start(store, &test_error), ATT_OK);
    return store;
}

static void a_full_map_is_a_full_disk_and_a_larger_one_is_room(void **state)
{
    (void)state;
    char text[600];
    make_state(0);
    struct att_store *store = open_with_map((uint64_t)8 << 20);
    uint64_t lsn = 0;
    while (state_of(store).refusing == ATT_OK) {
        assert_true(lsn < 10000);
        append_all(store, lsn + 1, lsn + 1, WORDS_MAX / 2);
        lsn++;
        for (int i = 0; i < 2000 && state_of(store).durable_lsn < lsn && state_of(store).refusing == ATT_OK; i++)
            usleep(200);
    }
    uint64_t durable = state_of(store).durable_lsn;
    assert_int_equal(state_of(store).refusing, ATT_ENOSPC);
    assert_true(durable < lsn && durable > 100);
    att_store_message(store, text, sizeof text);
    assert_non_null(strstr(text, test_dir));
    snapshot(store, durable, 2); /* the other environment has room */
    att_store_close(store);
    assert_true(file_bytes("log") <= (uint64_t)8 << 20);
    store = open_started(false, ATT_DURABLE_ALWAYS);
    assert_int_equal(att_store_last_lsn(store), durable);
    append_all(store, durable + 1, durable + 50, WORDS_MAX / 2);
    wait_until(state_of(store).durable_lsn == durable + 50);
    att_store_close(store);
    store = open_to_read();
    assert_snapshot(store, durable, 2);
    assert_log(store, 0, durable + 50);
    att_store_close(store);
}

static void a_map_too_small_for_a_snapshot_fails_it_and_keeps_the_log(void **state)
{
    (void)state;
    make_state(0);
    struct att_state_shape shape = make_shape();
    struct att_store *store = open_with_map((uint64_t)2 << 20); /* one of 1.5 MB is in it */
    append_all(store, 1, 50, 4);
    wait_until(state_of(store).durable_lsn == 50);
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    feed_pieces(store, 50, 2);
    wait_until(!state_of(store).snapshot_running);
    assert_true(state_of(store).snapshot_failed);
    struct findings findings = {0, 0, ""};
    struct att_store *beside = open_to_read();
    assert_status(att_store_verify(beside, see_finding, &findings, &test_error), ATT_OK);
    assert_null(strstr(findings.text, "unfinished")); /* what was written of it has gone */
    att_store_close(beside);
    append_all(store, 51, 60, 4);
    wait_until(state_of(store).durable_lsn == 60);
    assert_int_equal(state_of(store).refusing, ATT_OK);
    att_store_close(store);
    store = open_started(false, ATT_DURABLE_ALWAYS);
    assert_snapshot(store, 0, 1);
    assert_log(store, 0, 60);
    snapshot(store, 60, 3);
    att_store_close(store);
}

/* A process that reads both environments and is killed in the middle of it, so that it never lets go. */
static void leave_stale_readers(void)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 2; i++) {
            char path[160];
            MDB_env *env;
            MDB_txn *txn;
            snprintf(path, sizeof path, "%s/%s", test_dir, i ? "snap" : "log");
            if (mdb_env_create(&env) || mdb_env_open(env, path, MDB_RDONLY | MDB_NOTLS, 0600) ||
                mdb_txn_begin(env, NULL, MDB_RDONLY, &txn))
                _exit(1);
        }
        if (write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char byte;
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* Snapshots, each behind `records` records more. */
static void run_generations(struct att_store *store, int count, uint64_t *lsn, uint64_t records, uint64_t bytes[2])
{
    for (int i = 0; i < count; i++) {
        append_all(store, *lsn + 1, *lsn + records, 100);
        *lsn += records;
        wait_until(state_of(store).durable_lsn == *lsn);
        snapshot(store, *lsn, *lsn);
        for (int which = 0; bytes && which < 2; which++) {
            uint64_t now = file_bytes(which ? "snap" : "log");
            bytes[which] = now > bytes[which] ? now : bytes[which];
        }
    }
}

static void a_killed_reader_does_not_make_the_files_grow(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    uint64_t lsn = 0, before[2] = {0, 0}, after[2] = {0, 0};
    run_generations(store, 20, &lsn, 200, before); /* until the files have found their size */
    leave_stale_readers();
    run_generations(store, 30, &lsn, 200, after);
    print_message("log %llu to %llu bytes, snap %llu to %llu\n", (unsigned long long)before[0],
                  (unsigned long long)after[0], (unsigned long long)before[1], (unsigned long long)after[1]);
    for (int i = 0; i < 2; i++)
        assert_true(after[i] <= before[i] + before[i] / 2);
    att_store_close(store);
}

/* docs/format.md says what is promised. */
static void two_hundred_snapshots_take_no_more_than_four(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    const uint64_t one = file_bytes("snap"); /* 1.6 MB; what comes on top of three matters less for larger ones */
    uint64_t lsn = 0, early[2] = {0, 0}, late[2] = {0, 0};
    run_generations(store, 20, &lsn, 300, early);
    run_generations(store, 180, &lsn, 300, late);
    att_store_close(store);
    double ratio = (double)late[1] / (double)one;
    print_message(
        "200 snapshots of %llu bytes: snap %llu bytes after 20, %llu after 200 (%.2f snapshots); log %llu and "
        "%llu\n",
        (unsigned long long)one, (unsigned long long)early[1], (unsigned long long)late[1], ratio,
        (unsigned long long)early[0], (unsigned long long)late[0]);
    assert_true(late[1] <= 4 * one);
    assert_true(late[1] <= early[1] + one); /* flat, but for how the runs of pages of a transaction of 1 MiB fall */
    assert_true(late[0] <= early[0] + ((uint64_t)1 << 20));
}

static void of_writers_at_once_one_gets_the_directory(void **state)
{
    (void)state;
    make_state(10);
    for (int round = 0; round < 10; round++) {
        int go[2], stay[2], told[2], opened = 0, locked = 0;
        assert_int_equal(pipe(go) | pipe(stay) | pipe(told), 0);
        for (int i = 0; i < 4; i++) {
            if (fork() == 0) {
                struct att_store *store = NULL;
                char byte;
                close(go[1]);
                close(stay[1]);
                if (read(go[0], &byte, 1) != 0) /* all at once, when the parent closes its end */
                    _exit(3);
                byte = (char)try_open(false, false, ATT_DURABLE_ALWAYS, &store);
                if (write(told[1], &byte, 1) != 1 || read(stay[0], &byte, 1) != 0) /* until all have tried */
                    _exit(3);
                att_store_close(store);
                _exit(0);
            }
        }
        close(go[0]);
        close(go[1]);
        for (int i = 0; i < 4; i++) {
            char status = -1;
            assert_int_equal(read(told[0], &status, 1), 1);
            opened += status == ATT_OK;
            locked += status == ATT_ELOCKED;
        }
        close(stay[1]);
        for (int i = 0; i < 4; i++) {
            int how = -1;
            wait(&how);
            assert_int_equal(how, 0);
        }
        close(stay[0]);
        close(told[0]);
        close(told[1]);
        assert_int_equal(opened, 1);
        assert_int_equal(locked, 3);
    }
}

/* The second snapshot sets the log thread to trimming: it commits then, and must not take what was not pushed. */
static void a_commit_takes_no_more_than_was_pushed(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_with_map(0);
    struct att_log_info info;
    append_all(store, 1, 10, 1);
    wait_until(state_of(store).durable_lsn == 10);
    snapshot(store, 10, 1);
    append_all(store, 11, 11, 1); /* a batch of its own, that trimming has to leave */
    wait_until(state_of(store).durable_lsn == 11);
    append_all(store, 12, 20, 1);
    wait_until(state_of(store).durable_lsn == 20);
    assert_int_equal(append(store, 21, 1), ATT_OK);
    snapshot(store, 20, 2);
    wait_until((att_store_log_info(store, &info), info.first_lsn == 11));
    assert_int_equal(state_of(store).durable_lsn, 20);
    att_store_hurry(store, 21); /* pushes */
    wait_until(state_of(store).durable_lsn == 21);
    assert_int_equal(append(store, 22, 1), ATT_OK);
    att_store_close(store); /* so does this */
    store = open_to_read();
    assert_log(store, 10, 22);
    att_store_close(store);
}

/* It takes several transactions, and nothing is appended meanwhile that would set the log thread to the rest of it. */
static void all_that_two_snapshots_hold_is_trimmed(void **state)
{
    (void)state;
    enum { BATCHES = 3 * PERSIST_TRIM_BATCHES };
    make_state(0);
    struct att_store *store = open_with_map(0);
    struct att_log_info info;
    for (uint64_t lsn = 1; lsn <= BATCHES; lsn++) {
        append_all(store, lsn, lsn, 1);
        wait_until(state_of(store).durable_lsn == lsn);
    }
    snapshot(store, BATCHES, 1);
    snapshot(store, BATCHES, 2);
    wait_until((att_store_log_info(store, &info), info.batches == 0));
    att_store_close(store);
}

static void copy_file(const char *from, const char *to)
{
    char command[400];
    snprintf(command, sizeof command, "cp %s/%s %s/%s", test_dir, from, test_dir, to);
    assert_int_equal(system(command), 0);
}

/* The log as it was before the last snapshot trimmed it. And the next one trims to what the last one before the start held. */
static void a_trim_that_a_crash_interrupted_is_finished(void **state)
{
    (void)state;
    struct att_log_info info;
    make_state(0);
    struct att_store *store = open_with_map(0);
    for (uint64_t lsn = 1; lsn <= 40; lsn++) {
        append_all(store, lsn, lsn, 1);
        wait_until(state_of(store).durable_lsn == lsn);
        if (lsn == 20)
            snapshot(store, 20, 1);
    }
    att_store_close(store);
    copy_file("log/data.mdb", "before");
    store = open_with_map(0);
    snapshot(store, 40, 2);
    att_store_close(store);
    copy_file("before", "log/data.mdb");
    store = open_with_map(0);
    wait_until((att_store_log_info(store, &info), info.first_lsn == 21));
    append_all(store, 41, 50, 1);
    wait_until(state_of(store).durable_lsn == 50);
    snapshot(store, 50, 3);
    wait_until((att_store_log_info(store, &info), info.first_lsn == 41));
    att_store_close(store);
}

/* Of more than there is room for, what fits gets to the disk; and what trimming sets free is room for the rest. */
static void a_full_map_takes_what_fits_and_goes_on_when_it_is_trimmed(void **state)
{
    (void)state;
    enum { RECORDS = 300 }; /* 10 MB */
    make_state(0);
    struct att_store *store = open_with_map((uint64_t)8 << 20);
    for (uint64_t lsn = 1; lsn <= RECORDS; lsn++)
        assert_int_equal(append(store, lsn, WORDS_MAX), ATT_OK);
    att_store_push(store);
    wait_until(state_of(store).refusing == ATT_ENOSPC && state_of(store).durable_lsn > 100);
    const uint64_t durable = state_of(store).durable_lsn;
    assert_true(durable < RECORDS);
    snapshot(store, 90, 2);
    snapshot(store, 100, 3);
    wait_until(state_of(store).durable_lsn == RECORDS && state_of(store).refusing == ATT_OK);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 90, RECORDS);
    att_store_close(store);
}

/* More than there is room for is refused, and what has not been pushed yet is not overwritten. */
static void a_full_buffer_keeps_what_is_in_it(void **state)
{
    (void)state;
    enum { WORDS = 1000 }; /* so that records end anywhere in the ring */
    make_state(0);
    struct att_store *store = open_with_map(0);
    const uint64_t bytes = make_record(1, WORDS).length;
    uint64_t lsn = 0;
    for (int round = 0; round < 2; round++) {
        const uint64_t first = lsn;
        while (append(store, lsn + 1, WORDS) == ATT_OK)
            lsn++;
        assert_int_equal(lsn - first, ATT_LOG_BUFFER_BYTES / bytes);
        assert_int_equal(append(store, lsn + 1, WORDS), ATT_AGAIN);
        att_store_push(store);
        wait_until(state_of(store).durable_lsn == lsn);
    }
    assert_log(store, 0, lsn);
    att_store_close(store);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(a_commit_takes_no_more_than_was_pushed),
        TEST(all_that_two_snapshots_hold_is_trimmed),
        TEST(a_trim_that_a_crash_interrupted_is_finished),
        TEST(a_full_buffer_keeps_what_is_in_it),
        TEST(a_full_map_takes_what_fits_and_goes_on_when_it_is_trimmed),
        TEST(a_full_map_is_a_full_disk_and_a_larger_one_is_room),
        TEST(a_map_too_small_for_a_snapshot_fails_it_and_keeps_the_log),
        TEST(a_killed_reader_does_not_make_the_files_grow),
        TEST(two_hundred_snapshots_take_no_more_than_four),
        TEST(of_writers_at_once_one_gets_the_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
