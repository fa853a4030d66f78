"""The RPC server: its socket, the envelope of JSON-RPC, and clients of every kind."""

import concurrent.futures
import json
import os
import socket
import stat
import threading

import pytest
from support import PATIENCE_S, eventually, run_python

from spdkthread.errors import SpdkThreadError
from spdkthread.rpc import Client, RpcError, Server, SocketInUseError
from spdkthread.rpc.framing import MAX_REQUEST_BYTES, MAX_VALUES
from spdkthread.rpc.server import MAX_CONNECTIONS, MAX_UNSENT_BYTES


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "rpc.sock")


@pytest.fixture
def server(path, live_lib):
    with Server(path, lib=live_lib) as running:

        @running.method("echo")
        def echo(*args, **kw):
            return kw if kw else list(args)

        yield running


class Raw:
    """A client that sends bytes of its own."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else json.dumps(data).encode())

    def answer(self):
        return json.loads(self.file.readline())

    def line(self):
        return self.file.readline()

    def ended(self):
        try:
            return self.file.read() == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def raw(server, path):
    with Raw(path) as client:
        yield client


def request(method, id=1, **members):
    return {"jsonrpc": "2.0", "id": id, "method": method, **members}


# The socket


def test_the_socket_and_its_lock_are_for_the_user_only_and_go_with_the_server(path, live_lib):
    with Server(path, lib=live_lib) as server:
        for file in (path, path + ".lock"):
            assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
        assert server.is_running
    assert not os.path.exists(path)
    assert not os.path.exists(path + ".lock")
    assert not server.is_running


def test_a_server_can_be_started_again(path, live_lib):
    server = Server(path, lib=live_lib)
    for _ in range(2):
        with server, Client(path) as client:
            assert client.call("framework_wait_init") is True
    server.stop()


def test_a_second_server_of_one_path_is_refused(server, path, live_lib):
    with pytest.raises(SocketInUseError, match="in use"):
        Server(path, lib=live_lib).start()
    with pytest.raises(SpdkThreadError, match="already"):
        server.start()
    with Client(path) as client:
        assert client.call("echo", [1]) == [1]


def test_what_a_dead_server_left_is_replaced(path, live_lib):
    source = f"import os; from spdkthread.rpc import Server; Server({path!r}).start(); os._exit(0)"
    assert run_python(source).returncode == 0
    assert os.path.exists(path)
    with Server(path, lib=live_lib), Client(path) as client:
        assert client.call("framework_wait_init") is True


def test_a_file_that_is_no_socket_is_not_removed(path, live_lib):
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(SocketInUseError, match="no socket"):
        Server(path, lib=live_lib).start()
    with open(path) as file:
        assert file.read() == "precious"


def test_a_path_that_no_socket_can_have_is_refused(tmp_path, live_lib):
    with pytest.raises(ValueError, match="107"):
        Server(str(tmp_path / ("x" * 120)), lib=live_lib)


@pytest.mark.parametrize("options", [{"lib": 1}, {"allowed": "echo"}])
def test_bad_arguments_are_refused(path, options):
    with pytest.raises(TypeError):
        Server(path, **options)


def test_a_forked_child_leaves_the_parents_socket_alone(tmp_path):
    path = str(tmp_path / "fork.sock")
    source = f"""
