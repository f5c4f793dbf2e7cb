/* Updates: checked at the door, made absolute, appended to the entry log as signed entries. O(d + d_v). */
#include <math.h>
#include <string.h>

#include "engine_impl.h"

/* Where the token's live value is: a position in the log, or -1 for the settled row. */
static int64_t pending_position(const struct att_engine *engine, uint64_t newest)
{
    /* Acquire: partner is the release of settled in merge.c: the settled row is written before. */
    uint64_t settled = atomic_load_explicit(&engine->region.header->settled, memory_order_acquire);
    return newest != 0 && newest - 1 >= settled ? (int64_t)(newest - 1) : -1;
}

void att_live_head(const struct att_engine *engine, uint32_t token, float ret_head[ATT_HEAD_KEPT])
{
    const int64_t position = pending_position(engine, engine->index.newest[token]);

    if (position >= 0)
        att_entries_head(&engine->region, (uint64_t)position, ret_head);
    else
        memcpy(ret_head, engine->merger.heads[token], sizeof engine->merger.heads[token]);
}

/* The live row of Q. */
static const float *live_q(const struct att_engine *engine, uint32_t row)
{
    const int64_t position = pending_position(engine, engine->index.newest_q[row]);

    return position >= 0 ? att_log_row(&engine->region, (uint64_t)position)
                         : engine->region.q + (size_t)row * engine->region.d;
}

static enum att_status no_token(const struct att_engine *engine, uint32_t index, struct att_error *error)
{
    if (index < engine->index.used)
        return att_fail(error, ATT_ERANGE, "token %u is deleted", index);
    return att_fail(error, ATT_ERANGE, "token %u is out of range: there %s %u", index,
                    engine->index.used == 1 ? "is" : "are", engine->index.used);
}

/* The live token, which is there, but for its heads. It stays where it is while the service updates it: a settled
 * row is only written when a newer entry of the token is merged; a row of the log that is merged meanwhile can only be
 * taken again by the `-` and `+` of this very update, and they begin as copies of it. Field by field: a token that is
 * returned is copied in pieces wider than the stores that made it, and waits for them. */
static void live_token(const struct att_engine *engine, uint32_t index, struct att_token *ret_token)
{
    const struct att_region *region = &engine->region;
    const int64_t position = pending_position(engine, engine->index.newest[index]);

    if (position >= 0) {
        ret_token->key = att_log_row(region, (uint64_t)position);
        ret_token->value = ret_token->key + region->d;
        ret_token->bias = region->log_bias[att_log_slot(region, (uint64_t)position)];
    } else {
        ret_token->key = region->k + (size_t)index * region->d;
        ret_token->value = region->v + (size_t)index * region->d_v;
        ret_token->bias = region->bias[index];
    }
}

enum att_status att_engine_token(const struct att_engine *engine, uint32_t token, float *ret_key, float *ret_value,
                                 float *ret_bias, struct att_error *error)
{
    struct att_token live;

    if (token >= engine->region.capacity || !engine->index.live[token])
        return no_token(engine, token, error);
    live_token(engine, token, &live);
    if (ret_key)
        memcpy(ret_key, live.key, sizeof(float) * engine->region.d);
    if (ret_value)
        memcpy(ret_value, live.value, sizeof(float) * engine->region.d_v);
    if (ret_bias)
        *ret_bias = live.bias;
    return ATT_OK;
}

enum att_status att_engine_q(const struct att_engine *engine, uint32_t row, float *ret_q, struct att_error *error)
{
    if (row >= engine->region.n_q)
        return att_fail(error, ATT_ERANGE, "row %u is out of range: Q has %u rows", row, engine->region.n_q);
    memcpy(ret_q, live_q(engine, row), sizeof(float) * engine->region.d);
    return ATT_OK;
}

/* Writes `-` of the live token at the end of the log. There is room. */
static void put_removal(struct att_engine *engine, uint32_t token, uint64_t lsn)
{
    struct att_token now;

    live_token(engine, token, &now);
    att_live_head(engine, token, now.head);
    att_peak_goes(&engine->index.g_peak, token, (double)now.head[1]);
    att_entries_put_token(engine, engine->index.count, token, -1, lsn, &now);
}

/* Whether what is pending of a token, or row of Q, may be replaced where it is: nobody reads yet. */
static bool is_replaceable(const struct att_engine *engine, uint64_t newest)
{
    return !engine->index.started && pending_position(engine, newest) >= 0;
}

/* The live token goes without a `-`: it is replaced, or cancelled, where it is. */
static void let_go(struct att_engine *engine, uint32_t token)
{
    float head[ATT_HEAD_KEPT];

    att_live_head(engine, token, head);
    att_peak_goes(&engine->index.g_peak, token, (double)head[1]);
}

/* Replaces or creates the live token. */
static enum att_status put_token(struct att_engine *engine, uint32_t token, uint64_t lsn, const struct att_token *next)
{
    struct att_index *index = &engine->index;
    const uint8_t was_live = index->live[token];
    const bool in_place = is_replaceable(engine, index->newest[token]);
    uint64_t count = index->count;

