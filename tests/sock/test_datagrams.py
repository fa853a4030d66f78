"""Datagram sockets on SpdkThreads: batches, limits, errors, native handlers."""

import ctypes
import errno
import gc
import os
import socket
import struct
import time

import numpy as np
import pytest
from native_sources import FFI, capsule
from support import PATIENCE_S, OtherThread, eventually, run_python

from spdkthread import NoThreadError, WrongThreadError
from spdkthread.sock import (
    DatagramBatch,
    DatagramSock,
    SockBufferError,
    SockClosedError,
    SockGroup,
    SockLimitError,
    echo,
)

pytestmark = pytest.mark.races

LOCAL = ("127.0.0.1", 0)
DATAGRAM = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@pytest.fixture
def make_group(lib):
    """Makes groups; their sockets are aborted at the end, and the devices go."""
    made = []

    def make(**options):
        made.append(SockGroup("net", lib=lib, **options).register())
        return made[-1]

    yield make
    for group in made:
        with lib.threads[0]:
            group.close_all()
            ended = group.unregister()
        poll_until(lib, ended.done)
        ended.result()


@pytest.fixture
def group(make_group):
    return make_group()


def poll_until(lib, predicate):
    give_up = time.monotonic() + PATIENCE_S
    while not predicate():
        for thread in lib.threads:
            thread.poll()
        assert time.monotonic() < give_up, "never became true"


class Feed:
    """A datagram socket of `thread` that notes what it hears, and a plain socket that sends to it."""

    def __init__(self, group, thread, host="127.0.0.1", **options):
        self.lib, self.thread = group.lib, thread
        self.batches, self.heard, self.errors, self.closed = [], [], [], []
        with thread:
            self.sock = group.open_datagram((host, 0), on_batch=self.batch, **options)
        self.sock.on_error = lambda sock, error: self.errors.append(error)
        self.sock.on_close = lambda sock, error: self.closed.append(error)
        self.peer = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.settimeout(PATIENCE_S)
        self.peer.bind((host, 0))
        self.peer.connect(self.sock.sockname())

    def batch(self, sock, batch):
        self.batches.append(len(batch))
        self.heard += [bytes(one) for one in batch]

    def poll_until(self, predicate):
        poll_until(self.lib, predicate)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.peer.close()


def test_datagrams_that_came_together_are_one_batch(group, thread):
    with Feed(group, thread) as feed:
        sent = [b"", b"one", b"two" * 100, b"x" * 2048]
        for data in sent:
            feed.peer.send(data)
        feed.poll_until(lambda: len(feed.heard) == 4)
        assert feed.batches == [4]
        assert feed.heard == sent
        assert (feed.sock.datagrams_in, feed.sock.bytes_in, feed.sock.truncated) == (4, 2351, 0)
        assert isinstance(feed.sock, DatagramSock)


def test_a_batch_has_the_bytes_lengths_and_addresses_without_a_copy(group, thread):
    seen = []

    def on_batch(sock, batch):
        assert isinstance(batch, DatagramBatch)
        data = np.frombuffer(batch.data, np.uint8).reshape(len(batch), batch.stride)
        assert batch.stride == sock.datagram_bytes == 16
        assert list(np.frombuffer(batch.lengths, np.uint32)) == list(batch.lengths) == [3, 5]
        assert bytes(data[0, :3]) == bytes(batch[0]) == b"one"
        assert bytes(data[1, :5]) == bytes(batch[-1]) == b"three"
        assert data.ctypes.data == np.frombuffer(batch[0], np.uint8).ctypes.data
        with pytest.raises(IndexError, match="2 datagrams"):
            batch[2]
        with pytest.raises(TypeError):
            batch.data[0] = 1
        ports = np.frombuffer(
            batch.sockaddrs, np.dtype({"names": ["p"], "formats": [">u2"], "offsets": [2], "itemsize": 28})
        )
        assert list(ports["p"]) == [port for _, port in batch.addresses]
        seen.append((batch, batch.addresses))

    with Feed(group, thread, datagram_bytes=16) as feed:
        with thread:
            feed.sock.on_batch = on_batch
        feed.peer.send(b"one")
        feed.peer.send(b"three")
        feed.poll_until(lambda: seen)
        batch, addresses = seen[0]
        assert addresses == [feed.peer.getsockname()] * 2
        assert len(batch) == 0
        for late in (lambda: batch[0], lambda: batch.data, lambda: batch.lengths, lambda: batch.address(0)):
            with pytest.raises(ValueError, match="has returned"):
                late()


