/* An ext4 that goes away under attnd: a loop-mounted image is shut down by ioctl at a random moment of traffic and
 * snapshots, so that what its journal and its cache held is gone, as in a power cut; then it is mounted again, which
 * replays the journal. Needs root, loop devices and mkfs.ext4; skipped visibly without them. */
#include "fault_support.h"

#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define SHUT_DOWN _IOR('X', 125, uint32_t) /* EXT4_IOC_SHUTDOWN */
enum { JOURNAL_FLUSHED = 1, JOURNAL_LOST = 2 };

static int run(const char *a, const char *b, const char *c, const char *d, const char *e)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execlp(a, a, b, c, d, e, (char *)NULL);
        _exit(127);
    }
    int how = -1;
    waitpid(pid, &how, 0);
    return how;
}

static bool mount_image(const char *image, const char *disk)
{
    return run("mount", "-o", "loop", image, disk) == 0;
}

/* In a process of its own, after `us`. */
static pid_t shut_down_later(const char *disk, uint32_t flags, uint32_t us)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        usleep(us);
        int fd = open(disk, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _exit(fd < 0 || ioctl(fd, SHUT_DOWN, &flags) != 0);
    }
    return pid;
}

/* Until the daemon says that something is wrong, or says nothing for 2 s. */
static void write_until_wrong(const struct daemon *daemon, struct test_random *random, uint64_t *sent,
                              uint64_t *acknowledged)
{
    const struct att_request snapshot = {.type = ATT_REQ_SNAPSHOT};
    struct att_client *client = connect_to(daemon);
    struct att_completion done[64];
    int count = 0;
    for (bool wrong = false; !wrong && count >= 0;) {
        while (att_in_flight(client) < 64 && submit_update(client, *sent + 1) == ATT_OK)
            ++*sent;
        if (random_one_in(random, 20) && att_submit(client, &snapshot) != ATT_OK)
            break;
        count = att_complete(client, done, 64, 2000);
        wrong = count == 0;
        for (int i = 0; i < count && !wrong; i++) {
            wrong = done[i].status != ATT_OK;
            if (!wrong && done[i].type == ATT_REQ_SET_TOKEN)
                *acknowledged = done[i].tag;
        }
    }
    att_close(client);
}

static void a_file_system_that_goes_away_loses_nothing_acknowledged(void **state)
{
    (void)state;
    struct daemon daemon;
    struct test_random random;
    char disk[150], image[150];
    const char *resume[] = {"--durability", "always", "--log-capacity", "64", NULL};
    random_seed(&random, 83, "shutdowns");
    make_daemon_state(&daemon);
    snprintf(disk, sizeof disk, "%s/disk", daemon.root);
    snprintf(image, sizeof image, "%s/image", daemon.root);
    int fd = open(image, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, 64 << 20) == 0 && mkdir(disk, 0700) == 0);
    close(fd);
    if (!own_mounts() || run("mkfs.ext4", "-q", "-F", image, NULL) != 0 || !mount_image(image, disk)) {
        print_message("skipped: needs root, loop devices and mkfs.ext4\n");
        daemon_release(&daemon);
        skip();
    }
    struct image files[2] = {{0}, {0}};
    images_load(files, daemon.dir);
    snprintf(daemon.dir, sizeof daemon.dir, "%s/disk/state", daemon.root);
    images_store(files, daemon.dir);
    sync();
    const uint32_t rounds = test_is_long() ? 100 : 5;
    uint64_t updates = 0, total = 0;
    char wrong[1000] = "";
    for (uint32_t round = 0; round < rounds && !wrong[0]; round++) {
        uint64_t sent = updates, acknowledged = updates;
        if (!daemon_start(&daemon, resume)) {
            snprintf(wrong, sizeof wrong, "no start in round %u", round);
            break;
        }
        pid_t pid = shut_down_later(disk, random_one_in(&random, 3) ? JOURNAL_FLUSHED : JOURNAL_LOST,
                                    10000 + random_below(&random, 300000));
        write_until_wrong(&daemon, &random, &sent, &acknowledged);
        int how = -1;
        waitpid(pid, &how, 0);
        daemon_stop(&daemon, SIGKILL);
        if (how != 0 || umount(disk) != 0 || !mount_image(image, disk)) {
            snprintf(wrong, sizeof wrong, "cannot shut down (%d), unmount or mount", how);
            break;
        }
        struct recovered found = recover_directory(daemon.dir, true);
        if (found.wrong[0] || found.updates < acknowledged || found.updates > sent)
            snprintf(wrong, sizeof wrong, "round %u: %llu acknowledged, %llu sent, %llu there: %s", round,
                     (unsigned long long)acknowledged, (unsigned long long)sent, (unsigned long long)found.updates,
                     found.wrong);
        total += found.updates - updates;
        updates = found.updates;
    }
    umount2(disk, MNT_DETACH);
    for (int i = 0; i < 2; i++)
        free(files[i].bytes);
    if (wrong[0])
        fail_msg("%s", wrong);
    print_message("%u shutdowns, %llu updates; lost: 0\n", rounds, (unsigned long long)total);
    assert_true(total > 0);
    daemon_release(&daemon);
}

int main(void)
{
    if (!daemon_has("attnd")) {
        printf("skipped: attnd is not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_file_system_that_goes_away_loses_nothing_acknowledged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
