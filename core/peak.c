#include "peak.h"

#include <stdlib.h>

bool att_peak_init(struct att_peak *peak, uint32_t places)
{
    *peak = (struct att_peak){.places = places, .blocks = places / ATT_PEAK_BLOCK + 1};
    peak->largest = calloc(peak->blocks, sizeof *peak->largest);
    peak->gone = calloc(peak->blocks, sizeof *peak->gone);
    return peak->largest && peak->gone;
}

void att_peak_release(struct att_peak *peak)
{
    free(peak->largest);
    free(peak->gone);
    *peak = (struct att_peak){0};
}

static double largest_of(uint32_t first, uint32_t end, att_peak_number *number, const void *context)
{
    double largest = 0.0;

    for (uint32_t place = first; place < end; place++) {
        const double x = number(context, place);
        largest = x > largest ? x : largest;
    }
    return largest;
}

void att_peak_find(struct att_peak *peak, att_peak_number *number, const void *context)
{
    if (!peak->any_gone)
        return;
    peak->any_gone = false;
    peak->all = 0.0;
    for (uint32_t block = 0; block < peak->blocks; block++) {
        const uint32_t first = block * ATT_PEAK_BLOCK, left = peak->places - first;
        if (peak->gone[block])
            peak->largest[block] =
                largest_of(first, first + (left < ATT_PEAK_BLOCK ? left : ATT_PEAK_BLOCK), number, context);
        peak->gone[block] = false;
        peak->all = peak->largest[block] > peak->all ? peak->largest[block] : peak->all;
    }
}
