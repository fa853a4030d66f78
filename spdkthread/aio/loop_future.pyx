"""LoopFuture: a future of an asyncio loop whose callbacks may be called in a batch. See ``loop_future.pxd``."""

import sys

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from spdkthread.atomics cimport st_store32_relaxed
from spdkthread.cpython_ext cimport PYGEN_NEXT, PYGEN_RETURN, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit

from spdkthread.errors import SpdkThreadError

__all__ = ["LoopFuture"]

cdef extern from *:
    """
    typedef int (*st_sender)(PyObject *, PyObject *, PyObject **);
    /* The slot by which a coroutine resumes what it awaits; Cython fills it for its generators only. */
    static inline void st_set_sender(PyObject *type, st_sender sender) {
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)(void (*)(void))sender;
    }
    """
    ctypedef int (*st_sender)(PyObject *, PyObject *, PyObject **) except -1
    void st_set_sender(PyObject *type, st_sender sender)

# Of asyncio, from the first future on.
cdef object CancelledError = None
cdef object InvalidStateError = None
cdef object extract_stack = None

STATES = ("PENDING", "CANCELLED", "FINISHED")


cdef int load() except -1:
    global CancelledError, InvalidStateError, extract_stack
    from asyncio import CancelledError as cancelled
    from asyncio import InvalidStateError as invalid
    from asyncio.format_helpers import extract_stack as extract

    CancelledError, InvalidStateError, extract_stack = cancelled, invalid, extract
    return 0


