/* A channel: two single-producer single-consumer rings in one sealed memfd, shared by the daemon
 * and one client. Internal to ipc; both sides use it. The protocol note is at the top of
 * channel.c; docs/protocol.md is the prose. */
#ifndef ATT_CHANNEL_H
#define ATT_CHANNEL_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "attn.h"

enum {
    ATT_SLOT_WORDS = 7,
    ATT_SLOT_DATA = 8 * ATT_SLOT_WORDS, /* bytes of a message in one slot */
    /* 512 KiB: 800 rows of d = 64, what a busy service takes while a client waits for its processor */
    ATT_REQUEST_MIN_SLOTS = 8192,
    /* 1 MiB: what a client may have in flight while a disk, or a processor that others use, is waited for */
    ATT_REPLY_MIN_SLOTS = 16384,
    ATT_RING_MAX_SLOTS = 1 << 24, /* 1 GiB: more is a nonsense geometry */
    ATT_RING_MESSAGES = 8,        /* a ring holds at least so many of its largest message */
    ATT_RING_TELL = 8,            /* a consumer tells its cursor each 1/8 of the ring */
    ATT_AHEAD = 4,                /* slots fetched ahead while a stream of messages is read */
    ATT_FETCH = 16,               /* slots of one message that are fetched at once when it is read */
    ATT_OWN_AHEAD = 8,            /* slots fetched ahead when they are written */
    ATT_BATCH = 16,               /* messages published with one store, at most */
    ATT_CONTROL_BYTES = 4096,
    ATT_CACHE_LINE = 64
};

#define ATT_CHANNEL_MAGIC UINT64_C(0x6c6e616863747461) /* "attchanl" */

/* One cache line. Written by the ring's producer, read by its consumer. */
struct att_slot {
    _Atomic uint64_t seq; /* position + 1 when the slot is part of a published message of that position */
    _Atomic uint64_t words[ATT_SLOT_WORDS];
};
static_assert(sizeof(struct att_slot) == ATT_CACHE_LINE, "att_slot");
static_assert(offsetof(struct att_slot, words) == 8, "att_slot.words");

/* The first page of a channel. Each line has one writer. */
struct att_control {
    /* Line 0: written by the daemon before the client gets the channel, never after. */
    uint64_t magic;
    uint32_t protocol;
    uint32_t generation;
    uint8_t pad0[48];
    /* Line 1: owned by the client: all positions of the reply ring before this one are free again. */
    _Atomic uint64_t reply_tail;
    uint8_t pad1[56];
    /* Line 2: owned by the client: odd while it sleeps, or is about to. A new number for each sleep. */
    _Atomic uint32_t client_ticket;
    uint8_t pad2[60];
    /* Line 3: owned by the daemon: as reply_tail, of the request ring. */
    _Atomic uint64_t request_tail;
    uint8_t pad3[56];
    /* Line 4: owned by the daemon. bell: the word the client sleeps on; changed before each wake.
     * wants_room: 1 while something waits for reply room: the client then tells its cursor at
     * once. */
    _Atomic uint32_t bell;
    _Atomic uint32_t wants_room;
    uint8_t pad4[56];
};
static_assert(sizeof(struct att_control) == 5 * ATT_CACHE_LINE, "att_control");
static_assert(offsetof(struct att_control, generation) == 12, "att_control.generation");
static_assert(offsetof(struct att_control, reply_tail) == 64, "att_control.reply_tail");
static_assert(offsetof(struct att_control, client_ticket) == 128, "att_control.client_ticket");
static_assert(offsetof(struct att_control, request_tail) == 192, "att_control.request_tail");
static_assert(offsetof(struct att_control, bell) == 256, "att_control.bell");
static_assert(offsetof(struct att_control, wants_room) == 260, "att_control.wants_room");

/* Private to each side, taken from the handshake: never read again from memory that the peer can write. */
struct att_geometry {
    uint32_t request_slots; /* powers of two */
    uint32_t reply_slots;
    uint32_t chunk_bytes; /* the largest payload of a reply */
};

struct att_channel {
    void *base;
    size_t bytes;
    struct att_control *control;
    struct att_slot *request_slots;
    struct att_slot *reply_slots;
};

/* Begins to fetch a slot's line for writing. (gcc and clang make of __builtin_prefetch(.., 1) one for reading, unless they may
 * use prefetchw; processors that don't know that take it for no operation.) */
static inline void att_slot_own(const struct att_slot *slot)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)slot));
#else
    __builtin_prefetch(slot, 1);
#endif
}

static inline uint64_t att_slots_for(uint64_t bytes)
{
    return (bytes + ATT_SLOT_DATA - 1) / ATT_SLOT_DATA;
}

