/* A larger real workload, which is not kept with the source: the directory that ATT_REAL_A names, else skipped. */
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"
#include "realdata.h"

static struct real_data data;

static void mixed_precision_keeps_the_larger_real_data_current(void **state)
{
    (void)state;
    real_data_play(&data, ATT_MIXED);
}

static void double_precision_keeps_the_larger_real_data_current(void **state)
{
    (void)state;
    real_data_play(&data, ATT_DOUBLE);
}

static void single_precision_keeps_the_larger_real_data_current(void **state)
{
    (void)state;
    real_data_play(&data, ATT_SINGLE);
}

int main(void)
{
    const char *directory = getenv("ATT_REAL_A");
    if (!directory || !*directory) {
        printf("skipped: ATT_REAL_A names no directory with the larger workload\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_precision_keeps_the_larger_real_data_current),
        cmocka_unit_test(double_precision_keeps_the_larger_real_data_current),
        cmocka_unit_test(single_precision_keeps_the_larger_real_data_current),
    };
    real_data_load(&data, directory);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    real_data_release(&data);
    return failed;
}
