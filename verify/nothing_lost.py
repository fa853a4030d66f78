"""Messages under load: each sender's order and count checked, stops and moves and full rings on the way.

python -m verify.nothing_lost --seconds 30 --seed 1 [--part ring|native|python|stop]
"""

import argparse
import json
import logging
import os
import random
import sys
import threading
import time

from spdkthread import Reactor, RingFullError, ThreadExitedError, ThreadLib
from verify import native

PATIENCE_S = 120


def start(*bodies):
    threads = [threading.Thread(target=body, daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a sender is stuck"


def fitting(each, capacity):
    """A ring of one slot is a thousand times slower than a large one, and no less interesting."""
    return max(1000, each // 50 if capacity == 1 else each // 5 if capacity <= 8 else 40 * each)


def two_reactors(lib, choose):
    """Two that sleep and wake; on the same core where there is one."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return [
        Reactor(
            cores[n % len(cores)], name=f"r{n}", idle="adaptive", spin_us=choose.choice([0, 1, 50]), lib=lib
        ).start()
        for n in range(2)
    ]


def move_until_sent(thread, reactors, senders, choose, figures, pause_s):
    """Move `thread` there and back again while its senders send, with pauses of at most `pause_s`."""
    here = 0
    while any(one.is_alive() for one in senders):
        if choose.random() < 0.5:
            reactors[here].move_thread(thread, reactors[1 - here]).result(PATIENCE_S)
            here = 1 - here
            figures["moves"] += 1
        time.sleep(choose.random() * pause_s)
    join(senders)


def ring(end, choose, figures):
    """The ring by itself: native senders that claim one or many slots, a receiver with batches of any size."""
    while time.monotonic() < end:
        senders = choose.choice([1, 2, 3, 8])
        capacity = choose.choice([1, 2, 8, 64, 4096])
        each = fitting(figures["each"], capacity)
        one = native.Ring(capacity)
        at_once = [choose.choice([1, capacity, max(1, capacity // 3)]) for _ in range(senders)]
        threads = start(*[lambda n=n: one.send(n, each, at_once[n]) for n in range(senders)])
        received, wrong = one.receive(senders * each, choose.choice([1, 8, 64]))
        join(threads)
        assert (received, wrong) == (senders * each, 0), (received, wrong, senders)
        figures["ring messages"] += received


def natively(end, choose, figures):
    """Native messages to a thread that moves between two reactors, which sleep when they can."""
    logging.disable(logging.ERROR)
    while time.monotonic() < end:
        lib = ThreadLib()
        reactors = two_reactors(lib, choose)
        capacity = choose.choice([1, 8, 256, 65_536])
        thread = reactors[0].create_thread(ring_size=capacity)
        senders, each = choose.choice([1, 2, 4, 8]), fitting(figures["each"], capacity) // 4
        tally = 1
        native.reset(tally)
        counts = [0] * senders

        def send(n, thread=thread, counts=counts, each=each, tally=tally):
            pieces = random.Random(n)
            native.send(thread, tally, n, each)
            counts[n] = each
            time.sleep(pieces.random() / 1000)

        threads = start(*[lambda n=n: send(n) for n in range(senders)])
        move_until_sent(thread, reactors, threads, choose, figures, pause_s=1 / 500)
        reports = [reactor.stop(PATIENCE_S) for reactor in reactors]
        assert all(report.ok for report in reports), reports
        received, wrong, per_sender = native.arrived(tally)
        assert (received, wrong) == (senders * each, 0), (received, wrong, senders, each)
        assert per_sender[:senders] == [each] * senders
        assert thread.is_exited
        figures["native messages"] += received
        lib.close()


def python(end, choose, figures):
    """Python messages in every form, from several OS threads, to a thread that moves."""
    while time.monotonic() < end:
        lib = ThreadLib()
        reactors = two_reactors(lib, choose)
        capacity = choose.choice([1, 4, 64, 65_536])
        thread = reactors[0].create_thread(ring_size=capacity)
        senders, each = choose.choice([1, 2, 4, 8]), max(200, fitting(figures["each"], capacity) // 200)
        seen = [[] for _ in range(senders)]
        waited = [0]

        def send(n, thread=thread, seen=seen, each=each, waited=waited):
            mine, number, wait = seen[n].append, 0, random.Random(n)
            while number < each:
                how = wait.randrange(4)
                if how == 0:
                    number += thread.try_send_msg(mine, number)
                elif how == 1:
                    items = list(range(number, min(each, number + wait.randrange(300))))
                    number += thread.send_many(mine, items)
                elif how == 2:
                    thread.send_msg_wait(mine, number)
                    number += 1
                else:
                    try:
                        thread.send_msg(lambda *args: mine(args[0]), number, 1, 2, 3, 4, 5)
                        number += 1
                    except RingFullError:
                        waited[0] += 1
                        time.sleep(0)

        threads = start(*[lambda n=n: send(n) for n in range(senders)])
        move_until_sent(thread, reactors, threads, choose, figures, pause_s=1 / 200)
        reports = [reactor.stop(PATIENCE_S) for reactor in reactors]
        assert all(report.ok for report in reports), reports
        assert seen == [list(range(each))] * senders
        figures["python messages"] += senders * each
        lib.close()


def stop(end, choose, figures):
    """Stop under load: what was accepted has run or stands in the report."""
    while time.monotonic() < end or figures["stops"] < figures["stops wanted"]:
        lib = ThreadLib()
        reactor = Reactor(idle=choose.choice(["adaptive", "yield"]), spin_us=choose.choice([0, 20]), lib=lib).start()
        targets = [reactor.create_thread(ring_size=choose.choice([2, 16, 1024])) for _ in range(choose.choice([1, 3]))]
        ran, accepted, over = [], [], threading.Event()
        native.reset(2)
        native.halt(0)

        def run(number, ran=ran, targets=targets):
            ran.append(number)
            if number % 50 == 0:
                try:
                    targets[number % len(targets)].send_msg(run, number + 1)
                    ran.append("more")
                except (RingFullError, ThreadExitedError):
                    pass

        def send(n, accepted=accepted, targets=targets, over=over, run=run):
            taken = number = 0
            try:
                while not over.is_set():
                    number += 1
                    taken += targets[number % len(targets)].try_send_msg(run, number)
            except ThreadExitedError:
                pass
            accepted.append(taken)

        def send_natively(accepted=accepted, targets=targets):
            accepted.append(("native", native.send(targets[0], 2, 0, 10**12)))

        bodies = [lambda n=n: send(n) for n in range(choose.choice([1, 3]))]
        threads = start(*bodies, *[send_natively] * choose.choice([0, 1]))
        time.sleep(choose.random() / 50)
        timeout_s = choose.choice([None, None, None, 0.0, 0.01])
        report = reactor.stop(timeout_s)
        over.set()
        native.halt(1)
        join(threads)
        if report.still_running:
            reactor.join(PATIENCE_S)
            report = reactor.stop()
        # What was left in the threads is theirs to run. A thread that is on no reactor any more takes messages again.
        left = sum(target.pending_msgs for target in targets)
        assert left >= len(report.leftover_msgs), (left, report)
        if timeout_s is None:
            assert report.ok, report
            assert all(target.is_exited for target in targets), targets
        native_sent = sum(one[1] for one in accepted if isinstance(one, tuple))
        sent = sum(one for one in accepted if not isinstance(one, tuple)) + ran.count("more")
        python_ran = len(ran) - ran.count("more")
        native_ran, wrong, _ = native.arrived(2)
        assert wrong == 0
        assert sent + native_sent == python_ran + native_ran + left, (sent, native_sent, python_ran, native_ran, left)
        figures["stops"] += 1
        figures["left and reported"] += left
        for target in targets:
            with target:
                target.exit()
            while not target.is_exited:
                target.poll()
        lib.close()


PARTS = {"ring": ring, "native": natively, "python": python, "stop": stop}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--each", type=int, default=100_000)
    arguments.add_argument("--stops", type=int, default=0, help="so many stops, however long they take")
    arguments.add_argument("--part", choices=list(PARTS), action="append")
    options = arguments.parse_args()
    names = ["ring messages", "native messages", "python messages", "moves", "stops", "left and reported"]
    figures = dict.fromkeys(names, 0) | {"each": options.each, "stops wanted": options.stops}
    parts = options.part or list(PARTS)
    for name in parts:
        PARTS[name](time.monotonic() + options.seconds / len(parts), random.Random(options.seed), figures)
    del figures["each"], figures["stops wanted"]
    print(json.dumps({name: figure for name, figure in figures.items() if figure} | {"seed": options.seed}))


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    main()
