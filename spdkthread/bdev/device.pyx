"""Bdev and its channels. See ``queue.h`` for the way of a request, and ``device.pxd`` for native callers."""

import errno
import operator
import os
import stat

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.object cimport PyCallable_Check
from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport EAGAIN, EBADF, EINVAL, ENOTCONN, EPERM, ESHUTDOWN
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t, uintptr_t
from posix.uio cimport iovec
from posix.unistd cimport close as close_fd

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport st_loadp_relaxed
from spdkthread.bdev.histogram cimport Histogram, histogram_add, histogram_s
from spdkthread.clock cimport st_ticks
from spdkthread.forks cimport fork_generation
from spdkthread.iobuf cimport IoBufPool
from spdkthread.io_device cimport CHANNEL_READY, IoChannel, IoDevice, allow_channel, channel_s
from spdkthread.native cimport NativeCall, native_completion
from spdkthread.poller cimport Poller, poller_s
from spdkthread.cpython_ext cimport seal
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport active_pause, active_resume, current_thread, thread_s

from spdkthread.bdev.errors import AlignmentError, BackendError, QueueFullError
from spdkthread.error_log import describe
from spdkthread.errors import DeviceError, NoThreadError
from spdkthread.exit_blockers import register_blocker
from spdkthread.future import make_future

__all__ = ["Bdev", "BdevChannel"]

cdef extern from "queue.h" nogil:
    enum:
        BQ_READ
        BQ_WRITE
        BQ_READV
        BQ_WRITEV
        BQ_FLUSH
        BQ_DISCARD
        BQ_ZEROES
        BQ_URING
        BQ_PLAN
        BQ_BATCHES

    ctypedef struct bq_request:
        bq_request *next
        uint64_t nbytes
        uint64_t done
        uint64_t begun
        iovec *iov
        uint32_t iov_count
        int64_t result
        bdev_completion fn
        void *ctx
        Py_buffer view
        int has_view
        int owned

    ctypedef struct bq_queue:
        int backend
        int refused
        uint32_t in_use
        uint32_t alignment
        uint32_t out_count
        uint64_t calls
        iovec fixed[2]
        uint32_t fixed_wish
        uint32_t fixed_count
        int event_fd
        bq_request *requests

    int bq_open(
        bq_queue *q, int file, bq_request *requests, uint32_t depth, uint32_t alignment, bint cache_first, int wish
    )
    int bq_connect(bq_queue *q, int wish)
    void bq_close(bq_queue *q)
    void bq_part(bq_queue *q)
    void bq_drain(bq_queue *q)
    bq_request *bq_take(bq_queue *q)
    void bq_give_back(bq_queue *q, bq_request *r)
    void bq_start(bq_queue *q, bq_request *r, int op, void *memory, uint64_t nbytes, uint64_t offset)
    void bq_flush(bq_queue *q)
    void bq_reap(bq_queue *q)
    bq_request *bq_next_done(bq_queue *q)
    bint bq_has_unsubmitted(bq_queue *q)
    bint bq_has_waiting(bq_queue *q)
    bint bq_has_done(bq_queue *q)
    int bq_probe(int file)
    bint bq_sleep(bq_queue *q)
    void bq_stay_awake(bq_queue *q)
    void bq_wake(bq_queue *q)
    uint32_t bq_alignment(int file, uint32_t *memory)

cdef extern from *:
    """
    /* How often a double of the system calls steps in, and how; see queue.h. */
    static void bq_double_plan(const int *steps, int count, int repeat) {
        bq_double.count = 0;
        bq_double.next = bq_double.taken = 0;
        bq_double.repeat = repeat;
        for (int k = 0; k < count; k++) bq_double.steps[k] = steps[k];
        bq_double.count = count;
    }
    static int bq_double_taken(void) { return bq_double.taken; }
    static int bq_double_left(void) { return bq_double.count - bq_double.next; }
    static void bq_double_refuse(int number) { uring_double_refusal = number; }
    static void bq_report_last(bq_request **first, bq_request **last, bq_request *r) { bq_put_last(first, last, r); }
    """
    void bq_double_plan(const int *steps, int count, bint repeat) noexcept nogil
    int bq_double_left() noexcept nogil
    int bq_double_taken() noexcept nogil
    void bq_double_refuse(int number) noexcept nogil
    void bq_report_last(bq_request **first, bq_request **last, bq_request *r) noexcept nogil

# Nothing completed for so long, a channel lets its reactor sleep. A fast device answers in less, and to be woken for a
# completion costs about as much.
cdef uint64_t SPIN_TICKS = 60_000
cdef enum:
    MOST_BUFFERS = 1024     # IOV_MAX of every system that has one
    DEPTH_LIMIT = 32768     # entries that an io_uring has at most


cdef struct channel_state:
    bq_queue q
    thread_s *thread
    channel_s *base
    poller_s *poller            # submits, reaps, and runs native completions
    poller_s *reporter          # runs those of Python, and what else needs the GIL
    uint32_t generation         # of forks, see forks.pxd
    bint writable
    bint holds                  # a reference of the channel, as long as there are requests
    bint asleep                 # the poller is paused, and a completion makes the event readable
    bint closing
    uint32_t memory_alignment
    uint32_t depth
    uint64_t idle_since         # ticks; 0: the last poll has completed something
    histogram_s *histogram      # NULL: latencies are not counted, and no clock is read for them
    bq_request *report          # completed, for the reporter
    bq_request *report_last


# ---- without the GIL -------------------------------------------------------------------------------------------------

