/* How a thread of the store sleeps, and how the others wake it.
 *
 * `word` is AWAKE, ASLEEP (wake me for anything) or PACING (only for what is urgent). The sleeper
 * alone moves it away from AWAKE; whoever wakes it moves it back, and so does the sleeper itself
 * when its time is over.
 *
 * No wake-up is lost: the sleeper stores the word, makes a full fence and looks at its work once
 * more before the futex; the other side stores the work, makes a full fence and looks at the word.
 * Of two full fences one comes first, so at least one side sees what the other has stored; and the
 * futex sleeps only while the word is unchanged. A wake-up too many is harmless: every sleeper
 * looks at its work in a loop. */
#ifndef ATT_DOORBELL_H
#define ATT_DOORBELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { PERSIST_AWAKE = 0, PERSIST_ASLEEP = 1, PERSIST_PACING = 2 };

struct persist_doorbell {
    _Atomic uint32_t word;
};

/* After storing work: wakes the sleeper if it sleeps. Any thread; a system call only when it does
 * sleep. */
void persist_ring(struct persist_doorbell *bell, bool urgent);

/* The sleeper: announce, then look for work again, then sleep (ns < 0: for ever) or cancel. */
void persist_sleep_announce(struct persist_doorbell *bell, uint32_t how);
void persist_sleep(struct persist_doorbell *bell, uint32_t how, int64_t ns);
void persist_sleep_cancel(struct persist_doorbell *bell);

#endif
