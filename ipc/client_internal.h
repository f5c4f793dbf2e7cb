/* What the client's files share. A client belongs to one thread at a time; nothing here is global. */
#ifndef ATT_CLIENT_INTERNAL_H
#define ATT_CLIENT_INTERNAL_H

#include "attn.h"
#include "channel.h"
#include "handshake.h"
#include "wait.h"

enum {
    DEFAULT_TIMEOUT_MS = 10 * 1000,
    MOST_IN_FLIGHT = 65536,
    HOLD_PARTS = 32,
    HOLD_MOST = 16,        /* pauses: some 0.3 us */
    HOLD_LOOKS = 16,       /* a reply that comes after so many was not late because of a look */
    CHUNKS_A_LOOK = 64,    /* taken between two looks at the clock */
    LOOK_NS = 1000 * 1000, /* while spinning, the socket is looked at so often */
    PACKETS_A_LOOK = 64,   /* of regions: an honest daemon sends 16 for its most heads, when those before are taken */
    SLICE_NS = 20 * 1000 * 1000,         /* while sleeping: so a dead daemon is noticed within 20 ms */
    RETRY_NS = 1000 * 1000,              /* between attempts to connect while the daemon's backlog is full */
    SESSION_RETRY_NS = 50 * 1000 * 1000, /* att_complete tries for so long at least; and between attempts of a session
                                            while a daemon answers, but refuses or is another one */
    COMEBACK_NS = 5 * 1000 * 1000        /* between attempts to connect to a daemon that may be starting again */
};
#define NO_FLIGHT UINT32_MAX

enum flight_state {
    FLIGHT_FREE = 0,
    FLIGHT_OUT = 1,      /* submitted, no completion yet */
    FLIGHT_KEPT = 2,     /* complete; waits for att_complete */
    FLIGHT_ABANDONED = 3 /* its caller has given up: the late reply is dropped, its buffer never touched */
};

/* A request in flight. Its wire tag is (round << 32 | index in the table): a reply to an earlier
 * use of the place does not fit. */
struct att_flight {
    uint32_t state; /* enum flight_state */
    uint32_t round;
    uint32_t next; /* in the free list or in the list of the kept */
    uint32_t column;
    uint32_t index;
    uint32_t type;
    uint64_t seq;    /* in the client's session; 0: no update of one */
    uint64_t filled; /* payload bytes so far */
    uint64_t expected;
    unsigned char *buffer;
    struct att_completion *batch; /* where att_call_batch wants the completion, while it waits for it; else NULL */
    char *text;                   /* the daemon's error text of a kept completion, or NULL */
    struct att_completion done;
};

struct att_client {
    int fd;
    uint32_t timeout_ms;
    uint32_t chunk_bytes;
    uint32_t generation;
    bool closed; /* the daemon has gone or broke the protocol; what is in the ring may still be read unless broken */
    bool broken;
    bool attached; /* the mappings are there */
    bool wants_direct, stay_closed;
    enum att_wait wait;
    struct att_direct *direct; /* the published regions; NULL: no direct reads */
    struct att_resend *resend; /* the session; NULL: none */
    struct att_info info;
    struct att_channel channel;
    const struct att_status_page *page;
    struct att_producer requests;
    struct att_consumer replies;
    uint64_t largest_reply;
    uint64_t payload[ATT_REQUEST_TYPES]; /* bytes of a successful reply's */
    uint32_t rung_ticket;                /* the service's sleep that was rung for last */
    uint32_t ticket;                     /* what our client_ticket holds */
    struct att_spin spin;
    uint64_t looked_ns;
    uint32_t hold;     /* pauses before the first look for a reply, in parts of HOLD_PARTS: client_wait.c */
    uint64_t deadline; /* of the program's call that runs; 0: it has not looked at the clock yet */

    struct att_flight *flights; /* MOST_IN_FLIGHT; a place is touched only when needed */
    uint32_t free_first, fresh; /* the free list, and the places never used */
    uint32_t out, kept, abandoned;
    uint32_t kept_first, kept_last;

