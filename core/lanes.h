/* Sixteen lanes: the few vector operations that the kernel is written in, for AVX-512, AVX2 with FMA, and plain C.
 *
 * Every operation gives the same bits in all three: additions and products are single IEEE operations or fused
 * multiply-adds, in a fixed order. So a weight does not depend on the machine or on the shape of the work. */
#ifndef ATT_LANES_H
#define ATT_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { ATT_LANES = 16 };

#define LANES_INLINE static inline __attribute__((always_inline))

/* LANES_256: 256-bit registers where there would be wider ones. */
#if defined(__AVX512F__) && !defined(LANES_256)
#include "lanes_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "lanes_avx2.h"
#else
#include "lanes_plain.h"
#endif

#endif