cdef inline void begun(channel_state *c, bq_request *r) noexcept nogil:
    """There is a new request."""
    if c.histogram != NULL:
        r.begun = st_ticks()
    if not c.holds:
        c.holds = True
        c.base.refs += 1
    if c.asleep:
        c.asleep = False
        bq_stay_awake(&c.q)
    c.idle_since = 0
    active_resume(c.thread, c.poller)


cdef inline int complete_native(channel_state *c) noexcept nogil:
    """Run the completions that need no GIL; the others are for the reporter. How many there were."""
    cdef bq_request *r
    cdef bdev_completion fn
    cdef void *ctx
    cdef int64_t result
    cdef uint64_t now = 0
    cdef int count = 0
    while True:
        r = bq_next_done(&c.q)
        if r == NULL:
            break
        count += 1
        fn = r.fn
        ctx = r.ctx
        result = r.result
        if c.histogram != NULL and r.begun:
            if now == 0:
                now = st_ticks()
            histogram_add(c.histogram, now - r.begun)
            r.begun = 0
        if r.owned:
            bq_report_last(&c.report, &c.report_last, r)
        else:
            # First, so that the completion can use it for the next one.
            bq_give_back(&c.q, r)
        if fn != NULL:
            fn(ctx, result)
    if c.report != NULL:
        active_resume(c.thread, c.reporter)
    return count


cdef int poll_queue(void *ctx) noexcept nogil:
    """The poller of a channel."""
    cdef channel_state *c = <channel_state *>ctx
    cdef int count = 0, calls = 0
    cdef uint64_t now
    if c.generation != fork_generation:
        active_resume(c.thread, c.reporter)
        active_pause(c.thread, c.poller)
        return 0
    # A whole queue at most, in batches; what has completed meanwhile makes room for the next ones.
    while True:
        bq_reap(&c.q)
        count += complete_native(c)
        bq_flush(&c.q)
        calls += 1
        if calls == BQ_BATCHES or not bq_has_waiting(&c.q):
            break
    if count:
        c.idle_since = 0
    if c.q.out_count == 0 and not bq_has_unsubmitted(&c.q):
        # What the submission itself has completed is reported in the next poll.
        if count or not bq_has_done(&c.q):
            if c.q.in_use == 0:
                let_go(c)
            if not bq_has_done(&c.q):
                active_pause(c.thread, c.poller)
    elif count == 0 and st_loadp_relaxed(&c.thread.wakeup) != NULL:
        # Its thread's driver can sleep: an active poller would keep it awake.
        now = st_ticks()
        if c.idle_since == 0:
            c.idle_since = now
        elif now - c.idle_since > SPIN_TICKS and bq_sleep(&c.q):
            c.asleep = True
            active_pause(c.thread, c.poller)
    return count != 0


cdef inline void let_go(channel_state *c) noexcept nogil:
    """No request is left: the reference that they held is given back; a last one with the GIL."""
    if not c.holds:
        return
    if c.base.refs > 1:
        c.holds = False
        c.base.refs -= 1
    else:
        active_resume(c.thread, c.reporter)


cdef int begin_native(
    channel_state *c, int op, void *memory, uint64_t nbytes, uint64_t offset, bdev_completion fn, void *ctx
) noexcept nogil:
    cdef bq_request *r
    if c.thread != current_thread():
        return -EPERM
    if c.closing or c.base.state != CHANNEL_READY:
        return -ESHUTDOWN
    if c.generation != fork_generation:
        return -ENOTCONN
    if op != BQ_READ and not c.writable:
        return -EBADF
    if offset > <uint64_t>INT64_MAX or nbytes > <uint64_t>INT64_MAX - offset:
        return -EINVAL
    if c.memory_alignment and op != BQ_FLUSH and (
        offset % c.q.alignment or nbytes % c.q.alignment or <uintptr_t>memory % c.memory_alignment
    ):
        return -EINVAL
    r = bq_take(&c.q)
    if r == NULL:
        return -EAGAIN
    r.fn = fn
    r.ctx = ctx
    r.owned = False
    bq_start(&c.q, r, op, memory, nbytes, offset)
    begun(c, r)
    return 0


cdef int bdev_read(
    bdev_channel *channel, void *memory, uint64_t nbytes, uint64_t offset, bdev_completion fn, void *ctx
) noexcept nogil:
    return begin_native(<channel_state *>channel, BQ_READ, memory, nbytes, offset, fn, ctx)


cdef int bdev_write(
    bdev_channel *channel, void *memory, uint64_t nbytes, uint64_t offset, bdev_completion fn, void *ctx
) noexcept nogil:
    return begin_native(<channel_state *>channel, BQ_WRITE, memory, nbytes, offset, fn, ctx)


cdef int bdev_flush(bdev_channel *channel, bdev_completion fn, void *ctx) noexcept nogil:
    return begin_native(<channel_state *>channel, BQ_FLUSH, NULL, 0, 0, fn, ctx)


# ---- the device ------------------------------------------------------------------------------------------------------

BACKENDS = ("auto", "io_uring", "threads")


