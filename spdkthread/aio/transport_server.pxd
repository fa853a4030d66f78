"""Listener: a listening socket of `aio.EventLoop`.

It accepts what waits, up to its backlog, in one go. A connection without TLS has its transport at once, without a task
and its turns; one with TLS goes through the task that asyncio's loop makes for it.
"""

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_core cimport LoopCore


cdef class Listener(FdWatcher):
    cdef LoopCore loop
    cdef object factory
    cdef object sock
    cdef object tls_context
    cdef object server
    cdef int backlog
    cdef object handshake_timeout
    cdef object shutdown_timeout
    cdef bint stopped
    cdef object __weakref__

    cdef int accept_one(self) except -1
