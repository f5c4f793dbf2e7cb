/* What the snapshot thread writes: pieces, the manifest, and the deletion of old generations. Only
 * that thread (and nobody else in any process: it holds the lock on DIR) writes DIR/snap. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "checksum.h"
#include "store_impl.h"

static int put_piece(struct att_store *store, MDB_txn *txn, const struct persist_piece *piece)
{
    struct att_stored_piece header = {.generation = store->snapshot.generation,
                                      .offset = piece->offset,
                                      .bytes = piece->bytes,
                                      .array = piece->array};
    struct att_piece_key name = persist_piece_key(header.generation, header.array, header.offset);
    MDB_val key = {sizeof name, &name}, value = {sizeof header + piece->bytes, NULL};
    /* A piece that comes twice is a bug of the engine's, and silently keeping either would hide it.
     */
    int code = mdb_put(txn, store->snap_env.values, &key, &value, MDB_RESERVE | MDB_NOOVERWRITE);
    if (code)
        return code;
    memcpy(value.mv_data, &header, sizeof header);
    memcpy((char *)value.mv_data + sizeof header, piece->data, piece->bytes);
    persist_seal(value.mv_data, value.mv_size, ATT_MAGIC_PIECE);
    return 0;
}

struct persist_failure persist_snapshot_write(struct att_store *store, struct persist_piece *pieces)
{
    struct persist_env *env = &store->snap_env;
    uint64_t bytes = 0;
    for (struct persist_piece *piece = pieces; piece; piece = piece->next)
        bytes += piece->bytes + 2 * 4096;
    MDB_txn *txn;
    bool full;
    struct persist_failure failure = persist_begin(env, bytes, &txn, &full);
    if (failure.outcome)
        return failure;
    int code = 0;
    for (struct persist_piece *piece = pieces; piece && !code; piece = piece->next)
        code = put_piece(store, txn, piece);
    if (!code)
        return persist_commit(env, txn, full);
    failure = persist_abort(env, txn, full, code, "cannot write a piece");
    if (code == MDB_KEYEXIST)
        failure = (struct persist_failure){PERSIST_WAIT, code, "the same piece came twice"};
    return failure;
}

struct persist_failure persist_manifest_write(struct att_store *store, const struct att_snapshot_info *cut,
                                              struct att_error *error)
{
    struct persist_env *env = &store->snap_env;
    struct persist_walk walk;
    /* The headers as they are on disk, not as we remember them. */
    if (persist_generation_walk(store, store->snapshot.generation, false, NULL, NULL, &walk, error))
        return (struct persist_failure){PERSIST_WAIT, EINVAL, "cannot read it back"};
    struct att_manifest manifest = {.generation = store->snapshot.generation,
                                    .lsn = cut->lsn,
                                    .replay_lsn = cut->replay_lsn,
                                    .incarnation = store->incarnation,
                                    .pieces = walk.pieces,
                                    .bytes = walk.bytes,
                                    .pieces_checksum = walk.checksum,
                                    .tokens_used = cut->tokens_used,
                                    .shape = store->snapshot.shape};
    size_t cut_bytes = manifest.shape.heads * sizeof *store->snapshot.cuts;
    MDB_txn *txn;
    bool full;
    struct persist_failure failure = persist_begin(env, sizeof manifest + cut_bytes, &txn, &full);
    if (failure.outcome)
        return failure;
    MDB_val key = {sizeof manifest.generation, &manifest.generation}, value = {sizeof manifest + cut_bytes, NULL};
    int code = mdb_put(txn, env->manifests, &key, &value, MDB_RESERVE | MDB_NOOVERWRITE);
    if (code)
        return persist_abort(env, txn, full, code, "cannot write the manifest");
    memcpy(value.mv_data, &manifest, sizeof manifest);
    memcpy((char *)value.mv_data + sizeof manifest, store->snapshot.cuts, cut_bytes);
    persist_seal(value.mv_data, value.mv_size, ATT_MAGIC_MANIFEST);
    return persist_commit(env, txn, full);
}

