/* info and log: what is stored, without an engine. */
#include "attninspect.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "record.h"

enum { MAX_GENERATIONS = 64, SHORT_VALUES = 4 };

/* ---- info ---------------------------------------------------------------------------------------------- */

static const char *precision_name(uint32_t precision)
{
    static const char *const names[] = {"single", "mixed", "double"};
    return precision < 3 ? names[precision] : "unknown";
}

/* "name    number", or "name":number after a comma. */
static void print_number(const struct inspect *inspect, const char *name, uint64_t number)
{
    if (inspect->json)
        printf(",\"%s\":%" PRIu64, name, number);
    else
        printf("%-16s %" PRIu64 "\n", name, number);
}

static void print_text(const struct inspect *inspect, const char *name, const char *text, const char *separator)
{
    if (inspect->json) {
        printf("%s\"%s\":", separator, name);
        att_print_json_string(stdout, text);
    } else {
        printf("%-16s %s\n", name, text);
    }
}

static void print_shape(const struct inspect *inspect, const struct att_snapshot_info *snapshot)
{
    const struct att_state_shape *shape = &snapshot->shape;
    char tag[sizeof shape->base_tag + 1];
    print_number(inspect, "heads", shape->heads);
    print_number(inspect, "n_q", shape->n_q);
    print_number(inspect, "n_k", snapshot->tokens_used);
    print_number(inspect, "d", shape->d);
    print_number(inspect, "d_v", shape->d_v);
    print_number(inspect, "capacity", shape->capacity);
    print_text(inspect, "precision", precision_name(shape->precision), ",");
    print_text(inspect, "causal", shape->causal ? "yes" : "no", ",");
    printf(inspect->json ? ",\"scale\":%.17g" : "scale            %.17g\n", shape->scale);
    snprintf(tag, sizeof tag, "%.*s", (int)sizeof shape->base_tag, shape->base_tag);
    print_text(inspect, "base_tag", tag, ",");
}

static void print_generations(const struct inspect *inspect, const struct att_snapshot_info *infos, size_t count,
                              uint64_t chosen)
{
    if (inspect->json)
        fputs(",\"generations\":[", stdout);
    for (size_t i = 0; i < count; i++) {
        const struct att_snapshot_info *info = &infos[i];
        if (inspect->json)
            printf("%s{\"generation\":%" PRIu64 ",\"lsn\":%" PRIu64 ",\"incarnation\":%" PRIu64 ",\"pieces\":%" PRIu64
                   ",\"bytes\":%" PRIu64 ",\"n_k\":%" PRIu32 "}",
                   i ? "," : "", info->generation, info->lsn, info->incarnation, info->pieces, info->bytes,
                   info->tokens_used);
        else
            printf("snapshot         generation %" PRIu64 ", LSN %" PRIu64 ", incarnation %" PRIu64 ", %" PRIu64
                   " pieces, %" PRIu64 " bytes%s\n",
                   info->generation, info->lsn, info->incarnation, info->pieces, info->bytes,
                   info->generation == chosen ? " (recovered from)" : "");
    }
    if (inspect->json)
        putchar(']');
}

/* Each head's cut: what its log is replayed behind. */
static void print_cuts(const struct inspect *inspect, const struct att_snapshot_info *chosen)
{
    const struct att_head_cut *cuts = att_store_cuts(inspect->store);
    if (inspect->json)
        fputs(",\"head_cuts\":[", stdout);
    for (uint32_t head = 0; head < chosen->shape.heads; head++) {
        if (inspect->json)
            printf("%s{\"head\":%" PRIu32 ",\"lsn\":%" PRIu64 ",\"n_k\":%" PRIu32 "}", head ? "," : "", head,
                   cuts[head].lsn, cuts[head].tokens_used);
        else if (chosen->shape.heads > 1)
            printf("head             %" PRIu32 ": cut at LSN %" PRIu64 ", n_k %" PRIu32 "\n", head, cuts[head].lsn,
                   cuts[head].tokens_used);
    }
    if (inspect->json)
        putchar(']');
}

