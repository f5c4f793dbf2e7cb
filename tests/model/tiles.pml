/* The reader's protocol: tile flips, reuse of log slots, the token index, changes of a row of Q, drops, refreshes.
 * core/reader.c (top), core/entries.c, core/merge.c, core/tiles.c, core/rebuild.c, core/update.c; with -DREPLACE also
 * core/give_back.c.
 *
 * One token, one row of Q (ROW), one logical tile, two physical tiles (one is the spare), a log of CAP slots. Entry p
 * adds 2^p to the token's value, so value[c] = the state after c entries tells c; an entry of Q adds nothing and changes
 * the row's weight from 1 to 16. A base is the settled value times the weight. So a sum that mixes states, or rows of Q,
 * is the sum of no state.
 *
 * Weak memory. Plain loads and stores are done in any order where the code orders none. A store is seen by the thread
 * that made it at once, and by the reader at the latest when something orders it:
 *   words_seen  what the reader must see of `words`: raised by att_flip's release fence, else by the next release store
 *   tail_seen   of `tail`: raised by the service's release fence, before it writes slots
 *   row_version is stored relaxed: the reader must see what was stored before the `count` it has loaded, no more
 * and without its acquire fence the reader's checks may be done before its copies. */

#define N 3   /* entries in all */
#define CAP 2 /* log slots */
#define REFRESHES 1
#ifdef REPLACE /* rows are dropped for their Q only: states enough */
#define DROPS 0
#else
#define DROPS 1
#endif
#define ROW 0
#define NO_ROW 1

#define WEIGHT(version) ((version) -> 16 : 1)
#ifdef NO_VERSION
#define WORD(word, physical) (physical)
#else
#define WORD(word, physical) (((word) / 2 + 1) * 2 + (physical))
#endif
#define PHYSICAL(word) ((word) % 2)

typedef physical_tile {
    byte position;
    byte row;
    byte q_version;
    short sum
};

#ifdef REPLACE
#define MAPPED(field) (has_old && replaced -> left[PHYSICAL(word)].field : tile[PHYSICAL(word)].field)
#else
#define MAPPED(field) tile[PHYSICAL(word)].field
#endif

/* Owner: service. */
byte count;
byte row_version;
byte slot_delta[CAP]; /* -old +new, in one store of count */
byte slot_value[CAP]; /* new */
bit slot_is_q[CAP];
byte newest;          /* 1 + position of the token's newest + entry */
/* Owner: merge. */
byte settled, tail;
byte words = 2;           /* version 1, physical tile 0 */
physical_tile tile[2];
#ifdef REPLACE
physical_tile left[2]; /* the memory that tile[] has replaced */
bool replaced;
#endif
byte settled_value;
byte settled_q;       /* the settled row of Q, known by its version */
/* What the reader is bound to see. */
byte words_seen = 2, tail_seen;
/* For the property: the states. */
byte value[N + 1];
bit q_at[N + 1];

active proctype service()
{
    byte index_tail, old, position;
    bool pending;

    do
    :: count == N -> break
    :: count < N && count + 1 - index_tail > CAP && tail != index_tail -> /* att_entries_room; else parked */
        d_step {
            index_tail = tail; /* acquire */
#ifndef NO_SERVICE_FENCE
            tail_seen = tail   /* the release fence after it */
#endif
        }
    :: count < N && count + 1 - index_tail <= CAP ->
        if
        :: row_version == 0 -> /* set_q */
            d_step {
                slot_is_q[count % CAP] = 1;
                slot_delta[count % CAP] = 0;
                row_version = 1
            }
            d_step { value[count + 1] = value[count]; q_at[count + 1] = 1; count++ }
        :: true ->             /* put_token */
            d_step {           /* pending_position */
                pending = newest != 0 && newest - 1 >= settled;
                position = (newest -> newest - 1 : 0)
            }
            d_step {
                old = (pending -> slot_value[position % CAP] : settled_value);
                assert(old == value[count]);
                slot_is_q[count % CAP] = 0;
                slot_value[count % CAP] = value[count] + (1 << count);
                slot_delta[count % CAP] = slot_value[count % CAP] - old;
                newest = count + 1
            }
            d_step {           /* att_entries_publish: release */
                value[count + 1] = value[count] + (1 << count);
                q_at[count + 1] = q_at[count];
                count++;
                old = 0; position = 0; pending = false
            }
        fi
    od
}

