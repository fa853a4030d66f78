"""A thread's group of sockets over io_uring. See ``uring_group.pxd``."""

from libc.errno cimport EAGAIN, EBUSY, EINTR, ENOBUFS, ENOENT, ENOMEM, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.unistd cimport close

from spdkthread.alloc cimport core_calloc, core_free, core_map, core_unmap
from spdkthread.atomics cimport st_loadp_relaxed
from spdkthread.clock cimport st_ticks
from spdkthread.sock.core cimport (
    SOCK_BATCH,
    SOCK_CLOSED,
    SOCK_CLOSING,
    SOCK_CONNECTING,
    SOCK_IN_BLOCK,
    SOCK_LISTENING,
    SOCK_OPEN,
    group_ask,
    sock_accepted_fd,
    sock_connected,
    sock_finish,
    sock_flush_later,
    sock_input_ended,
    sock_next_to_flush,
    sock_output_done,
    sock_sent,
    sock_starved,
    sock_wants_input,
)
from spdkthread.thread_poll cimport FD_NATIVE_CALL, FD_NATIVE_WORKED, active_pause, active_resume, thread_s

cdef extern from "../uring.h" nogil:
    enum:
        URING_OP_NOP
        URING_OP_POLL_ADD
        URING_OP_ACCEPT
        URING_OP_ASYNC_CANCEL
        URING_OP_SEND
        URING_OP_RECV
        URING_SQE_BUFFER_SELECT
        URING_ACCEPT_MULTISHOT
        URING_RECV_MULTISHOT
        URING_CANCEL_ALL
        URING_CANCEL_ANY
        URING_CQE_BUFFER
        URING_CQE_MORE

    struct uring_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        uint16_t buf_index

    struct uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags

    struct uring_offer:
        uint64_t addr
        uint32_t len
        uint16_t id

    ctypedef struct uring:
        uint32_t sq_mask
        uint32_t sq_tail
        uint32_t unsubmitted
        uring_sqe *sqes

    int uring_open(uring *ring, uint32_t entries, uint32_t cq_entries, int file, int event_fd)
    void uring_close(uring *ring)
    uint32_t uring_room(uring *ring)
    uring_sqe *uring_next(uring *ring)
    int uring_submit_and_get(uring *ring)
    uint64_t uring_take_back(uring *ring)
    bint uring_has_events(uring *ring)
    bint uring_wants_call(uring *ring)
    void uring_get_events(uring *ring)
    bint uring_take(uring *ring, uring_cqe *out)
    uint32_t uring_count(uring *ring)
    void uring_events(uring *ring, bint wanted)
    int uring_cancel_now(uring *ring, uint64_t user_data, uint32_t flags)
    int uring_register_offers(uring *ring, uring_offer *offers, uint32_t count)
    void uring_unregister_offers(uring *ring)
    void uring_publish_offers(uring_offer *offers, uint16_t tail)

cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <stdatomic.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/eventfd.h>
    #include <sys/syscall.h>
    static inline int st_event_open(void) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return fd;
    }
    #else
    #define SOCK_NONBLOCK 0
    #define SOCK_CLOEXEC 0
    static inline int st_event_open(void) { errno = ENOSYS; return -1; }
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    static inline void st_event_drain(int fd) {
        uint64_t rung;
        if (read(fd, &rung, sizeof rung) < 0) return;
    }
    static inline void st_moment(void) {
        struct timespec moment = {0, 50000};
        nanosleep(&moment, NULL);
    }
    static inline void st_full_fence(void) { atomic_thread_fence(memory_order_seq_cst); }
    /* An address that no other OS thread has at the same time. */
    static inline void *st_os_thread(void) {
        static __thread char here;
        return &here;
    }
    static sock_backend st_uring_backend;
    """
    int st_event_open() noexcept nogil
    void st_event_drain(int fd) noexcept nogil
    void st_moment() noexcept nogil
    void st_full_fence() noexcept nogil
    void *st_os_thread() noexcept nogil
    int uring_double_refusal
    sock_backend st_uring_backend
    const int SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_NOSIGNAL, MSG_DONTWAIT, POLLOUT, ECANCELED

cdef enum:
    SQ_ENTRIES = 256
    CQ_ENTRIES = 4096       # as many completions fit until the kernel has to keep some for itself
    MOST_ENTRIES = 4        # that one socket needs in one turn
    FIRST_SLOTS = 64
    LOOKS = 16              # looks of the poller between two at the clock

# Nothing completed for so long, the poller lets its reactor sleep: see bdev/device.pyx.
cdef uint64_t SPIN_TICKS = 60_000

cdef enum request:
    REQUEST_NONE            # an entry that was written and then not wanted
    REQUEST_RECV
    REQUEST_ACCEPT
    REQUEST_SEND
    REQUEST_POLL
    REQUEST_CANCEL

# Of `sock_s.reading`.
cdef enum reading:
    READING_NOT
    READING_ARMED
    READING_CANCELLED       # its last completion is to come

# A completion names (generation, slot, request); slot 0 is no socket's.
cdef struct sock_slot:
    sock_s *sock
    uint32_t generation     # one more each time that a socket leaves it
    uint32_t next_free

cdef struct sock_ring:
    uring ring
    uint32_t in_flight      # requests whose last completion has not been taken
    int broken              # the errno with which the kernel does not know the ring any more
    sock_slot *slots
    uint32_t slot_count
    uint32_t slot_free
    uring_offer *offers
    uint8_t **memory        # of each buffer
    uint32_t offer_count
    uint16_t offer_tail
    size_t buffer_size
    void *os_thread         # whose calls of the kernel complete the requests
    poller_s *poller
    bint asleep             # the poller is paused, and a completion makes the eventfd readable
    uint32_t looks
    uint64_t idle_since     # ticks; 0: the last look found something


cdef inline sock_ring *ring_of(sock_group_s *group) noexcept nogil:
    return <sock_ring *>group.ring


cdef inline uint64_t name_of(sock_ring *r, sock_s *sock, int request) noexcept nogil:
    return <uint64_t>r.slots[sock.slot].generation << 32 | <uint64_t>sock.slot << 4 | <uint64_t>request


cdef inline sock_s *named(sock_ring *r, uint64_t name) noexcept nogil:
    """The socket of a request; NULL: it has left the ring."""
    cdef uint32_t slot = <uint32_t>name >> 4
    if slot == 0 or r.slots[slot].generation != <uint32_t>(name >> 32):
        return NULL
    return r.slots[slot].sock


# ---- buffers ---------------------------------------------------------------------------------------------------------

cdef void uring_offer_buffer(sock_group_s *group, int number) noexcept nogil:
    """Have the kernel use a buffer (again)."""
    cdef sock_ring *r = ring_of(group)
    cdef uring_offer *offer = &r.offers[r.offer_tail & (r.offer_count - 1)]
    offer.addr = <uint64_t>r.memory[number]
    offer.len = <uint32_t>r.buffer_size
    offer.id = <uint16_t>number
    r.offer_tail += 1
    uring_publish_offers(r.offers, r.offer_tail)


cdef uint8_t *uring_buffer(sock_group_s *group, int number) noexcept nogil:
    return ring_of(group).memory[number]


cdef void uring_replace_buffer(sock_group_s *group, int number, uint8_t *memory) noexcept nogil:
    """Of a buffer that is not offered: other memory."""
    ring_of(group).memory[number] = memory


# ---- bytes that came when they were not to be read -------------------------------------------------------------------

cdef bint keep_input(sock_s *sock, const void *data, size_t length) noexcept nogil:
    cdef size_t capacity = sock.in_capacity
    cdef uint8_t *larger
    if sock.in_length + length > capacity:
        if capacity == 0:
            capacity = 64
        while capacity < sock.in_length + length:
            capacity *= 2
        larger = <uint8_t *>core_calloc(1, capacity)
        if larger == NULL:
            return False
        if sock.in_length:
            memcpy(larger, sock.input, sock.in_length)
        core_free(sock.input)
        sock.input = larger
        sock.in_capacity = capacity
    memcpy(sock.input + sock.in_length, data, length)
    sock.in_length += length
    return True


cdef void forget_input(sock_s *sock) noexcept nogil:
    cdef int fd
    cdef size_t at = 0
    while sock.listening and at < sock.in_length:
        memcpy(&fd, sock.input + at, sizeof(int))
        close(fd)
        at += sizeof(int)
    core_free(sock.input)
    sock.input = NULL
    sock.in_length = sock.in_capacity = 0
    sock.in_ended = False


cdef void give_kept(sock_group_s *group, sock_s *sock) noexcept nogil:
    """It is to be read again: first what was kept."""
    cdef uint8_t *block = sock.input
    cdef size_t length = sock.in_length
    cdef int fd, refused
    if sock.state == SOCK_LISTENING:
        while sock.in_length and group.accepted_count < <uint32_t>SOCK_BATCH:
            memcpy(&fd, sock.input, sizeof(int))
            sock.in_length -= sizeof(int)
            memmove(sock.input, sock.input + sizeof(int), sock.in_length)
            sock_accepted_fd(sock, fd)
        if sock.in_length:
            sock_flush_later(sock)
        return
    if length and sock.on_data == NULL and group.delivery_count >= ring_of(group).offer_count:
        sock_flush_later(sock)          # when Python has seen what it has
        return
    sock.input = NULL
    sock.in_length = sock.in_capacity = 0
    if length and sock.on_data == NULL:
        group.deliveries[group.delivery_count].sock = sock
        group.deliveries[group.delivery_count].length = length
        group.deliveries[group.delivery_count].block = block
        group.deliveries[group.delivery_count].where = SOCK_IN_BLOCK
        group.delivery_count += 1
    elif length:
        refused = sock.on_data(sock.ctx, sock, block, length)
        core_free(block)
        if refused < 0 and sock.group == group:
            sock_finish(sock, 0, False)
    else:
        core_free(block)
    if sock.in_ended and sock.group == group and sock_wants_input(sock):
        end_input(sock, sock.in_error)


cdef void end_input(sock_s *sock, int error) noexcept nogil:
    """Nothing more comes: now, or after what is kept."""
    if sock.in_length or not sock_wants_input(sock):
        sock.in_ended = True
        sock.in_error = error
    elif error:
        sock.in_ended = True
        sock_finish(sock, error, False)
    else:
        sock.in_ended = True
        sock_input_ended(sock)


# ---- requests --------------------------------------------------------------------------------------------------------

cdef inline uring_sqe *entry(sock_ring *r, sock_s *sock, int opcode, int request) noexcept nogil:
    cdef uring_sqe *sqe = uring_next(&r.ring)
    sqe.opcode = opcode
    sqe.fd = sock.fd
    sqe.user_data = name_of(r, sock, request)
    r.in_flight += 1
    return sqe


cdef bint serve(sock_group_s *group, sock_s *sock) noexcept nogil:
    """Write the entries of what a socket wants. False: there is no room for them."""
    cdef sock_ring *r = ring_of(group)
    cdef uring_sqe *sqe
    cdef size_t pending
    cdef bint wants
    if uring_room(&r.ring) < MOST_ENTRIES:
        submit(group)
        if uring_room(&r.ring) < MOST_ENTRIES:
            return False
    if (sock.in_length or (sock.in_ended and not sock.ended)) and sock_wants_input(sock):
        give_kept(group, sock)
    if sock.state == SOCK_CLOSED or sock.group != group or sock.slot == 0:
        return True
    if (sock.state == SOCK_OPEN or sock.state == SOCK_CLOSING) and not sock.sending:
        pending = sock.out_end - sock.out_begin
        if pending == 0:
            sock_output_done(sock)
            if sock.state == SOCK_CLOSED:
                return True
        elif not sock.blocked:
            # It does not wait for room: the call that submits it has done what can be done, and the bytes are the
            # socket's again.
            sqe = entry(r, sock, URING_OP_SEND, REQUEST_SEND)
            sqe.addr = <uint64_t>(sock.out + sock.out_begin)
            sqe.len = <uint32_t>pending if pending < 1 << 30 else 1 << 30
            sqe.op_flags = MSG_DONTWAIT | MSG_NOSIGNAL
            sock.sending = True
            group.writes += 1
    wants = sock_wants_input(sock) and not sock.in_ended
    if wants and sock.reading == READING_NOT:
        if sock.state == SOCK_LISTENING:
            sqe = entry(r, sock, URING_OP_ACCEPT, REQUEST_ACCEPT)
            sqe.ioprio = URING_ACCEPT_MULTISHOT
            sqe.op_flags = SOCK_NONBLOCK | SOCK_CLOEXEC
        else:
            sqe = entry(r, sock, URING_OP_RECV, REQUEST_RECV)
            sqe.ioprio = URING_RECV_MULTISHOT
            sqe.flags = URING_SQE_BUFFER_SELECT
        sock.reading = READING_ARMED
    elif not wants and sock.reading == READING_ARMED:
        sqe = entry(r, sock, URING_OP_ASYNC_CANCEL, REQUEST_CANCEL)
        sqe.fd = -1
        sqe.addr = name_of(r, sock, REQUEST_ACCEPT if sock.listening else REQUEST_RECV)
        sock.reading = READING_CANCELLED
    if (sock.blocked or sock.state == SOCK_CONNECTING) and not sock.waiting:
        sqe = entry(r, sock, URING_OP_POLL_ADD, REQUEST_POLL)
        sqe.op_flags = POLLOUT
        sock.waiting = True
    return True


cdef void submit(sock_group_s *group) noexcept nogil:
    """One call for everything that is written. What the kernel does not take now is written again in the next turn: an
    entry never outlives the turn in which its socket wanted it."""
    cdef sock_ring *r = ring_of(group)
    cdef sock_s *sock
    cdef uint64_t name
    cdef int request, failed = 0
    cdef uint32_t before = SQ_ENTRIES + 1
    if r.broken:
        return
    # An entry that is refused ends a call; those behind it need another one.
    while not failed and (r.ring.unsubmitted or before > SQ_ENTRIES) and r.ring.unsubmitted < before:
        before = r.ring.unsubmitted
        group.calls += 1
        failed = uring_submit_and_get(&r.ring)
    while r.ring.unsubmitted:
        name = uring_take_back(&r.ring)
        r.ring.unsubmitted -= 1
        r.in_flight -= 1
        request = name & 15
        sock = named(r, name)
        if sock == NULL:
            continue
        if request == REQUEST_RECV or request == REQUEST_ACCEPT:
            sock.reading = READING_NOT
        elif request == REQUEST_SEND:
            sock.sending = False
        elif request == REQUEST_POLL:
            sock.waiting = False
        elif request == REQUEST_CANCEL:
            sock.reading = READING_ARMED
        sock_flush_later(sock)
    if failed and failed != EINTR and failed != EAGAIN and failed != EBUSY and failed != ENOMEM:
        # Other code has closed the ring's descriptor.
        r.broken = failed
        r.in_flight = 0
        sock = group.first
        while sock != NULL:
            sock.reading = sock.sending = sock.waiting = 0
            sock_finish(sock, failed, True)
            sock = sock.next


cdef void received(sock_group_s *group, sock_s *sock, int number, size_t length, bint keep) noexcept nogil:
    cdef uint8_t *data = ring_of(group).memory[number]
    cdef int refused
    group.reads += 1
    group.bytes_in += length
    sock.bytes_in += length
    if sock.state == SOCK_OPEN:
        if keep or sock.in_length or not sock_wants_input(sock):
            if not keep_input(sock, data, length):
                sock_finish(sock, ENOMEM, True)
            elif sock_wants_input(sock):
                sock_flush_later(sock)
        elif sock.on_data != NULL:
            refused = sock.on_data(sock.ctx, sock, data, length)
            if refused < 0 and sock.group == group:
                sock_finish(sock, 0, False)
        else:
            group.deliveries[group.delivery_count].sock = sock
            group.deliveries[group.delivery_count].length = length
            group.deliveries[group.delivery_count].where = number
            group.delivery_count += 1
            return                      # offered again when Python has seen it
    uring_offer_buffer(group, number)


cdef void accepted(sock_group_s *group, sock_s *listener, int fd, bint keep) noexcept nogil:
    if keep or listener.in_length or group.accepted_count == <uint32_t>SOCK_BATCH:
        if keep_input(listener, &fd, sizeof(int)):
            sock_flush_later(listener)
        else:
            close(fd)
            sock_starved(listener, ENOMEM)
    else:
        sock_accepted_fd(listener, fd)


cdef void completed(sock_group_s *group, const uring_cqe *cqe, bint keep) noexcept nogil:
    cdef sock_ring *r = ring_of(group)
    cdef sock_s *sock = named(r, cqe.user_data)
    cdef int request = cqe.user_data & 15
    cdef int result = cqe.res
    cdef bint last = not (cqe.flags & URING_CQE_MORE)
    cdef int number
    if last and r.in_flight:
        r.in_flight -= 1
    if request == REQUEST_RECV:
        if sock != NULL and last:
            sock.reading = READING_NOT
        if cqe.flags & URING_CQE_BUFFER:
            number = cqe.flags >> 16
            if sock != NULL and result > 0:
                received(group, sock, number, <size_t>result, keep)
            else:
                uring_offer_buffer(group, number)
        if sock == NULL or named(r, cqe.user_data) != sock:
            return
        if result == 0:
            end_input(sock, 0)
        elif result < 0 and result not in (-ENOBUFS, -ECANCELED, -EAGAIN, -EINTR):
            # -ENOBUFS: there was no buffer left. -ECANCELED: asked for, or the OS thread that began it has ended.
            end_input(sock, -result)
        elif last and sock_wants_input(sock):
            sock_flush_later(sock)
    elif request == REQUEST_ACCEPT:
        if sock != NULL and last:
            sock.reading = READING_NOT
        if sock == NULL or sock.state != SOCK_LISTENING:
            if result >= 0:
                close(result)
            return
        if result >= 0:
            accepted(group, sock, result, keep)
        else:
            sock_starved(sock, -result)
        if last and not (result < 0 and sock.notices):
            sock_flush_later(sock)
    elif sock == NULL:
        pass
    elif request == REQUEST_SEND:
        sock.sending = False
        if result == -ECANCELED:
            result = -EAGAIN
        sock_sent(sock, result, -result if result < 0 else 0)
        if sock.state != SOCK_CLOSED:
            if sock.out_end == sock.out_begin:
                sock_output_done(sock)
            else:
                sock_flush_later(sock)
    elif request == REQUEST_POLL:
        sock.waiting = False
        if result == -ECANCELED:
            sock_flush_later(sock)
        elif sock.state == SOCK_CONNECTING:
            sock_connected(sock)
        elif sock.blocked:
            sock.blocked = False
            sock_flush_later(sock)


cdef uint32_t reap(sock_group_s *group, bint keep) noexcept nogil:
    """Take the completions that are there. `keep`: no handler is called. A handler may come here again."""
    cdef sock_ring *r = ring_of(group)
    cdef uring_cqe cqe
    cdef uint32_t count = 0, left = uring_count(&r.ring)
    while count < left and uring_take(&r.ring, &cqe):
        count += 1
        completed(group, &cqe, keep)
    return count


# ---- the backend -----------------------------------------------------------------------------------------------------

cdef void wake(sock_group_s *group) noexcept nogil:
    cdef sock_ring *r = ring_of(group)
    r.asleep = False
    uring_events(&r.ring, False)
    st_event_drain(group.fd)
    active_resume(<thread_s *>group.thread, r.poller)


cdef int uring_poll(void *ctx) noexcept nogil:
    """One turn of the group: submit, receive, accept. The flags of `fd_native_result`."""
    cdef sock_group_s *group = <sock_group_s *>ctx
    cdef sock_ring *r = ring_of(group)
    cdef sock_s *sock
    cdef uring_sqe *sqe
    cdef uint32_t left = group.count
    cdef int flags = 0
    cdef void *here = st_os_thread()
    group.polls += 1
    group.asked = False
    group.polling = True
    r.idle_since = 0
    if r.asleep:
        wake(group)
    if r.os_thread != here:
        # On another reactor now: what the last one's OS thread has begun would be completed by that, wherever it is.
        # It is cancelled, and begun again here.
        r.os_thread = here
        if r.in_flight:
            sqe = uring_next(&r.ring)
            sqe.opcode = URING_OP_ASYNC_CANCEL
            sqe.fd = -1
            sqe.op_flags = URING_CANCEL_ALL | URING_CANCEL_ANY
            sqe.user_data = REQUEST_CANCEL
            r.in_flight += 1
    while left and group.flush_first != NULL:
        left -= 1
        sock = sock_next_to_flush(group)
        if not serve(group, sock):
            sock_flush_later(sock)
            break
    if r.ring.unsubmitted or uring_wants_call(&r.ring):
        flags = FD_NATIVE_WORKED
        submit(group)
    if reap(group, False):
        flags = FD_NATIVE_WORKED
    group.polling = False
    if group.flush_first != NULL:
        group_ask(group)
    if group.delivery_count or group.accepted_count or group.notice_first != NULL:
        flags |= FD_NATIVE_CALL
    return flags


cdef int uring_look(void *ctx) noexcept nogil:
    """The poller's: look for completions, and let the reactor sleep when there have been none for a while."""
    cdef sock_group_s *group = <sock_group_s *>ctx
    cdef sock_ring *r = ring_of(group)
    cdef thread_s *thread = <thread_s *>group.thread
    cdef uint64_t now
    if r == NULL:
        return 0
    if uring_has_events(&r.ring) or uring_wants_call(&r.ring):
        if uring_poll(ctx) & FD_NATIVE_CALL:
            group_ask(group)
        return 1
    r.looks += 1
    if r.looks % LOOKS or group.asked or st_loadp_relaxed(&thread.wakeup) == NULL:
        return 0
    now = st_ticks()
    if r.idle_since == 0:
        r.idle_since = now
    elif now - r.idle_since > SPIN_TICKS:
        uring_events(&r.ring, True)
        # The kernel looks at that after it has published a completion; here it is the other way round.
        st_full_fence()
        if uring_has_events(&r.ring) or uring_wants_call(&r.ring):
            uring_events(&r.ring, False)
        else:
            r.asleep = True
            active_pause(thread, r.poller)
    return 0


