"""The timer queue: exact deadlines, the same cost at ten and at a million pending timers. See ``timers.pxd``."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.sealed cimport seal

__all__ = ["TimerHandle", "TimerQueue"]

# A bucket of at most this many timers is searched where it lies instead of being sent down.
cdef int SHORT_BUCKET = 4


cdef int timer_queue_init(timer_queue *queue) except -1:
    """Allocate the wheel of a queue that gets its first timer."""
    if queue.wheel == NULL:
        queue.wheel = <timer_wheel *>core_calloc(1, sizeof(timer_wheel))
        if queue.wheel == NULL:
            raise MemoryError("no memory for a timer queue")
        queue.next_check = TIMER_NEVER
    return 0


cdef void timer_queue_free(timer_queue *queue) noexcept nogil:
    core_free(queue.wheel)
    queue.wheel = NULL
    queue.count = 0


cdef inline uint64_t bucket_start(timer_queue *queue, int level, int digit) noexcept nogil:
    """The earliest tick that belongs to a bucket."""
    cdef int shift = 6 * level
    cdef uint64_t above = 0
    if level < TIMER_LEVELS - 1:
        above = (queue.last >> (shift + 6)) << (shift + 6)
    return above | (<uint64_t>digit << shift)


cdef inline void put(timer_queue *queue, timer_node *node) noexcept nogil:
    """Append to the bucket that `deadline` and `last` name."""
    cdef int level = timer_level(node.deadline, queue.last)
    cdef int digit = <int>((node.deadline >> (6 * level)) & 63)
    cdef timer_list *bucket = &queue.wheel.lists[level][digit]
    node.next = NULL
    node.prev = bucket.final
    if bucket.final == NULL:
        bucket.first = node
        queue.wheel.bitmap[level] |= <uint64_t>1 << digit
    else:
        bucket.final.next = node
    bucket.final = node


cdef inline void unlink(timer_queue *queue, timer_node *node) noexcept nogil:
    cdef int level = timer_level(node.deadline, queue.last)
    cdef int digit = <int>((node.deadline >> (6 * level)) & 63)
    cdef timer_list *bucket = &queue.wheel.lists[level][digit]
    if node.prev == NULL:
        bucket.first = node.next
    else:
        node.prev.next = node.next
    if node.next == NULL:
        bucket.final = node.prev
    else:
        node.next.prev = node.prev
    if bucket.first == NULL:
        queue.wheel.bitmap[level] &= ~(<uint64_t>1 << digit)


cdef int lowest_level(timer_queue *queue) noexcept nogil:
    """The lowest level in use; the queue is not empty."""
    cdef int level = 0
    while queue.wheel.bitmap[level] == 0:
        level += 1
    return level


cdef void send_down(timer_queue *queue, int level, int digit) noexcept nogil:
    """Move `last` up to a bucket's start and its timers to the levels below, in order."""
    cdef timer_list *bucket = &queue.wheel.lists[level][digit]
    cdef timer_node *node = bucket.first
    cdef timer_node *after
    queue.last = bucket_start(queue, level, digit)
    bucket.first = NULL
    bucket.final = NULL
    queue.wheel.bitmap[level] &= ~(<uint64_t>1 << digit)
    while node != NULL:
        after = node.next
        put(queue, node)
        node = after


cdef void rebase(timer_queue *queue, uint64_t last) noexcept nogil:
    """Make room for a deadline before `last`, which a caller with a clock of his own can ask for."""
    cdef timer_node *chain = NULL
    cdef timer_node *chain_end = NULL
    cdef timer_list *bucket
    cdef int level, digit
    for level in range(TIMER_LEVELS):
        while queue.wheel.bitmap[level]:
            digit = timer_lowest(queue.wheel.bitmap[level])
            bucket = &queue.wheel.lists[level][digit]
            if chain == NULL:
                chain = bucket.first
            else:
                chain_end.next = bucket.first
            chain_end = bucket.final
            bucket.first = NULL
            bucket.final = NULL
            queue.wheel.bitmap[level] &= ~(<uint64_t>1 << digit)
    queue.last = last
    while chain != NULL:
        chain_end = chain.next
        put(queue, chain)
        chain = chain_end


cdef void timer_insert(timer_queue *queue, timer_node *node, uint64_t deadline, uint64_t now) noexcept nogil:
    """Queue `node`. `now` is the tick at or before which nothing is pending any more or only what is overdue."""
    if queue.count == 0:
        queue.last = now if now < deadline else deadline
        queue.next_check = TIMER_NEVER
    elif deadline < queue.last:
        rebase(queue, deadline)
    node.deadline = deadline
    node.queued = 1
    put(queue, node)
    queue.count += 1
    if deadline < queue.next_check:
        queue.next_check = deadline
        queue.next_exact = 1


