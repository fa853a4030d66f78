"""The poll of an SpdkThread. See ``thread_poll.pxd``."""

import sys

from cpython.exc cimport PyErr_ExceptionMatches
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.alloc cimport core_calloc
from spdkthread.atomics cimport (
    st_and32_acq_rel,
    st_cas_acq_rel,
    st_exchangep,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_relaxed,
    st_store32_relaxed,
    st_store_relaxed,
    st_store_release,
)
from spdkthread.call_later cimport TIMER_CANCELLED, TIMER_DONE, TIMER_PENDING, Timer, timer_s, unlist_timer
from spdkthread.clock cimport clock_read, st_cycles
from spdkthread.cpython_ext cimport (
    NONE,
    ST_VECTORCALL_OFFSET,
    PyErr_Clear,
    PyErr_Occurred,
    PyErr_SetObject,
    PyLong_AsLongLongAndOverflowRaw,
    PyLong_CheckRaw,
    PyObject_CallRaw,
    PyObject_Vectorcall,
    Py_DECREF_raw,
    Py_INCREF_raw,
    likely,
    st_take_exception,
)
from spdkthread.exit_blockers cimport exit_blocked
from spdkthread.fd_group cimport fd_set_ready
from spdkthread.lib cimport ThreadLib
from spdkthread.native cimport msg_fn
from spdkthread.poller cimport (
    POLLER_PAUSED,
    POLLER_RUNNING,
    POLLER_UNREGISTERED,
    POLLER_WAITING,
    Poller,
    poller_s,
)
from spdkthread.poller_lists cimport (
    active_link,
    active_unlink,
    poller_arm,
    poller_arm_again,
    poller_forget,
)
from spdkthread.probes cimport (
    st_probe_message_done,
    st_probe_message_start,
    st_probe_poller_done,
    st_probe_poller_start,
    st_probe_timer_done,
    st_probe_timer_start,
    st_probed,
)
from spdkthread.ring cimport (
    MSG_NATIVE,
    MSG_PYTHON,
    MSG_PYTHON_TUPLE,
    ring_pending,
    ring_slot,
    ring_take,
    ring_take_overflow,
)
from spdkthread.held_locks cimport SPIN_HELD_AT_RETURN, spinlock_s, spinlock_take_off
from spdkthread.thread_struct cimport BATCH_SIZE, GARBAGE_SIZE, critical_waiting
from spdkthread.timers cimport (
    TIMER_NEVER,
    timer_cancel,
    timer_insert,
    timer_next_deadline,
    timer_node,
    timer_pop,
    timer_queue,
    timer_wheel,
)
from spdkthread.trace_ring cimport (
    TRACE_CRITICAL,
    TRACE_MESSAGE,
    TRACE_NATIVE_MESSAGE,
    TRACE_NATIVE_POLLER,
    TRACE_NATIVE_TIMER,
    TRACE_POLLER,
    TRACE_TIMER,
    st_trace_word,
    st_tracing,
    trace_enrol,
    trace_key,
    trace_name_of,
    trace_put,
    trace_runs_argument,
    trace_text,
)

from spdkthread.error_log import describe
from spdkthread.errors import SpinLockError


cdef extern from *:
    """
    /* Of this OS thread. Only this module reads and writes it. */
    #if defined(__GLIBC__)
    /* Eight bytes of the C library's reserve for modules that are loaded late: one load instead of a call. */
    __attribute__((tls_model("initial-exec")))
    #endif
    static _Thread_local void *st_current_thread = NULL;

    /* A trace: when the last native callback ended, of which thread, and what `work_done` was then. */
    #if defined(__GLIBC__)
    __attribute__((tls_model("initial-exec")))
    #endif
    static _Thread_local struct { uint64_t stamp; uint64_t work; uint32_t thread; } st_native_end;
    """
    void *st_current_thread
    struct st_native_end_s "st_native_end":
        uint64_t stamp
        uint64_t work
        uint32_t thread
    st_native_end_s st_native_end


cdef thread_s *current_thread() noexcept nogil:
    """The thread whose callback runs on this OS thread, or NULL."""
    return <thread_s *>st_current_thread


cdef thread_s *set_current(thread_s *thread) noexcept nogil:
    """Make `thread` current; returns what was."""
    global st_current_thread
    cdef thread_s *outer = <thread_s *>st_current_thread
    st_current_thread = thread
    return outer


# Timers of `call_later`: their own queue, and one node in that of the pollers.

cdef bint queue_ready(timer_queue *queue) noexcept nogil:
    if queue.wheel == NULL:
        queue.wheel = <timer_wheel *>core_calloc(1, sizeof(timer_wheel))
        if queue.wheel == NULL:
            return False
        queue.next_check = TIMER_NEVER
    return True


cdef bint timers_ready(thread_s *thread) noexcept nogil:
    """Make the queues for the first timer; False: no memory."""
    return queue_ready(&thread.timers) and queue_ready(&thread.later)


cdef void alarm_at(thread_s *thread, uint64_t deadline, uint64_t now) noexcept nogil:
    """Have the thread polled at `deadline`, if not earlier."""
    if thread.alarm.queued:
        if thread.alarm.deadline <= deadline:
            return
        timer_cancel(&thread.timers, &thread.alarm)
    timer_insert(&thread.timers, &thread.alarm, deadline, now if now < deadline else deadline)


cdef inline void queue_timer(thread_s *thread, timer_s *timer, uint64_t now) noexcept nogil:
    timer_insert(&thread.later, &timer.node, timer.deadline, now if now < timer.deadline else timer.deadline)


cdef void queue_deferred(thread_s *thread, uint64_t poll, uint64_t now) noexcept nogil:
    """Queue those that may run in poll number `poll`."""
    cdef timer_s *timer
    while thread.deferred_first != NULL and thread.deferred_first.first_poll <= poll:
        timer = thread.deferred_first
        thread.deferred_first = <timer_s *>timer.node.next
        if thread.deferred_first == NULL:
            thread.deferred_last = NULL
        else:
            thread.deferred_first.node.prev = NULL
        timer.deferred = False
        queue_timer(thread, timer, now)


