"""Poller: a function that its thread calls again and again, or at every period."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from spdkthread.atomics cimport st_add_relaxed, st_atomic_u64, st_load32_relaxed, st_load_relaxed, st_sub_relaxed
from spdkthread.cpython_ext cimport seal

from spdkthread.error_log import describe

__all__ = ["Poller"]

cdef st_atomic_u64 live

STATES = ("waiting", "running", "paused", "unregistered")


def live_pollers() -> int:
    """Poller objects that exist. **Thread safety:** any OS thread."""
    return st_load_relaxed(&live)


cdef class Poller:
    """Poller()\n--\n\n\
    A registered function. Made by `SpdkThread.register_poller` and `SpdkThread.register_native_poller`.

    Notes
    -----
    **Thread safety:** `pause`, `resume` and `unregister` from any OS thread: on the poller's own thread they act at
    once, from elsewhere by a message, in order with the messages that the caller sent before. The counters may be read
    anywhere. Answers to ``struct spdk_poller``.
    """

    def __cinit__(self):
        st_add_relaxed(&live, 1)

    def __dealloc__(self):
        st_sub_relaxed(&live, 1)

    def __repr__(self):
        return f"<Poller {self.name!r} of {self.thread.name!r}, {self.state}>"

    cdef int _ask(self, int what) except -1:
        return self.request(self, what)

    def pause(self) -> None:
        """Stop calling it until `resume`. Idempotent; nothing for an unregistered poller.

        Answers to ``spdk_poller_pause``.
        """
        self._ask(POLLER_PAUSE)

    def resume(self) -> None:
        """Call it again: behind the other active pollers; a timed one one period from now.

        When it is resumed before it would have run, nothing has changed. One of fixed rate keeps its deadlines: it is
        due at the first of them that has not come yet, and those that went by while it was paused are no overruns.
        Idempotent. Answers to ``spdk_poller_resume``.
        """
        self._ask(POLLER_RESUME)

    def unregister(self) -> None:
        """Never call it again. Idempotent. Answers to ``spdk_poller_unregister``."""
        self._ask(POLLER_UNREGISTER)

    @property
    def name(self) -> str:
        """As given, or the function's."""
        return describe(self._fn) if self._name is None else self._name

    @property
    def state(self) -> str:
        """``"waiting"``, ``"running"``, ``"paused"`` or ``"unregistered"``."""
        return STATES[st_load32_relaxed(&self.c.state)]

    @property
    def period_us(self) -> float:
        """Microseconds between two runs; 0 for an active poller."""
        if self.c.period % 1000:
            return <double>self.c.period / 1000.0
        return self.c.period // 1000

    @property
    def period_ticks(self) -> int:
        """Ticks between two runs; 0 for an active poller."""
        return self.c.period

    @property
    def run_count(self) -> int:
        """How often it ran."""
        return self.c.run_count

    @property
    def busy_count(self) -> int:
        """How often it returned more than 0."""
        return self.c.busy_count

    @property
    def error_count(self) -> int:
        """How often it raised, or returned what is neither int, bool nor None."""
        return self.c.error_count

    @property
    def overrun_count(self) -> int:
        """Timed pollers: the whole periods by which its runs came late, summed.

        With a fixed rate that is how many deadlines went by without a run of their own. Otherwise a run is late by
        the time from its deadline to the tick of the poll, and the next deadline is one period after that tick; what
        is less than a whole period is kept and added to the lateness of the next run. So ``run_count +
        overrun_count`` of both kinds is the number of whole periods from the registration to the last run, time in
        which it was paused aside.
        """
        return self.c.overrun_count

    @property
    def fixed_rate(self) -> bool:
        """Whether its deadlines lie at start + k periods, however late it runs."""
        return self.c.fixed_rate

    @property
    def deadline(self) -> int | None:
        """The absolute tick at which it is due next and, inside its function, that for which it runs; None for an
        active poller."""
        return self.c.timer.deadline if self.c.period else None


cdef Poller new_poller(object thread, object name, uint64_t period, bint fixed_rate, poller_request_fn request):
    """A poller of `thread` that is not registered yet."""
    cdef Poller poller = Poller.__new__(Poller)
    poller.c.period = period
    poller.c.fixed_rate = fixed_rate
    poller.c.owner = <PyObject *>poller
    poller._name = name
    poller.thread = thread
    poller.request = request
    return poller


seal(Poller)
