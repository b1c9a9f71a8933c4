"""A link's wire over aiohttp's WebSockets, of a server or of a client."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from aiohttp import ClientWebSocketResponse, WebSocketError, WSCloseCode, WSMsgType, web

from gateway_pipe.link.model import ProtocolViolation

_CLOSE_S = 5.0
_MORE_CONTROL = 100
"""Pings beyond messages; a proxy may send some."""


class WebSocketWire:
    """One open WebSocket: not compressed, with aiohttp's own pings off, and no larger messages than the link's.

    A server's must be opened with ``autoping=False``: pings are answered here, where a flood of them is noticed.
    """

    def __init__(
        self, socket: web.WebSocketResponse | ClientWebSocketResponse, transport: asyncio.BaseTransport | None
    ) -> None:
        self._socket = socket
        self._transport = cast("asyncio.WriteTransport | None", transport)
        self._control = 0

    async def send(self, message: bytes) -> None:
        """Send one message; raises ConnectionError."""
        await self._socket.send_bytes(message)

    async def receive(self) -> bytes | None:
        """The next message, None at the end; raises ProtocolViolation for text, too long messages and ping floods."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                self._control = max(0, self._control - 1)
                data: bytes = message.data
                return data
            if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED}:
                return None
            if message.type is WSMsgType.ERROR:
                raise _broken(message.data)
            if message.type is WSMsgType.TEXT:
                raise ProtocolViolation("a text message")
            self._control += 1
            if self._control > _MORE_CONTROL:
                raise ProtocolViolation("a flood of WebSocket pings")
            if message.type is WSMsgType.PING:
                await self._socket.pong(message.data)

    async def close(self, reason: str) -> None:
        """Close with the WebSocket's handshake, or after 5 s without it."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_CLOSE_S):
                await self._socket.close(code=WSCloseCode.OK, message=reason.encode("ascii", "replace")[:100])
                return
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class ClientWire(WebSocketWire):
    """A client's. After ``abort``, which whoever made it calls at the end, nothing of its connection is left.

    aiohttp shows the transport nowhere, closing is not cutting, and a connection whose other end vanished is never
    given back by itself.
    """

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._response = socket._response  # noqa: SLF001
        connection = self._response.connection
        super().__init__(socket, connection.transport if connection is not None else None)

    def abort(self) -> None:
        """Close the connection at once."""
        super().abort()
        self._response.close()


def client_wire(socket: ClientWebSocketResponse) -> WebSocketWire:
    """The wire of a client's WebSocket."""
    return ClientWire(socket)


def _broken(cause: Any) -> Exception:
    if isinstance(cause, WebSocketError):
        return ProtocolViolation(f"not a WebSocket message: {cause}")
    return ConnectionResetError(str(cause))
