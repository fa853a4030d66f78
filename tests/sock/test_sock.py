"""Sockets on SpdkThreads: connections, limits, endings, and peers of every kind."""

import contextlib
import ctypes
import errno
import os
import random
import resource
import socket
import struct
import threading
import time

import pytest
from native_sources import FFI
from support import PATIENCE_S, eventually, finish, run_python

from spdkthread import ThreadExitedError, WrongThreadError
from spdkthread.sock import (
    Listener,
    Sock,
    SockBackendError,
    SockBufferError,
    SockClosedError,
    SockGroup,
    SockLimitError,
    echo,
)
from spdkthread.sock.sock import _refuse_uring

pytestmark = pytest.mark.races

LOCAL = ("127.0.0.1", 0)


@pytest.fixture(params=["epoll", "io_uring"])
def backend(request):
    """Where the kernel refuses io_uring, what would use it uses epoll, and says so."""
    return "epoll" if request.param == "epoll" else "auto"


@pytest.fixture
def make_group(lib, backend):
    """Groups of the library, whose sockets are gone at the end."""
    made = []

    def make(name=None, **options):
        made.append(SockGroup(name, lib=lib, backend=backend, **options).register())
        return made[-1]

    yield make
    for group in made:
        close_group(group, lib)


@pytest.fixture
def group(make_group):
    return make_group("net")


def close_group(group, lib):
    """Abort what is open, and see the device go."""
    if not group.is_registered:
        return
    with lib.threads[0]:
        group.close_all()
        ended = group.unregister()
    poll_until(lib, ended.done)
    ended.result()


def poll_until(lib, predicate):
    give_up = time.monotonic() + PATIENCE_S
    while not predicate():
        for thread in lib.threads:
            thread.poll()
        assert time.monotonic() < give_up, "never became true"


class Server:
    """A listener on `thread` that notes what its connections hear."""

    def __init__(self, group, thread, address=LOCAL, **options):
        self.socks, self.heard, self.ends, self.closed = [], [], [], []
        self.echo = False
        self.thread = thread
        self.lib = group.lib
        with thread:
            self.listener = group.listen(address, self.accepted, **options)
        self.address = self.listener.sockname()

    def accepted(self, sock):
        self.socks.append(sock)
        sock.on_data = self.data
        sock.on_close = lambda sock, error: self.closed.append(error)

    def data(self, sock, view):
        self.heard.append(bytes(view))
        if self.echo:
            sock.write(view)

    def client(self):
        """A connected plain socket and the Sock at the other end."""
        before = len(self.socks)
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        peer = socket.socket(family, socket.SOCK_STREAM)
        peer.settimeout(PATIENCE_S)
        peer.connect(self.address)
        poll_until(self.lib, lambda: len(self.socks) > before)
        return peer, self.socks[-1]

    def poll_until(self, predicate):
        poll_until(self.lib, predicate)


@pytest.fixture
def server(group, thread):
    return Server(group, thread)