/* Bytes of the largest request and the largest reply. */
uint64_t att_largest_request(uint32_t d, uint32_t d_v);
uint64_t att_largest_reply(const struct att_geometry *geometry);
/* Bytes of the largest batch, and reply slots of the largest batch's replies: no less than of any one request. */
uint64_t att_largest_batch(uint64_t request_slots);
uint64_t att_largest_batch_reply_slots(uint64_t reply_slots);

/* The daemon's choice for d and d_v. ATT_EINVAL: a ring would be larger than ATT_RING_MAX_SLOTS. */
enum att_status att_geometry_choose(uint32_t d, uint32_t d_v, struct att_geometry *ret_geometry,
                                    struct att_error *error);
/* Whether a geometry that a peer told makes sense for d and d_v. */
bool att_geometry_valid(const struct att_geometry *geometry, uint32_t d, uint32_t d_v);
size_t att_geometry_bytes(const struct att_geometry *geometry);

/* The daemon's: a new sealed memfd, mapped; its descriptor in *ret_fd, the caller's. ATT_ENOMEM, ATT_EIO. */
enum att_status att_channel_create(const struct att_geometry *geometry, uint32_t generation,
                                   struct att_channel *ret_channel, int *ret_fd, struct att_error *error);
/* The client's: checks size and seals of the memfd (not consumed) and the identity line, and maps
 * it. ATT_EPROTOCOL, ATT_ENOMEM. */
enum att_status att_channel_attach(int fd, const struct att_geometry *geometry, uint32_t generation,
                                   struct att_channel *ret_channel, struct att_error *error);
void att_channel_release(struct att_channel *channel); /* unmaps; zeroed memory is allowed */

/* ---- Producing ---------------------------------------------------------------------------------------- */

/* Private to the producing side but for slots and peer_tail. */
struct att_producer {
    struct att_slot *slots;
    const _Atomic uint64_t *peer_tail; /* owned by the consumer; never trusted */
    uint64_t mask, capacity;
    uint64_t head;      /* the next position to write */
    uint64_t published; /* the first position that is not published */
    uint64_t tail;      /* the last good copy of *peer_tail */
    uint32_t held;      /* messages from `published` to `head` */
};

struct att_part {
    const void *data;
    size_t bytes;
};

void att_producer_init(struct att_producer *producer, struct att_slot *slots, uint32_t count,
                       const _Atomic uint64_t *peer_tail, uint64_t start);

/* Free slots, as far as known. */
static inline uint64_t att_producer_room(const struct att_producer *producer)
{
    return producer->capacity - (producer->head - producer->tail);
}

/* Reads the consumer's cursor. False: it is impossible (the peer broke the protocol); nothing has changed. */
bool att_producer_refresh(struct att_producer *producer);

/* Begins to fetch the slot that the next message will be written to. */
static inline void att_producer_own(const struct att_producer *producer)
{
    att_slot_own(&producer->slots[producer->head & producer->mask]);
}

/* Writes one message, made of the parts one after another, and holds it back. The room must be there. */
void att_producer_put(struct att_producer *producer, const struct att_part *parts, size_t count);

/* The number of a slot that has been filled. */
static inline void att_producer_number(const struct att_producer *producer, struct att_slot *slot, uint64_t position)
{
    /* relaxed: nobody looks at it before the release store in att_producer_publish */
    if (position != producer->published)
        atomic_store_explicit(&slot->seq, position + 1, memory_order_relaxed);
}

/* Begins to fetch slots for writing, before a message of so many is written. The consumer has the lines; fetching them one
 * by one, as the stores come to them, would take as many misses in a row: so each is fetched ATT_OWN_AHEAD slots ahead, in a
 * batch those of the next message too. The second message fetches the first of these again: the consumer may have looked
 * there since. Returns where that ends; the slots ATT_OWN_AHEAD before it and later are left to the writer. */
static inline uint64_t att_producer_ahead(const struct att_producer *producer, uint64_t slots)
{
    const uint64_t first = producer->head, end = first + slots + (producer->held > 0 ? ATT_OWN_AHEAD : 0);
    for (uint64_t i = 0; producer->held < 2 && i < ATT_OWN_AHEAD && first + i < end; i++)
        att_slot_own(&producer->slots[(first + i) & producer->mask]);
    return end;
}

/* A message of one slot: its words, zeros at the end. */
static inline void att_producer_put_slot(struct att_producer *producer, const uint64_t words[ATT_SLOT_WORDS])
{
    const uint64_t position = producer->head;
    struct att_slot *slot = &producer->slots[position & producer->mask];
    att_slot_own(slot);
    if (producer->held > 0)
        att_slot_own(&producer->slots[(att_producer_ahead(producer, 1) - 1) & producer->mask]);
    for (size_t w = 0; w < ATT_SLOT_WORDS; w++)
        atomic_store_explicit(&slot->words[w], words[w], memory_order_relaxed);
    att_producer_number(producer, slot, position);
    producer->head++;
    producer->held++;
}

