"""cffi: C compiled when the program starts, its functions as native messages.

Needs cffi (pip install cffi setuptools) and a C compiler. spdkthread checks the signature by the declaration that cffi
has read.
"""

import importlib
import sys
import tempfile
import time

from spdkthread import Reactor

try:
    from cffi import FFI  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    print("native_cffi.py compiles C by cffi, and cffi is not here: pip install cffi setuptools")
    sys.exit()

MESSAGES = 50_000  # no more than the ring has room for

with tempfile.TemporaryDirectory() as work:
    ffi = FFI()
    ffi.cdef("typedef struct { long runs; double level; } filter; extern void (*const step)(void *);")
    ffi.set_source(
        "_native_cffi",
        """
        typedef struct { long runs; double level; } filter;
        static void step_(void *ctx) {
            filter *mine = ctx;
            mine->runs++;
            mine->level += 0.01 * (1.0 - mine->level);      /* a low-pass filter on its way to 1 */
        }
        static void (*const step)(void *) = step_;
        """,
    )
    ffi.compile(tmpdir=work)
    sys.path.insert(0, work)
    native = importlib.import_module("_native_cffi")
    sys.path.remove(work)

state = native.ffi.new("filter *")
memory = native.ffi.buffer(state)  # keeps the struct alive, and is what send_native takes
with Reactor() as reactor:
    thread = reactor.create_thread("cffi", ring_size=65_536)
    begin = time.perf_counter()
    for _ in range(MESSAGES):
        thread.send_native(native.lib.step, memory)
    thread.call(lambda: None).result()
    each = (time.perf_counter() - begin) / MESSAGES * 1e9
print(
    f"{state.runs:,} messages, {each:.0f} ns each, sent from Python and run without the GIL; "
    f"the level is {state.level:.6f}"
)
assert state.runs == MESSAGES