cdef void uring_update(sock_s *sock) noexcept nogil:
    cdef bint wants = sock_wants_input(sock)
    if (
        wants != (sock.reading == READING_ARMED)
        or (wants and (sock.in_length or sock.in_ended))
        or ((sock.blocked or sock.state == SOCK_CONNECTING) and not sock.waiting)
    ):
        sock_flush_later(sock)


cdef int uring_attach(sock_s *sock) noexcept nogil:
    cdef sock_ring *r = ring_of(sock.group)
    cdef sock_slot *more
    cdef uint32_t count, slot
    if r.slot_free == 0:
        count = 2 * r.slot_count if r.slot_count else FIRST_SLOTS
        more = <sock_slot *>core_calloc(count, sizeof(sock_slot))
        if more == NULL:
            return -ENOMEM
        if r.slot_count:
            memcpy(more, r.slots, r.slot_count * sizeof(sock_slot))
        core_free(r.slots)
        r.slots = more
        slot = count - 1
        while slot >= r.slot_count and slot > 0:        # the lowest first; slot 0 is no socket's
            more[slot].next_free = r.slot_free
            r.slot_free = slot
            slot -= 1
        r.slot_count = count
    sock.slot = r.slot_free
    r.slot_free = r.slots[sock.slot].next_free
    r.slots[sock.slot].sock = sock
    sock.reading = READING_NOT
    sock.sending = sock.waiting = False
    sock.listening = sock.state == SOCK_LISTENING
    if sock.in_length or sock.in_ended:
        sock_flush_later(sock)
    return 0


