"""for_each_thread: one call on every thread, one after the other."""

import weakref

from spdkthread.future cimport FutureCore, new_future
from spdkthread.lib cimport ThreadLib, lib_or_default
from spdkthread.cpython_ext cimport seal
from spdkthread.late cimport LATE_FOR_EACH_THREAD, late_fill
from spdkthread.thread cimport SpdkThread

from spdkthread.error_log import describe
from spdkthread.errors import NoThreadError, ThreadExitedError
from spdkthread.thread import get_thread

__all__ = ["for_each_thread"]


def for_each_thread(fn, cpl=None, *, lib=None):
    """Run ``fn()`` on every thread in creation order, one after the other, each by a message.

    The caller's own thread is among them. Threads that are created meanwhile are visited; one that is exiting when its
    turn comes is skipped. When `fn` raises, that is reported like any callback's exception and the iteration goes on.

    Parameters
    ----------
    fn : callable
    cpl : callable, optional
        Runs at the end, by a message on the caller's thread. Only where an SpdkThread is current.
    lib : ThreadLib, optional
        The library of the threads; by default the current thread's, and where none is current the process-wide one.

    Returns
    -------
    concurrent.futures.Future
        Resolves to None after `cpl`.

    Raises
    ------
    NoThreadError
        When there is a `cpl` and no current SpdkThread on which it could run.
    TypeError
        When `fn` or `cpl` is not callable.

    Notes
    -----
    **Thread safety:** on any SpdkThread, which does not exit before the iteration has ended; without `cpl` on any OS
    thread: where no SpdkThread is current, the future resolves on the last thread that is visited. Answers to
    ``spdk_for_each_thread``.
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if cpl is not None and not callable(cpl):
        raise TypeError(f"cpl must be callable or None, got {type(cpl).__name__}")
    cdef ThreadLib over = None if lib is None else lib_or_default(lib)
    origin = get_thread()
    if origin is None and cpl is not None:
        raise NoThreadError(
            "for_each_thread needs a current SpdkThread on which cpl can run; without cpl it needs none"
        )
    if over is None:
        over = lib_or_default(None) if origin is None else origin.lib
    cdef FutureCore future
    cdef Iteration iteration = Iteration.__new__(Iteration)
    iteration.fn = fn
    iteration.cpl = cpl
    iteration.lib = over
    iteration.origin = origin
    iteration.future = future = new_future(weakref.ref(iteration))
    future.start()
    if origin is not None:
        origin._hold(iteration)
    try:
        iteration.go_on(0)
    except BaseException:
        iteration.future = None
        if origin is not None:
            origin._let_go(iteration)
        raise
    return future


cdef class Iteration:
    """A for_each_thread under way: the message that hops from thread to thread."""

    def __str__(self):
        return f"for_each_thread of {describe(self.fn)}"

    cdef int go_on(self, id) except -1:
        """Go to the next thread that still runs, or back to the caller's."""
        while True:
            thread = self.lib._thread_after(id)
            if thread is None:
                self.target = None
                if self.origin is None:
                    self.complete()
                else:
                    self.origin._send_library_msg(self.complete)
                return 0
            id = thread.id
            if thread.is_running:
                self.target = thread
                try:
                    thread._send_library_msg(self.visit, thread)
                    return 0
                except ThreadExitedError:
                    pass        # it exited between the look and the send

    def visit(self, SpdkThread thread not None):
        try:
            self.fn()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            thread.c.errors += 1
            message = f"for_each_thread's {describe(self.fn)} failed on thread {thread.name!r}"
            self.lib._report(message, error, thread, "fn", self.fn)
        finally:
            self.go_on(thread.id)

    def complete(self):
        future, self.future = self.future, None
        if self.origin is not None:
            self.origin._let_go(self)
        try:
            if self.cpl is not None:
                self.cpl()
        finally:
            future.set_result(None)

    def __del__(self):
        if self.future is not None:
            self.future._settle_orphan(f"{self} never ended: the threads that had to run it are gone")

    # As the `waiting.Producer` of its future

    def _needed(self):
        target, origin = self.target, self.origin
        return tuple([one for one in (target, origin) if one is not None])

    def _task_name(self):
        return str(self)

    def _reported_on(self):
        return self.origin


seal(Iteration)
late_fill(LATE_FOR_EACH_THREAD, for_each_thread)
