"""for_each_channel: one message after the other, to each thread that has a channel of a device.

::

    origin: for_each_channel ── message ──> thread "a": fn ── message ──> thread "c": fn ── message ──> origin: cpl

The next thread is looked up in the device's array when the present one is done (`channel_after`), and its channel when
the message arrives (`thread_channel`): channels come and go on the way.
"""

from libc.stdint cimport uint64_t

from spdkthread.device_table cimport device_s
from spdkthread.thread cimport SpdkThread

cdef enum iter_state:
    ITER_MOVING                 # in a message, on the way to the next thread, or back
    ITER_IN_FN                  # inside fn, which has neither deferred nor continued
    ITER_DEFERRED               # waits for continue_, inside fn or after it
    ITER_CONTINUED              # deferred and continued, both inside fn
    ITER_DONE


cdef class IoChannelIter:
    cdef device_s *device_c
    cdef readonly object device         # the IoDevice, which stands above this module
    cdef readonly object channel        # the IoChannel
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
    cdef int _end_device(self) except -1


cdef object begin_iteration(object device, device_s *device_c, object fn, object ctx, object cpl, SpdkThread origin)
cdef int settle_orphan(object future, object what) except -1
