/* The handshake: one hello from the client, one welcome from the daemon, each one packet on a
 * SOCK_SEQPACKET socket; the status page; and what a request of each type carries. Internal to
 * ipc; both sides use it. */
#ifndef ATT_HANDSHAKE_H
#define ATT_HANDSHAKE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "attn.h"
#include "channel.h"
#include "wire.h"

#define ATT_HELLO_MAGIC   UINT64_C(0x6f6c6c6568747461) /* "atthello" */
#define ATT_WELCOME_MAGIC UINT64_C(0x656d6f636c747461) /* "attlcome" */
#define ATT_REGIONS_MAGIC UINT64_C(0x6e6f696765727461) /* "atregion" */
#define ATT_STATUS_MAGIC  UINT64_C(0x7375746174737461) /* "atstatus" */

enum {
    ATT_SOCKET_PATH_MAX = (int)sizeof(((struct sockaddr_un *)0)->sun_path) - 1, /* 107 */
    ATT_NAME_MAX = 63,
    ATT_REGIONS_A_PACKET = 64,
    ATT_STATUS_PAGE_BYTES = 4096
};

/* The first 16 bytes are the same in every protocol version. */
struct att_hello {
    uint64_t magic;
    uint32_t protocol;
    uint32_t wait;  /* enum att_wait; for the daemon's information */
    uint32_t wants; /* ATT_HELLO_REGIONS */
    uint32_t pad;
    uint64_t session; /* with ATT_HELLO_SESSION */
    uint64_t fence;   /* one more than in the last hello or welcome; 0: takes the session over from whoever has it */
    uint64_t reserved[3];
};
enum {
    ATT_HELLO_REGIONS = 1, /* send the published regions, for direct reads */
    ATT_HELLO_SESSION = 2, /* connects with a session */
    ATT_HELLO_RESUME = 4   /* ... that the daemon must know: ATT_EEXPIRED */
};
static_assert(sizeof(struct att_hello) == 64, "att_hello");
static_assert(offsetof(struct att_hello, protocol) == 8, "att_hello.protocol");
static_assert(offsetof(struct att_hello, wants) == 16, "att_hello.wants");
static_assert(offsetof(struct att_hello, session) == 24, "att_hello.session");

/* The first 256 bytes are the same in every protocol version, so that a refusal can always be
 * read. With status ATT_OK two descriptors come along: the channel and the status page. Otherwise
 * none, and the rest is zero. */
struct att_welcome {
    uint64_t magic;
    uint32_t protocol;
    uint32_t status; /* enum att_status */
    char text[240];  /* what to tell the user when status is not ATT_OK */
    uint32_t generation;
    uint32_t request_slots;
    uint32_t reply_slots;
    uint32_t chunk_bytes;
    uint64_t channel_bytes;
    uint32_t heads, n_q, d, d_v, capacity, precision;
    double scale;
    uint64_t incarnation;
    uint32_t daemon_pid;
    uint32_t
        regions; /* that follow, in packets of their own: one for each head, or 0: not asked for, or switched off */
    uint64_t session_seq; /* of a session: its newest update that the daemon knows */
    uint64_t fence;       /* ... and the connection's fence */
    uint64_t reserved[3];
};
static_assert(offsetof(struct att_welcome, text) == 16, "att_welcome.text");
static_assert(offsetof(struct att_welcome, generation) == 256, "att_welcome.generation");
static_assert(offsetof(struct att_welcome, channel_bytes) == 272, "att_welcome.channel_bytes");
static_assert(offsetof(struct att_welcome, scale) == 304, "att_welcome.scale");
static_assert(offsetof(struct att_welcome, regions) == 324, "att_welcome.regions");
static_assert(offsetof(struct att_welcome, session_seq) == 328, "att_welcome.session_seq");
static_assert(sizeof(struct att_welcome) == 368, "att_welcome");

/* Follows a welcome with regions > 0, once for each ATT_REGIONS_A_PACKET of them: the descriptors of the published
 * regions of heads first .. first + count - 1, ATT_HEAD_FDS for each. Their layout is core/region.h's and has a version of
 * its own. */
struct att_regions {
    uint64_t magic;
    uint32_t first, count;
};
static_assert(sizeof(struct att_regions) == 16, "att_regions");

