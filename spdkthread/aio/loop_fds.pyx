"""The descriptors of an event loop. See ``loop_fds.pxd``.

Where the selector is the standard library's `EpollSelector`, its epoll is asked past it: the events are read into C
memory, without the GIL, and the selector is used as the table of what is registered.
"""

import errno
import os
import selectors

from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_state cimport LoopState
from spdkthread.fd_group cimport (
    FD_BATCH,
    FD_READABLE,
    FD_WRITABLE,
    fd_group_add,
    fd_group_change,
    fd_group_open,
    fd_group_remove,
    fd_group_wait,
)
from spdkthread.gil_handoff cimport gil_handoff_acquired, gil_handoff_released
from spdkthread.thread_poll cimport ATTENTION_FDS, attention_set

from spdkthread.errors import FdError


cdef bint asks_only_the_kernel(object selector):
    """Whether a selector's epoll may be asked in its stead: its class has no ``select`` of its own."""
    epoll = getattr(selectors, "EpollSelector", None)
    return (
        epoll is not None
        and isinstance(selector, epoll)
        and type(selector).select is epoll.select
        and type(selector).fileno is epoll.fileno
        and "select" not in selector.__dict__
        and type(selector._fd_to_key) is dict
    )


cdef int look_at_fds(LoopState loop) except -1:
    """Without waiting. Lets go of the GIL, as asyncio's loop does here."""
    if loop.thread.c.fd_count:
        watch_thread_fds(loop)
    if not loop.direct:
        return take_seen(loop, loop.selector.select(0))
    with nogil:
        gil_handoff_released()
        loop.events_count = fd_group_wait(loop.poll_fd, loop.events, FD_BATCH)
    gil_handoff_acquired()
    return take_events(loop)


cdef int watch_thread_fds(LoopState loop) except -1:
    """The thread has file descriptors of its own: have their set among the selector's."""
    cdef int fresh, failed
    if loop.thread_fds_serial == loop.thread.c.fd_set_serial:
        return 0
    fresh = loop.thread_fds
    if loop.thread_fds_serial:
        # Another set of the thread's is in there, closed by now; while a duplicate of it is open, in the child of a
        # fork perhaps, it cannot be taken out any more.
        fresh = fd_group_open()
        if fresh < 0:
            raise FdError(f"no file descriptor for the file descriptors of {loop.thread!r}")
        if loop.direct:
            fd_group_remove(loop.poll_fd, loop.thread_fds, FD_READABLE)
        else:
            loop.selector.unregister(loop.thread_fds)
        close(loop.thread_fds)
        loop.thread_fds = fresh
        loop.thread_fds_serial = 0
    failed = fd_group_add(fresh, loop.thread.c.fd_set, FD_READABLE, 0)
    if not failed and loop.direct:
        failed = fd_group_add(loop.poll_fd, fresh, FD_READABLE, <uint64_t>fresh)
    if failed:
        raise FdError(f"the file descriptors of {loop.thread!r} cannot be waited for: {os.strerror(failed)}")
    if not loop.direct:
        loop.selector.register(fresh, selectors.EVENT_READ, (None, None))
    loop.thread_fds_serial = loop.thread.c.fd_set_serial
    return 0


cdef int take_events(LoopState loop) except -1:
    """What `_process_events` does, for what the kernel said."""
    cdef int index, fd
    cdef uint32_t seen
    cdef PyObject *found
    cdef FdWatcher watcher
    for index in range(loop.events_count):
        fd = <int>(loop.events[index].tag & 0x7FFFFFFF)
        if fd == loop.thread_fds:
            attention_set(&loop.thread.c, ATTENTION_FDS)
            continue
        if fd < PyList_GET_SIZE(loop.watchers):
            found = PyList_GET_ITEM(loop.watchers, fd)
            if found != <PyObject *>None:
                watcher = <FdWatcher>found
                seen = loop.events[index].events & watcher.wanted
                if seen and not watcher.seen:
                    loop.ready.append(watcher)
                watcher.seen |= seen
                continue
        key = loop.keys.get(fd)
        if key is None:
            continue
        found = PyTuple_GET_ITEM(key, 3)
        data = <tuple><object>found
        seen = loop.events[index].events & <uint32_t><object>PyTuple_GET_ITEM(key, 2)
        if seen & FD_READABLE:
            reader = <object>PyTuple_GET_ITEM(data, 0)
            if reader is not None:
                if reader._cancelled:
                    loop._remove_reader(fd)
                else:
                    loop.ready.append(reader)
        if seen & FD_WRITABLE:
            writer = <object>PyTuple_GET_ITEM(data, 1)
            if writer is not None:
                if writer._cancelled:
                    loop._remove_writer(fd)
                else:
                    loop.ready.append(writer)
    loop.events_count = 0
    return 0


cdef int take_seen(LoopState loop, object seen) except -1:
    """What a selector said, the notify_fd and the descriptors of the thread apart."""
    if loop.thread_fds_serial:
        for key, _ in seen:
            if key.fd == loop.thread_fds:
                attention_set(&loop.thread.c, ATTENTION_FDS)
    loop._process_events(seen)
    return 0


# Descriptors without a Handle: what a transport watches

cdef int watch(LoopState loop, FdWatcher watcher, uint32_t mask) except -1:
    """From now on call `watcher` when its descriptor is ready for what `mask` says; 0: not at all."""
    cdef uint32_t before = watcher.wanted
    cdef int fd = watcher.fd
    cdef int failed = 0
    if mask == before:
        return 0
    if loop._closed:
        if mask:
            loop._check_closed()
        watcher.wanted = watcher.seen = 0
        return 0
    if not loop.direct:
        return watch_in_selector(loop, watcher, mask)
    if not before:
        failed = fd_group_add(loop.poll_fd, fd, mask, <uint64_t>fd)
        while not failed and PyList_GET_SIZE(loop.watchers) <= fd:
            loop.watchers.append(None)
        if not failed:
            # One that is there already had the number before: its file was closed under it, which took it out.
            loop.watchers[fd] = watcher
    elif PyList_GET_SIZE(loop.watchers) <= fd or loop.watchers[fd] is not watcher:
        failed = errno.EBADF if mask else 0
    elif mask:
        failed = fd_group_change(loop.poll_fd, fd, before, mask, <uint64_t>fd)
    else:
        fd_group_remove(loop.poll_fd, fd, before)       # fails where the file is closed, which is as good
        loop.watchers[fd] = None
    if failed:
        raise OSError(failed, f"{os.strerror(failed)} ({watcher!r})")
    watcher.wanted = mask
    watcher.seen &= mask
    return 0


cdef int watch_in_selector(LoopState loop, FdWatcher watcher, uint32_t mask) except -1:
    """With a selector that cannot be asked past its own class."""
    cdef uint32_t changed = watcher.wanted ^ mask
    if changed & FD_READABLE:
        if mask & FD_READABLE:
            loop._add_reader(watcher.fd, watcher._ready_to_read)
        else:
            loop._remove_reader(watcher.fd)
    if changed & FD_WRITABLE:
        if mask & FD_WRITABLE:
            loop._add_writer(watcher.fd, watcher._ready_to_write)
        else:
            loop._remove_writer(watcher.fd)
    watcher.wanted = mask
    watcher.seen = 0
    return 0
