"""The reactor whose turn is under way on the calling OS thread: its own for as long as its loop runs, another OS thread's
for a turn by hand. One thread-local word says so for the whole package."""

from cpython.object cimport PyObject

# Borrowed; NULL: no reactor's turn is under way on this OS thread.
cdef PyObject *current_reactor() noexcept nogil
cdef PyObject *set_current_reactor(PyObject *reactor) noexcept nogil    # returns the one before
