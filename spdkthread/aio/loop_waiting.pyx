"""Nothing is ready: an event loop waits. See ``loop_waiting.pxd``.

First it spins for `spin_us`, without the GIL, then it sleeps in the kernel, as an adaptive reactor does. Spinning is
left out where it has found nothing the last times, and where the sender is on the same core.
"""

import selectors

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.affinity cimport affinity_tighten
from spdkthread.aio.loop_fds cimport take_events, take_seen, watch_thread_fds
from spdkthread.aio.loop_state cimport LoopState
from spdkthread.aio.loop_timers cimport timers_now
from spdkthread.atomics cimport st_load32_relaxed, st_load_relaxed, st_pause
from spdkthread.clock cimport clock_read, st_cycles, st_ticks
from spdkthread.fd_group cimport FD_BATCH, fd_group_sleep, fd_group_wait, fd_set_ready
from spdkthread.gil_handoff cimport gil_handoff_acquired, gil_handoff_released, gil_handoff_wait
from spdkthread.idle cimport (
    IDLE_ADAPTIVE,
    IDLE_YIELD,
    MANUAL_CLOCK_SLEEP_NS,
    SLEEP_FD_READY,
    SLEEP_SIGNAL,
    SLEEP_TIMED_OUT,
    SLEEP_WOKEN,
    idle_sleep,
)
from spdkthread.os_ext cimport sched_yield, st_this_core
from spdkthread.ring cimport ring_trim, ring_trim_wanted
from spdkthread.thread_poll cimport poll_needed, poll_work_ready
from spdkthread.timers cimport TIMER_NEVER, timer_next_deadline
from spdkthread.trace_ring cimport TRACE_PARK, TRACE_WAKE, st_trace_word, st_tracing, trace_enrol, trace_put
from spdkthread.wakeup cimport wakeup_announce_sleep, wakeup_begin_sleep, wakeup_end_sleep

# While spinning: how many looks at the ring between two at the file descriptors. That is a system call, which slows the
# core's other hyperthread down.
cdef uint32_t FD_LOOKS = 64
# Where spinning finds nothing, "adaptive" spins ever more rarely before it sleeps: every 2**n-th time.
cdef uint32_t MOST_MISSES = 6
# A longer gap between two looks: the kernel gave the core to another process, perhaps to the sender. Spinning ends.
cdef uint64_t AWAY_TICKS = 40_000
# Idle for so long, a loop gives the memory of its thread's ring back.
cdef int64_t TRIM_NS = 250_000_000
# On the main thread a sleep ends now and then: a signal may come right before it begins.
cdef int64_t SIGNAL_SLEEP_NS = 500_000_000
# asyncio's selector loop does not sleep for longer either.
cdef int64_t LONGEST_SLEEP_NS = 24 * 3600 * 1_000_000_000


cdef int this_core() noexcept nogil:
    """The core on which the calling OS thread runs; -1: not known."""
    return st_this_core()


cdef int wait(LoopState loop) except -1:
    """Nothing is ready: wait until something is, or until a timer is due."""
    cdef int woken
    if loop.thread.c.fd_count:
        watch_thread_fds(loop)
    if loop.poll_fd < 0 or loop.own_time:
        return wait_in_selector(loop)
    with nogil:
        gil_handoff_released()
        woken = spin_then_sleep(loop)
        gil_handoff_wait()
    gil_handoff_acquired()
    if woken < 0:
        PyErr_CheckSignals()
    if loop.direct:
        return take_events(loop)
    return take_seen(loop, loop.selector.select(0))


