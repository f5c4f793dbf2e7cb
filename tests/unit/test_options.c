/* tools/options, answer, record and progress: numbers in and out, and updates to the log's records and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "options.h"
#include "progress.h"
#include "record.h"

static void whole_numbers_are_parsed_whole_and_in_range(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    " 1",  "1 ",  "+1", "-1",  "0x10",
                                      "1.0", "1e3", "12a", "8",  "101", "99999999999999999999999"};
    struct att_error error = {0};
    uint32_t number = 77;
    assert_int_equal(att_parse_u32("--threads", "9", 9, 100, &number, &error), ATT_OK);
    assert_int_equal(number, 9);
    assert_int_equal(att_parse_u32("--threads", "100", 9, 100, &number, &error), ATT_OK);
    assert_int_equal(number, 100);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(att_parse_u32("--threads", bad[i], 9, 100, &number, &error), ATT_EINVAL);
        assert_int_equal(strncmp(error.text, "--threads: '", 12), 0);
        assert_int_equal(number, 100);
    }
    uint64_t large;
    assert_int_equal(att_parse_u64("LSN", "18446744073709551615", 0, UINT64_MAX, &large, &error), ATT_OK);
    assert_true(large == UINT64_MAX);
    assert_int_equal(att_parse_u64("LSN", "18446744073709551616", 0, UINT64_MAX, &large, &error), ATT_EINVAL);
    assert_string_equal(error.text, "LSN: '18446744073709551616' is larger than 18446744073709551615");
    assert_int_equal(att_parse_u32("row", "4294967295", 0, UINT32_MAX - 1, &number, &error), ATT_EINVAL);
    assert_string_equal(error.text, "row: '4294967295' is larger than 4294967294");
    assert_int_equal(att_parse_u32("row", "-1", 0, UINT32_MAX - 1, &number, &error), ATT_EINVAL);
    assert_string_equal(error.text, "row: '-1' is not a whole number of at least 0");
}

static void reals_are_finite_and_rounded_once(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "x", "1x", " 1", "nan", "inf", "1e999", "--1"};
    static const char *const bad_floats[] = {"1e39", "-1e39", "nan", "inf", "", "1,5"};
    struct att_error error;
    double number = 5;
    float real;
    assert_int_equal(att_parse_double("DELTA", "-1.5e-3", &number, &error), ATT_OK);
    assert_true(number == -1.5e-3);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(att_parse_double("DELTA", bad[i], &number, &error), ATT_EINVAL);
    assert_int_equal(att_parse_double_in("--tau", "0.5", 0, 1, &number, &error), ATT_OK);
    assert_int_equal(att_parse_double_in("--tau", "1.5", 0, 1, &number, &error), ATT_EINVAL);
    /* Just above the middle of two floats: rounding to double first would lose that. */
    assert_int_equal(att_parse_float("x", "1.000000059604644775390626", false, &real, &error), ATT_OK);
    assert_true(real == 1.0f + 0x1p-23f);
    for (size_t i = 0; i < sizeof bad_floats / sizeof bad_floats[0]; i++)
        assert_int_equal(att_parse_float("x", bad_floats[i], true, &real, &error), ATT_EINVAL);
    assert_int_equal(att_parse_float("x", "-inf", true, &real, &error), ATT_OK);
    assert_true(real == -INFINITY);
    assert_int_equal(att_parse_float("x", "-inf", false, &real, &error), ATT_EINVAL);
    assert_int_equal(att_parse_float("x", "1e-46", false, &real, &error), ATT_OK);
    assert_true(real == 0);
}

static void heads_are_needed_only_where_there_are_several(void **state)
{
    (void)state;
    static const char *const bad[] = {":5", "0:", "0:1:2", "x:1", "-1", ""};
    struct att_error error;
    uint32_t head = 9;
    uint32_t index = 9;
    assert_int_equal(att_parse_headed("row", "5", 1, &head, &index, &error), ATT_OK);
    assert_true(head == 0 && index == 5);
    assert_int_equal(att_parse_headed("row", "0:6", 1, &head, &index, &error), ATT_OK);
    assert_true(head == 0 && index == 6);
    assert_int_equal(att_parse_headed("row", "3:7", 4, &head, &index, &error), ATT_OK);
    assert_true(head == 3 && index == 7);
    assert_int_equal(att_parse_headed("row", "7", 4, &head, &index, &error), ATT_EINVAL);
    assert_int_equal(att_parse_headed("row", "1:5", 1, &head, &index, &error), ATT_ERANGE);
    assert_int_equal(att_parse_headed("row", "7:0", 3, &head, &index, &error), ATT_ERANGE);
    assert_string_equal(error.text, "head 7 is out of range: there are 3");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(att_parse_headed("row", bad[i], 1, &head, &index, &error), ATT_EINVAL);
    assert_true(head == 3 && index == 7);
}

