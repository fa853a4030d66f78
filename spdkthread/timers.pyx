"""The timer queue: exact deadlines, the same cost at ten and at a million pending timers. See ``timers.pxd``."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.cpython_ext cimport seal

__all__ = ["TimerHandle", "TimerQueue"]

# A bucket of at most this many timers is searched where it lies instead of being sent down.
cdef int SHORT_BUCKET = 4


cdef int timer_queue_init(timer_queue *queue) except -1:
    """Allocate the wheel of a queue that gets its first timer."""
    if queue.wheel == NULL:
        queue.wheel = <timer_wheel *>core_calloc(1, sizeof(timer_wheel))
        if queue.wheel == NULL:
            raise MemoryError("no memory for a timer queue")
        timer_publish(&queue.next_check, TIMER_NEVER)
    return 0


cdef void timer_queue_free(timer_queue *queue) noexcept nogil:
    core_free(queue.wheel)
    queue.wheel = NULL
    queue.overdue = NULL
    timer_publish(&queue.count, 0)


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


# The overdue ones: a pairing heap.

cdef inline bint comes_before(timer_node *one, timer_node *other) noexcept nogil:
    if one.deadline != other.deadline:
        return one.deadline < other.deadline
    return one.queued < other.queued


cdef timer_node *meld(timer_node *one, timer_node *other) noexcept nogil:
    """Of two heaps, one of which may be empty, make one: the later root becomes the first child of the earlier."""
    cdef timer_node *root = one
    cdef timer_node *child = other
    if one == NULL:
        return other
    if other == NULL:
        return one
    if comes_before(other, one):
        root = other
        child = one
    child.prev = root
    child.next = root.child
    if child.next != NULL:
        child.next.prev = child
    root.child = child
    root.next = NULL
    root.prev = NULL
    return root


cdef timer_node *meld_children(timer_node *first) noexcept nogil:
    """One heap of a node's children: in pairs from the left, then the pairs from the right."""
    cdef timer_node *pairs = NULL
    cdef timer_node *root = NULL
    cdef timer_node *second
    cdef timer_node *after
    while first != NULL:
        second = first.next
        after = NULL if second == NULL else second.next
        first = meld(first, second)
        first.next = pairs
        pairs = first
        first = after
    while pairs != NULL:
        after = pairs.next
        pairs.next = NULL
        pairs.prev = NULL
        root = meld(root, pairs)
        pairs = after
    return root


cdef void overdue_put(timer_queue *queue, timer_node *node) noexcept nogil:
    queue.overdue_number += 1
    node.queued = 1 + queue.overdue_number
    node.child = NULL
    node.next = NULL
    node.prev = NULL
    queue.overdue = meld(queue.overdue, node)


cdef void overdue_unlink(timer_queue *queue, timer_node *node) noexcept nogil:
    cdef timer_node *rest = meld_children(node.child)
    if queue.overdue == node:
        queue.overdue = rest
        return
    if node.prev.child == node:
        node.prev.child = node.next
    else:
        node.prev.next = node.next
    if node.next != NULL:
        node.next.prev = node.prev
    queue.overdue = meld(queue.overdue, rest)


cdef timer_node *overdue_after(timer_node *node) noexcept nogil:
    """The next one on a way through the whole heap, NULL behind the last."""
    if node.child != NULL:
        return node.child
    while node.next == NULL:
        while node.prev != NULL and node.prev.child != node:
            node = node.prev
        node = node.prev                # the parent, whose children are all behind
        if node == NULL:
            return NULL
    return node.next


cdef void timer_insert(timer_queue *queue, timer_node *node, uint64_t deadline, uint64_t now) noexcept nogil:
    """Queue `node`. `now` is the tick at or before which nothing is pending any more or only what is overdue."""
    node.deadline = deadline
    if queue.count == 0:
        queue.last = now if now < deadline else deadline
        timer_publish(&queue.next_check, TIMER_NEVER)
    if deadline < queue.last:
        overdue_put(queue, node)
    else:
        node.queued = 1
        put(queue, node)
    timer_publish(&queue.count, queue.count + 1)
    if deadline < queue.next_check:
        timer_publish(&queue.next_check, deadline)
        queue.next_exact = 1


cdef void timer_cancel(timer_queue *queue, timer_node *node) noexcept nogil:
    """Take `node` out; nothing happens when it is not in."""
    if not node.queued:
        return
    if node.queued == 1:
        unlink(queue, node)
    else:
        overdue_unlink(queue, node)
    node.queued = 0
    timer_publish(&queue.count, queue.count - 1)
    # Stays a lower bound, is not the deadline of anything any more.
    if node.deadline == queue.next_check:
        queue.next_exact = 0


cdef timer_node *timer_pop_slow(timer_queue *queue, uint64_t now) noexcept nogil:
    cdef int level, digit, length
    cdef timer_node *node
    cdef timer_node *best
    cdef uint64_t start
    if queue.overdue != NULL:
        best = queue.overdue
        timer_publish(&queue.next_check, best.deadline)
        if now < best.deadline:
            queue.next_exact = 1
            return NULL
        overdue_unlink(queue, best)
        best.queued = 0
        timer_publish(&queue.count, queue.count - 1)
        queue.next_exact = 0
        return best
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
                timer_publish(&queue.next_check, start)
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
            timer_publish(&queue.next_check, best.deadline)
            queue.next_exact = 1
            return NULL
        unlink(queue, best)
        best.queued = 0
        timer_publish(&queue.count, queue.count - 1)
        # The next one may be due as well.
        timer_publish(&queue.next_check, best.deadline)
        queue.next_exact = 0
        return best
    timer_publish(&queue.next_check, TIMER_NEVER)
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
    if queue.overdue != NULL:
        timer_publish(&queue.next_check, queue.overdue.deadline)
        queue.next_exact = 1
        return queue.next_check
    level = lowest_level(queue)
    digit = timer_lowest(queue.wheel.bitmap[level])
    node = queue.wheel.lists[level][digit].first
    while node != NULL:
        if node.deadline < earliest:
            earliest = node.deadline
        node = node.next
    timer_publish(&queue.next_check, earliest)
    queue.next_exact = 1
    return earliest


# For the garbage collector: no tracer may see it.
@cython.profile(False)
@cython.linetrace(False)
cdef int timer_each(timer_queue *queue, timer_visit_fn visit, void *arg) noexcept:
    """Call `visit` with each node, in any order, until it returns something but 0, and return that."""
    cdef timer_node *node = queue.overdue
    cdef uint64_t digits
    cdef int level, digit
    cdef int stop = 0
    while node != NULL and not stop:
        stop = visit(node, arg)
        node = overdue_after(node)
    if queue.wheel == NULL:
        return stop
    for level in range(TIMER_LEVELS):
        digits = queue.wheel.bitmap[level]
        while digits and not stop:
            digit = timer_lowest(digits)
            digits &= digits - 1
            node = queue.wheel.lists[level][digit].first
            while node != NULL and not stop:
                stop = visit(node, arg)
                node = node.next
    return stop


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
        # First what can fail: the queue must not point to a handle without a reference.
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
