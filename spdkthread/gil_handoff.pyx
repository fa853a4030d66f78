"""Handing the GIL from loop to loop. See ``gil_handoff.pxd``."""

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
from spdkthread.cpython_ext cimport HAS_GIL
from spdkthread.os_ext cimport sched_yield


cdef void gil_handoff_yield(int release) noexcept nogil:
    """Detached, with more Python work to come: let another loop, or plain threads, have the GIL first."""
    cdef uint64_t end
    if not HAS_GIL:
        return
    end = st_ticks()
    if release == GIL_HAND_OVER:
        # The loop that waits takes itself off `gil_wanted` as soon as it sees the GIL free; `gil_held` says that it has
        # taken it. If it does not look any more, it queues at the lock and has the GIL soon, too.
        end += GIL_SPIN_TICKS
        while not st_load32_acquire(&gil_held) and st_ticks() < end:
            st_pause()
        return
    end += GIL_PAUSE_TICKS
    st_store_relaxed(&gil_pause_end, end)
    while st_ticks() < end:
        sched_yield()
    st_store_relaxed(&gil_pause_end, 0)


cdef void gil_handoff_wait_pause() noexcept nogil:
    """Detached, after another loop began a pause: stay away until it is over."""
    cdef uint64_t end = st_load_relaxed(&gil_pause_end)
    while st_load_relaxed(&gil_pause_end) and st_ticks() < end:
        sched_yield()


def _forget_after_fork():
    # The OS threads that held the GIL, or waited for it, are not in the child.
    st_store32_relaxed(&gil_held, 0)
    st_store_relaxed(&gil_wanted, 0)
    st_store_relaxed(&gil_pause_end, 0)


os.register_at_fork(after_in_child=_forget_after_fork)
