"""Buffers of two sizes for I/O, shared by all threads of a library, with a cache for each module on each thread.

``iobuf_lists.pxd`` has the structs, ``iobuf_waiting.pxd`` what happens when no buffer is left. A get or a put that its
cache can serve takes no lock and makes no atomic read-modify-write.

From native code, on the thread of the channel::

    from spdkthread.iobuf cimport IOBUF_OK, IOBUF_WAITING, IoBufChannel, iobuf_entry, iobuf_get, iobuf_put

    cdef void arrived(void *ctx, void *buffer) noexcept nogil:      # later, on this thread, by a message
        ...

    entry.fn = arrived                              # zeroed before its first use; the pool's until `arrived` runs
    entry.ctx = ctx
    verdict = iobuf_get(&channel.c, 4096, &entry, &buffer)          # the entry NULL: do not wait
    if verdict == IOBUF_OK:
        ...
        iobuf_put(&channel.c, buffer)
"""

from libc.stdint cimport uint32_t

from spdkthread.atomics cimport st_atomic_u64, st_load32_relaxed, st_store32_relaxed
from spdkthread.io_device cimport IoChannel, IoDevice
from spdkthread.iobuf_lists cimport (
    IOBUF_BAD_SIZE,
    IOBUF_BUSY,
    IOBUF_EMPTY,
    IOBUF_LARGE,
    IOBUF_NOT_HELD,
    IOBUF_OK,
    IOBUF_POOL_CLOSED,
    IOBUF_SMALL,
    IOBUF_WAITING,
    iobuf_cache,
    iobuf_channel_s,
    iobuf_class,
    iobuf_entry,
    iobuf_fn,
    iobuf_note_get,
    iobuf_pool_s,
    iobuf_thread_s,
)
from spdkthread.iobuf_stats cimport ModuleCounts
from spdkthread.thread cimport SpdkThread


cdef int iobuf_get_slow(iobuf_channel_s *channel, int which, iobuf_entry *entry, void **buffer) noexcept nogil
cdef int iobuf_put(iobuf_channel_s *channel, void *buffer) noexcept nogil
cdef bint iobuf_abort(iobuf_entry *entry) noexcept nogil        # on its thread: False when it does not wait


cdef inline int iobuf_get(
    iobuf_channel_s *channel, size_t nbytes, iobuf_entry *entry, void **buffer
) noexcept nogil:
    """A buffer of at least `nbytes`, or why there is none. On the channel's thread only."""
    cdef int which = nbytes > channel.pool.classes[0].size
    cdef iobuf_class *kind = &channel.pool.classes[which]
    cdef iobuf_cache *cache = &channel.caches[which]
    cdef uint32_t index
    # 0 wraps to the largest size.
    if nbytes - 1 >= kind.size:
        return IOBUF_BAD_SIZE
    if cache.count == 0 or st_load32_relaxed(&channel.pool.waiting[which]) != 0:
        return iobuf_get_slow(channel, which, entry, buffer)
    index = cache.first
    cache.first = kind.next[index]
    cache.count -= 1
    cache.hits += 1
    st_store32_relaxed(&kind.holder[index], channel.serial)
    iobuf_note_get(cache)
    buffer[0] = kind.memory + index * kind.size
    return IOBUF_OK


cdef class IoBufPool(IoDevice):
    cdef iobuf_pool_s pool
    cdef size_t mapped
    cdef ModuleCounts _modules
    cdef bint _closed

    cdef object _holders(self)


cdef class IoBufChannel:
    cdef iobuf_channel_s c
    cdef readonly IoBufPool pool
    cdef readonly str module
    cdef readonly SpdkThread thread
    cdef IoChannel _channel
    cdef iobuf_thread_s *_member
    cdef bint _open
    cdef object __weakref__

    cdef object _refuse(self, int verdict, size_t nbytes)


cdef class IoBuf:
    cdef iobuf_entry entry
    cdef readonly IoBufChannel channel
    cdef void *buffer           # NULL: it has been put
    cdef size_t nbytes
    cdef st_atomic_u64 exports
    cdef object __weakref__
