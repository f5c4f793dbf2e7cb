#include "served.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "npy.h"

static void write_array(const struct served *served, const char *name, uint32_t rows, uint64_t seed)
{
    struct bench_random random = {seed};
    struct att_error error;
    char path[96];
    float *array = bench_floats((size_t)rows * served->d);

    bench_random_fill(&random, array, (size_t)rows * served->d, 1.0);
    snprintf(path, sizeof path, "%s/%s.npy", served->root, name);
    if (att_npy_write_float32(path, array, rows, served->d, &error) != ATT_OK)
        bench_die("%s", error.text);
    free(array);
}

void served_program(const char *name, char *ret_path, size_t size)
{
    char self[4000];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

    self[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    snprintf(ret_path, size, "%s/%s", self, name);
}

/* capacity NULL: on the state that is there; "0": attnd chooses, for the arguments end before --log-capacity. */
static _Noreturn void become_attnd(const struct served *served, const char *capacity, int ready)
{
    char path[4096], dir[96], q[96], k[96], v[96];
    const int null = open("/dev/null", O_WRONLY);

    served_program("attnd", path, sizeof path);
    snprintf(dir, sizeof dir, "%s/state", served->root);
    snprintf(q, sizeof q, "%s/Q.npy", served->root);
    snprintf(k, sizeof k, "%s/K.npy", served->root);
    snprintf(v, sizeof v, "%s/V.npy", served->root);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(ready, 1);
    dup2(null, 2);
    if (!capacity)
        execl(path, "attnd", "--dir", dir, "--socket", served->socket, "--threads", "1", "--durability",
              served->durability, (char *)NULL);
    execl(path, "attnd", "--dir", dir, "--socket", served->socket, "--q", q, "--k", k, "--v", v, "--scale", "auto",
          "--durability", served->durability, "--threads", "1", strcmp(capacity, "0") == 0 ? NULL : "--log-capacity",
          capacity, (char *)NULL);
    _exit(127);
}

static void launch(struct served *served, const char *capacity)
{
    char byte;
    int ready[2];

    if (pipe(ready) != 0)
        bench_die("pipe: %s", strerror(errno));
    fflush(NULL);
    served->pid = fork();
    if (served->pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (served->pid == 0)
        become_attnd(served, capacity, ready[1]);
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        bench_die("attnd, which should lie beside this program, did not start");
    close(ready[0]);
}

void served_resume(struct served *served)
{
    launch(served, NULL);
}

void served_kill(struct served *served)
{
    kill(served->pid, SIGKILL);
    waitpid(served->pid, NULL, 0);
}

void served_start(struct served *served, uint32_t n_q, uint32_t n_k, uint32_t d, uint32_t log_capacity)
{
    served_start_durable(served, n_q, n_k, d, log_capacity, "off");
}

/* TMPDIR, or /var/tmp where /tmp is memory and a disk is wanted. */
static void choose_root(struct served *served, bool on_disk)
{
    const char *base = getenv("TMPDIR");
    struct statfs system;

    if (!base || strlen(base) > sizeof served->root - 20)
        base = "/tmp";
    if (on_disk && statfs(base, &system) == 0 && system.f_type == TMPFS_MAGIC)
        base = "/var/tmp";
    if (on_disk && (statfs(base, &system) != 0 || system.f_type == TMPFS_MAGIC))
        bench_die("%s is no disk: name a directory on one in TMPDIR", base);
    snprintf(served->root, sizeof served->root, "%s/attnbench-XXXXXX", base);
}

void served_start_durable(struct served *served, uint32_t n_q, uint32_t n_k, uint32_t d, uint32_t log_capacity,
                          const char *durability)
{
    struct att_stat stat;
    char capacity[16];

    *served = (struct served){.n_q = n_q, .n_k = n_k, .d = d, .durability = durability};
    choose_root(served, strcmp(durability, "off") != 0);
    if (!mkdtemp(served->root))
        bench_die("%s: %s", served->root, strerror(errno));
    snprintf(served->socket, sizeof served->socket, "%s/s.sock", served->root);
    snprintf(capacity, sizeof capacity, "%u", log_capacity);
    write_array(served, "Q", n_q, 1);
    write_array(served, "K", n_k, 2);
    write_array(served, "V", n_k, 3);
    launch(served, capacity);
    struct att_client *client = served_connect(served, false);
    const struct timespec pause = {.tv_nsec = 2000000};
    do {
        nanosleep(&pause, NULL);
        if (att_get_stat(client, &stat) != ATT_OK)
            bench_die("%s", att_last_error(client));
    } while (stat.rows_cold > 0);
    att_close(client);
}

void served_stop(struct served *served)
{
    char command[100];

    served_kill(served);
    snprintf(command, sizeof command, "rm -rf %s", served->root);
    if (system(command) != 0)
        fprintf(stderr, "# could not remove %s\n", served->root);
}

struct att_client *served_connect(const struct served *served, bool direct)
{
    const struct att_connect_options options = {.socket = served->socket, .direct = direct, .stay_closed = true};
    struct att_client *client;
    struct att_error error;

    if (att_connect(&options, &client, &error) != ATT_OK)
        bench_die("%s", error.text);
    return client;
}

static void take(struct att_client *client, uint32_t below)
{
    struct att_completion done[64];

    while (att_in_flight(client) >= below && att_in_flight(client) > 0) {
        int count = att_complete(client, done, 64, 10000);
        if (count <= 0)
            bench_die("%s", count < 0 ? att_last_error(client) : "attnd does not answer");
        for (int i = 0; i < count; i++)
            if (done[i].status != ATT_OK)
                bench_die("%s", att_last_error(client));
    }
}

void served_update(struct att_client *client, const struct served *served, struct bench_random *random, uint32_t count,
                   uint32_t depth)
{
    enum { MOST = 4096 };
    static float rows[2][MOST];

    for (uint32_t i = 0; i < served->d && i < MOST; i++) {
        rows[0][i] = (float)bench_random_unit(random) - 0.5f;
        rows[1][i] = (float)bench_random_unit(random);
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct att_request request = {.type = ATT_REQ_SET_TOKEN,
                                            .index = bench_random_below(random, served->n_k),
                                            .key = rows[0],
                                            .value = rows[1]};
        if (att_in_flight(client) >= depth)
            take(client, depth > 16 ? depth - 16 : depth);
        if (att_submit(client, &request) != ATT_OK)
            bench_die("%s", att_last_error(client));
    }
    take(client, 1);
}

pid_t served_child(const struct served *served, void (*work)(const struct served *served, void *context), void *context)
{
    fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(served, context);
        _exit(0);
    }
    return pid;
}

void served_end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

void served_pin(pid_t pid, int processor)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (processor < 0 || i == processor)
            CPU_SET(i, &set);
    sched_setaffinity(pid, sizeof set, &set); /* failing is harmless */
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double served_quantile(double *values, uint32_t count, double part)
{
    qsort(values, count, sizeof *values, by_size);
    return values[(uint32_t)(part * (count - 1))];
}
