/* Waiting: clocks, the futex, and how long to spin before sleeping. Internal to ipc. */
#ifndef ATT_WAIT_H
#define ATT_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "attn.h"

enum {
    ATT_SPIN_MIN_NS = 1000, /* a budget never shrinks below: a few looks, so that it can grow again */
    ATT_SPIN_START_NS = 20 * 1000,
    ATT_SPIN_SERVICE_NS = 50 * 1000, /* the service's longest: it takes a processor from merging */
    /* The client's longest: above what waking the service takes (60 to 150 us on a virtual machine).
     * Else both sides could go on for ever waking each other, each just after the other gave up. */
    ATT_SPIN_CLIENT_NS = 150 * 1000,
    ATT_SPIN_WORTH_NS = 400 * 1000, /* a wait that was over so soon would have been a spin, had both sides spun */
    ATT_SPIN_LOOKS = 16,            /* looks between two looks at the clock */
    ATT_QUICK_LOOKS = 64,           /* looks before the first look at the clock: about a microsecond */
    ATT_YIELD_NS = 100 * 1000       /* ATT_WAIT_SPIN: after so long, let others run between looks */
};

uint64_t att_now_ns(void); /* monotonic */

static inline void att_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* How long to spin: grows when waits are short, shrinks when they are not. Private to one thread. */
struct att_spin {
    enum att_wait mode;
    uint64_t budget_ns;
    uint64_t most_ns;
};

void att_spin_init(struct att_spin *spin, enum att_wait mode, uint64_t most_ns);
/* How long this wait may spin; UINT64_MAX: until the deadline. */
uint64_t att_spin_budget(const struct att_spin *spin);
/* What was waited for came `waited_ns` after the wait began (UINT64_MAX: it did not come). */
void att_spin_learn(struct att_spin *spin, uint64_t waited_ns);

/* Sleeps while *word is `expected`, at most timeout_ns; returns for any reason, also none. */
void att_futex_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void att_futex_wake(const _Atomic uint32_t *word);

#endif
