/* Falling asleep and being woken: a model of wakeup.pxd, reactor_loop.pyx (park, may_sleep) and a thread that changes
 * its reactor. An event loop's sleep (aio/loop_core.pyx) and WaitFd.arm are the case of MOVES=0: one thread, which never
 * moves, and no requests.
 *
 * Two senders, two reactors that can sleep, and one thread that polls on the first, then on the second, then on the
 * first again, with its timer. Every OS thread has a store buffer: what it stores with a plain store reaches memory at
 * any later time, and it may read other words meanwhile. A fence, a read-modify-write and nothing else waits until its
 * own buffer is empty. System calls are no fences here, although in truth they are.
 *
 * What is proved, in every interleaving:
 *   nothing lost    when nothing can move any more, every message has run, every timer has fired, every thread has
 *                   arrived (the process Judge)
 *   no deadlock     the search has no invalid end state
 *   one wake-up     a reactor's descriptor is written at most once for each time its flag went up
 *   one poller      never do two reactors poll the thread
 *
 * A reactor's tries at sleeping come at any time between turns, so every `spin_us` is covered. Each of these words, as
 * -DNAME, breaks the protocol, and the proof must then fail:
 *   NO_SENDER_FENCE  NO_SLEEPER_FENCE  NO_TAKE  LATE_CLEAR  NO_REQUESTS  NO_WINDOW  LATE_WINDOW
 */
#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef MSGS
#define MSGS 1                  /* of each sender */
#endif
#ifndef MOVES
#define MOVES 1                 /* the second one leads back */
#endif
#define ALL (SENDERS * MSGS)

/* Who has a store buffer. */
#define SENDER(n) (n)           /* 0, 1 */
#define REACTOR(n) (2 + (n))    /* 2, 3 */
#define BUFFERS 4               /* the mover has none: it stores nothing */

/* Words in memory that are written by plain stores. */
#define SLEEPING(n) (n)         /* 0, 1: the flags in the wake-up states */
#define WAKE 2                  /* which state the thread points to: 1 + the number of its reactor */
#define SLOT(k) (3 + (k))       /* whether a slot of the ring is published */
#define WORDS (3 + ALL)

byte memory[WORDS];
chan buffer[BUFFERS] = [2] of { byte, byte };

#define store(who, word, value) buffer[who]!word, value
#define fence(who) empty(buffer[who])

/* The kernel's side. */
bool readable[2];

/* Read-modify-writes only. */
byte tail;
byte requests[2];
#define REQUEST_MEMBERS 1
#define REQUEST_MOVE 2

/* The thread, touched by the reactor that polls it. */
byte head;
byte timers;
byte fired;

/* Members of the reactors: under their locks. */
bool wanted[2];                 /* in `_members` */
bool polled[2];                 /* in the array that the loop goes through */

/* The window after an adoption in which sleeps are short: it ends when the stores that were on their way at the
   adoption have arrived. One millisecond stands for that. */
bool in_window[2];
byte on_their_way[2];           /* a bit for each sender */

bool untaken[2];                 /* the flag went up, and no sender has taken it */
byte arrived;
byte done;

inline thread_fence(who) {
#ifndef NO_SENDER_FENCE
    fence(who)
#else
    skip
#endif
}

/* wakeup_notify(), after its fence. */
inline notify(who, state) {
    if
    :: memory[SLEEPING(state)] ->
#ifdef NO_TAKE
        /* As if a load and a store were enough. */
        atomic {
            if :: memory[SLEEPING(state)] -> took = 1; assert(untaken[state]); untaken[state] = 0 :: else fi
        }
        if :: took -> store(who, SLEEPING(state), 0) :: else fi;
#else
        atomic {
            fence(who);
            if :: memory[SLEEPING(state)] -> took = 1; assert(untaken[state]); untaken[state] = 0 :: else fi;
            memory[SLEEPING(state)] = 0
        }
#endif
        if
        :: atomic { took -> readable[state] = 1; took = 0 }
        :: else
        fi
    :: else
    fi
}

active proctype Memory() {
    byte word, value;
end_memory:
    do
    :: atomic { buffer[SENDER(0)]?word, value -> memory[word] = value;
                on_their_way[0] = on_their_way[0] & 2; on_their_way[1] = on_their_way[1] & 2; word = 0; value = 0 }
    :: atomic { buffer[SENDER(1)]?word, value -> memory[word] = value;
                on_their_way[0] = on_their_way[0] & 1; on_their_way[1] = on_their_way[1] & 1; word = 0; value = 0 }
    :: atomic { buffer[REACTOR(0)]?word, value -> memory[word] = value;
                if :: word == SLEEPING(0) && value -> untaken[0] = 1 :: else fi; word = 0; value = 0 }
    :: atomic { buffer[REACTOR(1)]?word, value -> memory[word] = value;
                if :: word == SLEEPING(1) && value -> untaken[1] = 1 :: else fi; word = 0; value = 0 }
    od
}