cdef void timer_cancel(timer_queue *queue, timer_node *node) noexcept nogil:
    """Take `node` out; nothing happens when it is not in."""
    if not node.queued:
        return
    unlink(queue, node)
    node.queued = 0
    queue.count -= 1
    # Stays a lower bound, is not the deadline of anything any more.
    if node.deadline == queue.next_check:
        queue.next_exact = 0


cdef timer_node *timer_pop_slow(timer_queue *queue, uint64_t now) noexcept nogil:
    cdef int level, digit, length
    cdef timer_node *node
    cdef timer_node *best
    cdef uint64_t start
    while queue.count:
        level = lowest_level(queue)
        digit = timer_lowest(queue.wheel.bitmap[level])
        node = queue.wheel.lists[level][digit].first
        best = node
        if level:
            start = bucket_start(queue, level, digit)
            if now < start:
                # Nothing is due before `start`, so `last` may follow the time up to here: it changes no bucket.
                if queue.last < now:
                    queue.last = now
                queue.next_check = start
                queue.next_exact = 0
                return NULL
            length = 0
            while node != NULL and length <= SHORT_BUCKET:
                if node.deadline < best.deadline:
                    best = node
                node = node.next
                length += 1
            if node != NULL:
                send_down(queue, level, digit)
                continue
        if now < best.deadline:
            queue.next_check = best.deadline
            queue.next_exact = 1
            return NULL
        unlink(queue, best)
        best.queued = 0
        queue.count -= 1
        # The next one may be due as well.
        queue.next_check = best.deadline
        queue.next_exact = 0
        return best
    queue.next_check = TIMER_NEVER
    return NULL


cdef uint64_t timer_next_deadline(timer_queue *queue) noexcept nogil:
    """The earliest deadline, TIMER_NEVER without one."""
    cdef int level, digit
    cdef timer_node *node
    cdef uint64_t earliest = TIMER_NEVER
    if queue.count == 0:
        return TIMER_NEVER
    if queue.next_exact:
        return queue.next_check
    level = lowest_level(queue)
    digit = timer_lowest(queue.wheel.bitmap[level])
    node = queue.wheel.lists[level][digit].first
    while node != NULL:
        if node.deadline < earliest:
            earliest = node.deadline
        node = node.next
    queue.next_check = earliest
    queue.next_exact = 1
    return earliest


cdef struct handle_node:
    timer_node node             # first: a pointer to it is a pointer to this
    PyObject *handle


cdef class TimerHandle:
    """A timer in a `TimerQueue`."""

    cdef handle_node c
    cdef object item
    cdef object owner

    def __repr__(self):
        return f"<TimerHandle deadline={self.c.node.deadline} {'pending' if self.c.node.queued else 'done'}>"

    @property
    def deadline(self) -> int:
        """The tick at which the timer is due."""
        return self.c.node.deadline

    @property
    def pending(self) -> bool:
        """Whether it has neither expired nor been cancelled."""
        return self.c.node.queued != 0


cdef class TimerQueue:
    """The timer queue by itself. Equal deadlines expire in the order in which they were added.

    Notes
    -----
    **Thread safety:** one OS thread at a time. `SpdkThread` uses the same structure for its timed pollers.
    """

    def __cinit__(self):
        self._entries = {}
        timer_queue_init(&self.c)

    def __dealloc__(self):
        timer_queue_free(&self.c)

    def __len__(self):
        return self.c.count

    def add(self, deadline: int, item) -> TimerHandle:
        """Add `item`, due at tick `deadline`.

        Raises
        ------
        ValueError
            When `deadline` is negative or not below 2**64 - 1.
        """
        if not 0 <= deadline < TIMER_NEVER:
            raise ValueError(f"deadline must be a tick, got {deadline}")
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        handle.c.handle = <PyObject *>handle
        handle.item = item
        handle.owner = self
        # First what can fail: the queue must not point to a handle that nobody keeps.
        self._entries[handle] = None
        timer_insert(&self.c, &handle.c.node, deadline, self._now)
        return handle

    def cancel(self, TimerHandle handle not None) -> bool:
        """Take a timer out; False when it has expired or was cancelled already."""
        if handle.owner is not self:
            raise ValueError(f"{handle!r} belongs to another queue")
        if not handle.c.node.queued:
            return False
        timer_cancel(&self.c, &handle.c.node)
        del self._entries[handle]
        return True

    def pop_expired(self, now: int):
        """Take out the earliest timer that is due at tick `now`.

        Returns
        -------
        object or None
            Its item; None when nothing is due.
        """
        cdef timer_node *node = timer_pop(&self.c, now)
        if now > self._now:
            self._now = now
        if node == NULL:
            return None
        # The entry keeps the handle alive until here.
        cdef TimerHandle handle = <TimerHandle>(<handle_node *>node).handle
        del self._entries[handle]
        return handle.item

    @property
    def next_deadline(self) -> int | None:
        """The earliest deadline, or None."""
        cdef uint64_t deadline = timer_next_deadline(&self.c)
        return None if deadline == TIMER_NEVER else deadline


seal(TimerHandle)
