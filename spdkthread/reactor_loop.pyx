"""What a reactor does without the GIL: turn after turn, and sleep."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_fence_seq_cst,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_relaxed,
    st_loadp_relaxed,
    st_or32_release,
)
from spdkthread.clock cimport account_ticks, clock_read, st_cycles, st_ticks
from spdkthread.fd_group cimport FD_BATCH, fd_event, fd_group_wait
from spdkthread.gil_handoff cimport GIL_PAUSE_TICKS
from spdkthread.idle cimport (
    IDLE_CALL,
    IDLE_GO_ON,
    IDLE_NAP,
    IDLE_OBJECT,
    IDLE_SHARED_CORE,
    IDLE_TRIM,
    IDLE_YIELD,
    MANUAL_CLOCK_SLEEP_NS,
    SLEEP_FD_CLOSED,
    SLEEP_FD_READY,
    SLEEP_SIGNAL,
    SLEEP_TIMED_OUT,
    idle_look_next,
    idle_sleep,
    idle_step,
)
from spdkthread.ring cimport ring_pending, ring_rewind, ring_trim
from spdkthread.thread_poll cimport (
    ATTENTION_FDS,
    STEP_PYTHON,
    THREAD_EXITED,
    attention_set,
    poll_detached,
    poll_messages_ready,
    poll_work_ready,
    reactor_alarm,
    thread_fetch,
    thread_s,
)
from spdkthread.timers cimport (
    TIMER_NEVER,
    timer_cancel,
    timer_insert,
    timer_lowest,
    timer_next_deadline,
    timer_node,
    timer_pop,
)
from spdkthread.trace_ring cimport st_trace_word, trace_enrol
from spdkthread.wakeup cimport (
    ready_clear,
    ready_map,
    ready_set,
    wakeup_begin_sleep,
    wakeup_end_sleep,
    wakeup_leave_ready_map,
)

# Between two looks at file descriptors while there is work: so many turns, or so long.
cdef uint32_t FD_TURNS = 64
cdef uint64_t FD_TICKS = 20_000
# How far a turn over ready threads looks ahead for the next one.
cdef uint32_t FETCH_THREADS = 1_024
# Idle for so long, a reactor gives the memory of its threads' rings back.
cdef int64_t TRIM_NS = 250_000_000
# A nap of "yield" ends after so long.
cdef int64_t NAP_NS = 50_000
# Off its core for longer without having slept, a reactor has lost a slice; "yield" then naps for a while.
cdef uint64_t SLICE_TICKS = 1_000_000
cdef uint64_t NAP_TICKS = 1_000_000_000
# Before each nap it looks for work for so long: an answer from another core is there by then.
cdef uint64_t LOOK_TICKS = 20_000
# A wait below this is the price of an uncontended lock.
cdef uint64_t WAIT_TICKS = 2_000
# Loops hold the GIL for so long, then plain threads have a chance to take it.
cdef uint64_t HOLD_TICKS = 1_000_000


cdef int reactor_measure_cycles(reactor_s *r) except -1:
    """The limits that are compared with stamps, on the processor's own counter."""
    cdef int64_t ticks = account_ticks(NULL, 1_000_000)
    if ticks > 0:
        r.wait_cycles = <uint64_t>(WAIT_TICKS * 1_000_000.0 / ticks)
        r.fd_cycles = <uint64_t>(FD_TICKS * 1_000_000.0 / ticks)
        r.hold_cycles = <uint64_t>(HOLD_TICKS * 1_000_000.0 / ticks)
        r.idle.slice_cycles = <uint64_t>(SLICE_TICKS * 1_000_000.0 / ticks)
        r.idle.trim_cycles = <uint64_t>(TRIM_NS * 1_000_000.0 / ticks)
        r.idle.look_cycles = <uint64_t>(LOOK_TICKS * 1_000_000.0 / ticks)
        r.idle.nap_cycles = <uint64_t>(NAP_TICKS * 1_000_000.0 / ticks)
        r.gap_cycles = <uint64_t>(GIL_PAUSE_TICKS * 1_000_000.0 / ticks)
    return 0


