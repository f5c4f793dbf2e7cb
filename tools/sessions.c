#include "sessions.h"

#include <stdlib.h>

#include "wire.h"

enum { BUCKETS = 1024, NOTES_LEAST = 64 };
static_assert((BUCKETS & (BUCKETS - 1)) == 0, "a power of two");

/* What is worth saying of one update: an append's token, and how many right before it were refused. */
struct note {
    uint64_t seq;
    uint32_t result; /* the token; ATT_SESSION_NO_INDEX: none; ATT_SESSION_REFUSED */
    uint32_t refused;
};

struct session {
    struct att_session_state state; /* id 0: the place is free */
    uint32_t next;                  /* in its bucket, or in the list of free places */
    /* A ring in the order of seq, of seqs above state.seq - ATT_SESSION_WINDOW only; capacity: a power of two, or 0. */
    struct note *notes;
    uint32_t first, count, capacity;
    /* Of a save that has not come to its end yet: how it was when that began, and up to which number it is handed out. */
    bool unsaved;
    struct att_session_state saved;
    uint64_t saved_seq;
};

struct crowd {
    uint32_t user, count; /* his sessions */
};

struct att_sessions {
    struct session *places;
    struct crowd *crowds; /* of every user that had a session: few */
    uint32_t crowd_count;
    uint32_t used, capacity, free_first, count;
    uint32_t buckets[BUCKETS];
    void (*save_entry)(void *context, const struct att_session_entry *entry);
    void *save_context;
    uint32_t save_next; /* place */
};

static uint32_t bucket_of(uint64_t id)
{
    return (uint32_t)(id * UINT64_C(0x9e3779b97f4a7c15) >> 32) % BUCKETS;
}

struct att_sessions *att_sessions_create(void)
{
    struct att_sessions *sessions = calloc(1, sizeof *sessions);

    if (!sessions)
        return NULL;
    sessions->free_first = ATT_NO_SESSION;
    for (uint32_t i = 0; i < BUCKETS; i++)
        sessions->buckets[i] = ATT_NO_SESSION;
    return sessions;
}

void att_sessions_free(struct att_sessions *sessions)
{
    if (!sessions)
        return;
    for (uint32_t i = 0; i < sessions->used; i++)
        free(sessions->places[i].notes);
    free(sessions->places);
    free(sessions->crowds);
    free(sessions);
}

uint32_t att_sessions_find(const struct att_sessions *sessions, uint64_t id)
{
    uint32_t place = sessions->buckets[bucket_of(id)];

    while (place != ATT_NO_SESSION && sessions->places[place].state.id != id)
        place = sessions->places[place].next;
    return place;
}

const struct att_session_state *att_sessions_at(const struct att_sessions *sessions, uint32_t place)
{
    return &sessions->places[place].state;
}

/* ---- Saving -------------------------------------------------------------------------------------------- */

static struct note *note_at(const struct session *session, uint32_t i)
{
    return &session->notes[(session->first + i) & (session->capacity - 1)];
}

