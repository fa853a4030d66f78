"""Nothing is ready: an event loop waits. See ``loop_waiting.pxd``.

First it spins for `spin_us`, without the GIL, then it sleeps in the kernel, as an adaptive reactor does. Spinning is
left out where it has found nothing the last times, and where the sender is on the same core.
"""

import selectors

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.aio.loop_fds cimport take_events, take_seen, watch_thread_fds
from spdkthread.aio.loop_state cimport LoopState
from spdkthread.atomics cimport st_load32_relaxed, st_pause
from spdkthread.clock cimport clock_read, st_ticks
from spdkthread.fd_group cimport FD_BATCH, fd_group_wait, fd_set_ready
from spdkthread.gil_handoff cimport gil_handoff_acquired, gil_handoff_released, gil_handoff_wait
from spdkthread.idle cimport (
    IDLE_ADAPTIVE,
    IDLE_YIELD,
    MANUAL_CLOCK_SLEEP_NS,
    SLEEP_FD_READY,
    SLEEP_TIMED_OUT,
    idle_sleep,
)
from spdkthread.thread_poll cimport poll_needed, poll_work_ready
from spdkthread.timers cimport TIMER_NEVER, timer_next_deadline
from spdkthread.wakeup cimport wakeup_begin_sleep, wakeup_end_sleep

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sched.h>
    #ifdef __linux__
    static inline int st_this_core(void) { return sched_getcpu(); }
    #else
    static inline int st_this_core(void) { return -1; }
    #endif
    """
    int st_this_core() noexcept nogil
    int sched_yield() noexcept nogil

# While spinning: how many looks at the ring between two at the file descriptors. That is a system call, which slows the
# core's other hyperthread down.
cdef uint32_t FD_LOOKS = 64
# Where spinning finds nothing, "adaptive" spins ever more rarely before it sleeps: every 2**n-th time.
cdef uint32_t MOST_MISSES = 6
# A longer gap between two looks: the kernel gave the core to another process, perhaps to the sender. Spinning ends.
cdef uint64_t AWAY_TICKS = 40_000
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
    if loop.poll_fd < 0:
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
                return -1       # signals
        elif poll_work_ready(&loop.thread.c):
            return spin_found(loop, spin)
        looks += 1
        st_pause()


cdef int spin_found(LoopState loop, uint64_t spin) noexcept nogil:
    """Spinning has found something: it is worth its while."""
    if spin:
        loop.misses = 0
    return 0


cdef int wait_in_selector(LoopState loop) except -1:
    """With a selector that has no descriptor, such as `select.select`'s: the wake-up's fd is one of its files."""
    cdef object timeout = 0
    if loop.selector.get_map().get(loop.wakeup.wait_fd) is None:
        loop.selector.register(loop.wakeup.wait_fd, selectors.EVENT_READ, (None, None))
    wakeup_begin_sleep(loop.wakeup)
    if loop.idle_mode == IDLE_ADAPTIVE and not poll_work_ready(&loop.thread.c):
        timeout = sleep_ns(loop) * 1e-9
    gil_handoff_released()
    try:
        seen = loop.selector.select(timeout)
    finally:
        wakeup_end_sleep(loop.wakeup)
        gil_handoff_acquired()
    return take_seen(loop, seen)


cdef int park(LoopState loop) noexcept nogil:
    """Sleep until there is something to do. -1: a signal has come."""
    cdef int result = SLEEP_TIMED_OUT
    wakeup_begin_sleep(loop.wakeup)
    if not poll_work_ready(&loop.thread.c):
        result = idle_sleep(loop.wakeup, loop.poll_fd, -1, sleep_ns(loop))
    wakeup_end_sleep(loop.wakeup)
    if result > 0 and result & SLEEP_FD_READY and loop.direct:
        loop.events_count = fd_group_wait(loop.poll_fd, loop.events, FD_BATCH)
    return -1 if result < 0 else 0


cdef int64_t sleep_ns(LoopState loop) noexcept nogil:
    """Until the earliest timer is due, of the loop or of its thread."""
    cdef uint64_t earliest = TIMER_NEVER
    cdef uint64_t deadline, now
    cdef int64_t timeout = LONGEST_SLEEP_NS
    if loop.thread.c.timers.count:
        earliest = timer_next_deadline(&loop.thread.c.timers)
    if loop.timers.count:
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
