/* Clients that die, stall or do nothing, beside others that must not notice. */
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "attn.h"
#include "daemon.h"
#include "random.h"

enum { N_Q = 12, TOKENS = 60, D = 8, D_V = 6 };

static struct daemon daemon_process;

static const char *const *creation(void)
{
    static char q[200], k[200], v[200];
    static const char *arguments[] = {"--q", q, "--k", k, "--v", v, "--log-capacity", "256", NULL};
    snprintf(q, sizeof q, "%s/Q.npy", daemon_process.root);
    snprintf(k, sizeof k, "%s/K.npy", daemon_process.root);
    snprintf(v, sizeof v, "%s/V.npy", daemon_process.root);
    return arguments;
}

static int setup(void **state)
{
    (void)state;
    daemon_init(&daemon_process);
    daemon_write_arrays(&daemon_process, N_Q, TOKENS, D, D_V, 5);
    return daemon_start(&daemon_process, creation()) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    daemon_release(&daemon_process);
    return 0;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static struct att_client *connected(void)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = daemon_process.socket};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("att_connect: %s: %s", att_status_name(error.status), error.text);
    return client;
}

static void succeeded(struct att_client *client, enum att_status status, const char *what)
{
    if (status != ATT_OK)
        fail_msg("%s: %s: %s", what, att_status_name(status), att_last_error(client));
}

/* A well-behaved client's work for a while; returns the longest time that one call took. */
static double work(struct att_client *client, double duration)
{
    double end = seconds() + duration, longest = 0;
    for (uint32_t n = 0; seconds() < end; n++) {
        double begin = seconds(), value, bound;
        succeeded(client, att_update_v(client, n % TOKENS, n % D_V, 0.5), "update-v");
        succeeded(client, att_query(client, n % N_Q, n % D_V, &value, &bound), "query");
        assert_true(isfinite(value) && bound >= 0);
        longest = fmax(longest, seconds() - begin);
    }
    return longest;
}

/* A child that submits without end and rarely reads replies; stops itself after `updates` when that is not 0. */
static pid_t start_flood(uint32_t updates)
{
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = daemon_process.socket};
    if (att_connect(&options, &client, NULL) != ATT_OK)
        _exit(5);
    static const float key[D] = {1}, value[D_V] = {2};
    for (uint32_t n = 1;; n++) {
        const struct att_request request = {
            .type = ATT_REQ_SET_TOKEN, .index = n % TOKENS, .key = key, .value = value, .tag = n};
        enum att_status status = att_submit(client, &request);
        if (status == ATT_EBUSY) {
            struct att_completion completions[32];
            if (att_complete(client, completions, 32, 100) < 0)
                _exit(0);
        } else if (status != ATT_OK) {
            _exit(0);
        }
        if (n == updates) {
            att_push(client);
            raise(SIGSTOP);
        }
    }
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static uint32_t clients_now(struct att_client *client)
{
    struct att_stat stat;
    succeeded(client, att_get_stat(client, &stat), "stat");
    return stat.clients;
}

static void clients_killed_while_they_submit_disturb_nobody(void **state)
{
    (void)state;
    struct test_random random;
    random_seed(&random, 71, "killed clients");
    struct att_client *client = connected();
    double longest = 0;
    for (uint32_t n = 0; n < (test_is_long() ? 200u : 20u); n++) {
        pid_t flood = start_flood(0);
        longest = fmax(longest, work(client, 0.01 + 0.1 * random_unit(&random)));
        usleep(random_below(&random, 2000));
        end_child(flood);
        longest = fmax(longest, work(client, 0.01));
    }
    print_message("the longest call took %.1f ms\n", 1e3 * longest);
    assert_true(longest < 3);
    double end = seconds() + 10;
    while (clients_now(client) > 1 && seconds() < end)
        usleep(10000);
    assert_int_equal(clients_now(client), 1);
    att_close(client);
}

static void a_stopped_client_disturbs_nobody(void **state)
{
    (void)state;
    struct att_client *client = connected();
    pid_t stopped[3];
    for (int i = 0; i < 3; i++)
        stopped[i] = start_flood(i == 0 ? 1 : i == 1 ? 50 : 100000);
    usleep(300000);
    kill(stopped[2], SIGSTOP);
    double longest = work(client, test_is_long() ? 15 : 2);
    print_message("the longest call took %.1f ms\n", 1e3 * longest);
    assert_true(longest < 3);
    struct att_client *late = connected();
    work(late, 0.1);
    att_close(late);
    for (int i = 0; i < 3; i++)
        kill(stopped[i], SIGCONT);
    work(client, 0.3);
    for (int i = 0; i < 3; i++)
        end_child(stopped[i]);
    att_close(client);
}

/* How often any thread of the daemon has been given a processor; `all`: the service thread too, which is the first. */
static long wakes(bool all)
{
    char command[200];
    long sum = -1;
    snprintf(
        command, sizeof command,
        "cd /proc/%d/task && cat $(ls | grep -vx '%d' | sed 's|$|/status|') | awk '/ctxt_switches/ { s += $2 } END "
        "{ print s }'",
        (int)daemon_process.pid, all ? 0 : (int)daemon_process.pid);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%ld", &sum), 1);
    pclose(pipe);
    return sum;
}

