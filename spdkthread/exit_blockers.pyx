"""What keeps an exiting SpdkThread. See ``exit_blockers.pxd``."""

from libc.stdint cimport uint32_t

from spdkthread.cpython_ext cimport seal

__all__ = ["blockers_by_kind", "exit_blockers", "register_blocker"]

cdef dict in_words_of = {}      # name of a kind -> function, in the order of registration


def register_blocker(kind, in_words):
    """Add a kind of thing that keeps a thread from exiting.

    Parameters
    ----------
    kind : str
        What one of them is called.
    in_words : callable
        ``in_words(thread)`` names each one that the thread has at present. It runs on any OS thread, beside the one
        that polls the thread, so it looks at copies.

    Notes
    -----
    What the thread's poll looks at is a count in `exit_blockers_s`, or one that the kind has itself: see
    ``thread_may_exit`` in thread_poll.pyx.

    **Thread safety:** at import.
    """
    in_words_of[kind] = in_words


def blockers_by_kind(thread):
    """What keeps a thread: pairs of a kind and words, in the order in which the kinds were registered."""
    return [(kind, words) for kind, in_words in in_words_of.copy().items() for words in in_words(thread)]


def exit_blockers(thread):
    """What keeps a thread, in words. See `SpdkThread.exit_blockers`."""
    return tuple([words for _, words in blockers_by_kind(thread)])


cdef class NamedBlockers:
    """Things that keep a thread and have no list of their own. Changed on the thread, read on any OS thread."""

    def __cinit__(self):
        self.operations = {}
        self.unregistrations = {}
        self.loops = {}

    cdef dict things(self, int kind):
        if kind == BLOCKER_OPERATION:
            return self.operations
        return self.unregistrations if kind == BLOCKER_UNREGISTRATION else self.loops

    cdef uint32_t *count(self, int kind) noexcept:
        if kind == BLOCKER_OPERATION:
            return &self.c.operations
        return &self.c.unregistrations if kind == BLOCKER_UNREGISTRATION else &self.c.loops

    cdef int add(self, int kind, object what) except -1:
        """Twice for one object takes two `remove`: an iteration may have begun, and wait, on one thread."""
        cdef dict things = self.things(kind)
        things[what] = things.get(what, 0) + 1
        self.count(kind)[0] += 1
        return 0

    cdef int remove(self, int kind, object what) except -1:
        cdef dict things = self.things(kind)
        left = things.pop(what) - 1
        if left:
            things[what] = left
        self.count(kind)[0] -= 1
        return 0

    cdef list of_kind(self, int kind):
        return list(self.things(kind).copy())


cdef NamedBlockers new_blockers(exit_blockers_s *counts):
    cdef NamedBlockers blockers = NamedBlockers.__new__(NamedBlockers)
    blockers.c = counts
    return blockers


seal(NamedBlockers)