cdef void unwrite(sock_ring *r, sock_s *sock) noexcept nogil:
    """Entries of the socket that the kernel has not seen become nothing."""
    cdef uint32_t back
    cdef uring_sqe *sqe
    for back in range(1, r.ring.unsubmitted + 1):
        sqe = &r.ring.sqes[(r.ring.sq_tail - back) & r.ring.sq_mask]
        if named(r, sqe.user_data) == sock:
            if (sqe.user_data & 15) == REQUEST_SEND:
                sock.sending = False
            elif (sqe.user_data & 15) == REQUEST_POLL:
                sock.waiting = False
            elif (sqe.user_data & 15) != REQUEST_CANCEL:
                sock.reading = READING_NOT
            sqe.opcode = URING_OP_NOP
            sqe.flags = 0
            sqe.ioprio = 0
            sqe.fd = -1
            sqe.addr = 0
            sqe.len = 0
            sqe.op_flags = 0
            sqe.user_data = REQUEST_NONE


cdef void cancel_requests(sock_ring *r, sock_s *sock) noexcept nogil:
    if sock.reading:
        uring_cancel_now(&r.ring, name_of(r, sock, REQUEST_ACCEPT if sock.listening else REQUEST_RECV), 0)
    if sock.waiting:
        uring_cancel_now(&r.ring, name_of(r, sock, REQUEST_POLL), 0)


