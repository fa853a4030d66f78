"""Collector: the metrics of a library in a registry of ``prometheus_client``, beside those of the program."""

from collections.abc import Iterable, Iterator
from typing import Any

try:
    from prometheus_client.core import HistogramMetricFamily, Metric, Sample
    from prometheus_client.registry import Collector as _CollectorBase
except ImportError as error:
    raise ImportError("spdkthread.monitor.prometheus needs prometheus_client: install spdkthread[metrics]") from error

from spdkthread.lib import ThreadLib
from spdkthread.monitor.metrics import Metrics

__all__ = ["Collector"]


class Collector(_CollectorBase):
    """The metrics of one library, for ``REGISTRY.register(Collector())``.

    Parameters
    ----------
    lib, max_threads, max_pollers, durations
        As for `spdkthread.monitor.metrics.Metrics`, which says what the metrics are.

    Notes
    -----
    Of a thousand threads it hands over nine thousand samples in a few milliseconds; writing them as text takes
    ``prometheus_client`` several times as long. `spdkthread.monitor.serve_metrics` writes the same text itself.

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
        self._metrics = Metrics(lib, max_threads=max_threads, max_pollers=max_pollers, durations=durations)

    @property
    def lib(self) -> ThreadLib:
        """The library that the metrics describe."""
        return self._metrics.lib

    def describe(self) -> Iterable[Any]:
        """Nothing: so that registering it need not collect."""
        return ()

    def collect(self) -> Iterator[Any]:
        """The metric families, as ``prometheus_client`` asks for them."""
        known: dict[tuple, dict[str, str]] = {}
        for one in self._metrics.families():
            if one.kind == "histogram":
                histogram = HistogramMetricFamily(one.name, one.help, labels=one.labels)
                for (key, seconds), (_, buckets) in zip(one.values, one.buckets, strict=True):
                    histogram.add_metric(key, buckets, seconds)
                yield histogram
                continue
            # Its own families copy every label of every sample.
            family = Metric(one.name, one.help, one.kind)
            name = f"{one.name}_total" if one.kind == "counter" else one.name
            for key, value in one.values:
                labels = known.get((one.labels, key))
                if labels is None:
                    labels = known[one.labels, key] = dict(zip(one.labels, key, strict=True))
                family.samples.append(Sample(name, labels, value))
            yield family
