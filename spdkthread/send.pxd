"""The way into a thread: claim a slot of its ring, fill it, publish it, wake the reactor.

::

    send_claim      RING_OK and a position, or why not
    send_refused    a message that is refused counts
    ring_fill       with a reference of everything
    send_publish    from here on the poll may take it; a reactor that sleeps is woken

Every message goes this way: a user's Python call (`send_call`), native ones (`send_native`, `thread_send_native`), many
at once (`send_each`), and the library's own (`send_own`, `send_own_message`), which cannot be refused for want of room:
what the ring does not hold waits in its overflow list, and while it does users' messages are refused, so that each
sender's messages stay in order.

`passes` are the flags of the ring that do not stop the sender: RING_STOPPING for the library's own messages, which a
reactor that stops still runs, otherwise 0. What a callback of an SpdkThread sends is not from outside either.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_compiler_barrier,
    st_fence_seq_cst,
    st_load32_relaxed,
    st_loadp_relaxed,
)
from spdkthread.cpython_ext cimport likely
from spdkthread.native cimport msg_fn
from spdkthread.ring cimport (
    MSG_NATIVE,
    RING_FULL,
    RING_IS_STOPPING,
    RING_OK,
    RING_STOPPING,
    ring_claim,
    ring_copy_message,
    ring_fill,
    ring_publish,
    ring_reserve,
    ring_slot,
    ring_slot_at,
)
from spdkthread.thread_poll cimport current_thread
from spdkthread.thread_struct cimport thread_s
from spdkthread.trace_ring cimport st_tracing
from spdkthread.wakeup cimport wakeup_state

cdef void wake_reactor(thread_s *thread, wakeup_state *wakeup) noexcept nogil
cdef void send_trace(thread_s *target, uint64_t position) noexcept nogil
cdef int send_overflow(thread_s *thread, const ring_slot *message) noexcept nogil
cdef void drop_call(const ring_slot *message) noexcept
cdef Py_ssize_t send_each(thread_s *thread, PyObject *fn, tuple items, int *verdict) noexcept
cdef int raise_refusal(thread_s *thread, int verdict) except -1


cdef inline void thread_wake(thread_s *thread) noexcept nogil:
    """After publishing: wake the reactor if it can sleep and does, and tell it for which thread if it has many."""
    cdef wakeup_state *wakeup
    # The message is under way before the wakeup is read: see wakeup.pxd about a thread that changes its reactor.
    st_compiler_barrier()
    wakeup = <wakeup_state *>st_loadp_relaxed(&thread.wakeup)
    if wakeup != NULL:
        st_fence_seq_cst()
        if st_load32_relaxed(&wakeup.sleeping):
            wake_reactor(thread, wakeup)


cdef inline int send_claim(thread_s *thread, uint64_t passes, uint64_t *position) noexcept nogil:
    cdef int verdict = ring_claim(thread.ring, 1, passes, position)
    if verdict == RING_IS_STOPPING and current_thread() != NULL:
        verdict = ring_claim(thread.ring, 1, RING_STOPPING, position)
    return verdict


cdef inline void send_refused(thread_s *thread) noexcept nogil:
    st_add_relaxed(&thread.ring.refused, 1)


cdef inline void send_publish(thread_s *thread, ring_slot *slot, uint64_t position) noexcept nogil:
    ring_publish(slot, position)
    if st_tracing():
        send_trace(thread, position)
    thread_wake(thread)


cdef inline int send_try(
    thread_s *thread, uint32_t kind, PyObject *fn, PyObject *const *args, Py_ssize_t count, uint64_t passes
) noexcept:
    """Send a Python call; RING_OK or why not, which nothing counts."""
    cdef uint64_t position
    cdef ring_slot *slot
    cdef int verdict = send_claim(thread, passes, &position)
    if not likely(verdict == RING_OK):
        return verdict
    slot = ring_slot_at(thread.ring, position)
    ring_fill(slot, kind, fn, args, count)
    send_publish(thread, slot, position)
    return RING_OK


cdef inline int send_call(
    thread_s *thread, uint32_t kind, PyObject *fn, PyObject *const *args, Py_ssize_t count
) noexcept:
    """Send a user's Python call; RING_OK or why not."""
    cdef int verdict = send_try(thread, kind, fn, args, count, 0)
    if verdict == RING_FULL:
        send_refused(thread)
    return verdict


cdef inline int send_own(
    thread_s *thread, uint32_t kind, PyObject *fn, PyObject *const *args, Py_ssize_t count, uint64_t passes
) noexcept:
    """Send a Python call of the library's own; RING_OK, or RING_IS_CLOSED, RING_IS_STOPPING, RING_NO_MEMORY."""
    cdef ring_slot message
    cdef int verdict = send_try(thread, kind, fn, args, count, passes)
    if verdict == RING_FULL:
        ring_fill(&message, kind, fn, args, count)
        verdict = send_overflow(thread, &message)
        if verdict != RING_OK:
            drop_call(&message)
    return verdict


cdef inline void send_fill_native(ring_slot *slot, void *fn, void *ctx, PyObject *owner) noexcept nogil:
    slot.kind = MSG_NATIVE          # `nargs` is of Python calls only
    slot.fn = fn
    slot.args[0] = ctx
    slot.args[1] = owner


cdef inline int thread_send_native(thread_s *thread, msg_fn fn, void *ctx, uint64_t passes) noexcept nogil:
    """Send a native message that owns nothing. Returns RING_OK or why not."""
    cdef uint64_t position
    cdef ring_slot *slot
    cdef int verdict = ring_reserve(thread.ring, passes, &position)
    if verdict != RING_OK:
        return verdict
    slot = ring_slot_at(thread.ring, position)
    send_fill_native(slot, <void *>fn, ctx, NULL)
    ring_publish(slot, position)
    thread_wake(thread)
    return RING_OK


cdef inline int send_native(thread_s *thread, void *fn, void *ctx, PyObject *owner) noexcept nogil:
    """Send a user's native message; RING_OK, and the reference of `owner` is the message's now, or why not."""
    cdef uint64_t position
    cdef ring_slot *slot
    cdef int verdict = send_claim(thread, 0, &position)
    if verdict != RING_OK:
        if verdict == RING_FULL:
            send_refused(thread)
        return verdict
    slot = ring_slot_at(thread.ring, position)
    send_fill_native(slot, fn, ctx, owner)
    send_publish(thread, slot, position)
    return RING_OK


cdef inline int send_own_message(thread_s *thread, const ring_slot *message) noexcept nogil:
    """Move a message of the library's own, references included; RING_OK, or RING_IS_CLOSED or RING_NO_MEMORY, and the
    references stay the caller's."""
    cdef uint64_t position
    cdef ring_slot *slot
    cdef int verdict = ring_claim(thread.ring, 1, RING_STOPPING, &position)
    if verdict == RING_OK:
        slot = ring_slot_at(thread.ring, position)
        ring_copy_message(slot, message)
        ring_publish(slot, position)
        thread_wake(thread)
    elif verdict == RING_FULL:
        verdict = send_overflow(thread, message)
    return verdict
