/* On-disk structs: what the values in DIR/log and DIR/snap look like. Fixed width, little endian, no padding.
 * docs/format.md is the prose. Every value carries its own checksum (XXH3, 64 bits, seed 0). */
#ifndef ATT_FORMAT_H
#define ATT_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define ATT_FORMAT_VERSION 1u

/* One update in the log. `length` bytes from here to the next record: this struct, then d floats when fields has
 * ATT_FIELD_KEY, then d_v floats when it has ATT_FIELD_VALUE, zero-padded to a multiple of 8. Values are absolute. */
struct att_record {
    uint64_t lsn;
    uint64_t session;      /* 0: none */
    uint64_t session_seq;  /* the session's own number for this update */
    uint32_t length;
    uint16_t kind;         /* enum att_op_kind, absolute kinds only */
    uint16_t head;
    uint32_t index;
    uint32_t column;
    uint32_t fields;       /* ATT_FIELD_... */
    float number;          /* entry kinds: the value; otherwise the bias when ATT_FIELD_BIAS is set */
};
enum { ATT_FIELD_KEY = 1, ATT_FIELD_VALUE = 2, ATT_FIELD_BIAS = 4 };
static_assert(sizeof(struct att_record) == 48, "att_record");
static_assert(offsetof(struct att_record, length) == 24, "att_record.length");
static_assert(offsetof(struct att_record, number) == 44, "att_record.number");

/* What a state is, as stored in every manifest. */
struct att_state_shape {
    uint32_t heads; /* 1 */
    uint32_t n_q;
    uint32_t d;
    uint32_t d_v;
    uint32_t capacity;
    uint32_t precision; /* enum att_precision */
    double scale;
    char base_tag[64]; /* the numerics that made the bases */
};
static_assert(sizeof(struct att_state_shape) == 96, "att_state_shape");
static_assert(offsetof(struct att_state_shape, scale) == 24, "att_state_shape.scale");
static_assert(offsetof(struct att_state_shape, base_tag) == 32, "att_state_shape.base_tag");

#endif
