/* What the server's files share. All of it belongs to the service thread, but for wake_pending and wake_fd. */
#ifndef ATT_SERVER_INTERNAL_H
#define ATT_SERVER_INTERNAL_H

#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "channel.h"
#include "handshake.h"
#include "server.h"
#include "wait.h"

enum {
    DEFAULT_CLIENTS = 1024,
    MOST_CLIENTS = 65535, /* a slot fits into SESSION_SLOT_BITS */
    SESSION_SLOT_BITS = 16,
    GUESTS_LEAVE = 64,  /* one place in so many is kept for the daemon's own user and root, who have to see to it */
    PENDING_MOST = 64,  /* connections that have not said hello; the oldest gives way */
    ACCEPT_MOST = 64,   /* connections taken in one look at the listener */
    EVENTS_MOST = 64,   /* events taken with one epoll_wait */
    DOORBELLS_MOST = 8, /* doorbells read in one look at a socket */
    BURST_MOST = 16,    /* requests of one session before the next one's turn */
    ACTIVE_LEAST = 16,  /* so few sessions are all looked at each time */
    QUIET_LOOKS = 1024, /* a session with nothing in so many looks becomes quiet */
    QUIET_PROBES = 8,   /* quiet sessions looked at each time the active ones have been */
    LISTEN_BACKLOG = 128,
    POLL_NS = 1000 * 1000,       /* a busy service looks at its sockets so often */
    POLL_WAITS = 32,             /* ... and at the clock once in so many calls */
    TOGETHER_MOST = 8,           /* doorbells from the service's own processor before it moves away */
    TOGETHER_NS = 200 * 1000,    /* ... each so soon after the last */
    MOVE_NS = 20 * 1000 * 1000,  /* from one move, or look whether one pays, to the next */
    AWAY_NS = 200 * 1000 * 1000, /* for so long it keeps off that processor */
    DEADLINE_CHECK_MS = 250      /* a sleeping service looks at deadlines so often, while there are any */
};
#define HELLO_NS        (2 * UINT64_C(1000000000))  /* a connection must say hello within */
#define HELD_MOST       (UINT64_C(16) << 20)        /* but one answer may be larger */
#define HELD_SMALL      (UINT64_C(128) << 10)       /* such an answer waits for nobody else's */
#define STARVED_NS      (10 * UINT64_C(1000000000)) /* a client that reads no reply for so long is evicted */
#define ACCEPT_PAUSE_NS (UINT64_C(1000000000) / 2)  /* no accept after running out of descriptors */

struct att_session {
    uint64_t id;
    int fd;
    uint32_t open_index; /* in server->open */
    uint32_t looks;      /* in vain, one after another */
    uint32_t generation;
    pid_t pid;
    uid_t uid;
    struct att_channel channel;
    struct att_consumer requests;
    struct att_producer replies;
    uint64_t reserved;     /* reply slots promised to requests given or taken */
    uint64_t wanted;       /* reply slots that the message in front needs, as far as is known */
    uint32_t done;         /* requests dealt with of the batch in front, which had to be left in the middle */
    uint64_t held;         /* bytes of memory of answers that are computed elsewhere, or on their way out */
    uint32_t computing;    /* answers that the service computes elsewhere */
    uint32_t woken_ticket; /* the client's sleep that was ended last */
    uint32_t place;        /* of its lasting session; ATT_NO_PLACE */
    bool owner;            /* see att_user_owns */
    bool parked;
    bool waits;           /* an update is next in its batch, and answers before it are being computed */
    bool streaming;       /* request has followed request since the ring was last seen empty */
    bool dirty;           /* in server->dirty */
    bool starved;         /* something waits for the client to read replies; wants_room is set */
    uint64_t starved_for; /* reply slots */
    uint64_t starved_since;
    uint64_t starved_tail;
    const char *
        broken; /* how the client broke the protocol, or why else it must go: ended at the next att_server_next or _wait */
};

struct att_pending {
    int fd; /* -1: free */
    uint32_t serial;
    uint64_t since;
};

/* Whether the service shares its processor with a client; see server_place.c. */
struct att_place {
    uint32_t together; /* doorbells from its own processor, one soon after another */
    uint64_t together_ns;
    uint64_t not_before;       /* the next move */
    uint64_t away_until;       /* 0: it may use all of `allowed` */
    cpu_set_t allowed, others; /* while away: what it may use, and what it does */
};

struct att_server {
    struct sockaddr_un address;
    dev_t socket_device;
    ino_t socket_inode;
    uid_t *allowed;
    size_t allowed_count;
    uint32_t max_clients;
    struct att_info info;
    const int *regions;
    uint32_t region_count;
    void (*on_end)(void *context, uint64_t session);
    enum att_status (*on_ask)(void *context, uint64_t session, const struct att_session_ask *ask,
                              struct att_session_grant *ret_grant, struct att_error *error);
    void *context;
    struct att_geometry geometry;
    uint64_t largest_request, largest_batch, largest_reply_slots, largest_batch_reply_slots;
    uint32_t slots_wanted[ATT_REQUEST_TYPES]; /* reply slots, by the reply to one request */

    int lock_fd, listen_fd, epoll_fd, wake_fd, page_fd;
    struct att_status_page *page;
    _Atomic uint32_t wake_pending; /* set by any thread, taken by the service thread */

