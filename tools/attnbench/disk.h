/* The disk by itself: what attnd's durable figures are held against. Whatever fails ends the program. */
#ifndef ATT_BENCH_DISK_H
#define ATT_BENCH_DISK_H

#include <stdint.h>

/* A file that grows, in `directory`; removed at the end with the directory. */
struct disk {
    int fd;
    unsigned char *block; /* batch bytes */
    uint32_t batch, synced;
};

void disk_open(struct disk *disk, const char *directory, uint32_t batch_bytes);
void disk_close(struct disk *disk);

/* Appends a batch and calls fdatasync, `times` times; the time it took, ns. */
double disk_append(struct disk *disk, uint32_t times);

/* Overwrites 4 KiB in place and calls fdatasync; ns. */
double disk_sync(struct disk *disk);

/* Reads all of a directory's files below it, cat's way, after they were dropped from memory; ns. */
double disk_cat(const char *directory);
/* Drops them from memory. */
void disk_forget(const char *directory);
/* The blocks that they have. */
double disk_bytes(const char *directory);

#endif
