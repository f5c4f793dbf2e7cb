/* The store when what is on disk is not what was written: what it falls back to, where it stops, how it is repaired. */
#include "test_store_plant.h"

#include "store_impl.h"

/* ---- Snapshots ------------------------------------------------------------------------------ */

static void assert_falls_back(const char *named)
{
    const char *warning = NULL;
    struct att_snapshot_info info;
    struct att_store *store = NULL;
    char text[2000];
    assert_int_equal(verify_severity(text, sizeof text), 1);
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_OK);
    assert_status(att_store_snapshot(store, &info, &warning, &test_error), ATT_OK);
    assert_non_null(warning);
    assert_non_null(strstr(warning, "generation 2"));
    assert_non_null(strstr(warning, named));
    assert_snapshot(store, 0, 1);
    assert_log(store, 0, 40);
    /* The next snapshot replaces the damaged one and keeps the good one. */
    assert_status(att_store_start(store, &test_error), ATT_OK);
    snapshot(store, 40, 3);
    struct att_snapshot_info infos[4];
    assert_int_equal(att_store_generations(store, infos, 4), 2);
    assert_int_equal(infos[0].generation, 1);
    assert_int_equal(infos[1].generation, 3);
    att_store_close(store);
    assert_int_equal(verify_severity(text, sizeof text), 0);
    store = open_to_read();
    assert_status(att_store_snapshot(store, &info, &warning, &test_error), ATT_OK);
    assert_null(warning);
    assert_snapshot(store, 40, 3);
    assert_log(store, 0, 40);
    att_store_close(store);
}

static void a_damaged_piece_of_the_newest_generation_falls_back_with_a_warning(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("snap", "piece", -1, PLANT_FLIP, -1);
    assert_falls_back("array 2 at byte 400000");
}

static void a_missing_piece_falls_back_with_a_warning(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("snap", "piece", -4, PLANT_DELETE, 0);
    assert_falls_back("14 of");
}

static void a_damaged_manifest_falls_back_with_a_warning(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("snap", "manifest", -1, PLANT_FLIP, 30);
    assert_falls_back("manifest");
}

static void no_whole_generation_is_an_error_that_says_so(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("snap", "piece", -1, PLANT_FLIP, -1);
    plant_value("snap", "piece", 0, PLANT_FLIP, 20);
    struct att_store *store = NULL;
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_ECORRUPT);
    assert_non_null(strstr(test_error.text, "no generation is whole"));
    assert_status(try_open(true, false, ATT_DURABLE_ALWAYS, &store), ATT_EEXIST);
}

/* ---- The log -------------------------------------------------------------------------------- */

static void assert_log_stops(uint64_t after, const char *lsn, uint64_t whole)
{
    char text[2000];
    struct att_store *store = NULL;
    struct seen seen = {0, after, 0, false};
    assert_int_equal(verify_severity(text, sizeof text), 2);
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_OK);
    assert_status(att_store_read_log(store, after, see_record, &seen, &test_error), ATT_ECORRUPT);
    assert_false(seen.wrong);
    assert_int_equal(seen.last, whole);
    assert_non_null(strstr(test_error.text, lsn));
    assert_non_null(strstr(test_error.text, "repair --to-lsn"));
    att_store_close(store);
}

static void a_damaged_batch_stops_recovery_and_names_its_lsn(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("log", "batch", -11, PLANT_FLIP, -3); /* LSN 30 */
    assert_log_stops(20, "LSN 30; LSN 21 to 29 before it are whole", 29);
}

static void a_gap_stops_recovery_and_names_its_lsn(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("log", "batch", -11, PLANT_DELETE, 0);
    assert_log_stops(20, "gap at LSN 30; LSN 21 to 29 before it are whole", 29);
}

static void a_gap_right_behind_the_snapshot_is_one(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("log", "batch", -20, PLANT_DELETE, 0);
    assert_log_stops(20, "gap at LSN 21; nothing behind LSN 20 is whole", 20);
}

/* Batches that begin before what is to be replayed: one that ends with the first record of it, and one that is damaged, so
 * that nobody knows where it ends. */
