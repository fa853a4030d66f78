"""Native callbacks: C functions that run without the GIL, and what keeps them alive.

A function is accepted only from something that carries its C type, so that a wrong signature is an error here and not
a crash later.
"""

import numbers
import sys

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.pycapsule cimport (
    PyCapsule_CheckExact,
    PyCapsule_GetContext,
    PyCapsule_GetName,
    PyCapsule_GetPointer,
)
from libc.stdint cimport uintptr_t

from spdkthread.cpython_ext cimport seal

__all__ = ["COMPLETION_SIGNATURE", "MESSAGE_SIGNATURE", "POLLER_SIGNATURE", "NativeCall", "add_signature"]

MESSAGE_SIGNATURE = "void (void *)"
POLLER_SIGNATURE = "int (void *)"
COMPLETION_SIGNATURE = "void (void *, int64_t)"

# Signatures of packages above, see `add_signature`.
cdef dict _CTYPES_ARGUMENTS = {COMPLETION_SIGNATURE: ("c_void_p", "c_int64")}
cdef dict _OTHER_NAMES = {}

# ctypes' own mark on a function type that takes the GIL for the whole call (PYFUNCTYPE, PyDLL).
cdef int CTYPES_NEEDS_GIL = 4


cdef class NativeCall:
    """A native function and its context, both kept alive for as long as this object lives.

    Not made by users: `SpdkThread.send_native` and `SpdkThread.register_native_poller` make them.
    """

    def __dealloc__(self):
        if self._has_view:
            PyBuffer_Release(&self._view)

    def __repr__(self):
        return f"<NativeCall {self._fn_owner!r}>"


cdef NativeCall native_message(object fn, object ctx):
    """Accept `fn` as ``void (*)(void *)``."""
    return _make(fn, ctx, MESSAGE_SIGNATURE)


cdef NativeCall native_poller(object fn, object ctx):
    """Accept `fn` as ``int (*)(void *)``."""
    return _make(fn, ctx, POLLER_SIGNATURE)


cdef NativeCall native_completion(object fn, object ctx):
    """Accept `fn` as ``void (*)(void *, int64_t)``."""
    return _make(fn, ctx, COMPLETION_SIGNATURE)


cdef NativeCall native_call(object fn, object ctx, str signature):
    """Accept `fn` as a function of `signature`, which `add_signature` has made known."""
    return _make(fn, ctx, signature)


def add_signature(signature, arguments, other_names=()):
    """Make another signature known, at import of the module that has such callbacks.

    Parameters
    ----------
    signature : str
        The name of a capsule of such a function, as Cython writes it.
    arguments : tuple of str
        The types of its arguments, by their names in ctypes.
    other_names : tuple of str
        Other names of it that are accepted of capsules and of cffi.
    """
    _CTYPES_ARGUMENTS[signature] = arguments
    _OTHER_NAMES[signature] = other_names


cdef NativeCall _make(object fn, object ctx, str signature):
    cdef NativeCall call = NativeCall.__new__(NativeCall)
    cdef void *capsule_context = NULL
    cdef object function_pointer
    call._fn_owner = fn
    if PyCapsule_CheckExact(fn):
        call.fn = _from_capsule(fn, signature, &capsule_context)
    elif (function_pointer := _as_ctypes(fn)) is not None:
        call.fn = _from_ctypes(function_pointer, fn, signature)
        call._fn_owner = (fn, function_pointer)
    elif _is_cffi(fn):
        call.fn = _from_cffi(fn, signature)
    else:
        raise TypeError(
            f"a native function must be a PyCapsule, a ctypes, cffi or numba function pointer with the signature "
            f"{signature!r}, got {type(fn).__name__}"
        )
    _set_context(call, ctx)
    if call.ctx == NULL and ctx is None:
        call.ctx = capsule_context
    return call


cdef int _set_context(NativeCall call, object ctx) except -1:
    if ctx is None:
        return 0
    address = _address(ctx)
    if address is not None:
        if not 0 <= address <= sys.maxsize * 2 + 1:
            raise ValueError(f"ctx must be an address, got {address}")
        # A pointer may be all that keeps its target alive.
        call._ctx_owner = ctx
        call.ctx = <void *><uintptr_t>address
        return 0
    if not PyObject_CheckBuffer(ctx) or isinstance(ctx, numbers.Number):
        raise TypeError(
            "ctx must be None, an int address, a ctypes or cffi pointer, or an object with a writable buffer, got "
            f"{type(ctx).__name__}"
        )
    try:
        PyObject_GetBuffer(ctx, &call._view, PyBUF_WRITABLE)
    except (BufferError, ValueError) as error:
        raise TypeError(f"ctx must have a writable, contiguous buffer: {error}") from None
    call._has_view = True
    call._ctx_owner = ctx
    call.ctx = call._view.buf
    return 0


