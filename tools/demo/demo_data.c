/* The workload's files: tests/data/README.md says what they hold. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "demo.h"
#include "npy.h"

static void open_file(const char *directory, const char *name, struct att_npy *ret_npy)
{
    char path[4096];
    struct att_error error = {0};
    snprintf(path, sizeof path, "%s/%s.npy", directory, name);
    if (att_npy_open(path, ret_npy, &error) != ATT_OK)
        demo_fail("%s", error.text);
}

static void need_shape(const struct att_npy *npy, uint64_t rows, uint64_t cols)
{
    if (npy->rows != rows || npy->cols != cols)
        demo_fail("%s: the shape is not the workload's", npy->path);
}

/* rows 0: whatever the file has. */
static float *load_floats(const char *directory, const char *name, uint32_t *rows, uint32_t *cols)
{
    struct att_npy npy;
    struct att_error error = {0};
    open_file(directory, name, &npy);
    if (*rows == 0)
        *rows = (uint32_t)npy.rows;
    if (*cols == 0)
        *cols = (uint32_t)npy.cols;
    need_shape(&npy, *rows, *cols);
    float *floats = demo_allocate(npy.rows * npy.cols, sizeof *floats);
    if (att_npy_read_float(&npy, floats, 0, npy.rows, &error) != ATT_OK)
        demo_fail("%s", error.text);
    att_npy_close(&npy);
    return floats;
}

/* Numbers of a vector, or of rows of `cols`. */
static int64_t *load_integers(const char *directory, const char *name, uint32_t *rows, uint32_t cols)
{
    struct att_npy npy;
    struct att_error error = {0};
    open_file(directory, name, &npy);
    if (*rows == 0)
        *rows = (uint32_t)npy.rows;
    need_shape(&npy, *rows, cols);
    int64_t *integers = demo_allocate(npy.rows * npy.cols, sizeof *integers);
    if (att_npy_read_int(&npy, integers, 0, npy.rows * npy.cols, &error) != ATT_OK)
        demo_fail("%s", error.text);
    att_npy_close(&npy);
    return integers;
}

/* float64 as it is: expected outputs must not be rounded. */
static double *load_doubles(const char *directory, const char *name, uint64_t rows, uint64_t cols)
{
    struct att_npy npy;
    open_file(directory, name, &npy);
    if (npy.type != ATT_NPY_F8)
        demo_fail("%s: float64 is needed", npy.path);
    need_shape(&npy, rows, cols);
    size_t bytes = (size_t)(rows * cols) * sizeof(double);
    double *doubles = demo_allocate((size_t)(rows * cols), sizeof *doubles);
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(npy.fd, (char *)doubles + done, bytes - done, (off_t)(npy.data_offset + done));
        if (got <= 0)
            demo_fail("%s: cannot be read", npy.path);
        done += (size_t)got;
    }
    att_npy_close(&npy);
    return doubles;
}

static void need_range(const int64_t *integers, size_t count, size_t stride, int64_t limit, const char *what)
{
    for (size_t i = 0; i < count; i++)
        if (integers[i * stride] < 0 || integers[i * stride] >= limit)
            demo_fail("%s: %lld is out of range", what, (long long)integers[i * stride]);
}

void workload_load(struct workload *workload, const char *directory)
{
    struct workload w = {0};
    w.q = load_floats(directory, "Q", &w.n_q, &w.d);
    w.k = load_floats(directory, "K", &w.n_k, &w.d);
    w.v = load_floats(directory, "V", &w.n_k, &w.d_v);
    w.first_k = load_floats(directory, "K", &w.n_k, &w.d);
    w.first_v = load_floats(directory, "V", &w.n_k, &w.d_v);
    if (w.d != w.d_v)
        demo_fail("%s: the trace's rows need d = d_v", directory);
    w.kind = load_integers(directory, "trace_kind", &w.edits, 1);
    w.index = load_integers(directory, "trace_index", &w.edits, 1);
    w.rows = load_floats(directory, "trace_row", &w.edits, &w.d);
    w.step_at = load_integers(directory, "exp_steps", &w.steps, 1);
    w.pair = load_integers(directory, "exp_ij", &w.pairs, 2);
    w.row = load_integers(directory, "exp_rows", &w.whole, 1);
    w.pair_values = load_doubles(directory, "exp_ij_vals", w.steps, w.pairs);
    w.row_values = load_doubles(directory, "exp_rows_vals", (uint64_t)w.steps * w.whole, w.d_v);
    double *scale = load_doubles(directory, "scale", 1, 1);
    w.scale = *scale;
    free(scale);
    need_range(w.kind, w.edits, 1, 2, "trace_kind");
    need_range(w.index, w.edits, 1, w.n_k, "trace_index");
    need_range(w.step_at, w.steps, 1, (int64_t)w.edits + 1, "exp_steps");
    need_range(w.pair, w.pairs, 2, w.n_q, "exp_ij");
    need_range(w.pair + 1, w.pairs, 2, w.d_v, "exp_ij");
    need_range(w.row, w.whole, 1, w.n_q, "exp_rows");
    *workload = w;
}

void workload_release(struct workload *workload)
{
    void *arrays[] = {workload->first_k, workload->first_v,     workload->q,         workload->k,    workload->v,
                      workload->kind,    workload->index,       workload->rows,      workload->pair, workload->step_at,
                      workload->row,     workload->pair_values, workload->row_values};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    *workload = (struct workload){0};
}

void workload_apply(const struct workload *workload, uint32_t from, uint32_t to, float *k, float *v)
{
    size_t d = workload->d;
    for (uint32_t at = from; at < to; at++) {
        float *row = (workload->kind[at] == 0 ? k : v) + (size_t)workload->index[at] * d;
        memcpy(row, workload->rows + at * d, d * sizeof *row);
    }
}
