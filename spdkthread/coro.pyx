"""Coroutines on an SpdkThread. See ``coro.pxd``."""

import inspect
from collections.abc import Coroutine as CoroutineABC

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_load32_acquire, st_store32_relaxed
from spdkthread.clock cimport clock_read, period_to_ticks
from spdkthread.future cimport (
    FUTURE_FINISHED,
    FUTURE_NOTIFIED,
    FUTURE_RUNNING,
    FutureCore,
    new_future_of,
)
from spdkthread.poller cimport POLLER_WAITING
from spdkthread.ring cimport RING_OK
from spdkthread.thread cimport SpdkThread
from spdkthread.timers cimport (
    TIMER_NEVER,
    timer_cancel,
    timer_insert,
    timer_next_deadline,
    timer_node,
    timer_pop,
    timer_queue_free,
    timer_queue_init,
)

from spdkthread.errors import AwaitError, ThreadExitedError
from spdkthread.exit_blockers import register_blocker
from spdkthread.future import mixed
from spdkthread.messages import special_message

__all__ = ["fd_ready", "sleep_us", "spawn", "switch_to"]

cdef extern from *:
    """
    /* The coroutine that runs on this OS thread, borrowed. Only this module reads and writes it. */
    static _Thread_local void *st_current_coroutine = NULL;
    """
    void *st_current_coroutine
    int PyGen_NEXT "PYGEN_NEXT"
    int PyGen_RETURN "PYGEN_RETURN"
    int PyIter_Send(object iterator, object value, PyObject **result) except? -1
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()

# Sleepers whose time has come that are resumed in one poll; the others follow in the next one.
cdef int SLEEPERS_AT_ONCE = 64

cdef object CANCELLED = None        # asyncio.CancelledError, once something is cancelled


cdef object cancelled_error():
    global CANCELLED
    if CANCELLED is None:
        from asyncio import CancelledError

        CANCELLED = CancelledError
    return CANCELLED


cdef bint in_coroutine() noexcept:
    """Whether a spawned coroutine is running on this OS thread."""
    return st_current_coroutine != NULL


cdef str name_of(object coro):
    return getattr(coro, "__qualname__", None) or type(coro).__qualname__


# Spawning

cdef class CoroutineFutureCore(FutureCore):
    """The future of a spawned coroutine: cancelling it also works while the coroutine runs."""

    cdef Coroutine coroutine

    def cancel(self) -> bool:
        """Cancel the coroutine: `asyncio.CancelledError` is thrown into it where it waits.

        On the coroutine's own thread it acts at once, from elsewhere by a message. It is cancelled when the coroutine
        has ended by that; one that catches the error goes on.

        Returns
        -------
        bool
            False when the coroutine has ended already.
        """
        cdef Coroutine coroutine
        if self.try_cancel():
            return True
        coroutine = self.coroutine
        if coroutine is None or self.is_done():
            return False
        if not coroutine.home._is_here() or coroutine.running:
            try:
                coroutine.home._post(cancel_here, coroutine)
            except ThreadExitedError:
                return False
        else:
            cancel_here(coroutine)
        return True

    cdef int settle(self, uint32_t state, object value, bint failed) except -1:
        self.coroutine = None
        return FutureCore.settle(self, state, value, failed)


cdef object future_class = None


def spawn(SpdkThread thread not None, coro):
    """See `SpdkThread.spawn`."""
    global future_class
    cdef Coroutine coroutine
    cdef CoroutineFutureCore future
    cdef int verdict
    if not (inspect.iscoroutine(coro) or isinstance(coro, CoroutineABC)):
        raise TypeError(f"spawn on {thread!r} needs a coroutine, got {type(coro).__name__}")
    if future_class is None:
        future_class = mixed("CoroutineFuture", CoroutineFutureCore, CoroutineFutureCore.__doc__)
    future = <CoroutineFutureCore>new_future_of(future_class, thread._weak)
    coroutine = Coroutine.__new__(Coroutine)
    coroutine.coro = coro
    coroutine.context = PyContext_CopyCurrent()
    coroutine.future = future
    coroutine.home = thread
    future.coroutine = coroutine
    verdict = thread._send_one(begin_coroutine, coroutine)
    if verdict != RING_OK:
        coroutine.future = None
        future.coroutine = None
        thread._refuse(verdict)
    return future


