"""SpdkFuture: a `concurrent.futures.Future` that makes its lock at the first wait. See ``future.pxd``."""

import logging
import weakref

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_exchange32,
    st_load32_acquire,
    st_load32_relaxed,
    st_store32_relaxed,
    st_store32_release,
)
from spdkthread.cpython_ext cimport HAS_GIL, PyContext_Enter, PyContext_Exit, PyThread_get_thread_ident
from spdkthread.forks cimport fork_generation, spin_lock, spin_unlock
from spdkthread.late cimport LATE_AWAIT_FUTURE, late
from spdkthread.trace_ring cimport trace_name_argument

from spdkthread.error_log import describe
from spdkthread.errors import AwaitError, ThreadExitedError, WrongThreadError
from spdkthread.undelivered import special_message
from spdkthread.waiting import awaited_producers, keep_waiting

__all__ = ["FutureCore", "future_class", "make_future", "run_call"]

cdef extern from *:
    """
    /* An instance without its __init__, which for a future would make a lock. */
    static inline PyObject *st_bare_instance(PyObject *type, PyObject *no_args) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, no_args, NULL);
    }
    """
    object st_bare_instance(object type, object no_args)

cdef tuple NO_ARGS = ()

# Of concurrent.futures, from the first future on.
cdef object the_class = None
cdef object CancelledError = None
cdef object InvalidStateError = None
cdef object LOGGER = None

cdef dict waits = awaited_producers

# How long a wait goes on before it looks at whether what it waits for can come.
cdef double FIRST_LOOK_S = 0.5

logger = logging.getLogger("spdkthread")

STATES = ("PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED")
WORDS = ("pending", "running", "cancelled", "cancelled", "finished")


