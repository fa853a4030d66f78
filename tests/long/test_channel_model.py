"""Channels against a model: any order of gets, references, puts, polls, registrations and iterations."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spdkthread import DeviceError, IoDevice, ThreadLib
from spdkthread.testing import ManualClock

pytestmark = pytest.mark.state_machine

THREADS = st.integers(0, 2)
DEVICES = st.integers(0, 1)


class Slot:
    """What one thread has of one device."""

    def __init__(self):
        self.channel = None
        self.refs = 0
        self.expiries = 0


class Channels(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.lib = ThreadLib(clock=ManualClock())
        self.threads = [self.lib.create_thread(name, ring_size=2) for name in "abc"]
        self.made, self.destroyed, self.ended = [], [], []
        self.devices = [
            IoDevice(f"d{n}", create_channel=self.made.append, destroy_channel=self.destroyed.append, lib=self.lib)
            for n in range(2)
        ]
        self.state = ["unregistered", "unregistered"]
        self.slots = {(t, d): Slot() for t in range(3) for d in range(2)}
        self.queues = [[], [], []]  # of what waits in the ring of each thread

    @rule(d=DEVICES)
    def register(self, d):
        if self.state[d] == "unregistered":
            self.devices[d].register()
            self.state[d] = "registered"
        else:
            refused(self.devices[d].register)

    @rule(t=THREADS, d=DEVICES)
    def unregister(self, t, d):
        with self.threads[t]:
            if self.state[d] != "registered":
                refused(self.devices[d].unregister)
                return
            self.devices[d].unregister(self.ended.append)
        self.state[d] = ("unregistering", t)
        self.maybe_end(d)

    def maybe_end(self, d):
        if isinstance(self.state[d], tuple) and not any(self.slots[t, d].channel for t in range(3)):
            self.queues[self.state[d][1]].append(("ended", d))
            self.state[d] = "unregistered"

    @rule(t=THREADS, d=DEVICES)
    def get(self, t, d):
        slot = self.slots[t, d]
        with self.threads[t]:
            if self.state[d] != "registered":
                refused(self.devices[d].get_io_channel)
                return
            channel = self.devices[d].get_io_channel()
        if slot.channel is None:
            assert self.made[-1] is channel
            slot.channel = channel
        assert channel is slot.channel
        slot.refs += 1

    @rule(t=THREADS, d=DEVICES, what=st.sampled_from(["ref", "put"]))
    def count(self, t, d, what):
        slot = self.slots[t, d]
        if slot.channel is None:
            return
        call = getattr(slot.channel, what)
        with self.threads[t]:
            if slot.refs == 0:
                refused(call)
                return
            call()
        slot.refs += 1 if what == "ref" else -1
        if slot.refs == 0:
            slot.expiries += 1
            self.queues[t].append(("expire", d))

    @precondition(lambda self: any(self.queues))
    @rule(t=THREADS)
    def poll(self, t):
        self.threads[t].poll(max_msgs=1)
        if not self.queues[t]:
            return
        what, d = self.queues[t].pop(0)
        if what == "ended":
            assert self.ended.pop() is self.devices[d]
            return
        slot = self.slots[t, d]
        slot.expiries -= 1
        if slot.refs == 0 and slot.expiries == 0:
            assert self.destroyed.pop() is slot.channel
            self.slots[t, d] = Slot()
            self.maybe_end(d)

    @rule(d=DEVICES)
    def iterate(self, d):
        """From the outset to the end, on threads that run what waits for them before."""
        if self.state[d] != "registered":
            return
        visited = []
        janitor = self.lib.create_thread()
        with janitor:
            future = self.devices[d].for_each_channel(lambda it: visited.append(it.channel))
        while not future.done():
            for t in range(3):
                while self.queues[t]:
                    self.poll(t)
                self.threads[t].poll()
            janitor.poll()
        assert visited == [self.slots[t, d].channel for t in range(3) if self.slots[t, d].channel]
        with janitor:
            janitor.exit()
        janitor.poll()

    @invariant()
    def they_agree(self):
        for d in range(2):
            device, channels = self.devices[d], [self.slots[t, d].channel for t in range(3)]
            assert device.channels == tuple(channel for channel in channels if channel)
            assert device.channels_count == len(device.channels)
            assert device.state == (self.state[d] if isinstance(self.state[d], str) else self.state[d][0])
        for t in range(3):
            slots = [self.slots[t, d] for d in range(2)]
            assert set(self.threads[t].io_channels) == {slot.channel for slot in slots if slot.channel}
            assert [s.channel.ref_count for s in slots if s.channel] == [s.refs for s in slots if s.channel]
            assert self.threads[t].pending_msgs == len(self.queues[t])
        assert self.destroyed == []
        assert self.ended == []

    def teardown(self):
        for (t, _), slot in self.slots.items():
            with self.threads[t]:
                while slot.channel and slot.channel.ref_count:
                    slot.channel.put()
        with self.threads[0]:
            for device in self.devices:
                if device.is_registered:
                    device.unregister()
        for thread in self.threads:
            with thread:
                thread.exit()
        for _ in range(500):
            for thread in self.threads:
                thread.poll()
        self.lib.close()


def refused(call):
    try:
        call()
    except DeviceError:
        return
    raise AssertionError(f"{call} was not refused")


TestChannels = Channels.TestCase
TestChannels.settings = settings(max_examples=60, stateful_step_count=60)
