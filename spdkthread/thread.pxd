"""SpdkThread: messages, pollers and states. An example of its use from Cython: ``__init__.pxd``."""

from cpython.object cimport PyObject

from spdkthread.thread_base cimport ThreadBase


cdef class SpdkThread(ThreadBase):
    pass


# send_msg for Cython code that holds the GIL: RING_OK or why not; -1 with an exception set for a bad `fn`.
cdef int thread_send_python(SpdkThread thread, PyObject *fn, PyObject *const *args, Py_ssize_t count) except -1