cdef object _address(object ctx):
    """The address that `ctx` means by itself: an integer, or what a pointer of ctypes or cffi points at; None for
    anything else. A pointer has a buffer too, which is where it is stored: nothing that a function would want."""
    if isinstance(ctx, numbers.Integral):
        return None if isinstance(ctx, bool) else int(ctx)
    ctypes = sys.modules.get("ctypes")
    if ctypes is not None and isinstance(
        ctx,
        (
            ctypes._Pointer, ctypes._CFuncPtr, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_wchar_p,
            type(ctypes.byref(ctypes.c_int())),
        ),
    ):
        return ctypes.cast(ctx, ctypes.c_void_p).value or 0
    if not _is_cffi(ctx):
        return None
    backend = sys.modules["_cffi_backend"]
    kind = backend.typeof(ctx)
    if kind.kind in ("struct", "union"):
        ctx = backend.rawaddressof(backend.new_pointer_type(kind), ctx, 0)
    elif kind.kind not in ("pointer", "array", "function"):
        raise TypeError(f"ctx must be a pointer, an array or a structure of cffi, got {kind.cname!r}")
    return int(backend.cast(backend.new_primitive_type("uintptr_t"), ctx))


cdef void *_from_capsule(object capsule, str signature, void **context) except NULL:
    cdef const char *name = PyCapsule_GetName(capsule)
    if name == NULL or name.decode(errors="replace") not in (signature, *_OTHER_NAMES.get(signature, ())):
        shown = "no name" if name == NULL else repr(name.decode(errors="replace"))
        raise TypeError(f"the capsule must be named {signature!r}, this one has {shown}")
    context[0] = PyCapsule_GetContext(capsule)
    return PyCapsule_GetPointer(capsule, name)


cdef object _as_ctypes(object fn):
    """The ctypes function pointer that `fn` is, or that a numba ``@cfunc`` offers; None otherwise."""
    ctypes = sys.modules.get("ctypes")
    if ctypes is None:
        return None
    if isinstance(fn, ctypes._CFuncPtr):
        return fn
    if hasattr(type(fn), "address") and hasattr(type(fn), "ctypes"):
        offered = fn.ctypes
        if isinstance(offered, ctypes._CFuncPtr):
            return offered
    return None


cdef void *_from_ctypes(object pointer, object fn, str signature) except NULL:
    import ctypes

    result = None if signature.startswith("void ") else ctypes.c_int
    expected = [getattr(ctypes, name) for name in _CTYPES_ARGUMENTS.get(signature, ("c_void_p",))]
    # On an instance for a loaded symbol, on its class for a CFUNCTYPE.
    restype = pointer.restype
    argtypes = pointer.argtypes
    argtypes = None if argtypes is None else list(argtypes)
    if restype is not result or argtypes != expected:
        raise TypeError(
            f"the function pointer must have the signature {signature!r}, got restype {restype!r} and argtypes "
            f"{argtypes!r}"
        )
    if type(pointer)._flags_ & CTYPES_NEEDS_GIL:
        raise TypeError(f"{fn!r} needs the GIL (PYFUNCTYPE or PyDLL); a native function runs without it")
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    if not address:
        raise TypeError(f"{fn!r} is a NULL function pointer")
    return <void *><uintptr_t>address


cdef bint _is_cffi(object fn):
    backend = sys.modules.get("_cffi_backend")
    return backend is not None and isinstance(fn, backend._CDataBase)


cdef void *_from_cffi(object fn, str signature) except NULL:
    backend = sys.modules["_cffi_backend"]
    kind = backend.typeof(fn)
    if kind.kind != "function" or kind.cname not in [
        name.replace(" (", "(*)(") for name in (signature, *_OTHER_NAMES.get(signature, ()))
    ]:
        raise TypeError(f"the function pointer must have the signature {signature!r}, got {kind.cname!r}")
    address = int(backend.cast(backend.new_primitive_type("uintptr_t"), fn))
    if not address:
        raise TypeError(f"{fn!r} is a NULL function pointer")
    return <void *><uintptr_t>address


seal(NativeCall)
