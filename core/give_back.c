/* Giving memory back: the bases' memory is replaced when too much of it is of no use. All on the merge thread.
 *
 * Rows that go cold leave pages behind that no tile in use needs. They can't be given back one by one: the seal that keeps
 * everybody else from writing (FUTURE_WRITE) forbids punching holes and removing pages to the daemon too, and no seal is
 * ever lifted. So between two merges the tiles in use are copied into a fresh memfd, each to its place; the rest of it is
 * a hole. The old memory ends with the last mapping of it.
 *
 * Why it is safe: only this thread writes bases, and meanwhile it writes none. So old and new memory say the same of each
 * tile in use, and of one that is not in use both say that it has no rows, for zeros are no rows. A reader in this process
 * may meet the one or the other page by page; one that is still in a tile that became a spare finds its word flipped. A
 * reader in another process may go on with the old memory. Nobody writes that any more, so it holds whole tiles; each says
 * of which rows, of which versions of Q, and of which position its bases are, and the reader checks all three, as ever. After
 * the next merge tail is past them all, and the old memory answers nothing.
 *
 * Then the reader looks at the epochs. The new memory has its own in it, one more than the old one's. It is put behind the
 * descriptor that readers get before the region's header tells of it: who sees that its memory is old gets a newer one
 * when it asks.
 *
 * What it costs: a copy of each tile in use, each time a sixteenth of them has been given up. Each row in those had cost a
 * refresh, which is far more than sixteen copies of a base: so rows that come and go pay for it themselves. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine_impl.h"

enum { PAGE = 4096, SHARE = 16 };

static uint64_t place_of(const struct att_region *region, uint32_t physical)
{
    return sizeof(struct att_bases_header) + physical * (uint64_t)region->tile_bytes;
}

/* Marks the physical tiles in use in merger.wanted. */
static void mark_wanted(struct att_engine *engine)
{
    struct att_merger *merger = &engine->merger;
    const struct att_region *region = &engine->region;

    memset(merger->wanted, 0, region->physical_tiles);
    for (uint32_t tile = 0; tile < merger->tiles_used; tile++)
        if (merger->occupied[tile] != 0)
            /* Relaxed: this thread, or one it has joined since, made the last flip. */
            merger->wanted[ATT_WORD_PHYSICAL(atomic_load_explicit(&region->words[tile], memory_order_relaxed))] = 1;
}

/* What the marked tiles, the header and, from the next merge on, the spares take at most. */
static uint64_t bytes_wanted(const struct att_engine *engine)
{
    const struct att_region *region = &engine->region;
    uint64_t pages = 1, next = 1;

    for (uint32_t physical = 0; physical < region->physical_tiles; physical++) {
        const uint64_t place = place_of(region, physical), end = (place + region->tile_bytes - 1) / PAGE + 1;
        if (!engine->merger.wanted[physical])
            continue;
        pages += end - (place / PAGE > next ? place / PAGE : next);
        next = end;
    }
    return pages * PAGE + engine->options.threads * (region->tile_bytes + 2 * PAGE);
}

static uint64_t bytes_held(int fd)
{
    struct stat file;

    return fstat(fd, &file) == 0 ? 512 * (uint64_t)file.st_blocks : 0;
}

static bool write_all(int fd, const void *data, size_t bytes, uint64_t at)
{
    return pwrite(fd, data, bytes, (off_t)at) == (ssize_t)bytes;
}

/* A fresh memory with the marked tiles; -1 when there is none to be had. */
static int copy_wanted(const struct att_engine *engine, uint64_t epoch)
{
    const struct att_region *region = &engine->region;
    const struct att_bases_header header = {.epoch = epoch};
    const int fd = att_memory_create("attnd-bases", region->bytes - region->bases_offset);

    if (fd < 0 || !write_all(fd, &header, sizeof header, 0))
        goto failed;
    for (uint32_t physical = 0; physical < region->physical_tiles; physical++)
        if (engine->merger.wanted[physical] &&
            !write_all(fd, att_region_tile(region, physical), region->tile_bytes, place_of(region, physical)))
            goto failed;
    return fd;
failed:
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Linux finds out whether it can before it takes the old mapping away, and no access falls between the two. The thread
 * sanitizer takes a mapping for a write of all that is mapped, which would race with the readers: it is not told. */
static bool map_over(const struct att_region *region, int fd)
{
    const size_t bytes = region->bytes - region->bases_offset;
    const int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;

#ifdef ATTND_TSAN
    return syscall(SYS_mmap, region->bases, bytes, protection, flags, fd, 0) != -1;
#else
    return mmap(region->bases, bytes, protection, flags, fd, 0) != MAP_FAILED;
#endif
}

static bool replace(struct att_engine *engine)
{
    const struct att_region *region = &engine->region;
    const uint64_t epoch = 1 + atomic_load_explicit(&region->header->epoch, memory_order_relaxed);
    const int fd = copy_wanted(engine, epoch);

    if (fd < 0)
        return false;
    if (!map_over(region, fd)) {
        close(fd);
        return false;
    }
    /* If this fails readers keep what is old, and see that it is. */
    if (att_memory_seal(fd))
        dup3(fd, engine->region_fds[1], O_CLOEXEC);
    close(fd);
    /* Release: the descriptor. Partner: the acquire in att_region_stale. */
    atomic_store_explicit(&region->header->epoch, epoch, memory_order_release);
    return true;
}

/* Between two merges: gives memory back if there is enough of it. False: there was nothing to do. */
bool att_give_back(struct att_engine *engine)
{
    struct att_merger *merger = &engine->merger;
    const uint64_t held = bytes_held(engine->region_fds[1]);
    uint64_t wanted;

    if (merger->keeps_memory || held <= merger->tiles_used * (uint64_t)engine->region.tile_bytes)
        return false;
    mark_wanted(engine);
    wanted = bytes_wanted(engine);
    if (held <= wanted + wanted / SHARE || !replace(engine))
        return false;
    /* A kernel that gives more than it is asked for, large pages, would be asked again and again. */
    merger->keeps_memory = bytes_held(engine->region_fds[1]) > wanted;
    return true;
}
