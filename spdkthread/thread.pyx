"""SpdkThread: messages, pollers and states."""

cimport cython

import logging
import os
import threading
import time
import weakref
from operator import attrgetter

from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyCallable_Check, PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u64,
    st_cas_acq_rel,
    st_casp_acq_rel,
    st_exchangep,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_acquire,
    st_load_relaxed,
    st_loadp_acquire,
    st_loadp_relaxed,
    st_pause,
    st_store32_relaxed,
    st_store32_release,
    st_store_relaxed,
    st_store_release,
    st_storep_release,
    st_sub_relaxed,
)
from spdkthread.call_later cimport TIMER_CANCELLED, TIMER_PENDING, Timer, list_timer, new_timer, unlist_timer
from spdkthread.clock cimport (
    account_read,
    account_ticks,
    clock_read,
    delay_to_ticks,
    never_less,
    period_to_ticks,
    st_cycles,
)
from spdkthread.current_reactor cimport current_reactor
from spdkthread.fd_handler cimport FdHandler
from spdkthread.fd_group cimport (
    FD_BATCH,
    fd_event,
    fd_is_open,
    fd_group_add,
    fd_group_change,
    fd_group_open,
    fd_set_part,
    fd_group_remove,
    fd_set_replace,
    fd_group_wait,
)
from spdkthread.future cimport FutureCore, new_future
from spdkthread.lib cimport lib_or_default
from spdkthread.undelivered cimport drop_message, message_name, visit_message, visit_waiting, waiting_names
from spdkthread.native cimport NativeCall, native_message, native_poller, poller_fn
from spdkthread.pointer_map cimport map_free
from spdkthread.poller cimport (
    POLLER_NOTHING,
    POLLER_PAUSE,
    POLLER_PAUSED,
    POLLER_RESUME,
    POLLER_RUNNING,
    POLLER_UNREGISTER,
    POLLER_UNREGISTERED,
    POLLER_WAITING,
    Poller,
    new_poller,
)
from spdkthread.ring cimport (
    MSG_NATIVE,
    MSG_PYTHON,
    MSG_PYTHON_TUPLE,
    RING_FULL,
    RING_STOPPING,
    RING_IS_STOPPING,
    RING_IS_CLOSED,
    RING_OK,
    ring_capacity_for,
    ring_claim,
    ring_close,
    ring_create,
    ring_destroy,
    ring_high_water,
    ring_pending,
    ring_publish,
    ring_shut,
    ring_slot,
    ring_slot_at,
    ring_spill_message,
    ring_take,
    ring_take_spilled,
    ring_wait_for_room,
    ring_want_room,
)
from spdkthread.held_locks cimport spinlock_s, spinlock_take_off
from spdkthread.thread_poll cimport (
    ATTENTION_CRITICAL,
    ATTENTION_SPILLED,
    BATCH_SIZE,
    STEP_DONE,
    STAGE_ACTIVE,
    STAGE_FDS,
    STAGE_MESSAGES,
    STAGE_TIMED,
    STEP_NATIVE,
    STEP_PYTHON,
    STEP_RAISED,
    THREAD_EXITED,
    THREAD_EXITING,
    THREAD_RUNNING,
    active_append,
    active_count_running,
    active_pause,
    active_resume,
    active_unlink,
    attention_set,
    current_thread,
    fd_native_s,
    drop_garbage,
    fds_look,
    poll_attached,
    poll_begin,
    poll_detached,
    poll_end,
    poll_needed,
    poller_arm,
    poller_arm_again,
    pollers_next,
    report_locks,
    set_current,
    thread_s,
    thread_wake,
    timer_add,
    timer_claim,
    timer_remove,
    timers_next,
    timers_ready,
)
from spdkthread.timers cimport (
    TIMER_NEVER,
    timer_cancel,
    timer_glance,
    timer_insert,
    timer_queue_free,
    timer_queue_init,
)
from spdkthread.trace_ring cimport (
    TRACE_FD,
    TRACE_SEND,
    st_trace_word,
    st_tracing,
    trace_enrol,
    trace_key,
    trace_number,
    trace_put,
)
from spdkthread.cpython_ext cimport st_call_base_traverse, st_replace_traverse, st_visitproc

from spdkthread.checks import check_integer, check_timeout
from spdkthread.cores import parse_cores
from spdkthread.error_log import describe
from spdkthread.errors import (
    FdError,
    ReactorError,
    RingFullError,
    RingFullTimeoutError,
    SpdkThreadError,
    ThreadExitedError,
    WrongThreadError,
)
from spdkthread.exit_blockers import exit_blockers, register_blocker
from spdkthread.fd_handler import make_handler
from spdkthread.forks import ReentrantLock
from spdkthread.future import run_call
from spdkthread.report import LeftoverMessage
from spdkthread.stats import ThreadStats
from spdkthread.trace_ring import note_thread
from spdkthread.waiting import told_of_full_ring, whereabouts

