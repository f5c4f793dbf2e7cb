/* How the state comes to be: from arrays, or from its directory. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attnd.h"
#include "npy.h"

enum { SNAPSHOT_SECONDS = 300 };
#define SNAPSHOT_LEAST_BYTES (64ull << 20)

static struct att_store_options store_options(const struct attnd_options *o, struct att_service *service, bool create)
{
    return (struct att_store_options){
        .create = create,
        .durability = o->durability,
        .interval_ms = o->interval_ms,
        .on_event = att_service_event,
        .context = service,
    };
}

/* What arrays and directories have in common, the same for each head; n_k decides what --tau means. */
static struct att_engine_options engine_options(const struct attnd_options *o, struct att_service *service,
                                                uint32_t heads, double n_k)
{
    return (struct att_engine_options){
        .precision = o->precision,
        .log_capacity = o->tau > 0.0 ? (uint32_t)fmax(64.0, ceil(pow(n_k, o->tau))) : o->log_capacity,
        .threads = o->threads ? o->threads : att_heads_threads(heads),
        .eager = o->eager,
        .heads = heads,
        .causal = o->causal,
        .error_budget = o->error_budget,
        .on_completion = att_service_event,
        .context = service,
    };
}

/* A snapshot when the log has grown as large as the state, but not for less than 64 MiB. */
static struct att_service_options service_options(const struct attnd_options *o, const struct att_engine_options *e,
                                                  uint32_t heads)
{
    const uint64_t state = heads * (4ull * e->n_q * e->d + 4ull * e->capacity * (e->d + e->d_v + 1));

    return (struct att_service_options){
        .name = o->name,
        .directory = o->directory,
        .capacity = e->capacity,
        .n_q = e->n_q,
        .d = e->d,
        .d_v = e->d_v,
        .scale = e->scale,
        .precision = e->precision,
        .causal = e->causal,
        .durability = o->durability,
        .interval_ms = o->interval_ms,
        .snapshot_bytes = state > SNAPSHOT_LEAST_BYTES ? state : SNAPSHOT_LEAST_BYTES,
        .snapshot_seconds = SNAPSHOT_SECONDS,
    };
}

/* ---- From arrays ---- */

struct arrays {
    struct att_npy q, k, v, bias;
    uint32_t heads;
    uint64_t n_q, n_k; /* of each */
};

static void close_arrays(struct arrays *arrays)
{
    att_npy_close(&arrays->q);
    att_npy_close(&arrays->k);
    att_npy_close(&arrays->v);
    att_npy_close(&arrays->bias);
}

/* A matrix is one head, three dimensions are heads x rows x columns. */
static uint64_t heads_of(const struct att_npy *npy)
{
    return npy->dims == 3 ? npy->shape[0] : 1;
}

static enum att_status check_matrix(const struct att_npy *npy, struct att_error *error)
{
    if (npy->dims < 2 || npy->rows == 0 || npy->cols == 0)
        return att_fail(error, ATT_EINVAL, "%s: a matrix of rows and columns is needed, or heads x rows x columns",
                        npy->path);
    if (heads_of(npy) > ATT_MAX_HEADS)
        return att_fail(error, ATT_EINVAL, "%s: %llu heads are too many: at most %d", npy->path,
                        (unsigned long long)heads_of(npy), ATT_MAX_HEADS);
    if (npy->rows / heads_of(npy) > INT32_MAX || npy->cols > ATT_MAX_COLUMNS)
        return att_fail(error, ATT_EINVAL, "%s: %llu x %llu is too large: at most %d x %d", npy->path,
                        (unsigned long long)(npy->rows / heads_of(npy)), (unsigned long long)npy->cols, INT32_MAX,
                        ATT_MAX_COLUMNS);
    return ATT_OK;
}

/* One number for each token: of one head in whatever shape, of several as heads x n_k. */
static enum att_status check_bias(const struct arrays *arrays, struct att_error *error)
{
    const struct att_npy *bias = &arrays->bias, *k = &arrays->k;
    const unsigned long long heads = arrays->heads, n_k = arrays->n_k;

    if (heads > 1 && bias->dims >= 2 && bias->shape[0] != heads)
        return att_fail(error, ATT_EINVAL, "%s has %llu heads and %s has %llu: they must have as many", k->path, heads,
                        bias->path, (unsigned long long)bias->shape[0]);
    if (heads > 1 && (bias->dims < 2 || bias->rows * bias->cols != heads * n_k))
        return att_fail(error, ATT_EINVAL, "%s: one bias for each token of each head is needed: %llu x %llu",
                        bias->path, heads, n_k);
    if (bias->rows * bias->cols != heads * n_k)
        return att_fail(error, ATT_EINVAL,
                        "%s has %llu numbers and %s has %llu rows: one bias for each token is needed", bias->path,
                        (unsigned long long)(bias->rows * bias->cols), k->path, n_k);
    return ATT_OK;
}

