#include "fit.h"

#include <math.h>

/* The 97.5 % quantile of Student's t with `freedom` degrees of freedom; never too small. */
static double student(uint32_t freedom)
{
    static const double quantiles[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
    const uint32_t count = sizeof quantiles / sizeof *quantiles;

    return quantiles[(freedom < count ? freedom : count) - 1];
}

struct fit bench_fit(const double *x, const double *y, uint32_t count)
{
    double mean_x = 0.0, mean_y = 0.0, xx = 0.0, xy = 0.0, squares = 0.0;
    struct fit fit;

    for (uint32_t i = 0; i < count; i++) {
        mean_x += log(x[i]) / count;
        mean_y += log(y[i]) / count;
    }
    for (uint32_t i = 0; i < count; i++) {
        xx += (log(x[i]) - mean_x) * (log(x[i]) - mean_x);
        xy += (log(x[i]) - mean_x) * (log(y[i]) - mean_y);
    }
    fit.exponent = xy / xx;
    for (uint32_t i = 0; i < count; i++) {
        const double residual = log(y[i]) - mean_y - fit.exponent * (log(x[i]) - mean_x);
        squares += residual * residual;
    }
    fit.half_width = student(count - 2) * sqrt(squares / (count - 2) / xx);
    return fit;
}
