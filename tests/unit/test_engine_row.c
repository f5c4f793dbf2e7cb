/* The accounts of a row's errors, against sums whose rounding errors all go the same way: half the account is too little. */
#include <math.h>

#include "harness.h"
#include "kernel.h"
#include "stretch.h"

static const double largest[ATT_HEAD_COLUMNS] = {1, 1, 1, 1};

static struct att_numerics numerics_of(enum att_precision precision)
{
    return att_numerics(precision, 64, 1000, 0);
}

/* Adds `weight` to a sum of 1, n times, each time losing all of it. */
static void the_account_covers_additions_that_all_lose_the_same(void **state)
{
    (void)state;
    enum { TIMES = 1000 };
    const double weight = 0x1p-53 * (1 - 0x1p-20); /* just below half an ulp of 1 */
    volatile double sum = 1;
    const struct att_numerics numerics = numerics_of(ATT_MIXED);
    struct att_row row = {.tokens = 1};
    for (int n = 0; n < TIMES; n++) {
        const double before[ATT_HEAD_COLUMNS] = {sum, sum, sum, sum};
        const double magnitudes[ATT_HEAD_COLUMNS] = {weight, weight, weight, weight};
        att_row_account(&row, before, magnitudes, 1, largest, &numerics, 0, 0, 1.0);
        sum = sum + weight;
    }
    assert_true(sum == 1);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++) {
        assert_true(row.error[c] >= TIMES * weight);
        assert_true(row.error[c] <= 1.01 * TIMES * weight); /* and is no more than it must be */
    }
}

/* A block of entries that is summed from 1 up, each addition inside it losing half an ulp. */
static void the_account_covers_the_sum_inside_a_block(void **state)
{
    (void)state;
    enum { ENTRIES = 512 };
    const double weight = 0x1p-53 * (1 - 0x1p-20);
    volatile double sum = 1;
    double magnitude = 1;
    const struct att_numerics numerics = numerics_of(ATT_MIXED);
    struct att_row row = {.tokens = 1};
    for (int n = 1; n < ENTRIES; n++)
        sum = sum + weight;
    magnitude += (ENTRIES - 1) * weight;
    const double before[ATT_HEAD_COLUMNS] = {0};
    const double magnitudes[ATT_HEAD_COLUMNS] = {magnitude, magnitude, magnitude, magnitude};
    att_row_account(&row, before, magnitudes, ENTRIES, largest, &numerics, 0, 0, 1.0);
    assert_true(sum == 1);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        assert_true(row.error[c] >= (ENTRIES - 1) * weight);
}

/* A float32 chain from 1 up, each addition losing half an ulp; then chains that it loses, one after the other. */
static void the_account_covers_float32_chains(void **state)
{
    (void)state;
    const struct att_numerics numerics = numerics_of(ATT_SINGLE);
    const double weight = 0x1p-24 * (1 - 0x1p-10);
    const double nothing[ATT_HEAD_COLUMNS] = {0};
    const int lost = ATT_CHAIN - 1 + ATT_BLOCK / ATT_CHAIN - 1;
    volatile float sum = 1;
    struct att_row row = {.tokens = 1}, heads = {.tokens = 1}, block = {.tokens = 1};
    for (int n = 1; n < ATT_CHAIN; n++)
        sum = sum + (float)weight;
    assert_true(sum == 1);
    const double magnitude = 1 + (ATT_CHAIN - 1) * weight;
    const double magnitudes[ATT_HEAD_COLUMNS] = {magnitude, magnitude, magnitude, magnitude};
    att_row_account(&row, nothing, magnitudes, ATT_CHAIN, largest, &numerics, 0, ATT_CHAIN, 1.0);
    assert_true(row.error[1] >= (ATT_CHAIN - 1) * weight && row.error[1] <= 1.1 * ATT_CHAIN * weight);
    assert_true(row.error[0] <= 1e-12);
    att_row_account(&heads, nothing, magnitudes, ATT_CHAIN, largest, &numerics, ATT_CHAIN, ATT_CHAIN, 1.0);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        assert_true(heads.error[c] >= (ATT_CHAIN - 1) * weight);
    for (int n = 1; n < ATT_BLOCK / ATT_CHAIN; n++)
        sum = sum + (float)weight;
    assert_true(sum == 1);
    att_row_account(&block, nothing, magnitudes, ATT_BLOCK, largest, &numerics, 0, att_chain_roundings(ATT_BLOCK), 1.0);
    assert_true(block.error[1] >= lost * weight && block.error[1] <= 1.1 * lost * weight);
    assert_int_equal(att_chain_roundings(ATT_CHAIN), ATT_CHAIN);
    assert_int_equal(att_chain_roundings(ATT_CHAIN + 1), ATT_CHAIN + 1);
}

