"""Reactor: one OS thread on one core that polls its SpdkThreads for ever.

The loop has two phases and is lexically flat::

    detached (no GIL)                         attached
      turn: poll every thread                   requests of other OS threads
      native work runs here        ---->        the Python work of this turn, in order
      nothing to do: idle strategy <----        and of the next turns, as long as there is some, for a bounded time

An empty turn never takes the GIL. Between reactors of one process the GIL is passed by a flag of our own
(`gil_handoff`), so that it changes hands within a microsecond instead of by CPython's wait of 5 ms.
"""

import logging
import math
import os
import threading
import time
from collections import deque

from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.affinity cimport affinity_enter, affinity_leave, affinity_tighten
from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport (
    st_add_relaxed,
    st_and32_acq_rel,
    st_cas_acq_rel,
    st_exchange32,
    st_fence_seq_cst,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_acquire,
    st_load_relaxed,
    st_loadp_acquire,
    st_or32_release,
    st_store32_relaxed,
    st_store32_release,
    st_store_relaxed,
    st_store_release,
    st_storep_release,
)
from spdkthread.clock cimport account_ticks, clock_read, never_less, st_cycles, st_ticks
from spdkthread.current_reactor cimport current_reactor, set_current_reactor
from spdkthread.fd_group cimport FD_READABLE, fd_is_open, fd_group_add, fd_group_open, fd_group_remove
from spdkthread.gil_handoff cimport (
    GIL_HAND_OVER,
    GIL_NO_WORK_LEFT,
    GIL_PAUSE,
    gil_handoff_acquired,
    gil_handoff_pass,
    gil_handoff_released,
    gil_handoff_yield,
    gil_handoff_wait,
    gil_wanted,
)
from spdkthread.idle cimport IDLE_ADAPTIVE, IDLE_OBJECT, IDLE_YIELD, idle_mode_of, idle_reset
from spdkthread.reactor_loop cimport (
    LISTS_READY,
    LISTS_SOON,
    LIST_THREADS,
    NEED_IDLE_OBJECT,
    NEED_PYTHON,
    NEED_REQUESTS,
    NEED_SHARED_CORE,
    REQUEST_ABORT,
    REQUEST_CALLS,
    REQUEST_MEMBERS,
    REQUEST_MEND,
    REQUEST_STOP,
    REQUEST_TIGHTEN,
    account_attach,
    account_flush,
    account_idle,
    account_pause,
    account_start,
    busy_owner,
    thread_is_drained,
    reactor_collect_fds,
    reactor_detached,
    reactor_finish,
    reactor_list_end,
    reactor_measure_cycles,
    reactor_is_drained,
    reactor_s,
    turn_end,
    turn_end_busy,
    turn_next_poll,
    turn_pass,
)
from spdkthread.ring cimport RING_POSITION, ring_set_stopping
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport (
    ATTENTION_FDS,
    STEP_NATIVE,
    STEP_RAISED,
    THREAD_EXITED,
    attention_set,
    poll_attached,
    set_current,
    thread_s,
)
from spdkthread.timers cimport timer_queue_free, timer_queue_init
from spdkthread.trace_ring cimport (
    TRACE_ATTACHED,
    TRACE_MOVE,
    TRACE_STALL,
    st_trace_word,
    st_tracing,
    trace_enrol,
    trace_put,
    trace_text,
)
from spdkthread.wakeup cimport (
    wakeup_give_back,
    wakeup_make_ready_map,
    wakeup_notify,
    wakeup_repair,
    wakeup_take,
    wakeup_use_ready_map,
)

from spdkthread import waiting
from spdkthread.checks import check_number, check_timeout
from spdkthread.error_log import describe
from spdkthread.errors import ReactorError, ThreadExitedError, WrongThreadError
from spdkthread.forks import ReentrantLock
from spdkthread.signals import SignalWatch
from spdkthread.signal_safe_event import SignalSafeEvent
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.report import ShutdownReport, what_is_left
from spdkthread.reactor_registry import claim_core, register_reactor, warn_if_crowded
from spdkthread.stats import ContextSwitches, ReactorStats, read_context_switches
from spdkthread.waiting import tell_while_waiting
from spdkthread.watchdog import Watchdog

__all__ = ["Reactor", "get_reactor"]

cdef extern from *:
    """
    #include <pthread.h>
    #include <time.h>
    #include <unistd.h>
    static inline void st_name_os_thread(const char *name) {
    #if defined(__linux__)
        pthread_setname_np(pthread_self(), name);
    #elif defined(__APPLE__)
        pthread_setname_np(name);
    #endif
    }
    static inline void st_nap(void) {
        struct timespec nap = {0, 50000};
        nanosleep(&nap, NULL);
    }
    """
    void st_name_os_thread(const char *name) nogil
    void st_nap() noexcept nogil
    int close(int fd) nogil
    uint64_t PyThread_get_thread_ident() nogil

logger = logging.getLogger("spdkthread")

PHASES = ("new", "running", "stopping", "stopping", "stopped", "dead")

# On the main thread: how often signals are looked at.
cdef uint64_t SIGNAL_TICKS = 10_000_000
# How long after a thread came the sleeps are short: see wakeup.pxd.
cdef uint64_t ADOPTION_TICKS = 1_000_000
# Beyond this many threads a turn is too long to be looked through attached.
cdef uint32_t ATTACHED_SCAN = 64


