"""Ticks: one tick is one nanosecond of ``time.perf_counter_ns``."""

from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint64_t

from spdkthread.atomics cimport st_add_relaxed, st_cas_relaxed, st_load_relaxed, st_store_relaxed

from spdkthread.checks import check_integer, check_number

__all__ = ["TICKS_HZ", "ManualClock", "ticks"]

TICKS_HZ = 1_000_000_000

# A deadline is now + period in 64 bits; below this bound the sum cannot wrap for the next 146 years.
cdef uint64_t MAX_PERIOD_TICKS = <uint64_t>1 << 62

# Where the processor's counter and the clock stood when this module was imported: the ratio of what has passed since
# on either is the scale between them.
cdef uint64_t origin_cycles = st_cycles()
cdef uint64_t origin_ticks = st_ticks()


def ticks() -> int:
    """Return the present tick: ``time.perf_counter_ns()`` read without a Python call.

    Returns
    -------
    int
        Nanoseconds of the process-wide monotonic clock.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_get_ticks``.
    """
    return st_ticks()


cdef class ManualClock:
    """ManualClock(start=0)\n--\n\n\
    A clock that moves only when told to: simulated time for tests.

    Parameters
    ----------
    start : int, default 0
        First tick.

    Notes
    -----
    **Thread safety:** any OS thread may read and advance it.
    """

    def __init__(self, start=0):
        start = check_integer("start", start)
        if not 0 <= start < 1 << 63:
            raise ValueError(f"start must be a tick from 0 up to 2**63 - 1, got {start}")
        st_store_relaxed(&self.c.now, <uint64_t>start)

    def __repr__(self):
        return f"<ManualClock now={self.now}>"

    def advance(self, us=0, ticks=0) -> int:
        """Move forward by `us` microseconds plus `ticks` ticks.

        Returns
        -------
        int
            The new tick.

        Raises
        ------
        ValueError
            When the clock would go backwards.
        """
        cdef object step
        ticks = check_integer("ticks", ticks)
        if not isinstance(us, int) or isinstance(us, bool):
            us = check_number("us", us, "microseconds")
        step = ticks + (us * 1000 if isinstance(us, int) else round(us * 1000))
        if step < 0:
            raise ValueError(f"a clock does not go backwards, asked for {step} ticks")
        if step + self.now >= 1 << 63:
            raise ValueError(f"the clock ends at tick 2**63, asked for {step} ticks more")
        return st_add_relaxed(&self.c.now, <uint64_t>step) + <uint64_t>step

    @property
    def now(self) -> int:
        """The present tick."""
        return st_load_relaxed(&self.c.now)


cdef int64_t account_ticks(manual_clock *manual, uint64_t difference) noexcept nogil:
    """Scale a difference of two `account_read` stamps to ticks."""
    cdef uint64_t cycles
    if <int64_t>difference <= 0:
        return 0
    if manual != NULL:
        return <int64_t>difference
    cycles = st_cycles() - origin_cycles
    if cycles == 0:
        return 0
    return <int64_t>(<double>difference * (<double>(st_ticks() - origin_ticks) / <double>cycles))


cdef int64_t never_less(st_atomic_u64 *seen, int64_t value) noexcept nogil:
    """What to show of a counter whose last value is `value` and whose largest one so far is `seen`.

    The scale between stamps and ticks is measured again at every look, so what passed long ago comes out a little
    shorter or longer each time; and two readers may look at once.
    """
    cdef uint64_t before = st_load_relaxed(seen)
    while value > 0 and before < <uint64_t>value:
        if st_cas_relaxed(seen, &before, <uint64_t>value):
            return value
    return <int64_t>before


cdef uint64_t period_to_ticks(object period_us) except? 0xFFFFFFFFFFFFFFFF:
    """Ticks of a poller's period; 0 stays 0, which means an active poller.

    Fractions of a tick are cut off; a period that is not 0 but below one tick is refused rather than turned into busy
    polling.
    """
    cdef double value
    cdef long long whole
    cdef int overflow = 0
    if isinstance(period_us, int) and not isinstance(period_us, bool):
        whole = PyLong_AsLongLongAndOverflow(period_us, &overflow)
        if overflow < 0 or (overflow == 0 and whole < 0):
            raise ValueError(f"period_us must not be negative, got {period_us!r}")
        if overflow or <uint64_t>whole > MAX_PERIOD_TICKS // 1000:
            raise ValueError(f"period_us is too large, got {period_us!r}")
        return <uint64_t>whole * 1000
    value = check_number("period_us", period_us, "microseconds")
    if not isfinite(value) or value < 0:
        raise ValueError(f"period_us must be finite and not negative, got {period_us!r}")
    if value == 0:
        return 0
    # 0.001 us is one tick, although 0.001 * 1000 need not be 1.0 exactly.
    value = value * 1000 + 1e-6
    if value < 1:
        raise ValueError(f"period_us must be 0 or at least one tick (0.001), got {period_us!r}")
    if value >= <double>MAX_PERIOD_TICKS:
        raise ValueError(f"period_us is too large, got {period_us!r}")
    return <uint64_t>value


cdef uint64_t delay_to_ticks(object delay_us) except? 0xFFFFFFFFFFFFFFFF:
    """Ticks of a delay in microseconds, 0 included. Fractions of a tick are cut off."""
    cdef double value
    cdef long long whole
    cdef int overflow = 0
    if type(delay_us) is int:
        whole = PyLong_AsLongLongAndOverflow(delay_us, &overflow)
        if overflow == 0 and 0 <= whole <= <long long>(MAX_PERIOD_TICKS // 1000):
            return <uint64_t>whole * 1000
        if overflow < 0 or (overflow == 0 and whole < 0):
            raise ValueError(f"delay_us must not be negative, got {delay_us!r}")
        raise ValueError(f"delay_us is too large, got {delay_us!r}")
    if isinstance(delay_us, bool) or type(delay_us).__name__ in ("bool", "bool_"):
        raise TypeError(f"delay_us must be a number of microseconds, got {delay_us!r}")
    try:
        value = delay_us
    except OverflowError:
        raise ValueError(f"delay_us is too large, got {delay_us!r}") from None
    except TypeError:
        raise TypeError(f"delay_us must be a number of microseconds, got {type(delay_us).__name__}") from None
    if not isfinite(value) or value < 0:
        raise ValueError(f"delay_us must be finite and not negative, got {delay_us!r}")
    # 0.001 us is one tick, although 0.001 * 1000 need not be 1.0 exactly.
    value = value * 1000 + 1e-6
    if value >= <double>MAX_PERIOD_TICKS:
        raise ValueError(f"delay_us is too large, got {delay_us!r}")
    return <uint64_t>value