cdef void timer_add(thread_s *thread, timer_s *timer, bint next_poll, uint64_t now) noexcept nogil:
    """Arm a timer that has its deadline. `next_poll`: it must not run in the poll that is under way."""
    cdef timer_node *last
    timer.deferred = thread.polling and (next_poll or thread.stage == STAGE_TIMED)
    timer.first_poll = thread.polls + 1 if timer.deferred else thread.polls
    if timer.deferred:
        last = <timer_node *>thread.deferred_last
        timer.node.next = NULL
        timer.node.prev = last
        if last == NULL:
            thread.deferred_first = timer
        else:
            last.next = &timer.node
        thread.deferred_last = timer
    else:
        # Equal deadlines run as they were made.
        queue_deferred(thread, thread.polls if thread.polling else thread.polls + 1, now)
        queue_timer(thread, timer, now)
    alarm_at(thread, timer.deadline, now)
    thread.blockers.timers += 1


cdef void timer_remove(thread_s *thread, timer_s *timer) noexcept nogil:
    """Take a timer out that will not run; nothing more is due without any."""
    if timer.deferred:
        timer.deferred = False
        if timer.node.prev == NULL:
            thread.deferred_first = <timer_s *>timer.node.next
        else:
            timer.node.prev.next = timer.node.next
        if timer.node.next == NULL:
            thread.deferred_last = <timer_s *>timer.node.prev
        else:
            timer.node.next.prev = timer.node.prev
    else:
        timer_cancel(&thread.later, &timer.node)
    thread.blockers.timers -= 1
    # While one that is claimed waits for the GIL, or for letting go, the alarm leads the poll to it.
    if not (thread.later.count or thread.deferred_first != NULL or thread.due != NULL or thread.finished != NULL):
        timer_cancel(&thread.timers, &thread.alarm)


cdef bint timer_claim(timer_s *timer, uint64_t state) noexcept nogil:
    """From any OS thread: have a pending timer be `state`; one caller only gets True."""
    cdef uint64_t pending = TIMER_PENDING
    return st_cas_acq_rel(&timer.state, &pending, state)


cdef bint take_timer(thread_s *thread) noexcept nogil:
    """Claim the next timer that is due in this poll: it is `thread.due`, or NULL when native ones that have run are to
    be let go of. False: nothing of either kind."""
    cdef timer_s *timer
    cdef uint64_t earliest
    if thread.due != NULL:
        return True
    if thread.deferred_first != NULL:
        queue_deferred(thread, thread.polls, thread.now)
    while True:
        timer = <timer_s *>timer_pop(&thread.later, thread.now)
        if timer == NULL:
            break
        # Cancelled elsewhere: the message that takes it off the list is on its way.
        if timer_claim(timer, TIMER_DONE):
            thread.due = timer
            return True
    if thread.finished != NULL:
        return True
    # A lower bound where the exact deadline would have to be searched for among many.
    earliest = timer_next_deadline(&thread.later) if thread.later.count <= 64 else thread.later.next_check
    if thread.deferred_first != NULL and thread.deferred_first.deadline < earliest:
        earliest = thread.deferred_first.deadline
    if thread.alarm.deadline != earliest:
        timer_cancel(&thread.timers, &thread.alarm)
        if earliest != TIMER_NEVER:
            alarm_at(thread, earliest, thread.now)
    return False


cdef uint64_t timers_next(thread_s *thread) noexcept nogil:
    """The earliest deadline of a timer; TIMER_NEVER without one."""
    cdef uint64_t earliest = timer_next_deadline(&thread.later)
    cdef timer_s *timer = thread.deferred_first
    if thread.due != NULL and thread.due.deadline < earliest:
        earliest = thread.due.deadline
    while timer != NULL:
        if timer.deadline < earliest:
            earliest = timer.deadline
        timer = <timer_s *>timer.node.next
    return earliest


cdef uint64_t pollers_next(thread_s *thread) noexcept nogil:
    """The earliest deadline of a timed poller; TIMER_NEVER without one."""
    cdef uint64_t alarm = thread.alarm.deadline
    cdef uint64_t earliest
    if not thread.alarm.queued:
        return timer_next_deadline(&thread.timers)
    if thread.timers.count == 1:
        return TIMER_NEVER
    timer_cancel(&thread.timers, &thread.alarm)
    earliest = timer_next_deadline(&thread.timers)
    timer_insert(&thread.timers, &thread.alarm, alarm, alarm)
    return earliest


cdef int thread_call_later(
    thread_s *thread, timer_s *timer, uint64_t delay_ticks, msg_fn fn, void *ctx
) noexcept nogil:
    cdef uint64_t now
    if (
        thread == NULL
        or thread != current_thread()
        or st_load32_relaxed(&thread.state) == THREAD_EXITED
        or st_load_relaxed(&timer.state) == TIMER_PENDING
        or delay_ticks >= TIMER_NEVER >> 1
        or not timers_ready(thread)
    ):
        return -1
    now = clock_read(thread.clock)
    timer.owner = NULL
    timer.native_fn = fn
    timer.native_ctx = ctx
    timer.deadline = now + delay_ticks
    st_store_release(&timer.state, TIMER_PENDING)
    timer_add(thread, timer, delay_ticks == 0, now)
    return 0


cdef bint thread_cancel_timer(thread_s *thread, timer_s *timer) noexcept nogil:
    if thread == NULL or thread != current_thread() or timer.owner != NULL or not timer_claim(timer, TIMER_CANCELLED):
        return False
    timer_remove(thread, timer)
    return True


cdef uint64_t current_deadline() noexcept nogil:
    cdef thread_s *thread = current_thread()
    if thread == NULL:
        return TIMER_NEVER
    if thread.running != NULL:
        return thread.running.timer.deadline if thread.running.period else TIMER_NEVER
    return thread.timer_deadline


# One poll.

