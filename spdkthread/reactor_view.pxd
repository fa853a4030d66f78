"""What other OS threads read of a reactor while it runs: statistics, and the callback under way."""

from spdkthread.reactor_state cimport ReactorState
from spdkthread.thread cimport SpdkThread

cdef object statistics(ReactorState reactor)
cdef object unaccounted_since(ReactorState reactor, SpdkThread thread)
cdef object progress(ReactorState reactor)
cdef object stalled(ReactorState reactor)
cdef str running_now(ReactorState reactor)
