"""Big answers, written so that a broken one is never mistaken for a whole one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from gateway_core.http.gone import ClientGone
from gateway_core.http.stall import StallGuard, reset_connection

STALL_S = 30.0
"""A client that takes nothing for this long is cut."""

_HIGH_WATER_BYTES = 64 * 1024  # 256 KiB and 1 MiB were no faster on loopback
_JOIN_BELOW_BYTES = 16 * 1024
_MAX_PIECES = 1000  # IOV_MAX of Linux is 1024
_SHARE_LOOP_BYTES = 4 * 1024 * 1024

Buffer = bytes | bytearray | memoryview


@asynccontextmanager
async def open_response(
    request: web.BaseRequest, response: web.StreamResponse, *, stall_s: float = STALL_S
) -> AsyncIterator[ResponseWriter]:
    """Send the head of ``response`` and give the writer of its body; the handler returns ``response`` afterwards.

    Leaving normally finishes the answer, leaving with any exception cuts the connection, so that the client sees an
    incomplete body whatever its framing: chunked, Content-Length, or the close of HTTP/1.0. Raises ClientGone.
    """
    if response.compression:
        raise ValueError("a compressed response cannot be streamed")
    with StallGuard(request, stall_s) as stall:
        writer = ResponseWriter(request, response, stall)
        try:
            await writer.begin()
            yield writer
            if not writer.ended:
                await writer.finish()
        finally:
            if not writer.ended:
                writer.abort()


class ResponseWriter:
    """Writes the body of one answer; made by ``open_response``. ``sent_bytes`` counts the body, without framing.

    Where the answer has no body (HEAD, 204, 304: ``bodyless``) writes are dropped. ``direct`` says that ``write_from``
    can be used: the bytes go over the socket as they are. A slow client costs 64 KiB and one write at most.
    """

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, stall: StallGuard) -> None:
        self.sent_bytes = 0
        self.ended = False
        self._request = request
        self._response = response
        self._stall = stall
        self.bodyless = request.method == "HEAD" or response.status in {204, 304}
        self.direct = False
        self._expected = None if self.bodyless else response.content_length
        self._ended_by_close = request.version < (1, 1) and self._expected is None and not self.bodyless
        self._chunked = False
        self._unshared_bytes = 0
        self._descriptor: int | None = None

    async def begin(self) -> None:
        """Send the head; ``open_response`` does it."""
        if self._ended_by_close:  # aiohttp would keep an HTTP/1.0 keep-alive connection open: a body without an end
            self._response.force_close()
        transport = self._transport()
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        await self._client(self._response.prepare(self._request))
        if transport.get_extra_info("sslcontext") is None:
            self._descriptor = transport.get_extra_info("socket").fileno()
        self._chunked = self._response.headers.get("Transfer-Encoding") == "chunked"
        self.direct = self._descriptor is not None and not self._chunked and not self.bodyless

    async def write(self, *buffers: Buffer) -> None:
        """Send ``buffers`` one after another, in one chunk where the answer is chunked, and wait for the client.

        Memoryviews must be of bytes. A buffer may be kept until it is sent, so it must not be changed any more. Raises
        ClientGone, and RuntimeError for more bytes than Content-Length promised or after the end.
        """
        size = sum(map(len, buffers))
        self._allow(size)
        if not size or self.bodyless:
            return
        transport = self._transport()
        pieces = (b"%x\r\n" % size, *buffers, b"\r\n") if self._chunked else buffers
        if size < _JOIN_BELOW_BYTES or len(pieces) > _MAX_PIECES:
            transport.write(b"".join(pieces))
        else:
            self._send(transport, pieces)
        await self._account(size)

    async def write_from(self, fd: int, offset: int, count: int) -> int:
        """Have the kernel send up to ``count`` bytes of a file from ``offset``; returns how many the socket took.

        Waits for what was written before, but never for room: 0 means that ``write`` must have the next bytes, because
        the socket is full, the file ends or cannot be sent like this. Pages that are not in memory are waited for by
        the whole loop, so the caller sees to them. Raises ClientGone and RuntimeError as ``write`` does, and
        RuntimeError where not ``direct``.
        """
        self._allow(count)
        if not self.direct or self._descriptor is None:
            raise RuntimeError("the answer's bytes do not go over the socket as they are")
        await self._flush()
        try:
            sent = os.sendfile(self._descriptor, fd, offset, count)
        except OSError:  # a full socket, or a broken one, or a file that breaks: the next write and its source tell
            return 0
        await self._account(sent)
        return sent

    async def finish(self) -> None:
        """End the answer and wait until the kernel has all of it.

        Raises ClientGone, and RuntimeError when Content-Length promised more bytes.
        """
        if self._expected is not None and self.sent_bytes != self._expected:
            raise RuntimeError(f"Content-Length is {self._expected}, {self.sent_bytes} bytes were sent")
        await self._client(self._response.write_eof())
        await self._flush()
        self.ended = True

    def abort(self) -> None:
        """Cut the connection: the client sees an incomplete body. For errors after the answer has begun."""
        self.ended = True
        if self._ended_by_close:  # a plain close would be its proper end
            reset_connection(self._request)
        elif self._request.transport is not None:
            self._request.transport.abort()

    def _allow(self, size: int) -> None:
        """Raise RuntimeError where ``size`` more bytes are none of the answer's."""
        if self.ended:
            raise RuntimeError("the answer has ended")
        if self._expected is not None and self.sent_bytes + size > self._expected:
            raise RuntimeError(f"Content-Length is {self._expected}, {self.sent_bytes + size} bytes were to be sent")

    async def _account(self, size: int) -> None:
        """Count ``size`` bytes that were written, and wait where the client is behind."""
        self.sent_bytes += size
        self._request.writer.output_size += size
        if self._request.protocol.writing_paused:
            await self._client(self._request.writer.drain())
        self._unshared_bytes += size
        if self._unshared_bytes > _SHARE_LOOP_BYTES:  # a fast client and a fast source would never let others run
            self._unshared_bytes = 0
            await asyncio.sleep(0)

    async def _flush(self) -> None:
        """Wait until the kernel has all that was written."""
        transport = self._transport()
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)  # drain now means empty, also for the stall guard
            await self._client(self._request.writer.drain())
            self._transport().set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    def _send(self, transport: asyncio.Transport, pieces: Sequence[Buffer]) -> None:
        """All pieces in one system call, without a copy; what the socket does not take is left to the transport.

        The transport alone would send piece by piece, or join them first (until Python 3.12).
        """
        sent = 0
        if self._descriptor is not None and not transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # a full socket, or a broken one: the transport tells which
                sent = os.writev(self._descriptor, pieces)
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
                continue
            if transport.is_closing():  # the client is gone, and asyncio warns of all that is still written to it
                return
            transport.write(memoryview(piece)[sent:])  # a view spares a copy of what the socket takes
            sent = 0

    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone(self._stall.reason)
        return transport

    async def _client(self, step: Awaitable[object]) -> None:
        """Await ``step``, which only the client can make fail."""
        try:
            await step
        except OSError as error:
            raise ClientGone(self._stall.reason) from error
