"""File descriptors of a thread. See ``fd_handler.pxd``."""

import logging
import os
import stat

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from spdkthread.atomics cimport st_load32_relaxed
from spdkthread.clock cimport st_cycles
from spdkthread.cpython_ext cimport seal
from spdkthread.fd_group cimport (
    FD_BATCH,
    FD_READABLE,
    FD_WRITABLE,
    fd_event,
    fd_group_add,
    fd_group_change,
    fd_group_open,
    fd_group_remove,
    fd_group_wait,
    fd_is_open,
    fd_set_part,
    fd_set_replace,
)
from spdkthread.lib cimport ThreadLib
from spdkthread.thread_poll cimport current_thread, report_locks
from spdkthread.thread_struct cimport THREAD_EXITED, fd_native_s, thread_s
from spdkthread.trace_ring cimport (
    TRACE_FD,
    st_trace_word,
    st_tracing,
    trace_enrol,
    trace_key,
    trace_put,
)

from spdkthread.errors import FdError, ThreadExitedError

__all__ = ["FdHandler"]

logger = logging.getLogger("spdkthread")


cdef uint32_t events_of(object events) except 0:
    """Read ``"r"``, ``"w"`` or ``"rw"``."""
    cdef uint32_t mask = 0
    if not isinstance(events, str):
        raise TypeError(f"events must be a str of 'r' and 'w', got {type(events).__name__}")
    for letter in events:
        if letter == "r":
            mask |= FD_READABLE
        elif letter == "w":
            mask |= FD_WRITABLE
        else:
            raise ValueError(f"events must be 'r', 'w' or 'rw', got {events!r}")
    if mask == 0:
        raise ValueError("events must be 'r', 'w' or 'rw', got ''")
    return mask


cdef str events_text(uint32_t mask):
    return ("r" if mask & FD_READABLE else "") + ("w" if mask & FD_WRITABLE else "")


cdef class FdHandler:
    """FdHandler()\n--\n\n\
    A registered file descriptor. Made by `SpdkThread.register_fd`.

    Notes
    -----
    **Thread safety:** `unregister` from any OS thread: on the handler's own thread at once, from elsewhere by a
    message. `modify` on the handler's thread only. Answers to ``struct spdk_interrupt``.
    """

    def __repr__(self):
        state = "registered" if self.registered else "unregistered" if self._over else "on its way"
        return f"<FdHandler {self.name!r} of fd {self.fd} {self.events!r} on {self.thread.name!r}, {state}>"

    def modify(self, events) -> None:
        """Wait for other events from now on.

        Raises
        ------
        WrongThreadError
            On any thread but the handler's own.
        FdError
            When it is unregistered, or its descriptor was closed.
        TypeError, ValueError
            When `events` is none of ``"r"``, ``"w"``, ``"rw"``.
        """
        cdef int failed
        cdef uint32_t mask = events_of(events)
        self.thread._check_here(f"modify of {self!r}")
        if not self.registered:
            raise FdError(f"{self!r} is not registered")
        failed = fd_group_change(self.fds.c.fd_set, self.fd, self.mask, mask, self.tag)
        if failed:
            raise FdError(f"{self!r} cannot be modified: {os.strerror(failed)}")
        self.mask = mask

    def unregister(self) -> None:
        """Never call it again. Idempotent; works for a descriptor that was closed already."""
        # Without a thread the garbage collector has taken both apart.
        if self.thread is not None and current_thread() == self.fds.c:
            self.fds.remove(self)
        elif not self._over:
            try:
                self.thread._send_library_msg(self.fds.remove, self)
            except ThreadExitedError:
                pass            # the thread has no handlers any more

    @property
    def events(self) -> str:
        """What it waits for: ``"r"``, ``"w"`` or ``"rw"``."""
        return events_text(self.mask)


def make_handler(thread, fd, fn, events, name):
    """Check the arguments of `SpdkThread.register_fd`; a handler that is not registered yet."""
    if not callable(fn):
        raise TypeError(f"a handler of {thread!r} must be callable, got {type(fn).__name__}")
    cdef FdHandler handler = FdHandler.__new__(FdHandler)
    handler.mask = events_of(events)
    number = fd if isinstance(fd, int) else getattr(fd, "fileno", None)
    if callable(number):
        number = number()
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"fd must be an int or have fileno(), got {type(fd).__name__}")
    if number < 0:
        raise FdError(f"{number} is not an open file descriptor")
    try:
        mode = os.fstat(number).st_mode
    except (OSError, OverflowError) as error:
        raise FdError(f"fd {number} cannot be registered on {thread!r}: {error}") from None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        raise FdError(f"fd {number} cannot be waited for on {thread!r}: a regular file is always ready")
    if name is None:
        name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    handler.fd = number
    handler.name = name
    handler.thread = thread
    handler.fds = thread._fds
    handler.fn = fn
    return handler


