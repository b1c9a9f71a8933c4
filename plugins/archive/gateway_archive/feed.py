"""The files of one download in order: small ones are fetched ahead, large ones opened when it is their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gateway_archive.lanes import Lane, Lanes
from gateway_core.sources.base import Source, SourceInfo, SourceRequest
from gateway_core.sources.resume import ResumePolicy, ResumingReader

SMALL_BYTES = 1 << 20
"""A file up to this size is fetched whole before its entry begins."""

_HORIZON = 1024
"""Files looked at ahead: without an end, those held may be many although they are small."""


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """How far ahead a download may fetch, and how often a source is continued."""

    ahead_items: int = 8
    ahead_bytes: int = 16 << 20
    resume_tries: int = 5


@dataclass(frozen=True, slots=True)
class Whole:
    """A small file, complete."""

    info: SourceInfo
    data: bytes


class Feed:
    """Fetches the requests of one download; an async context manager that leaves no connection behind.

    For each index in order: ``await take(index)``, then ``async with stream(index)`` where that gave None. Bytes held
    ahead stay within ``ahead_bytes``, requests under way within ``ahead_items``. A file of which ``large`` says that it
    is over ``SMALL_BYTES`` is never opened ahead.
    """

    def __init__(
        self,
        source: Source,
        requests: Sequence[SourceRequest],
        *,
        lanes: Lanes,
        limits: FeedLimits,
        large: Callable[[int], bool] | None = None,
    ) -> None:
        self._source, self._requests, self._lanes, self._limits = source, requests, lanes, limits
        self._large = large or _unknown
        self._policy = ResumePolicy(tries=limits.resume_tries)
        self._small = min(SMALL_BYTES, limits.ahead_bytes)
        self._tasks: dict[int, asyncio.Task[Whole | None]] = {}
        self._held: dict[int, int] = {}
        self._held_bytes = 0
        self._next = self._horizon = 0
        self._running = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True  # what ends now makes no room for others
        tasks = [task for task in self._tasks.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in self._tasks.values():
            if not task.cancelled():
                task.exception()  # seen, so that the loop does not report it
        self._tasks.clear()

    def ready(self, index: int) -> bool:
        """Whether ``take`` would return at once with what was fetched; never so of a file known to be large."""
        task = self._tasks.get(index)
        return task is not None and task.done()

    async def take(self, index: int) -> Whole | None:
        """The file if it is small, None if it must be streamed; raises SourceError when it cannot be had."""
        self._next, self._horizon = max(self._next, index), index + _HORIZON
        if self._large(index):
            self._fill()
            return None
        if index not in self._tasks:
            self._start(index)
        self._fill()
        try:
            return await self._tasks[index]
        finally:
            self._tasks.pop(index, None)
            self._hold(index, 0)
            self._fill()

    @asynccontextmanager
    async def stream(self, index: int) -> AsyncIterator[ResumingReader]:
        """Open a file as its owner, who must still be allowed to; raises SourceError."""
        request = self._requests[index]
        async with await self._place(request), ResumingReader(self._source, request, policy=self._policy) as reader:
            yield reader

    async def _place(self, request: SourceRequest) -> Lane:
        """Of its lane, to be entered at once, where its owner may still fetch it; raises SourceRefused."""
        await self._source.check(request.url, request.client)
        return self._lanes.enter(self._source.lane(request.url))

    def _fill(self) -> None:
        """Start what the limits allow, in order."""
        limits = self._limits
        while (
            self._running < limits.ahead_items
            and self._next < min(self._horizon, len(self._requests))
            and self._held_bytes + self._small <= limits.ahead_bytes
            and not self._closed
        ):
            if self._next in self._tasks or self._large(self._next):
                self._next += 1
            else:
                self._start(self._next)

    def _start(self, index: int) -> None:
        self._running += 1
        self._hold(index, self._small)
        self._next = max(self._next, index + 1)
        self._tasks[index] = asyncio.get_running_loop().create_task(self._fetch(index))

    async def _fetch(self, index: int) -> Whole | None:
        """Read a file, keep to the limits what is held of it, and let others begin."""
        held = 0
        try:
            whole = await self._read(index)
            held = len(whole.data) if whole is not None else 0
            return whole
        finally:
            self._running -= 1
            self._hold(index, held)
            self._fill()

    def _hold(self, index: int, size: int) -> None:
        """So many bytes are held of a file now, or may be soon."""
        self._held_bytes += size - self._held.pop(index, 0)
        if size:
            self._held[index] = size

    async def _read(self, index: int) -> Whole | None:
        """Read a small file whole; a large one is left alone, because an open connection would die while it waits."""
        request = self._requests[index]
        async with await self._place(request), ResumingReader(self._source, request, policy=self._policy) as reader:
            if _expected(request, reader.info) > self._small:
                return None
            chunks, total = [], 0
            async for chunk in reader:
                chunks.append(chunk)
                total += len(chunk)
                if total > self._small:
                    return None
            return Whole(reader.info, chunks[0] if len(chunks) == 1 else b"".join(chunks))


def _unknown(index: int) -> bool:
    del index
    return False


def _expected(request: SourceRequest, info: SourceInfo) -> int:
    """Bytes that will come; 0 where nobody knows."""
    rest = None if info.size_bytes is None else info.size_bytes - request.offset
    return min((size for size in (request.length, rest) if size is not None), default=0)
