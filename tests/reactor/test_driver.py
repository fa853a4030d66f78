"""Who drives a thread: one reactor, one loop or one OS thread at a time, and every other one is told which."""

import threading

import pytest
from support import PATIENCE_S

from spdkthread import Reactor, ReactorError, SpdkThread, ThreadExitedError, WrongThreadError


class Owner:
    """Stands for an event loop: it owns a thread without polling it all the time."""

    def __repr__(self):
        return "<Owner>"


def test_a_thread_of_one_reactor_is_refused_by_another_which_is_told_both(lib):
    one, two = Reactor(name="one"), Reactor(name="two")
    thread = lib.create_thread("wanted")
    one.add_thread(thread)
    with pytest.raises(ReactorError, match=r"'wanted'.*'two'.*belongs to.*'one'"):
        two.add_thread(thread)
    one.stop()


def test_by_hand_a_thread_of_a_reactor_is_refused_with_the_name_of_the_reactor(lib):
    one = Reactor(name="one")
    thread = lib.create_thread()
    one.add_thread(thread)
    with pytest.raises(WrongThreadError, match="polled by <Reactor 'one'"):
        thread.poll()
    with pytest.raises(WrongThreadError, match="polled by <Reactor 'one'"), thread:
        pass
    one.stop()
    assert thread.is_exited


def test_a_second_os_thread_is_refused_with_the_name_of_the_first(lib):
    thread = lib.create_thread()
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with thread:
            entered.set()
            leave.wait()

    holder = threading.Thread(target=hold, name="the holder")
    holder.start()
    entered.wait()
    try:
        with pytest.raises(WrongThreadError, match="OS thread 'the holder'"):
            thread.poll()
        with pytest.raises(WrongThreadError, match="OS thread 'the holder'"):
            Reactor().add_thread(thread)
    finally:
        leave.set()
        holder.join()
    thread.poll()


def test_an_owner_that_does_not_poll_keeps_reactors_and_other_owners_out(lib):
    thread = lib.create_thread("owned")
    loop, other, reactor = Owner(), Owner(), Reactor()
    thread._belong_to(loop, False)
    with pytest.raises(WrongThreadError, match=r"'owned'.*belongs to <Owner>"):
        thread._belong_to(other, False)
    with pytest.raises(ReactorError, match=r"'owned'.*belongs to <Owner>"):
        reactor.add_thread(thread)
    thread.poll()  # by hand it may be driven while the owner does not run
    thread._give_up(other)
    with pytest.raises(WrongThreadError):
        thread._belong_to(other, False)
    thread._give_up(loop)
    thread._belong_to(other, False)
    thread._give_up(other)


def test_a_thread_of_a_reactor_has_no_second_owner(lib):
    thread = lib.create_thread()
    one = Reactor(name="one")
    one.add_thread(thread)
    with pytest.raises(WrongThreadError, match="belongs to <Reactor 'one'"):
        thread._belong_to(Owner(), False)
    one.stop()


def test_an_exited_thread_is_given_to_no_owner(lib):
    thread = lib.create_thread()
    with thread:
        thread.exit()
    thread.poll()
    assert thread.is_exited
    with pytest.raises(ThreadExitedError):
        thread._belong_to(Owner(), False)
    with pytest.raises(ThreadExitedError):
        Reactor().add_thread(thread)
    with pytest.raises(ReactorError):
        Reactor().move_thread(thread, Reactor())


def test_an_entered_thread_is_given_to_no_owner(lib):
    thread = lib.create_thread()
    with thread:
        with pytest.raises(WrongThreadError, match="entered or being polled"):
            thread._belong_to(Owner(), False)
        with pytest.raises(WrongThreadError, match="entered or being polled"):
            Reactor().add_thread(thread)
    refused = []

    def inside():
        try:
            Reactor().add_thread(thread)
        except WrongThreadError as error:
            refused.append(error)

    thread.send_msg(inside)
    thread.poll()
    assert len(refused) == 1


def test_of_many_that_want_a_thread_at_once_one_gets_it(lib):
    for _ in range(50):
        thread = SpdkThread(lib=lib)
        reactors = [Reactor(idle="yield", pin=False) for _ in range(4)]
        start = threading.Barrier(4)
        got = []

        def want(reactor, start=start, thread=thread, got=got):
            start.wait()
            try:
                reactor.add_thread(thread)
            except (ReactorError, WrongThreadError):
                return
            got.append(reactor)

        contenders = [threading.Thread(target=want, args=(reactor,)) for reactor in reactors]
        for one in contenders:
            one.start()
        for one in contenders:
            one.join()
        assert len(got) == 1
        assert thread._placed_on() is got[0]
        assert [len(one.threads) for one in reactors].count(1) == 1
        got[0].stop()
        assert thread.is_exited


def test_many_os_threads_polling_one_thread_do_no_harm(thread):
    """Only one of them gets in at a time; the others are told; every message runs once."""
    ran, refused = [], []
    start = threading.Barrier(4)
    total = 2_000

    def drive():
        start.wait(PATIENCE_S)
        while len(ran) < total:
            try:
                thread.poll()
            except WrongThreadError:
                refused.append(1)

    thread.send_many(ran.append, range(total))
    others = [threading.Thread(target=drive, daemon=True) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join(PATIENCE_S)
    assert ran == list(range(total))
