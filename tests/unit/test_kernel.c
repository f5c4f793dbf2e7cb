/* The kernel: its exp against long double, and all instruction sets against each other, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "random.h"
#include "region.h"

enum { TILES = 64, LANES = TILES * ATT_TILE_LANES };

static const struct att_kernel *const all[] = {&att_kernel_plain,
#if defined(__x86_64__)
                                               &att_kernel_avx2, &att_kernel_avx512, &att_kernel_avx512_256
#endif
};

static int available(const struct att_kernel *kernel)
{
#if defined(__x86_64__)
    if (kernel == &att_kernel_avx512 || kernel == &att_kernel_avx512_256)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
    if (kernel == &att_kernel_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return 1;
}

/* What the kernel made, of either precision. */
static double weight_at(enum att_precision precision, const void *weights, size_t i)
{
    return precision == ATT_SINGLE ? (double)((const float *)weights)[i] : ((const double *)weights)[i];
}

/* Weights of one row with d = 1 and q = 1: t is the key itself. */
static void weigh(const struct att_kernel *kernel, enum att_precision precision, const float *t, double *weights)
{
    static const float zeros[LANES];
    const float one_f32 = 1.0f;
    const double one_f64 = 1.0, shift = 0.0;
    static double wide[LANES];
    double largest;
    const struct att_weights work = {.precision = precision,
                                     .rows = 1,
                                     .tiles = TILES,
                                     .d = 1,
                                     .q = precision == ATT_SINGLE ? (const void *)&one_f32 : &one_f64,
                                     .keys = precision == ATT_SINGLE ? (const void *)t : wide,
                                     .bias = zeros,
                                     .shift = &shift,
                                     .weights = weights,
                                     .largest = &largest};
    for (int i = 0; i < LANES; i++)
        wide[i] = t[i];
    kernel->weights(&work);
}

static double worst_error(enum att_precision precision, uint32_t stride)
{
    const struct att_kernel *kernel = att_kernel_choose();
    static float t[LANES];
    static double weights[LANES];
    double worst = 0.0;
    uint32_t bits = 0x30000000; /* 2^-31: below, 2^f is 1 to double precision's half */

    while (bits <= 0x3f000000) { /* 0.5 */
        for (int i = 0; i < LANES; i += 2) {
            memcpy(&t[i], &bits, sizeof bits);
            t[i + 1] = -t[i];
            bits = bits + stride <= 0x3f000000 ? bits + stride : bits;
        }
        weigh(kernel, precision, t, weights);
        for (int i = 0; i < LANES; i++) {
            long double exact = exp2l((long double)t[i]);
            worst = fmax(worst, (double)fabsl((weight_at(precision, weights, (size_t)i) - exact) / exact));
        }
        if (bits + stride > 0x3f000000)
            break;
    }
    return worst;
}

static void the_error_of_exp_stays_below_what_the_bounds_assume(void **state)
{
    (void)state;
    double single = worst_error(ATT_SINGLE, 37);
    double mixed = worst_error(ATT_MIXED, 37), precise = worst_error(ATT_DOUBLE, 1013);
    printf("largest relative error of a weight: single %.3g (assumed %.3g), short exp %.3g (assumed %.3g), "
           "long exp %.3g (assumed %.3g)\n",
           single, ATT_EPSILON_SINGLE, mixed, ATT_EPSILON_SHORT, precise, ATT_EPSILON_LONG);
    assert_true(single < ATT_EPSILON_SINGLE);
    assert_true(mixed < ATT_EPSILON_SHORT);
    assert_true(precise < ATT_EPSILON_LONG);
}

enum { MOST_ROWS = 30, SUMS = sizeof(struct att_read_sums) / sizeof(double) };

struct call {
    enum att_precision precision;
    uint32_t rows, tiles, d, columns;
    double *q, *wide_keys;
    float *q32, *keys, *bias, *heads, *values;
    double shift[MOST_ROWS];
    float value_scale;
    bool one_sign;
};

static float gaussian(struct test_random *random)
{
    return (float)random_normal(random);
}

