"""Sock, Listener and SockChannel: Python's side of a thread's group of sockets."""

from libc.stdint cimport uint8_t, uint32_t

from spdkthread.fd_handler cimport FdHandler
from spdkthread.io_device cimport IoChannel
from spdkthread.native cimport NativeCall
from spdkthread.sock.core cimport sock_group_s, sock_s
from spdkthread.thread cimport SpdkThread


cdef class ReadBuffer:
    """The group's buffer, of which one window at a time is lent as a memoryview."""

    cdef uint8_t *memory
    cdef uint8_t *window
    cdef Py_ssize_t length
    cdef size_t size
    cdef bint mapped
    cdef int exports


cdef class SockChannel:
    cdef sock_group_s c
    cdef readonly object device
    cdef readonly SpdkThread thread
    cdef IoChannel channel
    cdef FdHandler handler
    cdef ReadBuffer buffer
    cdef dict replaced              # number of a buffer of the ring -> what has taken its place
    cdef object poller              # io_uring: looks for completions
    cdef dict socks                 # Sock or Listener -> None
    cdef public object datagrams    # a DatagramSet once there was a datagram socket
    cdef object __weakref__

    cdef int _deliver(self) except -1
    cdef ReadBuffer _buffer_of(self, uint32_t index)
    cdef int _give_back(self, int where) except -1
    cdef int _replace(self, int where) except -1
    cdef int _move_buffer(self) except -1
    cdef int _take_accepted(self) except -1
    cdef int _tell(self) except -1
    cdef int _call(self, object fn, Sock sock, object argument, bint has_argument) except -1
    cdef int _keep(self, Sock sock) except -1
    cdef int _let_go(self, Sock sock) except -1


cdef class Sock:
    cdef sock_s c
    cdef readonly SpdkThread thread
    cdef readonly object group
    cdef SockChannel _channel
    cdef object _on_data
    cdef public object on_end, on_close, on_high_water, on_low_water, on_connect, context
    cdef NativeCall _native, _native_close
    cdef list _held                 # bytes that were received while it was paused
    cdef object _addresses          # those still to be tried by connect
    cdef object _options
    cdef bint _closed_here
    cdef object __weakref__

    cdef int _require(self, str what) except -1
    cdef int _hold(self, const uint8_t *data, size_t length) except -1


cdef class Listener(Sock):
    cdef readonly object on_accept
    cdef readonly tuple targets
    cdef Py_ssize_t _next
    cdef readonly object unlink_path
