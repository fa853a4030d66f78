"""What other OS threads read of a reactor while it runs. See ``reactor_view.pxd``.

The loop does nothing for these readers. They take the lock, under which the table and its length stay as they are, and
read each word of the loop's once: it may be another one in the next moment.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport st_add_relaxed, st_load_acquire, st_load_relaxed, st_loadp_acquire
from spdkthread.clock cimport account_ticks, never_less, st_cycles
from spdkthread.probes cimport st_probe_stall, st_probed
from spdkthread.reactor_loop cimport reactor_s
from spdkthread.reactor_state cimport ReactorState
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport thread_s
from spdkthread.trace_ring cimport (
    TRACE_STALL,
    st_trace_word,
    st_tracing,
    trace_enrol,
    trace_name_of,
    trace_put,
    trace_text,
)

from spdkthread.stats import ReactorStats


cdef object statistics(ReactorState reactor):
    cdef reactor_s *r = &reactor.r
    cdef uint64_t until, busy, stopped
    cdef int64_t busy_ticks = 0, idle_ticks = 0
    if r.started:
        # Stamps in this order: see `reactor_s`.
        stopped = r.stopped
        until = stopped if stopped else st_cycles()
        if not stopped and (r.in_poll or st_loadp_acquire(&r.busy_owner) != NULL):
            until = st_load_acquire(&r.busy_since)
        busy = st_load_relaxed(&r.busy)
        busy_ticks = account_ticks(NULL, busy)
        idle_ticks = account_ticks(NULL, until - r.started - busy)
    return ReactorStats(
        never_less(&r.busy_seen, busy_ticks), never_less(&r.idle_seen, idle_ticks), r.turns, r.parks, r.wakes,
        r.gil_waits, never_less(&r.gil_wait_seen, account_ticks(NULL, r.gil_wait)), st_load_relaxed(&r.stalls),
        r.idle.slices_lost,
    )


cdef object unaccounted_since(ReactorState reactor, SpdkThread thread):
    """The stamp since when what passes for one of its threads is neither busy nor idle yet; None: it is idle."""
    if not thread.c.polling and st_loadp_acquire(&reactor.r.busy_owner) != &thread.c:
        return None
    return st_load_acquire(&reactor.r.busy_since)


cdef object progress(ReactorState reactor):
    """For the watchdog: changes with every callback; None while none is under way."""
    cdef thread_s *thread
    cdef uint32_t cursor
    with reactor.lock:
        cursor = reactor.r.cursor
        if not reactor.r.in_poll or cursor >= reactor.r.count or reactor.r.attach_started:
            return None     # waiting for the GIL is not the callback's time
        thread = reactor.r.threads[cursor]
        # Native work is counted when a stretch of it is over: in between its position in the batch, and the poller that
        # runs, show that it goes on.
        return (
            reactor.r.turns, cursor, thread.polls, thread.msgs_run, thread.pollers_run, thread.fds_run,
            thread.batch_next, <size_t>thread.running,
        )


cdef object stalled(ReactorState reactor):
    """For the watchdog: the callback under way, by name, and its OS thread. Counts the stall."""
    cdef uint32_t number = 0
    st_add_relaxed(&reactor.r.stalls, 1)
    what = running_now(reactor)
    if st_tracing():
        with reactor.lock:
            if reactor.r.in_poll and reactor.r.cursor < reactor.r.count:
                number = reactor.r.threads[reactor.r.cursor].trace_number
        text = what or "a callback"
        if st_probed():
            st_probe_stall(<int>reactor.core, trace_name_of(<PyObject *>text))
        trace_put(TRACE_STALL, number, st_cycles(), 0, trace_text(text), <int>reactor.core)
    return (what, st_load_acquire(&reactor.owner)) if what else (None, 0)


cdef str running_now(ReactorState reactor):
    """The callback under way, and its thread, in words; empty: there is none."""
    cdef SpdkThread owner
    cdef uint32_t cursor
    with reactor.lock:
        cursor = reactor.r.cursor
        if not reactor.r.in_poll or cursor >= reactor.r.count:
            return ""
        owner = <SpdkThread>reactor.r.threads[cursor].owner
    return f"{owner._running_name()} of thread {owner.name!r}"


trace_enrol(&st_trace_word)
