"""Programs that are interrupted: by collections at every allocation, by signals, by forks."""

import textwrap

from support import PATIENCE_S, run_python

PRELUDE = f"""
import collections, faulthandler, gc, itertools, logging, os, signal, sys, threading, time, warnings
faulthandler.dump_traceback_later({PATIENCE_S * 0.8}, exit=True)
logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore", DeprecationWarning)     # fork in a process with threads: that is the point here
import spdkthread

class Litter:
    '''Garbage that calls the library when it is collected.'''

    collected = 0
    inside = False

    def __init__(self, use):
        self.me, self.use = self, use

    def __del__(self):
        Litter.collected += 1
        if Litter.inside:
            return
        Litter.inside = True
        try:
            self.use()
        finally:
            Litter.inside = False

def at_every_allocation(act, use, rounds=200):
    '''Collections at every allocation of the collector's; each finds garbage whose destructor calls `use`.'''
    for number in range(rounds):
        gc.set_threshold(1)
        Litter(use)
        act()
    gc.set_threshold(700)
    assert Litter.collected > rounds // 4, Litter.collected

def under_signals(act, handler, seconds=1.0):
    '''A signal every 50 us, whose handler calls the library, while `act` is called again and again.'''
    heard = []
    signal.signal(signal.SIGALRM, lambda *args: (heard.append(1), handler()))
    signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
    give_up = time.monotonic() + seconds
    try:
        while time.monotonic() < give_up:
            act()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert heard

def in_child(act, *args):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)        # ends it by its default action
        try:
            act(*args)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def locks_of(one):
    from spdkthread.forks import ReentrantLock
    return [what for what in gc.get_referents(one) if isinstance(what, ReentrantLock)]

def held_elsewhere(lock):
    '''Another OS thread takes `lock` and keeps it.'''
    held, over = threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            over.wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    return over
"""


def program(source, setting=""):
    """Run `source` behind the functions above and `setting`; it must come to its end in silence."""
    done = run_python(PRELUDE + textwrap.dedent(setting) + "\n" + textwrap.dedent(source))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
