"""Messages that wait, or will never run. See ``undelivered.pxd``."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_load_acquire, st_load_relaxed
from spdkthread.forks cimport spin_lock, spin_unlock
from spdkthread.ring cimport (
    MSG_NATIVE,
    MSG_PYTHON_TUPLE,
    RING_POSITION,
    message_ring,
    ring_slot,
    ring_slot_at,
    ring_spill,
)
from spdkthread.cpython_ext cimport st_visitproc

from spdkthread.error_log import describe

__all__ = ["special_message"]

cdef extern from *:
    void Py_DECREF_raw "Py_DECREF"(PyObject *)

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
    """Whose call a message is."""
    if message.kind == MSG_NATIVE:
        return "native" if message.args[1] == NULL else repr(<object>message.args[1])
    special = special_messages.get(<size_t>message.fn)
    if special is not None:
        return special[1](message_args(message))
    return describe(<object>message.fn)


cdef str drop_message(ring_slot *message, object thread):
    """Let go of a message that will never run; a future that waits for it hears so. Returns its name.

    What fails in that is reported: behind this message there may be others.
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


cdef list waiting_names(message_ring *ring):
    """The names of what waits in a ring, in order, without taking it. Only while nothing takes from it."""
    cdef uint64_t position = st_load_relaxed(&ring.head)
    cdef uint64_t tail = st_load_acquire(&ring.tail) & RING_POSITION
    cdef ring_spill *node
    cdef ring_spill *last
    names = []
    while position < tail:
        if st_load_acquire(&ring_slot_at(ring, position).stamp) == position + 1:
            names.append(message_name(ring_slot_at(ring, position)))
        else:
            names.append("being sent")
        position += 1
    # A name may be the user's `repr`: not under the lock. What is on the list now stays, others only append to it.
    spin_lock(&ring.spill_lock)
    node = ring.spill_first
    last = ring.spill_last
    spin_unlock(&ring.spill_lock)
    while node != NULL:
        names.append(message_name(&node.slot))
        node = NULL if node == last else node.next
    return names


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
cdef int visit_waiting(message_ring *ring, st_visitproc visit, void *arg) noexcept:
    """What waits in a ring that cannot move meanwhile."""
    cdef uint64_t position = st_load_relaxed(&ring.head)
    cdef uint64_t tail = st_load_acquire(&ring.tail) & RING_POSITION
    cdef ring_spill *node
    cdef ring_slot *slot
    cdef int stop = 0
    while position < tail and not stop:
        slot = &ring.slots[position & ring.mask]    # not by `ring_slot_at`, which is traced where lines are traced
        if st_load_acquire(&slot.stamp) == position + 1:
            stop = visit_message(slot, visit, arg)
        position += 1
    node = ring.spill_first
    while node != NULL and not stop:
        stop = visit_message(&node.slot, visit, arg)
        node = node.next
    return stop
