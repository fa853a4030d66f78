"""The default destination of exceptions that leave callbacks: each failure is printed once and then counted."""

import logging
import time
import traceback
from dataclasses import dataclass

from spdkthread.forks import ReentrantLock

__all__ = ["ErrorLog", "ErrorRecord", "describe"]

logger = logging.getLogger("spdkthread")

# Distinct failures that are remembered; more than that are printed every time.
MAX_RECORDS = 1000
# Repeats of one failure of which the log is told for the first time, and then each time that they have doubled.
FIRST_SUMMARY = 10


def describe(subject: object) -> str:
    """What to call a callback or an exception in a message, whatever it answers when asked."""
    try:
        name = getattr(subject, "__qualname__", None)
        return name if isinstance(name, str) and name else repr(subject)
    except Exception:
        return f"<{type(subject).__name__}>"


@dataclass
class ErrorRecord:
    """One distinct failure: the same exception type from the same line, for the same callback."""

    message: str
    exception: str
    count: int
    first_ns: int
    last_ns: int
    thread_id: int | None = None
    said: int = 1
    """The count that the log has been told."""


class ErrorLog:
    """Counts repeats instead of printing them, so that a poller that always fails cannot flood the log.

    The count is logged when it reaches 10, 20, 40, 80 and so on, when the thread exits or its reactor stops, and at
    `summarize`.

    Notes
    -----
    **Thread safety:** any OS thread.
    """

    def __init__(self) -> None:
        self._lock = ReentrantLock()
        self._records: dict[tuple, ErrorRecord] = {}

    def record(self, context: dict) -> None:
        """Log a failure at its first occurrence, with its traceback; count it afterwards."""
        exception = context["exception"]
        # By name and by id: a class of the user's may have a metaclass with a `__hash__` and an `__eq__` of its own.
        kind = type(exception)
        key = (kind.__name__, id(kind), self._place(exception), context["message"])
        told = self._count_again(key)
        if told is not None:
            if told:
                logger.error("%s: %s, %d times so far", context["message"], self._described(key), told)
            return
        # The user's `repr`: not under the lock.
        described = describe(exception)
        now = time.perf_counter_ns()
        with self._lock:
            told = self._count_again(key)
            if told is None and len(self._records) < MAX_RECORDS:
                thread_id = getattr(context.get("thread"), "id", None)
                self._records[key] = ErrorRecord(context["message"], described, 1, now, now, thread_id)
        if told is None:
            logger.error(context["message"], exc_info=exception)
        elif told:
            logger.error("%s: %s, %d times so far", context["message"], described, told)

    def _count_again(self, key: tuple) -> int | None:
        """Count a failure. None: it was not known. Otherwise how often it has come, if that is to be said now, or 0."""
        with self._lock:
            known = self._records.get(key)
            if known is None:
                return None
            known.count += 1
            known.last_ns = time.perf_counter_ns()
            if known.count < max(FIRST_SUMMARY, 2 * known.said):
                return 0
            known.said = known.count
            return known.count

    def _described(self, key: tuple) -> str:
        with self._lock:
            known = self._records.get(key)
            return "" if known is None else known.exception

    def records(self) -> tuple[ErrorRecord, ...]:
        """Every distinct failure so far, in the order of its first occurrence."""
        with self._lock:
            return tuple(self._records.copy().values())

    def tell_repeats(self, thread_id: int) -> None:
        """Log how often each failure of one thread has come, where that was not said yet."""
        with self._lock:
            untold = [(one, one.count) for one in self._records.copy().values() if one.thread_id == thread_id]
            untold = [(one, count) for one, count in untold if count > one.said]
            for one, count in untold:
                one.said = count
        for one, count in untold:
            logger.error("%s: %s, %d times so far", one.message, one.exception, count)

    def summarize(self) -> None:
        """Log how often each repeated failure came, and forget them all."""
        with self._lock:
            records, self._records = self._records, {}
        for record in records.values():
            if record.count > record.said:
                logger.error("%s: %s, %d times in all", record.message, record.exception, record.count)

    @staticmethod
    def _place(exception: BaseException) -> tuple:
        last = None
        for last in traceback.walk_tb(exception.__traceback__):  # noqa: B007
            pass
        return () if last is None else (last[0].f_code.co_filename, last[1])
