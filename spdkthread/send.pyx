"""The way into a thread. See ``send.pxd``."""

from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport st_load32_relaxed, st_load_relaxed, st_loadp_relaxed
from spdkthread.clock cimport st_cycles
from spdkthread.cpython_ext cimport Py_DECREF_raw, tuple_items
from spdkthread.ring cimport (
    MSG_PYTHON,
    RING_FULL,
    RING_IS_CLOSED,
    RING_IS_STOPPING,
    RING_OK,
    RING_STOPPING,
    ring_claim,
    ring_fill,
    ring_pending,
    ring_publish,
    ring_slot,
    ring_slot_at,
    ring_add_overflow,
)
from spdkthread.thread_poll cimport current_thread
from spdkthread.thread_struct cimport ATTENTION_OVERFLOW, attention_set, st_fetch, thread_fetch, thread_s
from spdkthread.trace_ring cimport TRACE_SEND, st_trace_word, st_tracing, trace_enrol, trace_put
from spdkthread.wakeup cimport wakeup_state, wakeup_thread

from spdkthread.errors import RingFullError, ThreadExitedError
from spdkthread.waiting import whereabouts

cdef enum:
    PIECE = 256             # messages of `send_each` that are claimed at once: the receiver need not wait for them all


cdef void wake_reactor(thread_s *thread, wakeup_state *wakeup) noexcept nogil:
    """After a message and a fence: the reactor sleeps, or wants to know which of its many threads has one."""
    cdef thread_s *sender = current_thread()
    cdef ring_slot *behind
    if sender != NULL and st_loadp_relaxed(&sender.wakeup) == wakeup:
        # This OS thread will poll it, soon, and will look whether there is a message behind this one.
        thread_fetch(thread)
        behind = ring_slot_at(thread.ring, st_load_relaxed(&thread.ring.tail))
        st_fetch(behind, behind)
    wakeup_thread(wakeup, st_load32_relaxed(&thread.ready_index))


cdef void send_trace(thread_s *target, uint64_t position) noexcept nogil:
    """For a trace: a message stands at `position` of the ring."""
    cdef thread_s *sender = current_thread()
    trace_put(
        TRACE_SEND, 0 if sender == NULL else sender.trace_number, st_cycles(), 0, target.trace_number,
        <int64_t>(position + 1),
    )


cdef int send_overflow(thread_s *thread, const ring_slot *message) noexcept nogil:
    """Put a message of the library's own behind a full ring; RING_OK, or RING_IS_CLOSED or RING_NO_MEMORY."""
    cdef int verdict = ring_add_overflow(thread.ring, message)
    if verdict == RING_OK:
        attention_set(thread, ATTENTION_OVERFLOW)
        thread_wake(thread)
    return verdict


cdef void drop_call(const ring_slot *message) noexcept:
    """Drop the references of a Python call that could not be sent."""
    cdef uint32_t index
    Py_DECREF_raw(<PyObject *>message.fn)
    for index in range(message.nargs):
        Py_DECREF_raw(<PyObject *>message.args[index])


cdef Py_ssize_t send_each(thread_s *thread, PyObject *fn, tuple items, int *verdict) noexcept:
    """Send ``fn(item)`` for each item, with one compare-and-swap for many slots. Returns how many were taken before the
    ring refused one, and in `verdict` why it did."""
    cdef Py_ssize_t total = PyTuple_GET_SIZE(items)
    cdef PyObject *const *all_items = tuple_items(items)
    cdef Py_ssize_t taken = 0
    cdef Py_ssize_t index
    cdef uint64_t position = 0, room
    cdef uint64_t passes = RING_STOPPING if current_thread() != NULL else 0
    cdef uint64_t want
    cdef ring_slot *slot
    verdict[0] = RING_OK
    while taken < total:
        want = min(<uint64_t>(total - taken), <uint64_t>PIECE, thread.ring.capacity)
        verdict[0] = ring_claim(thread.ring, want, passes, &position)
        while verdict[0] == RING_FULL and want > 1:
            room = ring_pending(thread.ring)
            room = thread.ring.capacity - room if room < thread.ring.capacity else 0
            want = min(want - 1, room) if room else 1
            verdict[0] = ring_claim(thread.ring, want, passes, &position)
        if verdict[0] != RING_OK:
            break
        for index in range(<Py_ssize_t>want):
            slot = ring_slot_at(thread.ring, position + index)
            ring_fill(slot, MSG_PYTHON, fn, &all_items[taken + index], 1)
            ring_publish(slot, position + index)
        if st_tracing():
            for index in range(<Py_ssize_t>want):
                send_trace(thread, position + index)
        thread_wake(thread)
        taken += want
    if verdict[0] == RING_FULL:
        send_refused(thread)
    return taken


cdef int raise_refusal(thread_s *thread, int verdict) except -1:
    """Raise what a refused send means."""
    cdef object target = <object>thread.owner
    if verdict == RING_FULL:
        raise RingFullError(
            f"the ring of {whereabouts(target)} is full: {thread.ring.capacity} messages wait. Send less, wait for "
            "room with send_msg_wait(), or give the thread a larger ring_size"
        )
    if verdict == RING_IS_CLOSED:
        raise ThreadExitedError(
            f"{whereabouts(target)}, takes no messages any more: send before exit(), or to another"
        )
    if verdict == RING_IS_STOPPING:
        raise ThreadExitedError(
            f"{whereabouts(target)}, is being stopped with its reactor and takes nothing from outside: send before "
            "stop()"
        )
    raise MemoryError(f"no memory for a message to {target!r}")


trace_enrol(&st_trace_word)
