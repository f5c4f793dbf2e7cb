/* attnd with several heads: each one's answers against the oracle, over kills, snapshots whose heads were cut at
 * different moments, trimmed logs and every durability; and heads that are not there. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "attn.h"
#include "daemon.h"
#include "model.h"
#include "npy.h"
#include "npyload.h"
#include "oracle.h"
#include "random.h"

enum { HEADS = 3, N_Q = 6, TOKENS = 40, CAPACITY = 48, D = 4, D_V = 3, LOG = 64 };

struct world {
    struct daemon daemon;
    struct test_random random;
    struct model models[HEADS];
    char q[200], k[200], v[200], b[200];
};

static void put(const char *path, const struct world *world, size_t offset, uint32_t rows, uint32_t columns)
{
    static float all[HEADS * TOKENS * D];
    size_t count = (size_t)rows * (columns ? columns : 1);
    struct att_error error;
    for (int head = 0; head < HEADS; head++) {
        const float *from;
        memcpy(&from, (const char *)&world->models[head] + offset, sizeof from);
        memcpy(all + head * count, from, count * sizeof *from);
    }
    if (att_npy_write_heads(path, ATT_NPY_F4, all, HEADS, rows, columns, &error) != ATT_OK)
        fail_msg("%s", error.text);
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    if (!world)
        return -1;
    daemon_init(&world->daemon);
    random_seed(&world->random, 83, "heads");
    for (int head = 0; head < HEADS; head++) {
        struct model *model = &world->models[head];
        model_init(model, N_Q, D, D_V, CAPACITY, 1);
        model_fill(model, &world->random, TOKENS, 1);
        for (uint32_t i = 0; i < TOKENS; i++)
            model->bias[i] = random_one_in(&world->random, 8) ? -INFINITY : (float)random_normal(&world->random);
    }
    snprintf(world->q, sizeof world->q, "%s/Q.npy", world->daemon.root);
    snprintf(world->k, sizeof world->k, "%s/K.npy", world->daemon.root);
    snprintf(world->v, sizeof world->v, "%s/V.npy", world->daemon.root);
    snprintf(world->b, sizeof world->b, "%s/B.npy", world->daemon.root);
    put(world->q, world, offsetof(struct model, q), N_Q, D);
    put(world->k, world, offsetof(struct model, k), TOKENS, D);
    put(world->v, world, offsetof(struct model, v), TOKENS, D_V);
    put(world->b, world, offsetof(struct model, bias), TOKENS, 0);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    daemon_release(&world->daemon);
    for (int head = 0; head < HEADS; head++)
        model_release(&world->models[head]);
    free(world);
    return 0;
}

/* Creates the state, or resumes it. */
static void start(struct world *world, bool create, const char *durability)
{
    const char *const resume[] = {"--durability", durability, "--log-capacity", "64", NULL};
    const char *const first[] = {"--q",    world->q,     "--k", world->k,       "--v",      world->v,         "--bias",
                                 world->b, "--capacity", "48",  "--durability", durability, "--log-capacity", "64",
                                 NULL};
    assert_true(daemon_start(&world->daemon, create ? first : resume));
}

static struct att_client *connected(const struct world *world)
{
    struct att_error error = {0};
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = world->daemon.socket};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("att_connect: %s", error.text);
    return client;
}

static struct att_completion called(struct att_client *client, const struct att_request *request)
{
    struct att_completion done = {0};
    enum att_status status = att_call(client, request, &done);
    if (status != ATT_OK)
        fail_msg("request %d to head %u: %s: %s", (int)request->type, request->head, att_status_name(status),
                 att_last_error(client));
    return done;
}

/* ---- Updates --------------------------------------------------------------------------------------------- */

/* A random update that needs no reply to be known: of a live token, or a row of Q. */
static struct att_op random_change(struct world *world, const struct model *model, float *numbers, float *bias)
{
    struct test_random *random = &world->random;
    random_normals(random, numbers, D + D_V, 1);
    *bias = (float)random_normal(random);
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .key = numbers, .value = numbers + D};
    switch (random_below(random, 4)) {
    case 0:
        return (struct att_op){.kind = ATT_OP_SET_Q, .index = random_below(random, N_Q), .key = numbers};
    case 1:
        op = (struct att_op){.kind = ATT_OP_ADD_V, .column = random_below(random, D_V), .number = 0.25};
        break;
    case 2:
        op.bias = bias;
        break;
    default:
        break;
    }
    do
        op.index = random_below(random, CAPACITY);
    while (!model->live[op.index]);
    return op;
}

