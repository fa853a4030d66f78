"""Native callbacks: C functions that a reactor runs without the GIL, as messages and as a poller.

The C source below is compiled here and loaded with ctypes. A numba @cfunc, a cffi function pointer, a PyCapsule or a
function of a Cython module would do as well.
"""

import ctypes
import os
import shlex
import subprocess
import sysconfig
import tempfile
import threading

import numpy as np

from spdkthread import Reactor

SOURCE = """
struct account { long runs; double sum; double values[4]; };

void add_up(void *ctx) {                        /* a message: void (void *) */
    struct account *account = ctx;
    for (int i = 0; i < 4; i++) account->sum += account->values[i];
    account->runs++;
}

int count(void *ctx) {                          /* a poller: int (void *), above 0 means busy */
    ++*(long *)ctx;
    return 1;
}
"""


def load(directory: str) -> ctypes.CDLL:
    source, library = os.path.join(directory, "native.c"), os.path.join(directory, "native.so")
    with open(source, "w") as file:
        file.write(SOURCE)
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    subprocess.run([*compiler, "-shared", "-fPIC", "-O2", source, "-o", library], check=True)
    native = ctypes.CDLL(library)
    # Without its type a function is refused: a wrong signature is an error here and not a crash later.
    native.add_up.restype, native.add_up.argtypes = None, [ctypes.c_void_p]
    native.count.restype, native.count.argtypes = ctypes.c_int, [ctypes.c_void_p]
    return native


with tempfile.TemporaryDirectory() as directory:
    native = load(directory)

account = np.zeros((), dtype=[("runs", "l"), ("sum", "d"), ("values", "d", 4)])
account["values"] = 1, 2, 3, 4
turns = np.zeros((), dtype="l")

with Reactor() as reactor:
    thread = reactor.create_thread("native")
    poller = thread.register_native_poller(native.count, turns)
    for _ in range(1000):
        thread.send_native(native.add_up, account)  # kept alive until it has run
    done = threading.Event()
    thread.send_msg(done.set)  # native and Python messages keep their order
    done.wait()
    print(f"the message ran {account['runs']} times, the sum is {account['sum']}")

    # The poller does not need the GIL, so it goes on while Python is busy elsewhere.
    before = int(turns)
    total = sum(range(3_000_000))
    print(f"the poller ran {int(turns) - before:,} times while Python was computing {total:,}")
    poller.unregister()
