"""What to do when a ring is full: four answers, each against a receiver that is slower than its sender."""

import threading
import time

from spdkthread import Reactor, RingFullError

RING_SIZE = 64
MESSAGES = 1_000


def work(number: int) -> None:
    """Some 200 us: the sender is faster."""
    time.sleep(150e-6)


def drain() -> None:
    """Wait until the receiver has run everything, so that the next answer begins with an empty ring."""
    receiver.send_msg_wait(drained.set)
    drained.wait()
    drained.clear()


drained = threading.Event()
with Reactor() as receiving, Reactor() as sending:
    receiver = receiving.create_thread("receiver", ring_size=RING_SIZE)

    # 1. An error, and nothing was sent: the caller decides.
    sent = 0
    try:
        while True:
            receiver.send_msg(work, sent)
            sent += 1
    except RingFullError as error:
        print(f"send_msg: {sent} sent, then: {error}")
    drain()

    # 2. A bool: drop what is out of date anyway, such as a price or a position, and know how much.
    dropped = 0
    for number in range(MESSAGES):
        dropped += not receiver.try_send_msg(work, number)
        time.sleep(50e-6)  # prices do not come as fast as a loop turns
    print(f"try_send_msg: {MESSAGES - dropped} of {MESSAGES} sent, {dropped} dropped")
    drain()

    # 3. On an ordinary OS thread: wait for room. (A reactor must not wait; it has others to serve.)
    begin = time.perf_counter()
    for number in range(MESSAGES):
        receiver.send_msg_wait(work, number, timeout_s=10)
    print(f"send_msg_wait: all {MESSAGES} sent in {time.perf_counter() - begin:.3f} s")
    drain()

    # 4. On a reactor: keep the rest, and go on from a poller when there is room.
    begin = time.perf_counter()
    rest = list(range(MESSAGES))
    done = threading.Event()

    def send_some() -> None:
        del rest[: receiver.send_many(work, rest)]
        if not rest:
            done.set()

    poller = sending.create_thread("sender").register_poller(send_some, period_us=100)
    done.wait()
    poller.unregister()
    print(f"send_many from a poller: all {MESSAGES} sent in {time.perf_counter() - begin:.3f} s")

stats = receiver.stats
print(f"the most that ever waited: {stats.high_water} of {receiver.ring_size}; refused in all: {stats.ring_full}")
