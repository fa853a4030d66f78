"""SpdkThread: messages, pollers and states."""

cimport cython

import logging
import os
import time
from operator import attrgetter

from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyCallable_Check, PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u64,
    st_casp_acq_rel,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_relaxed,
    st_loadp_acquire,
    st_sub_relaxed,
)
from spdkthread.call_later cimport Timer, new_timer
from spdkthread.clock cimport (
    account_read,
    account_ticks,
    delay_to_ticks,
    never_less,
)
from spdkthread.cpython_ext cimport (
    PyCallable_CheckRaw,
    Py_DECREF_raw,
    add_fast_method,
    fast_method,
    pass_on,
)
from spdkthread.current_reactor cimport current_reactor
from spdkthread.driver cimport driver_is_here
from spdkthread.exit_blockers cimport BLOCKER_LOOP, BLOCKER_OPERATION, BLOCKER_UNREGISTRATION
from spdkthread.fd_handler cimport FdHandler
from spdkthread.future cimport FutureCore, new_future
from spdkthread.late cimport (
    LATE_ACALL,
    LATE_EXECUTOR,
    LATE_IO_DEVICE,
    LATE_SPAWN,
    LATE_START_TRACE,
    LATE_THREAD,
    late,
    late_fill,
    late_found,
)
from spdkthread.lib cimport lib_or_default
from spdkthread.native cimport NativeCall, native_message, native_poller, poller_fn
from spdkthread.poller cimport Poller
from spdkthread.ring cimport (
    RING_FULL,
    RING_IS_CLOSED,
    RING_IS_STOPPING,
    RING_OK,
    RING_STOPPING,
    ring_capacity_for,
    ring_create,
    ring_destroy,
    ring_high_water,
    ring_pending,
    ring_wait_for_room,
    ring_want_room,
)
from spdkthread.send cimport (
    send_each,
    send_native,
    send_refused,
    thread_wake,
)
from spdkthread.thread_base cimport ThreadBase, pack, send_msg
from spdkthread.thread_poll cimport current_thread, set_current
from spdkthread.thread_struct cimport (
    ATTENTION_CRITICAL,
    BATCH_SIZE,
    CRITICAL_CLOSED,
    STEP_RAISED,
    THREAD_EXITED,
    THREAD_RUNNING,
    attention_set,
    critical_waiting,
    thread_s,
)
from spdkthread.trace_ring cimport st_trace_word, trace_enrol

from spdkthread.checks import check_integer, check_timeout
from spdkthread.cores import parse_cores
from spdkthread.errors import (
    ReactorError,
    RingFullError,
    RingFullTimeoutError,
    SpdkThreadError,
    ThreadExitedError,
    WrongThreadError,
)
from spdkthread.exit_blockers import exit_blockers, register_blocker
from spdkthread.fd_handler import make_handler
from spdkthread.future import run_call
from spdkthread.stats import ThreadStats
from spdkthread.waiting import told_of_full_ring, whereabouts

__all__ = ["SpdkThread", "get_thread"]

logger = logging.getLogger("spdkthread")

cdef object ZERO = 0                    # the one small int 0 that there is
cdef uint64_t END_OF_TIME = <uint64_t>1 << 63   # one period later is still a tick
cdef st_atomic_u64 live

STATES = ("running", "exiting", "exited")


def live_threads() -> int:
    """SpdkThread objects that exist. **Thread safety:** any OS thread."""
    return st_load_relaxed(&live)


def get_thread() -> SpdkThread | None:
    """The SpdkThread whose callback is running on this OS thread, or None.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_get_thread``.
    """
    cdef thread_s *thread = current_thread()
    return None if thread == NULL else <object>thread.owner