/* ---- Deleting generations ------------------------------------------------------------------- */

struct prune {
    const uint64_t *keep;
    bool unfinished_only;
    uint64_t from; /* generations below it are done with */
    bool more;
};

static bool is_kept(struct att_store *store, MDB_txn *txn, const struct prune *prune, uint64_t generation)
{
    if (generation == prune->keep[0] || generation == prune->keep[1])
        return true;
    MDB_val key = {sizeof generation, &generation}, value;
    return prune->unfinished_only && mdb_get(txn, store->snap_env.manifests, &key, &value) == 0;
}

static uint64_t key_generation(const MDB_val *key)
{
    uint64_t generation = 0;
    const unsigned char *bytes = key->mv_data;
    for (size_t i = 0; i < 8 && i < key->mv_size; i++)
        generation = generation << 8 | bytes[i];
    return generation;
}

/* Manifests go before pieces: a generation with a manifest is whole. */
static int delete_manifests(struct att_store *store, MDB_txn *txn, struct prune *prune)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int code = mdb_cursor_open(txn, store->snap_env.manifests, &cursor);
    if (code)
        return code;
    for (code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST); !code;
         code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        uint64_t generation;
        memcpy(&generation, key.mv_data, sizeof generation);
        if (!is_kept(store, txn, prune, generation)) {
            code = mdb_cursor_del(cursor, 0);
            if (code)
                break;
            prune->more = true; /* its pieces */
        }
    }
    mdb_cursor_close(cursor);
    return code == MDB_NOTFOUND ? 0 : code;
}

static int delete_pieces(struct att_store *store, MDB_txn *txn, struct prune *prune)
{
    MDB_cursor *cursor;
    int code = mdb_cursor_open(txn, store->snap_env.values, &cursor);
    if (code)
        return code;
    prune->more = false;
    for (int i = 0; i < PERSIST_PRUNE_PIECES;) {
        struct att_piece_key name = persist_piece_key(prune->from, 0, 0);
        MDB_val key = {sizeof name, &name}, value;
        code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (code)
            break;
        uint64_t generation = key_generation(&key);
        if (is_kept(store, txn, prune, generation)) {
            if (generation == UINT64_MAX) {
                code = MDB_NOTFOUND;
                break;
            }
            prune->from = generation + 1;
            continue;
        }
        code = mdb_cursor_del(cursor, 0);
        if (code)
            break;
        i++;
        prune->more = true;
    }
    mdb_cursor_close(cursor);
    if (code == MDB_NOTFOUND)
        prune->more = false;
    return code == MDB_NOTFOUND ? 0 : code;
}

struct persist_failure persist_snapshot_prune(struct att_store *store, const uint64_t keep[2], bool unfinished_only)
{
    struct persist_env *env = &store->snap_env;
    struct prune prune = {.keep = keep, .unfinished_only = unfinished_only, .from = 0, .more = true};
    struct persist_failure failure = {PERSIST_DONE, 0, NULL};
    int dead;
    mdb_reader_check(env->env, &dead); /* an inspector that was killed must not pin pages */
    for (bool manifests = !unfinished_only; prune.more; manifests = false) {
        MDB_txn *txn;
        bool full;
        failure = persist_begin(env, 0, &txn, &full);
        if (failure.outcome)
            return failure;
        int code = manifests ? delete_manifests(store, txn, &prune) : delete_pieces(store, txn, &prune);
        if (manifests)
            prune.more = true;
        if (code)
            return persist_abort(env, txn, full, code, "cannot delete");
        failure = persist_commit(env, txn, full);
        if (failure.outcome || atomic_load_explicit(&store->stop, memory_order_acquire))
            return failure; /* the next start goes on with it */
        if (prune.more && !manifests) {
            struct timespec time = {0, PERSIST_SNAPSHOT_PAUSE_NS};
            nanosleep(&time, NULL);
        }
    }
    return failure;
}
