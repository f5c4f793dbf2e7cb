/* Exactly once: programs that add to entries of K and V through sessions, while attnd is killed, they are killed, and
 * both, in any order, with snapshots and trims in between; under each durability.
 *
 * Update number n of a program is a function of n. A program that starts again goes on behind what att_get_session tells.
 * In the end each entry must hold the sum of exactly the updates 1 to the last, and each append must be there once. */
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
#include <unistd.h>

#include <cmocka.h>

#include "attn.h"
#include "daemon.h"
#include "npyload.h"
#include "random.h"

enum { PROGRAMS = 3, OWN = 4, TOKENS = PROGRAMS * OWN, N_Q = 4, D = 3, D_V = 5, CAPACITY = 20000, DEPTH = 300 };
enum { APPEND_EVERY = 97 };

struct shared {
    atomic_bool stop;
    atomic_ullong last[PROGRAMS]; /* told by a program at its end */
    atomic_ullong begun[PROGRAMS];
    char socket[128];
};

static struct shared *shared;
static const char *durability;

/* ---- What a program does ------------------------------------------------------------------------------ */

struct step {
    bool append, key;
    uint32_t token, column;
    double delta;
};

static struct step step_of(int who, uint64_t n)
{
    uint64_t bits = n * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)who << 60;
    /* What an acknowledged append that was lost under interval and off was told cannot be had again if another program
     * appends meanwhile: ATT_LOST. */
    bool may_append = who == 0 || strcmp(durability, "always") == 0;
    return (struct step){.append = may_append && n % APPEND_EVERY == 0,
                         .key = bits >> 33 & 1,
                         .token = (uint32_t)who * OWN + (uint32_t)(bits >> 34) % OWN,
                         .column = (uint32_t)(bits >> 40) % D,
                         .delta = (double)(int)(bits >> 50 & 31) - 15.5};
}

static enum att_status submit(struct att_client *client, int who, uint64_t n)
{
    struct step step = step_of(who, n);
    const float key[D] = {0.5f, 0, 0};
    const float value[D_V] = {(float)(who + 1), (float)(n / APPEND_EVERY), 0, 0, 0};
    struct att_request request = {.type = step.append ? ATT_REQ_APPEND
                                          : step.key  ? ATT_REQ_UPDATE_K
                                                      : ATT_REQ_UPDATE_V,
                                  .index = step.token,
                                  .column = step.column,
                                  .number = step.delta,
                                  .tag = n};
    if (step.append) {
        request.key = key;
        request.value = value;
    }
    return att_submit(client, &request);
}

static _Noreturn void fail_program(const struct att_client *client, const char *what, enum att_status status)
{
    fprintf(stderr, "%s: %s: %s\n", what, att_status_name(status), client ? att_last_error(client) : "");
    _exit(3);
}

/* In order, each with ATT_OK: nothing may end with "may or may not have taken effect". */
static void take(struct att_client *client, uint64_t *completed, uint32_t timeout_ms)
{
    struct att_completion done[64];
    int count = att_complete(client, done, 64, timeout_ms);
    if (count < 0)
        fail_program(client, "att_complete", ATT_ECLOSED);
    for (int i = 0; i < count; i++) {
        if (done[i].status != ATT_OK)
            fail_program(client, "an update", done[i].status);
        if (done[i].tag != *completed + 1)
            fail_program(client, "an update completed out of order", ATT_EPROTOCOL);
        (*completed)++;
    }
}

static struct att_client *connect_program(int who)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    for (int tries = 0; tries < 10000; tries++, usleep(2000)) {
        const struct att_connect_options options = {.socket = shared->socket,
                                                    .session = 1000 + (uint64_t)who,
                                                    .resume = atomic_load(&shared->begun[who]) > 0};
        enum att_status status = att_connect(&options, &client, &error);
        if (status == ATT_OK)
            return client;
        if (status != ATT_ENOENT && status != ATT_ECLOSED && status != ATT_ETIMEOUT && status != ATT_AGAIN)
            break;
    }
    fprintf(stderr, "program %d cannot connect: %s\n", who, error.text);
    _exit(4);
}

