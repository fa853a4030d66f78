"""Reactor: one OS thread on one core that polls its SpdkThreads for ever.

The loop has two phases and is lexically flat::

    detached (no GIL)                         attached
      turn: poll every thread                   requests of other OS threads
      native work runs here        ---->        the Python work of this turn, in order
      nothing to do: idle strategy <----        and of the next turns, as long as there is some, for a bounded time

An empty turn never takes the GIL. Between reactors of one process the GIL is handed over by two atomic words
(`gil_handoff`), so that it changes hands within a microsecond instead of after CPython's wait of 5 ms.

This file has the public class. ``reactor_state.pxd`` says which file has what of its mechanism.
"""

import logging
import math
import os
import threading
import time

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.affinity cimport affinity_enter, affinity_leave
from spdkthread.atomics cimport (
    st_and32_acq_rel,
    st_load32_acquire,
    st_load_acquire,
    st_load_relaxed,
    st_or32_release,
    st_store_relaxed,
    st_store_release,
    st_storep_release,
)
from spdkthread.clock cimport st_cycles
from spdkthread.cpython_ext cimport PyThread_get_thread_ident
from spdkthread.current_reactor cimport current_reactor
from spdkthread.gil_handoff cimport gil_handoff_released
from spdkthread.idle cimport IDLE_ADAPTIVE, IDLE_YIELD, idle_mode_of, idle_reset
from spdkthread.late cimport LATE_ASYNC_START, LATE_ASYNC_STOP, LATE_GET_REACTOR, late, late_fill
from spdkthread.os_ext cimport st_name_os_thread
from spdkthread.reactor_attached cimport run_loop, run_turn, serve
from spdkthread.reactor_loop cimport (
    REQUEST_ABORT,
    REQUEST_CALLS,
    REQUEST_MEMBERS,
    REQUEST_STOP,
    REQUEST_TIGHTEN,
    account_idle,
    account_start,
    reactor_measure_cycles,
)
from spdkthread.reactor_members cimport (
    abandon_all,
    adopt,
    give_up_all,
    hand_over,
    rebuild,
    unwatch_fds,
    watch_fds,
)
from spdkthread.reactor_state cimport (
    PHASE_DEAD,
    PHASE_NEW,
    PHASE_RUNNING,
    PHASE_STOPPED,
    ReactorState,
    ask,
    claim_loop,
    enter_reactor,
    leave_reactor,
    phase_now,
    release_loop,
    set_phase,
)
from spdkthread.reactor_stop cimport begin_stop, drained_mark, log_waits, may_end, stop_together, what_remains
from spdkthread.reactor_view cimport progress, running_now, stalled, statistics, unaccounted_since
from spdkthread.thread cimport SpdkThread
from spdkthread.wakeup cimport wakeup_take

from spdkthread import waiting
from spdkthread.checks import check_number, check_timeout
from spdkthread.errors import ReactorError, WrongThreadError
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.placement import move_thread
from spdkthread.reactor_registry import check_os_threads, claim_core, register_reactor, warn_if_crowded
from spdkthread.report import ShutdownReport
from spdkthread.signal_safe_event import SignalSafeEvent
from spdkthread.signals import SignalWatch
from spdkthread.stats import ContextSwitches, ReactorStats, read_context_switches
from spdkthread.waiting import tell_while_waiting
from spdkthread.watchdog import Watchdog

__all__ = ["Reactor", "get_reactor"]

logger = logging.getLogger("spdkthread")

PHASES = ("new", "running", "stopping", "stopping", "stopped", "dead")