cdef class Reactor:
    """Reactor(core=None, *, name=None, idle='adaptive', spin_us=50, lib=None, pin=True, stall_ms=None)\n--\n\n\
    One OS thread on one core that polls its SpdkThreads for ever.

    Parameters
    ----------
    core : int, optional
        By default the next allowed core that no reactor of this process has.
    name : str, optional
        By default ``reactor_<core>``, and where another reactor has that name, ``reactor_<core>_2`` and so on; also the
        OS thread's name, cut to 15 bytes.
    idle : {"adaptive", "poll", "yield"} or object, default "adaptive"
        What a turn without work does: sleep after a while, look again at once, give up the core (by a nap of 50 us
        where the core is shared with a process that computes), or what the object's
        ``idle(work_count)`` does (with ``reset()`` when work has come). SPDKTHREAD_IDLE in the environment replaces
        "adaptive".
    spin_us : float, default 50
        How long ``"adaptive"`` looks for work before it sleeps.
    lib : ThreadLib, optional
        The library of the threads that `create_thread` makes; by default the process-wide one.
    pin : bool, default True
        Bind the OS thread to `core` (Linux; elsewhere the core is a number only).
    stall_ms : float, optional
        Report callbacks that run longer than this many milliseconds; ``math.inf``: none. By default those of more than
        a second. See `spdkthread.watchdog`.

    Raises
    ------
    ReactorError
        When `core` is not one of the cores that this process may use.

    Notes
    -----
    **Thread safety:** every method from any OS thread, unless it says otherwise. Answers to ``struct spdk_reactor``.
    """

    def __cinit__(self):
        self.r.fd = self._spare_fd = -1
        self._members = {}
        self._calls = deque()
        self._lock = ReentrantLock()
        self._ended = SignalSafeEvent(True)
        self._report = ShutdownReport()
        self.r.signal_fd = -1

    def __init__(
        self, core=None, *, name=None, idle="adaptive", spin_us=50, lib=None, pin=True, stall_ms=None
    ):
        if self.lib is not None:
            raise ReactorError(f"{self!r} is initialised already")
        if lib is not None and not isinstance(lib, ThreadLib):
            raise TypeError(f"lib must be a ThreadLib or None, got {type(lib).__name__}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, got {type(name).__name__}")
        if isinstance(idle, str) and idle == "adaptive":
            # So that a script can be measured with another one without a change to it.
            idle = os.environ.get("SPDKTHREAD_IDLE") or idle
        self.r.idle.mode = idle_mode_of(idle)
        spin_us = check_number("spin_us", spin_us, "microseconds")
        if not 0 <= spin_us <= 1e9:
            raise ValueError(f"spin_us must be between 0 and 1e9, got {spin_us!r}")
        if stall_ms is not None:
            stall_ms = check_number("stall_ms", stall_ms, "milliseconds, math.inf or None")
            if not 0 < stall_ms < 1e12 and stall_ms != math.inf:
                raise ValueError(f"stall_ms must be above 0 and below 1e12, or math.inf, got {stall_ms!r}")
        self.r.idle.spin_ticks = <uint64_t>(spin_us * 1000)
        self.idle = idle
        self.spin_us = spin_us
        self.pin = bool(pin)
        self.core = claim_core(self, core)
        self.name = f"reactor_{self.core}" if name is None else str(name)
        if stall_ms != math.inf:
            self._watchdog = Watchdog(self, stall_ms)
        if self.r.idle.mode == IDLE_ADAPTIVE or self.r.idle.mode == IDLE_YIELD:
            self.r.wakeup = wakeup_take()
        self.lib = default_lib() if lib is None else lib
        register_reactor(self, name)

    def __dealloc__(self):
        if self.r.wakeup != NULL:
            wakeup_give_back(self.r.wakeup)
        if self.r.fd >= 0:
            close(self.r.fd)
        if self._spare_fd >= 0:
            close(self._spare_fd)
        timer_queue_free(&self.r.alarms)
        core_free(self.r.threads)
        core_free(self._spare)

    def __repr__(self):
        return f"<Reactor {self.name!r} core={self.core} {self.state}>"

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info):
        report = self.stop()
        if not report.ok:
            logger.warning("%r stopped and left behind: %s", self, report)

    def __aenter__(self):
        """Under asyncio: start, without blocking its loop."""
        from spdkthread.aio.async_context import async_start

        return async_start(self)

    def __aexit__(self, *exc_info):
        """Under asyncio: stop, without blocking its loop."""
        from spdkthread.aio.async_context import async_stop

        return async_stop(self)

    # Lifecycle

    def start(self) -> Reactor:
        """Start the OS thread and wait until it polls. A stopped reactor may be started again.

        Returns
        -------
        Reactor
            Itself.

        Raises
        ------
        ReactorError
            When it runs already, the OS thread cannot be bound to its core, Python's threads have been replaced (by
            gevent's monkey patch) by ones that share an OS thread, or it was made before a fork.
        """
        check_os_threads(self)
        self._begin()
        begun = SignalSafeEvent()
        problem = []
        os_thread = threading.Thread(target=self._main, args=(begun, problem), name=self.name, daemon=True)
        with self._lock:
            self._thread = os_thread
        try:
            os_thread.start()
        except BaseException:
            self._forget_start()
            raise
        try:
            begun.wait()
        except BaseException:
            self._request(REQUEST_STOP)
            raise
        if problem:
            os_thread.join()
            raise problem[0]
        if self._watchdog is not None:
            self._watchdog.start()
            if not self._looping:
                # It has stopped already.
                self._watchdog.stop()
        return self

    def run(self) -> ShutdownReport:
        """Run the loop in the calling OS thread until `stop`.

        On the main thread it honours Ctrl-C: the first stops it gracefully, a second one at once.

        Returns
        -------
        ShutdownReport

        Raises
        ------
        KeyboardInterrupt, SystemExit
            After the stop, when that was what stopped it.
        ReactorError
            When it runs already.
        """
        cdef PyObject *outer
        self._begin()
        signals = None
        if threading.current_thread() is threading.main_thread():
            signals = SignalWatch(self._interrupt)
        outer = self._be_here(True)
        try:
            try:
                self._enter_loop()
                if signals is not None:
                    signals.start()
                    self.r.signal_fd = signals.wait_fd
                    self.r.watches_signals = True
                    self._signals = signals
            except BaseException:
                self._forget_start()
                raise
            if self._watchdog is not None:
                self._watchdog.start()
            try:
                self._loop()
            finally:
                self._leave_loop()
        finally:
            self.r.watches_signals = False
            self.r.signal_fd = -1
            self._signals = None
            if signals is not None:
                signals.stop()
            self._be_gone(outer)
            self._unbind()
        if self._fatal is not None:
            fatal, self._fatal = self._fatal, None
            raise fatal
        return self._last_report()

    def poll(self) -> int:
        """One turn of the loop in the calling OS thread, for embedding and for tests.

        A `stop` that was asked for inside a callback goes on in the polls that follow.

        Returns
        -------
        int
            The largest result of the threads' polls.

        Raises
        ------
        ReactorError
            When the loop runs elsewhere.
        KeyboardInterrupt, SystemExit
            When a callback raised it.
        """
        cdef PyObject *outer
        self._check_alive()
        if self._looping or not self._claim_loop():
            raise ReactorError(f"{self!r} is polled already")
        outer = self._be_here(False)
        try:
            if self._looping:
                raise ReactorError(f"{self!r} is polled already")
            self._turn()
            if self.r.stopping and self._may_end():
                self._leave_loop()
        finally:
            self._be_gone(outer)
            self._give_loop_back()
        return self.r.turn_rc

    def _turn(self):
        """One turn, by hand."""
        cdef int reason
        self.r.single_turn = True
        self.r.turn_rc = 0
        self.r.turn_worked = False
        account_start(&self.r)
        try:
            if self.r.fd >= 0:
                reactor_collect_fds(&self.r)
            self._serve()
            while True:
                reason = self._detached_turn()
                if reason != NEED_PYTHON:
                    break
                self._python_turn()
                if self._phase_now() == PHASE_DEAD:
                    return
            self._serve()
            account_idle(&self.r)
        finally:
            self.r.single_turn = False
        if self._fatal is not None:
            fatal, self._fatal = self._fatal, None
            raise fatal

    def stop(self, timeout_s=None) -> ShutdownReport:
        """Refuse messages from outside, run what was accepted, exit the threads, end, and report what was left.

        A thread that cannot exit, because it still has pollers or channels, is left as it is and reported; it is then
        on no reactor and can be driven by hand.

        Parameters
        ----------
        timeout_s : float, optional
            After so many seconds it ends with whatever is left. A callback that does not return by then is not waited
            for: the report names the reactor in `still_running`, and the loop ends when the callback does. None: it
            takes as long as running what was accepted takes. After 5, 10, 20, ... s the log says what it waits for.

        Returns
        -------
        ShutdownReport

        Notes
        -----
        **Thread safety:** any OS thread, a signal handler, an atexit hook. On a reactor's own OS thread it only begins
        the stop and returns what is left at that moment: waiting there would hold up what it waits for. A second stop
        returns the same report.
        """
        check_timeout(timeout_s)
        self._check_alive()
        if st_load_acquire(&self._owner) == PyThread_get_thread_ident():
            # Its own callback.
            self._request(REQUEST_STOP)
            return self._what_is_left() + ShutdownReport(still_running=(self.name,))
        with self._lock:
            looping = self._looping
            os_thread = self._thread
            if looping:
                self._request(REQUEST_STOP)
        if not looping:
            return self._drain_by_hand(timeout_s)
        if current_reactor() != NULL:
            return self._what_is_left() + ShutdownReport(still_running=(self.name,))
        if not tell_while_waiting(self._ended.wait, timeout_s, self._tell_stop):
            self._request(REQUEST_ABORT)
            if not self._ended.wait(0.2):
                return self._what_is_left() + ShutdownReport(still_running=(self.name,))
        if os_thread is not None:
            os_thread.join()
        return self._last_report()

    def join(self, timeout_s=None) -> bool:
        """Wait until it has ended.

        Returns
        -------
        bool
            False when it still runs after `timeout_s` seconds.

        Raises
        ------
        WrongThreadError
            On its own OS thread.
        """
        check_timeout(timeout_s)
        self._check_alive()
        if st_load_acquire(&self._owner) == PyThread_get_thread_ident():
            raise WrongThreadError(f"{self!r} cannot wait for its own end")
        with self._lock:
            os_thread = self._thread
        if not self._ended.wait(timeout_s):
            return False
        if os_thread is not None and os_thread is not threading.current_thread():
            os_thread.join()
        return True

    # Threads

    def create_thread(self, name=None, **kw):
        """Create an SpdkThread of `lib` and place it here. Parameters as `ThreadLib.create_thread`."""
        thread = self.lib.create_thread(name, **kw)
        try:
            self.add_thread(thread)
        except BaseException:
            with thread:
                thread.exit()
            thread.poll()
            raise
        return thread

    def add_thread(self, SpdkThread thread not None) -> None:
        """Poll `thread` from now on.

        Raises
        ------
        ReactorError
            When it belongs to a reactor or an event loop already, this one is stopping, or its cpumask forbids this
            core.
        WrongThreadError
            While it is entered or polled by hand, on whatever OS thread.
        ThreadExitedError
            When it has exited.
        """
        self._check_alive()
        thread._check_ready()
        mask = thread.cpumask
        if mask is not None and self.core not in mask:
            raise ReactorError(f"{thread!r} may only be placed on cores {sorted(mask)}, not on {self!r}")
        thread._belong_to(self, True, ReactorError)
        try:
            self._take_in(thread)
        except BaseException:
            thread._give_up(self)
            raise

    def move_thread(self, SpdkThread thread not None, Reactor to not None):
        """Have another reactor poll `thread`. No message is lost, and none changes its place.

        Returns
        -------
        Future
            Resolves to the thread when `to` has it.

        Raises
        ------
        ReactorError
            When `thread` is not on this reactor, `to` is stopping or has stopped, or the cpumask forbids its core.
        """
        from spdkthread.placement import move_thread

        return move_thread(self, thread, to)

    def _is_driven_here(self) -> bool:
        """Whether the calling OS thread runs its loop."""
        return st_load_acquire(&self._owner) == PyThread_get_thread_ident()

    def _os_thread(self):
        """The number of the OS thread that runs its loop, or a turn of it; 0: none does."""
        return st_load_acquire(&self._owner)

    def _polls_so_far(self):
        return self.r.turns

    cdef int _phase_now(self) noexcept:
        return st_load32_acquire(&self._phase)

    cdef void _set_phase(self, int phase) noexcept:
        st_store32_release(&self._phase, phase)

    cdef int _check_alive(self) except -1:
        if self._phase_now() == PHASE_DEAD:
            raise ReactorError(f"{self!r} was made before a fork and does not exist in the child")
        if self.lib is None:
            raise ReactorError("this Reactor was never initialised")
        return 0

    # Inside: who runs the loop. One OS thread at a time: the reactor's own, or whoever polls it by hand.

    cdef bint _claim_loop(self) noexcept:
        cdef uint64_t nobody = 0
        return st_cas_acq_rel(&self._owner, &nobody, PyThread_get_thread_ident())

    def _give_loop_back(self):
        st_store_release(&self._owner, 0)
        # What was asked for after the last look.
        self._serve_now()

    cdef PyObject *_be_here(self, bint claim) except? NULL:
        """This OS thread is the reactor's from now on; returns whose it was before."""
        if claim:
            st_store_release(&self._owner, PyThread_get_thread_ident())
        return set_current_reactor(<PyObject *>self)

    cdef int _be_gone(self, PyObject *outer) except -1:
        set_current_reactor(outer)
        return 0

    # Inside: places

    def _take_in(self, SpdkThread thread):
        """Become the reactor of a thread that has none, or that its reactor hands over."""
        with self._lock:
            if self._phase_now() not in (PHASE_NEW, PHASE_RUNNING, PHASE_STOPPED):
                raise ReactorError(f"{self!r} takes no threads any more")
            self._make_ready(thread)
            self._members[id(thread)] = thread
            thread._place(self, self)
            if not thread._polled:
                thread._polled = True
                thread._first_poll = clock_read(thread.c.clock) if thread.c.clock != NULL else st_cycles()
            st_storep_release(&thread.c.wakeup, self.r.wakeup)
            # Under the lock: a stop that begins right after sees that there is a member to be taken in first.
            self._request(REQUEST_MEMBERS)

    def _hand_over(self, SpdkThread thread, Reactor to):
        """On the loop, between turns: give a thread to another reactor. It is never on none."""
        to._make_ready(thread)
        with self._lock:
            if thread._reactor is not self or id(thread) not in self._members:
                raise ReactorError(f"{thread!r} is not on {self!r} any more")
            if thread.is_exited:
                raise ThreadExitedError(f"{thread!r} cannot be moved")
            mask = thread.cpumask
            if mask is not None and to.core not in mask:
                raise ReactorError(f"{thread!r} may only be placed on cores {sorted(mask)}, not on {to!r}")
            if self.r.stopping:
                raise ReactorError(f"{thread!r} cannot be moved away from {self!r}")
            del self._members[id(thread)]
        self._rebuild()
        self._unwatch_fds(thread)
        try:
            to._take_in(thread)
        except BaseException:
            self._take_in(thread)
            self._watch_fds(thread)
            raise
        if st_tracing():
            trace_put(TRACE_MOVE, thread.c.trace_number, st_cycles(), 0, <uint64_t><int>self.core, <int>to.core)

    def _serve_now(self):
        """For a reactor whose loop does not run: do what was asked for in the calling OS thread."""
        cdef PyObject *outer
        while not self._looping and st_load32_acquire(&self.r.requests) & ~<uint32_t>(REQUEST_STOP | REQUEST_ABORT):
            # Whoever has it looks again after giving it back.
            if self._phase_now() == PHASE_DEAD or not self._claim_loop():
                return
            outer = self._be_here(False)
            try:
                if not self._looping:
                    self._serve()
            finally:
                self._be_gone(outer)
                st_store_release(&self._owner, 0)

    cdef int _make_ready(self, object one) except -1:
        """Before a thread comes: what the loop will need for it, so that it can fail here and not there."""
        cdef SpdkThread thread = one
        with self._lock:
            self._make_room(len(self._members) + 1)
            if thread.c.fd_count:
                self._make_fd_set()
        return 0

    cdef int _make_room(self, count) except -1:
        """Under the lock: a table for so many threads."""
        cdef thread_s **threads
        cdef uint32_t capacity
        if count <= max(self._capacity, self._spare_capacity):
            return 0
        capacity = max(16, 2 * count)
        threads = <thread_s **>core_calloc(capacity, sizeof(thread_s *))
        if threads == NULL:
            raise MemoryError(f"no memory for {count} threads on {self!r}")
        core_free(self._spare)
        self._spare = threads
        self._spare_capacity = capacity
        return 0

    cdef int _rebuild(self) except -1:
        """On the loop, between turns: poll exactly the members."""
        cdef uint32_t count = 0
        cdef SpdkThread thread
        account_idle(&self.r)
        reactor_list_end(&self.r)
        with self._lock:
            gone = [thread for thread in self._members.values() if thread.is_exited]
            for thread in gone:
                self._unwatch_fds(thread)
                del self._members[id(thread)]
                st_storep_release(&thread.c.wakeup, NULL)
                thread._give_up(self)
            if self._spare != NULL:
                core_free(self.r.threads)
                self.r.threads, self._capacity = self._spare, self._spare_capacity
                self._spare, self._spare_capacity = NULL, 0
            for thread in self._members.values():
                self.r.threads[count] = &thread.c
                st_store32_relaxed(&thread.c.ready_index, count)
                count += 1
            self.r.count = count
            self.r.cursor = 0
            self.r.adopted_until = st_ticks() + ADOPTION_TICKS
            for thread in self._members.values():
                if thread.c.fd_count:
                    self._watch_fds(thread)
            if count > LIST_THREADS and not self.r.stopping:
                self._list_threads()
        return 0

    cdef int _list_threads(self) except -1:
        """On the loop, under the lock: have turns look only at threads that may have work, as soon as that is safe."""
        cdef SpdkThread thread
        for thread in self._members.values():
            if thread.c.clock != NULL:
                return 0        # nothing tells when such a clock is moved
        try:
            timer_queue_init(&self.r.alarms)
            if self.r.wakeup == NULL:
                self.r.wakeup = wakeup_take()
                for thread in self._members.values():
                    st_storep_release(&thread.c.wakeup, self.r.wakeup)
        except (MemoryError, OSError):
            return 0            # it goes on looking at all of them
        if not wakeup_make_ready_map(self.r.wakeup, self.r.count):
            return 0
        wakeup_use_ready_map(self.r.wakeup)
        self.r.lists_from = st_ticks() + ADOPTION_TICKS
        self.r.listing = LISTS_SOON
        return 0

    cdef int _make_fd_set(self) except -1:
        """Under the lock: a set of file descriptors."""
        if self._spare_fd < 0:
            self._spare_fd = fd_group_open()
            if self._spare_fd < 0:
                raise ReactorError(f"no file descriptor for the fd set of {self!r}")
        return 0

    def _watch_fds(self, SpdkThread thread):
        """On the loop: a thread of this reactor has file descriptors."""
        if self.r.fd < 0:
            with self._lock:
                self._make_fd_set()
                self.r.fd, self._spare_fd = self._spare_fd, -1
        fd_group_add(self.r.fd, thread.c.fd_set, FD_READABLE, <uint64_t>&thread.c)     # EEXIST is fine

    def _unwatch_fds(self, SpdkThread thread):
        """On the loop: it has none any more, or leaves."""
        cdef SpdkThread other
        if self.r.fd < 0 or thread.c.fd_set < 0:
            return
        fd_group_remove(self.r.fd, thread.c.fd_set, FD_READABLE)
        with self._lock:
            for other in self._members.values():
                if other is not thread and other.c.fd_count:
                    return
        close(self.r.fd)
        self.r.fd = -1
        with self._lock:
            if self._spare_fd >= 0:
                close(self._spare_fd)
                self._spare_fd = -1

    def _mend_fds(self):
        """On the loop: other code has closed descriptors of ours, and sleeping on those is not sleeping."""
        cdef SpdkThread thread
        lost = []
        if self.r.wakeup != NULL and wakeup_repair(self.r.wakeup):
            lost.append("its wake-up descriptor")
        if self.r.fd >= 0 and not fd_is_open(self.r.fd):
            lost.append("its fd set")
            self.r.fd = -1
            with self._lock:
                members = list(self._members.values())
            for thread in members:
                if thread._mend_fds():
                    lost.append(f"the fd set of {thread.name!r}")
                if thread.c.fd_count:
                    self._watch_fds(thread)
        if self.r.signal_fd >= 0 and not fd_is_open(self.r.signal_fd):
            lost.append("what tells it of signals, which now come late")
            self.r.signal_fd = -1
        if lost:
            logger.error(
                "%r: other code has closed descriptors that it had not opened, perhaps by os.closerange: %s. "
                "It has opened new ones; messages sent meanwhile may have waited", self, ", ".join(lost)
            )

    # Inside: requests

    def _request(self, flags):
        st_or32_release(&self.r.requests, flags)
        if self.r.wakeup != NULL:
            wakeup_notify(self.r.wakeup)

    def _call_on_loop(self, fn):
        """Have ``fn()`` run on the loop, between turns, with no current SpdkThread."""
        self._calls.append(fn)
        self._request(REQUEST_CALLS)

    def _abort(self):
        self._request(REQUEST_ABORT)

    def _interrupt(self):
        """On the main thread: the first Ctrl-C."""
        if self._fatal is None:
            self._fatal = KeyboardInterrupt()
        self._request(REQUEST_STOP)

    cdef int _serve(self) except -1:
        """Do what was asked for. What an exception keeps from being done stays asked for."""
        cdef uint32_t flags = st_exchange32(&self.r.requests, 0)
        if flags == 0:
            return 0
        try:
            if flags & REQUEST_TIGHTEN:
                affinity_tighten()
                flags &= ~<uint32_t>REQUEST_TIGHTEN
            if flags & REQUEST_MEMBERS:
                self._rebuild()
                flags &= ~<uint32_t>REQUEST_MEMBERS
            if flags & REQUEST_CALLS:
                while self._calls:
                    self._call(self._calls.popleft())
                flags &= ~<uint32_t>REQUEST_CALLS
            if flags & REQUEST_MEND:
                self._mend_fds()
                flags &= ~<uint32_t>REQUEST_MEND
            if flags & (REQUEST_STOP | REQUEST_ABORT):
                self._begin_stop()
            if flags & REQUEST_ABORT:
                self._set_phase(PHASE_ABORTING)
            flags = 0
        finally:
            if flags:
                st_or32_release(&self.r.requests, flags)
        return 0

    def _call(self, fn):
        try:
            fn()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.lib._report(f"{describe(fn)} failed on reactor {self.name!r}", error, None, "fn", fn)

    def _begin_stop(self):
        """Take nothing more from outside."""
        cdef SpdkThread thread
        if self.r.stopping:
            return
        with self._lock:
            self._set_phase(PHASE_STOPPING)
            members = list(self._members.values())
        reactor_list_end(&self.r)
        self.r.stopping = True
        self.r.exiting = False
        self.r.stop_turn = self.r.turns
        for thread in members:
            ring_set_stopping(thread.c.ring, True)

    def _begin_exit(self):
        """Everything that was accepted has run: exit the threads."""
        cdef SpdkThread thread
        cdef thread_s *outer
        self.r.exiting = True
        self.r.stop_turn = self.r.turns
        for thread in list(self._members.values()):
            outer = set_current(&thread.c)
            thread._exit_here()
            set_current(outer)
            # An idle thread gets one more poll, in which it exits.
            attention_set(&thread.c, ATTENTION_FDS)

    def _may_end(self):
        """While stopping, after a turn: go on from draining to exiting, and from there to the end."""
        if self._phase_now() == PHASE_ABORTING:
            return True
        # Two whole turns in each stage, so that every thread has had its poll.
        if self.r.in_poll or st_load32_relaxed(&self.r.requests) or self.r.turns < self.r.stop_turn + 2:
            return False
        if not reactor_is_drained(&self.r):
            return False
        if self.r.exiting:
            return True
        with self._lock:
            ending = self._termination
        if ending is None or ending.may_exit():
            self._begin_exit()
        return False

    def _begin_end(self, ending):
        """Stop together with others; see `Termination`."""
        with self._lock:
            self._termination = ending
            if self._looping:
                self._request(REQUEST_STOP)

    def _drained_mark(self):
        """None while anything is left to run, else what was ever sent to each of its threads."""
        cdef SpdkThread thread
        cdef list mark = []
        with self._lock:
            if not self._looping:
                return mark
            if self._phase_now() not in (PHASE_STOPPING, PHASE_ABORTING):
                return None
            for thread in self._members.values():
                # In this order: a poll that begins in between has taken a message, which shows in the tail.
                sent = st_load_acquire(&thread.c.ring.tail) & RING_POSITION
                st_fence_seq_cst()
                if not thread_is_drained(&thread.c):
                    return None
                st_fence_seq_cst()
                if thread.c.polling or sent != st_load_acquire(&thread.c.ring.tail) & RING_POSITION:
                    return None
                mark.append((thread.id, sent))
        return mark

    # Inside: the loop

    def _begin(self):
        with self._lock:
            self._check_alive()
            if self._looping or not self._claim_loop():
                raise ReactorError(f"{self!r} is running already")
            if self._phase_now() not in (PHASE_NEW, PHASE_STOPPED):
                st_store_release(&self._owner, 0)
                raise ReactorError(f"{self!r} is being stopped")
            self._phase_before = self._phase_now()
            self._looping = True
            self._set_phase(PHASE_RUNNING)
            self._ended.clear()
            self._termination = None
            # A stop that came too late for the run before is not meant for this one.
            st_and32_acq_rel(&self.r.requests, ~<uint32_t>(REQUEST_STOP | REQUEST_ABORT))
        try:
            reactor_measure_cycles(&self.r)
            self._fatal = None
            self.r.stopping = False
            self.r.turn_worked = False
            self.r.in_poll = False
            idle_reset(&self.r.idle)
            claim_core(self, self.core)
            warn_if_crowded(self)
        except BaseException:
            self._forget_start()
            raise

    def _forget_start(self):
        """It could not be started: as if nobody had tried."""
        with self._lock:
            self._set_phase(self._phase_before)
            self._looping = False
        st_store_relaxed(&self._tid, 0)
        self._ended.set()
        self._give_loop_back()

    def _main(self, begun, problem):
        """The OS thread of a started reactor."""
        cdef PyObject *outer = self._be_here(True)
        try:
            try:
                self._enter_loop()
            except BaseException as error:
                self._forget_start()
                problem.append(error)
                return
            finally:
                begun.set()
            try:
                self._loop()
            finally:
                self._leave_loop()
        finally:
            self._be_gone(outer)
            self._unbind()

    def _unbind(self):
        if self._bound:
            self._bound = False
            affinity_leave()

    def _enter_loop(self):
        before = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        try:
            affinity_enter(
                self.core if self.pin else -1, self.r.idle.mode == IDLE_ADAPTIVE or self.r.idle.mode == IDLE_YIELD,
                &self.r.requests, REQUEST_TIGHTEN,
            )
        except OSError as error:
            raise ReactorError(f"{self!r} cannot be bound to core {self.core}: {error.strerror}") from None
        self._bound = True
        with self._lock:
            self._affinity = before if self.pin else None
        st_store_relaxed(&self._tid, threading.get_native_id())
        if threading.current_thread() is not threading.main_thread():
            st_name_os_thread(self.name.encode(errors="replace")[:15])
        account_start(&self.r)
        st_storep_release(&self.r.busy_owner, NULL)
        st_or32_release(&self.r.requests, REQUEST_MEMBERS)

    def _loop(self):
        """Two phases, turn and turn about, until the stop is complete."""
        cdef int reason
        cdef int release = GIL_NO_WORK_LEFT
        cdef uint64_t handed
        cdef uint64_t attached = 0
        while True:
            with nogil:
                if release == GIL_HAND_OVER:
                    gil_handoff_pass(self.r.stretch_began)
                else:
                    gil_handoff_released()
                if release != GIL_NO_WORK_LEFT:
                    self.r.attach_started = st_cycles()
                    gil_handoff_yield(release)
                    account_pause(&self.r)
                reason = reactor_detached(&self.r)
                if reason == NEED_REQUESTS and self.r.stopping and not self.r.turn_worked:
                    st_nap()
                self.r.attach_started = st_cycles()
                handed = gil_handoff_wait()
            gil_handoff_acquired()
            account_attach(&self.r, handed)
            if st_tracing():
                attached = st_cycles()
            release = self._attached(reason)
            if st_tracing():
                trace_put(TRACE_ATTACHED, 0, attached, st_cycles() - attached if attached else 0, 0, 0)
            if self._phase_now() == PHASE_DEAD or (self.r.stopping and self._may_end()):
                break

    cdef int _detached_turn(self) except -1:
        cdef int reason
        with nogil:
            reason = reactor_detached(&self.r)
        return reason

    cdef int _attached(self, int reason) except -1:
        """The attached phase. Returns why it lets go of the GIL, a `gil_release`."""
        try:
            if reason == NEED_PYTHON:
                return self._python_turn()
            if reason == NEED_REQUESTS:
                self.r.turn_worked = False
                self._serve()
            elif reason == NEED_IDLE_OBJECT:
                self._ask_idle_object()
            elif reason == NEED_SHARED_CORE:
                logger.info(
                    "%r has lost its core to other processes %d times (idle=%r): beside them \"adaptive\" answers "
                    "sooner, and a core of its own soonest", self, self.r.idle.slices_lost, self.idle,
                )
            if self.r.watches_signals:
                self.r.signals_due = st_ticks() + SIGNAL_TICKS
                self._signals.clear()
                PyErr_CheckSignals()
        except BaseException as error:
            self._stopped_by(error)
        return GIL_NO_WORK_LEFT

    def _ask_idle_object(self):
        try:
            if self.r.turn_worked:
                idle_reset(&self.r.idle)
                self.idle.reset()
            else:
                self.r.idle.idle_turns = 1
                self.idle.idle(0)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.lib._report(f"{describe(self.idle)} failed on reactor {self.name!r}", error, None, "fn", self.idle)
        finally:
            self.r.turn_worked = False

    cdef int _python_turn(self) except -1:
        """Python work of this turn, and of the next ones while there is some. Returns a `gil_release`."""
        cdef reactor_s *r = &self.r
        cdef thread_s *thread
        cdef int step
        cdef uint64_t now
        while True:
            thread = r.threads[r.cursor]
            step = poll_attached(thread)
            if self._phase_now() == PHASE_DEAD:
                return GIL_NO_WORK_LEFT     # a callback has forked, and this is the child
            now = st_cycles()
            r.detached_at = now
            r.ran_python = True
            if step == STEP_NATIVE:
                return release_after(r, now)
            if step == STEP_RAISED:
                reactor_finish(r, thread)
                turn_pass(r)
                self._caught()
                return GIL_NO_WORK_LEFT
            reactor_finish(r, thread)
            turn_pass(r)
            if busy_owner(r) == thread:
                # Long callbacks show in the statistics at once.
                if thread.rc > 0:
                    account_flush(r, now)
                else:
                    st_storep_release(&r.busy_owner, NULL)
            if st_load32_relaxed(&thread.state) == THREAD_EXITED:
                st_or32_release(&r.requests, REQUEST_MEMBERS)
            # The clock says when others have their turn, after each poll: a turn may be any number of polls.
            if release_after(r, now) == GIL_PAUSE:
                return GIL_PAUSE
            while not turn_next_poll(r):
                # The turn is over. A turn in which anything but polls may be due belongs to the detached phase.
                if (
                    r.single_turn or r.stopping or not r.turn_worked
                    or (r.count > ATTACHED_SCAN and r.listing != LISTS_READY)
                    or r.watches_signals or r.fd >= 0 or r.idle.mode == IDLE_OBJECT
                    or st_load32_relaxed(&r.requests)
                ):
                    return GIL_NO_WORK_LEFT
                if st_load_relaxed(&gil_wanted):
                    return GIL_HAND_OVER
                turn_end(r)
                turn_end_busy(r)

    cdef int _caught(self) except -1:
        """A poll was broken off by KeyboardInterrupt or SystemExit, which is set."""
        try:
            pass_on()
        except BaseException as error:
            self._stopped_by(error)
        return 0

    def _stopped_by(self, error):
        """The first such exception begins a graceful stop, a second one ends it."""
        if self.r.single_turn:
            self._fatal = error
            return
        if self._fatal is None:
            self._fatal = error
            st_or32_release(&self.r.requests, REQUEST_STOP)
        else:
            st_or32_release(&self.r.requests, REQUEST_ABORT)

    def _leave_loop(self):
        cdef SpdkThread thread
        looped = self._looping
        report = ShutdownReport()
        if looped:
            gil_handoff_released()
        try:
            if self._phase_now() == PHASE_DEAD:
                return
            account_idle(&self.r)
            try:
                self._serve()       # what was asked for after the last look
                self._rebuild()
            except BaseException as error:
                logger.error("%r could not look after its threads at its end: %r", self, error)
            report = self._what_is_left(by_name=True)
            for thread in list(self._members.values()):
                thread._tell_repeats()
            if self._fatal is not None and looped and not self.r.watches_signals and self._is_own_os_thread():
                logger.error("%r was stopped by %r", self, self._fatal)
        finally:
            with self._lock:
                if self._phase_now() != PHASE_DEAD:
                    self._report = report
                    reactor_list_end(&self.r)
                    for thread in list(self._members.values()):
                        self._unwatch_fds(thread)
                        st_storep_release(&thread.c.wakeup, NULL)
                        ring_set_stopping(thread.c.ring, False)
                        # The last: from here on another reactor may have it.
                        thread._give_up(self)
                    self._members.clear()
                    self.r.count = 0
                    self.r.cursor = 0
                    self._set_phase(PHASE_STOPPED)
                self.r.stopping = False
                self.r.in_poll = False
                self._looping = False
                self._termination = None
                st_and32_acq_rel(&self.r.requests, ~<uint32_t>(REQUEST_STOP | REQUEST_ABORT))
            st_store_relaxed(&self._tid, 0)
            self.r.stopped = st_cycles()
            if looped:
                if self._watchdog is not None:
                    self._watchdog.stop()
                self._give_loop_back()
            self._ended.set()

    def _is_own_os_thread(self):
        with self._lock:
            return self._thread is threading.current_thread()

    def _drain_by_hand(self, timeout_s):
        """Stop a reactor whose loop does not run: the caller's OS thread polls until nothing is left to run."""
        cdef PyObject *outer
        cdef uint32_t idle_turns = 0
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        began = time.monotonic()
        says_after_s = waiting.STOP_SAYS_AFTER_S
        inside = current_reactor() != NULL
        while not self._claim_loop():
            if self._looping:
                # It was started meanwhile.
                return self.stop(None if give_up is None else max(0.0, give_up - time.monotonic()))
            # Somebody polls it just now.
            if inside or (give_up is not None and time.monotonic() >= give_up):
                self._request(REQUEST_STOP)
                return self._what_is_left() + ShutdownReport(still_running=(self.name,))
            time.sleep(0.0005)
        outer = self._be_here(False)
        try:
            with self._lock:
                if not self._members:
                    self._set_phase(PHASE_STOPPED)
                    return self._report
            try:
                self._begin_stop()
                while not self._may_end():
                    if give_up is not None and time.monotonic() >= give_up:
                        break
                    if time.monotonic() - began >= says_after_s:
                        self._tell_stop(time.monotonic() - began)
                        says_after_s *= 2
                    self._turn()
                    # On another reactor's OS thread: what waits for that reactor would wait for ever.
                    idle_turns = 0 if self.r.turn_rc > 0 else idle_turns + 1
                    if inside and idle_turns > 16:
                        break
            finally:
                self._leave_loop()
            return self._report
        finally:
            self._be_gone(outer)
            self._give_loop_back()

    def _set_name(self, name):
        """For the roster, which gives the names under its lock."""
        self.name = str(name)

    def _tell_stop(self, waited_s):
        """A stop takes long: log what it waits for."""
        with self._lock:
            ending = self._termination
        together = (self,) if ending is None else ending.reactors
        waits = [words for one in together for words in one._keeps_stop_waiting()]
        logger.warning(
            "%r has been stopping for %.0f s and waits for %s", self, waited_s, "; ".join(waits) or "its last turns"
        )

    def _keeps_stop_waiting(self):
        """What this reactor has to run before it can end, in words."""
        cdef SpdkThread thread
        if not self._looping and not self.r.stopping:
            return []
        running = self._running_now()
        waits = [f"{running} on reactor {self.name!r}, which runs now"] if running else []
        with self._lock:
            members = [thread for thread in self._members.values() if not thread_is_drained(&thread.c)]
        for thread in members:
            blockers = thread.exit_blockers
            if blockers:
                shown = ", ".join(blockers[:10]) + (", ..." if len(blockers) > 10 else "")
                waits.append(f"thread {thread.name!r} on reactor {self.name!r} ({shown})")
        return waits

    def _last_report(self):
        with self._lock:
            return self._report

    def _what_is_left(self, by_name=False):
        """`by_name`: on the loop. From elsewhere messages are only counted: they may run, and go, meanwhile."""
        with self._lock:
            members = list(self._members.values())
        return what_is_left(members, by_name)

    def _progress(self):
        """For the watchdog: changes with every callback; None while none is under way."""
        cdef thread_s *thread
        cdef uint32_t cursor
        with self._lock:
            # Once: the loop moves it on meanwhile. The table and the count change under the lock only.
            cursor = self.r.cursor
            if not self.r.in_poll or cursor >= self.r.count or self.r.attach_started:
                return None     # waiting for the GIL is not the callback's time
            thread = self.r.threads[cursor]
            # Native work is counted when a stretch of it is over: in between it shows by where it has come to.
            return (
                self.r.turns, cursor, thread.polls, thread.msgs_run, thread.pollers_run, thread.fds_run,
                thread.batch_next, <size_t>thread.running,
            )

    def _stalled(self):
        """For the watchdog: what runs now, by name, and on which OS thread. Counts the stall."""
        cdef uint32_t number = 0
        st_add_relaxed(&self.r.stalls, 1)
        what = self._running_now()
        if st_tracing():
            with self._lock:
                if self.r.in_poll and self.r.cursor < self.r.count:
                    number = self.r.threads[self.r.cursor].trace_number
            trace_put(TRACE_STALL, number, st_cycles(), 0, trace_text(what or "a callback"), <int>self.core)
        return (what, st_load_acquire(&self._owner)) if what else (None, 0)

    def _running_now(self):
        """The callback that runs now, and its thread, in words; empty: none does."""
        cdef SpdkThread owner
        cdef uint32_t cursor
        with self._lock:
            cursor = self.r.cursor
            if not self.r.in_poll or cursor >= self.r.count:
                return ""
            owner = <SpdkThread>self.r.threads[cursor].owner
        return f"{owner._running_name()} of thread {owner.name!r}"

    def _die(self):
        """In the child of a fork: the OS thread is not there any more, or this is its copy inside a callback."""
        cdef SpdkThread thread
        self._ended = SignalSafeEvent(True)
        self._set_phase(PHASE_DEAD)
        for fd in (self.r.fd, self._spare_fd):
            if fd >= 0:
                close(fd)
        self.r.fd = self._spare_fd = -1
        self.r.signal_fd = -1
        if self._signals is not None:
            self._signals.die()
        for thread in list(self._members.values()):
            thread._die()
        # The loop may be under way beneath us, on the only OS thread of the child: its threads stay.
        self._departed = dict(self._members)
        self._members.clear()
        self.r.count = 0
        st_store_relaxed(&self._tid, 0)

    def _cores_before(self):
        """The cores that its OS thread was allowed before it was bound to one."""
        with self._lock:
            return self._affinity if self._looping and self._affinity is not None else frozenset()

    # Properties

    @property
    def threads(self) -> tuple:
        """The threads that it polls, in the order in which they came."""
        with self._lock:
            return tuple([thread for thread in self._members.values() if not thread.is_exited])

    @property
    def state(self) -> str:
        """``"new"``, ``"running"``, ``"stopping"``, ``"stopped"``, or ``"dead"`` in the child of a fork."""
        return PHASES[self._phase_now()]

    @property
    def tid(self) -> int | None:
        """The kernel's id of its OS thread, None while it does not run."""
        return st_load_relaxed(&self._tid) or None

    def context_switches(self) -> ContextSwitches:
        """How often the kernel took its OS thread off the core: because it slept, and because others had their turn.

        Returns
        -------
        ContextSwitches
            Counted since its OS thread began.

        Raises
        ------
        ReactorError
            While it does not run, and on systems that do not tell (other than Linux).

        Notes
        -----
        **Thread safety:** any OS thread. It reads a file of the kernel's, so the reactor does nothing for it. Answers
        to ``spdk_framework_enable_context_switch_monitor``, which looks once a second and logs.
        """
        tid = self.tid
        if tid is None:
            raise ReactorError(f"{self!r} has no OS thread: start it first")
        return read_context_switches(self, tid)

    @property
    def stats(self) -> ReactorStats:
        """A snapshot of the counters. None of them ever goes back, over restarts too."""
        cdef uint64_t until, busy, stopped
        cdef int64_t busy_ticks = 0, idle_ticks = 0
        if self.r.started:
            # Stamps in this order: see `reactor_s`.
            stopped = self.r.stopped
            until = stopped if stopped else st_cycles()
            if not stopped and (self.r.in_poll or st_loadp_acquire(&self.r.busy_owner) != NULL):
                until = st_load_acquire(&self.r.busy_since)
            busy = st_load_relaxed(&self.r.busy)
            busy_ticks = account_ticks(NULL, busy)
            idle_ticks = account_ticks(NULL, until - self.r.started - busy)
        return ReactorStats(
            never_less(&self.r.busy_seen, busy_ticks), never_less(&self.r.idle_seen, idle_ticks), self.r.turns,
            self.r.parks, self.r.wakes, self.r.gil_waits,
            never_less(&self.r.gil_wait_seen, account_ticks(NULL, self.r.gil_wait)), st_load_relaxed(&self.r.stalls),
            self.r.idle.slices_lost,
        )

    def _unaccounted_since(self, SpdkThread thread):
        """The stamp since when what passes for one of its threads is neither busy nor idle yet; None: it is idle."""
        if not thread.c.polling and st_loadp_acquire(&self.r.busy_owner) != &thread.c:
            return None
        return st_load_acquire(&self.r.busy_since)


