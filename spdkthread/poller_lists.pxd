"""The pollers of a thread: a list of the active ones, in the order of their turns, the deadlines of the timed ones, and
what takes a poller from one state to another.

::

                      registered                     its turn, or its deadline
    (new) ------------> WAITING ------------------------> RUNNING
                        |  ^   <---------------------------  |
               pause    v  | resume       back to its list   | pause inside its function
                        PAUSED <-----------------------------'
    unregister, from any of them: UNREGISTERED, for good

An active poller that is paused stays on the list until its turn comes; a timed one leaves the queue with its deadline
in its node. All of this on the thread, where nothing else touches it.
"""

from libc.stdint cimport uint64_t

from spdkthread.poller cimport Poller, poller_s
from spdkthread.thread_struct cimport thread_s
from spdkthread.timers cimport timer_insert

# Of an active poller, also from native code: what `Poller.pause` and `Poller.resume` do.
cdef void active_pause(thread_s *thread, poller_s *poller) noexcept nogil
cdef void active_resume(thread_s *thread, poller_s *poller) noexcept nogil

cdef int poller_add(thread_s *thread, Poller poller) except -1
cdef int poller_act(thread_s *thread, int what, Poller poller) except -1
cdef int poller_forget(thread_s *thread, Poller poller) except -1


cdef inline void active_link(thread_s *thread, poller_s *poller) noexcept nogil:
    """Last on the list; the caller counts it in `active_count`, as with `active_unlink`."""
    poller.next = NULL
    poller.prev = thread.active_last
    poller.serial = thread.serial
    poller.listed = True
    if thread.active_last == NULL:
        thread.active_first = poller
    else:
        thread.active_last.next = poller
    thread.active_last = poller


cdef inline void active_append(thread_s *thread, poller_s *poller) noexcept nogil:
    """A new one, or one that was paused."""
    thread.active_count += 1
    active_link(thread, poller)


cdef inline void active_unlink(thread_s *thread, poller_s *poller) noexcept nogil:
    """Off the list."""
    if not poller.listed:
        return
    if thread.active_next == poller:
        thread.active_next = poller.next
    if poller.prev == NULL:
        thread.active_first = poller.next
    else:
        poller.prev.next = poller.next
    if poller.next == NULL:
        thread.active_last = poller.prev
    else:
        poller.next.prev = poller.prev
    poller.listed = False


cdef inline void active_count_running(thread_s *thread, bint runs) noexcept nogil:
    """An active poller stops, or goes on, to be one while it is inside its function."""
    if thread.active_runs != runs:
        thread.active_runs = runs
        thread.active_count += 1 if runs else -1


cdef inline void poller_arm(thread_s *thread, poller_s *poller, uint64_t now) noexcept nogil:
    """Queue a timed poller one period after `now`."""
    timer_insert(&thread.timers, &poller.timer, now + poller.period, now)
    thread.timed_count += 1


cdef inline void poller_arm_again(thread_s *thread, poller_s *poller, uint64_t now) noexcept nogil:
    """Queue a poller of fixed rate at the first of its deadlines after `now`; the last one is in its node."""
    cdef uint64_t deadline = poller.timer.deadline
    if deadline <= now:
        deadline += ((now - deadline) // poller.period + 1) * poller.period
    timer_insert(&thread.timers, &poller.timer, deadline, now)
    thread.timed_count += 1
