"""A workload on one channel, at one queue depth, from native completions."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport st_atomic_u32, st_load32_acquire, st_store32_release
from spdkthread.bdev.device cimport BdevChannel, bdev_channel, bdev_read, bdev_write
from spdkthread.bdev.histogram cimport Histogram, histogram_add, histogram_s
from spdkthread.clock cimport st_ticks

__all__ = ["NativeJob"]

WORKLOADS = ("read", "write", "randread", "randwrite", "randrw", "verify")


cdef struct slot_s:
    job_s *job
    char *memory
    uint64_t block
    uint64_t begun
    bint writes
    bint checks                 # verify: the read of what was written


cdef struct job_s:
    bdev_channel *channel
    histogram_s *histogram
    slot_s *slots
    uint64_t nbytes
    uint64_t first, blocks      # of this job
    uint64_t next               # sequential
    uint64_t dice
    uint64_t deadline
    uint64_t reads, writes, errors
    uint64_t began, ended
    uint32_t depth, in_flight
    uint32_t read_percent
    bint at_random, verifies
    int first_error
    st_atomic_u32 stop
    st_atomic_u32 finished


cdef inline uint64_t roll(job_s *job) noexcept nogil:
    job.dice ^= job.dice << 13
    job.dice ^= job.dice >> 7
    job.dice ^= job.dice << 17
    return job.dice


cdef inline uint64_t pattern_word(uint64_t block, uint64_t index) noexcept nogil:
    """What verify writes: each word says where it belongs."""
    cdef uint64_t x = (block << 20) ^ index ^ <uint64_t>0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    return x ^ (x >> 27)


cdef void fill(job_s *job, slot_s *slot) noexcept nogil:
    cdef uint64_t index
    for index in range(job.nbytes // 8):
        (<uint64_t *>slot.memory)[index] = pattern_word(slot.block, index)


cdef bint matches(job_s *job, slot_s *slot) noexcept nogil:
    cdef uint64_t index
    for index in range(job.nbytes // 8):
        if (<uint64_t *>slot.memory)[index] != pattern_word(slot.block, index):
            return False
    return True


cdef void issue(job_s *job, slot_s *slot, uint64_t now) noexcept nogil:
    cdef int refused
    cdef uint64_t at = slot.block * job.nbytes
    slot.begun = now
    if slot.writes:
        refused = bdev_write(job.channel, slot.memory, job.nbytes, at, completed, slot)
    else:
        refused = bdev_read(job.channel, slot.memory, job.nbytes, at, completed, slot)
    if refused:
        failed(job, refused)
    else:
        job.in_flight += 1


cdef inline void failed(job_s *job, int64_t number) noexcept nogil:
    job.errors += 1
    if job.first_error == 0:
        job.first_error = <int>number


cdef void issue_next(job_s *job, slot_s *slot, uint64_t now) noexcept nogil:
    if job.at_random:
        slot.block = job.first + roll(job) % job.blocks
        slot.writes = job.read_percent < 100 and (
            job.read_percent == 0 or (roll(job) >> 20) % 100 >= job.read_percent
        )
    else:
        slot.block = job.first + job.next
        job.next = job.next + 1 if job.next + 1 < job.blocks else 0
        slot.writes = job.read_percent == 0
    if job.verifies:
        slot.writes = True
        slot.checks = False
        fill(job, slot)
    issue(job, slot, now)


cdef void completed(void *ctx, int64_t result) noexcept nogil:
    cdef slot_s *slot = <slot_s *>ctx
    cdef job_s *job = slot.job
    cdef uint64_t now = st_ticks()
    job.in_flight -= 1
    histogram_add(job.histogram, now - slot.begun)
    if slot.writes:
        job.writes += 1
    else:
        job.reads += 1
    if result != <int64_t>job.nbytes:
        failed(job, result if result < 0 else 0)
    elif slot.checks and not matches(job, slot):
        failed(job, 0)
    if job.verifies and slot.writes and result == <int64_t>job.nbytes:
        # Also after the deadline: what was written is read back.
        memset(slot.memory, 0, job.nbytes)
        slot.writes = False
        slot.checks = True
        issue(job, slot, st_ticks())
    elif now < job.deadline and not st_load32_acquire(&job.stop):
        # What fails goes on failing: the job ends rather than spin.
        if result >= 0 or job.errors < 1000:
            issue_next(job, slot, now)
    if job.in_flight == 0:
        job.ended = now
        st_store32_release(&job.finished, 1)


cdef class NativeJob:
    """A workload from native completions.

    Parameters
    ----------
    channel : BdevChannel
    memory : writable buffer
        `depth` times `nbytes`, aligned as the device needs it.
    nbytes : int
        Of a request.
    depth : int
        Requests under way.
    workload : str
        ``"read"``, ``"write"``, ``"randread"``, ``"randwrite"``, ``"randrw"`` or ``"verify"``.
    first, blocks : int
        The part of the device, in requests.
    seconds : float
    read_percent : int, default 50
        Of ``"randrw"``.
    seed : int, default 1

    Notes
    -----
    **Thread safety:** `start` on the channel's thread; `stop` and `finished` on any OS thread; the results once it has
    finished. It keeps the channel, whose reference is the caller's to put.
    """

    cdef job_s job
    cdef Py_buffer view
    cdef bint has_view
    cdef readonly BdevChannel channel
    cdef readonly Histogram histogram

    def __init__(
        self, BdevChannel channel not None, memory, nbytes, depth, workload, first, blocks, seconds, read_percent=50,
        seed=1,
    ):
        cdef uint32_t index
        if self.has_view:
            raise ValueError(f"this {type(self).__name__} is initialised already")
        if workload not in WORKLOADS:
            raise ValueError(f"workload must be one of {', '.join(WORKLOADS)}, got {workload!r}")
        if depth < 1 or nbytes < 1 or blocks < 1:
            raise ValueError(f"depth, nbytes and blocks must be at least 1, got {depth}, {nbytes} and {blocks}")
        if workload == "verify" and nbytes % 8:
            raise ValueError(f"verify needs requests of a multiple of 8 bytes, got {nbytes}")
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.has_view = True
        if self.view.len < depth * nbytes:
            raise ValueError(f"{depth} requests of {nbytes} bytes need more memory than {self.view.len} bytes")
        self.channel = channel
        self.histogram = Histogram()
        self.job.channel = channel.c_channel
        self.job.histogram = self.histogram.h
        self.job.nbytes = nbytes
        self.job.depth = depth
        self.job.first = first
        self.job.blocks = blocks
        self.job.dice = <uint64_t>seed * <uint64_t>0x9E3779B97F4A7C15 | 1
        self.job.deadline = <uint64_t>(seconds * 1e9)
        self.job.at_random = workload.startswith("rand")
        self.job.verifies = workload == "verify"
        self.job.read_percent = {"randrw": read_percent, "read": 100, "randread": 100}.get(workload, 0)
        self.job.slots = <slot_s *>core_calloc(depth, sizeof(slot_s))
        if self.job.slots == NULL:
            raise MemoryError(f"no memory for {depth} requests")
        for index in range(self.job.depth):
            self.job.slots[index].job = &self.job
            self.job.slots[index].memory = <char *>self.view.buf + index * self.job.nbytes

    def __dealloc__(self):
        core_free(self.job.slots)
        if self.has_view:
            PyBuffer_Release(&self.view)

    def start(self) -> None:
        """Begin, on the channel's thread."""
        cdef uint32_t index
        cdef uint32_t depth = self.job.depth
        if self.job.slots == NULL or self.job.began:
            raise ValueError(f"this {type(self).__name__} was never initialised, or has begun already")
        self.job.began = st_ticks()
        self.job.deadline += self.job.began
        if self.job.verifies and depth > self.job.blocks:
            depth = <uint32_t>self.job.blocks       # never two of them at one block
        for index in range(depth):
            issue_next(&self.job, &self.job.slots[index], st_ticks())
        if self.job.in_flight == 0:
            self.job.ended = st_ticks()
            st_store32_release(&self.job.finished, 1)

    def stop(self) -> None:
        """Begin no more requests."""
        st_store32_release(&self.job.stop, 1)

    @property
    def finished(self) -> bool:
        """Whether the last request has completed."""
        return st_load32_acquire(&self.job.finished) != 0

    @property
    def requests(self) -> int:
        """Completed so far. **Thread safety:** any OS thread."""
        return self.job.reads + self.job.writes

    @property
    def errors(self) -> int:
        """Requests that failed, were short, or read what was not written. **Thread safety:** any OS thread."""
        return self.job.errors

    @property
    def first_error(self) -> int:
        """The errno of the first that failed; 0: none, or it was short."""
        return -self.job.first_error

    @property
    def reads(self) -> int:
        """Completed reads."""
        return self.job.reads

    @property
    def writes(self) -> int:
        """Completed writes."""
        return self.job.writes

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first request to the last completion."""
        return (self.job.ended - self.job.began) / 1e9
