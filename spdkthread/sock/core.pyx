"""The C side of a thread's group of sockets. See ``core.pxd``."""

from libc.errno cimport (
    EAGAIN,
    EINTR,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    EPIPE,
    errno,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from posix.unistd cimport close

from spdkthread.alloc cimport core_calloc, core_free
from spdkthread.fd_group cimport (
    FD_READABLE,
    FD_WRITABLE,
    fd_above_standard,
    fd_group_add,
    fd_group_change,
    fd_group_remove,
    fd_group_wait,
)
from spdkthread.thread_poll cimport ATTENTION_FDS, FD_NATIVE_CALL, FD_NATIVE_WORKED, attention_set, thread_s

cdef extern from *:
    """
    #include <fcntl.h>
    #include <sys/socket.h>
    #include <unistd.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif

    static inline int st_accept(int fd) {
    #ifdef __linux__
        return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    #else
        int got = accept(fd, NULL, NULL);
        if (got >= 0) {
            fcntl(got, F_SETFD, FD_CLOEXEC);
            fcntl(got, F_SETFL, fcntl(got, F_GETFL) | O_NONBLOCK);
        }
        return got;
    #endif
    }
    static inline int st_pending_error(int fd) {
        int error = 0;
        socklen_t size = sizeof error;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
    }
    /* close() is to send a reset instead of waiting for the peer's acknowledgements. */
    static inline void st_linger_free(int fd) {
        struct linger now = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    static sock_backend st_epoll_backend;
    """
    int st_accept(int fd) noexcept nogil
    int st_pending_error(int fd) noexcept nogil
    void st_linger_free(int fd) noexcept nogil
    const int MSG_NOSIGNAL, SHUT_WR
    sock_backend st_epoll_backend
    ssize_t c_recv "recv"(int fd, void *data, size_t size, int flags) noexcept nogil
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags) noexcept nogil
    int c_shutdown "shutdown"(int fd, int how) noexcept nogil

cdef enum:
    FIRST_BLOCK = 4096      # of bytes that wait to be sent
    DIRECT_SIZE = 65536     # so many are tried at once instead of being copied first
    READ_FLOOR = 4096       # less room than that in the buffer: the rest is read in the next poll
    ACCEPT_BATCH = 16       # of one listener in one poll


cdef bint sock_would_block(int number) noexcept nogil:
    return number == EAGAIN or number == EINTR


cdef void group_ask(sock_group_s *group) noexcept nogil:
    """Have the thread's next poll come here."""
    if not (group.asked or group.polling):
        group.asked = True
        attention_set(<thread_s *>group.thread, ATTENTION_FDS)


cdef void sock_tell(sock_s *sock, uint32_t notice) noexcept nogil:
    """Have Python told."""
    cdef sock_group_s *group = sock.group
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
    group_ask(group)


cdef sock_s *sock_next_notice(sock_group_s *group) noexcept nogil:
    cdef sock_s *sock = group.notice_first
    if sock != NULL:
        group.notice_first = sock.notice_next
        if group.notice_first == NULL:
            group.notice_last = NULL
        sock.noticed = False
    return sock


cdef void drop_notice(sock_group_s *group, sock_s *sock) noexcept nogil:
    cdef sock_s *before = NULL
    cdef sock_s *one = group.notice_first
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


cdef void drop_flush(sock_group_s *group, sock_s *sock) noexcept nogil:
    cdef sock_s *before = NULL
    cdef sock_s *one = group.flush_first
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


cdef void sock_update(sock_s *sock) noexcept nogil:
    """Have the kernel do what the socket's state wants, and nothing else."""
    if sock.group != NULL and sock.fd >= 0:
        sock.group.backend.update(sock)


