"""Termination: several reactors that end together."""

from collections.abc import Iterable

__all__ = ["Termination"]


class Termination:
    """Says when all of them are drained: when two snapshots, one after the other, find them so and are equal.

    Each reactor that has nothing left to run asks; only then do the threads begin to exit, so that a message under way
    between two reactors arrives. From outside nothing comes in any more by that time, hence a message can come only
    from a callback, and a callback that is under way shows as a thread that is not drained. One snapshot is not enough,
    because it takes time and a message may cross it. But a snapshot also has the number of messages ever sent to each
    thread: when two are equal, nothing was sent, and nothing ran, from the end of the first to the beginning of the
    second.

    Notes
    -----
    **Thread safety:** any OS thread.
    """

    def __init__(self, reactors: Iterable):
        self.reactors = tuple(reactors)
        self._over = False

    def may_exit(self) -> bool:
        if not self._over:
            first = self._snapshot()
            self._over = first is not None and first == self._snapshot()
        return self._over

    def _snapshot(self) -> list | None:
        marks = []
        for reactor in self.reactors:
            mark = reactor._drained_mark()
            if mark is None:
                return None
            marks.append(mark)
        return marks
