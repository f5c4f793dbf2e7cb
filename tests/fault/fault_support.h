/* What the fault tests share: a small state whose every prefix can be told from its tokens, a daemon under a preloaded
 * library, and the check of what a start recovers.
 *
 * Update number n replaces token n % TOKENS: key[0] and value[0] are n, so the newest number in the tokens says how many
 * updates the state holds, and each token must then hold the newest of its own. Updates go one session, so the daemon
 * gives update n the LSN n as long as none was refused. */
#ifndef ATT_TEST_FAULT_SUPPORT_H
#define ATT_TEST_FAULT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attn.h"
#include "daemon.h"
#include "npyload.h"
#include "random.h"
#include "recover.h"

#define UNUSED __attribute__((unused))

#if defined(ATTND_ASAN) || defined(ATTND_TSAN)
enum { CAN_PRELOAD = 0 }; /* a sanitizer wants to come first */
#else
enum { CAN_PRELOAD = 1 };
#endif

enum { TOKENS = 8, N_Q = 4, D = 4, D_V = 4 };

/* What this process and its children mount from now on ends with them, also when an assertion fails. False: only root may. */
static bool UNUSED own_mounts(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static void UNUSED write_state_arrays(const struct daemon *daemon)
{
    static float q[N_Q * D], k[TOKENS * D], v[TOKENS * D_V];
    struct test_random random;
    char path[200];
    random_init(&random, 5);
    random_normals(&random, q, N_Q * D, 1);
    for (int i = 0; i < N_Q; i++)
        q[i * D] = 0; /* the number in key[0] is no part of any score */
    snprintf(path, sizeof path, "%s/Q.npy", daemon->root);
    npy_save(path, q, N_Q, D);
    snprintf(path, sizeof path, "%s/K.npy", daemon->root);
    npy_save(path, k, TOKENS, D);
    snprintf(path, sizeof path, "%s/V.npy", daemon->root);
    npy_save(path, v, TOKENS, D_V);
}

/* A new state, stopped again. */
static void UNUSED make_daemon_state(struct daemon *daemon)
{
    char q[200], k[200], v[200];
    daemon_init(daemon);
    write_state_arrays(daemon);
    snprintf(q, sizeof q, "%s/Q.npy", daemon->root);
    snprintf(k, sizeof k, "%s/K.npy", daemon->root);
    snprintf(v, sizeof v, "%s/V.npy", daemon->root);
    const char *create[] = {"--q", q, "--k", k, "--v", v, NULL};
    assert_true(daemon_start(daemon, create));
    assert_int_equal(daemon_stop(daemon, SIGTERM), 0);
}

static enum att_status UNUSED submit_update(struct att_client *client, uint64_t n)
{
    const float key[D] = {(float)n, 0.5f, -0.25f, 0.125f}, value[D_V] = {(float)n, (float)(n % TOKENS), 1, -1};
    const struct att_request request = {
        .type = ATT_REQ_SET_TOKEN, .index = (uint32_t)(n % TOKENS), .key = key, .value = value, .tag = n};
    return att_submit(client, &request);
}

static struct att_client *UNUSED connect_to(const struct daemon *daemon)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = daemon->socket};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("att_connect: %s", error.text);
    return client;
}

/* ---- Recovering ----------------------------------------------------------------------------------------- */

struct recovered {
    uint64_t updates;
    char wrong[900]; /* "" when all is well */
};

static void UNUSED keep_finding(void *context, int severity, const char *text)
{
    struct recovered *ret = context;
    if (severity > 0 && !ret->wrong[0])
        snprintf(ret->wrong, sizeof ret->wrong, "verify: %s", text);
}

static void look_at_tokens(struct att_engine *engine, struct recovered *ret)
{
    float key[D], value[D_V], bias, last[TOKENS];
    struct att_error error = {0};
    for (uint32_t i = 0; i < TOKENS; i++) {
        if (att_engine_token(engine, i, key, value, &bias, &error) != ATT_OK) {
            snprintf(ret->wrong, sizeof ret->wrong, "token %u: %.400s", i, error.text);
            return;
        }
        last[i] = value[0];
        if (key[0] != value[0])
            snprintf(ret->wrong, sizeof ret->wrong, "token %u: key and value are of different updates", i);
        if (value[0] > (float)ret->updates)
            ret->updates = (uint64_t)value[0];
    }
    for (uint64_t i = 0; i < TOKENS; i++) {
        uint64_t n = ret->updates;
        while (n > 0 && n % TOKENS != i)
            n--;
        if (last[i] != (float)n)
            snprintf(ret->wrong, sizeof ret->wrong, "token %llu holds update %g, not %llu, though update %llu is there",
                     (unsigned long long)i, (double)last[i], (unsigned long long)n, (unsigned long long)ret->updates);
    }
}

