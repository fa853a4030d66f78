"""Forks: what was made before one, and locks that the child finds free.

A child of a fork has one OS thread and a copy of everything else. Whatever another OS thread held, or was in the middle
of, stays so for ever there; and a descriptor of before the fork is the parent's too. So the library counts forks:
`fork_generation` is 1 in the first process and one more in each child, from the first instruction of the child on. What
can be held, or belongs to one process, remembers the generation in which it was taken:

spin lock         0: free; a generation: taken in it. One of another generation is taken as if it were free.
`ReentrantLock`   a new lock at its first use in the child, unless the OS thread that forked holds it itself.
imports           those of other OS threads that are under way come to their end before the fork.
`wakeup_state`       one of another generation is never used again, see wakeup.pxd.

Descriptors that live on in the child are closed, or replaced in their places, as soon as it begins: see
reactor_registry.py.
"""

from libc.stdint cimport uint32_t

from spdkthread.atomics cimport st_atomic_u32, st_lock_as, st_unlock

cdef uint32_t fork_generation       # written by the child's only OS thread, before any other code of the child


cdef inline void spin_lock(st_atomic_u32 *lock) noexcept nogil:
    """For a handful of instructions: nothing under it allocates Python objects, drops references or calls out."""
    st_lock_as(lock, fork_generation)


cdef inline void spin_unlock(st_atomic_u32 *lock) noexcept nogil:
    st_unlock(lock)


cdef class ReentrantLock:
    cdef object inner
    cdef st_atomic_u32 generation
    cdef st_atomic_u32 renewing

    cdef int renew(self) except -1
