/* The data structure of van den Brand, Song, Zhou, "Algorithm and Hardness for Dynamic Attention Maintenance" (arXiv
 * 2304.02207), taken literally, in double: A is stored (n x n), an UpdateK is kept as a rank-one term and an UpdateV as
 * an entry, both lazily; after n^tau of either all of them go into A, C = A V and D at once. It shares no code with the
 * engine, and shares its ideas only as far as the paper does. For tests: plain loops, O(n^2) memory.
 *
 * Thread rule: one thread for each reference. */
#ifndef ATT_TEST_REFERENCE_H
#define ATT_TEST_REFERENCE_H

#include <stdint.h>

struct reference;

/* Init(Q, K, V): n x d each, row-major, copied. 0 < tau <= 1. NULL: no memory. O(n^2 d). */
struct reference *reference_create(uint32_t n, uint32_t d, double tau, const float *q, const float *k, const float *v);
void reference_free(struct reference *reference);

/* UpdateK(i, j, delta): O(n) for each pending term of that token. UpdateV(i, j, delta): O(1). Every n^tau-th of either
 * rebuilds. */
void reference_update_k(struct reference *reference, uint32_t i, uint32_t j, double delta);
void reference_update_v(struct reference *reference, uint32_t i, uint32_t j, double delta);

/* Query(i, j): (D^-1 A V)[i][j]. O(n^tau). */
double reference_query(const struct reference *reference, uint32_t i, uint32_t j);

/* K[i][j] and V[i][j] as they are now. */
double reference_k(const struct reference *reference, uint32_t i, uint32_t j);
double reference_v(const struct reference *reference, uint32_t i, uint32_t j);

uint32_t reference_limit(const struct reference *reference); /* n^tau, rounded up */
uint64_t reference_rebuilds(const struct reference *reference);

#endif
