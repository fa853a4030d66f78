"""Which thread has a channel of which device: C structs, and the one place where a channel is recorded.

Every thread keeps its channels in a map by device, and every device keeps its channels in an array in the order in
which their threads were created::

    thread "a"  channel_map { disk: ch1, net: ch2 }          disk  channels [ ch1 (a), ch3 (c) ]
    thread "c"  channel_map { disk: ch3 }                    net   channels [ ch2 (a) ]

So a look-up costs the same however many devices and channels there are, and for_each_channel walks only over threads
that have one. The map belongs to its thread; the array of a device is shared, and `lock` guards it.

The life of a channel, all of it on its thread:

1. `channel_record` puts it into the map and into the array, and counts it twice: its thread does not exit, and its
   device does not end, while the count is not 0. CHANNEL_CREATING, then CHANNEL_READY.
2. The last put sends a message, which destroys the channel if no reference has been taken meanwhile.
3. `channel_remove` takes it out of the map and the array, so that `destroy_channel` runs on a channel that is not
   found.
4. CHANNEL_DESTROYED. `channel_release` counts it off. The last one of a device that is being unregistered ends the
   device.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u32, st_load32_acquire
from spdkthread.pointer_map cimport map_get
from spdkthread.thread_poll cimport current_thread, thread_s

cdef enum device_state:
    DEVICE_UNREGISTERED
    DEVICE_REGISTERED
    DEVICE_UNREGISTERING        # gives nothing any more, waits for its channels and iterations to end

cdef enum channel_state:
    CHANNEL_CREATING            # inside create_channel: no get returns it yet
    CHANNEL_READY               # also with no reference left, until its destruction comes
    CHANNEL_DESTROYED

cdef enum channel_verdict:
    CHANNEL_OK
    CHANNEL_REFUSED             # the device has been unregistered meanwhile
    CHANNEL_NO_MEMORY


cdef struct channel_s:
    device_s *device
    thread_s *thread
    void *ctx_data              # memory of ctx_dtype, zeroed, on a cache line of its own; NULL without one
    size_t ctx_size
    PyObject *owner             # the IoChannel, borrowed: its thread keeps it
    uint64_t thread_id
    uint32_t refs
    uint32_t destroy_refs       # messages under way that destroy it if it is unused; only the last one does
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


cdef int channel_record(channel_s *channel) noexcept nogil
cdef void channel_remove(channel_s *channel) noexcept nogil
cdef bint channel_release(channel_s *channel) noexcept nogil
cdef object channel_after(device_s *device, uint64_t thread_id)
cdef bint device_begin_iteration(device_s *device) noexcept nogil
cdef bint device_end_iteration(device_s *device) noexcept nogil
cdef bint device_begin_unregister(device_s *device) noexcept nogil
cdef uint32_t device_channel_count(device_s *device) noexcept nogil