cdef void uring_leave(sock_s *sock, int keep) noexcept nogil:
    """Before its descriptor is closed, or is another thread's: no request of it is in the kernel any more."""
    cdef sock_group_s *group = sock.group
    cdef sock_ring *r = ring_of(group)
    cdef uint32_t slot = sock.slot
    if slot == 0:
        return
    if r.ring.unsubmitted:
        unwrite(r, sock)
    if not r.broken:
        cancel_requests(r, sock)
        while keep and (sock.reading or sock.sending or sock.waiting):
            if reap(group, True) == 0:
                # An OS thread that has begun it, and is elsewhere, completes it when it next enters the kernel.
                uring_get_events(&r.ring)
                if not uring_has_events(&r.ring):
                    st_moment()
                    cancel_requests(r, sock)
    r.slots[slot].sock = NULL
    r.slots[slot].generation += 1
    r.slots[slot].next_free = r.slot_free
    r.slot_free = slot
    sock.slot = 0
    sock.reading = READING_NOT
    sock.sending = sock.waiting = False
    if not keep:
        forget_input(sock)


st_uring_backend.poll = uring_poll
st_uring_backend.attach = uring_attach
st_uring_backend.update = uring_update
st_uring_backend.leave = uring_leave


cdef const sock_backend *uring_backend() noexcept nogil:
    return &st_uring_backend