static void a_batch_may_begin_below_the_snapshot(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    for (uint64_t lsn = 1; lsn < 40; lsn += 10) {
        append_all(store, lsn, lsn + 9, 4);
        wait_until(state_of(store).durable_lsn == lsn + 9);
    }
    snapshot(store, 19, 2);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, 19, 40);
    att_store_close(store);
    plant_value("log", "batch", 1, PLANT_FLIP, 60);
    assert_log_stops(19, "begin", 19);
}

static void damage_at_the_end_of_the_log_is_never_appended_to(void **state)
{
    (void)state;
    make_two_generations();
    plant_value("log", "batch", -1, PLANT_FLIP, 50);
    assert_log_stops(20, "LSN 40", 39);
    struct att_store *store = NULL;
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_OK);
    assert_status(att_store_start(store, &test_error), ATT_ECORRUPT);
    att_store_close(store);
}

static void damage_below_the_snapshot_does_not_stop_recovery(void **state)
{
    (void)state;
    char text[2000];
    make_two_generations();
    plant_value("log", "batch", 4, PLANT_FLIP, 60);
    struct att_store *store = NULL;
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_OK);
    assert_log(store, 20, 40);
    struct seen seen = {0};
    assert_status(att_store_read_log(store, 0, see_record, &seen, &test_error), ATT_ECORRUPT);
    assert_non_null(strstr(test_error.text, "LSN 1 to 4 before it are whole; the snapshot at LSN 20 holds"));
    assert_null(strstr(test_error.text, "repair"));
    att_store_close(store);
    assert_int_equal(verify_severity(text, sizeof text), 1);
    assert_non_null(strstr(text, "LSN 5"));
    assert_non_null(strstr(text, "/log: 39 of 40 batches are whole, LSN 1 to 40\n"));
}

/* ---- Repair --------------------------------------------------------------------------------- */

