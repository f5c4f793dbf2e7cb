/* The engine's life: creating, filling, starting, jobs, statistics. Updates are in update.c, reads in reader.c, the
 * merge thread in worker.c. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_impl.h"
#include "reader.h"

static const char *const precision_names[] = {"single", "mixed", "double"};

/* ---- Creating and freeing ---- */

static enum att_status check_options(const struct att_engine_options *o, struct att_error *error)
{
    if (o->n_q == 0 || o->n_q > INT32_MAX || o->capacity == 0 || o->capacity > INT32_MAX)
        return att_fail(error, ATT_EINVAL,
                        "Q has %u rows and there is room for %u tokens: both must be 1 to 2147483647", o->n_q,
                        o->capacity);
    if (o->d == 0 || o->d > ATT_MAX_COLUMNS || o->d_v == 0 || o->d_v > ATT_MAX_COLUMNS)
        return att_fail(error, ATT_EINVAL, "d is %u and d_v is %u: both must be 1 to %d", o->d, o->d_v,
                        ATT_MAX_COLUMNS);
    if (!(fabs(o->scale) <= ATT_LARGEST_SCALE))
        return att_fail(error, ATT_EINVAL, "the scale is %g: it must be a number from %g to %g", o->scale,
                        -ATT_LARGEST_SCALE, ATT_LARGEST_SCALE);
    if (o->precision > ATT_DOUBLE)
        return att_fail(error, ATT_EINVAL, "unknown precision %d", (int)o->precision);
    if (!(o->error_budget >= 0.0) || isinf(o->error_budget))
        return att_fail(error, ATT_EINVAL, "the error budget is %g: it must be a positive number", o->error_budget);
    if (o->log_capacity > INT32_MAX / 2)
        return att_fail(error, ATT_EINVAL, "a log of %u entries is too large: at most %d", o->log_capacity,
                        INT32_MAX / 2);
    return ATT_OK;
}

/* 2 n^(3/4) entries, from 1,024 to 4,096: merges stay rare enough that their fixed costs vanish, the worst query stays
 * short, and the ring stays in the cache. */
static uint32_t choose_log_capacity(const struct att_engine_options *o)
{
    double wanted = o->log_capacity;

    if (wanted == 0.0)
        wanted = fmin(fmax(2.0 * pow(o->capacity, 0.75), 1024.0), 4096.0);
    return ((uint32_t)fmax(wanted, 64.0) + 63) / 64 * 64;
}

static bool allocate(struct att_engine *engine)
{
    struct att_index *index = &engine->index;
    struct att_merger *merger = &engine->merger;
    const size_t capacity = engine->region.capacity, n_q = engine->region.n_q;

    index->newest = calloc(capacity, sizeof *index->newest);
    index->live = calloc(capacity, sizeof *index->live);
    index->newest_q = calloc(n_q, sizeof *index->newest_q);
    index->q_norm = calloc(n_q, sizeof *index->q_norm);
    if (!att_peak_init(&index->q_peak, engine->region.n_q) || !att_peak_init(&index->g_peak, engine->region.capacity))
        return false;
    index->free = att_free_tokens_create(engine->region.capacity);
    index->scratch = calloc((size_t)engine->region.d + engine->region.d_v, sizeof(float));
    merger->heads = calloc(capacity, sizeof *merger->heads);
    merger->newest = calloc(capacity, sizeof *merger->newest);
    merger->changed_q = calloc(n_q, sizeof *merger->changed_q);
    merger->settled_q_version = calloc(n_q, sizeof *merger->settled_q_version);
    merger->review = calloc(n_q, sizeof *merger->review);
    merger->wide.rows = calloc(n_q, sizeof *merger->wide.rows);
    merger->needs_refresh = calloc(n_q, sizeof *merger->needs_refresh);
    merger->occupied = calloc(engine->region.tiles, sizeof *merger->occupied);
    merger->wanted = calloc(engine->region.physical_tiles, sizeof *merger->wanted);
    engine->last_read = calloc(n_q, sizeof *engine->last_read);
    merger->spare = calloc(engine->options.threads, sizeof *merger->spare);
    return index->newest && index->live && index->newest_q && index->q_norm && index->free && index->scratch &&
           merger->heads && merger->newest && merger->changed_q && merger->settled_q_version && merger->review &&
           merger->wide.rows && merger->needs_refresh && merger->spare && merger->occupied && merger->wanted &&
           engine->last_read && att_saving_init(engine);
}

enum att_status att_engine_create(const struct att_engine_options *options, struct att_engine **ret_engine,
                                  struct att_error *error)
{
    enum att_status status = check_options(options, error);
    struct att_engine *engine;

