"""The native half of ``resp_server.py --handlers native``: what ``resp_native.h`` needs of spdkthread."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from spdkthread cimport RING_FULL, RING_OK, SpdkThread, msg_fn, thread_s, thread_send_native
from spdkthread.sock.core cimport sock_close, sock_s, sock_send

cdef extern from "resp_native.h":
    ctypedef struct resp_api:
        int (*send)(void *sock, const void *data, size_t length) noexcept nogil
        void (*close)(void *sock) noexcept nogil
        int (*message)(void *thread, msg_fn fn, void *ctx) noexcept nogil
    resp_api resp
    ctypedef struct resp_shard:
        resp_shard **all
        void *thread
        uint64_t count
    ctypedef struct resp_conn
    resp_shard *resp_new_shard(uint32_t index, uint32_t shards, uint64_t max_memory) noexcept nogil
    void resp_free_shard(resp_shard *shard) noexcept nogil
    void resp_sweep(resp_shard *shard, uint64_t buckets) noexcept nogil
    void resp_post_again(resp_shard *shard) noexcept nogil
    resp_conn *resp_new_conn(resp_shard *shard, void *sock) noexcept nogil
    int resp_feed(resp_conn *conn, const uint8_t *data, size_t length) noexcept nogil
    void resp_closed(resp_conn *conn) noexcept nogil

cdef enum:
    SWEPT_BUCKETS = 4096        # in one run of the poller


cdef int send(void *sock, const void *data, size_t length) noexcept nogil:
    return sock_send(<sock_s *>sock, data, length)


cdef void close(void *sock) noexcept nogil:
    sock_close(<sock_s *>sock)


cdef int message(void *thread, msg_fn fn, void *ctx) noexcept nogil:
    cdef int verdict = thread_send_native(<thread_s *>thread, fn, ctx, 0)
    return 0 if verdict == RING_OK else 1 if verdict == RING_FULL else 2


resp.send = send
resp.close = close
resp.message = message


cdef api int on_data(void *ctx, sock_s *sock, const uint8_t *data, size_t length) noexcept nogil:
    if sock.user == NULL:
        sock.user = resp_new_conn(<resp_shard *>ctx, sock)
        if sock.user == NULL:
            return -1
    return resp_feed(<resp_conn *>sock.user, data, length)


cdef api void on_close(void *ctx, sock_s *sock, int error) noexcept nogil:
    if sock.user != NULL:
        resp_closed(<resp_conn *>sock.user)
        sock.user = NULL


cdef api int tend(void *ctx) noexcept nogil:
    """A timed poller of each shard: expiry, and messages that found a ring full."""
    resp_post_again(<resp_shard *>ctx)
    resp_sweep(<resp_shard *>ctx, SWEPT_BUCKETS)
    return 0


cdef class Shards:
    """The shards of a server, one for each thread."""

    cdef resp_shard **shards
    cdef uint32_t count
    cdef list threads

    def __cinit__(self, list threads not None, uint64_t max_memory):
        cdef uint32_t index, other
        cdef SpdkThread thread
        self.threads = threads
        self.shards = <resp_shard **>calloc(len(threads), sizeof(resp_shard *))
        if self.shards == NULL:
            raise MemoryError("no memory for the shards")
        for index in range(<uint32_t>len(threads)):
            thread = <SpdkThread?>threads[index]
            self.shards[index] = resp_new_shard(index, <uint32_t>len(threads), max_memory // <uint64_t>len(threads))
            if self.shards[index] == NULL:
                raise MemoryError("no memory for the shards")
            self.count += 1
            self.shards[index].thread = &thread.c
        for index in range(self.count):
            for other in range(self.count):
                self.shards[index].all[other] = self.shards[other]

    def __dealloc__(self):
        cdef uint32_t index
        for index in range(self.count):
            resp_free_shard(self.shards[index])
        free(self.shards)

    def address(self, uint32_t index) -> int:
        """What the handlers of a shard's connections take as their context."""
        if index >= self.count:
            raise IndexError(index)
        return <uintptr_t>self.shards[index]

    def keys(self) -> int:
        """Keys of all shards, those that have expired and were not dropped yet included."""
        cdef uint32_t index
        return sum([self.shards[index].count for index in range(self.count)])