/* Any; or of one row in single, with most often more keys than L1 keeps. */
static struct call random_call(struct test_random *random, bool is_long)
{
    struct call c = {.precision = (enum att_precision)(random_below(random, 3)),
                     .rows = 1 + (uint32_t)random_below(random, MOST_ROWS),
                     .tiles = 1 + (uint32_t)random_below(random, random_one_in(random, 4) ? 3 * ATT_READ_CHAIN : 9),
                     .d = 1 + (uint32_t)random_below(random, random_one_in(random, 8) ? 300 : 70),
                     .columns = 5 + (uint32_t)random_below(random, 70),
                     .value_scale = ldexpf(1.0f, (int)random_below(random, 80) - 30)};
    if (is_long) {
        c.precision = ATT_SINGLE;
        c.tiles = 10 + (uint32_t)random_below(random, 3 * ATT_READ_CHAIN);
        c.d = 20 + (uint32_t)random_below(random, 120);
    }
    /* Of biases and rows: weights from 0 to too large, or many that count; in a long call always, where the largest of so many
     * would nearly always be too large. */
    const bool many_count = c.tiles > 9 || random_one_in(random, 2);
    const float spread = many_count ? 2.0f : c.precision == ATT_SINGLE ? 40.0f : 400.0f;
    const float size = many_count ? 3.0f / sqrtf((float)c.d) : 3.0f;
    size_t keys = (size_t)c.tiles * c.d * 16, lanes = (size_t)c.tiles * 16, q = 0;

    c.rows = is_long || lanes > ATT_BLOCK ? 1 : c.rows;
    q = (size_t)c.rows * c.d;
    c.q = malloc(sizeof *c.q * q);
    c.q32 = malloc(sizeof *c.q32 * q);
    c.keys = malloc(sizeof *c.keys * keys);
    c.wide_keys = malloc(sizeof *c.wide_keys * keys);
    c.bias = malloc(sizeof *c.bias * lanes);
    c.heads = malloc(sizeof *c.heads * lanes * 2);
    c.values = malloc(sizeof *c.values * lanes * c.columns);
    for (size_t i = 0; i < q; i++)
        c.q[i] = c.q32[i] = size * gaussian(random);
    for (size_t i = 0; i < keys; i++)
        c.wide_keys[i] = c.keys[i] = gaussian(random);
    for (size_t i = 0; i < lanes; i++)
        c.bias[i] = random_below(random, 8) == 0 ? -INFINITY : spread * gaussian(random);
    if (random_one_in(random, 2)) { /* the first tile is not full, and what it began with may have left */
        const uint32_t first = random_below(random, 16), some = random_below(random, 17 - first);
        for (uint32_t i = 0; i < 16; i++)
            if (i - first >= some)
                c.bias[i] = -INFINITY;
    }
    c.one_sign = random_one_in(random, 2);
    for (size_t i = 0; i < lanes * 2; i++) /* |v| and g of a lane have its sign */
        c.heads[i] = copysignf(gaussian(random), c.one_sign        ? 1.0f
                                                 : i / 16 % 2 == 1 ? c.heads[i - 16]
                                                                   : gaussian(random));
    for (size_t i = 0; i < lanes * c.columns; i++)
        c.values[i] = gaussian(random);
    for (uint32_t i = 0; i < c.rows; i++)
        c.shift[i] = random_below(random, 5) == 0 ? ATT_NO_SHIFT : rint((double)(spread * gaussian(random)));
    return c;
}

static void release_call(struct call *c)
{
    free(c->q);
    free(c->q32);
    free(c->keys);
    free(c->wide_keys);
    free(c->bias);
    free(c->heads);
    free(c->values);
}

/* Where a kernel is to write: a call before may have left there what is right. */
static void forget(void *memory, size_t bytes)
{
    memset(memory, 0xff, bytes);
}

/* The work of `rows` rows from `row` on. */
static struct att_weights work_of(const struct call *c, uint32_t row, uint32_t rows, void *weights, double *largest)
{
    const size_t q = (size_t)row * c->d;