proctype Sender(byte me) {
    byte sent, slot, state, took;
    do
    :: sent < MSGS ->
        /* Claim: a compare-and-swap. */
        atomic { fence(me); slot = tail; tail++ }
        /* Publish. */
        store(me, SLOT(slot), 1);
        /* thread_wake */
        state = memory[WAKE];
        if
        :: state -> state--; thread_fence(me); notify(me, state)
        :: else
        fi;
        atomic { sent++; state = 0; slot = 0 }
    :: else -> break
    od;
    done++
}

/* The same for one that has stored nothing. */
inline notify_unbuffered(state) {
    atomic {
        if
        :: memory[SLEEPING(state)] -> took = 1; assert(untaken[state]); untaken[state] = 0; memory[SLEEPING(state)] = 0
        :: else
        fi
    }
    if
    :: atomic { took -> readable[state] = 1; took = 0 }
    :: else
    fi
}

proctype Mover() {
    byte n, from, took;
    do
    :: n < MOVES ->
        atomic { from = n & 1; requests[from] = requests[from] | REQUEST_MOVE }
        notify_unbuffered(from);
        /* The future of the move. */
        arrived == n + 1;
        n++
    :: else -> break
    od;
    done++
}

proctype Reactor(byte me) {
    byte flags, took;
    bool nap;
    byte other = 1 - me;
    do
    /* A turn: what was asked for, one message, a timer. */
    :: requests[me] ->
        atomic { fence(REACTOR(me)); flags = requests[me]; requests[me] = 0 }
        if
        :: flags & REQUEST_MEMBERS ->
            atomic {
                if
                :: wanted[me] && !polled[me] ->
                    in_window[me] = 1;
                    on_their_way[me] = (len(buffer[SENDER(0)]) > 0) + 2 * (len(buffer[SENDER(1)]) > 0);
                    assert(!polled[other]);
                    polled[me] = 1;
                    arrived++
                :: else
                fi
            }
        :: else
        fi;
        if
        :: flags & REQUEST_MOVE ->
            /* _hand_over, _take_in */
            atomic { assert(polled[me]); wanted[me] = 0; polled[me] = 0 }
            wanted[other] = 1;
            store(REACTOR(me), WAKE, 1 + other);
            atomic { fence(REACTOR(me)); requests[other] = requests[other] | REQUEST_MEMBERS }
            /* Its request was a read-modify-write: nothing of its own is on the way. */
            notify_unbuffered(other)
        :: else
        fi;
        flags = 0
    :: polled[me] && head < ALL && memory[SLOT(head)] ->
        /* The first message arms a timer. */
        atomic { if :: head == 0 -> timers = 1 :: else fi; head++ }
    :: polled[me] && timers ->
        atomic { timers = 0; fired = 1 }

    /* park() */
    :: true ->
        nap = 0;
        /* wakeup_begin_sleep(): clear the descriptor, raise the flag, fence. */
#ifndef LATE_CLEAR
        readable[me] = 0;
#endif
#ifndef LATE_WINDOW
        if :: in_window[me] && !on_their_way[me] -> in_window[me] = 0 :: else fi;
#endif
        store(REACTOR(me), SLEEPING(me), 1);
#ifndef NO_SLEEPER_FENCE
        fence(REACTOR(me));
#endif
        /* may_sleep() */
        if
        :: polled[me] && head < ALL && memory[SLOT(head)] -> goto awake
        :: else
        fi;
        if :: polled[me] && timers -> nap = 1 :: else fi;
#ifndef NO_REQUESTS
        if :: requests[me] -> goto awake :: else fi;
#endif
#ifdef LATE_WINDOW
        if :: in_window[me] && !on_their_way[me] -> in_window[me] = 0 :: else fi;
#endif
#ifndef NO_WINDOW
        if :: in_window[me] -> nap = 1 :: else fi;
#endif
#ifdef LATE_CLEAR
        readable[me] = 0;
#endif
        /* idle_sleep() */
end_asleep:
        if
        :: readable[me]
        :: nap          /* a timer, or the end of a short sleep */
        fi;
awake:
        /* wakeup_end_sleep() */
        store(REACTOR(me), SLEEPING(me), 0)
    od
}

init {
    atomic {
        memory[WAKE] = 1;
        wanted[0] = 1;
        polled[0] = 1;
        run Reactor(0);
        run Sender(0);
#if SENDERS > 1
        run Sender(1);
#endif
#if MOVES
        run Reactor(1);
        run Mover();
#else
        done = 1;
#endif
    }
    /* Judge: when nothing else can move. */
    timeout;
    assert(done == SENDERS + 1);
    assert(head == ALL);
    assert(fired && !timers);
    assert(arrived == MOVES);
    assert(requests[0] == 0 && requests[1] == 0)
}
