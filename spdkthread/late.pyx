"""What a lower layer needs of an upper one. See ``late.pxd``."""

import importlib

from cpython.ref cimport Py_INCREF

from spdkthread.atomics cimport st_casp_acq_rel

__all__ = ["fill", "find", "found"]

# The name of each hook, and the module that fills it, in the order of `late_hook`.
cdef tuple TABLE = (
    ("thread", "spdkthread.thread"),
    ("for_each_thread", "spdkthread.thread_iteration"),
    ("io_device", "spdkthread.io_device"),
    ("get_reactor", "spdkthread.reactor"),
    ("start_trace", "spdkthread.trace"),
    ("acall", "spdkthread.aio.acall"),
    ("await_future", "spdkthread.aio.coroutine"),
    ("spawn", "spdkthread.aio.coroutine"),
    ("executor", "spdkthread.aio.executor"),
    ("async_start", "spdkthread.aio.async_context"),
    ("async_stop", "spdkthread.aio.async_context"),
    ("open_rpc_socket", "spdkthread.rpc.environment"),
)

cdef dict INDEX = {name: index for index, (name, _) in enumerate(TABLE)}

if len(TABLE) != LATE_COUNT:
    raise ImportError("spdkthread.late: TABLE and late_hook differ")


cdef object late_load(int which):
    """Have the module of an empty hook imported."""
    name, module = TABLE[which]
    importlib.import_module(module)
    what = late_found(which)
    if what is None:
        raise ImportError(f"{module} does not fill the hook {name!r} of spdkthread.late", name=module)
    return what


cdef int late_fill(int which, object what) except -1:
    """Fill a hook. An upper module does that once, at the end of its import; what comes second changes nothing."""
    if st_casp_acq_rel(&hooks.objects[which], NULL, <void *>what):
        Py_INCREF(what)
    return 0


def fill(name, what):
    """`late_fill` for modules in Python."""
    late_fill(INDEX[name], what)


def find(name):
    """`late` for modules in Python."""
    return late(INDEX[name])


def found(name):
    """`late_found` for modules in Python."""
    return late_found(INDEX[name])


def modules():
    """The hooks, and the module that fills each."""
    return dict(TABLE)
