/* Checksums of stored values: XXH3, 64 bits, over everything behind the prefix. */
#ifndef ATT_CHECKSUM_H
#define ATT_CHECKSUM_H

#include <string.h>
#include <xxhash.h>

#include "format.h"

/* XXH3_64bits, the same value whatever the processor. */
uint64_t persist_hash(const void *data, size_t size);
uint64_t persist_hash_avx2(const void *data, size_t size); /* where it is built, and the processor has AVX2 */

/* The checksum that belongs into the prefix of the value. size >= sizeof(struct att_prefix). */
static inline uint64_t persist_checksum(const void *value, size_t size)
{
    return persist_hash((const unsigned char *)value + sizeof(struct att_prefix), size - sizeof(struct att_prefix));
}

/* Fills in the prefix of a value that is otherwise complete. The value may be unaligned. */
static inline uint64_t persist_seal(void *value, size_t size, uint32_t magic)
{
    struct att_prefix prefix = {magic, ATT_FORMAT_VERSION, persist_checksum(value, size)};
    memcpy(value, &prefix, sizeof prefix);
    return prefix.checksum;
}

#endif
