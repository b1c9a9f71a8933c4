"""One end of a socket to the zygote or to a box, for the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any

from gateway_transform.box.wire import WireError, decode, encode, length_of

_HEAD_BYTES = 4
_READ_BYTES = 64 << 10


class Channel:
    """Messages over ``sock``, which it owns; one task receives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = bytearray()
        self._sending = asyncio.Lock()

    def close(self) -> None:
        """Close the socket; the other side sees the end."""
        self._sock.close()

    def shut(self) -> None:
        """Both sides see the end, and whoever receives here."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    async def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message and copies of ``fds``; raises OSError when the other side is gone."""
        data = encode(message)
        async with self._sending:
            while fds:
                try:
                    data = data[socket.send_fds(self._sock, [data], list(fds)) :]
                    break
                except BlockingIOError:
                    await _writable(self._sock)
            if data:  # even sending nothing fails when the other side has done its work and gone
                await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self) -> dict[str, Any] | None:
        """The next message, None at the end; raises WireError for nonsense. Cancelled, it loses nothing.

        Whoever sends without an end cannot keep others from their turns in the loop by it.
        """
        await asyncio.sleep(0)
        head = await self._upto(_HEAD_BYTES)
        if head is None:
            return None
        whole = await self._upto(_HEAD_BYTES + length_of(bytes(head[:_HEAD_BYTES])))
        if whole is None:
            raise WireError("closed in the middle of a message")
        message = decode(bytes(whole[_HEAD_BYTES:]))
        del self._received[: len(whole)]
        return message

    async def _upto(self, count: int) -> bytearray | None:
        """The next ``count`` bytes without taking them, None when the other side has closed before."""
        loop = asyncio.get_running_loop()
        while len(self._received) < count:
            try:
                data = await loop.sock_recv(self._sock, _READ_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._received += data
            if len(self._received) < count:
                await asyncio.sleep(0)  # sock_recv itself waits only when there is nothing to read
        return self._received[:count]


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)
