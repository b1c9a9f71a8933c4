"""A relay between a client and a server: it counts what passes, and damages it when told to.

It holds little itself, so that what it counted is about what the client has taken.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.core.raw_servers import listening

_PIECE_BYTES = 16 << 10
_BUFFER_BYTES = 64 << 10


@dataclass
class Exchange:
    """A request and, as it comes, its answer. ``path`` is as it was sent; ``sent_bytes`` of the answer's body."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    sent_bytes: int = 0

    @property
    def first_byte(self) -> int:
        """Offset in the file of the first byte of the answer's body."""
        match = re.match(r"bytes (\d+)-", self.answer_headers.get("content-range", ""))
        return int(match[1]) if match else 0


@dataclass
class Relay:
    """``url`` for the client. ``before`` is awaited with each exchange before its request is passed on.

    ``server_url`` may be told after the block has begun, for a server that is to know ``url`` when it starts.
    """

    server_url: str
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    before: Callable[[Exchange], Awaitable[None]] | None = None
    _flips: list[tuple[str, int]] = field(default_factory=list)

    def flip(self, path: str, offset: int) -> None:
        """Change this byte of the file the first time it passes."""
        self._flips.append((path, offset))

    @property
    def flips_left(self) -> int:
        """Of those that were told."""
        return len(self._flips)

    def of(self, path: str) -> list[Exchange]:
        """Exchanges about ``path``."""
        return [exchange for exchange in self.exchanges if exchange.path == path]

    def sent_bytes(self, path: str) -> int:
        """Bytes of all bodies of answers about ``path``."""
        return sum(exchange.sent_bytes for exchange in self.of(path))

    def touch(self, exchange: Exchange, piece: bytes) -> bytes:
        """``piece`` with what is to be flipped in it."""
        begin = exchange.first_byte + exchange.sent_bytes
        for path, offset in list(self._flips):
            if path == exchange.path and begin <= offset < begin + len(piece):
                self._flips.remove((path, offset))
                at = offset - begin
                piece = piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]
        return piece


@asynccontextmanager
async def relaying(server_url: str = "") -> AsyncIterator[Relay]:
    """A relay to ``server_url`` for the block."""
    relay = Relay(server_url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        writer.transport.set_write_buffer_limits(0)
        host, port = relay.server_url.removeprefix("http://").split(":")
        below, above = await asyncio.open_connection(host, int(port))
        try:
            while await _pass(relay, (reader, writer), (below, above)):
                pass
        finally:
            above.transport.abort()

    async with listening(serve) as own:
        relay.url = f"http://127.0.0.1:{own}"
        yield relay


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _pass(relay: Relay, client: _Streams, server: _Streams) -> bool:
    """One exchange; whether the connection can take another."""
    head = await client[0].readuntil(b"\r\n\r\n")
    start, headers = _parsed(head)
    method, path, _ = start.split(" ")
    exchange = Exchange(method, path, headers)
    body = await client[0].readexactly(int(headers.get("content-length", "0")))
    if relay.before is not None:
        await relay.before(exchange)
    relay.exchanges.append(exchange)
    server[1].write(head + body)
    answer = await server[0].readuntil(b"\r\n\r\n")
    start, exchange.answer_headers = _parsed(answer)
    exchange.status = int(start.split(" ")[1])
    client[1].write(answer)
    if method != "HEAD" and exchange.status not in {204, 304}:
        async for piece in _body(server[0], exchange.answer_headers):
            client[1].write(piece if exchange.answer_headers.get("transfer-encoding") else relay.touch(exchange, piece))
            exchange.sent_bytes += len(piece)
            await client[1].drain()
    return "close" not in (headers.get("connection", "").lower(), exchange.answer_headers.get("connection", "").lower())


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """The body as it stands on the wire; raises IncompleteReadError when it is cut."""
    if "chunked" in headers.get("transfer-encoding", ""):
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            yield line + await reader.readexactly(size + 2)
        return
    left = int(headers["content-length"])
    while left:
        piece = await reader.read(min(left, _PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    return start, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
