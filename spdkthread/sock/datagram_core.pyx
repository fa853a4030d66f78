"""The C side of a thread's datagram sockets. See ``datagram_core.pxd``."""

from libc.errno cimport EAGAIN, EBADF, ECONNREFUSED, EINTR, EMSGSIZE, ENOBUFS, ENOMEM, ENOTSOCK, EPIPE, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.unistd cimport close

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.fd_group cimport (
    FD_READABLE,
    FD_WRITABLE,
    fd_group_add,
    fd_group_change,
    fd_group_remove,
    fd_group_wait,
)
from spdkthread.sock.datagram_core cimport DATAGRAM_READY, iovec
from spdkthread.thread_poll cimport ATTENTION_FDS, FD_NATIVE_CALL, FD_NATIVE_WORKED, attention_set, thread_s

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <errno.h>
    #include <string.h>

    /* The addresses of a block and of those that wait are unions of this size. */
    #define ST_ADDRESS ((socklen_t)sizeof(datagram_address))
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif

    enum { DATAGRAM_SEND = 64 };        /* in one call */

    static inline socklen_t st_address_size(const datagram_address *address) {
        return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
    }
    static inline int st_address_set(
        datagram_address *address, int family, const char *host, int port, uint32_t scope
    ) {
        memset(address, 0, sizeof *address);
        address->any.sa_family = (sa_family_t)family;
        if (family == AF_INET6) {
            address->v6.sin6_port = htons((uint16_t)port);
            address->v6.sin6_scope_id = scope;
            return inet_pton(family, host, &address->v6.sin6_addr) == 1 ? 0 : -1;
        }
        address->v4.sin_port = htons((uint16_t)port);
        return inet_pton(family, host, &address->v4.sin_addr) == 1 ? 0 : -1;
    }
    static inline int st_address_get(
        const datagram_address *address, char *host, uint32_t size, uint32_t *port, uint32_t *flow, uint32_t *scope
    ) {
        *flow = *scope = 0;
        if (address->any.sa_family == AF_INET6) {
            inet_ntop(AF_INET6, &address->v6.sin6_addr, host, size);
            *port = ntohs(address->v6.sin6_port);
            *flow = ntohl(address->v6.sin6_flowinfo);
            *scope = address->v6.sin6_scope_id;
            return AF_INET6;
        }
        inet_ntop(AF_INET, &address->v4.sin_addr, host, size);
        *port = ntohs(address->v4.sin_port);
        return AF_INET;
    }
    /* Where the headers point stays as it is: set once. */
    static inline void st_block_point(datagram_block *block) {
        for (uint32_t i = 0; i < block->batch; i++) {
            struct msghdr *one = &block->headers[i].msg_hdr;
            block->parts[i].iov_base = block->data + (size_t)i * block->size;
            block->parts[i].iov_len = block->size;
            one->msg_name = &block->addresses[i];
            one->msg_namelen = ST_ADDRESS;
            one->msg_iov = &block->parts[i];
            one->msg_iovlen = 1;
        }
    }
    static inline void st_block_renew(datagram_block *block) {
        for (uint32_t i = 0; i < block->used; i++) {
            block->headers[i].msg_hdr.msg_namelen = ST_ADDRESS;
            block->headers[i].msg_hdr.msg_flags = 0;
        }
        block->used = 0;
    }
    /* How many were received, or -1 with errno. */
    static inline int st_receive_batch(int fd, datagram_block *block, uint8_t *one_by_one) {
        uint32_t count;
    #ifdef ST_MMSG
        if (!*one_by_one) {
            int got = recvmmsg(fd, block->headers, block->batch, MSG_DONTWAIT, NULL);
            if (got >= 0 || errno != ENOSYS) return got;
            *one_by_one = 1;
        }
    #else
        *one_by_one = 1;
    #endif
        for (count = 0; count < block->batch; count++) {
            ssize_t length = recvmsg(fd, &block->headers[count].msg_hdr, MSG_DONTWAIT);
            if (length < 0) return count ? (int)count : -1;
            block->headers[count].msg_len = (unsigned)length;
        }
        return (int)count;
    }
    /* How many of those that wait were sent, or -1 with errno. */
    static inline int st_send_batch(datagram_s *sock, uint8_t *one_by_one) {
        datagram_header headers[DATAGRAM_SEND];
        struct iovec parts[DATAGRAM_SEND];
        uint32_t index, count = sock->waiting_end - sock->waiting_first;
        if (count > DATAGRAM_SEND) count = DATAGRAM_SEND;
        memset(headers, 0, count * sizeof headers[0]);
        for (index = 0; index < count; index++) {
            datagram_out *out = &sock->waiting[sock->waiting_first + index];
            struct msghdr *one = &headers[index].msg_hdr;
            parts[index].iov_base = sock->out + out->offset;
            parts[index].iov_len = out->length;
            one->msg_name = out->address_size ? &out->address : NULL;
            one->msg_namelen = out->address_size;
            one->msg_iov = &parts[index];
            one->msg_iovlen = 1;
        }
    #ifdef ST_MMSG
        if (!*one_by_one) {
            int sent = sendmmsg(sock->fd, headers, count, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent >= 0 || errno != ENOSYS) return sent;
            *one_by_one = 1;
        }
    #else
        *one_by_one = 1;
    #endif
        for (index = 0; index < count; index++)
            if (sendmsg(sock->fd, &headers[index].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                return index ? (int)index : -1;
        return (int)count;
    }
    static inline int st_is_truncated(const datagram_header *header) {
        return (header->msg_hdr.msg_flags & MSG_TRUNC) != 0;
    }
    static inline uint32_t st_length(const datagram_header *header) { return header->msg_len; }
    """
    uint32_t st_address_size(const datagram_address *address) noexcept nogil
    int st_address_set(
        datagram_address *address, int family, const char *host, int port, uint32_t scope
    ) noexcept nogil
    int st_address_get(
        const datagram_address *address, char *host, uint32_t size, uint32_t *port, uint32_t *flow, uint32_t *scope
    ) noexcept nogil
    void st_block_point(datagram_block *block) noexcept nogil
    void st_block_renew(datagram_block *block) noexcept nogil
    int st_receive_batch(int fd, datagram_block *block, uint8_t *one_by_one) noexcept nogil
    int st_send_batch(datagram_s *sock, uint8_t *one_by_one) noexcept nogil
    bint st_is_truncated(const datagram_header *header) noexcept nogil
    uint32_t st_length(const datagram_header *header) noexcept nogil

cdef enum:
    FIRST_BYTES = 16384         # for datagrams that wait to be sent
    FIRST_WAITING = 64
    LARGEST_SENT = 65535
    BATCHES_A_TURN = 16         # of one socket, in either direction: the others have their turn
    ALIGNMENT = 64


cdef inline bint would_block(int number) noexcept nogil:
    return number == EAGAIN or number == EINTR


cdef inline bint is_fatal(int number) noexcept nogil:
    """Whether the descriptor is no socket any more. All else is of one datagram, or of the peer."""
    return number == EBADF or number == ENOTSOCK


cdef inline size_t aligned(size_t size) noexcept nogil:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


cdef int datagram_address_set(
    datagram_address *address, int family, const char *host, int port, uint32_t scope
) noexcept nogil:
    return st_address_set(address, family, host, port, scope)


cdef uint32_t datagram_address_size(const datagram_address *address) noexcept nogil:
    return st_address_size(address)


cdef int datagram_address_get(
    const datagram_address *address, char *host, uint32_t host_size, uint32_t *port, uint32_t *flow, uint32_t *scope
) noexcept nogil:
    return st_address_get(address, host, host_size, port, flow, scope)


cdef void datagrams_ask(datagram_group_s *group) noexcept nogil:
    """Have the thread's next poll come here."""
    if not (group.asked or group.polling):
        group.asked = True
        attention_set(<thread_s *>group.thread, ATTENTION_FDS)


cdef void datagram_tell(datagram_s *sock, uint32_t notice) noexcept nogil:
    """Have Python told."""
    cdef datagram_group_s *group = sock.group
    sock.notices |= notice
    if sock.noticed or group == NULL:
        return
    sock.noticed = True
    sock.notice_next = NULL
    if group.notice_last == NULL:
        group.notice_first = sock
    else:
        group.notice_last.notice_next = sock
    group.notice_last = sock
    datagrams_ask(group)


cdef datagram_s *datagram_next_notice(datagram_group_s *group) noexcept nogil:
    cdef datagram_s *sock = group.notice_first
    if sock != NULL:
        group.notice_first = sock.notice_next
        if group.notice_first == NULL:
            group.notice_last = NULL
        sock.noticed = False
    return sock


cdef void datagram_drop_notice(datagram_s *sock) noexcept nogil:
    cdef datagram_group_s *group = sock.group
    cdef datagram_s *before = NULL
    cdef datagram_s *one = group.notice_first
    while one != NULL and one != sock:
        before = one
        one = one.notice_next
    if one == NULL:
        return
    if before == NULL:
        group.notice_first = sock.notice_next
    else:
        before.notice_next = sock.notice_next
    if group.notice_last == sock:
        group.notice_last = before
    sock.noticed = False


cdef void drop_flush(datagram_group_s *group, datagram_s *sock) noexcept nogil:
    cdef datagram_s *before = NULL
    cdef datagram_s *one = group.flush_first
    while one != NULL and one != sock:
        before = one
        one = one.flush_next
    if one == NULL:
        return
    if before == NULL:
        group.flush_first = sock.flush_next
    else:
        before.flush_next = sock.flush_next
    if group.flush_last == sock:
        group.flush_last = before
    sock.flushing = False


cdef void flush_later(datagram_s *sock) noexcept nogil:
    cdef datagram_group_s *group = sock.group
    if sock.flushing or group == NULL:
        return
    sock.flushing = True
    sock.flush_next = NULL
    if group.flush_last == NULL:
        group.flush_first = sock
    else:
        group.flush_last.flush_next = sock
    group.flush_last = sock
    datagrams_ask(group)


cdef void unlist(datagram_group_s *group, datagram_s *sock) noexcept nogil:
    if sock.listed:
        fd_group_remove(group.fd, sock.fd, sock.interest)
        sock.listed = False
        sock.interest = 0


cdef void datagram_update(datagram_s *sock) noexcept nogil:
    """Have the kernel wait for what the socket's state wants, and for nothing else."""
    cdef uint32_t wanted = 0
    cdef int failed
    if sock.group == NULL or sock.fd < 0:
        return
    if sock.state == DATAGRAM_OPEN and sock.handled and not sock.paused:
        wanted = FD_READABLE
    if sock.blocked:
        wanted |= FD_WRITABLE
    if wanted == sock.interest:
        return
    if not wanted:
        # A set reports errors that were not asked for, again and again: out of it.
        unlist(sock.group, sock)
        return
    if sock.listed:
        failed = fd_group_change(sock.group.fd, sock.fd, sock.interest, wanted, <uint64_t>sock)
    else:
        failed = fd_group_add(sock.group.fd, sock.fd, wanted, <uint64_t>sock)
    if failed:
        finish(sock, failed)
        return
    sock.listed = True
    sock.interest = wanted


cdef void datagram_attach(datagram_group_s *group, datagram_s *sock) noexcept nogil:
    sock.group = group
    sock.prev = NULL
    sock.next = group.first
    if group.first != NULL:
        group.first.prev = sock
    group.first = sock
    group.count += 1
    datagram_update(sock)


cdef void leave_ready(datagram_group_s *group, datagram_s *sock) noexcept nogil:
    cdef int index
    for index in range(group.ready_next, group.ready_count):
        if group.ready[index].tag == <uint64_t>sock:
            group.ready[index].tag = 0


cdef void datagram_detach(datagram_s *sock) noexcept nogil:
    """Take a closed socket out of its group."""
    cdef datagram_group_s *group = sock.group
    if group == NULL:
        return
    unlist(group, sock)
    leave_ready(group, sock)
    if sock.flushing:
        drop_flush(group, sock)
    if sock.noticed:
        datagram_drop_notice(sock)
    if sock.prev == NULL:
        group.first = sock.next
    else:
        sock.prev.next = sock.next
    if sock.next != NULL:
        sock.next.prev = sock.prev
    sock.next = sock.prev = NULL
    group.count -= 1
    sock.group = NULL


cdef size_t held_bytes(datagram_s *sock) noexcept nogil:
    """What is counted of those that wait: many empty datagrams are not for nothing."""
    return sock.pending + <size_t>(sock.waiting_end - sock.waiting_first) * sizeof(datagram_out)


cdef void drop_output(datagram_s *sock) noexcept nogil:
    if sock.group != NULL:
        sock.group.sockets.buffered -= held_bytes(sock)
    core_free(sock.out)
    core_free(sock.waiting)
    sock.out = NULL
    sock.waiting = NULL
    sock.out_used = sock.out_capacity = sock.pending = 0
    sock.waiting_first = sock.waiting_end = sock.waiting_capacity = 0


cdef void datagram_free(datagram_s *sock) noexcept nogil:
    """The memory of a socket that is in no group."""
    drop_output(sock)
    core_free(sock.block)
    sock.block = NULL
    sock.received = 0


cdef void finish(datagram_s *sock, int error) noexcept nogil:
    """Close the descriptor. The socket stays in its group until Python has been told, and its block too: a handler may
    be looking at it."""
    cdef datagram_group_s *group = sock.group
    if sock.state == DATAGRAM_CLOSED:
        return
    sock.state = DATAGRAM_CLOSED
    sock.error = error
    drop_output(sock)
    sock.blocked = False
    if group != NULL:
        unlist(group, sock)
        leave_ready(group, sock)
        if sock.flushing:
            drop_flush(group, sock)
    if sock.fd >= 0:
        close(sock.fd)
        sock.fd = -1
    datagram_tell(sock, DATAGRAM_TELL_CLOSED)


cdef void datagram_abort(datagram_s *sock, int error) noexcept nogil:
    finish(sock, error)


cdef void datagram_close(datagram_s *sock) noexcept nogil:
    if sock.state == DATAGRAM_OPEN and sock.waiting_end != sock.waiting_first:
        sock.state = DATAGRAM_CLOSING
        datagram_update(sock)
        return
    if sock.state != DATAGRAM_CLOSING:
        finish(sock, 0)


cdef void datagram_pause(datagram_s *sock, bint paused) noexcept nogil:
    if sock.paused == paused:
        return
    sock.paused = paused
    if not paused and sock.received:
        datagram_tell(sock, DATAGRAM_TELL_BATCH)
    datagram_update(sock)


cdef void fault(datagram_s *sock, int number) noexcept nogil:
    """An error that closes nothing."""
    sock.fault = number
    sock.errors += 1
    sock.group.errors += 1
    datagram_tell(sock, DATAGRAM_TELL_FAULT)


cdef bint compact(datagram_s *sock) noexcept nogil:
    """Begin again at the front with those that wait, when at least half of the room is of those that were sent."""
    cdef uint32_t first = sock.waiting_first, index
    cdef size_t base
    if first == 0 or first < sock.waiting_end // 2:
        return False
    base = sock.waiting[first].offset if first < sock.waiting_end else sock.out_used
    memmove(sock.out, sock.out + base, sock.out_used - base)
    memmove(sock.waiting, sock.waiting + first, (sock.waiting_end - first) * sizeof(datagram_out))
    sock.out_used -= base
    sock.waiting_end -= first
    sock.waiting_first = 0
    for index in range(sock.waiting_end):
        sock.waiting[index].offset -= base
    return True


cdef bint make_bytes(datagram_s *sock, size_t length) noexcept nogil:
    """Room for `length` more bytes."""
    cdef size_t capacity = sock.out_capacity
    cdef uint8_t *larger
    if sock.out_used + length <= capacity:
        return True
    if compact(sock) and sock.out_used + length <= capacity:
        return True
    if capacity < FIRST_BYTES:
        capacity = FIRST_BYTES
    while capacity < sock.out_used + length:
        capacity *= 2
    larger = <uint8_t *>core_calloc(1, capacity)
    if larger == NULL:
        return False
    if sock.out_used:
        memcpy(larger, sock.out, sock.out_used)
    core_free(sock.out)
    sock.out = larger
    sock.out_capacity = capacity
    return True


cdef bint make_waiting(datagram_s *sock) noexcept nogil:
    """Room for one more that waits."""
    cdef uint32_t capacity = sock.waiting_capacity
    cdef datagram_out *larger
    if sock.waiting_end < capacity:
        return True
    if compact(sock) and sock.waiting_end < capacity:
        return True
    capacity = 2 * capacity if capacity else FIRST_WAITING
    larger = <datagram_out *>core_calloc(capacity, sizeof(datagram_out))
    if larger == NULL:
        return False
    if sock.waiting_end:
        memcpy(larger, sock.waiting, sock.waiting_end * sizeof(datagram_out))
    core_free(sock.waiting)
    sock.waiting = larger
    sock.waiting_capacity = capacity
    return True


cdef int datagram_send(
    datagram_s *sock, const void *data, size_t length, const datagram_address *address
) noexcept nogil:
    """Take a datagram to send. Those of one turn are sent together."""
    cdef datagram_group_s *group = sock.group
    cdef size_t cost = length + sizeof(datagram_out)
    cdef datagram_out *out
    if sock.state != DATAGRAM_OPEN or group == NULL:
        return -EPIPE
    if length > LARGEST_SENT:
        return -EMSGSIZE
    if held_bytes(sock) + cost > sock.limit or group.sockets.buffered + cost > group.sockets.max_buffered:
        sock.refused = True
        return -ENOBUFS
    if not make_bytes(sock, length) or not make_waiting(sock):
        return -ENOMEM
    out = &sock.waiting[sock.waiting_end]
    out.offset = sock.out_used
    out.length = <uint32_t>length
    out.address_size = 0
    if address != NULL:
        out.address = address[0]
        out.address_size = st_address_size(address)
    if length:
        memcpy(sock.out + sock.out_used, data, length)
    sock.out_used += length
    sock.waiting_end += 1
    sock.pending += length
    group.sockets.buffered += cost
    if not sock.blocked:
        flush_later(sock)
    return 0


cdef int datagram_reply(datagram_s *sock, const void *data, size_t length) noexcept nogil:
    return datagram_send(sock, data, length, sock.peer)


cdef void sent_some(datagram_s *sock, int count, bint lost) noexcept nogil:
    """The first `count` of those that wait are gone."""
    cdef datagram_group_s *group = sock.group
    cdef size_t length = 0
    cdef int index
    for index in range(count):
        length += sock.waiting[sock.waiting_first + <uint32_t>index].length
    sock.waiting_first += <uint32_t>count
    sock.pending -= length
    group.sockets.buffered -= length + <size_t>count * sizeof(datagram_out)
    if not lost:
        sock.datagrams_out += <uint64_t>count
        group.datagrams_out += <uint64_t>count
        sock.bytes_out += length
        group.bytes_out += length


cdef void flush(datagram_s *sock) noexcept nogil:
    """Send what waits, many at a call."""
    cdef datagram_group_s *group = sock.group
    cdef int sent, left = BATCHES_A_TURN
    cdef bint blocked = False, again = False
    if sock.state == DATAGRAM_CLOSED:
        return
    while sock.waiting_first != sock.waiting_end and left and not blocked:
        left -= 1
        group.writes += 1
        sent = st_send_batch(sock, &group.one_by_one)
        if sent > 0:
            again = False
            sent_some(sock, sent, False)
        elif would_block(errno):
            blocked = errno == EAGAIN
        elif is_fatal(errno):
            finish(sock, errno)
            return
        elif errno == ECONNREFUSED and not again:
            again = True                # of an earlier one, which the peer had no port for; this one was not sent yet
            fault(sock, ECONNREFUSED)
        else:
            again = False
            fault(sock, errno)
            sent_some(sock, 1, True)
    if sock.blocked != blocked:
        sock.blocked = blocked
        datagram_update(sock)
    if sock.state == DATAGRAM_CLOSED or blocked:
        return
    if sock.waiting_first != sock.waiting_end:
        flush_later(sock)
        return
    sock.out_used = 0
    sock.waiting_first = sock.waiting_end = 0
    # What many needed is not kept for few.
    if sock.out_capacity > FIRST_BYTES or sock.waiting_capacity > FIRST_WAITING:
        drop_output(sock)
    if sock.refused:
        sock.refused = False
        datagram_tell(sock, DATAGRAM_TELL_SENT)
    if sock.state == DATAGRAM_CLOSING:
        finish(sock, 0)


cdef bint flush_all(datagram_group_s *group) noexcept nogil:
    """Those that are on the list now; one that has more is on it again, for the next poll."""
    cdef datagram_s *sock
    cdef datagram_s *last = group.flush_last
    cdef bint over = last == NULL
    while not over:
        sock = group.flush_first
        over = sock == last
        group.flush_first = sock.flush_next
        if group.flush_first == NULL:
            group.flush_last = NULL
        sock.flushing = False
        flush(sock)
    return last != NULL


cdef datagram_block *new_block(uint32_t batch, uint32_t size) noexcept nogil:
    """One allocation, in the order of the picture in ``datagram_core.pxd``."""
    cdef size_t head = aligned(sizeof(datagram_block))
    cdef size_t data = aligned(<size_t>batch * size)
    cdef size_t lengths = aligned(batch * sizeof(uint32_t))
    cdef size_t addresses = aligned(batch * sizeof(datagram_address))
    cdef size_t truncated = aligned(batch)
    cdef size_t headers = aligned(batch * sizeof(datagram_header))
    cdef size_t parts = batch * sizeof(iovec)
    cdef uint8_t *memory
    cdef datagram_block *block
    memory = <uint8_t *>core_calloc(1, head + data + lengths + addresses + truncated + headers + parts)
    if memory == NULL:
        return NULL
    block = <datagram_block *>memory
    block.batch = batch
    block.size = size
    memory += head
    block.data = memory
    memory += data
    block.lengths = <uint32_t *>memory
    memory += lengths
    block.addresses = <datagram_address *>memory
    memory += addresses
    block.truncated = memory
    memory += truncated
    block.headers = <datagram_header *>memory
    memory += headers
    block.parts = <iovec *>memory
    st_block_point(block)
    return block


cdef int receive(datagram_group_s *group, datagram_s *sock) noexcept nogil:
    """One call to the kernel: how many came; the whole batch may mean that more are there."""
    cdef datagram_block *block = sock.block
    cdef int got, index
    cdef uint64_t length = 0
    if block == NULL:
        block = sock.block = new_block(sock.batch, sock.size)
        if block == NULL:
            fault(sock, ENOMEM)
            return 0
    st_block_renew(block)
    got = st_receive_batch(sock.fd, block, &group.one_by_one)
    group.reads += 1
    if got <= 0:
        if got == 0 or would_block(errno):
            return 0
        if is_fatal(errno):
            finish(sock, errno)
        else:
            fault(sock, errno)
        return 0
    block.used = <uint32_t>got
    for index in range(got):
        block.lengths[index] = st_length(&block.headers[index])
        block.truncated[index] = st_is_truncated(&block.headers[index])
        length += block.lengths[index]
        if block.truncated[index]:
            sock.truncated += 1
            group.truncated += 1
    sock.datagrams_in += <uint64_t>got
    group.datagrams_in += <uint64_t>got
    sock.bytes_in += length
    group.bytes_in += length
    if sock.on_datagram == NULL:
        sock.received = <uint32_t>got
        datagram_tell(sock, DATAGRAM_TELL_BATCH)
        return got
    for index in range(got):
        sock.peer = &block.addresses[index]
        if sock.on_datagram(sock.ctx, sock, block.data + <size_t>index * block.size, block.lengths[index]) < 0:
            sock.rejected += 1
            group.rejected += 1
        if sock.state != DATAGRAM_OPEN:
            break
    sock.peer = NULL
    return got


cdef bint attend(datagram_group_s *group, datagram_s *sock, uint32_t events) noexcept nogil:
    """What one socket may be ready for. Whether it was."""
    cdef int got, left = BATCHES_A_TURN
    cdef bint worked = False
    if events & FD_WRITABLE and sock.blocked:
        flush(sock)
        worked = True
    if not events & FD_READABLE:
        return worked
    while sock.state == DATAGRAM_OPEN and sock.handled and not sock.paused and not sock.received and left:
        left -= 1
        got = receive(group, sock)
        worked = worked or got > 0
        if got < <int>sock.batch:
            break
    return worked


cdef int datagrams_poll(void *ctx) noexcept nogil:
    """One turn: send, look, receive, send. The flags of `fd_native_result`."""
    cdef datagram_group_s *group = <datagram_group_s *>ctx
    cdef datagram_s *sock
    cdef uint32_t events
    cdef bint worked
    group.asked = False
    group.polling = True
    worked = flush_all(group)
    if group.count == 1 and group.first.interest == <uint32_t>FD_READABLE:
        worked |= attend(group, group.first, FD_READABLE)
    elif group.count:
        group.ready_next = 0
        group.ready_count = fd_group_wait(group.fd, group.ready, DATAGRAM_READY)
        worked |= group.ready_count > 0
        while group.ready_next < group.ready_count:
            sock = <datagram_s *>group.ready[group.ready_next].tag
            events = group.ready[group.ready_next].events
            group.ready_next += 1
            if sock != NULL:
                attend(group, sock, events)
        group.ready_next = group.ready_count = 0
    flush_all(group)
    group.polling = False
    if group.flush_first != NULL:
        datagrams_ask(group)
    return (FD_NATIVE_WORKED if worked else 0) | (FD_NATIVE_CALL if group.notice_first != NULL else 0)
