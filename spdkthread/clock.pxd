"""Ticks: one tick is one nanosecond of ``time.perf_counter_ns``."""

from libc.stdint cimport int64_t, uint64_t

from spdkthread.atomics cimport st_atomic_u64, st_load_relaxed


cdef extern from *:
    """
    #ifndef SPDKTHREAD_CLOCK
    #define SPDKTHREAD_CLOCK
    #include <time.h>
    #if !defined(__linux__)
      #if PY_VERSION_HEX >= 0x030d0000
        static inline uint64_t st_ticks(void) { PyTime_t t; (void)PyTime_PerfCounterRaw(&t); return (uint64_t)t; }
      #else
        static inline uint64_t st_ticks(void) { return (uint64_t)_PyTime_GetPerfCounter(); }
      #endif
    #else
      /* What time.perf_counter_ns() reads on Linux, without the way through Python. */
      static inline uint64_t st_ticks(void) {
          struct timespec t;
          clock_gettime(CLOCK_MONOTONIC, &t);
          return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
      }
    #endif

    /* The processor's constant-rate counter: less than half the price of a clock read. For accounting only, where a
       figure is scaled to ticks when a program reads it. */
    static inline uint64_t st_cycles(void) {
    #if defined(__x86_64__)
        return __builtin_ia32_rdtsc();
    #elif defined(__aarch64__)
        uint64_t v;
        __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(v));
        return v;
    #else
        return st_ticks();
    #endif
    }
    #endif
    """
    uint64_t st_ticks() noexcept nogil
    uint64_t st_cycles() noexcept nogil


# A clock that stands still until it is told to move. A NULL pointer to one means the real clock.
cdef struct manual_clock:
    st_atomic_u64 now


cdef inline uint64_t clock_read(manual_clock *manual) noexcept nogil:
    """The tick of `manual`, or the real one."""
    if manual != NULL:
        return st_load_relaxed(&manual.now)
    return st_ticks()


cdef inline uint64_t account_read(manual_clock *manual) noexcept nogil:
    """A stamp for accounting: ticks of `manual`, or processor cycles. Differences go through `account_ticks`."""
    if manual != NULL:
        return st_load_relaxed(&manual.now)
    return st_cycles()


cdef int64_t account_ticks(manual_clock *manual, uint64_t difference) noexcept nogil
cdef int64_t never_less(st_atomic_u64 *seen, int64_t value) noexcept nogil
cdef uint64_t period_to_ticks(object period_us) except? 0xFFFFFFFFFFFFFFFF
cdef uint64_t delay_to_ticks(object delay_us) except? 0xFFFFFFFFFFFFFFFF

cdef class ManualClock:
    cdef manual_clock c
