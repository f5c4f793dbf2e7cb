/* A look at LMDB's own pages. LMDB 0.9 has no page checksums and trusts what it reads: a flipped
 * bit in a page number or an offset makes it run off the page, give up the process, or miss a value
 * without a word; one in the list of free pages makes it overwrite live data later. So before LMDB
 * walks a tree of ours, this file does, bounds first, over a copy of each page; and every page must
 * be used once.
 *
 * The layout is LMDB 0.9's on 64-bit little-endian machines, which has not changed since 0.9.0 and
 * is versioned in the meta page (1). Only what our own databases use is accepted: no duplicates, no
 * sub-pages. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store_impl.h"

enum { PAGE_BRANCH = 1, PAGE_LEAF = 2, PAGE_OVERFLOW = 4, PAGE_META = 8 };
enum { NODE_BIG = 1, NODE_SUBDATABASE = 2 };
enum { DEPTH_MAX = 32, PAGE_MAX = 65536, META_MAGIC = (int)0xBEEFC0DE, META_VERSION = 1 };
enum { DB_INTEGERKEY = 8 };

struct page_head {
    uint64_t number;
    uint16_t pad;
    uint16_t flags;
    uint16_t lower; /* overflow: lower and upper are one 32-bit count of pages */
    uint16_t upper;
};
static_assert(sizeof(struct page_head) == 16, "page_head");

struct node_head {
    uint16_t low, high, flags, key_size;
};
static_assert(sizeof(struct node_head) == 8, "node_head");

struct tree {
    uint32_t pad;
    uint16_t flags;
    uint16_t depth;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries, root;
};
static_assert(sizeof(struct tree) == 48, "tree");

struct meta {
    uint32_t magic, version;
    uint64_t address, map_size;
    struct tree free, main;
    uint64_t last_page, txn;
};
static_assert(sizeof(struct meta) == 136, "meta");

struct checker {
    const struct att_store *store;
    const struct persist_env *env;
    struct att_error *error;
    int fd;
    uint32_t page_size;
    uint64_t last_page;
    unsigned char *used; /* a bit for each page: in a tree, or free */
};

/* One tree's walk. */
struct walk {
    struct checker *checker;
    const char *name;
    struct tree tree;       /* what the parent says */
    struct tree found;      /* what we count */
    unsigned char key[512]; /* the last one seen */
    size_t key_size;
    bool any;
    void (*leaf)(struct walk *walk, const unsigned char *key, size_t key_size, const unsigned char *data, size_t size,
                 unsigned flags);
    enum att_status status; /* set by leaf */
};

static enum att_status bad(struct checker *checker, const char *tree, uint64_t page, const char *what)
{
    return att_fail(checker->error, ATT_ECORRUPT,
                    "%s/%s/data.mdb: page %llu (%s) is damaged: %s; LMDB cannot read on; "
                    "restore DIR from a copy",
                    checker->store->directory, checker->env->name, (unsigned long long)page, tree, what);
}

static enum att_status read_at(struct checker *checker, const char *tree, uint64_t page, void *to, size_t bytes)
{
    ssize_t got = pread(checker->fd, to, bytes, (off_t)(page * checker->page_size));
    if (got < 0) {
        char buffer[128];
        return att_fail(checker->error, ATT_EIO, "%s/%s/data.mdb: cannot read page %llu: %s", checker->store->directory,
                        checker->env->name, (unsigned long long)page, persist_strerror(errno, buffer, sizeof buffer));
    }
    return (size_t)got == bytes ? ATT_OK : bad(checker, tree, page, "the file ends before it");
}

static enum att_status use_page(struct checker *checker, const char *tree, uint64_t page)
{
    if (page < 2 || page > checker->last_page)
        return bad(checker, tree, page, "there is no such page");
    unsigned char *byte = &checker->used[page / 8], bit = (unsigned char)(1u << (page % 8));
    if (*byte & bit)
        return bad(checker, tree, page, "it is used twice, or used and free");
    *byte |= bit;
    return ATT_OK;
}

