"""What an SpdkThread does inside. See ``thread_base.pxd``."""

cimport cython

import logging
import threading
import weakref

from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from spdkthread.atomics cimport (
    st_casp_acq_rel,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_acquire,
    st_load_relaxed,
    st_store32_release,
    st_store_relaxed,
    st_store_release,
    st_storep_release,
)
from spdkthread.call_later cimport TIMER_CANCELLED, TIMER_PENDING, Timer, list_timer, unlist_timer
from spdkthread.clock cimport account_read, clock_read, period_to_ticks
from spdkthread.cpython_ext cimport (
    HAS_GIL,
    PyThread_get_thread_ident,
    st_call_base_traverse,
    st_replace_traverse,
    st_visitproc,
    tuple_items,
)
from spdkthread.driver cimport (
    DRIVER_NONE,
    DRIVER_REACTOR,
    driver_claim,
    driver_from_reactor,
    driver_is_here,
    driver_read_begin,
    driver_read_end,
    driver_release,
    driver_to_reactor,
)
from spdkthread.exit_blockers cimport BLOCKER_OPERATION, BLOCKER_UNREGISTRATION, new_blockers
from spdkthread.fd_handler cimport FdHandler, new_fd_handlers
from spdkthread.held_locks cimport locks_abandon
from spdkthread.pointer_map cimport map_free
from spdkthread.poller cimport POLLER_NOTHING, POLLER_UNREGISTER, POLLER_UNREGISTERED, Poller, new_poller
from spdkthread.poller_lists cimport poller_act, poller_add
from spdkthread.ring cimport (
    MSG_NATIVE,
    MSG_PYTHON,
    MSG_PYTHON_TUPLE,
    RING_FULL,
    RING_OK,
    RING_STOPPING,
    ring_close,
    ring_destroy,
    ring_shut,
    ring_slot,
)
from spdkthread.send cimport raise_refusal, send_call, send_own, send_try
from spdkthread.thread_poll cimport (
    current_thread,
    drop_garbage,
    fds_look,
    poll_attached,
    poll_begin,
    poll_detached,
    poll_end,
    poll_needed,
    pollers_next,
    timer_add,
    timer_claim,
    timer_remove,
    timers_next,
    timers_ready,
)
from spdkthread.thread_struct cimport (
    CRITICAL_CLOSED,
    STAGE_ACTIVE,
    STAGE_FDS,
    STAGE_MESSAGES,
    STAGE_TIMED,
    STEP_DONE,
    STEP_NATIVE,
    STEP_PYTHON,
    THREAD_EXITED,
    THREAD_EXITING,
    THREAD_RUNNING,
    thread_s,
)
from spdkthread.timers cimport TIMER_NEVER, timer_glance, timer_queue_free
from spdkthread.trace_ring cimport st_trace_word, st_tracing, trace_enrol, trace_number
from spdkthread.undelivered cimport drop_undelivered, message_name, undelivered_names, visit_undelivered

from spdkthread.error_log import describe
from spdkthread.errors import SpdkThreadError, ThreadExitedError, WrongThreadError
from spdkthread.forks import ReentrantLock
from spdkthread.report import LeftoverMessage
from spdkthread.trace_ring import note_thread

__all__: list = []

logger = logging.getLogger("spdkthread")

requests_lock = ReentrantLock()


