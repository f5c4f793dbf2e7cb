/* Damage that is planted into a state, and what a look at it finds. */
#ifndef ATT_TEST_STORE_PLANT_H
#define ATT_TEST_STORE_PLANT_H

#include <lmdb.h>

#include "checksum.h"
#include "test_store_support.h"

enum plant { PLANT_FLIP, PLANT_SEALED, PLANT_VERSION, PLANT_DELETE };

/* Changes the value of the `which`th key of a database (negative: from the end): flips byte `at`
 * (negative: from the end), with a checksum that fits or not, or sets the version, or deletes it. */
static void UNUSED plant_value(const char *name, const char *database, int which, enum plant how, long at)
{
    char path[160];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key, value;
    snprintf(path, sizeof path, "%s/%s", test_dir, name);
    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 4);
    mdb_env_set_mapsize(env, (size_t)1 << 30);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, database, 0, &dbi), 0);
    assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &key, &value, which < 0 ? MDB_LAST : MDB_FIRST), 0);
    for (int i = which < 0 ? which + 1 : which; i; i += i < 0 ? 1 : -1)
        assert_int_equal(mdb_cursor_get(cursor, &key, &value, i < 0 ? MDB_PREV : MDB_NEXT), 0);
    if (how == PLANT_DELETE) {
        assert_int_equal(mdb_cursor_del(cursor, 0), 0);
    } else {
        unsigned char *copy = malloc(value.mv_size), name_of_key[600];
        memcpy(copy, value.mv_data, value.mv_size);
        memcpy(name_of_key, key.mv_data, key.mv_size);
        if (how == PLANT_FLIP || how == PLANT_SEALED)
            copy[at < 0 ? (long)value.mv_size + at : at] ^= 0x10;
        else
            copy[4] = 2;
        if (how == PLANT_SEALED) {
            uint32_t magic;
            memcpy(&magic, copy, sizeof magic);
            persist_seal(copy, value.mv_size, magic);
        }
        MDB_val new_key = {key.mv_size, name_of_key}, new_value = {value.mv_size, copy};
        assert_int_equal(mdb_put(txn, dbi, &new_key, &new_value, 0), 0);
        free(copy);
    }
    mdb_cursor_close(cursor);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

/* Generations at LSN 0 and 20, the log with batches of one record each up to 40. */
static void UNUSED make_two_generations(void)
{
    make_state(0);
    struct att_store *store = open_started(false, ATT_DURABLE_ALWAYS);
    for (uint64_t lsn = 1; lsn <= 40; lsn++) {
        append_all(store, lsn, lsn, 4);
        wait_until(state_of(store).durable_lsn == lsn);
        if (lsn == 20)
            snapshot(store, 20, 2);
    }
    att_store_close(store);
}

static int UNUSED verify_severity(char *ret_text, size_t size)
{
    struct att_store *store = NULL;
    struct findings findings = {0, 0, ""};
    enum att_status status = try_open(false, true, ATT_DURABLE_ALWAYS, &store);
    if (status) {
        snprintf(ret_text, size, "%s", test_error.text);
        return 3;
    }
    status = att_store_verify(store, see_finding, &findings, &test_error);
    assert_int_equal(status == ATT_OK, findings.worst == 0);
    att_store_close(store);
    snprintf(ret_text, size, "%s", findings.text);
    return findings.worst;
}

#endif
