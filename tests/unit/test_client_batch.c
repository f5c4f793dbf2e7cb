/* Batches against attnd: every request of a batch has the effect and the answer of its place in the order, also when the
 * entry log is full in the middle and when rows have to be computed; others see a batch whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attn.h"
#include "daemon.h"
#include "model.h"
#include "npyload.h"
#include "random.h"

enum { N_Q = 20, TOKENS = 40, CAPACITY = 50, D = 6, D_V = 5, BATCHES = 150 };

static struct daemon attnd;

static void start(const struct model *model, const char *log_capacity, const char *durability)
{
    char q[DAEMON_PATH + 16], k[DAEMON_PATH + 16], v[DAEMON_PATH + 16];
    daemon_init(&attnd);
    snprintf(q, sizeof q, "%s/Q.npy", attnd.root);
    snprintf(k, sizeof k, "%s/K.npy", attnd.root);
    snprintf(v, sizeof v, "%s/V.npy", attnd.root);
    npy_save(q, model->q, N_Q, D);
    npy_save(k, model->k, TOKENS, D);
    npy_save(v, model->v, TOKENS, D_V);
    const char *const arguments[] = {"--q",
                                     q,
                                     "--k",
                                     k,
                                     "--v",
                                     v,
                                     "--threads",
                                     "1",
                                     "--capacity",
                                     "50",
                                     "--log-capacity",
                                     log_capacity,
                                     "--durability",
                                     durability,
                                     NULL};
    assert_true(daemon_start(&attnd, arguments));
}

static struct att_client *connected(void)
{
    struct att_client *client;
    struct att_error error;
    const struct att_connect_options options = {.socket = attnd.socket, .timeout_ms = 20000, .stay_closed = true};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("%s", error.text);
    return client;
}

/* A batch, what it should answer, and the memory of its arrays. */
struct batch {
    struct att_request requests[ATT_BATCH_REQUESTS];
    struct att_completion done[ATT_BATCH_REQUESTS];
    enum att_status expected[ATT_BATCH_REQUESTS];
    long double right[ATT_BATCH_REQUESTS][D_V]; /* of reads */
    float keys[ATT_BATCH_REQUESTS][D], values[ATT_BATCH_REQUESTS][D_V], biases[ATT_BATCH_REQUESTS];
    double rows[ATT_BATCH_REQUESTS][D_V];
    uint32_t appended[ATT_BATCH_REQUESTS];
    uint32_t count;
};

static enum att_op_kind kind_of(enum att_request_type type)
{
    switch (type) {
    case ATT_REQ_SET_TOKEN:
        return ATT_OP_SET_TOKEN;
    case ATT_REQ_UPDATE_K:
        return ATT_OP_ADD_K;
    case ATT_REQ_UPDATE_V:
        return ATT_OP_ADD_V;
    case ATT_REQ_APPEND:
        return ATT_OP_APPEND;
    case ATT_REQ_DELETE:
        return ATT_OP_DELETE;
    default:
        return ATT_OP_SET_Q;
    }
}

static void choose(struct batch *b, uint32_t i, bool durable, struct test_random *random)
{
    static const enum att_request_type types[] = {ATT_REQ_QUERY,    ATT_REQ_ROW,    ATT_REQ_QUERY,  ATT_REQ_SET_TOKEN,
                                                  ATT_REQ_UPDATE_K, ATT_REQ_APPEND, ATT_REQ_DELETE, ATT_REQ_SET_Q,
                                                  ATT_REQ_UPDATE_V, ATT_REQ_ROW};
    struct att_request *r = &b->requests[i];
    *r = (struct att_request){.type = types[random_below(random, 10)],
                              .index = random_below(random, 30),
                              .column = random_below(random, D_V + 1),
                              .number = random_normal(random),
                              .tag = 1000 + i};
    random_normals(random, b->keys[i], D, 1);
    random_normals(random, b->values[i], D_V, 1);
    b->biases[i] = (float)random_normal(random);
    if (r->type != ATT_REQ_APPEND && random_one_in(random, 30))
        b->keys[i][2] = NAN;
    r->durable = durable && random_one_in(random, 8);
    if (r->type == ATT_REQ_ROW) {
        r->buffer = b->rows[i];
        r->buffer_bytes = sizeof b->rows[i];
    }
    if (r->type == ATT_REQ_SET_TOKEN || r->type == ATT_REQ_APPEND || r->type == ATT_REQ_SET_Q)
        r->key = b->keys[i];
    if (r->type == ATT_REQ_APPEND || (r->type == ATT_REQ_SET_TOKEN && random_one_in(random, 2)))
        r->value = b->values[i];
    if ((r->type == ATT_REQ_APPEND || r->type == ATT_REQ_SET_TOKEN) && random_one_in(random, 3))
        r->bias = &b->biases[i];
}

