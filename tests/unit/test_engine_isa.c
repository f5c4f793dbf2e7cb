/* The same updates give the same answers, bit for bit, on every instruction set. Each runs in a child of its own:
 * the engine chooses when it is created, and this process never starts a thread before it forks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

enum { N_Q = 37, D = 19, D_V = 6, CAPACITY = 90, TOKENS = 85, OPERATIONS = 400, FEW = 4 };

/* An answer's bits depend on what was added to its base in which order, so on when the merge thread did what. Here
 * nothing is left to it: all rows hot before the first update and kept (eager), merges only when asked for (held), no
 * refresh in between (a large error budget). */
struct answers {
    bool valid;
    char isa[16];
    double pending[FEW], merged[FEW];
    double jobs[N_Q * D_V], job_bounds[N_Q];
    double recomputed[N_Q * D_V], recomputed_bounds[N_Q];
};

static void merge(struct att_engine *engine)
{
    struct att_job job = {.kind = ATT_JOB_MERGE};
    assert_int_equal(harness_job(engine, &job), ATT_OK);
}

static void apply_random(struct att_engine *engine, struct model *model, struct test_random *random, uint32_t times,
                         uint64_t *lsn)
{
    float key[D], value[D_V], bias;
    for (uint32_t n = 0; n < times; n++) {
        random_normals(random, key, D, 1);
        random_normals(random, value, D_V, 1);
        bias = random_one_in(random, 5) ? -INFINITY : (float)random_normal(random);
        struct att_op op = {.kind = ATT_OP_SET_TOKEN,
                            .index = random_below(random, TOKENS),
                            .key = key,
                            .value = value,
                            .bias = random_one_in(random, 3) ? &bias : NULL};
        if (random_one_in(random, 3))
            op = (struct att_op){.kind = ATT_OP_ADD_K,
                                 .index = op.index,
                                 .column = n % D,
                                 .number = random_normal(random)};
        harness_update(engine, model, &op, lsn);
    }
}

static void query_some(struct att_engine *engine, double *ret_values)
{
    for (uint32_t i = 0; i < FEW; i++) {
        double bound;
        assert_int_equal(att_engine_query(engine, 9 * i, i, &ret_values[i], &bound, NULL), ATT_OK);
    }
}

static void answer_everything(enum att_precision precision, struct answers *answers)
{
    struct model model;
    struct test_random random;
    struct att_error error = {0};
    struct att_engine_stats stats;
    uint64_t lsn = 0;
    random_init(&random, 41);
    model_init(&model, N_Q, D, D_V, CAPACITY, precision == ATT_SINGLE ? 0.3 : 1.5);
    model_fill(&model, &random, TOKENS, 1);
    struct att_engine_options options = harness_options(&model);
    options.precision = precision;
    options.threads = 1;
    options.log_capacity = 4096; /* room for every round's updates */
    options.eager = true;
    options.error_budget = 1;
    struct att_engine *engine = harness_start(&model, &options);
    att_engine_hold(engine, true);
    att_engine_stats(engine, &stats);
    snprintf(answers->isa, sizeof answers->isa, "%s", stats.kernel);
    harness_settle(engine);
    apply_random(engine, &model, &random, 10, &lsn);
    query_some(engine, answers->pending);
    merge(engine);
    query_some(engine, answers->merged);
    for (int round = 0; round < 4; round++) {
        apply_random(engine, &model, &random, OPERATIONS, &lsn);
        merge(engine);
    }
    for (uint32_t i = 0; i < N_Q; i++) {
        struct att_job job = {.kind = ATT_JOB_ROW,
                              .index = i,
                              .values = answers->jobs + i * D_V,
                              .bounds = answers->job_bounds + i};
        assert_int_equal(harness_job(engine, &job), ATT_OK);
    }
    att_engine_stats(engine, &stats);
    assert_int_equal(stats.rows_cold, 0);
    assert_int_equal(stats.merges, 5);
    assert_int_equal(stats.refreshes, N_Q);
    att_engine_free(engine);
    engine = harness_create(&model, &options); /* without a merge thread: this one recomputes */
    assert_int_equal(att_engine_prepare(engine, &error), ATT_OK);
    for (uint32_t i = 0; i < N_Q; i++)
        assert_int_equal(att_engine_recompute(engine, i, answers->recomputed + i * D_V, answers->recomputed_bounds + i,
                                              &error),
                         ATT_OK);
    att_engine_free(engine);
    model_release(&model);
    answers->valid = true;
}

static enum att_precision precision_of_child;
static struct answers *answers_of_child;

static void child(void **state)
{
    (void)state;
    answer_everything(precision_of_child, answers_of_child);
}

static void run_child(const char *isa, enum att_precision precision, struct answers *answers)
{
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("ATTND_ISA", isa, 1);
        precision_of_child = precision;
        answers_of_child = answers;
        const struct CMUnitTest tests[] = {cmocka_unit_test(child)};
        _exit(cmocka_run_group_tests(tests, NULL, NULL) != 0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the child for %s failed (wait status %d)", isa, status);
    assert_true(answers->valid);
}

static void compare(const double *a, const double *b, size_t count, const char *what, const char *isa,
                    const char *other)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s %zu: %a on %s, %a on %s", what, i, a[i], isa, b[i], other);
}

static void same_on_every_instruction_set(enum att_precision precision)
{
    static const char *const isas[] = {"plain", "avx2", "avx512", "avx512_256"};
    enum { ISAS = sizeof isas / sizeof *isas };
    struct answers *answers =
        mmap(NULL, ISAS * sizeof *answers, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(answers != MAP_FAILED);
    int compared = 0;
    run_child(isas[0], precision, &answers[0]);
    assert_string_equal(answers[0].isa, "plain");
    for (int i = 1; i < ISAS; i++) {
        run_child(isas[i], precision, &answers[i]);
        if (strcmp(answers[i].isa, isas[i]) != 0) {
            printf("skipped: this processor has no %s\n", isas[i]);
            continue;
        }
        compare(answers[i].recomputed, answers[0].recomputed, N_Q * D_V, "recomputed", isas[i], "plain");
        compare(answers[i].jobs, answers[0].jobs, N_Q * D_V, "row job", isas[i], "plain");
        compare(answers[i].pending, answers[0].pending, FEW, "query with entries pending", isas[i], "plain");
        compare(answers[i].merged, answers[0].merged, FEW, "query after a merge", isas[i], "plain");
        compared++;
    }
    printf("compared %d kernels with plain C\n", compared);
    munmap(answers, ISAS * sizeof *answers);
}

static void single_is_the_same_on_every_instruction_set(void **state)
{
    (void)state;
    same_on_every_instruction_set(ATT_SINGLE);
}

static void mixed_is_the_same_on_every_instruction_set(void **state)
{
    (void)state;
    same_on_every_instruction_set(ATT_MIXED);
}

static void double_is_the_same_on_every_instruction_set(void **state)
{
    (void)state;
    same_on_every_instruction_set(ATT_DOUBLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_is_the_same_on_every_instruction_set),
        cmocka_unit_test(mixed_is_the_same_on_every_instruction_set),
        cmocka_unit_test(double_is_the_same_on_every_instruction_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
