"""for_each_thread: ask every thread, one after the other, for what it knows, without a lock.

Each thread counts in a dict of its own. The visit runs on the thread that it asks, so it sees the counter at rest.
"""

import threading
from collections import Counter

from spdkthread import Reactor, ThreadLib, get_thread

counts: dict[str, Counter[str]] = {}  # by thread; each Counter is touched on its thread only
total: Counter[str] = Counter()
finished = threading.Event()


def count(word: str) -> None:
    thread = get_thread()
    assert thread is not None
    counts[thread.name][word] += 1


def visit() -> None:
    """Runs on every thread, in the order in which they were made; two visits never run at the same time."""
    thread = get_thread()
    assert thread is not None
    print(f"  {thread.name}: {dict(counts[thread.name])}")
    total.update(counts[thread.name])


lib = ThreadLib()  # for_each_thread visits the threads of one library
with Reactor(lib=lib) as first, Reactor(lib=lib) as second:
    threads = [reactor.create_thread(f"counter {n}") for n, reactor in enumerate((first, second, first))]
    for thread in threads:
        counts[thread.name] = Counter()
    for number, word in enumerate(["to", "be", "or", "not", "to", "be", "that", "is", "the", "question"]):
        threads[number % 3].send_msg(count, word)

    threads[0].send_msg(lib.for_each_thread, visit, finished.set)  # begins and ends on threads[0]
    finished.wait()
print(f"together: {dict(total)}")
assert total["to"] == total["be"] == 2
lib.close()
