/* One row against a stretch of the log: a query. Compiled once for each kernel. */
#include <assert.h>
#include <float.h>

#include "kernel_row.h"

#if !defined(WIDE)
#include "lanes_rows.h"
#endif
/* With AVX-512 some of the work is better done in registers of the other width. */
#if defined(WIDE)
KERNEL_FUNCTIONS(avx512_256)
#elif defined(HALVES)
KERNEL_FUNCTIONS(avx512)
#endif

/* Of more keys than the L1 cache can hold it holds those that were met last, and a query that begins with the first meets none of
 * them. So whoever makes many queries sets `back` for every second one. The order of the sums is always the same. */
enum { KEPT = 32 << 10 }; /* bytes of keys that it holds, or nearly, beside what else a query reads */

static inline bool are_kept(const struct att_weights *work)
{
    return (size_t)work->tiles * work->d * ATT_LANES * sizeof(float) <= KEPT;
}

#if !defined(WIDE)
LANES_INLINE bool any_seen(const float *bias)
{
    bool any = false;

    for (size_t lane = 0; lane < 8; lane++)
        any |= bias[lane] > -INFINITY;
    return any;
}

/* One tile, of rows; it is seldom full, so the half that has no entries is left out. */
LANES_INLINE void weigh_rows(const struct att_weights *work, enum att_precision precision, struct weighing *weighing)
{
    const bool single = precision == ATT_SINGLE;
    double t[ATT_LANES];
    float t32[ATT_LANES];

    f64_store(t, start_f64(work->bias));
    f32_store(t32, start_f32(work->bias));
    for (size_t half = 0; half < ATT_LANES; half += 8)
        if (!any_seen(work->bias + half))
            continue;
        else if (single)
            score_rows_f32(work->key_rows + half, work->q, work->d, t32 + half);
        else
            score_rows_f64(work->key_rows + half, work->q, work->d, t + half);
    if (single)
        f32_store(work->weights, weigh_single(f32_load(t32), weighing));
    else
        f64_store(work->weights, weigh(precision, f64_load(t), weighing));
}

#endif

LANES_INLINE void weigh_row(const struct att_weights *work, const float *values, size_t columns,
                            enum att_precision precision)
{
    struct weighing weighing = start_weighing(work->shift[0]);
    uint32_t tile = 0;

    /* The values of a column lie far apart: the processor does not foresee them. */
    for (uint32_t c = 0; c < work->tiles; c++)
        __builtin_prefetch(values + (size_t)c * columns * ATT_LANES);
#if !defined(WIDE)
    if (work->key_rows)
        weigh_rows(work, precision, &weighing);
    tile = work->key_rows ? 1 : 0;
#endif
    /* Otherwise keys are multiplied more slowly than they come. */
    weigh_from(work, tile, precision, precision == ATT_SINGLE && work->back && !are_kept(work), &weighing);
}

/* What weights add up to. */
struct totals {
    f64x8 value, head[4], magnitude[2];
};

LANES_INLINE void start_totals(struct totals *totals)
{
    totals->value = f64x8_set(0.0);
    totals->magnitude[0] = totals->magnitude[1] = f64x8_set(0.0);
#pragma GCC unroll 4
    for (int x = 0; x < 4; x++)
        totals->head[x] = f64x8_set(0.0);
}

/* Adds a tile, of weights without signs, and gives them their signs. */
LANES_INLINE void add_tile(double *sizes, const float *heads, const float *values, struct totals *totals)
{
#pragma GCC unroll 2
    for (size_t half = 0; half < ATT_LANES; half += 8) {
        const float *head = heads + half;
        const f64x8 size = f64x8_load(sizes + half);
        const f64x8 v = f64x8_widen(head), g = f64x8_widen(head + ATT_LANES), both = f64x8_mul(v, g);
        const f64x8 weight = f64x8_signed(size, v);
        f64x8_store(sizes + half, weight);
        totals->value = f64x8_fma(weight, f64x8_widen(values + half), totals->value);
        totals->head[0] = f64x8_add(totals->head[0], weight);
        totals->magnitude[0] = f64x8_add(totals->magnitude[0], size);
        totals->head[1] = f64x8_fma(size, v, totals->head[1]);
        totals->magnitude[1] = f64x8_fma(weight, v, totals->magnitude[1]);
        totals->head[2] = f64x8_fma(size, g, totals->head[2]);
        totals->head[3] = f64x8_fma(weight, both, totals->head[3]);
    }
}

