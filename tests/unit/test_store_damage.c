/* The store when what is on disk is not what was written: values, versions, LMDB's own pages,
 * single bytes. */
#include <lmdb.h>

#include "test_store_support.h"

/* ---- Planting ------------------------------------------------------------------------------- */

enum plant { PLANT_FLIP, PLANT_VERSION, PLANT_DELETE };

/* Changes the value of the `which`th key of a database (negative: from the end): flips byte `at`
 * (negative: from the end), or sets the version, or deletes it. */
static void plant_value(const char *name, const char *database, int which, enum plant how, long at)
{
    char path[160];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key, value;
    snprintf(path, sizeof path, "%s/%s", test_dir, name);
    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 4);
    mdb_env_set_mapsize(env, (size_t)1 << 30);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, database, 0, &dbi), 0);
    assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &key, &value, which < 0 ? MDB_LAST : MDB_FIRST), 0);
    for (int i = which < 0 ? which + 1 : which; i; i += i < 0 ? 1 : -1)
        assert_int_equal(mdb_cursor_get(cursor, &key, &value, i < 0 ? MDB_PREV : MDB_NEXT), 0);
    if (how == PLANT_DELETE) {
        assert_int_equal(mdb_cursor_del(cursor, 0), 0);
    } else {
        unsigned char *copy = malloc(value.mv_size), name_of_key[600];
        memcpy(copy, value.mv_data, value.mv_size);
        memcpy(name_of_key, key.mv_data, key.mv_size);
        if (how == PLANT_FLIP)
            copy[at < 0 ? (long)value.mv_size + at : at] ^= 0x10;
        else
            copy[4] = 2;
        MDB_val new_key = {key.mv_size, name_of_key}, new_value = {value.mv_size, copy};
        assert_int_equal(mdb_put(txn, dbi, &new_key, &new_value, 0), 0);
        free(copy);
    }
    mdb_cursor_close(cursor);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

/* Generations at LSN 0 and 20, the log with batches of one record each up to 40. */
static void make_two_generations(void)
{
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    for (uint64_t lsn = 1; lsn <= 40; lsn++) {
        append_all(store, lsn, lsn, 4);
        wait_until(state_of(store).durable_lsn == lsn);
        if (lsn == 20)
            snapshot(store, 20, 2);
    }
    att_store_close(store);
}

static int verify_severity(char *ret_text, size_t size)
{
    struct att_store *store = NULL;
    struct findings findings = {0, 0, ""};
    enum att_status status = try_open(false, true, ATT_DURABLE_ALWAYS, &store);
    if (status) {
        snprintf(ret_text, size, "%s", test_error.text);
        return 3;
    }
    status = att_store_verify(store, see_finding, &findings, &test_error);
    assert_int_equal(status == ATT_OK, findings.worst == 0);
    att_store_close(store);
    snprintf(ret_text, size, "%s", findings.text);
    return findings.worst;
}

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
    att_store_close(store);
    assert_int_equal(verify_severity(text, sizeof text), 1);
    assert_non_null(strstr(text, "LSN 5"));
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

/* ---- Bytes ---------------------------------------------------------------------------------- */

struct file {
    char path[160];
    unsigned char *bytes;
    size_t size;
};

static void load_file(struct file *file, const char *name)
{
    struct stat stat_file;
    snprintf(file->path, sizeof file->path, "%s/%s/data.mdb", test_dir, name);
    int fd = open(file->path, O_RDONLY);
    assert_int_equal(fstat(fd, &stat_file), 0);
    file->size = (size_t)stat_file.st_size;
    file->bytes = malloc(file->size);
    assert_int_equal(read(fd, file->bytes, file->size), (ssize_t)file->size);
    close(fd);
}

