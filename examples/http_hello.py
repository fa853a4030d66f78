"""An HTTP/1.1 server that says hello: h11 for the protocol, `spdkthread.sock` for the connections.

Connections stay open between requests; what a client sends ahead is answered in its order; what is no HTTP gets a 400,
an unknown path a 404, another method a 405. A client that does not read is not read from, and a silent one is closed.

    python examples/http_hello.py --port 8000       # until Ctrl-C
    python examples/http_hello.py                   # measures itself beside uvicorn, where that is installed

Needs h11 (pip install h11), which uvicorn brings along.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from spdkthread import Reactor, SpdkThread
from spdkthread.sock import Sock, SockGroup

try:
    import h11  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    print("http_hello.py has its HTTP from h11, and that is not here: pip install h11")
    sys.exit()

HELLO = b"Hello, world!\n"
PAGES = {b"/": HELLO}
METHODS = (b"GET", b"HEAD")
SILENT_US = 30_000_000


class Connection:
    """One client: h11 says what its bytes mean, and which bytes answer them."""

    def __init__(self, sock: Sock, thread: SpdkThread) -> None:
        self.sock = sock
        self.thread = thread
        self.http = h11.Connection(h11.SERVER)
        self.request: Any = None
        self.crowded = False
        self.timer = thread.call_later(SILENT_US, self.silent)
        self.answered = self.checked = 0
        sock.on_data = self.received
        sock.on_end = self.ended
        sock.on_high_water = self.high_water
        sock.on_low_water = self.low_water
        sock.on_close = self.closed

    def received(self, sock: Sock, view: memoryview) -> None:
        self.http.receive_data(bytes(view))
        self.go_on()

    def ended(self, sock: Sock) -> None:
        self.http.receive_data(b"")
        self.go_on()
        sock.close()

    def go_on(self) -> None:
        """Answer what is complete."""
        while not self.crowded and self.sock.state == "open":
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError as error:
                self.refuse(error)
                return
            if isinstance(event, h11.Request):
                self.request = event
                if self.http.they_are_waiting_for_100_continue:
                    self.send(h11.InformationalResponse(status_code=100, headers=[]))
            elif isinstance(event, h11.EndOfMessage):
                self.answer()
            elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return
            elif event is h11.PAUSED:
                if self.http.our_state is not h11.DONE:
                    self.sock.close()  # the client, or its version of HTTP, wants one request only
                    return
                self.http.start_next_cycle()
            # The data of a request is of no interest here.

    def answer(self) -> None:
        path = self.request.target.partition(b"?")[0]
        if path not in PAGES:
            self.respond(404, b"There is nothing here.\n")
        elif self.request.method not in METHODS:
            self.respond(405, b"Only GET and HEAD.\n", [("Allow", "GET, HEAD")])
        else:
            self.respond(200, PAGES[path])
        self.answered += 1
        if self.http.our_state is h11.MUST_CLOSE:
            self.sock.close()

    def respond(self, status: int, body: bytes, headers: list[tuple[str, str]] | None = None) -> None:
        head = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *(headers or [])]
        self.send(h11.Response(status_code=status, headers=head))
        if self.request is None or self.request.method != b"HEAD":
            self.send(h11.Data(data=body))
        self.send(h11.EndOfMessage())

    def refuse(self, error: Any) -> None:
        """What came is no HTTP: say so, if nothing was said yet, and end it."""
        if self.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.request = None
            self.respond(error.error_status_hint, f"{error}\n".encode())
        self.sock.close()

    def send(self, event: Any) -> None:
        self.sock.write(self.http.send(event) or b"")

    def high_water(self, sock: Sock) -> None:
        self.crowded = True
        sock.pause_reading()

    def low_water(self, sock: Sock) -> None:
        self.crowded = False
        sock.resume_reading()
        self.go_on()

    def silent(self) -> None:
        """Every so often: whether anything was asked since."""
        if self.answered == self.checked:
            self.sock.abort()
            return
        self.checked = self.answered
        self.timer = self.thread.call_later(SILENT_US, self.silent)

    def closed(self, sock: Sock, error: OSError | None) -> None:
        self.timer.cancel()


class Server:
    """A reactor with a thread that listens."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.reactor = Reactor().start()
        self.thread = self.reactor.create_thread("http")
        group = SockGroup("http")  # type: ignore[no-untyped-call, unused-ignore]
        self.group = group.register()
        listener = self.thread.call(self.group.listen, (host, port), self.accepted).result()
        self.address = listener.sockname()

    def accepted(self, sock: Sock) -> None:
        Connection(sock, self.thread)

    def close(self) -> None:
        self.group.close_all().result()  # type: ignore[no-untyped-call, unused-ignore]
        self.group.unregister().result()
        self.reactor.stop()


# ---- measuring -----------------------------------------------------------------------------------------------------

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
UVICORN = """
import socket, sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"14")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!\\n"})
made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # or asyncio sets no TCP_NODELAY
made.bind(("127.0.0.1", 0))
made.listen()
print(made.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="h11", loop="asyncio", log_level="error", lifespan="off", access_log=False)
uvicorn.Server(config).run([made])
"""


def drive(port: int, connections: int, requests: int) -> float:
    """Requests a second, each connection with one on its way at a time."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        opened = socket.create_connection(("127.0.0.1", port), timeout=10)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(opened, selectors.EVENT_READ, bytearray())
    begin = time.perf_counter()
    for key in selector.get_map().values():
        key.fileobj.send(REQUEST)  # type: ignore[union-attr]
    sent, done = connections, 0
    while done < requests:
        for key, _ in selector.select(10):
            peer: Any = key.fileobj
            key.data.extend(peer.recv(65536) or b"?")
            if not key.data.endswith(HELLO):
                continue
            assert key.data.startswith(b"HTTP/1.1 200"), key.data
            key.data.clear()
            done += 1
            if sent < requests:
                peer.send(REQUEST)
                sent += 1
    seconds = time.perf_counter() - begin
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()
    return requests / seconds


@contextlib.contextmanager
def other_process(command: list[str]) -> Iterator[int]:
    """A server that prints its port."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def compare(connections: int, requests: int) -> None:
    servers = {"spdkthread.sock": [sys.executable, __file__, "--port", "0", "--quiet"]}
    if importlib.util.find_spec("uvicorn"):
        servers["uvicorn, asyncio"] = [sys.executable, "-c", UVICORN]
    best = dict.fromkeys(servers, 0.0)
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(other_process(command)) for name, command in servers.items()}
        for _ in range(3):
            for name, port in ports.items():
                drive(port, connections, 2 * connections)
                best[name] = max(best[name], drive(port, connections, requests))
    print(f"{connections} connections, {requests:,} requests, the best of three; both with h11")
    for name, rate in best.items():
        print(f"  {name:18} {rate:8,.0f} requests/s")
    if len(servers) == 1:
        print("  uvicorn is not here: pip install uvicorn")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="serve there until Ctrl-C; 0: any free one, which is printed")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--quiet", action="store_true", help="print the port only")
    options = parser.parse_args()
    if options.port is None:
        compare(options.connections, options.requests)
        return
    server = Server(options.host, options.port)
    print(server.address[1] if options.quiet else f"listening on {server.address[0]}:{server.address[1]}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main()
