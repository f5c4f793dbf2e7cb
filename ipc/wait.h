/* Waiting: clocks, the futex, and how long to spin before sleeping. Internal to ipc. */
#ifndef ATT_WAIT_H
#define ATT_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "attn.h"

enum {
    /* A budget never shrinks below: above what a peer that is awake takes to answer, so that it can grow again. */
    ATT_SPIN_MIN_NS = 4 * 1000,
    ATT_SPIN_START_NS = 20 * 1000,
    ATT_SPIN_SERVICE_NS = 50 * 1000, /* the service's longest: it takes a processor from merging */
    /* The client's longest: above what waking the service takes (60 to 150 us on a virtual machine).
     * Else both sides could go on for ever waking each other, each just after the other gave up. */
    ATT_SPIN_CLIENT_NS = 150 * 1000,
    ATT_SPIN_CAUGHT_NS = 30 * 1000, /* only a peer that runs beside us answers so soon */
    ATT_SPIN_TRIAL = 32,            /* after so many waits that spinning did not end, one spins as long as it may */
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

/* How long to spin. A peer that runs beside us answers within microseconds: then spinning is worth it, and the budget
 * grows. One that does not (it sleeps, has long work, or waits for the very processor that we spin on) is better waited for
 * asleep: the budget shrinks, down to a few microseconds. On a busy machine that is what blocking costs, 15 to 35 us a
 * round trip; with budgets that only looked at how long a wait took, both sides were seen to spin in each other's way,
 * at 70 to 170 us. Now and then a trial spins as long as it may: awake when the answer comes, and thus with the next
 * request while the peer still looks, so that two that block on a machine that has become quiet find back to spinning.
 * Private to one thread. */
struct att_spin {
    enum att_wait mode;
    uint64_t budget_ns;
    uint64_t most_ns;
    uint32_t misses; /* waits that spinning did not end, since the last trial or success */
};

void att_spin_init(struct att_spin *spin, enum att_wait mode, uint64_t most_ns);
/* How long this wait may spin; UINT64_MAX: until the deadline. */
uint64_t att_spin_budget(const struct att_spin *spin);
/* It came at the first looks. */
static inline void att_spin_quick(struct att_spin *spin)
{
    spin->misses = 0;
    if (spin->budget_ns < spin->most_ns)
        spin->budget_ns = 2 * spin->budget_ns < spin->most_ns ? 2 * spin->budget_ns : spin->most_ns;
}
/* The wait is over: it took so long, and `caught`: it ended while spinning. */
void att_spin_learn(struct att_spin *spin, bool caught, uint64_t waited_ns);

/* Sleeps while *word is `expected`, at most timeout_ns; returns for any reason, also none. */
void att_futex_wait(const _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void att_futex_wake(const _Atomic uint32_t *word);

#endif
