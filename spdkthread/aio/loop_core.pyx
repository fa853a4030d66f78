"""The inside of `aio.EventLoop`. See ``loop_core.pxd``."""

import logging
import os
import signal
import threading

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from spdkthread.affinity cimport affinity_enter, affinity_leave
from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_fds cimport asks_only_the_kernel, look_at_fds
from spdkthread.aio.loop_handles cimport (
    flush_watchers,
    handles_find,
    new_handle,
    new_timer_handle,
    run_ready,
    st_handles,
)
from spdkthread.aio.loop_state cimport LoopState, runs_here
from spdkthread.aio.loop_timers cimport (
    drop_timers,
    enqueue_timer,
    expire_timers,
    forget_timer,
    timers_now,
    visit_timers,
)
from spdkthread.aio.loop_waiting cimport this_core, wait
from spdkthread.atomics cimport (
    st_load32_relaxed,
    st_load_acquire,
    st_load_relaxed,
    st_store32_relaxed,
    st_store32_release,
    st_store_relaxed,
    st_storep_release,
)
from spdkthread.clock cimport clock_read, st_ticks
from spdkthread.cpython_ext cimport (
    HAS_GIL,
    PyThread_get_thread_ident,
    Py_DECREF_raw,
    delete_attribute,
    st_call_base_traverse,
    st_replace_traverse,
    st_visitproc,
)
from spdkthread.exit_blockers cimport BLOCKER_LOOP
from spdkthread.fd_group cimport fd_group_add_edge, fd_group_open, fd_set_part
from spdkthread.forks cimport fork_generation
from spdkthread.gil_handoff cimport gil_handoff_acquired, gil_handoff_released
from spdkthread.idle cimport IDLE_ADAPTIVE, IDLE_OBJECT, idle_mode_of
from spdkthread.ring cimport (
    MSG_PYTHON,
    RING_POSITION,
    message_ring,
    ring_first_overflow,
    ring_slot,
    ring_slot_at,
    ring_take,
    ring_take_overflow,
)
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport (
    ATTENTION_OVERFLOW,
    BATCH_SIZE,
    STEP_RAISED,
    THREAD_EXITED,
    poll_needed,
    thread_s,
)
from spdkthread.timers cimport timer_queue_free, timer_queue_init
from spdkthread.wakeup cimport wakeup_give_back, wakeup_notify, wakeup_take

from asyncio.events import Handle as PlainHandle

from spdkthread.aio.loop_handles import TimerHandle, append_ready
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

logger = logging.getLogger("asyncio")

# After so long no further batch of messages, and no further timed poller, is begun in a turn.
cdef uint64_t POLL_TICKS = 1_000_000

cdef object Handle = PlainHandle
cdef object Timer = TimerHandle
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


loops = WeakRegistry()


def mark_dead():
    """In the child of a fork."""
    for loop in loops.all():
        loop._die()


os.register_at_fork(after_in_child=mark_dead)


cdef bint has_own_time(LoopCore loop) except -1:
    """Whether the loop, or its class, has a `time` of its own."""
    return type(loop).time is not LoopCore.time or "time" in getattr(loop, "__dict__", ())


