"""Latencies in buckets, of which each is at most 1/64 of its value wide.

::

    value       0 .. 63 | 64 .. 127 | 128 .. 255 | 256 .. 511 | ...      ns
    width             1 |         1 |          2 |          4 | ...
    bucket      0 .. 63 | 64 .. 127 |  128 .. 191 | 192 .. 255 | ...     64 for each doubling

To count one takes the position of its highest bit, two additions and no division, and reads no clock.
"""

from libc.stdint cimport uint64_t

cdef enum:
    HISTOGRAM_SUB_BITS = 6
    HISTOGRAM_SUB = 1 << HISTOGRAM_SUB_BITS
    HISTOGRAM_BUCKETS = 40 * HISTOGRAM_SUB      # up to 2 ** 45 ns; the last one takes what is longer

cdef extern from *:
    """
    #ifndef SPDKTHREAD_BDEV_HISTOGRAM
    #define SPDKTHREAD_BDEV_HISTOGRAM
    static inline int st_highest_bit(uint64_t v) { return 63 - __builtin_clzll(v); }
    #endif
    """
    int st_highest_bit(uint64_t v) noexcept nogil


cdef struct histogram_s:
    uint64_t count
    uint64_t total
    uint64_t largest
    uint64_t buckets[HISTOGRAM_BUCKETS]


cdef inline void histogram_add(histogram_s *h, uint64_t value) noexcept nogil:
    cdef int shift = 0
    cdef uint64_t index
    if value >= <uint64_t>HISTOGRAM_SUB:
        shift = st_highest_bit(value) - HISTOGRAM_SUB_BITS
    index = (<uint64_t>shift << HISTOGRAM_SUB_BITS) + (value >> shift)
    if index >= <uint64_t>HISTOGRAM_BUCKETS:
        index = HISTOGRAM_BUCKETS - 1
    h.count += 1
    h.total += value
    if value > h.largest:
        h.largest = value
    h.buckets[index] += 1


cdef class Histogram:
    cdef histogram_s *h
