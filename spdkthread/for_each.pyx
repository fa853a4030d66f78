"""for_each_thread: one call on every thread, one after the other."""

from spdkthread.future cimport new_future
from spdkthread.lib cimport ThreadLib, lib_or_default
from spdkthread.sealed cimport seal
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
        Runs at the end, by a message on the caller's thread.
    lib : ThreadLib, optional
        Whose threads; by default those of the current thread's library.

    Returns
    -------
    concurrent.futures.Future
        Resolves to None after `cpl`.

    Raises
    ------
    NoThreadError
        When there is no current SpdkThread.
    TypeError
        When `fn` or `cpl` is not callable.

    Notes
    -----
    **Thread safety:** on any SpdkThread. That thread does not exit before the iteration has ended. Answers to
    ``spdk_for_each_thread``.
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if cpl is not None and not callable(cpl):
        raise TypeError(f"cpl must be callable or None, got {type(cpl).__name__}")
    cdef ThreadLib over = None if lib is None else lib_or_default(lib)
    origin = get_thread()
    if origin is None:
        raise NoThreadError("for_each_thread needs a current SpdkThread to come back to")
    if over is None:
        over = origin.lib
    cdef Iteration iteration = Iteration.__new__(Iteration)
    iteration.fn = fn
    iteration.cpl = cpl
    iteration.lib = over
    iteration.origin = origin
    iteration.future = new_future(origin)
    iteration.future.start()
    origin._hold(iteration)
    try:
        iteration.go_on(0)
    except BaseException:
        origin._let_go(iteration)
        raise
    return iteration.future


cdef class Iteration:
    """A for_each_thread under way: the message that hops from thread to thread."""

    def __str__(self):
        return f"for_each_thread of {describe(self.fn)}"

    cdef int go_on(self, id) except -1:
        """Hop to the next thread that still runs, or home."""
        while True:
            thread = self.lib._thread_after(id)
            if thread is None:
                self.origin._send_library_msg(self.complete)
                return 0
            id = thread.id
            if thread.is_running:
                try:
                    thread._send_library_msg(self.visit, thread)
                    return 0
                except ThreadExitedError:
                    pass        # it exited between the look and the send

    def visit(self, SpdkThread thread):
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
        self.origin._let_go(self)
        try:
            if self.cpl is not None:
                self.cpl()
        finally:
            self.future.set_result(None)


seal(Iteration)
