"""File descriptors: functions that are called while one is ready, awake and asleep."""

import asyncio
import os
import socket
import tempfile
import threading

import pytest
from support import PATIENCE_S, elsewhere, eventually, finish, noop, run_python

from spdkthread import FdError, FdHandler, ThreadExitedError, WrongThreadError, get_thread
from spdkthread.aio import EventLoop


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    for end in ends:
        os.set_blocking(end, False)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass  # the test has closed it


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


def test_a_handler_is_called_while_its_descriptor_is_readable(thread, pipe):
    calls = []
    with thread:
        handler = thread.register_fd(pipe[0], lambda: calls.append(get_thread()), name="ear")
        assert isinstance(handler, FdHandler)
        assert (handler.fd, handler.events, handler.name, handler.thread) == (pipe[0], "r", "ear", thread)
        assert thread.poll() == 0
        assert calls == []
        os.write(pipe[1], b"x")
        assert thread.poll() == 1
        assert calls == [thread]
        thread.poll()
        assert len(calls) == 2, "level-triggered: it is readable still"
        os.read(pipe[0], 1)
        thread.poll()
        assert len(calls) == 2
        handler.unregister()


def test_a_handler_without_a_name_gets_its_functions(thread, pipe):
    with thread:
        handler = thread.register_fd(pipe[0], noop)
        assert handler.name == "noop"
        assert "noop" in repr(handler)
        handler.unregister()


def test_a_descriptor_may_be_given_by_its_object(thread, pair):
    with thread:
        handler = thread.register_fd(pair[0], noop)
        assert handler.fd == pair[0].fileno()
        handler.unregister()


def test_writable_and_both(thread, pair):
    calls = []
    with thread:
        handler = thread.register_fd(pair[0], lambda: calls.append(1), "w")
        thread.poll()
        assert calls == [1], "an empty socket takes data"
        handler.modify("r")
        assert handler.events == "r"
        thread.poll()
        assert calls == [1]
        pair[1].send(b"x")
        thread.poll()
        assert calls == [1, 1]
        pair[0].recv(1)
        handler.modify("rw")
        assert handler.events == "rw"
        thread.poll()
        assert calls == [1, 1, 1]
        handler.unregister()


def test_a_hang_up_counts_as_readable(thread, pair):
    calls = []
    with thread:
        handler = thread.register_fd(pair[0], lambda: calls.append(pair[0].recv(1)))
        pair[1].close()
        thread.poll()
        assert calls == [b""]
        handler.unregister()


def test_an_unregistered_handler_is_never_called_again(thread, pipe):
    calls = []
    with thread:
        handler = thread.register_fd(pipe[0], lambda: calls.append(handler.unregister()))
        os.write(pipe[1], b"x")
        thread.poll()
        thread.poll()
        assert len(calls) == 1
        assert not handler.registered
        handler.unregister()
        with pytest.raises(FdError, match="not registered"):
            handler.modify("w")


def test_one_handler_may_unregister_another_that_is_ready_too(thread):
    pipes = [os.pipe() for _ in range(2)]
    calls, handlers = [], []

    def first_come():
        calls.append(1)
        for handler in handlers:
            handler.unregister()

    with thread:
        handlers += [thread.register_fd(ear, first_come) for ear, _ in pipes]
        for _, mouth in pipes:
            os.write(mouth, b"x")
        thread.poll()
        assert calls == [1]
    for ends in pipes:
        for end in ends:
            os.close(end)


def test_more_ready_descriptors_than_one_look_takes(thread):
    pipes = [os.pipe() for _ in range(150)]
    calls = set()
    with thread:
        handlers = [thread.register_fd(ear, lambda ear=ear: calls.add(os.read(ear, 1) and ear)) for ear, _ in pipes]
        for _, mouth in pipes:
            os.write(mouth, b"x")
        for _ in range(10):
            thread.poll()
        assert calls == {ear for ear, _ in pipes}
        for handler in handlers:
            handler.unregister()
    for ends in pipes:
        for end in ends:
            os.close(end)


def test_a_closed_descriptor_is_a_named_error(thread):
    ear, mouth = os.pipe()
    os.close(ear)
    os.close(mouth)
    with thread, pytest.raises(FdError, match=rf"fd {ear} .*net"):
        thread.register_fd(ear, noop)
    with pytest.raises(FdError):
        thread.register_fd(ear, noop)
    with pytest.raises(FdError):
        thread.register_fd(-1, noop)
    with pytest.raises(FdError):
        thread.register_fd(2**40, noop)


