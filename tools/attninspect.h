/* What the files of attninspect share. One thread. */
#ifndef ATT_ATTNINSPECT_H
#define ATT_ATTNINSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include "options.h"
#include "recover.h"

#define INSPECT_PROGRAM "attninspect"

/* One run of attninspect. */
struct inspect {
    const char *directory;
    struct att_store *store; /* read-only */
    bool json;
    uint64_t from;  /* log: first LSN */
    uint64_t limit; /* log: records */
};

/* A command; argv[0] is its name. run prints its own errors and returns what attninspect ends with. */
struct inspect_command {
    const char *name;
    const char *arguments;
    const char *help;
    int count; /* of arguments */
    int (*run)(struct inspect *inspect, char **argv);
};

int inspect_info(struct inspect *inspect, char **argv);
int inspect_verify(struct inspect *inspect, char **argv);
int inspect_verify_unopened(const struct inspect *inspect, const struct att_error *error);
int inspect_log(struct inspect *inspect, char **argv);
int inspect_dump(struct inspect *inspect, char **argv);
int inspect_query(struct inspect *inspect, char **argv);
int inspect_row(struct inspect *inspect, char **argv);

/* Opens a state read-only. */
enum att_status inspect_open(const char *directory, struct att_store **ret_store, struct att_error *error);

/* Recovers a private engine, not started; the caller frees it. `overrides`: as for att_recover. */
enum att_status inspect_recover(struct inspect *inspect, unsigned overrides, struct att_engine **ret_engine,
                                struct att_recovery *ret_what, struct att_error *error);

/* The tokens as they are after the whole log. */
struct inspect_tokens {
    uint32_t count; /* highest index used + 1 */
    uint32_t deleted;
    bool biased;   /* some live token's bias is not 0 */
    float *keys;   /* count x d; zeros where deleted */
    float *values; /* count x d_v */
    float *biases; /* count */
    uint8_t *live; /* count */
};

/* Copies them out; release them with inspect_tokens_release (also after a failure, and zeroed ones). */
enum att_status inspect_tokens_load(const struct att_engine *engine, uint32_t d, uint32_t d_v,
                                    struct inspect_tokens *tokens, struct att_error *error);
void inspect_tokens_release(struct inspect_tokens *tokens);

#endif
