/* durable: updates that are acknowledged when they are on disk. Floors, in turn with the figures and in the same
 * directory: a file that is appended to in batches of as many bytes (for a lone update 4 KiB) with an fdatasync after
 * each; for lone-in-place, 4 KiB that are overwritten and synced. Rows go to 1,024 of the tokens, so that merges beside
 * them, which compete for the processors, stay small. The rival for single entries is Redis with appendfsync always, at
 * the best of a few shapes of its own benchmark.
 *
 * `ack-p99` is an open loop: updates are due at fixed times, whatever the daemon does, and each is timed from when it was
 * due to when its acknowledgement was taken. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "disk.h"
#include "redis.h"
#include "served.h"

enum {
    N_Q = 64,
    N_K = 20000,
    D = 64,
    LOG = 0,                    /* attnd's own choice: one that stays in the cache */
    ROW_BYTES = 48 + 2 * 4 * D, /* of a record */
    ROW_BATCH = 2048,
    ROW_MESSAGE = 32,  /* updates sent as one: a message is 56 KiB at most */
    ROW_TOKENS = 1024, /* that they replace: what merges cost is suite update's */
    ROW_UPDATES = 20 * ROW_BATCH,
    ENTRY_UPDATES = 2400 * ATT_BATCH_REQUESTS,
    RATE = 100000,
    ROUNDS = 5,
    LONE = 64,
    BIG_N_K = 100000
};

struct durable {
    struct served served;
    struct att_client *client;
    struct bench_random random;
    struct disk disk;
    struct redis redis;
    int clients, pipeline; /* of Redis */
};

static int take_some(struct att_client *client, uint32_t timeout_ms)
{
    struct att_completion done[64];
    const int count = att_complete(client, done, 64, timeout_ms);

    if (count < 0)
        bench_die("%s", att_last_error(client));
    for (int i = 0; i < count; i++)
        if (done[i].status != ATT_OK)
            bench_die("%s", att_last_error(client));
    return count;
}

static void take_all(struct att_client *client)
{
    while (att_in_flight(client) > 0)
        if (take_some(client, 10000) == 0)
            bench_die("attnd does not answer");
}

static struct att_request random_entry(struct durable *self)
{
    return (struct att_request){.type = ATT_REQ_UPDATE_V,
                                .index = bench_random_below(&self->random, self->served.n_k),
                                .column = bench_random_below(&self->random, D),
                                .number = bench_random_unit(&self->random) - 0.5};
}

/* As one message; as many in flight as the rings let. A full request ring does not wait for a reply: its room comes back
 * as soon as attnd has taken the requests, long before they are on disk. */
static void submit(struct att_client *client, const struct att_request *requests, uint32_t count)
{
    enum att_status status;

    while ((status = att_submit_batch(client, requests, count)) == ATT_EBUSY)
        if (take_some(client, 0) == 0)
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL); /* the daemon needs the processor */
    if (status != ATT_OK)
        bench_die("%s", att_last_error(client));
}

/* ---- Throughput ---- */

static double rows(void *context)
{
    struct durable *self = context;
    float key[D], value[D];
    const double start = bench_now();

    for (uint32_t i = 0; i < D; i++) {
        key[i] = (float)bench_random_unit(&self->random) - 0.5f;
        value[i] = (float)bench_random_unit(&self->random);
    }
    for (uint32_t i = 0; i < ROW_UPDATES; i += ROW_MESSAGE) {
        struct att_request requests[ROW_MESSAGE];
        for (int r = 0; r < ROW_MESSAGE; r++)
            requests[r] = (struct att_request){.type = ATT_REQ_SET_TOKEN,
                                               .index = bench_random_below(&self->random, ROW_TOKENS),
                                               .key = key,
                                               .value = value};
        submit(self->client, requests, ROW_MESSAGE);
    }
    take_all(self->client);
    return (bench_now() - start) / ROW_UPDATES;
}

static double rows_floor(void *context)
{
    struct durable *self = context;

    return disk_append(&self->disk, ROW_UPDATES / ROW_BATCH) / ROW_UPDATES;
}

static double entries(void *context)
{
    struct durable *self = context;
    const double start = bench_now();

    for (uint32_t i = 0; i < ENTRY_UPDATES; i += ATT_BATCH_REQUESTS) {
        struct att_request requests[ATT_BATCH_REQUESTS];
        for (int r = 0; r < ATT_BATCH_REQUESTS; r++)
            requests[r] = random_entry(self);
        submit(self->client, requests, ATT_BATCH_REQUESTS);
    }
    take_all(self->client);
    return (bench_now() - start) / ENTRY_UPDATES;
}

static double redis_entries(void *context)
{
    struct durable *self = context;

    return 1e9 / redis_sets(&self->redis, self->clients, self->pipeline, ENTRY_UPDATES);
}

/* Its best shape, by one try of each. */
static void choose_shape(struct durable *self)
{
    static const int shapes[][2] = {{50, 16}, {50, 64}, {50, 256}, {8, 512}, {1, 1024}};
    double best = 0;

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const double rate = redis_sets(&self->redis, shapes[i][0], shapes[i][1], ENTRY_UPDATES);
        if (rate <= best)
            continue;
        best = rate;
        self->clients = shapes[i][0];
        self->pipeline = shapes[i][1];
    }
}

