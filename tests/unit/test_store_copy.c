/* Copies of a state, beside a daemon that writes, and several heads with a cut each; repairs that are interrupted. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include <sys/syscall.h>

#include "test_store_support.h"

static char copy_dir[96];

static struct att_store *open_copy(bool read_only)
{
    struct att_store_options options = {.read_only = read_only};
    struct att_store *store = NULL;
    test_error.text[0] = 0;
    assert_status(att_store_open(copy_dir, &options, &store, &test_error), ATT_OK);
    return store;
}

static void assert_clean(struct att_store *store)
{
    struct findings findings = {0, 0, ""};
    if (att_store_verify(store, see_finding, &findings, &test_error))
        fail_msg("%s", findings.text);
}

static int setup_copy(void **state)
{
    int result = setup_directory(state);
    snprintf(copy_dir, sizeof copy_dir, "%s/copy", test_root);
    return result;
}

static void assert_missing(const char *suffix)
{
    char path[160];
    struct stat stat_data;
    snprintf(path, sizeof path, "%s%s", copy_dir, suffix);
    assert_int_not_equal(lstat(path, &stat_data), 0);
}

static void a_copy_holds_the_snapshot_and_the_log_and_goes_on(void **state)
{
    (void)state;
    struct att_copy_info info;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 1, 300, 2000); /* several batches */
    wait_until(state_of(store).durable_lsn == 300);
    snapshot(store, 300, 7);
    append_all(store, 301, 400, 2000);
    wait_until(state_of(store).durable_lsn == 400);
    att_store_close(store);
    store = open_to_read();
    uint64_t incarnation = att_store_incarnation(store);
    assert_status(att_store_copy(store, copy_dir, UINT64_MAX, &info, &test_error), ATT_OK);
    att_store_close(store);
    assert_int_equal(info.snapshot_lsn, 300);
    assert_int_equal(info.records, 100);
    assert_int_equal(info.lsn, 400);
    assert_missing(".unfinished");
    store = open_copy(false);
    assert_int_equal(att_store_incarnation(store), incarnation + 1);
    assert_snapshot(store, 300, 7);
    assert_log(store, 300, 400);
    assert_clean(store);
    assert_status(att_store_start(store, &test_error), ATT_OK);
    append_all(store, 401, 450, 3);
    wait_until(state_of(store).durable_lsn == 450);
    snapshot(store, 450, 8);
    att_store_close(store);
    store = open_copy(true);
    assert_snapshot(store, 450, 8);
    assert_log(store, 300, 450);
    assert_clean(store);
    att_store_close(store);
    store = open_to_read(); /* and the original is what it was */
    assert_snapshot(store, 300, 7);
    assert_log(store, 300, 400);
    att_store_close(store);
}

