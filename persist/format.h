/* On-disk structs: what the values in DIR/log and DIR/snap look like. Fixed width, little endian,
 * no padding. docs/format.md is the prose. Every value carries its own checksum (XXH3, 64 bits,
 * seed 0). */
#ifndef ATT_FORMAT_H
#define ATT_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define ATT_FORMAT_VERSION 1u

/* One update in the log. `length` bytes from here to the next record: this struct, then d floats
 * when fields has ATT_FIELD_KEY, then d_v floats when it has ATT_FIELD_VALUE, zero-padded to a
 * multiple of 8. Values are absolute. */
struct att_record {
    uint64_t lsn;
    uint64_t session;     /* 0: none */
    uint64_t session_seq; /* the session's own number for this update */
    uint32_t length;
    uint16_t kind; /* enum att_op_kind, absolute kinds only, or ATT_RECORD_SESSION */
    uint16_t head;
    uint32_t index;
    uint32_t column;
    uint32_t fields; /* ATT_FIELD_... */
    float number;    /* entry kinds: the value; otherwise the bias when ATT_FIELD_BIAS is set */
};
enum { ATT_FIELD_KEY = 1, ATT_FIELD_VALUE = 2, ATT_FIELD_BIAS = 4 };
/* No update: a client connects with a session. `session`: its id; session_seq: its fence, which counts connections; index:
 * its user; column: 1 if it is new. */
enum { ATT_RECORD_SESSION = 9 };
static_assert(sizeof(struct att_record) == 48, "att_record");
static_assert(offsetof(struct att_record, length) == 24, "att_record.length");
static_assert(offsetof(struct att_record, number) == 44, "att_record.number");

/* What a state is, as stored in every manifest. Every head has this shape. */
struct att_state_shape {
    uint32_t heads; /* 1..ATT_MAX_HEADS */
    uint32_t n_q;
    uint32_t d;
    uint32_t d_v;
    uint32_t capacity;
    uint32_t precision; /* enum att_precision */
    uint32_t causal;    /* 1: row i sees tokens 0..i only */
    uint32_t reserved;  /* 0 */
    double scale;
    char base_tag[64]; /* the numerics that made the bases */
};
static_assert(sizeof(struct att_state_shape) == 104, "att_state_shape");
static_assert(offsetof(struct att_state_shape, scale) == 32, "att_state_shape.scale");
static_assert(offsetof(struct att_state_shape, base_tag) == 40, "att_state_shape.base_tag");

enum { ATT_MAX_HEADS = 1024 };

/* Where a head's part of a snapshot was cut: it holds exactly the head's updates up to this LSN. */
struct att_head_cut {
    uint64_t lsn;
    uint32_t tokens_used; /* highest live index + 1 */
    uint32_t reserved;    /* 0 */
};
static_assert(sizeof(struct att_head_cut) == 16, "att_head_cut");
static_assert(offsetof(struct att_head_cut, tokens_used) == 8, "att_head_cut.tokens_used");

/* A piece's array number says whose it is: head * ATT_HEAD_ARRAYS + enum att_array (core/engine.h), so that the pieces
 * of one head lie together, and those of head 0 are numbered as if there were no others. */
enum { ATT_HEAD_ARRAYS = 16 };

/* Behind all heads' arrays: the sessions as of the snapshot's smallest cut, which the log behind replay_lsn completes: a
 * sequence of att_session_entry, to be taken in one after the other. */
enum { ATT_ARRAY_SESSIONS = ATT_MAX_HEADS * ATT_HEAD_ARRAYS };

/* Something that happened to a session, or that is known of it. */
struct att_session_entry {
    uint64_t session;
    uint64_t seq; /* of an update of the session; of NEW and ATTACHED: the fence */
    uint64_t lsn;
    uint32_t what; /* ATT_SESSION_... */
    uint32_t
        result; /* NEW, ATTACHED: the user; DONE, NOTED: an append's index, or ATT_SESSION_NO_INDEX, or ..._REFUSED */
};
enum {
    ATT_SESSION_NEW = 1,      /* it begins; what was known under the id is forgotten */
    ATT_SESSION_ATTACHED = 2, /* a client has connected with it */
    ATT_SESSION_DONE = 3,     /* the update took effect; those between it and the one before did not, and never will */
    ATT_SESSION_NOTED = 4,    /* the same of one, and nothing about others */
    ATT_SESSION_SEEN = 5      /* nothing more is to be said of the updates up to seq */
};
#define ATT_SESSION_NO_INDEX UINT32_MAX
#define ATT_SESSION_REFUSED  (UINT32_MAX - 1)
static_assert(sizeof(struct att_session_entry) == 32, "att_session_entry");
static_assert(offsetof(struct att_session_entry, lsn) == 16, "att_session_entry.lsn");
static_assert(offsetof(struct att_session_entry, what) == 24, "att_session_entry.what");
static_assert(offsetof(struct att_session_entry, result) == 28, "att_session_entry.result");

/* ---- Values in DIR/log and DIR/snap --------------------------------------------------------- */

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little endian");

/* Every value begins with this. Magic and version are looked at first, so that a state of another
 * version is named as such and not called damaged. `checksum` is XXH3_64 over everything behind it,
 * to the end of the value. */