def reset(peer):
    """Close a plain socket with a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def receive(peer, count):
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def test_what_is_received_goes_to_the_handler_and_what_is_written_to_the_peer(server):
    server.echo = True
    peer, sock = server.client()
    with peer:
        peer.send(b"hello")
        server.poll_until(lambda: sock.bytes_out == 5)
        assert peer.recv(100) == b"hello"
        assert server.heard == [b"hello"]
        assert (sock.state, sock.bytes_in, sock.bytes_out) == ("open", 5, 5)
        assert sock.peername() == peer.getsockname()
        assert isinstance(sock, Sock)
        assert isinstance(server.listener, Listener)
    server.poll_until(lambda: server.closed)
    assert server.closed == [None]
    assert sock.state == "closed"


def test_a_unix_socket(group, thread, tmp_path):
    path = str(tmp_path / "socket")
    server = Server(group, thread, path)
    server.echo = True
    peer, sock = server.client()
    with peer:
        peer.send(b"hello")
        server.poll_until(lambda: sock.bytes_out == 5)
        assert peer.recv(100) == b"hello"
    with thread:
        server.listener.close()
    server.poll_until(lambda: not os.path.exists(path))


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(group, thread, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    Server(group, thread, path)
    with thread, pytest.raises(OSError, match="in use"):
        group.listen(path, print)


def test_the_view_is_released_after_the_call(server):
    views = []
    peer, sock = server.client()
    sock.on_data = lambda sock, view: views.append(view)
    with peer:
        peer.send(b"hello")
        server.poll_until(lambda: views)
        with pytest.raises(ValueError, match="released"):
            bytes(views[0])


def test_what_a_handler_kept_of_the_view_goes_on_showing_its_bytes(server):
    kept = []
    peer, sock = server.client()
    sock.on_data = lambda sock, view: kept.append(view[:])
    with peer:
        for number in range(3):
            peer.send(b"message %d" % number)
            server.poll_until(lambda number=number: len(kept) > number)
        assert [bytes(view) for view in kept] == [b"message 0", b"message 1", b"message 2"]


def test_any_number_of_views_may_be_kept(server):
    """More than there are buffers that the kernel chooses from."""
    kept = []
    peer, sock = server.client()
    sock.on_data = lambda sock, view: kept.append(view[:])
    with peer:
        for number in range(300):
            peer.send(b"%03d" % number)
            server.poll_until(lambda number=number: len(kept) > number)
        assert [bytes(view) for view in kept] == [b"%03d" % number for number in range(300)]


def test_writes_of_one_turn_are_sent_at_once(server):
    peer, sock = server.client()
    with peer, server.thread:
        channel = sock.group.get_io_channel()
        before = channel.ctx.stats["writes"]
        for number in range(100):
            sock.write(b"%02d" % number)
        assert sock.pending_bytes == 200
        server.thread.poll()
        assert receive(peer, 200) == b"".join(b"%02d" % number for number in range(100))
        assert channel.ctx.stats["writes"] == before + 1
        channel.put()


def test_the_writes_of_a_turn_go_by_one_call(server):
    """Over io_uring; over epoll it is one for each connection that was written to."""
    clients = [server.client() for _ in range(10)]
    with server.thread:
        channel = server.listener.group.get_io_channel()
        before = channel.ctx.stats
        for _, sock in clients:
            sock.write(b"hello")
        server.thread.poll()
        after = channel.ctx.stats
        assert after["writes"] == before["writes"] + 10
        assert after["calls"] - before["calls"] == (server.listener.group.backend == "io_uring")
        channel.put()
    for peer, _ in clients:
        assert receive(peer, 5) == b"hello"
        peer.close()


def test_a_write_of_megabytes_arrives_whole_and_the_water_marks_are_told(group, thread):
    server = Server(group, thread)
    peer, sock = server.client()
    told = []
    sock.on_high_water = lambda sock: told.append(("high", sock.pending_bytes > 64 << 10))
    sock.on_low_water = lambda sock: told.append(("low", sock.pending_bytes <= 16 << 10))
    data = os.urandom(1 << 20) * 8
    peer.setblocking(False)
    got = bytearray()

    def read():
        try:
            got.extend(peer.recv(1 << 20))
        except BlockingIOError:
            pass
        return len(got) == len(data)

    with peer:
        with thread:
            sock.write(data)
        assert told == [("high", True)]
        server.poll_until(read)
        assert bytes(got) == data
        server.poll_until(lambda: len(told) == 2)
        assert told[1] == ("low", True)


def test_more_than_the_limit_is_refused_with_no_effect(make_group, thread):
    group = make_group(max_sock_bytes=1000)
    server = Server(group, thread)
    peer, sock = server.client()
    with peer:
        with thread:
            sock.write(b"x" * 900)
            with pytest.raises(SockBufferError, match="101 bytes"):
                sock.write(b"y" * 101)
            sock.write(b"z" * 100)
        thread.poll()
        assert receive(peer, 1000) == b"x" * 900 + b"z" * 100


def test_the_groups_limit_counts_all_sockets(make_group, thread):
    group = make_group(max_buffered_bytes=1000)
    server = Server(group, thread)
    (peer, sock), (other_peer, other) = server.client(), server.client()
    with peer, other_peer, thread:
        sock.write(b"x" * 600)
        with pytest.raises(SockBufferError):
            other.write(b"x" * 600)
        thread.poll()
        other.write(b"x" * 600)


def test_connections_beyond_the_limit_are_refused(make_group, thread, caplog):
    group = make_group(max_socks=3)  # the listener is one
    server = Server(group, thread)
    peers = [server.client()[0] for _ in range(2)]
    with socket.create_connection(server.address, timeout=PATIENCE_S) as refused:
        with group.lib.threads[0]:
            channel = group.get_io_channel()
        server.poll_until(lambda: channel.ctx.stats["refused"])
        assert refused.recv(1) == b""
        with thread, pytest.raises(SockLimitError):
            group.connect(server.address)
        with thread:
            channel.put()
    assert "refuses a connection" in caplog.text
    for peer in peers:
        peer.close()


def test_nothing_is_delivered_while_paused(server):
    peer, sock = server.client()
    with peer:
        with server.thread:
            sock.pause_reading()
        peer.send(b"hello")
        for _ in range(20):
            server.thread.poll()
        assert server.heard == []
        with server.thread:
            sock.resume_reading()
        server.poll_until(lambda: server.heard)
        assert server.heard == [b"hello"]


def test_a_socket_that_another_ones_handler_pauses_keeps_its_bytes(server):
    (peer, sock), (other_peer, other) = server.client(), server.client()
    heard = []

    def pause_both(who, view):
        heard.append((who, bytes(view)))
        for one in (sock, other):
            one.pause_reading()

    sock.on_data = other.on_data = pause_both
    with peer, other_peer:
        peer.send(b"a")
        other_peer.send(b"b")
        for _ in range(20):
            server.thread.poll()
        assert len(heard) == 1
        other_peer.send(b"c")
        with server.thread:
            sock.resume_reading()
            other.resume_reading()
        server.poll_until(lambda: len(heard) == 2)
        with server.thread:
            sock.resume_reading()
            other.resume_reading()
        server.poll_until(lambda: sum(len(data) for _, data in heard) == 3)
        assert b"".join(data for who, data in heard if who is other) == b"bc"


def test_what_came_before_there_was_a_handler_goes_to_it(server):
    peer, sock = server.client()
    sock.on_data = None
    with peer:
        peer.send(b"early")
        for _ in range(10):
            server.thread.poll()
        with server.thread:
            sock.on_data = server.data
        server.poll_until(lambda: server.heard)
        peer.send(b"late")
        server.poll_until(lambda: len(server.heard) == 2)
        assert server.heard == [b"early", b"late"]


def test_half_closed_both_ways(server):
    peer, sock = server.client()
    ended = []
    sock.on_end = ended.append
    with peer:
        peer.send(b"question")
        peer.shutdown(socket.SHUT_WR)
        server.poll_until(lambda: ended)
        assert server.heard == [b"question"]
        with server.thread:
            sock.write(b"answer")
            sock.shutdown_write()
            with pytest.raises(SockClosedError):
                sock.write(b"more")
        server.thread.poll()
        assert receive(peer, 100) == b"answer"
        with server.thread:
            sock.close()
    server.poll_until(lambda: server.closed)
    assert server.closed == [None]


def test_close_sends_what_was_written(server):
    peer, sock = server.client()
    data = b"x" * (4 << 20)
    with peer:
        with server.thread:
            sock.write(data)
            sock.close()
            sock.close()
            assert sock.state == "closing"
        peer.setblocking(False)
        got = 0

        def read():
            nonlocal got
            try:
                more = peer.recv(1 << 20)
            except BlockingIOError:
                return False
            got += len(more)
            return not more

        server.poll_until(read)
        assert got == len(data)
    server.poll_until(lambda: server.closed)


def test_abort_resets(server):
    peer, sock = server.client()
    with peer:
        with server.thread:
            sock.write(b"never sent")
            sock.abort()
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    server.poll_until(lambda: server.closed)
    assert server.closed == [None]
    with server.thread, pytest.raises(SockClosedError):
        sock.write(b"x")


def test_a_reset_by_the_peer_is_an_error(server):
    peer, sock = server.client()
    reset(peer)
    server.poll_until(lambda: server.closed)
    assert isinstance(server.closed[0], ConnectionResetError)


@pytest.mark.parametrize("step", ["before accept", "after accept", "while paused", "while written to"])
def test_a_peer_that_resets_at_any_step_leaves_nothing_behind(server, step):
    for _ in range(5):
        if step == "before accept":
            reset(socket.create_connection(server.address))
            for _ in range(20):
                server.thread.poll()
            continue
        peer, sock = server.client()
        with server.thread:
            if step == "while paused":
                sock.pause_reading()
            if step == "while written to":
                sock.write(b"x" * (4 << 20))
        server.thread.poll()
        reset(peer)
        if step == "while paused":
            with server.thread:
                for _ in range(5):
                    server.thread.poll()
                sock.resume_reading()
    server.poll_until(lambda: all(sock.state == "closed" for sock in server.socks))
    server.poll_until(lambda: len(server.closed) == len(server.socks))


def test_a_connection_of_ones_own(server, group, thread):
    server.echo = True
    heard, events = [], []
    with thread:
        sock = group.connect(
            server.address,
            on_connect=lambda sock: events.append("connected"),
            on_data=lambda sock, view: heard.append(bytes(view)),
            on_close=lambda sock, error: events.append(error),
        )
        sock.write(b"early")
        server.poll_until(lambda: heard == [b"early"])
        sock.close()
    server.poll_until(lambda: len(events) == 2)
    assert events == ["connected", None]


def test_a_name_is_resolved_off_the_thread(group, thread, server):
    events = []
    with thread:
        group.connect(("localhost", server.address[1]), on_connect=lambda sock: events.append("connected"))
    server.poll_until(lambda: events)


def test_a_connection_that_is_refused_is_an_error_to_on_close(group, thread, lib):
    with socket.socket() as unused:
        unused.bind(LOCAL)
        address = unused.getsockname()
    errors = []
    with thread:
        group.connect(address, on_close=lambda sock, error: errors.append(error))
        group.connect(("no-such-host.invalid", 1), on_close=lambda sock, error: errors.append(error))
        group.connect("/no/such/socket", on_close=lambda sock, error: errors.append(error))
    poll_until(lib, lambda: len(errors) == 3)
    assert {ConnectionRefusedError, FileNotFoundError} <= {type(error) for error in errors}
    assert all(isinstance(error, OSError) for error in errors)


def test_a_connection_moves_with_all_its_bytes(server, lib):
    other = lib.create_thread("other")
    peer, sock = server.client()
    moved = []

    def arrived(one):
        moved.append(one.thread)
        one.on_data = lambda one, view: one.write(bytes(view).upper())

    with peer:
        with server.thread:
            sock.write(b"from the first, ")
            peer.send(b"abc")
            sock.move_to(other, arrived)
            with pytest.raises(SockClosedError, match="on its way"):
                sock.write(b"x")
        server.poll_until(lambda: sock.bytes_out == 19)
        assert receive(peer, 19) == b"from the first, ABC"
        assert moved == [other]
        with server.thread, pytest.raises(WrongThreadError):
            sock.close()
    server.poll_until(lambda: server.closed)


def test_a_connection_that_its_own_handler_moves_keeps_what_comes_after(server, lib):
    other = lib.create_thread("other")
    peer, sock = server.client()
    heard = []

    def here(one, view):
        heard.append((one.thread.name, bytes(view)))
        one.on_data = there
        one.move_to(other)

    def there(one, view):
        heard.append((one.thread.name, bytes(view)))

    sock.on_data = here
    with peer:
        peer.send(b"1")
        server.poll_until(lambda: heard)
        peer.send(b"2")
        server.poll_until(lambda: len(heard) == 2)
    assert heard == [("net", b"1"), ("other", b"2")]
    server.poll_until(lambda: server.closed)


def test_a_connection_is_not_moved_to_a_thread_that_has_exited(server, lib):
    other = lib.create_thread("other")
    finish(other)
    peer, sock = server.client()
    with peer, server.thread:
        with pytest.raises(ThreadExitedError):
            sock.move_to(other)
        sock.write(b"still here")
        server.thread.poll()
        assert receive(peer, 10) == b"still here"


def test_accepted_connections_are_handed_over_in_turn(group, thread, lib):
    others = [lib.create_thread(f"worker {number}") for number in range(2)]
    server = Server(group, thread, threads=others)
    peers = [server.client()[0] for _ in range(4)]
    assert [sock.thread for sock in server.socks] == others * 2
    for peer in peers:
        peer.close()
    server.poll_until(lambda: len(server.closed) == 4)


def test_two_threads_listen_on_one_port(group, thread, lib):
    other = lib.create_thread("other")
    first = Server(group, thread, reuse_port=True)
    second = Server(group, other, first.address, reuse_port=True)
    peers = [socket.create_connection(first.address) for _ in range(40)]
    poll_until(lib, lambda: len(first.socks) + len(second.socks) == 40)
    assert first.socks
    assert second.socks
    for peer in peers:
        peer.close()
    poll_until(lib, lambda: len(first.closed) + len(second.closed) == 40)


def test_descriptors_run_out_at_accept_and_come_back(server, clock, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    peers = [socket.socket() for _ in range(3)]
    fillers = []
    # An accept that is in the kernel keeps the limit with which it began.
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server.thread.poll()
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        for peer in peers:
            peer.connect(server.address)
        for _ in range(10):
            server.thread.poll()
        assert server.socks == []
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "accepts nothing" in caplog.text
    clock.advance(us=100_000)
    server.poll_until(lambda: len(server.socks) == 3)
    for peer in peers:
        peer.close()


def test_a_thousand_connections(group, thread, lib):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(4096, hard) if hard != resource.RLIM_INFINITY else 4096
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    server = Server(group, thread)
    server.echo = True
    try:
        peers = []
        for _ in range(1000):
            peers.append(socket.create_connection(server.address))
            thread.poll()
        server.poll_until(lambda: len(server.socks) == 1000)
        for number, peer in enumerate(peers):
            peer.send(b"%04d" % number)
        server.poll_until(lambda: sum(sock.bytes_out for sock in server.socks) == 4000)
        for number, peer in enumerate(peers):
            assert peer.recv(100) == b"%04d" % number
        for peer in peers:
            reset(peer)
        server.poll_until(lambda: len(server.closed) == 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_exiting_thread_names_its_sockets_and_goes_on_serving_them(server):
    peer, sock = server.client()
    server.echo = True
    with server.thread:
        server.thread.exit()
    with peer:
        blockers = server.thread.exit_blockers
        assert any("listening socket" in text for text in blockers)
        assert any(text.startswith(f"socket fd {sock.fileno()} of 'net', open") for text in blockers)
        peer.send(b"x")
        server.poll_until(lambda: sock.bytes_out == 1)
        assert not server.thread.is_exited
    with server.thread:
        server.listener.close()
        ended = server.listener.group.unregister()
    server.poll_until(lambda: server.thread.is_exited)
    assert ended.done()


def test_a_handler_that_fails_is_reported_and_the_connection_goes_on(server, errors):
    peer, sock = server.client()
    sock.on_data = lambda sock, view: 1 / 0
    with peer:
        peer.send(b"x")
        server.poll_until(lambda: errors)
        assert errors.types == [ZeroDivisionError]
        assert sock.state == "open"


def test_a_socket_belongs_to_its_thread(server):
    peer, sock = server.client()
    with peer:
        for call in (sock.close, sock.abort, sock.pause_reading, sock.shutdown_write, lambda: sock.write(b"x")):
            with pytest.raises(WrongThreadError, match="belongs on"):
                call()


def test_a_flood_does_not_keep_another_connection_waiting(server):
    (flooder, _), (peer, _) = server.client(), server.client()
    server.echo = False
    flooder.setblocking(False)
    with flooder, peer:
        try:
            while True:
                flooder.send(b"x" * 65536)
        except BlockingIOError:
            pass
        peer.send(b"hello")
        for _ in range(3):
            server.thread.poll()
        assert b"hello" in server.heard


@pytest.mark.parametrize("seed", range(3))
def test_no_byte_is_lost_or_out_of_order_whatever_is_done_to_the_connection(server, lib, seed):
    """Paused, resumed, and moved from thread to thread, with bytes on their way at each step."""
    chance = random.Random(seed)
    others = [server.thread, *(lib.create_thread(f"other {number}") for number in range(2))]
    peer, sock = server.client()
    data = chance.randbytes(3 << 20)
    sent = 0
    heard = bytearray()
    sock.on_data = lambda sock, view: heard.extend(view)
    peer.setblocking(False)
    with peer:
        while len(heard) < len(data):
            try:
                sent += peer.send(data[sent : sent + chance.randrange(1, 100_000)])
            except BlockingIOError:
                pass
            step = chance.randrange(6)
            with sock.thread:
                try:
                    if step == 0:
                        sock.pause_reading()
                    elif step == 1:
                        sock.move_to(chance.choice(others))
                    elif step < 4:
                        sock.resume_reading()
                except SockClosedError:
                    pass  # on its way
            chance.choice(others).poll()
            if sent == len(data):
                for thread in others:
                    thread.poll()
        assert bytes(heard) == data
    server.poll_until(lambda: server.closed)


@pytest.mark.parametrize("seed", range(2))
def test_peers_and_handlers_may_do_anything_at_any_moment(group, thread, lib, seed):
    """Every connection is told its end, once, and nothing is left."""
    chance = random.Random(seed)
    threads = [thread, lib.create_thread("other")]
    ended, socks, peers = [], [], []

    def act(sock, view=b"answer"):
        step = chance.randrange(12)
        with contextlib.suppress(SockClosedError, SockBufferError):
            if step < 4:
                sock.write(view)
            elif step == 4:
                sock.write(bytes(chance.randrange(1, 300_000)))
            elif step == 5:
                sock.pause_reading()
            elif step == 6:
                sock.resume_reading()
            elif step == 7:
                sock.close()
            elif step == 8:
                sock.abort()
            elif step == 9:
                sock.shutdown_write()
            elif step == 10:
                sock.move_to(chance.choice(threads))
            else:
                sock.set_native(echo.on_data)

    def accepted(sock):
        socks.append(sock)
        sock.on_data = act
        sock.on_close = lambda sock, error: ended.append(sock)
        if chance.random() < 0.5:
            sock.on_end = act
        if chance.random() < 0.2:
            act(sock)

    def of_the_peer():
        step = chance.randrange(6)
        if step == 0 or not peers:
            peers.append(socket.create_connection(listener.sockname()))
            peers[-1].setblocking(False)
            return
        peer = chance.choice(peers)
        try:
            if step == 1:
                peer.send(bytes(chance.randrange(1, 100_000)))
            elif step == 2:
                peer.send(b"x")
            elif step == 3:
                peer.recv(chance.randrange(1, 100_000))
            elif step == 4:
                peer.shutdown(socket.SHUT_WR)
            else:
                peers.remove(peer)
                chance.choice((reset, socket.socket.close))(peer)
        except OSError:
            pass

    with thread:
        listener = group.listen(LOCAL, accepted, threads=threads)
    for _ in range(600):
        of_the_peer()
        if socks and chance.random() < 0.2:
            sock = chance.choice(socks)
            with sock.thread:
                act(sock)
        for _ in range(chance.randrange(3)):
            chance.choice(threads).poll()
    for peer in peers:
        reset(peer)

    def all_over():
        # One whose peer has only closed its write side, and that is not told what to do then, stays open.
        for sock in socks:
            with sock.thread, contextlib.suppress(SockClosedError):
                sock.abort()
        return len(ended) == len(socks)

    poll_until(lib, all_over)
    assert len(set(ended)) == len(ended)
    assert all(sock.state == "closed" for sock in socks)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts descriptors by /proc")
@pytest.mark.parametrize("moment", ["accepted", "not yet accepted", "flooded", "written to"])
def test_a_group_that_is_given_up_at_any_moment_leaves_no_descriptor(lib, thread, backend, moment):
    # The thread's own set of descriptors stays.
    first = SockGroup(lib=lib, backend=backend).register()
    Server(first, thread)
    close_group(first, lib)
    before = descriptors()
    group = SockGroup(lib=lib, backend=backend).register()
    server = Server(group, thread)
    peers = [server.client()[0] for _ in range(3)]
    if moment == "not yet accepted":
        peers += [socket.create_connection(server.address) for _ in range(100)]
    for peer in peers if moment == "flooded" else ():
        peer.setblocking(False)
        try:
            while True:
                peer.send(bytes(65536))
        except BlockingIOError:
            pass
    if moment == "written to":
        with thread:
            for sock in server.socks:
                sock.write(bytes(4 << 20))
        thread.poll()
    close_group(group, lib)
    for peer in peers:
        peer.close()
    finish(thread)
    assert descriptors() == before


def test_a_thread_that_os_threads_poll_in_turn_goes_on_with_its_connections(server):
    """What the kernel does for a request, it does in the OS thread that has begun it: that may sleep, or have ended."""
    server.echo = True
    peer, sock = server.client()
    go_on = threading.Event()
    expected = 0

    def echoed():
        return sock.bytes_out >= expected

    def elsewhere(stay):
        server.poll_until(echoed)
        done.set()
        if stay:
            go_on.wait(PATIENCE_S)

    helpers = []
    with peer:
        for number in range(6):
            peer.send(b"x")
            expected += 1
            if number % 2:
                server.poll_until(echoed)
            else:
                done = threading.Event()
                helpers.append(threading.Thread(target=elsewhere, args=(number == 2,)))
                helpers[-1].start()
                assert done.wait(PATIENCE_S)
            assert peer.recv(10) == b"x"
        with server.thread:
            sock.abort()
            server.listener.close()
        go_on.set()
        for helper in helpers:
            helper.join(PATIENCE_S)
    server.poll_until(lambda: server.closed)


def test_connections_go_on_when_their_thread_moves_to_another_reactor(live_lib, make_reactor, backend):
    first, second = make_reactor().start(), make_reactor().start()
    group = SockGroup(lib=live_lib, backend=backend).register()
    thread = first.create_thread("net")

    def accepted(sock):
        sock.on_data = lambda sock, view: sock.write(view)

    listener = thread.call(group.listen, LOCAL, accepted).result(PATIENCE_S)
    with socket.create_connection(listener.sockname(), timeout=PATIENCE_S) as peer:
        for number in range(6):
            here, there = (first, second) if number % 2 == 0 else (second, first)
            for _ in range(20):
                peer.send(b"x")
                assert peer.recv(10) == b"x"
            here.move_thread(thread, there).result(PATIENCE_S)
        with socket.create_connection(listener.sockname(), timeout=PATIENCE_S) as another:
            another.send(b"y")
            assert another.recv(10) == b"y"
    group.close_all().result(PATIENCE_S)
    group.unregister().result(PATIENCE_S)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_where_io_uring_is_refused_the_group_says_so_and_uses_epoll(lib, thread, number):
    _refuse_uring(number)
    try:
        with pytest.raises(SockBackendError, match=f"refuses io_uring for sockets with {errno.errorcode[number]}"):
            SockGroup(lib=lib, backend="io_uring")
        group = SockGroup(lib=lib, backend="auto").register()
        assert (group.backend, group.refusal) == ("epoll", errno.errorcode[number])
        assert SockGroup(lib=lib, backend="epoll").refusal is None
    finally:
        _refuse_uring(0)
    server = Server(group, thread)
    peer, _ = server.client()
    peer.close()
    server.poll_until(lambda: server.closed)
    close_group(group, lib)
    later = SockGroup(lib=lib, backend="auto")
    assert later.backend == ("epoll" if later.refusal else "io_uring")


def test_a_ring_that_is_refused_to_a_thread_is_an_error_to_who_wants_a_socket_there(lib, thread):
    group = SockGroup(lib=lib, backend="auto").register()
    _refuse_uring(errno.EMFILE if group.backend == "io_uring" else 0)
    try:
        if group.backend == "io_uring":
            with thread, pytest.raises(OSError, match="no io_uring for the sockets of"):
                group.listen(LOCAL, print)
    finally:
        _refuse_uring(0)
    server = Server(group, thread)
    server.client()[0].close()
    server.poll_until(lambda: server.closed)
    close_group(group, lib)


DATA = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
CLOSE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


def test_a_native_handler(server):
    heard, closed = [], []
    on_data = DATA(lambda ctx, sock, data, length: heard.append((ctx, ctypes.string_at(data, length))) or 0)
    on_close = CLOSE(lambda ctx, sock, error: closed.append((ctx, error)))
    peer, sock = server.client()
    with peer:
        with server.thread:
            sock.set_native(on_data, 7, on_close=on_close)
        peer.send(b"hello")
        server.poll_until(lambda: heard)
        assert heard == [(7, b"hello")]
    server.poll_until(lambda: server.closed)
    assert closed == [(7, 0)]


def test_a_native_handler_gets_what_came_before_it(server):
    server.data = None  # no handler yet
    peer, sock = server.client()
    with peer:
        peer.send(b"early")
        server.poll_until(lambda: sock.bytes_in == 5)
        heard = []
        on_data = DATA(lambda ctx, sock, data, length: heard.append(ctypes.string_at(data, length)) or 0)
        with server.thread:
            sock.set_native(on_data)
        server.poll_until(lambda: heard)
        peer.send(b" late")
        server.poll_until(lambda: len(heard) == 2)
        assert heard == [b"early", b" late"]
    server.poll_until(lambda: server.closed)

    peer, sock = server.client()
    peer.send(b"early")
    server.poll_until(lambda: sock.bytes_in == 5)
    with server.thread:
        sock.set_native(DATA(lambda *args: -1))
    server.poll_until(lambda: len(server.closed) == 2)
    peer.close()


def test_a_native_handler_closes_with_a_negative_result(server):
    peer, sock = server.client()
    with peer:
        with server.thread:
            sock.set_native(DATA(lambda *args: -1))
        peer.send(b"hello")
        server.poll_until(lambda: server.closed)
        assert peer.recv(1) == b""


def test_a_native_handler_has_the_signature(server):
    peer, sock = server.client()
    with peer, server.thread:
        with pytest.raises(TypeError, match="signature"):
            sock.set_native(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda ctx: 0))
        with pytest.raises(TypeError, match="native function"):
            sock.set_native(print)


@pytest.mark.skipif(FFI is None, reason="there is no cffi for this Python")
def test_a_function_of_cffi_is_a_native_handler(server):
    heard = []
    kind = "int(*)(void *, void *, const uint8_t *, size_t)"
    function = FFI.callback(kind, lambda ctx, sock, data, length: heard.append(FFI.buffer(data, length)[:]) or 0)
    peer, sock = server.client()
    with peer:
        with server.thread:
            sock.set_native(function)
        peer.send(b"hello")
        server.poll_until(lambda: heard == [b"hello"])


def test_a_reactor_sleeps_beside_its_sockets_and_is_woken_by_them(live_lib, reactor, backend):
    group = SockGroup(lib=live_lib, backend=backend).register()
    thread = reactor.create_thread("net")
    heard = []

    def accepted(sock):
        sock.on_data = lambda sock, view: sock.write(bytes(view))

    listener = thread.call(group.listen, LOCAL, accepted).result(PATIENCE_S)
    with socket.create_connection(listener.sockname(), timeout=PATIENCE_S) as peer:
        for number in range(50):
            peer.send(b"%d" % number)
            heard.append(peer.recv(100))
        parks = reactor.stats.parks
        eventually(lambda: reactor.stats.parks > parks)
        peer.send(b"wake up")
        assert peer.recv(100) == b"wake up"
    assert heard == [b"%d" % number for number in range(50)]
    group.close_all().result(PATIENCE_S)
    group.unregister().result(PATIENCE_S)


def test_what_is_listened_to_wrongly(group, thread):
    with pytest.raises(Exception, match="none is current"):
        group.listen(LOCAL, print)
    with thread:
        with pytest.raises(TypeError, match="on_accept"):
            group.listen(LOCAL, None)
        with pytest.raises(OSError):
            group.listen(("203.0.113.1", 1), print)
        with pytest.raises(TypeError, match="threads"):
            group.listen(LOCAL, print, threads=[1])
    with pytest.raises(TypeError, match="backend"):
        SockGroup(lib=group.lib, backend=None)
    for options in ({"backend": "smoke signals"}, {"max_socks": 0}, {"high_water_bytes": 1, "low_water_bytes": 2}):
        with pytest.raises(ValueError):
            SockGroup(lib=group.lib, **options)
    with pytest.raises(TypeError):
        SockGroup(lib=group.lib, max_socks=1.5)


def test_the_child_of_a_fork_has_no_sockets_and_its_parent_keeps_them(backend):
    result = run_python(
        f"BACKEND = {backend!r}"
        """