# ---- the ring --------------------------------------------------------------------------------------------------------

cdef void release(sock_group_s *group) noexcept nogil:
    cdef sock_ring *r = ring_of(group)
    uring_close(&r.ring)
    if group.fd >= 0:
        close(group.fd)
    group.fd = -1
    if r.offers != NULL:
        core_unmap(r.offers, r.offer_count * sizeof(uring_offer))
    core_free(r.memory)
    core_free(r.slots)
    core_free(r)
    group.ring = NULL


cdef int uring_group_open(sock_group_s *group, uint8_t *memory, uint32_t count, size_t size) noexcept nogil:
    cdef sock_ring *r = <sock_ring *>core_calloc(1, sizeof(sock_ring))
    cdef uint32_t number
    cdef int failed
    if r == NULL:
        return ENOMEM
    group.ring = r
    group.fd = st_event_open()
    if group.fd < 0:
        failed = errno
        core_free(r)
        group.ring = NULL
        return failed
    r.offer_count = count
    r.buffer_size = size
    failed = uring_open(&r.ring, SQ_ENTRIES, CQ_ENTRIES, -1, group.fd)
    if not failed:
        r.offers = <uring_offer *>core_map(count * sizeof(uring_offer))
        r.memory = <uint8_t **>core_calloc(count, sizeof(uint8_t *))
        failed = ENOMEM if r.offers == NULL or r.memory == NULL else uring_register_offers(&r.ring, r.offers, count)
    if not failed:
        # Old kernels know buffers, but neither this nor a recv that completes more than once.
        failed = uring_cancel_now(&r.ring, 1 << 4, 0)
        if failed == ENOENT:
            failed = 0
    if failed:
        release(group)
        return failed
    for number in range(count):
        r.memory[number] = memory + number * size
        uring_offer_buffer(group, number)
    group.backend = &st_uring_backend
    return 0


