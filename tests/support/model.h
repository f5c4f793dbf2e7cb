/* A simple model of an engine's tokens: plain arrays that updates are applied to. */
#ifndef ATT_TEST_MODEL_H
#define ATT_TEST_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "oracle.h"
#include "random.h"

struct model {
    uint32_t n_q, d, d_v, capacity;
    double scale;
    float *q, *k, *v, *bias;
    uint8_t *live;
    uint32_t tokens;  /* live ones */
    double max_value; /* the largest |V| ever held */
};

/* All zero and no token live. Never fails (aborts). */
void model_init(struct model *model, uint32_t n_q, uint32_t d, uint32_t d_v, uint32_t capacity, double scale);
void model_release(struct model *model);

/* Fills Q and the first `tokens` tokens with normal numbers. */
void model_fill(struct model *model, struct test_random *random, uint32_t tokens, double deviation);

/* What UpdateK and UpdateV make of an entry: the sum in float64, rounded once to float32. */
float model_sum(float old, double delta);

/* The status that the engine owes for this update, but for a full log and for magnitudes. */
enum att_status model_judge(const struct model *model, const struct att_op *op);

/* Applies an update that the engine took; an append needs its index filled in. ADD kinds add. */
void model_apply(struct model *model, const struct att_op *op);

/* The lowest token that is not live, the capacity when all are: what an append takes. */
uint32_t model_lowest_free(const struct model *model);

/* The oracle's view of it; valid as long as the model. */
struct oracle_input model_view(const struct model *model);

/* Copies the model into the engine's arrays, before its start. */
void model_load(const struct model *model, struct att_engine *engine);

#endif
