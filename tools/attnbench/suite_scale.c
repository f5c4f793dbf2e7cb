/* scale: resident bytes of the published region, and of the settled tokens in the daemon's own memory (all of that is in
 * use here: capacity is n_k), over what the data needs at least,
 *
 *   4 (n_q d + n_k (d + d_v + 1)) + rows_hot (8 d_v + 96) + the log
 *
 * where the log is log_capacity entries as they are laid out: 2 x 4 (d + d_v) for a key and a value, as a row, which merges and
 * updates take, and in lanes, which queries take; four head columns, the bias, the count of visible tokens; and 24 for LSN,
 * token, sign, version and kind. The log is filled once around, so all of it is resident. `bytes` is the worst of the
 * shapes. */
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "rig.h"

struct shape {
    const char *name;
    uint32_t n_q, n_k, d;
    uint32_t hot; /* rows that stay hot; the others go cold */
    bool never_keep;
};

static uint64_t held_bytes(const struct rig *rig)
{
    const int *fds = att_engine_region_fds(rig->engine);
    uint64_t bytes = 0;

    for (int i = 0; i < ATT_REGION_FDS; i++) {
        struct stat file;
        if (fstat(fds[i], &file) != 0)
            bench_die("cannot see how much of the region is resident");
        bytes += 512 * (uint64_t)file.st_blocks;
    }
    return bytes;
}

/* Memory is given back in the background, after a merge: what is held when that is done. */
static double resident_bytes(const struct rig *rig)
{
    uint64_t before, bytes = held_bytes(rig);

    do {
        before = bytes;
        usleep(100000);
        bytes = held_bytes(rig);
    } while (bytes != before);
    return (double)bytes;
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
    const double d = shape->d, d_v = shape->d, entry = 4.0 * (2.0 * (d + d_v) + 6.0) + 24.0;
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
            (double)stats.log_capacity * entry;
    snprintf(name, sizeof name, "bytes-%s", shape->name);
    bench_figure(bench, name, resident, "bytes", least, resident / least);
    bench_note(bench,
               "%s: n_q %u, n_k %u, d = d_v = %u, %llu rows hot, log of %llu entries of %.0f bytes, %.1f MiB mapped",
               shape->name, shape->n_q, shape->n_k, shape->d, (unsigned long long)stats.rows_hot,
               (unsigned long long)stats.log_capacity, entry,
               (double)(stats.region_bytes + stats.token_bytes) / 0x1p20);
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
