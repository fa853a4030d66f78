"""I/O devices and channels: state of a device that each thread has for itself, without a lock.

An `IoDevice` is anything that several threads use: a file, a socket, a table. A thread gets an `IoChannel` of it, with
whatever this thread needs to use the device alone (a descriptor, a queue, counters), and `for_each_channel` visits
them one after the other, each on its own thread.
"""

cimport cython
from cpython.object cimport PyCallable_Check, PyObject
from libc.stdint cimport uint64_t, uintptr_t

from spdkthread.alloc cimport core_free
from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u64,
    st_load32_acquire,
    st_load32_relaxed,
    st_load_relaxed,
    st_store32_release,
    st_sub_relaxed,
)
from spdkthread.clock cimport st_cycles
from spdkthread.cpython_ext cimport seal
from spdkthread.device_table cimport (
    CHANNEL_NO_MEMORY,
    CHANNEL_OK,
    channel_after,
    channel_record,
    channel_release,
    channel_remove,
    device_begin_unregister,
    device_channel_count,
)
from spdkthread.for_each_channel cimport IoChannelIter, begin_iteration, settle_orphan
from spdkthread.late cimport LATE_IO_DEVICE, late_fill
from spdkthread.lib cimport lib_or_default
from spdkthread.pointer_map cimport map_get
from spdkthread.ring cimport RING_STOPPING
from spdkthread.sealed_base cimport base_may_make_one, seal_base
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport THREAD_EXITED, current_thread, thread_s
from spdkthread.trace_ring cimport (
    TRACE_CHANNEL_CREATE,
    TRACE_CHANNEL_DESTROY,
    st_trace_word,
    st_tracing,
    trace_enrol,
    trace_put,
    trace_text,
)

from spdkthread.errors import DeviceError, NoThreadError, ThreadExitedError
from spdkthread.future import make_future

__all__ = ["IoChannel", "IoChannelIter", "IoDevice"]

globals()["IoChannelIter"] = IoChannelIter      # a name of this module, too, for `from spdkthread.io_device import`

cdef enum:
    CTX_ALIGNMENT = 64      # a cache line: the contexts of two threads never share one

STATES = ("unregistered", "registered", "unregistering")

cdef st_atomic_u64 devices
cdef st_atomic_u64 channels
cdef st_atomic_u64 names


def live_devices() -> int:
    """IoDevice objects that exist. **Thread safety:** any OS thread."""
    return st_load_relaxed(&devices)


def live_channels() -> int:
    """IoChannel objects that exist. **Thread safety:** any OS thread."""
    return st_load_relaxed(&channels)


