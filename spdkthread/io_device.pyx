"""I/O devices and channels: state of a device that each thread has for itself, so that nobody locks.

An `IoDevice` is anything that several threads use: a file, a socket, a table. A thread gets an `IoChannel` of it, with
whatever this thread needs to use the device alone (a descriptor, a queue, counters), and `for_each_channel` visits
them one after the other, each on its own thread.
"""

import operator

cimport cython
from cpython.object cimport PyCallable_Check, PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memmove

from spdkthread.alloc cimport core_calloc, core_free
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
from spdkthread.forks cimport spin_lock, spin_unlock
from spdkthread.late cimport LATE_IO_DEVICE, late_fill
from spdkthread.lib cimport lib_or_default
from spdkthread.pointer_map cimport map_get, map_put, map_remove
from spdkthread.ring cimport RING_STOPPING
from spdkthread.cpython_ext cimport seal
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

cdef extern from *:
    """
    /* As `seal`, and what extends the class is made when its module has said so on this OS thread just before. */
    static newfunc st_channel_new;
    static _Thread_local int st_channel_allowed;
    static PyObject *st_make_channel(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        if (!st_channel_allowed) return st_refuse_new(type, args, kwargs);
        st_channel_allowed = 0;
        return st_channel_new(type, args, kwargs);
    }
    static void st_seal_channel(PyObject *type) {
        st_channel_new = ((PyTypeObject *)type)->tp_new;
        st_seal(type);
        ((PyTypeObject *)type)->tp_new = st_make_channel;
    }
    """
    int st_channel_allowed
    void seal_channel "st_seal_channel"(object type)
    void Py_DECREF_raw "Py_DECREF"(PyObject *)

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


# The channels of a device: an array in the order of their threads' creation.

cdef enum add_verdict:
    ADD_OK
    ADD_REFUSED             # unregistered meanwhile
    ADD_NO_MEMORY


cdef inline uint32_t place_after(device_s *device, uint64_t thread_id) noexcept nogil:
    """Where the channels of later threads begin. Under the lock."""
    cdef uint32_t low = 0, high = device.count, middle
    while low < high:
        middle = (low + high) // 2
        if device.channels[middle].thread_id <= thread_id:
            low = middle + 1
        else:
            high = middle
    return low


cdef int device_add(device_s *device, channel_s *channel) noexcept nogil:
    """List a channel, unless the device has been unregistered."""
    cdef channel_s **larger
    cdef uint32_t place
    cdef int verdict = ADD_OK
    spin_lock(&device.lock)
    if st_load32_relaxed(&device.state) != DEVICE_REGISTERED:
        verdict = ADD_REFUSED
    elif device.count == device.capacity:
        larger = <channel_s **>core_calloc(max(<uint32_t>8, 2 * device.capacity), sizeof(channel_s *))
        if larger == NULL:
            verdict = ADD_NO_MEMORY
        else:
            if device.count:
                memcpy(larger, device.channels, device.count * sizeof(channel_s *))
            core_free(device.channels)
            device.channels = larger
            device.capacity = max(<uint32_t>8, 2 * device.capacity)
    if verdict == ADD_OK:
        place = place_after(device, channel.thread_id)
        memmove(
            &device.channels[place + 1], &device.channels[place], (device.count - place) * sizeof(channel_s *)
        )
        device.channels[place] = channel
        device.count += 1
        device.live += 1
    spin_unlock(&device.lock)
    return verdict


cdef void device_remove(device_s *device, channel_s *channel) noexcept nogil:
    """Take a channel off the list; it is still alive."""
    cdef uint32_t place
    spin_lock(&device.lock)
    place = place_after(device, channel.thread_id)
    if place and device.channels[place - 1] == channel:
        memmove(&device.channels[place - 1], &device.channels[place], (device.count - place) * sizeof(channel_s *))
        device.count -= 1
    spin_unlock(&device.lock)


cdef bint device_begin_iteration(device_s *device) noexcept nogil:
    cdef bint registered
    spin_lock(&device.lock)
    registered = st_load32_relaxed(&device.state) == DEVICE_REGISTERED
    if registered:
        device.iterations += 1
    spin_unlock(&device.lock)
    return registered


cdef bint device_begin_end(device_s *device) noexcept nogil:
    """Give nothing any more. True: nothing is left, this was the end. Only for a registered device."""
    cdef bint over
    spin_lock(&device.lock)
    st_store32_release(&device.state, DEVICE_UNREGISTERING)
    over = device.live == 0 and device.iterations == 0
    spin_unlock(&device.lock)
    return over


