/* The sessions: what the daemon remembers of each client that wants every update to take effect exactly once, across
 * crashes of either side. A session has an id, which its client chose, a user, and numbers its updates from 1 on. The
 * table knows of each session the newest number that took effect, and of the last ATT_SESSION_WINDOW numbers which did
 * and which never will, and the tokens that appends made; so an update that comes again is answered and not applied.
 *
 * The table is a function of the entries that it took in (struct att_session_entry): the service makes them when it
 * serves, recovery makes them from the snapshot and from the log's records, where each update carries its session and
 * number. So it is on disk exactly when the updates are.
 *
 * Thread rule: one thread, the service thread; before the service runs, the one that recovers. */
#ifndef ATT_SESSIONS_H
#define ATT_SESSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "attn_status.h"
#include "format.h"

struct att_sessions;

/* So many are kept; then one without a client expires: of the user with the most sessions, so that nobody makes those of
 * who has fewer expire, the one that was not used for longest, by LSN. */
enum { ATT_SESSIONS_MOST = 1024 };
#define ATT_NO_SESSION UINT32_MAX

struct att_session_state {
    uint64_t id, fence;
    uint64_t seq;        /* the newest that is known */
    uint64_t lsn;        /* when it was used last */
    uint64_t connection; /* 0: no client */
    uint32_t user;
};

/* NULL: no memory. */
struct att_sessions *att_sessions_create(void);
void att_sessions_free(struct att_sessions *sessions); /* NULL is allowed */

/* The place of a session, good until it expires; ATT_NO_SESSION. */
uint32_t att_sessions_find(const struct att_sessions *sessions, uint64_t id);
const struct att_session_state *att_sessions_at(const struct att_sessions *sessions, uint32_t place);

/* Takes in an entry. ATT_ENOMEM; ATT_ECORRUPT: of a session that is not there, or nonsense. After att_sessions_reserve
 * DONE and NOTED of that number cannot fail. */
enum att_status att_sessions_apply(struct att_sessions *sessions, const struct att_session_entry *entry);
/* Memory for an update number `seq`. False: there is none. */
bool att_sessions_reserve(struct att_sessions *sessions, uint32_t place, uint64_t seq);

/* What is known of an update. */
enum att_sequence {
    ATT_SEQUENCE_NEW,       /* it comes for the first time */
    ATT_SEQUENCE_DONE,      /* it took effect */
    ATT_SEQUENCE_REFUSED,   /* it did not, and later ones did */
    ATT_SEQUENCE_FORGOTTEN, /* it lies behind the window */
};
enum att_sequence att_sessions_look(const struct att_sessions *sessions, uint32_t place, uint64_t seq,
                                    uint32_t *ret_index);

/* Who has it. A session with a client does not expire. */
void att_sessions_bind(struct att_sessions *sessions, uint32_t place, uint64_t connection);
void att_sessions_unbind(struct att_sessions *sessions, uint64_t connection);
/* Makes sessions expire until there is room for one more of this user. False: all that may go for it have clients. */
bool att_sessions_make_room(struct att_sessions *sessions, uint32_t user);
/* Lets go of all but 2 ATT_SESSIONS_MOST: as many of each user, or all that he has, and those that were used last. Of a
 * table that was made from a log, which does not say who has expired; before anybody is bound: it moves them. */
void att_sessions_forget(struct att_sessions *sessions);

/* Entries that make this table again, as it is when the save begins: what becomes of it meanwhile is not in them. The
 * callback takes them, in steps, and those of a session that expires before its turn. */
void att_sessions_save_begin(struct att_sessions *sessions,
                             void (*entry)(void *context, const struct att_session_entry *entry), void *context);
/* Hands out about so many. False: that was the last. */
bool att_sessions_save_step(struct att_sessions *sessions, uint32_t most);

#endif
