"""A program that uses every public name of the packages, for mypy --strict and pyright; what needs no peer also runs."""

import argparse
import os
import tempfile
from typing import Any, assert_type

import numpy as np

from spdkthread import IoBufPool, SpdkThread, ThreadLib, monitor, trace
from spdkthread.app import (
    App,
    AppOptions,
    ConfigError,
    CoreClaims,
    CoreInUseError,
    add_arguments,
    current_app,
    load_config,
    parse_args,
)
from spdkthread.app import run as run_app
from spdkthread.bdev import AlignmentError, BackendError, Bdev, BdevChannel, Histogram, QueueFullError
from spdkthread.rpc import DEFAULT_PATH, Client, RpcError, Server, SocketInUseError, notify
from spdkthread.sock import (
    DatagramBatch,
    DatagramSet,
    DatagramSock,
    Listener,
    Sock,
    SockBackendError,
    SockBufferError,
    SockChannel,
    SockClosedError,
    SockGroup,
    SockLimitError,
)

ERRORS: tuple[type[Exception], ...] = (
    AlignmentError,
    BackendError,
    ConfigError,
    CoreInUseError,
    QueueFullError,
    RpcError,
    SockBackendError,
    SockBufferError,
    SockClosedError,
    SockLimitError,
    SocketInUseError,
    trace.TraceError,
)


def use_bdev(folder: str) -> None:
    lib = ThreadLib()
    path = os.path.join(folder, "disk")
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    device = Bdev.open(path, depth=16, backend="threads", lib=lib)
    assert_type(device, Bdev)
    assert (assert_type(device.path, str), assert_type(device.depth, int)) == (path, 16)
    assert (device.direct, device.readonly, device.iobuf_pool) == (False, False, None)
    assert device.size == 1 << 20
    assert device.block_size > 0
    assert device.backend == "threads"
    refusal: str | None = device.refusal
    assert refusal is None or refusal
    done: list[int] = []

    def cb(nbytes: int, error: OSError | None) -> None:
        assert error is None
        done.append(nbytes)

    thread = lib.create_thread("disk")
    buffer = bytearray(512)
    with thread:
        channel = device.get_io_channel()
        assert_type(channel, BdevChannel)
        channel.enable_histogram()
        channel.write(b"a" * 512, 0, cb)
        channel.read(buffer, 0, cb)
        channel.writev([b"a" * 512], 512, cb)
        channel.readv([bytearray(512)], 512, cb)
        channel.write_zeroes(1024, 512, cb)
        channel.flush(cb)
        assert assert_type(channel.in_flight, int) == 6
        assert assert_type(channel.submissions, int) >= 0
        assert assert_type(channel.registered_bytes, int) >= 0
    while len(done) < 6:
        thread.poll()
    with thread:
        if (latencies := channel.histogram) is not None:
            assert_type(latencies, Histogram)
            assert latencies.count > 0
        channel.put()
    use_histogram()
    unregistered = device.unregister()
    thread.exit()
    while not thread.is_exited or not unregistered.done():
        thread.poll()
    lib.close()


async def use_bdev_awaited(device: Bdev, thread: SpdkThread) -> int:
    buffer = bytearray(512)
    count = await device.read(buffer, 0, thread=thread) + await device.write(buffer, 0)
    count += await device.readv([buffer], 0) + await device.writev([buffer], 0)
    return count + await device.flush() + await device.discard(0, 512) + await device.write_zeroes(0, 512)


def use_bdev_natively(channel: BdevChannel, fn: Any) -> None:
    channel.discard(0, 512, lambda nbytes, error: None)
    channel.read_native(bytearray(512), 0, fn)
    channel.write_native(b"a" * 512, 0, fn, None)


def use_histogram() -> None:
    one, other = Histogram(), Histogram()
    one.add(1_000)
    one.merge(other)
    assert (assert_type(one.count, int), assert_type(one.max, int)) == (1, 1_000)
    assert assert_type(one.mean, float) > 0
    assert assert_type(one.percentile(50), float) > 0
    buckets: np.ndarray[Any, Any] = one.buckets()
    assert len(buckets)
    one.clear()


