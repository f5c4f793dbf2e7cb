/* What goes wrong around attnd: a disk that is really full (a tmpfs of 8 MB, when root), several daemons that are
 * started on one directory at the same moment, a wall clock that is set back all the time; and an interval of an hour,
 * which nobody may have to wait out. */
#include "fault_support.h"

#include <sys/statvfs.h>

enum { PATH = 170 };

static const char *const resume[] = {"--durability", "always", "--log-capacity", "64", NULL};

/* ---- A full disk -------------------------------------------------------------------------------------------- */

/* Fills the file system but for `left` bytes. */
static void put_ballast(const char *path, uint64_t left)
{
    struct statvfs stat;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && fstatvfs(fd, &stat) == 0);
    uint64_t room = (uint64_t)stat.f_bavail * stat.f_frsize;
    assert_true(room > left);
    assert_int_equal(posix_fallocate(fd, 0, (off_t)(room - left)), 0);
    close(fd);
}

/* Writes one update after the other from *n on, until one is not acknowledged within 2 s, or refused. */
static void write_until_full(struct att_client *client, uint64_t *n)
{
    struct att_completion done;
    for (;; ++*n) {
        assert_true(*n < 1000000);
        assert_int_equal(submit_update(client, *n), ATT_OK);
        int count = att_complete(client, &done, 1, 2000);
        assert_true(count >= 0);
        if (count == 0 || done.status == ATT_ENOSPC)
            return; /* it is applied, and waits; or those before it are acknowledged, and wait */
        if (done.status != ATT_OK)
            fail_msg("update %llu: %s: %s", (unsigned long long)*n, att_status_name(done.status),
                     att_last_error(client));
    }
}

static void write_more(struct att_client *client, uint64_t from, uint64_t to)
{
    struct att_completion done;
    for (uint64_t n = from; n <= to; n++) {
        assert_int_equal(submit_update(client, n), ATT_OK);
        assert_int_equal(att_complete(client, &done, 1, 5000), 1);
        if (done.status != ATT_OK)
            fail_msg("update %llu: %s: %s", (unsigned long long)n, att_status_name(done.status),
                     att_last_error(client));
    }
}

/* It is applied and not acknowledged; others are refused; reads are served; with room all goes on. */
static void check_full(const struct daemon *daemon, struct att_client *client, uint64_t n, const char *ballast)
{
    struct att_completion done;
    struct att_stat stat;
    double values[D_V], bound;
    assert_int_equal(submit_update(client, n + 1), ATT_OK);
    assert_int_equal(att_complete(client, &done, 1, 5000), 1);
    assert_int_equal(done.tag, n + 1);
    assert_int_equal(done.status, ATT_ENOSPC);
    assert_non_null(strstr(att_last_error(client), daemon->dir));
    assert_int_equal(att_get_stat(client, &stat), ATT_OK);
    assert_non_null(strstr(stat.state, "read-only"));
    assert_int_equal(stat.durable_lsn, n - 1);
    assert_int_equal(att_row(client, 0, values, &bound), ATT_OK);
    assert_int_equal(unlink(ballast), 0);
    assert_int_equal(att_complete(client, &done, 1, 10000), 1);
    assert_int_equal(done.tag, n);
    assert_int_equal(done.status, ATT_OK);
}

/* A daemon on a file system of its own, which is full but for a few updates. False: there can't be one here. */
static bool start_on_small_disk(struct daemon *daemon, const char *durability, char *ret_disk, char *ret_ballast)
{
    char q[200], k[200], v[200];
    daemon_init(daemon);
    snprintf(ret_disk, PATH, "%s/disk", daemon->root);
    snprintf(ret_ballast, PATH, "%s/disk/ballast", daemon->root);
    assert_int_equal(mkdir(ret_disk, 0700), 0);
    if (!own_mounts() || mount("attnd-test", ret_disk, "tmpfs", 0, "size=8m,mode=700") != 0) {
        print_message("skipped: needs root, and the right to mount a tmpfs\n");
        daemon_release(daemon);
        return false;
    }
    write_state_arrays(daemon);
    snprintf(daemon->dir, sizeof daemon->dir, "%s/disk/state", daemon->root);
    snprintf(q, sizeof q, "%s/Q.npy", daemon->root);
    snprintf(k, sizeof k, "%s/K.npy", daemon->root);
    snprintf(v, sizeof v, "%s/V.npy", daemon->root);
    const char *create[] = {"--q", q, "--k", k, "--v", v, "--durability", durability, NULL};
    assert_true(daemon_start(daemon, create));
    put_ballast(ret_ballast, 200 << 10);
    return true;
}

