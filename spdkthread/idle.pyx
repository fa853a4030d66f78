"""What a reactor does when a turn found no work.

============  ========================================================================================================
``"poll"``    look again at once: the lowest latency, a whole core
``"yield"``   give up the core between turns: for more reactors than cores. By ``sched_yield``, as long as that comes
              back soon. Beside a process that computes it does not, it gives away a whole slice of 3 to 5 ms; once that
              has happened, by naps of 50 us for a second, which a message ends at once
``adaptive``  look again for ``spin_us`` after the last work, then sleep in the kernel until a message, a file
              descriptor or the next timer
an object     with ``idle(work_count)``, called after each turn while there is nothing to do, and ``reset()``, called
              when work has come
============  ========================================================================================================
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.affinity cimport affinity_tighten
from spdkthread.clock cimport st_cycles, st_ticks
from spdkthread.os_ext cimport sched_yield
from spdkthread.probes cimport st_probe_park, st_probe_wake, st_probed
from spdkthread.trace_ring cimport TRACE_PARK, TRACE_WAKE, st_trace_word, st_tracing, trace_enrol, trace_put

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <poll.h>
    #include <time.h>

    /* Wait until one of the descriptors is readable, at most `timeout_ns` (negative: for ever). Returns their number;
       0: the time is over, -1: interrupted. A negative descriptor is passed over. */
    static int st_wait(struct pollfd *waited, int count, int64_t timeout_ns) {
        int ready;
    #ifdef __linux__
        struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        ready = ppoll(waited, count, timeout_ns < 0 ? NULL : &limit, NULL);
    #else
        int64_t ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
        ready = poll(waited, count, ms > 1 << 30 ? 1 << 30 : (int)ms);
    #endif
        return ready >= 0 ? ready : errno == EINTR ? -1 : 0;
    }
    """
    struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN
    const short POLLNVAL
    int st_wait(pollfd *waited, int count, int64_t timeout_ns) noexcept nogil


# The log says that the core is shared after so many lost slices: one or two happen on a core of one's own, too.
cdef uint64_t TELL_AFTER = 16


# A turn over so many threads costs more than the clock.
cdef enum:
    LONG_TURN_THREADS = 64


cdef int idle_mode_of(object idle) except -1:
    """Check what a user gave as ``idle``."""
    if isinstance(idle, str):
        if idle == "poll":
            return IDLE_POLL
        if idle == "yield":
            return IDLE_YIELD
        if idle == "adaptive":
            return IDLE_ADAPTIVE
        raise ValueError(f"idle must be 'poll', 'yield', 'adaptive' or an object with idle() and reset(), got {idle!r}")
    if callable(getattr(idle, "idle", None)) and callable(getattr(idle, "reset", None)):
        return IDLE_OBJECT
    raise TypeError(
        f"idle must be 'poll', 'yield', 'adaptive' or an object with idle() and reset(), got {type(idle).__name__}"
    )


cdef int idle_step(idle_s *idle, uint32_t threads) noexcept nogil:
    """After a turn over `threads` threads without work: what to do."""
    cdef uint64_t now
    if idle.mode == IDLE_POLL:
        return step_polling(idle)
    if idle.mode == IDLE_YIELD:
        return step_yielding(idle)
    if idle.mode == IDLE_OBJECT:
        return IDLE_CALL
    idle.idle_turns += 1
    if idle.idle_turns % CLOCK_TURNS and threads < LONG_TURN_THREADS:
        return IDLE_GO_ON
    now = st_ticks()
    if idle.idle_since == 0:
        idle.idle_since = now
    if now - idle.idle_since >= idle.spin_ticks:
        return IDLE_PARK
    return IDLE_GO_ON


cdef inline int slice_lost(idle_s *idle) noexcept nogil:
    """The reactor was off its core for a slice. Returns whether the log is to say, now, that the core is shared."""
    idle.slices_lost += 1
    if idle.slices_lost < TELL_AFTER or idle.told:
        return False
    idle.told = True
    return True