/* Half of the least float for each product with a weight, and for each weight as much of a head column itself, in the unit in which
 * |v| is held; of |v| it is lost before g multiplies it. And C has no fewer roundings than D. */
static void the_account_covers_what_underflows_in_float32(void **state)
{
    (void)state;
    const struct att_numerics numerics = numerics_of(ATT_SINGLE);
    const double nothing[ATT_HEAD_COLUMNS] = {0}, heavy[ATT_HEAD_COLUMNS] = {1e6}, least = 0x1p-150, unit = 0x1p70;
    const double one[ATT_HEAD_COLUMNS] = {1, 1, 1, 1}, g[ATT_HEAD_COLUMNS] = {0, 0, 6e4, 0};
    struct att_row entries = {.tokens = 1}, weights = {.tokens = 1}, heads = {.tokens = 1};
    att_row_account(&entries, nothing, nothing, 100, nothing, &numerics, 18, 39, unit);
    assert_true(entries.error[2] >= 100 * least && entries.error[3] >= 100 * least * unit);
    att_row_account(&weights, nothing, heavy, 1, g, &numerics, 18, 39, unit);
    assert_true(weights.error[2] >= 1e6 * least && weights.error[3] >= 1e6 * least * unit * 6e4);
    att_row_account(&heads, nothing, one, 16, largest, &numerics, 3, 1, 1.0);
    assert_true(heads.error[1] >= 3 * 0x1p-24 && heads.error[1] >= heads.error[0]);
}

static void a_raise_scales_sums_and_errors_exactly(void **state)
{
    (void)state;
    enum { COLUMNS = 6 };
    struct att_row row = {.tokens = 3, .shift = 10, .error = {1e-9, 2e-9, 3e-9, 4e-9}};
    double sums[COLUMNS] = {3, 5, 7, 11, -13, 1.0 / 3};
    att_row_raise(&row, sums, COLUMNS, 610);
    const double expected[COLUMNS] = {3, 5, 7, 11, -13, 1.0 / 3};
    for (int c = 0; c < COLUMNS; c++)
        assert_true(sums[c] == expected[c] * 0x1p-600);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        assert_true(row.error[c] >= (c + 1) * 0.999e-9 * 0x1p-600 && row.error[c] <= (c + 1) * 1.001e-9 * 0x1p-600);
    assert_true(row.shift == 610);
    att_row_raise(&row, sums, COLUMNS, 4000); /* so far that nothing is left, but what counts as nothing */
    for (int c = 0; c < COLUMNS; c++)
        assert_true(fabs(sums[c]) == 0);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        assert_true(row.error[c] > 0);
}

/* Sums may be as large as 2^500, so that a power of two too small for float64 leaves something of them. */
static void a_raise_by_more_than_the_least_power_of_two_keeps_what_is_left(void **state)
{
    (void)state;
    struct att_row row = {.tokens = 1, .shift = -300, .error = {0x1p400, 0, 0, 0}};
    double sums[ATT_HEAD_COLUMNS] = {0x1.8p500, -0x1p450, 0, 1};
    att_row_raise(&row, sums, ATT_HEAD_COLUMNS, 900);
    assert_true(sums[0] == 0x1.8p-700 && sums[1] == -0x1p-750 && sums[3] == 0);
    assert_true(row.error[0] >= 0x1p-800 && row.error[0] < 1.001 * 0x1p-800);
}

/* An entry is added under one shift, and taken away under another under which its weight counts as 0: what stays of it. */
static void what_a_raise_leaves_behind_is_accounted_for_when_its_entry_leaves(void **state)
{
    (void)state;
    for (enum att_precision precision = ATT_SINGLE; precision <= ATT_DOUBLE; precision++) {
        const struct att_numerics numerics = numerics_of(precision);
        const double weight = numerics.flushed / 2 * (1 - 0x1p-20), by = numerics.headroom + 1;
        const double nothing[ATT_HEAD_COLUMNS] = {0};
        double sums[ATT_HEAD_COLUMNS] = {weight, weight, weight, weight};
        struct att_row row = {.tokens = 1};
        for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
            sums[c] = ldexp(sums[c], (int)by);
        att_row_raise(&row, sums, ATT_HEAD_COLUMNS, by);
        att_row_account(&row, sums, nothing, 1, largest, &numerics, 0, 1, 1.0);
        for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
            assert_true(sums[c] == weight && row.error[c] >= weight);
    }
}

