/* Direct reads: answers from the published region, which the client maps read-only.
 *
 * The reader is core/reader.c, the same pure function that the daemon uses; the argument why it is safe beside a writing
 * daemon stands there. What is added here:
 *
 *   freshness  The daemon puts an update into the region before it replies to it. Whoever has seen the reply (or was told
 *              by somebody who has) reads the region after it, so the reader's acquire load of `count` sees the update.
 *   LSN        The status page's `lsn` is read before the region: what it says had been published before.
 *   death      A region outlives its daemon, and would go on answering. So the socket is looked at at least once a
 *              millisecond: each read looks at the processor's time stamp, and when enough of it has gone by at the clock.
 *   reports    Rows that nobody reads lose their base, and what queries spend on pending entries decides when to merge;
 *              so the daemon has to know of direct reads. They are counted in a small table, which goes out with the
 *              look at the socket: one message for each place, no reply. A place belongs to the first row that comes to
 *              it; a row that finds its place taken is counted there: sums stay right, and which of many rows are told
 *              is chance, a millisecond after millisecond. Without anything pending nothing is urgent: then the daemon
 *              is not woken for them, until half of the request ring is full.
 *   memory     The daemon replaces the memory of the bases to give pages back (core/give_back.c). Who finds that it has the
 *              old one asks through the ring for what there is now, and the daemon for answers meanwhile. It comes by the
 *              socket, whenever it comes, and is taken at a look at the socket.
 *
 * Trust: att_region_attach checks the layout against the size of the memfd, whose size is sealed; the reader bounds every
 * index that it reads. So a wrong daemon can give wrong answers, and nothing worse. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client_internal.h"
#include "reader.h"

enum {
    READ_PLACES = 64,
    READ_PLACE_BITS = 6,
    /* Half a millisecond on a counter of 1 GHz; real ones are faster, so the look comes earlier. */
    GATE_TICKS = 500 * 1000,
    ASK_NS = 20 * 1000 * 1000 /* between two times */
};

struct read_count {
    uint32_t head, row, count; /* count 0: free */
    uint64_t columns;
};

struct att_direct {
    uint32_t count; /* of regions: one for each head */
    uint64_t gate;  /* the time stamp of the last look */
    bool stale;     /* a region's memory has been replaced, as seen since the last time it was asked for */
    uint64_t asked_ns;
    struct read_count reads[READ_PLACES];
    struct att_region regions[];
};

/* ---- Mapping ------------------------------------------------------------------------------------------- */

enum att_status att_direct_create(uint32_t heads, struct att_direct **ret_direct, struct att_error *error)
{
    struct att_direct *direct = calloc(1, sizeof *direct + heads * sizeof direct->regions[0]);
    if (!direct)
        return att_fail(error, ATT_ENOMEM, "no memory for a client");
    direct->count = heads;
    *ret_direct = direct;
    return ATT_OK;
}

enum att_status att_direct_map(struct att_client *client, uint32_t head, const int fds[ATT_HEAD_FDS],
                               struct att_error *error)
{
    const struct att_info *info = &client->info;
    struct att_region region;
    enum att_status status = att_region_map(fds, &region, error);
    if (status != ATT_OK)
        return status;
    if (region.n_q != info->n_q || region.d != info->d || region.d_v != info->d_v ||
        (uint32_t)region.precision != info->precision) {
        att_region_release(&region);
        return att_fail(error, ATT_EPROTOCOL, "the daemon's published region has another shape than it told");
    }
    att_region_release(&client->direct->regions[head]);
    client->direct->regions[head] = region;
    return ATT_OK;
}

void att_direct_free(struct att_direct *direct)
{
    if (!direct)
        return;
    for (uint32_t i = 0; i < direct->count; i++)
        att_region_release(&direct->regions[i]);
    free(direct);
}

/* Puts a message that nobody waits for into the request ring; false: there is no room for it now. */
static bool put(struct att_client *client, const struct att_wire_request *message)
{
    const struct att_part part = {message, sizeof *message};
    struct att_producer *requests = &client->requests;
    if (att_producer_room(requests) < requests->capacity / 4) {
        if (!att_producer_refresh(requests)) {
            att_client_broken(client, "its request cursor is impossible");
            return false;
        }
        if (att_producer_room(requests) < requests->capacity / 4)
            return false; /* a quarter is left to requests that somebody waits for */
    }
    att_producer_put(requests, &part, 1);
    if (requests->held >= ATT_BATCH)
        att_producer_publish(requests);
    return true;
}

