/* The server side of ipc: accepts clients, hands their requests to the service one at a time and
 * takes its replies. With attn.h and wire.h the public headers of ipc.
 *
 * Thread rule: all of it belongs to the service thread, but for att_server_wake. Nothing blocks
 * but att_server_wait. Nothing here trusts what a client can write: a request is copied once, then
 * validated; a violation ends that client's session with a reason on stderr, and nothing else. */
#ifndef ATT_SERVER_H
#define ATT_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "attn.h"
#include "wire.h"

struct att_server;

/* A client connects with a session that outlives connections: whom it asks for, and what it is told. The server only
 * passes it on; "session" elsewhere in this header is a connection. */
struct att_session_ask {
    uint64_t id, fence;
    bool must_exist;
    uid_t uid;
};
struct att_session_grant {
    uint64_t seq, fence;
    uint32_t place; /* comes with every request */
};
#define ATT_NO_PLACE UINT32_MAX

struct att_server_options {
    const char *socket;   /* path to bind; a stale socket file is replaced, a live one is ATT_ELOCKED */
    const uid_t *allowed; /* besides the daemon's own user and root */
    size_t allowed_count;
    enum att_wait wait;
    uint32_t max_clients; /* 0: 1,024 */
    uint64_t held_most;   /* see att_server_hold; 0: an eighth of the machine's memory */
    struct att_info info; /* told to every client */
    /* Descriptors of the published regions, ATT_HEAD_FDS for each head, for clients that want direct reads; stay the caller's,
     * must outlive the server. 0: direct reads are off. */
    const int *regions;
    uint32_t region_count; /* heads */
    /* A session has ended: drop what was meant for it. Called from att_server_next and
     * att_server_wait; must not call them. Not called by att_server_free. May be NULL. */
    void (*on_end)(void *context, uint64_t session);
    /* Opens the lasting session that a new client asks for, or says why not. Called from att_server_wait; may call
     * att_server_end. NULL: refused. */
    enum att_status (*on_ask)(void *context, uint64_t session, const struct att_session_ask *ask,
                              struct att_session_grant *ret_grant, struct att_error *error);
    void *context;
};

/* Whether a daemon may have this name. ATT_EINVAL. */
enum att_status att_name_check(const char *name, struct att_error *error);

/* Makes the directory of a default path, if it is not there. `shared`: other users must reach the socket. ATT_ENOENT, ATT_EIO. */
enum att_status att_socket_make_directory(const char *path, bool shared, struct att_error *error);

/* Whether a server could listen there as things are now: its directory is there, and nobody else's to change; at the path is
 * nothing, or a socket that nobody listens on. Changes nothing. ATT_EINVAL (too long), ATT_ENOENT, ATT_EPERM, ATT_EEXIST,
 * ATT_ELOCKED, ATT_EIO. */
enum att_status att_server_check_socket(const char *path, struct att_error *error);

/* Errors: those of att_server_check_socket, ATT_ENOMEM, ATT_EINVAL. */
enum att_status att_server_create(const struct att_server_options *options, struct att_server **ret_server,
                                  struct att_error *error);

/* Publishes what is held back, ends all sessions (clients see a hang-up, after the replies),
 * removes the socket. Nobody may call att_server_wake any more. NULL is allowed. */
void att_server_free(struct att_server *server);

/* A request as the service sees it: validated framing and private memory. The pointers are valid
 * until att_server_take. `session` is never reused for another client. */
struct att_server_request {
    uint64_t session;
    struct att_wire_request header;
    const float *key;   /* d floats when fields says so, else NULL */
    const float *value; /* d_v floats, else NULL */
    bool more;          /* others of the same batch come after it */
    uint32_t place;     /* of its lasting session, or ATT_NO_PLACE; a header.session_seq only comes with one */
    bool owner;         /* its user is the daemon's own or root; others were let in by `allowed` */
};

/* The next waiting request for which its session has reply room, round robin over the sessions (so
 * no client starves another), skipping parked ones. The requests of a batch come one after another; what the service does
 * is the same for them. False: none now. The same request comes again
 * until taken or parked. */
bool att_server_next(struct att_server *server, struct att_server_request *ret_request);

/* What will probably be given after the request given last, up to its column; false: nothing yet. Unchecked: good for
 * nothing but fetching memory ahead. */
