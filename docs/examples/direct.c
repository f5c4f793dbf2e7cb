/* Reads rows straight from the daemon's memory, which the library maps read-only: no request, no round trip. The same
 * rows are then asked for through the ring, to compare answers and times.
 *
 *   cc -O2 direct.c -o direct $(pkg-config --cflags --libs attn)
 *   ./direct [SOCKET] */
#include <attn.h>
#include <math.h>
#include <stdio.h>
#include <time.h>

enum { READS = 20000 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Reads entries of column 0 in turn; the time for one in us, or a negative number after a failure. */
static double measure(struct att_client *client, uint32_t rows, double *ret_sum, double *ret_bound)
{
    double start = seconds();

    *ret_sum = *ret_bound = 0;
    for (uint32_t i = 0; i < READS; i++) {
        double value, bound;
        enum att_status status = att_query(client, i % rows, 0, &value, &bound);
        if (status == ATT_EMPTY) /* a row without tokens */
            continue;
        if (status != ATT_OK) {
            fprintf(stderr, "direct: %s: %s\n", att_status_name(status), att_last_error(client));
            return -1;
        }
        *ret_sum += value;
        *ret_bound += bound;
    }
    return 1e6 * (seconds() - start) / READS;
}

int main(int argc, char **argv)
{
    struct att_connect_options options = {.socket = argc > 1 ? argv[1] : NULL, .direct = true};
    struct att_client *direct, *asking;
    struct att_error error;
    struct att_info info;
    double sum[2], bound[2];

    if (att_connect(&options, &direct, &error) != ATT_OK) { /* ATT_EPERM: the daemon runs with --direct-reads off */
        fprintf(stderr, "direct: %s\n", error.text);
        return 1;
    }
    options.direct = false;
    if (att_connect(&options, &asking, &error) != ATT_OK) {
        fprintf(stderr, "direct: %s\n", error.text);
        att_close(direct);
        return 1;
    }
    att_get_info(direct, &info);
    double direct_us = measure(direct, info.n_q, &sum[0], &bound[0]);
    double asking_us = measure(asking, info.n_q, &sum[1], &bound[1]);
    att_close(asking);
    att_close(direct);
    if (direct_us < 0 || asking_us < 0)
        return 1;
    printf("direct %.2f us, through the ring %.2f us; sums %.9g and %.9g\n", direct_us, asking_us, sum[0], sum[1]);
    return fabs(sum[0] - sum[1]) <= bound[0] + bound[1] ? 0 : 1;
}
