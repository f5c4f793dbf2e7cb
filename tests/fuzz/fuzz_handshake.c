/* libFuzzer target: both sides of the handshake. The first byte says which: even, the rest is what a client says to the
 * daemon first; odd, what a daemon answers to the library, with a channel and a status page that are all right, and a
 * second packet where a region may be expected. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"
#include "handshake.h"
#include "server.h"

enum { D = 3, D_V = 5 };

static struct att_server *server;
static char daemon_path[100], lying_path[100];
static int listener, channel_fd, page_fd;
static sem_t wanted, told;
static unsigned char answer[4096]; /* a copy: the input does not outlive its run */
static size_t answer_bytes;

static void must(bool right)
{
    if (!right)
        abort();
}

/* The lying daemon: accepts, hears the hello, says what the input says, hangs up. */
static void *lie(void *unused)
{
    (void)unused;
    for (;;) {
        char hello[64];
        sem_wait(&wanted);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        const int fds[] = {channel_fd, page_fd};
        recv(fd, hello, sizeof hello, 0);
        size_t first = answer_bytes < sizeof(struct att_welcome) ? answer_bytes : sizeof(struct att_welcome);
        if (first > 0)
            att_packet_send(fd, answer, first, fds, 2);
        if (answer_bytes > first)
            att_packet_send(fd, answer + first, answer_bytes - first, fds, 1);
        close(fd);
        sem_post(&told);
    }
    return NULL;
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    static struct att_status_page *page;
    struct att_channel channel;
    struct att_geometry geometry;
    struct sockaddr_un address;
    pthread_t thread;
    char directory[] = "/tmp/attnd-fuzz-XXXXXX";
    must(mkdtemp(directory) != NULL);
    snprintf(daemon_path, sizeof daemon_path, "%s/s", directory);
    snprintf(lying_path, sizeof lying_path, "%s/l", directory);
    const struct att_server_options options = {
        .socket = daemon_path,
        .info = {.heads = 1, .n_q = 9, .d = D, .d_v = D_V, .capacity = 9, .precision = 1, .scale = 1},
    };
    must(att_server_create(&options, &server, NULL) == ATT_OK);
    must(att_geometry_choose(D, D_V, &geometry, NULL) == ATT_OK);
    must(att_channel_create(&geometry, 7, &channel, &channel_fd, NULL) == ATT_OK);
    must(att_status_page_create(1, &page, &page_fd, NULL) == ATT_OK);
    must(att_socket_address(lying_path, &address, NULL) == ATT_OK);
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    must(bind(listener, (const struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
    sem_init(&wanted, 0, 0);
    sem_init(&told, 0, 0);
    must(pthread_create(&thread, NULL, lie, NULL) == 0);
    return 0;
}

static void tell_daemon(const unsigned char *data, size_t bytes)
{
    struct sockaddr_un address;
    struct att_welcome welcome;
    int fds[3];
    size_t count;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    must(att_socket_address(daemon_path, &address, NULL) == ATT_OK);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) {
        if (bytes > 0)
            send(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        usleep(0);
        for (int i = 0; i < 3; i++) { /* accept; the hello; what may come of it */
            att_server_wait(server, 1);
            struct att_server_request request;
            while (att_server_next(server, &request))
                att_server_take(server);
        }
        long got = att_packet_receive(fd, &welcome, sizeof welcome, fds, 3, &count);
        must(got <= 0 || got == (long)sizeof welcome);
        for (size_t i = 0; got > 0 && i < count; i++)
            close(fds[i]);
    }
    close(fd);
    att_server_wait(server, 1);
    must(att_server_clients(server) <= 1);
}

static void tell_library(const unsigned char *data, size_t bytes)
{
    struct att_client *client;
    struct att_error error;
    double value, bound;
    answer_bytes = bytes < sizeof answer ? bytes : sizeof answer;
    if (answer_bytes > 0)
        memcpy(answer, data, answer_bytes);
    sem_post(&wanted);
    const struct att_connect_options options = {.socket = lying_path,
                                                .timeout_ms = 200,
                                                .stay_closed = true,
                                                .direct = bytes > sizeof(struct att_welcome)};
    if (att_connect(&options, &client, &error) == ATT_OK) {
        att_query(client, 1, 1, &value, &bound);
        att_close(client);
    }
    sem_wait(&told);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    if (data[0] % 2 == 0)
        tell_daemon(data + 1, bytes - 1);
    else
        tell_library(data + 1, bytes - 1);
    return 0;
}
