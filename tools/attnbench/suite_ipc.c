/* ipc: round trips through the ring, and how many pipelined; what merges do to them; how long a dead client's session lives;
 * and how often an idle daemon wakes up.
 *
 * Floors, interleaved with the figures: `line`, one cache line that two processes bounce; `echo`, a 48-byte message and a
 * 56-byte reply over the same ring code (ipc/channel.c) with a process that only answers; and the query itself in this
 * process. The client is bound to one processor, the service thread and the echo to another. */
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel.h"
#include "hostile.h"
#include "rig.h"
#include "served.h"
#include "wire.h"

enum { N_Q = 1024, N_K = 4096, D = 64, LOG = 8192, TRIPS = 20000, DEPTH = 64, ROUNDS = 5, ROUNDS_QUICK = 5 };
/* Long enough that the scheduler has its say: some 50 ms. */
enum { MERGE_TRIPS = 100000 };

struct line {
    _Alignas(64) _Atomic uint64_t there;
    _Alignas(64) _Atomic uint64_t back;
};

struct peers {
    struct served served;
    struct att_client *client;
    struct rig rig;
    struct bench_random random;
    struct line *line;
    struct att_channel channel;
    struct att_producer requests;
    struct att_consumer replies;
    pid_t line_pid, echo_pid;
    double samples[MERGE_TRIPS];
};

static void pause_a_little(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static pid_t fork_peer(void)
{
    const pid_t pid = fork();
    if (pid < 0)
        bench_die("fork failed");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        served_pin(0, 1);
    }
    return pid;
}

static _Noreturn void answer_line(struct line *line)
{
    for (uint64_t last = 0;;) {
        uint64_t seen = atomic_load_explicit(&line->there, memory_order_acquire);
        if (seen != last)
            atomic_store_explicit(&line->back, last = seen, memory_order_release);
        else
            pause_a_little();
    }
}

static _Noreturn void answer_echo(struct att_channel *channel, const struct att_geometry *geometry)
{
    struct att_consumer requests;
    struct att_producer replies;

    att_consumer_init(&requests, channel->request_slots, geometry->request_slots, &channel->control->request_tail, 0);
    att_producer_init(&replies, channel->reply_slots, geometry->reply_slots, &channel->control->reply_tail, 0);
    for (;;) {
        struct att_wire_request request;
        struct att_wire_reply reply = {.length = sizeof reply};
        const struct att_part part = {&reply, sizeof reply};
        if (att_consumer_peek(&requests) != ATT_RING_READY) {
            pause_a_little();
            continue;
        }
        att_consumer_read(&requests, 0, &request, sizeof request);
        att_consumer_take(&requests, 1, false);
        if (att_producer_room(&replies) < 1)
            att_producer_refresh(&replies);
        reply.tag = request.tag;
        att_producer_put(&replies, &part, 1);
        att_producer_publish(&replies);
    }
}

static void start_echo(struct peers *p)
{
    struct att_geometry geometry;
    int fd;

    if (att_geometry_choose(D, D, &geometry, NULL) != ATT_OK ||
        att_channel_create(&geometry, 1, &p->channel, &fd, NULL) != ATT_OK)
        bench_die("no channel for the echo");
    close(fd);
    att_producer_init(&p->requests, p->channel.request_slots, geometry.request_slots, &p->channel.control->request_tail,
                      0);
    att_consumer_init(&p->replies, p->channel.reply_slots, geometry.reply_slots, &p->channel.control->reply_tail, 0);
    p->echo_pid = fork_peer();
    if (p->echo_pid == 0)
        answer_echo(&p->channel, &geometry);
}

static void start_line(struct peers *p)
{
    p->line = mmap(NULL, sizeof *p->line, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p->line == MAP_FAILED)
        bench_die("mmap failed");
    p->line_pid = fork_peer();
    if (p->line_pid == 0)
        answer_line(p->line);
}

/* The peer that is measured runs, the other one must not spin beside it. */
static void let_run(pid_t pid, bool run)
{
    kill(pid, run ? SIGCONT : SIGSTOP);
}

static void echo_once(struct peers *p)
{
    const struct att_wire_request request = {.length = sizeof request};
    const struct att_part part = {&request, sizeof request};
    struct att_wire_reply reply;

    if (att_producer_room(&p->requests) < 1)
        att_producer_refresh(&p->requests);
    att_producer_put(&p->requests, &part, 1);
    att_producer_publish(&p->requests);
    while (att_consumer_peek(&p->replies) != ATT_RING_READY)
        pause_a_little();
    att_consumer_read(&p->replies, 0, &reply, sizeof reply);
    att_consumer_take(&p->replies, 1, false);
}

