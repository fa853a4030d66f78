"""The threads of a reactor. See ``reactor_members.pxd``.

A thread is a member from `adopt` on, and polled from the next `rebuild` on: the table of the loop changes between two
turns only. What the loop will need for a thread is made before the thread comes, so that a lack of memory is a
`MemoryError` of the caller and not one on the loop.

With more than READY_MAP_THREADS threads a turn looks only at those whose bit is set in the ready map of the wake-up
state; the index of a thread's bit is its index in the table. See ``wakeup.pxd``.
"""

import logging

from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport st_store32_relaxed, st_storep_release
from spdkthread.clock cimport clock_read, st_cycles, st_ticks
from spdkthread.fd_group cimport FD_READABLE, fd_group_add, fd_group_open, fd_group_remove, fd_is_open
from spdkthread.reactor_loop cimport (
    READY_MAP_THREADS,
    REQUEST_MEMBERS,
    SCAN_READY_SOON,
    account_idle,
    leave_ready_turns,
)
from spdkthread.reactor_state cimport PHASE_NEW, PHASE_RUNNING, PHASE_STOPPED, ReactorState, phase_now
from spdkthread.ring cimport ring_set_stopping
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport thread_s
from spdkthread.timers cimport timer_queue_init
from spdkthread.trace_ring cimport TRACE_MOVE, st_trace_word, st_tracing, trace_enrol, trace_put
from spdkthread.wakeup cimport wakeup_make_ready_map, wakeup_repair, wakeup_take, wakeup_use_ready_map

from spdkthread.errors import ReactorError, ThreadExitedError

logger = logging.getLogger("spdkthread")

# How long after a thread came the sleeps are short: see wakeup.pxd.
cdef uint64_t ADOPTION_TICKS = 1_000_000


# Coming and going

cdef int adopt(ReactorState reactor, SpdkThread thread) except -1:
    """Become the reactor of a thread that has none, or that its reactor hands over."""
    with reactor.lock:
        if phase_now(reactor) not in (PHASE_NEW, PHASE_RUNNING, PHASE_STOPPED):
            raise ReactorError(f"{reactor!r} takes no threads any more")
        prepare(reactor, thread)
        reactor.members[id(thread)] = thread
        thread._place(reactor, reactor)
        if not thread._polled:
            thread._polled = True
            thread._first_poll = clock_read(thread.c.clock) if thread.c.clock != NULL else st_cycles()
        st_storep_release(&thread.c.wakeup, reactor.r.wakeup)
        # Under the lock: a stop that begins right after sees that there is a member to be taken in first.
        reactor._request(REQUEST_MEMBERS)
    return 0


cdef int hand_over(ReactorState reactor, SpdkThread thread, ReactorState to) except -1:
    """Give a thread to another reactor. It always has one of the two."""
    prepare(to, thread)
    with reactor.lock:
        if thread._reactor is not reactor or id(thread) not in reactor.members:
            raise ReactorError(f"{thread!r} is not on {reactor!r} any more")
        if thread.is_exited:
            raise ThreadExitedError(f"{thread!r} cannot be moved")
        mask = thread.cpumask
        if mask is not None and to.core not in mask:
            raise ReactorError(f"{thread!r} may only be placed on cores {sorted(mask)}, not on {to!r}")
        if reactor.r.stopping:
            raise ReactorError(f"{thread!r} cannot be moved away from {reactor!r}")
        del reactor.members[id(thread)]
    rebuild(reactor)
    unwatch_fds(reactor, thread)
    try:
        adopt(to, thread)
    except BaseException:
        adopt(reactor, thread)
        watch_fds(reactor, thread)
        raise
    if st_tracing():
        trace_put(TRACE_MOVE, thread.c.trace_number, st_cycles(), 0, <uint64_t><int>reactor.core, <int>to.core)
    return 0


cdef int give_up_all(ReactorState reactor) except -1:
    """Under the lock, at the end of the loop: the threads that are left are on no reactor."""
    cdef SpdkThread thread
    leave_ready_turns(&reactor.r)
    for thread in list(reactor.members.values()):
        unwatch_fds(reactor, thread)
        st_storep_release(&thread.c.wakeup, NULL)
        ring_set_stopping(thread.c.ring, False)
        # The last step: from here on another reactor may adopt it.
        thread._give_up(reactor)
    reactor.members.clear()
    reactor.r.count = 0
    reactor.r.cursor = 0
    return 0


cdef int abandon_all(ReactorState reactor) except -1:
    cdef SpdkThread thread
    for fd in (reactor.r.fd, reactor.spare_fd):
        if fd >= 0:
            close(fd)
    reactor.r.fd = reactor.spare_fd = -1
    for thread in list(reactor.members.values()):
        thread._die()
    reactor.members.clear()
    reactor.r.count = 0
    return 0


# The table of the loop

cdef int prepare(ReactorState reactor, SpdkThread thread) except -1:
    """Before a thread comes: what the loop will need for it."""
    with reactor.lock:
        make_room(reactor, len(reactor.members) + 1)
        if thread.c.fd_count:
            make_fd_set(reactor)
    return 0