/* Makes all that is held back visible, with one store. False: there was nothing. */
static inline bool att_producer_publish(struct att_producer *producer)
{
    if (producer->published == producer->head)
        return false;
    struct att_slot *slot = &producer->slots[producer->published & producer->mask];
    /* release: all words and numbers of the batch are visible before this number;
     * partner: the acquire load in att_consumer_peek */
    atomic_store_explicit(&slot->seq, producer->published + 1, memory_order_release);
    producer->published = producer->head;
    producer->held = 0;
    return true;
}

/* ---- Consuming ---------------------------------------------------------------------------------------- */

/* Private to the consuming side but for slots and tail_cell. */
struct att_consumer {
    struct att_slot *slots;
    _Atomic uint64_t *tail_cell; /* ours: how the producer learns of freed slots */
    uint64_t mask, capacity;
    uint64_t tail; /* the position to read next */
    uint64_t told; /* what *tail_cell holds */
};

enum att_ring_state {
    ATT_RING_EMPTY = 0,
    ATT_RING_READY = 1,
    ATT_RING_BROKEN = 2 /* the slot's number is neither this round's nor the last one's */
};

void att_consumer_init(struct att_consumer *consumer, struct att_slot *slots, uint32_t count,
                       _Atomic uint64_t *tail_cell, uint64_t start);

static inline enum att_ring_state att_consumer_peek(const struct att_consumer *consumer)
{
    const struct att_slot *slot = &consumer->slots[consumer->tail & consumer->mask];
    /* acquire: what the producer wrote before its release store in att_producer_publish is visible now */
    uint64_t seq = atomic_load_explicit(&slot->seq, memory_order_acquire);
    if (seq == consumer->tail + 1)
        return ATT_RING_READY;
    if (seq == consumer->tail + 1 - consumer->capacity || seq == 0)
        return ATT_RING_EMPTY;
    return ATT_RING_BROKEN;
}

/* Begins to fetch slots of a published message, from `position` on. */
static inline void att_consumer_fetch(const struct att_consumer *consumer, uint64_t position, uint64_t slots)
{
    for (uint64_t i = 0; i < slots && i < ATT_FETCH; i++)
        __builtin_prefetch(&consumer->slots[(position + i) & consumer->mask]);
    __asm__ volatile(""); /* gcc leaves out calls of a function that does nothing but prefetch */
}

/* While message follows message, after att_consumer_take: begins to fetch slots that will be looked at soon. Not after a
 * lone message: the slots that follow are the producer's to write. `first`: after the second message of a stream. */
static inline void att_consumer_ahead(const struct att_consumer *consumer, bool first)
{
    for (uint64_t i = first ? 1 : ATT_AHEAD - 1; i <= ATT_AHEAD; i++)
        __builtin_prefetch(&consumer->slots[(consumer->tail + i) & consumer->mask], 0);
    __asm__ volatile(""); /* gcc leaves out calls of a function that does nothing but prefetch */
}

/* Copies the first slot of the message that peek found, ATT_SLOT_DATA bytes, into private memory; each word is read once. */
static inline void att_consumer_read_first(const struct att_consumer *consumer, void *data)
{
    const struct att_slot *slot = &consumer->slots[consumer->tail & consumer->mask];
    for (size_t w = 0; w < ATT_SLOT_WORDS; w++) {
        /* relaxed: ordered by the acquire load of its number in att_consumer_peek */
        const uint64_t word = atomic_load_explicit(&slot->words[w], memory_order_relaxed);
        memcpy((unsigned char *)data + w * sizeof word, &word, sizeof word);
    }
}

/* Copies `bytes` bytes of the message that peek found, from its slot number `first` on, into
 * private memory; each word is read once. False: a slot does not belong to the message (the peer
 * broke the protocol). */
bool att_consumer_read(const struct att_consumer *consumer, uint64_t first, void *data, size_t bytes);

/* Frees the message's slots; tells the producer when 1/8 of the ring is untold, or at once when
 * `eager`. Returns whether it told. */
static inline bool att_consumer_take(struct att_consumer *consumer, uint64_t slots, bool eager)
{
    consumer->tail += slots;
    if (!eager && consumer->tail - consumer->told < consumer->capacity / ATT_RING_TELL)
        return false;
    /* release: our copies out of the slots are done before the producer sees them free;
     * partner: the acquire load in att_producer_refresh */
    atomic_store_explicit(consumer->tail_cell, consumer->tail, memory_order_release);
    consumer->told = consumer->tail;
    return true;
}

#endif
