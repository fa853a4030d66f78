"""The inside of `aio.EventLoop`. See ``loop_core.pxd``."""

import asyncio
import errno
import logging
import os
import selectors
import signal
import threading
from collections import deque
from asyncio import events, format_helpers

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.affinity cimport affinity_enter, affinity_leave, affinity_tighten
from spdkthread.atomics cimport (
    st_fence_seq_cst,
    st_exchange32,
    st_load32_relaxed,
    st_load_acquire,
    st_load_relaxed,
    st_pause,
    st_store32_relaxed,
    st_store32_release,
    st_store_relaxed,
    st_storep_release,
)
from spdkthread.clock cimport clock_read, st_cycles, st_ticks
from spdkthread.fd_group cimport (
    FD_BATCH,
    FD_READABLE,
    FD_WRITABLE,
    fd_group_add,
    fd_group_add_edge,
    fd_group_change,
    fd_group_open,
    fd_set_part,
    fd_set_ready,
    fd_group_remove,
    fd_group_sleep,
    fd_group_wait,
)
from spdkthread.forks cimport fork_generation
from spdkthread.gil_handoff cimport gil_handoff_acquired, gil_handoff_released, gil_handoff_wait
from spdkthread.idle cimport IDLE_ADAPTIVE, IDLE_OBJECT, IDLE_YIELD, idle_mode_of, idle_sleep
from spdkthread.ring cimport (
    MSG_PYTHON,
    RING_POSITION,
    message_ring,
    ring_first_spilled,
    ring_slot,
    ring_slot_at,
    ring_take,
    ring_take_spilled,
)
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport (
    ATTENTION_FDS,
    ATTENTION_SPILLED,
    BATCH_SIZE,
    STEP_RAISED,
    THREAD_EXITED,
    attention_set,
    poll_needed,
    poll_work_ready,
    thread_s,
)
from spdkthread.timers cimport (
    TIMER_NEVER,
    timer_cancel,
    timer_each,
    timer_insert,
    timer_next_deadline,
    timer_node,
    timer_pop,
    timer_queue_free,
    timer_queue_init,
)
from spdkthread.trace_ring cimport (
    TRACE_CALLBACK,
    TRACE_PARK,
    TRACE_WAKE,
    st_trace_word,
    st_tracing,
    trace_enrol,
    trace_key,
    trace_put,
)
from spdkthread.cpython_ext cimport seal, st_call_base_traverse, st_replace_traverse, st_visitproc
from spdkthread.wakeup cimport wakeup_clear, wakeup_give_back, wakeup_take, wakeup_notify

from spdkthread.checks import check_number
from spdkthread.errors import (
    FdError,
    LoopExitedError,
    LoopThreadError,
    ReactorError,
    SpdkThreadError,
    ThreadExitedError,
    WrongThreadError,
)
from spdkthread.weak_registry import WeakRegistry

__all__ = ["LoopCore"]

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define ST_LOOP_HAS_GIL 0
    #else
    #define ST_LOOP_HAS_GIL 1
    #endif
    #include <sched.h>
    #include <structmember.h>
    #include <unistd.h>

    #ifdef __linux__
    static inline int st_this_core(void) { return sched_getcpu(); }
    #else
    static inline int st_this_core(void) { return -1; }
    #endif

    /* Where a class keeps one of its __slots__; -1 when that is no plain slot. */
    static Py_ssize_t st_slot_offset(PyObject *descriptor) {
        if (Py_TYPE(descriptor) != &PyMemberDescr_Type) return -1;
        return ((PyMemberDescrObject *)descriptor)->d_member->offset;
    }
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
    """
    const bint ST_LOOP_HAS_GIL
    int st_this_core() noexcept nogil
    Py_ssize_t st_slot_offset(object descriptor)
    object st_bare_handle(object type)
    void st_fill_slot(object instance, Py_ssize_t offset, object value)
    void st_set_slot(object instance, Py_ssize_t offset, object value)
    PyObject *st_slot(object instance, Py_ssize_t offset)
    bint st_slot_is_true(object instance, Py_ssize_t offset)
    int sched_yield() noexcept nogil
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    object PyObject_Call(object callable, object args, PyObject *kwargs)
    void Py_DECREF_raw "Py_DECREF"(PyObject *)
    uint64_t PyThread_get_thread_ident() nogil
    int close(int fd) nogil

logger = logging.getLogger("asyncio")

# While spinning: how many looks at the ring between two at the file descriptors. That is a system call, and whoever
# shares the core, or is its other half, is slowed down by it.
cdef uint32_t FD_LOOKS = 64
# Where looking around finds nothing, "adaptive" does so ever more rarely before it sleeps: every 2**n-th time.
cdef uint32_t MOST_MISSES = 6
# Who did not get to look for so long shares its core, perhaps with whom it waits for.
cdef uint64_t AWAY_TICKS = 40_000
# After so long no further batch of messages, and no further timed poller, is begun in a turn.
cdef uint64_t POLL_TICKS = 1_000_000
# On the main thread a sleep ends now and then: a signal may come right before it begins.
cdef int64_t SIGNAL_NAP_NS = 500_000_000
# Beside a manual clock nobody says when a timer is due.
cdef int64_t SHORT_NAP_NS = 1_000_000
# Beyond this asyncio's selector loop does not sleep either.
cdef int64_t LONGEST_NAP_NS = 24 * 3600 * 1_000_000_000


# Handles

class TimerHandle(events.TimerHandle):
    """asyncio's, and the timer behind it."""

    __slots__ = ("_timer",)


cdef object Handle = events.Handle
cdef object Timer = TimerHandle
cdef Py_ssize_t at_callback = -1, at_args = -1, at_cancelled = -1, at_loop = -1, at_traceback = -1
cdef Py_ssize_t at_repr = -1, at_context = -1, at_when = -1, at_scheduled = -1, at_timer = -1
cdef bint plain_slots = False


