"""How a reactor ends. See ``reactor_stop.pxd``.

Draining    its threads refuse messages from outside and run what they have accepted
Exiting     the threads exit, each in a poll of its own
The end     the loop leaves; a thread that could not exit is reported, and is then on no reactor

Reactors that stop together (`Termination`) begin to exit when all of them are drained. Aborting goes from any stage to
the end, after the turn under way.
"""

import logging

from spdkthread.atomics cimport st_fence_seq_cst, st_load32_relaxed, st_load_acquire
from spdkthread.reactor_loop cimport REQUEST_STOP, reactor_is_drained, leave_ready_turns, thread_is_drained
from spdkthread.reactor_state cimport PHASE_ABORTING, PHASE_STOPPING, ReactorState, ask, phase_now, set_phase
from spdkthread.reactor_view cimport running_now
from spdkthread.ring cimport RING_POSITION, ring_set_stopping
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport ATTENTION_FDS, attention_set, set_current, thread_s

from spdkthread.report import what_is_left

logger = logging.getLogger("spdkthread")


cdef int begin_stop(ReactorState reactor) except -1:
    """Take nothing more from outside."""
    cdef SpdkThread thread
    if reactor.r.stopping:
        return 0
    with reactor.lock:
        set_phase(reactor, PHASE_STOPPING)
        members = list(reactor.members.values())
    leave_ready_turns(&reactor.r)
    reactor.r.stopping = True
    reactor.r.exiting = False
    reactor.r.stop_turn = reactor.r.turns
    for thread in members:
        ring_set_stopping(thread.c.ring, True)
    return 0


cdef int begin_exit(ReactorState reactor) except -1:
    """Everything that was accepted has run: exit the threads."""
    cdef SpdkThread thread
    cdef thread_s *outer
    reactor.r.exiting = True
    reactor.r.stop_turn = reactor.r.turns
    for thread in list(reactor.members.values()):
        outer = set_current(&thread.c)
        thread._exit_here()
        set_current(outer)
        # An idle thread gets one more poll, in which it exits.
        attention_set(&thread.c, ATTENTION_FDS)
    return 0


cdef bint may_end(ReactorState reactor) except -1:
    """While stopping, after a turn: go on from draining to exiting, and from there to the end."""
    if phase_now(reactor) == PHASE_ABORTING:
        return True
    # Two whole turns in each stage, so that every thread has had its poll.
    if (
        reactor.r.in_poll
        or st_load32_relaxed(&reactor.r.requests)
        or reactor.r.turns < reactor.r.stop_turn + 2
        or not reactor_is_drained(&reactor.r)
    ):
        return False
    if reactor.r.exiting:
        return True
    with reactor.lock:
        termination = reactor.termination
    if termination is None or termination.may_exit():
        begin_exit(reactor)
    return False


cdef int stop_together(ReactorState reactor, object termination) except -1:
    """Stop, if it runs, together with the other reactors of a `Termination`."""
    with reactor.lock:
        reactor.termination = termination
        if reactor.looping:
            ask(reactor, REQUEST_STOP)
    return 0


cdef object drained_mark(ReactorState reactor):
    """For `Termination`: None while anything is left to run, else the number of messages ever sent to each thread."""
    cdef SpdkThread thread
    cdef list mark = []
    with reactor.lock:
        if not reactor.looping:
            return mark
        if phase_now(reactor) not in (PHASE_STOPPING, PHASE_ABORTING):
            return None
        for thread in reactor.members.values():
            # In this order: a poll that begins in between has taken a message, which shows in the tail.
            sent = st_load_acquire(&thread.c.ring.tail) & RING_POSITION
            st_fence_seq_cst()
            if not thread_is_drained(&thread.c):
                return None
            st_fence_seq_cst()
            if thread.c.polling or sent != st_load_acquire(&thread.c.ring.tail) & RING_POSITION:
                return None
            mark.append((thread.id, sent))
    return mark


cdef object what_remains(ReactorState reactor, bint by_name):
    """A ShutdownReport. `by_name`: on the owner of the loop. Elsewhere messages are only counted: they may run, and go,
    meanwhile."""
    with reactor.lock:
        members = list(reactor.members.values())
    return what_is_left(members, by_name)


cdef list waits_in_words(ReactorState reactor):
    """What this reactor has to run before it can end."""
    cdef SpdkThread thread
    if not reactor.looping and not reactor.r.stopping:
        return []
    running = running_now(reactor)
    waits = [f"{running} on reactor {reactor.name!r}, which runs now"] if running else []
    with reactor.lock:
        members = [thread for thread in reactor.members.values() if not thread_is_drained(&thread.c)]
    for thread in members:
        blockers = thread.exit_blockers
        if blockers:
            shown = ", ".join(blockers[:10]) + (", ..." if len(blockers) > 10 else "")
            waits.append(f"thread {thread.name!r} on reactor {reactor.name!r} ({shown})")
    return waits


cdef int log_waits(ReactorState reactor, double waited_s) except -1:
    """A stop takes long: log what it, and those that stop together with it, wait for."""
    cdef ReactorState one
    with reactor.lock:
        termination = reactor.termination
    waits = []
    for one in (reactor,) if termination is None else termination.reactors:
        waits += waits_in_words(one)
    logger.warning(
        "%r has been stopping for %.0f s and waits for %s", reactor, waited_s, "; ".join(waits) or "its last turns"
    )
    return 0