__all__ = ["SpdkThread", "get_thread"]

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define ST_HAS_GIL 0
    #else
    #define ST_HAS_GIL 1
    #endif
    #define ST_TUPLE_ITEMS(tuple) (((PyTupleObject *)(tuple))->ob_item)
    """
    uint64_t PyThread_get_thread_ident() nogil
    const bint HAS_GIL "ST_HAS_GIL"
    int close(int fd) nogil
    void Py_DECREF_raw "Py_DECREF"(PyObject *)
    void Py_INCREF_raw "Py_INCREF"(PyObject *)
    bint PyCallable_CheckRaw "PyCallable_Check"(PyObject *)
    PyObject *const *tuple_items "ST_TUPLE_ITEMS"(object)

logger = logging.getLogger("spdkthread")

cdef object NOTHING = object()          # no argument here
cdef object ZERO = 0                    # the one small int 0 that there is
cdef object io_device_type = None       # IoDevice, which stands on a higher floor
cdef void *CLOSED_SLOT = <void *>1      # the critical slot of an exited thread
cdef uint64_t END_OF_TIME = <uint64_t>1 << 63   # one period later is still a tick
cdef uint64_t NO_DRIVER = 0
cdef uint64_t BEING_READ = <uint64_t>-2          # for a moment, by `next_poller_expiration`
cdef uint64_t DRIVEN_BY_REACTOR = <uint64_t>-1  # PYTHREAD_INVALID_THREAD_ID: no OS thread has it
cdef st_atomic_u64 live

requests_lock = ReentrantLock()

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


cdef inline void fill(ring_slot *slot, uint32_t kind, uint32_t nargs, PyObject *fn) noexcept:
    slot.kind = kind
    slot.nargs = nargs
    slot.fn = fn
    Py_INCREF(<object>fn)


cdef inline void put_argument(ring_slot *slot, int index, object argument) noexcept:
    Py_INCREF(argument)
    slot.args[index] = <void *>argument


cdef class SpdkThread:
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
        self.c.fd_set = -1
        st_add_relaxed(&live, 1)
        self._pollers = []
        self._timers = []
        self._channels = {}
        self._held = {}
        self._awaits = {}
        self._fd_handlers = {}
        self._entered = []
        self._weak = weakref.ref(self)
        self.c.owner = <PyObject *>self
        self.c.timer_list = <PyObject *>self._timers
        self.c.timer_deadline = TIMER_NEVER
        self.c.trace_number = trace_number()
        self._next_poller_id = 1

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
        # What is dropped may run destructors, and they may send here: that is refused, as nothing looks here again.
        if self.c.ring != NULL and not self._dead:
            ring_shut(self.c.ring)
        self._abandon()
        if self._channels:
            left = shorten([repr(channel) for channel in self._channels])
            logger.error("%r ended with channels that were never destroyed: %s", self, left)

    def __dealloc__(self):
        while self.c.locks_held != NULL:
            let_go_of_lock(&self.c)
        timer_queue_free(&self.c.timers)
        timer_queue_free(&self.c.later)
        map_free(&self.c.channel_map)
        if self.c.fd_set >= 0:
            close(self.c.fd_set)
        if self.c.ring != NULL:
            ring_destroy(self.c.ring)
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
        if not self._entered or st_load_acquire(&self._driver) != PyThread_get_thread_ident():
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
        self._check_ready()
        if not PyCallable_Check(fn):
            raise TypeError(f"a message to {self!r} must be callable, got {type(fn).__name__}")
        if isinstance(args, (list, tuple)):
            return self._send_items(fn, tuple(args))
        taken = 0
        items = iter(args)
        while ring_pending(self.c.ring) < self.c.ring.capacity and not st_load_relaxed(&self.c.ring.overflow):
            try:
                item = next(items)
            except StopIteration:
                return taken
            verdict = self._send(fn, item, NOTHING, NOTHING, NOTHING, ())
            if verdict == RING_FULL:
                # Another sender was faster. The item has left its iterator and must not be lost.
                self._send_lib(fn, (item,), 0)
            elif verdict != RING_OK:
                if taken:
                    return taken
                self._refuse(verdict)
            taken += 1
        st_add_relaxed(&self.c.ring.refused, 1)
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
        if st_load_relaxed(&self.c.ring.tail) & RING_STOPPING and not self._passes():
            self._refuse(RING_IS_STOPPING)
        Py_INCREF(fn)
        if not st_casp_acq_rel(&self.c.critical, NULL, <void *>fn):
            Py_DECREF_raw(<PyObject *>fn)
            if st_loadp_acquire(&self.c.critical) == CLOSED_SLOT:
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
        cdef uint64_t position = 0
        cdef ring_slot *slot
        cdef int verdict
        self._check_ready()
        verdict = ring_claim(self.c.ring, 1, self._passes(), &position)
        if verdict != RING_OK:
            if verdict == RING_FULL:
                st_add_relaxed(&self.c.ring.refused, 1)
            self._refuse(verdict)
        slot = ring_slot_at(self.c.ring, position)
        slot.kind = MSG_NATIVE
        slot.nargs = 0
        slot.fn = call.fn
        slot.args[0] = call.ctx
        put_argument(slot, 1, call)
        ring_publish(slot, position)
        if st_tracing():
            trace_send(&self.c, position)
        thread_wake(&self.c)

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
        cdef int verdict
        if not PyCallable_Check(fn):
            raise TypeError(f"a call on {self!r} must be callable, got {type(fn).__name__}")
        future = new_future(self._weak)
        verdict = self._send(run_call, future, fn, args, NOTHING, ())
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
        if acall is None:
            load_upper_floor()
        return acall(self, fn, args)

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
        if spawn is None:
            load_upper_floor()
        return spawn(self, coro)

    def executor(self):
        """A ``concurrent.futures.Executor`` whose calls run on this thread, one after the other."""
        from spdkthread.aio.executor import ThreadExecutor

        return ThreadExecutor((self,))

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
        handler = make_handler(self, fd, fn, events, name)
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
        if io_device_type is None:
            find_io_device_type()
        if not isinstance(device, io_device_type):
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

    cdef int _poll(self, uint32_t limit, uint64_t now, bint now_given) noexcept:
        """One poll by the driver, who is let go afterwards. With STEP_RAISED an exception is set."""
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
        cdef uint64_t me = PyThread_get_thread_ident()
        cdef uint64_t found = NO_DRIVER
        # Acquires what the driver before did; its release is the store in `_release_driver` or `_give_up`.
        while st_load_relaxed(&self._driver) != me and not st_cas_acq_rel(&self._driver, &found, me):
            if found != BEING_READ:
                self._refuse_driver(found)
            found = NO_DRIVER
            st_pause()
        self._driver_depth += 1
        return 0

    cdef void _release_driver(self) noexcept:
        self._driver_depth -= 1
        if self._driver_depth == 0:
            st_store_release(&self._driver, NO_DRIVER)

    cdef int _refuse_driver(self, uint64_t driver) except -1:
        """Raise what says who the driver is."""
        owner = self._owned_by()
        if driver == DRIVEN_BY_REACTOR:
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
        **Thread safety:** any OS thread. The claim of the driver's word orders it with every other attempt.
        """
        self._check_ready()
        # A better word than that of the claim. What counts is looked at again after it.
        self._refuse_owner(owner, refusal)
        self._claim_driver()
        try:
            if self._driver_depth > 1:
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
            self._driver_depth = 0
            st_store_release(&self._driver, DRIVEN_BY_REACTOR)
        else:
            self._release_driver()

    def _refuse_owner(self, owner, refusal):
        there = self._owned_by()
        if there is not None:
            raise refusal(f"{self!r} cannot be given to {describe(owner)}, it belongs to {describe(there)}")

    def _give_up(self, owner):
        """`owner` lets go of the thread: the last thing that it does with it. Nothing when it has another owner."""
        if self._owned_by() is not owner:
            return
        polled = self._placed_on() is not None
        self._place(None, None)
        if polled:
            st_store_release(&self._driver, NO_DRIVER)

    # Inside: sending

    cdef int _send(self, object fn, object a, object b, object c, object d, tuple more) except -1:
        """Put a call into the ring, its arguments ending at the first NOTHING; RING_OK or why not."""
        cdef PyObject *args[4]
        cdef Py_ssize_t count = 0
        if more:
            return self._post_tuple(fn, (a, b, c, d) + more, 0)
        args[0] = <PyObject *>a
        args[1] = <PyObject *>b
        args[2] = <PyObject *>c
        args[3] = <PyObject *>d
        while count < 4 and args[count] != <PyObject *>NOTHING:
            count += 1
        return post(self, <PyObject *>fn, args, count)

    cdef uint64_t _passes(self) noexcept:
        """The flags of the ring that do not stop the caller: on an SpdkThread it is not outside."""
        return RING_STOPPING if current_thread() != NULL else 0

    cdef int _post_tuple(self, object fn, tuple args, uint64_t passes) except -1:
        """Put a call with its arguments in a tuple into the ring; RING_OK or why not. Full counts as a refusal."""
        cdef int verdict = self._try_post_tuple(fn, args, passes)
        if verdict == RING_FULL:
            st_add_relaxed(&self.c.ring.refused, 1)
        return verdict

    cdef int _try_post_tuple(self, object fn, tuple args, uint64_t passes) except -1:
        cdef uint64_t position
        cdef ring_slot *slot
        cdef int verdict
        self._check_ready()
        verdict = ring_claim(self.c.ring, 1, passes | self._passes(), &position)
        if verdict != RING_OK:
            return verdict
        slot = ring_slot_at(self.c.ring, position)
        fill(slot, MSG_PYTHON_TUPLE, 1, <PyObject *>fn)
        put_argument(slot, 0, args)
        ring_publish(slot, position)
        if st_tracing():
            trace_send(&self.c, position)
        thread_wake(&self.c)
        return RING_OK

    cdef int _send_lib(self, object fn, tuple args, uint64_t passes) except -1:
        """Send one of the library's own messages: it cannot fail for want of room, and keeps the sender's order."""
        self._check_ready()
        return send_or_spill(self, fn, args, MSG_PYTHON_TUPLE, passes | self._passes())

    cdef int _send_one(self, object fn, object a) except -1:
        """`send_msg` of ``fn(a)``: RING_OK or why not."""
        return self._send(fn, a, NOTHING, NOTHING, NOTHING, ())

    cdef bint _post_now(self, object fn, tuple args) except -1:
        """`try_send_msg` of ``fn(*args)``."""
        cdef int verdict = post(self, <PyObject *>fn, tuple_items(args), PyTuple_GET_SIZE(args))
        if verdict == RING_OK:
            return True
        if verdict != RING_FULL:
            self._refuse(verdict)
        return False

    cdef int _post(self, object fn, object a) except -1:
        """`_send_lib` of ``fn(a)`` with `a` in the slot, also while the thread is being stopped."""
        return send_or_spill(self, fn, a, MSG_PYTHON, RING_STOPPING)

    def _send_library_msg(self, fn, *args) -> None:
        """`_send_lib` for the floors above, also while the thread is being stopped."""
        self._send_lib(fn, args, RING_STOPPING)

    cdef object _refuse(self, int verdict):
        """Raise what a refused send means."""
        if verdict == RING_FULL:
            raise RingFullError(
                f"the ring of {whereabouts(self)} is full: {self.c.ring.capacity} messages wait. Send less, wait for "
                "room with send_msg_wait(), or give the thread a larger ring_size"
            )
        if verdict == RING_IS_CLOSED:
            raise ThreadExitedError(
                f"{whereabouts(self)}, takes no messages any more: send before exit(), or to another"
            )
        if verdict == RING_IS_STOPPING:
            raise ThreadExitedError(
                f"{whereabouts(self)}, is being stopped with its reactor and takes nothing from outside: send before "
                "stop()"
            )
        raise MemoryError(f"no memory for a message to {self!r}")

    cdef Py_ssize_t _send_items(self, object fn, tuple items) except -1:
        """`send_many` of a tuple: one compare-and-swap for many slots."""
        cdef Py_ssize_t total = PyTuple_GET_SIZE(items)
        cdef Py_ssize_t taken = 0
        cdef Py_ssize_t index
        cdef uint64_t position = 0, room
        cdef uint64_t passes = self._passes()
        cdef uint64_t want
        cdef ring_slot *slot
        cdef int verdict = RING_OK
        while taken < total:
            # In pieces, so that the receiver need not wait for the whole.
            want = min(<uint64_t>(total - taken), <uint64_t>256, self.c.ring.capacity)
            verdict = ring_claim(self.c.ring, want, passes, &position)
            while verdict == RING_FULL and want > 1:
                room = ring_pending(self.c.ring)
                room = self.c.ring.capacity - room if room < self.c.ring.capacity else 0
                want = min(want - 1, room) if room else 1
                verdict = ring_claim(self.c.ring, want, passes, &position)
            if verdict != RING_OK:
                break
            for index in range(<Py_ssize_t>want):
                slot = ring_slot_at(self.c.ring, position + index)
                fill(slot, MSG_PYTHON, 1, <PyObject *>fn)
                put_argument(slot, 0, <object>PyTuple_GET_ITEM(items, taken + index))
                ring_publish(slot, position + index)
            if st_tracing():
                for index in range(<Py_ssize_t>want):
                    trace_send(&self.c, position + index)
            thread_wake(&self.c)
            taken += want
        if verdict == RING_FULL:
            st_add_relaxed(&self.c.ring.refused, 1)
        elif verdict != RING_OK and taken == 0:
            self._refuse(verdict)
        return taken

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
            self._add(poller)
        else:
            self._send_lib(self._add_poller, (poller,), 0)
        return poller

    def _add_poller(self, Poller poller):
        self._add(poller)

    cdef int _add(self, Poller poller) except -1:
        if st_load32_relaxed(&self.c.state) == THREAD_EXITED:
            raise ThreadExitedError(f"{self!r} takes no pollers any more")
        if st_load32_relaxed(&poller.c.state) == POLLER_UNREGISTERED:
            return 0
        if poller.c.period:
            timer_queue_init(&self.c.timers)
        poller.id = self._next_poller_id
        self._next_poller_id += 1
        self._pollers.append(poller)
        poller.place = PyList_GET_SIZE(self._pollers)
        self.c.registered += 1
        if poller.c.fixed_rate:
            poller.c.timer.deadline = clock_read(self.c.clock) + poller.c.period    # for a resume, too
        if st_load32_relaxed(&poller.c.state) == POLLER_PAUSED:
            return 0
        if poller.c.fixed_rate:
            poller_arm_again(&self.c, &poller.c, poller.c.timer.deadline - poller.c.period)
        elif poller.c.period:
            poller_arm(&self.c, &poller.c, clock_read(self.c.clock))
        else:
            active_append(&self.c, &poller.c)
        return 0

    cdef int _request(self, int what, Poller poller) except -1:
        """pause, resume or unregister: at once here, by a message from elsewhere."""
        if self._is_here():
            self._act(what, poller)
        elif st_load32_relaxed(&poller.c.state) != POLLER_UNREGISTERED:
            try:
                if self._try_post_tuple(self._poller_act, (what, poller), RING_STOPPING) != RING_OK:
                    self._request_beside(what, poller)
            except ThreadExitedError:
                pass        # it has no pollers any more
        return 0

    cdef int _request_beside(self, int what, Poller poller) except -1:
        """The ring is full: one request per poller may wait beside it, and does what was wanted last.

        Nobody can send anything in between, so that changes no sender's order, and the list stays as short as the
        thread has pollers.
        """
        cdef object do_wanted = self._do_wanted
        cdef tuple args = (poller,)
        with requests_lock:
            # With these made before, nothing of Python's runs in here that could ask for something else in between.
            if poller.wanted != POLLER_NOTHING:
                if poller.wanted != POLLER_UNREGISTER:
                    poller.wanted = what
                return 0
            self._send_lib(do_wanted, args, RING_STOPPING)
            poller.wanted = what
        return 0

    def _do_wanted(self, Poller poller):
        cdef int what
        with requests_lock:
            what = poller.wanted
            poller.wanted = POLLER_NOTHING
        if what != POLLER_NOTHING:
            self._act(what, poller)

    def _poller_act(self, int what, Poller poller):
        self._act(what, poller)

    cdef int _act(self, int what, Poller poller) except -1:
        if what == POLLER_PAUSE:
            return self._pause(poller)
        if what == POLLER_RESUME:
            return self._resume(poller)
        return self._unregister(poller)

    cdef int _pause(self, Poller poller) except -1:
        if poller.c.period == 0:
            active_pause(&self.c, &poller.c)
        elif st_load32_relaxed(&poller.c.state) == POLLER_WAITING:
            if poller.c.timer.queued:
                timer_cancel(&self.c.timers, &poller.c.timer)       # the deadline stays in the node
                self.c.timed_count -= 1
            st_store32_relaxed(&poller.c.state, POLLER_PAUSED)
        elif st_load32_relaxed(&poller.c.state) == POLLER_RUNNING:
            st_store32_relaxed(&poller.c.state, POLLER_PAUSED)
        return 0

    cdef int _resume(self, Poller poller) except -1:
        cdef uint64_t now
        if st_load32_relaxed(&poller.c.state) != POLLER_PAUSED:
            return 0
        if poller.c.period == 0 and poller.place:
            active_resume(&self.c, &poller.c)
            return 0
        if self.c.running == &poller.c:
            st_store32_relaxed(&poller.c.state, POLLER_RUNNING)
            return 0
        st_store32_relaxed(&poller.c.state, POLLER_WAITING)
        if not poller.place:
            return 0        # its registration is still under way
        now = clock_read(self.c.clock)
        if poller.c.fixed_rate and poller.c.timer.deadline:
            poller_arm_again(&self.c, &poller.c, now)
        elif poller.c.timer.deadline > now:
            timer_insert(&self.c.timers, &poller.c.timer, poller.c.timer.deadline, now)
            self.c.timed_count += 1
        else:
            poller_arm(&self.c, &poller.c, now)
        return 0

    cdef int _unregister(self, Poller poller) except -1:
        cdef int before = st_load32_relaxed(&poller.c.state)
        if before == POLLER_UNREGISTERED:
            return 0
        st_store32_relaxed(&poller.c.state, POLLER_UNREGISTERED)
        if before == POLLER_RUNNING and poller.c.period == 0:
            active_count_running(&self.c, False)
        if poller.c.listed:
            active_unlink(&self.c, &poller.c)
            if before == POLLER_WAITING:
                self.c.active_count -= 1
        elif poller.c.timer.queued:
            timer_cancel(&self.c.timers, &poller.c.timer)
            self.c.timed_count -= 1
        if self.c.running != &poller.c:
            self._forget(poller)
        return 0

    def _forget_poller(self, Poller poller):
        """`_forget`, for the floor below."""
        self._forget(poller)

    cdef int _forget(self, Poller poller) except -1:
        """Take it out of the list; the poll loop has no pointer to it any more."""
        cdef Poller last
        if not poller.place:
            return 0
        self.c.registered -= 1
        with cython.critical_section(self._pollers):    # `list` of it is one step on the side of those who look
            last = self._pollers.pop()
            if last is not poller:
                self._pollers[poller.place - 1] = last
                last.place = poller.place
        poller.place = 0
        return 0

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
            send_or_spill(self, add_timer, timer, MSG_PYTHON, self._passes())
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
        """Take a cancelled timer out of the books."""
        if timer.place:
            timer_remove(&self.c, &timer.c)
            unlist_timer(self._timers, timer)
        return 0

    # Inside: file descriptors

    def _fd_add(self, FdHandler handler):
        cdef int failed
        if st_load32_relaxed(&self.c.state) == THREAD_EXITED:
            raise ThreadExitedError(f"{self!r} takes no file descriptors any more")
        if handler._over:
            return
        try:
            self._fd_check(handler)
            if self.c.fd_set < 0:
                self.c.fd_set = fd_group_open()
                if self.c.fd_set < 0:
                    raise FdError(f"{handler!r} cannot be registered: no file descriptor for the thread's fd set")
                self.c.fd_set_serial += 1
            self._fd_registrations += 1
            handler.tag = <uint64_t>self._fd_registrations << 32 | <uint32_t>handler.fd
            failed = fd_group_add(self.c.fd_set, handler.fd, handler.mask, handler.tag)
            if failed:
                raise FdError(
                    f"fd {handler.fd} cannot be waited for on {self!r} by {handler.name!r}: {os.strerror(failed)}"
                )
            if self.c.fd_count == 0 and self._reactor is not None:
                try:
                    self._placed_on()._watch_fds(self)
                except BaseException:
                    fd_group_remove(self.c.fd_set, handler.fd, handler.mask)
                    raise
        except BaseException:
            handler._over = True
            raise
        handler.registered = True
        self._fd_handlers[handler.fd] = handler
        self.c.fd_count += 1
        if handler.native.fn != NULL:
            handler.native.next = self.c.fd_natives
            self.c.fd_natives = &handler.native
            self.c.fd_native_count += 1

    def _fd_check(self, FdHandler handler):
        """Raise when its descriptor has a handler here."""
        cdef FdHandler other = self._fd_handlers.get(handler.fd)
        if other is None:
            return
        why = f"{handler!r} cannot be registered: fd {handler.fd} has a handler on {self!r} already, {other!r}"
        # The kernel knows a registration by its file, not by the number alone.
        if fd_group_change(self.c.fd_set, other.fd, other.mask, other.mask, other.tag):
            why += "; that was for a file that was closed since, and the number is another's: unregister it first"
        raise FdError(why)

    def _fd_modify(self, FdHandler handler, mask):
        cdef int failed
        self._require_here(f"modify of {handler!r}")
        if not handler.registered:
            raise FdError(f"{handler!r} is not registered")
        failed = fd_group_change(self.c.fd_set, handler.fd, handler.mask, mask, handler.tag)
        if failed:
            raise FdError(f"{handler!r} cannot be modified: {os.strerror(failed)}")
        handler.mask = mask

    def _fd_unregister(self, FdHandler handler):
        if self._is_here():
            self._fd_remove(handler)
        elif not handler._over:
            try:
                self._send_lib(self._fd_remove, (handler,), RING_STOPPING)
            except ThreadExitedError:
                pass        # it has no handlers any more

    def _fd_remove(self, FdHandler handler):
        handler._over = True
        if not handler.registered:
            return
        handler.registered = False
        if handler.native.fn != NULL:
            self._fd_unlink_native(handler)
        del self._fd_handlers[handler.fd]
        self.c.fd_count -= 1
        if fd_group_remove(self.c.fd_set, handler.fd, handler.mask):
            self._renew_fd_set()
        if self.c.fd_count == 0 and self._reactor is not None:
            self._placed_on()._unwatch_fds(self)

    cdef int _fd_unlink_native(self, FdHandler handler) except -1:
        cdef fd_native_s **place = &self.c.fd_natives
        while place[0] != NULL and place[0] != &handler.native:
            place = &place[0].next
        if place[0] != NULL:
            place[0] = handler.native.next
            self.c.fd_native_count -= 1
        return 0

    def _renew_fd_set(self):
        """A descriptor was closed before it was unregistered. The kernel goes on reporting its file if a duplicate is
        open, in another process perhaps, and there is no number left by which to stop it: begin a set without it.

        The new set takes the number of the old one, which is never free in between: a descriptor of the user's that
        got it would be taken for the set by whatever watches this thread.
        """
        cdef FdHandler handler
        cdef int failed
        cdef int fresh = fd_group_open()
        if fresh < 0:
            logger.error("%r goes on hearing of a descriptor that was closed: none is left for another fd set", self)
            return
        for handler in list(self._fd_handlers.values()):
            # The number of another closed one may be some other file's by now: that has not been asked for.
            if not fd_group_change(self.c.fd_set, handler.fd, handler.mask, handler.mask, handler.tag):
                fd_group_add(fresh, handler.fd, handler.mask, handler.tag)
        if self._reactor is not None:
            self._placed_on()._unwatch_fds(self)
        failed = fd_set_replace(self.c.fd_set, fresh)
        if failed:
            logger.error("%r cannot renew its fd set: %s", self, os.strerror(failed))
        self.c.fd_set_serial += 1
        if self.c.fd_count and self._reactor is not None:
            self._placed_on()._watch_fds(self)

    def _mend_fds(self) -> bool:
        """For its reactor, between turns: a new set when other code has closed this one. Whether it had."""
        cdef FdHandler handler
        if self.c.fd_set < 0 or fd_is_open(self.c.fd_set):
            return False
        self.c.fd_set = fd_group_open()
        self.c.fd_set_serial += 1
        for handler in list(self._fd_handlers.values()):
            fd_group_add(self.c.fd_set, handler.fd, handler.mask, handler.tag)    # fails for those closed with it
        return True

    def _run_fds(self):
        """Call the handlers of what is ready now; how many were called."""
        cdef fd_event ready[64]
        cdef int index, count
        cdef FdHandler handler
        cdef uint64_t tag
        cdef int ran = 0
        if self.c.fd_natives != NULL:
            for handler in list(self._fd_handlers.values()):
                if handler.native.calls and handler.registered:
                    handler.native.calls = False
                    self._run_fd(handler)
                    ran += 1
            if self.c.fd_count == self.c.fd_native_count:
                return ran
        count = fd_group_wait(self.c.fd_set, ready, FD_BATCH)
        for index in range(count):
            tag = ready[index].tag
            handler = self._fd_handlers.get(<int>(tag & 0xFFFFFFFF))
            # One before it may have unregistered it, or changed its mind, or registered another file of that number.
            if handler is None or handler.tag != tag or not ready[index].events & handler.mask:
                continue
            if handler.native.fn != NULL:
                continue        # it has run, without the GIL
            self._run_fd(handler)
            ran += 1
        return ran

    cdef int _run_fd(self, FdHandler handler) except -1:
        cdef uint64_t key = 0, traced = 0
        self.c.fds_run += 1
        self._fd_running = handler
        if st_tracing():
            key = trace_key(<PyObject *>handler.fn)
            traced = st_cycles()
        try:
            handler.fn()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.c.errors += 1
            self.lib.report(
                f"handler {handler.name!r} failed on thread {self.name!r}", error, self, "fd_handler", handler
            )
        finally:
            self._fd_running = None
            if traced:
                trace_put(TRACE_FD, self.c.trace_number, traced, st_cycles() - traced, key, handler.fd)
            if self.c.locks_held != NULL:
                report_handler_locks(self, handler)
        return 0

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

    def _is_driven_here(self) -> bool:
        """Whether the calling OS thread is the one that polls it."""
        reactor = self._reactor
        if reactor is not None:
            return reactor._is_driven_here()
        return st_load_relaxed(&self._driver) == PyThread_get_thread_ident()

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
        return st_load_relaxed(&self._driver)

    def _polls_so_far(self):
        return self.c.polls

    def _exit_here(self):
        if st_load32_relaxed(&self.c.state) == THREAD_RUNNING:
            st_store32_release(&self.c.state, THREAD_EXITING)

    def _finish_exit(self):
        """At the end of a poll that found nothing left: become exited, unless a message came in at the last moment."""
        if self._coroutines is not None and self._coroutines.close_generators():
            return
        if not st_casp_acq_rel(&self.c.critical, NULL, CLOSED_SLOT):
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

    def _hold(self, what):
        """Keep the thread from exiting, and its reactor from ending, while `what` is under way. On this thread only.

        Twice for one object takes two `_let_go`: an iteration may have begun, and wait, on one thread.
        """
        self._held[what] = self._held.get(what, 0) + 1
        self.c.holds += 1

    def _let_go(self, what):
        left = self._held.pop(what) - 1
        if left:
            self._held[what] = left
        self.c.holds -= 1

    def _await(self, what):
        """As `_hold`, for what may never come: a reactor that stops does not wait for it."""
        self._awaits[what] = None
        self.c.waits += 1

    def _await_no_more(self, what):
        del self._awaits[what]
        self.c.waits -= 1

    def _awaited(self):
        """What `_await` waits for, in words."""
        return [str(what) for what in self._awaits.copy()]

    def _held_by(self):
        """What `_hold` holds it for."""
        return list(self._held.copy())

    def _waiting(self):
        """What was accepted and has not run, without taking it: for a report. Only while nothing polls."""
        cdef uint32_t index
        cdef void *critical
        names = []
        critical = st_loadp_relaxed(&self.c.critical)
        if critical != NULL and critical != CLOSED_SLOT:
            names.append(describe(<object>critical))
        for index in range(self.c.batch_next, self.c.batch_count):
            names.append(message_name(&self.c.batch[index]))
        names += waiting_names(self.c.ring)
        return [LeftoverMessage(self.name, name) for name in names]

    def _die(self):
        """In the child of a fork: whoever polled it is gone, and it takes nothing any more.

        What waits in it is left alone: it runs in the parent, and a lock inside it may be held by an OS thread that
        is not here.
        """
        cdef FdHandler handler
        if self._dead:
            return              # by its reactor, or its library, whichever came first
        self._give_up(self._owned_by())
        self._dead = True
        # Both are the parent's too. What is registered there stays so there.
        if self.c.fd_set >= 0:
            close(self.c.fd_set)
            self.c.fd_set = -1
        for handler in list(self._fd_handlers.values()):
            handler.registered = False
            handler._over = True
        self._fd_handlers.clear()
        self.c.fd_count = 0
        self.c.fd_natives = NULL
        self.c.fd_native_count = 0
        st_storep_release(&self.c.wakeup, NULL)
        st_storep_release(&self.c.critical, CLOSED_SLOT)
        ring_shut(self.c.ring)
        st_store32_release(&self.c.state, THREAD_EXITED)
        self.lib._remove_thread(self.id)

    def _after_fork(self):
        """In the child of a fork, for a thread on no reactor: its user may go on driving it there."""
        cdef FdHandler handler
        cdef uint64_t driver = st_load_acquire(&self._driver)
        if driver != 0 and driver != PyThread_get_thread_ident():
            self._die()         # the OS thread that was in the middle of it is not here
            return
        if self.c.fd_set < 0:
            return
        # The set is the parent's too, and what is changed in it is changed there.
        if fd_set_part(self.c.fd_set):
            return
        self.c.fd_set_serial += 1
        for handler in list(self._fd_handlers.values()):
            fd_group_add(self.c.fd_set, handler.fd, handler.mask, handler.tag)

    def _abandon(self):
        """Drop what will never run, and say so. Returns the descriptions of the messages."""
        lost = []
        if self.c.ring == NULL or self._dead:
            return lost
        drop_garbage(&self.c)
        self._drop_waiting(lost)
        if self._coroutines is not None:
            try:
                self._coroutines.abandon()
            except BaseException as error:
                self.lib._report(
                    f"the coroutines of thread {self.name!r} could not all be closed", error, self, "fn", None
                )
            self._drop_waiting(lost)        # what they sent here while they were closed
        timers = self._abandon_timers()
        if timers:
            self.lib._count_lost(len(timers))
            logger.error("%r ended with %d timers that never ran: %s", self, len(timers), shorten(timers))
        if lost:
            self.lib._count_lost(len(lost))
            logger.error("%r ended with %d messages that never ran: %s", self, len(lost), shorten(lost))
        return lost

    def _drop_waiting(self, list lost):
        """Drop every message that waits, and note their names."""
        cdef ring_slot message
        cdef void *critical
        while self.c.batch_next < self.c.batch_count:
            message = self.c.batch[self.c.batch_next]
            self.c.batch_next += 1
            lost.append(drop_message(&message, self))
        while ring_take(self.c.ring, &message, 1) or ring_take_spilled(self.c.ring, &message, 1):
            lost.append(drop_message(&message, self))
        critical = st_exchangep(&self.c.critical, NULL)
        if critical == CLOSED_SLOT:
            st_storep_release(&self.c.critical, CLOSED_SLOT)
        elif critical != NULL:
            lost.append(describe(<object>critical))
            Py_DECREF_raw(<PyObject *>critical)

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
        if HAS_GIL and self._fd_running is not None:
            return f"handler {self._fd_running.name!r} of fd {self._fd_running.fd}"
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
        cdef void *critical = st_loadp_relaxed(&self.c.critical)
        cdef uint64_t waiting = 0
        # The poll that goes on meanwhile changes both.
        cdef uint32_t batch_next = self.c.batch_next
        cdef uint32_t batch_count = self.c.batch_count
        if self.c.ring != NULL:
            waiting = ring_pending(self.c.ring)
            if batch_count > batch_next:
                waiting += batch_count - batch_next
        return waiting + (1 if critical != NULL and critical != CLOSED_SLOT else 0)

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
        cdef uint64_t deadline
        cdef uint64_t found = NO_DRIVER
        if timer_glance(&self.c.timers.count) == 0:
            return None
        if self._is_here() or st_load_relaxed(&self._driver) == PyThread_get_thread_ident():
            deadline = pollers_next(&self.c)
        elif st_cas_acq_rel(&self._driver, &found, BEING_READ):
            deadline = pollers_next(&self.c)
            st_store_release(&self._driver, NO_DRIVER)
        elif self.c.timed_count == 0:
            return None
        else:
            # The driver changes the lists meanwhile: they are not for others to walk through.
            deadline = timer_glance(&self.c.timers.next_check)
        return None if deadline == TIMER_NEVER else deadline

    @property
    def next_expiration(self) -> int | None:
        """The tick at which the next timed poller or timer of `call_later` is due, or None.

        Exact on this thread and for one that no reactor polls; elsewhere it may be too early, never too late.
        """
        cdef uint64_t deadline
        cdef uint64_t found = NO_DRIVER
        if timer_glance(&self.c.timers.count) == 0:
            return None
        if self._is_here() or st_load_relaxed(&self._driver) == PyThread_get_thread_ident():
            deadline = min(pollers_next(&self.c), timers_next(&self.c))
        elif st_cas_acq_rel(&self._driver, &found, BEING_READ):
            deadline = min(pollers_next(&self.c), timers_next(&self.c))
            st_store_release(&self._driver, NO_DRIVER)
        else:
            # The driver changes the lists meanwhile: they are not for others to walk through.
            deadline = timer_glance(&self.c.timers.next_check)
        return None if deadline == TIMER_NEVER else deadline

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
    f"file descriptor {handler.fd} (handler {handler.name!r})" for handler in thread._fd_handlers.copy().values()
])
register_blocker("channel", lambda thread: [channel_in_words(channel) for channel in thread._channels.copy()])
register_blocker("iteration", lambda thread: [str(what) for what in thread._held_by()])
register_blocker("unregistration", lambda thread: thread._awaited())