def test_a_duplicate_registration_is_a_named_error(thread, pipe):
    with thread:
        handler = thread.register_fd(pipe[0], noop, name="first")
        with pytest.raises(FdError, match=r"second.*has a handler on .*net.*first"):
            thread.register_fd(pipe[0], noop, name="second")
        handler.unregister()
        thread.register_fd(pipe[0], noop).unregister()


def test_a_duplicate_registration_from_elsewhere_is_reported(thread, pipe, errors):
    with thread:
        handler = thread.register_fd(pipe[0], noop, name="first")
    second = elsewhere(lambda: thread.register_fd(pipe[0], noop, name="second"))
    assert "on its way" in repr(second)
    thread.poll()
    assert errors.types == [FdError]
    assert "first" in str(errors.exceptions[0])
    assert "second" in str(errors.exceptions[0])
    assert not second.registered
    assert "unregistered" in repr(second)
    with thread:
        handler.unregister()


@pytest.mark.parametrize("on_its_thread", [True, False])
def test_a_regular_file_cannot_be_waited_for(thread, on_its_thread):
    with tempfile.TemporaryFile() as file:
        if on_its_thread:
            with thread, pytest.raises(FdError, match="regular file"):
                thread.register_fd(file, noop)
        else:
            with pytest.raises(FdError, match="regular file"):
                elsewhere(thread.register_fd, file, noop)


@pytest.mark.parametrize(
    ("fd", "fn", "events", "kind"),
    [
        ("0", noop, "r", TypeError),
        (None, noop, "r", TypeError),
        (True, noop, "r", TypeError),
        (0, None, "r", TypeError),
        (0, noop, "", ValueError),
        (0, noop, "x", ValueError),
        (0, noop, None, TypeError),
    ],
)
def test_what_cannot_be_registered(thread, fd, fn, events, kind):
    with thread, pytest.raises(kind):
        thread.register_fd(fd, fn, events)


def test_a_handler_cannot_be_made_by_hand():
    with pytest.raises(TypeError):
        FdHandler()


def test_modify_belongs_on_the_handlers_thread(thread, pipe):
    with thread:
        handler = thread.register_fd(pipe[0], noop)
    with pytest.raises(WrongThreadError, match="net"):
        handler.modify("w")
    with pytest.raises(WrongThreadError, match="net"):
        elsewhere(handler.modify, "w")
    assert handler.events == "r"
    with thread:
        handler.unregister()


def test_unregister_from_elsewhere_goes_by_a_message(thread, pipe):
    with thread:
        handler = thread.register_fd(pipe[0], noop)
    elsewhere(handler.unregister)
    assert handler.registered
    thread.poll()
    assert not handler.registered


def test_register_from_elsewhere_goes_by_a_message_in_order(thread, pipe):
    order = []
    os.write(pipe[1], b"x")

    def act():
        thread.send_msg(order.append, "before")
        handler = thread.register_fd(pipe[0], lambda: order.append("ready"))
        thread.send_msg(order.append, "after")
        return handler

    handler = elsewhere(act)
    assert not handler.registered
    thread.poll()
    thread.poll()
    assert order == ["before", "after", "ready"]
    with thread:
        handler.unregister()


def test_unregister_overtakes_nothing(thread, pipe):
    """Registered and unregistered from elsewhere before the thread is polled: never called."""
    calls = []
    os.write(pipe[1], b"x")
    handler = elsewhere(thread.register_fd, pipe[0], lambda: calls.append(1))
    elsewhere(handler.unregister)
    for _ in range(3):
        thread.poll()
    assert calls == []


def test_a_descriptor_may_be_closed_before_it_is_unregistered(thread, pipe):
    with thread:
        handler = thread.register_fd(pipe[0], noop)
        os.close(pipe[0])
        with pytest.raises(FdError, match="cannot be modified"):
            handler.modify("w")
        handler.unregister()
        assert not handler.registered


