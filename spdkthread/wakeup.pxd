"""Waking a reactor that sleeps: a flag and a file descriptor.

A reactor that can sleep owns a `wakeup_state`, and its threads point to it. A reactor that never sleeps has none, and
senders to its threads pay one load. Sender and sleeper each write first and read second, with a full fence between::

    sender: wakeup_notify             sleeper: wakeup_begin_sleep ... wakeup_end_sleep
    publish the message               sleeping = 1
    fence                             fence
    sleeping?  -> take it to 0,       anything published?  -> sleeping = 0, go on
                  write notify_fd     sleep until wait_fd is readable; sleeping = 0

Of the two reads at least one sees the other side's write: either the sender writes the descriptor or the sleeper stays
awake. Only the sender that takes the flag from 1 to 0 writes, so a burst costs one system call.

A thread that moves to another reactor has senders that may have read its old wake-up state, or NULL, and whose message
is on its way to memory. They wake another reactor, or none. So for a millisecond after a thread has come its reactor
sleeps until the end of that time at most, and looks once more after it; a store is on its way for nanoseconds.
``verify/wakeup.pml`` is a model of all this, with the stores on their way.

A turn of a reactor with many threads looks only at those that may have work. Then its wake-up state has a `ready_map`,
one bit for each of its threads, and WAKEUP_READY_MAP is set beside WAKEUP_ASLEEP in the word that senders read anyway::

    sender                                 reactor
    publish the message                    take the thread's bit to 0
    fence                                  fence
    WAKEUP_READY_MAP?  -> bit 0? set it    poll the thread
    fence                                  work left? -> set its bit
    WAKEUP_ASLEEP?     -> as above         any bit set? -> do not sleep

Again each side writes first and reads second: a sender that finds the bit set has its message seen by the poll that
follows, or by a later one. The bits of a thread that came with senders of another wake-up state, or whose index among
the bits has changed, are not relied on for the millisecond of above: the reactor looks at every thread in each turn,
and once more after that time. ``verify/ready.pml`` is a model of this.

A wake-up state is never freed, only reused, and its maps are not freed either: a sender may still hold the pointer of a
reactor that has ended, and the worst that it can do is to wake the state's next owner, or set one of its bits, once for
nothing.

The child of a fork uses no wake-up state that the parent made: the descriptors are shared with the parent, so a write
in the child would wake the parent for nothing and a read could take a wake-up from it. The child closes its descriptors
of these states at once, by number while the numbers still mean what they meant in the parent, and makes new states.
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
    st_store32_relaxed,
)

cdef enum wakeup_flags:
    WAKEUP_ASLEEP = 1           # the reactor sleeps, or is about to; its senders take the flag away
    WAKEUP_READY_MAP = 2        # its senders set the bits of their threads; only the reactor changes this flag


cdef struct ready_map:
    uint64_t words
    st_atomic_u64 *bits
    ready_map *smaller          # the one before


cdef struct wakeup_state:
    st_atomic_u32 sleeping      # wakeup_flags
    st_atomic_u32 notify_fd     # eventfd, or the writing end of a pipe
    int wait_fd                 # what the sleeper waits on; the same descriptor for an eventfd
    uint32_t generation         # of the process that made it, see forks.pxd
    st_atomic_ptr ready         # ready_map; NULL: none yet
    wakeup_state *next_free
    wakeup_state *next_made


cdef wakeup_state *wakeup_take() except NULL
cdef void wakeup_give_back(wakeup_state *wakeup) noexcept nogil
cdef bint wakeup_repair(wakeup_state *wakeup) noexcept nogil
cdef bint wakeup_make_ready_map(wakeup_state *wakeup, uint64_t threads) noexcept nogil
cdef void wakeup_signal(wakeup_state *wakeup) noexcept nogil
cdef void wakeup_thread(wakeup_state *wakeup, uint32_t index) noexcept nogil
cdef void wakeup_clear(wakeup_state *wakeup) noexcept nogil


# The sleeper's half. `wakeup_begin_sleep`, then a look at everything that a sender may have published, then the sleep
# if there was nothing, and `wakeup_end_sleep` in any case.

cdef inline void wakeup_begin_sleep(wakeup_state *wakeup) noexcept nogil:
    """What is published from now on wakes the sleeper, and what was published before is seen by its next look."""
    # First: what is written to the descriptor after this belongs to the flag of this sleep.
    wakeup_clear(wakeup)
    wakeup_announce_sleep(wakeup)


cdef inline void wakeup_announce_sleep(wakeup_state *wakeup) noexcept nogil:
    """The same where an epoll tells of each write to the descriptor once: nothing that was written before ends a sleep
    twice, so the descriptor need not be read."""
    st_store32_relaxed(
        &wakeup.sleeping, st_load32_relaxed(&wakeup.sleeping) & WAKEUP_READY_MAP | WAKEUP_ASLEEP
    )
    # Pairs with the fence of the sender, between its message and its look at the flag.
    st_fence_seq_cst()


cdef inline void wakeup_end_sleep(wakeup_state *wakeup) noexcept nogil:
    """The sleep is over, or there is none after all. A sender that has taken the flag may still write the descriptor,
    which the next `wakeup_begin_sleep` clears."""
    st_store32_relaxed(&wakeup.sleeping, st_load32_relaxed(&wakeup.sleeping) & WAKEUP_READY_MAP)


cdef inline void wakeup_use_ready_map(wakeup_state *wakeup) noexcept nogil:
    """Reactor, awake: senders that look at the word from now on set the bits of their threads."""
    st_store32_relaxed(&wakeup.sleeping, WAKEUP_READY_MAP)
    st_fence_seq_cst()


cdef inline void wakeup_leave_ready_map(wakeup_state *wakeup) noexcept nogil:
    """Reactor, awake: the bits do not count any more."""
    st_store32_relaxed(&wakeup.sleeping, 0)


# The sender's half.

cdef inline void wakeup_sleeper(wakeup_state *wakeup) noexcept nogil:
    """After a message and a fence: wake the sleeper if there is one. Of many senders one writes the descriptor."""
    if (
        st_load32_relaxed(&wakeup.sleeping) & WAKEUP_ASLEEP
        and st_and32_acq_rel(&wakeup.sleeping, ~<uint32_t>WAKEUP_ASLEEP) & WAKEUP_ASLEEP
    ):
        wakeup_signal(wakeup)


cdef inline void wakeup_notify(wakeup_state *wakeup) noexcept nogil:
    """What is published is seen by the sleeper, or the sleeper is woken."""
    st_fence_seq_cst()
    wakeup_sleeper(wakeup)


cdef inline void ready_set(ready_map *ready, uint32_t index) noexcept nogil:
    """The thread at `index` may have work. An index beyond the map is one among the threads of another reactor."""
    cdef uint64_t bit = <uint64_t>1 << (index & 63)
    if index >> 6 < ready.words and not st_load_relaxed(&ready.bits[index >> 6]) & bit:
        st_or_acq_rel(&ready.bits[index >> 6], bit)


cdef inline void ready_clear(ready_map *ready, uint32_t index) noexcept nogil:
    """Reactor, before it polls the thread: a message that is published from now on sets the bit again."""
    st_and_acq_rel(&ready.bits[index >> 6], ~(<uint64_t>1 << (index & 63)))
    st_fence_seq_cst()