struct att_prefix {
    uint32_t magic;
    uint32_t version; /* ATT_FORMAT_VERSION */
    uint64_t checksum;
};
static_assert(sizeof(struct att_prefix) == 16, "att_prefix");
static_assert(offsetof(struct att_prefix, checksum) == 8, "att_prefix.checksum");

#define ATT_MAGIC_ENVIRONMENT 0x564e4541u /* "AENV" */
#define ATT_MAGIC_BATCH       0x54414241u /* "ABAT" */
#define ATT_MAGIC_PIECE       0x43504941u /* "AIPC" */
#define ATT_MAGIC_MANIFEST    0x4e414d41u /* "AMAN" */

/* One in each environment: database "meta", key "state". Says whose the environment is. */
struct att_environment {
    struct att_prefix prefix;
    uint32_t kind;        /* ATT_ENVIRONMENT_... */
    uint32_t reserved;    /* 0 */
    uint64_t incarnation; /* log: starts counted so far; snap: 0 */
};
enum { ATT_ENVIRONMENT_LOG = 1, ATT_ENVIRONMENT_SNAP = 2 };
static_assert(sizeof(struct att_environment) == 32, "att_environment");
static_assert(offsetof(struct att_environment, kind) == 16, "att_environment.kind");
static_assert(offsetof(struct att_environment, incarnation) == 24, "att_environment.incarnation");

/* DIR/log, database "batch", MDB_INTEGERKEY: uint64_t first_lsn -> this, then `count` records of
 * `bytes` bytes. */
struct att_batch {
    struct att_prefix prefix;
    uint64_t first_lsn;
    uint64_t last_lsn;    /* first_lsn + count - 1 */
    uint64_t incarnation; /* that wrote it */
    uint32_t count;
    uint32_t bytes; /* of the records, without this header */
};
static_assert(sizeof(struct att_batch) == 48, "att_batch");
static_assert(offsetof(struct att_batch, first_lsn) == 16, "att_batch.first_lsn");
static_assert(offsetof(struct att_batch, last_lsn) == 24, "att_batch.last_lsn");
static_assert(offsetof(struct att_batch, incarnation) == 32, "att_batch.incarnation");
static_assert(offsetof(struct att_batch, count) == 40, "att_batch.count");
static_assert(offsetof(struct att_batch, bytes) == 44, "att_batch.bytes");

/* DIR/snap, database "piece": key below -> this, then `bytes` bytes of array `array` from byte
 * `offset` on. */
struct att_stored_piece {
    struct att_prefix prefix;
    uint64_t generation;
    uint64_t offset;
    uint64_t bytes;
    uint32_t array;
    uint32_t reserved; /* 0 */
};
static_assert(sizeof(struct att_stored_piece) == 48, "att_stored_piece");
static_assert(offsetof(struct att_stored_piece, generation) == 16, "att_stored_piece.generation");
static_assert(offsetof(struct att_stored_piece, offset) == 24, "att_stored_piece.offset");
static_assert(offsetof(struct att_stored_piece, bytes) == 32, "att_stored_piece.bytes");
static_assert(offsetof(struct att_stored_piece, array) == 40, "att_stored_piece.array");

/* The key of a piece: big endian, so that LMDB's byte order is generation, array, offset. */
struct att_piece_key {
    uint8_t generation[8];
    uint8_t array[8];
    uint8_t offset[8];
};
static_assert(sizeof(struct att_piece_key) == 24, "att_piece_key");

/* DIR/snap, database "manifest", MDB_INTEGERKEY: uint64_t generation -> this, then shape.heads
 * att_head_cut. Written last: it makes the generation complete. `pieces_checksum` is XXH3_64 over
 * the pieces' checksums (8 bytes each) in key order. */
struct att_manifest {
    struct att_prefix prefix;
    uint64_t generation;
    uint64_t lsn;         /* of the largest cut: LSNs go on behind it */
    uint64_t incarnation; /* that wrote it */
    uint64_t pieces;
    uint64_t bytes; /* of the pieces, without their headers */
    uint64_t pieces_checksum;
    uint64_t replay_lsn;  /* the log behind it is replayed: the smallest cut; with ATT_DURABLE_OFF, which logs nothing
                             to replay, the largest */
    uint32_t tokens_used; /* the largest of the cuts' */
    uint32_t reserved;    /* 0 */
    struct att_state_shape shape;
};
static_assert(sizeof(struct att_manifest) == 184, "att_manifest");
static_assert(offsetof(struct att_manifest, generation) == 16, "att_manifest.generation");
static_assert(offsetof(struct att_manifest, lsn) == 24, "att_manifest.lsn");
static_assert(offsetof(struct att_manifest, incarnation) == 32, "att_manifest.incarnation");
static_assert(offsetof(struct att_manifest, pieces) == 40, "att_manifest.pieces");
static_assert(offsetof(struct att_manifest, bytes) == 48, "att_manifest.bytes");
static_assert(offsetof(struct att_manifest, pieces_checksum) == 56, "att_manifest.pieces_checksum");
static_assert(offsetof(struct att_manifest, replay_lsn) == 64, "att_manifest.replay_lsn");
static_assert(offsetof(struct att_manifest, tokens_used) == 72, "att_manifest.tokens_used");
static_assert(offsetof(struct att_manifest, shape) == 80, "att_manifest.shape");

#endif
