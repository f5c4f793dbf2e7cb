#include "blas_core.h"

#include <cblas.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Set across the restarts: "CORE SECONDS", what OpenBLAS chose when left alone and what sgemm took with it. */
static const char state[] = "ATTND_OPENBLAS_LEFT_ALONE";
static char left_alone[32]; /* empty: nothing was asked for */

static bool among(const char *name, const char *const *names)
{
    while (*names && strcmp(name, *names) != 0)
        names++;
    return *names;
}

/* What to ask for. NULL: OpenBLAS's choice is as wide as the processor, or it is not told by width. */
static const char *wider_core(void)
{
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "Sapphirerapids", "SapphireRapids", NULL};
    static const char *const half[] = {"Haswell", "Zen", NULL};
    const char *core = openblas_get_corename();

#if defined(__x86_64__)
    if (among(core, wide))
        return NULL;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return wide[0];
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !among(core, half))
        return half[0];
#endif
    return NULL;
}

/* The least of a few, on one thread: the first one also faults pages in and turns the wide units on. */
static double sgemm_seconds(void)
{
    enum { N = 768, TIMES = 5 };
    float *matrices = calloc((size_t)3 * N * N, sizeof *matrices);
    const int team = openblas_get_num_threads();
    double least = 1e9;

    openblas_set_num_threads(1);
    for (int i = 0; matrices && i < TIMES; i++) {
        struct timespec start, end;
        double took;
        clock_gettime(CLOCK_MONOTONIC, &start);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1.0f, matrices, N, matrices + N * N, N, 0.0f,
                    matrices + 2 * N * N, N);
        clock_gettime(CLOCK_MONOTONIC, &end);
        took = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
        least = took < least ? took : least;
    }
    openblas_set_num_threads(team);
    free(matrices);
    return least;
}

static void start_again(const char *core, const char *chosen, double seconds, char **arguments)
{
    char text[64];

    snprintf(text, sizeof text, "%s %.9g", chosen, seconds);
    setenv("OPENBLAS_CORETYPE", core, 1);
    setenv(state, text, 1);
    execv("/proc/self/exe", arguments);
    unsetenv("OPENBLAS_CORETYPE"); /* it failed: the name says what OpenBLAS chose */
    unsetenv(state);
}

void att_blas_core_choose(char **arguments)
{
    const char *before = getenv(state);
    double seconds = 0.0;

    if (!before) {
        const char *core = getenv("OPENBLAS_CORETYPE") ? NULL : wider_core();
        if (core)
            start_again(core, openblas_get_corename(), sgemm_seconds(), arguments);
        return;
    }
    if (sscanf(before, "%31s %lf", left_alone, &seconds) == 2 && seconds < 1e8 && seconds < sgemm_seconds())
        start_again(left_alone, left_alone, 1e9, arguments);
    unsetenv("OPENBLAS_CORETYPE"); /* OpenBLAS has read it; it is not the user's */
    unsetenv(state);
}

const char *att_blas_core(void)
{
    static char text[160];
    const char *core = openblas_get_corename();
    const bool asked = left_alone[0] != '\0' && strcmp(core, left_alone) != 0;

    snprintf(text, sizeof text, "%s%s%s", core, asked ? ", asked for: left alone it takes this processor for " : "",
             asked ? left_alone : "");
    return text;
}
