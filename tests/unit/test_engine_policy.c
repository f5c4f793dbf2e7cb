/* The policy against the two plain strategies, in its own model's costs: what docs/policy.md proves must hold for any reads,
 * and on ordinary mixes it must do much better. */
#include <math.h>
#include <stdlib.h>

#include "harness.h"

#include "engine_impl.h"
#include "random.h"

enum { ROWS = 64, TOKENS = 4096, ENTRIES = 32 };

/* An engine's books without an engine: merges and reads happen in the model only. */
struct world {
    struct att_engine engine;
    _Atomic uint64_t last_read[ROWS];
    bool hot[ROWS];
    double paid, recompute, maintain;
};

static struct world *world_create(bool hot)
{
    struct world *world = calloc(1, sizeof *world);

    assert_non_null(world);
    world->engine.region.d = 64;
    world->engine.region.columns = 68;
    world->engine.region.n_q = ROWS;
    world->engine.index.started = true;
    world->engine.index.used = world->engine.merger.used = TOKENS;
    world->engine.index.started = true;
    world->engine.last_read = world->last_read;
    for (uint32_t row = 0; row < ROWS; row++)
        world->hot[row] = hot;
    att_policy_init(&world->engine);
    return world;
}

static double refresh(const struct world *world)
{
    return att_policy_refresh_cost(&world->engine, TOKENS);
}

static double one_merge(const struct world *world)
{
    return att_policy_row_cost(&world->engine, ENTRIES);
}

static void merge(struct world *world)
{
    for (uint32_t row = 0; row < ROWS; row++) {
        world->maintain += one_merge(world);
        if (world->hot[row] && att_policy_goes_cold(&world->engine, row, ENTRIES))
            world->hot[row] = false;
        world->paid += world->hot[row] ? one_merge(world) : 0.0;
    }
    att_policy_note_merge(&world->engine, ENTRIES);
}

static void read_row(struct world *world, uint32_t row)
{
    world->recompute += refresh(world);
    if (!world->hot[row]) {
        world->hot[row] = att_policy_keep(&world->engine, row);
        world->paid += refresh(world);
    }
    att_policy_note_read(&world->engine, row);
}

/* Every row is read after the same gaps. Each row may pay a constant on top: a refresh too many, and one merge. */
static void check_gaps(const char *name, double (*gap)(struct test_random *random, uint32_t number))
{
    struct world *world = world_create(true);
    const double constant = 2.0 * ROWS * refresh(world);
    struct test_random random;

    random_seed(&random, 31, name);
    for (uint32_t number = 0; number < 500; number++) {
        const uint32_t merges = (uint32_t)lround(gap(&random, number) * refresh(world) / one_merge(world));
        for (uint32_t i = 0; i < merges; i++)
            merge(world);
        for (uint32_t row = 0; row < ROWS; row++)
            read_row(world, row);
        assert_true(world->paid <= 3.0 * world->maintain + constant);
        assert_true(world->paid <= 1.5 * world->recompute + constant);
    }
    free(world);
}

static double alternating(struct test_random *random, uint32_t number)
{
    (void)random;
    return number % 2 ? 0.0 : 1.05;
}

static double alternating_far(struct test_random *random, uint32_t number)
{
    (void)random;
    return number % 2 ? 0.9 : 3.0;
}

static double exponential(struct test_random *random, uint32_t number)
{
    (void)number;
    return -log(1.0 - random_unit(random));
}

static double now_and_then(struct test_random *random, uint32_t number)
{
    (void)number;
    return random_one_in(random, 10) ? 8.0 * random_unit(random) : 0.02;
}

static double changing(struct test_random *random, uint32_t number)
{
    return (number / 50 % 2 ? 0.05 : 4.0) * random_unit(random);
}

static void what_it_pays_is_bounded_for_any_reads(void **state)
{
    (void)state;
    check_gaps("alternating gaps", alternating);
    check_gaps("alternating far gaps", alternating_far);
    check_gaps("exponential gaps", exponential);
    check_gaps("now and then a long gap", now_and_then);
    check_gaps("gaps that change their size", changing);
}

