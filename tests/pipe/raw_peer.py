"""The node's end of a link, written by hand: it can say what no library would."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

from gateway_pipe.link import messages
from gateway_pipe.link.frames import Frame, Type, frame, parse
from gateway_pipe.link.model import SUBPROTOCOL, Hello

CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
PATIENCE_S = 15.0


def websocket_frame(opcode: int, payload: bytes = b"", *, fin: bool = True, size: int | None = None) -> bytes:
    """A client's frame (RFC 6455 5.2) under a mask of zeros; it says that it has ``size`` bytes."""
    size = len(payload) if size is None else size
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


class RawPeer:
    """An open connection after the WebSocket's handshake; ``heard`` are the frames of the link that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard: list[Frame] = []
        self._reader = reader
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        """Send bytes; raises ConnectionError."""
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0)  # draining alone lets nobody else read while the socket has room

    async def send(self, *frames: bytes) -> None:
        """Send frames of the link as one message."""
        await self.raw(websocket_frame(BINARY, b"".join(frames)))

    @property
    def kinds(self) -> set[Type]:
        """Of the frames that came."""
        return {kind for kind, *_ in self.heard}

    async def say_hello(self, name: str, *, credit: int = 256 * 1024) -> None:
        """As that node would, which bears ``credit`` bytes of each stream."""
        hello = Hello(name=name, instance=os.urandom(8).hex(), window=credit)
        await self.send(frame(Type.HELLO, 0, messages.hello_payload(hello)))

    async def greet(self, name: str, *, credit: int = 256 * 1024) -> None:
        """Say HELLO and wait for WELCOME."""
        await self.say_hello(name, credit=credit)
        kind, *_ = await self.next()
        assert kind is Type.WELCOME

    async def next(self) -> Frame:
        """The next frame of the link; raises EOFError at the end, TimeoutError after 15 s."""
        known = len(self.heard)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) == known:
                if await self._message() == CLOSE:
                    raise EOFError
        return self.heard[known]

    async def opened(self) -> int:
        """The number of the stream that the server opens next."""
        while True:
            kind, _, number, _ = await self.next()
            if kind is Type.OPEN:
                return number

    async def ended(self, *, cut: bool = False) -> str:
        """Read to the end, which must come within 15 s; the reason of the server's goodbye, empty without one.

        The end is the server's closing message, or with ``cut`` that of the connection.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self._message() != CLOSE or cut:
                    pass
        except (EOFError, ConnectionError):
            pass
        goodbyes = [payload for kind, _, _, payload in self.heard if kind is Type.GOAWAY]
        return messages.parse_farewell(goodbyes[0]).reason if goodbyes else ""

    async def _message(self) -> int:
        """Read one frame of the WebSocket; its opcode."""
        first, size = await self._reader.readexactly(2)
        if size >= 126:
            wide = await self._reader.readexactly(2 if size == 126 else 8)
            size = int.from_bytes(wide, "big")
        payload = await self._reader.readexactly(size)
        if first & 15 == BINARY:
            self.heard += parse(payload)
        return first & 15


@asynccontextmanager
async def raw_peer(
    url: str, name: str, headers: Mapping[str, str], *, context: SSLContext | None = None, receive_bytes: int = 0
) -> AsyncIterator[RawPeer]:
    """A connection at the place where the node ``name`` connects; raises Turned for an answer that is not 101."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = socket.socket()
    connection.setblocking(False)
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(connection, (parts.hostname, parts.port))
    tls: dict[str, Any] = {} if context is None else {"ssl": context, "server_hostname": parts.hostname}
    reader, writer = await asyncio.open_connection(sock=connection, limit=receive_bytes or 65536, **tls)
    try:
        writer.write(handshake(parts.netloc, name, headers))
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status != 101:
            raise Turned(status)
        yield RawPeer(reader, writer)
    finally:
        writer.transport.abort()


def handshake(host: str, name: str, headers: Mapping[str, str]) -> bytes:
    """The request that opens a link (RFC 6455 4.1)."""
    given = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
        **headers,
    }
    lines = [f"GET /pipe/link/{name} HTTP/1.1", *(f"{key}: {value}" for key, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode()


class Turned(Exception):
    """The gateway answered the handshake with that status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def opening(number: int, method: str = "POST", target: str = "hold", **changes: Any) -> bytes:
    """An OPEN frame of a call of the server's handlers; ``changes`` are fields as they should not be."""
    fields = {"kind": "noun", "method": method, "target": target, "headers": [], "node": "", "call": "", "key": ""}
    values = {**fields, "timeout_ms": None, **changes}
    return frame(Type.OPEN, number, json.dumps(list(values.values())).encode())


def answer(number: int, body: bytes, *headers: tuple[str, str]) -> tuple[bytes, bytes]:
    """HEAD and DATA of a whole answer."""
    head = frame(Type.HEAD, number, json.dumps([200, 0, headers]).encode())
    return head, frame(Type.DATA, number, body, fin=True)
