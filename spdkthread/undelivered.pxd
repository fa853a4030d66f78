"""Messages that wait, or will never run: their names, how to drop them, what the garbage collector sees of them."""

from spdkthread.cpython_ext cimport st_visitproc
from spdkthread.ring cimport message_ring, ring_slot
from spdkthread.thread_struct cimport thread_s


cdef str message_name(ring_slot *message)
cdef str drop_message(ring_slot *message, object thread)
cdef list undelivered_names(thread_s *thread)
cdef int drop_undelivered(thread_s *thread, list lost) except -1
cdef int visit_undelivered(thread_s *thread, st_visitproc visit, void *arg) noexcept
