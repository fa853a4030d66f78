"""Coroutines on SpdkThreads: a thousand that sleep and count on one thread, and one that moves between two.

State that only one thread touches needs no lock, however many coroutines use it: between two awaits nothing else of its
thread runs.
"""

import time

from spdkthread import Reactor, SpdkThread, aio, get_thread

COROUTINES, TURNS = 1_000, 20


class Account:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self.balance = 0


async def saver(account: Account, number: int) -> int:
    for turn in range(TURNS):
        await aio.sleep_us((number * 7 + turn * 13) % 500)
        account.balance += 1
    return number


async def traveller(other: SpdkThread) -> list[str]:
    """Goes where the data is, instead of sending for it."""
    home = get_thread()
    assert home is not None
    seen = []
    for place in (other, home, other, home):
        await aio.switch_to(place)
        assert get_thread() is place
        seen.append(place.name)
    return seen


def main() -> None:
    with Reactor() as first, Reactor() as second:
        bank, beach = first.create_thread("bank"), second.create_thread("beach")
        account = Account()
        begin = time.perf_counter()
        futures = [bank.spawn(saver(account, number)) for number in range(COROUTINES)]
        assert [future.result() for future in futures] == list(range(COROUTINES))
        took = time.perf_counter() - begin
        print(f"{COROUTINES} coroutines, {account.balance} turns in {took:.3f} s, no lock, nothing lost")
        print("a traveller went", " -> ".join(bank.spawn(traveller(beach)).result()))


if __name__ == "__main__":
    main()
