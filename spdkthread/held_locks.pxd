"""The spin locks that a thread holds: what `spinlock.pxd` and the thread's poll both look at.

Each thread lists the locks that it holds, newest first, so that one load after a callback tells whether it left any::

    thread_s.locks_held -> lock B -> lock A -> NULL

`word` is the lock; what else is in it belongs to the holder, apart from `state`.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_atomic_ptr,
    st_atomic_u32,
    st_atomic_u64,
    st_loadp_relaxed,
    st_storep_release,
    st_unlock,
)
from spdkthread.cpython_ext cimport Py_XDECREF_raw

cdef enum spinlock_error:
    SPIN_OK
    SPIN_NOT_SPDK_THREAD        # the numbers are SPDK's
    SPIN_DEADLOCK               # its owner locks it again
    SPIN_WRONG_THREAD           # unlocked by another thread than its owner
    SPIN_CANNOT_WAIT            # where pthread_spin_lock fails: the owner is suspended below, on this OS thread
    SPIN_HELD                   # destroyed while held
    SPIN_COUNT                  # the owner's list of locks does not have it
    SPIN_HELD_AT_RETURN         # a callback returned and left it held
    SPIN_DESTROYED
    SPIN_NOT_INITIALIZED
    SPIN_BUSY                   # no misuse: held by another thread (`spinlock_try`)

cdef enum:
    SPINLOCK_LIVE = 0x5B1C10C4
    SPINLOCK_DEAD = 0x5B1CDEAD
    SPINLOCK_NAME_SIZE = 48


cdef struct spinlock_s:
    st_atomic_u32 word          # 0: free; otherwise the fork generation in which it was taken, see forks.pxd
    st_atomic_u32 state         # SPINLOCK_LIVE, SPINLOCK_DEAD; anything else: never initialised
    st_atomic_ptr owner         # thread_s
    st_atomic_u64 os_thread     # on which the owner took it
    spinlock_s *next            # of its owner's locks
    PyObject *kept              # the SpinLock itself, one reference while Python code holds it
    char name[SPINLOCK_NAME_SIZE]


cdef inline spinlock_s *spinlock_take_off(void **locks) noexcept nogil:
    """Off the list of what a thread holds, and free for another one; on that thread."""
    cdef spinlock_s *lock = <spinlock_s *>locks[0]
    locks[0] = lock.next
    lock.next = NULL
    st_storep_release(&lock.owner, NULL)
    st_unlock(&lock.word)
    return lock


cdef inline void locks_abandon(void **locks, void *owner) noexcept:
    """Release what a thread holds that is freed, for the threads that wait."""
    cdef spinlock_s *lock = <spinlock_s *>locks[0]
    cdef PyObject *kept
    while lock != NULL:
        if st_loadp_relaxed(&lock.owner) != owner:
            locks[0] = NULL         # a thread of the child of a fork has taken it since
            return
        kept = lock.kept
        lock.kept = NULL
        spinlock_take_off(locks)
        Py_XDECREF_raw(kept)
        lock = <spinlock_s *>locks[0]
