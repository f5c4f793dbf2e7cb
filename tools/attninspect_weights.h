/* Attention weights of a head, for the pictures of heatmap and report: computed in double from Q, K and the biases.
 *
 * Thread rule: as attninspect, one thread. */
#ifndef ATT_ATTNINSPECT_WEIGHTS_H
#define ATT_ATTNINSPECT_WEIGHTS_H

#include "attninspect.h"

/* A head of a recovered state. A zeroed one may be released. */
struct inspect_view {
    struct att_heads heads;
    struct att_recovery what;
    struct inspect_tokens tokens; /* of this head */
    uint32_t head;
    float *q; /* one row */
};

/* Recovers the state and looks at head `inspect->head`. */
enum att_status inspect_view_open(struct inspect *inspect, struct inspect_view *view, struct att_error *error);
void inspect_view_release(struct inspect_view *view);

/* s q.k + b of a row for every token; -inf for one that is deleted, masked or, where the state is causal, unseen. */
enum att_status inspect_scores(struct inspect_view *view, uint32_t row, double *ret_scores, struct att_error *error);

/* Turns scores into weights in place; returns their entropy in nats, or a negative number when there is no token. */
double inspect_softmax(double *scores, uint32_t count);

#endif
