"""The gate before the GIL. See ``gil_gate.pxd``."""

import os

from libc.stdint cimport uint64_t

from spdkthread.atomics cimport (
    st_load32_acquire,
    st_load_relaxed,
    st_pause,
    st_store32_relaxed,
    st_store_relaxed,
)
from spdkthread.clock cimport st_ticks

cdef extern from *:
    """
    #include <sched.h>
    """
    int sched_yield() noexcept nogil


cdef void gil_gate_make_way() noexcept nogil:
    """Detached, with more Python work to come: let others have the GIL first."""
    cdef uint64_t now = st_ticks()
    cdef uint64_t end = now + GIL_GAP_TICKS
    if not ST_GATE:
        return
    if st_load_relaxed(&gil_wanted):
        end = now + GIL_GATE_TICKS
        while st_load_relaxed(&gil_wanted) and not st_load32_acquire(&gil_held) and st_ticks() < end:
            st_pause()
        return
    while st_ticks() < end:
        sched_yield()


def _forget_after_fork():
    # Whoever held it, or waited, is not in the child.
    st_store32_relaxed(&gil_held, 0)
    st_store_relaxed(&gil_wanted, 0)


os.register_at_fork(after_in_child=_forget_after_fork)
