"""``python -m spdkthread top``: reactors, threads, pollers and channels, as they run."""

import argparse
import csv
import json
import re
import select
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from spdkthread.monitor.sampling import TABLES, Row, Sample, Sampler
from spdkthread.rpc.client import Client
from spdkthread.rpc.errors import RpcError
from spdkthread.rpc.server import DEFAULT_PATH

__all__ = ["main"]

_HEADERS = {
    "thread": "Thread", "poller": "Poller", "kind": "Type", "id": "ID", "core": "Core", "cpu_pct": "CPU %",
    "busy_pct": "Busy %", "active": "Active", "timed": "Timed", "paused": "Paused", "pending": "Pend",
    "high_water": "High", "refused": "Refus", "errors": "Errs", "status": "Status", "runs_per_s": "Runs/s",
    "period_us": "Period us", "run_count": "Runs", "name": "Reactor", "threads": "Thrds", "pollers": "Pollrs",
    "usr_pct": "Usr %", "sys_pct": "Sys %", "parks_per_s": "Parks/s",
    "wakes_per_s": "Wakes/s", "gil_wait_pct": "GIL %", "stalls": "Stalls", "slices_lost": "Lost",
    "channel": "Channel of", "references": "Refs",
}  # fmt: skip
# What a narrow terminal does without, the first first.
_DISPENSABLE = (
    "slices_lost",
    "errors",
    "refused",
    "high_water",
    "paused",
    "wakes_per_s",
    "sys_pct",
    "run_count",
    "parks_per_s",
    "id",
)
_TEXT = ("thread", "poller", "kind", "name", "status", "channel")
_WIDEST_TEXT = 35
_NARROWEST_TEXT = 8

_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)

_KEYS = """\
 1 2 3 4, Tab threads, pollers, cores, channels
 s            sort by the next column         S   the other way round
 c            hide the column sorted by       C   all columns again
 Up Down      move                            PgUp PgDn Home End
 Enter        all about the one that is marked (another key goes back)
 g            the scheduler (another key goes back)
 r            change the interval             t   since the start, or last interval
 h            this help                       q   end"""

