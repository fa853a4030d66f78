"""Timed pollers with different periods on one thread: how punctual they are."""

import time

from spdkthread import Poller, Reactor, SpdkThread, ticks

PERIODS_US = (200, 1_000, 3_333.3, 50_000)
SECONDS = 1.0


class Metronome:
    """A poller that keeps account of how late it was called."""

    def __init__(self, thread: SpdkThread, period_us: float):
        self.late_ticks: list[int] = []
        self.poller: Poller = thread.register_poller(self.beat, period_us, name=f"every {period_us:g} us")
        self.due = 0

    def beat(self) -> bool:
        now = ticks()
        if self.due:
            self.late_ticks.append(now - self.due)
        self.due = now + self.poller.period_ticks  # the next run is one period after this one
        return True  # there was work: the reactor counts this time as busy

    def show(self) -> None:
        late = sorted(self.late_ticks)
        median, worst = late[len(late) // 2] / 1000, late[-1] / 1000
        print(
            f"{self.poller.name:16} ran {self.poller.run_count:5} times, late by {median:6.1f} us, at worst "
            f"{worst:8.1f} us; {self.poller.overrun_count} periods skipped"
        )


with Reactor(idle="adaptive") as reactor:  # sleeps between two timers
    thread = reactor.create_thread("timers", poller_policy="all")
    metronomes = [Metronome(thread, period_us) for period_us in PERIODS_US]
    time.sleep(SECONDS)
    next_one = thread.next_poller_expiration
    for metronome in metronomes:
        metronome.poller.unregister()

for metronome in metronomes:
    metronome.show()
if next_one is not None:
    print(f"at the end the next deadline was tick {next_one}; ticks are those of time.perf_counter_ns()")
stats = reactor.stats
print(f"the reactor slept {stats.parks} times and was busy for {stats.busy_ticks / 1e9:.3f} s")