cdef int make_room(ReactorState reactor, size_t count) except -1:
    """Under the lock: a table for so many threads."""
    cdef thread_s **threads
    cdef size_t capacity
    if count <= max(reactor.capacity, reactor.spare_capacity):
        return 0
    capacity = max(<size_t>16, 2 * count)
    threads = <thread_s **>core_calloc(capacity, sizeof(thread_s *))
    if threads == NULL:
        raise MemoryError(f"no memory for {count} threads on {reactor!r}")
    core_free(reactor.spare)
    reactor.spare = threads
    reactor.spare_capacity = <uint32_t>capacity
    return 0


cdef int rebuild(ReactorState reactor) except -1:
    """Poll exactly the members, and give up those that have exited."""
    cdef uint32_t count = 0
    cdef SpdkThread thread
    account_idle(&reactor.r)
    leave_ready_turns(&reactor.r)
    with reactor.lock:
        exited = [thread for thread in reactor.members.values() if thread.is_exited]
        for thread in exited:
            unwatch_fds(reactor, thread)
            del reactor.members[id(thread)]
            st_storep_release(&thread.c.wakeup, NULL)
            thread._give_up(reactor)
        if reactor.spare != NULL:
            core_free(reactor.r.threads)
            reactor.r.threads, reactor.capacity = reactor.spare, reactor.spare_capacity
            reactor.spare, reactor.spare_capacity = NULL, 0
        for thread in reactor.members.values():
            reactor.r.threads[count] = &thread.c
            st_store32_relaxed(&thread.c.ready_index, count)
            count += 1
        reactor.r.count = count
        reactor.r.cursor = 0
        reactor.r.adopted_until = st_ticks() + ADOPTION_TICKS
        for thread in reactor.members.values():
            if thread.c.fd_count:
                watch_fds(reactor, thread)
        if count > READY_MAP_THREADS and not reactor.r.stopping:
            use_ready_map(reactor)
    return 0


cdef int use_ready_map(ReactorState reactor) except -1:
    """Under the lock: have turns look only at threads that may have work, as soon as that is safe."""
    cdef SpdkThread thread
    for thread in reactor.members.values():
        if thread.c.clock != NULL:
            return 0        # no event says when a manual clock is moved
    try:
        timer_queue_init(&reactor.r.alarms)
        if reactor.r.wakeup == NULL:
            reactor.r.wakeup = wakeup_take()
            for thread in reactor.members.values():
                st_storep_release(&thread.c.wakeup, reactor.r.wakeup)
    except (MemoryError, OSError):
        return 0            # turns go on looking at all threads
    if not wakeup_make_ready_map(reactor.r.wakeup, reactor.r.count):
        return 0
    wakeup_use_ready_map(reactor.r.wakeup)
    reactor.r.scan_ready_from = st_ticks() + ADOPTION_TICKS
    reactor.r.scan = SCAN_READY_SOON
    return 0


# Descriptors

cdef int make_fd_set(ReactorState reactor) except -1:
    """Under the lock: a set of file descriptors, for the loop to take."""
    if reactor.spare_fd < 0:
        reactor.spare_fd = fd_group_open()
        if reactor.spare_fd < 0:
            raise ReactorError(f"no file descriptor for the fd set of {reactor!r}")
    return 0


cdef int watch_fds(ReactorState reactor, SpdkThread thread) except -1:
    """A thread of this reactor has file descriptors: the loop looks at them, and a sleep ends when one is ready."""
    if reactor.r.fd < 0:
        with reactor.lock:
            make_fd_set(reactor)
            reactor.r.fd, reactor.spare_fd = reactor.spare_fd, -1
    fd_group_add(reactor.r.fd, thread.c.fd_set, FD_READABLE, <uint64_t>&thread.c)     # EEXIST is fine
    return 0


cdef int unwatch_fds(ReactorState reactor, SpdkThread thread) except -1:
    """The thread has none any more, or leaves."""
    cdef SpdkThread other
    if reactor.r.fd < 0 or thread.c.fd_set < 0:
        return 0
    fd_group_remove(reactor.r.fd, thread.c.fd_set, FD_READABLE)
    with reactor.lock:
        for other in reactor.members.values():
            if other is not thread and other.c.fd_count:
                return 0
    close(reactor.r.fd)
    reactor.r.fd = -1
    with reactor.lock:
        if reactor.spare_fd >= 0:
            close(reactor.spare_fd)
            reactor.spare_fd = -1
    return 0


cdef int repair_descriptors(ReactorState reactor) except -1:
    """Other code has closed descriptors of the reactor's: a sleep on a closed one would end at once, each time."""
    cdef SpdkThread thread
    lost = []
    if reactor.r.wakeup != NULL and wakeup_repair(reactor.r.wakeup):
        lost.append("its wake-up descriptor")
    if reactor.r.fd >= 0 and not fd_is_open(reactor.r.fd):
        lost.append("its fd set")
        reactor.r.fd = -1
        with reactor.lock:
            members = list(reactor.members.values())
        for thread in members:
            if thread._mend_fds():
                lost.append(f"the fd set of {thread.name!r}")
            if thread.c.fd_count:
                watch_fds(reactor, thread)
    if reactor.r.signal_fd >= 0 and not fd_is_open(reactor.r.signal_fd):
        lost.append("what tells it of signals, which now come late")
        reactor.r.signal_fd = -1
    if lost:
        logger.error(
            "%r: other code has closed descriptors that it had not opened, perhaps by os.closerange: %s. "
            "It has opened new ones; messages sent meanwhile may have waited", reactor, ", ".join(lost)
        )
    return 0


trace_enrol(&st_trace_word)