static void write_byte(const struct file *file, size_t at, unsigned char byte)
{
    int fd = open(file->path, O_WRONLY);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* Opens, reads and verifies in a child, for a page that is not noticed may end the process. 0:
 * nothing was reported and everything is right; 1: reported; 2: nothing was reported and something
 * is wrong; 3: it crashed. */
static int look_in_child(void)
{
    pid_t child = fork();
    if (child == 0) {
        struct att_store *store = NULL;
        if (try_open(false, true, ATT_DURABLE_ALWAYS, &store))
            _exit(1);
        struct findings findings = {0, 0, ""};
        const char *warning = NULL;
        struct att_snapshot_info info;
        struct seen seen = {0};
        struct seen_pieces pieces = {.seed = 2};
        bool reported = att_store_verify(store, see_finding, &findings, &test_error) != ATT_OK;
        reported = att_store_snapshot(store, &info, &warning, &test_error) || warning || reported;
        reported = att_store_read_log(store, info.lsn, see_record, &seen, &test_error) || reported;
        if (!reported)
            reported = att_store_read_snapshot(store, see_piece, &pieces, &test_error);
        bool wrong = info.lsn != 20 || seen.count != 20 || seen.last != 40 || seen.wrong || pieces.wrong ||
                     pieces.count != PIECES || att_store_incarnation(store) != 2;
        _exit(reported ? 1 : wrong ? 2 : 0);
    }
    int how;
    waitpid(child, &how, 0);
    return WIFEXITED(how) ? WEXITSTATUS(how) : 3;
}

#if defined(ATTND_TSAN) || defined(ATTND_ASAN)
enum { FLIPS = 100 }; /* of each file; each one is a process that opens and reads everything */
#else
enum { FLIPS = 400 };
#endif

static void no_flipped_byte_is_served_unnoticed(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    make_two_generations();
    int reported = 0, harmless = 0;
    for (int which = 0; which < 2; which++) {
        struct file file;
        load_file(&file, which ? "snap" : "log");
        for (int i = 0; i < FLIPS; i++) {
            /* Half of them where LMDB keeps its own: metas, and the first bytes of pages. */
            size_t page = next_random(&seed) % (file.size / 4096), at = next_random(&seed) % 4096;
            if (i % 2)
                at %= 96;
            if (i % 8 == 1) {
                page %= 2;
                at %= 160;
            }
            at += page * 4096;
            write_byte(&file, at, file.bytes[at] ^ (unsigned char)(1u << (next_random(&seed) % 8)));
            int result = look_in_child();
            if (result > 1)
                print_message("%s byte %zu (page %zu + %zu): %s\n", file.path, at, at / 4096, at % 4096,
                              result == 2 ? "not noticed" : "crashed");
            assert_true(result <= 1);
            *(result ? &reported : &harmless) += 1;
            write_byte(&file, at, file.bytes[at]);
        }
        free(file.bytes);
    }
    print_message("%d reported, %d in bytes that nobody uses\n", reported, harmless);
    assert_true(reported > FLIPS / 2);
    assert_int_equal(look_in_child(), 0);
}

static void verify_names_every_flipped_value(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    static const char *const where[][2] = {
        {"snap", "piece"}, {"log", "batch"}, {"snap", "manifest"}, {"log", "meta"}, {"snap", "meta"}};
    static const long least[] = {48, 48 + 48 + 32, 168, 32, 32};
    for (int i = 0; i < 60; i++) {
        char text[2000];
        if (i % 15 == 0) {
            if (i)
                assert_int_equal(nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
            make_two_generations();
        }
        int w = i % 5;
        long at = (long)(next_random(&seed) % (uint64_t)least[w]);
        plant_value(where[w][0], where[w][1], -1, PLANT_FLIP, at);
        if (verify_severity(text, sizeof text) == 0)
            fail_msg("%s/%s byte %ld: not found", where[w][0], where[w][1], at);
        plant_value(where[w][0], where[w][1], -1, PLANT_FLIP, at); /* back again */
        int severity = verify_severity(text, sizeof text);
        if (severity)
            print_message("%s", text);
        assert_int_equal(severity, 0);
    }
}

/* Every piece and every batch, one after the other: verify names it, and nothing of it is handed out. */
static void each_damaged_chunk_is_named_and_never_served(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    char text[2000], name[64];
    make_two_generations();
    for (int i = 0; i < 2 * PIECES + 40; i++) {
        bool is_piece = i < 2 * PIECES;
        int which = is_piece ? i : i - 2 * PIECES;
        const char *file = is_piece ? "snap" : "log", *database = is_piece ? "piece" : "batch";
        long at = 48 + (long)(next_random(&seed) % (is_piece ? (uint64_t)PIECE_BYTES : 48 + 32));
        plant_value(file, database, which, PLANT_FLIP, at);
        if (is_piece)
            snprintf(name, sizeof name, "generation %d, the piece of array %d at byte %d", which / PIECES + 1,
                     which % PIECES / PIECES_PER_ARRAY, which % PIECES_PER_ARRAY * PIECE_BYTES);
        else
            snprintf(name, sizeof name, "batch at LSN %d is damaged", which + 1);
        assert_true(verify_severity(text, sizeof text) > 0);
        if (!strstr(text, name))
            fail_msg("%s is not named: %s", name, text);
        /* What is handed out: the other generation, and the log as far as it is whole. */
        struct att_store *store = open_to_read();
        struct att_snapshot_info info;
        const char *warning = NULL;
        assert_status(att_store_snapshot(store, &info, &warning, &test_error), ATT_OK);
        bool fell_back = is_piece && which >= PIECES;
        assert_int_equal(info.lsn, fell_back ? 0 : 20);
        assert_int_equal(warning != NULL, fell_back);
        assert_snapshot(store, info.lsn, fell_back ? 1 : 2);
        struct seen seen = {0, info.lsn, 0, false};
        enum att_status status = att_store_read_log(store, info.lsn, see_record, &seen, &test_error);
        assert_int_equal(status, !is_piece && which >= 20 ? ATT_ECORRUPT : ATT_OK);
        assert_false(seen.wrong);
        assert_int_equal(seen.last, !is_piece && which >= 20 ? which : 40);
        att_store_close(store);
        plant_value(file, database, which, PLANT_FLIP, at); /* back again */
    }
    assert_int_equal(verify_severity(text, sizeof text), 0);
}

static void a_truncated_file_is_reported(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        char path[160];
        struct stat stat_file;
        make_two_generations();
        snprintf(path, sizeof path, "%s/%s/data.mdb", test_dir, i % 2 ? "snap" : "log");
        assert_int_equal(stat(path, &stat_file), 0);
        assert_int_equal(truncate(path, i < 2 ? 100 : i < 4 ? 8192 : stat_file.st_size / 2), 0);
        int result = look_in_child();
        assert_int_equal(result, 1);
        assert_int_equal(nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    }
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
        TEST(damage_at_the_end_of_the_log_is_never_appended_to),
        TEST(damage_below_the_snapshot_does_not_stop_recovery),
        TEST(repair_goes_on_before_the_damage_and_keeps_the_original),
        TEST(repair_takes_the_older_generation_when_that_is_what_is_asked_for),
        TEST(repair_of_a_damaged_end_says_that_more_may_be_lost),
        TEST(repair_goes_on_without_a_log_that_cannot_be_read),
        TEST(repair_refuses_what_is_not_there),
        TEST(another_format_version_is_named_whatever_value_has_it),
        TEST(no_flipped_byte_is_served_unnoticed),
        TEST(verify_names_every_flipped_value),
        TEST(each_damaged_chunk_is_named_and_never_served),
        TEST(a_truncated_file_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
