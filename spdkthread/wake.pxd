"""Waking a reactor that sleeps: a flag and a file descriptor.

A reactor that can sleep owns a `wake_gate`, and the threads on it point to it; what never sleeps has no gate, and its
senders pay one load. Sender and sleeper each write first and read second, with a full fence between::

    sender                          sleeper
    publish the message             sleeping = 1
    fence                           fence
    sleeping?  -> take it to 0,     anything published?  -> sleeping = 0, go on
                  ring the bell     sleep until the bell rings; sleeping = 0

Of the two reads at least one sees the other side's write: either the sender rings or the sleeper stays. Only the
sender that takes the flag from 1 to 0 rings, so a burst costs one system call.

A thread that comes to another reactor brings senders that may have read its old gate, or that it has none, and whose
message is on its way to memory. They ring for somebody else, or not at all. So for a millisecond after a thread has
come its reactor sleeps until the end of that time at most, and looks once more after it; a store is on its way for
nanoseconds. ``verify/wake.pml`` is a model of all this, with the stores on their way.

A gate is never freed, only reused: a sender may still hold the pointer of a reactor that has ended, and the worst that
it can do is wake the next owner once for nothing.

In the child of a fork no gate of before it is used again: its bell is the parent's too, and what rings or listens there
would wake the parent for nothing or, worse, take a ring from it. The child closes its descriptors of them at once, by
number while the numbers are still theirs, and makes new gates.
"""

from libc.stdint cimport uint32_t

from spdkthread.atomics cimport (
    st_atomic_u32,
    st_exchange32,
    st_fence_seq_cst,
    st_load32_relaxed,
)


cdef struct wake_gate:
    st_atomic_u32 sleeping
    st_atomic_u32 bell          # eventfd, or the writing end of a pipe
    int ear                     # what the sleeper waits on; the same descriptor for an eventfd
    uint32_t generation         # of the process that made it, see forks.pxd
    wake_gate *next_free
    wake_gate *next_made


cdef wake_gate *wake_gate_take() except NULL
cdef void wake_gate_give_back(wake_gate *gate) noexcept nogil
cdef bint wake_gate_mend(wake_gate *gate) noexcept nogil
cdef void wake_ring(wake_gate *gate) noexcept nogil
cdef void wake_clear(wake_gate *gate) noexcept nogil


cdef inline void wake_notify(wake_gate *gate) noexcept nogil:
    """Sender: what is published is seen by the sleeper, or it is woken."""
    st_fence_seq_cst()
    if st_load32_relaxed(&gate.sleeping) and st_exchange32(&gate.sleeping, 0):
        wake_ring(gate)
