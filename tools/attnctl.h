/* What the files of attnctl share. One thread, one connection. */
#ifndef ATT_ATTNCTL_H
#define ATT_ATTNCTL_H

#include <stdbool.h>
#include <stdint.h>

#include "attn.h"
#include "options.h"

#define CTL_PROGRAM "attnctl"

enum {
    CTL_TIMEOUT_MS = 30 * 1000,       /* commands that the daemon answers at once */
    CTL_SLOW_TIMEOUT_MS = 3600 * 1000 /* commands that compute or write a lot */
};

/* One run of attnctl. */
struct ctl {
    struct att_client *client;
    struct att_info info;
    bool json;
    bool durable;
    bool direct;
    uint32_t timeout_ms; /* 0: by command */
    const char *command; /* the one that runs, for messages */
    const char *file;    /* exec's, or NULL */
    uint64_t line;       /* in it */
};

/* A command. argv[0] is its name; run prints its own errors and returns what attnctl ends with. */
struct ctl_command {
    const char *name;
    const char *arguments; /* for help */
    const char *help;
    int least, most; /* arguments after the name; most -1: any number, which run checks */
    int (*run)(struct ctl *ctl, int argc, char **argv);
};

/* Ends with an entry without a name. */
extern const struct ctl_command ctl_commands[];

/* Looks the command up and checks the number of arguments; returns ATT_EXIT_OK, or complains as ctl_error does. */
int ctl_find(struct ctl *ctl, int argc, char **argv, const struct ctl_command **ret_command);

/* Prints "attnctl: [FILE: line N: ]COMMAND: message"; returns `code`, but ATT_EXIT_FAILURE inside exec. */
int ctl_error(struct ctl *ctl, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same for a status from the daemon or the library, in words. */
int ctl_status_error(struct ctl *ctl, enum att_status status);

/* What a status means in general, when nothing says it better; in the buffer or static memory. */
const char *ctl_words(struct ctl *ctl, enum att_status status, char *buffer, size_t size);

/* What the last status means, as the library and the daemon tell it; in the client, the buffer or static memory. */
const char *ctl_explain(struct ctl *ctl, enum att_status status, char *buffer, size_t size);

/* One request and its completion. The status is the completion's, or ATT_ETIMEOUT, ATT_ECLOSED. */
enum att_status ctl_call(struct ctl *ctl, const struct att_request *request, uint32_t timeout_ms,
                         struct att_completion *ret);

/* A row of Q: "I", or "H:I" where there are several heads, which alone is then accepted; within its matrix. All three
 * complain and return what attnctl ends with. */
int ctl_parse_row(struct ctl *ctl, const char *text, struct att_request *request);
/* A column, below `columns` of the matrix named. */
int ctl_parse_column(struct ctl *ctl, const char *text, const char *matrix, uint32_t columns,
                     struct att_request *request);
/* A column of the output: "J" or "H:J", as rows. */
int ctl_parse_headed_column(struct ctl *ctl, const char *text, struct att_request *request);

/* The commands that have a file of their own. */
int ctl_query(struct ctl *ctl, int argc, char **argv);
int ctl_row(struct ctl *ctl, int argc, char **argv);
int ctl_col(struct ctl *ctl, int argc, char **argv);
int ctl_all(struct ctl *ctl, int argc, char **argv);
int ctl_replay(struct ctl *ctl, int argc, char **argv);
int ctl_exec(struct ctl *ctl, int argc, char **argv);
int ctl_stat(struct ctl *ctl, int argc, char **argv);
int ctl_metrics(struct ctl *ctl, int argc, char **argv);
int ctl_top(struct ctl *ctl, int argc, char **argv);
int ctl_shutdown(struct ctl *ctl, int argc, char **argv);

#endif
