/* The vector loops of floors and rivals, in the best instruction set that the processor has. They may reorder sums
 * and fuse as they like: unlike the engine's kernel they owe nobody the same bits. */
#ifndef ATT_BENCH_LANES_H
#define ATT_BENCH_LANES_H

#include <stddef.h>

struct bench_lanes {
    const char *name;
    /* The sum: the fastest way to read `count` floats (a multiple of 128). */
    float (*sum)(const float *x, size_t count);
    float (*max)(const float *x, size_t count);
    /* x = exp(x - max), in place; returns the sum. Relative error some 3e-7, as a float32 rival may have. */
    float (*exp)(float *x, size_t count, float max);
    void (*scale)(float *x, size_t count, float by);
};

/* Never NULL; static. */
const struct bench_lanes *bench_lanes_choose(void);

#endif
