"""`aio.EventLoop` in every place where the standard library makes a selector event loop."""

import asyncio
from asyncio import unix_events

from spdkthread.aio import EventLoop


class Loop(EventLoop):
    """With the constructor of asyncio's."""

    def __init__(self, selector=None):
        super().__init__(selector=selector)


# Its name is looked for in log records and representations, and its module by tests that treat asyncio's loop apart.
Loop.__name__ = Loop.__qualname__ = "_UnixSelectorEventLoop"
Loop.__module__ = "asyncio.unix_events"


def put_in_place():
    asyncio.SelectorEventLoop = unix_events.SelectorEventLoop = Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = unix_events.EventLoop = Loop
    unix_events._UnixDefaultEventLoopPolicy._loop_factory = Loop
