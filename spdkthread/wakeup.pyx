"""Waking a reactor that sleeps: a flag and a file descriptor. See ``wakeup.pxd``."""

import os

from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u32,
    st_atomic_u64,
    st_fence_seq_cst,
    st_load32_relaxed,
    st_load_relaxed,
    st_loadp_acquire,
    st_store32_relaxed,
    st_storep_release,
)
from spdkthread.fd_group cimport fd_above_standard, fd_is_open
from spdkthread.forks cimport fork_generation, spin_lock, spin_unlock

cdef extern from *:
    """
    #include <unistd.h>
    #include <fcntl.h>
    #include <errno.h>
    #ifdef __linux__
    #include <sys/eventfd.h>
    static inline int st_notify_open(int *notify_fd, int *wait_fd) {
        *notify_fd = *wait_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return *notify_fd < 0 ? -1 : 0;
    }
    #else
    static inline int st_notify_open(int *notify_fd, int *wait_fd) {
        int ends[2];
        if (pipe(ends) < 0) return -1;
        for (int i = 0; i < 2; i++) {
            fcntl(ends[i], F_SETFD, FD_CLOEXEC);
            fcntl(ends[i], F_SETFL, O_NONBLOCK);
        }
        *wait_fd = ends[0];
        *notify_fd = ends[1];
        return 0;
    }
    #endif
    static inline void st_notify_write(int notify_fd) {
        uint64_t one = 1;
        /* EAGAIN: the descriptor is readable already. */
        while (write(notify_fd, &one, sizeof one) < 0 && errno == EINTR) { }
    }
    static inline void st_notify_clear(int wait_fd) {
        char bin[256];
        ssize_t got;
        do { got = read(wait_fd, bin, sizeof bin); } while ((got < 0 && errno == EINTR) || got == (ssize_t)sizeof bin);
    }
    """
    int st_notify_open(int *notify_fd, int *wait_fd) nogil
    void st_notify_write(int notify_fd) noexcept nogil
    void st_notify_clear(int wait_fd) noexcept nogil

cdef wakeup_state *free_wakeups = NULL
cdef wakeup_state *made_wakeups = NULL
cdef st_atomic_u32 free_wakeups_lock
cdef uint64_t wakeups = 0
cdef st_atomic_u64 maps


cdef int open_notify_fd(wakeup_state *wakeup) noexcept nogil:
    cdef int notify_fd, wait_fd
    if st_notify_open(&notify_fd, &wait_fd) < 0:
        return -1
    if notify_fd == wait_fd:
        notify_fd = wait_fd = fd_above_standard(wait_fd)
    else:
        notify_fd, wait_fd = fd_above_standard(notify_fd), fd_above_standard(wait_fd)
    if notify_fd < 0 or wait_fd < 0:
        return -1
    wakeup.wait_fd = wait_fd
    st_store32_relaxed(&wakeup.notify_fd, <uint32_t>notify_fd)
    return 0


cdef bint wakeup_repair(wakeup_state *wakeup) noexcept nogil:
    """Sleeper: open new descriptors if other code has closed these. Returns whether it had.

    A sender may just be writing to the old number; its message is found before the next sleep.
    """
    return not fd_is_open(wakeup.wait_fd) and open_notify_fd(wakeup) == 0


cdef wakeup_state *wakeup_take() except NULL:
    """A wake-up state that no reactor uses; a new one when all are in use."""
    global free_wakeups, made_wakeups, wakeups
    cdef wakeup_state *wakeup
    spin_lock(&free_wakeups_lock)
    wakeup = free_wakeups
    while wakeup != NULL and wakeup.generation != fork_generation:
        wakeup = wakeup.next_free
    if wakeup != NULL:
        free_wakeups = wakeup.next_free
    spin_unlock(&free_wakeups_lock)
    if wakeup == NULL:
        wakeup = <wakeup_state *>core_calloc(1, sizeof(wakeup_state))
        if wakeup == NULL:
            raise MemoryError("no memory for a wake-up state")
        if open_notify_fd(wakeup) < 0:
            core_free(wakeup)
            raise OSError("no file descriptor for a wake-up state")
        wakeup.generation = fork_generation
        spin_lock(&free_wakeups_lock)
        wakeup.next_made = made_wakeups
        made_wakeups = wakeup
        wakeups += 1
        spin_unlock(&free_wakeups_lock)
    wakeup.next_free = NULL
    st_store32_relaxed(&wakeup.sleeping, 0)
    wakeup_clear(wakeup)
    return wakeup