def test_a_closed_descriptor_whose_file_lives_on_does_not_haunt_the_thread(thread):
    """The kernel goes on reporting the file while a duplicate is open; there is no number to stop it by."""
    calls = []
    ear, mouth = os.pipe()
    duplicate = os.dup(ear)
    other_wait_fd, other_mouth = os.pipe()
    os.write(mouth, b"x")
    with thread:
        handler = thread.register_fd(ear, lambda: calls.append("closed"))
        other = thread.register_fd(other_wait_fd, lambda: calls.append(os.read(other_wait_fd, 1)))
        os.close(ear)
        handler.unregister()
        assert thread.poll() == 0
        assert calls == []
        os.write(other_mouth, b"y")
        assert thread.poll() == 1
        assert calls == [b"y"], "the others are still waited for"
        other.unregister()
    for fd in (mouth, duplicate, other_wait_fd, other_mouth):
        os.close(fd)


def test_a_handler_that_raises_is_reported_and_called_again(thread, pipe, errors):
    def fail():
        os.read(pipe[0], 1)
        raise ZeroDivisionError

    with thread:
        handler = thread.register_fd(pipe[0], fail, name="faulty")
        for _ in range(2):
            os.write(pipe[1], b"x")
            thread.poll()
        handler.unregister()
    assert errors.types == [ZeroDivisionError] * 2
    assert errors[0]["fd_handler"] is handler
    assert "faulty" in errors[0]["message"]


def test_a_handler_keeps_its_thread_from_exiting(thread, pipe):
    with thread:
        handler = thread.register_fd(pipe[0], noop)
        thread.exit()
    for _ in range(3):
        thread.poll()
    assert thread.state == "exiting"
    with thread:
        handler.unregister()
    thread.poll()
    assert thread.is_exited
    with thread, pytest.raises(ThreadExitedError):
        thread.register_fd(pipe[0], noop)


# On a reactor


def asleep(reactor):
    """Wait until a reactor sleeps: its turns stand still, and it has slept before."""
    turns = [-1]

    def still():
        turns.append(reactor.stats.turns)
        return turns[-1] == turns[-2] and reactor.stats.parks

    eventually(still)


@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
def test_a_reactor_answers_on_a_socket(make_reactor, pair, idle):
    """In the polling state and, with "adaptive", in the sleeping one: each request is answered."""
    reactor = make_reactor(idle=idle).start()
    thread = reactor.create_thread("server")
    client, server = pair
    client.setblocking(True)
    client.settimeout(PATIENCE_S)
    handler = thread.register_fd(server, lambda: server.send(server.recv(10)[::-1]))
    for number in range(100):
        if idle == "adaptive" and number % 10 == 0:
            asleep(reactor)
        client.send(b"%03d" % number)
        assert client.recv(10) == (b"%03d" % number)[::-1]
    handler.unregister()


def test_a_descriptor_wakes_a_reactor_that_sleeps(make_reactor, pipe):
    reactor = make_reactor(spin_us=0).start()
    thread = reactor.create_thread()
    heard = threading.Event()
    handler = thread.register_fd(pipe[0], lambda: os.read(pipe[0], 1) and heard.set())
    eventually(lambda: handler.registered)
    for _ in range(20):
        heard.clear()
        os.write(pipe[1], b"x")
        assert heard.wait(PATIENCE_S)
    handler.unregister()
    assert reactor.stats.wakes > 0


def test_a_busy_reactor_looks_at_its_descriptors_too(make_reactor, pipe):
    reactor = make_reactor().start()
    thread = reactor.create_thread()
    poller = thread.register_poller(lambda: 1)
    heard = threading.Event()
    handler = thread.register_fd(pipe[0], lambda: os.read(pipe[0], 1) and heard.set())
    os.write(pipe[1], b"x")
    assert heard.wait(PATIENCE_S)
    poller.unregister()
    handler.unregister()


def test_a_reactor_with_a_silent_descriptor_goes_to_sleep(make_reactor, pipe):
    reactor = make_reactor(spin_us=0).start()
    thread = reactor.create_thread()
    handler = thread.register_fd(pipe[0], noop)
    eventually(lambda: handler.registered)
    asleep(reactor)
    turns = reactor.stats.turns
    thread.call(noop).result(PATIENCE_S)
    asleep(reactor)
    assert reactor.stats.turns - turns < 1000, "it does not spin"
    handler.unregister()


