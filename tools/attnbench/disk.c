#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

enum { PAGE = 4096, READ_BYTES = 128 << 10, OPEN_MOST = 16 };

void disk_open(struct disk *disk, const char *directory, uint32_t batch_bytes)
{
    char path[128];
    struct bench_random random = {7};

    *disk = (struct disk){.block = bench_memory(batch_bytes + PAGE), .batch = batch_bytes};
    for (uint32_t i = 0; i < batch_bytes + PAGE; i++)
        disk->block[i] = (unsigned char)bench_random_bits(&random);
    snprintf(path, sizeof path, "%s/floor", directory);
    disk->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600); /* empty: else appends would overwrite */
    if (disk->fd < 0 || pwrite(disk->fd, disk->block, PAGE, 0) != PAGE || fsync(disk->fd) != 0 ||
        lseek(disk->fd, PAGE, SEEK_SET) < 0)
        bench_die("%s: %s", path, strerror(errno));
}

void disk_close(struct disk *disk)
{
    close(disk->fd);
    free(disk->block);
}

double disk_append(struct disk *disk, uint32_t times)
{
    const double start = bench_now();

    for (uint32_t i = 0; i < times; i++) {
        disk->block[0]++;
        if (write(disk->fd, disk->block, disk->batch) != (ssize_t)disk->batch || fdatasync(disk->fd) != 0)
            bench_die("the floor's file: %s", strerror(errno));
    }
    return bench_now() - start;
}

double disk_sync(struct disk *disk)
{
    const double start = bench_now();

    disk->block[0]++;
    if (pwrite(disk->fd, disk->block, PAGE, 0) != PAGE || fdatasync(disk->fd) != 0)
        bench_die("the floor's file: %s", strerror(errno));
    return bench_now() - start;
}

/* ---- A directory's files ---- */

static double total;

static int read_file(const char *path, const struct stat *file, int type, struct FTW *where)
{
    static char block[READ_BYTES];
    (void)file;
    (void)where;
    if (type != FTW_F)
        return 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t bytes;
    while ((bytes = read(fd, block, sizeof block)) > 0)
        total += (double)bytes;
    if (fd < 0 || bytes < 0)
        bench_die("%s: %s", path, strerror(errno));
    close(fd);
    return 0;
}

static int forget_file(const char *path, const struct stat *file, int type, struct FTW *where)
{
    (void)file;
    (void)where;
    if (type != FTW_F)
        return 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        bench_die("%s: %s", path, strerror(errno));
    close(fd);
    return 0;
}

static int count_file(const char *path, const struct stat *file, int type, struct FTW *where)
{
    (void)path;
    (void)where;
    if (type == FTW_F)
        total += 512.0 * (double)file->st_blocks;
    return 0;
}

static void walk(const char *directory, int (*each)(const char *, const struct stat *, int, struct FTW *))
{
    total = 0;
    if (nftw(directory, each, OPEN_MOST, FTW_PHYS) != 0)
        bench_die("%s: %s", directory, strerror(errno));
}

void disk_forget(const char *directory)
{
    walk(directory, forget_file);
}

double disk_cat(const char *directory)
{
    disk_forget(directory);
    const double start = bench_now();
    walk(directory, read_file);
    return bench_now() - start;
}

double disk_bytes(const char *directory)
{
    walk(directory, count_file);
    return total;
}