static void words_are_listed_when_none_fits(void **state)
{
    (void)state;
    static const char *const words[] = {"single", "mixed", "double", NULL};
    struct att_error error;
    int word = -1;
    assert_int_equal(att_parse_word("--precision", "mixed", words, &word, &error), ATT_OK);
    assert_int_equal(word, 1);
    assert_int_equal(att_parse_word("--precision", "half", words, &word, &error), ATT_EINVAL);
    assert_string_equal(error.text, "--precision: 'half' is none of single, mixed, double");
}

static double random_double(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    double mantissa = (double)(*state >> 11) * 0x1p-53 - 0.5;
    return ldexp(mantissa, (int)(*state >> 3 & 127) - 64);
}

static void printed_bounds_cover_the_printed_value(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        char line[128] = "";
        double value = random_double(&seed);
        double bound = i % 7 ? fabs(random_double(&seed)) : 0;
        FILE *to = fmemopen(line, sizeof line, "w");
        assert_non_null(to);
        att_print_query(to, (struct att_answer_style){0}, value, bound, 1);
        fclose(to);
        char *end;
        double printed = strtod(line, &end);
        double covered = strtod(end, NULL);
        assert_true(fabsl((long double)printed - (long double)value) + (long double)bound <= (long double)covered);
        assert_true(covered <= (bound + fabs(value) * 1e-8) * (1 + 1e-7));
        char exact[ATT_NUMBER_CHARS];
        assert_true(att_format_value(exact, value, true) == 0);
        assert_true(strtod(exact, NULL) == value);
        att_format_bound(exact, bound, true);
        assert_true(strtod(exact, NULL) == bound);
    }
}

static void check_print(void (*print)(FILE *), const char *wanted)
{
    char text[512] = "";
    FILE *to = fmemopen(text, sizeof text, "w");
    assert_non_null(to);
    print(to);
    fclose(to);
    assert_string_equal(text, wanted);
}

static const struct att_answer_style plain = {0};
static const struct att_answer_style json = {.json = true};
static const double pairs[4] = {0.5, 0.25, NAN, NAN};

static void print_row(FILE *to)
{
    static const double values[2] = {1, -0.5};
    att_print_row(to, plain, values, 2, 0.125, 9);
    att_print_row(to, json, values, 2, 0.125, 9);
}

static void print_columns(FILE *to)
{
    att_print_column(to, plain, pairs, 2, 9);
    att_print_column(to, json, pairs, 2, 9);
}

static void print_rest(FILE *to)
{
    att_print_empty(to, plain, "value", 9);
    att_print_empty(to, json, "value", 9);
    att_print_query(to, json, 0.5, 0, 9);
    att_print_json_string(to, "a\"b\\c\n");
}

static void answers_print_as_the_contract_says(void **state)
{
    (void)state;
    check_print(print_row, "1 -0.5 0.125\n{\"values\":[1,-0.5],\"error_bound\":0.125,\"lsn\":9}\n");
    check_print(print_columns, "0.5 0.25\nempty\n{\"values\":[0.5,null],\"error_bounds\":[0.25,null],"
                               "\"error_bound\":0.25,\"lsn\":9}\n");
    check_print(print_rest, "empty\n{\"value\":null,\"empty\":true,\"error_bound\":null,\"lsn\":9}\n"
                            "{\"value\":0.5,\"error_bound\":0,\"lsn\":9}\n\"a\\\"b\\\\c\\u000a\"");
}

/* ---- record -------------------------------------------------------------------------------------------- */

enum { D = 3, D_V = 2 };

static bool same_array(const float *left, const float *right, uint32_t count)
{
    if (!left || !right)
        return left == right;
    return memcmp(left, right, count * sizeof *left) == 0;
}

static void round_trip(const struct att_op *op)
{
    char payload[64];
    char shifted[65];
    float key[D];
    float value[D_V];
    struct att_record_arrays arrays = {.key = key, .value = value};
    struct att_record record;
    struct att_op back;
    struct att_error error = {0};
    memset(payload, 0x55, sizeof payload);
    assert_true(att_record_payload_max(D, D_V) <= sizeof payload);
    const void *made = att_record_from_op(op, 3, 12, 34, 56, D, D_V, &record, payload);
    assert_int_equal(record.lsn, 12);
    assert_int_equal(record.session, 34);
    assert_int_equal(record.session_seq, 56);
    assert_int_equal(record.head, 3);
    assert_int_equal(record.length % 8, 0);
    assert_int_equal(record.length, att_record_bytes(record.fields, D, D_V));
    memcpy(shifted + 1, made, record.length - sizeof record); /* stored payloads need not be aligned */
    assert_int_equal(att_record_to_op(&record, shifted + 1, D, D_V, &arrays, &back, &error), ATT_OK);
    assert_int_equal(back.kind, op->kind);
    assert_int_equal(back.index, op->index);
    assert_int_equal(back.column, op->column);
    assert_true(back.number == op->number);
    assert_true(same_array(back.key, op->key, D));
    assert_true(same_array(back.value, op->value, D_V));
    assert_true(same_array(back.bias, op->bias, 1));
}