cdef int find_io_device_type() except -1:
    global io_device_type
    from spdkthread.io_device import IoDevice

    io_device_type = IoDevice
    return 0


cdef int poller_request(Poller poller, int what) except -1:
    """How a poller reaches its thread, which stands on a higher floor."""
    return (<SpdkThread>poller.thread)._request(what, poller)


# How a timer reaches its thread, and the messages about it.

cdef bint timer_cancel_request(Timer timer) except -1:
    cdef SpdkThread thread = <SpdkThread>timer.thread
    if not timer_claim(&timer.c, TIMER_CANCELLED):
        return False
    # Of those who ask only one comes here, and its run does not: function and arguments are the caller's to drop.
    timer.release()
    if thread._is_here():
        thread._drop_timer(timer)
    else:
        try:
            send_or_spill(thread, drop_timer, timer, MSG_PYTHON, RING_STOPPING)
        except ThreadExitedError:
            pass        # it has no timers any more
    return True


def add_timer_message(Timer timer):
    """`call_later` from elsewhere."""
    (<SpdkThread>timer.thread)._add_timer(timer, False)


def drop_timer_message(Timer timer):
    """`Timer.cancel` from elsewhere."""
    (<SpdkThread>timer.thread)._drop_timer(timer)


cdef object add_timer = add_timer_message
cdef object drop_timer = drop_timer_message


