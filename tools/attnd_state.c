/* How the state comes to be: from arrays, or from its directory. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

/* What arrays and directories have in common; n_k decides what --tau means. */
static struct att_engine_options engine_options(const struct attnd_options *o, struct att_service *service, double n_k)
{
    return (struct att_engine_options){
        .precision = o->precision,
        .log_capacity = o->tau > 0.0 ? (uint32_t)fmax(64.0, ceil(pow(n_k, o->tau))) : o->log_capacity,
        .threads = o->threads,
        .eager = o->eager,
        .error_budget = o->error_budget,
        .on_completion = att_service_event,
        .context = service,
    };
}

/* A snapshot when the log has grown as large as the state, but not for less than 64 MiB. */
static struct att_service_options service_options(const struct attnd_options *o, const struct att_engine_options *e)
{
    const uint64_t state = 4ull * e->n_q * e->d + 4ull * e->capacity * (e->d + e->d_v + 1);

    return (struct att_service_options){
        .name = o->name,
        .capacity = e->capacity,
        .n_q = e->n_q,
        .d = e->d,
        .d_v = e->d_v,
        .scale = e->scale,
        .precision = e->precision,
        .durability = o->durability,
        .interval_ms = o->interval_ms,
        .snapshot_bytes = state > SNAPSHOT_LEAST_BYTES ? state : SNAPSHOT_LEAST_BYTES,
        .snapshot_seconds = SNAPSHOT_SECONDS,
    };
}

/* ---- From arrays ---- */

struct arrays {
    struct att_npy q, k, v, bias;
};

static void close_arrays(struct arrays *arrays)
{
    att_npy_close(&arrays->q);
    att_npy_close(&arrays->k);
    att_npy_close(&arrays->v);
    att_npy_close(&arrays->bias);
}

static enum att_status check_matrix(const struct att_npy *npy, struct att_error *error)
{
    if (npy->dims == 3 && npy->shape[0] != 1)
        return att_fail(error, ATT_EINVAL, "%s: %llu heads; this version serves one", npy->path,
                        (unsigned long long)npy->shape[0]);
    if (npy->dims < 2 || npy->rows == 0 || npy->cols == 0)
        return att_fail(error, ATT_EINVAL, "%s: a matrix of rows and columns is needed", npy->path);
    if (npy->rows > INT32_MAX || npy->cols > ATT_MAX_COLUMNS)
        return att_fail(error, ATT_EINVAL, "%s: %llu x %llu is too large: at most %d x %d", npy->path,
                        (unsigned long long)npy->rows, (unsigned long long)npy->cols, INT32_MAX, ATT_MAX_COLUMNS);
    return ATT_OK;
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
    if (status != ATT_OK)
        return status;
    if (arrays->q.cols != arrays->k.cols)
        return att_fail(error, ATT_EINVAL, "%s has %llu columns and %s has %llu: Q and K must have as many", o->q,
                        (unsigned long long)arrays->q.cols, o->k, (unsigned long long)arrays->k.cols);
    if (arrays->k.rows != arrays->v.rows)
        return att_fail(error, ATT_EINVAL, "%s has %llu rows and %s has %llu: K and V must have as many", o->k,
                        (unsigned long long)arrays->k.rows, o->v, (unsigned long long)arrays->v.rows);
    if (o->bias && (arrays->bias.rows * arrays->bias.cols != arrays->k.rows))
        return att_fail(error, ATT_EINVAL,
                        "%s has %llu numbers and %s has %llu rows: one bias for each token is needed", o->bias,
                        (unsigned long long)(arrays->bias.rows * arrays->bias.cols), o->k,
                        (unsigned long long)arrays->k.rows);
    if (o->capacity && o->capacity < arrays->k.rows)
        return att_fail(error, ATT_EINVAL, "--capacity %u is too small: it counts all tokens, and %s has %llu",
                        o->capacity, o->k, (unsigned long long)arrays->k.rows);
    return ATT_OK;
}

static enum att_status load_array(struct att_engine *engine, enum att_array array, const struct att_npy *npy,
                                  struct att_error *error)
{
    size_t bytes;
    float *memory = att_engine_array(engine, array, &bytes);
    enum att_status status = att_npy_read_float(npy, memory, 0, npy->rows, error);

    if (status == ATT_OK)
        status = att_npy_check_finite(npy->path, memory, npy->rows, npy->cols, array == ATT_ARRAY_BIAS, error);
    return status;
}

static enum att_status load_arrays(struct att_engine *engine, const struct arrays *arrays, struct att_error *error)
{
    size_t bytes;
    enum att_status status = load_array(engine, ATT_ARRAY_Q, &arrays->q, error);

    if (status == ATT_OK)
        status = load_array(engine, ATT_ARRAY_K, &arrays->k, error);
    if (status == ATT_OK)
        status = load_array(engine, ATT_ARRAY_V, &arrays->v, error);
    if (status == ATT_OK && arrays->bias.path)
        status = load_array(engine, ATT_ARRAY_BIAS, &arrays->bias, error);
    if (status != ATT_OK)
        return status;
    memset(att_engine_array(engine, ATT_ARRAY_LIVE, &bytes), 1, arrays->k.rows);
    return att_engine_prepare(engine, error);
}

enum att_status attnd_create(const struct attnd_options *o, struct att_service *service, struct attnd_state *ret_state,
                             struct att_error *error)
{
    const struct att_store_options store = store_options(o, service, true);
    struct arrays arrays = {0};
    struct att_engine_options engine;
    enum att_status status = open_arrays(o, &arrays, error);

    if (status == ATT_OK) {
        engine = engine_options(o, service, (double)arrays.k.rows);
        engine.n_q = (uint32_t)arrays.q.rows;
        engine.d = (uint32_t)arrays.q.cols;
        engine.d_v = (uint32_t)arrays.v.cols;
        engine.capacity = o->capacity ? o->capacity : (uint32_t)arrays.k.rows;
        engine.scale = o->scale_auto ? 1.0 / sqrt(engine.d) : o->scale;
        status = att_engine_create(&engine, &ret_state->engine, error);
    }
    if (status == ATT_OK)
        status = load_arrays(ret_state->engine, &arrays, error);
    close_arrays(&arrays);
    if (status == ATT_OK)
        status = att_store_open(o->directory, &store, &ret_state->store, error);
    if (status != ATT_OK)
        return status;
    ret_state->is_new = true;
    ret_state->service = service_options(o, &engine);
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
    engine = engine_options(o, service, snapshot.tokens_used);
    engine.capacity = o->capacity;
    status = att_recover(ret_state->store, &engine, overrides, &ret_state->engine, &recovered, error);
    if (status != ATT_OK)
        return status;
    if (recovered.warning)
        fprintf(stderr, "attnd: %s\n", recovered.warning);
    fprintf(stderr, "attnd: recovered %s: snapshot %llu at LSN %llu, %llu updates replayed, now at LSN %llu\n",
            o->directory, (unsigned long long)recovered.snapshot.generation, (unsigned long long)recovered.snapshot.lsn,
            (unsigned long long)recovered.records, (unsigned long long)recovered.last_lsn);
    engine.n_q = snapshot.shape.n_q;
    engine.d = snapshot.shape.d;
    engine.d_v = snapshot.shape.d_v;
    engine.capacity = recovered.capacity;
    engine.scale = recovered.scale;
    engine.precision = (enum att_precision)recovered.precision;
    ret_state->service = service_options(o, &engine);
    return ATT_OK;
}