def test_records_of_one_size_are_an_array(group, thread):
    message = np.dtype([("price", "<f8"), ("size", "<u4"), ("symbol", "<u4")])
    arrays = []
    with Feed(group, thread, datagram_bytes=message.itemsize) as feed:
        with thread:
            feed.sock.on_batch = lambda sock, batch: arrays.append(np.frombuffer(batch.data, message))
        for number in range(10):
            feed.peer.send(struct.pack("<dII", number / 2, number, 7))
        feed.poll_until(lambda: sum(map(len, arrays)) == 10)
        # Kept arrays go on showing what they showed.
        feed.peer.send(struct.pack("<dII", 99, 99, 99))
        feed.poll_until(lambda: sum(map(len, arrays)) == 11)
        together = np.concatenate(arrays)
        assert list(together["price"]) == [*(number / 2 for number in range(10)), 99]
        assert list(together["size"]) == [*range(10), 99]


def test_a_longer_datagram_is_cut_off_and_counted(group, thread):
    marks = []

    def on_batch(sock, batch):
        marks.extend((bytes(batch[index]), batch.is_truncated(index)) for index in range(len(batch)))

    with Feed(group, thread, datagram_bytes=4) as feed:
        with thread:
            feed.sock.on_batch = on_batch
        for data in (b"1234", b"12345", b"1"):
            feed.peer.send(data)
        feed.poll_until(lambda: len(marks) == 3)
        assert marks == [(b"1234", False), (b"1234", True), (b"1", False)]
        assert feed.sock.truncated == 1


def test_a_batch_has_at_most_so_many(group, thread):
    with Feed(group, thread, batch=8) as feed:
        for number in range(20):
            feed.peer.send(b"%d" % number)
        feed.poll_until(lambda: len(feed.heard) == 20)
        assert feed.batches == [8, 8, 4]
        assert feed.heard == [b"%d" % number for number in range(20)]


def test_what_is_sent_in_a_turn_goes_in_one_call(group, thread):
    with Feed(group, thread) as feed, thread:
        address = feed.peer.getsockname()
        for number in range(50):
            feed.sock.send(b"%d" % number, address)
        assert (feed.sock.pending_datagrams, feed.sock.pending_bytes) == (50, 90)
        thread.poll()
        assert [feed.peer.recv(10) for _ in range(50)] == [b"%d" % number for number in range(50)]
        channel = group.get_io_channel()
        stats = channel.ctx.stats
        channel.put()
        assert (stats["datagram_writes"], stats["datagrams_out"], stats["datagram_bytes_out"]) == (1, 50, 90)
        assert (feed.sock.datagrams_out, feed.sock.bytes_out, feed.sock.pending_datagrams) == (50, 90, 0)
        assert (stats["datagram_socks"], stats["socks"], stats["buffered"]) == (1, 1, 0)


def test_an_array_is_sent_as_many_datagrams(group, thread):
    with Feed(group, thread) as feed, thread:
        numbers = np.arange(100, dtype="<u8")
        assert feed.sock.send_many(numbers, 8, feed.peer.getsockname()) == 100
        assert feed.sock.send_many(b"12345", 2, feed.peer.getsockname()) == 3
        thread.poll()
        assert [int.from_bytes(feed.peer.recv(100), "little") for _ in range(100)] == list(range(100))
        assert [feed.peer.recv(100) for _ in range(3)] == [b"12", b"34", b"5"]
        for wrong in (0, 65536):
            with pytest.raises(ValueError, match="datagram_bytes"):
                feed.sock.send_many(b"x", wrong)
        with pytest.raises(OSError, match="not connected"):
            feed.sock.send_many(b"x", 1)


def test_a_handler_answers_each_sender(group, thread):
    def on_batch(sock, batch):
        for index, data in enumerate(batch):
            batch.reply(index, bytes(data).upper())

    with Feed(group, thread) as feed:
        with thread:
            feed.sock.on_batch = on_batch
        feed.peer.send(b"hello")
        feed.poll_until(lambda: feed.sock.datagrams_out)
        assert feed.peer.recv(10) == b"HELLO"


