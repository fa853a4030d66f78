"""Checked spin locks: their owner is an SpdkThread, and a misuse is an answer with a number.

From native code, without the GIL::

    from spdkthread.spinlock cimport spinlock_init, spinlock_lock, spinlock_s, spinlock_unlock

    cdef spinlock_s lock                            # zeroed memory is a lock that was never initialised
    spinlock_init(&lock, "table")                   # anywhere
    ...
    if spinlock_lock(&lock) != SPIN_OK:             # on an SpdkThread
        ...
    spinlock_unlock(&lock)

What is in a lock, and how a poll finds those that a callback left held: see held_locks.pxd.
"""

from spdkthread.held_locks cimport (
    SPIN_BUSY,
    SPIN_CANNOT_WAIT,
    SPIN_COUNT,
    SPIN_DEADLOCK,
    SPIN_DESTROYED,
    SPIN_HELD,
    SPIN_HELD_AT_RETURN,
    SPIN_NOT_INITIALIZED,
    SPIN_NOT_SPDK_THREAD,
    SPIN_OK,
    SPIN_WRONG_THREAD,
    spinlock_s,
)

# All of these SPIN_OK or the misuse, which has no effect.
cdef int spinlock_init(spinlock_s *lock, const char *name) noexcept nogil
cdef int spinlock_destroy(spinlock_s *lock) noexcept nogil
cdef int spinlock_try(spinlock_s *lock) noexcept nogil
cdef int spinlock_lock(spinlock_s *lock) noexcept nogil         # without the GIL: the owner may need it to unlock
cdef int spinlock_unlock(spinlock_s *lock) noexcept nogil
cdef bint spinlock_held(spinlock_s *lock) noexcept nogil        # by the current thread


cdef class SpinLock:
    cdef spinlock_s c
    cdef readonly str name
    cdef object __weakref__

    cdef int _fail(self, str what, int error) except -1
