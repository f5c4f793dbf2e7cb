/* The rings: single-threaded against a queue model, across the wrap of positions, with forged
 * memory, and with two threads. ATT_TEST_SEED overrides the seed. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "channel.h"
#include "wire.h"

enum { SLOTS = 64, MOST_BYTES = ATT_SLOT_DATA * SLOTS / 8, THREAD_MESSAGES = 200000 };

struct ring {
    struct att_slot *slots;
    _Alignas(64) _Atomic uint64_t tail;
    struct att_producer producer;
    struct att_consumer consumer;
};

static uint64_t random_state;

static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void seed_random(void)
{
    const char *given = getenv("ATT_TEST_SEED");
    random_state = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003u;
    print_message("ATT_TEST_SEED=%llu\n", (unsigned long long)random_state);
}

/* A ring as it would be after `start` slots have gone through it. */
static struct ring *ring_new(uint64_t start)
{
    struct ring *ring = aligned_alloc(64, sizeof *ring);
    assert_non_null(ring);
    memset(ring, 0, sizeof *ring);
    ring->slots = aligned_alloc(64, SLOTS * sizeof *ring->slots);
    assert_non_null(ring->slots);
    for (uint64_t position = start - SLOTS; position != start; position++)
        atomic_store(&ring->slots[position % SLOTS].seq, position + 1);
    atomic_store(&ring->tail, start);
    att_producer_init(&ring->producer, ring->slots, SLOTS, &ring->tail, start);
    att_consumer_init(&ring->consumer, ring->slots, SLOTS, &ring->tail, start);
    return ring;
}

static void ring_free(struct ring *ring)
{
    free(ring->slots);
    free(ring);
}

/* A message: its length, then bytes that depend on `number`. */
static size_t make_message(unsigned char *out, uint64_t number, size_t bytes)
{
    uint32_t length = (uint32_t)bytes;
    memcpy(out, &length, sizeof length);
    for (size_t i = sizeof length; i < bytes; i++)
        out[i] = (unsigned char)(number * 131 + i * 7);
    return bytes;
}

static void put(struct ring *ring, uint64_t number, size_t bytes, uint64_t *state)
{
    unsigned char message[MOST_BYTES];
    make_message(message, number, bytes);
    /* in up to three parts, cut anywhere, also empty ones */
    size_t first = random_next(state) % (bytes + 1), second = first + random_next(state) % (bytes - first + 1);
    const struct att_part parts[] = {{message, first},
                                     {message + first, second - first},
                                     {message + second, bytes - second}};
    att_producer_put(&ring->producer, parts, 3);
}

/* Takes a message and compares it with what it must be; false when none is there. */
static bool get(struct ring *ring, uint64_t number, size_t expected_bytes, bool eager)
{
    unsigned char message[MOST_BYTES], expected[MOST_BYTES];
    uint32_t length;
    enum att_ring_state state = att_consumer_peek(&ring->consumer);
    if (state == ATT_RING_EMPTY)
        return false;
    assert_int_equal(state, ATT_RING_READY);
    assert_true(att_consumer_read(&ring->consumer, 0, &length, sizeof length));
    if (expected_bytes != 0)
        assert_int_equal(length, expected_bytes);
    assert_in_range(length, 4, MOST_BYTES);
    assert_true(att_consumer_read(&ring->consumer, 0, message, length));
    make_message(expected, number, length);
    assert_memory_equal(message, expected, length);
    att_consumer_take(&ring->consumer, att_slots_for(length), eager);
    return true;
}

static void run_model(uint64_t start, uint64_t *state, int steps)
{
    size_t sizes[2 * SLOTS]; /* the model: sizes of messages that are in the ring */
    uint64_t written = 0, published = 0, read = 0;
    struct ring *ring = ring_new(start);
    for (int step = 0; step < steps; step++) {
        switch (random_next(state) % 4) {
        case 0:
        case 1: {
            size_t bytes = 4 + random_next(state) % (MOST_BYTES - 3);
            uint64_t slots = att_slots_for(bytes);
            if (att_producer_room(&ring->producer) < slots)
                assert_true(att_producer_refresh(&ring->producer));
            if (att_producer_room(&ring->producer) < slots) {
                /* never short of room when all has been read: a reader keeps at most 1/8 untold */
                assert_true(read < written);
                break;
            }
            sizes[written % (2 * SLOTS)] = bytes;
            put(ring, written++, bytes, state);
            break;
        }
        case 2:
            assert_int_equal(att_producer_publish(&ring->producer), published != written);
            published = written;
            break;
        default:
            if (read < published) {
                assert_true(get(ring, read, sizes[read % (2 * SLOTS)], random_next(state) % 8 == 0));
                read++;
            } else {
                assert_false(get(ring, read, 0, false)); /* what is held back is not seen */
            }
        }
    }
    ring_free(ring);
}

static void model_from_any_start(void **unused)
{
    (void)unused;
    static const uint64_t starts[] = {
        0, 1, UINT32_MAX - 200, (uint64_t)UINT32_MAX + 1, UINT64_MAX - 1000, UINT64_MAX - 1, UINT64_MAX};
    seed_random();
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
        run_model(starts[i], &random_state, 20000);
}

static void batch_is_invisible_until_published(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    struct ring *ring = ring_new(0);
    for (uint64_t i = 0; i < 5; i++)
        put(ring, i, 100, &state);
    assert_int_equal(ring->producer.held, 5);
    assert_int_equal(att_consumer_peek(&ring->consumer), ATT_RING_EMPTY);
    assert_true(att_producer_publish(&ring->producer));
    assert_false(att_producer_publish(&ring->producer));
    for (uint64_t i = 0; i < 5; i++)
        assert_true(get(ring, i, 100, false));
    assert_false(get(ring, 5, 100, false));
    ring_free(ring);
}

