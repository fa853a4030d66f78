"""What a reactor does with the GIL: requests of other OS threads, and the Python work of its turns."""

from libc.stdint cimport uint32_t

from spdkthread.reactor_state cimport ReactorState

cdef int run_loop(ReactorState reactor) except -1
cdef int run_turn(ReactorState reactor) except -1
cdef int serve(ReactorState reactor) except -1
