"""FdHandler: a function that its thread calls while a file descriptor is ready."""

from libc.stdint cimport uint32_t, uint64_t


cdef class FdHandler:
    cdef readonly int fd
    cdef readonly str name
    cdef readonly object thread
    cdef readonly bint registered
    cdef public bint _over
    cdef object fn
    cdef uint32_t mask
    cdef uint64_t tag               # which registration of which descriptor: serial, then number, 32 bits each
    cdef object __weakref__