bool att_server_ahead(const struct att_server *server, struct att_wire_request *ret_hint);

/* The request given last is dealt with or will be answered later: its slots are freed, room for
 * its reply stays reserved until att_server_reply (which may also come before this). */
void att_server_take(struct att_server *server);

/* The answer to the request given last, a read, is computed elsewhere: updates that come after it in a batch wait, so that
 * they are not in it, until att_server_computed. */
void att_server_compute(struct att_server *server);
void att_server_computed(struct att_server *server, uint64_t session);

/* The answer to the request given last takes so much memory until att_server_release. False: its session holds so much for
 * others already, or all sessions together do, that it has to wait: park it. (16 MiB a session, but one answer may be
 * larger, and a batch that has begun goes on; held_most for all, but one answer may be larger, and small ones don't count.) */
bool att_server_hold(struct att_server *server, size_t bytes);
void att_server_release(struct att_server *server, uint64_t session, size_t bytes); /* and unparks who waits for it */

/* The request given last can't be done now (the entry log is full, say): its session is skipped, in
 * order and unchanged, until att_server_unpark. */
void att_server_park(struct att_server *server);
void att_server_unpark(struct att_server *server); /* all of them */

/* Replies to a request that was given and not parked; *reply's length and generation are filled in; `type`
 * must be the request's. Payload: row, at most 8 d_v bytes; stat, a struct att_stat; column and
 * all, at most att_server_chunk bytes; others none. With a status other than ATT_OK and ATT_EMPTY:
 * an error text for the user (see wire.h), left out when there is no room to spare. A reply to a
 * session that has ended is dropped silently. A reply flagged ATT_WIRE_MORE (column and all only)
 * keeps the reservation; check att_server_has_room before each chunk. A reply to ATT_REQ_READS or ATT_REQ_REGIONS is dropped:
 * those have none. Replies are published in
 * batches: at att_server_flush, or every 16. */
void att_server_reply(struct att_server *server, uint64_t session, struct att_wire_reply *reply, const void *payload,
                      size_t payload_bytes);

/* Sends the session's client the published regions again, if it has taken what it was sent before. */
void att_server_send_regions(struct att_server *server, uint64_t session);

/* The largest payload of one reply: at least 8 d_v and sizeof(struct att_stat); a multiple of 16. */
size_t att_server_chunk(const struct att_server *server);

/* Tells direct readers the LSN of the newest update, before its reply: what they read from then on reflects it. */
void att_server_set_lsn(struct att_server *server, uint64_t lsn);

/* Tells clients up to which LSN everything is on disk. */
void att_server_set_durable(struct att_server *server, uint64_t lsn);

/* Ends a session, with a reason for stderr that is a static string, at the next att_server_next; once the server is
 * retired, att_server_wait. */
void att_server_end(struct att_server *server, uint64_t session, const char *reason);

/* Whether one more chunk fits now; if not, att_server_wait returns when it does. False for a session that has ended. */
bool att_server_has_room(struct att_server *server, uint64_t session);
bool att_server_is_open(const struct att_server *server, uint64_t session);
/* What is `session` until that has ended, and never again: any thread may look, as long as the server is there. */
const _Atomic uint64_t *att_server_id_of(const struct att_server *server, uint64_t session);

/* Publishes replies and wakes the clients that sleep. */
void att_server_flush(struct att_server *server);

/* Accepts clients, notices deaths and takes doorbells: call it now and then also while
 * att_server_next has more (each 100 requests, say); while busy it makes a system call only once a
 * millisecond. Returns at once when a request may be waiting; else, by the wait mode, spins a
 * little and then sleeps up to timeout_ms (-1: no limit) for a client, a wake or a signal. */
void att_server_wait(struct att_server *server, int timeout_ms);

/* The service ends: no client is let in any more, and no request is given. Replies go on, and att_server_wait ends the
 * sessions that break the protocol or that att_server_end has named. */
void att_server_retire(struct att_server *server);

/* Any thread (and signal handlers): makes a sleeping or about-to-sleep att_server_wait return. A
 * system call only when the service sleeps. */
void att_server_wake(struct att_server *server);

uint32_t att_server_clients(const struct att_server *server);

#endif
