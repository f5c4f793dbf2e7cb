/* OpenBLAS: one product, single-threaded, and the check that the kernel it chose at run time computes it right. */
#include <cblas.h>
#include <math.h>
#include <stdint.h>

#include "engine_impl.h"

void att_blas_product(uint32_t rows, uint32_t columns, uint32_t depth, const double *a, size_t a_stride,
                      const double *b, size_t b_stride, double *c, size_t c_stride)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)columns, (blasint)depth, 1.0, a,
                (blasint)a_stride, b, (blasint)b_stride, 0.0, c, (blasint)c_stride);
}

const char *att_blas_kernel(void) { return openblas_get_corename(); }

enum { CHECK_ROWS = 67, CHECK_COLUMNS = 75, CHECK_DEPTH = 259 };

/* Integers of a few bits: every partial sum is exact, so any order must give the very same product. */
static void fill(double *x, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (double)(int)(seed >> 24) - 128.0;
    }
}

static enum att_status check_shape(uint32_t rows, uint32_t columns, uint32_t depth, struct att_error *error)
{
    static double a[CHECK_ROWS * CHECK_DEPTH], b[CHECK_COLUMNS * CHECK_DEPTH], c[CHECK_ROWS * CHECK_COLUMNS];

    fill(a, (size_t)rows * depth, 1);
    fill(b, (size_t)columns * depth, 2);
    att_blas_product(rows, columns, depth, a, depth, b, depth, c, columns);
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t j = 0; j < columns; j++) {
            double sum = 0.0;
            for (uint32_t l = 0; l < depth; l++)
                sum += a[(size_t)i * depth + l] * b[(size_t)j * depth + l];
            if (sum != c[(size_t)i * columns + j])
                return att_fail(error, ATT_EBLAS,
                                "OpenBLAS's kernel %s computes wrong products on this processor (%u x %u x %u): set "
                                "OPENBLAS_CORETYPE=Haswell",
                                att_blas_kernel(), rows, columns, depth);
        }
    return ATT_OK;
}

enum att_status att_blas_check(struct att_error *error)
{
    static const uint32_t shapes[][3] = {
        {1, 5, 16}, {1, 72, 256}, {3, 7, 16}, {64, 72, 256}, {64, 72, 16}, {CHECK_ROWS, CHECK_COLUMNS, CHECK_DEPTH}};
    enum att_status status = ATT_OK;

    openblas_set_num_threads(1); /* the team is ours: a BLAS call inside a tile is single-threaded */
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && status == ATT_OK; i++)
        status = check_shape(shapes[i][0], shapes[i][1], shapes[i][2], error);
    return status;
}
