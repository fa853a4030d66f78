"""A trace: what ran where and when, for how long, and who sent it, as Perfetto shows it.

    trace.start()
    ...                                         # what is to be looked at
    trace.stop().save("x.json")                 # open it at ui.perfetto.dev, or in chrome://tracing

or without a change to the program: ``SPDKTHREAD_TRACE=x.json python program.py``.

Each OS thread records into a ring of its own, 32 bytes an event, and overwrites its oldest. While no trace runs, each
place where an event would be costs one load and one branch.
"""

import argparse
import atexit
import json
import os
import runpy
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy

from spdkthread import trace_ring
from spdkthread.checks import check_integer
from spdkthread.error_log import describe
from spdkthread.errors import SpdkThreadError
from spdkthread.lib import ThreadLib
from spdkthread.trace_ring import record

__all__ = ["Trace", "TraceError", "is_running", "main", "record", "start", "stop"]

DEFAULT_ENTRIES = 32768
MAX_ENTRIES = 1 << 26

# By the numbers of trace_ring.pxd.
KINDS = {
    1: "message",
    2: "native message",
    3: "critical message",
    4: "poller",
    5: "native poller",
    6: "timer",
    7: "native timer",
    8: "fd handler",
    9: "send",
    10: "wait for the GIL",
    11: "GIL held",
    12: "park",
    13: "wake",
    14: "move",
    15: "create channel",
    16: "destroy channel",
    17: "stall",
    18: "user",
    19: "native user",
    20: "loop callback",
}
NUMBERS = {kind: number for number, kind in KINDS.items()}
MESSAGES = {NUMBERS["message"], NUMBERS["native message"]}
NATIVE = {NUMBERS["native message"], NUMBERS["native poller"], NUMBERS["native timer"]}
NAMED = {
    NUMBERS[kind]
    for kind in ("message", "critical message", "poller", "timer", "fd handler", "user", "stall", "loop callback")
}
NAMED |= {NUMBERS["create channel"], NUMBERS["destroy channel"]}
SLEEPS = {NUMBERS["park"], NUMBERS["wake"]}
INSTANTS = {
    NUMBERS[kind] for kind in ("wake", "move", "create channel", "destroy channel", "stall", "user", "native user")
}

SUBJECT_BITS = (1 << 56) - 1


class TraceError(SpdkThreadError):
    """A trace was started twice, or stopped without having been started."""


def start(entries: int = DEFAULT_ENTRIES) -> None:
    """Begin to record.

    Parameters
    ----------
    entries : int, default 32768
        Events that each OS thread keeps, of 32 bytes each, rounded up to a power of two. The memory is taken at the
        first event of an OS thread.

    Raises
    ------
    TraceError
        When a trace is running.
    TypeError, ValueError
        When `entries` is not an int between 1 and 2**26.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to SPDK's ``trace_enable_tpoint_group`` for all groups.
    """
    entries = check_integer("entries", entries)
    if not 1 <= entries <= MAX_ENTRIES:
        raise ValueError(f"entries must be between 1 and {MAX_ENTRIES}, got {entries!r}")
    if not trace_ring.begin(1 << (entries - 1).bit_length()):
        raise TraceError("a trace is running already: stop() it first")


def stop() -> "Trace":
    """Stop recording.

    Returns
    -------
    Trace
        What was recorded.

    Raises
    ------
    TraceError
        When no trace is running.

    Notes
    -----
    **Thread safety:** any OS thread.
    """
    threads = _names_of_threads()
    recorded = trace_ring.end()
    if recorded is None:
        raise TraceError("no trace is running: start() one first")
    return Trace._of(recorded, threads)


def is_running() -> bool:
    """Whether a trace records. **Thread safety:** any OS thread."""
    return trace_ring.is_on()


def _libs() -> tuple[Any, ...]:
    return ThreadLib._all()  # type: ignore[attr-defined]


