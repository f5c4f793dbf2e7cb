/* What crosses the boundary between daemon and clients: the handshake's messages and the rings'
 * messages. Fixed width, little endian, no padding. Shared by server and client; not installed.
 * docs/protocol.md is the prose. */
#ifndef ATT_WIRE_H
#define ATT_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ATT_PROTOCOL_VERSION 1u

/* A request, followed by its payload: d floats when fields has ATT_WIRE_KEY, then d_v floats when ATT_WIRE_VALUE.
 * ATT_REQ_READS tells of `column` direct reads of row `index`; it has no reply.
 * ATT_REQ_REGIONS asks for the published regions again, which come as after the welcome; it has no other reply.
 * ATT_REQ_BATCH carries `index` (1 to ATT_BATCH_REQUESTS) other requests, one after another with their payloads and without
 * gaps: queries, rows and updates. Each has its own reply; the batch has none. */
struct att_wire_request {
    uint32_t length;     /* bytes, this struct and payload */
    uint32_t generation; /* the channel's */
    uint16_t type;       /* enum att_request_type */
    uint16_t head;
    uint16_t fields;
    uint16_t flags; /* ATT_WIRE_DURABLE */
    uint32_t index;
    uint32_t column;
    uint64_t tag;
    double number;        /* update-k, update-v: the delta; reads: the value columns of all those reads together;
                      otherwise the bias when ATT_WIRE_BIAS is set */
    uint64_t session_seq; /* updates of a session: their number, from 1 on; else 0 */
};
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the words of a slot below are its fields as they lie");
/* As the words of a slot. (Stored field by field and loaded again as words, each load would wait for its stores.) */
static inline void att_wire_request_words(const struct att_wire_request *request, uint64_t ret_words[7])
{
    ret_words[0] = request->length | (uint64_t)request->generation << 32;
    ret_words[1] = request->type | (uint64_t)request->head << 16 | (uint64_t)request->fields << 32 |
                   (uint64_t)request->flags << 48;
    ret_words[2] = request->index | (uint64_t)request->column << 32;
    ret_words[3] = request->tag;
    memcpy(&ret_words[4], &request->number, sizeof request->number);
    ret_words[5] = request->session_seq;
    ret_words[6] = 0;
}
enum { ATT_WIRE_KEY = 1, ATT_WIRE_VALUE = 2, ATT_WIRE_BIAS = 4 };
enum { ATT_WIRE_DURABLE = 1 };
/* Descriptors of a head's published region: what is always there, and the bases. */
enum { ATT_HEAD_FDS = 2 };
/* A session's updates whose fate the client may still ask for, and so how many of them the daemon remembers. */
#define ATT_SESSION_WINDOW UINT64_C(16384)
static_assert(sizeof(struct att_wire_request) == 48, "att_wire_request");
static_assert(offsetof(struct att_wire_request, type) == 8, "att_wire_request.type");
static_assert(offsetof(struct att_wire_request, index) == 16, "att_wire_request.index");
static_assert(offsetof(struct att_wire_request, tag) == 24, "att_wire_request.tag");
static_assert(offsetof(struct att_wire_request, number) == 32, "att_wire_request.number");
static_assert(offsetof(struct att_wire_request, session_seq) == 40, "att_wire_request.session_seq");

/* A reply, followed by its payload:
 *   row      d_v doubles
 *   stat     a struct att_stat
 *   column   n_q pairs of doubles (value, error bound), in chunks
 *   all      n_q x d_v doubles, in chunks
 *   others, and status ATT_EMPTY: none
 *   any other status than ATT_OK and ATT_EMPTY: up to ATT_WIRE_TEXT_BYTES bytes of UTF-8 without
 *            a NUL, that say what was wrong, for people: they become the client's last error
 * Chunks have ATT_WIRE_MORE but the last; with ATT_OK they have exactly the full size together. */
struct att_wire_reply {
    uint32_t length;
    uint32_t generation;
    uint8_t status; /* enum att_status */
    uint8_t flags;  /* ATT_WIRE_MORE */
    uint16_t type;  /* the request's */
    uint32_t index; /* append: the new token's index */
    uint64_t tag;
    uint64_t lsn;
    uint64_t incarnation;
    double value;
    double error_bound;
};
static inline void att_wire_reply_words(const struct att_wire_reply *reply, uint64_t ret_words[7])
{
    ret_words[0] = reply->length | (uint64_t)reply->generation << 32;
    ret_words[1] =
        reply->status | (uint64_t)reply->flags << 8 | (uint64_t)reply->type << 16 | (uint64_t)reply->index << 32;
    ret_words[2] = reply->tag;
    ret_words[3] = reply->lsn;
    ret_words[4] = reply->incarnation;
    memcpy(&ret_words[5], &reply->value, sizeof reply->value);
    memcpy(&ret_words[6], &reply->error_bound, sizeof reply->error_bound);
}
enum { ATT_WIRE_MORE = 1 };
enum { ATT_WIRE_TEXT_BYTES = 200 };
static_assert(sizeof(struct att_wire_reply) == 56, "att_wire_reply");
static_assert(offsetof(struct att_wire_reply, status) == 8, "att_wire_reply.status");
static_assert(offsetof(struct att_wire_reply, index) == 12, "att_wire_reply.index");
static_assert(offsetof(struct att_wire_reply, tag) == 16, "att_wire_reply.tag");
static_assert(offsetof(struct att_wire_reply, lsn) == 24, "att_wire_reply.lsn");
static_assert(offsetof(struct att_wire_reply, value) == 40, "att_wire_reply.value");

#endif