# Turns of a reactor with many threads, over those whose bit is set in its ready map. The order is that of a turn over
# all: a message to a thread that comes later runs in the same turn, one to a thread that came before in the next.

cdef inline ready_map *ready_map_of(reactor_s *r) noexcept nogil:
    return <ready_map *>st_loadp_relaxed(&r.wakeup.ready)


cdef bint ready_turn_begin(reactor_s *r) noexcept nogil:
    """Begin a turn. False: it looks at all threads."""
    cdef uint32_t index
    cdef uint64_t now
    cdef timer_node *node
    if r.scan == SCAN_READY_SOON:
        if st_ticks() < r.scan_ready_from:
            return False
        # Messages that came to a thread before its bit could be relied on are found now.
        for index in range(r.count):
            ready_set(ready_map_of(r), index)
        st_fence_seq_cst()
        r.scan = SCAN_READY
    if r.alarms.count:
        now = st_ticks()
        while True:
            node = timer_pop(&r.alarms, now)
            if node == NULL:
                break
            ready_set(ready_map_of(r), (<reactor_alarm *>node).index)
    return True


cdef bint ready_turn_next(reactor_s *r) noexcept nogil:
    """Begin the next poll of the turn, that of the thread at `cursor`. False: there is none, the turn is over."""
    cdef ready_map *ready = ready_map_of(r)
    cdef uint64_t word
    while r.cursor < r.count:
        word = st_load_relaxed(&ready.bits[r.cursor >> 6]) >> (r.cursor & 63)
        if word == 0:
            r.cursor = (r.cursor | 63) + 1
            continue
        r.cursor += timer_lowest(word)
        if r.cursor >= r.count:
            break
        ready_clear(ready, r.cursor)
        fetch_next_ready(r, ready)
        if reactor_begin(r, r.threads[r.cursor]):
            return True
        ready_turn_pass(r)
    r.cursor = r.count
    return False


cdef inline void fetch_next_ready(reactor_s *r, ready_map *ready) noexcept nogil:
    """While the thread at `cursor` is polled, fetch what the poll after it will touch, if that is not far away."""
    cdef uint32_t index = r.cursor + 1
    cdef uint32_t limit = index + FETCH_THREADS if r.count - index > FETCH_THREADS else r.count
    cdef uint64_t word
    while index < limit:
        word = st_load_relaxed(&ready.bits[index >> 6]) >> (index & 63)
        if word == 0:
            index = (index | 63) + 1
            continue
        index += timer_lowest(word)
        if index < r.count:
            thread_fetch(r.threads[index])
        return


cdef void ready_turn_pass(reactor_s *r) noexcept nogil:
    """Pass on from the thread at `cursor`: where work is left its bit is set, and its next timer has an alarm."""
    cdef thread_s *thread = r.threads[r.cursor]
    cdef timer_node *alarm = &thread.alarm_of_reactor.node
    cdef uint64_t deadline
    if poll_work_ready(thread):
        ready_set(ready_map_of(r), r.cursor)
    else:
        ring_rewind(thread.ring)
    if thread.timers.count:
        deadline = thread.timers.next_check
        if not alarm.queued or alarm.deadline != deadline:
            timer_cancel(&r.alarms, alarm)
            thread.alarm_of_reactor.index = r.cursor
            timer_insert(&r.alarms, alarm, deadline, deadline)
    elif r.alarms.count and alarm.queued:
        timer_cancel(&r.alarms, alarm)
    r.cursor += 1


cdef void leave_ready_turns(reactor_s *r) noexcept nogil:
    """Before the table changes: go back to turns over all threads."""
    cdef uint32_t index
    if r.scan == SCAN_ALL:
        return
    r.scan = SCAN_ALL
    wakeup_leave_ready_map(r.wakeup)
    if r.alarms.count:
        for index in range(r.count):
            timer_cancel(&r.alarms, &r.threads[index].alarm_of_reactor.node)


