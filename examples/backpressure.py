"""What to do when a ring is full: four answers, against a receiver that is slower than its sender."""

import threading
import time

from spdkthread import Reactor, RingFullError

RING_SIZE = 64
MESSAGES = 2_000


def work(number):
    """Some 20 us of work: the sender is faster."""
    time.sleep(20e-6)


with Reactor() as receiving, Reactor() as sending:
    receiver = receiving.create_thread("receiver", ring_size=RING_SIZE)

    # 1. An error, and nothing was sent: let the loss be somebody's decision.
    sent = 0
    try:
        while True:
            receiver.send_msg(work, sent)
            sent += 1
    except RingFullError as error:
        print(f"send_msg: {sent} sent, then: {error}")

    # 2. A bool: drop what is out of date anyway, such as a price or a position, and know how much.
    dropped = sum(not receiver.try_send_msg(work, number) for number in range(MESSAGES))
    print(f"try_send_msg: {dropped} of {MESSAGES} dropped; the ring has refused {receiver.stats.ring_full} in all")

    # 3. On an ordinary OS thread: wait for room. (A reactor must not wait; it has others to serve.)
    begin = time.perf_counter()
    for number in range(MESSAGES):
        receiver.send_msg_wait(work, number, timeout_s=10)
    print(f"send_msg_wait: all {MESSAGES} sent in {time.perf_counter() - begin:.3f} s")

    # 4. On a reactor: keep the rest, and go on from a poller when there is room.
    begin = time.perf_counter()
    rest = list(range(MESSAGES))
    done = threading.Event()

    def send_some():
        del rest[: receiver.send_many(work, rest)]
        if not rest:
            done.set()

    poller = sending.create_thread("sender").register_poller(send_some, period_us=100)
    done.wait()
    poller.unregister()
    print(f"send_many from a poller: all {MESSAGES} sent in {time.perf_counter() - begin:.3f} s")

print(f"the most that ever waited: {receiver.stats.high_water} of {receiver.ring_size}; run: {receiver.stats.msgs_run}")
