"""One library on a simulated clock against a model of it in plain Python, step by step.

The model keeps lists where the library has rings, wheels and linked lists, and says which callbacks a poll runs, in
which order, and what it returns. Callbacks act themselves: they send, register, pause, unregister, exit and raise.
"""

import heapq
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import finish

from spdkthread import RingFullError, ThreadExitedError, ThreadLib
from spdkthread.testing import ManualClock

THREADS = 3
POLLERS = 5


class ModelPoller:
    def __init__(self, thread, key, period, action, result):
        self.thread, self.key, self.period, self.action, self.result = thread, key, period, action, result
        self.state = "waiting"
        self.deadline = 0
        self.registered = False
        self.wanted = None


class ModelThread:
    def __init__(self, world, index, capacity, policy):
        self.world, self.index, self.capacity, self.policy = world, index, capacity, policy
        self.state = "running"
        self.ring, self.overflow, self.batch, self.critical = [], [], [], None
        self.active, self.timers, self.pollers = [], [], []
        self.holds = 0
        self.exit_asked = False
        self.running = None
        self.came = None  # active pollers that came onto the list during the stage

    @property
    def pending(self):
        return len(self.ring) + len(self.overflow) + len(self.batch) + (self.critical is not None)

    def send(self, call):
        """A user's message: whether it was taken."""
        if self.state == "exited":
            return "exited"
        if self.overflow or len(self.ring) >= self.capacity:
            return "full"
        self.ring.append(call)
        return "sent"

    def send_library(self, call):
        if self.state == "exited":
            return "exited"
        (self.overflow if self.overflow or len(self.ring) >= self.capacity else self.ring).append(call)
        return "sent"

    def request(self, kind, poller):
        """From elsewhere: beside a full ring there waits one request of each poller, the last one."""
        if self.state == "exited":
            return
        if not self.overflow and len(self.ring) < self.capacity:
            self.ring.append(lambda: getattr(self, kind)(poller))
        elif poller.wanted is None:
            poller.wanted = kind
            self.overflow.append(lambda: self.do_wanted(poller))
        elif poller.wanted != "unregister":
            poller.wanted = kind

    def do_wanted(self, poller):
        kind, poller.wanted = poller.wanted, None
        getattr(self, kind)(poller)

    # Pollers, on the thread

    def add(self, poller):
        if poller.state == "unregistered":
            return
        self.pollers.append(poller)
        poller.registered = True
        if poller.state == "paused":
            return
        self.arm(poller) if poller.period else self.append(poller)

    def append(self, poller):
        self.active.append(poller)
        if self.came is not None:
            self.came.append(poller)

    def arm(self, poller, now=None):
        self.queue(poller, (self.world.now if now is None else now) + poller.period)

    def queue(self, poller, deadline):
        poller.deadline = deadline
        heapq.heappush(self.timers, (deadline, next(self.world.order), poller))

    def dequeue(self, poller):
        before = len(self.timers)
        self.timers = [entry for entry in self.timers if entry[2] is not poller]
        heapq.heapify(self.timers)
        return len(self.timers) < before

    def pause(self, poller):
        if poller.state in ("waiting", "running"):
            if poller.state == "waiting":
                self.dequeue(poller)
            poller.state = "paused"

    def resume(self, poller):
        if poller.state != "paused":
            return
        if self.running is poller:
            poller.state = "running"
            return
        poller.state = "waiting"
        if not poller.registered:
            return
        if not poller.period:
            if poller not in self.active:
                self.append(poller)
        elif poller.deadline > self.world.now:
            self.queue(poller, poller.deadline)
        else:
            self.arm(poller)

    def unregister(self, poller):
        if poller.state == "unregistered":
            return
        poller.state = "unregistered"
        if poller in self.active:
            self.active.remove(poller)
        self.dequeue(poller)
        if self.running is not poller and poller.registered:
            self.forget(poller)

    def forget(self, poller):
        self.pollers.remove(poller)
        poller.registered = False

    # Polling

    def poll(self, limit):
        if self.state == "exited":
            return 0
        limit = min(limit or 8, 8)
        self.rc = 0
        if not self.batch:
            self.batch, self.ring = self.ring[:limit], self.ring[limit:]
            room = limit - len(self.batch)
            self.batch += self.overflow[:room]
            self.overflow = self.overflow[room:]
        outer, self.world.current = self.world.current, self
        try:
            if self.critical is not None:
                call, self.critical = self.critical, None
                self.rc = 1
                call()
            while self.batch:
                call = self.batch.pop(0)
                self.rc = 1
                call()
            self.came = []
            self.run_active()
            self.came = None
            self.run_timed()
        except Stop:
            self.came = None
            return "stopped"
        finally:
            self.world.current = outer
        if self.state == "exiting" and not (self.pollers or self.holds or self.pending):
            self.state = "exited"
        return self.rc

    def run_active(self):
        for poller in list(self.active):
            if poller not in self.active or poller in self.came:
                continue
            if poller.state == "paused":
                self.active.remove(poller)
                continue
            if self.policy == "one":
                self.active.remove(poller)
            self.run(poller, lambda poller: poller in self.active or self.append(poller))
            if self.policy == "one":
                break

    def run_timed(self):
        now = self.world.now
        while self.timers and self.timers[0][0] <= now:
            poller = heapq.heappop(self.timers)[2]
            self.run(poller, lambda poller: self.arm(poller, now))
            if self.policy == "one":
                break

    def run(self, poller, back):
        poller.state = "running"
        self.running = poller
        try:
            self.world.log.append(("poller", poller.key))
            self.world.act(poller.action, self.world)
            self.rc = max(self.rc, poller.result)
        except Failure:
            self.world.errors += 1
        finally:
            self.running = None
            if poller.state == "unregistered":
                self.forget(poller)
            elif poller.state == "running":
                poller.state = "waiting"
                back(poller)


