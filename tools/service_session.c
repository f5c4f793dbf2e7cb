/* Sessions, from the service's side: who connects with one, and what to do with an update that may have come before.
 *
 * Exactly once. An update of a session carries its number. It is applied, its record gets the session and the number,
 * and the table learns of it (tools/sessions.h), all in one turn of the service: whatever part of the log survives, the
 * table that is made again from it knows exactly the updates that are in it. So a client may send again, in order, all
 * that it cannot know to be on disk: what the table knows is answered and not applied, the rest is applied. Numbers that
 * are left out were refused.
 *
 * Fencing. Each connection with a session has a fence, which is logged. A client that connects for the first time takes
 * the session over: it ends the old connection and gets a fence of its own, whose upper half is the LSN of that record (so
 * it does not come again, also when the session expires and is made anew). A library that connects again shows the fence
 * after its last one (whether that attempt was heard or not): it is let in if that is larger and the upper half still the
 * same. Before att_connect returns it makes the fence durable (it flushes), and with it everything that the
 * session did before.
 *
 * Snapshots. The table belongs to the smallest cut, behind which the log is replayed: a later one would know of updates
 * that a crash takes back, an earlier one would not know of some that are in the state. The cut's LSN is known only when
 * a merge has got there, so the table goes to the store as it is when the snapshot begins, and behind it what it learns
 * until then, up to the cut. It goes in steps between the requests: sessions that append are half a megabyte each. */
#include <stdio.h>
#include <stdlib.h>

#include "service_impl.h"

#define FENCE_STEP (UINT64_C(1) << 32)

/* ---- What the table learns ----------------------------------------------------------------------------- */

static void journal(struct att_service *service, const struct att_session_entry *entry)
{
    if (!service->journaling)
        return;
    if (service->journal_count == service->journal_capacity) {
        size_t capacity = service->journal_capacity ? 2 * service->journal_capacity : 1024;
        struct att_session_entry *larger = realloc(service->journal, capacity * sizeof *larger);
        if (!larger)
            abort(); /* the update is applied already, and a snapshot without it would be wrong */
        service->journal = larger;
        service->journal_capacity = capacity;
    }
    service->journal[service->journal_count++] = *entry;
}

void service_session_done(struct att_service *service, const struct att_server_request *request,
                          const struct att_op *op)
{
    const struct att_session_entry entry = {service->record.session, request->header.session_seq, service->lsn,
                                            ATT_SESSION_DONE,
                                            op->kind == ATT_OP_APPEND ? op->index : ATT_SESSION_NO_INDEX};

    if (entry.session == 0 || entry.seq == 0)
        return;
    if (att_sessions_apply(service->sessions, &entry) != ATT_OK)
        abort(); /* reserved, and there: a bug */
    journal(service, &entry);
}

/* An update with a session's number. True: it is answered, because it came before or cannot be taken. */
bool service_session_knows(struct att_service *service, const struct att_server_request *request)
{
    struct att_wire_reply reply = service_reply_to(service, &request->header);

    switch (att_sessions_look(service->sessions, request->place, request->header.session_seq, &reply.index)) {
    case ATT_SEQUENCE_NEW:
        if (att_sessions_reserve(service->sessions, request->place, request->header.session_seq))
            return false;
        return service_refuse(service, request, ATT_ENOMEM, "not enough memory for the session");
    case ATT_SEQUENCE_REFUSED:
        return service_refuse(service, request, ATT_EINVAL,
                              "this update was refused before the connection was lost, and why is not kept; nothing "
                              "has changed");
    case ATT_SEQUENCE_FORGOTTEN:
        return service_refuse(service, request, ATT_EINVAL,
                              "this update of the session is too old: what became of it is not kept");
    case ATT_SEQUENCE_DONE:
        break;
    }
    /* Its own LSN is not kept; all of the session's updates lie at or below this one. */
    reply.lsn = att_sessions_at(service->sessions, request->place)->lsn;
    if (service->options.durability == ATT_DURABLE_ALWAYS)
        service_reply_durable(service, request->session, &reply, NULL, 0, service->lsn);
    else
        att_server_reply(service->server, request->session, &reply, NULL, 0);
    return true;
}

/* ---- Connecting ---------------------------------------------------------------------------------------- */

void service_on_end(void *context, uint64_t connection)
{
    struct att_service *service = context;

    att_sessions_unbind(service->sessions, connection);
    service_snapshot_forget(service, connection);
}

/* Whether the session that is there, or is not, may be had; *ret_place: ATT_NO_SESSION if it is to be made. */
static enum att_status may_have(struct att_service *service, const struct att_session_ask *ask, uint32_t *ret_place,
                                struct att_error *error)
{
    const uint32_t place = att_sessions_find(service->sessions, ask->id);
    const struct att_session_state *state;