cdef class FdHandlers:
    """The handlers of one thread, and their set in the kernel. On that thread only."""

    def __cinit__(self):
        self.by_fd = {}

    cdef object reactor(self):
        """The reactor that polls the thread, or None."""
        return (<object>self.c.owner)._placed_on()

    def add(self, FdHandler handler not None):
        """Register a handler; nothing for one that was unregistered on its way."""
        cdef int failed
        cdef object owner = <object>self.c.owner
        if st_load32_relaxed(&self.c.state) == THREAD_EXITED:
            raise ThreadExitedError(f"{owner!r} takes no file descriptors any more")
        if handler._over:
            return
        try:
            self.check(handler)
            if self.c.fd_set < 0:
                self.c.fd_set = fd_group_open()
                if self.c.fd_set < 0:
                    raise FdError(f"{handler!r} cannot be registered: no file descriptor for the thread's fd set")
                self.c.fd_set_serial += 1
            self.registrations += 1
            handler.tag = <uint64_t>self.registrations << 32 | <uint32_t>handler.fd
            failed = fd_group_add(self.c.fd_set, handler.fd, handler.mask, handler.tag)
            if failed:
                raise FdError(
                    f"fd {handler.fd} cannot be waited for on {owner!r} by {handler.name!r}: {os.strerror(failed)}"
                )
            reactor = None if self.c.fd_count else self.reactor()
            if reactor is not None:
                try:
                    reactor._watch_fds(owner)
                except BaseException:
                    fd_group_remove(self.c.fd_set, handler.fd, handler.mask)
                    raise
        except BaseException:
            handler._over = True
            raise
        handler.registered = True
        self.by_fd[handler.fd] = handler
        self.c.fd_count += 1
        if handler.native.fn != NULL:
            handler.native.next = self.c.fd_natives
            self.c.fd_natives = &handler.native
            self.c.fd_native_count += 1

    def remove(self, FdHandler handler not None):
        """Unregister a handler; nothing for one that is not registered."""
        handler._over = True
        if not handler.registered:
            return
        handler.registered = False
        if handler.native.fn != NULL:
            self.unlink_native(handler)
        del self.by_fd[handler.fd]
        self.c.fd_count -= 1
        if fd_group_remove(self.c.fd_set, handler.fd, handler.mask):
            self.renew_set()
        reactor = None if self.c.fd_count else self.reactor()
        if reactor is not None:
            reactor._unwatch_fds(<object>self.c.owner)

    cdef int check(self, FdHandler handler) except -1:
        """Raise when the descriptor has a handler on this thread."""
        cdef FdHandler other = self.by_fd.get(handler.fd)
        if other is None:
            return 0
        why = (
            f"{handler!r} cannot be registered: fd {handler.fd} has a handler on {<object>self.c.owner!r} already, "
            f"{other!r}"
        )
        # The kernel knows a registration by its file, not by the number alone.
        if fd_group_change(self.c.fd_set, other.fd, other.mask, other.mask, other.tag):
            why += "; that was for a file that was closed since, and the number is another's: unregister it first"
        raise FdError(why)

    cdef int unlink_native(self, FdHandler handler) except -1:
        cdef fd_native_s **link = &self.c.fd_natives
        while link[0] != NULL and link[0] != &handler.native:
            link = &link[0].next
        if link[0] != NULL:
            link[0] = handler.native.next
            self.c.fd_native_count -= 1
        return 0

    cdef int add_all_to(self, int fd_set) except -1:
        """Add all handlers' descriptors to a set; that fails for those that were closed."""
        cdef FdHandler handler
        for handler in list(self.by_fd.values()):
            fd_group_add(fd_set, handler.fd, handler.mask, handler.tag)
        return 0

    cdef int renew_set(self) except -1:
        """Begin a new set without a descriptor that was closed before it was unregistered.

        While a duplicate of it is open, in another process perhaps, the kernel goes on reporting its file, and no
        number is left by which to take it out of the old set.

        The new set takes the number of the old one, which is never free in between: a descriptor of the user's that
        got it would be taken for the set by the reactor or loop that watches this thread.
        """
        cdef FdHandler handler
        cdef int failed
        cdef int fresh = fd_group_open()
        cdef object owner = <object>self.c.owner
        if fresh < 0:
            logger.error("%r goes on hearing of a descriptor that was closed: none is left for another fd set", owner)
            return 0
        for handler in list(self.by_fd.values()):
            # The number of another closed one may be some other file's by now, which is not to be added.
            if not fd_group_change(self.c.fd_set, handler.fd, handler.mask, handler.mask, handler.tag):
                fd_group_add(fresh, handler.fd, handler.mask, handler.tag)
        reactor = self.reactor()
        if reactor is not None:
            reactor._unwatch_fds(owner)
        failed = fd_set_replace(self.c.fd_set, fresh)
        if failed:
            logger.error("%r cannot renew its fd set: %s", owner, os.strerror(failed))
        self.c.fd_set_serial += 1
        if self.c.fd_count and reactor is not None:
            reactor._watch_fds(owner)
        return 0

    cdef bint mend(self) except -1:
        """Make a new set when other code has closed this one. Whether it had."""
        if self.c.fd_set < 0 or fd_is_open(self.c.fd_set):
            return False
        self.c.fd_set = fd_group_open()
        self.c.fd_set_serial += 1
        self.add_all_to(self.c.fd_set)
        return True

    cdef int run(self) except -1:
        """Call the handlers of what is ready now; how many were called."""
        cdef fd_event ready[64]
        cdef int index, count
        cdef FdHandler handler
        cdef uint64_t tag
        cdef int ran = 0
        if self.c.fd_natives != NULL:
            for handler in list(self.by_fd.values()):
                if handler.native.calls and handler.registered:
                    handler.native.calls = False
                    self.call(handler)
                    ran += 1
            if self.c.fd_count == self.c.fd_native_count:
                return ran
        count = fd_group_wait(self.c.fd_set, ready, FD_BATCH)
        for index in range(count):
            tag = ready[index].tag
            handler = self.by_fd.get(<int>(tag & 0xFFFFFFFF))
            # An earlier handler may have unregistered it, changed its events, or registered another file there.
            if handler is None or handler.tag != tag or not ready[index].events & handler.mask:
                continue
            if handler.native.fn != NULL:
                continue        # it has run, without the GIL
            self.call(handler)
            ran += 1
        return ran

    cdef int call(self, FdHandler handler) except -1:
        cdef uint64_t key = 0, traced = 0
        cdef ThreadLib lib
        self.c.fds_run += 1
        self.running = handler
        if st_tracing():
            key = trace_key(<PyObject *>handler.fn)
            traced = st_cycles()
        try:
            handler.fn()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.c.errors += 1
            owner = <object>self.c.owner
            lib = owner.lib
            lib.report(f"handler {handler.name!r} failed on thread {owner.name!r}", error, owner, "fd_handler", handler)
        finally:
            self.running = None
            if traced:
                trace_put(TRACE_FD, self.c.trace_number, traced, st_cycles() - traced, key, handler.fd)
            if self.c.locks_held != NULL:
                report_handler_locks(self.c, handler)
        return 0

    cdef int forget_parent(self) except -1:
        """In the child of a fork, of a thread that is dead there. What is registered stays so in the parent."""
        cdef FdHandler handler
        self.close_set()
        for handler in list(self.by_fd.values()):
            handler.registered = False
            handler._over = True
        self.by_fd.clear()
        self.c.fd_count = 0
        self.c.fd_natives = NULL
        self.c.fd_native_count = 0
        return 0

    cdef int leave_to_parent(self) except -1:
        """In the child of a fork, of a thread that lives on: a set of its own, as the old one is the parent's."""
        if self.c.fd_set >= 0 and not fd_set_part(self.c.fd_set):
            self.c.fd_set_serial += 1
            self.add_all_to(self.c.fd_set)
        return 0

    cdef int close_set(self) noexcept:
        if self.c.fd_set >= 0:
            close(self.c.fd_set)
            self.c.fd_set = -1
        return 0


cdef FdHandlers new_fd_handlers(thread_s *thread):
    cdef FdHandlers handlers = FdHandlers.__new__(FdHandlers)
    handlers.c = thread
    return handlers


cdef int report_handler_locks(thread_s *thread, FdHandler handler) except -1:
    return report_locks(thread, "handler", <PyObject *>handler)


seal(FdHandler)
seal(FdHandlers)

trace_enrol(&st_trace_word)