/* What repair must leave: the state up to `last`, and the original with its damage. */
static void assert_repaired(const struct att_repair_info *info, uint64_t snapshot_lsn, uint64_t seed, uint64_t last)
{
    char text[2000];
    struct stat stat_data;
    assert_int_equal(info->copy.lsn, last);
    assert_int_equal(stat(info->kept, &stat_data), 0);
    assert_int_equal(verify_severity(text, sizeof text), 0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    assert_snapshot(store, snapshot_lsn, seed);
    assert_log(store, snapshot_lsn, last);
    append_all(store, last + 1, last + 5, 3);
    att_store_close(store);
    store = open_to_read();
    assert_log(store, snapshot_lsn, last + 5);
    att_store_close(store);
}

static void repair_goes_on_before_the_damage_and_keeps_the_original(void **state)
{
    (void)state;
    struct att_repair_info info;
    make_two_generations();
    plant_value("log", "batch", -11, PLANT_FLIP, -3); /* LSN 30 */
    assert_status(att_store_repair(test_dir, 30, &info, &test_error), ATT_ECORRUPT);
    assert_log_stops(20, "LSN 30; LSN 21 to 29 before it are whole", 29); /* nothing was changed */
    assert_status(att_store_repair(test_dir, 29, &info, &test_error), ATT_OK);
    assert_int_equal(info.known_lsn, 40);
    assert_false(info.open_end);
    assert_non_null(strstr(info.kept, "/state.before-repair"));
    assert_repaired(&info, 20, 2, 29);
    /* The original is as it was, and takes its place again. */
    assert_int_equal(nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    assert_int_equal(rename(info.kept, test_dir), 0);
    assert_log_stops(20, "LSN 30; LSN 21 to 29 before it are whole", 29);
}

static void repair_takes_the_older_generation_when_that_is_what_is_asked_for(void **state)
{
    (void)state;
    struct att_repair_info info;
    make_two_generations();
    assert_status(att_store_repair(test_dir, 12, &info, &test_error), ATT_OK);
    assert_repaired(&info, 0, 1, 12);
    assert_status(att_store_repair(test_dir, 15, &info, &test_error), ATT_OK); /* a second time: another name */
    assert_non_null(strstr(info.kept, ".before-repair.2"));
}

static void repair_of_a_damaged_end_says_that_more_may_be_lost(void **state)
{
    (void)state;
    struct att_repair_info info;
    make_two_generations();
    plant_value("log", "batch", -1, PLANT_FLIP, 50);
    assert_status(att_store_repair(test_dir, 39, &info, &test_error), ATT_OK);
    assert_true(info.open_end);
    assert_int_equal(info.known_lsn, 40);
    assert_repaired(&info, 20, 2, 39);
}

/* Whatever bytes of the log's file are damaged: the message names the way on, and that way leads on. */
static void repair_goes_on_without_a_log_that_cannot_be_read(void **state)
{
    (void)state;
    struct att_repair_info info;
    struct att_store *store = NULL;
    char path[160], expected[64];
    make_two_generations();
    snprintf(path, sizeof path, "%s/log/data.mdb", test_dir);
    int fd = open(path, O_WRONLY);
    for (off_t page = 2; page < 60; page++) /* the page numbers and flags of whatever page there is */
        assert_int_equal(pwrite(fd, "damagedamagedama", 16, page * 4096), 16);
    close(fd);
    assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_ECORRUPT);
    snprintf(expected, sizeof expected, "repair --to-lsn 20");
    assert_non_null(strstr(test_error.text, expected));
    assert_status(try_open(false, true, ATT_DURABLE_ALWAYS, &store), ATT_ECORRUPT);
    assert_status(att_store_repair(test_dir, 21, &info, &test_error), ATT_ECORRUPT);
    assert_status(att_store_repair(test_dir, 20, &info, &test_error), ATT_OK);
    assert_true(info.open_end);
    assert_int_equal(info.lost_from, 21);
    assert_repaired(&info, 20, 2, 20);
    store = open_to_read();
    assert_true(att_store_incarnation(store) > 1000000);
    att_store_close(store);
}

static void repair_refuses_what_is_not_there(void **state)
{
    (void)state;
    struct att_repair_info info;
    char text[2000];
    make_two_generations();
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    snapshot(store, 40, 3); /* the oldest is now the one of LSN 20 */
    att_store_close(store);
    assert_status(att_store_repair(test_dir, 19, &info, &test_error), ATT_EINVAL);
    assert_non_null(strstr(test_error.text, "LSN 20"));
    assert_status(att_store_repair(test_dir, 41, &info, &test_error), ATT_EINVAL);
    assert_non_null(strstr(test_error.text, "LSN 40"));
    assert_int_equal(verify_severity(text, sizeof text), 0);
}

/* ---- Versions ------------------------------------------------------------------------------- */

/* Whose checksum is right all the same. */
static void values_that_make_no_sense_are_damaged(void **state)
{
    (void)state;
    enum { RECORD = sizeof(struct att_batch) };
    static const struct {
        const char *name, *database;
        int which;
        long at;
        const char *text;
    } values[] = {
        {"log", "batch", -1, offsetof(struct att_batch, first_lsn), "its header does not fit"},
        {"log", "batch", -1, offsetof(struct att_batch, last_lsn), "its header does not fit"},
        {"log", "batch", -1, offsetof(struct att_batch, count), "its header does not fit"},
        {"log", "batch", -1, offsetof(struct att_batch, bytes), "its header does not fit"},
        {"log", "batch", -1, RECORD + offsetof(struct att_record, lsn), "its record of LSN 1 does not"},
        {"log", "batch", -1, RECORD + offsetof(struct att_record, length) + 3, "its record of LSN 1 does not"},
        {"log", "batch", -1, RECORD + offsetof(struct att_record, length), "its record of LSN"},
        {"log", "meta", 0, offsetof(struct att_environment, kind), "belongs to another environment"},
        {"snap", "piece", 0, offsetof(struct att_stored_piece, generation), "does not fit its key"},
        {"snap", "piece", 0, offsetof(struct att_stored_piece, offset), "does not fit its key"},
        {"snap", "piece", 0, offsetof(struct att_stored_piece, bytes), "does not fit its key"},
        {"snap", "piece", 0, offsetof(struct att_stored_piece, array), "does not fit its key"},
        {"snap", "manifest", 0, offsetof(struct att_manifest, generation), "does not fit its key"},
        {"snap", "manifest", 0, offsetof(struct att_manifest, shape.heads), "does not fit its key"},
        {"snap", "manifest", 0, offsetof(struct att_manifest, pieces), "its manifest counts"},
        {"snap", "manifest", 0, offsetof(struct att_manifest, bytes), "its manifest counts"},
        {"snap", "manifest", 0, offsetof(struct att_manifest, pieces_checksum), "their checksums differ"},
    };
    char text[2000];
    make_state(20);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        plant_value(values[i].name, values[i].database, values[i].which, PLANT_SEALED, values[i].at);
        assert_in_range(verify_severity(text, sizeof text), 2, 3);
        if (!strstr(text, values[i].text))
            fail_msg("value %zu: '%s' instead of '%s'", i, text, values[i].text);
        plant_value(values[i].name, values[i].database, values[i].which, PLANT_SEALED, values[i].at); /* back */
        if (verify_severity(text, sizeof text) != 0)
            fail_msg("value %zu: %s", i, text);
    }
}

