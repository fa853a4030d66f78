"""How a reactor ends: it drains, its threads exit, and what is left is reported."""

from spdkthread.reactor_state cimport ReactorState

# On the owner of the loop.
cdef int begin_stop(ReactorState reactor) except -1
cdef bint may_end(ReactorState reactor) except -1

# From any OS thread.
cdef int stop_together(ReactorState reactor, object termination) except -1
cdef object drained_mark(ReactorState reactor)
cdef object what_remains(ReactorState reactor, bint by_name)
cdef list waits_in_words(ReactorState reactor)
cdef int log_waits(ReactorState reactor, double waited_s) except -1