cdef class Bdev(IoDevice):
    """A file or block device that every thread reads and writes through a channel of its own.

    Parameters
    ----------
    path : str or os.PathLike
    direct : bool, default False
        Past the page cache (``O_DIRECT``): offsets, lengths and memory have to be aligned, see `block_size`.
    readonly : bool, default False
        Nothing can be written through it.
    create_bytes : int, optional
        Make a file of that many bytes, zeros, where there is none; a shorter one is made longer. Nothing is cut off.
    depth : int, default 128
        Requests that a channel has under way at most.
    backend : {"auto", "io_uring", "threads"}
        How a channel reaches the kernel: by an io_uring, or by a few OS threads that block in system calls.
        ``"auto"``: by io_uring where the kernel lets this process have one.
    iobuf_pool : IoBufPool, optional
        Have the ring of each channel register the pool's memory: requests on its buffers then need not look their pages
        up. The memory counts as locked by the process (``RLIMIT_MEMLOCK``), once for each channel; where that is too
        much, and over OS threads, its buffers are used like any others. See `BdevChannel.registered_bytes`.
    lib : ThreadLib, optional
        By default the process-wide one.

    Raises
    ------
    OSError
        When the file cannot be opened.
    BackendError
        When `backend` is ``"io_uring"`` and the kernel refuses it.
    TypeError, ValueError
        For a bad argument.

    Notes
    -----
    The file stays open from here to the end of `unregister`; one that is replaced in its directory meanwhile is not
    looked at. Every thread that calls `get_io_channel` gets a `BdevChannel`.

    **Thread safety:** as `IoDevice`. Answers to ``struct spdk_bdev`` and ``spdk_bdev_open_ext``.
    """

    def __cinit__(self):
        self.fd = -1

    def __init__(
        self, path, *, direct=False, readonly=False, create_bytes=None, depth=128, backend="auto", iobuf_pool=None,
        lib=None,
    ):
        cdef int fd
        if self.lib is not None:
            raise DeviceError(f"{self!r} is initialised already")
        if not isinstance(backend, str):
            raise TypeError(f"backend must be a str, got {type(backend).__name__}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be 'auto', 'io_uring' or 'threads', got {backend!r}")
        if isinstance(depth, bool) or not 1 <= (number := operator.index(depth)) <= DEPTH_LIMIT:
            raise ValueError(f"depth must be from 1 to {DEPTH_LIMIT}, got {depth!r}")
        if iobuf_pool is not None and not isinstance(iobuf_pool, IoBufPool):
            raise TypeError(f"iobuf_pool must be an IoBufPool or None, got {type(iobuf_pool).__name__}")
        if create_bytes is not None:
            create_bytes = operator.index(create_bytes)
            if create_bytes < 0:
                raise ValueError(f"create_bytes must not be negative, got {create_bytes}")
            if readonly:
                raise ValueError("create_bytes makes a file, which readonly forbids")
        path = os.fsdecode(os.fspath(path))
        self.path = path
        self.depth = number
        self.direct = bool(direct)
        self.readonly = bool(readonly)
        self.iobuf_pool = iobuf_pool
        self.wish = BACKENDS.index(backend)
        if create_bytes is not None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size < create_bytes:
                    os.ftruncate(fd, create_bytes)
            finally:
                os.close(fd)
        self._open_file()
        try:
            IoDevice.__init__(self, os.path.basename(path) or path, lib=lib)
        except BaseException:
            self._close_file()
            raise

    def __dealloc__(self):
        self._close_file()

    @classmethod
    def open(
        cls, path, *, direct=False, readonly=False, create_bytes=None, depth=128, backend="auto", iobuf_pool=None,
        lib=None,
    ):
        """Open a file or block device and register it: see the class for the parameters.

        Returns
        -------
        Bdev
            Registered. `IoDevice.unregister` closes the file when the last channel is gone.

        Notes
        -----
        **Thread safety:** any OS thread.
        """
        return cls(
            path, direct=direct, readonly=readonly, create_bytes=create_bytes, depth=depth, backend=backend,
            iobuf_pool=iobuf_pool, lib=lib,
        ).register()

    def __repr__(self):
        if self.lib is None:
            return f"<{type(self).__name__}, never initialised>"
        how = self.backend
        if self.refused:
            how += f" (io_uring was refused: {self.refusal})"
        flags = (", direct" if self.direct else "") + (", readonly" if self.readonly else "")
        return f"{IoDevice.__repr__(self).removesuffix(">")}, {how}{flags}>"

    cdef int _open_file(self) except -1:
        cdef int failed
        flags = (os.O_RDONLY if self.readonly else os.O_RDWR) | os.O_CLOEXEC
        if self.direct:
            flags |= getattr(os, "O_DIRECT", 0)
        fd = os.open(self.path, flags)
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            os.close(fd)
            raise ValueError(f"{self.path!r} is neither a regular file nor a block device")
        self.fd = fd
        self.is_block = stat.S_ISBLK(mode)
        self.block_size = bq_alignment(fd, &self.memory_alignment) or 512
        if self.direct:
            # Where neither is to be found out: what every device takes.
            self.memory_alignment = max(self.memory_alignment, 1)
            self.offset_alignment = self.block_size
        else:
            self.memory_alignment = self.offset_alignment = 0
        self.cache_first = not self.direct and not self.is_block
        self.refused = 0
        if self.wish != 2:
            self.refused = failed = bq_probe(fd)
            if failed and self.wish == 1:
                self._close_file()
                raise BackendError(
                    f"no io_uring for {self.path!r}: {os.strerror(failed)} "
                    f"({errno.errorcode.get(failed, failed)}); backend='threads' needs none"
                )
        return 0

    cdef int _close_file(self) noexcept:
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1
        return 0

    cdef IoChannel _new_channel(self):
        allow_channel()
        return BdevChannel.__new__(BdevChannel)

    def register(self):
        """Let threads get channels. What `open` returns is registered; to do so again does nothing.

        Returns
        -------
        Bdev
            Itself.

        Raises
        ------
        OSError
            When it was unregistered, and the file cannot be opened again.
        DeviceError, SpdkThreadError
            As `IoDevice.register`.
        """
        if self.lib is not None and not self.is_registered:
            if self.fd < 0 and self.state == "unregistered":
                self._open_file()
            IoDevice.register(self)
        elif self.lib is None:
            IoDevice.register(self)
        return self

    def _finish_unregister(self):
        self._close_file()
        IoDevice._finish_unregister(self)

    def create_channel(self, channel):
        (<BdevChannel?>channel)._begin(self)

    def destroy_channel(self, channel):
        (<BdevChannel?>channel)._finish()

    @property
    def size(self) -> int:
        """Bytes at present; 0 once it is closed. **Thread safety:** any OS thread."""
        if self.fd < 0:
            return 0
        return os.lseek(self.fd, 0, os.SEEK_END) if self.is_block else os.fstat(self.fd).st_size

    @property
    def backend(self) -> str:
        """``"io_uring"``, or ``"threads"``. **Thread safety:** any OS thread."""
        return "threads" if self.wish == 2 or self.refused else "io_uring"

    @property
    def refusal(self):
        """Why the backend is not io_uring although it was asked for, as an errno's name such as ``"EPERM"``; else None.

        **Thread safety:** any OS thread.
        """
        return errno.errorcode.get(self.refused, str(self.refused)) if self.refused else None

    # Awaited

    def read(self, buffer, offset, *, thread=None):
        """Read into `buffer`: ``count = await bdev.read(buffer, offset)``.

        Parameters
        ----------
        buffer : writable buffer
            Not to be touched until then.
        offset : int
            Bytes from the beginning.
        thread : SpdkThread, optional
            Through whose channel. By default the current one's; where none is current, that of the first thread that
            has a channel, or else of the first one of the library that a reactor polls.

        Returns
        -------
        SpdkFuture
            Resolves to the bytes that were read, fewer than asked for at the end of the file; or carries the OSError.
            To be awaited in a spawned coroutine or under asyncio, or waited for on an OS thread that polls nothing.

        Raises
        ------
        NoThreadError
            When there is no `thread` and none is to be found.
        QueueFullError, AlignmentError, TypeError, ValueError
            As `BdevChannel.read`: here when the channel is the current thread's, otherwise from the future.

        Notes
        -----
        A reference to the channel is held meanwhile. Where requests follow each other with pauses, hold one all the
        time (``async with bdev.channel():``), or each of them makes the channel anew.

        **Thread safety:** any OS thread.
        """
        return self._start("read", (buffer, offset), thread)

    def write(self, buffer, offset, *, thread=None):
        """Write `buffer`; as `read`."""
        return self._start("write", (buffer, offset), thread)

    def readv(self, buffers, offset, *, thread=None):
        """Read into one buffer after the other; as `read`."""
        return self._start("readv", (buffers, offset), thread)

    def writev(self, buffers, offset, *, thread=None):
        """Write one buffer after the other; as `read`."""
        return self._start("writev", (buffers, offset), thread)

    def flush(self, *, thread=None):
        """Have what was written, and has completed, on the medium; as `read`. Resolves to 0."""
        return self._start("flush", (), thread)

    def discard(self, offset, nbytes, *, thread=None):
        """Give the blocks back to the device; as `read`. Resolves to `nbytes`."""
        return self._start("discard", (offset, nbytes), thread)

    def write_zeroes(self, offset, nbytes, *, thread=None):
        """Write zeros, without a buffer; as `read`. Resolves to `nbytes`."""
        return self._start("write_zeroes", (offset, nbytes), thread)

    def _start(self, str what not None, tuple args not None, thread):
        cdef thread_s *here = current_thread()
        if thread is not None and not isinstance(thread, SpdkThread):
            raise TypeError(f"thread must be an SpdkThread or None, got {type(thread).__name__}")
        if thread is None:
            thread = self._any_thread(what) if here == NULL else <object>here.owner
        future = make_future(thread, running=True)
        waiter = Awaited.__new__(Awaited, future)
        if here != NULL and &(<SpdkThread>thread).c == here:
            self._issue(what, args, waiter)
        else:
            thread.send_msg(self._issue_remote, what, args, waiter)
        return future

    def _issue(self, str what not None, tuple args not None, Awaited waiter not None):
        """On the thread: begin the request."""
        waiter.channel = channel = self.get()
        try:
            getattr(channel, what)(*args, waiter)
        except BaseException:
            waiter.channel = None
            channel.put()
            raise

    def _issue_remote(self, str what not None, tuple args not None, Awaited waiter not None):
        try:
            self._issue(what, args, waiter)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            waiter.future.set_exception(error)

    def _any_thread(self, str what not None):
        for channel in self.channels:
            return channel.thread
        for thread in self.lib.threads:
            if thread._placed_on() is not None and not thread.is_exited:
                return thread
        raise NoThreadError(
            f"{what} of {self!r} is awaited where no SpdkThread is current, and no thread of its library is on a "
            "reactor: pass thread="
        )