cdef bint device_count_down(device_s *device, uint32_t *what) noexcept nogil:
    """One channel or iteration less. True, once: it was the last thing that an unregistration waited for."""
    cdef bint over
    spin_lock(&device.lock)
    what[0] -= 1
    over = (
        device.live == 0 and device.iterations == 0 and st_load32_relaxed(&device.state) == DEVICE_UNREGISTERING
    )
    spin_unlock(&device.lock)
    return over


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
        self._create = create_channel
        self._destroy = destroy_channel
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
        cdef Unregistration ending
        cdef bint over = False
        if cb is not None and not PyCallable_Check(cb):
            raise TypeError(f"cb must be callable or None, got {type(cb).__name__}")
        if self.lib is None:
            self._refuse("unregister")
        origin = origin_for(self, "unregister", "cb", cb)
        ending = Unregistration.__new__(Unregistration)
        ending.device = self
        ending.cb = cb
        ending.origin = origin
        ending.future = future = make_future(ending, running=True)
        with self.lib._lock:
            if st_load32_acquire(&self.c.state) != DEVICE_REGISTERED:
                self._refuse("unregister")
            # Before the state: whoever ends the last channel finds it.
            self._termination = ending
            if origin is not None:
                origin._await(ending)
            self.lib._remove_device(self)
            over = device_begin_end(&self.c)
        if over:
            self._end()
        return future

    def _end(self):
        """Nothing is left of it: say so where the unregistration was asked for."""
        cdef Unregistration ending = self._termination
        self._termination = None
        st_store32_release(&self.c.state, DEVICE_UNREGISTERED)
        if ending.origin is None:
            ending.complete()
        else:
            ending.origin._send_lib(ending.complete, (), RING_STOPPING)

    cdef int _ended(self, uint32_t *what) except -1:
        if device_count_down(&self.c, what):
            self._end()
        return 0

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
            return self._open(<SpdkThread>thread.owner)
        if channel.state == CHANNEL_CREATING:
            raise DeviceError(f"get_io_channel: {<object>channel.owner!r}, inside its own create_channel")
        channel.refs += 1
        return <IoChannel>channel.owner

    cdef IoChannel _open(self, SpdkThread thread):
        """Make the channel of a thread that has none."""
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
        thread._channels[channel] = None
        if not map_put(&thread.c.channel_map, &self.c, &channel.c):
            del thread._channels[channel]
            raise MemoryError(f"no memory for {channel!r}")
        verdict = device_add(&self.c, &channel.c)
        if verdict != ADD_OK:
            map_remove(&thread.c.channel_map, &self.c)
            del thread._channels[channel]
            if verdict == ADD_NO_MEMORY:
                raise MemoryError(f"no memory for {channel!r}")
            self._refuse("get_io_channel")
        thread.c.blockers.channels += 1
        if st_tracing():
            trace_put(TRACE_CHANNEL_CREATE, thread.c.trace_number, st_cycles(), 0, trace_text(self.name), 0)
        try:
            result = self.create_channel(channel)
        except BaseException:
            self._unlist(channel)
            self._close(channel)
            raise
        if result is not None:
            channel.ctx = result
        channel.c.state = CHANNEL_READY
        if st_load32_acquire(&self.c.state) != DEVICE_REGISTERED:
            self._destroy_now(channel)
            raise DeviceError(f"get_io_channel: device {self.name!r} was unregistered while its create_channel ran")
        return channel

    cdef IoChannel _new_channel(self):
        return IoChannel.__new__(IoChannel)

    def _destroy_now(self, IoChannel channel not None):
        """The end of a channel, on its thread."""
        if channel.device is not self:
            raise DeviceError(f"{channel!r} is not one of {self!r}")
        channel.c.refs = 0
        self._unlist(channel)
        if st_tracing():
            trace_put(TRACE_CHANNEL_DESTROY, channel.thread.c.trace_number, st_cycles(), 0, trace_text(self.name), 0)
        try:
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
            self._close(channel)

    cdef int _unlist(self, IoChannel channel) except -1:
        """Nobody finds it any more."""
        device_remove(&self.c, &channel.c)
        map_remove(&channel.thread.c.channel_map, &self.c)
        del channel.thread._channels[channel]
        return 0

    cdef int _close(self, IoChannel channel) except -1:
        """Its callback has returned: it is gone."""
        channel.c.state = CHANNEL_DESTROYED
        channel.c.refs = 0
        channel.c.ctx_data = NULL
        channel.c.ctx_size = 0
        channel.ctx = None
        channel._memory = None
        channel.thread.c.blockers.channels -= 1
        return self._ended(&self.c.live)

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
        if self._create is not None:
            return self._create(channel)

    def destroy_channel(self, channel):
        """Undo `create_channel`, on the channel's thread, one message after the last put. Override it, or pass one.

        An exception is reported to the library; the channel is gone all the same.
        """
        if self._destroy is not None:
            self._destroy(channel)

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
        cdef IoChannelIter iterator
        cdef SpdkThread origin
        if not PyCallable_Check(fn):
            raise TypeError(f"fn must be callable, got {type(fn).__name__}")
        if cpl is not None and not PyCallable_Check(cpl):
            raise TypeError(f"cpl must be callable or None, got {type(cpl).__name__}")
        if self.lib is None:
            self._refuse("for_each_channel")
        origin = origin_for(self, "for_each_channel", "cpl", cpl)
        iterator = IoChannelIter.__new__(IoChannelIter)
        iterator.device = self
        iterator.ctx = ctx
        iterator._fn = fn
        iterator._cpl = cpl
        iterator._origin = origin
        if not device_begin_iteration(&self.c):
            self._refuse("for_each_channel")
        iterator._future = future = make_future(iterator, running=True)
        if origin is not None:
            origin._hold(iterator)
        try:
            iterator._move(0)
        except BaseException:
            if origin is not None:
                origin._let_go(iterator)
            iterator._future = None
            self._ended(&self.c.iterations)
            raise
        return future

    cdef IoChannel _channel_after(self, uint64_t thread_id):
        """The channel of the next thread after that one, or None."""
        cdef PyObject *found = NULL
        cdef uint32_t place
        spin_lock(&self.c.lock)
        place = place_after(&self.c, thread_id)
        if place < self.c.count:
            # Its thread keeps it until it is off this list.
            found = self.c.channels[place].owner
            Py_INCREF(<object>found)
        spin_unlock(&self.c.lock)
        if found == NULL:
            return None
        channel = <IoChannel>found
        Py_DECREF_raw(found)
        return channel

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
        cdef uint32_t count
        spin_lock(&self.c.lock)
        count = self.c.live
        spin_unlock(&self.c.lock)
        return count

    @property
    def channels(self) -> tuple:
        """Every thread's channel, in the order of the threads' creation."""
        cdef uint64_t thread_id = 0
        cdef IoChannel channel
        found = []
        while (channel := self._channel_after(thread_id)) is not None:
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
        settle_lost(self.future, self)

    # As the `waiting.Producer` of its future

    @property
    def lib(self):
        return self.device.lib

    def _needed(self):
        """Who has to run something before it ends."""
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
            self.thread._send_lib(self._expire, (), RING_STOPPING)
            self.c.expiries += 1
        self.c.refs -= 1

    def _expire(self):
        """One message after the last reference was put."""
        self.c.expiries -= 1
        if self.c.refs == 0 and self.c.expiries == 0:
            self.device._destroy_now(self)

    cdef int _require(self, str what) except -1:
        if current_thread() != self.c.thread:
            self.thread._require_here(f"{what} of {self!r}")
        if self.c.state == CHANNEL_CREATING:
            raise DeviceError(f"{what}: create_channel of {self!r} has not returned yet")
        if self.c.refs == 0:
            raise DeviceError(f"{what}: {self!r} has no reference left")
        return 0

    cdef int _make_ctx(self) except -1:
        """Zeroed memory of its own for the context; the array is a view, so that nobody can resize it."""
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
    global st_channel_allowed
    st_channel_allowed = 1


