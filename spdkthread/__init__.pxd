"""For other Cython code: ``from spdkthread cimport SpdkThread, thread_send_native, RING_OK``.

Everything below is ``noexcept nogil``; nothing of it touches a Python object. A C function is a message
(``void (void *)``) or a poller (``int (void *)``)::

    cdef void hello(void *ctx) noexcept nogil:
        ...

    cdef SpdkThread thread = ...
    with nogil:
        if thread_send_native(&thread.c, hello, NULL, 0) != RING_OK:
            ...
"""

from spdkthread.call_later cimport Timer, timer_s
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
from spdkthread.iobuf cimport (
    IOBUF_BAD_SIZE,
    IOBUF_BUSY,
    IOBUF_EMPTY,
    IOBUF_NOT_HELD,
    IOBUF_OK,
    IOBUF_POOL_CLOSED,
    IOBUF_WAITING,
    IoBuf,
    IoBufChannel,
    IoBufPool,
    iobuf_abort,
    iobuf_channel_s,
    iobuf_entry,
    iobuf_get,
    iobuf_put,
)
from spdkthread.lib cimport ThreadLib
from spdkthread.native cimport msg_fn, poller_fn
from spdkthread.poller cimport Poller
from spdkthread.ring cimport RING_FULL, RING_STOPPING, RING_IS_STOPPING, RING_IS_CLOSED, RING_OK, message_ring
from spdkthread.spinlock cimport (
    SPIN_BUSY,
    SPIN_OK,
    SpinLock,
    spinlock_destroy,
    spinlock_held,
    spinlock_init,
    spinlock_lock,
    spinlock_s,
    spinlock_try,
    spinlock_unlock,
)
from spdkthread.thread cimport SpdkThread, thread_send_python
from spdkthread.send cimport thread_send_native
from spdkthread.thread_poll cimport (
    STEP_DONE,
    STEP_NATIVE,
    STEP_PYTHON,
    current_deadline,
    current_thread,
    poll_begin,
    poll_detached,
    poll_end,
    poll_needed,
    thread_call_later,
    thread_cancel_timer,
    thread_s,
)
from spdkthread.timers cimport TIMER_NEVER
