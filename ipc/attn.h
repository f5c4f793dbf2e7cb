/* libattn: the client library of attnd. The only installed header beside attn_status.h.
 *
 * A client is one connection to a daemon: a socket for the handshake, and a pair of rings in
 * shared memory. The library is asynchronous at heart: att_submit many requests, att_complete
 * many. The other calls are one submit and one complete each, and may be mixed with requests in
 * flight.
 *
 * Thread rule: a client belongs to one thread at a time. No call blocks longer than the client's timeout, whatever it
 * waits for on its way; att_complete has one of its own. Every function that returns att_status leaves its outputs
 * untouched unless it returns ATT_OK. */
#ifndef ATTN_H
#define ATTN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <attn_status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATT_API __attribute__((visibility("default")))

struct att_client;

enum att_wait { ATT_WAIT_ADAPTIVE = 0, ATT_WAIT_SPIN = 1, ATT_WAIT_BLOCK = 2 };

struct att_connect_options {
    const char *socket;  /* path; NULL: the default path of `name` */
    const char *name;    /* NULL: "default" */
    uint32_t timeout_ms; /* of each call, connecting included; 0: 10,000 */
    enum att_wait wait;
    bool direct;      /* answer att_query, att_row and att_column from the daemon's memory: see att_call_direct */
    bool stay_closed; /* do not connect again when the daemon has gone: see "A restart of the daemon" */
    bool resume;      /* the session must be known to the daemon already: else ATT_EEXPIRED */
    uint64_t session; /* 0: none; ATT_SESSION_ANY; or an id of the program's own: see "Exactly once" */
};
#define ATT_SESSION_ANY UINT64_MAX

/* What is served. */
struct att_info {
    uint32_t heads, n_q, d, d_v, capacity; /* all but heads: of each head */
    uint32_t precision;                    /* 0 single, 1 mixed, 2 double */
    double scale;
    uint64_t incarnation; /* counts the daemon's starts on this state */
    uint32_t daemon_pid;  /* 0: it is none of the processes that this program can see */
    uint32_t protocol;
};

/* Connects. NULL options: all defaults. Errors: ATT_ENOENT (no daemon at the socket), ATT_EINVAL
 * (path too long), ATT_EPERM (this user is not allowed, or `direct` and the daemon runs with --direct-reads off),
 * ATT_EVERSION, ATT_EBUSY (the daemon has all the clients it takes, or cannot take one now), ATT_ETIMEOUT,
 * ATT_EPROTOCOL; with a session also ATT_EEXPIRED, ATT_EPERM (another user's), ATT_ENOSPC and ATT_EREADONLY (the
 * daemon takes no updates now). */
ATT_API enum att_status att_connect(const struct att_connect_options *options, struct att_client **ret_client,
                                    struct att_error *error);

/* Closes; requests in flight may or may not take effect. NULL is allowed. */
ATT_API void att_close(struct att_client *client);

ATT_API void att_get_info(const struct att_client *client, struct att_info *ret_info);

/* The message that belongs to the last status that was not ATT_OK on this client; "" before the first. */
ATT_API const char *att_last_error(const struct att_client *client);

/* The default socket path of a daemon's name (NULL: "default"). ATT_EINVAL: too long for a socket, or a bad name. */
ATT_API enum att_status att_socket_path(const char *name, char *ret_path, size_t size, struct att_error *error);

/* ---- A restart of the daemon ---------------------------------------------------------------------------
 *
 * When the daemon goes, everything in flight ends: replies that it had published still arrive, all other requests complete
 * with ATT_ECLOSED: they may or may not have taken effect. Then att_complete returns -1. The next att_submit or
 * synchronous call connects again, trying for the client's timeout (the daemon may be starting); if that fails it returns
 * ATT_ECLOSED, and the call after it tries again. att_get_info then gives the new incarnation. A daemon that serves
 * another shape, scale or precision is refused (ATT_ESHAPE): close the client and connect anew. A client whose daemon broke
 * the protocol stays closed. With a session updates end otherwise: */

