#include "record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t payload_bytes(uint32_t fields, uint32_t d, uint32_t d_v)
{
    size_t floats = (fields & ATT_FIELD_KEY ? d : 0) + (size_t)(fields & ATT_FIELD_VALUE ? d_v : 0);
    return (floats * sizeof(float) + 7) / 8 * 8;
}

uint32_t att_record_bytes(uint32_t fields, uint32_t d, uint32_t d_v)
{
    return (uint32_t)(sizeof(struct att_record) + payload_bytes(fields, d, d_v));
}

size_t att_record_payload_max(uint32_t d, uint32_t d_v)
{
    return payload_bytes(ATT_FIELD_KEY | ATT_FIELD_VALUE, d, d_v);
}

/* Whether a kind that may be in the log carries one number, and the fields it must and may have. */
static const struct kind {
    const char *name;
    bool stored;
    bool entry;
    uint32_t must, may;
} kinds[] = {
    [ATT_OP_SET_TOKEN] = {"set-token", true, false, 0, ATT_FIELD_KEY | ATT_FIELD_VALUE | ATT_FIELD_BIAS},
    [ATT_OP_SET_K_ENTRY] = {"set-k-entry", true, true, 0, 0},
    [ATT_OP_SET_V_ENTRY] = {"set-v-entry", true, true, 0, 0},
    [ATT_OP_APPEND] = {"append", true, false, ATT_FIELD_KEY | ATT_FIELD_VALUE,
                       ATT_FIELD_KEY | ATT_FIELD_VALUE | ATT_FIELD_BIAS},
    [ATT_OP_DELETE] = {"delete", true, false, 0, 0},
    [ATT_OP_SET_Q] = {"set-q", true, false, ATT_FIELD_KEY, ATT_FIELD_KEY},
};

static const struct kind *find_kind(uint32_t kind)
{
    return kind < sizeof kinds / sizeof kinds[0] && kinds[kind].stored ? &kinds[kind] : NULL;
}

const char *att_record_kind_name(uint16_t kind)
{
    const struct kind *known = find_kind(kind);
    if (kind == ATT_RECORD_SESSION)
        return "session";
    return known ? known->name : "unknown";
}

/* Copies an array into the payload, if there is one; returns where the next one goes. */
static size_t put_array(void *payload, size_t at, const float *array, uint32_t count)
{
    if (payload)
        memcpy((char *)payload + at, array, count * sizeof(float));
    return at + count * sizeof(float);
}

void att_record_from_op(const struct att_op *op, uint32_t head, uint64_t lsn, uint64_t session, uint64_t session_seq,
                        uint32_t d, uint32_t d_v, struct att_record *ret, void *payload)
{
    const struct kind *kind = find_kind((uint32_t)op->kind);
    if (!kind || op->index == ATT_ANY_INDEX) {
        fprintf(stderr, "bug: an update of kind %d that is not absolute was to be logged\n", (int)op->kind);
        abort();
    }
    struct att_record record = {.lsn = lsn,
                                .session = session,
                                .session_seq = session_seq,
                                .kind = (uint16_t)op->kind,
                                .head = (uint16_t)head,
                                .index = op->index};
    size_t end = 0;
    if (op->key && (kind->may & ATT_FIELD_KEY)) {
        record.fields |= ATT_FIELD_KEY;
        end = put_array(payload, end, op->key, d);
    }
    if (op->value && (kind->may & ATT_FIELD_VALUE)) {
        record.fields |= ATT_FIELD_VALUE;
        end = put_array(payload, end, op->value, d_v);
    }
    if (op->bias && (kind->may & ATT_FIELD_BIAS)) {
        record.fields |= ATT_FIELD_BIAS;
        record.number = *op->bias;
    }
    if (kind->entry) {
        record.column = op->column;
        record.number = (float)op->number;
    }
    size_t bytes = payload_bytes(record.fields, d, d_v);
    if (payload)
        memset((char *)payload + end, 0, bytes - end);
    record.length = (uint32_t)(sizeof record + bytes);
    *ret = record;
}

enum att_status att_record_to_op(const struct att_record *record, const void *payload, uint32_t d, uint32_t d_v,
                                 struct att_record_arrays *arrays, struct att_op *ret, struct att_error *error)
{
    const struct kind *kind = find_kind(record->kind);
    uint32_t fields = record->fields;
    if (!kind)
        return att_fail(error, ATT_ECORRUPT, "log record at LSN %" PRIu64 ": unknown kind %u", record->lsn,
                        record->kind);
    if ((fields & kind->must) != kind->must || (fields & ~kind->may) != 0 ||
        record->length != att_record_bytes(fields, d, d_v))
        return att_fail(error, ATT_ECORRUPT,
                        "log record at LSN %" PRIu64 ": %s with fields %" PRIu32 ", length %" PRIu32
                        " makes no sense for d = %" PRIu32 ", d_v = %" PRIu32,
                        record->lsn, kind->name, fields, record->length, d, d_v);
    struct att_op op = {.kind = (enum att_op_kind)record->kind, .index = record->index, .column = record->column};
    const char *from = payload;
    if (fields & ATT_FIELD_KEY) {
        memcpy(arrays->key, from, d * sizeof(float));
        from += d * sizeof(float);
        op.key = arrays->key;
    }
    if (fields & ATT_FIELD_VALUE) {
        memcpy(arrays->value, from, d_v * sizeof(float));
        op.value = arrays->value;
    }
    if (fields & ATT_FIELD_BIAS) {
        arrays->bias = record->number;
        op.bias = &arrays->bias;
    }
    if (kind->entry)
        op.number = (double)record->number;
    *ret = op;
    return ATT_OK;
}