/* One page, written by the daemon, mapped read-only by every client; sealed so that no client can ever write it. */
struct att_status_page {
    /* Line 0: constant. */
    uint64_t magic;
    uint64_t incarnation;
    uint8_t pad0[48];
    /* Line 1: owned by the service thread: odd while it sleeps, or is about to. A new number for each sleep. And the
     * processor on which it woke up last: a hint. */
    _Atomic uint32_t service_ticket;
    _Atomic uint32_t service_processor;
    uint8_t pad1[56];
    /* Line 2: owned by the service thread: the LSN of the newest update. Everything up to there is visible to a direct
     * read that begins later. */
    _Atomic uint64_t lsn;
    uint8_t pad2[56];
    /* Line 3: owned by the service thread: everything up to this LSN is on disk. */
    _Atomic uint64_t durable_lsn;
    uint8_t pad3[56];
};
static_assert(sizeof(struct att_status_page) == 256, "att_status_page");
static_assert(offsetof(struct att_status_page, durable_lsn) == 192, "att_status_page.durable_lsn");
static_assert(offsetof(struct att_status_page, lsn) == 128, "att_status_page.lsn");
static_assert(offsetof(struct att_status_page, service_ticket) == 64, "att_status_page.service_ticket");
static_assert(offsetof(struct att_status_page, service_processor) == 68, "att_status_page.service_processor");

/* The daemon's: creates, maps and seals the page; the descriptor in *ret_fd. */
enum att_status att_status_page_create(uint64_t incarnation, struct att_status_page **ret_page, int *ret_fd,
                                       struct att_error *error);
/* The client's: checks size and seals of fd (not consumed) and maps it read-only. */
enum att_status att_status_page_attach(int fd, const struct att_status_page **ret_page, struct att_error *error);
void att_status_page_release(const struct att_status_page *page); /* NULL is allowed */

/* Sends one packet with descriptors, without blocking. False: errno says why. */
bool att_packet_send(int socket, const void *data, size_t bytes, const int *fds, size_t fd_count);
/* Receives one packet without blocking. Returns its true length (also when longer than `bytes`), 0
 * at a hang-up, -1 with errno. At most `fd_most` descriptors are taken (others are closed);
 * *ret_fd_count: how many. */
long att_packet_receive(int socket, void *data, size_t bytes, int *fds, size_t fd_most, size_t *ret_fd_count);

/* What a request of a type carries besides its header. */
struct att_request_rule {
    const char *name; /* "query" */
    uint16_t allowed; /* ATT_WIRE_KEY, ... */
    uint16_t required;
    bool any;     /* at least one of the allowed ones */
    bool durable; /* ATT_WIRE_DURABLE has a meaning */
    bool chunks;  /* the reply comes in chunks */
    bool silent;  /* there is no reply; the library's own */
    bool batch;   /* may stand in a batch */
    bool update;  /* of a session it has a number */
};
enum { ATT_REQUEST_TYPES = ATT_REQ_REGIONS + 1 };
extern const struct att_request_rule att_request_rules[ATT_REQUEST_TYPES];

/* NULL: no such type. */
static inline const struct att_request_rule *att_request_rule(uint32_t type)
{
    return type < ATT_REQUEST_TYPES && att_request_rules[type].name ? &att_request_rules[type] : NULL;
}

/* Of what may stand in a batch: whether it only reads. */
static inline bool att_request_reads(uint32_t type)
{
    return type == ATT_REQ_QUERY || type == ATT_REQ_ROW;
}

/* ATT_EINVAL: too long for a socket's address, with the path and the limit in the message. */
enum att_status att_socket_address(const char *path, struct sockaddr_un *ret_address, struct att_error *error);

/* The client's check of the directory of a default path: another user could have made it first in
 * /tmp. ATT_EPERM; ATT_OK also when it does not exist. */
enum att_status att_socket_check_directory(const char *path, struct att_error *error);

/* The daemon's: the socket's directory is there, and nobody else can move things in it. ATT_EPERM, ATT_EIO, ATT_ENOENT. */
enum att_status att_socket_check_place(const char *path, struct att_error *error);

#endif