/* ---- Exactly once --------------------------------------------------------------------------------------
 *
 * A client with a session has every update take effect exactly once, whatever crashes. Its updates (types SET_TOKEN,
 * UPDATE_K, UPDATE_V, APPEND, DELETE, SET_Q) are numbered in the order in which att_submit, att_call and the other calls
 * took them; the library keeps each until it is on disk. When the daemon goes, they do not complete with ATT_ECLOSED but
 * stay in flight: the next att_submit, att_complete or synchronous call connects again (trying for the client's timeout
 * or att_complete's, the latter at least 50 ms) and sends again, in order, what may not have taken effect; the daemon
 * tells by number what has. That goes for what was acknowledged and then lost too (--durability interval and off).
 * att_complete returns 0 while the daemon is away, or refuses for now, and -1 only when the session is over: ATT_EEXPIRED
 * (the daemon keeps the 1,024 sessions that were used last), ATT_EFENCED (another client has connected with it), ATT_ESHAPE
 * (a daemon of another shape, scale or precision answers), ATT_LOST (an update that was acknowledged under interval or
 * off was lost in a crash, and cannot be repeated: other clients' updates came in between, or the disk is full; or the
 * daemon serves an older state). Requests that are no updates complete with ATT_ECLOSED as ever.
 *
 * At most 16,384 updates and 16 MiB of them are kept: beyond, att_submit first waits for the disk, for the client's
 * timeout at most, then returns ATT_EBUSY, as it does while it sends again. With --durability off the library asks for
 * snapshots on the way, and att_connect waits for one (for two when one is being written already): allow for that in
 * timeout_ms. An update that ended with ATT_ETIMEOUT or ATT_EIO may still take effect, once. att_close does not
 * wait for the disk: att_flush first.
 *
 * A program that may crash itself chooses an id (any number but 0 and ATT_SESSION_ANY; it is its user's alone) and writes
 * it down. When it starts again and connects with it (`resume` if it has used it before), whoever had the session loses
 * it; att_get_session tells the number of the session's newest update that took effect, which is on disk then: the program
 * goes on with the one after it. Sessions of a state with several heads need a log (not --durability off). */
struct att_session_info {
    uint64_t id;    /* 0: no session */
    uint64_t begin; /* the newest update that had taken effect when the client connected; on disk */
    uint64_t last;  /* the newest that this client has submitted, or begin */
};
/* Its session; zeros without one. */
ATT_API void att_get_session(const struct att_client *client, struct att_session_info *ret_info);

/* ---- Asynchronous ------------------------------------------------------------------------------------- */

enum att_request_type {
    ATT_REQ_PING = 1,
    ATT_REQ_QUERY = 2,     /* index, column */
    ATT_REQ_ROW = 3,       /* index; d_v values */
    ATT_REQ_COLUMN = 4,    /* column; n_q values and n_q bounds, in chunks of pairs (value, bound) */
    ATT_REQ_ALL = 5,       /* n_q x d_v values, in chunks */
    ATT_REQ_SET_TOKEN = 6, /* index; what is given of key, value, bias */
    ATT_REQ_UPDATE_K = 7,  /* index, column, number: K[index][column] += number */
    ATT_REQ_UPDATE_V = 8,
    ATT_REQ_APPEND = 9,  /* key, value, bias or NULL; completes with the new index */
    ATT_REQ_DELETE = 10, /* index */
    ATT_REQ_SET_Q = 11,  /* index, key: the new row of Q */
    ATT_REQ_FLUSH = 12,  /* completes when all acknowledged so far is on disk */
    ATT_REQ_MERGE = 13,
    ATT_REQ_SNAPSHOT = 14, /* completes when it is the current generation */
    ATT_REQ_SHUTDOWN = 15,
    ATT_REQ_STAT = 16,   /* a struct att_stat */
    ATT_REQ_READS = 17,  /* the library's own: how often it has read which row directly */
    ATT_REQ_BATCH = 18,  /* the library's own: what att_submit_batch makes of several */
    ATT_REQ_REGIONS = 19 /* the library's own: asks for the published regions again */
};