cdef int sock_attach(sock_group_s *group, sock_s *sock) noexcept nogil:
    """Take a socket in. -ENOBUFS: the group has as many as it may have, or as many bytes; -ENOMEM."""
    cdef size_t pending = sock.out_end - sock.out_begin
    cdef int failed
    if group.count >= group.max_socks or group.buffered + pending > group.max_buffered:
        group.refused += 1
        return -ENOBUFS
    sock.group = group
    failed = group.backend.attach(sock)
    if failed:
        sock.group = NULL
        return failed
    sock.prev = NULL
    sock.next = group.first
    if group.first != NULL:
        group.first.prev = sock
    group.first = sock
    group.count += 1
    group.buffered += pending
    if pending or (sock.state == SOCK_CLOSING or sock.shut == 1):
        sock_flush_later(sock)
    if sock.notices:
        sock_tell(sock, sock.notices)
    sock_update(sock)
    return 0


cdef void sock_detach(sock_s *sock) noexcept nogil:
    """Take a socket out of its group; it stays as it is otherwise."""
    cdef sock_group_s *group = sock.group
    if group == NULL:
        return
    group.backend.leave(sock, sock.state != SOCK_CLOSED)
    if sock.flushing:
        drop_flush(group, sock)
    if sock.noticed:
        drop_notice(group, sock)
    if sock.prev == NULL:
        group.first = sock.next
    else:
        sock.prev.next = sock.next
    if sock.next != NULL:
        sock.next.prev = sock.prev
    sock.next = sock.prev = NULL
    group.count -= 1
    group.buffered -= sock.out_end - sock.out_begin
    sock.group = NULL


cdef void drop_output(sock_s *sock) noexcept nogil:
    if sock.group != NULL:
        sock.group.buffered -= sock.out_end - sock.out_begin
    core_free(sock.out)
    sock.out = NULL
    sock.out_begin = sock.out_end = sock.out_capacity = 0


cdef void sock_finish(sock_s *sock, int error, bint reset) noexcept nogil:
    """Close the descriptor. The socket stays in its group until Python has been told."""
    cdef sock_group_s *group = sock.group
    cdef sock_close_fn on_close = sock.on_close
    if sock.state == SOCK_CLOSED:
        return
    sock.state = SOCK_CLOSED
    sock.error = error
    if group != NULL:
        group.backend.leave(sock, False)
        if sock.flushing:
            drop_flush(group, sock)
    drop_output(sock)
    if sock.fd >= 0:
        if reset:
            st_linger_free(sock.fd)
        close(sock.fd)
        sock.fd = -1
    sock.blocked = False
    if on_close != NULL:
        sock.on_data = NULL
        sock.on_close = NULL
        on_close(sock.ctx, sock, error)
    sock_tell(sock, SOCK_TELL_CLOSED)


cdef void sock_abort(sock_s *sock, int error) noexcept nogil:
    sock_finish(sock, error, True)


cdef void sock_close(sock_s *sock) noexcept nogil:
    if sock.state == SOCK_OPEN and sock.out_end != sock.out_begin:
        sock.state = SOCK_CLOSING
        sock_update(sock)
        return
    if sock.state != SOCK_CLOSING:
        sock_finish(sock, 0, False)


cdef void sock_shutdown_write(sock_s *sock) noexcept nogil:
    if sock.shut or sock.state != SOCK_OPEN:
        return
    sock.shut = 1
    sock_flush_later(sock)


cdef void sock_pause(sock_s *sock, bint paused) noexcept nogil:
    if sock.paused == paused:
        return
    sock.paused = paused
    if not paused and sock.held:
        sock_tell(sock, SOCK_TELL_HELD)
    sock_update(sock)


cdef void sock_flush_later(sock_s *sock) noexcept nogil:
    cdef sock_group_s *group = sock.group
    if sock.flushing or group == NULL:
        return
    sock.flushing = True
    sock.flush_next = NULL
    if group.flush_last == NULL:
        group.flush_first = sock
    else:
        group.flush_last.flush_next = sock
    group.flush_last = sock
    group_ask(group)


