"""A call from the other side: a stream that it opened, and its answer from here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from gateway_core.observe.logs import get_logger
from gateway_pipe.link import messages
from gateway_pipe.link.frames import Type
from gateway_pipe.link.model import Body, Head, LinkError, Opening, Reset, Serve
from gateway_pipe.link.stream import Stream

log = get_logger("gateway.pipe")
_NOT_READ = messages.reset_payload(Reset.CANCEL, "answered without the rest", None)


class _Streams(Protocol):
    def reset(self, stream: Stream, code: Reset, reason: str = "", *, retry_after_s: float | None = None) -> None: ...


class Served:
    """What the serving function gets: see ``model.Incoming``."""

    __slots__ = ("_answered", "_deadline", "_peer", "_stream", "_streams", "opening")

    def __init__(self, streams: _Streams, stream: Stream, opening: Opening, *, peer: str) -> None:
        self.opening = opening
        self._streams = streams
        self._peer = peer
        self._stream = stream
        self._answered = False
        self._deadline: float | None = None
        if opening.timeout_ms is not None:
            self._deadline = asyncio.get_running_loop().time() + opening.timeout_ms / 1000

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The request's body, chunk by chunk."""
        return self._stream.__aiter__()

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body; raises TooLarge beyond the limit."""
        return await self._stream.read(limit_bytes)

    def time_left_s(self) -> float | None:
        """What is left of the caller's time, never below 0; None without a limit."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def answer(self, head: Head, body: Body = b"") -> None:
        """Send the answer; see ``model.Incoming``."""
        if self._answered:
            raise RuntimeError("a stream is answered once")
        stream = self._stream
        if stream.error is not None:
            raise stream.error
        payload = messages.head_payload(head)
        self._answered = True
        stream.begin(Type.HEAD, payload)
        if isinstance(body, bytes):
            stream.put(body)
            return
        try:
            async for data in body:
                await stream.write(data)
        except BaseException:
            self._streams.reset(stream, Reset.INTERNAL, "the answer broke")
            raise
        stream.put(b"")

    async def refuse(self, code: Reset, reason: str, *, retry_after_s: float | None = None) -> None:
        """Break the stream off instead of an answer."""
        self._answered = True
        self._streams.reset(self._stream, code, reason, retry_after_s=retry_after_s)

    async def run(self, serve: Serve) -> None:
        """Have ``serve`` answer, and see to it that the stream ends whatever happens; never raises."""
        try:
            await serve(self)
            if not self._answered:
                self._streams.reset(self._stream, Reset.INTERNAL, "no answer")
        except asyncio.CancelledError:
            self._streams.reset(self._stream, Reset.CANCEL, "cancelled")
        except LinkError:
            self._streams.reset(self._stream, Reset.INTERNAL, "broken off")
        except Exception:
            log.exception("a call could not be answered", peer=self._peer, target=self.opening.target[:200])
            self._streams.reset(self._stream, Reset.INTERNAL, "internal error")
        finally:
            if self._stream.error is None:
                self._stream.stop_receiving(_NOT_READ)
