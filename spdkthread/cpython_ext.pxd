"""What Cython does not write: sealed constructors, references in C memory for the collector, the C API by raw pointers.

A class of objects that only the library makes is sealed: ``X.__new__(X)`` from Python is refused, too, as such an
object would have NULL and None where its methods expect more. Inside the class's own module ``X.__new__(X)`` goes past
it.

Cython writes a class's ``tp_traverse`` from its attributes. A module that has references elsewhere, in the slots of a
ring say, puts a function of its own in its place, which calls what was there first. One class a module.

The raw forms of `Py_INCREF` and its relatives take a pointer and leave the counting to the caller.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #ifndef SPDKTHREAD_CPYTHON_EXT
    #define SPDKTHREAD_CPYTHON_EXT
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
    typedef PyObject *(*st_fastcall)(PyObject *, PyObject *const *, Py_ssize_t);
    static inline int st_add_fast_method(PyObject *type, PyMethodDef *def, const char *name, st_fastcall fn,
                                         const char *doc) {
        def->ml_name = name;
        def->ml_meth = (PyCFunction)(void (*)(void))fn;
        def->ml_flags = METH_FASTCALL;
        def->ml_doc = doc;
        PyObject *method = PyDescr_NewMethod((PyTypeObject *)type, def);
        if (method == NULL) return -1;
        int failed = PyDict_SetItemString(((PyTypeObject *)type)->tp_dict, name, method);
        Py_DECREF(method);
        PyType_Modified((PyTypeObject *)type);
        return failed;
    }

    #ifdef Py_GIL_DISABLED
    #define ST_HAS_GIL 0
    #else
    #define ST_HAS_GIL 1
    #endif
    #define ST_TUPLE_ITEMS(tuple) (((PyTupleObject *)(tuple))->ob_item)
    #define ST_VECTORCALL_OFFSET PY_VECTORCALL_ARGUMENTS_OFFSET
    /* The exception that is set, with its traceback, as a new reference; nothing is set afterwards. */
    static inline PyObject *st_take_exception(void) {
    #if PY_VERSION_HEX >= 0x030c0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        if (traceback != NULL) {
            PyException_SetTraceback(value, traceback);
            Py_DECREF(traceback);
        }
        Py_XDECREF(type);
        return value;
    #endif
    }
    /* `del object.name` as `object` itself does it. */
    static inline int st_generic_delete(PyObject *object, PyObject *name) {
        return PyObject_GenericSetAttr(object, name, NULL);
    }
    #define ST_LIKELY(x) __builtin_expect(!!(x), 1)
    #endif
    """
    # A METH_FASTCALL descriptor made by hand. `definition` lives as long as the type.
    ctypedef object (*st_fastcall)(object, PyObject *const *, Py_ssize_t)
    ctypedef struct fast_method "PyMethodDef":
        pass
    int add_fast_method "st_add_fast_method"(
        PyObject *type, fast_method *definition, const char *name, st_fastcall fn, const char *doc
    ) except -1
    const bint HAS_GIL "ST_HAS_GIL"
    bint likely "ST_LIKELY"(bint) nogil
    void Py_INCREF_raw "Py_INCREF"(PyObject *) nogil
    void Py_DECREF_raw "Py_DECREF"(PyObject *)
    void Py_XDECREF_raw "Py_XDECREF"(PyObject *)
    bint PyCallable_CheckRaw "PyCallable_Check"(PyObject *)
    PyObject *const *tuple_items "ST_TUPLE_ITEMS"(object)
    uint64_t PyThread_get_thread_ident() noexcept nogil
    Py_ssize_t PY_SSIZE_T_MAX
    size_t ST_VECTORCALL_OFFSET
    int PYGEN_NEXT, PYGEN_RETURN
    object st_take_exception()
    PyObject *PyErr_Occurred()
    void PyErr_Clear()
    void PyErr_SetObject(object type, object value)
    object PyObject_Call(object callable, object args, PyObject *kwargs)
    PyObject *PyObject_CallRaw "PyObject_Call"(PyObject *callable, PyObject *args, PyObject *kwargs)
    PyObject *PyObject_Vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
    bint PyLong_CheckRaw "PyLong_Check"(PyObject *)
    long long PyLong_AsLongLongAndOverflowRaw "PyLong_AsLongLongAndOverflow"(PyObject *, int *)
    PyObject *NONE "Py_None"
    int delete_attribute "st_generic_delete"(object instance, object name) except -1
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    object PyContext_New()
    ctypedef int (*st_visitproc)(PyObject *, void *) noexcept
    ctypedef int (*st_traverseproc)(PyObject *, st_visitproc, void *) noexcept
    void seal "st_seal"(object type)
    void st_replace_traverse(PyObject *type, st_traverseproc replacement)
    int st_call_base_traverse(PyObject *self, st_visitproc visit, void *arg) noexcept


cdef inline int pass_on() except -1:
    """The exception that is set leaves the caller."""
    return -1
