/* The time of an answer from the daemon, over the ring, and of the same row recomputed in this process from K and V in
 * its memory, as one would without a daemon: sgemv for the scores, exp, sgemv for the output, float32.
 *
 * They are timed in turn, in short bursts, while the reader and the stream pause. The recomputation is timed with one
 * thread and, in bursts of its own, with OpenBLAS's own choice of threads; the report takes the faster one. An answer
 * needs two processors at once, so other work on the machine slows it more than a recomputation: what there is of it is
 * measured too. */
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "demo.h"
#include "progress.h"

enum { BURSTS = 20, QUERIES = 64, ROWS = 32, RECOMPUTED = 16, TEAM = 100, SETTLE_US = 100 * 1000 };

/* weights: n_k floats of scratch. */
static void recompute(const struct workload *workload, uint32_t row, float *weights, float *ret_row)
{
    const float *q = workload->q + (size_t)row * workload->d;
    blasint n = (blasint)workload->n_k, d = (blasint)workload->d, d_v = (blasint)workload->d_v;
    float largest = -INFINITY, sum = 0;
    cblas_sgemv(CblasRowMajor, CblasNoTrans, n, d, (float)workload->scale, workload->k, d, q, 1, 0, weights, 1);
    for (blasint l = 0; l < n; l++)
        largest = weights[l] > largest ? weights[l] : largest;
    for (blasint l = 0; l < n; l++) {
        weights[l] = expf(weights[l] - largest);
        sum += weights[l];
    }
    cblas_sgemv(CblasRowMajor, CblasTrans, n, d_v, 1 / sum, workload->v, d_v, weights, 1, 0, ret_row, 1);
}

static void note(uint32_t *samples, uint32_t *used, uint64_t begin)
{
    if (*used < TIMING_MOST)
        samples[(*used)++] = (uint32_t)(att_clock_ns() - begin);
}

static void time_recomputed(const struct workload *workload, uint32_t times, uint64_t *random, uint32_t *samples,
                            uint32_t *used)
{
    float *weights = demo_allocate(workload->n_k, sizeof *weights);
    float *row = demo_allocate(workload->d_v, sizeof *row);
    for (uint32_t n = 0; n < times; n++) {
        uint32_t i = demo_random(random, workload->n_q);
        uint64_t begin = att_clock_ns();
        recompute(workload, i, weights, row);
        note(samples, used, begin);
    }
    free(weights);
    free(row);
}

static void time_answers(struct timing *timing, struct att_client *client, const struct workload *workload,
                         uint64_t *random, double *values)
{
    double value, bound;
    for (uint32_t n = 0; n < QUERIES; n++) {
        uint32_t i = demo_random(random, workload->n_q), j = demo_random(random, workload->d_v);
        uint64_t begin = att_clock_ns();
        demo_need(client, att_query(client, i, j, &value, &bound), "query");
        note(timing->query_ns, &timing->queries, begin);
    }
    for (uint32_t n = 0; n < ROWS; n++) {
        uint32_t i = demo_random(random, workload->n_q);
        uint64_t begin = att_clock_ns();
        demo_need(client, att_row(client, i, values, &bound), "row");
        note(timing->row_ns, &timing->rows, begin);
    }
}

/* That the recomputation computes the same thing, as well as float32 can. */
static void check_recomputed(struct timing *timing, const struct workload *workload, uint32_t step)
{
    float *weights = demo_allocate(workload->n_k, sizeof *weights);
    float *row = demo_allocate(workload->d_v, sizeof *row);
    const double *expected = workload->row_values + (size_t)step * workload->whole * workload->d_v;
    double error = 0, largest = 0;
    recompute(workload, (uint32_t)workload->row[0], weights, row);
    for (uint32_t j = 0; j < workload->d_v; j++) {
        error = fmax(error, fabs((double)row[j] - expected[j]));
        largest = fmax(largest, fabs(expected[j]));
    }
    timing->deviation = fmax(timing->deviation, error / largest);
    free(weights);
    free(row);
}

/* Adds the processors' time since the start, by /proc/stat, with this sign. */
static void add_processor_time(struct timing *timing, int sign)
{
    unsigned long long user, nice, system, idle, wait, irq, softirq, steal;
    FILE *file = fopen("/proc/stat", "r");
    if (file && fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait, &irq,
                       &softirq, &steal) == 8) {
        double busy = (double)(user + nice + system + irq + softirq + steal);
        timing->busy += sign * busy;
        timing->processors += sign * (busy + (double)(idle + wait));
    }
    if (file)
        fclose(file);
}

void timing_round(struct timing *timing, struct att_client *client, const struct workload *workload, uint32_t step)
{
    static int team;
    uint64_t random = 7 + step;
    double *values = demo_allocate(workload->d_v, sizeof *values);
    if (team == 0)
        team = openblas_get_num_threads();
    usleep(SETTLE_US);
    add_processor_time(timing, -1);
    usleep(SETTLE_US);
    add_processor_time(timing, 1);
    openblas_set_num_threads(1);
    check_recomputed(timing, workload, step);
    for (uint32_t n = 0; n < BURSTS; n++) {
        time_answers(timing, client, workload, &random, values);
        time_recomputed(workload, RECOMPUTED, &random, timing->recompute_ns, &timing->recomputed);
    }
    openblas_set_num_threads(team);
    time_recomputed(workload, TEAM, &random, timing->recompute_team_ns, &timing->recomputed_team);
    openblas_set_num_threads(1);
    usleep(SETTLE_US); /* its threads spin for a while before they sleep */
    free(values);
}
