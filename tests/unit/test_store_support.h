/* What the store's tests share: temporary directories, records and pieces that can be checked,
 * waiting. */
#ifndef TEST_STORE_SUPPORT_H
#define TEST_STORE_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store.h"

#define UNUSED __attribute__((unused))

/* ---- Directories ---------------------------------------------------------------------------- */

static char test_root[64]; /* made for each test, removed after it */
static char test_dir[96];  /* the state below it */

static int UNUSED remove_one(const char *path, const struct stat *stat, int flag, struct FTW *ftw)
{
    (void)stat, (void)flag, (void)ftw;
    return remove(path);
}

static int UNUSED setup_directory(void **state)
{
    (void)state;
    snprintf(test_root, sizeof test_root, "/tmp/att-test-XXXXXX");
    if (!mkdtemp(test_root))
        return -1;
    snprintf(test_dir, sizeof test_dir, "%s/state", test_root);
    return 0;
}

static int UNUSED remove_directory(void **state)
{
    (void)state;
    return nftw(test_root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- Opening -------------------------------------------------------------------------------- */

#define assert_status(actual, expected)                                             \
    do {                                                                            \
        enum att_status status_is = (actual);                                       \
        if (status_is != (expected))                                                \
            print_message("%s: %s\n", att_status_name(status_is), test_error.text); \
        assert_int_equal(status_is, expected);                                      \
    } while (0)

static struct att_error test_error;

static enum att_status UNUSED try_open(bool create, bool read_only, enum att_durability durability,
                                       struct att_store **ret_store)
{
    struct att_store_options options = {.create = create,
                                        .read_only = read_only,
                                        .durability = durability,
                                        .interval_ms = 50};
    test_error.text[0] = 0;
    return att_store_open(test_dir, &options, ret_store, &test_error);
}

static UNUSED struct att_store *open_started(bool create, enum att_durability durability)
{
    struct att_store *store = NULL;
    assert_status(try_open(create, false, durability, &store), ATT_OK);
    assert_status(att_store_start(store, &test_error), ATT_OK);
    return store;
}

static UNUSED struct att_store *open_to_read(void)
{
    struct att_store *store = NULL;
    assert_status(try_open(false, true, ATT_DURABLE_ALWAYS, &store), ATT_OK);
    return store;
}

/* ---- Records: everything in one follows from its LSN ---------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

enum { WORDS_MAX = 4096 }; /* a payload of 32768 bytes: the longest record there is */

static struct att_record make_record(uint64_t lsn, uint32_t words)
{
    struct att_record record = {.lsn = lsn,
                                .session = mix(lsn),
                                .session_seq = ~lsn,
                                .kind = 1,
                                .index = (uint32_t)lsn,
                                .length = (uint32_t)sizeof record + 8 * words};
    return record;
}

static enum att_status UNUSED append(struct att_store *store, uint64_t lsn, uint32_t words)
{
    static uint64_t payload[WORDS_MAX];
    struct att_record record = make_record(lsn, words);
    for (uint32_t i = 0; i < words; i++)
        payload[i] = mix(lsn * 4096 + i);
    return att_store_append(store, &record, payload);
}

static void UNUSED append_all(struct att_store *store, uint64_t from, uint64_t to, uint32_t words)
{
    for (uint64_t lsn = from; lsn <= to; lsn++) {
        enum att_status status;
        while ((status = append(store, lsn, words)) == ATT_AGAIN) {
            att_store_push(store);
            usleep(500);
        }
        assert_int_equal(status, ATT_OK);
        if (lsn % 64 == 0)
            att_store_push(store);
    }
    att_store_push(store);
}

struct seen {
    uint64_t first, last, count;
    bool wrong;
};

static enum att_status UNUSED see_record(void *context, const struct att_record *record, const void *payload,
                                         struct att_error *error)
{
    (void)error;
    struct seen *seen = context;
    uint32_t words = (record->length - (uint32_t)sizeof *record) / 8;
    struct att_record expected = make_record(record->lsn, words);
    seen->wrong = seen->wrong || memcmp(record, &expected, sizeof expected);
    for (uint32_t i = 0; i < words; i++) {
        uint64_t word;
        memcpy(&word, (const char *)payload + 8 * i, 8);
        seen->wrong = seen->wrong || word != mix(record->lsn * 4096 + i);
    }
    seen->wrong = seen->wrong || (seen->count && record->lsn != seen->last + 1);
    if (seen->count++ == 0)
        seen->first = record->lsn;
    seen->last = record->lsn;
    return ATT_OK;
}

static void UNUSED assert_log(struct att_store *store, uint64_t after, uint64_t last)
{
    struct seen seen = {0, after, 0, false};
    assert_status(att_store_read_log(store, after, see_record, &seen, &test_error), ATT_OK);
    assert_false(seen.wrong);
    assert_int_equal(seen.count, last - after);
    assert_int_equal(seen.last, last);
    if (seen.count)
        assert_int_equal(seen.first, after + 1);
}

/* ---- Waiting -------------------------------------------------------------------------------- */

static double UNUSED seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

#define wait_until(condition)                                \
    do {                                                     \
        double give_up = seconds() + 60;                     \
        while (!(condition)) {                               \
            if (seconds() > give_up)                         \
                fail_msg("waited 60 s for: %s", #condition); \
            usleep(500);                                     \
        }                                                    \
    } while (0)

static struct att_store_state UNUSED state_of(const struct att_store *store)
{
    struct att_store_state state;
    att_store_state(store, &state);
    return state;
}

/* ---- Snapshots: every byte follows from the generation's seed, array and offset ------------- */

enum { PIECE_BYTES = 100000, PIECES_PER_ARRAY = 5, ARRAYS = 3, PIECES = PIECES_PER_ARRAY * ARRAYS };

static void fill_piece(unsigned char *data, uint64_t seed, uint32_t array, uint64_t offset)
{
    for (size_t i = 0; i < PIECE_BYTES; i++)
        data[i] = (unsigned char)(mix(seed) + array * 31 + offset / PIECE_BYTES * 7 + i + (i >> 8));
}

static struct att_state_shape UNUSED make_shape(void)
{
    struct att_state_shape shape = {
        .heads = 1, .n_q = 3, .d = 4, .d_v = 5, .capacity = 6, .precision = 1, .scale = 0.5, .base_tag = "test"};
    return shape;
}

static void UNUSED feed_pieces(struct att_store *store, uint64_t lsn, uint64_t seed)
{
    static unsigned char data[PIECE_BYTES];
    att_store_snapshot_cut(store, 0, lsn, (uint32_t)seed);
    for (int i = PIECES; i-- > 0;) { /* not in key order */
        uint32_t array = (uint32_t)(i % ARRAYS);
        uint64_t offset = (uint64_t)(i / ARRAYS) * PIECE_BYTES;
        while (!att_store_snapshot_room(store))
            usleep(500);
        fill_piece(data, seed, array, offset);
        att_store_snapshot_piece(store, array, offset, data, sizeof data);
    }
    att_store_snapshot_end(store);
}

static void UNUSED snapshot(struct att_store *store, uint64_t lsn, uint64_t seed)
{
    struct att_state_shape shape = make_shape();
    assert_status(att_store_snapshot_begin(store, &shape, &test_error), ATT_OK);
    feed_pieces(store, lsn, seed);
    wait_until(!state_of(store).snapshot_running);
    assert_false(state_of(store).snapshot_failed);
    assert_int_equal(state_of(store).snapshot_lsn, lsn);
}

struct seen_pieces {
    uint64_t seed, count;
    uint64_t last_array, last_offset;
    bool wrong;
};

static enum att_status UNUSED see_piece(void *context, uint32_t array, uint64_t offset, const void *data,
                                        uint64_t bytes, struct att_error *error)
{
    (void)error;
    static unsigned char expected[PIECE_BYTES];
    struct seen_pieces *seen = context;
    fill_piece(expected, seen->seed, array, offset);
    seen->wrong = seen->wrong || bytes != PIECE_BYTES || memcmp(data, expected, sizeof expected);
    if (seen->count++)
        seen->wrong =
            seen->wrong || array < seen->last_array || (array == seen->last_array && offset <= seen->last_offset);
    seen->last_array = array;
    seen->last_offset = offset;
    return ATT_OK;
}

static void UNUSED assert_snapshot(struct att_store *store, uint64_t lsn, uint64_t seed)
{
    struct att_snapshot_info info;
    struct seen_pieces seen = {.seed = seed};
    assert_status(att_store_snapshot(store, &info, NULL, &test_error), ATT_OK);
    assert_int_equal(info.lsn, lsn);
    assert_int_equal(info.tokens_used, (uint32_t)seed);
    assert_int_equal(info.pieces, PIECES);
    assert_int_equal(info.bytes, (uint64_t)PIECES * PIECE_BYTES);
    struct att_state_shape shape = make_shape();
    assert_memory_equal(&info.shape, &shape, sizeof shape);
    assert_status(att_store_read_snapshot(store, see_piece, &seen, &test_error), ATT_OK);
    assert_false(seen.wrong);
    assert_int_equal(seen.count, PIECES);
}

/* A state with one snapshot at LSN 0 and records 1..last. */
static void UNUSED make_state(uint64_t last)
{
    struct att_store *store = open_started(true, ATT_DURABLE_ALWAYS);
    snapshot(store, 0, 1);
    if (last)
        append_all(store, 1, last, 8);
    att_store_close(store);
}

struct findings {
    int worst, count;
    char text[2000];
};

static void UNUSED see_finding(void *context, int severity, const char *text)
{
    struct findings *findings = context;
    findings->count++;
    if (severity > findings->worst)
        findings->worst = severity;
    size_t used = strlen(findings->text);
    snprintf(findings->text + used, sizeof findings->text - used, "%d: %s\n", severity, text);
}

static uint64_t UNUSED test_seed(void)
{
    const char *given = getenv("ATT_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003 + (uint64_t)getpid();
    print_message("ATT_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

static uint64_t UNUSED next_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return mix(*state);
}

#endif
