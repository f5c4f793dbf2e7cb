/* The rivals: softmax attention recomputed from scratch in float32, with OpenBLAS, or oneDNN when it is installed. One
 * thread, like the engine that they are compared with. */
#ifndef ATT_BENCH_RIVAL_H
#define ATT_BENCH_RIVAL_H

#include "bench.h"

/* The arrays, and where the answer goes; the caller's. */
struct rival {
    uint32_t n_q, n_k, d, d_v;
    float scale;
    const float *q, *k, *v; /* row-major */
    float *out;             /* n_q x d_v */
    /* The rival's own. */
    float *k_columns, *v_columns; /* K and V by columns: some variants want them */
    float *scores;
    uint32_t score_variant, out_variant; /* of a row */
    uint32_t tile_rows, tile_keys;       /* of all rows */
    bool all_onednn;
};

/* Makes OpenBLAS use one thread and looks for oneDNN. Once, before everything else. */
void rival_init(void);

/* What is compared with: "OpenBLAS CORE (CONFIG)", CORE as att_blas_core says it. A static string. */
const char *rival_name(void);
bool rival_has_onednn(void);

/* Allocates, and finds the fastest variants for this shape by trying them. */
void rival_create(struct rival *rival);
void rival_release(struct rival *rival);

/* out[row] from scratch. */
void rival_row(struct rival *rival, uint32_t row);

/* All of out, by tiles of rows and blocks of keys. */
void rival_all(struct rival *rival);

/* What was chosen, for people. */
void rival_describe(const struct rival *rival, char *ret_text, size_t size);

/* The machine's limit: seconds that C = A B of n x n float32 matrices takes; a, b, c: n x n. */
double rival_sgemm_seconds(uint32_t n, const float *a, const float *b, float *c);

#endif
