"""The metrics of a library: which there are, and their text as Prometheus reads it.

Reading them sends no message and calls nothing on a reactor: they are counters that any OS thread may read. So a scrape
neither wakes nor stops one, and what it reads of two threads may be of two moments.
"""

import functools
import itertools
import socketserver
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from spdkthread import trace_ring
from spdkthread.checks import check_integer
from spdkthread.clock import TICKS_HZ
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.reactor import Reactor
from spdkthread.reactor_registry import all_reactors
from spdkthread.trace import NUMBERS

__all__ = ["Family", "Metrics", "MetricsServer", "text_of"]

_SECOND = float(TICKS_HZ)

# Name, help, field of `ReactorStats`, units of it in one unit of the metric.
_REACTOR_COUNTERS = (
    ("spdkthread_reactor_busy_seconds", "Time in turns that found work", "busy_ticks", _SECOND),
    ("spdkthread_reactor_idle_seconds", "Time without work, asleep or not", "idle_ticks", _SECOND),
    ("spdkthread_reactor_turns", "Turns of the loop", "turns", 1),
    ("spdkthread_reactor_parks", "Times that it went to sleep", "parks", 1),
    ("spdkthread_reactor_wakes", "Sleeps that a sender, a descriptor or a request ended", "wakes", 1),
    ("spdkthread_reactor_gil_waits", "Times that it had to wait for the GIL", "gil_waits", 1),
    ("spdkthread_reactor_gil_wait_seconds", "Time that it waited for the GIL", "gil_wait_ticks", _SECOND),
    ("spdkthread_reactor_stalls", "Callbacks that ran longer than the reactor's limit", "stalls", 1),
    ("spdkthread_reactor_slices_lost", "Times that it was off its core while it looked for work", "slices_lost", 1),
)
_THREAD_COUNTERS = (
    ("spdkthread_thread_busy_seconds", "Time in polls that found work", "busy_ticks", _SECOND),
    ("spdkthread_thread_idle_seconds", "Time without work", "idle_ticks", _SECOND),
    ("spdkthread_thread_messages", "Messages run", "msgs_run", 1),
    ("spdkthread_thread_poller_runs", "Pollers run", "pollers_run", 1),
    ("spdkthread_thread_errors", "Exceptions that left callbacks", "errors", 1),
    ("spdkthread_thread_refused_messages", "Sends that were refused for want of room", "ring_full", 1),
)
_POLLER_COUNTERS = (
    ("spdkthread_poller_runs", "Runs", "run_count"),
    ("spdkthread_poller_busy_runs", "Runs that found work", "busy_count"),
    ("spdkthread_poller_errors", "Runs that raised", "error_count"),
    ("spdkthread_poller_overruns", "Whole periods by which runs came late", "overrun_count"),
)
_TIMED_KINDS = (
    "message",
    "native message",
    "critical message",
    "poller",
    "native poller",
    "timer",
    "native timer",
    "fd handler",
    "loop callback",
)
_REACTOR = ("reactor", "core")
_THREAD = ("thread", "thread_id")
_POLLER = ("thread", "thread_id", "poller", "poller_id")


class Family(NamedTuple):
    """One metric: a value for each combination of labels."""

    kind: str
    """``"counter"``, ``"gauge"`` or ``"histogram"``."""
    name: str
    help: str
    labels: tuple[str, ...]
    values: Sequence[tuple[tuple[str, ...], float]]
    """Of a histogram, the sums."""
    buckets: Sequence[tuple[tuple[str, ...], Sequence[tuple[str, int]]]] = ()
    """Of a histogram: bounds as Prometheus writes them, and how many values were up to each."""


