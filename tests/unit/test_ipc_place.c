/* Where the service runs: when it leaves a client's processor, for how long, and that the user has the last word. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "server_internal.h"

enum { HERE = 300, US = 1000 }; /* a doorbell carries the low 8 bits of a processor's number */

/* The number of the doorbell, from here, `gap` apart, that makes the service leave; 0: none of a hundred does. */
static uint32_t bells_until_it_leaves(struct att_place *place, uint64_t gap)
{
    for (uint32_t n = 1; n <= 100; n++)
        if (att_place_together(place, (unsigned char)HERE, HERE, UINT64_C(1000000000) + n * gap))
            return n;
    return 0;
}

static void it_leaves_after_some_doorbells_in_quick_succession(void **state)
{
    (void)state;
    assert_int_equal(bells_until_it_leaves(&(struct att_place){0}, 15 * US), TOGETHER_MOST);
}

static void one_that_asks_now_and_then_moves_nobody(void **state)
{
    (void)state;
    assert_int_equal(bells_until_it_leaves(&(struct att_place){0}, 10000 * US), 0);
}

static void a_doorbell_from_elsewhere_starts_the_count_again(void **state)
{
    (void)state;
    struct att_place place = {0};
    for (uint64_t n = 0; n < 100; n++)
        assert_false(
            att_place_together(&place, n % (TOGETHER_MOST - 1) == 0 ? 7 : (unsigned char)HERE, HERE, n * 15 * US));
}

static void one_that_lies_all_the_time_seldom_moves_it(void **state)
{
    (void)state;
    struct att_place place = {0};
    uint64_t moves = 0, now = UINT64_C(1000000000), seconds = 2;
    for (uint64_t n = 0; n < seconds * 1000000 / 15; n++)
        moves += att_place_together(&place, (unsigned char)HERE, HERE, now += 15 * US);
    assert_in_range(moves, 2, seconds * UINT64_C(1000000000) / MOVE_NS);
}

static cpu_set_t allowed_now(void)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    return set;
}

static void it_keeps_off_and_comes_back_to_what_it_was_allowed(void **state)
{
    (void)state;
    const cpu_set_t before = allowed_now();
    struct att_place place = {0};
    if (CPU_COUNT(&before) < 2)
        skip();
    int here = sched_getcpu();
    att_place_leave(&place, here, 1000);
    cpu_set_t away = allowed_now();
    assert_false(CPU_ISSET((size_t)here, &away));
    assert_int_equal(CPU_COUNT(&away), CPU_COUNT(&before) - 1);
    assert_int_not_equal(sched_getcpu(), here);
    att_place_return(&place, 999 + AWAY_NS);
    away = allowed_now();
    assert_false(CPU_ISSET((size_t)here, &away));
    int there = sched_getcpu();
    att_place_leave(&place, there, 1000);
    away = allowed_now();
    assert_true(CPU_ISSET((size_t)here, &away));
    assert_false(CPU_ISSET((size_t)there, &away));
    att_place_return(&place, 1000 + AWAY_NS);
    const cpu_set_t after = allowed_now();
    assert_true(CPU_EQUAL(&before, &after));
    assert_int_equal(place.away_until, 0);
}

static void on_the_one_processor_that_it_may_use_it_stays(void **state)
{
    (void)state;
    const cpu_set_t before = allowed_now();
    cpu_set_t one;
    struct att_place place = {0};
    int here = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET((size_t)here, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    att_place_leave(&place, here, 1000);
    const cpu_set_t after = allowed_now();
    assert_true(CPU_EQUAL(&one, &after));
    assert_int_equal(place.away_until, 0);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void what_the_user_says_meanwhile_stands(void **state)
{
    (void)state;
    const cpu_set_t before = allowed_now();
    cpu_set_t one;
    struct att_place place = {0};
    if (CPU_COUNT(&before) < 2)
        skip();
    int here = sched_getcpu();
    att_place_leave(&place, here, 1000);
    CPU_ZERO(&one);
    CPU_SET((size_t)here, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    att_place_return(&place, 1000 + AWAY_NS);
    const cpu_set_t after = allowed_now();
    assert_true(CPU_EQUAL(&one, &after));
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_leaves_after_some_doorbells_in_quick_succession),
        cmocka_unit_test(one_that_asks_now_and_then_moves_nobody),
        cmocka_unit_test(a_doorbell_from_elsewhere_starts_the_count_again),
        cmocka_unit_test(one_that_lies_all_the_time_seldom_moves_it),
        cmocka_unit_test(it_keeps_off_and_comes_back_to_what_it_was_allowed),
        cmocka_unit_test(on_the_one_processor_that_it_may_use_it_stays),
        cmocka_unit_test(what_the_user_says_meanwhile_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
