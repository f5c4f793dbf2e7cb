/* An engine and its model, with every kind of update drawn at random: what the tests of jobs and of snapshots start from. */
#ifndef ATT_TEST_ENGINE_FIXTURE_H
#define ATT_TEST_ENGINE_FIXTURE_H

#include <math.h>

#include "harness.h"

enum { N_Q = 45, D = 16, D_V = 9, CAPACITY = 130, TOKENS = 120 };

struct fixture {
    struct model model;
    struct test_random random;
    struct att_engine_options options;
    struct att_engine *engine;
    uint64_t lsn;
    uint32_t reach; /* tokens below this are updated */
};

static struct fixture fixture;

static int setup(void **state)
{
    (void)state;
    random_init(&fixture.random, 11);
    model_init(&fixture.model, N_Q, D, D_V, CAPACITY, 0.25);
    model_fill(&fixture.model, &fixture.random, TOKENS, 1);
    fixture.options = harness_options(&fixture.model);
    fixture.engine = harness_start(&fixture.model, &fixture.options);
    fixture.lsn = 0;
    fixture.reach = CAPACITY;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    att_engine_free(fixture.engine);
    model_release(&fixture.model);
    return 0;
}

struct draft {
    float key[D], value[D_V], bias;
};

static struct att_op draw(struct draft *draft)
{
    struct test_random *random = &fixture.random;
    random_normals(random, draft->key, D, 1);
    random_normals(random, draft->value, D_V, 1);
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .key = draft->key, .value = draft->value};
    do
        op.index = random_below(random, fixture.reach);
    while (!fixture.model.live[op.index]);
    switch (random_below(random, 8)) {
    case 0:
        op.kind = ATT_OP_ADD_V;
        op.column = random_below(random, D_V);
        op.number = random_normal(random);
        break;
    case 1:
        op.kind = ATT_OP_SET_Q;
        op.index = random_below(random, N_Q);
        break;
    case 2:
        if (fixture.model.tokens < fixture.model.capacity) {
            op.kind = ATT_OP_APPEND;
            op.index = ATT_ANY_INDEX;
        }
        break;
    case 3:
        if (fixture.model.tokens > TOKENS / 2)
            op.kind = ATT_OP_DELETE;
        break;
    case 4:
        draft->bias = random_one_in(random, 4) ? -INFINITY : (float)random_normal(random);
        op.bias = &draft->bias;
        break;
    default:
        break;
    }
    return op;
}

static void update(uint32_t times)
{
    struct draft draft;
    for (uint32_t n = 0; n < times; n++) {
        struct att_op op = draw(&draft);
        harness_update(fixture.engine, &fixture.model, &op, &fixture.lsn);
    }
    att_engine_kick(fixture.engine);
}

#endif