/* The first of `seq` or above; session->count: there is none. */
static uint32_t first_note(const struct session *session, uint64_t seq)
{
    uint32_t low = 0, high = session->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (note_at(session, middle)->seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Hands out `most` entries of it, a few more, or the rest. How many. */
static uint32_t save_session(struct att_sessions *sessions, struct session *session, uint32_t most)
{
    const struct att_session_state *state = &session->saved;
    struct att_session_entry entry = {state->id, state->fence, state->lsn, ATT_SESSION_NEW, state->user};
    uint32_t count = 0;

    if (session->saved_seq == 0) {
        sessions->save_entry(sessions->save_context, &entry);
        count++;
    }
    for (uint32_t n = first_note(session, session->saved_seq + 1); n < session->count; n++) {
        const struct note *note = note_at(session, n);
        if (note->seq > state->seq)
            break;
        if (count >= most && session->saved_seq > 0)
            return count;
        entry = (struct att_session_entry){state->id, note->seq - note->refused - 1, state->lsn, ATT_SESSION_SEEN, 0};
        if (note->refused > 0) { /* so that DONE is of the gap behind it */
            sessions->save_entry(sessions->save_context, &entry);
            count++;
        }
        entry.what = note->refused == 0 ? ATT_SESSION_NOTED : ATT_SESSION_DONE;
        entry.seq = session->saved_seq = note->seq;
        entry.result = note->result;
        sessions->save_entry(sessions->save_context, &entry);
        count++;
    }
    entry = (struct att_session_entry){state->id, state->seq, state->lsn, ATT_SESSION_SEEN, 0};
    if (state->seq > 0) {
        sessions->save_entry(sessions->save_context, &entry);
        count++;
    }
    session->unsaved = false;
    return count;
}

void att_sessions_save_begin(struct att_sessions *sessions,
                             void (*entry)(void *context, const struct att_session_entry *entry), void *context)
{
    sessions->save_entry = entry;
    sessions->save_context = context;
    sessions->save_next = 0;
    for (uint32_t i = 0; i < sessions->used; i++) {
        struct session *session = &sessions->places[i];
        session->unsaved = session->state.id != 0;
        session->saved = session->state;
        session->saved_seq = 0;
    }
}

bool att_sessions_save_step(struct att_sessions *sessions, uint32_t most)
{
    uint32_t count = 0;

    for (; sessions->save_next < sessions->used; sessions->save_next++) {
        struct session *session = &sessions->places[sessions->save_next];
        if (session->unsaved && count < most)
            count += save_session(sessions, session, most - count);
        if (session->unsaved)
            return true;
    }
    return false;
}

/* ---- Places -------------------------------------------------------------------------------------------- */

static uint32_t add(struct att_sessions *sessions, uint64_t id)
{
    uint32_t place = sessions->free_first, *bucket = &sessions->buckets[bucket_of(id)];

    if (place != ATT_NO_SESSION) {
        sessions->free_first = sessions->places[place].next;
    } else {
        if (sessions->used == sessions->capacity) {
            uint32_t capacity = sessions->capacity ? 2 * sessions->capacity : 64;
            struct session *larger = realloc(sessions->places, capacity * sizeof *larger);
            if (!larger)
                return ATT_NO_SESSION;
            sessions->places = larger;
            sessions->capacity = capacity;
        }
        place = sessions->used++;
    }
    sessions->places[place] = (struct session){.state = {.id = id}, .next = *bucket};
    *bucket = place;
    sessions->count++;
    return place;
}

/* NULL: he never had a session. */
static struct crowd *crowd_of(const struct att_sessions *sessions, uint32_t user)
{
    for (uint32_t i = 0; i < sessions->crowd_count; i++)
        if (sessions->crowds[i].user == user)
            return &sessions->crowds[i];
    return NULL;
}

/* NULL: no memory. */
static struct crowd *make_crowd(struct att_sessions *sessions, uint32_t user)
{
    struct crowd *crowd = crowd_of(sessions, user), *larger;

    if (crowd)
        return crowd;
    larger = realloc(sessions->crowds, (sessions->crowd_count + 1) * sizeof *larger);
    if (!larger)
        return NULL;
    sessions->crowds = larger;
    crowd = &larger[sessions->crowd_count++];
    *crowd = (struct crowd){.user = user};
    return crowd;
}

static void expire(struct att_sessions *sessions, uint32_t place)
{
    struct session *session = &sessions->places[place];
    uint32_t *link = &sessions->buckets[bucket_of(session->state.id)];

    if (session->unsaved)
        save_session(sessions, session, UINT32_MAX);
    while (*link != place)
        link = &sessions->places[*link].next;
    *link = session->next;
    crowd_of(sessions, session->state.user)->count--;
    free(session->notes);
    *session = (struct session){.next = sessions->free_first};
    sessions->free_first = place;
    sessions->count--;
}

bool att_sessions_make_room(struct att_sessions *sessions, uint32_t user)
{
    const struct crowd *own = crowd_of(sessions, user);

    while (sessions->count >= ATT_SESSIONS_MOST) {
        uint32_t oldest = ATT_NO_SESSION, most = own ? own->count + 1 : 1;
        for (uint32_t i = 0; i < sessions->used; i++) {
            const struct att_session_state *state = &sessions->places[i].state;
            if (state->id == 0 || state->connection != 0)
                continue;
            const uint32_t crowd = crowd_of(sessions, state->user)->count + (state->user == user);
            if (crowd < most ||
                (crowd == most && oldest != ATT_NO_SESSION && state->lsn >= sessions->places[oldest].state.lsn))
                continue;
            oldest = i;
            most = crowd;
        }
        if (oldest == ATT_NO_SESSION)
            return false;
        expire(sessions, oldest);
    }
    return true;
}

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

/* By user, the newest first. */
static int by_user(const void *left, const void *right)
{
    const struct att_session_state *a = &((const struct session *)left)->state,
                                   *b = &((const struct session *)right)->state;

    return a->user != b->user ? compare(a->user, b->user) : compare(b->lsn, a->lsn);
}

/* By how many newer ones their users have, which is in `next`; the newest first. */
static int by_rank(const void *left, const void *right)
{
    const struct session *a = left, *b = right;

    return a->next != b->next ? compare(a->next, b->next) : compare(b->state.lsn, a->state.lsn);
}

/* Without this every session since the snapshot would be looked at, for each end of a connection and each that expires. */
void att_sessions_forget(struct att_sessions *sessions)
{
    const uint32_t kept = 2 * ATT_SESSIONS_MOST;

    if (sessions->count <= kept)
        return;
    qsort(sessions->places, sessions->used, sizeof *sessions->places, by_user);
    for (uint32_t i = 0, rank = 0; i < sessions->used; i++) {
        struct session *session = &sessions->places[i];
        rank = i > 0 && session->state.user == session[-1].state.user ? rank + 1 : 0;
        session->next = session->state.id != 0 ? rank : UINT32_MAX; /* a free place comes last */
    }
    qsort(sessions->places, sessions->used, sizeof *sessions->places, by_rank);
    for (uint32_t i = kept; i < sessions->used; i++) {
        if (sessions->places[i].state.id != 0)
            crowd_of(sessions, sessions->places[i].state.user)->count--;
        free(sessions->places[i].notes);
    }
    sessions->used = sessions->count = kept;
    sessions->free_first = ATT_NO_SESSION;
    for (uint32_t i = 0; i < BUCKETS; i++)
        sessions->buckets[i] = ATT_NO_SESSION;
    for (uint32_t i = 0; i < kept; i++) {
        uint32_t *bucket = &sessions->buckets[bucket_of(sessions->places[i].state.id)];
        sessions->places[i].next = *bucket;
        *bucket = i;
    }
}

void att_sessions_bind(struct att_sessions *sessions, uint32_t place, uint64_t connection)
{
    sessions->places[place].state.connection = connection;
}

void att_sessions_unbind(struct att_sessions *sessions, uint64_t connection)
{
    for (uint32_t i = 0; i < sessions->used; i++)
        if (sessions->places[i].state.connection == connection)
            sessions->places[i].state.connection = 0;
}

/* ---- Notes --------------------------------------------------------------------------------------------- */

static void forget_old(struct session *session, uint64_t newest)
{
    if (session->unsaved && session->saved.seq < newest)
        newest = session->saved.seq; /* a save wants them */
    while (session->count > 0 && note_at(session, 0)->seq + ATT_SESSION_WINDOW <= newest) {
        session->first = (session->first + 1) & (session->capacity - 1);
        session->count--;
    }
}

/* Room for one more note. */
static bool make_note(struct session *session)
{
    const uint32_t capacity = session->capacity ? 2 * session->capacity : NOTES_LEAST;

    if (session->count < session->capacity)
        return true;
    struct note *larger = malloc(capacity * sizeof *larger);
    if (!larger)
        return false;
    for (uint32_t i = 0; i < session->count; i++)
        larger[i] = *note_at(session, i);
    free(session->notes);
    session->notes = larger;
    session->first = 0;
    session->capacity = capacity;
    return true;
}

/* How many right before it are refused when `seq` takes effect: what its window holds at most. */
static uint32_t gap_before(const struct session *session, uint64_t seq)
{
    const uint64_t gap = seq - session->state.seq - 1;

    return gap < ATT_SESSION_WINDOW ? (uint32_t)gap : ATT_SESSION_WINDOW - 1;
}

bool att_sessions_reserve(struct att_sessions *sessions, uint32_t place, uint64_t seq)
{
    struct session *session = &sessions->places[place];

    if (seq <= session->state.seq)
        return true;
    forget_old(session, seq);
    return make_note(session);
}

enum att_sequence att_sessions_look(const struct att_sessions *sessions, uint32_t place, uint64_t seq,
                                    uint32_t *ret_index)
{
    const struct session *session = &sessions->places[place];
    const uint32_t at = first_note(session, seq);

    if (seq > session->state.seq)
        return ATT_SEQUENCE_NEW;
    if (seq + ATT_SESSION_WINDOW <= session->state.seq)
        return ATT_SEQUENCE_FORGOTTEN;
    *ret_index = 0;
    if (at == session->count)
        return ATT_SEQUENCE_DONE;
    const struct note *note = note_at(session, at);
    if (note->seq != seq)
        return note->seq - seq <= note->refused ? ATT_SEQUENCE_REFUSED : ATT_SEQUENCE_DONE;
    if (note->result == ATT_SESSION_REFUSED)
        return ATT_SEQUENCE_REFUSED;
    if (note->result != ATT_SESSION_NO_INDEX)
        *ret_index = note->result;
    return ATT_SEQUENCE_DONE;
}

/* ---- Entries ------------------------------------------------------------------------------------------- */

static enum att_status begin(struct att_sessions *sessions, const struct att_session_entry *entry)
{
    uint32_t place = att_sessions_find(sessions, entry->session);
    struct crowd *crowd;

    if (entry->session == 0)
        return ATT_ECORRUPT;
    if (place != ATT_NO_SESSION)
        expire(sessions, place);
    crowd = make_crowd(sessions, entry->result);
    place = crowd ? add(sessions, entry->session) : ATT_NO_SESSION;
    if (place == ATT_NO_SESSION)
        return ATT_ENOMEM;
    crowd->count++;
    struct att_session_state *state = &sessions->places[place].state;
    state->fence = entry->seq;
    state->user = entry->result;
    state->lsn = entry->lsn;
    return ATT_OK;
}

static enum att_status update(struct att_sessions *sessions, uint32_t place, const struct att_session_entry *entry)
{
    struct session *session = &sessions->places[place];

    if (entry->seq <= session->state.seq)
        return ATT_OK; /* known */
    const uint32_t refused = entry->what == ATT_SESSION_DONE ? gap_before(session, entry->seq) : 0;
    forget_old(session, entry->seq);
    if (refused > 0 || (entry->what != ATT_SESSION_SEEN && entry->result != ATT_SESSION_NO_INDEX)) {
        if (!make_note(session))
            return ATT_ENOMEM;
        session->count++;
        *note_at(session, session->count - 1) = (struct note){entry->seq, entry->result, refused};
    }
    session->state.seq = entry->seq;
    session->state.lsn = entry->lsn;
    return ATT_OK;
}

enum att_status att_sessions_apply(struct att_sessions *sessions, const struct att_session_entry *entry)
{
    uint32_t place;

    if (entry->what == ATT_SESSION_NEW)
        return begin(sessions, entry);
    place = att_sessions_find(sessions, entry->session);
    if (place == ATT_NO_SESSION || entry->what < ATT_SESSION_NEW || entry->what > ATT_SESSION_SEEN)
        return ATT_ECORRUPT;
    if (entry->what != ATT_SESSION_ATTACHED)
        return update(sessions, place, entry);
    sessions->places[place].state.fence = entry->seq;
    sessions->places[place].state.lsn = entry->lsn;
    return ATT_OK;
}