static _Noreturn void run_program(int who)
{
    struct att_client *client = connect_program(who);
    struct att_session_info session;
    att_get_session(client, &session);
    atomic_store(&shared->begun[who], 1);
    uint64_t completed = session.begin, n = session.begin;
    while (!atomic_load(&shared->stop)) {
        enum att_status status = submit(client, who, n + 1);
        if (status == ATT_OK)
            n++;
        else if (status != ATT_EBUSY && status != ATT_ECLOSED)
            fail_program(client, "att_submit", status);
        if (status != ATT_OK || n % 16 == 0)
            take(client, &completed, status == ATT_EBUSY);
        while (att_in_flight(client) >= DEPTH)
            take(client, &completed, 100);
        if (n % 64 == 0)
            usleep(500); /* the point is the crashes; room is for so many appends only */
    }
    while (att_in_flight(client) > 0)
        take(client, &completed, 100);
    enum att_status status;
    while ((status = att_flush(client)) != ATT_OK)
        if (status != ATT_ECLOSED && status != ATT_ETIMEOUT)
            fail_program(client, "att_flush", status);
    att_get_session(client, &session);
    if (completed != n || session.last != n)
        fail_program(client, "the numbers do not fit", ATT_EPROTOCOL);
    atomic_store(&shared->last[who], n);
    _exit(0);
}

/* ---- What happens to them ----------------------------------------------------------------------------- */

static pid_t start_program(int who)
{
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_program(who);
    }
    return pid;
}

static void kill_program(pid_t *pid, int who)
{
    int how = 0;
    kill(*pid, SIGKILL);
    waitpid(*pid, &how, 0);
    if (!WIFSIGNALED(how))
        fail_msg("program %d had ended by itself: wait status %#x", who, (unsigned)how);
    *pid = 0;
}

static void restart(struct daemon *daemon)
{
    const char *arguments[] = {"--durability", durability, "--log-capacity", "256", NULL};
    if (!daemon_start(daemon, arguments))
        fail_msg("attnd does not start again");
}

static void take_snapshots(const struct daemon *daemon, uint32_t count)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = daemon->socket};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("att_connect: %s", error.text);
    for (uint32_t i = 0; i < count; i++)
        if (att_snapshot(client) != ATT_OK)
            fail_msg("att_snapshot: %s", att_last_error(client));
    att_close(client);
}

/* One crash, of whom chance will have it. */
static void crash(struct daemon *daemon, pid_t programs[PROGRAMS], struct test_random *random)
{
    uint32_t what = random_below(random, 4);
    int who = (int)random_below(random, PROGRAMS);
    usleep(random_below(random, 60000));
    if (what == 0) {
        take_snapshots(daemon, 1 + random_below(random, 3));
        usleep(random_below(random, 20000));
    }
    if (what == 1 || what == 3)
        kill_program(&programs[who], who);
    if (what != 1) {
        assert_true(WIFSIGNALED(daemon_stop(daemon, SIGKILL)));
        if (random_one_in(random, 2))
            usleep(random_below(random, 80000));
    }
    if (programs[who] == 0 && random_one_in(random, 2))
        programs[who] = start_program(who); /* before the daemon */
    if (daemon->pid == 0)
        restart(daemon);
    if (programs[who] == 0)
        programs[who] = start_program(who);
}

static void wait_for_programs(pid_t programs[PROGRAMS])
{
    for (int who = 0; who < PROGRAMS; who++) {
        int how = 0;
        for (int tries = 0; waitpid(programs[who], &how, WNOHANG) == 0; tries++, usleep(1000))
            if (tries > 60000)
                fail_msg("program %d does not end", who);
        if (!WIFEXITED(how) || WEXITSTATUS(how) != 0)
            fail_msg("program %d ended with wait status %#x", who, (unsigned)how);
    }
}

static void check_appends(const struct npy *v, int who, uint64_t last)
{
    uint32_t times[CAPACITY] = {0}, found = 0;
    for (uint64_t t = TOKENS; t < v->rows; t++) {
        const float *value = npy_floats(v) + t * D_V;
        if (value[0] == (float)(who + 1)) {
            times[(uint32_t)value[1]]++;
            found++;
        }
    }
    if (who > 0 && strcmp(durability, "always") != 0)
        last = 0;
    for (uint64_t i = 1; i <= last / APPEND_EVERY; i++)
        if (times[i] != 1)
            fail_msg("append %llu of program %d is there %u times", (unsigned long long)i, who, times[i]);
    assert_int_equal(found, last / APPEND_EVERY);
}

