"""What a reactor does when a turn found no work."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.wakeup cimport wakeup_state

cdef enum idle_mode:
    IDLE_POLL           # look again at once
    IDLE_YIELD          # give up the core between turns, by naps where a turn of the core is long
    IDLE_ADAPTIVE       # look again for a while, then sleep
    IDLE_OBJECT         # what the user's object does

cdef enum idle_action:
    IDLE_GO_ON          # next turn
    IDLE_PARK           # the time for looking is over: sleep, if nothing forbids it
    IDLE_NAP            # sleep for a moment, beside active pollers too
    IDLE_TRIM           # idle for a while: give memory back
    IDLE_SHARED_CORE    # say, once, that the core is shared; needs the GIL
    IDLE_CALL           # ask the user's object; needs the GIL

cdef enum sleep_result:
    SLEEP_INTERRUPTED = -1      # a signal handler of the process has run
    SLEEP_TIMED_OUT = 0
    # Flags: several of these may be true at once.
    SLEEP_WOKEN = 1             # a sender woke the reactor
    SLEEP_FD_READY = 2          # a file descriptor of a thread is ready
    SLEEP_SIGNAL = 4            # a signal has come
    SLEEP_FD_CLOSED = 8         # other code has closed one of the descriptors

cdef enum:
    CLOCK_TURNS = 32            # idle turns between two looks at the clock, which costs more than a short turn
    MANUAL_CLOCK_SLEEP_NS = 1_000_000       # the longest sleep beside a manual clock: no event says when that is moved

cdef struct idle_s:
    int mode
    uint32_t idle_turns
    uint64_t spin_ticks
    uint64_t idle_since         # tick, or account stamp where the mode reads no clock
    uint64_t looked             # account stamp of the last look ("poll"), or of the first idle turn ("yield")
    uint64_t nap_until          # account stamp, "yield": up to then naps give up the core; 0: sched_yield does
    uint64_t slice_cycles       # off the core for longer, the reactor has lost a slice of the scheduler's time
    uint64_t look_cycles        # how long it looks for work before a nap
    uint64_t nap_cycles         # how long naps replace sched_yield after a lost slice
    uint64_t trim_cycles        # idle for longer, the reactor gives memory back
    bint trimmed                # and has done so
    uint64_t slices_lost
    bint told                   # that the core is shared


cdef int idle_mode_of(object idle) except -1
cdef int idle_step(idle_s *idle, uint32_t threads) noexcept nogil
cdef int idle_sleep(wakeup_state *wakeup, int fd, int signal_fd, int64_t timeout_ns) noexcept nogil


cdef inline void idle_reset(idle_s *idle) noexcept nogil:
    """Work was found."""
    idle.idle_turns = 0
    idle.idle_since = 0


cdef inline void idle_look_next(idle_s *idle) noexcept nogil:
    """After a sleep: the next turn, if it is idle too, looks at the clock and not only the 32nd."""
    idle.idle_turns = CLOCK_TURNS - 1
