/* What a user that --allow-uid lets in may do: all that clients do, but not end the daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attn.h"
#include "daemon.h"

enum { GUEST = 12345, STRANGER = 12346, OTHER = 1234, FAILED = 100 };

static struct daemon attnd;
static uint64_t session; /* to connect with; 0: none */

static void start(uid_t user)
{
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, 2, 6, 2, 2, 3);
    const char *const arguments[] = {"--allow-uid", "12345", NULL};
    assert_int_equal(chmod(attnd.root, 0711), 0);
    assert_int_equal(chown(attnd.root, user, (gid_t)-1), 0);
    assert_int_equal(setresuid(user, user, 0), 0); /* the daemon loses the saved one as it starts */
    assert_true(daemon_start_new(&attnd, arguments));
    assert_int_equal(setresuid(0, 0, 0), 0);
}

/* The status of what this user's client gets, in a process of its own. */
static int as(uid_t user, enum att_status (*ask)(struct att_client *client))
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        struct att_client *client;
        const struct att_connect_options options = {.socket = attnd.socket, .session = session};
        if (setuid(user) != 0)
            _exit(FAILED);
        enum att_status got = att_connect(&options, &client, NULL);
        if (got == ATT_OK) {
            got = ask(client);
            if (got == ATT_EPERM && !strstr(att_last_error(client), "only user"))
                _exit(FAILED);
        }
        _exit((int)got);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static enum att_status use(struct att_client *client)
{
    static const float row[2] = {1, 2};
    double value, bound;
    struct att_stat stat;
    enum att_status status = att_set_v(client, 3, row);
    if (status == ATT_OK)
        status = att_query(client, 1, 1, &value, &bound);
    if (status == ATT_OK)
        status = att_merge(client);
    if (status == ATT_OK)
        status = att_snapshot(client);
    if (status == ATT_OK)
        status = att_flush(client);
    return status == ATT_OK ? att_get_stat(client, &stat) : status;
}

static void check(uid_t user)
{
    start(user);
    assert_int_equal(as(STRANGER, use), ATT_EPERM);
    assert_int_equal(as(GUEST, use), ATT_OK);
    assert_int_equal(as(GUEST, att_shutdown), ATT_EPERM);
    assert_int_equal(as(0, use), ATT_OK); /* it is still there */
    assert_int_equal(as(0, att_shutdown), ATT_OK);
    assert_int_equal(daemon_stop(&attnd, 0), 0);
    daemon_release(&attnd);
}

static void a_guest_does_not_end_it(void **unused)
{
    (void)unused;
    check(0);
}

/* Connects as often as it can, says so, and keeps that until it is told to end. */
static _Noreturn void crowd(int say, int listen)
{
    struct rlimit limit;
    struct att_client *client;
    const struct att_connect_options options = {.socket = attnd.socket};
    enum att_status status = ATT_OK;
    char byte = 0;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        _exit(FAILED);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || setuid(GUEST) != 0)
        _exit(FAILED);
    for (int i = 0; i < 2000 && status == ATT_OK; i++)
        status = att_connect(&options, &client, NULL);
    if (status != ATT_EBUSY || write(say, &byte, 1) != 1 || read(listen, &byte, 1) != 0)
        _exit(FAILED);
    _exit(0);
}

static void guests_leave_room_for_the_owner(void **unused)
{
    (void)unused;
    int to[2], from[2], status;
    char byte;
    start(0);
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        close(to[1]);
        crowd(from[1], to[0]);
    }
    assert_int_equal(read(from[0], &byte, 1), 1);
    assert_int_equal(as(GUEST, use), ATT_EBUSY);
    assert_int_equal(as(0, use), ATT_OK);
    close(to[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(to[0]);
    close(from[0]);
    close(from[1]);
    daemon_release(&attnd);
}

/* Also not who runs the daemon. */
static void nobody_has_a_session_of_another_user(void **unused)
{
    (void)unused;
    start(0);
    session = 7;
    assert_int_equal(as(GUEST, use), ATT_OK);
    assert_int_equal(as(0, use), ATT_EPERM);
    assert_int_equal(as(GUEST, use), ATT_OK);
    session = 0;
    daemon_release(&attnd);
}

static void root_ends_another_users(void **unused)
{
    (void)unused;
    char program[4096];
    daemon_program("attnd", program, sizeof program);
    assert_int_equal(seteuid(OTHER), 0);
    const bool runs = faccessat(AT_FDCWD, program, X_OK, AT_EACCESS) == 0;
    assert_int_equal(seteuid(0), 0);
    if (!runs)
        skip(); /* built where only root can read */
    check(OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_does_not_end_it),
        cmocka_unit_test(guests_leave_room_for_the_owner),
        cmocka_unit_test(nobody_has_a_session_of_another_user),
        cmocka_unit_test(root_ends_another_users),
    };
    if (!daemon_has("attnd") || geteuid() != 0)
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
