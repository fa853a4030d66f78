"""Random programs of valid and invalid calls of the public API, from several OS threads, against one library.

    python -m verify.fuzz --seconds 60 --seed 1        many programs, each in a process of its own
    python -m verify.fuzz --program 17                 one program, in this process

A program passes when the interpreter neither crashes nor hangs, nor one that it forked, nor an event loop that it asked
to stop. What its calls return or raise is of no interest here, except `SystemError`, which Python raises when a C
function broke the rules.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import copy
import faulthandler
import gc
import importlib
import json
import logging
import math
import os
import pkgutil
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings

STEPS = 400
# Messages that send messages can go on for hours. After this time a program's callbacks do nothing any more.
PROGRAM_S = 5
LIMIT_S = 60


def values(choose, world):
    """Anything at all, more often something fitting."""
    return choose.choice(
        [
            None, True, 0, 1, 2, 3, 7, 8, 9, 64, 65_536, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**70,
            0.0, 0.5, -1.0, 1e18, math.nan, math.inf, "", "x", "0", "0-1", "one", "all", "poll", "adaptive", "r", "rw",
            "\0", "\ud800", b"", (), [], {}, object(), Exception, print, len, int,
            world.pick(choose, "threads"), world.pick(choose, "pollers"), world.pick(choose, "devices"),
            world.pick(choose, "channels"), world.pick(choose, "libs"), world.pick(choose, "reactors"),
            world.pick(choose, "futures"), world.callback(choose), world.callback(choose), bytearray(8), world.buffer,
            world.pick(choose, "awaitables"), world.pick(choose, "executors"), world.pick(choose, "loops"),
            world.pick(choose, "handlers"), world.pick(choose, "descriptors"), Odd(choose.randrange(6)), Caller(world, 7),
        ]
    )  # fmt: skip


class Nameless:
    def __call__(self, *args):
        raise ValueError("nameless")

    def __repr__(self):
        raise RuntimeError("no repr")


class Bomb:
    """Its end raises."""

    def __call__(self, *args):
        return None

    def __del__(self):
        raise RuntimeError("in a destructor")


class Odd:
    """Compares and hashes as it should not, or not at all."""

    def __init__(self, kind):
        self.kind = kind

    def __eq__(self, other):
        if self.kind == 0:
            raise RuntimeError("not to be compared")
        if self.kind == 1:
            return Nameless()
        return self.kind == 2

    def __hash__(self):
        if self.kind == 3:
            raise RuntimeError("not to be hashed")
        return random.getrandbits(60) if self.kind == 4 else 1

    def __bool__(self):
        if self.kind == 5:
            raise RuntimeError("neither true nor false")
        return True

    def __call__(self, *args):
        return self

    def __index__(self):
        if self.kind == 1:
            raise RuntimeError("no number")
        return self.kind

    fileno = __index__


class Caller:
    """Its end goes on with the program, wherever it is dropped."""

    def __init__(self, world, seed):
        self.world = world
        self.seed = seed

    def __call__(self, *args):
        return None

    def __del__(self):
        self.world.step(random.Random(self.seed))


class World:
    def __init__(self, seed, reactors):
        import spdkthread
        from spdkthread.testing import ManualClock

        self.s = spdkthread
        # All of them before the first fork: a module that another OS thread is just importing stays locked in the child,
        # by CPython's own lock of it.
        for info in pkgutil.iter_modules(spdkthread.__path__, "spdkthread."):
            if not info.name.endswith("__main__"):
                importlib.import_module(info.name)
        self.seed = seed
        self.end = time.monotonic() + PROGRAM_S
        self.buffer = bytearray(64)
        self.clock = ManualClock()
        self.depth = threading.local()
        self.things = {
            name: []
            for name in (
                "threads", "pollers", "devices", "channels", "futures", "libs", "reactors", "awaitables", "coroutines",
                "executors", "loops", "timers", "handlers", "descriptors", "opened",
            )
        }  # fmt: skip
        self.loop_threads = []
        self.children = []
        manual = spdkthread.ThreadLib(clock=self.clock, exception_handler=lambda context: None)
        live = spdkthread.ThreadLib(exception_handler=lambda context: None)
        self.things["libs"] += [manual, live]
        for _ in range(reactors):
            self.things["reactors"].append(spdkthread.Reactor(lib=live, idle="adaptive", spin_us=0).start())
        self.findings = []
        self.calls = 0
        self.raised = {}

    def pick(self, choose, kind):
        things = self.things[kind]
        return choose.choice(things) if things else None

    def keep(self, kind, thing):
        things = self.things[kind]
        things.append(thing)
        if len(things) > 12:
            del things[0]
        return thing

    def callback(self, choose):
        """A function that misbehaves or goes on with the program."""
        kind = choose.randrange(14)
        seed = choose.randrange(2**32)
        if kind == 12:
            return Caller(self, seed)
        if kind == 13:
            return Odd(choose.randrange(6))
        if kind == 0:
            return Nameless()
        if kind == 1:
            return Bomb()
        if kind == 2:
            return lambda *args: 1 / 0
        if kind == 3:
            return lambda *args: "nonsense"
        if kind == 4 and self.depth_now() == 0:
            stop = choose.choice([KeyboardInterrupt, SystemExit])

            def end(*args):
                raise stop

            return end
        if kind == 5:
            return lambda *args: self.is_over() or gc.collect()
        if kind == 6:
            return lambda *args: 2**80
        return lambda *args: self.step(random.Random(seed))

    def is_over(self):
        return time.monotonic() > self.end

    def depth_now(self):
        return getattr(self.depth, "n", 0)

    def step(self, choose):
        """One call."""
        if self.depth_now() > 3 or self.is_over():
            return
        self.depth.n = self.depth_now() + 1
        try:
            name = choose.choice(OPERATIONS)
            self.calls += 1
            getattr(self, name)(choose)
        except SystemError as error:
            self.findings.append("".join(traceback.format_exception(error)[-6:]))
        except (KeyboardInterrupt, SystemExit):
            pass
        except BaseException as error:
            self.raised[type(error).__name__] = self.raised.get(type(error).__name__, 0) + 1
        finally:
            self.depth.n -= 1

    # Calls. Each is fitting most of the time.

    def value(self, choose, fitting):
        return values(choose, self) if choose.random() < 0.15 else fitting

    def create_thread(self, choose):
        lib = self.value(choose, self.pick(choose, "libs"))
        ring_size = self.value(choose, choose.choice([1, 2, 8, 64]))
        policy = self.value(choose, choose.choice(["one", "all"]))
        self.keep("threads", self.s.SpdkThread(lib=lib, ring_size=ring_size, poller_policy=policy))

    def bare(self, choose):
        """Objects that were never initialised."""
        names = ["SpdkThread", "Poller", "IoDevice", "IoChannel", "IoChannelIter", "FdHandler", "Reactor", "ThreadLib"]
        name = choose.choice(names)
        kind = getattr(self.s, name)
        kept = {"SpdkThread": "threads", "Poller": "pollers", "IoDevice": "devices", "Reactor": "devices"}
        self.keep(kept.get(name, "channels"), kind.__new__(kind))

    def send(self, choose):
        thread = self.pick(choose, "threads")
        method = choose.choice(["send_msg", "try_send_msg", "call", "exec_msg"])
        arguments = [values(choose, self) for _ in range(choose.randrange(7))]
        future = getattr(thread, method)(self.value(choose, self.callback(choose)), *arguments)
        if method == "call":
            self.keep("futures", future)

    def send_more(self, choose):
        thread = self.pick(choose, "threads")
        kind = choose.randrange(4)
        if kind == 0:
            thread.send_many(self.callback(choose), self.value(choose, range(choose.randrange(200))))
        elif kind == 1:
            thread.send_many(self.callback(choose), [None] * choose.randrange(100))
        elif kind == 2:
            thread.send_critical_msg(self.value(choose, self.callback(choose)))
        else:
            thread.send_msg_wait(self.callback(choose), timeout_s=choose.choice([0, 0.001, 0.001, math.nan, -1, "x"]))

    def native(self, choose):
        import ctypes

        thread = self.pick(choose, "threads")
        libc = ctypes.CDLL(None)
        if choose.random() < 0.5:
            fn = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("free", libc))
            thread.send_native(self.value(choose, fn) if choose.random() < 0.3 else fn, None)
        else:
            fn = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("PyGILState_Check", libc))
            poller = thread.register_native_poller(fn, None, self.value(choose, choose.choice([0, 1, 50])))
            self.keep("pollers", poller)

    def register(self, choose):
        thread = self.pick(choose, "threads")
        period = self.value(choose, choose.choice([0, 0, 0.001, 1, 100, 1e6]))
        poller = thread.register_poller(self.value(choose, self.callback(choose)), period)
        self.keep("pollers", poller)

    def poller(self, choose):
        getattr(self.pick(choose, "pollers"), choose.choice(["pause", "resume", "unregister", "unregister"]))()

    def descriptor(self, choose):
        thread = self.pick(choose, "threads")
        reading, writing = os.pipe()
        try:
            if choose.random() < 0.5:
                os.write(writing, b"x")
            handler = thread.register_fd(self.value(choose, reading), self.callback(choose), choose.choice("rw"))
            if choose.random() < 0.7:
                handler.unregister()
        finally:
            os.close(writing)
            os.close(reading)

    def poll(self, choose):
        thread = self.pick(choose, "threads")
        for _ in range(choose.randrange(1, 5)):
            thread.poll(self.value(choose, choose.randrange(9)), self.value(choose, None))

    def inside(self, choose):
        with self.pick(choose, "threads"):
            for _ in range(choose.randrange(4)):
                self.step(choose)

    def enter(self, choose):
        getattr(self.pick(choose, "threads"), choose.choice(["__enter__", "__exit__", "__exit__"]))()

    def exit(self, choose):
        self.pick(choose, "threads").exit()

    def advance(self, choose):
        self.clock.advance(us=self.value(choose, choose.choice([0, 1, 50, 10**6])))

    def for_each(self, choose):
        target = self.pick(choose, "libs")
        self.keep("futures", target.for_each_thread(self.callback(choose), self.value(choose, None)))

    def device(self, choose):
        kind = choose.randrange(7)
        if kind == 0:
            make = self.value(choose, choose.choice([None, lambda channel: {}, self.callback(choose)]))
            device = self.s.IoDevice(None, create_channel=make, lib=self.pick(choose, "libs"))
            self.keep("devices", device).register()
        elif kind == 1:
            self.keep("futures", self.pick(choose, "devices").unregister(self.value(choose, None)))
        elif kind == 2:
            thread = self.pick(choose, "threads")
            with thread:
                self.keep("channels", thread.get_io_channel(self.value(choose, self.pick(choose, "devices"))))
        elif kind == 3:
            self.keep("channels", self.pick(choose, "devices").get_io_channel())
        elif kind == 4:
            channel = self.pick(choose, "channels")
            if choose.random() < 0.5:
                with channel.thread:
                    channel.put()
            else:
                getattr(channel, choose.choice(["put", "ref"]))()
        elif kind == 5:
            device = self.pick(choose, "devices")
            self.keep("futures", device.for_each_channel(self.callback(choose), None, self.value(choose, None)))
        else:
            device = self.pick(choose, "devices")
            len(repr(device)), device.channels_count, device.is_registered

    def look(self, choose):
        thing = self.pick(choose, choose.choice(list(self.things)))
        if thing is None:
            return
        for name in choose.sample(dir(thing), 5):
            if not name.startswith("_"):
                value = getattr(thing, name)
                if not callable(value):
                    repr(value)
        repr(thing)

    def forget(self, choose):
        things = self.things[choose.choice(["threads", "pollers", "devices", "channels", "futures"])]
        if things:
            del things[choose.randrange(len(things))]
        if choose.random() < 0.1:
            gc.collect()

    def cancel(self, choose):
        self.pick(choose, "futures").cancel()

    def reactor(self, choose):
        reactor = self.pick(choose, "reactors")
        kind = choose.randrange(6)
        if kind == 0:
            thread = self.pick(choose, "threads")
            if thread.ring_size:
                reactor.add_thread(self.value(choose, thread))
        elif kind in (1, 2):
            self.keep("threads", reactor.create_thread(ring_size=choose.choice([1, 4, 64])))
        elif kind == 3:
            to = self.value(choose, self.pick(choose, "reactors"))
            self.keep("futures", reactor.move_thread(self.pick(choose, "threads"), to))
        elif kind == 4:
            reactor.poll()
        else:
            reactor.stats

    # Coroutines, and what they await

    def awaitable(self, choose):
        """Something to await: new, or one that was awaited before."""
        kind = choose.randrange(9)
        thread = self.pick(choose, "threads")
        if kind == 0:
            made = self.s.aio.sleep_us(self.value(choose, choose.choice([0, 1, 100])))
        elif kind in (1, 2):
            made = thread.acall(self.callback(choose), *[values(choose, self) for _ in range(choose.randrange(3))])
        elif kind == 3:
            made = self.s.aio.switch_to(self.value(choose, thread))
        elif kind == 4:
            made = self.s.aio.fd_ready(
                self.value(choose, self.pick(choose, "descriptors")), self.value(choose, choose.choice("rw"))
            )
        elif kind == 5:
            made = self.pick(choose, "futures")
        else:
            return self.pick(choose, "awaitables")
        return self.keep("awaitables", made)

    async def coroutine(self, choose):
        for _ in range(choose.randrange(6)):
            kind = choose.randrange(8)
            if kind == 0:
                self.step(choose)
            elif kind == 1:
                with contextlib.suppress(Exception):
                    await self.value(choose, self.awaitable(choose))
            elif kind == 2 and choose.random() < 0.2:
                raise choose.choice([ValueError, StopIteration, KeyboardInterrupt, GeneratorExit])("in a coroutine")
            elif kind == 3:
                try:
                    await self.awaitable(choose)
                finally:
                    self.step(choose)
            else:
                await self.awaitable(choose)
        return Caller(self, choose.randrange(2**32))

    def spawn(self, choose):
        thread = self.pick(choose, "threads")
        if choose.random() < 0.8:
            coroutine = self.keep("coroutines", self.coroutine(random.Random(choose.randrange(2**32))))
        else:
            coroutine = self.pick(choose, "coroutines")  # a second time, or after its end
        self.keep("futures", thread.spawn(self.value(choose, coroutine)))

    def by_hand(self, choose):
        """Step an awaitable or a coroutine as nothing but a test would."""
        steps = self.pick(choose, choose.choice(["coroutines", "awaitables"]))
        if choose.random() < 0.5:
            steps = steps.__await__()
        if type(steps).__module__ == "_asyncio":
            return  # CPython's own iterators break the rules that are checked here
        for _ in range(choose.randrange(1, 4)):
            kind = choose.randrange(4)
            if kind == 0:
                next(steps)
            elif kind == 1:
                steps.send(self.value(choose, None))
            elif kind == 2:
                steps.throw(choose.choice([ValueError, StopIteration, GeneratorExit, asyncio.CancelledError]))
            else:
                steps.close()

    def future(self, choose):
        future = self.pick(choose, "futures")
        kind = choose.randrange(6)
        if kind == 0:
            future.add_done_callback(self.value(choose, self.callback(choose)))
        elif kind == 1:
            future.result(timeout=0)
        elif kind == 2:
            future.exception(timeout=0.001)
        elif kind == 3:
            # Of one: where it finds no future among several, it keeps the locks of those before it.
            concurrent.futures.wait([future], timeout=0)
        elif kind == 4:
            getattr(future, choose.choice(["set_result", "set_exception"]))(values(choose, self))
        else:
            future.set_running_or_notify_cancel()

    def executor(self, choose):
        kind = choose.randrange(5)
        if kind == 0:
            target = self.pick(choose, choose.choice(["threads", "reactors"]))
            self.keep("executors", target.executor())
        elif kind == 1:
            self.keep("executors", self.s.aio.ThreadExecutor(self.value(choose, list(self.things["threads"]))))
        elif kind == 4:
            executor = self.pick(choose, "executors")
            if choose.random() < 0.3:
                executor.shutdown(wait=False, cancel_futures=choose.random() < 0.5)
            else:
                list(executor.map(self.callback(choose), range(5), timeout=0.001, chunksize=choose.choice([1, 2])))
        else:
            executor = self.pick(choose, "executors")
            self.keep("futures", executor.submit(self.value(choose, self.callback(choose)), values(choose, self)))

    # Event loops, each driven by an OS thread of its own

    async def task(self, choose):
        loop = asyncio.get_running_loop()
        for _ in range(choose.randrange(1, 12)):
            if self.is_over():
                return
            kind = choose.randrange(7)
            if kind == 0:
                self.step(choose)
            elif kind == 1:
                self.keep("timers", loop.call_later(choose.choice([0, 0.001, 10]), self.callback(choose)))
            elif kind == 2:
                await asyncio.sleep(choose.choice([0, 0, 0.001]))
            elif kind == 3:
                await loop.run_in_executor(self.pick(choose, "executors"), self.callback(choose))
            elif kind == 4:
                number = self.pick(choose, "descriptors")
                getattr(loop, choose.choice(["add_reader", "add_writer"]))(number, self.callback(choose))
                if choose.random() < 0.7:
                    getattr(loop, choose.choice(["remove_reader", "remove_writer"]))(number)
            else:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self.awaitable(choose), 0.01)

    async def tasks(self, choose):
        mine = [asyncio.ensure_future(self.task(random.Random(choose.randrange(2**32)))) for _ in range(3)]
        await asyncio.wait(mine, timeout=1)

    def loop(self, choose):
        kind = choose.randrange(8)
        if kind == 0:
            # While the interpreter ends, CPython 3.11 waits for ever for a thread that it lets start no more: a coroutine
            # that is closed only then would wait so.
            if len(self.loop_threads) < 6 and not sys.is_finalizing():
                mine = random.Random(choose.randrange(2**32))
                # Two loops on one thread, and one on a thread of a reactor's, are among them.
                driven = self.pick(choose, "threads") if choose.random() < 0.4 else None
                thread = threading.Thread(target=self.drive, args=(mine, driven), daemon=True)
                self.loop_threads.append(thread)
                thread.start()
            return
        loop = self.pick(choose, "loops")
        if kind in (1, 2, 3):
            self.keep("timers", loop.call_soon_threadsafe(self.value(choose, self.callback(choose)), 1))
        elif kind == 4:
            self.pick(choose, "timers").cancel()
        elif kind == 5:
            # From an OS thread that may not.
            method = choose.choice([loop.call_soon, loop.stop, loop.time, loop.close])
            method(*[self.callback(choose)] if method == loop.call_soon else [])
        elif kind == 6:
            self.keep("futures", asyncio.run_coroutine_threadsafe(self.task(random.Random(kind)), loop))
        else:
            loop.call_soon_threadsafe(loop.stop)

    def drive(self, choose, driven):
        try:
            loop = self.s.aio.EventLoop(driven)
        except Exception:
            return
        self.keep("loops", loop)
        for _ in range(choose.randrange(1, 4)):
            with contextlib.suppress(BaseException):
                loop.run_until_complete(self.tasks(choose))
        if choose.random() < 0.8:
            with contextlib.suppress(BaseException):
                loop.close()

    # Processes, descriptors, constructors

    def fork(self, choose):
        """A child that goes on with the program. It may end in any way but by a signal, its own alarm included."""
        if choose.random() > 0.1:
            return
        seed = choose.randrange(2**32)
        child = os.fork()
        if child == 0:
            try:
                # A reactor's OS thread takes no signals, and only that thread is left when it has forked.
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                # Should its parent have been ended meanwhile.
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(2 * LIMIT_S)
                self.end = time.monotonic() + 1
                self.depth = threading.local()
                mine = random.Random(seed)
                for _ in range(20):
                    self.step(mine)
                self.things.clear()
                gc.collect()
            finally:
                os._exit(0)
        self.children.append((child, seed))

    def reap(self):
        end = time.monotonic() + CHILD_S
        for child, seed in self.children:
            ended, status = os.waitpid(child, os.WNOHANG)
            while not ended and time.monotonic() < end:
                time.sleep(0.01)
                ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                self.findings.append(f"a forked child (seed {seed}) hangs")
                os.kill(child, signal.SIGABRT)  # it says where it is
                time.sleep(1)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            elif os.WIFSIGNALED(status):
                self.findings.append(f"a forked child (seed {seed}) ended by signal {os.WTERMSIG(status)}")

    def numbers(self, choose):
        """Descriptors closed and their numbers used again while handlers of them are registered."""
        kind = choose.randrange(6)
        if kind == 0:
            for number in os.pipe():
                self.keep("descriptors", number)
                self.things["opened"].append(number)
        elif kind == 1:
            # Its number stays known, but not as one to close: that may be the library's by then.
            number = self.things["opened"].pop()
            os.close(number)
        elif kind == 2:
            reading, writing = os.pipe()
            if self.things["opened"]:
                number = self.things["opened"].pop()
                os.dup2(choose.choice([reading, writing]), number)
                self.things["opened"].append(number)
            os.close(reading)
            os.close(writing)
        elif kind == 3:
            number = self.things["opened"].pop()
            os.write(number, b"x")
            self.things["opened"].append(number)
        elif kind == 4:
            thread = self.pick(choose, "threads")
            number = self.value(choose, self.pick(choose, "descriptors"))
            self.keep("handlers", thread.register_fd(number, self.callback(choose), choose.choice(["r", "w", "rw"])))
        else:
            self.pick(choose, "handlers").unregister()

    def constructor(self, choose):
        """Objects whose constructor did not run, ran twice, or was another's; copies."""
        thing = self.pick(choose, choose.choice(list(self.things)))
        kind = choose.randrange(5)
        if kind == 0:
            made = type(thing).__new__(type(thing))
        elif kind == 1:
            thing.__init__(*[values(choose, self) for _ in range(choose.randrange(3))])
            return
        elif kind == 2:
            made = copy.copy(thing)
        elif kind == 3:
            base = choose.choice(
                [self.s.SpdkThread, self.s.IoDevice, self.s.ThreadLib, self.s.Reactor, self.s.aio.EventLoop]
            )
            namespace = (
                {"__init__": lambda self, *args: None}
                if choose.random() < 0.5
                else {"__eq__": lambda self, other: 1 / 0, "__hash__": lambda self: 1 / 0}
            )
            made = type(base.__name__, (base,), namespace)()
        else:
            made = type(thing)(*[values(choose, self) for _ in range(choose.randrange(3))])
        places = {"SpdkThread": "threads", "IoDevice": "devices", "EventLoop": "loops", "FdHandler": "handlers"}
        kept = places.get(type(made).__name__, choose.choice(["futures", "awaitables", "executors"]))
        self.keep(kept, made)
        names = [name for name in dir(made) if name in CALLED or not name.startswith("_")]
        for name in choose.sample(names, min(4, len(names))):
            if name in BLOCKING:
                continue
            found = getattr(made, name)
            if callable(found):
                found(*[values(choose, self) for _ in range(choose.randrange(3))])