    if (ask->id == 0)
        return att_fail(error, ATT_EINVAL, "a session's id is not 0");
    if (service->options.durability == ATT_DURABLE_OFF && service->heads.count > 1)
        return att_fail(error, ATT_EINVAL,
                        "sessions of several heads need a log: start attnd with --durability always or interval:MS");
    *ret_place = place;
    if (place == ATT_NO_SESSION) {
        if (ask->must_exist)
            return att_fail(error, ATT_EEXPIRED,
                            "session %016llx has expired or was never here: the daemon keeps %d, those used last",
                            (unsigned long long)ask->id, ATT_SESSIONS_MOST);
        if (!att_sessions_make_room(service->sessions, ask->uid))
            return att_fail(error, ATT_EBUSY, "all %d sessions are in use, or of users with fewer", ATT_SESSIONS_MOST);
        return ATT_OK;
    }
    state = att_sessions_at(service->sessions, place);
    if (state->user != ask->uid)
        return att_fail(error, ATT_EPERM, "session %016llx belongs to user %u", (unsigned long long)ask->id,
                        state->user);
    if (ask->fence != 0 && (ask->fence <= state->fence || ask->fence / FENCE_STEP != state->fence / FENCE_STEP))
        return att_fail(error, ATT_EFENCED, "another client has taken over session %016llx",
                        (unsigned long long)ask->id);
    return ATT_OK;
}

enum att_status service_on_ask(void *context, uint64_t connection, const struct att_session_ask *ask,
                               struct att_session_grant *ret_grant, struct att_error *error)
{
    struct att_service *service = context;
    struct att_session_entry entry = {.session = ask->id, .seq = ask->fence, .result = ask->uid};
    uint32_t place = ATT_NO_SESSION;
    char text[400];
    enum att_status status = may_have(service, ask, &place, error);

    if (status != ATT_OK)
        return status;
    if (service_refuses_updates(service, &status, text, sizeof text))
        return att_fail(error, status, "%s", text);
    if (!service_pay_owed(service))
        return att_fail(error, ATT_EBUSY, "the log is behind: try again");
    entry.lsn = service->lsn + 1;
    if (ask->fence == 0)
        entry.seq = entry.lsn * FENCE_STEP + 1; /* the LSN's lower half; never 0 */
    entry.what = place == ATT_NO_SESSION ? ATT_SESSION_NEW : ATT_SESSION_ATTACHED;
    status = att_sessions_apply(service->sessions, &entry);
    if (status != ATT_OK)
        return att_fail(error, status, "not enough memory for the session");
    service->lsn++;
    att_server_set_lsn(service->server, service->lsn);
    service->record = (struct att_record){.lsn = service->lsn,
                                          .session = ask->id,
                                          .session_seq = entry.seq,
                                          .length = sizeof service->record,
                                          .kind = ATT_RECORD_SESSION,
                                          .index = ask->uid,
                                          .column = place == ATT_NO_SESSION};
    service_owe(service, NULL);
    journal(service, &entry);
    place = att_sessions_find(service->sessions, ask->id);
    att_server_end(service->server, att_sessions_at(service->sessions, place)->connection,
                   "another client has taken over its session");
    att_sessions_bind(service->sessions, place, connection);
    *ret_grant = (struct att_session_grant){att_sessions_at(service->sessions, place)->seq, entry.seq, place};
    return ATT_OK;
}

/* ---- Snapshots ----------------------------------------------------------------------------------------- */

static void hand_out(struct att_service *service)
{
    const uint64_t bytes = service->filled * sizeof *service->filling;

    if (bytes > 0)
        att_store_snapshot_piece(service->store, ATT_ARRAY_SESSIONS, service->sessions_bytes, service->filling, bytes);
    service->sessions_bytes += bytes;
    service->filled = 0;
}

static void fill(void *context, const struct att_session_entry *entry)
{
    struct att_service *service = context;

    service->filling[service->filled++] = *entry;
    if (service->filled == SERVICE_ENTRIES_A_PIECE)
        hand_out(service);
}

/* Behind the whole table, when the cut is known. */
static void hand_out_journal(struct att_service *service)
{
    if (service->saving || service->journaling)
        return;
    for (size_t i = 0; i < service->journal_count; i++)
        fill(service, &service->journal[i]);
    hand_out(service);
}

/* Hands out some of the table. False: nothing is left of it. */
bool service_session_step(struct att_service *service)
{
    if (!service->saving)
        return false;
    service->saving = att_sessions_save_step(service->sessions, SERVICE_ENTRIES_A_PIECE);
    if (!service->saving) {
        hand_out_journal(service);
        service_snapshot_end(service);
    }
    return service->saving;
}

/* The table as it is, for the snapshot that begins. One that is small is handed out here. */
void service_session_snapshot(struct att_service *service)
{
    service->sessions_bytes = 0;
    service->journal_count = 0;
    service->journaling = service->saving = true;
    att_sessions_save_begin(service->sessions, fill, service);
    service_session_step(service);
}

/* The first head's cut: what the table has learnt up to there is the snapshot's. */
void service_session_cut(struct att_service *service, uint64_t lsn)
{
    size_t count = 0;

    while (count < service->journal_count && service->journal[count].lsn <= lsn)
        count++;
    service->journal_count = count;
    service->journaling = false;
    hand_out_journal(service);
}
