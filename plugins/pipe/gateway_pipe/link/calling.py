"""A call from this side: a stream that is opened, and the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Protocol

from gateway_pipe.link.model import Body, DeadlinePassed, Head, LinkError, Opening, Reset, StreamReset
from gateway_pipe.link.stream import Stream

_BODY_ENDS_S = 5.0


class _Opener(Protocol):
    def open_stream(self, opening: Opening, timeout_ms: int | None) -> Stream: ...

    def reset(self, stream: Stream, code: Reset, reason: str = "") -> None: ...


class Answer:
    """The answer of a call: ``head``, and its body by iterating or ``read``."""

    __slots__ = ("_stream", "head")

    def __init__(self, stream: Stream, head: Head) -> None:
        self._stream = stream
        self.head = head

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks as they come, never empty; raises LinkLost, StreamReset or DeadlinePassed where it breaks."""
        return self._stream.__aiter__()

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body; raises TooLarge beyond the limit, and what iterating raises."""
        return await self._stream.read(limit_bytes)

    @property
    def received(self) -> bool:
        """Whether all of it has come, so that reading does not wait."""
        return self._stream.received


class Call:
    """``async with`` gives the Answer; made by ``Link.call``."""

    __slots__ = ("_body", "_feeder", "_link", "_opening", "_stream", "_timeout_s", "_timer", "_whole")

    def __init__(self, link: _Opener, opening: Opening, body: Body, *, timeout_s: float | None, whole: bool) -> None:
        self._link = link
        self._opening = opening
        self._body = body
        self._timeout_s = timeout_s
        self._whole = whole
        self._timer: asyncio.TimerHandle | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._stream: Stream

    async def __aenter__(self) -> Answer:
        loop = asyncio.get_running_loop()
        timeout_ms = self._opening.timeout_ms
        if self._whole and self._timeout_s is not None:
            timeout_ms = int(self._timeout_s * 1000)
        stream = self._stream = self._link.open_stream(self._opening, timeout_ms)
        head = stream.head = loop.create_future()
        if self._timeout_s is not None:
            self._timer = loop.call_later(self._timeout_s, self._expire)
        if isinstance(self._body, bytes):
            stream.put(self._body)
        else:
            self._feeder = loop.create_task(self._feed(self._body))
        try:
            answer = Answer(stream, await head)
        except BaseException:
            await self._leave()
            raise
        if self._timer is not None and not self._whole:
            self._timer.cancel()
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stream.complete:
            self._link.reset(self._stream, Reset.CANCEL)
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait({self._feeder}, timeout=_BODY_ENDS_S)

    def _expire(self) -> None:
        if self._stream.received:
            return
        error = DeadlinePassed(f"no {'whole ' if self._whole else ''}answer within {self._timeout_s:g} s")
        self._stream.fail(error)
        self._link.reset(self._stream, Reset.DEADLINE, error.detail)

    async def _feed(self, body: AsyncIterable[bytes]) -> None:
        """Send the body as it comes. Its own failure is the call's."""
        stream = self._stream
        try:
            async for data in body:
                await stream.write(data)
            stream.put(b"")
        except asyncio.CancelledError:
            self._broke(StreamReset(Reset.CANCEL, "the request's body was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it leaves the call through the stream
            self._broke(error)

    def _broke(self, error: Exception) -> None:
        """The body has; an answer that came without all of it, because nobody reads that, is whole."""
        if not (isinstance(error, LinkError) and self._stream.received):
            self._stream.fail(error)
            self._link.reset(self._stream, Reset.CANCEL, "the request's body broke")