LANES_INLINE void finish_totals(const struct totals *totals, struct att_read_sums *ret)
{
    ret->value = f64x8_sum(totals->value);
    f64x8_sum4(totals->head, ret->head);
    ret->magnitude[0] = f64x8_sum(totals->magnitude[0]);
    ret->magnitude[1] = f64x8_sum(totals->magnitude[1]);
}

LANES_INLINE void read_tiles(const struct att_weights *work, const float *heads, const float *values, size_t columns,
                             enum att_precision precision, struct att_read_sums *ret)
{
    struct totals totals;

    weigh_row(work, values, columns, precision);
    /* In a pass of its own: its sums take twenty registers. */
    start_totals(&totals);
    for (uint32_t tile = 0; tile < work->tiles; tile++) {
        add_tile((double *)work->weights + (size_t)tile * ATT_LANES, heads + (size_t)tile * 2 * ATT_LANES,
                 values + tile * columns * ATT_LANES, &totals);
    }
    finish_totals(&totals, ret);
}

/* In single. What has a factor |v| is multiplied with value_scale. */
struct single_totals {
    f32x16 value, head[4], magnitude[2];
};

LANES_INLINE void start_single(struct single_totals *totals)
{
    totals->value = f32_set(0.0f);
    totals->magnitude[0] = totals->magnitude[1] = f32_set(0.0f);
#pragma GCC unroll 4
    for (int x = 0; x < 4; x++)
        totals->head[x] = f32_set(0.0f);
}

/* |v| of no weight counts as 0: the service may be writing it, and it may be too large for the scale. */
LANES_INLINE void add_single_tile(f32x16 size, f32x16 scale, const float *heads, const float *values, float *weights,
                                  struct single_totals *totals)
{
    const f32x16 whole = f32_load(heads), v = f32_fma_from(size, FLT_MIN, whole, scale, f32_set(0.0f));
    const f32x16 g = f32_load(heads + ATT_LANES), both = f32_mul(v, g), weight = f32_signed(size, whole);

    f32_store(weights, weight);
    totals->value = f32_fma(weight, f32_mul(f32_load(values), scale), totals->value);
    totals->head[0] = f32_add(totals->head[0], weight);
    totals->magnitude[0] = f32_add(totals->magnitude[0], size);
    totals->head[1] = f32_fma(size, v, totals->head[1]);
    totals->magnitude[1] = f32_fma(weight, v, totals->magnitude[1]);
    totals->head[2] = f32_fma(size, g, totals->head[2]);
    totals->head[3] = f32_fma(weight, both, totals->head[3]);
}

/* Into float64, at the end of a chain; and begins the next. */
LANES_INLINE void flush_single(struct single_totals *totals, float value_scale, struct att_read_sums *ret)
{
    const double factor = 1.0 / (double)value_scale;
    const f32x16 others[4] = {totals->magnitude[0], totals->magnitude[1], totals->value, f32_set(0.0f)};
    double head[4], other[4];

    f32_sum4(totals->head, head);
    f32_sum4(others, other);
    ret->magnitude[0] += other[0];
    ret->magnitude[1] += other[1] * factor;
    ret->value += other[2] * factor;
#pragma GCC unroll 4
    for (int x = 0; x < 4; x++)
        ret->head[x] += head[x] * (x % 2 ? factor : 1.0);
    start_single(totals);
}

#if defined(WIDE)
/* In single, keys come from the L2 cache at half the speed at which they can be multiplied. So while the scores of a group of
 * tiles are computed, those of the group before become weights and sums: a tile after each SEGMENT columns. Zen 5 gains a
 * fifth from being told AHEAD lines before; Zen 4 loses up to a tenth, and by count Emerald Rapids would. */
enum { GROUP = 4, SEGMENT = 16, AHEAD = 10 };

