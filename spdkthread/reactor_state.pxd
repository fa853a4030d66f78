"""What a Reactor consists of, and how an OS thread becomes the one that runs its loop.

`Reactor` adds the public methods. Its mechanism is functions over this class, a file for each concept::

    reactor_loop        the detached phase: turns and sleeps without the GIL, over the `reactor_s`
    reactor_members     which threads it polls: adopting, handing over, the table of the loop, their descriptors
    reactor_stop        draining, exiting, and what is left
    reactor_attached    the attached phase: requests, and the Python work of a turn
    reactor_view        what other OS threads read while it runs: statistics, the callback under way

One OS thread at a time runs the loop: the reactor's own one, or one that polls the reactor by hand. It is the `owner`,
and the only one that touches `r` outside the words that are atomic. `lock` guards the members, the phase's changes and
what is spare; `r.count` and `r.threads` change under it on the owner, so other OS threads may read them under it.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_atomic_u32,
    st_atomic_u64,
    st_cas_acq_rel,
    st_load32_acquire,
    st_or32_release,
    st_store32_release,
    st_store_release,
)
from spdkthread.cpython_ext cimport PyThread_get_thread_ident
from spdkthread.current_reactor cimport set_current_reactor
from spdkthread.reactor_loop cimport reactor_s
from spdkthread.thread_poll cimport thread_s
from spdkthread.wakeup cimport wakeup_notify

cdef enum reactor_phase:
    PHASE_NEW
    PHASE_RUNNING
    PHASE_STOPPING          # takes nothing from outside, runs what it has
    PHASE_ABORTING          # ends after this turn
    PHASE_STOPPED           # may be started again
    PHASE_DEAD              # in the child of a fork


cdef class ReactorState:
    cdef reactor_s r
    cdef dict members               # id(thread) -> SpdkThread: users' subclasses may define equality
    cdef object calls               # deque of functions for the loop
    cdef object lock
    cdef object ended               # SignalSafeEvent
    cdef object termination         # Termination, when it stops together with others
    cdef object signals             # SignalWatch, while run() is on the main thread
    cdef object fatal               # the KeyboardInterrupt or SystemExit that stops it
    cdef object report              # ShutdownReport of the last stop
    cdef st_atomic_u32 phase        # reactor_phase
    cdef st_atomic_u64 owner        # OS thread that runs the loop, for ever or for a turn; 0: none
    cdef bint looping               # between start() or run() and the end of that
    cdef uint32_t capacity          # of r.threads
    cdef thread_s **spare           # a larger table, for the loop to take; NULL: none
    cdef uint32_t spare_capacity
    cdef int spare_fd               # an fd set, for the loop to take; -1: none


cdef inline int phase_now(ReactorState reactor) noexcept:
    return st_load32_acquire(&reactor.phase)


cdef inline void set_phase(ReactorState reactor, int phase) noexcept:
    st_store32_release(&reactor.phase, phase)


cdef inline void ask(ReactorState reactor, uint32_t requests) noexcept:
    """From any OS thread: have the loop do what the flags of `reactor_request` say, between two turns."""
    st_or32_release(&reactor.r.requests, requests)
    if reactor.r.wakeup != NULL:
        wakeup_notify(reactor.r.wakeup)


cdef inline bint claim_loop(ReactorState reactor) noexcept:
    """Become the owner if there is none."""
    cdef uint64_t none = 0
    return st_cas_acq_rel(&reactor.owner, &none, PyThread_get_thread_ident())


cdef inline void release_loop(ReactorState reactor) noexcept:
    st_store_release(&reactor.owner, 0)


cdef inline PyObject *enter_reactor(ReactorState reactor) noexcept:
    """The owner: make this the OS thread's current reactor. Returns the one before, for `leave_reactor`."""
    return set_current_reactor(<PyObject *>reactor)


cdef inline void leave_reactor(PyObject *before) noexcept:
    set_current_reactor(before)