def test_descriptors_move_with_their_thread(make_reactor, pipe):
    first, second = make_reactor().start(), make_reactor().start()
    thread = first.create_thread()
    seen = []
    heard = threading.Event()

    def hear():
        seen.append((os.read(pipe[0], 1), threading.get_native_id()))
        heard.set()

    handler = thread.register_fd(pipe[0], hear)
    for source, target in ((first, second), (second, first), (first, second)):
        assert source.move_thread(thread, target).result(PATIENCE_S) is thread
        heard.clear()
        os.write(pipe[1], b"x")
        assert heard.wait(PATIENCE_S)
        assert seen[-1] == (b"x", target.tid)
    handler.unregister()


def test_the_last_descriptor_takes_the_reactors_set_with_it(make_reactor, pipe):
    """Nothing is left open: as many descriptors before as after."""
    reactor = make_reactor().start()
    thread = reactor.create_thread()
    thread.call(noop).result(PATIENCE_S)
    thread.call(thread.register_fd, pipe[0], noop).result(PATIENCE_S).unregister()
    thread.call(noop).result(PATIENCE_S)
    before = len(os.listdir("/dev/fd"))
    for _ in range(10):
        handler = thread.call(thread.register_fd, pipe[0], noop).result(PATIENCE_S)
        thread.call(handler.unregister).result(PATIENCE_S)
    assert len(os.listdir("/dev/fd")) == before


def test_what_a_stop_leaves_registered_is_reported(make_reactor, pipe):
    reactor = make_reactor().start()
    thread = reactor.create_thread("server")
    handler = thread.register_fd(pipe[0], noop, name="ear")
    report = reactor.stop()
    assert report.leftover_pollers == ()
    (left,) = report.leftover_others
    assert tuple(left) == ("server", "file descriptor", f"file descriptor {pipe[0]} (handler 'ear')")
    assert f"file descriptor {pipe[0]} (handler 'ear') on thread server" in str(report)
    assert thread.exit_blockers == (left.name,)
    with thread:
        handler.unregister()
    finish(thread)


# A number is not an identity


def test_an_event_of_a_closed_descriptor_is_not_its_successors(thread):
    """Two are ready; the handler of the first closes the second, and another file gets its number."""
    calls = []
    handlers = {}
    (ear_1, mouth_1), (ear_2, mouth_2) = os.pipe(), os.pipe()
    opened = [mouth_1, mouth_2]

    def first_to_come(mine, other):
        os.read(mine, 1)
        handlers[other].unregister()
        os.close(other)
        ear, mouth = os.pipe()
        assert ear == other
        handlers[other] = thread.register_fd(ear, lambda: calls.append("nothing is in it"))
        opened.extend((ear, mouth))

    with thread:
        handlers[ear_1] = thread.register_fd(ear_1, lambda: first_to_come(ear_1, ear_2))
        handlers[ear_2] = thread.register_fd(ear_2, lambda: first_to_come(ear_2, ear_1))
        os.write(mouth_1, b"x")
        os.write(mouth_2, b"x")
        thread.poll()
        assert calls == []
        os.write(opened[-1], b"y")
        thread.poll()
        assert calls == ["nothing is in it"]
        for handler in handlers.values():
            handler.unregister()
    left = opened[2]
    for fd in {*opened, ear_1 if left == ear_2 else ear_2}:
        os.close(fd)


def test_a_number_that_another_file_has_by_now_is_named(thread, pipe):
    with thread:
        old = thread.register_fd(pipe[0], noop, name="old")
        other = os.pipe()
        os.dup2(other[0], pipe[0])
        with pytest.raises(FdError, match=r"fresh.*old.*closed since.*unregister it first"):
            thread.register_fd(pipe[0], noop, name="fresh")
        old.unregister()
        calls = []
        fresh = thread.register_fd(pipe[0], lambda: calls.append(os.read(pipe[0], 1)), name="fresh")
        os.write(other[1], b"x")
        thread.poll()
        assert calls == [b"x"]
        fresh.unregister()
    for fd in other:
        os.close(fd)


def test_a_renewed_set_waits_for_no_file_that_was_never_registered(thread):
    """Two descriptors are closed, both numbers go to other files, and one handler is unregistered."""
    calls = []
    pipes = [os.pipe(), os.pipe()]
    with thread:
        handlers = [thread.register_fd(ear, lambda: calls.append(1)) for ear, _ in pipes]
        strangers = [os.pipe(), os.pipe()]
        for (ear, _), (stranger, _) in zip(pipes, strangers, strict=True):
            os.dup2(stranger, ear)
        handlers[0].unregister()
        for _, mouth in strangers:
            os.write(mouth, b"x")
        assert thread.poll() == 0
        assert calls == []
        handlers[1].unregister()
    for ends in (*pipes, *strangers):
        for fd in ends:
            os.close(fd)


