# cython: language_level=3
"""Requests to a block device from native code: one completion begins the next read."""

from libc.stdint cimport int64_t, uint64_t

from spdkthread.bdev.device cimport BdevChannel, bdev_channel, bdev_flush, bdev_read, bdev_write

cdef extern from "Python.h":
    int PyGILState_Check() nogil


cdef struct chain:
    bdev_channel *channel
    char memory[4096]
    uint64_t next
    uint64_t end
    uint64_t sum
    int64_t last
    int refused
    bint finished
    bint with_gil

cdef chain state


cdef void go_on(void *ctx, int64_t result) noexcept nogil:
    cdef chain *c = <chain *>ctx
    c.last = result
    if result > 0:
        c.sum += <unsigned char>c.memory[0]
    if PyGILState_Check():
        c.with_gil = True
    if result < 0 or c.next >= c.end:
        c.finished = True
        return
    c.refused = bdev_read(c.channel, c.memory, 4096, c.next, go_on, c)
    c.next += 4096


def start(BdevChannel channel, uint64_t end):
    """Read every page up to `end`; 0, or a negative errno."""
    state.channel = channel.c_channel
    state.next = state.sum = 0
    state.last = 0
    state.end = end
    state.finished = state.with_gil = False
    state.refused = 0
    state.next = 4096
    with nogil:
        refused = bdev_read(state.channel, state.memory, 4096, 0, go_on, &state)
    return refused


def write_and_flush(BdevChannel channel):
    with nogil:
        written = bdev_write(channel.c_channel, state.memory, 4096, 0, NULL, NULL)
        flushed = bdev_flush(channel.c_channel, NULL, NULL)
    return written, flushed


def finished():
    return state.finished


def outcome():
    return state.sum, state.last, state.refused, state.with_gil
