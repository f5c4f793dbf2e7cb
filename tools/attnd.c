/* attnd, the daemon: options, the state, the service, signals. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "attnd.h"
#include "options.h"

static struct att_service *signalled; /* for the handler; set before it is installed, and there until it no longer is */

static void on_signal(int number)
{
    (void)number;
    att_service_stop(signalled);
}

static void catch_signals(struct att_service *service)
{
    struct sigaction action = {.sa_handler = on_signal}, before;

    signalled = service;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) /* nohup's wish stands */
        sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void ignore_signals(void)
{
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

/* The team's threads must sleep when they wait; libgomp reads this only when the program is loaded. */
static void wait_passively(char **arguments)
{
    char program[4096];
    ssize_t length;

    if (getenv("OMP_WAIT_POLICY"))
        return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0)
        return;
    program[length] = '\0';
    execv(program, arguments); /* failing is harmless: the team spins a little */
}

/* Each client is a descriptor, and the usual soft limit is below the number of clients that are let in. */
static void allow_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit); /* failing means fewer clients */
}

/* systemd's readiness protocol: a datagram to the socket that it names, if it does. */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = path ? strlen(path) : 0;
    int fd;

    if (length < 2 || length >= sizeof address.sun_path)
        return;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address,
           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    close(fd);
}

/* Where it will listen, and whether it can; before anything is built or written. The directory of a path of our own is made,
 * one that was given is there. */
static enum att_status choose_socket(const struct attnd_options *o, char *ret_path, size_t size,
                                     struct att_error *error)
{
    enum att_status status = ATT_OK;

    if (o->socket)
        snprintf(ret_path, size, "%s", o->socket);
    else
        status = att_socket_path(o->name, ret_path, size, error);
    if (status == ATT_OK && !o->socket)
        status = att_socket_make_directory(ret_path, o->uid_count > 0, error);
    return status == ATT_OK ? att_server_check_socket(ret_path, error) : status;
}

static enum att_status open_server(const struct attnd_options *o, const struct attnd_state *state, const char *path,
                                   struct att_service *service, struct att_server **ret_server, struct att_error *error)
{
    const struct att_service_options *s = &state->service;
    static int regions[ATT_MAX_HEADS * ATT_HEAD_FDS];
    struct att_server_options options = {
        .socket = path,
        .allowed = o->uids,
        .allowed_count = o->uid_count,
        .wait = o->wait,
        .on_end = service_on_end,
        .on_ask = service_on_ask,
        .context = service,
        .info = {.heads = state->heads.count,
                 .n_q = s->n_q,
                 .d = s->d,
                 .d_v = s->d_v,
                 .capacity = s->capacity,
                 .precision = s->precision,
                 .scale = s->scale,
                 .incarnation = att_store_incarnation(state->store),
                 .daemon_pid = (uint32_t)getpid(),
                 .protocol = ATT_PROTOCOL_VERSION},
    };

    for (uint32_t head = 0; head < state->heads.count; head++)
        memcpy(regions + head * ATT_HEAD_FDS, att_engine_region_fds(state->heads.engines[head]),
               sizeof *regions * ATT_HEAD_FDS);
    if (!o->direct_off) {
        options.regions = regions;
        options.region_count = state->heads.count;
    }
    return att_server_create(&options, ret_server, error);
}

/* From a state in memory to the end of serving it. */
static enum att_status serve(const struct attnd_options *o, const char *path, struct att_service *service,
                             struct attnd_state *state, struct att_server **server, struct att_error *error)
{
    enum att_status status = att_store_start(state->store, error);

    if (status == ATT_OK)
        status = open_server(o, state, path, service, server, error);
    if (status == ATT_OK)
        status =
            att_service_join(service, &state->service, &state->heads, state->store, *server, state->sessions, error);
    if (status == ATT_OK)
        status = att_heads_start(&state->heads, error);
    if (status == ATT_OK && state->unsaved)
        status = att_service_first_snapshot(service, error);
    if (status != ATT_OK)
        return status;
    printf("ready %s\n", path);
    fflush(stdout);
    notify("READY=1");
    status = att_service_run(service, error);
    notify("STOPPING=1");
    return status;
}

/* A commit and a snapshot's pieces take megabytes and free them soon: what is given back to the system each time comes back
 * as page faults of the threads that write. */
static void keep_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 32 << 20);
}

int main(int count, char **arguments)
{
    struct attnd_options options;
    struct attnd_state state = {0};
    struct att_service *service = NULL;
    struct att_server *server = NULL;
    struct att_error error;
    enum att_status status;
    char path[4096];
    int code;

    att_hold_standard_files();
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is a full disk, and no end */
    wait_passively(arguments);
    allow_descriptors();
    keep_memory();
    if (attnd_parse(count, arguments, &options, &code) != ATT_OK)
        return code;
    status = choose_socket(&options, path, sizeof path, &error);
    if (status == ATT_OK)
        status = att_service_create(&service, &error);
    if (status == ATT_OK) /* a signal before it is ready ends it as soon as it is: in order, with nothing half made */
        catch_signals(service);
    if (status == ATT_OK)
        status = options.q ? attnd_create(&options, service, &state, &error)
                           : attnd_recover(&options, service, &state, &error);
    if (status == ATT_OK)
        status = serve(&options, path, service, &state, &server, &error);
    ignore_signals(); /* it ends anyway, and what the handler speaks to is about to go */
    /* Stop, drain, release: the threads that call the service first, then what it uses. */
    att_heads_release(&state.heads);
    att_store_close(state.store);
    att_server_free(server);
    att_service_free(service);
    att_sessions_free(state.sessions);
    return status == ATT_OK ? ATT_EXIT_OK : att_failure(ATTND_PROGRAM, "%s", error.text);
}
