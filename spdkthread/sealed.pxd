"""Classes whose objects only the library makes: ``X.__new__(X)`` from Python is refused, too, as such an object would
have NULL and None where its methods expect more. Inside the class's own module ``X.__new__(X)`` goes past it."""

cdef extern from *:
    """
    #ifndef SPDKTHREAD_SEALED
    #define SPDKTHREAD_SEALED
    static PyObject *st_refuse_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)args;
        (void)kwargs;
        PyErr_Format(PyExc_TypeError, "cannot create %.200s objects: only spdkthread itself makes them", type->tp_name);
        return NULL;
    }
    static inline void st_seal(PyObject *type) {
        ((PyTypeObject *)type)->tp_new = st_refuse_new;
        ((PyTypeObject *)type)->tp_vectorcall = NULL;       /* another way to the constructor, past tp_new */
        PyType_Modified((PyTypeObject *)type);
    }
    #endif
    """
    void seal "st_seal"(object type)
