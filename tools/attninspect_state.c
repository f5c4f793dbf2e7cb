/* dump, query and row: the state after the whole log, in private engines. */
#include "attninspect.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "answer.h"
#include "npy.h"

enum { PATH_CHARS = 4096, MOST_RETRIES = 10 };

/* Beside a daemon that takes snapshots, the log may be trimmed between the reading of the snapshot and that of the log:
 * the store says ATT_AGAIN, and what is there now is read. */
enum att_status inspect_recover(struct inspect *inspect, unsigned overrides, struct att_heads *ret_heads,
                                struct att_recovery *ret_what, struct att_error *error)
{
    struct att_engine_options wanted = {.threads = 1};
    enum att_status status = att_recover(inspect->store, &wanted, overrides, ret_heads, NULL, ret_what, error);
    for (int i = 0; i < MOST_RETRIES && status == ATT_AGAIN; i++) {
        struct att_store *store;
        status = inspect_open(inspect->directory, &store, error);
        if (status != ATT_OK)
            return status;
        att_store_close(inspect->store);
        inspect->store = store;
        status = att_recover(store, &wanted, overrides, ret_heads, NULL, ret_what, error);
    }
    return status;
}

static int fail(const struct inspect *inspect, const struct att_error *error)
{
    return att_failure(INSPECT_PROGRAM, "%s: %s", inspect->directory, error->text);
}

/* ---- The tokens ---------------------------------------------------------------------------------------- */

enum att_status inspect_tokens_load(struct att_engine *const *engines, uint32_t heads, uint32_t d, uint32_t d_v,
                                    struct inspect_tokens *tokens, struct att_error *error)
{
    *tokens = (struct inspect_tokens){0};
    for (uint32_t head = 0; head < heads; head++) {
        struct att_engine_stats stats;
        att_engine_stats(engines[head], &stats);
        tokens->count = stats.tokens_used > tokens->count ? (uint32_t)stats.tokens_used : tokens->count;
    }
    size_t room = (tokens->count ? tokens->count : 1) * (size_t)heads;
    tokens->keys = calloc(room * d, sizeof(float));
    tokens->values = calloc(room * d_v, sizeof(float));
    tokens->biases = calloc(room, sizeof(float));
    tokens->live = calloc(room, 1);
    if (!tokens->keys || !tokens->values || !tokens->biases || !tokens->live)
        return att_fail(error, ATT_ENOMEM, "not enough memory for a copy of %" PRIu32 " tokens", tokens->count);
    for (size_t at = 0; at < (size_t)tokens->count * heads; at++) {
        enum att_status status =
            att_engine_token(engines[at / tokens->count], (uint32_t)(at % tokens->count), tokens->keys + at * d,
                             tokens->values + at * d_v, &tokens->biases[at], error);
        if (status != ATT_OK && status != ATT_ERANGE)
            return status;
        tokens->live[at] = status == ATT_OK;
        tokens->deleted += status != ATT_OK;
        tokens->biased = tokens->biased || tokens->biases[at] != 0;
    }
    return ATT_OK;
}

void inspect_tokens_release(struct inspect_tokens *tokens)
{
    free(tokens->live);
    free(tokens->biases);
    free(tokens->values);
    free(tokens->keys);
    *tokens = (struct inspect_tokens){0};
}

/* ---- dump ---------------------------------------------------------------------------------------------- */

static const char *file_in(char path[PATH_CHARS], const char *directory, const char *name)
{
    snprintf(path, PATH_CHARS, "%s/%s", directory, name);
    return path;
}

static enum att_status dump_q(const struct att_heads *heads, const struct att_state_shape *shape, const char *directory,
                              struct att_error *error)
{
    char path[PATH_CHARS];
    enum att_status status = ATT_OK;
    size_t rows = (size_t)heads->count * shape->n_q;
    float *q = malloc(rows * shape->d * sizeof *q);
    if (!q)
        return att_fail(error, ATT_ENOMEM, "not enough memory for a copy of Q");
    for (size_t i = 0; i < rows && status == ATT_OK; i++)
        status = att_engine_q(heads->engines[i / shape->n_q], (uint32_t)(i % shape->n_q), q + i * shape->d, error);
    if (status == ATT_OK)
        status = att_npy_write_heads(file_in(path, directory, "Q.npy"), ATT_NPY_F4, q, heads->count, shape->n_q,
                                     shape->d, error);
    free(q);
    return status;
}

/* A file that an earlier dump left and this state has no use for would tell lies about it. */
static enum att_status remove_stale(const char *path, struct att_error *error)
{
    if (unlink(path) == 0 || errno == ENOENT)
        return ATT_OK;
    return att_fail(error, ATT_EIO, "%s: cannot remove an earlier dump's file: %s", path, strerror(errno));
}

/* Deleted tokens are rows of zeros, which a state that is made from the arrays must not attend to. */
static void mask_deleted(const struct inspect_tokens *tokens, uint32_t heads)
{
    for (size_t at = 0; at < (size_t)tokens->count * heads; at++)
        if (!tokens->live[at])
            tokens->biases[at] = -INFINITY;
}

static enum att_status dump_tokens(const struct inspect_tokens *tokens, const struct att_state_shape *shape,
                                   const char *directory, struct att_error *error)
{
    char path[PATH_CHARS];
    uint32_t heads = shape->heads, count = tokens->count;
    mask_deleted(tokens, heads);
    enum att_status status =
        att_npy_write_heads(file_in(path, directory, "K.npy"), ATT_NPY_F4, tokens->keys, heads, count, shape->d, error);
    if (status == ATT_OK)
        status = att_npy_write_heads(file_in(path, directory, "V.npy"), ATT_NPY_F4, tokens->values, heads, count,
                                     shape->d_v, error);
    if (status != ATT_OK)
        return status;
    file_in(path, directory, "bias.npy");
    status = tokens->biased || tokens->deleted > 0
                 ? att_npy_write_heads(path, ATT_NPY_F4, tokens->biases, heads, count, 0, error)
                 : remove_stale(path, error);
    if (status != ATT_OK)
        return status;
    file_in(path, directory, "live.npy");
    return tokens->deleted > 0 ? att_npy_write_heads(path, ATT_NPY_U1, tokens->live, heads, count, 0, error)
                               : remove_stale(path, error);
}

