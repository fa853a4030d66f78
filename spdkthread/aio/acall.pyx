"""acall: a call on an SpdkThread, awaited under any asyncio loop. See ``acall.pxd``."""

import os
import weakref

cimport cython
from cpython.mapping cimport PyMapping_Length
from cpython.object cimport PyCallable_Check, PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u64,
    st_casp_acq_rel,
    st_exchange32,
    st_exchangep,
    st_fence_seq_cst,
    st_load_acquire,
    st_load32_relaxed,
    st_loadp_relaxed,
    st_pause,
    st_store32_relaxed,
)
from spdkthread.clock cimport st_ticks
from spdkthread.aio.coroutine cimport in_coroutine
from spdkthread.future cimport FutureCore, error_for_await, new_future, run_and_settle
from spdkthread.late cimport LATE_ACALL, late_fill
from spdkthread.gil_handoff cimport gil_handoff_acquired, gil_handoff_released, gil_handoff_wait
from spdkthread.aio.loop_future cimport await_by_sending
from spdkthread.reactor cimport Reactor
from spdkthread.ring cimport RING_OK
from spdkthread.thread cimport SpdkThread, thread_send_python
from spdkthread.trace_ring cimport trace_name_argument
from spdkthread.cpython_ext cimport (
    Py_DECREF_raw,
    PyContext_CopyCurrent,
    PyContext_Enter,
    PyContext_Exit,
    PyContext_New,
    seal,
    st_call_base_traverse,
    st_replace_traverse,
    st_visitproc,
)
from spdkthread.wakeup cimport WAKEUP_ASLEEP, wakeup_state

from spdkthread.error_log import describe
from spdkthread.errors import AwaitError, ThreadExitedError
from spdkthread.undelivered import special_message

__all__ = ["acall"]

cdef extern from *:
    """
    /* The completion stack that this OS thread asked for last, and of which loop. Both are borrowed: `epoch` moves on
       whenever a stack ends, and a stack ends with its loop at the latest. */
    static _Thread_local struct {
        PyObject *loop;
        PyObject *completions;
        uint64_t epoch;
    } st_recent;
    """
    struct recent_completions:
        PyObject *loop
        PyObject *completions
        uint64_t epoch
    recent_completions st_recent

# How long acall watches for an answer. Without a GIL nothing is won by stopping others, and less by waiting.
cdef uint64_t WATCH_TICKS = 15_000
# As long when the reactor sleeps but the loop called it less than a millisecond ago (while calls go on it stays awake),
# or when the last answer came by waking the loop: asyncio releases the GIL for that, so the reactor may wait for it.
cdef uint64_t WAKE_TICKS = 60_000
cdef uint64_t MOMENT_TICKS = 1_000_000
# Where answers take longer, it watches ever more rarely: every 2**n-th time.
cdef uint32_t MOST_MISSES = 5
# Of so many answers in a row one takes the long way, through the loop.
cdef uint32_t IN_A_ROW = 8
# After a burst of calls it does not watch for so many more.
cdef uint32_t BURST = 8

cdef object running_loop = None         # asyncio's function


cdef int load() except -1:
    global running_loop
    from asyncio import _get_running_loop

    running_loop = _get_running_loop
    return 0


