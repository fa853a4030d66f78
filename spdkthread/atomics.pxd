"""Atomics with their order in the name, over C11's ``<stdatomic.h>``.

Cython ships no ``libc.stdatomic``; these are the operations that the library needs and no more. A type here is opaque:
it is read and written only through the functions, so that every access states its order.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from *:
    """
    #ifndef SPDKTHREAD_ATOMICS
    #define SPDKTHREAD_ATOMICS
    #include <stdatomic.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <sched.h>

    typedef _Atomic(uint64_t) st_atomic_u64;
    typedef _Atomic(uint32_t) st_atomic_u32;
    typedef _Atomic(void *) st_atomic_ptr;

    /* Two lines of 64 bytes: the adjacent-line prefetcher of x86-64 pulls pairs. */
    #define ST_LINE 128

    static inline uint64_t st_load_relaxed(st_atomic_u64 *p) { return atomic_load_explicit(p, memory_order_relaxed); }
    static inline uint64_t st_load_acquire(st_atomic_u64 *p) { return atomic_load_explicit(p, memory_order_acquire); }
    static inline void st_store_relaxed(st_atomic_u64 *p, uint64_t v) {
        atomic_store_explicit(p, v, memory_order_relaxed);
    }
    static inline void st_store_release(st_atomic_u64 *p, uint64_t v) {
        atomic_store_explicit(p, v, memory_order_release);
    }
    /* Strong, so that a lone producer never loops; relaxed, because the claim itself publishes nothing. */
    static inline int st_cas_relaxed(st_atomic_u64 *p, uint64_t *expected, uint64_t v) {
        return atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_relaxed, memory_order_relaxed);
    }
    static inline int st_cas_acq_rel(st_atomic_u64 *p, uint64_t *expected, uint64_t v) {
        return atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_acq_rel, memory_order_acquire);
    }
    static inline uint64_t st_add_relaxed(st_atomic_u64 *p, uint64_t v) {
        return atomic_fetch_add_explicit(p, v, memory_order_relaxed);
    }
    static inline uint64_t st_sub_relaxed(st_atomic_u64 *p, uint64_t v) {
        return atomic_fetch_sub_explicit(p, v, memory_order_relaxed);
    }
    static inline uint64_t st_or_acq_rel(st_atomic_u64 *p, uint64_t v) {
        return atomic_fetch_or_explicit(p, v, memory_order_acq_rel);
    }
    static inline uint64_t st_and_acq_rel(st_atomic_u64 *p, uint64_t v) {
        return atomic_fetch_and_explicit(p, v, memory_order_acq_rel);
    }

    static inline uint32_t st_load32_relaxed(st_atomic_u32 *p) {
        return atomic_load_explicit(p, memory_order_relaxed);
    }
    static inline uint32_t st_load32_acquire(st_atomic_u32 *p) {
        return atomic_load_explicit(p, memory_order_acquire);
    }
    static inline void st_store32_relaxed(st_atomic_u32 *p, uint32_t v) {
        atomic_store_explicit(p, v, memory_order_relaxed);
    }
    static inline void st_store32_release(st_atomic_u32 *p, uint32_t v) {
        atomic_store_explicit(p, v, memory_order_release);
    }
    static inline uint32_t st_exchange32(st_atomic_u32 *p, uint32_t v) {
        return atomic_exchange_explicit(p, v, memory_order_acq_rel);
    }
    static inline uint32_t st_or32_release(st_atomic_u32 *p, uint32_t v) {
        return atomic_fetch_or_explicit(p, v, memory_order_release);
    }
    static inline uint32_t st_and32_acq_rel(st_atomic_u32 *p, uint32_t v) {
        return atomic_fetch_and_explicit(p, v, memory_order_acq_rel);
    }

    static inline void *st_loadp_relaxed(st_atomic_ptr *p) { return atomic_load_explicit(p, memory_order_relaxed); }
    static inline void *st_loadp_acquire(st_atomic_ptr *p) { return atomic_load_explicit(p, memory_order_acquire); }
    static inline void st_storep_release(st_atomic_ptr *p, void *v) {
        atomic_store_explicit(p, v, memory_order_release);
    }
    static inline int st_casp_acq_rel(st_atomic_ptr *p, void *expected, void *v) {
        return atomic_compare_exchange_strong_explicit(p, &expected, v, memory_order_acq_rel, memory_order_acquire);
    }
    static inline void *st_exchangep(st_atomic_ptr *p, void *v) {
        return atomic_exchange_explicit(p, v, memory_order_acq_rel);
    }

    /* ThreadSanitizer does not model fences: under it a fence is a read-modify-write of one shared word, which orders
       at least as strongly. */
    #if defined(__SANITIZE_THREAD__)
    __attribute__((weak)) st_atomic_u64 st_fence_word;
    static inline void st_fence_seq_cst(void) {
        atomic_fetch_add_explicit(&st_fence_word, 1, memory_order_seq_cst);
    }
    #else
    static inline void st_fence_seq_cst(void) { atomic_thread_fence(memory_order_seq_cst); }
    #endif

    /* Keeps the compiler from moving anything across; the processor may. */
    static inline void st_compiler_barrier(void) { atomic_signal_fence(memory_order_seq_cst); }

    static inline void st_pause(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }

    /* A lock for a handful of instructions on cold paths, never held across a call into Python. Holding it takes no
       thread state, so it is legal attached and detached. */
    static inline void st_lock_as(st_atomic_u32 *lock, uint32_t mine) {
        int spins = 0;
        for (;;) {
            /* 0: free. Anything but `mine`: the holder is in another process, see forks.pxd. */
            uint32_t seen = atomic_load_explicit(lock, memory_order_relaxed);
            if (seen != mine && atomic_compare_exchange_weak_explicit(
                    lock, &seen, mine, memory_order_acquire, memory_order_relaxed)) return;
    #if defined(CYTHON_TRACE_NOGIL) && CYTHON_TRACE_NOGIL
            /* In a build for coverage every line calls the tracer, which may let the GIL go while the lock is held. */
            if (PyGILState_Check()) { Py_BEGIN_ALLOW_THREADS sched_yield(); Py_END_ALLOW_THREADS continue; }
    #endif
            if (++spins < 64) st_pause(); else sched_yield();
        }
    }
    static inline void st_unlock(st_atomic_u32 *lock) { atomic_store_explicit(lock, 0, memory_order_release); }
    #endif
    """
    ctypedef struct st_atomic_u64:
        pass
    ctypedef struct st_atomic_u32:
        pass
    ctypedef struct st_atomic_ptr:
        pass

    uint64_t st_load_relaxed(st_atomic_u64 *p) noexcept nogil
    uint64_t st_load_acquire(st_atomic_u64 *p) noexcept nogil
    void st_store_relaxed(st_atomic_u64 *p, uint64_t v) noexcept nogil
    void st_store_release(st_atomic_u64 *p, uint64_t v) noexcept nogil
    bint st_cas_relaxed(st_atomic_u64 *p, uint64_t *expected, uint64_t v) noexcept nogil
    bint st_cas_acq_rel(st_atomic_u64 *p, uint64_t *expected, uint64_t v) noexcept nogil
    uint64_t st_add_relaxed(st_atomic_u64 *p, uint64_t v) noexcept nogil
    uint64_t st_sub_relaxed(st_atomic_u64 *p, uint64_t v) noexcept nogil
    uint64_t st_or_acq_rel(st_atomic_u64 *p, uint64_t v) noexcept nogil
    uint64_t st_and_acq_rel(st_atomic_u64 *p, uint64_t v) noexcept nogil

    uint32_t st_load32_relaxed(st_atomic_u32 *p) noexcept nogil
    uint32_t st_load32_acquire(st_atomic_u32 *p) noexcept nogil
    void st_store32_relaxed(st_atomic_u32 *p, uint32_t v) noexcept nogil
    void st_store32_release(st_atomic_u32 *p, uint32_t v) noexcept nogil
    uint32_t st_exchange32(st_atomic_u32 *p, uint32_t v) noexcept nogil
    uint32_t st_or32_release(st_atomic_u32 *p, uint32_t v) noexcept nogil
    uint32_t st_and32_acq_rel(st_atomic_u32 *p, uint32_t v) noexcept nogil

    void *st_loadp_relaxed(st_atomic_ptr *p) noexcept nogil
    void *st_loadp_acquire(st_atomic_ptr *p) noexcept nogil
    void st_storep_release(st_atomic_ptr *p, void *v) noexcept nogil
    bint st_casp_acq_rel(st_atomic_ptr *p, void *expected, void *v) noexcept nogil
    void *st_exchangep(st_atomic_ptr *p, void *v) noexcept nogil

    void st_fence_seq_cst() noexcept nogil
    void st_compiler_barrier() noexcept nogil
    void st_pause() noexcept nogil
    void st_lock_as(st_atomic_u32 *lock, uint32_t mine) noexcept nogil
    void st_unlock(st_atomic_u32 *lock) noexcept nogil
