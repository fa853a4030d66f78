"""A policy that makes `EventLoop`, for programs that ask asyncio for a loop instead of taking a factory."""

import asyncio

from spdkthread.aio.event_loop import EventLoop

__all__ = ["EventLoopPolicy", "install"]


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """asyncio's policy, with `EventLoop` as its loop.

    For what takes no loop factory: Jupyter, tornado, ``unittest.IsolatedAsyncioTestCase``, ``asyncio.run`` on Python
    3.11. asyncio gives up policies with Python 3.14; where there is a choice, pass ``loop_factory=aio.EventLoop``.

    Notes
    -----
    **Thread safety:** as asyncio's policies: any OS thread, each of which has a loop of its own.
    """

    _loop_factory = EventLoop

    def new_event_loop(self) -> EventLoop:
        """Make an `EventLoop` with an SpdkThread of its own.

        Notes
        -----
        **Thread safety:** any OS thread.
        """
        return EventLoop()


def install() -> None:
    """Have asyncio make `EventLoop` wherever a loop is made from now on.

    Loops that are there already stay as they are. ``asyncio.set_event_loop_policy(None)`` undoes it.

    Notes
    -----
    **Thread safety:** once, before loops are made; the policy is the process's.

    Examples
    --------
    >>> import asyncio
    >>> from spdkthread import aio
    >>> aio.install()
    >>> async def which():
    ...     return type(asyncio.get_running_loop()).__name__
    >>> asyncio.run(which())
    'EventLoop'
    >>> asyncio.set_event_loop_policy(None)
    """
    asyncio.set_event_loop_policy(EventLoopPolicy())
