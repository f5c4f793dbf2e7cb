/* replay: a trace of row updates, pipelined.
 *
 * Updates of one session are applied and acknowledged in order. The tag of each request is its position in the trace,
 * so the first failure, and how far the acknowledgements went when the daemon dies, are known. After a failure nothing
 * more is sent, and what is in flight is waited for. */
#include "attnctl.h"

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "npy.h"
#include "progress.h"

enum {
    IN_FLIGHT = 8192,
    COMPLETIONS = 256,
    BLOCK_BYTES = 1024 * 1024,
    REPLAY_TIMEOUT_MS = 120 * 1000,
    QUIET_MS = 2000
};

struct trace {
    const char *kind_path, *index_path, *rows_path;
    uint64_t from, to; /* positions [from, to) */
    uint64_t count;    /* of the whole trace */
    uint32_t head;
    int64_t *kinds; /* of [from, to) */
    int64_t *indices;
    struct att_npy rows;
    float *block; /* block_rows rows from block_first on */
    uint64_t block_first, block_filled, block_rows;
};

struct run {
    uint64_t next; /* position to send */
    uint64_t acknowledged;
    uint64_t prefix; /* all before it are acknowledged */
    uint64_t failed_at;
    uint64_t lsn;
    enum att_status failed; /* ATT_OK: none has */
    char why[400];
    bool gone, silent, told;
};

/* ---- The files ----------------------------------------------------------------------------------------- */

