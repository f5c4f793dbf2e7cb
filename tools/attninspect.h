/* What the files of attninspect share. One thread. */
#ifndef ATT_ATTNINSPECT_H
#define ATT_ATTNINSPECT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "options.h"
#include "recover.h"

#define INSPECT_PROGRAM "attninspect"

/* A:B on the command line: A .. B - 1. */
struct inspect_range {
    uint32_t begin, end;
    bool given;
};

/* One run of attninspect. */
struct inspect {
    const char *directory;
    struct att_store *store; /* read-only; NULL for a command that opens DIR itself */
    bool json;
    uint64_t from;   /* log: first LSN */
    uint64_t limit;  /* log: records */
    uint64_t to_lsn; /* repair: the last update to keep */
    bool to_lsn_given;
    uint32_t head;                   /* heatmap, report */
    struct inspect_range rows, keys; /* heatmap */
};

/* A command; argv[0] is its name. run prints its own errors and returns what attninspect ends with. */
struct inspect_command {
    const char *name;
    const char *arguments;
    const char *help;
    int count;  /* of arguments */
    bool opens; /* DIR itself */
    int (*run)(struct inspect *inspect, char **argv);
};

int inspect_info(struct inspect *inspect, char **argv);
int inspect_verify(struct inspect *inspect, char **argv);
int inspect_verify_unopened(const struct inspect *inspect, const struct att_error *error);
int inspect_log(struct inspect *inspect, char **argv);
int inspect_dump(struct inspect *inspect, char **argv);
int inspect_query(struct inspect *inspect, char **argv);
int inspect_row(struct inspect *inspect, char **argv);
int inspect_copy(struct inspect *inspect, char **argv);
int inspect_repair(struct inspect *inspect, char **argv);
int inspect_heatmap(struct inspect *inspect, char **argv);
int inspect_report(struct inspect *inspect, char **argv);

/* Opens a state read-only. */
enum att_status inspect_open(const char *directory, struct att_store **ret_store, struct att_error *error);

/* A file to write to; NULL, with what is wrong, where it cannot be or is one that DIR's state consists of. */
FILE *inspect_begin_file(const struct inspect *inspect, const char *path, struct att_error *error);

/* Ends a file that was written; `wrong`: why it could not be, or NULL. What there is of one that failed is removed. */
enum att_status inspect_end_file(FILE *file, const char *path, const char *wrong, struct att_error *error);

/* Recovers private engines, not started; the caller releases them. `overrides`: as for att_recover. */
enum att_status inspect_recover(struct inspect *inspect, unsigned overrides, struct att_heads *ret_heads,
                                struct att_recovery *ret_what, struct att_error *error);

/* The tokens of some heads as they are after the whole log. */
struct inspect_tokens {
    uint32_t count;   /* of each head: highest index that any of them uses + 1 */
    uint32_t deleted; /* not there, of all heads */
    bool biased;      /* some live token's bias is not 0 */
    float *keys;      /* heads x count x d; zeros where deleted */
    float *values;    /* heads x count x d_v */
    float *biases;    /* heads x count */
    uint8_t *live;    /* heads x count */
};

/* Copies them out; release them with inspect_tokens_release (also after a failure, and zeroed ones). */
enum att_status inspect_tokens_load(struct att_engine *const *engines, uint32_t heads, uint32_t d, uint32_t d_v,
                                    struct inspect_tokens *tokens, struct att_error *error);
void inspect_tokens_release(struct inspect_tokens *tokens);

#endif
