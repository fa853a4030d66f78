"""The timers of an event loop. See ``loop_timers.pxd``."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from spdkthread.aio.loop_handles cimport (
    handles_find,
    st_fill_slot,
    st_handles,
    st_set_slot,
    st_slot,
    st_slot_is_true,
)
from spdkthread.aio.loop_state cimport LoopState
from spdkthread.atomics cimport st_exchange32, st_load32_relaxed
from spdkthread.clock cimport clock_read
from spdkthread.cpython_ext cimport Py_DECREF_raw, seal, st_visitproc
from spdkthread.timers cimport (
    TIMER_NEVER,
    timer_cancel,
    timer_each,
    timer_insert,
    timer_node,
    timer_pop,
    timer_queue,
)


@cython.final
@cython.freelist(64)
cdef class LoopTimer:
    """A timer in the loop's queue.

    It counts its reference to the handle by hand, and the two let go of each other when the timer is due or cancelled.
    To the garbage collector it is the loop that holds the handles of its queue (see `visit_timers`), and a LoopTimer
    holds nothing, so the collector does not track it.
    """

    cdef object take_handle(self):
        cdef object handle = <object>self.c.handle
        Py_DECREF_raw(self.c.handle)
        self.c.handle = NULL
        return handle


cdef uint64_t ticks_of(double seconds) noexcept:
    """On the clock of timers, which begins with 0 and ends."""
    cdef double ticks = seconds * 1e9
    if ticks >= 9e18:
        return <uint64_t>9e18
    return <uint64_t>(ticks + 0.5) if ticks > 0 else 0


cdef uint64_t timers_now(LoopState loop) except? 0:
    """The tick that the timers of the loop go by."""
    if loop.own_time:
        return ticks_of(loop.time())
    return clock_read(loop.thread.c.clock)


cdef int enqueue_timer(LoopState loop, object handle, double when, uint64_t now) except -1:
    cdef LoopTimer timer = LoopTimer.__new__(LoopTimer)
    cdef uint64_t deadline = ticks_of(when)
    if now == 0:
        now = timers_now(loop)
    Py_INCREF(handle)
    timer.c.handle = <PyObject *>handle
    timer.c.owner = <void *><PyObject *>timer
    if st_handles.known and st_slot(handle, st_handles.timer) == NULL:
        st_fill_slot(handle, st_handles.timer, timer)
    else:
        handle._timer = timer
    if not st_handles.known or loop._debug:
        handle._scheduled = True
    Py_INCREF(timer)
    timer_insert(&loop.timers, &timer.c.node, deadline, now if now < deadline else deadline)
    return 0


cdef int forget_timer(LoopState loop, object known) except -1:
    cdef LoopTimer timer = <LoopTimer>known
    if timer.c.node.queued:
        timer_cancel(&loop.timers, &timer.c.node)
        timer.take_handle()
        Py_DECREF_raw(<PyObject *>timer)
    return 0


cdef int forget_cancelled(LoopState loop) except -1:
    """Those that other OS threads have cancelled."""
    st_exchange32(&loop.cancels, 0)     # first: what comes meanwhile says so again
    while True:
        try:
            known = loop.cancelled.popleft()
        except IndexError:
            return 0
        forget_timer(loop, known)


cdef int drop_timers(LoopState loop) except -1:
    """Let go of every timer. What a handle held may do anything when it goes."""
    cdef timer_node *node
    cdef LoopTimer timer
    while True:
        with cython.critical_section(loop):
            node = timer_pop(&loop.timers, TIMER_NEVER - 1)
        if node == NULL:
            return 0
        timer = <LoopTimer>(<loop_timer *>node).owner
        timer.take_handle()
        Py_DECREF_raw(<PyObject *>timer)


cdef int expire_timers(LoopState loop) except -1:
    cdef uint64_t now
    cdef timer_node *node
    cdef LoopTimer timer
    if st_load32_relaxed(&loop.cancels):
        forget_cancelled(loop)
    if loop.timers.count == 0:
        return 0
    now = timers_now(loop)
    if now < loop.timers.next_check:
        return 0
    while True:
        node = timer_pop(&loop.timers, now)
        if node == NULL:
            return 0
        timer = <LoopTimer>(<loop_timer *>node).owner
        handle = timer.take_handle()
        Py_DECREF_raw(<PyObject *>timer)
        if st_handles.known:
            st_set_slot(handle, st_handles.scheduled, False)
            if not st_slot_is_true(handle, st_handles.cancelled):
                loop.ready.append(handle)
        else:
            handle._scheduled = False
            if not handle._cancelled:
                loop.ready.append(handle)


# The timers stand in C memory, so the garbage collector has to be shown the handles that they hold. It runs with the
# GIL, or while every other OS thread stands still, and the queue is changed by attached OS threads only.

cdef struct visitor:
    st_visitproc visit
    void *arg


# The collector calls these: no tracer may.
@cython.profile(False)
@cython.linetrace(False)
cdef int visit_timer(timer_node *node, void *arg) noexcept:
    cdef PyObject *handle = (<loop_timer *>node).handle
    if handle == NULL:
        return 0
    return (<visitor *>arg).visit(handle, (<visitor *>arg).arg)


@cython.profile(False)
@cython.linetrace(False)
cdef int visit_timers(timer_queue *timers, st_visitproc visit, void *arg) noexcept:
    cdef visitor one
    one.visit = visit
    one.arg = arg
    return timer_each(timers, visit_timer, &one)


seal(LoopTimer)
handles_find(&st_handles)
