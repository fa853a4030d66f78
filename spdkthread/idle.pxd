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

cdef struct idle_s:
    int mode
    uint32_t idle_turns
    uint64_t spin_ticks
    uint64_t idle_since         # tick, or account stamp where the mode looks at no clock
    uint64_t looked             # account stamp of the last look ("poll"), or of the first idle turn ("yield")
    uint64_t nap_until          # account stamp, "yield"; 0: it gives up the core by sched_yield
    uint64_t slice_cycles       # off the core for longer, it has lost a slice of the scheduler's time
    uint64_t look_cycles        # before a nap it looks for work for so long
    uint64_t nap_cycles         # naps instead of sched_yield for so long after that
    uint64_t trim_cycles        # idle for so long, a reactor gives memory back
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
