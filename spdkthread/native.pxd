"""Native callbacks: C functions that run without the GIL, and what keeps them alive."""

from cpython.buffer cimport Py_buffer

ctypedef void (*msg_fn)(void *ctx) noexcept nogil
ctypedef int (*poller_fn)(void *ctx) noexcept nogil

cdef class NativeCall:
    cdef void *fn
    cdef void *ctx
    cdef object _fn_owner
    cdef object _ctx_owner
    cdef Py_buffer _view
    cdef bint _has_view


cdef NativeCall native_message(object fn, object ctx)
cdef NativeCall native_poller(object fn, object ctx)
cdef NativeCall native_completion(object fn, object ctx)
cdef NativeCall native_call(object fn, object ctx, str signature)
