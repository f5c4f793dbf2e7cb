/* attnd ends when it is told to, whatever its clients do meanwhile. */
#include "test_ipc_raw.h"

#include "daemon.h"

/* Everything over so many tokens takes some tenths of a second. */
#if defined(ATTND_ASAN) || defined(ATTND_TSAN)
enum { MANY = 500 };
#else
enum { MANY = 8000 };
#endif

static void write_arrays_and_start(struct daemon *daemon, unsigned rows, unsigned tokens, unsigned columns)
{
    daemon_init(daemon);
    daemon_write_arrays(daemon, rows, tokens, 4, columns, 3);
    assert_true(daemon_start_new(daemon, NULL));
}

/* Its exit code when it ends within so many seconds; else it is killed, and -1. */
static int ends_within(struct daemon *daemon, double seconds)
{
    int status = -1;
    for (double waited = 0; waited < seconds; waited += 0.01) {
#ifdef ATTND_TSAN
        kill(daemon->pid, SIGTERM); /* the thread sanitizer was seen to keep one back for ever */
#endif
        if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid) {
            daemon->pid = 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        usleep(10000);
    }
    return -1;
}

/* An answer is computed, and before it can go out its reader breaks the protocol: that must be noticed now too. */
static void a_client_that_lies_during_the_end_does_not_hold_it_up(void **state)
{
    (void)state;
    struct daemon daemon;
    struct service service;
    struct raw raw;
    write_arrays_and_start(&daemon, 20000, MANY, 64);
    snprintf(service.socket, sizeof service.socket, "%.99s", daemon.socket);
    raw_open(&service, &raw);
    struct att_wire_request all = ping(&raw);
    all.type = ATT_REQ_ALL;
    raw_send(&raw, &all, 0);
    usleep(30000); /* it is taken */
    kill(daemon.pid, SIGTERM);
    usleep(30000);
    atomic_store(&raw.channel.control->reply_tail, UINT64_MAX / 2);
    assert_int_equal(ends_within(&daemon, 8), 0); /* one that does nothing has 10 s */
    raw_close(&raw);
    daemon_release(&daemon);
}

static void any_number_of_signals_end_it_in_order(void **state)
{
    (void)state;
    struct daemon daemon;
    write_arrays_and_start(&daemon, 10, 10, 4);
    for (int i = 0; i < 20; i++) {
        int status;
        while (waitpid(daemon.pid, &status, WNOHANG) == 0) {
            kill(daemon.pid, SIGTERM);
            usleep(50);
        }
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        assert_true(daemon_start(&daemon, NULL));
    }
    kill(daemon.pid, SIGTERM);
    assert_int_equal(ends_within(&daemon, 30), 0);
    daemon_release(&daemon);
}

int main(void)
{
    if (!daemon_has("attnd")) {
        printf("skipped: attnd is not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_that_lies_during_the_end_does_not_hold_it_up),
        cmocka_unit_test(any_number_of_signals_end_it_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
