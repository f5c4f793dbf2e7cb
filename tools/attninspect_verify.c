/* verify: every checksum and the log's continuity (the store's part), then rows of the bases against a recomputation
 * in long double from Q, K and V, written here and not shared with the engine. */
#include "attninspect.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "answer.h"

enum { MOST_ROWS = 64, FEWEST_ROWS = 4 };
enum { UNCHECKED = -1 }; /* a severity: nothing is wrong with what could not be looked at, nor is it known to be fine */
static const double WORK_LIMIT = 2e9; /* multiplications: seconds */

struct verifying {
    const struct inspect *inspect;
    int worst;       /* severity */
    char prefix[32]; /* "head H: " where there are several, while a head is looked at */
};

static void print_finding(void *context, int severity, const char *text)
{
    static const char *const words[] = {"unchecked", "fine", "damaged", "lost"};
    struct verifying *self = context;
    const char *word = words[severity < UNCHECKED ? 0 : severity > 2 ? 3 : severity - UNCHECKED];
    if (self->inspect->json) {
        printf("{\"severity\":%d,\"finding\":", severity < 0 ? 0 : severity);
        att_print_json_string(stdout, text);
        puts("}");
    } else {
        printf("%s: %s\n", word, text);
    }
    if (severity > self->worst)
        self->worst = severity;
}

