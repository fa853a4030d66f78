"""A socket on a reactor that sleeps: its handler runs when something has come, and costs nothing until then.

The same exchange with a blocking socket in an OS thread of its own, for comparison: there the kernel wakes the thread
that waits, here it wakes the reactor, which could serve many of them.
"""

import socket
import threading
import time

from spdkthread import Reactor

ROUNDS = 2_000


def exchange(mine: socket.socket) -> float:
    """Microseconds for one question and its answer."""
    begin = time.perf_counter()
    for number in range(ROUNDS):
        question = b"%d" % number
        mine.send(question)
        assert mine.recv(100) == question
    return (time.perf_counter() - begin) / ROUNDS * 1e6


def by_handler() -> float:
    mine, theirs = socket.socketpair()
    with mine, theirs, Reactor(idle="adaptive") as reactor:
        theirs.setblocking(False)
        thread = reactor.create_thread("echo")
        handler = thread.register_fd(theirs, lambda: theirs.send(theirs.recv(100)), "r", name="echo")
        took = exchange(mine)
        handler.unregister()  # before the socket is closed
    return took


def by_thread() -> float:
    def serve() -> None:
        while data := theirs.recv(100):
            theirs.send(data)

    mine, theirs = socket.socketpair()
    with mine, theirs:
        server = threading.Thread(target=serve)
        server.start()
        took = exchange(mine)
        mine.shutdown(socket.SHUT_WR)
        server.join()
    return took


print(f"a handler of register_fd answers in {by_handler():.1f} us")
print(f"an OS thread that waits in recv, in {by_thread():.1f} us")
