"""The trace: what ran where, who sent it, and a file that a trace viewer opens."""

import ctypes
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest
from support import PATIENCE_S, eventually, noop

from spdkthread import IoDevice, SpdkThreadError, trace
from spdkthread.trace import TraceError
from spdkthread.trace_ring import measure

NATIVE_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NATIVE_POLLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
LIBC = ctypes.CDLL(None)


@pytest.fixture(autouse=True)
def off():
    yield
    if trace.is_running():
        trace.stop()


def named(events, event, name=None):
    found = events[events["event"] == event]
    return found if name is None else found[found["name"] == name]


class Worker:
    def method(self, *args):
        pass


def check_chrome(path):
    """The rules of Chrome's trace-event format that a viewer goes by, and that every arrow has both its ends."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    events = document["traceEvents"]
    starts, ends, slices = {}, {}, {}
    for event in events:
        assert set(event) >= {"ph", "pid", "tid", "name"}, event
        assert isinstance(event["name"], str), event
        assert event["name"], event
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert event["args"]["name"]
            continue
        assert math.isfinite(event["ts"]), event
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "i":
            assert event["s"] in "gpt"
        elif event["ph"] == "s":
            assert event["id"] not in starts
            starts[event["id"]] = event
        else:
            assert (event["ph"], event["bp"]) == ("f", "e"), event
            assert event["id"] not in ends
            ends[event["id"]] = event
    assert set(starts) == set(ends)
    for number, start in starts.items():
        assert start["ts"] <= ends[number]["ts"]
        for one in (start, ends[number]):
            assert any(began <= one["ts"] <= ended for began, ended in slices[one["tid"]]), one
    return events, starts, ends


def test_a_message_is_recorded_with_its_name_thread_and_sender(lib):
    net, disk = lib.create_thread("net"), lib.create_thread("disk")
    trace.start()
    with net:
        disk.send_msg(Worker().method, 1)
    disk.poll()
    events = trace.stop().events()
    (run,) = named(events, "message", "Worker.method")
    assert run["thread"] == "disk"
    assert run["thread_id"] == disk.id
    sent = events[run["sender"]]
    assert (sent["event"], sent["thread"], sent["name"]) == ("send", "net", "disk")
    assert sent["ticks"] <= run["ticks"]
    assert run["duration_ticks"] >= 0


@pytest.mark.parametrize("way", ["call", "send_many", "five arguments", "send_msg", "exec_msg", "send_native"])
def test_each_way_of_sending_has_its_sender(lib, way):
    thread = lib.create_thread("net")
    trace.start()
    match way:
        case "call":
            future = thread.call(noop)
        case "send_many":
            thread.send_many(noop, range(3))
        case "five arguments":
            thread.send_msg(noop, *range(5))
        case "send_native":
            thread.send_native(NATIVE_MESSAGE(("isalnum", LIBC)), 1)
        case _:
            getattr(thread, way)(noop)
    while thread.poll():
        pass
    events = trace.stop().events()
    runs = named(events, "native message" if way == "send_native" else "message")
    assert len(runs) == (3 if way == "send_many" else 1)
    for run in runs:
        assert run["name"] == ("isalnum" if way == "send_native" else "noop")
        assert run["sender"] >= 0
    assert len(set(runs["sender"].tolist())) == len(runs)
    if way == "call":
        assert future.done()


def test_messages_beside_overflow_ones_have_no_wrong_sender(lib):
    """Those that wait beside the full ring have no place in it; nothing takes another's place for its own."""
    thread = lib.create_thread("net", ring_size=2)
    device = IoDevice("disk", lib=lib).register()
    trace.start()
    with thread:
        channels = [device.get_io_channel()]
        assert thread.try_send_msg(noop)
        assert thread.try_send_msg(noop)
        channels[0].put()
        device.unregister()
        for _ in range(4):
            thread.poll()
            thread.send_msg(noop)
    while thread.poll():
        pass
    events = trace.stop().events()
    for run in named(events, "message"):
        if run["sender"] >= 0:
            sent = events[run["sender"]]
            assert sent["event"] == "send"
            assert sent["value"] == run["value"]
            assert sent["ticks"] <= run["ticks"]
    assert len(named(events, "message", "noop")) == 6


def test_pollers_timers_and_handlers_are_recorded(lib, clock):
    thread = lib.create_thread("net")
    ear, mouth = os.pipe()
    trace.start()
    with thread:
        one = thread.register_poller(lambda: 7, name="sluggish")
        two = thread.register_native_poller(NATIVE_POLLER(("isalnum", LIBC)), 1)
        handler = thread.register_fd(ear, lambda: os.read(ear, 1))
        thread.call_later(5, noop)
        os.write(mouth, b"x")
        thread.send_critical_msg(Worker().method)
        clock.advance(us=5)
        for _ in range(3):
            thread.poll()
        for each in (one, two, handler):
            each.unregister()
    events = trace.stop().events()
    assert set(named(events, "poller", "sluggish")["value"]) == {7}
    assert len(named(events, "native poller", "isalnum"))
    assert len(named(events, "timer", "noop")) == 1
    (read,) = named(events, "fd handler")
    assert read["value"] == ear
    assert "lambda" in read["name"]
    assert len(named(events, "critical message", "Worker.method")) == 1
    os.close(ear)
    os.close(mouth)