/* Whether the shapes go together; all of them are matrices. */
static enum att_status check_arrays(const struct attnd_options *o, struct arrays *arrays, struct att_error *error)
{
    const struct att_npy *q = &arrays->q, *k = &arrays->k, *v = &arrays->v;
    const unsigned long long heads = heads_of(k);

    if (heads_of(q) != heads || heads_of(v) != heads)
        return att_fail(error, ATT_EINVAL, "%s has %llu head%s, %s has %llu and %s has %llu: they must have as many",
                        q->path, (unsigned long long)heads_of(q), heads_of(q) == 1 ? "" : "s", k->path, heads, v->path,
                        (unsigned long long)heads_of(v));
    arrays->heads = (uint32_t)heads;
    arrays->n_q = q->rows / heads;
    arrays->n_k = k->rows / heads;
    if (q->cols != k->cols)
        return att_fail(error, ATT_EINVAL, "%s has %llu columns and %s has %llu: Q and K must have as many", q->path,
                        (unsigned long long)q->cols, k->path, (unsigned long long)k->cols);
    if (k->rows != v->rows)
        return att_fail(error, ATT_EINVAL, "%s has %llu rows and %s has %llu: K and V must have as many", k->path,
                        (unsigned long long)arrays->n_k, v->path, (unsigned long long)(v->rows / heads));
    if (o->capacity && o->capacity < arrays->n_k)
        return att_fail(error, ATT_EINVAL, "--capacity %u is too small: it counts all tokens, and %s has %llu",
                        o->capacity, k->path, (unsigned long long)arrays->n_k);
    if (o->causal && arrays->n_q != arrays->n_k)
        return att_fail(error, ATT_EINVAL,
                        "--causal: %s has %llu rows and %s has %llu: row i sees tokens 0..i, so they must "
                        "have as many",
                        q->path, (unsigned long long)arrays->n_q, k->path, (unsigned long long)arrays->n_k);
    return o->bias ? check_bias(arrays, error) : ATT_OK;
}

static enum att_status open_arrays(const struct attnd_options *o, struct arrays *arrays, struct att_error *error)
{
    enum att_status status = att_npy_open(o->q, &arrays->q, error);

    if (status == ATT_OK)
        status = att_npy_open(o->k, &arrays->k, error);
    if (status == ATT_OK)
        status = att_npy_open(o->v, &arrays->v, error);
    if (status == ATT_OK && o->bias)
        status = att_npy_open(o->bias, &arrays->bias, error);
    if (status == ATT_OK)
        status = check_matrix(&arrays->q, error);
    if (status == ATT_OK)
        status = check_matrix(&arrays->k, error);
    if (status == ATT_OK)
        status = check_matrix(&arrays->v, error);
    return status == ATT_OK ? check_arrays(o, arrays, error) : status;
}

/* A head's part of the file: `rows` rows of it. */
static enum att_status load_array(struct att_engine *engine, enum att_array array, const struct att_npy *npy,
                                  uint32_t head, uint64_t rows, struct att_error *error)
{
    size_t bytes;
    float *memory = att_engine_array(engine, array, &bytes);
    enum att_status status = att_npy_read_float(npy, memory, head * rows, rows, error);

    if (status == ATT_OK)
        status = att_npy_check_finite(npy->path, memory, rows, npy->cols, array == ATT_ARRAY_BIAS, error);
    return status;
}

static enum att_status load_head(struct att_engine *engine, const struct arrays *arrays, uint32_t head,
                                 struct att_error *error)
{
    /* A bias file may be one row for each head, or a column. */
    const uint64_t bias_rows = arrays->bias.path ? arrays->bias.rows / arrays->heads : 0;
    size_t bytes;
    enum att_status status = load_array(engine, ATT_ARRAY_Q, &arrays->q, head, arrays->n_q, error);

    if (status == ATT_OK)
        status = load_array(engine, ATT_ARRAY_K, &arrays->k, head, arrays->n_k, error);
    if (status == ATT_OK)
        status = load_array(engine, ATT_ARRAY_V, &arrays->v, head, arrays->n_k, error);
    if (status == ATT_OK && arrays->bias.path)
        status = load_array(engine, ATT_ARRAY_BIAS, &arrays->bias, head, bias_rows, error);
    if (status != ATT_OK)
        return status;
    memset(att_engine_array(engine, ATT_ARRAY_LIVE, &bytes), 1, arrays->n_k);
    return att_engine_prepare(engine, error);
}

/* The heads' engines, filled. */
static enum att_status build_heads(const struct att_engine_options *options, const struct arrays *arrays,
                                   struct att_heads *heads, struct att_error *error)
{
    enum att_status status = att_heads_init(heads, arrays->heads, error);

