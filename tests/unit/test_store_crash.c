/* The store against a model: random operations with reopens, kill -9 at random moments, disks that
 * fill up or fail. ATT_TEST_SEED repeats a run. */
#include <sys/mman.h>

#include "store_impl.h"
#include "test_store_support.h"

/* ---- Random operations ---------------------------------------------------------------------- */

struct model {
    uint64_t last;         /* LSN appended */
    uint64_t snapshots[2]; /* LSN and seed of the newest */
    uint64_t seeds[2];
    uint64_t incarnation;
    uint64_t generations;
};

static void check_reopened(struct att_store *store, struct model *model)
{
    struct att_snapshot_info info;
    model->incarnation++;
    assert_int_equal(att_store_incarnation(store), model->incarnation);
    assert_int_equal(att_store_last_lsn(store), model->last);
    assert_status(att_store_snapshot(store, &info, NULL, &test_error), ATT_OK);
    assert_snapshot(store, model->snapshots[1], model->seeds[1]);
    assert_log(store, model->snapshots[1], model->last);
    if (model->generations > 1)
        assert_log(store, model->snapshots[0], model->last); /* falling back stays possible */
    struct findings findings = {0, 0, ""};
    assert_status(att_store_verify(store, see_finding, &findings, &test_error), ATT_OK);
}

static void random_operations_agree_with_a_model(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct model model = {0, {0, 0}, {0, 1}, 1, 1};
    make_state(0);
    struct att_store *store = NULL;
    for (int round = 0; round < 40; round++) {
        enum att_durability durability = next_random(&random) % 3 ? ATT_DURABLE_ALWAYS : ATT_DURABLE_INTERVAL;
        assert_status(try_open(false, false, durability, &store), ATT_OK);
        check_reopened(store, &model);
        assert_status(att_store_start(store, &test_error), ATT_OK);
        for (uint64_t step = next_random(&random) % 8; step-- > 0;) {
            uint64_t count = 1 + next_random(&random) % (next_random(&random) % 4 ? 20 : 3000);
            uint32_t words = (uint32_t)(next_random(&random) % (next_random(&random) % 8 ? 40 : WORDS_MAX + 1));
            switch (next_random(&random) % 4) {
            case 0:
                wait_until(state_of(store).durable_lsn == model.last);
                model.snapshots[0] = model.snapshots[1];
                model.seeds[0] = model.seeds[1];
                model.snapshots[1] = model.last;
                model.seeds[1] = next_random(&random) % 1000;
                model.generations++;
                snapshot(store, model.last, model.seeds[1]);
                break;
            case 1:
                wait_until(state_of(store).durable_lsn == model.last);
                break;
            default:
                append_all(store, model.last + 1, model.last + count, words);
                model.last += count;
            }
        }
        att_store_close(store);
    }
}

/* ---- kill -9 -------------------------------------------------------------------------------- */

/* Shared with the child that is killed. */
struct acks {
    _Atomic uint64_t durable, appended, snapshot_lsn, snapshot_begun, incarnation;
};

static void run_until_killed(struct acks *acks, uint64_t random)
{
    struct att_store *store = NULL;
    if (try_open(false, false, ATT_DURABLE_ALWAYS, &store) || att_store_start(store, &test_error))
        _exit(1);
    acks->incarnation = att_store_incarnation(store);
    uint64_t lsn = att_store_last_lsn(store);
    struct att_state_shape shape = make_shape();
    static unsigned char data[PIECE_BYTES];
    int left = 0;
    uint64_t cut = 0;
    for (;;) {
        for (uint64_t i = next_random(&random) % 50; i-- > 0;) {
            if (append(store, lsn + 1, (uint32_t)(next_random(&random) % 50)) != ATT_OK)
                break;
            acks->appended = ++lsn;
        }
        att_store_push(store);
        acks->durable = state_of(store).durable_lsn;
        acks->snapshot_lsn = state_of(store).snapshot_lsn;
        if (left == 0 && !state_of(store).snapshot_running && !att_store_snapshot_begin(store, &shape, &test_error)) {
            acks->snapshot_begun = cut = lsn;
            att_store_snapshot_cut(store, 0, cut, (uint32_t)cut);
            left = PIECES;
        }
        if (left > 0 && att_store_snapshot_room(store)) {
            uint32_t array = (uint32_t)(left - 1) % ARRAYS;
            uint64_t offset = (uint64_t)(left - 1) / ARRAYS * PIECE_BYTES;
            fill_piece(data, (uint32_t)cut, array, offset);
            att_store_snapshot_piece(store, array, offset, data, sizeof data);
            if (--left == 0)
                att_store_snapshot_end(store);
        }
    }
}