def find_slots():
    """Ask asyncio's classes where their instances keep what."""
    global at_callback, at_args, at_cancelled, at_loop, at_traceback, at_repr, at_context, at_when, at_scheduled
    global at_timer, plain_slots
    expected = {
        "_callback", "_args", "_cancelled", "_loop", "_source_traceback", "_repr", "__weakref__", "_context",
    }
    if set(Handle.__slots__) != expected or set(events.TimerHandle.__slots__) != {"_scheduled", "_when"}:
        return
    at_callback = st_slot_offset(Handle.__dict__["_callback"])
    at_args = st_slot_offset(Handle.__dict__["_args"])
    at_cancelled = st_slot_offset(Handle.__dict__["_cancelled"])
    at_loop = st_slot_offset(Handle.__dict__["_loop"])
    at_traceback = st_slot_offset(Handle.__dict__["_source_traceback"])
    at_repr = st_slot_offset(Handle.__dict__["_repr"])
    at_context = st_slot_offset(Handle.__dict__["_context"])
    at_when = st_slot_offset(events.TimerHandle.__dict__["_when"])
    at_scheduled = st_slot_offset(events.TimerHandle.__dict__["_scheduled"])
    at_timer = st_slot_offset(Timer.__dict__["_timer"])
    plain_slots = ST_LOOP_HAS_GIL and min(
        at_callback, at_args, at_cancelled, at_loop, at_traceback, at_repr, at_context, at_when, at_scheduled, at_timer
    ) > 0


find_slots()


cdef inline object fill_handle(object handle, object callback, tuple args, object loop, object context):
    st_fill_slot(handle, at_callback, callback)
    st_fill_slot(handle, at_args, args)
    st_fill_slot(handle, at_cancelled, False)
    st_fill_slot(handle, at_loop, loop)
    st_fill_slot(handle, at_traceback, None)
    st_fill_slot(handle, at_repr, None)
    st_fill_slot(handle, at_context, PyContext_CopyCurrent() if context is None else context)
    return handle


cdef inline object new_handle(object callback, tuple args, object loop, object context):
    if not plain_slots:
        return Handle(callback, args, loop, context)
    return fill_handle(st_bare_handle(Handle), callback, args, loop, context)


cdef inline object new_timer_handle(object when, object callback, tuple args, object loop, object context):
    if not plain_slots:
        return Timer(when, callback, args, loop, context)
    handle = fill_handle(st_bare_handle(Timer), callback, args, loop, context)
    st_fill_slot(handle, at_when, when)
    st_fill_slot(handle, at_scheduled, True)
    return handle


def append_ready(handle):
    """The message of call_soon_threadsafe."""
    cdef LoopCore loop = <LoopCore>handle._loop
    if not loop._closed:
        loop.ready.append(handle)


cdef object append_ready_fn = append_ready


def arm_timer(handle):
    """The message of a call_later on another OS thread."""
    cdef LoopCore loop = <LoopCore>handle._loop
    if not loop._closed and not handle._cancelled:
        loop.arm(handle, handle._when, 0)


cdef object arm_timer_fn = arm_timer


class LoopOwner:
    """Stands for a loop where its thread names it: a reference from there would keep a forgotten loop for ever."""

    __slots__ = ("loop_type", "thread_name")

    def __init__(self, loop, thread):
        self.loop_type = type(loop).__name__
        self.thread_name = thread.name

    def __repr__(self):
        return f"event loop <{self.loop_type} on thread {self.thread_name!r}>, which is not closed"


cdef inline bint something_waits(thread_s *thread) noexcept nogil:
    """Whether anything was sent to the thread that has not run. What was sent before now is seen: the sender's store
    and how the caller knows of it order the two."""
    # With one of the flags in `tail`, which is set while messages are overflow, the two differ as well.
    return (
        st_load_relaxed(&thread.ring.tail) != st_load_relaxed(&thread.ring.head)
        or thread.batch_next != thread.batch_count
    )


@cython.final
@cython.freelist(64)
cdef class LoopTimer:
    """A timer in the loop's queue.

    It holds its handle by hand, and the two let go of each other when it is due or cancelled. To the garbage collector
    it is the loop that holds the handles of its queue (see `traverse` below), and this is nothing to look through.
    """

    cdef object take_handle(self):
        cdef object handle = <object>self.c.handle
        Py_DECREF_raw(self.c.handle)
        self.c.handle = NULL
        return handle


loops = WeakRegistry()


def mark_dead():
    """In the child of a fork."""
    for loop in loops.all():
        loop._die()


os.register_at_fork(after_in_child=mark_dead)


