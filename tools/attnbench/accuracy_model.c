#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "accuracy.h"

void model_init(struct model *model, uint32_t n_q, uint32_t capacity, uint32_t d, uint32_t d_v, double scale)
{
    *model = (struct model){.n_q = n_q, .capacity = capacity, .d = d, .d_v = d_v, .scale = scale};
    model->q = bench_floats((size_t)n_q * d);
    model->k = bench_floats((size_t)capacity * d);
    model->v = bench_floats((size_t)capacity * d_v);
    model->bias = bench_floats(capacity);
    model->live = bench_memory(capacity);
    model->scores = bench_memory(sizeof *model->scores * capacity);
    memset(model->live, 1, capacity);
}

void model_release(struct model *model)
{
    free(model->q);
    free(model->k);
    free(model->v);
    free(model->bias);
    free(model->live);
    free(model->scores);
}

void model_apply(struct model *model, const struct att_op *op)
{
    const size_t token = op->index;

    if (op->kind == ATT_OP_SET_Q) {
        memcpy(model->q + token * model->d, op->key, sizeof(float) * model->d);
        return;
    }
    if (op->kind == ATT_OP_DELETE) {
        model->live[token] = 0;
        return;
    }
    if (op->kind == ATT_OP_SET_K_ENTRY)
        model->k[token * model->d + op->column] = (float)op->number;
    if (op->kind == ATT_OP_SET_V_ENTRY)
        model->v[token * model->d_v + op->column] = (float)op->number;
    if (op->key)
        memcpy(model->k + token * model->d, op->key, sizeof(float) * model->d);
    if (op->value)
        memcpy(model->v + token * model->d_v, op->value, sizeof(float) * model->d_v);
    if (op->bias)
        model->bias[token] = *op->bias;
    else if (op->kind == ATT_OP_APPEND)
        model->bias[token] = 0.0f;
    model->live[token] = 1;
}

static bool sees(const struct model *model, size_t token)
{
    return model->live[token] && model->bias[token] > -INFINITY;
}

/* Four sums at once, or the additions would wait for each other. */
static long double score(const struct model *model, const float *q, size_t token)
{
    const float *k = model->k + token * model->d;
    long double sums[4] = {0};
    uint32_t p = 0;

    for (; p + 4 <= model->d; p += 4)
        for (uint32_t c = 0; c < 4; c++)
            sums[c] += (long double)q[p + c] * (long double)k[p + c];
    for (; p < model->d; p++)
        sums[0] += (long double)q[p] * (long double)k[p];
    return (sums[0] + sums[1] + (sums[2] + sums[3])) * (long double)model->scale + (long double)model->bias[token];
}

/* Fills in the scratch; the token with the largest score, or capacity. */
static uint32_t weigh(const struct model *model, uint32_t row)
{
    uint32_t top = model->capacity;

    for (uint32_t l = 0; l < model->capacity; l++) {
        if (!sees(model, l))
            continue;
        model->scores[l] = score(model, model->q + (size_t)row * model->d, l);
        if (top == model->capacity || model->scores[l] > model->scores[top])
            top = l;
    }
    return top;
}

uint32_t model_top(const struct model *model, uint32_t row)
{
    return weigh(model, row);
}

bool model_row(const struct model *model, uint32_t row, long double *ret_values)
{
    const uint32_t top = weigh(model, row);
    long double denominator = 0.0L;

    if (top == model->capacity)
        return false;
    for (uint32_t j = 0; j < model->d_v; j++)
        ret_values[j] = 0.0L;
    for (uint32_t l = 0; l < model->capacity; l++) {
        const long double fall = sees(model, l) ? model->scores[l] - model->scores[top] : -HUGE_VALL;
        long double weight;
        if (fall < -100.0L) /* together below capacity times 4e-44 */
            continue;
        weight = expl(fall);
        denominator += weight;
        for (uint32_t j = 0; j < model->d_v; j++)
            ret_values[j] += weight * (long double)model->v[(size_t)l * model->d_v + j];
    }
    for (uint32_t j = 0; j < model->d_v; j++)
        ret_values[j] /= denominator;
    return true;
}

double model_largest_value(const struct model *model)
{
    double largest = 0.0;

    for (size_t l = 0; l < model->capacity; l++)
        for (size_t j = 0; model->live[l] && j < model->d_v; j++)
            largest = fmax(largest, fabs((double)model->v[l * model->d_v + j]));
    return largest;
}
