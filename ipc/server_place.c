/* On which processor the service runs.
 *
 * A scheduler that wakes the service on a client's own processor while another is idle (Linux does as the guest of a
 * hypervisor: an idle processor that has been handed back counts as taken) leaves both there. They wait for each other in
 * turn, 15 to 30 us a round trip, and neither ever waits for long enough to be taken elsewhere. So a doorbell says on which
 * processor its client runs. When TOGETHER_MOST in a row come from the service's own, each TOGETHER_NS after the last at
 * most (a client that asks now and then would gain nothing), and if some processor is idle, the service forbids itself this
 * one, for AWAY_NS: without that time the next wake would bring it back. Then it may use again what it might before,
 * unless the user has said something else meanwhile. It never uses what it may not, and on one processor it stays. A client
 * that lies about where it runs can make the service move once in MOVE_NS, no more. */
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "server_internal.h"

/* Whether fewer threads want a processor than there are: all but two, this one and the client, have one to themselves. */
static bool one_is_idle(void)
{
    FILE *file = fopen("/proc/loadavg", "re");
    long running = 0;
    if (!file)
        return false;
    if (fscanf(file, "%*s %*s %*s %ld", &running) != 1)
        running = 0;
    fclose(file);
    return running > 0 && running <= sysconf(_SC_NPROCESSORS_ONLN);
}

bool att_place_together(struct att_place *place, unsigned char doorbell, int processor, uint64_t now)
{
    if (doorbell != (unsigned char)processor) {
        place->together = 0;
        return false;
    }
    place->together = now - place->together_ns <= TOGETHER_NS ? place->together + 1 : 1;
    place->together_ns = now;
    if (place->together < TOGETHER_MOST || now < place->not_before)
        return false;
    place->not_before = now + MOVE_NS;
    return true;
}

void att_place_return(struct att_place *place, uint64_t now)
{
    cpu_set_t present;
    if (place->away_until == 0 || now < place->away_until)
        return;
    place->away_until = 0;
    if (sched_getaffinity(0, sizeof present, &present) == 0 && CPU_EQUAL(&present, &place->others))
        sched_setaffinity(0, sizeof place->allowed, &place->allowed);
}

void att_place_leave(struct att_place *place, int processor, uint64_t now)
{
    att_place_return(place, place->away_until); /* it may be away already, and the client have come after it */
    if (sched_getaffinity(0, sizeof place->allowed, &place->allowed) != 0)
        return;
    place->others = place->allowed;
    CPU_CLR((size_t)processor, &place->others);
    if (CPU_COUNT(&place->others) > 0 && sched_setaffinity(0, sizeof place->others, &place->others) == 0)
        place->away_until = now + AWAY_NS;
}

void att_place_doorbell(struct att_place *place, unsigned char doorbell, uint64_t now)
{
    const int processor = sched_getcpu();
    if (processor >= 0 && att_place_together(place, doorbell, processor, now) && one_is_idle())
        att_place_leave(place, processor, now);
}