cdef bint make_room(sock_s *sock, size_t length) noexcept nogil:
    """Room for `length` more bytes behind those that wait."""
    cdef size_t pending = sock.out_end - sock.out_begin
    cdef size_t capacity = sock.out_capacity
    cdef uint8_t *larger
    if sock.out_end + length <= capacity:
        return True
    if pending + length <= capacity and sock.out_begin >= capacity // 2:
        memmove(sock.out, sock.out + sock.out_begin, pending)
        sock.out_begin = 0
        sock.out_end = pending
        return True
    if capacity < FIRST_BLOCK:
        capacity = FIRST_BLOCK
    while capacity < pending + length:
        capacity *= 2
    larger = <uint8_t *>core_calloc(1, capacity)
    if larger == NULL:
        return False
    if pending:
        memcpy(larger, sock.out + sock.out_begin, pending)
    core_free(sock.out)
    sock.out = larger
    sock.out_begin = 0
    sock.out_end = pending
    sock.out_capacity = capacity
    return True


cdef int sock_send(sock_s *sock, const void *data, size_t length) noexcept nogil:
    """Take bytes to send. They are sent once in the thread's turn, together with what else is written there."""
    cdef sock_group_s *group = sock.group
    cdef size_t pending = sock.out_end - sock.out_begin
    cdef ssize_t sent
    if sock.state > SOCK_OPEN or sock.state == SOCK_LISTENING or sock.shut:
        return -EPIPE
    if length == 0:
        return 0
    if pending + length > sock.limit or (group != NULL and group.buffered + length > group.max_buffered):
        return -ENOBUFS
    if length >= DIRECT_SIZE and pending == 0 and sock.state == SOCK_OPEN and group != NULL:
        sent = c_send(sock.fd, data, length, MSG_NOSIGNAL)
        if sent > 0:
            group.writes += 1
            group.bytes_out += <size_t>sent
            sock.bytes_out += <size_t>sent
            if <size_t>sent == length:
                return 0
            data = <const uint8_t *>data + sent
            length -= <size_t>sent
        # An error is found again, and told, when the rest is flushed.
    if not make_room(sock, length):
        return -ENOMEM
    memcpy(sock.out + sock.out_end, data, length)
    sock.out_end += length
    if group != NULL:
        group.buffered += length
        if sock.state == SOCK_OPEN and not sock.blocked:
            sock_flush_later(sock)
    if sock.out_end - sock.out_begin > sock.high:
        sock.above = True
    return 0


cdef void sock_sent(sock_s *sock, ssize_t sent, int error) noexcept nogil:
    """The kernel has taken so many of the bytes that wait; less than all: it has no room, or there is an error."""
    cdef sock_group_s *group = sock.group
    cdef size_t pending
    if error and not sock_would_block(error) and error != ENOBUFS:
        sock_finish(sock, error, True)
        return
    if error:
        sent = 0
    group.bytes_out += <size_t>sent
    group.buffered -= <size_t>sent
    sock.bytes_out += <size_t>sent
    sock.out_begin += <size_t>sent
    pending = sock.out_end - sock.out_begin
    if sock.blocked != (pending != 0):
        sock.blocked = pending != 0
        sock_update(sock)
    if not pending:
        # A block that many bytes needed is not kept for few.
        if sock.out_capacity > FIRST_BLOCK:
            core_free(sock.out)
            sock.out = NULL
            sock.out_capacity = 0
        sock.out_begin = sock.out_end = 0
    if sock.above and pending <= sock.low:
        sock.above = False
        sock_tell(sock, SOCK_TELL_LOW)


cdef void sock_output_done(sock_s *sock) noexcept nogil:
    """Nothing waits to be sent: do what was to be done then."""
    if sock.shut == 1:
        sock.shut = 2
        c_shutdown(sock.fd, SHUT_WR)
    if sock.state == SOCK_CLOSING:
        sock_finish(sock, 0, False)


cdef void flush(sock_s *sock) noexcept nogil:
    """Send what waits, in one call."""
    cdef size_t pending = sock.out_end - sock.out_begin
    cdef ssize_t sent
    if sock.state != SOCK_OPEN and sock.state != SOCK_CLOSING:
        return
    if pending:
        sock.group.writes += 1
        sent = c_send(sock.fd, sock.out + sock.out_begin, pending, MSG_NOSIGNAL)
        sock_sent(sock, sent, errno if sent < 0 else 0)
    if sock.state != SOCK_CLOSED and sock.out_end == sock.out_begin:
        sock_output_done(sock)


