/* report: one page of HTML, with nothing outside it, about a head of a state: shape, scores, entropy, error bounds, hot
 * rows, attention to tokens, and what the log holds. */
#include "attninspect_weights.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attninspect_report_svg.h"
#include "record.h"

enum {
    MOST_ROWS = 512,      /* whose weights are computed */
    FEWEST_ROWS = 4,      /* however large the state is */
    MOST_SCORES = 100000, /* in the histogram */
    BARS = 60,
    KINDS = 8,  /* enum att_op_kind - 1 */
    RANKED = 12 /* tokens */
};
static const double WORK_LIMIT = 2e9; /* multiplications */

struct report {
    struct inspect *inspect;
    struct inspect_view view;
    uint32_t rows;   /* sampled */
    double *weights; /* of one row */
    double *scores;
    size_t score_count;
    double entropies[MOST_ROWS]; /* log10 of exp of them */
    size_t entropy_count;
    double bounds[MOST_ROWS]; /* log10 */
    size_t bound_count, exact, empty;
    uint8_t *hot;      /* n_q */
    double *attention; /* tokens: sums of weights */
    uint64_t bars[BARS * KINDS];
    uint64_t first_lsn, last_lsn, records;
    double *updates; /* tokens: how often each was changed */
};

/* ---- Collecting ---------------------------------------------------------------------------------------- */

static void keep_scores(struct report *self)
{
    uint32_t count = self->view.tokens.count;
    size_t room = MOST_SCORES / self->rows; /* for each row */
    size_t step = count > room ? (count + room - 1) / room : 1;
    for (size_t token = 0; token < count && self->score_count < MOST_SCORES; token += step)
        if (isfinite(self->weights[token]))
            self->scores[self->score_count++] = self->weights[token];
}

static enum att_status look_at_row(struct report *self, uint32_t row, double *values, struct att_error *error)
{
    struct att_engine *engine = self->view.heads.engines[self->view.head];
    double bound;
    enum att_status status = inspect_scores(&self->view, row, self->weights, error);
    if (status != ATT_OK)
        return status;
    keep_scores(self);
    double entropy = inspect_softmax(self->weights, self->view.tokens.count);
    if (entropy < 0) {
        self->empty++;
        return ATT_OK;
    }
    self->entropies[self->entropy_count++] = entropy / log(10);
    for (uint32_t token = 0; token < self->view.tokens.count; token++)
        self->attention[token] += self->weights[token];
    status = att_engine_row(engine, row, values, &bound, error);
    if (status == ATT_AGAIN)
        status = att_engine_recompute(engine, row, values, &bound, error);
    if (status == ATT_OK && bound > 0)
        self->bounds[self->bound_count++] = log10(bound);
    else if (status == ATT_OK)
        self->exact++;
    return status == ATT_EMPTY ? ATT_OK : status;
}

static enum att_status look_at_rows(struct report *self, struct att_error *error)
{
    const struct att_state_shape *shape = &self->view.what.snapshot.shape;
    struct att_engine *engine = self->view.heads.engines[self->view.head];
    double *values = malloc(shape->d_v * sizeof *values);
    double bound;
    enum att_status status = values ? ATT_OK : att_fail(error, ATT_ENOMEM, "not enough memory");
    for (uint32_t row = 0; status == ATT_OK && row < shape->n_q; row++) {
        struct att_error ignored;
        self->hot[row] = att_engine_query(engine, row, 0, values, &bound, &ignored) == ATT_OK;
    }
    for (uint32_t i = 0; status == ATT_OK && i < self->rows; i++)
        status = look_at_row(self, (uint32_t)((uint64_t)i * shape->n_q / self->rows), values, error);
    free(values);
    return status;
}