/* att_flip: the contents into the spare; the word; the release fence. (One order of the two halves is enough: with the
 * reader's it gives an old base at a new position, and the reverse.) */
inline flip()
{
    spare = 1 - PHYSICAL(words);
    tile[spare].position = work.position;
    d_step { tile[spare].row = work.row; tile[spare].q_version = work.q_version; tile[spare].sum = work.sum }
    d_step {
        words_seen = words; /* a release store: what was stored before is seen with it */
        words = WORD(words, spare);
#ifndef NO_MERGE_FENCE
        words_seen = words;
#endif
        work.position = 0; work.row = 0; work.q_version = 0; work.sum = 0; spare = 0
    }
}

/* att_fold of the entries [settled, cut) under the settled row of Q; inside a d_step. */
inline fold()
{
    at = settled;
    do
    :: at < cut -> work.sum = work.sum + slot_delta[at % CAP] * WEIGHT(settled_q); at++
    :: else -> break
    od;
    at = 0
}

inline settle_q()
{
    d_step {
        if
        :: changed_q -> settled_q = 1
        :: else
        fi
    }
}

#ifdef REPLACE
/* give_back.c: the tile in use is copied, the spare is a hole in the new memory. Who mapped the old one still reads it; nobody
 * writes it any more. */
inline replace_memory()
{
    d_step {
        replaced = true;
        left[0].position = tile[0].position;
        left[0].row = tile[0].row;
        left[0].q_version = tile[0].q_version;
        left[0].sum = tile[0].sum;
        left[1].position = tile[1].position;
        left[1].row = tile[1].row;
        left[1].q_version = tile[1].q_version;
        left[1].sum = tile[1].sum;
        spare = 1 - PHYSICAL(words);
#ifdef REPLACE_HALF_WRITTEN /* in the middle of a flip: a new position before its base */
        left[spare].position = settled;
#endif
        tile[spare].position = 0;
        tile[spare].row = NO_ROW;
        tile[spare].q_version = 0;
        tile[spare].sum = 0;
        spare = 0
    }
}
#endif

active proctype merge()
{
    physical_tile work;
    byte cut, at, spare, newest_value;
    byte refreshes = REFRESHES, drops = DROPS;
    bool changed_q, changed, behind, drop;

    do
    :: settled == N -> break
#ifdef REPLACE
    :: !replaced -> replace_memory()
#endif
    /* att_refresh_some: between two merges all tiles stand at `settled`. */
    :: refreshes > 0 ->
        d_step {
            refreshes--;
            work.position = settled;
            work.row = ROW;
            work.q_version = settled_q;
            work.sum = settled_value * WEIGHT(settled_q);
            behind = false
        }
        flip()
    /* att_merge */
    :: settled < count ->
        d_step { /* att_merge_scan */
            cut = count; /* acquire */
            at = settled;
            do
            :: at < cut ->
                if
                :: slot_is_q[at % CAP] -> changed_q = true
                :: else -> changed = true; newest_value = slot_value[at % CAP]
                fi;
                at++
            :: else -> break
            od;
            at = 0
        }
#ifdef TAIL_EARLY
        d_step { words_seen = words; tail = cut }
#endif
#ifdef Q_EARLY
        settle_q();
#endif
        if /* a row that is not worth it goes cold */
        :: drop = false
        :: drops > 0 -> d_step { drop = true; drops-- }
        fi;
#ifdef LEAVE_BEHIND /* a tile of cold rows only is not flipped, as long as their Q stays */
        d_step { behind = (behind || drop) && !changed_q; drop = false }
#endif
        if
        :: behind -> skip
        :: else ->
            d_step { /* in private memory */
                work.row = tile[PHYSICAL(words)].row; /* att_work_tile_load */
                work.q_version = tile[PHYSICAL(words)].q_version;
                work.sum = tile[PHYSICAL(words)].sum;
                if
                :: changed_q || drop -> work.row = NO_ROW /* review_rows; its sums are nobody's from now on */
                :: else -> fold()
                fi;
                work.position = cut
            }
            flip()
        fi;
        if /* DESIGN section 4: a refresh between tiles. (The code makes none there.) */
        :: refreshes > 0 && !behind && !changed_q ->
            d_step {
                refreshes--;
                work.position = cut;
                work.row = ROW;
                work.q_version = settled_q;
                work.sum = settled_value * WEIGHT(settled_q);
#ifndef REFRESH_UNFOLDED
                fold()
#endif
            }
            flip()
        :: true
        fi;
#ifdef SETTLED_EARLY
        d_step { words_seen = words; settled = cut }
#endif
        /* settle */
        d_step {
            if
            :: changed -> settled_value = newest_value
            :: else
            fi;
            newest_value = 0
        }
        settle_q();
        d_step { words_seen = words; settled = cut } /* release */
        d_step { words_seen = words; tail = cut;     /* release */
                 changed_q = false; changed = false; drop = false; newest_value = 0; cut = 0 }
    od
}

