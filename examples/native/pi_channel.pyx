"""The native half of ``native_channel.py``: a poller that needs no GIL, on the memory of an I/O channel."""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t

from spdkthread cimport IoDevice, channel_s, current_thread, device_s, thread_channel

cdef enum:
    BATCH = 1000


# What a channel's ctx_dtype describes to NumPy, here as C sees it.
cdef struct dice:
    uint64_t state
    uint64_t thrown
    uint64_t inside


cdef inline uint32_t throw(dice *mine) noexcept nogil:
    """A pseudo-random number: xorshift64*."""
    mine.state ^= mine.state >> 12
    mine.state ^= mine.state << 25
    mine.state ^= mine.state >> 27
    return <uint32_t>((mine.state * <uint64_t>0x2545F4914F6CDD1D) >> 32)


cdef api int throw_batch(void *device) noexcept nogil:
    """The poller. It knows the device and finds the channel of whichever thread it runs on."""
    cdef channel_s *channel = thread_channel(current_thread(), <device_s *>device)
    cdef dice *mine
    cdef uint64_t x, y
    cdef int _
    if channel == NULL:
        return 0
    mine = <dice *>channel.ctx_data
    for _ in range(BATCH):
        x = throw(mine)
        y = throw(mine)
        # x and y are fractions of 2**32; dropping a bit of each keeps the sum of squares within 64 bits.
        mine.inside += (x >> 1) * (x >> 1) + (y >> 1) * (y >> 1) < <uint64_t>1 << 62
    mine.thrown += BATCH
    return 1


def address(IoDevice device):
    """What `throw_batch` takes as its context."""
    return <uintptr_t>&device.c