    return (struct att_weights){.precision = c->precision,
                                .rows = rows,
                                .tiles = c->tiles,
                                .d = c->d,
                                .q = c->precision == ATT_SINGLE ? (const void *)(c->q32 + q) : c->q + q,
                                .keys = c->precision == ATT_SINGLE ? (const void *)c->keys : c->wide_keys,
                                .bias = c->bias,
                                .shift = c->shift + row,
                                .weights = weights,
                                .signs = true,
                                .value_scale = c->value_scale,
                                .largest = largest};
}

/* Whether weights of such a row are what they are said to be. */
static bool in_range(const struct call *c, uint32_t row, double largest)
{
    return largest - c->shift[row] <= (c->precision == ATT_SINGLE ? ATT_SHIFT_HEADROOM_SINGLE : 1000.0);
}

/* Sums of values that come as rows are those of the same in lanes, for any number of columns; and nothing after those, nor a row
 * without a weight, is read. */
static void sum_rows_of_first_tile(const struct att_kernel *kernel, const struct call *c,
                                   const struct att_weights *work)
{
    double sums[128], expected[128];
    float *rows[16];

    forget(expected, sizeof expected);
    kernel->sums(work, c->values, c->columns, 0, c->columns, expected);
    for (uint32_t count = c->columns; count > 0; count = count * 2 / 3) {
        for (uint32_t lane = 0; lane < 16; lane++) {
            rows[lane] = malloc(sizeof *rows[lane] * count);
            for (uint32_t p = 0; p < count; p++)
                rows[lane][p] = weight_at(c->precision, work->weights, lane) == 0.0 ? NAN : c->values[p * 16 + lane];
        }
        forget(sums, sizeof sums);
        kernel->row_sums(work, (const float *const *)rows, count, sums);
        for (uint32_t p = 0; p < count; p++)
            assert_memory_equal(&sums[p], &expected[p], sizeof *sums);
        for (uint32_t p = count; p < 128; p++)
            assert_true(isnan(sums[p]));
        for (uint32_t lane = 0; lane < 16; lane++)
            free(rows[lane]);
    }
}

/* The first tile gives the same when its keys come as rows. */
static void read_rows_of_first_tile(const struct att_kernel *kernel, const struct call *c,
                                    const struct att_weights *whole)
{
    struct att_weights work = *whole;
    struct att_read_sums read, from_rows;
    double weights[16], largest, weights_from_rows[16];
    float *rows = malloc(sizeof *rows * 16 * c->d);
    const float *row[16];

    for (uint32_t lane = 0; lane < 16; lane++) {
        row[lane] = rows + (size_t)lane * c->d;
        for (uint32_t p = 0; p < c->d; p++)
            rows[lane * c->d + p] = c->keys[p * 16 + lane];
    }
    work.tiles = 1;
    work.weights = weights;
    work.largest = &largest;
    forget(weights, sizeof weights);
    forget(weights_from_rows, sizeof weights_from_rows);
    kernel->read(&work, c->heads, c->values, c->columns, &read);
    work.keys = NULL;
    work.key_rows = row;
    work.weights = weights_from_rows;
    kernel->read(&work, c->heads, c->values, c->columns, &from_rows);
    assert_memory_equal(&from_rows, &read, sizeof read);
    assert_memory_equal(weights_from_rows, weights, 16 * att_width(c->precision));
    sum_rows_of_first_tile(kernel, c, &work);
    free(rows);
}

/* Head columns as a merge takes them, but with signs; in single with |v| scaled. */
static void head_sums(const struct att_kernel *kernel, const struct call *c, const struct att_weights *weights,
                      double *ret_sums)
{
    const size_t count = (size_t)c->tiles * 2 * 16;
    float *scaled = malloc(count * sizeof *scaled);
    const struct att_head_sums work = {.precision = c->precision,
                                       .rows = weights->rows,
                                       .tiles = c->tiles,
                                       .weights = weights->weights,
                                       .heads = scaled,
                                       .value_scale = c->value_scale,
                                       .sums = ret_sums};
    for (size_t i = 0; i < count; i++)
        scaled[i] = c->heads[i] * (c->precision == ATT_SINGLE && i / 16 % 2 == 0 ? c->value_scale : 1.0f);
    kernel->heads(&work);
    free(scaled);
}

