"""The stall watchdog: callbacks that hold up their reactor."""

import logging
import sys
import threading
import time
import traceback

from spdkthread.latch import Latch

__all__ = ["Watchdog"]

logger = logging.getLogger("spdkthread")


class Watchdog:
    """Reports each callback that runs longer than a limit: once per stall, with the Python stack of the OS thread.

    It costs the reactor nothing: a thread of its own looks at the counters that the loop keeps anyway, four times per
    limit. When a poll is under way and no counter has moved, the callback is still the same one.

    Notes
    -----
    On a build with the GIL, a callback that holds the GIL inside C code is reported when it lets go of it, if it still
    runs then.
    """

    def __init__(self, reactor, stall_ms: float):
        self.stall_ms = stall_ms
        self._reactor = reactor
        self._over = Latch()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._over.shut()
        thread = self._thread = threading.Thread(target=self._run, name="spdk_watchdog", daemon=True)
        thread.start()

    def stop(self) -> None:
        self._over.open()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        last = None
        since = 0.0
        reported = False
        while not self._over.wait(self.stall_ms / 4000):
            progress = self._reactor._progress()
            now = time.monotonic()
            if progress is None or progress != last:
                last, since, reported = progress, now, False
            elif not reported and (now - since) * 1000 >= self.stall_ms:
                reported = True
                self._report((now - since) * 1000)

    def _report(self, lasted_ms: float) -> None:
        what, os_thread = self._reactor._stalled()
        if what is None:
            return
        frame = sys._current_frames().get(os_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no Python frame)\n"
        logger.warning(
            "%r stalls: %s has run for %.0f ms (limit %g ms)\n%s", self._reactor, what, lasted_ms, self.stall_ms, stack
        )
