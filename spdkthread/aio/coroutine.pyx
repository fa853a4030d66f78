"""Coroutines on an SpdkThread. See ``coroutine.pxd``."""

cimport cython

import logging
import sys
import weakref
from collections.abc import AsyncGenerator as AsyncGeneratorABC
from collections.abc import Coroutine as CoroutineABC
from types import CoroutineType

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_exchange32, st_load32_acquire, st_store32_relaxed
from spdkthread.clock cimport clock_read, period_to_ticks, st_ticks
from spdkthread.future cimport (
    FUTURE_FINISHED,
    FUTURE_NOTIFIED,
    FUTURE_RUNNING,
    FutureCore,
    error_for_await,
    new_future_of,
)
from spdkthread.late cimport LATE_AWAIT_FUTURE, LATE_SPAWN, late_fill
from spdkthread.poller cimport POLLER_WAITING
from spdkthread.ring cimport RING_OK
from spdkthread.cpython_ext cimport PYGEN_RETURN, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit, seal
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
from spdkthread.undelivered import special_message

__all__ = ["fd_ready", "sleep_us", "spawn", "switch_to"]

logger = logging.getLogger("spdkthread")

cdef extern from *:
    """
    /* The coroutine that runs on this OS thread, borrowed. Only this module reads and writes it. */
    static _Thread_local void *st_current_coroutine = NULL;

    /* Awaits on this OS thread that no coroutine of ours made, one soon after the other. */
    static _Thread_local uint32_t st_strays = 0;
    static _Thread_local uint64_t st_last_stray = 0;

    /* The hooks for asynchronous generators of this OS thread, as sys.set_asyncgen_hooks sets them. Its own way to them
       makes a named tuple and parses keywords, at each step of each coroutine. */
    typedef struct { PyObject *first, *finalizer; } st_generator_hooks;

    static inline void st_set_generator_hooks(st_generator_hooks *before, PyObject *first, PyObject *finalizer) {
        PyThreadState *here = PyThreadState_Get();
        before->first = here->async_gen_firstiter;
        before->finalizer = here->async_gen_finalizer;
        Py_INCREF(first);
        Py_INCREF(finalizer);
        here->async_gen_firstiter = first;
        here->async_gen_finalizer = finalizer;
    }
    static inline int st_generators_are_of(PyObject *first) {
        return PyThreadState_Get()->async_gen_firstiter == first;
    }
    static inline void st_reset_generator_hooks(st_generator_hooks *before) {
        PyThreadState *here = PyThreadState_Get();
        PyObject *first = here->async_gen_firstiter;
        PyObject *finalizer = here->async_gen_finalizer;
        here->async_gen_firstiter = before->first;
        here->async_gen_finalizer = before->finalizer;
        Py_XDECREF(first);
        Py_XDECREF(finalizer);
    }
    """
    ctypedef struct generator_hooks "st_generator_hooks":
        pass
    void st_set_generator_hooks(generator_hooks *before, PyObject *first, PyObject *finalizer)
    void st_reset_generator_hooks(generator_hooks *before)
    bint st_generators_are_of(PyObject *first)
    void *st_current_coroutine
    uint32_t st_strays
    uint64_t st_last_stray
    int PyIter_Send(object iterator, object value, PyObject **result) except? -1

# Sleepers whose time has come that are resumed in one poll; the others follow in the next one.
cdef int SLEEPERS_AT_ONCE = 64

# So often a coroutine that is being closed hears that it cannot wait any more, before it is left where it waits.
cdef uint32_t PATIENCE_OF_CLOSE = 100
# Refusals that lie further apart are not of one loop that goes on in spite of them.
cdef uint64_t STRAY_TICKS = 1_000_000

cdef object CANCELLED = None        # asyncio.CancelledError, once something is cancelled

# id() of each coroutine that was spawned and has not ended -> id() of its Coroutine. Changed by single operations only.
cdef dict spawned = {}