cdef class IoDevice:
    """IoDevice(name=None, *, create_channel=None, destroy_channel=None, ctx_dtype=None, lib=None)\n--\n\n\
    Something that several threads use, each through an `IoChannel` of its own.

    Parameters
    ----------
    name : str, optional
        By default the class name and a number.
    create_channel : callable, optional
        ``create_channel(channel)`` sets up what a thread needs; its return value, if not None, becomes
        ``channel.ctx``. Or override the method `create_channel`.
    destroy_channel : callable, optional
        ``destroy_channel(channel)`` undoes it. Or override the method `destroy_channel`.
    ctx_dtype : numpy.dtype or what makes one, optional
        ``channel.ctx`` is then a zeroed array of this type and shape ``()``, whose memory stays at one address and
        has a cache line of its own: for native callbacks. ``"V64"`` is 64 bytes for a C struct. No Python objects in
        it.
    lib : ThreadLib, optional
        By default the process-wide one. Only its threads get channels.

    Raises
    ------
    TypeError, ValueError
        For a bad argument.

    Notes
    -----
    **Thread safety:** as each member says. Answers to ``spdk_io_device_register``; the object itself is the key.
    """

    def __cinit__(self):
        st_add_relaxed(&devices, 1)
        self.c.owner = <PyObject *>self

    def __init__(self, name=None, *, create_channel=None, destroy_channel=None, ctx_dtype=None, lib=None):
        if self.lib is not None:
            raise DeviceError(f"{self!r} is initialised already")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, got {type(name).__name__}")
        for what, fn in (("create_channel", create_channel), ("destroy_channel", destroy_channel)):
            if fn is not None and not PyCallable_Check(fn):
                raise TypeError(f"{what} must be callable or None, got {type(fn).__name__}")
        if ctx_dtype is not None:
            self.ctx_dtype = checked_dtype(ctx_dtype)
        self._create_cb = create_channel
        self._destroy_cb = destroy_channel
        self.name = f"{type(self).__name__}_{st_add_relaxed(&names, 1) + 1}" if name is None else str(name)
        self.lib = lib_or_default(lib)

    def __dealloc__(self):
        core_free(self.c.channels)
        st_sub_relaxed(&devices, 1)

    def __repr__(self):
        count = self.channels_count
        return f"<{type(self).__name__} {self.name!r} {self.state}, {count} channel{'s' * (count != 1)}>"

    def register(self):
        """Let threads get channels.

        Returns
        -------
        IoDevice
            Itself.

        Raises
        ------
        DeviceError
            When it is registered already, or its unregistration has not ended.
        SpdkThreadError
            When the library is closed.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_io_device_register``.
        """
        if self.lib is None:
            raise DeviceError(f"this {type(self).__name__} was never initialised")
        with self.lib._lock:
            if st_load32_acquire(&self.c.state) != DEVICE_UNREGISTERED:
                raise DeviceError(f"register: {self!r} is {self.state} already")
            self.lib._add_device(self)
            st_store32_release(&self.c.state, DEVICE_REGISTERED)
        return self

    def unregister(self, cb=None):
        """Give no channels any more; end when the last one is destroyed and the last iteration completed.

        Parameters
        ----------
        cb : callable, optional
            ``cb(device)`` then runs by a message on the calling thread, after the completions of all iterations. Only
            where an SpdkThread is current.

        Returns
        -------
        concurrent.futures.Future
            Resolves to None after `cb`.

        Raises
        ------
        NoThreadError
            When there is a `cb` and no current SpdkThread on which it could run.
        DeviceError
            When it is not registered, or being unregistered already.
        TypeError
            When `cb` is not callable.

        Notes
        -----
        **Thread safety:** on any SpdkThread of its library, which does not exit before `cb` has run; an exception of
        `cb` is reported. Without `cb` on any OS thread: where no SpdkThread is current, the future resolves on the
        thread of the last channel. Answers to ``spdk_io_device_unregister``.
        """
        cdef SpdkThread origin
        cdef Unregistration unregistration
        cdef bint over = False
        if cb is not None and not PyCallable_Check(cb):
            raise TypeError(f"cb must be callable or None, got {type(cb).__name__}")
        if self.lib is None:
            self._refuse("unregister")
        origin = origin_for(self, "unregister", "cb", cb)
        unregistration = Unregistration.__new__(Unregistration)
        unregistration.device = self
        unregistration.cb = cb
        unregistration.origin = origin
        unregistration.future = future = make_future(unregistration, running=True)
        with self.lib._lock:
            if st_load32_acquire(&self.c.state) != DEVICE_REGISTERED:
                self._refuse("unregister")
            # Before the state: the OS thread that releases the last channel finds it.
            self._unregistration = unregistration
            if origin is not None:
                origin._await(unregistration)
            self.lib._remove_device(self)
            over = device_begin_unregister(&self.c)
        if over:
            self._finish_unregister()
        return future

    def _finish_unregister(self):
        """No channel and no iteration is left: say so where the unregistration was asked for."""
        cdef Unregistration unregistration = self._unregistration
        self._unregistration = None
        st_store32_release(&self.c.state, DEVICE_UNREGISTERED)
        if unregistration.origin is None:
            unregistration.complete()
        else:
            unregistration.origin._send_lib(unregistration.complete, (), RING_STOPPING)

    cdef object _refuse(self, str what):
        if self.lib is None:
            raise DeviceError(f"{what}: this {type(self).__name__} was never initialised")
        if st_load32_acquire(&self.c.state) == DEVICE_UNREGISTERING:
            raise DeviceError(f"{what}: {self!r} is being unregistered")
        raise DeviceError(f"{what}: {self!r} is not registered")

    # Channels

    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def get_io_channel(self):
        """The current thread's channel with one more reference; made when there is none.

        Returns
        -------
        IoChannel
            The same object as before while it is not destroyed. `IoChannel.put` gives the reference back.

        Raises
        ------
        NoThreadError
            When there is no current SpdkThread.
        DeviceError
            When the device is not registered, was unregistered before `create_channel` returned, belongs to another
            library, or is asked for inside its own `create_channel`.
        ThreadExitedError
            When the current thread has exited.
        Exception
            Whatever `create_channel` raised. Nothing stays behind then, and `destroy_channel` is not called.

        Notes
        -----
        **Thread safety:** on any SpdkThread, for that thread. Answers to ``spdk_get_io_channel``.
        """
        return self.get()

    cdef IoChannel get(self):
        cdef thread_s *thread = current_thread()
        cdef channel_s *channel
        if thread == NULL:
            raise NoThreadError(f"get_io_channel of {self!r} needs a current SpdkThread")
        if st_load32_acquire(&self.c.state) != DEVICE_REGISTERED:
            self._refuse("get_io_channel")
        channel = <channel_s *>map_get(&thread.channel_map, &self.c)
        if channel == NULL:
            return self._make_channel(<SpdkThread>thread.owner)
        if channel.state == CHANNEL_CREATING:
            raise DeviceError(f"get_io_channel: {<object>channel.owner!r}, inside its own create_channel")
        channel.refs += 1
        return <IoChannel>channel.owner

    cdef IoChannel _make_channel(self, SpdkThread thread):
        """The channel of a thread that has none."""
        cdef IoChannel channel
        cdef int verdict
        if thread.lib is not self.lib:
            raise DeviceError(f"get_io_channel: {self!r} and {thread!r} belong to different libraries")
        if st_load32_relaxed(&thread.c.state) == THREAD_EXITED:
            raise ThreadExitedError(f"{thread!r} takes no channels any more")
        channel = self._new_channel()
        channel.device = self
        channel.thread = thread
        channel.c.device = &self.c
        channel.c.thread = &thread.c
        channel.c.thread_id = thread.id
        channel.c.refs = 1
        if self.ctx_dtype is not None:
            channel._make_ctx()
        # What keeps it alive; all else about it is recorded by `channel_record`.
        thread._channels[channel] = None
        verdict = channel_record(&channel.c)
        if verdict != CHANNEL_OK:
            del thread._channels[channel]
            if verdict == CHANNEL_NO_MEMORY:
                raise MemoryError(f"no memory for {channel!r}")
            self._refuse("get_io_channel")
        if st_tracing():
            trace_put(TRACE_CHANNEL_CREATE, thread.c.trace_number, st_cycles(), 0, trace_text(self.name), 0)
        try:
            result = self.create_channel(channel)
        except BaseException:
            self._destroy(channel, False)
            raise
        if result is not None:
            channel.ctx = result
        channel.c.state = CHANNEL_READY
        if st_load32_acquire(&self.c.state) != DEVICE_REGISTERED:
            self._destroy(channel, True)
            raise DeviceError(f"get_io_channel: device {self.name!r} was unregistered while its create_channel ran")
        return channel

    cdef IoChannel _new_channel(self):
        return IoChannel.__new__(IoChannel)

    cdef int _destroy(self, IoChannel channel, bint created) except -1:
        """The end of a channel, on its thread: found no more, then destroyed if it was created, then counted off."""
        channel.c.refs = 0
        channel_remove(&channel.c)
        del channel.thread._channels[channel]
        try:
            if created:
                if st_tracing():
                    trace_put(
                        TRACE_CHANNEL_DESTROY, channel.thread.c.trace_number, st_cycles(), 0, trace_text(self.name), 0
                    )
                self.destroy_channel(channel)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            channel.thread.c.errors += 1
            self.lib.report(
                f"destroy_channel of device {self.name!r} failed on thread {channel.thread.name!r}", error,
                channel.thread, "device", self,
            )
        finally:
            channel.c.state = CHANNEL_DESTROYED
            channel.c.ctx_data = NULL
            channel.c.ctx_size = 0
            channel.ctx = None
            channel._memory = None
            if channel_release(&channel.c):
                self._finish_unregister()
        return 0

    def create_channel(self, channel):
        """Set up what the current thread needs; runs inside the first `get_io_channel`. Override it, or pass one.

        Parameters
        ----------
        channel : IoChannel
            The new one. It cannot be put, referenced or got again before this returns.

        Returns
        -------
        object
            If not None, it becomes ``channel.ctx``.
        """
        if self._create_cb is not None:
            return self._create_cb(channel)

    def destroy_channel(self, channel):
        """Undo `create_channel`, on the channel's thread, one message after the last put. Override it, or pass one.

        An exception is reported to the library; the channel is gone all the same.
        """
        if self._destroy_cb is not None:
            self._destroy_cb(channel)

    def channel(self):
        """A context manager, plain and asynchronous, that gets the current thread's channel and puts it at the end.

        ``with device.channel() as channel:`` in a callback, ``async with device.channel() as channel:`` in a
        coroutine. Each use takes an object of its own.
        """
        cdef ChannelContext context = ChannelContext.__new__(ChannelContext)
        context.device = self
        return context

    def for_each_channel(self, fn, ctx=None, cpl=None):
        """Run ``fn(iter)`` on every thread that has a channel, one after the other; ``cpl(iter, status)`` at the end.

        The threads come in the order of their creation. What gets a channel meanwhile is visited if its thread is
        later than the present one; a channel that is gone when its turn comes is not, and one that waits for its
        destruction still is.

        Parameters
        ----------
        fn : callable
            Takes an `IoChannelIter`. Returns None or an int; anything but 0 ends the iteration. After ``iter.defer()``
            the return value does not count, and the iteration waits for ``iter.continue_()``.
        ctx : object, optional
            ``iter.ctx``.
        cpl : callable, optional
            Runs by a message on the calling thread, with the status that ended the iteration, or 0. Only where an
            SpdkThread is current.

        Returns
        -------
        concurrent.futures.Future
            Resolves to the status after `cpl`, or carries the exception with which `fn` ended the iteration; `cpl`
            gets status -1 then.

        Raises
        ------
        NoThreadError
            When there is a `cpl` and no current SpdkThread on which it could run.
        DeviceError
            When the device is not registered, or the current thread is of another library.
        TypeError
            When `fn` or `cpl` is not callable.

        Notes
        -----
        **Thread safety:** on any SpdkThread of its library, which does not exit before the iteration has ended; without
        `cpl` on any OS thread: where no SpdkThread is current, the future resolves on the last thread that is visited.
        The device's unregistration waits for the iteration. Answers to ``spdk_for_each_channel``.
        """
        if not PyCallable_Check(fn):
            raise TypeError(f"fn must be callable, got {type(fn).__name__}")
        if cpl is not None and not PyCallable_Check(cpl):
            raise TypeError(f"cpl must be callable or None, got {type(cpl).__name__}")
        if self.lib is None:
            self._refuse("for_each_channel")
        future = begin_iteration(self, &self.c, fn, ctx, cpl, origin_for(self, "for_each_channel", "cpl", cpl))
        if future is None:
            self._refuse("for_each_channel")
        return future

    # Properties

    @property
    def state(self) -> str:
        """``"unregistered"``, ``"registered"``, or ``"unregistering"``: it waits for channels and iterations to end."""
        return STATES[st_load32_acquire(&self.c.state)]

    @property
    def is_registered(self) -> bool:
        """Whether threads can get channels."""
        return st_load32_acquire(&self.c.state) == DEVICE_REGISTERED

    @property
    def channels_count(self) -> int:
        """Channels that are not destroyed, those that wait for it included."""
        return device_channel_count(&self.c)

    @property
    def channels(self) -> tuple:
        """Every thread's channel, in the order of the threads' creation."""
        cdef uint64_t thread_id = 0
        cdef IoChannel channel
        found = []
        while (channel := channel_after(&self.c, thread_id)) is not None:
            found.append(channel)
            thread_id = channel.c.thread_id
        return tuple(found)


