/* The ring protocol.
 *
 * A ring is `capacity` slots (a power of two) of one cache line: a sequence number and 56 bytes.
 * Positions count slots from 0 and never wrap in practice (they are 64 bits, compared by unsigned
 * difference); position p lives in slot p mod capacity. A message of n bytes takes ceil(n / 56)
 * slots at consecutive positions.
 *
 * States of the slot of position p, and who may move it:
 *   free       seq is p + 1 - capacity, or 0 in the first round
 *              -> written: the producer, once p - tail < capacity for a tail the consumer told
 *   written    the words hold p's data; seq is p + 1 already, unless p is `published`, the first
 *              position that is held back
 *              -> published: the producer, by one release store of seq in the slot of `published`
 *   published  the consumer, at tail <= p, may read
 *              -> free (of the next round): the consumer, by a release store of a tail beyond p
 *
 * Why one store publishes a batch: the consumer looks at one slot only, that of its tail, which is
 * never beyond `published`. All later slots of the batch, and their numbers, were written before
 * the release store; the consumer's acquire load of that number orders them all. So the producer
 * withholds one number for each batch, not for each message. A producer that dies in the middle of
 * a batch has published nothing of it.
 *
 * Why stale data never looks published: every slot of every message gets its own number p + 1,
 * also the ones that carry only payload, so the number in a slot is always the one of the position
 * last written there: a payload can never stand where a number is looked for, and a number of an
 * earlier round is smaller by a multiple of capacity.
 *
 * Why a slot is not overwritten while it is read: the consumer stores its tail with release after
 * its copies; the producer reads it with acquire before it writes there.
 *
 * Cursors. The consumer tells its tail only each 1/8 of the ring, in a line of its own, and the
 * producer reads it only when the copy it has shows too little room: two cache misses for each
 * eighth of the ring. Nobody waits for the part that is not told: a ring holds at least 8 of its
 * largest message, and all limits count on 7/8 of the ring (server_session.c, session_admits).
 *
 * Lines. What a round trip costs is lines of the cache going from one processor to the other: to write a slot, its producer
 * takes the line away from the consumer, which has read it a round ago, and the consumer fetches it back. A producer
 * that knows its next message is near takes the line beforehand (att_producer_own): the client when a call begins, the
 * service when it has answered a lone request. The service's next reply then waits for no line, if the client has not
 * looked there meanwhile; so the client does not look before a reply can be there (client_wait.c). Neither helps without
 * the other: together 40 ns of 500 on an Emerald Rapids.
 *
 * Trust. The peer can write all of the memory at any time. So: mask, capacity and own cursors are
 * private; the peer's cursor is used only if tail <= new tail <= head; slots are read with relaxed
 * atomic loads, each word once, into private memory, and only the copy is looked at (a plain
 * memcpy would allow the compiler to read twice); slot indices come from private positions and
 * `mask`, never from the peer. A wrong number anywhere is a broken protocol. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire.h"

enum {
    CHUNK_MIN_BYTES = 4096, /* replies in chunks: large enough that headers do not matter */
    CHANNEL_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL
};

uint64_t att_largest_request(uint32_t d, uint32_t d_v)
{
    return sizeof(struct att_wire_request) + sizeof(float) * ((uint64_t)d + d_v);
}

uint64_t att_largest_reply(const struct att_geometry *geometry)
{
    return sizeof(struct att_wire_reply) + (uint64_t)geometry->chunk_bytes;
}

/* The ring holds 8 of its largest message, whatever that is. */
uint64_t att_largest_batch(uint64_t request_slots)
{
    return request_slots / ATT_RING_MESSAGES * ATT_SLOT_DATA;
}

/* A quarter: with an eighth that is untold and one more largest reply, which is an eighth at most, they are well in the
 * ring. */
uint64_t att_largest_batch_reply_slots(uint64_t reply_slots)
{
    return reply_slots / 4;
}

/* The power of two that holds ATT_RING_MESSAGES messages of `bytes` bytes, and at least `slots`, which is one. */
static uint64_t ring_slots(uint64_t slots, uint64_t bytes)
{
    while (slots < ATT_RING_MESSAGES * att_slots_for(bytes))
        slots *= 2;
    return slots;
}

