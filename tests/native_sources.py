"""Native functions for the tests, made without a compiler, and each way to hand one over.

A callback made here ends in Python, which takes the GIL for itself, so a test can watch it. What is truly native
comes from libc and from the interpreter: `sem_post`, `atoi`, `PyGILState_Check`.
"""

import ctypes
import importlib.util

MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
POLLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
MESSAGE_NAME = b"void (void *)"
POLLER_NAME = b"int (void *)"

PyCapsule_New = ctypes.pythonapi.PyCapsule_New
PyCapsule_New.restype = ctypes.py_object
PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

# There is no cffi for the free-threaded 3.13: what is made with it is not among the sources there.
FFI = None
if importlib.util.find_spec("cffi"):
    import cffi

    FFI = cffi.FFI()
    FFI.cdef("typedef struct { char bytes[64]; } semaphore; void sem_post(void *); int atoi(void *);")


def address_of(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def capsule(address, name):
    """A PyCapsule around `address`; `name` must outlive it, so it is one of the constants above."""
    return PyCapsule_New(address, name, None)


class NumbaLike:
    """What numba's `@cfunc` gives: an object with the properties `address` and `ctypes`."""

    def __init__(self, function):
        self._function = function

    @property
    def address(self):
        return address_of(self._function)

    @property
    def ctypes(self):
        return self._function


def from_ctypes(fn, kind):
    return kind(fn)


def from_capsule(fn, kind):
    function = kind(fn)
    KEPT.append(function)
    return capsule(address_of(function), MESSAGE_NAME if kind is MESSAGE else POLLER_NAME)


def from_pyx_capi(fn, kind):
    """An entry of a Cython module's `__pyx_capi__`: a capsule named by the C signature."""
    module = {"callback": from_capsule(fn, kind)}
    return module["callback"]


def from_cffi(fn, kind):
    def call(pointer):
        return fn(int(FFI.cast("uintptr_t", pointer)) or None)

    return FFI.callback("void(void *)" if kind is MESSAGE else "int(void *)", call)


def from_cffi_cast(fn, kind):
    function = kind(fn)
    KEPT.append(function)
    return FFI.cast("void(*)(void *)" if kind is MESSAGE else "int(*)(void *)", address_of(function))


def from_numba(fn, kind):
    return NumbaLike(kind(fn))


KEPT = []
"""Callbacks behind a bare address, which nothing else keeps alive. Emptied after each test."""

SOURCES = {
    "ctypes": from_ctypes,
    "PyCapsule": from_capsule,
    "__pyx_capi__": from_pyx_capi,
    "numba cfunc": from_numba,
}
if FFI:
    SOURCES |= {"cffi callback": from_cffi, "cffi cast": from_cffi_cast}

LIBC = ctypes.CDLL(None)


class Semaphore:
    """A POSIX semaphore: a counter that native code can raise with the address of its memory and nothing else."""

    def __init__(self):
        self.memory = (ctypes.c_char * 64)()
        assert LIBC.sem_init(ctypes.byref(self.memory), 0, 0) == 0

    @property
    def value(self):
        value = ctypes.c_int()
        assert LIBC.sem_getvalue(ctypes.byref(self.memory), ctypes.byref(value)) == 0
        return value.value


def native(name, restype):
    """A function of the process, of its own, with the signature of a message or of a poller."""
    return ctypes.CFUNCTYPE(restype, ctypes.c_void_p)((name, LIBC))


def sem_post():
    return native("sem_post", None)


def holds_the_gil():
    """A poller that answers 1 when its OS thread holds the GIL, 0 when not."""
    return native("PyGILState_Check", ctypes.c_int)


def atoi():
    """A poller whose value is the number that its context spells."""
    return native("atoi", ctypes.c_int)