def test_channels_and_events_of_ones_own_are_recorded(lib):
    thread = lib.create_thread("net")
    device = IoDevice("disk", lib=lib).register()
    trace.start()
    with thread:
        device.get_io_channel().put()
        while thread.poll():
            pass
        assert trace.record("request", -5)
    events = trace.stop().events()
    for event in ("create channel", "destroy channel"):
        (one,) = named(events, event)
        assert (one["name"], one["thread"]) == ("disk", "net")
    assert named(events, "user", "request")["value"].tolist() == [-5]
    device.unregister()
    assert not trace.record("request")


def test_a_reactor_shows_sleeps_and_the_gil(reactor):
    thread = reactor.create_thread("net")
    tid = reactor.tid
    trace.start()
    for _ in range(5):
        parks = reactor.stats.parks
        thread.call(noop).result(PATIENCE_S)
        eventually(lambda parks=parks: reactor.stats.parks > parks)
    thread.call(noop).result(PATIENCE_S)
    recorded = trace.stop()
    events = recorded.events()
    mine = events[events["os_thread"] == tid]
    for event in ("park", "wake", "GIL held", "wait for the GIL"):
        assert len(named(mine, event)), event
    assert 1 in {value & 1 for value in named(mine, "wake")["value"].tolist()}
    assert reactor.name[:15] in {one.name[:15] for one in recorded.os_threads}


def test_a_move_is_recorded(make_group):
    group = make_group(2)
    if len(group) < 2:
        pytest.fail("needs two cores")
    group.start()
    one, two = group.reactors
    thread = one.create_thread("net")
    thread.call(noop).result(PATIENCE_S)
    trace.start()
    one.move_thread(thread, two).result(PATIENCE_S)
    thread.call(noop).result(PATIENCE_S)
    (move,) = named(trace.stop().events(), "move")
    assert (move["thread"], int(move["name"]), move["value"]) == ("net", one.core, two.core)


def test_a_stall_is_recorded(make_reactor):
    reactor = make_reactor(stall_ms=20).start()
    thread = reactor.create_thread("net")
    leave = threading.Event()
    trace.start()
    thread.send_msg(leave.wait, PATIENCE_S)
    try:
        eventually(lambda: reactor.stats.stalls)
    finally:
        leave.set()
    thread.call(noop).result(PATIENCE_S)
    stalls = named(trace.stop().events(), "stall")
    assert any("wait" in stall["name"] and stall["thread"] == "net" for stall in stalls)


def test_the_oldest_events_are_overwritten(lib):
    thread = lib.create_thread("net")
    trace.start(entries=100)  # so 128
    for index in range(1000):
        trace.record("tick", index)
    recorded = trace.stop()
    values = named(recorded.events(), "user")["value"].tolist()
    assert values == list(range(1000 - len(values), 1000))
    assert 127 <= len(values) <= 128
    assert recorded.lost == 1000 - len(values)
    with thread:
        thread.exit()


def test_the_name_of_a_thread_that_has_exited_is_known(lib):
    thread = lib.create_thread("gone")
    trace.start()
    thread.send_msg(noop)
    with thread:
        thread.exit()
    while not thread.is_exited:
        thread.poll()
    assert named(trace.stop().events(), "message")["thread"].tolist() == ["gone"]


def test_a_second_session_begins_empty(lib):
    thread = lib.create_thread("net")
    for _ in range(2):
        trace.start()
        thread.send_msg(noop)
        thread.poll()
        assert len(named(trace.stop().events(), "message")) == 1
    thread.send_msg(noop)
    thread.poll()
    trace.start()
    recorded = trace.stop()
    assert len(recorded) == 0
    assert recorded.os_threads == ()
    assert recorded.events().dtype.names == (
        "ticks", "duration_ticks", "event", "name", "thread", "thread_id", "os_thread", "value", "sender",
    )  # fmt: skip


def test_starting_twice_and_stopping_twice_are_refused():
    with pytest.raises(TraceError, match="start"):
        trace.stop()
    trace.start()
    with pytest.raises(TraceError, match="stop"):
        trace.start()
    trace.stop()
    with pytest.raises(SpdkThreadError, match="no trace"):
        trace.stop()


@pytest.mark.parametrize("entries", [0, -1, 1 << 27])
def test_a_bad_size_is_refused(entries):
    with pytest.raises(ValueError, match="entries"):
        trace.start(entries)


