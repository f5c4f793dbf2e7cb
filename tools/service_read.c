/* Reads: from the base at once, or by a job of the merge thread's team; columns and everything go out in chunks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service_impl.h"

enum { MOST_READS_TOLD = 1 << 20 }; /* of one row in one report: more is not believed */

static void reply_read(struct att_service *service, uint64_t session, const struct att_wire_request *request,
                       struct att_wire_reply *reply, const double *payload, size_t bytes)
{
    if (request->flags & ATT_WIRE_DURABLE) {
        service_reply_durable(service, session, reply, payload, bytes, service->lsn);
        if (service->options.durability == ATT_DURABLE_INTERVAL)
            att_store_hurry(service->store, service->lsn);
    } else {
        att_server_reply(service->server, session, reply, payload, bytes);
    }
}

/* Hands the request to the merge thread: `values` doubles and `bounds` doubles for it to fill. False: the client has to
 * take other answers first. */
static bool hand_over(struct att_service *service, const struct att_server_request *request, enum att_job_kind kind,
                      size_t values, size_t bounds)
{
    const size_t bytes = sizeof(double) * (values + bounds + 1), held = bytes + sizeof(struct work);
    struct work *work;

    if (!att_server_hold(service->server, held))
        return false;
    work = calloc(1, sizeof *work);
    if (work)
        work->values = malloc(bytes);
    if (!work || !work->values) {
        free(work);
        att_server_release(service->server, request->session, held);
        return service_refuse(service, request, ATT_ENOMEM,
                              "not enough memory for this answer: ask for less at a time");
    }
    work->held = held;
    work->session = request->session;
    work->request = request->header;
    work->bytes = sizeof(double) * values;
    work->lsn = service->lsn;
    work->job = (struct att_job){.kind = kind,
                                 .index = kind == ATT_JOB_COLUMN ? request->header.column : request->header.index,
                                 .column = request->header.column,
                                 .values = work->values,
                                 .bounds = work->values + values,
                                 .user = work,
                                 .asker = att_server_id_of(service->server, request->session),
                                 .asked_by = request->session};
    service->jobs++;
    att_server_compute(service->server);
    att_engine_submit(service_engine(service, request), &work->job);
    return true;
}

bool service_query(struct att_service *service, const struct att_server_request *request)
{
    struct att_wire_reply reply = service_reply_to(service, &request->header);
    struct att_error error;
    enum att_status status = att_engine_query(service_engine(service, request), request->header.index,
                                              request->header.column, &reply.value, &reply.error_bound, &error);

    if (status == ATT_AGAIN)
        return hand_over(service, request, ATT_JOB_ENTRY, 1, 1);
    if (status != ATT_OK && status != ATT_EMPTY)
        return service_refuse(service, request, status, error.text);
    reply.status = (uint8_t)status;
    reply_read(service, request->session, &request->header, &reply, NULL, 0);
    return true;
}

bool service_row(struct att_service *service, const struct att_server_request *request)
{
    struct att_wire_reply reply = service_reply_to(service, &request->header);
    struct att_error error;
    enum att_status status = att_engine_row(service_engine(service, request), request->header.index, service->row,
                                            &reply.error_bound, &error);

    if (status == ATT_AGAIN)
        return hand_over(service, request, ATT_JOB_ROW, service->options.d_v, 1);
    if (status != ATT_OK && status != ATT_EMPTY)
        return service_refuse(service, request, status, error.text);
    reply.status = (uint8_t)status;
    reply_read(service, request->session, &request->header, &reply, service->row,
               status == ATT_OK ? sizeof(double) * service->options.d_v : 0);
    return true;
}

/* What a client has read directly, a millisecond's worth or so. There is no reply, so nonsense is just dropped. */
bool service_note_reads(struct att_service *service, const struct att_server_request *request)
{
    const struct att_wire_request *header = &request->header;
    const uint32_t reads = header->column < MOST_READS_TOLD ? header->column : MOST_READS_TOLD;
    double columns = header->number / (header->column > 0 ? header->column : 1);

    if (header->head >= service->heads.count)
        return true;
    if (!(columns >= 1.0 && columns <= service->options.d_v))
        columns = 1.0;
    att_engine_note_reads(service_engine(service, request), header->index, (uint32_t)columns, reads);
    service->touched[header->head] = true;
    return true;
}

bool service_wide(struct att_service *service, const struct att_server_request *request)
{
    const struct att_service_options *o = &service->options;

    char text[100];

    if (request->header.type == ATT_REQ_ALL)
        return hand_over(service, request, ATT_JOB_ALL, (size_t)o->n_q * o->d_v, o->n_q);
    if (request->header.column < o->d_v)
        return hand_over(service, request, ATT_JOB_COLUMN, 2ull * o->n_q, o->n_q);
    snprintf(text, sizeof text, "column %u is out of range: V has %u columns", request->header.column, o->d_v);
    return service_refuse(service, request, ATT_ERANGE, text);
}

/* Of every head. */
bool service_merge(struct att_service *service, const struct att_server_request *request)
{
    const uint32_t heads = service->heads.count;
    const size_t held = sizeof(struct work) + heads * sizeof(struct att_job);
    struct work *work;

    if (!att_server_hold(service->server, held))
        return false;
    work = calloc(1, sizeof *work);
    if (work)
        work->merges = calloc(heads, sizeof *work->merges);
    if (!work || !work->merges) {
        free(work);
        att_server_release(service->server, request->session, held);
        return service_refuse(service, request, ATT_ENOMEM, "not enough memory");
    }
    work->held = held;
    work->session = request->session;
    work->request = request->header;
    work->left = heads;
    service->jobs++;
    for (uint32_t head = 0; head < heads; head++) {
        work->merges[head] = (struct att_job){.kind = ATT_JOB_MERGE,
                                              .user = work,
                                              .asker = att_server_id_of(service->server, request->session),
                                              .asked_by = request->session};
        att_engine_submit(service->heads.engines[head], &work->merges[head]);
    }
    return true;
}