struct read_single {
    const float *heads, *values; /* of the tile that is settled next */
    float *weights;              /* its; until then its scores */
    size_t value_stride;         /* from those of a tile to the next's */
    uint32_t settled, waiting;   /* tiles that are; and that are to be, while the next are scored */
    float value_scale;
    struct weighing weighing;
    struct single_totals totals;
};

LANES_INLINE void settle_tile(struct read_single *read)
{
    add_single_tile(weigh_single(f32_load(read->weights), &read->weighing), f32_set(read->value_scale), read->heads,
                    read->values, read->weights, &read->totals);
    read->heads += 2 * ATT_LANES;
    read->values += read->value_stride;
    read->weights += ATT_LANES;
    read->settled++;
}

/* Adds a column to one chain of each of `tiles` keys. */
LANES_INLINE void score_column(f32x16 q, const float *const keys[GROUP], bool fetch, size_t column, uint32_t tiles,
                               f32x16 *sum)
{
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++) {
        if (fetch)
            __builtin_prefetch(keys[c] + (column + AHEAD) * ATT_LANES);
        sum[c] = f32_fma(q, f32_load(keys[c] + column * ATT_LANES), sum[c]);
    }
}

/* The scores of `tiles` tiles from `first` on, while those that wait are settled; tiles and fetch are constants after
 * inlining. */
LANES_INLINE void score_group(const struct att_weights *work, struct read_single *read, bool fetch, uint32_t first,
                              uint32_t tiles)
{
    float *scores = (float *)work->weights + (size_t)first * ATT_LANES;
    const float *q = work->q,
                *keys[GROUP]; /* pointers that move: gcc computes an address for each multiplication otherwise */
    f32x16 sum[CHAINS * GROUP];
    size_t left = work->d;

#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++) {
        keys[c] = (const float *)work->keys + (size_t)(first + c) * work->d * ATT_LANES;
        sum[c] = start_f32(work->bias + (size_t)(first + c) * ATT_LANES);
        sum[tiles + c] = f32_set(0.0f);
    }
    for (; left >= SEGMENT; left -= SEGMENT) {
#pragma GCC unroll 4
        for (uint32_t p = 0; p < SEGMENT; p += 4) {
            const f32x16 four = f32_load_four(q + p);
#pragma GCC unroll 4
            for (uint32_t k = 0; k < 4; k++)
                score_column(f32_spread(four, k), keys, fetch, p + k, tiles, sum + k % CHAINS * tiles);
        }
#pragma GCC unroll 4
        for (uint32_t c = 0; c < tiles; c++)
            keys[c] += (size_t)SEGMENT * ATT_LANES;
        q += SEGMENT;
        if (read->waiting > 0) {
            settle_tile(read);
            read->waiting--;
        }
    }
    for (size_t p = 0; p < left; p += CHAINS)
#pragma GCC unroll 2
        for (size_t chain = 0; chain < CHAINS; chain++)
            if (p + chain < left)
                score_column(f32_set(q[p + chain]), keys, false, p + chain, tiles, sum + chain * tiles);
    for (; read->waiting > 0; read->waiting--)
        settle_tile(read);
#pragma GCC unroll 4
    for (uint32_t c = 0; c < tiles; c++)
        f32_store(scores + (size_t)c * ATT_LANES, f32_add(sum[c], sum[tiles + c]));
}

/* Whether a chain has all the tiles that it may have. */
LANES_INLINE bool is_full(const struct read_single *read)
{
    return read->settled > 0 && read->settled % ATT_READ_CHAIN == 0;
}

static_assert(ATT_READ_CHAIN % GROUP == 0, "chains end where groups do");

/* Which tiles are scored before the others, from the last of them to the first; they begin and end where groups do. */
struct early {
    uint32_t from, to;
};

/* Going back, it begins with the last KEPT bytes; those are then not what it met last, so the next one begins with as many before
 * them. None where four tiles are more than that (d > 128). */
LANES_INLINE struct early choose_early(const struct att_weights *work)
{
    uint32_t kept, end, middle;

    if (are_kept(work))
        return (struct early){0, 0};
    kept = KEPT / (work->d * ATT_LANES * (uint32_t)sizeof(float)) / GROUP * GROUP;
    end = work->tiles / GROUP * GROUP;
    middle = end > kept ? end - kept : 0;
    return work->back ? (struct early){middle, end} : (struct early){middle > kept ? middle - kept : 0, middle};
}

