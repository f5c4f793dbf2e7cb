#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void att_hold_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            exit(ATT_EXIT_FAILURE);
}

enum att_status att_parse_u64(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret,
                              struct att_error *error)
{
    uint64_t number = 0;
    bool good = *text != '\0';
    for (const char *at = text; good && *at; at++) {
        good = *at >= '0' && *at <= '9';
        good = good && !__builtin_mul_overflow(number, (uint64_t)10, &number);
        good = good && !__builtin_add_overflow(number, (uint64_t)(*at - '0'), &number);
    }
    if (good && number >= min && number <= max) {
        *ret = number;
        return ATT_OK;
    }
    const bool open_ended = max == UINT64_MAX || max == UINT32_MAX - 1; /* whose end is no news to people but then */
    if (open_ended && *text != '\0' && text[strspn(text, "0123456789")] == '\0' && (!good || number > max))
        return att_fail(error, ATT_EINVAL, "%s: '%s' is larger than %" PRIu64, what, text, max);
    if (open_ended)
        return att_fail(error, ATT_EINVAL, "%s: '%s' is not a whole number of at least %" PRIu64, what, text, min);
    return att_fail(error, ATT_EINVAL, "%s: '%s' is not a whole number from %" PRIu64 " to %" PRIu64, what, text, min,
                    max);
}

enum att_status att_parse_u32(const char *what, const char *text, uint32_t min, uint32_t max, uint32_t *ret,
                              struct att_error *error)
{
    uint64_t number;
    enum att_status status = att_parse_u64(what, text, min, max, &number, error);
    if (status == ATT_OK)
        *ret = (uint32_t)number;
    return status;
}

/* Whether strtod or strtof, which ended at `end`, took the whole of a text that does not begin with space. */
static bool took_all(const char *text, const char *end)
{
    return *text != '\0' && end != text && *end == '\0' && !strchr(" \t\n\v\f\r", *text);
}

enum att_status att_parse_double(const char *what, const char *text, double *ret, struct att_error *error)
{
    char *end;
    double number = strtod(text, &end);
    if (!took_all(text, end))
        return att_fail(error, ATT_EINVAL, "%s: '%s' is not a number", what, text);
    if (!isfinite(number))
        return att_fail(error, ATT_EINVAL, "%s: '%s' is not a finite number", what, text);
    *ret = number;
    return ATT_OK;
}

enum att_status att_parse_double_in(const char *what, const char *text, double min, double max, double *ret,
                                    struct att_error *error)
{
    double number;
    enum att_status status = att_parse_double(what, text, &number, error);
    if (status != ATT_OK)
        return status;
    if (number < min || number > max)
        return att_fail(error, ATT_EINVAL, "%s: '%s' is not from %g to %g", what, text, min, max);
    *ret = number;
    return ATT_OK;
}

enum att_status att_parse_float(const char *what, const char *text, bool allow_minus_inf, float *ret,
                                struct att_error *error)
{
    char *end;
    float number = strtof(text, &end);
    if (!took_all(text, end))
        return att_fail(error, ATT_EINVAL, "%s: '%s' is not a number", what, text);
    bool overflowed = isinf(number) && isfinite(strtod(text, NULL));
    if (overflowed || (!isfinite(number) && !(allow_minus_inf && number == -INFINITY)))
        return att_fail(error, ATT_EINVAL, "%s: '%s' is not a finite float32%s", what, text,
                        allow_minus_inf ? " or -inf" : "");
    *ret = number;
    return ATT_OK;
}

enum att_status att_parse_word(const char *what, const char *text, const char *const *words, int *ret,
                               struct att_error *error)
{
    char list[200] = "";
    size_t used = 0;
    for (int i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret = i;
            return ATT_OK;
        }
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", words[i]);
    }
    return att_fail(error, ATT_EINVAL, "%s: '%s' is none of %s", what, text, list);
}

enum att_status att_parse_head(const char *what, const char *text, uint32_t heads, uint32_t *ret_head,
                               struct att_error *error)
{
    uint32_t head;
    enum att_status status = att_parse_u32(what, text, 0, UINT32_MAX, &head, error);
    if (status != ATT_OK)
        return status;
    if (head >= heads)
        return att_fail(error, ATT_ERANGE, "head %" PRIu32 " is out of range: there %s %" PRIu32, head,
                        heads == 1 ? "is" : "are", heads);
    *ret_head = head;
    return ATT_OK;
}

enum att_status att_parse_headed(const char *what, const char *text, uint32_t heads, uint32_t *ret_head,
                                 uint32_t *ret_index, struct att_error *error)
{
    char head_text[12];
    uint32_t head = 0;
    uint32_t index;
    const char *colon = strchr(text, ':');
    if (!colon && heads > 1)
        return att_fail(error, ATT_EINVAL, "%s: '%s': there are %" PRIu32 " heads: write HEAD:%s", what, text, heads,
                        text);
    if (colon) {
        int length = snprintf(head_text, sizeof head_text, "%.*s", (int)(colon - text), text);
        if (length < 0 || (size_t)length >= sizeof head_text)
            return att_fail(error, ATT_EINVAL, "%s: '%s': the head is not from 0 to %" PRIu32, what, text, heads - 1);
        enum att_status parsed = att_parse_head(what, head_text, heads, &head, error);
        if (parsed != ATT_OK)
            return parsed;
    }
    enum att_status status = att_parse_u32(what, colon ? colon + 1 : text, 0, UINT32_MAX - 1, &index, error);
    if (status != ATT_OK)
        return status;
    *ret_head = head;
    *ret_index = index;
    return ATT_OK;
}

int att_usage_error(const char *program, const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "%s: ", program);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (see %s --help)\n", program);
    return ATT_EXIT_USAGE;
}

const char *att_option_word(char **words)
{
    const char *next = words[optind];
    return next && optopt != 0 && next[0] == '-' && next[1] == optopt ? next : words[optind - 1];
}

int att_bad_option(const char *program, int option, char **words)
{
    const char *word = att_option_word(words);
    if (option == ':')
        return att_usage_error(program, "%s: its argument is missing", word);
    return att_usage_error(program, "%s is not an option, or takes no argument", word);
}

int att_failure(const char *program, const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "%s: ", program);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return ATT_EXIT_FAILURE;
}

int att_finish_output(const char *program, int code)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    int number = errno;
    att_failure(program, "standard output: %s", number ? strerror(number) : "a write failed");
    return code == ATT_EXIT_OK ? ATT_EXIT_FAILURE : code;
}