cdef class ThreadBase:
    """What an `SpdkThread` does inside; not for use by itself."""

    def __cinit__(self):
        self.c.fd_set = -1
        self._pollers = []
        self._timers = []
        self._channels = {}
        self._blockers = new_blockers(&self.c.blockers)
        self._fds = new_fd_handlers(&self.c)
        self._entered = []
        self._weak = weakref.ref(self)
        self.c.owner = <PyObject *>self
        self.c.timer_list = <PyObject *>self._timers
        self.c.poller_list = <PyObject *>self._pollers
        self.c.timer_deadline = TIMER_NEVER
        self.c.trace_number = trace_number()

    def _drop(self):
        """The thread is freed: report what will never run, and drop it."""
        # Destructors of what is dropped may send to this thread, which nothing polls again: that is refused.
        if self.c.ring != NULL and not self._dead:
            ring_shut(self.c.ring)
        self._abandon()
        if self._channels:
            left = shorten([repr(channel) for channel in self._channels])
            logger.error("%r ended with channels that were never destroyed: %s", self, left)

    def __dealloc__(self):
        locks_abandon(&self.c.locks_held, &self.c)
        timer_queue_free(&self.c.timers)
        timer_queue_free(&self.c.later)
        map_free(&self.c.channel_map)
        if self.c.fd_set >= 0:
            close(self.c.fd_set)
        if self.c.ring != NULL:
            ring_destroy(self.c.ring)

    cdef int _poll(self, uint32_t limit, uint64_t now, bint now_given) noexcept:
        """One poll by the driver, which releases the thread afterwards. With STEP_RAISED an exception is set."""
        cdef int step
        cdef uint64_t start = 0
        if not self._polled:
            self._polled = True
            self._first_poll = account_read(self.c.clock)
        if (
            not poll_needed(&self.c)
            and not now_given
            and self.c.fd_count == 0
            and st_load32_relaxed(&self.c.state) == THREAD_RUNNING
        ):
            self.c.polls += 1
            self.c.rc = 0
            self._release_driver()
            return STEP_DONE
        start = self._poll_began = account_read(self.c.clock)
        self.c.polling = True
        self._entered_before_poll = <uint32_t>len(self._entered)
        if self.c.fd_count:
            fds_look(&self.c)
        poll_begin(&self.c, limit, now, now_given)
        step = poll_attached(&self.c)
        while step == STEP_NATIVE or step == STEP_PYTHON:
            if step == STEP_NATIVE:
                with nogil:
                    step = poll_detached(&self.c)
            else:
                step = poll_attached(&self.c)
        poll_end(&self.c)
        if self.c.rc > 0:
            self._account(start)
        self.c.polling = False
        self._release_driver()
        return step

    cdef void _account(self, uint64_t start) noexcept:
        """The owner: what has passed since `start` was busy."""
        cdef uint64_t now = account_read(self.c.clock)
        if now > start:
            st_store_relaxed(&self.c.busy, st_load_relaxed(&self.c.busy) + now - start)

    cdef int _claim_driver(self) except -1:
        """Be the one OS thread that touches this thread's state; as often as it likes."""
        cdef uint64_t driver = driver_claim(&self._driver)
        if driver != DRIVER_NONE:
            self._refuse_driver(driver)
        return 0

    cdef void _release_driver(self) noexcept:
        driver_release(&self._driver)

    cdef int _refuse_driver(self, uint64_t driver) except -1:
        """Raise an error that names the driver."""
        owner = self._owned_by()
        if driver == DRIVER_REACTOR:
            raise WrongThreadError(f"{self!r} is polled by {describe(owner)}")
        names = [repr(one.name) for one in threading.enumerate() if one.ident == driver]
        where = f"OS thread {names[0] if names else driver}"
        if owner is not None:
            where = f"{describe(owner)} or its user, on {where}"
        raise WrongThreadError(f"{self!r} is driven by another OS thread: by {where}")

    def _belong_to(self, owner, polls, refusal=WrongThreadError):
        """Have a reactor or an event loop as owner from now on: one at a time, and none of an exited thread.

        Parameters
        ----------
        owner : Reactor or EventLoop
        polls : bool
            It drives the thread from now on until `_give_up`, and by hand that is refused. Otherwise `owner` enters
            the thread when it runs.
        refusal : type, default WrongThreadError
            What is raised when the thread has an owner.

        Raises
        ------
        WrongThreadError
            While an OS thread drives it, this one included.
        ThreadExitedError
            When it has exited.

        Notes
        -----
        **Thread safety:** any OS thread. The claim of the driver orders it with every other attempt.
        """
        self._check_ready()
        # Only for an error that says more than the claim's. It is checked again after the claim, which orders it.
        self._refuse_owner(owner, refusal)
        self._claim_driver()
        try:
            if self._driver.depth > 1:
                raise WrongThreadError(
                    f"{self!r} cannot be given to {describe(owner)} while it is entered or being polled"
                )
            self._refuse_owner(owner, refusal)
            if st_load32_acquire(&self.c.state) == THREAD_EXITED:
                raise ThreadExitedError(f"{self!r} cannot be given to {describe(owner)}")
            self._place(owner, owner if polls else None)
        except BaseException:
            self._release_driver()
            raise
        if polls:
            driver_to_reactor(&self._driver)
        else:
            self._release_driver()

    def _refuse_owner(self, owner, refusal):
        there = self._owned_by()
        if there is not None:
            raise refusal(f"{self!r} cannot be given to {describe(owner)}, it belongs to {describe(there)}")

    def _give_up(self, owner):
        """The owner no longer has the thread, and does nothing with it afterwards. Nothing for one that has it not."""
        if self._owned_by() is not owner:
            return
        polled = self._placed_on() is not None
        self._place(None, None)
        if polled:
            driver_from_reactor(&self._driver)

    # Inside: sending. What the upper layers send is listed in send.pxd.

    cdef int _send_one(self, object fn, object a) except -1:
        """`send_msg` of ``fn(a)``: RING_OK or why not."""
        cdef PyObject *arg = <PyObject *>a
        return send_msg(self, <PyObject *>fn, &arg, 1)

    cdef bint _post_now(self, object fn, tuple args) except -1:
        """`try_send_msg` of ``fn(*args)``."""
        cdef int verdict = send_msg(self, <PyObject *>fn, tuple_items(args), PyTuple_GET_SIZE(args))
        if verdict == RING_OK:
            return True
        if verdict != RING_FULL:
            self._refuse(verdict)
        return False

    cdef int _send_own(self, object fn, object a, uint64_t passes) except -1:
        """Send a message of the library's own, ``fn(a)``, which cannot fail for want of room."""
        cdef PyObject *arg = <PyObject *>a
        cdef int verdict = send_own(&self.c, MSG_PYTHON, <PyObject *>fn, &arg, 1, passes)
        if verdict != RING_OK:
            self._refuse(verdict)
        return 0

    cdef int _post(self, object fn, object a) except -1:
        """`_send_own`, also while the thread is being stopped."""
        return self._send_own(fn, a, RING_STOPPING)

    cdef int _send_lib(self, object fn, tuple args, uint64_t passes) except -1:
        """`_send_own` of ``fn(*args)``."""
        cdef PyObject *packed = <PyObject *>args
        cdef int verdict
        self._check_ready()
        verdict = send_own(&self.c, MSG_PYTHON_TUPLE, <PyObject *>fn, &packed, 1, passes)
        if verdict != RING_OK:
            self._refuse(verdict)
        return 0

    def _send_library_msg(self, fn, *args) -> None:
        """`_send_lib`, also while the thread is being stopped."""
        self._send_lib(fn, args, RING_STOPPING)

    cdef int _refuse(self, int verdict) except -1:
        """Raise what a refused send means."""
        return raise_refusal(&self.c, verdict)

    cdef int _check_ready(self) except -1:
        if not self._ready:
            raise SpdkThreadError("this SpdkThread was never initialised")
        return 0

    # Inside: pollers

    cdef Poller _new_poller(self, object period_us, object name, bint fixed_rate):
        cdef uint64_t period
        self._check_ready()
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, got {type(name).__name__}")
        period = period_to_ticks(period_us)
        if fixed_rate and period == 0:
            raise ValueError(f"fixed_rate needs a period: an active poller of {self!r} has no deadlines")
        return new_poller(self, name, period, fixed_rate, poller_request)

    cdef Poller _register(self, Poller poller):
        if self._is_here():
            poller_add(&self.c, poller)
        else:
            self._send_lib(self._add_poller, (poller,), 0)
        return poller

    def _add_poller(self, Poller poller not None):
        poller_add(&self.c, poller)

    cdef int _request(self, int what, Poller poller) except -1:
        """pause, resume or unregister: at once here, by a message from elsewhere."""
        if self._is_here():
            poller_act(&self.c, what, poller)
        elif st_load32_relaxed(&poller.c.state) != POLLER_UNREGISTERED:
            try:
                if not self._send_request(what, poller):
                    self._request_beside(what, poller)
            except ThreadExitedError:
                pass        # it has no pollers any more
        return 0

    cdef bint _send_request(self, int what, Poller poller) except -1:
        cdef tuple args = (what, poller)
        cdef object act = self._poller_act
        cdef PyObject *packed = <PyObject *>args
        return send_try(&self.c, MSG_PYTHON_TUPLE, <PyObject *>act, &packed, 1, RING_STOPPING) == RING_OK

    cdef int _request_beside(self, int what, Poller poller) except -1:
        """The ring is full: one request for each poller may wait in the overflow list, and the last request wins.

        Until it has run users' messages are refused, so no sender's order changes, and the list is no longer than the
        thread has pollers.
        """
        cdef object do_wanted = self._do_wanted
        cdef tuple args = (poller,)
        with requests_lock:
            # Both objects are made before: an allocation in here may run a destructor that asks for something else.
            if poller.wanted != POLLER_NOTHING:
                if poller.wanted != POLLER_UNREGISTER:
                    poller.wanted = what
                return 0
            self._send_lib(do_wanted, args, RING_STOPPING)
            poller.wanted = what
        return 0

    def _do_wanted(self, Poller poller not None):
        cdef int what
        with requests_lock:
            what = poller.wanted
            poller.wanted = POLLER_NOTHING
        if what != POLLER_NOTHING:
            poller_act(&self.c, what, poller)

    def _poller_act(self, int what, Poller poller not None):
        poller_act(&self.c, what, poller)

    # Inside: timers

    cdef object _start_timer(self, Timer timer, uint64_t delay):
        """Arm a new timer: at once here, by a message from elsewhere."""
        self._check_ready()
        timer.request = timer_cancel_request
        timer.c.deadline = clock_read(self.c.clock) + delay
        st_store_release(&timer.c.state, TIMER_PENDING)
        if self._is_here():
            self._add_timer(timer, delay == 0)
        else:
            self._send_own(add_timer, timer, 0)
        return timer

    cdef int _add_timer(self, Timer timer, bint next_poll) except -1:
        if st_load_relaxed(&timer.c.state) != TIMER_PENDING:
            return 0        # cancelled on its way
        if st_load32_relaxed(&self.c.state) == THREAD_EXITED:
            timer_claim(&timer.c, TIMER_CANCELLED)
            raise ThreadExitedError(f"{self!r} takes no timers any more")
        if not timers_ready(&self.c):
            timer_claim(&timer.c, TIMER_CANCELLED)
            raise MemoryError(f"no memory for the timers of {self!r}")
        list_timer(self._timers, timer)
        timer_add(&self.c, &timer.c, next_poll, clock_read(self.c.clock))
        return 0

    cdef int _drop_timer(self, Timer timer) except -1:
        """Take a cancelled timer out of the list and the queue."""
        if timer.list_position:
            timer_remove(&self.c, &timer.c)
            unlist_timer(self._timers, timer)
        return 0

    # Inside: file descriptors

    def _fd_add(self, FdHandler handler not None):
        self._fds.add(handler)

    def _fd_remove(self, FdHandler handler not None):
        self._fds.remove(handler)

    def _run_fds(self):
        """For the poll: call the handlers of what is ready now; how many were called."""
        return self._fds.run()

    def _mend_fds(self) -> bool:
        """For its reactor, between turns: a new set when other code has closed this one. Whether it had."""
        return self._fds.mend()

    # Inside: states

    cdef bint _is_here(self) noexcept:
        return current_thread() == &self.c

    cdef bint _has_active(self) noexcept:
        return self.c.active_count > <uint32_t>self.c.active_runs

    cdef int _require_here(self, str what) except -1:
        """Raise unless this thread is the current one."""
        cdef thread_s *current = current_thread()
        if current == &self.c:
            return 0
        if current == NULL:
            raise WrongThreadError(f"{what} belongs on {self!r}; this OS thread has no current SpdkThread")
        raise WrongThreadError(f"{what} belongs on {self!r}; the current one is {<object>current.owner!r}")

    def _check_here(self, what):
        """`_require_here` for the layers below."""
        self._require_here(what)

    def _is_driven_here(self) -> bool:
        """Whether the calling OS thread is the one that polls it."""
        reactor = self._reactor
        if reactor is not None:
            return reactor._is_driven_here()
        return driver_is_here(&self._driver)

    # As the `waiting.Producer` of the futures of its calls

    def _needed(self):
        return (self,)

    def _task_name(self):
        return f"thread {self.name!r}"

    def _reported_on(self):
        return self

    def _os_thread(self):
        """The number of the OS thread that polls it now; 0: none does."""
        reactor = self._placed_on()
        if reactor is not None:
            return reactor._os_thread()
        return st_load_relaxed(&self._driver.os_thread)

    def _polls_so_far(self):
        return self.c.polls

    def _exit_here(self):
        if st_load32_relaxed(&self.c.state) == THREAD_RUNNING:
            st_store32_release(&self.c.state, THREAD_EXITING)

    def _finish_exit(self):
        """At the end of a poll that found nothing left: become exited, unless a message came in at the last moment."""
        self._check_ready()
        if self._coroutines is not None and self._coroutines.close_generators():
            return
        if not st_casp_acq_rel(&self.c.critical, NULL, <void *>CRITICAL_CLOSED):
            return
        if not ring_close(self.c.ring):
            st_storep_release(&self.c.critical, NULL)
            return
        drop_garbage(&self.c)
        st_store32_release(&self.c.state, THREAD_EXITED)
        self.lib._remove_thread(self.id)
        if st_tracing():
            note_thread(self.c.trace_number, self.name, self.id)
        self._tell_repeats()

    def _tell_repeats(self):
        """Failures of this thread that were only counted since the log last said so."""
        if self.c.errors:
            self.lib.error_log.tell_repeats(self.id)

    # What keeps it. The upper layers call these on this thread only.

    def _hold(self, what, kind=BLOCKER_OPERATION):
        """Keep the thread from exiting, and its reactor from ending, while an iteration or a completion is under way.

        Twice for one object takes two `_let_go`.
        """
        self._blockers.add(kind, what)

    def _let_go(self, what, kind=BLOCKER_OPERATION):
        self._blockers.remove(kind, what)

    def _await(self, what):
        """As `_hold`, for what may never come: a reactor that stops does not wait for it."""
        self._blockers.add(BLOCKER_UNREGISTRATION, what)

    def _await_no_more(self, what):
        self._blockers.remove(BLOCKER_UNREGISTRATION, what)

    def _kept_by(self, kind):
        """In words."""
        return [str(what) for what in self._blockers.of_kind(kind)]

    def _awaited(self):
        """The unregistrations of `_await`, in words."""
        return self._kept_by(BLOCKER_UNREGISTRATION)

    def _waiting(self):
        """What was accepted and has not run, without taking it: for a report. Only while nothing polls."""
        self._check_ready()
        return [LeftoverMessage(self.name, name) for name in undelivered_names(&self.c)]

    def _die(self):
        """In the child of a fork: the OS thread that polled it is not here, and it takes nothing any more.

        What waits in it is left alone: it runs in the parent, and a lock inside it may be held by an OS thread that
        is not here.
        """
        self._check_ready()
        if self._dead:
            return              # its reactor or its library has called this before
        self._give_up(self._owned_by())
        self._dead = True
        self._fds.forget_parent()
        st_storep_release(&self.c.wakeup, NULL)
        st_storep_release(&self.c.critical, <void *>CRITICAL_CLOSED)
        ring_shut(self.c.ring)
        st_store32_release(&self.c.state, THREAD_EXITED)
        self.lib._remove_thread(self.id)

    def _after_fork(self):
        """In the child of a fork, for a thread on no reactor: its user may go on driving it there."""
        cdef uint64_t driver = st_load_acquire(&self._driver.os_thread)
        if driver != DRIVER_NONE and driver != PyThread_get_thread_ident():
            self._die()         # the OS thread that was in the middle of it is not here
        else:
            self._fds.leave_to_parent()

    def _abandon(self):
        """Drop what will never run, and say so. Returns the descriptions of the messages."""
        lost = []
        if self.c.ring == NULL or self._dead:
            return lost
        drop_garbage(&self.c)
        drop_undelivered(&self.c, lost)
        if self._coroutines is not None:
            try:
                self._coroutines.abandon()
            except BaseException as error:
                self.lib._report(
                    f"the coroutines of thread {self.name!r} could not all be closed", error, self, "fn", None
                )
            drop_undelivered(&self.c, lost)        # what they sent here while they were closed
        timers = self._abandon_timers()
        if timers:
            self.lib._count_lost(len(timers))
            logger.error("%r ended with %d timers that never ran: %s", self, len(timers), shorten(timers))
        if lost:
            self.lib._count_lost(len(lost))
            logger.error("%r ended with %d messages that never ran: %s", self, len(lost), shorten(lost))
        return lost

    def _abandon_timers(self):
        """Drop those that will never run; their names."""
        cdef Timer timer
        names = []
        for one in list(self._timers):
            timer = <Timer>one
            name = timer.name
            if timer_claim(&timer.c, TIMER_CANCELLED):
                names.append(name)
                timer.release()
            self._drop_timer(timer)
        return names

    cdef object _next_deadline(self, bint timers_too):
        """The earliest deadline of a timed poller, and of timers; None: there is none."""
        cdef uint64_t deadline
        cdef bint reads = False
        if timer_glance(&self.c.timers.count) == 0:
            return None
        if self._is_here() or driver_is_here(&self._driver) or (reads := driver_read_begin(&self._driver)):
            deadline = pollers_next(&self.c)
            if timers_too:
                deadline = min(deadline, timers_next(&self.c))
            if reads:
                driver_read_end(&self._driver)
        elif not timers_too and self.c.timed_count == 0:
            return None
        else:
            # The driver changes the queues meanwhile, so this OS thread must not walk through them.
            deadline = timer_glance(&self.c.timers.next_check)
        return None if deadline == TIMER_NEVER else deadline

    # Attributes that one OS thread writes while others read: a load and its reference must be one step.

    def _set_mask(self, mask):
        with cython.critical_section(self):
            self._cpumask = mask

    def _place(self, owner, reactor):
        """Say which reactor or loop it belongs to, and which reactor polls it."""
        with cython.critical_section(self):
            self._owner = owner
            self._reactor = reactor

    def _owned_by(self):
        """The Reactor or EventLoop that it belongs to, or None."""
        with cython.critical_section(self):
            return self._owner

    def _placed_on(self):
        """The reactor that polls it, or None."""
        with cython.critical_section(self):
            return self._reactor

    def _trace_number(self) -> int:
        """What stands for it in the records of a trace."""
        return self.c.trace_number

    def _running_name(self):
        """For the watchdog: the callback that runs now. The GIL keeps it alive while this looks."""
        cdef ring_slot *message
        if self.c.running != NULL:
            for poller in list(self._pollers):
                if &(<Poller>poller).c == self.c.running:
                    return f"poller {poller.name!r}"
            return "a poller"
        if HAS_GIL and self._fds.running is not None:
            return f"handler {self._fds.running.name!r} of fd {self._fds.running.fd}"
        if self.c.stage == STAGE_TIMED:
            if HAS_GIL and self.c.timer_fn != NULL:
                return f"timer {describe(<object>self.c.timer_fn)!r}"
            return "a timer"
        if self.c.stage == STAGE_FDS or self.c.stage == STAGE_ACTIVE:
            return "a file descriptor's handler"
        if HAS_GIL and self.c.critical_fn != NULL:
            return f"critical message {describe(<object>self.c.critical_fn)!r}"
        if HAS_GIL and self.c.stage == STAGE_MESSAGES and 0 < self.c.batch_next <= self.c.batch_count:
            message = &self.c.batch[self.c.batch_next - 1]
            if message.kind == MSG_NATIVE:
                return "a native message"
            if message.fn != NULL:
                return f"message {message_name(message)!r}"
        return "a message"


