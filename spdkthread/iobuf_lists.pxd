"""The buffers of a pool: C structs, and the lists on which a buffer is.

::

    pool    memory   [ small 0 | small 1 | ... | large 0 | large 1 | ... ]      page-aligned, mapped once
            free     small -> 7 -> 2 -> ...       large -> 1 -> ...             indices, linked through `next`
            waiting  small: entry, entry, ...     large: entry, ...             oldest first, of all threads
            threads  "a" -> "b" -> ...            those that have a channel
    channel (thread "a", module "net")     caches  small -> 5 -> 9    large -> 0

The lock of the pool guards all of this but the caches, which belong to their thread. How entries wait:
``iobuf_waiting.pxd``.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_atomic_u32,
    st_atomic_u64,
    st_load32_relaxed,
    st_load_relaxed,
    st_store_relaxed,
)
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


cdef inline uint64_t held_by(iobuf_channel_s *channel) noexcept nogil:
    """Buffers that are got and not put."""
    cdef uint64_t held = 0
    cdef int which
    for which in range(2):
        held += iobuf_held(&channel.caches[which])
    return held


cdef inline uint32_t waiting_of(iobuf_channel_s *channel) noexcept nogil:
    """Entries that wait."""
    return st_load32_relaxed(&channel.caches[0].waiting) + st_load32_relaxed(&channel.caches[1].waiting)


cdef inline void give_back(iobuf_channel_s *channel, int which, uint32_t count) noexcept nogil:
    """`count` buffers of the cache, or all, to the pool. On the channel's thread, under the lock."""
    cdef iobuf_class *kind = &channel.pool.classes[which]
    cdef iobuf_cache *cache = &channel.caches[which]
    cdef uint32_t index
    while count and cache.count:
        index = cache.first
        cache.first = kind.next[index]
        cache.count -= 1
        kind.next[index] = kind.free_first
        kind.free_first = index
        kind.free_count += 1
        count -= 1


cdef inline uint32_t fetch(iobuf_channel_s *channel, int which, uint32_t count) noexcept nogil:
    """Up to `count` buffers of the pool to the cache; how many. On the channel's thread, under the lock."""
    cdef iobuf_class *kind = &channel.pool.classes[which]
    cdef iobuf_cache *cache = &channel.caches[which]
    cdef uint32_t index, taken = 0
    while taken < count and kind.free_count:
        index = kind.free_first
        kind.free_first = kind.next[index]
        kind.free_count -= 1
        kind.next[index] = cache.first if cache.count else <uint32_t>IOBUF_NONE
        cache.first = index
        cache.count += 1
        taken += 1
    return taken


cdef inline bint take_or_fetch(iobuf_channel_s *channel, int which) noexcept nogil:
    """Have the cache hold one buffer at least."""
    cdef iobuf_cache *cache = &channel.caches[which]
    if cache.count:
        cache.hits += 1
        return True
    if fetch(channel, which, cache.batch) == 0:
        return False
    cache.batches += 1
    return True
