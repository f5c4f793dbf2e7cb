#include "rival.h"

#include <cblas.h>
#include <dlfcn.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blas_core.h"
#include "lanes.h"

/* dnnl_sgemm: row-major, C = alpha op(A) op(B) + beta C. */
typedef int onednn_sgemm(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                         const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

static onednn_sgemm *onednn;
static const struct bench_lanes *lanes;

void rival_init(void)
{
    static const char *const names[] = {"libdnnl.so.3", "libdnnl.so.2", "libdnnl.so"};

    lanes = bench_lanes_choose();
    openblas_set_num_threads(1);
    omp_set_num_threads(1); /* oneDNN's; the engine's team has a size of its own */
    for (size_t i = 0; i < sizeof names / sizeof *names && !onednn; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        void *function = library ? dlsym(library, "dnnl_sgemm") : NULL;
        memcpy(&onednn, &function, sizeof onednn);
    }
}

const char *rival_name(void)
{
    static char text[400];

    snprintf(text, sizeof text, "OpenBLAS %s (%s)", att_blas_core(), openblas_get_config());
    return text;
}

bool rival_has_onednn(void)
{
    return onednn != NULL;
}

/* ---- One row ---- */

enum { BY_ROWS, BY_COLUMNS, BY_ONEDNN, ROW_VARIANTS };

static void row_scores(struct rival *r, uint32_t row, uint32_t variant)
{
    const float *q = r->q + (size_t)row * r->d;
    const int n = (int)r->n_k, d = (int)r->d;

    if (variant == BY_ROWS)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, n, d, r->scale, r->k, d, q, 1, 0.0f, r->scores, 1);
    else if (variant == BY_COLUMNS)
        cblas_sgemv(CblasColMajor, CblasNoTrans, n, d, r->scale, r->k_columns, n, q, 1, 0.0f, r->scores, 1);
    else
        onednn('N', 'T', 1, n, d, r->scale, q, d, r->k, d, 0.0f, r->scores, n);
}

static void row_out(struct rival *r, float *out, float by, uint32_t variant)
{
    const int n = (int)r->n_k, d = (int)r->d_v;

    if (variant == BY_ROWS)
        cblas_sgemv(CblasRowMajor, CblasTrans, n, d, by, r->v, d, r->scores, 1, 0.0f, out, 1);
    else if (variant == BY_COLUMNS)
        cblas_sgemv(CblasColMajor, CblasTrans, n, d, by, r->v_columns, n, r->scores, 1, 0.0f, out, 1);
    else
        onednn('N', 'N', 1, d, n, by, r->scores, n, r->v, d, 0.0f, out, d);
}

void rival_row(struct rival *r, uint32_t row)
{
    float sum;

    row_scores(r, row, r->score_variant);
    sum = lanes->exp(r->scores, r->n_k, lanes->max(r->scores, r->n_k));
    row_out(r, r->out + (size_t)row * r->d_v, 1.0f / sum, r->out_variant);
}

/* ---- All rows ---- */