static int compare_keys(const struct walk *walk, const unsigned char *a, size_t a_size, const unsigned char *b,
                        size_t b_size)
{
    if (walk->tree.flags & DB_INTEGERKEY) {
        uint64_t x, y;
        memcpy(&x, a, 8);
        memcpy(&y, b, 8);
        return x < y ? -1 : x > y;
    }
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order ? order : (a_size > b_size) - (a_size < b_size);
}

struct bound {
    const unsigned char *key;
    size_t size;
};

/* The node at index, with its key inside the page. */
static const unsigned char *node_at(const struct walk *walk, const unsigned char *page, size_t index,
                                    struct node_head *ret_node)
{
    struct page_head head;
    uint16_t offset;
    memcpy(&head, page, sizeof head);
    memcpy(&offset, page + sizeof head + 2 * index, sizeof offset);
    uint32_t size = walk->checker->page_size;
    if (offset < head.upper || offset % 2 || offset + sizeof *ret_node > size)
        return NULL;
    memcpy(ret_node, page + offset, sizeof *ret_node);
    if (offset + sizeof *ret_node + ret_node->key_size > size)
        return NULL;
    return page + offset;
}

static enum att_status check_overflow(struct walk *walk, const unsigned char *where, size_t size, uint64_t *ret_page)
{
    struct checker *checker = walk->checker;
    struct page_head head;
    uint64_t number;
    memcpy(&number, where, sizeof number);
    if (number < 2 || number > checker->last_page)
        return bad(checker, walk->name, number, "there is no such page");
    enum att_status status = read_at(checker, walk->name, number, &head, sizeof head);
    if (status)
        return status;
    uint64_t pages = head.lower | (uint64_t)head.upper << 16;
    uint64_t needed = (sizeof head + size + checker->page_size - 1) / checker->page_size;
    if (head.number != number || head.flags != PAGE_OVERFLOW || pages < needed ||
        pages > checker->last_page - number + 1)
        return bad(checker, walk->name, number, "it does not begin a value of the right size");
    for (uint64_t i = 0; !status && i < pages; i++)
        status = use_page(checker, walk->name, number + i);
    walk->found.overflow_pages += pages;
    *ret_page = number;
    return status;
}

static enum att_status check_leaf_node(struct walk *walk, uint64_t number, const unsigned char *at,
                                       const struct node_head *node, size_t room)
{
    struct checker *checker = walk->checker;
    size_t size = node->low | (size_t)node->high << 16;
    const unsigned char *data = at + sizeof *node + node->key_size;
    if (node->flags & ~(unsigned)(NODE_BIG | NODE_SUBDATABASE))
        return bad(checker, walk->name, number, "it holds a kind of value that we do not write");
    if ((node->flags & NODE_BIG ? 8 : size) > room)
        return bad(checker, walk->name, number, "a value runs off it");
    walk->found.entries++;
    if (!(node->flags & NODE_BIG)) {
        if (walk->leaf)
            walk->leaf(walk, at + sizeof *node, node->key_size, data, size, node->flags);
        return walk->status;
    }
    uint64_t page = 0;
    enum att_status status = check_overflow(walk, data, size, &page);
    if (status || !walk->leaf)
        return status;
    unsigned char *value = malloc(size + sizeof(struct page_head));
    if (!value)
        return att_fail(checker->error, ATT_ENOMEM, "%s: no memory to check it", checker->store->directory);
    status = read_at(checker, walk->name, page, value, size + sizeof(struct page_head));
    if (!status) {
        walk->leaf(walk, at + sizeof *node, node->key_size, value + sizeof(struct page_head), size, node->flags);
        status = walk->status;
    }
    free(value);
    return status;
}

/* Asks for the headers of a leaf's large values, so that a cold disk reads them side by side. */
static void read_ahead(const struct walk *walk, const unsigned char *page, size_t count)
{
    const struct checker *checker = walk->checker;
    for (size_t i = 0; i < count; i++) {
        struct node_head node;
        uint64_t number;
        const unsigned char *at = node_at(walk, page, i, &node), *end = page + checker->page_size;
        if (!at || !(node.flags & NODE_BIG) || (size_t)(end - at) < sizeof node + node.key_size + sizeof number)
            continue; /* found damaged later */
        memcpy(&number, at + sizeof node + node.key_size, sizeof number);
        if (number <= checker->last_page)
            posix_fadvise(checker->fd, (off_t)(number * checker->page_size), checker->page_size, POSIX_FADV_WILLNEED);
    }
}

