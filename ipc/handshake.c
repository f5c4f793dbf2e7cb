#include "handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PACKET_FDS =
        ATT_REGIONS_A_PACKET * ATT_HEAD_FDS + 2, /* more than a peer may send, so that too many are seen and closed */
    PAGE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE
};

enum att_status att_status_page_create(uint64_t incarnation, struct att_status_page **ret_page, int *ret_fd,
                                       struct att_error *error)
{
    int fd = memfd_create("attnd-status", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return att_fail(error, ATT_EIO, "cannot create the status page: memfd_create: %s", strerror(errno));
    void *page = MAP_FAILED;
    if (ftruncate(fd, ATT_STATUS_PAGE_BYTES) == 0)
        page = mmap(NULL, ATT_STATUS_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED || fcntl(fd, F_ADD_SEALS, PAGE_SEALS | F_SEAL_SEAL) != 0) {
        enum att_status status = att_fail(error, ATT_EIO, "cannot map and seal the status page: %s", strerror(errno));
        if (page != MAP_FAILED)
            munmap(page, ATT_STATUS_PAGE_BYTES);
        close(fd);
        return status;
    }
    *ret_page = page;
    (*ret_page)->magic = ATT_STATUS_MAGIC;
    (*ret_page)->incarnation = incarnation;
    *ret_fd = fd;
    return ATT_OK;
}

enum att_status att_status_page_attach(int fd, const struct att_status_page **ret_page, struct att_error *error)
{
    struct stat file;
    int seals = fcntl(fd, F_GET_SEALS);
    if (fstat(fd, &file) != 0 || file.st_size != ATT_STATUS_PAGE_BYTES || seals < 0 ||
        (seals & PAGE_SEALS) != PAGE_SEALS)
        return att_fail(error, ATT_EPROTOCOL, "the daemon's status page has a wrong size or is not sealed");
    const struct att_status_page *page = mmap(NULL, ATT_STATUS_PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return att_fail(error, ATT_ENOMEM, "cannot map the daemon's status page: %s", strerror(errno));
    if (page->magic != ATT_STATUS_MAGIC) {
        att_status_page_release(page);
        return att_fail(error, ATT_EPROTOCOL, "the daemon's status page is not one");
    }
    *ret_page = page;
    return ATT_OK;
}

void att_status_page_release(const struct att_status_page *page)
{
    if (page)
        munmap((void *)(uintptr_t)page, ATT_STATUS_PAGE_BYTES);
}

bool att_packet_send(int socket, const void *data, size_t bytes, const int *fds, size_t fd_count)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
    union {
        char bytes[CMSG_SPACE(PACKET_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > PACKET_FDS) {
        errno = EINVAL;
        return false;
    }
    if (fd_count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)bytes; /* packets are sent whole or not at all */
}

/* Takes the descriptors out of the control messages; those beyond fd_most are closed. */
static size_t take_fds(struct msghdr *message, int *fds, size_t fd_most)
{
    size_t taken = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            if (taken < fd_most)
                fds[taken++] = fd;
            else
                close(fd);
        }
    }
    return taken;
}

long att_packet_receive(int socket, void *data, size_t bytes, int *fds, size_t fd_most, size_t *ret_fd_count)
{
    struct iovec part = {.iov_base = data, .iov_len = bytes};
    union {
        char bytes[CMSG_SPACE(PACKET_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    /* Without room for control messages the kernel closes what is sent along: nothing to clean up. */
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = fd_most > 0 ? control.bytes : NULL,
        .msg_controllen = fd_most > 0 ? sizeof control.bytes : 0,
    };
    ssize_t received;
    do
        received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (ret_fd_count)
        *ret_fd_count = received > 0 && fd_most > 0 ? take_fds(&message, fds, fd_most) : 0;
    return received;
}

const struct att_request_rule att_request_rules[ATT_REQUEST_TYPES] = {
    [ATT_REQ_PING] = {.name = "ping"},
    [ATT_REQ_QUERY] = {.name = "query", .durable = true, .batch = true},
    [ATT_REQ_ROW] = {.name = "row", .durable = true, .batch = true},
    [ATT_REQ_COLUMN] = {.name = "column", .chunks = true},
    [ATT_REQ_ALL] = {.name = "all", .chunks = true},
    [ATT_REQ_SET_TOKEN] = {.name = "set token",
                           .allowed = ATT_WIRE_KEY | ATT_WIRE_VALUE | ATT_WIRE_BIAS,
                           .any = true,
                           .batch = true,
                           .update = true},
    [ATT_REQ_UPDATE_K] = {.name = "update-k", .batch = true, .update = true},
    [ATT_REQ_UPDATE_V] = {.name = "update-v", .batch = true, .update = true},
    [ATT_REQ_APPEND] = {.name = "append",
                        .allowed = ATT_WIRE_KEY | ATT_WIRE_VALUE | ATT_WIRE_BIAS,
                        .required = ATT_WIRE_KEY | ATT_WIRE_VALUE,
                        .batch = true,
                        .update = true},
    [ATT_REQ_DELETE] = {.name = "delete", .batch = true, .update = true},
    [ATT_REQ_SET_Q] =
        {.name = "set-q", .allowed = ATT_WIRE_KEY, .required = ATT_WIRE_KEY, .batch = true, .update = true},
    [ATT_REQ_FLUSH] = {.name = "flush"},
    [ATT_REQ_MERGE] = {.name = "merge"},
    [ATT_REQ_SNAPSHOT] = {.name = "snapshot"},
    [ATT_REQ_SHUTDOWN] = {.name = "shutdown"},
    [ATT_REQ_STAT] = {.name = "stat"},
    [ATT_REQ_READS] = {.name = "reads", .silent = true},
    [ATT_REQ_BATCH] = {.name = "batch", .silent = true},
    [ATT_REQ_REGIONS] = {.name = "regions", .silent = true},
};
