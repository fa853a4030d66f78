"""What a reactor does with the GIL. See ``reactor_attached.pxd``; the detached phase is in ``reactor_loop.pyx``."""

import logging

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.affinity cimport affinity_tighten
from spdkthread.atomics cimport (
    st_exchange32,
    st_load32_relaxed,
    st_load_relaxed,
    st_or32_release,
    st_storep_release,
)
from spdkthread.clock cimport st_cycles, st_ticks
from spdkthread.gil_handoff cimport (
    GIL_HAND_OVER,
    GIL_NO_WORK_LEFT,
    GIL_PAUSE,
    gil_handoff_acquired,
    gil_handoff_pass,
    gil_handoff_released,
    gil_handoff_wait,
    gil_handoff_yield,
    gil_wanted,
)
from spdkthread.idle cimport IDLE_OBJECT, idle_reset
from spdkthread.os_ext cimport st_nap
from spdkthread.probes cimport st_probe_gil_detach, st_probed
from spdkthread.reactor_loop cimport (
    SCAN_READY,
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
    reactor_collect_fds,
    reactor_detached,
    reactor_finish,
    reactor_s,
    turn_end,
    turn_end_busy,
    turn_next_poll,
    turn_pass,
)
from spdkthread.reactor_members cimport rebuild, repair_descriptors
from spdkthread.reactor_state cimport PHASE_ABORTING, PHASE_DEAD, ReactorState, phase_now, set_phase
from spdkthread.reactor_stop cimport begin_stop, may_end
from spdkthread.thread_poll cimport STEP_NATIVE, STEP_RAISED, THREAD_EXITED, poll_attached, thread_s
from spdkthread.trace_ring cimport TRACE_ATTACHED, st_trace_word, st_tracing, trace_enrol, trace_put

from spdkthread.error_log import describe

logger = logging.getLogger("spdkthread")

# On the main thread: how often signals are looked at.
cdef uint64_t SIGNAL_TICKS = 10_000_000
# Beyond this many threads a turn over all of them is too long for the attached phase.
cdef uint32_t ATTACHED_SCAN = 64


# The loop

cdef int run_loop(ReactorState reactor) except -1:
    """The two phases, turn and turn about, until the stop is complete."""
    cdef reactor_s *r = &reactor.r
    cdef int reason
    cdef int release = GIL_NO_WORK_LEFT
    cdef uint64_t handed
    cdef uint64_t attached = 0
    while True:
        with nogil:
            if release == GIL_HAND_OVER:
                gil_handoff_pass(r.stretch_began)
            else:
                gil_handoff_released()
            if release != GIL_NO_WORK_LEFT:
                r.attach_started = st_cycles()
                gil_handoff_yield(release)
                account_pause(r)
            reason = reactor_detached(r)
            if reason == NEED_REQUESTS and r.stopping and not r.turn_worked:
                st_nap(50_000)
            r.attach_started = st_cycles()
            handed = gil_handoff_wait()
        gil_handoff_acquired()
        account_attach(r, handed)
        if st_tracing():
            attached = st_cycles()
        release = attached_phase(reactor, reason)
        if st_tracing():
            if st_probed():
                st_probe_gil_detach()
            trace_put(TRACE_ATTACHED, 0, attached, st_cycles() - attached if attached else 0, 0, 0)
        if phase_now(reactor) == PHASE_DEAD or (r.stopping and may_end(reactor)):
            return 0


cdef int run_turn(ReactorState reactor) except -1:
    """One turn, on an OS thread that has claimed the loop for it."""
    cdef reactor_s *r = &reactor.r
    cdef int reason
    r.single_turn = True
    r.turn_rc = 0
    r.turn_worked = False
    account_start(r)
    try:
        if r.fd >= 0:
            reactor_collect_fds(r)
        serve(reactor)
        while True:
            with nogil:
                reason = reactor_detached(r)
            if reason != NEED_PYTHON:
                break
            try:
                python_work(reactor)
            except BaseException as error:
                reactor.fatal = error
            if phase_now(reactor) == PHASE_DEAD:
                break
        if phase_now(reactor) != PHASE_DEAD:
            serve(reactor)
            account_idle(r)
    finally:
        r.single_turn = False
    if reactor.fatal is not None:
        fatal, reactor.fatal = reactor.fatal, None
        raise fatal
    return 0