/* The sums of a query against float64 ones of the same weights, with signs and without: the bits alone do not tell what they
 * are of. */
static void check_sums(const struct call *c, const void *expected, const struct att_read_sums *read)
{
    const double unit = c->precision == ATT_SINGLE ? 0x1p-18 : 0x1p-40;
    double head[4] = {0}, size[4] = {0};

    for (size_t i = 0; i < (size_t)c->tiles * 16; i++) {
        const float *heads = c->heads + i / 16 * 32 + i % 16;
        const double w = weight_at(c->precision, expected, i), v = fabs((double)heads[0]), g = fabs((double)heads[16]);
        const double of[4] = {w, w * v, w * g, w * v * g};
        for (int x = 0; x < 4; x++) {
            head[x] += signbit(heads[0]) ? -of[x] : of[x];
            size[x] += of[x];
        }
    }
    for (int x = 0; x < 4; x++)
        assert_true(fabs(read->head[x] - head[x]) <= unit * size[x]);
    for (int x = 0; x < 2; x++)
        assert_true(fabs(read->magnitude[x] - size[x]) <= unit * size[x]);
}

/* What a query of the row gives, from weights that must be those of `weights`, and the head sums `heads`; then sums of all
 * columns. */
static void sum_row(const struct att_kernel *kernel, const struct call *c, uint32_t row, const void *expected,
                    const double *heads, double *sums)
{
    const size_t lanes = (size_t)c->tiles * 16;
    double *weights = malloc(lanes * sizeof *weights), largest;
    struct att_weights work = work_of(c, row, 1, weights, &largest);
    struct att_read_sums read, back;

    work.keys = c->keys;
    work.back = true;
    forget(weights, lanes * sizeof *weights);
    kernel->read(&work, c->heads, c->values + (size_t)3 * 16, c->columns, &back);
    work.back = false;
    forget(weights, lanes * sizeof *weights);
    kernel->read(&work, c->heads, c->values + (size_t)3 * 16, c->columns, &read);
    assert_memory_equal(&back, &read, sizeof read);
    for (size_t i = 0; i < lanes; i++)
        assert_true(weight_at(c->precision, weights, i) ==
                    copysign(weight_at(c->precision, expected, i), (double)c->heads[i / 16 * 32 + i % 16]));
    if (c->precision != ATT_SINGLE || c->tiles <= ATT_READ_CHAIN) { /* a merge never asks for more */
        assert_memory_equal(heads, &read.magnitude[0], sizeof(double));
        assert_memory_equal(heads + 1, &read.head[1],
                            (c->one_sign ? 3 : 2) * sizeof(double)); /* a product of two has no sign */
    }
    check_sums(c, expected, &read);
    memcpy(sums, &read, sizeof read);
    kernel->sums(&work, c->values, c->columns, 0, c->columns, sums + SUMS);
    assert_memory_equal(&read.value, sums + SUMS + 3, sizeof(double));
    read_rows_of_first_tile(kernel, c, &work);
    free(weights);
}

/* Lanes from a row's weights to the next's, and of a lone row all that there are. */
static size_t row_lanes(const struct call *c)
{
    return c->rows > 1 ? ATT_BLOCK : (size_t)c->tiles * 16;
}

/* All that the kernel gives for a call, in one array: weights, largest, sums, magnitudes. What may be anything is 0. */
static double *results(const struct att_kernel *kernel, const struct call *c, uint32_t rows_at_once, size_t *ret_count)
{
    const size_t lanes = row_lanes(c), weights = lanes * c->rows, width = att_width(c->precision);
    const size_t a_row = SUMS + c->columns;
    double *all_of_it = calloc(weights + c->rows * (1 + a_row), sizeof(double));
    double *largest = all_of_it + weights, *sums = largest + c->rows, heads[MOST_ROWS * 4];

    forget(heads, sizeof heads);
    for (uint32_t row = 0; row < c->rows; row += rows_at_once) {
        const uint32_t left = c->rows - row, rows = left < rows_at_once ? left : rows_at_once;
        const struct att_weights work = work_of(c, row, rows, (char *)all_of_it + row * lanes * width, largest + row);
        kernel->weights(&work);
        head_sums(kernel, c, &work, heads + (size_t)row * 4);
    }
    for (uint32_t row = 0; row < c->rows; row++, sums += a_row) {
        char *of_row = (char *)all_of_it + row * lanes * width;
        if (in_range(c, row, largest[row]))
            sum_row(kernel, c, row, of_row, heads + (size_t)row * 4, sums);
        else
            memset(of_row, 0, lanes * width);
    }
    *ret_count = weights + c->rows * (1 + a_row);
    return all_of_it;
}

