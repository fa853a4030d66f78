"""Forks: what was made before one, and locks that the child finds free. See ``forks.pxd``."""

import _frozen_importlib
import os
import sys
from threading import RLock

from libc.stdint cimport uint32_t

from spdkthread.atomics cimport st_load32_acquire, st_store32_relaxed, st_store32_release

__all__ = ["ReentrantLock"]

cdef extern from *:
    """
    #include <pthread.h>
    static uint32_t *st_generation;
    /* Before anything else of the child: hooks of others, which may drop objects of ours, run later. */
    static void st_count_fork(void) { ++*st_generation; }
    static int st_watch_forks(uint32_t *generation) {
        st_generation = generation;
        return pthread_atfork(NULL, NULL, st_count_fork);
    }
    """
    int st_watch_forks(uint32_t *generation) noexcept

fork_generation = 1
if st_watch_forks(&fork_generation):
    raise MemoryError("no memory for the watch of forks")


# Of the import system: the locks of modules that are being imported, by name, and what waits for one of them.
module_locks = getattr(_frozen_importlib, "_module_locks", {})
wait_for_import = getattr(_frozen_importlib, "_lock_unlock_module", None)


def finish_imports():
    """Before a fork: wait for what other OS threads are importing at the moment.

    The lock of such a module stays shut in the child, and the library imports some only when it needs them: asyncio
    with the first cancelled coroutine, its own upper modules. What users import is not waited for, it may never come
    to an end; the standard library's modules and these do at once.
    """
    for name in tuple(module_locks):
        package = name.partition(".")[0]
        if package == "spdkthread" or package in sys.stdlib_module_names:
            wait_for_import(name)


if wait_for_import is not None:
    os.register_at_fork(before=finish_imports)


cdef class ReentrantLock:
    """A lock that its holder may take again, and that no fork leaves shut.

    While a lock is held in Python, foreign code can run on the same OS thread: a collection with its destructors at an
    allocation, a signal handler, a `repr`. When that calls the library, it comes to the same lock. So every lock of the
    library that is held across anything of Python's is one of these, and what it guards is valid at each such point.

    Notes
    -----
    **Thread safety:** any OS thread, signal handlers, destructors, the child of a fork.
    """

    def __cinit__(self):
        self.inner = RLock()
        st_store32_relaxed(&self.generation, fork_generation)

    def __enter__(self):
        self.acquire()
        return True

    def __exit__(self, kind, error, traceback):
        self.inner.release()

    def acquire(self, blocking=True, timeout=-1):
        """As ``threading.RLock.acquire``."""
        if st_load32_acquire(&self.generation) != fork_generation:
            self.renew()
        return self.inner.acquire(blocking, timeout)

    def release(self):
        """As ``threading.RLock.release``."""
        self.inner.release()

    cdef int renew(self) except -1:
        """In a child: replace it, unless the OS thread that forked holds it: that goes on holding it."""
        cdef object fresh = RLock()
        cdef bint mine = self.inner._is_owned()
        spin_lock(&self.renewing)
        if st_load32_acquire(&self.generation) != fork_generation:
            if not mine:
                self.inner, fresh = fresh, self.inner
            st_store32_release(&self.generation, fork_generation)
        spin_unlock(&self.renewing)
        return 0

    # For threading.Condition.

    def _is_owned(self):
        if st_load32_acquire(&self.generation) != fork_generation:
            self.renew()
        return self.inner._is_owned()

    def _release_save(self):
        return self.inner._release_save()

    def _acquire_restore(self, state):
        self.inner._acquire_restore(state)