def acall(SpdkThread thread not None, fn, tuple args):
    """See `SpdkThread.acall`."""
    cdef Call call
    cdef CompletionStack completions
    cdef int verdict
    if not PyCallable_Check(fn):
        raise TypeError(f"a call on {thread!r} must be callable, got {type(fn).__name__}")
    if in_coroutine():
        return call_in_context(thread, fn, args)
    if running_loop is None:
        load()
    loop = running_loop()
    if loop is None:
        raise AwaitError(
            f"no running event loop: acall on {thread!r} belongs in a coroutine, under asyncio or spawned on an "
            "SpdkThread; elsewhere use call, and under another framework wait for its result() in a thread, as with "
            "`await trio.to_thread.run_sync(future.result)`"
        )
    completions = completions_of(loop)
    call = Call.__new__(Call)
    call.fn = fn
    call.count = <uint32_t>len(args)
    if call.count > 2:
        call.args = args
    elif call.count:
        call.first = args[0]
        if call.count == 2:
            call.second = args[1]
    context = PyContext_CopyCurrent()
    if PyMapping_Length(context):     # an empty one is made when it is needed
        call.context = context
    call.completions = completions
    call.thread = thread
    call.begin(loop)
    if completions.count_call(call) and completions.worth_watching(thread):
        st_store32_relaxed(&completions.watching, 1)
        # The GIL is released in a moment: the reactor that gets the message should not queue for it.
        gil_handoff_acquired()
        verdict = thread._send_one(run, call)
        if verdict == RING_OK:
            completions.watch()
        else:
            gil_handoff_released()
        st_store32_relaxed(&completions.watching, 0)
        st_fence_seq_cst()
        completions.take_answers()
    else:
        completions.loop_was_woken = True
        verdict = thread._send_one(run, call)
    if verdict != RING_OK:
        call.try_cancel(None)
        completions.consumed = call.number
        thread._refuse(verdict)
    return call


cdef object call_in_context(SpdkThread thread, object fn, tuple args):
    """In a spawned coroutine: a future to be awaited, run in a copy of the coroutine's context."""
    cdef FutureCore future = new_future(thread._weak)
    cdef object context = PyContext_CopyCurrent()
    cdef PyObject *argv[4]
    cdef int verdict
    argv[0], argv[1] = <PyObject *>future, <PyObject *>fn
    argv[2], argv[3] = <PyObject *>args, <PyObject *>context
    verdict = thread_send_python(thread, <PyObject *>run_in_context, argv, 4)
    if verdict != RING_OK:
        thread._refuse(verdict)
    return future


def run_in_context(FutureCore future not None, fn, tuple args, context):
    """The message of an acall from a spawned coroutine."""
    run_and_settle(future, fn, args, None, context)


cdef class Call(LoopFuture):
    """An acall under way, and what its caller awaits."""

    cdef object perform(self):
        if self.count == 0:
            return self.fn()
        if self.count == 1:
            return self.fn(self.first)
        if self.count == 2:
            return self.fn(self.first, self.second)
        return self.fn(*self.args)

    cdef int come_back(self) except -1:
        """With the outcome, to the loop."""
        cdef CompletionStack completions = self.completions
        # No cycle from the call to the stack that it is on.
        self.completions = None
        self.fn = self.first = self.second = self.args = self.context = None
        return completions.push(self)

    cdef int deliver(self, bint at_once) except -1:
        """On the loop: settle it."""
        if self.is_done():
            self.report()           # cancelled while it ran
            return 0
        answer, self.answer = self.answer, None
        if self.raised:
            answer = error_for_await(answer)
        return self.settle(answer, self.raised, at_once)

    cdef int hand_out(self) except -1:
        if self.awaited:
            raise AwaitError(
                f"{self!r} on {self.thread!r} is awaited by another task already: an awaitable serves one at a time; "
                "the others may await it when it is done, or use add_done_callback"
            )
        self.awaited = True
        self.blocking = True
        return 0

    cdef int on_retrieved(self) except -1:
        if self.returned_to is not None and self.number > self.returned_to.consumed:
            self.returned_to.consumed = self.number
        return 0

    cdef int report(self) except -1:
        """An exception for which there is no future any more goes where those of callbacks go."""
        if self.raised:
            self.thread.lib._report(
                f"acall failed on thread {self.thread.name!r} and its future was gone", self.answer, self.thread, "fn",
                None,
            )
        return 0


await_by_sending(Call)


def run(Call call not None):
    """The message of an acall from an asyncio loop."""
    if call.is_cancelled():
        call.come_back()
        return
    try:
        context = call.context
        if context is None:
            context = PyContext_New()
        PyContext_Enter(context)
        try:
            call.answer = call.perform()
        finally:
            PyContext_Exit(context)
    except BaseException as error:
        call.answer = error
        call.raised = True
        call.come_back()
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
    else:
        call.come_back()


def name_of_call(args):
    return describe((<Call>args[0]).fn)


def drop_call(args, why):
    """It never ran: its thread has ended."""
    cdef Call call = args[0]
    call.answer = ThreadExitedError(why)
    call.raised = not call.is_cancelled()
    call.come_back()


