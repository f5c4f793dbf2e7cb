/* tools/npy: what is accepted, what is refused and how it is said, and that what is written reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "npy.h"

static char directory[64];
static char path[128];

static int make_directory(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/test_npy.XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/K.npy", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(directory); /* fails when a temporary file was left behind */
}

/* A file with this header text and data; `major` chooses the width of the length. */
static void write_npy(unsigned major, const char *header, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    size_t length = strlen(header);
    fwrite("\x93NUMPY", 1, 6, file);
    fputc((int)major, file);
    fputc(0, file);
    for (unsigned i = 0; i < (major == 1 ? 2 : 4); i++)
        fputc((int)(length >> (8 * i) & 255), file);
    fwrite(header, 1, length, file);
    if (bytes > 0)
        fwrite(data, 1, bytes, file);
    assert_int_equal(fclose(file), 0);
}

static void open_good(struct att_npy *npy)
{
    struct att_error error = {0};
    enum att_status status = att_npy_open(path, npy, &error);
    if (status != ATT_OK)
        fail_msg("%s", error.text);
}

/* Opening fails, and the message names the file and says this. */
static void open_bad(const char *says)
{
    struct att_npy npy = {0};
    struct att_error error = {0};
    assert_int_not_equal(att_npy_open(path, &npy, &error), ATT_OK);
    assert_non_null(strstr(error.text, path));
    if (!strstr(error.text, says))
        fail_msg("\"%s\" does not say \"%s\"", error.text, says);
    assert_null(npy.path);
}

static const float six[6] = {1, -2, 3.5f, 0, 5, -6.25f};

static void all_versions_and_any_layout_of_the_dict_are_read(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n",
        "{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}",
        " { 'fortran_order' : False ,\n 'shape' : ( 2L , 3L , ) ,\t'descr' : '<f4' } \n",
    };
    for (unsigned major = 1; major <= 3; major++) {
        for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
            struct att_npy npy;
            float got[6];
            write_npy(major, headers[i], six, sizeof six);
            open_good(&npy);
            assert_int_equal(npy.dims, 2);
            assert_int_equal(npy.rows, 2);
            assert_int_equal(npy.cols, 3);
            assert_int_equal(att_npy_read_float(&npy, got, 0, 2, NULL), ATT_OK);
            assert_memory_equal(got, six, sizeof six);
            assert_int_equal(att_npy_read_float(&npy, got, 1, 1, NULL), ATT_OK);
            assert_memory_equal(got, six + 3, 3 * sizeof(float));
            assert_int_equal(att_npy_read_float(&npy, got, 1, 2, NULL), ATT_EINVAL);
            att_npy_close(&npy);
            att_npy_close(&npy);
        }
    }
}

static void vectors_scalars_and_three_dimensions_have_rows_and_columns(void **state)
{
    (void)state;
    struct att_npy npy;
    write_npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (6,)}", six, sizeof six);
    open_good(&npy); /* Fortran order of a vector is C order */
    assert_int_equal(npy.rows, 6);
    assert_int_equal(npy.cols, 1);
    att_npy_close(&npy);
    write_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", six, sizeof(float));
    open_good(&npy);
    assert_int_equal(npy.rows * npy.cols, 1);
    att_npy_close(&npy);
    write_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3)}", six, sizeof six);
    open_good(&npy);
    assert_int_equal(npy.rows, 2);
    assert_int_equal(npy.cols, 3);
    att_npy_close(&npy);
    write_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3)}", six, 0);
    open_good(&npy);
    assert_int_equal(npy.rows, 0);
    att_npy_close(&npy);
}

static void headers_that_are_not_right_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        const char *says;
    } bad[] = {
        {"", "dict literal"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)", "dict literal"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x", "goes on"},
        {"{'descr': '<f4' 'fortran_order': False, 'shape': (2, 3)}", "dict literal"},
        {"{'descr': '<f4', 'shape': (2, 3)}", "lacks"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", "twice"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}", "unknown key"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}", "neither True nor False"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6)}", "tuple"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}", "tuple"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}", "tuple"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2, 3)}", "more than 3"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4)}", "overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 1)}", "tuple"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", "Fortran order"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3)}", "dtype >f4 is big-endian"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (2, 3)}", "dtype <c8 is not accepted (accepted: float32"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}", "records"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_npy(1, bad[i].header, six, sizeof six);
        open_bad(bad[i].says);
    }
    write_npy(4, "{}", six, 0);
    open_bad("version 4.0");
}

