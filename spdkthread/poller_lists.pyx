"""The pollers of a thread. See ``poller_lists.pxd``."""

cimport cython
from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport uint64_t

from spdkthread.atomics cimport st_load32_relaxed, st_store32_relaxed
from spdkthread.clock cimport clock_read
from spdkthread.poller cimport (
    POLLER_PAUSE,
    POLLER_PAUSED,
    POLLER_RESUME,
    POLLER_RUNNING,
    POLLER_UNREGISTERED,
    POLLER_WAITING,
    Poller,
    poller_s,
)
from spdkthread.thread_struct cimport THREAD_EXITED, thread_s
from spdkthread.timers cimport timer_cancel, timer_insert, timer_queue_init

from spdkthread.errors import ThreadExitedError


cdef void active_pause(thread_s *thread, poller_s *poller) noexcept nogil:
    if st_load32_relaxed(&poller.state) == POLLER_WAITING:
        if poller.listed:
            thread.active_count -= 1                # leaves the list when its turn comes
        st_store32_relaxed(&poller.state, POLLER_PAUSED)
    elif st_load32_relaxed(&poller.state) == POLLER_RUNNING:
        st_store32_relaxed(&poller.state, POLLER_PAUSED)
        active_count_running(thread, False)


cdef void active_resume(thread_s *thread, poller_s *poller) noexcept nogil:
    if st_load32_relaxed(&poller.state) != POLLER_PAUSED:
        return
    if thread.running == poller:
        st_store32_relaxed(&poller.state, POLLER_RUNNING)
        active_count_running(thread, True)
        return
    st_store32_relaxed(&poller.state, POLLER_WAITING)
    if poller.listed:
        thread.active_count += 1
    else:
        active_append(thread, poller)


cdef int poller_add(thread_s *thread, Poller poller) except -1:
    """Register a poller that was made for this thread; nothing for one that was unregistered on its way."""
    cdef list pollers = <list>thread.poller_list
    if st_load32_relaxed(&thread.state) == THREAD_EXITED:
        raise ThreadExitedError(f"{<object>thread.owner!r} takes no pollers any more")
    if st_load32_relaxed(&poller.c.state) == POLLER_UNREGISTERED:
        return 0
    if poller.c.period:
        timer_queue_init(&thread.timers)
    thread.pollers_made += 1
    poller.id = thread.pollers_made
    pollers.append(poller)
    poller.list_position = PyList_GET_SIZE(pollers)
    thread.blockers.pollers += 1
    if poller.c.fixed_rate:
        poller.c.timer.deadline = clock_read(thread.clock) + poller.c.period    # for a resume, too
    if st_load32_relaxed(&poller.c.state) == POLLER_PAUSED:
        return 0
    if poller.c.fixed_rate:
        poller_arm_again(thread, &poller.c, poller.c.timer.deadline - poller.c.period)
    elif poller.c.period:
        poller_arm(thread, &poller.c, clock_read(thread.clock))
    else:
        active_append(thread, &poller.c)
    return 0


cdef int poller_act(thread_s *thread, int what, Poller poller) except -1:
    """Pause, resume or unregister a poller."""
    if what == POLLER_PAUSE:
        pause(thread, &poller.c)
        return 0
    if what == POLLER_RESUME:
        resume(thread, poller)
        return 0
    return unregister(thread, poller)


cdef void pause(thread_s *thread, poller_s *poller) noexcept nogil:
    if poller.period == 0:
        active_pause(thread, poller)
    elif st_load32_relaxed(&poller.state) == POLLER_WAITING:
        if poller.timer.queued:
            timer_cancel(&thread.timers, &poller.timer)         # the deadline stays in the node
            thread.timed_count -= 1
        st_store32_relaxed(&poller.state, POLLER_PAUSED)
    elif st_load32_relaxed(&poller.state) == POLLER_RUNNING:
        st_store32_relaxed(&poller.state, POLLER_PAUSED)


cdef void resume(thread_s *thread, Poller poller) noexcept:
    cdef uint64_t now
    if st_load32_relaxed(&poller.c.state) != POLLER_PAUSED:
        return
    if poller.c.period == 0 and poller.list_position:
        active_resume(thread, &poller.c)
        return
    if thread.running == &poller.c:
        st_store32_relaxed(&poller.c.state, POLLER_RUNNING)
        return
    st_store32_relaxed(&poller.c.state, POLLER_WAITING)
    if not poller.list_position:
        return              # its registration is still under way
    now = clock_read(thread.clock)
    if poller.c.fixed_rate and poller.c.timer.deadline:
        poller_arm_again(thread, &poller.c, now)
    elif poller.c.timer.deadline > now:
        timer_insert(&thread.timers, &poller.c.timer, poller.c.timer.deadline, now)
        thread.timed_count += 1
    else:
        poller_arm(thread, &poller.c, now)


cdef int unregister(thread_s *thread, Poller poller) except -1:
    cdef int before = st_load32_relaxed(&poller.c.state)
    if before == POLLER_UNREGISTERED:
        return 0
    st_store32_relaxed(&poller.c.state, POLLER_UNREGISTERED)
    if before == POLLER_RUNNING and poller.c.period == 0:
        active_count_running(thread, False)
    if poller.c.listed:
        active_unlink(thread, &poller.c)
        if before == POLLER_WAITING:
            thread.active_count -= 1
    elif poller.c.timer.queued:
        timer_cancel(&thread.timers, &poller.c.timer)
        thread.timed_count -= 1
    if thread.running != &poller.c:
        poller_forget(thread, poller)
    return 0


cdef int poller_forget(thread_s *thread, Poller poller) except -1:
    """Take an unregistered poller out of the list; the poll loop has no pointer to it any more."""
    cdef list pollers = <list>thread.poller_list
    cdef Poller last
    if not poller.list_position:
        return 0
    thread.blockers.pollers -= 1
    with cython.critical_section(pollers):      # `list` of it is one step for other OS threads
        last = pollers.pop()
        if last is not poller:
            pollers[poller.list_position - 1] = last
            last.list_position = poller.list_position
    poller.list_position = 0
    return 0
