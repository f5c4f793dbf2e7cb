#include "recover.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "record.h"

enum { MOST_GENERATIONS = 16 }; /* two are kept; a third lives for moments */

/* What the store's callbacks work on. */
struct recovering {
    struct att_heads heads;
    struct att_sessions *sessions;   /* the caller's; NULL: not wanted */
    const struct att_head_cut *cuts; /* the store's, of each head */
    struct att_recovery *what;
    uint32_t d, d_v;
    struct att_record_arrays arrays;
    bool without_log;
    bool other_precision; /* than the log was written under */
};

static enum att_status take_entry(struct recovering *self, const struct att_session_entry *entry,
                                  struct att_error *error)
{
    enum att_status status = self->sessions ? att_sessions_apply(self->sessions, entry) : ATT_OK;
    if (status == ATT_ENOMEM)
        return att_fail(error, status, "no memory for the sessions");
    if (status != ATT_OK)
        return att_fail(error, status, "LSN %" PRIu64 ": session %" PRIx64 " is not known or its entry makes no sense",
                        entry->lsn, entry->session);
    return ATT_OK;
}

static enum att_status restore_sessions(struct recovering *self, const void *data, uint64_t bytes,
                                        struct att_error *error)
{
    struct att_session_entry entry;
    enum att_status status = ATT_OK;
    if (bytes % sizeof entry)
        return att_fail(error, ATT_ECORRUPT,
                        "snapshot generation %" PRIu64 ": a piece of sessions has %" PRIu64 " bytes",
                        self->what->snapshot.generation, bytes);
    for (uint64_t at = 0; at < bytes && status == ATT_OK; at += sizeof entry) {
        memcpy(&entry, (const char *)data + at, sizeof entry);
        status = take_entry(self, &entry, error);
    }
    return status;
}

/* What a record says of its session. */
static enum att_status replay_session(struct recovering *self, const struct att_record *record, struct att_error *error)
{
    struct att_session_entry entry = {record->session, record->session_seq, record->lsn, ATT_SESSION_DONE,
                                      ATT_SESSION_NO_INDEX};
    if (record->session == 0)
        return ATT_OK;
    if (record->kind == ATT_RECORD_SESSION) {
        entry.what = record->column ? ATT_SESSION_NEW : ATT_SESSION_ATTACHED;
        entry.result = record->index;
    } else if (record->kind == ATT_OP_APPEND) {
        entry.result = record->index;
    }
    return take_entry(self, &entry, error);
}

static enum att_status restore_piece(void *context, uint32_t array, uint64_t offset, const void *data, uint64_t bytes,
                                     struct att_error *error)
{
    struct recovering *self = context;
    uint32_t head = array / ATT_HEAD_ARRAYS;
    uint32_t of_head = array % ATT_HEAD_ARRAYS;
    if (array == ATT_ARRAY_SESSIONS)
        return restore_sessions(self, data, bytes, error);
    if (head >= self->heads.count || of_head >= ATT_ARRAY_COUNT)
        return att_fail(error, ATT_ECORRUPT, "snapshot generation %" PRIu64 ": a piece of unknown array %" PRIu32,
                        self->what->snapshot.generation, array);
    if (of_head == ATT_ARRAY_BASES) {
        self->what->bases_in_snapshot = true;
        if (!self->what->bases_restored)
            return ATT_OK;
    }
    struct att_piece piece = {.array = (enum att_array)of_head, .offset = offset, .bytes = bytes, .data = data};
    if (att_engine_restore(self->heads.engines[head], &piece, error) != ATT_OK)
        return att_heads_fail(self->heads.count, head, error);
    return ATT_OK;
}

/* Whether the record's head is one of ours, and the record behind the head's cut. */
static enum att_status is_behind(const struct recovering *self, const struct att_record *record, bool *ret_behind,
                                 struct att_error *error)
{
    uint32_t heads = self->what->snapshot.shape.heads;
    if (record->head >= heads)
        return att_fail(error, ATT_ECORRUPT,
                        "log record at LSN %" PRIu64 ": head %u is out of range: there %s %" PRIu32, record->lsn,
                        record->head, heads == 1 ? "is" : "are", heads);
    *ret_behind = record->lsn > self->cuts[record->head].lsn;
    return ATT_OK;
}

static enum att_status replay_record(void *context, const struct att_record *record, const void *payload,
                                     struct att_error *error)
{
    struct recovering *self = context;
    struct att_op op;
    struct att_error inner = {0};
    bool behind = false;
    enum att_status status = is_behind(self, record, &behind, error);
    if (status == ATT_OK)
        status = replay_session(self, record, error);
    if (status != ATT_OK)
        return status;
    if (!behind || record->kind == ATT_RECORD_SESSION) {
        self->what->last_lsn = record->lsn;
        return ATT_OK;
    }
    status = att_record_to_op(record, payload, self->d, self->d_v, &self->arrays, &op, error);
    if (status != ATT_OK)
        return status;
    status = att_engine_apply(self->heads.engines[record->head], &op, record->lsn, &inner);
    if (status != ATT_OK)
        return att_fail(error, status, "replaying LSN %" PRIu64 " (%s, head %u, index %" PRIu32 "): %.250s%s",
                        record->lsn, att_record_kind_name(record->kind), record->head, record->index,
                        inner.text[0] ? inner.text : att_status_name(status),
                        status == ATT_EMAGNITUDE && self->other_precision
                            ? "; if that has been replaced since, start attnd without --precision and stop it: its "
                              "snapshot has only what there is now"
                            : "");
    self->what->records++;
    self->what->last_lsn = record->lsn;
    return ATT_OK;
}

