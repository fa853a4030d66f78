"""What a reactor does without the GIL: its struct, the accounting, and one poll of one thread, begun and ended."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_atomic_ptr,
    st_atomic_u32,
    st_atomic_u64,
    st_load_relaxed,
    st_loadp_relaxed,
    st_store_relaxed,
    st_store_release,
    st_storep_release,
)
from spdkthread.clock cimport account_ticks, clock_read, st_cycles
from spdkthread.idle cimport idle_reset, idle_s
from spdkthread.probes cimport st_probe_gil_attach, st_probed
from spdkthread.thread_poll cimport BATCH_SIZE, poll_begin, poll_end, poll_work_ready, thread_s
from spdkthread.timers cimport timer_queue
from spdkthread.trace_ring cimport TRACE_GIL_WAIT, st_tracing, trace_put
from spdkthread.wakeup cimport wakeup_state

cdef enum reactor_request:
    REQUEST_MEMBERS = 1     # threads came or went
    REQUEST_CALLS = 2       # functions to run on the loop
    REQUEST_STOP = 4        # end, gracefully
    REQUEST_ABORT = 8       # end now
    REQUEST_TIGHTEN = 16    # a callback has started something: see affinity.pyx
    REQUEST_MEND = 32       # other code has closed descriptors of the reactor's

cdef enum reactor_reason:
    NEED_PYTHON             # the poll under way has come to Python work
    NEED_REQUESTS           # an OS thread has asked for something, or the reactor stops
    NEED_SIGNALS            # on the main thread: 10 ms have passed, or a signal has ended a sleep
    NEED_IDLE_OBJECT        # the user's idle object is to be called
    NEED_SHARED_CORE        # the log is to say, once, that the core is shared with other processes
    NEED_NOTHING            # the one turn that was asked for is over

cdef enum reactor_scan:
    SCAN_ALL                # each turn looks at every thread
    SCAN_READY_SOON         # as yet too: threads have come or gone a moment ago, and their bits do not count yet
    SCAN_READY              # a turn looks at the threads whose bits are set, see wakeup.pxd

cdef enum:
    READY_MAP_THREADS = 64  # with no more threads, looking at each is cheaper
    FLUSH_TURNS = 16        # the accounting of a reactor that is always busy is brought up to date every so many turns


# What the detached phase touches.
cdef struct reactor_s:
    thread_s **threads
    uint32_t count
    uint32_t cursor             # the thread whose turn it is
    bint in_poll                # its poll is under way
    int scan                    # reactor_scan
    bint turn_worked
    bint single_turn            # embedded: come back after each turn
    bint watches_signals        # on the main thread
    bint stopping               # draining
    bint exiting                # drained, the threads exit
    st_atomic_u32 requests
    idle_s idle
    wakeup_state *wakeup        # NULL: never sleeps
    int fd                      # polls the fds of all threads; -1: none has any
    uint32_t fd_countdown
    uint64_t signals_due
    uint64_t fd_looked          # account stamp
    uint64_t adopted_until      # sleeps are short up to this tick: see wakeup.pxd
    uint64_t scan_ready_from    # tick: the end of SCAN_READY_SOON
    timer_queue alarms          # with SCAN_READY: for each thread that has timers, when the first may be due
    int signal_fd               # readable when a signal has come; -1: none
    int64_t turn_rc

    # Accounting: whose time is running, and since when. What has passed since is neither busy nor idle yet. Readers on
    # other OS threads look at `busy_owner`, `busy_since` and `busy` in this order, each stored after the next.
    st_atomic_ptr busy_owner    # thread_s; NULL: none
    st_atomic_u64 busy_since
    st_atomic_u64 busy
    uint64_t manual_since       # the same for a thread with a manual clock
    uint64_t started            # account stamp, moved on by the time for which it was stopped; 0: never started
    uint64_t stopped            # account stamp of its last stop; 0: it runs
    st_atomic_u64 busy_seen     # ticks: the most that `stats` has ever said
    st_atomic_u64 idle_seen
    st_atomic_u64 gil_wait_seen

    uint64_t turns
    uint64_t stop_turn          # when the stop began
    uint64_t parks
    uint64_t wakes
    uint64_t gil_waits
    uint64_t gil_wait           # account stamps
    uint64_t attach_started     # account stamp: since when the loop waits for the GIL; 0: it does not
    uint64_t detached_at        # account stamp: the end of its last Python work
    uint64_t stretch_began      # since when loops hold the GIL without a pause; 0: from the next attached phase on
    uint64_t trimmed_busy       # `busy` when the rings' memory was last given back
    uint64_t hold_cycles        # the longest such stretch, 1 ms: then plain threads get the GIL
    uint64_t gap_cycles         # detached for longer, a loop has left plain threads the time to take the GIL
    bint ran_python             # in this turn
    uint64_t wait_cycles        # a wait below this is the price of an uncontended lock
    uint64_t fd_cycles          # between two looks at file descriptors while there is work
    st_atomic_u64 stalls        # counted by the watchdog


cdef int reactor_detached(reactor_s *r) noexcept nogil
cdef bint ready_turn_begin(reactor_s *r) noexcept nogil
cdef void leave_ready_turns(reactor_s *r) noexcept nogil
cdef bint ready_turn_next(reactor_s *r) noexcept nogil
cdef void ready_turn_pass(reactor_s *r) noexcept nogil
cdef void reactor_collect_fds(reactor_s *r) noexcept nogil
cdef bint reactor_is_drained(reactor_s *r) noexcept nogil
cdef bint thread_is_drained(thread_s *thread) noexcept nogil
cdef int reactor_measure_cycles(reactor_s *r) except -1


# Accounting. Stamps are taken where busy and idle change, not at every poll.

cdef inline void account_start(reactor_s *r) noexcept nogil:
    """The reactor starts, for the first time or again: the time for which it was stopped is neither busy nor idle."""
    if r.started == 0:
        r.started = st_cycles()
    elif r.stopped:
        r.started += st_cycles() - r.stopped
        r.stopped = 0


cdef inline thread_s *busy_owner(reactor_s *r) noexcept nogil:
    return <thread_s *>st_loadp_relaxed(&r.busy_owner)


cdef inline void account_flush(reactor_s *r, uint64_t now) noexcept nogil:
    cdef thread_s *owner = busy_owner(r)
    cdef uint64_t passed = now - st_load_relaxed(&r.busy_since)
    st_store_relaxed(&r.busy, st_load_relaxed(&r.busy) + passed)
    if owner.clock == NULL:
        st_store_relaxed(&owner.busy, st_load_relaxed(&owner.busy) + passed)
    st_store_release(&r.busy_since, now)


cdef inline void account_idle(reactor_s *r) noexcept nogil:
    if busy_owner(r) != NULL:
        account_flush(r, st_cycles())
        st_storep_release(&r.busy_owner, NULL)


cdef inline uint64_t account_pause(reactor_s *r) noexcept nogil:
    """How long the loop has waited since `attach_started`: time in no callback, so no busy time."""
    cdef uint64_t waited = st_cycles() - r.attach_started
    r.attach_started = 0
    st_store_relaxed(&r.busy_since, st_load_relaxed(&r.busy_since) + waited)
    return waited


cdef inline void account_attach(reactor_s *r, uint64_t handed) noexcept nogil:
    """Right after attaching: how long that took, and since when loops hold the GIL.

    `handed` is the stretch of the loop that handed it over, or 0.
    """
    cdef uint64_t began = r.attach_started
    cdef uint64_t waited = account_pause(r)
    if waited > r.wait_cycles:
        r.gil_waits += 1
        r.gil_wait += waited
    if st_tracing():
        trace_put(TRACE_GIL_WAIT, 0, began, waited, 0, 0)
        if st_probed():
            st_probe_gil_attach(<uint64_t>account_ticks(NULL, waited))
    if handed:
        r.stretch_began = handed
    elif r.stretch_began == 0 or began - r.detached_at > r.gap_cycles or waited > r.gap_cycles:
        r.stretch_began = began + waited


# One poll of one thread, begun and ended.

cdef inline bint reactor_begin(reactor_s *r, thread_s *thread) noexcept nogil:
    """Begin a poll if there is anything to do."""
    cdef uint64_t now = 0
    cdef bint given = False
    if thread.timers.count:
        now = clock_read(thread.clock)
        given = True
        if not poll_work_ready(thread) and now < thread.timers.next_check:
            thread.polls += 1
            return False
    elif not poll_work_ready(thread):
        thread.polls += 1
        return False
    if busy_owner(r) != thread:
        if busy_owner(r) != NULL:
            account_flush(r, st_cycles())
            st_storep_release(&r.busy_owner, NULL)
        else:
            st_store_relaxed(&r.busy_since, st_cycles())
    if thread.clock != NULL:
        r.manual_since = clock_read(thread.clock)
    thread.polling = True
    poll_begin(thread, BATCH_SIZE, now, given)
    r.in_poll = True
    return True


cdef inline void reactor_finish(reactor_s *r, thread_s *thread) noexcept nogil:
    poll_end(thread)
    if thread.rc > 0:
        r.turn_worked = True
        st_storep_release(&r.busy_owner, thread)
        if thread.clock != NULL:
            st_store_relaxed(
                &thread.busy, st_load_relaxed(&thread.busy) + clock_read(thread.clock) - r.manual_since
            )
        if thread.rc > r.turn_rc:
            r.turn_rc = thread.rc
    # After its time is known to be busy: see `unaccounted_since` in reactor_view.pyx.
    thread.polling = False
    r.in_poll = False


# A turn: its polls, one after the other, and its end. The detached and the attached phase both go through these.

cdef inline bint turn_next_poll(reactor_s *r) noexcept nogil:
    """Begin the next poll of the turn, of the thread at `cursor` or of a later one. False: the turn is over."""
    if r.scan and (r.cursor or ready_turn_begin(r)) and r.scan == SCAN_READY:
        return ready_turn_next(r)
    while r.cursor < r.count:
        if reactor_begin(r, r.threads[r.cursor]):
            return True
        r.cursor += 1
    return False


cdef inline void turn_pass(reactor_s *r) noexcept nogil:
    """The poll of the thread at `cursor` is over: on to the next thread."""
    if r.scan == SCAN_READY:
        ready_turn_pass(r)
    else:
        r.cursor += 1


cdef inline void turn_end(reactor_s *r) noexcept nogil:
    r.cursor = 0
    r.turns += 1


cdef inline void turn_end_busy(reactor_s *r) noexcept nogil:
    """After `turn_end`, when the turn has found work: the next one goes on with it."""
    if r.turns % FLUSH_TURNS == 0 and busy_owner(r) != NULL:
        account_flush(r, st_cycles())
    r.turn_worked = False
    idle_reset(&r.idle)
