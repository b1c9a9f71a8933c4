"""Connections that are held by the thousand and mostly idle: less memory for each."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any

from aiohttp import web

IDLE_BYTES = 4 * 1024
BUSY_BYTES = 64 * 1024
_BACKLOG = 1024  # many come back at once when a gateway was started anew
_SMALL_READS = 8
"""So many in a row, and the connection is idle again; those of a heartbeat are small."""


class LeanSSLProtocol(SSLProtocol):
    """TLS whose read buffer grows with what comes at once, and shrinks again, instead of 256 KiB all the time.

    It is in use only between ``get_buffer`` and ``buffer_updated``, which the transport calls one after the other.
    """

    max_size = 16 * 1024  # of one read from OpenSSL, which gives out no more than a record (RFC 8446 5.1)
    _small_reads: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.resize(IDLE_BYTES)

    def get_buffer(self, _n: int) -> memoryview:
        """Where the transport puts what it receives."""
        return self._ssl_buffer_view

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` were received."""
        super().buffer_updated(nbytes)
        size = len(self._ssl_buffer)
        if nbytes == size and size < BUSY_BYTES:
            self.resize(min(4 * size, BUSY_BYTES))
        elif size > IDLE_BYTES:
            self._small_reads = self._small_reads + 1 if nbytes < IDLE_BYTES else 0
            if self._small_reads >= _SMALL_READS:
                self.resize(IDLE_BYTES)

    def resize(self, size_bytes: int) -> None:
        """Take another buffer."""
        self._ssl_buffer = bytearray(size_bytes)
        self._ssl_buffer_view = memoryview(self._ssl_buffer)
        self._small_reads = 0


def lean_tls(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    *,
    handshake_timeout_s: float,
) -> LeanSSLProtocol:
    """The server's side of a TLS connection for ``protocol``; a client gets so long for its handshake."""
    return LeanSSLProtocol(loop, protocol, context, None, server_side=True, ssl_handshake_timeout=handshake_timeout_s)


class LeanTlsSite(web.SockSite):
    """A port with TLS for connections that are mostly idle: asyncio's own way gives each a buffer of 256 KiB at first.

    Freed later it would leave holes in the heap that nothing else fills.
    """

    def __init__(
        self, runner: web.BaseRunner, sock: socket.socket, context: ssl.SSLContext, *, handshake_timeout_s: float
    ) -> None:
        super().__init__(runner, sock, ssl_context=context, backlog=_BACKLOG)
        self._context = context
        self._handshake_timeout_s = handshake_timeout_s

    async def start(self) -> None:
        """Begin to accept."""
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        assert self._runner.server is not None
        make_protocol = self._runner.server

        def accepted() -> LeanSSLProtocol:
            return lean_tls(loop, make_protocol(), self._context, handshake_timeout_s=self._handshake_timeout_s)

        self._server = await loop.create_server(accepted, sock=self._sock, backlog=self._backlog)
