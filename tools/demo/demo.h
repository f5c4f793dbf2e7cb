/* The demonstration: what its parts offer each other. See attndemo.c for the story.
 *
 * Thread rule: one thread in each process. Whatever must not fail ends the program through demo_fail, which stops the
 * daemon and the reader first. */
#ifndef ATT_DEMO_H
#define ATT_DEMO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "attn.h"

/* ---- The workload (demo_data.c) ------------------------------------------------------------------------ */

/* A real head, the edits made to it, and the outputs expected after step_at[] edits. All arrays are owned. */
struct workload {
    uint32_t n_q, n_k, d, d_v;
    double scale;
    float *q, *k, *v;         /* k and v: as they are at the step that was played last */
    float *first_k, *first_v; /* before any edit */
    uint32_t edits;
    int64_t *kind, *index; /* kind 0: a row of K; 1: a row of V */
    float *rows;
    uint32_t steps;
    int64_t *step_at;
    uint32_t pairs;
    int64_t *pair; /* pairs x (i, j) */
    double *pair_values;
    uint32_t whole; /* whole rows */
    int64_t *row;
    double *row_values;
};

void workload_load(struct workload *workload, const char *directory);
void workload_release(struct workload *workload);
/* Applies the edits [from, to) to k and v. */
void workload_apply(const struct workload *workload, uint32_t from, uint32_t to, float *k, float *v);

/* ---- The processes (demo_processes.c) ------------------------------------------------------------------ */

struct daemon {
    const char *program, *data, *work; /* attnd; the arrays; where state, socket and log go */
    char socket[512];
    pid_t pid;
    double ready_ms; /* from the last start to `ready` */
};

/* Starts attnd, on the arrays when `create`, and waits until it says that it is ready. */
void daemon_start(struct daemon *daemon, bool create);
/* Returns when it executes nothing any more; only daemon_stop may follow, with SIGKILL. */
void daemon_pause(const struct daemon *daemon);
/* Sends the signal and waits; the wait status. */
int daemon_stop(struct daemon *daemon, int signal);
struct att_client *daemon_connect(const struct daemon *daemon);
/* Forks a child that ends with this process. In the child it returns 0. */
pid_t demo_fork(bool is_daemon);
/* On SIGINT and SIGTERM children are stopped before this process ends. */
void demo_catch_signals(void);
void demo_stop_children(void);
void demo_forget_reader(void);
_Noreturn void demo_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* demo_fail with the client's message, unless ATT_OK. */
void demo_need(struct att_client *client, enum att_status status, const char *what);
void *demo_allocate(size_t count, size_t size);
double demo_median(uint32_t *nanoseconds, uint32_t count);
uint32_t demo_random(uint64_t *state, uint32_t limit);

/* ---- The stream of edits (demo_stream.c) --------------------------------------------------------------- */

struct stream {
    struct att_client *client;
    const struct workload *workload;
    uint32_t next;         /* position to send */
    uint32_t acknowledged; /* all before it are acknowledged */
    uint32_t from;         /* where this connection began */
    uint64_t base_lsn;     /* the daemon's LSN then */
    uint64_t sent, acks;   /* over all connections */
    uint64_t nanoseconds;  /* spent streaming, over all connections */
};

/* Sends from stream->acknowledged on, over a new connection. */
void stream_begin(struct stream *stream, struct att_client *client);
/* Returns when everything before `to` is acknowledged. */
void stream_run(struct stream *stream, uint32_t to);
/* As stream_run, but kills the daemon soon after `kill_at` edits are acknowledged, others on their way, and takes the
 * acknowledgements that it still gave. Returns when the kill was sent (CLOCK_MONOTONIC, ns). */
uint64_t stream_run_and_kill(struct stream *stream, uint32_t to, uint32_t kill_at, struct daemon *daemon);

/* ---- The reader (demo_reader.c) ------------------------------------------------------------------------ */

enum { READER_SAMPLES = 1 << 21 };

/* Shared with the reader's process; the reader alone writes what is not marked. */
struct reader {
    _Atomic bool stop, pause, timed; /* written by the demonstration */
    _Atomic bool paused;
    _Atomic uint64_t answers, connections, last_incarnation, last_lsn;
    _Atomic uint64_t answers_here;    /* since it connected last */
    _Atomic uint64_t first_answer_ns; /* when: the first one since it connected last */
    _Atomic uint64_t backwards;       /* answers from before one that it had seen already */
    _Atomic uint64_t wrong;           /* refused, not finite, or without a bound */
    _Atomic uint64_t seen;            /* answers while `timed` */
    char why[200];                    /* the last wrong one; read after it has ended */
    uint32_t samples[READER_SAMPLES]; /* nanoseconds; the last ones while `timed` */
};

struct reader *reader_start(const struct daemon *daemon, const struct workload *workload, pid_t *ret_pid);
void reader_pause(struct reader *reader, bool pause);
/* Ends the process; false if it did not end well. */
bool reader_stop(struct reader *reader, pid_t pid);
void reader_free(struct reader *reader);

/* ---- Comparing (demo_check.c) -------------------------------------------------------------------------- */

struct check {
    uint64_t outputs;
    uint64_t violations; /* error above the answer's own bound */
    double worst_error;
    double its_bound;
    double worst_ratio; /* error / bound, of any answer */
};

/* Everything expected after step_at[step] edits. */
void check_step(struct att_client *client, const struct workload *workload, uint32_t step, struct check *check);
/* Every output against a float64 softmax over k and v, with plain loops. `outputs`, `bounds`: read_outputs'. */
void check_outputs(const struct workload *workload, const float *k, const float *v, const double *outputs,
                   const double *bounds, struct check *check);
/* n_q rows of d_v values, and a bound for each row. */
void read_outputs(struct att_client *client, const struct workload *workload, double *ret_outputs, double *ret_bounds);
void check_add(struct check *sum, const struct check *check);

/* ---- Timing (demo_timing.c) ---------------------------------------------------------------------------- */

enum { TIMING_MOST = 1 << 14 };

struct timing {
    uint32_t queries, rows, recomputed, recomputed_team;
    uint32_t query_ns[TIMING_MOST], row_ns[TIMING_MOST], recompute_ns[TIMING_MOST], recompute_team_ns[TIMING_MOST];
    double busy, processors; /* processor time while all of this rested: what was not idle, and all of it */
    double deviation;        /* of the recomputed row from the expected one, relative to its largest value */
};

/* One round, at step_at[step]: queries and rows over the ring, recomputations in this process, in turn. */
void timing_round(struct timing *timing, struct att_client *client, const struct workload *workload, uint32_t step);

#endif