cdef class SpdkThread(ThreadBase):
    """SpdkThread(name=None, *, cpumask=None, ring_size=4096, poller_policy='one', lib=None)\n--\n\n\
    A lightweight thread: a message ring, pollers, timers and I/O channels, polled by one OS thread at a time.

    Parameters
    ----------
    name : str, optional
        By default ``thread_<id>``.
    cpumask : iterable of int or str, optional
        The cores on which it may be placed: numbers, ``"0-3,6"`` or ``"0x4f"``. None: every core.
    ring_size : int, default 4096
        Slots of the message ring, rounded up to a power of two. The ring is mapped here, once; pages that are never
        used cost nothing.
    poller_policy : {"one", "all"}
        ``"one"``: at most one active and one timed poller run per poll, as in SPDK 19.01. ``"all"``: every active
        poller once, in the order of registration, and every timed poller that is due.
    lib : ThreadLib, optional
        By default the process-wide one.

    Raises
    ------
    TypeError, ValueError
        For a bad argument.
    MemoryError
        When the ring does not fit into memory.
    SpdkThreadError
        When the library is closed.

    Notes
    -----
    **Thread safety:** as each member says; sending is legal from any OS thread. A thread on no reactor is its user's
    to drive: ``with thread:`` makes it current, `poll` polls it.

    Answers to ``spdk_thread_create``.
    """

    def __cinit__(self):
        st_add_relaxed(&live, 1)

    def __init__(self, name=None, *, cpumask=None, ring_size=4096, poller_policy="one", lib=None):
        cdef uint64_t capacity
        if self._ready:
            raise SpdkThreadError(f"{self!r} is initialised already")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, got {type(name).__name__}")
        if poller_policy not in ("one", "all"):
            raise ValueError(f"poller_policy must be 'one' or 'all', got {poller_policy!r}")
        if cpumask is not None:
            self._cpumask = parse_cores(cpumask)
        capacity = ring_capacity_for(ring_size)
        self.lib = lib_or_default(lib)
        self.c.clock = self.lib.clock
        self.c.policy_all = poller_policy == "all"
        self.c.ring = ring_create(capacity)
        if self.c.ring == NULL:
            raise MemoryError(f"no memory for a message ring of {capacity} slots")
        self.name = str(name) if name is not None else ""
        try:
            self.id = self.lib._add_thread(self)
        except BaseException:
            ring_destroy(self.c.ring)
            self.c.ring = NULL
            raise
        if name is None:
            self.name = f"thread_{self.id}"
        self._ready = True

    def __del__(self):
        self._drop()

    def __dealloc__(self):
        st_sub_relaxed(&live, 1)

    def __repr__(self):
        return f"<SpdkThread {self.name!r} id={self.id} {self.state}>"

    def __enter__(self):
        """Make it current on the calling OS thread, so that what belongs on this thread acts at once."""
        self._check_ready()
        self._claim_driver()
        # What was current is kept alive, and so is this: the OS thread's pointers are no references.
        self._entered.append(get_thread())
        Py_INCREF(self)
        set_current(&self.c)
        return self

    def __exit__(self, *exc_info):
        cdef SpdkThread outer
        if not self._entered or not driver_is_here(&self._driver):
            raise WrongThreadError(f"{self!r} was not entered on this OS thread")
        if current_thread() != NULL and not self._is_here():
            raise WrongThreadError(
                f"{self!r} is not the current thread, {get_thread()!r} is: they are left in the reverse order"
            )
        if self.c.polling and <uint32_t>len(self._entered) <= self._entered_before_poll:
            raise WrongThreadError(f"{self!r} cannot be left inside its own poll, which it was entered for")
        outer = self._entered.pop()
        # Entered in a callback that did not leave it, it is not current any more.
        if self._is_here():
            set_current(NULL if outer is None else &outer.c)
        self._release_driver()
        Py_DECREF_raw(<PyObject *>self)

    # Sending: from any OS thread

    # send_msg and try_send_msg stand at the end of this file, under "Fast methods".

    def send_msg_wait(self, fn, *args, timeout_s=None) -> None:
        """As `send_msg`, but wait until the ring has room.

        Parameters
        ----------
        timeout_s : float, optional
            Seconds to wait at most. None: for ever.

        Raises
        ------
        RingFullTimeoutError
            A `RingFullError` and a `TimeoutError`: there was no room in that time.
        WrongThreadError
            On a reactor's own OS thread, or in a callback of this thread: what waits there would hold up the very
            thread that makes room.
        ThreadExitedError, TypeError
            As `send_msg`.

        Notes
        -----
        **Thread safety:** any OS thread but those of reactors. Other Python threads run meanwhile.
        """
        cdef double pause_s
        cdef int64_t pause_ns
        cdef uint64_t polls
        if timeout_s is not None:
            check_timeout(timeout_s)
        if current_reactor() != NULL or self._is_here():
            raise WrongThreadError(f"waiting for room in {self!r} would stop the thread that is to make room")
        if self._post_now(fn, args):
            return
        began = time.monotonic()
        polls = self.stats.polls
        # A short ring may be empty before anything is said of its half.
        pause_s = 1e-3 if self.c.ring.capacity >= 64 else 20e-6
        told = False
        while True:
            ring_want_room(self.c.ring)
            if self._post_now(fn, args):
                return
            waited = time.monotonic() - began
            if timeout_s is not None:
                if waited >= timeout_s:
                    raise RingFullTimeoutError(
                        f"the ring of {whereabouts(self)} had no room for {timeout_s:g} s: {self.c.ring.capacity} "
                        "messages wait"
                    )
                pause_s = min(pause_s, timeout_s - waited)
            told = told or told_of_full_ring(self, polls, waited)
            pause_ns = <int64_t>(pause_s * 1e9)
            with nogil:
                ring_wait_for_room(self.c.ring, pause_ns)
            PyErr_CheckSignals()
            pause_s = min(pause_s * 2, 1e-3)

    def send_many(self, fn, args) -> int:
        """Send ``fn(arg)`` for each of `args`, claiming many slots at once.

        Parameters
        ----------
        fn : callable
        args : iterable
            A list or a tuple costs least. An iterator is advanced only while there is room, so what was not taken is
            still in it.

        Returns
        -------
        int
            How many were taken, in order, before the ring was full.

        Raises
        ------
        ThreadExitedError
            When none was taken because the thread has exited or is being stopped.
        TypeError
            When `fn` is not callable or `args` not iterable.

        Notes
        -----
        **Thread safety:** any OS thread.
        """
        cdef Py_ssize_t taken
        cdef int verdict
        self._check_ready()
        if not PyCallable_Check(fn):
            raise TypeError(f"a message to {self!r} must be callable, got {type(fn).__name__}")
        if isinstance(args, (list, tuple)):
            taken = send_each(&self.c, <PyObject *>fn, tuple(args), &verdict)
            if taken == 0 and verdict != RING_OK and verdict != RING_FULL:
                self._refuse(verdict)
            return taken
        taken = 0
        items = iter(args)
        while ring_pending(self.c.ring) < self.c.ring.capacity and not st_load_relaxed(&self.c.ring.overflow):
            try:
                item = next(items)
            except StopIteration:
                return taken
            verdict = self._send_one(fn, item)
            if verdict == RING_FULL:
                # Another sender was faster. The item has left its iterator and must not be lost.
                self._send_lib(fn, (item,), 0)
            elif verdict != RING_OK:
                if taken:
                    return taken
                self._refuse(verdict)
            taken += 1
        send_refused(&self.c)
        return taken

    def send_critical_msg(self, fn) -> None:
        """Have ``fn()`` run first in the next poll. There is a single slot, and no room for waiting behind it.

        Raises
        ------
        RingFullError
            While an earlier one is still waiting.
        ThreadExitedError, TypeError
            As `send_msg`.

        Notes
        -----
        **Thread safety:** any OS thread, also from a Python signal handler. Answers to
        ``spdk_thread_send_critical_msg``.
        """
        self._check_ready()
        if not PyCallable_Check(fn):
            raise TypeError(f"a critical message to {self!r} must be callable, got {type(fn).__name__}")
        if st_load_relaxed(&self.c.ring.tail) & RING_STOPPING and current_thread() == NULL:
            self._refuse(RING_IS_STOPPING)
        Py_INCREF(fn)
        if not st_casp_acq_rel(&self.c.critical, NULL, <void *>fn):
            Py_DECREF_raw(<PyObject *>fn)
            if st_loadp_acquire(&self.c.critical) == <void *>CRITICAL_CLOSED:
                self._refuse(RING_IS_CLOSED)
            raise RingFullError(
                f"the critical slot of {whereabouts(self)} is taken: there is one, and an earlier message waits in it"
            )
        attention_set(&self.c, ATTENTION_CRITICAL)
        thread_wake(&self.c)

    def send_native(self, fn, ctx=None) -> None:
        """Have a native function run on this thread without the GIL, in order with the other messages.

        Parameters
        ----------
        fn : native function ``void (*)(void *)``
            A PyCapsule of that name, an entry of a Cython module's ``__pyx_capi__``, a numba ``@cfunc``, or a ctypes
            or cffi function pointer.
        ctx : None, int, pointer or buffer
            What the function gets. None: NULL, or the capsule's context. An int: that address. A pointer of ctypes
            (also ``c_void_p``, ``c_char_p``, ``byref``) or cffi: the address that it holds now. Anything else: the
            start of its writable buffer, as with a numpy array, a bytearray, an array or structure of ctypes. Function
            and context are kept alive until it has run.

        Raises
        ------
        RingFullError, ThreadExitedError
            As `send_msg`.
        TypeError
            When `fn` is not of that type, or `ctx` none of these, its buffer read-only for instance.

        Notes
        -----
        **Thread safety:** any OS thread. From Cython, `thread_send_native` is the same without the GIL and without
        the object that keeps things alive.
        """
        cdef NativeCall call = native_message(fn, ctx)
        cdef int verdict
        self._check_ready()
        Py_INCREF(call)
        verdict = send_native(&self.c, call.fn, call.ctx, <PyObject *>call)
        if verdict != RING_OK:
            Py_DECREF_raw(<PyObject *>call)
            self._refuse(verdict)

    def call(self, fn, *args):
        """Have ``fn(*args)`` run on this thread and return a future of its result.

        Returns
        -------
        concurrent.futures.Future

        Raises
        ------
        RingFullError, ThreadExitedError, TypeError
            As `send_msg`.

        Notes
        -----
        **Thread safety:** any OS thread.
        """
        cdef FutureCore future
        cdef PyObject *argv[3]
        cdef int verdict
        if not PyCallable_Check(fn):
            raise TypeError(f"a call on {self!r} must be callable, got {type(fn).__name__}")
        future = new_future(self._weak)
        argv[0], argv[1], argv[2] = <PyObject *>future, <PyObject *>fn, <PyObject *>args
        verdict = send_msg(self, <PyObject *>run_call, argv, 3)
        if verdict != RING_OK:
            self._refuse(verdict)
        return future

    def acall(self, fn, *args):
        """Have ``fn(*args)`` run on this thread and return an awaitable of its result.

        It is sent at once, in order with the caller's other messages. In a coroutine under asyncio (or uvloop, or any
        other asyncio loop) the awaitable is to asyncio a future of that loop; in one spawned on an SpdkThread it is a
        future as from `call`, and the coroutine goes on where it is. Context variables, cancellation and exceptions
        behave as with ``asyncio.to_thread``.

        Returns
        -------
        awaitable

        Raises
        ------
        RingFullError, ThreadExitedError, TypeError
            As `send_msg`.
        RuntimeError
            When neither an asyncio loop nor a spawned coroutine is running here.

        Notes
        -----
        **Thread safety:** any OS thread with a running asyncio loop, and every spawned coroutine.
        """
        return late(LATE_ACALL)(self, fn, args)

    def spawn(self, coro):
        """Run a coroutine on this thread.

        Inside, ``await`` what `spdkthread.aio` has (`sleep_us`, `switch_to`, `fd_ready`), `acall` of any thread, and
        futures from `call` and `spawn`.

        Parameters
        ----------
        coro : coroutine
            It is begun in a later poll, in a copy of the caller's context variables.

        Returns
        -------
        concurrent.futures.Future
            Its ``cancel()`` throws ``asyncio.CancelledError`` into the coroutine where it waits, also when it has
            begun; it is cancelled when the coroutine has ended by that.

        Raises
        ------
        RingFullError, ThreadExitedError
            As `send_msg`; the coroutine is untouched and may be spawned again.
        TypeError
            When `coro` is not a coroutine.

        Notes
        -----
        **Thread safety:** any OS thread. The thread does not exit while a coroutine of its own has not ended.
        """
        return late(LATE_SPAWN)(self, coro)

    def executor(self):
        """A ``concurrent.futures.Executor`` whose calls run on this thread, one after the other."""
        return late(LATE_EXECUTOR)((self,))

    # From any OS thread: at once on this thread, by a message from elsewhere

    def register_poller(self, fn, period_us=0, *, name=None, fixed_rate=False) -> Poller:
        """Have ``fn()`` called again and again on this thread.

        Parameters
        ----------
        fn : callable
            Takes nothing; returns an int (above 0: busy), a bool, or None (idle).
        period_us : float, default 0
            Microseconds between two runs; the first is one period from now. 0: an active poller, run in turn with the
            others whenever the thread is polled.
        name : str, optional
            By default the function's.
        fixed_rate : bool, default False
            Timed pollers only. True: the deadlines lie at start + k periods and do not drift, where start is the tick
            of the registration on this thread. A poll runs a due poller once, however late it is, and the next
            deadline is the first one after the tick of that poll; those in between count in `Poller.overrun_count`.
            Pausing and resuming leave the deadlines where they are. False: the next deadline is one period after the
            tick of the poll, so that lateness moves all that follow.

        Returns
        -------
        Poller

        Raises
        ------
        ThreadExitedError
            When the thread has exited, or is being stopped and the caller is not an SpdkThread.
        TypeError, ValueError
            For a bad argument; `fixed_rate` without a period is one.

        Notes
        -----
        **Thread safety:** any OS thread. On this thread it acts at once; from elsewhere by a message, in order with
        what the caller sent before. Answers to ``spdk_poller_register``.
        """
        if not PyCallable_Check(fn):
            raise TypeError(f"a poller of {self!r} must be callable, got {type(fn).__name__}")
        cdef Poller poller = self._new_poller(period_us, name, fixed_rate)
        poller._fn = fn
        poller.c.py_fn = <PyObject *>fn
        return self._register(poller)

    def register_native_poller(self, fn, ctx=None, period_us=0, *, name=None, fixed_rate=False) -> Poller:
        """As `register_poller`, with a native function ``int (*)(void *)`` that runs without the GIL.

        Parameters
        ----------
        fn, ctx
            As for `send_native`. Kept alive while the poller is registered.

        Notes
        -----
        Inside `fn`, ``current_deadline()`` of ``cimport spdkthread`` is the deadline for which it runs.
        """
        cdef NativeCall call = native_poller(fn, ctx)
        if name is None:
            name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or "native"
        cdef Poller poller = self._new_poller(period_us, name, fixed_rate)
        poller._native = call
        poller.c.native_fn = <poller_fn>call.fn
        poller.c.native_ctx = call.ctx
        return self._register(poller)

    # call_later stands at the end of this file, under "Fast methods".

    def call_later_native(self, delay_us, fn, ctx=None) -> Timer:
        """As `call_later`, with a native function ``void (*)(void *)`` that runs without the GIL.

        Parameters
        ----------
        delay_us : float
            Microseconds; 0: the next poll.
        fn, ctx
            As for `send_native`. Kept alive until it has run or was cancelled.

        Returns
        -------
        Timer

        Notes
        -----
        **Thread safety:** any OS thread, as `call_later`. After the native timers of a poll the GIL is taken once, to
        let go of what they kept alive; timers that native code makes in its own memory (``thread_call_later`` of
        ``cimport spdkthread``) need none.
        """
        return self._start_timer(new_timer(self, None, None, native_message(fn, ctx)), delay_to_ticks(delay_us))

    def register_fd(self, fd, fn, events="r", *, name=None) -> FdHandler:
        """Have ``fn()`` called on this thread while a file descriptor is ready: level-triggered, also while asleep.

        Parameters
        ----------
        fd : int or object with fileno()
        fn : callable
            Takes nothing; its return value is ignored.
        events : {"r", "w", "rw"}
        name : str, optional
            By default the function's.

        Returns
        -------
        FdHandler

        Raises
        ------
        FdError
            When `fd` is closed, cannot be waited for (a regular file), or has a handler on this thread already (both
            are named); from elsewhere only what can be known at once is raised here, the rest goes the way of
            exceptions: an earlier message of the caller's may unregister the other handler.
        ThreadExitedError, TypeError, ValueError
            As `register_poller`.

        Notes
        -----
        **Thread safety:** any OS thread, as `register_poller`. A handler keeps the thread from exiting. Unregister it
        before the descriptor is closed. Answers to ``spdk_interrupt_register``.
        """
        self._check_ready()
        cdef FdHandler handler = make_handler(self, fd, fn, events, name)
        if self._is_here():
            self._fd_add(handler)
        else:
            self._send_lib(self._fd_add, (handler,), 0)
        return handler

    def exec_msg(self, fn, *args) -> None:
        """Run ``fn(*args)`` inline when already on this thread, otherwise send it.

        Inline, an exception leaves this call. Answers to ``spdk_thread_exec_msg``.
        """
        if self._is_here():
            if not PyCallable_Check(fn):
                raise TypeError(f"a message to {self!r} must be callable, got {type(fn).__name__}")
            fn(*args)
        else:
            self.send_msg(fn, *args)

    def exit(self) -> None:
        """Begin to exit: the thread runs on, and accepts, until nothing is left for it, and then has exited.

        It stays as long as it has a message, a poller (paused ones too), a pending timer, an I/O channel, an iteration
        of its own under way or a device's unregistration to hear of: `exit_blockers` names them. A second call does
        nothing.

        Notes
        -----
        **Thread safety:** any OS thread; from elsewhere by a message. Answers to ``spdk_thread_exit``.
        """
        self._check_ready()
        if self._is_here():
            self._exit_here()
        elif st_load32_acquire(&self.c.state) == THREAD_RUNNING and not self._exit_asked:
            try:
                self._send_lib(self._exit_here, (), RING_STOPPING)
                self._exit_asked = True
            except ThreadExitedError:
                pass

    # On this thread only

    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def get_io_channel(self, device):
        """This thread's channel of a device with one more reference; made when there is none.

        Returns
        -------
        IoChannel

        Raises
        ------
        WrongThreadError
            Elsewhere than on this thread.
        DeviceError, ThreadExitedError, TypeError
            As `IoDevice.get_io_channel`; `device` must be an `IoDevice`.

        Notes
        -----
        **Thread safety:** this thread only. Answers to ``spdk_get_io_channel``.
        """
        self._require_here("get_io_channel")
        io_device_type = late_found(LATE_IO_DEVICE)
        if io_device_type is None or not isinstance(device, io_device_type):
            raise TypeError(f"device must be an IoDevice, got {type(device).__name__}")
        return device.get_io_channel()

    # The driver

    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def poll(self, max_msgs=0, now=None) -> int:
        """Poll once: the critical message, a batch of messages, the active pollers' turn, the timed pollers' turn.

        Parameters
        ----------
        max_msgs : int, default 0
            Messages at most; 0 means 8, and 8 is the most.
        now : int, optional
            The tick for the timers. By default the clock is read when it is needed.

        Returns
        -------
        int
            0; 1 when a message ran; or a poller's larger return value.

        Raises
        ------
        WrongThreadError
            When a reactor polls this thread, another OS thread drives it, or it is being polled already.
        KeyboardInterrupt, SystemExit
            When a callback raised it. The rest of the batch runs in the next poll.

        Notes
        -----
        **Thread safety:** one OS thread at a time. Polling another thread from a callback is legal. An exited thread
        is not polled: 0. Answers to ``spdk_thread_poll``.
        """
        cdef uint32_t limit = BATCH_SIZE
        cdef uint64_t tick = 0
        if max_msgs is not ZERO:
            max_msgs = check_integer("max_msgs", max_msgs)
            if max_msgs < 0:
                raise ValueError(f"max_msgs must not be negative, got {max_msgs}")
            if 0 < max_msgs < BATCH_SIZE:
                limit = max_msgs
        if now is not None:
            now = check_integer("now", now)
            if not 0 <= now < END_OF_TIME:
                raise ValueError(f"now must be a tick from 0 up to 2**63 - 1, got {now}")
            tick = now
        self._check_ready()
        self._claim_driver()
        if st_load32_relaxed(&self.c.state) == THREAD_EXITED:
            self._release_driver()
            return 0
        if self.c.polling:
            self._release_driver()
            raise WrongThreadError(f"{self!r} is being polled already")
        if self._poll(limit, tick, now is not None) == STEP_RAISED:
            pass_on()
        return self.c.rc

    # Properties

    @property
    def state(self) -> str:
        """``"running"``, ``"exiting"`` or ``"exited"``."""
        return STATES[st_load32_acquire(&self.c.state)]

    @property
    def is_running(self) -> bool:
        """Neither exiting nor exited. Answers to ``spdk_thread_is_running``."""
        return st_load32_acquire(&self.c.state) == THREAD_RUNNING

    @property
    def is_exited(self) -> bool:
        """Whether it has exited. Answers to ``spdk_thread_is_exited``."""
        return st_load32_acquire(&self.c.state) == THREAD_EXITED

    @property
    def is_idle(self) -> bool:
        """No message, no pending timer and no poller but paused ones. Answers to ``spdk_thread_is_idle``."""
        return self.pending_msgs == 0 and not self.has_pollers and not self.c.alarm.queued

    @property
    def is_bound(self) -> bool:
        """Whether schedulers leave it where it is. Answers to ``spdk_thread_is_bound``."""
        return self._bound

    def bind(self, bound: bool = True) -> None:
        """Have schedulers leave it where it is, or not. **Thread safety:** any. Answers to ``spdk_thread_bind``."""
        self._bound = bool(bound)

    def set_cpumask(self, cpumask):
        """Change the cores on which it may be placed; if it is on another one, it is moved.

        Parameters
        ----------
        cpumask : None, str or iterable of int
            As in the constructor.

        Returns
        -------
        concurrent.futures.Future
            Resolves to the thread when it is where it may be.

        Raises
        ------
        ReactorError
            When it would have to move and its reactor belongs to no group, or the group has no such core.
        TypeError, ValueError
            When the mask cannot be read.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_thread_set_cpumask``.
        """
        mask = None if cpumask is None else parse_cores(cpumask)
        reactor = self._placed_on()
        if reactor is None or mask is None or reactor.core in mask:
            self._set_mask(mask)
            future = new_future(None)
            future.set_result(self)
            return future
        if reactor._group is None:
            raise ReactorError(f"{self!r} is on {reactor!r}, which is in no group: there is no other core to go to")
        return reactor._group._place_again(self, mask)

    @property
    def cpumask(self) -> frozenset | None:
        """The cores on which it may be placed; None: every core."""
        with cython.critical_section(self):
            return self._cpumask

    @property
    def ring_size(self) -> int:
        """Slots of the message ring."""
        return self.c.ring.capacity if self.c.ring != NULL else 0

    @property
    def pending_msgs(self) -> int:
        """Messages that wait, the library's own and the critical one included."""
        cdef uint64_t waiting = 0
        # The poll that goes on meanwhile changes both.
        cdef uint32_t batch_next = self.c.batch_next
        cdef uint32_t batch_count = self.c.batch_count
        if self.c.ring != NULL:
            waiting = ring_pending(self.c.ring)
            if batch_count > batch_next:
                waiting += batch_count - batch_next
        return waiting + (critical_waiting(&self.c) != NULL)

    @property
    def has_active_pollers(self) -> bool:
        """Whether an active poller waits for its turn (not while the only one runs)."""
        return self._has_active()

    @property
    def has_pollers(self) -> bool:
        """Whether any poller, active or timed, waits for its turn. Answers to ``spdk_thread_has_pollers``."""
        cdef uint32_t timed = self.c.timed_count
        if timed and self._coroutines is not None and self._coroutines.alarm_is_set():
            timed -= 1      # coroutines that sleep are no poller
        return self._has_active() or timed != 0

    @property
    def next_poller_expiration(self) -> int | None:
        """The tick at which the next timed poller is due, or None.

        Exact on this thread and for one that no OS thread drives; elsewhere it may be too early, never too late.

        Notes
        -----
        **Thread safety:** any OS thread.
        """
        return self._next_deadline(False)

    @property
    def next_expiration(self) -> int | None:
        """The tick at which the next timed poller or timer of `call_later` is due, or None.

        Exact on this thread and for one that no reactor polls; elsewhere it may be too early, never too late.
        """
        return self._next_deadline(True)

    @property
    def timers(self) -> tuple:
        """The pending timers of `call_later` and `call_later_native`, in the order of their deadlines."""
        return tuple(sorted([one for one in list(self._timers) if one.is_pending], key=attrgetter("deadline")))

    @property
    def pollers(self) -> tuple:
        """The registered pollers in the order of registration, paused ones included."""
        return tuple(sorted(list(self._pollers), key=attrgetter("id")))     # the list in one step, also without the GIL

    @property
    def io_channels(self) -> tuple:
        """The I/O channels, those that wait for their deferred destruction included."""
        return tuple(self._channels.copy())

    @property
    def exit_blockers(self) -> tuple:
        """What `exit` waits for, or would, each in words: everything that keeps the thread, of whatever kind.

        Messages, pollers, timers, file descriptors, channels, iterations, unregistrations, coroutines, event loops.
        Exact on this thread; a snapshot elsewhere.
        """
        return exit_blockers(self)

    @property
    def stats(self) -> ThreadStats:
        """A snapshot of the counters. None of them ever goes back. Answers to ``spdk_thread_get_stats``."""
        cdef uint64_t until, busy
        cdef int64_t busy_ticks = 0, idle_ticks = 0
        self._check_ready()
        if self._polled:
            # Stamps in this order: what ran before `until` and is over shows in `busy`.
            until = account_read(self.c.clock)
            reactor = self._placed_on()
            if reactor is None:
                if self.c.polling:
                    until = self._poll_began
            elif self.c.clock == NULL:
                since = reactor._unaccounted_since(self)
                if since is not None:
                    until = since
            busy = st_load_relaxed(&self.c.busy)
            busy_ticks = account_ticks(self.c.clock, busy)
            idle_ticks = account_ticks(self.c.clock, until - self._first_poll - busy)
        return ThreadStats(
            never_less(&self._busy_seen, busy_ticks), never_less(&self._idle_seen, idle_ticks), self.c.msgs_run,
            self.c.pollers_run, self.c.polls, self.c.errors, st_load_relaxed(&self.c.ring.refused),
            never_less(&self._water_seen, <int64_t>ring_high_water(self.c.ring)),
        )


