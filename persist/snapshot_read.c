/* Reading generations: which is to be recovered from, and its pieces. As in log_read.c, each piece
 * is copied out in a reading transaction of its own, so that a reader beside a live daemon pins
 * nothing for long. */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "store_impl.h"

struct att_piece_key persist_piece_key(uint64_t generation, uint32_t array, uint64_t offset)
{
    struct att_piece_key key;
    uint64_t fields[3] = {htobe64(generation), htobe64(array), htobe64(offset)};
    static_assert(sizeof key == sizeof fields, "three fields");
    memcpy(&key, fields, sizeof key);
    return key;
}

static void split_key(const struct att_piece_key *key, uint64_t ret_fields[3])
{
    memcpy(ret_fields, key, sizeof *key);
    for (int i = 0; i < 3; i++)
        ret_fields[i] = be64toh(ret_fields[i]);
}

struct reader {
    struct att_store *store;
    uint64_t generation;
    bool whole;
    struct att_piece_key key; /* of the piece in hand; empty before the first */
    bool started;
    MDB_val value; /* a copy: all of it, or (not whole) the header */
    uint64_t size; /* of the stored value */
    size_t capacity;
    struct persist_ahead ahead;
};

/* Copies what the cursor has found. */
static int keep_piece(struct reader *reader, const MDB_val *key, const MDB_val *value)
{
    struct att_piece_key found;
    uint64_t fields[3];
    if (key->mv_size != sizeof found)
        return MDB_CORRUPTED;
    memcpy(&found, key->mv_data, sizeof found);
    split_key(&found, fields);
    if (fields[0] != reader->generation)
        return MDB_NOTFOUND;
    size_t size = value->mv_size;
    if (!reader->whole && size > sizeof(struct att_stored_piece))
        size = sizeof(struct att_stored_piece);
    if (size > reader->capacity) {
        free(reader->value.mv_data);
        reader->value.mv_data = malloc(size);
        reader->capacity = reader->value.mv_data ? size : 0;
        if (!reader->value.mv_data)
            return ENOMEM;
    }
    if (reader->whole)
        persist_read_ahead(&reader->ahead, value);
    if (size)
        memcpy(reader->value.mv_data, value->mv_data, size);
    reader->value.mv_size = size;
    reader->size = value->mv_size;
    reader->key = found;
    reader->started = true;
    return 0;
}