cdef inline int release_after(reactor_s *r, uint64_t now) noexcept nogil:
    """After a poll, by the clock: whether plain threads are to have the GIL for as long as they need to take it."""
    if now - r.stretch_began <= r.hold_cycles:
        return GIL_NO_WORK_LEFT
    r.stretch_began = 0
    return GIL_PAUSE


cdef int pass_on() except -1:
    """The exception that is set leaves."""
    return -1


def get_reactor() -> Reactor | None:
    """The reactor whose turn is under way on this OS thread, or None. **Thread safety:** any OS thread."""
    cdef PyObject *reactor = current_reactor()
    return None if reactor == NULL else <object>reactor


def check_os_threads(reactor):
    """Raise `ReactorError` where ``threading.Thread`` starts no OS thread: a reactor would stop all the others."""
    starter = getattr(threading, "_start_joinable_thread", None) or getattr(threading, "_start_new_thread", None)
    # Under our own, see affinity.pyx, is the interpreter's or what had replaced it before.
    starter = getattr(starter, "_spdkthread_starts_by", starter)
    if starter is None or type(starter) is type(len):
        return
    culprit = getattr(starter, "__module__", "other code").partition(".")[0]
    raise ReactorError(
        f"{reactor!r} cannot be started: {culprit} has replaced the threads of Python by its own, which share one OS "
        "thread; leave out that part of its monkey patching (gevent: patch_all(thread=False)), or drive the reactor "
        "by run() in a process of its own"
    )


trace_enrol(&st_trace_word)