cdef class Awaited:
    """The completion of a request that is awaited."""

    cdef object future
    cdef IoChannel channel
    cdef object __weakref__

    def __cinit__(self, future):
        self.future = future

    def __del__(self):
        if not self.future.done():
            self.future._settle_orphan("the request was dropped with the thread of its channel")

    def __call__(self, count, error):
        channel, self.channel = self.channel, None
        try:
            if error is None:
                self.future.set_result(count)
            else:
                self.future.set_exception(error)
        finally:
            # After the coroutine is on its way: it may ask for the channel again before that is destroyed.
            channel.put()


# ---- the channel -----------------------------------------------------------------------------------------------------

cdef class BdevChannel(IoChannel):
    """What one thread has of a `Bdev`: a queue of requests. Made by ``bdev.get_io_channel()``.

    Every method begins a request and returns at once; ``cb(count, error)`` runs on the same thread, in a later poll,
    never inside the call. `count` is the bytes that were moved, `error` an OSError or None. Requests of one turn are
    submitted by one system call. They complete in any order.

    Buffers are the caller's: nothing is copied, each is kept alive until its completion, and the kernel touches none
    afterwards. A short transfer is continued; what a read lacks in the end was beyond the end of the file. The channel
    is not destroyed before its requests have completed.

    Notes
    -----
    **Thread safety:** its own thread only. Answers to ``spdk_bdev_get_io_channel``, ``spdk_bdev_read`` and so on.
    """

    def __dealloc__(self):
        cdef channel_state *c = <channel_state *>self.c_channel
        cdef uint32_t index
        if c == NULL:
            return
        self.c_channel = NULL
        # Its thread was dropped before the channel was put: what is under way must not outlive the buffers.
        if not c.closing:
            c.closing = True
            if c.generation == fork_generation:
                with nogil:
                    bq_drain(&c.q)
                    bq_close(&c.q)
            else:
                bq_part(&c.q)
        for index in range(c.depth):
            if c.q.requests[index].has_view:
                PyBuffer_Release(&c.q.requests[index].view)
        core_free(c.q.requests)
        core_free(c)

    def __repr__(self):
        cdef channel_state *c = <channel_state *>self.c_channel
        if c == NULL or c.closing:
            return f"<BdevChannel{IoChannel.__repr__(self)[10:]}"
        how = "io_uring" if c.q.backend == BQ_URING else "threads"
        words = IoChannel.__repr__(self)[10:].removesuffix(">")
        return f"<BdevChannel{words}, {c.q.in_use} of {c.depth} requests, {how}>"

    def _begin(self, Bdev bdev not None):
        """Make the queue."""
        cdef channel_state *c = <channel_state *>core_calloc(1, sizeof(channel_state))
        cdef bq_request *requests = <bq_request *>core_calloc(bdev.depth, sizeof(bq_request))
        cdef Poller poller
        cdef int failed, kind
        if c == NULL or requests == NULL:
            core_free(c)
            core_free(requests)
            raise MemoryError(f"no memory for {bdev.depth} requests of {self!r}")
        c.depth = bdev.depth
        c.thread = self.c.thread
        c.base = &self.c
        c.generation = fork_generation
        c.writable = not bdev.readonly
        c.memory_alignment = bdev.memory_alignment
        if bdev.iobuf_pool is not None:
            for kind in range(2):
                c.q.fixed[kind].iov_base = bdev.iobuf_pool.pool.classes[kind].memory
                c.q.fixed[kind].iov_len = (
                    bdev.iobuf_pool.pool.classes[kind].size * bdev.iobuf_pool.pool.classes[kind].count
                )
            c.q.fixed_wish = 2
        failed = bq_open(
            &c.q, bdev.fd, requests, bdev.depth, bdev.offset_alignment, bdev.cache_first,
            0 if bdev.wish == 2 or bdev.refused else 1 if bdev.wish == 1 else 2,
        )
        if failed:
            core_free(c)
            core_free(requests)
            raise OSError(failed, os.strerror(failed), bdev.path)
        self._held = [None] * bdev.depth
        self.c_channel = <bdev_channel *>c
        try:
            self._reporter = poller = self.thread.register_poller(self._report, name=f"{bdev.name} completions")
            c.reporter = &poller.c
            poller.pause()
            self._poller = poller = self.thread.register_native_poller(
                PyCapsule_New(<void *>poll_queue, "int (void *)", NULL), <uintptr_t>c, name=f"{bdev.name} queue"
            )
            c.poller = &poller.c
            poller.pause()
            self._handler = self.thread.register_fd(c.q.event_fd, self._rung, name=f"{bdev.name} completions")
        except BaseException:
            self._finish()
            raise

    def _finish(self):
        """The channel's end: what is under way is waited for."""
        cdef channel_state *c = <channel_state *>self.c_channel
        if c == NULL or c.closing:
            return
        c.closing = True
        if c.generation != fork_generation:
            bq_part(&c.q)
        else:
            with nogil:
                bq_drain(&c.q)
        complete_native(c)
        for one in (self._handler, self._poller, self._reporter):
            if one is not None:
                one.unregister()
        if c.generation == fork_generation:
            with nogil:
                bq_close(&c.q)
        complete_python(self, c)

    def _renew(self):
        """In the child of a fork: a queue of its own. What was under way in the parent is cancelled here."""
        cdef channel_state *c = <channel_state *>self.c_channel
        cdef Bdev bdev = <Bdev>self.device
        cdef int failed
        if not self._handler._over:
            self._handler.unregister()
        bq_part(&c.q)
        c.generation = fork_generation
        failed = bq_connect(&c.q, 2 if bdev.wish != 2 else 0)
        if failed:
            c.closing = True
            complete_native(c)
            self._poller.unregister()
            self._reporter.unregister()
            complete_python(self, c)
            raise OSError(failed, os.strerror(failed), bdev.path)
        self._handler = self.thread.register_fd(c.q.event_fd, self._rung, name=f"{bdev.name} completions")
        active_resume(c.thread, c.poller)

    def _rung(self):
        """A completion has come while the poller rested."""
        cdef channel_state *c = <channel_state *>self.c_channel
        if c.generation != fork_generation:
            self._renew()
            return
        bq_wake(&c.q)
        if c.asleep:
            c.asleep = False
            c.idle_since = 0
            active_resume(c.thread, c.poller)

    def _report(self):
        """The poller that needs the GIL."""
        cdef channel_state *c = <channel_state *>self.c_channel
        cdef int count = 0
        if c.generation != fork_generation:
            self._renew()
            complete_native(c)
        count = complete_python(self, c)
        if c.report == NULL:
            active_pause(c.thread, c.reporter)
        if c.holds and c.q.in_use == 0:
            c.holds = False
            if self.c.refs:
                self.put()
        return count

    def read(self, buffer, offset, cb) -> None:
        """Read into `buffer`, as many bytes as it has; then ``cb(count, error)``.

        Parameters
        ----------
        buffer : writable buffer
            Of one piece: bytearray, memoryview, mmap, NumPy array. Not to be touched until the completion.
        offset : int
            Bytes from the beginning of the file or device.
        cb : callable
            `count` is less than the buffer's size at the end of the file.

        Raises
        ------
        QueueFullError
            As many requests as the channel takes are under way; nothing has happened.
        AlignmentError
            The device was opened direct, and something is not aligned.
        WrongThreadError
            On another thread than the channel's own.
        DeviceError
            The channel has no reference left.
        TypeError, ValueError
            For a bad argument, such as a read-only buffer or a negative offset.

        Notes
        -----
        **Thread safety:** its own thread only. Answers to ``spdk_bdev_read``.
        """
        transfer(self, "read", BQ_READ, buffer, offset, cb, None)

    def write(self, buffer, offset, cb) -> None:
        """Write `buffer`; as `read`. Beyond the end a file grows. Answers to ``spdk_bdev_write``."""
        transfer(self, "write", BQ_WRITE, buffer, offset, cb, None)

    def readv(self, buffers, offset, cb) -> None:
        """Read into one buffer after the other; as `read`. Answers to ``spdk_bdev_readv``."""
        transfer_vector(self, "readv", BQ_READV, buffers, offset, cb)

    def writev(self, buffers, offset, cb) -> None:
        """Write one buffer after the other; as `read`. Answers to ``spdk_bdev_writev``."""
        transfer_vector(self, "writev", BQ_WRITEV, buffers, offset, cb)

    def flush(self, cb) -> None:
        """Have what was written, and has completed, on the medium; then ``cb(0, error)``.

        Raises and thread safety as `read`. Answers to ``spdk_bdev_flush``.
        """
        command(self, "flush", BQ_FLUSH, 0, 0, cb)

    def discard(self, offset, nbytes, cb) -> None:
        """Give blocks back to the device, which read as zeros afterwards; then ``cb(nbytes, error)``.

        EOPNOTSUPP where the file system or the device cannot. Raises and thread safety as `read`. Answers to
        ``spdk_bdev_unmap``.
        """
        command(self, "discard", BQ_DISCARD, offset, nbytes, cb)

    def write_zeroes(self, offset, nbytes, cb) -> None:
        """Write zeros, by the file system itself where it can; then ``cb(nbytes, error)``.

        Raises and thread safety as `read`. Answers to ``spdk_bdev_write_zeroes``.
        """
        command(self, "write_zeroes", BQ_ZEROES, offset, nbytes, cb)

    def read_native(self, buffer, offset, fn, ctx=None) -> None:
        """As `read`, with a native completion ``void (*)(void *ctx, int64_t result)`` that runs without the GIL.

        Parameters
        ----------
        buffer, offset
            As for `read`.
        fn : PyCapsule, or function pointer of ctypes, cffi or numba
            `result` is the bytes that were read, or a negative errno.
        ctx : optional
            As for `SpdkThread.send_native`. Both are kept alive until it has run.

        Notes
        -----
        For what needs no GIL at all, Cython code calls ``bdev_read`` of ``spdkthread.bdev.device``.

        **Thread safety:** its own thread only.
        """
        transfer(self, "read_native", BQ_READ, buffer, offset, None, native_completion(fn, ctx))

    def write_native(self, buffer, offset, fn, ctx=None) -> None:
        """Write `buffer`; as `read_native`."""
        transfer(self, "write_native", BQ_WRITE, buffer, offset, None, native_completion(fn, ctx))

    def enable_histogram(self, enable=True) -> None:
        """Count the latencies of requests from now on, or stop that.

        A latency is the time from the call that begins a request to its native completion, or to where those in Python
        are collected for the next round of callbacks. While it is off, no clock is read.

        Parameters
        ----------
        enable : bool, default True
            True begins an empty histogram when there is none. False lets go of it; a caller who has it may go on
            reading it.

        Raises
        ------
        WrongThreadError
            On another thread than the channel's own.
        DeviceError
            The channel has no reference left.
        MemoryError
            When there is no memory for it; nothing has changed.

        Notes
        -----
        **Thread safety:** its own thread only. Answers to ``spdk_bdev_histogram_enable``.
        """
        cdef channel_state *c = ready_for(self, "enable_histogram", False)
        cdef uint32_t index
        if enable and c.histogram == NULL:
            self._histogram = Histogram()
            c.histogram = self._histogram.h
        elif not enable:
            for index in range(c.depth):
                c.q.requests[index].begun = 0
            c.histogram = NULL
            self._histogram = None

    @property
    def histogram(self):
        """The `Histogram` of the latencies; None while they are not counted. Answers to
        ``spdk_bdev_channel_get_histogram``. **Thread safety:** any OS thread.
        """
        return self._histogram

    @property
    def registered_bytes(self) -> int:
        """Memory of an `IoBufPool` that the channel's io_uring has registered. **Thread safety:** any OS thread."""
        cdef channel_state *c = <channel_state *>self.c_channel
        cdef uint32_t index
        cdef uint64_t nbytes = 0
        if c != NULL:
            for index in range(c.q.fixed_count):
                nbytes += c.q.fixed[index].iov_len
        return nbytes

    @property
    def in_flight(self) -> int:
        """Requests whose completion has not run. **Thread safety:** any OS thread."""
        cdef channel_state *c = <channel_state *>self.c_channel
        return 0 if c == NULL else c.q.in_use

    @property
    def submissions(self) -> int:
        """How often the kernel was called to take requests. **Thread safety:** any OS thread."""
        cdef channel_state *c = <channel_state *>self.c_channel
        return 0 if c == NULL else c.q.calls


