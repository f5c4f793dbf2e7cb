/* Comparing what the daemon answers with what it should: with the expected values that came with the workload, and
 * with a float64 softmax computed here, by plain loops that share no code with the daemon. */
#include <math.h>
#include <stdlib.h>

#include "demo.h"

static void compare(struct check *check, double answer, double bound, double expected)
{
    double error = fabs(answer - expected);
    double ratio = error == 0 ? 0 : error / bound;
    check->outputs++;
    check->violations += !(error <= bound); /* a NaN violates */
    if (error > check->worst_error) {
        check->worst_error = error;
        check->its_bound = bound;
    }
    if (ratio > check->worst_ratio)
        check->worst_ratio = ratio;
}

void check_add(struct check *sum, const struct check *check)
{
    sum->outputs += check->outputs;
    sum->violations += check->violations;
    if (check->worst_error > sum->worst_error) {
        sum->worst_error = check->worst_error;
        sum->its_bound = check->its_bound;
    }
    if (check->worst_ratio > sum->worst_ratio)
        sum->worst_ratio = check->worst_ratio;
}

void check_step(struct att_client *client, const struct workload *workload, uint32_t step, struct check *check)
{
    const struct workload *w = workload;
    const double *expected = w->pair_values + (size_t)step * w->pairs;
    double *values = demo_allocate(w->d_v, sizeof *values), value, bound;
    for (uint32_t n = 0; n < w->pairs; n++) {
        uint32_t row = (uint32_t)w->pair[2 * n], column = (uint32_t)w->pair[2 * n + 1];
        demo_need(client, att_query(client, row, column, &value, &bound), "query");
        compare(check, value, bound, expected[n]);
    }
    for (uint32_t n = 0; n < w->whole; n++) {
        demo_need(client, att_row(client, (uint32_t)w->row[n], values, &bound), "row");
        expected = w->row_values + ((size_t)step * w->whole + n) * w->d_v;
        for (uint32_t column = 0; column < w->d_v; column++)
            compare(check, values[column], bound, expected[column]);
    }
    free(values);
}

void read_outputs(struct att_client *client, const struct workload *workload, double *ret_outputs, double *ret_bounds)
{
    for (uint32_t row = 0; row < workload->n_q; row++)
        demo_need(client, att_row(client, row, ret_outputs + (size_t)row * workload->d_v, ret_bounds + row), "row");
}

/* scores[l] = scale * q.k_l; keys: d x n_k. Returns the largest. */
static double score(const struct workload *workload, const float *q, const double *keys, double *ret_scores)
{
    size_t n = workload->n_k;
    double largest = -INFINITY;
    for (size_t l = 0; l < n; l++)
        ret_scores[l] = 0;
    for (size_t p = 0; p < workload->d; p++) {
        const double factor = workload->scale * (double)q[p], *key = keys + p * n;
        for (size_t l = 0; l < n; l++)
            ret_scores[l] += factor * key[l];
    }
    for (size_t l = 0; l < n; l++)
        largest = fmax(largest, ret_scores[l]);
    return largest;
}

/* One row of the softmax; the scores are used up. */
static void attend(const struct workload *workload, double *scores, double largest, const float *v, double *ret_row)
{
    double sum = 0;
    for (size_t j = 0; j < workload->d_v; j++)
        ret_row[j] = 0;
    for (size_t l = 0; l < workload->n_k; l++) {
        double weight = exp(scores[l] - largest);
        const float *value = v + l * workload->d_v;
        sum += weight;
        for (size_t j = 0; j < workload->d_v; j++)
            ret_row[j] += weight * (double)value[j];
    }
    for (size_t j = 0; j < workload->d_v; j++)
        ret_row[j] /= sum;
}

void check_outputs(const struct workload *workload, const float *k, const float *v, const double *outputs,
                   const double *bounds, struct check *check)
{
    size_t n = workload->n_k, d = workload->d, d_v = workload->d_v;
    double *keys = demo_allocate(n * d, sizeof *keys), *scores = demo_allocate(n, sizeof *scores);
    double *row = demo_allocate(d_v, sizeof *row);
    for (size_t l = 0; l < n; l++)
        for (size_t p = 0; p < d; p++)
            keys[p * n + l] = (double)k[l * d + p];
    for (size_t i = 0; i < workload->n_q; i++) {
        double largest = score(workload, workload->q + i * d, keys, scores);
        attend(workload, scores, largest, v, row);
        for (size_t j = 0; j < d_v; j++)
            compare(check, outputs[i * d_v + j], bounds[i], row[j]);
    }
    free(keys);
    free(scores);
    free(row);
}
