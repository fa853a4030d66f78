"""TLS over the transports of `aio.EventLoop`."""

import asyncio
import os
import socket
import ssl
from pathlib import Path

import pytest
from recorders import BufferedRecorder, Recorder, connect, read_to_end, reset, runner, stream_pair, told, turns, until
from support import PATIENCE_S

from spdkthread.aio.transport_stream import StreamTransport
from spdkthread.aio.transport_tls import TlsProtocol

MIB = 1 << 20
CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture(scope="module")
def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.fixture(scope="module")
def client_context():
    return ssl.create_default_context(cafile=CERTIFICATE)


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


async def served(factory, context):
    """A server, and a list of the protocols of its connections."""
    made = []

    def make():
        made.append(factory())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, ssl=context)
    return server, made


async def client_of(server, context, factory=Recorder):
    return await asyncio.get_running_loop().create_connection(
        factory, *server.sockets[0].getsockname(), ssl=context, server_hostname="localhost"
    )


async def ended(server, *protocols):
    for protocol in protocols:
        await protocol.lost()
    server.close()
    await server.wait_closed()
    await turns(10)


@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
def test_bytes_go_there_and_back(run, server_context, client_context, factory):
    async def main():
        server, made = await served(Echo, server_context)
        transport, protocol = await client_of(server, client_context, factory)
        sent = os.urandom(3 * MIB)
        for part in (b"", b"x", bytearray(b"y"), memoryview(b"z"), memoryview(b"4321").cast("H")[::-1], sent):
            transport.write(part)
        transport.writelines([b"1", b"2", b"3"])
        assert await protocol.received(len(sent) + 10) == b"xyz2143" + sent + b"123"
        transport.close()
        await ended(server, protocol, *made)
        assert protocol.error is None
        assert made[0].error is None
        assert made[0].calls[-2:] == ["eof_received", "connection_lost"]

    run(main())


def test_a_transport_over_tls_says_so(run, server_context, client_context):
    async def main():
        server, made = await served(Echo, server_context)
        transport, protocol = await client_of(server, client_context)
        assert "SSL" in type(transport).__name__
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert transport.get_extra_info("sslcontext") is client_context
        assert dict(pair for (pair,) in transport.get_extra_info("peercert")["subject"])["commonName"] == "localhost"
        assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
        with pytest.raises(TypeError, match="bytes-like"):
            transport.write("text")
        transport.close()
        await ended(server, protocol, *made)

    run(main())


def test_at_most_64_kib_are_received_at_a_time(server_context, client_context):
    assert StreamTransport.max_size == TlsProtocol.max_size == 64 * 1024

    async def main():
        server, made = await served(Recorder, server_context)
        transport, protocol = await client_of(server, client_context)
        assert len(protocol.transport._ssl_protocol._ssl_buffer) == 64 * 1024
        transport.close()
        await ended(server, protocol, *made)

    runner(False)(main())


def test_a_slow_reader_holds_the_writer_up(run, server_context, client_context):
    async def main():
        server, made = await served(Recorder, server_context)
        transport, protocol = await client_of(server, client_context)
        await until(lambda: made and "connection_made" in made[0].calls)
        made[0].transport.pause_reading()
        sent = os.urandom(MIB) * 8
        transport.set_write_buffer_limits(high=0)
        transport.write(sent)
        transport.write(b"end")
        assert "pause_writing" in protocol.calls
        await asyncio.sleep(0.05)
        assert made[0].data == b""
        made[0].transport.resume_reading()
        assert await made[0].received(len(sent) + 3) == sent + b"end"
        await protocol.expect(lambda: "resume_writing" in protocol.calls)
        transport.close()
        await ended(server, protocol, *made)

    run(main())


def test_a_connection_is_upgraded_on_both_sides(run, server_context, client_context):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = stream_pair("tcp")
        plain, client = await connect(ours)
        plain_there, server = await connect(theirs, Echo)
        plain.write(b"plain")
        assert await client.received(5) == b"plain"

        async def upgrade(transport, protocol, context, **options):
            upgraded = await loop.start_tls(transport, protocol, context, **options)
            protocol.transport = upgraded
            return upgraded

        secure, _ = await asyncio.gather(
            upgrade(plain, client, client_context, server_hostname="localhost"),
            upgrade(plain_there, server, server_context, server_side=True),
        )
        assert secure.get_extra_info("ssl_object").version()
        secure.write(b"secret" * 10_000)
        assert await client.received(60_005) == b"plain" + b"secret" * 10_000
        secure.close()
        await client.lost()
        await server.lost()

    run(main())


