#include "wait.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint64_t att_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void att_spin_init(struct att_spin *spin, enum att_wait mode, uint64_t most_ns)
{
    spin->mode = mode;
    spin->most_ns = most_ns;
    spin->budget_ns = ATT_SPIN_START_NS;
}

uint64_t att_spin_budget(const struct att_spin *spin)
{
    if (spin->mode == ATT_WAIT_SPIN)
        return UINT64_MAX;
    if (spin->mode == ATT_WAIT_BLOCK)
        return 0;
    return spin->misses >= ATT_SPIN_TRIAL ? spin->most_ns : spin->budget_ns;
}

void att_spin_learn(struct att_spin *spin, bool caught, uint64_t waited_ns)
{
    const bool trial = spin->misses >= ATT_SPIN_TRIAL;
    if (caught && waited_ns <= ATT_SPIN_CAUGHT_NS) {
        att_spin_quick(spin);
    } else {
        spin->misses = trial ? 0 : spin->misses + 1;
        spin->budget_ns /= 2;
        if (spin->budget_ns < ATT_SPIN_MIN_NS)
            spin->budget_ns = ATT_SPIN_MIN_NS;
    }
}

/* The word is shared between processes, so no FUTEX_PRIVATE_FLAG. */
void att_futex_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec timeout = {
        .tv_sec = (time_t)(timeout_ns / UINT64_C(1000000000)),
        .tv_nsec = (long)(timeout_ns % UINT64_C(1000000000)),
    };
    syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0);
}

void att_futex_wake(const _Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}