cdef class Unregistration:
    """An unregister() under way: what the thread that asked is to hear of."""

    cdef IoDevice device
    cdef object cb
    cdef SpdkThread origin          # None: it was asked for where no SpdkThread was current
    cdef object future
    cdef object __weakref__

    def __del__(self):
        settle_orphan(self.future, self)

    # As the `waiting.Producer` of its future

    @property
    def lib(self):
        return self.device.lib

    def _needed(self):
        """The threads that have to run something before it ends."""
        channels = tuple([channel.thread for channel in self.device.channels])
        return channels if self.origin is None else (*channels, self.origin)

    def _task_name(self):
        return str(self)

    def _reported_on(self):
        return self.origin

    def __str__(self):
        threads = [repr(channel.thread.name) for channel in self.device.channels]
        waits = [f"the channels on {', '.join(threads)}"] if threads else []
        if self.device.c.iterations:
            waits.append(f"{self.device.c.iterations} for_each_channel")
        return f"the unregistration of device {self.device.name!r}" + (
            f", which waits for {' and '.join(waits)}" if waits else ""
        )

    def complete(self):
        future, self.future = self.future, None
        if self.origin is not None:
            self.origin._await_no_more(self)
        try:
            if self.cb is not None:
                self.cb(self.device)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.origin.c.errors += 1
            self.device.lib.report(
                f"the unregister callback of device {self.device.name!r} failed on thread {self.origin.name!r}", error,
                self.origin, "device", self.device,
            )
        finally:
            future.set_result(None)