static enum att_status look_at_record(void *context, const struct att_record *record, const void *payload,
                                      struct att_error *error)
{
    struct report *self = context;
    (void)payload, (void)error;
    if (record->head != self->view.head || record->kind < 1 || record->kind > KINDS)
        return ATT_OK;
    uint64_t span = self->last_lsn - self->first_lsn + 1;
    uint64_t bar = (uint64_t)((double)(record->lsn - self->first_lsn) / (double)span * BARS);
    self->bars[(bar < BARS ? bar : BARS - 1) * KINDS + record->kind - 1u]++;
    self->records++;
    if (record->kind != ATT_OP_SET_Q && record->index < self->view.tokens.count)
        self->updates[record->index]++;
    return ATT_OK;
}

static enum att_status look_at_log(struct report *self, struct att_error *error)
{
    struct att_log_info log;
    att_store_log_info(self->inspect->store, &log);
    self->first_lsn = log.first_lsn;
    self->last_lsn = log.last_lsn;
    if (log.last_lsn == 0)
        return ATT_OK;
    return att_store_read_log(self->inspect->store, log.first_lsn - 1, look_at_record, self, error);
}

static enum att_status collect(struct report *self, struct att_error *error)
{
    enum att_status status = inspect_view_open(self->inspect, &self->view, error);
    if (status != ATT_OK)
        return status;
    const struct att_state_shape *shape = &self->view.what.snapshot.shape;
    size_t count = self->view.tokens.count + 1u;
    double affordable = WORK_LIMIT / ((double)count * (shape->d + shape->d_v));
    self->rows = affordable < FEWEST_ROWS ? FEWEST_ROWS : affordable < MOST_ROWS ? (uint32_t)affordable : MOST_ROWS;
    self->rows = self->rows < shape->n_q ? self->rows : shape->n_q;
    self->weights = calloc(count, sizeof *self->weights);
    self->attention = calloc(count, sizeof *self->attention);
    self->updates = calloc(count, sizeof *self->updates);
    self->scores = calloc(MOST_SCORES, sizeof *self->scores);
    self->hot = calloc(shape->n_q, 1);
    if (!self->weights || !self->attention || !self->updates || !self->scores || !self->hot)
        return att_fail(error, ATT_ENOMEM, "not enough memory");
    status = look_at_rows(self, error);
    return status == ATT_OK ? look_at_log(self, error) : status;
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

static const char page_head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<style>\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1360px;margin:1.5em auto;padding:0 "
    "1em}\n"
    "h1{font-size:1.5em;margin:0 0 .2em}h2{font-size:1.1em;margin:0 0 .3em}p{margin:.3em 0}\n"
    "main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:1.2em}\n"
    "section{border:1px solid #ccc;border-radius:6px;padding:.8em 1em}\n"
    "table{border-collapse:collapse}td{padding:.1em 1em .1em 0;vertical-align:top}td:first-child{color:#555}\n"
    "svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:#333}\n"
    ".axis{stroke:#333;fill:none}.grid{stroke:#ddd;fill:none}.frame{fill:none;stroke:#999}\n"
    ".crisp{shape-rendering:crispEdges}\n"
    ".mark{stroke:#d55e00;stroke-width:2;stroke-dasharray:5 3;fill:none}\n"
    ".c0{fill:#0072b2}.c1{fill:#e69f00}.c2{fill:#009e73}.c3{fill:#cc79a7}.c4{fill:#56b4e9}.c5{fill:#d55e00}"
    ".c6{fill:#666}.c7{fill:#b8a900}\n"
    ".b0{color:#0072b2}.b1{color:#e69f00}.b2{color:#009e73}.b3{color:#cc79a7}.b4{color:#56b4e9}.b5{color:#d55e00}"
    ".b6{color:#666}.b7{color:#b8a900}\n"
    "</style>\n";

static void number_row(FILE *to, const char *name, double number)
{
    fprintf(to, "<tr><td>%s</td><td>%.12g</td></tr>\n", name, number);
}

static void text_row(FILE *to, const char *name, const char *text)
{
    fprintf(to, "<tr><td>%s</td><td>", name);
    svg_text(to, text);
    fputs("</td></tr>\n", to);
}

static void write_shape(FILE *to, const struct report *self)
{
    static const char *const precisions[] = {"single", "mixed", "double"};
    const struct att_recovery *what = &self->view.what;
    const struct att_state_shape *shape = &what->snapshot.shape;
    uint32_t live = 0;
    for (uint32_t token = 0; token < self->view.tokens.count; token++)
        live += self->view.tokens.live[token];
    fputs("<section><h2>Shape</h2><table>\n", to);
    number_row(to, "heads", shape->heads);
    number_row(to, "rows of Q (n_q)", shape->n_q);
    number_row(to, "live tokens", live);
    number_row(to, "capacity", what->capacity);
    number_row(to, "d", shape->d);
    number_row(to, "d_v", shape->d_v);
    number_row(to, "scale", what->scale);
    text_row(to, "precision", what->precision < 3 ? precisions[what->precision] : "unknown");
    text_row(to, "causal", shape->causal ? "yes" : "no");
    text_row(to, "key biases", self->view.tokens.biased ? "yes" : "none");
    number_row(to, "snapshot generation", (double)what->snapshot.generation);
    number_row(to, "snapshot LSN", (double)what->snapshot.lsn);
    number_row(to, "newest LSN", (double)what->last_lsn);
    text_row(to, "bases",
             what->bases_restored      ? "restored"
             : what->bases_in_snapshot ? "of another kernel or precision: all rows are cold"
                                       : "none in the snapshot: all rows are cold");
    if (what->warning)
        text_row(to, "warning", what->warning);
    fputs("</table></section>\n", to);
}

static void write_scores(FILE *to, const struct report *self)
{
    fprintf(to, "<section><h2>Scores</h2><p>s q&middot;k + b of %zu pairs, from %" PRIu32 " rows.</p>\n",
            self->score_count, self->rows);
    svg_histogram(to, "score", "pairs", self->scores, self->score_count, false);
    fputs("</section>\n<section><h2>Entropy</h2><p>As the number of tokens that a row attends to: e to the entropy of "
          "its "
          "weights. 1: one token; all of them: a plain mean.</p>\n",
          to);
    svg_histogram(to, "effective number of tokens", "rows", self->entropies, self->entropy_count, true);
    if (self->empty)
        fprintf(to, "<p>%zu rows see no token.</p>\n", self->empty);
    fputs("</section>\n", to);
}

static void write_bounds(FILE *to, const struct report *self)
{
    const struct inspect_tokens *tokens = &self->view.tokens;
    size_t count = (size_t)tokens->count * self->view.what.snapshot.shape.d_v;
    double largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)tokens->values[i]));
    fprintf(to,
            "<section><h2>Error bounds</h2><p>Of the same rows; no answer is further than this from the truth. The "
            "largest value in V is %.4g.</p>\n",
            largest);
    svg_histogram(to, "error bound", "rows", self->bounds, self->bound_count, true);
    if (self->exact)
        fprintf(to, "<p>%zu rows are exact.</p>\n", self->exact);
    fputs("</section>\n", to);
}

