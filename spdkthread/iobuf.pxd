"""Buffers of two sizes for I/O, shared by all threads of a library, with a cache for each module on each thread.

::

    pool    memory   [ small 0 | small 1 | ... | large 0 | large 1 | ... ]      page-aligned, mapped once
            free     small -> 7 -> 2 -> ...       large -> 1 -> ...             indices, linked through `next`
            waiting  small: entry, entry, ...     large: entry, ...             oldest first, of all threads
            threads  "a" -> "b" -> ...            those that have a channel
    channel (thread "a", module "net")     caches  small -> 5 -> 9    large -> 0

The lock of the pool guards all of this but the caches, which belong to their thread. A get or a put that its cache can
serve takes no lock and makes no atomic read-modify-write.

No entry waits while a buffer is free:

1. `waiting[which]` is raised, under the lock, before any thread is asked for its cache; it falls to 0 under the
   lock only.
2. The first entry that waits asks every thread for its cache, by a message. A thread that has run it, and everything
   after it, sees `waiting[which]` raised, because the message was published after it was: so from there on its puts go
   to the entries and not to its cache, until nothing waits any more. The next entries need no message.
3. While something waits, a get that does not wait behind it gets nothing: the entries are served in their order.
4. A message that could not be sent for want of memory is sent again with the next entry that waits.

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

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_atomic_u32,
    st_atomic_u64,
    st_load32_relaxed,
    st_load_relaxed,
    st_store32_relaxed,
    st_store_relaxed,
)
from spdkthread.forks cimport ReentrantLock
from spdkthread.io_device cimport IoChannel, IoDevice
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport thread_s

cdef enum:
    IOBUF_ALIGNMENT = 4096      # what O_DIRECT asks for at most
    IOBUF_BATCH = 32            # buffers that a cache fetches or gives back at once, at most
    IOBUF_NONE = 0xFFFFFFFF     # the end of a list
    IOBUF_CLOSED_BIT = 0x80000000   # in `waiting`: the pool is closed

cdef enum iobuf_which:
    IOBUF_SMALL
    IOBUF_LARGE

cdef enum iobuf_verdict:
    IOBUF_OK
    IOBUF_WAITING               # entry.fn(entry.ctx, buffer) will come
    IOBUF_EMPTY                 # none is left, or other entries wait, and there was no entry
    IOBUF_BAD_SIZE              # larger than a large buffer, or 0
    IOBUF_NOT_HELD              # put: not a buffer that this channel has got and not put
    IOBUF_POOL_CLOSED
    IOBUF_BUSY                  # the entry waits already

ctypedef void (*iobuf_fn)(void *ctx, void *buffer) noexcept nogil


cdef struct iobuf_entry:
    iobuf_fn fn
    void *ctx
    PyObject *py_fn             # of a Python caller instead of `fn`, one reference; `ctx` then the IoBuf, one more
    iobuf_channel_s *channel
    iobuf_entry *next
    iobuf_entry *prev
    void *buffer                # once it has come
    int which
    bint waiting


cdef struct iobuf_class:
    char *memory
    size_t size                 # of one buffer
    uint32_t count
    uint32_t free_count
    uint32_t free_first
    uint32_t *next              # by buffer: the next one on the list on which it is
    st_atomic_u32 *holder       # by buffer: serial of the channel that got it; 0: free
    iobuf_entry *first
    iobuf_entry *last


cdef struct iobuf_thread_s:
    iobuf_pool_s *pool
    thread_s *thread
    iobuf_thread_s *next
    iobuf_thread_s *prev
    iobuf_channel_s *channels
    bint asked                  # the message that asks for its caches is on its way
    bint gone                   # that message frees this


cdef struct iobuf_pool_s:
    st_atomic_u32 lock
    uint32_t serials
    st_atomic_u32 waiting[2]    # entries
    iobuf_class classes[2]
    iobuf_thread_s *threads
    bint unasked                # a message that asks for caches could not be sent
    iobuf_pool_s *next          # of all pools, for the leak counter
    iobuf_pool_s *prev


cdef struct iobuf_cache:
    uint32_t first
    uint32_t count
    uint32_t size
    uint32_t batch
    uint64_t hits               # gets that the cache served
    uint64_t batches            # fetched from the pool
    uint64_t retries            # gets that had to wait
    st_atomic_u64 gets          # written by the thread only
    st_atomic_u64 puts
    st_atomic_u64 high_water    # most buffers held at once, after a get
    st_atomic_u64 beside        # under the lock: entries served, less the puts on other threads; modulo 2 ** 64
    st_atomic_u64 high_beside   # under the lock: most held at once, after an entry was served
    st_atomic_u32 waiting       # entries, under the lock


cdef struct iobuf_channel_s:
    iobuf_pool_s *pool
    thread_s *thread
    uint32_t serial
    iobuf_cache caches[2]
    iobuf_channel_s *next       # of its thread
    iobuf_channel_s *prev


cdef int iobuf_get_slow(iobuf_channel_s *channel, int which, iobuf_entry *entry, void **buffer) noexcept nogil
cdef int iobuf_put(iobuf_channel_s *channel, void *buffer) noexcept nogil
cdef bint iobuf_abort(iobuf_entry *entry) noexcept nogil        # on its thread: False when it does not wait


cdef inline int64_t iobuf_held(iobuf_cache *cache) noexcept nogil:
    """Got and not put; exact on the thread, under the lock, and while nothing moves."""
    return <int64_t>(
        st_load_relaxed(&cache.gets) - st_load_relaxed(&cache.puts) + st_load_relaxed(&cache.beside)
    )


cdef inline void iobuf_note_get(iobuf_cache *cache) noexcept nogil:
    cdef int64_t held
    st_store_relaxed(&cache.gets, st_load_relaxed(&cache.gets) + 1)
    held = iobuf_held(cache)
    if held > <int64_t>st_load_relaxed(&cache.high_water):
        st_store_relaxed(&cache.high_water, <uint64_t>held)


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
    cdef dict _modules          # serial of a channel -> module
    cdef dict _retired          # module -> counts of channels that are closed
    cdef list _gathering        # calls of stats() under way
    cdef ReentrantLock _guard
    cdef bint _closed

    cdef object _holders(self)


cdef class IoBufChannel:
    cdef iobuf_channel_s c
    cdef readonly IoBufPool pool
    cdef readonly str module
    cdef readonly SpdkThread thread
    cdef IoChannel _channel
    cdef iobuf_thread_s *_home
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
