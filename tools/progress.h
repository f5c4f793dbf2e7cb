/* A progress bar with rate and remaining time, on stderr, and only when that is a terminal.
 *
 * Thread rule: a bar belongs to one thread. Redraws at most ten times a second, so update may be called often. */
#ifndef ATT_PROGRESS_H
#define ATT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* Owned by the caller; the fields are the module's. Needs no release. */
struct att_progress {
    const char *label; /* caller's, must outlive the bar */
    uint64_t total;
    uint64_t started_ns;
    uint64_t drawn_ns;
    bool shown;
};

/* Begins a bar from 0 to `total` (0: unknown). Draws nothing unless stderr is a terminal. */
void att_progress_start(struct att_progress *progress, const char *label, uint64_t total);

void att_progress_update(struct att_progress *progress, uint64_t done);

/* Erases the bar's line, so that what is printed next starts on a clean one. Returns the seconds since the start. */
double att_progress_end(struct att_progress *progress);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t att_clock_ns(void);

#endif
