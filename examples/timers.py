"""Timed pollers with different periods on one thread: how late each run is, and how far the whole schedule drifts.

A timed poller is armed again when it has run, so a late run moves all later ones: no burst follows a pause, and in the
long run there are fewer runs than the clock has periods. So two things are measured: each interval, and the last run
against a schedule that does not move, start + n periods. An OS thread that sleeps for a period at a time is measured in
the same way, for comparison.
"""

import threading
import time
from itertools import pairwise

from spdkthread import Poller, Reactor, SpdkThread, ticks

PERIODS_US = (200, 1_000, 3_333.3, 50_000)
SECONDS = 1.0


class Beats:
    """When something ran that should run once per period."""

    def __init__(self, name: str, period_us: float) -> None:
        self.name, self.period = name, period_us * 1000
        self.start = ticks()
        self.seen: list[int] = []

    def beat(self) -> bool:
        self.seen.append(ticks())
        return True  # there was work: the reactor counts this time as busy

    def show(self) -> None:
        """Print by how much intervals exceed the period, and how far the last run is from its place."""
        times = [self.start, *self.seen]
        excess = sorted((b - a - self.period) / 1000 for a, b in pairwise(times))
        drift = (self.seen[-1] - self.start - len(self.seen) * self.period) / 1000
        runs = f"{self.name:28} {len(self.seen):5} of {int(SECONDS * 1e9 / self.period):5} runs"
        longer = f"an interval is too long by {excess[len(excess) // 2]:6.1f} us, at worst {excess[-1]:8.1f}"
        print(f"{runs}; {longer}; the last run is {drift:9.1f} us late")


def register(thread: SpdkThread, period_us: float) -> tuple[Beats, Poller]:
    beats = Beats(f"poller, every {period_us:g} us", period_us)
    return beats, thread.register_poller(beats.beat, period_us, name=beats.name)


def sleep_and_beat(beats: Beats, over: threading.Event) -> None:
    while not over.is_set():
        time.sleep(beats.period / 1e9)
        beats.beat()


with Reactor(idle="adaptive") as reactor:  # sleeps between two timers
    thread = reactor.create_thread("timers", poller_policy="all")
    running = [thread.call(register, thread, period_us).result() for period_us in PERIODS_US]
    time.sleep(SECONDS)
    for _, poller in running:
        poller.unregister()

over = threading.Event()
sleeping = Beats("time.sleep, every 1000 us", 1_000)
sleeper = threading.Thread(target=sleep_and_beat, args=(sleeping, over))
sleeper.start()
time.sleep(SECONDS)
over.set()
sleeper.join()

for beats, poller in running:
    beats.show()
    if poller.overrun_count:
        print(f"{'':28} {poller.overrun_count} whole periods were missed")
sleeping.show()
stats = reactor.stats
print(f"the reactor slept {stats.parks} times and was busy for {stats.busy_ticks / 1e9:.3f} s")
