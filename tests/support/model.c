#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *zeros(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        abort();
    return memory;
}

void model_init(struct model *model, uint32_t n_q, uint32_t d, uint32_t d_v, uint32_t capacity, double scale)
{
    *model = (struct model){.n_q = n_q, .d = d, .d_v = d_v, .capacity = capacity, .scale = scale};
    model->q = zeros((size_t)n_q * d, sizeof(float));
    model->k = zeros((size_t)capacity * d, sizeof(float));
    model->v = zeros((size_t)capacity * d_v, sizeof(float));
    model->bias = zeros(capacity, sizeof(float));
    model->live = zeros(capacity, 1);
}

void model_release(struct model *model)
{
    free(model->q);
    free(model->k);
    free(model->v);
    free(model->bias);
    free(model->live);
    *model = (struct model){0};
}

static void note_values(struct model *model, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fabs((double)values[i]) > model->max_value)
            model->max_value = fabs((double)values[i]);
}

void model_fill(struct model *model, struct test_random *random, uint32_t tokens, double deviation)
{
    random_normals(random, model->q, (size_t)model->n_q * model->d, deviation);
    random_normals(random, model->k, (size_t)tokens * model->d, deviation);
    random_normals(random, model->v, (size_t)tokens * model->d_v, 1);
    memset(model->live, 1, tokens);
    model->tokens = tokens;
    note_values(model, model->v, (size_t)tokens * model->d_v);
}

float model_sum(float old, double delta)
{
    return (float)((double)old + delta);
}

static bool all_finite(const float *numbers, uint32_t count)
{
    for (uint32_t i = 0; numbers && i < count; i++)
        if (!isfinite(numbers[i]))
            return false;
    return true;
}

static bool arrays_finite(const struct model *model, const struct att_op *op)
{
    if (!all_finite(op->key, model->d) || !all_finite(op->value, model->d_v))
        return false;
    return !op->bias || isfinite(*op->bias) || *op->bias == -INFINITY;
}

static enum att_status judge_entry(const struct model *model, const struct att_op *op)
{
    bool key = op->kind == ATT_OP_ADD_K || op->kind == ATT_OP_SET_K_ENTRY;
    bool add = op->kind == ATT_OP_ADD_K || op->kind == ATT_OP_ADD_V;
    uint32_t columns = key ? model->d : model->d_v;
    if (op->index >= model->capacity || !model->live[op->index] || op->column >= columns)
        return ATT_ERANGE;
    if (!isfinite(op->number))
        return ATT_ENOTFINITE;
    float old = (key ? model->k : model->v)[(size_t)op->index * columns + op->column];
    return isfinite(model_sum(add ? old : 0, op->number)) ? ATT_OK : ATT_ENOTFINITE;
}

enum att_status model_judge(const struct model *model, const struct att_op *op)
{
    switch (op->kind) {
    case ATT_OP_SET_TOKEN:
        if (op->index >= model->capacity || !model->live[op->index])
            return ATT_ERANGE;
        return arrays_finite(model, op) ? ATT_OK : ATT_ENOTFINITE;
    case ATT_OP_SET_K_ENTRY:
    case ATT_OP_SET_V_ENTRY:
    case ATT_OP_ADD_K:
    case ATT_OP_ADD_V:
        return judge_entry(model, op);
    case ATT_OP_APPEND:
        if (!arrays_finite(model, op))
            return ATT_ENOTFINITE;
        if (op->index != ATT_ANY_INDEX)
            return op->index < model->capacity ? ATT_OK : ATT_ECAPACITY;
        return model->tokens < model->capacity ? ATT_OK : ATT_ECAPACITY;
    case ATT_OP_DELETE:
        return op->index < model->capacity && model->live[op->index] ? ATT_OK : ATT_ERANGE;
    case ATT_OP_SET_Q:
        if (op->index >= model->n_q)
            return ATT_ERANGE;
        return all_finite(op->key, model->d) ? ATT_OK : ATT_ENOTFINITE;
    default:
        return ATT_EINVAL;
    }
}

uint32_t model_lowest_free(const struct model *model)
{
    uint32_t token = 0;
    while (token < model->capacity && model->live[token])
        token++;
    return token;
}

static void set_token(struct model *model, const struct att_op *op)
{
    size_t i = op->index;
    if (op->key)
        memcpy(model->k + i * model->d, op->key, model->d * sizeof(float));
    if (op->value) {
        memcpy(model->v + i * model->d_v, op->value, model->d_v * sizeof(float));
        note_values(model, op->value, model->d_v);
    }
    if (op->bias)
        model->bias[i] = *op->bias;
}

void model_apply(struct model *model, const struct att_op *op)
{
    float *k = op->kind == ATT_OP_SET_Q ? NULL : model->k + (size_t)op->index * model->d + op->column;
    float *v = op->kind == ATT_OP_SET_Q ? NULL : model->v + (size_t)op->index * model->d_v + op->column;
    switch (op->kind) {
    case ATT_OP_SET_TOKEN:
        set_token(model, op);
        break;
    case ATT_OP_SET_K_ENTRY:
        *k = (float)op->number;
        break;
    case ATT_OP_SET_V_ENTRY:
        *v = (float)op->number;
        note_values(model, v, 1);
        break;
    case ATT_OP_ADD_K:
        *k = model_sum(*k, op->number);
        break;
    case ATT_OP_ADD_V:
        *v = model_sum(*v, op->number);
        note_values(model, v, 1);
        break;
    case ATT_OP_APPEND:
        model->tokens += !model->live[op->index];
        model->live[op->index] = 1;
        model->bias[op->index] = 0;
        set_token(model, op);
        break;
    case ATT_OP_DELETE:
        model->live[op->index] = 0;
        model->tokens--;
        break;
    case ATT_OP_SET_Q:
        memcpy(model->q + (size_t)op->index * model->d, op->key, model->d * sizeof(float));
        break;
    default:
        abort();
    }
}

struct oracle_input model_view(const struct model *model)
{
    return (struct oracle_input){
        .n_q = model->n_q,
        .n_k = model->capacity,
        .d = model->d,
        .d_v = model->d_v,
        .q = model->q,
        .k = model->k,
        .v = model->v,
        .bias = model->bias,
        .live = model->live,
        .scale = model->scale,
    };
}
