"""A group of reactors: where its threads are put, how they are kept on some cores, and how one is moved.

With a scheduler, `ReactorGroup(scheduler="dynamic")`, the group moves them itself: idle ones together, busy ones apart.
"""

from spdkthread import ReactorGroup, SpdkThread, get_reactor
from spdkthread.cores import allowed_cores


def core_of(thread: SpdkThread) -> int:
    """Asked on the thread itself: the core of the reactor that polls it."""
    reactor = thread.call(get_reactor).result()
    assert reactor is not None
    return reactor.core


cores = sorted(allowed_cores())[:2]
with ReactorGroup(cores) as group:
    first, last = cores[0], cores[-1]
    for number in range(4):  # in turn
        thread = group.create_thread(f"any {number}")
        print(f"{thread.name} is on core {core_of(thread)}")

    pinned = group.create_thread("pinned", cpumask={last})
    print(f"{pinned.name} may be on {sorted(pinned.cpumask or ())} only, and is on core {core_of(pinned)}")

    group[last].move_thread(pinned, group[last]).result()  # where it is: nothing to do
    pinned.set_cpumask({first}).result()  # moves it, with its ring, pollers and timers
    print(f"{pinned.name} has moved to core {core_of(pinned)}")

    visited: list[int] = []

    def visit() -> None:
        reactor = get_reactor()
        assert reactor is not None
        visited.append(reactor.core)

    group.for_each_reactor(visit).result()
    print(f"visited one after the other: cores {visited}")
    print("\n".join(f"core {reactor.core}: {[thread.name for thread in reactor.threads]}" for reactor in group))
