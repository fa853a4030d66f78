"""What a reactor does when a turn found no work."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.wake cimport wake_gate

cdef enum idle_mode:
    IDLE_POLL           # look again at once
    IDLE_YIELD          # give up the core between turns
    IDLE_ADAPTIVE       # look again for a while, then sleep
    IDLE_OBJECT         # what the user's object does

cdef enum idle_action:
    IDLE_GO_ON          # next turn
    IDLE_PARK           # the time for looking is over: sleep, if nothing forbids it
    IDLE_CALL           # ask the user's object; needs the GIL

cdef struct idle_s:
    int mode
    uint32_t idle_turns
    uint64_t spin_ticks
    uint64_t idle_since


cdef int idle_mode_of(object idle) except -1
cdef int idle_step(idle_s *idle, uint32_t threads) noexcept nogil
cdef int idle_sleep(wake_gate *gate, int fd, int signal_ear, int64_t timeout_ns) noexcept nogil


cdef inline void idle_reset(idle_s *idle) noexcept nogil:
    """Work was found."""
    idle.idle_turns = 0
    idle.idle_since = 0
