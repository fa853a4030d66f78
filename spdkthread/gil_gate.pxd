"""The gate before the GIL: two words that say whether a loop of ours holds it, and how many wait for it.

CPython wakes whoever queues at the GIL through the kernel, and makes its holder let go only after 5 ms. Loops of ours
hold it for a microsecond or two at a time, so one that wants it looks at `gil_held` for a while, detached, before it
queues. Advice only: whoever does not look, or does not say, is merely slower. On a build without the GIL nothing here
does anything.
"""

from libc.stdint cimport uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u32,
    st_atomic_u64,
    st_load32_acquire,
    st_pause,
    st_store32_relaxed,
    st_store32_release,
    st_sub_relaxed,
)
from spdkthread.clock cimport st_ticks

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define ST_GATE 0
    #else
    #define ST_GATE 1
    #endif
    """
    const bint ST_GATE

cdef st_atomic_u32 gil_held
cdef st_atomic_u64 gil_wanted

cdef enum:
    GIL_GATE_TICKS = 10_000         # how long to look before queueing
    GIL_GAP_TICKS = 50_000          # another thread needs this to wake up and take the GIL


cdef void gil_gate_make_way() noexcept nogil


cdef inline void gil_gate_leave() noexcept nogil:
    """Right after detaching."""
    if ST_GATE:
        st_store32_release(&gil_held, 0)


cdef inline void gil_gate_enter() noexcept nogil:
    """Attached: whoever wants the GIL should look for a while before it queues."""
    if ST_GATE:
        st_store32_relaxed(&gil_held, 1)


cdef inline void gil_gate_wait() noexcept nogil:
    """Right before attaching."""
    cdef uint64_t give_up
    if not ST_GATE or not st_load32_acquire(&gil_held):
        return
    st_add_relaxed(&gil_wanted, 1)
    give_up = st_ticks() + GIL_GATE_TICKS
    while st_load32_acquire(&gil_held):
        st_pause()
        if st_ticks() > give_up:
            break
    st_sub_relaxed(&gil_wanted, 1)