cdef str count_messages(SpdkThread thread):
    waiting = thread.pending_msgs
    return "1 message" if waiting == 1 else f"{waiting} messages"


def channel_in_words(channel):
    count = channel.ref_count
    left = f"{count} reference{'s' * (count != 1)}" if count else "being destroyed"
    return f"the channel of device {channel.device.name!r} ({left})"


register_blocker("message", lambda thread: [count_messages(thread)] if thread.pending_msgs else [])
register_blocker("poller", lambda thread: [f"poller {poller.name!r}" for poller in thread.pollers])
register_blocker("timer", lambda thread: [f"timer {timer.name!r} at tick {timer.deadline}" for timer in thread.timers])
register_blocker("file descriptor", lambda thread: [
    f"file descriptor {handler.fd} (handler {handler.name!r})" for handler in thread._fds.by_fd.copy().values()
])
register_blocker("channel", lambda thread: [channel_in_words(channel) for channel in thread._channels.copy()])
register_blocker("iteration", lambda thread: thread._kept_by(BLOCKER_OPERATION))
register_blocker("unregistration", lambda thread: thread._kept_by(BLOCKER_UNREGISTRATION))
register_blocker("event loop", lambda thread: thread._kept_by(BLOCKER_LOOP))


cdef int thread_send_python(SpdkThread thread, PyObject *fn, PyObject *const *args, Py_ssize_t count) except -1:
    return send_msg(thread, fn, args, count)


