#include "bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "options.h"

volatile double bench_sink;

static void print_number(double number, const char *none)
{
    if (isnan(number))
        printf("%s", none);
    else
        printf("%.6g", number);
}

void bench_figure(const struct bench *bench, const char *name, double value, const char *unit, double floor,
                  double ratio)
{
    if (bench->json) {
        printf("{\"suite\":\"%s\",\"case\":\"%s\",\"value\":", bench->suite, name);
        print_number(value, "null");
        printf(",\"unit\":\"%s\",\"floor\":", unit);
        print_number(floor, "null");
        printf(",\"ratio\":");
        print_number(ratio, "null");
        printf("}\n");
    } else {
        printf("%s %s ", bench->suite, name);
        print_number(value, "-");
        printf(" %s ", unit);
        print_number(floor, "-");
        printf(" ");
        print_number(ratio, "-");
        printf("\n");
    }
    fflush(stdout);
}

void bench_note(const struct bench *bench, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "# %s: ", bench->suite);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

void bench_die(const char *format, ...)
{
    char text[600];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    att_failure("attnbench", "%s", text);
    exit(ATT_EXIT_FAILURE);
}

void *bench_memory(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);

    if (!memory)
        bench_die("not enough memory: %.1f MiB more are needed", (double)bytes / 0x1p20);
    memset(memory, 0, (bytes + 63) / 64 * 64 + 64);
    return memory;
}

float *bench_floats(size_t count)
{
    return bench_memory(sizeof(float) * count);
}

static double read_clock(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

double bench_now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

double bench_cpu(void)
{
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static int by_size(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

double bench_median(double *values, uint32_t count)
{
    qsort(values, count, sizeof *values, by_size);
    return (values[count / 2] + values[(count - 1) / 2]) / 2.0;
}

void bench_log_add(struct bench_log *log, double ns)
{
    if (log->count <= BENCH_ROUNDS)
        log->ns[log->count++] = ns;
}

double bench_log_median(struct bench_log *log)
{
    return bench_median(log->ns + 1, log->count - 1);
}

void bench_interleave(const struct bench_run *runs, uint32_t count, double seconds, double *ret_medians)
{
    static double costs[BENCH_RUNS][BENCH_ROUNDS];
    const double end = bench_now() + seconds * 1e9;
    uint32_t rounds = 0;

    if (count > BENCH_RUNS)
        bench_die("%u runs at once: at most %d", count, BENCH_RUNS);
    for (uint32_t i = 0; i < count; i++)
        runs[i].run(runs[i].context);
    while (rounds < BENCH_ROUNDS && (rounds < BENCH_ROUNDS_LEAST || bench_now() < end)) {
        for (uint32_t i = 0; i < count; i++)
            costs[i][rounds] = runs[i].run(runs[i].context);
        rounds++;
    }
    for (uint32_t i = 0; i < count; i++)
        ret_medians[i] = bench_median(costs[i], rounds);
}

/* ---- Random numbers ---- */

uint64_t bench_random_bits(struct bench_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

uint32_t bench_random_below(struct bench_random *random, uint32_t bound)
{
    return (uint32_t)(((bench_random_bits(random) >> 32) * bound) >> 32);
}

double bench_random_unit(struct bench_random *random)
{
    return (double)(bench_random_bits(random) >> 11) * 0x1p-53;
}

float bench_random_normal(struct bench_random *random)
{
    const uint64_t bits = bench_random_bits(random);
    const int sum = (int)((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48)) - 131070;

    return (float)sum * 2.642926e-5f; /* over the deviation of such a sum, sqrt(4 / 12) 2^16 */
}

void bench_random_fill(struct bench_random *random, float *to, size_t count, double deviation)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (float)deviation * bench_random_normal(random);
}
