"""Waking a reactor that sleeps: a flag and a file descriptor. See ``wake.pxd``."""

import os

from libc.stdint cimport uint64_t

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport st_atomic_u32, st_lock, st_store32_relaxed, st_unlock

cdef extern from *:
    """
    #include <unistd.h>
    #include <fcntl.h>
    #include <errno.h>
    #ifdef __linux__
    #include <sys/eventfd.h>
    static inline int st_bell_open(int *bell, int *ear) {
        *bell = *ear = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return *bell < 0 ? -1 : 0;
    }
    #else
    static inline int st_bell_open(int *bell, int *ear) {
        int ends[2];
        if (pipe(ends) < 0) return -1;
        for (int i = 0; i < 2; i++) {
            fcntl(ends[i], F_SETFD, FD_CLOEXEC);
            fcntl(ends[i], F_SETFL, O_NONBLOCK);
        }
        *ear = ends[0];
        *bell = ends[1];
        return 0;
    }
    #endif
    static inline void st_bell_ring(int bell) {
        uint64_t one = 1;
        /* EAGAIN means that it rings already. */
        while (write(bell, &one, sizeof one) < 0 && errno == EINTR) { }
    }
    static inline void st_bell_clear(int ear) {
        char bin[256];
        ssize_t got;
        do { got = read(ear, bin, sizeof bin); } while ((got < 0 && errno == EINTR) || got == (ssize_t)sizeof bin);
    }
    """
    int st_bell_open(int *bell, int *ear) nogil
    void st_bell_ring(int bell) noexcept nogil
    void st_bell_clear(int ear) noexcept nogil

cdef wake_gate *free_gates = NULL
cdef st_atomic_u32 free_gates_lock
cdef uint64_t gates = 0


cdef wake_gate *wake_gate_take() except NULL:
    """A gate nobody uses, made when there is none."""
    global free_gates, gates
    cdef wake_gate *gate
    st_lock(&free_gates_lock)
    gate = free_gates
    if gate != NULL:
        free_gates = gate.next_free
    st_unlock(&free_gates_lock)
    if gate == NULL:
        gate = <wake_gate *>core_calloc(1, sizeof(wake_gate))
        if gate == NULL:
            raise MemoryError("no memory for a wake gate")
        if st_bell_open(&gate.bell, &gate.ear) < 0:
            core_free(gate)
            raise OSError("no file descriptor for a wake-up bell")
        gates += 1
    gate.next_free = NULL
    st_store32_relaxed(&gate.sleeping, 0)
    wake_clear(gate)
    return gate


cdef void wake_gate_give_back(wake_gate *gate) noexcept nogil:
    global free_gates
    if gate == NULL:
        return
    st_store32_relaxed(&gate.sleeping, 0)
    st_lock(&free_gates_lock)
    gate.next_free = free_gates
    free_gates = gate
    st_unlock(&free_gates_lock)


cdef void wake_ring(wake_gate *gate) noexcept nogil:
    st_bell_ring(gate.bell)


cdef void wake_clear(wake_gate *gate) noexcept nogil:
    """Sleeper: what has rung so far is heard."""
    st_bell_clear(gate.ear)


def _forget_after_fork():
    # The descriptors are the parent's too: ringing them here would wake its reactors.
    global free_gates
    st_store32_relaxed(&free_gates_lock, 0)
    free_gates = NULL


os.register_at_fork(after_in_child=_forget_after_fork)


def gate_count() -> int:
    """Gates made so far; they are reused, never freed."""
    return gates
