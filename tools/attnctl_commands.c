/* The command table, which drives parsing, help and exec, and the commands that fit a screen each. */
#include "attnctl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "progress.h"

enum { PING_PROBES = 31 };

/* ---- Errors and calls ---------------------------------------------------------------------------------- */

int ctl_error(struct ctl *ctl, int code, const char *format, ...)
{
    char message[700];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (ctl->file) {
        att_failure(CTL_PROGRAM, "%s: line %" PRIu64 ": %s: %s", ctl->file, ctl->line, ctl->command, message);
        return ATT_EXIT_FAILURE;
    }
    if (code == ATT_EXIT_USAGE)
        return att_usage_error(CTL_PROGRAM, "%s: %s", ctl->command, message);
    att_failure(CTL_PROGRAM, "%s: %s", ctl->command, message);
    return code;
}

/* Why the daemon is read-only: its state says so. */
static const char *explain_readonly(struct ctl *ctl, char *buffer, size_t size)
{
    struct att_stat stat;
    struct att_completion completion;
    struct att_request request = {.type = ATT_REQ_STAT, .buffer = &stat, .buffer_bytes = sizeof stat};
    if (att_in_flight(ctl->client) > 0 || ctl_call(ctl, &request, CTL_TIMEOUT_MS, &completion) != ATT_OK)
        return "the daemon refuses updates: it is read-only";
    snprintf(buffer, size, "the daemon refuses updates: %.*s", (int)sizeof stat.state, stat.state);
    return buffer;
}

const char *ctl_words(struct ctl *ctl, enum att_status status, char *buffer, size_t size)
{
    switch (status) {
    case ATT_ERANGE:
        return "it is not there: never used, or deleted";
    case ATT_ENOTFINITE:
        return "the result would not be a finite float32";
    case ATT_EMAGNITUDE:
        return "the scores would be too large for the daemon's precision";
    case ATT_EREADONLY:
        return explain_readonly(ctl, buffer, size);
    case ATT_ENOSPC:
        return "the daemon's disk is full";
    case ATT_EBUSY:
        return "the daemon is busy with another of its kind";
    case ATT_LOST:
        return "a crash took it back before it was on disk";
    case ATT_ECAPACITY:
        return "there is no room for another token: start the daemon with a larger --capacity";
    default:
        return att_status_name(status);
    }
}

const char *ctl_explain(struct ctl *ctl, enum att_status status, char *buffer, size_t size)
{
    const char *last = att_last_error(ctl->client);
    if (status == ATT_ETIMEOUT) /* found here, so the library has no message of it */
        return "no reply in time; it may still take effect";
    if (status != ATT_ECLOSED)
        return *last ? last : ctl_words(ctl, status, buffer, size);
    snprintf(buffer, size, "the daemon is gone%s%s", *last ? ": " : "", last);
    return buffer;
}

int ctl_status_error(struct ctl *ctl, enum att_status status)
{
    char buffer[400];
    return ctl_error(ctl, ATT_EXIT_FAILURE, "%s", ctl_explain(ctl, status, buffer, sizeof buffer));
}

enum att_status ctl_call(struct ctl *ctl, const struct att_request *request, uint32_t timeout_ms,
                         struct att_completion *ret)
{
    enum att_status status = att_submit(ctl->client, request);
    if (status != ATT_OK)
        return status;
    att_push(ctl->client);
    int got = att_complete(ctl->client, ret, 1, ctl->timeout_ms ? ctl->timeout_ms : timeout_ms);
    if (got < 0)
        return ATT_ECLOSED;
    return got == 0 ? ATT_ETIMEOUT : ret->status;
}

/* ---- Arguments ----------------------------------------------------------------------------------------- */

static int bad_argument(struct ctl *ctl, const struct att_error *error)
{
    return ctl_error(ctl, ATT_EXIT_USAGE, "%s", error->text);
}

/* A row or a token below `count` of the matrix named. */
static int parse_item(struct ctl *ctl, const char *what, const char *text, const char *matrix, uint32_t count,
                      struct att_request *request)
{
    struct att_error error;
    enum att_status status = att_parse_headed(what, text, ctl->info.heads, &request->head, &request->index, &error);
    if (status != ATT_OK)
        return ctl_error(ctl, status == ATT_ERANGE ? ATT_EXIT_FAILURE : ATT_EXIT_USAGE, "%s", error.text);
    if (request->index >= count)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "%s %" PRIu32 " is outside %s, whose rows are 0..%" PRIu32, what,
                         request->index, matrix, count - 1);
    return ATT_EXIT_OK;
}