cdef int report_handler_locks(SpdkThread thread, FdHandler handler) except -1:
    return report_locks(&thread.c, "handler", <PyObject *>handler)


cdef void let_go_of_lock(thread_s *thread) noexcept:
    """Of a thread that was dropped with a spin lock: for the threads that wait for it."""
    cdef spinlock_s *lock = <spinlock_s *>thread.locks_held
    cdef PyObject *kept = lock.kept
    if st_loadp_relaxed(&lock.owner) != thread:
        thread.locks_held = NULL                    # a thread of the child of a fork has taken it since
        return
    lock.kept = NULL
    spinlock_take_off(&thread.locks_held)
    if kept != NULL:
        Py_DECREF_raw(kept)


# Sending, the hot path.

cdef void trace_send(thread_s *target, uint64_t position) noexcept nogil:
    """For a trace: a message stands at `position` of the ring."""
    cdef thread_s *sender = current_thread()
    trace_put(
        TRACE_SEND, 0 if sender == NULL else sender.trace_number, st_cycles(), 0, target.trace_number,
        <int64_t>(position + 1),
    )


cdef inline int post(SpdkThread self, PyObject *fn, PyObject *const *args, Py_ssize_t count) except -1:
    """Move a call into the ring; RING_OK or why not."""
    cdef thread_s *thread = &self.c
    cdef uint64_t position
    cdef ring_slot *slot
    cdef Py_ssize_t index
    cdef int verdict
    if not PyCallable_CheckRaw(fn):
        raise TypeError(f"a message to {self!r} must be callable, got {type(<object>fn).__name__}")
    if count > 4:
        return self._post_tuple(<object>fn, pack(args, count), 0)
    if thread.ring == NULL:
        self._check_ready()
    verdict = ring_claim(thread.ring, 1, 0, &position)
    if verdict != RING_OK:
        if verdict == RING_IS_STOPPING and current_thread() != NULL:
            verdict = ring_claim(thread.ring, 1, RING_STOPPING, &position)
        if verdict != RING_OK:
            if verdict == RING_FULL:
                st_add_relaxed(&thread.ring.refused, 1)
            return verdict
    slot = ring_slot_at(thread.ring, position)
    slot.kind = MSG_PYTHON
    slot.nargs = <uint32_t>count
    Py_INCREF_raw(fn)
    slot.fn = fn
    for index in range(count):
        Py_INCREF_raw(args[index])
        slot.args[index] = args[index]
    ring_publish(slot, position)
    if st_tracing():
        trace_send(thread, position)
    thread_wake(thread)
    return RING_OK