static int parse_trace_options(struct ctl *ctl, struct trace *trace, int argc, char **argv)
{
    static const struct option options[] = {{"kind", required_argument, NULL, 'k'},
                                            {"index", required_argument, NULL, 'i'},
                                            {"rows", required_argument, NULL, 'r'},
                                            {"from", required_argument, NULL, 'f'},
                                            {"to", required_argument, NULL, 't'},
                                            {"head", required_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct att_error error = {0};
    enum att_status status = ATT_OK;
    int option;
    bool head_given = false;
    trace->to = UINT64_MAX;
    optind = 0; /* starts getopt afresh */
    opterr = 0;
    while (status == ATT_OK && (option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        switch (option) {
        case 'k':
            trace->kind_path = optarg;
            break;
        case 'i':
            trace->index_path = optarg;
            break;
        case 'r':
            trace->rows_path = optarg;
            break;
        case 'f':
            status = att_parse_u64("--from", optarg, 0, INT64_MAX, &trace->from, &error);
            break;
        case 't':
            status = att_parse_u64("--to", optarg, 0, INT64_MAX, &trace->to, &error);
            break;
        case 'h':
            head_given = true;
            status = att_parse_head("--head", optarg, ctl->info.heads, &trace->head, &error);
            if (status == ATT_ERANGE) /* the state has no such head: as of any other index */
                return ctl_error(ctl, ATT_EXIT_FAILURE, "%s", error.text);
            break;
        case ':':
            return ctl_error(ctl, ATT_EXIT_USAGE, "option '%s' needs a value", att_option_word(argv));
        default:
            return ctl_error(ctl, ATT_EXIT_USAGE, "unknown option '%s'", att_option_word(argv));
        }
    }
    if (status != ATT_OK)
        return ctl_error(ctl, ATT_EXIT_USAGE, "%s", error.text);
    if (optind < argc)
        return ctl_error(ctl, ATT_EXIT_USAGE, "unexpected argument '%s'", argv[optind]);
    if (!trace->kind_path || !trace->index_path || !trace->rows_path)
        return ctl_error(ctl, ATT_EXIT_USAGE, "--kind, --index and --rows are needed");
    if (!head_given && ctl->info.heads > 1) /* as a row without its head: nobody is to write to head 0 by mistake */
        return ctl_error(ctl, ATT_EXIT_USAGE, "there are %" PRIu32 " heads: --head H is needed", ctl->info.heads);
    if (trace->from > trace->to)
        return ctl_error(ctl, ATT_EXIT_USAGE, "--from %" PRIu64 " is behind --to %" PRIu64, trace->from, trace->to);
    return ATT_EXIT_OK;
}

/* Positions from..to-1 of a vector of integers, each within [0, limit). */
static enum att_status load_integers(const struct trace *trace, const char *path, const char *what, uint64_t limit,
                                     int64_t **ret, struct att_error *error)
{
    struct att_npy npy;
    uint64_t count = trace->to - trace->from;
    enum att_status status = att_npy_open(path, &npy, error);
    if (status != ATT_OK)
        return status;
    int64_t *numbers = malloc((count ? count : 1) * sizeof *numbers);
    if (!numbers)
        status = att_fail(error, ATT_ENOMEM, "%s: not enough memory", path);
    else if (npy.cols != 1 || npy.rows != trace->count)
        status =
            att_fail(error, ATT_EINVAL,
                     "%s: a vector of %" PRIu64 " is needed, one for each row of %s; it has %" PRIu64 " x %" PRIu64,
                     path, trace->count, trace->rows_path, npy.rows, npy.cols);
    else
        status = att_npy_read_int(&npy, numbers, trace->from, count, error);
    for (uint64_t i = 0; i < count && status == ATT_OK; i++)
        if (numbers[i] < 0 || (uint64_t)numbers[i] >= limit)
            status = att_fail(error, ATT_ERANGE, "%s: position %" PRIu64 ": %s %" PRId64 " is not from 0 to %" PRIu64,
                              path, trace->from + i, what, numbers[i], limit - 1);
    att_npy_close(&npy);
    if (status != ATT_OK)
        free(numbers);
    else
        *ret = numbers;
    return status;
}

/* The rows must be as wide as the widest matrix that the trace touches. */
static enum att_status check_width(const struct ctl *ctl, const struct trace *trace, struct att_error *error)
{
    uint64_t width = 0;
    for (uint64_t i = 0; i < trace->to - trace->from; i++) {
        uint64_t needed = trace->kinds[i] == 0 ? ctl->info.d : ctl->info.d_v;
        width = needed > width ? needed : width;
    }
    if (width == 0)
        return ATT_OK;
    return att_npy_expect(&trace->rows, "the trace's rows", trace->count, width, error);
}

static enum att_status open_trace(const struct ctl *ctl, struct trace *trace, struct att_error *error)
{
    enum att_status status = att_npy_open(trace->rows_path, &trace->rows, error);
    if (status != ATT_OK)
        return status;
    trace->count = trace->rows.rows;
    if (trace->to == UINT64_MAX)
        trace->to = trace->count;
    if (trace->from > trace->to || trace->to > trace->count)
        return att_fail(error, ATT_ERANGE,
                        "%s: positions %" PRIu64 " to %" PRIu64 " are not within its %" PRIu64 " updates",
                        trace->rows_path, trace->from, trace->to, trace->count);
    status = load_integers(trace, trace->kind_path, "kind", 2, &trace->kinds, error);
    if (status == ATT_OK)
        status = load_integers(trace, trace->index_path, "token", ctl->info.capacity, &trace->indices, error);
    if (status == ATT_OK)
        status = check_width(ctl, trace, error);
    if (status != ATT_OK)
        return status;
    uint64_t row_bytes = (trace->rows.cols ? trace->rows.cols : 1) * sizeof(float);
    trace->block_rows = BLOCK_BYTES / row_bytes ? BLOCK_BYTES / row_bytes : 1;
    trace->block = malloc(trace->block_rows * row_bytes);
    return trace->block ? ATT_OK : att_fail(error, ATT_ENOMEM, "not enough memory");
}

static void close_trace(struct trace *trace)
{
    free(trace->block);
    free(trace->indices);
    free(trace->kinds);
    att_npy_close(&trace->rows);
}

/* The row at a position; positions are asked for in ascending order. NULL: the file cannot be read on. */
static const float *trace_row(struct trace *trace, uint64_t position, struct att_error *error)
{
    if (trace->block_filled == 0 || position >= trace->block_first + trace->block_filled) {
        uint64_t left = trace->to - position;
        uint64_t rows = left < trace->block_rows ? left : trace->block_rows;
        if (att_npy_read_float(&trace->rows, trace->block, position, rows, error) != ATT_OK)
            return NULL;
        trace->block_first = position;
        trace->block_filled = rows;
    }
    return trace->block + (position - trace->block_first) * trace->rows.cols;
}

/* The numbers of a row that will be sent are finite. */
static enum att_status check_row(const struct ctl *ctl, const struct trace *trace, const float *row, uint64_t position,
                                 struct att_error *error)
{
    uint32_t count = trace->kinds[position - trace->from] == 0 ? ctl->info.d : ctl->info.d_v;
    for (uint32_t i = 0; i < count; i++)
        if (!isfinite(row[i]))
            return att_fail(error, ATT_ENOTFINITE, "%s: %g at row %" PRIu64 ", column %" PRIu32, trace->rows_path,
                            (double)row[i], position, i);
    return ATT_OK;
}

/* ---- The run ------------------------------------------------------------------------------------------- */

static void take_completion(struct run *run, const struct att_completion *done)
{
    if (done->status == ATT_OK) {
        run->acknowledged++;
        run->prefix += done->tag == run->prefix;
        if (done->lsn > run->lsn)
            run->lsn = done->lsn;
    } else if (run->failed == ATT_OK || done->tag < run->failed_at) {
        run->failed = done->status;
        run->failed_at = done->tag;
    }
}

/* Sends until the pipe is full, the trace ends or something fails. */
static enum att_status send_some(struct ctl *ctl, struct trace *trace, struct run *run, struct att_error *error)
{
    while (run->next < trace->to && run->failed == ATT_OK && att_in_flight(ctl->client) < IN_FLIGHT) {
        const float *row = trace_row(trace, run->next, error);
        if (!row)
            return error->status;
        uint64_t at = run->next - trace->from;
        bool is_key = trace->kinds[at] == 0;
        enum att_status status = check_row(ctl, trace, row, run->next, error);
        if (status != ATT_OK)
            return status;
        struct att_request request = {.type = ATT_REQ_SET_TOKEN,
                                      .head = trace->head,
                                      .index = (uint32_t)trace->indices[at],
                                      .key = is_key ? row : NULL,
                                      .value = is_key ? NULL : row,
                                      .tag = run->next};
        status = att_submit(ctl->client, &request);
        if (status == ATT_EBUSY && att_in_flight(ctl->client) > 0)
            break;
        if (status == ATT_ECLOSED) {
            run->gone = true;
            break;
        }
        if (status != ATT_OK)
            return att_fail(error, status, "position %" PRIu64 ": %s", run->next, att_last_error(ctl->client));
        run->next++;
    }
    att_push(ctl->client);
    return ATT_OK;
}

/* Once, when nothing comes: somebody may wonder. What was sent before a refusal may wait for room on a full disk. */
static void tell_waiting(struct run *run, const struct att_progress *bar, uint32_t timeout_ms)
{
    if (!run->told)
        fprintf(stderr, "%s" CTL_PROGRAM ": replay: %s; waiting up to %" PRIu32 " s for what was sent\n",
                bar->shown ? "\r\033[K" : "",
                run->failed != ATT_OK ? run->why : "no answer; attnctl stat may say what the daemon waits for",
                timeout_ms / 1000);
    run->told = true;
}

/* Waits for completions and takes them. The library keeps one message only, the last failure's. */
static void take_some(struct ctl *ctl, struct run *run, const struct att_progress *bar)
{
    struct att_completion done[COMPLETIONS];
    uint32_t timeout_ms = ctl->timeout_ms ? ctl->timeout_ms : REPLAY_TIMEOUT_MS;
    int got = att_complete(ctl->client, done, COMPLETIONS, timeout_ms < QUIET_MS ? timeout_ms : QUIET_MS);
    if (got == 0 && timeout_ms > QUIET_MS) {
        tell_waiting(run, bar, timeout_ms);
        got = att_complete(ctl->client, done, COMPLETIONS, timeout_ms - QUIET_MS);
    }
    int failures = 0;
    bool first = run->failed == ATT_OK;
    for (int i = 0; i < got; i++) {
        failures += done[i].status != ATT_OK;
        take_completion(run, &done[i]);
    }
    if (first && failures == 1) {
        snprintf(run->why, sizeof run->why, "%s", att_last_error(ctl->client));
    } else if (first && failures > 1) { /* the message may be another token's */
        char words[200];
        snprintf(run->why, sizeof run->why, "%s", ctl_words(ctl, run->failed, words, sizeof words));
    }
    run->gone = got < 0;
    run->silent = got == 0;
}

/* Reads and checks of our own fail into *error; what the daemon says goes into *run. */
static enum att_status run_trace(struct ctl *ctl, struct trace *trace, struct run *run, struct att_progress *bar,
                                 struct att_error *error)
{
    enum att_status status = ATT_OK;
    while (!run->silent) {
        if (status == ATT_OK && !run->gone)
            status = send_some(ctl, trace, run, error);
        if (!run->gone && att_in_flight(ctl->client) == 0)
            break;
        bool was_gone = run->gone;
        take_some(ctl, run, bar);
        att_progress_update(bar, run->acknowledged);
        if (was_gone && run->gone) /* the last replies are in */
            break;
        run->gone = run->gone || was_gone;
    }
    return status;
}

static void describe_acknowledged(const struct trace *trace, const struct run *run, char *text, size_t size)
{
    int used =
        snprintf(text, size, "%" PRIu64 " of %" PRIu64 " acknowledged", run->acknowledged, trace->to - trace->from);
    uint64_t prefix = run->prefix - trace->from;
    if (prefix > 0 && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, " (positions %" PRIu64 "..%" PRIu64 "%s)", trace->from,
                 run->prefix - 1, prefix == run->acknowledged ? "" : " and some after them");
}

static int report(struct ctl *ctl, const struct trace *trace, const struct run *run, enum att_status status,
                  const struct att_error *error, double seconds)
{
    char acknowledged[160];
    describe_acknowledged(trace, run, acknowledged, sizeof acknowledged);
    if (run->failed != ATT_OK) {
        uint64_t at = run->failed_at - trace->from;
        return ctl_error(ctl, ATT_EXIT_FAILURE, "update at position %" PRIu64 " (%s of token %" PRId64 "): %s; %s",
                         run->failed_at, trace->kinds[at] == 0 ? "key" : "value", trace->indices[at], run->why,
                         acknowledged);
    }
    if (status != ATT_OK)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "%s; %s", error->text, acknowledged);
    if (run->gone)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "daemon gone: %s", acknowledged);
    if (run->silent)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "the daemon does not reply: %s", acknowledged);
    double rate = seconds > 0 ? (double)run->acknowledged / seconds : 0;
    if (ctl->json)
        printf("{\"value\":%" PRIu64 ",\"seconds\":%.6f,\"rate\":%.1f,\"lsn\":%" PRIu64 "}\n", run->acknowledged,
               seconds, rate, run->lsn);
    else
        printf("%" PRIu64 " updates, %.0f/s\n", run->acknowledged, rate);
    return ATT_EXIT_OK;
}

int ctl_replay(struct ctl *ctl, int argc, char **argv)
{
    struct trace trace = {0};
    struct att_error error = {0};
    struct att_progress bar;
    int code = parse_trace_options(ctl, &trace, argc, argv);
    if (code != ATT_EXIT_OK)
        return code;
    if (open_trace(ctl, &trace, &error) != ATT_OK) {
        code = ctl_error(ctl, ATT_EXIT_FAILURE, "%s", error.text);
    } else {
        struct run run = {.next = trace.from, .prefix = trace.from};
        att_progress_start(&bar, "replay", trace.to - trace.from);
        enum att_status status = run_trace(ctl, &trace, &run, &bar, &error);
        double seconds = att_progress_end(&bar);
        code = report(ctl, &trace, &run, status, &error, seconds);
    }
    close_trace(&trace);
    return code;
}
