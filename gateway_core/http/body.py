"""The request body: limited in size, held to a pace, checked to its end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aiohttp import web

from gateway_core.errors import BadRequest, RequestTimeout, TooLarge
from gateway_core.http.gone import ClientGone


class BodyCheck(Protocol):
    """Proof of a body that is only known at its end, such as an HMAC over it."""

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""

    def finish(self) -> None:
        """The body has ended; raises when it does not match."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large a body may be, and how slow.

    ``max_bytes`` is None for no limit. After ``grace_s`` of waiting for the client, any ``window_s`` of waiting must
    bring ``min_bytes_per_s * window_s`` bytes; time in which the gateway itself is busy does not count.
    """

    max_bytes: int | None = 1024 * 1024
    grace_s: float = 10.0
    window_s: float = 30.0
    min_bytes_per_s: float = 1024.0


BODY_CHECK = web.RequestKey[BodyCheck]("BODY_CHECK")
"""Set by authentication where a scheme covers the body; ``body`` feeds and finishes it."""

BODY_LIMITS = web.RequestKey[BodyLimits]("BODY_LIMITS")
"""The route's limits; ``body`` takes them where its caller gives none."""

_TAKEN = web.RequestKey[bool]("_TAKEN")


async def body(request: web.BaseRequest, limits: BodyLimits | None = None) -> AsyncGenerator[bytes, None]:
    """Chunks of the body as they come, never empty; can be read once.

    Ends normally only when the body is whole and its check, if BODY_CHECK is set, agrees; so nothing made of it may be
    shown before. Raises TooLarge (at once where Content-Length tells), RequestTimeout for a client below the pace,
    ClientGone, BadRequest for content that cannot be decoded, and whatever the check raises. Chunked coding that breaks
    in the middle ends in RequestTimeout: aiohttp's parser tells nobody who is reading.
    """
    limits = limits or request.get(BODY_LIMITS) or BodyLimits()
    if request.get(_TAKEN):
        raise RuntimeError("the body has been read already")
    request[_TAKEN] = True
    check = request.get(BODY_CHECK)
    _refuse_over(limits, request.content_length or 0)
    pace, received = _Pace(limits), 0
    while chunk := await _next_chunk(request, pace, received):
        received += len(chunk)
        _refuse_over(limits, received)
        if check is not None:
            check.update(chunk)
        yield chunk
    if check is not None:
        check.finish()


async def read_body(request: web.BaseRequest, limits: BodyLimits | None = None) -> bytes:
    """The whole body; raises as ``body`` does."""
    return b"".join([chunk async for chunk in body(request, limits)])


def _refuse_over(limits: BodyLimits, size: int) -> None:
    if limits.max_bytes is not None and size > limits.max_bytes:
        raise TooLarge(f"the body has {size} bytes or more, max_body_bytes is {limits.max_bytes}")


async def _next_chunk(request: web.BaseRequest, pace: _Pace, received: int) -> bytes:
    """Whatever has arrived, waiting for it as long as the pace allows; empty at the end of the body."""
    content = request.content
    try:
        if content.total_bytes > received or content.is_eof():  # no wait, so no timer
            chunk = await content.readany()
        else:
            chunk = await pace.wait(content.readany)
    except web.RequestPayloadError as error:
        raise BadRequest(f"broken request body: {error}") from error
    except OSError as error:
        raise ClientGone("closed before the end of its request body") from error
    pace.arrived(len(chunk))
    return chunk


class _Arrival(NamedTuple):
    opened_s: float
    last_s: float
    total: int


class _Pace:
    """Judges any window of the time waited for the client, with one timer while it waits and none while bytes flow."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._needed = limits.min_bytes_per_s * limits.window_s
        self._waited_s = 0.0
        self._total = 0
        self._arrivals: deque[_Arrival] = deque()

    def arrived(self, count: int) -> None:
        """Note ``count`` bytes; keeps only what the open windows can see, in steps of a 30th of a window."""
        self._total += count
        now = opened = self._waited_s
        if self._arrivals and now - self._arrivals[-1].opened_s < self._limits.window_s / 30:
            opened = self._arrivals.pop().opened_s
        self._arrivals.append(_Arrival(opened, now, self._total))
        while len(self._arrivals) > 1 and self._arrivals[0].total <= self._total - self._needed:
            self._arrivals.popleft()

    async def wait(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Await ``read``; raises RequestTimeout at the end of the first window that has brought too little."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(self._patience_s()) as timer:
                return await read()
        except TimeoutError as error:
            if not timer.expired():  # the connection's own ETIMEDOUT
                raise
            raise RequestTimeout(f"fewer than {self._needed:.0f} bytes in {self._limits.window_s:g} s") from error
        finally:
            self._waited_s += clock() - started

    def _patience_s(self) -> float | None:
        """Seconds until the first window fails if nothing more comes.

        With no more bytes, the first window to bring too little opens when the total first exceeded all but the needed
        bytes: what came before does not count for it, and what came since is not enough.
        """
        if self._needed <= 0:
            return None
        opens_s = self._arrivals[0].last_s if self._total >= self._needed else 0.0
        return max(self._limits.grace_s, opens_s) + self._limits.window_s - self._waited_s
