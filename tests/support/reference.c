#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A pending UpdateV: V[token][column] += delta. */
struct value_term {
    uint32_t token, column;
    double delta;
};

/* A pending UpdateK is the rank-one term (keys[t]) e_token^T: what column `token` of A has gained. */
struct reference {
    uint32_t n, d, limit;
    double *q, *k;        /* n x d; k as it is now */
    double *v, *v_now;    /* n x d: at the last rebuild, and as it is now */
    double *a;            /* n x n, by columns, at the last rebuild */
    double *c, *diagonal; /* A V, n x d, and A 1, n, at the last rebuild */
    double *keys;         /* limit x n */
    uint32_t *key_tokens; /* limit */
    struct value_term *values;
    uint32_t key_count, value_count;
    uint64_t rebuilds;
};

static double *widen(const float *from, size_t count)
{
    double *to = malloc(sizeof *to * count);

    for (size_t p = 0; to && p < count; p++)
        to[p] = from[p];
    return to;
}

/* A, D and C from scratch. */
static void init(struct reference *r)
{
    const size_t n = r->n, d = r->d;

    for (size_t i = 0; i < n; i++) {
        for (size_t l = 0; l < n; l++) {
            double score = 0.0;
            for (size_t p = 0; p < d; p++)
                score += r->q[i * d + p] * r->k[l * d + p];
            r->a[l * n + i] = exp(score);
            r->diagonal[i] += r->a[l * n + i];
            for (size_t j = 0; j < d; j++)
                r->c[i * d + j] += r->a[l * n + i] * r->v[l * d + j];
        }
    }
}

struct reference *reference_create(uint32_t n, uint32_t d, double tau, const float *q, const float *k, const float *v)
{
    struct reference *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->n = n;
    r->d = d;
    r->limit = (uint32_t)ceil(pow(n, tau));
    r->q = widen(q, (size_t)n * d);
    r->k = widen(k, (size_t)n * d);
    r->v = widen(v, (size_t)n * d);
    r->v_now = widen(v, (size_t)n * d);
    r->a = calloc((size_t)n * n, sizeof *r->a);
    r->c = calloc((size_t)n * d, sizeof *r->c);
    r->diagonal = calloc(n, sizeof *r->diagonal);
    r->keys = calloc((size_t)r->limit * n, sizeof *r->keys);
    r->key_tokens = calloc(r->limit, sizeof *r->key_tokens);
    r->values = calloc(r->limit, sizeof *r->values);
    if (!r->q || !r->k || !r->v || !r->v_now || !r->a || !r->c || !r->diagonal || !r->keys || !r->key_tokens ||
        !r->values) {
        reference_free(r);
        return NULL;
    }
    init(r);
    return r;
}

void reference_free(struct reference *r)
{
    if (!r)
        return;
    free(r->q);
    free(r->k);
    free(r->v);
    free(r->v_now);
    free(r->a);
    free(r->c);
    free(r->diagonal);
    free(r->keys);
    free(r->key_tokens);
    free(r->values);
    free(r);
}

/* All pending terms into C, D, A and V: C' = (A + dA) V' = C + A dV + dA V'. */
static void rebuild(struct reference *r)
{
    const size_t n = r->n, d = r->d;

    for (size_t i = 0; i < n; i++) {
        for (uint32_t t = 0; t < r->value_count; t++)
            r->c[i * d + r->values[t].column] += r->a[(size_t)r->values[t].token * n + i] * r->values[t].delta;
        for (uint32_t t = 0; t < r->key_count; t++) {
            const double gain = r->keys[t * n + i];
            const size_t token = r->key_tokens[t];
            for (size_t j = 0; j < d; j++)
                r->c[i * d + j] += gain * r->v_now[token * d + j];
            r->diagonal[i] += gain;
        }
        for (uint32_t t = 0; t < r->key_count; t++)
            r->a[(size_t)r->key_tokens[t] * n + i] += r->keys[t * n + i];
    }
    memcpy(r->v, r->v_now, sizeof *r->v * n * d);
    r->key_count = r->value_count = 0;
    r->rebuilds++;
}

void reference_update_k(struct reference *r, uint32_t i, uint32_t j, double delta)
{
    const size_t n = r->n, d = r->d;
    double *gain = r->keys + r->key_count * n;

    for (size_t row = 0; row < n; row++) {
        double weight = r->a[(size_t)i * n + row];
        for (uint32_t t = 0; t < r->key_count; t++)
            if (r->key_tokens[t] == i)
                weight += r->keys[t * n + row];
        gain[row] = weight * expm1(delta * r->q[row * d + j]);
    }
    r->key_tokens[r->key_count++] = i;
    r->k[i * d + j] += delta;
    if (r->key_count == r->limit)
        rebuild(r);
}

void reference_update_v(struct reference *r, uint32_t i, uint32_t j, double delta)
{
    r->values[r->value_count++] = (struct value_term){i, j, delta};
    r->v_now[(size_t)i * r->d + j] += delta;
    if (r->value_count == r->limit)
        rebuild(r);
}

double reference_query(const struct reference *r, uint32_t i, uint32_t j)
{
    const size_t n = r->n, d = r->d;
    double numerator = r->c[i * d + j], denominator = r->diagonal[i];

    for (uint32_t t = 0; t < r->value_count; t++)
        if (r->values[t].column == j)
            numerator += r->a[(size_t)r->values[t].token * n + i] * r->values[t].delta;
    for (uint32_t t = 0; t < r->key_count; t++) {
        numerator += r->keys[t * n + i] * r->v_now[r->key_tokens[t] * d + j];
        denominator += r->keys[t * n + i];
    }
    return numerator / denominator;
}

double reference_k(const struct reference *r, uint32_t i, uint32_t j)
{
    return r->k[(size_t)i * r->d + j];
}

double reference_v(const struct reference *r, uint32_t i, uint32_t j)
{
    return r->v_now[(size_t)i * r->d + j];
}

uint32_t reference_limit(const struct reference *r)
{
    return r->limit;
}

uint64_t reference_rebuilds(const struct reference *r)
{
    return r->rebuilds;
}
