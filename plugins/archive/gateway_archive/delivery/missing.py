"""CRC-32s that the end of an archive needs and nobody has yet: waited for, else read from the sources."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import overload

from isal.isal_zlib import crc32

from gateway_archive.delivery.archive import Archive, Serving
from gateway_archive.delivery.archives import Archives
from gateway_archive.delivery.tracker import Tracker
from gateway_archive.feed import Feed
from gateway_archive.layout.model import Segment
from gateway_core import SourceFailed, SourceRequest

_LITTLE_BYTES = 1 << 20
"""Up to this is read at once rather than waited for, when another process may have served it."""
_SAVED_WITHIN_S = 3.0
"""An answer of another process has written down by then what it served."""
_LOOK_EVERY_S = 0.5
_LOOKED_AT_ONCE = 10_000
_ROUNDS = 5
_LOOKS = 60
_PATIENCE = 8
"""So many looks in a row without any progress of others, then it is read after all."""


class _Gaps(Sequence[SourceRequest]):
    """Requests for what is missing, made when they are asked for."""

    def __init__(self, archive: Archive, *, stall_s: float) -> None:
        self._archive, self._stall_s = archive, stall_s
        self.entries, self.starts, self.ends = array("q"), array("q"), array("q")

    async def find(self, entries: Iterable[int]) -> None:
        """Add the gaps of ``entries`` that are not lost."""
        archive = self._archive
        for number, entry in enumerate(entries, 1):
            if entry not in archive.losses:
                for start, end in archive.segments.missing(entry):
                    self.entries.append(entry)
                    self.starts.append(start)
                    self.ends.append(end)
            if not number % _LOOKED_AT_ONCE:
                await asyncio.sleep(0)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> SourceRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SourceRequest]: ...
    def __getitem__(self, index: int | slice) -> SourceRequest | Sequence[SourceRequest]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        archive, entry = self._archive, self.entries[index]
        return archive.request(entry, self.starts[index], self.ends[index], stall_s=self._stall_s)

    @property
    def total_bytes(self) -> int:
        """Of all gaps."""
        return sum(self.ends) - sum(self.starts)

    def gap(self, index: int) -> tuple[int, int, int]:
        """``(entry, start, end)``."""
        return self.entries[index], self.starts[index], self.ends[index]

    def bytes(self, index: int) -> int:
        """How many are missing there."""
        return self.ends[index] - self.starts[index]


class MissingSums:
    """Completes CRC-32s of one archive on behalf of one answer."""

    def __init__(self, archive: Archive, archives: Archives, tracker: Tracker) -> None:
        self._archive, self._archives, self._tracker = archive, archives, tracker
        self.reading = 0
        """The entry that is read, or was read last."""

    async def complete(self, entries: Iterable[int], me: Serving | None = None) -> None:
        """Until the CRC-32 of each of ``entries`` is known; those that are lost do not count.

        What an answer of this process is about to serve, or another process is seen to serve, is waited for. Raises
        what reading the rest from its source raises.
        """
        asked = list(entries)
        if me is not None:
            me.waits = True
        try:
            for _ in range(_ROUNDS):  # what others bring meanwhile may take the place of what was read
                await self._patiently(asked, me)
                gaps = await self._gaps(asked)
                if not gaps:
                    return
                await self._read(gaps)
            if await self._gaps(asked):
                raise SourceFailed("its CRC-32 cannot be had")
        finally:
            if me is not None:
                me.waits = False

    async def _patiently(self, asked: Sequence[int], me: Serving | None) -> None:
        """Wait while others are seen to do the work, for half a minute at most: some clients are slow."""
        archive, idle, left = self._archive, 0, -1
        for _ in range(_LOOKS):
            await self._archives.witness.refresh(archive)
            gaps = await self._gaps(asked)
            if not gaps:
                return
            large = max(range(len(gaps)), key=gaps.bytes)
            soon = any(archive.comes_soon(gaps.gap(index), me) for index in (0, large, len(gaps) - 1))
            if not soon and gaps.total_bytes <= _LITTLE_BYTES:
                return
            idle = idle + 1 if gaps.total_bytes == left else 0
            if idle > _PATIENCE or (not soon and not await self._tracker.others_lately(_SAVED_WITHIN_S)):
                return
            left = gaps.total_bytes
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _gaps(self, asked: Sequence[int]) -> _Gaps:
        gaps = _Gaps(self._archive, stall_s=self._archives.stall_s)
        await gaps.find(asked)
        return gaps

    async def _read(self, gaps: _Gaps) -> None:
        """Read what is missing and throw the bytes away."""
        async with self._archives.feed(
            gaps, large=lambda index: gaps.bytes(index) > self._archives.small_bytes
        ) as feed:
            for index in range(len(gaps)):
                entry, start, end = gaps.gap(index)
                self.reading = entry
                read = Segment(entry, start, 0, 0)
                try:
                    async with aclosing(self._chunks(feed, index, entry)) as chunks:
                        async for chunk in chunks:
                            read = read._replace(length=read.length + len(chunk), crc32=crc32(chunk, read.crc32))
                            if read.end > end:
                                raise SourceFailed(f"it gave more than {end - start} bytes")
                finally:  # whoever comes next begins where this one was left
                    if start < read.end <= end:
                        self._tracker.read_only(read.length)
                        self._tracker.keep(read)
                        self._archive.segments.add(read)
                if read.end < end:
                    raise SourceFailed(f"it gave {read.length} and not {end - start} bytes")

    async def _chunks(self, feed: Feed, index: int, entry: int) -> AsyncGenerator[bytes, None]:
        whole = await feed.take(index)
        if whole is not None:
            self._archive.expect(entry, whole.info)
            yield whole.data
            return
        async with feed.stream(index) as reader:
            self._archive.expect(entry, reader.info)
            async for chunk in reader:
                yield chunk