def begin_coroutine(Coroutine coroutine not None):
    """The message that spawns."""
    if not coroutine.future.start():
        coroutine.coro.close()      # cancelled before it ran: it never runs
        return
    coroutine.settle_in()
    coroutine.step()


def resume(Suspension suspension not None):
    """The message that ends a wait."""
    cdef Coroutine coroutine = suspension.coroutine
    if coroutine is not None and coroutine.waiting is suspension:
        coroutine.waiting = None
        if not coroutine.settled:
            coroutine.settle_in()
        coroutine.step()


def cancel_here(Coroutine coroutine not None):
    """On the coroutine's thread: throw the cancellation into it; elsewhere: follow it there."""
    if coroutine.future.is_done():
        return
    if not coroutine.home._is_here():
        coroutine.home._post(cancel_here, coroutine)
    else:
        coroutine.interrupt(cancelled_error()())


def name_of_coroutine(args):
    coroutine = args[0]
    if isinstance(coroutine, Suspension):
        coroutine = (<Suspension>coroutine).coroutine
    return "coroutine" if coroutine is None else repr(coroutine)


def drop_coroutine(args, why):
    """Its thread has ended: so has the coroutine."""
    coroutine = args[0]
    if isinstance(coroutine, Suspension):
        coroutine = (<Suspension>coroutine).coroutine
    if coroutine is not None:
        (<Coroutine>coroutine).abandon(why)


def drop_nothing(args, why):
    pass


special_message(begin_coroutine, name_of_coroutine, drop_coroutine)
special_message(resume, name_of_coroutine, drop_coroutine)
special_message(cancel_here, name_of_coroutine, drop_nothing)


