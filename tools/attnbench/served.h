/* An attnd of its own, on a temporary directory, and clients of it. Whatever fails ends the program. */
#ifndef ATT_BENCH_SERVED_H
#define ATT_BENCH_SERVED_H

#include <sys/types.h>

#include "attn.h"
#include "bench.h"

struct served {
    pid_t pid;
    uint32_t n_q, n_k, d;
    const char *durability; /* attnd's option */
    char root[64], socket[80];
};

/* Starts the attnd that lies beside this program: random arrays, one thread, no durability; waits until no row is cold.
 * log_capacity 0: its own choice. */
void served_start(struct served *served, uint32_t n_q, uint32_t n_k, uint32_t d, uint32_t log_capacity);
void served_stop(struct served *served);

/* The same with a durability; then on a disk: a directory in memory ends the program. */
void served_start_durable(struct served *served, uint32_t n_q, uint32_t n_k, uint32_t d, uint32_t log_capacity,
                          const char *durability);
/* Kills it, and starts it again on what is on disk; returns when it is ready. */
void served_kill(struct served *served);
void served_resume(struct served *served);

/* The path of a program that lies beside this one. */
void served_program(const char *name, char *ret_path, size_t size);

struct att_client *served_connect(const struct served *served, bool direct);

/* Replaces key and value of a random token, `depth` at a time in flight, `count` times. */
void served_update(struct att_client *client, const struct served *served, struct bench_random *random, uint32_t count,
                   uint32_t depth);

/* What the child does until it is killed; it gets its own client. Killed with served_end_child. */
pid_t served_child(const struct served *served, void (*work)(const struct served *served, void *context),
                   void *context);
void served_end_child(pid_t pid);

/* Binds this process to one processor, if there is one of this number: two of them must not share one by accident. */
void served_pin(pid_t pid, int processor);

/* The value below which `part` of them lie; reorders them. */
double served_quantile(double *values, uint32_t count, double part);

#endif
