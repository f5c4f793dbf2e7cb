/* What a client with a session sends again, to a daemon that comes and goes at the worst moments. The daemon is a thread
 * here that speaks the protocol by hand: one life after another, each a connection. */
#include "test_ipc_service.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "channel.h"
#include "handshake.h"

enum { LIVES = 4, WIDE = 8000, MOST = 400 };

struct life {
    uint64_t incarnation, knows, durable_lsn;
    uint32_t takes;         /* updates, and then it hangs up; MOST: until the client does */
    enum att_status answer; /* to updates; ATT_AGAIN: none */
    bool deaf;              /* it is gone when it has said welcome; only who rings finds out */
    uint32_t late_ms;       /* the welcome comes so late */
    bool never_flushes;
    bool last;    /* nobody listens after it */
    uint32_t n_q; /* 0: as ever */
    /* what it has got */
    uint64_t seqs[MOST];
    uint32_t count;
};

struct fake {
    pthread_t thread;
    int listener;
    char path[80];
    struct life lives[LIVES];
    uint32_t count;
    _Atomic uint32_t ended;
};

static void send_welcome(int fd, const struct life *life, uint64_t fence, const struct att_geometry *geometry,
                         const int fds[2])
{
    const struct att_welcome welcome = {
        .magic = ATT_WELCOME_MAGIC,
        .protocol = ATT_PROTOCOL_VERSION,
        .generation = 5,
        .request_slots = geometry->request_slots,
        .reply_slots = geometry->reply_slots,
        .chunk_bytes = geometry->chunk_bytes,
        .channel_bytes = att_geometry_bytes(geometry),
        .heads = 1,
        .n_q = life->n_q ? life->n_q : N_Q,
        .d = WIDE,
        .d_v = WIDE,
        .incarnation = life->incarnation,
        .session_seq = life->knows,
        .fence = fence ? fence : 1000,
    };
    assert_true(att_packet_send(fd, &welcome, sizeof welcome, fds, 2));
}

/* Takes what there is; returns false when it has taken enough. */
static bool take(struct life *life, struct att_consumer *requests, struct att_producer *replies)
{
    while (att_consumer_peek(requests) == ATT_RING_READY) {
        struct att_wire_request request;
        assert_true(att_consumer_read(requests, 0, &request, sizeof request));
        att_consumer_take(requests, att_slots_for(request.length), true);
        const bool update = request.session_seq != 0;
        struct att_wire_reply reply = {
            .length = sizeof reply, .generation = 5, .type = request.type, .tag = request.tag, .lsn = life->count + 1};
        const struct att_part part = {&reply, sizeof reply};
        reply.status = update ? (uint8_t)life->answer : life->never_flushes ? ATT_AGAIN : ATT_OK;
        if (update)
            life->seqs[life->count++] = request.session_seq;
        if (reply.status != ATT_AGAIN) {
            att_producer_put(replies, &part, 1);
            att_producer_publish(replies);
        }
        if (update && life->count == life->takes)
            return false;
    }
    return true;
}

static void serve(int fd, struct life *life, struct att_channel *channel, const struct att_geometry *geometry)
{
    struct att_consumer requests;
    struct att_producer replies;
    struct pollfd wait = {.fd = fd, .events = POLLIN | POLLRDHUP};
    att_consumer_init(&requests, channel->request_slots, geometry->request_slots, &channel->control->request_tail, 0);
    att_producer_init(&replies, channel->reply_slots, geometry->reply_slots, &channel->control->reply_tail, 0);
    while (take(life, &requests, &replies) && !(wait.revents & (POLLHUP | POLLRDHUP)))
        poll(&wait, 1, 1);
}

static void *live(void *context)
{
    struct fake *fake = context;
    struct att_geometry geometry;
    att_geometry_choose(WIDE, WIDE, &geometry, NULL);
    for (struct life *life = fake->lives; life < fake->lives + fake->count; life++) {
        struct att_hello hello;
        struct att_channel channel = {0};
        struct att_status_page *page = NULL;
        int fds[2];
        int fd = accept4(fake->listener, NULL, NULL, SOCK_CLOEXEC);
        if (life->last)
            close(fake->listener);
        assert_int_equal(recv(fd, &hello, sizeof hello, 0), sizeof hello);
        att_channel_create(&geometry, 5, &channel, &fds[0], NULL);
        att_status_page_create(life->incarnation, &page, &fds[1], NULL);
        atomic_store(&page->durable_lsn, life->durable_lsn);
        atomic_store(&page->service_ticket, life->deaf);
        if (life->deaf)
            shutdown(fd, SHUT_RD);
        usleep(1000 * life->late_ms);
        send_welcome(fd, life, hello.fence, &geometry, fds);
        if (!life->deaf)
            serve(fd, life, &channel, &geometry);
        atomic_store(&page->service_ticket, 3); /* whoever rings for what it still submits finds out */
        close(fd);
        close(fds[0]);
        close(fds[1]);
        att_channel_release(&channel);
        att_status_page_release(page);
        atomic_fetch_add(&fake->ended, 1);
    }
    return NULL;
}