cdef int thread_send_python(SpdkThread thread, PyObject *fn, PyObject *const *args, Py_ssize_t count) except -1:
    return post(thread, fn, args, count)


cdef tuple pack(PyObject *const *args, Py_ssize_t count):
    return tuple([<object>args[index] for index in range(count)])


cdef inline int send_or_spill(SpdkThread thread, object fn, object a, uint32_t kind, uint64_t passes) except -1:
    """Send what has one word of arguments; where the ring has no room, it waits beside it."""
    cdef uint64_t position
    cdef ring_slot *slot
    cdef ring_slot overflow
    cdef int verdict = ring_claim(thread.c.ring, 1, passes, &position)
    if verdict == RING_OK:
        slot = ring_slot_at(thread.c.ring, position)
        fill(slot, kind, 1, <PyObject *>fn)
        put_argument(slot, 0, a)
        ring_publish(slot, position)
        if st_tracing():
            trace_send(&thread.c, position)
    elif verdict == RING_FULL:
        fill(&overflow, kind, 1, <PyObject *>fn)
        put_argument(&overflow, 0, a)
        verdict = ring_spill_message(thread.c.ring, &overflow)
        if verdict != RING_OK:
            Py_DECREF_raw(<PyObject *>fn)
            Py_DECREF_raw(<PyObject *>a)
            thread._refuse(verdict)
        attention_set(&thread.c, ATTENTION_SPILLED)
    else:
        thread._refuse(verdict)
    thread_wake(&thread.c)
    return 0


