"""pi from all cores: native pollers throw dice into the contexts of their I/O channels, without the GIL.

    native_channel.py [--seconds 1] [--threads 2]

The device's `create_channel` registers a native poller on the thread that gets the channel; the poller works on the
channel's `ctx`, a NumPy array for Python and a C struct for ``native/pi_channel.pyx``. `for_each_channel` then visits
one thread after the other and adds up what each has found, on that thread, so nothing needs a lock.

The Cython half is compiled when the example starts, into a temporary directory, so this example needs Cython and a C
compiler.
"""

import argparse
import importlib
import importlib.util
import math
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from spdkthread import IoChannel, IoChannelIter, IoDevice, Poller, Reactor


def compile_native(name: str) -> Any:
    """Translate, compile and import ``native/<name>.pyx``. A program of yours does this in its setup.py."""
    if importlib.util.find_spec("Cython") is None:
        print(
            "native_channel.py compiles its native half with Cython, which is not here: pip install cython setuptools"
        )
        sys.exit()
    with tempfile.TemporaryDirectory() as work:
        source = shutil.copy(Path(__file__).parent / "native" / f"{name}.pyx", work)
        command = [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", "--quiet"]
        subprocess.run([*command, "-X", "freethreading_compatible=True", source], cwd=work, check=True)
        sys.path.insert(0, work)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(work)


class Dice(IoDevice):
    """Every channel throws dice for as long as it lives."""

    def __init__(self, native: Any) -> None:
        super().__init__("dice", ctx_dtype=[("state", "u8"), ("thrown", "u8"), ("inside", "u8")])
        self.native = native
        self.pollers: dict[IoChannel, Poller] = {}

    def create_channel(self, channel: IoChannel) -> None:
        channel.ctx["state"] = 0x9E3779B97F4A7C15 * channel.thread.id % 2**64
        throw = self.native.__pyx_capi__["throw_batch"]
        self.pollers[channel] = channel.thread.register_native_poller(throw, self.native.address(self), name="throw")

    def destroy_channel(self, channel: IoChannel) -> None:
        self.pollers.pop(channel).unregister()


def main() -> None:
    parser = argparse.ArgumentParser(description="pi from all cores, by native pollers.")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    dice = Dice(compile_native("pi_channel")).register()
    with ExitStack() as stack:
        threads = [stack.enter_context(Reactor()).create_thread(f"dice{n}") for n in range(options.threads)]
        channels = [thread.call(dice.get_io_channel).result() for thread in threads]
        started = time.perf_counter()
        time.sleep(options.seconds)

        found = []

        def collect(it: IoChannelIter) -> None:
            assert it.channel is not None
            found.append((it.channel.thread.name, int(it.channel.ctx["thrown"]), int(it.channel.ctx["inside"])))

        threads[0].call(dice.for_each_channel, collect).result().result()
        seconds = time.perf_counter() - started
        for channel in channels:
            channel.thread.call(channel.put).result()
        threads[0].call(dice.unregister).result().result()

    for name, thrown, inside in found:
        print(f"{name}: {thrown / seconds / 1e6:8.1f} M throws/s, pi is about {4 * inside / thrown:.5f}")
    thrown, inside = (sum(column) for column in list(zip(*found, strict=True))[1:])
    print(f"all  : {thrown / seconds / 1e6:8.1f} M throws/s, pi is about {4 * inside / thrown:.5f}")
    if abs(4 * inside / thrown - math.pi) > 0.01:
        raise SystemExit("that is not pi")


if __name__ == "__main__":
    main()
