/* Makes writes or syncs of a state's data files fail. ATT_FAULT_INJECT is WHAT:N:COUNT:ERRNO: the calls of WHAT ("write",
 * "short", "sync") from the Nth on, COUNT of them, fail; "short" writes half of what is asked for at the Nth. When the
 * first fails, the file ATT_FAULT_MARK is made. Reservations (fallocate) succeed, so that the writes meet the fault. With
 * ATT_FAULT_HOLD, a path, they are counted only from when that file is there, and wait as long as it is. */
#include "preload.h"

static struct {
    bool sync, half, held;
    long from, count, seen;
    int code;
} plan;

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("ATT_FAULT_INJECT");
    char what[16] = "";
    find_all();
    if (!text || sscanf(text, "%15[a-z]:%ld:%ld:%d", what, &plan.from, &plan.count, &plan.code) != 4)
        plan.from = -1;
    plan.sync = strcmp(what, "sync") == 0;
    plan.half = strcmp(what, "short") == 0;
}

/* Waits while the file of ATT_FAULT_HOLD is there; false: it has not been there yet. Under lock, but for the wait. */
static bool is_released(void)
{
    const char *hold = getenv("ATT_FAULT_HOLD");
    if (!hold)
        return true;
    while (access(hold, F_OK) == 0) {
        plan.held = true;
        pthread_mutex_unlock(&lock);
        usleep(1000);
        pthread_mutex_lock(&lock);
    }
    return plan.held;
}

/* Whether this call is to fail. Under lock. */
static bool is_hit(bool sync)
{
    const char *mark = getenv("ATT_FAULT_MARK");
    if (plan.from < 0 || sync != plan.sync || !is_released())
        return false;
    plan.seen++;
    if (plan.seen < plan.from || plan.seen >= plan.from + plan.count)
        return false;
    if (plan.seen == plan.from && mark) {
        int fd = real_open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0)
            real_close(fd);
    }
    return true;
}

static ssize_t do_write(int fd, const struct file *file, const struct iovec *parts, int count, off_t offset,
                        bool positioned)
{
    /* The meta page goes through an O_DSYNC descriptor: it is a write and a sync. */
    if (is_hit(plan.sync && file->dsync)) {
        if (plan.half && parts[0].iov_len > 1)
            return positioned ? real_pwrite(fd, parts[0].iov_base, parts[0].iov_len / 2, offset)
                              : real_write(fd, parts[0].iov_base, parts[0].iov_len / 2);
        errno = plan.code;
        return -1;
    }
    return positioned ? real_pwritev(fd, parts, count, offset) : real_writev(fd, parts, count);
}

static int do_sync(int fd, const struct file *file, bool data_only)
{
    (void)file;
    if (is_hit(true)) {
        errno = plan.code;
        return -1;
    }
    return data_only ? real_fdatasync(fd) : real_fsync(fd);
}