static void release_small_disk(struct daemon *daemon, const char *disk)
{
    umount2(disk, MNT_DETACH);
    daemon_release(daemon);
}

static void a_full_disk_loses_nothing_and_goes_on_with_room(void **state)
{
    (void)state;
    struct daemon daemon;
    char disk[PATH], ballast[PATH];
    uint64_t n = 1;
    if (!start_on_small_disk(&daemon, "always", disk, ballast))
        skip();
    struct att_client *client = connect_to(&daemon);
    for (int round = 0; round < 2; round++) { /* full, room, full again, room again */
        uint64_t before = n;
        write_until_full(client, &n);
        check_full(&daemon, client, n, ballast);
        write_more(client, n + 1, n + 100);
        print_message("full after %llu updates, room again, 100 more\n", (unsigned long long)(n - before));
        n += 101;
        if (round == 0)
            put_ballast(ballast, 200 << 10);
    }
    att_close(client);
    int status = daemon_stop(&daemon, SIGTERM);
    struct recovered found = recover_directory(daemon.dir, true);
    release_small_disk(&daemon, disk);
    assert_int_equal(status, 0);
    if (found.wrong[0] || found.updates != n - 1)
        fail_msg("%llu updates of %llu: %s", (unsigned long long)found.updates, (unsigned long long)n - 1, found.wrong);
}

/* It ends, with 1 and a word about what is not on disk; who waits for an update or a snapshot is told. */
static void an_end_on_a_full_disk_waits_for_no_room(void **state)
{
    (void)state;
    static const char *const durabilities[] = {"always", "interval:20"};
    const struct att_request snapshot = {.type = ATT_REQ_SNAPSHOT};
    for (int i = 0; i < 2; i++) {
        struct daemon daemon;
        struct att_completion done[2];
        struct att_stat stat;
        char disk[PATH], ballast[PATH];
        uint64_t n = 1;
        if (!start_on_small_disk(&daemon, durabilities[i], disk, ballast))
            skip();
        struct att_client *client = connect_to(&daemon);
        write_until_full(client, &n);
        assert_int_equal(att_submit(client, &snapshot), ATT_OK);
        assert_int_equal(att_get_stat(client, &stat), ATT_OK); /* so that has been taken */
        int status = daemon_stop(&daemon, SIGTERM);
        int count = att_complete(client, done, 2, 5000);
        bool told = log_says(&daemon, i == 0 ? "which were not acknowledged, are not on it"
                                             : "which were acknowledged, are not on it");
        unlink(ballast);
        struct recovered found = recover_directory(daemon.dir, true);
        att_close(client);
        release_small_disk(&daemon, disk);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        assert_true(told);
        assert_int_equal(count, i == 0 ? 2 : 1);
        for (int c = 0; c < count; c++)
            assert_int_equal(done[c].status, done[c].type == ATT_REQ_SNAPSHOT ? ATT_ENOSPC : ATT_EIO);
        if (found.wrong[0] || (i == 0 ? found.updates != n - 1 : found.updates >= n - 1))
            fail_msg("%llu updates of %llu: %s", (unsigned long long)found.updates, (unsigned long long)n - 1,
                     found.wrong);
    }
}

/* However little there is: an error, no signal (LMDB maps its lock file, whose blocks must be there before it writes into
 * it), and nothing is left of a copy. */
