/* Snapshots: the settled state at one moment between two merges, handed out piece by piece while merging goes on.
 *
 * What a merge is about to overwrite in a piece that is not handed out yet is kept first, a block at a time, and the piece
 * gets it back when its turn comes: so all pieces belong to the cut. To hand out the piece itself would be simpler, and was
 * tried: random tokens lie in all pieces, so that the first merge after the cut copied the whole state, and meanwhile the
 * log filled. Bases are handed out before a merge, all of them: each changes in it, and costs it more than its copy.
 *
 * All on the merge thread. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine_impl.h"

enum {
    BLOCK_BYTES = 512, /* two rows of 64 */
    BLOCKS_A_PIECE = ATT_PIECE_BYTES / BLOCK_BYTES
};

#define GIVEN_BACK_A_STEP ((uint64_t)16 << 20)

/* Bases are cut tile by tile, so that no piece lies in two tiles; the other arrays every ATT_PIECE_BYTES. */
static uint64_t pieces_per_tile(const struct att_engine *engine)
{
    return (engine->region.tile_bytes + ATT_PIECE_BYTES - 1) / ATT_PIECE_BYTES;
}

static uint64_t block_count(const struct att_saving *saving, uint32_t array)
{
    return (saving->bytes[array] + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

static uint64_t piece_count(const struct att_engine *engine, uint32_t array)
{
    const struct att_saving *saving = &engine->merger.saving;

    if (array == ATT_ARRAY_BASES)
        return saving->tiles * pieces_per_tile(engine);
    return (saving->bytes[array] + ATT_PIECE_BYTES - 1) / ATT_PIECE_BYTES;
}

static const uint8_t *array_memory(const struct att_engine *engine, uint32_t array)
{
    const struct att_region *region = &engine->region;
    const void *const memory[ATT_ARRAY_BASES] = {region->q, region->k, region->v, region->bias, region->live};

    return memory[array];
}

static struct att_piece piece_at(const struct att_engine *engine, uint32_t array, uint64_t number)
{
    const struct att_region *region = &engine->region;
    uint64_t within = number, limit = engine->merger.saving.bytes[array], start = 0;
    struct att_piece piece = {.array = (enum att_array)array};
    const uint8_t *memory;

    if (array == ATT_ARRAY_BASES) {
        const uint32_t tile = (uint32_t)(number / pieces_per_tile(engine));
        /* Relaxed: this thread flips the words. */
        const uint64_t word = atomic_load_explicit(&region->words[tile], memory_order_relaxed);
        memory = (const uint8_t *)att_region_tile(region, ATT_WORD_PHYSICAL(word));
        start = tile * (uint64_t)region->tile_bytes;
        within = number % pieces_per_tile(engine);
        limit = region->tile_bytes;
    } else {
        memory = array_memory(engine, array);
    }
    piece.data = memory + within * ATT_PIECE_BYTES;
    piece.offset = start + within * ATT_PIECE_BYTES;
    piece.bytes =
        limit - within * ATT_PIECE_BYTES < ATT_PIECE_BYTES ? limit - within * ATT_PIECE_BYTES : ATT_PIECE_BYTES;
    return piece;
}

/* Gives the piece what was kept of it. */
static void put_back(struct att_saving *saving, struct att_piece *piece)
{
    uint32_t *kept = saving->kept[piece->array] + piece->offset / BLOCK_BYTES;
    bool copied = false;

    for (uint64_t at = 0; at < piece->bytes; at += BLOCK_BYTES, kept++) {
        const uint64_t left = piece->bytes - at;
        if (*kept == 0)
            continue;
        if (!copied)
            memcpy(saving->piece, piece->data, piece->bytes);
        copied = true;
        memcpy(saving->piece + at, saving->blocks + (*kept - 1) * (uint64_t)BLOCK_BYTES,
               left < BLOCK_BYTES ? left : BLOCK_BYTES);
        *kept = 0;
    }
    if (copied)
        piece->data = saving->piece;
}

static void save(struct att_engine *engine, uint32_t array, uint64_t number)
{
    struct att_saving *saving = &engine->merger.saving;
    struct att_piece piece;

    if (saving->saved[array][number])
        return;
    saving->saved[array][number] = 1;
    piece = piece_at(engine, array, number);
    if (array != ATT_ARRAY_BASES)
        put_back(saving, &piece);
    saving->job->sink->piece(saving->job->sink->context, &piece);
}

static void keep(struct att_engine *engine, uint32_t array, uint64_t block)
{
    struct att_saving *saving = &engine->merger.saving;
    const uint64_t offset = block * BLOCK_BYTES;
    uint64_t left;

    if (block >= block_count(saving, array) || saving->saved[array][block / BLOCKS_A_PIECE] ||
        saving->kept[array][block])
        return;
    left = saving->bytes[array] - offset;
    memcpy(saving->blocks + saving->blocks_kept * BLOCK_BYTES, array_memory(engine, array) + offset,
           left < BLOCK_BYTES ? left : BLOCK_BYTES);
    saving->kept[array][block] = (uint32_t)++saving->blocks_kept;
}

static void keep_range(struct att_engine *engine, uint32_t array, uint64_t offset, uint64_t bytes)
{
    for (uint64_t block = offset / BLOCK_BYTES; block <= (offset + bytes - 1) / BLOCK_BYTES; block++)
        keep(engine, array, block);
}

void att_saving_before_token(struct att_engine *engine, uint32_t token)
{
    const uint64_t d = engine->region.d, d_v = engine->region.d_v;

    if (!engine->merger.saving.job)
        return;
    keep_range(engine, ATT_ARRAY_K, 4 * d * token, 4 * d);
    keep_range(engine, ATT_ARRAY_V, 4 * d_v * token, 4 * d_v);
    keep_range(engine, ATT_ARRAY_BIAS, 4ull * token, 4);
    keep_range(engine, ATT_ARRAY_LIVE, token, 1);
}

void att_saving_before_q(struct att_engine *engine, uint32_t row)
{
    if (engine->merger.saving.job)
        keep_range(engine, ATT_ARRAY_Q, 4ull * engine->region.d * row, 4ull * engine->region.d);
}

void att_saving_before_bases(struct att_engine *engine)
{
    if (engine->merger.saving.job)
        for (uint64_t n = 0; n < piece_count(engine, ATT_ARRAY_BASES); n++)
            save(engine, ATT_ARRAY_BASES, n);
}

/* The arrays and tiles that there are at the cut. */
static void measure(const struct att_engine *engine, struct att_saving *saving, uint64_t used, uint32_t tiles)
{
    const struct att_region *region = &engine->region;
    const uint64_t bytes[ATT_ARRAY_COUNT] = {4ull * region->n_q * region->d, 4 * used * region->d,
                                             4 * used * region->d_v, 4 * used, used};

    memcpy(saving->bytes, bytes, sizeof bytes);
    saving->tiles = tiles;
}

/* All memory for the largest snapshot there can be, so that none fails later. None of it is in use before it is needed. */
bool att_saving_init(struct att_engine *engine)
{
    struct att_saving *saving = &engine->merger.saving;
    uint64_t blocks = 0;
    bool complete = true;

    measure(engine, saving, engine->region.capacity, engine->region.tiles);
    for (uint32_t array = 0; array < ATT_ARRAY_COUNT; array++) {
        saving->saved[array] = calloc(piece_count(engine, array), 1);
        complete = complete && saving->saved[array];
    }
    for (uint32_t array = 0; array < ATT_ARRAY_BASES; array++) {
        saving->kept[array] = calloc(block_count(saving, array), sizeof *saving->kept[array]);
        complete = complete && saving->kept[array];
        blocks += block_count(saving, array);
    }
    saving->blocks_bytes = blocks * BLOCK_BYTES;
    saving->blocks =
        mmap(NULL, saving->blocks_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    saving->piece = malloc(ATT_PIECE_BYTES);
    return complete && saving->blocks != MAP_FAILED && saving->piece;
}

void att_saving_free(struct att_engine *engine)
{
    struct att_saving *saving = &engine->merger.saving;

    for (uint32_t array = 0; array < ATT_ARRAY_COUNT; array++)
        free(saving->saved[array]);
    for (uint32_t array = 0; array < ATT_ARRAY_BASES; array++)
        free(saving->kept[array]);
    if (saving->blocks && saving->blocks != MAP_FAILED)
        munmap(saving->blocks, saving->blocks_bytes);
    free(saving->piece);
}

/* The last blocks that were kept; the pieces have got all of them back. False: there are none. */
static bool give_blocks_back(struct att_saving *saving)
{
    const uint64_t bytes = saving->blocks_kept * BLOCK_BYTES;
    const uint64_t rest = bytes > GIVEN_BACK_A_STEP ? (bytes - 1) / GIVEN_BACK_A_STEP * GIVEN_BACK_A_STEP : 0;

    if (bytes == 0)
        return false;
    (void)madvise(saving->blocks + rest, bytes - rest, MADV_DONTNEED);
    saving->blocks_kept = rest / BLOCK_BYTES;
    return true;
}

void att_saving_begin(struct att_engine *engine, struct att_job *job)
{
    struct att_merger *merger = &engine->merger;
    struct att_saving *saving = &merger->saving;

    if (saving->job) {
        job->status = ATT_EBUSY;
        att_job_finish(engine, job);
        return;
    }
    measure(engine, saving, merger->used, merger->tiles_used);
    for (uint32_t array = 0; array < ATT_ARRAY_COUNT; array++)
        memset(saving->saved[array], 0, piece_count(engine, array));
    saving->array = 0;
    saving->next = 0;
    saving->job = job;
    job->lsn = merger->settled_lsn;
    job->sink->begin(job->sink->context, merger->settled_lsn, merger->used);
}

/* Hands out a piece; false when there is nothing to do, or no room now. */
bool att_saving_step(struct att_engine *engine)
{
    struct att_saving *saving = &engine->merger.saving;
    struct att_job *job = saving->job;

    if (!job)
        return false;
    while (saving->array < ATT_ARRAY_COUNT) {
        if (saving->next >= piece_count(engine, saving->array)) {
            saving->array++;
            saving->next = 0;
        } else if (saving->saved[saving->array][saving->next]) {
            saving->next++;
        } else if (!job->sink->room(job->sink->context)) {
            return false;
        } else {
            save(engine, saving->array, saving->next++);
            return true;
        }
    }
    if (give_blocks_back(saving))
        return true;
    job->sink->end(job->sink->context);
    job->status = ATT_OK;
    saving->job = NULL;
    att_job_finish(engine, job);
    return true;
}