cdef void uring_group_close(sock_group_s *group) noexcept nogil:
    cdef sock_ring *r = ring_of(group)
    cdef uint32_t slot
    if r == NULL:
        return
    for slot in range(1, r.slot_count):
        r.slots[slot].sock = NULL
        r.slots[slot].generation += 1
    while r.in_flight and not r.broken:
        uring_cancel_now(&r.ring, 0, URING_CANCEL_ALL | URING_CANCEL_ANY)
        if reap(group, True) == 0:
            uring_get_events(&r.ring)
            if not uring_has_events(&r.ring):
                st_moment()
    uring_unregister_offers(&r.ring)
    release(group)


cdef void uring_group_forget(sock_group_s *group) noexcept nogil:
    if group.ring != NULL:
        release(group)


cdef void uring_group_poller(sock_group_s *group, poller_s *poller) noexcept nogil:
    ring_of(group).poller = poller


cdef int uring_refused() noexcept nogil:
    cdef sock_group_s group
    cdef uint8_t none[1]
    cdef int failed
    group.fd = -1
    group.ring = NULL
    failed = uring_group_open(&group, none, 1, 1)
    if not failed:
        release(&group)
    return failed


cdef void uring_refuse(int number) noexcept nogil:
    global uring_double_refusal
    uring_double_refusal = number
