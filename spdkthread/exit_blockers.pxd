"""What keeps an exiting SpdkThread: one count for each kind, and what to call each one of a kind.

The counts are the thread's own: they change, and are looked at, where it is polled. Messages and file descriptors are
counted by their ring and their set; everything else that keeps a thread is here.
"""

from libc.stdint cimport uint32_t


cdef struct exit_blockers_s:
    uint32_t pollers            # registered ones, paused and running ones too
    uint32_t timers             # pending ones of `call_later`
    uint32_t channels           # those that wait for their destruction too
    uint32_t coroutines         # spawned here, or come here, and not ended
    uint32_t operations         # iterations and completions of its own under way
    uint32_t unregistrations    # of devices, which it is to hear of
    uint32_t loops              # event loops that are not closed

# The kinds whose things have no list of their own.
cdef enum blocker:
    BLOCKER_OPERATION
    BLOCKER_UNREGISTRATION
    BLOCKER_LOOP


cdef inline bint exit_blocked(exit_blockers_s *blockers) noexcept nogil:
    """Whether anything that is counted here keeps the thread."""
    return (
        blockers.pollers
        | blockers.timers
        | blockers.channels
        | blockers.coroutines
        | blockers.operations
        | blockers.unregistrations
        | blockers.loops
    ) != 0


cdef class NamedBlockers:
    cdef exit_blockers_s *c
    cdef dict operations        # what it is -> how often
    cdef dict unregistrations
    cdef dict loops

    cdef int add(self, int kind, object what) except -1
    cdef int remove(self, int kind, object what) except -1
    cdef list of_kind(self, int kind)
    cdef dict things(self, int kind)
    cdef uint32_t *count(self, int kind) noexcept


cdef NamedBlockers new_blockers(exit_blockers_s *counts)
