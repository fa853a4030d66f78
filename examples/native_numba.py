"""numba: a Python function compiled to C, as a native message and a native poller. Needs numba (pip install numba).

The message adds up an array without the GIL; the poller goes on while Python computes.
"""

import sys
import time

import numpy as np

from spdkthread import Reactor

try:
    from numba import carray, cfunc, types  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    print("native_numba.py shows functions that numba has compiled, and numba is not here: pip install numba")
    sys.exit()

SIZE = 1_000_000


@cfunc(types.void(types.voidptr))
def add_up(ctx):  # type: ignore[no-untyped-def, misc, unused-ignore]
    """Message: the sum of all values goes to the first."""
    values = carray(ctx, SIZE, np.float64)
    values[0] = values.sum()


@cfunc(types.intc(types.voidptr))
def count(ctx):  # type: ignore[no-untyped-def, misc, unused-ignore]
    """Poller: above 0 means busy."""
    carray(ctx, 1, np.int64)[0] += 1
    return 1


values = np.full(SIZE, 0.5)
turns = np.zeros(1, dtype=np.int64)
with Reactor() as reactor:
    thread = reactor.create_thread("numba")
    begin = time.perf_counter()
    thread.send_native(add_up, values)
    thread.call(lambda: None).result()  # native and Python messages keep their order
    print(f"the sum is {values[0]:,.1f}, in {(time.perf_counter() - begin) * 1000:.2f} ms, without the GIL")

    poller = thread.register_native_poller(count, turns)
    before = int(turns[0])
    total = sum(range(3_000_000))
    print(f"the poller ran {int(turns[0]) - before:,} times while Python was computing {total:,}")
    poller.unregister()
