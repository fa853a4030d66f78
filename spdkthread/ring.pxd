"""The message ring: many senders, one receiver, slots that hold the message itself.

A slot's *stamp* is 1 + the position of the message in it. A sender claims a position with one compare-and-swap on
`tail`, writes the message, and publishes it by storing the stamp; the receiver takes a slot when its stamp is 1 + the
position that it waits for. So zeroed memory is an empty ring, the receiver only reads slots (nothing is cleared), and
a sender that is preempted between claim and publish holds up the receiver at that slot but no other sender::

    position       head                          tail
                    v                             v
    slots   | 41-64 | 42-64 | ... | 57 |  --  | (next claim)
      stamp |  42   |  43   |     | 58 | old  |
                                         ^ claimed, not yet published: the receiver waits here

Room is judged against `head_seen`, the senders' shared copy of `head`; the receiver's line is read only when the ring
looks full. The four top bits of `tail` are flags. Any of them makes the ring look full, so the fast path tests for
them at no cost:

CLOSED  the thread has exited: nothing is accepted any more. Set by the receiver with the compare-and-swap that also
        proves the ring empty, so a message is either taken or refused, never lost in between.
STOPPING the reactor is stopping: nothing from outside, the library's own threads may still send.
OVERFLOWED the library's own messages did not fit and wait in the overflow list. Until the receiver has taken them all,
        every other send is refused as full: that keeps the order of each sender.
TRIMMING the receiver changes an empty ring: it gives the memory back to the kernel, or rewinds it. Set by a
        compare-and-swap that also proves that no claim is under way, and cleared some microseconds, or nanoseconds,
        later; a sender that sees it waits for that.

Rewinding moves `head` and `tail` of an empty ring to the next position of the first slot. Of thousands of threads each
has a message now and then; rewound, these all go through the same few slots of its ring, which a cache holds, and not
through all of its memory.

Order of the atomics, by label:
  A  publish: release store of `stamp`          pairs with  B  acquire load of `stamp` by the receiver
  C  release store of `head` after copying out  pairs with  D  acquire load of `head` by a sender that found it full
  E  release store of `head_seen` after D       pairs with  F  acquire load of `head_seen` by every sender
The receiver's reads of a slot happen before C, hence (D, E, F) before the next lap's writes into it. The claim itself
orders nothing and is relaxed.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u32,
    st_atomic_u64,
    st_cas_relaxed,
    st_load_acquire,
    st_load_relaxed,
    st_store_relaxed,
    st_store_release,
)
from spdkthread.cpython_ext cimport Py_INCREF_raw, likely


cdef extern from *:
    """
    #ifndef SPDKTHREAD_RING
    #define SPDKTHREAD_RING
    #include <string.h>

    enum {
        RING_OK = 0,
        RING_FULL = 1,
        RING_IS_STOPPING = 2,
        RING_IS_CLOSED = 3,
        RING_NO_MEMORY = 4
    };

    enum {
        MSG_PYTHON = 0,        /* fn(*args), at most four of them in the slot */
        MSG_PYTHON_TUPLE = 1,  /* fn(*args[0]) */
        MSG_NATIVE = 2         /* ((void (*)(void *))fn)(args[0]); args[1] is the owner to drop afterwards, or NULL */
    };

    #define RING_CLOSED   ((uint64_t)1 << 63)
    #define RING_STOPPING    ((uint64_t)1 << 62)
    #define RING_OVERFLOWED  ((uint64_t)1 << 61)
    #define RING_TRIMMING ((uint64_t)1 << 60)
    #define RING_POSITION (RING_TRIMMING - 1)

    /* One message, one cache line. `kind` and `nargs` stand right before `args`: a vectorcall borrows the place before
       its arguments for a while (the call of a bound method puts its object there), and what looks on meanwhile, the
       watchdog, needs `fn`. Borrowed, the two are half a pointer each, so `kind` is never MSG_NATIVE then. */
    typedef struct ring_slot {
        st_atomic_u64 stamp;
        void *fn;
        uint32_t kind;
        uint32_t nargs;
        void *args[4];
        uint64_t unused;
    } ring_slot;
    _Static_assert(sizeof(ring_slot) == 64, "a slot is one cache line");
    _Static_assert(sizeof(void *) == 8 && offsetof(ring_slot, args) == offsetof(ring_slot, kind) + 8,
                   "kind and nargs are the word before args");

    typedef struct overflow_message {
        struct overflow_message *next;
        ring_slot slot;
    } overflow_message;

    typedef struct message_ring {
        /* senders: one line besides the slot */
        st_atomic_u64 tail;
        st_atomic_u64 head_seen;
        uint64_t capacity;
        uint64_t mask;
        ring_slot *slots;
        char pad_senders[ST_LINE - 40];
        /* receiver */
        st_atomic_u64 head;
        ring_slot *first_slot;          /* `slots` and `mask` again: an empty poll touches this line and a slot */
        uint64_t wrap;
        uint64_t tail_snapshot;         /* where the backlog was last measured */
        uint64_t high_water;
        uint64_t trimmed;               /* from here to head: the slots used since memory was given back */
        char pad_receiver[ST_LINE - 48];
        /* written once, or when something is in the way */
        void *mapped;
        size_t mapped_bytes;
        st_atomic_u64 overflow;          /* messages in the overflow list */
        st_atomic_u64 refused;
        st_atomic_u32 overflow_lock;
        st_atomic_u32 room_wanted;      /* senders sleep until there is room: see `ring_wait_for_room` */
        overflow_message *overflow_first;
        overflow_message *overflow_last;
        char pad_cold[ST_LINE - 56];
    } message_ring;
    _Static_assert(offsetof(message_ring, head) % ST_LINE == 0, "head has lines of its own");
    _Static_assert(offsetof(message_ring, mapped) % ST_LINE == 0, "cold words have lines of their own");
    _Static_assert(sizeof(message_ring) % ST_LINE == 0, "slots start on a line of their own");

    /* A */
    static inline void ring_publish_stamp(st_atomic_u64 *stamp, uint64_t value) {
    #ifdef SPDKTHREAD_BREAK_ORDERING
        st_store_relaxed(stamp, value);
    #else
        st_store_release(stamp, value);
    #endif
    }
    /* Everything but the stamp. */
    static inline void ring_copy_message(ring_slot *to, const ring_slot *from) {
        memcpy((char *)to + sizeof(st_atomic_u64), (const char *)from + sizeof(st_atomic_u64),
               sizeof(ring_slot) - 2 * sizeof(uint64_t));
    }
    #endif
    """
    const int RING_OK, RING_FULL, RING_IS_STOPPING, RING_IS_CLOSED, RING_NO_MEMORY
    const int MSG_PYTHON, MSG_PYTHON_TUPLE, MSG_NATIVE
    const uint64_t RING_CLOSED, RING_STOPPING, RING_OVERFLOWED, RING_TRIMMING, RING_POSITION

    ctypedef struct ring_slot:
        st_atomic_u64 stamp
        void *fn
        uint32_t kind
        uint32_t nargs
        void *args[4]

    ctypedef struct overflow_message:
        overflow_message *next
        ring_slot slot

    ctypedef struct message_ring:
        st_atomic_u64 tail
        st_atomic_u64 head_seen
        st_atomic_u64 head
        ring_slot *first_slot
        uint64_t wrap
        uint64_t tail_snapshot
        uint64_t high_water
        uint64_t trimmed
        uint64_t capacity
        uint64_t mask
        ring_slot *slots
        void *mapped
        size_t mapped_bytes
        st_atomic_u64 overflow
        st_atomic_u64 refused
        st_atomic_u32 overflow_lock
        st_atomic_u32 room_wanted
        overflow_message *overflow_first
        overflow_message *overflow_last

    void ring_publish_stamp(st_atomic_u64 *stamp, uint64_t value) noexcept nogil
    void ring_copy_message(ring_slot *to, const ring_slot *source) noexcept nogil


cdef message_ring *ring_create(uint64_t capacity) noexcept nogil
cdef void ring_destroy(message_ring *ring) noexcept nogil
cdef int ring_claim_slow(message_ring *ring, uint64_t *tail, uint64_t count, uint64_t passes) noexcept nogil
cdef int ring_add_overflow(message_ring *ring, const ring_slot *message) noexcept nogil
cdef uint32_t ring_take_overflow(message_ring *ring, ring_slot *out, uint32_t limit) noexcept nogil
cdef void *ring_first_overflow(message_ring *ring) noexcept nogil
cdef bint ring_close(message_ring *ring) noexcept nogil
cdef bint ring_trim_wanted(message_ring *ring) noexcept nogil
cdef void ring_trim(message_ring *ring) noexcept nogil
cdef void ring_rewind(message_ring *ring) noexcept nogil
cdef void ring_want_room(message_ring *ring) noexcept nogil
cdef void ring_wait_for_room(message_ring *ring, int64_t timeout_ns) noexcept nogil
cdef void ring_shut(message_ring *ring) noexcept nogil
cdef void ring_set_stopping(message_ring *ring, bint shut) noexcept nogil
cdef void ring_measure(message_ring *ring, uint32_t taken) noexcept nogil
cdef uint64_t ring_high_water(message_ring *ring) noexcept nogil
cdef uint64_t ring_capacity_for(object ring_size) except 0


cdef inline int ring_claim(message_ring *ring, uint64_t count, uint64_t passes, uint64_t *position) noexcept nogil:
    """Claim `count` consecutive slots; `passes` are the flags that do not stop this sender (RING_STOPPING or 0)."""
    cdef uint64_t tail = st_load_relaxed(&ring.tail)
    cdef int verdict
    while True:
        # F. A stale copy only makes the ring look fuller; a tail older than it makes the difference wrap, so full too.
        if not likely(tail - st_load_acquire(&ring.head_seen) + count <= ring.capacity):
            verdict = ring_claim_slow(ring, &tail, count, passes)
            if verdict != RING_OK:
                return verdict
        if st_cas_relaxed(&ring.tail, &tail, tail + count):
            position[0] = tail & RING_POSITION
            return RING_OK


cdef inline int ring_reserve(message_ring *ring, uint64_t passes, uint64_t *position) noexcept nogil:
    """`ring_claim` of one slot for a message that is refused when the ring is full: that counts."""
    cdef int verdict = ring_claim(ring, 1, passes, position)
    if verdict == RING_FULL:
        st_add_relaxed(&ring.refused, 1)
    return verdict


cdef inline ring_slot *ring_slot_at(message_ring *ring, uint64_t position) noexcept nogil:
    return &ring.slots[position & ring.mask]


cdef inline void ring_fill(
    ring_slot *slot, uint32_t kind, PyObject *fn, PyObject *const *args, Py_ssize_t count
) noexcept:
    """Write a Python call into a slot that was claimed, with a reference of each object."""
    cdef Py_ssize_t index
    slot.kind = kind
    slot.nargs = <uint32_t>count
    Py_INCREF_raw(fn)
    slot.fn = fn
    for index in range(count):
        Py_INCREF_raw(args[index])
        slot.args[index] = args[index]


cdef inline void ring_publish(ring_slot *slot, uint64_t position) noexcept nogil:
    ring_publish_stamp(&slot.stamp, position + 1)


cdef inline bint ring_ready(message_ring *ring) noexcept nogil:
    """Receiver only: whether the next message is published."""
    cdef uint64_t head = st_load_relaxed(&ring.head)
    return st_load_acquire(&ring.first_slot[head & ring.wrap].stamp) == head + 1


cdef inline uint32_t ring_take(message_ring *ring, ring_slot *out, uint32_t limit) noexcept nogil:
    """Receiver only: move up to `limit` published messages into `out`, in order."""
    cdef uint64_t head = st_load_relaxed(&ring.head)
    cdef uint32_t taken = 0
    cdef ring_slot *slot
    while taken < limit:
        slot = &ring.first_slot[(head + taken) & ring.wrap]
        if st_load_acquire(&slot.stamp) != head + taken + 1:     # B
            break
        ring_copy_message(&out[taken], slot)
        taken += 1
    if taken:
        st_store_release(&ring.head, head + taken)               # C
        if taken > ring.high_water:
            ring.high_water = taken
        # A full batch hints at a backlog. It is measured once or twice per backlog: tail is the senders' line.
        if taken == limit and head + taken > ring.tail_snapshot:
            ring_measure(ring, taken)
    return taken


cdef inline uint64_t ring_pending(message_ring *ring) noexcept nogil:
    """Messages waiting, overflow ones included. Exact only while nothing moves."""
    cdef uint64_t head = st_load_acquire(&ring.head)
    cdef uint64_t tail = st_load_acquire(&ring.tail)
    cdef uint64_t before
    cdef int64_t in_slots
    while True:
        before = head
        head = st_load_acquire(&ring.head)
        if head == before:
            break
        tail = st_load_acquire(&ring.tail)      # the ring may have been rewound in between
    # Under TRIMMING it is empty, and `tail` may be ahead of `head` all the same.
    in_slots = 0 if tail & RING_TRIMMING else <int64_t>((tail & RING_POSITION) - head)
    return (<uint64_t>in_slots if in_slots > 0 else 0) + st_load_relaxed(&ring.overflow)


cdef class MessageRing:
    cdef message_ring *ring
