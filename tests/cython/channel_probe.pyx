"""What native code does with devices and channels, compiled against the installed .pxd files."""

from libc.stdint cimport int64_t, uint64_t, uintptr_t

from spdkthread.clock cimport st_ticks
from spdkthread.io_device cimport (
    IoChannel,
    IoDevice,
    channel_get,
    channel_put,
    channel_s,
    device_s,
    thread_channel,
)
from spdkthread.thread_poll cimport current_thread


cdef struct counters:
    uint64_t polls
    uint64_t limit


cdef api int count_poll(void *ctx) noexcept nogil:
    """A poller on the memory of a channel's context."""
    cdef counters *mine = <counters *>ctx
    if mine.polls >= mine.limit:
        return 0
    mine.polls += 1
    return 1


cdef api int find_and_count(void *ctx) noexcept nogil:
    """A poller that knows only the device, and finds the channel of the thread on which it runs."""
    cdef channel_s *channel = thread_channel(current_thread(), <device_s *>ctx)
    if channel == NULL or channel.ctx_size < sizeof(counters):
        return 0
    return count_poll(channel.ctx_data)


def device_address(IoDevice device):
    return <uintptr_t>&device.c


def describe(IoChannel channel):
    """What is in the structure of a channel, read without the GIL."""
    cdef void *data
    cdef size_t size
    cdef uint64_t thread_id
    cdef bint linked
    with nogil:
        data = channel.c.ctx_data
        size = channel.c.ctx_size
        thread_id = channel.c.thread_id
    linked = channel.c.device == &channel.device.c and channel.c.thread == &channel.thread.c
    return <uintptr_t>data, size, thread_id, linked


def find(IoDevice device):
    """The current thread's channel as native code sees it; None when there is none."""
    cdef channel_s *channel
    if current_thread() == NULL:
        return None
    with nogil:
        channel = thread_channel(current_thread(), &device.c)
    return None if channel == NULL else <object>channel.owner


def get_native(IoDevice device):
    """`channel_get`: whether it found a channel."""
    cdef channel_s *channel
    with nogil:
        channel = channel_get(&device.c)
    return None if channel == NULL else <object>channel.owner


def put_native(IoChannel channel):
    """`channel_put`: whether it gave a reference back."""
    cdef bint given
    with nogil:
        given = channel_put(&channel.c)
    return given


def time_get_put(IoDevice device, int64_t count):
    """Nanoseconds for one `channel_get` and `channel_put`."""
    cdef int64_t left = count
    cdef channel_s *channel
    cdef uint64_t begin
    with nogil:
        begin = st_ticks()
        while left > 0:
            channel = channel_get(&device.c)
            channel_put(channel)
            left -= 1
        begin = st_ticks() - begin
    return <double>begin / <double>count
