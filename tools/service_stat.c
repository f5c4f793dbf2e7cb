#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "service_impl.h"

static uint64_t resident_bytes(void)
{
    unsigned long long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Its message begins with the directory, which may be longer than what there is room for. */
static void describe_state(const struct att_service *service, struct att_stat *stat)
{
    static const char prefix[] = "read-only: ";
    const size_t room = sizeof stat->state - sizeof prefix, directory = strlen(service->options.directory);
    char text[600];
    const char *why = text;

    att_store_message(service->store, text, sizeof text);
    if (strlen(text) > room && strncmp(text, service->options.directory, directory) == 0 && text[directory] == '/')
        why += directory + 1;
    snprintf(stat->state, sizeof stat->state, "%s%.*s", prefix, (int)room, why);
}

static void describe(const struct att_service *service, const struct att_store_state *state, struct att_stat *stat)
{
    snprintf(stat->version, sizeof stat->version, "%s", ATTND_VERSION);
    snprintf(stat->name, sizeof stat->name, "%s", service->options.name);
    if (state->refusing == ATT_OK)
        snprintf(stat->state, sizeof stat->state, "serving");
    else
        describe_state(service, stat);
    if (service->options.durability == ATT_DURABLE_INTERVAL)
        snprintf(stat->durability, sizeof stat->durability, "interval:%u", service->options.interval_ms);
    else
        snprintf(stat->durability, sizeof stat->durability, "%s",
                 service->options.durability == ATT_DURABLE_ALWAYS ? "always" : "off");
}

static void count(const struct att_service *service, const struct att_store_state *state, struct att_stat *stat)
{
    const struct att_service_options *o = &service->options;
    struct att_engine_stats engine;

    att_heads_stats(&service->heads, &engine);
    snprintf(stat->blas_kernel, sizeof stat->blas_kernel, "attnd-%s", engine.kernel); /* ours, not OpenBLAS's */
    snprintf(stat->isa, sizeof stat->isa, "%s", engine.kernel);
    stat->heads = service->heads.count;
    stat->n_q = o->n_q;
    stat->n_k = (uint32_t)engine.tokens_used;
    stat->tokens = (uint32_t)engine.tokens;
    stat->d = o->d;
    stat->d_v = o->d_v;
    stat->capacity = o->capacity;
    stat->precision = o->precision;
    stat->threads = engine.threads;
    stat->clients = att_server_clients(service->server);
    stat->scale = o->scale;
    stat->log_pending = engine.log_pending;
    stat->log_capacity = engine.log_capacity;
    stat->rows_hot = engine.rows_hot;
    stat->rows_cold = engine.rows_cold;
    stat->generation = state->generation;
    stat->merges = engine.merges;
    stat->refreshes = engine.refreshes;
    stat->updates = engine.updates;
    stat->queries = engine.queries;
    stat->lsn = service->lsn;
    stat->durable_lsn = state->durable_lsn;
    stat->snapshot_lsn = state->snapshot_lsn;
    stat->region_bytes = engine.region_bytes + engine.token_bytes;
    stat->rss_bytes = resident_bytes();
    stat->incarnation = att_store_incarnation(service->store);
}

bool service_stat(struct att_service *service, const struct att_server_request *request)
{
    struct att_wire_reply reply = service_reply_to(service, &request->header);
    struct att_store_state state;
    struct att_stat stat;

    memset(&stat, 0, sizeof stat);
    att_store_state(service->store, &state);
    describe(service, &state, &stat);
    count(service, &state, &stat);
    att_server_reply(service->server, request->session, &reply, &stat, sizeof stat);
    return true;
}
