#include "doorbell.h"

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void persist_ring(struct persist_doorbell *bell, bool urgent)
{
    /* Orders the caller's store of work before the load of word; partner: the fence in
     * persist_sleep_announce. */
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t word = atomic_load_explicit(&bell->word, memory_order_relaxed);
    if (word == PERSIST_AWAKE || (word == PERSIST_PACING && !urgent))
        return;
    /* One waker is enough: whoever takes the word away makes the call. */
    if (atomic_exchange_explicit(&bell->word, PERSIST_AWAKE, memory_order_relaxed) != PERSIST_AWAKE)
        syscall(SYS_futex, &bell->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void persist_sleep_announce(struct persist_doorbell *bell, uint32_t how)
{
    atomic_store_explicit(&bell->word, how, memory_order_relaxed);
    /* Orders the store of word before the loads of work; partner: the fence in persist_ring. */
    atomic_thread_fence(memory_order_seq_cst);
}

void persist_sleep(struct persist_doorbell *bell, uint32_t how, int64_t ns)
{
    struct timespec time = {ns / 1000000000, ns % 1000000000};
    syscall(SYS_futex, &bell->word, FUTEX_WAIT_PRIVATE, how, ns < 0 ? NULL : &time, NULL, 0);
    persist_sleep_cancel(bell);
}

void persist_sleep_cancel(struct persist_doorbell *bell)
{
    atomic_store_explicit(&bell->word, PERSIST_AWAKE, memory_order_relaxed);
}
