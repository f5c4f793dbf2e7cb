/* The largest of numbers that come and go, against looking at all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those first */
#include <cmocka.h>

#include "peak.h"
#include "random.h"

enum { COUNT = 5 * ATT_PEAK_BLOCK };

static double numbers[COUNT];
static uint32_t looked;

static double number_at(const void *context, uint32_t place)
{
    assert_ptr_equal(context, numbers);
    assert_true(place < COUNT);
    looked++;
    return numbers[place];
}

static void put(struct att_peak *peak, uint32_t place, double x)
{
    att_peak_goes(peak, place, numbers[place]);
    numbers[place] = x;
    att_peak_comes(peak, place, x);
}

static double largest(uint32_t count)
{
    double most = 0.0;

    for (uint32_t place = 0; place < count; place++)
        most = numbers[place] > most ? numbers[place] : most;
    return most;
}

static void it_is_never_below_the_largest_and_exact_when_looked_for(void **state)
{
    static const uint32_t counts[] = {1, ATT_PEAK_BLOCK - 1, ATT_PEAK_BLOCK, ATT_PEAK_BLOCK + 1, COUNT};
    struct test_random random;
    (void)state;
    random_seed(&random, 20261130, "numbers that come and go");
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        struct att_peak peak;
        for (uint32_t place = 0; place < COUNT; place++)
            numbers[place] = 0.0;
        assert_true(att_peak_init(&peak, counts[c]));
        for (uint32_t n = 0; n < test_times(4000); n++) {
            /* Few values, so that the largest is often there twice, and few places, so that it often goes. */
            const uint32_t place = random_below(&random, 40) * counts[c] / 40;
            put(&peak, place, random_one_in(&random, 3) ? 0.0 : 1.0 + random_below(&random, 9));
            if (n % 7 == 0)
                assert_true(peak.all >= largest(counts[c]));
            if (random_one_in(&random, 5)) {
                att_peak_find(&peak, number_at, numbers);
                assert_true(peak.all == largest(counts[c]));
            }
        }
        att_peak_release(&peak);
    }
}

static void only_blocks_whose_largest_has_gone_are_looked_at(void **state)
{
    struct att_peak peak;
    (void)state;
    assert_true(att_peak_init(&peak, COUNT));
    for (uint32_t place = 0; place < COUNT; place++)
        numbers[place] = 0.0;
    for (uint32_t place = 0; place < COUNT; place++)
        put(&peak, place, 1.0 + place % 100);
    looked = 0;
    att_peak_find(&peak, number_at, numbers);
    assert_int_equal(looked, 0);
    put(&peak, 3 * ATT_PEAK_BLOCK + 7, 1000.0);
    put(&peak, 5, 0.5);
    put(&peak, 3 * ATT_PEAK_BLOCK + 7, 1.0);
    att_peak_find(&peak, number_at, numbers);
    assert_true(peak.all == 100.0);
    assert_int_equal(looked, ATT_PEAK_BLOCK);
    att_peak_find(&peak, number_at, numbers);
    assert_int_equal(looked, ATT_PEAK_BLOCK);
    put(&peak, ATT_PEAK_BLOCK + 99 - ATT_PEAK_BLOCK % 100, 1.0); /* a 100 of the second block; there are others */
    att_peak_find(&peak, number_at, numbers);
    assert_int_equal(looked, 2 * ATT_PEAK_BLOCK);
    att_peak_release(&peak);
    att_peak_release(&peak); /* zeros */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_never_below_the_largest_and_exact_when_looked_for),
        cmocka_unit_test(only_blocks_whose_largest_has_gone_are_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
