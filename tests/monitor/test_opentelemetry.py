"""Metrics for OpenTelemetry."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from support import PATIENCE_S

from spdkthread.monitor import opentelemetry


def read(reader):
    found = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    found[metric.name, *sorted(point.attributes.items())] = point.value
    return found


def test_every_collection_reads_the_counters_as_they_are(live_lib, reactor):
    thread = reactor.create_thread("net")
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    opentelemetry.observe(provider.get_meter("spdkthread"), live_lib)
    labels = (("thread", "net"), ("thread_id", str(thread.id)))
    thread.call(int).result(PATIENCE_S)
    first = read(reader)
    assert first["spdkthread_threads",] == 1
    for _ in range(3):
        thread.call(int).result(PATIENCE_S)
    second = read(reader)
    name = "spdkthread_thread_messages"
    assert second[name, *labels] - first[name, *labels] == 3
    core = (("core", str(reactor.core)), ("reactor", reactor.name))
    assert second["spdkthread_reactor_running", *core] == 1
    provider.shutdown()