static void a_copy_and_a_creation_on_a_full_disk_are_refused(void **state)
{
    (void)state;
    struct daemon daemon;
    char disk[PATH], ballast[PATH], to[PATH + 8], unfinished[PATH + 20], q[200], k[200], v[200], said[4096];
    int copied = 0;
    if (!start_on_small_disk(&daemon, "always", disk, ballast))
        skip();
    assert_int_equal(daemon_stop(&daemon, SIGTERM), 0);
    snprintf(to, sizeof to, "%s/to", disk);
    snprintf(unfinished, sizeof unfinished, "%s.unfinished", to);
    snprintf(q, sizeof q, "%s/Q.npy", daemon.root);
    snprintf(k, sizeof k, "%s/K.npy", daemon.root);
    snprintf(v, sizeof v, "%s/V.npy", daemon.root);
    const char *const copy[] = {daemon.dir, "copy", to, NULL};
    const char *const create[] = {"--dir", to, "--socket", daemon.socket, "--q", q, "--k", k, "--v", v, NULL};
    for (uint64_t left = 0; !copied; left += 4096) {
        unlink(ballast);
        put_ballast(ballast, left);
        int code = daemon_run("attninspect", copy, said, sizeof said);
        copied = code == 0;
        if (code != 0 && (code != 1 || !strstr(said, "No space left")))
            fail_msg("%llu bytes left: exit %d: %s", (unsigned long long)left, code, said);
        assert_int_not_equal(access(unfinished, F_OK), 0);
        assert_int_equal(access(to, F_OK) == 0, copied);
        if (copied || left > 8 << 12)
            continue;
        code = daemon_run("attnd", create, said, sizeof said);
        if (code != 1 || !strstr(said, "No space left"))
            fail_msg("%llu bytes left: attnd: exit %d: %s", (unsigned long long)left, code, said);
        remove_tree(to);
    }
    release_small_disk(&daemon, disk);
}

/* Its updates that have been taken may wait for room for as long as its time limit: it says so. */
static void a_replay_on_a_full_disk_says_what_it_waits_for(void **state)
{
    (void)state;
    static const char *const arrays[3][6] = {{"--kind", "kind.npy", "i4", "0", "zero"},
                                             {"--index", "index.npy", "i4", "0", "zero"},
                                             {"--rows", "rows.npy", "f4", "4", "ramp"}};
    struct daemon daemon;
    char disk[PATH], ballast[PATH], paths[3][PATH + 20], said[4096];
    const char *replay[16] = {"--socket", daemon.socket, "--timeout", "3000", "replay"};
    if (!start_on_small_disk(&daemon, "always", disk, ballast))
        skip();
    for (int i = 0; i < 3; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s", daemon.root, arrays[i][1]);
        const char *const make[] = {paths[i], arrays[i][2], "C", "100000", arrays[i][3], arrays[i][4], NULL};
        assert_int_equal(daemon_run("tests/mknpy", make, NULL, 0), 0);
        replay[5 + 2 * i] = arrays[i][0];
        replay[6 + 2 * i] = paths[i];
    }
    assert_int_equal(daemon_run("attnctl", replay, said, sizeof said), 1);
    if (!strstr(said, "waiting up to 3 s"))
        fail_msg("it says: %s", said);
    release_small_disk(&daemon, disk);
}

/* ---- Several daemons at once ------------------------------------------------------------------------------- */

enum { RIVALS = 4 };

static void of_daemons_started_at_once_one_serves(void **state)
{
    (void)state;
    struct daemon daemon, rivals[RIVALS];
    make_daemon_state(&daemon);
    for (int round = 0; round < 3; round++) {
        pid_t starters[RIVALS];
        int served = 0;
        for (int i = 0; i < RIVALS; i++) {
            rivals[i] = daemon;
            snprintf(rivals[i].socket, sizeof rivals[i].socket, "%s/s%d", daemon.root, i);
            snprintf(rivals[i].log, sizeof rivals[i].log, "%s/log%d", daemon.root, i);
            unlink(rivals[i].log);
            fflush(stdout);
            starters[i] = fork();
            if (starters[i] == 0) { /* each stays, so that the winner does not leave before the last has tried */
                bool ready = daemon_start(&rivals[i], resume);
                usleep(500000);
                int status = ready ? daemon_stop(&rivals[i], SIGTERM) : 0;
                _exit(!ready ? 7 : status == 0 ? 0 : 1);
            }
        }
        for (int i = 0; i < RIVALS; i++) {
            int how = 0;
            waitpid(starters[i], &how, 0);
            assert_true(WIFEXITED(how) && (WEXITSTATUS(how) == 0 || WEXITSTATUS(how) == 7));
            served += WEXITSTATUS(how) == 0;
            if (WEXITSTATUS(how) == 7)
                assert_true(log_says(&rivals[i], "another daemon serves it"));
        }
        assert_int_equal(served, 1);
    }
    struct recovered found = recover_directory(daemon.dir, false);
    if (found.wrong[0])
        fail_msg("%s", found.wrong);
    daemon_release(&daemon);
}