/* The model's answer at this place in the order; a new token's place is the first free one or any: the answer tells. */
static void expect(struct batch *b, uint32_t i, struct model *model)
{
    const struct att_request *r = &b->requests[i];
    struct oracle_input view = model_view(model);
    if (r->type == ATT_REQ_QUERY || r->type == ATT_REQ_ROW) {
        b->expected[i] = r->index >= N_Q || (r->type == ATT_REQ_QUERY && r->column >= D_V) ? ATT_ERANGE
                         : oracle_row(&view, r->index, b->right[i])                        ? ATT_OK
                                                                                           : ATT_EMPTY;
        return;
    }
    struct att_op op = {.kind = kind_of(r->type),
                        .index = r->type == ATT_REQ_APPEND ? ATT_ANY_INDEX : r->index,
                        .column = r->column,
                        .number = r->number,
                        .key = r->key,
                        .value = r->value,
                        .bias = r->bias};
    b->expected[i] = model_judge(model, &op);
    if (b->expected[i] != ATT_OK)
        return;
    if (r->type == ATT_REQ_APPEND)
        op.index = b->done[i].index;
    if (r->type == ATT_REQ_APPEND && (op.index >= CAPACITY || model->live[op.index]))
        fail_msg("request %u: the new token's index %u is in use or out of range", i, op.index);
    model_apply(model, &op);
}

static void assert_right(const struct batch *b, uint32_t i)
{
    const struct att_request *r = &b->requests[i];
    const struct att_completion *done = &b->done[i];
    if (done->tag != r->tag || done->type != r->type || done->status != b->expected[i])
        fail_msg("request %u of type %d: tag %llu, status %s, expected %s", i, (int)r->type,
                 (unsigned long long)done->tag, att_status_name(done->status), att_status_name(b->expected[i]));
    if (done->status != ATT_OK || (r->type != ATT_REQ_ROW && r->type != ATT_REQ_QUERY))
        return;
    for (uint32_t j = 0; j < D_V; j++) {
        const double got = r->type == ATT_REQ_ROW ? b->rows[i][j] : done->value;
        const long double right = b->right[i][r->type == ATT_REQ_ROW ? j : r->column];
        if (!(fabsl(got - right) <= done->error_bound))
            fail_msg("request %u: row %u: %.12g, expected %.12Lg within %.3g", i, r->index, got, right,
                     done->error_bound);
    }
}

static void every_request_has_its_place_in_the_order(const char *log_capacity, const char *durability)
{
    static struct batch b;
    struct test_random random;
    struct model model;
    struct att_stat stat;
    random_seed(&random, 4201, "batches");
    model_init(&model, N_Q, D, D_V, CAPACITY, 1);
    model_fill(&model, &random, TOKENS, 1);
    start(&model, log_capacity, durability);
    struct att_client *client = connected();
    for (uint32_t round = 0; round < test_times(BATCHES); round++) {
        b.count = random_one_in(&random, 3) ? ATT_BATCH_REQUESTS : 1 + random_below(&random, ATT_BATCH_REQUESTS);
        for (uint32_t i = 0; i < b.count; i++)
            choose(&b, i, strcmp(durability, "always") == 0, &random);
        if (att_call_batch(client, b.requests, b.count, b.done) != ATT_OK)
            fail_msg("%s", att_last_error(client));
        for (uint32_t i = 0; i < b.count; i++) {
            expect(&b, i, &model);
            assert_right(&b, i);
        }
        assert_int_equal(att_in_flight(client), 0);
    }
    assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    print_message("%llu updates, %llu queries, %llu refreshes, %llu merges\n", (unsigned long long)stat.updates,
                  (unsigned long long)stat.queries, (unsigned long long)stat.refreshes,
                  (unsigned long long)stat.merges);
    assert_int_equal(stat.tokens, model.tokens);
    att_close(client);
    daemon_release(&attnd);
    model_release(&model);
}

/* 64 entries: one batch of updates fills it twice. */
static void batches_that_fill_the_log(void **unused)
{
    (void)unused;
    every_request_has_its_place_in_the_order("64", "off");
}

static void durable_batches(void **unused)
{
    (void)unused;
    every_request_has_its_place_in_the_order("1024", "always");
}

/* All values become n at once: an answer in between would be neither. Merges are asked for, so that the log is never full:
 * then a batch would have to wait in its middle. */
