"""The files of one download in order: small ones are fetched ahead, large ones opened when it is their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gateway_archive.lanes import Lanes
from gateway_core.sources.base import Source, SourceInfo, SourceRequest
from gateway_core.sources.resume import ResumePolicy, ResumingReader

SMALL_BYTES = 1 << 20
"""A file up to this size is fetched whole before its entry begins."""


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
    ahead stay within ``ahead_bytes``, requests under way within ``ahead_items``.
    """

    def __init__(self, source: Source, requests: Sequence[SourceRequest], *, lanes: Lanes, limits: FeedLimits) -> None:
        self._source, self._requests, self._lanes, self._limits = source, requests, lanes, limits
        self._policy = ResumePolicy(tries=limits.resume_tries)
        self._small = min(SMALL_BYTES, limits.ahead_bytes)
        self._tasks: dict[int, asyncio.Task[Whole | None]] = {}
        self._held: dict[int, int] = {}
        self._next = 0
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
        """Whether ``take`` would return at once."""
        task = self._tasks.get(index)
        return task is not None and task.done()

    async def take(self, index: int) -> Whole | None:
        """The file if it is small, None if it must be streamed; raises SourceError when it cannot be had."""
        self._next = max(self._next, index)
        if index not in self._tasks:
            self._start(index)
        self._fill()
        try:
            return await self._tasks[index]
        finally:
            self._tasks.pop(index, None)
            self._held.pop(index, None)
            self._fill()

    @asynccontextmanager
    async def stream(self, index: int) -> AsyncIterator[ResumingReader]:
        """Open a file as its owner, who must still be allowed to; raises SourceError."""
        request = self._requests[index]
        await self._source.check(request.url, request.client)
        async with (
            self._lanes.enter(self._source.lane(request.url)),
            ResumingReader(self._source, request, policy=self._policy) as reader,
        ):
            yield reader

    def _fill(self) -> None:
        """Start what the limits allow, in order."""
        limits = self._limits
        while (
            not self._closed
            and self._next < len(self._requests)
            and self._running < limits.ahead_items
            and sum(self._held.values()) + self._small <= limits.ahead_bytes
        ):
            if self._next not in self._tasks:
                self._start(self._next)
            else:
                self._next += 1

    def _start(self, index: int) -> None:
        self._running += 1
        self._held[index] = self._small
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
            self._held[index] = held
            self._fill()

    async def _read(self, index: int) -> Whole | None:
        """Read a small file whole; a large one is left alone, because an open connection would die while it waits."""
        async with self.stream(index) as reader:
            size = reader.info.size_bytes
            if size is not None and size > self._small:
                return None
            chunks, total = [], 0
            async for chunk in reader:
                chunks.append(chunk)
                total += len(chunk)
                if total > self._small:
                    return None
            return Whole(reader.info, chunks[0] if len(chunks) == 1 else b"".join(chunks))
