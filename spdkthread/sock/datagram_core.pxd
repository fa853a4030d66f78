"""The C side of a thread's datagram sockets: nothing here touches a Python object or needs the GIL.

They are part of the thread's group of sockets, with a set of their own in the kernel. One poll of them
(`datagrams_poll`, called by the thread's poll while it holds no GIL)::

    flush list   sockets with datagrams to send   -> sendmmsg() each
    epoll        one look; none for a single socket, where reading says as much
    each ready   native handler                   -> recvmmsg() into the socket's block, handler called for each
                 Python handler                   -> recvmmsg() into the socket's block, one call for all in `_run`
    flush list   what native handlers sent

A block is one allocation, of a socket that has received::

    data       batch x size bytes; the n-th datagram begins at n x size
    lengths    batch x uint32
    addresses  batch x sockaddr of its sender
    truncated  batch x uint8
    headers    what recvmmsg() is given

From another Cython module::

    from spdkthread.sock.datagram_core cimport datagram_reply, datagram_s

    cdef int on_datagram(void *ctx, datagram_s *sock, const uint8_t *data, size_t length) noexcept nogil:
        return datagram_reply(sock, data, length)   # a negative result counts it as rejected

    sock.set_native(__pyx_capi__["on_datagram"])

`data` is valid during the call, as is `sock.peer`, the sender's address.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from spdkthread.fd_group cimport fd_event
from spdkthread.sock.core cimport sock_group_s

cdef extern from *:
    """
    #ifndef SPDKTHREAD_DATAGRAM
    #define SPDKTHREAD_DATAGRAM
    #include <netinet/in.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <sys/socket.h>
    #include <sys/uio.h>

    typedef struct datagram_s datagram_s;
    typedef struct datagram_group_s datagram_group_s;
    /* < 0: the datagram is counted as rejected. */
    typedef int (*datagram_fn)(void *ctx, datagram_s *sock, const uint8_t *data, size_t length);

    typedef union datagram_address {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } datagram_address;

    #if defined(__linux__) || defined(__FreeBSD__) || defined(__NetBSD__)
    #define ST_MMSG 1
    typedef struct mmsghdr datagram_header;
    #else
    typedef struct datagram_header { struct msghdr msg_hdr; unsigned int msg_len; } datagram_header;
    #endif

    typedef struct datagram_block {
        uint32_t batch;
        uint32_t size;
        uint32_t used;              /* headers that the kernel has written into */
        uint8_t *data;
        uint32_t *lengths;
        datagram_address *addresses;
        uint8_t *truncated;
        datagram_header *headers;
        struct iovec *parts;
    } datagram_block;

    /* One that waits to be sent. */
    typedef struct datagram_out {
        size_t offset;
        uint32_t length;
        uint32_t address_size;      /* 0: to the address that the socket is connected to */
        datagram_address address;
    } datagram_out;

    struct datagram_s {
        datagram_group_s *group;    /* NULL: closed */
        int fd;
        uint32_t state;
        uint32_t interest;          /* what the kernel's set waits for */
        uint32_t notices;           /* what Python is to be told, DATAGRAM_TELL_* */
        uint8_t listed;             /* in the kernel's set */
        uint8_t handled;            /* there is a handler */
        uint8_t paused;
        uint8_t blocked;            /* the kernel took fewer than there were */
        uint8_t refused;            /* a send was, and that all is sent was not told since */
        uint8_t flushing;           /* on the flush list */
        uint8_t noticed;            /* on the list of notices */
        int family;
        int error;                  /* why it is closed, an errno */
        int fault;                  /* the last error that closes nothing */
        uint32_t batch;
        uint32_t size;
        uint32_t received;          /* datagrams in `block` that wait for Python */
        datagram_block *block;
        const datagram_address *peer;       /* of the datagram that a native handler is called with */
        datagram_s *next;
        datagram_s *prev;
        datagram_s *flush_next;
        datagram_s *notice_next;
        uint8_t *out;
        size_t out_used;
        size_t out_capacity;
        datagram_out *waiting;
        uint32_t waiting_first;
        uint32_t waiting_end;
        uint32_t waiting_capacity;
        size_t pending;             /* bytes that wait */
        size_t limit;
        datagram_fn on_datagram;
        void *ctx;
        void *user;
        uint64_t datagrams_in;
        uint64_t datagrams_out;
        uint64_t bytes_in;
        uint64_t bytes_out;
        uint64_t truncated;
        uint64_t rejected;
        uint64_t errors;
        PyObject *owner;            /* the DatagramSock; one reference while it is open */
    };

    enum { DATAGRAM_READY = 64 };

    struct datagram_group_s {
        int fd;                     /* the kernel's set */
        uint32_t count;
        uint8_t polling;
        uint8_t asked;              /* the thread was asked for a poll */
        uint8_t one_by_one;         /* the kernel has no recvmmsg() */
        void *thread;               /* its thread_s */
        sock_group_s *sockets;      /* what it is part of, with the limits and the bytes that wait */
        datagram_s *first;
        datagram_s *flush_first;
        datagram_s *flush_last;
        datagram_s *notice_first;
        datagram_s *notice_last;
        struct fd_event ready[DATAGRAM_READY];
        int ready_next;
        int ready_count;
        uint64_t reads;
        uint64_t writes;
        uint64_t datagrams_in;
        uint64_t datagrams_out;
        uint64_t bytes_in;
        uint64_t bytes_out;
        uint64_t truncated;
        uint64_t rejected;
        uint64_t errors;
    };
    #endif
    """
    const int DATAGRAM_READY
    ctypedef struct datagram_group_s
    ctypedef struct datagram_s

    ctypedef struct datagram_header:
        unsigned int msg_len

    cdef struct iovec:
        size_t iov_len

    ctypedef int (*datagram_fn)(void *ctx, datagram_s *sock, const uint8_t *data, size_t length) noexcept nogil

    cdef struct sockaddr:
        pass

    ctypedef union datagram_address:
        sockaddr any

    ctypedef struct datagram_block:
        uint32_t batch
        uint32_t size
        uint32_t used
        uint8_t *data
        uint32_t *lengths
        datagram_address *addresses
        uint8_t *truncated
        datagram_header *headers
        iovec *parts

    ctypedef struct datagram_out:
        size_t offset
        uint32_t length
        uint32_t address_size
        datagram_address address

    ctypedef struct datagram_s:
        datagram_group_s *group
        int fd
        uint32_t state
        uint32_t interest
        uint32_t notices
        uint8_t listed
        uint8_t handled
        uint8_t paused
        uint8_t blocked
        uint8_t refused
        uint8_t flushing
        uint8_t noticed
        int family
        int error
        int fault
        uint32_t batch
        uint32_t size
        uint32_t received
        datagram_block *block
        const datagram_address *peer
        datagram_s *next
        datagram_s *prev
        datagram_s *flush_next
        datagram_s *notice_next
        uint8_t *out
        size_t out_used
        size_t out_capacity
        datagram_out *waiting
        uint32_t waiting_first
        uint32_t waiting_end
        uint32_t waiting_capacity
        size_t pending
        size_t limit
        datagram_fn on_datagram
        void *ctx
        void *user
        uint64_t datagrams_in
        uint64_t datagrams_out
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t truncated
        uint64_t rejected
        uint64_t errors
        PyObject *owner

    ctypedef struct datagram_group_s:
        int fd
        uint32_t count
        uint8_t polling
        uint8_t asked
        uint8_t one_by_one
        void *thread
        sock_group_s *sockets
        datagram_s *first
        datagram_s *flush_first
        datagram_s *flush_last
        datagram_s *notice_first
        datagram_s *notice_last
        fd_event ready[64]
        int ready_next
        int ready_count
        uint64_t reads
        uint64_t writes
        uint64_t datagrams_in
        uint64_t datagrams_out
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t truncated
        uint64_t rejected
        uint64_t errors

cdef enum datagram_state:
    DATAGRAM_OPEN
    DATAGRAM_CLOSING        # receives no more; closed when all is sent
    DATAGRAM_CLOSED

cdef enum datagram_notice:
    DATAGRAM_TELL_BATCH = 1     # datagrams wait in the block
    DATAGRAM_TELL_FAULT = 2
    DATAGRAM_TELL_SENT = 4      # all is sent, and a send was refused before
    DATAGRAM_TELL_CLOSED = 8

# Of an address: 0, or -1 when `host` is none of the family.
cdef int datagram_address_set(
    datagram_address *address, int family, const char *host, int port, uint32_t scope
) noexcept nogil
cdef uint32_t datagram_address_size(const datagram_address *address) noexcept nogil
cdef int datagram_address_get(
    const datagram_address *address, char *host, uint32_t host_size, uint32_t *port, uint32_t *flow, uint32_t *scope
) noexcept nogil                # its family

# All of these on the group's thread. To send: 0, -EPIPE, -EMSGSIZE, -ENOBUFS, -ENOMEM; `address` NULL is the one that
# the socket is connected to.
cdef int datagram_send(
    datagram_s *sock, const void *data, size_t length, const datagram_address *address
) noexcept nogil
cdef int datagram_reply(datagram_s *sock, const void *data, size_t length) noexcept nogil   # inside a native handler
cdef void datagram_close(datagram_s *sock) noexcept nogil          # once what waits is sent
cdef void datagram_abort(datagram_s *sock, int error) noexcept nogil
cdef void datagram_pause(datagram_s *sock, bint paused) noexcept nogil
cdef void datagram_update(datagram_s *sock) noexcept nogil
cdef void datagram_attach(datagram_group_s *group, datagram_s *sock) noexcept nogil
cdef void datagram_detach(datagram_s *sock) noexcept nogil
cdef void datagram_free(datagram_s *sock) noexcept nogil
cdef void datagram_tell(datagram_s *sock, uint32_t notice) noexcept nogil
cdef datagram_s *datagram_next_notice(datagram_group_s *group) noexcept nogil
cdef void datagram_drop_notice(datagram_s *sock) noexcept nogil
cdef void datagrams_ask(datagram_group_s *group) noexcept nogil
cdef int datagrams_poll(void *ctx) noexcept nogil
