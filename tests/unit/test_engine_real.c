/* Real edits of a real workload, in every precision, against expected outputs and against the oracle. */
#include "harness.h"
#include "realdata.h"

static struct real_data data;

static void single_precision_keeps_real_data_current(void **state)
{
    (void)state;
    real_data_play(&data, ATT_SINGLE);
}

static void mixed_precision_keeps_real_data_current(void **state)
{
    (void)state;
    real_data_play(&data, ATT_MIXED);
}

static void double_precision_keeps_real_data_current(void **state)
{
    (void)state;
    real_data_play(&data, ATT_DOUBLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_precision_keeps_real_data_current),
        cmocka_unit_test(mixed_precision_keeps_real_data_current),
        cmocka_unit_test(double_precision_keeps_real_data_current),
    };
    real_data_load(&data, real_data_directory());
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    real_data_release(&data);
    return failed;
}
