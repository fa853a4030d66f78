"""SpdkThreads behind the interface of concurrent.futures, beside ThreadPoolExecutor.

Code that is written for an executor runs on threads of reactors without knowing it; what finds no room in a ring waits
in the executor.
"""

import hashlib
import time
from concurrent.futures import Executor, ThreadPoolExecutor

from spdkthread import ReactorGroup
from spdkthread.cores import allowed_cores

SMALL_CALLS = 5_000
BLOCKS, BLOCK_BYTES = 16, 8 << 20


def digest(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()  # lets go of the GIL


def measure(name: str, executor: Executor) -> None:
    block = bytes(BLOCK_BYTES)
    list(executor.map(abs, range(100)))
    begin = time.perf_counter()
    assert list(executor.map(abs, range(SMALL_CALLS))) == list(range(SMALL_CALLS))
    small = (time.perf_counter() - begin) / SMALL_CALLS * 1e6
    begin = time.perf_counter()
    assert len(set(executor.map(digest, [block] * BLOCKS))) == 1
    rate = BLOCKS * BLOCK_BYTES / (time.perf_counter() - begin) / 1e6
    print(f"{name:20} a small call {small:6.2f} us; hashing {rate:,.0f} MB/s")


cores = sorted(allowed_cores())[:2]
with ReactorGroup(cores) as group:
    for number in range(len(cores)):
        group.create_thread(f"worker {number}")
    with group.executor() as ours:
        measure("spdkthread", ours)
with ThreadPoolExecutor(len(cores)) as theirs:
    measure("ThreadPoolExecutor", theirs)