cdef class Coroutine:
    """A coroutine on an SpdkThread."""

    def __repr__(self):
        return f"<coroutine {name_of(self.coro)} of {self.home.name!r}>"

    def __del__(self):
        self.abandon(f"{name_of(self.coro)} never ended: its thread has ended")

    @property
    def name(self):
        """The coroutine function's name."""
        return name_of(self.coro)

    def abandon(self, why):
        """It will never run on."""
        cdef FutureCore future = self.future
        cdef Suspension waiting = self.waiting
        if self.running:
            return
        self.future = None
        self.waiting = None
        if waiting is not None and not isinstance(waiting, FdWait):     # the set of descriptors ends with the thread
            waiting.withdraw()
        self.move_out()
        if future is None or future.is_done():
            return
        if st_load32_acquire(&future.state) != FUTURE_RUNNING:
            future.start()
        if not future.is_done():
            future.settle(FUTURE_FINISHED, ThreadExitedError(why), True)
            future.retrieve()       # the end of the thread is reported where it happens
        self.coro.close()

    cdef int settle_in(self) except -1:
        """On the thread that it has come to."""
        cdef CoroutineHome home = home_of(self.home)
        home.coroutines[self] = None
        self.home.c.kept += 1
        self.settled = True
        self.future.producer = self.home._weak
        return 0

    cdef int move_out(self) except -1:
        if self.settled:
            self.settled = False
            del home_of(self.home).coroutines[self]
            self.home.c.kept -= 1
        return 0

    cdef int step(self) except -1:
        """Run on, up to the next wait. On its thread."""
        cdef Switch leaving
        while True:
            self.run_on()
            leaving = <Switch>self.leaving
            if leaving is None:
                return 0
            self.leaving = None
            # Sent when nothing of it runs here any more: it may run there at once, and is not ours to look at then.
            if leaving.depart(self):
                return 0

    cdef int run_on(self) except -1:
        cdef PyObject *raw
        cdef object handed_out
        cdef object error
        cdef void *outer = outer_coroutine()
        cdef int state
        self.running = True
        PyContext_Enter(self.context)
        set_current_coroutine(<void *><PyObject *>self)
        try:
            while True:
                try:
                    if self.throwing is None:
                        raw = NULL
                        state = PyIter_Send(self.coro, None, &raw)
                        handed_out = <object>raw
                        Py_XDECREF(raw)
                        if state == PyGen_RETURN:
                            self.end(handed_out, None)
                            return 0
                    else:
                        error = self.throwing
                        self.throwing = None
                        handed_out = self.coro.throw(error)
                except StopIteration as stop:       # from throw
                    self.end(stop.value, None)
                    return 0
                except BaseException as failure:
                    self.end(None, failure)
                    if isinstance(failure, (KeyboardInterrupt, SystemExit)):
                        raise
                    return 0
                if self.throwing is not None:
                    continue                        # it was cancelled while it ran
                try:
                    if isinstance(handed_out, Suspension):
                        if self.suspend_on(<Suspension>handed_out):
                            return 0
                    elif handed_out is None:
                        if self.suspend_on(Suspension.__new__(Suspension)):
                            return 0
                    else:
                        self.throwing = foreign(self, handed_out)
                except Exception as refused:
                    self.waiting = None
                    self.throwing = refused
        finally:
            set_current_coroutine(outer)
            PyContext_Exit(self.context)
            self.running = False

    cdef bint suspend_on(self, Suspension suspension) except -1:
        """Begin to wait; False when there is nothing to wait for."""
        suspension.coroutine = self
        self.waiting = suspension
        if suspension.begin(self):
            return True
        self.waiting = None
        return False

    cdef int interrupt(self, object error) except -1:
        """On its thread: raise `error` in it, where it waits or will wait next."""
        cdef Suspension waiting = self.waiting
        self.throwing = error
        if waiting is None or self.running or not self.settled:
            return 0                # it runs, or is on its way: delivered at its next wait, or at its arrival
        self.waiting = None
        waiting.withdraw()
        self.step()
        return 0

    cdef int end(self, object value, object error) except -1:
        cdef FutureCore future = self.future
        self.move_out()
        self.future = None
        self.waiting = None
        if error is None:
            future.settle(FUTURE_FINISHED, value, False)
        elif isinstance(error, cancelled_error()):
            future.settle(FUTURE_NOTIFIED, None, False)
        else:
            future.note_failure(error, self.coro)
            future.settle(FUTURE_FINISHED, error, True)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                future.retrieve()       # it is raised on
        return 0


cdef inline void *outer_coroutine() noexcept:
    return st_current_coroutine


cdef inline void set_current_coroutine(void *coroutine) noexcept:
    global st_current_coroutine
    st_current_coroutine = coroutine


cdef object foreign(Coroutine coroutine, object awaited):
    """Why something of another framework cannot be awaited."""
    if hasattr(awaited, "_asyncio_future_blocking"):
        awaited._asyncio_future_blocking = False
        return AwaitError(
            f"{coroutine!r} awaited {awaited!r} of asyncio, whose loop does not run here: await what spdkthread.aio "
            "has, a future from call() or spawn(), or have the coroutine run by an aio.EventLoop"
        )
    return AwaitError(f"{coroutine!r} awaited {awaited!r}, which is nothing that an SpdkThread can wait for")


# Waiting