int inspect_dump(struct inspect *inspect, char **argv)
{
    const char *directory = argv[1];
    struct att_heads heads;
    struct att_recovery what;
    struct inspect_tokens tokens = {0};
    struct att_error error = {0};
    if (strlen(directory) > PATH_CHARS - 16)
        return att_failure(INSPECT_PROGRAM, "OUTDIR: too long a path");
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return att_failure(INSPECT_PROGRAM, "%s: cannot create: %s", directory, strerror(errno));
    if (inspect_recover(inspect, 0, &heads, &what, &error) != ATT_OK)
        return fail(inspect, &error);
    const struct att_state_shape *shape = &what.snapshot.shape;
    enum att_status status = inspect_tokens_load(heads.engines, heads.count, shape->d, shape->d_v, &tokens, &error);
    if (status == ATT_OK)
        status = dump_q(&heads, shape, directory, &error);
    if (status == ATT_OK)
        status = dump_tokens(&tokens, shape, directory, &error);
    inspect_tokens_release(&tokens);
    att_heads_release(&heads);
    return status == ATT_OK ? ATT_EXIT_OK : fail(inspect, &error);
}

/* ---- query and row ------------------------------------------------------------------------------------- */

/* A row from its base, or, when that cannot give it, from the tokens. */
static enum att_status read_row(struct att_engine *engine, uint32_t row, double *values, double *bound,
                                struct att_error *error)
{
    enum att_status status = att_engine_row(engine, row, values, bound, error);
    if (status == ATT_AGAIN)
        status = att_engine_recompute(engine, row, values, bound, error);
    return status;
}

static enum att_status read_entry(struct att_engine *engine, uint32_t row, uint32_t column, double *values,
                                  double *bound, struct att_error *error)
{
    enum att_status status = att_engine_query(engine, row, column, &values[column], bound, error);
    if (status == ATT_AGAIN)
        status = att_engine_recompute(engine, row, values, bound, error);
    return status;
}

/* Reads a row of a head, or one entry of it: into values[column]. The indices are not checked yet. */
static enum att_status read_answer(const struct att_heads *heads, const struct att_state_shape *shape, uint32_t head,
                                   uint32_t row, const uint32_t *column, double *values, double *bound,
                                   struct att_error *error)
{
    if (row >= shape->n_q)
        return att_fail(error, ATT_ERANGE, "row %" PRIu32 " is outside Q, whose rows are 0..%" PRIu32, row,
                        shape->n_q - 1);
    if (column && *column >= shape->d_v)
        return att_fail(error, ATT_ERANGE, "column %" PRIu32 " is outside V, whose columns are 0..%" PRIu32, *column,
                        shape->d_v - 1);
    if (column)
        return read_entry(heads->engines[head], row, *column, values, bound, error);
    return read_row(heads->engines[head], row, values, bound, error);
}

/* Answers row `row`, or one column of it when `column` is not NULL. */
static int answer(struct inspect *inspect, const char *row_text, const char *column_text)
{
    struct att_heads heads;
    struct att_recovery what;
    struct att_snapshot_info snapshot;
    struct att_error error = {0};
    uint32_t head;
    uint32_t row;
    uint32_t column = 0;
    double bound = 0;
    if (column_text && att_parse_u32("column", column_text, 0, UINT32_MAX - 1, &column, &error) != ATT_OK)
        return att_usage_error(INSPECT_PROGRAM, "%s", error.text);
    if (att_store_snapshot(inspect->store, &snapshot, NULL, &error) != ATT_OK)
        return fail(inspect, &error);
    enum att_status status = att_parse_headed("row", row_text, snapshot.shape.heads, &head, &row, &error);
    if (status != ATT_OK)
        return status == ATT_ERANGE ? fail(inspect, &error) : att_usage_error(INSPECT_PROGRAM, "%s", error.text);
    if (inspect_recover(inspect, 0, &heads, &what, &error) != ATT_OK)
        return fail(inspect, &error);
    struct att_answer_style style = {.json = inspect->json, .exact = what.precision == ATT_DOUBLE};
    const struct att_state_shape *shape = &what.snapshot.shape;
    double *values = malloc(shape->d_v * sizeof *values);
    status = values ? read_answer(&heads, shape, head, row, column_text ? &column : NULL, values, &bound, &error)
                    : att_fail(&error, ATT_ENOMEM, "not enough memory");
    if (status == ATT_EMPTY)
        att_print_empty(stdout, style, column_text ? "value" : "values", what.last_lsn);
    else if (status == ATT_OK && column_text)
        att_print_query(stdout, style, values[column], bound, what.last_lsn);
    else if (status == ATT_OK)
        att_print_row(stdout, style, values, shape->d_v, bound, what.last_lsn);
    free(values);
    att_heads_release(&heads);
    return status == ATT_OK || status == ATT_EMPTY ? ATT_EXIT_OK : fail(inspect, &error);
}

int inspect_query(struct inspect *inspect, char **argv)
{
    return answer(inspect, argv[1], argv[2]);
}

int inspect_row(struct inspect *inspect, char **argv)
{
    return answer(inspect, argv[1], NULL);
}