def test_over_ipv6(group, thread):
    if not socket.has_ipv6:
        return
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return  # a machine without it has nothing to show
    with Feed(group, thread, "::1") as feed:
        addresses = []
        with thread:
            feed.sock.on_batch = lambda sock, batch: addresses.extend(batch.addresses)
        feed.peer.send(b"hello")
        feed.poll_until(lambda: addresses)
        assert addresses == [feed.peer.getsockname()]
        with thread:
            feed.sock.send(b"there", addresses[0])
            thread.poll()
            with pytest.raises(ValueError, match="no IPv6 address"):
                feed.sock.send(b"x", ("127.0.0.1", 1))
        assert feed.peer.recv(10) == b"there"


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_native_handler_echoes_without_python(group, thread, one_by_one):
    with Feed(group, thread, batch=16) as feed:
        with thread:
            feed.sock.set_native(echo.on_datagram)
            if one_by_one:
                channel = group.get_io_channel()
                channel.ctx.datagrams._set_one_by_one()
                channel.put()
        sent = [b"%d" % number * number for number in range(100)]
        for data in sent:
            feed.peer.send(data)
        feed.poll_until(lambda: feed.sock.datagrams_out == 100)
        assert [feed.peer.recv(1000) for _ in sent] == sent
        assert feed.heard == []


def test_a_kernel_without_calls_for_many_is_asked_one_by_one(group, thread):
    with Feed(group, thread, batch=8) as feed:
        with thread:
            channel = group.get_io_channel()
            channel.ctx.datagrams._set_one_by_one()
            assert channel.ctx.datagrams.one_by_one
            channel.put()
        for number in range(20):
            feed.peer.send(b"%d" % number)
        feed.poll_until(lambda: len(feed.heard) == 20)
        assert feed.batches == [8, 8, 4]
        with thread:
            assert feed.sock.send_many(b"abcdef", 2, feed.peer.getsockname()) == 3
            thread.poll()
        assert [feed.peer.recv(10) for _ in range(3)] == [b"ab", b"cd", b"ef"]


def test_what_a_native_handler_rejects_is_counted(group, thread):
    lengths = []

    @DATAGRAM
    def handler(ctx, sock, data, length):
        lengths.append((length, ctypes.string_at(data, length), ctypes.cast(ctx, ctypes.POINTER(ctypes.c_int))[0]))
        return -1 if length > 3 else 0

    number = ctypes.c_int(7)
    with Feed(group, thread) as feed:
        with thread:
            feed.sock.set_native(handler, number)
            with pytest.raises(TypeError, match="must be named"):
                feed.sock.set_native(capsule(1, b"void (void *)"))
        for data in (b"one", b"three", b""):
            feed.peer.send(data)
        feed.poll_until(lambda: len(lengths) == 3)
        assert lengths == [(3, b"one", 7), (5, b"three", 7), (0, b"", 7)]
        assert feed.sock.rejected == 1
        assert feed.sock.state == "open"


@pytest.mark.skipif(FFI is None, reason="there is no cffi for this Python")
def test_a_function_of_cffi_is_a_native_handler(group, thread):
    kind = "int(*)(void *, void *, const uint8_t *, size_t)"
    heard = []
    function = FFI.callback(kind, lambda ctx, sock, data, length: heard.append(FFI.buffer(data, length)[:]) or 0)
    with Feed(group, thread) as feed:
        with thread:
            feed.sock.set_native(function)
            with pytest.raises(TypeError, match="signature"):
                feed.sock.set_native(FFI.callback("void(*)(void *)", print))
        feed.peer.send(b"hello")
        feed.poll_until(lambda: heard == [b"hello"])


def test_without_a_handler_nothing_is_read(group, thread):
    heard = []
    with thread:
        sock = group.open_datagram(LOCAL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"hello", sock.sockname())
        for _ in range(5):
            thread.poll()
        assert sock.datagrams_in == 0
        with thread:
            sock.on_batch = lambda sock, batch: heard.extend(map(bytes, batch))
        poll_until(group.lib, lambda: heard)
        with thread:
            sock.pause_reading()
            assert sock.is_paused
        peer.sendto(b"later", sock.sockname())
        for _ in range(5):
            thread.poll()
        assert heard == [b"hello"]
        with thread:
            sock.resume_reading()
        poll_until(group.lib, lambda: len(heard) == 2)
        with pytest.raises(TypeError, match="callable"):
            sock.on_batch = 1