static struct att_request request_of(const struct att_op *op, uint32_t head)
{
    static const enum att_request_type types[] = {
        [ATT_OP_SET_TOKEN] = ATT_REQ_SET_TOKEN, [ATT_OP_ADD_V] = ATT_REQ_UPDATE_V, [ATT_OP_APPEND] = ATT_REQ_APPEND,
        [ATT_OP_DELETE] = ATT_REQ_DELETE,       [ATT_OP_SET_Q] = ATT_REQ_SET_Q,
    };
    return (struct att_request){.type = types[op->kind],
                                .head = head,
                                .index = op->index,
                                .column = op->column,
                                .number = op->number,
                                .key = op->key,
                                .value = op->value,
                                .bias = op->bias};
}

/* Deletes a token and appends two, as far as there is room: the daemon chooses the indices. */
static void come_and_go(struct world *world, struct att_client *client, uint32_t head)
{
    struct model *model = &world->models[head];
    float numbers[D + D_V];
    struct att_op op = {.kind = ATT_OP_DELETE, .index = random_below(&world->random, CAPACITY)};
    if (model->live[op.index] && model->tokens > 2) {
        struct att_request request = request_of(&op, head);
        called(client, &request);
        model_apply(model, &op);
    }
    for (int i = 0; i < 2 && model->tokens < CAPACITY; i++) {
        random_normals(&world->random, numbers, D + D_V, 1);
        op = (struct att_op){.kind = ATT_OP_APPEND, .key = numbers, .value = numbers + D};
        struct att_request request = request_of(&op, head);
        op.index = called(client, &request).index;
        model_apply(model, &op);
    }
}

/* Updates to one head (HEADS: to all, in random order), each answered before the next. */
static void update(struct world *world, struct att_client *client, uint32_t only, int count)
{
    float numbers[D + D_V], bias;
    for (int i = 0; i < count; i++) {
        uint32_t head = only < HEADS ? only : random_below(&world->random, HEADS);
        struct att_op op = random_change(world, &world->models[head], numbers, &bias);
        struct att_request request = request_of(&op, head);
        called(client, &request);
        model_apply(&world->models[head], &op);
        if (random_one_in(&world->random, 10))
            come_and_go(world, client, head);
    }
}

/* Updates to all heads, many in flight, and some snapshots among them: so the heads are cut at different LSNs. */
static void stream(struct world *world, struct att_client *client, int count)
{
    struct att_completion done[64];
    float numbers[D + D_V], bias;
    for (int i = 0; i < count || att_in_flight(client) > 0; i++) {
        uint32_t head = random_below(&world->random, HEADS);
        struct att_op op = random_change(world, &world->models[head], numbers, &bias);
        struct att_request request = request_of(&op, head);
        if (i < count && i % 500 == 100)
            request = (struct att_request){.type = ATT_REQ_SNAPSHOT};
        if (i < count) {
            assert_int_equal(att_submit(client, &request), ATT_OK);
            if (request.type != ATT_REQ_SNAPSHOT)
                model_apply(&world->models[head], &op);
        }
        if (i < count && att_in_flight(client) < 200)
            continue;
        int got = att_complete(client, done, 64, 10000);
        assert_true(got > 0);
        while (got-- > 0)
            assert_int_equal(done[got].status, ATT_OK);
    }
}

/* ---- Checks ---------------------------------------------------------------------------------------------- */

static void check_number(double value, double bound, long double expected, const char *what, uint32_t head,
                         uint32_t row, uint32_t column)
{
    if (!(fabsl((long double)value - expected) <= (long double)bound) || !(bound < 1e-4))
        fail_msg("%s: head %u row %u column %u: %.17g, expected %.17Lg, bound %g", what, head, row, column, value,
                 expected, bound);
}

