"""The message ring: many senders, one receiver, slots that hold the message itself. See ``ring.pxd``."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.alloc cimport core_calloc, core_discard, core_free, core_map, core_unmap
from spdkthread.atomics cimport (
    st_add_relaxed,
    st_and_acq_rel,
    st_atomic_u32,
    st_atomic_u64,
    st_cas_acq_rel,
    st_exchange32,
    st_fence_seq_cst,
    st_load32_relaxed,
    st_load_acquire,
    st_load_relaxed,
    st_or_acq_rel,
    st_pause,
    st_store32_relaxed,
    st_store_release,
    st_sub_relaxed,
)
from spdkthread.cpython_ext cimport Py_XDECREF_raw
from spdkthread.forks cimport spin_lock, spin_unlock
from spdkthread.os_ext cimport sched_yield

from spdkthread.checks import check_integer

__all__ = ["MessageRing"]

cdef extern from *:
    """
    #include <errno.h>
    #include <limits.h>
    #include <time.h>
    #ifdef __linux__
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #endif

    /* Sleep while `*word` is `value`, at most for so long. */
    static void st_word_wait(st_atomic_u32 *word, uint32_t value, int64_t timeout_ns) {
        struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    #ifdef __linux__
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &limit, NULL, 0);
    #else
        (void)word, (void)value;
        nanosleep(&limit, NULL);
    #endif
    }
    /* Wake what sleeps there. */
    static void st_word_wake(st_atomic_u32 *word) {
    #ifdef __linux__
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    #else
        (void)word;
    #endif
    }
    """
    const size_t ST_LINE
    void st_word_wait(st_atomic_u32 *word, uint32_t value, int64_t timeout_ns) noexcept nogil
    void st_word_wake(st_atomic_u32 *word) noexcept nogil

# So many that of every ring the header, and the slots that are used where it is rewound, are within one page.
cdef enum:
    RING_SHIFTS = 25

cdef st_atomic_u64 rings_made

# Beyond this many slots of 64 bytes no machine has the memory; asking for it is MemoryError, not a try.
# A ring through which fewer messages have passed has little memory to give back.
cdef enum:
    TRIM_SLOTS = 128

# A lap that is not gone through counts as positions all the same, so after very many a ring is not rewound any more.
cdef uint64_t REWIND_POSITIONS = RING_POSITION >> 1

cdef uint64_t MAX_CAPACITY = <uint64_t>1 << 34


cdef uint64_t ring_capacity_for(object ring_size) except 0:
    """Check a `ring_size` and round it up to a power of two."""
    cdef uint64_t capacity = 1
    ring_size = check_integer("ring_size", ring_size)
    if ring_size < 1:
        raise ValueError(f"ring_size must be at least 1, got {ring_size}")
    if ring_size > MAX_CAPACITY:
        raise MemoryError(f"a message ring of {ring_size} slots does not fit into memory")
    while capacity < <uint64_t>ring_size:
        capacity <<= 1
    return capacity


cdef message_ring *ring_create(uint64_t capacity) noexcept nogil:
    """Map a ring of `capacity` slots (a power of two); NULL without memory. No page is touched but the first."""
    # Mapped memory begins on a page: without a shift the first lines of all rings would fall into the same few places
    # of a cache, and a turn over many idle threads reads just these.
    cdef size_t shift = st_add_relaxed(&rings_made, 1) % RING_SHIFTS * ST_LINE
    cdef size_t size = shift + sizeof(message_ring) + capacity * sizeof(ring_slot)
    cdef char *mapped = <char *>core_map(size)
    cdef message_ring *ring
    if mapped == NULL:
        return NULL
    ring = <message_ring *>(mapped + shift)
    ring.capacity = capacity
    ring.mask = ring.wrap = capacity - 1
    ring.slots = ring.first_slot = <ring_slot *>(<char *>ring + sizeof(message_ring))
    ring.mapped = mapped
    ring.mapped_bytes = size
    return ring


cdef void ring_destroy(message_ring *ring) noexcept nogil:
    """Unmap. The owner has taken what was in it."""
    core_unmap(ring.mapped, ring.mapped_bytes)


cdef bint ring_trim_wanted(message_ring *ring) noexcept nogil:
    """Receiver only: whether more than two pages were used since memory was last given back."""
    return st_load_relaxed(&ring.head) - ring.trimmed > TRIM_SLOTS


cdef void ring_trim(message_ring *ring) noexcept nogil:
    """Receiver only: give the memory of an empty ring back to the kernel, if more than two pages of it were used.

    A slot behind `head` belongs to the senders: any of them may claim it and write into it at any time. So the memory
    is taken away under TRIMMING, which is set by the compare-and-swap that finds every claimed slot received, and keeps
    every further claim out. Zeroed slots are those of an empty ring, whatever `head` is: no stamp is 0.
    """
    cdef uint64_t head = st_load_relaxed(&ring.head)
    cdef uint64_t tail = st_load_relaxed(&ring.tail)
    if not ring_trim_wanted(ring):
        return
    # With any other flag set it is not an idle ring.
    if tail != head or not st_cas_acq_rel(&ring.tail, &tail, head | RING_TRIMMING):
        return
    core_discard(ring.slots, ring.capacity * sizeof(ring_slot))
    ring.trimmed = head
    # Releases the zeroed slots to the sender whose claim reads the cleared flag.
    st_and_acq_rel(&ring.tail, ~RING_TRIMMING)


cdef void ring_rewind(message_ring *ring) noexcept nogil:
    """Receiver only: have the next message of an empty ring go into the first slot."""
    cdef uint64_t head = st_load_relaxed(&ring.head)
    cdef uint64_t tail = st_load_relaxed(&ring.tail)
    cdef uint64_t first = (head | ring.mask) + 1
    if head & ring.mask == 0 or tail != head or first > REWIND_POSITIONS:
        return
    if not st_cas_acq_rel(&ring.tail, &tail, first | RING_TRIMMING):
        return
    # What is counted is slots: none was used again that had not been in use since memory was last given back.
    ring.trimmed = first if not ring_trim_wanted(ring) else ring.trimmed + (first - head)
    st_store_release(&ring.head, first)                     # C
    st_store_release(&ring.head_seen, first)
    st_and_acq_rel(&ring.tail, ~RING_TRIMMING)


cdef int ring_claim_slow(message_ring *ring, uint64_t *tail, uint64_t count, uint64_t passes) noexcept nogil:
    """What a claim does when the ring looks full: say why it is refused, or let it go on with a fresh `tail`."""
    cdef uint64_t flags, head
    cdef int64_t waiting
    cdef uint32_t spins = 0
    while True:
        flags = tail[0] & ~RING_POSITION
        if flags & RING_CLOSED:
            return RING_IS_CLOSED
        if flags & RING_STOPPING & ~passes:
            return RING_IS_STOPPING
        if flags & RING_OVERFLOWED:
            return RING_FULL
        if flags & RING_TRIMMING:
            spins += 1
            if spins < 1000:
                st_pause()
            else:
                sched_yield()                               # the receiver is off its core: let it go on
            tail[0] = st_load_acquire(&ring.tail)
            continue
        head = st_load_acquire(&ring.head)                  # D
        waiting = <int64_t>((tail[0] & RING_POSITION) - head)
        if waiting < 0:
            tail[0] = st_load_relaxed(&ring.tail)           # older than head: it has moved meanwhile
            continue
        if <uint64_t>waiting + count > ring.capacity:
            return RING_FULL
        st_store_release(&ring.head_seen, head)             # E
        return RING_OK


# An iteration, or the end of a device, whose next message cannot be sent would never complete. So a
# message that finds neither room in the ring nor memory has a node here; pages that are never used cost nothing.
cdef enum:
    RESERVED = 4096

cdef overflow_message reserve[RESERVED]
cdef overflow_message *reserve_first = NULL   # those given back
cdef uint32_t reserve_used = 0          # those ever taken
cdef st_atomic_u32 reserve_lock


cdef overflow_message *overflow_new() noexcept nogil:
    global reserve_first, reserve_used
    cdef overflow_message *node = <overflow_message *>core_calloc(1, sizeof(overflow_message))
    if node == NULL:
        spin_lock(&reserve_lock)
        if reserve_first != NULL:
            node = reserve_first
            reserve_first = node.next
        elif reserve_used < RESERVED:
            node = &reserve[reserve_used]
            reserve_used += 1
        if node != NULL:
            node.next = NULL
        spin_unlock(&reserve_lock)
    return node


cdef void overflow_free(overflow_message *node) noexcept nogil:
    global reserve_first
    if &reserve[0] <= node and node < &reserve[RESERVED]:
        spin_lock(&reserve_lock)
        node.next = reserve_first
        reserve_first = node
        spin_unlock(&reserve_lock)
    else:
        core_free(node)


cdef int ring_add_overflow(message_ring *ring, const ring_slot *message) noexcept nogil:
    """Accept one of the library's own messages although the ring is full.

    OVERFLOWED freezes `tail`: from here until the receiver has emptied the list, no sender can overtake.
    """
    cdef overflow_message *node = overflow_new()
    if node == NULL:
        return RING_NO_MEMORY
    ring_copy_message(&node.slot, message)
    spin_lock(&ring.overflow_lock)
    if st_load_relaxed(&ring.tail) & RING_CLOSED:
        spin_unlock(&ring.overflow_lock)
        overflow_free(node)
        return RING_IS_CLOSED
    if ring.overflow_last == NULL:
        ring.overflow_first = node
    else:
        ring.overflow_last.next = node
    ring.overflow_last = node
    st_or_acq_rel(&ring.tail, RING_OVERFLOWED)
    st_add_relaxed(&ring.overflow, 1)
    spin_unlock(&ring.overflow_lock)
    return RING_OK


cdef uint32_t ring_take_overflow(message_ring *ring, ring_slot *out, uint32_t limit) noexcept nogil:
    """Receiver only: take overflow messages, once every slot claimed before them has been taken."""
    cdef uint32_t taken = 0
    cdef overflow_message *node
    spin_lock(&ring.overflow_lock)
    # Under the lock a list that is not empty means OVERFLOWED, and OVERFLOWED means that `tail` stands still. Looked at
    # before, a sender could still fill the ring and then overflow, and its overflow message would overtake the others.
    if (st_load_acquire(&ring.tail) & RING_POSITION) != st_load_relaxed(&ring.head):
        spin_unlock(&ring.overflow_lock)
        return 0
    while taken < limit and ring.overflow_first != NULL:
        node = ring.overflow_first
        ring.overflow_first = node.next
        ring_copy_message(&out[taken], &node.slot)
        overflow_free(node)
        taken += 1
    st_sub_relaxed(&ring.overflow, taken)
    if ring.overflow_first == NULL:
        ring.overflow_last = NULL
        st_and_acq_rel(&ring.tail, ~RING_OVERFLOWED)
    spin_unlock(&ring.overflow_lock)
    return taken


cdef void *ring_first_overflow(message_ring *ring) noexcept nogil:
    """Receiver only: the function of the message that `ring_take_overflow` would take first, NULL for none."""
    cdef void *fn = NULL
    if st_load_relaxed(&ring.overflow) == 0:
        return NULL
    spin_lock(&ring.overflow_lock)
    if ring.overflow_first != NULL and (st_load_acquire(&ring.tail) & RING_POSITION) == st_load_relaxed(&ring.head):
        fn = ring.overflow_first.slot.fn
    spin_unlock(&ring.overflow_lock)
    return fn


cdef bint ring_close(message_ring *ring) noexcept nogil:
    """Receiver only: refuse everything from now on, if nothing is waiting; say whether that was so."""
    cdef uint64_t tail
    cdef bint closed = False
    spin_lock(&ring.overflow_lock)
    tail = st_load_acquire(&ring.tail)
    while not tail & RING_OVERFLOWED and (tail & RING_POSITION) == st_load_relaxed(&ring.head):
        if tail & RING_CLOSED or st_cas_acq_rel(&ring.tail, &tail, tail | RING_CLOSED):
            closed = True
            break
    spin_unlock(&ring.overflow_lock)
    return closed


cdef void ring_shut(message_ring *ring) noexcept nogil:
    """In the child of a fork: refuse everything, whatever waits."""
    st_or_acq_rel(&ring.tail, RING_CLOSED)


cdef void ring_set_stopping(message_ring *ring, bint shut) noexcept nogil:
    """Refuse, or take again, messages from outside."""
    if shut:
        st_or_acq_rel(&ring.tail, RING_STOPPING)
    else:
        st_and_acq_rel(&ring.tail, ~RING_STOPPING)


cdef void ring_measure(message_ring *ring, uint32_t taken) noexcept nogil:
    """Receiver only: bring the high-water mark up to date after a batch was taken."""
    cdef uint64_t tail = st_load_relaxed(&ring.tail) & RING_POSITION
    cdef uint64_t head = st_load_relaxed(&ring.head)
    # What stood in the ring when this batch was taken: it and the rest.
    cdef uint64_t backlog = tail - head + taken
    if backlog > ring.high_water:
        ring.high_water = backlog if backlog < ring.capacity else ring.capacity
    ring.tail_snapshot = tail
    if backlog >= ring.capacity >> 1:
        ring_measure_room(ring, tail, head)


cdef void ring_measure_room(message_ring *ring, uint64_t tail, uint64_t head) noexcept nogil:
    """Receiver only: tell senders that wait for room when half of the ring is free."""
    if tail - head > ring.capacity >> 1:
        ring.tail_snapshot = tail - (ring.capacity >> 1)        # measured again there
    elif st_load32_relaxed(&ring.room_wanted) and st_exchange32(&ring.room_wanted, 0):
        st_word_wake(&ring.room_wanted)


cdef void ring_want_room(message_ring *ring) noexcept nogil:
    """Sender that found the ring full: have the receiver say when half of it is free; to be tried once more then."""
    st_store32_relaxed(&ring.room_wanted, 1)
    st_fence_seq_cst()


cdef void ring_wait_for_room(message_ring *ring, int64_t timeout_ns) noexcept nogil:
    """Sleep until the receiver has said so, `timeout_ns` at most.

    The receiver has no fence between what it frees and its look at `room_wanted`, so it may miss a request of just
    that moment, and it says nothing of room that messages of the overflow list leave. A caller's limit of a millisecond
    bounds both.
    """
    st_word_wait(&ring.room_wanted, 1, timeout_ns)


cdef uint64_t ring_high_water(message_ring *ring) noexcept nogil:
    """The most messages that are known to have waited at once."""
    cdef uint64_t pending = ring_pending(ring)
    if st_load_relaxed(&ring.refused):
        return ring.capacity if pending < ring.capacity else pending
    return pending if pending > ring.high_water else ring.high_water


cdef class MessageRing:
    """A message ring by itself, as a queue of calls.

    Parameters
    ----------
    capacity : int
        Slots; rounded up to a power of two. Allocated at once, untouched until used.

    Raises
    ------
    ValueError
        When `capacity` is below 1.
    MemoryError
        When that much memory cannot be had.

    Notes
    -----
    **Thread safety:** `push` from any OS thread; `pop` from one at a time. The ring inside an `SpdkThread` is the same
    structure. The garbage collector does not look into it. Answers to ``spdk_ring_create(SPDK_RING_TYPE_MP_SC)``.
    """

    def __cinit__(self, capacity):
        cdef uint64_t slots = ring_capacity_for(capacity)
        self.ring = ring_create(slots)
        if self.ring == NULL:
            raise MemoryError(f"no memory for a message ring of {slots} slots")

    def __dealloc__(self):
        cdef ring_slot message
        if self.ring == NULL:
            return
        while ring_take(self.ring, &message, 1):
            Py_XDECREF_raw(<PyObject *>message.fn)
            Py_XDECREF_raw(<PyObject *>message.args[0])
        ring_destroy(self.ring)

    def __len__(self):
        return ring_pending(self.ring)

    def __repr__(self):
        return f"<MessageRing {len(self)} of {self.capacity}>"

    def push(self, fn, *args) -> bool:
        """Append the call ``fn(*args)``.

        Returns
        -------
        bool
            False, with no effect, when the ring is full.
        """
        cdef uint64_t position
        cdef ring_slot *slot
        cdef PyObject *packed = <PyObject *>args
        if ring_reserve(self.ring, 0, &position) != RING_OK:
            return False
        slot = ring_slot_at(self.ring, position)
        ring_fill(slot, MSG_PYTHON_TUPLE, <PyObject *>fn, &packed, 1)
        ring_publish(slot, position)
        return True

    def pop(self):
        """Take the oldest call.

        Returns
        -------
        tuple or None
            ``(fn, *args)``; None when nothing is published.
        """
        cdef ring_slot message
        if not ring_take(self.ring, &message, 1):
            return None
        cdef object fn = <object>message.fn
        cdef object args = <object>message.args[0]
        Py_XDECREF_raw(<PyObject *>message.fn)
        Py_XDECREF_raw(<PyObject *>message.args[0])
        return (fn, *args)

    @property
    def capacity(self) -> int:
        """Slots of the ring."""
        return self.ring.capacity