static void a_denominator_that_may_be_rounding_alone_gives_no_answer(void **state)
{
    (void)state;
    struct att_row row = {.tokens = 2, .error = {1e-3, 1e-18, 1e-18, 1e-18}};
    const double sums[ATT_HEAD_COLUMNS] = {1.9e-3, 1, 1, 1};
    assert_int_equal(att_row_check(&row, sums, 1e300), ATT_AGAIN);
    row.error[0] = 0.9e-3;
    assert_int_equal(att_row_check(&row, sums, 1e300), ATT_OK);
    row.tokens = 0;
    assert_int_equal(att_row_check(&row, sums, 1e300), ATT_EMPTY);
}

/* Computes a row over so many tokens, all the weight in the first block, and merges one block more into it: within half the
 * budget. */
static enum att_status check_fresh(enum att_precision precision, uint32_t tokens, double budget)
{
    const struct att_numerics numerics = att_numerics(precision, 64, tokens, budget);
    const double nothing[ATT_HEAD_COLUMNS] = {0}, all[ATT_HEAD_COLUMNS] = {1, 1, 1, 1};
    struct att_row row = {.tokens = tokens};
    const uint32_t heads = att_head_roundings(ATT_BLOCK_TILES), values = att_chain_roundings(ATT_BLOCK);
    att_row_account(&row, nothing, all, ATT_BLOCK, largest, &numerics, heads, values, 1.0);
    for (uint32_t done = ATT_BLOCK; done < tokens + ATT_BLOCK; done += ATT_BLOCK)
        att_row_account(&row, all, nothing, ATT_BLOCK, largest, &numerics, heads, values, 1.0);
    return att_row_check(&row, all, 0.501 * numerics.budget);
}

static void a_row_just_computed_is_within_the_budget(void **state)
{
    (void)state;
    for (enum att_precision precision = ATT_SINGLE; precision <= ATT_DOUBLE; precision++)
        for (uint64_t tokens = 1000; tokens <= 1000000000; tokens *= 100) {
            assert_int_equal(check_fresh(precision, (uint32_t)tokens, 0), ATT_OK);
            assert_int_equal(check_fresh(precision, (uint32_t)tokens, 1e-15), ATT_OK);
        }
    assert_true(att_numerics(ATT_DOUBLE, 64, 1000000, 0).budget == 1e-11);
    assert_true(att_numerics(ATT_MIXED, 64, INT32_MAX, 0).budget == 5e-7);
    assert_true(att_numerics(ATT_DOUBLE, 64, 1000000, 1e-9).budget == 1e-9);
}

/* D is off by all of E0 one way, C by all of E1 the other way. */
static void the_bound_of_an_answer_covers_its_error_sums(void **state)
{
    (void)state;
    const struct att_numerics numerics = {0};
    const struct att_row row = {.tokens = 5, .error = {0.25, 0.5, 0, 0}};
    const double sums[ATT_HEAD_COLUMNS] = {2, 8, 1, 1}, numerators[] = {1, -6, 4};
    double values[3], bound;
    att_row_answer(&row, sums, numerators, 3, &numerics, values, &bound);
    assert_true(values[0] == 0.5 && values[1] == -3 && values[2] == 2);
    assert_true(bound >= (6 + 0.5) / (2 - 0.25) - 3); /* the largest value's */
    assert_true(bound <= 1.01 * ((6 + 0.5) / (2 - 0.25) - 3));
}

/* Weights that are all too large for one sign of their values and too small for the other, by as much as exp may be wrong,
 * or by what the scores may be: |s||q| g, or g where the row of Q is shorter than 1. */
static void the_bound_of_an_answer_covers_wrong_weights(void **state)
{
    (void)state;
    const double sums[ATT_HEAD_COLUMNS] = {2, 8, 6, 24},
                 numerators[] = {-6}; /* so values of 4 and -4, and all g are 3 */
    const double up = 1, down = 7;    /* what C is made of: 1 - 7 */
    const double wrong = 0x1p-12;
    for (int how = 0; how < 3; how++) {
        const struct att_numerics numerics = {.epsilon = how == 0 ? wrong : 0, .kappa = how == 0 ? 0 : wrong / 6};
        const struct att_row row = {.tokens = 5, .q_norm = how == 1 ? 2 : 0.25};
        const double by = how == 2 ? wrong / 2 : wrong;
        double value, bound;
        att_row_answer(&row, sums, numerators, 1, &numerics, &value, &bound);
        const double worst = (up * (1 - by) - down * (1 + by)) / (up / 4 * (1 - by) + down / 4 * (1 + by));
        assert_true(value == -3 && bound >= fabs(worst - value));
        /* Values that lie elsewhere in their columns can do all of it. */
        assert_true(bound >= (8 + 3 * 2) / 2 * by && bound <= 1.2 * (8 + 3 * 2) / 2 * by);
    }
}