static void line_once(struct peers *p)
{
    const uint64_t next = atomic_load_explicit(&p->line->there, memory_order_relaxed) + 1;

    atomic_store_explicit(&p->line->there, next, memory_order_release);
    while (atomic_load_explicit(&p->line->back, memory_order_acquire) != next)
        pause_a_little();
}

static void ring_once(struct peers *p)
{
    double value, bound;

    if (att_query(p->client, bench_random_below(&p->random, N_Q), 5, &value, &bound) != ATT_OK)
        bench_die("%s", att_last_error(p->client));
    bench_sink = value;
}

static void query_once(struct peers *p)
{
    double value, bound;

    if (att_engine_query(p->rig.engine, bench_random_below(&p->random, N_Q), 5, &value, &bound, NULL) == ATT_OK)
        bench_sink = value;
}

/* ns of `count` of them, into p->samples */
static void trips(struct peers *p, uint32_t count, void (*once)(struct peers *p))
{
    for (uint32_t i = 0; i < TRIPS / 10; i++)
        once(p);
    for (uint32_t i = 0; i < count; i++) {
        const double start = bench_now();
        once(p);
        p->samples[i] = bench_now() - start;
    }
}

/* The quantiles that are reported, of each round. */
enum { MOST_ROUNDS = 15, QUANTILES = 3 };
static const double parts[QUANTILES] = {0.5, 0.99, 0.999};

struct quantiles {
    double of[QUANTILES][MOST_ROUNDS];
};

static void quantiles_of(struct peers *p, void (*once)(struct peers *p), double clock, uint32_t round,
                         struct quantiles *ret)
{
    trips(p, TRIPS, once);
    for (int q = 0; q < QUANTILES; q++)
        ret->of[q][round] = served_quantile(p->samples, TRIPS, parts[q]) - clock;
}

/* What two looks at the clock cost; it is in all samples. */
static double clock_ns(struct peers *p)
{
    for (uint32_t i = 0; i < TRIPS; i++) {
        const double start = bench_now();
        p->samples[i] = bench_now() - start;
    }
    return served_quantile(p->samples, TRIPS, 0.5);
}

static void measure_trips(const struct bench *bench, struct peers *p)
{
    static const char *const names[QUANTILES] = {"rtt", "rtt-p99", "rtt-p999"};
    static struct quantiles line, echo, query, ring;
    const uint32_t rounds = bench->quick ? ROUNDS_QUICK : MOST_ROUNDS;

    start_line(p);
    let_run(p->line_pid, false);
    start_echo(p);
    let_run(p->echo_pid, false);
    trips(p, TRIPS, ring_once); /* each page of the rings is touched for the first time */
    for (uint32_t i = 0; i < rounds; i++) {
        const double clock = clock_ns(p);
        let_run(p->line_pid, true);
        quantiles_of(p, line_once, clock, i, &line);
        let_run(p->line_pid, false);
        let_run(p->echo_pid, true);
        quantiles_of(p, echo_once, clock, i, &echo);
        let_run(p->echo_pid, false);
        quantiles_of(p, query_once, clock, i, &query);
        quantiles_of(p, ring_once, clock, i, &ring);
    }
    served_end_child(p->line_pid);
    served_end_child(p->echo_pid);
    munmap(p->line, sizeof *p->line);
    att_channel_release(&p->channel);
    bench_figure(bench, "line", bench_median(line.of[0], rounds) * 1e-3, "us", NAN, NAN);
    bench_figure(bench, "echo", bench_median(echo.of[0], rounds) * 1e-3, "us", NAN, NAN);
    for (int q = 0; q < QUANTILES; q++) {
        const double floor = bench_median(echo.of[q], rounds) + bench_median(query.of[q], rounds);
        const double got = bench_median(ring.of[q], rounds);
        bench_figure(bench, names[q], got * 1e-3, "us", floor * 1e-3, got / floor);
    }
}

/* ---- Pipelined ---- */

enum { QUERIES = 200000, UPDATES = 60000 };

