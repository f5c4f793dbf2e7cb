/* A power law y = c x^e through measured points. */
#ifndef ATT_BENCH_FIT_H
#define ATT_BENCH_FIT_H

#include <stdint.h>

struct fit {
    double exponent;
    double half_width; /* of the 95 % confidence interval of the exponent: Student's t over the residuals */
};

/* Least squares on the logarithms. At least 3 points, all positive. */
struct fit bench_fit(const double *x, const double *y, uint32_t count);

#endif
