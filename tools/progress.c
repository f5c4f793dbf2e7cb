#include "progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { BAR_CELLS = 30, REDRAW_NS = 100 * 1000 * 1000 };

uint64_t att_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void att_progress_start(struct att_progress *progress, const char *label, uint64_t total)
{
    *progress = (struct att_progress){.label = label,
                                      .total = total,
                                      .started_ns = att_clock_ns(),
                                      .shown = isatty(STDERR_FILENO) == 1};
    progress->drawn_ns = progress->started_ns;
}

static void print_remaining(double seconds)
{
    const uint64_t whole = (uint64_t)(seconds + 0.5);
    if (whole < 100)
        fprintf(stderr, "  %" PRIu64 " s left", whole);
    else
        fprintf(stderr, "  %" PRIu64 ":%02" PRIu64 " min left", whole / 60, whole % 60);
}

void att_progress_update(struct att_progress *progress, uint64_t done)
{
    if (!progress->shown)
        return;
    uint64_t now = att_clock_ns();
    if (now - progress->drawn_ns < REDRAW_NS)
        return;
    progress->drawn_ns = now;
    double rate = (double)done / ((double)(now - progress->started_ns) * 1e-9);
    fprintf(stderr, "\r\033[K%s ", progress->label);
    if (progress->total > 0) {
        double part = done < progress->total ? (double)done / (double)progress->total : 1;
        char bar[BAR_CELLS + 1];
        int full = (int)(part * BAR_CELLS);
        for (int i = 0; i < BAR_CELLS; i++)
            bar[i] = i < full ? '#' : '.';
        bar[BAR_CELLS] = '\0';
        fprintf(stderr, "[%s] %3.0f%%", bar, 100 * part);
    } else {
        fprintf(stderr, "%" PRIu64, done);
    }
    fprintf(stderr, "  %.3g/s", rate);
    if (done > 0 && done < progress->total)
        print_remaining((double)(progress->total - done) / rate);
    fflush(stderr);
}

double att_progress_end(struct att_progress *progress)
{
    if (progress->shown)
        fputs("\r\033[K", stderr);
    progress->shown = false;
    return (double)(att_clock_ns() - progress->started_ns) * 1e-9;
}
