"""File descriptors of a thread: FdHandler, a function that is called while one is ready, and the set of them all."""

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.thread_struct cimport fd_native_s, thread_s


cdef class FdHandlers


cdef class FdHandler:
    cdef readonly int fd
    cdef readonly str name
    cdef readonly object thread
    cdef readonly bint registered
    cdef public bint _over
    cdef FdHandlers fds             # of its thread
    cdef object fn
    cdef uint32_t mask
    cdef fd_native_s native         # `fn` of it is set before it is registered, or stays NULL
    cdef uint64_t tag               # which registration of which descriptor: serial, then number, 32 bits each
    cdef object __weakref__


cdef class FdHandlers:
    cdef thread_s *c
    cdef readonly dict by_fd        # fd -> FdHandler
    cdef uint32_t registrations     # ever made, see FdHandler.tag
    cdef FdHandler running          # for the watchdog

    cdef object reactor(self)
    cdef int check(self, FdHandler handler) except -1
    cdef int unlink_native(self, FdHandler handler) except -1
    cdef int renew_set(self) except -1
    cdef int add_all_to(self, int fd_set) except -1
    cdef int run(self) except -1
    cdef int call(self, FdHandler handler) except -1
    cdef bint mend(self) except -1
    cdef int forget_parent(self) except -1
    cdef int leave_to_parent(self) except -1
    cdef int close_set(self) noexcept


cdef FdHandlers new_fd_handlers(thread_s *thread)