cdef class LoopFuture:
    """LoopFuture(loop)\n--\n\n\
    A future of the asyncio loop `loop`; the methods are those of `asyncio.Future`.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The loop whose tasks may await it.

    Notes
    -----
    **Thread safety:** on the loop's OS thread only, as with `asyncio.Future`.
    """

    def __init__(self, loop):
        self.begin(loop)

    cdef int begin(self, object loop) except -1:
        if CancelledError is None:
            load()
        self.loop = loop
        if loop.get_debug():
            self.made_at = extract_stack(sys._getframe(0))
        return 0

    def __repr__(self):
        text = f"<{type(self).__name__} {STATES[self.state_now()].lower()}"
        if self.state_now() == LOOP_FUTURE_FINISHED:
            text += f" {'exception' if self.failed else 'result'}={self.value!r}"
        if self.made_at:
            *_, frame = self.made_at
            text += f" created at {frame[0]}:{frame[1]}"
        return text + ">"

    def __del__(self):
        if not self.unseen:
            return
        self.unseen = False
        context = {
            "message": f"{type(self).__name__} exception was never retrieved",
            "exception": self.value,
            "future": self,
        }
        if self.made_at:
            context["source_traceback"] = self.made_at
        self.loop.call_exception_handler(context)

    # Awaiting

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_done():
            raise StopIteration(self.outcome())
        self.hand_out()
        return self

    @property
    def _asyncio_future_blocking(self):
        return self.blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value):
        self.blocking = value

    # Asking

    def get_loop(self):
        """Return the loop."""
        return self.loop

    def done(self) -> bool:
        """Whether it has an outcome, or was cancelled."""
        return self.is_done()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.is_cancelled()

    def result(self):
        """Return the result.

        Raises
        ------
        asyncio.InvalidStateError
            When there is none yet.
        asyncio.CancelledError
            When it was cancelled.
        BaseException
            The exception that is its outcome.
        """
        return self.outcome()

    def exception(self):
        """Return the exception that is the outcome, or None. Raises as `result` while there is no outcome."""
        if self.state_now() != LOOP_FUTURE_FINISHED:
            return self.outcome()
        self.unseen = False
        self.on_retrieved()
        return self.value if self.failed else None

    # Telling

    def set_result(self, result) -> None:
        """Finish with a result. Raises asyncio.InvalidStateError when it is done."""
        self.refuse_if_done()
        self.settle(result, False, False)

    def set_exception(self, exception) -> None:
        """Finish with an exception, or a class of them. Raises asyncio.InvalidStateError when it is done."""
        self.refuse_if_done()
        if isinstance(exception, type):
            exception = exception()
        if isinstance(exception, StopIteration):
            raise TypeError("a StopIteration would end the coroutine that awaits it: it cannot be an outcome")
        if not isinstance(exception, BaseException):
            raise TypeError(f"an outcome must be an exception, got {type(exception).__name__}")
        self.settle(exception, True, False)

    def cancel(self, msg=None) -> bool:
        """Cancel it, unless it is done: then False."""
        return self.try_cancel(msg)

    def add_done_callback(self, fn, *, context=None) -> None:
        """Have ``fn(future)`` called by the loop, in `context`, when it is done."""
        if context is None:
            context = PyContext_CopyCurrent()
        if self.is_done():
            self.loop.call_soon(fn, self, context=context)
        elif self.callback is None and self.more_callbacks is None:
            self.callback = fn
            self.callback_context = context
        elif self.more_callbacks is None:
            self.more_callbacks = [(fn, context)]
        else:
            self.more_callbacks.append((fn, context))

    def remove_done_callback(self, fn) -> int:
        """Take back each addition of `fn`; returns how many there were."""
        cdef Py_ssize_t removed = 0
        if self.callback is not None and self.callback == fn:
            self.callback = self.callback_context = None
            removed = 1
        if self.more_callbacks is not None:
            kept = [pair for pair in self.more_callbacks if pair[0] != fn]
            removed += len(self.more_callbacks) - len(kept)
            self.more_callbacks = kept or None
        return removed

    # What asyncio touches of a future

    @property
    def _loop(self):
        return self.loop

    @property
    def _state(self):
        return STATES[self.state_now()]

    @property
    def _source_traceback(self):
        return self.made_at

    @property
    def _cancel_message(self):
        return self.cancel_message

    @property
    def _log_traceback(self):
        return self.unseen

    @_log_traceback.setter
    def _log_traceback(self, value):
        if value:
            raise ValueError("_log_traceback can only be set to False")
        self.unseen = False

    @property
    def _result(self):
        return None if self.failed else self.value

    @property
    def _exception(self):
        return self.value if self.failed else None

    @property
    def _callbacks(self):
        first = [] if self.callback is None else [(self.callback, self.callback_context)]
        return first + (self.more_callbacks or []) or None

    def _make_cancelled_error(self):
        return CancelledError() if self.cancel_message is None else CancelledError(self.cancel_message)

    # Inside

    cdef int check_ready(self) except -1:
        if self.loop is None:
            raise SpdkThreadError(f"this {type(self).__name__} was never initialised")
        return 0

    cdef int refuse_if_done(self) except -1:
        self.check_ready()
        if self.is_done():
            raise InvalidStateError(f"{self!r} has its outcome already")
        return 0

    cdef int settle(self, object value, bint failed, bint at_once) except -1:
        """Set the outcome, the first one. `at_once`: in a callback of the loop, so its own may be called here."""
        self.value = value
        if failed:
            self.failed = True
            self.traceback = value.__traceback__
            self.unseen = True
        st_store32_relaxed(&self.state, LOOP_FUTURE_FINISHED)
        return self.call_callbacks() if at_once and self.made_at is None else self.schedule_callbacks()

    cdef bint try_cancel(self, object message) except -1:
        self.check_ready()
        self.unseen = False
        if self.is_done():
            return False
        self.cancel_message = message
        st_store32_relaxed(&self.state, LOOP_FUTURE_CANCELLED)
        self.schedule_callbacks()
        return True

    cdef object outcome(self):
        cdef loop_future_state state = self.state_now()
        if state == LOOP_FUTURE_PENDING:
            self.check_ready()
            raise InvalidStateError(f"{self!r} has no outcome yet")
        if state == LOOP_FUTURE_CANCELLED:
            raise self._make_cancelled_error()
        self.unseen = False
        self.on_retrieved()
        if self.failed:
            raise self.value.with_traceback(self.traceback)
        return self.value

    cdef int on_retrieved(self) except -1:
        """Hook for classes that extend this one: the outcome, no cancellation, was retrieved."""
        return 0

    cdef int hand_out(self) except -1:
        """To a task that awaits it, before there is an outcome."""
        self.check_ready()
        self.blocking = True
        return 0

    cdef int schedule_callbacks(self) except -1:
        cdef object fn = self.callback
        cdef object context = self.callback_context
        cdef list more = self.more_callbacks
        self.callback = self.callback_context = self.more_callbacks = None
        if fn is not None:
            self.loop.call_soon(fn, self, context=context)
        if more is not None:
            for fn, context in more:
                self.loop.call_soon(fn, self, context=context)
        return 0

    cdef int call_callbacks(self) except -1:
        cdef object fn = self.callback
        cdef object context = self.callback_context
        self.callback = self.callback_context = None
        try:
            if fn is not None:
                self.call_one(fn, context)
            while self.more_callbacks is not None:
                fn, context = self.more_callbacks.pop(0)
                if not self.more_callbacks:
                    self.more_callbacks = None
                self.call_one(fn, context)
        except BaseException:
            self.schedule_callbacks()       # a KeyboardInterrupt; the others are none the worse for it
            raise
        return 0

    cdef int call_one(self, object fn, object context) except -1:
        try:
            PyContext_Enter(context)
            try:
                fn(self)
            finally:
                PyContext_Exit(context)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.loop.call_exception_handler(
                {"message": f"Exception in callback {fn!r}", "exception": error, "future": self}
            )
        return 0


cdef int send(PyObject *awaited, PyObject *nothing, PyObject **result) except -1:
    """What `__next__` does, without an exception for the way back."""
    cdef LoopFuture future = <LoopFuture>awaited
    cdef object outcome
    if future.is_done():
        outcome = future.outcome()
        Py_INCREF(outcome)
        result[0] = <PyObject *>outcome
        return PYGEN_RETURN
    future.hand_out()
    Py_INCREF(future)
    result[0] = awaited
    return PYGEN_NEXT


cdef int await_by_sending(object future_class) except -1:
    """Once for the class and for each class that is made of it."""
    st_set_sender(<PyObject *>future_class, send)
    return 0


await_by_sending(LoopFuture)