cdef sock_s *sock_next_to_flush(sock_group_s *group) noexcept nogil:
    cdef sock_s *sock = group.flush_first
    if sock != NULL:
        group.flush_first = sock.flush_next
        if group.flush_first == NULL:
            group.flush_last = NULL
        sock.flushing = False
    return sock


cdef void flush_all(sock_group_s *group) noexcept nogil:
    cdef sock_s *sock = sock_next_to_flush(group)
    while sock != NULL:
        flush(sock)
        sock = sock_next_to_flush(group)


cdef void sock_starved(sock_s *listener, int error) noexcept nogil:
    """Nothing could be accepted."""
    if error == EMFILE or error == ENFILE or error == ENOMEM or error == ENOBUFS:
        listener.error = error
        sock_tell(listener, SOCK_TELL_STARVED)
    # Anything else is of one connection that ended before it was taken, or nothing is left.


cdef void sock_accepted_fd(sock_s *listener, int fd) noexcept nogil:
    """A new connection, for Python; the caller has seen that there is room."""
    cdef sock_group_s *group = listener.group
    fd = fd_above_standard(fd)
    if fd < 0:
        return
    group.accepts += 1
    group.accepted[group.accepted_count].listener = listener
    group.accepted[group.accepted_count].fd = fd
    group.accepted_count += 1


cdef void sock_input_ended(sock_s *sock) noexcept nogil:
    """The peer has sent its last byte."""
    sock.ended = True
    if sock.in_python:
        sock_tell(sock, SOCK_TELL_END)
        sock_update(sock)
    else:
        sock_update(sock)
        sock_close(sock)


cdef void sock_connected(sock_s *sock) noexcept nogil:
    """The kernel has made the connection that was begun, or has not."""
    cdef int error = st_pending_error(sock.fd)
    if error:
        sock.error = error
        sock.state = SOCK_NEW       # nothing is wanted of this descriptor any more
        sock_update(sock)
    sock_tell(sock, SOCK_TELL_CONNECTED)
    # Python looks at `error`, and tries the next address or calls the handlers; nothing is read before.
    if not error:
        sock.state = SOCK_OPEN
        sock.held = True
        sock_flush_later(sock)
        sock_update(sock)


# ---- epoll -----------------------------------------------------------------------------------------------------------

cdef int epoll_attach(sock_s *sock) noexcept nogil:
    sock.listed = False
    sock.interest = 0
    return 0


cdef void epoll_leave(sock_s *sock, int keep) noexcept nogil:
    cdef sock_group_s *group = sock.group
    cdef int index
    if sock.listed:
        fd_group_remove(group.fd, sock.fd, sock.interest)
        sock.listed = False
        sock.interest = 0
    for index in range(group.ready_next, group.ready_count):
        if group.ready[index].tag == <uint64_t>sock:
            group.ready[index].tag = 0


cdef void epoll_update(sock_s *sock) noexcept nogil:
    """Have the kernel wait for what the socket's state wants, and for nothing else."""
    cdef uint32_t wanted = 0
    if sock.state == SOCK_CONNECTING:
        wanted = FD_WRITABLE
    else:
        wanted = FD_READABLE if sock_wants_input(sock) else 0
        if sock.blocked:
            wanted |= FD_WRITABLE
    if wanted == sock.interest and (sock.listed or not wanted):
        return
    if not wanted:
        # A set reports hang-ups that were not asked for, again and again: out of it.
        fd_group_remove(sock.group.fd, sock.fd, sock.interest)
        sock.listed = False
        sock.interest = 0
        return
    cdef int failed
    if sock.listed:
        failed = fd_group_change(sock.group.fd, sock.fd, sock.interest, wanted, <uint64_t>sock)
    else:
        failed = fd_group_add(sock.group.fd, sock.fd, wanted, <uint64_t>sock)
    if failed:
        sock_abort(sock, failed)
        return
    sock.listed = True
    sock.interest = wanted


