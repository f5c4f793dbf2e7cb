#include "recover.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "record.h"

enum { SPARE_ENTRIES = 64, GROWTH = 4 };
static const uint32_t MOST_ENTRIES = UINT32_MAX - 63;

/* What the store's callbacks work on. */
struct recovering {
    struct att_engine *engine;
    struct att_recovery *what;
    uint32_t d, d_v;
    struct att_record_arrays arrays;
    bool without_log;
    bool full; /* the entry log was too small for the replay */
};

static enum att_status restore_piece(void *context, uint32_t array, uint64_t offset, const void *data, uint64_t bytes,
                                     struct att_error *error)
{
    struct recovering *self = context;
    if (array >= ATT_ARRAY_COUNT)
        return att_fail(error, ATT_ECORRUPT, "snapshot generation %" PRIu64 ": a piece of unknown array %" PRIu32,
                        self->what->snapshot.generation, array);
    if (array == ATT_ARRAY_BASES) {
        self->what->bases_in_snapshot = true;
        if (!self->what->bases_restored)
            return ATT_OK;
    }
    struct att_piece piece = {.array = (enum att_array)array, .offset = offset, .bytes = bytes, .data = data};
    return att_engine_restore(self->engine, &piece, error);
}

static enum att_status replay_record(void *context, const struct att_record *record, const void *payload,
                                     struct att_error *error)
{
    struct recovering *self = context;
    struct att_op op;
    struct att_error inner = {0};
    enum att_status status = att_record_to_op(record, payload, self->d, self->d_v, &self->arrays, &op, error);
    if (status != ATT_OK)
        return status;
    status = att_engine_apply(self->engine, &op, record->lsn, &inner);
    self->full = status == ATT_AGAIN;
    if (status != ATT_OK)
        return att_fail(error, status, "replaying LSN %" PRIu64 " (%s, index %" PRIu32 "): %.400s", record->lsn,
                        att_record_kind_name(record->kind), record->index,
                        inner.text[0] ? inner.text : att_status_name(status));
    self->what->records++;
    self->what->last_lsn = record->lsn;
    return ATT_OK;
}

/* The options in force: the shape's, but for what the caller overrides. */
static enum att_status choose_options(const struct att_recovery *what, const struct att_engine_options *wanted,
                                      unsigned overrides, struct att_engine_options *ret, struct att_error *error)
{
    const struct att_state_shape *shape = &what->snapshot.shape;
    if (shape->heads != 1)
        return att_fail(error, ATT_EVERSION, "the snapshot holds %" PRIu32 " heads; this version serves one",
                        shape->heads);
    if (shape->precision > ATT_DOUBLE)
        return att_fail(error, ATT_ECORRUPT, "the snapshot names an unknown precision %" PRIu32, shape->precision);
    *ret = *wanted;
    ret->n_q = shape->n_q;
    ret->d = shape->d;
    ret->d_v = shape->d_v;
    if (!(overrides & ATT_OVERRIDE_SCALE))
        ret->scale = shape->scale;
    if (!(overrides & ATT_OVERRIDE_PRECISION))
        ret->precision = (enum att_precision)shape->precision;
    if (!(overrides & ATT_OVERRIDE_CAPACITY))
        ret->capacity = shape->capacity;
    if (ret->capacity < what->snapshot.tokens_used)
        return att_fail(error, ATT_EINVAL, "--capacity %" PRIu32 " is too small: the state uses %" PRIu32 " tokens",
                        ret->capacity, what->snapshot.tokens_used);
    return ATT_OK;
}

/* How many entries the log must hold for the replay. The engine compacts what it replays, of a token to one pair, so
 * `expected` will do but for what it does not compact; `most`, two for each record, always does. */
struct demand {
    uint64_t expected, most;
};

static struct demand find_demand(struct att_store *store, uint64_t after, const struct att_engine_options *options)
{
    struct att_log_info log;
    att_store_log_info(store, &log);
    uint64_t first = log.first_lsn > after ? log.first_lsn : after + 1;
    uint64_t records = log.last_lsn >= first ? log.last_lsn - first + 1 : 0;
    uint64_t items = (uint64_t)options->capacity + options->n_q;
    return (struct demand){.expected = 2 * (records < items ? records : items) + SPARE_ENTRIES,
                           .most = 2 * records + SPARE_ENTRIES};
}

