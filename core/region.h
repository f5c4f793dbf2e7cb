/* The region: everything a reader needs, in shared memory without pointers, and who may write it.
 *
 * | part                                          | owner (alone writes)                                   |
 * |-----------------------------------------------|--------------------------------------------------------|
 * | count, row_version, log slots                 | service                                                |
 * | settled, tail, epoch, words, tiles, slots, Q  | merge                                                  |
 * | geometry                                      | written before the region is shared, then constant     |
 *
 * It is two memfds, mapped one behind the other: the tiles of bases are in the second, which is replaced when most of it
 * is of no use any more (give_back.c); all else is in the first.
 *
 * The settled tokens (K, V, bias, live; owner: merge) are in private memory: no reader needs them, and there they can
 * have large pages, which tokens met at random want.
 *
 * The protocol between the owners is described at the top of reader.c. Positions in the entry log count up from 0 and are
 * never reused; position p lives in lane p % 16 of log tile (p / 16) % log_tiles. */
#ifndef ATT_REGION_H
#define ATT_REGION_H

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"
#include "kernel.h"
#include "row.h"

#define ATT_REGION_MAGIC   0x31444e5454410000ull /* "\0\0ATTND1" */
#define ATT_REGION_VERSION 6u
#define ATT_NO_SLOT        UINT32_MAX

enum { ATT_TILE_ROWS = 64 };

/* A tile of bases in memory: this, then 64 x (4 + d_v) doubles: D, sum w|v|_inf, sum w g, sum w g|v|_inf, C_0... */
struct att_tile {
    uint64_t position; /* in the entry log, where its bases stand */
    uint64_t reserved[7];
    struct att_row rows[ATT_TILE_ROWS];
};
static_assert(sizeof(struct att_tile) == 64 + ATT_TILE_ROWS * sizeof(struct att_row), "att_tile");

/* A tile's word: which of the physical tiles holds it, and a version that every flip increases. */
#define ATT_WORD(version, physical) ((uint64_t)(version) << 32 | (physical))
#define ATT_WORD_PHYSICAL(word)     ((uint32_t)(word))

/* What an entry is, beside its key and value. Owner: service. */
struct att_entry {
    uint64_t lsn;
    uint32_t index;     /* token, or row of Q */
    int32_t sign;       /* +1, -1; 0: a row of Q, or nothing (a compacted entry) */
    uint32_t q_version; /* of the row, when is_q */
    uint32_t is_q;
};
static_assert(sizeof(struct att_entry) == 24, "att_entry");

struct att_region_header {
    uint64_t magic;
    uint32_t version;
    uint32_t precision;
    uint32_t n_q, d, d_v, capacity;
    uint32_t log_capacity;
    uint32_t tiles;          /* logical tiles of bases: words */
    uint32_t physical_tiles; /* with the spares */
    uint32_t causal;         /* row i sees tokens 0..i only */
    double scale;
    double error_budget;
    uint64_t bytes;
    /* offsets from the header */ uint64_t log_keys, log_heads, log_values, log_bias, log_visible, log_entries,
        log_rows;
    uint64_t q, row_version;
    uint64_t slots, words, bases;
    uint64_t tile_bytes;
    uint64_t reserved1[10];
    /* Owner: service. */
    _Alignas(64) _Atomic uint64_t count; /* entries published. Release, with reader.c's acquire */
    _Atomic double largest[4];           /* of |x| for value columns 0..3, ever: for what weights that count as 0 leave
                                            out; how values are scaled in single; and whether a row may meet, masked,
                                            any key that there was (reader.c) */
    uint64_t reserved2[3];
    /* Owner: merge. */
    _Alignas(64) _Atomic uint64_t settled; /* settled tokens stand here. Release, with entries.c's acquire */
    _Atomic uint64_t tail;                 /* entries before it may be overwritten. Release, with entries.c */
    _Atomic uint64_t epoch;                /* of the bases' memory. Release, with att_region_stale's acquire */
    uint64_t reserved3[5];
};
static_assert(offsetof(struct att_region_header, scale) == 48, "att_region_header.scale");
static_assert(offsetof(struct att_region_header, log_keys) == 72, "att_region_header.log_keys");
static_assert(offsetof(struct att_region_header, count) == 256, "att_region_header.count");
static_assert(offsetof(struct att_region_header, settled) == 320, "att_region_header.settled");
static_assert(sizeof(struct att_region_header) == 384, "att_region_header");

/* The bases' memory begins with this; the tiles follow. Written before it is shared, then constant. */
struct att_bases_header {
    _Atomic uint64_t epoch; /* 0 of the first memory, and one more of each that replaced another */
    uint64_t reserved[7];
};
static_assert(sizeof(struct att_bases_header) == 64, "att_bases_header");

/* A mapped region, with its offsets turned into pointers and its geometry copied: nothing is read again from memory
 * that another process could write. A reader's mapping is read-only; then it must not write through these. */