cdef int attached_phase(ReactorState reactor, int reason) except -1:
    """What the detached phase needs the GIL for, a `reactor_reason`. Returns a `gil_release`."""
    cdef reactor_s *r = &reactor.r
    try:
        if reason == NEED_PYTHON:
            return python_work(reactor)
        if reason == NEED_REQUESTS:
            r.turn_worked = False
            serve(reactor)
        elif reason == NEED_IDLE_OBJECT:
            ask_idle_object(reactor)
        elif reason == NEED_SHARED_CORE:
            logger.info(
                "%r has lost its core to other processes %d times (idle=%r): beside them \"adaptive\" answers "
                "sooner, and a core of its own soonest", reactor, r.idle.slices_lost, reactor.idle,
            )
        if r.watches_signals:
            r.signals_due = st_ticks() + SIGNAL_TICKS
            reactor.signals.clear()
            PyErr_CheckSignals()
    except BaseException as error:
        # The first such exception begins a graceful stop, a second one ends it.
        if reactor.fatal is None:
            reactor.fatal = error
            st_or32_release(&r.requests, REQUEST_STOP)
        else:
            st_or32_release(&r.requests, REQUEST_ABORT)
    return GIL_NO_WORK_LEFT


cdef int ask_idle_object(ReactorState reactor) except -1:
    """The user's idle object: a turn found no work, or work has come after such turns."""
    cdef reactor_s *r = &reactor.r
    idle = reactor.idle
    try:
        if r.turn_worked:
            idle_reset(&r.idle)
            idle.reset()
        else:
            r.idle.idle_turns = 1
            idle.idle(0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        reactor.lib._report(f"{describe(idle)} failed on reactor {reactor.name!r}", error, None, "fn", idle)
    finally:
        r.turn_worked = False
    return 0


# Requests

cdef int serve(ReactorState reactor) except -1:
    """Do what was asked for. What an exception keeps from being done stays asked for."""
    cdef reactor_s *r = &reactor.r
    cdef uint32_t flags = st_exchange32(&r.requests, 0)
    if flags == 0:
        return 0
    try:
        if flags & REQUEST_TIGHTEN:
            affinity_tighten()
            flags &= ~<uint32_t>REQUEST_TIGHTEN
        if flags & REQUEST_MEMBERS:
            rebuild(reactor)
            flags &= ~<uint32_t>REQUEST_MEMBERS
        if flags & REQUEST_CALLS:
            while reactor.calls:
                run_request(reactor, reactor.calls.popleft())
            flags &= ~<uint32_t>REQUEST_CALLS
        if flags & REQUEST_MEND:
            repair_descriptors(reactor)
            flags &= ~<uint32_t>REQUEST_MEND
        if flags & (REQUEST_STOP | REQUEST_ABORT):
            begin_stop(reactor)
        if flags & REQUEST_ABORT:
            set_phase(reactor, PHASE_ABORTING)
        flags = 0
    finally:
        if flags:
            st_or32_release(&r.requests, flags)
    return 0


cdef int run_request(ReactorState reactor, object fn) except -1:
    try:
        fn()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        reactor.lib._report(f"{describe(fn)} failed on reactor {reactor.name!r}", error, None, "fn", fn)
    return 0


# Python work

cdef int python_work(ReactorState reactor) except -1:
    """The poll under way has come to Python work: that of this turn, and of the next ones while there is some.

    Returns a `gil_release`. Raises the KeyboardInterrupt or SystemExit that broke off a poll; that poll is over then.
    """
    cdef reactor_s *r = &reactor.r
    cdef thread_s *thread
    cdef int step
    cdef uint64_t now
    while True:
        thread = r.threads[r.cursor]
        step = poll_attached(thread)
        if phase_now(reactor) == PHASE_DEAD:
            # A callback has forked, and this is the child.
            return -1 if step == STEP_RAISED else GIL_NO_WORK_LEFT
        now = st_cycles()
        r.detached_at = now
        r.ran_python = True
        if step == STEP_NATIVE:
            return release_after(r, now)
        reactor_finish(r, thread)
        turn_pass(r)
        if step == STEP_RAISED:
            return -1       # the exception is set
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
                or (r.count > ATTACHED_SCAN and r.scan != SCAN_READY)
                or r.watches_signals or r.fd >= 0 or r.idle.mode == IDLE_OBJECT
                or st_load32_relaxed(&r.requests)
            ):
                return GIL_NO_WORK_LEFT
            if st_load_relaxed(&gil_wanted):
                return GIL_HAND_OVER
            turn_end(r)
            turn_end_busy(r)


cdef inline int release_after(reactor_s *r, uint64_t now) noexcept nogil:
    """After a poll, by the clock: whether plain threads are to have the GIL for as long as they need to take it."""
    if now - r.stretch_began <= r.hold_cycles:
        return GIL_NO_WORK_LEFT
    r.stretch_began = 0
    return GIL_PAUSE


trace_enrol(&st_trace_word)
