/* Apart from model.c, so that a test of the client library can have a model without linking the engine: both have an
 * att_merge. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void load_array(struct att_engine *engine, enum att_array array, const void *data, size_t bytes)
{
    size_t room = 0;
    void *target = att_engine_array(engine, array, &room);
    if (!target || room != bytes) {
        fprintf(stderr, "array %d has %zu bytes, not %zu\n", (int)array, room, bytes);
        abort();
    }
    memcpy(target, data, bytes);
}

void model_load(const struct model *model, struct att_engine *engine)
{
    load_array(engine, ATT_ARRAY_Q, model->q, (size_t)model->n_q * model->d * sizeof(float));
    load_array(engine, ATT_ARRAY_K, model->k, (size_t)model->capacity * model->d * sizeof(float));
    load_array(engine, ATT_ARRAY_V, model->v, (size_t)model->capacity * model->d_v * sizeof(float));
    load_array(engine, ATT_ARRAY_BIAS, model->bias, model->capacity * sizeof(float));
    load_array(engine, ATT_ARRAY_LIVE, model->live, model->capacity);
}
