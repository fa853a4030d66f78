"""WeakRegistry: every object of a kind that exists, for what must reach all of them."""

import itertools
import weakref

__all__ = ["WeakRegistry"]


class WeakRegistry:
    """Objects in the order in which they came, for as long as something else keeps them.

    ``weakref.WeakSet`` cannot be read while another OS thread, or a destructor that a collection runs, adds to it. Here
    each step is one operation of a dict, and a key is never used twice, so there is no lock that could be held.

    Notes
    -----
    **Thread safety:** any OS thread, signal handlers, destructors, the child of a fork.
    """

    def __init__(self) -> None:
        self._serials = itertools.count()
        self._known: dict[int, weakref.ref] = {}

    def add(self, one) -> None:
        serial = next(self._serials)
        known = self._known
        known[serial] = weakref.ref(one, lambda reference: known.pop(serial, None))

    def all(self) -> list:
        """Those that exist."""
        found = []
        for reference in self._known.copy().values():
            one = reference()
            if one is not None:
                found.append(one)
        return found