static void sizes_that_do_not_match_are_refused_with_both_numbers(void **state)
{
    (void)state;
    static const char header[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}";
    write_npy(1, header, six, sizeof six - 1);
    open_bad("truncated: 24 bytes of data expected for 2 x 3 float32, 23 found");
    char longer[25] = {0};
    write_npy(1, header, longer, sizeof longer);
    open_bad("too long: 24 bytes of data expected for 2 x 3 float32, 25 found");
}

static void every_prefix_of_a_file_is_refused(void **state)
{
    (void)state;
    assert_int_equal(att_npy_write_float32(path, six, 2, 3, NULL), ATT_OK);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    for (long size = info.st_size - 1; size >= 0; size--) {
        assert_int_equal(truncate(path, size), 0);
        open_bad("");
    }
    unlink(path);
    open_bad("cannot open: No such file");
    assert_int_equal(mkdir(path, 0700), 0);
    open_bad("not a regular file");
    rmdir(path);
}

static void doubles_are_rounded_once_and_overflow_names_its_place(void **state)
{
    (void)state;
    static const char header[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2)}";
    double wide[4] = {1.0 / 3, -1e-50, INFINITY, -0.0};
    struct att_npy npy;
    struct att_error error = {0};
    float got[4];
    write_npy(1, header, wide, sizeof wide);
    open_good(&npy);
    assert_int_equal(att_npy_read_float(&npy, got, 0, 2, &error), ATT_OK);
    for (int i = 0; i < 4; i++)
        assert_true(got[i] == (float)wide[i]);
    assert_int_equal(att_npy_check_finite("K.npy", got, 2, 2, true, &error), ATT_ENOTFINITE);
    assert_string_equal(error.text, "K.npy: inf at row 1, column 0");
    att_npy_close(&npy);
    wide[3] = 1e39;
    write_npy(1, header, wide, sizeof wide);
    open_good(&npy);
    assert_int_equal(att_npy_read_float(&npy, got, 1, 1, &error), ATT_ERANGE);
    assert_non_null(strstr(error.text, "row 1, column 1: 1e+39 is too large for float32"));
    att_npy_close(&npy);
}

static void halves_are_widened_exactly(void **state)
{
    (void)state;
    static const uint16_t halves[8] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x83ff, 0x7c00, 0x8000, 0x3555};
    static const float wanted[8] = {1, -2, 65504, 0x1p-24f, -1023 * 0x1p-24f, INFINITY, -0.0f, 0x1.554p-2f};
    struct att_npy npy;
    float got[8];
    write_npy(1, "{'descr': '<f2', 'fortran_order': False, 'shape': (8, 1)}", halves, sizeof halves);
    open_good(&npy);
    assert_int_equal(att_npy_read_float(&npy, got, 0, 8, NULL), ATT_OK);
    assert_memory_equal(got, wanted, sizeof wanted);
    att_npy_close(&npy);
}

static void integers_of_every_width_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *descr;
        unsigned bytes;
        bool negative;
    } kinds[] = {{"|i1", 1, true}, {"|u1", 1, false}, {"<i2", 2, true}, {"<u2", 2, false},
                 {"<i4", 4, true}, {"<u4", 4, false}, {"<i8", 8, true}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        char header[100];
        unsigned char data[16];
        struct att_npy npy;
        int64_t got[2];
        memset(data, 0, sizeof data);
        memset(data, 0xff, kinds[k].bytes);
        data[kinds[k].bytes] = 7;
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (2,)}", kinds[k].descr);
        write_npy(1, header, data, 2 * kinds[k].bytes);
        open_good(&npy);
        assert_int_equal(att_npy_read_int(&npy, got, 0, 2, NULL), ATT_OK);
        assert_true(got[0] == (kinds[k].negative ? -1 : (int64_t)(1ull << (8 * kinds[k].bytes)) - 1));
        assert_true(got[1] == 7);
        assert_int_equal(att_npy_read_int(&npy, got, 1, 1, NULL), ATT_OK);
        assert_true(got[0] == 7);
        float number;
        assert_int_equal(att_npy_read_float(&npy, &number, 0, 1, NULL), ATT_EINVAL);
        att_npy_close(&npy);
    }
}