def test_several_sockets_of_a_thread(group, thread):
    feeds = [Feed(group, thread) for _ in range(5)]
    for number, feed in enumerate(feeds):
        feed.peer.send(b"%d" % number)
    poll_until(group.lib, lambda: all(feed.heard for feed in feeds))
    assert [feed.heard for feed in feeds] == [[b"%d" % number] for number in range(5)]
    with thread:
        feeds[0].sock.close()
        feeds[1].sock.abort()
    feeds[4].peer.send(b"more")
    poll_until(group.lib, lambda: len(feeds[4].heard) == 2 and feeds[0].closed and feeds[1].closed)
    assert feeds[0].closed == feeds[1].closed == [None]
    for feed in feeds:
        feed.peer.close()


def test_more_than_may_wait_is_refused_and_room_is_told(make_group, thread):
    group = make_group(max_sock_bytes=1000)
    low = []
    with Feed(group, thread) as feed:
        feed.sock.on_low_water = lambda sock: low.append(sock.pending_datagrams)
        address = feed.peer.getsockname()
        with thread:
            with pytest.raises(SockBufferError, match="on_low_water"):
                feed.sock.send(b"x" * 990, address)
            feed.sock.send(b"x" * 900, address)
            # Empty ones are not for nothing.
            with pytest.raises(SockBufferError):
                for _ in range(3):
                    feed.sock.send(b"", address)
            assert feed.sock.send_many(b"x" * 10, 1, address) == 0
        feed.poll_until(lambda: low)
        assert low == [0]
        assert len(feed.peer.recv(2000)) == 900
        with thread:
            feed.sock.send(b"again", address)


def test_the_groups_limit_counts_all_sockets(make_group, thread):
    group = make_group(max_buffered_bytes=1000)
    with Feed(group, thread) as one, Feed(group, thread) as other, thread:
        one.sock.send(b"x" * 600, one.peer.getsockname())
        with pytest.raises(SockBufferError):
            other.sock.send(b"x" * 600, one.peer.getsockname())
        thread.poll()
        other.sock.send(b"x" * 600, one.peer.getsockname())


def test_sockets_beyond_the_limit_are_refused(make_group, thread):
    group = make_group(max_socks=2)
    with thread:
        group.open_datagram(LOCAL)
        first = group.open_datagram(LOCAL)
        with pytest.raises(SockLimitError, match="2 sockets"):
            group.open_datagram(LOCAL)
        with pytest.raises(SockLimitError):
            group.connect(LOCAL)
        first.close()
        thread.poll()
        group.open_datagram(LOCAL)


def test_a_port_that_is_closed_is_an_error_that_closes_nothing(group, thread):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(LOCAL)
        address = gone.getsockname()
    errors = []
    with thread:
        sock = group.open_datagram(remote=address, on_batch=lambda sock, batch: None)
        sock.on_error = lambda sock, error: errors.append(error)
        assert sock.peername() == address
        sock.send(b"anyone?")
    poll_until(group.lib, lambda: errors)
    assert errors[0].errno == errno.ECONNREFUSED
    assert isinstance(errors[0], ConnectionRefusedError)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(address)
        back.settimeout(PATIENCE_S)
        with thread:
            sock.send(b"now")
            thread.poll()
        assert back.recv(10) == b"now"
    assert sock.state == "open"


def test_one_that_cannot_be_sent_does_not_hold_up_the_others(group, thread):
    with Feed(group, thread) as feed:
        address = feed.peer.getsockname()
        with thread:
            feed.sock.send(b"before", address)
            feed.sock.send(b"x" * 65535, address)  # more than IPv4 has room for
            feed.sock.send(b"after", address)
            with pytest.raises(OSError, match="larger than any") as caught:
                feed.sock.send(b"x" * 65536, address)
            assert caught.value.errno == errno.EMSGSIZE
        feed.poll_until(lambda: feed.errors)
        assert [error.errno for error in feed.errors] == [errno.EMSGSIZE]
        assert (feed.sock.errors, feed.sock.datagrams_out) == (1, 2)
        assert [feed.peer.recv(10), feed.peer.recv(10)] == [b"before", b"after"]


def test_close_sends_what_waits_and_is_told_last(group, thread):
    with Feed(group, thread) as feed:
        with thread:
            for number in range(200):
                feed.sock.send(b"%d" % number, feed.peer.getsockname())
            feed.sock.close()
            assert feed.sock.state == "closing"
            with pytest.raises(SockClosedError):
                feed.sock.send(b"x", feed.peer.getsockname())
        feed.poll_until(lambda: feed.closed)
        assert [feed.peer.recv(10) for _ in range(200)] == [b"%d" % number for number in range(200)]
        assert (feed.closed, feed.sock.state, feed.sock.fileno()) == ([None], "closed", -1)
        feed.sock.close()
        feed.sock.abort()
        for late in (feed.sock.sockname, feed.sock.pause_reading, lambda: feed.sock.dropped):
            with pytest.raises(SockClosedError):
                late()