cdef class ChannelContext:
    """What `IoDevice.channel` returns."""

    cdef IoDevice device
    cdef IoChannel channel

    def __enter__(self):
        if self.channel is not None:
            raise DeviceError(f"this context of {self.device!r} is entered already")
        self.channel = self.device.get()
        return self.channel

    def __exit__(self, exc_type, exc_value, traceback):
        self.channel.put()
        self.channel = None

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, exc_type, exc_value, traceback):
        self.__exit__(exc_type, exc_value, traceback)


cdef class IoChannel:
    """IoChannel()\n--\n\n\
    What one thread has of one device. Made by `IoDevice.get_io_channel` and `SpdkThread.get_io_channel`.

    Attributes
    ----------
    device : IoDevice
    thread : SpdkThread
    ctx : object
        What `IoDevice.create_channel` returned, or the array of ``ctx_dtype``, or None. None once it is destroyed.

    Notes
    -----
    **Thread safety:** on its own thread only; the attributes may be read anywhere. As a context manager it puts the
    reference at the end. Answers to ``struct spdk_io_channel``.
    """

    def __cinit__(self):
        st_add_relaxed(&channels, 1)
        self.c.owner = <PyObject *>self

    def __init__(self):
        raise TypeError("an IoChannel comes from IoDevice.get_io_channel")

    def __dealloc__(self):
        st_sub_relaxed(&channels, 1)

    def __repr__(self):
        if self.c.state == CHANNEL_DESTROYED:
            state = "destroyed"
        elif self.c.state == CHANNEL_CREATING:
            state = "being created"
        else:
            state = f"{self.c.refs} reference{'s' * (self.c.refs != 1)}"
        return f"<IoChannel of {self.device.name!r} on {self.thread.name!r}, {state}>"

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        self.put()

    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def ref(self):
        """One more reference, without a look-up. Returns itself.

        Raises
        ------
        WrongThreadError
            On another thread than its own.
        DeviceError
            When it has no reference left, or `IoDevice.create_channel` has not returned yet.

        Notes
        -----
        **Thread safety:** its own thread only. Answers to ``spdk_io_channel_ref``.
        """
        self._require("ref")
        self.c.refs += 1
        return self

    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def put(self) -> None:
        """Give a reference back. After the last one the channel is destroyed one message later, unless it is got again.

        Raises
        ------
        WrongThreadError
            On another thread than its own.
        DeviceError
            When it has no reference left, or `IoDevice.create_channel` has not returned yet.

        Notes
        -----
        **Thread safety:** its own thread only. Answers to ``spdk_put_io_channel``.
        """
        self._require("put")
        if self.c.refs == 1:
            self.thread._send_lib(self._destroy_if_unused, (), RING_STOPPING)
            self.c.destroy_refs += 1
        self.c.refs -= 1

    def _destroy_if_unused(self):
        """One message after the last reference was put."""
        self.c.destroy_refs -= 1
        if self.c.refs == 0 and self.c.destroy_refs == 0:
            self.device._destroy(self, True)

    cdef int _require(self, str what) except -1:
        if current_thread() != self.c.thread:
            self.thread._require_here(f"{what} of {self!r}")
        if self.c.state == CHANNEL_CREATING:
            raise DeviceError(f"{what}: create_channel of {self!r} has not returned yet")
        if self.c.refs == 0:
            raise DeviceError(f"{what}: {self!r} has no reference left")
        return 0

    cdef int _make_ctx(self) except -1:
        """Zeroed memory of its own for the context; the array is a view, so that no caller can resize it."""
        cdef uintptr_t start, offset
        import numpy

        dtype = self.device.ctx_dtype
        self._memory = numpy.zeros(dtype.itemsize + CTX_ALIGNMENT - 1, numpy.uint8)
        start = self._memory.__array_interface__["data"][0]
        offset = (CTX_ALIGNMENT - start % CTX_ALIGNMENT) % CTX_ALIGNMENT
        self.ctx = numpy.ndarray((), dtype, self._memory, offset)
        self.c.ctx_data = <void *>(start + offset)
        self.c.ctx_size = dtype.itemsize
        return 0

    @property
    def ref_count(self) -> int:
        """References that were not put; 0 while it waits for its destruction. Answers to ``..._get_ref_count``."""
        return self.c.refs


