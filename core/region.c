#include "region.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

const float att_no_key[ATT_MAX_COLUMNS];

double att_q_norm(double scale, uint32_t d, const float *q)
{
    double square = 0.0;

    for (uint32_t p = 0; p < d; p++)
        square += (double)q[p] * (double)q[p];
    return fabs(scale) * sqrt(square) * (1.0 + 0x1p-40);
}

static uint64_t place(uint64_t *end, uint64_t bytes)
{
    uint64_t at = *end;
    *end = (at + bytes + 4095) / 4096 * 4096;
    return at;
}

static uint64_t row_floats(const struct att_region_header *h)
{
    return ((uint64_t)h->d + h->d_v + 15) / 16 * 16;
}

/* Where everything lies. The order is that of the reader's needs; each part starts on a page of its own, and the bases, which
 * are a mapping of their own, where pages of any machine's size do. */
static void lay_out(struct att_region_header *h)
{
    uint64_t end = 0, columns = ATT_HEAD_COLUMNS + (uint64_t)h->d_v;

    place(&end, sizeof *h);
    h->log_keys = place(&end, 4ull * h->log_capacity * h->d);
    h->log_heads = place(&end, 4ull * h->log_capacity * ATT_HEAD_KEPT);
    h->log_values = place(&end, 4ull * h->log_capacity * h->d_v);
    h->log_bias = place(&end, 4ull * h->log_capacity);
    h->log_visible = place(&end, 4ull * h->log_capacity);
    h->log_entries = place(&end, sizeof(struct att_entry) * (uint64_t)h->log_capacity);
    h->log_rows = place(&end, 4ull * h->log_capacity * row_floats(h));
    h->q = place(&end, 4ull * h->n_q * h->d);
    h->row_version = place(&end, 4ull * h->n_q);
    h->slots = place(&end, 4ull * h->n_q);
    h->words = place(&end, 8ull * h->tiles);
    h->tile_bytes = (sizeof(struct att_tile) + 8 * ATT_TILE_ROWS * columns + 63) / 64 * 64;
    end = (end + 65535) / 65536 * 65536;
    h->bases = place(&end, sizeof(struct att_bases_header) + h->tile_bytes * h->physical_tiles);
    h->bytes = end;
}

static void *part(void *memory, uint64_t offset)
{
    return (uint8_t *)memory + offset;
}

static void point(struct att_region *region, void *memory, const struct att_region_header *h)
{
    *region = (struct att_region){
        .header = memory,
        .n_q = h->n_q,
        .d = h->d,
        .d_v = h->d_v,
        .columns = ATT_HEAD_COLUMNS + h->d_v,
        .capacity = h->capacity,
        .log_capacity = h->log_capacity,
        .log_tiles = h->log_capacity / ATT_TILE_LANES,
        .log_inverse = UINT64_MAX / (h->log_capacity / ATT_TILE_LANES),
        .tiles = h->tiles,
        .physical_tiles = h->physical_tiles,
        .precision = (enum att_precision)h->precision,
        .causal = h->causal != 0,
        .scale = h->scale,
        .numerics = att_numerics((enum att_precision)h->precision, h->d, h->capacity, h->error_budget),
        .bytes = h->bytes,
        .tile_bytes = h->tile_bytes,
        .bases_offset = h->bases,
        .row_floats = row_floats(h),
        .kernel = att_kernel_choose(),
        .log_keys = part(memory, h->log_keys),
        .log_heads = part(memory, h->log_heads),
        .log_values = part(memory, h->log_values),
        .log_bias = part(memory, h->log_bias),
        .log_visible = part(memory, h->log_visible),
        .log_entries = part(memory, h->log_entries),
        .log_rows = part(memory, h->log_rows),
        .q = part(memory, h->q),
        .row_version = part(memory, h->row_version),
        .slots = part(memory, h->slots),
        .words = part(memory, h->words),
        .bases = part(memory, h->bases),
        .physical = part(memory, h->bases + sizeof(struct att_bases_header)),
    };
}

/* The token index, the merge thread's tables and last_read, see engine.c: for each token, and for each row of Q. */
enum { INDEX_BYTES_TOKEN = 30, INDEX_BYTES_ROW = 43 };

/* What a machine could never hold is refused at once, with the numbers; what it might not is found out by touching: so what
 * a snapshot keeps of tokens that change meanwhile, up to another copy of them and mostly little, is not counted. */
