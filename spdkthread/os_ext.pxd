"""What the C library and the kernel offer and no file of Cython's declares. What one does is in `posix` and `libc`."""

from libc.stdint cimport int64_t


cdef extern from *:
    """
    #ifndef SPDKTHREAD_OS_EXT
    #define SPDKTHREAD_OS_EXT
    #include <errno.h>
    #include <pthread.h>
    #include <sched.h>
    #include <time.h>
    static inline void st_name_os_thread(const char *name) {
    #if defined(__linux__)
        pthread_setname_np(pthread_self(), name);
    #elif defined(__APPLE__)
        pthread_setname_np(name);
    #endif
    }
    #ifdef __linux__
    static inline int st_this_core(void) { return sched_getcpu(); }
    #else
    static inline int st_this_core(void) { return -1; }
    #endif
    static inline void st_nap(int64_t time_ns) {
        struct timespec nap = {time_ns / 1000000000, time_ns % 1000000000};
        nanosleep(&nap, NULL);
    }
    /* Of bytes or minus errno: there is nothing to do now. */
    static inline int st_again(Py_ssize_t result) {
        return result == -EAGAIN || result == -EWOULDBLOCK || result == -EINTR;
    }
    #endif
    """
    int sched_yield() noexcept nogil
    void st_name_os_thread(const char *name) noexcept nogil
    int st_this_core() noexcept nogil
    void st_nap(int64_t time_ns) noexcept nogil
    bint st_again(Py_ssize_t result) noexcept nogil