cdef object cancelled_error():
    global CANCELLED
    if CANCELLED is None:
        from asyncio import CancelledError

        CANCELLED = CancelledError
    return CANCELLED


cdef bint in_coroutine() noexcept:
    """Whether a spawned coroutine is running on this OS thread, and not an event loop inside it.

    Such a loop, of a signal handler for instance, has put its own hooks for asynchronous generators in place of ours.
    """
    return st_current_coroutine != NULL and (
        st_generators_are_of(<PyObject *>first_step) or not asyncio_runs()
    )


cdef bint asyncio_runs() noexcept:
    try:
        asyncio = sys.modules.get("asyncio")
        return asyncio is not None and asyncio._get_running_loop() is not None
    except Exception:
        return False        # it is being imported


cdef bint stray() noexcept:
    """Whether an await outside a spawned coroutine has been refused often enough.

    A coroutine that was left where it waits is closed by the interpreter when it is freed. One that then awaits again
    whatever it hears would be told for ever; it has to be handed something for the interpreter to give it up.
    """
    global st_strays, st_last_stray
    cdef uint64_t now = st_ticks()
    st_strays = st_strays + 1 if now - st_last_stray < STRAY_TICKS else 0
    st_last_stray = now
    return st_strays > PATIENCE_OF_CLOSE


cdef str name_of(object coro):
    name = getattr(coro, "__qualname__", None)
    return name if isinstance(name, str) and name else type(coro).__qualname__


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
        cdef SpdkThread home
        if self.try_cancel():
            return True
        # The coroutine's thread lets go of it, and moves it, meanwhile.
        with cython.critical_section(self):
            coroutine = self.coroutine
        if coroutine is None or self.is_done():
            return False
        home = coroutine.home_now()
        if not home._is_here() or coroutine.running:
            try:
                home._post(cancel_here, coroutine)
            except ThreadExitedError:
                return False
        else:
            cancel_here(coroutine)
        return True

    cdef int settle(self, uint32_t state, object value, bint failed) except -1:
        with cython.critical_section(self):
            self.coroutine = None
        return FutureCore.settle(self, state, value, failed)

    cdef str failure(self):
        return "coroutine of"


cdef object future_class = None


def spawn(SpdkThread thread not None, coro):
    """See `SpdkThread.spawn`."""
    global future_class
    cdef Coroutine coroutine
    cdef CoroutineFutureCore future
    cdef int verdict
    if type(coro) is CoroutineType:
        if coro.cr_running or coro.cr_suspended or coro.cr_frame is None:
            raise AwaitError(
                f"coroutine {name_of(coro)} has begun already and cannot be spawned on {thread!r}: a coroutine runs "
                "once, make another one"
            )
    elif not isinstance(coro, CoroutineABC):
        raise TypeError(f"spawn on {thread!r} needs a coroutine, got {type(coro).__name__}")
    if future_class is None:
        future_class = mixed("CoroutineFuture", CoroutineFutureCore, CoroutineFutureCore.__doc__)
    future = <CoroutineFutureCore>new_future_of(future_class, thread._weak)
    coroutine = new_coroutine(thread, coro, future)
    coroutine.record_spawn()
    verdict = thread._send_one(begin_coroutine, coroutine)
    if verdict != RING_OK:
        coroutine.unnote()
        coroutine.future = None
        future.coroutine = None
        thread._refuse(verdict)
    return future


cdef Coroutine new_coroutine(SpdkThread thread, object coro, CoroutineFutureCore future):
    cdef Coroutine coroutine = Coroutine.__new__(Coroutine)
    coroutine.coro = coro
    coroutine.context = PyContext_CopyCurrent()
    coroutine.future = future
    coroutine.home = thread
    future.coroutine = coroutine
    return coroutine


def begin_coroutine(Coroutine coroutine not None):
    """The message that spawns."""
    if coroutine.future is None:
        return
    if not coroutine.future.start():
        # Cancelled before it ran: it never runs.
        coroutine.future = None
        coroutine.unnote()
        coroutine.coro.close()
        return
    coroutine.settle_in()
    coroutine.step()