static enum att_status check_memory(const struct att_region_header *h, uint32_t heads, struct att_error *error)
{
    const uint64_t token = 4ull * (h->d + h->d_v + 1) + 1 + INDEX_BYTES_TOKEN;
    /* as a merge packs it: see stretch.c */
    const uint64_t packed = 8 * (h->d + (h->d_v + ATT_PANEL - 1ull) / ATT_PANEL * ATT_PANEL) + 4 * ATT_HEAD_KEPT + 16;
    const uint64_t head =
        h->bytes + h->log_capacity * packed + h->capacity * token + (uint64_t)h->n_q * INDEX_BYTES_ROW;
    const uint64_t bytes = head * (heads > 1 ? heads : 1);
    struct sysinfo machine;

    if (sysinfo(&machine) != 0 || bytes / machine.mem_unit <= machine.totalram)
        return ATT_OK;
    return att_fail(error, ATT_ENOMEM,
                    "the state needs %.1f GiB of memory, and more while a snapshot is taken; this machine has %.1f: "
                    "use a smaller --capacity or --log-capacity",
                    (double)bytes / 0x1p30, (double)machine.totalram * machine.mem_unit / 0x1p30);
}

int att_memory_create(const char *name, size_t bytes)
{
    const int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, (off_t)bytes) == 0)
        return fd;
    close(fd);
    return -1;
}

/* FUTURE_WRITE: by whatever path the memory is reopened. It also forbids to give pages back, even to who can write them. */
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE };

bool att_memory_seal(int fd)
{
    return fcntl(fd, F_ADD_SEALS, SEALS) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) == 0;
}

/* Maps both parts, one behind the other; MAP_FAILED with errno. */
static void *map_parts(const int fds[ATT_REGION_FDS], uint64_t bases, uint64_t bytes, int protection)
{
    uint8_t *memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;

    if (memory == MAP_FAILED)
        return MAP_FAILED;
    if (mmap(memory, bases, protection, flags, fds[0], 0) != MAP_FAILED &&
        mmap(memory + bases, bytes - bases, protection, flags, fds[1], 0) != MAP_FAILED)
        return memory;
    munmap(memory, bytes);
    return MAP_FAILED;
}

static enum att_status map_memory(const struct att_region_header *h, void **ret_memory, int ret_fds[ATT_REGION_FDS],
                                  struct att_error *error)
{
    void *memory = MAP_FAILED;

    ret_fds[0] = att_memory_create("attnd-region", h->bases);
    ret_fds[1] = att_memory_create("attnd-bases", h->bytes - h->bases);
    if (ret_fds[0] >= 0 && ret_fds[1] >= 0)
        memory = map_parts(ret_fds, h->bases, h->bytes, PROT_READ | PROT_WRITE);
    if (memory != MAP_FAILED && att_memory_seal(ret_fds[0]) && att_memory_seal(ret_fds[1])) {
        *ret_memory = memory;
        return ATT_OK;
    }
    att_fail(error, ATT_ENOMEM, "cannot get %.1f MiB of shared memory: %s%s", (double)h->bytes / 0x1p20,
             strerror(errno),
             errno == EMFILE ? ": each head takes 2, each client more: raise ulimit -n (LimitNOFILE of a unit)" : "");
    if (memory != MAP_FAILED)
        munmap(memory, h->bytes);
    return ATT_ENOMEM;
}

/* K, V, bias and live, in one mapping with large pages where the system gives them. */
static enum att_status map_tokens(struct att_region *region, struct att_error *error)
{
    const size_t keys = sizeof(float) * region->capacity * region->d;
    const size_t values = sizeof(float) * region->capacity * region->d_v, biases = sizeof(float) * region->capacity;
    void *memory;

