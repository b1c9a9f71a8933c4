"""A TCP proxy whose connections are cut: after a random number of bytes, or all at once."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CuttingProxy:
    """Between a node and its server. While ``cutting``, a connection bears ``bytes_between`` bytes, both ways together.

    ``cuts`` counts what was cut, ``connections`` what was let in.
    """

    def __init__(self, target: tuple[str, int], *, seed: int, bytes_between: tuple[int, int]) -> None:
        self.port = 0
        self.cuts = 0
        self.connections = 0
        self.cutting = False
        self._target = target
        self._random = random.Random(seed)
        self._bytes_between = bytes_between
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CuttingProxy]:
        """Until the end of the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut_all()
            if self._serving:
                await asyncio.wait(self._serving, timeout=10)

    def lead_to(self, target: tuple[str, int]) -> None:
        """New connections go there."""
        self._target = target

    def cut_all(self) -> None:
        """Reset every connection, on both sides."""
        for writer in list(self._open):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            there, here = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        self.connections += 1
        self._open |= {writer, here}
        left = [self._random.randint(*self._bytes_between)]
        pumps = [
            asyncio.create_task(self._pump(reader, here, left)),
            asyncio.create_task(self._pump(there, writer, left)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for end in (writer, here):
                self._open.discard(end)
                _reset(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]) -> None:
        try:
            while data := await reader.read(self._random.randint(1, 4096)):
                if self.cutting and len(data) >= left[0]:
                    writer.write(data[: left[0]])
                    self.cuts += 1
                    return
                left[0] -= len(data) if self.cutting else 0
                writer.write(data)
                await writer.drain()
        except OSError:
            return


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