int ctl_parse_row(struct ctl *ctl, const char *text, struct att_request *request)
{
    return parse_item(ctl, "row", text, "Q", ctl->info.n_q, request);
}

static int parse_token(struct ctl *ctl, const char *text, struct att_request *request)
{
    return parse_item(ctl, "token", text, "K and V", ctl->info.capacity, request);
}

static int check_column(struct ctl *ctl, uint32_t column, const char *matrix, uint32_t columns)
{
    if (column < columns)
        return ATT_EXIT_OK;
    return ctl_error(ctl, ATT_EXIT_FAILURE, "column %" PRIu32 " is outside %s, whose columns are 0..%" PRIu32, column,
                     matrix, columns - 1);
}

int ctl_parse_column(struct ctl *ctl, const char *text, const char *matrix, uint32_t columns,
                     struct att_request *request)
{
    struct att_error error;
    if (att_parse_u32("column", text, 0, UINT32_MAX - 1, &request->column, &error) != ATT_OK)
        return bad_argument(ctl, &error);
    return check_column(ctl, request->column, matrix, columns);
}

int ctl_parse_headed_column(struct ctl *ctl, const char *text, struct att_request *request)
{
    struct att_error error;
    enum att_status status =
        att_parse_headed("column", text, ctl->info.heads, &request->head, &request->column, &error);
    if (status != ATT_OK)
        return ctl_error(ctl, status == ATT_ERANGE ? ATT_EXIT_FAILURE : ATT_EXIT_USAGE, "%s", error.text);
    return check_column(ctl, request->column, "V", ctl->info.d_v);
}

/* Exactly `needed` numbers into a new array, the caller's to free. `shape` explains the number in the message. */
static int parse_floats(struct ctl *ctl, const char *shape, uint32_t needed, int argc, char **argv, float **ret)
{
    struct att_error error;
    if ((uint64_t)argc != needed)
        return ctl_error(ctl, ATT_EXIT_USAGE, "%" PRIu32 " numbers are needed (%s), %d given", needed, shape, argc);
    float *numbers = malloc(needed * sizeof *numbers);
    if (!numbers)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "not enough memory");
    for (uint32_t i = 0; i < needed; i++) {
        char what[32];
        snprintf(what, sizeof what, "number %" PRIu32, i);
        if (att_parse_float(what, argv[i], false, &numbers[i], &error) != ATT_OK) {
            free(numbers);
            return bad_argument(ctl, &error);
        }
    }
    *ret = numbers;
    return ATT_EXIT_OK;
}

/* ---- Updates ------------------------------------------------------------------------------------------- */

/* Sends an update, which prints nothing. */
static int send_update(struct ctl *ctl, const struct att_request *request)
{
    struct att_completion done;
    enum att_status status = ctl_call(ctl, request, CTL_TIMEOUT_MS, &done);
    return status == ATT_OK ? ATT_EXIT_OK : ctl_status_error(ctl, status);
}

static int run_add(struct ctl *ctl, enum att_request_type type, const char *matrix, uint32_t columns, char **argv)
{
    struct att_error error;
    struct att_request request = {.type = type};
    int code = parse_token(ctl, argv[1], &request);
    if (code == ATT_EXIT_OK)
        code = ctl_parse_column(ctl, argv[2], matrix, columns, &request);
    if (code != ATT_EXIT_OK)
        return code;
    if (att_parse_double("DELTA", argv[3], &request.number, &error) != ATT_OK)
        return bad_argument(ctl, &error);
    return send_update(ctl, &request);
}

static int run_update_k(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    return run_add(ctl, ATT_REQ_UPDATE_K, "K", ctl->info.d, argv);
}

static int run_update_v(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    return run_add(ctl, ATT_REQ_UPDATE_V, "V", ctl->info.d_v, argv);
}

static const char *columns_text(char *buffer, size_t size, const char *name, uint32_t columns)
{
    snprintf(buffer, size, "%s = %" PRIu32, name, columns);
    return buffer;
}

static int run_set_k(struct ctl *ctl, int argc, char **argv)
{
    char shape[40];
    float *key;
    struct att_request request = {.type = ATT_REQ_SET_TOKEN};
    int code = parse_token(ctl, argv[1], &request);
    if (code == ATT_EXIT_OK)
        code = parse_floats(ctl, columns_text(shape, sizeof shape, "d", ctl->info.d), ctl->info.d, argc - 2, argv + 2,
                            &key);
    if (code != ATT_EXIT_OK)
        return code;
    request.key = key;
    code = send_update(ctl, &request);
    free(key);
    return code;
}