# Fast methods: METH_FASTCALL descriptors made by hand. Cython's own way to a method costs as much again as the send.

cdef object fast_send_msg(object self, PyObject *const *args, Py_ssize_t count):
    cdef int verdict
    if count == 0:
        raise TypeError("send_msg() needs a callable")
    verdict = post(<SpdkThread>self, args[0], args + 1, count - 1)
    if verdict != RING_OK:
        (<SpdkThread>self)._refuse(verdict)
    return None


cdef object fast_try_send_msg(object self, PyObject *const *args, Py_ssize_t count):
    cdef int verdict
    if count == 0:
        raise TypeError("try_send_msg() needs a callable")
    verdict = post(<SpdkThread>self, args[0], args + 1, count - 1)
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


cdef extern from *:
    """
    typedef PyObject *(*st_fastcall)(PyObject *, PyObject *const *, Py_ssize_t);
    static int st_add_fast_method(PyObject *type, PyMethodDef *def, const char *name, st_fastcall fn,
                                  const char *doc) {
        def->ml_name = name;
        def->ml_meth = (PyCFunction)(void (*)(void))fn;
        def->ml_flags = METH_FASTCALL;
        def->ml_doc = doc;
        PyObject *method = PyDescr_NewMethod((PyTypeObject *)type, def);
        if (method == NULL) return -1;
        int failed = PyDict_SetItemString(((PyTypeObject *)type)->tp_dict, name, method);
        Py_DECREF(method);
        PyType_Modified((PyTypeObject *)type);
        return failed;
    }
    static PyMethodDef st_send_msg_def, st_try_send_msg_def, st_call_later_def;
    """
    ctypedef object (*st_fastcall)(object, PyObject *const *, Py_ssize_t)
    ctypedef struct PyMethodDef:
        pass
    int st_add_fast_method(
        PyObject *type, PyMethodDef *definition, const char *name, st_fastcall fn, const char *doc
    ) except -1
    PyMethodDef st_send_msg_def, st_try_send_msg_def, st_call_later_def


