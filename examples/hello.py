"""The first program: a reactor, a thread on it, a message, a call and a poller."""

import time

from spdkthread import Reactor

with Reactor() as reactor:  # an OS thread bound to a core of its own
    thread = reactor.create_thread("hello")
    thread.send_msg(print, "a message, run by", reactor)
    print("a result:", thread.call(sum, range(10)).result())
    poller = thread.register_poller(lambda: print("every 100 ms"), period_us=100_000)
    time.sleep(0.35)
    poller.unregister()