    if (status == ATT_OK)
        status = att_kernel_check(error);
    if (status != ATT_OK)
        return status;
    engine = calloc(1, sizeof *engine);
    if (!engine)
        return att_fail(error, ATT_ENOMEM, "not enough memory for an engine");
    engine->options = *options;
    for (int i = 0; i < ATT_REGION_FDS; i++)
        engine->region_fds[i] = -1;
    engine->options.log_capacity = choose_log_capacity(options);
    engine->options.threads = options->threads ? options->threads : (uint32_t)omp_get_num_procs();
#ifdef ATTND_TSAN
    engine->options.threads = 1; /* it does not know libgomp's barriers */
#endif
    engine->options.error_budget =
        att_numerics(options->precision, options->d, options->capacity, options->error_budget).budget;
    snprintf(engine->base_tag, sizeof engine->base_tag, "weights5-%s-tile%ux%u%s", precision_names[options->precision],
             (unsigned)ATT_TILE_ROWS, ATT_HEAD_COLUMNS + options->d_v, options->causal ? "-causal" : "");
    status = att_region_create(&engine->options, &engine->region, engine->region_fds, error);
    if (status != ATT_OK)
        goto free_engine;
    status = ATT_ENOMEM;
    if (!allocate(engine)) {
        att_fail(error, ATT_ENOMEM, "not enough memory for the index of %u tokens", options->capacity);
        goto free_engine;
    }
    status = att_fold_init(engine, error);
    if (status != ATT_OK)
        goto free_engine;
    for (uint32_t thread = 0; thread < engine->options.threads; thread++)
        engine->merger.spare[thread] = engine->region.tiles + thread;
    att_policy_init(engine);
    *ret_engine = engine;
    return ATT_OK;

free_engine:
    att_engine_free(engine);
    return status;
}

void att_engine_free(struct att_engine *engine)
{
    if (!engine)
        return;
    att_worker_stop(engine);
    att_saving_free(engine);
    att_fold_free(engine);
    free(engine->index.newest);
    free(engine->index.live);
    free(engine->index.newest_q);
    free(engine->index.q_norm);
    att_peak_release(&engine->index.q_peak);
    att_peak_release(&engine->index.g_peak);
    free(engine->index.free);
    free(engine->index.scratch);
    free(engine->merger.heads);
    free(engine->merger.newest);
    free(engine->merger.changed_q);
    free(engine->merger.settled_q_version);
    free(engine->merger.review);
    free(engine->merger.wide.rows);
    free(engine->merger.needs_refresh);
    free(engine->merger.spare);
    free(engine->merger.occupied);
    free(engine->merger.wanted);
    free(engine->last_read);
    att_region_release(&engine->region);
    for (int i = 0; i < ATT_REGION_FDS; i++)
        if (engine->region_fds[i] >= 0)
            close(engine->region_fds[i]);
    free(engine);
}

/* ---- Filling ---- */

void *att_engine_array(struct att_engine *engine, enum att_array array, size_t *ret_bytes)
{
    const struct att_region *r = &engine->region;
    void *const memory[ATT_ARRAY_BASES] = {r->q, r->k, r->v, r->bias, r->live};
    const size_t bytes[ATT_ARRAY_BASES] = {sizeof(float) * r->n_q * r->d, sizeof(float) * r->capacity * r->d,
                                           sizeof(float) * r->capacity * r->d_v, sizeof(float) * r->capacity,
                                           r->capacity};

    *ret_bytes = bytes[array];
    return memory[array];
}

enum att_status att_engine_restore(struct att_engine *engine, const struct att_piece *piece, struct att_error *error)
{
    uint8_t *memory = engine->region.physical;
    size_t bytes = engine->region.tiles * engine->region.tile_bytes;

    if ((unsigned)piece->array >= ATT_ARRAY_COUNT)
        return att_fail(error, ATT_ECORRUPT, "a piece of unknown array %d", (int)piece->array);
    if (piece->array != ATT_ARRAY_BASES)
        memory = att_engine_array(engine, piece->array, &bytes);
    if (piece->offset > bytes || piece->bytes > bytes - piece->offset)
        return att_fail(error, ATT_ECORRUPT, "a piece of array %d does not fit: %llu bytes from %llu on of %zu",
                        (int)piece->array, (unsigned long long)piece->bytes, (unsigned long long)piece->offset, bytes);
    memcpy(memory + piece->offset, piece->data, piece->bytes);
    if (piece->array == ATT_ARRAY_BASES && piece->bytes > 0) {
        uint32_t tiles = (uint32_t)((piece->offset + piece->bytes - 1) / engine->region.tile_bytes) + 1;
        engine->merger.restored_tiles = tiles > engine->merger.restored_tiles ? tiles : engine->merger.restored_tiles;
    }
    return ATT_OK;
}

