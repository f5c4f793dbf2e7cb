#include "kernel.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static int supports(const struct att_kernel *kernel)
{
#if defined(__x86_64__)
    if (kernel == &att_kernel_avx512 || kernel == &att_kernel_avx512_256)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
    if (kernel == &att_kernel_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return kernel == &att_kernel_plain;
}

/* AMD's family 19h, of which Zen 4 has AVX-512, executes 512 bits in halves. By name, not by a measurement: a busy host
 * would spoil that, and the daemon and its direct readers should agree. */
static int suits(const struct att_kernel *kernel)
{
#if defined(__x86_64__)
    if (kernel == &att_kernel_avx512 && __builtin_cpu_is("amdfam19h"))
        return 0;
#endif
    return supports(kernel);
}

const struct att_kernel *att_kernel_choose(void)
{
    static const struct att_kernel *const kernels[] = {
#if defined(__x86_64__)
        &att_kernel_avx512,
        &att_kernel_avx512_256,
        &att_kernel_avx2,
#endif
        &att_kernel_plain,
    };
    const size_t count = sizeof kernels / sizeof *kernels;
    const char *wanted = getenv("ATTND_ISA");

    for (size_t i = 0; wanted && i < count; i++)
        if (strcmp(kernels[i]->name, wanted) == 0 && supports(kernels[i]))
            return kernels[i];
    for (size_t i = 0; i < count; i++)
        if (suits(kernels[i]))
            return kernels[i];
    return &att_kernel_plain;
}

/* Rows, tiles and columns of each shape that there is: 12, 4 and 1; 4, 2 and 1; 64, 32, 16 and less. Few rows are met one by one. */
enum { CHECK_ROWS = 17, CHECK_FEW = 2, CHECK_TILES = 7, CHECK_D = 19, CHECK_LANES = CHECK_TILES * ATT_TILE_LANES };
enum { CHECK_COLUMNS = 120, CHECK_PANELS = (CHECK_COLUMNS + ATT_PANEL - 1) / ATT_PANEL };
/* A long read in single: chains, and more than twice the bytes of keys that L1 keeps, which are met in two orders
 * (kernel_read.c); with tiles and columns left over. */
enum { LONG_TILES = 39, LONG_D = 27, LONG_LANES = LONG_TILES * ATT_TILE_LANES };

struct check {
    double q[CHECK_ROWS * CHECK_D];
    float q32[CHECK_ROWS * CHECK_D];
    float keys[CHECK_LANES * CHECK_D], bias[CHECK_LANES];
    float values[CHECK_LANES * CHECK_COLUMNS + ATT_PANEL]; /* of the last row, too, a whole panel may be read */
    float heads[CHECK_LANES * 2];
    float long_keys[LONG_LANES * LONG_D], long_bias[LONG_LANES], long_heads[LONG_LANES * 2];
    double wide_keys[CHECK_LANES * CHECK_D];
    double shift[CHECK_ROWS];
};

struct outcome {
    double weights[CHECK_ROWS * ATT_BLOCK], largest[CHECK_ROWS]; /* in single floats, and the rest 0 */
    double few_weights[CHECK_FEW * ATT_BLOCK], few_product[CHECK_FEW * CHECK_COLUMNS];
    double product[CHECK_ROWS * CHECK_COLUMNS], sums[CHECK_COLUMNS], row_sums[CHECK_COLUMNS], heads[CHECK_ROWS * 4];
    double read_weights[CHECK_LANES];
    struct att_read_sums read, rows_read, long_read[2];
    float long_weights[2][LONG_LANES];
    float norm_largest[2];
    double tile[CHECK_D * ATT_TILE_LANES], values[CHECK_PANELS * ATT_BLOCK * ATT_PANEL];
};

static void fill(float *x, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = ((float)(seed >> 8) - 0x1p23f) * 0x1p-22f;
    }
}

/* What is made of one row: of tiles, of one tile whose keys and values are rows, and in single of many. */
static void run_reads(const struct att_kernel *kernel, const struct check *in, struct att_weights work,
                      struct outcome *ret)
{
    const float *rows[ATT_TILE_LANES];

