"""Messages that wait, or will never run: what to call them, how to let go of them, what the collector sees of them."""

from spdkthread.ring cimport message_ring, ring_slot
from spdkthread.cpython_ext cimport st_visitproc


cdef str message_name(ring_slot *message)
cdef str drop_message(ring_slot *message, object thread)
cdef list waiting_names(message_ring *ring)
cdef int visit_message(ring_slot *message, st_visitproc visit, void *arg) noexcept
cdef int visit_waiting(message_ring *ring, st_visitproc visit, void *arg) noexcept