static void what_was_acknowledged_survives_kill_9_at_any_moment(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct acks *acks = mmap(NULL, sizeof *acks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(acks != MAP_FAILED);
    make_state(0);
    uint64_t incarnation = 1, snapshots = 0;
    for (int round = 0; round < 40; round++) {
        memset(acks, 0, sizeof *acks);
        pid_t child = fork();
        if (child == 0)
            run_until_killed(acks, random + (uint64_t)round);
        usleep((useconds_t)(next_random(&random) % 60000));
        kill(child, SIGKILL);
        int how;
        waitpid(child, &how, 0);
        assert_true(WIFSIGNALED(how));
        struct att_store *store = NULL;
        struct att_snapshot_info info;
        const char *warning = NULL;
        assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_OK);
        assert_true(att_store_incarnation(store) > incarnation);
        assert_true(att_store_incarnation(store) > acks->incarnation);
        incarnation = att_store_incarnation(store);
        assert_status(att_store_snapshot(store, &info, &warning, &test_error), ATT_OK);
        assert_null(warning);
        assert_true(info.lsn >= acks->snapshot_lsn);
        snapshots += info.lsn > 0;
        uint64_t last = att_store_last_lsn(store);
        assert_true(last >= acks->durable);
        if (acks->appended)
            assert_true(last <= acks->appended + 1);
        assert_snapshot(store, info.lsn, info.lsn ? (uint32_t)info.lsn : info.tokens_used);
        assert_log(store, info.lsn, last);
        struct findings findings = {0, 0, ""};
        assert_status(att_store_verify(store, see_finding, &findings, &test_error), ATT_OK);
        att_store_close(store);
    }
    print_message("%llu of 40 rounds found a snapshot past the first\n", (unsigned long long)snapshots);
    munmap(acks, sizeof *acks);
}

static void a_creation_survives_kill_9_at_any_moment(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int round = 0; round < 40; round++) {
        pid_t child = fork();
        if (child == 0) {
            struct att_store *store = NULL;
            struct att_state_shape shape = make_shape();
            if (try_open(true, false, ATT_DURABLE_ALWAYS, &store) || att_store_start(store, &test_error) ||
                att_store_snapshot_begin(store, &shape, &test_error))
                _exit(1);
            feed_pieces(store, 0, 1);
            for (;;)
                pause();
        }
        usleep((useconds_t)(next_random(&random) % 25000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        struct att_store *store = NULL;
        enum att_status status = try_open(false, false, ATT_DURABLE_ALWAYS, &store);
        if (status == ATT_OK) {
            assert_snapshot(store, 0, 1);
        } else {
            assert_status(status, ATT_ENOENT);
            store = open_started(true, ATT_DURABLE_ALWAYS);
            snapshot(store, 0, 5);
        }
        att_store_close(store);
        assert_int_equal(nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    }
}

/* ---- Disks that fail ------------------------------------------------------------------------ */

/* Puts a device in the place of an environment's data descriptor: on /dev/full every write fails
 * with ENOSPC; on /dev/null writes succeed and the sync fails. Reads go through the map and see the
 * real file. */
static int replace_file(struct persist_env *env, const char *device)
{
    int fd, saved, other = open(device, O_RDWR | O_CLOEXEC);
    assert_int_equal(mdb_env_get_fd(env->env, &fd), 0);
    saved = fcntl(fd, F_DUPFD_CLOEXEC, 100);
    assert_true(other >= 0 && saved >= 0);
    assert_true(dup2(other, fd) == fd);
    close(other);
    return saved;
}

static void put_back(struct persist_env *env, int saved)
{
    int fd;
    assert_int_equal(mdb_env_get_fd(env->env, &fd), 0);
    assert_true(dup2(saved, fd) == fd);
    close(saved);
}

static void a_full_disk_keeps_what_was_appended_and_goes_on_when_there_is_room(void **state)
{
    (void)state;
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 6, 10, 4);
    wait_until(state_of(store).durable_lsn == 10);
    int saved = replace_file(&store->log_env, "/dev/full");
    append_all(store, 11, 500, 4);
    wait_until(state_of(store).refusing == ATT_ENOSPC);
    usleep(500000); /* several attempts */
    char text[600];
    att_store_message(store, text, sizeof text);
    assert_non_null(strstr(text, test_dir));
    assert_int_equal(state_of(store).durable_lsn, 10);
    assert_int_equal(state_of(store).refusing, ATT_ENOSPC);
    put_back(&store->log_env, saved);
    wait_until(state_of(store).durable_lsn == 500);
    wait_until(state_of(store).refusing == ATT_OK);
    append_all(store, 501, 600, 4);
    snapshot(store, 600, 2);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 0, 600);
    att_store_close(store);
}