st_add_fast_method(<PyObject *>SpdkThread, &st_send_msg_def, "send_msg", fast_send_msg, b"""\
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
st_add_fast_method(<PyObject *>SpdkThread, &st_try_send_msg_def, "try_send_msg", fast_try_send_msg, b"""\
try_send_msg($self, fn, /, *args)
--

As `send_msg`, but False instead of `RingFullError` when the ring has no room.
""")


st_add_fast_method(<PyObject *>SpdkThread, &st_call_later_def, "call_later", fast_call_later, b"""\
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


# What the floors above add, found when it is first used.

cdef object acall = None
cdef object spawn = None


cdef int load_upper_floor() except -1:
    global acall, spawn
    from spdkthread.aio.acall import acall as found_acall
    from spdkthread.aio.coroutine import spawn as found_spawn

    acall = found_acall
    spawn = found_spawn
    return 0


cdef str shorten(list names):
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


cdef int pass_on() except -1:
    """The exception that is set leaves."""
    return -1


# The ring is C memory, so the garbage collector has to be shown what it holds. Only of a thread that no reactor polls:
# there the ring cannot move under its feet. What is not shown is merely not collected.

# The collector calls this: no tracer may.
@cython.profile(False)
@cython.linetrace(False)
cdef int traverse(PyObject *owner, st_visitproc visit, void *arg) noexcept:
    cdef thread_s *thread = &(<SpdkThread>owner).c
    cdef int stop = st_call_base_traverse(owner, visit, arg)
    cdef uint32_t index
    cdef void *critical
    if stop or thread.ring == NULL or (<SpdkThread>owner)._reactor is not None or thread.polling:
        return stop
    stop = visit_waiting(thread.ring, visit, arg)
    index = thread.batch_next
    while index < thread.batch_count and not stop:
        stop = visit_message(&thread.batch[index], visit, arg)
        index += 1
    critical = st_loadp_relaxed(&thread.critical)
    if not stop and critical != NULL and critical != CLOSED_SLOT:
        stop = visit(<PyObject *>critical, arg)
    return stop


st_replace_traverse(<PyObject *>SpdkThread, traverse)

trace_enrol(&st_trace_word)
if os.environ.get("SPDKTHREAD_TRACE"):
    from spdkthread.trace import start_from_environment

    start_from_environment(os.environ["SPDKTHREAD_TRACE"])