static int run_set_v(struct ctl *ctl, int argc, char **argv)
{
    char shape[40];
    float *value;
    struct att_request request = {.type = ATT_REQ_SET_TOKEN};
    int code = parse_token(ctl, argv[1], &request);
    if (code == ATT_EXIT_OK)
        code = parse_floats(ctl, columns_text(shape, sizeof shape, "d_v", ctl->info.d_v), ctl->info.d_v, argc - 2,
                            argv + 2, &value);
    if (code != ATT_EXIT_OK)
        return code;
    request.value = value;
    code = send_update(ctl, &request);
    free(value);
    return code;
}

static int run_set_q(struct ctl *ctl, int argc, char **argv)
{
    char shape[40];
    float *q;
    struct att_request request = {.type = ATT_REQ_SET_Q};
    int code = ctl_parse_row(ctl, argv[1], &request);
    if (code == ATT_EXIT_OK)
        code =
            parse_floats(ctl, columns_text(shape, sizeof shape, "d", ctl->info.d), ctl->info.d, argc - 2, argv + 2, &q);
    if (code != ATT_EXIT_OK)
        return code;
    request.key = q;
    code = send_update(ctl, &request);
    free(q);
    return code;
}

static int run_set_b(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    float bias;
    struct att_error error;
    struct att_request request = {.type = ATT_REQ_SET_TOKEN, .bias = &bias};
    int code = parse_token(ctl, argv[1], &request);
    if (code != ATT_EXIT_OK)
        return code;
    if (att_parse_float("bias", argv[2], true, &bias, &error) != ATT_OK)
        return bad_argument(ctl, &error);
    return send_update(ctl, &request);
}

/* "H:" before the numbers; how many arguments it took, or -1 when it is wrong. */
static int parse_append_head(struct ctl *ctl, int argc, char **argv, uint32_t *ret_head, int *ret_code)
{
    struct att_error error;
    char item[40];
    uint32_t index;
    bool given = argc > 1 && strchr(argv[1], ':') != NULL;
    if (!given && ctl->info.heads == 1)
        return 0;
    if (!given) {
        *ret_code =
            ctl_error(ctl, ATT_EXIT_USAGE, "there are %" PRIu32 " heads: write append HEAD: K0 ...", ctl->info.heads);
        return -1;
    }
    snprintf(item, sizeof item, "%.30s0", argv[1]); /* as if it were the head's token 0 */
    enum att_status status = argv[1][strlen(argv[1]) - 1] == ':'
                                 ? att_parse_headed("head", item, ctl->info.heads, ret_head, &index, &error)
                                 : att_fail(&error, ATT_EINVAL, "'%.40s' is not HEAD:", argv[1]);
    if (status == ATT_OK)
        return 1;
    *ret_code = ctl_error(ctl, status == ATT_ERANGE ? ATT_EXIT_FAILURE : ATT_EXIT_USAGE, "%s", error.text);
    return -1;
}

static int run_append(struct ctl *ctl, int argc, char **argv)
{
    char shape[80];
    float *numbers;
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_APPEND};
    uint32_t needed = ctl->info.d + ctl->info.d_v;
    snprintf(shape, sizeof shape, "d = %" PRIu32 " for the key, then d_v = %" PRIu32 " for the value", ctl->info.d,
             ctl->info.d_v);
    int code = ATT_EXIT_OK;
    int taken = parse_append_head(ctl, argc, argv, &request.head, &code);
    if (taken >= 0)
        code = parse_floats(ctl, shape, needed, argc - 1 - taken, argv + 1 + taken, &numbers);
    if (code != ATT_EXIT_OK)
        return code;
    request.key = numbers;
    request.value = numbers + ctl->info.d;
    enum att_status status = ctl_call(ctl, &request, CTL_TIMEOUT_MS, &done);
    free(numbers);
    if (status != ATT_OK)
        return ctl_status_error(ctl, status);
    if (ctl->json)
        printf("{\"value\":%" PRIu32 ",\"lsn\":%" PRIu64 "}\n", done.index, done.lsn);
    else
        printf("%" PRIu32 "\n", done.index);
    return ATT_EXIT_OK;
}

static int run_delete(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    struct att_request request = {.type = ATT_REQ_DELETE};
    int code = parse_token(ctl, argv[1], &request);
    return code == ATT_EXIT_OK ? send_update(ctl, &request) : code;
}

/* ---- The daemon itself --------------------------------------------------------------------------------- */

static int run_plain(struct ctl *ctl, enum att_request_type type)
{
    struct att_completion done;
    struct att_request request = {.type = type};
    enum att_status status = ctl_call(ctl, &request, CTL_SLOW_TIMEOUT_MS, &done);
    return status == ATT_OK ? ATT_EXIT_OK : ctl_status_error(ctl, status);
}

