"""A reactor with so many threads that its turns look only at those that may have work."""

import threading
import time

import pytest
from support import PATIENCE_S, eventually

from spdkthread import Poller

MANY = 200
WAYS = ["adaptive", "yield", "poll"]


def settle(reactor):
    """Let the time pass for which threads that have just come are looked at in every turn."""
    time.sleep(0.005)
    turns = reactor.stats.turns
    reactor.threads[0].call(lambda: None).result(PATIENCE_S)
    assert reactor.stats.turns >= turns


@pytest.fixture(params=WAYS)
def crowded(request, make_reactor):
    """A running reactor with many threads."""
    reactor = make_reactor(idle=request.param)
    for _ in range(MANY):
        reactor.create_thread(ring_size=64)
    reactor.start()
    settle(reactor)
    return reactor


def answers(thread):
    return thread.call(lambda: True).result(PATIENCE_S)


def test_messages_between_many_threads_all_run(crowded):
    threads, hops, over = crowded.threads, [], threading.Event()

    def hop(here, left):
        hops.append(here)
        if left == 0:
            over.set()
        else:
            there = (here * 7 + 1) % MANY
            threads[there].send_msg(hop, there, left - 1)

    threads[0].send_msg(hop, 0, 5_000)
    assert over.wait(PATIENCE_S)
    assert len(hops) == 5_001


def test_a_sleeping_reactor_is_woken_for_whichever_thread_is_sent_to(crowded):
    for thread in crowded.threads[::17]:
        time.sleep(0.001)
        assert answers(thread)


def test_more_messages_than_one_poll_takes_run_without_another_send(crowded):
    thread, ran = crowded.threads[-1], []
    thread.send_many(ran.append, list(range(60)))
    eventually(lambda: len(ran) == 60)
    assert ran == list(range(60))


def test_timed_pollers_of_many_threads_run(crowded):
    ran = set()

    def register(number):
        crowded.threads[number].register_poller(lambda: ran.add(number) or 0, 500 + number)

    threads = crowded.threads
    for number, thread in enumerate(threads):
        thread.send_msg(register, number)
    eventually(lambda: len(ran) == MANY)
    ran.clear()
    eventually(lambda: len(ran) == MANY)
    unregister_all(threads)


def unregister_all(threads):
    for thread in threads:
        thread.call(lambda thread=thread: [poller.unregister() for poller in thread.pollers]).result(PATIENCE_S)


def test_call_later_of_a_thread_among_many(crowded):
    ran = threading.Event()
    crowded.threads[100].call_later(1_000, ran.set)
    assert ran.wait(PATIENCE_S)


def test_active_pollers_run_in_every_turn_beside_idle_threads(crowded):
    runs = {}
    threads = crowded.threads[::50]

    def register(thread):
        runs[thread] = 0

        def run():
            runs[thread] += 1
            return 0

        thread.register_poller(run)

    for thread in threads:
        thread.send_msg(register, thread)
    eventually(lambda: len(runs) == len(threads) and min(runs.values()) > 100)
    unregister_all(threads)


def test_paused_pollers_run_again_when_resumed(crowded):
    thread, ran = crowded.threads[70], []
    poller = thread.call(lambda: thread.register_poller(lambda: ran.append(1) or 0)).result(PATIENCE_S)
    assert isinstance(poller, Poller)
    eventually(lambda: ran)
    poller.pause()
    assert answers(thread)
    ran.clear()
    assert answers(thread)
    assert not ran
    poller.resume()
    eventually(lambda: ran)
    unregister_all([thread])


def test_critical_messages_reach_a_thread_among_many(crowded):
    ran = threading.Event()
    crowded.threads[-1].send_critical_msg(ran.set)
    assert ran.wait(PATIENCE_S)


def test_threads_come_and_go(crowded):
    for _ in range(20):
        thread = crowded.create_thread(ring_size=64)
        assert answers(thread)
    for thread in crowded.threads[: MANY - 50]:
        thread.exit()
    eventually(lambda: len(crowded.threads) == 70)
    settle(crowded)
    for thread in crowded.threads:
        assert answers(thread)
    for thread in crowded.threads[:40]:
        thread.exit()
    eventually(lambda: len(crowded.threads) == 30)
    for thread in crowded.threads:
        assert answers(thread)


def test_threads_that_move_between_crowded_reactors_lose_no_message(crowded, make_reactor):
    other = make_reactor(idle="adaptive")
    for _ in range(MANY):
        other.create_thread(ring_size=64)
    other.start()
    settle(other)
    moving, ran = crowded.threads[:8], {}
    for thread in moving:
        ran[thread] = []
    places = [crowded, other]
    for number in range(400):
        for thread in moving:
            thread.send_msg_wait(ran[thread].append, number, timeout_s=PATIENCE_S)
        if number % 100 == 50:
            moves = [places[0].move_thread(thread, places[1]) for thread in moving]
            for move in moves:
                move.result(PATIENCE_S)
            places.reverse()
    for thread in moving:
        eventually(lambda thread=thread: len(ran[thread]) == 400)  # the ring may be full to the last
        assert answers(thread)
        assert ran[thread] == list(range(400))


def test_a_crowded_reactor_starts_again(crowded):
    report = crowded.stop()
    assert report.ok
    for _ in range(MANY):
        crowded.create_thread(ring_size=64)
    crowded.start()
    settle(crowded)
    assert all(answers(thread) for thread in crowded.threads[::9])


def test_turns_by_hand_run_what_many_threads_have(make_reactor):
    reactor, ran = make_reactor(), []
    for number in range(MANY):
        reactor.create_thread(ring_size=64).send_msg(ran.append, number)
    assert reactor.poll() == 1
    assert ran == list(range(MANY))
    time.sleep(0.002)
    assert reactor.poll() == 0
    for number in reversed(range(MANY)):
        reactor.threads[number].send_msg(ran.append, -number)
    assert reactor.poll() == 1
    assert ran[MANY:] == [-number for number in range(MANY)]
    # To a later thread in the same turn, to an earlier one in the next, as with few.
    first, last = reactor.threads[3], reactor.threads[-3]
    ran.clear()
    first.send_msg(last.send_msg, ran.append, "later")
    reactor.poll()
    assert ran == ["later"]
    last.send_msg(first.send_msg, ran.append, "earlier")
    reactor.poll()
    assert ran == ["later"]
    reactor.poll()
    assert ran == ["later", "earlier"]


def test_threads_with_a_simulated_clock_are_looked_at_in_every_turn(make_reactor, lib, clock):
    reactor, ran = make_reactor(lib=lib), []
    for _ in range(MANY):
        reactor.create_thread(ring_size=64)
    thread = reactor.threads[150]
    thread.send_msg(lambda: thread.register_poller(lambda: ran.append(1) or 0, 1_000))
    reactor.poll()
    time.sleep(0.002)
    reactor.poll()
    assert not ran
    clock.advance(us=1_000)
    reactor.poll()
    assert ran == [1]
    thread.send_msg(lambda: [poller.unregister() for poller in thread.pollers])
    reactor.poll()