class Failure(ValueError):
    """What a callback raises."""


class Stop(KeyboardInterrupt):
    """What ends a poll."""


class World:
    """What both sides have: the threads and pollers by number, and a log of what ran."""

    def __init__(self, act):
        self.act = act
        self.threads, self.pollers = [], {}
        self.log = []
        self.errors = 0
        self.current = None
        self.now = 0
        self.order = count()


def model_act(action, world):
    kind, *rest = action
    if kind == "nothing":
        return
    if kind == "raise":
        raise Failure
    if kind == "stop":
        raise Stop
    if kind == "for_each":
        if world.current is None:
            return
        origin = world.current
        origin.holds += 1
        model_go_on(world, origin, -1, rest[0])
        return
    number, *rest = rest
    if kind in ("pause", "resume", "unregister"):
        poller = world.pollers.get(number)
        if poller is None:
            return
        thread = poller.thread
        if world.current is thread:
            getattr(thread, kind)(poller)
        elif poller.state != "unregistered":
            thread.request(kind, poller)
        return
    thread = world.threads[number % THREADS]
    if kind == "exit":
        if world.current is thread:
            if thread.state == "running":
                thread.state = "exiting"
        elif thread.state == "running" and not thread.exit_asked:
            thread.exit_asked = True
            thread.send_library(lambda: model_exit(thread))
    elif kind in ("send", "critical"):
        key, inner = rest

        def call():
            world.log.append((kind, key))
            try:
                world.act(inner, world)
            except Failure:
                world.errors += 1

        if kind == "send":
            world.log.append((thread.send(call), key))
        elif thread.state == "exited":
            world.log.append(("exited", key))
        elif thread.critical is not None:
            world.log.append(("full", key))
        else:
            thread.critical = call
    elif kind == "register":
        key, period, inner, result = rest
        if thread.state == "exited":
            world.log.append(("exited", key))
            return
        poller = world.pollers[key] = ModelPoller(thread, key, period, inner, result)
        if world.current is thread:
            thread.add(poller)
        else:
            thread.send_library(lambda: thread.add(poller))


def model_exit(thread):
    if thread.state == "running":
        thread.state = "exiting"


def model_go_on(world, origin, after, key):
    for index in range(after + 1, THREADS):
        thread = world.threads[index]
        if thread.state == "running":

            def visit(index=index):
                world.log.append(("visit", key, index))
                model_go_on(world, origin, index, key)

            thread.send_library(visit)
            return

    def complete():
        origin.holds -= 1
        world.log.append(("complete", key))

    origin.send_library(complete)


class RealWorld(World):
    def __init__(self, act):
        super().__init__(act)
        self.clock = ManualClock()
        self.reported = []
        self.lib = ThreadLib(clock=self.clock, exception_handler=self.reported.append)


