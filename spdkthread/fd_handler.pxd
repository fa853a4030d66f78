"""FdHandler: a function that its thread calls while a file descriptor is ready."""

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.thread_poll cimport fd_native_s


cdef class FdHandler:
    cdef readonly int fd
    cdef readonly str name
    cdef readonly object thread
    cdef readonly bint registered
    cdef public bint _over
    cdef object fn
    cdef uint32_t mask
    cdef fd_native_s native             # `fn` of it is set before it is registered, or stays NULL
    cdef uint64_t tag               # which registration of which descriptor: serial, then number, 32 bits each
    cdef object __weakref__
