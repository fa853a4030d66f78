"""Termination: several reactors that end together."""

from collections.abc import Iterable

__all__ = ["Termination"]


class Termination:
    """Asked by each reactor that has nothing left to run: whether the same is true of all of them.

    Only then do the threads begin to exit, so that what is under way between two reactors arrives. From outside nothing
    comes in any more by that time, hence a message can only come from a callback, and a callback that is under way
    shows as a thread that is not quiet. One look at all threads after the other is not enough: a message may cross it.
    But when two looks find everything quiet and the same number of messages ever sent to each thread, then nothing was
    sent, and nothing ran, from the end of the first look to the beginning of the second.

    Notes
    -----
    **Thread safety:** any OS thread.
    """

    def __init__(self, reactors: Iterable):
        self.reactors = tuple(reactors)
        self._over = False

    def may_exit(self) -> bool:
        if not self._over:
            first = self._look()
            self._over = first is not None and first == self._look()
        return self._over

    def _look(self) -> list | None:
        marks = []
        for reactor in self.reactors:
            mark = reactor._drained_mark()
            if mark is None:
                return None
            marks.append(mark)
        return marks