static void begin(struct fake *fake, uint32_t lives)
{
    struct sockaddr_un address;
    snprintf(fake->path, sizeof fake->path, "/tmp/attnd-fake-%d.sock", (int)getpid());
    unlink(fake->path);
    fake->count = lives;
    fake->lives[lives - 1].last = true;
    assert_int_equal(att_socket_address(fake->path, &address, NULL), ATT_OK);
    fake->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fake->listener, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fake->listener, 4), 0);
    pthread_create(&fake->thread, NULL, live, fake);
}

static void end(struct fake *fake)
{
    pthread_join(fake->thread, NULL);
    unlink(fake->path);
}

static void await_end(struct fake *fake, uint32_t lives)
{
    for (int i = 0; i < 5000 && atomic_load(&fake->ended) < lives; i++)
        usleep(1000);
    assert_true(atomic_load(&fake->ended) >= lives);
}

static struct att_client *connect_session(const struct fake *fake, uint32_t timeout_ms)
{
    struct att_client *client;
    struct att_error error;
    const struct att_connect_options options = {.socket = fake->path,
                                                .timeout_ms = timeout_ms,
                                                .session = 5,
                                                .wait = ATT_WAIT_SPIN};
    if (att_connect(&options, &client, &error) != ATT_OK)
        fail_msg("%s", error.text);
    return client;
}

/* Takes `count` completions, each with ATT_OK. */
static void complete(struct att_client *client, uint32_t count)
{
    struct att_completion done[16];
    while (count > 0) {
        int taken = att_complete(client, done, 16, 5000);
        if (taken <= 0)
            fail_msg("%d, and %u are missing: %s", taken, count, att_last_error(client));
        for (int i = 0; i < taken; i++, count--)
            assert_int_equal(done[i].status, ATT_OK);
    }
}

/* The daemon may have answered and not yet said that it has taken the request: then there is no room for a large one. */
static void submit(struct att_client *client, const struct att_request *request)
{
    enum att_status status = att_submit(client, request);
    for (int i = 0; i < 5000 && status == ATT_EBUSY; i++) {
        usleep(1000);
        status = att_submit(client, request);
    }
    assert_int_equal(status, ATT_OK);
}

static void submit_small(struct att_client *client)
{
    submit(client, &(struct att_request){.type = ATT_REQ_UPDATE_V, .number = 1});
}

/* So many large updates that the library wants a flush; all acknowledged, none on disk. */
static void submit_large(struct att_client *client, uint32_t count)
{
    static const float row[WIDE];
    const struct att_request request = {.type = ATT_REQ_SET_TOKEN, .key = row, .value = row};
    for (uint32_t i = 0; i < count; i++) {
        submit(client, &request);
        complete(client, 1);
    }
}

static void assert_got(const struct life *life, uint64_t from, uint64_t to)
{
    assert_int_equal(life->count, to - from + 1);
    for (uint32_t i = 0; i < life->count; i++)
        assert_int_equal(life->seqs[i], from + i);
}

/* A daemon goes, the next one dies when it has said welcome, and the one after that knows of nothing. */
static void a_daemon_that_dies_while_updates_are_sent_again(void **unused)
{
    (void)unused;
    enum { LARGE = 150 };
    for (int at_once = 0; at_once < 2; at_once++) {
        static struct fake fake, later;
        fake = (struct fake){.lives = {{.incarnation = 1, .takes = LARGE},
                                       {.incarnation = 1, .knows = LARGE, .deaf = true},
                                       {.incarnation = 2, .takes = MOST}}};
        later = (struct fake){.lives = {{.incarnation = 2, .takes = MOST}}};
        begin(&fake, at_once ? 3 : 2);
        struct att_client *client = connect_session(&fake, 2000);
        submit_large(client, LARGE);
        await_end(&fake, 1);
        submit_small(client);
        att_push(client);     /* finds out */
        submit_small(client); /* connects again, and is alone again before it has sent anything */
        if (!at_once)
            begin(&later, 1);
        complete(client, 2);
        att_close(client);
        end(&fake);
        if (!at_once)
            end(&later);
        assert_got(at_once ? &fake.lives[2] : &later.lives[0], 1, LARGE + 2);
    }
}

/* LSNs from before a crash mean nothing after it, also when the first attempt to connect after it fails late: what
 * the next one has not acknowledged again is sent again to the one after it. */