cdef class LoopCore(LoopState):
    """The part of `aio.EventLoop` that is not asyncio's. Not an event loop by itself."""

    def __dealloc__(self):
        drop_timers(self)
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
        self.own_time = has_own_time(self)
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
                thread._hold(self.owner, BLOCKER_LOOP)
        except BaseException:
            thread._give_up(self.owner)
            raise
        self.held = self.holds = True
        st_storep_release(&self.thread.c.wakeup, self.wakeup)
        loops.add(self)

    cdef int check_set_up(self) except -1:
        if self.wakeup == NULL:
            raise SpdkThreadError(f"this {type(self).__name__} was never initialised")
        return 0

    def _tear_down(self):
        """After asyncio's own close(). What fails is reported, and everything else ends all the same."""
        cdef object stop = None
        self.ready.clear()
        self.to_flush.clear()
        for watcher in self.watchers:
            if watcher is not None:
                (<FdWatcher>watcher).wanted = (<FdWatcher>watcher).seen = 0
        self.watchers.clear()
        drop_timers(self)
        if self.thread_fds >= 0:
            close(self.thread_fds)
            self.thread_fds = -1
        if not self.held:
            return
        self.held = False
        st_storep_release(&self.thread.c.wakeup, NULL)
        try:
            with self.thread:
                self.thread._let_go(self.owner, BLOCKER_LOOP)
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
        """Another OS thread drives the SpdkThread: there it is let go of, and exits if it is the loop's own."""
        try:
            if self.holds:
                self.holds = False
                self.thread._send_library_msg(self.thread._let_go, self.owner, BLOCKER_LOOP)
            if self.owns_thread:
                self.thread.exit()
                logger.warning("%r is closed, %r could not be ended: %s", self, self.thread, error)
        except ThreadExitedError:
            pass

    def end_thread(self):
        """Have the loop's own thread exit. Returns the exception that is to leave, or None."""
        cdef object stop = None
        self.thread.exit()
        # Messages that were sent to it run; the user's pollers and channels keep it from exiting.
        stop = self.drain_thread(stop)
        if not self.thread.is_exited and self.thread._coroutines is not None:
            # No loop will ever resume them, and others may wait for their results.
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
        self.check_set_up()
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
        self.own_time = has_own_time(self)
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
        """Seconds on the clock of the thread's library: that of ``time.monotonic`` unless it is a manual one.

        A subclass may have another, and so may one loop (``loop.time = ...``, a mock's ``patch.object``): the timers of
        the loop go by that, as asyncio's do.
        """
        return self.now_s()

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name == "time":
            self.own_time = has_own_time(self)

    def __delattr__(self, name):
        delete_attribute(self, name)
        if name == "time":
            self.own_time = has_own_time(self)

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
        if something_waits(&self.thread.c) or (not HAS_GIL and not runs_here(self)):
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
        if runs_here(self):
            # In order with call_soon.
            if something_waits(&self.thread.c):
                return self.schedule(handle)
            self.ready.append(handle)
            return handle
        st_store32_relaxed(&self.sender_core, <uint32_t>(1 + this_core()))
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
            not HAS_GIL and not runs_here(self) and st_load_relaxed(&self.os_thread)
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
        if self.own_time:
            now = 0
            seconds += <double>self.time()
        else:
            now = clock_read(self.thread.c.clock)
            seconds += <double>now * 1e-9
        when = seconds
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
        if runs_here(self):
            enqueue_timer(self, handle, when, now)
            return handle
        with cython.critical_section(self):
            if st_load_relaxed(&self.os_thread) == 0:
                enqueue_timer(self, handle, when, now)
                return handle
        # The queue belongs to the OS thread that runs the loop. asyncio forbids this, says so only in debug mode, and
        # has the timer forgotten until something else wakes the loop.
        handle._scheduled = True
        self.post(arm_timer_fn, handle)
        return handle

    def _timer_handle_cancelled(self, handle):
        """asyncio's TimerHandle.cancel() says so."""
        cdef object known = getattr(handle, "_timer", None)
        if known is None:
            return
        if runs_here(self):
            forget_timer(self, known)
            return
        with cython.critical_section(self):
            if st_load_relaxed(&self.os_thread) == 0:
                forget_timer(self, known)
                return
        # The loop may be walking through its queue without the GIL: it takes this one out in its next turn.
        self.cancelled.append(known)
        st_store32_release(&self.cancels, 1)

    # One turn

    def _run_once(self):
        """One turn of the loop."""
        if not self.entered:
            self.check_set_up()
        # What is ready by now was scheduled before any message that waits: the order of both is that of their coming.
        self.turns += 1
        self.poll_thread(PyList_GET_SIZE(self.ready) == 0)
        if PyList_GET_SIZE(self.ready) or self._stopping or PyList_GET_SIZE(self.to_flush) or self.has_work():
            look_at_fds(self)
        else:
            wait(self)
            self.poll_thread(True)
        expire_timers(self)
        run_ready(self)
        if PyList_GET_SIZE(self.to_flush):
            flush_watchers(self)
        if self.on_main_thread:
            PyErr_CheckSignals()

    cdef bint has_work(self) except -1:
        """Whether the next turn has something to do, of the thread or a timer."""
        if poll_needed(&self.thread.c):
            return True
        return self.timers.count != 0 and timers_now(self) >= self.timers.next_check

    cdef int catch_up(self) except -1:
        """What other OS threads scheduled before now comes before what is scheduled now."""
        if runs_here(self):
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
        # Up to the messages that were there at the beginning: a flood must not hold this turn up.
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
                if overflow == 0 or <PyObject *>ring_first_overflow(thread.ring) != append:
                    return 0
                if ring_take_overflow(thread.ring, &message, 1) == 0:
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
            overflow = ring_first_overflow(ring)
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
            self.thread._driver.depth += 1      # a poll lets go of it once
            if self.thread._poll(limit, 0, False) == STEP_RAISED:
                return -1       # the exception is set
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


cdef inline bint pollers_wait(thread_s *thread, uint64_t due) noexcept nogil:
    """Whether a poll has something to do besides messages. `due`: the tick when the turn began; 0: it begins now."""
    return (
        st_load32_relaxed(&thread.attention) & ~<uint32_t>ATTENTION_OVERFLOW != 0
        or thread.active_first != NULL
        or thread.unfinished
        or (thread.timers.count != 0 and (due if due else clock_read(thread.clock)) >= thread.timers.next_check)
    )


# The collector calls this: no tracer may.
@cython.profile(False)
@cython.linetrace(False)
cdef int traverse(PyObject *owner, st_visitproc visit, void *arg) noexcept:
    cdef int stop = st_call_base_traverse(owner, visit, arg)
    return stop if stop else visit_timers(&(<LoopCore>owner).timers, visit, arg)


st_replace_traverse(<PyObject *>LoopCore, traverse)


handles_find(&st_handles)
