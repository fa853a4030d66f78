"""Metrics for Prometheus."""

import gc
import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import PATIENCE_S

from spdkthread import trace
from spdkthread.monitor import prometheus, serve_metrics
from spdkthread.monitor.metrics import Metrics, text_of
from spdkthread.monitor.prometheus import Collector


def scrape(collector):
    registry = CollectorRegistry()
    registry.register(collector)
    return parsed(generate_latest(registry).decode())


def parsed(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def values(found, name):
    return {key[1:]: value for key, value in found.items() if key[0] == name}


def test_reactors_and_threads_have_counters(live_lib, reactor):
    thread = reactor.create_thread("net")
    for _ in range(3):
        thread.call(int).result(PATIENCE_S)
    found = scrape(Collector(live_lib))
    labels = (("thread", "net"), ("thread_id", str(thread.id)))
    assert found["spdkthread_thread_messages_total", *labels] >= 3
    assert found["spdkthread_thread_ring_size", *labels] == 4096
    core = (("core", str(reactor.core)), ("reactor", reactor.name))
    assert found["spdkthread_reactor_running", *core] == 1
    assert found["spdkthread_reactor_threads", *core] == 1
    assert found["spdkthread_threads",] == 1


def test_counters_never_go_back(live_lib, reactor):
    thread = reactor.create_thread("net")
    collector = Collector(live_lib)
    before = scrape(collector)
    for _ in range(20):
        thread.call(int).result(PATIENCE_S)
        now = scrape(collector)
        for key, value in before.items():
            if key[0].endswith("_total"):
                assert now[key] >= value
        before = now


def test_labels_are_bounded(lib):
    threads = [lib.create_thread() for _ in range(5)]
    for thread in threads:
        with thread:
            for number in range(3):
                thread.register_poller(lambda: 0, name=f"poller {number}")
    assert values(scrape(Collector(lib)), "spdkthread_poller_runs_total") == {}
    found = scrape(Collector(lib, max_threads=2, max_pollers=4))
    assert len(values(found, "spdkthread_thread_messages_total")) == 2
    assert len(values(found, "spdkthread_poller_runs_total")) == 4
    assert found["spdkthread_threads",] == 5


def test_names_may_have_anything_inside(lib):
    lib.create_thread('a "quoted"\nname\\')
    names = [dict(key)["thread"] for key in values(scrape(Collector(lib)), "spdkthread_thread_messages_total")]
    assert names == ['a "quoted"\nname\\']


def test_a_scrape_sends_no_message_and_wakes_no_reactor(live_lib, reactor):
    thread = reactor.create_thread("net")
    thread.call(int).result(PATIENCE_S)
    before = thread.stats.msgs_run, reactor.stats.wakes
    for _ in range(10):
        scrape(Collector(live_lib))
    assert (thread.stats.msgs_run, reactor.stats.wakes) == before


def test_the_quick_writer_writes_what_the_other_one_writes(lib):
    registry = CollectorRegistry()
    requests = Counter("requests", 'Requests, of "all" kinds', ["kind"], registry=registry)
    requests.labels('a "quoted"\nkind').inc(3)
    registry.register(Collector(lib, max_pollers=10, durations=True))
    Gauge("later", "Registered after it", registry=registry).set(1e300)
    thread = lib.create_thread('a "quoted"\nname\\')
    thread.send_msg(int)
    thread.poll()
    with thread:
        poller = thread.register_poller(lambda: 0, name="{curly}")
    slow, quick = generate_latest(registry).decode(), prometheus.generate_latest(registry).decode()
    found, expected = parsed(quick), parsed(slow)
    assert found.keys() == expected.keys()
    # Time goes on between the two.
    steady = {one for one in found if not one[0].endswith(("_seconds_total", "_created", "_seconds_sum"))}
    assert {one: found[one] for one in steady} == {one: expected[one] for one in steady}
    comments = [line for line in slow.splitlines() if line.startswith("#")]
    assert [line for line in quick.splitlines() if line.startswith("#")] == comments
    with thread:
        poller.unregister()


def test_a_registry_finds_single_samples(lib):
    lib.create_thread("net")
    registry = CollectorRegistry()
    registry.register(Collector(lib))
    assert registry.get_sample_value("spdkthread_threads") == 1
    assert registry.get_sample_value("spdkthread_threads", {"no": "such"}) is None


def test_the_quick_writer_takes_a_fraction_of_the_time(lib):
    for _ in range(300):
        lib.create_thread(ring_size=2)
    registry = CollectorRegistry()
    registry.register(Collector(lib))
    gc.disable()
    try:
        slow_s = min(_seconds(lambda: generate_latest(registry)) for _ in range(5))
        quick_s = min(_seconds(lambda: prometheus.generate_latest(registry)) for _ in range(5))
    finally:
        gc.enable()
    assert quick_s < slow_s / 2


def test_the_time_of_a_scrape_grows_with_the_threads_and_not_faster(lib):
    metrics = Metrics(lib)
    lib.create_thread(ring_size=2)

    def grow_to(count):
        while len(lib.threads) < count:
            lib.create_thread(ring_size=2)
        # In processor time of this OS thread: what else the machine does is not the scrape's.
        return min(_seconds(lambda: text_of(metrics.families())) for _ in range(10))

    gc.disable()
    try:
        few_s, many_s = grow_to(200), grow_to(1000)
    finally:
        gc.enable()
    # Five times as many: quadratic work would take 25 times as long.
    assert many_s < 12 * few_s


def _seconds(fn):
    began = time.thread_time()
    fn()
    return time.thread_time() - began


def test_metrics_are_served_by_http(live_lib, reactor):
    with serve_metrics(0, lib=live_lib) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=PATIENCE_S) as answer:
            found = parsed(answer.read().decode())
    assert found["spdkthread_threads",] == 0
    server.stop()


