/* The oracle: softmax attention from scratch, in long double, with the maximum subtracted. It shares no code with the
 * engine; its own error is some 1e-18 of max |V|, times the spread of the scores. */
#ifndef ATT_TEST_ORACLE_H
#define ATT_TEST_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

struct oracle_input {
    uint32_t n_q, n_k, d, d_v;
    const float *q;      /* n_q x d */
    const float *k;      /* n_k x d */
    const float *v;      /* n_k x d_v */
    const float *bias;   /* n_k, -inf masks the token; NULL: zeros */
    const uint8_t *live; /* n_k, 0: the token is deleted; NULL: all live */
    double scale;
};

/* The row's d_v outputs. False, outputs untouched: the row sees no token. */
bool oracle_row(const struct oracle_input *input, uint32_t row, long double *ret_values);

/* One output; as above. */
bool oracle_entry(const struct oracle_input *input, uint32_t row, uint32_t column, long double *ret_value);

/* The row's largest score and the share of the mass that its token holds; false as above. */
bool oracle_top(const struct oracle_input *input, uint32_t row, uint32_t *ret_token, double *ret_score,
                double *ret_share);

#endif