cdef int complete_python(BdevChannel self, channel_state *c) except -1:
    """Give the callers what is theirs, and call them: those who are there now."""
    cdef bq_request *r
    cdef bq_request *last = c.report_last
    cdef int64_t result
    cdef Py_ssize_t index
    cdef int count = 0
    cdef bint native
    while c.report != NULL:
        r = c.report
        c.report = r.next
        if c.report == NULL:
            c.report_last = NULL
        index = r - c.q.requests
        cb = self._held[index]
        self._held[index] = None
        result = r.result
        done = r.done
        native = r.fn != NULL
        if r.has_view:
            r.has_view = False
            PyBuffer_Release(&r.view)
        r.owned = False
        at_end = r == last
        bq_give_back(&c.q, r)
        count += 1
        if not native:
            if type(cb) is tuple:
                cb = cb[0]
            call_back(self, cb, result, done)
        cb = None
        if at_end:
            break
    return count


cdef int call_back(BdevChannel self, object cb, int64_t result, uint64_t done) except -1:
    try:
        if result < 0:
            cb(done, OSError(-result, os.strerror(-result), (<Bdev>self.device).path))
        else:
            cb(result, None)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        self.thread.c.errors += 1
        self.device.lib.report(
            f"completion {describe(cb)} of {self.device.name!r} failed on thread {self.thread.name!r}", error,
            self.thread, "fn", cb,
        )
    return 0