cdef inline bint trim_due(idle_s *idle, uint64_t now) noexcept nogil:
    """Whether to give memory back: once in each stretch of idle turns. `idle_since` is a stamp in these modes."""
    if idle.idle_since == 0:
        idle.idle_since = now
        idle.trimmed = False
    if idle.trimmed or now - idle.idle_since < idle.trim_cycles:
        return False
    idle.trimmed = True
    return True


cdef int step_polling(idle_s *idle) noexcept nogil:
    """Look again at once. A jump of the processor's counter between two looks: another process had the core."""
    cdef uint64_t now, before
    idle.idle_turns += 1
    if idle.idle_turns == 1:
        idle.looked = 0
    if idle.idle_turns % CLOCK_TURNS:
        return IDLE_GO_ON
    now = st_cycles()
    before = idle.looked
    idle.looked = now
    if trim_due(idle, now):
        return IDLE_TRIM
    if before and now - before > idle.slice_cycles and slice_lost(idle):
        return IDLE_SHARED_CORE
    return IDLE_GO_ON


cdef int step_yielding(idle_s *idle) noexcept nogil:
    """Give up the core, in the way that costs no slice."""
    cdef uint64_t before = st_cycles()
    cdef uint64_t now
    idle.idle_turns += 1
    if idle.idle_turns == 1:
        idle.looked = before
    if trim_due(idle, before):
        return IDLE_TRIM
    if idle.nap_until:
        if before < idle.nap_until:
            return IDLE_NAP if before - idle.looked > idle.look_cycles else IDLE_GO_ON
        idle.nap_until = 0
    sched_yield()
    now = st_cycles()
    if now - before > idle.slice_cycles:
        idle.nap_until = now + idle.nap_cycles
        if slice_lost(idle):
            return IDLE_SHARED_CORE
    return IDLE_GO_ON


cdef int idle_sleep(wakeup_state *wakeup, int fd, int signal_fd, int64_t timeout_ns) noexcept nogil:
    """Between `wakeup_begin_sleep` and `wakeup_end_sleep`: sleep, at most `timeout_ns` (negative: for ever), until a
    sender wakes the reactor or one of the descriptors is readable (negative: there is none). Returns a sleep_result."""
    cdef uint64_t began, ended
    cdef int result
    # A callback of the last turn may have started an OS thread.
    affinity_tighten()
    if not st_tracing():
        return wait(wakeup.wait_fd, fd, signal_fd, timeout_ns)
    if st_probed():
        st_probe_park()
    began = st_cycles()
    result = wait(wakeup.wait_fd, fd, signal_fd, timeout_ns)
    ended = st_cycles()
    if st_probed():
        st_probe_wake(result)
    trace_put(TRACE_PARK, 0, began, ended - began, 0, result)
    trace_put(TRACE_WAKE, 0, ended, 0, 0, result)
    return result


cdef int wait(int wakeup_fd, int fd, int signal_fd, int64_t timeout_ns) noexcept nogil:
    cdef pollfd waited[3]
    cdef int descriptors[3]
    cdef int index, ready
    cdef int result = SLEEP_TIMED_OUT
    descriptors[0], descriptors[1], descriptors[2] = wakeup_fd, fd, signal_fd
    for index in range(3):
        waited[index].fd = descriptors[index]
        waited[index].events = POLLIN
        waited[index].revents = 0
    ready = st_wait(waited, 3 if signal_fd >= 0 else 2 if fd >= 0 else 1, timeout_ns)
    if ready <= 0:
        return SLEEP_INTERRUPTED if ready < 0 else SLEEP_TIMED_OUT
    for index in range(3):
        if waited[index].revents:
            result |= SLEEP_WOKEN << index
        if waited[index].revents & POLLNVAL:
            result |= SLEEP_FD_CLOSED
    return result


trace_enrol(&st_trace_word)