def name_in_context(args):
    return describe(args[1])


def drop_in_context(args, why):
    args[0]._never_ran(why)


special_message(run, name_of_call, drop_call)
special_message(run_in_context, name_in_context, drop_in_context)
trace_name_argument(run_in_context)
late_fill(LATE_ACALL, acall)


# Coming back

cdef object completion_stacks = weakref.WeakKeyDictionary()     # for loops that take no attribute


cdef st_atomic_u64 epoch                            # how many completion_stacks have ended


cdef CompletionStack completions_of(object loop):
    cdef uint64_t now = st_load_acquire(&epoch)
    cdef object completions
    if st_recent.loop == <PyObject *>loop and st_recent.epoch == now:
        completions = <object>st_recent.completions
        if (<CompletionStack>completions).loop() is loop:     # and not one that was made where that one was
            return <CompletionStack>completions
    completions = getattr(loop, "_spdkthread_completions", None)
    if completions is None:
        completions = completion_stacks.get(loop)
        if completions is None:
            completions = new_completions(loop)
            try:
                loop._spdkthread_completions = completions
            except AttributeError:
                completion_stacks[loop] = completions
    st_recent.loop = <PyObject *>loop
    st_recent.completions = <PyObject *>completions
    st_recent.epoch = now
    return <CompletionStack>completions


cdef CompletionStack new_completions(object loop):
    cdef CompletionStack completions = CompletionStack.__new__(CompletionStack)
    cdef Drain drain = Drain.__new__(Drain)
    drain.completions = weakref.ref(completions)
    completions.loop = weakref.ref(loop)
    completions.drain_it = drain
    cores = usable_cores()
    completions.one_core = next(iter(cores)) if len(cores) == 1 else -1
    return completions


cdef inline Call unstack(PyObject **each):
    """The first of those that were taken, which goes on to the next."""
    cdef Call call = <Call>each[0]
    each[0] = call.below
    call.below = NULL
    Py_DECREF_raw(<PyObject *>call)     # the stack's
    return call