cdef bq_request *take_request(BdevChannel self, str what) except NULL:
    """A free request, after all checks: nothing may fail between this and `_go`."""
    cdef channel_state *c = <channel_state *>self.c_channel
    cdef bq_request *r = bq_take(&c.q)
    if r == NULL:
        raise QueueFullError(
            f"{what}: {self!r} takes no more until some have completed; Bdev.open(depth=...) says how many"
        )
    r.fn = NULL
    r.has_view = False
    r.owned = True
    return r


cdef channel_state *ready_for(BdevChannel self, str what, bint writes) except NULL:
    cdef channel_state *c = <channel_state *>self.c_channel
    self._require(what)
    if c == NULL or c.closing:
        raise DeviceError(f"{what}: {self!r} is at its end")
    if c.generation != fork_generation:
        self._renew()
        complete_native(c)
    if writes and not c.writable:
        raise DeviceError(f"{what}: {self.device!r} was opened readonly")
    return c


cdef int require_aligned(
    BdevChannel self, channel_state *c, str what, uint64_t offset, uint64_t nbytes, void *memory
) except -1:
    if c.memory_alignment and (
        offset % c.q.alignment or nbytes % c.q.alignment or <uintptr_t>memory % c.memory_alignment
    ):
        raise_misaligned(self, what, offset, nbytes, memory)
    return 0


