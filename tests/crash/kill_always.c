/* attnd under --durability always, killed with SIGKILL again and again: while two clients write through it, mostly with
 * one snapshot after the other (and so with deleted generations and a log that is trimmed), and while it recovers.
 *
 * Each client owns its tokens and numbers its updates. After each kill the state on disk must be, for each client,
 * what it had after some prefix of its updates, and that prefix must hold every update that was acknowledged. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "attn.h"
#include "daemon.h"
#include "npyload.h"
#include "oracle.h"
#include "random.h"

enum { CLIENTS = 2, OWN = 16, TOKENS = CLIENTS * OWN, N_Q = 8, D = 4, D_V = 4, DEPTH = 200 };

/* What a client's tokens hold: key[0] and value[0] the number of the last replacement, value[1] how many single entries
 * were added. */
struct owned {
    float last[OWN], added[OWN];
};

struct shared {
    atomic_uint sent[CLIENTS], acknowledged[CLIENTS];
};

/* Update number `sequence` of a client: every fifth adds 1 to an entry, which shows if it is applied twice. */
static void step(struct owned *owned, uint32_t sequence)
{
    uint32_t token = sequence % OWN;
    if (sequence % 5 == 4)
        owned->added[token] += 1;
    else
        owned->last[token] = (float)sequence;
}

static enum att_status submit_step(struct att_client *client, int who, struct owned *owned, uint32_t sequence)
{
    uint32_t token = sequence % OWN;
    step(owned, sequence);
    float last = owned->last[token];
    const float key[D] = {last, 0.5f, -0.25f, (float)token / OWN};
    const float value[D_V] = {last, owned->added[token], (float)token, 1};
    struct att_request request = {.index = (uint32_t)who * OWN + token, .tag = sequence};
    if (sequence % 5 == 4) {
        request.type = ATT_REQ_UPDATE_V;
        request.column = 1;
        request.number = 1;
    } else {
        request.type = ATT_REQ_SET_TOKEN;
        request.key = key;
        request.value = value;
    }
    return att_submit(client, &request);
}

static _Noreturn void leave(int who, const char *why, int code)
{
    if (code)
        fprintf(stderr, "client %d: %s\n", who, why);
    _exit(code);
}

/* Takes completions; false when the daemon has gone. Within a session they come in order. */
static bool take_completions(struct att_client *client, int who, struct shared *shared, uint32_t timeout_ms)
{
    struct att_completion completions[64];
    int count = att_complete(client, completions, 64, timeout_ms);
    for (int i = 0; i < count; i++) {
        const struct att_completion *done = &completions[i];
        if (done->status == ATT_ECLOSED)
            return false;
        if (done->status != ATT_OK)
            leave(who, att_status_name(done->status), 3);
        if (done->tag != atomic_load(&shared->acknowledged[who]) + 1)
            leave(who, "an acknowledgement out of order", 4);
        atomic_store(&shared->acknowledged[who], (unsigned)done->tag);
    }
    return count >= 0;
}

static _Noreturn void write_until_gone(const char *socket, int who, struct shared *shared, struct owned owned)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = socket, .stay_closed = true};
    if (att_connect(&options, &client, &error) != ATT_OK) /* it may be dead already */
        leave(who, error.text, error.status == ATT_ENOENT || error.status == ATT_ECLOSED ? 0 : 5);
    for (uint32_t sequence = atomic_load(&shared->acknowledged[who]) + 1;; sequence++) {
        struct owned before = owned;
        atomic_store(&shared->sent[who], sequence);
        enum att_status status = submit_step(client, who, &owned, sequence);
        while (status == ATT_EBUSY) {
            if (!take_completions(client, who, shared, 1000))
                leave(who, "", 0);
            owned = before;
            status = submit_step(client, who, &owned, sequence);
        }
        if (status == ATT_ECLOSED)
            break;
        if (status != ATT_OK)
            leave(who, att_status_name(status), 6);
        if (sequence % 16 == 0 && !take_completions(client, who, shared, 0))
            break;
        while (att_in_flight(client) >= DEPTH)
            if (!take_completions(client, who, shared, 1000))
                leave(who, "", 0);
    }
    take_completions(client, who, shared, 0);
    leave(who, "", 0);
}

static pid_t start_client(const char *socket, int who, struct shared *shared, const struct owned *owned)
{
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        write_until_gone(socket, who, shared, *owned);
    }
    return pid;
}

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void wait_for_client(pid_t pid, int who)
{
    int status = 0;
    for (int tries = 0; waitpid(pid, &status, WNOHANG) == 0; tries++) {
        if (tries > 20000) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            fail_msg("client %d did not notice within 20 s that the daemon is gone", who);
        }
        usleep(1000);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("client %d ended with wait status %#x", who, (unsigned)status);
}