/* ---- Memory that has been replaced --------------------------------------------------------------------- */

/* Regions take the places of the old ones, which end with their mappings. What can't be mapped now stays old, and is asked
 * for again. */
bool att_direct_receive(struct att_client *client)
{
    struct att_direct *direct = client->direct;
    int fds[ATT_REGIONS_A_PACKET * ATT_HEAD_FDS];
    struct att_regions packet;
    size_t count;
    if (!direct || direct->asked_ns == 0)
        return false;
    long bytes = att_packet_receive(client->fd, &packet, sizeof packet, fds, sizeof fds / sizeof *fds, &count);
    bool fits = bytes == (long)sizeof packet && packet.magic == ATT_REGIONS_MAGIC && packet.first <= direct->count &&
                packet.count <= direct->count - packet.first;
    for (size_t i = 0; fits && i < packet.count && (i + 1) * ATT_HEAD_FDS <= count; i++)
        att_direct_map(client, packet.first + (uint32_t)i, fds + i * ATT_HEAD_FDS, NULL);
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    return fits;
}

/* Whether the daemon answers instead because it has replaced the memory. */
static void note_stale(struct att_direct *direct, uint32_t head)
{
    direct->stale = direct->stale || att_region_stale(&direct->regions[head]);
}

/* Whether something has been asked for. */
static bool ask_for_regions(struct att_client *client, uint64_t now)
{
    struct att_direct *direct = client->direct;
    const struct att_wire_request message = {
        .length = sizeof message,
        .generation = client->generation,
        .type = ATT_REQ_REGIONS,
    };
    if (!direct->stale || (direct->asked_ns != 0 && now - direct->asked_ns < ASK_NS) || !put(client, &message))
        return false;
    direct->stale = false;
    direct->asked_ns = now;
    return true;
}

/* ---- Reports ------------------------------------------------------------------------------------------- */

static void note_read(struct att_direct *direct, uint32_t head, uint32_t row, uint32_t columns)
{
    uint32_t place = ((row + head * UINT32_C(40503)) * UINT32_C(0x9e3779b1)) >> (32 - READ_PLACE_BITS);
    struct read_count *read = &direct->reads[place];
    if (read->count == 0) {
        read->head = head;
        read->row = row;
    }
    read->count += read->count < UINT32_MAX;
    read->columns += columns;
}

static bool anything_pending(const struct att_direct *direct)
{
    for (uint32_t i = 0; i < direct->count; i++) {
        const struct att_region_header *header = direct->regions[i].header;
        if (atomic_load_explicit(&header->count, memory_order_relaxed) !=
            atomic_load_explicit(&header->settled, memory_order_relaxed))
            return true;
    }
    return false;
}

/* Without room the counts stay, and go out next time. */
static void report(struct att_client *client, uint64_t now)
{
    struct att_direct *direct = client->direct;
    struct att_producer *requests = &client->requests;
    bool urgent = requests->published != requests->head; /* somebody's requests go out along with the reports */
    urgent = ask_for_regions(client, now) || urgent;
    for (struct read_count *read = direct->reads; read < direct->reads + READ_PLACES; read++) {
        if (read->count == 0)
            continue;
        const struct att_wire_request message = {
            .length = sizeof message,
            .generation = client->generation,
            .type = ATT_REQ_READS,
            .head = (uint16_t)read->head,
            .index = read->row,
            .column = read->count,
            .number = (double)read->columns,
        };
        if (!put(client, &message))
            break;
        *read = (struct read_count){0};
    }
    if (client->closed)
        return;
    urgent = urgent || anything_pending(direct) || att_producer_room(requests) < requests->capacity / 2;
    att_producer_publish(requests);
    if (urgent)
        att_client_bell(client);
}