cdef int spin_then_sleep(LoopState loop) noexcept nogil:
    """Without the GIL, until there is something to do. -1: a signal, perhaps."""
    cdef uint64_t begun = st_ticks()
    cdef uint64_t now = begun
    cdef uint64_t due = TIMER_NEVER
    cdef uint64_t before
    cdef uint32_t looks = 0
    cdef int ready
    cdef uint32_t sender_core
    cdef uint64_t spin = loop.spin_ticks
    loop.events_count = 0
    if loop.misses and loop.idle_mode == IDLE_ADAPTIVE:
        loop.skipped += 1
        if loop.skipped < <uint32_t>1 << loop.misses:
            spin = 0
        else:
            loop.skipped = 0
    sender_core = st_load32_relaxed(&loop.sender_core)
    if sender_core and sender_core == <uint32_t>(1 + this_core()):
        spin = 0        # the sender would have to wait for this core until spinning ends
    if spin == 0 and loop.direct and loop.idle_mode == IDLE_ADAPTIVE:
        return park(loop)       # which looks as well
    if loop.timers.count:
        due = timer_next_deadline(&loop.timers)
    while True:
        # The first look is for the descriptors: they have one in every turn, also where a message is there at once.
        if looks % FD_LOOKS == 0:
            if loop.direct:
                ready = loop.events_count = fd_group_wait(loop.poll_fd, loop.events, FD_BATCH)
            else:
                ready = fd_set_ready(loop.poll_fd)
            if ready or poll_needed(&loop.thread.c):
                return spin_found(loop, spin)
            before = now
            now = st_ticks()
            if due != TIMER_NEVER and clock_read(loop.thread.c.clock) >= due:
                return 0
            if loop.idle_mode == IDLE_ADAPTIVE:
                if now - begun >= spin or now - before >= AWAY_TICKS:
                    if spin and loop.misses < MOST_MISSES:
                        loop.misses += 1
                    return park(loop)
            elif loop.idle_mode == IDLE_YIELD:
                sched_yield()
            if loop._stopping or now - begun > 10_000_000:
                trim_when_idle(loop, now)
                return -1       # signals
        elif poll_work_ready(&loop.thread.c):
            return spin_found(loop, spin)
        looks += 1
        st_pause()


cdef void trim_when_idle(LoopState loop, uint64_t now) noexcept nogil:
    """A loop that never sleeps, every 10 ms without work: idle for a while, it gives its ring's memory back."""
    cdef uint64_t head = st_load_relaxed(&loop.thread.c.ring.head)
    if head != loop.idle_head or loop.idle_since == 0:
        loop.idle_head = head
        loop.idle_since = now
    elif now - loop.idle_since >= <uint64_t>TRIM_NS:
        ring_trim(loop.thread.c.ring)


cdef int spin_found(LoopState loop, uint64_t spin) noexcept nogil:
    """Spinning has found something: it is worth its while."""
    if spin:
        loop.misses = 0
    return 0


cdef int wait_in_selector(LoopState loop) except -1:
    """With a selector that has no descriptor, such as `select.select`'s: the wake-up's fd is one of its files.

    A loop that has a `time` of its own waits here, too: its timers are known to nothing but the loop, and where a
    simulation waits its `select` moves that time on.
    """
    cdef object timeout = 0
    # Where its epoll is asked past the selector the wake-up's fd is in there already; where the selector has another
    # descriptor it is waited for beside the selector.
    cdef bint visiting = loop.poll_fd >= 0 and not loop.direct
    cdef int64_t longest_ns = own_sleep_ns(loop) if loop.own_time else LONGEST_SLEEP_NS
    if not loop.direct and loop.selector.get_map().get(loop.wakeup.wait_fd) is None:
        loop.selector.register(loop.wakeup.wait_fd, selectors.EVENT_READ, (None, None))
    begin_sleep(loop)
    if loop.idle_mode == IDLE_ADAPTIVE and not poll_work_ready(&loop.thread.c):
        timeout = min(longest_ns, sleep_ns(loop)) * 1e-9
    gil_handoff_released()
    try:
        seen = loop.selector.select(timeout)
    finally:
        wakeup_end_sleep(loop.wakeup)
        gil_handoff_acquired()
        if visiting:
            loop.selector.unregister(loop.wakeup.wait_fd)
    if loop.direct:
        # As in every other turn: the descriptors of the thread are known to the kernel and not to the selector.
        loop.events_count = fd_group_wait(loop.poll_fd, loop.events, FD_BATCH)
        return take_events(loop)
    return take_seen(loop, seen)


