"""The histogram of the latencies of a channel. See ``histogram.pxd`` for its buckets."""

from libc.math cimport ceil
from libc.stdint cimport uint64_t
from libc.string cimport memset

from spdkthread.alloc cimport core_calloc, core_free

__all__ = ["Histogram"]


cdef uint64_t bucket_begin(uint64_t index) noexcept nogil:
    cdef uint64_t shift
    if index < <uint64_t>(2 * HISTOGRAM_SUB):
        return index
    shift = (index >> HISTOGRAM_SUB_BITS) - 1
    return (index - (shift << HISTOGRAM_SUB_BITS)) << shift


cdef class Histogram:
    """Histogram()\n--\n\n\
    Latencies in nanoseconds: buckets that are at most 1/64 of their value wide.

    Notes
    -----
    **Thread safety:** read on any OS thread; what is being added meanwhile may be in one of two figures and not yet in
    the other. `add`, `merge` and `clear`: one OS thread at a time, and for the histogram of a channel that is the
    channel's. Answers to ``struct spdk_histogram_data``.
    """

    def __cinit__(self):
        self.h = <histogram_s *>core_calloc(1, sizeof(histogram_s))
        if self.h == NULL:
            raise MemoryError("no memory for a histogram")

    def __dealloc__(self):
        core_free(self.h)

    def __repr__(self):
        if self.h.count == 0:
            return f"<{type(self).__name__}, empty>"
        return (
            f"<{type(self).__name__} of {self.h.count} latencies, mean {self.mean / 1e3:.1f} us, "
            f"p50 {self.percentile(50) / 1e3:.1f} us, p99 {self.percentile(99) / 1e3:.1f} us, "
            f"max {self.h.largest / 1e3:.1f} us>"
        )

    def add(self, ns) -> None:
        """Count one latency."""
        histogram_add(self.h, ns)

    def merge(self, Histogram other not None) -> None:
        """Count those of another one, too."""
        cdef uint64_t index
        self.h.count += other.h.count
        self.h.total += other.h.total
        self.h.largest = max(self.h.largest, other.h.largest)
        for index in range(<uint64_t>HISTOGRAM_BUCKETS):
            self.h.buckets[index] += other.h.buckets[index]

    def clear(self) -> None:
        """Forget them all."""
        memset(self.h, 0, sizeof(histogram_s))

    def percentile(self, percent) -> float:
        """The latency, in nanoseconds, that so many percent of them do not exceed; 0.0 when there are none."""
        cdef uint64_t index, seen = 0, rank = <uint64_t>ceil(self.h.count * <double>percent / 100.0)
        if self.h.count == 0:
            return 0.0
        if rank == 0:
            rank = 1
        for index in range(<uint64_t>HISTOGRAM_BUCKETS):
            seen += self.h.buckets[index]
            if seen >= rank:
                # Its middle.
                return <double>min((bucket_begin(index) + bucket_begin(index + 1) - 1) // 2, self.h.largest)
        return <double>self.h.largest

    def buckets(self):
        """The buckets that are not empty, from the shortest latency to the longest.

        Returns
        -------
        numpy.ndarray
            A copy, structured: ``begin_ns`` and ``end_ns``, between which the latencies of the bucket are (the end
            belongs to the next one), and ``count``; all of them uint64.
        """
        cdef uint64_t index
        # Here: its import starts OS threads, which spin for a while.
        import numpy

        rows = [
            (bucket_begin(index), bucket_begin(index + 1), self.h.buckets[index])
            for index in range(<uint64_t>HISTOGRAM_BUCKETS)
            if self.h.buckets[index]
        ]
        return numpy.array(rows, dtype=[("begin_ns", "u8"), ("end_ns", "u8"), ("count", "u8")])

    @property
    def count(self) -> int:
        """How many."""
        return self.h.count

    @property
    def mean(self) -> float:
        """Nanoseconds; 0.0 when there are none."""
        return <double>self.h.total / self.h.count if self.h.count else 0.0

    @property
    def max(self) -> int:
        """The longest, in nanoseconds; 0 when there are none."""
        return self.h.largest