    struct att_error error;             /* the last one */
    struct att_error gone;              /* why it is closed */
    char text[ATT_WIRE_TEXT_BYTES + 1]; /* the error text of the reply in hand; "" without */
    char socket[ATT_SOCKET_PATH_MAX + 1];
};

/* client_sync.c */
/* When the program's call that runs has to be over. Its time begins with the first look at the clock. */
uint64_t att_client_deadline(struct att_client *client, uint64_t now);
/* att_call as a part of another call, whose time goes on. */
enum att_status att_client_call(struct att_client *client, const struct att_request *request,
                                struct att_completion *ret_completion);
/* Waits for one completion that is not ours, or for room. False: the deadline is over or the daemon has gone. */
bool att_client_wait_for_room(struct att_client *client, uint64_t deadline);
/* Stops waiting: the reply, should it come, is dropped. ATT_ETIMEOUT. */
enum att_status att_client_abandon(struct att_client *client, uint32_t place);

/* client_connect.c */
/* After the daemon has gone: ends what was in flight, and connects again, trying until the deadline. ATT_ECLOSED. */
enum att_status att_client_reconnect(struct att_client *client, uint64_t deadline);

/* client_direct.c */
struct att_direct;
/* With no region yet. ATT_ENOMEM. */
enum att_status att_direct_create(uint32_t heads, struct att_direct **ret_direct, struct att_error *error);
/* Maps the region of a head, instead of the old one if there is one, after client->info is known; fds stay the caller's.
 * ATT_EPROTOCOL, ATT_EVERSION, ATT_ENOMEM: all is as it was. */
enum att_status att_direct_map(struct att_client *client, uint32_t head, const int fds[ATT_HEAD_FDS],
                               struct att_error *error);
void att_direct_free(struct att_direct *direct); /* NULL is allowed */
/* Takes what the daemon has sent after the handshake. False: it is not what was asked for. */
bool att_direct_receive(struct att_client *client);
/* ATT_OK, ATT_EMPTY; ATT_AGAIN: ask the daemon, which also knows what is wrong with an index. */
enum att_status att_direct_entry(struct att_client *client, uint32_t head, uint32_t row, uint32_t column,
                                 double *ret_value, double *ret_error_bound);
enum att_status att_direct_row(struct att_client *client, uint32_t head, uint32_t row, double *ret_values,
                               double *ret_error_bound);
enum att_status att_direct_column(struct att_client *client, uint32_t column, double *ret_pairs);

/* client_session.c */
struct att_resend;
/* ATT_ENOMEM, ATT_EIO; att_session_free is the caller's, always. */
enum att_status att_session_create(struct att_client *client, uint64_t id, bool resume, struct att_error *error);
void att_session_free(struct att_client *client);
void att_session_hello(struct att_client *client, struct att_hello *hello);
/* After a handshake; `restarted`: with another start of the daemon than the last. ATT_LOST, ATT_EPROTOCOL. */
enum att_status att_session_welcomed(struct att_client *client, const struct att_welcome *welcome, bool restarted,
                                     struct att_error *error);
/* What the session did before is on disk: att_connect is about to return. */
void att_session_settled(struct att_client *client);
/* Whether connecting failed with what ends the session for good; remembers it. */
bool att_session_ends(struct att_client *client, enum att_status status);
/* Whether there is a session that survives the end of the connection; and whether this flight does with it. */
bool att_session_goes_on(const struct att_client *client);
bool att_session_holds(const struct att_client *client, const struct att_flight *flight);
/* Whether something is to be sent again before anything else is sent; sends of it what there is room for. */
bool att_session_sends_again(const struct att_client *client);
/* Whether an acknowledged update that a crash took back is not repeated yet: then the region is behind. */
bool att_session_unsettled(const struct att_client *client);
void att_session_pump(struct att_client *client);
/* Before requests are submitted: what is sent again has been sent, and there is room to keep the updates among them.
 * ATT_EBUSY. Not without a session. */
