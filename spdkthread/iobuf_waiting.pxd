"""Gets that wait for a buffer: one line of entries for each size, over all threads and modules of a pool.

No entry waits while a buffer is free:

1. `waiting[which]` is raised, under the lock, before any thread is asked for its cache; it falls to 0 under the
   lock only.
2. The first entry that waits asks every thread for its cache, by a message. A thread that has run it, and everything
   after it, sees `waiting[which]` raised, because the message was published after it was: so from there on its puts go
   to the entries and not to its cache, until nothing waits any more. The next entries need no message.
3. While something waits, a get that does not wait behind it gets nothing: the entries are served in their order.
4. A message that could not be sent for want of memory is sent again with the next entry that waits.

All of it under the pool's lock.
"""

from spdkthread.iobuf_lists cimport iobuf_channel_s, iobuf_entry, iobuf_pool_s, iobuf_thread_s

cdef void entry_append(iobuf_channel_s *channel, int which, iobuf_entry *entry) noexcept nogil
cdef void entry_remove(iobuf_entry *entry) noexcept nogil
cdef void serve(iobuf_pool_s *pool, int which) noexcept nogil
cdef list waiting_serials(iobuf_pool_s *pool, int which)
