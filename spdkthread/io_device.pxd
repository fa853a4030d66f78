"""I/O devices and channels, and what native code sees of them.

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

from spdkthread.device_table cimport (
    CHANNEL_CREATING,
    CHANNEL_DESTROYED,
    CHANNEL_READY,
    DEVICE_REGISTERED,
    DEVICE_UNREGISTERED,
    DEVICE_UNREGISTERING,
    channel_get,
    channel_put,
    channel_s,
    device_s,
    thread_channel,
)
from spdkthread.for_each_channel cimport IoChannelIter
from spdkthread.lib cimport ThreadLib
from spdkthread.thread cimport SpdkThread


cdef class IoDevice:
    cdef device_s c
    cdef readonly str name
    cdef readonly ThreadLib lib
    cdef readonly object ctx_dtype
    cdef object _create_cb
    cdef object _destroy_cb
    cdef object _unregistration      # the one under way
    cdef object __weakref__

    cdef IoChannel get(self)
    cdef IoChannel _make_channel(self, SpdkThread thread)
    cdef IoChannel _new_channel(self)
    cdef int _destroy(self, IoChannel channel, bint created) except -1
    cdef object _refuse(self, str what)


cdef class IoChannel:
    cdef channel_s c
    cdef readonly IoDevice device
    cdef readonly SpdkThread thread
    cdef readonly object ctx
    cdef object _memory         # what ctx_data points into
    cdef object __weakref__

    cdef int _make_ctx(self) except -1
    cdef int _require(self, str what) except -1


# A class of devices may have channels of a class of its own, which extends IoChannel: it overrides `_new_channel`, and
# calls this before each `C.__new__(C)`, which is refused otherwise.
cdef void allow_channel() noexcept
