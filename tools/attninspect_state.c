/* dump, query and row: the state after the whole log, in a private engine. */
#include "attninspect.h"

#include <errno.h>
#include <inttypes.h>
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
enum att_status inspect_recover(struct inspect *inspect, unsigned overrides, struct att_engine **ret_engine,
                                struct att_recovery *ret_what, struct att_error *error)
{
    struct att_engine_options wanted = {.threads = 1};
    enum att_status status = att_recover(inspect->store, &wanted, overrides, ret_engine, ret_what, error);
    for (int i = 0; i < MOST_RETRIES && status == ATT_AGAIN; i++) {
        struct att_store *store;
        status = inspect_open(inspect->directory, &store, error);
        if (status != ATT_OK)
            return status;
        att_store_close(inspect->store);
        inspect->store = store;
        status = att_recover(store, &wanted, overrides, ret_engine, ret_what, error);
    }
    return status;
}

static int fail(const struct inspect *inspect, const struct att_error *error)
{
    return att_failure(INSPECT_PROGRAM, "%s: %s", inspect->directory, error->text);
}

/* ---- The tokens ---------------------------------------------------------------------------------------- */

enum att_status inspect_tokens_load(const struct att_engine *engine, uint32_t d, uint32_t d_v,
                                    struct inspect_tokens *tokens, struct att_error *error)
{
    struct att_engine_stats stats;
    att_engine_stats(engine, &stats);
    *tokens = (struct inspect_tokens){.count = (uint32_t)stats.tokens_used};
    size_t room = tokens->count ? tokens->count : 1;
    tokens->keys = calloc(room * d, sizeof(float));
    tokens->values = calloc(room * d_v, sizeof(float));
    tokens->biases = calloc(room, sizeof(float));
    tokens->live = calloc(room, 1);
    if (!tokens->keys || !tokens->values || !tokens->biases || !tokens->live)
        return att_fail(error, ATT_ENOMEM, "not enough memory for a copy of %" PRIu32 " tokens", tokens->count);
    for (uint32_t i = 0; i < tokens->count; i++) {
        enum att_status status = att_engine_token(engine, i, tokens->keys + (size_t)i * d,
                                                  tokens->values + (size_t)i * d_v, &tokens->biases[i], error);
        if (status != ATT_OK && status != ATT_ERANGE)
            return status;
        tokens->live[i] = status == ATT_OK;
        tokens->deleted += status != ATT_OK;
        tokens->biased = tokens->biased || tokens->biases[i] != 0;
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

static enum att_status dump_q(const struct att_engine *engine, const struct att_state_shape *shape,
                              const char *directory, struct att_error *error)
{
    char path[PATH_CHARS];
    enum att_status status = ATT_OK;
    float *q = malloc((size_t)shape->n_q * shape->d * sizeof *q);
    if (!q)
        return att_fail(error, ATT_ENOMEM, "not enough memory for a copy of Q");
    for (uint32_t i = 0; i < shape->n_q && status == ATT_OK; i++)
        status = att_engine_q(engine, i, q + (size_t)i * shape->d, error);
    if (status == ATT_OK)
        status = att_npy_write_float32(file_in(path, directory, "Q.npy"), q, shape->n_q, shape->d, error);
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

static enum att_status dump_tokens(const struct inspect_tokens *tokens, const struct att_state_shape *shape,
                                   const char *directory, struct att_error *error)
{
    char path[PATH_CHARS];
    enum att_status status =
        att_npy_write_float32(file_in(path, directory, "K.npy"), tokens->keys, tokens->count, shape->d, error);
    if (status == ATT_OK)
        status =
            att_npy_write_float32(file_in(path, directory, "V.npy"), tokens->values, tokens->count, shape->d_v, error);
    if (status != ATT_OK)
        return status;
    file_in(path, directory, "bias.npy");
    status = tokens->biased ? att_npy_write_float32(path, tokens->biases, tokens->count, 0, error)
                            : remove_stale(path, error);
    if (status != ATT_OK)
        return status;
    file_in(path, directory, "live.npy");
    return tokens->deleted > 0 ? att_npy_write_u8(path, tokens->live, tokens->count, 0, error)
                               : remove_stale(path, error);
}

int inspect_dump(struct inspect *inspect, char **argv)
{
    const char *directory = argv[1];
    struct att_engine *engine;
    struct att_recovery what;
    struct inspect_tokens tokens = {0};
    struct att_error error = {0};
    if (strlen(directory) > PATH_CHARS - 16)
        return att_failure(INSPECT_PROGRAM, "OUTDIR: too long a path");
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return att_failure(INSPECT_PROGRAM, "%s: cannot create: %s", directory, strerror(errno));
    if (inspect_recover(inspect, 0, &engine, &what, &error) != ATT_OK)
        return fail(inspect, &error);
    const struct att_state_shape *shape = &what.snapshot.shape;
    enum att_status status = inspect_tokens_load(engine, shape->d, shape->d_v, &tokens, &error);
    if (status == ATT_OK)
        status = dump_q(engine, shape, directory, &error);
    if (status == ATT_OK)
        status = dump_tokens(&tokens, shape, directory, &error);
    inspect_tokens_release(&tokens);
    att_engine_free(engine);
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

/* Answers row `row`, or one column of it when `column` is not NULL. */
static int answer(struct inspect *inspect, const char *row_text, const char *column_text)
{
    struct att_engine *engine;
    struct att_recovery what;
    struct att_error error = {0};
    uint32_t head;
    uint32_t row;
    uint32_t column = 0;
    double bound;
    if (column_text && att_parse_u32("column", column_text, 0, UINT32_MAX - 1, &column, &error) != ATT_OK)
        return att_usage_error(INSPECT_PROGRAM, "%s", error.text);
    if (att_parse_headed("row", row_text, 1, &head, &row, &error) != ATT_OK)
        return att_usage_error(INSPECT_PROGRAM, "%s", error.text);
    if (inspect_recover(inspect, 0, &engine, &what, &error) != ATT_OK)
        return fail(inspect, &error);
    struct att_answer_style style = {.json = inspect->json, .exact = what.precision == ATT_DOUBLE};
    uint32_t d_v = what.snapshot.shape.d_v;
    enum att_status status;
    double *values = malloc(d_v * sizeof *values);
    if (!values)
        status = att_fail(&error, ATT_ENOMEM, "not enough memory");
    else if (row >= what.snapshot.shape.n_q)
        status = att_fail(&error, ATT_ERANGE, "row %" PRIu32 " is outside Q, whose rows are 0..%" PRIu32, row,
                          what.snapshot.shape.n_q - 1);
    else if (column >= d_v)
        status = att_fail(&error, ATT_ERANGE, "column %" PRIu32 " is outside V, whose columns are 0..%" PRIu32, column,
                          d_v - 1);
    else if (column_text)
        status = read_entry(engine, row, column, values, &bound, &error);
    else
        status = read_row(engine, row, values, &bound, &error);
    if (status == ATT_EMPTY)
        att_print_empty(stdout, style, column_text ? "value" : "values", what.last_lsn);
    else if (status == ATT_OK && column_text)
        att_print_query(stdout, style, values[column], bound, what.last_lsn);
    else if (status == ATT_OK)
        att_print_row(stdout, style, values, d_v, bound, what.last_lsn);
    free(values);
    att_engine_free(engine);
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
