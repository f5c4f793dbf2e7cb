#include "checksum.h"

uint64_t persist_hash(const void *data, size_t size)
{
#ifdef PERSIST_HASH_AVX2
    if (__builtin_cpu_supports("avx2"))
        return persist_hash_avx2(data, size);
#endif
    return XXH3_64bits(data, size);
}