static void forged_cursor_is_refused(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    struct ring *ring = ring_new(1000);
    for (uint64_t i = 0; i < 6; i++)
        put(ring, i, 50, &state);
    att_producer_publish(&ring->producer);
    atomic_store(&ring->tail, 1003);
    assert_true(att_producer_refresh(&ring->producer));
    static const uint64_t forged[] = {1002, 0, 1007, 1000 + SLOTS, UINT64_MAX, UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++) {
        atomic_store(&ring->tail, forged[i]);
        assert_false(att_producer_refresh(&ring->producer));
        assert_int_equal(att_producer_room(&ring->producer), SLOTS - 3);
    }
    atomic_store(&ring->tail, 1006);
    assert_true(att_producer_refresh(&ring->producer));
    assert_int_equal(att_producer_room(&ring->producer), SLOTS);
    ring_free(ring);
}

static void forged_slot_number_is_seen(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    unsigned char message[MOST_BYTES];
    struct ring *ring = ring_new(0);
    put(ring, 0, 200, &state);
    att_producer_publish(&ring->producer);
    atomic_store(&ring->slots[2].seq, 3 + SLOTS);
    assert_int_equal(att_consumer_peek(&ring->consumer), ATT_RING_READY);
    assert_false(att_consumer_read(&ring->consumer, 0, message, 200));
    atomic_store(&ring->slots[0].seq, 77);
    assert_int_equal(att_consumer_peek(&ring->consumer), ATT_RING_BROKEN);
    atomic_store(&ring->slots[0].seq, 0); /* as after a punched hole: empty */
    assert_int_equal(att_consumer_peek(&ring->consumer), ATT_RING_EMPTY);
    ring_free(ring);
}

/* A payload full of plausible sequence numbers never looks like a message. */
static void payload_never_looks_published(void **unused)
{
    (void)unused;
    struct ring *ring = ring_new(0);
    for (uint64_t round = 0; round < 40 * SLOTS; round++) {
        uint64_t fake[7 * 3];
        for (int i = 0; i < 21; i++)
            fake[i] = ring->producer.head + 1 + (uint64_t)i % 5;
        const struct att_part part = {fake, sizeof fake};
        att_producer_put(&ring->producer, &part, 1);
        att_producer_publish(&ring->producer);
        assert_int_equal(att_consumer_peek(&ring->consumer), ATT_RING_READY);
        att_consumer_take(&ring->consumer, 3, true);
        assert_int_equal(att_consumer_peek(&ring->consumer), ATT_RING_EMPTY);
        assert_true(att_producer_refresh(&ring->producer));
    }
    ring_free(ring);
}

static void *produce(void *context)
{
    struct ring *ring = context;
    uint64_t state = 5;
    for (uint64_t i = 0; i < THREAD_MESSAGES;) {
        size_t bytes = 4 + random_next(&state) % (MOST_BYTES - 3);
        while (att_producer_room(&ring->producer) < att_slots_for(bytes)) {
            att_producer_publish(&ring->producer);
            assert_true(att_producer_refresh(&ring->producer));
            if (att_producer_room(&ring->producer) < att_slots_for(bytes))
                sched_yield();
        }
        put(ring, i++, bytes, &state);
        if (random_next(&state) % 8 == 0)
            att_producer_publish(&ring->producer);
    }
    att_producer_publish(&ring->producer);
    return NULL;
}

static void two_threads(void **unused)
{
    (void)unused;
    pthread_t thread;
    struct ring *ring = ring_new(UINT64_MAX - 5000);
    assert_int_equal(pthread_create(&thread, NULL, produce, ring), 0);
    for (uint64_t i = 0; i < THREAD_MESSAGES;) {
        if (get(ring, i, 0, false))
            i++;
        else
            sched_yield();
    }
    pthread_join(thread, NULL);
    assert_false(get(ring, 0, 0, false));
    ring_free(ring);
}

static void geometry_holds_eight_of_the_largest(void **unused)
{
    (void)unused;
    static const uint32_t columns[] = {1, 2, 64, 511, 512, 4096, 100000};
    for (size_t i = 0; i < 7; i++)
        for (size_t j = 0; j < 7; j++) {
            struct att_geometry geometry;
            assert_int_equal(att_geometry_choose(columns[i], columns[j], &geometry, NULL), ATT_OK);
            assert_true(att_geometry_valid(&geometry, columns[i], columns[j]));
            assert_true(geometry.request_slots >= 8 * att_slots_for(att_largest_request(columns[i], columns[j])));
            assert_true(geometry.reply_slots >= 8 * att_slots_for(att_largest_reply(&geometry)));
            assert_true(geometry.chunk_bytes >= 8 * columns[j] && geometry.chunk_bytes % 16 == 0);
            struct att_geometry wrong = geometry;
            wrong.request_slots += 1;
            assert_false(att_geometry_valid(&wrong, columns[i], columns[j]));
            wrong = geometry;
            wrong.reply_slots = 64;
            assert_false(att_geometry_valid(&wrong, columns[i], columns[j]));
        }
    struct att_geometry geometry;
    assert_int_equal(att_geometry_choose(0, 1, &geometry, NULL), ATT_EINVAL);
    assert_int_equal(att_geometry_choose(UINT32_MAX, 1, &geometry, NULL), ATT_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_from_any_start),
        cmocka_unit_test(batch_is_invisible_until_published),
        cmocka_unit_test(forged_cursor_is_refused),
        cmocka_unit_test(forged_slot_number_is_seen),
        cmocka_unit_test(payload_never_looks_published),
        cmocka_unit_test(two_threads),
        cmocka_unit_test(geometry_holds_eight_of_the_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