static void finding(struct verifying *self, int severity, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void finding(struct verifying *self, int severity, const char *format, ...)
{
    char text[700];
    va_list arguments;
    size_t used = (size_t)snprintf(text, sizeof text, "%s", self->prefix);
    va_start(arguments, format);
    vsnprintf(text + used, sizeof text - used, format, arguments);
    va_end(arguments);
    print_finding(self, severity, text);
}

/* ---- The recomputation --------------------------------------------------------------------------------- */

/* What rows are compared with. */
struct oracle {
    struct att_engine *engine;
    const struct inspect_tokens *tokens;
    uint32_t heads, n_q, d, d_v;
    bool causal;
    double scale;
    float *q;            /* d */
    double *stored;      /* d_v: the engine's answer */
    long double *scores; /* one for each token */
    long double *sums;   /* d_v */
};

static long double score(const struct oracle *o, uint32_t row, uint32_t token)
{
    const float *key = o->tokens->keys + (size_t)token * o->d;
    long double dot = 0;
    if (!o->tokens->live[token] || (o->causal && token > row))
        return -INFINITY;
    for (uint32_t p = 0; p < o->d; p++)
        dot += (long double)o->q[p] * (long double)key[p];
    return (long double)o->scale * dot + (long double)o->tokens->biases[token];
}

/* O[row] into o->sums; false when the row sees no token. */
static bool recompute(struct oracle *o, uint32_t row)
{
    long double largest = -INFINITY;
    long double denominator = 0;
    for (uint32_t i = 0; i < o->tokens->count; i++) {
        o->scores[i] = score(o, row, i);
        largest = fmaxl(largest, o->scores[i]);
    }
    if (isinf(largest))
        return false;
    for (uint32_t j = 0; j < o->d_v; j++)
        o->sums[j] = 0;
    for (uint32_t i = 0; i < o->tokens->count; i++) {
        const float *value = o->tokens->values + (size_t)i * o->d_v;
        long double weight = expl(o->scores[i] - largest);
        denominator += weight;
        if (weight > 0)
            for (uint32_t j = 0; j < o->d_v; j++)
                o->sums[j] += weight * (long double)value[j];
    }
    for (uint32_t j = 0; j < o->d_v; j++)
        o->sums[j] /= denominator;
    return true;
}

/* Compares one hot row; *worst keeps the largest error over its bound. */
static void compare_row(struct verifying *self, struct oracle *o, uint32_t row, enum att_status status, double bound,
                        double *worst)
{
    bool has_tokens = recompute(o, row);
    if (status == ATT_EMPTY || !has_tokens) {
        if ((status == ATT_EMPTY) == has_tokens)
            finding(self, 2, "row %" PRIu32 ": its base says that it is%s empty, the tokens say the opposite", row,
                    has_tokens ? "" : " not");
        return;
    }
    uint32_t at = 0;
    long double largest = -1;
    for (uint32_t j = 0; j < o->d_v; j++) {
        long double error = fabsl((long double)o->stored[j] - o->sums[j]);
        if (!(error <= largest)) {
            largest = error;
            at = j;
        }
    }
    if (!(largest <= (long double)bound))
        finding(self, 2,
                "row %" PRIu32 ", column %" PRIu32 ": its base gives %.9g, Q, K and V give %.9Lg: error %.3Lg "
                "is above its bound %.3g",
                row, at, o->stored[at], o->sums[at], largest, bound);
    else if (bound > 0 && (double)(largest / (long double)bound) > *worst)
        *worst = (double)(largest / (long double)bound);
}

static uint32_t greatest_common_divisor(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Visits all rows, spread out, until enough hot ones are compared. */
static enum att_status compare_rows(struct verifying *self, struct oracle *o, const char *when, struct att_error *error)
{
    double work = ((double)o->tokens->count * (o->d + o->d_v) + 1) * o->heads; /* the heads share the time */
    uint32_t most = WORK_LIMIT / work > MOST_ROWS ? MOST_ROWS : (uint32_t)(WORK_LIMIT / work);
    most = most < FEWEST_ROWS ? FEWEST_ROWS : most;
    uint32_t step = (uint32_t)(0.618 * o->n_q) + 1;
    while (greatest_common_divisor(step, o->n_q) != 1)
        step++;
    uint32_t compared = 0;
    uint32_t cold = 0;
    uint64_t row = 0;
    double worst = 0;
    for (uint32_t i = 0; i < o->n_q && compared < most; i++, row = (row + step) % o->n_q) {
        double bound = 0;
        enum att_status status = att_engine_row(o->engine, (uint32_t)row, o->stored, &bound, error);
        if (status == ATT_AGAIN) {
            cold++;
            continue;
        }
        if (status != ATT_OK && status != ATT_EMPTY)
            return status;
        enum att_status read = att_engine_q(o->engine, (uint32_t)row, o->q, error);
        if (read != ATT_OK)
            return read;
        compare_row(self, o, (uint32_t)row, status, bound, &worst);
        compared++;
    }
    if (compared == 0)
        finding(self, UNCHECKED, "rows %s: 0 recomputed: none of %" PRIu32 " has a base that answers", when, o->n_q);
    else
        finding(self, 0,
                "rows %s: %" PRIu32 " recomputed from Q, K and V%s; largest error %.2g of its bound; %" PRIu32
                " have no base that answers",
                when, compared, compared == most ? " (a sample)" : "", worst, cold);
    return ATT_OK;
}

static enum att_status check_rows(struct verifying *self, struct att_engine *engine, const struct att_recovery *what,
                                  const char *when, struct att_error *error)
{
    const struct att_state_shape *shape = &what->snapshot.shape;
    struct inspect_tokens tokens = {0};
    enum att_status status = inspect_tokens_load(&engine, 1, shape->d, shape->d_v, &tokens, error);
    struct oracle o = {.engine = engine,
                       .tokens = &tokens,
                       .heads = shape->heads,
                       .n_q = shape->n_q,
                       .d = shape->d,
                       .d_v = shape->d_v,
                       .causal = shape->causal != 0,
                       .scale = what->scale};
    o.q = malloc(shape->d * sizeof *o.q);
    o.stored = malloc(shape->d_v * sizeof *o.stored);
    o.sums = malloc(shape->d_v * sizeof *o.sums);
    o.scores = malloc((tokens.count + (size_t)1) * sizeof *o.scores);
    if (status == ATT_OK && (!o.q || !o.stored || !o.sums || !o.scores))
        status = att_fail(error, ATT_ENOMEM, "not enough memory to recompute rows");
    if (status == ATT_OK)
        status = compare_rows(self, &o, when, error);
    free(o.scores);
    free(o.sums);
    free(o.stored);
    free(o.q);
    inspect_tokens_release(&tokens);
    return status;
}

/* A sample of the rows of every head. */
static void check_heads(struct verifying *self, const struct att_heads *heads, const struct att_recovery *what,
                        const char *when)
{
    struct att_error error = {0};
    for (uint32_t head = 0; head < heads->count; head++) {
        if (heads->count > 1)
            snprintf(self->prefix, sizeof self->prefix, "head %" PRIu32 ": ", head);
        if (check_rows(self, heads->engines[head], what, when, &error) != ATT_OK)
            finding(self, 2, "rows %s: %s", when, error.text);
    }
    self->prefix[0] = '\0';
}

/* Rows of the bases as they are stored, or with the log replayed. */
static void check_state(struct verifying *self, struct inspect *inspect, bool with_log)
{
    struct att_heads heads;
    struct att_recovery what;
    struct att_error error = {0};
    const char *when = with_log ? "after the log" : "at the snapshot";
    if (inspect_recover(inspect, with_log ? 0 : ATT_WITHOUT_LOG, &heads, &what, &error) != ATT_OK) {
        finding(self, 2, "the state %s cannot be recovered: %s", when, error.text);
        return;
    }
    if (with_log)
        finding(self, 0,
                "recovered to LSN %" PRIu64 ": generation %" PRIu64 " (LSN %" PRIu64 ") and %" PRIu64
                " records after it",
                what.last_lsn, what.snapshot.generation, what.snapshot.lsn, what.records);
    else if (what.warning && self->worst == 0)
        finding(self, 1, "%s", what.warning);
    if (what.bases_restored)
        check_heads(self, &heads, &what, when);
    else if (!with_log)
        finding(self, UNCHECKED, "rows: 0 recomputed: %s",
                what.bases_in_snapshot ? "another kernel made the bases: this one would not use "
                                         "them"
                                       : "the snapshot holds no bases");
    att_heads_release(&heads);
}

/* The store could not even be opened: what it says is a finding, too. */
int inspect_verify_unopened(const struct inspect *inspect, const struct att_error *error)
{
    struct verifying self = {.inspect = inspect};
    finding(&self, 2, "%s", error->text);
    return ATT_EXIT_FAILURE;
}

int inspect_verify(struct inspect *inspect, char **argv)
{
    (void)argv;
    struct verifying self = {.inspect = inspect};
    struct att_error error = {0};
    enum att_status status = att_store_verify(inspect->store, print_finding, &self, &error);
    if (status != ATT_OK && self.worst == 0)
        finding(&self, 2, "%s", error.text[0] ? error.text : att_status_name(status));
    check_state(&self, inspect, false);
    check_state(&self, inspect, true);
    return self.worst == 0 ? ATT_EXIT_OK : ATT_EXIT_FAILURE;
}
