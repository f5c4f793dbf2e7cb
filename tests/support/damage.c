/* Flips bytes of a file in place, for shell tests: damage FILE STEP. In every page of 4096 bytes but the first two, four
 * bytes at every STEP from byte 200 on, so that the heads of LMDB's pages stay whole. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, FIRST = 200, BYTES = 4 };

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: damage FILE STEP\n");
        return 2;
    }
    struct stat stat;
    long step = strtol(arguments[2], NULL, 10);
    int file = open(arguments[1], O_RDWR | O_CLOEXEC);
    if (file < 0 || fstat(file, &stat) != 0 || step < BYTES) {
        perror(arguments[1]);
        return 1;
    }
    for (off_t page = 2L * PAGE; page + PAGE <= stat.st_size; page += PAGE) {
        for (off_t at = page + FIRST; at + BYTES <= page + PAGE; at += step) {
            unsigned char bytes[BYTES];
            if (pread(file, bytes, BYTES, at) != BYTES)
                return 1;
            for (int i = 0; i < BYTES; i++)
                bytes[i] ^= 0xa5;
            if (pwrite(file, bytes, BYTES, at) != BYTES)
                return 1;
        }
    }
    return close(file) == 0 ? 0 : 1;
}