/* The first values of the call, packed. */
static void *pack(const struct att_kernel *kernel, const struct call *c, uint32_t entries)
{
    const size_t width = att_width(c->precision), panels = (c->columns + ATT_PANEL - 1) / ATT_PANEL;
    char *packed = calloc(panels * ATT_BLOCK * ATT_PANEL, width);

    for (size_t l = 0; l < entries; l++)
        kernel->pack_value(c->precision, c->value_scale, c->values + l * c->columns, c->columns,
                           packed + l * ATT_PANEL * width);
    return packed;
}

/* The shape for few rows, keys and values in float: the weights are those of `expected`, and so are the sums of the
 * product, which packed values give too, in all its shapes; the last three lanes are left out, for whole vectors of values are read. */
static void few_rows_give_the_same(const struct att_kernel *kernel, const struct call *c, const double *expected)
{
    const size_t lanes = (size_t)c->tiles * 16, count = row_lanes(c) * c->rows, sums = (size_t)c->rows * c->columns;
    const size_t width = att_width(c->precision), next_row = row_lanes(c) * width;
    const uint32_t depth = (uint32_t)(lanes < ATT_BLOCK ? lanes : ATT_BLOCK) - 3;
    double *weights = malloc(count * sizeof *weights), *packed = pack(kernel, c, depth);
    double *from_rows = calloc(2 * sums, sizeof *from_rows), *from_wide = from_rows + sums, largest[MOST_ROWS];
    struct att_weights work = work_of(c, 0, c->rows, weights, largest);
    struct att_product product = {.precision = c->precision,
                                  .rows = c->rows,
                                  .depth = depth,
                                  .columns = c->columns,
                                  .sign = -1.0,
                                  .weights = expected,
                                  .values = c->values,
                                  .value_stride = c->columns,
                                  .value_scale = c->value_scale,
                                  .sums = from_rows,
                                  .sum_stride = c->columns};

    work.keys = c->keys;
    forget(weights, count * sizeof *weights);
    forget(largest, sizeof largest);
    kernel->few_weights(&work);
    assert_memory_equal(largest, expected + count, c->rows * sizeof *largest);
    for (uint32_t row = 0; row < c->rows; row++)
        if (in_range(c, row, largest[row]))
            assert_memory_equal((char *)weights + row * next_row, (const char *)expected + row * next_row,
                                lanes * width);
    kernel->few_product(&product);
    product.values = packed;
    product.sums = from_wide;
    att_kernel_plain.product(&product);
    assert_memory_equal(from_rows, from_wide, sums * sizeof *from_rows);
    memset(from_wide, 0, sums * sizeof *from_wide);
    kernel->product(&product);
    assert_memory_equal(from_rows, from_wide, sums * sizeof *from_rows);
    free(weights);
    free(packed);
    free(from_rows);
}

/* Of its rows, how many are read in single from more keys than L1 keeps, so that `back` makes a difference: before a chain's end,
 * and after it. */
static void count_long_reads(const struct call *c, const double *largest, uint32_t ret_counts[2])
{
    for (uint32_t row = 0; row < c->rows; row++)
        if (c->precision == ATT_SINGLE && (size_t)c->tiles * c->d * 16 * sizeof(float) > 32 << 10)
            ret_counts[c->tiles > ATT_READ_CHAIN] += in_range(c, row, largest[row]);
}