/* The engine, with a log that holds the replay. What 0 chooses is known only afterwards. */
static enum att_status create_engine(struct att_engine_options *options, uint64_t needed,
                                     struct att_engine **ret_engine, struct att_error *error)
{
    struct att_engine_stats stats;
    enum att_status status = att_engine_create(options, ret_engine, error);
    if (status != ATT_OK)
        return status;
    att_engine_stats(*ret_engine, &stats);
    if (stats.log_capacity >= needed)
        return ATT_OK;
    att_engine_free(*ret_engine);
    *ret_engine = NULL;
    options->log_capacity = needed < MOST_ENTRIES ? (uint32_t)needed : MOST_ENTRIES;
    return att_engine_create(options, ret_engine, error);
}

/* Bases are meaningful only under the numerics and the scale that made them. */
static bool bases_fit(const struct att_engine *engine, const struct att_state_shape *shape,
                      const struct att_engine_options *options)
{
    return strncmp(att_engine_base_tag(engine), shape->base_tag, sizeof shape->base_tag) == 0 &&
           options->scale == shape->scale;
}

static enum att_status fill_engine(struct att_store *store, struct recovering *self, struct att_error *error)
{
    uint64_t lsn = self->what->snapshot.lsn;
    enum att_status status = att_store_read_snapshot(store, restore_piece, self, error);
    if (status != ATT_OK)
        return status;
    self->what->bases_restored = self->what->bases_restored && self->what->bases_in_snapshot;
    att_engine_set_lsn(self->engine, lsn);
    status = att_engine_prepare(self->engine, error);
    if (status != ATT_OK || self->without_log)
        return status;
    return att_store_read_log(store, lsn, replay_record, self, error);
}

/* One attempt, with a log of at least so many entries. On failure no engine is left. */
static enum att_status attempt(struct att_store *store, const struct att_engine_options *chosen, uint64_t needed,
                               struct recovering *self, struct att_error *error)
{
    struct att_engine_options options = *chosen;
    struct att_recovery *what = self->what;
    enum att_status status = create_engine(&options, needed, &self->engine, error);
    if (status != ATT_OK)
        return status;
    self->full = false;
    what->records = 0;
    what->last_lsn = what->snapshot.lsn;
    what->bases_restored = bases_fit(self->engine, &what->snapshot.shape, &options);
    status = fill_engine(store, self, error);
    if (status != ATT_OK) {
        att_engine_free(self->engine);
        self->engine = NULL;
    }
    return status;
}

enum att_status att_recover(struct att_store *store, const struct att_engine_options *wanted, unsigned overrides,
                            struct att_engine **ret_engine, struct att_recovery *ret_what, struct att_error *error)
{
    struct att_recovery what = {0};
    struct att_engine_options options;
    struct recovering self = {.what = &what, .without_log = overrides & ATT_WITHOUT_LOG};
    enum att_status status = att_store_snapshot(store, &what.snapshot, &what.warning, error);
    if (status == ATT_OK)
        status = choose_options(&what, wanted, overrides, &options, error);
    if (status != ATT_OK)
        return status;
    what.precision = (uint32_t)options.precision;
    what.scale = options.scale;
    what.capacity = options.capacity;
    self.d = options.d;
    self.d_v = options.d_v;
    self.arrays.key = calloc(options.d, sizeof(float));
    self.arrays.value = calloc(options.d_v, sizeof(float));
    if (!self.arrays.key || !self.arrays.value) {
        status = att_fail(error, ATT_ENOMEM, "no memory to replay the log");
        goto free_arrays;
    }
    struct demand demand = find_demand(store, what.snapshot.lsn, &options);
    uint64_t needed = demand.expected;
    status = attempt(store, &options, needed, &self, error);
    while (status != ATT_OK && self.full && needed < demand.most) {
        needed = needed * GROWTH < demand.most ? needed * GROWTH : demand.most;
        status = attempt(store, &options, needed, &self, error);
    }
    if (status == ATT_OK) {
        *ret_engine = self.engine;
        *ret_what = what;
    }
free_arrays:
    free(self.arrays.value);
    free(self.arrays.key);
    return status;
}
