"""The driver of an SpdkThread: the one OS thread that may touch its state at present.

An OS thread drives by polling the thread by hand, or inside ``with thread:``, as deeply nested as it likes. A thread on
a reactor is driven by the reactor's loop, whichever OS thread that is. `os_thread` is the number of the OS thread, or::

    DRIVER_NONE         any OS thread may claim it
    DRIVER_REACTOR      a reactor polls it; no other OS thread may
    DRIVER_READ         for a moment: an OS thread that does not drive it reads its timers

The claim acquires what the driver before did, whose release is the store in `driver_release` or `driver_from_reactor`.
"""

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_atomic_u64,
    st_cas_acq_rel,
    st_load_relaxed,
    st_pause,
    st_store_release,
)
from spdkthread.cpython_ext cimport PyThread_get_thread_ident

cdef extern from *:
    """
    #define DRIVER_NONE ((uint64_t)0)
    #define DRIVER_REACTOR ((uint64_t)-1)     /* PYTHREAD_INVALID_THREAD_ID: no OS thread has it */
    #define DRIVER_READ ((uint64_t)-2)
    """
    const uint64_t DRIVER_NONE, DRIVER_REACTOR, DRIVER_READ


cdef struct driver_s:
    st_atomic_u64 os_thread
    uint32_t depth              # how often that OS thread has claimed it


cdef inline bint driver_is_here(driver_s *driver) noexcept nogil:
    """Whether the calling OS thread is the driver."""
    return st_load_relaxed(&driver.os_thread) == PyThread_get_thread_ident()


cdef inline uint64_t driver_claim(driver_s *driver) noexcept nogil:
    """Become the driver, once more if it is already: DRIVER_NONE, or the driver there is instead."""
    cdef uint64_t me = PyThread_get_thread_ident()
    cdef uint64_t found = DRIVER_NONE
    while st_load_relaxed(&driver.os_thread) != me and not st_cas_acq_rel(&driver.os_thread, &found, me):
        if found != DRIVER_READ:
            return found
        found = DRIVER_NONE
        st_pause()
    driver.depth += 1
    return DRIVER_NONE


cdef inline void driver_release(driver_s *driver) noexcept nogil:
    driver.depth -= 1
    if driver.depth == 0:
        st_store_release(&driver.os_thread, DRIVER_NONE)


cdef inline void driver_to_reactor(driver_s *driver) noexcept nogil:
    """The driver: hand over to a reactor."""
    driver.depth = 0
    st_store_release(&driver.os_thread, DRIVER_REACTOR)


cdef inline void driver_from_reactor(driver_s *driver) noexcept nogil:
    """The reactor: hand back, as the last thing that it does with the thread."""
    st_store_release(&driver.os_thread, DRIVER_NONE)


cdef inline bint driver_read_begin(driver_s *driver) noexcept nogil:
    """Keep others from driving while the caller reads; False: there is a driver. A claim waits meanwhile."""
    cdef uint64_t found = DRIVER_NONE
    return st_cas_acq_rel(&driver.os_thread, &found, DRIVER_READ)


cdef inline void driver_read_end(driver_s *driver) noexcept nogil:
    st_store_release(&driver.os_thread, DRIVER_NONE)
