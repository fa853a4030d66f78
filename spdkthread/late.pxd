"""What a lower layer needs of an upper one: hooks that the upper modules fill while they are imported.

Modules of the core import downwards only, at the top of their files. Where a method of a lower module is the work of an
upper one (`SpdkThread.acall` is asyncio's business, `ThreadLib.create_thread` makes an SpdkThread), it calls
``late(LATE_ACALL)``: a load and a branch once the hook is filled. An upper module fills its hooks with `late_fill`, or
from Python with `fill`, at the end of its import.

An empty hook has its module imported, by the table in late.pyx, which is the only place in the core that names upper
modules. So a program that imports nothing but SpdkThread finds every hook filled when it needs it, and ``import
spdkthread`` loads neither asyncio nor concurrent.futures. Where an empty hook is an answer in itself (without the
module of the reactors there is no reactor), `late_found` says so and imports nothing.

Forks: the child of a fork has the hooks of its parent, so nothing is imported there, and no import lock taken, for an
upper module that the parent has used.
"""

from cpython.object cimport PyObject

from spdkthread.atomics cimport st_atomic_ptr, st_loadp_acquire


# In the order of TABLE in late.pyx.
cdef enum late_hook:
    LATE_THREAD             # SpdkThread
    LATE_FOR_EACH_THREAD
    LATE_IO_DEVICE          # IoDevice
    LATE_GET_REACTOR
    LATE_START_TRACE        # trace.start_from_environment
    LATE_ACALL
    LATE_AWAIT_FUTURE
    LATE_SPAWN
    LATE_EXECUTOR           # aio.ThreadExecutor
    LATE_ASYNC_START        # of a Reactor or ReactorGroup, under asyncio
    LATE_ASYNC_STOP
    LATE_OPEN_RPC_SOCKET
    LATE_COUNT


cdef struct late_hooks:
    st_atomic_ptr objects[LATE_COUNT]       # one reference each, for good


cdef late_hooks hooks

cdef object late_load(int which)
cdef int late_fill(int which, object what) except -1


cdef inline object late(int which):
    """What fills a hook; its module is imported when it is empty."""
    cdef PyObject *found = <PyObject *>st_loadp_acquire(&hooks.objects[which])
    if found == NULL:
        return late_load(which)
    return <object>found


cdef inline object late_found(int which):
    """What fills a hook; None when its module was never imported."""
    cdef PyObject *found = <PyObject *>st_loadp_acquire(&hooks.objects[which])
    return None if found == NULL else <object>found