# Fast methods: METH_FASTCALL descriptors made by hand. Cython's own way to a method costs as much again as the send.

cdef object fast_send_msg(object self, PyObject *const *args, Py_ssize_t count):
    cdef int verdict
    if count == 0:
        raise TypeError("send_msg() needs a callable")
    verdict = send_msg(<SpdkThread>self, args[0], args + 1, count - 1)
    if verdict != RING_OK:
        (<SpdkThread>self)._refuse(verdict)
    return None


cdef object fast_try_send_msg(object self, PyObject *const *args, Py_ssize_t count):
    cdef int verdict
    if count == 0:
        raise TypeError("try_send_msg() needs a callable")
    verdict = send_msg(<SpdkThread>self, args[0], args + 1, count - 1)
    if verdict == RING_FULL:
        return False
    if verdict != RING_OK:
        (<SpdkThread>self)._refuse(verdict)
    return True


cdef object fast_call_later(object self, PyObject *const *args, Py_ssize_t count):
    cdef SpdkThread thread = <SpdkThread>self
    cdef uint64_t delay
    if count < 2:
        raise TypeError("call_later() needs a delay in microseconds and a callable")
    if not PyCallable_CheckRaw(args[1]):
        raise TypeError(f"a timer of {self!r} must be callable, got {type(<object>args[1]).__name__}")
    delay = delay_to_ticks(<object>args[0])
    return thread._start_timer(
        new_timer(self, <object>args[1], pack(args + 2, count - 2) if count > 2 else None, None), delay
    )


