"""Stored bytes to answer with: a file, or an object of a storage that has no files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway_core import ObjectMissing, SourceChanged
from gateway_core.http.ranges import ByteRange
from gateway_core.http.representation import FileContent
from gateway_core.http.stream import ResponseWriter
from gateway_core.storage.base import Storage


@dataclass(frozen=True, slots=True)
class ObjectContent:
    """The Content of an object that only the storage can read."""

    storage: Storage
    key: str
    size_bytes: int

    async def prepare(self, parts: Sequence[ByteRange]) -> None:
        """See Content; the storage is asked for one part at a time."""

    async def read(self, part: ByteRange) -> bytes | bytearray:
        """See Content."""
        async with aclosing(self.pieces(part)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def send(self, writer: ResponseWriter, part: ByteRange) -> None:
        """See Content."""
        async with aclosing(self.pieces(part)) as pieces:
            async for piece in pieces:
                await writer.write(piece)

    async def pieces(self, part: ByteRange) -> AsyncGenerator[memoryview, None]:
        """Bytes of the part as they come. Of the whole, the end tells whether they were right."""
        left, whole = part.length, part.length == self.size_bytes
        async with self.storage.open(self.key, offset=part.first) as chunks:
            async for chunk in chunks:
                piece = memoryview(chunk)[:left]
                left -= len(piece)
                if piece:
                    yield piece
                if not left and not whole:
                    return
        if left:
            raise SourceChanged(f"{self.key} ends {left} bytes too early")


@asynccontextmanager
async def stored_content(storage: Storage, key: str) -> AsyncIterator[FileContent | ObjectContent]:
    """The object ``key`` until the end of the block, as a file where it is one; raises ObjectMissing, StorageError."""
    path = storage.local_path(key)
    if path is None:
        stored = await storage.stat(key)
        yield ObjectContent(storage, key, stored.size_bytes)
        return
    fd = await asyncio.to_thread(_opened, path)
    try:
        yield FileContent(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ObjectMissing(f"{path.name} was deleted meanwhile") from error
