#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "npyload.h"
#include "random.h"

enum { MOST_ARGUMENTS = 64, PATIENCE_S = 60 };

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    abort();
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void daemon_program(const char *name, char *ret_path, size_t size)
{
    const char *build = getenv("ATTND_BUILD");
    snprintf(ret_path, size, "%s/%s", build && *build ? build : ATTND_BUILD_DEFAULT, name);
}

bool daemon_has(const char *name)
{
    char path[4096];
    daemon_program(name, path, sizeof path);
    return access(path, X_OK) == 0;
}

void daemon_init(struct daemon *daemon)
{
    const char *base = getenv("TMPDIR");
    *daemon = (struct daemon){0};
    /* A socket's path is short: keep to /tmp when TMPDIR is long. */
    if (!base || !*base || strlen(base) > 50)
        base = "/tmp";
    snprintf(daemon->root, sizeof daemon->root, "%s/attnd-test-XXXXXX", base);
    if (!mkdtemp(daemon->root))
        give_up(daemon->root);
    snprintf(daemon->dir, sizeof daemon->dir, "%s/state", daemon->root);
    snprintf(daemon->socket, sizeof daemon->socket, "%s/s", daemon->root);
    snprintf(daemon->log, sizeof daemon->log, "%s/log", daemon->root);
}

static void print_log(const struct daemon *daemon)
{
    char text[4001] = {0};
    FILE *file = fopen(daemon->log, "r");
    if (!file)
        return;
    if (fseek(file, -4000, SEEK_END) != 0)
        rewind(file);
    size_t length = fread(text, 1, sizeof text - 1, file);
    text[length] = 0;
    fprintf(stderr, "---- the end of attnd's log:\n%s----\n", text);
    fclose(file);
}

static _Noreturn void exec_program(const char *name, const char *const *head, const char *const *tail)
{
    char path[4096];
    char *arguments[MOST_ARGUMENTS];
    int count = 0;
    daemon_program(name, path, sizeof path);
    arguments[count++] = path;
    for (; head && *head && count < MOST_ARGUMENTS - 1; head++)
        arguments[count++] = (char *)(size_t)*head;
    for (; tail && *tail && count < MOST_ARGUMENTS - 1; tail++)
        arguments[count++] = (char *)(size_t)*tail;
    arguments[count] = NULL;
    execv(path, arguments);
    dprintf(STDERR_FILENO, "%s: %s\n", path, strerror(errno));
    _exit(127);
}

static pid_t spawn_daemon(const struct daemon *daemon, const char *const *arguments, int output)
{
    const char *head[] = {"--dir", daemon->dir, "--socket", daemon->socket, NULL};
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0)
        give_up("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || dup2(log, STDERR_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0)
        _exit(127);
    exec_program("attnd", head, arguments);
}

/* Reads until the line that begins with "ready". */
static bool wait_until_ready(int output)
{
    char text[4096];
    size_t length = 0;
    double end = seconds() + PATIENCE_S;
    while (seconds() < end && length < sizeof text - 1) {
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

bool daemon_start(struct daemon *daemon, const char *const *arguments)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        give_up("pipe");
    daemon->pid = spawn_daemon(daemon, arguments, ends[1]);
    close(ends[1]);
    bool ready = wait_until_ready(ends[0]);
    close(ends[0]); /* attnd says nothing more on its standard output */
    if (!ready) {
        fprintf(stderr, "attnd is not ready\n");
        print_log(daemon);
        daemon_stop(daemon, SIGKILL);
    }
    return ready;
}

bool daemon_start_new(struct daemon *daemon, const char *const *arguments)
{
    enum { PATHS = 3, MOST = 32 };
    static const char *const options[PATHS] = {"--q", "--k", "--v"}, *const files[PATHS] = {"Q", "K", "V"};
    const char *all[MOST + 1];
    char paths[PATHS][sizeof daemon->root + 8];
    size_t count = 0;

    for (int i = 0; i < PATHS; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s.npy", daemon->root, files[i]);
        all[count++] = options[i];
        all[count++] = paths[i];
    }
    for (; arguments && *arguments; arguments++) {
        if (count == MOST)
            give_up("too many arguments");
        all[count++] = *arguments;
    }
    all[count] = NULL;
    return daemon_start(daemon, all);
}

int daemon_stop(struct daemon *daemon, int signal)
{
    int status = -1;
    if (daemon->pid <= 0)
        return -1;
    kill(daemon->pid, signal);
    double end = seconds() + PATIENCE_S;
    while (waitpid(daemon->pid, &status, WNOHANG) == 0) {
        if (seconds() > end) {
            fprintf(stderr, "attnd does not end after signal %d\n", signal);
            print_log(daemon);
            kill(daemon->pid, SIGKILL);
            waitpid(daemon->pid, &status, 0);
            status = -1;
            break;
        }
        usleep(1000);
    }
    daemon->pid = 0;
    return status;
}

void daemon_release(struct daemon *daemon)
{
    const char *keep = getenv("ATT_TEST_KEEP");
    daemon_stop(daemon, SIGKILL);
    if (keep && *keep) {
        printf("kept: %s\n", daemon->root);
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", daemon->root, (char *)NULL);
        _exit(127);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void write_array(const char *root, const char *name, struct test_random *random, unsigned rows, unsigned columns)
{
    char path[4096];
    float *numbers = malloc((size_t)rows * columns * sizeof *numbers);
    if (!numbers)
        give_up("malloc");
    random_normals(random, numbers, (size_t)rows * columns, 1);
    snprintf(path, sizeof path, "%s/%s", root, name);
    npy_save(path, numbers, rows, columns);
    free(numbers);
}

void daemon_write_arrays(const struct daemon *daemon, unsigned n_q, unsigned n_k, unsigned d, unsigned d_v,
                         unsigned long seed)
{
    struct test_random random;
    random_init(&random, seed);
    write_array(daemon->root, "Q.npy", &random, n_q, d);
    write_array(daemon->root, "K.npy", &random, n_k, d);
    write_array(daemon->root, "V.npy", &random, n_k, d_v);
}

int daemon_run(const char *name, const char *const *arguments, char *ret_text, size_t size)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        give_up("pipe");
    pid_t pid = fork();
    if (pid < 0)
        give_up("fork");
    if (pid == 0) {
        if (dup2(ends[1], STDOUT_FILENO) < 0 || dup2(ends[1], STDERR_FILENO) < 0)
            _exit(127);
        alarm(PATIENCE_S); /* goes on after exec, and ends it by SIGALRM */
        exec_program(name, NULL, arguments);
    }
    close(ends[1]);
    char block[4096];
    size_t length = 0;
    ssize_t got;
    while ((got = read(ends[0], block, sizeof block)) > 0) {
        if (!ret_text || length + (size_t)got >= size)
            continue;
        memcpy(ret_text + length, block, (size_t)got);
        length += (size_t)got;
    }
    if (ret_text && size)
        ret_text[length] = 0;
    close(ends[0]);
    int status = 0;
    if (waitpid(pid, &status, 0) != pid)
        give_up("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

long daemon_cpu_ticks(pid_t pid)
{
    char path[64], text[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    const char *after = strrchr(text, ')');
    if (!after || sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        return -1;
    return (long)(user + system);
}