/* Rows, everything and a column of every head. */
static void check_answers(struct world *world, struct att_client *client)
{
    static double all[N_Q * D_V], values[D_V], pairs[2 * N_Q];
    for (uint32_t head = 0; head < HEADS; head++) {
        struct oracle_input input = model_view(&world->models[head]);
        struct att_request everything = {.type = ATT_REQ_ALL, .head = head, .buffer = all, .buffer_bytes = sizeof all};
        struct att_request column = {
            .type = ATT_REQ_COLUMN, .head = head, .column = 1, .buffer = pairs, .buffer_bytes = sizeof pairs};
        double all_bound = called(client, &everything).error_bound;
        called(client, &column);
        for (uint32_t i = 0; i < N_Q; i++) {
            long double expected[D_V];
            struct att_request row = {
                .type = ATT_REQ_ROW, .head = head, .index = i, .buffer = values, .buffer_bytes = sizeof values};
            struct att_request entry = {.type = ATT_REQ_QUERY, .head = head, .index = i, .column = 2};
            double bound = called(client, &row).error_bound;
            struct att_completion done = called(client, &entry);
            assert_true(oracle_row(&input, i, expected));
            for (uint32_t j = 0; j < D_V; j++) {
                check_number(values[j], bound, expected[j], "row", head, i, j);
                check_number(all[i * D_V + j], all_bound, expected[j], "all", head, i, j);
            }
            check_number(done.value, done.error_bound, expected[2], "entry", head, i, 2);
            check_number(pairs[2 * i], pairs[2 * i + 1], expected[1], "column", head, i, 1);
        }
    }
}

static struct att_stat stat_of(struct att_client *client)
{
    struct att_stat stat;
    assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    return stat;
}

/* Runs a program; its output contains the word, and its exit code is this. */
static void run(const char *program, const char *const *arguments, int code, const char *word)
{
    static char text[20000];
    int got = daemon_run(program, arguments, text, sizeof text);
    if (got != code || (word && !strstr(text, word)))
        fail_msg("%s %s %s: exit %d, expected %d and '%s':\n%s", program, arguments[0], arguments[1], got, code,
                 word ? word : "", text);
}

static void verify(const struct world *world)
{
    const char *const arguments[] = {world->daemon.dir, "verify", NULL};
    run("attninspect", arguments, 0, "recovered to LSN");
}

