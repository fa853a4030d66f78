"""Which reactor polls a thread: moving it, and choosing where it may go."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spdkthread.errors import ReactorError
from spdkthread.future import make_future

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["allowed_reactors", "move_inside_mask", "move_thread"]


def move_thread(source, thread, to) -> "Future":
    """Hand `thread` from one reactor to another, between two turns of the first.

    The ring, the pollers, the timers and the file descriptors move with the thread, so nothing is lost and the order of
    its work stays. See `Reactor.move_thread`.

    Notes
    -----
    **Thread safety:** any OS thread.
    """
    if thread._placed_on() is not source:
        raise ReactorError(f"{thread!r} is not on {source!r}")
    if to.state not in ("new", "running"):
        raise ReactorError(f"{thread!r} cannot be moved to {to!r}")
    if source.state not in ("new", "running"):
        raise ReactorError(f"{thread!r} cannot be moved away from {source!r}")
    if thread.cpumask is not None and to.core not in thread.cpumask:
        raise ReactorError(f"{thread!r} may only be placed on cores {sorted(thread.cpumask)}, not on {to!r}")
    move = _Move(thread, source, to)
    future = move.future
    if to is source:
        move.arrived()
        return future
    source._call_on_loop(move.leave)
    source._serve_now()
    return future


class _Placing:
    """A thread's move under way: the `waiting.Producer` of its future, which fails when this object is dropped."""

    def __init__(self, thread):
        self.thread = thread
        self.lib = thread.lib
        self.future = make_future(self, running=True)

    def __del__(self):
        self.future._settle_orphan(f"{self} never ended: a reactor that had to do it is gone")

    def _needed(self) -> tuple:
        raise NotImplementedError

    def _task_name(self) -> str:
        return str(self)

    def _reported_on(self):
        return self.thread


class _Move(_Placing):
    """A thread on its way from one reactor to another."""

    def __init__(self, thread, source, to):
        super().__init__(thread)
        self.source = source
        self.to = to
        self.left = False

    def __str__(self) -> str:
        return f"the move of thread {self.thread.name!r} from {self.source!r} to {self.to!r}"

    def _needed(self) -> tuple:
        return (self.to,) if self.left else (self.source, self.to)

    def leave(self) -> None:
        """On the loop of the first reactor."""
        try:
            self.source._hand_over(self.thread, self.to)
        except BaseException as error:
            self.future.set_exception(error)
            return
        self.left = True
        self.to._call_on_loop(self.arrived)
        self.to._serve_now()

    def arrived(self) -> None:
        """On the loop of the second one."""
        self.future.set_result(self.thread)


def move_inside_mask(group, thread, cpumask: frozenset[int]) -> "Future":
    """Change a thread's cpumask and move it to a core of the mask, however often others move it meanwhile.

    The mask counts at once: a move that is under way to a core outside it fails when its turn comes.

    Raises
    ------
    ReactorError
        When the group has no such core; the mask is then not changed.
    """
    allowed = allowed_reactors(group.reactors, cpumask, group.isolated, repr(thread))
    thread._set_mask(cpumask)
    change = _MaskChange(thread, cpumask, allowed)
    future = change.future
    change.go()
    return future


class _MaskChange(_Placing):
    """A thread on its way to a core of its new cpumask."""

    def __init__(self, thread, cpumask: frozenset[int], allowed: list):
        super().__init__(thread)
        self.cpumask = cpumask
        self.allowed = allowed
        self.reactors: tuple = ()

    def __str__(self) -> str:
        return f"the move of thread {self.thread.name!r} to one of cores {sorted(self.cpumask)}"

    def _needed(self) -> tuple:
        return self.reactors

    def go(self) -> None:
        source = self.thread._placed_on()
        if source is None or source.core in self.cpumask:
            self.future.set_result(self.thread)
            return
        target = min(self.allowed, key=lambda one: len(one.threads))
        self.reactors = (source, target)
        try:
            move = move_thread(source, self.thread, target)
        except ReactorError as error:
            self.again_or(error, source)
        else:
            move.add_done_callback(lambda move: self.look(move, source))

    def look(self, move: "Future", source) -> None:
        error = move.exception()
        if error is None:
            self.future.set_result(self.thread)
        else:
            self.again_or(error, source)

    def again_or(self, error: BaseException, source) -> None:
        """After a move that failed: again if the thread is on another reactor by now, else it is an error."""
        if self.thread._placed_on() is source:
            self.future.set_exception(error)
        else:
            self.go()


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