static enum att_status count_record(void *context, const struct att_record *record, const void *payload,
                                    struct att_error *error)
{
    (void)record, (void)payload, (void)error;
    ++*(uint64_t *)context;
    return ATT_OK;
}

/* Read, not reckoned from the LSNs: a time with --durability off leaves some out. Of a log that cannot be read to its
 * end what the LSNs say has to do. */
static uint64_t count_records(struct inspect *inspect, const struct att_log_info *log)
{
    struct att_error error;
    uint64_t count = 0;
    if (log->last_lsn == 0 ||
        att_store_read_log(inspect->store, log->first_lsn - 1, count_record, &count, &error) == ATT_OK)
        return count;
    return log->last_lsn - log->first_lsn + 1;
}

int inspect_info(struct inspect *inspect, char **argv)
{
    (void)argv;
    struct att_snapshot_info chosen;
    struct att_snapshot_info infos[MAX_GENERATIONS];
    struct att_log_info log;
    struct att_error error = {0};
    const char *warning = NULL;
    if (att_store_snapshot(inspect->store, &chosen, &warning, &error) != ATT_OK)
        return att_failure(INSPECT_PROGRAM, "%s: %s", inspect->directory, error.text);
    size_t count = att_store_generations(inspect->store, infos, MAX_GENERATIONS);
    count = count < MAX_GENERATIONS ? count : MAX_GENERATIONS;
    att_store_log_info(inspect->store, &log);
    print_text(inspect, "directory", inspect->directory, "{");
    print_number(inspect, "format", ATT_FORMAT_VERSION);
    print_shape(inspect, &chosen);
    print_number(inspect, "incarnation", att_store_incarnation(inspect->store));
    print_number(inspect, "generation", chosen.generation);
    print_number(inspect, "snapshot_lsn", chosen.lsn);
    print_number(inspect, "replay_lsn", chosen.replay_lsn);
    print_number(inspect, "snapshot_bytes", chosen.bytes);
    print_number(inspect, "lsn", att_store_last_lsn(inspect->store));
    print_number(inspect, "log_first_lsn", log.first_lsn);
    print_number(inspect, "log_last_lsn", log.last_lsn);
    print_number(inspect, "log_records", count_records(inspect, &log));
    print_number(inspect, "log_batches", log.batches);
    print_number(inspect, "log_bytes", log.bytes);
    print_generations(inspect, infos, count, chosen.generation);
    print_cuts(inspect, &chosen);
    if (warning)
        print_text(inspect, "warning", warning, ",");
    if (inspect->json)
        puts("}");
    return ATT_EXIT_OK;
}

/* ---- log ----------------------------------------------------------------------------------------------- */

struct printing {
    const struct inspect *inspect;
    uint32_t d, d_v;
    bool several; /* heads: an index is printed H:I */
    uint64_t printed;
    bool limit_reached;
};

static float float_at(const void *payload, uint32_t i)
{
    float number;
    memcpy(&number, (const char *)payload + i * sizeof number, sizeof number);
    return number;
}

static void print_float(const char *separator, float number, bool json)
{
    fputs(separator, stdout);
    if (json && !isfinite(number))
        fputs("\"-inf\"", stdout);
    else
        printf("%.9g", (double)number);
}

/* All of an array in JSON, its first few numbers in text. */
static void print_array(const char *name, const void *payload, uint32_t first, uint32_t count, bool json)
{
    uint32_t shown = json || count <= SHORT_VALUES ? count : SHORT_VALUES;
    printf(json ? ",\"%s\":[" : " %s=[", name);
    for (uint32_t i = 0; i < shown; i++)
        print_float(i == 0 ? "" : json ? "," : " ", float_at(payload, first + i), json);
    fputs(shown < count ? " ...]" : "]", stdout);
}