    if (!in_place && att_entries_room(engine, 2) != ATT_OK)
        return ATT_AGAIN;
    if (in_place && was_live)
        let_go(engine, token);
    att_door_note_token(engine, token, next->head);
    if (in_place) {
        att_entries_put_token(engine, index->newest[token] - 1, token, 1, lsn, next);
    } else {
        if (was_live) {
            put_removal(engine, token, lsn);
            count++;
        }
        att_entries_put_token(engine, count++, token, 1, lsn, next);
        index->newest[token] = count;
    }
    index->live_count += !was_live;
    index->visible += (uint32_t)(next->bias > -INFINITY) - (was_live == ATT_VISIBLE);
    index->live[token] = next->bias > -INFINITY ? ATT_VISIBLE : ATT_HIDDEN;
    index->used = token + 1 > index->used ? token + 1 : index->used;
    att_entries_publish(engine, count);
    return ATT_OK;
}

static enum att_status delete_token(struct att_engine *engine, uint32_t token, uint64_t lsn)
{
    struct att_index *index = &engine->index;
    uint64_t count = index->count;
    if (is_replaceable(engine, index->newest[token])) {
        let_go(engine, token);
        att_entries_cancel(engine, index->newest[token] - 1, lsn);
    } else {
        if (att_entries_room(engine, 1) != ATT_OK)
            return ATT_AGAIN;
        put_removal(engine, token, lsn);
        index->newest[token] = 0;
        count++;
    }
    index->visible -= index->live[token] == ATT_VISIBLE;
    index->live[token] = 0;
    index->live_count--;
    att_free_tokens_give(index->free, token);
    att_entries_publish(engine, count);
    return ATT_OK;
}

static enum att_status set_q(struct att_engine *engine, const struct att_op *op, uint64_t lsn, struct att_error *error)
{
    struct att_index *index = &engine->index;
    uint32_t version;
    enum att_status status;
    double norm;
    bool in_place;

    if (op->index >= engine->region.n_q)
        return att_fail(error, ATT_ERANGE, "row %u is out of range: Q has %u rows", op->index, engine->region.n_q);
    if (!op->key)
        return att_fail(error, ATT_EINVAL, "set-q %u: the new row is missing", op->index);
    status = att_check_q(engine, op->index, op->key, &norm, error);
    if (status != ATT_OK)
        return status;
    in_place = is_replaceable(engine, index->newest_q[op->index]);
    if (!in_place && att_entries_room(engine, 1) != ATT_OK)
        return att_fail(error, ATT_AGAIN, "the entry log is full: a merge will make room");
    att_door_note_q(engine, op->index, norm);
    if (in_place) {
        version = atomic_load_explicit(&engine->region.row_version[op->index], memory_order_relaxed);
        att_entries_put_q(engine, index->newest_q[op->index] - 1, op->index, version, lsn, op->key);
        return ATT_OK;
    }
    /* Relaxed: published with the entry, by the release of count. */
    version = atomic_load_explicit(&engine->region.row_version[op->index], memory_order_relaxed) + 1;
    att_entries_put_q(engine, index->count, op->index, version, lsn, op->key);
    atomic_store_explicit(&engine->region.row_version[op->index], version, memory_order_relaxed);
    index->newest_q[op->index] = index->count + 1;
    att_entries_publish(engine, index->count + 1);
    return ATT_OK;
}

static enum att_status append(struct att_engine *engine, struct att_op *op, uint64_t lsn, struct att_error *error)
{
    struct att_index *index = &engine->index;
    struct att_token given = {.key = op->key, .value = op->value, .bias = op->bias ? *op->bias : 0.0f};
    uint32_t token = op->index;
    enum att_status status;

    if (!op->key || !op->value)
        return att_fail(error, ATT_EINVAL, "append: a key and a value are needed");
    if (token == ATT_ANY_INDEX)
        token = att_free_tokens_lowest(index->free);
    if (token >= engine->region.capacity)
        return att_fail(error, ATT_ECAPACITY,
                        "there is room for %u tokens and all are in use: delete some, or start attnd with a larger "
                        "--capacity",
                        engine->region.capacity);
    status = att_check_token(engine, token, &given, error);
    if (status == ATT_OK)
        status = put_token(engine, token, lsn, &given);
    if (status == ATT_AGAIN)
        att_fail(error, ATT_AGAIN, "the entry log is full: a merge will make room");
    if (status != ATT_OK)
        return status;
    att_free_tokens_take(index->free, token);
    op->index = token;
    return ATT_OK;
}

/* Makes of *next, the token as it is, what a SET_TOKEN says. */
static enum att_status set_token(const struct att_op *op, struct att_token *next, struct att_error *error)
{
    if (!op->key && !op->value && !op->bias)
        return att_fail(error, ATT_EINVAL, "token %u: nothing to set", op->index);
    if (op->key)
        next->key = op->key;
    if (op->value)
        next->value = op->value;
    if (op->bias)
        next->bias = *op->bias;
    return ATT_OK;
}

