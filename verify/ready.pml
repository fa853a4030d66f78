/* The threads that may have work: a model of the bits in wakeup.pxd and of the turns over them in reactor_loop.pyx.
 *
 * Two senders and one reactor, which takes a thread in, looks at it in every turn for a while, and then only when its bit
 * is set. As in wakeup.pml every OS thread has a store buffer: a plain store reaches memory at any later time; a fence and
 * a read-modify-write wait until their own buffer is empty. Requests and moves away are wakeup.pml's business.
 *
 * What is proved, in every interleaving:
 *   nothing lost    when nothing can move any more, every message has run (the process Judge)
 *   no deadlock     the search has no invalid end state
 *
 * Each of these words, as -DNAME, breaks the protocol, and the proof must then fail:
 *   NO_SENDER_FENCE  NO_SLEEPER_FENCE  NO_WINDOW  LATE_WINDOW  NO_SWEEP  LATE_TAKE  NO_AGAIN  NO_LOOK
 */
#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef MSGS
#define MSGS 1                  /* of each sender */
#endif
#define ALL (SENDERS * MSGS)

/* Who has a store buffer. */
#define REACTOR 2               /* 0, 1: the senders */

/* Words in memory. */
#define FLAGS 0                  /* wakeup_flags */
#define ASLEEP 1
#define READY_MAP 2
#define WAKE 1                  /* whether the thread points to the state */
#define BIT 2                   /* read-modify-writes only */
#define SLOT(k) (3 + (k))
#define WORDS (3 + ALL)

byte memory[WORDS];
chan buffer[3] = [3] of { byte, byte };

#define store(who, word, value) buffer[who]!word, value
#define fence(who) empty(buffer[who])

bool readable;
byte tail;
byte head;
byte done;

/* reactor_s */
bool polled;
byte scan;                      /* 0: nothing, 1: soon, 2: ready */
byte on_their_way;              /* stores of senders at the adoption that have not arrived; a bit for each */

active proctype Memory() {
    byte word, value;
end_memory:
    do
    :: atomic { buffer[0]?word, value -> memory[word] = value; on_their_way = on_their_way & 2; word = 0; value = 0 }
    :: atomic { buffer[1]?word, value -> memory[word] = value; on_their_way = on_their_way & 1; word = 0; value = 0 }
    :: atomic { buffer[REACTOR]?word, value -> memory[word] = value; word = 0; value = 0 }
    od
}

proctype Sender(byte me) {
    byte sent, slot;
    bool took;
    do
    :: sent < MSGS ->
        /* Claim: a compare-and-swap. */
        atomic { fence(me); slot = tail; tail++ }
        store(me, SLOT(slot), 1);
        /* thread_wake */
        if
        :: memory[WAKE] ->
#ifndef NO_SENDER_FENCE
            fence(me);
#endif
            /* wakeup_thread */
            if
            :: memory[FLAGS] & READY_MAP ->
                if
                :: !memory[BIT] -> atomic { fence(me); memory[BIT] = 1 }
                :: else
                fi;
                fence(me)
            :: else
            fi;
            if
            :: memory[FLAGS] & ASLEEP ->
                atomic { fence(me); took = memory[FLAGS] & ASLEEP; memory[FLAGS] = memory[FLAGS] & READY_MAP };
                if
                :: atomic { took -> readable = 1; took = 0 }
                :: else
                fi
            :: else
            fi
        :: else
        fi;
        atomic { sent++; slot = 0 }
    :: else -> break
    od;
    done++
}

#define published (head < ALL && memory[SLOT(head)])

inline poll() {
    if :: published -> head++ :: else fi
}

proctype Reactor() {
    bool nap;
    do
    /* _take_in and _rebuild: the thread comes, and its reactor has many. */
    :: !polled ->
        store(REACTOR, WAKE, 1);
        /* wakeup_use_ready_map() */
        store(REACTOR, FLAGS, READY_MAP);
        atomic {
            fence(REACTOR);
            polled = 1;
            scan = 1;
            on_their_way = (len(buffer[0]) > 0) + 2 * (len(buffer[1]) > 0)
        }
    /* A turn over all. */
    :: scan == 1 && published -> head++
    /* ready_turn_begin */
#ifdef NO_WINDOW
    :: scan == 1 ->
#else
    :: scan == 1 && !on_their_way ->
#endif
#ifndef NO_SWEEP
        atomic { fence(REACTOR); memory[BIT] = 1 };
#endif
        scan = 2
    /* ready_turn_next, a poll of one message, ready_turn_pass */
    :: scan == 2 && memory[BIT] ->
#ifdef LATE_TAKE
        poll();
        if
        :: published
        :: else -> atomic { fence(REACTOR); memory[BIT] = 0 }
        fi
#else
        atomic { fence(REACTOR); memory[BIT] = 0 };
        poll();
#ifndef NO_AGAIN
        if
        :: published -> atomic { fence(REACTOR); memory[BIT] = 1 }
        :: else
        fi
#endif
#endif
    /* park */
    :: polled ->
        readable = 0;
        /* As long as the time after the adoption lasts, sleeps are short: judged before anything is looked at. */
#ifdef LATE_WINDOW
        nap = 0;
#else
        nap = (scan == 1 && on_their_way);
#endif
        /* wakeup_begin_sleep(), which keeps READY_MAP: only the reactor changes that flag. */
        store(REACTOR, FLAGS, READY_MAP + ASLEEP);
#ifndef NO_SLEEPER_FENCE
        fence(REACTOR);
#endif
#ifndef NO_LOOK
        if
        :: scan == 2 && memory[BIT] -> goto awake
        :: scan == 1 && published -> goto awake
        :: else
        fi;
#endif
#ifdef LATE_WINDOW
        nap = (scan == 1 && on_their_way);
#endif
end_asleep:
        if
        :: readable
        :: nap
        fi;
awake:
        /* wakeup_end_sleep() */
        store(REACTOR, FLAGS, READY_MAP)
    od
}

init {
    atomic {
        run Reactor();
        run Sender(0);
#if SENDERS > 1
        run Sender(1);
#endif
    }
    /* Judge: when nothing else can move. */
    timeout;
    assert(done == SENDERS);
    assert(head == ALL)
}