cdef class Reactor(ReactorState):
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
        return late(LATE_ASYNC_START)(self)

    def __aexit__(self, *exc_info):
        """Under asyncio: stop, without blocking its loop."""
        return late(LATE_ASYNC_STOP)(self)

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
        with self.lock:
            self._thread = os_thread
        try:
            os_thread.start()
        except BaseException:
            self._forget_start()
            raise
        try:
            begun.wait()
        except BaseException:
            ask(self, REQUEST_STOP)
            raise
        if problem:
            os_thread.join()
            raise problem[0]
        if self._watchdog is not None:
            self._watchdog.start()
            if not self.looping:
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
        outer = self._own_loop()
        try:
            try:
                self._enter_loop()
                if signals is not None:
                    signals.start()
                    self.r.signal_fd = signals.wait_fd
                    self.r.watches_signals = True
                    self.signals = signals
            except BaseException:
                self._forget_start()
                raise
            if self._watchdog is not None:
                self._watchdog.start()
            try:
                run_loop(self)
            finally:
                self._leave_loop()
        finally:
            self.r.watches_signals = False
            self.r.signal_fd = -1
            self.signals = None
            if signals is not None:
                signals.stop()
            leave_reactor(outer)
            self._unbind()
        if self.fatal is not None:
            fatal, self.fatal = self.fatal, None
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
        if self.looping or not claim_loop(self):
            raise ReactorError(f"{self!r} is polled already")
        outer = enter_reactor(self)
        try:
            if self.looping:
                raise ReactorError(f"{self!r} is polled already")
            run_turn(self)
            if self.r.stopping and may_end(self):
                self._leave_loop()
        finally:
            leave_reactor(outer)
            self._give_loop_back()
        return self.r.turn_rc

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
        if st_load_acquire(&self.owner) == PyThread_get_thread_ident():
            # Its own callback.
            ask(self, REQUEST_STOP)
            return what_remains(self, False) + ShutdownReport(still_running=(self.name,))
        with self.lock:
            looping = self.looping
            os_thread = self._thread
            if looping:
                ask(self, REQUEST_STOP)
        if not looping:
            return self._drain_by_hand(timeout_s)
        if current_reactor() != NULL:
            return what_remains(self, False) + ShutdownReport(still_running=(self.name,))
        if not tell_while_waiting(self.ended.wait, timeout_s, self._log_waits):
            ask(self, REQUEST_ABORT)
            if not self.ended.wait(0.2):
                return what_remains(self, False) + ShutdownReport(still_running=(self.name,))
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
        if st_load_acquire(&self.owner) == PyThread_get_thread_ident():
            raise WrongThreadError(f"{self!r} cannot wait for its own end")
        with self.lock:
            os_thread = self._thread
        if not self.ended.wait(timeout_s):
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
            adopt(self, thread)
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
        return move_thread(self, thread, to)

    def _is_driven_here(self) -> bool:
        """Whether the calling OS thread runs its loop."""
        return st_load_acquire(&self.owner) == PyThread_get_thread_ident()

    def _os_thread(self):
        """The number of the OS thread that runs its loop, or a turn of it; 0: none does."""
        return st_load_acquire(&self.owner)

    def _polls_so_far(self):
        return self.r.turns

    cdef int _check_alive(self) except -1:
        if phase_now(self) == PHASE_DEAD:
            raise ReactorError(f"{self!r} was made before a fork and does not exist in the child")
        if self.lib is None:
            raise ReactorError("this Reactor was never initialised")
        return 0

    # For the modules around this one: which threads it polls, and its descriptors

    def _hand_over(self, SpdkThread thread not None, Reactor to not None):
        hand_over(self, thread, to)

    def _watch_fds(self, SpdkThread thread not None):
        watch_fds(self, thread)

    def _unwatch_fds(self, SpdkThread thread not None):
        unwatch_fds(self, thread)

    # Requests

    def _request(self, flags):
        ask(self, flags)

    def _serve_now(self):
        """When the loop does not run: do what was asked for, on the calling OS thread."""
        cdef PyObject *outer
        while not self.looping and st_load32_acquire(&self.r.requests) & ~<uint32_t>(REQUEST_STOP | REQUEST_ABORT):
            # An OS thread that has claimed the loop looks for requests again when it has released it.
            if phase_now(self) == PHASE_DEAD or not claim_loop(self):
                return
            outer = enter_reactor(self)
            try:
                if not self.looping:
                    serve(self)
            finally:
                leave_reactor(outer)
                release_loop(self)

    def _give_loop_back(self):
        release_loop(self)
        # Requests that came after the last look.
        self._serve_now()

    def _call_on_loop(self, fn):
        """Have ``fn()`` run on the loop, between turns, with no current SpdkThread."""
        self.calls.append(fn)
        ask(self, REQUEST_CALLS)

    def _abort(self):
        """End after the turn under way, whatever is left."""
        ask(self, REQUEST_ABORT)

    def _interrupt(self):
        """On the main thread: the first Ctrl-C."""
        if self.fatal is None:
            self.fatal = KeyboardInterrupt()
        ask(self, REQUEST_STOP)

    # The beginning and the end of the loop

    cdef PyObject *_own_loop(self) noexcept:
        """On the OS thread that will run the loop until it ends. Returns its current reactor before, for the end."""
        st_store_release(&self.owner, PyThread_get_thread_ident())
        return enter_reactor(self)

    def _begin(self):
        """Claim the loop, for an OS thread that will run it until it ends."""
        with self.lock:
            self._check_alive()
            if self.looping or not claim_loop(self):
                raise ReactorError(f"{self!r} is running already")
            if phase_now(self) not in (PHASE_NEW, PHASE_STOPPED):
                release_loop(self)
                raise ReactorError(f"{self!r} is being stopped")
            self._phase_before = phase_now(self)
            self.looping = True
            set_phase(self, PHASE_RUNNING)
            self.ended.clear()
            self.termination = None
            # A stop that came too late for the run before is not meant for this one.
            st_and32_acq_rel(&self.r.requests, ~<uint32_t>(REQUEST_STOP | REQUEST_ABORT))
        try:
            reactor_measure_cycles(&self.r)
            self.fatal = None
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
        """A start has failed: the reactor is in the phase in which it was before."""
        with self.lock:
            set_phase(self, self._phase_before)
            self.looping = False
        st_store_relaxed(&self._tid, 0)
        self.ended.set()
        self._give_loop_back()

    def _main(self, begun, problem):
        """The OS thread of a started reactor."""
        cdef PyObject *outer = self._own_loop()
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
                run_loop(self)
            finally:
                self._leave_loop()
        finally:
            leave_reactor(outer)
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
        with self.lock:
            self._affinity = before if self.pin else None
        st_store_relaxed(&self._tid, threading.get_native_id())
        if threading.current_thread() is not threading.main_thread():
            st_name_os_thread(self.name.encode(errors="replace")[:15])
        account_start(&self.r)
        st_storep_release(&self.r.busy_owner, NULL)
        st_or32_release(&self.r.requests, REQUEST_MEMBERS)

    def _leave_loop(self):
        cdef SpdkThread thread
        looped = self.looping
        report = ShutdownReport()
        if looped:
            gil_handoff_released()
        try:
            if phase_now(self) == PHASE_DEAD:
                return
            account_idle(&self.r)
            try:
                serve(self)         # requests that came after the last look
                rebuild(self)
            except BaseException as error:
                logger.error("%r could not look after its threads at its end: %r", self, error)
            report = what_remains(self, True)
            for thread in list(self.members.values()):
                thread._tell_repeats()
            if self.fatal is not None and looped and not self.r.watches_signals and self._is_own_os_thread():
                logger.error("%r was stopped by %r", self, self.fatal)
        finally:
            with self.lock:
                if phase_now(self) != PHASE_DEAD:
                    self.report = report
                    give_up_all(self)
                    set_phase(self, PHASE_STOPPED)
                self.r.stopping = False
                self.r.in_poll = False
                self.looping = False
                self.termination = None
                st_and32_acq_rel(&self.r.requests, ~<uint32_t>(REQUEST_STOP | REQUEST_ABORT))
            st_store_relaxed(&self._tid, 0)
            self.r.stopped = st_cycles()
            if looped:
                if self._watchdog is not None:
                    self._watchdog.stop()
                self._give_loop_back()
            self.ended.set()

    def _is_own_os_thread(self):
        with self.lock:
            return self._thread is threading.current_thread()

    def _drain_by_hand(self, timeout_s):
        """Stop a reactor whose loop does not run: the caller's OS thread polls until nothing is left to run."""
        cdef PyObject *outer
        cdef uint32_t idle_turns = 0
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        began = time.monotonic()
        says_after_s = waiting.STOP_SAYS_AFTER_S
        inside = current_reactor() != NULL
        while not claim_loop(self):
            if self.looping:
                # It was started meanwhile.
                return self.stop(None if give_up is None else max(0.0, give_up - time.monotonic()))
            # Another OS thread polls it, for one turn.
            if inside or (give_up is not None and time.monotonic() >= give_up):
                ask(self, REQUEST_STOP)
                return what_remains(self, False) + ShutdownReport(still_running=(self.name,))
            time.sleep(0.0005)
        outer = enter_reactor(self)
        try:
            with self.lock:
                if not self.members:
                    set_phase(self, PHASE_STOPPED)
                    return self.report
            try:
                begin_stop(self)
                while not may_end(self):
                    if give_up is not None and time.monotonic() >= give_up:
                        break
                    if time.monotonic() - began >= says_after_s:
                        log_waits(self, time.monotonic() - began)
                        says_after_s *= 2
                    run_turn(self)
                    # On another reactor's OS thread: work that waits for that reactor would be waited for for ever.
                    idle_turns = 0 if self.r.turn_rc > 0 else idle_turns + 1
                    if inside and idle_turns > 16:
                        break
            finally:
                self._leave_loop()
            return self.report
        finally:
            leave_reactor(outer)
            self._give_loop_back()

    # For `Termination`, and for those that watch it

    def _stop_together(self, termination):
        stop_together(self, termination)

    def _log_waits(self, waited_s):
        log_waits(self, waited_s)

    def _drained_mark(self):
        return drained_mark(self)

    def _running_now(self):
        return running_now(self)

    def _progress(self):
        return progress(self)

    def _stalled(self):
        return stalled(self)

    def _unaccounted_since(self, SpdkThread thread not None):
        return unaccounted_since(self, thread)

    def _last_report(self):
        with self.lock:
            return self.report

    # For the registry

    def _set_name(self, name):
        """For the registry, which gives the names under its lock."""
        self.name = str(name)

    def _die(self):
        """In the child of a fork: the OS thread is not there any more, or this is its copy inside a callback."""
        self.ended = SignalSafeEvent(True)
        set_phase(self, PHASE_DEAD)
        self.r.signal_fd = -1
        if self.signals is not None:
            self.signals.die()
        # The fork may have been made in a callback of this loop, which then goes on in the child's only OS thread with
        # pointers to these threads.
        self._departed = dict(self.members)
        abandon_all(self)
        st_store_relaxed(&self._tid, 0)

    def _cores_before(self):
        """The cores that its OS thread was allowed before it was bound to one."""
        with self.lock:
            return self._affinity if self.looping and self._affinity is not None else frozenset()

    # Properties

    @property
    def threads(self) -> tuple:
        """The threads that it polls, in the order in which they came."""
        with self.lock:
            return tuple([thread for thread in self.members.values() if not thread.is_exited])

    @property
    def state(self) -> str:
        """``"new"``, ``"running"``, ``"stopping"``, ``"stopped"``, or ``"dead"`` in the child of a fork."""
        return PHASES[phase_now(self)]

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
        return statistics(self)


def get_reactor() -> Reactor | None:
    """The reactor whose turn is under way on this OS thread, or None. **Thread safety:** any OS thread."""
    cdef PyObject *reactor = current_reactor()
    return None if reactor == NULL else <object>reactor


late_fill(LATE_GET_REACTOR, get_reactor)
