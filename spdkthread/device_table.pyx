"""Channels recorded with their thread and their device, found, and counted off. See ``device_table.pxd``."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.atomics cimport st_load32_relaxed, st_store32_release
from spdkthread.cpython_ext cimport Py_DECREF_raw
from spdkthread.forks cimport spin_lock, spin_unlock
from spdkthread.pointer_map cimport map_put, map_remove

__all__: list[str] = []


cdef inline uint32_t index_after(device_s *device, uint64_t thread_id) noexcept nogil:
    """The index at which the channels of later threads begin. Under the lock."""
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
    cdef uint32_t index
    cdef int verdict = CHANNEL_OK
    spin_lock(&device.lock)
    if st_load32_relaxed(&device.state) != DEVICE_REGISTERED:
        verdict = CHANNEL_REFUSED
    elif device.count == device.capacity:
        larger = <channel_s **>core_calloc(max(<uint32_t>8, 2 * device.capacity), sizeof(channel_s *))
        if larger == NULL:
            verdict = CHANNEL_NO_MEMORY
        else:
            if device.count:
                memcpy(larger, device.channels, device.count * sizeof(channel_s *))
            core_free(device.channels)
            device.channels = larger
            device.capacity = max(<uint32_t>8, 2 * device.capacity)
    if verdict == CHANNEL_OK:
        index = index_after(device, channel.thread_id)
        memmove(
            &device.channels[index + 1], &device.channels[index], (device.count - index) * sizeof(channel_s *)
        )
        device.channels[index] = channel
        device.count += 1
        device.live += 1
    spin_unlock(&device.lock)
    return verdict


cdef int channel_record(channel_s *channel) noexcept nogil:
    """Have its thread and its device find the channel, and count it."""
    cdef int verdict
    if not map_put(&channel.thread.channel_map, channel.device, channel):
        return CHANNEL_NO_MEMORY
    verdict = device_add(channel.device, channel)
    if verdict == CHANNEL_OK:
        channel.thread.blockers.channels += 1
    else:
        map_remove(&channel.thread.channel_map, channel.device)
    return verdict


cdef void channel_remove(channel_s *channel) noexcept nogil:
    """Have neither its thread nor its device find it any more. Both still count it."""
    cdef device_s *device = channel.device
    cdef uint32_t index
    spin_lock(&device.lock)
    index = index_after(device, channel.thread_id)
    if index and device.channels[index - 1] == channel:
        memmove(&device.channels[index - 1], &device.channels[index], (device.count - index) * sizeof(channel_s *))
        device.count -= 1
    spin_unlock(&device.lock)
    map_remove(&channel.thread.channel_map, device)


cdef bint release(device_s *device, uint32_t *count) noexcept nogil:
    """One channel or iteration less. True, once: it was the last thing that an unregistration waited for."""
    cdef bint over
    spin_lock(&device.lock)
    count[0] -= 1
    over = (
        device.live == 0 and device.iterations == 0 and st_load32_relaxed(&device.state) == DEVICE_UNREGISTERING
    )
    spin_unlock(&device.lock)
    return over


cdef bint channel_release(channel_s *channel) noexcept nogil:
    """Count a channel off that is destroyed. True, once: it was the last thing that an unregistration waited for."""
    channel.thread.blockers.channels -= 1
    return release(channel.device, &channel.device.live)


cdef object channel_after(device_s *device, uint64_t thread_id):
    """The IoChannel of the next thread after that one, or None."""
    cdef PyObject *found = NULL
    cdef uint32_t index
    spin_lock(&device.lock)
    index = index_after(device, thread_id)
    if index < device.count:
        # Its thread keeps it until it is off this list.
        found = device.channels[index].owner
        Py_INCREF(<object>found)
    spin_unlock(&device.lock)
    if found == NULL:
        return None
    channel = <object>found
    Py_DECREF_raw(found)
    return channel


cdef bint device_begin_iteration(device_s *device) noexcept nogil:
    """Count an iteration, unless the device has been unregistered."""
    cdef bint registered
    spin_lock(&device.lock)
    registered = st_load32_relaxed(&device.state) == DEVICE_REGISTERED
    if registered:
        device.iterations += 1
    spin_unlock(&device.lock)
    return registered


cdef bint device_end_iteration(device_s *device) noexcept nogil:
    """Count an iteration off. True, once: it was the last thing that an unregistration waited for."""
    return release(device, &device.iterations)


cdef bint device_begin_unregister(device_s *device) noexcept nogil:
    """Give no channels any more. True: nothing is left, this was the end. Only for a registered device."""
    cdef bint over
    spin_lock(&device.lock)
    st_store32_release(&device.state, DEVICE_UNREGISTERING)
    over = device.live == 0 and device.iterations == 0
    spin_unlock(&device.lock)
    return over


cdef uint32_t device_channel_count(device_s *device) noexcept nogil:
    """Channels that are not destroyed, those inside a callback of theirs included."""
    cdef uint32_t count
    spin_lock(&device.lock)
    count = device.live
    spin_unlock(&device.lock)
    return count
