/* The largest of many numbers that come and go, none below 0: at any time it or more is known, and exactly when it is looked for.
 * They are in blocks: when what was the largest has gone, only its block is looked at, for clients wait meanwhile. */
#ifndef ATT_PEAK_H
#define ATT_PEAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ATT_PEAK_BLOCK = 2048 };

struct att_peak {
    double *largest; /* [blocks]: of the block, or more */
    bool *gone;      /* [blocks]: maybe more: one that was the largest has gone */
    uint32_t places, blocks;
    bool any_gone;
    double all; /* of all blocks, or more */
};

/* The number at a place; 0 where there is none. */
typedef double att_peak_number(const void *context, uint32_t place);

/* For places 0 .. places - 1, all of them empty. False: no memory. Released by att_peak_release, which allows zeros. */
bool att_peak_init(struct att_peak *peak, uint32_t places);
void att_peak_release(struct att_peak *peak);

/* Afterwards peak->all is the largest there is. O(blocks), and ATT_PEAK_BLOCK more for each block of which one has gone. */
void att_peak_find(struct att_peak *peak, att_peak_number *number, const void *context);

static inline void att_peak_comes(struct att_peak *peak, uint32_t place, double x)
{
    double *largest = &peak->largest[place / ATT_PEAK_BLOCK];

    *largest = x > *largest ? x : *largest;
    peak->all = x > peak->all ? x : peak->all;
}

static inline void att_peak_goes(struct att_peak *peak, uint32_t place, double x)
{
    if (x >= peak->largest[place / ATT_PEAK_BLOCK] && x > 0.0)
        peak->gone[place / ATT_PEAK_BLOCK] = peak->any_gone = true;
}

#endif
