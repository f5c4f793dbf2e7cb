/* Exactly-once updates: sets column 0 of token 0's value to 0 and adds 1 to it COUNT times, each addition once, although this
 * program and the daemon may be killed and started again at any moment. Update number n is a function of n: a program that
 * starts again asks which number was the last to take effect, and goes on with the next.
 *
 *   cc -O2 exactly_once.c -o exactly_once $(pkg-config --cflags --libs attn)
 *   ./exactly_once SOCKET COUNT [SESSION]     SESSION: an id of the program's own, the same each time; 1 if none is given */
#include <attn.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_IN_FLIGHT = 256, MOST_AT_ONCE = 64 };

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "exactly_once: %s: %s\n", what, why);
    return 1;
}

/* Submits update number n, counted from 1. */
static enum att_status submit(struct att_client *client, uint64_t n, const float *zeros)
{
    struct att_request request = {.type = ATT_REQ_UPDATE_V, .index = 0, .column = 0, .number = 1.0, .tag = n};

    if (n == 1) {
        request.type = ATT_REQ_SET_TOKEN;
        request.value = zeros;
    }
    return att_submit(client, &request);
}

/* Takes what has completed, each as it should. False: the session is over, or an update was refused. */
static bool take(struct att_client *client, uint32_t timeout_ms)
{
    struct att_completion done[MOST_AT_ONCE];
    const int count = att_complete(client, done, MOST_AT_ONCE, timeout_ms); /* 0 while the daemon is away */

    if (count < 0) {
        fail("the session is over", att_last_error(client));
        return false;
    }
    for (int i = 0; i < count; i++)
        if (done[i].status != ATT_OK) {
            fail("an update", att_status_name(done[i].status));
            return false;
        }
    return true;
}

static int run(struct att_client *client, uint64_t last, const float *zeros)
{
    struct att_session_info session;
    enum att_status status;

    att_get_session(client, &session);
    printf("going on behind update %llu\n", (unsigned long long)session.begin);
    for (uint64_t n = session.begin; n < last;) {
        status = submit(client, n + 1, zeros);
        if (status == ATT_OK)
            n++;
        else if (status != ATT_EBUSY && status != ATT_ECLOSED) /* these two: not now */
            return fail("an update", att_last_error(client));
        if ((status != ATT_OK || att_in_flight(client) >= MOST_IN_FLIGHT) && !take(client, 100))
            return 1;
    }
    while (att_in_flight(client) > 0)
        if (!take(client, 1000))
            return 1;
    while ((status = att_flush(client)) == ATT_ECLOSED || status == ATT_ETIMEOUT)
        ;
    if (status != ATT_OK)
        return fail("flush", att_last_error(client));
    printf("all %llu updates have taken effect, once each\n", (unsigned long long)last);
    return 0;
}

int main(int argc, char **argv)
{
    struct att_connect_options options = {.socket = argc > 1 ? argv[1] : NULL};
    const uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
    struct att_client *client;
    struct att_error error;
    struct att_info info;
    float *zeros;

    options.session = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (att_connect(&options, &client, &error) != ATT_OK)
        return fail("connect", error.text);
    att_get_info(client, &info);
    zeros = calloc(info.d_v, sizeof *zeros);
    const int code = zeros ? run(client, 1 + count, zeros) : fail("start", "not enough memory");
    free(zeros);
    att_close(client);
    return code;
}