cdef int64_t own_sleep_ns(LoopState loop) except -1:
    """Until the earliest timer of the loop is due, where the loop has a `time` of its own."""
    cdef uint64_t deadline, now
    if loop.timers.count == 0:
        return LONGEST_SLEEP_NS
    deadline = timer_next_deadline(&loop.timers)
    now = timers_now(loop)
    if now >= deadline:
        return 0
    return LONGEST_SLEEP_NS if deadline - now > <uint64_t>LONGEST_SLEEP_NS else <int64_t>(deadline - now)


cdef inline void begin_sleep(LoopState loop) noexcept nogil:
    if loop.direct:
        # The loop's epoll tells of the wake-up's fd once for each write: there is nothing to read away.
        wakeup_announce_sleep(loop.wakeup)
    else:
        wakeup_begin_sleep(loop.wakeup)


cdef int park(LoopState loop) noexcept nogil:
    """Sleep until there is something to do. -1: a signal has come."""
    cdef int result = SLEEP_TIMED_OUT
    cdef bint may_trim = ring_trim_wanted(loop.thread.c.ring)
    cdef int64_t timeout_ns
    begin_sleep(loop)
    if not poll_work_ready(&loop.thread.c):
        timeout_ns = sleep_ns(loop)
        may_trim = may_trim and timeout_ns > TRIM_NS
        if may_trim:
            timeout_ns = TRIM_NS
        if not loop.direct:
            result = idle_sleep(loop.wakeup, loop.poll_fd, -1, timeout_ns)
        elif st_tracing():
            result = traced_sleep(loop, timeout_ns)
        else:
            result = sleep_in_epoll(loop, timeout_ns)
        if may_trim and result == SLEEP_TIMED_OUT:
            ring_trim(loop.thread.c.ring)
    wakeup_end_sleep(loop.wakeup)
    return -1 if result < 0 else 0


cdef int sleep_in_epoll(LoopState loop, int64_t timeout_ns) noexcept nogil:
    """One system call waits for the descriptors and for senders. -1: a signal has come."""
    cdef int ready
    affinity_tighten()      # threads that callbacks have started have their own by now
    ready = fd_group_sleep(loop.poll_fd, loop.events, FD_BATCH, timeout_ns)
    loop.events_count = ready if ready > 0 else 0
    return ready


cdef int traced_sleep(LoopState loop, int64_t timeout_ns) noexcept nogil:
    cdef uint64_t began = st_cycles()
    cdef int ready = sleep_in_epoll(loop, timeout_ns)
    cdef uint64_t ended = st_cycles()
    cdef int64_t cause = 0
    cdef int index
    for index in range(loop.events_count):
        cause |= SLEEP_WOKEN if <int>loop.events[index].tag == loop.wakeup.wait_fd else SLEEP_FD_READY
    if ready < 0:
        cause = SLEEP_SIGNAL
    trace_put(TRACE_PARK, 0, began, ended - began, 0, cause)
    trace_put(TRACE_WAKE, 0, ended, 0, 0, cause)
    return ready


cdef int64_t sleep_ns(LoopState loop) noexcept nogil:
    """Until the earliest timer is due, of the loop or of its thread."""
    cdef uint64_t earliest = TIMER_NEVER
    cdef uint64_t deadline, now
    cdef int64_t timeout = LONGEST_SLEEP_NS
    if loop.thread.c.timers.count:
        earliest = timer_next_deadline(&loop.thread.c.timers)
    if loop.timers.count and not loop.own_time:
        deadline = timer_next_deadline(&loop.timers)
        if deadline < earliest:
            earliest = deadline
    if loop.on_main_thread:
        timeout = SIGNAL_SLEEP_NS
    if earliest != TIMER_NEVER:
        if loop.thread.c.clock != NULL:
            timeout = MANUAL_CLOCK_SLEEP_NS
        now = clock_read(loop.thread.c.clock)
        if now >= earliest:
            timeout = 0
        elif loop.thread.c.clock == NULL and earliest - now < <uint64_t>timeout:
            timeout = <int64_t>(earliest - now)
    return timeout


trace_enrol(&st_trace_word)
