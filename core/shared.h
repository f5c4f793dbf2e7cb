/* Copies to and from memory that another thread or process may be reading or writing at the same time.
 *
 * The protocols that use them (reader.c, entries.c) discard what was read when it may have been torn; what matters
 * is that each float or double is some value that was stored there. The thread sanitizer can't know that: for it the
 * copies are relaxed atomics. */
#ifndef ATT_SHARED_H
#define ATT_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef ATTND_TSAN
static inline void att_shared_store(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes / 4; i++)
        __atomic_store_n((uint32_t *)to + i, ((const uint32_t *)from)[i], __ATOMIC_RELAXED);
}
static inline void att_shared_load(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes / 4; i++)
        ((uint32_t *)to)[i] = __atomic_load_n((const uint32_t *)from + i, __ATOMIC_RELAXED);
}
#else
static inline void att_shared_store(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
static inline void att_shared_load(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
#endif

/* Whether what is computed may be computed there: not under the thread sanitizer, for the kernel stores as it does anywhere. */
static inline bool att_shared_build(void)
{
#ifdef ATTND_TSAN
    return false;
#else
    return true;
#endif
}

/* One float into a lane that a reader may be loading; plain stores on every machine we know. */
static inline void att_lane_store(float *lane, float value)
{
    __atomic_store(lane, &value, __ATOMIC_RELAXED);
}

#endif
