"""SpinLock: a lock for a handful of instructions that are shared between SpdkThreads. See ``spinlock.pxd``."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strncpy

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u64,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_relaxed,
    st_loadp_acquire,
    st_loadp_relaxed,
    st_pause,
    st_store32_release,
    st_store_relaxed,
    st_storep_release,
)
from spdkthread.forks cimport fork_generation
from spdkthread.held_locks cimport SPINLOCK_DEAD, SPINLOCK_LIVE, SPINLOCK_NAME_SIZE, spinlock_take_off
from spdkthread.os_ext cimport sched_yield
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport current_thread, thread_s

from spdkthread.errors import SpinLockError

__all__ = ["SpinLock"]

cdef extern from *:
    """
    static _Thread_local char st_lock_os_thread;
    #define ST_LOCK_OS_THREAD ((uint64_t)(uintptr_t)&st_lock_os_thread)

    /* Pairs with the release in st_unlock: what the last owner wrote is seen. A holder of another generation is in
       another process. */
    static inline int st_try_lock_as(st_atomic_u32 *lock, uint32_t mine) {
        uint32_t seen = atomic_load_explicit(lock, memory_order_relaxed);
        return seen != mine && atomic_compare_exchange_strong_explicit(
            lock, &seen, mine, memory_order_acquire, memory_order_relaxed);
    }
    """
    const uint64_t ST_LOCK_OS_THREAD
    bint st_try_lock_as(void *lock, uint32_t mine) noexcept nogil

cdef enum:
    SPINS = 128                 # tries before the OS thread gives up its core between two of them
    ROUNDS = 1024               # tries of Python code before it looks for signals

cdef st_atomic_u64 names

REASONS = {
    SPIN_NOT_SPDK_THREAD: "not an SPDK thread: use it in a callback of an SpdkThread, or inside `with thread:`",
    SPIN_DEADLOCK: "deadlock detected: its owner holds it already and would wait for itself",
    SPIN_WRONG_THREAD: "unlock on the wrong SPDK thread: only its owner may unlock it, once",
    SPIN_CANNOT_WAIT: "error from the lock itself: its owner is suspended on this very OS thread, below the callback "
                      "that asks, so waiting would never end. Unlock before polling another thread",
    SPIN_HELD: "destroying a held spinlock: unlock it first",
    SPIN_COUNT: "lock count is invalid: its owner does not list it",
    SPIN_HELD_AT_RETURN: "lock held while its SPDK thread goes off the CPU: unlock it before the callback returns",
    SPIN_DESTROYED: "lock has been destroyed",
    SPIN_NOT_INITIALIZED: "lock has not been initialized",
}


cdef inline int check_live(spinlock_s *lock) noexcept nogil:
    cdef uint32_t state = st_load32_acquire(&lock.state)
    if state == SPINLOCK_LIVE:
        return SPIN_OK
    return SPIN_DESTROYED if state == SPINLOCK_DEAD else SPIN_NOT_INITIALIZED


cdef inline bint is_taken(spinlock_s *lock) noexcept nogil:
    return st_load32_relaxed(&lock.word) == fork_generation


cdef int spinlock_init(spinlock_s *lock, const char *name) noexcept nogil:
    """Make zeroed or destroyed memory a lock."""
    st_store32_release(&lock.word, 0)
    st_storep_release(&lock.owner, NULL)
    lock.next = NULL
    lock.kept = NULL
    strncpy(lock.name, name, SPINLOCK_NAME_SIZE - 1)
    lock.name[SPINLOCK_NAME_SIZE - 1] = 0
    st_store32_release(&lock.state, SPINLOCK_LIVE)
    return SPIN_OK


cdef int spinlock_destroy(spinlock_s *lock) noexcept nogil:
    cdef int error = check_live(lock)
    if error:
        return error
    # Taken for good: a thread that tries at this moment either has it, and this fails, or finds it destroyed.
    if not st_try_lock_as(&lock.word, fork_generation):
        return SPIN_HELD
    st_store32_release(&lock.state, SPINLOCK_DEAD)
    return SPIN_OK


cdef int spinlock_try(spinlock_s *lock) noexcept nogil:
    cdef thread_s *thread = current_thread()
    cdef void *owner
    cdef int error = check_live(lock)
    if error:
        return error
    if thread == NULL:
        return SPIN_NOT_SPDK_THREAD
    if not st_try_lock_as(&lock.word, fork_generation):
        # Pairs with the release below: of an owner that is seen, so is the OS thread.
        owner = st_loadp_acquire(&lock.owner)
        if owner == thread:
            return SPIN_DEADLOCK
        if owner != NULL and st_load_relaxed(&lock.os_thread) == ST_LOCK_OS_THREAD:
            return SPIN_CANNOT_WAIT
        return SPIN_BUSY
    st_store_relaxed(&lock.os_thread, ST_LOCK_OS_THREAD)
    st_storep_release(&lock.owner, thread)
    lock.next = <spinlock_s *>thread.locks_held
    thread.locks_held = lock
    return SPIN_OK


cdef inline int lock_within(spinlock_s *lock, uint32_t tries) noexcept nogil:
    """SPIN_BUSY after so many tries; 0: any number."""
    cdef uint32_t spins = 0
    cdef int error
    while True:
        error = spinlock_try(lock)
        if error != SPIN_BUSY:
            return error
        spins += 1
        if spins == tries:
            return error
        if spins < SPINS:
            st_pause()
        else:
            sched_yield()


cdef int spinlock_lock(spinlock_s *lock) noexcept nogil:
    """Wait until it is free. Only without the GIL: the owner may need the GIL before it unlocks."""
    return lock_within(lock, 0)


cdef int spinlock_unlock(spinlock_s *lock) noexcept nogil:
    cdef thread_s *thread = current_thread()
    cdef void **place
    cdef int error = check_live(lock)
    if error:
        return error
    if thread == NULL:
        return SPIN_NOT_SPDK_THREAD
    if not is_taken(lock) or st_loadp_relaxed(&lock.owner) != thread:
        return SPIN_WRONG_THREAD
    place = &thread.locks_held
    while place[0] != NULL and place[0] != lock:
        place = <void **>&(<spinlock_s *>place[0]).next
    if place[0] == NULL:
        return SPIN_COUNT
    spinlock_take_off(place)
    return SPIN_OK


cdef bint spinlock_held(spinlock_s *lock) noexcept nogil:
    cdef thread_s *thread = current_thread()
    return thread != NULL and is_taken(lock) and st_loadp_relaxed(&lock.owner) == thread


cdef class SpinLock:
    """SpinLock(name=None)\n--\n\n\
    A lock whose owner is an SpdkThread, for a handful of instructions, with SPDK's checks in every build.

    Parameters
    ----------
    name : str, optional
        For the errors. By default ``lock_`` and a number.

    Notes
    -----
    Each misuse raises `SpinLockError`, without an effect, where SPDK ends the process. A lock that is still held when
    a message, poller, timer or descriptor's handler returns cannot be raised in that callback: it is reported to
    ``lib.exception_handler`` as an exception of the callback, and the lock is released, so that the threads that wait
    for it go on.

    Python code that has to wait tries a few times and then lets the GIL go between tries, because the owner may need
    the GIL before it unlocks. Ctrl-C ends the wait.

    **Thread safety:** `lock`, `unlock` and ``with`` on any SpdkThread; `destroy` anywhere. Answers to
    ``struct spdk_spinlock``.
    """

    def __init__(self, name=None):
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, got {type(name).__name__}")
        if st_load32_acquire(&self.c.state) == SPINLOCK_LIVE:
            raise SpinLockError(f"{self!r} is initialised already", lock=self)
        self.name = f"lock_{st_add_relaxed(&names, 1) + 1}" if name is None else str(name)
        cdef bytes short = self.name.encode("utf-8", "replace")
        spinlock_init(&self.c, short)

    def __dealloc__(self):
        # Python code that holds it keeps it: only native code can have left it locked.
        if spinlock_held(&self.c):
            spinlock_unlock(&self.c)

    def __repr__(self):
        cdef uint32_t state = st_load32_acquire(&self.c.state)
        if state != SPINLOCK_LIVE:
            words = "destroyed" if state == SPINLOCK_DEAD else "not initialized"
        else:
            owner = self.owner
            words = "free" if owner is None else f"held by {owner.name!r}"
        return f"<SpinLock {self.name!r} {words}>"

    def __enter__(self):
        self.lock()
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        self.unlock()

    def lock(self) -> None:
        """Take it; wait while another thread holds it.

        Raises
        ------
        SpinLockError
            Where no SpdkThread is current, when this thread holds it already, when its owner is suspended on this OS
            thread below the caller, or when it is destroyed.

        Notes
        -----
        **Thread safety:** any SpdkThread. Answers to ``spdk_spin_lock``.
        """
        cdef int error = lock_within(&self.c, SPINS)
        while error == SPIN_BUSY:
            PyErr_CheckSignals()
            with nogil:
                error = lock_within(&self.c, ROUNDS)
        if error:
            self._fail("lock", error)
        if self.c.kept == NULL:
            Py_INCREF(self)
            self.c.kept = <PyObject *>self

    def unlock(self) -> None:
        """Release it.

        Raises
        ------
        SpinLockError
            On another thread than its owner, when it is not locked, or destroyed.

        Notes
        -----
        **Thread safety:** the SpdkThread that locked it. Answers to ``spdk_spin_unlock``.
        """
        cdef int error
        cdef PyObject *kept = NULL
        if spinlock_held(&self.c):
            kept = self.c.kept
            self.c.kept = NULL
        error = spinlock_unlock(&self.c)
        if kept != NULL:
            Py_DECREF(self)
        if error:
            self._fail("unlock", error)

    def held(self) -> bool:
        """Whether the current SpdkThread holds it.

        Raises
        ------
        SpinLockError
            Where no SpdkThread is current, or when it is destroyed.

        Notes
        -----
        **Thread safety:** any SpdkThread. Answers to ``spdk_spin_held``.
        """
        cdef int error = check_live(&self.c)
        if error == SPIN_OK and current_thread() == NULL:
            error = SPIN_NOT_SPDK_THREAD
        if error:
            self._fail("held", error)
        return spinlock_held(&self.c)

    def destroy(self) -> None:
        """End its use: what locks it afterwards is told so. Dropping the object is enough where nothing would.

        Raises
        ------
        SpinLockError
            While it is held, or when it is destroyed already.

        Notes
        -----
        **Thread safety:** anywhere. Answers to ``spdk_spin_destroy``.
        """
        cdef int error = spinlock_destroy(&self.c)
        if error:
            self._fail("destroy", error)

    @property
    def owner(self):
        """The SpdkThread that holds it, or None. **Thread safety:** anywhere; of another thread a snapshot."""
        cdef thread_s *thread
        if not is_taken(&self.c):
            return None
        thread = <thread_s *>st_loadp_relaxed(&self.c.owner)
        return None if thread == NULL else <SpdkThread>thread.owner

    cdef int _fail(self, str what, int error) except -1:
        cdef thread_s *thread = current_thread()
        here = "no SPDK thread" if thread == NULL else f"SPDK thread {(<SpdkThread>thread.owner).name!r}"
        owner = self.owner
        raise SpinLockError(
            f"{what} of spin lock {self.name!r} on {here}, owner {None if owner is None else owner.name!r}: "
            f"{REASONS[error]} (SPDK's spinlock error {error})",
            lock=self, owner=owner, reason=REASONS[error], number=error,
        )