def real_act(action, world):
    kind, *rest = action
    if kind == "nothing":
        return
    if kind == "raise":
        raise Failure
    if kind == "stop":
        raise Stop
    if kind == "for_each":
        from spdkthread import get_thread

        if get_thread() is None:
            return
        key = rest[0]
        world.lib.for_each_thread(
            lambda: world.log.append(("visit", key, world.threads.index(get_thread()))),
            lambda: world.log.append(("complete", key)),
        )
        return
    number, *rest = rest
    if kind in ("pause", "resume", "unregister"):
        if number in world.pollers:
            getattr(world.pollers[number], kind)()
        return
    thread = world.threads[number % THREADS]
    if kind == "exit":
        thread.exit()
    elif kind in ("send", "critical"):
        key, inner = rest

        def call():
            world.log.append((kind, key))
            world.act(inner, world)

        try:
            if kind == "send":
                thread.send_msg(call)
                world.log.append(("sent", key))
            else:
                thread.send_critical_msg(call)
        except RingFullError:
            world.log.append(("full", key))
        except ThreadExitedError:
            world.log.append(("exited", key))
    elif kind == "register":
        key, period, inner, result = rest

        def fn():
            world.log.append(("poller", key))
            world.act(inner, world)
            return result

        try:
            world.pollers[key] = thread.register_poller(fn, period / 1000)
        except ThreadExitedError:
            world.log.append(("exited", key))


KEYS = st.integers(0, POLLERS - 1)
NUMBERS = st.integers(0, THREADS - 1)
SIMPLE = st.one_of(
    st.just(("nothing",)),
    st.just(("nothing",)),
    st.sampled_from([("raise",), ("stop",)]),
    st.tuples(st.sampled_from(["pause", "resume", "unregister"]), KEYS),
    st.tuples(st.just("exit"), NUMBERS),
)
ACTIONS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.tuples(st.just("send"), NUMBERS, st.integers(100, 199), inner),
        st.tuples(st.just("critical"), NUMBERS, st.integers(200, 299), inner),
        st.tuples(
            st.just("register"), NUMBERS, KEYS, st.sampled_from([0, 0, 1, 2, 5, 64, 5000]), inner, st.integers(-1, 3)
        ),
        st.tuples(st.just("for_each"), st.integers(300, 399)),
    ),
    max_leaves=4,
)


class Library(RuleBasedStateMachine):
    @initialize(
        capacities=st.tuples(*[st.sampled_from([1, 2, 4, 16])] * THREADS), policy=st.sampled_from(["one", "all"])
    )
    def build(self, capacities, policy):
        self.model, self.real = World(model_act), RealWorld(real_act)
        for index, capacity in enumerate(capacities):
            self.model.threads.append(ModelThread(self.model, index, capacity, policy))
            self.real.threads.append(self.real.lib.create_thread(str(index), ring_size=capacity, poller_policy=policy))

    @rule(action=ACTIONS)
    def from_outside(self, action):
        if action[0] not in ("raise", "stop", "for_each"):
            model_act(action, self.model)
            real_act(action, self.real)

    @rule(number=NUMBERS, action=ACTIONS)
    def on_the_thread(self, number, action):
        if action[0] in ("raise", "stop"):
            return
        if self.model.threads[number].state == "exited":
            return
        self.model.current = self.model.threads[number]
        model_act(action, self.model)
        self.model.current = None
        with self.real.threads[number]:
            real_act(action, self.real)

    @rule(number=NUMBERS, limit=st.integers(0, 9))
    def poll(self, number, limit):
        expected = self.model.threads[number].poll(limit)
        try:
            got = self.real.threads[number].poll(limit)
        except Stop:
            got = "stopped"
        assert got == expected

    @rule(rounds=st.integers(1, 5))
    def poll_all(self, rounds):
        for _ in range(rounds):
            for number in range(THREADS):
                self.poll(number, 0)

    @rule(step=st.sampled_from([0, 1, 2, 3, 63, 64, 5000, 10**9]))
    def advance(self, step):
        self.model.now += step
        self.real.clock.advance(ticks=step)

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def the_same_happened(self):
        model, real = self.model, self.real
        assert real.log == model.log
        assert len(real.reported) == model.errors
        for index in range(THREADS):
            ours, theirs = model.threads[index], real.threads[index]
            assert theirs.state == ours.state
            assert theirs.pending_msgs == ours.pending
            assert len(theirs.pollers) == len(ours.pollers)
            assert theirs.next_poller_expiration == (ours.timers[0][0] if ours.timers else None)
            assert theirs.has_active_pollers == any(one.state == "waiting" for one in ours.active)
        for key, poller in real.pollers.items():
            assert poller.state == model.pollers[key].state

    def teardown(self):
        if not hasattr(self, "real"):
            return
        self.real.act = self.model.act = lambda action, world: None
        left = [thread for thread in self.real.threads if not thread.is_exited]
        finish(*left)
        self.real.lib.close()


TestLibrary = Library.TestCase
TestLibrary.settings = settings(stateful_step_count=40)
pytestmark = [pytest.mark.state_machine, pytest.mark.filterwarnings("ignore")]
