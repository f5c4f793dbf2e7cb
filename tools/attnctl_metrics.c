/* metrics: the daemon's state in Prometheus' text exposition format. */
#include "attnctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct metric {
    const char *name;
    const char *type;
    const char *help;
    const char *label; /* besides the daemon's name; NULL: none */
    uint64_t value;
};

/* A label's value: the format escapes three characters. The daemon's texts may lack their NUL. */
static void print_label(const char *name, const char *text, size_t size)
{
    printf("%s=\"", name);
    for (size_t i = 0; i < size && text[i]; i++) {
        if (text[i] == '\n')
            fputs("\\n", stdout);
        else if (text[i] == '"' || text[i] == '\\')
            printf("\\%c", text[i]);
        else
            putchar(text[i]);
    }
    putchar('"');
}

static void print_info(const struct att_stat *stat)
{
    static const char *const precisions[] = {"single", "mixed", "double"};
    const char *precision = stat->precision < 3 ? precisions[stat->precision] : "unknown";
    puts("# HELP attnd_info What is served; always 1.\n# TYPE attnd_info gauge");
    fputs("attnd_info{", stdout);
    print_label("name", stat->name, sizeof stat->name);
    print_label(",version", stat->version, sizeof stat->version);
    print_label(",precision", precision, strlen(precision));
    print_label(",durability", stat->durability, sizeof stat->durability);
    print_label(",kernel", stat->blas_kernel, sizeof stat->blas_kernel);
    puts("} 1");
}

/* Metrics of one name follow one another; the first of them brings its description. */
static void print_metric(const struct att_stat *stat, const struct metric *metric, bool described)
{
    if (!described)
        printf("# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help, metric->name, metric->type);
    printf("%s{", metric->name);
    print_label("name", stat->name, sizeof stat->name);
    if (metric->label)
        printf(",%s", metric->label);
    printf("} %" PRIu64 "\n", metric->value);
}

static void print_metrics(const struct att_stat *stat)
{
    const bool serving = strncmp(stat->state, "serving", sizeof stat->state) == 0;
    const struct metric metrics[] = {
        {"attnd_serving", "gauge", "1 when updates are accepted, 0 when the daemon is read-only.", NULL, serving},
        {"attnd_heads", "gauge", "Heads.", NULL, stat->heads},
        {"attnd_query_rows", "gauge", "Rows of Q, of each head.", NULL, stat->n_q},
        {"attnd_tokens", "gauge", "Live tokens, of all heads.", NULL, stat->tokens},
        {"attnd_token_capacity", "gauge", "Room for tokens, of each head.", NULL, stat->capacity},
        {"attnd_log_pending_entries", "gauge", "Entries that are not merged yet.", NULL, stat->log_pending},
        {"attnd_log_capacity_entries", "gauge", "Room for entries.", NULL, stat->log_capacity},
        {"attnd_rows", "gauge", "Rows that have a base (hot), and that have none (cold).", "base=\"hot\"",
         stat->rows_hot},
        {"attnd_rows", "gauge", "", "base=\"cold\"", stat->rows_cold},
        {"attnd_updates_total", "counter", "Updates since the start.", NULL, stat->updates},
        {"attnd_queries_total", "counter", "Reads since the start.", NULL, stat->queries},
        {"attnd_merges_total", "counter", "Merges since the start.", NULL, stat->merges},
        {"attnd_refreshes_total", "counter", "Rows refreshed since the start.", NULL, stat->refreshes},
        {"attnd_clients", "gauge", "Connected clients, this one included.", NULL, stat->clients},
        {"attnd_lsn", "gauge", "The newest update's number.", NULL, stat->lsn},
        {"attnd_durable_lsn", "gauge", "The newest update's number that is on disk.", NULL, stat->durable_lsn},
        {"attnd_snapshot_lsn", "gauge", "The newest snapshot's number.", NULL, stat->snapshot_lsn},
        {"attnd_snapshot_generation", "gauge", "Counts the snapshots.", NULL, stat->generation},
        {"attnd_incarnation", "gauge", "Counts the starts on this state.", NULL, stat->incarnation},
        {"attnd_region_bytes", "gauge", "Memory of tokens, bases and entries.", NULL, stat->region_bytes},
        {"attnd_resident_bytes", "gauge", "Resident memory of the daemon.", NULL, stat->rss_bytes},
    };
    for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++)
        print_metric(stat, &metrics[i], i > 0 && strcmp(metrics[i - 1].name, metrics[i].name) == 0);
}

int ctl_metrics(struct ctl *ctl, int argc, char **argv)
{
    (void)argc, (void)argv;
    struct att_stat stat;
    struct att_completion done;
    struct att_request request = {.type = ATT_REQ_STAT, .buffer = &stat, .buffer_bytes = sizeof stat};
    if (ctl->json)
        return ctl_error(ctl, ATT_EXIT_USAGE, "prints Prometheus' text only; for JSON use stat");
    enum att_status status = ctl_call(ctl, &request, CTL_TIMEOUT_MS, &done);
    if (status != ATT_OK)
        return ctl_status_error(ctl, status);
    print_info(&stat);
    print_metrics(&stat);
    return ATT_EXIT_OK;
}