/* Makes of *next, the token as it is, what one of the entry kinds says; *number: the entry's new value. */
static enum att_status set_entry(struct att_engine *engine, const struct att_op *op, struct att_token *next,
                                 float *number, struct att_error *error)
{
    const bool of_key = op->kind == ATT_OP_ADD_K || op->kind == ATT_OP_SET_K_ENTRY;
    const bool adds = op->kind == ATT_OP_ADD_K || op->kind == ATT_OP_ADD_V;
    const uint32_t columns = of_key ? engine->region.d : engine->region.d_v;
    const float **row = of_key ? &next->key : &next->value;
    float *changed = engine->index.scratch;

    if (op->column >= columns)
        return att_fail(error, ATT_ERANGE, "column %u is out of range: %s has %u columns", op->column,
                        of_key ? "K" : "V", columns);
    if (!isfinite(op->number))
        return att_fail(error, ATT_ENOTFINITE, "%s[%u][%u]: %g is not a finite number", of_key ? "K" : "V", op->index,
                        op->column, op->number);
    *number = adds ? (float)((double)(*row)[op->column] + op->number) : (float)op->number;
    memcpy(changed, *row, sizeof(float) * columns);
    changed[op->column] = *number;
    *row = changed;
    return ATT_OK;
}

static enum att_status modify(struct att_engine *engine, struct att_op *op, uint64_t lsn, struct att_error *error)
{
    struct att_token next;
    float number = 0.0f;
    enum att_status status;

    if (op->index >= engine->region.capacity || !engine->index.live[op->index])
        return no_token(engine, op->index, error);
    live_token(engine, op->index, &next);
    status = op->kind == ATT_OP_SET_TOKEN ? set_token(op, &next, error) : set_entry(engine, op, &next, &number, error);
    if (status == ATT_OK)
        status = att_check_token(engine, op->index, &next, error);
    if (status == ATT_OK)
        status = put_token(engine, op->index, lsn, &next);
    if (status == ATT_AGAIN)
        att_fail(error, ATT_AGAIN, "the entry log is full: a merge will make room");
    if (status != ATT_OK)
        return status;
    if (op->kind != ATT_OP_SET_TOKEN) {
        op->number = number;
        op->kind = op->kind == ATT_OP_ADD_K   ? ATT_OP_SET_K_ENTRY
                   : op->kind == ATT_OP_ADD_V ? ATT_OP_SET_V_ENTRY
                                              : op->kind;
    }
    return ATT_OK;
}

/* A token at random is in no cache: its lines are asked for together, before the first of them is waited for. */
void att_engine_ahead_update(const struct att_engine *engine, uint32_t token)
{
    const struct att_region *region = &engine->region;
    const float *key = region->k + (size_t)token * region->d, *value = region->v + (size_t)token * region->d_v;

    if (token >= region->capacity)
        return;
    __builtin_prefetch(&engine->index.live[token]);
    __builtin_prefetch(&engine->index.newest[token]);
    __builtin_prefetch(&engine->merger.heads[token]);
    __builtin_prefetch(&region->bias[token]);
    for (uint32_t p = 0; p < region->d && p < 256; p += 16)
        __builtin_prefetch(key + p);
    for (uint32_t j = 0; j < region->d_v && j < 256; j += 16)
        __builtin_prefetch(value + j);
    __asm__ volatile(""); /* gcc leaves out calls of a function that it knows to do nothing but prefetch */
}

enum att_status att_engine_apply(struct att_engine *engine, struct att_op *op, uint64_t lsn, struct att_error *error)
{
    struct att_index *index = &engine->index;
    enum att_status status;

    if (op->kind != ATT_OP_SET_Q)
        att_engine_ahead_update(engine, op->index);
    switch (op->kind) {
    case ATT_OP_APPEND:
        status = append(engine, op, lsn, error);
        break;
    case ATT_OP_DELETE:
        if (op->index >= engine->region.capacity || !index->live[op->index])
            return no_token(engine, op->index, error);
        status = delete_token(engine, op->index, lsn);
        if (status == ATT_AGAIN)
            att_fail(error, ATT_AGAIN, "the entry log is full: a merge will make room");
        break;
    case ATT_OP_SET_Q:
        status = set_q(engine, op, lsn, error);
        break;
    case ATT_OP_SET_TOKEN:
    case ATT_OP_SET_K_ENTRY:
    case ATT_OP_SET_V_ENTRY:
    case ATT_OP_ADD_K:
    case ATT_OP_ADD_V:
        status = modify(engine, op, lsn, error);
        break;
    default:
        return att_fail(error, ATT_EINVAL, "unknown kind of update: %d", (int)op->kind);
    }
    if (status == ATT_OK) {
        index->lsn = lsn;
        index->updates++;
    } else if (status == ATT_AGAIN && !index->started) {
        att_merge_to(engine, index->count); /* there is no merge thread yet */
        return att_engine_apply(engine, op, lsn, error);
    } else if (status == ATT_AGAIN) {
        att_entries_offer(engine);
        atomic_store_explicit(&engine->hungry, true, memory_order_seq_cst);
    }
    return status;
}
