"""IoBufPool, IoBufChannel, IoBuf: buffers for I/O. See ``iobuf.pxd`` for the algorithm."""

import warnings

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.object cimport PyCallable_Check, PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t, uintptr_t

from spdkthread.alloc cimport core_calloc, core_free, core_map, core_unmap
from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u32,
    st_load32_relaxed,
    st_load_relaxed,
    st_store32_relaxed,
    st_store_relaxed,
    st_sub_relaxed,
)
from spdkthread.cpython_ext cimport Py_DECREF_raw, seal
from spdkthread.forks cimport spin_lock, spin_unlock
from spdkthread.future cimport FUTURE_RUNNING, FutureCore, new_future
from spdkthread.iobuf_lists cimport (
    IOBUF_ALIGNMENT,
    IOBUF_BATCH,
    IOBUF_CLOSED_BIT,
    IOBUF_NONE,
    fetch,
    give_back,
    held_by,
    take_or_fetch,
    waiting_of,
)
from spdkthread.iobuf_stats cimport Gathering, new_module_counts
from spdkthread.iobuf_waiting cimport entry_append, entry_remove, serve, waiting_serials
from spdkthread.thread_poll cimport current_thread

from spdkthread.checks import check_integer
from spdkthread.errors import DeviceError
from spdkthread.exit_blockers import register_blocker
from spdkthread.iobuf_stats import SIZES

__all__ = ["IoBuf", "IoBufChannel", "IoBufPool"]

cdef enum:
    MAX_COUNT = 1 << 30

cdef st_atomic_u32 pools_lock
cdef iobuf_pool_s *pools = NULL


def live_buffers() -> int:
    """Buffers that are got and not put, of all pools. **Thread safety:** any OS thread."""
    cdef uint64_t held = 0
    cdef iobuf_pool_s *pool
    cdef int which
    cdef uint32_t index
    spin_lock(&pools_lock)
    pool = pools
    while pool != NULL:
        for which in range(2):
            for index in range(pool.classes[which].count):
                held += st_load32_relaxed(&pool.classes[which].holder[index]) != 0
        pool = pool.next
    spin_unlock(&pools_lock)
    return held


cdef int iobuf_get_slow(iobuf_channel_s *channel, int which, iobuf_entry *entry, void **buffer) noexcept nogil:
    """Past the cache."""
    cdef iobuf_pool_s *pool = channel.pool
    cdef iobuf_class *kind = &pool.classes[which]
    cdef iobuf_cache *cache = &channel.caches[which]
    cdef uint32_t index
    cdef int verdict = IOBUF_OK
    spin_lock(&pool.lock)
    if st_load32_relaxed(&pool.waiting[which]) & IOBUF_CLOSED_BIT:
        verdict = IOBUF_POOL_CLOSED
    elif kind.first == NULL and take_or_fetch(channel, which):
        index = cache.first
        cache.first = kind.next[index]
        cache.count -= 1
        st_store32_relaxed(&kind.holder[index], channel.serial)
        iobuf_note_get(cache)
        buffer[0] = kind.memory + index * kind.size
    elif entry == NULL:
        verdict = IOBUF_EMPTY
    elif entry.waiting or entry.buffer != NULL:
        verdict = IOBUF_BUSY
    else:
        verdict = IOBUF_WAITING
        cache.retries += 1
        entry_append(channel, which, entry)
    spin_unlock(&pool.lock)
    return verdict


