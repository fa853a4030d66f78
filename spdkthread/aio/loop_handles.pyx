"""asyncio's handles, made and run without their Python code. See ``loop_handles.pxd``."""

import asyncio
from asyncio import events, format_helpers

from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_state cimport LoopState
from spdkthread.clock cimport st_cycles
from spdkthread.cpython_ext cimport HAS_GIL, PyContext_Enter, PyContext_Exit, PyObject_Call
from spdkthread.trace_ring cimport TRACE_CALLBACK, st_trace_word, st_tracing, trace_enrol, trace_key, trace_put

__all__ = ["TimerHandle"]

cdef extern from *:
    """
    #include <structmember.h>

    /* Where a class keeps one of its __slots__; -1 when that is no plain slot. */
    static Py_ssize_t st_slot_offset(PyObject *descriptor) {
        if (Py_TYPE(descriptor) != &PyMemberDescr_Type) return -1;
        return ((PyMemberDescrObject *)descriptor)->d_member->offset;
    }
    """
    Py_ssize_t st_slot_offset(object descriptor)


class TimerHandle(events.TimerHandle):
    """asyncio's, and the timer behind it."""

    __slots__ = ("_timer",)


cdef object Handle = events.Handle
cdef object Timer = TimerHandle


cdef int handles_find(st_handle_layout *layout) except -1:
    """Ask asyncio's classes where their instances keep what."""
    layout.handle_type = <PyObject *>Handle
    layout.timer_type = <PyObject *>Timer
    layout.known = False
    expected = {
        "_callback", "_args", "_cancelled", "_loop", "_source_traceback", "_repr", "__weakref__", "_context",
    }
    if set(Handle.__slots__) != expected or set(events.TimerHandle.__slots__) != {"_scheduled", "_when"}:
        return 0
    layout.callback = st_slot_offset(Handle.__dict__["_callback"])
    layout.args = st_slot_offset(Handle.__dict__["_args"])
    layout.cancelled = st_slot_offset(Handle.__dict__["_cancelled"])
    layout.loop = st_slot_offset(Handle.__dict__["_loop"])
    layout.traceback = st_slot_offset(Handle.__dict__["_source_traceback"])
    layout.repr = st_slot_offset(Handle.__dict__["_repr"])
    layout.context = st_slot_offset(Handle.__dict__["_context"])
    layout.when = st_slot_offset(events.TimerHandle.__dict__["_when"])
    layout.scheduled = st_slot_offset(events.TimerHandle.__dict__["_scheduled"])
    layout.timer = st_slot_offset(Timer.__dict__["_timer"])
    layout.known = HAS_GIL and min(
        layout.callback, layout.args, layout.cancelled, layout.loop, layout.traceback, layout.repr, layout.context,
        layout.when, layout.scheduled, layout.timer,
    ) > 0
    return 0


def append_ready(handle):
    """The message of call_soon_threadsafe."""
    cdef LoopState loop = <LoopState>handle._loop
    if not loop._closed:
        loop.ready.append(handle)


# Running

cdef int run_ready(LoopState loop) except -1:
    cdef list batch = loop.ready
    if PyList_GET_SIZE(batch) == 0:
        return 0
    loop.ready = loop.batch
    loop.batch = batch
    if loop._debug:
        run_watched(loop, batch)
    else:
        run_plain(loop, batch)
    batch.clear()
    return 0


