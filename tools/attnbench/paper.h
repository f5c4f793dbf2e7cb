/* What the files of the suite paper share. */
#ifndef ATT_BENCH_PAPER_H
#define ATT_BENCH_PAPER_H

#include "rig.h"

/* UpdateK and UpdateV in turn, of token `token`, at a random column. False: the log is full. */
bool paper_update(struct rig *rig, uint32_t token);

/* An engine, and how many updates it takes between two merges. */
struct paper_subject {
    struct rig rig;
    uint32_t updates;
};

/* ns of CPU time an update: `updates` of them, of another token each (so that compaction saves nothing), and the merge
 * that they make necessary. context: a struct paper_subject, held. */
double paper_run_updates(void *context);

/* suite_paper_worst.c: the slowest of many updates over their median, while merges run behind them, for each tau. */
void paper_measure_worst(const struct bench *bench);

/* suite_paper_rivals.c */
void paper_measure_rivals(const struct bench *bench);

#endif