static void updates_come_back_from_their_records(void **state)
{
    (void)state;
    static const float key[D] = {1, 2, 3};
    static const float value[D_V] = {4, 5};
    static const float bias = -INFINITY;
    const struct att_op ops[] = {
        {.kind = ATT_OP_SET_TOKEN, .index = 7, .key = key},
        {.kind = ATT_OP_SET_TOKEN, .index = 7, .value = value},
        {.kind = ATT_OP_SET_TOKEN, .index = 7, .bias = &bias},
        {.kind = ATT_OP_SET_TOKEN, .index = 7, .key = key, .value = value, .bias = &bias},
        {.kind = ATT_OP_SET_K_ENTRY, .index = 7, .column = 2, .number = 0.5},
        {.kind = ATT_OP_SET_V_ENTRY, .index = 7, .column = 1, .number = -0.5},
        {.kind = ATT_OP_APPEND, .index = 8, .key = key, .value = value},
        {.kind = ATT_OP_APPEND, .index = 8, .key = key, .value = value, .bias = &bias},
        {.kind = ATT_OP_DELETE, .index = 8},
        {.kind = ATT_OP_SET_Q, .index = 9, .key = key},
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        round_trip(&ops[i]);
}

static void arrays_that_lie_as_in_a_record_are_not_copied(void **state)
{
    (void)state;
    static const float both[4] = {1, 2, 3, 4}, other[2] = {3, 4};
    float scratch[4];
    struct att_record record;
    struct att_op op = {.kind = ATT_OP_SET_TOKEN, .index = 7, .key = both, .value = both + 2};
    assert_ptr_equal(att_record_from_op(&op, 0, 1, 0, 0, 2, 2, &record, scratch), both);
    op.key = NULL;
    assert_ptr_equal(att_record_from_op(&op, 0, 1, 0, 0, 2, 2, &record, scratch), both + 2);
    op.key = both;
    op.value = other;
    assert_ptr_equal(att_record_from_op(&op, 0, 1, 0, 0, 2, 2, &record, scratch), scratch);
    assert_memory_equal(scratch, both, sizeof scratch);
    op.value = both + 2;
    assert_ptr_equal(att_record_from_op(&op, 0, 1, 0, 0, 2, 1, &record, scratch), scratch); /* to be padded */
}

static void records_that_make_no_sense_are_corrupt(void **state)
{
    (void)state;
    static const float key[D] = {1, 2, 3};
    char payload[64];
    float spare[D];
    struct att_record_arrays arrays = {.key = spare, .value = spare};
    struct att_record good;
    struct att_op back;
    struct att_error error = {0};
    att_record_from_op(&(struct att_op){.kind = ATT_OP_SET_Q, .key = key}, 0, 99, 0, 0, D, D_V, &good, payload);
    struct att_record bad[5] = {good, good, good, good, good};
    bad[0].kind = ATT_OP_ADD_K;
    bad[1].kind = 200;
    bad[2].length += 8;
    bad[3].fields |= ATT_FIELD_VALUE;
    bad[4].fields = 0;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(att_record_to_op(&bad[i], payload, D, D_V, &arrays, &back, &error), ATT_ECORRUPT);
        assert_non_null(strstr(error.text, "LSN 99"));
    }
    assert_int_equal(att_record_to_op(&good, payload, D, D_V, &arrays, &back, &error), ATT_OK);
}

/* What a bar says that has been going for 100 s. */
static void remaining(uint64_t done, uint64_t total, char *ret_text, size_t size)
{
    struct att_progress progress = {.label = "",
                                    .total = total,
                                    .started_ns = att_clock_ns() - UINT64_C(100000000000),
                                    .shown = true};
    int ends[2], stderr_fd = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    att_progress_update(&progress, done);
    dup2(stderr_fd, STDERR_FILENO);
    ssize_t bytes = read(ends[0], ret_text, size - 1);
    ret_text[bytes > 0 ? bytes : 0] = '\0';
    close(stderr_fd);
    close(ends[0]);
    close(ends[1]);
}

static void a_minute_has_sixty_seconds(void **state)
{
    (void)state;
    char text[200];
    remaining(100000, 219700, text, sizeof text);
    assert_non_null(strstr(text, " 2:00 min left"));
    remaining(100000, 220700, text, sizeof text);
    assert_non_null(strstr(text, " 2:01 min left"));
    remaining(100000, 130000, text, sizeof text);
    assert_non_null(strstr(text, " 30 s left"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_numbers_are_parsed_whole_and_in_range),
        cmocka_unit_test(reals_are_finite_and_rounded_once),
        cmocka_unit_test(heads_are_needed_only_where_there_are_several),
        cmocka_unit_test(words_are_listed_when_none_fits),
        cmocka_unit_test(printed_bounds_cover_the_printed_value),
        cmocka_unit_test(answers_print_as_the_contract_says),
        cmocka_unit_test(updates_come_back_from_their_records),
        cmocka_unit_test(arrays_that_lie_as_in_a_record_are_not_copied),
        cmocka_unit_test(records_that_make_no_sense_are_corrupt),
        cmocka_unit_test(a_minute_has_sixty_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