cdef int raise_misaligned(BdevChannel self, str what, uint64_t offset, uint64_t nbytes, void *memory) except -1:
    cdef Bdev bdev = <Bdev>self.device
    for name, value, unit in (
        ("offset", offset, bdev.offset_alignment), ("length", nbytes, bdev.offset_alignment),
        ("memory address", <uintptr_t>memory, bdev.memory_alignment),
    ):
        if value % unit:
            raise AlignmentError(
                f"{what} of {self.device.name!r}, which was opened direct: the {name} {value} is no multiple of "
                f"{unit}"
            )
    return 0


cdef int transfer(
    BdevChannel self, str what, int op, object buffer, object offset, object cb, NativeCall native
) except -1:
    cdef channel_state *c = ready_for(self, what, op == BQ_WRITE)
    cdef bq_request *r
    cdef Py_buffer view
    cdef uint64_t at
    if native is None and not PyCallable_Check(cb):
        raise TypeError(f"{what}: cb must be callable, got {type(cb).__name__}")
    at = as_bytes(what, "offset", offset)
    get_view(what, buffer, &view, op == BQ_READ)
    try:
        check_end(what, at, view.len)
        require_aligned(self, c, what, at, view.len, view.buf)
        r = take_request(self, what)
    except BaseException:
        PyBuffer_Release(&view)
        raise
    r.view = view
    r.has_view = True
    if native is not None:
        r.fn = <bdev_completion>native.fn
        r.ctx = native.ctx
        cb = native
    self._held[r - c.q.requests] = cb
    bq_start(&c.q, r, op, view.buf, view.len, at)
    begun(c, r)
    return 0


