"""A thread's group of sockets over io_uring: see ``core.pxd`` for what a backend does.

One poll of a group (`uring_poll`)::

    flush list   sockets that want something   -> entries: send, recv, accept, poll, cancel
    submit       one call of the kernel        -> all entries of the turn; sends are over when it returns
    completions  in shared memory              -> native handlers at once, deliveries[] and accepted[] for Python
    flush list   what the handlers wrote       -> the next poll, which is the next turn's

A listener has one accept in the kernel and a connection one recv, each of which completes again and again (multishot).
A recv has no memory of its own: it takes one of the buffers that the group offers, so a silent connection costs none.
A buffer is offered again when the handler has returned.

The kernel touches nothing of a socket's that its owner has let go of::

    bytes to send    only inside the call that submits (MSG_DONTWAIT): afterwards they are the socket's again
    descriptor       before it is closed, and before a socket goes to another thread, its requests are cancelled in a
                     call that returns when that is done
    completions      name a slot and its generation, not an address: those of a socket that is gone are dropped
    buffers          are unregistered, and every request has completed, before their memory is given back

While requests are out, a native poller of the thread looks at the completions, which is a look at memory. When nothing
has come for a while and the thread's reactor can sleep, the poller pauses, and a completion makes an eventfd readable,
which is among the thread's descriptors.
"""

from libc.stdint cimport uint8_t, uint32_t

from spdkthread.poller cimport poller_s
from spdkthread.sock.core cimport sock_backend, sock_group_s, sock_s

cdef int uring_refused() noexcept nogil                     # 0, or the errno for which there is no such ring
cdef void uring_refuse(int number) noexcept nogil           # for tests
cdef const sock_backend *uring_backend() noexcept nogil
# `memory` for `count` buffers, a power of two, of `size` bytes. 0, or an errno.
cdef int uring_group_open(sock_group_s *group, uint8_t *memory, uint32_t count, size_t size) noexcept nogil
cdef void uring_group_close(sock_group_s *group) noexcept nogil     # waits until the kernel is done with it
cdef void uring_group_forget(sock_group_s *group) noexcept nogil    # in the child of a fork: all of it is the parent's
cdef void uring_group_poller(sock_group_s *group, poller_s *poller) noexcept nogil
cdef int uring_look(void *group) noexcept nogil             # the poller's function
cdef uint8_t *uring_buffer(sock_group_s *group, int number) noexcept nogil
cdef void uring_replace_buffer(sock_group_s *group, int number, uint8_t *memory) noexcept nogil
cdef void uring_offer_buffer(sock_group_s *group, int number) noexcept nogil