static int run_flush(struct ctl *ctl, int argc, char **argv)
{
    (void)argc, (void)argv;
    return run_plain(ctl, ATT_REQ_FLUSH);
}

static int run_merge(struct ctl *ctl, int argc, char **argv)
{
    (void)argc, (void)argv;
    return run_plain(ctl, ATT_REQ_MERGE);
}

static int run_snapshot(struct ctl *ctl, int argc, char **argv)
{
    (void)argc, (void)argv;
    return run_plain(ctl, ATT_REQ_SNAPSHOT);
}

static int compare_times(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static int run_ping(struct ctl *ctl, int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t times[PING_PROBES];
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_PING};
    for (int i = 0; i < PING_PROBES; i++) {
        uint64_t start = att_clock_ns();
        enum att_status status = ctl_call(ctl, &request, CTL_TIMEOUT_MS, &done);
        if (status != ATT_OK)
            return ctl_status_error(ctl, status);
        times[i] = att_clock_ns() - start;
    }
    qsort(times, PING_PROBES, sizeof times[0], compare_times);
    double us = (double)times[PING_PROBES / 2] * 1e-3;
    if (ctl->json)
        printf("{\"value\":%.2f,\"unit\":\"us\",\"lsn\":%" PRIu64 "}\n", us, done.lsn);
    else
        printf("%.2f us\n", us);
    return ATT_EXIT_OK;
}

/* ---- The table ----------------------------------------------------------------------------------------- */

const struct ctl_command ctl_commands[] = {
    {"query", "I J", "O[I][J] and its error bound", 2, 2, ctl_query},
    {"row", "I", "row I of the output, then the row's error bound", 1, 1, ctl_row},
    {"col", "J", "column J: a line VALUE ERROR_BOUND for each row", 1, 1, ctl_col},
    {"all", "OUT.npy", "write the whole output, all heads", 1, 1, ctl_all},
    {"update-k", "I J DELTA", "add DELTA to K[I][J]", 3, 3, run_update_k},
    {"update-v", "I J DELTA", "add DELTA to V[I][J]", 3, 3, run_update_v},
    {"set-k", "I X0 X1 ...", "replace the key of token I", 1, -1, run_set_k},
    {"set-v", "I X0 X1 ...", "replace the value of token I", 1, -1, run_set_v},
    {"set-q", "I X0 X1 ...", "replace row I of Q", 1, -1, run_set_q},
    {"set-b", "I X", "change token I's key bias (-inf masks it)", 2, 2, run_set_b},
    {"append", "[H:] K0 ... V0 ...", "add a token (to head H); prints its index", 0, -1, run_append},
    {"delete", "I", "delete token I", 1, 1, run_delete},
    {"replay", "--kind KIND.npy --index INDEX.npy --rows ROWS.npy [OPTION]...",
     "a trace (0: K, 1: V) [--from A] [--to B] [--head H]", 0, -1, ctl_replay},
    {"exec", "[FILE]", "run commands, one a line, from FILE or stdin", 0, 1, ctl_exec},
    {"flush", "", "wait until all acknowledged so far is on disk", 0, 0, run_flush},
    {"merge", "", "merge what is pending", 0, 0, run_merge},
    {"snapshot", "", "write a snapshot", 0, 0, run_snapshot},
    {"shutdown", "", "end the daemon; returns when it is gone", 0, 0, ctl_shutdown},
    {"ping", "", "round-trip time, the median of several", 0, 0, run_ping},
    {"stat", "", "the daemon's state", 0, 0, ctl_stat},
    {"metrics", "", "the same for Prometheus", 0, 0, ctl_metrics},
    {"top", "[SECONDS]", "a live view, every SECONDS [1]; q ends it", 0, 1, ctl_top},
    {NULL, NULL, NULL, 0, 0, NULL},
};

int ctl_find(struct ctl *ctl, int argc, char **argv, const struct ctl_command **ret_command)
{
    ctl->command = argv[0];
    for (const struct ctl_command *command = ctl_commands; command->name; command++) {
        if (strcmp(command->name, argv[0]) != 0)
            continue;
        int given = argc - 1;
        if (given < command->least || (command->most >= 0 && given > command->most))
            return ctl_error(ctl, ATT_EXIT_USAGE, "%d argument%s given; usage: %s%s%s", given, given == 1 ? "" : "s",
                             command->name, command->arguments[0] ? " " : "", command->arguments);
        *ret_command = command;
        return ATT_EXIT_OK;
    }
    return ctl_error(ctl, ATT_EXIT_USAGE, "unknown command");
}