const char *att_engine_base_tag(const struct att_engine *engine)
{
    return engine->base_tag;
}

void att_engine_set_lsn(struct att_engine *engine, uint64_t lsn)
{
    engine->index.lsn = lsn;
    engine->merger.settled_lsn = lsn;
    atomic_store_explicit(&engine->settled_lsn, lsn, memory_order_relaxed);
}

void att_engine_expect(struct att_engine *engine, uint64_t updates)
{
    engine->expected = updates;
}

/* ---- Starting ---- */

static enum att_status index_tokens(struct att_engine *engine, struct att_error *error)
{
    const struct att_region *region = &engine->region;
    struct att_index *index = &engine->index;

    for (uint32_t token = 0; token < region->capacity; token++) {
        struct att_token value = {.key = region->k + (size_t)token * region->d,
                                  .value = region->v + (size_t)token * region->d_v,
                                  .bias = region->bias[token]};
        enum att_status status;
        if (!region->live[token])
            continue;
        status = att_check_token(engine, token, &value, error);
        if (status != ATT_OK)
            return status;
        memcpy(engine->merger.heads[token], value.head, sizeof value.head);
        att_door_note_token(engine, token, value.head);
        index->visible += value.bias > -INFINITY;
        index->live[token] = value.bias > -INFINITY ? ATT_VISIBLE : ATT_HIDDEN;
        index->live_count++;
        index->used = token + 1;
        att_free_tokens_take(index->free, token);
    }
    engine->merger.used = index->used;
    return ATT_OK;
}

/* A restored tile is used where it makes sense; a row it does not hold starts cold. */
static void index_bases(struct att_engine *engine)
{
    const struct att_region *region = &engine->region;

    /* Only tiles that were restored: looking at the others would already give them memory. */
    for (uint32_t slot = 0; slot < engine->merger.restored_tiles * ATT_TILE_ROWS; slot++) {
        struct att_tile *tile = att_region_tile(region, slot / ATT_TILE_ROWS);
        struct att_row *row = &tile->rows[slot % ATT_TILE_ROWS];
        const uint32_t id = att_row_id(row);
        tile->position = 0;
        if (id == ATT_NO_ROW)
            continue;
        if (id >= region->n_q || slot >= region->n_q ||
            atomic_load_explicit(&region->slots[id], memory_order_relaxed) != ATT_NO_SLOT) {
            att_row_set_id(row, ATT_NO_ROW);
            continue;
        }
        row->q_version = 0;
        atomic_store_explicit(&region->slots[id], slot, memory_order_relaxed);
        atomic_fetch_add_explicit(&engine->rows_hot, 1, memory_order_relaxed);
        att_slot_occupy(engine, slot);
    }
}

enum att_status att_engine_prepare(struct att_engine *engine, struct att_error *error)
{
    enum att_status status = ATT_OK;

    if (engine->prepared)
        return ATT_OK;
    for (uint32_t row = 0; row < engine->region.n_q && status == ATT_OK; row++) {
        double norm;
        status = att_check_q(engine, row, engine->region.q + (size_t)row * engine->region.d, &norm, error);
        if (status == ATT_OK)
            att_door_note_q(engine, row, norm);
    }
    if (status == ATT_OK)
        status = index_tokens(engine, error);
    if (status != ATT_OK)
        return status;
    index_bases(engine);
    engine->prepared = true;
    return ATT_OK;
}

enum att_status att_engine_start(struct att_engine *engine, struct att_error *error)
{
    enum att_status status = att_engine_prepare(engine, error);

    if (status != ATT_OK)
        return status;
    for (uint32_t row = 0; row < engine->region.n_q; row++)
        if (atomic_load_explicit(&engine->region.slots[row], memory_order_relaxed) == ATT_NO_SLOT)
            att_mark_for_refresh(engine, row);
    if (atomic_load_explicit(&engine->merges, memory_order_relaxed) > 0)
        (void)omp_pause_resource_all(omp_pause_soft); /* ends this thread's team: the merge thread has its own */
    engine->index.started = true;
    return att_worker_start(engine, error);
}

/* ---- Reads and jobs ---- */

static enum att_status check_row(const struct att_engine *engine, uint32_t row, struct att_error *error)
{
    if (row < engine->region.n_q)
        return ATT_OK;
    return att_fail(error, ATT_ERANGE, "row %u is out of range: Q has %u rows", row, engine->region.n_q);
}

/* Books a read that its base answered. */
static void note_read(struct att_engine *engine, uint32_t row, uint32_t columns)
{
    const uint64_t pending =
        engine->index.count - atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);

    if (pending > 0)
        att_policy_spend(engine, pending, columns);
    att_policy_note_read(engine, row);
}