import os, socket
from spdkthread import SpdkThread
from spdkthread.sock import SockGroup
group = SockGroup("net", backend=BACKEND).register()
thread = SpdkThread("net")
socks = []
def accepted(sock):
    socks.append(sock)
    sock.on_data = lambda sock, view: sock.write(bytes(view))
with thread:
    listener = group.listen(("127.0.0.1", 0), accepted)
    peer = socket.create_connection(listener.sockname(), timeout=30)
    while not socks:
        thread.poll()
    child = os.fork()
    if child == 0:
        assert listener.state == "closed" and socks[0].state == "closed", socks
        other = group.listen(("127.0.0.1", 0), accepted)
        mine = socket.create_connection(other.sockname(), timeout=30)
        while len(socks) < 2:
            thread.poll()
        mine.send(b"child")
        while socks[1].bytes_out < 5:
            thread.poll()
        assert mine.recv(10) == b"child"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    peer.send(b"hello")
    while socks[0].bytes_out < 5:
        thread.poll()
    print(peer.recv(100))
    group.close_all()
    group.unregister()
    for _ in range(20):
        thread.poll()
"""
    )
    assert result.stdout == "b'hello'\n", result.stderr
    assert result.returncode == 0, result.stderr


def test_the_standard_descriptors_are_not_taken(backend):
    result = run_python(
        f"BACKEND = {backend!r}"
        """
import os, socket
from spdkthread import SpdkThread
from spdkthread.sock import SockGroup
group = SockGroup("net", backend=BACKEND).register()
thread = SpdkThread("net")
socks = []
with thread:
    os.close(0)
    listener = group.listen(("127.0.0.1", 0), socks.append)
    peer = socket.socket()
    if peer.fileno() < 3:
        spare = peer.dup()
        peer.close()
        peer = spare
    peer.connect(listener.sockname())
    while not socks:
        thread.poll()
    assert listener.fileno() > 2 and socks[0].fileno() > 2, (listener, socks)
    print("fine")
    group.close_all()
    group.unregister()
    for _ in range(20):
        thread.poll()
"""
    )
    assert result.stdout == "fine\n", result.stderr


def test_a_listener_takes_a_path_that_is_no_string(lib, group, tmp_path):
    thread = lib.create_thread("net")
    with thread:
        listener = group.listen(tmp_path / "socket", lambda sock: None)
        assert listener.sockname() == str(tmp_path / "socket")
