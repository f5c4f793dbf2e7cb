/* Helpers for the command lines of all programs: strict numbers, exit codes, one-line complaints.
 *
 * Thread rule: any thread; nothing here keeps state. Nothing blocks. */
#ifndef ATT_OPTIONS_H
#define ATT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "attn_status.h"

/* What a program ends with. */
enum att_exit { ATT_EXIT_OK = 0, ATT_EXIT_FAILURE = 1, ATT_EXIT_USAGE = 2 };

/* First of all: opens what is closed of standard input, output and error, or ends the program. Else files that are
 * opened later get their numbers, and what is printed goes into the state. Using them fails as if they were closed. */
void att_hold_standard_files(void);

/* Each parses the whole of `text` or fails with ATT_EINVAL and a message that begins with `what` (an option or an
 * argument's name); *ret is untouched then. No surrounding space, no NaN. */
enum att_status att_parse_u64(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret,
                              struct att_error *error);
enum att_status att_parse_u32(const char *what, const char *text, uint32_t min, uint32_t max, uint32_t *ret,
                              struct att_error *error);
/* A finite double. */
enum att_status att_parse_double(const char *what, const char *text, double *ret, struct att_error *error);
/* A finite double in [min, max]. */
enum att_status att_parse_double_in(const char *what, const char *text, double min, double max, double *ret,
                                    struct att_error *error);
/* A float32, rounded once; finite, or -inf where allowed. */
enum att_status att_parse_float(const char *what, const char *text, bool allow_minus_inf, float *ret,
                                struct att_error *error);
/* One of a NULL-terminated list of words; its position in *ret. */
enum att_status att_parse_word(const char *what, const char *text, const char *const *words, int *ret,
                               struct att_error *error);
/* A head's number. ATT_ERANGE: a number, but there are not so many heads. */
enum att_status att_parse_head(const char *what, const char *text, uint32_t heads, uint32_t *ret_head,
                               struct att_error *error);
/* A row or token: "I", or "H:I". With several heads H is required; with one, only 0 is accepted for it. ATT_ERANGE as
 * att_parse_head. */
enum att_status att_parse_headed(const char *what, const char *text, uint32_t heads, uint32_t *ret_head,
                                 uint32_t *ret_index, struct att_error *error);

/* Prints "PROGRAM: message (see PROGRAM --help)" on stderr; returns ATT_EXIT_USAGE. */
int att_usage_error(const char *program, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The argument that getopt_long refused. Of letters one after another, as in -xy, it stops before the last: then optind
 * is not past the argument yet, and the one before may be anything. */
const char *att_option_word(char **words);
/* The same for what getopt_long refused (with opterr 0, or ':' first in its options): `option` is what it returned, '?' or ':',
 * words what it was given. */
int att_bad_option(const char *program, int option, char **words);

/* Prints "PROGRAM: message" on stderr; returns ATT_EXIT_FAILURE. */
int att_failure(const char *program, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Flushes stdout; when anything written to it was lost, says so and turns `code` into ATT_EXIT_FAILURE. */
int att_finish_output(const char *program, int code);

#endif
