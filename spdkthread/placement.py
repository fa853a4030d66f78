"""Which reactor polls a thread: moving it, and choosing where it may go."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from spdkthread.errors import ReactorError

__all__ = ["allowed_reactors", "move_inside_mask", "move_thread"]


def move_thread(source, thread, to) -> Future:
    """Hand `thread` from one reactor to another, between two turns of the first.

    The ring, the pollers, the timers and the file descriptors move with the thread, so nothing is lost and nothing
    changes its place. See `Reactor.move_thread`.

    Notes
    -----
    **Thread safety:** any OS thread.
    """
    future: Future = Future()
    future.set_running_or_notify_cancel()
    if thread._placed_on() is not source:
        raise ReactorError(f"{thread!r} is not on {source!r}")
    if to.state not in ("new", "running"):
        raise ReactorError(f"{thread!r} cannot be moved to {to!r}")
    if source.state not in ("new", "running"):
        raise ReactorError(f"{thread!r} cannot be moved away from {source!r}")
    if thread.cpumask is not None and to.core not in thread.cpumask:
        raise ReactorError(f"{thread!r} may only be placed on cores {sorted(thread.cpumask)}, not on {to!r}")
    if to is source:
        future.set_result(thread)
        return future

    def arrived() -> None:
        future.set_result(thread)

    def leave() -> None:
        try:
            source._hand_over(thread, to)
        except BaseException as error:
            future.set_exception(error)
            return
        to._call_on_loop(arrived)
        to._serve_now()

    source._call_on_loop(leave)
    source._serve_now()
    return future


def move_inside_mask(group, thread, cpumask: frozenset[int]) -> Future:
    """Change a thread's cpumask and move it to a core of the mask, however often others move it meanwhile.

    The mask counts at once: a move that is under way to a core outside it fails when its turn comes.

    Raises
    ------
    ReactorError
        When the group has no such core; the mask is then not changed.
    """
    allowed = allowed_reactors(group.reactors, cpumask, group.isolated, repr(thread))
    thread._set_mask(cpumask)
    future: Future = Future()
    future.set_running_or_notify_cancel()

    def go() -> None:
        source = thread._placed_on()
        if source is None or source.core in cpumask:
            future.set_result(thread)
            return
        target = min(allowed, key=lambda one: len(one.threads))
        try:
            move_thread(source, thread, target).add_done_callback(lambda move: look(move, source))
        except ReactorError as error:
            again_or(error, source)

    def look(move: Future, source) -> None:
        error = move.exception()
        if error is None:
            future.set_result(thread)
        else:
            again_or(error, source)

    def again_or(error: BaseException, source) -> None:
        """Somebody else has moved it, or there is a reason that stays."""
        if thread._placed_on() is source:
            future.set_exception(error)
        else:
            go()

    go()
    return future


def allowed_reactors(reactors: Sequence, cpumask: Iterable[int] | None, isolated: frozenset[int], owner: str) -> list:
    """The reactors on which a thread may be placed: inside its mask, and off the isolated cores unless it names them.

    Raises
    ------
    ReactorError
        When there is none.
    """
    if cpumask is None:
        allowed = [one for one in reactors if one.core not in isolated] or list(reactors)
    else:
        mask = frozenset(cpumask)
        allowed = [one for one in reactors if one.core in mask and one.core not in isolated]
        allowed = allowed or [one for one in reactors if one.core in mask]
    if not allowed:
        cores = [one.core for one in reactors]
        raise ReactorError(f"{owner} may only be placed on cores {sorted(cpumask or ())}, the group has {cores}")
    return allowed
