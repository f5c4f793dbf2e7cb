#include "attninspect_weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum att_status inspect_view_open(struct inspect *inspect, struct inspect_view *view, struct att_error *error)
{
    *view = (struct inspect_view){.head = inspect->head};
    enum att_status status = inspect_recover(inspect, 0, &view->heads, &view->what, error);
    if (status != ATT_OK)
        return status;
    const struct att_state_shape *shape = &view->what.snapshot.shape;
    if (inspect->head >= shape->heads)
        return att_fail(error, ATT_ERANGE, "--head %" PRIu32 " is out of range: there %s %" PRIu32, inspect->head,
                        shape->heads == 1 ? "is" : "are", shape->heads);
    view->q = malloc(shape->d * sizeof *view->q);
    if (!view->q)
        return att_fail(error, ATT_ENOMEM, "not enough memory");
    return inspect_tokens_load(&view->heads.engines[view->head], 1, shape->d, shape->d_v, &view->tokens, error);
}

void inspect_view_release(struct inspect_view *view)
{
    free(view->q);
    inspect_tokens_release(&view->tokens);
    att_heads_release(&view->heads);
    *view = (struct inspect_view){0};
}

enum att_status inspect_scores(struct inspect_view *view, uint32_t row, double *ret_scores, struct att_error *error)
{
    const struct att_state_shape *shape = &view->what.snapshot.shape;
    const struct inspect_tokens *tokens = &view->tokens;
    enum att_status status = att_engine_q(view->heads.engines[view->head], row, view->q, error);
    for (uint32_t token = 0; status == ATT_OK && token < tokens->count; token++) {
        const float *key = tokens->keys + (size_t)token * shape->d;
        double sum = 0;
        if (!tokens->live[token] || (shape->causal && token > row)) {
            ret_scores[token] = -INFINITY;
            continue;
        }
        for (uint32_t i = 0; i < shape->d; i++)
            sum += (double)view->q[i] * key[i];
        ret_scores[token] = view->what.scale * sum + tokens->biases[token];
    }
    return status;
}

double inspect_softmax(double *scores, uint32_t count)
{
    double largest = -INFINITY;
    double sum = 0;
    double mean = 0;
    for (uint32_t i = 0; i < count; i++)
        largest = fmax(largest, scores[i]);
    if (!isfinite(largest))
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        double below = scores[i] - largest;
        scores[i] = exp(below);
        sum += scores[i];
        if (scores[i] > 0)
            mean += scores[i] * below;
    }
    for (uint32_t i = 0; i < count; i++)
        scores[i] /= sum;
    return fmax(0, log(sum) - mean / sum);
}
