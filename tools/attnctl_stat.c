/* stat: the daemon's state as a table or an object; shutdown: its end. */
#include "attnctl.h"

#include <inttypes.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "answer.h"
#include "progress.h"

enum field_type { FIELD_U32, FIELD_U64, FIELD_DOUBLE, FIELD_TEXT, FIELD_PRECISION };

#define FIELD(name, type)                                                                  \
    {                                                                                      \
#name, type, offsetof(struct att_stat, name), sizeof(((struct att_stat *)0)->name) \
    }

/* In the order that they are printed. */
static const struct field {
    const char *name;
    enum field_type type;
    size_t offset;
    size_t bytes;
} fields[] = {
    FIELD(version, FIELD_TEXT),
    FIELD(name, FIELD_TEXT),
    FIELD(state, FIELD_TEXT),
    FIELD(durability, FIELD_TEXT),
    FIELD(precision, FIELD_PRECISION),
    FIELD(scale, FIELD_DOUBLE),
    FIELD(heads, FIELD_U32),
    FIELD(n_q, FIELD_U32),
    FIELD(n_k, FIELD_U32),
    FIELD(tokens, FIELD_U32),
    FIELD(capacity, FIELD_U32),
    FIELD(d, FIELD_U32),
    FIELD(d_v, FIELD_U32),
    FIELD(log_pending, FIELD_U64),
    FIELD(log_capacity, FIELD_U64),
    FIELD(rows_hot, FIELD_U64),
    FIELD(rows_cold, FIELD_U64),
    FIELD(merges, FIELD_U64),
    FIELD(refreshes, FIELD_U64),
    FIELD(updates, FIELD_U64),
    FIELD(queries, FIELD_U64),
    FIELD(clients, FIELD_U32),
    FIELD(incarnation, FIELD_U64),
    FIELD(generation, FIELD_U64),
    FIELD(lsn, FIELD_U64),
    FIELD(durable_lsn, FIELD_U64),
    FIELD(snapshot_lsn, FIELD_U64),
    FIELD(region_bytes, FIELD_U64),
    FIELD(rss_bytes, FIELD_U64),
    FIELD(threads, FIELD_U32),
    FIELD(blas_kernel, FIELD_TEXT),
    FIELD(isa, FIELD_TEXT),
};
enum { FIELD_COUNT = sizeof fields / sizeof fields[0] };

static const char *precision_name(uint32_t precision)
{
    static const char *const names[] = {"single", "mixed", "double"};
    return precision < 3 ? names[precision] : "unknown";
}

static void print_text(const char *text, bool json)
{
    if (json)
        att_print_json_string(stdout, text);
    else
        fputs(text, stdout);
}

static void print_field(const struct att_stat *stat, const struct field *field, bool json)
{
    const char *at = (const char *)stat + field->offset;
    char text[sizeof stat->state + 1] = "";
    uint64_t number = 0;
    double real;
    switch (field->type) {
    case FIELD_TEXT:
        snprintf(text, sizeof text, "%.*s", (int)field->bytes, at); /* the daemon's text may lack its NUL */
        print_text(text, json);
        break;
    case FIELD_PRECISION:
        print_text(precision_name(stat->precision), json);
        break;
    case FIELD_DOUBLE:
        memcpy(&real, at, sizeof real);
        printf("%.17g", real);
        break;
    case FIELD_U32:
    case FIELD_U64:
        memcpy(&number, at, field->bytes); /* little endian */
        printf("%" PRIu64, number);
        break;
    }
}

int ctl_stat(struct ctl *ctl, int argc, char **argv)
{
    (void)argc, (void)argv;
    struct att_stat stat;
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_STAT, .buffer = &stat, .buffer_bytes = sizeof stat};
    enum att_status status = ctl_call(ctl, &request, CTL_TIMEOUT_MS, &done);
    if (status != ATT_OK)
        return ctl_status_error(ctl, status);
    for (int i = 0; i < FIELD_COUNT; i++) {
        if (ctl->json)
            printf("%s\"%s\":", i ? "," : "{", fields[i].name);
        else
            printf("%-13s ", fields[i].name);
        print_field(&stat, &fields[i], ctl->json);
        if (!ctl->json)
            putchar('\n');
    }
    if (ctl->json)
        puts("}");
    return ATT_EXIT_OK;
}

/* Waits until the process has ended; a hang-up comes a little before that. */
static bool wait_for_exit(int pidfd, uint64_t deadline_ns)
{
    struct pollfd poller = {.fd = pidfd, .events = POLLIN};
    uint64_t now = att_clock_ns();
    int left_ms = now < deadline_ns ? (int)((deadline_ns - now) / 1000000) : 0;
    return poll(&poller, 1, left_ms) != 0;
}

int ctl_shutdown(struct ctl *ctl, int argc, char **argv)
{
    (void)argc, (void)argv;
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_SHUTDOWN};
    uint32_t timeout_ms = ctl->timeout_ms ? ctl->timeout_ms : CTL_SLOW_TIMEOUT_MS;
    uint64_t deadline_ns = att_clock_ns() + (uint64_t)timeout_ms * 1000000;
    int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)ctl->info.daemon_pid, 0u);
    enum att_status status = ctl_call(ctl, &request, timeout_ms, &done);
    int got = 0;
    while (status == ATT_OK && got >= 0) {
        uint64_t now = att_clock_ns();
        if (now >= deadline_ns)
            status = ATT_ETIMEOUT;
        else
            got = att_complete(ctl->client, &done, 1, (uint32_t)((deadline_ns - now) / 1000000) + 1);
    }
    if (status == ATT_ECLOSED) /* gone, as asked, before its reply was read */
        status = ATT_OK;
    if (status == ATT_OK && pidfd >= 0 && !wait_for_exit(pidfd, deadline_ns))
        status = ATT_ETIMEOUT;
    if (pidfd >= 0)
        close(pidfd);
    return status == ATT_OK ? ATT_EXIT_OK : ctl_status_error(ctl, status);
}
