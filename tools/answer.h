/* How answers are printed, by the client and the inspector alike: 9 significant digits, 17 in double; as text or as
 * one JSON object a line. Rounding a number for print moves it, so the bound printed covers the number printed.
 *
 * Thread rule: as stdio. Nothing is kept. */
#ifndef ATT_ANSWER_H
#define ATT_ANSWER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct att_answer_style {
    bool json;
    bool exact; /* 17 digits: the state's precision is double */
};

enum { ATT_NUMBER_CHARS = 32 };

/* Formats a number (finite, or "nan", "inf"); returns how far the printed number is from it. */
double att_format_value(char ret[ATT_NUMBER_CHARS], double value, bool exact);

/* Formats an error bound, rounded up. */
void att_format_bound(char ret[ATT_NUMBER_CHARS], double bound, bool exact);

/* "VALUE ERROR_BOUND". */
void att_print_query(FILE *to, struct att_answer_style style, double value, double bound, uint64_t lsn);

/* The values, then the bound of them all, on one line. */
void att_print_row(FILE *to, struct att_answer_style style, const double *values, uint32_t count, double bound,
                   uint64_t lsn);

/* A query's (`key` is "value") or a row's ("values") answer when the row has no tokens. */
void att_print_empty(FILE *to, struct att_answer_style style, const char *key, uint64_t lsn);

/* `count` lines "VALUE ERROR_BOUND" from pairs (value, bound); NaN prints "empty". One object in JSON. */
void att_print_column(FILE *to, struct att_answer_style style, const double *pairs, uint32_t count, uint64_t lsn);

/* A JSON string with its quotes. */
void att_print_json_string(FILE *to, const char *text);

#endif
