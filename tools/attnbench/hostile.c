#include "hostile.h"

#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"
#include "handshake.h"

enum { FORGERIES = 6, MUTE = 32, PATIENCE_MS = 200, PAUSE_US = 200 };

static int open_socket(const struct served *served)
{
    struct sockaddr_un address;
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (att_socket_address(served->socket, &address, NULL) != ATT_OK || fd < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        bench_die("a hostile client cannot connect");
    return fd;
}

/* A request that is wrong in one of so many ways, or a ring that is. */
static void forge(struct att_channel *channel, uint32_t generation, uint32_t slots, uint32_t how)
{
    struct att_wire_request requests[2] = {
        {.length = sizeof requests[0], .generation = generation, .type = ATT_REQ_QUERY}};
    struct att_producer producer;
    const struct att_part part = {requests, sizeof requests};

    att_producer_init(&producer, channel->request_slots, slots, &channel->control->request_tail, 0);
    requests[1] = requests[0];
    switch (how) {
    case 0:
        requests[0].length = UINT32_MAX;
        break;
    case 1:
        requests[0].generation ^= 1;
        break;
    case 2:
        requests[0].type = 999;
        break;
    case 3:
        requests[0].type = ATT_REQ_BATCH;
        requests[0].length = sizeof requests;
        requests[0].index = 7;
        break;
    case 4:
        atomic_store(&channel->request_slots[0].seq, 12345);
        return;
    default:
        memset(channel->base, 0x5a, channel->bytes);
        return;
    }
    att_producer_put(&producer, &part, 1);
    att_producer_publish(&producer);
}

static void one_attack(const struct served *served, uint32_t how)
{
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
    struct att_welcome welcome = {0};
    struct att_channel channel;
    const int fd = open_socket(served);
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    int fds[2];
    size_t count = 0;

    if (att_packet_send(fd, &hello, sizeof hello, NULL, 0) && poll(&wait, 1, PATIENCE_MS) == 1)
        att_packet_receive(fd, &welcome, sizeof welcome, fds, 2, &count);
    if (count == 2) {
        const struct att_geometry geometry = {welcome.request_slots, welcome.reply_slots, welcome.chunk_bytes};
        if (att_channel_attach(fds[0], &geometry, welcome.generation, &channel, NULL) == ATT_OK) {
            forge(&channel, welcome.generation, geometry.request_slots, how);
            send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
            poll(&wait, 1, PATIENCE_MS); /* until it is thrown out */
            att_channel_release(&channel);
        }
        close(fds[0]);
        close(fds[1]);
    }
    close(fd);
}

void hostile_forge(const struct served *served, void *context)
{
    int mute[MUTE];

    (void)context;
    setpriority(PRIO_PROCESS, 0, 19); /* what it takes of the processors is not what is asked */
    for (int i = 0; i < MUTE; i++)
        mute[i] = open_socket(served);
    for (uint32_t i = 0;; i++) {
        one_attack(served, i % FORGERIES);
        close(mute[i % MUTE]);
        mute[i % MUTE] = open_socket(served);
        usleep(PAUSE_US);
    }
}

void hostile_stall(const struct served *served, void *context)
{
    const struct att_request request = {.type = ATT_REQ_QUERY};

    (void)context;
    setpriority(PRIO_PROCESS, 0, 19);
    for (;;) {
        struct att_client *client = served_connect(served, false);
        enum att_status status;
        do {
            status = att_submit(client, &request);
            if (status == ATT_EBUSY)
                usleep(1000);
        } while (status == ATT_OK || status == ATT_EBUSY);
        att_close(client);
    }
}
