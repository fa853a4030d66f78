"""What keeps an exiting SpdkThread: one list of kinds, to which each kind adds itself."""

from collections.abc import Callable, Iterable

__all__ = ["blockers_by_kind", "exit_blockers", "register_blocker"]

_kinds: dict[str, Callable[..., Iterable[str]]] = {}


def register_blocker(kind: str, in_words: Callable[..., Iterable[str]]) -> None:
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
    The number that the thread's poll looks at is the kind's own business: see ``thread_may_exit`` in thread_poll.pyx.

    **Thread safety:** at import.
    """
    _kinds[kind] = in_words


def blockers_by_kind(thread) -> list[tuple[str, str]]:
    """What keeps a thread: pairs of a kind and words, in the order in which the kinds were registered."""
    return [(kind, words) for kind, in_words in _kinds.copy().items() for words in in_words(thread)]


def exit_blockers(thread) -> tuple[str, ...]:
    """What keeps a thread, in words. See `SpdkThread.exit_blockers`."""
    return tuple(words for _, words in blockers_by_kind(thread))
