"""The C side of a thread's group of sockets: nothing here touches a Python object or needs the GIL.

What is here is the same for all backends: `sock_backend` says what one has to do, `epoll_backend` is here, and the one
for io_uring in ``uring_group.pyx``. One poll of a group over epoll (`epoll_poll`, called by the thread's poll while it
holds no GIL)::

    flush list   sockets with bytes to send   -> one send() each
    epoll        one look                     -> ready[64]
    each ready   listener                     -> accept() up to a batch            -> accepted[]
                 native handler               -> recv() into `buffer`, handler called at once
                 Python handler               -> recv() into the rest of `buffer`  -> deliveries[]
    flush list   what native handlers wrote

What is in accepted[], deliveries[] and the list of notices is for Python: the thread takes the GIL once and
calls `SockChannel._run` (sock.pyx). What is written there is flushed by the next poll, again without the GIL.

The buffer is shared by all sockets of the group: a silent connection has no memory of its own but its `sock_s`. Bytes
to send are gathered in a block of the socket, which it gives back when all is sent.

From another Cython module::

    from spdkthread.sock.core cimport sock_s, sock_send

    cdef int on_data(void *ctx, sock_s *sock, const uint8_t *data, size_t length) noexcept nogil:
        return sock_send(sock, data, length)        # a negative result closes the connection

    sock.set_native(__pyx_capi__["on_data"])

`data` is valid during the call. `sock.user` is free for the handler; `on_close` is where it is given back.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from spdkthread.fd_group cimport fd_event

cdef extern from *:
    """
    #ifndef SPDKTHREAD_SOCK
    #define SPDKTHREAD_SOCK
    #include <stddef.h>
    #include <stdint.h>

    typedef struct sock_s sock_s;
    typedef struct sock_group_s sock_group_s;
    /* < 0: close the connection. */
    typedef int (*sock_data_fn)(void *ctx, sock_s *sock, const uint8_t *data, size_t length);
    /* `error` is an errno, 0 for an end that was asked for or that the peer made in order. The last call for `sock`. */
    typedef void (*sock_close_fn)(void *ctx, sock_s *sock, int error);

    struct sock_s {
        sock_group_s *group;        /* NULL: closed, or on its way to another thread */
        int fd;
        uint32_t state;
        uint32_t interest;          /* what the kernel's set waits for */
        uint32_t notices;           /* what Python is to be told, SOCK_TELL_* */
        uint8_t listed;             /* in the kernel's set */
        uint8_t paused;
        uint8_t held;               /* received bytes wait in Python: nothing more is read until they are delivered */
        uint8_t ended;              /* the peer has sent its last byte */
        uint8_t shut;               /* the write side: 1 once all is sent, 2 done */
        uint8_t blocked;            /* the kernel took less than there was */
        uint8_t above;              /* the high-water mark was passed, and the low one not yet */
        uint8_t flushing;           /* on the flush list */
        uint8_t in_python;          /* Python callbacks: data goes through deliveries[] */
        uint8_t noticed;            /* on the list of notices */
        /* io_uring: requests in the kernel, see uring_group.pyx */
        uint8_t reading;
        uint8_t sending;
        uint8_t waiting;
        uint8_t listening;
        uint8_t in_ended;           /* behind the bytes in `in`: the end, or `in_error` */
        uint32_t slot;              /* its number in the ring; 0: none */
        int in_error;
        uint8_t *in;                /* received while it was not to be read; of a listener, accepted descriptors */
        size_t in_length;
        size_t in_capacity;
        int error;
        sock_s *next;
        sock_s *prev;
        sock_s *flush_next;
        sock_s *notice_next;
        uint8_t *out;
        size_t out_begin;
        size_t out_end;
        size_t out_capacity;
        size_t high;
        size_t low;
        size_t limit;
        sock_data_fn on_data;
        sock_close_fn on_close;
        void *ctx;
        void *user;
        uint64_t bytes_in;
        uint64_t bytes_out;
        PyObject *owner;            /* the Sock; one reference while it is open */
    };

    /* Where the bytes are: at `offset` in the group's buffer, in a buffer of the ring, or in a block of their own. */
    enum { SOCK_IN_BUFFER = -1, SOCK_IN_BLOCK = -2 };
    typedef struct sock_delivery {
        sock_s *sock;
        size_t offset;
        size_t length;
        uint8_t *block;
        int where;                  /* SOCK_IN_BUFFER, SOCK_IN_BLOCK, or the number of a buffer of the ring */
    } sock_delivery;
    typedef struct sock_accepted { sock_s *listener; int fd; } sock_accepted;

    enum { SOCK_BATCH = 64 };

    typedef struct sock_backend {
        int (*poll)(void *group);           /* one turn; the flags of `fd_native_result` */
        int (*attach)(sock_s *sock);        /* a socket has come: 0, or a negative errno */
        void (*update)(sock_s *sock);       /* what it wants of the kernel may have changed */
        /* From here on the kernel does nothing for it; `keep`: with all that it has received. */
        void (*leave)(sock_s *sock, int keep);
    } sock_backend;

    struct sock_group_s {
        int fd;                     /* what its thread sleeps on: the kernel's set, or the ring's eventfd */
        const sock_backend *backend;
        void *ring;                 /* io_uring: its sock_ring */
        uint32_t count;
        uint32_t max_socks;
        uint8_t polling;
        uint8_t asked;              /* the thread was asked for a poll of the group */
        void *thread;               /* its thread_s */
        sock_s *first;
        sock_s *flush_first;
        sock_s *flush_last;
        sock_s *notice_first;
        sock_s *notice_last;
        size_t buffered;
        size_t max_buffered;
        uint8_t *buffer;
        size_t buffer_size;
        size_t buffer_used;
        size_t read_size;
        struct fd_event ready[SOCK_BATCH];
        int ready_next;
        int ready_count;
        sock_delivery *deliveries;
        uint32_t delivery_count;
        uint32_t delivery_capacity;
        sock_accepted accepted[SOCK_BATCH];
        uint32_t accepted_count;
        uint64_t polls;
        uint64_t reads;
        uint64_t writes;
        uint64_t bytes_in;
        uint64_t bytes_out;
        uint64_t accepts;
        uint64_t refused;
        uint64_t calls;             /* of the kernel, by which requests were submitted to the ring */
    };
    #endif
    """
    const int SOCK_BATCH
    ctypedef struct sock_group_s
    ctypedef struct sock_s
    ctypedef int (*sock_data_fn)(void *ctx, sock_s *sock, const uint8_t *data, size_t length) noexcept nogil
    ctypedef void (*sock_close_fn)(void *ctx, sock_s *sock, int error) noexcept nogil

    ctypedef struct sock_s:
        sock_group_s *group
        int fd
        uint32_t state
        uint32_t interest
        uint32_t notices
        uint8_t listed
        uint8_t paused
        uint8_t held
        uint8_t ended
        uint8_t shut
        uint8_t blocked
        uint8_t above
        uint8_t flushing
        uint8_t in_python
        uint8_t noticed
        uint8_t reading
        uint8_t sending
        uint8_t waiting
        uint8_t listening
        uint8_t in_ended
        uint32_t slot
        int in_error
        uint8_t *input "in"
        size_t in_length
        size_t in_capacity
        int error
        sock_s *next
        sock_s *prev
        sock_s *flush_next
        sock_s *notice_next
        uint8_t *out
        size_t out_begin
        size_t out_end
        size_t out_capacity
        size_t high
        size_t low
        size_t limit
        sock_data_fn on_data
        sock_close_fn on_close
        void *ctx
        void *user
        uint64_t bytes_in
        uint64_t bytes_out
        PyObject *owner

    const int SOCK_IN_BUFFER, SOCK_IN_BLOCK

    ctypedef struct sock_delivery:
        sock_s *sock
        size_t offset
        size_t length
        uint8_t *block
        int where

    ctypedef struct sock_accepted:
        sock_s *listener
        int fd

    ctypedef struct sock_backend:
        int (*poll)(void *group) noexcept nogil
        int (*attach)(sock_s *sock) noexcept nogil
        void (*update)(sock_s *sock) noexcept nogil
        void (*leave)(sock_s *sock, int keep) noexcept nogil

    ctypedef struct sock_group_s:
        int fd
        const sock_backend *backend
        void *ring
        uint32_t count
        uint32_t max_socks
        uint8_t polling
        uint8_t asked
        void *thread
        sock_s *first
        sock_s *flush_first
        sock_s *flush_last
        sock_s *notice_first
        sock_s *notice_last
        size_t buffered
        size_t max_buffered
        uint8_t *buffer
        size_t buffer_size
        size_t buffer_used
        size_t read_size
        fd_event ready[64]
        int ready_next
        int ready_count
        sock_delivery *deliveries
        uint32_t delivery_count
        uint32_t delivery_capacity
        sock_accepted accepted[64]
        uint32_t accepted_count
        uint64_t polls
        uint64_t reads
        uint64_t writes
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t accepts
        uint64_t refused
        uint64_t calls

cdef enum sock_state:
    SOCK_NEW                # on its way: resolving, or between two threads
    SOCK_CONNECTING
    SOCK_LISTENING
    SOCK_OPEN
    SOCK_CLOSING            # reads no more; closed when all is sent
    SOCK_CLOSED

cdef enum sock_notice:
    SOCK_TELL_CLOSED = 1
    SOCK_TELL_CONNECTED = 2
    SOCK_TELL_LOW = 4
    SOCK_TELL_END = 8       # the peer has sent its last byte
    SOCK_TELL_HELD = 16     # bytes that wait can be delivered
    SOCK_TELL_STARVED = 32  # accept() found no descriptor left

# All of these on the group's thread.
cdef int sock_send(sock_s *sock, const void *data, size_t length) noexcept nogil    # 0, -EPIPE, -ENOBUFS, -ENOMEM
cdef void sock_shutdown_write(sock_s *sock) noexcept nogil
cdef void sock_close(sock_s *sock) noexcept nogil           # once what was written is sent
cdef void sock_abort(sock_s *sock, int error) noexcept nogil
cdef void sock_pause(sock_s *sock, bint paused) noexcept nogil
cdef int sock_attach(sock_group_s *group, sock_s *sock) noexcept nogil
cdef void sock_detach(sock_s *sock) noexcept nogil
cdef void sock_update(sock_s *sock) noexcept nogil
cdef void sock_tell(sock_s *sock, uint32_t notice) noexcept nogil
cdef sock_s *sock_next_notice(sock_group_s *group) noexcept nogil
cdef void group_ask(sock_group_s *group) noexcept nogil
cdef const sock_backend *epoll_backend() noexcept nogil

# For backends.
cdef void sock_finish(sock_s *sock, int error, bint reset) noexcept nogil
cdef void sock_flush_later(sock_s *sock) noexcept nogil
cdef sock_s *sock_next_to_flush(sock_group_s *group) noexcept nogil
cdef void sock_sent(sock_s *sock, ssize_t sent, int error) noexcept nogil
cdef void sock_output_done(sock_s *sock) noexcept nogil
cdef void sock_input_ended(sock_s *sock) noexcept nogil
cdef void sock_connected(sock_s *sock) noexcept nogil
cdef void sock_starved(sock_s *sock, int error) noexcept nogil
cdef void sock_accepted_fd(sock_s *sock, int fd) noexcept nogil
cdef bint sock_would_block(int number) noexcept nogil


cdef inline bint sock_wants_input(sock_s *sock) noexcept nogil:
    if sock.state == SOCK_LISTENING:
        return not sock.paused
    return sock.state == SOCK_OPEN and not (sock.paused or sock.held or sock.ended)
