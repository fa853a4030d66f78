"""Senders and receivers without the GIL, that check the order and the count of every sender."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from spdkthread cimport RING_FULL, RING_OK, SpdkThread, thread_send_native
from spdkthread.atomics cimport st_atomic_u32, st_load32_acquire, st_pause, st_store32_release
from spdkthread.clock cimport st_ticks
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
from spdkthread.thread_poll cimport thread_s


cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

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


# Sleep and wake: the pauses below make the senders meet the sleepers at every stage of falling asleep.

cdef inline void pause_a_while(uint64_t *random) noexcept nogil:
    cdef uint64_t loops
    random[0] ^= random[0] << 13
    random[0] ^= random[0] >> 7
    random[0] ^= random[0] << 17
    loops = random[0] >> 40 & 63
    if random[0] & 15 == 0:
        loops <<= 6
    if random[0] & 1023 == 0:
        sched_yield()
    while loops:
        st_pause()
        loops -= 1


cdef struct relay_s:
    thread_s *sides[2]
    int side
    uint64_t left
    uint64_t random
    bint refused
    st_atomic_u32 over


cdef void hop(void *ctx) noexcept nogil:
    """Nothing of `ctx` is touched after the send: by then it belongs to the other side."""
    cdef relay_s *relay = <relay_s *>ctx
    pause_a_while(&relay.random)
    if relay.left:
        relay.left -= 1
        relay.side = 1 - relay.side
        if thread_send_native(relay.sides[relay.side], hop, ctx, 0) == RING_OK:
            return
        relay.refused = True
    st_store32_release(&relay.over, 1)


def relay(SpdkThread here, SpdkThread there, uint64_t count, uint64_t seed, double patience_s):
    """One message that wakes two threads in turn, `count` times. The hops that are left; -1: one was refused."""
    cdef relay_s *one = <relay_s *>calloc(1, sizeof(relay_s))
    cdef uint64_t give_up = st_ticks() + <uint64_t>(patience_s * 1e9)
    cdef int64_t left
    one.sides[0], one.sides[1] = &here.c, &there.c
    one.left = count
    one.random = seed * 2654435761 + 1
    with nogil:
        hop(one)
        while not st_load32_acquire(&one.over) and st_ticks() < give_up:
            usleep(500)
    left = -1 if one.refused else <int64_t>one.left
    if st_load32_acquire(&one.over):
        free(one)           # otherwise it may still come
    return left


cdef void answer(void *ctx) noexcept nogil:
    st_store32_release(<st_atomic_u32 *>ctx, 1)


def ask(SpdkThread thread, uint64_t count, uint64_t seed, double patience_s):
    """Messages one by one, each answered before the next leaves. Returns how many were."""
    cdef st_atomic_u32 *answered = <st_atomic_u32 *>calloc(1, sizeof(st_atomic_u32))
    cdef uint64_t random = seed * 2654435761 + 1
    cdef uint64_t done = 0, give_up, looks
    cdef bint lost = False
    with nogil:
        while done < count and not lost:
            pause_a_while(&random)
            st_store32_release(answered, 0)
            while thread_send_native(&thread.c, answer, <void *>answered, 0) == RING_FULL:
                sched_yield()
            give_up = st_ticks() + <uint64_t>(patience_s * 1e9)
            looks = 0
            while not st_load32_acquire(answered):
                looks += 1
                if looks & 63 == 0:
                    sched_yield()
                    if st_ticks() > give_up:
                        lost = True
                        break
            else:
                done += 1
    if not lost:
        free(answered)      # otherwise it may still be answered
    return done