/* ns for each query, in batches of 64 */
static double run_ring_queries(void *context)
{
    struct peers *p = context;
    struct att_completion done[DEPTH];
    const double start = bench_now();

    for (uint32_t i = 0; i < QUERIES; i += DEPTH) {
        for (uint32_t j = 0; j < DEPTH; j++) {
            const struct att_request request = {.type = ATT_REQ_QUERY,
                                                .index = bench_random_below(&p->random, N_Q),
                                                .column = 5};
            if (att_submit(p->client, &request) != ATT_OK)
                bench_die("%s", att_last_error(p->client));
        }
        for (int left = DEPTH; left > 0;) {
            int count = att_complete(p->client, done, left, 10000);
            if (count <= 0)
                bench_die("%s", count < 0 ? att_last_error(p->client) : "attnd does not answer");
            left -= count;
        }
    }
    return (bench_now() - start) / QUERIES;
}

static double run_own_queries(void *context)
{
    struct peers *p = context;
    const double start = bench_now();

    for (uint32_t i = 0; i < QUERIES; i++)
        query_once(p);
    return (bench_now() - start) / QUERIES;
}

/* ns for each update, 64 in flight; merges come as they must */
static double run_ring_updates(void *context)
{
    struct peers *p = context;
    const double start = bench_now();

    served_update(p->client, &p->served, &p->random, UPDATES, DEPTH);
    return (bench_now() - start) / UPDATES;
}

/* The same in this process: until the log is full, then a merge, whose time counts. */
static double run_own_updates(void *context)
{
    struct peers *p = context;
    const double start = bench_now();

    for (uint32_t i = 0; i < UPDATES; i++)
        while (!rig_replace(&p->rig, bench_random_below(&p->random, N_K)))
            rig_merge(&p->rig);
    return (bench_now() - start) / UPDATES;
}

static void measure_pipelined(const struct bench *bench, struct peers *p)
{
    const struct bench_run queries[] = {{run_ring_queries, p}, {run_own_queries, p}};
    const struct bench_run updates[] = {{run_ring_updates, p}, {run_own_updates, p}};
    double medians[2];

    bench_interleave(queries, 2, bench->quick ? 3.0 : 10.0, medians);
    bench_figure(bench, "queries", 1e9 / medians[0], "1/s", 1e9 / medians[1], medians[1] / medians[0]);
    bench_interleave(updates, 2, bench->quick ? 3.0 : 10.0, medians);
    bench_figure(bench, "updates", 1e9 / medians[0], "1/s", 1e9 / medians[1], medians[1] / medians[0]);
}

/* ---- Merges beside queries ---- */

/* One merge after another, each of so many updates. Small ones: what a query spends on the entries that are pending is not
 * what is asked here. Large ones show that too. */
static void merge_on(const struct served *served, void *context)
{
    const uint32_t *updates = context;
    struct bench_random random = {77};
    struct att_client *client = served_connect(served, false);

    for (;;) {
        served_update(client, served, &random, *updates, DEPTH);
        if (att_merge(client) != ATT_OK)
            bench_die("%s", att_last_error(client));
    }
}

static double p99_beside(struct peers *p)
{
    trips(p, MERGE_TRIPS, ring_once);
    return served_quantile(p->samples, MERGE_TRIPS, 0.99);
}

static uint64_t merges_so_far(struct peers *p)
{
    struct att_stat stat;

    if (att_get_stat(p->client, &stat) != ATT_OK)
        bench_die("%s", att_last_error(p->client));
    return stat.merges;
}

static void measure_merges(const struct bench *bench, struct peers *p, const char *name, uint32_t updates)
{
    double without[ROUNDS], with[ROUNDS], rate[ROUNDS];

    for (uint32_t i = 0; i < ROUNDS; i++) {
        without[i] = p99_beside(p);
        const pid_t pid = served_child(&p->served, merge_on, &updates);
        usleep(50000);
        const uint64_t before = merges_so_far(p);
        const double start = bench_now();
        with[i] = p99_beside(p);
        rate[i] = (double)(merges_so_far(p) - before) / (bench_now() - start) * 1e9;
        served_end_child(pid);
        usleep(50000);
    }
    const double quiet = bench_median(without, ROUNDS), busy = bench_median(with, ROUNDS);
    bench_note(bench, "%.0f merges of %u updates a second meanwhile", bench_median(rate, ROUNDS), updates);
    bench_figure(bench, name, busy * 1e-3, "us", quiet * 1e-3, busy / quiet);
}

/* ---- Clients that break the protocol, that die, and that do nothing ---- */