static void integers_that_are_too_large_or_floats_are_refused(void **state)
{
    (void)state;
    struct att_npy npy;
    struct att_error error = {0};
    int64_t got;
    uint64_t large = UINT64_MAX;
    write_npy(1, "{'descr': '<u8', 'fortran_order': False, 'shape': (1,)}", &large, sizeof large);
    open_good(&npy);
    assert_int_equal(att_npy_read_int(&npy, &got, 0, 1, &error), ATT_ERANGE);
    att_npy_close(&npy);
    write_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", six, sizeof six);
    open_good(&npy);
    assert_int_equal(att_npy_read_int(&npy, &got, 0, 1, &error), ATT_EINVAL);
    assert_non_null(strstr(error.text, "float32: integers are needed"));
    assert_int_equal(att_npy_expect(&npy, "K", 2, 3, &error), ATT_EINVAL);
    assert_non_null(strstr(error.text, "K must be 2 x 3, the file has 6 numbers"));
    assert_int_equal(att_npy_expect(&npy, "b", 6, 1, &error), ATT_OK);
    att_npy_close(&npy);
}

static void large_files_are_converted_chunk_by_chunk(void **state)
{
    (void)state;
    enum { ROWS = 3001, COLS = 17 };
    double *wide = malloc(sizeof *wide * ROWS * COLS);
    float *got = malloc(sizeof *got * ROWS * COLS);
    struct att_npy npy;
    assert_true(wide && got);
    for (int i = 0; i < ROWS * COLS; i++)
        wide[i] = i * 0.37 - 5;
    assert_int_equal(att_npy_write_float64(path, wide, ROWS, COLS, NULL), ATT_OK);
    open_good(&npy);
    assert_int_equal(npy.type, ATT_NPY_F8);
    assert_int_equal(npy.data_offset % 64, 0);
    assert_int_equal(att_npy_read_float(&npy, got, 1, ROWS - 1, NULL), ATT_OK);
    for (int i = COLS; i < ROWS * COLS; i++)
        assert_true(got[i - COLS] == (float)wide[i]);
    att_npy_close(&npy);
    free(got);
    free(wide);
}

static void writers_replace_whole_files_or_nothing(void **state)
{
    (void)state;
    static const uint8_t live[3] = {1, 0, 1};
    struct att_npy npy;
    struct att_error error = {0};
    int64_t got[3];
    assert_int_equal(att_npy_write_float32(path, six, 2, 3, NULL), ATT_OK);
    assert_int_equal(att_npy_write_u8(path, live, 3, 0, NULL), ATT_OK);
    open_good(&npy);
    assert_int_equal(npy.dims, 1);
    assert_int_equal(att_npy_read_int(&npy, got, 0, 3, NULL), ATT_OK);
    assert_true(got[0] == 1 && got[1] == 0 && got[2] == 1);
    att_npy_close(&npy);
    assert_int_equal(att_npy_write_float32("/dev/null", six, 2, 3, &error), ATT_EINVAL);
    assert_int_equal(att_npy_write_float32("/tmp/no such directory/O.npy", six, 2, 3, &error), ATT_ENOENT);
    assert_non_null(strstr(error.text, "/tmp/no such directory/O.npy"));
}

static void minus_infinity_passes_only_where_allowed(void **state)
{
    (void)state;
    float bias[3] = {0, -INFINITY, 1};
    struct att_error error = {0};
    assert_int_equal(att_npy_check_finite("B.npy", bias, 3, 1, true, &error), ATT_OK);
    assert_int_equal(att_npy_check_finite("B.npy", bias, 3, 1, false, &error), ATT_ENOTFINITE);
    assert_string_equal(error.text, "B.npy: -inf at row 1, column 0");
    bias[2] = NAN;
    assert_int_equal(att_npy_check_finite("B.npy", bias, 3, 1, true, &error), ATT_ENOTFINITE);
    assert_string_equal(error.text, "B.npy: NaN at row 2, column 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_versions_and_any_layout_of_the_dict_are_read),
        cmocka_unit_test(vectors_scalars_and_three_dimensions_have_rows_and_columns),
        cmocka_unit_test(headers_that_are_not_right_are_refused),
        cmocka_unit_test(sizes_that_do_not_match_are_refused_with_both_numbers),
        cmocka_unit_test(every_prefix_of_a_file_is_refused),
        cmocka_unit_test(doubles_are_rounded_once_and_overflow_names_its_place),
        cmocka_unit_test(halves_are_widened_exactly),
        cmocka_unit_test(integers_of_every_width_are_read),
        cmocka_unit_test(integers_that_are_too_large_or_floats_are_refused),
        cmocka_unit_test(large_files_are_converted_chunk_by_chunk),
        cmocka_unit_test(writers_replace_whole_files_or_nothing),
        cmocka_unit_test(minus_infinity_passes_only_where_allowed),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