/* The next piece. ATT_ENOENT: no more (no message). */
static enum att_status next_piece(struct reader *reader, struct att_error *error)
{
    struct att_store *store = reader->store;
    MDB_txn *txn;
    MDB_cursor *cursor;
    enum att_status status = persist_env_read(store, &store->snap_env, &txn, error);
    if (status)
        return status;
    struct att_piece_key name = reader->started ? reader->key : persist_piece_key(reader->generation, 0, 0);
    MDB_val key = {sizeof name, &name}, value;
    int code = mdb_cursor_open(txn, store->snap_env.values, &cursor);
    if (!code) {
        code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (!code && reader->started && key.mv_size == sizeof name && !memcmp(key.mv_data, &reader->key, sizeof name))
            code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
        if (!code)
            code = keep_piece(reader, &key, &value);
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    if (code == MDB_NOTFOUND)
        return ATT_ENOENT;
    return code ? persist_lmdb_fail(error, store, &store->snap_env, "cannot read a piece", code) : ATT_OK;
}

static enum att_status check_piece(const struct reader *reader, struct att_stored_piece *ret_header,
                                   struct att_error *error)
{
    const struct att_store *store = reader->store;
    uint64_t fields[3];
    char what[128];
    struct att_stored_piece header;
    split_key(&reader->key, fields);
    snprintf(what, sizeof what, "generation %llu, the piece of array %llu at byte %llu", (unsigned long long)fields[0],
             (unsigned long long)fields[1], (unsigned long long)fields[2]);
    if (reader->whole) {
        enum att_status status =
            persist_check_value(store, &store->snap_env, &reader->value, sizeof header, ATT_MAGIC_PIECE, what, error);
        if (status)
            return status;
    } else if (reader->value.mv_size < sizeof header) {
        return att_fail(error, ATT_ECORRUPT, "%s/snap: %s is damaged: too short", store->directory, what);
    }
    memcpy(&header, reader->value.mv_data, sizeof header);
    if (header.generation != fields[0] || header.array != fields[1] || header.offset != fields[2] ||
        header.bytes != reader->size - sizeof header)
        return att_fail(error, ATT_ECORRUPT, "%s/snap: %s is damaged: its header does not fit its key",
                        store->directory, what);
    *ret_header = header;
    return ATT_OK;
}

enum att_status persist_generation_walk(struct att_store *store, uint64_t generation, bool whole,
                                        enum att_status (*piece)(void *context, const struct att_stored_piece *header,
                                                                 const void *data, struct att_error *error),
                                        void *context, struct persist_walk *ret_walk, struct att_error *error)
{
    struct reader reader = {.store = store, .generation = generation, .whole = whole};
    struct persist_walk walk = {0, 0, 0};
    XXH3_state_t *hash = XXH3_createState();
    if (!hash)
        return att_fail(error, ATT_ENOMEM, "%s/snap: no memory to read a snapshot", store->directory);
    XXH3_64bits_reset(hash);
    enum att_status status;
    while ((status = next_piece(&reader, error)) == ATT_OK) {
        struct att_stored_piece header;
        status = check_piece(&reader, &header, error);
        if (!status && piece)
            status = piece(context, &header, (const char *)reader.value.mv_data + sizeof header, error);
        if (status)
            goto done;
        XXH3_64bits_update(hash, &header.prefix.checksum, sizeof header.prefix.checksum);
        walk.pieces++;
        walk.bytes += header.bytes;
    }
    if (status == ATT_ENOENT)
        status = ATT_OK; /* the end */
    walk.checksum = XXH3_64bits_digest(hash);
    if (!status)
        *ret_walk = walk;
done:
    XXH3_freeState(hash);
    free(reader.value.mv_data);
    return status;
}

enum att_status persist_generation_agrees(const struct att_store *store, const struct att_manifest *manifest,
                                          const struct persist_walk *walk, struct att_error *error)
{
    if (walk->pieces == manifest->pieces && walk->bytes == manifest->bytes &&
        walk->checksum == manifest->pieces_checksum)
        return ATT_OK;
    return att_fail(error, ATT_ECORRUPT,
                    "%s/snap: generation %llu is damaged: its manifest counts %llu pieces of %llu "
                    "bytes, there are %llu of %llu%s",
                    store->directory, (unsigned long long)manifest->generation, (unsigned long long)manifest->pieces,
                    (unsigned long long)manifest->bytes, (unsigned long long)walk->pieces,
                    (unsigned long long)walk->bytes,
                    walk->checksum == manifest->pieces_checksum ? "" : ", and their checksums differ");
}

/* ---- Manifests ------------------------------------------------------------------------------ */

static enum att_status check_manifest(const struct att_store *store, uint64_t key, const MDB_val *value,
                                      struct att_manifest *ret_manifest, struct att_error *error)
{
    char what[64];
    struct att_manifest manifest;
    snprintf(what, sizeof what, "the manifest of generation %llu", (unsigned long long)key);
    enum att_status status =
        persist_check_value(store, &store->snap_env, value, sizeof manifest, ATT_MAGIC_MANIFEST, what, error);
    if (status)
        return status;
    memcpy(&manifest, value->mv_data, sizeof manifest);
    if (manifest.shape.heads == 0 || manifest.shape.heads > ATT_MAX_HEADS || manifest.generation != key ||
        value->mv_size != sizeof manifest + manifest.shape.heads * sizeof(struct att_head_cut))
        return att_fail(error, ATT_ECORRUPT, "%s/snap: %s is damaged: it does not fit its key", store->directory, what);
    *ret_manifest = manifest;
    return ATT_OK;
}

enum att_status persist_manifest_next(struct att_store *store, uint64_t after, uint64_t *ret_generation,
                                      struct att_manifest *ret_manifest, struct att_error *error)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    if (after == UINT64_MAX)
        return ATT_ENOENT;
    enum att_status status = persist_env_read(store, &store->snap_env, &txn, error);
    if (status)
        return status;
    uint64_t from = after + 1;
    MDB_val key = {sizeof from, &from}, value;
    int code = mdb_cursor_open(txn, store->snap_env.manifests, &cursor);
    if (!code) {
        code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (!code) {
            memcpy(ret_generation, key.mv_data, sizeof *ret_generation);
            status = check_manifest(store, *ret_generation, &value, ret_manifest, error);
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    if (code == MDB_NOTFOUND)
        return ATT_ENOENT;
    return code ? persist_lmdb_fail(error, store, &store->snap_env, "cannot read a manifest", code) : status;
}

bool persist_manifest_exists(struct att_store *store, uint64_t generation)
{
    struct att_manifest manifest;
    uint64_t found = 0;
    return generation && persist_manifest_next(store, generation - 1, &found, &manifest, NULL) != ATT_ENOENT &&
           found == generation;
}

static struct att_snapshot_info info_of(const struct att_manifest *manifest)
{
    return (struct att_snapshot_info){.generation = manifest->generation,
                                      .lsn = manifest->lsn,
                                      .replay_lsn = manifest->replay_lsn,
                                      .incarnation = manifest->incarnation,
                                      .bytes = manifest->bytes,
                                      .pieces = manifest->pieces,
                                      .tokens_used = manifest->tokens_used,
                                      .shape = manifest->shape};
}

size_t att_store_generations(struct att_store *store, struct att_snapshot_info *ret_infos, size_t most)
{
    struct att_manifest manifest;
    uint64_t generation = 0;
    size_t count = 0;
    for (;;) {
        uint64_t before = generation;
        enum att_status status = persist_manifest_next(store, before, &generation, &manifest, NULL);
        if (status == ATT_ENOENT || generation == before)
            return count;
        if (status)
            continue; /* att_store_verify reports it */
        if (count < most)
            ret_infos[count] = info_of(&manifest);
        count++;
    }
}

/* ---- Choosing ------------------------------------------------------------------------------- */

/* Whether generation `generation` can be recovered from: manifest and all pieces. */
static enum att_status try_generation(struct att_store *store, uint64_t generation, bool whole,
                                      struct att_snapshot_info *ret_info, struct att_error *error)
{
    struct att_manifest manifest;
    struct persist_walk walk;
    uint64_t found = 0;
    enum att_status status = persist_manifest_next(store, generation - 1, &found, &manifest, error);
    if (found != generation)
        return status && status != ATT_ECORRUPT ? status : ATT_ENOENT;
    if (!status)
        status = persist_generation_walk(store, generation, whole, NULL, NULL, &walk, error);
    if (!status)
        status = persist_generation_agrees(store, &manifest, &walk, error);
    if (status == ATT_ECORRUPT && !persist_manifest_exists(store, generation))
        status = ATT_ENOENT; /* the daemon deleted it meanwhile */
    if (!status)
        *ret_info = info_of(&manifest);
    return status;
}

/* The heads' cuts, which lie behind the manifest that try_generation has found whole. */
static enum att_status load_cuts(struct att_store *store, const struct att_snapshot_info *info, struct att_error *error)
{
    size_t bytes = info->shape.heads * sizeof(struct att_head_cut);
    uint64_t generation = info->generation;
    MDB_txn *txn;
    MDB_val key = {sizeof generation, &generation}, value;
    free(store->chosen_cuts); /* an earlier choice that was deleted meanwhile */
    store->chosen_cuts = malloc(bytes);
    if (!store->chosen_cuts)
        return att_fail(error, ATT_ENOMEM, "%s/snap: no memory to read a snapshot", store->directory);
    enum att_status status = persist_env_read(store, &store->snap_env, &txn, error);
    if (status)
        return status;
    int code = mdb_get(txn, store->snap_env.manifests, &key, &value);
    if (code == MDB_NOTFOUND)
        status = ATT_ENOENT; /* the daemon deleted it meanwhile */
    else if (code)
        status = persist_lmdb_fail(error, store, &store->snap_env, "cannot read a manifest", code);
    else
        memcpy(store->chosen_cuts, (const char *)value.mv_data + sizeof(struct att_manifest), bytes);
    mdb_txn_abort(txn);
    return status;
}

/* The largest generation number that any manifest or piece uses. */
static uint64_t largest_number(struct att_store *store, uint64_t manifests)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    uint64_t fields[3] = {0, 0, 0};
    if (persist_env_read(store, &store->snap_env, &txn, NULL))
        return manifests;
    if (!mdb_cursor_open(txn, store->snap_env.values, &cursor)) {
        MDB_val key, value;
        if (!mdb_cursor_get(cursor, &key, &value, MDB_LAST) && key.mv_size == sizeof(struct att_piece_key))
            split_key(key.mv_data, fields);
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    return fields[0] > manifests ? fields[0] : manifests;
}

enum { GENERATIONS_MAX = 16 }; /* two are kept; a third lives for moments */

static size_t list_generations(struct att_store *store, uint64_t *ret_numbers)
{
    struct att_manifest manifest;
    uint64_t generation = 0;
    size_t count = 0;
    for (;;) {
        uint64_t before = generation;
        if (persist_manifest_next(store, before, &generation, &manifest, NULL) == ATT_ENOENT || generation == before)
            return count;
        if (count == GENERATIONS_MAX) { /* the newest are what matters */
            memmove(ret_numbers, ret_numbers + 1, (GENERATIONS_MAX - 1) * sizeof *ret_numbers);
            count--;
        }
        ret_numbers[count++] = generation;
    }
}

/* Whether the generation holds more than the caller wants; *ret_beyond: its LSN. */
static bool is_beyond_limit(struct att_store *store, uint64_t generation, uint64_t *ret_beyond)
{
    struct att_manifest manifest;
    uint64_t found = 0;
    if (!store->options.limited || persist_manifest_next(store, generation - 1, &found, &manifest, NULL) ||
        found != generation || manifest.lsn <= store->options.limit_lsn)
        return false;
    *ret_beyond = manifest.lsn;
    return true;
}

enum att_status persist_snapshot_load(struct att_store *store, struct att_error *error)
{
    uint64_t numbers[GENERATIONS_MAX], beyond = 0;
    struct att_error reason = {ATT_OK, ""};
    size_t count = list_generations(store, numbers), damaged = 0;
    if (count == 0)
        return att_fail(error, ATT_ENOENT,
                        "%s: holds no state: its creation was interrupted; start again with "
                        "--q --k --v",
                        store->directory);
    store->snapshot.last_generation = largest_number(store, numbers[count - 1]);
    for (size_t i = count; i-- > 0;) {
        struct att_snapshot_info info;
        if (store->chosen.generation) { /* only the one before it is still of interest, and only its replay LSN */
            if (!try_generation(store, numbers[i], false, &info, NULL)) {
                store->older_generation = info.generation;
                store->older_replay_lsn = info.replay_lsn;
                break;
            }
            continue;
        }
        struct att_error why;
        if (is_beyond_limit(store, numbers[i], &beyond))
            continue;
        enum att_status status = try_generation(store, numbers[i], true, &info, &why);
        if (status == ATT_OK)
            status = load_cuts(store, &info, &why);
        if (status == ATT_OK) {
            store->chosen = info;
        } else if (status == ATT_ECORRUPT) {
            if (damaged++ == 0)
                reason = why;              /* the newest one's */
        } else if (status != ATT_ENOENT) { /* deleted while we looked: no finding */
            if (error)
                *error = why;
            return status;
        }
    }
    if (!store->chosen.generation && beyond)
        return att_fail(error, ATT_EINVAL,
                        "%s: no whole snapshot ends at or before LSN %llu: the oldest is at LSN %llu", store->directory,
                        (unsigned long long)store->options.limit_lsn, (unsigned long long)beyond);
    if (!store->chosen.generation && damaged == 0)
        return att_fail(error, ATT_AGAIN, "%s: the daemon replaced its snapshots meanwhile; run this again",
                        store->directory);
    if (!store->chosen.generation)
        return att_fail(error, ATT_ECORRUPT, "%.380s; no generation is whole; restore DIR from a copy", reason.text);
    if (damaged)
        snprintf(store->warning, sizeof store->warning,
                 "%.420s; recovering from generation %llu (LSN %llu) and the "
                 "log behind it",
                 reason.text, (unsigned long long)store->chosen.generation, (unsigned long long)store->chosen.lsn);
    return ATT_OK;
}

enum att_status att_store_snapshot(const struct att_store *store, struct att_snapshot_info *ret_info,
                                   const char **ret_warning, struct att_error *error)
{
    if (!store->chosen.generation)
        return att_fail(error, ATT_ENOENT, "%s: holds no snapshot yet: its creation is under way or was interrupted",
                        store->directory);
    *ret_info = store->chosen;
    if (ret_warning)
        *ret_warning = store->warning[0] ? store->warning : NULL;
    return ATT_OK;
}

const struct att_head_cut *att_store_cuts(const struct att_store *store)
{
    return store->chosen.generation ? store->chosen_cuts : NULL;
}

struct hand_on {
    enum att_status (*piece)(void *context, uint32_t array, uint64_t offset, const void *data, uint64_t bytes,
                             struct att_error *error);
    void *context;
};

static enum att_status hand_on(void *context, const struct att_stored_piece *header, const void *data,
                               struct att_error *error)
{
    struct hand_on *to = context;
    return to->piece(to->context, header->array, header->offset, data, header->bytes, error);
}

enum att_status att_store_read_snapshot(struct att_store *store,
                                        enum att_status (*piece)(void *context, uint32_t array, uint64_t offset,
                                                                 const void *data, uint64_t bytes,
                                                                 struct att_error *error),
                                        void *context, struct att_error *error)
{
    struct hand_on to = {piece, context};
    struct persist_walk walk;
    if (!store->chosen.generation)
        return att_fail(error, ATT_ENOENT, "%s: holds no snapshot yet: its creation is under way or was interrupted",
                        store->directory);
    enum att_status status = persist_generation_walk(store, store->chosen.generation, true, hand_on, &to, &walk, error);
    if (status)
        return status;
    if (walk.pieces == store->chosen.pieces && walk.bytes == store->chosen.bytes)
        return ATT_OK;
    if (!persist_manifest_exists(store, store->chosen.generation))
        return att_fail(error, ATT_AGAIN, "%s: the daemon replaced generation %llu meanwhile; run this again",
                        store->directory, (unsigned long long)store->chosen.generation);
    return att_fail(error, ATT_ECORRUPT, "%s/snap: generation %llu is damaged: it has lost pieces since it was opened",
                    store->directory, (unsigned long long)store->chosen.generation);
}
