/* exec: the commands of the table, one a line. */
#include "attnctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The words of a line, up to a comment. Grows as needed; reused from line to line. */
struct words {
    char **at;
    int count;
    int room; /* one more is kept for the NULL */
};

static bool split(char *line, struct words *words)
{
    char *rest = line;
    char *word;
    words->count = 0;
    while ((word = strtok_r(rest, " \t\r\n", &rest)) && *word != '#') {
        if (words->count == words->room) {
            int room = words->room ? 2 * words->room : 64;
            char **at = realloc(words->at, ((size_t)room + 1) * sizeof *at);
            if (!at)
                return false;
            words->at = at;
            words->room = room;
        }
        words->at[words->count++] = word;
    }
    if (words->at)
        words->at[words->count] = NULL;
    return true;
}

/* Runs what the stream holds; a program may sit at its other end, so each answer goes out at once. */
static int run_lines(struct ctl *ctl, FILE *from)
{
    const struct ctl_command *command;
    struct words words = {0};
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    int code = ATT_EXIT_OK;
    while (code == ATT_EXIT_OK && (length = getline(&line, &size, from)) >= 0) {
        ctl->line++;
        ctl->command = "exec";
        if (memchr(line, '\0', (size_t)length)) /* else the line would end there */
            code = ctl_error(ctl, ATT_EXIT_FAILURE, "a NUL byte in the line: is this text?");
        else if (!split(line, &words))
            code = ctl_error(ctl, ATT_EXIT_FAILURE, "not enough memory");
        else if (words.count > 0 && strcmp(words.at[0], "exec") == 0)
            code = ctl_error(ctl, ATT_EXIT_FAILURE, "exec within exec");
        else if (words.count > 0 && (code = ctl_find(ctl, words.count, words.at, &command)) == ATT_EXIT_OK)
            code = command->run(ctl, words.count, words.at);
        if (code == ATT_EXIT_OK && fflush(stdout) != 0)
            code = ATT_EXIT_FAILURE; /* reported when the program ends */
    }
    if (code == ATT_EXIT_OK && !feof(from))
        code = att_failure(CTL_PROGRAM, "exec: %s: cannot read line %" PRIu64 ": %s", ctl->file, ctl->line + 1,
                           strerror(errno));
    free(words.at);
    free(line);
    return code;
}

int ctl_exec(struct ctl *ctl, int argc, char **argv)
{
    bool is_stdin = argc < 2 || strcmp(argv[1], "-") == 0;
    FILE *from = is_stdin ? stdin : fopen(argv[1], "re");
    if (!from)
        return ctl_error(ctl, ATT_EXIT_FAILURE, "%s: cannot open: %s", argv[1], strerror(errno));
    ctl->file = is_stdin ? "standard input" : argv[1];
    int code = run_lines(ctl, from);
    ctl->file = NULL;
    if (!is_stdin)
        fclose(from);
    return code;
}
