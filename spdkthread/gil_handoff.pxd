"""Handing the GIL from loop to loop: two atomic words say whether a loop of this library holds it, and how many wait.

A loop is that of a reactor, or an event loop. CPython wakes a thread that queues at the GIL through the kernel, and
makes its holder let go only after 5 ms. Loops hold it for a microsecond or two at a time, so one that wants it looks at
`gil_held` for a while, detached, before it queues. The words are advice only: a thread that does not read or write them
is merely slower. On a build without the GIL nothing here does anything.

There are two reasons to let go of the GIL with Python work still to do, and the holder decides for one of them while it
is attached, because the words look different once it is not:

hand over   another loop waits (`gil_wanted`). The holder lets go and stays away until that one holds the GIL.
pause       loops have held the GIL for a millisecond, by turns or one alone. The holder lets go and every loop that
            waits stays away for as long as a plain thread needs to be woken by the kernel and to take the GIL.

Plain threads write none of the words. A sender that is one holds the GIL for a moment after its message is published,
and a loop that queued just then would be woken by the kernel, tens of microseconds later. So where CPython's own word
says that the GIL is held, a loop looks at that for a while, too, before it queues. Where no such word is found
(`gil_word`), it queues at once.

The time since the last pause goes along with the GIL: `gil_stretch_began` is written before `gil_held` is released and
read by the loop that takes it over, so two loops that hand the GIL to each other for ever pause like one.
"""

from libc.stdint cimport uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u32,
    st_atomic_u64,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_relaxed,
    st_pause,
    st_store32_relaxed,
    st_store32_release,
    st_store_relaxed,
    st_sub_relaxed,
)
from spdkthread.clock cimport st_ticks
from spdkthread.cpython_ext cimport HAS_GIL

cdef st_atomic_u32 gil_held
cdef st_atomic_u64 gil_wanted
cdef st_atomic_u64 gil_stretch_began    # account stamp; 0: the GIL was not handed over
cdef st_atomic_u64 gil_pause_end        # tick up to which loops that wait stay away; 0: none does

cdef st_atomic_u32 *gil_word            # CPython's own: not 0 while any thread holds the GIL; NULL: not known

cdef enum:
    GIL_SPIN_TICKS = 10_000         # how long to look before queueing
    GIL_PAUSE_TICKS = 50_000        # another thread needs this to wake up and take the GIL

cdef enum gil_release:
    GIL_NO_WORK_LEFT                # nothing is left to do attached, or something that is done detached
    GIL_HAND_OVER                   # another loop waits for it
    GIL_PAUSE                       # plain threads should have it


cdef bint gil_handoff_look() noexcept nogil
cdef void gil_handoff_yield(int release) noexcept nogil
cdef void gil_handoff_wait_pause() noexcept nogil


cdef inline void gil_handoff_released() noexcept nogil:
    """Right after detaching."""
    if HAS_GIL:
        st_store_relaxed(&gil_stretch_began, 0)
        st_store32_release(&gil_held, 0)


cdef inline void gil_handoff_pass(uint64_t stretch_began) noexcept nogil:
    """Right after detaching, for a loop that waits: `stretch_began` is the stamp since which loops hold the GIL."""
    if HAS_GIL:
        st_store_relaxed(&gil_stretch_began, stretch_began)
        st_store32_release(&gil_held, 0)


cdef inline void gil_handoff_acquired() noexcept nogil:
    """Attached: a loop that wants the GIL should look for a while before it queues."""
    if HAS_GIL:
        st_store32_relaxed(&gil_held, 1)


cdef inline uint64_t gil_handoff_wait() noexcept nogil:
    """Right before attaching. Returns the stretch that goes on with this loop, or 0."""
    cdef uint64_t give_up
    if not HAS_GIL:
        return 0
    if not st_load32_acquire(&gil_held) and (
        gil_word == NULL or not st_load32_relaxed(gil_word) or not gil_handoff_look()
    ):
        return 0
    st_add_relaxed(&gil_wanted, 1)
    give_up = st_ticks() + GIL_SPIN_TICKS
    while st_load32_acquire(&gil_held):
        st_pause()
        if st_ticks() > give_up:
            st_sub_relaxed(&gil_wanted, 1)
            return 0
    st_sub_relaxed(&gil_wanted, 1)
    if st_load_relaxed(&gil_pause_end):
        gil_handoff_wait_pause()
        return 0
    return st_load_relaxed(&gil_stretch_began)
