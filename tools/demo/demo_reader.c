/* The reader: a process of its own that asks for random outputs without a pause, and checks what every answer says of
 * itself: finite, with a bound, and never from an earlier state than an answer before it, (incarnation, LSN) taken
 * together. When the daemon dies it connects again until there is one. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "demo.h"
#include "progress.h"

enum { RETRY_US = 500, PATIENCE_US = 20 * 1000 * 1000 };

static void judge(struct reader *reader, const struct att_completion *answer, uint64_t begin, uint64_t end)
{
    if (!isfinite(answer->value) || !(answer->error_bound >= 0)) {
        snprintf(reader->why, sizeof reader->why, "%g with the bound %g", answer->value, answer->error_bound);
        reader->wrong++;
    }
    if (answer->incarnation < reader->last_incarnation ||
        (answer->incarnation == reader->last_incarnation && answer->lsn < reader->last_lsn))
        reader->backwards++;
    reader->last_incarnation = answer->incarnation;
    reader->last_lsn = answer->lsn;
    reader->answers++;
    if (reader->answers_here == 0)
        reader->first_answer_ns = end;
    reader->answers_here++;
    if (reader->timed) {
        uint64_t ns = end - begin < UINT32_MAX ? end - begin : UINT32_MAX;
        reader->samples[reader->seen % READER_SAMPLES] = (uint32_t)ns;
        reader->seen++;
    }
}

/* False: the connection is over. */
static bool read_one(struct reader *reader, struct att_client *client, const struct workload *workload,
                     uint64_t *random)
{
    struct att_completion answer;
    const struct att_request request = {.type = ATT_REQ_QUERY,
                                        .index = demo_random(random, workload->n_q),
                                        .column = demo_random(random, workload->d_v)};
    uint64_t begin = att_clock_ns();
    enum att_status status = att_call(client, &request, &answer);
    if (status == ATT_OK) {
        judge(reader, &answer, begin, att_clock_ns());
    } else if (status != ATT_ECLOSED) {
        snprintf(reader->why, sizeof reader->why, "%.190s", att_last_error(client));
        reader->wrong++;
    }
    return status != ATT_ECLOSED;
}

static void read_on(struct reader *reader, const struct daemon *daemon, const struct workload *workload)
{
    struct att_client *client = NULL;
    const struct att_connect_options options = {.socket = daemon->socket, .stay_closed = true};
    uint64_t random = 1;
    while (!reader->stop) {
        if (reader->pause) {
            reader->paused = true;
            usleep(RETRY_US);
            continue;
        }
        reader->paused = false;
        if (!client) {
            if (att_connect(&options, &client, NULL) != ATT_OK) {
                usleep(RETRY_US);
                continue;
            }
            reader->answers_here = 0;
            reader->connections++;
        }
        if (!read_one(reader, client, workload, &random)) {
            att_close(client);
            client = NULL;
        }
    }
    att_close(client);
}

struct reader *reader_start(const struct daemon *daemon, const struct workload *workload, pid_t *ret_pid)
{
    struct reader *reader = mmap(NULL, sizeof *reader, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reader == MAP_FAILED)
        demo_fail("mmap: %s", strerror(errno));
    pid_t pid = demo_fork(false);
    if (pid == 0) {
        read_on(reader, daemon, workload);
        _exit(0);
    }
    *ret_pid = pid;
    return reader;
}

void reader_pause(struct reader *reader, bool pause)
{
    reader->pause = pause;
    for (uint32_t us = 0; reader->paused != pause; us += RETRY_US) {
        if (us >= PATIENCE_US)
            demo_fail("the reader hangs");
        usleep(RETRY_US);
    }
}

bool reader_stop(struct reader *reader, pid_t pid)
{
    int status = -1;
    reader->stop = true;
    for (uint32_t us = 0; waitpid(pid, &status, WNOHANG) == 0; us += RETRY_US) {
        if (us >= PATIENCE_US)
            demo_fail("the reader hangs");
        usleep(RETRY_US);
    }
    demo_forget_reader();
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void reader_free(struct reader *reader)
{
    munmap(reader, sizeof *reader);
}