/* read_once. It may stop for ever at every step, as any process here. */
active proctype reader()
{
    byte word, c, position, at, row, q_version, q, tail_read, version_read;
    short sum;
    bool early;

#ifdef REPLACE
    bool has_old; /* it mapped the memory before it was replaced, if it is */

    if
    :: has_old = true
    :: true
    fi;
#endif

#ifdef COUNT_FIRST
    c = count;
#endif
    if
    :: word = words /* 1: acquire */
    :: word = words_seen
    fi;
#ifndef COUNT_FIRST
    c = count;      /* 2: acquire */
#endif
    early = false;
#ifdef NO_READER_FENCE
    if
    :: true
    :: atomic {
           early = true;
           tail_read = tail;
           if
           :: word != words -> goto again
           :: else
           fi
       }
    fi;
#endif
#ifdef VERSION_FIRST
    version_read = row_version;
#endif
    position = MAPPED(position); /* 3 */
    d_step { /* copy_base */
        row = MAPPED(row);
        q_version = MAPPED(q_version);
        sum = MAPPED(sum)
    }
    atomic {
#ifndef NO_DISTANCE_CHECK
        if
        :: c < position || c - position > CAP -> goto again
        :: else
        fi;
#endif
        at = position;
        q = settled_q
    }
    do
    :: at < c -> d_step { sum = sum + slot_delta[at % CAP] * WEIGHT(q); at++ }
    :: else -> break
    od;
    /* 4: the acquire fence. 5: the checks, all at the moment of the first: the later ones can only see more changes. */
    atomic {
        if
        :: early
        :: !early && word == words
        :: !early && word == words_seen
        :: else -> goto again
        fi;
        if
        :: early
        :: !early -> tail_read = tail
        :: !early -> tail_read = tail_seen
        fi;
#ifndef VERSION_FIRST
        if
        :: version_read = row_version
        :: version_read = q_at[c]
        fi;
#endif
#ifndef NO_TAIL_CHECK
        if
        :: tail_read > position -> goto again
        :: else
        fi;
#endif
#ifndef NO_ROW_ID
        if
        :: row != ROW -> goto again
        :: else
        fi;
#endif
        if
        :: q_version != version_read -> goto again
        :: else
        fi;
        /* Accepted: the state after c entries, and c was `count` at a moment during the call. */
        assert(sum == value[c] * WEIGHT(q_at[c]))
    }
again:
    skip;
    d_step { word = 0; c = 0; position = 0; at = 0; row = 0; q_version = 0; q = 0; sum = 0;
             tail_read = 0; version_read = 0; early = false }
}