enum att_status att_engine_query(struct att_engine *engine, uint32_t row, uint32_t column, double *ret_value,
                                 double *ret_error_bound, struct att_error *error)
{
    enum att_status status;

    if (column >= engine->region.d_v)
        return att_fail(error, ATT_ERANGE, "column %u is out of range: V has %u columns", column, engine->region.d_v);
    if (check_row(engine, row, error) != ATT_OK)
        return ATT_ERANGE;
    engine->index.queries++;
    status = att_read_entry(&engine->region, row, column, ret_value, ret_error_bound);
    if (status == ATT_OK)
        note_read(engine, row, ATT_HEAD_COLUMNS + 1);
    return status;
}

void att_engine_ahead(const struct att_engine *engine, uint32_t row, uint32_t column)
{
    if (row < engine->region.n_q && column < engine->region.d_v)
        att_read_ahead(&engine->region, row, column);
}

enum att_status att_engine_row(struct att_engine *engine, uint32_t row, double *ret_values, double *ret_error_bound,
                               struct att_error *error)
{
    enum att_status status;

    if (check_row(engine, row, error) != ATT_OK)
        return ATT_ERANGE;
    engine->index.queries++;
    status = att_read_row(&engine->region, row, ret_values, ret_error_bound);
    if (status == ATT_OK)
        note_read(engine, row, engine->region.columns);
    return status;
}

void att_engine_note_reads(struct att_engine *engine, uint32_t row, uint32_t columns, uint32_t count)
{
    if (row >= engine->region.n_q || count == 0)
        return;
    const uint64_t pending =
        engine->index.count - atomic_load_explicit(&engine->region.header->settled, memory_order_relaxed);
    engine->index.queries += count;
    if (pending > 0)
        att_policy_spend_many(engine, pending, ATT_HEAD_COLUMNS + columns, count);
    att_policy_note_read(engine, row);
}

void att_engine_submit(struct att_engine *engine, struct att_job *job)
{
    struct att_job *head = atomic_load_explicit(&engine->submitted, memory_order_relaxed);

    att_entries_offer(engine); /* before the job: it is in it */
    if (att_job_is_row(job)) {
        job->keep = att_policy_keep(engine, job->index);
        att_policy_note_read(engine, job->index);
    }
    do
        job->next = head;
    /* Release: the job. Partner: the acquire in worker.c's take_jobs. */
    while (!atomic_compare_exchange_weak_explicit(&engine->submitted, &head, job, memory_order_release,
                                                  memory_order_relaxed));
    att_engine_kick(engine);
}

struct att_job *att_engine_completed(struct att_engine *engine)
{
    struct att_job *job;

    if (!engine->completed)
        /* Acquire: partner is the release in att_job_finish. */
        engine->completed = atomic_exchange_explicit(&engine->finished, NULL, memory_order_acquire);
    job = engine->completed;
    if (job)
        engine->completed = job->next;
    return job;
}

enum att_status att_engine_recompute(struct att_engine *engine, uint32_t row, double *ret_values,
                                     double *ret_error_bound, struct att_error *error)
{
    struct att_job job = {.kind = ATT_JOB_ROW, .index = row, .values = ret_values, .bounds = ret_error_bound};

    if (check_row(engine, row, error) != ATT_OK)
        return ATT_ERANGE;
    att_entries_offer(engine);
    att_job_row_now(engine, &job);
    return job.status;
}

/* ---- State ---- */

void att_engine_stats(const struct att_engine *engine, struct att_engine_stats *ret_stats)
{
    const struct att_region *region = &engine->region;
    const uint64_t hot = atomic_load_explicit(&engine->rows_hot, memory_order_acquire);

    *ret_stats = (struct att_engine_stats){
        .log_pending = engine->index.count - atomic_load_explicit(&region->header->settled, memory_order_relaxed),
        .log_capacity = region->log_capacity,
        .merges = atomic_load_explicit(&engine->merges, memory_order_relaxed),
        .refreshes = atomic_load_explicit(&engine->refreshes, memory_order_relaxed),
        .updates = engine->index.updates,
        .queries = engine->index.queries,
        .rows_hot = hot,
        .rows_cold = region->n_q - hot,
        .tokens = engine->index.live_count,
        .tokens_used = engine->index.used,
        .lsn = engine->index.lsn,
        .settled_lsn = atomic_load_explicit(&engine->settled_lsn, memory_order_relaxed),
        .region_bytes = region->bytes,
        .token_bytes = region->token_bytes,
        .threads = engine->options.threads,
        .kernel = region->kernel->name,
    };
}

const int *att_engine_region_fds(const struct att_engine *engine)
{
    return engine->region_fds;
}
