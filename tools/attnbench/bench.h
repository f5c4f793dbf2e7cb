/* What all suites share: figures, clocks, medians, interleaving, random numbers.
 *
 * Thread rule: the main thread. Whatever fails ends the program with a message: a benchmark has nothing to save. */
#ifndef ATT_BENCH_H
#define ATT_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a suite is run. */
struct bench {
    const char *suite;
    bool json;
    bool quick; /* ends within 45 s on two slow cores */
};

/* One figure: a line on stdout. NAN for floor or ratio: there is none. */
void bench_figure(const struct bench *bench, const char *name, double value, const char *unit, double floor,
                  double ratio);

/* One comment: a line on stderr, after the suite's name. */
void bench_note(const struct bench *bench, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends the program with exit code 1. */
_Noreturn void bench_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Memory that is there, aligned to 64 bytes and touched (so that no first page fault is timed). Freed by free(). */
void *bench_memory(size_t bytes);
float *bench_floats(size_t count);

double bench_now(void); /* monotonic, ns */
double bench_cpu(void); /* of all threads of this process, ns */

/* Reorders the values. */
double bench_median(double *values, uint32_t count);

/* Something to be timed: does it once and returns its cost, in whatever unit its caller likes. */
struct bench_run {
    double (*run)(void *context);
    void *context;
};

enum { BENCH_RUNS = 8, BENCH_ROUNDS = 201, BENCH_ROUNDS_LEAST = 5 };

/* CPU times of a run, beside the times that it returns: on a busy machine they say more. */
struct bench_log {
    double ns[BENCH_ROUNDS + 1];
    uint32_t count;
};

/* Appends; the first one was the warming up. */
void bench_log_add(struct bench_log *log, double ns);
double bench_log_median(struct bench_log *log);

/* Runs them in turn, round after round: one round to warm up, then BENCH_ROUNDS_LEAST of them, then more until
 * `seconds` are over. Whatever else the machine does meanwhile hits all of them alike. Medians into ret_medians. */
void bench_interleave(const struct bench_run *runs, uint32_t count, double seconds, double *ret_medians);

/* ---- Random numbers (splitmix64: any seed will do) ---- */

struct bench_random {
    uint64_t state;
};

uint64_t bench_random_bits(struct bench_random *random);
uint32_t bench_random_below(struct bench_random *random, uint32_t bound);
double bench_random_unit(struct bench_random *random);  /* [0, 1) */
float bench_random_normal(struct bench_random *random); /* nearly: a sum of four uniform numbers */
void bench_random_fill(struct bench_random *random, float *to, size_t count, double deviation);

/* Keeps the compiler from dropping what computes this. */
extern volatile double bench_sink;

/* ---- The suites ---- */

void suite_query(const struct bench *bench);
void suite_merge(const struct bench *bench);
void suite_update(const struct bench *bench);
void suite_accuracy(const struct bench *bench);
void suite_crossover(const struct bench *bench);
void suite_scale(const struct bench *bench);
void suite_ipc(const struct bench *bench);
void suite_direct(const struct bench *bench);
void suite_durable(const struct bench *bench);
void suite_recovery(const struct bench *bench);
void suite_paper(const struct bench *bench);
void suite_hmv(const struct bench *bench);

#endif