cdef bint poll_needed(thread_s *thread) noexcept nogil:
    """Whether a poll would do anything. Reads the clock only when a timer is pending."""
    if poll_work_ready(thread):
        return True
    return thread.timers.count != 0 and clock_read(thread.clock) >= thread.timers.next_check


# What a trace says of where a message came from: its position in the ring.

cdef inline uint64_t position_of(thread_s *thread, uint32_t index) noexcept nogil:
    """Where message `index` of the batch stood if the whole batch stood in the ring: what comes next is at `head`."""
    return st_load_relaxed(&thread.ring.head) - (thread.batch_count - index)


cdef void mark_batch(thread_s *thread) noexcept nogil:
    """With messages of the overflow list in the batch, `position_of` is wrong. No later batch has these positions."""
    cdef uint32_t index
    for index in range(thread.batch_count):
        st_store_relaxed(&thread.batch[index].stamp, position_of(thread, index) + 1)


cdef uint64_t trace_position(thread_s *thread, ring_slot *message) noexcept nogil:
    """1 + the position in the ring of a message of the batch; 0: it is not known."""
    cdef uint64_t position = position_of(thread, <uint32_t>(message - thread.batch)) + 1
    return 0 if st_load_relaxed(&message.stamp) == position else position


cdef inline uint64_t work_done(thread_s *thread) noexcept nogil:
    """Stands still for as long as one loop over native callbacks goes on, and only then: a loop counts at its end."""
    return thread.polls + thread.msgs_run + thread.pollers_run


cdef inline uint64_t native_began(thread_s *thread) noexcept nogil:
    """The stamp at which a native callback begins: where one has just ended, its end. A look at the counter saved is
    half of what a record costs."""
    if st_native_end.work == work_done(thread) and st_native_end.thread == thread.trace_number:
        return st_native_end.stamp
    return st_cycles()


cdef inline void native_ended(
    thread_s *thread, int kind, uint64_t began, void *fn, int64_t value, uint64_t work
) noexcept nogil:
    """`work` is what had been done when it began: 0 where no other callback may follow it at once."""
    cdef uint64_t ended = st_cycles()
    trace_put(kind, thread.trace_number, began, ended - began, <uint64_t>fn, value)
    st_native_end.stamp = ended
    st_native_end.work = work
    st_native_end.thread = thread.trace_number


cdef void traced_native_message(thread_s *thread, ring_slot *message) noexcept nogil:
    cdef uint64_t position = trace_position(thread, message)
    cdef uint64_t work = work_done(thread)
    cdef void *fn = message.fn
    cdef uint64_t began = native_began(thread)
    if st_probed():
        st_probe_message_start(thread.trace_number, fn, "")
    (<msg_fn>fn)(message.args[0])
    if st_probed():
        st_probe_message_done(thread.trace_number, fn)
    native_ended(thread, TRACE_NATIVE_MESSAGE, began, fn, <int64_t>position, work)


cdef int64_t traced_native_poller(thread_s *thread, poller_s *poller) noexcept nogil:
    # Its own function may unregister it.
    cdef uint64_t work = work_done(thread)
    cdef void *fn = <void *>poller.native_fn
    cdef uint64_t began = native_began(thread)
    cdef int64_t rc
    if st_probed():
        st_probe_poller_start(thread.trace_number, fn, "")
    rc = poller.native_fn(poller.native_ctx)
    if st_probed():
        st_probe_poller_done(thread.trace_number, fn, rc)
    native_ended(thread, TRACE_NATIVE_POLLER, began, fn, rc, work)
    return rc


# By pointers: inlined, what is called once would take registers from the way without a trace.
ctypedef void (*traced_native_message_fn)(thread_s *, ring_slot *) noexcept nogil
ctypedef int64_t (*traced_native_poller_fn)(thread_s *, poller_s *) noexcept nogil
cdef traced_native_message_fn slow_native_message = traced_native_message
cdef traced_native_poller_fn slow_native_poller = traced_native_poller


cdef inline int64_t call_native_poller(thread_s *thread, poller_s *poller) noexcept nogil:
    if st_tracing():
        return slow_native_poller(thread, poller)
    return poller.native_fn(poller.native_ctx)


cdef int poll_begin(thread_s *thread, uint32_t limit, uint64_t now, bint now_given) noexcept nogil:
    """Take the batch. The caller goes on with `poll_detached` or `poll_attached`."""
    cdef uint32_t flags = st_load32_acquire(&thread.attention)
    thread.polls += 1
    thread.serial += 1
    thread.rc = 0
    thread.now = now
    thread.now_given = now_given
    thread.active_done = False
    thread.active_next = NULL
    thread.stage = STAGE_CRITICAL if flags & ATTENTION_CRITICAL else STAGE_MESSAGES
    if thread.batch_next == thread.batch_count:
        thread.batch_next = 0
        thread.batch_count = ring_take(thread.ring, thread.batch, limit)
        if flags & ATTENTION_OVERFLOW and thread.batch_count < limit:
            # Cleared first and looked at after: a sender that adds to the overflow list meanwhile sets it again.
            st_and32_acq_rel(&thread.attention, ~<uint32_t>ATTENTION_OVERFLOW)
            thread.batch_count += ring_take_overflow(
                thread.ring, &thread.batch[thread.batch_count], limit - thread.batch_count
            )
            if st_load_relaxed(&thread.ring.overflow):
                attention_set(thread, ATTENTION_OVERFLOW)
            mark_batch(thread)
    thread.outer = set_current(thread)
    return 0


cdef void poll_end(thread_s *thread) noexcept nogil:
    """Leave the poll, finished or broken off by an exception."""
    set_current(thread.outer)
    thread.outer = NULL
    thread.stage = STAGE_IDLE
    thread.unfinished = thread.batch_next != thread.batch_count or thread.garbage_count != 0


cdef inline void count_run(thread_s *thread, poller_s *poller, int64_t rc) noexcept nogil:
    thread.pollers_run += 1
    poller.run_count += 1
    if rc > 0:
        poller.busy_count += 1
        if rc > thread.rc:
            thread.rc = rc


