"""Starting and stopping for asyncio: what would block its loop runs on an OS thread beside it."""

import asyncio
import logging
import threading
from concurrent.futures import Future

from spdkthread import late
from spdkthread.errors import AwaitError

__all__ = ["async_start", "async_stop"]

logger = logging.getLogger("spdkthread")


def _begin(call, name: str) -> Future:
    future: Future = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _require_loop(one) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise AwaitError(
            f"`async with` of {one!r} needs a running asyncio loop; elsewhere use `with`, start() and stop()"
        ) from None


async def async_start(one):
    """Start a Reactor or a ReactorGroup. Cancelled meanwhile, it is stopped again as soon as it has started."""
    _require_loop(one)
    starting = _begin(one.start, "spdk_start")
    try:
        return await asyncio.shield(asyncio.wrap_future(starting))
    except asyncio.CancelledError:
        starting.add_done_callback(lambda started: started.exception() or _begin(one.stop, "spdk_stop"))
        raise


async def async_stop(one) -> None:
    """Stop a Reactor or a ReactorGroup and log what it leaves behind. Cancelled meanwhile, the stop goes on."""

    def stop() -> None:
        report = one.stop()
        if not report.ok:
            logger.warning("%r stopped and left behind: %s", one, report)

    _require_loop(one)
    await asyncio.shield(asyncio.wrap_future(_begin(stop, "spdk_stop")))


late.fill("async_start", async_start)
late.fill("async_stop", async_stop)
