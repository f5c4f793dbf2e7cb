/* Records what a process writes into a state's data files, and when it syncs them: an event each in the file
 * ATT_FAULT_RECORD (record.h), in the order in which they happened. The call and its event are one step: a mutex is
 * held over both, so an event that others append when they have learnt of a commit comes behind that commit. */
#include "record.h"
#include "preload.h"

static int record_fd = -1;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("ATT_FAULT_RECORD");
    find_all();
    if (path)
        record_fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void append(const struct record_event *event, const struct iovec *parts, int count)
{
    struct iovec all[MOST_PARTS + 1] = {{(void *)(uintptr_t)event, sizeof *event}};
    size_t total = sizeof *event + event->bytes;
    if (record_fd < 0)
        return;
    if (count > MOST_PARTS)
        abort();
    if (count)
        memcpy(all + 1, parts, (size_t)count * sizeof *parts);
    if (real_writev(record_fd, all, count + 1) != (ssize_t)total)
        abort();
}

static ssize_t do_write(int fd, const struct file *file, const struct iovec *parts, int count, off_t offset,
                        bool positioned)
{
    ssize_t done = positioned ? real_pwritev(fd, parts, count, offset) : real_writev(fd, parts, count);
    struct record_event event = {.kind = file->dsync ? RECORD_WRITE_SYNCED : RECORD_WRITE,
                                 .file = (uint32_t)file->number,
                                 .offset = (uint64_t)offset};
    for (int i = 0; i < count; i++)
        event.bytes += parts[i].iov_len;
    if (done >= 0 && (uint64_t)done != event.bytes)
        abort(); /* the recorder is for disks with room */
    if (done >= 0)
        append(&event, parts, count);
    return done;
}

static int do_sync(int fd, const struct file *file, bool data_only)
{
    struct record_event event = {.kind = RECORD_SYNC, .file = (uint32_t)file->number};
    int result = data_only ? real_fdatasync(fd) : real_fsync(fd);
    if (result == 0)
        append(&event, NULL, 0);
    return result;
}

static int truncate_file(int fd, off_t size)
{
    pthread_mutex_lock(&lock);
    const struct file *file = known_file(fd);
    int result = real_ftruncate(fd, size);
    if (file && result == 0) {
        struct record_event event = {.kind = RECORD_TRUNCATE, .file = (uint32_t)file->number, .offset = (uint64_t)size};
        append(&event, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORT int ftruncate(int fd, off_t size)
{
    return truncate_file(fd, size);
}

EXPORT int ftruncate64(int fd, off_t size)
{
    return truncate_file(fd, size);
}

/* Only FALLOC_FL_KEEP_SIZE is used, which changes nothing that is read. */
static int allocate(int fd, int mode, off_t offset, off_t size)
{
    pthread_mutex_lock(&lock);
    if (known_file(fd) && mode != FALLOC_FL_KEEP_SIZE)
        abort();
    pthread_mutex_unlock(&lock);
    return real_fallocate(fd, mode, offset, size);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t size)
{
    return allocate(fd, mode, offset, size);
}

EXPORT int fallocate64(int fd, int mode, off_t offset, off_t size)
{
    return allocate(fd, mode, offset, size);
}