/* `reads` random reads a merge; from hot rows that nobody has read, or cold ones. */
static double mixed(double reads, bool hot, bool skewed)
{
    struct world *world = world_create(hot);
    struct test_random random;
    double due = 0.0, ratio;

    random_init(&random, 32);
    for (int n = 0; n < 20000; n++) {
        merge(world);
        for (due += reads; due >= 1.0; due -= 1.0) {
            const double at = random_unit(&random);
            read_row(world, (uint32_t)(ROWS * (skewed ? at * at * at : at)));
        }
    }
    ratio = world->paid / fmin(world->recompute, world->maintain);
    free(world);
    return ratio;
}

static void ordinary_mixes_cost_little_more_than_the_better_strategy(void **state)
{
    (void)state;
    for (double reads = 0.004; reads < 500.0; reads *= 2.0)
        for (int kind = 0; kind < 4; kind++)
            assert_true(mixed(reads, kind & 1, kind & 2) <= 1.35);
}

static uint32_t count_hot(const struct world *world)
{
    uint32_t count = 0;

    for (uint32_t row = 0; row < ROWS; row++)
        count += world->hot[row];
    return count;
}

static void rows_that_nobody_reads_go_cold_soon_without_any_reads(void **state)
{
    (void)state;
    struct world *world = world_create(true);

    while (count_hot(world) > 0)
        merge(world);
    assert_true(world->paid <= ROWS * (refresh(world) / 8.0 + one_merge(world)));
    assert_true(world->paid > 0.0);
    free(world);
}

static void rows_that_nobody_has_read_yet_stay_hot_while_others_are_read_much(void **state)
{
    (void)state;
    struct world *world = world_create(true);
    double merged;

    for (merged = 0.0; merged < 0.9 * refresh(world); merged += one_merge(world)) {
        for (uint32_t row = 0; row < ROWS / 2; row++)
            read_row(world, row);
        merge(world);
    }
    assert_int_equal(count_hot(world), ROWS);
    free(world);
}

static void one_row_that_is_read_much_does_not_keep_the_others_hot(void **state)
{
    (void)state;
    struct world *world = world_create(true);

    for (double merged = 0.0; merged < 0.5 * refresh(world); merged += one_merge(world)) {
        for (int i = 0; i < 10 * ROWS; i++)
            read_row(world, 5);
        merge(world);
    }
    assert_int_equal(count_hot(world), 1);
    assert_true(world->hot[5]);
    free(world);
}

static void an_unread_mix_does_not_forget_how_long_it_was_when_nothing_is_hot(void **state)
{
    (void)state;
    struct world *world = world_create(false);

    read_row(world, 3);
    world->hot[3] = false;
    for (double merged = 0.0; merged < 1.5 * refresh(world); merged += one_merge(world))
        merge(world);
    read_row(world, 3);
    assert_false(world->hot[3]); /* keeping it would have cost more */
    read_row(world, 3);
    assert_true(world->hot[3]);
    free(world);
}

static void the_rates_follow_what_is_measured_but_no_single_outlier(void **state)
{
    (void)state;
    struct world *world = world_create(true);
    const double before = att_policy_row_cost(&world->engine, 1000), slow = 4.0 * before;

    att_policy_sample_merge(&world->engine, 1e12, ROWS, 1000);
    assert_true(att_policy_row_cost(&world->engine, 1000) < 1.3 * before);
    for (int i = 0; i < 200; i++)
        att_policy_sample_merge(&world->engine, ROWS * slow, ROWS, 1000);
    assert_true(fabs(att_policy_row_cost(&world->engine, 1000) - slow) < 0.01 * slow);
    for (int i = 0; i < 200; i++) /* too few entries to say anything: what they cost is their rows */
        att_policy_sample_merge(&world->engine, 1e7, 10000, 1);
    att_policy_sample_merge(&world->engine, 10.0, 1, 1); /* too short */
    assert_true(fabs(att_policy_row_cost(&world->engine, 1000) - slow) < 0.01 * slow);
    free(world);
}