static enum att_status check_leaf(struct walk *walk, uint64_t number, const unsigned char *page, size_t count,
                                  struct bound low, struct bound high)
{
    struct checker *checker = walk->checker;
    read_ahead(walk, page, count);
    for (size_t i = 0; i < count; i++) {
        struct node_head node;
        const unsigned char *at = node_at(walk, page, i, &node);
        if (!at)
            return bad(checker, walk->name, number, "a key runs off it");
        const unsigned char *key = at + sizeof node;
        bool integer = walk->tree.flags & DB_INTEGERKEY;
        if (node.key_size == 0 || node.key_size > sizeof walk->key || (integer && node.key_size != 8))
            return bad(checker, walk->name, number, "a key has the wrong size");
        if ((walk->any && compare_keys(walk, walk->key, walk->key_size, key, node.key_size) >= 0) ||
            (low.key && compare_keys(walk, low.key, low.size, key, node.key_size) > 0) ||
            (high.key && compare_keys(walk, high.key, high.size, key, node.key_size) <= 0))
            return bad(checker, walk->name, number, "its keys are out of order");
        memcpy(walk->key, key, node.key_size);
        walk->key_size = node.key_size;
        walk->any = true;
        size_t room = (size_t)(page + checker->page_size - key) - node.key_size;
        enum att_status status = check_leaf_node(walk, number, at, &node, room);
        if (status)
            return status;
    }
    return ATT_OK;
}

static enum att_status check_page(struct walk *walk, uint64_t number, unsigned depth, struct bound low,
                                  struct bound high);

static enum att_status check_branch(struct walk *walk, uint64_t number, const unsigned char *page, size_t count,
                                    unsigned depth, struct bound low, struct bound high)
{
    struct checker *checker = walk->checker;
    for (size_t i = 0; i < count; i++) {
        struct node_head node, next;
        const unsigned char *at = node_at(walk, page, i, &node);
        const unsigned char *after = i + 1 < count ? node_at(walk, page, i + 1, &next) : NULL;
        bool integer = walk->tree.flags & DB_INTEGERKEY;
        if (!at || (i + 1 < count && !after))
            return bad(checker, walk->name, number, "a key runs off it");
        if ((i > 0 && (integer ? node.key_size != 8 : node.key_size == 0)) || (after && integer && next.key_size != 8))
            return bad(checker, walk->name, number, "a key has the wrong size");
        struct bound from = i > 0 ? (struct bound){at + sizeof node, node.key_size} : low;
        struct bound to = after ? (struct bound){after + sizeof next, next.key_size} : high;
        uint64_t child = node.low | (uint64_t)node.high << 16 | (uint64_t)node.flags << 32;
        enum att_status status = check_page(walk, child, depth + 1, from, to);
        if (status)
            return status;
    }
    return ATT_OK;
}

static enum att_status check_page(struct walk *walk, uint64_t number, unsigned depth, struct bound low,
                                  struct bound high)
{
    struct checker *checker = walk->checker;
    if (depth > walk->tree.depth || depth > DEPTH_MAX)
        return bad(checker, walk->name, number, "it lies deeper than its tree");
    enum att_status status = use_page(checker, walk->name, number);
    if (status)
        return status;
    unsigned char *page = malloc(checker->page_size);
    if (!page)
        return att_fail(checker->error, ATT_ENOMEM, "%s: no memory to check it", checker->store->directory);
    status = read_at(checker, walk->name, number, page, checker->page_size);
    if (status)
        goto done;
    struct page_head head;
    memcpy(&head, page, sizeof head);
    unsigned expected = depth == walk->tree.depth ? PAGE_LEAF : PAGE_BRANCH;
    size_t count = (head.lower - sizeof head) / 2;
    if (head.number != number || head.flags != expected || head.lower < sizeof head || head.lower % 2 ||
        head.upper < head.lower || head.upper > checker->page_size || count < (expected == PAGE_BRANCH ? 2 : 1)) {
        status = bad(checker, walk->name, number, "its header does not fit");
        goto done;
    }
    if (expected == PAGE_LEAF) {
        walk->found.leaf_pages++;
        status = check_leaf(walk, number, page, count, low, high);
    } else {
        walk->found.branch_pages++;
        status = check_branch(walk, number, page, count, depth, low, high);
    }
done:
    free(page);
    return status;
}