/* Takes one snapshot after the other for `ms`, so that kills fall into them, and into what follows one. Returns how many
 * ended. */
static uint32_t take_snapshots(const char *socket, uint32_t ms)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    struct att_completion done;
    const struct att_connect_options options = {.socket = socket};
    const struct att_request snapshot = {.type = ATT_REQ_SNAPSHOT};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("att_connect: %s", error.text);
    double end = seconds() + 1e-3 * ms;
    uint32_t taken = 0;
    while (seconds() < end) {
        if (att_in_flight(client) == 0)
            assert_int_equal(att_submit(client, &snapshot), ATT_OK);
        double left = 1e3 * (end - seconds());
        int count = att_complete(client, &done, 1, left > 1 ? (uint32_t)left : 1);
        assert_true(count >= 0);
        if (count == 1 && done.status != ATT_OK)
            fail_msg("a snapshot: %s: %s", att_status_name(done.status), att_last_error(client));
        taken += count == 1;
    }
    att_close(client); /* one may be under way */
    return taken;
}

/* Starts attnd and kills it before it is ready, or hardly so. */
static void kill_in_recovery(const struct daemon *daemon, uint32_t us)
{
    char program[4096];
    daemon_program("attnd", program, sizeof program);
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
            _exit(127);
        execl(program, program, "--dir", daemon->dir, "--socket", daemon->socket, "--durability", "always",
              (char *)NULL);
        _exit(127);
    }
    usleep(us);
    kill(pid, SIGKILL);
    int how = 0;
    waitpid(pid, &how, 0);
    if (!WIFSIGNALED(how))
        fail_msg("a start ended by itself: wait status %#x", (unsigned)how);
}

struct dump {
    struct npy q, k, v;
};

static struct dump dump_state(const struct daemon *daemon)
{
    char directory[200], text[4000];
    snprintf(directory, sizeof directory, "%s/dump", daemon->root);
    mkdir(directory, 0700);
    const char *arguments[] = {daemon->dir, "dump", directory, NULL};
    int code = daemon_run("attninspect", arguments, text, sizeof text);
    if (code != 0)
        fail_msg("attninspect dump: exit %d: %s", code, text);
    struct dump dump = {npy_load(directory, "Q.npy"), npy_load(directory, "K.npy"), npy_load(directory, "V.npy")};
    assert_int_equal(dump.k.rows, TOKENS);
    assert_int_equal(dump.v.rows, TOKENS);
    return dump;
}

static void dump_release(struct dump *dump)
{
    npy_release(&dump->q);
    npy_release(&dump->k);
    npy_release(&dump->v);
}

static bool holds(const struct dump *dump, int who, const struct owned *owned)
{
    for (uint32_t t = 0; t < OWN; t++) {
        const float *key = npy_floats(&dump->k) + ((size_t)who * OWN + t) * D;
        const float *value = npy_floats(&dump->v) + ((size_t)who * OWN + t) * D_V;
        if (key[0] != owned->last[t] || value[0] != owned->last[t] || value[1] != owned->added[t])
            return false;
    }
    return true;
}

/* Moves *owned and *sequence on to the prefix that the disk holds; fails when there is none. */
static void find_prefix(const struct dump *dump, int who, const struct shared *shared, struct owned *owned,
                        uint32_t *sequence)
{
    uint32_t acknowledged = atomic_load(&shared->acknowledged[who]), sent = atomic_load(&shared->sent[who]);
    uint32_t before = *sequence;
    while (*sequence < acknowledged)
        step(owned, ++*sequence);
    while (!holds(dump, who, owned)) {
        if (*sequence >= sent) {
            for (uint32_t t = 0; t < OWN; t++)
                print_message("token %u: last %g, added %g\n", t,
                              (double)npy_floats(&dump->v)[((size_t)who * OWN + t) * D_V],
                              (double)npy_floats(&dump->v)[((size_t)who * OWN + t) * D_V + 1]);
            fail_msg("client %d: after %u updates, %u acknowledged and %u sent, the state is that of no prefix", who,
                     before, acknowledged, sent);
        }
        step(owned, ++*sequence);
    }
}