    struct att_session **table; /* by slot; NULL: free */
    _Atomic uint64_t *ids;      /* by slot: of the session that is open, or 0. Any thread reads them */
    /* Compact: first the active sessions, then the quiet ones. Active ones are looked at each time; of the quiet ones a
     * few, in turn; all of them before the service sleeps. So a thousand idle clients cost a busy one nothing, and one
     * that wakes up among them waits some microseconds. */
    struct att_session **open;
    struct att_session **dirty; /* with replies that are not published */
    uint16_t *free_slots;       /* a ring: a slot is reused as late as possible */
    uint32_t open_count, dirty_count, free_first, free_count, starved_count;
    uint64_t serial;
    uint64_t held, held_most; /* of all sessions, in answers that are not small */
    bool held_back;           /* a session is parked because of it */
    uint32_t generation_base;

    struct att_pending pending[PENDING_MOST];
    uint32_t pending_count, pending_serial;
    uint64_t accept_paused_until; /* 0: not paused */

    struct att_session *current;     /* its request has been given and is neither taken nor parked */
    uint64_t current_slots;          /* of its message */
    uint64_t current_reserved;       /* for what has not been taken of the message */
    uint32_t current_left;           /* requests of the message that have not been taken */
    const unsigned char *current_at; /* in `request`: the one given */
    uint32_t active_count;
    uint32_t turn, burst;   /* among the active */
    uint32_t probe;         /* the quiet session looked at next, counted from active_count */
    unsigned char *request; /* the private copy of a message, largest_batch bytes */

    bool retired;
    uint64_t said_ns; /* since when `said` lines about clients have been written: see att_session_end */
    uint32_t said, unsaid;

    struct att_spin spin;
    struct att_place place;
    uint64_t polled_ns;
    uint32_t waits;
};

/* server_session.c */
enum att_status att_session_open(struct att_server *server, int fd, pid_t pid, uid_t uid,
                                 struct att_session **ret_session, int *ret_channel_fd, struct att_error *error);
/* reason: printed; NULL: the client hung up, which is no news. Calls on_end. */
void att_session_end(struct att_server *server, struct att_session *session, const char *reason);
void att_session_release(struct att_session *session);
static inline struct att_session *att_session_find(const struct att_server *server, uint64_t id) /* NULL: ended */
{
    const uint64_t slot = id & ((1u << SESSION_SLOT_BITS) - 1);
    struct att_session *session = slot < server->max_clients ? server->table[slot] : NULL;
    return session && session->id == id ? session : NULL;
}
/* Whether `slots` more fit beside what is reserved; reads the client's cursor (_now) only if they seem not to. */
bool att_session_fits_now(struct att_session *session, uint64_t slots);
static inline bool att_session_fits(struct att_session *session, uint64_t slots)
{
    return att_producer_room(&session->replies) >= session->reserved + slots || att_session_fits_now(session, slots);
}
/* Rule (2), for session->wanted. False: the service owes replies; it's not the client's turn to do something. */
static inline bool att_session_admits(const struct att_server *server, const struct att_session *session)
{
    const uint64_t limit = session->replies.capacity - session->replies.capacity / ATT_RING_TELL;
    return session->reserved + session->wanted + server->largest_reply_slots <= limit;
}
/* What waits needs so many slots; 0: nothing waits. */
void att_session_set_starved(struct att_server *server, struct att_session *session, uint64_t slots);
void att_session_quiet(struct att_server *server, struct att_session *session); /* an active one */
void att_session_measure(struct att_server *server);                            /* makes server->slots_wanted */
static inline uint64_t att_slots_wanted(const struct att_server *server, uint32_t type)
{
    return server->slots_wanted[type];
}
/* Whether a request could be presented, or a chunk could go on, now. */
bool att_session_ready(struct att_server *server, struct att_session *session);
/* Looks at a few quiet sessions and makes those active that have something. Whether there was one. */
bool att_session_probe(struct att_server *server, uint32_t most);
/* Evicts a client that reads no replies. */
void att_session_check_starved(struct att_server *server, struct att_session *session, uint64_t now);

/* server_request.c: att_server_next, _ahead, _take, _park and _unpark */

/* server_accept.c */
enum { EVENT_LISTENER = 0, EVENT_WAKE = 1 };
#define EVENT_PENDING (UINT64_C(1) << 63)
enum att_status att_accept_open(struct att_server *server, bool shared, struct att_error *error);
void att_accept_clients(struct att_server *server, uint64_t now);
void att_accept_hello(struct att_server *server, uint64_t event); /* a pending connection says something */
void att_accept_expire(struct att_server *server, uint64_t now);
void att_accept_close(struct att_server *server);
bool att_user_owns(uid_t uid); /* the daemon's own user, or root: let in always, and may end the daemon */

/* server_place.c */
void att_place_doorbell(struct att_place *place, unsigned char doorbell, uint64_t now);
/* Its parts. Whether it is time to leave the processor; leaving it; the end of that, when its time is over. */
bool att_place_together(struct att_place *place, unsigned char doorbell, int processor, uint64_t now);
void att_place_leave(struct att_place *place, int processor, uint64_t now);
void att_place_return(struct att_place *place, uint64_t now);

/* server_wait.c */
bool att_epoll_add(const struct att_server *server, int fd, uint64_t event);

#endif