cdef class FutureCore:
    """FutureCore()\n--\n\n\
    The state and the methods of an `SpdkFuture`. Not a `concurrent.futures.Future` by itself.

    Notes
    -----
    **Thread safety:** every method from any OS thread.
    """

    def __init__(self):
        """Not called for futures that the library makes; nothing to do for others."""
        load()

    def __repr__(self):
        cdef uint32_t state = st_load32_acquire(&self.state)
        text = f"<{type(self).__name__} at {id(self):#x} state={WORDS[state]}"
        if state == FUTURE_FINISHED:
            text += f" {'raised' if self.failed else 'returned'} {type(self.value).__name__}"
        return text + ">"

    def __await__(self):
        """Wait for the result: in a coroutine spawned on an SpdkThread, or under asyncio.

        By one coroutine at a time: `AwaitError` for a second one that awaits it meanwhile. When it is done it may be
        awaited again, by any, and gives its outcome at once. An outcome that is a StopIteration arrives as the cause of
        a RuntimeError. Under another framework: `AwaitError`.
        """
        return late(LATE_AWAIT_FUTURE)(self)

    def cancel(self) -> bool:
        """Cancel it, unless it has begun: then it never runs.

        Returns
        -------
        bool
            False when it runs or has run.
        """
        return self.try_cancel()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        cdef uint32_t state = st_load32_acquire(&self.state)
        return state == FUTURE_CANCELLED or state == FUTURE_NOTIFIED

    def running(self) -> bool:
        """Whether it runs now."""
        return st_load32_acquire(&self.state) == FUTURE_RUNNING

    def done(self) -> bool:
        """Whether it was cancelled or has run."""
        return self.is_done()

    def add_done_callback(self, fn) -> None:
        """Have ``fn(future)`` called when it is done, at once when it is, on whatever OS thread that happens."""
        cdef list several = None
        while True:
            guard(self)
            if self.is_done():
                unguard(self)
                break
            if self.callbacks is None:
                self.callbacks = fn
                unguard(self)
                return
            if type(self.callbacks) is list:
                (<list>self.callbacks).append(fn)
                unguard(self)
                return
            if several is not None:
                several[0] = self.callbacks
                self.callbacks = several
                unguard(self)
                return
            # Made outside the guard: making a list may collect garbage, which may run anything.
            unguard(self)
            several = [None, fn]
        self.call_back(fn)

    def result(self, timeout=None):
        """Return the result, after waiting for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most. None: for ever.

        Raises
        ------
        concurrent.futures.CancelledError
            When it was cancelled.
        TimeoutError
            When it was not done in that time.
        WrongThreadError
            When it is not done and the calling OS thread is the one that has to produce the result.
        BaseException
            Whatever the call raised.
        """
        if not self.is_done():
            self.await_outcome(timeout)
        return self.outcome()

    def exception(self, timeout=None):
        """Return the exception that the call raised, or None, after waiting for it. Raises as `result`."""
        if not self.is_done():
            self.await_outcome(timeout)
        if st_load32_acquire(&self.state) != FUTURE_FINISHED:
            raise CancelledError()
        self.retrieve()
        return self.value if self.failed else None

    # For the code that runs the work

    def set_running_or_notify_cancel(self) -> bool:
        """Begin, unless it was cancelled: then False, and waits for it end."""
        return self.start()

    def set_result(self, result) -> None:
        """Finish with a result."""
        self.settle(FUTURE_FINISHED, result, False)

    def set_exception(self, exception) -> None:
        """Finish with an exception."""
        self.settle(FUTURE_FINISHED, exception, exception is not None)

    # What concurrent.futures.wait, as_completed and others of the standard library touch

    @property
    def _condition(self):
        return self.make_condition()

    @property
    def _state(self):
        return STATES[st_load32_acquire(&self.state)]

    @property
    def _waiters(self):
        self.check_wait()
        if self.waiters is None:
            self.waiters = []       # its users hold the condition
        return self.waiters

    @property
    def _result(self):
        return None if self.failed else self.value

    @property
    def _exception(self):
        return self.value if self.failed else None

    # Inside

    cdef int settle(self, uint32_t state, object value, bint failed) except -1:
        """Reach a state in which it is done, end the waits and call the callbacks."""
        cdef object callbacks
        self.after_fork()
        if failed and self.unretrieved is None:
            self.note_failure(value, None)
        guard(self)
        if self.condition is None:
            if self.is_done():
                unguard(self)
                self.refuse()
            self.value = value
            self.failed = failed
            st_store32_release(&self.state, state)
            callbacks = self.callbacks
            self.callbacks = None
            unguard(self)
        else:
            unguard(self)
            with self.condition:
                if self.is_done():
                    self.refuse()
                guard(self)
                self.value = value
                self.failed = failed
                st_store32_release(&self.state, state)
                callbacks = self.callbacks
                self.callbacks = None
                unguard(self)
                if self.waiters is not None:
                    for waiter in self.waiters:
                        if state != FUTURE_FINISHED:
                            waiter.add_cancelled(self)
                        elif failed:
                            waiter.add_exception(self)
                        else:
                            waiter.add_result(self)
                self.condition.notify_all()
        if callbacks is not None:
            self.call_back(callbacks)
        return 0

    cdef bint start(self) except -1:
        cdef object condition
        self.after_fork()
        if self.shift(FUTURE_PENDING, FUTURE_RUNNING):
            return True
        if st_load32_acquire(&self.state) == FUTURE_CANCELLED:
            condition = self.condition
            if condition is None and self.shift(FUTURE_CANCELLED, FUTURE_NOTIFIED):
                return False
            with self.condition:
                st_store32_release(&self.state, FUTURE_NOTIFIED)
                if self.waiters is not None:
                    for waiter in self.waiters:
                        waiter.add_cancelled(self)
            return False
        LOGGER.critical("Future %s in unexpected state: %s", id(self), self._state)
        raise InvalidStateError("Future in unexpected state")

    cdef bint try_cancel(self) except -1:
        cdef object callbacks = None
        self.after_fork()
        guard(self)
        if self.condition is None:
            if st_load32_relaxed(&self.state) == FUTURE_PENDING:
                st_store32_release(&self.state, FUTURE_CANCELLED)
                callbacks = self.callbacks
                self.callbacks = None
                unguard(self)
                if callbacks is not None:
                    self.call_back(callbacks)
                return True
            unguard(self)
        else:
            unguard(self)
            with self.condition:
                if st_load32_relaxed(&self.state) == FUTURE_PENDING:
                    guard(self)
                    st_store32_release(&self.state, FUTURE_CANCELLED)
                    callbacks = self.callbacks
                    self.callbacks = None
                    unguard(self)
                    self.condition.notify_all()
            if callbacks is not None:
                self.call_back(callbacks)
        return self.cancelled()

    cdef bint shift(self, uint32_t before, uint32_t after) noexcept:
        """From one state to another where that needs no condition; False when `before` is not the state.

        It needs none before the first wait, and none to RUNNING, which no wait is for.
        """
        cdef bint done = False
        guard(self)
        if st_load32_relaxed(&self.state) == before and (self.condition is None or after == FUTURE_RUNNING):
            st_store32_release(&self.state, after)
            done = True
        unguard(self)
        return done

    cdef object outcome(self):
        if st_load32_acquire(&self.state) != FUTURE_FINISHED:
            raise CancelledError()
        if self.failed:
            self.retrieve()
            raise self.value
        return self.value

    cdef int note_failure(self, object error, object fn) except -1:
        """Before it is settled: should the exception never be retrieved, this says so when the future is dropped."""
        cdef Unretrieved mine = Unretrieved.__new__(Unretrieved)
        producer = None if self.producer is None else self.producer()
        mine.error = error
        mine.fn = fn
        if producer is not None:
            mine.what = producer._task_name()
            # None in a thread that the collector is just taking apart.
            mine.lib = None if producer.lib is None else weakref.ref(producer.lib)
            mine.thread = self.producer
        self.unretrieved = mine
        return 0

    cdef int fail(self, object error, object fn) except -1:
        """Finish with what `fn` raised, which is reported if nothing ever retrieves it."""
        self.note_failure(error, fn)
        self.settle(FUTURE_FINISHED, error, True)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.retrieve()         # it leaves the poll
        return 0

    cdef void retrieve(self) noexcept:
        """The exception is retrieved, or was reported otherwise."""
        cdef Unretrieved mine = self.unretrieved
        if mine is not None:
            mine.retrieved = True
            self.unretrieved = None

    def _never_ran(self, why):
        """The thread that had to produce the result has ended, which is reported where that happens."""
        if st_load32_acquire(&self.state) == FUTURE_RUNNING or self.start():
            self.settle(FUTURE_FINISHED, ThreadExitedError(why), True)
            self.retrieve()

    def _settle_orphan(self, why):
        """Nothing can produce the result any more."""
        if not self.is_done():
            try:
                self.settle(FUTURE_FINISHED, ThreadExitedError(why), True)
            except InvalidStateError:
                pass        # it was settled at the last moment

    cdef int after_fork(self) except -1:
        """In the child of a fork: the OS threads that waited are not here, and one may have held the condition."""
        if self.made_after != fork_generation and self.condition is not None:
            self.condition = None
            self.waiters = None
        return 0

    cdef object make_condition(self):
        self.after_fork()
        if self.condition is None:
            import threading

            fresh = threading.Condition()
            guard(self)
            if self.condition is None:
                self.made_after = fork_generation
                self.condition = fresh
            unguard(self)
        return self.condition

    cdef int await_outcome(self, object timeout) except -1:
        cdef object condition, outer
        cdef uint64_t me
        if timeout is not None and timeout <= 0:
            raise TimeoutError(f"{self!r} is not done")
        self.check_wait()
        condition = self.make_condition()
        me = PyThread_get_thread_ident()
        outer = waits.get(me)
        waits[me] = self.producer
        try:
            with condition:
                if not self.is_done():
                    condition.wait(FIRST_LOOK_S if timeout is None or timeout > FIRST_LOOK_S else timeout)
            if not self.is_done():
                keep_waiting(self, self.producer, condition, FIRST_LOOK_S, timeout)
        finally:
            if outer is None:
                waits.pop(me, None)
            else:
                waits[me] = outer
        return 0

    def check_wait(self):
        """Raise where waiting would hold up the OS thread that has to produce the result."""
        producer = None if self.producer is None or self.is_done() else self.producer()
        if producer is None:
            return
        for one in producer._needed():
            if one._is_driven_here() and not self.is_done():
                raise WrongThreadError(
                    f"waiting for {self!r} here would stop {one!r}, which has to produce its result: this is "
                    "the OS thread that polls it"
                )

    def refuse(self):
        raise InvalidStateError(f"{self._state}: {self!r}")

    cdef int call_back(self, object callbacks) except -1:
        cdef object first = None
        if type(callbacks) is list:
            # One that raises KeyboardInterrupt keeps none of the others from hearing.
            for callback in callbacks:
                try:
                    self.call_back(callback)
                except BaseException as error:
                    first = error if first is None else first
            if first is not None:
                raise first
            return 0
        try:
            callbacks(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)
        return 0

    cdef int claim(self) except -1:
        """A coroutine begins to wait for it. One does at a time, as with any other awaitable."""
        if st_exchange32(&self.awaited, 1):
            raise AwaitError(
                f"{self!r} is awaited by another coroutine already: an awaitable serves one at a time; the others may "
                "await it when it is done, or use add_done_callback"
            )
        return 0

    cdef int unclaim(self) except -1:
        st_store32_release(&self.awaited, 0)
        return 0


