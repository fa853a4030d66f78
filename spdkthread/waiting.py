"""Waiting for a future: what it waits for, whether that can come, and when the wait says so."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from spdkthread import late

__all__ = [
    "Producer",
    "awaited_producers",
    "keep_waiting",
    "tell_while_waiting",
    "told_of_full_ring",
    "whereabouts",
]

logger = logging.getLogger("spdkthread")

# What each OS thread waits for that waits for a future: its number -> a weak reference to the producer, or None.
awaited_producers: dict[int, Any] = {}
os.register_at_fork(after_in_child=awaited_producers.clear)

# A wait that has lasted so long says what it waits for, when that cannot come.
WAIT_SAYS_AFTER_S = 1.0
# A stop that has lasted so long says what it waits for, and again after twice the time, and so on.
STOP_SAYS_AFTER_S = 5.0
# Between two looks of a wait for ever.
LONGEST_PAUSE_S = 30.0


class Producer(Protocol):
    """What has to produce the result of a future: an `SpdkThread`, or something under way on several of them."""

    lib: Any

    def _needed(self) -> tuple:
        """The SpdkThreads and Reactors that have to run something before the future is settled."""

    def _task_name(self) -> str:
        """What to call it in a message."""

    def _reported_on(self) -> Any:
        """The SpdkThread concerned, or None."""


def whereabouts(one) -> str:
    """Where an SpdkThread or a Reactor is, and what would have it polled when nothing polls it."""
    if not hasattr(one, "_placed_on"):
        return f"reactor {one.name!r} (core {one.core}), {_state_of(one)}"
    name = f"thread {one.name!r} (id {one.id})"
    if one.is_exited:
        return f"{name}, which has exited"
    reactor = one._placed_on()
    if reactor is not None:
        return f"{name} on reactor {reactor.name!r} (core {reactor.core}), {_state_of(reactor)}"
    if one._os_thread():
        return f"{name} on no reactor, driven by an OS thread"
    return f"{name} on no reactor, and no OS thread drives it: poll it, or add it to a reactor"


def _state_of(reactor) -> str:
    state = reactor.state
    if state == "new":
        return "which was never started: call its start()"
    if state == "stopped":
        return "which has stopped: call its start()"
    if state == "dead":
        return "which was made before a fork and does not exist in this process"
    what = reactor._running_now()
    return f"which is {state}" + (f" and runs {what}" if what else "")


def _why_unserved(one, marks: dict, path: tuple) -> str | None:
    """Why nothing runs there now; None: it is polled. `path`: the OS threads of which each waits for the next."""
    os_thread = one._os_thread()
    if os_thread == 0:
        # Polled by hand, one poll after the other, it is seldom seen inside one.
        return whereabouts(one) if marks.get(id(one)) == one._polls_so_far() else None
    if os_thread in path:
        return f"{whereabouts(one)}, whose OS thread is one of those that wait"
    waited_for = awaited_producers.get(os_thread)
    producer = None if waited_for is None else waited_for()
    if producer is None:
        return None
    for other in producer._needed():
        why = _why_unserved(other, marks, (*path, os_thread))
        if why is not None:
            return f"{whereabouts(one)}, which itself waits for {why}"
    return None


def _needed_by(reference) -> tuple:
    producer = None if reference is None else reference()
    return () if producer is None else producer._needed()


def _marks(reference) -> dict:
    """How often each of those that are needed was polled so far."""
    return {id(one): one._polls_so_far() for one in _needed_by(reference)}


def _why_stuck(reference, marks: dict) -> str:
    """What keeps a result from coming, in words; empty: nothing that is known."""
    me = threading.get_ident()
    reasons = [_why_unserved(one, marks, (me,)) for one in _needed_by(reference)]
    return "; ".join(reason for reason in reasons if reason is not None)


def _is_orphan(reference) -> bool:
    """Whether nothing is left that could produce the result."""
    if reference is None:
        return False
    producer = reference()
    if producer is None:
        return True
    needed = producer._needed()
    return bool(needed) and all(getattr(one, "is_exited", False) for one in needed)


def _state_in_words(reference) -> str:
    producer = None if reference is None else reference()
    return "" if producer is None else "; ".join(whereabouts(one) for one in producer._needed())


def keep_waiting(future, reference, condition, waited_s: float, timeout_s: float | None) -> None:
    """Wait on for a future that did not come at once. Nothing of its producer is kept alive meanwhile.

    Parameters
    ----------
    future : FutureCore
    reference : weak reference to a Producer, or None
    condition : threading.Condition
        The future's.
    waited_s : float
        Seconds that it was waited for already, if the time limit was not shorter.
    timeout_s : float or None
        Of the whole wait, in seconds.

    Raises
    ------
    TimeoutError
    """
    began = time.monotonic() - (waited_s if timeout_s is None else min(waited_s, timeout_s))
    marks = _marks(reference)
    pause_s = max(0.0, WAIT_SAYS_AFTER_S - waited_s)
    told = False
    while True:
        if timeout_s is not None:
            left_s = began + timeout_s - time.monotonic()
            if left_s <= 0:
                # No mark: with this little time nothing is known of what is polled by hand now and then.
                raise TimeoutError(_timeout_text(future, reference, timeout_s, marks))
            pause_s = min(pause_s, left_s)
        with condition:
            if not future.done():
                condition.wait(pause_s)
            if future.done():
                return
        if _is_orphan(reference):
            future._settle_orphan(f"{future!r} has nothing left that could produce its result: its thread has ended")
            return
        if not told and time.monotonic() - began >= WAIT_SAYS_AFTER_S:
            why = _why_stuck(reference, marks)
            if why:
                told = True
                logger.warning("%s has waited for %.1f s for %s", _who_waits(), time.monotonic() - began, why)
        marks = _marks(reference)
        pause_s = min(max(WAIT_SAYS_AFTER_S, time.monotonic() - began), LONGEST_PAUSE_S)


def _timeout_text(future, reference, timeout_s: float, marks: dict) -> str:
    why = _why_stuck(reference, marks)
    if why:
        return f"not done within {timeout_s:g} s: {_who_waits()} waits for {why}"
    state = _state_in_words(reference)
    return f"not done within {timeout_s:g} s: {state or repr(future)}"


def _who_waits() -> str:
    get_reactor = late.found("get_reactor")
    reactor = None if get_reactor is None else get_reactor()
    name = threading.current_thread().name
    return f"OS thread {name!r}" if reactor is None else f"reactor {reactor.name!r} (core {reactor.core})"


def told_of_full_ring(thread, polls_before: int, waited_s: float) -> bool:
    """For a wait for room: after a while say so, when the thread was not polled meanwhile. False: it is too early."""
    if waited_s < WAIT_SAYS_AFTER_S:
        return False
    if thread._polls_so_far() == polls_before and not thread._os_thread():
        logger.warning("send_msg_wait has waited for %.1f s for room in %s", waited_s, whereabouts(thread))
    return True


def tell_while_waiting(
    wait: Callable[[float | None], bool], timeout_s: float | None, tell: Callable[[float], None]
) -> bool:
    """``wait(timeout_s)`` in pieces; `tell` gets the seconds so far when it takes long, at doubling intervals."""
    began = time.monotonic()
    says_after_s = STOP_SAYS_AFTER_S
    while True:
        passed_s = time.monotonic() - began
        if timeout_s is not None and timeout_s <= says_after_s:
            return wait(max(0.0, timeout_s - passed_s))
        if wait(max(0.0, says_after_s - passed_s)):
            return True
        tell(time.monotonic() - began)
        says_after_s *= 2
