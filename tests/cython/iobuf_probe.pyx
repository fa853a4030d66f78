"""Buffers and spin locks as native code uses them, compiled against the installed .pxd files."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from spdkthread cimport (
    IOBUF_OK,
    IOBUF_WAITING,
    IoBufChannel,
    iobuf_abort,
    iobuf_channel_s,
    iobuf_entry,
    iobuf_get,
    iobuf_put,
    spinlock_destroy,
    spinlock_held,
    spinlock_init,
    spinlock_lock,
    spinlock_s,
    spinlock_try,
    spinlock_unlock,
)


cdef struct worker:
    iobuf_channel_s *channel
    iobuf_entry entry
    void *buffer
    bint waits
    uint64_t left
    uint64_t had
    uint64_t wrong
    unsigned char stamp


cdef void use(void *ctx, void *buffer) noexcept nogil:
    """The buffer is the worker's, at once or later."""
    cdef worker *one = <worker *>ctx
    one.buffer = buffer
    one.waits = False
    memset(buffer, one.stamp, 64)


cdef api int work(void *ctx) noexcept nogil:
    """A poller: gets a buffer, looks in the next run whether it is its own still, and puts it."""
    cdef worker *one = <worker *>ctx
    cdef void *buffer = NULL
    cdef int place, verdict
    if one.buffer != NULL:
        for place in range(64):
            one.wrong += (<unsigned char *>one.buffer)[place] != one.stamp
        buffer = one.buffer
        one.buffer = NULL
        one.had += 1
        one.wrong += iobuf_put(one.channel, buffer) != IOBUF_OK
        return 1
    if one.left == 0 or one.waits:
        return 0
    one.left -= 1
    verdict = iobuf_get(one.channel, 64, &one.entry, &buffer)
    if verdict == IOBUF_OK:
        use(one, buffer)
    elif verdict == IOBUF_WAITING:
        one.waits = True
    else:
        one.wrong += 1
    return 1


cdef class Worker:
    """The context of `work`."""

    cdef worker c
    cdef readonly IoBufChannel channel

    def __init__(self, IoBufChannel channel, times, stamp):
        self.channel = channel
        self.c.channel = &channel.c
        self.c.left = times
        self.c.stamp = stamp
        self.c.entry.fn = use
        self.c.entry.ctx = &self.c

    @property
    def address(self):
        return <size_t>&self.c

    @property
    def had(self):
        return self.c.had, self.c.wrong

    @property
    def holds(self):
        return self.c.buffer != NULL

    def get(self, nbytes):
        """The verdict of a get that may wait."""
        cdef void *buffer = NULL
        cdef int verdict
        cdef size_t size = nbytes
        with nogil:
            verdict = iobuf_get(self.c.channel, size, &self.c.entry, &buffer)
            if verdict == IOBUF_OK:
                use(&self.c, buffer)
        return verdict

    def get_now(self):
        """The verdict of one that does not."""
        cdef void *buffer = NULL
        cdef int verdict = iobuf_get(self.c.channel, 1, NULL, &buffer)
        if verdict == IOBUF_OK:
            iobuf_put(self.c.channel, buffer)
        return verdict

    def put(self, offset=0, forget=True):
        """The verdict of a put."""
        cdef void *buffer = self.c.buffer
        if forget:
            self.c.buffer = NULL
        return iobuf_put(self.c.channel, <char *>buffer + <size_t>offset)

    def abort(self):
        return iobuf_abort(&self.c.entry)


cdef struct shared:
    spinlock_s lock
    uint64_t count              # guarded by it
    uint64_t limit
    uint64_t failed

cdef shared table


cdef api int count_up(void *ctx) noexcept nogil:
    """A poller: adds one under the lock."""
    cdef int error = spinlock_lock(&table.lock)
    cdef bint more
    if error:
        table.failed += 1
        return 0
    more = table.count < table.limit
    if more:
        table.count += 1
    table.failed += not spinlock_held(&table.lock)
    table.failed += spinlock_unlock(&table.lock) != 0
    return more


cdef api void leave_locked(void *ctx) noexcept nogil:
    spinlock_lock(&table.lock)


cdef api int leave_locked_poll(void *ctx) noexcept nogil:
    spinlock_lock(&table.lock)
    return 1


def begin(limit):
    table.count = table.failed = 0
    table.limit = limit
    return spinlock_init(&table.lock, b"native")


def verdicts():
    """Of each call, on the current thread, in turn."""
    return [
        spinlock_lock(&table.lock),
        spinlock_lock(&table.lock),
        spinlock_try(&table.lock),
        spinlock_destroy(&table.lock),
        spinlock_unlock(&table.lock),
        spinlock_unlock(&table.lock),
        spinlock_destroy(&table.lock),
        spinlock_lock(&table.lock),
    ]


def state():
    return table.count, table.failed, spinlock_held(&table.lock)