static void print_head(const struct att_record *record, bool is_entry, bool several, bool json)
{
    char column[16] = "-";
    char head[16] = "";
    if (several)
        snprintf(head, sizeof head, "%u:", record->head);
    if (is_entry)
        snprintf(column, sizeof column, "%" PRIu32, record->column);
    if (json)
        printf("{\"lsn\":%" PRIu64 ",\"kind\":\"%s\",\"head\":%u,\"index\":%" PRIu32
               ",\"column\":%s,\"session\":%" PRIu64 ",\"session_seq\":%" PRIu64,
               record->lsn, att_record_kind_name(record->kind), record->head, record->index, is_entry ? column : "null",
               record->session, record->session_seq);
    else
        printf("%" PRIu64 " %s %s%" PRIu32 " %s session=%" PRIu64 " seq=%" PRIu64, record->lsn,
               att_record_kind_name(record->kind), head, record->index, column, record->session, record->session_seq);
}

/* A client has connected. Its fence is the LSN at which this client took the session over, and the connection's number
 * since then. */
static void print_session(const struct att_record *record, bool json)
{
    const uint64_t since = record->session_seq >> 32;
    const uint32_t connection = (uint32_t)record->session_seq;
    if (json)
        printf("{\"lsn\":%" PRIu64
               ",\"kind\":\"session\",\"head\":null,\"index\":null,\"column\":null,\"session\":%" PRIu64
               ",\"session_seq\":null,\"user\":%" PRIu32 ",\"new\":%s,\"since\":%" PRIu64 ",\"connection\":%" PRIu32,
               record->lsn, record->session, record->index, record->column ? "true" : "false", since, connection);
    else
        printf("%" PRIu64 " session - - session=%" PRIu64 " user=%" PRIu32 " %s since=%" PRIu64 " connection=%" PRIu32,
               record->lsn, record->session, record->index, record->column ? "new" : "known", since, connection);
}

static enum att_status print_record(void *context, const struct att_record *record, const void *payload,
                                    struct att_error *error)
{
    struct printing *self = context;
    bool json = self->inspect->json;
    bool is_entry = record->kind == ATT_OP_SET_K_ENTRY || record->kind == ATT_OP_SET_V_ENTRY;
    if (self->printed == self->inspect->limit) {
        self->limit_reached = true;
        return ATT_AGAIN; /* stops the reading; not an error */
    }
    if (record->length != att_record_bytes(record->fields, self->d, self->d_v))
        return att_fail(error, ATT_ECORRUPT, "log record at LSN %" PRIu64 ": its length does not fit its fields",
                        record->lsn);
    if (record->kind == ATT_RECORD_SESSION)
        print_session(record, json);
    else
        print_head(record, is_entry, self->several, json);
    if (record->fields & ATT_FIELD_KEY)
        print_array("key", payload, 0, self->d, json);
    if (record->fields & ATT_FIELD_VALUE)
        print_array("value", payload, record->fields & ATT_FIELD_KEY ? self->d : 0, self->d_v, json);
    if (record->fields & ATT_FIELD_BIAS)
        print_float(json ? ",\"bias\":" : " bias=", record->number, json);
    if (is_entry)
        print_float(json ? ",\"number\":" : " number=", record->number, json);
    puts(json ? "}" : "");
    self->printed++;
    return ATT_OK;
}

int inspect_log(struct inspect *inspect, char **argv)
{
    (void)argv;
    struct att_snapshot_info snapshot;
    struct att_log_info log;
    struct att_error error = {0};
    const char *warning;
    if (att_store_snapshot(inspect->store, &snapshot, &warning, &error) != ATT_OK)
        return att_failure(INSPECT_PROGRAM, "%s: %s", inspect->directory, error.text);
    att_store_log_info(inspect->store, &log);
    if (log.last_lsn == 0 || inspect->limit == 0 || inspect->from > log.last_lsn)
        return ATT_EXIT_OK;
    struct printing printing = {.inspect = inspect,
                                .d = snapshot.shape.d,
                                .d_v = snapshot.shape.d_v,
                                .several = snapshot.shape.heads > 1};
    uint64_t first = inspect->from > log.first_lsn ? inspect->from : log.first_lsn;
    enum att_status status = att_store_read_log(inspect->store, first - 1, print_record, &printing, &error);
    if (status != ATT_OK && !printing.limit_reached)
        return att_failure(INSPECT_PROGRAM, "%s: %s", inspect->directory, error.text);
    return ATT_EXIT_OK;
}