import os
from spdkthread.rpc import Client, Server
server = Server({path!r}).start()
child = os.fork()
if not child:
    assert not server.is_running
    server.stop()
    os._exit(0 if os.path.exists({path!r}) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(Client({path!r}).call("framework_wait_init"))
server.stop()
"""
    done = run_python(source)
    assert done.stdout.strip() == "True", done.stderr


# Requests


def test_requests_come_in_any_layout_and_responses_are_lines(raw):
    raw.send(json.dumps(request("echo", params=[1]), indent=2).encode())
    assert raw.line() == b'{"jsonrpc":"2.0","id":1,"result":[1]}\n'
    raw.send(b'{"id":"a","method":"echo"}{"id":2.5,"method":"echo","params":null}\n\n {"method":"echo","id":-3}')
    assert [raw.answer()["id"] for _ in range(3)] == ["a", 2.5, -3]


def test_text_is_written_in_ascii(raw):
    raw.send(request("echo", params={"a": "é\u2028\x7f\U0001f600"}))
    line = raw.line()
    assert line.isascii()
    assert b"\x7f" not in line
    assert json.loads(line)["result"] == {"a": "é\u2028\x7f\U0001f600"}


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "echo", "id": 1, "more": 1},
        {"method": "echo", "id": 1, "jsonrpc": "1.0"},
        {"method": 5, "id": 1},
        {"id": 1},
        {"method": "echo", "id": [1]},
        {"method": "echo", "id": True},
        {"method": "echo", "id": 1, "params": 5},
        "echo",
        [],
        [5],
    ],
)
def test_what_is_no_request_is_an_invalid_one_and_the_connection_goes_on(raw, bad):
    raw.send(bad)
    answer = raw.answer()
    answer = answer[0] if isinstance(answer, list) else answer
    assert answer["error"]["code"] == -32600
    raw.send(request("echo"))
    assert raw.answer()["result"] == []


def test_a_member_that_comes_twice_makes_a_request_invalid(raw):
    raw.send(b'{"id": 1, "method": "echo", "method": "echo"}')
    assert raw.answer()["error"]["code"] == -32600
    raw.send(b'{"id": 1, "method": "echo", "params": {"a": 1, "a": 2}}')
    assert raw.answer()["error"]["code"] == -32602


def test_too_many_values_are_an_invalid_request(raw):
    raw.send(request("echo", params=[0] * MAX_VALUES))
    assert raw.answer()["error"]["code"] == -32600


@pytest.mark.parametrize("text", [b"hello", b'{"id": }', b"[" * 100, b"{]"])
def test_after_a_parse_error_the_connection_is_closed(server, path, text):
    with Raw(path) as client:
        client.send(text + b"\n")
        assert client.answer()["error"]["code"] == -32700
        assert client.ended()
    with Raw(path) as client:
        client.send(request("echo"))
        assert client.answer()["result"] == []


def test_a_request_that_is_too_long_ends_the_connection(server, path):
    with Raw(path) as client:
        try:
            client.send(b'{"params": "' + b"x" * (MAX_REQUEST_BYTES * 2))
        except (BrokenPipeError, ConnectionResetError):
            return
        assert client.ended()


def test_a_notification_has_no_result_but_its_error_is_sent(raw):
    raw.send({"method": "echo"})
    raw.send({"method": "no such", "id": None})
    answer = raw.answer()
    assert answer["id"] is None
    assert answer["error"] == {"code": -32601, "message": "Method not found"}


def test_a_batch_is_answered_by_one_array(raw):
    raw.send([request("echo", id=1), {"method": "echo"}, request("no such", id=2), 7])
    answers = raw.answer()
    assert sorted(str(one["id"]) for one in answers) == ["1", "2", "None"]
    raw.send([{"method": "echo"}])
    raw.send(request("echo", id=9))
    assert raw.answer()["id"] == 9


# Methods of one's own


def test_a_method_gets_its_parameters_by_name_or_by_place(server, path):
    @server.method("add")
    def add(a, b=1):
        return a + b

    with Client(path) as client:
        assert client.call("add", {"a": 1, "b": 2}) == 3
        assert client.call("add", [1]) == 2
        for params in ({"c": 1}, [], [1, 2, 3]):
            with pytest.raises(RpcError) as caught:
                client.call("add", params)
            assert caught.value.code == -32602


def test_what_a_method_raises_is_answered(server, path, caplog):
    @server.method("refuse")
    def refuse():
        raise RpcError(-5, "not today")

    @server.method("fail")
    def fail():
        raise KeyError("what")

    @server.method("strange")
    def strange():
        return object()

    with Client(path) as client:
        with pytest.raises(RpcError, match="not today") as caught:
            client.call("refuse")
        assert caught.value.code == -5
        for name in ("fail", "strange"):
            with pytest.raises(RpcError) as caught:
                client.call(name)
            assert caught.value.code == -32603


def test_a_method_may_answer_later_and_others_overtake_it(server, raw):
    slow = concurrent.futures.Future()
    server.method("slow")(lambda: slow)
    raw.send(request("slow", id=1))
    raw.send(request("echo", id=2))
    assert raw.answer()["id"] == 2
    slow.set_result("at last")
    assert raw.answer() == {"jsonrpc": "2.0", "id": 1, "result": "at last"}


def test_a_method_may_ask_a_thread(server, path, reactor):
    thread = reactor.create_thread("net")
    server.method("where")(lambda: thread.call(lambda: threading.get_ident()))
    with Client(path) as client:
        assert client.call("where") != threading.get_ident()


def test_a_name_is_given_once(server):
    with pytest.raises(ValueError, match="already"):
        server.method("echo")
    with pytest.raises(TypeError):
        server.method("")


def test_only_what_is_allowed_is_answered(path, live_lib):
    with Server(path, lib=live_lib, allowed=["rpc_get_methods", "thread_get_stats"]), Client(path) as client:
        assert sorted(client.call("rpc_get_methods")) == ["rpc_get_methods", "thread_get_stats"]
        with pytest.raises(RpcError) as caught:
            client.call("framework_get_reactors")
        assert caught.value.code == -32601


def test_a_server_may_be_stopped_by_a_method_of_its_own(server, path):
    server.method("end")(server.stop)
    with Client(path) as client:
        assert client.call("end") is None
    eventually(lambda: not os.path.exists(path))


# Clients


def test_a_client_that_ended_its_direction_is_answered_still(server, path, reactor):
    reactor.create_thread("net")
    with Raw(path) as client:
        client.send(request("thread_get_stats"))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer()["result"]["threads"][0]["name"] == "net"
        assert client.ended()


def test_a_client_that_goes_without_its_answer_harms_nothing(server, path):
    slow = concurrent.futures.Future()
    asked = threading.Event()

    @server.method("slow")
    def begin():
        asked.set()
        return slow

    with Raw(path) as client:
        client.send(request("slow"))
        assert asked.wait(PATIENCE_S)
    slow.set_result("x")
    with Client(path) as client:
        assert client.call("echo") == []


def test_a_byte_at_a_time_is_a_request_too(raw):
    for byte in json.dumps(request("echo", params=['a\\"b'])).encode():
        raw.send(bytes([byte]))
    assert raw.answer()["result"] == ['a\\"b']


def test_the_65th_client_waits_until_one_goes(server, path):
    silent = [Raw(path) for _ in range(MAX_CONNECTIONS)]
    try:
        with Raw(path) as waiting:
            waiting.send(request("echo"))
            waiting.socket.settimeout(0.05)
            with pytest.raises(TimeoutError):
                waiting.socket.recv(1)
            silent.pop().__exit__()
            waiting.socket.settimeout(PATIENCE_S)
            assert json.loads(waiting.socket.recv(4096))["result"] == []
    finally:
        for client in silent:
            client.__exit__()


def test_a_client_that_does_not_read_is_not_read_from_and_loses_nothing(server, path):
    text = "x" * 100_000
    count = 4 * MAX_UNSENT_BYTES // len(text)
    with Raw(path) as client:
        sender = threading.Thread(
            target=lambda: [client.send(request("echo", id=id, params=[text])) for id in range(count)], daemon=True
        )
        sender.start()
        # Another client is served meanwhile.
        with Client(path) as other:
            assert other.call("echo") == []
        assert [client.answer()["id"] for _ in range(count)] == list(range(count))
        sender.join(PATIENCE_S)


def test_our_client_tells_what_is_wrong(server, path, tmp_path):
    with pytest.raises(OSError, match="no JSON-RPC server"):
        Client(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="timeout_s"):
        Client(path, timeout_s=0)
    server.method("never")(concurrent.futures.Future)
    with Client(path, timeout_s=0.05) as client:
        with pytest.raises(TimeoutError, match="never"):
            client.call("never")
        with pytest.raises(ConnectionError, match="closed"):
            client.call("echo")


def test_a_server_that_was_forgotten_leaves_no_socket(path):
    done = run_python(f"from spdkthread.rpc import Server; Server({path!r}).start()")
    assert (done.returncode, done.stderr) == (0, "")
    assert not os.path.exists(path)
    assert not os.path.exists(path + ".lock")


def test_the_instance_is_sent_the_signal_that_is_asked_for(path):
    source = f"""
import signal, threading
from spdkthread.rpc import Client, Server
got = threading.Event()
signal.signal(signal.SIGUSR1, lambda *args: got.set())
with Server({path!r}), Client({path!r}) as client:
    assert client.call("spdk_kill_instance", {{"sig_name": "SIGUSR1"}}) is True
    assert got.wait({PATIENCE_S})
print("got it")
"""
    done = run_python(source)
    assert done.stdout.strip() == "got it", done.stderr


def test_the_environment_opens_a_server_in_any_program(path):
    source = f"""
import os
os.environ["SPDKTHREAD_RPC_SOCKET"] = {path!r}
from spdkthread.reactor import Reactor
with Reactor(name="the one"), Reactor(name="another"):
    from spdkthread.rpc import Client
    print(len(Client({path!r}).call("framework_get_reactors")["reactors"]))
"""
    done = run_python(source)
    assert done.stdout.strip() == "2", done.stderr
    assert not os.path.exists(path)


def test_a_program_runs_without_its_server_when_the_path_is_taken(server, path):
    source = f"""
import os
os.environ["SPDKTHREAD_RPC_SOCKET"] = {path!r}
from spdkthread import Reactor
with Reactor():
    print("runs")
"""
    done = run_python(source)
    assert done.stdout.strip() == "runs", done.stderr
    assert "in use" in done.stderr