cdef int run_plain(LoopState loop, list batch) except -1:
    cdef Py_ssize_t index = 0
    cdef PyObject *callback
    cdef PyObject *args
    cdef PyObject *context
    cdef uint32_t mask
    # Nothing else holds this list, but a debugger may look: its length is asked again each time.
    while index < PyList_GET_SIZE(batch):
        handle = <object>PyList_GET_ITEM(batch, index)
        batch[index] = None         # what it holds goes when it has run, not at the end of the turn
        index += 1
        if not st_handles.known or (type(handle) is not Handle and type(handle) is not Timer):
            try:
                if not isinstance(handle, FdWatcher):
                    if not handle._cancelled:
                        handle._run()
                    continue
                mask = (<FdWatcher>handle).seen
                (<FdWatcher>handle).seen = 0
                if mask:
                    run_watcher(<FdWatcher>handle, mask)
            except (SystemExit, KeyboardInterrupt):
                put_back(loop, batch, index)
                raise
            except BaseException as error:
                if not isinstance(handle, FdWatcher):
                    put_back(loop, batch, index)
                    raise               # a handle has told already
                report_failure(loop, handle, error)
            handle = None
            continue
        callback = st_slot(handle, st_handles.callback)
        args = st_slot(handle, st_handles.args)
        context = st_slot(handle, st_handles.context)
        if st_slot_is_true(handle, st_handles.cancelled) or callback == NULL or args == NULL:
            continue
        # Held here: the callback may cancel its own handle, which lets go of them.
        fn = <object>callback
        its_args = <object>args
        try:
            run_in(fn, its_args, <object>context)
        except (SystemExit, KeyboardInterrupt):
            put_back(loop, batch, index)
            raise
        except BaseException as error:
            report_failure(loop, handle, error)
        fn = its_args = None
    return 0


cdef int run_watched(LoopState loop, list batch) except -1:
    """As asyncio's loop runs them in debug mode."""
    cdef Py_ssize_t index = 0
    while index < PyList_GET_SIZE(batch):
        handle = <object>PyList_GET_ITEM(batch, index)
        batch[index] = None
        index += 1
        if handle._cancelled:
            continue
        try:
            loop._current_handle = handle
            begun = loop.time()
            try:
                handle._run()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                if not isinstance(handle, FdWatcher):
                    raise               # a handle has told already
                report_failure(loop, handle, error)
            took = loop.time() - begun
            if took >= loop.slow_callback_duration:
                asyncio.base_events.logger.warning(
                    "Executing %s took %.3f seconds", asyncio.base_events._format_handle(handle), took
                )
        except BaseException:
            put_back(loop, batch, index)
            raise
        finally:
            loop._current_handle = None
    return 0


cdef int run_watcher(FdWatcher watcher, uint32_t mask) except -1:
    """Call it for what its descriptor is ready for; 0: have it send what it has gathered."""
    cdef uint64_t began = 0
    cdef object kind
    PyContext_Enter(watcher.context)
    try:
        if st_tracing():
            began = st_cycles()
        if mask:
            watcher.fd_ready(mask)
        else:
            watcher.flush()
    finally:
        PyContext_Exit(watcher.context)
        if began:
            kind = type(watcher)
            trace_put(TRACE_CALLBACK, 0, began, st_cycles() - began, trace_key(<PyObject *>kind), 0)
    return 0


cdef int flush_watchers(LoopState loop) except -1:
    """Send what was gathered in this turn."""
    cdef list gathered = loop.to_flush
    loop.to_flush = []
    gathered.reverse()
    while gathered:
        watcher = gathered.pop()
        try:
            run_watcher(<FdWatcher>watcher, 0)
        except (SystemExit, KeyboardInterrupt):
            gathered.reverse()
            loop.to_flush[0:0] = gathered
            raise
        except BaseException as error:
            report_failure(loop, watcher, error)
    return 0


cdef int put_back(LoopState loop, list batch, Py_ssize_t index) except -1:
    """The turn was broken off: the rest runs in the next one."""
    loop.ready[0:0] = batch[index:]
    batch.clear()
    return 0


cdef inline int run_in(object callback, object args, object context) except -1:
    PyContext_Enter(context)
    try:
        if st_tracing():
            traced_call(callback, args)
        else:
            PyObject_Call(callback, args, NULL)
    finally:
        PyContext_Exit(context)
    return 0


cdef int traced_call(object callback, object args) except -1:
    cdef uint64_t key = trace_key(<PyObject *>callback)
    cdef uint64_t began = st_cycles()
    try:
        PyObject_Call(callback, args, NULL)
    finally:
        trace_put(TRACE_CALLBACK, 0, began, st_cycles() - began, key, 0)
    return 0


def report_failure(loop, handle, error):
    """What asyncio's Handle._run does with an exception."""
    try:
        source = format_helpers._format_callback_source(handle._callback, handle._args)
    except Exception:
        source = repr(handle._callback)
    loop.call_exception_handler(
        {"message": f"Exception in callback {source}", "exception": error, "handle": handle}
    )


handles_find(&st_handles)

trace_enrol(&st_trace_word)