@pytest.mark.parametrize("options", [{"lib": 1}, {"max_threads": "a"}])
def test_bad_arguments_are_refused(options):
    with pytest.raises(TypeError):
        Collector(**options)


def test_a_negative_bound_is_refused(lib):
    with pytest.raises(ValueError, match="max_pollers"):
        Collector(lib, max_pollers=-1)


def test_the_dashboard_asks_for_metrics_that_there_are(live_lib, reactor):
    reactor.create_thread("net")
    served = {key[0] for key in scrape(Collector(live_lib, max_pollers=10))}
    dashboard = json.loads(Path(prometheus.__file__).with_name("grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"spdkthread_\w+", target["expr"])
    }
    assert asked
    assert asked <= served


def test_our_text_says_what_that_of_prometheus_client_says(lib):
    for name in ("a", 'b "c"\\\n'):
        thread = lib.create_thread(name)
        thread.send_msg(int)
        thread.poll()
    assert parsed(text_of(Metrics(lib).families())) == scrape(Collector(lib))


def test_how_long_callbacks_take_is_counted_when_it_is_asked_for(live_lib, reactor):
    thread = reactor.create_thread("net")
    thread.call(int).result(PATIENCE_S)
    assert not [key for key in scrape(Collector(live_lib)) if key[0].startswith("spdkthread_callback")]
    metrics = Metrics(live_lib, durations=True)
    kind = ("kind", "message")
    before = parsed(text_of(metrics.families()))
    for _ in range(10):
        thread.call(int).result(PATIENCE_S)
    thread.call(time.sleep, 0.003).result(PATIENCE_S)
    found = parsed(text_of(metrics.families()))
    more = {key: found[key] - before[key] for key in found if key[0].startswith("spdkthread_callback")}
    assert more["spdkthread_callback_seconds_count", kind] >= 11
    assert more["spdkthread_callback_seconds_sum", kind] >= 0.003
    assert more["spdkthread_callback_seconds_bucket", kind, ("le", "+Inf")] >= 11
    # The one that slept is in none of the buckets up to 2 ms, and the bounds are ordered.
    below = more["spdkthread_callback_seconds_bucket", kind, ("le", "0.002048")]
    assert below < more["spdkthread_callback_seconds_count", kind]
    assert more["spdkthread_callback_seconds_bucket", kind, ("le", "1e-06")] <= below
    collected = scrape(Collector(live_lib, durations=True))
    assert collected["spdkthread_callback_seconds_count", kind] >= found["spdkthread_callback_seconds_count", kind]
    metrics.close()
    metrics.close()
    gc.collect()


def test_durations_and_a_trace_do_not_switch_each_other_off(live_lib, reactor):
    thread = reactor.create_thread("net")
    kind = ("kind", "message")

    def counted(metrics):
        return parsed(text_of(metrics.families()))["spdkthread_callback_seconds_count", kind]

    metrics = Metrics(live_lib, durations=True)
    trace.start(64)
    first = counted(metrics)
    thread.call(int).result(PATIENCE_S)
    assert len(trace.stop()) > 0
    second = counted(metrics)
    thread.call(int).result(PATIENCE_S)
    third = counted(metrics)
    assert first < second < third
    trace.start(64)
    metrics.close()
    thread.call(int).result(PATIENCE_S)
    assert len(trace.stop()) > 0
    other = Metrics(live_lib, durations=True)
    fourth = counted(other)
    other.close()
    thread.call(int).result(PATIENCE_S)
    again = Metrics(live_lib, durations=True)
    assert counted(again) == fourth
    again.close()
