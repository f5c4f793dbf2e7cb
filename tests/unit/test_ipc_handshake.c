/* The handshake's door: wrong hellos, silent connections, too many clients, other users, sockets and directories that are
 * somebody else's. */
#include "test_ipc_raw.h"

#include <sys/stat.h>

static void wrong_version_is_told_both(void **unused)
{
    (void)unused;
    struct service service;
    struct att_welcome welcome;
    int fds[2];
    size_t count;
    service_start(&service);
    int fd = raw_socket(&service);
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = 99};
    assert_true(att_packet_send(fd, &hello, 16, NULL, 0)); /* another version's may have another length */
    assert_int_equal(raw_receive(fd, &welcome, sizeof welcome, fds, &count), sizeof welcome);
    assert_int_equal(welcome.status, ATT_EVERSION);
    assert_int_equal(welcome.protocol, ATT_PROTOCOL_VERSION);
    assert_non_null(strstr(welcome.text, "version 1"));
    assert_non_null(strstr(welcome.text, "99"));
    assert_int_equal(count, 0);
    close(fd);
    service_stop(&service);
}

static void garbage_hello_is_refused(void **unused)
{
    (void)unused;
    struct service service;
    struct att_welcome welcome;
    int fds[2];
    size_t count;
    char garbage[3000];
    memset(garbage, 'x', sizeof garbage);
    service_start(&service);
    static const size_t lengths[] = {1, 15, 63, 64, 65, 3000};
    for (size_t i = 0; i < 6; i++) {
        int fd = raw_socket(&service);
        int extra[2] = {0, 1}; /* descriptors that nobody asked for */
        assert_true(att_packet_send(fd, garbage, lengths[i], extra, 2));
        assert_int_equal(raw_receive(fd, &welcome, sizeof welcome, fds, &count), sizeof welcome);
        assert_int_equal(welcome.status, ATT_EPROTOCOL);
        close(fd);
    }
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC, .protocol = ATT_PROTOCOL_VERSION};
    int short_of_it = raw_socket(&service);
    assert_true(att_packet_send(short_of_it, &hello, sizeof hello - 8, NULL, 0));
    assert_int_equal(raw_receive(short_of_it, &welcome, sizeof welcome, fds, &count), sizeof welcome);
    assert_int_equal(welcome.status, ATT_EPROTOCOL);
    assert_non_null(strstr(welcome.text, "wrong length"));
    close(short_of_it);
    struct att_client *client = service_connect(&service, 5000);
    assert_works(client);
    att_close(client);
    service_stop(&service);
}

static void silent_connections_are_dropped(void **unused)
{
    (void)unused;
    struct service service;
    enum { IDLERS = 100 };
    int idlers[IDLERS];
    service_start(&service);
    for (int i = 0; i < IDLERS; i++)
        idlers[i] = raw_socket(&service);
    /* they keep nobody out */
    uint64_t start = test_now_ns();
    struct att_client *client = service_connect(&service, 1000);
    assert_works(client);
    for (int i = 0; i < IDLERS; i++) {
        struct pollfd wait = {.fd = idlers[i], .events = POLLIN};
        char byte;
        assert_int_equal(poll(&wait, 1, 5000), 1);
        assert_int_equal(recv(idlers[i], &byte, 1, MSG_DONTWAIT), 0);
        close(idlers[i]);
    }
    assert_in_range(test_now_ns() - start, UINT64_C(1900000000), UINT64_C(4000000000));
    att_close(client);
    service_stop(&service);
}

static void client_limit(void **unused)
{
    (void)unused;
    struct service service;
    struct att_client *clients[3], *more;
    struct att_error error;
    service_start_with(&service, (struct att_server_options){.max_clients = 3});
    for (int i = 0; i < 3; i++)
        clients[i] = service_connect(&service, 5000);
    const struct att_connect_options options = {.socket = service.socket};
    assert_int_equal(att_connect(&options, &more, &error), ATT_EBUSY);
    assert_non_null(strstr(error.text, "all the 3 clients"));
    att_close(clients[1]);
    service_await_clients(clients[0], 2);
    for (int i = 0; i < 10; i++) { /* places are used again */
        clients[1] = service_connect(&service, 5000);
        assert_works(clients[1]);
        att_close(clients[1]);
        service_await_clients(clients[0], 2);
    }
    att_close(clients[0]);
    att_close(clients[2]);
    service_stop(&service);
}

