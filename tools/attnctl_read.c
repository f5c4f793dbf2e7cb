/* The commands that read the output: query, row, col, all. */
#include "attnctl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "npy.h"

static struct att_answer_style style(const struct ctl *ctl)
{
    return (struct att_answer_style){.json = ctl->json, .exact = ctl->info.precision == 2};
}

/* From the daemon's memory if --direct was given; the LSN of an empty row is the daemon's to tell. */
static enum att_status read_one(struct ctl *ctl, const struct att_request *request, struct att_completion *ret)
{
    enum att_status status = ATT_EMPTY;
    if (ctl->direct)
        status = att_call_direct(ctl->client, request, ret);
    return status == ATT_EMPTY ? ctl_call(ctl, request, CTL_TIMEOUT_MS, ret) : status;
}

int ctl_query(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_QUERY, .durable = ctl->durable};
    int code = ctl_parse_row(ctl, argv[1], &request);
    if (code == ATT_EXIT_OK)
        code = ctl_parse_column(ctl, argv[2], "V", ctl->info.d_v, &request);
    if (code != ATT_EXIT_OK)
        return code;
    enum att_status status = read_one(ctl, &request, &done);
    if (status == ATT_EMPTY)
        att_print_empty(stdout, style(ctl), "value", done.lsn);
    else if (status == ATT_OK)
        att_print_query(stdout, style(ctl), done.value, done.error_bound, done.lsn);
    else
        return ctl_status_error(ctl, status);
    return ATT_EXIT_OK;
}

int ctl_row(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_ROW, .durable = ctl->durable};
    int code = ctl_parse_row(ctl, argv[1], &request);
    if (code != ATT_EXIT_OK)
        return code;
    double *values = malloc(ctl->info.d_v * sizeof *values);
    if (!values)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "not enough memory");
    request.buffer = values;
    request.buffer_bytes = ctl->info.d_v * sizeof *values;
    enum att_status status = read_one(ctl, &request, &done);
    if (status == ATT_EMPTY)
        att_print_empty(stdout, style(ctl), "values", done.lsn);
    else if (status == ATT_OK)
        att_print_row(stdout, style(ctl), values, ctl->info.d_v, done.error_bound, done.lsn);
    else
        code = ctl_status_error(ctl, status);
    free(values);
    return code;
}

int ctl_col(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_COLUMN};
    int code = ctl_parse_headed_column(ctl, argv[1], &request);
    if (code != ATT_EXIT_OK)
        return code;
    request.buffer_bytes = (size_t)ctl->info.n_q * 2 * sizeof(double);
    double *pairs = malloc(request.buffer_bytes);
    if (!pairs)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "not enough memory for %zu bytes", request.buffer_bytes);
    request.buffer = pairs;
    enum att_status status = ctl_call(ctl, &request, CTL_SLOW_TIMEOUT_MS, &done);
    if (status == ATT_OK)
        att_print_column(stdout, style(ctl), pairs, ctl->info.n_q, done.lsn);
    else
        code = ctl_status_error(ctl, status);
    free(pairs);
    return code;
}

/* Rounds doubles to floats in place; returns how far the worst finite one moved. */
static double narrow(void *numbers, uint64_t count)
{
    char *at = numbers;
    double moved = 0;
    for (uint64_t i = 0; i < count; i++) {
        double wide;
        memcpy(&wide, at + i * sizeof wide, sizeof wide);
        float number = (float)wide;
        memcpy(at + i * sizeof number, &number, sizeof number);
        if (isfinite(wide))
            moved = fmax(moved, fabs((double)number - wide));
    }
    return moved;
}

static enum att_status write_all_output(struct ctl *ctl, const char *path, double *values, double *bound,
                                        struct att_error *error)
{
    const struct att_info *info = &ctl->info;
    bool exact = style(ctl).exact;
    double moved = exact ? 0 : narrow(values, (uint64_t)info->heads * info->n_q * info->d_v);
    if (moved > 0)
        *bound = nextafter(*bound + moved, INFINITY);
    return att_npy_write_heads(path, exact ? ATT_NPY_F8 : ATT_NPY_F4, values, info->heads, info->n_q, info->d_v, error);
}

/* Every head's output, one after the other: each is of one moment, they are not of the same. The completion says what
 * holds for all of them: the smallest LSN, the largest bound. */
static enum att_status read_heads(struct ctl *ctl, double *values, struct att_completion *ret)
{
    const size_t count = (size_t)ctl->info.n_q * ctl->info.d_v;
    *ret = (struct att_completion){.lsn = UINT64_MAX};
    for (uint32_t head = 0; head < ctl->info.heads; head++) {
        struct att_completion done = {0};
        struct att_request request = {.type = ATT_REQ_ALL,
                                      .head = head,
                                      .buffer = values + head * count,
                                      .buffer_bytes = count * sizeof *values};
        enum att_status status = ctl_call(ctl, &request, CTL_SLOW_TIMEOUT_MS, &done);
        if (status != ATT_OK)
            return status;
        ret->lsn = done.lsn < ret->lsn ? done.lsn : ret->lsn;
        ret->error_bound = done.error_bound > ret->error_bound ? done.error_bound : ret->error_bound;
    }
    return ATT_OK;
}

static void print_all(const struct ctl *ctl, const char *path, double bound, uint64_t lsn)
{
    char number[ATT_NUMBER_CHARS];
    att_format_bound(number, bound, style(ctl).exact);
    fputs("{\"file\":", stdout);
    att_print_json_string(stdout, path);
    printf(",\"heads\":%" PRIu32 ",\"rows\":%" PRIu32 ",\"columns\":%" PRIu32 ",\"error_bound\":%s,\"lsn\":%" PRIu64
           "}\n",
           ctl->info.heads, ctl->info.n_q, ctl->info.d_v, isfinite(bound) ? number : "null", lsn);
}

int ctl_all(struct ctl *ctl, int argc, char **argv)
{
    (void)argc;
    struct att_completion done;
    struct att_error error;
    size_t bytes = (size_t)ctl->info.heads * ctl->info.n_q * ctl->info.d_v * sizeof(double);
    double *values = malloc(bytes);
    if (!values)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "not enough memory for %zu bytes", bytes);
    int code = ATT_EXIT_OK;
    enum att_status status = read_heads(ctl, values, &done);
    if (status != ATT_OK)
        code = ctl_status_error(ctl, status);
    else if (write_all_output(ctl, argv[1], values, &done.error_bound, &error) != ATT_OK)
        code = ctl_error(ctl, ATT_EXIT_FAILURE, "%s", error.text);
    else if (ctl->json)
        print_all(ctl, argv[1], done.error_bound, done.lsn);
    free(values);
    return code;
}
