"""Makes an object of every class of the package past its constructor and uses it; run by test_construction.py.

Each class has a process of its own, forked. What it prints, a line each: the class, and how its process ended. Whatever
Python exception comes of it, the process lives.
"""

import asyncio
import faulthandler
import importlib
import inspect
import io
import os
import pkgutil
import sys
import traceback
import warnings

import spdkthread
import spdkthread.testing
from spdkthread import IoDevice, Reactor, SpdkThread, ThreadLib, aio
from spdkthread.testing import ManualClock

# These wait, or run, until something else acts; there is nothing else here.
WAIT = {"join", "wait", "result", "exception", "send_msg_wait"}
RUN = {"run", "run_forever", "start", "run_until_complete", "exit", "__exit__", "stop"}
SKIP = {
    "__class__",
    "__init__",
    "__new__",
    "__del__",
    "__init_subclass__",
    "__subclasshook__",
    "__reduce__",
    "__reduce_ex__",
}
PATIENCE_S = 30


def modules():
    yield spdkthread
    for info in pkgutil.walk_packages(spdkthread.__path__, "spdkthread."):
        yield importlib.import_module(info.name)


def classes():
    """Every class that a module of the package defines, hidden ones included."""
    found = {}
    for module in modules():
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__.startswith("spdkthread"):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    for made in (spdkthread.future.future_class(), type(aio.sleep_us(1)).__mro__[1]):
        found[f"{made.__module__}.{made.__qualname__}"] = made
    return dict(sorted(found.items()))


def attempt(fn, *args, **options):
    try:
        return fn(*args, **options)
    except (Exception, SystemExit, asyncio.CancelledError):
        return None


def make(cls):
    """Objects past the constructor, in both ways that Python has for it; none when the class refuses."""
    made = [attempt(cls.__new__, cls), attempt(object.__new__, cls)]
    try:
        made.append(attempt(type("Derived", (cls,), {"__init__": lambda self: None})))
    except TypeError:
        pass
    return [one for one in made if one is not None]


def use(name, fn, *args):
    if name in WAIT:
        return
    print("   ", name, *(type(arg).__name__ for arg in args), file=TRACE, flush=True)
    outcome = attempt(fn, *args)
    if inspect.iscoroutine(outcome):
        outcome.close()


def members(target):
    """What a user may call of an object or a module."""
    for name in sorted(set(getattr(target, "__all__", None) or dir(target))):
        if name in SKIP or (name[0] == "_" and name[:2] != "__"):
            continue
        value = attempt(getattr, target, name)
        if callable(value):
            yield name, value


def exercise(bare):
    """Ask and call everything of it."""
    for text in (repr, str, hash, len, iter, next, bool):
        use(text.__name__, text, bare)
    for name, method in members(bare):
        for args in ((), (None,), (1,), (len,), (bare,), (bare, bare), (len, bare), (bare, 1), (None, None, None)):
            use(name, method, *args)
        if name in ("result", "exception", "wait", "join"):
            attempt(method, 0)
    for name in sorted(dir(bare)):
        if name[0] != "_" and not callable(attempt(getattr, bare, name)):
            for value in (None, 1, bare, {}):
                attempt(setattr, bare, name, value)


def hand_over(bare):
    """Use it as an argument of everything else."""
    lib = ThreadLib(clock=ManualClock(), exception_handler=lambda context: None)
    thread = lib.create_thread("net")
    device = IoDevice("disk", lib=lib).register()
    reactor = Reactor(lib=lib, pin=False)
    loop = aio.EventLoop()
    with thread:
        channel = thread.get_io_channel(device)
        poller = thread.register_poller(lambda: 0)
        targets = [lib, thread, device, reactor, channel, poller, loop, thread.call(int)]
        targets += [spdkthread, aio, spdkthread.testing]
        for target in targets:
            label = getattr(target, "__name__", type(target).__name__)
            for name, member in members(target):
                if name in WAIT or name in RUN:
                    continue
                for args in ((bare,), (bare, bare), (len, bare), (thread, bare), (bare, thread), (bare, len, ())):
                    use(f"{label}.{name}", member, *args)
    for options in ({"lib": bare}, {"clock": bare}, {"thread": bare}, {"idle": bare}):
        for cls in (SpdkThread, IoDevice, Reactor, ThreadLib, aio.EventLoop):
            attempt(cls, **options)

    async def await_it():
        await bare

    async def switch_to_it():
        await aio.switch_to(bare)

    async def in_it():
        async with bare:
            pass

    def with_it():
        with bare:
            pass

    for make_one in (await_it, switch_to_it, in_it):
        attempt(thread.spawn, make_one())
        attempt(run_for_a_moment, make_one)
    attempt(with_it)
    for _ in range(100):
        attempt(thread.poll)


def run_for_a_moment(make_one):
    async def main():
        await asyncio.wait_for(make_one(), 0.001)

    asyncio.run(main())


def child(cls):
    for bare in make(cls):
        exercise(bare)
        del bare
    for bare in make(cls):
        hand_over(bare)


def main():
    global TRACE
    found = classes()
    for name, cls in found.items():
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            # The last words of a process that dies are what it was doing.
            TRACE = os.fdopen(write, "w")
            sys.stdout = sys.stderr = sys.__stderr__ = io.StringIO()
            warnings.simplefilter("ignore")
            faulthandler.enable(TRACE)
            faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=TRACE)
            try:
                child(cls)
            except BaseException:
                traceback.print_exc(file=TRACE)
                TRACE.flush()
                os._exit(9)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as trace:
            words = trace.read().splitlines()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(f"{name}\t{status}\t{'' if status == 0 else ' | '.join(words[-25:])}", flush=True)


if __name__ == "__main__":
    main()