cdef class CompletionStack:
    """The way back to one asyncio loop."""

    def __del__(self):
        # The loop is gone. Answers that it never took: their futures are gone with it, exceptions are not.
        self.abandon()

    def __dealloc__(self):
        st_add_relaxed(&epoch, 1)

    cdef int push(self, Call call) except -1:
        """From any OS thread."""
        cdef void *below
        Py_INCREF(call)
        while True:
            below = st_loadp_relaxed(&self.top)
            call.below = <PyObject *>below
            if st_casp_acq_rel(&self.top, below, <void *><PyObject *>call):
                break
        if below != NULL:
            return 0
        st_fence_seq_cst()
        if st_load32_relaxed(&self.watching):
            return 0
        loop = self.loop()
        if loop is None:
            self.abandon()
            return 0
        if st_exchange32(&self.drain_queued, 1):
            if loop.is_closed():
                self.abandon()
            return 0
        try:
            loop.call_soon_threadsafe(self.drain_it)
        except RuntimeError:
            self.abandon()          # it is closed
        except BaseException:
            # A signal's handler raised, perhaps after the loop was told. Later pushers find the stack begun and wake no
            # loop, so it is told again.
            try:
                loop.call_soon_threadsafe(self.drain_it)
            except Exception:
                st_exchange32(&self.drain_queued, 0)
                self.abandon()
            raise
        return 0

    cdef PyObject *take(self) noexcept:
        """The whole stack, the oldest first."""
        cdef PyObject *call = <PyObject *>st_exchangep(&self.top, NULL)
        cdef PyObject *first = NULL
        cdef PyObject *below
        while call != NULL:
            below = (<Call>call).below
            (<Call>call).below = first
            first = call
            call = below
        return first

    cdef int drain(self, bint at_once) except -1:
        """On the loop: settle what has come back; `at_once` when no task is running."""
        cdef PyObject *each = self.take()
        cdef Call call
        while each != NULL:
            call = unstack(&each)
            call.returned_to = self
            try:
                try:
                    call.deliver(at_once)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    self.loop().call_exception_handler(
                        {"message": "the result of an acall could not be delivered", "exception": error}
                    )
            except BaseException:
                self.put_back(each)     # those behind it have done nothing
                raise
        return 0

    cdef int put_back(self, PyObject *each) except -1:
        while each != NULL:
            self.push(unstack(&each))
        return 0

    cdef int abandon(self) except -1:
        cdef PyObject *each = self.take()
        first = None
        while each != NULL:
            try:
                unstack(&each).report()
            except BaseException as error:
                first = error if first is None else first
        if first is not None:
            raise first
        return 0

    # Watching

    cdef bint count_call(self, Call call) noexcept:
        """On the loop: a call is about to be sent. Whether its caller seems to wait for one answer at a time.

        A caller that has not retrieved the outcome of its last call sends several at once.
        """
        cdef bint one_by_one = self.consumed == self.sent
        self.sent += 1
        call.number = self.sent
        if self.burst:
            self.burst -= 1
            return False
        if not one_by_one:
            self.burst = BURST
        return one_by_one

    cdef bint worth_watching(self, SpdkThread thread) noexcept:
        """On the loop: whether the answer to a call that is about to be sent may be back in a moment."""
        cdef wakeup_state *wakeup
        cdef uint64_t before = self.asked
        self.asked = st_ticks()
        # One that the caller drives cannot answer.
        reactor = thread._reactor
        if reactor is None:
            return False
        # Nor can a reactor whose core this OS thread occupies.
        if self.one_core == (<Reactor>reactor).core:
            return False
        wakeup = <wakeup_state *>st_loadp_relaxed(&thread.c.wakeup)
        self.watch_ticks = WAKE_TICKS if self.loop_was_woken else WATCH_TICKS
        if wakeup != NULL and st_load32_relaxed(&wakeup.sleeping) & WAKEUP_ASLEEP:
            if self.asked - before > MOMENT_TICKS:
                return False
            self.watch_ticks = WAKE_TICKS
        if self.misses:
            self.skipped += 1
            if self.skipped < <uint32_t>1 << self.misses:
                return False
            self.skipped = 0
        return True

    cdef void watch(self) noexcept:
        """Right after sending: wait a moment for the answer, without the GIL."""
        cdef uint64_t end
        with nogil:
            gil_handoff_released()
            end = st_ticks() + self.watch_ticks
            while st_loadp_relaxed(&self.top) == NULL and st_ticks() < end:
                st_pause()
            gil_handoff_wait()
        if st_loadp_relaxed(&self.top) != NULL:
            self.misses = 0
            self.loop_was_woken = False
        elif self.misses < MOST_MISSES:
            self.misses += 1

    cdef int take_answers(self) except -1:
        """After watching: take the answers for which the loop was not woken."""
        if st_loadp_relaxed(&self.top) == NULL:
            return 0
        self.in_a_row += 1
        if self.in_a_row < IN_A_ROW:
            return self.drain(False)
        self.in_a_row = 0
        if not st_exchange32(&self.drain_queued, 1):
            self.loop().call_soon(self.drain_it)
        return 0


# The stack is C memory. Calls on it refer to the loop, and the loop to its CompletionStack: the garbage collector has
# to be shown that cycle.

# The collector calls this: no tracer may.
@cython.profile(False)
@cython.linetrace(False)
cdef int traverse(PyObject *completions, st_visitproc visit, void *arg) noexcept:
    cdef PyObject *call = <PyObject *>st_loadp_relaxed(&(<CompletionStack>completions).top)
    cdef int stop = st_call_base_traverse(completions, visit, arg)
    while call != NULL and not stop:
        stop = visit(call, arg)
        call = (<Call>call).below
    return stop


st_replace_traverse(<PyObject *>CompletionStack, traverse)


cdef class Drain:
    """What the loop is woken with."""

    def __call__(self):
        completions = self.completions()
        if completions is not None:
            # First, so that a pusher that still found it due has pushed by now.
            st_exchange32(&(<CompletionStack>completions).drain_queued, 0)
            (<CompletionStack>completions).drain(True)


cdef object usable_cores():
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


seal(Call)
seal(CompletionStack)
seal(Drain)