cdef class Suspension:
    """Something that a coroutine waits for. By itself: its next turn, behind the messages that wait already."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.stage == 0:
            self.stage = 1
            if st_current_coroutine == NULL:
                raise AwaitError(
                    f"{type(self).__name__.lower()} belongs in a coroutine that was spawned on an SpdkThread; under "
                    "asyncio await asyncio's own"
                )
            return self
        if self.stage == 2:
            raise AwaitError("this was awaited already")
        self.stage = 2
        self.coroutine = None
        if self.error is not None:
            raise self.error
        result = self.outcome()
        if result is not None:
            raise StopIteration(result)
        raise StopIteration

    cdef bint begin(self, Coroutine coroutine) except -1:
        """Arrange for `resume`; False when there is nothing to wait for."""
        coroutine.home._post(resume, self)
        return True

    cdef int withdraw(self) except -1:
        """The coroutine does not wait any more: undo what `begin` arranged."""
        return 0

    cdef object outcome(self):
        return None


cdef class Sleep(Suspension):
    cdef sleep_node c
    cdef uint64_t ticks

    cdef bint begin(self, Coroutine coroutine) except -1:
        cdef uint64_t now
        cdef CoroutineHome home
        if self.ticks == 0:
            coroutine.home._post(resume, self)
            return True
        home = home_of(coroutine.home)
        now = clock_read(coroutine.home.c.clock)
        timer_queue_init(&home.timers)
        self.c.sleep = <void *><PyObject *>self
        timer_insert(&home.timers, &self.c.node, now + self.ticks, now)
        try:
            home.set_alarm(now + self.ticks, now)
        except BaseException:
            timer_cancel(&home.timers, &self.c.node)    # out of memory; the node goes with this object
            raise
        return True

    cdef int withdraw(self) except -1:
        if self.c.node.queued:
            timer_cancel(&home_of(self.coroutine.home).timers, &self.c.node)
        return 0


cdef class Switch(Suspension):
    cdef SpdkThread target

    cdef bint begin(self, Coroutine coroutine) except -1:
        if self.target is coroutine.home:
            return False
        coroutine.leaving = self
        return True

    cdef bint depart(self, Coroutine coroutine) except -1:
        """False: it stays, and hears why when it runs on."""
        cdef SpdkThread source = coroutine.home
        coroutine.move_out()
        coroutine.home = self.target
        try:
            self.target._post(resume, self)
        except Exception as refused:
            coroutine.home = source
            coroutine.settle_in()
            coroutine.waiting = None
            coroutine.throwing = refused
            return False
        return True


cdef class FdWait(Suspension):
    cdef object fd
    cdef str events
    cdef object handler

    cdef bint begin(self, Coroutine coroutine) except -1:
        self.handler = coroutine.home.register_fd(self.fd, self.ready, self.events, name=name_of(coroutine.coro))
        return True

    def ready(self):
        self.withdraw()
        resume(self)

    cdef int withdraw(self) except -1:
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.unregister()
        return 0


cdef class FutureWait(Suspension):
    cdef FutureCore future
    cdef SpdkThread home            # where the coroutine waits, for the OS thread that settles the future

    cdef bint begin(self, Coroutine coroutine) except -1:
        if self.future.is_done():
            return False
        self.home = coroutine.home
        self.future.add_done_callback(self)
        return True

    def __call__(self, future):
        try:
            self.home._post(resume, self)
        except ThreadExitedError:
            pass                    # it has been abandoned with its thread

    cdef int withdraw(self) except -1:
        self.future.cancel()
        return 0

    cdef object outcome(self):
        # Whatever it is: a tuple or an exception would not survive being put into a bare StopIteration.
        future, self.future = self.future, None
        return future.outcome()


def await_future(FutureCore future not None):
    """What ``await future`` does, in a spawned coroutine or under asyncio."""
    cdef FutureWait wait
    if st_current_coroutine == NULL:
        import asyncio

        return asyncio.wrap_future(future).__await__()
    wait = FutureWait.__new__(FutureWait)
    wait.future = future
    return wait


# What may be awaited

def sleep_us(us):
    """Wait for `us` microseconds. To be awaited in a coroutine that was spawned on an SpdkThread.

    Parameters
    ----------
    us : float
        0: only until the thread's other work has had its turn.

    Raises
    ------
    ValueError
        When `us` is negative, not finite, or above 0 but below one tick (0.001).
    AwaitError
        When it is awaited elsewhere.

    Notes
    -----
    **Thread safety:** in any spawned coroutine. On the clock of the thread's library.
    """
    cdef Sleep sleep = Sleep.__new__(Sleep)
    sleep.ticks = period_to_ticks(us) if us != 0 else 0
    return sleep


def switch_to(SpdkThread thread not None):
    """Go on on another thread: the coroutine itself moves there.

    Raises
    ------
    ThreadExitedError
        When `thread` has exited; the coroutine goes on where it was.
    AwaitError
        When it is awaited anywhere but in a spawned coroutine.

    Notes
    -----
    **Thread safety:** in any spawned coroutine.
    """
    cdef Switch switch = Switch.__new__(Switch)
    switch.target = thread
    return switch


def fd_ready(fd, events="r"):
    """Wait until a file descriptor is ready. To be awaited in a coroutine that was spawned on an SpdkThread.

    Parameters
    ----------
    fd : int or object with fileno()
    events : {"r", "w", "rw"}

    Raises
    ------
    FdError
        When `fd` is closed, cannot be waited for, or somebody waits for it on this thread already.
    AwaitError
        When it is awaited elsewhere.

    Notes
    -----
    **Thread safety:** in any spawned coroutine. Also while the thread's reactor sleeps.
    """
    cdef FdWait wait = FdWait.__new__(FdWait)
    if not isinstance(events, str):
        raise TypeError(f"events must be a str of 'r' and 'w', got {type(events).__name__}")
    wait.fd = fd
    wait.events = events
    return wait


# The coroutines of one thread, and their timers

def coroutines_in_words(thread):
    return [] if thread._coroutines is None else [f"coroutine {name!r}" for name in thread._coroutines.names()]


register_blocker("coroutine", coroutines_in_words)


cdef inline CoroutineHome home_of(SpdkThread thread):
    if thread._coroutines is None:
        thread._coroutines = make_home(thread)
    return <CoroutineHome>thread._coroutines


cdef CoroutineHome make_home(SpdkThread thread):
    cdef CoroutineHome home = CoroutineHome.__new__(CoroutineHome)
    home.thread = thread
    home.coroutines = {}
    # Not in the thread's books: it is armed by hand, and the coroutines themselves keep the thread from exiting.
    home.alarm = thread._new_poller(1, "coroutines that sleep", False)
    home.alarm.c.period = TIMER_NEVER
    home.alarm._fn = home.wake_sleepers
    home.alarm.c.py_fn = <PyObject *>home.alarm._fn
    return home


cdef class CoroutineHome:
    """What an SpdkThread with coroutines has besides."""

    def __dealloc__(self):
        timer_queue_free(&self.timers)

    def alarm_is_set(self):
        """Whether its poller, which is none of the user's, is in the thread's timer queue."""
        return self.alarm.c.timer.queued

    def names(self):
        """Of the coroutines that have not ended."""
        return [name_of((<Coroutine>one).coro) for one in list(self.coroutines)]

    def abandon(self):
        """The thread will never run them on."""
        for coroutine in list(self.coroutines):
            (<Coroutine>coroutine).abandon(f"{name_of((<Coroutine>coroutine).coro)} never ended: its thread has ended")

    cdef int set_alarm(self, uint64_t deadline, uint64_t now) except -1:
        """Have the sleepers woken at `deadline`, if not earlier."""
        cdef SpdkThread thread = self.thread
        if self.alarm.c.timer.queued:
            if self.alarm.c.timer.deadline <= deadline:
                return 0
            timer_cancel(&thread.c.timers, &self.alarm.c.timer)
            thread.c.timed_count -= 1
        timer_queue_init(&thread.c.timers)
        timer_insert(&thread.c.timers, &self.alarm.c.timer, deadline, now)
        thread.c.timed_count += 1
        # Not RUNNING: so the poll leaves it as it is armed here.
        st_store32_relaxed(&self.alarm.c.state, POLLER_WAITING)
        return 0

    def wake_sleepers(self):
        cdef uint64_t now = clock_read(self.thread.c.clock)
        cdef uint64_t deadline
        cdef timer_node *node
        cdef Sleep sleep
        cdef int woken = 0
        st_store32_relaxed(&self.alarm.c.state, POLLER_WAITING)
        try:
            while woken < SLEEPERS_AT_ONCE:
                node = timer_pop(&self.timers, now)
                if node == NULL:
                    break
                woken += 1
                sleep = <Sleep>(<sleep_node *>node).sleep
                resume(sleep)
        finally:
            deadline = timer_next_deadline(&self.timers)
            if deadline != TIMER_NEVER:
                self.set_alarm(deadline, now)
        return woken
