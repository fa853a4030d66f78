"""The memory of a ring follows its use. Resident memory is asked of the kernel, so no sanitizer may be in between."""

import pytest
from support import run_python

PASSED_THROUGH = """
import resource, sys, time
from spdkthread import Reactor, ThreadLib

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

lib = ThreadLib()
reactor = Reactor(lib=lib, idle=sys.argv[1], pin=False).start()
threads = [reactor.create_thread(ring_size=65_536) for _ in range(4)]
before = resident()
count = [0]

def message():
    count[0] += 1

for _ in range(65_536 // 8):
    for thread in threads:
        thread.send_many(lambda _: None, range(8))
    threads[-1].call(message).result(60)
used = resident() - before
assert used > 4 * (2 << 20), used           # 4 MiB a ring
give_up = time.monotonic() + 40
while resident() - before > used // 8:
    assert time.monotonic() < give_up, (used, resident() - before)
    time.sleep(0.05)
# And they work as before: a lap and more, also while memory is given back.
for thread in threads:
    for number in range(70_000):
        thread.send_msg_wait(message)
for thread in threads:
    thread.call(int).result(60)
assert count[0] == 65_536 // 8 + 4 * 70_000, count
assert reactor.stop(60).ok
print("OK")
"""


@pytest.mark.no_tsan(reason="its own memory is resident too, and grows with the memory that it watches")
@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
def test_the_memory_of_messages_that_have_passed_through_is_given_back_when_the_reactor_is_idle(idle):
    done = run_python(PASSED_THROUGH.replace("sys.argv[1]", repr(idle)))
    assert (done.returncode, done.stdout) == (0, "OK\n"), done.stdout + done.stderr