static pid_t start_painter(void)
{
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct att_client *client = connected();
    for (uint32_t n = 1;; n = n % 8 + 1) {
        float value[D_V];
        struct att_request requests[TOKENS];
        struct att_completion done[TOKENS];
        for (int j = 0; j < D_V; j++)
            value[j] = (float)n;
        for (uint32_t i = 0; i < TOKENS; i++)
            requests[i] = (struct att_request){.type = ATT_REQ_SET_TOKEN, .index = i, .value = value};
        if (att_call_batch(client, requests, TOKENS, done) != ATT_OK || (n == 1 && att_merge(client) != ATT_OK))
            _exit(1);
    }
}

static void others_see_a_batch_whole(void **unused)
{
    (void)unused;
    struct test_random random;
    struct model model;
    double row[D_V], bound;
    uint32_t seen[9] = {0}, colours = 0;
    random_seed(&random, 4202, "painted tokens");
    model_init(&model, N_Q, D, D_V, CAPACITY, 1);
    model_fill(&model, &random, TOKENS, 1);
    for (uint32_t i = 0; i < TOKENS * D_V; i++)
        model.v[i] = 1;
    start(&model, "65536", "off");
    struct att_client *client = connected();
    struct att_stat stat;
    do
        assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    while (stat.rows_cold > 0);
    const pid_t pid = start_painter();
    for (uint32_t i = 0; i < test_times(20000) || colours < 8; i++) {
        assert_int_equal(att_row(client, i % N_Q, row, &bound), ATT_OK);
        const double nearest = round(row[0]);
        for (uint32_t j = 0; j < D_V; j++)
            if (!(fabs(row[j] - nearest) <= bound + 1e-5))
                fail_msg("row %u is %.9g: between two batches it is a whole number", i % N_Q, row[j]);
        colours += seen[(uint32_t)nearest]++ == 0;
    }
    assert_int_equal(kill(pid, SIGKILL), 0);
    waitpid(pid, NULL, 0);
    att_close(client);
    daemon_release(&attnd);
    model_release(&model);
}

/* d = 192 and d_v = 512: 20 whole tokens fill a message, and 54 rows their share of the reply ring. */
static void batches_that_are_too_large_are_refused(void **unused)
{
    (void)unused;
    enum { WIDE_D = 192, WIDE_D_V = 512 };
    static float key[WIDE_D], value[WIDE_D_V], k[4 * WIDE_D], v[4 * WIDE_D_V];
    static struct att_request requests[ATT_BATCH_REQUESTS];
    static struct att_completion done[ATT_BATCH_REQUESTS];
    char q_path[DAEMON_PATH + 16], k_path[DAEMON_PATH + 16], v_path[DAEMON_PATH + 16];
    daemon_init(&attnd);
    snprintf(q_path, sizeof q_path, "%s/Q.npy", attnd.root);
    snprintf(k_path, sizeof k_path, "%s/K.npy", attnd.root);
    snprintf(v_path, sizeof v_path, "%s/V.npy", attnd.root);
    npy_save(q_path, k, 4, WIDE_D);
    npy_save(k_path, k, 4, WIDE_D);
    npy_save(v_path, v, 4, WIDE_D_V);
    const char *const arguments[] = {"--q", q_path, "--k", k_path, "--v", v_path, "--threads", "1", NULL};
    assert_true(daemon_start(&attnd, arguments));
    struct att_client *client = connected();
    for (int i = 0; i < ATT_BATCH_REQUESTS; i++)
        requests[i] = (struct att_request){.type = ATT_REQ_SET_TOKEN, .key = key, .value = value};
    assert_int_equal(att_call_batch(client, requests, 21, done), ATT_EINVAL);
    assert_non_null(strstr(att_last_error(client), "57344 bytes"));
    assert_int_equal(att_call_batch(client, requests, 20, done), ATT_OK);
    for (int i = 0; i < ATT_BATCH_REQUESTS; i++)
        requests[i] = (struct att_request){.type = ATT_REQ_ROW};
    assert_int_equal(att_call_batch(client, requests, 55, done), ATT_EINVAL);
    assert_non_null(strstr(att_last_error(client), "4096 slots"));
    for (int round = 0; round < 100; round++)
        assert_int_equal(att_call_batch(client, requests, 54, done), ATT_OK);
    att_close(client);
    daemon_release(&attnd);
}

int main(void)
{
    if (!daemon_has("attnd")) {
        printf("skipped: attnd is not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_that_fill_the_log),
        cmocka_unit_test(durable_batches),
        cmocka_unit_test(others_see_a_batch_whole),
        cmocka_unit_test(batches_that_are_too_large_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