def test_thousands_are_sent_in_their_order(group, thread):
    """More than one turn sends, and more than the kernel takes at once."""
    with Feed(group, thread) as feed:
        feed.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        feed.peer.setblocking(False)
        numbers, got = np.arange(3000, dtype="<u4"), []

        def read():
            try:
                while True:
                    got.append(int.from_bytes(feed.peer.recv(100), "little"))
            except BlockingIOError:
                return feed.sock.datagrams_out == 3000

        with thread:
            assert feed.sock.send_many(numbers, 4, feed.peer.getsockname()) == 3000
        feed.poll_until(read)
        read()
        assert got == sorted(got)
        assert len(got) > 100  # the kernel drops what does not fit into the buffer of the socket


def test_a_descriptor_that_was_closed_elsewhere_ends_the_socket(group, thread):
    with Feed(group, thread) as feed:
        os.close(feed.sock.fileno())
        with thread:
            feed.sock.send(b"x", feed.peer.getsockname())
        feed.poll_until(lambda: feed.closed)
        assert [error.errno for error in feed.closed] == [errno.EBADF]


def test_what_a_handler_raises_is_reported_and_the_socket_goes_on(group, thread, errors):
    with Feed(group, thread) as feed:
        with thread:
            feed.sock.on_batch = lambda sock, batch: 1 / 0
        feed.peer.send(b"x")
        feed.poll_until(lambda: errors)
        assert errors.types == [ZeroDivisionError]
        errors.clear()
        with thread:
            feed.sock.on_batch = feed.batch
        feed.peer.send(b"y")
        feed.poll_until(lambda: feed.heard == [b"y"])


def test_a_handler_may_close_its_socket(group, thread):
    with Feed(group, thread) as feed:

        def on_batch(sock, batch):
            sock.close()
            assert bytes(batch[0]) == b"x"

        with thread:
            feed.sock.on_batch = on_batch
        feed.peer.send(b"x")
        feed.poll_until(lambda: feed.closed)
        assert feed.closed == [None]


def test_the_kernels_drops_are_counted(group, thread):
    with Feed(group, thread, receive_buffer_bytes=4096) as feed:
        with thread:
            feed.sock.pause_reading()
        for _ in range(100):
            feed.peer.send(b"x" * 1000)
        dropped = feed.sock.dropped
        assert dropped is None or 0 < dropped < 100
        with thread:
            feed.sock.resume_reading()
        feed.poll_until(lambda: dropped is None or len(feed.heard) == 100 - dropped)


def test_a_port_shared_by_two_threads(group, lib, thread):
    other = lib.create_thread("other")
    one = Feed(group, thread, reuse_port=True)
    with other:
        heard = []
        sock = group.open_datagram(
            one.sock.sockname(), reuse_port=True, on_batch=lambda sock, batch: heard.extend(map(bytes, batch))
        )
        with pytest.raises(OSError, match="in use"):
            group.open_datagram(one.sock.sockname())
    peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
    for peer in peers:
        peer.sendto(b"x", sock.sockname())
        peer.close()
    poll_until(lib, lambda: len(heard) + len(one.heard) == 64)
    assert heard
    assert one.heard
    one.peer.close()


def test_a_multicast_group(group, thread):
    with Feed(group, thread, "0.0.0.0") as feed:
        address = ("239.255.77.7", feed.sock.sockname()[1])
        with thread:
            feed.sock.join(address[0], "127.0.0.1")
            with pytest.raises(OSError, match="in use"):
                feed.sock.join(address[0], "127.0.0.1")
            with pytest.raises(OSError):
                feed.sock.join("not an address")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            peer.sendto(b"to all", address)
        feed.poll_until(lambda: feed.heard)
        assert feed.heard == [b"to all"]
        with thread:
            feed.sock.leave(address[0], "127.0.0.1")


