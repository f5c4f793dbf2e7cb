/* Single bytes of the store's files change, wherever they are: found and named, never served. */
#include "test_store_plant.h"

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

/* Where LMDB keeps what it trusts: in a page of the file, or in the meta page of the last transaction. */
enum { META_FREE_ROOT = 80, META_ENTRIES = 120, META_MAIN_ROOT = 128, META_LAST_PAGE = 136, META_TXN = 144 };

static uint64_t number_at(const struct file *file, size_t at)
{
    uint64_t number;
    memcpy(&number, file->bytes + at, sizeof number);
    return number;
}

static void assert_named(const struct file *file, size_t at, uint64_t number, const char *text)
{
    struct att_store *store = NULL;
    int fd = open(file->path, O_WRONLY);
    assert_int_equal(pwrite(fd, &number, sizeof number, (off_t)at), sizeof number);
    assert_status(try_open(false, true, ATT_DURABLE_ALWAYS, &store), ATT_ECORRUPT);
    if (!strstr(test_error.text, text))
        fail_msg("'%s' instead of '%s'", test_error.text, text);
    assert_int_equal(pwrite(fd, file->bytes + at, sizeof number, (off_t)at), sizeof number);
    close(fd);
}

/* What would read well today, and be overwritten by a later commit, or make one fail. */
static void pages_that_lmdb_would_misuse_later_are_named(void **state)
{
    (void)state;
    struct file file;
    make_two_generations();
    load_file(&file, "log");
    const size_t meta = number_at(&file, META_TXN) > number_at(&file, 4096 + META_TXN) ? 0 : 4096;
    const uint64_t root = number_at(&file, meta + META_MAIN_ROOT), last = number_at(&file, meta + META_LAST_PAGE);
    const size_t leaf = (size_t)number_at(&file, meta + META_FREE_ROOT) * 4096;
    uint16_t node, size, key_size;
    memcpy(&node, file.bytes + leaf + 16, sizeof node);
    memcpy(&size, file.bytes + leaf + node, sizeof size);
    memcpy(&key_size, file.bytes + leaf + node + 6, sizeof key_size);
    const size_t list = leaf + node + 8 + key_size; /* of free pages, behind how many they are */
    assert_true(number_at(&file, list) > 0);
    assert_named(&file, list + 8, root, "used twice, or used and free");
    assert_named(&file, list + 8, 1, "there is no such page");
    assert_named(&file, list + 8, last + 1, "there is no such page");
    assert_named(&file, list, size / 8u, "wrong length");
    assert_named(&file, (size_t)root * 4096, root + 1, "its header does not fit");
    assert_named(&file, meta + META_ENTRIES, number_at(&file, meta + META_ENTRIES) + 1, "does not count");
    assert_named(&file, (4096 - meta) + META_TXN, number_at(&file, (4096 - meta) + META_TXN) - 2, "follow each other");
    free(file.bytes);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        TEST(no_flipped_byte_is_served_unnoticed),          TEST(verify_names_every_flipped_value),
        TEST(each_damaged_chunk_is_named_and_never_served), TEST(a_truncated_file_is_reported),
        TEST(pages_that_lmdb_would_misuse_later_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