cdef int poller_request(Poller poller, int what) except -1:
    """`Poller.request`: poller.pyx is in a lower layer than the thread."""
    return (<ThreadBase>poller.thread)._request(what, poller)


# `Timer.request`: call_later.pyx is in a lower layer than the thread. And the messages about timers.

cdef bint timer_cancel_request(Timer timer) except -1:
    cdef ThreadBase thread = <ThreadBase>timer.thread
    if not timer_claim(&timer.c, TIMER_CANCELLED):
        return False
    # Of a run and any number of cancels one alone gets here, so nothing else drops function and arguments.
    timer.release()
    if thread._is_here():
        thread._drop_timer(timer)
    else:
        try:
            thread._send_own(drop_timer, timer, RING_STOPPING)
        except ThreadExitedError:
            pass        # it has no timers any more
    return True


def add_timer_message(Timer timer not None):
    """`call_later` from elsewhere."""
    (<ThreadBase>timer.thread)._add_timer(timer, False)


def drop_timer_message(Timer timer not None):
    """`Timer.cancel` from elsewhere."""
    (<ThreadBase>timer.thread)._drop_timer(timer)


cdef object add_timer = add_timer_message
cdef object drop_timer = drop_timer_message


cdef tuple pack(PyObject *const *args, Py_ssize_t count):
    return tuple([<object>args[index] for index in range(count)])


cdef int send_packed(ThreadBase self, PyObject *fn, PyObject *const *args, Py_ssize_t count) except -1:
    """`send_msg` with more arguments than a slot holds: they go in a tuple."""
    cdef tuple many = pack(args, count)
    cdef PyObject *packed = <PyObject *>many
    self._check_ready()
    return send_call(&self.c, MSG_PYTHON_TUPLE, fn, &packed, 1)


cdef str shorten(list names):
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


# The ring is C memory, so its references are shown to the garbage collector here, and only of a thread that no reactor
# polls: the ring of another one moves meanwhile. A cycle through a ring that is not shown is not collected.

# The collector calls this: no tracer may.
@cython.profile(False)
@cython.linetrace(False)
cdef int traverse(PyObject *owner, st_visitproc visit, void *arg) noexcept:
    cdef thread_s *thread = &(<ThreadBase>owner).c
    cdef int stop = st_call_base_traverse(owner, visit, arg)
    if stop or thread.ring == NULL or (<ThreadBase>owner)._reactor is not None or thread.polling:
        return stop
    return visit_undelivered(thread, visit, arg)


st_replace_traverse(<PyObject *>ThreadBase, traverse)

trace_enrol(&st_trace_word)