enum att_status att_geometry_choose(uint32_t d, uint32_t d_v, struct att_geometry *ret_geometry,
                                    struct att_error *error)
{
    uint64_t chunk = CHUNK_MIN_BYTES;
    if (chunk < sizeof(double) * (uint64_t)d_v)
        chunk = sizeof(double) * (uint64_t)d_v;
    if (chunk < sizeof(struct att_stat))
        chunk = sizeof(struct att_stat);
    chunk = (chunk + 15) / 16 * 16;
    uint64_t requests = ring_slots(ATT_REQUEST_MIN_SLOTS, att_largest_request(d, d_v));
    uint64_t replies = ring_slots(ATT_REPLY_MIN_SLOTS, sizeof(struct att_wire_reply) + chunk);
    if (d == 0 || d_v == 0 || requests > ATT_RING_MAX_SLOTS || replies > ATT_RING_MAX_SLOTS)
        return att_fail(error, ATT_EINVAL, "no channel for rows of d = %u and d_v = %u", d, d_v);
    ret_geometry->request_slots = (uint32_t)requests;
    ret_geometry->reply_slots = (uint32_t)replies;
    ret_geometry->chunk_bytes = (uint32_t)chunk;
    return ATT_OK;
}

static bool slots_valid(uint32_t slots, uint64_t largest)
{
    return slots != 0 && (slots & (slots - 1)) == 0 && slots <= ATT_RING_MAX_SLOTS &&
           slots >= ATT_RING_MESSAGES * att_slots_for(largest);
}

bool att_geometry_valid(const struct att_geometry *geometry, uint32_t d, uint32_t d_v)
{
    return d != 0 && d_v != 0 && geometry->chunk_bytes % 16 == 0 &&
           geometry->chunk_bytes >= sizeof(double) * (uint64_t)d_v &&
           geometry->chunk_bytes >= sizeof(struct att_stat) &&
           slots_valid(geometry->request_slots, att_largest_request(d, d_v)) &&
           slots_valid(geometry->reply_slots, att_largest_reply(geometry));
}

size_t att_geometry_bytes(const struct att_geometry *geometry)
{
    return ATT_CONTROL_BYTES + sizeof(struct att_slot) * ((size_t)geometry->request_slots + geometry->reply_slots);
}

static enum att_status channel_map(int fd, const struct att_geometry *geometry, struct att_channel *ret_channel,
                                   struct att_error *error)
{
    size_t bytes = att_geometry_bytes(geometry);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return att_fail(error, ATT_ENOMEM, "cannot map a channel of %zu bytes: %s", bytes, strerror(errno));
    struct att_slot *slots = (void *)((unsigned char *)base + ATT_CONTROL_BYTES);
    *ret_channel = (struct att_channel){
        .base = base,
        .bytes = bytes,
        .control = base,
        .request_slots = slots,
        .reply_slots = slots + geometry->request_slots,
    };
    return ATT_OK;
}

enum att_status att_channel_create(const struct att_geometry *geometry, uint32_t generation,
                                   struct att_channel *ret_channel, int *ret_fd, struct att_error *error)
{
    enum att_status status;
    int fd = memfd_create("attnd-channel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return att_fail(error, ATT_EIO, "cannot create a channel: memfd_create: %s", strerror(errno));
    if (ftruncate(fd, (off_t)att_geometry_bytes(geometry)) != 0 || fcntl(fd, F_ADD_SEALS, CHANNEL_SEALS) != 0) {
        status = att_fail(error, ATT_EIO, "cannot size and seal a channel: %s", strerror(errno));
        goto close_fd;
    }
    status = channel_map(fd, geometry, ret_channel, error);
    if (status != ATT_OK)
        goto close_fd;
    ret_channel->control->magic = ATT_CHANNEL_MAGIC;
    ret_channel->control->protocol = ATT_PROTOCOL_VERSION;
    ret_channel->control->generation = generation;
    *ret_fd = fd;
    return ATT_OK;
close_fd:
    close(fd);
    return status;
}

enum att_status att_channel_attach(int fd, const struct att_geometry *geometry, uint32_t generation,
                                   struct att_channel *ret_channel, struct att_error *error)
{
    struct stat file;
    size_t bytes = att_geometry_bytes(geometry);
    if (fstat(fd, &file) != 0 || (uint64_t)file.st_size != bytes)
        return att_fail(error, ATT_EPROTOCOL, "the daemon's channel does not have the %zu bytes it told", bytes);
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & CHANNEL_SEALS) != CHANNEL_SEALS)
        return att_fail(error, ATT_EPROTOCOL, "the daemon's channel is not sealed");
    struct att_channel channel;
    enum att_status status = channel_map(fd, geometry, &channel, error);
    if (status != ATT_OK)
        return status;
    if (channel.control->magic != ATT_CHANNEL_MAGIC || channel.control->protocol != ATT_PROTOCOL_VERSION ||
        channel.control->generation != generation) {
        att_channel_release(&channel);
        return att_fail(error, ATT_EPROTOCOL, "the daemon sent a channel that is not the one it told");
    }
    *ret_channel = channel;
    return ATT_OK;
}

void att_channel_release(struct att_channel *channel)
{
    if (channel->base)
        munmap(channel->base, channel->bytes);
    *channel = (struct att_channel){0};
}

/* ---- Producing ---------------------------------------------------------------------------------------- */

