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
 *
 * Trust: att_region_attach checks the layout against the size of the memfd, whose size is sealed; the reader bounds every
 * index that it reads. So a wrong daemon can give wrong answers, and nothing worse. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client_internal.h"
#include "reader.h"

enum {
    READ_PLACES = 64,
    READ_PLACE_BITS = 6,
    REGION_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE,
    /* Half a millisecond on a counter of 1 GHz; real ones are faster, so the look comes earlier. */
    GATE_TICKS = 500 * 1000
};

struct read_count {
    uint32_t head, row, count; /* count 0: free */
    uint64_t columns;
};

struct att_direct {
    uint32_t count; /* of regions: one for each head */
    uint64_t gate;  /* the time stamp of the last look */
    struct read_count reads[READ_PLACES];
    struct att_region regions[];
};

/* ---- Mapping ------------------------------------------------------------------------------------------- */

static enum att_status map_region(const struct att_client *client, int fd, struct att_region *ret_region,
                                  struct att_error *error)
{
    struct stat file;
    int seals = fcntl(fd, F_GET_SEALS);
    if (fstat(fd, &file) != 0 || file.st_size <= 0 || seals < 0 || (seals & REGION_SEALS) != REGION_SEALS)
        return att_fail(error, ATT_EPROTOCOL, "the daemon's published region is not sealed");
    size_t bytes = (size_t)file.st_size;
    void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (memory == MAP_FAILED)
        return att_fail(error, ATT_ENOMEM, "cannot map the daemon's published region of %zu bytes: %s", bytes,
                        strerror(errno));
    struct att_region region;
    const struct att_info *info = &client->info;
    enum att_status status = att_region_attach(memory, bytes, &region, error);
    if (status == ATT_OK && (region.n_q != info->n_q || region.d != info->d || region.d_v != info->d_v ||
                             region.bytes != bytes || (uint32_t)region.precision != info->precision))
        status = att_fail(error, ATT_EPROTOCOL, "the daemon's published region has another shape than it told");
    if (status != ATT_OK) {
        munmap(memory, bytes);
        return status;
    }
    *ret_region = region;
    return ATT_OK;
}

enum att_status att_direct_create(const struct att_client *client, const int *fds, uint32_t count,
                                  struct att_direct **ret_direct, struct att_error *error)
{
    struct att_direct *direct = calloc(1, sizeof *direct + count * sizeof direct->regions[0]);
    if (!direct)
        return att_fail(error, ATT_ENOMEM, "no memory for a client");
    for (; direct->count < count; direct->count++) {
        enum att_status status = map_region(client, fds[direct->count], &direct->regions[direct->count], error);
        if (status != ATT_OK) {
            att_direct_free(direct);
            return status;
        }
    }
    *ret_direct = direct;
    return ATT_OK;
}

void att_direct_free(struct att_direct *direct)
{
    if (!direct)
        return;
    for (uint32_t i = 0; i < direct->count; i++)
        munmap(direct->regions[i].header, direct->regions[i].bytes);
    free(direct);
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
static void report(struct att_client *client)
{
    struct att_direct *direct = client->direct;
    struct att_producer *requests = &client->requests;
    bool urgent = requests->published != requests->head; /* somebody's requests go out along with the reports */
    for (struct read_count *read = direct->reads; read < direct->reads + READ_PLACES; read++) {
        if (read->count == 0)
            continue;
        if (att_producer_room(requests) < requests->capacity / 4) {
            if (!att_producer_refresh(requests)) {
                att_client_broken(client, "its request cursor is impossible");
                return;
            }
            if (att_producer_room(requests) < requests->capacity / 4)
                break; /* a quarter is left to requests that somebody waits for */
        }
        const struct att_wire_request message = {
            .length = sizeof message,
            .generation = client->generation,
            .type = ATT_REQ_READS,
            .head = (uint16_t)read->head,
            .index = read->row,
            .column = read->count,
            .number = (double)read->columns,
        };
        const struct att_part part = {&message, sizeof message};
        att_producer_put(requests, &part, 1);
        if (requests->held >= ATT_BATCH)
            att_producer_publish(requests);
        *read = (struct read_count){0};
    }
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
        report(client);
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