static void every_instruction_set_and_shape_gives_the_same_bits(void **state)
{
    struct test_random random;
    uint32_t long_reads[2] = {0};
    (void)state;
    random_seed(&random, 20261124, "kernel calls");
    for (int round = 0; round < 300; round++) {
        struct call c = random_call(&random, round % 6 == 0);
        size_t count;
        double *expected = results(all[0], &c, 1, &count);
        count_long_reads(&c, expected + row_lanes(&c) * c.rows, long_reads);
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            if (!available(all[k]))
                continue;
            few_rows_give_the_same(all[k], &c, expected);
            for (uint32_t rows = 1; rows <= c.rows; rows += 5) {
                double *got = results(all[k], &c, rows, &count);
                assert_memory_equal(got, expected, count * sizeof(double));
                free(got);
            }
        }
        free(expected);
        release_call(&c);
    }
    assert_true(long_reads[0] > 0 && long_reads[1] >= 10);
}

static void masked_entry_weighs_nothing(enum att_precision precision, const double *shifts, size_t count)
{
    static double t[LANES]; /* 0, in float too */
    static float bias[16];
    const double one_f64 = 1.0;
    const float one_f32 = 1.0f;
    for (int i = 0; i < 16; i++)
        bias[i] = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        double weights[16], largest;
        const struct att_weights work = {.precision = precision,
                                         .rows = 1,
                                         .tiles = 1,
                                         .d = 1,
                                         .q = precision == ATT_SINGLE ? (const void *)&one_f32 : &one_f64,
                                         .keys = t,
                                         .bias = bias,
                                         .shift = &shifts[i],
                                         .weights = weights,
                                         .largest = &largest};
        att_kernel_choose()->weights(&work);
        for (int lane = 0; lane < 16; lane++)
            assert_true(weight_at(precision, weights, (size_t)lane) == 0.0);
        assert_true(largest < ATT_NO_SHIFT);
    }
}

static void a_masked_entry_weighs_nothing_under_any_shift(void **state)
{
    static const double shifts[] = {ATT_NO_SHIFT, 0.0, -1.4e12, 1.4e12}, single[] = {ATT_NO_SHIFT, 0.0, -1.3e5, 1.3e5};
    (void)state;
    masked_entry_weighs_nothing(ATT_MIXED, shifts, sizeof shifts / sizeof *shifts);
    masked_entry_weighs_nothing(ATT_SINGLE, single, sizeof single / sizeof *single);
}

/* All values up to the largest are brought below 2^50, as close as a factor that is a float can. */
static void a_value_scale_brings_values_to_where_float32_has_room(void **state)
{
    static const float sizes[] = {0.0f, 0x1p-149f, 0x1p-126f, 0x1.8p-78f, 1e-20f, 0.999f, 1.0f, 3e10f, 0x1.fffffep127f};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const float scale = att_value_scale(sizes[i]);
        int exponent;
        assert_true(frexpf(scale, &exponent) == 0.5f && scale >= 0x1p-126f);
        assert_true(sizes[i] * scale < 0x1p50f);
        assert_true(sizes[i] * scale >= 0x1p49f || scale == 0x1p126f);
    }
}

static void a_position_of_the_log_lies_in_the_tile_that_division_says(void **state)
{
    struct test_random random;
    (void)state;
    random_seed(&random, 77, "positions");
    for (int i = 0; i < 100000; i++) {
        const uint32_t tiles = 1 + (uint32_t)random_below(&random, i % 2 ? 9 : 1u << 26);
        const struct att_region region = {.log_tiles = tiles, .log_inverse = UINT64_MAX / tiles};
        const uint64_t turns = (random_u64(&random) >> (4 + i % 50)) / tiles * tiles;
        for (uint64_t tile = turns > 0 ? turns - 1 : 0; tile < turns + 2; tile++)
            assert_int_equal(att_log_tile(&region, tile * ATT_TILE_LANES + 5), tile % tiles);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_error_of_exp_stays_below_what_the_bounds_assume),
        cmocka_unit_test(every_instruction_set_and_shape_gives_the_same_bits),
        cmocka_unit_test(a_masked_entry_weighs_nothing_under_any_shift),
        cmocka_unit_test(a_value_scale_brings_values_to_where_float32_has_room),
        cmocka_unit_test(a_position_of_the_log_lies_in_the_tile_that_division_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