cdef inline poller_s *pick_active(thread_s *thread) noexcept nogil:
    """Take the next active poller whose turn it is in this poll; NULL when the stage is over."""
    cdef poller_s *poller
    if thread.policy_all:
        poller = thread.active_next if thread.active_done else thread.active_first
        thread.active_done = True
        while poller != NULL:
            if poller.serial == thread.serial:      # came during this stage, and so did all behind it
                poller = NULL
                break
            thread.active_next = poller.next
            if st_load32_relaxed(&poller.state) != POLLER_PAUSED:
                break
            active_unlink(thread, poller)
            poller = thread.active_next
        if poller != NULL:
            thread.active_runs = True
            st_store32_relaxed(&poller.state, POLLER_RUNNING)
        else:
            thread.active_next = NULL
        return poller
    if thread.active_done:
        return NULL
    thread.active_done = True
    while thread.active_first != NULL:
        poller = thread.active_first
        active_unlink(thread, poller)
        if st_load32_relaxed(&poller.state) != POLLER_PAUSED:
            thread.active_runs = True
            st_store32_relaxed(&poller.state, POLLER_RUNNING)
            return poller
    return NULL


cdef inline void after_active(thread_s *thread, poller_s *poller) noexcept nogil:
    """Back to its list, unless it was paused or unregistered inside its function."""
    thread.active_runs = False
    if st_load32_relaxed(&poller.state) == POLLER_RUNNING:
        st_store32_relaxed(&poller.state, POLLER_WAITING)
        if not poller.listed:                       # policy "all" leaves it where it is
            active_link(thread, poller)


cdef inline bint run_native_round(thread_s *thread) noexcept nogil:
    """Policy "all": one loop over consecutive native pollers, `pick_active`, `count_run` and `after_active` fused.

    True: the next piece of work needs the GIL; otherwise the stage is over.
    """
    cdef poller_s *poller = thread.active_next if thread.active_done else thread.active_first
    cdef uint64_t ran = 0
    cdef int64_t rc
    thread.active_done = True
    while poller != NULL and poller.serial != thread.serial:
        thread.active_next = poller.next
        if st_load32_relaxed(&poller.state) == POLLER_PAUSED:
            active_unlink(thread, poller)
            poller = thread.active_next
            continue
        thread.running = poller
        thread.active_runs = True
        st_store32_relaxed(&poller.state, POLLER_RUNNING)
        if poller.native_fn == NULL:
            break
        rc = call_native_poller(thread, poller)
        ran += 1
        poller.run_count += 1
        if rc > 0:
            poller.busy_count += 1
            if rc > thread.rc:
                thread.rc = rc
        if st_load32_relaxed(&poller.state) == POLLER_UNREGISTERED:
            break                                   # to be taken out of the thread's list
        if st_load32_relaxed(&poller.state) == POLLER_RUNNING:
            st_store32_relaxed(&poller.state, POLLER_WAITING)
        thread.running = NULL
        if thread.locks_held != NULL:
            thread.pollers_run += ran
            thread.active_runs = False
            thread.locks_poller = poller.owner
            return True
        poller = thread.active_next                 # which the function may have changed
    thread.pollers_run += ran
    if thread.running != NULL:
        return True
    thread.active_runs = False
    thread.active_next = NULL
    thread.stage = STAGE_TIMED
    return False


cdef inline bint timer_first(thread_s *thread) noexcept nogil:
    """Read the clock for the stage; whether a timer comes before the timed pollers."""
    if not thread.now_given:
        # After the active poller, as the seed does; once per poll.
        thread.now = clock_read(thread.clock)
        thread.now_given = True
    return thread.alarm.queued and take_timer(thread)


cdef inline poller_s *pick_timed(thread_s *thread) noexcept nogil:
    """Take the next timed poller that is due; NULL when the stage is over."""
    cdef poller_s *poller
    cdef uint64_t late
    poller = <poller_s *>timer_pop(&thread.timers, thread.now)
    if poller == <poller_s *>&thread.alarm:
        # For timers made in this poll, which are due in the next one.
        poller = <poller_s *>timer_pop(&thread.timers, thread.now)
        alarm_at(thread, thread.alarm.deadline, thread.now)
    if poller != NULL:
        thread.timed_count -= 1
        st_store32_relaxed(&poller.state, POLLER_RUNNING)
        late = thread.now - poller.timer.deadline
        if not poller.fixed_rate:
            # The next deadline moves by this much: what is less than a period now may be one with the next.
            late += poller.late
            poller.late = late
        if late >= poller.period:
            poller.overrun_count += late // poller.period
            if not poller.fixed_rate:
                poller.late = late % poller.period
    return poller


cdef inline void after_timed(thread_s *thread, poller_s *poller) noexcept nogil:
    if st_load32_relaxed(&poller.state) == POLLER_RUNNING:
        st_store32_relaxed(&poller.state, POLLER_WAITING)
        if poller.fixed_rate:
            poller_arm_again(thread, poller, thread.now)
        else:
            poller_arm(thread, poller, thread.now)


cdef inline poller_s *next_poller(thread_s *thread) noexcept nogil:
    """The poller to run now; moves from stage to stage. NULL: a timer comes first, or no stage is left."""
    cdef poller_s *poller = thread.running
    if poller != NULL:
        return poller
    if thread.stage == STAGE_ACTIVE:
        poller = pick_active(thread)
        if poller != NULL:
            thread.running = poller
            return poller
        thread.stage = STAGE_TIMED
    if thread.stage == STAGE_TIMED:
        if thread.timers.count:
            if timer_first(thread):
                return NULL
            poller = pick_timed(thread)
            if poller != NULL:
                thread.running = poller
                return poller
        thread.stage = STAGE_END
    return NULL


cdef inline void after_poller(thread_s *thread, poller_s *poller) noexcept nogil:
    thread.running = NULL
    if thread.stage == STAGE_ACTIVE:
        after_active(thread, poller)
    else:
        after_timed(thread, poller)
        if not thread.policy_all:
            thread.stage = STAGE_END


