/* Who is let in with a session, by the fence that its hello shows; also after the session has expired and another client
 * has begun it anew. */
#include "test_ipc_raw.h"

#include "daemon.h"

enum { MOST = 1024 }; /* sessions that the daemon keeps */

static struct daemon attnd;

static struct att_welcome say(uint64_t session, uint64_t fence)
{
    struct service service = {0};
    struct att_welcome welcome = {0};
    int fds[2];
    size_t count;
    snprintf(service.socket, sizeof service.socket, "%.99s", attnd.socket);
    const struct att_hello hello = {.magic = ATT_HELLO_MAGIC,
                                    .protocol = ATT_PROTOCOL_VERSION,
                                    .wants = ATT_HELLO_SESSION,
                                    .session = session,
                                    .fence = fence};
    int fd = raw_socket(&service);
    assert_true(att_packet_send(fd, &hello, sizeof hello, NULL, 0));
    assert_int_equal(raw_receive(fd, &welcome, sizeof welcome, fds, &count), sizeof welcome);
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    close(fd);
    return welcome;
}

/* Its fence. */
static uint64_t enter(uint64_t session, uint64_t fence)
{
    struct att_welcome welcome = say(session, fence);
    if (welcome.status != ATT_OK)
        fail_msg("%s", welcome.text);
    return welcome.fence;
}

static void only_the_last_owner_comes_back(void **unused)
{
    (void)unused;
    daemon_init(&attnd);
    daemon_write_arrays(&attnd, 2, 6, 2, 2, 3);
    assert_true(daemon_start_new(&attnd, NULL));
    const uint64_t first = enter(11, 0);
    assert_int_equal(enter(11, first + 1), first + 1);
    assert_int_equal(say(11, first + 1).status, ATT_EFENCED); /* heard already */
    const uint64_t second = enter(11, 0);
    assert_int_equal(say(11, first + 2).status, ATT_EFENCED);
    assert_int_equal(enter(11, second + 7), second + 7); /* some attempts were not heard */
    for (uint64_t i = 0; i < MOST; i++)
        enter(1000 + i, 0);
    const uint64_t third = enter(11, 0); /* anew: its first life has expired */
    assert_int_equal(say(11, first + 1000).status, ATT_EFENCED);
    assert_int_equal(say(11, second + 1000).status, ATT_EFENCED);
    assert_int_equal(say(11, third + (UINT64_C(1) << 32)).status, ATT_EFENCED); /* of a life that is not this one's */
    assert_int_equal(enter(11, third + 1), third + 1);
    daemon_release(&attnd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_the_last_owner_comes_back)};
    if (!daemon_has("attnd"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