struct att_request {
    enum att_request_type type;
    uint32_t head; /* below att_info.heads: ATT_ERANGE; flush, merge, snapshot and what follows are of all heads */
    uint32_t index;
    uint32_t column;
    double number;
    const float *key;   /* d floats or NULL; copied by att_submit */
    const float *value; /* d_v floats or NULL */
    const float *bias;  /* one float or NULL; -inf masks the token */
    bool durable;       /* query and row: answer when what they reflect is on disk */
    uint64_t tag;       /* the caller's; comes back in the completion */
    void *buffer; /* where the payload of row, column, all and stat goes (doubles; struct att_stat); NULL: dropped.
                               Must stay valid until the completion */
    size_t buffer_bytes; /* row: 8 d_v; column: 16 n_q; all: 8 n_q d_v; stat: sizeof(struct att_stat) */
};

struct att_completion {
    uint64_t tag;
    enum att_status status;
    enum att_request_type type;
    uint32_t index; /* append: the new token */
    uint64_t lsn;   /* update: its LSN; read: the LSN it reflects; ATT_REQ_STAT, PING: the newest */
    uint64_t incarnation;
    double value;       /* query */
    double error_bound; /* query, row, all: the largest */
};

/* Queues one request. ATT_EBUSY: the ring is full or 65,536 are in flight: complete some first.
 * ATT_EINVAL: a missing array or a buffer that is too small. ATT_ECLOSED: the daemon has gone and connecting again failed;
 * ATT_ESHAPE: what answers now is another state.
 * This call waits only for a daemon that comes back, and with a session for the disk. Publishes in batches:
 * the daemon sees requests at the latest when att_complete is called or the batch is 16 long. */
ATT_API enum att_status att_submit(struct att_client *client, const struct att_request *request);

/* The most requests in a batch. */
enum { ATT_BATCH_REQUESTS = 64 };

/* Queues several requests as one: queries, rows and updates, of any heads, in any mixture. The daemon checks the whole
 * message before it does any of it; then it does them in order, and nothing of other clients comes in between, but in two
 * cases: when the entry log is full (the batch goes on, where it stopped, when there is room), and when an update follows
 * a read that has to be computed (the update waits, so that the answer is of the moment before it). Each request completes by
 * itself, as if it had been submitted alone, and not necessarily in order. One that fails does not undo those before it,
 * nor keep back those after it: a batch is one message, not a transaction. What the end of the daemon interrupts is done
 * up to some request; so is what a crash leaves of it on disk.
 * ATT_EINVAL: no request, more than ATT_BATCH_REQUESTS, one of another type, or one that att_submit would refuse (the message
 * says which); or the message would be larger than an eighth of the request ring (57,344 bytes at least), or the replies
 * than a quarter of the reply ring (1,024 at least, a row counts (56 + 8 d_v) / 56). Otherwise as att_submit; when it
 * fails nothing has been queued. */
ATT_API enum att_status att_submit_batch(struct att_client *client, const struct att_request *requests, uint32_t count);

/* Makes what was submitted visible to the daemon now. */
ATT_API void att_push(struct att_client *client);

/* Takes up to `most` completions, waiting up to timeout_ms for the first (0: only what is there).
 * Returns how many, 0 on a timeout, -1 when the daemon is gone and nothing more will come
 * (att_last_error says so). What was in flight when it went comes before that, with ATT_ECLOSED. */
ATT_API int att_complete(struct att_client *client, struct att_completion *ret_completions, int most,
                         uint32_t timeout_ms);

/* Requests submitted and not yet completed. */
ATT_API uint32_t att_in_flight(const struct att_client *client);

/* ---- Synchronous -------------------------------------------------------------------------------------- */

/* All but att_call speak of head 0. */

/* Any one request; completions of others that arrive meanwhile are kept for att_complete. */
ATT_API enum att_status att_call(struct att_client *client, const struct att_request *request,
                                 struct att_completion *ret_completion);

/* att_submit_batch, and waits for all: ret_completions[i] is of requests[i], with its own status; att_last_error is of the
 * last that failed. ATT_OK: all have been answered. On ATT_ETIMEOUT, ATT_ECLOSED and ATT_EPROTOCOL after the submission
 * those that were not answered have this status (they may or may not have taken effect). With a session updates go on
 * across a restart of the daemon, and only the reads among them have ATT_ECLOSED. */