void att_producer_init(struct att_producer *producer, struct att_slot *slots, uint32_t count,
                       const _Atomic uint64_t *peer_tail, uint64_t start)
{
    *producer = (struct att_producer){
        .slots = slots,
        .peer_tail = peer_tail,
        .mask = count - 1,
        .capacity = count,
        .head = start,
        .published = start,
        .tail = start,
    };
}

bool att_producer_refresh(struct att_producer *producer)
{
    /* acquire: the consumer's copies out of the slots before this tail are done before we write
     * there; partner: the release store in att_consumer_take */
    uint64_t tail = atomic_load_explicit(producer->peer_tail, memory_order_acquire);
    if (tail - producer->tail > producer->published - producer->tail)
        return false; /* behind what it told before, or beyond what it can have seen */
    producer->tail = tail;
    return true;
}

/* The next slot's data, gathered from the parts. */
static void gather(uint64_t words[ATT_SLOT_WORDS], const struct att_part **part, const struct att_part *end,
                   size_t *offset)
{
    unsigned char *out = (unsigned char *)words;
    size_t filled = 0;
    while (filled < ATT_SLOT_DATA && *part < end) {
        size_t bytes = (*part)->bytes - *offset;
        const unsigned char *from = (const unsigned char *)(*part)->data + *offset;
        if (bytes > ATT_SLOT_DATA - filled)
            bytes = ATT_SLOT_DATA - filled;
        if (bytes == ATT_SLOT_DATA)
            memcpy(out, from, ATT_SLOT_DATA);
        else if (bytes > 0)
            memcpy(out + filled, from, bytes);
        filled += bytes;
        *offset += bytes;
        if (*offset == (*part)->bytes) {
            ++*part;
            *offset = 0;
        }
    }
    if (filled < ATT_SLOT_DATA)
        memset(out + filled, 0, ATT_SLOT_DATA - filled);
}

void att_producer_put(struct att_producer *producer, const struct att_part *parts, size_t count)
{
    const struct att_part *part = parts;
    size_t offset = 0, bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += parts[i].bytes;
    uint64_t words[ATT_SLOT_WORDS] = {0};
    if (count == 1 && bytes <= ATT_SLOT_DATA) { /* a header without a payload */
        memcpy(words, parts->data, bytes);
        att_producer_put_slot(producer, words);
        return;
    }
    const uint64_t slots = att_slots_for(bytes), first = producer->head, ahead = att_producer_ahead(producer, slots);
    for (uint64_t position = first; position != first + slots; position++) {
        struct att_slot *slot = &producer->slots[position & producer->mask];
        if (position + ATT_OWN_AHEAD < ahead)
            att_slot_own(&producer->slots[(position + ATT_OWN_AHEAD) & producer->mask]);
        gather(words, &part, parts + count, &offset);
        for (size_t w = 0; w < ATT_SLOT_WORDS; w++)
            atomic_store_explicit(&slot->words[w], words[w], memory_order_relaxed);
        att_producer_number(producer, slot, position);
    }
    producer->head += slots;
    producer->held++;
}

/* ---- Consuming ---------------------------------------------------------------------------------------- */

void att_consumer_init(struct att_consumer *consumer, struct att_slot *slots, uint32_t count,
                       _Atomic uint64_t *tail_cell, uint64_t start)
{
    *consumer = (struct att_consumer){
        .slots = slots,
        .tail_cell = tail_cell,
        .mask = count - 1,
        .capacity = count,
        .tail = start,
        .told = start,
    };
}

bool att_consumer_read(const struct att_consumer *consumer, uint64_t first, void *data, size_t bytes)
{
    unsigned char *out = data;
    att_consumer_fetch(consumer, consumer->tail + first + 1, att_slots_for(bytes));
    for (uint64_t position = consumer->tail + first; bytes > 0; position++) {
        const struct att_slot *slot = &consumer->slots[position & consumer->mask];
        uint64_t words[ATT_SLOT_WORDS];
        /* relaxed: ordered by the acquire load of the message's first number in att_consumer_peek */
        if (atomic_load_explicit(&slot->seq, memory_order_relaxed) != position + 1)
            return false;
        if (bytes < ATT_SLOT_DATA) {
            for (int w = 0; w < ATT_SLOT_WORDS; w++)
                words[w] = atomic_load_explicit(&slot->words[w], memory_order_relaxed);
            memcpy(out, words, bytes);
            return true;
        }
        /* Not by way of `words`: a load of several words waits until the stores of all of them are in the cache. */
        for (int w = 0; w < ATT_SLOT_WORDS; w++) {
            const uint64_t word = atomic_load_explicit(&slot->words[w], memory_order_relaxed);
            memcpy(out + (size_t)w * sizeof word, &word, sizeof word);
        }
        out += ATT_SLOT_DATA;
        bytes -= ATT_SLOT_DATA;
    }
    return true;
}