static void an_idle_daemon_uses_no_cpu(void **state)
{
    (void)state;
#ifdef ATTND_TSAN
    skip(); /* it has a thread of its own, which wakes up ten times a second */
#endif
    enum { IDLE = 100 };
    struct att_client *clients[IDLE];
    for (int i = 0; i < IDLE; i++) {
        clients[i] = connected();
        work(clients[i], 0.002);
    }
    sleep(1); /* rows are refreshed in the background, once */
    const long ticks = daemon_cpu_ticks(daemon_process.pid), before = wakes(true);
    sleep(test_is_long() ? 10 : 2);
    const long after = wakes(true), used = daemon_cpu_ticks(daemon_process.pid) - ticks;
    print_message("beside %d idle clients: %ld wake-ups, %ld ticks\n", IDLE, after - before, used);
    assert_int_equal(after - before, 0);
    assert_true(ticks >= 0 && used == 0);
    for (int i = 0; i < IDLE; i++)
        att_close(clients[i]);
}

/* A thread that wakes up for nothing takes the processor from the service: 13 us for a query that takes one. */
static void queries_wake_no_other_thread(void **state)
{
    (void)state;
    struct att_client *client = connected();
    double value, bound;
    work(client, 0.1);
    succeeded(client, att_merge(client), "merge");
    succeeded(client, att_flush(client), "flush");
    for (uint32_t i = 0; i < N_Q; i++)
        succeeded(client, att_query(client, i, 0, &value, &bound), "query");
    usleep(300000);
    const long before = wakes(false);
    for (uint32_t i = 0; i < 5000; i++)
        succeeded(client, att_query(client, i % N_Q, i % D_V, &value, &bound), "query");
    const long after = wakes(false);
    print_message("%ld wake-ups of other threads for 5000 queries\n", after - before);
    assert_true(after - before < 20);
    att_close(client);
}

/* The first thread serves; who merges runs at nice 5 and, as SCHED_BATCH, takes no processor from others when it is woken. */
static void merging_runs_below_the_request_path(void **state)
{
    (void)state;
    char command[200];
    int batch = -1;
    struct att_client *client = connected();
    work(client, 0.1);
    succeeded(client, att_merge(client), "merge");
    snprintf(command, sizeof command, "cat /proc/%d/task/*/stat | awk '$19 == 5 && $41 == 3' | wc -l",
             (int)daemon_process.pid);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &batch), 1);
    pclose(pipe);
    assert_true(batch >= 1);
    assert_int_equal(sched_getscheduler(daemon_process.pid), SCHED_OTHER);
    att_close(client);
}

static void clients_notice_that_the_daemon_is_gone(void **state)
{
    (void)state;
    struct att_client *client = connected();
    double value, bound;
    succeeded(client, att_query(client, 0, 0, &value, &bound), "query");
    daemon_stop(&daemon_process, SIGKILL);
    double begin = seconds();
    assert_int_equal(att_query(client, 0, 0, &value, &bound), ATT_ECLOSED);
    assert_true(strlen(att_last_error(client)) > 0);
    assert_true(seconds() - begin < 5);
    att_close(client);
    struct att_error error = {0};
    const struct att_connect_options options = {.socket = daemon_process.socket, .timeout_ms = 2000};
    assert_int_equal(att_connect(&options, &client, &error), ATT_ENOENT);
    assert_true(strlen(error.text) > 0);
}

static void a_clean_stop_and_start_changes_no_answer(void **state)
{
    (void)state;
    static const char *const none[] = {NULL};
    double before[N_Q][D_V], after[D_V], before_bounds[N_Q], bound;
    struct att_client *client = connected();
    work(client, 0.3);
    uint32_t token = 0;
    static const float key[D] = {1, 2, 3}, value[D_V] = {4, 5, 6};
    succeeded(client, att_delete(client, 7), "delete");
    succeeded(client, att_append(client, key, value, &token), "append");
    assert_int_equal(token, 7);
    for (uint32_t i = 0; i < N_Q; i++)
        succeeded(client, att_row(client, i, before[i], &before_bounds[i]), "row");
    struct att_stat stat, again;
    succeeded(client, att_get_stat(client, &stat), "stat");
    att_close(client);
    int status = daemon_stop(&daemon_process, SIGTERM);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("attnd did not exit with 0 after SIGTERM: wait status %#x", (unsigned)status);
    assert_true(daemon_start(&daemon_process, none));
    client = connected();
    succeeded(client, att_get_stat(client, &again), "stat");
    assert_int_equal(again.lsn, stat.lsn);
    assert_int_equal(again.tokens, stat.tokens);
    assert_int_equal(again.incarnation, stat.incarnation + 1);
    assert_string_equal(again.state, "serving");
    for (uint32_t i = 0; i < N_Q; i++) {
        succeeded(client, att_row(client, i, after, &bound), "row");
        for (uint32_t j = 0; j < D_V; j++)
            assert_true(fabs(after[j] - before[i][j]) <= bound + before_bounds[i]);
    }
    att_close(client);
}

int main(void)
{
    if (!daemon_has("attnd")) {
        printf("skipped: attnd is not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(clients_killed_while_they_submit_disturb_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stopped_client_disturbs_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(an_idle_daemon_uses_no_cpu, setup, teardown),
        cmocka_unit_test_setup_teardown(queries_wake_no_other_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(merging_runs_below_the_request_path, setup, teardown),
        cmocka_unit_test_setup_teardown(clients_notice_that_the_daemon_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(a_clean_stop_and_start_changes_no_answer, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
