"""I/O devices and channels, and what native code sees of them.

A channel is what one thread has of one device. Every thread keeps its channels in a table by device, and every device
keeps its channels in the order in which their threads were created::

    thread "a"  channel_map { disk: ch1, net: ch2 }          disk  channels [ ch1 (a), ch3 (c) ]
    thread "c"  channel_map { disk: ch3 }                    net   channels [ ch2 (a) ]

So a look-up costs the same however many devices and channels there are, and for_each_channel walks only over threads
that have one. The table belongs to its thread; the array of a device is shared, and `lock` guards it.

From a native callback, without the GIL::

    from spdkthread.io_device cimport IoDevice, channel_s, device_s, thread_channel
    from spdkthread.thread_poll cimport current_thread

    cdef int poll(void *ctx) noexcept nogil:
        cdef channel_s *channel = thread_channel(current_thread(), <device_s *>ctx)
        if channel == NULL:
            return 0
        (<state *>channel.ctx_data).polled += 1
        ...

    cdef IoDevice device = ...
    thread.register_native_poller(capsule_of(poll), <size_t>&device.c)

A `device_s` lives as long as its IoDevice, a `channel_s` as long as its channel is not destroyed.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u32, st_load32_acquire
from spdkthread.lib cimport ThreadLib
from spdkthread.pointer_map cimport map_get
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport current_thread, thread_s

cdef enum device_state:
    DEVICE_UNREGISTERED
    DEVICE_REGISTERED
    DEVICE_UNREGISTERING        # gives nothing any more, waits for its channels and iterations to end

cdef enum channel_state:
    CHANNEL_CREATING            # inside create_channel: nobody gets it yet
    CHANNEL_READY               # also with no reference left, until its destruction comes
    CHANNEL_DESTROYED

cdef enum iter_state:
    ITER_MOVING                 # in a message, on the way to the next thread or home
    ITER_IN_FN                  # inside fn, which has neither deferred nor continued
    ITER_DEFERRED               # waits for continue_, inside fn or after it
    ITER_CONTINUED              # deferred and continued, both inside fn
    ITER_DONE


cdef struct channel_s:
    device_s *device
    thread_s *thread
    void *ctx_data              # memory of ctx_dtype, zeroed, on a cache line of its own; NULL without one
    size_t ctx_size
    PyObject *owner             # the IoChannel, borrowed: its thread keeps it
    uint64_t thread_id
    uint32_t refs
    uint32_t expiries           # destructions under way; only the last one destroys
    int state


cdef struct device_s:
    st_atomic_u32 state
    st_atomic_u32 lock          # guards what follows, never held across a call into Python
    channel_s **channels        # by thread id, which is the order of creation
    uint32_t count
    uint32_t capacity
    uint32_t live               # channels that are not destroyed; those inside a callback of theirs too
    uint32_t iterations         # from for_each_channel to the end of its completion
    PyObject *owner             # the IoDevice, borrowed


cdef inline channel_s *thread_channel(thread_s *thread, device_s *device) noexcept nogil:
    """The channel of `thread` to `device`, also one that waits for its destruction, or NULL. On that thread only."""
    cdef channel_s *channel = <channel_s *>map_get(&thread.channel_map, device)
    if channel != NULL and channel.state == CHANNEL_READY:
        return channel
    return NULL


cdef inline channel_s *channel_get(device_s *device) noexcept nogil:
    """One more reference to the current thread's channel, or NULL when it has none or the device is unregistered."""
    cdef thread_s *thread = current_thread()
    cdef channel_s *channel
    if thread == NULL or st_load32_acquire(&device.state) != DEVICE_REGISTERED:
        return NULL
    channel = thread_channel(thread, device)
    if channel != NULL:
        channel.refs += 1
    return channel


cdef inline bint channel_put(channel_s *channel) noexcept nogil:
    """Give back a reference that is not the last. False, with no effect, for the last: that takes `IoChannel.put`."""
    if channel.refs < 2:
        return False
    channel.refs -= 1
    return True


cdef class IoDevice:
    cdef device_s c
    cdef readonly str name
    cdef readonly ThreadLib lib
    cdef readonly object ctx_dtype
    cdef object _create
    cdef object _destroy
    cdef object _termination         # the Unregistration under way
    cdef object __weakref__

    cdef IoChannel get(self)
    cdef IoChannel _open(self, SpdkThread thread)
    cdef IoChannel _new_channel(self)
    cdef int _close(self, IoChannel channel) except -1
    cdef int _unlist(self, IoChannel channel) except -1
    cdef int _ended(self, uint32_t *what) except -1
    cdef object _refuse(self, str what)
    cdef IoChannel _channel_after(self, uint64_t thread_id)


cdef class IoChannel:
    cdef channel_s c
    cdef readonly IoDevice device
    cdef readonly SpdkThread thread
    cdef readonly object ctx
    cdef object _memory         # what ctx_data points into
    cdef object __weakref__

    cdef int _make_ctx(self) except -1
    cdef int _require(self, str what) except -1


cdef class IoChannelIter:
    cdef readonly IoDevice device
    cdef readonly IoChannel channel
    cdef readonly object ctx
    cdef object _fn
    cdef object _cpl
    cdef object _future
    cdef object _status
    cdef object _error
    cdef SpdkThread _origin     # None: it was begun where no SpdkThread was current
    cdef SpdkThread _thread     # where fn runs or has deferred
    cdef SpdkThread _target     # where it is, or is on its way to
    cdef int _state
    cdef object __weakref__

    cdef int _move(self, uint64_t thread_id) except -1
    cdef int _go_on(self, object status) except -1
    cdef int _end(self, object status) except -1


# A class of devices may have channels of a class of its own, which extends IoChannel: it overrides `_new_channel`, and
# calls this before each `C.__new__(C)`, which is refused otherwise.
cdef void allow_channel() noexcept