/* --merge eager: as if there were no policy. */
static void with_eager_merges_rows_stay_hot_and_cold_ones_become_hot(void **state)
{
    (void)state;
    struct world *world = world_create(true);

    world->engine.options.eager = true;
    for (double merged = 0.0; merged < 10.0 * refresh(world); merged += one_merge(world))
        merge(world);
    assert_int_equal(count_hot(world), ROWS);
    world->hot[3] = false;
    read_row(world, 3);
    assert_true(world->hot[3]);
    free(world);
}

/* A tenth of what it costs, of which the hot rows are the most; and not again for what was spent before it. */
static void queries_make_a_merge_due_by_what_the_hot_rows_make_it_cost(void **state)
{
    (void)state;
    struct world *world = world_create(true);
    const uint64_t cost = (uint64_t)(ROWS * one_merge(world));

    world->engine.rows_hot = ROWS;
    world->engine.spent = cost / 10;
    assert_false(att_policy_merge_due(&world->engine, ENTRIES));
    world->engine.spent = cost / 5;
    assert_true(att_policy_merge_due(&world->engine, ENTRIES));
    att_policy_settle(&world->engine);
    assert_false(att_policy_merge_due(&world->engine, ENTRIES));
    free(world);
}

static void update(struct world *world, uint64_t reads_before)
{
    world->engine.index.queries += reads_before;
    world->engine.index.updates++;
    att_policy_note_updates(&world->engine);
}

/* For each update. A query costs 126 ns in the model, with one entry pending and d = 64. */
static uint64_t enough_reads(const struct world *world)
{
    return (uint64_t)(0.1 * (3000.0 + 100.0 * ENTRIES + ROWS * one_merge(world)) / 126.0);
}

/* Nothing has been spent, but will be: as each update had so many reads. */
static void a_merge_is_due_at_once_when_many_reads_come_with_each_update(void **state)
{
    (void)state;
    struct world *world = world_create(true);
    const uint64_t enough = enough_reads(world);

    world->engine.rows_hot = ROWS;
    for (int i = 0; i < 100; i++)
        update(world, enough * 9 / 10);
    assert_false(att_policy_merge_due(&world->engine, ENTRIES));
    for (int i = 0; i < 100; i++)
        update(world, enough * 11 / 10);
    assert_true(att_policy_merge_due(&world->engine, ENTRIES));
    att_policy_settle(&world->engine);
    assert_true(att_policy_merge_due(&world->engine, ENTRIES));
    for (int i = 0; i < 100; i++) { /* four updates at a time */
        world->engine.index.updates += 3;
        update(world, enough * 3);
    }
    assert_false(att_policy_merge_due(&world->engine, ENTRIES));
    for (int i = 0; i < 100; i++) { /* nor does looking twice count as an update */
        update(world, enough * 3 / 4);
        att_policy_note_updates(&world->engine);
    }
    assert_false(att_policy_merge_due(&world->engine, ENTRIES));
    for (int i = 0; i < 100; i++) { /* and reads before it, looked at without any update, count with those after */
        world->engine.index.queries += enough * 6 / 10;
        att_policy_note_updates(&world->engine);
        att_policy_note_updates(&world->engine);
        update(world, enough * 5 / 10);
    }
    assert_true(att_policy_merge_due(&world->engine, ENTRIES));
    free(world);
}

/* In a run of updates the reads are still to come; and what they were is forgotten while none come. */
static void a_run_of_updates_is_not_merged_one_by_one(void **state)
{
    (void)state;
    struct world *world = world_create(true);
    const uint64_t enough = enough_reads(world);

    world->engine.rows_hot = ROWS;
    for (uint32_t run = 4; run <= 5; run++) {
        for (int i = 0; i < 100; i++)
            update(world, enough * 2);
        assert_true(att_policy_merge_due(&world->engine, ENTRIES));
        for (uint32_t i = 0; i < run; i++) {
            update(world, 0);
            assert_false(att_policy_merge_due(&world->engine, ENTRIES));
        }
        update(world, 1);
        assert_int_equal(att_policy_merge_due(&world->engine, ENTRIES), run == 4); /* 2 (7/8)^6 < 1 */
    }
    /* What has been spent counts beside it: 0.9 and 0.2. */
    world->engine.spent += 126 * enough / 5;
    assert_true(att_policy_merge_due(&world->engine, ENTRIES));
    free(world);
}

