"""Entries that wait for a buffer, and the messages that serve them. See ``iobuf_waiting.pxd``."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport (
    st_add_relaxed,
    st_load32_relaxed,
    st_load_relaxed,
    st_store32_relaxed,
    st_store_relaxed,
    st_sub_relaxed,
)
from spdkthread.forks cimport spin_lock, spin_unlock
from spdkthread.iobuf_lists cimport IOBUF_NONE, give_back, iobuf_cache, iobuf_class, iobuf_held
from spdkthread.ring cimport MSG_NATIVE, MSG_PYTHON, RING_OK, ring_slot
from spdkthread.send cimport send_own_message
from spdkthread.thread_poll cimport thread_s

__all__: list[str] = []


cdef void entry_arrived(void *ctx) noexcept nogil:
    """On the thread of a native entry."""
    cdef iobuf_entry *entry = <iobuf_entry *>ctx
    cdef void *buffer = entry.buffer
    entry.buffer = NULL
    entry.fn(entry.ctx, buffer)


cdef int send_buffer(iobuf_entry *entry, void *buffer) noexcept nogil:
    """The entry's memory, and the IoBuf, belong to the message after this."""
    cdef ring_slot message
    cdef thread_s *thread = entry.channel.thread
    message.args[1] = NULL
    entry.buffer = buffer
    if entry.py_fn == NULL:
        message.kind = MSG_NATIVE
        message.nargs = 1
        message.fn = <void *>entry_arrived
        message.args[0] = entry
    else:
        # The two references move into the slot.
        message.kind = MSG_PYTHON
        message.nargs = 1
        message.fn = entry.py_fn
        message.args[0] = entry.ctx
    return send_own_message(thread, &message)


cdef inline void unqueue(iobuf_class *kind, iobuf_entry *entry) noexcept nogil:
    if entry.prev == NULL:
        kind.first = entry.next
    else:
        entry.prev.next = entry.next
    if entry.next == NULL:
        kind.last = entry.prev
    else:
        entry.next.prev = entry.prev
    entry.next = entry.prev = NULL


cdef inline void wait_more(iobuf_pool_s *pool, int which, iobuf_channel_s *channel) noexcept nogil:
    st_store32_relaxed(&channel.caches[which].waiting, st_load32_relaxed(&channel.caches[which].waiting) + 1)
    st_store32_relaxed(&pool.waiting[which], st_load32_relaxed(&pool.waiting[which]) + 1)


cdef inline void wait_less(iobuf_pool_s *pool, int which, iobuf_channel_s *channel) noexcept nogil:
    st_store32_relaxed(&channel.caches[which].waiting, st_load32_relaxed(&channel.caches[which].waiting) - 1)
    st_store32_relaxed(&pool.waiting[which], st_load32_relaxed(&pool.waiting[which]) - 1)


cdef void serve(iobuf_pool_s *pool, int which) noexcept nogil:
    """Give free buffers to the entries that wait, the oldest first."""
    cdef iobuf_class *kind = &pool.classes[which]
    cdef iobuf_entry *entry
    cdef iobuf_channel_s *channel
    cdef iobuf_cache *cache
    cdef uint32_t index
    cdef int64_t held
    while kind.first != NULL and kind.free_count:
        entry = kind.first
        channel = entry.channel
        cache = &channel.caches[which]
        index = kind.free_first
        unqueue(kind, entry)
        entry.waiting = False
        st_store32_relaxed(&kind.holder[index], channel.serial)
        # All of the channel's books before the message: the channel, and the entry, may be gone after it.
        wait_less(pool, which, channel)
        st_add_relaxed(&cache.beside, 1)
        held = iobuf_held(cache)
        if held > <int64_t>st_load_relaxed(&cache.high_beside):
            st_store_relaxed(&cache.high_beside, <uint64_t>held)
        kind.free_first = kind.next[index]
        kind.free_count -= 1
        if send_buffer(entry, kind.memory + index * kind.size) != RING_OK:
            # No memory for the message: back to the head, for the next buffer that comes.
            kind.free_first = index
            kind.free_count += 1
            st_store32_relaxed(&kind.holder[index], 0)
            st_sub_relaxed(&cache.beside, 1)
            wait_more(pool, which, channel)
            entry.waiting = True
            entry.buffer = NULL
            entry.next = kind.first
            if kind.first == NULL:
                kind.last = entry
            else:
                kind.first.prev = entry
            kind.first = entry
            return


cdef void asked_for_caches(void *ctx) noexcept nogil:
    """On each thread that has channels, once an entry waits."""
    cdef iobuf_thread_s *member = <iobuf_thread_s *>ctx
    cdef iobuf_pool_s *pool = member.pool
    cdef iobuf_channel_s *channel
    cdef int which
    cdef bint gone
    spin_lock(&pool.lock)
    member.asked = False
    gone = member.gone
    if not gone:
        for which in range(2):
            if pool.classes[which].first == NULL:
                continue
            channel = member.channels
            while channel != NULL:
                give_back(channel, which, IOBUF_NONE)
                channel = channel.next
            serve(pool, which)
    spin_unlock(&pool.lock)
    if gone:
        core_free(member)


cdef void ask_for_caches(iobuf_pool_s *pool) noexcept nogil:
    cdef iobuf_thread_s *member = pool.threads
    cdef ring_slot message
    message.kind = MSG_NATIVE
    message.nargs = 1
    message.fn = <void *>asked_for_caches
    message.args[1] = NULL
    pool.unasked = False
    while member != NULL:
        if not member.asked:
            message.args[0] = member
            member.asked = True
            if send_own_message(member.thread, &message) != RING_OK:
                member.asked = False
                pool.unasked = True
        member = member.next


cdef void entry_append(iobuf_channel_s *channel, int which, iobuf_entry *entry) noexcept nogil:
    """Have an entry wait behind the others, and ask the threads for their caches where that has not been done."""
    cdef iobuf_pool_s *pool = channel.pool
    cdef iobuf_class *kind = &pool.classes[which]
    entry.channel = channel
    entry.which = which
    entry.waiting = True
    entry.next = NULL
    entry.prev = kind.last
    if kind.last == NULL:
        kind.first = entry
    else:
        kind.last.next = entry
    kind.last = entry
    wait_more(pool, which, channel)
    if kind.first == entry or pool.unasked:
        ask_for_caches(pool)
    serve(pool, which)


cdef void entry_remove(iobuf_entry *entry) noexcept nogil:
    """Have an entry wait no more."""
    unqueue(&entry.channel.pool.classes[entry.which], entry)
    entry.waiting = False
    wait_less(entry.channel.pool, entry.which, entry.channel)


cdef list waiting_serials(iobuf_pool_s *pool, int which):
    """The channel of each entry that waits. The number of entries is bounded first: no Python object under the lock."""
    cdef uint32_t place, room = 0, count = 0
    cdef uint32_t *found
    cdef iobuf_entry *entry
    spin_lock(&pool.lock)
    entry = pool.classes[which].first
    while entry != NULL:
        room += 1
        entry = entry.next
    spin_unlock(&pool.lock)
    if room == 0:
        return []
    found = <uint32_t *>core_calloc(room, sizeof(uint32_t))
    if found == NULL:
        raise MemoryError("no memory for the list of what waits")
    spin_lock(&pool.lock)
    entry = pool.classes[which].first
    while entry != NULL and count < room:
        found[count] = entry.channel.serial
        count += 1
        entry = entry.next
    spin_unlock(&pool.lock)
    serials = [found[place] for place in range(count)]
    core_free(found)
    return serials
