/* Gaussian kernel regression (Nadaraya-Watson) on points that come while estimates are read.
 *
 * The estimate at x is sum_l w_l y_l / sum_l w_l with w_l = exp(-|x - x_l|^2 / (2 h^2)). With the scale 1/h^2 and the key
 * bias b_l = -|x_l|^2 / (2 h^2), attention's weight exp(x.x_l / h^2 + b_l) is w_l up to a factor that depends on x
 * alone, which the quotient cancels. So Q holds where to estimate, K the points, V what was measured there. The daemon:
 *
 *   attnd --dir state --q Q.npy --k K.npy --v V.npy --bias B.npy --scale $(1/h^2)
 *
 *   cc -O2 regression.c -o regression $(pkg-config --cflags --libs attn) -lm
 *   ./regression [SOCKET]       moves every point, with its bias, and checks the estimates against a plain sum */
#include <attn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_COLUMNS = 64, MOST_POINTS = 10000 };

struct points {
    uint32_t count, d;
    double h2; /* h squared */
    float x[MOST_POINTS][MOST_COLUMNS], y[MOST_POINTS];
};

static float random_number(void) /* in -2..2 */
{
    return (float)(4.0 * rand() / RAND_MAX - 2.0);
}

/* A new place and measurement for a point: key, value and bias change together, in one request. */
static enum att_status move(struct att_client *client, struct points *points, uint32_t point)
{
    struct att_completion done;
    double square = 0, sine = 0;

    for (uint32_t i = 0; i < points->d; i++) {
        float x = random_number();
        points->x[point][i] = x;
        square += (double)x * x;
        sine += sin(x);
    }
    points->y[point] = (float)(sine + 0.05 * random_number());
    const float bias = (float)(-square / (2 * points->h2));
    const struct att_request request = {
        .type = ATT_REQ_SET_TOKEN, .index = point, .key = points->x[point], .value = &points->y[point], .bias = &bias};
    return att_call(client, &request, &done);
}

/* The estimate, recomputed from all points. */
static double plain(const struct points *points, const float *x)
{
    double above = 0, below = 0;

    for (uint32_t l = 0; l < points->count; l++) {
        double square = 0;
        for (uint32_t i = 0; i < points->d; i++)
            square += ((double)x[i] - points->x[l][i]) * ((double)x[i] - points->x[l][i]);
        double weight = exp(-square / (2 * points->h2));
        above += weight * points->y[l];
        below += weight;
    }
    return above / below;
}

/* Estimates at new places; the largest difference from the plain sums. */
static enum att_status compare(struct att_client *client, const struct points *points, uint32_t rows, double *ret_worst)
{
    float x[MOST_COLUMNS];
    enum att_status status = ATT_OK;

    *ret_worst = 0;
    for (uint32_t row = 0; row < rows && status == ATT_OK; row++) {
        double value, bound;
        for (uint32_t i = 0; i < points->d; i++)
            x[i] = random_number() / 2;
        status = att_set_q(client, row, x);
        if (status == ATT_OK)
            status = att_query(client, row, 0, &value, &bound);
        if (status == ATT_OK)
            *ret_worst = fmax(*ret_worst, fabs(value - plain(points, x)));
    }
    return status;
}

int main(int argc, char **argv)
{
    static struct points points;
    struct att_connect_options options = {.socket = argc > 1 ? argv[1] : NULL};
    struct att_client *client;
    struct att_error error;
    struct att_info info;
    struct att_stat stat;
    double worst = 0;

    if (att_connect(&options, &client, &error) != ATT_OK) {
        fprintf(stderr, "regression: %s\n", error.text);
        return 1;
    }
    att_get_info(client, &info);
    enum att_status status = att_get_stat(client, &stat);
    if (status == ATT_OK && (info.d > MOST_COLUMNS || stat.n_k > MOST_POINTS || stat.tokens != stat.n_k)) {
        fprintf(stderr, "regression: this example takes at most %d columns and %d points\n", MOST_COLUMNS, MOST_POINTS);
        att_close(client);
        return 1;
    }
    points.count = stat.n_k;
    points.d = info.d;
    points.h2 = 1 / info.scale;
    for (uint32_t point = 0; point < points.count && status == ATT_OK; point++)
        status = move(client, &points, point);
    if (status == ATT_OK)
        status = compare(client, &points, info.n_q, &worst);
    if (status == ATT_OK)
        printf("%u estimates from %u points, at most %.2g from the plain sums\n", info.n_q, points.count, worst);
    else
        fprintf(stderr, "regression: %s: %s\n", att_status_name(status), att_last_error(client));
    att_close(client);
    return status == ATT_OK && worst < 1e-4 ? 0 : 1;
}
