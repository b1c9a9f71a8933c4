"""One request and its answer on the wire: the strokes that faults are made of."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from gateway_core.testing.upstream_answer import Answer, Framing

CHUNK_BYTES = 65_536
"""Size of the pieces that are written, and of the chunks of chunked framing."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Exchange:
    """An answer about to be sent.

    ``gone`` is set when the peer closed, ``released`` when stalls may go on; ``progress`` is called as bytes leave.
    """

    answer: Answer
    writer: asyncio.StreamWriter
    gone: asyncio.Event
    released: asyncio.Event
    progress: Callable[[], None]

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        return not (self.answer.close or self.answer.request.wants_close or self.answer.framing is Framing.CLOSE)

    async def write(self, data: bytes) -> None:
        """Any bytes, waiting until the kernel takes more; raises ConnectionError when the peer is gone."""
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0)  # drain() returns at once while the peer keeps up: others must get their turn

    async def send(self) -> None:
        """The whole answer as it should be."""
        await self.head()
        await self.body()
        await self.end()

    async def head(self) -> None:
        """Status line and fields."""
        answer = self.answer
        answer.request.status = answer.status
        lines = [f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.framing is Framing.LENGTH and "Content-Length" not in answer.headers:
            lines.append(f"Content-Length: {answer.size_bytes}")
        if answer.framing is Framing.CHUNKED:
            lines.append("Transfer-Encoding: chunked")
        if not (self.keeps_alive or answer.close):
            lines.append("Connection: close")
        await self.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def body(self, start: int = 0, stop: int | None = None) -> None:
        """The body's bytes from ``start`` to ``stop``; calls that follow on each other keep the chunks whole."""
        answer = self.answer
        if not answer.has_body:
            return
        stop = answer.size_bytes if stop is None else min(stop, answer.size_bytes)
        while start < stop:
            chunk_end = min(start - start % CHUNK_BYTES + CHUNK_BYTES, answer.size_bytes)
            end = min(chunk_end, stop)
            data = answer.content[answer.start + start : answer.start + end]
            if answer.framing is Framing.CHUNKED:
                size_line = b"" if start % CHUNK_BYTES else b"%x\r\n" % (chunk_end - start)
                data = size_line + data + (b"\r\n" if end == chunk_end else b"")
            await self.write(data)
            answer.request.sent_bytes += end - start
            self.progress()
            start = end

    async def end(self) -> None:
        """What tells the end of the body."""
        if self.answer.framing is Framing.CHUNKED and self.answer.has_body:
            await self.write(b"0\r\n\r\n")

    async def begin(self, after: int | None) -> None:
        """Head and ``after`` bytes of the body, nothing at all when None: what comes before a fault."""
        if after is not None:
            await self.head()
            await self.body(0, after)

    async def stall(self, seconds: float | None = None) -> None:
        """Nothing for so long, or until released; raises ConnectionResetError when the peer leaves first."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.gone, self.released)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.gone.is_set():
            raise ConnectionResetError("the peer left")

    def reset(self) -> None:
        """RST instead of FIN; bytes the peer's kernel had not taken yet are lost with it."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
