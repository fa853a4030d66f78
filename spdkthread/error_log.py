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


class ErrorLog:
    """Counts repeats instead of printing them, so that a poller that always fails cannot flood the log.

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
        if self._count_again(key):
            return
        # The user's `repr`: not under the lock.
        described = describe(exception)
        now = time.perf_counter_ns()
        with self._lock:
            if self._count_again(key):
                return
            if len(self._records) < MAX_RECORDS:
                self._records[key] = ErrorRecord(context["message"], described, 1, now, now)
        logger.error(context["message"], exc_info=exception)

    def _count_again(self, key: tuple) -> bool:
        """Count a failure that is known."""
        with self._lock:
            known = self._records.get(key)
            if known is None:
                return False
            known.count += 1
            known.last_ns = time.perf_counter_ns()
            return True

    def records(self) -> tuple[ErrorRecord, ...]:
        """Every distinct failure so far, in the order of its first occurrence."""
        with self._lock:
            return tuple(self._records.copy().values())

    def summarize(self) -> None:
        """Log how often each repeated failure came, and forget them all."""
        with self._lock:
            records, self._records = self._records, {}
        for record in records.values():
            if record.count > 1:
                logger.error("%s: %s, %d times in all", record.message, record.exception, record.count)

    @staticmethod
    def _place(exception: BaseException) -> tuple:
        last = None
        for last in traceback.walk_tb(exception.__traceback__):  # noqa: B007
            pass
        return () if last is None else (last[0].f_code.co_filename, last[1])