cdef class Unretrieved:

    def __del__(self):
        if self.retrieved:
            return
        lib = None if self.lib is None else self.lib()
        if self.fn is not None:
            what = f"{describe(self.fn)} on {self.what}" if self.what is not None else describe(self.fn)
        else:
            what = self.what if self.what is not None else "the call of a future"
        message = f"{what} failed and its exception was never retrieved"
        if lib is None:
            logger.error("%s: %r", message, self.error)
        else:
            producer = self.thread()
            lib._report(message, self.error, None if producer is None else producer._reported_on(), "fn", self.fn)


cdef inline void guard(FutureCore future) noexcept:
    if not HAS_GIL:
        spin_lock(&future.lock)


cdef inline void unguard(FutureCore future) noexcept:
    if not HAS_GIL:
        spin_unlock(&future.lock)


cdef int load() except -1:
    """Import concurrent.futures and make the class that is a Future and a FutureCore."""
    global the_class, CancelledError, InvalidStateError, LOGGER
    if the_class is not None:
        return 0
    from concurrent.futures import _base

    CancelledError = _base.CancelledError
    InvalidStateError = _base.InvalidStateError
    LOGGER = _base.LOGGER
    the_class = mixed("SpdkFuture", FutureCore, "A `concurrent.futures.Future` of a call on an `SpdkThread`.")
    return 0