def _names_of_threads() -> dict[int, tuple[str, int]]:
    return {one._trace_number(): (one.name, one.id) for lib in _libs() for one in lib.threads}


@dataclass(frozen=True)
class OsThread:
    """One OS thread of a trace."""

    id: int
    """The kernel's number of it."""
    name: str
    lost: int
    """Events that were overwritten by later ones."""


class Trace:
    """What was recorded between `start` and `stop`.

    Attributes
    ----------
    os_threads : tuple of OsThread
        Those that recorded anything.
    lost : int
        Events that were overwritten by later ones of their OS threads.

    Notes
    -----
    **Thread safety:** any OS thread; it does not change.
    """

    def __init__(
        self, events: numpy.ndarray, os_threads: tuple[OsThread, ...], began_ticks: int, senders: dict
    ) -> None:
        self._events = events
        self.os_threads = os_threads
        self.began_ticks = began_ticks
        self._senders = senders

    def __repr__(self) -> str:
        return f"<Trace of {len(self._events)} events on {len(self.os_threads)} OS threads, {self.lost} lost>"

    def __len__(self) -> int:
        return len(self._events)

    @property
    def lost(self) -> int:
        return sum(one.lost for one in self.os_threads)

    @classmethod
    def _of(cls, recorded: tuple, threads: dict[int, tuple[str, int]]) -> "Trace":
        rings, names, thread_names, began_stamp, began_ticks, stamps, ticks = recorded
        threads = {**threads, **thread_names}
        alive = {one.native_id: one.name for one in threading.enumerate()}
        scale = ticks / stamps
        parts, os_threads = [], []
        for os_thread, name, lost, raw in rings:
            words = numpy.frombuffer(raw, numpy.uint64).reshape(-1, 4)
            os_threads.append(OsThread(os_thread, alive.get(os_thread, name), lost))
            parts.append((os_thread, words))
        rows = []
        for os_thread, words in parts:
            for stamp, length, what, value in words.tolist():
                kind, subject = what >> 56, what & SUBJECT_BITS
                since = began_ticks + round(((stamp - began_stamp + (1 << 63)) % (1 << 64) - (1 << 63)) * scale)
                value = value - (1 << 64) if value >> 63 else value
                rows.append((since, round((length >> 24) * scale), os_thread, kind, length & 0xFFFFFF, subject, value))
        # An event that holds others comes before them.
        rows.sort(key=lambda row: (row[0], -row[1]))
        symbols: dict[tuple[int, int], str] = {}
        places: dict[tuple[int, int], int] = {}
        columns: list[tuple] = []
        senders: dict[int, int] = {}
        for index, (since, duration, os_thread, kind, number, subject, value) in enumerate(rows):
            if kind == NUMBERS["send"] and value:
                places[subject, value] = index
            if (kind, subject) not in symbols:
                symbols[kind, subject] = _name_of(kind, subject, names, threads)
            thread, thread_id = threads.get(number, ("", 0))
            if kind in SLEEPS and value < 0:
                value = 0
            columns.append(
                (since, duration, KINDS.get(kind, "?"), symbols[kind, subject], thread, thread_id, os_thread, value)
            )
        for index, row in enumerate(rows):
            if row[3] in MESSAGES and row[6]:
                sent = places.get((row[4], row[6]))
                if sent is not None:
                    senders[index] = sent
        width = [max([1, *(len(row[place]) for row in columns)]) for place in (2, 3, 4)]
        dtype = [
            ("ticks", "i8"),
            ("duration_ticks", "i8"),
            ("event", f"U{width[0]}"),
            ("name", f"U{width[1]}"),
            ("thread", f"U{width[2]}"),
            ("thread_id", "i8"),
            ("os_thread", "i8"),
            ("value", "i8"),
            ("sender", "i8"),
        ]
        events = numpy.array([(*row, senders.get(index, -1)) for index, row in enumerate(columns)], dtype)
        events.flags.writeable = False
        return cls(events, tuple(os_threads), began_ticks, senders)

    def events(self) -> numpy.ndarray:
        """The events, in the order in which they began.

        Returns
        -------
        numpy.ndarray
            Structured and read-only, with the fields

            ``ticks``
                When it began, on the clock of `spdkthread.ticks` (ns).
            ``duration_ticks``
                How long it took (ns); 0 for what is an instant.
            ``event``
                ``"message"``, ``"native message"``, ``"critical message"``, ``"poller"``, ``"native poller"``,
                ``"timer"``, ``"native timer"``, ``"fd handler"``, ``"send"``, ``"wait for the GIL"``, ``"GIL held"``,
                ``"park"``, ``"wake"``, ``"move"``, ``"create channel"``, ``"destroy channel"``, ``"stall"``,
                ``"user"``, ``"native user"``, ``"loop callback"``.
            ``name``
                The callback's, the device's, the event's own; of a ``"send"`` the thread that it goes to; of a
                ``"move"`` the core that the thread left.
            ``thread``, ``thread_id``
                The SpdkThread's; of a ``"send"`` the sender's, if it was one.
            ``os_thread``
                The kernel's number of it.
            ``value``
                Of a poller its result, of a handler its descriptor, of a ``"move"`` the core that the thread came to,
                of a ``"stall"`` the core, of a user's event its value. Of a ``"park"`` and its ``"wake"`` what ended
                the sleep, added up: 1 a message or request, 2 a descriptor, 4 a signal, 8 a descriptor of the
                reactor's own that was closed; 0: a timer, or the end of a short sleep.
            ``sender``
                Of a message the index of its ``"send"``; -1: not known, as for messages that native code of other
                modules has sent, and for what was overwritten.
        """
        return self._events

    def only(self, kinds: Iterable[str]) -> "Trace":
        """The trace without the events of other kinds; `kinds` are values of the field ``event``."""
        kept = numpy.isin(self._events["event"], list(kinds))
        numbers = numpy.cumsum(kept) - 1
        events = self._events[kept]
        senders = {}
        for run, send in self._senders.items():
            if kept[run] and kept[send]:
                senders[int(numbers[run])] = int(numbers[send])
        events["sender"] = -1
        for run, send in senders.items():
            events["sender"][run] = send
        events.flags.writeable = False
        return Trace(events, self.os_threads, self.began_ticks, senders)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as Chrome's trace-event JSON, which Perfetto and chrome://tracing open.

        OS threads are its tracks, callbacks its slices, and an arrow leads from each send to the message's run.

        Parameters
        ----------
        path : str or os.PathLike

        Raises
        ------
        OSError
            When the file cannot be written.
        """
        # Whole or not at all: a program that ends meanwhile leaves no half of a file.
        path = os.fspath(path)
        partial = f"{path}.{os.getpid()}.partial"
        try:
            with open(partial, "w", encoding="utf-8") as file:
                json.dump({"traceEvents": self._chrome(), "displayTimeUnit": "ns"}, file, separators=(",", ":"))
            os.replace(partial, path)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise

    def _chrome(self) -> list[dict[str, Any]]:
        pid = os.getpid()
        out: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": "spdkthread"}}
        ]
        out += [
            {"ph": "M", "name": "thread_name", "pid": pid, "tid": one.id, "args": {"name": one.name}}
            for one in self.os_threads
        ]
        rows = self._events.tolist()
        sent = {send: run for run, send in self._senders.items()}
        for index, (ticks, duration, event, name, thread, thread_id, os_thread, value, _) in enumerate(rows):
            ts = (ticks - self.began_ticks) / 1000
            kind = NUMBERS.get(event, 0)
            args: dict[str, Any] = {"thread": f"{thread} ({thread_id})"} if thread_id else {}
            one = {"pid": pid, "tid": os_thread, "cat": event, "ts": ts, "args": args}
            if kind == NUMBERS["send"]:
                if index in sent:
                    # A sender finds its message run already when it is overtaken between the two.
                    ts = min(ts, (rows[sent[index]][0] - self.began_ticks) / 1000)
                    one["ts"] = ts
                out.append({**one, "ph": "X", "dur": 0.001, "name": f"send to {name}"})
                if index in sent:
                    out.append({**one, "ph": "s", "id": index + 1, "cat": "flow", "name": "message", "args": {}})
                continue
            if kind in SLEEPS:
                args["cause"] = _cause(value)
            elif kind == NUMBERS["move"]:
                args.update(from_core=int(name), to_core=value)
                name = f"{thread} to core {value}"
            elif kind not in MESSAGES:
                args["value"] = value
            name = name or event
            if kind in INSTANTS:
                out.append({**one, "ph": "i", "s": "t", "name": name})
                continue
            out.append({**one, "ph": "X", "dur": duration / 1000, "name": name})
            if index in self._senders:
                flow = {
                    "ph": "f",
                    "bp": "e",
                    "id": self._senders[index] + 1,
                    "cat": "flow",
                    "name": "message",
                    "args": {},
                }
                out.append({**one, **flow})
        return out


def _cause(value: int) -> str:
    causes = [name for bit, name in ((1, "message"), (2, "descriptor"), (4, "signal"), (8, "closed")) if value & bit]
    return " and ".join(causes) or "time"


def _name_of(kind: int, subject: int, names: dict[int, Any], threads: dict[int, tuple[str, int]]) -> str:
    if kind in NAMED:
        named = names.get(subject)
        if named is None:
            return ""
        if isinstance(named, str):
            return named
        return getattr(named, "co_qualname", None) or describe(named)
    if kind == NUMBERS["send"]:
        return threads.get(subject, (f"thread number {subject}", 0))[0]
    if kind in NATIVE:
        return trace_ring.symbol(subject) or f"0x{subject:x}"
    if kind == NUMBERS["native user"]:
        return trace_ring.text_at(subject) if subject else ""
    if kind == NUMBERS["move"]:
        return str(subject)
    return ""


def start_from_environment(path: str) -> None:
    """``SPDKTHREAD_TRACE=path``: trace from the import on, and save at the end of the interpreter.

    ``%p`` in the path is the number of the process, for programs that start others.
    """
    if is_running():
        return
    start()
    mine = os.getpid()
    path = os.path.abspath(path.replace("%p", str(mine)))

    def save() -> None:
        # A child of a fork runs this too, and another part of the program may have stopped the trace.
        if os.getpid() == mine and is_running():
            stop().save(path)

    atexit.register(save)


def main(argv: list[str] | None = None) -> int:
    """``python -m spdkthread trace``: run a script and write what it did.

    Parameters
    ----------
    argv : list of str, optional
        By default ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit status of the script.
    """
    parser = argparse.ArgumentParser(
        prog="python -m spdkthread trace",
        description="Run a script with the trace on, and write what Perfetto (ui.perfetto.dev) opens. Without a change "
        "to how a program is started: SPDKTHREAD_TRACE=x.json.",
    )
    parser.add_argument("-o", "--output", default="trace.json", metavar="FILE", help="what to write (trace.json)")
    parser.add_argument(
        "--entries",
        type=int,
        default=DEFAULT_ENTRIES,
        help="events that each OS thread keeps, its latest (%(default)s)",
    )
    parser.add_argument("script", help="the Python file to run")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")
    asked = parser.parse_args(argv)
    status = 0
    before = sys.argv, sys.path[:]
    start(asked.entries)
    try:
        sys.argv = [asked.script, *asked.args]
        sys.path.insert(0, os.path.dirname(os.path.abspath(asked.script)))
        runpy.run_path(asked.script, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    finally:
        sys.argv, sys.path[:] = before
        # The script may have stopped it for a purpose of its own.
        if is_running():
            trace = stop()
            trace.save(asked.output)
            print(f"{asked.output}: {trace!r}", file=sys.stderr)
    return status