static void check_answers(const struct daemon *daemon, const struct dump *dump)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = daemon->socket};
    const struct oracle_input input = {.n_q = N_Q,
                                       .n_k = TOKENS,
                                       .d = D,
                                       .d_v = D_V,
                                       .q = npy_floats(&dump->q),
                                       .k = npy_floats(&dump->k),
                                       .v = npy_floats(&dump->v),
                                       .scale = 1};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("att_connect: %s", error.text);
    for (uint32_t i = 0; i < N_Q; i++) {
        double values[D_V], bound = 0;
        long double expected[D_V];
        enum att_status status = att_row(client, i, values, &bound);
        if (status != ATT_OK)
            fail_msg("row %u after the restart: %s: %s", i, att_status_name(status), att_last_error(client));
        assert_true(oracle_row(&input, i, expected));
        for (uint32_t j = 0; j < D_V; j++)
            if (!(fabsl(values[j] - expected[j]) <= bound))
                fail_msg("row %u column %u after the restart: %.17g, expected %.17Lg, bound %g", i, j, values[j],
                         expected[j], bound);
    }
    att_close(client);
}

static void write_arrays(const struct daemon *daemon)
{
    static float q[N_Q * D], k[TOKENS * D], v[TOKENS * D_V];
    struct test_random random;
    char path[200];
    random_init(&random, 3);
    random_normals(&random, q, N_Q * D, 1);
    for (uint32_t i = 0; i < N_Q; i++)
        q[i * D] = 0; /* the number in key[0] is no part of any score */
    snprintf(path, sizeof path, "%s/Q.npy", daemon->root);
    npy_save(path, q, N_Q, D);
    snprintf(path, sizeof path, "%s/K.npy", daemon->root);
    npy_save(path, k, TOKENS, D);
    snprintf(path, sizeof path, "%s/V.npy", daemon->root);
    npy_save(path, v, TOKENS, D_V);
}

static void acknowledged_updates_survive_kills(void **state)
{
    (void)state;
    struct daemon daemon;
    struct test_random random;
    struct owned owned[CLIENTS] = {0};
    uint32_t sequence[CLIENTS] = {0}, total = 0;
    char q[200], k[200], v[200];
    if (!daemon_has("attnd") || !daemon_has("attninspect"))
        skip();
    random_seed(&random, 61, "kills");
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    daemon_init(&daemon);
    write_arrays(&daemon);
    snprintf(q, sizeof q, "%s/Q.npy", daemon.root);
    snprintf(k, sizeof k, "%s/K.npy", daemon.root);
    snprintf(v, sizeof v, "%s/V.npy", daemon.root);
    const char *create[] = {"--q", q, "--k", k, "--v", v, "--durability", "always", "--log-capacity", "256", NULL};
    const char *resume[] = {"--durability", "always", "--log-capacity", "256", NULL};
    uint32_t rounds = test_is_long() ? 167 : 9, kills = 0, snapshots = 0; /* three kills a round */
    for (uint32_t round = 0; round < rounds; round++) {
        pid_t clients[CLIENTS];
        assert_true(daemon_start(&daemon, round == 0 ? create : resume));
        for (int who = 0; who < CLIENTS; who++) {
            atomic_store(&shared->sent[who], sequence[who]);
            atomic_store(&shared->acknowledged[who], sequence[who]);
            clients[who] = start_client(daemon.socket, who, shared, &owned[who]);
        }
        uint32_t ms = 20 + random_below(&random, 300);
        if (random_one_in(&random, 4))
            usleep(ms * 1000);
        else
            snapshots += take_snapshots(daemon.socket, ms);
        usleep(random_below(&random, 3000));
        assert_true(WIFSIGNALED(daemon_stop(&daemon, SIGKILL)));
        for (int who = 0; who < CLIENTS; who++)
            wait_for_client(clients[who], who);
        kill_in_recovery(&daemon, random_below(&random, random_one_in(&random, 2) ? 8000 : 60000));
        kills += 3;
        struct dump dump = dump_state(&daemon);
        for (int who = 0; who < CLIENTS; who++) {
            uint32_t before = sequence[who];
            find_prefix(&dump, who, shared, &owned[who], &sequence[who]);
            total += sequence[who] - before;
        }
        if (!daemon_start(&daemon, resume))
            fail_msg("no restart after round %u", round);
        check_answers(&daemon, &dump);
        dump_release(&dump);
        assert_true(WIFSIGNALED(daemon_stop(&daemon, SIGKILL)));
    }
    print_message("%u kills, a third of them in recovery; %u updates, %u snapshots; lost: 0\n", kills, total,
                  snapshots);
    assert_true(snapshots > rounds && total > rounds); /* something was written at all */
    daemon_release(&daemon);
    munmap(shared, sizeof *shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_updates_survive_kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
