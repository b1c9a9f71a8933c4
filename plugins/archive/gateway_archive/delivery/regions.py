"""The bytes of a range in order: regions of entries from their sources, then the tail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

from isal.isal_zlib import crc32

from gateway_archive.delivery.archive import Archive, Serving
from gateway_archive.delivery.archives import Archives
from gateway_archive.delivery.failing import Failing
from gateway_archive.delivery.missing import MissingSums
from gateway_archive.delivery.recorder import Recorder
from gateway_archive.delivery.tracker import Tracker
from gateway_archive.delivery.wanted import Wanted
from gateway_archive.feed import Feed, Whole
from gateway_archive.layout.model import Part
from gateway_archive.packing import BATCH_BYTES
from gateway_archive.report import render_report
from gateway_archive.zip_writer import Piece
from gateway_core import SourceError, SourceFailed

_ZEROS: Final = bytes(256 << 10)
_SHARE_LOOP_ENTRIES: Final = 256


class Regions:
    """Gives the batches of one answer, which must be written before the next one is asked for.

    ``failing`` decides what becomes of it when a source fails; its ``begun`` must be set once the head is out.
    """

    def __init__(self, archive: Archive, archives: Archives, tracker: Tracker, *, failing: Failing) -> None:
        self._archive, self._archives, self._tracker, self._failing = archive, archives, tracker, failing
        self._missing = MissingSums(archive, archives, tracker)
        self._journal = archives.witness.journal(archive)
        self._recorder = Recorder(archive, self._journal, tracker.keep)
        tracker.current = lambda: self._recorder.current
        self._pending: list[Piece] = []
        self._pending_bytes = 0
        self._offset = 0
        self._has_data = False

    def done(self) -> None:
        """All was given, and the tracker's end is near: nothing is waited for, as the client may be gone already."""
        self._tracker.close_at_end(self._journal)

    async def close(self) -> None:
        """What was noted on this machine goes as soon as it is in the database."""
        try:
            await self._tracker.save_sums()
            self._journal.close()
        finally:
            self._journal.leave()

    async def batches(self, first: int, end: int) -> AsyncGenerator[Sequence[Piece], None]:
        """Bytes ``first`` to before ``end`` of the archive.

        The first batch has data of a source, unless much comes before that. Raises what ``failing`` raises.
        """
        tail = self._archive.layout.tail_offset
        self._offset = first
        if first < tail:
            async with aclosing(self._entries(first, min(end, tail))) as batches:
                async for batch in batches:
                    yield batch
        if end > tail:
            async with aclosing(self._tail(max(first, tail) - tail, end - tail)) as batches:
                async for batch in batches:
                    yield batch

    async def _entries(self, first: int, end: int) -> AsyncGenerator[Sequence[Piece], None]:
        archive, archives = self._archive, self._archives
        wanted = Wanted(archive, first, end, stall_s=archives.stall_s)
        index = 0
        with archive.serving(wanted.last) as here:
            async with archives.feed(wanted, large=lambda at: wanted.bytes(at) > archives.small_bytes) as feed:
                for entry in range(wanted.begin, wanted.last + 1):
                    part = wanted.part(entry)
                    here.entry, here.position = entry, part.source_start
                    self._put(part.lead)
                    if index < len(wanted) and wanted.entries[index] == entry:
                        if await self._must_wait(feed, index):
                            yield self._take()
                        try:
                            whole = await feed.take(index)
                            if whole is not None:
                                self._whole(part, whole, here)
                            else:
                                async with aclosing(self._streamed(part, feed, index, here=here)) as batches:
                                    async for batch in batches:
                                        yield batch
                        except SourceError as error:
                            await self._failed(part, error, wanted, feed=feed, index=index, here=here)
                        index += 1
                    end_of_source = part.source_start + part.source_bytes
                    while here.position < end_of_source:  # of what is lost
                        self._data(part, _ZEROS[: end_of_source - here.position], here)
                        if self._pending_bytes >= BATCH_BYTES:
                            yield self._take()
                    self._put(part.trail(await self._shown_crc32(part, here)))
                    if self._pending_bytes >= BATCH_BYTES:
                        yield self._take()
                    if not entry % _SHARE_LOOP_ENTRIES:  # those without data wait for nothing
                        await asyncio.sleep(0)
        if self._pending:
            yield self._take()

    async def _must_wait(self, feed: Feed, index: int) -> bool:
        """Whether there is something to send while the next file is not there, nor comes in one turn of the loop."""
        if not self._pending or not self._has_data or feed.ready(index):
            return False
        await asyncio.sleep(0)
        return not feed.ready(index)

    async def _shown_crc32(self, part: Part, here: Serving) -> int:
        """Of the entry, where it is shown: wrong on purpose for one that is lost."""
        archive, entry = self._archive, part.entry
        if not part.needs_crc32:
            return 0
        if archive.crc32(entry) is None and entry not in archive.losses:
            try:
                await self._missing.complete([entry], here)
            except SourceError as error:
                raise await self._failing.verdict(entry, error) from error
        if entry in archive.losses:
            return ~crc32(archive.frozen[entry].name.encode()) & 0xFFFFFFFF  # the same at every try
        return self._crc32(entry)

    def _crc32(self, entry: int) -> int:
        """Of the file as it went out here, where others may have had another; else what all answers know."""
        own = self._recorder.own.get(entry)
        return self._archive.sure_crc32(entry) if own is None else own

    def _whole(self, part: Part, whole: Whole, here: Serving) -> None:
        """Put a file that was fetched ahead; raises SourceError when it is not the right one."""
        self._archive.expect(part.entry, whole.info)
        if len(whole.data) != part.source_bytes:
            raise SourceFailed(f"it gave {len(whole.data)} and not {part.source_bytes} bytes")
        self._recorder.begin(part.entry, part.source_start)
        self._came(part.entry, whole.data, last=True)
        self._data(part, whole.data, here)

    async def _streamed(
        self, part: Part, feed: Feed, index: int, *, here: Serving
    ) -> AsyncGenerator[Sequence[Piece], None]:
        """Batches of a file as it comes; raises SourceError before the last bytes of one that is not the right one."""
        entry, left = part.entry, part.source_bytes
        to_end = part.source_start + left == self._archive.frozen.size(entry)
        self._tracker.entry = self._archive.frozen[entry].name
        async with feed.stream(index) as reader:
            self._archive.expect(entry, reader.info)
            unsized = to_end and reader.info.size_bytes is None  # then only its end tells that it is as long as frozen
            self._recorder.begin(entry, part.source_start)
            try:
                async for chunk in reader:
                    left -= len(chunk)
                    if left < 0 or (not left and unsized and await _goes_on(reader)):
                        raise SourceFailed("it sent more than it announced")
                    self._came(entry, chunk, last=not left)
                    self._data(part, chunk, here)
                    yield self._take()  # a slow source is no reason for silence
                    if not left:
                        return
            finally:
                self._recorder.end()
        raise SourceFailed(f"it ended {left} bytes early")

    def _data(self, part: Part, chunk: bytes, here: Serving) -> None:
        """Put the next source bytes of a part."""
        here.position += len(chunk)
        pieces = part.frame(chunk)
        self._pending += pieces
        self._pending_bytes += sum(map(len, pieces))
        self._has_data = True

    async def _failed(
        self, part: Part, error: SourceError, wanted: Wanted, *, feed: Feed, index: int, here: Serving
    ) -> None:
        """Raise what ends the answer, unless zeros may stand for the rest of the part."""
        given, offset = here.position - part.source_start, self._offset + self._pending_bytes
        if not await self._failing.may_go_on(part, error, given=given, offset=offset):
            others = await self._failing.others(wanted, feed, index)
            raise await self._failing.verdict(part.entry, error, others=others) from error

    def _came(self, entry: int, chunk: bytes, *, last: bool) -> None:
        """Take note of source bytes; with the ``last`` ones the whole is proven, where it can be."""
        self._tracker.source_bytes += len(chunk)
        self._recorder.data(chunk)
        if not last:
            return
        archive, frozen = self._archive, self._archive.frozen[entry]
        known = archive.crc32(entry)
        self._recorder.end()
        self._tracker.entry = frozen.name
        found = archive.crc32(entry)
        if known is None and found is not None and frozen.validator is not None:
            self._tracker.learn(frozen, found)

    async def _tail(self, first: int, end: int) -> AsyncGenerator[Sequence[Piece], None]:
        """Bytes of the tail, counted from its begin."""
        archive, layout = self._archive, self._archive.layout
        if layout.tail_needs_crc32 or layout.can_lose:  # with what was lost elsewhere
            try:
                await self._missing.complete(archive.segments.incomplete())
            except SourceError as error:
                raise await self._failing.verdict(self._missing.reading, error) from error
        archive.listed = True
        for piece in layout.tail(self._crc32, lost=archive.losses.keys(), report=self._report()):
            wanted = piece[max(0, first) : end]
            first, end = first - len(piece), end - len(piece)
            if wanted:
                self._put(wanted)
                yield self._take()
            await asyncio.sleep(0)  # each takes milliseconds, and a fast client never makes it wait
            if end <= 0:
                return

    def _report(self) -> bytes | None:
        archive = self._archive
        failures = [*archive.frozen.failures, *archive.losses.values()]
        if not failures or not archive.reports:
            return None
        packed = archive.frozen.file_count - len(archive.losses)
        return render_report(failures, packed=packed, limit_bytes=archive.layout.report_room(archive.losses.keys()))

    def _put(self, piece: Piece) -> None:
        if piece:
            self._pending.append(piece)
            self._pending_bytes += len(piece)

    def _take(self) -> Sequence[Piece]:
        """What is to be written now; what it tells of the sources is noted before."""
        self._recorder.flush()
        batch, self._pending = self._pending, []
        self._offset += self._pending_bytes
        self._pending_bytes = 0
        return batch


async def _goes_on(chunks: AsyncIterator[bytes]) -> bool:
    """Whether there is one more."""
    async for _ in chunks:
        return True
    return False
