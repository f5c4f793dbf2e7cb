/* Commits, acknowledgements, snapshots, trimming and recovery, with a crash anywhere. persist/log.c, persist/snapshot.c
 * (complete), persist/store.c (load, att_store_open), tools/recover.c, tools/service_reply.c; DESIGN section 6.
 *
 * A session sends OPS appends; it keeps each until it is acknowledged, and sends it again after a crash
 * (ipc/client_session.c, tools/sessions.h: `sequence` is the table, saved with each snapshot as of its cut and completed
 * by the log's records). A second client makes OTHERS updates and never sends one again; of one of them it remembers
 * (incarnation, LSN), and later waits for that to be durable. An operation adds 4^number to the state, so the state tells
 * how often each was applied.
 *
 * An LMDB transaction is one step. A crash takes all but what is on disk; each option of the loop below is a step, and a
 * crash may come between any two. One generation may be found damaged, once, at any time.
 *
 * Properties: recovery never meets a gap; what was published as durable is there; every acknowledged operation was applied
 * once, every other at most once; whoever waits for an LSN is told that it is durable only if what it saw at that LSN is. */

#define OPS 2
#define OTHERS 1
#define LSNS 6    /* LSNs count from 1 */
#define CRASHES 2
#define SNAPSHOTS 2
#define NONE 255

#ifdef ACK_EARLY
#define MAY_ACKNOWLEDGE true
#else
#define MAY_ACKNOWLEDGE (lsn_of[acknowledged] <= durable_lsn)
#endif
#ifdef MANIFEST_EARLY
#define MAY_PROMISE true
#else
#define MAY_PROMISE (cut_lsn <= durable_lsn) /* await_durable */
#endif
#define EFFECT(operation) (1 << (2 * (operation)))
#define TIMES(state, operation) (((state) >> (2 * (operation))) & 3)

typedef snapshot {
    byte generation; /* 0: no manifest */
    byte lsn;
    byte state;
    byte sequence;   /* the session's: how many of its operations are in the state */
    bit damaged
};

/* On disk. */
snapshot snap[3];
bit in_log[LSNS + 1];
byte incarnation;
byte start_lsn[CRASHES + 2]; /* of each incarnation: the newest LSN that it found */
/* The records of DIR/log and, behind them, of the ring in memory. */
byte record[LSNS + 1];
/* The daemon's memory. */
bool up;
byte state, sequence, last_lsn;     /* applied */
byte log_lsn;                       /* committed */
byte durable_lsn;                   /* published */
byte phase;                         /* of the snapshot thread */
byte cut_lsn, cut_state, cut_sequence;
byte current, other;               /* places in snap: the newest generation that was whole, and the one before */
byte trim_to;
byte lsn_of[OPS];                   /* with the session: where its last operations are */
/* The session's client. */
byte sent, acknowledged;
/* The other client. */
byte others, seen_incarnation, seen_lsn, seen_operation;
bool seen;
/* Budgets. */
byte crashes = CRASHES, snapshots = SNAPSHOTS;
bool damages = true;

inline recover()
{
    d_step {
        /* persist_snapshot_load: the newest generation that is whole */
        current = NONE;
        other = NONE;
        i = 0;
        do
        :: i < 3 ->
            if
            :: snap[i].generation == 0
            :: snap[i].generation != 0 && snap[i].damaged
            :: else ->
                if
                :: current == NONE -> current = i
                :: current != NONE && snap[i].generation > snap[current].generation -> other = current; current = i
                :: else -> other = i
                fi
            fi;
            i++
        :: else -> break
        od;
        assert(current != NONE);
        state = snap[current].state;
        sequence = snap[current].sequence;
        last_lsn = snap[current].lsn;
        /* att_store_read_log, replay_record */
        i = snap[current].lsn + 1;
        do
        :: i <= LSNS && in_log[i] ->
            assert(i == last_lsn + 1); /* a gap */
            state = state + EFFECT(record[i]);
            if
            :: record[i] < OPS ->
#ifndef SESSION_NOT_LOGGED
                sequence = record[i] + 1;
#endif
                lsn_of[record[i]] = i
            :: else
            fi;
            last_lsn = i;
            i++
        :: i <= LSNS && !in_log[i] -> i++
        :: else -> break
        od;
        assert(last_lsn >= durable_lsn); /* what was published as durable is there */
        i = 0;
        do
        :: i < OPS + OTHERS ->
            assert(TIMES(state, i) <= 1);
            assert(i >= acknowledged || TIMES(state, i) == 1);
            i++
        :: else -> break
        od;
        i = 0;
        log_lsn = last_lsn;
        durable_lsn = last_lsn;
        incarnation++; /* persist_env_write_state */
        start_lsn[incarnation] = last_lsn;
        up = true
    }
}

inline crash()
{
    d_step {
        up = false;
        state = 0; sequence = 0; last_lsn = 0; log_lsn = 0;
        phase = 0; cut_lsn = 0; cut_state = 0; cut_sequence = 0; trim_to = 0;
        lsn_of[0] = 0; lsn_of[1] = 0;
        i = 1;
        do
        :: i <= LSNS ->
            if
            :: !in_log[i] -> record[i] = 0
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0;
        sent = acknowledged /* a new connection sends again what was not acknowledged */
    }
}

/* A record: applied and visible at once, and in the ring for the log thread (att_store_append). */
inline apply(operation)
{
    last_lsn++;
    record[last_lsn] = operation;
    state = state + EFFECT(operation)
}

