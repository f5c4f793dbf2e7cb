/* Clients that break the protocol without pause, for the figure of what that costs others. */
#ifndef ATT_BENCH_HOSTILE_H
#define ATT_BENCH_HOSTILE_H

#include "served.h"

/* Work of a child (served_child): connects, forges, is thrown out, and so on; connections without a hello beside it. */
void hostile_forge(const struct served *served, void *context);

/* Work of a child: asks as much as the rings hold, reads nothing, and begins anew when it is thrown out. */
void hostile_stall(const struct served *served, void *context);

#endif