def resume(Suspension suspension not None):
    """The message that ends a wait."""
    cdef Coroutine coroutine = suspension.coroutine
    if coroutine is not None and coroutine.waiting is suspension:
        coroutine.waiting = None
        suspension.stage = SUSPENSION_DUE
        if not coroutine.settled:
            coroutine.settle_in()
        coroutine.step()


def cancel_here(Coroutine coroutine not None):
    """On the coroutine's thread: throw the cancellation into it; elsewhere: follow it there."""
    if coroutine.future is None or coroutine.future.is_done():
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
        return f"<coroutine {self.call_it()} of {self.home_now().name!r}>"

    def __del__(self):
        self.abandon(f"{self.call_it()} never ended: its thread has ended")

    def __call__(self, generator):
        """An asynchronous generator that it began was dropped before its end: close it, on the coroutine's thread.

        The interpreter calls this, on any OS thread.
        """
        close_generator(self, generator)

    @property
    def name(self):
        """The coroutine function's name."""
        return self.call_it()

    cdef str call_it(self):
        return name_of(self.coro) if self.label is None else self.label

    cdef SpdkThread home_now(self):
        """Its home, for other OS threads: it may be moving."""
        with cython.critical_section(self):
            return self.home

    cdef int go_home(self, SpdkThread home) except -1:
        with cython.critical_section(self):
            self.home = home
        return 0

    cdef int record_spawn(self) except -1:
        """It is spawned: nothing else may be made of its coroutine meanwhile."""
        if spawned.setdefault(id(self.coro), id(self)) != id(self):
            self.future = None
            raise AwaitError(
                f"coroutine {self.call_it()} was spawned already and cannot be spawned on {self.home!r}: a coroutine "
                "runs once, make another one"
            )
        self.noted = True
        return 0

    cdef int unnote(self) except -1:
        if self.noted:
            self.noted = False
            del spawned[id(self.coro)]
        return 0

    def abandon(self, why):
        """It will never run on: it is closed, and its future hears why.

        What it raises then goes where the exceptions of callbacks go; KeyboardInterrupt and SystemExit leave this as
        well, at the end.
        """
        cdef FutureCore future = self.future
        cdef Suspension waiting = self.waiting
        cdef object error = None
        cdef object ended
        if self.running:
            return
        self.future = None
        self.waiting = None
        # Elsewhere the set of descriptors ends with the thread.
        if waiting is not None and (not isinstance(waiting, FdWait) or self.home._is_here()):
            try:
                waiting.give_up()
            except BaseException as failure:
                self.report("could not be taken out of its wait", failure)
        self.move_out()
        self.unnote()
        if future is None:
            return
        error = self.close(True)
        if error is not None and error is not self.refusal:
            self.report("failed while it was closed, as its thread has ended", error)
        try:
            if not future.is_done() and st_load32_acquire(&future.state) != FUTURE_RUNNING:
                future.start()
            if not future.is_done():
                ended = ThreadExitedError(why)
                ended.__cause__ = error
                future.settle(FUTURE_FINISHED, ended, True)
                future.retrieve()       # the end of the thread is reported where it happens
        except Exception as failure:
            if not future.is_done():    # it was cancelled meanwhile, from elsewhere
                self.report("could not be ended", failure)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error

    cdef object close(self, bint begun):
        """Have it end without waiting for anything; what it raised, or None. Not `begun`: it runs now for the first
        time."""
        cdef generator_hooks hooks
        cdef void *outer = outer_coroutine()
        self.closing = 1
        self.running = True
        PyContext_Enter(self.context)
        set_current_coroutine(<void *><PyObject *>self)
        st_set_generator_hooks(&hooks, <PyObject *>first_step, <PyObject *>self)
        try:
            if begun:
                self.coro.close()
            else:
                self.coro.send(None)
                raise RuntimeError(f"{self.call_it()} goes on waiting while it is closed")
        except StopIteration:
            return None
        except BaseException as error:
            return error
        finally:
            st_reset_generator_hooks(&hooks)
            set_current_coroutine(outer)
            PyContext_Exit(self.context)
            self.running = False
        return None

    cdef int report(self, str message, object error) except -1:
        cdef SpdkThread home = self.home_now()
        text = f"coroutine {self.call_it()} of thread {home.name!r} {message}"
        if home.lib is None:            # the collector is just taking the thread apart
            logger.error("%s: %r", text, error)
        else:
            home.lib._report(text, error, home, "fn", None)
        return 0

    cdef int settle_in(self) except -1:
        """On the thread that it has come to."""
        cdef ThreadCoroutines home = home_of(self.home)
        home.coroutines[self] = None
        self.home.c.blockers.coroutines += 1
        self.settled = True
        self.future.producer = self.home._weak
        return 0

    cdef int move_out(self) except -1:
        if self.settled:
            self.settled = False
            del home_of(self.home).coroutines[self]
            self.home.c.blockers.coroutines -= 1
        return 0

    cdef int step(self) except -1:
        """Run on, up to the next wait. On its thread."""
        if self.future is None:
            return 0        # it was ended meanwhile
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
        cdef generator_hooks hooks
        cdef int state
        self.running = True
        PyContext_Enter(self.context)
        set_current_coroutine(<void *><PyObject *>self)
        st_set_generator_hooks(&hooks, <PyObject *>first_step, <PyObject *>self)
        try:
            while True:
                try:
                    if self.throwing is None:
                        raw = NULL
                        state = PyIter_Send(self.coro, None, &raw)
                        handed_out = <object>raw
                        Py_XDECREF(raw)
                        if state == PYGEN_RETURN:
                            self.end(handed_out, None)
                            return 0
                    else:
                        error = self.throwing
                        self.throwing = None
                        handed_out = self.coro.throw(error)
                except StopIteration as stop:       # from throw
                    self.end(stop.value, None)
                    return 0
                except (KeyboardInterrupt, SystemExit) as stop:
                    self.end(None, stop)
                    raise
                except (RuntimeError, AttributeError) as failure:
                    self.end(None, name_asyncio(self, failure))
                    return 0
                except BaseException as failure:
                    self.end(None, failure)
                    return 0
                if self.throwing is not None:
                    continue                        # it was cancelled while it ran
                try:
                    if isinstance(handed_out, Suspension):
                        if self.suspend_on(<Suspension>handed_out):
                            return 0
                    elif handed_out is None:
                        refuse_asyncio(self)
                        if self.suspend_on(Suspension.__new__(Suspension)):
                            return 0
                    else:
                        self.throwing = foreign(self, handed_out)
                except Exception as refused:
                    # Thrown into an await, a StopIteration would be its result.
                    self.throwing = error_for_await(refused)
        finally:
            st_reset_generator_hooks(&hooks)
            set_current_coroutine(outer)
            PyContext_Exit(self.context)
            self.running = False

    cdef bint suspend_on(self, Suspension suspension) except -1:
        """Begin to wait; False when there is nothing to wait for."""
        # One that was yielded by hand, not awaited, is taken here.
        if not suspension.hand_out(self):
            if suspension.coroutine is not self or suspension.stage != SUSPENSION_HANDED_OUT:
                raise suspension.refuse(self)
        suspension.stage = SUSPENSION_WAITING
        self.waiting = suspension
        try:
            if suspension.begin(self):
                return True
        except BaseException:
            self.waiting = None
            suspension.give_up()
            raise
        self.waiting = None
        suspension.stage = SUSPENSION_DUE
        return False

    cdef int interrupt(self, object error) except -1:
        """On its thread: raise `error` in it, where it waits or will wait next."""
        cdef Suspension waiting = self.waiting
        self.throwing = error
        if waiting is None or self.running or not self.settled:
            return 0                # it runs, or is on its way: delivered at its next wait, or at its arrival
        self.waiting = None
        try:
            waiting.give_up()
        finally:
            self.step()
        return 0

    cdef int end(self, object value, object error) except -1:
        cdef FutureCore future = self.future
        self.move_out()
        self.unnote()
        self.future = None
        self.waiting = None
        if future is None:
            # It was ended while it ran: something that it called closed its loop, or dropped its thread.
            if error is not None:
                self.report("failed after it had been ended", error)
            return 0
        if error is None:
            future.settle(FUTURE_FINISHED, value, False)
        elif isinstance(error, cancelled_error()):
            future.settle(FUTURE_NOTIFIED, None, False)
        else:
            future.fail(error, self.coro)
        return 0