cdef inline void leave_messages(thread_s *thread) noexcept nogil:
    thread.stage = STAGE_ACTIVE
    if st_load32_relaxed(&thread.attention) & ATTENTION_FDS:
        if thread.fd_count:
            thread.stage = STAGE_FDS
            thread.fd_natives_ran = False
        else:
            st_and32_acq_rel(&thread.attention, ~<uint32_t>ATTENTION_FDS)
    # What is registered from here on came during this stage.
    thread.serial += 1


cdef int poll_detached(thread_s *thread) noexcept nogil:
    """Do what needs no GIL, up to the first piece of work that does."""
    cdef ring_slot *message
    cdef poller_s *poller
    cdef uint32_t first, index, count
    if thread.stage == STAGE_CRITICAL:
        return STEP_PYTHON
    if thread.garbage_count and thread.batch_count == 0:
        return STEP_PYTHON                          # the messages have ceased: let go of what they kept
    if thread.stage == STAGE_MESSAGES and thread.batch_next == thread.batch_count:
        leave_messages(thread)
    elif thread.stage == STAGE_MESSAGES:
        # Counted in registers: memory that is read back and written for each message is the longest way through here.
        first = index = thread.batch_next
        count = thread.batch_count
        while index < count:
            message = &thread.batch[index]
            if message.kind != MSG_NATIVE or (message.args[1] != NULL and thread.garbage_count == GARBAGE_SIZE):
                thread.msgs_run += index - first
                return STEP_PYTHON
            if message.args[1] != NULL:
                thread.garbage[thread.garbage_count] = <PyObject *>message.args[1]
                thread.garbage_count += 1
            index += 1
            thread.batch_next = index
            thread.rc = 1
            if st_tracing():
                slow_native_message(thread, message)
            else:
                (<msg_fn>message.fn)(message.args[0])
            if thread.locks_held != NULL:
                thread.msgs_run += index - first
                return STEP_PYTHON                  # to be reported
        thread.msgs_run += index - first
        leave_messages(thread)
    if thread.stage == STAGE_FDS and (thread.fd_natives == NULL or run_native_fds(thread)):
        return STEP_PYTHON
    while True:
        if thread.policy_all and thread.stage == STAGE_ACTIVE and thread.running == NULL and run_native_round(thread):
            return STEP_PYTHON
        poller = next_poller(thread)
        if poller == NULL:
            if thread.stage == STAGE_END:
                break
            if thread.due == NULL or thread.due.native_fn == NULL:
                return STEP_PYTHON
            run_native_timer(thread)
            if thread.locks_held != NULL:
                return STEP_PYTHON
            continue
        if poller.native_fn == NULL:
            return STEP_PYTHON
        count_run(thread, poller, call_native_poller(thread, poller))
        if st_load32_relaxed(&poller.state) == POLLER_UNREGISTERED:
            return STEP_PYTHON                      # to be taken out of the thread's list
        after_poller(thread, poller)
        if thread.locks_held != NULL:
            thread.locks_poller = poller.owner
            return STEP_PYTHON
    if st_load32_relaxed(&thread.state) == THREAD_EXITING and thread_may_exit(thread):
        return STEP_PYTHON
    return STEP_DONE


cdef void traced_native_timer(thread_s *thread, msg_fn fn, void *ctx) noexcept nogil:
    cdef uint64_t began = st_cycles()
    if st_probed():
        st_probe_timer_start(thread.trace_number, <void *>fn, "")
    fn(ctx)
    if st_probed():
        st_probe_timer_done(thread.trace_number, <void *>fn)
    # Python may run between two timers, to let go of them: the next one looks at the counter itself.
    native_ended(thread, TRACE_NATIVE_TIMER, began, <void *>fn, 0, 0)


cdef void run_native_timer(thread_s *thread) noexcept nogil:
    """Run the native timer that is due. Its memory may be armed again, or given back, by its own function."""
    cdef timer_s *timer = thread.due
    cdef msg_fn fn = timer.native_fn
    cdef void *ctx = timer.native_ctx
    thread.due = NULL
    thread.rc = 1 if thread.rc < 1 else thread.rc
    thread.timer_deadline = timer.deadline
    if timer.owner == NULL:
        thread.blockers.timers -= 1
    else:
        timer.node.next = <timer_node *>thread.finished
        thread.finished = timer
    if st_tracing():
        traced_native_timer(thread, fn, ctx)
    else:
        fn(ctx)
    thread.timer_deadline = TIMER_NEVER


cdef bint thread_may_exit(thread_s *thread) noexcept nogil:
    """Whether nothing keeps an exiting thread."""
    return (
        not exit_blocked(&thread.blockers)
        and thread.fd_count == 0
        and thread.batch_next == thread.batch_count
        and ring_pending(thread.ring) == 0
        and critical_waiting(thread) == NULL
    )


cdef int poll_attached(thread_s *thread) noexcept:
    """Do the Python work, up to the first native piece or a batch of pollers. With STEP_RAISED the exception is set."""
    cdef ring_slot *message
    cdef poller_s *poller
    cdef uint32_t left = BATCH_SIZE
    if thread.garbage_count:
        drop_garbage(thread)
    if thread.locks_held != NULL and report_native_locks(thread) < 0:
        return STEP_RAISED
    if thread.stage == STAGE_CRITICAL:
        thread.stage = STAGE_MESSAGES
        if run_critical(thread) < 0:
            return STEP_RAISED
    if thread.stage == STAGE_MESSAGES:
        while thread.batch_next < thread.batch_count:
            message = &thread.batch[thread.batch_next]
            if message.kind == MSG_NATIVE:
                return STEP_NATIVE
            thread.batch_next += 1
            thread.msgs_run += 1
            thread.rc = 1
            if not likely(run_message(thread, message) == 0):
                return STEP_RAISED
        leave_messages(thread)
    if thread.stage == STAGE_FDS:
        if thread.fd_natives != NULL and not thread.fd_natives_ran:
            return STEP_NATIVE
        thread.stage = STAGE_ACTIVE
        if run_fds(thread) < 0:
            return STEP_RAISED
    while True:
        poller = next_poller(thread)
        if poller == NULL:
            if thread.stage == STAGE_END:
                break
            if thread.due == NULL:
                forget_finished(thread)
                continue
            if thread.due.native_fn != NULL:
                return STEP_NATIVE
            if run_timer(thread) < 0:
                return STEP_RAISED
            continue
        if poller.native_fn != NULL:
            if st_load32_relaxed(&poller.state) == POLLER_UNREGISTERED:
                retire(thread, poller)
                continue
            return STEP_NATIVE
        if run_poller(thread, poller) < 0:
            return STEP_RAISED
        # A poll has any number of pollers: the loop looks at the clock after as many of them as after messages.
        left -= 1
        if left == 0:
            return STEP_NATIVE
    if st_load32_relaxed(&thread.state) == THREAD_EXITING and thread_may_exit(thread):
        finish_exit(thread)
    return STEP_DONE