    region->token_bytes = keys + values + biases + region->capacity + 64; /* values are read in whole vectors */
    memory =
        mmap(NULL, region->token_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return att_fail(error, ATT_ENOMEM, "cannot get %.1f MiB of memory for %u tokens: %s",
                        (double)region->token_bytes / 0x1p20, region->capacity, strerror(errno));
    (void)madvise(memory, region->token_bytes, MADV_HUGEPAGE); /* a wish */
    region->k = memory;
    region->v = part(memory, keys);
    region->bias = part(memory, keys + values);
    region->live = part(memory, keys + values + biases);
    return ATT_OK;
}

void att_region_release(struct att_region *region)
{
    if (region->k)
        munmap(region->k, region->token_bytes);
    if (region->header)
        munmap(region->header, region->bytes);
}

enum att_status att_region_create(const struct att_engine_options *options, struct att_region *ret_region,
                                  int ret_fds[ATT_REGION_FDS], struct att_error *error)
{
    struct att_region_header h = {
        .magic = ATT_REGION_MAGIC,
        .version = ATT_REGION_VERSION,
        .precision = options->precision,
        .causal = options->causal,
        .n_q = options->n_q,
        .d = options->d,
        .d_v = options->d_v,
        .capacity = options->capacity,
        .log_capacity = options->log_capacity,
        .tiles = (options->n_q + ATT_TILE_ROWS - 1) / ATT_TILE_ROWS,
        .scale = options->scale,
        .error_budget = options->error_budget,
    };
    enum att_status status;
    void *memory = NULL;

    h.physical_tiles = h.tiles + options->threads;
    lay_out(&h);
    status = check_memory(&h, options->heads, error);
    if (status == ATT_OK)
        status = map_memory(&h, &memory, ret_fds, error);
    if (status != ATT_OK)
        return status;
    memcpy(memory, &h, offsetof(struct att_region_header, count));
    point(ret_region, memory, &h);
    status = map_tokens(ret_region, error);
    if (status != ATT_OK)
        return status;
    /* The log is written all the time: no update shall be the first to touch a page of it. */
    memset(part(memory, h.log_keys), 0, h.q - h.log_keys);
    for (uint32_t row = 0; row < h.n_q; row++)
        atomic_store_explicit(&ret_region->slots[row], ATT_NO_SLOT, memory_order_relaxed);
    for (uint32_t tile = 0; tile < h.tiles; tile++)
        atomic_store_explicit(&ret_region->words[tile], ATT_WORD(1, tile), memory_order_relaxed);
    return ATT_OK;
}

enum att_status att_region_attach(void *memory, size_t bytes, struct att_region *ret_region, struct att_error *error)
{
    struct att_region_header h, expected;

    if (bytes < sizeof h)
        return att_fail(error, ATT_EPROTOCOL, "the published region is too small (%zu bytes)", bytes);
    memcpy(&h, memory, sizeof h);
    if (h.magic != ATT_REGION_MAGIC || h.version != ATT_REGION_VERSION)
        return att_fail(error, ATT_EVERSION,
                        "the published region has layout %u, this program reads %u: use programs of the same release",
                        h.version, ATT_REGION_VERSION);
    if (h.n_q == 0 || h.d == 0 || h.d > ATT_MAX_COLUMNS || h.d_v == 0 || h.d_v > ATT_MAX_COLUMNS ||
        h.log_capacity == 0 || h.log_capacity % ATT_TILE_LANES != 0 || h.precision > ATT_DOUBLE)
        return att_fail(error, ATT_EPROTOCOL, "the published region's geometry makes no sense");
    expected = h;
    lay_out(&expected);
    if (memcmp(&expected, &h, offsetof(struct att_region_header, count)) != 0 || h.bytes > bytes)
        return att_fail(error, ATT_EPROTOCOL, "the published region's layout is not the one of its geometry");
    point(ret_region, memory, &h);
    return ATT_OK;
}

enum att_status att_region_map(const int fds[ATT_REGION_FDS], struct att_region *ret_region, struct att_error *error)
{
    struct stat files[ATT_REGION_FDS];
    enum att_status status;
    void *memory;
    size_t bytes;

    for (int i = 0; i < ATT_REGION_FDS; i++) {
        const int seals = fcntl(fds[i], F_GET_SEALS);
        if (fstat(fds[i], &files[i]) != 0 || files[i].st_size <= 0 || files[i].st_size % 4096 != 0 || seals < 0 ||
            (seals & SEALS) != SEALS)
            return att_fail(error, ATT_EPROTOCOL, "the daemon's published region is not sealed");
    }
    bytes = (size_t)files[0].st_size + (size_t)files[1].st_size;
    memory = map_parts(fds, (uint64_t)files[0].st_size, bytes, PROT_READ);
    if (memory == MAP_FAILED)
        return att_fail(error, ATT_ENOMEM, "cannot map the daemon's published region of %zu bytes: %s", bytes,
                        strerror(errno));
    status = att_region_attach(memory, bytes, ret_region, error);
    if (status == ATT_OK && (ret_region->bytes != bytes || ret_region->bases_offset != (size_t)files[0].st_size))
        status = att_fail(error, ATT_EPROTOCOL, "the daemon's published region has another size than it tells");
    if (status != ATT_OK)
        munmap(memory, bytes);
    return status;
}