static void gemm(bool use_onednn, bool transpose_b, uint32_t m, uint32_t n, uint32_t k, float alpha, const float *a,
                 uint32_t lda, const float *b, uint32_t ldb, float beta, float *c, uint32_t ldc)
{
    if (use_onednn)
        onednn('N', transpose_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, alpha,
                    a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* One tile of rows x one block of keys, added to what came before under a running maximum. */
static void tile_block(struct rival *r, uint32_t row, uint32_t rows, uint32_t key, uint32_t keys, float *maxima,
                       float *sums)
{
    float *out = r->out + (size_t)row * r->d_v;

    gemm(r->all_onednn, true, rows, keys, r->d, r->scale, r->q + (size_t)row * r->d, r->d, r->k + (size_t)key * r->d,
         r->d, 0.0f, r->scores, keys);
    for (uint32_t i = 0; i < rows; i++) {
        float *scores = r->scores + (size_t)i * keys;
        const float max = lanes->max(scores, keys);
        if (key == 0) {
            maxima[i] = max;
        } else if (max > maxima[i]) {
            const float by = expf(maxima[i] - max);
            lanes->scale(out + (size_t)i * r->d_v, r->d_v, by);
            sums[i] *= by;
            maxima[i] = max;
        }
        sums[i] = (key == 0 ? 0.0f : sums[i]) + lanes->exp(scores, keys, maxima[i]);
    }
    gemm(r->all_onednn, false, rows, r->d_v, keys, 1.0f, r->scores, keys, r->v + (size_t)key * r->d_v, r->d_v,
         key == 0 ? 0.0f : 1.0f, out, r->d_v);
}

enum { MOST_TILE_ROWS = 512 };

static void some_rows(struct rival *r, uint32_t first, uint32_t end)
{
    float maxima[MOST_TILE_ROWS], sums[MOST_TILE_ROWS];

    for (uint32_t row = first; row < end; row += r->tile_rows) {
        const uint32_t rows = end - row < r->tile_rows ? end - row : r->tile_rows;
        for (uint32_t key = 0; key < r->n_k; key += r->tile_keys)
            tile_block(r, row, rows, key, r->n_k - key < r->tile_keys ? r->n_k - key : r->tile_keys, maxima, sums);
        for (uint32_t i = 0; i < rows; i++)
            lanes->scale(r->out + (size_t)(row + i) * r->d_v, r->d_v, 1.0f / sums[i]);
    }
}

void rival_all(struct rival *r)
{
    some_rows(r, 0, r->n_q);
}

/* ---- Choosing ---- */

enum { TRIES = 11 };

static void choose_row_variants(struct rival *r)
{
    double least_scores = INFINITY, least_out = INFINITY;

    for (uint32_t variant = 0; variant < ROW_VARIANTS; variant++) {
        double scores[TRIES], out[TRIES], took;
        if (variant == BY_ONEDNN && !onednn)
            continue;
        for (int t = 0; t < TRIES; t++) {
            const double start = bench_now();
            row_scores(r, 0, variant);
            scores[t] = bench_now() - start;
            row_out(r, r->out, 1.0f, variant);
            out[t] = bench_now() - start - scores[t];
        }
        took = bench_median(scores, TRIES);
        if (took < least_scores) {
            least_scores = took;
            r->score_variant = variant;
        }
        took = bench_median(out, TRIES);
        if (took < least_out) {
            least_out = took;
            r->out_variant = variant;
        }
    }
}

static void choose_tiles(struct rival *r)
{
    static const uint32_t tile_rows[] = {64, 128, 256, 512}, tile_keys[] = {256, 512, 1024, 4096};
    const uint32_t rows = r->n_q < MOST_TILE_ROWS ? r->n_q : MOST_TILE_ROWS;
    struct rival best = *r;
    double least = INFINITY;

    for (uint32_t which = 0; which < 4 * 4 * (onednn ? 2 : 1); which++) {
        double took[3];
        r->tile_rows = tile_rows[which % 4];
        r->tile_keys = tile_keys[which / 4 % 4];
        r->all_onednn = which >= 16;
        if (r->tile_keys > r->n_k && r->tile_keys > tile_keys[0])
            continue;
        for (int t = 0; t < 3; t++) {
            const double start = bench_now();
            some_rows(r, 0, rows);
            took[t] = bench_now() - start;
        }
        if (bench_median(took, 3) < least) {
            least = bench_median(took, 3);
            best = *r;
        }
    }
    *r = best;
}

void rival_create(struct rival *r)
{
    const size_t block = (size_t)MOST_TILE_ROWS * 4096;

    r->k_columns = bench_floats((size_t)r->n_k * r->d);
    r->v_columns = bench_floats((size_t)r->n_k * r->d_v);
    r->scores = bench_floats(block > r->n_k ? block : r->n_k);
    for (size_t l = 0; l < r->n_k; l++) {
        for (size_t p = 0; p < r->d; p++)
            r->k_columns[p * r->n_k + l] = r->k[l * r->d + p];
        for (size_t j = 0; j < r->d_v; j++)
            r->v_columns[j * r->n_k + l] = r->v[l * r->d_v + j];
    }
    choose_row_variants(r);
    choose_tiles(r);
}

void rival_release(struct rival *r)
{
    free(r->k_columns);
    free(r->v_columns);
    free(r->scores);
}

void rival_describe(const struct rival *r, char *ret_text, size_t size)
{
    static const char *const variants[] = {"sgemv by rows", "sgemv by columns", "oneDNN"};

    snprintf(ret_text, size, "a row: scores %s, output %s; all rows: %s tiles of %u rows x %u keys; exp %s",
             variants[r->score_variant], variants[r->out_variant], r->all_onednn ? "oneDNN" : "OpenBLAS", r->tile_rows,
             r->tile_keys, lanes->name);
}

double rival_sgemm_seconds(uint32_t n, const float *a, const float *b, float *c)
{
    const double start = bench_now();

    gemm(false, false, n, n, n, 1.0f, a, n, b, n, 0.0f, c, n);
    return (bench_now() - start) * 1e-9;
}
