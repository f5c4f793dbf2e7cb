/* The tests' own tools: the oracle against sums done by hand, and checks that must fail when an answer is wrong. */
#include <math.h>
#include <string.h>

#include "harness.h"
#include "npyload.h"
#include "realdata.h"

static void the_oracle_agrees_with_sums_done_by_hand(void **state)
{
    (void)state;
    /* scores log 1, log 2, log 5: weights 1, 2, 5 */
    const float q[] = {1}, k[] = {0, 0, 0}, v[] = {10, 1, 20, 2, 30, 3};
    const float bias[] = {0, 0.6931471805599453f, 1.6094379124341003f};
    struct oracle_input input = {
        .n_q = 1, .n_k = 3, .d = 1, .d_v = 2, .q = q, .k = k, .v = v, .bias = bias, .scale = 1};
    long double values[2];
    assert_true(oracle_row(&input, 0, values));
    assert_true(fabsl(values[0] - (10 + 40 + 150) / 8.0L) < 1e-6L);
    assert_true(fabsl(values[1] - (1 + 4 + 15) / 8.0L) < 1e-7L);
    const uint8_t live[] = {1, 0, 1};
    input.live = live;
    assert_true(oracle_entry(&input, 0, 1, values));
    assert_true(fabsl(values[0] - (1 + 15) / 6.0L) < 1e-7L);
}

static void the_oracle_survives_scores_that_overflow_exp(void **state)
{
    (void)state;
    const float q[] = {1000}, k[] = {100, 100, -100}, v[] = {1, 2, 1e30f};
    const struct oracle_input input = {.n_q = 1, .n_k = 3, .d = 1, .d_v = 1, .q = q, .k = k, .v = v, .scale = 1};
    long double value = 0;
    double score, share;
    uint32_t top = 9;
    assert_true(oracle_entry(&input, 0, 0, &value));
    assert_true(value == 1.5L);
    assert_true(oracle_top(&input, 0, &top, &score, &share));
    assert_true(top == 0 && score == 1e5 && share == 0.5);
}

static void the_oracle_says_when_a_row_sees_nothing(void **state)
{
    (void)state;
    const float q[] = {1}, k[] = {1, 1}, v[] = {1, 1}, bias[] = {-INFINITY, 0};
    const uint8_t live[] = {1, 0};
    const struct oracle_input input = {
        .n_q = 1, .n_k = 2, .d = 1, .d_v = 1, .q = q, .k = k, .v = v, .bias = bias, .live = live, .scale = 1};
    long double value = 7;
    assert_false(oracle_row(&input, 0, &value));
    assert_true(value == 7);
}

static void the_oracle_agrees_with_the_expected_outputs_of_real_data(void **state)
{
    (void)state;
    struct real_data data;
    real_data_load(&data, real_data_directory());
    const struct oracle_input input = {.n_q = (uint32_t)data.q.rows,
                                       .n_k = (uint32_t)data.k.rows,
                                       .d = (uint32_t)data.k.columns,
                                       .d_v = (uint32_t)data.v.columns,
                                       .q = npy_floats(&data.q),
                                       .k = npy_floats(&data.k),
                                       .v = npy_floats(&data.v),
                                       .scale = npy_doubles(&data.scale)[0]};
    for (size_t pair = 0; pair < data.ij.rows; pair++) {
        long double value = 0;
        assert_true(oracle_entry(&input, (uint32_t)npy_integer(&data.ij, 2 * pair),
                                 (uint32_t)npy_integer(&data.ij, 2 * pair + 1), &value));
        assert_true(fabsl(value - npy_doubles(&data.ij_values)[pair]) < 1e-12L);
    }
    real_data_release(&data);
}

static void random_numbers_repeat_with_their_seed(void **state)
{
    (void)state;
    struct test_random a, b;
    double sum = 0, squares = 0;
    random_init(&a, 5);
    random_init(&b, 5);
    for (int i = 0; i < 100000; i++) {
        double x = random_normal(&a);
        assert_true(x == random_normal(&b));
        sum += x;
        squares += x * x;
        assert_true(random_below(&a, 7) < 7);
        random_below(&b, 7);
    }
    assert_true(fabs(sum / 1e5) < 0.02);
    assert_true(fabs(squares / 1e5 - 1) < 0.02);
}

/* Meant to fail: each is run on its own, and must. */
static void a_wrong_value(void **state)
{
    (void)state;
    harness_check(1.00001, 1, 1.0L, 1, harness_tolerance(ATT_MIXED), "meant to fail", 0, 0);
}

static void a_bound_below_the_error(void **state)
{
    (void)state;
    harness_check(1.0000001, 1e-8, 1.0L, 1, harness_tolerance(ATT_MIXED), "meant to fail", 0, 0);
}

static void a_useless_bound(void **state)
{
    (void)state;
    harness_check(1, 0.1, 1.0L, 1, harness_tolerance(ATT_MIXED), "meant to fail", 0, 0);
}

static void a_value_that_is_no_number(void **state)
{
    (void)state;
    harness_check((double)NAN, 1e-7, 1.0L, 1, harness_tolerance(ATT_MIXED), "meant to fail", 0, 0);
}

static void a_bound_that_is_no_number(void **state)
{
    (void)state;
    harness_check(1, (double)NAN, 1.0L, 1, harness_tolerance(ATT_MIXED), "meant to fail", 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oracle_agrees_with_sums_done_by_hand),
        cmocka_unit_test(the_oracle_survives_scores_that_overflow_exp),
        cmocka_unit_test(the_oracle_says_when_a_row_sees_nothing),
        cmocka_unit_test(the_oracle_agrees_with_the_expected_outputs_of_real_data),
        cmocka_unit_test(random_numbers_repeat_with_their_seed),
    };
    const struct CMUnitTest meant_to_fail[] = {
        cmocka_unit_test(a_wrong_value),
        cmocka_unit_test(a_bound_below_the_error),
        cmocka_unit_test(a_useless_bound),
        cmocka_unit_test(a_value_that_is_no_number),
        cmocka_unit_test(a_bound_that_is_no_number),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    int wanted = (int)(sizeof meant_to_fail / sizeof meant_to_fail[0]);
    print_message("the next %d are meant to fail:\n", wanted);
    int caught = cmocka_run_group_tests(meant_to_fail, NULL, NULL);
    print_message("%d of %d failed as they should\n", caught, wanted);
    return failed || caught != wanted;
}
