/* The flags of the message ring: a model of ring.pxd and ring.pyx.
 *
 * One sender from outside, which may be refused, one of the library's own, which goes to the overflow list when the ring is
 * full, one receiver that gives the memory of an empty ring back, rewinds it, and ends when it finds nothing, and a stop at any
 * time. Memory is sequentially consistent here: what the release and acquire orders are for is shown by ThreadSanitizer,
 * on the code itself.
 *
 * What is proved, in every interleaving:
 *   taken or refused   at the end every accepted message has been received, and nothing is accepted after the closing
 *   order              of each sender, also across the overflow list
 *   no slot reused     a sender never writes into a slot that the receiver has not taken
 *   no deadlock        the search has no invalid end state
 *
 * Each of these words, as -DNAME, breaks it, and the proof must then fail:
 *   CLOSE_BLINDLY  OVERFLOW_UNFROZEN  OVERFLOW_UNLOOKED  LATE_ATTENTION  TRIM_UNFLAGGED  REWIND_BLINDLY
 */
#ifndef OUTSIDE_MSGS
#define OUTSIDE_MSGS 2
#endif
#ifndef LIBRARY_MSGS
#define LIBRARY_MSGS 3
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#define LIMIT 2                 /* a batch */

#define CLOSED 1
#define STOPPING 2
#define OVERFLOWED 4
#define TRIMMING 8
#define TRIMS 1
#ifndef REWINDS
#define REWINDS 0
#endif

#define FULL 1
#define OFF 2
#define OVER 3

/* One word in truth. */
byte tail;
byte flags;
byte head;
byte head_seen;

byte stamp[CAPACITY];
byte slot_sender[CAPACITY];
byte slot_number[CAPACITY];
chan overflow_list = [LIBRARY_MSGS] of { byte };
byte overflow;
bool lock;
bool attention;

byte accepted;
byte received;
byte last[2];
bool closed;

inline take_lock() { atomic { !lock -> lock = 1 } }

/* ring_claim and ring_claim_slow; `passes` is STOPPING or 0. */
inline claim(passes) {
    atomic { position = tail; seen = flags }
    do
    :: true ->
        verdict = 0;
        if
        :: seen || position < head_seen || position - head_seen + 1 > CAPACITY ->
            do
            :: seen & CLOSED -> verdict = OVER; break
            :: else ->
                if
                :: (seen & STOPPING) && !passes -> verdict = OFF; break
                :: else
                fi;
                if
                :: seen & OVERFLOWED -> verdict = FULL; break
                :: else
                fi;
                at = head;
                if
                :: seen & TRIMMING -> atomic { !(flags & TRIMMING) -> position = tail; seen = flags }
                :: !(seen & TRIMMING) && position < at -> atomic { position = tail; seen = flags }
                :: !(seen & TRIMMING) && position >= at && position - at + 1 > CAPACITY -> verdict = FULL; break
                :: else -> head_seen = at; break
                fi
            od
        :: else
        fi;
        if
        :: verdict -> break
        :: else ->
            atomic {
                if
                :: tail == position && flags == seen ->
                    tail++; accepted++;
                    assert(!closed);
                    break
                :: else -> position = tail; seen = flags
                fi
            }
        fi
    od;
    at = 0
}

inline publish(who, n) {
    atomic {
        assert(stamp[position % CAPACITY] + CAPACITY <= position + 1 || stamp[position % CAPACITY] == 0);
        assert(position < head + CAPACITY);
        slot_sender[position % CAPACITY] = who;
        slot_number[position % CAPACITY] = n
    }
    stamp[position % CAPACITY] = position + 1;
    atomic { position = 0; seen = 0 }
}

inline run_one(who, n) {
    assert(n > last[who]);
    last[who] = n;
    received++
}

active proctype Outside() {
    byte n, position, seen, at, verdict;
    do
    :: n < OUTSIDE_MSGS ->
        n++;
        claim(0);
        if
        :: verdict == 0 -> publish(0, n)
        :: verdict == FULL                      /* told so, and nothing has happened */
        :: verdict == OFF || verdict == OVER -> break
        fi
    :: else -> break
    od
}