cdef int transfer_vector(BdevChannel self, str what, int op, object buffers, object offset, object cb) except -1:
    cdef channel_state *c = ready_for(self, what, op == BQ_WRITEV)
    cdef bq_request *r
    cdef uint64_t at, nbytes = 0
    cdef Py_ssize_t index = 0
    cdef Views views
    if not PyCallable_Check(cb):
        raise TypeError(f"{what}: cb must be callable, got {type(cb).__name__}")
    at = as_bytes(what, "offset", offset)
    buffers = tuple(buffers)
    if not 1 <= len(buffers) <= MOST_BUFFERS:
        raise ValueError(f"{what} takes from 1 to {MOST_BUFFERS} buffers, got {len(buffers)}")
    views = Views.__new__(Views, len(buffers))
    for buffer in buffers:
        get_view(what, buffer, &views.views[index], op == BQ_READV)
        views.count += 1
        views.iov[index].iov_base = views.views[index].buf
        views.iov[index].iov_len = views.views[index].len
        nbytes += views.views[index].len
        require_aligned(self, c, what, at, views.views[index].len, views.views[index].buf)
        index += 1
    check_end(what, at, nbytes)
    r = take_request(self, what)
    r.iov = views.iov
    r.iov_count = <uint32_t>views.count
    self._held[r - c.q.requests] = (cb, views)
    bq_start(&c.q, r, op, NULL, nbytes, at)
    begun(c, r)
    return 0


cdef int command(BdevChannel self, str what, int op, object offset, object nbytes, object cb) except -1:
    cdef channel_state *c = ready_for(self, what, op != BQ_FLUSH)
    cdef bq_request *r
    cdef uint64_t at, length
    if not PyCallable_Check(cb):
        raise TypeError(f"{what}: cb must be callable, got {type(cb).__name__}")
    at = as_bytes(what, "offset", offset)
    length = as_bytes(what, "nbytes", nbytes)
    check_end(what, at, length)
    require_aligned(self, c, what, at, length, NULL)
    r = take_request(self, what)
    self._held[r - c.q.requests] = cb
    bq_start(&c.q, r, op, NULL, length, at)
    begun(c, r)
    return 0


cdef class Views:
    """The buffers of a vectored request."""

    cdef Py_buffer *views
    cdef iovec *iov
    cdef Py_ssize_t count

    def __cinit__(self, Py_ssize_t most):
        self.views = <Py_buffer *>core_calloc(most, sizeof(Py_buffer))
        self.iov = <iovec *>core_calloc(most, sizeof(iovec))
        if self.views == NULL or self.iov == NULL:
            raise MemoryError(f"no memory for {most} buffers")

    def __dealloc__(self):
        cdef Py_ssize_t index
        for index in range(self.count):
            PyBuffer_Release(&self.views[index])
        core_free(self.views)
        core_free(self.iov)


cdef uint64_t as_bytes(str what, str name, object value) except? 1:
    """An offset or a length."""
    cdef long long plain
    cdef int overflow = 0
    if type(value) is int:
        plain = PyLong_AsLongLongAndOverflow(value, &overflow)
        if plain >= 0 and not overflow:
            return <uint64_t>plain
    if isinstance(value, bool):
        raise TypeError(f"{what}: {name} must be an int, got bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what}: {name} must be an int, got {type(value).__name__}") from None
    if not 0 <= number <= INT64_MAX:
        raise ValueError(f"{what}: {name} must be from 0 to 2**63 - 1, got {number}")
    return number


cdef int check_end(str what, uint64_t offset, uint64_t nbytes) except -1:
    if nbytes > <uint64_t>INT64_MAX - offset:
        raise ValueError(f"{what}: offset {offset} and {nbytes} bytes end beyond 2**63 - 1")
    return 0


cdef int get_view(str what, object buffer, Py_buffer *view, bint writable) except -1:
    try:
        PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    except (BufferError, TypeError, ValueError) as error:
        kind = "writable, contiguous buffer" if writable else "contiguous buffer"
        raise TypeError(f"{what} needs an object with a {kind}, got {type(buffer).__name__}: {error}") from None
    return 0


def uring_refusal():
    """Why the kernel gives this process no io_uring that is of use here: the errno's name; None: it does.

    **Thread safety:** any OS thread.
    """
    cdef int failed
    with nogil:
        failed = bq_probe(-1)
    return errno.errorcode.get(failed, str(failed)) if failed else None


# ---- tests and reports -----------------------------------------------------------------------------------------------

def _plan(*steps, repeat=False):
    """For tests: what becomes of the next attempts of any queue. 0: nothing unusual; above: at most so many bytes are
    moved; below: it ends with this negative errno, and the kernel does not see it. Without arguments: nothing more.
    With `repeat`, of all attempts from now on: the first step comes after the last one. While one thread has requests.
    """
    cdef int plan[64]
    cdef int count = 0
    if len(steps) > BQ_PLAN:
        raise ValueError(f"at most {BQ_PLAN} steps")
    for step in steps:
        plan[count] = step
        count += 1
    bq_double_plan(plan, count, repeat)


def _plan_left():
    """For tests: steps that have not been taken."""
    return bq_double_left()


def _plan_taken():
    """For tests: steps that have been taken since `_plan`."""
    return bq_double_taken()


def _refuse_uring(number):
    """For tests: have io_uring refused with this errno from now on; 0: no more."""
    bq_double_refuse(number)


def _requests_in_words(thread):
    found = []
    for channel in thread._channels.copy():
        if isinstance(channel, BdevChannel) and (count := channel.in_flight):
            found.append(f"{count} request{'s' * (count != 1)} of bdev {channel.device.name!r}")
    return found


register_blocker("request", _requests_in_words)
seal(Awaited)
seal(Views)
seal(BdevChannel)
