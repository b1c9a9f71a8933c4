"""Server-sent events (HTML standard 9.2): one event at a time, alive through proxies, ended by the drain."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from gateway_core.http.stream import ResponseWriter, open_response

KEEPALIVE_S = 15.0
"""A comment is sent when there was nothing to say for this long, so that proxies and readers see a live stream."""

T = TypeVar("T")

_KEEPALIVE = b": keep-alive\n\n"
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: ``data`` of any lines, the ``event`` name (the browser's default is message), ``id`` for resuming.

    ``retry_ms`` tells the browser how long to wait before it connects again.
    """

    data: str
    event: str | None = None
    id: str | None = None
    retry_ms: int | None = None

    def __post_init__(self) -> None:
        if any(_LINE_END.search(text) for text in (self.event or "", self.id or "")) or "\0" in (self.id or ""):
            raise ValueError("an event's name and id are one line, an id without NUL")

    def encode(self) -> bytes:
        """The event's lines and the empty one that ends it."""
        lines = [f"event: {self.event}"] if self.event else []
        lines += [f"id: {self.id}"] if self.id is not None else []
        lines += [f"retry: {self.retry_ms}"] if self.retry_ms is not None else []
        lines += [f"data: {line}" for line in _LINE_END.split(self.data)]
        return "\n".join([*lines, "", ""]).encode()


async def send_events(
    request: web.BaseRequest,
    events: AsyncGenerator[ServerEvent, None],
    *,
    draining: asyncio.Event,
    keepalive_s: float = KEEPALIVE_S,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Answer with ``events`` until they end or ``draining`` is set; browsers then connect again.

    Nothing is queued: the next event is asked for when the client has taken the one before. ``events`` is closed in
    every case. Raises ClientGone, noticed at the next event or comment, and whatever ``events`` raises, after a cut.
    """
    response = web.StreamResponse(headers={**_HEADERS, **(headers or {})})
    async with aclosing(events), open_response(request, response) as writer:
        if request.method != "HEAD":
            async with _ending(asyncio.create_task(draining.wait())) as drained:
                await _relay(events, writer, drained, keepalive_s=keepalive_s)
    return response


async def _relay(
    events: AsyncGenerator[ServerEvent, None], writer: ResponseWriter, drained: asyncio.Task[Any], *, keepalive_s: float
) -> None:
    """Write events as they come and comments in between, until they end or ``drained`` is done."""
    while True:
        async with _ending(asyncio.create_task(_next(events))) as following:
            while not following.done():
                await asyncio.wait({following, drained}, timeout=keepalive_s, return_when=asyncio.FIRST_COMPLETED)
                if drained.done():
                    return
                if not following.done():
                    await writer.write(_KEEPALIVE)
            event = following.result()
        if event is None:
            return
        await writer.write(event.encode())


async def _next(events: AsyncGenerator[ServerEvent, None]) -> ServerEvent | None:
    return await anext(events, None)


@asynccontextmanager
async def _ending(task: asyncio.Task[T]) -> AsyncIterator[asyncio.Task[T]]:
    """Own ``task``: on leaving it is cancelled and has ended."""
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