/* At least once a millisecond, if it is called often: notices the daemon's death, and reports. */
static void gate(struct att_client *client)
{
    struct att_direct *direct = client->direct;
#if defined(__x86_64__)
    uint64_t ticks = __builtin_ia32_rdtsc();
    if (ticks - direct->gate < GATE_TICKS)
        return;
    direct->gate = ticks;
#endif
    uint64_t now = att_now_ns();
#if !defined(__x86_64__)
    if (now - direct->gate < LOOK_NS / 2)
        return;
    direct->gate = now;
#endif
    if (now - client->looked_ns >= LOOK_NS / 2)
        client->looked_ns = now - LOOK_NS; /* a look is due */
    att_client_look(client, now);
    if (!client->closed)
        report(client, now);
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

enum att_status att_direct_entry(struct att_client *client, uint32_t head, uint32_t row, uint32_t column,
                                 double *ret_value, double *ret_error_bound)
{
    struct att_direct *direct = client->direct;
    if (!direct || client->closed || att_session_unsettled(client) || head >= direct->count ||
        row >= client->info.n_q || column >= client->info.d_v)
        return ATT_AGAIN;
    gate(client);
    if (client->closed)
        return ATT_AGAIN;
    enum att_status status = att_read_entry(&direct->regions[head], row, column, ret_value, ret_error_bound);
    if (status != ATT_AGAIN)
        note_read(direct, head, row, 1);
    else
        note_stale(direct, head);
    return status;
}

enum att_status att_direct_row(struct att_client *client, uint32_t head, uint32_t row, double *ret_values,
                               double *ret_error_bound)
{
    struct att_direct *direct = client->direct;
    if (!direct || client->closed || att_session_unsettled(client) || head >= direct->count || row >= client->info.n_q)
        return ATT_AGAIN;
    gate(client);
    if (client->closed)
        return ATT_AGAIN;
    enum att_status status = att_read_row(&direct->regions[head], row, ret_values, ret_error_bound);
    if (status != ATT_AGAIN)
        note_read(direct, head, row, client->info.d_v);
    else
        note_stale(direct, head);
    return status;
}

static enum att_status call_direct(struct att_client *client, const struct att_request *request,
                                   struct att_completion *ret_completion)
{
    struct att_completion done = {.tag = request->tag, .type = request->type, .incarnation = client->info.incarnation};
    enum att_status status = ATT_AGAIN;
    if (!client->direct || client->closed || request->durable)
        return att_client_call(client, request, ret_completion);
    /* acquire: what this LSN tells of is in the region when it is read below; partner: att_server_set_lsn */
    done.lsn = atomic_load_explicit(&client->page->lsn, memory_order_acquire);
    if (request->type == ATT_REQ_QUERY)
        status =
            att_direct_entry(client, request->head, request->index, request->column, &done.value, &done.error_bound);
    else if (request->type == ATT_REQ_ROW && request->buffer &&
             request->buffer_bytes >= sizeof(double) * (uint64_t)client->info.d_v)
        status = att_direct_row(client, request->head, request->index, request->buffer, &done.error_bound);
    if (status == ATT_AGAIN)
        return att_client_call(client, request, ret_completion);
    done.status = status;
    if (status != ATT_OK)
        att_client_say_empty(client, request->index);
    else if (ret_completion)
        *ret_completion = done;
    return status;
}

enum att_status att_call_direct(struct att_client *client, const struct att_request *request,
                                struct att_completion *ret_completion)
{
    client->deadline = 0;
    return call_direct(client, request, ret_completion);
}

/* One row after another; rows that only the daemon can give are asked for meanwhile, through the ring. */
enum att_status att_direct_column(struct att_client *client, uint32_t column, double *ret_pairs)
{
    client->deadline = 0;
    for (uint32_t row = 0; row < client->info.n_q; row++) {
        const struct att_request request = {.type = ATT_REQ_QUERY, .index = row, .column = column};
        struct att_completion done = {0};
        enum att_status status = call_direct(client, &request, &done);
        if (status != ATT_OK && status != ATT_EMPTY)
            return status;
        ret_pairs[2 * (size_t)row] = status == ATT_OK ? done.value : (double)NAN;
        ret_pairs[2 * (size_t)row + 1] = status == ATT_OK ? done.error_bound : (double)NAN;
    }
    return ATT_OK;
}
