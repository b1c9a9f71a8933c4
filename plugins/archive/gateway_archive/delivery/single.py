"""One source as it is, whole or in parts, of one version only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

from gateway_archive.delivery.tracker import Tracker
from gateway_archive.lanes import Lanes
from gateway_core import Source, SourceChanged, SourceFailed, SourceInfo, SourceRequest, SourceStream
from gateway_core.http.ranges import ByteRange
from gateway_core.http.stream import ResponseWriter

OpenSource = Callable[[SourceRequest], AbstractAsyncContextManager[SourceStream]]
"""Opens a source for whom it is for, and goes on where it breaks off."""


class SourceContent:
    """Bytes of the version that ``info`` tells of, whose ``size_bytes`` is known.

    ``begun`` is a stream of the whole of it, which is somebody else's to close; it serves the whole only. Every other
    part is opened when it is its turn. With ``prepared`` the first one has been: whatever fails then has failed on the
    way. ``tracker`` hears of what is sent, and ends it when the ticket is deleted.
    """

    def __init__(
        self,
        opened: OpenSource,
        request: SourceRequest,
        info: SourceInfo,
        *,
        tracker: Tracker | None = None,
        begun: SourceStream | None = None,
    ) -> None:
        if info.size_bytes is None:
            raise ValueError("parts of an unknown whole")
        self.info, self.prepared = info, False
        self._size = info.size_bytes
        self._open, self._request, self._tracker = opened, request, tracker
        self._stream = begun
        self._part = ByteRange(0, self._size - 1) if begun is not None and self._size else None
        self._opened: AbstractAsyncContextManager[SourceStream] | None = None

    @property
    def size_bytes(self) -> int:
        """The whole."""
        return self._size

    async def prepare(self, parts: Sequence[ByteRange]) -> None:
        """See Content: open the first part.

        Raises SourceChanged when the source has another version now, or cannot give that part of it; any SourceError
        when it cannot be had.
        """
        if parts:
            await self._at(parts[0])
        self.prepared = True

    async def read(self, part: ByteRange) -> bytearray:
        """See Content."""
        found = bytearray()
        async with aclosing(self._chunks(part)) as chunks:
            async for chunk in chunks:
                found += chunk
        return found

    async def send(self, writer: ResponseWriter, part: ByteRange) -> None:
        """See Content."""
        async with aclosing(self._chunks(part)) as chunks:
            async for chunk in chunks:
                await writer.write(chunk)

    async def aclose(self) -> None:
        """Close what was opened here."""
        opened, self._opened, self._stream, self._part = self._opened, None, None, None
        if opened is not None:
            await opened.__aexit__(None, None, None)

    async def _chunks(self, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of ``part``, to the end of their stream, where a source tells whether they were right."""
        stream, missing = await self._at(part), part.length
        self._stream = self._part = None
        if self._tracker is not None:
            self._tracker.span(part.first)
        async for chunk in stream:
            missing -= len(chunk)
            if missing < 0:
                raise SourceFailed("longer than announced")
            if self._tracker is not None:
                self._tracker.check()
                self._tracker.sent(len(chunk))
            yield chunk
        if missing:
            raise SourceFailed(f"ended {missing} bytes early")

    async def _at(self, part: ByteRange) -> SourceStream:
        if self._stream is not None and self._part == part:
            return self._stream
        await self.aclose()
        opened = self._open(self._part_of(part))
        stream = await opened.__aenter__()
        self._opened, self._stream, self._part = opened, stream, part
        if (stream.info.size_bytes, stream.info.validator) != (self._size, self.info.validator):
            raise SourceChanged("another version")
        return stream

    def _part_of(self, part: ByteRange) -> SourceRequest:
        """What to ask for; nothing is said of where it ends when that is the end of all."""
        info, to_end = self.info, part.last == self._size - 1
        return replace(
            self._request,
            offset=part.first,
            length=None if to_end else part.length,
            validator=info.validator if info.strong else None,
            unproven=not info.strong,
        )


async def look(source: Source, request: SourceRequest, *, lanes: Lanes) -> SourceInfo:
    """What is known of a source without reading it; raises as ``Source.probe`` does."""
    await source.check(request.url, request.client)
    async with lanes.enter(source.lane(request.url)):
        return await source.probe(request)


def single_tag(info: SourceInfo, name: str) -> str | None:
    """32 hex digits that stand for a source's bytes under a name, None where nothing proves its version.

    The source's own tag is not told: on some servers it is made of what is nobody's business (inodes).
    """
    if not info.strong:
        return None
    return hashlib.sha256(f"{info.validator}\n{info.size_bytes}\n{name}".encode("utf-8", "replace")).hexdigest()[:32]
