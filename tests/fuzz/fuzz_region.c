/* libFuzzer target: a published region of a daemon that lies. The input is a list of words (32-bit place, 64-bit value)
 * that are written over a region that is all right: some into its header, some anywhere; then it is attached, and read if
 * the layout was believed. Answers may be anything; memory outside of the region must not be touched. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "reader.h"

enum { N_Q = 70, D = 3, D_V = 5, CAPACITY = 40, LOG = 64 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);

static unsigned char *memory, *whole;
static size_t region_bytes;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    const struct att_engine_options options = {.n_q = N_Q,
                                               .d = D,
                                               .d_v = D_V,
                                               .capacity = CAPACITY,
                                               .scale = 1.0,
                                               .precision = ATT_MIXED,
                                               .log_capacity = LOG,
                                               .threads = 1};
    struct att_region region;
    int fds[ATT_REGION_FDS];
    if (att_region_create(&options, &region, fds, NULL) != ATT_OK)
        abort();
    for (uint32_t row = 0; row < N_Q; row++) {
        struct att_row *base = &att_region_tile(&region, row / ATT_TILE_ROWS)->rows[row % ATT_TILE_ROWS];
        *base = (struct att_row){.shift = 0.0, .tokens = 3};
        att_row_set_id(base, row);
        double *sums = att_tile_sums(att_region_tile(&region, row / ATT_TILE_ROWS), row % ATT_TILE_ROWS, 4 + D_V);
        for (int c = 0; c < 4 + D_V; c++)
            sums[c] = 1.0 + c;
        atomic_store(&region.slots[row], row);
    }
    atomic_store(&region.header->count, 5);
    region_bytes = region.bytes;
    whole = malloc(region_bytes);
    /* With pages behind it that nobody may touch. */
    memory = mmap(NULL, region_bytes + (1 << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!whole || memory == MAP_FAILED || mprotect(memory, region_bytes, PROT_READ | PROT_WRITE) != 0)
        abort();
    memcpy(whole, region.header, region_bytes);
    return 0;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    double values[ATT_MAX_COLUMNS], bound;
    struct att_region region;
    memcpy(memory, whole, region_bytes);
    for (size_t i = 0; i + 12 <= bytes; i += 12) {
        uint32_t place;
        memcpy(&place, data + i, 4);
        place = place % 4 == 0 ? place / 4 % (sizeof(struct att_region_header) / 8) : place / 4 % (region_bytes / 8);
        memcpy(memory + 8 * (size_t)place, data + i + 4, 8);
    }
    if (att_region_attach(memory, region_bytes, &region, NULL) != ATT_OK)
        return 0;
    for (uint32_t row = 0; row < region.n_q && row < 200; row++) {
        att_read_entry(&region, row, row % region.d_v, values, &bound);
        att_read_row(&region, row, values, &bound);
    }
    return 0;
}