active proctype Library() {
    byte n, position, seen, at, verdict;
    do
    :: n < LIBRARY_MSGS ->
        n++;
        claim(STOPPING);
        if
        :: verdict == 0 -> publish(1, n)
        :: verdict == FULL ->
            take_lock();
            if
            :: flags & CLOSED -> lock = 0; break
            :: else ->
                atomic { overflow_list!n; accepted++; assert(!closed) }
#ifndef OVERFLOW_UNFROZEN
                flags = flags | OVERFLOWED;
#endif
                overflow++;
                lock = 0;
                attention = 1
            fi
        :: verdict == OVER -> break
        fi
    :: else -> break
    od
}

active proctype Gater() {
    flags = flags | STOPPING
}

active proctype Receiver() {
    byte n, number, at, seen, trims, rewinds;
end_receiver:
    do
    :: stamp[head % CAPACITY] == head + 1 || attention ->
        /* poll_begin: ring_take, then ring_take_overflow */
        n = 0;
        do
        :: n < LIMIT && stamp[(head + n) % CAPACITY] == head + n + 1 ->
            atomic { run_one(slot_sender[(head + n) % CAPACITY], slot_number[(head + n) % CAPACITY]); n++ }
        :: else -> break
        od;
        head = head + n;
        if
        :: attention && n < LIMIT ->
#ifndef LATE_ATTENTION
            attention = 0;
#endif
#ifdef OVERFLOW_UNLOOKED
            at = tail;
            take_lock();
            if
            :: at != head
#else
            take_lock();
            if
            :: tail != head
#endif
            :: else ->
                do
                :: n < LIMIT && nempty(overflow_list) ->
                    atomic { overflow_list?number -> run_one(1, number); n++; overflow-- }
                :: n >= LIMIT || empty(overflow_list) -> break
                od;
                if
                :: empty(overflow_list) -> flags = flags & (CLOSED | STOPPING)
                :: nempty(overflow_list)
                fi
            fi;
            lock = 0;
#ifdef LATE_ATTENTION
            attention = 0
#else
            if
            :: overflow -> attention = 1
            :: else
            fi
#endif
        :: else
        fi;
        atomic { n = 0; number = 0; at = 0 }

    /* Idle: ring_trim. The slots lose their stamps one after the other. */
    :: trims < TRIMS && head && tail == head && !flags ->
        atomic {
            trims++;
            if
            :: tail == head && !flags ->
#ifndef TRIM_UNFLAGGED
                flags = flags | TRIMMING;
#endif
                seen = 1
            :: else
            fi
        }
        if
        :: seen ->
            n = 0;
            do
            :: n < CAPACITY -> stamp[n] = 0; n++
            :: else -> break
            od;
            flags = flags & (CLOSED | STOPPING | OVERFLOWED)
        :: else
        fi;
        atomic { n = 0; seen = 0 }

    /* ring_rewind: the next message goes into the first slot. */
    :: rewinds < REWINDS && head % CAPACITY && tail == head && !flags ->
        at = (head / CAPACITY + 1) * CAPACITY;
#ifdef REWIND_BLINDLY
        rewinds++;
        atomic { tail = at; flags = flags | TRIMMING; seen = 1 }
#else
        atomic {
            rewinds++;
            if
            :: tail == head && !flags -> tail = at; flags = flags | TRIMMING; seen = 1
            :: else
            fi
        }
#endif
        if
        :: seen ->
            head = at;
            head_seen = at;
            flags = flags & (CLOSED | STOPPING | OVERFLOWED)
        :: else
        fi;
        atomic { at = 0; seen = 0 }

    /* The thread may exit: ring_close. Tried when it may succeed, so that a receiver which never may does stand still. */
    :: tail == head && !(flags & OVERFLOWED) ->
        take_lock();
        atomic { at = tail; seen = flags }
        do
        :: !(seen & OVERFLOWED) && at == head ->
#ifdef CLOSE_BLINDLY
            flags = flags | CLOSED;
            closed = 1;
            break
#else
            atomic {
                if
                :: tail == at && flags == seen -> flags = flags | CLOSED; closed = 1; break
                :: else -> at = tail; seen = flags
                fi
            }
#endif
        :: else -> break
        od;
        lock = 0;
        if
        :: closed -> break
        :: else -> atomic { at = 0; seen = 0 }
        fi
    od
}

active proctype Judge() {
    timeout;
    assert(received == accepted);
    assert(closed || (stamp[head % CAPACITY] != head + 1 && empty(overflow_list)))
}
