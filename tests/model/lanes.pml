/* The entry log's two forms: rows, and lanes once a tile is full. core/entries.c, core/reader.c.
 *
 * A ring of TILES log tiles of LANES entries. The service writes an entry as a row; before it publishes the last row of a
 * tile it turns the tile's rows into lanes. A reader takes the tiles that are full at its `count` from lanes, the rest from
 * rows. Merges cut anywhere. Entry p adds 2^p, so a sum that takes a stale or a later entry is the sum of no state.
 *
 * The base is read whole, and the fences are taken for granted: tiles.pml looks at both. Its tile may be left behind by
 * merges (`position` stays), so that `tail` alone protects the log. */

#define LANES 2
#define TILES 2
#define CAP (LANES * TILES)
#define N 7 /* entries in all */
#define VALUE(position) ((1 << (position)) - 1)

byte count;                       /* owner: service */
byte rows[CAP], lanes[CAP];       /* of entry p: 2^p */
byte position, tail;              /* owner: merge */

inline turn_tile()
{
    lanes[(written / LANES * LANES) % CAP] = rows[(written / LANES * LANES) % CAP];
    lanes[(written / LANES * LANES + 1) % CAP] = rows[(written / LANES * LANES + 1) % CAP]
}

active proctype service()
{
    byte index_tail, written;

    do
    :: written == N -> break
    :: written < N && written + 1 - index_tail > CAP && tail != index_tail -> index_tail = tail
    :: written < N && written + 1 - index_tail <= CAP ->
#ifdef COUNT_EARLY
        count = written + 1;
#endif
        rows[written % CAP] = 1 << written;
#ifndef TURN_LATE
        if
        :: written % LANES == LANES - 1 -> turn_tile()
        :: else
        fi;
#endif
        count = written + 1; /* release */
#ifdef TURN_LATE
        if
        :: written % LANES == LANES - 1 -> turn_tile()
        :: else
        fi;
#endif
        written++
    od
}

active proctype merge()
{
    byte cut;

    do
    :: tail == N -> break
    :: tail < count ->
        cut = tail + 1;
        do
        :: cut < count -> cut++
        :: break
        od;
        if
        :: position = cut
        :: true /* left behind */
        fi;
        tail = cut /* release */
    od
}

active proctype reader()
{
    byte base, c, at, sum, first;
    bool is_part;

    base = position;
    c = count;
    if
    :: c < base || c - base > CAP -> goto again
    :: else
    fi;
    d_step { sum = VALUE(base); at = base }
    do
    :: at < c ->
        d_step { /* take_chunk */
            first = at / LANES * LANES;
#ifdef LANES_FOR_PART
            is_part = false
#else
            is_part = c - first < LANES
#endif
        }
        d_step {
            sum = sum + (is_part -> rows[at % CAP] : lanes[at % CAP]);
            at++
        }
    :: else -> break
    od;
#ifndef NO_TAIL_CHECK
    if
    :: tail > base -> goto again
    :: else
    fi;
#endif
    assert(sum == VALUE(c));
again:
    skip
}