static void another_format_version_is_named_whatever_value_has_it(void **state)
{
    (void)state;
    static const char *const where[][2] = {
        {"log", "meta"}, {"snap", "meta"}, {"snap", "manifest"}, {"snap", "piece"}, {"log", "batch"}};
    for (size_t i = 0; i < sizeof where / sizeof *where; i++) {
        struct att_store *store = NULL;
        make_two_generations();
        plant_value(where[i][0], where[i][1], -1, PLANT_VERSION, 0);
        assert_status(try_open(false, false, ATT_DURABLE_ALWAYS, &store), ATT_EVERSION);
        assert_non_null(strstr(test_error.text, "version 2"));
        assert_non_null(strstr(test_error.text, "version 1"));
        assert_non_null(strstr(test_error.text, test_dir));
        assert_int_equal(nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    }
}

/* ---- While it runs -------------------------------------------------------------------------- */

/* Flips a byte of the only batch, where the disk has it: in the file, which a running store has mapped. */
static void damage_the_batch_in_the_file(void)
{
    char path[160];
    uint64_t word;
    snprintf(path, sizeof path, "%s/log/data.mdb", test_dir);
    const int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    for (off_t at = 0; pread(fd, &word, sizeof word, at) == sizeof word; at += 8)
        if (word == mix(1 * 4096)) { /* the record's first word */
            word = ~word;
            assert_int_equal(pwrite(fd, &word, sizeof word, at), sizeof word);
        }
    close(fd);
}

static void a_damaged_last_batch_lets_the_log_thread_sleep(void **state)
{
    (void)state;
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    append_all(store, 1, 1, 4);
    wait_until(state_of(store).durable_lsn == 1);
    damage_the_batch_in_the_file();
    snapshot(store, 1, 2);
    snapshot(store, 1, 3); /* generation 1 goes, and the log up to the cut of the second */
    wait_until(atomic_load(&store->log.bell.word) == PERSIST_ASLEEP);
    append_all(store, 2, 2, 4);
    wait_until(state_of(store).durable_lsn == 2);
    att_store_close(store);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(a_damaged_piece_of_the_newest_generation_falls_back_with_a_warning),
        TEST(a_missing_piece_falls_back_with_a_warning),
        TEST(a_damaged_manifest_falls_back_with_a_warning),
        TEST(no_whole_generation_is_an_error_that_says_so),
        TEST(a_damaged_batch_stops_recovery_and_names_its_lsn),
        TEST(a_gap_stops_recovery_and_names_its_lsn),
        TEST(a_gap_right_behind_the_snapshot_is_one),
        TEST(a_batch_may_begin_below_the_snapshot),
        TEST(damage_at_the_end_of_the_log_is_never_appended_to),
        TEST(damage_below_the_snapshot_does_not_stop_recovery),
        TEST(repair_goes_on_before_the_damage_and_keeps_the_original),
        TEST(repair_takes_the_older_generation_when_that_is_what_is_asked_for),
        TEST(repair_of_a_damaged_end_says_that_more_may_be_lost),
        TEST(repair_goes_on_without_a_log_that_cannot_be_read),
        TEST(repair_refuses_what_is_not_there),
        TEST(values_that_make_no_sense_are_damaged),
        TEST(another_format_version_is_named_whatever_value_has_it),
        TEST(a_damaged_last_batch_lets_the_log_thread_sleep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
