"""The reactor whose turn is under way on the calling OS thread: one thread-local word for the whole package.

It is set on the reactor's own OS thread for as long as the loop runs, and on another one for a turn by hand.
"""

from cpython.object cimport PyObject

# Borrowed; NULL: no reactor's turn is under way on this OS thread.
cdef PyObject *current_reactor() noexcept nogil
cdef PyObject *set_current_reactor(PyObject *reactor) noexcept nogil    # returns the one before
