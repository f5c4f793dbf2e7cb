#include "random.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void random_init(struct test_random *random, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        random->state[i] = splitmix(&seed);
}

uint64_t random_seed(struct test_random *random, uint64_t seed, const char *what)
{
    const char *chosen = getenv("ATT_TEST_SEED");
    if (chosen && *chosen)
        seed = strtoull(chosen, NULL, 0);
    printf("%s: seed %" PRIu64 " (ATT_TEST_SEED overrides)\n", what, seed);
    fflush(stdout);
    random_init(random, seed);
    return seed;
}

static uint64_t rotate(uint64_t x, int by)
{
    return (x << by) | (x >> (64 - by));
}

uint64_t random_u64(struct test_random *random)
{
    uint64_t *s = random->state;
    uint64_t result = rotate(s[0] + s[3], 23) + s[0];
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

uint32_t random_below(struct test_random *random, uint32_t limit)
{
    return (uint32_t)(((random_u64(random) >> 32) * limit) >> 32);
}

bool random_one_in(struct test_random *random, uint32_t n)
{
    return random_below(random, n) == 0;
}

double random_unit(struct test_random *random)
{
    return (double)(random_u64(random) >> 11) * 0x1p-53;
}

double random_normal(struct test_random *random)
{
    double u = 1 - random_unit(random);
    double v = random_unit(random);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

void random_normals(struct test_random *random, float *ret_numbers, size_t count, double deviation)
{
    for (size_t i = 0; i < count; i++)
        ret_numbers[i] = (float)(deviation * random_normal(random));
}

bool test_is_long(void)
{
    const char *set = getenv("ATT_LONG");
    return set && *set && *set != '0';
}

uint32_t test_times(uint32_t times)
{
    uint64_t scaled = times;
    if (test_is_long())
        scaled *= 10;
#if defined(ATTND_TSAN)
    scaled /= 10;
#elif defined(ATTND_ASAN)
    scaled /= 5;
#endif
    return scaled == 0 ? 1 : (uint32_t)scaled;
}

uint32_t test_threads(uint32_t threads)
{
#ifdef ATTND_TSAN
    (void)threads;
    return 1;
#else
    return threads;
#endif
}
