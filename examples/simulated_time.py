"""Testing with simulated time: a watchdog of 30 seconds is tested in no time, and the same way each time."""

from collections.abc import Callable

from spdkthread import SpdkThread, ThreadLib
from spdkthread.testing import ManualClock, poll_until_idle


class Watchdog:
    """Calls `alarm` once when `feed` has not been called for 30 s."""

    TIMEOUT_S = 30

    def __init__(self, thread: SpdkThread, alarm: Callable[[], object]) -> None:
        self.thread, self.alarm = thread, alarm
        self.poller = thread.register_poller(self.expire, self.TIMEOUT_S * 1_000_000)

    def feed(self) -> None:
        self.poller.unregister()
        self.poller = self.thread.register_poller(self.expire, self.TIMEOUT_S * 1_000_000)

    def expire(self) -> None:
        self.poller.unregister()
        self.alarm()


clock = ManualClock()  # moves only when it is told to
lib = ThreadLib(clock=clock)  # and everything in this library reads it
thread = lib.create_thread("test")  # on no reactor: ours to drive
alarms: list[int] = []

with thread:  # now it is the current one, and what belongs on it acts at once
    watchdog = Watchdog(thread, lambda: alarms.append(clock.now))

for _ in range(10):
    clock.advance(us=29_999_999)
    thread.poll()
    thread.send_msg(watchdog.feed)
    poll_until_idle([thread])
assert not alarms, "it was fed in time, each time"

clock.advance(us=29_999_999.999)
thread.poll()
assert not alarms, "one nanosecond before its time"

clock.advance(ticks=1)
thread.poll()
assert alarms == [clock.now], "now"

clock.advance(us=3_600_000_000)
thread.poll()
assert len(alarms) == 1, "once, and not again an hour later"

with thread:
    thread.exit()
thread.poll()
lib.close()  # would name every thread and device that is still there
print(f"{clock.now / 1e9:,.1f} s of simulated time, tested")