cdef bint any_ready(reactor_s *r) noexcept nogil:
    cdef ready_map *ready = ready_map_of(r)
    cdef uint32_t index
    for index in range(r.count >> 6):
        if st_load_relaxed(&ready.bits[index]):
            return True
    if not r.count & 63:
        return False
    # Bits beyond the last thread are left over from more threads.
    return st_load_relaxed(&ready.bits[r.count >> 6]) & ((<uint64_t>1 << (r.count & 63)) - 1) != 0


cdef int reactor_detached(reactor_s *r) noexcept nogil:
    """Turn after turn, until something needs the GIL."""
    cdef thread_s *thread
    cdef int action
    while True:
        while r.in_poll or turn_next_poll(r):
            thread = r.threads[r.cursor]
            if poll_detached(thread) == STEP_PYTHON:
                return NEED_PYTHON
            reactor_finish(r, thread)
            turn_pass(r)
        turn_end(r)
        if st_load32_relaxed(&r.requests) or r.stopping:
            return NEED_REQUESTS
        if r.single_turn:
            return NEED_NOTHING
        if r.watches_signals and r.turns & 63 == 0 and st_ticks() >= r.signals_due:
            r.turn_worked = False
            return NEED_SIGNALS
        if r.fd >= 0:
            if r.fd_countdown == 0 or st_cycles() - r.fd_looked > r.fd_cycles:
                r.fd_countdown = FD_TURNS
                r.fd_looked = st_cycles()
                reactor_collect_fds(r)
            r.fd_countdown -= 1
        if r.ran_python:
            r.ran_python = False
        else:
            r.stretch_began = 0
        if r.turn_worked:
            # The user's object is told once that work has come.
            if r.idle.mode == IDLE_OBJECT and r.idle.idle_turns:
                return NEED_IDLE_OBJECT
            turn_end_busy(r)
            continue
        account_idle(r)
        action = idle_step(&r.idle, 1 if r.scan == SCAN_READY else r.count)
        if action == IDLE_CALL:
            return NEED_IDLE_OBJECT
        if action == IDLE_SHARED_CORE:
            return NEED_SHARED_CORE
        if action == IDLE_TRIM:
            trim_rings(r)
            continue
        if action != IDLE_GO_ON and park(r, action == IDLE_NAP) < 0 and r.watches_signals:
            return NEED_SIGNALS


cdef void reactor_collect_fds(reactor_s *r) noexcept nogil:
    """Tell the threads whose descriptors are ready."""
    cdef fd_event ready[64]
    cdef thread_s *thread
    cdef int index
    for index in range(fd_group_wait(r.fd, ready, FD_BATCH)):
        thread = <thread_s *>ready[index].tag
        attention_set(thread, ATTENTION_FDS)
        if r.scan:
            ready_set(ready_map_of(r), st_load32_relaxed(&thread.ready_index))


cdef void trim_rings(reactor_s *r) noexcept nogil:
    """Idle for a while: give back the memory that the threads' rings have used."""
    cdef uint32_t index
    r.trimmed_busy = st_load_relaxed(&r.busy)
    for index in range(r.count):
        ring_trim(r.threads[index].ring)