static void measure_hostile(const struct bench *bench, struct peers *p)
{
    double without[ROUNDS], with[ROUNDS];

    for (uint32_t i = 0; i < ROUNDS; i++) {
        without[i] = p99_beside(p);
        const pid_t forger = served_child(&p->served, hostile_forge, NULL);
        const pid_t staller = served_child(&p->served, hostile_stall, NULL);
        usleep(50000);
        with[i] = p99_beside(p);
        served_end_child(forger);
        served_end_child(staller);
        usleep(50000);
    }
    const double quiet = bench_median(without, ROUNDS), busy = bench_median(with, ROUNDS);
    bench_figure(bench, "hostile-p99", busy * 1e-3, "us", quiet * 1e-3, busy / quiet);
}

enum { KILLS = 100, IDLE = 100 };

static void sit(const struct served *served, void *context)
{
    struct att_client *client = served_connect(served, false);
    double value, bound;

    (void)context;
    for (;; pause())
        att_query(client, 1, 1, &value, &bound);
}

static uint32_t clients_now(struct peers *p)
{
    struct att_stat stat;

    if (att_get_stat(p->client, &stat) != ATT_OK)
        bench_die("%s", att_last_error(p->client));
    return stat.clients;
}

/* From kill -9 to the moment when the daemon counts one client less. */
static void measure_deaths(const struct bench *bench, struct peers *p)
{
    const uint32_t before = clients_now(p);

    for (uint32_t i = 0; i < KILLS; i++) {
        const pid_t pid = served_child(&p->served, sit, NULL);
        while (clients_now(p) == before)
            usleep(100);
        usleep(1000 * (i % 4)); /* while it asks, and later */
        const double start = bench_now();
        kill(pid, SIGKILL);
        while (clients_now(p) > before)
            ;
        p->samples[i] = bench_now() - start;
        waitpid(pid, NULL, 0);
    }
    bench_figure(bench, "gone", served_quantile(p->samples, KILLS, 0.5) * 1e-6, "ms", NAN, NAN);
    bench_figure(bench, "gone-p99", served_quantile(p->samples, KILLS, 0.99) * 1e-6, "ms", NAN, NAN);
}

/* How often any thread of attnd has been given a processor. */
static uint64_t wakes_of(const struct served *served)
{
    char command[120];
    unsigned long long sum = 0;

    snprintf(command, sizeof command, "cat /proc/%d/task/*/status | awk '/ctxt_switches/ { s += $2 } END { print s }'",
             (int)served->pid);
    FILE *pipe = popen(command, "r");
    if (!pipe || fscanf(pipe, "%llu", &sum) != 1)
        bench_die("cannot read /proc/%d/task", (int)served->pid);
    pclose(pipe);
    return sum;
}

static void measure_idling(const struct bench *bench, struct peers *p)
{
    struct att_client *idle[IDLE];
    double value, bound;

    for (uint32_t i = 0; i < IDLE; i++) {
        idle[i] = served_connect(&p->served, false);
        if (att_query(idle[i], i, 1, &value, &bound) != ATT_OK)
            bench_die("%s", att_last_error(idle[i]));
    }
    usleep(500000);
    const uint64_t before = wakes_of(&p->served);
    sleep(bench->quick ? 3 : 10);
    bench_figure(bench, "idle", (double)(wakes_of(&p->served) - before), bench->quick ? "wakes/3s" : "wakes/10s", NAN,
                 NAN);
    for (uint32_t i = 0; i < IDLE; i++)
        att_close(idle[i]);
}

void suite_ipc(const struct bench *bench)
{
    static struct peers peers;
    struct att_engine_options options = rig_options(N_Q, N_K, D);
    const int niceness = getpriority(PRIO_PROCESS, 0);

    setpriority(PRIO_PROCESS, 0, 0); /* the rings' clients are not the merge thread's equals; needs a right to work */
    options.log_capacity = LOG;
    served_start(&peers.served, N_Q, N_K, D, LOG);
    peers.client = served_connect(&peers.served, false);
    peers.random.state = 5;
    rig_create_held(&peers.rig, &options, 1);
    served_pin(0, 0);
    served_pin(peers.served.pid, 1); /* its main thread: the service */
    measure_trips(bench, &peers);
    measure_pipelined(bench, &peers);
    measure_merges(bench, &peers, "merge-p99", DEPTH);
    measure_merges(bench, &peers, "merge-p99-large", 256);
    measure_hostile(bench, &peers);
    measure_deaths(bench, &peers);
    measure_idling(bench, &peers);
    served_pin(0, -1);
    rig_release(&peers.rig);
    att_close(peers.client);
    served_stop(&peers.served);
    setpriority(PRIO_PROCESS, 0, niceness);
}
