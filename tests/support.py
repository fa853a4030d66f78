"""What more than one test file needs: patience, recorders, and the endings of threads."""

import re
import subprocess
import sys
import threading
import time

PATIENCE_S = 60.0
"""How long a test waits for another OS thread before it gives up: no test depends on how long it really takes."""


NOT_CALLABLE = [None, 1, "fn", b"fn", [], object()]
"""What is no function, for everything that takes one."""


def lasting_repr(value):
    """What `value` is called in a test's name: the same in every process, so without the object's address."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def noop(*args):
    """A message that does nothing."""


def drain(*threads, polls=100_000):
    """Poll `threads` in turn until none of them has a message waiting."""
    for _ in range(polls):
        if not any(thread.pending_msgs for thread in threads):
            return
        for thread in threads:
            thread.poll()
    raise AssertionError(f"still busy after {polls} polls: {[t.name for t in threads if t.pending_msgs]}")


def finish(*threads, polls=100_000):
    """Exit `threads` and poll until all have exited, unregistering whatever poller still comes up."""
    for thread in threads:
        if not thread.is_exited:
            with thread:
                thread.exit()
    for _ in range(polls):
        alive = [thread for thread in threads if not thread.is_exited]
        if not alive:
            return
        for thread in alive:
            with thread:
                for poller in thread.pollers:
                    poller.unregister()
            thread.poll()
    raise AssertionError(f"not exited after {polls} polls: {[thread.name for thread in alive]}")


def fill(thread, fn=noop, *args):
    """Send `fn` until the ring of `thread` is full; how many went in."""
    sent = 0
    while thread.try_send_msg(fn, *args):
        sent += 1
    return sent


def still_works(thread):
    """A thread that refused something is as if nothing had happened."""
    ran = []
    assert thread.pending_msgs == 0
    assert thread.pollers == ()
    thread.send_msg(ran.append, 1)
    thread.poll()
    assert ran == [1]


def eventually(predicate):
    """Wait until `predicate()` is true: for what has no event of its own."""
    give_up = time.monotonic() + PATIENCE_S
    while not predicate():
        if time.monotonic() > give_up:
            raise AssertionError(f"never became true: {predicate}")
        time.sleep(0.001)


class Errors(list):
    """An exception handler that keeps what it was given."""

    def __call__(self, context):
        self.append(context)

    @property
    def exceptions(self):
        return [context["exception"] for context in self]

    @property
    def types(self):
        return [type(context["exception"]) for context in self]


class OtherThread(threading.Thread):
    """Run `fn(*args)` on another OS thread; `outcome()` waits for it and returns or raises what it did."""

    def __init__(self, fn, *args):
        super().__init__(daemon=True)
        self._call = fn, args
        self._result = self._exception = None
        self.start()

    def run(self):
        fn, args = self._call
        try:
            self._result = fn(*args)
        except BaseException as exception:
            self._exception = exception
        finally:
            self._call = fn = args = None

    def outcome(self):
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the other OS thread is stuck"
        exception, self._exception = self._exception, None
        if exception is not None:
            raise exception
        return self._result


def elsewhere(fn, *args):
    """The outcome of `fn(*args)` on another OS thread."""
    return OtherThread(fn, *args).outcome()


def run_python(source, *options):
    """Run `source` in a fresh interpreter, killed when it takes too long; the process, its output as text."""
    return subprocess.run(
        [sys.executable, *options, "-c", source],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