static void throughput(const struct bench *bench, struct durable *self)
{
    const struct bench_run row_runs[] = {{rows, self}, {rows_floor, self}};
    const struct bench_run entry_runs[] = {{entries, self}, {redis_entries, self}};
    const bool rival = redis_start(&self->redis, self->served.root);
    double ns[2] = {0, (double)NAN};

    disk_open(&self->disk, self->served.root, ROW_BATCH * ROW_BYTES);
    bench_interleave(row_runs, 2, bench->quick ? 0 : 20, ns);
    bench_figure(bench, "rows", 1e9 / ns[0], "/s", 1e9 / ns[1], ns[1] / ns[0]);
    disk_close(&self->disk);
    ns[1] = (double)NAN;
    if (rival)
        choose_shape(self);
    bench_interleave(entry_runs, rival ? 2 : 1, bench->quick ? 0 : 20, ns);
    bench_figure(bench, "entries", 1e9 / ns[0], "/s", 1e9 / ns[1], ns[1] / ns[0]);
    if (rival) {
        bench_note(bench, "the floor of entries is Redis with %d clients and %d commands in flight in each",
                   self->clients, self->pipeline);
        redis_stop(&self->redis);
    }
}

/* ---- A lone client ---- */

static double lone(void *context)
{
    struct durable *self = context;
    double samples[LONE];

    for (int i = 0; i < LONE; i++) {
        const double start = bench_now();
        if (att_update_v(self->client, 5, 7, 0.25) != ATT_OK)
            bench_die("%s", att_last_error(self->client));
        samples[i] = bench_now() - start;
    }
    return bench_median(samples, LONE);
}

static double lone_floor(void *context)
{
    struct durable *self = context;
    double samples[LONE];

    for (int i = 0; i < LONE; i++)
        samples[i] = disk_append(&self->disk, 1);
    return bench_median(samples, LONE);
}

static double lone_in_place(void *context)
{
    struct durable *self = context;
    double samples[LONE];

    for (int i = 0; i < LONE; i++)
        samples[i] = disk_sync(&self->disk);
    return bench_median(samples, LONE);
}

static void alone(const struct bench *bench, struct durable *self)
{
    const struct bench_run runs[] = {{lone, self}, {lone_floor, self}, {lone_in_place, self}};
    double ns[3];

    disk_open(&self->disk, self->served.root, 4096);
    bench_interleave(runs, 3, bench->quick ? 2 : 5, ns);
    bench_figure(bench, "lone", 1e-6 * ns[0], "ms", 1e-6 * ns[1], ns[0] / ns[1]);
    bench_figure(bench, "lone-in-place", 1e-6 * ns[0], "ms", 1e-6 * ns[2], ns[0] / ns[2]);
    disk_close(&self->disk);
}

/* ---- The acknowledgement at a fixed rate ---- */

/* One window of `updates`: the 99th of a hundred, in ns. Each update's tag is its place; `due` is worked out from it. */
static double ack_p99(struct durable *self, uint32_t updates, double *samples)
{
    const double gap = 1e9 / RATE, start = bench_now();
    uint32_t sent = 0, done = 0;

    while (done < updates) {
        struct att_completion completions[256];
        const double now = bench_now();
        while (sent < updates && start + sent * gap <= now) {
            struct att_request request = random_entry(self);
            request.tag = sent;
            if (att_submit(self->client, &request) != ATT_OK)
                break; /* the ring is full: it stays due */
            sent++;
        }
        att_push(self->client);
        const int count = att_complete(self->client, completions, 256, 0);
        if (count < 0)
            bench_die("%s", att_last_error(self->client));
        const double then = bench_now();
        for (int i = 0; i < count; i++, done++) {
            if (completions[i].status != ATT_OK)
                bench_die("%s", att_last_error(self->client));
            samples[completions[i].tag] = then - (start + (double)completions[i].tag * gap);
        }
        if (count == 0)
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL); /* the daemon needs the processor */
    }
    return served_quantile(samples, updates, 0.99);
}

/* One snapshot after the other. */
static void take_snapshots(const struct served *served, void *context)
{
    struct att_client *client = served_connect(served, false);

    (void)context;
    for (;;)
        if (att_snapshot(client) != ATT_OK)
            bench_die("%s", att_last_error(client));
}

static void acknowledgements(const struct bench *bench, struct durable *self)
{
    const uint32_t updates = bench->quick ? RATE : 2 * RATE;
    double *samples = calloc(updates, sizeof *samples), plain[ROUNDS], beside[ROUNDS];

    if (!samples)
        bench_die("no memory");
    ack_p99(self, updates, samples);
    for (int i = 0; i < ROUNDS; i++) {
        plain[i] = ack_p99(self, updates, samples);
        const pid_t pid = served_child(&self->served, take_snapshots, NULL);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        beside[i] = ack_p99(self, updates, samples);
        served_end_child(pid);
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL); /* the last one ends */
    }
    const double p99 = bench_median(plain, ROUNDS), with = bench_median(beside, ROUNDS);
    bench_figure(bench, "ack-p99", 1e-6 * p99, "ms", (double)NAN, (double)NAN);
    bench_figure(bench, "ack-p99-snapshot", 1e-6 * with, "ms", 1e-6 * p99, with / p99);
    free(samples);
}

void suite_durable(const struct bench *bench)
{
    struct durable self = {.random = {11}};

    served_start_durable(&self.served, N_Q, N_K, D, LOG, "always");
    self.client = served_connect(&self.served, false);
    throughput(bench, &self);
    alone(bench, &self);
    att_close(self.client);
    served_stop(&self.served);

    served_start_durable(&self.served, N_Q, BIG_N_K, D, LOG, "always");
    self.client = served_connect(&self.served, false);
    acknowledgements(bench, &self);
    att_close(self.client);
    served_stop(&self.served);
}