@pytest.mark.parametrize("entries", [True, 1.5, "many", None])
def test_a_size_of_another_type_is_refused(entries):
    with pytest.raises(TypeError, match="entries"):
        trace.start(entries)
    assert not trace.is_running()


def test_a_callback_that_raises_is_recorded_and_reported_as_ever(lib, errors):
    thread = lib.create_thread("net")
    trace.start()
    thread.send_msg(divmod, 1, 0)
    thread.poll()
    assert named(trace.stop().events(), "message", "divmod")["thread"].tolist() == ["net"]
    assert len(errors) == 1
    errors.clear()


def test_the_time_of_an_event_is_on_the_clock_of_ticks(lib):
    thread = lib.create_thread("net")
    before = time.perf_counter_ns()
    trace.start()
    thread.send_msg(time.sleep, 0.02)
    thread.poll()
    events = trace.stop().events()
    after = time.perf_counter_ns()
    (run,) = named(events, "message", "sleep")
    # The processor's counter is scaled to the clock by two looks at both.
    assert before - 1e6 < run["ticks"]
    assert run["ticks"] + run["duration_ticks"] < after + 1e6
    assert run["duration_ticks"] > 19e6
    assert numpy.all(numpy.diff(events["ticks"]) >= 0)


def test_the_file_keeps_the_rules_of_its_format_and_every_arrow_has_two_ends(make_group, tmp_path):
    group = make_group(2 if len(make_group()) > 1 else 1).start()
    ping, pong = group.create_thread("ping"), group.create_thread("pong")
    over = threading.Event()

    def there(left):
        pong.send_msg(back, left)

    def back(left):
        over.set() if left == 0 else ping.send_msg(there, left - 1)

    trace.start()
    ping.send_msg(there, 20)
    assert over.wait(PATIENCE_S)
    recorded = trace.stop()
    recorded.save(tmp_path / "x.json")
    events, starts, _ = check_chrome(tmp_path / "x.json")
    assert len(starts) >= 41
    names = {event["name"] for event in events}
    assert any(name.endswith("there") for name in names)
    assert "send to pong" in names
    assert os.listdir(tmp_path) == ["x.json"]
    with pytest.raises(OSError):
        recorded.save(tmp_path / "no such directory" / "x.json")


PROGRAM = """
from spdkthread import Reactor
def hello(word): return word
with Reactor() as reactor:
    thread = reactor.create_thread("net")
    assert thread.call(hello, 1).result(60) == 1
"""


def run(tmp_path, *argv, **environment):
    (tmp_path / "program.py").write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, *argv],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, **environment},
        check=True,
        timeout=120,
    )


def test_the_environment_asks_for_a_trace(tmp_path):
    run(tmp_path, "program.py", SPDKTHREAD_TRACE="%p.json")
    (path,) = tmp_path.glob("*.json")
    assert path.stem.isdecimal()
    events, starts, _ = check_chrome(path)
    assert "hello" in {event["name"] for event in events}
    assert starts


def test_the_command_runs_a_script_with_a_trace(tmp_path):
    run(tmp_path, "-c", "import sys; from spdkthread.trace import main; sys.exit(main())", "-o", "y.json", "program.py")
    events, starts, _ = check_chrome(tmp_path / "y.json")
    assert "hello" in {event["name"] for event in events}
    assert starts


def test_a_trace_of_an_example_has_arrows_between_its_os_threads(tmp_path):
    example = str(Path(__file__).parents[2] / "examples" / "watchdog.py")
    command = "import sys; from spdkthread.trace import main; sys.exit(main())"
    run(tmp_path, "-c", command, "-o", "z.json", example)
    events, starts, ends = check_chrome(tmp_path / "z.json")
    assert {"M", "X", "i", "s", "f"} <= {event["ph"] for event in events}
    assert any(ends[number]["tid"] != start["tid"] for number, start in starts.items())
    assert any(event.get("cat") == "stall" for event in events)


def test_a_reader_and_many_writers_agree(lib):
    """The trace is stopped while others record: what is there is whole."""
    leave = threading.Event()
    name = "tick"

    def write():
        count = 0
        while not leave.is_set():
            trace.record(name, count)
            count += 1

    writers = [threading.Thread(target=write) for _ in range(3)]
    for one in writers:
        one.start()
    try:
        for _ in range(20):
            trace.start(64)
            time.sleep(0.002)
            events = trace.stop().events()
            assert set(events["event"].tolist()) <= {"user"}
            for os_thread in set(events["os_thread"].tolist()):
                values = events[events["os_thread"] == os_thread]["value"]
                assert numpy.all(numpy.diff(values) == 1)
    finally:
        leave.set()
        for one in writers:
            one.join()


def test_a_record_costs_nanoseconds():
    """The bound is far above what it costs, for machines that do many things at once; docs/tracing.md has the figure."""
    trace.start()
    assert min(measure(20_000) for _ in range(10)) < 300
