/* Seeded random numbers for tests: xoshiro256++ seeded by splitmix64. Every seed is printed, and the environment variable
 * ATT_TEST_SEED replaces the seeds that are built in, so that a failure can be repeated. */
#ifndef ATT_TEST_RANDOM_H
#define ATT_TEST_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct test_random {
    uint64_t state[4];
};

/* Seeds, and prints the seed. `what` names the use. Returns the seed in use (that of ATT_TEST_SEED when set). */
uint64_t random_seed(struct test_random *random, uint64_t seed, const char *what);

/* Seeds silently with exactly this seed: for streams derived from another. */
void random_init(struct test_random *random, uint64_t seed);

uint64_t random_u64(struct test_random *random);
uint32_t random_below(struct test_random *random, uint32_t limit); /* 0 .. limit - 1; limit >= 1 */
bool random_one_in(struct test_random *random, uint32_t n);
double random_unit(struct test_random *random);   /* [0, 1) */
double random_normal(struct test_random *random); /* mean 0, deviation 1 */
void random_normals(struct test_random *random, float *ret_numbers, size_t count, double deviation);

/* How often to do something that is done `times` times in an everyday run: more with ATT_LONG set, fewer under a
 * sanitizer, never less than 1. */
uint32_t test_times(uint32_t times);

/* Whether this is a long run (ATT_LONG is set). */
bool test_is_long(void);

/* The threads that an engine under test may use: 1 under the thread sanitizer, which does not know libgomp. */
uint32_t test_threads(uint32_t threads);

#endif