static void write_rows(FILE *to, const struct report *self)
{
    uint32_t n_q = self->view.what.snapshot.shape.n_q;
    uint32_t hot = 0;
    for (uint32_t row = 0; row < n_q; row++)
        hot += self->hot[row];
    fprintf(to,
            "<section><h2>Hot rows</h2><p>%" PRIu32 " of %" PRIu32
            " rows have a base that updates are merged into; the others are computed when they are read.</p>\n",
            hot, n_q);
    svg_strip(to, "row of Q; blue: hot", self->hot, n_q);
    fputs("</section>\n", to);
}

/* The tokens with the largest amounts, and a sum for scale. */
static size_t rank(const double *amounts, uint32_t count, uint32_t indices[RANKED], double ret[RANKED])
{
    size_t used = 0;
    for (uint32_t token = 0; token < count; token++) {
        size_t at = used < RANKED ? used : RANKED;
        while (at > 0 && amounts[token] > ret[at - 1])
            at--;
        if (amounts[token] <= 0 || at == RANKED)
            continue;
        used += used < RANKED;
        for (size_t i = used - 1; i > at; i--) {
            ret[i] = ret[i - 1];
            indices[i] = indices[i - 1];
        }
        ret[at] = amounts[token];
        indices[at] = token;
    }
    return used;
}

