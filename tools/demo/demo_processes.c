/* The daemon as a child, what ends the children, and small things that every part needs. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "demo.h"
#include "progress.h"

enum { PATIENCE_MS = 30000, MOST_ARGUMENTS = 16 };

/* Read by the signal handler; 0: none. Children that lose this process get SIGKILL from the kernel. */
static volatile sig_atomic_t daemon_pid, reader_pid;

void demo_stop_children(void)
{
    if (reader_pid > 0) {
        kill((pid_t)reader_pid, SIGKILL);
        waitpid((pid_t)reader_pid, NULL, 0);
        reader_pid = 0;
    }
    if (daemon_pid > 0) {
        kill((pid_t)daemon_pid, SIGKILL);
        waitpid((pid_t)daemon_pid, NULL, 0);
        daemon_pid = 0;
    }
}

void demo_forget_reader(void)
{
    reader_pid = 0;
}

static void stopped(int signal)
{
    demo_stop_children(); /* kill and waitpid: async-signal-safe */
    _exit(128 + signal);
}

void demo_catch_signals(void)
{
    struct sigaction action = {.sa_handler = stopped};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

void demo_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs("attndemo: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    demo_stop_children();
    exit(1);
}

void demo_need(struct att_client *client, enum att_status status, const char *what)
{
    if (status != ATT_OK)
        demo_fail("%s: %s: %s", what, att_status_name(status), att_last_error(client));
}

void *demo_allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        demo_fail("not enough memory for %zu x %zu bytes", count, size);
    return memory;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

double demo_median(uint32_t *nanoseconds, uint32_t count)
{
    if (count == 0)
        demo_fail("nothing was timed");
    qsort(nanoseconds, count, sizeof *nanoseconds, compare);
    return nanoseconds[count / 2];
}

uint32_t demo_random(uint64_t *state, uint32_t limit)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((*state >> 32) * limit >> 32);
}

pid_t demo_fork(bool is_daemon)
{
    pid_t parent = getpid();
    sigset_t all, before;
    fflush(stdout);
    sigfillset(&all); /* no signal between the fork and the note of its pid */
    sigprocmask(SIG_BLOCK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGHUP, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(127);
    } else if (pid > 0 && is_daemon) {
        daemon_pid = pid;
    } else if (pid > 0) {
        reader_pid = pid;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        demo_fail("fork: %s", strerror(errno));
    return pid;
}

static _Noreturn void exec_daemon(const struct daemon *daemon, bool create, int output)
{
    char state[600], log[600], q[4096], k[4096], v[4096];
    const char *arguments[MOST_ARGUMENTS] = {daemon->program, "--dir",        state,   "--socket",
                                             daemon->socket,  "--durability", "always"};
    size_t count = 7;
    snprintf(state, sizeof state, "%s/state", daemon->work);
    snprintf(log, sizeof log, "%s/attnd.log", daemon->work);
    snprintf(q, sizeof q, "%s/Q.npy", daemon->data);
    snprintf(k, sizeof k, "%s/K.npy", daemon->data);
    snprintf(v, sizeof v, "%s/V.npy", daemon->data);
    if (create) {
        const char *more[] = {"--q", q, "--k", k, "--v", v, "--scale", "auto"};
        memcpy(arguments + count, more, sizeof more);
    }
    setpgid(0, 0); /* a Ctrl-C is for the demonstration, which then ends this */
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, STDERR_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0)
        _exit(127);
    char *argv[MOST_ARGUMENTS];
    memcpy(argv, arguments, sizeof argv);
    execv(daemon->program, argv);
    dprintf(STDERR_FILENO, "%s: %s\n", daemon->program, strerror(errno));
    _exit(127);
}

static void print_log(const struct daemon *daemon)
{
    char path[600], line[1000];
    snprintf(path, sizeof path, "%s/attnd.log", daemon->work);
    FILE *log = fopen(path, "r");
    while (log && fgets(line, sizeof line, log))
        fprintf(stderr, "  attnd: %s", line);
    if (log)
        fclose(log);
}

/* Reads until a line that begins with "ready". */
static bool wait_until_ready(int output)
{
    char text[4096];
    size_t length = 0;
    uint64_t end = att_clock_ns() + PATIENCE_MS * UINT64_C(1000000);
    while (att_clock_ns() < end && length < sizeof text - 1) {
        struct pollfd poll_output = {.fd = output, .events = POLLIN};
        if (poll(&poll_output, 1, 200) <= 0)
            continue;
        ssize_t got = read(output, text + length, sizeof text - 1 - length);
        if (got <= 0)
            return false;
        length += (size_t)got;
        text[length] = 0;
        const char *ready = strncmp(text, "ready", 5) == 0 ? text : strstr(text, "\nready");
        if (ready && strchr(ready + 1, '\n'))
            return true;
    }
    return false;
}

void daemon_start(struct daemon *daemon, bool create)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        demo_fail("pipe: %s", strerror(errno));
    uint64_t begin = att_clock_ns();
    daemon->pid = demo_fork(true);
    if (daemon->pid == 0)
        exec_daemon(daemon, create, ends[1]);
    close(ends[1]);
    bool ready = wait_until_ready(ends[0]);
    close(ends[0]);
    daemon->ready_ms = 1e-6 * (double)(att_clock_ns() - begin);
    if (!ready) {
        print_log(daemon);
        demo_fail("attnd did not become ready");
    }
}

void daemon_pause(const struct daemon *daemon)
{
    int status;
    if (kill(daemon->pid, SIGSTOP) != 0 || waitpid(daemon->pid, &status, WUNTRACED) != daemon->pid ||
        !WIFSTOPPED(status))
        demo_fail("attnd does not stop");
}

int daemon_stop(struct daemon *daemon, int signal)
{
    int status = 0;
    kill(daemon->pid, signal);
    for (int ms = 0; waitpid(daemon->pid, &status, WNOHANG) == 0; ms++) {
        if (ms == PATIENCE_MS)
            demo_fail("attnd does not end after signal %d", signal);
        usleep(1000);
    }
    daemon_pid = 0;
    daemon->pid = 0;
    return status;
}

struct att_client *daemon_connect(const struct daemon *daemon)
{
    struct att_client *client = NULL;
    struct att_error error = {0};
    const struct att_connect_options options = {.socket = daemon->socket, .stay_closed = true};
    if (att_connect(&options, &client, &error) != ATT_OK)
        demo_fail("%s", error.text);
    return client;
}
