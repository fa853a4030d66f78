"""Random programs of valid and invalid calls of the public API, from several OS threads, against one library.

    python -m verify.fuzz --seconds 60 --seed 1        many programs, each in a process of its own
    python -m verify.fuzz --program 17                 one program, in this process

A program passes when the interpreter neither crashes nor hangs. What its calls return or raise is of no interest here,
except `SystemError`, which Python raises when a C function broke the rules.
"""

import argparse
import faulthandler
import gc
import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
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


class World:
    def __init__(self, seed, reactors):
        import spdkthread
        from spdkthread.testing import ManualClock

        self.s = spdkthread
        self.seed = seed
        self.end = time.monotonic() + PROGRAM_S
        self.buffer = bytearray(64)
        self.clock = ManualClock()
        self.depth = threading.local()
        self.things = {
            name: [] for name in ("threads", "pollers", "devices", "channels", "futures", "libs", "reactors")
        }
        manual = spdkthread.ThreadLib(clock=self.clock, exception_handler=lambda context: None)
        live = spdkthread.ThreadLib(exception_handler=lambda context: None)
        self.things["libs"] += [manual, live]
        for _ in range(reactors):
            self.things["reactors"].append(spdkthread.Reactor(lib=live, idle="adaptive", spin_us=0).start())
        self.system_errors = []
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
        kind = choose.randrange(12)
        seed = choose.randrange(2**32)
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
            self.system_errors.append(repr(error))
        except (KeyboardInterrupt, SystemExit):
            pass
        except Exception as error:
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


OPERATIONS = [
    *["send"] * 6, *["send_more"] * 3, *["register"] * 3, *["poller"] * 4, *["poll"] * 8, *["inside"] * 3,
    *["device"] * 4, *["reactor"] * 3, "create_thread", "create_thread", "bare", "native", "descriptor", "enter", "exit",
    "advance", "advance", "for_each", "look", "look", "forget", "cancel",
]  # fmt: skip


def run_program(seed):
    """One program in this process."""
    faulthandler.enable()
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

    others = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(1, workers)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
    calls, raised, errors = world.calls, world.raised, world.system_errors
    for reactor in world.things["reactors"]:
        try:
            reactor.stop(timeout_s=2)
        except (world.s.SpdkThreadError, AttributeError, TypeError):
            pass
    world.things.clear()
    del world
    gc.collect()
    if errors:
        print("SystemError:", errors[:3], file=sys.stderr)
        sys.stderr.flush()
        os._exit(70)
    print("\n" + json.dumps({"calls": calls, "raised": raised}))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--program", type=int)
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
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S * 3)
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
