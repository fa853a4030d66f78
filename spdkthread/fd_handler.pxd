"""FdHandler: a function that its thread calls while a file descriptor is ready."""

from libc.stdint cimport uint32_t


cdef class FdHandler:
    cdef readonly int fd
    cdef readonly str name
    cdef readonly object thread
    cdef readonly bint registered
    cdef public bint _over
    cdef object fn
    cdef uint32_t mask
    cdef object __weakref__