struct att_region {
    struct att_region_header *header;
    uint32_t n_q, d, d_v, columns /* 4 + d_v */, capacity, log_capacity, log_tiles, tiles, physical_tiles;
    enum att_precision precision;
    bool causal;
    double scale;
    struct att_numerics numerics;
    size_t bytes, tile_bytes;
    size_t bases_offset;  /* where the second memory begins */
    uint64_t log_inverse; /* 2^64 / log_tiles, rounded down */
    const struct att_kernel *kernel;
    float *log_keys;       /* [log_tiles][d][16] */
    float *log_heads;      /* [log_tiles][2][16]: |v|_inf and g, each times its sign */
    float *log_values;     /* [log_tiles][d_v][16] */
    float *log_bias;       /* [log_capacity] */
    uint32_t *log_visible; /* [log_capacity]; tokens that are not masked once the entry is the newest */
    struct att_entry *log_entries;
    /* The entries' keys (or rows of Q) and values as they come, one by one. When a tile is full its rows are turned into
     * log_keys and log_values; until then they are read here. */
    float *log_rows;   /* [log_capacity][row_floats] */
    size_t row_floats; /* d + d_v, in whole cache lines */
    float *q;
    float *k, *v, *bias; /* settled tokens: the daemon's own memory, NULL in a reader's view */
    uint8_t *live;
    size_t token_bytes;            /* of them, from k on */
    _Atomic uint32_t *row_version; /* [n_q]; live version of each row of Q. Owner: service */
    _Atomic uint32_t *slots;       /* [n_q]; where a row's base is, ATT_NO_SLOT: cold. Owner: merge */
    _Atomic uint64_t *words;       /* [tiles] */
    struct att_bases_header *bases;
    uint8_t *physical; /* [physical_tiles] tiles of tile_bytes */
};

/* Creates the memory (sealed memfds: they can neither shrink nor grow) and the settled tokens' beside it, and fills in the
 * geometry. The descriptors made are the caller's, also on failure: the others are left as they are. ATT_ENOMEM. Released
 * by att_region_release, which allows zeroed ones. */
enum att_status att_region_create(const struct att_engine_options *options, struct att_region *ret_region,
                                  int ret_fds[ATT_REGION_FDS], struct att_error *error);

void att_region_release(struct att_region *region);

/* Memory that can neither shrink nor grow, and that nobody can write but by the mappings there are already when it is sealed.
 * A descriptor, or -1 with errno. */
int att_memory_create(const char *name, size_t bytes);
bool att_memory_seal(int fd);

/* A reader's mapping of the memory behind those descriptors, which stay the caller's; and att_region_attach. Released by
 * att_region_release. ATT_ENOMEM too. */
enum att_status att_region_map(const int fds[ATT_REGION_FDS], struct att_region *ret_region, struct att_error *error);

/* A reader's view of a region that somebody else created: checks magic, version and that every part lies inside.
 * ATT_EVERSION, ATT_EPROTOCOL. */
enum att_status att_region_attach(void *memory, size_t bytes, struct att_region *ret_region, struct att_error *error);

/* Whether the bases' memory that is mapped here has been replaced: the tiles written since are in another, and soon it
 * will answer nothing. */
static inline bool att_region_stale(const struct att_region *region)
{
    /* Acquire: what is behind the descriptor from now on is not older. Partner: the release in give_back.c. */
    return atomic_load_explicit(&region->header->epoch, memory_order_acquire) >
           atomic_load_explicit(&region->bases->epoch, memory_order_relaxed);
}

static inline struct att_tile *att_region_tile(const struct att_region *region, uint32_t physical)
{
    return (struct att_tile *)(void *)(region->physical + (size_t)physical * region->tile_bytes);
}

/* Begins to fetch a row of Q, of one that is long the first lines: the processor fetches on by itself. */
static inline void att_fetch_q(const struct att_region *region, uint32_t row)
{
    const float *q = region->q + (size_t)row * region->d;

    for (uint32_t p = 0; p < region->d && p < 256; p += 16)
        __builtin_prefetch(q + p);
}

static inline double *att_tile_sums(struct att_tile *tile, uint32_t row, uint32_t columns)
{
    return (double *)(tile + 1) + (size_t)row * columns;
}

/* |s| |q|_2, rounded up. */
double att_q_norm(double scale, uint32_t d, const float *q);

/* (p / 16) % log_tiles; by the inverse, whose quotient is right or 1 too small: an update asks ten times. */
static inline size_t att_log_tile(const struct att_region *region, uint64_t position)
{
    const uint64_t tile = position / ATT_TILE_LANES;
    const uint64_t quotient = (uint64_t)((unsigned __int128)tile * region->log_inverse >> 64);
    const uint64_t rest = tile - quotient * region->log_tiles;

    return (size_t)(rest < region->log_tiles ? rest : rest - region->log_tiles);
}

static inline size_t att_log_slot(const struct att_region *region, uint64_t position)
{
    return att_log_tile(region, position) * ATT_TILE_LANES + position % ATT_TILE_LANES;
}

/* The row of an entry: its key, or row of Q; its value comes d floats after. */
static inline float *att_log_row(const struct att_region *region, uint64_t position)
{
    return region->log_rows + att_log_slot(region, position) * region->row_floats;
}

/* What the kernel meets as the key of a lane: zeros when it is masked. A mask is a score of ATT_MASKED, which only what the
 * door lets in together is sure to leave as it is; and there may lie a row of Q, or the key of a token that left before a row
 * of Q became as large as it is. */
extern const float att_no_key[ATT_MAX_COLUMNS];

static inline const float *att_lane_key(float bias, const float *key)
{
    return bias > -INFINITY ? key : att_no_key;
}

#endif