/* Ends the daemon with the signal, looks at what is on disk, starts it again and checks every head. */
static struct att_client *restarted(struct world *world, struct att_client *client, int signal, const char *durability)
{
    att_close(client);
    int status = daemon_stop(&world->daemon, signal);
    assert_true(signal == SIGKILL ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
    verify(world);
    start(world, false, durability);
    client = connected(world);
    assert_int_equal(stat_of(client).log_capacity, HEADS * LOG); /* however much was replayed */
    check_answers(world, client);
    return client;
}

/* ---- Tests ----------------------------------------------------------------------------------------------- */

static void every_head_survives_kills_and_stops(void **state)
{
    struct world *world = *state;
    start(world, true, "always");
    struct att_client *client = connected(world);
    struct att_info info;
    att_get_info(client, &info);
    assert_int_equal(info.heads, HEADS);
    check_answers(world, client);
    for (uint32_t round = 0; round < 3; round++) {
        update(world, client, HEADS, 150);
        check_answers(world, client);
        client = restarted(world, client, round == 1 ? SIGTERM : SIGKILL, "always");
    }
    uint64_t tokens = 0;
    for (int head = 0; head < HEADS; head++)
        tokens += world->models[head].tokens;
    struct att_stat stat = stat_of(client);
    assert_int_equal(stat.heads, HEADS);
    assert_int_equal(stat.n_q, N_Q);
    assert_int_equal(stat.tokens, tokens);
    assert_int_equal(stat.rows_hot + stat.rows_cold, HEADS * N_Q);
    att_close(client);
}

/* Heads cut at different LSNs: each replays what is behind its own cut, no more and no less. */
static void snapshots_amid_updates_lose_and_repeat_nothing(void **state)
{
    struct world *world = *state;
    start(world, true, "always");
    struct att_client *client = connected(world);
    for (uint32_t round = 0; round < test_times(3); round++) {
        stream(world, client, 3000);
        check_answers(world, client);
        client = restarted(world, client, round % 2 ? SIGTERM : SIGKILL, "always");
        update(world, client, HEADS, 20);
    }
    att_close(client);
}

/* A head that nobody changes does not hold the log back. */
static void the_log_is_trimmed_though_some_heads_rest(void **state)
{
    struct world *world = *state;
    const char *const log[] = {world->daemon.dir, "log", NULL};
    static char text[20000];
    start(world, true, "always");
    struct att_client *client = connected(world);
    for (int i = 0; i < 3; i++) {
        update(world, client, 1, 100);
        assert_int_equal(att_snapshot(client), ATT_OK);
        struct att_stat stat = stat_of(client);
        assert_int_equal(stat.snapshot_lsn, stat.lsn);
    }
    uint64_t older = stat_of(client).lsn;
    assert_int_equal(att_snapshot(client), ATT_OK); /* now both generations hold everything */
    client = restarted(world, client, SIGKILL, "always");
    client = restarted(world, client, SIGKILL, "always"); /* a trim that was cut short is finished at a start */
    assert_int_equal(stat_of(client).lsn, older);
    assert_int_equal(daemon_run("attninspect", log, text, sizeof text), 0);
    assert_string_equal(text, "");
    update(world, client, 2, 5);
    assert_int_equal(stat_of(client).lsn > older, true);
    client = restarted(world, client, SIGKILL, "always");
    att_close(client);
}

/* Also with a log that is kept, left off and kept again: that leaves a gap in its LSNs. */
static void durability_may_change_from_start_to_start(void **state)
{
    struct world *world = *state;
    start(world, true, "off");
    struct att_client *client = connected(world);
    stream(world, client, 1500);
    assert_int_equal(att_flush(client), ATT_OK);
    client = restarted(world, client, SIGKILL, "always");
    stream(world, client, 1500);
    client = restarted(world, client, SIGKILL, "off");
    stream(world, client, 1500);
    client = restarted(world, client, SIGTERM, "interval:20");
    update(world, client, HEADS, 100);
    assert_int_equal(att_flush(client), ATT_OK);
    client = restarted(world, client, SIGKILL, "always");
    att_close(client);
}

static void heads_that_are_not_there_are_refused(void **state)
{
    struct world *world = *state;
    static const float key[D] = {1};
    double value;
    start(world, true, "always");
    struct att_client *client = connected(world);
    const struct att_request bad[] = {
        {.type = ATT_REQ_QUERY, .head = 7},
        {.type = ATT_REQ_SET_Q, .head = 7, .key = key},
        {.type = ATT_REQ_ALL, .head = 7, .buffer = NULL},
        {.type = ATT_REQ_DELETE, .head = 7},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(att_call(client, &bad[i], NULL), ATT_ERANGE);
        assert_non_null(strstr(att_last_error(client), "head 7 is out of range: there are 3"));
    }
    assert_int_equal(stat_of(client).lsn, 0);
    assert_int_equal(att_query(client, 0, 0, &value, NULL), ATT_OK); /* head 0 */
    const char *const right[] = {"--socket", world->daemon.socket, "row", "2:1", NULL};
    const char *const plain[] = {"--socket", world->daemon.socket, "row", "1", NULL};
    const char *const wrong[] = {"--socket", world->daemon.socket, "row", "7:1", NULL};
    const char *const append[] = {"--socket", world->daemon.socket, "append", "1:", "1", "2", "3", "4", "5", "6", "7",
                                  NULL};
    const char *const headless[] = {"--socket", world->daemon.socket, "append", "1", "2", "3", "4", "5", "6", "7",
                                    NULL};
    const char *const replay[] = {
        "--socket", world->daemon.socket, "replay", "--kind", "k.npy", "--index", "i.npy", "--rows", "r.npy", NULL};
    run("attnctl", right, 0, NULL);
    run("attnctl", plain, 2, "there are 3 heads");
    run("attnctl", wrong, 1, "head 7 is out of range: there are 3");
    run("attnctl", headless, 2, "there are 3 heads");
    run("attnctl", replay, 2, "there are 3 heads: --head");
    run("attnctl", append, 0, "40");
    static const float added[D + D_V] = {1, 2, 3, 4, 5, 6, 7};
    model_apply(&world->models[1],
                &(struct att_op){.kind = ATT_OP_APPEND, .index = 40, .key = added, .value = added + D});
    check_answers(world, client); /* the others are as they were */
    att_close(client);
}

/* attnctl all and attninspect dump write heads x rows x columns. */
static void whole_arrays_have_a_dimension_for_heads(void **state)
{
    struct world *world = *state;
    char out[200], dump[200];
    start(world, true, "always");
    struct att_client *client = connected(world);
    update(world, client, HEADS, 60);
    snprintf(out, sizeof out, "%s/O.npy", world->daemon.root);
    snprintf(dump, sizeof dump, "%s/dump", world->daemon.root);
    const char *const all[] = {"--socket", world->daemon.socket, "all", out, NULL};
    const char *const dumped[] = {world->daemon.dir, "dump", dump, NULL};
    run("attnctl", all, 0, NULL);
    run("attninspect", dumped, 0, NULL);
    struct npy o = npy_load(world->daemon.root, "O.npy"), q = npy_load(dump, "Q.npy"), k = npy_load(dump, "K.npy");
    assert_int_equal(o.rows, HEADS);
    assert_int_equal(o.columns, N_Q * D_V);
    assert_int_equal(k.rows, HEADS);
    for (uint32_t head = 0; head < HEADS; head++) {
        const struct model *model = &world->models[head];
        struct oracle_input input = model_view(model);
        long double expected[D_V];
        for (uint32_t i = 0; i < N_Q * D_V; i++) {
            assert_true(oracle_row(&input, i / D_V, expected));
            check_number((double)npy_floats(&o)[head * N_Q * D_V + i], 1e-5, expected[i % D_V], "all", head, i / D_V,
                         i % D_V);
        }
        assert_memory_equal(npy_floats(&q) + head * N_Q * D, model->q, sizeof(float) * N_Q * D);
        for (uint32_t i = 0; i < k.columns / D; i++)
            if (model->live[i])
                assert_memory_equal(npy_floats(&k) + head * k.columns + i * D, model->k + i * D, sizeof(float) * D);
    }
    npy_release(&o);
    npy_release(&q);
    npy_release(&k);
    att_close(client);
}

static void arrays_of_different_heads_are_refused(void **state)
{
    struct world *world = *state;
    static const float numbers[2 * TOKENS * D];
    char two[200];
    snprintf(two, sizeof two, "%s/two.npy", world->daemon.root);
    assert_int_equal(att_npy_write_heads(two, ATT_NPY_F4, numbers, 2, N_Q, D, NULL), ATT_OK);
    const char *const q[] = {"--dir", world->daemon.dir, "--socket", world->daemon.socket, "--q", two, "--k", world->k,
                             "--v",   world->v,          NULL};
    run("attnd", q, 1, "two.npy has 2 heads");
    assert_int_equal(att_npy_write_heads(two, ATT_NPY_F4, numbers, 2, TOKENS, 0, NULL), ATT_OK);
    const char *const b[] = {"--dir", world->daemon.dir, "--socket", world->daemon.socket,
                             "--q",   world->q,          "--k",      world->k,
                             "--v",   world->v,          "--bias",   two,
                             NULL};
    run("attnd", b, 1, "two.npy has 2");
    static const float ones[1025];
    assert_int_equal(att_npy_write_heads(two, ATT_NPY_F4, ones, 1025, 1, 1, NULL), ATT_OK);
    const char *const many[] = {
        "--dir", world->daemon.dir, "--socket", world->daemon.socket, "--q", two, "--k", two, "--v", two, NULL};
    run("attnd", many, 1, "at most 1024");
}

int main(void)
{
    if (!daemon_has("attnd") || !daemon_has("attnctl") || !daemon_has("attninspect")) {
        printf("skipped: the programs are not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_head_survives_kills_and_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(snapshots_amid_updates_lose_and_repeat_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(the_log_is_trimmed_though_some_heads_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(durability_may_change_from_start_to_start, setup, teardown),
        cmocka_unit_test_setup_teardown(heads_that_are_not_there_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(whole_arrays_have_a_dimension_for_heads, setup, teardown),
        cmocka_unit_test_setup_teardown(arrays_of_different_heads_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