/* The shape of the chosen snapshot, but for capacity and precision when a newer one is damaged: the log goes on under
 * those of the newest, and its updates may need them. (Capacity only grows here: the chosen one's tokens need room.) */
static struct att_state_shape shape_now(struct att_store *store, const struct att_snapshot_info *chosen)
{
    struct att_snapshot_info all[MOST_GENERATIONS];
    const size_t count = att_store_generations(store, all, MOST_GENERATIONS);
    struct att_state_shape shape = chosen->shape;
    for (size_t i = 0; i < count && i < MOST_GENERATIONS; i++) {
        if (all[i].generation <= chosen->generation)
            continue;
        shape.precision = all[i].shape.precision;
        if (all[i].shape.capacity > shape.capacity)
            shape.capacity = all[i].shape.capacity;
    }
    return shape;
}

/* The options in force: the shape's, but for what the caller overrides. */
static enum att_status choose_options(const struct att_recovery *what, const struct att_state_shape *shape,
                                      const struct att_engine_options *wanted, unsigned overrides,
                                      struct att_engine_options *ret, struct att_error *error)
{
    if (shape->precision > ATT_DOUBLE)
        return att_fail(error, ATT_ECORRUPT, "the snapshot names an unknown precision %" PRIu32, shape->precision);
    *ret = *wanted;
    ret->heads = shape->heads;
    ret->n_q = shape->n_q;
    ret->d = shape->d;
    ret->d_v = shape->d_v;
    ret->causal = shape->causal != 0;
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

/* Bases are meaningful only under the numerics and the scale that made them. */
static bool bases_fit(const struct att_engine *engine, const struct att_state_shape *shape,
                      const struct att_engine_options *options)
{
    return strncmp(att_engine_base_tag(engine), shape->base_tag, sizeof shape->base_tag) == 0 &&
           options->scale == shape->scale;
}

/* How many updates there are to replay, of all heads. */
static uint64_t expected(struct att_store *store, const struct recovering *self)
{
    struct att_log_info log;
    att_store_log_info(store, &log);
    return log.last_lsn > self->what->snapshot.replay_lsn ? log.last_lsn - self->what->snapshot.replay_lsn : 0;
}

static enum att_status fill_engines(struct att_store *store, struct recovering *self, struct att_error *error)
{
    enum att_status status = att_store_read_snapshot(store, restore_piece, self, error);
    if (status != ATT_OK)
        return status;
    self->what->bases_restored = self->what->bases_restored && self->what->bases_in_snapshot;
    for (uint32_t head = 0; head < self->heads.count; head++) {
        att_engine_set_lsn(self->heads.engines[head], self->cuts[head].lsn);
        att_engine_expect(self->heads.engines[head], expected(store, self));
        if (att_engine_prepare(self->heads.engines[head], error) != ATT_OK)
            return att_heads_fail(self->heads.count, head, error);
    }
    return self->without_log ? ATT_OK
                             : att_store_read_log(store, self->what->snapshot.replay_lsn, replay_record, self, error);
}

/* On failure no engine is left. */
static enum att_status recover_heads(struct att_store *store, const struct att_engine_options *options,
                                     struct recovering *self, struct att_error *error)
{
    struct att_recovery *what = self->what;
    enum att_status status = att_heads_init(&self->heads, what->snapshot.shape.heads, error);
    if (status != ATT_OK)
        return status;
    what->last_lsn = what->snapshot.lsn;
    for (uint32_t head = 0; head < self->heads.count && status == ATT_OK; head++)
        status = att_engine_create(options, &self->heads.engines[head], error);
    if (status == ATT_OK) {
        what->bases_restored = bases_fit(self->heads.engines[0], &what->snapshot.shape, options);
        status = fill_engines(store, self, error);
    }
    if (status != ATT_OK)
        att_heads_release(&self->heads);
    else if (what->last_lsn < what->snapshot.lsn)
        what->last_lsn = what->snapshot.lsn;
    return status;
}

enum att_status att_recover(struct att_store *store, const struct att_engine_options *wanted, unsigned overrides,
                            struct att_heads *ret_heads, struct att_sessions *sessions, struct att_recovery *ret_what,
                            struct att_error *error)
{
    struct att_recovery what = {0};
    struct att_engine_options options;
    struct recovering self = {.what = &what,
                              .sessions = sessions,
                              .cuts = att_store_cuts(store),
                              .without_log = overrides & ATT_WITHOUT_LOG};
    enum att_status status = att_store_snapshot(store, &what.snapshot, &what.warning, error);
    if (status != ATT_OK)
        return status;
    const struct att_state_shape shape = self.without_log ? what.snapshot.shape : shape_now(store, &what.snapshot);
    status = choose_options(&what, &shape, wanted, overrides, &options, error);
    if (status != ATT_OK)
        return status;
    self.other_precision = (uint32_t)options.precision != shape.precision;
    what.precision = (uint32_t)options.precision;
    what.scale = options.scale;
    what.capacity = options.capacity;
    self.d = options.d;
    self.d_v = options.d_v;
    self.arrays.key = calloc(options.d, sizeof(float));
    self.arrays.value = calloc(options.d_v, sizeof(float));
    if (!self.arrays.key || !self.arrays.value)
        status = att_fail(error, ATT_ENOMEM, "no memory to replay the log");
    if (status == ATT_OK)
        status = recover_heads(store, &options, &self, error);
    if (status == ATT_OK && sessions)
        att_sessions_forget(sessions);
    if (status == ATT_OK) {
        *ret_heads = self.heads;
        *ret_what = what;
    }
    free(self.arrays.value);
    free(self.arrays.key);
    return status;
}