cdef inline void *outer_coroutine() noexcept:
    return st_current_coroutine


cdef inline void set_current_coroutine(void *coroutine) noexcept:
    global st_current_coroutine
    st_current_coroutine = coroutine


# What is not ours. See `spdkthread.aio.foreign`.

cdef object foreign(Coroutine coroutine, object awaited):
    """Why something of another framework cannot be awaited."""
    from spdkthread.aio.foreign import refusal

    return refusal(coroutine, coroutine.coro, awaited)


cdef int refuse_asyncio(Coroutine coroutine) except -1:
    """A bare None was yielded: a turn, unless it is asyncio that asks for one of its loop."""
    from spdkthread.aio.foreign import refuse_turn

    refuse_turn(coroutine, coroutine.coro)
    return 0


cdef object name_asyncio(Coroutine coroutine, object failure):
    """What a coroutine ended by: an AwaitError when asyncio missed its loop."""
    if type(failure) is AwaitError:
        return failure
    from spdkthread.aio.foreign import explained

    return explained(coroutine, failure)


# Waiting

cdef class Suspension:
    """Something that a coroutine waits for. By itself: its next turn, behind the messages that wait already."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef Coroutine here
        if st_current_coroutine == NULL:
            if stray():
                return self
            raise AwaitError(
                f"{type(self).__name__.lower()} belongs in a coroutine that was spawned on an SpdkThread; under "
                "asyncio await asyncio's own"
            )
        here = <Coroutine>st_current_coroutine
        if self.hand_out(here):
            if here.closing and here.closing <= PATIENCE_OF_CLOSE:
                here.closing += 1
                self.give_up()
                here.refusal = AwaitError(f"{here!r} is being closed, as its thread has ended: it cannot wait any more")
                raise here.refusal
            return self
        if self.coroutine is not here or self.stage != SUSPENSION_DUE:
            raise self.refuse(here)
        self.stage = SUSPENSION_OVER
        with cython.critical_section(self):
            self.coroutine = None
        result = self.outcome()
        if result is not None:
            raise StopIteration(result)
        raise StopIteration

    cdef bint hand_out(self, Coroutine coroutine) except -1:
        """To the first that asks; False for every other one."""
        if st_exchange32(&self.taken, 1):
            return False
        with cython.critical_section(self):
            self.coroutine = coroutine
        self.stage = SUSPENSION_HANDED_OUT
        return True

    cdef int give_up(self) except -1:
        """The coroutine does not wait for it any more, or never will."""
        cdef bint waits = self.stage == SUSPENSION_WAITING
        self.stage = SUSPENSION_OVER
        try:
            if waits:
                self.withdraw()
        finally:
            with cython.critical_section(self):
                self.coroutine = None
        return 0

    cdef object refuse(self, Coroutine coroutine):
        """Why it cannot be awaited by this one."""
        cdef Coroutine other
        with cython.critical_section(self):
            other = self.coroutine
        what = f"this {type(self).__name__.lower()}"
        if other is None:
            return AwaitError(f"{coroutine!r} awaited {what}, which was awaited already: make one for each await")
        return AwaitError(f"{coroutine!r} awaited {what}, which {other!r} awaits already: make one for each await")

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
        cdef ThreadCoroutines home
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
        coroutine.go_home(self.target)
        try:
            self.target._post(resume, self)
        except Exception as refused:
            coroutine.go_home(source)
            coroutine.settle_in()
            coroutine.waiting = None
            self.give_up()
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
        cdef Coroutine coroutine = self.coroutine
        if coroutine is not None and coroutine.home._is_here():
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
    cdef bint claimed

    cdef int let_go(self) except -1

    cdef bint begin(self, Coroutine coroutine) except -1:
        if self.future.is_done():
            return False
        self.future.claim()
        self.claimed = True
        self.home = coroutine.home
        self.future.add_done_callback(self)
        return True

    def __call__(self, future):
        if self.home is None or not self.future.is_done():
            return
        try:
            self.home._post(resume, self)
        except ThreadExitedError:
            pass                    # it has been abandoned with its thread

    cdef int let_go(self) except -1:
        if self.claimed:
            self.claimed = False
            self.future.unclaim()
        return 0

    cdef int withdraw(self) except -1:
        if self.claimed:            # and not another coroutine's
            self.let_go()
            self.future.cancel()
        return 0

    cdef object outcome(self):
        # Whatever it is: a tuple or an exception would not survive being put into a bare StopIteration.
        self.let_go()
        try:
            return self.future.outcome()
        except StopIteration as error:
            raise error_for_await(error) from error


def await_future(FutureCore future not None):
    """What ``await future`` does, in a spawned coroutine or under asyncio."""
    cdef FutureWait wait
    if not in_coroutine():
        return await_under_asyncio(future, asyncio_loop(future))
    wait = FutureWait.__new__(FutureWait)
    wait.future = future
    return wait


cdef object asyncio_loop(FutureCore future):
    """The loop that runs here."""
    from asyncio import _get_running_loop

    loop = _get_running_loop()
    if loop is None:
        raise AwaitError(
            f"{future!r} can be awaited under asyncio and in a coroutine spawned on an SpdkThread, and here is "
            "neither: another framework waits for its result() in a thread, as with "
            "`await trio.to_thread.run_sync(future.result)`"
        )
    return loop


def await_under_asyncio(FutureCore future not None, loop):
    """Wait in a task of asyncio's; a generator, as ``__await__`` returns one."""
    if not future.is_done():
        waiting = loop.create_future()

        def wake():
            if not waiting.done():
                waiting.set_result(None)

        def done(_):
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:
                pass                # the loop is closed, and its tasks with it

        future.claim()
        try:
            future.add_done_callback(done)
            yield from waiting
        except BaseException:
            if waiting.cancelled():
                future.cancel()
            raise
        finally:
            future.unclaim()
    if future.cancelled():
        raise cancelled_error()()
    try:
        return future.outcome()
    except StopIteration as error:
        raise error_for_await(error) from error


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
    thread._check_ready()
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
        When `fd` is closed, cannot be waited for, or a coroutine of this thread waits for it already.
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