static void a_restart_is_seen_after_a_failed_attempt(void **unused)
{
    (void)unused;
    static struct fake fake;
    fake = (struct fake){.lives = {{.incarnation = 1, .takes = 5},
                                   {.incarnation = 2, .knows = 99, .takes = MOST},
                                   {.incarnation = 2, .durable_lsn = 100, .takes = 6, .answer = ATT_AGAIN},
                                   {.incarnation = 3, .takes = MOST}}};
    begin(&fake, 4);
    struct att_client *client = connect_session(&fake, 5000);
    for (int i = 0; i < 5; i++)
        assert_int_equal(att_update_v(client, 0, 0, 1.0), ATT_OK);
    await_end(&fake, 1);
    submit_small(client);
    att_push(client);     /* finds out */
    submit_small(client); /* connects again, and looks at what is on disk */
    complete(client, 2);
    att_close(client);
    end(&fake);
    assert_got(&fake.lives[3], 1, 7);
}

/* Another state is served at the socket: that ends the session, with one handshake and a status that says so. */
static void a_daemon_of_another_shape_ends_the_session(void **unused)
{
    (void)unused;
    static struct fake fake;
    struct att_completion done;
    fake = (struct fake){.lives = {{.incarnation = 1, .takes = 1},
                                   {.incarnation = 7, .n_q = 1, .takes = MOST},
                                   {.incarnation = 7, .n_q = 1, .takes = MOST}}};
    begin(&fake, 3);
    struct att_client *client = connect_session(&fake, 5000);
    assert_int_equal(att_update_v(client, 0, 0, 1.0), ATT_OK);
    await_end(&fake, 1);
    submit_small(client);
    assert_int_equal(att_complete(client, &done, 1, 5000), 1);
    assert_int_equal(done.status, ATT_ESHAPE);
    assert_int_equal(att_complete(client, &done, 1, 200), -1);
    assert_non_null(strstr(att_last_error(client), "another state (heads 1, n_q 1,"));
    assert_int_equal(att_update_v(client, 0, 0, 1.0), ATT_ESHAPE);
    await_end(&fake, 2);
    assert_int_equal(atomic_load(&fake.ended), 2); /* nobody has come a second time */
    att_close(client);
    client = connect_session(&fake, 5000); /* what the message says to do */
    att_close(client);
    end(&fake);
}

/* What was acknowledged and lost cannot be repeated: whose fault that is, is said. */
static void an_update_that_cannot_be_repeated(void **unused)
{
    (void)unused;
    static struct fake fake;
    static const struct {
        enum att_status answer;
        const char *text;
    } cases[] = {{ATT_ENOSPC, "the daemon takes no updates now"}, {ATT_ERANGE, "other clients' updates"}};
    struct att_completion done[2];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fake = (struct fake){
            .lives = {{.incarnation = 1, .takes = 1}, {.incarnation = 2, .takes = MOST, .answer = cases[i].answer}}};
        begin(&fake, 2);
        struct att_client *client = connect_session(&fake, 5000);
        assert_int_equal(att_update_v(client, 0, 0, 1.0), ATT_OK);
        await_end(&fake, 1);
        while (att_complete(client, done, 2, 1000) >= 0)
            ;
        assert_non_null(strstr(att_last_error(client), cases[i].text));
        assert_int_equal(att_update_v(client, 0, 0, 1.0), ATT_LOST);
        att_close(client);
        end(&fake);
    }
}

/* Connecting and waiting for the answer have one timeout together. */
static void a_call_has_one_timeout(void **unused)
{
    (void)unused;
    static struct fake fake;
    struct att_client *client;
    struct att_error error;
    fake = (struct fake){.lives = {{.incarnation = 1, .takes = 1},
                                   {.incarnation = 2, .takes = MOST, .late_ms = 800, .answer = ATT_AGAIN}}};
    begin(&fake, 2);
    client = connect_session(&fake, 1000);
    assert_int_equal(att_update_v(client, 0, 0, 1.0), ATT_OK);
    await_end(&fake, 1);
    submit_small(client);
    att_push(client); /* finds out */
    uint64_t start = test_now_ns();
    assert_int_equal(att_update_v(client, 0, 0, 1.0), ATT_ETIMEOUT);
    assert_true(test_now_ns() - start < UINT64_C(1500000000));
    att_close(client);
    end(&fake);
    /* The same for connecting with a session, which waits for the disk. */
    fake = (struct fake){.lives = {{.incarnation = 1, .takes = MOST, .late_ms = 800, .never_flushes = true}}};
    begin(&fake, 1);
    const struct att_connect_options options = {.socket = fake.path, .timeout_ms = 1000, .session = 5};
    start = test_now_ns();
    assert_int_equal(att_connect(&options, &client, &error), ATT_ETIMEOUT);
    assert_true(test_now_ns() - start < UINT64_C(1500000000));
    end(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_daemon_that_dies_while_updates_are_sent_again),
        cmocka_unit_test(a_restart_is_seen_after_a_failed_attempt),
        cmocka_unit_test(a_daemon_of_another_shape_ends_the_session),
        cmocka_unit_test(an_update_that_cannot_be_repeated),
        cmocka_unit_test(a_call_has_one_timeout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