_DESCRIPTION = """\
Show the reactors, threads, pollers and channels of a running program. It works with any server of SPDK's JSON-RPC
methods; with ours it also shows rings, sleeps, waits for the GIL and stalls.

A program opens the server by spdkthread.rpc.Server(PATH), or by SPDKTHREAD_RPC_SOCKET=PATH in its environment. When
the output is no terminal, it is printed once, as with --once.

keys:
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spdkthread top",
        description=_DESCRIPTION + _KEYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-s", "--socket", default=DEFAULT_PATH, metavar="PATH", help="default: %(default)s")
    parser.add_argument("-i", "--interval", type=float, default=1.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("--once", action="store_true", help="print all tables once, of one interval, and end")
    parser.add_argument("--total", action="store_true", help="since the start of each counter, not of one interval")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object and end")
    output.add_argument(
        "--csv", choices=tuple(TABLES), nargs="?", const="threads", help="print one table as CSV and end"
    )
    arguments = parser.parse_args(argv)
    if not 0.01 <= arguments.interval <= 3600:
        parser.error("--interval must be between 0.01 and 3600 seconds")
    try:
        with Client(arguments.socket) as client:
            sampler = Sampler(client)
            if arguments.json or arguments.csv or arguments.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
                sample = sampler.look()
                if not arguments.total:
                    time.sleep(arguments.interval)
                    sample = sampler.look()
                _print_once(sample, arguments)
            else:
                _Screen(sampler, arguments.interval, arguments.total).run()
    except BrokenPipeError:
        raise
    except (OSError, RpcError) as error:
        print(f"top: {arguments.socket}: {error}", file=sys.stderr)
        return 1
    return 0


def _print_once(sample: Sample, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(asdict(sample), indent=2))
    elif arguments.csv:
        writer = csv.DictWriter(sys.stdout, TABLES[arguments.csv], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(getattr(sample, arguments.csv))
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        print(title(sample, width))
        for table in TABLES:
            print()
            print("\n".join(lines_of(table, getattr(sample, table), width)))


def title(sample: Sample, width: int) -> str:
    """One line about the program."""
    counts = f"cores {len(sample.cores)}, threads {len(sample.threads)}, pollers {len(sample.pollers)}"
    return f"{sample.version}, pid {sample.pid}: {counts}, {sample.scheduler}, {sample.seconds:.1f} s"[:width]


def lines_of(table: str, rows: list[Row], width: int, hidden: Collection[str] = ()) -> list[str]:
    """A table as text of at most so many columns, its header first, without those that are hidden."""
    columns = [
        name
        for name in TABLES[table]
        if name not in hidden and (not rows or any(row.get(name) is not None for row in rows) or name == "core")
    ]
    while True:
        cells = [[_shown(name, row.get(name)) for name in columns] for row in rows]
        widths = [
            max([len(_HEADERS[name])] + [min(len(line[place]), _WIDEST_TEXT) for line in cells])
            for place, name in enumerate(columns)
        ]
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        spare = next((name for name in _DISPENSABLE if name in columns), None)
        if excess > 0 and spare is not None:
            columns.remove(spare)
            continue
        break
    texts = [place for place, name in enumerate(columns) if name in _TEXT]
    for _ in range(excess if texts else 0):
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] > _NARROWEST_TEXT:
            widths[widest] -= 1
    lines = [[_HEADERS[name] for name in columns], *cells]
    return [
        "  ".join(_fitted(name, cell, size) for name, cell, size in zip(columns, line, widths, strict=True)).rstrip()[
            :width
        ]
        for line in lines
    ]


def _fitted(name: str, cell: str, size: int) -> str:
    if len(cell) > size:
        cell = cell[: size - 1] + "~"
    return cell.ljust(size) if name in _TEXT else cell.rjust(size)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "period_us":
        return f"{value:.10g}" if value else "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    # A name may have anything inside; a terminal obeys some of it.
    return "".join(one if one.isprintable() else "?" for one in str(value))


class _Screen:
    """The live view: one table, drawn again after each look and each key. Plain escape sequences; no library."""

    def __init__(self, sampler: Sampler, interval_s: float, total: bool):
        self.sampler = sampler
        self.interval_s = interval_s
        self.total = total
        self.table = "threads"
        self.sort_by = {"threads": "cpu_pct", "pollers": "runs_per_s", "cores": "core", "channels": "channel"}
        self.downwards = {"threads": True, "pollers": True, "cores": False, "channels": False}
        self.hidden: dict[str, set[str]] = {table: set() for table in TABLES}
        self.marked = 0
        self.overlay: Callable[[Sample], list[str]] | None = None
        self.over = False

    def run(self) -> None:
        with _raw_terminal() as read_key:
            sample = self.sampler.look()
            next_look = time.monotonic() + min(self.interval_s, 0.25)
            while not self.over:
                self.draw(sample)
                key = read_key(max(0.0, next_look - time.monotonic()))
                if key:
                    self.press(key)
                if time.monotonic() >= next_look:
                    if self.total:
                        self.sampler._before = {}
                        self.sampler._looked_at = None
                    sample = self.sampler.look()
                    next_look = time.monotonic() + self.interval_s

    def rows(self, sample: Sample) -> list[Row]:
        column = self.sort_by[self.table]
        rows = getattr(sample, self.table)
        # Nothing and text do not compare with numbers.
        return sorted(
            rows,
            key=lambda row: (row[column] is not None, row[column] if row[column] is not None else 0),
            reverse=self.downwards[self.table],
        )

    def press(self, key: str) -> None:
        if key in ("q", "\x03"):
            self.over = True
            return
        if self.overlay is not None:
            self.overlay = None
            return
        names = list(TABLES)
        columns = [one for one in TABLES[self.table] if one not in self.hidden[self.table]]
        if key in "1234":
            self.table, self.marked = names[int(key) - 1], 0
        elif key == "\t":
            self.table, self.marked = names[(names.index(self.table) + 1) % len(names)], 0
        elif key == "s":
            place = columns.index(self.sort_by[self.table])
            self.sort_by[self.table] = columns[(place + 1) % len(columns)]
        elif key == "S":
            self.downwards[self.table] = not self.downwards[self.table]
        elif key == "c":
            place = columns.index(self.sort_by[self.table])
            if len(columns) > 1:
                self.hidden[self.table].add(columns.pop(place))
                self.sort_by[self.table] = columns[place % len(columns)]
        elif key == "C":
            self.hidden[self.table].clear()
        elif key == "g":
            self.overlay = self.scheduling
        elif key == "t":
            self.total = not self.total
        elif key == "r":
            choices = [0.5, 1.0, 2.0, 5.0, 10.0]
            self.interval_s = next((one for one in choices if one > self.interval_s), choices[0])
        elif key == "h":
            self.overlay = lambda sample: _KEYS.splitlines()
        elif key in ("\r", "\n"):
            self.overlay = self.details
        else:
            steps = {"\x1b[A": -1, "\x1b[B": 1, "\x1b[5~": -10, "\x1b[6~": 10, "\x1b[H": -(10**9), "\x1b[F": 10**9}
            self.marked += steps.get(key, 0)

    def scheduling(self, sample: Sample) -> list[str]:
        return [f" {name:<20} {_shown(name, value)}" for name, value in sample.scheduling.items()]

    def details(self, sample: Sample) -> list[str]:
        rows = self.rows(sample)
        if not rows:
            return ["nothing there"]
        row = rows[min(self.marked, len(rows) - 1)]
        lines = [f" {_HEADERS[name]:<12} {_shown(name, row.get(name))}" for name in TABLES[self.table]]
        if self.table == "threads":
            for table in ("pollers", "channels"):
                own = [one for one in getattr(sample, table) if one["thread"] == row["thread"]]
                lines += ["", *lines_of(table, own, 10**6)]
        return lines

    def draw(self, sample: Sample) -> None:
        width, height = shutil.get_terminal_size((80, 24))
        tabs = "  ".join(
            f"\x1b[7m {place} {name} \x1b[0m" if name == self.table else f" {place} {name} "
            for place, name in enumerate(TABLES, 1)
        )
        rows = self.rows(sample)
        self.marked = max(0, min(self.marked, len(rows) - 1))
        if self.overlay is not None:
            body = [line[:width] for line in self.overlay(sample)][: height - 3]
        else:
            header, *lines = lines_of(self.table, rows, width, self.hidden[self.table])
            room = max(1, height - 4)
            first = max(0, min(self.marked - room // 2, len(lines) - room))
            body = [f"\x1b[1m{header}\x1b[0m"]
            for number, line in enumerate(lines[first : first + room], first):
                body.append(f"\x1b[7m{line.ljust(width)}\x1b[0m" if number == self.marked else line)
        state = f"sorted by {_HEADERS[self.sort_by[self.table]]}  every {self.interval_s:g} s" + (
            "  since the start" if self.total else ""
        )
        foot = f"{state}  h help  q end"[:width]
        drawn = [title(sample, width), tabs, *body]
        drawn += [""] * (height - 1 - len(drawn))
        sys.stdout.write("\x1b[H" + "\r\n".join(line + "\x1b[K" for line in [*drawn, foot]) + "\x1b[J")
        sys.stdout.flush()


@contextmanager
def _raw_terminal() -> Iterator[Callable[[float], str]]:
    """Keys one by one, on a screen of its own, the terminal afterwards as it was."""
    import os
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    keys: deque[str] = deque()

    def read_key(timeout_s: float) -> str:
        if not keys and select.select([fd], [], [], timeout_s)[0]:
            # Several keys may have come, each of one or more bytes. None: the terminal is gone.
            keys.extend(_KEY.findall(os.read(fd, 4096).decode(errors="replace")) or ["q"])
        return keys.popleft() if keys else ""

    try:
        tty.setcbreak(fd)
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[2J")
        yield read_key
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