# Asked of an object that was never set up; the others of these names wait without a time limit, rightly.
CALLED = {"__repr__", "__hash__", "__await__", "__enter__", "__len__", "__iter__", "__del__"}
BLOCKING = {
    "run",
    "run_forever",
    "run_until_complete",
    "run_until_idle",
    "join",
    "wait",
    "result",
    "exception",
    "shutdown",
    "start",
    "stop",
    "send_msg_wait",
    "close",
}
# Forked children have this long after their parent's last call. Their steps end after one second on an idle machine; under
# a sanitizer, beside much else, one was still at its twentieth after 15.
CHILD_S = 60

OPERATIONS = [
    *["send"] * 6, *["send_more"] * 3, *["register"] * 3, *["poller"] * 4, *["poll"] * 8, *["inside"] * 3,
    *["device"] * 4, *["reactor"] * 3, "create_thread", "create_thread", "bare", "native", "descriptor", "enter", "exit",
    "advance", "advance", "for_each", "look", "look", "forget", "cancel",
    *["spawn"] * 5, *["by_hand"] * 2, *["future"] * 2, *["executor"] * 3, *["loop"] * 4, "fork", *["numbers"] * 4,
    *["constructor"] * 2,
]  # fmt: skip


def run_program(seed):
    """One program in this process."""
    faulthandler.enable()
    sys.setswitchinterval(random.Random(seed).choice([0.005, 0.0001]))
    faulthandler.dump_traceback_later(LIMIT_S - 10, exit=False)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda unraisable: None
    threading.excepthook = lambda arguments: None
    choose = random.Random(seed)
    workers = choose.choice([1, 1, 2, 3])
    world = World(seed, reactors=choose.choice([0, 0, 1, 2]))
    for _ in range(3):
        world.keep("threads", world.s.SpdkThread(lib=world.things["libs"][0], ring_size=choose.choice([1, 8, 64])))

    def work(number):
        mine = random.Random(seed * 16 + number)
        for _ in range(STEPS):
            world.step(mine)

    # What a callback raises on a reactor interrupts the main thread, which has nothing to stop.
    signal.signal(signal.SIGINT, lambda *_: None)
    if choose.random() < 0.4:
        # A handler that calls the library, between any two instructions of the main thread.
        signals = random.Random(seed + 1)
        signal.signal(signal.SIGALRM, lambda *_: world.step(signals))
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.002)

    others = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(1, workers)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for loop in list(world.things["loops"]):
        with contextlib.suppress(Exception):
            loop.call_soon_threadsafe(loop.stop)
            time.sleep(0.01)
            loop.call_soon_threadsafe(loop.stop)
    for driver in world.loop_threads:
        # One whose thread has a clock that nothing moves any more ends by a stop only, and runs up to three times.
        give_up = time.monotonic() + 10
        while driver.is_alive() and time.monotonic() < give_up:
            for loop in list(world.things["loops"]):
                with contextlib.suppress(Exception):
                    loop.call_soon_threadsafe(loop.stop)
            driver.join(0.1)
        if driver.is_alive():
            world.findings.append("an event loop does not stop")
            faulthandler.dump_traceback(all_threads=True)
    world.reap()
    calls, raised, errors = world.calls, world.raised, world.findings
    for reactor in world.things["reactors"]:
        try:
            reactor.stop(timeout_s=2)
        except (world.s.SpdkThreadError, AttributeError, TypeError, KeyboardInterrupt, SystemExit):
            pass  # a KeyboardInterrupt or SystemExit of a coroutine's leaves a stop that polls by hand
    world.things.clear()
    del world
    gc.collect()
    if errors:
        print("Findings:", *errors[:3], sep="\n", file=sys.stderr)
        sys.stderr.flush()
        os._exit(70)
    print("\n" + json.dumps({"calls": calls, "raised": raised}))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--program", type=int)
    arguments.add_argument("--limit", type=float, default=LIMIT_S * 3, help="seconds that one program may take")
    options = arguments.parse_args()
    if options.program is not None:
        run_program(options.program)
        return
    end = time.monotonic() + options.seconds
    programs = calls = 0
    failed = []
    while time.monotonic() < end:
        seed = options.seed + programs
        command = [sys.executable, "-m", "verify.fuzz", "--program", str(seed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
        except subprocess.TimeoutExpired as hang:
            failed.append(f"program {seed} hangs\n{(hang.stderr or b'').decode()[-3000:]}")
            programs += 1
            continue
        programs += 1
        if done.returncode:
            failed.append(f"program {seed} ended with {done.returncode}\n{done.stderr[-3000:]}")
        else:
            # `print` is among the functions that a program calls.
            figures = [line for line in done.stdout.splitlines() if line.startswith('{"calls":')]
            if figures:
                calls += json.loads(figures[-1])["calls"]
            else:
                failed.append(f"program {seed} ended without its figures\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    for failure in failed:
        print(failure, file=sys.stderr)
    print(json.dumps({"programs": programs, "calls": calls, "first seed": options.seed, "failed": len(failed)}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