/* Runs of updates, and then runs of reads: of one length, of any, and a reader that reports very many at once. */
static uint64_t reads_of_a_run(struct test_random *random, int kind, uint32_t updates)
{
    switch (kind) {
    case 0:
        return 1000;
    case 1:
        return random_below(random, 1000) * updates;
    case 2:
        return random_one_in(random, 20) ? 40000 : 0;
    default:
        return random_one_in(random, 50) ? 1 << 20 : 0;
    }
}

/* What docs/policy.md says of merges that nothing but the reads to be expected make due: as if each had found an entry, ten times
 * what they would have spent. */
static void what_is_expected_of_reads_is_expected_once(void **state)
{
    (void)state;
    struct test_random random;

    for (int kind = 0; kind < 4; kind++) {
        struct world *world = world_create(true);
        double paid = 0.0, reads = 0.0;
        uint32_t merges = 0;

        random_seed(&random, 33, "runs of updates and reads");
        world->engine.rows_hot = ROWS;
        for (int run = 0; run < 2000; run++) {
            const uint32_t updates = kind == 1 ? 1 + (uint32_t)random_below(&random, 30) : 8;
            const uint64_t some = reads_of_a_run(&random, kind, updates);
            uint32_t pending = 0;
            for (uint32_t i = 0; i < updates; i++) {
                update(world, i == 0 ? some : 0);
                reads += i == 0 ? (double)some : 0.0;
                pending++;
                if (!att_policy_merge_due(&world->engine, pending))
                    continue;
                paid += 3000.0 + 100.0 * pending + ROWS * att_policy_row_cost(&world->engine, pending);
                pending = 0;
                merges++;
            }
            assert_true(paid <= 10.0 * 126.3 * reads);
        }
        assert_true(merges > 20);
        free(world);
    }
}

/* A row among many costs what merging as many entries costs, and not what it costs alone: so it is kept for less. */
static void a_row_of_a_column_is_kept_for_less_than_one_alone(void **state)
{
    (void)state;
    struct world *world = world_create(true);
    const double among_many = att_policy_row_cost(&world->engine, TOKENS);

    read_row(world, 0);
    for (double merged = 0.0; merged < (among_many + refresh(world)) / 2.0; merged += one_merge(world))
        merge(world);
    assert_true(att_policy_keep(&world->engine, 0));
    assert_false(att_policy_keep_wide(&world->engine, 0));
    free(world);
}

/* What is replayed says nothing about readers: there are none. */
static void merges_before_the_start_are_not_held_against_rows(void **state)
{
    (void)state;
    struct world *world = world_create(true);

    world->engine.index.started = false;
    for (double merged = 0.0; merged < 10.0 * refresh(world); merged += one_merge(world))
        att_policy_note_merge(&world->engine, ENTRIES);
    world->engine.index.started = true;
    assert_false(att_policy_goes_cold(&world->engine, 0, ENTRIES));
    free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_it_pays_is_bounded_for_any_reads),
        cmocka_unit_test(ordinary_mixes_cost_little_more_than_the_better_strategy),
        cmocka_unit_test(rows_that_nobody_reads_go_cold_soon_without_any_reads),
        cmocka_unit_test(rows_that_nobody_has_read_yet_stay_hot_while_others_are_read_much),
        cmocka_unit_test(one_row_that_is_read_much_does_not_keep_the_others_hot),
        cmocka_unit_test(an_unread_mix_does_not_forget_how_long_it_was_when_nothing_is_hot),
        cmocka_unit_test(the_rates_follow_what_is_measured_but_no_single_outlier),
        cmocka_unit_test(with_eager_merges_rows_stay_hot_and_cold_ones_become_hot),
        cmocka_unit_test(queries_make_a_merge_due_by_what_the_hot_rows_make_it_cost),
        cmocka_unit_test(a_merge_is_due_at_once_when_many_reads_come_with_each_update),
        cmocka_unit_test(a_run_of_updates_is_not_merged_one_by_one),
        cmocka_unit_test(what_is_expected_of_reads_is_expected_once),
        cmocka_unit_test(a_row_of_a_column_is_kept_for_less_than_one_alone),
        cmocka_unit_test(merges_before_the_start_are_not_held_against_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
