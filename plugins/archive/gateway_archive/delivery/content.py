"""Any range of an archive of known length, fetched from its sources while it is sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Protocol

from gateway_archive.delivery.archive import Archive
from gateway_archive.delivery.archives import Archives
from gateway_archive.delivery.failing import Failing, Refrozen
from gateway_archive.delivery.regions import Regions
from gateway_archive.delivery.tracker import Tracker
from gateway_archive.zip_writer import Piece
from gateway_core.http.ranges import ByteRange
from gateway_core.settled import settled

_SMALL_ANSWER_BYTES = 64 << 10


class BodyWriter(Protocol):
    """Takes the bytes of an answer."""

    async def write(self, *buffers: Piece) -> None:
        """Send them, and wait for the client."""


class ArchiveContent:
    """The body of one answer; used by one task, in the order of the parts that ``prepare`` was told.

    What fails before the head raises UpstreamFailed or Refrozen, after it Aborted: the connection must be cut then.
    """

    def __init__(self, archive: Archive, archives: Archives, tracker: Tracker, *, whole: bool) -> None:
        self._archive, self._archives, self._tracker = archive, archives, tracker
        self._whole = whole
        self._failing = Failing(archive, archives, tracker, whole=whole)
        self._regions = Regions(archive, archives, tracker, failing=self._failing)
        self._open: dict[ByteRange, AsyncGenerator[Sequence[Piece], None]] = {}
        self._first: Sequence[Piece] | None = None
        self._small: dict[ByteRange, bytes] = {}
        self._stack = AsyncExitStack()

    @property
    def size_bytes(self) -> int:
        """Of the whole archive."""
        return self._archive.layout.total_bytes

    async def prepare(self, parts: Sequence[ByteRange]) -> None:
        """Fetch until the first bytes are there, all of them where they are few; then nothing but the sources fails."""
        self._tracker.of_layout(self._archive.layout.etag, self.size_bytes)
        if sum(part.length for part in parts) <= _SMALL_ANSWER_BYTES:
            for part in parts:
                async with aclosing(self._batches(part)) as batches:
                    self._small[part] = b"".join([bytes(piece) async for batch in batches for piece in batch])
        elif parts:
            batches = self._batches(parts[0])
            await self._stack.enter_async_context(aclosing(batches))
            self._first = await anext(batches)
            self._open[parts[0]] = batches
        if not await self._archives.commit(self._archive):
            raise Refrozen(await self._archives.open(self._archive.ticket, self._archive.format_name))
        self._failing.begun = True
        if self._whole:
            for failure in (*self._archive.frozen.failures, *self._archive.losses.values()):
                self._tracker.lost(failure)

    async def read(self, part: ByteRange) -> bytes:
        """A part of an answer that was small enough to be prepared whole."""
        found = self._small[part]
        self._sent(part.first, len(found), begins=True)
        return found

    async def send(self, writer: BodyWriter, part: ByteRange) -> None:
        """Write a part as its bytes come."""
        first, self._first = self._first, None
        batches = self._open.get(part) or self._batches(part)
        async with aclosing(batches):
            self._tracker.span(part.first)
            if first is not None:
                await self._write(writer, first)
            async for batch in batches:
                await self._write(writer, batch)

    async def close(self, *, done: bool) -> None:
        """Leave no connection behind; what is ``done`` gave all that was wanted, and must stay so for the owner."""
        try:
            await self._stack.aclose()
        finally:
            if done:
                self._regions.done()
            else:
                await settled(self._regions.close())

    async def _write(self, writer: BodyWriter, batch: Sequence[Piece]) -> None:
        self._tracker.check()
        self._sent(0, sum(map(len, batch)), begins=False)
        await writer.write(*batch)

    def _sent(self, first: int, size: int, *, begins: bool) -> None:
        if begins:
            self._tracker.span(first)
        self._tracker.sent(size)

    def _batches(self, part: ByteRange) -> AsyncGenerator[Sequence[Piece], None]:
        return self._regions.batches(part.first, part.last + 1)


@asynccontextmanager
async def archive_content(
    archive: Archive, archives: Archives, tracker: Tracker, *, whole: bool
) -> AsyncIterator[ArchiveContent]:
    """The body of one answer; ``whole`` says that the archive is sent from its first byte to its last."""
    content, done = ArchiveContent(archive, archives, tracker, whole=whole), False
    try:
        yield content
        done = True
    finally:
        await content.close(done=done)