def use_sockets(group: SockGroup, thread: SpdkThread, fn: Any) -> None:
    def on_data(sock: Sock, data: memoryview) -> None:
        sock.write(data)

    def on_close(sock: Sock, error: OSError | None) -> None:
        print(sock.in_words(), sock.bytes_in, sock.bytes_out, error)

    def on_accept(sock: Sock) -> None:
        sock.on_data, sock.on_close = on_data, on_close
        sock.on_connect = sock.on_end = sock.on_high_water = sock.on_low_water = lambda sock: None
        sock.set_water_marks(1 << 16, 1 << 14)
        sock.set_option(6, 1, 1)
        sock.pause_reading()
        assert sock.is_paused
        assert sock.pending_bytes == 0
        assert sock.fileno() >= 0
        sock.resume_reading()
        sock.set_native(fn, on_close=None)
        sock.move_to(thread, lambda sock: sock.shutdown_write())
        print(sock.sockname(), sock.peername())

    listener: Listener = group.listen(("127.0.0.1", 0), on_accept)
    assert listener.targets == ()
    assert listener.unlink_path is None
    assert listener.on_accept is on_accept
    made: Sock = group.connect(listener.sockname(), on_connect=lambda sock: None, on_data=on_data, on_close=on_close)
    made.abort()
    with group.channel() as channel:
        state: SockChannel = channel.ctx
        assert made in state.sockets
    group.close_all()


def use_datagrams(group: SockGroup, fn: Any) -> None:
    def on_batch(sock: DatagramSock, batch: DatagramBatch) -> None:
        values = np.frombuffer(batch.data, np.uint8).reshape(len(batch), batch.stride)
        print(values, batch.lengths.tolist(), batch.sockaddrs.nbytes, batch.addresses, batch.address(0))
        for index, view in enumerate(batch):
            if not batch.is_truncated(index):
                batch.reply(index, view)

    def on_error(sock: DatagramSock, error: OSError) -> None:
        print(sock.in_words(), error)

    sock: DatagramSock = group.open_datagram(("127.0.0.1", 0), on_batch=on_batch, batch=64, datagram_bytes=2048)
    sock.on_error = on_error
    assert sock.on_batch is on_batch
    sock.join("239.1.1.1")
    sock.leave("239.1.1.1")
    assert assert_type(sock.send_many(bytes(64), 32, ("127.0.0.1", 9)), int) == 2
    print(sock.batch, sock.datagram_bytes, sock.datagrams_in, sock.datagrams_out, sock.pending_datagrams)
    print(sock.truncated, sock.rejected, sock.errors, sock.dropped, sock.native_address)
    sock.set_native(fn)
    with group.channel() as channel:
        state: SockChannel = channel.ctx
        found: DatagramSet = state.datagrams
        assert sock in found.sockets
        assert not found.one_by_one


def use_rpc() -> None:
    assert DEFAULT_PATH
    server = Server(None, lib=ThreadLib())

    @server.method("add")
    def add(a: int, b: int) -> int:
        return a + b

    assert "add" in assert_type(server.method_names(), list[str])
    assert not server.is_startup_method("add")
    assert server.path is None
    assert_type(add(1, 2), int)
    notify.register_type("packages")
    assert assert_type(notify.send("packages", "used"), int) >= 0


def use_a_client(path: str) -> Any:
    with Client(path, timeout_s=1) as client:
        return client.call("spdk_get_version")


def use_monitor() -> None:
    server = monitor.serve_metrics(0, lib=ThreadLib())
    assert server.port > 0
    server.stop()


def use_trace(folder: str) -> None:
    trace.start()
    assert trace.is_running()
    assert assert_type(trace.record("mark", 1), bool)
    recorded = trace.stop()
    assert_type(recorded, trace.Trace)
    assert assert_type(recorded.lost, int) == 0
    assert len(recorded.only(["message"])) == 0
    recorded.save(os.path.join(folder, "trace.json"))
    run_a_script = trace.main
    assert callable(run_a_script)


def use_app(folder: str) -> None:
    def main(app: App) -> None:
        pool: IoBufPool = app.iobuf_pool
        assert pool
        assert current_app() is app
        app.stop()

    options, rest = parse_args(["--idle", "poll"])
    assert_type(options, AppOptions)
    assert_type(rest, argparse.Namespace)
    assert (options.cores, options.rpc, options.rpcs_allowed, options.config) == (None, None, None, None)
    assert (options.trace, options.wait_for_rpc, options.lock_cores) == (None, False, True)
    options.lock_directory = folder
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run_it = run_app
    assert callable(run_it)
    assert callable(main)
    assert callable(load_config)
    claims = CoreClaims([0], directory=folder)
    claims.claim()
    assert claims.is_claimed
    claims.release()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        use_bdev(folder)
        use_rpc()
        use_monitor()
        use_trace(folder)
        use_app(folder)
    assert all(issubclass(error, Exception) for error in ERRORS)
    print("packages used")


if __name__ == "__main__":
    main()