/* ---- Finished jobs ---- */

static void work_free(struct work *work)
{
    free(work->merges);
    free(work->values);
    free(work);
}

/* Its answer is out. */
static void work_end(struct att_service *service, struct work *work)
{
    att_server_release(service->server, work->session, work->held);
    work_free(work);
}

/* Other heads' updates count too: the engine's LSN is that of its own newest one. */
static uint64_t lsn_of(const struct work *work)
{
    return work->job.lsn > work->lsn ? work->job.lsn : work->lsn;
}

/* A row, or one entry of it. */
static void finish_row(struct att_service *service, struct work *work)
{
    struct att_wire_reply reply = service_reply_to(service, &work->request);
    const bool entry = work->request.type == ATT_REQ_QUERY;

    reply.lsn = lsn_of(work);
    reply.status = (uint8_t)work->job.status;
    if (work->job.status == ATT_OK) {
        reply.error_bound = work->job.bounds[0];
        if (entry)
            reply.value = work->values[0];
    }
    reply_read(service, work->session, &work->request, &reply, work->values,
               entry || work->job.status != ATT_OK ? 0 : work->bytes);
    work_end(service, work);
}

/* Columns go out as pairs (value, bound), made in place from the end: the bounds lie behind all pairs. */
static void pair_up(const struct att_service *service, struct work *work)
{
    for (size_t i = service->options.n_q; i-- > 0;) {
        work->values[2 * i] = work->values[i];
        work->values[2 * i + 1] = work->job.bounds[i];
    }
}

static void finish_wide(struct att_service *service, struct work *work)
{
    for (uint32_t i = 0; i < service->options.n_q; i++)
        work->worst = work->job.bounds[i] > work->worst ? work->job.bounds[i] : work->worst;
    if (work->job.kind == ATT_JOB_COLUMN)
        pair_up(service, work);
    work->next = service->outgoing;
    service->outgoing = work;
}

/* One head's merge; the reply comes with the last. */
static void finish_merge(struct att_service *service, struct work *work)
{
    struct att_wire_reply reply = service_reply_to(service, &work->request);

    if (--work->left > 0)
        return;
    service->jobs--;
    att_server_reply(service->server, work->session, &reply, NULL, 0);
    work_end(service, work);
}

static void finish(struct att_service *service, struct att_job *job)
{
    struct work *work = job->user;

    if (!work) {
        service_snapshot_job_done(service, job);
        return;
    }
    if (work->merges) {
        finish_merge(service, work);
        return;
    }
    service->jobs--;
    att_server_computed(service->server, work->session);
    if (job->status != ATT_OK && job->status != ATT_EMPTY) {
        service_refuse_late(service, work->session, &work->request, job->status, /* ATT_ECLOSED: to nobody */
                            job->status == ATT_ENOMEM ? "not enough memory for this answer"
                                                      : "scores are too large for the precision");
        work_end(service, work);
    } else if (job->kind == ATT_JOB_ROW || job->kind == ATT_JOB_ENTRY) {
        finish_row(service, work);
    } else {
        finish_wide(service, work);
    }
}

void service_collect(struct att_service *service)
{
    struct att_job *job;

    for (uint32_t head = 0; head < service->heads.count; head++)
        while ((job = att_engine_completed(service->heads.engines[head])))
            finish(service, job);
}

/* ---- Chunks ---- */

/* Sends as much as there is room for; true when all is out. */
static bool send_work(struct att_service *service, struct work *work, bool *ret_progress)
{
    const size_t chunk = att_server_chunk(service->server);

    while (work->sent < work->bytes && att_server_has_room(service->server, work->session)) {
        struct att_wire_reply reply = service_reply_to(service, &work->request);
        size_t bytes = work->bytes - work->sent < chunk ? work->bytes - work->sent : chunk;
        reply.lsn = lsn_of(work);
        reply.error_bound = work->worst;
        reply.flags = work->sent + bytes < work->bytes ? ATT_WIRE_MORE : 0;
        att_server_reply(service->server, work->session, &reply, (const char *)work->values + work->sent, bytes);
        work->sent += bytes;
        *ret_progress = true;
    }
    return work->sent == work->bytes || !att_server_is_open(service->server, work->session);
}

bool service_send_chunks(struct att_service *service)
{
    bool progress = false;

    for (struct work **link = &service->outgoing; *link;) {
        struct work *work = *link;
        if (send_work(service, work, &progress)) {
            *link = work->next;
            work_end(service, work);
        } else {
            link = &work->next;
        }
    }
    return progress;
}

/* attnd does not go on for those who don't read. */
void service_end_readers(struct att_service *service)
{
    for (const struct work *work = service->outgoing; work; work = work->next)
        att_server_end(service->server, work->session,
                       "it has not read its answer in the 10 s since attnd was told to end");
}

void service_drop_outgoing(struct att_service *service)
{
    while (service->outgoing) {
        struct work *work = service->outgoing;
        service->outgoing = work->next;
        work_free(work);
    }
}