cdef void wakeup_give_back(wakeup_state *wakeup) noexcept nogil:
    """The reactor of this state does not sleep any more: another one may have it."""
    global free_wakeups
    if wakeup == NULL or wakeup.generation != fork_generation:
        return
    st_store32_relaxed(&wakeup.sleeping, 0)
    spin_lock(&free_wakeups_lock)
    wakeup.next_free = free_wakeups
    free_wakeups = wakeup
    spin_unlock(&free_wakeups_lock)


cdef bint wakeup_make_ready_map(wakeup_state *wakeup, uint64_t threads) noexcept nogil:
    """Have a map for so many threads. A smaller one is kept, as senders may still set bits in it. False: no memory."""
    cdef ready_map *ready = <ready_map *>st_loadp_acquire(&wakeup.ready)
    cdef uint64_t words = (threads + 63) // 64
    cdef ready_map *larger
    if ready != NULL and ready.words >= words:
        return True
    words = max(2 * words, <uint64_t>16)
    larger = <ready_map *>core_calloc(1, sizeof(ready_map) + words * sizeof(st_atomic_u64))
    if larger == NULL:
        return False
    larger.words = words
    larger.bits = <st_atomic_u64 *>(<char *>larger + sizeof(ready_map))
    larger.smaller = ready
    st_add_relaxed(&maps, 1)
    st_storep_release(&wakeup.ready, larger)
    return True


cdef void wakeup_thread(wakeup_state *wakeup, uint32_t index) noexcept nogil:
    """Sender, after its message and a fence, when `sleeping` is not 0: the message is for the thread at `index`."""
    cdef ready_map *ready
    if st_load32_relaxed(&wakeup.sleeping) & WAKEUP_READY_MAP:
        ready = <ready_map *>st_loadp_acquire(&wakeup.ready)
        if ready != NULL:
            ready_set(ready, index)
            st_fence_seq_cst()
    wakeup_sleeper(wakeup)


cdef void wakeup_signal(wakeup_state *wakeup) noexcept nogil:
    """Sender that has taken the flag away: end the sleep."""
    st_notify_write(<int>st_load32_relaxed(&wakeup.notify_fd))


cdef void wakeup_clear(wakeup_state *wakeup) noexcept nogil:
    """Sleeper: `wait_fd` is not readable until the next write."""
    st_notify_clear(wakeup.wait_fd)


def close_after_fork():
    """At the beginning of a child: the descriptors are the parent's too, and other code may soon have their numbers."""
    cdef wakeup_state *wakeup = made_wakeups
    while wakeup != NULL:
        if wakeup.generation != fork_generation and wakeup.wait_fd >= 0:
            if <int>st_load32_relaxed(&wakeup.notify_fd) != wakeup.wait_fd:
                close(<int>st_load32_relaxed(&wakeup.notify_fd))
            close(wakeup.wait_fd)
            st_store32_relaxed(&wakeup.notify_fd, <uint32_t>-1)
            wakeup.wait_fd = -1
        wakeup = wakeup.next_made


os.register_at_fork(after_in_child=close_after_fork)


def wakeup_count() -> int:
    """Wake-up states made so far; they are reused, never freed."""
    return wakeups


def map_count() -> int:
    """Ready maps made so far; they are kept like the wake-up states."""
    return st_load_relaxed(&maps)
