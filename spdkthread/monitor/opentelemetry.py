"""The metrics of a library for OpenTelemetry: observable instruments of a meter, read when the SDK collects."""

from collections.abc import Callable, Iterable
from typing import Any

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
except ImportError as error:
    raise ImportError("spdkthread.monitor.opentelemetry needs its API: install spdkthread[opentelemetry]") from error

from spdkthread.lib import ThreadLib
from spdkthread.monitor.metrics import Family, Metrics

__all__ = ["observe"]


def observe(meter: Meter, lib: ThreadLib | None = None, *, max_threads: int = 1000, max_pollers: int = 0) -> None:
    """Add the metrics of a library to a meter.

    Parameters
    ----------
    meter : opentelemetry.metrics.Meter
    lib, max_threads, max_pollers
        As for `spdkthread.monitor.metrics.Metrics`, which says what the metrics are. Histograms of durations are not
        among them: OpenTelemetry has none that are read instead of recorded.

    Notes
    -----
    **Thread safety:** any OS thread. The SDK reads them on a thread of its own.
    """
    reader = _Reader(Metrics(lib, max_threads=max_threads, max_pollers=max_pollers))
    for family in reader.metrics.families():
        create: Any = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        unit = "s" if family.name.endswith("_seconds") else ""
        create(family.name, callbacks=[reader.callback(family.name)], unit=unit, description=family.help)


class _Reader:
    """Reads all families at once for the first instrument of a collection, and hands each instrument its own."""

    def __init__(self, metrics: Metrics):
        self.metrics = metrics
        self._unread: dict[str, Family] = {}

    def callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(options: CallbackOptions) -> Iterable[Observation]:
            if name not in self._unread:
                self._unread = {family.name: family for family in self.metrics.families()}
            family = self._unread.pop(name)
            return [Observation(value, dict(zip(family.labels, key, strict=True))) for key, value in family.values]

        return read
