"""TLS over the transports of `aio.EventLoop`: asyncio's SSLProtocol, with the way of a byte compiled.

Handshake, shutdown, flow control and errors are asyncio's. What differs:

- It receives at most 64 KiB at a time, and OpenSSL decrypts into one buffer of the loop. asyncio asks for 256 KiB with
  each read, twice a message, which the allocator maps and unmaps.
- It does not ask OpenSSL for more when neither the encrypted nor the decrypted side holds anything: the answer would be
  an exception, once a message.
"""

import ssl
from asyncio import sslproto

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize

from spdkthread.aio.loop_core cimport LoopCore
from spdkthread.aio.transport cimport TRANSPORT_READ_SIZE, read_buffer_of

__all__ = ["TlsProtocol", "TlsTransport", "start_tls"]

cdef object WRAPPED = sslproto.SSLProtocolState.WRAPPED
cdef object again_errors = sslproto.SSLAgainErrors
cdef object plain_ssl_object = ssl.SSLObject


class TlsTransport(sslproto._SSLProtocolTransport):
    """What a protocol over TLS has as its transport."""

    def write(self, data):
        """As ``asyncio.WriteTransport.write``."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if isinstance(data, memoryview) and (data.itemsize != 1 or not data.c_contiguous):
            data = bytes(data)          # what is counted are bytes
        if data:
            self._ssl_protocol._write_appdata((data,))


# Names of asyncio's transports over TLS have this in them, and programs look for it.
TlsTransport.__name__ = TlsTransport.__qualname__ = "SSLTransport"


class TlsProtocol(sslproto.SSLProtocol):
    """asyncio's SSLProtocol for `aio.EventLoop`."""

    max_size = TRANSPORT_READ_SIZE

    def _get_app_transport(self):
        if self._app_transport is None:
            if self._app_transport_created:
                raise RuntimeError("the transport of this protocol was made already")
            self._app_transport = TlsTransport(self._loop, self)
            self._app_transport_created = True
        return self._app_transport

    def buffer_updated(self, nbytes):
        if self._state is not WRAPPED:
            super().buffer_updated(nbytes)
            return
        self._incoming.write(self._ssl_buffer_view[:nbytes])
        self._do_read()

    def _process_outgoing(self):
        if not self._ssl_writing_paused and self._outgoing.pending:
            self._transport.write(self._outgoing.read())
        self._control_app_writing()

    def _control_app_writing(self):
        # Nothing to say in the most frequent case.
        if self._app_writing_paused or self._write_buffer_size or self._outgoing.pending:
            super()._control_app_writing()
        elif self._outgoing_high_water == 0:
            super()._control_app_writing()

    def _do_write(self):
        engine = engine_of(self._sslobj)
        backlog = self._write_backlog
        try:
            while backlog:
                data = backlog[0]
                count = engine.write(data)
                length = len(data)
                self._write_buffer_size -= count
                if count < length:
                    backlog[0] = data[count:]
                else:
                    del backlog[0]
        except again_errors:
            pass
        self._process_outgoing()

    def _do_read__buffered(self):
        cdef Py_ssize_t filled = 0
        cdef Py_ssize_t wanted
        cdef Py_ssize_t count = 1
        engine = engine_of(self._sslobj)
        # Any buffer: a slice of a bytearray would be another one.
        into = memoryview(self._app_protocol_get_buffer(self._get_read_buffer_size()))
        wanted = into.nbytes
        if wanted == 0:
            raise RuntimeError("get_buffer() returned an empty buffer")
        try:
            while filled < wanted:
                count = engine.read(wanted - filled, into[filled:] if filled else into)
                if count == 0:
                    break
                filled += count
        except again_errors:
            count = 1
        into.release()
        if filled == wanted:
            self._loop.call_soon(self._do_read)         # there may be more
        if filled:
            self._app_protocol_buffer_updated(filled)
        if count == 0:
            self._call_eof_received()
            self._start_shutdown()

    def _do_read__copied(self):
        cdef bytearray buffer = read_buffer_of(<LoopCore>self._loop)
        cdef Py_ssize_t count = 1
        engine = engine_of(self._sslobj)
        incoming = self._incoming
        data = None
        rest = None
        try:
            while True:
                count = engine.read(TRANSPORT_READ_SIZE, buffer)
                if count == 0:
                    break
                chunk = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), count)
                if data is None:
                    data = chunk
                elif rest is None:
                    rest = [data, chunk]
                else:
                    rest.append(chunk)
                if incoming.pending == 0 and engine.pending() == 0:
                    break
        except again_errors:
            count = 1
        if rest is not None:
            self._app_protocol.data_received(b"".join(rest))
        elif data is not None:
            self._app_protocol.data_received(data)
        if count == 0:          # the peer has closed its side
            self._call_eof_received()
            self._start_shutdown()


cdef inline object engine_of(object ssl_object):
    """What an SSLObject passes its calls on to, unless its class does more than that."""
    if type(ssl_object) is plain_ssl_object:
        return ssl_object._sslobj
    return ssl_object


async def start_tls(
    loop, transport, protocol, context, server_side, server_hostname, handshake_timeout, shutdown_timeout
):
    """The transport that `protocol` uses from now on, over `transport`."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {context!r}")
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    waiter = loop.create_future()
    tls = TlsProtocol(
        loop,
        protocol,
        context,
        waiter,
        server_side,
        server_hostname,
        ssl_handshake_timeout=handshake_timeout,
        ssl_shutdown_timeout=shutdown_timeout,
        call_connection_made=False,
    )
    # Nothing may be received before the protocol knows its transport.
    transport.pause_reading()
    transport.set_protocol(tls)
    begins = loop.call_soon(tls.connection_made, transport)
    resumes = loop.call_soon(transport.resume_reading)
    try:
        await waiter
    except BaseException:
        transport.close()
        begins.cancel()
        resumes.cancel()
        raise
    return tls._app_transport