static void a_copy_up_to_an_lsn_ends_there(void **state)
{
    (void)state;
    struct att_copy_info info;
    make_state(100);
    struct att_store *store = open_to_read();
    assert_status(att_store_copy(store, copy_dir, 60, &info, &test_error), ATT_OK);
    assert_int_equal(info.lsn, 60);
    assert_status(att_store_copy(store, copy_dir, 60, &info, &test_error), ATT_EEXIST);
    assert_int_equal(nftw(copy_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    assert_status(att_store_copy(store, copy_dir, 101, &info, &test_error), ATT_EINVAL);
    assert_non_null(strstr(test_error.text, "LSN 100"));
    assert_missing("");
    assert_missing(".unfinished");
    assert_status(att_store_copy(store, copy_dir, 0, &info, &test_error), ATT_OK);
    att_store_close(store);
    store = open_copy(false);
    assert_int_equal(att_store_last_lsn(store), 0);
    assert_clean(store);
    att_store_close(store);
}

static void an_empty_directory_is_taken_and_a_full_one_is_left_alone(void **state)
{
    (void)state;
    struct att_copy_info info;
    char path[160];
    make_state(10);
    assert_int_equal(mkdir(copy_dir, 0700), 0);
    snprintf(path, sizeof path, "%s/precious", copy_dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    struct att_store *store = open_to_read();
    assert_status(att_store_copy(store, copy_dir, UINT64_MAX, &info, &test_error), ATT_EEXIST);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(path), 0);
    assert_status(att_store_copy(store, copy_dir, UINT64_MAX, &info, &test_error), ATT_OK);
    att_store_close(store);
    store = open_copy(true);
    assert_log(store, 0, 10);
    att_store_close(store);
}

/* Heads that were cut at LSN 30, 10 and 20: the log is needed from 11 on, though the snapshot reaches to 30. */
static void the_cuts_of_several_heads_are_kept(void **state)
{
    (void)state;
    char exact[96];
    struct att_copy_info info;
    struct att_state_shape shape = make_shape();
    shape.heads = 3;
    struct att_store *store = open_started(true, ATT_DURABLE_ALWAYS);
    append_all(store, 1, 40, 4);
    wait_until(state_of(store).durable_lsn == 40);
    for (int generation = 0; generation < 2; generation++) {
        static const uint64_t cuts[2][3] = {{3, 1, 2}, {30, 10, 20}};
        assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
        for (uint32_t head = 0; head < 3; head++) {
            att_store_snapshot_cut(store, head, cuts[generation][head], head + 1);
            att_store_snapshot_piece(store, head * ATT_HEAD_ARRAYS, 0, "piece", 5);
        }
        att_store_snapshot_end(store);
        wait_until(!state_of(store).snapshot_running);
    }
    att_store_close(store);
    store = open_to_read();
    assert_status(att_store_copy(store, copy_dir, UINT64_MAX, &info, &test_error), ATT_OK);
    assert_int_equal(info.snapshot_lsn, 30);
    assert_int_equal(info.records, 30);
    snprintf(exact, sizeof exact, "%s/exact", test_root); /* what came between the cuts belongs to the largest */
    assert_status(att_store_copy(store, exact, 30, &info, &test_error), ATT_OK);
    assert_int_equal(info.records, 20);
    att_store_close(store);
    struct att_snapshot_info copied;
    store = open_copy(false);
    assert_status(att_store_snapshot(store, &copied, NULL, &test_error), ATT_OK);
    assert_int_equal(copied.lsn, 30);
    assert_int_equal(copied.replay_lsn, 10);
    assert_int_equal(att_store_cuts(store)[0].lsn, 30);
    assert_int_equal(att_store_cuts(store)[1].lsn, 10);
    assert_int_equal(att_store_cuts(store)[2].lsn, 20);
    assert_int_equal(att_store_cuts(store)[1].tokens_used, 2);
    assert_log(store, 10, 40);
    assert_clean(store);
    att_store_close(store);
}

struct writer {
    struct att_store *store;
    _Atomic bool stop;
    _Atomic uint64_t snapshots;
};

static void *write_and_snapshot(void *argument)
{
    struct writer *writer = argument;
    for (uint64_t lsn = 1; !writer->stop; lsn++) {
        append_all(writer->store, lsn, lsn, 20);
        if (lsn % 200 == 0) {
            wait_until(state_of(writer->store).durable_lsn == lsn);
            snapshot(writer->store, lsn, lsn / 200);
            writer->snapshots++;
        }
    }
    return NULL;
}

static void copies_beside_a_writer_are_whole(void **state)
{
    (void)state;
    pthread_t thread;
    make_state(0);
    struct writer writer = {.store = open_started(false, ATT_DURABLE_ALWAYS)};
    assert_int_equal(pthread_create(&thread, NULL, write_and_snapshot, &writer), 0);
    int copied = 0, again = 0;
    while (copied < 10 && again < 1000) {
        struct att_copy_info info;
        struct att_store_options options = {.read_only = true};
        struct att_error error = {0};
        struct att_store *store = NULL;
        enum att_status status = att_store_open(test_dir, &options, &store, &error);
        if (status == ATT_OK)
            status = att_store_copy(store, copy_dir, UINT64_MAX, &info, &error);
        att_store_close(store);
        if (status == ATT_AGAIN) {
            again++;
            assert_missing("");
            continue;
        }
        if (status)
            fail_msg("%s: %s", att_status_name(status), error.text);
        store = open_copy(false);
        assert_snapshot(store, info.snapshot_lsn, info.snapshot_lsn ? info.snapshot_lsn / 200 : 1);
        assert_log(store, info.snapshot_lsn, info.lsn);
        assert_clean(store);
        att_store_close(store);
        assert_int_equal(nftw(copy_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
        copied++;
    }
    writer.stop = true;
    pthread_join(thread, NULL);
    print_message("%d copies beside %llu snapshots, %d had to be made again\n", copied,
                  (unsigned long long)writer.snapshots, again);
    assert_int_equal(copied, 10);
    att_store_close(writer.store);
}

static void nobody_repairs_what_is_served(void **state)
{
    (void)state;
    struct att_repair_info info;
    make_state(10);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    assert_status(att_store_repair(test_dir, 5, &info, &test_error), ATT_ELOCKED);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 0, 10);
    att_store_close(store);
}

/* ---- Interrupted repairs: these take the place of libc's ---- */

static int dies_at;      /* renaming number so and so ends the process; 0: none does */
static bool no_exchange; /* as on a file system that cannot */

static void count_renaming(void)
{
    if (dies_at > 0 && --dies_at == 0)
        _exit(9);
}

int rename(const char *from, const char *to)
{
    count_renaming();
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    count_renaming();
    if (no_exchange) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

/* The newest LSN of the state DIR + suffix; 0: there is none. */
static uint64_t last_lsn_at(const char *suffix)
{
    struct att_store_options options = {.read_only = true};
    struct att_store *store = NULL;
    char path[160];
    snprintf(path, sizeof path, "%s%s", test_dir, suffix);
    if (att_store_open(path, &options, &store, &test_error))
        return 0;
    uint64_t lsn = att_store_last_lsn(store);
    att_store_close(store);
    return lsn;
}

/* A repair of a state of 10 updates to 5 that dies at renaming `at`. True: there were not so many. */
static bool interrupted_repair_is_harmless(int at)
{
    struct att_repair_info info;
    char path[160];
    int how;
    snprintf(test_dir, sizeof test_dir, "%s/state-%d-%d", test_root, no_exchange, at);
    make_state(10);
    pid_t child = fork();
    if (child == 0) {
        dies_at = at;
        _exit(att_store_repair(test_dir, 5, &info, &test_error) != ATT_OK);
    }
    waitpid(child, &how, 0);
    assert_true(WIFEXITED(how) && (WEXITSTATUS(how) == 0 || WEXITSTATUS(how) == 9));
    if (last_lsn_at("") != 10 && last_lsn_at(".before-repair") != 10)
        fail_msg("died at renaming %d: the original is not under its name", at);
    if (last_lsn_at("") == 0) { /* only without exchange: both are there, under their names */
        assert_true(no_exchange);
        assert_int_equal(last_lsn_at(".repaired"), 5);
        return false;
    }
    static const char *const left[] = {".repaired.unfinished", ".repaired"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", test_dir, left[i]);
        if (access(path, F_OK))
            continue;
        assert_status(att_store_repair(test_dir, 5, &info, &test_error), ATT_EEXIST);
        assert_non_null(strstr(test_error.text, path));
        assert_non_null(strstr(test_error.text, "remove it"));
        assert_int_equal(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    }
    assert_status(att_store_repair(test_dir, 5, &info, &test_error), ATT_OK);
    assert_int_equal(last_lsn_at(""), 5);
    return WEXITSTATUS(how) == 0;
}

static void an_interrupted_repair_leaves_the_original_under_its_name(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        int at = 1;
        no_exchange = i == 1;
        while (!interrupted_repair_is_harmless(at))
            at++;
        assert_true(at > 3);
    }
    no_exchange = false;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_copy, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(a_copy_holds_the_snapshot_and_the_log_and_goes_on),
        TEST(a_copy_up_to_an_lsn_ends_there),
        TEST(an_empty_directory_is_taken_and_a_full_one_is_left_alone),
        TEST(the_cuts_of_several_heads_are_kept),
        TEST(copies_beside_a_writer_are_whole),
        TEST(nobody_repairs_what_is_served),
        TEST(an_interrupted_repair_leaves_the_original_under_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
