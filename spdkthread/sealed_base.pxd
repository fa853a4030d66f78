"""A class that is sealed, as in `cpython_ext`, and that other modules may extend.

An object of a class that extends it is made when its module has called `base_may_make_one` on this OS thread just
before. Only the module that has the class uses this file: each C file that does has these words of its own.
"""

from spdkthread.cpython_ext cimport seal


cdef extern from *:
    """
    static newfunc st_base_new;
    static _Thread_local int st_base_allowed;
    static PyObject *st_make_base(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        if (!st_base_allowed) return st_refuse_new(type, args, kwargs);
        st_base_allowed = 0;
        return st_base_new(type, args, kwargs);
    }
    static void st_seal_base(PyObject *type) {
        st_base_new = ((PyTypeObject *)type)->tp_new;
        st_seal(type);
        ((PyTypeObject *)type)->tp_new = st_make_base;
    }
    static inline void st_base_may_make_one(void) { st_base_allowed = 1; }
    """
    void seal_base "st_seal_base"(object type)
    void base_may_make_one "st_base_may_make_one"() noexcept
