/* scale: resident bytes of the published region, and of the settled tokens in the daemon's own memory (all of that is in
 * use here: capacity is n_k), over what the data needs at least,
 *
 *   4 (n_q d + n_k (d + d_v + 1)) + rows_hot (8 d_v + 96) + the log
 *
 * where the log is log_capacity entries of 4 (d + d_v + 6) + 24 bytes: a key, a value, four head columns, the bias, the
 * count of visible tokens, and LSN, token, sign, version and kind. The log is filled once around, so all of it is
 * resident. `bytes` is the worst of the shapes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "rig.h"

struct shape {
    const char *name;
    uint32_t n_q, n_k, d;
    uint32_t hot; /* rows that stay hot; the others go cold */
    bool never_keep;
};

static double resident_bytes(const struct rig *rig)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = rig_stats(rig).region_bytes;
    const size_t pages = (bytes + page - 1) / page;
    unsigned char *present = bench_memory(pages);
    size_t count = 0;
    void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, att_engine_region_fd(rig->engine), 0);

    if (memory == MAP_FAILED || mincore(memory, bytes, present) != 0)
        bench_die("cannot see which pages of the region are resident");
    for (size_t i = 0; i < pages; i++)
        count += present[i] & 1;
    munmap(memory, bytes);
    free(present);
    return (double)(count * page);
}

/* Updates until the log has been around once and, where only some rows are read, the others have gone cold. */
static void use(struct rig *rig, const struct shape *shape)
{
    const uint64_t capacity = rig_stats(rig).log_capacity;
    uint64_t left = capacity / 2 + 1;

    if (shape->hot < shape->n_q && !shape->never_keep)
        left += 2 * (uint64_t)shape->n_k;
    while (left > 0) {
        const uint64_t some = left < capacity / 8 ? left : capacity / 8;
        rig_replace_some(rig, (uint32_t)some);
        rig_merge(rig);
        rig_touch_rows(rig, shape->never_keep ? 0 : shape->hot);
        left -= some;
    }
}

static double measure(const struct bench *bench, const struct shape *shape)
{
    struct att_engine_options options = rig_options(shape->n_q, shape->n_k, shape->d);
    const double d = shape->d, d_v = shape->d;
    struct att_engine_stats stats;
    struct rig rig;
    double resident, least;
    char name[64];

    options.never_keep = shape->never_keep;
    rig_create(&rig, &options, 40);
    rig_start(&rig);
    if (!shape->never_keep)
        rig_wait_hot(&rig);
    use(&rig, shape);
    stats = rig_stats(&rig);
    resident = resident_bytes(&rig) + (double)stats.token_bytes;
    least = 4.0 * (shape->n_q * d + shape->n_k * (d + d_v + 1.0)) + (double)stats.rows_hot * (8.0 * d_v + 96.0) +
            (double)stats.log_capacity * (4.0 * (d + d_v + 6.0) + 24.0);
    snprintf(name, sizeof name, "bytes-%s", shape->name);
    bench_figure(bench, name, resident, "bytes", least, resident / least);
    bench_note(bench, "%s: n_q %u, n_k %u, d = d_v = %u, %llu rows hot, log of %llu entries, %.1f MiB mapped",
               shape->name, shape->n_q, shape->n_k, shape->d, (unsigned long long)stats.rows_hot,
               (unsigned long long)stats.log_capacity, (double)(stats.region_bytes + stats.token_bytes) / 0x1p20);
    rig_release(&rig);
    return resident / least;
}

void suite_scale(const struct bench *bench)
{
    static const struct shape shapes[] = {
        {"square", 4096, 4096, 64, 4096, false},  {"tokens", 256, 262144, 64, 256, false},
        {"rows", 32768, 2048, 64, 32768, false},  {"small", 1024, 512, 32, 1024, false},
        {"few-hot", 16384, 1024, 64, 512, false}, {"cold", 16384, 1024, 64, 0, true},
    };
    double worst = 0.0;

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        worst = fmax(worst, measure(bench, &shapes[i]));
    bench_figure(bench, "bytes", worst, "ratio", NAN, worst);
}
