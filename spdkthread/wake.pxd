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

A turn of a reactor with many threads looks only at those that may have work. Then its gate has a `ready_map`, one bit
for each of its threads, and WAKE_LISTS is set beside WAKE_ASLEEP in the word that senders look at anyway::

    sender                          reactor
    publish the message             take the thread's bit to 0
    fence                           fence
    WAKE_LISTS?  -> bit 0? set it   poll the thread
    fence                           work left? -> set its bit
    WAKE_ASLEEP? -> as above        any bit set? -> do not sleep

Again each side writes first and reads second: a sender that finds the bit set has its message seen by the poll that
follows, or by a later one. The bits of a thread that came with senders of another gate, or whose place among the bits
has changed, are not relied on for the millisecond of above: the reactor looks at every thread in each turn, and once
more after that time. ``verify/ready.pml`` is a model of this.

A gate is never freed, only reused, and its maps are not freed either: a sender may still hold the pointer of a reactor
that has ended, and the worst that it can do is wake the next owner, or set a bit of its, once for nothing.

In the child of a fork no gate of before it is used again: its bell is the parent's too, and what rings or listens there
would wake the parent for nothing or, worse, take a ring from it. The child closes its descriptors of them at once, by
number while the numbers are still theirs, and makes new gates.
"""

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_and32_acq_rel,
    st_and_acq_rel,
    st_atomic_ptr,
    st_atomic_u32,
    st_atomic_u64,
    st_fence_seq_cst,
    st_load32_relaxed,
    st_load_relaxed,
    st_or_acq_rel,
)

cdef enum wake_flags:
    WAKE_ASLEEP = 1             # the reactor sleeps, or is about to
    WAKE_LISTS = 2              # its senders set the bits of their threads


cdef struct ready_map:
    uint64_t words
    st_atomic_u64 *bits
    ready_map *smaller          # the one before


cdef struct wake_gate:
    st_atomic_u32 sleeping      # wake_flags
    st_atomic_u32 bell          # eventfd, or the writing end of a pipe
    int ear                     # what the sleeper waits on; the same descriptor for an eventfd
    uint32_t generation         # of the process that made it, see forks.pxd
    st_atomic_ptr ready         # ready_map; NULL: none yet
    wake_gate *next_free
    wake_gate *next_made


cdef wake_gate *wake_gate_take() except NULL
cdef void wake_gate_give_back(wake_gate *gate) noexcept nogil
cdef bint wake_gate_mend(wake_gate *gate) noexcept nogil
cdef bint wake_gate_list(wake_gate *gate, uint64_t threads) noexcept nogil
cdef void wake_ring(wake_gate *gate) noexcept nogil
cdef void wake_for(wake_gate *gate, uint32_t index) noexcept nogil
cdef void wake_clear(wake_gate *gate) noexcept nogil


cdef inline void wake_notify(wake_gate *gate) noexcept nogil:
    """Sender: what is published is seen by the sleeper, or it is woken."""
    st_fence_seq_cst()
    if (
        st_load32_relaxed(&gate.sleeping) & WAKE_ASLEEP
        and st_and32_acq_rel(&gate.sleeping, ~<uint32_t>WAKE_ASLEEP) & WAKE_ASLEEP
    ):
        wake_ring(gate)


cdef inline void ready_set(ready_map *ready, uint32_t index) noexcept nogil:
    """The thread of that number may have work. A number that is not in the map is one of another gate."""
    cdef uint64_t bit = <uint64_t>1 << (index & 63)
    if index >> 6 < ready.words and not st_load_relaxed(&ready.bits[index >> 6]) & bit:
        st_or_acq_rel(&ready.bits[index >> 6], bit)


cdef inline void ready_clear(ready_map *ready, uint32_t index) noexcept nogil:
    """Reactor, before it polls the thread: what is published from now on sets the bit again."""
    st_and_acq_rel(&ready.bits[index >> 6], ~(<uint64_t>1 << (index & 63)))
    st_fence_seq_cst()
