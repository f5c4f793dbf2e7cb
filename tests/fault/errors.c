/* Writes and syncs that fail, each in turn (ATT_LONG=1; a share of them otherwise), by a preloaded library: EIO, ENOSPC, a
 * short write. Whatever fails and whenever: what was acknowledged is there at the next start, the state is that of a
 * prefix, every value checks out; a full disk goes on when there is room; a failed sync is final, and said so. */
#include "fault_support.h"

enum { HALF = 6, UPDATES = 2 * HALF, PATIENCE = 200 };

struct fault {
    const char *what; /* for ATT_FAULT_INJECT */
    int count, code;
    bool passes; /* when it is over, everything goes on: all updates are acknowledged */
};

static const struct fault faults[] = {
    {"write", 1, EIO, false},    {"write", 1, ENOSPC, true}, {"write", 12, ENOSPC, true},
    {"short", 1, ENOSPC, false}, {"sync", 1, EIO, false},    {"sync", 1, ENOSPC, false},
};
enum { FAULTS = sizeof faults / sizeof *faults };

struct outcome {
    bool hit, started;
    uint64_t acknowledged, sent;
    enum att_status refused; /* what ended the writing */
    char message[400];
    enum att_status flushed; /* after a failed sync */
    int exit_code;
};

/* Updates from..to, one after the other, until one fails for good. */
static bool write_updates(struct att_client *client, uint64_t from, uint64_t to, struct outcome *outcome)
{
    for (uint64_t n = from; n <= to; n++) {
        struct att_completion done = {0};
        enum att_status status = ATT_ENOSPC;
        for (int tries = 0; status == ATT_ENOSPC && tries < PATIENCE; tries++) {
            if (tries)
                usleep(50000);
            outcome->sent = n;
            if (submit_update(client, n) != ATT_OK || att_complete(client, &done, 1, 20000) != 1)
                return false;
            status = done.status;
        }
        if (status != ATT_OK) {
            outcome->refused = status;
            snprintf(outcome->message, sizeof outcome->message, "%s", att_last_error(client));
            return false;
        }
        outcome->acknowledged = n;
    }
    return true;
}

