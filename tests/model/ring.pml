/* A ring with a number in each slot, and how both sides sleep and are woken. ipc/channel.c (top), ipc/server_wait.c,
 * ipc/server_session.c, ipc/client_wait.c.
 *
 * It is the reply ring: the service produces, the client consumes and sleeps on the futex `bell`; the service sleeps in
 * epoll when there is no room, and the client rings its doorbell when it has told its cursor. (A request is rung for by
 * the same client_ring, found by the same sleep_until.) A message has two slots.
 *
 * Memory is TSO: each side's stores go through a buffer of its own, first in, first out, and reach memory at any later
 * time; a full fence, and a read-modify-write, waits until the buffer is empty. Neither side loads what it stores. Nobody
 * has timeouts here (the code's client looks again after 20 ms): a lost wake-up is a deadlock. */

#define MESSAGES 4
#define CAPACITY 4 /* slots */
#define TELL 3     /* the consumer tells its cursor each so many slots; the code: CAPACITY / 8 */

/* Addresses. */
#define SEQ(position) ((position) % CAPACITY)
#define WORDS(position) (CAPACITY + (position) % CAPACITY)
#define REPLY_TAIL (2 * CAPACITY)
#define WANTS_ROOM (2 * CAPACITY + 1)
#define SERVICE_TICKET (2 * CAPACITY + 2)
#define CLIENT_TICKET (2 * CAPACITY + 3)

byte memory[2 * CAPACITY + 4];
byte bell;      /* only ever changed by a read-modify-write */
bit futex;      /* the client sleeps on bell */
bit doorbell;   /* a byte is in the service's socket (a full one holds bytes already) */

chan service_stores = [3] of {byte, byte};
chan client_stores = [3] of {byte, byte};

active proctype memory_system()
{
    byte address;
end:
    do
    :: d_step { service_stores?address, memory[address]; address = 0 }
    :: d_step { client_stores?address, memory[address]; address = 0 }
    od
}

#define SERVICE_FENCE empty(service_stores)
#define CLIENT_FENCE empty(client_stores)

/* att_server_flush and session_wake */
inline flush()
{
    if
    :: published != head ->
#ifndef FIRST_SLOT_FIRST
        service_stores!SEQ(published), published + 1; /* att_producer_publish */
#endif
        published = head;
#ifndef NO_FENCE_FLUSH
        SERVICE_FENCE;
#endif
        seen = memory[CLIENT_TICKET];
        if
        :: seen % 2 == 1 && seen != woken_ticket ->
            woken_ticket = seen;
            atomic { SERVICE_FENCE -> bell++ } /* atomic_fetch_add */
            futex = 0                          /* FUTEX_WAKE */
        :: else
        fi;
        seen = 0
    :: else
    fi
}

active proctype service()
{
    byte head, published, tail, ticket, woken_ticket, seen, i;

    do
    :: head == 2 * MESSAGES -> break
    :: head < 2 * MESSAGES && head + 2 - tail <= CAPACITY -> /* att_producer_put */
        i = 0;
        do
        :: i < 2 ->
            service_stores!WORDS(head + i), head + i + 1;
            if
#ifndef FIRST_SLOT_FIRST
            :: head + i == published /* its number is withheld */
#endif
            :: else -> service_stores!SEQ(head + i), head + i + 1
            fi;
            i++
        :: else -> break
        od;
        head = head + 2;
        i = 0;
        if /* it's flushed now, or with what follows */
        :: flush()
        :: true
        fi
    :: head < 2 * MESSAGES && head + 2 - tail > CAPACITY ->
        tail = memory[REPLY_TAIL]; /* att_producer_refresh */
        if
        :: head + 2 - tail > CAPACITY ->
            service_stores!WANTS_ROOM, 1; /* session_set_starved */
            flush();                      /* att_server_wait */
            do                            /* sleep_until */
            :: ticket++;
               service_stores!SERVICE_TICKET, ticket;
#ifndef NO_FENCE_SLEEP
               SERVICE_FENCE;
#endif
#ifndef NO_SECOND_LOOK_SERVICE
               tail = memory[REPLY_TAIL]; /* look */
#endif
               if
               :: head + 2 - tail <= CAPACITY -> skip
               :: else -> doorbell == 1 /* epoll_wait */
               fi;
               ticket++;
               service_stores!SERVICE_TICKET, ticket;
               if
               :: head + 2 - tail <= CAPACITY -> break
               :: else ->
                   doorbell = 0; /* poll_sockets */
                   tail = memory[REPLY_TAIL];
                   if
                   :: head + 2 - tail <= CAPACITY -> break
                   :: else
                   fi
               fi
            od;
            service_stores!WANTS_ROOM, 0
        :: else
        fi
    od;
    flush()
}

inline consumer_read() /* att_consumer_read; a wrong number is a broken protocol, a wrong word a torn message */
{
    assert(memory[SEQ(tail)] == tail + 1);
    assert(memory[WORDS(tail)] == tail + 1);
    assert(memory[SEQ(tail + 1)] == tail + 2);
    assert(memory[WORDS(tail + 1)] == tail + 2)
}

inline consumer_take() /* att_client_take, client_ring */
{
    eager = memory[WANTS_ROOM];
    tail = tail + 2;
    if
    :: !eager && tail - told < TELL
    :: else ->
        client_stores!REPLY_TAIL, tail;
        told = tail;
#ifndef NO_FENCE_TAKE
        CLIENT_FENCE;
#endif
        if
        :: memory[WANTS_ROOM] == 1 ->
            seen = memory[SERVICE_TICKET];
            if
            :: seen % 2 == 1 && seen != rung_ticket -> d_step { rung_ticket = seen; doorbell = 1 }
            :: else
            fi;
            seen = 0
        :: else
        fi
    fi;
    eager = 0
}

active proctype client()
{
    byte tail, told, ticket, rung_ticket, seen;
    bit eager;

    do
    :: tail == 2 * MESSAGES -> break
    :: tail < 2 * MESSAGES ->
        if /* att_consumer_peek */
        :: memory[SEQ(tail)] == tail + 1 ->
#ifdef FREE_BEFORE_COPY
            consumer_take();
            tail = tail - 2;
            consumer_read();
            tail = tail + 2
#else
            consumer_read();
            consumer_take()
#endif
        :: else -> /* client_sleep */
#ifndef BELL_LATE
            seen = bell;
#endif
            ticket++;
            client_stores!CLIENT_TICKET, ticket;
#ifndef NO_FENCE_CLIENT
            CLIENT_FENCE;
#endif
            if
#ifndef NO_SECOND_LOOK_CLIENT
            :: memory[SEQ(tail)] == tail + 1 -> skip
#endif
            :: else ->
#ifdef BELL_LATE
                seen = bell;
#endif
                atomic { /* FUTEX_WAIT: the kernel compares and queues in one */
                    if
                    :: bell == seen -> futex = 1
                    :: else
                    fi
                }
                futex == 0
            fi;
            seen = 0;
            ticket++;
            client_stores!CLIENT_TICKET, ticket
        fi
    od;
    assert(tail == 2 * MESSAGES)
}