cdef int iobuf_put(iobuf_channel_s *channel, void *buffer) noexcept nogil:
    """Give back what this channel has got. From its own thread into its cache, from any other one into the pool."""
    cdef iobuf_pool_s *pool = channel.pool
    cdef int which = <char *>buffer >= pool.classes[1].memory
    cdef iobuf_class *kind = &pool.classes[which]
    cdef iobuf_cache *cache = &channel.caches[which]
    cdef size_t offset = <char *>buffer - kind.memory
    cdef size_t place = offset // kind.size
    cdef uint32_t index
    cdef bint here = current_thread() == channel.thread
    cdef int verdict = IOBUF_OK
    if place >= kind.count or offset != place * kind.size or channel.serial == 0:
        return IOBUF_NOT_HELD
    index = <uint32_t>place
    if st_load32_relaxed(&kind.holder[index]) != channel.serial:
        return IOBUF_NOT_HELD
    if here and cache.size and st_load32_relaxed(&pool.waiting[which]) == 0:
        st_store32_relaxed(&kind.holder[index], 0)
        st_store_relaxed(&cache.puts, st_load_relaxed(&cache.puts) + 1)
        kind.next[index] = cache.first
        cache.first = index
        cache.count += 1
        if cache.count < cache.size + cache.batch:
            return IOBUF_OK
        spin_lock(&pool.lock)
        give_back(channel, which, cache.batch)
    else:
        spin_lock(&pool.lock)
        if st_load32_relaxed(&kind.holder[index]) != channel.serial:
            spin_unlock(&pool.lock)
            return IOBUF_NOT_HELD
        st_store32_relaxed(&kind.holder[index], 0)
        if here:
            st_store_relaxed(&cache.puts, st_load_relaxed(&cache.puts) + 1)
        else:
            st_sub_relaxed(&cache.beside, 1)
        kind.next[index] = kind.free_first
        kind.free_first = index
        kind.free_count += 1
    serve(pool, which)
    spin_unlock(&pool.lock)
    return verdict


cdef bint iobuf_abort(iobuf_entry *entry) noexcept nogil:
    """Have an entry wait no more. False: it did not wait, or its buffer is on its way."""
    cdef iobuf_channel_s *channel = entry.channel
    cdef bint waited
    if channel == NULL:
        return False
    spin_lock(&channel.pool.lock)
    waited = entry.waiting
    if waited:
        entry_remove(entry)
    spin_unlock(&channel.pool.lock)
    return waited


cdef object buffers_in_words(uint64_t count):
    return f"{count} buffer{'s' * (count != 1)}"


