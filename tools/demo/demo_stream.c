/* The stream of edits: at most WINDOW of them without an acknowledgement.
 *
 * With --durability always an acknowledgement means that the edit is on disk. The tag of a request is its position in
 * the trace. This is the only client that writes, so each edit must be given the LSN after the one before it. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#include "demo.h"
#include "progress.h"

enum { WINDOW = 64, TIMEOUT_MS = 20000 };

void stream_begin(struct stream *stream, struct att_client *client)
{
    struct att_stat stat;
    demo_need(client, att_get_stat(client, &stat), "stat");
    stream->client = client;
    stream->next = stream->from = stream->acknowledged;
    stream->base_lsn = stat.lsn;
}

static void send_some(struct stream *stream, uint32_t to)
{
    const struct workload *workload = stream->workload;
    while (stream->next < to && att_in_flight(stream->client) < WINDOW) {
        uint32_t at = stream->next;
        const float *row = workload->rows + (size_t)at * workload->d;
        bool is_key = workload->kind[at] == 0;
        const struct att_request request = {.type = ATT_REQ_SET_TOKEN,
                                            .index = (uint32_t)workload->index[at],
                                            .key = is_key ? row : NULL,
                                            .value = is_key ? NULL : row,
                                            .tag = at};
        enum att_status status = att_submit(stream->client, &request);
        if (status == ATT_EBUSY && att_in_flight(stream->client) > 0)
            break;
        demo_need(stream->client, status, "an edit");
        stream->next++;
        stream->sent++;
    }
    att_push(stream->client);
}

/* Returns how many; -1: the daemon has gone, and every acknowledgement that it gave is counted. */
static int take_some(struct stream *stream, uint32_t timeout_ms)
{
    struct att_completion done[WINDOW];
    int got = att_complete(stream->client, done, WINDOW, timeout_ms);
    if (got == 0 && timeout_ms > 0)
        demo_fail("no acknowledgement for %d s at edit %" PRIu32, TIMEOUT_MS / 1000, stream->acknowledged);
    for (int i = 0; i < got; i++) {
        if (done[i].status == ATT_ECLOSED)
            return -1; /* this edit and those after it were not acknowledged */
        demo_need(stream->client, done[i].status, "an edit");
        if (done[i].tag != stream->acknowledged)
            demo_fail("edit %" PRIu64 " was acknowledged before edit %" PRIu32, done[i].tag, stream->acknowledged);
        if (done[i].lsn != stream->base_lsn + (stream->acknowledged - stream->from) + 1)
            demo_fail("edit %" PRIu64 " has LSN %" PRIu64 ", out of order", done[i].tag, done[i].lsn);
        stream->acknowledged++;
        stream->acks++;
    }
    return got;
}

static void step(struct stream *stream, uint32_t to, uint32_t timeout_ms)
{
    send_some(stream, to);
    if (take_some(stream, timeout_ms) < 0)
        demo_fail("the daemon has gone: %s", att_last_error(stream->client));
}

void stream_run(struct stream *stream, uint32_t to)
{
    uint64_t begin = att_clock_ns();
    while (stream->acknowledged < to)
        step(stream, to, TIMEOUT_MS);
    stream->nanoseconds += att_clock_ns() - begin;
}

uint64_t stream_run_and_kill(struct stream *stream, uint32_t to, uint32_t kill_at, struct daemon *daemon)
{
    uint64_t begin = att_clock_ns(), random = begin;
    /* anywhere within the time that a window has taken so far, so anywhere within a commit */
    uint64_t window_ns = WINDOW * (stream->nanoseconds / (stream->acks ? stream->acks : 1));
    uint64_t delay_ns = window_ns / 1000 * demo_random(&random, 1000);
    while (stream->acknowledged < kill_at)
        step(stream, to, TIMEOUT_MS);
    uint64_t killed, kill_ns = att_clock_ns() + delay_ns;
    do {
        step(stream, to - WINDOW, 0);
        killed = att_clock_ns();
    } while (killed < kill_ns && stream->acknowledged < to - WINDOW);
    daemon_pause(daemon); /* so that what is sent now is on its way for certain, however busy the machine is */
    take_some(stream, 0); /* what it has answered: a whole window may be, and then there is no room for more */
    send_some(stream, to);
    daemon_stop(daemon, SIGKILL);
    while (take_some(stream, TIMEOUT_MS) > 0) {}
    stream->nanoseconds += killed - begin;
    return killed;
}