cdef fast_method send_msg_method, try_send_msg_method, call_later_method

add_fast_method(<PyObject *>SpdkThread, &send_msg_method, "send_msg", fast_send_msg, b"""\
send_msg($self, fn, /, *args)
--

Have ``fn(*args)`` run on this thread, in a later poll.

Parameters
----------
fn : callable
*args
    Up to four travel in the ring's slot, with no allocation.

Raises
------
RingFullError
    When the ring has no room. Nothing was sent; it counts in ``stats.ring_full``.
ThreadExitedError
    When the thread has exited, or is being stopped and the caller is not an SpdkThread.
TypeError
    When `fn` is not callable.

Notes
-----
**Thread safety:** any OS thread. Messages of one sender arrive in their order. Never runs `fn` inline.
Answers to ``spdk_thread_send_msg``.
""")
add_fast_method(<PyObject *>SpdkThread, &try_send_msg_method, "try_send_msg", fast_try_send_msg, b"""\
try_send_msg($self, fn, /, *args)
--

As `send_msg`, but False instead of `RingFullError` when the ring has no room.
""")


add_fast_method(<PyObject *>SpdkThread, &call_later_method, "call_later", fast_call_later, b"""\
call_later($self, delay_us, fn, /, *args)
--

Have ``fn(*args)`` run on this thread once, in the first poll whose tick is at or after now + `delay_us`.

Parameters
----------
delay_us : float
    Microseconds from now; fractions of a tick are cut off. 0: the next poll, and not the one that goes on.
fn : callable
*args

Returns
-------
Timer

Raises
------
ThreadExitedError
    When the thread has exited, or is being stopped and the caller is not an SpdkThread.
TypeError, ValueError
    When `delay_us` is no number (a bool is none), is negative, NaN, infinite or beyond all time, or `fn` is not
    callable.

Notes
-----
**Thread safety:** any OS thread. The delay counts from the call. On this thread it is armed at once, from elsewhere by
a message, in order with what the caller sent before. All timers that are due run in one poll, before the timed pollers
and with every `poller_policy`: in the order of their deadlines, equal ones as they were made; what they arm runs in a
later poll. A pending timer keeps the thread from exiting. Answers to no function of SPDK.
""")


trace_enrol(&st_trace_word)
late_fill(LATE_THREAD, SpdkThread)
if os.environ.get("SPDKTHREAD_TRACE"):
    late(LATE_START_TRACE)(os.environ["SPDKTHREAD_TRACE"])