cdef class IoBufPool(IoDevice):
    """IoBufPool(*, small_count=8192, small_size=8192, large_count=1024, large_size=135168, name=None, \
    lib=None)\n--\n\n\
    Buffers for I/O of two sizes, allocated once and shared by the threads of a library. It is a device, registered.

    Parameters
    ----------
    small_count, large_count : int, default 8192 and 1024
        Buffers of each size.
    small_size, large_size : int, default 8192 and 135168
        Bytes; rounded up to a multiple of 4096, which is also how the buffers are aligned: fit for O_DIRECT.
    name : str, optional
        By default the class name and a number.
    lib : ThreadLib, optional
        By default the process-wide one.

    Raises
    ------
    TypeError, ValueError
        For a bad argument.
    MemoryError
        When there is no room in the address space. The memory itself is taken page by page, when it is first touched.

    Notes
    -----
    The pool never grows. Its memory is given back when the pool and every IoBuf of it are gone, so a buffer that
    outlives `close` stays valid.

    **Thread safety:** as each member says. Answers to ``spdk_iobuf_initialize``.
    """

    def __cinit__(self):
        self._modules = new_module_counts()

    def __init__(
        self, *, small_count=8192, small_size=8192, large_count=1024, large_size=135168, name=None, lib=None
    ):
        cdef int which
        cdef uint32_t index
        cdef iobuf_class *kind
        cdef char *memory
        counts, sizes = [], []
        for what, value, counts_or_sizes in (
            ("small_count", small_count, counts), ("large_count", large_count, counts),
            ("small_size", small_size, sizes), ("large_size", large_size, sizes),
        ):
            value = check_integer(what, value)
            if not 1 <= value <= MAX_COUNT:
                raise ValueError(f"{what} must be between 1 and {MAX_COUNT}, got {value}")
            counts_or_sizes.append(value)
        sizes = [-(-size // IOBUF_ALIGNMENT) * IOBUF_ALIGNMENT for size in sizes]
        if sizes[0] > sizes[1]:
            raise ValueError(f"large_size must not be less than small_size, got {large_size} and {small_size}")
        IoDevice.__init__(self, name, lib=lib)
        self.mapped = sum([count * size for count, size in zip(counts, sizes, strict=True)])
        memory = <char *>core_map(self.mapped)
        if memory == NULL:
            raise MemoryError(f"no memory for {self.mapped} bytes of buffers of {self.name!r}")
        for which in range(2):
            kind = &self.pool.classes[which]
            kind.memory = memory
            kind.size = sizes[which]
            kind.next = <uint32_t *>core_calloc(counts[which], sizeof(uint32_t))
            kind.holder = <st_atomic_u32 *>core_calloc(counts[which], sizeof(st_atomic_u32))
            if kind.next == NULL or kind.holder == NULL:
                raise MemoryError(f"no memory for the lists of {self.name!r}")
            kind.count = kind.free_count = counts[which]
            for index in range(kind.count - 1):
                kind.next[index] = index + 1
            kind.next[kind.count - 1] = IOBUF_NONE
            memory += kind.count * kind.size
        spin_lock(&pools_lock)
        link_pool(&self.pool)
        spin_unlock(&pools_lock)
        self.register()

    def __dealloc__(self):
        cdef int which
        spin_lock(&pools_lock)
        unlink_pool(&self.pool)
        spin_unlock(&pools_lock)
        core_unmap(self.pool.classes[0].memory, self.mapped)
        for which in range(2):
            core_free(self.pool.classes[which].next)
            core_free(self.pool.classes[which].holder)

    def create_channel(self, channel not None):
        """What a thread has of the pool. Only the library calls it."""
        cdef IoChannel one = channel
        cdef IoBufThread member = IoBufThread.__new__(IoBufThread)
        member.c = <iobuf_thread_s *>core_calloc(1, sizeof(iobuf_thread_s))
        if member.c == NULL:
            raise MemoryError(f"no memory for a channel of {self.name!r}")
        member.channels = {}
        member.pool = self
        member.c.pool = &self.pool
        member.c.thread = &one.thread.c
        spin_lock(&self.pool.lock)
        member.c.next = self.pool.threads
        if member.c.next != NULL:
            member.c.next.prev = member.c
        self.pool.threads = member.c
        spin_unlock(&self.pool.lock)
        return member

    def destroy_channel(self, channel):
        """The end of `create_channel`."""
        leave_pool(<IoBufThread?>channel.ctx)

    def channel(self, module, *, small_cache=128, large_cache=16):
        """A channel of the current thread, for one module: its caches and its statistics.

        Parameters
        ----------
        module : str
            What uses the buffers, for the statistics and errors. A module may have several channels, on one thread too.
        small_cache, large_cache : int, default 128 and 16
            Buffers that the channel keeps for its thread; 0: none. Filled at once when the pool has that many. Of a
            pool that has fewer buffers altogether, at most an eighth of them.

        Returns
        -------
        IoBufChannel
            `IoBufChannel.close`, or leaving its ``with`` block, ends it, and so does `close` of the pool; until then
            its thread does not exit.

        Raises
        ------
        NoThreadError
            When there is no current SpdkThread.
        DeviceError
            When the pool is closed, or belongs to another library.
        TypeError, ValueError
            For a bad argument.

        Notes
        -----
        **Thread safety:** on any SpdkThread of its library, for that thread. Answers to ``spdk_iobuf_channel_init``.
        """
        cdef IoBufChannel channel
        cdef IoBufThread member
        cdef int which
        cdef iobuf_cache *cache
        if not isinstance(module, str):
            raise TypeError(f"module must be a str, got {type(module).__name__}")
        sizes = []
        for what, value in (("small_cache", small_cache), ("large_cache", large_cache)):
            value = check_integer(what, value)
            if not 0 <= value <= MAX_COUNT:
                raise ValueError(f"{what} must be between 0 and {MAX_COUNT}, got {value}")
            sizes.append(value)
        channel = IoBufChannel.__new__(IoBufChannel)
        channel.pool = self
        channel.module = str(module)
        channel._channel = self.get()
        member = channel._channel.ctx
        channel.thread = channel._channel.thread
        channel._member = member.c
        channel.c.pool = &self.pool
        channel.c.thread = &channel.thread.c
        for which in range(2):
            cache = &channel.c.caches[which]
            cache.first = IOBUF_NONE
            cache.size = sizes[which]
            if cache.size > self.pool.classes[which].count:
                cache.size = self.pool.classes[which].count // 8
            cache.batch = max(<uint32_t>1, min(cache.size, <uint32_t>IOBUF_BATCH))
        spin_lock(&self.pool.lock)
        self.pool.serials += 1
        channel.c.serial = self.pool.serials
        channel.c.next = member.c.channels
        if channel.c.next != NULL:
            channel.c.next.prev = &channel.c
        member.c.channels = &channel.c
        for which in range(2):
            cache = &channel.c.caches[which]
            # What other entries wait for is not for a cache.
            if st_load32_relaxed(&self.pool.waiting[which]) == 0 and self.pool.classes[which].free_count >= cache.size:
                fetch(&channel.c, which, cache.size)
        spin_unlock(&self.pool.lock)
        channel._open = True
        self._modules.channel_opened(channel.c.serial, channel.module)
        member.channels[channel] = None
        return channel

    def stats(self):
        """What each module has done, gathered from its channels by messages.

        Returns
        -------
        concurrent.futures.Future
            Resolves to a dict: module -> counts, each the sum over both sizes and all channels of the module, those
            that are closed included::

                cache       gets that a cache served
                main        gets that took a buffer, or a batch, from the pool
                retry       gets that had to wait
                high_water  buffers that were held at once: the sum of the channels' own maxima
                waiting     gets that wait now
                held        buffers held now
                cache_size  of the channels that are open
                small       the same counts of the small buffers
                large       and of the large ones

        Raises
        ------
        DeviceError
            When the pool is closed.

        Notes
        -----
        **Thread safety:** any OS thread, as `for_each_channel` without a completion. Answers to
        ``spdk_iobuf_get_stats``.
        """
        cdef FutureCore future
        cdef Gathering gathering = self._modules.begin()

        def visit(iterator):
            cdef IoBufChannel channel
            for channel in tuple((<IoBufThread>iterator.channel.ctx).channels):
                self._modules.count(gathering, &channel.c, channel.module)

        try:
            visited = self.for_each_channel(visit)
        except BaseException:
            self._modules.end(gathering)
            raise
        future = new_future((<FutureCore>visited).producer)
        st_store32_relaxed(&future.state, FUTURE_RUNNING)

        def gathered(visited):
            counts = self._modules.end(gathering)
            error = visited.exception()
            if error is None:
                future.set_result(counts)
            else:
                future.set_exception(error)

        visited.add_done_callback(gathered)
        return future

    def close(self):
        """End the pool: close every channel, each on its thread, and unregister the device.

        Returns
        -------
        concurrent.futures.Future
            Resolves to None when every thread has closed its channels. A second call returns one that is resolved.

        Raises
        ------
        DeviceError
            While buffers are held or gets wait; it names the modules, and how many each has. The pool goes on then.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_iobuf_finish``.
        """
        cdef int which
        cdef FutureCore future
        with self._modules.lock:
            if self._closed:
                future = new_future(None)
                future.set_result(None)
                return future
            spin_lock(&self.pool.lock)
            for which in range(2):
                st_store32_relaxed(
                    &self.pool.waiting[which], st_load32_relaxed(&self.pool.waiting[which]) | <uint32_t>IOBUF_CLOSED_BIT
                )
            spin_unlock(&self.pool.lock)
            still = self._holders()
            if still:
                spin_lock(&self.pool.lock)
                for which in range(2):
                    st_store32_relaxed(
                        &self.pool.waiting[which],
                        st_load32_relaxed(&self.pool.waiting[which]) & ~<uint32_t>IOBUF_CLOSED_BIT,
                    )
                spin_unlock(&self.pool.lock)
                raise DeviceError(f"close of pool {self.name!r}: {'; '.join(still)}. Put them first")
            self._closed = True
        self.for_each_channel(close_channels)
        return self.unregister()

    cdef object _holders(self):
        """The modules that hold buffers, or wait for one, in words. Under the lock of the counts."""
        cdef int which
        cdef uint32_t index, serial
        holds, waits = {}, {}
        for which in range(2):
            for index in range(self.pool.classes[which].count):
                serial = st_load32_relaxed(&self.pool.classes[which].holder[index])
                if serial:
                    module = self._modules.names.get(serial, "?")
                    held = holds.setdefault(module, [0, 0])
                    held[which] += 1
        for which in range(2):
            for number in waiting_serials(&self.pool, which):
                module = self._modules.names.get(number, "?")
                waits[module] = waits.get(module, 0) + 1
        return [
            f"module {module!r} still holds {buffers_in_words(held[0] + held[1])} ({held[0]} small, {held[1]} large)"
            for module, held in holds.items()
        ] + [f"{count} get{'s' * (count != 1)} of module {module!r} wait" for module, count in waits.items()]

    @property
    def small_size(self) -> int:
        """Bytes of a small buffer."""
        return self.pool.classes[0].size

    @property
    def large_size(self) -> int:
        """Bytes of a large buffer."""
        return self.pool.classes[1].size

    @property
    def small_count(self) -> int:
        """Small buffers, free or not."""
        return self.pool.classes[0].count

    @property
    def large_count(self) -> int:
        """Large buffers, free or not."""
        return self.pool.classes[1].count


cdef void link_pool(iobuf_pool_s *pool) noexcept nogil:
    global pools
    pool.next = pools
    if pools != NULL:
        pools.prev = pool
    pools = pool


cdef void unlink_pool(iobuf_pool_s *pool) noexcept nogil:
    global pools
    if pool.prev == NULL and pools != pool:
        return                                      # its __init__ failed
    if pool.prev == NULL:
        pools = pool.next
    else:
        pool.prev.next = pool.next
    if pool.next != NULL:
        pool.next.prev = pool.prev


@cython.no_gc_clear
cdef class IoBufThread:
    """What one thread has of a pool: the context of its channel to the device."""

    cdef iobuf_thread_s *c
    cdef IoBufPool pool
    cdef dict channels          # IoBufChannel -> None

    def __del__(self):
        """Of a thread that was dropped before it had exited: its memory goes with it."""
        if self.c != NULL:
            leave_pool(self)


cdef void leave_pool(IoBufThread member) noexcept:
    """Not found any more; what its channels have in their caches is free."""
    cdef iobuf_thread_s *c = member.c
    cdef iobuf_pool_s *pool = &member.pool.pool
    cdef iobuf_channel_s *channel
    cdef bint asked
    cdef int which
    member.c = NULL
    spin_lock(&pool.lock)
    if c.prev == NULL:
        pool.threads = c.next
    else:
        c.prev.next = c.next
    if c.next != NULL:
        c.next.prev = c.prev
    for which in range(2):
        channel = c.channels
        while channel != NULL:
            give_back(channel, which, IOBUF_NONE)
            channel.caches[which].size = 0
            channel = channel.next
        serve(pool, which)
    asked = c.asked
    c.gone = True
    spin_unlock(&pool.lock)
    if not asked:
        core_free(c)


def close_channels(iterator):
    cdef IoBufChannel channel
    for channel in tuple((<IoBufThread>iterator.channel.ctx).channels):
        channel._end()


def channels_in_words(thread):
    """The open channels of a thread that hold something."""
    words = []
    for channel in thread._channels.copy():
        if isinstance(channel.device, IoBufPool) and channel.ctx is not None:
            for one in tuple((<IoBufThread>channel.ctx).channels):
                words.append(str(one))
    return words


register_blocker("buffer channel", channels_in_words)


@cython.no_gc_clear
cdef class IoBufChannel:
    """IoBufChannel()\n--\n\n\
    What one thread has of a pool for one module. Made by `IoBufPool.channel`.

    Attributes
    ----------
    pool : IoBufPool
    module : str
    thread : SpdkThread

    Notes
    -----
    **Thread safety:** on its own thread only; the attributes may be read anywhere. Answers to
    ``struct spdk_iobuf_channel``.
    """

    def __init__(self):
        raise TypeError("an IoBufChannel comes from IoBufPool.channel")

    def __str__(self):
        if not self._open:
            return f"the closed channel of module {self.module!r} to pool {self.pool.name!r}"
        waits = waiting_of(&self.c)
        words = f"holds {buffers_in_words(held_by(&self.c))}" + (f", {waits} waiting" if waits else "")
        return f"the channel of module {self.module!r} to pool {self.pool.name!r} ({words})"

    def __repr__(self):
        return f"<IoBufChannel: {self} on {self.thread.name!r}>"

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        self.close()

    def get(self, nbytes, cb=None):
        """A buffer, at once or later.

        Parameters
        ----------
        nbytes : int
            Bytes, at least 1: up to the pool's `small_size` a small buffer, up to `large_size` a large one.
        cb : callable, optional
            When none is left, ``cb(buf)`` will run by a message on this thread. It is not called when a buffer is
            returned.

        Returns
        -------
        IoBuf or None
            None: `cb` will come. The gets that wait are served in their order, over all threads and modules, and a
            get that comes while others wait is behind them; caches on other threads are asked back for them.

        Raises
        ------
        BufferError
            Without `cb`: none is left, or others wait. Some may be free in other channels' caches.
        ValueError
            When `nbytes` is larger than a large buffer, or less than 1.
        WrongThreadError
            On another thread than its own.
        DeviceError
            When the channel or its pool is closed.
        TypeError
            For a bad argument.

        Notes
        -----
        **Thread safety:** its own thread only. Answers to ``spdk_iobuf_get``.
        """
        cdef size_t size
        cdef int verdict
        cdef IoBuf buf
        self._require("get")
        if cb is not None and not PyCallable_Check(cb):
            raise TypeError(f"cb must be callable or None, got {type(cb).__name__}")
        nbytes = check_integer("nbytes", nbytes)
        if not 1 <= nbytes <= self.pool.large_size:
            raise ValueError(
                f"nbytes must be between 1 and the {self.pool.large_size} of a large buffer of pool "
                f"{self.pool.name!r}, got {nbytes}"
            )
        size = nbytes
        buf = IoBuf.__new__(IoBuf)
        buf.channel = self
        buf.nbytes = size
        if cb is None:
            verdict = iobuf_get(&self.c, size, NULL, &buf.buffer)
        else:
            # The references are the message's, whose sender may hold no GIL.
            Py_INCREF(cb)
            Py_INCREF(buf)
            buf.entry.py_fn = <PyObject *>cb
            buf.entry.ctx = <void *>buf
            verdict = iobuf_get(&self.c, size, &buf.entry, &buf.buffer)
            if verdict == IOBUF_WAITING:
                return None
            Py_DECREF_raw(<PyObject *>cb)
            Py_DECREF_raw(<PyObject *>buf)
        if verdict != IOBUF_OK:
            self._refuse(verdict, size)
        return buf

    cdef object _refuse(self, int verdict, size_t nbytes):
        pool = self.pool
        if verdict == IOBUF_POOL_CLOSED:
            raise DeviceError(f"get: pool {pool.name!r} is closed")
        size = SIZES[nbytes > pool.small_size]
        raise BufferError(
            f"pool {pool.name!r} has no {size} buffer for {nbytes} bytes left for module {self.module!r}: pass a cb to "
            f"wait for one, or give the pool a larger {size}_count"
        )

    def abort(self, cb) -> bool:
        """Have the oldest get of this channel that waits with `cb` wait no more. False: none does.

        Notes
        -----
        **Thread safety:** its own thread only. Answers to ``spdk_iobuf_entry_abort``.
        """
        cdef iobuf_entry *entry
        cdef iobuf_entry *found = NULL
        cdef int which
        self._require("abort")
        spin_lock(&self.c.pool.lock)
        for which in range(2):
            entry = self.c.pool.classes[which].first
            while entry != NULL and found == NULL:
                if entry.channel == &self.c and entry.py_fn == <PyObject *>cb:
                    found = entry
                entry = entry.next
        if found != NULL:
            entry_remove(found)
        spin_unlock(&self.c.pool.lock)
        if found == NULL:
            return False
        drop_entry(found)
        return True

    def close(self) -> None:
        """Give the caches back; the channel gives no buffers any more. A second call does nothing.

        Raises
        ------
        DeviceError
            While it holds buffers, or gets of it wait.
        WrongThreadError
            On another thread than its own.

        Notes
        -----
        **Thread safety:** its own thread only. Answers to ``spdk_iobuf_channel_fini``.
        """
        if not self._open:
            return
        self._require("close")
        if held_by(&self.c) or waiting_of(&self.c):
            raise DeviceError(f"close: {self!r}: put the buffers, and abort the gets, first")
        self._end()

    def _end(self):
        cdef int which
        cdef IoBufPool pool = self.pool
        cdef IoChannel channel = self._channel
        self._open = False
        spin_lock(&pool.pool.lock)
        for which in range(2):
            give_back(&self.c, which, IOBUF_NONE)
            self.c.caches[which].size = 0
            serve(&pool.pool, which)
        if self.c.prev == NULL:
            self._member.channels = self.c.next
        else:
            self.c.prev.next = self.c.next
        if self.c.next != NULL:
            self.c.next.prev = self.c.prev
        self.c.next = self.c.prev = NULL
        spin_unlock(&pool.pool.lock)
        self._member = NULL
        pool._modules.channel_closed(&self.c, self.module)
        del (<IoBufThread>channel.ctx).channels[self]
        self._channel = None
        channel.put()

    def _require(self, what):
        if current_thread() != self.c.thread:
            self.thread._require_here(f"{what} of {self!r}")
        if not self._open:
            raise DeviceError(f"{what}: {self!r} gives no buffers")

    @property
    def held(self) -> int:
        """Buffers that were got and not put. **Thread safety:** anywhere; elsewhere than on its thread a snapshot."""
        return held_by(&self.c)

    @property
    def waiting(self) -> int:
        """Gets that wait for a buffer. **Thread safety:** as `held`."""
        return waiting_of(&self.c)


cdef int drop_entry(iobuf_entry *entry) except -1:
    """The references of a get of Python code that waits no more."""
    cdef PyObject *fn = entry.py_fn
    cdef PyObject *buf = <PyObject *>entry.ctx
    entry.py_fn = NULL
    Py_DECREF_raw(fn)
    Py_DECREF_raw(buf)
    return 0


cdef inline void *buffer_of(IoBuf buf) noexcept:
    """NULL once it was put. That of a get that waited came with the message."""
    if buf.buffer == NULL and buf.entry.buffer != NULL:
        buf.buffer = buf.entry.buffer
        buf.entry.buffer = NULL
    return buf.buffer


@cython.no_gc_clear
cdef class IoBuf:
    """IoBuf()\n--\n\n\
    A buffer of a pool: writable, aligned to 4096 bytes, as long as asked for. From `IoBufChannel.get`.

    It has the buffer protocol, ``len()``, `put`, and is a context manager that puts it at the end. The contents are
    those that the last user left.

    Attributes
    ----------
    channel : IoBufChannel

    Notes
    -----
    Dropped without `put`, it goes back to the pool, with a ResourceWarning.

    **Thread safety:** the memory is the holder's. `put` on any OS thread; on the thread of its channel it is cheaper.
    """

    def __init__(self):
        raise TypeError("an IoBuf comes from IoBufChannel.get")

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        state = "" if buffer_of(self) != NULL else ", put"
        return f"<IoBuf of {self.nbytes} bytes, module {self.channel.module!r}, pool {self.channel.pool.name!r}{state}>"

    def __getbuffer__(self, Py_buffer *view, int flags):
        if buffer_of(self) == NULL:
            raise BufferError(f"{self!r} has no memory any more")
        PyBuffer_FillInfo(view, self, self.buffer, self.nbytes, 0, flags)
        st_add_relaxed(&self.exports, 1)

    def __releasebuffer__(self, Py_buffer *view):
        st_sub_relaxed(&self.exports, 1)

    def __enter__(self):
        if buffer_of(self) == NULL:
            raise DeviceError(f"{self!r} has been put already")
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        if buffer_of(self) != NULL:
            self.put()

    def put(self) -> None:
        """Give the buffer back: to the oldest get that waits, otherwise to the channel's cache, or to the pool.

        Raises
        ------
        DeviceError
            When it has been put already.
        BufferError
            While a memoryview, an array or a request of it exists: its memory would be another user's.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_iobuf_put``.
        """
        cdef void *buffer = buffer_of(self)
        if buffer == NULL:
            raise DeviceError(f"put: {self!r} has been put already")
        if st_load_relaxed(&self.exports):
            raise BufferError(f"put: {self!r} is in use: release its {st_load_relaxed(&self.exports)} views first")
        self.buffer = NULL
        if iobuf_put(&self.channel.c, buffer) != IOBUF_OK:
            raise DeviceError(f"put: {self!r} has been put already")

    @property
    def address(self) -> int:
        """Of its first byte; 0 once it has been put."""
        return <uintptr_t>buffer_of(self)

    def __del__(self):
        # Here and not in __dealloc__: the channel and the pool are whole, also where all of them are garbage.
        cdef void *buffer = buffer_of(self)
        if buffer == NULL:
            return
        words = f"{self!r} was dropped without put() and goes back to its pool"
        self.buffer = NULL
        iobuf_put(&self.channel.c, buffer)
        warnings.warn(words, ResourceWarning, stacklevel=1, source=self)


seal(IoBufThread)
seal(IoBufChannel)
seal(IoBuf)