def test_what_is_opened_wrongly(group, thread):
    with pytest.raises(NoThreadError):
        group.open_datagram(LOCAL)
    with thread:
        for wrong in ("127.0.0.1", ("127.0.0.1",), 5):
            with pytest.raises(TypeError, match="local"):
                group.open_datagram(wrong)
        with pytest.raises(OSError):
            group.open_datagram(("localhost.invalid", 0))
        with pytest.raises(OSError):
            group.open_datagram(("203.0.113.1", 0))
        for options in ({"batch": 0}, {"batch": 1025}, {"datagram_bytes": 0}, {"datagram_bytes": 65537}):
            with pytest.raises(ValueError):
                group.open_datagram(LOCAL, **options)
        for options in ({"batch": 1.5}, {"datagram_bytes": True}, {"on_batch": 1}):
            with pytest.raises(TypeError):
                group.open_datagram(LOCAL, **options)
    for kind in (DatagramSock, DatagramBatch):
        with pytest.raises(TypeError):
            kind()


def test_what_is_sent_wrongly(group, thread):
    with thread:
        sock = group.open_datagram(LOCAL)
        with pytest.raises(OSError, match="not connected"):
            sock.send(b"x")
        for wrong in (5, ("127.0.0.1",), (1, 2), ("127.0.0.1", "53"), ("127.0.0.1", True)):
            with pytest.raises(TypeError):
                sock.send(b"x", wrong)
        for wrong in (("127.0.0.1", 0), ("127.0.0.1", 65536), ("localhost", 1), ("::1", 1)):
            with pytest.raises(ValueError):
                sock.send(b"x", wrong)
        with pytest.raises(TypeError):
            sock.send("text", ("127.0.0.1", 1))
    with pytest.raises(WrongThreadError, match="send of"):
        OtherThread(sock.send, b"x", ("127.0.0.1", 1)).outcome()


def test_a_channel_that_goes_leaves_no_descriptor(make_group, lib, thread):
    descriptors = []
    gc.disable()
    try:
        for _ in range(3):
            group = make_group()
            with thread:
                group.open_datagram(LOCAL)
                group.close_all()
            poll_until(lib, lambda group=group: group.channels_count == 0)
            descriptors.append(len(os.listdir("/dev/fd")))
    finally:
        gc.enable()
    assert descriptors[1] == descriptors[2]  # the first had the thread open what it keeps


def test_an_exiting_thread_serves_its_sockets_and_names_them(group, lib, thread):
    with Feed(group, thread) as feed:
        with thread:
            thread.exit()
        feed.peer.send(b"still here")
        feed.poll_until(lambda: feed.heard)
        assert thread.state == "exiting"
        assert any("datagram socket fd" in words for words in thread.exit_blockers)
        with thread:
            feed.sock.close()
        for _ in range(20):
            thread.poll()
        assert thread.is_exited
        lib.create_thread("last")


def test_a_reactor_sleeps_beside_its_datagrams_and_is_woken_by_them(live_lib, reactor):
    group = SockGroup(lib=live_lib).register()
    thread = reactor.create_thread("net")

    def on_batch(sock, batch):
        for index, data in enumerate(batch):
            batch.reply(index, bytes(data))

    sock = thread.call(lambda: group.open_datagram(LOCAL, on_batch=on_batch)).result(PATIENCE_S)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(PATIENCE_S)
        peer.connect(sock.sockname())
        for number in range(50):
            peer.send(b"%d" % number)
            assert peer.recv(100) == b"%d" % number
        parks = reactor.stats.parks
        eventually(lambda: reactor.stats.parks > parks)
        peer.send(b"wake up")
        assert peer.recv(100) == b"wake up"
    group.close_all().result(PATIENCE_S)
    group.unregister().result(PATIENCE_S)


def test_the_child_of_a_fork_has_no_datagram_sockets_and_its_parent_keeps_them():
    result = run_python(
        """
import os, socket
from spdkthread import SpdkThread
from spdkthread.sock import SockGroup
group = SockGroup("net").register()
thread = SpdkThread("net")
heard = []
def on_batch(sock, batch):
    heard.extend(map(bytes, batch))
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with thread:
    sock = group.open_datagram(("127.0.0.1", 0), on_batch=on_batch)
    address = sock.sockname()
    peer.sendto(b"before", address)
    while not heard:
        thread.poll()
    child = os.fork()
    if child == 0:
        assert sock.state == "closed", sock
        other = group.open_datagram(("127.0.0.1", 0), on_batch=on_batch)
        peer.sendto(b"child", other.sockname())
        while len(heard) < 2:
            thread.poll()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    peer.sendto(b"after", address)
    while len(heard) < 2:
        thread.poll()
    print(heard)
    group.close_all()
    group.unregister()
    for _ in range(20):
        thread.poll()
"""
    )
    assert result.stdout == "[b'before', b'after']\n", result.stderr
    assert result.returncode == 0, result.stderr