LANES_INLINE void read_groups(const struct att_weights *work, const float *heads, const float *values, size_t columns,
                              bool fetch, struct att_read_sums *ret)
{
    const struct early early = choose_early(work);
    struct read_single read;
    uint32_t scored = early.from == 0 ? early.to : 0; /* this tile is not, and all before it are */

    read.heads = heads;
    read.values = values;
    read.weights = work->weights;
    read.value_stride = columns * ATT_LANES;
    read.settled = read.waiting = 0;
    read.weighing = start_weighing(work->shift[0]);
    read.value_scale = work->value_scale;
    start_single(&read.totals);
    for (uint32_t tile = early.to; tile > early.from; tile -= GROUP)
        score_group(work, &read, fetch, tile - GROUP, GROUP);
    while (scored < work->tiles) {
        const uint32_t left = work->tiles - scored, some = left >= GROUP ? GROUP : left >= 2 ? 2 : 1;
        read.waiting = scored - read.settled < GROUP ? scored - read.settled : GROUP;
        if (read.waiting > 0 && is_full(&read))
            flush_single(&read.totals, work->value_scale, ret);
        if (some == GROUP)
            score_group(work, &read, fetch, scored, GROUP);
        else if (some == 2)
            score_group(work, &read, fetch, scored, 2);
        else
            score_group(work, &read, fetch, scored, 1);
        scored += some;
        scored = scored == early.from ? early.to : scored;
    }
    while (read.settled < work->tiles) {
        if (is_full(&read))
            flush_single(&read.totals, work->value_scale, ret);
        settle_tile(&read);
    }
    work->largest[0] = finish_weighing(ATT_SINGLE, &read.weighing);
    flush_single(&read.totals, work->value_scale, ret);
}

static __attribute__((noinline)) void read_fetched(const struct att_weights *work, const float *heads,
                                                   const float *values, size_t columns, struct att_read_sums *ret)
{
    read_groups(work, heads, values, columns, true, ret);
}

static void read_single(const struct att_weights *work, const float *heads, const float *values, size_t columns,
                        struct att_read_sums *ret)
{
    if (__builtin_cpu_is("amd") && !__builtin_cpu_is("amdfam19h"))
        read_fetched(work, heads, values, columns, ret);
    else
        read_groups(work, heads, values, columns, false, ret);
}
#else
static void read_single(const struct att_weights *work, const float *heads, const float *values, size_t columns,
                        struct att_read_sums *ret)
{
    struct single_totals totals;

    weigh_row(work, values, columns, ATT_SINGLE);
    start_single(&totals);
    for (uint32_t tile = 0; tile < work->tiles; tile++) {
        float *weights = (float *)work->weights + (size_t)tile * ATT_LANES;
        if (tile > 0 && tile % ATT_READ_CHAIN == 0)
            flush_single(&totals, work->value_scale, ret);
        add_single_tile(f32_load(weights), f32_set(work->value_scale), heads + (size_t)tile * 2 * ATT_LANES,
                        values + tile * columns * ATT_LANES, weights, &totals);
    }
    flush_single(&totals, work->value_scale, ret);
}
#endif

void KERNEL_JOIN(read_, KERNEL_ISA)(const struct att_weights *work, const float *heads, const float *values,
                                    uint32_t columns, struct att_read_sums *ret)
{
#if defined(WIDE)
    /* A tile that comes as rows is lone, and its rows are multiplied in 256-bit registers (lanes_rows.h). */
    if (work->key_rows) {
        att_kernel_read_avx512_256(work, heads, values, columns, ret);
        return;
    }
#elif defined(HALVES)
    /* In single nothing is widened. */
    if (work->precision == ATT_SINGLE && !work->key_rows) {
        att_kernel_read_avx512(work, heads, values, columns, ret);
        return;
    }
#endif
    *ret = (struct att_read_sums){0};
    if (work->precision == ATT_SINGLE)
        read_single(work, heads, values, columns, ret);
    else if (work->precision == ATT_MIXED)
        read_tiles(work, heads, values, columns, ATT_MIXED, ret);
    else
        read_tiles(work, heads, values, columns, ATT_DOUBLE, ret);
}
