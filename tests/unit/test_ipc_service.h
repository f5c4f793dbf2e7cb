/* A tiny service on server.h in a forked process, for the ipc tests: answers without an engine.
 *   query     index + column / 1000; index SILENT: never; index LATE: when the next query comes;
 *     >= N_Q: ATT_ERANGE with a text
 *   row       index + k; index 0: ATT_EMPTY          column, all: in chunks
 *   set token value = sum of key and value + bias    stat: clients, queries and, as updates, the columns and alls under way */
#ifndef TEST_IPC_SERVICE_H
#define TEST_IPC_SERVICE_H

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "server.h"

enum { SILENT = 7777, LATE = 7778, N_Q = 40000, D = 3, D_V = 5, JOBS = 64 };

struct service {
    pid_t pid;
    char directory[64];
    char socket[100];
    char log[100];
};

struct service_job {
    bool used;
    uint64_t session;
    struct att_wire_reply reply;
    uint64_t sent, total; /* doubles */
};

struct service_state {
    struct att_server *server;
    struct service_job jobs[JOBS];
    uint64_t late_session, late_tag;
    uint64_t queries;
    uint32_t used;
};

static inline uint64_t test_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void service_reply(struct service_state *state, uint64_t session, struct att_wire_reply reply,
                                 const void *payload, size_t bytes)
{
    att_server_reply(state->server, session, &reply, payload, bytes);
}

static inline double service_value(const struct service_job *job, uint64_t i)
{
    if (job->reply.type == ATT_REQ_ALL)
        return (double)i;
    return i % 2 == 0 ? (double)(i / 2) + 0.5 : 0.25;
}

static inline void service_continue(struct service_state *state, struct service_job *job)
{
    double chunk[65536 / 8];
    uint64_t most = att_server_chunk(state->server) / 8;
    while (job->sent < job->total && att_server_has_room(state->server, job->session)) {
        uint64_t count = job->total - job->sent < most ? job->total - job->sent : most;
        for (uint64_t i = 0; i < count; i++)
            chunk[i] = service_value(job, job->sent + i);
        job->sent += count;
        job->reply.flags = job->sent < job->total ? ATT_WIRE_MORE : 0;
        service_reply(state, job->session, job->reply, chunk, count * 8);
    }
    if (job->sent == job->total || !att_server_is_open(state->server, job->session)) {
        job->used = false;
        state->used--;
        att_server_release(state->server, job->session, job->total * 8);
    }
}

/* A column or all. False: it has to wait. */
static inline bool service_wide(struct service_state *state, uint64_t session, struct att_wire_reply reply)
{
    const uint64_t total = reply.type == ATT_REQ_ALL ? (uint64_t)N_Q * D_V : 2 * (uint64_t)N_Q;
    struct service_job *job = state->jobs;
    if (!att_server_hold(state->server, total * 8))
        return false;
    while (job->used)
        if (++job == state->jobs + JOBS)
            abort();
    *job = (struct service_job){.used = true, .session = session, .reply = reply, .total = total};
    state->used++;
    service_continue(state, job);
    return true;
}

static inline void service_query(struct service_state *state, uint64_t session, struct att_wire_reply reply,
                                 const struct att_wire_request *header)
{
    char text[100];
    state->queries++;
    if (header->index == SILENT)
        return;
    if (header->index == LATE) {
        state->late_session = session;
        state->late_tag = header->tag;
        att_server_compute(state->server);
        return;
    }
    if (state->late_session) {
        struct att_wire_reply late = {.type = ATT_REQ_QUERY, .tag = state->late_tag, .value = LATE};
        att_server_computed(state->server, state->late_session);
        service_reply(state, state->late_session, late, NULL, 0);
        state->late_session = 0;
    }
    if (header->index >= N_Q) {
        reply.status = ATT_ERANGE;
        int length = snprintf(text, sizeof text, "row %u is out of range: n_q is %d", header->index, N_Q);
        service_reply(state, session, reply, text, (size_t)length);
        return;
    }
    reply.value = header->index + header->column / 1000.0;
    reply.error_bound = 1e-9;
    service_reply(state, session, reply, NULL, 0);
}

/* False: it has to wait. */
static inline bool service_answer(struct service_state *state, const struct att_server_request *request)
{
    const struct att_wire_request *header = &request->header;
    struct att_wire_reply reply = {.type = header->type, .tag = header->tag, .lsn = 42, .incarnation = 3};
    double row[D_V];
    struct att_stat stat = {0};
    switch (header->type) {
    case ATT_REQ_REGIONS:
        att_server_send_regions(state->server, request->session);
        return true;
    case ATT_REQ_QUERY:
        service_query(state, request->session, reply, header);
        return true;
    case ATT_REQ_ROW:
        for (int k = 0; k < D_V; k++)
            row[k] = (double)header->index + k;
        reply.status = header->index == 0 ? ATT_EMPTY : ATT_OK;
        service_reply(state, request->session, reply, row, header->index == 0 ? 0 : sizeof row);
        return true;
    case ATT_REQ_COLUMN:
    case ATT_REQ_ALL:
        return service_wide(state, request->session, reply);
    case ATT_REQ_STAT:
        stat.clients = att_server_clients(state->server);
        stat.queries = state->queries;
        stat.updates = state->used;
        service_reply(state, request->session, reply, &stat, sizeof stat);
        return true;
    case ATT_REQ_SET_TOKEN:
        for (int k = 0; request->key && k < D; k++)
            reply.value += (double)request->key[k];
        for (int k = 0; request->value && k < D_V; k++)
            reply.value += (double)request->value[k];
        reply.value += header->fields & ATT_WIRE_BIAS ? header->number : 0;
        break;
    case ATT_REQ_APPEND:
        reply.index = 99;
        break;
    default:
        reply.value = header->number;
        break;
    }
    service_reply(state, request->session, reply, NULL, 0);
    return true;
}

