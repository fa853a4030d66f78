"""What a reactor does when a turn found no work.

============  ========================================================================================================
``"poll"``    look again at once: the lowest latency, a whole core
``"yield"``   give up the core between turns: for more reactors than cores
``adaptive``  look again for ``spin_us`` after the last work, then sleep in the kernel until a message, a file
              descriptor or the next timer
an object     with ``idle(work_count)``, called after each turn while there is nothing to do, and ``reset()``, called
              when work has come
============  ========================================================================================================
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.clock cimport st_ticks

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <poll.h>
    #include <sched.h>
    #include <time.h>
    #ifdef __linux__
    #include <sys/prctl.h>
    /* The kernel rounds a sleep up to 50 us by default; for this OS thread, to a nanosecond. */
    static inline void st_sharpen_timers(void) { prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); }
    /* From here on the kernel allows itself a thousandth of the sleep, which is more than any slack. */
    #define ST_SLACK_MATTERS_NS 50000000
    #else
    static inline void st_sharpen_timers(void) { }
    #endif

    /* Wait until one of `ears` is readable, at most `timeout_ns` (negative: for ever). Returns their bits: 1: the bell
       rang, 2: a file descriptor of a thread is ready, 4: a signal has come. 0: the time is over, -1: interrupted. A
       negative descriptor is passed over. */
    static int st_sleep(int bell, int fd, int signals, int64_t timeout_ns) {
        struct pollfd ears[3] = {{bell, POLLIN, 0}, {fd, POLLIN, 0}, {signals, POLLIN, 0}};
        int ready;
    #ifdef __linux__
        struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        /* Only for this sleep: what callbacks start inherits the slack of the OS thread. */
        int slack = timeout_ns > 0 && timeout_ns < ST_SLACK_MATTERS_NS ? prctl(PR_GET_TIMERSLACK, 0UL, 0UL, 0UL, 0UL) : 0;
        if (slack > 1) st_sharpen_timers();
        ready = ppoll(ears, signals < 0 ? fd < 0 ? 1 : 2 : 3, timeout_ns < 0 ? NULL : &limit, NULL);
        if (slack > 1) {
            int error = errno;
            prctl(PR_SET_TIMERSLACK, (unsigned long)slack, 0UL, 0UL, 0UL);
            errno = error;
        }
    #else
        int64_t ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
        ready = poll(ears, 3, ms > 1 << 30 ? 1 << 30 : (int)ms);
    #endif
        if (ready < 0) return errno == EINTR ? -1 : 0;
        return (ears[0].revents != 0) | (ears[1].revents != 0) << 1 | (ears[2].revents != 0) << 2;
    }
    """
    void st_sharpen_timers() noexcept nogil
    int st_sleep(int bell, int fd, int signals, int64_t timeout_ns) noexcept nogil
    int sched_yield() noexcept nogil


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
        return IDLE_GO_ON
    if idle.mode == IDLE_YIELD:
        sched_yield()
        return IDLE_GO_ON
    if idle.mode == IDLE_OBJECT:
        return IDLE_CALL
    idle.idle_turns += 1
    # The clock costs more than a short turn: look at it now and then.
    if idle.idle_turns & 31 and threads < 64:
        return IDLE_GO_ON
    now = st_ticks()
    if idle.idle_since == 0:
        idle.idle_since = now
    if now - idle.idle_since >= idle.spin_ticks:
        return IDLE_PARK
    return IDLE_GO_ON


cdef int idle_sleep(wake_gate *gate, int fd, int signal_ear, int64_t timeout_ns) noexcept nogil:
    return st_sleep(gate.ear, fd, signal_ear, timeout_ns)


cdef void idle_sharpen_timers() noexcept nogil:
    """For the OS thread that sleeps: wake up when the time is over, not within 50 us of it."""
    st_sharpen_timers()