# Asynchronous generators

class GeneratorRef(weakref.ref):
    """A generator that was begun, with the coroutine that began it."""

    __slots__ = ("key", "owner")


def note_generator(generator):
    """The interpreter's hook: the coroutine that runs here has begun an asynchronous generator."""
    if st_current_coroutine != NULL:
        keep_generator(<Coroutine>st_current_coroutine, generator)


cdef object first_step = note_generator


def keep_generator(Coroutine owner not None, generator):
    """On the owner's thread: close it before the thread exits, if it is there still."""
    cdef dict generators = home_of(owner.home).generators

    def forget(reference):
        generators.pop(reference.key, None)

    reference = GeneratorRef(generator, forget)
    reference.key = id(generator)
    reference.owner = owner
    generators[id(generator)] = reference


cdef int close_generator(Coroutine owner, object generator) except -1:
    """Have a coroutine of its own close it, on the thread of the one that began it. From any OS thread."""
    cdef Coroutine closer
    if not isinstance(generator, AsyncGeneratorABC):
        raise TypeError(f"{owner!r} closes asynchronous generators, got {type(generator).__name__}")
    closer = closer_of(owner, generator)
    try:
        closer.home._post(begin_coroutine, closer)
    except ThreadExitedError:
        closer.future = None
        close_at_once(owner, generator)
    return 0