cdef void accept_some(sock_group_s *group, sock_s *listener) noexcept nogil:
    cdef int taken = 0
    cdef int fd
    while taken < ACCEPT_BATCH and group.accepted_count < <uint32_t>SOCK_BATCH:
        fd = st_accept(listener.fd)
        if fd < 0:
            sock_starved(listener, errno)
            return
        taken += 1
        sock_accepted_fd(listener, fd)


cdef void receive(sock_group_s *group, sock_s *sock) noexcept nogil:
    cdef size_t room = group.buffer_size - group.buffer_used
    cdef uint8_t *where = group.buffer + group.buffer_used
    cdef ssize_t got
    if room > group.read_size:
        room = group.read_size
    if sock.in_python and (room < READ_FLOOR or group.delivery_count == group.delivery_capacity):
        return                                      # still readable in the next poll
    if room < READ_FLOOR:
        return
    got = c_recv(sock.fd, where, room, 0)
    group.reads += 1
    if got > 0:
        group.bytes_in += <size_t>got
        sock.bytes_in += <size_t>got
        if sock.on_data != NULL:
            if sock.on_data(sock.ctx, sock, where, <size_t>got) < 0:
                sock_finish(sock, 0, False)
            return
        group.deliveries[group.delivery_count].sock = sock
        group.deliveries[group.delivery_count].offset = group.buffer_used
        group.deliveries[group.delivery_count].length = <size_t>got
        group.deliveries[group.delivery_count].where = SOCK_IN_BUFFER
        group.delivery_count += 1
        group.buffer_used += <size_t>got
    elif got == 0:
        sock_input_ended(sock)
    elif not sock_would_block(errno):
        sock_finish(sock, errno, False)


cdef void attend(sock_group_s *group, sock_s *sock, uint32_t events) noexcept nogil:
    """What one ready socket is ready for."""
    cdef int error
    if sock.state == SOCK_LISTENING:
        if events & FD_READABLE and not sock.paused:
            accept_some(group, sock)
        return
    if sock.state == SOCK_CONNECTING:
        sock_connected(sock)
        return
    if events & FD_WRITABLE and sock.blocked:
        flush(sock)
    if sock_wants_input(sock):
        if events & FD_READABLE:
            receive(group, sock)
    elif sock.interest and events & ~sock.interest:
        # Only a hang-up or an error is reported without being asked for.
        error = st_pending_error(sock.fd)
        if error:
            sock_finish(sock, error, False)


cdef int epoll_poll(void *ctx) noexcept nogil:
    """One turn of the group: send, look, accept, receive, send. The flags of `fd_native_result`."""
    cdef sock_group_s *group = <sock_group_s *>ctx
    cdef int flags = 0
    cdef uint32_t events
    cdef sock_s *sock
    group.polls += 1
    group.asked = False
    group.polling = True
    if group.flush_first != NULL:
        flags = FD_NATIVE_WORKED
        flush_all(group)
    group.ready_next = 0
    group.ready_count = fd_group_wait(group.fd, group.ready, SOCK_BATCH)
    if group.ready_count > 0:
        flags = FD_NATIVE_WORKED
    while group.ready_next < group.ready_count:
        sock = <sock_s *>group.ready[group.ready_next].tag
        events = group.ready[group.ready_next].events
        group.ready_next += 1
        if sock != NULL:
            attend(group, sock, events)
    group.ready_next = group.ready_count = 0
    if group.flush_first != NULL:
        flush_all(group)
    group.polling = False
    if group.delivery_count or group.accepted_count or group.notice_first != NULL:
        flags |= FD_NATIVE_CALL
    return flags


st_epoll_backend.poll = epoll_poll
st_epoll_backend.attach = epoll_attach
st_epoll_backend.update = epoll_update
st_epoll_backend.leave = epoll_leave


cdef const sock_backend *epoll_backend() noexcept nogil:
    return &st_epoll_backend
