"""Messages that wait, or will never run. See ``undelivered.pxd``.

A thread's messages wait in its ring, in the ring's overflow list, in the batch that its poll has taken and not run to
the end, and in the critical slot.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_exchangep, st_load_acquire, st_load_relaxed, st_loadp_relaxed, st_storep_release
from spdkthread.cpython_ext cimport Py_DECREF_raw, st_visitproc
from spdkthread.forks cimport spin_lock, spin_unlock
from spdkthread.ring cimport (
    MSG_NATIVE,
    MSG_PYTHON_TUPLE,
    RING_POSITION,
    message_ring,
    ring_slot,
    ring_slot_at,
    overflow_message,
    ring_take,
    ring_take_overflow,
)
from spdkthread.thread_struct cimport CRITICAL_CLOSED, critical_waiting, thread_s

from spdkthread.error_log import describe

__all__ = ["special_message"]

cdef dict special_messages = {}


def special_message(fn, name, drop):
    """Messages that call `fn` carry something: ``name(args)`` says what, ``drop(args, why)`` settles it when they
    never run."""
    special_messages[id(fn)] = fn, name, drop


cdef tuple message_args(ring_slot *message):
    cdef uint32_t index
    if message.kind == MSG_PYTHON_TUPLE:
        return <tuple><object>message.args[0]
    return tuple([<object>message.args[index] for index in range(message.nargs)])


cdef str message_name(ring_slot *message):
    """What a message calls."""
    if message.kind == MSG_NATIVE:
        return "native" if message.args[1] == NULL else repr(<object>message.args[1])
    special = special_messages.get(<size_t>message.fn)
    if special is not None:
        return special[1](message_args(message))
    return describe(<object>message.fn)


cdef str drop_message(ring_slot *message, object thread):
    """Drop a message that will never run and settle the future that waits for it. Returns the message's name.

    An error in that is reported and not raised: other messages may stand behind this one.
    """
    cdef uint32_t index
    cdef str name = "a message"
    try:
        name = message_name(message)
        special = None if message.kind == MSG_NATIVE else special_messages.get(<size_t>message.fn)
        if special is not None:
            special[2](message_args(message), f"{name} never ran: its thread has ended")
    except BaseException as error:
        thread.lib._report(f"{name} of thread {thread.name!r} could not be dropped properly", error, thread, "fn", None)
    if message.kind == MSG_NATIVE:
        if message.args[1] != NULL:
            Py_DECREF_raw(<PyObject *>message.args[1])
        return name
    Py_DECREF_raw(<PyObject *>message.fn)
    for index in range(message.nargs):
        Py_DECREF_raw(<PyObject *>message.args[index])
    return name


cdef list undelivered_names(thread_s *thread):
    """The names of the messages that wait, in order, without taking them. Only while nothing polls the thread."""
    cdef uint32_t index
    cdef PyObject *critical = critical_waiting(thread)
    names = []
    if critical != NULL:
        names.append(describe(<object>critical))
    for index in range(thread.batch_next, thread.batch_count):
        names.append(message_name(&thread.batch[index]))
    return names + names_in_ring(thread.ring)


cdef list names_in_ring(message_ring *ring):
    cdef uint64_t position = st_load_relaxed(&ring.head)
    cdef uint64_t tail = st_load_acquire(&ring.tail) & RING_POSITION
    cdef overflow_message *node
    cdef overflow_message *last
    names = []
    while position < tail:
        if st_load_acquire(&ring_slot_at(ring, position).stamp) == position + 1:
            names.append(message_name(ring_slot_at(ring, position)))
        else:
            names.append("being sent")
        position += 1
    # Names may be made by the user's `repr`, so not under the lock. What is on the list now stays: senders append.
    spin_lock(&ring.overflow_lock)
    node = ring.overflow_first
    last = ring.overflow_last
    spin_unlock(&ring.overflow_lock)
    while node != NULL:
        names.append(message_name(&node.slot))
        node = NULL if node == last else node.next
    return names


cdef int drop_undelivered(thread_s *thread, list lost) except -1:
    """Drop every message that waits, and append the names to `lost`."""
    cdef object owner = <object>thread.owner
    cdef ring_slot message
    cdef void *critical
    while thread.batch_next < thread.batch_count:
        message = thread.batch[thread.batch_next]
        thread.batch_next += 1
        lost.append(drop_message(&message, owner))
    while ring_take(thread.ring, &message, 1) or ring_take_overflow(thread.ring, &message, 1):
        lost.append(drop_message(&message, owner))
    critical = st_exchangep(&thread.critical, NULL)
    if critical == <void *>CRITICAL_CLOSED:
        st_storep_release(&thread.critical, critical)
    elif critical != NULL:
        lost.append(describe(<object>critical))
        Py_DECREF_raw(<PyObject *>critical)
    return 0


# The collector calls these: no tracer may.
@cython.profile(False)
@cython.linetrace(False)
cdef int visit_message(ring_slot *message, st_visitproc visit, void *arg) noexcept:
    cdef uint32_t index
    cdef int stop
    if message.kind == MSG_NATIVE:
        return visit(<PyObject *>message.args[1], arg) if message.args[1] != NULL else 0
    stop = visit(<PyObject *>message.fn, arg)
    for index in range(message.nargs):
        if stop:
            break
        stop = visit(<PyObject *>message.args[index], arg)
    return stop


@cython.profile(False)
@cython.linetrace(False)
cdef int visit_undelivered(thread_s *thread, st_visitproc visit, void *arg) noexcept:
    """What waits in a thread that nothing polls meanwhile."""
    cdef uint32_t index = thread.batch_next
    cdef void *critical = st_loadp_relaxed(&thread.critical)
    cdef int stop = visit_ring(thread.ring, visit, arg)
    while index < thread.batch_count and not stop:
        stop = visit_message(&thread.batch[index], visit, arg)
        index += 1
    if not stop and critical != NULL and critical != <void *>CRITICAL_CLOSED:
        stop = visit(<PyObject *>critical, arg)
    return stop


@cython.profile(False)
@cython.linetrace(False)
cdef int visit_ring(message_ring *ring, st_visitproc visit, void *arg) noexcept:
    cdef uint64_t position = st_load_relaxed(&ring.head)
    cdef uint64_t tail = st_load_acquire(&ring.tail) & RING_POSITION
    cdef overflow_message *node
    cdef ring_slot *slot
    cdef int stop = 0
    while position < tail and not stop:
        slot = &ring.slots[position & ring.mask]    # not by `ring_slot_at`, which is traced where lines are traced
        if st_load_acquire(&slot.stamp) == position + 1:
            stop = visit_message(slot, visit, arg)
        position += 1
    node = ring.overflow_first
    while node != NULL and not stop:
        stop = visit_message(&node.slot, visit, arg)
        node = node.next
    return stop