def mixed(name, core, doc):
    """The class that has `core`'s methods and is a `concurrent.futures.Future`."""
    from concurrent.futures import Future

    return type(name, (core, Future), {"__slots__": (), "__module__": __name__, "__doc__": doc})


cdef FutureCore new_future(object producer):
    """A pending SpdkFuture. `producer`: a weak reference to what has to produce the result, or None."""
    if the_class is None:
        load()
    return new_future_of(the_class, producer)


cdef FutureCore new_future_of(type cls, object producer):
    cdef FutureCore future = <FutureCore>st_bare_instance(cls, NO_ARGS)
    future.producer = producer
    return future


cdef object error_for_await(object error):
    """`error` as it may leave an await: a StopIteration would be taken for the result of what was awaited."""
    if not isinstance(error, StopIteration):
        return error
    # The wording is asyncio's own.
    stopped = RuntimeError("StopIteration interacts badly with generators and cannot be raised into a Future")
    stopped.__cause__ = error
    return stopped


def future_class() -> type:
    """SpdkFuture, a subclass of `concurrent.futures.Future`. **Thread safety:** any OS thread."""
    load()
    return the_class


def make_future(producer=None, running=False):
    """A new SpdkFuture.

    Parameters
    ----------
    producer : SpdkThread or `waiting.Producer`, optional
        What has to produce the result, not kept alive: waiting on the OS thread that polls it raises
        `WrongThreadError`.
    running : bool, default False
        It has begun and cannot be cancelled any more.

    Notes
    -----
    **Thread safety:** any OS thread.
    """
    cdef FutureCore future = new_future(None if producer is None else weakref.ref(producer))
    if running:
        st_store32_relaxed(&future.state, FUTURE_RUNNING)
    return future


cdef int run_and_settle(FutureCore future, object fn, tuple args, dict kwargs, object context) except -1:
    """Run a call, unless it was cancelled, and settle its future. `context`: where it runs; None: the current one."""
    if not future.start():
        return 0
    try:
        if context is not None:
            result = call_inside(context, fn, args)
        elif kwargs is None:
            result = fn(*args)
        else:
            result = fn(*args, **kwargs)
    except BaseException as error:
        future.fail(error, fn)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
    else:
        future.settle(FUTURE_FINISHED, result, False)
    return 0


cdef object call_inside(object context, object fn, tuple args):
    PyContext_Enter(context)
    try:
        return fn(*args)
    finally:
        PyContext_Exit(context)


def run_call(FutureCore future not None, fn, tuple args, dict kwargs=None):
    """The message of `SpdkThread.call` and of an executor."""
    run_and_settle(future, fn, args, kwargs, None)


def name_of_call(args):
    return describe(args[1])


def drop_call(args, why):
    """It never ran: its thread has ended."""
    args[0]._never_ran(why)


special_message(run_call, name_of_call, drop_call)
trace_name_argument(run_call)
