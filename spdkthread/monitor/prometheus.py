"""Collector: the metrics of a library in a registry of ``prometheus_client``, beside those of the program."""

from collections.abc import Iterable, Iterator
from typing import Any

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector as _CollectorBase
except ImportError as error:
    raise ImportError("spdkthread.monitor.prometheus needs prometheus_client: install spdkthread[metrics]") from error

from spdkthread.lib import ThreadLib
from spdkthread.monitor.metrics import Metrics

__all__ = ["Collector"]

_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class Collector(_CollectorBase):
    """The metrics of one library, for ``REGISTRY.register(Collector())``.

    Parameters
    ----------
    lib, max_threads, max_pollers
        As for `spdkthread.monitor.metrics.Metrics`, which says what the metrics are.

    Notes
    -----
    **Thread safety:** any OS thread.
    """

    def __init__(self, lib: ThreadLib | None = None, *, max_threads: int = 1000, max_pollers: int = 0):
        self._metrics = Metrics(lib, max_threads=max_threads, max_pollers=max_pollers)

    @property
    def lib(self) -> ThreadLib:
        """Whose metrics they are."""
        return self._metrics.lib

    def describe(self) -> Iterable[Any]:
        """Nothing: so that registering it need not collect."""
        return ()

    def collect(self) -> Iterator[Any]:
        """The metric families, as ``prometheus_client`` asks for them."""
        for one in self._metrics.families():
            family = _FAMILIES[one.kind](one.name, one.help, labels=one.labels)
            for key, value in one.values:
                family.add_metric(key, value)
            yield family