static enum att_status check_tree(struct walk *walk)
{
    const struct tree *tree = &walk->tree, *found = &walk->found;
    struct bound none = {NULL, 0};
    if (tree->flags & ~(unsigned)DB_INTEGERKEY)
        return bad(walk->checker, walk->name, tree->root, "its tree has flags that we do not set");
    if (tree->root == UINT64_MAX)
        return tree->entries || tree->depth ? bad(walk->checker, walk->name, tree->root, "an empty tree counts values")
                                            : ATT_OK;
    enum att_status status = check_page(walk, tree->root, 1, none, none);
    if (!status && (found->entries != tree->entries || found->leaf_pages != tree->leaf_pages ||
                    found->branch_pages != tree->branch_pages || found->overflow_pages != tree->overflow_pages))
        status = bad(walk->checker, walk->name, tree->root, "its tree does not count what it holds");
    return status;
}

/* ---- The trees of an environment ------------------------------------------------------------ */

static void on_free_list(struct walk *walk, const unsigned char *key, size_t key_size, const unsigned char *data,
                         size_t size, unsigned flags)
{
    (void)key, (void)key_size, (void)flags;
    uint64_t count = 0;
    if (size >= 8)
        memcpy(&count, data, 8);
    if (size < 8 || count > size / 8 - 1) {
        walk->status = bad(walk->checker, walk->name, walk->tree.root, "a list of free pages has the wrong length");
        return;
    }
    for (uint64_t i = 0; !walk->status && i < count; i++) {
        uint64_t page;
        memcpy(&page, data + 8 + 8 * i, 8);
        walk->status = use_page(walk->checker, "free pages", page);
    }
}

static void on_database(struct walk *walk, const unsigned char *key, size_t key_size, const unsigned char *data,
                        size_t size, unsigned flags)
{
    static const char *const names[] = {"meta", "batch", "piece", "manifest"};
    struct walk below = {.checker = walk->checker, .name = NULL};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (key_size == strlen(names[i]) && !memcmp(key, names[i], key_size))
            below.name = names[i];
    if (!below.name || size != sizeof below.tree || flags != NODE_SUBDATABASE) {
        walk->status = bad(walk->checker, walk->name, walk->tree.root, "it names a database that is not ours");
        return;
    }
    memcpy(&below.tree, data, sizeof below.tree);
    bool integer = !strcmp(below.name, "batch") || !strcmp(below.name, "manifest");
    if (integer != ((below.tree.flags & DB_INTEGERKEY) != 0)) {
        walk->status = bad(walk->checker, below.name, walk->tree.root, "its flags are wrong");
        return;
    }
    walk->status = check_tree(&below);
}

static enum att_status meta_fail(const struct att_store *store, const struct persist_env *env, int page,
                                 const char *what, struct att_error *error)
{
    return att_fail(error, ATT_ECORRUPT, "%s/%s/data.mdb: meta page %d is damaged: %s; restore DIR from a copy",
                    store->directory, env->name, page, what);
}

/* Both meta pages. They take turns: page t % 2 is written by transaction t, so their numbers differ
 * by one. */