class Metrics:
    """The metrics of one library.

    Parameters
    ----------
    lib : ThreadLib, optional
        By default the library of the process.
    max_threads : int, default 1000
        So many threads, the oldest, have metrics of their own. How many there are says ``spdkthread_threads``.
    max_pollers : int, default 0
        So many pollers, of the oldest threads first, have metrics of their own: every poller is four time series for
        as long as Prometheus keeps its data, so they are only shown on request.
    durations : bool, default False
        Count how long callbacks take, by kind, in a histogram with bounds from 1 us, doubling, to 2 s. From then on
        each callback of the process costs two looks at the clock and one addition more, until `close`.

    Notes
    -----
    The labels are ``reactor`` with ``core``, ``thread`` with ``thread_id``, ``poller`` with ``poller_id``. Counters
    never go back while what they belong to exists; that of an exited thread ends, and no later one has its id.

    **Thread safety:** any OS thread.
    """

    def __init__(
        self,
        lib: ThreadLib | None = None,
        *,
        max_threads: int = 1000,
        max_pollers: int = 0,
        durations: bool = False,
    ):
        if lib is not None and not isinstance(lib, ThreadLib):
            raise TypeError(f"lib must be a ThreadLib or None, got {type(lib).__name__}")
        for name, value in (("max_threads", max_threads), ("max_pollers", max_pollers)):
            if check_integer(name, value) < 0:
                raise ValueError(f"{name} must not be negative, got {value!r}")
        self.lib = default_lib() if lib is None else lib
        self.max_threads = max_threads
        self.max_pollers = max_pollers
        self._counts_durations = weakref.finalize(self, _count_no_longer) if durations else None
        if durations:
            trace_ring.count_durations(True)

    def close(self) -> None:
        """Count no durations any more. Happens also when it is dropped."""
        if self._counts_durations is not None:
            self._counts_durations()

    def families(self) -> Iterator[Family]:
        """The metrics, as they are now."""
        reactors = [one for one in all_reactors() if one.lib is self.lib and one.state != "dead"]
        threads = self.lib.threads
        yield Family("gauge", "spdkthread_threads", "SpdkThreads that have not exited", (), [((), len(threads))])
        yield Family("gauge", "spdkthread_devices", "Registered I/O devices", (), [((), len(self.lib.devices))])
        errors, lost = self.lib.error_count, self.lib.lost_msgs
        yield Family("counter", "spdkthread_errors", "Exceptions that left callbacks", (), [((), errors)])
        yield Family("counter", "spdkthread_lost_messages", "Accepted messages that never ran", (), [((), lost)])
        yield from _of_reactors(reactors)
        yield from _of_threads(threads[: self.max_threads])
        if self.max_pollers:
            yield from self._of_pollers(threads)
        if self._counts_durations is not None:
            yield _of_durations()

    def _of_pollers(self, threads: tuple) -> Iterator[Family]:
        pollers: list[tuple[tuple[str, ...], Any]] = []
        for thread in threads:
            for poller in thread.pollers[: self.max_pollers - len(pollers)]:
                pollers.append(((thread.name, str(thread.id), poller.name, str(poller.id)), poller))
        for name, text, field in _POLLER_COUNTERS:
            yield Family("counter", name, text, _POLLER, [(key, getattr(one, field)) for key, one in pollers])


def _count_no_longer() -> None:
    trace_ring.count_durations(False)


def _of_durations() -> Family:
    sums, buckets = [], []
    for kind in _TIMED_KINDS:
        counts, seconds = trace_ring.durations(NUMBERS[kind])
        bounds = [*[repr((1 << power) / 1e6) for power in range(len(counts) - 1)], "+Inf"]
        sums.append(((kind,), seconds))
        buckets.append(((kind,), list(zip(bounds, itertools.accumulate(counts), strict=True))))
    name, text = "spdkthread_callback_seconds", "How long callbacks took"
    return Family("histogram", name, text, ("kind",), sums, buckets)