cdef class LoopCore:
    """The part of `aio.EventLoop` that is not asyncio's. Not an event loop by itself."""

    def __cinit__(self):
        self.ready = []
        self.batch = []
        self.watchers = []
        self.to_flush = []
        self.turns = 1
        self.cancelled = deque()
        self.poll_fd = -1
        self.thread_fds = -1
        self._closed = True         # until it is set up

    def __dealloc__(self):
        self.drop_timers()
        timer_queue_free(&self.timers)
        if self.wakeup != NULL:
            wakeup_give_back(self.wakeup)
        if self.thread_fds >= 0:
            close(self.thread_fds)

    def _set_up(self, thread, owns_thread, selector, idle, spin_us):
        """Before asyncio's own constructors."""
        cdef SpdkThread driven = thread
        if self.wakeup != NULL:
            raise SpdkThreadError(f"{self!r} is initialised already")
        driven._check_ready()
        self.idle_mode = idle_mode_of(idle)
        if self.idle_mode == IDLE_OBJECT:
            raise TypeError(f"idle of an event loop must be 'poll', 'yield' or 'adaptive', got {idle!r}")
        spin_us = check_number("spin_us", spin_us, "microseconds")
        if not 0 <= spin_us <= 1e9:
            raise ValueError(f"spin_us must be between 0 and 1e9, got {spin_us!r}")
        self.spin_ticks = <uint64_t>(spin_us * 1000)
        self.thread = thread
        self.owns_thread = owns_thread
        self.selector = selector
        fileno = getattr(selector, "fileno", None)
        self.poll_fd = -1 if fileno is None else fileno()
        self.direct = asks_only_the_kernel(selector)
        self.keys = selector._fd_to_key if self.direct else None
        timer_queue_init(&self.timers)
        self.wakeup = wakeup_take()
        self.thread_fds = fd_group_open()
        if self.thread_fds < 0:
            raise FdError(f"no file descriptor for an event loop on {thread!r}")
        if self.direct:
            # One call waits for descriptors and for senders. Of an edge nothing has to be read away.
            failed = fd_group_add_edge(self.poll_fd, self.wakeup.wait_fd, <uint64_t>self.wakeup.wait_fd)
            if failed:
                raise FdError(f"the wake-up of {thread!r} cannot be watched: {os.strerror(failed)}")
        self.owner = LoopOwner(self, thread)
        thread._belong_to(self.owner, False)
        # It stays as long as the loop is not closed.
        try:
            with thread:
                thread._hold(self.owner)
        except BaseException:
            thread._give_up(self.owner)
            raise
        self.held = self.holds = True
        st_storep_release(&self.thread.c.wakeup, self.wakeup)
        loops.add(self)

    def _tear_down(self):
        """After asyncio's own close(). What fails is reported, and everything else ends all the same."""
        cdef object stop = None
        self.ready.clear()
        self.to_flush.clear()
        for watcher in self.watchers:
            if watcher is not None:
                (<FdWatcher>watcher).wanted = (<FdWatcher>watcher).seen = 0
        self.watchers.clear()
        self.drop_timers()
        if self.thread_fds >= 0:
            close(self.thread_fds)
            self.thread_fds = -1
        if not self.held:
            return
        self.held = False
        st_storep_release(&self.thread.c.wakeup, NULL)
        try:
            with self.thread:
                self.thread._let_go(self.owner)
                self.holds = False
                if self.owns_thread and not self.thread.is_exited:
                    stop = self.end_thread()
        except WrongThreadError as error:
            self.leave_thread(error)
        finally:
            self.thread._give_up(self.owner)
        if stop is not None:
            raise stop

    def leave_thread(self, error):
        """Another OS thread drives it: there it lets go, and exits if it is ours."""
        try:
            if self.holds:
                self.holds = False
                self.thread._send_library_msg(self.thread._let_go, self.owner)
            if self.owns_thread:
                self.thread.exit()
                logger.warning("%r is closed, %r could not be ended: %s", self, self.thread, error)
        except ThreadExitedError:
            pass

    def end_thread(self):
        """Have the loop's own thread exit. Returns the exception that is to leave, or None."""
        cdef object stop = None
        self.thread.exit()
        # What was sent to it runs; pollers and channels of the user's keep it.
        stop = self.drain_thread(stop)
        if not self.thread.is_exited and self.thread._coroutines is not None:
            # Nothing will ever run them on, and there may be those that wait for them.
            try:
                self.thread._coroutines.abandon()
            except Exception as error:
                self.report(f"ending the coroutines of {self.owner!r} failed", error)
            stop = self.drain_thread(stop)
        if not self.thread.is_exited:
            logger.warning("%r is closed, %r is left with pollers or channels", self, self.thread)
        return stop

    cdef object drain_thread(self, object stop):
        for _ in range(1_000_000):
            try:
                if self.thread.is_exited or (self.thread.poll() == 0 and self.thread.pending_msgs == 0):
                    break
            except (KeyboardInterrupt, SystemExit) as error:
                stop = error        # leaves when everything has ended
        return stop

    cdef int drop_timers(self) except -1:
        """Let go of every timer. What a handle held may do anything when it goes."""
        cdef timer_node *node
        cdef LoopTimer timer
        while True:
            with cython.critical_section(self):
                node = timer_pop(&self.timers, TIMER_NEVER - 1)
            if node == NULL:
                return 0
            timer = <LoopTimer>(<loop_timer *>node).owner
            timer.take_handle()
            Py_DECREF_raw(<PyObject *>timer)

    cdef int report(self, str what, object error) except -1:
        self.thread.lib._report(what, error, self.thread, "fn", self.owner)
        return 0

    def _die(self):
        """In the child of a fork: selector and wake-up are the parent's too. A loop that runs ends after its turn.

        What the child does with it must not reach the parent: to close it takes its descriptors out of the selector.
        """
        if not self.held:
            return
        if self.direct:
            fd_set_part(self.poll_fd)
        if self.thread_fds >= 0:
            close(self.thread_fds)
            self.thread_fds = -1
        self._stopping = True
        if self._csock is not None:
            # The interpreter must not write the child's signals into the parent's pipe.
            found = signal.set_wakeup_fd(-1)
            if found != self._csock.fileno():
                signal.set_wakeup_fd(found)

    def _enter(self):
        """At the start of run_forever, on the OS thread that runs the loop."""
        if self.wakeup.generation != fork_generation:
            raise ReactorError(f"{self!r} was made before a fork and does not exist in the child; make one there")
        if self.thread.c.polling:
            raise LoopThreadError(f"{self!r} cannot run inside a callback of its own {self.thread!r}")
        if self.thread.is_exited:
            raise LoopExitedError(f"{self!r} cannot run: {self.thread!r} is what it runs on")
        try:
            self.thread.__enter__()
        except WrongThreadError as error:
            raise LoopThreadError(f"{self!r} cannot run here: {error}") from None
        self.entered = True
        with cython.critical_section(self):
            st_store_relaxed(&self.os_thread, PyThread_get_thread_ident())
        self.on_main_thread = threading.current_thread() is threading.main_thread()
        affinity_enter(-1, self.idle_mode == IDLE_ADAPTIVE, NULL, 0)
        gil_handoff_acquired()

    def _leave(self):
        if self.entered:
            gil_handoff_released()
            affinity_leave()
            self.entered = False
            with cython.critical_section(self):
                st_store_relaxed(&self.os_thread, 0)
            self.thread.__exit__(None, None, None)

    cdef bint runs_here(self) noexcept:
        return st_load_relaxed(&self.os_thread) == PyThread_get_thread_ident()

    # What asyncio's classes touch

    @property
    def _ready(self):
        return self.ready

    @_ready.setter
    def _ready(self, value):
        self.ready = list(value)

    def _add_callback(self, handle):
        if not handle._cancelled:
            self.ready.append(handle)

    def _write_to_self(self):
        if self.wakeup != NULL:
            wakeup_notify(self.wakeup)

    # Scheduling

    def time(self) -> float:
        """Seconds on the clock of the thread's library: that of ``time.monotonic`` unless it is a manual one."""
        return self.now_s()

    cdef double now_s(self) noexcept:
        return <double>clock_read(self.thread.c.clock) * 1e-9

    def call_soon(self, callback, *args, context=None):
        """As ``asyncio.loop.call_soon``."""
        if self._closed:
            self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_soon")
            handle = Handle(callback, args, self, context)
        else:
            handle = new_handle(callback, args, self, context)
        # A foreign OS thread must not touch the list of a loop that runs, and asyncio says so only in debug mode.
        if something_waits(&self.thread.c) or (not ST_LOOP_HAS_GIL and not self.runs_here()):
            return self.schedule(handle)
        self.ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):
        """As ``asyncio.loop.call_soon_threadsafe``: a message to the loop's SpdkThread."""
        if self._closed:
            self._check_closed()
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
            handle = Handle(callback, args, self, context)
        else:
            handle = new_handle(callback, args, self, context)
        if self.runs_here():
            # In order with call_soon.
            if something_waits(&self.thread.c):
                return self.schedule(handle)
            self.ready.append(handle)
            return handle
        st_store32_relaxed(&self.sender_core, <uint32_t>(1 + st_this_core()))
        self.post(append_ready_fn, handle)
        return handle

    cdef int post(self, object fn, object handle) except -1:
        """Send ``fn(handle)`` to the loop's thread."""
        try:
            return self.thread._post(fn, handle)
        except ThreadExitedError as error:
            if self._closed:
                self._check_closed()    # since the caller looked at it
            raise LoopExitedError(f"{self!r} runs nothing any more: {error}") from None

    cdef object schedule(self, object handle):
        """call_soon while something waits in the ring, which comes first."""
        self.catch_up()
        if st_load32_relaxed(&self.thread.c.state) == THREAD_EXITED:
            self.ready.append(handle)           # in the child of a fork: what waits there will never run
        elif something_waits(&self.thread.c) or (
            not ST_LOOP_HAS_GIL and not self.runs_here() and st_load_relaxed(&self.os_thread)
        ):
            self.post(append_ready_fn, handle)
        else:
            self.ready.append(handle)
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """As ``asyncio.loop.call_later``."""
        cdef uint64_t now
        cdef double seconds
        if delay is None:
            raise TypeError("delay must not be None")
        seconds = delay
        if self._closed:
            self._check_closed()
        now = clock_read(self.thread.c.clock)
        when = <double>now * 1e-9 + seconds
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_later")
            return self.arm(Timer(when, callback, args, self, context), when, now)
        return self.arm(new_timer_handle(when, callback, args, self, context), when, now)

    def call_at(self, when, callback, *args, context=None):
        """As ``asyncio.loop.call_at``."""
        cdef double seconds
        if when is None:
            raise TypeError("when cannot be None")
        seconds = when
        if self._closed:
            self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
            # asyncio's own constructor notes where it was called.
            return self.arm(Timer(when, callback, args, self, context), seconds, 0)
        return self.arm(new_timer_handle(when, callback, args, self, context), seconds, 0)

    cdef object arm(self, object handle, double when, uint64_t now):
        """Queue a timer; `now` is the tick or, where it is not known, 0."""
        if self.runs_here():
            self.enqueue_timer(handle, when, now)
            return handle
        with cython.critical_section(self):
            if st_load_relaxed(&self.os_thread) == 0:
                self.enqueue_timer(handle, when, now)
                return handle
        # The queue belongs to the OS thread that runs the loop. asyncio forbids this, says so only in debug mode, and
        # has the timer forgotten until something else wakes the loop.
        handle._scheduled = True
        self.post(arm_timer_fn, handle)
        return handle

    cdef int enqueue_timer(self, object handle, double when, uint64_t now) except -1:
        cdef LoopTimer timer = LoopTimer.__new__(LoopTimer)
        cdef double ticks = when * 1e9
        cdef uint64_t deadline = 0
        if ticks >= 9e18:
            deadline = <uint64_t>9e18
        elif ticks > 0:
            deadline = <uint64_t>(ticks + 0.5)
        Py_INCREF(handle)
        timer.c.handle = <PyObject *>handle
        timer.c.owner = <void *><PyObject *>timer
        if plain_slots and st_slot(handle, at_timer) == NULL:
            st_fill_slot(handle, at_timer, timer)
        else:
            handle._timer = timer
        if not plain_slots or self._debug:
            handle._scheduled = True
        Py_INCREF(timer)
        if now == 0:
            now = clock_read(self.thread.c.clock)
        timer_insert(&self.timers, &timer.c.node, deadline, now if now < deadline else deadline)
        return 0

    def _timer_handle_cancelled(self, handle):
        """asyncio's TimerHandle.cancel() says so."""
        cdef object known = getattr(handle, "_timer", None)
        if known is None:
            return
        if self.runs_here():
            self.forget_timer(known)
            return
        with cython.critical_section(self):
            if st_load_relaxed(&self.os_thread) == 0:
                self.forget_timer(known)
                return
        # The loop may be walking through its queue without the GIL: it takes this one out in its next turn.
        self.cancelled.append(known)
        st_store32_release(&self.cancels, 1)

    cdef int forget_timer(self, object known) except -1:
        cdef LoopTimer timer = <LoopTimer>known
        if timer.c.node.queued:
            timer_cancel(&self.timers, &timer.c.node)
            timer.take_handle()
            Py_DECREF_raw(<PyObject *>timer)
        return 0

    cdef int forget_cancelled(self) except -1:
        """Those that other OS threads have cancelled."""
        st_exchange32(&self.cancels, 0)     # first: what comes meanwhile says so again
        while True:
            try:
                known = self.cancelled.popleft()
            except IndexError:
                return 0
            self.forget_timer(known)

    # One turn

    def _run_once(self):
        """One turn of the loop."""
        # What is ready by now was scheduled before any message that waits: the order of both is that of their coming.
        self.turns += 1
        self.poll_thread(PyList_GET_SIZE(self.ready) == 0)
        if PyList_GET_SIZE(self.ready) or self._stopping or PyList_GET_SIZE(self.to_flush) or self.has_work():
            self.look_at_fds()
        else:
            self.wait()
            self.poll_thread(True)
        self.expire_timers()
        self.run_ready()
        if PyList_GET_SIZE(self.to_flush):
            self.flush_all()
        if self.on_main_thread:
            PyErr_CheckSignals()

    cdef bint has_work(self) noexcept:
        """Whether the next turn has something to do, of the thread or a timer."""
        if poll_needed(&self.thread.c):
            return True
        return self.timers.count != 0 and clock_read(self.thread.c.clock) >= self.timers.next_check

    cdef int catch_up(self) except -1:
        """What other OS threads scheduled before now comes before what is scheduled now."""
        if self.runs_here():
            return self.take_handles()
        if st_load_relaxed(&self.os_thread) or self.thread._placed_on() is not None:
            return 0
        try:
            self.thread._claim_driver()
        except WrongThreadError:
            return 0
        self.take_handles()
        self.thread._release_driver()
        return 0

    cdef int take_handles(self) except -1:
        """Take the handles that wait first of all, up to the first message that is something else."""
        cdef thread_s *thread = &self.thread.c
        cdef ring_slot message
        cdef ring_slot *next_one
        cdef PyObject *append = <PyObject *>append_ready_fn
        # Up to what was there at the beginning: a flood must not keep us here.
        cdef uint64_t end = st_load_relaxed(&thread.ring.tail) & RING_POSITION
        cdef uint64_t overflow = st_load_relaxed(&thread.ring.overflow)
        cdef uint64_t head
        if thread.polling or thread.batch_next != thread.batch_count:
            return 0
        while True:
            head = st_load_relaxed(&thread.ring.head)
            if head < end:
                next_one = ring_slot_at(thread.ring, head)
                if (
                    st_load_acquire(&next_one.stamp) != head + 1
                    or <PyObject *>next_one.fn != append
                    or next_one.kind != MSG_PYTHON
                ):
                    return 0
                ring_take(thread.ring, &message, 1)
            else:
                if overflow == 0 or <PyObject *>ring_first_spilled(thread.ring) != append:
                    return 0
                if ring_take_spilled(thread.ring, &message, 1) == 0:
                    return 0
                overflow -= 1
            thread.msgs_run += 1
            handle = <object><PyObject *>message.args[0]
            Py_DECREF_raw(<PyObject *>message.args[0])
            Py_DECREF_raw(append)
            if handle._loop is self:
                self.ready.append(handle)
            else:
                append_ready(handle)        # of a loop that had this thread before

    cdef uint32_t messages_in_front(self, uint64_t end) noexcept:
        """How many messages, up to position `end`, wait before the first handle; not more than one poll takes."""
        cdef message_ring *ring = self.thread.c.ring
        cdef uint64_t head = st_load_relaxed(&ring.head)
        cdef uint32_t count = 0
        cdef ring_slot *slot
        cdef void *overflow
        while count < BATCH_SIZE and head + count < end:
            slot = ring_slot_at(ring, head + count)
            if st_load_acquire(&slot.stamp) != head + count + 1:
                break
            if slot.fn == <void *>append_ready_fn and slot.kind == MSG_PYTHON:
                break
            count += 1
        if count == 0 and head >= end:
            overflow = ring_first_spilled(ring)
            if overflow != NULL and overflow != <void *>append_ready_fn:
                return 1
        return count

    cdef int poll_thread(self, bint messages) except -1:
        """Messages that are there now, unless they have to wait, and a turn of each poller; then the handles behind.

        A message behind a handle waits for the next turn, in which the handle has run.
        """
        cdef thread_s *thread = &self.thread.c
        cdef uint64_t end, begun, due, overflow
        cdef uint32_t limit
        if not poll_needed(thread):
            return 0
        end = st_load_relaxed(&thread.ring.tail) & RING_POSITION
        overflow = st_load_relaxed(&thread.ring.overflow)
        limit = self.messages_in_front(end) if messages else 0
        due = begun = 0
        while limit or pollers_wait(thread, due):
            if st_load32_relaxed(&thread.state) == THREAD_EXITED:
                break
            if begun == 0:
                begun = st_ticks()
                if thread.timers.count:
                    due = clock_read(thread.clock)
            self.thread._driver_depth += 1      # a poll lets go of it once
            if self.thread._poll(limit, 0, False) == STEP_RAISED:
                pass_on()
            # Active pollers have one turn per turn of the loop.
            if thread.active_first != NULL or st_ticks() - begun >= POLL_TICKS:
                break
            if limit and st_load_relaxed(&thread.ring.head) >= end:
                if overflow == 0:
                    limit = 0
                    continue
                overflow -= 1
            if messages:
                limit = self.messages_in_front(end)
        return self.take_handles()

    cdef int look_at_fds(self) except -1:
        """Without waiting. Lets go of the GIL, as asyncio's loop does here."""
        if self.thread.c.fd_count:
            self.watch_thread_fds()
        if not self.direct:
            return self.take_seen(self.selector.select(0))
        with nogil:
            gil_handoff_released()
            self.events_count = fd_group_wait(self.poll_fd, self.events, FD_BATCH)
        gil_handoff_acquired()
        return self.take_events()

    cdef int watch_thread_fds(self) except -1:
        """The thread has file descriptors of its own: have their set among the selector's."""
        cdef int fresh, failed
        if self.thread_fds_serial == self.thread.c.fd_set_serial:
            return 0
        fresh = self.thread_fds
        if self.thread_fds_serial:
            # Another set of the thread's is in there, closed by now; while a duplicate of it is open, in the child of a
            # fork perhaps, it cannot be taken out any more.
            fresh = fd_group_open()
            if fresh < 0:
                raise FdError(f"no file descriptor for the file descriptors of {self.thread!r}")
            if self.direct:
                fd_group_remove(self.poll_fd, self.thread_fds, FD_READABLE)
            else:
                self.selector.unregister(self.thread_fds)
            close(self.thread_fds)
            self.thread_fds = fresh
            self.thread_fds_serial = 0
        failed = fd_group_add(fresh, self.thread.c.fd_set, FD_READABLE, 0)
        if not failed and self.direct:
            failed = fd_group_add(self.poll_fd, fresh, FD_READABLE, <uint64_t>fresh)
        if failed:
            raise FdError(f"the file descriptors of {self.thread!r} cannot be waited for: {os.strerror(failed)}")
        if not self.direct:
            self.selector.register(fresh, selectors.EVENT_READ, (None, None))
        self.thread_fds_serial = self.thread.c.fd_set_serial
        return 0

    cdef int take_events(self) except -1:
        """What `_process_events` does, for what the kernel said."""
        cdef int index, fd
        cdef uint32_t seen
        cdef PyObject *found
        cdef FdWatcher watcher
        for index in range(self.events_count):
            fd = <int>(self.events[index].tag & 0x7FFFFFFF)
            if fd == self.thread_fds:
                attention_set(&self.thread.c, ATTENTION_FDS)
                continue
            if fd < PyList_GET_SIZE(self.watchers):
                found = PyList_GET_ITEM(self.watchers, fd)
                if found != <PyObject *>None:
                    watcher = <FdWatcher>found
                    seen = self.events[index].events & watcher.wanted
                    if seen and not watcher.seen:
                        self.ready.append(watcher)
                    watcher.seen |= seen
                    continue
            key = self.keys.get(fd)
            if key is None:
                continue
            found = PyTuple_GET_ITEM(key, 3)
            data = <tuple><object>found
            seen = self.events[index].events & <uint32_t><object>PyTuple_GET_ITEM(key, 2)
            if seen & FD_READABLE:
                reader = <object>PyTuple_GET_ITEM(data, 0)
                if reader is not None:
                    if reader._cancelled:
                        self._remove_reader(fd)
                    else:
                        self.ready.append(reader)
            if seen & FD_WRITABLE:
                writer = <object>PyTuple_GET_ITEM(data, 1)
                if writer is not None:
                    if writer._cancelled:
                        self._remove_writer(fd)
                    else:
                        self.ready.append(writer)
        self.events_count = 0
        return 0

    # Descriptors without a Handle: what a transport watches

    cdef int watch(self, FdWatcher watcher, uint32_t mask) except -1:
        """From now on call `watcher` when its descriptor is ready for what `mask` says; 0: not at all."""
        cdef uint32_t before = watcher.wanted
        cdef int fd = watcher.fd
        cdef int failed = 0
        if mask == before:
            return 0
        if self._closed:
            if mask:
                self._check_closed()
            watcher.wanted = watcher.seen = 0
            return 0
        if not self.direct:
            return self.watch_in_selector(watcher, mask)
        if not before:
            failed = fd_group_add(self.poll_fd, fd, mask, <uint64_t>fd)
            while not failed and PyList_GET_SIZE(self.watchers) <= fd:
                self.watchers.append(None)
            if not failed:
                # One that is there already had the number before: its file was closed under it, which took it out.
                self.watchers[fd] = watcher
        elif PyList_GET_SIZE(self.watchers) <= fd or self.watchers[fd] is not watcher:
            failed = errno.EBADF if mask else 0
        elif mask:
            failed = fd_group_change(self.poll_fd, fd, before, mask, <uint64_t>fd)
        else:
            fd_group_remove(self.poll_fd, fd, before)       # fails where the file is closed, which is as good
            self.watchers[fd] = None
        if failed:
            raise OSError(failed, f"{os.strerror(failed)} ({watcher!r})")
        watcher.wanted = mask
        watcher.seen &= mask
        return 0

    cdef int watch_in_selector(self, FdWatcher watcher, uint32_t mask) except -1:
        """With a selector that cannot be asked past its own class."""
        cdef uint32_t changed = watcher.wanted ^ mask
        if changed & FD_READABLE:
            if mask & FD_READABLE:
                self._add_reader(watcher.fd, watcher._ready_to_read)
            else:
                self._remove_reader(watcher.fd)
        if changed & FD_WRITABLE:
            if mask & FD_WRITABLE:
                self._add_writer(watcher.fd, watcher._ready_to_write)
            else:
                self._remove_writer(watcher.fd)
        watcher.wanted = mask
        watcher.seen = 0
        return 0

    cdef int run_watcher(self, FdWatcher watcher, uint32_t mask) except -1:
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

    cdef int flush_all(self) except -1:
        """Send what was gathered in this turn."""
        cdef list gathered = self.to_flush
        self.to_flush = []
        gathered.reverse()
        while gathered:
            watcher = gathered.pop()
            try:
                self.run_watcher(<FdWatcher>watcher, 0)
            except (SystemExit, KeyboardInterrupt):
                gathered.reverse()
                self.to_flush[0:0] = gathered
                raise
            except BaseException as error:
                report_failure(self, watcher, error)
        return 0

    cdef int expire_timers(self) except -1:
        cdef uint64_t now
        cdef timer_node *node
        cdef LoopTimer timer
        if st_load32_relaxed(&self.cancels):
            self.forget_cancelled()
        if self.timers.count == 0:
            return 0
        now = clock_read(self.thread.c.clock)
        if now < self.timers.next_check:
            return 0
        while True:
            node = timer_pop(&self.timers, now)
            if node == NULL:
                return 0
            timer = <LoopTimer>(<loop_timer *>node).owner
            handle = timer.take_handle()
            Py_DECREF_raw(<PyObject *>timer)
            if plain_slots:
                st_set_slot(handle, at_scheduled, False)
                if not st_slot_is_true(handle, at_cancelled):
                    self.ready.append(handle)
            else:
                handle._scheduled = False
                if not handle._cancelled:
                    self.ready.append(handle)

    cdef int wait(self) except -1:
        """Nothing is ready: wait until something is, or until a timer is due."""
        cdef int woken
        if self.thread.c.fd_count:
            self.watch_thread_fds()
        if self.poll_fd < 0:
            return self.wait_in_selector()
        with nogil:
            gil_handoff_released()
            woken = self.look_around()
            gil_handoff_wait()
        gil_handoff_acquired()
        if woken < 0:
            PyErr_CheckSignals()
        if self.direct:
            return self.take_events()
        return self.take_seen(self.selector.select(0))

    cdef int look_around(self) noexcept nogil:
        """Without the GIL, until something has come. -1: a signal, perhaps."""
        cdef uint64_t begun = st_ticks()
        cdef uint64_t now = begun
        cdef uint64_t due = TIMER_NEVER
        cdef uint64_t before
        cdef uint32_t looks = 0
        cdef int ready
        cdef uint32_t sender_core
        cdef uint64_t spin = self.spin_ticks
        self.events_count = 0
        if self.misses and self.idle_mode == IDLE_ADAPTIVE:
            self.skipped += 1
            if self.skipped < <uint32_t>1 << self.misses:
                spin = 0
            else:
                self.skipped = 0
        sender_core = st_load32_relaxed(&self.sender_core)
        if sender_core and sender_core == <uint32_t>(1 + st_this_core()):
            spin = 0        # whoever sends would have to wait until we stop looking
        if spin == 0 and self.direct and self.idle_mode == IDLE_ADAPTIVE:
            return self.park()      # which looks as well
        if self.timers.count:
            due = timer_next_deadline(&self.timers)
        while True:
            # The first look is for the descriptors: they have one in every turn, also where a message is there at once.
            if looks % FD_LOOKS == 0:
                if self.direct:
                    ready = self.events_count = fd_group_wait(self.poll_fd, self.events, FD_BATCH)
                else:
                    ready = fd_set_ready(self.poll_fd)
                if ready or poll_needed(&self.thread.c):
                    return self.found(spin)
                before = now
                now = st_ticks()
                if due != TIMER_NEVER and clock_read(self.thread.c.clock) >= due:
                    return 0
                if self.idle_mode == IDLE_ADAPTIVE:
                    if now - begun >= spin or now - before >= AWAY_TICKS:
                        if spin and self.misses < MOST_MISSES:
                            self.misses += 1
                        return self.park()
                elif self.idle_mode == IDLE_YIELD:
                    sched_yield()
                if self._stopping or now - begun > 10_000_000:
                    return -1       # signals
            elif poll_work_ready(&self.thread.c):
                return self.found(spin)
            looks += 1
            st_pause()

    cdef int found(self, uint64_t spin) noexcept nogil:
        """Looking around was worth it."""
        if spin:
            self.misses = 0
        return 0

    cdef int wait_in_selector(self) except -1:
        """With a selector that has no descriptor, such as `select.select`'s: the wake-up's fd is one of its files."""
        cdef object timeout = 0
        if self.selector.get_map().get(self.wakeup.wait_fd) is None:
            self.selector.register(self.wakeup.wait_fd, selectors.EVENT_READ, (None, None))
        wakeup_clear(self.wakeup)
        st_store32_relaxed(&self.wakeup.sleeping, 1)
        st_fence_seq_cst()
        if self.idle_mode == IDLE_ADAPTIVE and not poll_work_ready(&self.thread.c):
            timeout = self.nap_ns() * 1e-9
        gil_handoff_released()
        try:
            seen = self.selector.select(timeout)
        finally:
            st_store32_relaxed(&self.wakeup.sleeping, 0)
            gil_handoff_acquired()
        return self.take_seen(seen)

    cdef int take_seen(self, object seen) except -1:
        """What a selector said, the notify_fd and the descriptors of the thread apart."""
        if self.thread_fds_serial:
            for key, _ in seen:
                if key.fd == self.thread_fds:
                    attention_set(&self.thread.c, ATTENTION_FDS)
        self._process_events(seen)
        return 0

    cdef int park(self) noexcept nogil:
        """Sleep. The protocol stands in wakeup.pxd."""
        cdef int woken
        if not self.direct:
            wakeup_clear(self.wakeup)
        st_store32_relaxed(&self.wakeup.sleeping, 1)
        st_fence_seq_cst()
        if poll_work_ready(&self.thread.c):
            st_store32_relaxed(&self.wakeup.sleeping, 0)
            return 0
        if st_tracing():
            woken = self.traced_sleep()
        else:
            woken = self.sleep()
        st_store32_relaxed(&self.wakeup.sleeping, 0)
        return -1 if woken < 0 else 0

    cdef int sleep(self) noexcept nogil:
        """-1: a signal has come."""
        cdef int ready
        if not self.direct:
            return idle_sleep(self.wakeup, self.poll_fd, -1, self.nap_ns())
        affinity_tighten()      # what the last turn may have started
        ready = fd_group_sleep(self.poll_fd, self.events, FD_BATCH, self.nap_ns())
        self.events_count = ready if ready > 0 else 0
        return ready

    cdef int traced_sleep(self) noexcept nogil:
        cdef uint64_t began = st_cycles(), ended
        cdef int woken = self.sleep()
        ended = st_cycles()
        trace_put(TRACE_PARK, 0, began, ended - began, 0, woken)
        trace_put(TRACE_WAKE, 0, ended, 0, 0, woken)
        return woken

    cdef int64_t nap_ns(self) noexcept nogil:
        """Until the earliest timer is due, of the loop or of its thread."""
        cdef uint64_t earliest = TIMER_NEVER
        cdef uint64_t deadline, now
        cdef int64_t timeout = LONGEST_NAP_NS
        if self.thread.c.timers.count:
            earliest = timer_next_deadline(&self.thread.c.timers)
        if self.timers.count:
            deadline = timer_next_deadline(&self.timers)
            if deadline < earliest:
                earliest = deadline
        if self.on_main_thread:
            timeout = SIGNAL_NAP_NS
        if earliest != TIMER_NEVER:
            if self.thread.c.clock != NULL:
                timeout = SHORT_NAP_NS
            now = clock_read(self.thread.c.clock)
            if now >= earliest:
                timeout = 0
            elif self.thread.c.clock == NULL and earliest - now < <uint64_t>timeout:
                timeout = <int64_t>(earliest - now)
        return timeout

    # The ready callbacks

    cdef int run_ready(self) except -1:
        cdef list batch = self.ready
        if PyList_GET_SIZE(batch) == 0:
            return 0
        self.ready = self.batch
        self.batch = batch
        if self._debug:
            self.run_watched(batch)
        else:
            self.run_plain(batch)
        batch.clear()
        return 0

    cdef int run_plain(self, list batch) except -1:
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
            if not plain_slots or (type(handle) is not Handle and type(handle) is not Timer):
                try:
                    if not isinstance(handle, FdWatcher):
                        if not handle._cancelled:
                            handle._run()
                        continue
                    mask = (<FdWatcher>handle).seen
                    (<FdWatcher>handle).seen = 0
                    if mask:
                        self.run_watcher(<FdWatcher>handle, mask)
                except (SystemExit, KeyboardInterrupt):
                    self.put_back(batch, index)
                    raise
                except BaseException as error:
                    if not isinstance(handle, FdWatcher):
                        self.put_back(batch, index)
                        raise           # a handle has told already
                    report_failure(self, handle, error)
                handle = None
                continue
            callback = st_slot(handle, at_callback)
            args = st_slot(handle, at_args)
            context = st_slot(handle, at_context)
            if st_slot_is_true(handle, at_cancelled) or callback == NULL or args == NULL:
                continue
            # Held here: the callback may cancel its own handle, which lets go of them.
            fn = <object>callback
            its_args = <object>args
            try:
                run_in(fn, its_args, <object>context)
            except (SystemExit, KeyboardInterrupt):
                self.put_back(batch, index)
                raise
            except BaseException as error:
                report_failure(self, handle, error)
            fn = its_args = None
        return 0

    cdef int run_watched(self, list batch) except -1:
        """As asyncio's loop runs them in debug mode."""
        cdef Py_ssize_t index = 0
        while index < PyList_GET_SIZE(batch):
            handle = <object>PyList_GET_ITEM(batch, index)
            batch[index] = None
            index += 1
            if handle._cancelled:
                continue
            try:
                self._current_handle = handle
                begun = self.time()
                try:
                    handle._run()
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    if not isinstance(handle, FdWatcher):
                        raise               # a handle has told already
                    report_failure(self, handle, error)
                took = self.time() - begun
                if took >= self.slow_callback_duration:
                    asyncio.base_events.logger.warning(
                        "Executing %s took %.3f seconds", asyncio.base_events._format_handle(handle), took
                    )
            except BaseException:
                self.put_back(batch, index)
                raise
            finally:
                self._current_handle = None
        return 0

    def put_back(self, batch, index):
        """The turn was broken off: the rest runs in the next one."""
        self.ready[0:0] = batch[index:]
        batch.clear()