/* The log thread deletes old batches, a few at a time. */
inline trim_one()
{
    i = 1;
    do
    :: i <= LSNS && !in_log[i] -> i++
    :: else -> break
    od;
    if
    :: i <= trim_to -> in_log[i] = 0; record[i] = 0
    :: else -> trim_to = 0
    fi;
    i = 0
}

active proctype system()
{
    byte i, newest, written;

    d_step { snap[0].generation = 1 } /* a new state is written before it is served */
    recover();
end:
    do
    :: acknowledged == OPS && up -> break

    /* ---- crashes and damage ---- */
    :: up && crashes > 0 -> crashes--; crash()
    :: up && crashes > 0 && sent > acknowledged -> /* only the connection is lost */
        d_step { crashes--; sent = acknowledged }
    :: !up -> recover()
    :: damages && snap[current].generation > 0 && other != NONE ->
        d_step { damages = false; snap[current].damaged = 1 }

    /* ---- the session: sends the next, without waiting for the last ---- */
    :: up && sent < OPS ->
        d_step {
#ifndef NO_SEQUENCE
            if
            :: sent < sequence -> skip /* known: its result is sent again */
            :: else ->
#endif
                apply(sent);
                lsn_of[sent] = last_lsn;
                sequence = sent + 1;
#ifndef NO_SEQUENCE
            fi;
#endif
            sent++
        }
    /* service_reply_durable */
    :: up && acknowledged < sent && MAY_ACKNOWLEDGE -> acknowledged++

    /* ---- the other client ---- */
    :: up && others < OTHERS ->
        d_step { apply(OPS + others); others++ }
        if
        :: up && !seen && last_lsn > 0 && record[last_lsn] >= OPS -> /* remembers what it saw */
            d_step {
                seen = true;
                seen_incarnation = incarnation;
                seen_lsn = last_lsn;
                seen_operation = record[last_lsn]
            }
        :: true
        fi
    :: up && seen -> /* waits: until it is durable, or ATT_LOST */
        if
#ifdef NO_INCARNATION
        :: seen_lsn <= durable_lsn -> assert(TIMES(state, seen_operation) == 1)
#else
        :: seen_incarnation == incarnation && seen_lsn <= durable_lsn -> assert(TIMES(state, seen_operation) == 1)
        :: seen_incarnation < incarnation && seen_lsn <= start_lsn[seen_incarnation + 1] ->
            assert(TIMES(state, seen_operation) == 1)
        :: seen_incarnation < incarnation && seen_lsn > start_lsn[seen_incarnation + 1] -> /* ATT_LOST: rightly */
            assert(TIMES(state, seen_operation) == 0)
#endif
        :: else
        fi;
        d_step { seen = false; seen_incarnation = 0; seen_lsn = 0; seen_operation = 0 }

    /* ---- the log thread: cycle ---- */
    :: up && log_lsn < last_lsn -> /* mdb_txn_commit */
        d_step {
            do
            :: log_lsn < last_lsn -> log_lsn++; in_log[log_lsn] = 1
            :: else -> break
            od;
            i = 0
        }
    :: up && durable_lsn < log_lsn -> durable_lsn = log_lsn /* take_off */
    :: up && trim_to > 0 -> d_step { trim_one() }

    /* ---- the snapshot thread ---- */
    :: up && phase == 0 && snapshots > 0 -> /* the cut; the pieces follow, each before it is overwritten */
        d_step {
            snapshots--;
#ifdef CUT_LSN_LOW /* the state holds more than the LSN says */
            cut_lsn = (last_lsn > 0 -> last_lsn - 1 : 0);
#else
            cut_lsn = last_lsn;
#endif
            cut_state = state;
            cut_sequence = sequence;
            phase = 1;
#ifdef TRIM_BEFORE_MANIFEST
            trim_to = snap[current].lsn
#endif
        }
    /* persist_manifest_write, into the place that neither kept generation has */
    :: up && phase == 1 && MAY_PROMISE ->
        d_step {
            i = 0; /* generation numbers only grow, beyond a damaged one's too */
            do
            :: i < 3 ->
                if
                :: snap[i].generation > newest -> newest = snap[i].generation
                :: else
                fi;
                i++
            :: else -> break
            od;
            i = 0;
            do
            :: i == current || i == other -> i++
            :: else -> break
            od;
            snap[i].generation = newest + 1;
            newest = 0;
            snap[i].lsn = cut_lsn;
            snap[i].state = cut_state;
#ifndef SESSION_NOT_SAVED
#ifdef SESSION_LATE
            snap[i].sequence = sequence; /* as it is now */
#else
            snap[i].sequence = cut_sequence;
#endif
#endif
            snap[i].damaged = 0;
            written = i;
            i = 0;
            cut_lsn = 0; cut_state = 0; cut_sequence = 0;
            phase = 2
        }
    :: up && phase == 2 -> /* persist_snapshot_prune: the newest and the one before stay */
        d_step {
            i = 0;
            do
            :: i < 3 ->
                if
                :: i == current || i == written
                :: else ->
                    snap[i].generation = 0; snap[i].lsn = 0; snap[i].state = 0; snap[i].sequence = 0;
                    snap[i].damaged = 0
                fi;
                i++
            :: else -> break
            od;
            other = current;
            current = written;
            written = 0;
            i = 0;
            phase = 3
        }
    :: up && phase == 3 -> /* persist_log_trim */
        d_step {
#ifdef TRIM_TO_NEWER
            trim_to = snap[current].lsn;
#else
            trim_to = snap[other].lsn;
#endif
            phase = 0
        }
    od;

    i = 0;
    do
    :: i < OPS -> assert(TIMES(state, i) == 1); i++
    :: else -> break
    od
}
