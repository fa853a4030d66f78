"""What tests of the event loop have in common."""

import asyncio
import selectors

from spdkthread import aio


class Selecting(selectors.SelectSelector):
    """select.select's, which has no descriptor of its own that something else could wait for."""

    selects = 0

    def select(self, timeout=None):
        self.selects += 1
        return super().select(timeout)


def run_on_our_loop(main):
    loop = aio.EventLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