static void a_disk_that_is_full_to_the_end_does_not_keep_close_waiting(void **state)
{
    (void)state;
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    int saved = replace_file(&store->log_env, "/dev/full");
    append_all(store, 6, 10, 4);
    wait_until(state_of(store).refusing == ATT_ENOSPC);
    double start = seconds();
    att_store_close(store);
    close(saved);
    assert_true(seconds() - start < 5);
    store = open_to_read();
    assert_log(store, 0, 5);
    att_store_close(store);
}

static void a_failed_sync_of_the_log_is_final(void **state)
{
    (void)state;
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 6, 10, 4);
    wait_until(state_of(store).durable_lsn == 10);
    int saved = replace_file(&store->log_env, "/dev/null");
    append_all(store, 11, 20, 4);
    wait_until(state_of(store).refusing == ATT_EIO);
    put_back(&store->log_env, saved); /* the next commit would succeed: it must not be tried */
    append_all(store, 21, 30, 4);
    usleep(500000);
    assert_int_equal(state_of(store).durable_lsn, 10);
    assert_int_equal(state_of(store).refusing, ATT_EIO);
    struct att_state_shape shape = make_shape();
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_EREADONLY);
    assert_non_null(strstr(test_error.text, test_dir));
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 0, 10);
    att_store_close(store);
}

static void a_sync_that_fails_while_a_snapshot_runs_leaves_no_manifest(void **state)
{
    (void)state;
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    att_store_snapshot_cut(store, 0, 5, 1);
    att_store_snapshot_piece(store, 0, 0, "some", 4);
    usleep(30000);
    int saved = replace_file(&store->log_env, "/dev/null");
    append_all(store, 6, 6, 4);
    wait_until(state_of(store).refusing == ATT_EIO);
    put_back(&store->log_env, saved);
    att_store_snapshot_piece(store, 0, 4, "more", 4);
    att_store_snapshot_end(store);
    wait_until(!state_of(store).snapshot_running);
    assert_true(state_of(store).snapshot_failed);
    assert_int_equal(state_of(store).snapshot_lsn, 0);
    att_store_close(store);
    store = open_to_read();
    assert_snapshot(store, 0, 1);
    assert_log(store, 0, 5);
    att_store_close(store);
}

static void a_full_disk_fails_a_snapshot_and_the_next_one_succeeds(void **state)
{
    (void)state;
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    int saved = replace_file(&store->snap_env, "/dev/full");
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    feed_pieces(store, 5, 2);
    wait_until(!state_of(store).snapshot_running);
    assert_true(state_of(store).snapshot_failed);
    assert_int_equal(state_of(store).refusing, ATT_OK);
    assert_int_equal(state_of(store).generation, 1);
    append_all(store, 6, 9, 1);
    wait_until(state_of(store).durable_lsn == 9);
    put_back(&store->snap_env, saved);
    snapshot(store, 9, 3);
    att_store_close(store);
    store = open_to_read();
    assert_snapshot(store, 9, 3);
    struct findings findings = {0, 0, ""};
    assert_status(att_store_verify(store, see_finding, &findings, &test_error), ATT_OK);
    att_store_close(store);
}

static void a_failed_sync_of_a_snapshot_is_final_too(void **state)
{
    (void)state;
    make_state(5);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    struct att_state_shape shape = make_shape();
    int saved = replace_file(&store->snap_env, "/dev/null");
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    feed_pieces(store, 5, 2);
    wait_until(!state_of(store).snapshot_running);
    assert_true(state_of(store).snapshot_failed);
    assert_int_equal(state_of(store).refusing, ATT_EIO);
    put_back(&store->snap_env, saved);
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_EREADONLY);
    att_store_close(store);
    store = open_to_read();
    assert_snapshot(store, 0, 1);
    att_store_close(store);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(random_operations_agree_with_a_model),
        TEST(what_was_acknowledged_survives_kill_9_at_any_moment),
        TEST(a_creation_survives_kill_9_at_any_moment),
        TEST(a_full_disk_keeps_what_was_appended_and_goes_on_when_there_is_room),
        TEST(a_disk_that_is_full_to_the_end_does_not_keep_close_waiting),
        TEST(a_failed_sync_of_the_log_is_final),
        TEST(a_sync_that_fails_while_a_snapshot_runs_leaves_no_manifest),
        TEST(a_full_disk_fails_a_snapshot_and_the_next_one_succeeds),
        TEST(a_failed_sync_of_a_snapshot_is_final_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