static inline _Noreturn void service_loop(struct att_server *server)
{
    static struct service_state state;
    state.server = server;
    for (;;) {
        struct att_server_request request;
        for (int i = 0; i < 64 && state.used < JOBS && att_server_next(server, &request); i++) {
            if (!service_answer(&state, &request)) {
                att_server_park(server);
                continue;
            }
            att_server_take(server);
            if (request.header.type == ATT_REQ_SHUTDOWN) {
                att_server_free(server);
                exit(0);
            }
        }
        for (struct service_job *job = state.jobs; state.used > 0 && job < state.jobs + JOBS; job++)
            if (job->used)
                service_continue(&state, job);
        att_server_flush(server);
        att_server_wait(server, -1);
    }
}

static inline void service_start_with(struct service *service, struct att_server_options options)
{
    struct att_server *server;
    struct att_error error;
    strcpy(service->directory, "/tmp/attnd-test-XXXXXX");
    assert_non_null(mkdtemp(service->directory));
    snprintf(service->socket, sizeof service->socket, "%s/s.sock", service->directory);
    snprintf(service->log, sizeof service->log, "%s/log", service->directory);
    options.socket = service->socket;
    options.info = (struct att_info){
        .heads = 1, .n_q = N_Q, .d = D, .d_v = D_V, .capacity = 100, .precision = 1, .scale = 0.5, .incarnation = 3};
    if (att_server_create(&options, &server, &error) != ATT_OK)
        fail_msg("%s", error.text);
    fflush(NULL);
    service->pid = fork();
    assert_true(service->pid >= 0);
    if (service->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that aborts leaves nobody behind */
        int log = open(service->log, O_CREAT | O_WRONLY | O_APPEND, 0600);
        dup2(log, 2);
        service_loop(server);
    }
    /* The child serves; this process only closes its copies. The path must stay, so it's moved out of the way. */
    char aside[120];
    snprintf(aside, sizeof aside, "%s.aside", service->socket);
    rename(service->socket, aside);
    att_server_free(server);
    rename(aside, service->socket);
}

static inline void service_start(struct service *service)
{
    service_start_with(service, (struct att_server_options){.wait = ATT_WAIT_ADAPTIVE});
}

static inline void service_clean(const struct service *service)
{
    char command[200];
    snprintf(command, sizeof command, "rm -rf %s", service->directory);
    if (system(command) != 0)
        print_message("could not remove %s\n", service->directory);
}

/* Kills the service; fails if it had died before. */
static inline void service_stop(struct service *service)
{
    int status;
    assert_int_equal(waitpid(service->pid, &status, WNOHANG), 0);
    kill(service->pid, SIGKILL);
    waitpid(service->pid, &status, 0);
    service_clean(service);
}

static inline struct att_client *service_connect(const struct service *service, uint32_t timeout_ms)
{
    struct att_client *client;
    struct att_error error;
    const struct att_connect_options options = {.socket = service->socket, .timeout_ms = timeout_ms};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("%s", error.text);
    return client;
}

/* Waits until so many clients are connected, the asking one included. */
static inline void service_await_clients(struct att_client *client, uint32_t clients)
{
    struct att_stat stat;
    for (uint64_t start = test_now_ns();;) {
        assert_int_equal(att_get_stat(client, &stat), ATT_OK);
        if (stat.clients == clients)
            return;
        if (test_now_ns() - start > UINT64_C(5000000000))
            fail_msg("%u clients are connected, not %u", stat.clients, clients);
        usleep(1000);
    }
}

/* Whether the service's log has a line with this text by now (it is waited for). */
static inline void service_await_log(const struct service *service, const char *text)
{
    char log[65536];
    for (int i = 0; i < 2000; i++, usleep(1000)) {
        int fd = open(service->log, O_RDONLY);
        ssize_t bytes = fd < 0 ? 0 : read(fd, log, sizeof log - 1);
        if (fd >= 0)
            close(fd);
        log[bytes > 0 ? bytes : 0] = '\0';
        if (strstr(log, text))
            return;
    }
    fail_msg("the service's log does not say \"%s\" but: %s", text, log);
}

static inline void assert_works(struct att_client *client)
{
    double value, bound;
    if (att_query(client, 12, 7, &value, &bound) != ATT_OK)
        fail_msg("%s", att_last_error(client));
    assert_true(value == 12 + 7 / 1000.0);
}

#endif