cdef void allow_channel() noexcept:
    base_may_make_one()


cdef SpdkThread origin_for(IoDevice device, str what, str role, object callback):
    """The current thread, which has to be one of the device's library; None where there is none, and no callback."""
    cdef thread_s *thread = current_thread()
    if thread == NULL:
        if callback is None:
            return None
        raise NoThreadError(
            f"{what} of {device!r} needs a current SpdkThread on which {role} can run; without {role} it needs none"
        )
    cdef SpdkThread origin = <SpdkThread>thread.owner
    if origin.lib is not device.lib:
        raise DeviceError(f"{what}: {device!r} and {origin!r} belong to different libraries")
    if st_load32_relaxed(&thread.state) == THREAD_EXITED:
        raise ThreadExitedError(f"{what} of {device!r}: {origin!r} has exited and would never hear of the end")
    return origin


cdef object checked_dtype(object ctx_dtype):
    import numpy

    dtype = numpy.dtype(ctx_dtype)
    if dtype.hasobject:
        raise TypeError(f"ctx_dtype must not hold Python objects, got {dtype}")
    if dtype.itemsize == 0:
        raise ValueError(f"ctx_dtype must have a size, got {dtype}")
    return dtype


seal(Unregistration)
seal(ChannelContext)
seal_base(IoChannel)

late_fill(LATE_IO_DEVICE, IoDevice)
trace_enrol(&st_trace_word)