static struct outcome run_with_fault(struct daemon *daemon, const struct image base[2], const struct fault *fault,
                                     long at)
{
    struct outcome outcome = {0};
    char mark[200], plan[64];
    const char *resume[] = {"--durability", "always", "--log-capacity", "64", NULL};
    snprintf(mark, sizeof mark, "%s/mark", daemon->root);
    snprintf(plan, sizeof plan, "%s:%ld:%d:%d", fault->what, at, fault->count, fault->code);
    unlink(mark);
    unlink(daemon->log);
    images_store(base, daemon->dir);
    setenv("ATT_FAULT_MARK", mark, 1);
    setenv("ATT_FAULT_INJECT", plan, 1);
    preload("tests/fault_inject.so", daemon->dir);
    outcome.started = daemon_start(daemon, resume);
    preload(NULL, NULL);
    if (outcome.started) {
        struct att_client *client = connect_to(daemon);
        if (write_updates(client, 1, HALF, &outcome)) {
            att_snapshot(client); /* it may fail: the log has everything */
            write_updates(client, HALF + 1, UPDATES, &outcome);
        }
        if (outcome.refused == ATT_EIO)
            outcome.flushed = att_flush(client);
        att_close(client);
        int status = daemon_stop(daemon, SIGTERM);
        outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    outcome.hit = access(mark, F_OK) == 0;
    return outcome;
}

static void print_log(const struct daemon *daemon)
{
    struct image log = {0};
    image_load(&log, daemon->log);
    print_message("%.*s", (int)log.size, (const char *)log.bytes);
    free(log.bytes);
}

static void check_outcome(const struct daemon *daemon, const struct fault *fault, long at,
                          const struct outcome *outcome)
{
    struct recovered found = recover_directory(daemon->dir, true);
    char where[64];
    snprintf(where, sizeof where, "%s number %ld x%d, %s", fault->what, at, fault->count, strerror(fault->code));
    if (found.wrong[0])
        fail_msg("%s: %s", where, found.wrong);
    if (found.updates < outcome->acknowledged || found.updates > outcome->sent)
        fail_msg("%s: LOST: %llu acknowledged, %llu sent, %llu there", where, (unsigned long long)outcome->acknowledged,
                 (unsigned long long)outcome->sent, (unsigned long long)found.updates);
    if (outcome->started && outcome->exit_code != 0 && outcome->exit_code != 1)
        fail_msg("%s: attnd ended with %d", where, outcome->exit_code);
    if (!outcome->started && !log_says(daemon, daemon->dir))
        fail_msg("%s: no start, and no word about the directory", where);
    if (outcome->refused && !strstr(outcome->message, daemon->dir))
        fail_msg("%s: %s, but the message is '%s'", where, att_status_name(outcome->refused), outcome->message);
    /* The meta page is a write and a sync in one: there ENOSPC is final too. */
    bool synced = log_says(daemon, "sync of a commit");
    if (outcome->started && fault->passes && !synced && (outcome->acknowledged != UPDATES || outcome->exit_code != 0)) {
        print_log(daemon);
        fail_msg("%s: only %llu of %d updates, exit %d: %s", where, (unsigned long long)outcome->acknowledged, UPDATES,
                 outcome->exit_code, outcome->message);
    }
    if (outcome->refused == ATT_EIO && outcome->flushed != ATT_EIO)
        fail_msg("%s: updates were refused for good, and a flush ended with %s", where,
                 att_status_name(outcome->flushed));
    if (outcome->refused == ATT_EIO && outcome->exit_code != 1)
        fail_msg("%s: updates were refused for good, but exit %d", where, outcome->exit_code);
}

static void a_failed_write_or_sync_loses_nothing(void **state)
{
    (void)state;
    struct daemon daemon;
    struct image base[2] = {{0}, {0}};
    make_daemon_state(&daemon);
    images_load(base, daemon.dir);
    const long step = test_is_long() ? 1 : 11;
    for (int i = 0; i < FAULTS; i++) {
        int runs = 0, final = 0, not_started = 0;
        for (long at = 1 + i % step;; at += step) {
            struct outcome outcome = run_with_fault(&daemon, base, &faults[i], at);
            if (!outcome.hit)
                break;
            check_outcome(&daemon, &faults[i], at, &outcome);
            runs++;
            final += outcome.refused != ATT_OK;
            not_started += !outcome.started;
        }
        print_message("%s x%d, %s: %d runs, %d ended the writing, %d the start; lost: 0\n", faults[i].what,
                      faults[i].count, strerror(faults[i].code), runs, final, not_started);
        assert_true(runs > 0);
    }
    for (int i = 0; i < 2; i++)
        free(base[i].bytes);
    daemon_release(&daemon);
}

/* A client that the log has no room for, because the disk is slow, is not forgotten when the disk then fails. */
static void who_waits_for_the_log_is_told_when_the_disk_fails(void **state)
{
    (void)state;
    static const struct {
        const char *plan;
        enum att_status refused;
    } cases[] = {{"write:1:1000000:28", ATT_ENOSPC}, {"write:1:1000000:5", ATT_EREADONLY}};
    enum { RECORD = sizeof(struct att_record) + (D + D_V) * sizeof(float), BEHIND = 20, PING = 0 };
    const uint64_t taken = ATT_LOG_BUFFER_BYTES / RECORD + 1; /* one more is applied, and owed to the log */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct daemon daemon;
        struct att_completion done;
        char hold[200];
        make_daemon_state(&daemon);
        snprintf(hold, sizeof hold, "%s/hold", daemon.root);
        setenv("ATT_FAULT_HOLD", hold, 1);
        setenv("ATT_FAULT_INJECT", cases[i].plan, 1);
        preload("tests/fault_inject.so", daemon.dir);
        assert_true(daemon_start(&daemon, (const char *const[]){"--durability", "interval:1", NULL}));
        preload(NULL, NULL);
        unsetenv("ATT_FAULT_HOLD");
        struct att_client *client = connect_to(&daemon);
        const struct att_request ping = {.type = ATT_REQ_PING, .tag = PING};
        close(open(hold, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        for (uint64_t n = 1, answered = 0; answered < taken; answered++) {
            while (n <= taken + BEHIND && submit_update(client, n) == ATT_OK)
                n++;
            att_push(client);
            assert_int_equal(att_complete(client, &done, 1, 20000), 1);
            assert_int_equal(done.status, ATT_OK);
        }
        assert_int_equal(att_submit(client, &ping), ATT_OK);
        att_push(client);
        unlink(hold);
        for (int left = BEHIND; left >= 0; left--) {
            assert_int_equal(att_complete(client, &done, 1, 20000), 1);
            assert_int_equal(done.status, done.tag == PING ? ATT_OK : cases[i].refused);
        }
        /* A snapshot that fails too does not change why updates are refused. */
        assert_int_not_equal(att_snapshot(client), ATT_OK);
        assert_int_equal(att_set_b(client, 1, 0.5F), cases[i].refused);
        assert_non_null(strstr(att_last_error(client), "/log: cannot write"));
        att_close(client);
        int status = daemon_stop(&daemon, SIGTERM);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        daemon_release(&daemon);
    }
}

int main(void)
{
    if (!CAN_PRELOAD || !daemon_has("attnd") || !daemon_has("tests/fault_inject.so")) {
        printf("skipped: attnd is not built, or cannot be run under a preloaded library\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_failed_write_or_sync_loses_nothing),
                                       cmocka_unit_test(who_waits_for_the_log_is_told_when_the_disk_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
