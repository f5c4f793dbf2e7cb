/* Bases that move between tiles, and slots that are given to another row. core/tiles.c, core/reader.c, core/merge.c.
 *
 * Two rows of Q, two logical tiles of one slot each, three physical tiles. A row goes cold in a merge, and its slot may be
 * given to the other; a row alone in the last tile moves to the first (att_tiles_compact); a cold row gets the lowest free
 * slot (att_tiles_publish). Entry p adds 2^p to every base, times the row's weight, so an accepted sum tells the row and the
 * state. The log is never reused here, and flips are seen at once: tiles.pml looks at the log and at the fences.
 *
 * Weak memory: a store into `slots` is seen by the reader at the latest with the next flip (slots_seen).
 *
 * Two properties: what is accepted is the row's own answer; and a row that is hot all the time is never taken for a cold
 * one, whatever moves. */

#define N 2      /* entries */
#define ROWS 2
#define NO_ROW 2
#define NO_SLOT 2
#define PUBLISHES 2

#define WEIGHT(row) ((row) -> 16 : 1)
#define VALUE(position) ((1 << (position)) - 1)
#define WORD(word, physical) (((word) / 4 + 1) * 4 + (physical))
#define PHYSICAL(word) ((word) % 4)

typedef physical_tile {
    byte position;
    byte row;
    short sum
};

byte count;                    /* owner: service */
/* Owner: merge. */
byte words[2];
physical_tile tile[3];
byte spare = 2;
byte settled;
byte slots[ROWS], slots_seen[ROWS];
/* For the properties. */
mtype = { HOT, COLD, PUBLISHED /* hot, but the reader need not see it yet */ };
mtype state[ROWS] = HOT;
byte asked;
bool was_cold;                 /* the row asked for, at any moment of the attempt */

active proctype service()
{
    do
    :: count < N -> count++
    :: else -> break
    od
}

/* att_flip of tile t to `work`. */
inline flip(t)
{
    tile[spare].position = work.position;
    d_step { tile[spare].row = work.row; tile[spare].sum = work.sum }
    d_step {
        flipped = words[t];
        words[t] = WORD(flipped, spare);
        spare = PHYSICAL(flipped);
        flipped = 0;
        slots_seen[0] = slots[0];
        slots_seen[1] = slots[1];
        if
        :: state[0] == PUBLISHED -> state[0] = HOT
        :: else
        fi;
        if
        :: state[1] == PUBLISHED -> state[1] = HOT
        :: else
        fi;
        work.position = 0; work.row = 0; work.sum = 0
    }
}

/* att_tiles_compact: the row of tile 1 moves to tile 0. All bases stand at `settled`. */
inline move()
{
    if
    :: row_in[0] == NO_ROW && row_in[1] != NO_ROW ->
        row = row_in[1];
#ifdef OLD_TILE_FIRST
        d_step { work.position = settled; work.row = NO_ROW; work.sum = 0 }
        flip(1);
#endif
#ifdef SLOT_EARLY
        slots[row] = 0;
#endif
        d_step { work.position = settled; work.row = row; work.sum = VALUE(settled) * WEIGHT(row) }
        flip(0);
        d_step { slots[row] = 0; row_in[0] = row; row_in[1] = NO_ROW; row = 0 } /* release */
#ifndef OLD_TILE_FIRST
        d_step { work.position = settled; work.row = NO_ROW; work.sum = 0 }
        flip(1)
#endif
    :: else
    fi
}

/* Tile t of a merge up to `cut`; `drop` is the row that goes cold, if any. A tile without rows is left behind. */
inline merge_tile(t)
{
    if
    :: row_in[t] == NO_ROW
    :: else ->
        d_step {
            work.position = cut;
            work.row = tile[PHYSICAL(words[t])].row;
            work.sum = tile[PHYSICAL(words[t])].sum + (VALUE(cut) - VALUE(settled)) * WEIGHT(work.row);
            if
            :: work.row == drop ->
                state[drop] = COLD;
                was_cold = was_cold || asked == drop;
                work.row = NO_ROW
            :: else
            fi
        }
        flip(t)
    fi
}

active proctype merge()
{
    physical_tile work;
    byte row_in[2]; /* merger.occupied */
    byte cut, row, flipped, at, drop, publishes = PUBLISHES;

    d_step { /* row 0 is in tile 0, row 1 in tile 1 */
        row_in[1] = 1;
        words[1] = 1;
        slots[1] = 1;
        slots_seen[1] = 1;
        tile[1].row = 1
    }
    do
    :: settled < count ->
        cut = count;
        if
        :: drop = NO_ROW
        :: slots[0] != NO_SLOT -> drop = 0
        :: slots[1] != NO_SLOT -> drop = 1
        fi;
        merge_tile(0);
        merge_tile(1);
        if
        :: drop != NO_ROW -> /* act_on_review; relaxed */
            d_step { row_in[slots[drop]] = NO_ROW; slots[drop] = NO_SLOT; drop = NO_ROW }
        :: else
        fi;
        d_step { settled = cut; cut = 0; drop = 0 }
        move()
    :: publishes > 0 && (slots[0] == NO_SLOT || slots[1] == NO_SLOT) ->
        d_step {
            publishes--;
            row = (slots[0] == NO_SLOT -> 0 : 1);
            at = (row_in[0] == NO_ROW -> 0 : 1); /* take_slot */
            row_in[at] = row;
            work.position = settled; work.row = row; work.sum = VALUE(settled) * WEIGHT(row)
        }
        if
        :: at == 0 -> flip(0)
        :: else -> flip(1)
        fi;
        d_step { slots[row] = at; state[row] = PUBLISHED; row = 0; at = 0 } /* release */
    :: settled == N -> break
    od
}

/* read_once of one of the rows. */
active proctype reader()
{
    byte slot, word, c, position, row, slot_now;
    short sum;

    words[1] != 0; /* all is in place */
    if
    :: d_step { asked = 0; was_cold = state[0] != HOT }
    :: d_step { asked = 1; was_cold = state[1] != HOT }
    fi;
    if /* acquire */
    :: slot = slots[asked]
    :: slot = slots_seen[asked]
    fi;
    if
    :: slot == NO_SLOT -> assert(was_cold); goto done
    :: else
    fi;
    word = words[slot];
    c = count;
    position = tile[PHYSICAL(word)].position;
    d_step { row = tile[PHYSICAL(word)].row; sum = tile[PHYSICAL(word)].sum }
    atomic {
        if
        :: words[slot] != word || c < position -> goto done
        :: else
        fi
    }
    if /* only looked at for another row */
    :: slot_now = slots[asked]
    :: slot_now = slots_seen[asked]
    fi;
#ifndef NO_SECOND_LOOK
    if
    :: row != asked && slot_now != slot -> goto done /* ATT_AGAIN: it has moved */
    :: else
    fi;
#endif
    if
#ifdef ANY_ROW
    :: row == NO_ROW -> assert(was_cold); goto done
#else
    :: row != asked -> assert(was_cold); goto done /* ATT_ENOENT */
#endif
    :: else
    fi;
    assert(sum + (VALUE(c) - VALUE(position)) * WEIGHT(asked) == VALUE(c) * WEIGHT(asked));
done:
    skip
}
