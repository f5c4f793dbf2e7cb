/* attndemo: the demonstration that tools/demo.sh runs.
 *
 * It starts attnd on a real attention head and plays a real trace of edits to it from one client, while a second one
 * reads. Between 50% and 75% of the trace the daemon is killed with SIGKILL, edits on their way, and started again; the
 * stream goes on at the first edit that was not acknowledged (rows are absolute: sending one twice changes nothing). At
 * the places of the trace for which float64 outputs are known the stream pauses, and outputs are compared.
 *
 * That nothing acknowledged is lost is looked at twice, right after the restart: the daemon's LSN says how many edits
 * it has, and every output must be the softmax over the tokens after exactly so many edits. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blas_core.h"
#include "demo.h"
#include "progress.h"

enum { KILL_SPAN = 2, PATIENCE_MS = 20000 }; /* KILL_SPAN: the kill is between this step and the next */

struct demo {
    struct workload workload;
    struct daemon daemon;
    struct stream stream;
    struct reader *reader;
    pid_t reader_pid;
    struct att_client *client;
    struct timing *timing;
    struct check expected, recovered;
    uint64_t lost, incarnation, reads_streaming;
    double silence_ms; /* from the kill to the reader's next answer */
    uint32_t problems;
};

static void problem(struct demo *demo, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void problem(struct demo *demo, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("  NOT AS IT SHOULD BE: ", stdout);
    vfprintf(stdout, format, arguments);
    putchar('\n');
    va_end(arguments);
    demo->problems++;
}

static void connect_again(struct demo *demo)
{
    struct att_info info;
    demo->client = daemon_connect(&demo->daemon);
    att_get_info(demo->client, &info);
    if (info.n_q != demo->workload.n_q || info.d != demo->workload.d || info.d_v != demo->workload.d_v)
        demo_fail("attnd serves another shape than the workload's");
    if (info.scale != demo->workload.scale)
        problem(demo, "the scale is %g and should be %g", info.scale, demo->workload.scale);
    if (info.incarnation <= demo->incarnation)
        problem(demo, "the incarnation does not count starts");
    demo->incarnation = info.incarnation;
    stream_begin(&demo->stream, demo->client);
}

static void stream_reads(struct demo *demo, bool on)
{
    static uint64_t before;
    if (on)
        before = demo->reader->answers;
    else
        demo->reads_streaming += demo->reader->answers - before;
    demo->reader->timed = on;
}

/* The stream pauses here: compares, then measures. */
static void stop_at(struct demo *demo, uint32_t step)
{
    struct check check = {0};
    check_step(demo->client, &demo->workload, step, &check);
    printf("  %6" PRId64 " %4.0f%% %9" PRIu64 " %12.1e %12.1e %13.3g%s\n", demo->workload.step_at[step],
           100.0 * (double)demo->workload.step_at[step] / demo->workload.edits, check.outputs, check.worst_error,
           check.its_bound, check.worst_ratio, check.violations ? "  ABOVE" : "");
    fflush(stdout);
    if (check.violations)
        problem(demo, "%" PRIu64 " errors above their bounds", check.violations);
    check_add(&demo->expected, &check);
    reader_pause(demo->reader, true);
    timing_round(demo->timing, demo->client, &demo->workload, step);
    reader_pause(demo->reader, false);
}

static void print_heading(void)
{
    printf("\n   after edits   outputs  worst error    its bound  error : bound\n"
           "                checked                               (worst of all)\n");
}

/* Every output must be that of the tokens after `have` edits; and would not be, if the last one that was acknowledged
 * were missing. */
static void check_recovered(struct demo *demo, uint32_t have, uint32_t acknowledged)
{
    const struct workload *w = &demo->workload;
    size_t keys = (size_t)w->n_k * w->d, values = (size_t)w->n_k * w->d_v, outputs = (size_t)w->n_q * w->d_v;
    float *k = demo_allocate(keys, sizeof *k), *v = demo_allocate(values, sizeof *v);
    double *answers = demo_allocate(outputs, sizeof *answers), *bounds = demo_allocate(w->n_q, sizeof *bounds);
    struct check without = {0};
    read_outputs(demo->client, w, answers, bounds);
    memcpy(k, w->first_k, keys * sizeof *k);
    memcpy(v, w->first_v, values * sizeof *v);
    workload_apply(w, 0, have, k, v);
    check_outputs(w, k, v, answers, bounds, &demo->recovered);
    memcpy(k, w->first_k, keys * sizeof *k);
    memcpy(v, w->first_v, values * sizeof *v);
    workload_apply(w, 0, acknowledged - 1, k, v);
    workload_apply(w, acknowledged, have, k, v);
    check_outputs(w, k, v, answers, bounds, &without);
    printf("     all %" PRIu64 " outputs against float64 after %" PRIu32 " edits:\n"
           "     worst error : bound %.3g (without the last acknowledged edit: %.3g)\n",
           demo->recovered.outputs, have, demo->recovered.worst_ratio, without.worst_ratio);
    if (demo->recovered.violations)
        problem(demo, "%" PRIu64 " errors above their bounds", demo->recovered.violations);
    if (without.violations == 0)
        problem(demo, "this comparison would not see the loss of that edit");
    free(k);
    free(v);
    free(answers);
    free(bounds);
}

/* The reader must come back by itself. */
static void await_reader(struct demo *demo, uint64_t killed)
{
    for (uint32_t ms = 0; demo->reader->last_incarnation < demo->incarnation; ms++) {
        if (ms == PATIENCE_MS) {
            problem(demo, "the reader has not come back");
            return;
        }
        usleep(1000);
    }
    demo->silence_ms = 1e-6 * (double)(demo->reader->first_answer_ns - killed);
}

static void kill_and_restart(struct demo *demo)
{
    const int64_t *step_at = demo->workload.step_at;
    uint32_t from = (uint32_t)step_at[KILL_SPAN], to = (uint32_t)step_at[KILL_SPAN + 1];
    struct stream *stream = &demo->stream;
    stream_reads(demo, true);
    uint64_t killed = stream_run_and_kill(stream, to, from + (to - from) / 2, &demo->daemon);
    stream_reads(demo, false);
    uint32_t acknowledged = stream->acknowledged, on_the_way = stream->next - acknowledged;
    uint64_t base = stream->base_lsn - stream->from;
    printf("\n  3. SIGKILL: %" PRIu32 " edits acknowledged, %" PRIu32 " on their way\n", acknowledged, on_the_way);
    if (on_the_way == 0)
        problem(demo, "the kill was not in mid-stream");
    att_close(demo->client);
    daemon_start(&demo->daemon, false);
    connect_again(demo);
    await_reader(demo, killed);
    uint64_t have = stream->base_lsn - base;
    printf("     started again: ready in %.0f ms; the reader was without answers for %.0f ms\n", demo->daemon.ready_ms,
           demo->silence_ms);
    if (stream->base_lsn < base || have > acknowledged + on_the_way)
        demo_fail("LSN %" PRIu64 " after the restart makes no sense", stream->base_lsn);
    demo->lost = have < acknowledged ? acknowledged - have : 0;
    printf("     on disk: %" PRIu64 " edits: the %" PRIu32 " acknowledged, %" PRIu64 " of those on their way\n", have,
           acknowledged - (uint32_t)demo->lost, have < acknowledged ? 0 : have - acknowledged);
    if (demo->lost)
        problem(demo, "%" PRIu64 " acknowledged edits are lost", demo->lost);
    check_recovered(demo, (uint32_t)have, acknowledged);
    printf("     the stream goes on at edit %" PRIu32 "\n", acknowledged);
    print_heading();
}

static void play(struct demo *demo)
{
    const struct workload *w = &demo->workload;
    for (uint32_t step = 0; step < w->steps; step++) {
        uint32_t to = (uint32_t)w->step_at[step], from = step ? (uint32_t)w->step_at[step - 1] : 0;
        if (step == KILL_SPAN + 1)
            kill_and_restart(demo);
        stream_reads(demo, true);
        stream_run(&demo->stream, to);
        stream_reads(demo, false);
        workload_apply(w, from, to, w->k, w->v);
        stop_at(demo, step);
    }
}

static void finish(struct demo *demo)
{
    struct reader *reader = demo->reader;
    if (!reader_stop(reader, demo->reader_pid))
        problem(demo, "the reader did not end well");
    if (reader->backwards)
        problem(demo, "%" PRIu64 " answers were older than one before them", reader->backwards);
    if (reader->wrong)
        problem(demo, "%" PRIu64 " reads failed, the last with: %s", reader->wrong, reader->why);
    if (reader->connections < 2)
        problem(demo, "the reader did not connect again");
    att_close(demo->client);
    int status = daemon_stop(&demo->daemon, SIGTERM);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        problem(demo, "attnd did not end with exit status 0 after SIGTERM");
    if (demo->timing->deviation > 1e-3)
        problem(demo, "the recomputed row is not the expected one (%.1e)", demo->timing->deviation);
}

static void line(const char *label, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void line(const char *label, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("  %-44s ", label);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

static void report_times(struct demo *demo)
{
    struct timing *t = demo->timing;
    uint64_t seen = demo->reader->seen;
    double query = demo_median(t->query_ns, t->queries), row = demo_median(t->row_ns, t->rows);
    double one = demo_median(t->recompute_ns, t->recomputed);
    double team = demo_median(t->recompute_team_ns, t->recomputed_team);
    double best = one < team ? one : team;
    double busy = demo_median(demo->reader->samples, (uint32_t)(seen < READER_SAMPLES ? seen : READER_SAMPLES));
    printf("\n  times, p50 (the processors were %.0f%% busy while all of this rested)\n",
           t->processors > 0 ? 100 * t->busy / t->processors : 0);
    line("  recompute a row: sgemv, exp, sgemv", "%.1f us (%s)", 1e-3 * best, one <= team ? "1 thread" : "threads");
    printf("    OpenBLAS %s\n", att_blas_core());
    line("  query O[i][j] by a client over the ring", "%.2f us: recomputing %.1f x", 1e-3 * query, best / query);
    line("  query a row O[i] by a client over the ring", "%.2f us: recomputing %.1f x", 1e-3 * row, best / row);
    line("  query O[i][j] by the reader, edits coming", "%.2f us", 1e-3 * busy);
}

static void report(struct demo *demo)
{
    const struct check *e = &demo->expected, *r = &demo->recovered;
    const struct stream *s = &demo->stream;
    const struct reader *reader = demo->reader;
    struct check all = *e;
    check_add(&all, r);
    printf("\n  ----------------------------------------------------------------------------\n");
    line("outputs compared with float64", "%" PRIu64 ", %" PRIu64 " at the restart", all.outputs, r->outputs);
    line("worst error; the bound it came with", "%.1e; %.1e", all.worst_error, all.its_bound);
    line("worst error : bound; above 1", "%.3g; %" PRIu64, all.worst_ratio, all.violations);
    line("edits acknowledged", "%" PRIu64 ", %.0f/s, each on disk", s->acks,
         1e9 * (double)s->acks / (double)s->nanoseconds);
    line("  sent again after the kill", "%" PRIu64, s->sent - s->acks);
    line("acknowledged edits lost", "%" PRIu64, demo->lost);
    line("queries served to the reader", "%" PRIu64 ", %" PRIu64 " as edits came", (uint64_t)reader->answers,
         demo->reads_streaming);
    line("  older than one before it; failed", "%" PRIu64 "; %" PRIu64, (uint64_t)reader->backwards,
         (uint64_t)reader->wrong);
    report_times(demo);
    printf("  ----------------------------------------------------------------------------\n");
}

static void begin(struct demo *demo, const char *data)
{
    const struct workload *w = &demo->workload;
    struct att_stat stat;
    workload_load(&demo->workload, data);
    snprintf(demo->daemon.socket, sizeof demo->daemon.socket, "%s/socket", demo->daemon.work);
    demo->stream.workload = &demo->workload;
    demo->timing = demo_allocate(1, sizeof *demo->timing);
    daemon_start(&demo->daemon, true);
    connect_again(demo);
    demo_need(demo->client, att_get_stat(demo->client, &stat), "stat");
    if (strcmp(stat.durability, "always") != 0)
        problem(demo, "the durability is '%s', not 'always'", stat.durability);
    printf("  1. attnd %s serves a real attention head: n_q %" PRIu32 ", n_k %" PRIu32 ", d %" PRIu32 ", d_v %" PRIu32
           "\n     scale %g (auto), durability %s, kernels %s, %s;\n     ready in %.0f ms\n",
           stat.version, w->n_q, w->n_k, w->d, w->d_v, stat.scale, stat.durability, stat.isa, stat.blas_kernel,
           demo->daemon.ready_ms);
    demo->reader = reader_start(&demo->daemon, w, &demo->reader_pid);
    printf("\n  2. One client streams %" PRIu32 " real edits (rows of K and V), another reads;\n"
           "     the stream stops where float64 outputs are known\n",
           w->edits);
    print_heading();
}

int main(int argc, char **argv)
{
    static struct demo demo;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        puts("attndemo ATTND DATA WORK   the demonstration; use tools/demo.sh\n\n"
             "ATTND: the daemon; DATA: tests/data/realS; WORK: an empty directory with a short name");
        return 0;
    }
    if (argc != 4 || argv[1][0] == '-' || strlen(argv[3]) > 80) {
        fputs("attndemo: needs ATTND DATA WORK (--help)\n", stderr);
        return 2;
    }
    att_blas_core_choose(argv);
    demo_catch_signals();
    demo.daemon = (struct daemon){.program = argv[1], .data = argv[2], .work = argv[3]};
    begin(&demo, argv[2]);
    play(&demo);
    finish(&demo);
    report(&demo);
    reader_free(demo.reader);
    free(demo.timing);
    workload_release(&demo.workload);
    if (demo.problems)
        printf("  FAILED: %" PRIu32 " things were not as they should be\n", demo.problems);
    return demo.problems ? 1 : 0;
}
