"""Sets of file descriptors in the kernel: epoll on Linux, kqueue elsewhere.

Each thread that has file descriptors owns a set, so that it can be moved with them. A reactor owns one more, of its
threads' sets: one look at that says whether anything is ready at all.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef SPDKTHREAD_FDS
    #define SPDKTHREAD_FDS
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <string.h>
    #include <unistd.h>
    #ifndef __linux__
    #include <time.h>
    #endif

    enum { FD_READABLE = 1, FD_WRITABLE = 2, FD_BATCH = 64 };

    /* One ready descriptor: the tag it was added with, and what it is ready for. */
    typedef struct fd_event { uint64_t tag; uint32_t events; } fd_event;

    /* A daemon closes 0, 1 and 2 and expects that its own files, or nothing, take their places. */
    static inline int fd_above_standard(int fd) {
        int moved;
        if (fd < 0 || fd > 2) return fd;
        moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        close(fd);
        return moved;
    }

    static inline int fd_is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

    #ifdef __linux__
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    static inline int fd_group_open(void) { return fd_above_standard(epoll_create1(EPOLL_CLOEXEC)); }
    static inline int fd_group_control(int set, int op, int fd, uint32_t events, uint64_t tag) {
        struct epoll_event event;
        memset(&event, 0, sizeof event);
        event.events = (events & FD_READABLE ? EPOLLIN | EPOLLRDHUP : 0) | (events & FD_WRITABLE ? EPOLLOUT : 0);
        event.data.u64 = tag;
        return epoll_ctl(set, op, fd, &event) < 0 ? errno : 0;
    }
    static inline int fd_group_add(int set, int fd, uint32_t events, uint64_t tag) {
        return fd_group_control(set, EPOLL_CTL_ADD, fd, events, tag);
    }
    static inline int fd_group_change(int set, int fd, uint32_t before, uint32_t events, uint64_t tag) {
        (void)before;
        return fd_group_control(set, EPOLL_CTL_MOD, fd, events, tag);
    }
    static inline int fd_group_remove(int set, int fd, uint32_t events) {
        return fd_group_control(set, EPOLL_CTL_DEL, fd, events, 0);
    }
    /* Ready once for each time that something comes, and not as long as it is there. */
    static inline int fd_group_add_edge(int set, int fd, uint64_t tag) {
        struct epoll_event event;
        memset(&event, 0, sizeof event);
        event.events = EPOLLIN | EPOLLET;
        event.data.u64 = tag;
        return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
    }
    static inline int fd_epoll_sleep(int set, struct epoll_event *got, int limit, int64_t timeout_ns) {
        int64_t ms;
    #ifdef SYS_epoll_pwait2
        static int lacking = 0;             /* the kernel has no such call; written with one value only */
        if (timeout_ns > 0 && !__atomic_load_n(&lacking, __ATOMIC_RELAXED)) {
            struct fd_timespec { int64_t s, ns; } timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
            int count = (int)syscall(SYS_epoll_pwait2, set, got, limit, &timeout, NULL, (size_t)0);
            if (count >= 0 || (errno != ENOSYS && errno != EPERM)) return count;
            __atomic_store_n(&lacking, 1, __ATOMIC_RELAXED);
        }
    #endif
        ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
        return epoll_wait(set, got, limit, ms > 1 << 30 ? 1 << 30 : (int)ms);
    }
    /* Wait until one is ready, at most `timeout_ns` (negative: for ever). How many are; -1: a signal has come. */
    static inline int fd_group_sleep(int set, fd_event *out, int limit, int64_t timeout_ns) {
        struct epoll_event got[FD_BATCH];
        int count = fd_epoll_sleep(set, got, limit < FD_BATCH ? limit : FD_BATCH, timeout_ns);
        if (count < 0) return errno == EINTR ? -1 : 0;
        for (int i = 0; i < count; i++) {
            uint32_t seen = got[i].events;
            out[i].tag = got[i].data.u64;
            /* A hang-up or an error is found out by reading or by writing, whichever is asked for. */
            out[i].events = (seen & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI) ? FD_READABLE : 0)
                | (seen & (EPOLLOUT | EPOLLHUP | EPOLLERR) ? FD_WRITABLE : 0);
        }
        return count;
    }
    static inline int fd_group_wait(int set, fd_event *out, int limit) {
        int count = fd_group_sleep(set, out, limit, 0);
        return count < 0 ? 0 : count;
    }
    #else
    #include <sys/event.h>
    static inline int fd_group_open(void) {
        int set = fd_above_standard(kqueue());
        if (set >= 0) fcntl(set, F_SETFD, FD_CLOEXEC);
        return set;
    }
    static inline int fd_group_one(int set, int fd, short filter, int flags, uint64_t tag) {
        struct kevent change;
        EV_SET(&change, fd, filter, flags, 0, 0, (void *)(uintptr_t)tag);
        return kevent(set, &change, 1, NULL, 0, NULL) < 0 ? errno : 0;
    }
    static inline int fd_group_change(int set, int fd, uint32_t before, uint32_t events, uint64_t tag) {
        int failed = 0;
        if (before & ~events & FD_READABLE) fd_group_one(set, fd, EVFILT_READ, EV_DELETE, tag);
        if (before & ~events & FD_WRITABLE) fd_group_one(set, fd, EVFILT_WRITE, EV_DELETE, tag);
        if (events & ~before & FD_READABLE) failed = fd_group_one(set, fd, EVFILT_READ, EV_ADD, tag);
        if (!failed && events & ~before & FD_WRITABLE) failed = fd_group_one(set, fd, EVFILT_WRITE, EV_ADD, tag);
        return failed;
    }
    static inline int fd_group_add(int set, int fd, uint32_t events, uint64_t tag) {
        return fd_group_change(set, fd, 0, events, tag);
    }
    static inline int fd_group_remove(int set, int fd, uint32_t events) {
        return fd_group_change(set, fd, events, 0, 0);
    }
    static inline int fd_group_add_edge(int set, int fd, uint64_t tag) {
        return fd_group_one(set, fd, EVFILT_READ, EV_ADD | EV_CLEAR, tag);
    }
    static inline int fd_group_sleep(int set, fd_event *out, int limit, int64_t timeout_ns) {
        struct kevent got[FD_BATCH];
        struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        int count = kevent(
            set, NULL, 0, got, limit < FD_BATCH ? limit : FD_BATCH, timeout_ns < 0 ? NULL : &timeout
        );
        if (count < 0) return errno == EINTR ? -1 : 0;
        for (int i = 0; i < count; i++) {
            out[i].tag = (uint64_t)(uintptr_t)got[i].udata;
            out[i].events = got[i].filter == EVFILT_READ ? FD_READABLE : FD_WRITABLE;
        }
        return count;
    }
    static inline int fd_group_wait(int set, fd_event *out, int limit) {
        int count = fd_group_sleep(set, out, limit, 0);
        return count < 0 ? 0 : count;
    }
    #endif
    /* Put the set `fresh` in the place of `set`: the number is never free in between, so no file of the user's gets it,
       and whatever it was among (a set of a reactor) has to be told again. 0, or an errno. */
    static inline int fd_set_replace(int set, int fresh) {
        int failed = 0;
        if (dup2(fresh, set) < 0 || fcntl(set, F_SETFD, FD_CLOEXEC) < 0) failed = errno;
        close(fresh);
        return failed;
    }
    /* In the child of a fork, where `set` is the parent's too: put an empty one in its place. Nothing happens when
       another file has its number: the set was closed by code that is not ours. 0, or an errno. */
    static inline int fd_set_part(int set) {
    #ifdef __linux__
        struct epoll_event event;
        int failed;
    #endif
        int fresh = fd_group_open();
        if (fresh < 0) return errno;
    #ifdef __linux__
        memset(&event, 0, sizeof event);
        /* Only a set can say that `fresh` is not in it. */
        failed = epoll_ctl(set, EPOLL_CTL_DEL, fresh, &event) < 0 ? errno : 0;
        if (failed != ENOENT) {
            close(fresh);
            return failed;
        }
    #endif
        return fd_set_replace(set, fresh);
    }
    static inline int fd_set_ready(int set) {
        fd_event one;
        return fd_group_wait(set, &one, 1) > 0;
    }
    #endif
    """
    const int FD_READABLE, FD_WRITABLE, FD_BATCH
    ctypedef struct fd_event:
        uint64_t tag
        uint32_t events

    int fd_above_standard(int fd) noexcept nogil
    int fd_is_open(int fd) noexcept nogil
    int fd_group_open() noexcept nogil
    int fd_set_replace(int set, int fresh) noexcept nogil
    int fd_set_part(int set) noexcept nogil
    int fd_group_add(int set, int fd, uint32_t events, uint64_t tag) noexcept nogil
    int fd_group_change(int set, int fd, uint32_t before, uint32_t events, uint64_t tag) noexcept nogil
    int fd_group_remove(int set, int fd, uint32_t events) noexcept nogil
    int fd_group_add_edge(int set, int fd, uint64_t tag) noexcept nogil
    int fd_group_sleep(int set, fd_event *out, int limit, int64_t timeout_ns) noexcept nogil
    int fd_group_wait(int set, fd_event *out, int limit) noexcept nogil
    int fd_set_ready(int set) noexcept nogil