def _of_reactors(reactors: list[Reactor]) -> Iterator[Family]:
    keys = [(one.name, str(one.core)) for one in reactors]
    running = [(key, float(one.state == "running")) for key, one in zip(keys, reactors, strict=True)]
    polled = [(key, len(one.threads)) for key, one in zip(keys, reactors, strict=True)]
    yield Family("gauge", "spdkthread_reactor_running", "1 while it runs", _REACTOR, running)
    yield Family("gauge", "spdkthread_reactor_threads", "SpdkThreads on it", _REACTOR, polled)
    yield from _counters(
        _REACTOR_COUNTERS, _REACTOR, [(key, one.stats) for key, one in zip(keys, reactors, strict=True)]
    )


def _of_threads(threads: tuple) -> Iterator[Family]:
    keys = [(one.name, str(one.id)) for one in threads]
    stats = [(key, one.stats) for key, one in zip(keys, threads, strict=True)]
    pending = [(key, one.pending_msgs) for key, one in zip(keys, threads, strict=True)]
    sizes = [(key, one.ring_size) for key, one in zip(keys, threads, strict=True)]
    water = [(key, one.high_water) for key, one in stats]
    yield Family("gauge", "spdkthread_thread_pending_messages", "Messages that wait", _THREAD, pending)
    yield Family("gauge", "spdkthread_thread_high_water", "Most messages that waited at once", _THREAD, water)
    yield Family("gauge", "spdkthread_thread_ring_size", "Messages that there is room for", _THREAD, sizes)
    yield from _counters(_THREAD_COUNTERS, _THREAD, stats)


def _counters(table: Iterable[tuple], labels: tuple[str, ...], snapshots: list[tuple]) -> Iterator[Family]:
    for name, text, field, unit in table:
        yield Family("counter", name, text, labels, [(key, getattr(one, field) / unit) for key, one in snapshots])


def text_of(families: Iterable[Family]) -> str:
    """The families in Prometheus' text format.

    ``prometheus_client`` writes the same from a registry, but takes several times as long: it looks at every label of
    every sample again.
    """
    lines: list[str] = []
    known: dict[tuple, str] = {}
    for family in families:
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        lines.append(f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}")
        labels = family.labels
        if family.kind == "histogram":
            lines += _histogram(family)
            continue
        for key, value in family.values:
            text = known.get((labels, key))
            if text is None:
                text = known[labels, key] = _labels(labels, key)
            lines.append(f"{name}{text} {float(value)!r}")
    lines.append("")
    return "\n".join(lines)


def _histogram(family: Family) -> Iterator[str]:
    for (key, seconds), (_, buckets) in zip(family.values, family.buckets, strict=True):
        for bound, count in buckets:
            yield f"{family.name}_bucket{_labels((*family.labels, 'le'), (*key, bound))} {float(count)!r}"
        yield f"{family.name}_sum{_labels(family.labels, key)} {float(seconds)!r}"
        yield f"{family.name}_count{_labels(family.labels, key)} {float(buckets[-1][1])!r}"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = [f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)]
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


class MetricsServer:
    """The metrics by HTTP, at every path, until `stop`. See `spdkthread.monitor.serve_metrics`.

    Notes
    -----
    **Thread safety:** any OS thread.
    """

    def __init__(self, port: int, addr: str = "127.0.0.1", *, lib: ThreadLib | None = None, **limits: Any):
        self._metrics = metrics = Metrics(lib, **limits)
        self._server: _HttpServer | None = _HttpServer((addr, port), functools.partial(_Handler, metrics))
        self.port: int = self._server.server_address[1]
        """Where it listens."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="spdk_metrics", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close it. A second call does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()
            self._metrics.close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # That of HTTPServer asks the resolver for a name, which nothing here needs and which can take seconds.
        socketserver.TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    # A client that says nothing is not waited for.
    timeout = 10

    def __init__(self, metrics: Metrics, *args: Any):
        self._metrics = metrics
        super().__init__(*args)

    def do_GET(self) -> None:
        text = text_of(self._metrics.families()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a log line for each scrape has no use."""
