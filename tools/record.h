/* Between the engine's updates and the log's records, both ways.
 *
 * Thread rule: any thread; nothing here keeps state or allocates. */
#ifndef ATT_RECORD_H
#define ATT_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "engine.h"
#include "format.h"

/* A record's length field: the struct, then the payload that `fields` names, padded to a multiple of 8. */
uint32_t att_record_bytes(uint32_t fields, uint32_t d, uint32_t d_v);

/* The largest payload of any record of this shape: what a buffer for att_record_from_op needs. A multiple of 8. */
size_t att_record_payload_max(uint32_t d, uint32_t d_v);

/* The record of an update that was applied, hence absolute (ATT_OP_ADD_* never get here: aborts). The payload is
 * written to `payload` (att_record_payload_max bytes, the caller's; NULL: nobody wants it), zero-padded; of it
 * ret->length - sizeof *ret bytes count. */
void att_record_from_op(const struct att_op *op, uint32_t head, uint64_t lsn, uint64_t session, uint64_t session_seq,
                        uint32_t d, uint32_t d_v, struct att_record *ret, void *payload);

/* Where the arrays of a replayed op live: the payload as stored need not be aligned. The caller's. */
struct att_record_arrays {
    float *key;   /* d floats */
    float *value; /* d_v floats */
    float bias;
};

/* The update of a record, whatever its head. *ret points into `arrays`, which must outlive it.
 * ATT_ECORRUPT: kind, fields or length make no sense together; the message names the LSN. */
enum att_status att_record_to_op(const struct att_record *record, const void *payload, uint32_t d, uint32_t d_v,
                                 struct att_record_arrays *arrays, struct att_op *ret, struct att_error *error);

/* "set-token", "append" and so on, or "kind-N". A static string but for unknown kinds ("unknown"). */
const char *att_record_kind_name(uint16_t kind);

#endif
