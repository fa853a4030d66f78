"""for_each_reactor: a function on every reactor of a group, one after the other."""

from collections import deque

from spdkthread.error_log import describe
from spdkthread.errors import ReactorError
from spdkthread.future import make_future
from spdkthread.reactor import Reactor, get_reactor

__all__ = ["ReactorVisit"]


class ReactorVisit:
    """A for_each_reactor under way: the `waiting.Producer` of its future."""

    def __init__(self, group, fn, cpl):
        self.lib = group.lib
        self.fn = fn
        self.cpl = cpl
        calling = get_reactor()
        self.origin: Reactor = next((one for one in group.reactors if one is calling), group.reactors[0])
        self.pending = deque(group.reactors)
        self.target: Reactor | None = None
        self.future = make_future(self, running=True)

    def __str__(self) -> str:
        return f"for_each_reactor of {describe(self.fn)}"

    def __del__(self):
        self.future._settle_orphan(f"{self} never ended: a reactor that had to run it is gone")

    def _needed(self) -> tuple:
        target = self.target
        return (self.origin, *self.pending, *([] if target is None else [target]))

    def _task_name(self) -> str:
        return str(self)

    def _reported_on(self) -> None:
        return None

    def hop(self) -> None:
        """To the next reactor, and after the last one to the calling reactor."""
        if self.pending:
            target, step = self.pending.popleft(), self.visit
            self.target = target
        else:
            self.target = None
            target, step = self.origin, self.complete
        target._call_on_loop(step)
        # Without effect while it runs: a loop that ends serves what came too late for it.
        target._serve_now()

    def visit(self) -> None:
        reactor = get_reactor()
        if reactor is None or reactor.state not in ("running", "stopping"):
            self.future.set_exception(ReactorError(f"{reactor!r} ended before its turn"))
            return
        try:
            self.fn()
        finally:
            self.hop()

    def complete(self) -> None:
        try:
            if self.cpl is not None:
                self.cpl()
        finally:
            self.future.set_result(None)
