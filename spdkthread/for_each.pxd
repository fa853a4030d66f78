"""for_each_thread: one call on every thread, one after the other."""

from spdkthread.future cimport FutureCore
from spdkthread.lib cimport ThreadLib
from spdkthread.thread cimport SpdkThread


cdef class Iteration:
    cdef object fn
    cdef object cpl
    cdef ThreadLib lib
    cdef SpdkThread origin
    cdef FutureCore future

    cdef int go_on(self, id) except -1