static void other_users_are_refused(void **unused)
{
    (void)unused;
    if (geteuid() != 0) {
        skip();
        return;
    }
    for (int allowed = 0; allowed < 2; allowed++) {
        struct service service;
        int status;
        const uid_t uids[] = {allowed ? 12345 : 12346};
        service_start_with(&service, (struct att_server_options){.allowed = uids, .allowed_count = 1});
        assert_int_equal(chmod(service.directory, 0711), 0);
        pid_t child = fork();
        if (child == 0) {
            struct att_client *client;
            struct att_error error = {0};
            const struct att_connect_options options = {.socket = service.socket};
            if (setuid(12345) != 0)
                _exit(100);
            enum att_status got = att_connect(&options, &client, &error);
            _exit(got == ATT_EPERM && !strstr(error.text, "--allow-uid 12345") ? 101 : (int)got);
        }
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), allowed ? ATT_OK : ATT_EPERM);
        service_stop(&service);
    }
}

/* A socket that somebody listens on who holds no lock of ours: another program, or a daemon whose lock file was removed. */
static void check_a_listener_is_left_alone(const char *path, int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct att_server_options options = {.socket = path, .info = {.d = D, .d_v = D_V}};
    struct att_server *server = NULL;
    struct att_error error;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(att_server_create(&options, &server, &error), ATT_ELOCKED);
    assert_null(server);
    assert_int_equal(access(path, F_OK), 0);
    close(fd);
    assert_int_equal(unlink(path), 0);
}

static void stale_sockets_are_replaced_live_ones_are_not(void **unused)
{
    (void)unused;
    struct service service;
    struct att_server *server = NULL;
    struct att_error error;
    service_start(&service);
    struct att_server_options options = {.socket = service.socket, .info = {.d = D, .d_v = D_V}};
    assert_int_equal(att_server_create(&options, &server, &error), ATT_ELOCKED);
    struct att_client *client = service_connect(&service, 5000);
    assert_works(client); /* its socket is still there */
    att_close(client);
    kill(service.pid, SIGKILL);
    while (att_server_create(&options, &server, &error) == ATT_ELOCKED) /* until the killed one is gone */
        usleep(1000);
    assert_non_null(server);
    struct stat socket_file;
    assert_int_equal(stat(service.socket, &socket_file), 0);
    assert_int_equal(socket_file.st_mode & 0777, 0600); /* nobody else is let in */
    att_server_free(server);
    assert_int_equal(access(service.socket, F_OK), -1);
    assert_int_equal(att_server_create(&options, &server, &error), ATT_OK);
    unlink(service.socket);
    fclose(fopen(service.socket, "w"));
    att_server_free(server); /* what has taken its place meanwhile stays */
    assert_int_equal(unlink(service.socket), 0);
    check_a_listener_is_left_alone(service.socket, SOCK_SEQPACKET);
    check_a_listener_is_left_alone(service.socket, SOCK_STREAM);
    FILE *file = fopen(service.socket, "w"); /* somebody's file is never removed */
    fclose(file);
    assert_int_equal(att_server_create(&options, &server, &error), ATT_EEXIST);
    assert_int_equal(access(service.socket, F_OK), 0);
    waitpid(service.pid, NULL, 0);
    unlink(service.socket);
    char path[120];
    snprintf(path, sizeof path, "%s.lock", service.socket);
    unlink(path);
    unlink(service.log);
    rmdir(service.directory);
}

static void open_directories_are_refused(void **unused)
{
    (void)unused;
    char directory[] = "/tmp/attnd-test-XXXXXX", path[100];
    struct att_server *server;
    struct att_error error;
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chmod(directory, 0777), 0);
    snprintf(path, sizeof path, "%s/s.sock", directory);
    const struct att_server_options options = {.socket = path, .info = {.d = D, .d_v = D_V}};
    assert_int_equal(att_server_create(&options, &server, &error), ATT_EPERM);
    assert_non_null(strstr(error.text, directory));
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_version_is_told_both),
        cmocka_unit_test(garbage_hello_is_refused),
        cmocka_unit_test(silent_connections_are_dropped),
        cmocka_unit_test(client_limit),
        cmocka_unit_test(other_users_are_refused),
        cmocka_unit_test(stale_sockets_are_replaced_live_ones_are_not),
        cmocka_unit_test(open_directories_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
