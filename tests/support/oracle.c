#include "oracle.h"

#include <math.h>
#include <stdlib.h>

static bool sees(const struct oracle_input *input, uint32_t token)
{
    if (input->live && !input->live[token])
        return false;
    return !input->bias || input->bias[token] != -INFINITY;
}

static long double score(const struct oracle_input *input, uint32_t row, uint32_t token)
{
    const float *q = input->q + (size_t)row * input->d;
    const float *k = input->k + (size_t)token * input->d;
    long double sum = 0;
    for (uint32_t p = 0; p < input->d; p++)
        sum += (long double)q[p] * k[p];
    return sum * input->scale + (input->bias ? (long double)input->bias[token] : 0);
}

/* All scores of a row (malloc'd, the caller's) and the token that has the largest; NULL when there is none. */
static long double *scores(const struct oracle_input *input, uint32_t row, uint32_t *ret_top)
{
    long double *s = malloc((input->n_k + 1) * sizeof *s);
    if (!s)
        abort();
    bool any = false;
    for (uint32_t j = 0; j < input->n_k; j++) {
        if (!sees(input, j))
            continue;
        s[j] = score(input, row, j);
        if (!any || s[j] > s[*ret_top])
            *ret_top = j;
        any = true;
    }
    if (!any) {
        free(s);
        return NULL;
    }
    return s;
}

static bool columns(const struct oracle_input *input, uint32_t row, uint32_t first, uint32_t count,
                    long double *ret_values)
{
    uint32_t top = 0;
    long double *s = scores(input, row, &top);
    if (!s)
        return false;
    long double max = s[top];
    long double denominator = 0;
    for (uint32_t j = 0; j < count; j++)
        ret_values[j] = 0;
    for (uint32_t l = 0; l < input->n_k; l++) {
        if (!sees(input, l))
            continue;
        long double weight = expl(s[l] - max);
        const float *v = input->v + (size_t)l * input->d_v + first;
        denominator += weight;
        for (uint32_t j = 0; j < count; j++)
            ret_values[j] += weight * v[j];
    }
    for (uint32_t j = 0; j < count; j++)
        ret_values[j] /= denominator;
    free(s);
    return true;
}

bool oracle_row(const struct oracle_input *input, uint32_t row, long double *ret_values)
{
    return columns(input, row, 0, input->d_v, ret_values);
}

bool oracle_entry(const struct oracle_input *input, uint32_t row, uint32_t column, long double *ret_value)
{
    return columns(input, row, column, 1, ret_value);
}

bool oracle_top(const struct oracle_input *input, uint32_t row, uint32_t *ret_token, double *ret_score,
                double *ret_share)
{
    uint32_t top = 0;
    long double *s = scores(input, row, &top);
    if (!s)
        return false;
    long double denominator = 0;
    for (uint32_t l = 0; l < input->n_k; l++)
        if (sees(input, l))
            denominator += expl(s[l] - s[top]);
    *ret_token = top;
    *ret_score = (double)s[top];
    *ret_share = (double)(1 / denominator);
    free(s);
    return true;
}
