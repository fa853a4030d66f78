"""Block devices from native code: requests from callbacks that run without the GIL.

From a native poller, message or completion on the channel's thread::

    from spdkthread.bdev.device cimport BdevChannel, bdev_channel, bdev_read

    cdef void completed(void *ctx, int64_t result) noexcept nogil:
        ...                         # bytes, or a negative errno; may begin the next request

    cdef BdevChannel channel = bdev.get_io_channel()
    cdef bdev_channel *c = channel.c_channel
    with nogil:
        if bdev_read(c, memory, 4096, offset, completed, ctx) != 0:
            ...

All return 0, or a negative errno with no effect: ``-EAGAIN`` for a full queue, ``-EINVAL`` for what is not aligned,
``-EBADF`` for a write to what was opened readonly, ``-EPERM`` on another thread, ``-ESHUTDOWN`` once the channel
ends, ``-ENOTCONN`` in the child of a fork before the channel's next poll. Nothing is allocated, and the memory is the
caller's until the completion: it must stay where it is.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.bdev.histogram cimport Histogram
from spdkthread.iobuf cimport IoBufPool
from spdkthread.io_device cimport IoChannel, IoDevice

ctypedef void (*bdev_completion)(void *ctx, int64_t result) noexcept nogil

cdef extern from *:
    """
    #ifndef SPDKTHREAD_BDEV_CHANNEL
    #define SPDKTHREAD_BDEV_CHANNEL
    typedef struct bdev_channel bdev_channel;
    #endif
    """
    ctypedef struct bdev_channel:
        pass

cdef class Bdev(IoDevice):
    cdef readonly str path
    cdef readonly uint32_t depth
    cdef readonly bint direct
    cdef readonly bint readonly
    cdef readonly uint32_t block_size
    cdef uint32_t offset_alignment      # 0: none is needed
    cdef uint32_t memory_alignment
    cdef bint cache_first
    cdef bint is_block
    cdef int fd
    cdef int wish
    cdef int refused
    cdef readonly IoBufPool iobuf_pool

    cdef int _open_file(self) except -1
    cdef int _close_file(self) noexcept


cdef class BdevChannel(IoChannel):
    cdef bdev_channel *c_channel
    cdef list _held                     # by request: what it keeps for its completion
    cdef object _handler
    cdef object _poller
    cdef object _reporter
    cdef Histogram _histogram


cdef int bdev_read(
    bdev_channel *channel, void *memory, uint64_t nbytes, uint64_t offset, bdev_completion fn, void *ctx
) noexcept nogil
cdef int bdev_write(
    bdev_channel *channel, void *memory, uint64_t nbytes, uint64_t offset, bdev_completion fn, void *ctx
) noexcept nogil
cdef int bdev_flush(bdev_channel *channel, bdev_completion fn, void *ctx) noexcept nogil
