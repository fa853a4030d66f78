"""Handing the GIL from loop to loop. See ``gil_handoff.pxd``."""

import os

from libc.stdint cimport uint64_t

from spdkthread.atomics cimport (
    st_atomic_u32,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_relaxed,
    st_pause,
    st_store32_relaxed,
    st_store_relaxed,
)
from spdkthread.clock cimport st_ticks
from spdkthread.cpython_ext cimport HAS_GIL
from spdkthread.os_ext cimport sched_yield

cdef extern from *:
    """
    /* Where CPython keeps whether its GIL is held. Its headers say where, for the version that this is compiled for;
       versions that were not tried are left out. A later version of the same series may differ, so the place is inside
       a struct that is there in any case, and `find_gil_word` tries out what it finds. */
    #if !defined(Py_GIL_DISABLED) && defined(__has_include) && PY_VERSION_HEX < 0x030e0000
    #if __has_include("internal/pycore_interp.h") && __has_include("internal/pycore_runtime.h")
    #define ST_GIL_WORD
    #endif
    #endif
    #ifdef ST_GIL_WORD
    #ifndef Py_BUILD_CORE
    #define Py_BUILD_CORE 1
    #endif
    #undef _PyGC_FINALIZED
    #include "internal/pycore_interp.h"
    #include "internal/pycore_runtime.h"
    #endif
    static void *st_gil_word(void) {
    #if !defined(ST_GIL_WORD)
        return NULL;
    #elif PY_VERSION_HEX >= 0x030c0000
        PyInterpreterState *interp = PyInterpreterState_Main();
        struct _gil_runtime_state *gil = interp->ceval.gil;
        int inside = (char *)gil >= (char *)interp && (char *)(gil + 1) <= (char *)(interp + 1);
        return inside && sizeof gil->locked == sizeof(st_atomic_u32) ? &gil->locked : NULL;
    #else
        return sizeof _PyRuntime.ceval.gil.locked == sizeof(st_atomic_u32) ? &_PyRuntime.ceval.gil.locked : NULL;
    #endif
    }
    """
    void *st_gil_word()


# Looks at CPython's word are some pauses apart: each takes its line away from the holder, who is about to write it.
cdef enum:
    LOOK_PAUSES = 8


cdef bint gil_handoff_look() noexcept nogil:
    """Detached: a thread that is no loop holds the GIL. Look for a while whether it lets go of it. Returns whether a
    loop has taken it meanwhile."""
    cdef uint64_t give_up = st_ticks() + GIL_SPIN_TICKS
    cdef int _pause
    while True:
        for _pause in range(LOOK_PAUSES):
            st_pause()
        if st_load32_acquire(&gil_held):
            return True
        if not st_load32_relaxed(gil_word) or st_ticks() > give_up:
            return False


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


def find_gil_word(tries: int = 1_000) -> bool:
    """Have loops look at CPython's own word for the GIL, if it behaves like one; returns whether it does."""
    global gil_word
    cdef st_atomic_u32 *word = <st_atomic_u32 *>st_gil_word()
    cdef bint free
    gil_word = NULL
    if not HAS_GIL or word == NULL:
        return False
    for _ in range(tries):
        if st_load32_relaxed(word) != 1:
            return False
        with nogil:
            free = st_load32_relaxed(word) == 0
        if free:
            gil_word = word
            return True
    return False


def _forget_after_fork():
    # The OS threads that held the GIL, or waited for it, are not in the child.
    st_store32_relaxed(&gil_held, 0)
    st_store_relaxed(&gil_wanted, 0)
    st_store_relaxed(&gil_pause_end, 0)


os.register_at_fork(after_in_child=_forget_after_fork)
find_gil_word()
