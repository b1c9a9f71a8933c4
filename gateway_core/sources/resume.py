"""Reading a source to its end over connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import Self

from gateway_core.errors import SourceChanged, SourceError, SourceRefused
from gateway_core.sources.base import Source, SourceInfo, SourceRequest, SourceStream

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """How often a source is opened again in all, and the pause before: doubled each time, up to ``longest_s``.

    A pause is shortened by up to half at random, so that those whom one server dropped do not come back together.
    """

    tries: int = 5
    first_s: float = 0.2
    longest_s: float = 5

    def pause_s(self, attempt: int) -> float:
        """Seconds before the ``attempt``-th try, counted from 0."""
        return min(self.longest_s, self.first_s * 2.0**attempt) * _random.uniform(0.5, 1)


class ResumingReader:
    """A ``SourceStream`` of any source that goes on where it broke off; an async context manager.

    It ends after ``request.length`` bytes, whatever else the source sends, and asks again only for what is missing.

    The first opening is not repeated. After that a failure, stall or refusing status is answered by opening the
    source again at the byte that is missing, for the same version; without a strong validator nothing proves that it
    is the same, and the error is raised at once. SourceChanged and SourceRefused are final; when all tries are used
    up, the last error is raised. ``resumed`` counts the openings that worked.
    """

    def __init__(self, source: Source, request: SourceRequest, *, policy: ResumePolicy | None = None) -> None:
        self._source = source
        self._request = request
        self._policy = policy or ResumePolicy()
        self._attempts = 0
        self._opened: AbstractAsyncContextManager[SourceStream] | None = None
        self._left = request.length
        """Bytes still wanted; None for all."""
        self.resumed = 0

    async def __aenter__(self) -> Self:
        self.info: SourceInfo = await self._open(self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while self._left != 0:
            try:
                chunk = await anext(self._chunks)
            except (SourceChanged, SourceRefused):
                raise
            except SourceError as error:
                await self._resume(error)
            else:
                if self._left is not None:
                    chunk = chunk[: self._left]
                    self._left -= len(chunk)
                self._position += len(chunk)
                return chunk
        raise StopAsyncIteration

    async def _open(self, request: SourceRequest) -> SourceInfo:
        opened = self._source.open(request)
        stream = await opened.__aenter__()
        self._opened = opened
        self._chunks: AsyncIterator[bytes] = aiter(stream)
        self._position = request.offset
        return stream.info

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.__aexit__(None, None, None)

    async def _resume(self, error: SourceError) -> None:
        await self._close()
        if not self.info.strong:
            raise error
        request = replace(self._request, offset=self._position, length=self._left, validator=self.info.validator)
        while self._attempts < self._policy.tries:
            await asyncio.sleep(self._policy.pause_s(self._attempts))
            self._attempts += 1
            try:
                info = await self._open(request)
            except (SourceChanged, SourceRefused):
                raise
            except SourceError as again:
                error = again
                continue
            if info.size_bytes != self.info.size_bytes:
                raise SourceChanged("another size")
            self.resumed += 1
            return
        raise error