def test_readers_of_an_event_loop_are_not_taken_for_a_set_that_its_thread_had():
    """A new set of the thread's has the number of the old one, so that no file of the user's gets it."""

    async def main():
        loop = asyncio.get_running_loop()
        pipes = [os.pipe() for _ in range(5)]
        late, _ = pipes[4]
        got, heard = [], asyncio.Event()
        handlers = [loop.thread.register_fd(pipes[0][0], noop)]
        handlers.append(loop.thread.register_fd(late, lambda: (os.read(late, 1), heard.set())))
        await asyncio.sleep(0.001)
        os.close(pipes[0][0])
        handlers[0].unregister()
        all_came = asyncio.Event()
        for ear, mouth in pipes[1:4]:
            loop.add_reader(ear, lambda ear=ear: (got.append(os.read(ear, 1)), len(got) == 3 and all_came.set()))
            os.write(mouth, b"x")
        await asyncio.wait_for(all_came.wait(), PATIENCE_S)
        os.write(pipes[4][1], b"y")
        await asyncio.wait_for(heard.wait(), PATIENCE_S)
        handlers[1].unregister()
        for number, ends in enumerate(pipes):
            loop.remove_reader(ends[0])
            for fd in ends[number == 0 :]:
                os.close(fd)

    loop = EventLoop()
    loop.run_until_complete(main())
    loop.close()


# 0 is a descriptor


def test_a_daemon_that_has_closed_0_1_and_2():
    done = run_python("""
import os, sys
os.closerange(0, 3)
import spdkthread
from spdkthread.signals import SignalWatch
ends = [os.pipe() for _ in range(2)]            # the first has 0 and 1
assert ends[0] == (0, 1)
got = []
thread = spdkthread.SpdkThread()
with thread:
    for ear, _ in ends:
        thread.register_fd(ear, lambda ear=ear: got.append(os.read(ear, 1)))
    for _, mouth in ends:
        os.write(mouth, b"x")
    while thread.poll():
        pass
assert got == [b"x", b"x"], got
for fd in (0, 1, ends[1][0], ends[1][1]):
    os.close(fd)
os._exit(41)
""")
    assert done.returncode == 41


def test_the_librarys_own_descriptors_are_not_0_1_or_2():
    """Other code may close them, or open files of its own there."""
    done = run_python("""
import fcntl, os
os.closerange(0, 3)
import spdkthread
from spdkthread.signals import SignalWatch
ear, mouth = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in os.pipe()]
os.closerange(0, 3)
thread = spdkthread.Reactor().start().create_thread()
handler = thread.register_fd(ear, int)
watch = SignalWatch(print)
watch.start()
assert thread.call(abs, -1).result(60) == 1
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        continue
    raise AssertionError(number)
watch.stop()
os._exit(41)
""")
    assert done.returncode == 41


@pytest.mark.no_tsan(reason="closes descriptors while they are used, which is what ThreadSanitizer reports")
def test_a_reactor_whose_descriptors_other_code_has_closed_says_so_and_goes_on():
    """Sleeping on closed descriptors returns at once: it would only look as if it slept."""
    done = run_python("""
import logging, os, threading, time
import spdkthread
said = []
class Listener(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("spdkthread").addHandler(Listener())

reactor = spdkthread.Reactor(name="engine", spin_us=0)
thread = reactor.create_thread("net")
ear, mouth = os.pipe()
heard = threading.Event()
handler = thread.register_fd(ear, lambda: (os.read(ear, 1), heard.set()))
poller = thread.register_poller(int, 1000)       # or it would sleep on for ever on what it holds
reactor.start()
assert thread.call(abs, -1).result(60) == 1

for number in range(3, 256):
    if number not in (ear, mouth):
        try:
            os.close(number)
        except OSError:
            pass
while not said:
    time.sleep(0.001)
assert "engine" in said[0] and "other code has closed" in said[0] and "wake-up descriptor" in said[0] and "net" in said[0], said
for number in range(20):
    assert thread.call(abs, -number).result(60) == number
os.write(mouth, b"x")
assert heard.wait(60)
assert len(said) == 1, said
handler.unregister()
poller.unregister()
assert reactor.stop().ok
""")
    assert (done.returncode, done.stderr) == (0, "")