cdef void fds_look(thread_s *thread) noexcept nogil:
    """The driver: have the next poll call the handlers if a descriptor is ready."""
    if thread.fd_count and fd_set_ready(thread.fd_set):
        attention_set(thread, ATTENTION_FDS)


cdef bint run_native_fds(thread_s *thread) noexcept nogil:
    """Call the native functions of descriptors. True: there is work for Python; otherwise the stage is over."""
    cdef fd_native_s *one = thread.fd_natives
    cdef bint python = thread.fd_count > thread.fd_native_count
    cdef int flags
    if thread.fd_natives_ran:
        return True
    # Before any of them: what one asks for is for the next poll.
    st_and32_acq_rel(&thread.attention, ~<uint32_t>ATTENTION_FDS)
    thread.fd_natives_ran = True
    while one != NULL:
        flags = one.fn(one.ctx)
        if flags & FD_NATIVE_WORKED:
            thread.fds_run += 1
            if thread.rc < 1:
                thread.rc = 1
        if flags & FD_NATIVE_CALL:
            one.calls = True
            python = True
        one = one.next
    if not python:
        thread.stage = STAGE_ACTIVE
    return python


cdef int run_fds(thread_s *thread) noexcept:
    """Call the handlers of the descriptors that are ready."""
    cdef int ran
    if thread.fd_natives == NULL:
        st_and32_acq_rel(&thread.attention, ~<uint32_t>ATTENTION_FDS)
    try:
        ran = (<object>thread.owner)._run_fds()
    except (KeyboardInterrupt, SystemExit) as stop:
        PyErr_SetObject(type(stop), stop)
        return -1
    if ran and thread.rc < 1:
        thread.rc = 1
    return 0


cdef void finish_exit(thread_s *thread) noexcept:
    (<object>thread.owner)._finish_exit()


cdef void drop_garbage(thread_s *thread) noexcept:
    """Drop what native messages kept alive."""
    cdef uint32_t index, count = thread.garbage_count
    cdef PyObject *dropped[GARBAGE_SIZE]
    for index in range(count):
        dropped[index] = thread.garbage[index]
    thread.garbage_count = 0
    for index in range(count):
        Py_DECREF_raw(dropped[index])


cdef PyObject *traced_call(thread_s *thread, int kind, PyObject *fn, PyObject *args) noexcept:
    """Call with the tuple `args`, or with nothing. The references stay the caller's."""
    cdef uint64_t key = trace_key(fn)
    cdef uint64_t began
    cdef PyObject *result
    if st_probed():
        if kind == TRACE_TIMER:
            st_probe_timer_start(thread.trace_number, <void *>key, trace_name_of(fn))
        else:
            st_probe_message_start(thread.trace_number, <void *>key, trace_name_of(fn))
    began = st_cycles()
    if args == NULL:
        result = PyObject_Vectorcall(fn, NULL, 0, NULL)
    else:
        result = PyObject_CallRaw(fn, args, NULL)
    if st_probed():
        if kind == TRACE_TIMER:
            st_probe_timer_done(thread.trace_number, <void *>key)
        else:
            st_probe_message_done(thread.trace_number, <void *>key)
    trace_put(kind, thread.trace_number, began, st_cycles() - began, key, 0)
    return result


cdef PyObject *traced_message(thread_s *thread, ring_slot *message) noexcept:
    cdef PyObject *fn = <PyObject *>message.fn
    cdef PyObject **args = <PyObject **>message.args
    cdef uint64_t position = trace_position(thread, message)
    cdef PyObject *named = fn
    cdef PyObject *result
    cdef uint64_t key, began
    # A message of `call` or `acall`: the future, the callable, and the rest.
    if message.kind == MSG_PYTHON and message.nargs > 1 and trace_runs_argument(fn):
        named = args[1]
    key = trace_key(named)
    if st_probed():
        st_probe_message_start(thread.trace_number, <void *>key, trace_name_of(named))
    began = st_cycles()
    if message.kind == MSG_PYTHON_TUPLE:
        result = PyObject_CallRaw(fn, args[0], NULL)
    else:
        result = PyObject_Vectorcall(fn, args, message.nargs | ST_VECTORCALL_OFFSET, NULL)
    if st_probed():
        st_probe_message_done(thread.trace_number, <void *>key)
    trace_put(TRACE_MESSAGE, thread.trace_number, began, st_cycles() - began, key, <int64_t>position)
    return result


cdef PyObject *traced_poller(thread_s *thread, poller_s *poller) noexcept:
    cdef Poller owner = <Poller>poller.owner
    cdef uint64_t key = trace_key(poller.py_fn) if owner._name is None else trace_text(owner._name)
    cdef uint64_t began
    cdef PyObject *result
    if st_probed():
        st_probe_poller_start(
            thread.trace_number, <void *>key,
            trace_name_of(poller.py_fn) if owner._name is None else trace_name_of(<PyObject *>owner._name),
        )
    began = st_cycles()
    result = PyObject_Vectorcall(poller.py_fn, NULL, 0, NULL)
    if st_probed():
        st_probe_poller_done(thread.trace_number, <void *>key, result_of(result))
    trace_put(TRACE_POLLER, thread.trace_number, began, st_cycles() - began, key, result_of(result))
    return result