ATT_API enum att_status att_call_batch(struct att_client *client, const struct att_request *requests, uint32_t count,
                                       struct att_completion *ret_completions);

/* The same as att_call for ATT_REQ_QUERY and ATT_REQ_ROW on a client that is connected with `direct`: the library computes the
 * answer itself, from the daemon's state, which it maps read-only. No request, no system call (but a look at the socket
 * about once a millisecond, and a batched report of which rows were read), and readers do not wait for one another.
 * What any client had been told to be done before the call is reflected; the completion's `lsn` is one up to which
 * everything is. When the answer is not in the daemon's memory (the row has not been read for long, or merges outrun the
 * read), and for every other type, for `durable` and on other clients, it is att_call. Same errors. */
ATT_API enum att_status att_call_direct(struct att_client *client, const struct att_request *request,
                                        struct att_completion *ret_completion);

ATT_API enum att_status att_query(struct att_client *client, uint32_t row, uint32_t column, double *ret_value,
                                  double *ret_error_bound);
ATT_API enum att_status att_row(struct att_client *client, uint32_t row, double *ret_values, double *ret_error_bound);
/* ret_pairs: n_q pairs (value, error bound); NaN for a row without tokens. On a direct client each row is read by itself,
 * so that updates may come between them; otherwise all are of one moment. The memory of
 * att_column and att_all is filled while the reply arrives, so on a failure it may hold a part of
 * it; never after the call has returned. */
ATT_API enum att_status att_column(struct att_client *client, uint32_t column, double *ret_pairs);
ATT_API enum att_status att_all(struct att_client *client, double *ret_values, double *ret_error_bound);
ATT_API enum att_status att_update_k(struct att_client *client, uint32_t token, uint32_t column, double delta);
ATT_API enum att_status att_update_v(struct att_client *client, uint32_t token, uint32_t column, double delta);
ATT_API enum att_status att_set_k(struct att_client *client, uint32_t token, const float *key);
ATT_API enum att_status att_set_v(struct att_client *client, uint32_t token, const float *value);
ATT_API enum att_status att_set_q(struct att_client *client, uint32_t row, const float *q);
ATT_API enum att_status att_set_b(struct att_client *client, uint32_t token, float bias);
/* Takes the lowest token that is not live. */
ATT_API enum att_status att_append(struct att_client *client, const float *key, const float *value,
                                   uint32_t *ret_token);
ATT_API enum att_status att_delete(struct att_client *client, uint32_t token);
ATT_API enum att_status att_flush(struct att_client *client);
ATT_API enum att_status att_merge(struct att_client *client);
ATT_API enum att_status att_snapshot(struct att_client *client);
/* ATT_EPERM: this user is neither the daemon's own nor root. */
ATT_API enum att_status att_shutdown(struct att_client *client);
/* Round-trip time in nanoseconds. */
ATT_API enum att_status att_ping(struct att_client *client, uint64_t *ret_ns);

/* The daemon's state; sent as it is, so fixed width. New fields go into `reserved`. */
struct att_stat {
    char version[16];
    char name[64];
    char blas_kernel[32];
    char isa[16];
    char state[128]; /* "serving", or "read-only: why" */
    char durability[24];
    /* n_q, d, d_v, capacity: of each head; threads: of each head's team; n_k: the highest token index ever live + 1, of
     * any head; tokens and the counters from log_pending to queries: of all heads together. */
    uint32_t heads, n_q, n_k, tokens, d, d_v;
    uint32_t capacity, precision, threads, clients;
    double scale;
    uint64_t log_pending, log_capacity, rows_hot, rows_cold, generation, merges, refreshes, updates, queries;
    uint64_t lsn, durable_lsn, snapshot_lsn, region_bytes, rss_bytes, incarnation;
    uint64_t reserved[16];
};
ATT_API enum att_status att_get_stat(struct att_client *client, struct att_stat *ret_stat);

#ifdef __cplusplus
}
#endif
#endif