static enum att_status read_metas(const struct att_store *store, const struct persist_env *env, int fd,
                                  struct meta ret_metas[2], struct att_error *error)
{
    enum { TRIES = 20 }; /* a live daemon may commit between the two reads */
    uint32_t page_size = 4096;
    for (int try = 0;; try++) {
        for (int i = 0; i < 2; i++) {
            struct {
                struct page_head head;
                struct meta meta;
            } page;
            if (pread(fd, &page, sizeof page, (off_t)i * page_size) != (ssize_t)sizeof page)
                return meta_fail(store, env, i, "the file ends before it", error);
            ret_metas[i] = page.meta;
            if (page.meta.magic != (uint32_t)META_MAGIC || page.head.flags != PAGE_META ||
                page.head.number != (uint64_t)i)
                return meta_fail(store, env, i, "it does not begin like one", error);
            if (page.meta.version != META_VERSION)
                return att_fail(error, ATT_EVERSION,
                                "%s/%s/data.mdb: has LMDB's format version %u, this program reads "
                                "version %d",
                                store->directory, env->name, page.meta.version, META_VERSION);
            page_size = page.meta.free.pad;
            if (page_size < 512 || page_size > PAGE_MAX || (page_size & (page_size - 1)))
                return meta_fail(store, env, i, "its page size is impossible", error);
            if (page.meta.map_size > (uint64_t)1 << 46 || page.meta.last_page > ((uint64_t)1 << 46) / page_size ||
                page.meta.last_page < 1)
                return meta_fail(store, env, i, "its sizes are impossible", error);
        }
        uint64_t a = ret_metas[0].txn, b = ret_metas[1].txn;
        if (ret_metas[0].free.pad == ret_metas[1].free.pad &&
            ((a == 0 && b == 0) || (a % 2 == 0 && b % 2 == 1 && (a + 1 == b || b + 1 == a))))
            return ATT_OK;
        if (try == TRIES)
            return meta_fail(store, env, a < b ? 0 : 1, "the two do not follow each other", error);
        usleep(1000);
    }
}

enum att_status persist_metas_check(const struct att_store *store, const struct persist_env *env,
                                    struct att_error *error)
{
    char path[PERSIST_PATH + 32];
    struct meta metas[2];
    struct stat status_of;
    snprintf(path, sizeof path, "%s/%s/data.mdb", store->directory, env->name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ATT_OK;
    enum att_status status = ATT_OK;
    if (fstat(fd, &status_of) == 0 && status_of.st_size > 0)
        status = read_metas(store, env, fd, metas, error);
    close(fd);
    return status;
}

/* Whether the meta page is not (or no longer) what was read: the daemon has committed twice since our transaction began,
 * and writes the page of the next one over it. A copy that was made meanwhile may be half of each; so it is compared
 * before it is used, and again before what it led to is called damage. */
static bool meta_moved(const struct checker *checker, const struct meta *meta)
{
    struct meta now;
    const off_t at = (off_t)(meta->txn % 2 * meta->free.pad + sizeof(struct page_head));

    return pread(checker->fd, &now, sizeof now, at) != (ssize_t)sizeof now || memcmp(&now, meta, sizeof now) != 0;
}

enum att_status persist_pages_check(struct att_store *store, struct persist_env *env, struct att_error *error)
{
    MDB_txn *txn;
    struct meta metas[2];
    struct checker checker = {.store = store, .env = env, .error = error};
    enum att_status status = persist_env_read(store, env, &txn, error);
    if (status)
        return status;
    mdb_env_get_fd(env->env, &checker.fd);
    status = read_metas(store, env, checker.fd, metas, error);
    if (status)
        goto done;
    const struct meta *meta = &metas[mdb_txn_id(txn) % 2];
    if (meta->txn != mdb_txn_id(txn) || meta_moved(&checker, meta)) {
        status = ATT_AGAIN;
        goto done;
    }
    checker.page_size = meta->free.pad;
    checker.last_page = meta->last_page;
    checker.used = calloc(meta->last_page / 8 + 1, 1);
    if (!checker.used) {
        status = att_fail(error, ATT_ENOMEM, "%s: no memory to check it", store->directory);
        goto done;
    }
    struct walk main = {.checker = &checker, .name = "databases", .tree = meta->main, .leaf = on_database};
    struct walk free_pages = {.checker = &checker, .name = "free pages", .tree = meta->free, .leaf = on_free_list};
    free_pages.tree.flags &= 0xff; /* the upper byte holds flags of the environment */
    status = check_tree(&main);
    if (!status)
        status = check_tree(&free_pages);
    if (status == ATT_ECORRUPT && meta_moved(&checker, meta))
        status = ATT_AGAIN;
    free(checker.used);
done:
    mdb_txn_abort(txn);
    return status == ATT_AGAIN ? persist_pages_check(store, env, error) : status;
}
