"""for_each_thread: one call on every thread, one after the other."""

from spdkthread.future cimport FutureCore
from spdkthread.lib cimport ThreadLib
from spdkthread.thread cimport SpdkThread


cdef class Iteration:
    cdef object fn
    cdef object cpl
    cdef readonly ThreadLib lib
    cdef SpdkThread origin          # None: it was begun where no SpdkThread was current
    cdef SpdkThread target          # where it is, or is on its way to
    cdef FutureCore future
    cdef object __weakref__

    cdef int go_on(self, id) except -1
