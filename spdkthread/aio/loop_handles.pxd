"""asyncio's handles, made and run without their Python code.

A handle is asyncio's own `Handle`; its slots are written and read where CPython keeps them. Where they are is asked of
the class, once, and where the class looks different the plain constructor and `_run` are used. Each module that makes
or reads handles has its own copy of the layout, because a variable of another shared object is reached through a
pointer; it fills the copy by `handles_find` at import.
"""

from cpython.object cimport PyObject

from spdkthread.aio.loop_state cimport LoopState
from spdkthread.cpython_ext cimport PyContext_CopyCurrent

cdef extern from *:
    """
    #ifndef SPDKTHREAD_LOOP_HANDLES
    #define SPDKTHREAD_LOOP_HANDLES
    typedef struct {
        int known;                      /* the offsets below are */
        PyObject *handle_type, *timer_type;
        /* Offsets of slots. */
        Py_ssize_t callback, args, cancelled, loop, traceback, repr, context, when, scheduled, timer;
    } st_handle_layout;
    static st_handle_layout st_handles __attribute__((unused));

    static inline PyObject *st_bare_handle(PyObject *type) {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    }
    /* Of a fresh object: the slot is empty. Takes a new reference. */
    static inline void st_fill_slot(PyObject *object, Py_ssize_t offset, PyObject *value) {
        Py_INCREF(value);
        *(PyObject **)((char *)object + offset) = value;
    }
    static inline void st_set_slot(PyObject *object, Py_ssize_t offset, PyObject *value) {
        PyObject *before = *(PyObject **)((char *)object + offset);
        Py_INCREF(value);
        *(PyObject **)((char *)object + offset) = value;
        Py_XDECREF(before);
    }
    static inline PyObject *st_slot(PyObject *object, Py_ssize_t offset) {
        return *(PyObject **)((char *)object + offset);
    }
    static inline int st_slot_is_true(PyObject *object, Py_ssize_t offset) {
        return *(PyObject **)((char *)object + offset) == Py_True;
    }
    #endif
    """
    ctypedef struct st_handle_layout:
        bint known
        PyObject *handle_type
        PyObject *timer_type
        Py_ssize_t callback
        Py_ssize_t args
        Py_ssize_t cancelled
        Py_ssize_t loop
        Py_ssize_t traceback
        Py_ssize_t repr
        Py_ssize_t context
        Py_ssize_t when
        Py_ssize_t scheduled
        Py_ssize_t timer
    st_handle_layout st_handles
    object st_bare_handle(PyObject *type)
    void st_fill_slot(object instance, Py_ssize_t offset, object value)
    void st_set_slot(object instance, Py_ssize_t offset, object value)
    PyObject *st_slot(object instance, Py_ssize_t offset)
    bint st_slot_is_true(object instance, Py_ssize_t offset)


cdef int handles_find(st_handle_layout *layout) except -1
cdef int run_ready(LoopState loop) except -1
cdef int flush_watchers(LoopState loop) except -1


cdef inline object fill_handle(object handle, object callback, tuple args, object loop, object context):
    st_fill_slot(handle, st_handles.callback, callback)
    st_fill_slot(handle, st_handles.args, args)
    st_fill_slot(handle, st_handles.cancelled, False)
    st_fill_slot(handle, st_handles.loop, loop)
    st_fill_slot(handle, st_handles.traceback, None)
    st_fill_slot(handle, st_handles.repr, None)
    st_fill_slot(handle, st_handles.context, PyContext_CopyCurrent() if context is None else context)
    return handle


cdef inline object new_handle(object callback, tuple args, object loop, object context):
    if not st_handles.known:
        return (<object>st_handles.handle_type)(callback, args, loop, context)
    return fill_handle(st_bare_handle(st_handles.handle_type), callback, args, loop, context)


cdef inline object new_timer_handle(object when, object callback, tuple args, object loop, object context):
    if not st_handles.known:
        return (<object>st_handles.timer_type)(when, callback, args, loop, context)
    handle = fill_handle(st_bare_handle(st_handles.timer_type), callback, args, loop, context)
    st_fill_slot(handle, st_handles.when, when)
    st_fill_slot(handle, st_handles.scheduled, True)
    return handle