cdef int64_t result_of(PyObject *result) noexcept:
    """What a poller returned, as far as a trace tells it."""
    cdef int overflow = 0
    if result == NULL or not PyLong_CheckRaw(result):
        return 0
    return PyLong_AsLongLongAndOverflowRaw(result, &overflow)


ctypedef PyObject *(*traced_message_fn)(thread_s *, ring_slot *) noexcept
ctypedef PyObject *(*traced_poller_fn)(thread_s *, poller_s *) noexcept
cdef traced_message_fn slow_message = traced_message
cdef traced_poller_fn slow_poller = traced_poller


cdef int run_critical(thread_s *thread) noexcept:
    """Run and empty the critical slot."""
    cdef PyObject *fn
    st_and32_acq_rel(&thread.attention, ~<uint32_t>ATTENTION_CRITICAL)
    fn = <PyObject *>st_exchangep(&thread.critical, NULL)
    if fn == NULL:
        return 0
    thread.msgs_run += 1
    thread.rc = 1
    thread.critical_fn = fn
    cdef PyObject *result
    cdef int status = 0
    if st_tracing():
        result = traced_call(thread, TRACE_CRITICAL, fn, NULL)
    else:
        result = PyObject_Vectorcall(fn, NULL, 0, NULL)
    if result == NULL:
        status = message_failed(thread, fn)
    else:
        Py_DECREF_raw(result)
    if thread.locks_held != NULL and report_locks(thread, "message", fn) < 0:
        status = -1
    thread.critical_fn = NULL
    Py_DECREF_raw(fn)
    return status


cdef inline int run_message(thread_s *thread, ring_slot *message) noexcept:
    """Call, and drop the references that came with the message. -1: an exception that ends the poll is set."""
    cdef PyObject *fn = <PyObject *>message.fn
    cdef PyObject **args = <PyObject **>message.args
    cdef uint32_t index, count = message.nargs
    cdef PyObject *result
    cdef int status = 0
    if st_tracing():
        result = slow_message(thread, message)
    elif message.kind == MSG_PYTHON_TUPLE:
        result = PyObject_CallRaw(fn, args[0], NULL)
    else:
        result = PyObject_Vectorcall(fn, args, count | ST_VECTORCALL_OFFSET, NULL)
    if likely(result != NULL):
        Py_DECREF_raw(result)
    else:
        status = message_failed(thread, fn)
    if thread.locks_held != NULL and report_locks(thread, "message", fn) < 0:
        status = -1
    message.fn = NULL                               # the watchdog may be looking
    Py_DECREF_raw(fn)
    for index in range(count):
        Py_DECREF_raw(args[index])
    return status


cdef object forget_timer(thread_s *thread, Timer timer):
    """Take a timer that has run, or runs now, out of the thread's list. Returns what it held."""
    thread.blockers.timers -= 1
    unlist_timer(<list>thread.timer_list, timer)
    return timer.release()


cdef void forget_finished(thread_s *thread) noexcept:
    """Let go of native timers that have run."""
    cdef timer_s *timer
    while thread.finished != NULL:
        timer = thread.finished
        thread.finished = <timer_s *>timer.node.next
        forget_timer(thread, <Timer>timer.owner)


cdef int run_timer(thread_s *thread) noexcept:
    """Call the Python function of the timer that is due. -1: an exception that ends the poll is set."""
    cdef Timer timer = <Timer>thread.due.owner
    cdef PyObject *result
    cdef PyObject *fn
    thread.due = NULL
    cdef tuple held = forget_timer(thread, timer)
    thread.timer_deadline = timer.c.deadline
    fn = PyTuple_GET_ITEM(held, 0)
    thread.timer_fn = fn                            # the watchdog may be looking
    if st_tracing():
        result = traced_call(
            thread, TRACE_TIMER, fn, NULL if PyTuple_GET_ITEM(held, 1) == NONE else PyTuple_GET_ITEM(held, 1)
        )
    elif PyTuple_GET_ITEM(held, 1) == NONE:
        result = PyObject_Vectorcall(fn, NULL, 0, NULL)
    else:
        result = PyObject_CallRaw(fn, PyTuple_GET_ITEM(held, 1), NULL)
    thread.timer_fn = NULL
    thread.timer_deadline = TIMER_NEVER
    if thread.rc < 1:
        thread.rc = 1
    if thread.locks_held != NULL and report_locks(thread, "timer", fn) < 0:
        if result != NULL:
            stop = st_take_exception()
            Py_DECREF_raw(result)
            held = None
            timer = None
            PyErr_SetObject(type(stop), stop)
            return -1
    if likely(result != NULL):
        Py_DECREF_raw(result)
        return 0
    thread.errors += 1
    if ends_the_poll():
        # Dropping the last references may call Python, which must not be done with an exception set.
        stop = st_take_exception()
        held = None
        timer = None
        PyErr_SetObject(type(stop), stop)
        return -1
    return route(thread, "timer", fn)


cdef int run_poller(thread_s *thread, poller_s *poller) noexcept:
    """Call a Python poller and put it back. -1: an exception that ends the poll is set."""
    cdef PyObject *owner = poller.owner
    cdef PyObject *result
    cdef int64_t rc = 0
    cdef int status = 0
    cdef int overflow = 0
    # It may unregister itself, and the caller's reference may be the last one.
    Py_INCREF_raw(owner)
    if st_load32_relaxed(&poller.state) == POLLER_UNREGISTERED:
        retire(thread, poller)
        Py_DECREF_raw(owner)
        return 0
    if st_tracing():
        result = slow_poller(thread, poller)
    else:
        result = PyObject_Vectorcall(poller.py_fn, NULL, 0, NULL)
    if result == NONE:
        Py_DECREF_raw(result)
    elif result == NULL:
        poller.error_count += 1
        status = poller_failed(thread, poller)
    else:
        if PyLong_CheckRaw(result):
            rc = PyLong_AsLongLongAndOverflowRaw(result, &overflow)
            if overflow:
                rc = overflow
            if rc > INT_MAX:
                rc = INT_MAX
            Py_DECREF_raw(result)
        else:
            poller.error_count += 1
            status = poller_returned_nonsense(thread, poller, <object>result)
            Py_DECREF_raw(result)
    if thread.locks_held != NULL and report_locks(thread, "poller", owner) < 0:
        status = -1
    count_run(thread, poller, rc)
    if st_load32_relaxed(&poller.state) == POLLER_UNREGISTERED:
        retire(thread, poller)
    else:
        after_poller(thread, poller)
    Py_DECREF_raw(owner)
    return status


