"""Showing the garbage collector references that stand in C memory.

Cython writes a class's ``tp_traverse`` from its attributes. A module that has references elsewhere, in the slots of a
ring say, puts a function of its own in its place, which calls what was there first. One class a module.
"""

from cpython.object cimport PyObject


cdef extern from *:
    """
    #ifndef SPDKTHREAD_TRAVERSE
    #define SPDKTHREAD_TRAVERSE
    typedef int (*st_visitproc)(PyObject *, void *);
    typedef int (*st_traverseproc)(PyObject *, st_visitproc, void *);
    static st_traverseproc st_base_traverse = NULL;
    static inline void st_replace_traverse(PyObject *type, st_traverseproc with) {
        st_base_traverse = ((PyTypeObject *)type)->tp_traverse;
        ((PyTypeObject *)type)->tp_traverse = with;
    }
    static inline int st_call_base_traverse(PyObject *self, st_visitproc visit, void *arg) {
        return st_base_traverse(self, visit, arg);
    }
    #endif
    """
    ctypedef int (*st_visitproc)(PyObject *, void *) noexcept
    ctypedef int (*st_traverseproc)(PyObject *, st_visitproc, void *) noexcept
    void st_replace_traverse(PyObject *type, st_traverseproc replacement)
    int st_call_base_traverse(PyObject *self, st_visitproc visit, void *arg) noexcept