enum att_status att_session_admit(struct att_client *client, const struct att_request *requests, uint32_t count);
static inline bool att_session_keeps(const struct att_client *client, uint32_t type) /* an update of a session */
{
    return client->resend && att_request_rule(type)->update;
}
uint64_t att_session_next(const struct att_client *client); /* the number of the update that is submitted next */
/* Keeps its message, of these parts, and returns it as one. */
struct att_part att_session_keep(struct att_client *client, const struct att_part *parts, size_t count,
                                 uint32_t flight);
void att_session_replied(struct att_client *client, const struct att_flight *flight);

/* client_wait.c */
void att_client_bell(struct att_client *client); /* a doorbell for what is published, if the service sleeps */
/* Waits until a reply may be there, the deadline is over or the daemon has gone; pushes first. */
void att_client_await(struct att_client *client, uint64_t start, uint64_t deadline);
/* Pushes and looks for about a microsecond, without a look at the clock. Whether a reply is there. */
bool att_client_quick(struct att_client *client);
void att_client_look(struct att_client *client, uint64_t now); /* at the socket, if that was long ago */
/* Frees a reply's slots and tells the daemon when it should know. */
void att_client_take(struct att_client *client, uint64_t slots);
void att_client_hang_up(struct att_client *client); /* marks it closed */

/* client.c */
void att_client_measure(struct att_client *client); /* makes client->payload, from its info */
/* Takes one completion out of the ring. NO_FLIGHT: none is there, the daemon broke the protocol, or CHUNKS_A_LOOK
 * replies have completed nothing (not when it is closed: then all that is there is taken). Abandoned ones are dropped on
 * the way. The flight is FLIGHT_OUT still; client->text holds its error text. */
uint32_t att_client_collect(struct att_client *client);
void att_client_keep(struct att_client *client, uint32_t flight);
void att_client_free_flight(struct att_client *client, uint32_t flight);
/* Its reply will be dropped, and its buffer not touched. */
void att_client_drop(struct att_client *client, uint32_t flight);
/* An abandoned flight from the start, for an update that is sent again. NO_FLIGHT: all are in use. */
uint32_t att_client_ghost(struct att_client *client, uint32_t type, uint64_t seq);
/* After the end of the connection, when all replies are taken: completes what is in flight with why it is closed. */
void att_client_give_up(struct att_client *client);
enum att_status att_client_submit(struct att_client *client, const struct att_request *request, uint32_t *ret_flight);
/* What a submission is made of. */
enum att_status att_client_check(struct att_client *client, const struct att_request *request);
uint64_t att_client_bytes(const struct att_client *client, const struct att_request *request); /* of its message */
enum att_status att_client_make_room(struct att_client *client, uint64_t slots);               /* in the request ring */
uint32_t att_client_launch(struct att_client *client, const struct att_request *request); /* its flight, or NO_FLIGHT */
/* Its message; returns how many parts, which point to the header and to the request's arrays. */
size_t att_client_parts(struct att_client *client, const struct att_request *request, uint32_t place,
                        struct att_wire_request *ret_header, struct att_part ret_parts[3]);
void att_client_put(struct att_client *client, const struct att_part *parts, size_t count); /* there is room */

/* client_error.c */
/* Makes the client's last error from a completion's status and the daemon's text ("": none). */
void att_client_describe(struct att_client *client, const struct att_flight *flight, const char *text);
/* Marks it closed for breaking the protocol; nothing in the ring is believed any more. Returns ATT_EPROTOCOL. */
enum att_status att_client_broken(struct att_client *client, const char *reason);
/* Makes the last error for a row without tokens. */
void att_client_say_empty(struct att_client *client, uint32_t row);
/* Makes the last error from why it is closed. Returns its status. */
enum att_status att_client_gone(struct att_client *client);

#endif