/* ---- A clock that is set back ------------------------------------------------------------------------------- */

static void a_wall_clock_that_is_set_back_changes_nothing(void **state)
{
    (void)state;
    struct daemon daemon;
    if (!CAN_PRELOAD)
        skip();
    make_daemon_state(&daemon);
    static const char *const durabilities[] = {"always", "interval:20"};
    uint64_t n = 0;
    for (int i = 0; i < 2; i++) {
        const char *arguments[] = {"--durability", durabilities[i], "--log-capacity", "64", NULL};
        preload("tests/fault_clock.so", daemon.dir);
        bool ready = daemon_start(&daemon, arguments);
        preload(NULL, NULL);
        assert_true(ready);
        struct att_client *client = connect_to(&daemon);
        double start = seconds();
        for (int round = 0; round < 3; round++) {
            write_more(client, n + 1, n + 100);
            n += 100;
            assert_int_equal(att_flush(client), ATT_OK);
            assert_int_equal(att_snapshot(client), ATT_OK);
        }
        assert_true(seconds() - start < 30);
        att_close(client);
        assert_int_equal(daemon_stop(&daemon, SIGTERM), 0);
        struct recovered found = recover_directory(daemon.dir, false);
        if (found.wrong[0] || found.updates != n)
            fail_msg("%llu updates: %s", (unsigned long long)found.updates, found.wrong);
    }
    daemon_release(&daemon);
}

/* ---- An interval of an hour ---------------------------------------------------------------------------------- */

static void a_snapshot_and_an_end_do_not_wait_out_the_interval(void **state)
{
    (void)state;
    struct daemon daemon;
    const char *const arguments[] = {"--durability", "interval:3600000", NULL};
    uint64_t n = 0;
    make_daemon_state(&daemon);
    for (int round = 0; round < 2; round++) {
        assert_true(daemon_start(&daemon, arguments));
        struct att_client *client = connect_to(&daemon);
        write_more(client, n + 1, n + 10);
        assert_int_equal(att_snapshot(client), ATT_OK);
        write_more(client, n + 11, n + 20);
        n += 20;
        if (round == 1)
            assert_int_equal(att_shutdown(client), ATT_OK);
        assert_int_equal(daemon_stop(&daemon, round == 1 ? 0 : SIGTERM), 0);
        att_close(client);
        struct recovered found = recover_directory(daemon.dir, false);
        if (found.wrong[0] || found.updates != n)
            fail_msg("%llu updates: %s", (unsigned long long)found.updates, found.wrong);
    }
    daemon_release(&daemon);
}

int main(void)
{
    if (!daemon_has("attnd")) {
        printf("skipped: attnd is not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_loses_nothing_and_goes_on_with_room),
        cmocka_unit_test(an_end_on_a_full_disk_waits_for_no_room),
        cmocka_unit_test(a_copy_and_a_creation_on_a_full_disk_are_refused),
        cmocka_unit_test(a_replay_on_a_full_disk_says_what_it_waits_for),
        cmocka_unit_test(of_daemons_started_at_once_one_serves),
        cmocka_unit_test(a_wall_clock_that_is_set_back_changes_nothing),
        cmocka_unit_test(a_snapshot_and_an_end_do_not_wait_out_the_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
