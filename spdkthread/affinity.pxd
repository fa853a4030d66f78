"""The core and the timers of an OS thread that runs a reactor or a loop. See ``affinity.pyx``."""

from libc.stdint cimport uint32_t

from spdkthread.atomics cimport st_atomic_u32

cdef int affinity_enter(int core, bint sharp, st_atomic_u32 *requests, uint32_t flag) except -1
cdef void affinity_leave() noexcept nogil
cdef void affinity_tighten() noexcept nogil
