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
        att_row_account(&row, before, magnitudes, 1, largest, &numerics, 0, 0);
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
    att_row_account(&row, before, magnitudes, ENTRIES, largest, &numerics, 0, 0);
    assert_true(sum == 1);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        assert_true(row.error[c] >= (ENTRIES - 1) * weight);
}

/* A float32 chain from 1 up, each addition losing half an ulp; and parts that a sum of 1 loses one after the other. */
static void the_account_covers_float32_chains(void **state)
{
    (void)state;
    const struct att_numerics numerics = numerics_of(ATT_SINGLE);
    const double weight = 0x1p-24 * (1 - 0x1p-10), part = 0x1p-53 * (1 - 0x1p-10);
    const double nothing[ATT_HEAD_COLUMNS] = {0}, one[ATT_HEAD_COLUMNS] = {1, 1, 1, 1};
    volatile float sum = 1;
    volatile double whole = 1;
    struct att_row row = {.tokens = 1}, heads = {.tokens = 1}, parts = {.tokens = 1};
    for (int n = 1; n < ATT_CHAIN; n++)
        sum = sum + (float)weight;
    assert_true(sum == 1);
    const double magnitude = 1 + (ATT_CHAIN - 1) * weight;
    const double magnitudes[ATT_HEAD_COLUMNS] = {magnitude, magnitude, magnitude, magnitude};
    att_row_account(&row, nothing, magnitudes, ATT_CHAIN, largest, &numerics, 0, ATT_CHAIN);
    assert_true(row.error[1] >= (ATT_CHAIN - 1) * weight && row.error[1] <= 1.1 * ATT_CHAIN * weight);
    assert_true(row.error[0] <= 1e-12);
    att_row_account(&heads, nothing, magnitudes, ATT_CHAIN, largest, &numerics, ATT_CHAIN, ATT_CHAIN);
    for (int c = 0; c < ATT_HEAD_COLUMNS; c++)
        assert_true(heads.error[c] >= (ATT_CHAIN - 1) * weight);
    for (int n = 0; n < ATT_BLOCK / ATT_CHAIN; n++)
        whole = whole + part;
    assert_true(whole == 1);
    att_row_account(&parts, one, nothing, 1, nothing, &numerics, 0, ATT_CHAIN);
    assert_true(parts.error[1] >= ATT_BLOCK / ATT_CHAIN * part);
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
        att_row_account(&row, sums, nothing, 1, largest, &numerics, 0, 1);
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

/* Computes a row over so many tokens, all the weight in the first block, and merges one block more into it. */
static enum att_status check_fresh(enum att_precision precision, uint32_t tokens, double budget)
{
    const struct att_numerics numerics = att_numerics(precision, 64, tokens, budget);
    const double nothing[ATT_HEAD_COLUMNS] = {0}, all[ATT_HEAD_COLUMNS] = {1, 1, 1, 1};
    struct att_row row = {.tokens = tokens};
    att_row_account(&row, nothing, all, ATT_BLOCK, largest, &numerics, 0, ATT_CHAIN);
    for (uint32_t done = ATT_BLOCK; done < tokens + ATT_BLOCK; done += ATT_BLOCK)
        att_row_account(&row, all, nothing, ATT_BLOCK, largest, &numerics, 0, ATT_CHAIN);
    return att_row_check(&row, all, numerics.budget);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_account_covers_additions_that_all_lose_the_same),
        cmocka_unit_test(the_account_covers_the_sum_inside_a_block),
        cmocka_unit_test(the_account_covers_float32_chains),
        cmocka_unit_test(a_raise_scales_sums_and_errors_exactly),
        cmocka_unit_test(a_raise_by_more_than_the_least_power_of_two_keeps_what_is_left),
        cmocka_unit_test(what_a_raise_leaves_behind_is_accounted_for_when_its_entry_leaves),
        cmocka_unit_test(a_denominator_that_may_be_rounding_alone_gives_no_answer),
        cmocka_unit_test(a_row_just_computed_is_within_the_budget),
        cmocka_unit_test(the_bound_of_an_answer_covers_its_error_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