cdef Coroutine closer_of(Coroutine owner, object generator):
    global future_class
    cdef Coroutine closer
    cdef CoroutineFutureCore future
    cdef SpdkThread home = owner.home_now()
    if future_class is None:
        future_class = mixed("CoroutineFuture", CoroutineFutureCore, CoroutineFutureCore.__doc__)
    future = <CoroutineFutureCore>new_future_of(future_class, home)
    closer = new_coroutine(home, generator.aclose(), future)
    closer.label = f"the end of asynchronous generator {name_of(generator)}"
    return closer


cdef int close_at_once(Coroutine owner, object generator) except -1:
    """Its thread has ended: it cannot wait for anything."""
    cdef Coroutine closer = closer_of(owner, generator)
    cdef object error
    closer.future = None
    error = closer.close(False)
    if error is not None and error is not closer.refusal:
        closer.report("failed, as its thread has ended", error)
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    return 0


# The coroutines of one thread, and their timers

def coroutines_in_words(thread):
    return [] if thread._coroutines is None else [f"coroutine {name!r}" for name in thread._coroutines.names()]


register_blocker("coroutine", coroutines_in_words)


cdef inline ThreadCoroutines home_of(SpdkThread thread):
    if thread._coroutines is None:
        thread._coroutines = make_home(thread)
    return <ThreadCoroutines>thread._coroutines


