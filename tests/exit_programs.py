"""Programs that end while reactors are at work; for the tests and for `verify/exits.py`."""

PRELUDE = """
import atexit, os, sys, threading, time
import spdkthread
from spdkthread import Reactor, ReactorGroup
"""

PROGRAMS = {
    "idle": "reactor = Reactor().start()",
    "never started": "reactor = Reactor(); reactor.create_thread().send_msg(print, 'never')",
    "sleeping": """
reactor = Reactor(spin_us=0).start()
reactor.create_thread()
while not reactor.stats.parks:
    time.sleep(0.001)
""",
    "polling": "reactor = Reactor(idle='poll').start(); reactor.create_thread()",
    "yielding": "reactor = Reactor(idle='yield').start(); reactor.create_thread()",
    "nothing refers to it": "Reactor().start().create_thread().send_msg(abs, -1)",
    "busy poller": """
reactor = Reactor().start()
poller = reactor.create_thread().register_poller(lambda: 1)
while poller.run_count < 100:
    time.sleep(0.001)
""",
    "timers": "Reactor().start().create_thread().register_poller(lambda: 1, 10)",
    "messages that send themselves again": """
reactor = Reactor().start()
thread = reactor.create_thread()
left = [20_000]
def again():
    if left[0]:
        left[0] -= 1
        thread.send_msg(again)
again()
""",
    "two that talk to each other": """
threads = [Reactor().start().create_thread() for _ in range(2)]
def hop(here, there, left):
    if left:
        there.send_msg(hop, there, here, left - 1)
for here, there in (threads, threads[::-1]):
    here.send_msg(hop, here, there, 5_000)
""",
    "a group with a scheduler and watchdogs": """
group = ReactorGroup(scheduler="dynamic", period_us=1000, stall_ms=1000).start()
pollers = [group.create_thread().register_poller(lambda: 1) for _ in range(3)]
while any(poller.run_count < 100 for poller in pollers):
    time.sleep(0.001)
""",
    "a sender that never ends": """
thread = Reactor().start().create_thread(ring_size=64)
def flood():
    while True:
        try:
            thread.try_send_msg(abs, -1)
        except spdkthread.SpdkThreadError:
            return
threading.Thread(target=flood, daemon=True).start()
time.sleep(0.01)
""",
    "sys.exit": "Reactor().start().create_thread().register_poller(lambda: 1); sys.exit(0)",
    "inside a with block": """
with Reactor() as reactor:
    reactor.create_thread().send_msg(abs, -1)
    sys.exit(0)
""",
    "file descriptors": """
ear, mouth = os.pipe()
thread = Reactor().start().create_thread()
handler = thread.register_fd(ear, lambda: None)
os.write(mouth, b"x")
""",
    "a future without a waiter": """
thread = Reactor().start().create_thread()
futures = [thread.call(time.sleep, 0.0001) for _ in range(50)]
""",
    "a stop in an atexit hook": """
reactor = Reactor().start()
reactor.create_thread().register_poller(lambda: 1)
atexit.register(reactor.stop)
""",
    "a thread that is waited for at exit": """
reactor = Reactor().start()
thread = reactor.create_thread()
def work():
    time.sleep(0.05)
    assert thread.call(abs, -1).result(60) == 1
threading.Thread(target=work).start()
""",
    "a cycle that holds everything": """
class Node: pass
node = Node()
node.node = node
node.reactor = Reactor().start()
node.thread = node.reactor.create_thread()
node.thread.register_poller(lambda node=node: 1)
del node
""",
    "an idle object": """
class Nap:
    def idle(self, work_count): time.sleep(0.0001)
    def reset(self): pass
Reactor(idle=Nap()).start().create_thread().send_msg(abs, -1)
""",
}