static void write_tokens(FILE *to, const struct report *self)
{
    uint32_t indices[RANKED];
    double amounts[RANKED];
    size_t count = rank(self->attention, self->view.tokens.count, indices, amounts);
    for (size_t i = 0; i < count; i++)
        amounts[i] /= (double)self->entropy_count;
    fputs("<section><h2>Tokens that are attended to</h2><p>Mean weight over the rows.</p>\n", to);
    svg_ranking(to, "token", indices, amounts, count);
    fputs("</section>\n", to);
}

static void write_log(FILE *to, const struct report *self)
{
    uint32_t indices[RANKED];
    double amounts[RANKED];
    const char *names[KINDS];
    size_t count = rank(self->updates, self->view.tokens.count, indices, amounts);
    for (uint16_t kind = 0; kind < KINDS; kind++)
        names[kind] = att_record_kind_name((uint16_t)(kind + 1));
    fprintf(to, "<section><h2>Log</h2><p>%" PRIu64 " updates of this head", self->records);
    if (self->last_lsn)
        fprintf(to, ", LSN %" PRIu64 " to %" PRIu64, self->first_lsn, self->last_lsn);
    fputs(". What the older of the two snapshots holds is no longer in the log.</p>\n", to);
    if (self->records)
        svg_bars(to, "LSN", names, KINDS, self->bars, BARS, self->first_lsn, self->last_lsn);
    fputs("</section>\n", to);
    if (count == 0)
        return;
    fputs("<section><h2>Tokens that are changed</h2><p>Updates in the log.</p>\n", to);
    svg_ranking(to, "token", indices, amounts, count);
    fputs("</section>\n", to);
}

static void write_page(FILE *to, const struct report *self)
{
    fputs(page_head, to);
    fputs("<title>attnd: ", to);
    svg_text(to, self->inspect->directory);
    fputs("</title></head><body>\n<h1>", to);
    svg_text(to, self->inspect->directory);
    if (self->view.what.snapshot.shape.heads > 1)
        fprintf(to, ", head %" PRIu32, self->view.head);
    fprintf(to, "</h1>\n<p>The state after LSN %" PRIu64 ", by attninspect " ATTND_VERSION ".</p>\n<main>\n",
            self->view.what.last_lsn);
    write_shape(to, self);
    write_scores(to, self);
    write_bounds(to, self);
    write_rows(to, self);
    write_tokens(to, self);
    write_log(to, self);
    fputs("</main></body></html>\n", to);
}

static enum att_status write_file(const struct report *self, const char *path, struct att_error *error)
{
    FILE *file = inspect_begin_file(self->inspect, path, error);
    if (!file)
        return error->status;
    write_page(file, self);
    return inspect_end_file(file, path, ferror(file) ? strerror(errno) : NULL, error);
}

int inspect_report(struct inspect *inspect, char **argv)
{
    struct att_error error = {0};
    struct report *self = calloc(1, sizeof *self);
    enum att_status status = self ? ATT_OK : att_fail(&error, ATT_ENOMEM, "not enough memory");
    if (status == ATT_OK) {
        self->inspect = inspect;
        status = collect(self, &error);
        if (status == ATT_OK)
            status = write_file(self, argv[1], &error);
        inspect_view_release(&self->view);
        free(self->hot);
        free(self->scores);
        free(self->updates);
        free(self->attention);
        free(self->weights);
        free(self);
    }
    return status == ATT_OK ? ATT_EXIT_OK
                            : att_failure(INSPECT_PROGRAM, "%s: report: %s", inspect->directory, error.text);
}
