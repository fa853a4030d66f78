"""Collector: the counters of reactors, threads and pollers, for ``prometheus_client``.

A scrape sends no message and calls nothing on a reactor: it reads counters that any OS thread may read. So it neither
wakes nor stops one, and what it reads of two threads may be of two moments.
"""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector as _CollectorBase
except ImportError as error:
    raise ImportError("spdkthread.monitor.prometheus needs prometheus_client: install spdkthread[metrics]") from error

from spdkthread.checks import check_integer
from spdkthread.clock import TICKS_HZ
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.reactor import Reactor
from spdkthread.roster import all_reactors

__all__ = ["Collector", "MetricsServer"]

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


class Collector(_CollectorBase):
    """Metrics of one library.

    Parameters
    ----------
    lib : ThreadLib, optional
        By default the library of the process.
    max_threads : int, default 1000
        So many threads, the oldest, have metrics of their own. How many there are says ``spdkthread_threads``.
    max_pollers : int, default 0
        So many pollers, of the oldest threads first, have metrics of their own: every poller is four time series for
        as long as Prometheus keeps its data, so they are only shown on request.

    Notes
    -----
    The labels are ``reactor`` with ``core``, ``thread`` with ``thread_id``, ``poller`` with ``poller_id``. Counters
    never go back while what they belong to exists; that of an exited thread ends, and no later one has its id.

    **Thread safety:** any OS thread.
    """

    def __init__(self, lib: ThreadLib | None = None, *, max_threads: int = 1000, max_pollers: int = 0):
        if lib is not None and not isinstance(lib, ThreadLib):
            raise TypeError(f"lib must be a ThreadLib or None, got {type(lib).__name__}")
        for name, value in (("max_threads", max_threads), ("max_pollers", max_pollers)):
            if check_integer(name, value) < 0:
                raise ValueError(f"{name} must not be negative, got {value!r}")
        self.lib = default_lib() if lib is None else lib
        self.max_threads = max_threads
        self.max_pollers = max_pollers

    def describe(self) -> Iterable[Any]:
        """Nothing: so that registering it need not collect."""
        return ()

    def collect(self) -> Iterator[Any]:
        """The metric families, as ``prometheus_client`` asks for them."""
        reactors = [one for one in all_reactors() if one.lib is self.lib and one.state != "dead"]
        threads = self.lib.threads
        yield from self._of_library(threads)
        yield from self._of_reactors(reactors)
        yield from self._of_threads(threads[: self.max_threads])
        if self.max_pollers:
            yield from self._of_pollers(threads)

    def _of_library(self, threads: tuple) -> Iterator[Any]:
        yield GaugeMetricFamily("spdkthread_threads", "SpdkThreads that have not exited", value=len(threads))
        yield GaugeMetricFamily("spdkthread_devices", "Registered I/O devices", value=len(self.lib.devices))
        yield CounterMetricFamily("spdkthread_errors", "Exceptions that left callbacks", value=self.lib.error_count)
        yield CounterMetricFamily(
            "spdkthread_lost_messages", "Accepted messages that never ran", value=self.lib.lost_msgs
        )

    def _of_reactors(self, reactors: list[Reactor]) -> Iterator[Any]:
        labels = ("reactor", "core")
        running = GaugeMetricFamily("spdkthread_reactor_running", "1 while it runs", labels=labels)
        polled = GaugeMetricFamily("spdkthread_reactor_threads", "SpdkThreads on it", labels=labels)
        snapshots = [((one.name, str(one.core)), one.stats) for one in reactors]
        for one in reactors:
            running.add_metric((one.name, str(one.core)), one.state == "running")
            polled.add_metric((one.name, str(one.core)), len(one.threads))
        yield running
        yield polled
        yield from _counters(_REACTOR_COUNTERS, labels, snapshots)

    def _of_threads(self, threads: tuple) -> Iterator[Any]:
        labels = ("thread", "thread_id")
        pending = GaugeMetricFamily("spdkthread_thread_pending_messages", "Messages that wait", labels=labels)
        water = GaugeMetricFamily("spdkthread_thread_high_water", "Most messages that waited at once", labels=labels)
        size = GaugeMetricFamily("spdkthread_thread_ring_size", "Messages that there is room for", labels=labels)
        snapshots = []
        for thread in threads:
            key = (thread.name, str(thread.id))
            stats = thread.stats
            snapshots.append((key, stats))
            pending.add_metric(key, thread.pending_msgs)
            water.add_metric(key, stats.high_water)
            size.add_metric(key, thread.ring_size)
        yield pending
        yield water
        yield size
        yield from _counters(_THREAD_COUNTERS, labels, snapshots)

    def _of_pollers(self, threads: tuple) -> Iterator[Any]:
        labels = ("thread", "thread_id", "poller", "poller_id")
        pollers: list[tuple[tuple[str, ...], Any]] = []
        for thread in threads:
            for poller in thread.pollers:
                if len(pollers) == self.max_pollers:
                    break
                pollers.append(((thread.name, str(thread.id), poller.name, str(poller.id)), poller))
        for name, text, field in _POLLER_COUNTERS:
            family = CounterMetricFamily(name, text, labels=labels)
            for key, poller in pollers:
                family.add_metric(key, getattr(poller, field))
            yield family


def _counters(table: Iterable[tuple], labels: tuple[str, ...], snapshots: list[tuple]) -> Iterator[Any]:
    for name, text, field, unit in table:
        family = CounterMetricFamily(name, text, labels=labels)
        for key, stats in snapshots:
            family.add_metric(key, getattr(stats, field) / unit)
        yield family


class MetricsServer:
    """The metrics by HTTP, until `stop`. See `spdkthread.monitor.serve_metrics`.

    Notes
    -----
    **Thread safety:** any OS thread.
    """

    def __init__(self, port: int, addr: str = "127.0.0.1", *, lib: ThreadLib | None = None, **limits: Any):
        registry = CollectorRegistry()
        registry.register(Collector(lib, **limits))
        server, self._thread = start_http_server(port, addr, registry)
        self._server: Any = server
        self.port: int = server.server_port
        """Where it listens."""

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
            server.server_close()
            self._thread.join()