    work.weights = ret->read_weights;
    kernel->read(&work, in->heads, in->values, CHECK_COLUMNS, &ret->read);
    kernel->sums(&work, in->values, CHECK_COLUMNS, 0, CHECK_COLUMNS - 3, ret->sums);
    for (int lane = 0; lane < ATT_TILE_LANES; lane++)
        rows[lane] = in->values + lane * CHECK_COLUMNS;
    work.tiles = 1;
    work.key_rows = rows;
    kernel->read(&work, in->heads, in->values, CHECK_COLUMNS, &ret->rows_read);
    kernel->row_sums(&work, rows, CHECK_COLUMNS, ret->row_sums);
    kernel->pack_keys(work.precision, rows, CHECK_D, ret->tile);
    work.tiles = LONG_TILES;
    work.d = LONG_D;
    work.keys = in->long_keys;
    work.key_rows = NULL;
    work.bias = in->long_bias;
    for (int time = 0; time < 2 && work.precision == ATT_SINGLE; time++) {
        work.weights = ret->long_weights[time];
        work.back = time > 0;
        kernel->read(&work, in->long_heads, in->values, 1, &ret->long_read[time]);
    }
}

static void run_check(const struct att_kernel *kernel, enum att_precision precision, const struct check *in,
                      struct outcome *ret)
{
    struct att_weights work = {
        .precision = precision,
        .rows = CHECK_ROWS,
        .tiles = CHECK_TILES,
        .d = CHECK_D,
        .q = precision == ATT_SINGLE ? (const void *)in->q32 : in->q,
        .keys = precision == ATT_SINGLE ? (const void *)in->keys : in->wide_keys,
        .bias = in->bias,
        .shift = in->shift,
        .weights = ret->weights,
        .value_scale = 0x1p40f,
        .signs = true,
        .largest = ret->largest,
    };

    struct att_product product = {
        .precision = precision,
        .rows = CHECK_ROWS,
        .depth = CHECK_LANES,
        .columns = CHECK_COLUMNS - 3,
        .sign = -1.0,
        .weights = ret->weights,
        .values = ret->values,
        .value_stride = CHECK_COLUMNS,
        .value_scale = work.value_scale,
        .sums = ret->product,
        .sum_stride = CHECK_COLUMNS,
    };
    const struct att_head_sums heads = {
        .precision = precision,
        .rows = CHECK_ROWS,
        .tiles = CHECK_TILES,
        .weights = ret->weights,
        .heads = in->heads,
        .value_scale = work.value_scale,
        .sums = ret->heads,
    };

    kernel->weights(&work);
    for (size_t lane = 0; lane < CHECK_LANES; lane++)
        kernel->pack_value(precision, work.value_scale, in->values + lane * CHECK_COLUMNS, CHECK_COLUMNS,
                           (char *)ret->values + lane * ATT_PANEL * att_width(precision));
    kernel->heads(&heads);
    memset(ret->product, 0, sizeof ret->product);
    memset(ret->few_product, 0, sizeof ret->few_product);
    kernel->product(&product);
    product.rows = CHECK_FEW;
    product.values = in->values;
    product.sums = ret->few_product;
    kernel->few_product(&product);
    work.rows = CHECK_FEW;
    work.keys = in->keys;
    work.weights = ret->few_weights;
    kernel->few_weights(&work);
    kernel->head(in->keys, CHECK_D, in->values, CHECK_COLUMNS, ret->norm_largest);
    run_reads(kernel, in, work, ret);
}

enum att_status att_kernel_check(struct att_error *error)
{
    static const struct att_kernel *_Atomic right; /* as found before: there may be a thousand heads */
    const struct att_kernel *kernel = att_kernel_choose();
    struct check in = {0};
    struct outcome got = {0}, expected = {0};

    if (atomic_load_explicit(&right, memory_order_relaxed) == kernel)
        return ATT_OK;
    fill(in.q32, CHECK_ROWS * CHECK_D, 1);
    fill(in.keys, CHECK_LANES * CHECK_D, 2);
    fill(in.bias, CHECK_LANES, 3);
    fill(in.values, CHECK_LANES * CHECK_COLUMNS, 4);
    fill(in.heads, CHECK_LANES * 2, 5);
    fill(in.long_keys, LONG_LANES * LONG_D, 6);
    fill(in.long_bias, LONG_LANES, 7);
    fill(in.long_heads, LONG_LANES * 2, 8);
    for (int i = 0; i < CHECK_ROWS * CHECK_D; i++)
        in.q[i] = in.q32[i];
    for (int i = 0; i < CHECK_LANES * CHECK_D; i++)
        in.wide_keys[i] = in.keys[i];
    for (int precision = ATT_SINGLE; precision <= ATT_DOUBLE; precision++) {
        run_check(kernel, (enum att_precision)precision, &in, &got);
        run_check(&att_kernel_plain, (enum att_precision)precision, &in, &expected);
        if (memcmp(&got, &expected, sizeof got) != 0)
            return att_fail(error, ATT_EKERNEL,
                            "the %s kernel computes wrong results on this processor: set ATTND_ISA=plain and report it",
                            kernel->name);
    }
    atomic_store_explicit(&right, kernel, memory_order_relaxed);
    return ATT_OK;
}