cdef ThreadCoroutines make_home(SpdkThread thread):
    cdef ThreadCoroutines home = ThreadCoroutines.__new__(ThreadCoroutines)
    home.thread = thread
    home.coroutines = {}
    home.generators = {}
    # Not in the thread's books: it is armed by hand, and the coroutines themselves keep the thread from exiting.
    home.alarm = thread._new_poller(1, "coroutines that sleep", False)
    home.alarm.c.period = TIMER_NEVER
    home.alarm._fn = home.wake_sleepers
    home.alarm.c.py_fn = <PyObject *>home.alarm._fn
    return home


cdef class ThreadCoroutines:
    """What an SpdkThread with coroutines has besides."""

    def __dealloc__(self):
        timer_queue_free(&self.timers)

    def alarm_is_set(self):
        """Whether its poller, which is none of the user's, is in the thread's timer queue."""
        return self.alarm.c.timer.queued

    def names(self):
        """Of the coroutines that have not ended."""
        return [(<Coroutine>one).call_it() for one in list(self.coroutines)]

    def abandon(self):
        """The thread will never run them on. What one raises keeps none of the others from being closed."""
        first = None
        for coroutine in list(self.coroutines):
            try:
                (<Coroutine>coroutine).abandon(f"{(<Coroutine>coroutine).call_it()} never ended: its thread has ended")
            except BaseException as error:
                first = error if first is None else first
        for reference in list(self.generators.values()):
            generator = reference()
            if generator is None:
                continue
            try:
                close_at_once(reference.owner, generator)
            except BaseException as error:
                first = error if first is None else first
        if first is not None:
            raise first

    def close_generators(self):
        """The thread is about to exit: close what its coroutines began and did not end. Whether it waits for that."""
        cdef Coroutine owner
        before = self.generators
        self.generators = {}
        late = False
        for reference in list(before.values()):
            generator = reference()
            owner = reference.owner
            if generator is None:
                continue
            if owner.future is not None:
                owner.home_now()._send_library_msg(keep_generator, owner, generator)    # it lives, elsewhere
            else:
                close_generator(owner, generator)
                late = True
        return late

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


seal(Coroutine)
for kind in (Suspension, Sleep, Switch, FdWait, FutureWait, ThreadCoroutines):
    seal(kind)
del kind

late_fill(LATE_AWAIT_FUTURE, await_future)
late_fill(LATE_SPAWN, spawn)