cdef bint may_sleep(reactor_s *r, bint nap, int64_t *timeout_ns) noexcept nogil:
    """Sleeper, after `wakeup_begin_sleep`: False when there is something to do, else how long the sleep may be at most
    (negative: for ever). A nap may be taken beside active pollers."""
    cdef uint32_t index
    cdef thread_s *thread
    cdef uint64_t deadline
    cdef uint64_t now = 0
    cdef uint64_t earliest = TIMER_NEVER
    # Those whose bit is not set have nothing to do. Before a nap the threads of active pollers are always among the
    # ready ones, so all are looked at.
    cdef uint32_t every = r.count
    timeout_ns[0] = -1
    if r.scan == SCAN_READY and not nap:
        if any_ready(r):
            return False
        earliest = timer_next_deadline(&r.alarms)
        every = 0
    for index in range(every):
        thread = r.threads[index]
        if poll_messages_ready(thread) or (thread.active_first != NULL and not nap):
            return False
        if thread.timers.count:
            if thread.clock != NULL:
                timeout_ns[0] = MANUAL_CLOCK_SLEEP_NS
                if clock_read(thread.clock) >= thread.timers.next_check:
                    return False
            else:
                deadline = timer_next_deadline(&thread.timers)
                if deadline < earliest:
                    earliest = deadline
    if st_load32_relaxed(&r.requests):
        return False
    if earliest != TIMER_NEVER or r.adopted_until:
        now = st_ticks()
        if earliest <= now:
            return False
        if r.adopted_until and r.adopted_until < earliest:
            earliest = r.adopted_until if r.adopted_until > now else now
        if earliest != TIMER_NEVER and (timeout_ns[0] < 0 or earliest - now < <uint64_t>timeout_ns[0]):
            timeout_ns[0] = <int64_t>(earliest - now)
    return True


cdef int park(reactor_s *r, bint nap) noexcept nogil:
    """Sleep until there is something to do, or take a nap. -1: a signal has come."""
    cdef int64_t timeout_ns
    cdef bint may_trim
    cdef int result
    # Before anything is looked at: the last look at a new thread comes after its window, however long this call takes.
    if r.adopted_until and st_ticks() >= r.adopted_until:
        r.adopted_until = 0
    wakeup_begin_sleep(r.wakeup)
    if not may_sleep(r, nap, &timeout_ns):
        wakeup_end_sleep(r.wakeup)
        return 0
    if nap and (timeout_ns < 0 or timeout_ns > NAP_NS):
        timeout_ns = NAP_NS
    may_trim = not nap and st_load_relaxed(&r.busy) != r.trimmed_busy and (timeout_ns < 0 or timeout_ns > TRIM_NS)
    if may_trim:
        timeout_ns = TRIM_NS
    # No timer is armed for a sleep: its end is an argument of the system call that sleeps.
    r.parks += not nap
    result = idle_sleep(r.wakeup, r.fd, r.signal_fd, timeout_ns)
    wakeup_end_sleep(r.wakeup)
    if result > 0:
        r.wakes += not nap
        if result & SLEEP_FD_CLOSED:
            st_or32_release(&r.requests, REQUEST_MEND)
        if result & SLEEP_FD_READY:
            reactor_collect_fds(r)
            r.fd_countdown = FD_TURNS
    elif result == SLEEP_TIMED_OUT and may_trim:
        trim_rings(r)
    # Where the turn after a sleep finds no work, the reactor sleeps again at once instead of spinning first.
    if r.idle.mode != IDLE_YIELD:
        idle_look_next(&r.idle)
    return -1 if result < 0 or result & SLEEP_SIGNAL else 0


cdef bint thread_is_drained(thread_s *thread) noexcept nogil:
    """Whether a thread has run what it accepted and has nothing of its own under way."""
    cdef void *critical
    if st_load32_acquire(&thread.state) == THREAD_EXITED:
        return True
    critical = st_loadp_relaxed(&thread.critical)
    return (
        not thread.polling
        and ring_pending(thread.ring) == 0
        and thread.batch_next == thread.batch_count
        and thread.blockers.operations == 0
        and <size_t>critical <= 1
    )


cdef bint reactor_is_drained(reactor_s *r) noexcept nogil:
    """While stopping: whether every thread is drained."""
    cdef uint32_t index
    for index in range(r.count):
        if not thread_is_drained(r.threads[index]):
            return False
    return True


trace_enrol(&st_trace_word)