def test_an_upgrade_needs_a_context_and_a_transport_that_can(run, client_context):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours)
        with pytest.raises(TypeError, match="sslcontext is expected to be an instance"):
            await loop.start_tls(transport, protocol, None)
        with pytest.raises(TypeError, match="is not supported by start_tls"):
            await loop.start_tls(asyncio.Transport(), protocol, client_context)
        transport.close()
        await protocol.lost()
        peer.close()

    run(main())


@pytest.mark.parametrize("how", ["garbage", "reset", "silence"])
def test_a_handshake_that_fails_ends_the_connection_and_not_the_server(run, server_context, client_context, how):
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def make():
            made.append(Echo())
            return made[-1]

        with told():
            server = await loop.create_server(
                make, "127.0.0.1", 0, ssl=server_context, ssl_handshake_timeout=0.05 if how == "silence" else None
            )
            bad = socket.create_connection(server.sockets[0].getsockname())
            if how == "garbage":
                bad.send(b"this is no handshake\n" * 10)
            elif how == "reset":
                bad.send(b"\x16\x03\x01")
                reset(bad)
            if how != "reset":
                bad.setblocking(False)
                try:
                    await read_to_end(bad)
                except ConnectionResetError:
                    pass
                bad.close()
            if how != "silence":
                transport, protocol = await client_of(server, client_context)
                transport.write(b"x")
                assert await protocol.received(1) == b"x"
                transport.close()
                await protocol.lost()
            assert "connection_made" not in made[0].calls
            for protocol in made[1:]:
                await protocol.lost()
            server.close()
            await server.wait_closed()
            await turns(20)

    run(main())


def test_a_certificate_that_is_not_trusted_is_refused(run, server_context):
    async def main():
        with told():
            server, _ = await served(Echo, server_context)
            with pytest.raises(ssl.SSLCertVerificationError):
                await client_of(server, ssl.create_default_context())
            await turns(20)
            await ended(server)

    run(main())


@pytest.mark.parametrize("end", ["abort", "reset"])
def test_a_connection_that_breaks_off_ends_both_sides(run, server_context, client_context, end):
    async def main():
        server, made = await served(Echo, server_context)
        transport, protocol = await client_of(server, client_context)
        transport.write(b"x")
        await protocol.received(1)
        if end == "reset":
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        transport.abort()
        assert await protocol.lost() is None
        error = await made[0].lost()
        assert isinstance(error, ConnectionResetError) if end == "reset" else error is None
        await ended(server)

    run(main())


def test_streams_over_tls_on_a_unix_socket(run, server_context, client_context, tmp_path):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        over.set()

    over = asyncio.Event()

    async def main():
        path = str(tmp_path / "s")
        server = await asyncio.start_unix_server(echo, path, ssl=server_context)
        reader, writer = await asyncio.open_unix_connection(path, ssl=client_context, server_hostname="localhost")
        for _ in range(3):
            writer.write(b"x" * 200_000)
            assert await reader.readexactly(200_000) == b"x" * 200_000
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(over.wait(), PATIENCE_S)
        server.close()
        await server.wait_closed()
        await turns(10)

    run(main())


def test_a_file_is_sent_over_tls(run, server_context, client_context, tmp_path):
    (tmp_path / "f").write_bytes(os.urandom(MIB))

    async def main():
        server, made = await served(Recorder, server_context)
        transport, protocol = await client_of(server, client_context)
        with open(tmp_path / "f", "rb") as file:
            assert await asyncio.get_running_loop().sendfile(transport, file) == MIB
        await until(lambda: made)
        assert await made[0].received(MIB) == (tmp_path / "f").read_bytes()
        transport.close()
        await ended(server, protocol, *made)

    run(main())


def test_an_exception_of_a_protocol_is_told_and_ends_the_connection(run, server_context, client_context):
    class Fails(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError

    async def main():
        with told() as contexts:
            server, made = await served(Fails, server_context)
            transport, protocol = await client_of(server, client_context)
            transport.write(b"x")
            await protocol.lost()
            assert isinstance(await made[0].lost(), ZeroDivisionError)
            await ended(server)
        assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]

    run(main())
