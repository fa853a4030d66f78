"""The reactor whose turn is under way on the calling OS thread. See ``current_reactor.pxd``."""

from cpython.object cimport PyObject

cdef extern from *:
    """
    static _Thread_local PyObject *st_current_reactor = NULL;
    """
    PyObject *st_current_reactor


cdef PyObject *current_reactor() noexcept nogil:
    return st_current_reactor


cdef PyObject *set_current_reactor(PyObject *reactor) noexcept nogil:
    global st_current_reactor
    cdef PyObject *before = st_current_reactor
    st_current_reactor = reactor
    return before