cdef inline bint pollers_wait(thread_s *thread, uint64_t due) noexcept nogil:
    """Whether a poll has something to do besides messages. `due`: the tick when the turn began; 0: it begins now."""
    return (
        st_load32_relaxed(&thread.attention) & ~<uint32_t>ATTENTION_SPILLED != 0
        or thread.active_first != NULL
        or thread.unfinished
        or (thread.timers.count != 0 and (due if due else clock_read(thread.clock)) >= thread.timers.next_check)
    )


cdef bint asks_only_the_kernel(object selector):
    """Whether a selector's epoll may be asked in its stead: its class has no ``select`` of its own."""
    epoll = getattr(selectors, "EpollSelector", None)
    return (
        epoll is not None
        and isinstance(selector, epoll)
        and type(selector).select is epoll.select
        and type(selector).fileno is epoll.fileno
        and "select" not in selector.__dict__
        and type(selector._fd_to_key) is dict
    )


cdef int traced_call(object callback, object args) except -1:
    cdef uint64_t key = trace_key(<PyObject *>callback)
    cdef uint64_t began = st_cycles()
    try:
        PyObject_Call(callback, args, NULL)
    finally:
        trace_put(TRACE_CALLBACK, 0, began, st_cycles() - began, key, 0)
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
cdef int traverse(PyObject *owner, st_visitproc visit, void *arg) noexcept:
    cdef visitor one
    cdef int stop = st_call_base_traverse(owner, visit, arg)
    if stop:
        return stop
    one.visit = visit
    one.arg = arg
    return timer_each(&(<LoopCore>owner).timers, visit_timer, &one)


st_replace_traverse(<PyObject *>LoopCore, traverse)


cdef int pass_on() except -1:
    """The exception that is set leaves."""
    return -1


def report_failure(loop, handle, error):
    """What asyncio's Handle._run does with an exception."""
    try:
        source = format_helpers._format_callback_source(handle._callback, handle._args)
    except Exception:
        source = repr(handle._callback)
    loop.call_exception_handler(
        {"message": f"Exception in callback {source}", "exception": error, "handle": handle}
    )


seal(LoopTimer)

trace_enrol(&st_trace_word)
