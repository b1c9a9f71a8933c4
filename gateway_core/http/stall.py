"""Clients that stop taking what is written to them."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from types import TracebackType
from typing import Self

from aiohttp import web

_LINGER_ZERO = struct.pack("ii", 1, 0)


class StallGuard:
    """While entered, cuts the client of ``request`` when it takes nothing of what waits for it during ``stall_s``.

    What it takes is seen at its kernel's acknowledgements, so that a slow reader behind large socket buffers is not
    mistaken for a dead one. One timer looks four times in ``stall_s``; writes cost nothing. ``reason`` says, for
    ClientGone, whose doing the end was.
    """

    def __init__(self, request: web.BaseRequest, stall_s: float) -> None:
        self.reason = "closed the connection"
        self._request = request
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._seen = (0, 0)
        self._since = 0.0

    def __enter__(self) -> Self:
        self._look_later()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(self._stall_s / 4, self._look)

    def _look(self) -> None:
        transport = self._request.transport
        if transport is None:
            return
        now, seen = self._loop.time(), (self._request.writer.output_size, _untaken_bytes(transport))
        if not self._request.protocol.writing_paused or seen != self._seen:
            self._seen, self._since = seen, now
        elif now - self._since >= self._stall_s:
            self.reason = f"took nothing for {self._stall_s:g} s"
            reset_connection(self._request)
            return
        self._look_later()


def reset_connection(request: web.BaseRequest) -> None:
    """Close with RST: the peer cannot take it for an orderly end, and the kernel drops what it still held for it."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()


def _untaken_bytes(transport: asyncio.Transport) -> int:
    """Bytes the peer has not acknowledged, in the transport's buffer and in the kernel's (tcp(7) SIOCOUTQ)."""
    connection = transport.get_extra_info("socket")
    queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)) if connection is not None else bytes(4)
    return transport.get_write_buffer_size() + int(struct.unpack("i", queued)[0])
