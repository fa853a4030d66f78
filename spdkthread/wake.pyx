"""Waking a reactor that sleeps: a flag and a file descriptor. See ``wake.pxd``."""

import os

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport (
    st_add_relaxed,
    st_and32_acq_rel,
    st_atomic_u32,
    st_atomic_u64,
    st_fence_seq_cst,
    st_load32_relaxed,
    st_load_relaxed,
    st_loadp_acquire,
    st_store32_relaxed,
    st_storep_release,
)
from spdkthread.fds cimport fd_above_standard, fd_is_open
from spdkthread.forks cimport fork_generation, spin_lock, spin_unlock

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
    int close(int fd) nogil

cdef wake_gate *free_gates = NULL
cdef wake_gate *made_gates = NULL
cdef st_atomic_u32 free_gates_lock
cdef uint64_t gates = 0
cdef st_atomic_u64 maps


cdef int open_bell(wake_gate *gate) noexcept nogil:
    cdef int bell, ear
    if st_bell_open(&bell, &ear) < 0:
        return -1
    if bell == ear:
        bell = ear = fd_above_standard(ear)
    else:
        bell, ear = fd_above_standard(bell), fd_above_standard(ear)
    if bell < 0 or ear < 0:
        return -1
    gate.ear = ear
    st_store32_relaxed(&gate.bell, <uint32_t>bell)
    return 0


cdef bint wake_gate_mend(wake_gate *gate) noexcept nogil:
    """Sleeper: a new bell when other code has closed this one. Whether it had.

    A sender may just be ringing the old number; what it has published is found before the next sleep.
    """
    return not fd_is_open(gate.ear) and open_bell(gate) == 0


cdef wake_gate *wake_gate_take() except NULL:
    """A gate nobody uses, made when there is none."""
    global free_gates, made_gates, gates
    cdef wake_gate *gate
    spin_lock(&free_gates_lock)
    gate = free_gates
    while gate != NULL and gate.generation != fork_generation:
        gate = gate.next_free
    if gate != NULL:
        free_gates = gate.next_free
    spin_unlock(&free_gates_lock)
    if gate == NULL:
        gate = <wake_gate *>core_calloc(1, sizeof(wake_gate))
        if gate == NULL:
            raise MemoryError("no memory for a wake gate")
        if open_bell(gate) < 0:
            core_free(gate)
            raise OSError("no file descriptor for a wake-up bell")
        gate.generation = fork_generation
        spin_lock(&free_gates_lock)
        gate.next_made = made_gates
        made_gates = gate
        gates += 1
        spin_unlock(&free_gates_lock)
    gate.next_free = NULL
    st_store32_relaxed(&gate.sleeping, 0)
    wake_clear(gate)
    return gate


cdef void wake_gate_give_back(wake_gate *gate) noexcept nogil:
    global free_gates
    if gate == NULL or gate.generation != fork_generation:
        return
    st_store32_relaxed(&gate.sleeping, 0)
    spin_lock(&free_gates_lock)
    gate.next_free = free_gates
    free_gates = gate
    spin_unlock(&free_gates_lock)


cdef bint wake_gate_list(wake_gate *gate, uint64_t threads) noexcept nogil:
    """Have a map for so many threads. A smaller one stays, as senders may still set bits in it. False: no memory."""
    cdef ready_map *ready = <ready_map *>st_loadp_acquire(&gate.ready)
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
    st_storep_release(&gate.ready, larger)
    return True


cdef void wake_for(wake_gate *gate, uint32_t index) noexcept nogil:
    """Sender, after its fence, at a reactor that sleeps or lists: what it has published is for thread `index`."""
    cdef ready_map *ready
    if st_load32_relaxed(&gate.sleeping) & WAKE_LISTS:
        ready = <ready_map *>st_loadp_acquire(&gate.ready)
        if ready != NULL:
            ready_set(ready, index)
            st_fence_seq_cst()
    if (
        st_load32_relaxed(&gate.sleeping) & WAKE_ASLEEP
        and st_and32_acq_rel(&gate.sleeping, ~<uint32_t>WAKE_ASLEEP) & WAKE_ASLEEP
    ):
        wake_ring(gate)


cdef void wake_ring(wake_gate *gate) noexcept nogil:
    st_bell_ring(<int>st_load32_relaxed(&gate.bell))


cdef void wake_clear(wake_gate *gate) noexcept nogil:
    """Sleeper: what has rung so far is heard."""
    st_bell_clear(gate.ear)


def close_after_fork():
    """At the beginning of a child: the descriptors are the parent's too, and their numbers may soon be others'."""
    cdef wake_gate *gate = made_gates
    while gate != NULL:
        if gate.generation != fork_generation and gate.ear >= 0:
            if <int>st_load32_relaxed(&gate.bell) != gate.ear:
                close(<int>st_load32_relaxed(&gate.bell))
            close(gate.ear)
            st_store32_relaxed(&gate.bell, <uint32_t>-1)
            gate.ear = -1
        gate = gate.next_made


os.register_at_fork(after_in_child=close_after_fork)


def gate_count() -> int:
    """Gates made so far; they are reused, never freed."""
    return gates


def map_count() -> int:
    """Maps of their threads that gates have had so far; they are kept like the gates."""
    return st_load_relaxed(&maps)
