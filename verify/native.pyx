"""Senders and receivers without the GIL, that check the order and the count of every sender."""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from spdkthread cimport RING_FULL, RING_OK, SpdkThread, thread_send_native
from spdkthread.atomics cimport st_atomic_u32, st_load32_acquire, st_store32_release
from spdkthread.ring cimport (
    MSG_NATIVE,
    message_ring,
    ring_claim,
    ring_create,
    ring_destroy,
    ring_publish,
    ring_slot,
    ring_slot_at,
    ring_take,
)


cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    SENDERS = 64
    TALLIES = 256


# What has arrived. Written only where the messages run, read after all is over: if the library orders a thread's polls
# as it says, no two of these accesses race, and ThreadSanitizer agrees.
cdef struct tally_s:
    uint64_t expected[SENDERS]
    uint64_t received
    uint64_t wrong

cdef tally_s tallies[TALLIES]
cdef st_atomic_u32 halted


cdef inline void note(tally_s *tally, uint64_t sender, uint64_t number) noexcept nogil:
    if tally.expected[sender] != number:
        tally.wrong += 1
    tally.expected[sender] = number + 1
    tally.received += 1


cdef void arrive(void *ctx) noexcept nogil:
    """A message: 8 bits of tally, 8 of sender, 48 of number."""
    cdef uint64_t word = <uint64_t><uintptr_t>ctx
    note(&tallies[word >> 56], (word >> 48) & 255, word & ((<uint64_t>1 << 48) - 1))


def reset(int tally):
    """Forget what has arrived."""
    cdef int sender
    for sender in range(SENDERS):
        tallies[tally].expected[sender] = 0
    tallies[tally].received = tallies[tally].wrong = 0


def halt(int yes):
    """Have every `send` come back, or not any more."""
    st_store32_release(&halted, yes)


def arrived(int tally):
    """``(received, wrong, per-sender counts)``."""
    return tallies[tally].received, tallies[tally].wrong, [tallies[tally].expected[i] for i in range(SENDERS)]


def send(SpdkThread thread, int tally, int sender, uint64_t count):
    """Send `count` numbered messages, waiting for room; stops when refused. Returns how many were taken."""
    cdef uint64_t number = 0
    cdef uint64_t base = (<uint64_t>tally << 56) | (<uint64_t>sender << 48)
    cdef int verdict
    with nogil:
        while number < count and not st_load32_acquire(&halted):
            verdict = thread_send_native(&thread.c, arrive, <void *><uintptr_t>(base | number), 0)
            if verdict == RING_OK:
                number += 1
            elif verdict == RING_FULL:
                sched_yield()
            else:
                break
    return number


cdef class Ring:
    """A message ring by itself under native senders."""

    cdef message_ring *ring
    cdef tally_s *tally

    def __cinit__(self, uint64_t capacity):
        self.ring = ring_create(capacity)
        self.tally = <tally_s *>calloc(1, sizeof(tally_s))

    def __dealloc__(self):
        ring_destroy(self.ring)
        free(self.tally)

    def send(self, uint64_t sender, uint64_t count, uint64_t at_once):
        """Claim up to `at_once` slots at a time."""
        cdef uint64_t number = 0, position = 0, index, want
        cdef ring_slot *slot
        with nogil:
            while number < count:
                want = min(at_once, count - number)
                if ring_claim(self.ring, want, 0, &position) != RING_OK:
                    sched_yield()
                    continue
                for index in range(want):
                    slot = ring_slot_at(self.ring, position + index)
                    slot.kind = MSG_NATIVE
                    slot.fn = <void *>arrive
                    slot.args[0] = <void *><uintptr_t>sender
                    slot.args[1] = <void *><uintptr_t>(number + index)
                    slot.args[2] = <void *><uintptr_t>~(number + index)
                    ring_publish(slot, position + index)
                number += want

    def receive(self, uint64_t count, uint32_t limit):
        """Take `count` messages; returns ``(received, wrong)``."""
        cdef ring_slot batch[64]
        cdef uint32_t index, taken
        cdef uint64_t number
        with nogil:
            while self.tally.received < count:
                taken = ring_take(self.ring, batch, limit)
                if taken == 0:
                    sched_yield()
                for index in range(taken):
                    number = <uint64_t><uintptr_t>batch[index].args[1]
                    if batch[index].fn != <void *>arrive or ~number != <uint64_t><uintptr_t>batch[index].args[2]:
                        self.tally.wrong += 1
                    note(self.tally, <uint64_t><uintptr_t>batch[index].args[0], number)
        return self.tally.received, self.tally.wrong