    for (uint32_t head = 0; head < arrays->heads && status == ATT_OK; head++) {
        status = att_engine_create(options, &heads->engines[head], error);
        if (status == ATT_OK)
            status = load_head(heads->engines[head], arrays, head, error);
        if (status != ATT_OK)
            att_heads_fail(arrays->heads, head, error);
    }
    return status;
}

enum att_status attnd_create(const struct attnd_options *o, struct att_service *service, struct attnd_state *ret_state,
                             struct att_error *error)
{
    const struct att_store_options store = store_options(o, service, true);
    struct arrays arrays = {0};
    struct att_engine_options engine;
    enum att_status status = open_arrays(o, &arrays, error);

    if (status == ATT_OK) {
        engine = engine_options(o, service, arrays.heads, (double)arrays.n_k);
        engine.n_q = (uint32_t)arrays.n_q;
        engine.d = (uint32_t)arrays.q.cols;
        engine.d_v = (uint32_t)arrays.v.cols;
        engine.capacity = o->capacity ? o->capacity : (uint32_t)arrays.n_k;
        engine.scale = o->scale_auto ? 1.0 / sqrt(engine.d) : o->scale;
        status = build_heads(&engine, &arrays, &ret_state->heads, error);
    }
    close_arrays(&arrays);
    if (status == ATT_OK)
        status = att_store_open(o->directory, &store, &ret_state->store, error);
    if (status != ATT_OK)
        return status;
    ret_state->unsaved = true;
    ret_state->sessions = att_sessions_create();
    if (!ret_state->sessions)
        return att_fail(error, ATT_ENOMEM, "not enough memory");
    ret_state->service = service_options(o, &engine, ret_state->heads.count);
    return ATT_OK;
}

/* ---- From the directory ---- */

static enum att_status check_scale(const struct attnd_options *o, const struct att_state_shape *shape,
                                   struct att_error *error)
{
    const double scale = o->scale_auto ? 1.0 / sqrt(shape->d) : o->scale;

    if (!o->scale_given || scale == shape->scale)
        return ATT_OK;
    return att_fail(error, ATT_EINVAL, "%s was created with --scale %.17g, not %.17g: leave the option out",
                    o->directory, shape->scale, scale);
}

enum att_status attnd_recover(const struct attnd_options *o, struct att_service *service, struct attnd_state *ret_state,
                              struct att_error *error)
{
    const struct att_store_options store = store_options(o, service, false);
    const unsigned overrides =
        (o->precision_given ? ATT_OVERRIDE_PRECISION : 0) | (o->capacity ? ATT_OVERRIDE_CAPACITY : 0);
    struct att_engine_options engine;
    struct att_snapshot_info snapshot;
    struct att_recovery recovered;
    const char *warning;
    enum att_status status = att_store_open(o->directory, &store, &ret_state->store, error);

    if (status == ATT_OK)
        status = att_store_snapshot(ret_state->store, &snapshot, &warning, error);
    if (status == ATT_OK)
        status = check_scale(o, &snapshot.shape, error);
    if (status != ATT_OK)
        return status;
    engine = engine_options(o, service, snapshot.shape.heads, snapshot.tokens_used);
    engine.capacity = o->capacity;
    ret_state->sessions = att_sessions_create();
    if (!ret_state->sessions)
        return att_fail(error, ATT_ENOMEM, "not enough memory");
    status =
        att_recover(ret_state->store, &engine, overrides, &ret_state->heads, ret_state->sessions, &recovered, error);
    if (status != ATT_OK)
        return status;
    if (recovered.warning)
        fprintf(stderr, "attnd: %s\n", recovered.warning);
    fprintf(stderr, "attnd: recovered %s: snapshot %llu at LSN %llu, %llu updates replayed, now at LSN %llu\n",
            o->directory, (unsigned long long)recovered.snapshot.generation, (unsigned long long)recovered.snapshot.lsn,
            (unsigned long long)recovered.records, (unsigned long long)recovered.last_lsn);
    /* What only the new shape takes could not be replayed into the old one, after a crash and without the options. */
    ret_state->unsaved =
        recovered.capacity != snapshot.shape.capacity || recovered.precision != snapshot.shape.precision;
    engine.n_q = snapshot.shape.n_q;
    engine.d = snapshot.shape.d;
    engine.d_v = snapshot.shape.d_v;
    engine.capacity = recovered.capacity;
    engine.scale = recovered.scale;
    engine.precision = (enum att_precision)recovered.precision;
    engine.causal = snapshot.shape.causal != 0;
    ret_state->service = service_options(o, &engine, ret_state->heads.count);
    return ATT_OK;
}