static uint64_t check_sums(const struct daemon *daemon)
{
    char directory[200], text[4000];
    uint64_t total = 0;
    snprintf(directory, sizeof directory, "%s/dump", daemon->root);
    mkdir(directory, 0700);
    const char *arguments[] = {daemon->dir, "dump", directory, NULL};
    if (daemon_run("attninspect", arguments, text, sizeof text) != 0)
        fail_msg("attninspect dump: %s", text);
    struct npy k = npy_load(directory, "K.npy"), v = npy_load(directory, "V.npy");
    for (int who = 0; who < PROGRAMS; who++) {
        double keys[TOKENS][D] = {0}, values[TOKENS][D_V] = {0};
        uint64_t last = atomic_load(&shared->last[who]);
        total += last;
        for (uint64_t n = 1; n <= last; n++) {
            struct step step = step_of(who, n);
            if (!step.append)
                *(step.key ? &keys[step.token][step.column] : &values[step.token][step.column]) += step.delta;
        }
        for (uint32_t t = (uint32_t)who * OWN; t < (uint32_t)(who + 1) * OWN; t++)
            for (uint32_t c = 0; c < D; c++)
                if ((double)npy_floats(&k)[t * D + c] != keys[t][c] ||
                    (double)npy_floats(&v)[t * D_V + c] != values[t][c])
                    fail_msg("%s: program %d, %llu updates: token %u, column %u: K %g, V %g; the sums are %g and %g",
                             durability, who, (unsigned long long)last, t, c, (double)npy_floats(&k)[t * D + c],
                             (double)npy_floats(&v)[t * D_V + c], keys[t][c], values[t][c]);
        check_appends(&v, who, last);
    }
    npy_release(&k);
    npy_release(&v);
    return total;
}

static void create(struct daemon *daemon)
{
    static float zeros[TOKENS * (D + D_V)];
    char q[200], k[200], v[200];
    daemon_init(daemon);
    snprintf(q, sizeof q, "%s/Q.npy", daemon->root);
    snprintf(k, sizeof k, "%s/K.npy", daemon->root);
    snprintf(v, sizeof v, "%s/V.npy", daemon->root);
    npy_save(q, zeros, N_Q, D);
    npy_save(k, zeros, TOKENS, D);
    npy_save(v, zeros, TOKENS, D_V);
    const char *arguments[] = {
        "--q", q, "--k", k, "--v", v, "--durability", durability, "--log-capacity", "256", "--capacity", "20000", NULL};
    assert_true(daemon_start(daemon, arguments));
}

static void run(const char *mode, uint32_t crashes)
{
    struct daemon daemon;
    struct test_random random;
    pid_t programs[PROGRAMS];
    if (!daemon_has("attnd") || !daemon_has("attninspect"))
        skip();
    random_seed(&random, 71, mode);
    durability = mode;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    create(&daemon);
    snprintf(shared->socket, sizeof shared->socket, "%s", daemon.socket);
    for (int who = 0; who < PROGRAMS; who++)
        programs[who] = start_program(who);
    for (uint32_t i = 0; i < crashes; i++)
        crash(&daemon, programs, &random);
    atomic_store(&shared->stop, true);
    wait_for_programs(programs);
    assert_true(WIFSIGNALED(daemon_stop(&daemon, SIGKILL)));
    uint64_t total = check_sums(&daemon);
    print_message("--durability %s: %u crashes, %llu updates; lost: 0, twice: 0\n", mode, crashes,
                  (unsigned long long)total);
    assert_true(total > 100);
    daemon_release(&daemon);
    munmap(shared, sizeof *shared);
}

static void once_under_always(void **state)
{
    (void)state;
    run("always", test_is_long() ? 150 : 12);
}

static void once_under_interval(void **state)
{
    (void)state;
    run("interval:30", test_is_long() ? 150 : 12);
}

static void once_without_a_log(void **state)
{
    (void)state;
    run("off", test_is_long() ? 60 : 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(once_under_always),
        cmocka_unit_test(once_under_interval),
        cmocka_unit_test(once_without_a_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
