/* Checksums of stored values: XXH3, 64 bits, over everything behind the prefix. */
#ifndef ATT_CHECKSUM_H
#define ATT_CHECKSUM_H

#include <string.h>
#include <xxhash.h>

#include "format.h"

/* The checksum that belongs into the prefix of the value. size >= sizeof(struct att_prefix). */
static inline uint64_t persist_checksum(const void *value, size_t size)
{
    return XXH3_64bits((const unsigned char *)value + sizeof(struct att_prefix), size - sizeof(struct att_prefix));
}

/* Fills in the prefix of a value that is otherwise complete. The value may be unaligned. */
static inline uint64_t persist_seal(void *value, size_t size, uint32_t magic)
{
    struct att_prefix prefix = {magic, ATT_FORMAT_VERSION, persist_checksum(value, size)};
    memcpy(value, &prefix, sizeof prefix);
    return prefix.checksum;
}

#endif