/* What attnd would find: the store opened for writing (which counts a start), recovered, every value verified. With
 * `start`, its threads too, which delete what a crash left. */
static struct recovered UNUSED recover_directory(const char *directory, bool start)
{
    struct recovered ret = {0};
    struct att_error error = {0};
    struct att_store_options options = {.durability = ATT_DURABLE_ALWAYS};
    struct att_engine_options wanted = {.threads = 1};
    struct att_store *store = NULL;
    struct att_heads heads;
    struct att_recovery what;
    enum att_status status = att_store_open(directory, &options, &store, &error);
    if (status == ATT_OK)
        status = att_recover(store, &wanted, 0, &heads, NULL, &what, &error);
    if (status == ATT_OK) {
        look_at_tokens(heads.engines[0], &ret);
        att_heads_release(&heads);
        if (what.warning)
            snprintf(ret.wrong, sizeof ret.wrong, "%s", what.warning);
        if (what.last_lsn != ret.updates && !ret.wrong[0])
            snprintf(ret.wrong, sizeof ret.wrong, "update %llu at LSN %llu", (unsigned long long)ret.updates,
                     (unsigned long long)what.last_lsn);
        if (att_store_verify(store, keep_finding, &ret, &error) != ATT_OK && !ret.wrong[0])
            snprintf(ret.wrong, sizeof ret.wrong, "%s", error.text);
    }
    if (status == ATT_OK && start)
        status = att_store_start(store, &error);
    att_store_close(store);
    if (status != ATT_OK)
        snprintf(ret.wrong, sizeof ret.wrong, "%s: %.500s", att_status_name(status), error.text);
    return ret;
}

/* ---- Files ------------------------------------------------------------------------------------------------ */

struct image {
    unsigned char *bytes;
    size_t size, capacity;
};

static const char *const image_names[2] = {"log", "snap"};

static void UNUSED image_reserve(struct image *image, size_t size)
{
    if (size > image->capacity) {
        image->capacity = 2 * size;
        image->bytes = realloc(image->bytes, image->capacity);
        assert_non_null(image->bytes);
    }
    if (size > image->size) {
        memset(image->bytes + image->size, 0, size - image->size);
        image->size = size;
    }
}

static void UNUSED image_load(struct image *image, const char *path)
{
    struct stat stat_file;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat_file) != 0)
        fail_msg("%s: %s", path, strerror(errno));
    image->size = 0;
    image_reserve(image, (size_t)stat_file.st_size);
    assert_int_equal(read(fd, image->bytes, image->size), (ssize_t)image->size);
    close(fd);
}

/* Whether attnd has said this on its standard error. */
static bool UNUSED log_says(const struct daemon *daemon, const char *word)
{
    struct image log = {0};
    image_load(&log, daemon->log);
    image_reserve(&log, log.size + 1); /* a NUL */
    bool says = strstr((const char *)log.bytes, word) != NULL;
    free(log.bytes);
    return says;
}

static void UNUSED image_copy(struct image *to, const struct image *from)
{
    to->size = 0;
    image_reserve(to, from->size);
    memcpy(to->bytes, from->bytes, from->size);
}

/* DIR with these two files and nothing else of LMDB's. */
static void UNUSED images_store(const struct image images[2], const char *directory)
{
    char path[300];
    mkdir(directory, 0700);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, image_names[i]);
        mkdir(path, 0700);
        snprintf(path, sizeof path, "%s/%s/lock.mdb", directory, image_names[i]);
        unlink(path);
        snprintf(path, sizeof path, "%s/%s/data.mdb", directory, image_names[i]);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, images[i].bytes, images[i].size), (ssize_t)images[i].size);
        close(fd);
    }
}

static void UNUSED images_load(struct image images[2], const char *directory)
{
    char path[300];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s/data.mdb", directory, image_names[i]);
        image_load(&images[i], path);
    }
}

static int UNUSED remove_one(const char *path, const struct stat *stat, int flag, struct FTW *ftw)
{
    (void)stat, (void)flag, (void)ftw;
    return remove(path);
}

static void UNUSED remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static double UNUSED seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The daemon that is started next runs under this library of the build (NULL: no longer). */
static void UNUSED preload(const char *library, const char *directory)
{
    char path[4096];
    if (!library) {
        unsetenv("LD_PRELOAD");
        return;
    }
    daemon_program(library, path, sizeof path);
    if (access(path, R_OK) != 0)
        fail_msg("%s is missing", path);
    setenv("LD_PRELOAD", path, 1);
    setenv("ATT_FAULT_DIR", directory, 1);
}

#endif