/* The last roundings: of a division and of what is made of it. */
static void the_bound_of_an_answer_covers_its_own_roundings(void **state)
{
    (void)state;
    const struct att_numerics numerics = {0};
    const struct att_row row = {.tokens = 1};
    const double sums[ATT_HEAD_COLUMNS] = {3, 1, 1, 1}, numerators[] = {1};
    double value, bound;
    att_row_answer(&row, sums, numerators, 1, &numerics, &value, &bound);
    assert_true(bound >= ATT_UNIT * value);
}

/* The largest value may be any of them, of either sign. */
static void the_bound_of_a_row_is_that_of_its_largest_value(void **state)
{
    (void)state;
    enum { MOST = 29 };
    const struct att_numerics numerics = numerics_of(ATT_MIXED);
    const struct att_row row = {.tokens = 1, .error = {1e-9, 1e-9, 1e-9, 1e-9}};
    const double sums[ATT_HEAD_COLUMNS] = {2, 3, 3, 3};
    for (uint32_t count = 1; count <= MOST; count++)
        for (uint32_t at = 0; at < count; at++) {
            double numerators[MOST], values[MOST], value, bound, alone;
            for (uint32_t j = 0; j < count; j++)
                numerators[j] = j % 2 ? 1 + j * 0.01 : -1 - j * 0.01;
            numerators[at] *= 2;
            att_row_answer(&row, sums, numerators, count, &numerics, values, &bound);
            att_row_answer(&row, sums, &numerators[at], 1, &numerics, &value, &alone);
            assert_true(bound == alone);
            for (uint32_t j = 0; j < count; j++)
                assert_true(values[j] == numerators[j] / 2);
        }
}

/* Floats that are no less than what they stand for. */
static void head_columns_are_rounded_up(void **state)
{
    (void)state;
    struct test_random random;
    random_init(&random, 42);
    for (int n = 0; n < 10000; n++) {
        const float norm_largest[2] = {fabsf((float)random_normal(&random)), fabsf((float)random_normal(&random))};
        const float bias = n % 10 == 0 ? -INFINITY : (float)random_normal(&random);
        const double g = (double)norm_largest[0] + (n % 10 == 0 ? 0 : fabs((double)bias));
        float head[ATT_HEAD_KEPT];
        att_head(norm_largest, bias, head);
        assert_true(head[0] == norm_largest[1]);
        assert_true((double)head[1] >= g && (double)head[1] <= 1.000001 * g);
        assert_true((double)(head[0] * head[1]) >= (double)head[0] * g);
    }
    const float least[2] = {0x1p-149f, 0x1p-149f};
    float head[ATT_HEAD_KEPT];
    att_head(least, 0, head);
    assert_true(head[0] > 0 && (double)head[1] >= 1.5 * 0x1p-149); /* a norm that was rounded down to the least float */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_account_covers_additions_that_all_lose_the_same),
        cmocka_unit_test(the_account_covers_the_sum_inside_a_block),
        cmocka_unit_test(the_account_covers_float32_chains),
        cmocka_unit_test(the_account_covers_what_underflows_in_float32),
        cmocka_unit_test(a_raise_scales_sums_and_errors_exactly),
        cmocka_unit_test(a_raise_by_more_than_the_least_power_of_two_keeps_what_is_left),
        cmocka_unit_test(what_a_raise_leaves_behind_is_accounted_for_when_its_entry_leaves),
        cmocka_unit_test(a_denominator_that_may_be_rounding_alone_gives_no_answer),
        cmocka_unit_test(a_row_just_computed_is_within_the_budget),
        cmocka_unit_test(the_bound_of_an_answer_covers_its_error_sums),
        cmocka_unit_test(the_bound_of_an_answer_covers_wrong_weights),
        cmocka_unit_test(the_bound_of_an_answer_covers_its_own_roundings),
        cmocka_unit_test(the_bound_of_a_row_is_that_of_its_largest_value),
        cmocka_unit_test(head_columns_are_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
