"""The core and the timers of an OS thread that runs a reactor or a loop, and what it starts.

A reactor binds its OS thread to one core, and one that sleeps has the kernel wake it to the nanosecond. The kernel
hands both on: to every OS thread and every process that a callback starts. So an OS thread that is about to start
something is *loosened*, that is, has the affinity and the timer slack from before for a moment, and is tightened again
between two turns, or before its next sleep.

CPython says when a program starts something, by audit events, and only an OS thread that is bound or sharpened does
anything about it. A process that runs no reactor and no loop has no hook. With one, CPython builds the arguments of
each event, so a call that has an event costs more: ``id()``, the shortest of them, about 100 ns. No message, poller or
handler has one.
"""

import os
import sys

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from spdkthread.atomics cimport st_atomic_u32

__all__ = ["call_unaffinitized"]

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <sched.h>
    #include <stdlib.h>
    #include <string.h>
    #ifdef __linux__
    #include <sys/prctl.h>
    #endif

    typedef struct affinity_s {
        struct affinity_s *outer;       /* of a reactor or loop further out on this OS thread */
        int bound;
        int sharp;
        int loose;
        long slack;                     /* ns, before it was sharpened */
        st_atomic_u32 *requests;        /* of the reactor, to which `flag` says that it is loose; NULL: none */
        uint32_t flag;
    #ifdef __linux__
        unsigned long home[128];        /* bits of 8,192 processors: before it was bound */
        unsigned long core[128];
    #endif
    } affinity_s;

    /* Of this OS thread; NULL: neither bound nor sharp. */
    static _Thread_local affinity_s *affinity_here = NULL;

    static void affinity_apply(affinity_s *here, int loose) {
    #ifdef __linux__
        int error = errno;
        if (here->bound) sched_setaffinity(0, sizeof(here->home), (cpu_set_t *)(loose ? here->home : here->core));
        if (here->sharp) prctl(PR_SET_TIMERSLACK, loose ? here->slack : 1L, 0L, 0L, 0L);
        errno = error;
    #endif
        here->loose = loose;
    }

    /* What there is to go back to; 0, or why not. */
    static int affinity_remember(affinity_s *here, int core) {
        affinity_s *outer = affinity_here;
    #ifdef __linux__
        here->slack = outer != NULL && outer->sharp ? outer->slack : prctl(PR_GET_TIMERSLACK, 0L, 0L, 0L, 0L);
        if (here->slack <= 0) here->sharp = 0;
        if (core >= 0) {
            if (core >= 8192) return EINVAL;
            if (outer != NULL && outer->bound) memcpy(here->home, outer->home, sizeof(here->home));
            else if (sched_getaffinity(0, sizeof(here->home), (cpu_set_t *)here->home) != 0) return errno;
            here->core[core / (8 * sizeof(long))] = 1UL << core % (8 * sizeof(long));
            here->bound = 1;
        }
    #else
        here->sharp = 0;
    #endif
        here->outer = outer;
        return 0;
    }

    static void affinity_pop(void) {
        affinity_s *here = affinity_here;
        if (here == NULL) return;
        affinity_apply(here, 1);
        affinity_here = here->outer;
        if (here->outer != NULL && !here->outer->loose) affinity_apply(here->outer, 0);
        free(here);
    }

    static int affinity_loosen(void) {
        affinity_s *here = affinity_here;
        if (here == NULL || here->loose) return 0;
        affinity_apply(here, 1);
        return 1;
    }

    /* Before a program starts an OS thread or a process. */
    static int affinity_audit(const char *event, PyObject *args, void *unused) {
        static const char *const starts[] = {
            "_thread.start_", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.exec",
            "pty.spawn", NULL
        };
        affinity_s *here = affinity_here;
        if (here == NULL || here->loose) return 0;
        for (const char *const *start = starts; *start != NULL; start++) {
            if (strncmp(event, *start, strlen(*start)) != 0) continue;
            affinity_apply(here, 1);
            if (here->requests != NULL) st_or32_release(here->requests, here->flag);
            break;
        }
        return 0;
    }
    static int affinity_listen(void) {
        return PySys_AddAuditHook(affinity_audit, NULL);
    }
    static void affinity_forget(void) { affinity_here = NULL; }
    """
    ctypedef struct affinity_s:
        int bound
        int sharp
        int loose
        st_atomic_u32 *requests
        uint32_t flag
    affinity_s *affinity_here
    int affinity_remember(affinity_s *here, int core) noexcept nogil
    void affinity_pop() noexcept nogil
    int affinity_loosen() noexcept nogil
    void affinity_apply(affinity_s *here, int loose) noexcept nogil
    int affinity_listen() except? -1
    void affinity_forget() noexcept

cdef bint listening = False


cdef int affinity_enter(int core, bint sharp, st_atomic_u32 *requests, uint32_t flag) except -1:
    """Bind the calling OS thread to `core` (negative: leave it) and sharpen its timers, until `affinity_leave`.

    When what it starts has loosened it, `flag` is set in `requests`, for the reactor to call `affinity_tighten`.
    """
    global affinity_here
    cdef affinity_s *here
    cdef int problem
    listen()
    here = <affinity_s *>calloc(1, sizeof(affinity_s))
    if here == NULL:
        raise MemoryError("no memory for the affinity of an OS thread")
    here.sharp = sharp
    here.requests = requests
    here.flag = flag
    problem = affinity_remember(here, core)
    try:
        if problem:
            raise OSError(problem, os.strerror(problem))
        if here.bound:
            os.sched_setaffinity(0, {core})
    except BaseException:
        free(here)
        raise
    affinity_here = here
    affinity_apply(here, 0)
    return 0


cdef void affinity_leave() noexcept nogil:
    """Undo the last `affinity_enter` of this OS thread. Nothing without one."""
    affinity_pop()


cdef void affinity_tighten() noexcept nogil:
    """Bind and sharpen again an OS thread that was loosened."""
    if affinity_here != NULL and affinity_here.loose:
        affinity_apply(affinity_here, 0)


cdef int listen() except -1:
    global listening
    if listening:
        return 0
    listening = True
    try:
        affinity_listen()
    except Exception:
        pass        # a hook of the user's forbids further ones; `call_unaffinitized` is left
    if sys.version_info < (3, 12):
        listen_to_threads()
    return 0


cdef int listen_to_threads() except -1:
    """Before 3.12 there is no audit event for a new OS thread: the function that makes them says so itself."""
    import threading

    start = threading._start_new_thread

    def start_new_thread(*args):
        sys.audit("_thread.start_new_thread", *args)
        return start(*args)

    start_new_thread._spdkthread_starts_by = start
    threading._start_new_thread = start_new_thread
    return 0


def call_unaffinitized(fn, /, *args, **kwargs):
    """Call ``fn(*args, **kwargs)`` with the affinity and the timer slack from before the reactor bound this OS thread.

    For what starts OS threads or processes in ways of its own, in C for instance. What Python starts (``threading``,
    ``subprocess``, ``os.fork`` and its kin) has them anyway.

    Parameters
    ----------
    fn : callable
    *args, **kwargs

    Returns
    -------
    object
        What `fn` returns.

    Raises
    ------
    TypeError
        When `fn` is not callable.

    Notes
    -----
    **Thread safety:** any OS thread; on one that no reactor and no loop runs on it is a plain call. Answers to
    ``spdk_call_unaffinitized``.
    """
    cdef bint loosened
    if not callable(fn):
        raise TypeError(f"call_unaffinitized needs a callable, got {type(fn).__name__}")
    loosened = affinity_loosen()
    try:
        return fn(*args, **kwargs)
    finally:
        if loosened:
            affinity_tighten()


def _forget_after_fork():
    # The reactor is in the parent. This OS thread was loosened before the fork.
    affinity_forget()


os.register_at_fork(after_in_child=_forget_after_fork)
