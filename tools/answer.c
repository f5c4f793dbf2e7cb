#include "answer.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

double att_format_value(char ret[ATT_NUMBER_CHARS], double value, bool exact)
{
    snprintf(ret, ATT_NUMBER_CHARS, exact ? "%.17g" : "%.9g", value);
    return isfinite(value) ? fabs(strtod(ret, NULL) - value) : 0;
}

void att_format_bound(char ret[ATT_NUMBER_CHARS], double bound, bool exact)
{
    double up = bound;
    snprintf(ret, ATT_NUMBER_CHARS, exact ? "%.17g" : "%.9g", bound);
    /* Nine digits stand at most 1e-8 of the number apart: a few steps reach the next one up. */
    while (isfinite(bound) && strtod(ret, NULL) < bound) {
        up = nextafter(up + fabs(up) * 1e-9, INFINITY);
        snprintf(ret, ATT_NUMBER_CHARS, exact ? "%.17g" : "%.9g", up);
    }
}

/* A bound on the printed value's error: the sum rounded up. */
static double widened(double bound, double moved)
{
    return moved > 0 ? nextafter(bound + moved, INFINITY) : bound;
}

/* JSON knows neither NaN nor infinity. */
static const char *json_number(const char *text, double number)
{
    return isfinite(number) ? text : "null";
}

void att_print_query(FILE *to, struct att_answer_style style, double value, double bound, uint64_t lsn)
{
    char number[ATT_NUMBER_CHARS];
    char error[ATT_NUMBER_CHARS];
    double moved = att_format_value(number, value, style.exact);
    att_format_bound(error, widened(bound, moved), style.exact);
    if (style.json)
        fprintf(to, "{\"value\":%s,\"error_bound\":%s,\"lsn\":%" PRIu64 "}\n", json_number(number, value),
                json_number(error, bound), lsn);
    else
        fprintf(to, "%s %s\n", number, error);
}

void att_print_row(FILE *to, struct att_answer_style style, const double *values, uint32_t count, double bound,
                   uint64_t lsn)
{
    char number[ATT_NUMBER_CHARS];
    double moved = 0;
    if (style.json)
        fputs("{\"values\":[", to);
    for (uint32_t i = 0; i < count; i++) {
        moved = fmax(moved, att_format_value(number, values[i], style.exact));
        if (style.json)
            fprintf(to, "%s%s", i ? "," : "", json_number(number, values[i]));
        else
            fprintf(to, "%s ", number);
    }
    att_format_bound(number, widened(bound, moved), style.exact);
    if (style.json)
        fprintf(to, "],\"error_bound\":%s,\"lsn\":%" PRIu64 "}\n", json_number(number, bound), lsn);
    else
        fprintf(to, "%s\n", number);
}

void att_print_empty(FILE *to, struct att_answer_style style, const char *key, uint64_t lsn)
{
    if (style.json)
        fprintf(to, "{\"%s\":null,\"empty\":true,\"error_bound\":null,\"lsn\":%" PRIu64 "}\n", key, lsn);
    else
        fputs("empty\n", to);
}

static void print_column_json(FILE *to, struct att_answer_style style, const double *pairs, uint32_t count,
                              uint64_t lsn)
{
    char number[ATT_NUMBER_CHARS];
    double largest = 0;
    fputs("{\"values\":[", to);
    for (uint32_t i = 0; i < count; i++) {
        att_format_value(number, pairs[2 * i], style.exact);
        fprintf(to, "%s%s", i ? "," : "", json_number(number, pairs[2 * i]));
    }
    fputs("],\"error_bounds\":[", to);
    for (uint32_t i = 0; i < count; i++) {
        double value = pairs[2 * i];
        double bound = widened(pairs[2 * i + 1], att_format_value(number, value, style.exact));
        att_format_bound(number, bound, style.exact);
        fprintf(to, "%s%s", i ? "," : "", isfinite(value) ? json_number(number, bound) : "null");
        if (isfinite(value) && bound > largest)
            largest = bound;
    }
    att_format_bound(number, largest, style.exact);
    fprintf(to, "],\"error_bound\":%s,\"lsn\":%" PRIu64 "}\n", json_number(number, largest), lsn);
}

void att_print_column(FILE *to, struct att_answer_style style, const double *pairs, uint32_t count, uint64_t lsn)
{
    if (style.json) {
        print_column_json(to, style, pairs, count, lsn);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (isnan(pairs[2 * i]))
            att_print_empty(to, style, "value", lsn);
        else
            att_print_query(to, style, pairs[2 * i], pairs[2 * i + 1], lsn);
    }
}

/* How many bytes the character of UTF-8 has that begins here; 0: none begins. */
static size_t utf8_bytes(const unsigned char *at)
{
    static const struct {
        unsigned char first, last, least, most; /* of its first byte, and of its second */
        size_t bytes;
    } forms[] = {{0x01, 0x7f, 0x00, 0xff, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                 {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
                 {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (at[0] < forms[i].first || at[0] > forms[i].last || at[1] < forms[i].least || at[1] > forms[i].most)
            continue;
        for (size_t j = 2; j < forms[i].bytes; j++)
            if ((at[j] & 0xc0) != 0x80)
                return 0;
        return forms[i].bytes;
    }
    return 0;
}

void att_print_json_string(FILE *to, const char *text)
{
    fputc('"', to);
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        size_t bytes = utf8_bytes(at);
        if (bytes == 0) /* a file's name may be any bytes, JSON may not */
            fputs("\\ufffd", to);
        else if (*at == '"' || *at == '\\')
            fprintf(to, "\\%c", *at);
        else if (*at < 0x20)
            fprintf(to, "\\u%04x", *at);
        else
            fwrite(at, 1, bytes, to);
        at += bytes ? bytes : 1;
    }
    fputc('"', to);
}
