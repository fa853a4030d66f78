"""The threads of a reactor: which they are, the table of them that its loop goes through, and their descriptors."""

from spdkthread.reactor_state cimport ReactorState
from spdkthread.thread cimport SpdkThread

# From any OS thread.
cdef int adopt(ReactorState reactor, SpdkThread thread) except -1

# On the owner of the loop, between two turns.
cdef int hand_over(ReactorState reactor, SpdkThread thread, ReactorState to) except -1
cdef int rebuild(ReactorState reactor) except -1
cdef int watch_fds(ReactorState reactor, SpdkThread thread) except -1
cdef int unwatch_fds(ReactorState reactor, SpdkThread thread) except -1
cdef int repair_descriptors(ReactorState reactor) except -1
cdef int give_up_all(ReactorState reactor) except -1

# In the child of a fork.
cdef int abandon_all(ReactorState reactor) except -1