cdef class IoChannelIter:
    """IoChannelIter()\n--\n\n\
    A for_each_channel under way: what its function gets on each thread.

    Attributes
    ----------
    device : IoDevice
    channel : IoChannel or None
        The present one; None in the completion.
    ctx : object
        What was passed to `IoDevice.for_each_channel`.

    Notes
    -----
    **Thread safety:** where its function runs; `continue_` on that same SpdkThread. Answers to
    ``struct spdk_io_channel_iter``.
    """

    def __init__(self):
        raise TypeError("an IoChannelIter comes from IoDevice.for_each_channel")

    def __str__(self):
        where = "" if self._thread is None else f" on thread {self._thread.name!r}"
        waits = ", deferred" if self._state == ITER_DEFERRED else ""
        return f"for_each_channel of device {self.device.name!r}{waits}{where}"

    def __repr__(self):
        return f"<IoChannelIter: {self}>"

    def __del__(self):
        settle_lost(self._future, self)

    # As the `waiting.Producer` of its future

    @property
    def lib(self):
        return self.device.lib

    def _needed(self):
        target, origin = self._target, self._origin
        return tuple([one for one in (target, origin) if one is not None])

    def _task_name(self):
        return str(self)

    def _reported_on(self):
        return self._origin

    def defer(self) -> None:
        """Have the iteration wait for `continue_` after the function has returned.

        Raises
        ------
        DeviceError
            Outside the function.

        Notes
        -----
        **Thread safety:** inside the function only.
        """
        if self._state == ITER_DEFERRED and self._thread._is_here():
            return
        if self._state != ITER_IN_FN:
            raise DeviceError(f"defer: {self} is not inside its function")
        self._thread._require_here(f"defer of {self!r}")
        self._state = ITER_DEFERRED

    def continue_(self, status=0) -> None:
        """Go on to the next thread, or end the iteration with a status other than 0.

        Parameters
        ----------
        status : int, default 0

        Raises
        ------
        DeviceError
            When `defer` was not called on this thread, or it was continued already.
        WrongThreadError
            On another thread than the one that deferred.
        TypeError
            When `status` is not an int.

        Notes
        -----
        **Thread safety:** on the SpdkThread that deferred. Answers to ``spdk_for_each_channel_continue``.
        """
        status = int(operator.index(status))
        thread = self._thread
        if thread is None or self._state != ITER_DEFERRED:
            raise DeviceError(f"continue_: {self} has not deferred, or was continued already")
        (<SpdkThread>thread)._require_here(f"continue_ of {self!r}")
        if self._status is NOT_RETURNED:
            self._status = status
            self._state = ITER_CONTINUED
            return
        (<SpdkThread>thread)._let_go(self)
        self._go_on(status)

    def _visit(self, SpdkThread thread not None):
        """On the thread of the next channel, by a message. The channel is looked up here and not before."""
        cdef channel_s *channel = thread_channel(&thread.c, &self.device.c)
        if channel == NULL:
            self._move(thread.id)
            return
        self.channel = <IoChannel>channel.owner
        self._thread = thread
        self._status = NOT_RETURNED
        self._state = ITER_IN_FN
        try:
            result = self._fn(self)
            if self._state == ITER_IN_FN:
                self._status = 0 if result is None else as_status(result)
        except BaseException as error:
            self._error = error
            self._status = -1
            self._go_on(-1)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return
        if self._state == ITER_DEFERRED:
            self._status = None
            thread._hold(self)
        else:
            self._go_on(self._status)

    cdef int _go_on(self, object status) except -1:
        cdef uint64_t thread_id = self._thread.id
        self.channel = None
        self._thread = None
        self._state = ITER_MOVING
        if status == 0:
            return self._move(thread_id)
        return self._end(status)

    cdef int _move(self, uint64_t thread_id) except -1:
        """To the next thread that has a channel, or home."""
        cdef IoChannel channel
        while (channel := self.device._channel_after(thread_id)) is not None:
            thread_id = channel.c.thread_id
            self._target = channel.thread
            try:
                channel.thread._send_lib(self._visit, (channel.thread,), RING_STOPPING)
            except ThreadExitedError:
                continue        # and so its channel is gone
            return 0
        return self._end(0)

    cdef int _end(self, object status) except -1:
        self._target = None
        self._state = ITER_DONE
        if self._origin is None:
            self._complete(status)
        else:
            self._origin._send_lib(self._complete, (status,), RING_STOPPING)
        return 0

    def _complete(self, status):
        """Back on the calling thread."""
        cdef IoDevice device = self.device
        future, cpl, error, origin = self._future, self._cpl, self._error, self._origin
        self._future = self._cpl = self._error = self._fn = None
        self._origin = None
        if origin is not None:
            origin._let_go(self)
        try:
            if cpl is not None:
                cpl(self, status)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            (<SpdkThread>origin).c.errors += 1
            device.lib.report(
                f"the completion of for_each_channel of device {device.name!r} failed on thread {origin.name!r}",
                failure, origin, "device", device,
            )
        finally:
            # Not earlier: the device's end comes after the completion of every iteration.
            device._ended(&device.c.iterations)
            if error is None:
                future.set_result(status)
            else:
                future.set_exception(error)


cdef object NOT_RETURNED = object()     # fn has not returned


cdef object as_status(object result):
    try:
        return int(operator.index(result))
    except TypeError:
        raise TypeError(f"the function of for_each_channel must return an int or None, got {type(result).__name__}") \
            from None


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


cdef int settle_lost(object future, object what) except -1:
    """`what` is dropped with the threads that had to end it: its future cannot be settled any more."""
    if future is not None and not future.done():
        future._settle_orphan(f"{what} never ended: the threads that had to end it are gone")
    return 0


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
seal_channel(IoChannel)
seal(IoChannelIter)

late_fill(LATE_IO_DEVICE, IoDevice)
trace_enrol(&st_trace_word)
