"""Simulated time and deterministic polling, for tests of programs that use spdkthread.

The fixtures `manual_clock`, `thread_lib`, `reactor` and `reactor_group` come with the package as a pytest plugin:
see ``spdkthread.testing.pytest_plugin``.
"""

import gc
from collections.abc import Callable, Iterable

from spdkthread import alloc, call_later, io_device, iobuf, poller, thread, wakeup
from spdkthread.clock import ManualClock, ticks
from spdkthread.errors import NotIdleError
from spdkthread.lib import ThreadLib

__all__ = ["ManualClock", "leak_counters", "poll_threads", "poll_until_idle", "run_for"]

MAX_ROUNDS = 100_000


def poll_threads(threads: Iterable, rounds: int = 1) -> int:
    """Poll each of `threads` once per round, in their order. Returns how many polls found work.

    Answers to ``poll_threads`` of SPDK's ``ut_multithread``.
    """
    threads = tuple(threads)
    return sum(one.poll() > 0 for _ in range(rounds) for one in threads)


def poll_until_idle(threads: "Iterable | ThreadLib", max_rounds: int = MAX_ROUNDS) -> int:
    """Poll `threads` in rounds until a whole round finds no work, no message waits and nothing is due any more.

    Due is a timed poller or timer whose deadline had come when this was called: what real time, or a callback that
    moves the clock, makes due meanwhile is for the next call.

    Parameters
    ----------
    threads : iterable of SpdkThread, or ThreadLib
        An iterable is read once. Of a library all threads are polled, in the order of their creation, those created
        meanwhile too.
    max_rounds : int, default 100000
        Rounds that find work, or leave some, at most.

    Returns
    -------
    int
        Rounds that found work.

    Raises
    ------
    NotIdleError
        A `RuntimeError`: they are still busy after `max_rounds`, probably by a message or timer that always makes the
        next one, or by an active poller that never rests. It names the threads and what they have.
    WrongThreadError
        When a reactor polls one of them.

    Notes
    -----
    **Thread safety:** the OS thread that drives `threads`.
    """
    return _poll_until_idle(_look_at(threads), max_rounds)


def run_for(clock: ManualClock, threads: "Iterable | ThreadLib", *, us: float, max_rounds: int = MAX_ROUNDS) -> int:
    """Let simulated time pass: move `clock` from deadline to deadline, in order, and poll until idle at each.

    Before the clock moves for the first time, and at the very end, the threads are polled until idle too. The clock
    ends exactly `us` later, unless a callback moves it beyond that by itself.

    Parameters
    ----------
    clock : ManualClock
        That of the libraries of `threads`.
    threads : iterable of SpdkThread, or ThreadLib
        An iterable is read once: threads that are created meanwhile are not polled, and their deadlines pass unseen.
        Of a library all threads take part, those created meanwhile from the deadline of their creation on.
    us : float
        Microseconds of simulated time.
    max_rounds : int, default 100000
        As for `poll_until_idle`, at one tick of the clock.

    Returns
    -------
    int
        How often the clock stopped at a deadline.

    Raises
    ------
    NotIdleError
        As `poll_until_idle`, when work at one tick never ends: time would never pass.
    TypeError, ValueError
        When `clock` is no ManualClock, or a thread reads another one, or `us` is negative, NaN or infinite.
    WrongThreadError
        When a reactor polls one of the threads.

    Notes
    -----
    **Thread safety:** the OS thread that drives `threads`.
    """
    if not isinstance(clock, ManualClock):
        raise TypeError(f"clock must be a ManualClock, got {type(clock).__name__}")
    if isinstance(us, bool) or not isinstance(us, int | float):
        raise TypeError(f"us must be a number of microseconds, got {us!r}")
    if not 0 <= us < float("inf"):
        raise ValueError(f"us must be finite and not negative, got {us!r}")
    look = _look_at(threads)
    end = clock.now + (us * 1000 if isinstance(us, int) else round(us * 1000))
    stops = 0
    while True:
        for one in look():
            if one.lib.manual_clock is not clock:
                raise ValueError(f"{one!r} does not read {clock!r}: its library has a clock of its own")
        _poll_until_idle(look, max_rounds, clock.now)
        deadline = min((due for one in look() if (due := one.next_expiration) is not None), default=None)
        if deadline is None or deadline > end:
            break
        if deadline > clock.now:
            clock.advance(ticks=deadline - clock.now)
            stops += 1
    if clock.now < end:
        clock.advance(ticks=end - clock.now)
        _poll_until_idle(look, max_rounds, clock.now)
    return stops


def leak_counters() -> dict[str, int]:
    """What exists at present: threads, pollers, timers, channels, devices, buffers that were got and not put, native
    blocks, and messages accepted but not run.

    Call it after ``gc.collect()``; a test that ends with the numbers it began with has leaked nothing.
    """
    return {
        "threads": thread.live_threads(),
        "pollers": poller.live_pollers(),
        "timers": call_later.live_timers(),
        "channels": io_device.live_channels(),
        "devices": io_device.live_devices(),
        "buffers": iobuf.live_buffers(),
        "native_blocks": alloc.live_blocks() - wakeup.wakeup_count() - wakeup.map_count(),
        "messages": _pending_msgs(),
    }


def _pending_msgs() -> int:
    if not thread.live_threads():
        return 0  # without looking at every object there is
    return sum(one.pending_msgs for one in gc.get_objects() if isinstance(one, thread.SpdkThread))


def _look_at(threads: "Iterable | ThreadLib") -> Callable[[], tuple]:
    """What tells the threads to poll now."""
    if isinstance(threads, ThreadLib):
        return lambda: threads.threads
    fixed = tuple(threads)
    return lambda: fixed


def _poll_until_idle(look: Callable[[], tuple], max_rounds: int, now: int | None = None) -> int:
    """With `now`, at that tick, wherever a callback moves the clock."""
    clocks = {id(one.lib): _now(one) for one in look()}
    for done in range(max_rounds):
        if sum(one.poll(now=now) > 0 for one in look()) == 0 and not any(_has_work(one, clocks) for one in look()):
            return done
    names = ", ".join(f"{one!r} ({_what(one)})" for one in look() if not one.is_exited)
    raise NotIdleError(f"still busy after {max_rounds} rounds: {names}")


def _now(one) -> int:
    clock = one.lib.manual_clock
    return ticks() if clock is None else clock.now


def _has_work(one, clocks) -> bool:
    if one.pending_msgs:
        return True
    due = one.next_expiration
    return due is not None and due <= clocks.setdefault(id(one.lib), _now(one))


def _what(one) -> str:
    return "; ".join(one.exit_blockers) or "nothing that waits"