cdef void forget(thread_s *thread, Poller poller) noexcept:
    poller_forget(thread, poller)


cdef void retire(thread_s *thread, poller_s *poller) noexcept:
    """Forget a poller that was unregistered inside its own function."""
    thread.running = NULL
    thread.active_runs = False
    if thread.stage != STAGE_ACTIVE and not thread.policy_all:
        thread.stage = STAGE_END
    if PyErr_Occurred() == NULL:
        forget(thread, <Poller>poller.owner)
        return
    # The exception that ends the poll is set, and no Python function may be called with one.
    cdef object stop = st_take_exception()
    forget(thread, <Poller>poller.owner)
    PyErr_SetObject(type(stop), stop)


# Spin locks that a callback left held: the one misuse that cannot be raised where it is made.

cdef int report_native_locks(thread_s *thread) noexcept:
    """Of native callbacks, once the GIL is held; or what was locked by hand between two polls."""
    cdef PyObject *poller = thread.locks_poller
    thread.locks_poller = NULL
    if poller == NULL and thread.running != NULL:
        poller = thread.running.owner               # it has unregistered itself
    if poller != NULL:
        return report_locks(thread, "poller", poller)
    return report_locks(thread, "timer" if thread.stage == STAGE_TIMED else "message", NULL)


cdef int report_locks(thread_s *thread, str kind, PyObject *subject) noexcept:
    """Release the locks that the thread holds and report each; `subject` NULL: a native callback without a name. With
    an exception set, that one stays. -1 with an exception set when the library's handler ends the poll."""
    cdef spinlock_s *lock
    cdef PyObject *kept
    cdef object owner = <object>thread.owner
    cdef object raised = None
    cdef object error
    cdef int status = 0
    if PyErr_Occurred() != NULL:
        raised = st_take_exception()
    while thread.locks_held != NULL:
        lock = <spinlock_s *>thread.locks_held
        # Read before it is free: its memory may go then.
        name = lock.name.decode("utf-8", "replace")
        kept = lock.kept
        lock.kept = NULL
        spinlock_take_off(&thread.locks_held)
        if subject == NULL:
            callback = f"a native {kind}"
        elif kind == "poller" or kind == "handler":
            callback = f"{kind} {(<object>subject).name!r}"
        else:
            callback = f"{kind} {describe(<object>subject)}"
        reason = f"lock held while its SPDK thread goes off the CPU: {callback} returned without unlocking it"
        error = SpinLockError(
            f"spin lock {name!r}, owner {owner.name!r}: {reason}. It has been released "
            f"(SPDK's spinlock error {SPIN_HELD_AT_RETURN})",
            lock=name if kept == NULL else <object>kept, owner=owner, reason=reason, number=SPIN_HELD_AT_RETURN,
        )
        if kept != NULL:
            Py_DECREF_raw(kept)
        thread.errors += 1
        if status == 0:
            status = report(thread, kind, thread.owner if subject == NULL else subject, error)
    if raised is not None:
        if status < 0:
            PyErr_Clear()
        PyErr_SetObject(type(raised), raised)
    return status


# Failures. They run with the exception set and decide whether it ends the poll.

cdef bint ends_the_poll() noexcept:
    return PyErr_ExceptionMatches(KeyboardInterrupt) or PyErr_ExceptionMatches(SystemExit)


cdef int message_failed(thread_s *thread, PyObject *fn) noexcept:
    thread.errors += 1
    if ends_the_poll():
        return -1
    return route(thread, "message", fn)


cdef int poller_failed(thread_s *thread, poller_s *poller) noexcept:
    thread.errors += 1
    if ends_the_poll():
        return -1
    return route(thread, "poller", poller.owner)


cdef int poller_returned_nonsense(thread_s *thread, poller_s *poller, object result) noexcept:
    thread.errors += 1
    try:
        raise TypeError(
            f"poller {(<Poller>poller.owner).name!r} must return an int, a bool or None, "
            f"got {type(result).__name__}"
        )
    except TypeError as error:
        return report(thread, "poller", poller.owner, error)


cdef int route(thread_s *thread, str kind, PyObject *subject) noexcept:
    """Fetch the exception that is set and report it."""
    cdef object error = st_take_exception()
    return report(thread, kind, subject, error)


cdef int report(thread_s *thread, str kind, PyObject *subject, object error) noexcept:
    """Hand an exception to the library. -1 with an exception set when its handler ends the poll."""
    cdef object owner = <object>thread.owner
    cdef object what = <object>subject
    cdef ThreadLib lib = <ThreadLib?>owner.lib
    try:
        if kind == "timer":
            lib.report(f"timer {describe(what)} failed on thread {owner.name!r}", error, owner, "fn", what)
        elif kind == "handler":
            lib.report(f"handler {what.name!r} failed on thread {owner.name!r}", error, owner, "fd_handler", what)
        elif kind == "message" or what is owner:
            lib.report(f"message {describe(what)} failed on thread {owner.name!r}", error, owner, "fn", what)
        else:
            lib.report(f"poller {what.name!r} failed on thread {owner.name!r}", error, owner, "poller", what)
    except (KeyboardInterrupt, SystemExit) as stop:
        PyErr_SetObject(type(stop), stop)
        return -1
    except BaseException as failure:
        # Nothing but a failing sys.unraisablehook comes here.
        print(f"spdkthread: reporting an exception failed: {failure!r}", file=sys.__stderr__)
    return 0


trace_enrol(&st_trace_word)
